/* A translator, and the recording that it is given: what the files of the interface share. */
#ifndef CRESS_TRANSLATOR_H
#define CRESS_TRANSLATOR_H

#include "segment_divide.h"
#include "subtitles.h"

static const double MOST_SECONDS = 3600; /* of a segment */

enum { BY_EITHER, BY_ENERGY, BY_LEARNT }; /* segmenters */

struct recording {
    float *samples;
    int64_t count, capacity, rate;
    struct span *spans;
    int64_t segments, next;
    int64_t settled;    /* samples that are cut, while more are fed */
    struct part *parts; /* of the segments translated so far, with word times */
    int64_t count_of_parts;
    int live, finished, by_second; /* cut by loudness, since the model's segmenter heard nothing */
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
    int32_t first; /* see struct run */
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

/* A run whose products the translator's threads compute, until end_run. */
struct run begin_run(struct cress_translator *translator);
void end_run(void);

/* Translates samples of the model's rate into the translator, or fails in its arena. */
void translate_segment(struct cress_translator *translator, const float *samples, int64_t count);

/* Forgets the last segment; the recording, but for the memory of its samples. */
void forget_segment(struct cress_translator *translator);
void forget_recording(struct recording *recording);

/* -1, with a message. */
int refuse(struct cress_translator *translator, const char *message);

#endif
