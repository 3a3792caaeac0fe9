/* Where a text may be parted: translation/phrases.py. */
#ifndef CRESS_PHRASES_H
#define CRESS_PHRASES_H

#include "letters.h"

/* A word, or a part of one that is too long for a line; seconds. */
struct chunk {
    struct letters text;
    int spaced; /* a space is before it */
    double start, end;
};

/* What it costs to part the text between two neighbours. */
double break_cost(const struct chunk *before, const struct chunk *after);

/* Letters of chunks joined. */
int64_t joined_length(const struct chunk *chunks, int64_t count);

/* Lines of at most ``longest`` letters that they need. */
int count_lines(const struct chunk *chunks, int64_t count, int64_t longest);

/* Appends a chunk in parts of at most ``longest`` letters; how many. */
int64_t cut_long(const struct chunk *chunk, int64_t longest, struct chunk *to);

/* What the part [first, stop) costs; negative if it may not be, nor any longer one. */
typedef double part_cost(const void *data, int64_t first, int64_t stop);

/* The cheapest parts of ``count`` items: where each ends, and how many there are. */
int64_t partition(struct arena *arena, int64_t count, part_cost *cost, const void *data,
                  int64_t **stops);

/* The fewest lines, parted well and of like length: where each ends, and how many there are. */
int64_t split_lines(struct arena *arena, const struct chunk *chunks, int64_t count,
                    int64_t longest, int64_t **stops);

#endif
