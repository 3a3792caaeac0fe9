/* AVX-512: int8 weights by vpdpbusd, as exactly as float32 would; other weights in float32.
 *
 * For vpdpbusd a frame (of a group) becomes q, integers of 24 bits split into three bytes
 * with a scale of its own, so that an output depends on its own input frames alone; where two parts
 * are asked for, of 16 bits.  The bytes are those of q + 2^23, all unsigned: the product with the
 * highest is too large by 128 times the sum of the weights, and its sums begin below zero by that.
 * Sums are integers within an offset, and scaled by its frame's scale after it. */
#include "conv1d.h"

#ifdef CRESS_X86
#include <immintrin.h>
#include <string.h>

#include "conv1d_write.h"

#define TARGET __attribute__((target(AVX512_BASE ",avx512vnni")))
#define INLINE TARGET static inline __attribute__((always_inline))
enum {
    LINES = 12,       /* frames times parts at a time: with two tiles, 24 sums in registers */
    FLOAT_ROWS = 8,   /* frames at a time in float32 */
    QUAD = 4 * TILE_OUT, /* weights of four inputs: an operand of vpdpbusd */
};

/* The memory of a thread: frames and two tiles of weights as they are multiplied. */
struct buffers {
    float *sums;
    void *frames, *weights;
    float *scales;    /* of each frame; q only */
    int32_t *starts; /* kernel_size x ACROSS: what the sums of the highest bytes begin with; q only */
};

static int split_parts(const struct conv1d *w)
{
    return w->num_parts == 2 ? 3 : 2;
}

static int64_t rounded(int64_t value, int64_t to)
{
    return (value + to - 1) / to * to;
}

/* Output frames that are multiplied at a time. */
static int rows_at_once(const struct conv1d *w)
{
    return conv1d_in_integers(w) ? LINES / split_parts(w) : FLOAT_ROWS;
}

/* Bytes for ``count`` output frames at a time; where ``memory`` is not NULL, the parts of it. */
static size_t divide(const struct conv1d *w, int64_t count, char *memory, struct buffers *buffers)
{
    int quantized = conv1d_in_integers(w);
    int64_t frames = (rounded(count, rows_at_once(w)) - 1) * w->stride + w->kernel_size;
    int64_t number = quantized ? split_parts(w) : (int64_t)sizeof(float);
    int64_t sizes[] = {
        FLOAT_ROWS * ACROSS * (int64_t)sizeof(float),
        rounded(frames * w->channels * number, 64),
        2 * conv1d_steps(w) * BLOCK * (quantized ? 1 : (int64_t)sizeof(float)),
        quantized ? rounded(frames * (int64_t)sizeof(float), 64) : 0,
        quantized ? w->kernel_size * ACROSS * (int64_t)sizeof(int32_t) : 0,
    };
    char *parts[sizeof sizes / sizeof *sizes];
    int64_t total = 0;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; total += sizes[i++])
        parts[i] = memory ? memory + total : NULL;
    *buffers = (struct buffers){(float *)parts[0], parts[1], parts[2], (float *)parts[3],
                                (int32_t *)parts[4]};
    return (size_t)total;
}

size_t conv1d_avx512_bytes(const struct conv1d *w, int64_t count)
{
    struct buffers unused;
    return divide(w, count, NULL, &unused);
}

INLINE __mmask16 first_lanes(int64_t count)
{
    return count >= 16 ? 0xffff : (__mmask16)((1u << count) - 1);
}

/* Frames of float32 */

/* Infinity becomes NaN, as it does where it is split into parts. */
TARGET static void copy_frame(const float *x, int64_t channels, float *copy)
{
    for (int64_t c = 0; c < channels; c += 16) {
        __mmask16 mask = first_lanes(channels - c);
        __m512 values = _mm512_maskz_loadu_ps(mask, x + c);
        values = _mm512_add_ps(values, _mm512_sub_ps(values, values));
        _mm512_mask_storeu_ps(copy + c, mask, values);
    }
}

/* Frames of q */

INLINE float largest(const float *x, int64_t channels)
{
    __m512i most = _mm512_setzero_si512(); /* as integers NaN is above infinity */
    for (int64_t c = 0; c < channels; c += 16) {
        __m512 values = _mm512_maskz_loadu_ps(first_lanes(channels - c), x + c);
        most = _mm512_max_epi32(most, _mm512_castps_si512(_mm512_abs_ps(values)));
    }
    int32_t bits = _mm512_reduce_max_epi32(most);
    float result;
    memcpy(&result, &bits, sizeof result);
    return result;
}

/* The ``num_parts`` lowest bytes of 16 integers, the highest first, a quad of inputs after another. */
INLINE __m512i parts_by_quads(__m512i quantized, int num_parts)
{
    if (num_parts == 2) {
        __m128i high = _mm512_cvtepi32_epi8(_mm512_srli_epi32(quantized, 8));
        __m128i low = _mm512_cvtepi32_epi8(quantized);
        return _mm512_castsi256_si512(_mm256_inserti128_si256(
            _mm256_castsi128_si256(_mm_unpacklo_epi32(high, low)), _mm_unpackhi_epi32(high, low),
            1));
    }
    const __m512i order =
        _mm512_setr_epi32(0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11, 12, 13, 14, 15);
    __m512i bytes = _mm512_castsi128_si512(_mm512_cvtepi32_epi8(_mm512_srli_epi32(quantized, 16)));
    bytes = _mm512_inserti32x4(bytes, _mm512_cvtepi32_epi8(_mm512_srli_epi32(quantized, 8)), 1);
    bytes = _mm512_inserti32x4(bytes, _mm512_cvtepi32_epi8(quantized), 2);
    return _mm512_permutexvar_epi32(order, bytes);
}

/* A frame as q; NaN or infinity in it makes its scale NaN. */
INLINE void quantize_frame(const float *x, int64_t channels, int num_parts, uint8_t *bytes,
                           float *scale)
{
    /* Less than 2^23 - 1 by more than rounding can add. */
    float qmax = num_parts == 3 ? 8388592.0f : 32767.0f, peak = largest(x, channels);
    int finite = peak <= 3.402823466e38f;
    *scale = finite ? peak / qmax : peak - peak;
    float inverse = finite ? 1.0f / (*scale < 1e-32f ? 1e-32f : *scale) : 0.0f;
    for (int64_t c = 0; c < channels; c += 16) {
        int64_t left = channels - c;
        __mmask16 lanes = finite ? first_lanes(left) : 0;
        __m512 values = _mm512_maskz_loadu_ps(lanes, x + c);
        __m512i quantized = _mm512_cvtps_epi32(_mm512_mul_ps(values, _mm512_set1_ps(inverse)));
        quantized = _mm512_add_epi32(quantized, _mm512_set1_epi32(num_parts == 3 ? 1 << 23 : 1 << 15));
        __mmask16 words = first_lanes((left < 16 ? left : 16) / 4 * num_parts);
        _mm512_mask_storeu_epi32(bytes + c * num_parts, words, parts_by_quads(quantized, num_parts));
    }
}

/* The input of ``count`` output frames from ``first`` on; zeros outside of the utterance. */
TARGET static void prepare_frames(const struct conv1d *w, int64_t utterance, int64_t group,
                                  int64_t first, int64_t count, const struct buffers *buffers)
{
    int quantized = conv1d_in_integers(w), num_parts = split_parts(w);
    int64_t channels = w->channels, start = first * w->stride - w->padding;
    int64_t frames = (count - 1) * w->stride + w->kernel_size;
    int64_t size = channels * (quantized ? num_parts : (int64_t)sizeof(float));
    const float *x = w->x + utterance * w->x_batch_stride + group * channels;
    for (int64_t frame = 0; frame < frames; frame++) {
        char *place = (char *)buffers->frames + frame * size;
        const float *source = x + (start + frame) * w->x_stride;
        if (start + frame < 0 || start + frame >= w->frames) {
            memset(place, 0, (size_t)size);
            if (quantized)
                buffers->scales[frame] = 0;
        } else if (!quantized)
            copy_frame(source, channels, (float *)place);
        else if (num_parts == 3)
            quantize_frame(source, channels, 3, (uint8_t *)place, buffers->scales + frame);
        else
            quantize_frame(source, channels, 2, (uint8_t *)place, buffers->scales + frame);
    }
}

/* Weights */

/* ``count`` weights from ``first`` on as float32, inputs x 16 outputs. */
TARGET static void expand_floats(const void *weights, int64_t first, int64_t count, int type,
                                 float *floats)
{
    for (int64_t j = 0; j < count; j += 2 * TILE_OUT) {
        __m512 even, odd; /* two inputs, which are neighbours in an output's lane */
        if (type == WEIGHT_INT8) {
            const __m256i *q = (const __m256i *)((const int8_t *)weights + first + j);
            __m512i pairs = _mm512_cvtepi16_epi32(_mm256_loadu_si256(q));
            even = _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(pairs, 24), 24));
            odd = _mm512_cvtepi32_ps(_mm512_srai_epi32(pairs, 8));
        } else {
            __m512i pairs = _mm512_loadu_si512((const uint16_t *)weights + first + j);
            __m512i upper = _mm512_srli_epi32(pairs, 16);
            if (type == WEIGHT_BF16) {
                even = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
                odd = _mm512_castsi512_ps(_mm512_slli_epi32(upper, 16));
            } else {
                even = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(pairs));
                odd = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(upper));
            }
        }
        _mm512_store_ps(floats + j, even);
        _mm512_store_ps(floats + j + TILE_OUT, odd);
    }
}

/* A tile of pairs as quads: four inputs as neighbours. */
TARGET static void quads_of_pairs(const int8_t *weights, int64_t quads, int8_t *bytes)
{
    const __m512i order = _mm512_set_epi16(
        31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4,
        19, 3, 18, 2, 17, 1, 16, 0);
    for (int64_t quad = 0; quad < quads; quad++, weights += QUAD, bytes += QUAD)
        _mm512_store_si512(bytes,
                           _mm512_permutexvar_epi16(order, _mm512_loadu_si512(weights)));
}

/* 16 x 16 words of 32 bits, transposed. */
INLINE void transpose(__m512i *words)
{
    __m512i pairs[16], fours[16], eights[16];
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
        pairs[i] = _mm512_unpacklo_epi32(words[i], words[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_epi32(words[i], words[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4)
#pragma GCC unroll 2
        for (int j = 0; j < 2; j++) {
            fours[i + 2 * j] = _mm512_unpacklo_epi64(pairs[i + j], pairs[i + j + 2]);
            fours[i + 2 * j + 1] = _mm512_unpackhi_epi64(pairs[i + j], pairs[i + j + 2]);
        }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        eights[i] = _mm512_shuffle_i32x4(fours[i], fours[i + 4], 0x88);
        eights[i + 4] = _mm512_shuffle_i32x4(fours[i], fours[i + 4], 0xdd);
        eights[i + 8] = _mm512_shuffle_i32x4(fours[i + 8], fours[i + 12], 0x88);
        eights[i + 12] = _mm512_shuffle_i32x4(fours[i + 8], fours[i + 12], 0xdd);
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        words[i] = _mm512_shuffle_i32x4(eights[i], eights[i + 8], 0x88);
        words[i + 8] = _mm512_shuffle_i32x4(eights[i], eights[i + 8], 0xdd);
    }
}

/* ``rows`` (of which it takes up to 16) of ``inputs`` weights as quads.
 *
 * A large matrix comes from memory each time, and sixteen rows at once are no order in which the
 * processor would fetch ahead by itself: hence the prefetches, some tiles further on. */
TARGET static void quads_of_rows(const int8_t *weights, int64_t rows, int64_t inputs,
                                 int8_t *bytes)
{
    int64_t ahead = 8 * TILE_OUT * inputs, end = ahead + TILE_OUT * inputs;
    for (int64_t j = ahead; j < end && j < rows * inputs; j += 64)
        _mm_prefetch((const char *)weights + j, _MM_HINT_T1);
    for (int64_t j = 0; j < inputs; j += 64, bytes += 16 * QUAD) {
        int64_t left = inputs - j, quads = left < 64 ? left / 4 : 16;
        __mmask16 mask = first_lanes(quads);
        __m512i words[16];
#pragma GCC unroll 16
        for (int r = 0; r < 16; r++)
            words[r] = _mm512_maskz_loadu_epi32(r < rows ? mask : 0, weights + r * inputs + j);
        transpose(words);
#pragma GCC unroll 16
        for (int q = 0; q < 16; q++)
            if (q < quads)
                _mm512_store_si512(bytes + q * QUAD, words[q]);
    }
}

/* -128 times the sums of a tile's weights, an offset after another. */
TARGET static void sum_quads(const int8_t *bytes, int64_t kernel_size, int64_t quads, int32_t *starts)
{
    for (int64_t offset = 0; offset < kernel_size; offset++, starts += ACROSS) {
        __m512i sums = _mm512_setzero_si512();
        for (int64_t quad = 0; quad < quads; quad++, bytes += QUAD)
            sums = _mm512_dpbusd_epi32(sums, _mm512_set1_epi8(-128), _mm512_load_si512(bytes));
        _mm512_store_si512(starts, _mm512_sub_epi32(_mm512_setzero_si512(), sums));
    }
}

TARGET static void expand_tiles(const struct conv1d *w, int64_t group, int64_t tile, int tiles,
                                const struct buffers *buffers)
{
    int64_t size = conv1d_steps(w) * BLOCK;
    int64_t first = (group * conv1d_out_tiles(w) + tile) * size;
    if (!conv1d_in_integers(w)) {
        expand_floats(w->weights, first, tiles * size, w->weight_type, buffers->weights);
        return;
    }
    int64_t inputs = w->kernel_size * w->channels;
    for (int t = 0; t < tiles; t++) {
        int8_t *bytes = (int8_t *)buffers->weights + t * size;
        int64_t o = (tile + t) * TILE_OUT;
        if (w->weights_in_rows)
            quads_of_rows((const int8_t *)w->weights + (group * w->out + o) * inputs, w->out - o,
                          inputs, bytes);
        else
            quads_of_pairs((const int8_t *)w->weights + first + t * size, inputs / 4, bytes);
        sum_quads(bytes, w->kernel_size, w->channels / 4, buffers->starts + t * TILE_OUT);
    }
}

/* Products */

/* The barrier: without it gcc 12 keeps a second copy of each of 24 sums, on the stack. */
INLINE __m512i add_products(__m512i sum, __m512i quantized, __m512i weights)
{
    sum = _mm512_dpbusd_epi32(sum, quantized, weights);
    __asm__("" : "+v"(sum));
    return sum;
}

/* Adds an offset of LINES / num_parts frames to their sums; num_parts and tiles are constants.
 *
 * bytes, steps: the offset's frame of the first output; the next one's is ``row`` bytes and
 * ``stride`` frames on.  weights: the offset's quads; the second tile's are ``next`` bytes on. */
INLINE void multiply_offset(const uint8_t *bytes, int64_t row, int64_t quads, int num_parts,
                         const int8_t *weights, int64_t next, int tiles, const int32_t *starts,
                         const float *scales, int64_t stride, float *sums)
{
    const int rows = LINES / num_parts;
    __m512i products[LINES / 2][3][2];
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 3
        for (int p = 0; p < num_parts; p++)
#pragma GCC unroll 2
            for (int t = 0; t < tiles; t++)
                products[r][p][t] = p ? _mm512_setzero_si512()
                                      : _mm512_load_si512(starts + t * TILE_OUT);
    const uint8_t *below = bytes + 3 * row; /* with a multiple of row a register addresses three */
    for (int64_t quad = 0; quad < quads; quad++) {
        __m512i four[2];
#pragma GCC unroll 2
        for (int t = 0; t < tiles; t++)
            four[t] = _mm512_load_si512(weights + t * next);
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++)
#pragma GCC unroll 3
            for (int p = 0; p < num_parts; p++) {
                int32_t inputs;
                memcpy(&inputs, (r < 3 ? bytes : below) + r % 3 * row + 4 * p, sizeof inputs);
                __m512i quantized = _mm512_set1_epi32(inputs);
#pragma GCC unroll 2
                for (int t = 0; t < tiles; t++)
                    products[r][p][t] = add_products(products[r][p][t], quantized, four[t]);
            }
        bytes += 4 * num_parts, below += 4 * num_parts, weights += QUAD;
    }
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int t = 0; t < tiles; t++) {
            __m512 product = _mm512_cvtepi32_ps(products[r][0][t]);
            for (int p = 1; p < num_parts; p++)
                product = _mm512_fmadd_ps(product, _mm512_set1_ps(256),
                                          _mm512_cvtepi32_ps(products[r][p][t]));
            float *sum = sums + r * ACROSS + t * TILE_OUT;
            __m512 scale = _mm512_set1_ps(scales[r * stride]);
            _mm512_store_ps(sum, _mm512_fmadd_ps(product, scale, _mm512_load_ps(sum)));
        }
}

INLINE void multiply_integers(const struct conv1d *w, int64_t first, int num_parts, int tiles,
                            const struct buffers *buffers)
{
    int64_t frame = w->channels * num_parts, quads = w->channels / 4;
    const uint8_t *bytes = (const uint8_t *)buffers->frames + first * w->stride * frame;
    const float *scales = buffers->scales + first * w->stride;
    const int8_t *weights = buffers->weights;
    memset(buffers->sums, 0, LINES / 2 * ACROSS * sizeof *buffers->sums);
    for (int64_t offset = 0; offset < w->kernel_size; offset++)
        multiply_offset(bytes + offset * frame, w->stride * frame, quads, num_parts,
                     weights + offset * quads * QUAD, conv1d_steps(w) * BLOCK, tiles,
                     buffers->starts + offset * ACROSS, scales + offset, w->stride, buffers->sums);
}

/* Sums of FLOAT_ROWS output frames from ``first`` on; tiles is a constant. */
INLINE void multiply_floats(const struct conv1d *w, int64_t first, int tiles,
                            const struct buffers *buffers)
{
    int64_t row = w->stride * w->channels, inputs = w->kernel_size * w->channels;
    int64_t next = conv1d_steps(w) * BLOCK;
    const float *x = (const float *)buffers->frames + first * row, *weights = buffers->weights;
    const float *bases[FLOAT_ROWS / 2] = {x, x + 2 * row, x + 4 * row, x + 6 * row};
    __m512 sums[FLOAT_ROWS][2];
#pragma GCC unroll 8
    for (int r = 0; r < FLOAT_ROWS; r++)
        sums[r][0] = sums[r][1] = _mm512_setzero_ps();
    for (int64_t j = 0; j < inputs; j++) {
        __m512 weight[2];
#pragma GCC unroll 2
        for (int t = 0; t < tiles; t++)
            weight[t] = _mm512_load_ps(weights + t * next + j * TILE_OUT);
#pragma GCC unroll 8
        for (int r = 0; r < FLOAT_ROWS; r++)
#pragma GCC unroll 2
            for (int t = 0; t < tiles; t++)
                sums[r][t] = _mm512_fmadd_ps(_mm512_set1_ps(bases[r / 2][r % 2 * row + j]),
                                             weight[t], sums[r][t]);
    }
#pragma GCC unroll 8
    for (int r = 0; r < FLOAT_ROWS; r++)
#pragma GCC unroll 2
        for (int t = 0; t < tiles; t++)
            _mm512_store_ps(buffers->sums + r * ACROSS + t * TILE_OUT, sums[r][t]);
}

/* Sums of the output frames from ``first`` on, rows_at_once of them. */
TARGET static void multiply(const struct conv1d *w, int64_t first, int tiles,
                            const struct buffers *buffers)
{
    if (!conv1d_in_integers(w) && tiles == 2)
        multiply_floats(w, first, 2, buffers);
    else if (!conv1d_in_integers(w))
        multiply_floats(w, first, 1, buffers);
    else if (split_parts(w) == 3 && tiles == 2)
        multiply_integers(w, first, 3, 2, buffers);
    else if (split_parts(w) == 3)
        multiply_integers(w, first, 3, 1, buffers);
    else if (tiles == 2)
        multiply_integers(w, first, 2, 2, buffers);
    else
        multiply_integers(w, first, 2, 1, buffers);
}

TARGET void conv1d_avx512(const struct conv1d *w, int64_t utterance, int64_t group,
                           int64_t first, int64_t count, int64_t first_tile, int64_t end_tile,
                           const struct conv1d_scratch *scratch)
{
    struct buffers buffers;
    int64_t rows = rows_at_once(w);
    divide(w, count, scratch->memory, &buffers);
    prepare_frames(w, utterance, group, first, rounded(count, rows), &buffers);
    for (int64_t tile = first_tile; tile < end_tile; tile += 2) {
        int tiles = end_tile - tile >= 2 ? 2 : 1;
        expand_tiles(w, group, tile, tiles, &buffers);
        for (int64_t r = 0; r < count; r += rows) {
            multiply(w, r, tiles, &buffers);
            write(w, utterance, group, first + r, count - r < rows ? count - r : rows, tile, tiles,
                  buffers.sums);
        }
    }
}
#endif
