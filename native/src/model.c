#include "model.h"

#include <math.h>
#include <string.h>

#include "resample.h"
#include "segment_learnt.h"
#include "sign_gemm.h"

enum { WIDEST = 1 << 16, MOST_LAYERS = 1000, LONGEST_NAME = 480 };
enum { LONGEST_FIELD = 1 << 20, LONGEST_NORMED_KERNEL = 128 }; /* of samples */

static struct arena *arena_of(struct cress_model *model)
{
    return &model->arena;
}

/* A vector of ``count`` numbers as float32: where it lies in the file, if it is. */
static const float *vector(struct cress_model *model, const char *prefix, const char *suffix,
                           int64_t count)
{
    int64_t shape[] = {count};
    const struct tensor *found = file_get(arena_of(model), &model->file, prefix, suffix, 1, shape);
    if (!is_floating(found))
        fail(arena_of(model), "the tensor %.200s.%s is not of floating point", prefix, suffix);
    if (found->dtype == DTYPE_F32)
        return found->data;
    float *values = take(arena_of(model), (size_t)count + 1, sizeof *values);
    to_floats(found, 0, count, values);
    return values;
}

static int has(struct cress_model *model, const char *prefix, const char *suffix)
{
    return file_find_part(arena_of(model), &model->file, prefix, suffix) != NULL;
}

static const float *vector_or_null(struct cress_model *model, const char *prefix,
                                   const char *suffix, int64_t count)
{
    return has(model, prefix, suffix) ? vector(model, prefix, suffix, count) : NULL;
}

static struct norm read_norm(struct cress_model *model, const struct json *plan, int64_t width)
{
    struct norm norm = {0};
    if (!plan)
        return norm;
    const char *name = json_string(arena_of(model), plan, "name");
    norm.width = width;
    norm.eps = (float)json_real(arena_of(model), plan, "eps");
    norm.weight = vector(model, name, "weight", width);
    norm.bias = vector_or_null(model, name, "bias", width);
    return norm;
}

static const struct json *norm_plan(struct cress_model *model, const struct json *plan,
                                    const char *key)
{
    return json_object_or_null(arena_of(model), plan, key);
}

/* The steps around a packed product. */
static void read_steps(struct cress_model *model, const struct json *plan, struct linear *linear)
{
    static const char *const words[] = {"plain", "steps", "signs", "rotation", "rotated grid"};
    struct arena *arena = arena_of(model);
    const struct json *input = json_find(plan, "input"), *output = json_find(plan, "output");
    for (int i = 0; input && i < 5; i++)
        if (input->kind == JSON_STRING && !strcmp(words[i], input->text))
            linear->input = (enum input_step)i;
    if ((input && linear->input == INPUT_PLAIN) ||
        (output && (output->kind != JSON_STRING || strcmp(output->text, "norm"))))
        fail(arena, "%s: a step around its product is not known", linear->name);
    linear->output_norm = output != NULL;
    if (linear->input == INPUT_PLAIN || linear->input == INPUT_ROTATION)
        return;
    linear->low = (float)json_real(arena, plan, "low");
    linear->high = (float)json_real(arena, plan, "high");
    linear->step = linear->input == INPUT_ROTATED_GRID
                       ? (float)json_real(arena, plan, "step")
                       : vector(model, linear->name, "step", 1)[0];
}

static void read_packed(struct cress_model *model, const struct json *plan, struct linear *linear)
{
    struct arena *arena = arena_of(model);
    const struct json *unknown = json_find(plan, "not_computed");
    if (unknown && unknown->kind == JSON_STRING)
        fail(arena, "%s: its method %s rounds in a way that this library does not compute; "
                    "translate it in Python", linear->name, unknown->text);
    read_steps(model, plan, linear);
    linear->planes = (int)json_integer(arena, plan, "planes", 1, 16);
    const struct json *scales = json_get(arena, plan, "plane_scales", JSON_LIST);
    const struct json *bits = json_find(plan, "bits");
    linear->num_parts = bits && bits->kind == JSON_NUMBER && bits->number == 8 ? 1 : 2;
    int64_t rows = linear->out * linear->planes;
    int64_t shape[] = {(rows + TILE_OUT - 1) / TILE_OUT, (linear->in + TILE_IN - 1) / TILE_IN,
                       TILE_BYTES};
    const struct tensor *signs = file_get(arena, &model->file, linear->name, "signs", 3, shape);
    if (signs->dtype != DTYPE_U8 || scales->length != (size_t)linear->planes)
        fail(arena, "%s: its signs or the scales of their planes are of another type", linear->name);
    linear->tiles = signs->data;
    linear->g = vector_or_null(model, linear->name, "g", linear->in);
    const float *h = vector(model, linear->name, "h", linear->out);
    for (const struct json *scale = scales->items; scale; scale = scale->next)
        if (scale->kind != JSON_NUMBER)
            fail(arena, "%s: a scale of its planes is no number", linear->name);
    if (linear->planes > 1 || scales->items->number != 1) {
        float *all = take(arena, (size_t)rows, sizeof *all), *to = all;
        for (const struct json *scale = scales->items; scale; scale = scale->next)
            for (int64_t i = 0; i < linear->out; i++)
                *to++ = h[i] * (float)scale->number;
        h = all;
    }
    linear->h = h;
    const char *norm = json_string(arena, plan, "norm");
    if (strcmp(norm, "none")) {
        char name[LONGEST_NAME + 8];
        strcat(strcpy(name, linear->name), ".norm");
        linear->norm.is_rms = !strcmp(norm, "rmsnorm");
        if (!linear->norm.is_rms && strcmp(norm, "layernorm"))
            fail(arena, "%s: its norm %.40s is not known", linear->name, norm);
        const struct json *eps = json_find(plan, "eps"); /* null: torch's own of an RMS norm */
        linear->norm.width = linear->in;
        linear->norm.eps = eps && eps->kind == JSON_NUMBER ? (float)eps->number : 0x1p-23f;
        linear->norm.weight = vector(model, name, "weight", linear->in);
        linear->norm.bias = linear->norm.is_rms ? NULL : vector_or_null(model, name, "bias", linear->in);
    }
}

/* The layer of a name, of any width where ``in`` or ``out`` is -1. */
static struct linear read_linear(struct cress_model *model, const char *name, int64_t in,
                                 int64_t out)
{
    struct arena *arena = arena_of(model);
    const struct json *linears = json_get(arena, model->file.plan, "linears", JSON_OBJECT);
    const struct json *plan = json_get(arena, linears, name, JSON_OBJECT);
    struct linear linear = {.name = name};
    if (strlen(name) > LONGEST_NAME)
        fail(arena, "the name %.100s… is too long", name);
    linear.in = json_integer(arena, plan, "in", 1, WIDEST);
    linear.out = json_integer(arena, plan, "out", 1, 1 << 24);
    if ((in >= 0 && linear.in != in) || (out >= 0 && linear.out != out))
        fail(arena, "%s: is %lld x %lld, expected %lld x %lld", name, (long long)linear.out,
             (long long)linear.in, (long long)out, (long long)in);
    if (json_truth(arena, plan, "bias"))
        linear.bias = vector(model, name, "bias", linear.out);
    const char *kind = json_string(arena, plan, "kind");
    if (!strcmp(kind, "packed")) {
        linear.kind = LINEAR_PACKED;
        read_packed(model, plan, &linear);
        return linear;
    }
    int64_t shape[] = {linear.out, linear.in};
    linear.weight = file_get(arena, &model->file, name, "weight", 2, shape);
    linear.kind = !strcmp(kind, "int8") ? LINEAR_INT8 : LINEAR_DENSE;
    if (linear.kind == LINEAR_INT8)
        linear.scale = vector(model, name, "scale", linear.out);
    if (linear.kind == LINEAR_INT8 ? linear.weight->dtype != DTYPE_I8
                                   : !is_floating(linear.weight))
        fail(arena, "%s: its weight is of another type than the plan says", name);
    return linear;
}

/* A weight g * v / |v|, the length taken over all but the kernel's positions. */
static const float *multiply_out(struct cress_model *model, const char *name,
                                 const struct convolution *conv)
{
    struct arena *arena = arena_of(model);
    int64_t shape[] = {conv->out, conv->kernel, conv->channels};
    const struct tensor *v = file_get(arena, &model->file, name, "weight_v", 3, shape);
    int64_t lengths[] = {1, conv->kernel, 1};
    const struct tensor *g = file_get(arena, &model->file, name, "weight_g", 3, lengths);
    float *weight = take(arena, (size_t)v->count + 1, sizeof *weight);
    float *gains = take(arena, (size_t)conv->kernel, sizeof *gains);
    if (!is_floating(v) || !is_floating(g))
        fail(arena, "%s: its weight is not of floating point", name);
    to_floats(v, 0, v->count, weight);
    to_floats(g, 0, conv->kernel, gains);
    for (int64_t k = 0; k < conv->kernel; k++) {
        double squares = 0;
        for (int64_t o = 0; o < conv->out; o++)
            for (int64_t c = 0; c < conv->channels; c++) {
                float value = weight[(o * conv->kernel + k) * conv->channels + c];
                squares += (double)value * value;
            }
        float gain = gains[k] / (float)sqrt(squares);
        for (int64_t o = 0; o < conv->out; o++)
            for (int64_t c = 0; c < conv->channels; c++)
                weight[(o * conv->kernel + k) * conv->channels + c] *= gain;
    }
    return weight;
}

static struct convolution read_convolution(struct cress_model *model, const struct json *plan,
                                           int64_t width)
{
    struct arena *arena = arena_of(model);
    const char *name = json_string(arena, plan, "name");
    struct convolution conv = {
        .out = json_integer(arena, plan, "out", 1, WIDEST),
        .channels = json_integer(arena, plan, "channels", 1, WIDEST),
        .kernel = json_integer(arena, plan, "kernel", 1, 4096),
        .groups = json_integer(arena, plan, "groups", 1, WIDEST),
        .stride = json_integer(arena, plan, "stride", 1, 4096),
        .padding = json_integer(arena, plan, "padding", 0, 4096),
    };
    if (conv.channels * conv.groups != width || conv.out % conv.groups)
        fail(arena, "%s: takes %lld channels in %lld groups, and is given %lld", name,
             (long long)(conv.channels * conv.groups), (long long)conv.groups, (long long)width);
    if (has(model, name, "weight_v")) {
        conv.normalised = multiply_out(model, name, &conv);
    } else {
        int64_t shape[] = {conv.out, conv.kernel, conv.channels};
        conv.weight = file_get(arena, &model->file, name, "weight", 3, shape);
        if (conv.weight->dtype != DTYPE_I8 && !is_floating(conv.weight))
            fail(arena, "%s: its weight is of an unknown type", name);
    }
    conv.bias = vector_or_null(model, name, "bias", conv.out);
    conv.scale = vector_or_null(model, name, "scale", conv.out);
    if (!conv.scale) {
        float *ones = take(arena, (size_t)conv.out, sizeof *ones);
        for (int64_t o = 0; o < conv.out; o++)
            ones[o] = 1;
        conv.scale = ones;
    }
    return conv;
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
        if (blocks->length > 16)
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
    if (!list->length || list->length > 16)
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
    if (list->kind != JSON_OBJECT || list->length < 2 || list->length > 1000)
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
