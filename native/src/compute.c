#include "compute.h"

#include <math.h>
#include <string.h>

#include "conv1d.h"
#include "vectors.h"

/* The kernels' entries, which no header of theirs declares: Python calls them. */
int cress_sign_gemm(const float *x, int64_t rows, int64_t x_stride, const uint8_t *tiles,
                    int64_t in, int64_t out, const float *g, const float *h, const float *bias,
                    float *y, int num_parts, int isa, int threads, parallel_function *parallel);
int cress_conv1d(const struct conv1d *w, int isa, int threads, parallel_function *parallel);
int cress_conv1d_supported(int isa);

enum { LANES = 16, THREAD_WORK = 1 << 22 };

void traced(const struct run *run, const char *stage, const float *values, int64_t rows,
            int64_t columns)
{
    if (run->trace)
        run->trace(run->trace_data, stage, values, (size_t)rows, (size_t)columns);
}

int threads_for(const struct run *run, int64_t work)
{
    int64_t most = work / THREAD_WORK;
    return most < 2 ? 1 : most < run->threads ? (int)most : run->threads;
}

VECTORS float dot(const float *a, const float *b, int64_t count)
{
    float lanes[LANES] = {0}, rest = 0;
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES)
        for (int lane = 0; lane < LANES; lane++)
            lanes[lane] += a[i + lane] * b[i + lane];
    for (; i < count; i++)
        rest += a[i] * b[i];
    for (int lane = 0; lane < LANES; lane++)
        rest += lanes[lane];
    return rest;
}

static inline float exponential(float x)
{
    /* 2^n times e^r, r in -ln 2 / 2 .. ln 2 / 2; within 2 units of the last place. */
    x = x > -87.0f ? x : -87.0f; /* NaN, too */
    x = x < 88.0f ? x : 88.0f;
    float n = (x * 1.44269504f + 12582912.0f) - 12582912.0f;
    float r = x - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    int32_t bits = ((int32_t)n + 127) * (1 << 23);
    float power;
    memcpy(&power, &bits, sizeof power);
    return p * power;
}

VECTORS static float exponentials(float *values, int64_t count)
{
    float peak = -INFINITY, lanes[LANES] = {0}, total = 0;
    for (int64_t i = 0; i < count; i++)
        peak = values[i] > peak ? values[i] : peak;
    for (int64_t i = 0; i < count; i++)
        values[i] = exponential(values[i] - peak);
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES)
        for (int lane = 0; lane < LANES; lane++)
            lanes[lane] += values[i + lane];
    for (; i < count; i++)
        total += values[i];
    for (int lane = 0; lane < LANES; lane++)
        total += lanes[lane];
    return total;
}

VECTORS void softmax(float *values, int64_t count)
{
    float inverse = 1.0f / exponentials(values, count);
    for (int64_t i = 0; i < count; i++)
        values[i] *= inverse;
}

VECTORS void log_softmax(float *values, int64_t count)
{
    float peak = -INFINITY;
    double total = 0;
    for (int64_t i = 0; i < count; i++)
        peak = values[i] > peak ? values[i] : peak;
    for (int64_t i = 0; i < count; i++)
        total += exponential(values[i] - peak);
    float shift = peak + (float)log(total);
    for (int64_t i = 0; i < count; i++)
        values[i] -= shift;
}

VECTORS static void gelu(float *values, int64_t count)
{
    /* erf by Abramowitz and Stegun, 7.1.26: an error of 1.5e-7. */
    for (int64_t i = 0; i < count; i++) {
        float x = values[i], z = fabsf(x) * 0.70710678f, t = 1.0f / (1.0f + 0.3275911f * z);
        float p = ((((1.061405429f * t - 1.453152027f) * t + 1.421413741f) * t - 0.284496736f) * t +
                   0.254829592f) * t * exponential(-z * z);
        values[i] = 0.5f * x * (x < 0 ? p : 2.0f - p);
    }
}

VECTORS static void relu(float *values, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        values[i] = values[i] < 0 ? 0 : values[i];
}

void activate(enum activation activation, float *values, int64_t count)
{
    (activation == RELU ? relu : gelu)(values, count);
}

VECTORS static void normalise(const struct norm *norm, int is_rms, const float *x, int64_t rows,
                              float *y)
{
    int64_t width = norm->width;
    for (int64_t r = 0; r < rows; r++, x += width, y += width) {
        double sum = 0, squares = 0;
        for (int64_t i = 0; i < width; i++)
            sum += x[i];
        double mean = is_rms ? 0 : sum / (double)width;
        for (int64_t i = 0; i < width; i++)
            squares += (x[i] - mean) * (x[i] - mean);
        float scale = (float)(1.0 / sqrt(squares / (double)width + norm->eps));
        float centre = (float)mean;
        for (int64_t i = 0; i < width; i++)
            y[i] = (x[i] - centre) * scale * norm->weight[i] + (norm->bias ? norm->bias[i] : 0);
    }
}

void apply_norm(const struct norm *norm, const float *x, int64_t rows, float *y)
{
    normalise(norm, 0, x, rows, y);
}

/* Linear layers */

static void require(struct run *run, int status)
{
    if (status)
        fail(run->arena, status == OUT_OF_MEMORY ? "out of memory in a product"
                                                 : "a kernel refused a product");
}

enum { LARGEST_BLOCK = 128 }; /* of a rotation */

/* Rows of Hadamard matrices, the largest power of two up to 128 that divides the width. */
static void rotate(float *x, int64_t width, int64_t rows)
{
    int64_t size = width & -width;
    size = size < LARGEST_BLOCK ? size : LARGEST_BLOCK;
    float scale = 1.0f / sqrtf((float)size);
    for (float *block = x; block < x + rows * width; block += size) {
        for (int64_t half = 1; half < size; half *= 2)
            for (int64_t i = 0; i < size; i++)
                if (!(i & half)) {
                    float a = block[i], b = block[i + half];
                    block[i] = a + b;
                    block[i + half] = a - b;
                }
        for (int64_t i = 0; i < size; i++)
            block[i] *= scale;
    }
}

static float limited(float value, float low, float high)
{
    return value > low ? value < high ? value : high : low;
}

/* What the method does to the input, in place. */
static void prepare_input(const struct linear *linear, float *x, int64_t rows)
{
    int64_t width = linear->in;
    if (linear->input >= INPUT_ROTATION)
        rotate(x, width, rows);
    for (int64_t r = 0; r < rows && linear->input != INPUT_ROTATION; r++, x += width) {
        float step = linear->step;
        if (linear->input == INPUT_ROTATED_GRID)
            step *= sqrtf(dot(x, x, width) / (float)width);
        for (int64_t i = 0; i < width; i++) {
            float ratio = x[i] / (linear->input == INPUT_ROTATED_GRID && step < 1e-30f ? 1e-30f : step);
            if (linear->input == INPUT_SIGNS)
                x[i] = ratio < 0 ? -step : step;
            else if (linear->input == INPUT_STEPS)
                x[i] = limited(rintf(ratio), linear->low, linear->high) * step;
            else
                x[i] = (limited(floorf(ratio), linear->low, linear->high - 1) + 0.5f) * step;
        }
    }
}

/* A norm over the outputs without scales, then the bias. */
static void finish_output(const struct linear *linear, float *y, int64_t rows)
{
    int64_t width = linear->out;
    for (int64_t r = 0; r < rows; r++, y += width) {
        double mean = 0, squares = 0;
        for (int64_t i = 0; i < width; i++)
            mean += y[i];
        mean /= (double)width;
        for (int64_t i = 0; i < width; i++)
            squares += (y[i] - mean) * (y[i] - mean);
        float scale = (float)(1.0 / sqrt(squares / (double)width + 1e-5));
        for (int64_t i = 0; i < width; i++)
            y[i] = (y[i] - (float)mean) * scale + (linear->bias ? linear->bias[i] : 0);
    }
}

static void apply_packed(struct run *run, const struct linear *linear, const float *x,
                         int64_t rows, float *y)
{
    int64_t out = linear->out * linear->planes;
    float *normed = NULL, *parts = y;
    if (linear->norm.width) {
        normed = take(run->arena, (size_t)(rows * linear->in), sizeof *normed);
        normalise(&linear->norm, linear->is_rms, x, rows, normed);
        x = normed;
    }
    if (linear->input != INPUT_PLAIN) {
        float *changed = take(run->arena, (size_t)(rows * linear->in) + 1, sizeof *changed);
        memcpy(changed, x, (size_t)(rows * linear->in) * sizeof *changed);
        prepare_input(linear, changed, rows);
        x = changed;
    }
    const float *bias = linear->output_norm ? NULL : linear->bias;
    if (linear->planes > 1)
        parts = take(run->arena, (size_t)(rows * out), sizeof *parts);
    require(run, cress_sign_gemm(x, rows, linear->in, linear->tiles, linear->in, out, linear->g,
                                 linear->h, linear->planes > 1 ? NULL : bias, parts,
                                 linear->parts, run->isa,
                                 threads_for(run, rows * linear->in * out), run_parallel));
    for (int64_t r = 0; r < rows && linear->planes > 1; r++)
        for (int64_t o = 0; o < linear->out; o++) {
            float total = 0;
            for (int plane = 0; plane < linear->planes; plane++)
                total += parts[r * out + plane * linear->out + o];
            y[r * linear->out + o] = bias ? total + bias[o] : total;
        }
    if (linear->output_norm)
        finish_output(linear, y, rows);
}

VECTORS static int32_t dot_bytes(const int8_t *a, const int8_t *b, int64_t count)
{
    int32_t total = 0;
    for (int64_t i = 0; i < count; i++)
        total += (int16_t)a[i] * (int16_t)b[i];
    return total;
}

/* Integers by a split of the rows into two bytes, as torch_int8.py. */
static void apply_int8(struct run *run, const struct linear *linear, const float *x, int64_t rows,
                       float *y)
{
    int64_t in = linear->in, out = linear->out;
    if (run->isa == ISA_AVX512_VNNI && in % 4 == 0 && in >= 16) {
        struct conv1d call = {
            .x = x, .batch = 1, .frames = rows, .x_stride = in, .groups = 1, .channels = in,
            .out = out, .kernel_size = 1, .stride = 1, .count = rows,
            .weights = linear->weight->data, .weight_type = WEIGHT_INT8, .num_parts = 1,
            .weights_in_rows = 1, .scale = linear->scale, .bias = linear->bias, .y = y,
        };
        require(run, cress_conv1d(&call, run->isa, threads_for(run, rows * in * out),
                                  run_parallel));
        return;
    }
    struct quantized q = {.num_parts = 2, .count = 2 * rows, .stride = (in + 63) / 64 * 64};
    q.values = take(run->arena, (size_t)(q.count * q.stride), 1);
    q.sums = take(run->arena, (size_t)q.count, sizeof *q.sums);
    q.scales = take(run->arena, (size_t)rows, sizeof *q.scales);
    quantize_portable(x, in, in, NULL, &q);
    const int8_t *weight = linear->weight->data;
    for (int64_t o = 0; o < out; o++, weight += in)
        for (int64_t r = 0; r < rows; r++) {
            const int8_t *high = q.values + 2 * r * q.stride;
            float product = (float)dot_bytes(weight, high, in) * 256 +
                            (float)dot_bytes(weight, high + q.stride, in);
            y[r * out + o] = product * q.scales[r] * linear->scale[o] +
                             (linear->bias ? linear->bias[o] : 0);
        }
}

static void apply_dense(struct run *run, const struct linear *linear, const float *x, int64_t rows,
                        float *y)
{
    int64_t in = linear->in, out = linear->out;
    float *weight = take(run->arena, (size_t)in, sizeof *weight);
    for (int64_t o = 0; o < out; o++) {
        to_floats(linear->weight, o * in, in, weight);
        for (int64_t r = 0; r < rows; r++)
            y[r * out + o] = dot(weight, x + r * in, in) + (linear->bias ? linear->bias[o] : 0);
    }
}

void apply_linear(struct run *run, const struct linear *linear, const float *x, int64_t rows,
                  float *y)
{
    struct block *before = mark(run->arena);
    if (linear->kind == LINEAR_PACKED)
        apply_packed(run, linear, x, rows, y);
    else if (linear->kind == LINEAR_INT8)
        apply_int8(run, linear, x, rows, y);
    else
        apply_dense(run, linear, x, rows, y);
    release(run->arena, before);
}

/* Convolutions */

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
    if (run->isa != ISA_AVX512_VNNI || !conv->weight || conv->weight->dtype != DTYPE_I8 ||
        !cress_conv1d_supported(run->isa))
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
    require(run, cress_conv1d(&call, run->isa, threads_for(run, work), run_parallel));
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

VECTORS static void convolve_output(const float *x, int64_t width, int64_t stride, int64_t kernel,
                                    int64_t channels, const float *weight, int64_t count,
                                    float scale, float bias, float *y, int64_t y_stride)
{
    for (int64_t t = 0; t < count; t++) {
        const float *window = x + t * stride * width;
        float total = 0;
        if (channels == width) {
            total = dot(window, weight, kernel * channels);
        } else {
            for (int64_t k = 0; k < kernel; k++)
                total += dot(window + k * width, weight + k * channels, channels);
        }
        y[t * y_stride] = total * scale + bias;
    }
}

void convolve(struct run *run, const struct convolution *conv, const float *x, int64_t frames,
              const float *scale, const float *bias, int act, float *y)
{
    struct block *before = mark(run->arena);
    int64_t count = output_frames(conv, frames), width = conv->channels * conv->groups;
    if (count && !by_kernel(run, conv, x, frames, scale, bias, act, y)) {
        float *weight = take(run->arena, (size_t)(conv->kernel * conv->channels), sizeof *weight);
        if (conv->padding)
            x = padded(run, x, frames, width, conv->padding);
        for (int64_t o = 0; o < conv->out; o++) {
            int64_t group = o / (conv->out / conv->groups);
            output_weight(conv, o, weight);
            convolve_output(x + group * conv->channels, width, conv->stride, conv->kernel,
                            conv->channels, weight, count, scale[o], bias ? bias[o] : 0, y + o,
                            conv->out);
        }
        if (act)
            gelu(y, count * conv->out);
    }
    release(run->arena, before);
}
