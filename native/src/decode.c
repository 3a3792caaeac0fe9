/* The decoder, a token at a time, for all beams of an utterance. */
#include <math.h>
#include <string.h>

#include "translate.h"

/* Keys and values of one attention. */
struct cache {
    float *keys, *values; /* of itself: step x beams x width */
    struct keys source;
};

struct decoder {
    int beams;
    int64_t step, most;
    struct cache **caches; /* of each layer's blocks */
    int32_t *history;      /* beams x most: which row of a step each beam's past has */
    int32_t *former;
    float *logits;
    float *attention; /* frames: where wanted, the mean attention of a step is added there */
    int64_t frames;
};

struct decoder *decoder_begin(struct run *run, const float *states, int64_t frames, int beams,
                              int64_t most)
{
    const struct stack *stack = &run->model->decoder;
    struct decoder *decoder = take_zeros(run->arena, 1, sizeof *decoder);
    decoder->beams = beams;
    decoder->most = most;
    decoder->frames = frames;
    decoder->history = take_zeros(run->arena, (size_t)(beams * most), sizeof(int32_t));
    decoder->former = take_zeros(run->arena, (size_t)(beams * most), sizeof(int32_t));
    decoder->logits = floats(run, beams * run->model->vocabulary);
    decoder->caches = take_zeros(run->arena, (size_t)stack->count + 1, sizeof *decoder->caches);
    for (int i = 0; i < stack->count; i++) {
        const struct layer *layer = &stack->layers[i];
        decoder->caches[i] =
            take_zeros(run->arena, (size_t)layer->count + 1, sizeof *decoder->caches[i]);
        for (int b = 0; b < layer->count; b++) {
            const struct block_plan *block = &layer->blocks[b];
            struct cache *cache = &decoder->caches[i][b];
            if (block->kind == BLOCK_FEED_FORWARD)
                continue;
            if (block->kind == BLOCK_SELF) {
                cache->keys = floats(run, most * beams * stack->width);
                cache->values = floats(run, most * beams * stack->width);
                continue;
            }
            cache->source = keys_for(run, block->heads, stack->width, frames);
            struct block *before = mark(run->arena);
            float *keys = floats(run, frames * stack->width);
            float *values = floats(run, frames * stack->width);
            apply_linear(run, &block->k, states, frames, keys);
            apply_linear(run, &block->v, states, frames, values);
            keys_fill(&cache->source, keys, values);
            release(run->arena, before);
        }
    }
    return decoder;
}

/* Each beam's query over its own past, which lies in the rows that ``history`` names. */
static void attend_past(struct run *run, const struct decoder *decoder, int heads,
                        const float *queries, const struct cache *cache, float *mixed)
{
    int64_t width = run->model->decoder.width, size = width / heads, count = decoder->step + 1;
    float *scores = floats(run, count), scale = 1.0f / sqrtf((float)size);
    for (int b = 0; b < decoder->beams; b++) {
        const int32_t *rows = decoder->history + b * decoder->most;
        for (int head = 0; head < heads; head++) {
            const float *query = queries + b * width + head * size;
            float *to = mixed + b * width + head * size;
            for (int64_t i = 0; i < count; i++) {
                int64_t row = i * decoder->beams + rows[i];
                scores[i] = dot(query, cache->keys + row * width + head * size, size) * scale;
            }
            softmax(scores, count);
            memset(to, 0, (size_t)size * sizeof *to);
            for (int64_t i = 0; i < count; i++) {
                int64_t row = i * decoder->beams + rows[i];
                const float *value = cache->values + row * width + head * size;
                for (int64_t c = 0; c < size; c++)
                    to[c] += scores[i] * value[c];
            }
        }
    }
}

/* The mean over heads of the attention of a query, in the later half of the layers: the first ones
 * tell less. */
static void add_attention(struct run *run, const struct decoder *decoder,
                          const struct layer *layer, const struct keys *keys, const float *query)
{
    const struct stack *stack = &run->model->decoder;
    int first = stack->count / 2, layers = stack->count - first;
    float *scores = floats(run, keys->count), scale = 1.0f / sqrtf((float)keys->size);
    for (int head = 0; head < keys->heads && layer - stack->layers >= first; head++) {
        memset(scores, 0, (size_t)keys->count * sizeof *scores);
        for (int64_t c = 0; c < keys->size; c++) {
            const float *row = keys->keys + (head * keys->size + c) * keys->padded;
            for (int64_t i = 0; i < keys->count; i++)
                scores[i] += query[head * keys->size + c] * scale * row[i];
        }
        softmax(scores, keys->count);
        for (int64_t i = 0; i < keys->count; i++)
            decoder->attention[i] += scores[i] / (float)(keys->heads * layers);
    }
}

static void run_block(struct run *run, const struct decoder *decoder, const struct layer *layer,
                      const struct block_plan *block, const struct cache *cache,
                      const float *input, float *y)
{
    int beams = decoder->beams;
    int64_t width = run->model->decoder.width;
    if (block->kind == BLOCK_FEED_FORWARD) {
        float *hidden = floats(run, beams * block->first.out);
        apply_linear(run, &block->first, input, beams, hidden);
        activate(run, layer->activation, hidden, beams * block->first.out);
        apply_linear(run, &block->second, hidden, beams, y);
        return;
    }
    float *q = floats(run, beams * width), *mixed = floats(run, beams * width);
    apply_linear(run, &block->q, input, beams, q);
    if (block->kind == BLOCK_SOURCE) {
        attend(run, &cache->source, q, beams, mixed);
        if (decoder->attention)
            add_attention(run, decoder, layer, &cache->source, q);
    } else {
        int64_t place = decoder->step * beams * width;
        apply_linear(run, &block->k, input, beams, cache->keys + place);
        apply_linear(run, &block->v, input, beams, cache->values + place);
        attend_past(run, decoder, block->heads, q, cache, mixed);
    }
    apply_linear(run, &block->output, mixed, beams, y);
}

static void look_up(const struct cress_model *model, int32_t token, float *to)
{
    int64_t width = model->decoder.width;
    float scale = 1;
    to_floats(model->embedding, token * width, width, to);
    if (model->embedding_scale)
        to_floats(model->embedding_scale, token, 1, &scale);
    for (int64_t i = 0; i < width; i++) /* two roundings, as in Python */
        to[i] = to[i] * scale * model->decoder.scale;
}

static void reorder(struct decoder *decoder, const int32_t *sources)
{
    int64_t count = decoder->step;
    memcpy(decoder->former, decoder->history,
           (size_t)(decoder->beams * decoder->most) * sizeof *decoder->history);
    for (int b = 0; b < decoder->beams; b++)
        memcpy(decoder->history + b * decoder->most, decoder->former + sources[b] * decoder->most,
               (size_t)count * sizeof *decoder->history);
}

const float *decoder_step(struct run *run, struct decoder *decoder, const int32_t *tokens,
                          const int32_t *sources)
{
    const struct cress_model *model = run->model;
    const struct stack *stack = &model->decoder;
    struct block *before = mark(run->arena);
    int64_t width = stack->width, total = decoder->beams * width;
    float *x = floats(run, total), *normed = floats(run, total), *y = floats(run, total);
    if (decoder->step >= decoder->most)
        fail(run->arena, "the decoder has no place for another token");
    if (sources)
        reorder(decoder, sources);
    for (int b = 0; b < decoder->beams; b++) {
        decoder->history[b * decoder->most + decoder->step] = b;
        look_up(model, tokens[b], x + b * width);
        add_positions(run, stack, x + b * width, 1, decoder->step);
    }
    if (stack->embedding_norm.width)
        apply_norm(run, &stack->embedding_norm, x, decoder->beams, x);
    for (int i = 0; i < stack->count; i++) {
        const struct layer *layer = &stack->layers[i];
        for (int b = 0; b < layer->count; b++) {
            const struct block_plan *block = &layer->blocks[b];
            struct block *inner = mark(run->arena);
            if (layer->pre_norm)
                apply_norm(run, &block->norm, x, decoder->beams, normed);
            run_block(run, decoder, layer, block, &decoder->caches[i][b],
                      layer->pre_norm ? normed : x, y);
            for (int64_t c = 0; c < total; c++)
                x[c] += y[c];
            if (!layer->pre_norm)
                apply_norm(run, &block->norm, x, decoder->beams, x);
            release(run->arena, inner);
        }
    }
    if (stack->norm.width)
        apply_norm(run, &stack->norm, x, decoder->beams, x);
    if (!decoder->step)
        traced(run, "decoder", x, decoder->beams, width);
    apply_linear(run, &model->output, x, decoder->beams, decoder->logits);
    for (int b = 0; b < decoder->beams; b++)
        log_softmax(decoder->logits + b * model->vocabulary, model->vocabulary);
    if (!decoder->step)
        traced(run, "decoder.log_probabilities", decoder->logits, decoder->beams,
               model->vocabulary);
    release(run->arena, before);
    decoder->step++;
    return decoder->logits;
}

float *attention_of(struct run *run, const float *states, int64_t frames, const int32_t *tokens,
                    int count)
{
    float *attention = take_zeros(run->arena, (size_t)(count * frames) + 1, sizeof *attention);
    struct block *before = mark(run->arena);
    struct decoder *decoder = decoder_begin(run, states, frames, 1, count + 1);
    int32_t last = run->first;
    for (int i = 0; i < count; i++) {
        decoder->attention = attention + i * frames;
        decoder_step(run, decoder, &last, NULL);
        last = tokens[i];
    }
    release(run->arena, before);
    return attention;
}
