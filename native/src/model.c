#include "model.h"

#include <string.h>

#include "model_layers.h"
#include "resample.h"
#include "segment_learnt.h"

enum { MOST_LAYERS = 1000, MOST_BLOCKS = 16, MOST_SUBSAMPLINGS = 16, MOST_LANGUAGES = 1000 };
enum { LONGEST_FIELD = 1 << 20, LONGEST_NORMED_KERNEL = 128 }; /* of samples */

static const struct json *norm_plan(struct cress_model *model, const struct json *plan,
                                    const char *key)
{
    return json_object_or_null(arena_of(model), plan, key);
}

static void read_block(struct cress_model *model, const struct json *plan, int64_t width,
                       int64_t source, struct block_plan *block)
{
    struct arena *arena = arena_of(model);
    const char *kind = json_string(arena, plan, "kind");
    block->norm = read_norm(model, json_get(arena, plan, "norm", JSON_OBJECT), width);
    if (!strcmp(kind, "feed_forward")) {
        block->kind = BLOCK_FEED_FORWARD;
        block->first = read_linear(model, json_string(arena, plan, "first"), width, -1);
        block->second =
            read_linear(model, json_string(arena, plan, "second"), block->first.out, width);
        return;
    }
    block->kind = !strcmp(kind, "source") ? BLOCK_SOURCE : BLOCK_SELF;
    if (block->kind == BLOCK_SELF && strcmp(kind, "self"))
        fail(arena, "the plan has a block of the unknown kind %.40s", kind);
    if (block->kind == BLOCK_SOURCE && !source)
        fail(arena, "the plan has attention to a source where there is none");
    block->heads = (int)json_integer(arena, plan, "heads", 1, 1024);
    int64_t keys = block->kind == BLOCK_SOURCE ? source : width;
    block->q = read_linear(model, json_string(arena, plan, "q"), width, width);
    block->k = read_linear(model, json_string(arena, plan, "k"), keys, width);
    block->v = read_linear(model, json_string(arena, plan, "v"), keys, width);
    block->output = read_linear(model, json_string(arena, plan, "out"), width, width);
    if (width % block->heads)
        fail(arena, "%s: %lld channels do not divide by %d heads", block->q.name,
             (long long)width, block->heads);
}

static void read_layers(struct cress_model *model, const struct json *plan, int64_t source,
                        struct stack *stack)
{
    struct arena *arena = arena_of(model);
    const struct json *layers = json_get(arena, plan, "layers", JSON_LIST);
    if (layers->length > MOST_LAYERS)
        fail(arena, "the plan has %zu layers", layers->length);
    stack->count = (int)layers->length;
    stack->layers = take_zeros(arena, layers->length + 1, sizeof *stack->layers);
    struct layer *layer = stack->layers;
    for (const struct json *each = layers->items; each; each = each->next, layer++) {
        const char *activation = json_string(arena, each, "activation");
        const struct json *blocks = json_get(arena, each, "blocks", JSON_LIST);
        if (strcmp(activation, "relu") && strcmp(activation, "gelu"))
            fail(arena, "the activation %.40s is not computed by this library", activation);
        layer->activation = !strcmp(activation, "relu") ? RELU : GELU;
        layer->pre_norm = json_truth(arena, each, "pre_norm");
        if (blocks->length > MOST_BLOCKS)
            fail(arena, "the plan has a layer of %zu blocks", blocks->length);
        layer->count = (int)blocks->length;
        layer->blocks = take_zeros(arena, blocks->length + 1, sizeof *layer->blocks);
        struct block_plan *block = layer->blocks;
        for (const struct json *part = blocks->items; part; part = part->next)
            read_block(model, part, stack->width, source, block++);
    }
}

/* What surrounds the layers of encoder and decoder. */
static void read_stack(struct cress_model *model, const char *key, int64_t width, int64_t source,
                       struct stack *stack)
{
    struct arena *arena = arena_of(model);
    const struct json *plan = json_get(arena, model->file.plan, key, JSON_OBJECT);
    stack->width = width;
    stack->scale = (float)json_real(arena, plan, "scale");
    stack->embedding_norm = read_norm(model, norm_plan(model, plan, "embedding_norm"), width);
    stack->norm = read_norm(model, norm_plan(model, plan, "norm"), width);
    const struct json *places = json_object_or_null(arena, plan, "positions");
    if (places) {
        const char *kind = json_string(arena, places, "kind");
        stack->first_position = json_integer(arena, places, "first", 0, 1 << 20);
        stack->positions = !strcmp(kind, "learned") ? POSITIONS_LEARNED : POSITIONS_SINUSOIDAL;
        if (stack->positions == POSITIONS_SINUSOIDAL && strcmp(kind, "sinusoidal"))
            fail(arena, "the positions %.40s are not computed by this library", kind);
        if (stack->positions == POSITIONS_LEARNED) {
            int64_t shape[] = {-1, width};
            stack->places = file_get(arena, &model->file, json_string(arena, places, "name"),
                                     "weight", 2, shape);
            if (!is_floating(stack->places) || stack->places->shape[0] <= stack->first_position)
                fail(arena, "the learned positions of the %s cannot be used", key);
        }
    }
    read_layers(model, plan, source, stack);
}

static void read_speech(struct cress_model *model, const struct json *plan)
{
    struct arena *arena = arena_of(model);
    const struct json *list = json_get(arena, plan, "convolutions", JSON_LIST);
    int64_t width = 1, field = 1, stride = 1; /* of a frame, in samples */
    if (!list->length || list->length > MOST_CONVOLUTIONS)
        fail(arena, "the plan has %zu convolutions of speech", list->length);
    model->convolution = take_zeros(arena, list->length, sizeof *model->convolution);
    for (const struct json *each = list->items; each; each = each->next) {
        struct convolution *conv = &model->convolution[model->convolutions++];
        *conv = read_convolution(model, each, width);
        width = conv->out;
        conv->norm = read_norm(model, norm_plan(model, each, "norm"), width);
        if (conv->norm.width)
            conv->norm_over_time = !strcmp(json_string(arena, each, "norm_over"), "time");
        field += (conv->kernel - 1) * stride;
        stride *= conv->stride;
        if (field > LONGEST_FIELD || stride > LONGEST_FIELD)
            fail(arena, "a frame of the plan's convolutions of speech spans more than %d samples",
                 LONGEST_FIELD);
        if (conv->padding || conv->groups != 1 || (conv->norm.width && !conv->norm.bias) ||
            (conv->norm_over_time && (model->convolutions > 1 || conv->channels != 1 ||
                                      conv->kernel > LONGEST_NORMED_KERNEL)))
            fail(arena, "convolution %d of speech is of a form that this library does not compute",
                 model->convolutions);
    }
    model->features_norm = read_norm(model, json_get(arena, plan, "norm", JSON_OBJECT), width);
    const struct json *projection = json_find(plan, "projection");
    if (projection && projection->kind == JSON_STRING) {
        model->projection = read_linear(model, projection->text, width, -1);
        width = model->projection.out;
    }
    model->positions =
        read_convolution(model, json_get(arena, plan, "positions", JSON_OBJECT), width);
    if (model->positions.out != width || model->positions.stride != 1 ||
        model->positions.padding != model->positions.kernel / 2)
        fail(arena, "the convolutional positions are of a form that this library does not compute");
    model->norm_first = json_truth(arena, plan, "norm_first");
    model->speech.width = width;
    model->speech.norm = read_norm(model, json_get(arena, plan, "stack_norm", JSON_OBJECT), width);
    read_layers(model, plan, 0, &model->speech);
    list = json_get(arena, plan, "subsampler", JSON_LIST);
    if (!list->length || list->length > MOST_SUBSAMPLINGS)
        fail(arena, "the plan has %zu subsampling convolutions", list->length);
    model->subsampling = take_zeros(arena, list->length, sizeof *model->subsampling);
    for (const struct json *each = list->items; each; each = each->next) {
        struct convolution *conv = &model->subsampling[model->subsamplings++];
        *conv = read_convolution(model, each, width);
        if (conv->out % 2 || conv->stride != 2 || conv->padding != conv->kernel / 2)
            fail(arena, "the subsampler is of a form that this library does not compute");
        width = conv->out / 2;
    }
    model->encoder.width = width;
}

static void read_vocabulary(struct cress_model *model)
{
    struct arena *arena = arena_of(model);
    const struct tensor *offsets = file_find(&model->file, "engine/token_offsets");
    const struct tensor *tokens = file_find(&model->file, "engine/tokens");
    if (!offsets || !tokens || offsets->dtype != DTYPE_I32 || tokens->dtype != DTYPE_U8 ||
        offsets->count != model->vocabulary + 1)
        fail(arena, "the vocabulary is missing, or has not the model's %lld entries",
             (long long)model->vocabulary);
    model->tokens = tokens->data;
    model->token_offsets = offsets->data;
    const int32_t *at = model->token_offsets;
    for (int64_t i = 0; i < model->vocabulary; i++)
        if (at[i] < 0 || at[i + 1] < at[i] || at[i + 1] > tokens->count)
            fail(arena, "the vocabulary is damaged at entry %lld", (long long)i);
}

static void read_languages(struct cress_model *model)
{
    struct arena *arena = arena_of(model);
    const struct json *each, *list = json_find(model->file.plan, "languages");
    if (!list || list->kind == JSON_NULL)
        return;
    if (list->kind != JSON_OBJECT || list->length < 2 || list->length > MOST_LANGUAGES)
        fail(arena, "the plan's languages are no object of two or more");
    model->language = take_zeros(arena, list->length, sizeof *model->language);
    for (each = list->items; each; each = each->next) {
        struct language *one = &model->language[model->languages++];
        one->code = each->key;
        one->tag = (int32_t)json_integer(arena, list, each->key, 0, model->vocabulary - 1);
    }
}

int is_shown(const struct cress_model *model, int32_t token)
{
    for (int i = 0; i < model->languages; i++)
        if (token == model->language[i].tag)
            return 0;
    return token != model->bos && token != model->eos;
}

void model_read(struct cress_model *model)
{
    struct arena *arena = arena_of(model);
    const struct json *plan = model->file.plan;
    const struct json *speech = json_object_or_null(arena, plan, "speech");
    if (!speech)
        fail(arena, "the model was trained on text only and has no speech encoder");
    json_integer(arena, plan, "sample_rate", SAMPLE_RATE, SAMPLE_RATE);
    model->normalize = json_truth(arena, plan, "normalize");
    read_speech(model, speech);
    read_stack(model, "encoder", model->encoder.width, 0, &model->encoder);
    const struct json *decoder = json_get(arena, plan, "decoder", JSON_OBJECT);
    int64_t width = json_integer(arena, decoder, "width", 1, WIDEST);
    read_stack(model, "decoder", width, model->encoder.width, &model->decoder);
    model->most_positions = json_integer(arena, decoder, "most_positions", 2, 1 << 20);
    model->output = read_linear(model, json_string(arena, decoder, "output"), width, -1);
    model->vocabulary = model->output.out;
    if (model->vocabulary < 2)
        fail(arena, "the model's vocabulary has no words");
    const char *embedding = json_string(arena, decoder, "embedding");
    int64_t shape[] = {model->vocabulary, width};
    model->embedding = file_get(arena, &model->file, embedding, "weight", 2, shape);
    if (model->embedding->dtype == DTYPE_I8) {
        int64_t count[] = {model->vocabulary};
        model->embedding_scale = file_get(arena, &model->file, embedding, "scale", 1, count);
        if (!is_floating(model->embedding_scale))
            fail(arena, "%s: its scales are of another type", embedding);
    } else if (!is_floating(model->embedding)) {
        fail(arena, "%s: is of an unknown type", embedding);
    }
    model->pad = json_integer(arena, plan, "pad", 0, model->vocabulary - 1);
    model->eos = json_integer(arena, plan, "eos", 0, model->vocabulary - 1);
    model->unk = json_integer(arena, plan, "unk", 0, model->vocabulary - 1);
    model->bos = json_integer(arena, plan, "bos", 0, model->vocabulary - 1);
    read_vocabulary(model);
    read_languages(model);
    model->hearing = hearing_read(model);
}
