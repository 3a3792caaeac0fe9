#include "compute.h"

#include <math.h>
#include <string.h>

#include "conv1d.h"
#include "product.h"
#include "vectors.h"

/* The kernels' entries, which no header of theirs declares: Python calls them. */
int cress_sign_gemm(const float *x, int64_t rows, int64_t x_stride, const uint8_t *tiles,
                    int64_t in, int64_t out, const float *g, const float *h, const float *bias,
                    float *y, int num_parts, int isa, int threads, parallel_function *parallel);
int cress_conv1d(const struct conv1d *w, int isa, int threads, parallel_function *parallel);

enum { FEW = 8, THREAD_WORK = 1 << 20 };

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

/* What is done to each of many rows alike, a share of them at a time. */
struct shares {
    void (*work)(const struct shares *shares, int64_t first, int64_t count);
    int64_t rows, next;
    void (*function)(float *values, int64_t count);
    float *values, *y;
    const float *x;
    const struct norm *norm;
    int is_rms;
};

enum { A_SHARE = 1 << 15 }; /* numbers */

static void take_shares(void *data)
{
    struct shares *shares = data;
    int64_t width = shares->norm ? shares->norm->width : 1, size = A_SHARE / width + 1, first;
    while ((first = __atomic_fetch_add(&shares->next, size, __ATOMIC_RELAXED)) < shares->rows)
        shares->work(shares, first, shares->rows - first < size ? shares->rows - first : size);
}

static void share(const struct run *run, struct shares *shares, int64_t numbers)
{
    int threads = (int)(numbers / A_SHARE < run->threads ? numbers / A_SHARE : run->threads);
    run_parallel(take_shares, shares, threads < 1 ? 1 : (unsigned)threads, 0);
}

static void activate_share(const struct shares *shares, int64_t first, int64_t count)
{
    shares->function(shares->values + first, count);
}

void activate(struct run *run, enum activation activation, float *values, int64_t count)
{
    struct shares shares = {.work = activate_share, .rows = count, .values = values,
                            .function = activation == RELU ? relu : gelu};
    share(run, &shares, count);
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

static void normalise_share(const struct shares *shares, int64_t first, int64_t count)
{
    int64_t at = first * shares->norm->width;
    normalise(shares->norm, shares->is_rms, shares->x + at, count, shares->y + at);
}

static void share_norm(struct run *run, const struct norm *norm, int is_rms, const float *x,
                       int64_t rows, float *y)
{
    struct shares shares = {.work = normalise_share, .rows = rows, .x = x, .y = y, .norm = norm,
                            .is_rms = is_rms};
    share(run, &shares, rows * norm->width);
}

void apply_norm(struct run *run, const struct norm *norm, const float *x, int64_t rows, float *y)
{
    share_norm(run, norm, 0, x, rows, y);
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
        share_norm(run, &linear->norm, linear->is_rms, x, rows, normed);
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

/* Whether integers are multiplied by AVX-512, which those with AMX have as well: AMX wants other
 * weights than the file has. */
static int in_integers(const struct run *run)
{
    return run->isa == ISA_AVX512_VNNI || run->isa == ISA_AMX;
}

/* A few rows: each weight is used as it is read. */
static void multiply_few(struct run *run, const struct product *p)
{
    float *weight = take(run->arena, (size_t)p->size, sizeof *weight);
    for (int64_t o = 0; o < p->out; o++) {
        to_floats(p->weight, o * p->size, p->size, weight);
        for (int64_t r = 0; r < p->rows; r++)
            p->y[r * p->y_stride + o] =
                dot(weight, p->x + r * p->step, p->size) * (p->scale ? p->scale[o] : 1) +
                (p->bias ? p->bias[o] : 0);
    }
}

static void apply_dense(struct run *run, const struct linear *linear, const float *x, int64_t rows,
                        float *y)
{
    const struct product product = {
        .x = x, .step = linear->in, .rows = rows, .size = linear->in, .out = linear->out,
        .weight = linear->weight, .scale = linear->scale, .bias = linear->bias, .y = y,
        .y_stride = linear->out,
    };
    (rows < FEW ? multiply_few : multiply)(run, &product);
}

static void apply_int8(struct run *run, const struct linear *linear, const float *x, int64_t rows,
                       float *y)
{
    int64_t in = linear->in, out = linear->out;
    if (in_integers(run) && in % 4 == 0 && in >= 16) {
        struct conv1d call = {
            .x = x, .batch = 1, .frames = rows, .x_stride = in, .groups = 1, .channels = in,
            .out = out, .kernel_size = 1, .stride = 1, .count = rows,
            .weights = linear->weight->data, .weight_type = WEIGHT_INT8, .num_parts = 1,
            .weights_in_rows = 1, .scale = linear->scale, .bias = linear->bias, .y = y,
        };
        require(run, cress_conv1d(&call, ISA_AVX512_VNNI, threads_for(run, rows * in * out),
                                  run_parallel));
        return;
    }
    apply_dense(run, linear, x, rows, y);
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
    if (!in_integers(run) || !conv->weight || conv->weight->dtype != DTYPE_I8)
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
    require(run, cress_conv1d(&call, ISA_AVX512_VNNI, threads_for(run, work), run_parallel));
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
