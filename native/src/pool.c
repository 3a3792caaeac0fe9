#include "pool.h"

#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "runtime.h"

enum { MOST_THREADS = 64, SPINS = 400 }; /* products follow each other by microseconds */

struct pool {
    pid_t process; /* a child of it has the memory and none of the threads */
    pthread_mutex_t lock;
    pthread_cond_t begin, end;
    void (*work)(void *);
    void *data;
    unsigned round, wanted, running; /* the round of work, threads that do it, that still do */
    int stopping, count;
    struct worker {
        struct pool *pool;
        unsigned number;
        pthread_t thread;
    } workers[MOST_THREADS];
};

/* The kernels call ``run_parallel`` as GOMP_parallel, which has no place for a pool. */
static _Thread_local struct pool *used;

void pool_use(struct pool *pool)
{
    used = pool && pool->process == getpid() ? pool : NULL;
}

static void pause_a_moment(void)
{
#ifdef CRESS_X86
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static unsigned round_of(const struct pool *pool)
{
    return __atomic_load_n(&pool->round, __ATOMIC_ACQUIRE);
}

static void *serve(void *given)
{
    struct worker *worker = given;
    struct pool *pool = worker->pool;
    unsigned done = 0;
    for (;;) {
        for (int i = 0; i < SPINS && round_of(pool) == done; i++)
            pause_a_moment();
        pthread_mutex_lock(&pool->lock);
        while (pool->round == done && !pool->stopping)
            pthread_cond_wait(&pool->begin, &pool->lock);
        done = pool->round;
        int takes_part = worker->number < pool->wanted, stopping = pool->stopping;
        pthread_mutex_unlock(&pool->lock);
        if (stopping)
            return NULL;
        if (!takes_part)
            continue;
        pool->work(pool->data);
        pthread_mutex_lock(&pool->lock);
        if (__atomic_sub_fetch(&pool->running, 1, __ATOMIC_RELEASE) == 0)
            pthread_cond_signal(&pool->end);
        pthread_mutex_unlock(&pool->lock);
    }
}

struct pool *pool_create(int threads)
{
    struct pool *pool = threads > 1 ? calloc(1, sizeof *pool) : NULL;
    if (!pool)
        return NULL;
    pool->process = getpid();
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->begin, NULL);
    pthread_cond_init(&pool->end, NULL);
    while (pool->count + 1 < threads && pool->count < MOST_THREADS) {
        struct worker *worker = &pool->workers[pool->count];
        worker->pool = pool;
        worker->number = (unsigned)pool->count;
        if (pthread_create(&worker->thread, NULL, serve, worker))
            break;
        pool->count++;
    }
    return pool;
}

void pool_free(struct pool *pool)
{
    if (!pool)
        return;
    if (pool->process != getpid()) {
        free(pool);
        return;
    }
    pthread_mutex_lock(&pool->lock);
    pool->stopping = 1;
    pthread_cond_broadcast(&pool->begin);
    pthread_mutex_unlock(&pool->lock);
    for (int i = 0; i < pool->count; i++)
        pthread_join(pool->workers[i].thread, NULL);
    pthread_cond_destroy(&pool->end);
    pthread_cond_destroy(&pool->begin);
    pthread_mutex_destroy(&pool->lock);
    free(pool);
}

void run_parallel(void (*work)(void *), void *data, unsigned threads, unsigned flags)
{
    struct pool *pool = used;
    unsigned others = pool && threads > 1 ? threads - 1 : 0;
    (void)flags;
    if (pool && others > (unsigned)pool->count)
        others = (unsigned)pool->count;
    if (!others) {
        work(data);
        return;
    }
    pthread_mutex_lock(&pool->lock);
    pool->work = work;
    pool->data = data;
    pool->wanted = others;
    __atomic_store_n(&pool->running, others, __ATOMIC_RELAXED);
    __atomic_add_fetch(&pool->round, 1, __ATOMIC_RELEASE);
    pthread_cond_broadcast(&pool->begin);
    pthread_mutex_unlock(&pool->lock);
    work(data);
    for (int i = 0; i < SPINS && __atomic_load_n(&pool->running, __ATOMIC_ACQUIRE); i++)
        pause_a_moment();
    pthread_mutex_lock(&pool->lock);
    while (__atomic_load_n(&pool->running, __ATOMIC_ACQUIRE))
        pthread_cond_wait(&pool->end, &pool->lock);
    pthread_mutex_unlock(&pool->lock);
}
