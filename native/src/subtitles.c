#include "subtitles.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "phrases.h"

/* class SubtitleLimits: letters, lines, milliseconds. */
enum { LINE = 42, LINES = 2, SHORTEST = 1000, LONGEST = 7000, GAP = 80 };
enum { LATEST = 1000, EARLIEST = 500, LEAD = 250, FLASH = 200, CHAINED = 500, PAUSE = 500 };
static const double LETTERS_A_SECOND = 17, SMALL = 0.4 * LINES * LINE;

/* A cue whose times are those of its words, in milliseconds; it may span segments. */
struct draft {
    const struct chunk *chunks;
    int64_t count, first_segment, last_segment, length;
    double start, spoken_until;
};

struct cue {
    double start, end;
    int64_t lines, *stops, letters;
};

static double smaller(double a, double b)
{
    return a < b ? a : b;
}

static double larger(double a, double b)
{
    return a > b ? a : b;
}

static double reading_time(int64_t letters)
{
    return smaller(LONGEST, larger(SHORTEST, ceil(1000.0 * (double)letters / LETTERS_A_SECOND)));
}

static struct letters clean(struct arena *arena, const int32_t *text, int64_t count)
{
    struct letters kept = {take(arena, (size_t)count + 1, sizeof(int32_t)), 0};
    for (int64_t i = 0; i < count; i++)
        if (!is_control(text[i]))
            kept.at[kept.count++] = text[i];
    return kept;
}

/* Words as if every letter took the same time. */
static int64_t even_words(struct arena *arena, const struct part *part, struct word **words)
{
    int64_t count = 0, length = part->text.count;
    double each = (part->end - part->start) / (double)(length ? length : 1);
    *words = take(arena, (size_t)length + 1, sizeof **words);
    for (int64_t first = 0, stop; first < length; first = stop) {
        stop = first + 1;
        if (is_space(part->text.at[first]))
            continue;
        while (stop < length && !is_space(part->text.at[stop]))
            stop++;
        (*words)[count++] = (struct word){first, stop, part->start + each * (double)first,
                                          part->start + each * (double)stop};
    }
    return count;
}

static int64_t chunks_of(struct arena *arena, const struct part *part, struct chunk *to)
{
    struct word *words = part->words;
    int64_t count = part->count ? part->count : even_words(arena, part, &words), have = 0;
    for (int64_t i = 0, place = 0; i < count; place = words[i++].last) {
        const int32_t *text = part->text.at;
        int spaced = !is_without_spaces(text[words[i].first]);
        if (have) {
            spaced = 0;
            for (int64_t c = place; c < words[i].first; c++)
                spaced |= is_space(text[c]);
        }
        struct letters kept =
            clean(arena, text + words[i].first, words[i].last - words[i].first);
        struct chunk chunk = {kept, spaced, words[i].start, words[i].end};
        if (kept.count)
            have += cut_long(&chunk, LINE, to + have);
    }
    return have;
}

static struct draft draft_of(const struct chunk *chunks, int64_t count, int64_t first,
                             int64_t last)
{
    struct draft draft = {chunks, count, first, last, joined_length(chunks, count), 0, 0};
    draft.start = larger(0, rint(1000 * chunks[0].start));
    draft.spoken_until = larger(draft.start, rint(1000 * chunks[count - 1].end));
    return draft;
}

struct segment {
    const struct chunk *chunks;
    int64_t count;
    double until; /* seconds, when the next segment begins */
};

static double cue_cost(const void *data, int64_t first, int64_t stop)
{
    const struct segment *segment = data;
    const struct chunk *part = segment->chunks + first, *last = segment->chunks + stop - 1;
    int64_t count = stop - first, length = joined_length(part, count);
    if (count > 1 && (count_lines(part, count, LINE) > LINES ||
                      last->end - part->start > LONGEST / 1000.0))
        return -1;
    int ends = stop == segment->count;
    double until = ends ? segment->until : segment->chunks[stop].start;
    double hurry = 1 - (1000 * (until - part->start) - GAP) / reading_time(length);
    double parting = ends ? 0 : break_cost(last, last + 1);
    double few = larger(0, 1 - (double)length / SMALL);
    return 3 + parting + 4 * (few * few) + 6 * smaller(1, larger(0, hurry));
}

/* All cues as they are said. */
struct drafts {
    struct draft *all;
    int64_t count;
    double last; /* milliseconds, the recording's end */
};

static int continues(const struct draft *before, const struct draft *draft)
{
    return before->last_segment == draft->first_segment;
}

static double until(const struct drafts *drafts, int64_t number)
{
    return number + 1 < drafts->count ? drafts->all[number + 1].start : drafts->last + GAP;
}

/* 0 if it stays long enough; the more, the worse. */
static double hurry(const struct draft *draft, double until)
{
    double shown = larger(1, smaller(until - GAP - draft->start, LONGEST));
    return (shown < SHORTEST ? 2 : 0) + larger(0, reading_time(draft->length) / shown - 1);
}

static struct draft together(const struct draft *one, const struct draft *other)
{
    return draft_of(one->chunks, one->count + other->count, one->first_segment,
                    other->last_segment);
}

/* What it brings to take a draft and the next one together. */
static double gain(const struct drafts *drafts, int64_t first)
{
    if (first < 0 || first >= drafts->count - 1)
        return 0;
    const struct draft *one = drafts->all + first, *other = one + 1;
    struct draft both = together(one, other);
    if (other->start - one->spoken_until > PAUSE || both.spoken_until - both.start > LONGEST ||
        count_lines(both.chunks, both.count, LINE) > LINES)
        return 0;
    double apart = hurry(one, other->start) + hurry(other, until(drafts, first + 1));
    return apart - hurry(&both, until(drafts, first + 1));
}

static void merge(struct drafts *drafts)
{
    for (int64_t number = 0; number < drafts->count;) {
        int64_t first = gain(drafts, number - 1) > gain(drafts, number) ? number - 1 : number;
        if (!(hurry(&drafts->all[number], until(drafts, number)) > 0) || !(gain(drafts, first) > 0)) {
            number++;
            continue;
        }
        struct draft *one = drafts->all + first;
        *one = together(one, one + 1);
        memmove(one + 1, one + 2, (size_t)(--drafts->count - first - 1) * sizeof *one);
        number = first > 0 ? first - 1 : 0;
    }
}

/* When cues must come so that they and the rest of their segment stay long enough. */
static double *latest_starts(struct arena *arena, const struct drafts *drafts)
{
    double *latest = take(arena, (size_t)drafts->count + 1, sizeof *latest);
    double following = drafts->last + GAP;
    for (int64_t i = drafts->count - 1; i >= 0; i--) {
        if (i + 1 < drafts->count && !continues(drafts->all + i, drafts->all + i + 1))
            following = drafts->all[i + 1].start;
        latest[i] = following -= SHORTEST + GAP;
    }
    return latest;
}

/* When cues come: with their words, or later if one before needs the time. */
static double *starts_of(struct arena *arena, const struct drafts *drafts)
{
    const double *latest = latest_starts(arena, drafts);
    double *starts = take(arena, (size_t)drafts->count + 1, sizeof *starts);
    for (int64_t i = 0; i < drafts->count; i++) {
        const struct draft *draft = drafts->all + i, *before = draft - 1;
        double start = draft->start;
        if (i) {
            int inside = continues(before, draft);
            double before_it = starts[i - 1] + GAP, late = start + LATEST;
            double stays = smaller(before_it + SHORTEST, inside ? larger(late, latest[i]) : late);
            double is_read =
                inside ? smaller(before_it + reading_time(before->length), late) : 0;
            start = larger(larger(start, before_it + FLASH), larger(stays, is_read));
            start = floor(start);
        }
        starts[i] = start;
    }
    for (int64_t i = drafts->count - 1; i > 0; i--) {
        const struct draft *draft = drafts->all + i, *before = draft - 1;
        if (!continues(before, draft))
            continue;
        double end = i + 1 < drafts->count ? starts[i + 1] - GAP : drafts->last;
        double lacking = reading_time(draft->length) - (end - starts[i]);
        double spare = starts[i] - GAP - starts[i - 1] - reading_time(before->length);
        double early = EARLIEST - (draft->start - starts[i]);
        starts[i] -= floor(larger(0, smaller(lacking, smaller(spare, early))));
    }
    return starts;
}

static double lacks(const struct cue *cue)
{
    return reading_time(cue->letters) - (cue->end - cue->start);
}

/* Those that are too fast longer where silence or a neighbour has time to spare. */
static void slow_down(struct cue *cues, const struct drafts *drafts)
{
    for (int64_t i = 0; i < drafts->count; i++) {
        struct cue *cue = cues + i, *following = cue + 1;
        if (lacks(cue) <= 0)
            continue;
        double free = i ? cues[i - 1].end + GAP : 0, spoken = drafts->all[i].start;
        cue->start = smaller(cue->start,
                             larger(free, larger(spoken - EARLIEST, cue->start - lacks(cue))));
        if (lacks(cue) <= 0 || i + 1 == drafts->count)
            continue;
        double until = i + 2 < drafts->count ? cues[i + 2].start - GAP : drafts->last;
        double needed = following->end - following->start + smaller(0, lacks(following));
        double latest = smaller(until - needed, drafts->all[i + 1].start + EARLIEST);
        double delay = floor(smaller(lacks(cue), latest - following->start));
        if (delay > 0) {
            following->start += delay;
            following->end = larger(following->end, following->start + needed);
            cue->end += delay;
        }
    }
}

static struct cue *time_cues(struct arena *arena, const struct drafts *drafts)
{
    const double *starts = starts_of(arena, drafts);
    struct cue *cues = take(arena, (size_t)drafts->count + 1, sizeof *cues);
    for (int64_t i = 0; i < drafts->count; i++) {
        const struct draft *draft = drafts->all + i;
        int more = i + 1 < drafts->count;
        double start = starts[i];
        double latest = more ? starts[i + 1] - GAP : larger(drafts->last, start + FLASH);
        struct cue *cue = cues + i;
        cue->lines = split_lines(arena, draft->chunks, draft->count, LINE, &cue->stops);
        cue->letters = cue->lines - 1;
        for (int64_t line = 0; line < cue->lines; line++) {
            int64_t first = line ? cue->stops[line - 1] : 0;
            cue->letters += joined_length(draft->chunks + first, cue->stops[line] - first);
        }
        double end = larger(draft->spoken_until, start + reading_time(cue->letters));
        if (more && continues(draft, draft + 1) && latest - end < CHAINED)
            end = starts[i + 1];
        end = floor(smaller(end, smaller(start + LONGEST, latest)));
        double free = i ? cues[i - 1].end + GAP : 0;
        start = smaller(start, larger(free, larger(draft->start - EARLIEST, end - SHORTEST)));
        start = smaller(start, larger(free, larger(draft->start - LEAD,
                                                   end - reading_time(cue->letters))));
        cue->start = start;
        cue->end = end;
    }
    slow_down(cues, drafts);
    return cues;
}

/* Files: translation/subtitle_files.py. */

struct text {
    struct arena *arena;
    char *at;
    size_t length, capacity;
};

static void append(struct text *text, const char *more, size_t length)
{
    if (text->capacity - text->length < length + 1) {
        size_t capacity = 2 * text->capacity + length + 256;
        char *at = take(text->arena, capacity, 1);
        memcpy(at, text->at ? text->at : "", text->length);
        text->at = at;
        text->capacity = capacity;
    }
    memcpy(text->at + text->length, more, length);
    text->length += length;
    text->at[text->length] = 0;
}

static void append_time(struct text *text, double milliseconds, char point)
{
    char time[64];
    long long all = (long long)milliseconds;
    snprintf(time, sizeof time, "%02lld:%02lld:%02lld%c%03lld", all / 3600000, all / 60000 % 60,
             all / 1000 % 60, point, all % 1000);
    append(text, time, strlen(time));
}

static int is_latin(int32_t letter)
{
    return (letter | 32) >= 'a' && (letter | 32) <= 'z';
}

/* A line, what the format would read otherwise escaped. */
static void append_line(struct text *text, const int32_t *line, int64_t count,
                        enum subtitle_form form)
{
    for (int64_t i = 0; i < count; i++) {
        int32_t here = line[i], next = i + 1 < count ? line[i + 1] : 0;
        int32_t third = i + 2 < count ? line[i + 2] : 0;
        char letter[4];
        const char *escape = here == '&' ? "&amp;" : here == '<' ? "&lt;" : here == '>' ? "&gt;" : 0;
        if (form == WEBVTT && escape) {
            append(text, escape, strlen(escape));
            continue;
        }
        if (form == SUBRIP && here == '-' && next == '-' && third == '>') {
            append(text, "\xe2\x86\x92", 3);
            i += 2;
            continue;
        }
        append(text, letter, (size_t)(put_letter(letter, here) - letter));
        int is_tag = here == '<' && (is_latin(next) || (next == '/' && is_latin(third)));
        if (form == SUBRIP && (is_tag || (here == '{' && next == '\\')))
            append(text, "\xe2\x81\xa0", 3); /* a word joiner */
    }
}

static void append_cue(struct text *text, const struct cue *cue, const struct chunk *chunks,
                       int64_t number, enum subtitle_form form)
{
    char title[32], point = form == SUBRIP ? ',' : '.';
    snprintf(title, sizeof title, "%lld\n", (long long)number);
    append(text, title, strlen(title));
    append_time(text, cue->start, point);
    append(text, " --> ", 5);
    append_time(text, cue->end, point);
    append(text, "\n", 1);
    for (int64_t line = 0, i = 0; line < cue->lines; line++) {
        int64_t first = i;
        struct letters all = {take(text->arena, (size_t)joined_length(
                                       chunks + i, cue->stops[line] - i) + 1, sizeof(int32_t)), 0};
        for (; i < cue->stops[line]; i++) {
            if (i > first && chunks[i].spaced)
                all.at[all.count++] = ' ';
            memcpy(all.at + all.count, chunks[i].text.at,
                   (size_t)chunks[i].text.count * sizeof *all.at);
            all.count += chunks[i].text.count;
        }
        append_line(text, all.at, all.count, form);
        append(text, "\n", 1);
    }
    append(text, "\n", 1);
}

char *make_subtitles(struct arena *arena, const struct part *parts, int64_t count, double end,
                     enum subtitle_form form)
{
    int64_t letters = 0, segments = 0, have = 0;
    for (int64_t i = 0; i < count; i++) {
        letters += parts[i].text.count;
        end = larger(end, parts[i].end);
    }
    struct chunk *chunks = take(arena, (size_t)letters + 1, sizeof *chunks);
    struct segment *all = take(arena, (size_t)count + 1, sizeof *all);
    for (int64_t i = 0; i < count; i++) {
        int64_t own = chunks_of(arena, &parts[i], chunks + have);
        if (own)
            all[segments++] = (struct segment){chunks + have, own, 0};
        have += own;
    }
    struct drafts drafts = {take(arena, (size_t)have + 1, sizeof *drafts.all), 0, 1000 * end};
    for (int64_t i = 0; i < segments; i++) {
        int64_t *stops;
        all[i].until = i + 1 < segments ? all[i + 1].chunks->start : drafts.last / 1000;
        int64_t cues = partition(arena, all[i].count, cue_cost, &all[i], &stops);
        for (int64_t c = 0, first = 0; c < cues; first = stops[c++])
            drafts.all[drafts.count++] =
                draft_of(all[i].chunks + first, stops[c] - first, i, i);
    }
    merge(&drafts);
    const struct cue *cues = time_cues(arena, &drafts);
    struct text text = {.arena = arena};
    append(&text, form == WEBVTT ? "WEBVTT\n\n" : "", form == WEBVTT ? 8 : 0);
    for (int64_t i = 0; i < drafts.count; i++)
        append_cue(&text, &cues[i], drafts.all[i].chunks, i + 1, form);
    return text.at;
}
