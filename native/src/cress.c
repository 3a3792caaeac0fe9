/* The interface of cress.h. */
#include "cress.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime.h"
#include "translate.h"

struct cress_translator {
    struct arena arena;
    const struct cress_model *model;
    struct cress_options options;
    int isa, count;
    struct hypothesis *found;
    char **texts;
    cress_trace *trace;
    void *trace_data;
};

static int report(char *message, size_t size, const char *text)
{
    if (message && size)
        snprintf(message, size, "%s", text);
    return -1;
}

void cress_default_options(struct cress_options *options)
{
    *options = (struct cress_options){
        .beam = 5, .length_penalty = 1, .max_length = 200, .best = 1, .threads = 1,
    };
}

int cress_model_load(const char *path, cress_model **model, char *message, size_t size)
{
    *model = NULL;
    struct cress_model *made = calloc(1, sizeof *made);
    if (!made)
        return report(message, size, "out of memory");
    if (setjmp(made->arena.escape)) {
        report(message, size, made->arena.message);
        cress_model_free(made);
        return -1;
    }
    file_open(&made->arena, &made->file, path);
    model_read(made);
    *model = made;
    return 0;
}

void cress_model_free(cress_model *model)
{
    if (!model)
        return;
    file_close(&model->file);
    release(&model->arena, NULL);
    free(model);
}

static int fastest_isa(void)
{
    int isa = ISA_COUNT - 1;
    while (!cress_supported(isa))
        isa--;
    return isa;
}

static int find_isa(const char *name)
{
    static const char *const names[] = {"portable", "avx2", "avx512_vnni", "amx"};
    for (int isa = 0; isa < ISA_COUNT; isa++)
        if (!strcmp(names[isa], name))
            return cress_supported(isa) ? isa : -1;
    return -1;
}

int cress_translator_create(const cress_model *model, const struct cress_options *options,
                            cress_translator **translator, char *message, size_t size)
{
    struct cress_options chosen;
    *translator = NULL;
    cress_default_options(&chosen);
    if (options)
        chosen = *options;
    if (chosen.beam < 1 || chosen.beam > 1000 || chosen.max_length < 1 || chosen.best < 1 ||
        chosen.max_length > 1000000 || chosen.threads < 1 || !isfinite(chosen.length_penalty))
        return report(message, size, "options: beam (1 to 1000), max_length, best and threads are "
                                     "positive, length_penalty is a number");
    int isa = chosen.isa ? find_isa(chosen.isa) : fastest_isa();
    if (isa < 0)
        return report(message, size, "isa: expected portable, avx2, avx512_vnni or amx, one that "
                                     "this processor has");
    struct cress_translator *made = calloc(1, sizeof *made);
    if (!made)
        return report(message, size, "out of memory");
    made->model = model;
    made->options = chosen;
    made->isa = isa;
    *translator = made;
    return 0;
}

void cress_translator_free(cress_translator *translator)
{
    if (!translator)
        return;
    release(&translator->arena, NULL);
    free(translator);
}

void cress_set_trace(cress_translator *translator, cress_trace *trace, void *data)
{
    translator->trace = trace;
    translator->trace_data = data;
}

int cress_translate(cress_translator *translator, const float *samples, size_t count)
{
    struct arena *arena = &translator->arena;
    release(arena, NULL);
    translator->count = 0;
    translator->found = NULL;
    arena->message[0] = 0;
    if (setjmp(arena->escape)) {
        release(arena, NULL);
        translator->count = 0;
        return -1;
    }
    if (count > (size_t)16000 * 3600)
        fail(arena, "a segment of %zu samples is too long; an hour is the most", count);
    for (size_t i = 0; i < count; i++)
        if (!isfinite(samples[i]))
            fail(arena, "sample %zu is NaN or infinite", i);
    struct run run = {
        .model = translator->model, .arena = arena, .isa = translator->isa,
        .threads = translator->options.threads, .trace = translator->trace,
        .trace_data = translator->trace_data,
    };
    int64_t frames;
    const float *states = encode(&run, samples, (int64_t)count, &frames);
    int found = search(&run, states, frames, &translator->options, &translator->found);
    translator->texts = take(arena, (size_t)found + 1, sizeof *translator->texts);
    for (int i = 0; i < found; i++)
        translator->texts[i] = detokenise(&run, &translator->found[i]);
    translator->count = found;
    return 0;
}

const char *cress_error(const cress_translator *translator)
{
    return translator->arena.message;
}

int cress_count(const cress_translator *translator)
{
    return translator->count;
}

static int is_there(const cress_translator *translator, int number)
{
    return number >= 0 && number < translator->count;
}

const char *cress_text(const cress_translator *translator, int number)
{
    return is_there(translator, number) ? translator->texts[number] : NULL;
}

double cress_score(const cress_translator *translator, int number)
{
    return is_there(translator, number) ? translator->found[number].score / log(2.0) : NAN;
}

const int32_t *cress_tokens(const cress_translator *translator, int number, int *count)
{
    *count = is_there(translator, number) ? translator->found[number].count : 0;
    return *count ? translator->found[number].tokens : NULL;
}
