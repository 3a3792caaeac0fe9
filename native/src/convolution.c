/* Convolutions in time, by the package's kernel for int8 weights where there is AVX-512. */
#include <string.h>

#include "compute.h"
#include "kernels.h"
#include "product.h"
#include "vectors.h"

int64_t output_frames(const struct convolution *conv, int64_t frames)
{
    int64_t rest = frames + 2 * conv->padding - conv->kernel;
    return rest < 0 ? 0 : rest / conv->stride + 1;
}

void output_weight(const struct convolution *conv, int64_t output, float *to)
{
    int64_t count = conv->kernel * conv->channels;
    if (conv->normalised)
        memcpy(to, conv->normalised + output * count, (size_t)count * sizeof *to);
    else
        to_floats(conv->weight, output * count, count, to);
}

static int by_kernel(struct run *run, const struct convolution *conv, const float *x,
                     int64_t frames, const float *scale, const float *bias, int act, float *y)
{
    int64_t count = output_frames(conv, frames);
    if (!has_avx512(run) || !conv->weight || conv->weight->dtype != DTYPE_I8)
        return 0;
    struct conv1d call = {
        .x = x, .batch = 1, .frames = frames, .x_stride = conv->channels * conv->groups,
        .groups = conv->groups, .channels = conv->channels, .out = conv->out / conv->groups,
        .kernel_size = conv->kernel, .stride = conv->stride, .padding = conv->padding,
        .count = count, .weights = conv->weight->data, .weight_type = WEIGHT_INT8, .num_parts = 2,
        .weights_in_rows = 1, .scale = scale, .bias = bias, .gelu = act, .y = y,
    };
    if (!conv1d_in_integers(&call))
        return 0;
    int64_t work = count * conv->out * conv->kernel * conv->channels;
    int threads = threads_for(run, work);
    require_computed(run, cress_conv1d(&call, ISA_AVX512_VNNI, threads, run_parallel));
    return 1;
}

/* Frames with zeros before and behind them. */
static const float *padded(struct run *run, const float *x, int64_t frames, int64_t width,
                           int64_t padding)
{
    float *more = take_zeros(run->arena, (size_t)((frames + 2 * padding) * width), sizeof *more);
    memcpy(more + padding * width, x, (size_t)(frames * width) * sizeof *more);
    return more;
}

/* A short window: all outputs at once. */
VECTORS static void convolve_window(const float *x, int64_t step, int64_t size,
                                    const float *weights, int64_t count, int64_t out,
                                    const float *scale, const float *bias, float *y)
{
    for (int64_t t = 0; t < count; t++, x += step, y += out) {
        for (int64_t o = 0; o < out; o++)
            y[o] = 0;
        for (int64_t i = 0; i < size; i++)
            for (int64_t o = 0; o < out; o++)
                y[o] += x[i] * weights[i * out + o];
        for (int64_t o = 0; o < out; o++)
            y[o] = y[o] * scale[o] + (bias ? bias[o] : 0);
    }
}

enum { SHORT = 32 };

static void convolve_short(struct run *run, const struct convolution *conv, const float *x,
                           int64_t count, const float *scale, const float *bias, float *y)
{
    int64_t size = conv->kernel * conv->channels;
    float *weights = take(run->arena, (size_t)(size * conv->out), sizeof *weights), row[SHORT];
    for (int64_t o = 0; o < conv->out; o++) {
        output_weight(conv, o, row);
        for (int64_t i = 0; i < size; i++)
            weights[i * conv->out + o] = row[i];
    }
    convolve_window(x, conv->stride * conv->channels, size, weights, count, conv->out, scale, bias,
                    y);
}

/* Windows of the channels of a group are rows, which overlap in memory. */
static void convolve_group(struct run *run, const struct convolution *conv, const float *x,
                           int64_t frames, int64_t group, const float *scale, const float *bias,
                           float *y)
{
    struct block *before = mark(run->arena);
    int64_t channels = conv->channels, width = channels * conv->groups;
    int64_t out = conv->out / conv->groups, first = group * out;
    if (conv->groups > 1) {
        float *own = take(run->arena, (size_t)(frames * channels), sizeof *own);
        for (int64_t t = 0; t < frames; t++)
            memcpy(own + t * channels, x + t * width + group * channels,
                   (size_t)channels * sizeof *own);
        x = own;
    }
    const struct product product = {
        .x = x, .step = conv->stride * channels, .rows = (frames - conv->kernel) / conv->stride + 1,
        .size = conv->kernel * channels, .out = out, .weight = conv->weight,
        .first = first * conv->kernel * channels, .scale = scale + first,
        .floats = conv->normalised ? conv->normalised + first * conv->kernel * channels : NULL,
        .bias = bias ? bias + first : NULL, .y = y + first, .y_stride = conv->out,
    };
    multiply(run, &product);
    release(run->arena, before);
}

void convolve(struct run *run, const struct convolution *conv, const float *x, int64_t frames,
              const float *scale, const float *bias, int act, float *y)
{
    struct block *before = mark(run->arena);
    int64_t count = output_frames(conv, frames), width = conv->channels * conv->groups;
    if (count && !by_kernel(run, conv, x, frames, scale, bias, act, y)) {
        if (conv->padding)
            x = padded(run, x, frames, width, conv->padding);
        if (conv->groups == 1 && conv->kernel * conv->channels <= SHORT)
            convolve_short(run, conv, x, count, scale, bias, y);
        else
            for (int64_t group = 0; group < conv->groups; group++)
                convolve_group(run, conv, x, frames + 2 * conv->padding, group, scale, bias, y);
        if (act)
            activate(run, GELU, y, count * conv->out);
    }
    release(run->arena, before);
}
