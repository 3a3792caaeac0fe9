/* Recordings: fed in blocks, cut, translated a segment at a time, shown as subtitles. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "loudness.h"
#include "resample.h"
#include "segment_energy.h"
#include "segment_learnt.h"
#include "translator.h"

int refuse(struct cress_translator *translator, const char *message)
{
    if (!translator)
        return -1;
    snprintf(translator->arena.message, sizeof translator->arena.message, "%s", message);
    return -1;
}

int cress_begin(cress_translator *translator, int rate)
{
    if (!translator)
        return -1;
    struct recording *recording = &translator->recording;
    forget_segment(translator);
    forget_recording(recording);
    if (rate < LEAST_RATE || rate > MOST_RATE)
        return refuse(translator, "the rate is not from 1,000 to 10,000,000 samples a second");
    recording->rate = rate;
    return 0;
}

int cress_feed(cress_translator *translator, const float *samples, size_t count)
{
    if (!translator || (count && !samples))
        return refuse(translator, "cress_feed: no samples are given");
    struct recording *recording = &translator->recording;
    int64_t capacity = recording->capacity ? recording->capacity : 1 << 16;
    if (!recording->rate || recording->finished)
        return refuse(translator, "cress_begin comes before cress_feed");
    for (size_t i = 0; i < count; i++)
        if (!isfinite(samples[i]))
            return refuse(translator, "a sample is NaN or infinite");
    if (count > SIZE_MAX / 16)
        return refuse(translator, "out of memory");
    while (capacity - recording->count < (int64_t)count)
        capacity += capacity / 2;
    if (capacity > recording->capacity) {
        float *more = realloc(recording->samples, (size_t)capacity * sizeof *more);
        if (!more)
            return refuse(translator, "out of memory");
        recording->samples = more;
        recording->capacity = capacity;
    }
    if (count)
        memcpy(recording->samples + recording->count, samples, count * sizeof *samples);
    recording->count += (int64_t)count;
    return 0;
}

/* How it likes to cut who hears by loudness, in frames of 10 ms: class Segmenter in
 * translation/segmentation/base.py.  A model's segmenter says so itself, and leaves nothing around. */
static const double PAUSE = 0.4, MIN = 0.5, BEFORE = 0.1, AFTER = 0.2, THRESHOLD = 0.5;
enum { FRAMES_A_SECOND = 100 };

/* The segments of what begins at the sample ``from``, by one of the segmenters; in the translator's
 * arena. */
static int64_t cut(struct cress_translator *translator, int learnt, int64_t from,
                   struct span **spans)
{
    const struct recording *recording = &translator->recording;
    const struct cress_options *options = &translator->options;
    const struct hearing *hearing = translator->model->hearing;
    struct arena *arena = &translator->arena;
    const float *samples = recording->samples + from;
    int64_t length = recording->count - from;
    int64_t rate = recording->rate, frames, whole = (int64_t)rint((double)rate / FRAMES_A_SECOND);
    double hop = (double)(whole < 1 ? 1 : whole);
    float *probabilities = NULL;
    struct cutting how = {
        .max_seconds = options->max_seconds, .min_seconds = MIN, .pause_seconds = PAUSE,
        .threshold = (float)THRESHOLD, .before = BEFORE, .after = AFTER,
    };
    if (learnt) {
        struct run run = begin_run(translator);
        frames = hear(&run, samples, length, rate, &probabilities, &hop);
        end_run();
        how = (struct cutting){
            .max_seconds = options->max_seconds, .min_seconds = hearing->min_seconds,
            .pause_seconds = hearing->pause_seconds, .threshold = hearing->threshold,
        };
    } else {
        frames = hear_speech(arena, samples, length, (int64_t)hop, options->threshold_db,
                             &probabilities);
    }
    if (options->min_seconds >= 0)
        how.min_seconds = options->min_seconds;
    if (options->pause_seconds >= 0)
        how.pause_seconds = options->pause_seconds;
    int64_t count = find_segments(arena, &how, probabilities, frames, hop, length, rate, spans);
    for (int64_t i = 0; i < count; i++)
        (*spans)[i].first += from;
    return count;
}

/* Whether the model's segmenter cuts. */
static int is_learnt(const struct cress_translator *translator)
{
    return translator->segmenter != BY_ENERGY && translator->model->hearing;
}

/* By the learnt segmenter where there is one, and by loudness where it hears nothing. */
static int64_t cut_by_either(struct cress_translator *translator, struct span **spans)
{
    int64_t count = 0;
    int learnt = is_learnt(translator);
    if (learnt)
        count = cut(translator, 1, 0, spans);
    if (!count && translator->segmenter != BY_LEARNT) {
        count = cut(translator, 0, 0, spans);
        translator->recording.by_second = learnt && count;
    }
    return count;
}

/* A block is cut with what was heard before it: by loudness, that tells how loud the noise is; a model
 * hears it with its surroundings.  A segment is settled when so much was heard after it that none
 * joins it.  What is left of one that was settled, and now ends later, is none unless it is long. */
static const double CONTEXT_SECONDS[] = {30, 4}, SETTLED_SECONDS[] = {1, 2}, LEAST_SECONDS = 0.3;

/* The segments behind those that are settled. */
static int64_t cut_rest(struct cress_translator *translator, struct span **spans)
{
    const struct recording *recording = &translator->recording;
    int learnt = is_learnt(translator);
    double rate = (double)recording->rate;
    int64_t settled = recording->settled, kept = 0;
    int64_t context = (int64_t)(CONTEXT_SECONDS[learnt] * rate);
    int64_t least = (int64_t)(LEAST_SECONDS * rate);
    if (settled == recording->count)
        return 0;
    int64_t count = cut(translator, learnt, settled > context ? settled - context : 0, spans);
    for (int64_t i = 0; i < count; i++) {
        struct span span = (*spans)[i];
        int64_t first = span.first > settled ? span.first : settled;
        int64_t left = span.first + span.count - first;
        if (left >= (first == span.first ? 1 : least))
            (*spans)[kept++] = (struct span){first, left};
    }
    return kept;
}

/* Adds segments to those of the recording. */
static void keep_spans(struct cress_translator *translator, const struct span *spans, int64_t count)
{
    struct recording *recording = &translator->recording;
    size_t all = (size_t)(recording->segments + count) + 1;
    struct span *more = realloc(recording->spans, all * sizeof *more);
    if (!more)
        fail(&translator->arena, "out of memory");
    recording->spans = more;
    if (translator->options.word_times) {
        struct part *parts = realloc(recording->parts, all * sizeof *parts);
        if (!parts)
            fail(&translator->arena, "out of memory");
        recording->parts = parts;
    }
    memcpy(more + recording->segments, spans, (size_t)count * sizeof *spans);
    recording->segments += count;
}

int cress_settle(cress_translator *translator)
{
    if (!translator)
        return -1;
    struct recording *recording = &translator->recording;
    struct span *spans;
    forget_segment(translator);
    if (!recording->rate || recording->finished || translator->options.whole)
        return refuse(translator, "cress_begin comes before cress_settle, cress_finish after it, and "
                                  "the recording is not to be one segment");
    if (setjmp(translator->arena.escape)) {
        forget_segment(translator);
        return -1;
    }
    recording->live = 1;
    int64_t count = cut_rest(translator, &spans), settled = 0;
    double margin = SETTLED_SECONDS[is_learnt(translator)];
    int64_t before = recording->count - (int64_t)(margin * (double)recording->rate);
    while (settled < count && spans[settled].first + spans[settled].count <= before)
        settled++;
    keep_spans(translator, spans, settled);
    if (settled)
        recording->settled = spans[settled - 1].first + spans[settled - 1].count;
    forget_segment(translator);
    return (int)settled;
}

int cress_finish(cress_translator *translator)
{
    if (!translator)
        return -1;
    struct recording *recording = &translator->recording;
    struct span all = {0, recording->count}, *spans = &all;
    forget_segment(translator);
    if (!recording->rate || recording->finished)
        return refuse(translator, "cress_begin comes before cress_finish");
    if (setjmp(translator->arena.escape)) {
        forget_segment(translator);
        return -1;
    }
    int64_t count = recording->count > 0;
    if (recording->segments)
        count = cut_rest(translator, &spans);
    else if (count && !translator->options.whole)
        count = cut_by_either(translator, &spans);
    keep_spans(translator, spans, count);
    forget_segment(translator);
    recording->finished = 1;
    return 0;
}

int cress_next(cress_translator *translator)
{
    if (!translator)
        return -1;
    struct recording *recording = &translator->recording;
    struct arena *arena = &translator->arena;
    forget_segment(translator);
    if (!recording->finished && !recording->live)
        return refuse(translator, "cress_finish or cress_settle comes before cress_next");
    if (recording->next == recording->segments)
        return 0;
    struct span span = recording->spans[recording->next++];
    if (setjmp(arena->escape)) {
        forget_segment(translator);
        return -1;
    }
    int64_t length = resampled_length(span.count, recording->rate);
    if ((double)length > SAMPLE_RATE * MOST_SECONDS)
        fail(arena, "a segment of %lld samples is too long; an hour is the most",
             (long long)length);
    const float *samples = recording->samples + span.first;
    float *wave = take_zeros(arena, (size_t)length, sizeof *wave);
    if (recording->rate == SAMPLE_RATE && span.count)
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
    return translator ? (int)translator->recording.segments : 0;
}

int cress_span(const cress_translator *translator, int number, int64_t *first, int64_t *count)
{
    const struct recording *recording = translator ? &translator->recording : NULL;
    if (!recording || !recording->finished || number < 0 || number >= recording->segments)
        return -1;
    if (first)
        *first = recording->spans[number].first;
    if (count)
        *count = recording->spans[number].count;
    return 0;
}

int cress_cut_by_loudness(const cress_translator *translator)
{
    return translator && translator->recording.by_second;
}

double cress_seconds(const cress_translator *translator)
{
    const struct recording *recording = translator ? &translator->recording : NULL;
    return recording && recording->rate ? (double)recording->count / (double)recording->rate : 0;
}

double cress_start(const cress_translator *translator)
{
    return translator ? translator->start : 0;
}

double cress_end(const cress_translator *translator)
{
    return translator ? translator->end : 0;
}

int cress_decoded_again(const cress_translator *translator)
{
    return translator && translator->again;
}

int cress_word_count(const cress_translator *translator)
{
    return translator ? translator->words : 0;
}

const char *cress_word(const cress_translator *translator, int number, double *start, double *end)
{
    if (!translator || number < 0 || number >= translator->words)
        return NULL;
    if (start)
        *start = translator->spoken[number].start;
    if (end)
        *end = translator->spoken[number].end;
    return translator->spoken[number].text;
}

const char *cress_subtitles(cress_translator *translator, const char *format)
{
    if (!translator)
        return NULL;
    struct recording *recording = &translator->recording;
    int is_vtt = format && !strcmp(format, "vtt");
    forget_segment(translator);
    if (!is_vtt && (!format || strcmp(format, "srt"))) {
        refuse(translator, "subtitles: expected srt or vtt");
        return NULL;
    }
    if (!recording->parts) {
        refuse(translator, "subtitles need a recording, and word_times");
        return NULL;
    }
    if (setjmp(translator->arena.escape)) {
        forget_segment(translator);
        return NULL;
    }
    return make_subtitles(&translator->arena, recording->parts, recording->count_of_parts,
                          cress_seconds(translator), is_vtt ? WEBVTT : SUBRIP);
}
