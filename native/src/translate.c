/* A segment, from samples to hypotheses, texts and times of words. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "resample.h"
#include "translator.h"

void forget_recording(struct recording *recording)
{
    for (int64_t i = 0; i < recording->count_of_parts; i++) {
        free(recording->parts[i].text.at);
        free(recording->parts[i].words);
    }
    free(recording->parts);
    *recording = (struct recording){.samples = recording->samples, .capacity = recording->capacity,
                                    .spans = recording->spans};
}

/* As fairseq shows tokens. */
static void strip(const struct cress_model *model, struct hypothesis *hypothesis)
{
    int count = 0;
    for (int i = 0; i < hypothesis->count; i++)
        if (is_shown(model, hypothesis->tokens[i]))
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

struct run begin_run(struct cress_translator *translator)
{
    pool_use(translator->pool);
    return (struct run){
        .model = translator->model, .arena = &translator->arena, .isa = translator->isa,
        .threads = translator->options.threads, .first = translator->first,
    };
}

void end_run(void)
{
    pool_use(NULL);
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
        if (is_shown(model, best->raw[i]))
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

void translate_segment(struct cress_translator *translator, const float *samples, int64_t count)
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
    if (!translator->count)
        fail(run.arena, "no translation comes to an end: the model's scores are no numbers, its "
                        "weights are damaged");
    if (translator->recording.parts)
        keep_words(translator, &run, states, frames, samples, count);
    end_run();
}

void forget_segment(struct cress_translator *translator)
{
    end_run();
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
    if (!translator || (count && !samples))
        return refuse(translator, "cress_translate: no samples are given");
    struct arena *arena = &translator->arena;
    forget_segment(translator);
    forget_recording(&translator->recording);
    if (setjmp(arena->escape)) {
        forget_segment(translator);
        return -1;
    }
    if (count > (size_t)(SAMPLE_RATE * MOST_SECONDS))
        fail(arena, "a segment of %zu samples is too long; an hour is the most", count);
    check_samples(arena, samples, count);
    translate_segment(translator, samples, (int64_t)count);
    return 0;
}
