/* The interface of sign_gemm.h: which thread does what, scratch memory. */
#include "sign_gemm.h"

#include <stdlib.h>

enum {
    ROWS_A_BLOCK = 256,  /* quantised rows whose values stay in the L2 cache */
    ROWS_SHARED = 64,     /* up to here threads share the rows and split the outputs */
    TILES_A_CHUNK = 8,   /* of outputs, for a thread to take */
    MAX_SPLIT = 2,
    PADDING_ROWS = 32,   /* multiply_amx reads so many beyond the last, and drops their sums */
};

struct call {
    const float *x, *g;
    int64_t rows, x_stride, in, in_tiles, out_tiles;
    const uint8_t *tiles;
    struct outputs outputs;
    struct quantized shared; /* of all rows, where threads split the outputs */
    int num_parts, isa;
    int64_t block_rows, chunks, next; /* next chunk that no thread has taken */
    int error;
};

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
        return gfni_is_fast() ? multiply_avx512_gfni : multiply_avx512;
    if (isa == ISA_AVX2)
        return multiply_avx2;
#endif
#ifdef CRESS_ARM
    /* Two rows at a time are of use from so many on. */
    if (isa == ISA_I8MM && count > 4)
        return multiply_i8mm;
    if (isa >= ISA_DOTPROD)
        return multiply_dotprod;
#endif
#ifdef CRESS_SIMD128
    if (isa >= ISA_NEON)
        return multiply_simd128;
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

/* Memory for the q of ``rows`` rows followed by ``extra`` bytes; NULL where there is none. */
static void *reserve(struct quantized *quantized, int64_t rows, int num_parts, int64_t in_tiles,
                     size_t extra, void **extra_memory)
{
    quantized->num_parts = num_parts;
    quantized->count = rows * num_parts;
    /* An odd number of cache lines: rows at powers of two would share the same few lines. */
    quantized->stride = (in_tiles | 1) * TILE_IN;
    int64_t padded = quantized->count + PADDING_ROWS;
    size_t values = (size_t)(padded * quantized->stride);
    size_t sums = cache_lines((size_t)quantized->count * sizeof(int32_t));
    size_t scales = cache_lines((size_t)rows * sizeof(float));
    char *memory = aligned_alloc(64, values + sums + scales + cache_lines(extra));
    if (!memory)
        return NULL;
    quantized->values = (int8_t *)memory;
    quantized->sums = (int32_t *)(memory + values);
    quantized->scales = (float *)(memory + values + sums);
    if (extra_memory)
        *extra_memory = memory + values + sums + scales;
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

/* Each chunk is some outputs of all rows, whose q are there already. */
static void split_outputs(void *data)
{
    struct call *call = data;
    void *scratch = aligned_alloc(64, cache_lines(multiply_scratch_bytes(call->in_tiles)));
    if (!scratch) {
        fail(call);
        return;
    }
    multiply_function *multiply = multiplier(call->isa, call->shared.count);
    for (int64_t chunk; (chunk = take(call)) < call->chunks;) {
        int64_t first = call->out_tiles * chunk / call->chunks;
        int64_t end = call->out_tiles * (chunk + 1) / call->chunks;
        multiply(call->tiles, call->in_tiles, first, end, &call->shared, &call->outputs, scratch);
    }
    free(scratch);
}

/* Each chunk is all outputs of some rows. */
static void split_rows(void *data)
{
    struct call *call = data;
    struct quantized quantized;
    void *scratch, *memory = reserve(&quantized, call->block_rows, call->num_parts, call->in_tiles,
                                     multiply_scratch_bytes(call->in_tiles), &scratch);
    if (!memory) {
        fail(call);
        return;
    }
    quantize_function *quantize = quantizer(call->isa);
    for (int64_t chunk; (chunk = take(call)) < call->chunks;) {
        int64_t first = chunk * call->block_rows, rows = call->rows - first;
        struct outputs outputs = call->outputs;
        outputs.y += first * outputs.y_stride;
        quantized.count = (rows < call->block_rows ? rows : call->block_rows) * call->num_parts;
        quantize(call->x + first * call->x_stride, call->x_stride, call->in, call->g, &quantized);
        multiplier(call->isa, quantized.count)(call->tiles, call->in_tiles, 0, call->out_tiles,
                                            &quantized, &outputs, scratch);
    }
    free(memory);
}

static void run(void (*work)(void *), struct call *call, int threads, parallel_function *parallel)
{
    if (threads > call->chunks)
        threads = (int)call->chunks;
    if (threads > 1 && parallel)
        parallel(work, call, (unsigned)threads, 0);
    else
        work(call);
}

/* y = (signs @ q(g * x)) * scale * h + bias for each row of x; see quantize.h for q.
 *
 * x: rows x in, rows ``x_stride`` floats apart.  y: rows x out, dense.  g, h and bias may be NULL.
 * tiles: see sign_gemm.h.  num_parts: 1 or 2.  isa: one that cress_supported knows.
 * parallel: GOMP_parallel, or NULL for one thread.
 *
 * Returns 0, OUT_OF_MEMORY or NOT_SUPPORTED.
 */
EXPORT int cress_sign_gemm(const float *x, int64_t rows, int64_t x_stride, const uint8_t *tiles,
                             int64_t in, int64_t out, const float *g, const float *h,
                             const float *bias, float *y, int num_parts, int isa, int threads,
                             parallel_function *parallel)
{
    if (!cress_supported(isa) || num_parts < 1 || num_parts > MAX_SPLIT)
        return NOT_SUPPORTED;
    struct call call = {
        .x = x, .g = g, .rows = rows, .x_stride = x_stride, .in = in, .tiles = tiles,
        .in_tiles = (in + TILE_IN - 1) / TILE_IN,
        .out_tiles = (out + TILE_OUT - 1) / TILE_OUT,
        .outputs = {.h = h, .bias = bias, .y = y, .y_stride = out, .out = out},
        .num_parts = num_parts, .isa = isa,
    };
    if (rows == 0 || out == 0)
        return 0;
    if (threads < 1)
        threads = 1;
    if (rows * num_parts > ROWS_SHARED || threads == 1) {
        int64_t most = ROWS_A_BLOCK / num_parts, share = (rows + threads - 1) / threads;
        call.block_rows = share < most ? share : most;
        call.chunks = (rows + call.block_rows - 1) / call.block_rows;
        run(split_rows, &call, threads, parallel);
        return call.error;
    }
    void *memory = reserve(&call.shared, rows, num_parts, call.in_tiles, 0, NULL);
    if (!memory)
        return OUT_OF_MEMORY;
    quantizer(isa)(x, x_stride, in, g, &call.shared);
    call.chunks = (call.out_tiles + TILES_A_CHUNK - 1) / TILES_A_CHUNK;
    if (call.chunks > 4 * threads)
        call.chunks = 4 * threads;
    run(split_outputs, &call, threads, parallel);
    free(memory);
    return call.error;
}
