/* What layers are made of, on rows of float32. */
#ifndef CRESS_COMPUTE_H
#define CRESS_COMPUTE_H

#include "cress.h"
#include "model.h"
#include "pool.h"

/* One translation: its memory, its threads, who listens. */
struct run {
    const struct cress_model *model;
    struct arena *arena;
    int isa, threads;
    int32_t first; /* token that translations begin with, which they do not hold */
    cress_trace *trace;
    void *trace_data;
};

void traced(const struct run *run, const char *stage, const float *values, int64_t rows,
            int64_t columns);

/* Room for so many numbers in the run's arena, and a little more: vectors may read beyond the last. */
static inline float *floats(struct run *run, int64_t count)
{
    return take(run->arena, (size_t)count + 16, sizeof(float));
}

/* y (rows x out) of x (rows x in). */
void apply_linear(struct run *run, const struct linear *linear, const float *x, int64_t rows,
                  float *y);

/* Of torch's norms, where the file says none. */
#define NORM_EPS 1e-5f

/* y of x (rows x norm->width); in place where y is x. */
void apply_norm(struct run *run, const struct norm *norm, const float *x, int64_t rows, float *y);

void activate(struct run *run, enum activation activation, float *values, int64_t count);

/* act(convolution(x) * scale + bias): frames x channels -> count x out, in time order. ``x`` has
 * ``frames`` frames; padding is the convolution's own. */
int64_t output_frames(const struct convolution *conv, int64_t frames);
void convolve(struct run *run, const struct convolution *conv, const float *x, int64_t frames,
              const float *scale, const float *bias, int gelu, float *y);

/* The weight of an output as float32, kernel x channels. */
void output_weight(const struct convolution *conv, int64_t output, float *to);

/* Keys and values as attention reads them. */
struct keys {
    int heads;
    int64_t size, count, padded; /* channels of a head; rows, and rows with padding */
    float *keys, *values;
};

/* Room for so many rows; filled from rows x width each. */
struct keys keys_for(struct run *run, int heads, int64_t width, int64_t count);
void keys_fill(const struct keys *to, const float *keys, const float *values);

/* What queries (rows x width) mix of the values (rows x width). */
void attend(struct run *run, const struct keys *keys, const float *queries, int64_t rows,
            float *mixed);

float dot(const float *a, const float *b, int64_t count);
void softmax(float *values, int64_t count);
/* values - max - log(sum exp) */
void log_softmax(float *values, int64_t count);

/* Threads that so many products are worth. */
int threads_for(const struct run *run, int64_t work);

/* Whether the run's instructions include AVX-512. */
int has_avx512(const struct run *run);

/* Fails where a kernel returned another status than 0. */
void require_computed(struct run *run, int status);

#endif
