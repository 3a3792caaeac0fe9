/* The segmenter that a model carries: translation/segmentation/learnt.py. */
#ifndef CRESS_SEGMENT_LEARNT_H
#define CRESS_SEGMENT_LEARNT_H

#include "compute.h"

enum { HEARING_CONVOLUTIONS = 4 };

struct hearing {
    int64_t width;
    int normalize;
    double pause_seconds, min_seconds;
    float threshold;
    struct norm norm;
    const float *project, *project_bias, *output, *output_bias;
    const float *convolution[HEARING_CONVOLUTIONS], *bias[HEARING_CONVOLUTIONS];
};

/* Reads the plan's ``segmenter``; NULL where the model carries none. */
struct hearing *hearing_read(struct cress_model *model);

/* How probable speech is in each frame of a recording; the number of frames, ``hop`` of its samples
 * each. */
int64_t hear(struct run *run, const float *samples, int64_t count, int64_t rate,
             float **probabilities, double *hop);

#endif
