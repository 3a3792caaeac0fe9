#include "arena.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct block {
    struct block *next;
    char padding[56]; /* what follows is 64-byte aligned */
};

void *take(struct arena *arena, size_t count, size_t element)
{
    size_t bytes;
    if (__builtin_mul_overflow(count, element, &bytes) ||
        __builtin_add_overflow(bytes, sizeof(struct block) + 64, &bytes))
        fail(arena, "out of memory: %zu x %zu bytes", count, element);
    struct block *block = aligned_alloc(64, bytes / 64 * 64);
    if (!block)
        fail(arena, "out of memory: %zu bytes", bytes);
    block->next = arena->blocks;
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
        struct block *next = arena->blocks->next;
        free(arena->blocks);
        arena->blocks = next;
    }
}

void fail(struct arena *arena, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(arena->message, sizeof arena->message, format, arguments);
    va_end(arguments);
    longjmp(arena->escape, 1);
}
