/* Threads that wait for work: one pool a translator, started once. */
#ifndef CRESS_POOL_H
#define CRESS_POOL_H

struct pool;

/* ``threads`` with the one that asks; NULL where one is enough, or no other can be started. */
struct pool *pool_create(int threads);
void pool_free(struct pool *pool);

/* The pool that ``run_parallel`` uses in this thread; NULL: none. */
void pool_use(struct pool *pool);

/* Runs ``work`` in so many threads at once, as GOMP_parallel does. */
void run_parallel(void (*work)(void *), void *data, unsigned threads, unsigned flags);

#endif
