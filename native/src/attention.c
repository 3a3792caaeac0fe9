/* Attention, a head at a time, several queries at once: sums stay in registers.
 *
 * The Makefile lets products and sums be fused here: nothing is rounded to integers. */
#include <math.h>
#include <string.h>

#include "compute.h"
#include "vectors.h"

enum { MOST_QUERIES = 8 };

struct attention {
    struct keys keys;
    int64_t rows;
    const float *queries;
    float *mixed, *memory;
    int64_t memory_of_head, next;
    void (*attend_head)(const struct attention *all, int64_t head);
};

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

#ifdef CRESS_X86
#define NAME attend_head_avx512
#define FLOATS 16
#define QUERIES 8
#define KIND __attribute__((target("arch=x86-64-v4")))
#include "attention_head.h"
#define FLOATS 8
#else
#define FLOATS 4
#endif
#define NAME attend_head
#define QUERIES 4
#define KIND VECTORS
#include "attention_head.h"

static void attend_heads(void *data)
{
    struct attention *all = data;
    int64_t head;
    while ((head = __atomic_fetch_add(&all->next, 1, __ATOMIC_RELAXED)) < all->keys.heads)
        all->attend_head(all, head);
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
    struct attention all = {.keys = *keys, .rows = rows, .queries = queries, .mixed = mixed,
                            .attend_head = attend_head};
#ifdef CRESS_X86
    if (has_avx512(run))
        all.attend_head = attend_head_avx512;
#endif
    int threads = threads_for(run, 2 * rows * keys->count * width);
    all.memory_of_head = MOST_QUERIES * (keys->padded + keys->size) + LANES;
    all.memory = take(run->arena, (size_t)(keys->heads * all.memory_of_head), sizeof(float));
    run_parallel(attend_heads, &all, (unsigned)threads, 0);
    release(run->arena, before);
}
