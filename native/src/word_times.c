#include "word_times.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "percentile.h"
#include "resample.h"

enum { BLOCK = SAMPLE_RATE / 100 };
static const double LEAST_ATTENTION = 0.02, SOUND_DB = 35, LOUD_PERCENTILE = 95;
static const double BLOCK_SECONDS = 0.01;

/* The numbers of the blocks of 10 ms that are no pause. */
static int64_t loud_blocks(struct arena *arena, const float *wave, int64_t samples,
                           int64_t **blocks)
{
    int64_t count = samples / BLOCK, loud = 0;
    double *power = take(arena, (size_t)count + 1, sizeof *power);
    double *sorted = take(arena, (size_t)count + 1, sizeof *sorted);
    *blocks = take(arena, (size_t)count + 1, sizeof **blocks);
    for (int64_t b = 0; b < count; b++) {
        double mean = 0;
        power[b] = 0;
        for (int64_t i = 0; i < BLOCK; i++)
            mean += wave[b * BLOCK + i];
        mean /= BLOCK;
        for (int64_t i = 0; i < BLOCK; i++)
            power[b] += (wave[b * BLOCK + i] - mean) * (wave[b * BLOCK + i] - mean);
        power[b] /= BLOCK;
        sorted[b] = power[b];
    }
    if (!count)
        return 0;
    qsort(sorted, (size_t)count, sizeof *sorted, compare_doubles);
    double quiet = percentile(sorted, count, LOUD_PERCENTILE) / pow(10, SOUND_DB / 10);
    for (int64_t b = 0; b < count; b++)
        if (power[b] > quiet)
            (*blocks)[loud++] = b;
    return loud;
}

/* Where tokens begin and end, in frames that are given to one token each, so that their attention
 * is largest: tokens + 1 numbers. */
static int64_t *token_frames(struct arena *arena, const float *attention, int64_t tokens,
                             int64_t frames)
{
    float *own = take(arena, (size_t)(tokens * frames), sizeof *own);
    float *best = take(arena, (size_t)tokens, sizeof *best);
    int32_t *from = take_zeros(arena, (size_t)(tokens * frames), sizeof *from);
    int64_t *edges = take(arena, (size_t)tokens + 1, sizeof *edges);
    for (int64_t f = 0; f < frames; f++) {
        float mean = 0;
        for (int64_t t = 0; t < tokens; t++)
            mean += attention[t * frames + f];
        mean = mean / (float)tokens + (float)LEAST_ATTENTION;
        for (int64_t t = 0; t < tokens; t++)
            own[t * frames + f] = attention[t * frames + f] / mean;
    }
    for (int64_t t = 0; t < tokens; t++) {
        float sum = 0;
        for (int64_t f = 0; f < frames; f++)
            sum += own[t * frames + f];
        for (int64_t f = 0; f < frames; f++)
            own[t * frames + f] /= sum > 1e-9f ? sum : 1e-9f;
        best[t] = own[t * frames];
    }
    for (int64_t f = 1; f < frames; f++) {
        float reached = -INFINITY;
        int32_t came = 0;
        for (int64_t t = 0; t < tokens; t++) {
            if (best[t] >= reached) {
                reached = best[t];
                came = (int32_t)t;
            }
            from[f * tokens + t] = came;
            best[t] = reached + own[t * frames + f];
        }
    }
    int64_t owner = 0;
    for (int64_t t = 1; t < tokens; t++)
        owner = best[t] > best[owner] ? t : owner;
    for (int64_t t = 0; t <= tokens; t++)
        edges[t] = frames;
    for (int64_t f = frames - 1; f >= 0; f--) { /* the first frame of an owner of t or more */
        for (int64_t t = 0; t <= owner; t++)
            edges[t] = f;
        owner = f ? from[f * tokens + owner] : owner;
    }
    return edges;
}

/* Where tokens begin and end, as shares of the wave; none is said in a pause. */
static double *token_edges(struct arena *arena, const float *attention, int64_t tokens,
                           int64_t frames, const int64_t *loud, int64_t count, int64_t samples)
{
    int64_t *sounds = take(arena, (size_t)(count > frames ? count : frames) + 1, sizeof *sounds);
    float *kept = NULL;
    double *edges = take(arena, (size_t)tokens + 1, sizeof *edges);
    int64_t have = 0;
    for (int64_t i = 0; i < count; i++) {
        double share = (double)loud[i] * BLOCK_SECONDS * SAMPLE_RATE * (double)frames;
        int64_t frame = (int64_t)floor(share / (double)samples);
        if (frame < frames && (!have || sounds[have - 1] != frame))
            sounds[have++] = frame;
    }
    for (int64_t f = 0; f < frames && !count; f++)
        sounds[have++] = f;
    if (!have)
        for (int64_t f = 0; f < frames; f++)
            sounds[have++] = f;
    kept = take(arena, (size_t)(tokens * have), sizeof *kept);
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t i = 0; i < have; i++)
            kept[t * have + i] = attention[t * frames + sounds[i]];
    const int64_t *own = token_frames(arena, kept, tokens, have);
    sounds[have] = sounds[have - 1] + 1;
    for (int64_t t = 0; t <= tokens; t++)
        edges[t] = (double)sounds[own[t]] / (double)frames;
    return edges;
}

/* Where in the text tokens end, in letters. */
static int64_t *token_ends(struct run *run, const struct hypothesis *hypothesis, int64_t length)
{
    const struct cress_model *model = run->model;
    int64_t *ends = take(run->arena, (size_t)hypothesis->count + 1, sizeof *ends);
    int64_t read = 0, leading = 0, trailing = 0, before = 0;
    for (int i = 0; i < hypothesis->count; i++) {
        const int32_t *offset = model->token_offsets + hypothesis->tokens[i];
        struct letters token = to_letters(run->arena, model->tokens + offset[0],
                                          (size_t)(offset[1] - offset[0]));
        for (int64_t c = 0; c < token.count; c++) {
            if (token.at[c] == ' ')
                continue;
            int space = token.at[c] == 0x2581 || is_space(token.at[c]);
            leading += space && leading == read;
            trailing = space ? trailing + 1 : 0;
            read++;
        }
        int64_t end = read - leading - trailing;
        end = end < before ? before : end > length ? length : end;
        ends[i] = before = end;
    }
    ends[hypothesis->count - 1] = length;
    return ends;
}

struct tokens {
    const int32_t *text;
    const int64_t *ends;
    const double *edges; /* in seconds */
    int64_t count;
};

static int64_t token_begin(const struct tokens *tokens, int64_t number)
{
    return number ? tokens->ends[number - 1] : 0;
}

/* When a place in a token's letters is said; they share its time evenly. */
static double time_of(const struct tokens *tokens, int64_t number, int64_t place)
{
    int64_t begin = token_begin(tokens, number), end = tokens->ends[number];
    while (begin < place && is_space(tokens->text[begin]))
        begin++;
    double share = end > begin ? (double)(place - begin) / (double)(end - begin) : 0;
    double start = tokens->edges[number];
    return start + share * (tokens->edges[number + 1] - start);
}

static struct word placed(const struct tokens *tokens, int64_t first, int64_t last)
{
    int64_t begins = 0, ends = 0;
    while (tokens->ends[begins] <= first)
        begins++;
    while (tokens->ends[ends] < last)
        ends++;
    double start = time_of(tokens, begins, first);
    while (begins && token_begin(tokens, begins - 1) == token_begin(tokens, begins) &&
           start == tokens->edges[begins])
        start = tokens->edges[--begins]; /* the lone space before it, a token without letters */
    return (struct word){first, last, start, time_of(tokens, ends, last)};
}

static int may_part(const int32_t *text, int64_t place)
{
    return (is_without_spaces(text[place - 1]) || is_without_spaces(text[place])) &&
           !closes(text[place]) && !opens(text[place - 1]);
}

/* Those that took no time share that of the word before them, the first ones that of the word after
 * them. */
static void share_time(struct word *words, int64_t count)
{
    for (int64_t first = 0, stop; first < count; first = stop) {
        int timed = 0;
        for (stop = first; stop < count; stop++) {
            int takes_time = words[stop].end > words[stop].start;
            if (timed && takes_time)
                break;
            timed |= takes_time;
        }
        double from = words[first].start, step = (words[stop - 1].end - from) / (double)(stop - first);
        double end = words[stop - 1].end;
        for (int64_t i = first; i < stop && stop - first > 1; i++) {
            words[i].start = from + step * (double)(i - first);
            words[i].end = i + 1 == stop ? end : from + step * (double)(i - first + 1);
        }
    }
}

/* Without the pauses that their times begin or end with. */
static void keep_to_sound(struct word *words, int64_t count, const int64_t *loud, int64_t sounds)
{
    for (int64_t i = 0; i < count; i++) {
        int64_t first = 0, last = 0;
        while (first < sounds && (double)loud[first] < floor(words[i].start / BLOCK_SECONDS))
            first++;
        while (last < sounds && (double)loud[last] < words[i].end / BLOCK_SECONDS)
            last++;
        if (first > --last || last >= sounds)
            continue;
        double start = fmax(words[i].start, (double)loud[first] * BLOCK_SECONDS);
        double end = fmin(words[i].end, (double)(loud[last] + 1) * BLOCK_SECONDS);
        if (start < end)
            words[i].start = start, words[i].end = end;
    }
}

/* Rounded as Python does it, by the decimals. */
static double in_milliseconds(double seconds)
{
    char text[64];
    snprintf(text, sizeof text, "%.3f", seconds);
    return strtod(text, NULL);
}

int64_t time_words(struct run *run, const struct hypothesis *hypothesis, struct letters text,
                   const float *attention, int64_t frames, const float *wave, int64_t samples,
                   double offset, struct word **words)
{
    struct arena *arena = run->arena;
    int64_t *loud, sounds = loud_blocks(arena, wave, samples, &loud), count = 0;
    *words = take(arena, (size_t)text.count + 1, sizeof **words);
    if (!hypothesis->count || !text.count || !frames || !samples)
        return 0;
    double *edges = token_edges(arena, attention, hypothesis->count, frames, loud, sounds, samples);
    for (int i = 0; i <= hypothesis->count; i++)
        edges[i] = fmin(fmax(edges[i], 0), 1) * (double)samples / SAMPLE_RATE;
    struct tokens tokens = {text.at, token_ends(run, hypothesis, text.count), edges,
                            hypothesis->count};
    for (int64_t first = 0, stop; first < text.count; first = stop) {
        stop = first + 1;
        if (is_space(text.at[first]))
            continue;
        while (stop < text.count && !is_space(text.at[stop]))
            stop++;
        int64_t start = first;
        for (int64_t i = 0; i < tokens.count; i++) {
            int64_t end = tokens.ends[i];
            if (start < end && end < stop && may_part(text.at, end)) {
                (*words)[count++] = placed(&tokens, start, end);
                start = end;
            }
        }
        (*words)[count++] = placed(&tokens, start, stop);
    }
    share_time(*words, count);
    keep_to_sound(*words, count, loud, sounds);
    for (int64_t i = 0; i < count; i++) {
        (*words)[i].start = in_milliseconds(offset + (*words)[i].start);
        (*words)[i].end = in_milliseconds(offset + (*words)[i].end);
    }
    return count;
}
