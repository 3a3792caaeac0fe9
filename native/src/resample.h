/* Samples of any rate as 16,000 a second. */
#ifndef CRESS_RESAMPLE_H
#define CRESS_RESAMPLE_H

#include "arena.h"

enum {
    SAMPLE_RATE = 16000, /* a second, that models take */
    LEAST_RATE = 1000, MOST_RATE = 10000000, /* of recordings */
};

/* How many ``count`` samples of ``rate`` become; 1 at least. */
int64_t resampled_length(int64_t count, int64_t rate);

/* Those of ``rate`` as resampled_length many, in the arena. */
float *resample(struct arena *arena, const float *samples, int64_t count, int64_t rate);

#endif
