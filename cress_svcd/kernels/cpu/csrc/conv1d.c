/* The interface of conv1d.h: which thread does what, scratch memory. */
#include "conv1d.h"

#include <stdlib.h>
#include <string.h>

enum {
    AT_ONCE = 32,            /* output frames in a step of conv1d_amx, a multiple of others' */
    MAX_FRAMES = 512,        /* output frames of a chunk, which share expanded weights */
    CACHED_BYTES = 1 << 20,  /* of a chunk's input, so that it stays in the L2 cache */
};

struct call {
    const struct conv1d *conv;
    int isa;
    int64_t chunk_frames, row_chunks, out_chunks, chunks, next;
    int error;
};

/* Whether convolutions can use an instruction set here: ISA_AMX (which has to do bf16, too) or
 * ISA_AVX512_VNNI. */
EXPORT int cress_conv1d_supported(int isa)
{
    if (isa == ISA_AVX512_VNNI)
        return cress_supported(isa);
#ifdef CRESS_AMX
    return isa == ISA_AMX && cress_supported(ISA_AMX) && cpu_feature(0, 3, 22) /* AMX-BF16 */
           && cpu_feature(1, 0, 5);                                           /* AVX512-BF16 */
#else
    return 0;
#endif
}

static int64_t rounded(int64_t value, int64_t to)
{
    return (value + to - 1) / to * to;
}

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Memory for a chunk; false where there is none. */
static int reserve(const struct call *call, struct conv1d_scratch *scratch)
{
    const struct conv1d *w = call->conv;
    int64_t count = rounded(call->chunk_frames, AT_ONCE);
#ifdef CRESS_X86
    if (call->isa == ISA_AVX512_VNNI)
        return (scratch->memory = aligned_alloc(64, conv1d_avx512_bytes(w, count))) != NULL;
#endif
    int64_t frames = (count - 1) * w->stride + w->kernel_size;
    int64_t part = rounded(frames * w->channels + STEP_IN, STEP_IN);
    int64_t weights = 2 * conv1d_steps(w) * BLOCK;
    int64_t sums = AT_ONCE * 2 * TILE_OUT;
    int64_t numbers = part * w->num_parts + weights * (w->weight_type == WEIGHT_FP16 ? 2 : 1);
    scratch->memory = aligned_alloc(64, (size_t)(sums * 4 + numbers * 2));
    if (!scratch->memory)
        return 0;
    scratch->sums = scratch->memory;
    scratch->high = (uint16_t *)(scratch->sums + sums);
    scratch->low = scratch->high + (w->num_parts == 2 ? part : 0);
    scratch->weights = scratch->low + part;
    scratch->weights_low = scratch->weights + weights;
    return 1;
}

static conv1d_function *function(int isa)
{
#ifdef CRESS_AMX
    if (isa == ISA_AMX)
        return conv1d_amx;
#endif
#ifdef CRESS_X86
    if (isa == ISA_AVX512_VNNI)
        return conv1d_avx512;
#endif
    (void)isa;
    return NULL;
}

static void work(void *data)
{
    struct call *call = data;
    const struct conv1d *w = call->conv;
    struct conv1d_scratch scratch;
    if (!reserve(call, &scratch)) {
        __atomic_store_n(&call->error, OUT_OF_MEMORY, __ATOMIC_RELAXED);
        return;
    }
    conv1d_function *multiply = function(call->isa);
    int64_t tiles = conv1d_out_tiles(w), chunk;
    while ((chunk = __atomic_fetch_add(&call->next, 1, __ATOMIC_RELAXED)) < call->chunks) {
        int64_t part = chunk % call->out_chunks, rest = chunk / call->out_chunks;
        int64_t first = rest % call->row_chunks * call->chunk_frames;
        rest /= call->row_chunks;
        int64_t count = smaller(call->chunk_frames, w->count - first);
        int64_t first_tile = tiles * part / call->out_chunks;
        int64_t end_tile = tiles * (part + 1) / call->out_chunks;
        multiply(w, rest / w->groups, rest % w->groups, first, count, first_tile, end_tile,
                 &scratch);
    }
    free(scratch.memory);
}

/* Weights in rows are for integers by AVX-512, which transposes them as it uses them. */
static int can_use(const struct conv1d *w, int isa)
{
    return cress_conv1d_supported(isa) && w->weight_type >= 0 && w->weight_type < WEIGHT_COUNT &&
           (w->num_parts == 1 || w->num_parts == 2) &&
           (!w->weights_in_rows || (conv1d_in_integers(w) && isa == ISA_AVX512_VNNI));
}

/* A convolution over time, scaled, with a bias and GELU where they are wanted; see conv1d.h.
 *
 * isa: one that cress_conv1d_supported knows.  parallel: GOMP_parallel, or NULL for one thread.
 * Returns 0, OUT_OF_MEMORY or NOT_SUPPORTED. */
EXPORT int cress_conv1d(const struct conv1d *w, int isa, int threads,
                         parallel_function *parallel)
{
    if (!can_use(w, isa))
        return NOT_SUPPORTED;
    if (w->batch * w->count * w->groups * w->out == 0)
        return 0;
    if (threads < 1 || !parallel)
        threads = 1;
    int64_t cached = CACHED_BYTES / (w->stride * w->channels * w->num_parts * 2);
    int64_t most = cached < AT_ONCE ? AT_ONCE : smaller(cached / AT_ONCE * AT_ONCE, MAX_FRAMES);
    int64_t others = w->batch * w->groups;
    int64_t share = rounded(w->count * others / threads + 1, AT_ONCE);
    struct call call = {
        .conv = w, .isa = isa, .chunk_frames = smaller(share, most), .out_chunks = 1,
    };
    call.row_chunks = (w->count + call.chunk_frames - 1) / call.chunk_frames;
    int64_t chunks = others * call.row_chunks;
    if (chunks < threads) /* few frames: threads share them and split the outputs */
        call.out_chunks = smaller((threads + chunks - 1) / chunks,
                                  (conv1d_out_tiles(w) + 1) / 2);
    call.chunks = chunks * call.out_chunks;
    if (threads > call.chunks)
        threads = (int)call.chunks;
    if (threads > 1)
        parallel(work, &call, (unsigned)threads, 0);
    else
        work(&call);
    return call.error;
}
