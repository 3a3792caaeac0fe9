/* Another rate by a windowed sinc, as soxr's high quality has it: flat up to 0.913 of what the
 * lower rate can hold, 120 dB down beyond it. */
#include "resample.h"

#include <math.h>

#include "compute.h"

enum { MOST_PHASES = 1024, LEAST_PHASES = 16 }; /* of a filter as short as they are */

static const double PI = 3.14159265358979323846, PASSED = 0.913, ATTENUATION = 120;

static double bessel(double x)
{
    double sum = 1, term = 1;
    for (int k = 1; term > sum * 1e-17; k++)
        sum += term *= x * x / (4.0 * k * k);
    return sum;
}

struct filter {
    int64_t half, taps, phases; /* taps of a phase; one phase more follows the last */
    float *weights;
};

/* The filter at ``phases`` places between two samples; ``lower``: the lower rate over the input's. */
static struct filter design(struct arena *arena, double lower, int64_t phases)
{
    double width = (1 - PASSED) * lower, cut = (1 + PASSED) / 2 * lower;
    double beta = 0.1102 * (ATTENUATION - 8.7);
    double half = (ATTENUATION - 8) / (2.285 * PI * width) / 2;
    struct filter filter = {.half = (int64_t)half + 1, .phases = phases};
    filter.taps = (2 * filter.half + 15) / 16 * 16;
    filter.weights = take_zeros(arena, (size_t)((phases + 1) * filter.taps), sizeof(float));
    for (int64_t p = 0; p <= phases; p++) {
        float *row = filter.weights + p * filter.taps;
        double total = 0;
        for (int64_t i = 0; i < 2 * filter.half; i++) {
            double at = (double)(i - filter.half + 1) - (double)p / (double)phases;
            double place = at / (double)filter.half;
            double window = place * place < 1 ? bessel(beta * sqrt(1 - place * place)) : 0;
            double sinc = at == 0 ? cut : sin(PI * cut * at) / (PI * at);
            row[i] = (float)(sinc * window);
            total += sinc * window;
        }
        for (int64_t i = 0; i < 2 * filter.half; i++)
            row[i] = (float)(row[i] / total);
    }
    return filter;
}

static int64_t divisor(int64_t a, int64_t b)
{
    return b ? divisor(b, a % b) : a;
}

int64_t resampled_length(int64_t count, int64_t rate)
{
    int64_t length = (2 * count * SAMPLE_RATE + rate) / (2 * rate);
    return length < 1 ? 1 : length;
}

float *resample(struct arena *arena, const float *samples, int64_t count, int64_t rate)
{
    int64_t length = resampled_length(count, rate), shared = divisor(rate, SAMPLE_RATE);
    int64_t out_step = SAMPLE_RATE / shared, in_step = rate / shared;
    double lower = rate > SAMPLE_RATE ? (double)SAMPLE_RATE / (double)rate : 1;
    /* A filter that is longer changes less from sample to sample: fewer phases are as exact. */
    int64_t most = (int64_t)(MOST_PHASES * lower);
    most = most > LEAST_PHASES ? most : LEAST_PHASES;
    int exact = out_step <= most;
    struct filter filter = design(arena, lower, exact ? out_step : most);
    float *padded = take_zeros(arena, (size_t)(count + 2 * filter.taps + 2), sizeof *padded);
    float *result = take(arena, (size_t)length, sizeof *result);
    for (int64_t i = 0; i < count; i++)
        padded[filter.half + i] = samples[i];
    for (int64_t n = 0; n < length; n++) {
        int64_t whole = n * in_step / out_step, rest = n * in_step % out_step;
        const float *window = padded + (whole < count ? whole : count) + 1;
        if (exact) {
            result[n] = dot(window, filter.weights + rest * filter.taps, filter.taps);
            continue;
        }
        double phase = (double)rest * (double)most / (double)out_step;
        const float *row = filter.weights + (int64_t)phase * filter.taps;
        float part = (float)(phase - floor(phase)), here = dot(window, row, filter.taps);
        result[n] = here + part * (dot(window, row + filter.taps, filter.taps) - here);
    }
    return result;
}
