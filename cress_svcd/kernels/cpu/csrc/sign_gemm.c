/* The library's interface: which instruction set, which thread does what, scratch memory.
 *
 * No state is kept between calls but which instruction sets there are. */
#include "sign_gemm.h"

#include <stdlib.h>

#ifdef CRESS_X86
#include <cpuid.h>
#endif

#define EXPORT __attribute__((visibility("default")))
#ifndef SOURCE_DIGEST
#define SOURCE_DIGEST "none"
#endif

enum {
    OUT_OF_MEMORY = -1,
    NOT_SUPPORTED = -2,
    ROWS_A_BLOCK = 256,  /* level rows whose values stay in the second-level cache */
    ROWS_SHARED = 64,     /* up to here threads share the rows and split the outputs */
    TILES_A_PIECE = 8,   /* of outputs, for a thread to take */
    MOST_PLANES = 2,
    PADDING_ROWS = 32,   /* multiply_amx reads so many beyond the last, and drops their sums */
};

/* GOMP_parallel of the OpenMP runtime that torch has loaded, so that no second one is needed. */
typedef void parallel_function(void (*work)(void *), void *data, unsigned threads, unsigned flags);

struct call {
    const float *x, *g;
    int64_t rows, x_stride, in, in_tiles, out_tiles;
    const uint8_t *tiles;
    struct outputs outputs;
    struct levels shared; /* of all rows, where threads split the outputs */
    int planes, isa;
    int64_t block_rows, pieces, next; /* next piece that no thread has taken */
    int error;
};

static int isa_supported[ISA_COUNT]; /* 0: not known yet, 1: yes, 2: no; the same for all threads */
static int gfni_pays;

/* Bit ``bit`` of ecx (word 0) or edx (word 1) of the extended features. */
static int feature(int word, int bit)
{
#ifdef CRESS_X86
    unsigned eax, ebx, words[2];
    if (__get_cpuid_count(7, 0, &eax, &ebx, &words[0], &words[1]))
        return words[word] >> bit & 1;
#endif
    (void)word, (void)bit;
    return 0;
}

static int has_gfni(void)
{
    return feature(0, 8);
}

/* On AMD's cores (Zen 4) GFNI competes with vpdpbusd for its ports; shifts and masks do not. */
static int has_fast_gfni(void)
{
#ifdef CRESS_X86
    __builtin_cpu_init();
    return has_gfni() && !__builtin_cpu_is("amd");
#else
    return 0;
#endif
}

static int detect(int isa)
{
    if (isa == ISA_PORTABLE)
        return 1;
#ifdef CRESS_X86
    __builtin_cpu_init();
    int vnni = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512vnni");
    if (isa == ISA_AVX2)
        return __builtin_cpu_supports("avx2") != 0;
    if (isa == ISA_AVX512_VNNI)
        return vnni;
    if (isa == ISA_AMX) /* AMX-TILE and AMX-INT8 */
        return vnni && has_gfni() && feature(1, 24) && feature(1, 25) && amx_permitted();
#endif
    return 0;
}

EXPORT int cress_supported(int isa)
{
    if (isa < 0 || isa >= ISA_COUNT)
        return 0;
    int known = __atomic_load_n(&isa_supported[isa], __ATOMIC_RELAXED);
    if (!known) {
        known = detect(isa) ? 1 : 2;
        __atomic_store_n(&gfni_pays, has_fast_gfni(), __ATOMIC_RELAXED);
        __atomic_store_n(&isa_supported[isa], known, __ATOMIC_RELEASE);
    }
    return known == 1;
}

EXPORT const char *cress_source_digest(void)
{
    return SOURCE_DIGEST;
}

static quantize_function *quantizer(int isa)
{
#ifdef CRESS_X86
    if (isa >= ISA_AVX512_VNNI)
        return quantize_avx512;
    if (isa == ISA_AVX2)
        return quantize_avx2;
#endif
    (void)isa;
    return quantize_portable;
}

static multiply_function *multiplier(int isa, int64_t count)
{
    (void)count;
#ifdef CRESS_AMX
    /* Expanding a weight to a byte in memory pays from four rows on. */
    if (isa == ISA_AMX && count > 3)
        return multiply_amx;
#endif
#ifdef CRESS_X86
    if (isa >= ISA_AVX512_VNNI)
        return __atomic_load_n(&gfni_pays, __ATOMIC_RELAXED) ? multiply_avx512_gfni
                                                             : multiply_avx512;
    if (isa == ISA_AVX2)
        return multiply_avx2;
#endif
    (void)isa;
    return multiply_portable;
}

size_t multiply_scratch_bytes(int64_t in_tiles)
{
    size_t amx = 8 * TILE_OUT * TILE_IN + 32 * 32 * sizeof(int32_t); /* bytes, then sums */
    size_t portable = (size_t)(in_tiles * TILE_IN);
    return amx > portable ? amx : portable; /* AVX-512 has at most 12 x 32 sums */
}

static size_t rounded(size_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

/* Memory for the levels of ``rows`` rows followed by ``extra`` bytes; NULL where there is none. */
static void *reserve(struct levels *levels, int64_t rows, int planes, int64_t in_tiles,
                     size_t extra, void **extra_memory)
{
    levels->planes = planes;
    levels->count = rows * planes;
    /* An odd number of cache lines: rows at powers of two would share the same few lines. */
    levels->stride = (in_tiles | 1) * TILE_IN;
    int64_t padded = levels->count + PADDING_ROWS;
    size_t values = (size_t)(padded * levels->stride);
    size_t sums = rounded((size_t)levels->count * sizeof(int32_t));
    size_t steps = rounded((size_t)rows * sizeof(float));
    char *memory = aligned_alloc(64, values + sums + steps + rounded(extra));
    if (!memory)
        return NULL;
    levels->values = (int8_t *)memory;
    levels->sums = (int32_t *)(memory + values);
    levels->steps = (float *)(memory + values + sums);
    if (extra_memory)
        *extra_memory = memory + values + sums + steps;
    return memory;
}

static int64_t take(struct call *call)
{
    return __atomic_fetch_add(&call->next, 1, __ATOMIC_RELAXED);
}

static void fail(struct call *call)
{
    __atomic_store_n(&call->error, OUT_OF_MEMORY, __ATOMIC_RELAXED);
}

/* Each piece is some outputs of all rows, whose levels are there already. */
static void split_outputs(void *data)
{
    struct call *call = data;
    void *scratch = aligned_alloc(64, rounded(multiply_scratch_bytes(call->in_tiles)));
    if (!scratch) {
        fail(call);
        return;
    }
    multiply_function *multiply = multiplier(call->isa, call->shared.count);
    for (int64_t piece; (piece = take(call)) < call->pieces;) {
        int64_t first = call->out_tiles * piece / call->pieces;
        int64_t end = call->out_tiles * (piece + 1) / call->pieces;
        multiply(call->tiles, call->in_tiles, first, end, &call->shared, &call->outputs, scratch);
    }
    free(scratch);
}

/* Each piece is all outputs of some rows. */
static void split_rows(void *data)
{
    struct call *call = data;
    struct levels levels;
    void *scratch, *memory = reserve(&levels, call->block_rows, call->planes, call->in_tiles,
                                     multiply_scratch_bytes(call->in_tiles), &scratch);
    if (!memory) {
        fail(call);
        return;
    }
    quantize_function *quantize = quantizer(call->isa);
    for (int64_t piece; (piece = take(call)) < call->pieces;) {
        int64_t first = piece * call->block_rows, rows = call->rows - first;
        struct outputs outputs = call->outputs;
        outputs.y += first * outputs.y_stride;
        levels.count = (rows < call->block_rows ? rows : call->block_rows) * call->planes;
        quantize(call->x + first * call->x_stride, call->x_stride, call->in, call->g, &levels);
        multiplier(call->isa, levels.count)(call->tiles, call->in_tiles, 0, call->out_tiles,
                                            &levels, &outputs, scratch);
    }
    free(memory);
}

static void run(void (*work)(void *), struct call *call, int threads, parallel_function *parallel)
{
    if (threads > call->pieces)
        threads = (int)call->pieces;
    if (threads > 1 && parallel)
        parallel(work, call, (unsigned)threads, 0);
    else
        work(call);
}

/* y = (signs @ level(g * x)) * step * h + bias for each row of x; see quantize.h for levels.
 *
 * x: rows x in, rows ``x_stride`` floats apart.  y: rows x out, dense.  g, h and bias may be NULL.
 * tiles: see sign_matmul.h.  planes: 1 or 2.  isa: one that cress_supported knows.
 * parallel: GOMP_parallel, or NULL for one thread.
 *
 * Returns 0, OUT_OF_MEMORY or NOT_SUPPORTED.
 */
EXPORT int cress_sign_matmul(const float *x, int64_t rows, int64_t x_stride, const uint8_t *tiles,
                             int64_t in, int64_t out, const float *g, const float *h,
                             const float *bias, float *y, int planes, int isa, int threads,
                             parallel_function *parallel)
{
    if (!cress_supported(isa) || planes < 1 || planes > MOST_PLANES)
        return NOT_SUPPORTED;
    struct call call = {
        .x = x, .g = g, .rows = rows, .x_stride = x_stride, .in = in, .tiles = tiles,
        .in_tiles = (in + TILE_IN - 1) / TILE_IN,
        .out_tiles = (out + TILE_OUT - 1) / TILE_OUT,
        .outputs = {.h = h, .bias = bias, .y = y, .y_stride = out, .out = out},
        .planes = planes, .isa = isa,
    };
    if (rows == 0 || out == 0)
        return 0;
    if (threads < 1)
        threads = 1;
    if (rows * planes > ROWS_SHARED || threads == 1) {
        int64_t most = ROWS_A_BLOCK / planes, share = (rows + threads - 1) / threads;
        call.block_rows = share < most ? share : most;
        call.pieces = (rows + call.block_rows - 1) / call.block_rows;
        run(split_rows, &call, threads, parallel);
        return call.error;
    }
    void *memory = reserve(&call.shared, rows, planes, call.in_tiles, 0, NULL);
    if (!memory)
        return OUT_OF_MEMORY;
    quantizer(isa)(x, x_stride, in, g, &call.shared);
    call.pieces = (call.out_tiles + TILES_A_PIECE - 1) / TILES_A_PIECE;
    if (call.pieces > 4 * threads)
        call.pieces = 4 * threads;
    run(split_outputs, &call, threads, parallel);
    free(memory);
    return call.error;
}
