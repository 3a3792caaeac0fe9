/* From sums of 0/1 weights to outputs, for instruction sets whose sums are a few registers. */
#ifndef CRESS_SIGN_GEMM_WRITE_H
#define CRESS_SIGN_GEMM_WRITE_H

#include "sign_gemm.h"

/* sums: rows x lanes, of rows ``first`` on and outputs ``o`` on. */
static inline void write_outputs(const int32_t *sums, int lanes, int64_t first, int rows,
                                 const struct quantized *quantized, int64_t o,
                                 const struct outputs *outputs)
{
    int num_parts = quantized->num_parts;
    int some = outputs->out - o < lanes ? (int)(outputs->out - o) : lanes;
    for (int r = 0; r < rows; r += num_parts) {
        int64_t row = (first + r) / num_parts;
        float *y = outputs->y + row * outputs->y_stride + o, scale = quantized->scales[row];
        for (int lane = 0; lane < some; lane++) {
            float product = (float)(2 * sums[r * lanes + lane] - quantized->sums[first + r]);
            if (num_parts == 2)
                product = product * 256 + (float)(2 * sums[(r + 1) * lanes + lane] -
                                                  quantized->sums[first + r + 1]);
            product *= scale;
            if (outputs->h)
                product *= outputs->h[o + lane];
            y[lane] = outputs->bias ? product + outputs->bias[o + lane] : product;
        }
    }
}

#endif
