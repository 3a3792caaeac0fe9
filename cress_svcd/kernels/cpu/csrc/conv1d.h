/* conv1d as implicit GEMM: what conv1d*.c share.
 *
 * In memory of frames x channels the ``kernel_size`` frames under an output frame are a row of
 * kernel_size * channels numbers, and the row of the next output frame begins ``stride`` frames on:
 * nothing is copied.
 *
 * AMX: the input is split into bf16 numbers, x = high + low with an error of 2^-17, both are
 * multiplied with the weights, and the sums are float32.  int8 and bf16 weights are exact in bf16;
 * those of fp16 are split too, and the product of both low parts is left out.
 * AVX-512: see conv1d_avx512.c.
 *
 * Runtime layout of the weights: groups x out_tiles x steps blocks of 512 numbers; a block is 16
 * pairs of inputs x 16 outputs x 2.  Inputs are in the order of x, kernel_size before channels;
 * outputs of a group are padded with zeros to multiples of 16, inputs to multiples of 32. */
#ifndef CRESS_CONV1D_H
#define CRESS_CONV1D_H

#include <stdint.h>

#include "sign_gemm.h"

enum { STEP_IN = 32, BLOCK = STEP_IN * TILE_OUT };

/* Types of weights.  Python knows these numbers (kernels/cpu/conv1d.py). */
enum { WEIGHT_INT8, WEIGHT_BF16, WEIGHT_FP16, WEIGHT_COUNT };

struct conv1d {
    const float *x;             /* batch x frames x channels; rows ``x_stride`` floats apart */
    int64_t batch, frames, x_stride, x_batch_stride;
    int64_t groups, channels, out; /* channels and outputs of a group */
    int64_t kernel_size, stride, padding; /* frames of zeros before the first */
    int64_t count;              /* output frames of an utterance */
    const void *weights;
    int weight_type;
    int num_parts;              /* 2 (hi/lo split), or 1 where x may be rounded to bf16 */
    int weights_in_rows;        /* groups * out x kernel_size x channels, not the layout above */
    const float *scale, *bias;  /* (batch or 1) x groups * out; bias may be NULL */
    int64_t scale_stride;       /* from one utterance's scale and bias to the next's */
    int gelu;
    float *y;                   /* batch x count x groups * out; an utterance's are dense */
    int64_t y_batch_stride;
};

/* Memory of a thread, 64-byte aligned, and the parts of it that conv1d_amx uses. */
struct conv1d_scratch {
    void *memory;
    uint16_t *high, *low, *weights, *weights_low;
    float *sums;
};

static inline int64_t conv1d_steps(const struct conv1d *w)
{
    return (w->kernel_size * w->channels + STEP_IN - 1) / STEP_IN;
}

static inline int64_t conv1d_out_tiles(const struct conv1d *w)
{
    return (w->out + TILE_OUT - 1) / TILE_OUT;
}

/* Whether AVX-512 multiplies integers.  With few channels, scaling after each kernel position takes
 * longer than float32 does. */
static inline int conv1d_in_integers(const struct conv1d *w)
{
    return w->weight_type == WEIGHT_INT8 && w->channels % 4 == 0 && w->channels >= 16;
}

/* Output frames ``first`` .. first + count of a group of an utterance, output tiles first_tile ..
 * end_tile.  The scratch has a capacity of ``count`` rounded up to 32 frames. */
typedef void conv1d_function(const struct conv1d *w, int64_t utterance, int64_t group,
                              int64_t first, int64_t count, int64_t first_tile, int64_t end_tile,
                              const struct conv1d_scratch *scratch);

conv1d_function conv1d_amx, conv1d_avx512;

/* Bytes of memory that conv1d_avx512 needs for so many output frames. */
size_t conv1d_avx512_bytes(const struct conv1d *w, int64_t count);

#endif
