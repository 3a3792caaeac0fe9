/* When each word of a translation is said: translation/word_times.py. */
#ifndef CRESS_WORD_TIMES_H
#define CRESS_WORD_TIMES_H

#include "letters.h"
#include "translate.h"

/* Letters [first, last) of a text; seconds of the recording. */
struct word {
    int64_t first, last;
    double start, end;
};

/* The words of a hypothesis (its tokens as they are in its text).
 *
 * attention: of its tokens to frames (tokens x frames); wave: samples of 16,000 a second, which begin
 * at ``offset`` seconds.  The number of words. */
int64_t time_words(struct run *run, const struct hypothesis *hypothesis, struct letters text,
                   const float *attention, int64_t frames, const float *wave, int64_t samples,
                   double offset, struct word **words);

#endif
