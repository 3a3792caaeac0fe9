/* What all stages share: which kernels and threads compute, and elementwise functions on rows. */
#include "compute.h"

#include <math.h>
#include <string.h>

#include "vectors.h"

void traced(const struct run *run, const char *stage, const float *values, int64_t rows,
            int64_t columns)
{
    if (run->trace)
        run->trace(run->trace_data, stage, values, (size_t)rows, (size_t)columns);
}

enum { THREAD_WORK = 1 << 20 }; /* products that are worth a thread */

int threads_for(const struct run *run, int64_t work)
{
    int64_t most = work / THREAD_WORK;
    return most < 2 ? 1 : most < run->threads ? (int)most : run->threads;
}

void require_computed(struct run *run, int status)
{
    if (status)
        fail(run->arena, status == OUT_OF_MEMORY ? "out of memory in a product"
                                                 : "a kernel refused a product");
}

/* All processors with AMX have it.  AMX itself multiplies 1-bit weights alone: int8 ones it wants in
 * another order than the file has. */
int has_avx512(const struct run *run)
{
    return run->isa == ISA_AVX512_VNNI || run->isa == ISA_AMX;
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

VECTORS static void normalise(const struct norm *norm, const float *x, int64_t rows, float *y)
{
    int64_t width = norm->width;
    for (int64_t r = 0; r < rows; r++, x += width, y += width) {
        double sum = 0, squares = 0;
        for (int64_t i = 0; i < width; i++)
            sum += x[i];
        double mean = norm->is_rms ? 0 : sum / (double)width;
        for (int64_t i = 0; i < width; i++)
            squares += (x[i] - mean) * (x[i] - mean);
        float scale = (float)(1.0 / sqrt(squares / (double)width + norm->eps));
        float centre = (float)mean;
        for (int64_t i = 0; i < width; i++)
            y[i] = (x[i] - centre) * scale * (norm->weight ? norm->weight[i] : 1) +
                   (norm->bias ? norm->bias[i] : 0);
    }
}

static void normalise_share(const struct shares *shares, int64_t first, int64_t count)
{
    int64_t at = first * shares->norm->width;
    normalise(shares->norm, shares->x + at, count, shares->y + at);
}

void apply_norm(struct run *run, const struct norm *norm, const float *x, int64_t rows, float *y)
{
    struct shares shares = {.work = normalise_share, .rows = rows, .x = x, .y = y, .norm = norm};
    share(run, &shares, rows * norm->width);
}
