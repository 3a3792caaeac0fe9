/* Attention, a head at a time, several queries at once: sums stay in registers.
 *
 * The Makefile lets products and sums be fused here: nothing is rounded to integers. */
#include <math.h>
#include <string.h>

#include "compute.h"
#include "vectors.h"

enum { QUERIES = PIECES == 1 ? 8 : 4 }; /* whose sums the registers hold */

struct attention {
    struct keys keys;
    int64_t rows;
    const float *queries;
    float *mixed, *memory;
    int64_t memory_of_head, next;
};

/* sums[r][lane] of rows x step products: left[r * stride + k] * right[k * across + lane]. */
#define MULTIPLY(sums, left, stride, right, across, steps)                                        \
    do {                                                                                          \
        for (int r_ = 0; r_ < QUERIES; r_++)                                                      \
            for (int c_ = 0; c_ < PIECES; c_++)                                                   \
                sums[r_][c_] = (piece){0};                                                        \
        for (int64_t k_ = 0; k_ < (steps); k_++) {                                                \
            const piece *from_ = (const piece *)((right) + k_ * (across));                        \
            _Pragma("GCC unroll 8") for (int r_ = 0; r_ < QUERIES; r_++)                          \
                _Pragma("GCC unroll 4") for (int c_ = 0; c_ < PIECES; c_++)                       \
                    sums[r_][c_] += (left)[r_ * (stride) + k_] * from_[c_];                       \
        }                                                                                         \
    } while (0)

static int64_t rounded(int64_t count)
{
    return (count + LANES - 1) / LANES * LANES;
}

/* Keys of a head as channels x keys, values as keys x channels, each padded with zeros. */
static void lay_out(const struct keys *to, int64_t head, const float *keys, const float *values)
{
    int64_t size = to->size, width = size * to->heads, wide = rounded(size);
    float *own_keys = to->keys + head * size * to->padded;
    float *own_values = to->values + head * to->padded * wide;
    memset(own_keys, 0, (size_t)(size * to->padded) * sizeof *own_keys);
    memset(own_values, 0, (size_t)(to->padded * wide) * sizeof *own_values);
    for (int64_t i = 0; i < to->count; i++) {
        const float *key = keys + i * width + head * size;
        for (int64_t c = 0; c < size; c++)
            own_keys[c * to->padded + i] = key[c];
        memcpy(own_values + i * wide, values + i * width + head * size,
               (size_t)size * sizeof *own_values);
    }
}

VECTORS static void attend_head(const struct attention *all, int64_t head)
{
    int64_t size = all->keys.size, width = size * all->keys.heads, count = all->keys.count;
    int64_t padded = all->keys.padded, wide = rounded(size);
    const float *keys = all->keys.keys + head * size * padded;
    const float *values = all->keys.values + head * padded * wide;
    float *scores = all->memory + head * all->memory_of_head, *queries = scores + QUERIES * padded;
    float scale = 1.0f / sqrtf((float)size), row[LANES];
    piece sums[QUERIES][PIECES];
    for (int64_t start = 0; start < all->rows; start += QUERIES) {
        int rows = all->rows - start < QUERIES ? (int)(all->rows - start) : QUERIES;
        memset(queries, 0, (size_t)(QUERIES * size) * sizeof *queries);
        for (int r = 0; r < rows; r++)
            for (int64_t c = 0; c < size; c++)
                queries[r * size + c] =
                    all->queries[(start + r) * width + head * size + c] * scale;
        for (int64_t i = 0; i < padded; i += LANES) {
            MULTIPLY(sums, queries, size, keys + i, padded, size);
            for (int r = 0; r < QUERIES; r++)
                memcpy(scores + r * padded + i, sums[r], sizeof sums[r]);
        }
        for (int r = 0; r < rows; r++)
            softmax(scores + r * padded, count);
        for (int64_t c = 0; c < size; c += LANES) {
            int64_t some = size - c < LANES ? size - c : LANES;
            MULTIPLY(sums, scores, padded, values + c, wide, count);
            for (int r = 0; r < rows; r++) {
                memcpy(row, sums[r], sizeof row);
                memcpy(all->mixed + (start + r) * width + head * size + c, row,
                       (size_t)some * sizeof *row);
            }
        }
    }
}

static void attend_heads(void *data)
{
    struct attention *all = data;
    int64_t head;
    while ((head = __atomic_fetch_add(&all->next, 1, __ATOMIC_RELAXED)) < all->keys.heads)
        attend_head(all, head);
}

struct keys keys_for(struct run *run, int heads, int64_t width, int64_t count)
{
    struct keys keys = {.heads = heads, .size = width / heads, .count = count,
                        .padded = rounded(count)};
    keys.keys = take(run->arena, (size_t)(width * keys.padded + LANES), sizeof(float));
    keys.values =
        take(run->arena, (size_t)(heads * keys.padded * rounded(keys.size)), sizeof(float));
    return keys;
}

void keys_fill(const struct keys *to, const float *keys, const float *values)
{
    for (int64_t head = 0; head < to->heads; head++)
        lay_out(to, head, keys, values);
}

void attend(struct run *run, const struct keys *keys, const float *queries, int64_t rows,
            float *mixed)
{
    struct block *before = mark(run->arena);
    int64_t width = keys->size * keys->heads;
    struct attention all = {.keys = *keys, .rows = rows, .queries = queries, .mixed = mixed};
    int threads = threads_for(run, 2 * rows * keys->count * width);
    all.memory_of_head = QUERIES * (keys->padded + keys->size) + LANES;
    all.memory = take(run->arena, (size_t)(keys->heads * all.memory_of_head), sizeof(float));
    run_parallel(attend_heads, &all, (unsigned)threads, 0);
    release(run->arena, before);
}
