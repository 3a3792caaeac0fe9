/* A head's attention.
 *
 * Included once for each kind of vectors, with NAME, FLOATS of a vector, QUERIES at once, whose sums
 * the registers hold, and KIND, the function's attributes. */

#ifndef MULTIPLY
/* sums[r][lane] of rows x step products: left[r * stride + k] * right[k * across + lane]. */
#define MULTIPLY(sums, left, stride, right, across, steps)                                        \
    do {                                                                                          \
        for (int r_ = 0; r_ < QUERIES; r_++)                                                      \
            for (int c_ = 0; c_ < REGISTERS; c_++)                                                \
                sums[r_][c_] = (simd){0};                                                         \
        for (int64_t k_ = 0; k_ < (steps); k_++) {                                                \
            const simd *from_ = (const simd *)((right) + k_ * (across));                          \
            _Pragma("GCC unroll 8") for (int r_ = 0; r_ < QUERIES; r_++)                          \
                _Pragma("GCC unroll 4") for (int c_ = 0; c_ < REGISTERS; c_++)                    \
                    sums[r_][c_] += (left)[r_ * (stride) + k_] * from_[c_];                       \
        }                                                                                         \
    } while (0)
#endif

KIND static void NAME(const struct attention *all, int64_t head)
{
    typedef float simd __attribute__((vector_size(4 * FLOATS), aligned(4), may_alias));
    enum { REGISTERS = LANES / FLOATS };
    int64_t size = all->keys.size, width = size * all->keys.heads, count = all->keys.count;
    int64_t padded = all->keys.padded, wide = rounded(size);
    const float *keys = all->keys.keys + head * size * padded;
    const float *values = all->keys.values + head * padded * wide;
    float *scores = all->memory + head * all->memory_of_head, *queries = scores + QUERIES * padded;
    float scale = 1.0f / sqrtf((float)size), row[LANES];
    simd sums[QUERIES][REGISTERS];
    for (int64_t start = 0; start < all->rows; start += QUERIES) {
        int rows = all->rows - start < QUERIES ? (int)(all->rows - start) : QUERIES;
        memset(queries, 0, (size_t)(QUERIES * size) * sizeof *queries);
        for (int r = 0; r < rows; r++)
            for (int64_t c = 0; c < size; c++)
                queries[r * size + c] =
                    all->queries[(start + r) * width + head * size + c] * scale;
        for (int64_t i = 0; i < padded; i += LANES) {
            MULTIPLY(sums, queries, size, keys + i, padded, size);
            for (int r = 0; r < QUERIES; r++)
                memcpy(scores + r * padded + i, sums[r], sizeof sums[r]);
        }
        for (int r = 0; r < rows; r++)
            softmax(scores + r * padded, count);
        for (int64_t c = 0; c < size; c += LANES) {
            int64_t some = size - c < LANES ? size - c : LANES;
            MULTIPLY(sums, scores, padded, values + c, wide, count);
            for (int r = 0; r < rows; r++) {
                memcpy(row, sums[r], sizeof row);
                memcpy(all->mixed + (start + r) * width + head * size + c, row,
                       (size_t)some * sizeof *row);
            }
        }
    }
}

#undef NAME
#undef FLOATS
#undef QUERIES
#undef KIND
