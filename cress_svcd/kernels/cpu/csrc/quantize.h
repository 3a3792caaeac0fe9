/* Rounding rows to levels, compiled once for every instruction set by the files that include this.
 *
 * The twin of quantize_tokens in quantization/activations.py, operation for operation, so that
 * levels are equal to the bit: step = max |g x| * (1 / top); level = round(g x * (1 / step)),
 * halves to even.  top is 127 in one plane; in two it is 127 * 256 + 127, the largest that two
 * signed bytes hold symmetrically.
 */
#include <string.h>

#include "sign_gemm.h"

static const float SMALLEST_STEP = 1e-32f;
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
    int32_t top = 0;
    for (int64_t j = 0; j < in; j++) {
        float value = scaled(x, g, j);
        int32_t bits;
        memcpy(&bits, &value, sizeof bits);
        bits &= 0x7fffffff;
        top = bits > top ? bits : top;
    }
    float result;
    memcpy(&result, &top, sizeof result);
    return result;
}

static inline __attribute__((always_inline)) void quantize_one_plane(
    const float *x, const float *g, int64_t in, float inverse, int8_t *values, int32_t *sum)
{
    int32_t total = 0;
    for (int64_t j = 0; j < in; j++) {
        float level = (scaled(x, g, j) * inverse + ROUNDER) - ROUNDER;
        int32_t integer = (int32_t)level;
        values[j] = (int8_t)integer;
        total += integer;
    }
    *sum = total;
}

static inline __attribute__((always_inline)) void quantize_two_planes(
    const float *x, const float *g, int64_t in, float inverse, int8_t *high, int8_t *low,
    int32_t *sums)
{
    int32_t high_total = 0, low_total = 0;
    for (int64_t j = 0; j < in; j++) {
        float level = (scaled(x, g, j) * inverse + ROUNDER) - ROUNDER;
        int32_t integer = (int32_t)level, upper = (integer + 128) >> 8;
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
    const float *x, int64_t in, const float *g, struct levels *levels, int64_t row)
{
    int planes = levels->planes;
    int8_t *values = levels->values + row * planes * levels->stride;
    int32_t *sums = levels->sums + row * planes;
    float top = g ? largest(x, g, in) : largest(x, NULL, in);
    float step = top * (planes == 1 ? (float)(1.0 / 127) : (float)(1.0 / 32639));
    if (!(top <= 3.402823466e38f)) { /* infinity or NaN: the whole row of outputs is NaN */
        memset(values, 0, (size_t)(planes * levels->stride));
        memset(sums, 0, (size_t)planes * sizeof *sums);
        levels->steps[row] = top - top;
        return;
    }
    levels->steps[row] = step;
    float inverse = 1.0f / (step < SMALLEST_STEP ? SMALLEST_STEP : step);
    for (int plane = 0; plane < planes; plane++)
        memset(values + plane * levels->stride + in, 0, (size_t)(levels->stride - in));
    if (planes == 1)
        quantize_one_plane(x, g, in, inverse, values, sums);
    else
        quantize_two_planes(x, g, in, inverse, values, values + levels->stride, sums);
}

static inline __attribute__((always_inline)) void quantize_rows(
    const float *x, int64_t x_stride, int64_t in, const float *g, struct levels *levels)
{
    int64_t rows = levels->count / levels->planes;
    for (int64_t row = 0; row < rows; row++)
        quantize_row(x + row * x_stride, in, g, levels, row);
}
