#include "loudness.h"

#include <math.h>

static const double USUAL_DB = -26, LOWEST_DB = -40, HIGHEST_DB = -12, SILENCE_PEAK = 1e-4;

void at_usual_loudness(float *samples, int64_t count)
{
    double squares = 0, mean = 0, peak = 0;
    for (int64_t i = 0; i < count; i++) {
        squares += (double)samples[i] * samples[i];
        mean += samples[i];
    }
    if (!count)
        return;
    mean /= (double)count;
    for (int64_t i = 0; i < count; i++) {
        double size = fabs(samples[i] - mean);
        peak = size > peak ? size : peak;
    }
    double level = 20 * log10(fmax(1e-12, sqrt(squares / (double)count)));
    if ((level >= LOWEST_DB && level <= HIGHEST_DB) || peak < SILENCE_PEAK)
        return;
    float gain = (float)pow(10, (USUAL_DB - level) / 20);
    for (int64_t i = 0; i < count; i++)
        samples[i] *= gain;
}
