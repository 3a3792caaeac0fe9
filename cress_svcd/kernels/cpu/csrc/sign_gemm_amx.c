/* AMX: products of 16 rows x 64 inputs with 64 inputs x 16 outputs.
 *
 * The bits of a weight tile are expanded to bytes 0 and 1, which is exactly the layout that the
 * instruction wants of its right operand.  They are used at once, by up to 32 rows, and expanded
 * again for the next rows: in the L1 cache that is cheaper than keeping them. */
#define _GNU_SOURCE
#include "sign_gemm.h"

#ifdef CRESS_AMX
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "sign_gemm_avx512_write.h"

#define TARGET __attribute__((target(AVX512_BASE ",gfni,amx-tile,amx-int8")))
enum {
    EXPANDED = TILE_OUT * TILE_IN, /* bytes of a tile of bytes: 16 rows of 64 */
    ROW = 64,
    MAX_ROWS = 16,
    ARCH_REQ_XCOMP_PERM = 0x1023,
    XTILEDATA = 18,
};

struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

int amx_permitted(void)
{
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XTILEDATA) == 0;
}

/* Registers 0-3 are sums, 4 and 5 q (of ``rows`` rows), 6 and 7 weights. */
TARGET static void configure(int rows)
{
    struct tile_config config;
    memset(&config, 0, sizeof config);
    config.palette = 1;
    for (int i = 0; i < 8; i++) {
        config.row_bytes[i] = ROW;
        config.rows[i] = (uint8_t)(i < 6 ? rows : MAX_ROWS);
    }
    _tile_loadconfig(&config);
}

TARGET static inline __attribute__((always_inline)) void expand(const uint8_t *tile,
                                                                int8_t *bytes)
{
    for (int half = 0; half < 2; half++) {
        __m512i words = _mm512_loadu_si512(tile + half * (TILE_BYTES / 2));
#pragma GCC unroll 8
        for (int b = 0; b < 8; b++) {
            __m512i matrix = _mm512_set1_epi64((long long)(1ULL << (56 + b)));
            _mm512_store_si512(bytes + (half * 8 + b) * ROW,
                               _mm512_gf2p8affine_epi64_epi8(words, matrix, 0));
        }
    }
}

/* So many tiles are expanded together before they are used: a tile load that comes too soon after
 * the stores waits for them, and one too late has lost the L1 cache. */
enum { AHEAD = 8 };

/* Input tiles first .. end of ``tiles`` output tiles, ``next`` bytes apart, to bytes. */
TARGET static inline __attribute__((always_inline)) void expand_some(
    const uint8_t *weights, int64_t next, int tiles, int64_t first, int64_t end, int8_t *bytes)
{
    for (int64_t k = first; k < end; k++)
#pragma GCC unroll 4
        for (int t = 0; t < tiles; t++, bytes += EXPANDED)
            expand(weights + t * next + k * TILE_BYTES, bytes);
}

TARGET static inline __attribute__((always_inline)) void zero_sums(void)
{
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
}

/* acc (rows x 64) = one tile of q rows times four tiles of outputs. */
TARGET static void one_by_four(const uint8_t *weights, int64_t next, int64_t in_tiles,
                               const int8_t *values, int64_t stride, int8_t *bytes, int32_t *acc)
{
    zero_sums();
    for (int64_t first = 0; first < in_tiles; first += AHEAD / 4) {
        int64_t end = first + AHEAD / 4 < in_tiles ? first + AHEAD / 4 : in_tiles;
        expand_some(weights, next, 4, first, end, bytes);
        const int8_t *mine = bytes;
        for (int64_t k = first; k < end; k++, mine += 4 * EXPANDED) {
            _tile_loadd(4, values + k * TILE_IN, stride);
            _tile_loadd(6, mine, ROW);
            _tile_dpbssd(0, 4, 6);
            _tile_loadd(7, mine + EXPANDED, ROW);
            _tile_dpbssd(1, 4, 7);
            _tile_loadd(6, mine + 2 * EXPANDED, ROW);
            _tile_dpbssd(2, 4, 6);
            _tile_loadd(7, mine + 3 * EXPANDED, ROW);
            _tile_dpbssd(3, 4, 7);
        }
    }
    _tile_stored(0, acc, 4 * ROW);
    _tile_stored(1, acc + TILE_OUT, 4 * ROW);
    _tile_stored(2, acc + 2 * TILE_OUT, 4 * ROW);
    _tile_stored(3, acc + 3 * TILE_OUT, 4 * ROW);
}

/* acc (2 rows x 32) = two tiles of q rows, ``rows`` each, times two tiles of outputs. */
TARGET static void two_by_two(const uint8_t *weights, int64_t next, int64_t in_tiles,
                              const int8_t *values, int64_t stride, int rows, int8_t *bytes,
                              int32_t *acc)
{
    const int8_t *below = values + rows * stride;
    zero_sums();
    for (int64_t first = 0; first < in_tiles; first += AHEAD / 2) {
        int64_t end = first + AHEAD / 2 < in_tiles ? first + AHEAD / 2 : in_tiles;
        expand_some(weights, next, 2, first, end, bytes);
        const int8_t *mine = bytes;
        for (int64_t k = first; k < end; k++, mine += 2 * EXPANDED) {
            _tile_loadd(4, values + k * TILE_IN, stride);
            _tile_loadd(6, mine, ROW);
            _tile_dpbssd(0, 4, 6);
            _tile_loadd(7, mine + EXPANDED, ROW);
            _tile_dpbssd(1, 4, 7);
            _tile_loadd(5, below + k * TILE_IN, stride);
            _tile_dpbssd(2, 5, 6);
            _tile_dpbssd(3, 5, 7);
        }
    }
    _tile_stored(0, acc, 2 * ROW);
    _tile_stored(1, acc + TILE_OUT, 2 * ROW);
    _tile_stored(2, acc + rows * 2 * TILE_OUT, 2 * ROW);
    _tile_stored(3, acc + rows * 2 * TILE_OUT + TILE_OUT, 2 * ROW);
}

TARGET void multiply_amx(const uint8_t *tiles, int64_t in_tiles, int64_t first_tile,
                         int64_t end_tile, const struct quantized *quantized,
                         const struct outputs *outputs, void *scratch)
{
    int8_t *bytes = scratch;
    int32_t *acc = (int32_t *)(bytes + AHEAD * EXPANDED);
    /* Row tiles of equal height, an even number of them unless one is enough; the last may reach
     * beyond the count, into rows of padding. */
    int64_t count = quantized->count, pairs = (count + 2 * MAX_ROWS - 1) / (2 * MAX_ROWS);
    int high = count <= MAX_ROWS ? 1 : 2, wide = high == 1 ? 4 : 2;
    int rows = (int)(high == 1 ? count : (count + 2 * pairs - 1) / (2 * pairs));
    rows += rows % quantized->num_parts;
    configure(rows);
    for (int64_t first = 0; first < count; first += high * rows) {
        const int8_t *values = quantized->values + first * quantized->stride;
        int64_t left = count - first < high * rows ? count - first : high * rows;
        for (int64_t tile = first_tile, now; tile < end_tile; tile += now) {
            const uint8_t *weights = tiles + tile * in_tiles * TILE_BYTES;
            /* Where tiles are missing at the end, the first is taken again; see ``now``. */
            now = end_tile - tile >= wide ? wide : 1;
            int64_t next = now == wide ? in_tiles * TILE_BYTES : 0;
            if (high == 1)
                one_by_four(weights, next, in_tiles, values, quantized->stride, bytes, acc);
            else
                two_by_two(weights, next, in_tiles, values, quantized->stride, rows, bytes, acc);
            write_rows(acc, wide * TILE_OUT, first, left, (int)now, quantized, tile * TILE_OUT,
                       outputs);
        }
    }
    _tile_release();
}
#else
int amx_permitted(void)
{
    return 0;
}
#endif
