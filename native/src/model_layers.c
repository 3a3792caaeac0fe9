#include "model_layers.h"

#include <math.h>
#include <string.h>

#include "sign_gemm.h"

enum { LONGEST_NAME = 480 };

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

struct norm read_norm(struct cress_model *model, const struct json *plan, int64_t width)
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
        if (!linear->norm.is_rms)
            linear->norm.bias = vector_or_null(model, name, "bias", linear->in);
    }
}

struct linear read_linear(struct cress_model *model, const char *name, int64_t in, int64_t out)
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

struct convolution read_convolution(struct cress_model *model, const struct json *plan,
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
