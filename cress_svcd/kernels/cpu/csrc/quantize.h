/* Rounding rows to integers, compiled once for every instruction set by the files that include this.
 *
 * The twin of quantize_tokens in quantization/fake_quant.py, operation for operation, so that
 * q is equal to the bit: scale = max |g x| * (1 / peak); q = round(g x * (1 / scale)),
 * halves to even.  peak is 127 in one part; in two it is 127 * 256 + 127, the largest that two
 * signed bytes hold symmetrically.
 */
#include <string.h>

#include "sign_gemm.h"

static const float SMALLEST_SCALE = 1e-32f;
/* Adding and subtracting 1.5 * 2^23 rounds a float below 2^22 to an integer, halves to even, in the
 * default rounding mode; unlike rintf it becomes vector code everywhere. */
static const float ROUNDER = 12582912.0f;

static inline __attribute__((always_inline)) float scaled(const float *x, const float *g, int64_t j)
{
    return g ? x[j] * g[j] : x[j];
}

/* Largest |g x|; as integers magnitudes compare like floats, with NaN above infinity. */
static inline __attribute__((always_inline)) float largest(const float *x, const float *g,
                                                           int64_t in)
{
    int32_t peak = 0;
    for (int64_t j = 0; j < in; j++) {
        float value = scaled(x, g, j);
        int32_t bits;
        memcpy(&bits, &value, sizeof bits);
        bits &= 0x7fffffff;
        peak = bits > peak ? bits : peak;
    }
    float result;
    memcpy(&result, &peak, sizeof result);
    return result;
}

static inline __attribute__((always_inline)) void quantize_int8(
    const float *x, const float *g, int64_t in, float inverse, int8_t *values, int32_t *sum)
{
    int32_t total = 0;
    for (int64_t j = 0; j < in; j++) {
        float q = (scaled(x, g, j) * inverse + ROUNDER) - ROUNDER;
        int32_t integer = (int32_t)q;
        values[j] = (int8_t)integer;
        total += integer;
    }
    *sum = total;
}

static inline __attribute__((always_inline)) void quantize_hi_lo(
    const float *x, const float *g, int64_t in, float inverse, int8_t *high, int8_t *low,
    int32_t *sums)
{
    int32_t high_total = 0, low_total = 0;
    for (int64_t j = 0; j < in; j++) {
        float q = (scaled(x, g, j) * inverse + ROUNDER) - ROUNDER;
        int32_t integer = (int32_t)q, upper = (integer + 128) >> 8;
        int32_t lower = integer - upper * 256;
        high[j] = (int8_t)upper;
        low[j] = (int8_t)lower;
        high_total += upper;
        low_total += lower;
    }
    sums[0] = high_total;
    sums[1] = low_total;
}

static inline __attribute__((always_inline)) void quantize_row(
    const float *x, int64_t in, const float *g, struct quantized *quantized, int64_t row)
{
    int num_parts = quantized->num_parts;
    int8_t *values = quantized->values + row * num_parts * quantized->stride;
    int32_t *sums = quantized->sums + row * num_parts;
    float peak = g ? largest(x, g, in) : largest(x, NULL, in);
    float scale = peak * (num_parts == 1 ? (float)(1.0 / 127) : (float)(1.0 / 32639));
    if (!(peak <= 3.402823466e38f)) { /* infinity or NaN: the whole row of outputs is NaN */
        memset(values, 0, (size_t)(num_parts * quantized->stride));
        memset(sums, 0, (size_t)num_parts * sizeof *sums);
        quantized->scales[row] = peak - peak;
        return;
    }
    quantized->scales[row] = scale;
    float inverse = 1.0f / (scale < SMALLEST_SCALE ? SMALLEST_SCALE : scale);
    for (int part = 0; part < num_parts; part++)
        memset(values + part * quantized->stride + in, 0, (size_t)(quantized->stride - in));
    if (num_parts == 1)
        quantize_int8(x, g, in, inverse, values, sums);
    else
        quantize_hi_lo(x, g, in, inverse, values, values + quantized->stride, sums);
}

static inline __attribute__((always_inline)) void quantize_rows(
    const float *x, int64_t x_stride, int64_t in, const float *g, struct quantized *quantized)
{
    int64_t rows = quantized->count / quantized->num_parts;
    for (int64_t row = 0; row < rows; row++)
        quantize_row(x + row * x_stride, in, g, quantized, row);
}
