/* Speech far too quiet or loud: translation/loudness.py. */
#ifndef CRESS_LOUDNESS_H
#define CRESS_LOUDNESS_H

#include <stdint.h>

/* Brings a segment that is below -40 dB or above -12 dB to -26 dB, in place; silence stays. */
void at_usual_loudness(float *samples, int64_t count);

#endif
