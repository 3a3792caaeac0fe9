/* The interface of cress.h: models, translators, and what a translator has found. */
#include "cress.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime.h"
#include "translator.h"

static int report(char *message, size_t size, const char *text)
{
    if (message && size)
        snprintf(message, size, "%s", text);
    return -1;
}

void cress_default_options(struct cress_options *options)
{
    if (!options)
        return;
    *options = (struct cress_options){
        .beam = 5, .length_penalty = 1, .max_length = 200, .best = 1, .threads = 1,
        .max_seconds = 20, .min_seconds = -1, .pause_seconds = -1, .threshold_db = 10,
    };
}

/* From a file, or from ``bytes`` if there are any. */
static int load(const char *path, const void *bytes, size_t count, cress_model **model,
                char *message, size_t size)
{
    if (!model || !path)
        return report(message, size, "cress_model_load: a path and a place for the model are needed");
    *model = NULL;
    struct cress_model *made = calloc(1, sizeof *made);
    if (!made)
        return report(message, size, "out of memory");
    if (setjmp(made->arena.escape)) {
        const char *text = made->arena.message;
        if (strncmp(text, path, strlen(path)) && message && size)
            snprintf(message, size, "%s: %s", path, text);
        else
            report(message, size, text);
        cress_model_free(made);
        return -1;
    }
    if (bytes)
        file_read(&made->arena, &made->file, bytes, count, path);
    else
        file_open(&made->arena, &made->file, path);
    model_read(made);
    *model = made;
    return 0;
}

int cress_model_load(const char *path, cress_model **model, char *message, size_t size)
{
    return load(path, NULL, 0, model, message, size);
}

int cress_model_from_memory(const void *bytes, size_t count, cress_model **model, char *message,
                            size_t size)
{
    return load("the model", bytes ? bytes : "", bytes ? count : 0, model, message, size);
}

void cress_model_free(cress_model *model)
{
    if (!model)
        return;
    file_close(&model->file);
    arena_free(&model->arena);
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
    for (int isa = 0; isa < ISA_COUNT; isa++)
        if (!strcmp(cress_isa_name(isa), name))
            return cress_supported(isa) ? isa : -1;
    return -1;
}

/* 0 where a number may be so; else -1 with a message. */
static int check(const char *name, double found, double least, double most, char *message, size_t size)
{
    if (found >= least && found <= most)
        return 0;
    if (message && size)
        snprintf(message, size, "%s: found %g, expected a number from %g to %.7g", name, found, least,
                 most);
    return -1;
}

static int check_options(const struct cress_options *o, char *message, size_t size)
{
    return check("beam", o->beam, 1, 1000, message, size) ||
           check("length_penalty", o->length_penalty, -1000, 1000, message, size) ||
           check("max_length", o->max_length, 1, 1e6, message, size) ||
           check("best", o->best, 1, 1e6, message, size) ||
           check("threads", o->threads, 1, 1e6, message, size) ||
           check("no_repeat", o->no_repeat, 0, 1000, message, size) ||
           check("max_seconds", o->max_seconds, 1, MOST_SECONDS, message, size) ||
           (o->min_seconds != -1 &&
            check("min_seconds", o->min_seconds, 0, o->max_seconds / 2, message, size)) ||
           (o->pause_seconds != -1 &&
            check("pause_seconds", o->pause_seconds, 0.05, MOST_SECONDS, message, size)) ||
           check("threshold_db", o->threshold_db, 1, 1000, message, size);
}

static int unknown_isa(const char *found, char *message, size_t size)
{
    char text[256];
    int used = snprintf(text, sizeof text, "isa: found %.40s, and this processor has", found);
    for (int isa = 0; isa < ISA_COUNT; isa++)
        if (cress_supported(isa) && used < (int)sizeof text)
            used += snprintf(text + used, sizeof text - (size_t)used, " %s", cress_isa_name(isa));
    return report(message, size, text);
}

/* A number of the enumeration, or -1. */
static int find_segmenter(const char *name)
{
    if (!name || !strcmp(name, "auto"))
        return BY_EITHER;
    return !strcmp(name, "energy") ? BY_ENERGY : !strcmp(name, "learnt") ? BY_LEARNT : -1;
}

/* The token that translations to a language begin with, or -1 with a message. */
static int32_t find_first(const cress_model *model, const char *language, char *message, size_t size)
{
    if (!model->languages && !language)
        return (int32_t)model->eos;
    char known[256] = "";
    for (int i = 0; i < model->languages; i++) {
        if (language && !strcmp(model->language[i].code, language))
            return model->language[i].tag;
        size_t used = strlen(known);
        snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "", model->language[i].code);
    }
    char text[512];
    if (model->languages)
        snprintf(text, sizeof text, "language: the model translates to %s: choose one%s%.40s", known,
                 language ? ", found " : "", language ? language : "");
    else
        snprintf(text, sizeof text, "language %.40s: the model has one language; leave it out",
                 language);
    return report(message, size, text);
}

int cress_translator_create(const cress_model *model, const struct cress_options *options,
                            cress_translator **translator, char *message, size_t size)
{
    struct cress_options chosen;
    if (!translator)
        return report(message, size, "cress_translator_create: a place for the translator is needed");
    *translator = NULL;
    if (!model)
        return report(message, size, "cress_translator_create: no model is given");
    cress_default_options(&chosen);
    if (options)
        chosen = *options;
    if (check_options(&chosen, message, size))
        return -1;
    int segmenter = find_segmenter(chosen.segmenter);
    if (segmenter < 0)
        return report(message, size, "segmenter: expected auto, energy or learnt");
    if (segmenter == BY_LEARNT && !model->hearing)
        return report(message, size, "segmenter: the model carries none that is learnt; take energy");
    int isa = chosen.isa ? find_isa(chosen.isa) : fastest_isa();
    if (isa < 0)
        return unknown_isa(chosen.isa, message, size);
    int32_t first = find_first(model, chosen.language, message, size);
    if (first < 0)
        return -1;
    struct cress_translator *made = calloc(1, sizeof *made);
    if (!made)
        return report(message, size, "out of memory");
    made->model = model;
    made->options = chosen; /* but for strings, which are the caller's and may go */
    made->options.isa = made->options.segmenter = made->options.language = NULL;
    made->isa = isa;
    made->segmenter = segmenter;
    made->first = first;
    made->pool = pool_create(chosen.threads);
    *translator = made;
    return 0;
}

void cress_translator_free(cress_translator *translator)
{
    if (!translator)
        return;
    pool_free(translator->pool);
    forget_recording(&translator->recording);
    free(translator->recording.spans);
    free(translator->recording.samples);
    arena_free(&translator->arena);
    free(translator);
}

void cress_set_trace(cress_translator *translator, cress_trace *trace, void *data)
{
    if (!translator)
        return;
    translator->trace = trace;
    translator->trace_data = data;
}

const char *cress_error(const cress_translator *translator)
{
    return translator ? translator->arena.message : "no translator is given";
}

const char *cress_token(const cress_model *model, int32_t token, size_t *length)
{
    int is_one = model && token >= 0 && token < model->vocabulary;
    if (length)
        *length = is_one ? (size_t)(model->token_offsets[token + 1] - model->token_offsets[token]) : 0;
    if (!is_one)
        return NULL;
    return model->tokens + model->token_offsets[token];
}

int cress_count(const cress_translator *translator)
{
    return translator ? translator->count : 0;
}

static int is_there(const cress_translator *translator, int number)
{
    return translator && number >= 0 && number < translator->count;
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
    const struct hypothesis *found = is_there(translator, number) ? &translator->found[number] : NULL;
    if (count)
        *count = found ? found->count : 0;
    return found && found->count ? found->tokens : NULL;
}
