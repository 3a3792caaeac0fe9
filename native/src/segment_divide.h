/* From the probability of speech to segments: translation/segmentation/divide.py and base.py. */
#ifndef CRESS_SEGMENT_DIVIDE_H
#define CRESS_SEGMENT_DIVIDE_H

#include "arena.h"

/* A part of a recording, in samples of its own rate. */
struct span {
    int64_t first, count;
};

/* How a recording is cut: segmentation/options.py, and what a segmenter likes. */
struct cutting {
    double max_seconds, min_seconds, pause_seconds;
    float threshold;      /* probability above which a frame is speech */
    double before, after; /* seconds of what surrounds a segment that are left to it */
};

/* Where something is said, by the probabilities of speech in frames of ``hop`` samples; the number
 * of spans. */
int64_t find_segments(struct arena *arena, const struct cutting *how, const float *probabilities,
                      int64_t frames, double hop, int64_t count, int64_t rate, struct span **spans);

#endif
