#include "arena.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Memory from the system is kept for the next one who takes: fresh pages cost more than what is
 * computed in them.  The address sanitizer sees each piece alone. */
#ifdef __SANITIZE_ADDRESS__
enum { LEAST_SLAB = 0 };
#else
enum { LEAST_SLAB = 1 << 20 };
#endif

/* Blocks lie in slabs as on a stack; slabs behind the current one are empty. */
struct slab {
    struct slab *before, *after;
    size_t size, used;
    char padding[64 - 2 * sizeof(void *) - 2 * sizeof(size_t)]; /* what follows is 64-byte aligned */
};

struct block {
    struct block *next;
    struct slab *slab;
    char padding[64 - 2 * sizeof(void *)];
};

static void drop_after(struct slab *slab)
{
    struct slab *after = slab->after;
    slab->after = after->after;
    if (after->after)
        after->after->before = slab;
    free(after);
}

/* The slab for so many bytes: the current one, the next, or a new one; NULL where there is none. */
static struct slab *find_slab(struct arena *arena, size_t bytes)
{
    struct slab *current = arena->slab;
    if (current && current->size - current->used >= bytes)
        return current;
    while (current && current->after && current->after->size < bytes)
        drop_after(current);
    if (current && current->after)
        return arena->slab = current->after;
    size_t size = bytes > LEAST_SLAB ? bytes : LEAST_SLAB;
    struct slab *made = aligned_alloc(64, sizeof *made + size);
    if (!made)
        return NULL;
    *made = (struct slab){.before = current, .size = size};
    if (current)
        current->after = made;
    return arena->slab = made;
}

void *take(struct arena *arena, size_t count, size_t element)
{
    size_t bytes;
    if (__builtin_mul_overflow(count, element, &bytes) ||
        __builtin_add_overflow(bytes, sizeof(struct block) + sizeof(struct slab) + 64, &bytes))
        fail(arena, "out of memory: %zu x %zu bytes", count, element);
    bytes = (bytes - sizeof(struct slab)) / 64 * 64;
    struct slab *slab = find_slab(arena, bytes);
    if (!slab)
        fail(arena, "out of memory: %zu bytes", bytes);
    struct block *block = (struct block *)((char *)(slab + 1) + slab->used);
    slab->used += bytes;
    block->next = arena->blocks;
    block->slab = slab;
    arena->blocks = block;
    return block + 1;
}

void *take_zeros(struct arena *arena, size_t count, size_t element)
{
    return memset(take(arena, count, element), 0, count * element);
}

struct block *mark(const struct arena *arena)
{
    return arena->blocks;
}

void release(struct arena *arena, struct block *until)
{
    while (arena->blocks != until) {
        struct block *block = arena->blocks;
        struct slab *slab = block->slab;
        arena->blocks = block->next;
        slab->used = (size_t)((char *)block - (char *)(slab + 1));
        if (slab->used)
            continue;
        if (LEAST_SLAB == 0) {
            arena->slab = slab->before;
            if (slab->before)
                slab->before->after = NULL;
            free(slab);
        } else if (slab->before) {
            arena->slab = slab->before;
        }
    }
}

void arena_free(struct arena *arena)
{
    release(arena, NULL);
    struct slab *slab = arena->slab;
    while (slab && slab->before)
        slab = slab->before;
    while (slab) {
        struct slab *after = slab->after;
        free(slab);
        slab = after;
    }
    arena->slab = NULL;
}

void fail(struct arena *arena, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(arena->message, sizeof arena->message, format, arguments);
    va_end(arguments);
    longjmp(arena->escape, 1);
}
