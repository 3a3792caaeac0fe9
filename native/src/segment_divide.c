/* From the probability of speech to segments: translation/segmentation/divide.py and base.py. */
#include <math.h>
#include <string.h>

#include "segment_divide.h"

static const double SHORTEST_SOUND = 0.05, DIP_SECONDS = 0.1, LONGEST_LEAD = 0.25;
enum { MANY = 8 }; /* what is longer than so many segments is cut in its middle half */

/* [start, stop) in frames. */
struct region {
    int64_t start, stop;
};

struct regions {
    struct region *all;
    int64_t count;
};

static int64_t in_frames(double seconds, double per_second)
{
    double frames = rint(seconds * per_second);
    return frames < 1 ? 1 : (int64_t)frames;
}

/* Sounds of at least ``shortest`` frames; with less than a pause between them they become one. */
static struct regions find_regions(struct arena *arena, const float *probabilities, int64_t count,
                                  float threshold, int64_t shortest, int64_t pause)
{
    struct regions regions = {take(arena, (size_t)count / 2 + 1, sizeof(struct region)), 0};
    for (int64_t start = 0, stop; start < count; start = stop + 1) {
        for (stop = start; stop < count && probabilities[stop] > threshold;)
            stop++;
        if (stop - start < shortest)
            continue;
        struct region *last = regions.count ? regions.all + regions.count - 1 : NULL;
        if (last && start - last->stop < pause)
            last->stop = stop;
        else
            regions.all[regions.count++] = (struct region){start, stop};
    }
    return regions;
}

/* Joins each region that is too short to the nearer neighbour, up to ``longest``. */
static void absorb_short(struct regions *regions, int64_t shortest, int64_t longest)
{
    struct region *all = regions->all;
    for (int64_t index = 0; index < regions->count;) {
        int64_t best = -1, nearest = 0;
        for (int64_t left = index - 1; left <= index; left++) {
            if (all[index].stop - all[index].start >= shortest || left < 0 ||
                left >= regions->count - 1 || all[left + 1].stop - all[left].start > longest)
                continue;
            int64_t gap = all[left + 1].start - all[left].stop;
            if (best < 0 || gap < nearest)
                best = left, nearest = gap;
        }
        if (best < 0) {
            index++;
            continue;
        }
        all[best].stop = all[best + 1].stop;
        memmove(all + best + 1, all + best + 2,
                (size_t)(--regions->count - best - 1) * sizeof *all);
        index = best;
    }
}

/* The gap below the threshold that is longest and deepest. */
static int deepest_gap(const float *p, float threshold, int64_t low, int64_t high,
                       struct region *gap)
{
    double middle = (double)(high - low) / 2, most = -1, nearest = 0, sum = 0;
    for (int64_t start = low, stop; start < high; start = stop + 1) {
        double before = sum;
        for (stop = start; stop < high && p[stop] < threshold; stop++)
            sum += threshold - p[stop];
        /* A gap that reaches over the limit leaves a short part beside it. */
        if (stop == start || start == low || stop == high)
            continue;
        double away = fabs((double)(start - low + stop - low) / 2 - middle), total = sum - before;
        if (total > most || (total == most && away < nearest)) {
            most = total, nearest = away;
            *gap = (struct region){start, stop};
        }
    }
    return most >= 0;
}

/* Where ``dip`` frames are least speech-like; no more parts than are needed. */
static int64_t least_speech_like(const float *p, struct region region, int64_t longest, int64_t dip,
                                 int64_t edge)
{
    int64_t frames = region.stop - region.start, parts = (frames + longest - 1) / longest;
    int64_t width = dip < longest ? dip : longest, place = -1;
    double least = 0;
    for (int64_t i = 0; i + width <= frames; i++) {
        int64_t at = i + width / 2, rest = frames - at;
        double mean = 0, away = fabs((double)at - (double)frames / 2);
        if ((at + longest - 1) / longest + (rest + longest - 1) / longest > parts || at <= edge ||
            at >= frames - edge)
            continue;
        for (int64_t j = 0; j < width; j++)
            mean += p[region.start + i + j] * (1.0 / (double)width);
        if (place < 0 || mean < least ||
            (mean == least && away < fabs((double)place - (double)frames / 2)))
            place = at, least = mean;
    }
    return region.start + (place < 0 ? frames / 2 : place);
}

/* Cuts what is longer than ``longest`` frames. */
static struct regions divide(struct arena *arena, const float *p, float threshold,
                            const struct regions *regions, int64_t count, int64_t longest,
                            int64_t shortest, int64_t dip)
{
    struct regions done = {take(arena, (size_t)count + 1, sizeof(struct region)), 0};
    struct region *waiting = take(arena, (size_t)count + 2, sizeof *waiting);
    for (int64_t i = 0; i < regions->count; i++) {
        int64_t many = 1;
        waiting[0] = regions->all[i];
        while (many) {
            struct region region = waiting[--many], gap;
            int64_t length = region.stop - region.start;
            if (length <= longest) {
                done.all[done.count++] = region;
                continue;
            }
            int64_t edge = length > MANY * longest ? length / 4 : 0;
            int64_t margin = edge > shortest ? edge : shortest;
            if (!deepest_gap(p, threshold, region.start + margin, region.stop - margin, &gap))
                gap.start = gap.stop = least_speech_like(p, region, longest, dip, edge);
            waiting[many++] = (struct region){gap.stop, region.stop};
            waiting[many++] = (struct region){region.start, gap.start};
        }
    }
    return done;
}

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Gives each region some of what lies on each side, half of it at most. */
static struct region widened(const struct regions *divided, int64_t index, int64_t before,
                            int64_t after, int64_t frames, int64_t longest)
{
    struct region region = divided->all[index];
    int first = index == 0, last = index + 1 == divided->count;
    int64_t left = first ? region.start : (region.start - divided->all[index - 1].stop) / 2;
    int64_t right = last ? frames - region.stop : (divided->all[index + 1].start - region.stop) / 2;
    int64_t budget = longest - (region.stop - region.start);
    budget = budget < 0 ? 0 : budget;
    left = smaller(smaller(left, before), budget);
    right = smaller(smaller(right, after), budget - left);
    return (struct region){region.start - left, region.stop + right};
}

static int64_t in_samples(int64_t frame, double hop, int64_t count)
{
    return smaller((int64_t)rint((double)frame * hop), count);
}

int64_t find_segments(struct arena *arena, const struct cutting *how, const float *p,
                      int64_t frames, double hop, int64_t count, int64_t rate, struct span **spans)
{
    double per_second = (double)rate / hop;
    int64_t longest = (int64_t)(how->max_seconds * per_second);
    longest = longest < 1 ? 1 : longest;
    int64_t shortest = smaller(in_frames(how->min_seconds, per_second), longest / 2);
    shortest = shortest < 1 ? 1 : shortest;
    struct regions regions = find_regions(arena, p, frames, how->threshold,
                                         in_frames(SHORTEST_SOUND, per_second),
                                         in_frames(how->pause_seconds, per_second));
    absorb_short(&regions, shortest, longest);
    struct regions divided = divide(arena, p, how->threshold, &regions, frames, longest, shortest,
                                  in_frames(DIP_SECONDS, per_second));
    *spans = take(arena, (size_t)divided.count + 1, sizeof **spans);
    if (divided.count == 1 && (double)count <= how->max_seconds * (double)rate &&
        (double)divided.all[0].start <= LONGEST_LEAD * per_second &&
        (double)(frames - divided.all[0].stop) <= how->pause_seconds * per_second) {
        **spans = (struct span){0, count};
        return 1;
    }
    int64_t before = (int64_t)rint(how->before * per_second);
    int64_t after = (int64_t)rint(how->after * per_second);
    for (int64_t i = 0; i < divided.count; i++) {
        struct region region = widened(&divided, i, before, after, frames, longest);
        int64_t first = in_samples(region.start, hop, count);
        (*spans)[i] = (struct span){first, in_samples(region.stop, hop, count) - first};
    }
    return divided.count;
}
