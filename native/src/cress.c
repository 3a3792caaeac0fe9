/* The interface of cress.h. */
#include "cress.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hearing.h"
#include "levels.h"
#include "runtime.h"
#include "subtitles.h"

enum { RATE = 16000, MOST_RATE = 10000000 };
static const double MOST_SECONDS = 3600; /* of a segment */

struct recording {
    float *samples;
    int64_t count, room, rate;
    struct span *spans;
    int64_t segments, next;
    struct part *parts; /* of the segments translated so far, with word times */
    int64_t count_of_parts;
    int finished, by_second; /* cut by loudness, since the model's segmenter heard nothing */
};

/* A word, and when it is said. */
struct spoken {
    char *text;
    double start, end;
};

struct cress_translator {
    struct arena arena;
    const struct cress_model *model;
    struct cress_options options;
    int isa, segmenter, count, again;
    struct pool *pool;
    struct recording recording;
    double start, end;
    struct spoken *spoken;
    int words;
    struct hypothesis *found;
    char **texts;
    cress_trace *trace;
    void *trace_data;
};

static void forget_parts(struct recording *recording)
{
    for (int64_t i = 0; i < recording->count_of_parts; i++) {
        free(recording->parts[i].text.at);
        free(recording->parts[i].words);
    }
    free(recording->parts);
    recording->parts = NULL;
    recording->count_of_parts = 0;
}

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
        .max_seconds = 20, .min_seconds = -1, .pause_seconds = -1, .threshold_db = 10,
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

static const char *check_options(const struct cress_options *o)
{
    if (o->beam < 1 || o->beam > 1000 || o->max_length < 1 || o->best < 1 || o->threads < 1 ||
        o->max_length > 1000000 || o->no_repeat < 0 || o->no_repeat > 1000 ||
        !isfinite(o->length_penalty))
        return "options: beam (1 to 1000), max_length, best and threads are positive, no_repeat is "
               "0 to 1000, length_penalty is a number";
    if (!(o->max_seconds >= 1 && o->max_seconds <= MOST_SECONDS && o->threshold_db >= 1 &&
          o->threshold_db <= 1000 &&
          (o->min_seconds == -1 || (o->min_seconds >= 0 && o->min_seconds <= o->max_seconds / 2)) &&
          (o->pause_seconds == -1 ||
           (o->pause_seconds >= 0.05 && o->pause_seconds <= MOST_SECONDS))))
        return "options: expected max_seconds from 1 to 3600, min_seconds from 0 to half of it, "
               "pause_seconds from 0.05, threshold_db from 1 on";
    return NULL;
}

enum { BY_EITHER, BY_ENERGY, BY_LEARNT };

/* A number of the enumeration, or -1. */
static int find_segmenter(const char *name)
{
    if (!name || !strcmp(name, "auto"))
        return BY_EITHER;
    return !strcmp(name, "energy") ? BY_ENERGY : !strcmp(name, "learnt") ? BY_LEARNT : -1;
}

int cress_translator_create(const cress_model *model, const struct cress_options *options,
                            cress_translator **translator, char *message, size_t size)
{
    struct cress_options chosen;
    *translator = NULL;
    cress_default_options(&chosen);
    if (options)
        chosen = *options;
    const char *problem = check_options(&chosen);
    if (problem)
        return report(message, size, problem);
    int segmenter = find_segmenter(chosen.segmenter);
    if (segmenter < 0 || (segmenter == BY_LEARNT && !model->hearing))
        return report(message, size, "segmenter: expected auto, energy, or learnt, which the model "
                                     "must carry");
    int isa = chosen.isa ? find_isa(chosen.isa) : fastest_isa();
    if (isa < 0)
        return report(message, size, "isa: expected a name from cress.h, of one that this "
                                     "processor has");
    struct cress_translator *made = calloc(1, sizeof *made);
    if (!made)
        return report(message, size, "out of memory");
    made->model = model;
    made->options = chosen;
    made->isa = isa;
    made->segmenter = segmenter;
    made->pool = pool_create(chosen.threads);
    *translator = made;
    return 0;
}

void cress_translator_free(cress_translator *translator)
{
    if (!translator)
        return;
    pool_free(translator->pool);
    forget_parts(&translator->recording);
    free(translator->recording.spans);
    free(translator->recording.samples);
    arena_free(&translator->arena);
    free(translator);
}

void cress_set_trace(cress_translator *translator, cress_trace *trace, void *data)
{
    translator->trace = trace;
    translator->trace_data = data;
}

/* As fairseq shows tokens: without the beginning and the end of a sentence. */
static void strip(const struct cress_model *model, struct hypothesis *hypothesis)
{
    int count = 0;
    for (int i = 0; i < hypothesis->count; i++)
        if (hypothesis->tokens[i] != model->bos && hypothesis->tokens[i] != model->eos)
            hypothesis->tokens[count++] = hypothesis->tokens[i];
    hypothesis->count = count;
}

static void run_search(struct cress_translator *translator, struct run *run, const float *states,
                       int64_t frames, int no_repeat)
{
    int found = search(run, states, frames, &translator->options, no_repeat, &translator->found);
    translator->texts = take(run->arena, (size_t)found + 1, sizeof *translator->texts);
    for (int i = 0; i < found; i++) {
        struct hypothesis *one = &translator->found[i];
        one->raw_count = one->count;
        one->raw = take(run->arena, (size_t)one->count + 1, sizeof *one->raw);
        memcpy(one->raw, one->tokens, (size_t)one->count * sizeof *one->raw);
        strip(run->model, one);
        translator->texts[i] = detokenise(run, one);
    }
    translator->count = found;
}

/* Of a search that forbids less: what repeats itself is searched again. */
enum { NO_REPEAT = 3 };

static struct run begin_run(struct cress_translator *translator)
{
    pool_use(translator->pool);
    return (struct run){
        .model = translator->model, .arena = &translator->arena, .isa = translator->isa,
        .threads = translator->options.threads,
    };
}

/* Keeps the words of the best hypothesis and their times, for the segment and for subtitles. */
static void keep_words(struct cress_translator *translator, struct run *run, const float *states,
                       int64_t frames, const float *wave, int64_t samples)
{
    const struct cress_model *model = translator->model;
    const struct hypothesis *best = translator->found;
    struct recording *recording = &translator->recording;
    struct arena *arena = run->arena;
    const char *shown = translator->texts[0];
    struct letters text = to_letters(arena, shown, strlen(shown));
    float *attention = attention_of(run, states, frames, best->raw, best->raw_count);
    struct word *words;
    int kept = 0;
    for (int i = 0; i < best->raw_count; i++) /* of the tokens that are shown */
        if (best->raw[i] != model->bos && best->raw[i] != model->eos)
            memmove(attention + kept++ * frames, attention + i * frames,
                    (size_t)frames * sizeof *attention);
    int64_t count = time_words(run, best, text, attention, frames, wave, samples,
                               translator->start, &words);
    translator->spoken = take(arena, (size_t)count + 1, sizeof *translator->spoken);
    for (int64_t i = 0; i < count; i++) {
        char *to = take(arena, (size_t)(4 * (words[i].last - words[i].first)) + 1, 1);
        translator->spoken[i] = (struct spoken){to, words[i].start, words[i].end};
        for (int64_t c = words[i].first; c < words[i].last; c++)
            to = put_letter(to, text.at[c]);
        *to = 0;
    }
    translator->words = (int)count;
    struct part part = {.text = {malloc(((size_t)text.count + 1) * sizeof *text.at), text.count},
                        .words = malloc(((size_t)count + 1) * sizeof *words), .count = count,
                        .start = translator->start, .end = translator->end};
    if (!part.text.at || !part.words) {
        free(part.text.at);
        free(part.words);
        fail(arena, "out of memory");
    }
    memcpy(part.text.at, text.at, (size_t)text.count * sizeof *text.at);
    memcpy(part.words, words, (size_t)count * sizeof *words);
    recording->parts[recording->count_of_parts++] = part;
}

static void translate_segment(struct cress_translator *translator, const float *samples,
                              int64_t count)
{
    struct run run = begin_run(translator);
    run.trace = translator->trace;
    run.trace_data = translator->trace_data;
    int64_t frames;
    int no_repeat = translator->options.no_repeat;
    const float *states = encode(&run, samples, count, &frames);
    run_search(translator, &run, states, frames, no_repeat);
    if ((!no_repeat || no_repeat > NO_REPEAT) && translator->count &&
        repeats_itself(&run, translator->found, translator->texts[0])) {
        run_search(translator, &run, states, frames, NO_REPEAT);
        translator->again = 1;
    }
    if (translator->recording.parts && translator->count)
        keep_words(translator, &run, states, frames, samples, count);
    pool_use(NULL);
}

/* Forgets the last segment. */
static void clear(struct cress_translator *translator)
{
    pool_use(NULL);
    release(&translator->arena, NULL);
    translator->count = translator->again = translator->words = 0;
    translator->found = NULL;
    translator->start = translator->end = 0;
}

static void check_samples(struct arena *arena, const float *samples, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (!isfinite(samples[i]))
            fail(arena, "sample %zu is NaN or infinite", i);
}

int cress_translate(cress_translator *translator, const float *samples, size_t count)
{
    struct arena *arena = &translator->arena;
    clear(translator);
    arena->message[0] = 0;
    if (setjmp(arena->escape)) {
        clear(translator);
        return -1;
    }
    if (count > (size_t)(RATE * MOST_SECONDS))
        fail(arena, "a segment of %zu samples is too long; an hour is the most", count);
    check_samples(arena, samples, count);
    forget_parts(&translator->recording);
    translate_segment(translator, samples, (int64_t)count);
    return 0;
}

/* Recordings */

static int refuse(struct cress_translator *translator, const char *message)
{
    snprintf(translator->arena.message, sizeof translator->arena.message, "%s", message);
    return -1;
}

int cress_begin(cress_translator *translator, int rate)
{
    struct recording *recording = &translator->recording;
    clear(translator);
    forget_parts(recording);
    recording->count = recording->segments = recording->next = 0;
    recording->finished = recording->by_second = 0;
    recording->rate = 0;
    if (rate < 100 || rate > MOST_RATE)
        return refuse(translator, "the rate is not from 100 to 10,000,000 samples a second");
    recording->rate = rate;
    return 0;
}

int cress_feed(cress_translator *translator, const float *samples, size_t count)
{
    struct recording *recording = &translator->recording;
    int64_t room = recording->room ? recording->room : 1 << 16;
    if (!recording->rate || recording->finished)
        return refuse(translator, "cress_begin comes before cress_feed");
    for (size_t i = 0; i < count; i++)
        if (!isfinite(samples[i]))
            return refuse(translator, "a sample is NaN or infinite");
    if (count > (size_t)1 << 36)
        return refuse(translator, "out of memory");
    while (room - recording->count < (int64_t)count)
        room += room / 2;
    if (room > recording->room) {
        float *more = realloc(recording->samples, (size_t)room * sizeof *more);
        if (!more)
            return refuse(translator, "out of memory");
        recording->samples = more;
        recording->room = room;
    }
    if (count)
        memcpy(recording->samples + recording->count, samples, count * sizeof *samples);
    recording->count += (int64_t)count;
    return 0;
}

/* The segments by one of the segmenters; in the translator's arena. */
static int64_t cut(struct cress_translator *translator, int learnt, struct span **spans)
{
    const struct recording *recording = &translator->recording;
    const struct cress_options *options = &translator->options;
    const struct hearing *hearing = translator->model->hearing;
    struct arena *arena = &translator->arena;
    int64_t rate = recording->rate, frames, whole = (int64_t)rint((double)rate / 100);
    double hop = (double)(whole < 1 ? 1 : whole);
    float *probabilities = NULL;
    struct cutting how = {options->max_seconds, 0.5, 0.4, options->threshold_db, 0.5f, 0.1, 0.2};
    if (learnt) {
        struct run run = begin_run(translator);
        frames = hear(&run, recording->samples, recording->count, rate, &probabilities, &hop);
        pool_use(NULL);
        how = (struct cutting){options->max_seconds, hearing->min_seconds, hearing->pause_seconds,
                               options->threshold_db, hearing->threshold, 0, 0};
    } else {
        frames = hear_speech(arena, recording->samples, recording->count, (int64_t)hop,
                             how.threshold_db, &probabilities);
    }
    if (options->min_seconds >= 0)
        how.min_seconds = options->min_seconds;
    if (options->pause_seconds >= 0)
        how.pause_seconds = options->pause_seconds;
    return find_segments(arena, &how, probabilities, frames, hop, recording->count, rate, spans);
}

/* By the learnt segmenter where there is one, and by loudness where it hears nothing. */
static int64_t cut_by_either(struct cress_translator *translator, struct span **spans)
{
    int64_t count = 0;
    int learnt = translator->segmenter != BY_ENERGY && translator->model->hearing;
    if (learnt)
        count = cut(translator, 1, spans);
    if (!count && translator->segmenter != BY_LEARNT) {
        count = cut(translator, 0, spans);
        translator->recording.by_second = learnt && count;
    }
    return count;
}

int cress_finish(cress_translator *translator)
{
    struct recording *recording = &translator->recording;
    struct span all = {0, recording->count}, *spans = &all;
    clear(translator);
    if (!recording->rate || recording->finished)
        return refuse(translator, "cress_begin comes before cress_finish");
    if (setjmp(translator->arena.escape)) {
        clear(translator);
        return -1;
    }
    int64_t count = translator->options.whole ? 1 : cut_by_either(translator, &spans);
    free(recording->spans);
    recording->spans = malloc(((size_t)count + 1) * sizeof *spans);
    if (!recording->spans)
        fail(&translator->arena, "out of memory");
    memcpy(recording->spans, spans, (size_t)count * sizeof *spans);
    if (translator->options.word_times) {
        recording->parts = calloc((size_t)count + 1, sizeof *recording->parts);
        if (!recording->parts)
            fail(&translator->arena, "out of memory");
    }
    clear(translator);
    recording->segments = count;
    recording->finished = 1;
    return 0;
}

int cress_next(cress_translator *translator)
{
    struct recording *recording = &translator->recording;
    struct arena *arena = &translator->arena;
    clear(translator);
    if (!recording->finished)
        return refuse(translator, "cress_finish comes before cress_next");
    if (recording->next == recording->segments)
        return 0;
    struct span span = recording->spans[recording->next++];
    if (setjmp(arena->escape)) {
        clear(translator);
        return -1;
    }
    int64_t length = resampled_length(span.count, recording->rate);
    if ((double)length > RATE * MOST_SECONDS)
        fail(arena, "a segment of %lld samples is too long; an hour is the most",
             (long long)length);
    const float *samples = recording->samples + span.first;
    float *wave = take_zeros(arena, (size_t)length, sizeof *wave);
    if (recording->rate == RATE && span.count)
        memcpy(wave, samples, (size_t)span.count * sizeof *wave);
    else if (span.count)
        wave = resample(arena, samples, span.count, recording->rate);
    at_usual_loudness(wave, span.count ? length : 0);
    translator->start = (double)span.first / (double)recording->rate;
    translator->end = translator->start + (double)span.count / (double)recording->rate;
    translate_segment(translator, wave, length);
    return 1;
}

int cress_segments(const cress_translator *translator)
{
    return (int)translator->recording.segments;
}

int cress_cut_by_loudness(const cress_translator *translator)
{
    return translator->recording.by_second;
}

double cress_seconds(const cress_translator *translator)
{
    const struct recording *recording = &translator->recording;
    return recording->rate ? (double)recording->count / (double)recording->rate : 0;
}

double cress_start(const cress_translator *translator)
{
    return translator->start;
}

double cress_end(const cress_translator *translator)
{
    return translator->end;
}

int cress_decoded_again(const cress_translator *translator)
{
    return translator->again;
}

int cress_word_count(const cress_translator *translator)
{
    return translator->words;
}

const char *cress_word(const cress_translator *translator, int number, double *start, double *end)
{
    if (number < 0 || number >= translator->words)
        return NULL;
    *start = translator->spoken[number].start;
    *end = translator->spoken[number].end;
    return translator->spoken[number].text;
}

const char *cress_subtitles(cress_translator *translator, const char *format)
{
    struct recording *recording = &translator->recording;
    int is_vtt = !strcmp(format, "vtt");
    clear(translator);
    if (!is_vtt && strcmp(format, "srt")) {
        refuse(translator, "subtitles: expected srt or vtt");
        return NULL;
    }
    if (!recording->parts) {
        refuse(translator, "subtitles need a recording, and word_times");
        return NULL;
    }
    if (setjmp(translator->arena.escape)) {
        clear(translator);
        return NULL;
    }
    return make_subtitles(&translator->arena, recording->parts, recording->count_of_parts,
                          cress_seconds(translator), is_vtt ? WEBVTT : SUBRIP);
}

const char *cress_error(const cress_translator *translator)
{
    return translator->arena.message;
}

const char *cress_token(const cress_model *model, int32_t token, size_t *length)
{
    *length = 0;
    if (token < 0 || token >= model->vocabulary)
        return NULL;
    *length = (size_t)(model->token_offsets[token + 1] - model->token_offsets[token]);
    return model->tokens + model->token_offsets[token];
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
