/* NEON with products of bytes: dot products of fours (dotprod), products of 2 x 8 matrices (i8mm).
 *
 * A bit becomes the byte -1 or 0, so that sums are those of minus the weights. */
#include "sign_gemm_write.h"

#ifdef CRESS_ARM
#include <arm_neon.h>

#ifdef __clang__
#define DOTPROD __attribute__((target("dotprod")))
#define I8MM __attribute__((target("dotprod,i8mm")))
#else
#define DOTPROD __attribute__((target("arch=armv8.2-a+dotprod")))
#define I8MM __attribute__((target("arch=armv8.2-a+dotprod+i8mm")))
#endif
#define INLINE static inline __attribute__((always_inline))

enum { ROWS = 4, GROUPS = 4, /* of 4 outputs, a tile's */ PAIRS = 4, /* of rows */ };

INLINE int8x16_t masks(uint8x16_t words, int bit)
{
    return vreinterpretq_s8_u8(vtstq_u8(words, vdupq_n_u8((uint8_t)(1 << bit))));
}

/* sums[r][output] of a tile's 16 outputs and ``rows`` rows, a constant. */
INLINE DOTPROD void block_dotprod(const uint8_t *halves, int64_t count, const int8_t *values,
                                  int64_t stride, const int rows, int32_t *sums)
{
    int32x4_t acc[ROWS][GROUPS];
    for (int r = 0; r < rows; r++)
        for (int g = 0; g < GROUPS; g++)
            acc[r][g] = vdupq_n_s32(0);
    for (int64_t half = 0; half < count; half++) {
        const uint8_t *words = halves + half * (TILE_BYTES / 2);
        int8x16_t q[ROWS][2];
        for (int r = 0; r < rows; r++) {
            q[r][0] = vld1q_s8(values + r * stride + half * 32);
            q[r][1] = vld1q_s8(values + r * stride + half * 32 + 16);
        }
#define STEP(b)                                                                                   \
    _Pragma("GCC unroll 4") for (int g = 0; g < GROUPS; g++)                                      \
    {                                                                                             \
        int8x16_t mask = masks(vld1q_u8(words + 16 * g), b);                                      \
        _Pragma("GCC unroll 4") for (int r = 0; r < rows; r++)                                    \
            acc[r][g] = vdotq_laneq_s32(acc[r][g], mask, q[r][(b) / 4], (b) % 4);                 \
    }
        STEP(0) STEP(1) STEP(2) STEP(3) STEP(4) STEP(5) STEP(6) STEP(7)
#undef STEP
    }
    for (int r = 0; r < rows; r++)
        for (int g = 0; g < GROUPS; g++)
            vst1q_s32(sums + r * TILE_OUT + 4 * g, vnegq_s32(acc[r][g]));
}

DOTPROD void multiply_dotprod(const uint8_t *tiles, int64_t in_tiles, int64_t first_tile,
                              int64_t end_tile, const struct quantized *quantized,
                              const struct outputs *outputs, void *scratch)
{
    int64_t stride = quantized->stride, count = 2 * in_tiles;
    (void)scratch;
    for (int64_t tile = first_tile; tile < end_tile; tile++) {
        const uint8_t *halves = tiles + tile * in_tiles * TILE_BYTES;
        for (int64_t r = 0; r < quantized->count; r += ROWS) {
            const int8_t *values = quantized->values + r * stride;
            int rows = quantized->count - r < ROWS ? (int)(quantized->count - r) : ROWS;
            int32_t sums[ROWS * TILE_OUT];
            switch (rows) { /* constants, so that sums stay in registers */
            case 1: block_dotprod(halves, count, values, stride, 1, sums); break;
            case 2: block_dotprod(halves, count, values, stride, 2, sums); break;
            case 3: block_dotprod(halves, count, values, stride, 3, sums); break;
            default: block_dotprod(halves, count, values, stride, 4, sums); break;
            }
            write_outputs(sums, TILE_OUT, r, rows, quantized, tile * TILE_OUT, outputs);
        }
    }
}

/* sums[r][output] of half a tile's outputs and twice ``pairs`` rows, a constant; the last row of an
 * odd number is memory that is there. */
INLINE I8MM void block_i8mm(const uint8_t *halves, int64_t count, const int8_t *values,
                            int64_t stride, const int pairs, int32_t *sums)
{
    int32x4_t acc[PAIRS][4]; /* 2 outputs x 2 rows */
    for (int p = 0; p < pairs; p++)
        for (int g = 0; g < 4; g++)
            acc[p][g] = vdupq_n_s32(0);
    for (int64_t half = 0; half < count; half++) {
        const uint8_t *words = halves + half * (TILE_BYTES / 2);
        uint8x16_t first = vld1q_u8(words), second = vld1q_u8(words + 16);
#pragma GCC unroll 4
        for (int b = 0; b < 8; b += 2) {
            int32x4_t here = vreinterpretq_s32_s8(masks(first, b));
            int32x4_t next = vreinterpretq_s32_s8(masks(first, b + 1));
            int32x4_t here2 = vreinterpretq_s32_s8(masks(second, b));
            int32x4_t next2 = vreinterpretq_s32_s8(masks(second, b + 1));
            /* Of two outputs eight inputs each. */
            int8x16_t weights[4] = {
                vreinterpretq_s8_s32(vzip1q_s32(here, next)),
                vreinterpretq_s8_s32(vzip2q_s32(here, next)),
                vreinterpretq_s8_s32(vzip1q_s32(here2, next2)),
                vreinterpretq_s8_s32(vzip2q_s32(here2, next2)),
            };
#pragma GCC unroll 4
            for (int p = 0; p < pairs; p++) {
                const int8_t *eight = values + 2 * p * stride + half * 32 + 4 * b;
                int8x16_t q = vcombine_s8(vld1_s8(eight), vld1_s8(eight + stride));
#pragma GCC unroll 4
                for (int g = 0; g < 4; g++)
                    acc[p][g] = vmmlaq_s32(acc[p][g], weights[g], q);
            }
        }
    }
    for (int p = 0; p < pairs; p++)
        for (int g = 0; g < 4; g++) {
            int32_t four[4];
            vst1q_s32(four, vnegq_s32(acc[p][g]));
            for (int i = 0; i < 4; i++)
                sums[(2 * p + i % 2) * (TILE_OUT / 2) + 2 * g + i / 2] = four[i];
        }
}

I8MM void multiply_i8mm(const uint8_t *tiles, int64_t in_tiles, int64_t first_tile,
                        int64_t end_tile, const struct quantized *quantized,
                        const struct outputs *outputs, void *scratch)
{
    enum { LANES = TILE_OUT / 2 };
    int64_t stride = quantized->stride, count = 2 * in_tiles;
    (void)scratch;
    for (int64_t o = first_tile * TILE_OUT; o < end_tile * TILE_OUT && o < outputs->out;
         o += LANES) {
        const uint8_t *halves = tiles + o / TILE_OUT * in_tiles * TILE_BYTES + o % TILE_OUT * 4;
        for (int64_t r = 0; r < quantized->count; r += 2 * PAIRS) {
            const int8_t *values = quantized->values + r * stride;
            int rows = quantized->count - r < 2 * PAIRS ? (int)(quantized->count - r) : 2 * PAIRS;
            int32_t sums[2 * PAIRS * LANES];
            switch ((rows + 1) / 2) {
            case 1: block_i8mm(halves, count, values, stride, 1, sums); break;
            case 2: block_i8mm(halves, count, values, stride, 2, sums); break;
            case 3: block_i8mm(halves, count, values, stride, 3, sums); break;
            default: block_i8mm(halves, count, values, stride, 4, sums); break;
            }
            write_outputs(sums, LANES, r, rows, quantized, o, outputs);
        }
    }
}
#endif
