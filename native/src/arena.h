/* Memory that is freed together, and errors that leave the call that made it.
 *
 * Who takes memory need not free it: what a segment took goes when the next one begins, what a
 * model took goes with the model, and what is between ``mark`` and ``release`` goes at once.  So
 * ``fail`` may leave from any depth, and nothing leaks. */
#ifndef CRESS_ARENA_H
#define CRESS_ARENA_H

#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>

struct block;
struct slab;

/* Of one thread at a time.  Every API call that can fail sets ``escape`` first; ``fail`` jumps there
 * with a message. */
struct arena {
    struct block *blocks;
    struct slab *slab;
    jmp_buf escape;
    char message[512];
};

/* 64-byte aligned, of ``count`` elements; never NULL. */
void *take(struct arena *arena, size_t count, size_t element);
/* The same, all zeros. */
void *take_zeros(struct arena *arena, size_t count, size_t element);

/* A place to return to: ``release`` frees what was taken since. */
struct block *mark(const struct arena *arena);
void release(struct arena *arena, struct block *mark);

/* Gives everything back to the system. */
void arena_free(struct arena *arena);

_Noreturn void fail(struct arena *arena, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#endif
