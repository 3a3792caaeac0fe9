/* Recordings of any length and rate, in segments of 16,000 samples a second. */
#ifndef CRESS_RECORDING_H
#define CRESS_RECORDING_H

#include "compute.h"

/* A part of a recording, in samples of its own rate. */
struct span {
    int64_t first, count;
};

/* How a recording is cut: segmentation/options.py, and what a segmenter likes. */
struct cutting {
    double max_seconds, min_seconds, pause_seconds, threshold_db;
    float threshold;      /* probability above which a frame is speech */
    double before, after; /* seconds of what surrounds a segment that are left to it */
};

/* Where something is said, by the probabilities of speech in frames of ``hop`` samples; the number
 * of spans. */
int64_t find_segments(struct arena *arena, const struct cutting *how, const float *probabilities,
                      int64_t frames, double hop, int64_t count, int64_t rate, struct span **spans);

/* Samples of ``rate`` as 16,000 a second. */
int64_t resampled_length(int64_t count, int64_t rate);
float *resample(struct arena *arena, const float *samples, int64_t count, int64_t rate);

/* Speech far too quiet or loud is brought to -26 dB, in place. */
void at_usual_loudness(float *samples, int64_t count);

#endif
