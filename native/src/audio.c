/* WAV files: RIFF chunks, integers of 8 to 32 bits or floats, up to 64 channels. */
#include <errno.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cress.h"
#include "percentile.h"
#include "resample.h"

enum { MOST_LOOKS = 32, FRAMES_A_SECOND = 20, MOST_LEVELS = 1024 };
enum { MOST_CHANNELS = 64, SLACK = 64 /* bytes that may be left over */ };
enum { NEARLY_UNKNOWN = 0x7fff0000 }; /* a length of writers to a pipe, or more */
enum { PCM = 1, FLOATING = 3, EXTENSIBLE = 0xfffe }; /* kinds of samples, as a file numbers them */

static const double LIVELY_DB = 12, STEADY_DB = 1.8, HARMLESS_DB = 30; /* of channels of noise */
static const float EMPHASIS = 0.97f;
static const float FULL_SCALES = 2, NO_SCALE = 0x1p33f; /* what sound stays below, and what any does */
static const double FAR_BEYOND = 100; /* times as far out as all but the furthest hundredth: broken */
static const double CANCELLED = 0.25; /* of their power: a channel that cancels others */

struct form {
    unsigned kind, channels, rate, bits;
};

static int wrong(char *message, size_t size, const char *path, const char *what)
{
    if (message && size)
        snprintf(message, size, "%s: %s",
                 !path ? "no path is given" : strcmp(path, "-") ? path : "standard input", what);
    return -1;
}

static int unreadable(char *message, size_t size, const char *path)
{
    char what[128];
    snprintf(what, sizeof what, "cannot be read (%s)", strerror(errno));
    return wrong(message, size, path, what);
}

static uint32_t little(const unsigned char *bytes, int count)
{
    uint32_t value = 0;
    for (int i = count - 1; i >= 0; i--)
        value = value << 8 | bytes[i];
    return value;
}

static int is_wave(const unsigned char *bytes)
{
    return (!memcmp(bytes, "RIFF", 4) || !memcmp(bytes, "RF64", 4) || !memcmp(bytes, "BW64", 4)) &&
           !memcmp(bytes + 8, "WAVE", 4);
}

/* All bytes of a file, or of standard input ("-"); NULL where it cannot be read: see errno.  Of what
 * is to be a WAV file and is none, the first ones only: it may have no end. */
static unsigned char *read_all(const char *path, int wave, size_t *count)
{
    FILE *file = strcmp(path, "-") ? fopen(path, "rb") : stdin;
    unsigned char *bytes = NULL;
    size_t capacity = 0, length = 0, got = 1;
    while (file && got) {
        if (length == capacity) {
            capacity = capacity ? 2 * capacity : 1 << 16;
            unsigned char *more = realloc(bytes, capacity);
            if (!more)
                break;
            bytes = more;
        }
        got = fread(bytes + length, 1, wave && length < 12 ? 12 - length : capacity - length, file);
        length += got;
        if (wave && length >= 12 && !is_wave(bytes))
            got = 0;
    }
    int broken = !file || got || ferror(file), reason = errno;
    if (file && file != stdin)
        fclose(file);
    if (broken) {
        free(bytes);
        errno = reason;
        return NULL;
    }
    *count = length;
    return bytes;
}

static float sample(const unsigned char *at, const struct form *form)
{
    uint32_t value = little(at, (int)form->bits / 8);
    float number;
    double real;
    if (form->kind == FLOATING && form->bits == 64) {
        memcpy(&real, at, sizeof real);
        return (float)real;
    }
    if (form->kind == FLOATING) {
        memcpy(&number, &value, sizeof number);
        return number;
    }
    if (form->bits == 8)
        return ((float)value - 128.0f) / 128.0f;
    return (float)(int32_t)(value << (32 - form->bits)) / 2147483648.0f;
}

static const char *check(const struct form *form)
{
    int integers = form->kind == PCM && (form->bits == 8 || form->bits == 16 || form->bits == 24 ||
                                         form->bits == 32);
    int floats = form->kind == FLOATING && (form->bits == 32 || form->bits == 64);
    if (!integers && !floats)
        return "its samples are compressed or of an unknown form; expected PCM or float";
    if (!form->channels || form->channels > MOST_CHANNELS)
        return "it has no channels, or more than 64";
    if (form->rate < LEAST_RATE || form->rate > MOST_RATE)
        return "its rate is not from 1,000 to 10,000,000 samples a second";
    return NULL;
}

/* Whether a channel adds to the sum of those before it: of opposite poles the mean is silence.
 * data/audio_mixing.py, ``_channels_that_add_up``; ``values``: count x channels. */
static unsigned choose_channels(const float *values, size_t count, unsigned channels,
                                char *kept)
{
    double mean[MOST_CHANNELS] = {0}, covariance[MOST_CHANNELS], power[MOST_CHANNELS] = {0}, most = 0;
    unsigned first = 0, chosen = 1;
    for (size_t i = 0; i < count; i++)
        for (unsigned c = 0; c < channels; c++)
            mean[c] += values[i * channels + c] / (double)count;
    for (unsigned c = 0; c < channels; c++) {
        for (size_t i = 0; i < count; i++) {
            double value = values[i * channels + c] - mean[c];
            power[c] += value * value;
        }
        most = power[c] > most ? power[c] : most;
        kept[c] = 0;
    }
    while (power[first] < most / 2)
        first++;
    kept[first] = 1;
    double before = power[first];
    for (unsigned c = 0; c < channels; c++) {
        if (c == first)
            continue;
        memset(covariance, 0, sizeof covariance);
        for (size_t i = 0; i < count; i++)
            for (unsigned other = 0; other < channels; other++)
                if (kept[other])
                    covariance[other] += (values[i * channels + c] - mean[c]) *
                                         (values[i * channels + other] - mean[other]);
        double apart = before + power[c], together = apart;
        for (unsigned other = 0; other < channels; other++)
            together += 2 * covariance[other];
        if (together >= CANCELLED * apart) {
            kept[c] = 1;
            chosen++;
            before = together;
        }
    }
    return chosen;
}

/* Channels that are mixed. */
struct channels {
    unsigned count, number[MOST_CHANNELS];
};

static float sound(const unsigned char *data, size_t frame, unsigned channel,
                   const struct form *form)
{
    float value = sample(data + (frame * form->channels + channel) * (form->bits / 8), form);
    return value <= FLT_MAX && value >= -FLT_MAX ? value : NAN;
}

/* What no sample exceeds that is sound: data/audio_samples.py, ``mend``.  A single one far beyond would
 * drown what is around it, however it is scaled. */
static float limit_of(const float *values, size_t count)
{
    float peak = 0;
    size_t sounding = 0;
    for (size_t i = 0; i < count; i++)
        peak = fabsf(values[i]) > peak ? fabsf(values[i]) : peak;
    double *sizes = peak > FULL_SCALES ? malloc(count * sizeof *sizes) : NULL;
    if (!sizes)
        return FLT_MAX;
    for (size_t i = 0; i < count; i++)
        if (fabsf(values[i]) > 0) /* and no NaN */
            sizes[sounding++] = fabsf(values[i]);
    qsort(sizes, sounding, sizeof *sizes, compare_doubles);
    double limit = fmax(FULL_SCALES, FAR_BEYOND * percentile(sizes, (int64_t)sounding, 99));
    free(sizes);
    return (float)fmin(limit, NO_SCALE);
}

/* A second of sound, its channels averaged; the number of broken samples, silence in their place. */
static size_t mix(const unsigned char *data, size_t count, const struct form *form,
                  const struct channels *used, float *values, float *mono)
{
    size_t broken = 0;
    unsigned channels = used->count, chosen = channels;
    char kept[MOST_CHANNELS];
    memset(kept, 1, sizeof kept);
    for (size_t i = 0; i < count; i++)
        for (unsigned c = 0; c < channels; c++)
            values[i * channels + c] = sound(data, i, used->number[c], form);
    float limit = limit_of(values, count * channels);
    for (size_t i = 0; i < count * channels; i++)
        if (!(fabsf(values[i]) <= limit)) { /* or NaN */
            broken++;
            values[i] = 0;
        }
    if (channels > 1)
        chosen = choose_channels(values, count, channels, kept);
    for (size_t i = 0; i < count; i++) {
        float total = 0;
        for (unsigned c = 0; c < channels; c++)
            total += kept[c] ? values[i * channels + c] : 0;
        mono[i] = chosen == 1 ? total : total / (float)chosen;
    }
    return broken;
}

/* Levels of a part of a channel in dB, high and low frequencies alike; how many there are now. */
static size_t add_levels(const unsigned char *data, size_t first, size_t count, unsigned channel,
                         const struct form *form, double *levels, size_t have)
{
    size_t size = form->rate / FRAMES_A_SECOND > 2 ? form->rate / FRAMES_A_SECOND : 2;
    for (size_t start = 0; start + size < count && have < MOST_LEVELS; start += size) {
        double power = 0;
        float before = sound(data, first + start, channel, form);
        before = isnan(before) ? 0 : before;
        for (size_t i = 1; i <= size; i++) {
            float value = sound(data, first + start + i, channel, form);
            value = isnan(value) ? 0 : value;
            float high = value - EMPHASIS * before;
            power += (double)high * high;
            before = value;
        }
        levels[have++] = 10 * log10(power / (double)size + 1e-10);
    }
    return have;
}

/* All channels but those of loud steady noise, which would drown another: data/audio_mixing.py,
 * ``find_noise``, which looks into a recording at some places. */
static struct channels find_channels(const unsigned char *data, size_t frames,
                                     const struct form *form)
{
    struct channels used = {0};
    double quiet[MOST_CHANNELS], loud[MOST_CHANNELS], levels[MOST_LEVELS];
    size_t length = (form->rate + 1) / 2 < frames ? (form->rate + 1) / 2 : frames, have = 0;
    size_t looks = length ? (frames + length - 1) / length : 0;
    looks = looks < MOST_LOOKS ? looks : MOST_LOOKS;
    for (unsigned c = 0; c < form->channels && form->channels > 1; c++) {
        have = looks < MOST_LOOKS ? add_levels(data, 0, frames, c, form, levels, 0) : 0;
        for (size_t look = 0; look < looks && looks == MOST_LOOKS; look++) {
            size_t first = (size_t)((double)(frames - length) * (double)look / (double)(looks - 1));
            have = add_levels(data, first, length, c, form, levels, have);
        }
        qsort(levels, have, sizeof *levels, compare_doubles);
        quiet[c] = have ? percentile(levels, (int64_t)have, 10) : 0;
        loud[c] = have ? percentile(levels, (int64_t)have, 99) : 0;
    }
    for (unsigned c = 0; c < form->channels; c++) {
        int drowns = 0;
        for (unsigned other = 0; other < form->channels && have > 1; other++)
            drowns |= loud[other] - quiet[other] > LIVELY_DB && quiet[other] < quiet[c] &&
                      loud[other] < loud[c] + HARMLESS_DB && loud[c] - quiet[c] < STEADY_DB;
        if (!drowns)
            used.number[used.count++] = c;
    }
    return used;
}

static const char *decode(const unsigned char *data, size_t bytes, const struct form *form,
                          float **samples, size_t *count)
{
    size_t frame = form->bits / 8 * form->channels, broken = 0;
    *count = bytes / frame;
    *samples = malloc((*count + 1) * sizeof **samples);
    struct channels used = find_channels(data, *count, form);
    size_t block = 2 * (size_t)form->rate;
    float *values = malloc((block < *count ? block : *count + 1) * form->channels * sizeof *values);
    for (size_t at = 0, size; *samples && values && at < *count; at += size) {
        size = *count - at < block ? *count - at : form->rate; /* the last takes the rest */
        broken += mix(data + at * frame, size, form, &used, values, *samples + at);
    }
    free(values);
    if (!*samples || !values)
        return "is too long for the memory";
    if (!*count)
        return "holds no samples";
    return 2 * broken > *count * used.count ? "most samples are NaN, infinite or far beyond all others" : NULL;
}

/* Bytes of sound where ``stated`` are announced, and ``rest`` follow: all, unless chunks follow what is
 * announced.  Who stops without closing a file leaves a length of the beginning. */
static size_t sound_bytes(const unsigned char *content, size_t stated, size_t rest)
{
    if (stated >= rest || (stated && rest - stated < SLACK))
        return stated < rest ? stated : rest;
    size_t at = stated + (stated & 1);
    while (at + 8 <= rest) {
        for (int i = 0; i < 4; i++)
            if (content[at + i] < 32 || content[at + i] > 126)
                return rest;
        size_t chunk = little(content + at + 4, 4);
        if (chunk > rest - at - 8 + 1)
            return rest;
        at += 8 + chunk + (chunk & 1);
    }
    return stated;
}

/* What the chunk "fmt " says, of 16 bytes at least. */
static struct form read_form(const unsigned char *content, size_t bytes)
{
    struct form form = {little(content, 2), little(content + 2, 2), little(content + 4, 4),
                        little(content + 14, 2)};
    unsigned frame = little(content + 12, 2);
    if (form.kind == EXTENSIBLE && bytes >= 26)
        form.kind = little(content + 24, 2);
    if (form.kind == PCM) /* fewer bits lie in whole bytes, 24 also in four */
        form.bits = form.bits == 24 && frame == 4 * form.channels ? 32 : (form.bits + 7) / 8 * 8;
    return form;
}

/* Of a file that was cut, or copied in part, what there is of it, for the message.  Writers to a pipe do
 * not know the length and announce the largest, or nearly. */
static void remark(char *message, size_t size, const char *path, const struct form *form, size_t stated,
                   size_t rest)
{
    char what[128];
    double second = (double)form->rate * form->channels * (form->bits / 8);
    if (stated <= rest || stated - rest < SLACK || (stated >= NEARLY_UNKNOWN && stated <= 0xffffffff))
        return;
    snprintf(what, sizeof what, "has %.1f s of the %.1f s that its header announces",
             (double)rest / second, (double)stated / second);
    wrong(message, size, path, what);
}

int cress_read_wav(const char *path, float **samples, size_t *count, int *rate, char *message,
                   size_t size)
{
    size_t length, at = 12;
    uint64_t large = SIZE_MAX; /* of the samples, where 32 bits do not hold it: EBU Tech 3306 */
    unsigned char *bytes = path ? read_all(path, 1, &length) : NULL;
    struct form form = {0};
    *samples = NULL;
    *count = 0;
    if (message && size)
        *message = 0;
    if (!bytes)
        return unreadable(message, size, path);
    if (length < 12 || !is_wave(bytes)) {
        free(bytes);
        return wrong(message, size, path,
                     length ? "is no WAV file: convert it, as 'ffmpeg -i FILE talk.wav' does; of samples "
                              "without a header the rate must be given"
                            : "is no WAV file, but empty");
    }
    const char *problem = "holds no samples";
    while (length - at >= 8) {
        size_t chunk = little(bytes + at + 4, 4), rest = length - at - 8;
        const unsigned char *content = bytes + at + 8;
        int is_data = !memcmp(bytes + at, "data", 4);
        if (!memcmp(bytes + at, "fmt ", 4) && chunk >= 16 && rest >= 16)
            form = read_form(content, chunk < rest ? chunk : rest);
        if (!memcmp(bytes + at, "ds64", 4) && chunk >= 16 && rest >= 16)
            large = little(content + 8, 4) | (uint64_t)little(content + 12, 4) << 32;
        if (is_data) { /* a stream's length may be unknown: up to the file's end then */
            if (chunk == 0xffffffff && large < SIZE_MAX)
                chunk = (size_t)large;
            problem = check(&form);
            if (!problem) {
                remark(message, size, path, &form, chunk, rest);
                problem = decode(content, sound_bytes(content, chunk, rest), &form, samples, count);
            }
            break;
        }
        if (chunk > rest || chunk + (chunk & 1) > rest)
            break;
        at += 8 + chunk + (chunk & 1);
    }
    free(bytes);
    *rate = (int)form.rate;
    if (!problem)
        return 0;
    free(*samples);
    *samples = NULL;
    return wrong(message, size, path, problem);
}

int cress_read_raw(const char *path, float **samples, size_t *count, char *message, size_t size)
{
    const struct form form = {.kind = PCM, .channels = 1, .rate = SAMPLE_RATE, .bits = 16};
    size_t length;
    unsigned char *bytes = path ? read_all(path, 0, &length) : NULL;
    *samples = NULL;
    if (!bytes)
        return unreadable(message, size, path);
    const char *problem = decode(bytes, length, &form, samples, count);
    free(bytes);
    return problem ? wrong(message, size, path, problem) : 0;
}

int cress_mix(const float *samples, size_t frames, int channels, int rate, float **mixed,
              char *message, size_t size)
{
    const struct form form = {FLOATING, (unsigned)channels, (unsigned)rate, 32};
    size_t count;
    *mixed = NULL;
    const char *problem = check(&form);
    if (!samples && frames)
        problem = "has no samples";
    if (!problem && frames > SIZE_MAX / 8 / form.channels)
        problem = "is too long for the memory";
    if (!problem)
        problem = decode((const unsigned char *)samples, frames * form.channels * sizeof *samples,
                         &form, mixed, &count);
    if (!problem)
        return 0;
    free(*mixed);
    *mixed = NULL;
    return wrong(message, size, "the recording", problem);
}

void cress_free_samples(float *samples)
{
    free(samples);
}
