/* Registers of 128 bits without products of bytes: plain NEON, and WebAssembly SIMD.
 *
 * A bit becomes a mask, what it leaves of four neighbouring q is added in pairs of 16 bits.  A pair
 * is at most 256 in magnitude and 8 come of a half tile; the sums are widened to 32 bits after every
 * 8 half tiles. */
#include "sign_gemm_write.h"

#ifdef CRESS_SIMD128

#define INLINE static inline __attribute__((always_inline))
enum { LANES = 8, ROWS = 4, HALVES_A_SUM = 8 };

#ifdef __wasm_simd128__
#include <wasm_simd128.h>
typedef v128_t bytes, pairs, sums;
INLINE bytes load_words(const uint8_t *words) { return wasm_v128_load(words); }
INLINE bytes load_four(const int8_t *values) { return wasm_v128_load32_splat(values); }
INLINE bytes chosen(bytes words, int bit, bytes values)
{
    bytes one = wasm_i8x16_splat((int8_t)(1 << bit));
    return wasm_v128_and(wasm_i8x16_eq(wasm_v128_and(words, one), one), values);
}
INLINE pairs add_pairs(pairs sum, bytes values)
{
    return wasm_i16x8_add(sum, wasm_i16x8_extadd_pairwise_i8x16(values));
}
INLINE sums widen(sums sum, pairs narrow)
{
    return wasm_i32x4_add(sum, wasm_i32x4_extadd_pairwise_i16x8(narrow));
}
INLINE pairs zero_pairs(void) { return wasm_i16x8_splat(0); }
INLINE sums zero_sums(void) { return wasm_i32x4_splat(0); }
INLINE void store(int32_t *to, sums sum) { wasm_v128_store(to, sum); }
#else
#include <arm_neon.h>
typedef uint8x16_t bytes;
typedef int16x8_t pairs;
typedef int32x4_t sums;
INLINE bytes load_words(const uint8_t *words) { return vld1q_u8(words); }
INLINE bytes load_four(const int8_t *values)
{
    uint32_t four;
    __builtin_memcpy(&four, values, sizeof four);
    return vreinterpretq_u8_u32(vdupq_n_u32(four));
}
INLINE bytes chosen(bytes words, int bit, bytes values)
{
    return vandq_u8(vtstq_u8(words, vdupq_n_u8((uint8_t)(1 << bit))), values);
}
INLINE pairs add_pairs(pairs sum, bytes values)
{
    return vpadalq_s8(sum, vreinterpretq_s8_u8(values));
}
INLINE sums widen(sums sum, pairs narrow) { return vpadalq_s16(sum, narrow); }
INLINE pairs zero_pairs(void) { return vdupq_n_s16(0); }
INLINE sums zero_sums(void) { return vdupq_n_s32(0); }
INLINE void store(int32_t *to, sums sum) { vst1q_s32(to, sum); }
#endif

/* acc[r][lane] = sum over inputs of bit * q, for LANES outputs and ``rows`` rows, a constant. */
INLINE void block(const uint8_t *halves, int64_t count, const int8_t *values, int64_t stride,
                  const int rows, int32_t (*acc)[LANES])
{
    sums wide[ROWS][2];
    for (int r = 0; r < rows; r++)
        wide[r][0] = wide[r][1] = zero_sums();
    for (int64_t start = 0; start < count; start += HALVES_A_SUM) {
        int64_t end = start + HALVES_A_SUM < count ? start + HALVES_A_SUM : count;
        pairs narrow[ROWS][2];
        for (int r = 0; r < rows; r++)
            narrow[r][0] = narrow[r][1] = zero_pairs();
        for (int64_t half = start; half < end; half++) {
            const uint8_t *words = halves + half * (TILE_BYTES / 2);
            bytes first = load_words(words), second = load_words(words + 16);
#pragma GCC unroll 8
            for (int b = 0; b < 8; b++)
#pragma GCC unroll 4
                for (int r = 0; r < rows; r++) {
                    bytes four = load_four(values + r * stride + half * 32 + 4 * b);
                    narrow[r][0] = add_pairs(narrow[r][0], chosen(first, b, four));
                    narrow[r][1] = add_pairs(narrow[r][1], chosen(second, b, four));
                }
        }
        for (int r = 0; r < rows; r++) {
            wide[r][0] = widen(wide[r][0], narrow[r][0]);
            wide[r][1] = widen(wide[r][1], narrow[r][1]);
        }
    }
    for (int r = 0; r < rows; r++) {
        store(acc[r], wide[r][0]);
        store(acc[r] + 4, wide[r][1]);
    }
}

void multiply_simd128(const uint8_t *tiles, int64_t in_tiles, int64_t first_tile,
                      int64_t end_tile, const struct quantized *quantized,
                      const struct outputs *outputs, void *scratch)
{
    int64_t stride = quantized->stride;
    (void)scratch;
    for (int64_t o = first_tile * TILE_OUT; o < end_tile * TILE_OUT && o < outputs->out;
         o += LANES) {
        const uint8_t *halves = tiles + o / TILE_OUT * in_tiles * TILE_BYTES + o % TILE_OUT * 4;
        for (int64_t r = 0; r < quantized->count; r += ROWS) {
            const int8_t *values = quantized->values + r * stride;
            int rows = quantized->count - r < ROWS ? (int)(quantized->count - r) : ROWS;
            int32_t acc[ROWS][LANES];
            switch (rows) { /* constants, so that sums stay in registers */
            case 1: block(halves, 2 * in_tiles, values, stride, 1, acc); break;
            case 2: block(halves, 2 * in_tiles, values, stride, 2, acc); break;
            case 3: block(halves, 2 * in_tiles, values, stride, 3, acc); break;
            default: block(halves, 2 * in_tiles, values, stride, 4, acc); break;
            }
            write_outputs(acc[0], LANES, r, rows, quantized, o, outputs);
        }
    }
}
#endif
