/* Linear layers: packed ones by the package's kernel for 1-bit weights, int8 ones, dense ones. */
#include <math.h>
#include <string.h>

#include "compute.h"
#include "kernels.h"
#include "product.h"

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

static const float SMALLEST_STEP = 1e-30f; /* of a row of zeros */

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
        float divisor = linear->input == INPUT_ROTATED_GRID ? fmaxf(step, SMALLEST_STEP) : step;
        for (int64_t i = 0; i < width; i++) {
            float ratio = x[i] / divisor;
            if (linear->input == INPUT_SIGNS)
                x[i] = ratio < 0 ? -step : step;
            else if (linear->input == INPUT_STEPS)
                x[i] = limited(rintf(ratio), linear->low, linear->high) * step;
            else
                x[i] = (limited(floorf(ratio), linear->low, linear->high - 1) + 0.5f) * step;
        }
    }
}

/* The sum of the planes' products (rows x planes x out), and the bias. */
static void add_planes(const struct linear *linear, const float *products, const float *bias,
                       int64_t rows, float *y)
{
    int64_t out = linear->out;
    for (int64_t r = 0; r < rows; r++, products += linear->planes * out, y += out)
        for (int64_t o = 0; o < out; o++) {
            float total = 0;
            for (int plane = 0; plane < linear->planes; plane++)
                total += products[plane * out + o];
            y[o] = bias ? total + bias[o] : total;
        }
}

static void apply_packed(struct run *run, const struct linear *linear, const float *x,
                         int64_t rows, float *y)
{
    int64_t in = linear->in, all_out = linear->out * linear->planes;
    int has_planes = linear->planes > 1, threads = threads_for(run, rows * in * all_out);
    const float *bias = linear->output_norm ? NULL : linear->bias;
    float *products = y;
    if (linear->norm.width) {
        float *normed = take(run->arena, (size_t)(rows * in), sizeof *normed);
        apply_norm(run, &linear->norm, x, rows, normed);
        x = normed;
    }
    if (linear->input != INPUT_PLAIN) {
        float *changed = take(run->arena, (size_t)(rows * in) + 1, sizeof *changed);
        memcpy(changed, x, (size_t)(rows * in) * sizeof *changed);
        prepare_input(linear, changed, rows);
        x = changed;
    }
    if (has_planes)
        products = take(run->arena, (size_t)(rows * all_out), sizeof *products);
    require_computed(run, cress_sign_gemm(x, rows, in, linear->tiles, in, all_out, linear->g,
                                          linear->h, has_planes ? NULL : bias, products,
                                          linear->num_parts, run->isa, threads, run_parallel));
    if (has_planes)
        add_planes(linear, products, bias, rows, y);
    if (linear->output_norm) {
        const struct norm norm = {.width = linear->out, .bias = linear->bias, .eps = NORM_EPS};
        apply_norm(run, &norm, y, rows, y);
    }
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

/* Below so many rows, laying weights out for ``multiply`` takes longer than it saves. */
enum { FEW_ROWS = 8 };

static void apply_dense(struct run *run, const struct linear *linear, const float *x, int64_t rows,
                        float *y)
{
    const struct product product = {
        .x = x, .step = linear->in, .rows = rows, .size = linear->in, .out = linear->out,
        .weight = linear->weight, .scale = linear->scale, .bias = linear->bias, .y = y,
        .y_stride = linear->out,
    };
    (rows < FEW_ROWS ? multiply_few : multiply)(run, &product);
}

static void apply_int8(struct run *run, const struct linear *linear, const float *x, int64_t rows,
                       float *y)
{
    int64_t in = linear->in, out = linear->out;
    struct conv1d call = {
        .x = x, .batch = 1, .frames = rows, .x_stride = in, .groups = 1, .channels = in, .out = out,
        .kernel_size = 1, .stride = 1, .count = rows, .weights = linear->weight->data,
        .weight_type = WEIGHT_INT8, .num_parts = 1, .weights_in_rows = 1, .scale = linear->scale,
        .bias = linear->bias, .y = y,
    };
    if (has_avx512(run) && conv1d_in_integers(&call)) {
        int threads = threads_for(run, rows * in * out);
        require_computed(run, cress_conv1d(&call, ISA_AVX512_VNNI, threads, run_parallel));
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
