#include "segment_learnt.h"

#include <math.h>
#include <string.h>

#include "resample.h"
#include "translate.h"

enum { WINDOW_SECONDS = 20, OVERLAP_SECONDS = 4, KERNEL = 5, FINER = 4 };

/* A tensor's numbers as float32. */
static const float *numbers(struct cress_model *model, const char *name, const char *suffix,
                            int dimensions, const int64_t *shape)
{
    char prefix[80] = "segmenter/tensors/";
    const struct tensor *found = file_get(&model->arena, &model->file, strcat(prefix, name), suffix,
                                          dimensions, shape);
    if (!is_floating(found))
        fail(&model->arena, "the tensor %.60s.%s is not of floating point", prefix, suffix);
    float *values = take(&model->arena, (size_t)found->count + 1, sizeof *values);
    to_floats(found, 0, found->count, values);
    return values;
}

struct hearing *hearing_read(struct cress_model *model)
{
    struct arena *arena = &model->arena;
    const struct json *entry = json_find(model->file.plan, "segmenter");
    if (!entry || entry->kind == JSON_NULL)
        return NULL;
    const struct json *plan = json_get(arena, model->file.plan, "segmenter", JSON_OBJECT);
    struct hearing *hearing = take_zeros(arena, 1, sizeof *hearing);
    int64_t dim = model->speech.width, width = json_integer(arena, plan, "width", 1, 4096);
    int64_t one[] = {dim}, wide[] = {width}, matrix[] = {width, dim}, last[] = {1, width};
    int64_t cube[] = {width, KERNEL, width}, single[] = {1};
    json_integer(arena, plan, "dim", dim, dim);
    hearing->width = width;
    hearing->normalize = json_truth(arena, plan, "normalize");
    hearing->pause_seconds = json_real(arena, plan, "pause_seconds");
    hearing->min_seconds = json_real(arena, plan, "min_seconds");
    hearing->threshold = (float)json_real(arena, plan, "threshold");
    if (!(hearing->pause_seconds >= 0 && hearing->pause_seconds <= 3600 &&
          hearing->min_seconds >= 0 && hearing->min_seconds <= 3600))
        fail(arena, "the segmenter's pause_seconds or min_seconds are not from 0 to 3600");
    hearing->norm = (struct norm){.width = dim, .weight = numbers(model, "norm", "weight", 1, one),
                                  .bias = numbers(model, "norm", "bias", 1, one), .eps = NORM_EPS};
    hearing->project = numbers(model, "project", "weight", 2, matrix);
    hearing->project_bias = numbers(model, "project", "bias", 1, wide);
    for (int i = 0; i < HEARING_CONVOLUTIONS; i++) {
        char name[] = "convolutions.0";
        name[sizeof name - 2] = (char)('0' + i);
        hearing->convolution[i] = numbers(model, name, "weight", 3, cube);
        hearing->bias[i] = numbers(model, name, "bias", 1, wide);
    }
    hearing->output = numbers(model, "output", "weight", 2, last);
    hearing->output_bias = numbers(model, "output", "bias", 1, single);
    return hearing;
}

/* x += gelu(convolution(x)), frames at distances of ``dilation``. */
static void add_convolution(struct run *run, const struct hearing *hearing, int number,
                            float *x, int64_t frames)
{
    int64_t width = hearing->width, dilation = 1 << number;
    float *y = take(run->arena, (size_t)(frames * width), sizeof *y);
    for (int64_t t = 0; t < frames; t++)
        for (int64_t o = 0; o < width; o++) {
            const float *weight = hearing->convolution[number] + o * KERNEL * width;
            float total = hearing->bias[number][o];
            for (int64_t k = 0; k < KERNEL; k++) {
                int64_t from = t + (k - KERNEL / 2) * dilation;
                if (from >= 0 && from < frames)
                    total += dot(weight + k * width, x + from * width, width);
            }
            y[t * width + o] = total;
        }
    activate(run, GELU, y, frames * width);
    for (int64_t i = 0; i < frames * width; i++)
        x[i] += y[i];
}

static int is_silent(const float *wave, int64_t count)
{
    float mean = 0, peak = 0;
    double sum = 0;
    for (int64_t i = 0; i < count; i++)
        sum += wave[i];
    mean = (float)(sum / (double)count);
    for (int64_t i = 0; i < count; i++)
        peak = fmaxf(peak, fabsf(wave[i] - mean));
    return peak < 1e-4f;
}

/* Of a window's frames, ``count`` of them. */
static void hear_window(struct run *run, const float *wave, int64_t samples, float *probabilities,
                        int64_t count)
{
    const struct hearing *hearing = run->model->hearing;
    int64_t frames, dim = hearing->norm.width, width = hearing->width;
    memset(probabilities, 0, (size_t)count * sizeof *probabilities);
    if (is_silent(wave, samples)) /* there an encoder that normalises hears anything */
        return;
    struct block *before = mark(run->arena);
    float *features = encode_speech(run, wave, samples, hearing->normalize, &frames);
    float *x = take(run->arena, (size_t)(frames * width), sizeof *x);
    apply_norm(run, &hearing->norm, features, frames, features);
    for (int64_t t = 0; t < frames; t++)
        for (int64_t o = 0; o < width; o++)
            x[t * width + o] = dot(hearing->project + o * dim, features + t * dim, dim) +
                               hearing->project_bias[o];
    for (int i = 0; i < HEARING_CONVOLUTIONS; i++)
        add_convolution(run, hearing, i, x, frames);
    for (int64_t t = 0; t < count && frames; t++) {
        const float *last = x + (t < frames ? t : frames - 1) * width;
        float logit = dot(hearing->output, last, width) + hearing->output_bias[0];
        probabilities[t] = 1.0f / (1.0f + expf(-logit));
    }
    release(run->arena, before);
}

/* FINER times as many; frame i stands for what lies between i and i + 1. */
static float *finer(struct run *run, const float *values, int64_t count)
{
    float *more = take(run->arena, (size_t)(count * FINER) + 1, sizeof *more);
    for (int64_t i = 0; i < count * FINER; i++) {
        double place = ((double)i + 0.5) / FINER - 0.5;
        int64_t below = place < 0 ? 0 : (int64_t)place;
        int64_t above = below + 1 < count ? below + 1 : below;
        double part = place < 0 ? 0 : place - (double)below;
        more[i] = (float)(values[below] + (values[above] - (double)values[below]) * part);
    }
    return more;
}

int64_t hear(struct run *run, const float *samples, int64_t count, int64_t rate,
             float **probabilities, double *hop)
{
    const struct cress_model *model = run->model;
    int64_t stride = 1;
    for (int i = 0; i < model->convolutions; i++)
        stride *= model->convolution[i].stride;
    *hop = (double)stride * (double)rate / SAMPLE_RATE / FINER;
    if (!count)
        return 0;
    if (rate != SAMPLE_RATE) {
        int64_t length = resampled_length(count, rate);
        samples = resample(run->arena, samples, count, rate);
        count = length;
    }
    int64_t size = WINDOW_SECONDS * SAMPLE_RATE / stride * stride;
    int64_t overlap = OVERLAP_SECONDS * SAMPLE_RATE / stride * stride, shared = overlap / stride;
    float *found = take(run->arena, (size_t)(count / stride + 2), sizeof *found);
    float *window = take(run->arena, (size_t)(size / stride + 2), sizeof *window);
    int64_t have = 0;
    for (int64_t start = 0;; start += size - overlap) {
        int last = count - start <= size;
        int64_t length = last ? count - start : size, frames = (length + stride - 1) / stride;
        if (length <= (start ? overlap : 0))
            break;
        hear_window(run, samples + start, length, window, frames);
        int64_t first = start ? shared / 2 : 0;
        int64_t end = frames - (last ? 0 : shared - shared / 2);
        for (int64_t t = first; t < end; t++)
            found[have++] = window[t];
        if (last)
            break;
    }
    *probabilities = finer(run, found, have);
    return have * FINER;
}
