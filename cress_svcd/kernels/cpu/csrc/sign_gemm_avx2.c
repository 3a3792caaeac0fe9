/* AVX2: bits as bytes 0 and 1 times signed q by vpmaddubsw, in pairs of 16-bit sums.
 *
 * A pair is at most 2 * 128 in magnitude, so that nothing saturates; 8 pairs a half tile fit in 16
 * bits 15 times, and are widened to 32 bits after every 8 half tiles. */
#include "sign_gemm.h"

#ifdef CRESS_X86
#include <immintrin.h>

#include "quantize.h"

#define TARGET __attribute__((target("avx2")))
#define INLINE static inline __attribute__((always_inline)) TARGET
enum { LANES = 8, ROWS = 4, HALVES_A_SUM = 8 };

TARGET void quantize_avx2(const float *x, int64_t x_stride, int64_t in, const float *g,
                          struct quantized *quantized)
{
    quantize_rows(x, x_stride, in, g, quantized);
}

/* acc[r][lane] = sum over inputs of bit * q, for LANES outputs and up to ROWS rows. */
INLINE void block(const uint8_t *halves, int64_t count, const int8_t *values, int64_t stride,
                  int rows, int32_t (*acc)[LANES])
{
    const __m256i ones8 = _mm256_set1_epi8(1), ones16 = _mm256_set1_epi16(1);
    __m256i wide[ROWS];
    for (int r = 0; r < rows; r++)
        wide[r] = _mm256_setzero_si256();
    for (int64_t start = 0; start < count; start += HALVES_A_SUM) {
        int64_t end = start + HALVES_A_SUM < count ? start + HALVES_A_SUM : count;
        __m256i narrow[ROWS];
        for (int r = 0; r < rows; r++)
            narrow[r] = _mm256_setzero_si256();
        for (int64_t half = start; half < end; half++) {
            const uint8_t *words = halves + half * (TILE_BYTES / 2);
            __m256i weights = _mm256_loadu_si256((const __m256i *)words);
#pragma GCC unroll 8
            for (int b = 0; b < 8; b++) {
                __m256i bits = _mm256_and_si256(_mm256_srli_epi16(weights, b), ones8);
#pragma GCC unroll 4
                for (int r = 0; r < rows; r++) {
                    int32_t four;
                    memcpy(&four, values + r * stride + half * 32 + 4 * b, sizeof four);
                    __m256i pairs = _mm256_maddubs_epi16(bits, _mm256_set1_epi32(four));
                    narrow[r] = _mm256_add_epi16(narrow[r], pairs);
                }
            }
        }
        for (int r = 0; r < rows; r++)
            wide[r] = _mm256_add_epi32(wide[r], _mm256_madd_epi16(narrow[r], ones16));
    }
    for (int r = 0; r < rows; r++)
        _mm256_storeu_si256((__m256i *)acc[r], wide[r]);
}

TARGET static void write(const int32_t (*acc)[LANES], int64_t first, int rows,
                         const struct quantized *quantized, int64_t o, const struct outputs *outputs)
{
    int num_parts = quantized->num_parts;
    int lanes = outputs->out - o < LANES ? (int)(outputs->out - o) : LANES;
    for (int r = 0; r < rows; r += num_parts) {
        int64_t row = (first + r) / num_parts;
        float *y = outputs->y + row * outputs->y_stride + o, scale = quantized->scales[row];
        for (int lane = 0; lane < lanes; lane++) {
            float product = (float)(2 * acc[r][lane] - quantized->sums[first + r]);
            if (num_parts == 2)
                product = product * 256 +
                          (float)(2 * acc[r + 1][lane] - quantized->sums[first + r + 1]);
            product *= scale;
            if (outputs->h)
                product *= outputs->h[o + lane];
            y[lane] = outputs->bias ? product + outputs->bias[o + lane] : product;
        }
    }
}

TARGET void multiply_avx2(const uint8_t *tiles, int64_t in_tiles, int64_t first_tile,
                          int64_t end_tile, const struct quantized *quantized,
                          const struct outputs *outputs, void *scratch)
{
    (void)scratch;
    for (int64_t o = first_tile * TILE_OUT; o < end_tile * TILE_OUT && o < outputs->out;
         o += LANES) {
        const uint8_t *halves = tiles + o / TILE_OUT * in_tiles * TILE_BYTES + o % TILE_OUT * 4;
        for (int64_t r = 0; r < quantized->count; r += ROWS) {
            const int8_t *values = quantized->values + r * quantized->stride;
            int rows = quantized->count - r < ROWS ? (int)(quantized->count - r) : ROWS;
            int32_t acc[ROWS][LANES];
            switch (rows) { /* constants, so that sums stay in registers */
            case 1: block(halves, 2 * in_tiles, values, quantized->stride, 1, acc); break;
            case 2: block(halves, 2 * in_tiles, values, quantized->stride, 2, acc); break;
            case 3: block(halves, 2 * in_tiles, values, quantized->stride, 3, acc); break;
            default: block(halves, 2 * in_tiles, values, quantized->stride, 4, acc); break;
            }
            write((const int32_t(*)[LANES])acc, r, rows, quantized, o, outputs);
        }
    }
}
#endif
