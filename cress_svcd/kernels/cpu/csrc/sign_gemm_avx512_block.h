/* The AVX-512-VNNI product, included once with GFNI and once without.
 *
 * Expects TARGET (a target attribute), EXTRACT(v, b) (bit b of every byte, as byte 0 or 1) and
 * MULTIPLY, the name of the function to define. */

enum { MAX_ROWS = 12, MAX_TILES = 8 };

/* acc (rows x 16 tiles) = sum over inputs of bit * q; rows and tiles are constants where this
 * is called, so that all sums stay in registers. */
static inline __attribute__((always_inline)) TARGET void block(
    const uint8_t *weights, int64_t in_tiles, const int8_t *values, int64_t stride, int rows,
    int tiles, int32_t *acc)
{
    __m512i sums[MAX_ROWS][MAX_TILES];
    const int8_t *bases[MAX_ROWS / 3]; /* every third row: few registers address all of them */
#pragma GCC unroll 4
    for (int i = 0; i < MAX_ROWS / 3; i++)
        bases[i] = values + (3 * i < rows ? 3 * i : 0) * stride;
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
        for (int t = 0; t < tiles; t++)
            sums[r][t] = _mm512_setzero_si512();
    for (int64_t half = 0; half < 2 * in_tiles; half++) {
        __m512i words[MAX_TILES];
#pragma GCC unroll 8
        for (int t = 0; t < tiles; t++)
            words[t] = _mm512_loadu_si512(weights + (t * 2 * in_tiles + half) * (TILE_BYTES / 2));
#pragma GCC unroll 8
        for (int b = 0; b < 8; b++) {
            __m512i bits[MAX_TILES];
#pragma GCC unroll 8
            for (int t = 0; t < tiles; t++)
                bits[t] = EXTRACT(words[t], b);
#pragma GCC unroll 12
            for (int r = 0; r < rows; r++) {
                int32_t four;
                memcpy(&four, bases[r / 3] + r % 3 * stride + half * 32 + 4 * b, sizeof four);
                __m512i quantized = _mm512_set1_epi32(four);
#pragma GCC unroll 8
                for (int t = 0; t < tiles; t++)
                    sums[r][t] = _mm512_dpbusd_epi32(sums[r][t], bits[t], quantized);
            }
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
        for (int t = 0; t < tiles; t++)
            _mm512_storeu_si512(acc + (r * tiles + t) * TILE_OUT, sums[r][t]);
}

/* Tiles of outputs that are taken at once with so many rows: about 8 to 24 sums are in flight,
 * enough to hide the latency of vpdpbusd and few enough for 32 registers. */
static int tiles_at_once(int rows)
{
    return rows == 1 ? 8 : rows <= 4 ? 4 : 2;
}

#define CASE(rows, tiles)                                                                     \
    case rows:                                                                                \
        if (wide)                                                                             \
            block(weights, in_tiles, values, stride, rows, tiles, acc);                       \
        else                                                                                  \
            block(weights, in_tiles, values, stride, rows, 1, acc);                           \
        break

static TARGET void any_block(const uint8_t *weights, int64_t in_tiles, const int8_t *values,
                             int64_t stride, int rows, int wide, int32_t *acc)
{
    switch (rows) {
        CASE(1, 8);
        CASE(2, 4);
        CASE(3, 4);
        CASE(4, 4);
        CASE(5, 2);
        CASE(6, 2);
        CASE(7, 2);
        CASE(8, 2);
        CASE(9, 2);
        CASE(10, 2);
        CASE(11, 2);
        CASE(12, 2);
    }
}

TARGET void MULTIPLY(const uint8_t *tiles, int64_t in_tiles, int64_t first_tile, int64_t end_tile,
                     const struct quantized *quantized, const struct outputs *outputs, void *scratch)
{
    int32_t *acc = scratch;
    int64_t count = quantized->count;
    /* Chunks of nearly equal size, of whole rows of x (a row may have two split). */
    int64_t chunks = (count + MAX_ROWS - 1) / MAX_ROWS;
    int64_t size = (count + chunks - 1) / chunks;
    size += size % quantized->num_parts;
    int step = tiles_at_once((int)size);
    for (int64_t tile = first_tile; tile < end_tile;) {
        int wide = end_tile - tile >= step;
        for (int64_t r = 0; r < count; r += size) {
            int rows = (int)(count - r < size ? count - r : size);
            const int8_t *values = quantized->values + r * quantized->stride;
            int now = wide ? step : 1;
            /* A short last chunk takes more tiles at a time by itself: keep to this one's. */
            for (int t = 0; t < now;) {
                int own = tiles_at_once(rows);
                int fits = own <= now - t;
                any_block(tiles + (tile + t) * in_tiles * TILE_BYTES, in_tiles, values,
                          quantized->stride, rows, fits, acc);
                int done = fits ? own : 1;
                write_rows(acc, done * TILE_OUT, r, rows, done, quantized, (tile + t) * TILE_OUT,
                           outputs);
                t += done;
            }
        }
        tile += wide ? step : 1;
    }
}

#undef CASE
