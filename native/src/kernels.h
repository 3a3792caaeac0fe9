/* The entries of the Python package's kernels (cress_svcd/kernels/cpu/csrc), which no header there
 * declares: Python calls them by ctypes.  They return 0, OUT_OF_MEMORY or NOT_SUPPORTED. */
#ifndef CRESS_KERNELS_H
#define CRESS_KERNELS_H

#include "conv1d.h"
#include "sign_gemm.h"

int cress_sign_gemm(const float *x, int64_t rows, int64_t x_stride, const uint8_t *tiles,
                    int64_t in, int64_t out, const float *g, const float *h, const float *bias,
                    float *y, int num_parts, int isa, int threads, parallel_function *parallel);
int cress_conv1d(const struct conv1d *w, int isa, int threads, parallel_function *parallel);

#endif
