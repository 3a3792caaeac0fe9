/* AMX and bf16: 32 output frames x 32 inputs with 32 inputs x 32 outputs at a time. */
#include "conv1d.h"

#ifdef CRESS_AMX
#include <immintrin.h>
#include <string.h>

#include "conv1d_write.h"

#define TARGET __attribute__((target(AVX512_BASE ",avx512bf16,amx-tile,amx-bf16")))
#define INLINE TARGET static inline __attribute__((always_inline))
enum { ROW = 64, ROWS = 16 };

struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

TARGET static void configure(void)
{
    struct tile_config config;
    memset(&config, 0, sizeof config);
    config.palette = 1;
    for (int i = 0; i < 8; i++) {
        config.row_bytes[i] = ROW;
        config.rows[i] = ROWS;
    }
    _tile_loadconfig(&config);
}

/* The input */

INLINE void split_16(const float *x, uint16_t *high, uint16_t *low, __mmask16 mask)
{
    __m512 whole = _mm512_maskz_loadu_ps(mask, x);
    __m256i upper = (__m256i)_mm512_cvtneps_pbh(whole);
    _mm256_mask_storeu_epi16(high, mask, upper);
    if (low == high)
        return;
    __m512 exact = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(upper), 16));
    __m256i lower = (__m256i)_mm512_cvtneps_pbh(_mm512_sub_ps(whole, exact));
    _mm256_mask_storeu_epi16(low, mask, lower);
}

TARGET static void split(const float *x, uint16_t *high, uint16_t *low, int64_t count)
{
    int64_t j = 0;
    for (; j + 16 <= count; j += 16)
        split_16(x + j, high + j, low == high ? high + j : low + j, 0xffff);
    if (j < count)
        split_16(x + j, high + j, low == high ? high + j : low + j,
                 (__mmask16)((1u << (count - j)) - 1));
}

static void clear(const struct conv1d_scratch *scratch, int64_t first, int64_t end)
{
    if (end <= first)
        return;
    memset(scratch->high + first, 0, (size_t)(end - first) * sizeof *scratch->high);
    memset(scratch->low + first, 0, (size_t)(end - first) * sizeof *scratch->low);
}

/* The input of output frames first .. first + count (a multiple of 32), as a hi/lo split; zeros
 * outside of the utterance. */
TARGET static void split_frames(const struct conv1d *w, int64_t utterance, int64_t group,
                                int64_t first, int64_t count,
                                const struct conv1d_scratch *scratch)
{
    int64_t channels = w->channels, start = first * w->stride - w->padding;
    int64_t frames = (count - 1) * w->stride + w->kernel_size;
    int64_t before = start < 0 ? -start : 0, end = w->frames - start;
    end = end < before ? before : end < frames ? end : frames;
    before = before < end ? before : end;
    clear(scratch, 0, before * channels);
    clear(scratch, end * channels, frames * channels + STEP_IN);
    const float *x = w->x + utterance * w->x_batch_stride + group * channels;
    if (w->x_stride == channels) {
        split(x + (start + before) * channels, scratch->high + before * channels,
              scratch->low + before * channels, (end - before) * channels);
        return;
    }
    for (int64_t frame = before; frame < end; frame++)
        split(x + (start + frame) * w->x_stride, scratch->high + frame * channels,
              scratch->low + frame * channels, channels);
}

/* The weights */

/* 32 numbers of type ``type`` as bf16, and what bf16 leaves of fp16 ones. */
INLINE void expand_32(const void *weights, int64_t j, int type, uint16_t *high, uint16_t *low)
{
    __m512 first, second;
    if (type == WEIGHT_BF16) {
        _mm512_store_si512(high, _mm512_loadu_si512((const uint16_t *)weights + j));
        return;
    }
    if (type == WEIGHT_INT8) {
        const int8_t *q = (const int8_t *)weights + j;
        __m128i left = _mm_loadu_si128((const __m128i *)q);
        __m128i right = _mm_loadu_si128((const __m128i *)(q + 16));
        first = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(left));
        second = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(right));
    } else {
        const uint16_t *halves = (const uint16_t *)weights + j;
        first = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)halves));
        second = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(halves + 16)));
    }
    __m512i upper = (__m512i)_mm512_cvtne2ps_pbh(second, first);
    _mm512_store_si512(high, upper);
    if (type != WEIGHT_FP16)
        return;
    __m512i left = _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_castsi512_si256(upper)), 16);
    __m512i right =
        _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(upper, 1)), 16);
    first = _mm512_sub_ps(first, _mm512_castsi512_ps(left));
    second = _mm512_sub_ps(second, _mm512_castsi512_ps(right));
    _mm512_store_si512(low, (__m512i)_mm512_cvtne2ps_pbh(second, first));
}

TARGET static void expand(const void *weights, int64_t first, int64_t count, int type,
                          uint16_t *high, uint16_t *low)
{
    for (int64_t j = 0; j < count; j += 32)
        if (type == WEIGHT_INT8)
            expand_32(weights, first + j, WEIGHT_INT8, high + j, low);
        else if (type == WEIGHT_BF16)
            expand_32(weights, first + j, WEIGHT_BF16, high + j, low);
        else
            expand_32(weights, first + j, WEIGHT_FP16, high + j, low + j);
}

/* The product */

/* Adds 32 output frames times two tiles of outputs to the sums: registers 0-3, frames before
 * outputs. */
INLINE void multiply(const uint16_t *num_parts, int64_t below, int64_t row_bytes,
                     const uint16_t *weights, int64_t next, int64_t steps)
{
    for (int64_t k = 0; k < steps; k++) {
        _tile_loadd(6, weights + k * BLOCK, ROW);
        _tile_loadd(4, num_parts + k * STEP_IN, row_bytes);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, weights + next + k * BLOCK, ROW);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, num_parts + below + k * STEP_IN, row_bytes);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
}

/* The same with both parts of the input: weights are loaded once for both. */
INLINE void multiply_both(const uint16_t *high, const uint16_t *low, int64_t below,
                          int64_t row_bytes, const uint16_t *weights, int64_t next, int64_t steps)
{
    for (int64_t k = 0; k < steps; k++) {
        _tile_loadd(6, weights + k * BLOCK, ROW);
        _tile_loadd(4, high + k * STEP_IN, row_bytes);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, weights + next + k * BLOCK, ROW);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, high + below + k * STEP_IN, row_bytes);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
        _tile_loadd(4, low + k * STEP_IN, row_bytes);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, low + below + k * STEP_IN, row_bytes);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
}

TARGET void conv1d_amx(const struct conv1d *w, int64_t utterance, int64_t group, int64_t first,
                        int64_t count, int64_t first_tile, int64_t end_tile,
                        const struct conv1d_scratch *scratch)
{
    int64_t steps = conv1d_steps(w), padded = (count + 2 * ROWS - 1) / (2 * ROWS) * (2 * ROWS);
    int64_t row = w->stride * w->channels, row_bytes = row * (int64_t)sizeof(uint16_t);
    const uint16_t *high = scratch->high, *low = scratch->low;
    float *sums = scratch->sums;
    split_frames(w, utterance, group, first, padded, scratch);
    configure();
    for (int64_t tile = first_tile, now; tile < end_tile; tile += now) {
        /* Where the second tile is missing, the first is taken twice. */
        now = end_tile - tile >= 2 ? 2 : 1;
        int64_t next = now == 2 ? steps * BLOCK : 0;
        expand(w->weights, (group * conv1d_out_tiles(w) + tile) * steps * BLOCK,
               now * steps * BLOCK, w->weight_type, scratch->weights, scratch->weights_low);
        for (int64_t r = 0; r < count; r += 2 * ROWS) {
            _tile_zero(0);
            _tile_zero(1);
            _tile_zero(2);
            _tile_zero(3);
            if (w->num_parts == 2)
                multiply_both(high + r * row, low + r * row, ROWS * row, row_bytes,
                              scratch->weights, next, steps);
            else
                multiply(high + r * row, ROWS * row, row_bytes, scratch->weights, next, steps);
            if (w->weight_type == WEIGHT_FP16)
                multiply(high + r * row, ROWS * row, row_bytes, scratch->weights_low, next, steps);
            _tile_stored(0, sums, ACROSS * 4);
            _tile_stored(1, sums + TILE_OUT, ACROSS * 4);
            _tile_stored(2, sums + ROWS * ACROSS, ACROSS * 4);
            _tile_stored(3, sums + ROWS * ACROSS + TILE_OUT, ACROSS * 4);
            int64_t rows = count - r < 2 * ROWS ? count - r : 2 * ROWS;
            write(w, utterance, group, first + r, rows, tile, (int)now, sums);
        }
    }
    _tile_release();
}
#endif
