/* HuBERT, the subsampler and the encoder, on one utterance. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "translate.h"

/* Of the last convolution, so that a chunk stays in the caches; more where each chunk lays the
 * weights out once. */
static int64_t chunk_frames(const struct run *run)
{
    return has_avx512(run) ? 16 : 64;
}

/* Gain and bias of a normalisation over time of the first convolution's output, from mean and
 * covariance of its windows: inference/front_end.py, ``normalisation``. */
static void over_time(struct run *run, const struct convolution *conv, const float *samples,
                      int64_t frames, float *gain, float *bias)
{
    int64_t size = conv->kernel;
    double *centre = take_zeros(run->arena, (size_t)size, sizeof *centre);
    double *covariance = take_zeros(run->arena, (size_t)(size * size), sizeof *covariance);
    double *window = take(run->arena, (size_t)size, sizeof *window);
    float *weight = floats(run, size);
    for (int64_t t = 0; t < frames; t++)
        for (int64_t k = 0; k < size; k++)
            centre[k] += samples[t * conv->stride + k];
    for (int64_t k = 0; k < size; k++)
        centre[k] /= (double)frames;
    for (int64_t t = 0; t < frames; t++) {
        for (int64_t k = 0; k < size; k++)
            window[k] = samples[t * conv->stride + k] - centre[k];
        for (int64_t i = 0; i < size; i++)
            for (int64_t j = 0; j < size; j++)
                covariance[i * size + j] += window[i] * window[j];
    }
    for (int64_t o = 0; o < conv->out; o++) {
        double variance = 0, mean = 0;
        output_weight(conv, o, weight);
        for (int64_t i = 0; i < size; i++) {
            double row = 0;
            for (int64_t j = 0; j < size; j++)
                row += covariance[i * size + j] * (double)(weight[j] * conv->scale[o]);
            variance += row / (double)frames * (double)(weight[i] * conv->scale[o]);
            mean += centre[i] * (double)(weight[i] * conv->scale[o]);
        }
        double factor = conv->norm.weight[o] / sqrt(variance + (double)conv->norm.eps);
        gain[o] = conv->scale[o] * (float)factor;
        bias[o] = (float)(conv->norm.bias[o] - mean * factor);
    }
}

/* All convolutions for the last one's frames start .. end. */
static void convolve_chunk(struct run *run, const float *samples, int64_t start, int64_t end,
                           const float *gain, const float *bias, float *to)
{
    const struct cress_model *model = run->model;
    int64_t first[MOST_CONVOLUTIONS + 1], last[MOST_CONVOLUTIONS + 1];
    int count = model->convolutions;
    first[count] = start, last[count] = end;
    for (int i = count - 1; i >= 0; i--) {
        first[i] = first[i + 1] * model->convolution[i].stride;
        last[i] = (last[i + 1] - 1) * model->convolution[i].stride + model->convolution[i].kernel;
    }
    const float *x = samples + first[0];
    for (int i = 0; i < count; i++) {
        const struct convolution *conv = &model->convolution[i];
        int64_t frames = last[i + 1] - first[i + 1];
        float *y = i == count - 1 ? to : floats(run, frames * conv->out);
        int layer_norm = conv->norm.width && !conv->norm_over_time;
        convolve(run, conv, x, last[i] - first[i], conv->norm_over_time ? gain : conv->scale,
                 conv->norm_over_time ? bias : conv->bias, !layer_norm, y);
        if (layer_norm) {
            apply_norm(run, &conv->norm, y, frames, y);
            activate(run, GELU, y, frames * conv->out);
        }
        x = y;
    }
}

/* Chunks of all convolutions, which threads take. */
struct front_end {
    struct run *run;
    const float *samples, *gain, *bias;
    float *features;
    int64_t frames, out, chunk, next;
    int failed;
    char message[sizeof(((struct arena *)0)->message)];
};

/* Each thread has its own memory, and leaves by its own errors. */
static void take_chunks(void *data)
{
    struct front_end *all = data;
    struct arena arena = {0};
    struct run run = *all->run;
    int64_t start;
    run.arena = &arena;
    run.threads = 1;
    if (setjmp(arena.escape)) {
        if (!__atomic_exchange_n(&all->failed, 1, __ATOMIC_ACQ_REL))
            memcpy(all->message, arena.message, sizeof arena.message);
        arena_free(&arena);
        return;
    }
    while ((start = __atomic_fetch_add(&all->next, all->chunk, __ATOMIC_RELAXED)) < all->frames) {
        int64_t end = start + all->chunk < all->frames ? start + all->chunk : all->frames;
        convolve_chunk(&run, all->samples, start, end, all->gain, all->bias,
                       all->features + start * all->out);
        release(&arena, NULL);
    }
    arena_free(&arena);
}

/* Samples -> features (frames x out of the last convolution). */
static float *front_end(struct run *run, const float *samples, int64_t count, int64_t *frames)
{
    const struct cress_model *model = run->model;
    const struct convolution *first = &model->convolution[0];
    int64_t rest = count;
    for (int i = 0; i < model->convolutions; i++)
        rest = output_frames(&model->convolution[i], rest);
    float *gain = floats(run, first->out), *bias = floats(run, first->out);
    if (first->norm_over_time)
        over_time(run, first, samples, output_frames(first, count), gain, bias);
    struct front_end all = {.run = run, .samples = samples, .gain = gain, .bias = bias,
                            .out = model->convolution[model->convolutions - 1].out};
    all.frames = rest;
    all.chunk = chunk_frames(run);
    all.features = floats(run, rest * all.out);
    run_parallel(take_chunks, &all, rest > all.chunk ? (unsigned)run->threads : 1, 0);
    if (all.failed)
        fail(run->arena, "%s", all.message);
    *frames = rest;
    return all.features;
}

static void add(float *x, const float *y, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        x[i] += y[i];
}

static void run_layer(struct run *run, const struct layer *layer, int64_t width, float *x,
                      int64_t rows)
{
    struct block *before = mark(run->arena);
    float *normed = floats(run, rows * width), *y = floats(run, rows * width);
    for (int i = 0; i < layer->count; i++) {
        const struct block_plan *block = &layer->blocks[i];
        struct block *inner = mark(run->arena);
        const float *input = x;
        if (layer->pre_norm) {
            apply_norm(run, &block->norm, x, rows, normed);
            input = normed;
        }
        if (block->kind == BLOCK_FEED_FORWARD) {
            float *hidden = floats(run, rows * block->first.out);
            apply_linear(run, &block->first, input, rows, hidden);
            activate(run, layer->activation, hidden, rows * block->first.out);
            apply_linear(run, &block->second, hidden, rows, y);
        } else {
            float *q = floats(run, rows * width), *k = floats(run, rows * width);
            float *v = floats(run, rows * width), *mixed = floats(run, rows * width);
            apply_linear(run, &block->q, input, rows, q);
            apply_linear(run, &block->k, input, rows, k);
            apply_linear(run, &block->v, input, rows, v);
            struct keys keys = keys_for(run, block->heads, width, rows);
            keys_fill(&keys, k, v);
            attend(run, &keys, q, rows, mixed);
            apply_linear(run, &block->output, mixed, rows, y);
        }
        add(x, y, rows * width);
        if (!layer->pre_norm)
            apply_norm(run, &block->norm, x, rows, x);
        release(run->arena, inner);
    }
    release(run->arena, before);
}

static void run_layers(struct run *run, const struct stack *stack, const char *name, float *x,
                       int64_t rows)
{
    char stage[64];
    for (int i = 0; i < stack->count; i++) {
        run_layer(run, &stack->layers[i], stack->width, x, rows);
        if (run->trace) {
            snprintf(stage, sizeof stage, "%s.%02d", name, i);
            traced(run, stage, x, rows, stack->width);
        }
    }
}

/* HuBERT's transformer. */
static float *transform(struct run *run, const float *features, int64_t frames)
{
    const struct cress_model *model = run->model;
    int64_t channels = model->features_norm.width, width = model->speech.width;
    float *x = floats(run, frames * width), *normed = floats(run, frames * channels);
    float *places = floats(run, (frames + 1) * width);
    apply_norm(run, &model->features_norm, features, frames, normed);
    if (model->projection.in)
        apply_linear(run, &model->projection, normed, frames, x);
    else
        memcpy(x, normed, (size_t)(frames * width) * sizeof *x);
    traced(run, "hubert.features", x, frames, width);
    convolve(run, &model->positions, x, frames, model->positions.scale, model->positions.bias, 1,
             places);
    add(x, places, frames * width); /* of an even kernel, one frame more is left out */
    if (!model->norm_first)
        apply_norm(run, &model->speech.norm, x, frames, x);
    traced(run, "hubert.positions", x, frames, width);
    run_layers(run, &model->speech, "hubert.layer", x, frames);
    if (model->norm_first)
        apply_norm(run, &model->speech.norm, x, frames, x);
    return x;
}

static float *subsample(struct run *run, const float *x, int64_t *frames)
{
    const struct cress_model *model = run->model;
    for (int i = 0; i < model->subsamplings; i++) {
        const struct convolution *conv = &model->subsampling[i];
        int64_t count = output_frames(conv, *frames), half = conv->out / 2;
        float *y = floats(run, count * conv->out), *gated = floats(run, count * half);
        convolve(run, conv, x, *frames, conv->scale, conv->bias, 0, y);
        for (int64_t t = 0; t < count; t++)
            for (int64_t c = 0; c < half; c++) {
                float gate = y[t * conv->out + half + c];
                gated[t * half + c] = y[t * conv->out + c] / (1.0f + expf(-gate));
            }
        x = gated;
        *frames = count;
    }
    return (float *)x;
}

void add_positions(struct run *run, const struct stack *stack, float *x, int64_t rows,
                   int64_t first)
{
    struct block *before = mark(run->arena);
    int64_t width = stack->width, half = width / 2;
    float *row = floats(run, width);
    float step = half > 1 ? (float)(log(10000.0) / (double)(half - 1)) : 0;
    for (int64_t r = 0; r < rows && stack->positions != POSITIONS_NONE; r++) {
        int64_t place = stack->first_position + first + r;
        if (stack->positions == POSITIONS_LEARNED) {
            int64_t most = stack->places->shape[0] - 1; /* the last serves for all beyond */
            to_floats(stack->places, (place < most ? place : most) * width, width, row);
        } else {
            for (int64_t i = 0; i < half; i++) {
                float angle = (float)place * expf((float)i * -step);
                row[i] = sinf(angle);
                row[half + i] = cosf(angle);
            }
            if (width % 2)
                row[width - 1] = 0;
        }
        add(x + r * width, row, width);
    }
    release(run->arena, before);
}

/* What a frame sees of the samples: the shortest input. */
static int64_t receptive_field(const struct cress_model *model)
{
    int64_t field = 1;
    for (int i = model->convolutions - 1; i >= 0; i--)
        field = (field - 1) * model->convolution[i].stride + model->convolution[i].kernel;
    return field;
}

float *encode_speech(struct run *run, const float *samples, int64_t count, int normalize,
                     int64_t *frames)
{
    const struct cress_model *model = run->model;
    int64_t shortest = receptive_field(model), length = count < shortest ? shortest : count;
    float *wave = take_zeros(run->arena, (size_t)length + 64, sizeof *wave);
    memcpy(wave, samples, (size_t)count * sizeof *wave);
    if (normalize && count) { /* mean 0 and variance 1: data/audio.py, ``standardize`` */
        const struct norm standard = {.width = count, .eps = NORM_EPS};
        apply_norm(run, &standard, wave, 1, wave);
    }
    float *features = front_end(run, wave, length, frames);
    traced(run, "hubert.convolutions", features, *frames, model->features_norm.width);
    float *x = transform(run, features, *frames);
    traced(run, "hubert", x, *frames, model->speech.width);
    return x;
}

const float *encode(struct run *run, const float *samples, int64_t count, int64_t *frames)
{
    const struct cress_model *model = run->model;
    float *x = encode_speech(run, samples, count, model->normalize, frames);
    x = subsample(run, x, frames);
    const struct stack *stack = &model->encoder;
    int64_t total = *frames * stack->width;
    traced(run, "subsampler", x, *frames, stack->width);
    for (int64_t i = 0; i < total; i++)
        x[i] *= stack->scale;
    add_positions(run, stack, x, *frames, 0);
    if (stack->embedding_norm.width)
        apply_norm(run, &stack->embedding_norm, x, *frames, x);
    run_layers(run, stack, "encoder.layer", x, *frames);
    if (stack->norm.width)
        apply_norm(run, &stack->norm, x, *frames, x);
    traced(run, "encoder", x, *frames, stack->width);
    return x;
}
