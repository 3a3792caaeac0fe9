/* Convolutions over time as products of overlapping windows: what windows*.c share.
 *
 * In frames x channels a window of ``taps`` frames is a row of taps * channels numbers that lie
 * side by side, and the next window is the same row ``stride`` frames on: nothing is copied.
 *
 * AMX: the input is split into bf16 numbers, x = high + low with an error of 2^-17, both are
 * multiplied with the weights, and the sums are float32.  int8 and bf16 weights are exact in bf16;
 * those of fp16 are split too, and the product of both low parts is left out.
 * AVX-512: see windows_avx512.c.
 *
 * Runtime layout of the weights: groups x out_tiles x steps blocks of 512 numbers; a block is 16
 * pairs of inputs x 16 outputs x 2.  Inputs are in the window's order, taps before channels;
 * outputs of a group are padded with zeros to multiples of 16, inputs to multiples of 32. */
#ifndef CRESS_WINDOWS_H
#define CRESS_WINDOWS_H

#include <stdint.h>

#include "sign_gemm.h"

enum { STEP_IN = 32, BLOCK = STEP_IN * TILE_OUT };

/* Types of weights.  Python knows these numbers (kernels/windows.py). */
enum { WEIGHT_INT8, WEIGHT_BF16, WEIGHT_FP16, WEIGHT_COUNT };

struct windows {
    const float *x;             /* batch x frames x channels; rows ``x_stride`` floats apart */
    int64_t batch, frames, x_stride, x_batch_stride;
    int64_t groups, channels, out; /* channels and outputs of a group */
    int64_t taps, stride, padding; /* frames of zeros before the first */
    int64_t count;              /* windows of an utterance */
    const void *weights;
    int weight_type, planes;    /* planes: 2, or 1 where x may be rounded to bf16 */
    int weights_in_rows;        /* groups * out x taps x channels instead of the layout above */
    const float *scale, *bias;  /* (batch or 1) x groups * out; bias may be NULL */
    int64_t vector_stride;      /* from one utterance's scale and bias to the next's */
    int gelu;
    float *y;                   /* batch x count x groups * out; an utterance's are dense */
    int64_t y_batch_stride;
};

/* Memory of a thread, 64-byte aligned, and the parts of it that windows_amx uses. */
struct windows_scratch {
    void *memory;
    uint16_t *high, *low, *weights, *weights_low;
    float *sums;
};

static inline int64_t windows_steps(const struct windows *w)
{
    return (w->taps * w->channels + STEP_IN - 1) / STEP_IN;
}

static inline int64_t windows_out_tiles(const struct windows *w)
{
    return (w->out + TILE_OUT - 1) / TILE_OUT;
}

/* Whether AVX-512 multiplies integers.  Of few channels, scaling after each tap takes longer than
 * float32 does. */
static inline int windows_in_levels(const struct windows *w)
{
    return w->weight_type == WEIGHT_INT8 && w->channels % 4 == 0 && w->channels >= 16;
}

/* Windows ``first`` .. first + count of a group of an utterance, its output tiles first_tile ..
 * end_tile.  The scratch has room for ``count`` rounded up to 32 windows. */
typedef void windows_function(const struct windows *w, int64_t utterance, int64_t group,
                              int64_t first, int64_t count, int64_t first_tile, int64_t end_tile,
                              const struct windows_scratch *scratch);

windows_function windows_amx, windows_avx512;

/* Bytes of memory that windows_avx512 needs for so many windows. */
size_t windows_avx512_bytes(const struct windows *w, int64_t count);

#endif
