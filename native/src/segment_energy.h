/* How probable speech is in each frame of a recording. */
#ifndef CRESS_SEGMENT_ENERGY_H
#define CRESS_SEGMENT_ENERGY_H

#include "arena.h"

/* Of every ``hop`` samples; the number of frames. */
int64_t hear_speech(struct arena *arena, const float *samples, int64_t count, int64_t hop,
                    double threshold_db, float **probabilities);

#endif
