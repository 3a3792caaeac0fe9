/* Products of 1-bit weights with rows of small integers: what the files of this folder share.
 *
 * Runtime layout of the weights ("tiles"): an out x in matrix of bits, 1 for +1 and 0 for -1, is
 * padded with zeros to multiples of 16 outputs and 64 inputs.  Tile (o, i) holds 16 outputs x 64
 * inputs in 128 bytes: two halves of 32 inputs, in each 16 little-endian words of 32 bits, one an
 * output; bit 8 c + b of a word is input 4 b + c of the half.  So (half >> b) & 0x01010101 gives,
 * for every output, four neighbouring inputs as bytes: an operand of vpdpbusd, and a row of an AMX
 * tile.  Tiles of the same outputs lie side by side.
 *
 * With bits w in {0, 1} and integers q the product with signs is sum (2 w - 1) q =
 * 2 sum w q - sum q.
 */
#ifndef CRESS_SIGN_GEMM_H
#define CRESS_SIGN_GEMM_H

#include "runtime.h"

enum {
    TILE_OUT = 16,
    TILE_IN = 64,
    TILE_BYTES = TILE_OUT * TILE_IN / 8,
};

/* The rows of one product, rounded to integers: what ``quantize`` writes. */
struct quantized {
    int8_t *values;     /* ``count`` x ``stride``; columns beyond ``in`` are 0 */
    int32_t *sums;      /* ``count``: sum of each row of values */
    float *scales;      /* one a row of x: NaN where x holds NaN or infinity */
    int64_t count;      /* rows of x times parts; the parts of a row are neighbours */
    int64_t stride;     /* a multiple of TILE_IN */
    int num_parts;      /* 1: q of 8 bits; 2: of 16 bits, 256 values[2r] + values[2r + 1] */
};

/* y (rows x out, row stride y_stride) = product * scale * h + bias, for some of the outputs. */
struct outputs {
    const float *h;     /* out, or NULL for ones */
    const float *bias;  /* out, or NULL for zeros */
    float *y;
    int64_t y_stride;
    int64_t out;
};

/* Quantises the rows of x times g (NULL: ones), by one instruction set. */
typedef void quantize_function(const float *x, int64_t x_stride, int64_t in, const float *g,
                               struct quantized *quantized);

/* The outputs [16 first_tile, 16 end_tile) for all rows.  ``scratch`` is of ``scratch_bytes``. */
typedef void multiply_function(const uint8_t *tiles, int64_t in_tiles, int64_t first_tile,
                               int64_t end_tile, const struct quantized *quantized,
                               const struct outputs *outputs, void *scratch);

quantize_function quantize_portable, quantize_avx2, quantize_avx512;
multiply_function multiply_portable, multiply_avx2, multiply_avx512, multiply_avx512_gfni,
    multiply_amx, multiply_simd128, multiply_dotprod, multiply_i8mm;

/* Bytes of scratch that any multiply_function may use, 64-byte aligned. */
size_t multiply_scratch_bytes(int64_t in_tiles);

#endif
