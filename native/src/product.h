/* Products of rows of float32 with weights of any type, in float32. */
#ifndef CRESS_PRODUCT_H
#define CRESS_PRODUCT_H

#include "compute.h"

/* y[r][o] = (x[r] . weight[o]) * scale[o] + bias[o]; row r of x is at x + r * step. */
struct product {
    const float *x;
    int64_t step, rows, size, out;
    const struct tensor *weight; /* from ``first`` on, out x size; or as float32: */
    int64_t first;
    const float *floats;
    const float *scale, *bias; /* or NULL */
    float *y;
    int64_t y_stride;
};

void multiply(struct run *run, const struct product *product);

#endif
