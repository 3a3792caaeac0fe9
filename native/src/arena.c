#include "arena.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Memory from the system is kept for the next one who takes: fresh pages cost more than what is
 * computed in them.  The address sanitizer sees each piece alone. */
#ifdef __SANITIZE_ADDRESS__
enum { LEAST_CHUNK = 0 };
#else
enum { LEAST_CHUNK = 1 << 20 };
#endif

/* Blocks lie in chunks as on a stack; chunks behind the current one are empty. */
struct chunk {
    struct chunk *before, *after;
    size_t size, used;
    char padding[64 - 2 * sizeof(void *) - 2 * sizeof(size_t)]; /* what follows is 64-byte aligned */
};

struct block {
    struct block *next;
    struct chunk *chunk;
    char padding[64 - 2 * sizeof(void *)];
};

static void drop_after(struct chunk *chunk)
{
    struct chunk *after = chunk->after;
    chunk->after = after->after;
    if (after->after)
        after->after->before = chunk;
    free(after);
}

/* The chunk for so many bytes: the current one, the next, or a new one; NULL where there is none. */
static struct chunk *find_room(struct arena *arena, size_t bytes)
{
    struct chunk *current = arena->chunk;
    if (current && current->size - current->used >= bytes)
        return current;
    while (current && current->after && current->after->size < bytes)
        drop_after(current);
    if (current && current->after)
        return arena->chunk = current->after;
    size_t size = bytes > LEAST_CHUNK ? bytes : LEAST_CHUNK;
    struct chunk *made = aligned_alloc(64, sizeof *made + size);
    if (!made)
        return NULL;
    *made = (struct chunk){.before = current, .size = size};
    if (current)
        current->after = made;
    return arena->chunk = made;
}

void *take(struct arena *arena, size_t count, size_t element)
{
    size_t bytes;
    if (__builtin_mul_overflow(count, element, &bytes) ||
        __builtin_add_overflow(bytes, sizeof(struct block) + sizeof(struct chunk) + 64, &bytes))
        fail(arena, "out of memory: %zu x %zu bytes", count, element);
    bytes = (bytes - sizeof(struct chunk)) / 64 * 64;
    struct chunk *chunk = find_room(arena, bytes);
    if (!chunk)
        fail(arena, "out of memory: %zu bytes", bytes);
    struct block *block = (struct block *)((char *)(chunk + 1) + chunk->used);
    chunk->used += bytes;
    block->next = arena->blocks;
    block->chunk = chunk;
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
        struct chunk *chunk = block->chunk;
        arena->blocks = block->next;
        chunk->used = (size_t)((char *)block - (char *)(chunk + 1));
        if (chunk->used)
            continue;
        if (LEAST_CHUNK == 0) {
            arena->chunk = chunk->before;
            if (chunk->before)
                chunk->before->after = NULL;
            free(chunk);
        } else if (chunk->before) {
            arena->chunk = chunk->before;
        }
    }
}

void arena_free(struct arena *arena)
{
    release(arena, NULL);
    struct chunk *chunk = arena->chunk;
    while (chunk && chunk->before)
        chunk = chunk->before;
    while (chunk) {
        struct chunk *after = chunk->after;
        free(chunk);
        chunk = after;
    }
    arena->chunk = NULL;
}

void fail(struct arena *arena, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(arena->message, sizeof arena->message, format, arguments);
    va_end(arguments);
    longjmp(arena->escape, 1);
}
