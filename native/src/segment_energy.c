/* Hearing speech by its level: translation/segmentation/energy.py, which gives the reasons. */
#include "segment_energy.h"
#include "percentile.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const double SILENCE_DB = -80, LOWEST_DB = -140;
static const double QUIET_RECORDING_DB = -50, MOST_RAISE_DB = 40, LAST_STEP_DB = -88;
static const double STEADY_DB = 2.5, STILL_DB = 3, MODE_SHARE = 0.15;
static const double LEAST_RISE_DB = 4, LEAST_RISE = 9, MOST_RISE_DB = 9, LEAST_THRESHOLD_DB = 2;
static const double DIGITAL_SHARE = 0.1, LOW = 4, QUIET = 10, LOUD = 97;
static const double STEADY_RANGE_DB = 5, STEADY_DIFFERENCES_DB = 2.3, SLOW_DB = 9;
static const double SLOW_RANGE_DB = 15;
enum {
    LOUD_FRAMES = 30, SMOOTHED_FRAMES = 5, BLOCK_FRAMES = 500, STEP_FRAMES = 100,
    FEWEST_FRAMES = 50, NEIGHBOURS = 10, STILL_FRAMES = 20, STEADY_FRAMES = 150,
    FEWER_SAMPLES = 160, MODE_RISE_DB = 16, MODE_WIDTH = 6, /* 2 STILL_DB */
    BLOCKS_OF_A_STEP = BLOCK_FRAMES / STEP_FRAMES,
};

static double smaller(double a, double b)
{
    return a < b ? a : b;
}

static double larger(double a, double b)
{
    return a > b ? a : b;
}

static double decibels(double power)
{
    return 10 * log10(power);
}

/* Variance about the mean, in dB; of the samples, or of the differences between neighbours. */
static float level(const float *x, int64_t count, int of_differences)
{
    double mean = 0, power = 0;
    for (int64_t i = 0; i < count; i++)
        mean += of_differences ? (i ? x[i] - x[i - 1] : 0) : x[i];
    mean /= (double)count;
    for (int64_t i = 0; i < count; i++) {
        double value = of_differences ? (i ? x[i] - x[i - 1] : 0) : x[i];
        power += (value - mean) * (value - mean);
    }
    return (float)decibels(larger(power / (double)count, pow(10, LOWEST_DB / 10)));
}

/* A recording of quiet speech is raised as a whole; nothing is below SILENCE_DB. */
static void raise_quiet(struct arena *arena, float *levels, float *differences, int64_t count)
{
    double raised = 0, *sorted = take(arena, (size_t)count, sizeof *sorted);
    for (int64_t i = 0; i < count; i++)
        sorted[i] = levels[i];
    qsort(sorted, (size_t)count, sizeof *sorted, compare_doubles);
    double loud = sorted[count > LOUD_FRAMES ? count - LOUD_FRAMES : 0];
    if (LAST_STEP_DB < loud && loud < QUIET_RECORDING_DB)
        raised = smaller(QUIET_RECORDING_DB - loud, MOST_RAISE_DB);
    for (int64_t i = 0; i < count; i++) {
        levels[i] = fmaxf(levels[i] + (float)raised, (float)SILENCE_DB);
        differences[i] = fmaxf(differences[i] + (float)raised, (float)SILENCE_DB);
    }
}

/* Mean power of some frames, digital silence left out, in dB. */
static double *smooth(struct arena *arena, const float *levels, int64_t count)
{
    double *power = take(arena, (size_t)count, sizeof *power);
    double *smoothed = take(arena, (size_t)count, sizeof *smoothed);
    for (int64_t i = 0; i < count; i++)
        power[i] = levels[i] > SILENCE_DB ? pow(10, (double)levels[i] / 10) : 0;
    for (int64_t i = 0; i < count; i++) {
        double sum = 0, sounding = 0;
        for (int64_t j = i - SMOOTHED_FRAMES / 2; j <= i + SMOOTHED_FRAMES / 2; j++)
            if (j >= 0 && j < count) {
                sum += power[j];
                sounding += levels[j] > SILENCE_DB;
            }
        double mean = levels[i] > SILENCE_DB ? sum / larger(sounding, 1) : 0;
        smoothed[i] = decibels(larger(mean, pow(10, SILENCE_DB / 10)));
    }
    return smoothed;
}

/* Largest minus smallest of every STEADY_FRAMES neighbours: count - STEADY_FRAMES + 1 of them. */
static double *ranges(struct arena *arena, const double *values, int64_t count)
{
    double *high = take(arena, (size_t)count, sizeof *high);
    double *low = take(arena, (size_t)count, sizeof *low);
    memcpy(high, values, (size_t)count * sizeof *high);
    memcpy(low, values, (size_t)count * sizeof *low);
    for (int64_t width = 1, shift; width < STEADY_FRAMES; width += shift) {
        shift = width < STEADY_FRAMES - width ? width : STEADY_FRAMES - width;
        count -= shift;
        for (int64_t i = 0; i < count; i++) {
            high[i] = larger(high[i], high[i + shift]);
            low[i] = smaller(low[i], low[i + shift]);
        }
    }
    for (int64_t i = 0; i < count; i++)
        high[i] -= low[i];
    return high;
}

/* Frames of a sound that hardly changes for STEADY_FRAMES are no speech. */
static void silence_steady(struct arena *arena, const float *levels, const float *differences,
                           int64_t count, int64_t hop, float *probabilities)
{
    if (count < STEADY_FRAMES)
        return;
    double fluctuation = larger(1, sqrt((double)FEWER_SAMPLES / (double)hop));
    const double *loud = smooth(arena, levels, count), *fine = smooth(arena, differences, count);
    const double *loud_range = ranges(arena, loud, count), *fine_range = ranges(arena, fine, count);
    double *sums = take(arena, (size_t)count + 1, sizeof *sums);
    sums[0] = 0;
    for (int64_t i = 0; i < count; i++)
        sums[i + 1] = sums[i] + (loud[i] - fine[i]);
    for (int64_t i = 0; i + STEADY_FRAMES <= count; i++) {
        int slow = (sums[i + STEADY_FRAMES] - sums[i]) / STEADY_FRAMES > SLOW_DB;
        if (loud_range[i] < (slow ? SLOW_RANGE_DB : STEADY_RANGE_DB * fluctuation) &&
            fine_range[i] < STEADY_DIFFERENCES_DB * fluctuation)
            memset(probabilities + i, 0, STEADY_FRAMES * sizeof *probabilities);
    }
}

/* Percentiles of the levels in blocks; see class Blocks. */
struct blocks {
    int64_t count;
    double *low, *quiet, *loud, *digital;
    char *steady;
};

/* Whether ``wanted`` frames in a row are in a range and no digital silence. */
static int lasts(const double *part, const float *levels, int64_t count, double from, double below,
                 int upper_counts, int64_t wanted)
{
    int64_t length = 0;
    for (int64_t i = 0; i < count; i++) {
        int inside = part[i] >= from && (part[i] < below || (upper_counts && part[i] == below));
        length = levels[i] > SILENCE_DB && inside ? length + 1 : 0;
        if (length && length >= wanted)
            return 1;
    }
    return 0;
}

/* The loudest steady level not far above ``quiet``, nor half-way up to ``loud``; ``sorted``: the
 * levels of what sounds. */
static int louder_noise(const double *part, const float *levels, int64_t size,
                        const double *sorted, int64_t count, double quiet, double loud,
                        int64_t fewest, double *low, double *middle)
{
    double highest = smaller((quiet + loud) / 2, quiet + MODE_RISE_DB);
    int64_t edges = (int64_t)ceil(highest - quiet), bins = edges - 1;
    double mass[MODE_RISE_DB + 2], counts[MODE_RISE_DB + 2] = {0};
    if (bins <= MODE_WIDTH)
        return 0;
    for (int64_t i = 0; i < count; i++)
        for (int64_t bin = 0; bin < bins; bin++) {
            double from = quiet + (double)bin, to = quiet + (double)(bin + 1);
            counts[bin] += sorted[i] >= from &&
                           (sorted[i] < to || (bin == bins - 1 && sorted[i] == to));
        }
    int64_t places = bins - MODE_WIDTH + 1;
    for (int64_t i = 0; i < places; i++) {
        mass[i] = 0;
        for (int64_t j = 0; j < MODE_WIDTH; j++)
            mass[i] += counts[i + j];
    }
    for (int64_t start = places - 1; start >= 0; start--) {
        int flank = 0;
        for (int64_t i = start - MODE_WIDTH; i < start + MODE_WIDTH && i < places; i++)
            flank |= i >= 0 && mass[i] > mass[start];
        double from = quiet + (double)start, below = quiet + (double)(start + MODE_WIDTH);
        if (mass[start] < MODE_SHARE * (double)count || flank ||
            !lasts(part, levels, size, from, below, 0, fewest))
            continue;
        int64_t first = 0, end;
        while (first < count && sorted[first] < from)
            first++;
        for (end = first; end < count && sorted[end] < below;)
            end++;
        *low = percentile(sorted + first, end - first, LOW);
        *middle = percentile(sorted + first, end - first, QUIET);
        return *middle - *low <= STEADY_DB;
    }
    return 0;
}

static struct blocks measure_blocks(struct arena *arena, const float *levels,
                                    const double *smoothed, int64_t count)
{
    int64_t rest = count - BLOCK_FRAMES + STEP_FRAMES;
    int64_t fewest = STILL_FRAMES < count / 2 ? STILL_FRAMES : count / 2;
    struct blocks blocks = {.count = ((rest > 1 ? rest : 1) + STEP_FRAMES - 1) / STEP_FRAMES};
    double **columns[] = {&blocks.low, &blocks.quiet, &blocks.loud, &blocks.digital};
    for (int c = 0; c < 4; c++) {
        *columns[c] = take(arena, (size_t)blocks.count, sizeof(double));
        for (int64_t i = 0; i < blocks.count; i++)
            (*columns[c])[i] = NAN;
    }
    blocks.steady = take_zeros(arena, (size_t)blocks.count, 1);
    for (int64_t number = 0; number < blocks.count; number++) {
        const double *part = smoothed + number * STEP_FRAMES;
        const float *own = levels + number * STEP_FRAMES;
        int64_t size = count - number * STEP_FRAMES, sounding = 0;
        double sorted[BLOCK_FRAMES];
        size = size < BLOCK_FRAMES ? size : BLOCK_FRAMES;
        for (int64_t i = 0; i < size; i++)
            if (own[i] > SILENCE_DB)
                sorted[sounding++] = part[i];
        blocks.digital[number] = 1 - (double)sounding / (double)size;
        if (!sounding || (double)sounding < smaller(FEWEST_FRAMES, (double)count / 2))
            continue;
        qsort(sorted, (size_t)sounding, sizeof *sorted, compare_doubles);
        double least = percentile(sorted, sounding, LOW);
        double tenth = percentile(sorted, sounding, QUIET);
        double most = percentile(sorted, sounding, LOUD), low, middle;
        blocks.steady[number] = tenth - least <= STEADY_DB &&
                                lasts(part, own, size, -INFINITY, tenth + STILL_DB, 1, fewest);
        if (louder_noise(part, own, size, sorted, sounding, tenth, most, fewest, &low, &middle)) {
            least = low, tenth = middle;
            blocks.steady[number] = 1;
        }
        blocks.low[number] = least;
        blocks.quiet[number] = tenth;
        blocks.loud[number] = most;
    }
    return blocks;
}

/* By how many dB speech must rise above the noise. */
static double least_rise(struct arena *arena, const struct blocks *blocks)
{
    double *spread = take(arena, (size_t)blocks->count, sizeof *spread), fluctuation = 0;
    int64_t count = 0;
    for (int64_t i = 0; i < blocks->count; i++)
        if (blocks->steady[i])
            spread[count++] = blocks->quiet[i] - blocks->low[i];
    qsort(spread, (size_t)count, sizeof *spread, compare_doubles);
    if (count)
        fluctuation = (spread[(count - 1) / 2] + spread[count / 2]) / 2;
    return smaller(larger(LEAST_RISE * fluctuation, LEAST_RISE_DB), MOST_RISE_DB);
}

/* The loudest of the blocks around each; NaN where none is known. */
static double *over_neighbours(struct arena *arena, const double *values, int64_t count)
{
    double *most = take(arena, (size_t)count, sizeof *most);
    for (int64_t i = 0; i < count; i++) {
        most[i] = NAN;
        for (int64_t j = i - NEIGHBOURS; j <= i + NEIGHBOURS; j++)
            if (j >= 0 && j < count)
                most[i] = fmax(most[i], values[j]);
    }
    return most;
}

/* The noise of each block in dB; NaN where it is not known.  Whether any is. */
static int find_floors(struct arena *arena, const struct blocks *b, double least, double *floors)
{
    const double *top = over_neighbours(arena, b->loud, b->count);
    char *flat = take_zeros(arena, (size_t)b->count, 1);
    double highest = NAN, lowest = NAN, quietest = INFINITY;
    int64_t known = 0, others = 0;
    for (int64_t i = 0; i < b->count; i++) {
        double contrast = (b->digital[i] < DIGITAL_SHARE ? top[i] : b->loud[i]) - b->quiet[i];
        int noise = b->steady[i] && contrast >= least;
        flat[i] = b->steady[i] && !noise;
        floors[i] = noise ? b->quiet[i] : NAN;
        highest = fmax(highest, b->loud[i]);
        lowest = fmin(lowest, b->low[i]);
        if (noise || (flat[i] && b->digital[i] < DIGITAL_SHARE)) {
            quietest = smaller(quietest, b->quiet[i]);
            known++;
        }
        others += flat[i] && b->digital[i] >= DIGITAL_SHARE;
    }
    if (isnan(highest))
        return 0;
    char *is_level = take_zeros(arena, (size_t)b->count, 1);
    for (int64_t i = 0; i < b->count; i++)
        is_level[i] = !isnan(floors[i]) || (flat[i] && b->digital[i] < DIGITAL_SHARE);
    for (int64_t i = 0; i < b->count && known; i++)
        if (flat[i] && b->digital[i] < DIGITAL_SHARE && b->quiet[i] <= (quietest + highest) / 2 &&
            (highest - quietest >= least || !others))
            floors[i] = b->quiet[i];
    int any = 0;
    for (int64_t i = 0; i < b->count; i++) {
        if (b->digital[i] >= DIGITAL_SHARE && isnan(floors[i])) {
            int like_noise = 0;
            for (int64_t j = 0; j < b->count && flat[i]; j++)
                like_noise |= is_level[j] && fabs(b->quiet[j] - b->quiet[i]) < 4;
            floors[i] = like_noise ? b->quiet[i] : SILENCE_DB;
        }
        any |= !isnan(floors[i]);
    }
    for (int64_t i = 0; i < b->count && !any && highest - lowest >= MOST_RISE_DB; i++)
        floors[i] = isnan(b->low[i]) ? NAN : lowest;
    return any || highest - lowest >= MOST_RISE_DB;
}

/* Of each STEP_FRAMES frames, in dB; infinite where nothing is louder than the noise. */
static double *find_thresholds(struct arena *arena, const float *levels, const double *smoothed,
                               int64_t count, double threshold_db)
{
    int64_t steps = (count + STEP_FRAMES - 1) / STEP_FRAMES;
    double *thresholds = take(arena, (size_t)steps, sizeof *thresholds);
    struct blocks blocks = measure_blocks(arena, levels, smoothed, count);
    double least = least_rise(arena, &blocks);
    double *floors = take(arena, (size_t)blocks.count, sizeof *floors);
    int known = find_floors(arena, &blocks, least, floors);
    const double *top = over_neighbours(arena, blocks.loud, blocks.count);
    for (int64_t step = 0; step < steps; step++) {
        double own = NAN, speech = NAN;
        thresholds[step] = INFINITY;
        for (int64_t back = 0; back < BLOCKS_OF_A_STEP; back++) {
            int64_t block = step - back;
            block = block < 0 ? 0 : block < blocks.count ? block : blocks.count - 1;
            own = fmax(own, floors[block]);
            speech = fmax(speech, top[block]);
        }
        for (int64_t far = 0; known && isnan(own) && far < steps + blocks.count; far++) {
            /* the nearest block; of two the later one */
            if (step + far < blocks.count)
                own = floors[step + far];
            if (isnan(own) && step - far >= 0 && step - far < blocks.count)
                own = floors[step - far];
        }
        double rise = (isnan(speech) ? 0 : speech) - own;
        if (known && !(rise < least))
            thresholds[step] = own + larger(smaller(rise / 2, threshold_db), LEAST_THRESHOLD_DB);
    }
    return thresholds;
}

/* 0.5 at the threshold, and more the louder a frame is. */
static void speech_probabilities(struct arena *arena, const float *levels, int64_t count,
                                 double threshold_db, float *probabilities)
{
    const double *smoothed = smooth(arena, levels, count);
    const double *thresholds = find_thresholds(arena, levels, smoothed, count, threshold_db);
    char *heard = take_zeros(arena, (size_t)count, 1);
    for (int64_t start = 0, stop; start < count; start = stop + 1) {
        int64_t first = -1, last = -1; /* of a smoothed sound, what is loud */
        for (stop = start; stop < count && smoothed[stop] > thresholds[stop / STEP_FRAMES]; stop++)
            if (levels[stop] > thresholds[stop / STEP_FRAMES]) {
                first = first < 0 ? stop : first;
                last = stop;
            }
        if (first >= 0)
            memset(heard + first, 1, (size_t)(last - first + 1));
    }
    for (int64_t i = 0; i < count; i++) {
        double threshold = thresholds[i / STEP_FRAMES], over;
        if (heard[i])
            over = larger(larger(smoothed[i], levels[i]) - threshold, 1e-3);
        else
            over = smaller(smaller(smoothed[i], levels[i]) - threshold, 0);
        probabilities[i] = (float)(1 / (1 + pow(10, -over / 20)));
    }
}

int64_t hear_speech(struct arena *arena, const float *samples, int64_t count, int64_t hop,
                    double threshold_db, float **probabilities)
{
    int64_t frames = (count + hop - 1) / hop;
    float *levels = take(arena, (size_t)frames + 1, sizeof *levels);
    float *differences = take(arena, (size_t)frames + 1, sizeof *differences);
    *probabilities = take(arena, (size_t)frames + 1, sizeof **probabilities);
    if (!frames)
        return 0;
    for (int64_t i = 0; i < frames; i++) {
        int64_t size = count - i * hop < hop ? count - i * hop : hop;
        levels[i] = level(samples + i * hop, size, 0);
        differences[i] = level(samples + i * hop, size, 1);
    }
    raise_quiet(arena, levels, differences, frames);
    speech_probabilities(arena, levels, frames, threshold_db, *probabilities);
    silence_steady(arena, levels, differences, frames, hop, *probabilities);
    return frames;
}
