/* WAV files: RIFF chunks, integers of 8 to 32 bits or floats, any number of channels. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cress.h"

enum { RATE = 16000, MOST_CHANNELS = 64, PCM = 1, FLOATING = 3, EXTENSIBLE = 0xfffe };

struct form {
    unsigned kind, channels, rate, bits;
};

static int wrong(char *message, size_t size, const char *path, const char *what)
{
    if (message && size)
        snprintf(message, size, "%s: %s", path, what);
    return -1;
}

static uint32_t little(const unsigned char *bytes, int count)
{
    uint32_t value = 0;
    for (int i = count - 1; i >= 0; i--)
        value = value << 8 | bytes[i];
    return value;
}

/* All bytes of a file, or of standard input ("-"); NULL where it cannot be read. */
static unsigned char *read_all(const char *path, size_t *count)
{
    FILE *file = strcmp(path, "-") ? fopen(path, "rb") : stdin;
    unsigned char *bytes = NULL;
    size_t room = 0, length = 0, got = 1;
    while (file && got) {
        if (length == room) {
            room = room ? 2 * room : 1 << 16;
            unsigned char *more = realloc(bytes, room);
            if (!more)
                break;
            bytes = more;
        }
        got = fread(bytes + length, 1, room - length, file);
        length += got;
    }
    int broken = !file || got || ferror(file);
    if (file && file != stdin)
        fclose(file);
    if (broken) {
        free(bytes);
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
    if (form->rate != RATE)
        return "its rate is not 16000 samples a second; convert it first";
    return NULL;
}

static int decode(const unsigned char *data, size_t bytes, const struct form *form,
                  float **samples, size_t *count)
{
    size_t width = form->bits / 8, frame = width * form->channels;
    *count = bytes / frame;
    *samples = malloc((*count + 1) * sizeof **samples);
    if (!*samples)
        return -1;
    for (size_t i = 0; i < *count; i++) {
        float total = 0;
        for (unsigned c = 0; c < form->channels; c++)
            total += sample(data + i * frame + c * width, form);
        (*samples)[i] = form->channels == 1 ? total : total / (float)form->channels;
    }
    return 0;
}

int cress_read_wav(const char *path, float **samples, size_t *count, char *message, size_t size)
{
    size_t length, at = 12;
    unsigned char *bytes = read_all(path, &length);
    struct form form = {0};
    *samples = NULL;
    *count = 0;
    if (!bytes)
        return wrong(message, size, path, "cannot be read");
    if (length < 12 || memcmp(bytes, "RIFF", 4) || memcmp(bytes + 8, "WAVE", 4)) {
        free(bytes);
        return wrong(message, size, path, "is no WAV file");
    }
    const char *problem = "holds no samples";
    while (length - at >= 8) {
        size_t chunk = little(bytes + at + 4, 4), rest = length - at - 8;
        const unsigned char *content = bytes + at + 8;
        int is_data = !memcmp(bytes + at, "data", 4);
        if (!memcmp(bytes + at, "fmt ", 4) && chunk >= 16 && rest >= 16) {
            form = (struct form){little(content, 2), little(content + 2, 2),
                                 little(content + 4, 4), little(content + 14, 2)};
            if (form.kind == EXTENSIBLE && chunk >= 26 && rest >= 26)
                form.kind = little(content + 24, 2);
        }
        if (is_data) { /* a stream's length may be unknown: up to the file's end then */
            problem = check(&form);
            if (!problem && decode(content, chunk < rest ? chunk : rest, &form, samples, count))
                problem = "is too long for the memory";
            break;
        }
        if (chunk > rest || chunk + (chunk & 1) > rest)
            break;
        at += 8 + chunk + (chunk & 1);
    }
    free(bytes);
    return problem ? wrong(message, size, path, problem) : 0;
}

void cress_free_samples(float *samples)
{
    free(samples);
}
