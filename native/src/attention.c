/* Attention, a head at a time, several queries at once: sums stay in registers.
 *
 * The Makefile lets products and sums be fused here: nothing is rounded to integers. */
#include <math.h>
#include <string.h>

#include "compute.h"
#include "vectors.h"

enum { LANES = 16, QUERIES = 8 };

typedef float lanes __attribute__((vector_size(64), aligned(4), may_alias));

struct attention {
    int heads;
    int64_t width, rows, count, padded; /* padded: keys, a multiple of LANES */
    const float *queries, *keys, *values;
    float *mixed, *memory;
    int64_t memory_of_head, next;
};

/* sums[r][lane] of rows x step products: left[r * stride + k] * right[k * across + lane]. */
#define MULTIPLY(sums, left, stride, right, across, steps)                                        \
    do {                                                                                          \
        for (int r_ = 0; r_ < QUERIES; r_++)                                                      \
            sums[r_] = (lanes){0};                                                                \
        for (int64_t k_ = 0; k_ < (steps); k_++) {                                                \
            lanes from_ = *(const lanes *)((right) + k_ * (across));                              \
            _Pragma("GCC unroll 8") for (int r_ = 0; r_ < QUERIES; r_++)                          \
                sums[r_] += (left)[r_ * (stride) + k_] * from_;                                   \
        }                                                                                         \
    } while (0)

/* Keys of a head as channels x keys, values as keys x channels, each padded with zeros. */
static void lay_out(const struct attention *all, int64_t first, int64_t size, int64_t wide,
                    float *keys, float *values)
{
    memset(keys, 0, (size_t)(size * all->padded) * sizeof *keys);
    memset(values, 0, (size_t)(all->padded * wide) * sizeof *values);
    for (int64_t i = 0; i < all->count; i++) {
        const float *key = all->keys + i * all->width + first;
        for (int64_t c = 0; c < size; c++)
            keys[c * all->padded + i] = key[c];
        memcpy(values + i * wide, all->values + i * all->width + first,
               (size_t)size * sizeof *values);
    }
}

VECTORS static void attend_head(const struct attention *all, int64_t head)
{
    int64_t size = all->width / all->heads, first = head * size, count = all->count;
    int64_t padded = all->padded, wide = (size + LANES - 1) / LANES * LANES;
    float *keys = all->memory + head * all->memory_of_head, *values = keys + size * padded;
    float *scores = values + padded * wide, *queries = scores + QUERIES * padded;
    float scale = 1.0f / sqrtf((float)size), row[LANES];
    lanes sums[QUERIES];
    lay_out(all, first, size, wide, keys, values);
    for (int64_t start = 0; start < all->rows; start += QUERIES) {
        int rows = all->rows - start < QUERIES ? (int)(all->rows - start) : QUERIES;
        memset(queries, 0, (size_t)(QUERIES * size) * sizeof *queries);
        for (int r = 0; r < rows; r++)
            for (int64_t c = 0; c < size; c++)
                queries[r * size + c] = all->queries[(start + r) * all->width + first + c] * scale;
        for (int64_t i = 0; i < padded; i += LANES) {
            MULTIPLY(sums, queries, size, keys + i, padded, size);
            for (int r = 0; r < QUERIES; r++)
                *(lanes *)(scores + r * padded + i) = sums[r];
        }
        for (int r = 0; r < rows; r++)
            softmax(scores + r * padded, count);
        for (int64_t c = 0; c < size; c += LANES) {
            int64_t some = size - c < LANES ? size - c : LANES;
            MULTIPLY(sums, scores, padded, values + c, wide, count);
            for (int r = 0; r < rows; r++) {
                *(lanes *)row = sums[r];
                memcpy(all->mixed + (start + r) * all->width + first + c, row,
                       (size_t)some * sizeof *row);
            }
        }
    }
}

static void attend_heads(void *data)
{
    struct attention *all = data;
    int64_t head;
    while ((head = __atomic_fetch_add(&all->next, 1, __ATOMIC_RELAXED)) < all->heads)
        attend_head(all, head);
}

/* A few queries, as in a decoder's step: nothing is laid out for them. */
static void attend_few(const struct attention *all, float *scores)
{
    int64_t size = all->width / all->heads;
    float scale = 1.0f / sqrtf((float)size);
    for (int64_t r = 0; r < all->rows; r++)
        for (int64_t first = 0; first < all->width; first += size) {
            const float *query = all->queries + r * all->width + first;
            float *mixed = all->mixed + r * all->width + first;
            for (int64_t i = 0; i < all->count; i++)
                scores[i] = dot(query, all->keys + i * all->width + first, size) * scale;
            softmax(scores, all->count);
            memset(mixed, 0, (size_t)size * sizeof *mixed);
            for (int64_t i = 0; i < all->count; i++)
                for (int64_t c = 0; c < size; c++)
                    mixed[c] += scores[i] * all->values[i * all->width + first + c];
        }
}

void attend(struct run *run, int heads, int64_t width, const float *queries, int64_t rows,
            const float *keys, const float *values, int64_t count, float *mixed)
{
    struct block *before = mark(run->arena);
    int64_t size = width / heads, wide = (size + LANES - 1) / LANES * LANES;
    struct attention all = {
        .heads = heads, .width = width, .rows = rows, .count = count, .queries = queries,
        .keys = keys, .values = values, .mixed = mixed,
        .padded = (count + LANES - 1) / LANES * LANES,
    };
    if (rows <= QUERIES) {
        attend_few(&all, take(run->arena, (size_t)count + 1, sizeof(float)));
    } else {
        int threads = threads_for(run, 2 * rows * count * width);
        all.memory_of_head = (size + wide) * all.padded + QUERIES * (all.padded + size) + LANES;
        all.memory = take(run->arena, (size_t)(heads * all.memory_of_head), sizeof(float));
        run_parallel(attend_heads, &all, (unsigned)threads, 0);
    }
    release(run->arena, before);
}
