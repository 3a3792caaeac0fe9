#include "phrases.h"

#include <math.h>
#include <string.h>

static const double AFTER_SENTENCE = 0, AFTER_CLAUSE = 1, BEFORE_PHRASE = 2.5, ANYWHERE = 4;
static const double AFTER_BOUND = 6;
enum { LONGEST_WORD = 16 };

/* Conjunctions and prepositions: a phrase begins before them. */
static const char PHRASE_STARTS[] =
    " "
    "and or but because that which who whose when where while if although though since "
    "until unless before after than as so in on at by for from with without of to into over "
    "under about between und oder aber denn weil dass der welche welcher welches wenn wann "
    "wo während ob obwohl bevor nachdem damit sondern als wie im am an auf aus bei durch "
    "für gegen mit nach ohne seit über um unter von vom vor zu zum zur zwischen et ou mais "
    "car donc que qui dont où quand lorsque si puisque parce pour avec sans dans sur sous "
    "chez par de du des à au aux vers entre y o pero porque cuando donde aunque como con "
    "sin en por para hasta desde sobre entre del al e ma perché che quando dove mentre "
    "anche con senza nel nella su per tra fra dal della mas quando onde embora com sem em "
    "no na por para até desde en of maar want omdat dat die wie waar wanneer terwijl hoewel "
    "als met zonder in op aan voor van naar over onder tussen bij uit și sau dar pentru că "
    "care când unde dacă deși înainte după ca cu fără în din la pe de lângă sub spre până "
    "între prin ";

/* What belongs to the word after it, as the words above do: articles and the like. */
static const char BOUND_TO_NEXT[] =
    " "
    "the a an my your his her its our their this these those no not der die das den dem des "
    "ein eine einen einem einer eines mein dein sein ihr unser kein nicht le la les un une "
    "l' mon ma ton ta son sa ce cette el los las una unos unas mi tu su il lo gli uno i os "
    "as um uma o a de het een mijn un o al ai ale ";

static int is_one_of(int32_t letter, const int32_t *letters)
{
    while (*letters && *letters != letter)
        letters++;
    return *letters != 0;
}

/* Whether letters, in lower case, are a word of a list. */
static int is_in(const char *list, const int32_t *letters, int64_t count)
{
    char word[4 * LONGEST_WORD + 3], *to = word;
    if (count > LONGEST_WORD || !count)
        return 0;
    *to++ = ' ';
    for (int64_t i = 0; i < count; i++)
        to = put_letter(to, lower(letters[i]));
    *to++ = ' ';
    *to = 0;
    return strstr(list, word) != NULL;
}

double break_cost(const struct chunk *before, const struct chunk *after)
{
    static const int32_t closing[] = {'"', '\'', 0x201d, 0x2019, 0xbb, ')', ']', '}', 0x300d, 0x300f,
                                      0xff09, 0};
    static const int32_t sentence[] = {'.', '!', '?', 0x2026, 0x3002, 0xff01, 0xff1f, 0x61f, 0x964,
                                       0};
    static const int32_t clause[] = {',', ';', ':', 0x2013, 0x2014, 0xff0c, 0x3001, 0xff1b, 0xff1a,
                                     0x61b, 0x60c, 0};
    static const int32_t opening[] = {'(', '[', 0xff08, 0x300c, 0x300e, 0x2013, 0x2014, 0};
    const int32_t *word = before->text.at, *next = after->text.at;
    int64_t count = before->text.count, first = 0, last = after->text.count;
    while (count && is_one_of(word[count - 1], closing))
        count--;
    if (count && is_one_of(word[count - 1], sentence))
        return AFTER_SENTENCE;
    if (count && is_one_of(word[count - 1], clause))
        return AFTER_CLAUSE;
    if (is_in(PHRASE_STARTS, word, count) || is_in(BOUND_TO_NEXT, word, count))
        return AFTER_BOUND;
    if (is_one_of(next[0], opening))
        return AFTER_CLAUSE;
    while (first < last && (next[first] == ',' || next[first] == '.'))
        first++;
    while (last > first && (next[last - 1] == ',' || next[last - 1] == '.'))
        last--;
    return is_in(PHRASE_STARTS, next + first, last - first) ? BEFORE_PHRASE : ANYWHERE;
}

int64_t joined_length(const struct chunk *chunks, int64_t count)
{
    int64_t length = 0;
    for (int64_t i = 0; i < count; i++)
        length += chunks[i].text.count + (i && chunks[i].spaced);
    return length;
}

int count_lines(const struct chunk *chunks, int64_t count, int64_t longest)
{
    int64_t length = 0;
    int lines = 1;
    for (int64_t i = 0; i < count; i++) {
        int64_t own = chunks[i].text.count, added = own + (chunks[i].spaced && length > 0);
        if (i && length + added > longest)
            lines++, length = 0, added = own;
        length += added;
    }
    return lines;
}

static int belongs(int32_t letter)
{
    return is_mark(letter) || letter == 0x200c || letter == 0x200d;
}

int64_t cut_long(const struct chunk *chunk, int64_t longest, struct chunk *to)
{
    const int32_t *text = chunk->text.at;
    int64_t count = chunk->text.count, parts = 0;
    double share = (chunk->end - chunk->start) / (double)count;
    for (int64_t start = 0, stop; start < count; start = stop) {
        stop = start + longest < count ? start + longest : count;
        while (start < stop - 1 && stop < count && belongs(text[stop]))
            stop--;
        if (stop < count && belongs(text[stop]))
            for (stop = start + 1; stop < count && belongs(text[stop]);)
                stop++;
        to[parts++] = (struct chunk){
            {chunk->text.at + start, stop - start}, chunk->spaced && !start,
            chunk->start + share * (double)start, chunk->start + share * (double)stop,
        };
    }
    return parts;
}

int64_t partition(struct arena *arena, int64_t count, part_cost *cost, const void *data,
                  int64_t **stops)
{
    double *best = take(arena, (size_t)count + 1, sizeof *best);
    int64_t *before = take_zeros(arena, (size_t)count + 1, sizeof *before), parts = 0;
    *stops = take(arena, (size_t)count + 1, sizeof **stops);
    for (int64_t i = 0; i <= count; i++)
        best[i] = i ? INFINITY : 0;
    for (int64_t start = 0; start < count; start++)
        for (int64_t stop = start + 1; stop <= count; stop++) {
            double own = cost(data, start, stop);
            if (own < 0)
                break;
            if (best[start] + own < best[stop])
                best[stop] = best[start] + own, before[stop] = start;
        }
    for (int64_t at = count; at; at = before[at])
        parts++;
    for (int64_t at = count, i = parts; at; at = before[at])
        (*stops)[--i] = at;
    return parts;
}

struct lines {
    const struct chunk *chunks;
    int64_t count, longest;
    double mean;
};

static double line_cost(const void *data, int64_t first, int64_t stop)
{
    const struct lines *lines = data;
    int64_t length = joined_length(lines->chunks + first, stop - first);
    if (length > lines->longest && stop > first + 1)
        return -1;
    double parting = 0, uneven = (double)length / lines->mean - 1;
    if (stop < lines->count)
        parting = break_cost(&lines->chunks[stop - 1], &lines->chunks[stop]);
    return 1000 + parting + 12 * (uneven * uneven); /* one line more costs more than all else */
}

int64_t split_lines(struct arena *arena, const struct chunk *chunks, int64_t count,
                    int64_t longest, int64_t **stops)
{
    int64_t length = joined_length(chunks, count);
    if (length <= longest) {
        *stops = take(arena, 1, sizeof **stops);
        **stops = count;
        return 1;
    }
    double mean = (double)length / count_lines(chunks, count, longest);
    struct lines lines = {chunks, count, longest, mean};
    return partition(arena, count, line_cost, &lines, stops);
}
