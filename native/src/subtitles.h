/* Subtitles of few short lines that stay long enough: translation/subtitles.py, with its limits. */
#ifndef CRESS_SUBTITLES_H
#define CRESS_SUBTITLES_H

#include "word_times.h"

/* What was said in a segment, and the times of its words (none: by their letters). */
struct part {
    struct letters text;
    struct word *words;
    int64_t count;
    double start, end;
};

enum subtitle_form { SUBRIP, WEBVTT };

/* The content of a file of subtitles of a recording that ends after so many seconds. */
char *make_subtitles(struct arena *arena, const struct part *parts, int64_t count, double end,
                     enum subtitle_form form);

#endif
