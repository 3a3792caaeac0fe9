/* Some rows by LANES outputs, whose sums stay in registers.
 *
 * Included once for each kind of vectors, with NAME, FLOATS of a vector, ROWS at once, and KIND, the
 * function's attributes.  A compiler makes poor code of vectors that are longer than registers. */
KIND static void NAME(const struct product *p, int64_t output, const float *panel)
{
    typedef float simd __attribute__((vector_size(4 * FLOATS), aligned(4), may_alias));
    enum { REGISTERS = LANES / FLOATS };
    int64_t some = p->out - output < LANES ? p->out - output : LANES;
    float scale[LANES], bias[LANES], row[LANES];
    for (int64_t i = 0; i < LANES; i++) {
        scale[i] = p->scale && i < some ? p->scale[output + i] : 1;
        bias[i] = p->bias && i < some ? p->bias[output + i] : 0;
    }
    for (int64_t start = 0; start < p->rows; start += ROWS) {
        int rows = p->rows - start < ROWS ? (int)(p->rows - start) : ROWS;
        const float *x[ROWS];
        simd sums[ROWS][REGISTERS];
        for (int r = 0; r < ROWS; r++) {
            x[r] = p->x + (start + (r < rows ? r : 0)) * p->step;
            for (int c = 0; c < REGISTERS; c++)
                sums[r][c] = (simd){0};
        }
        for (int64_t i = 0; i < p->size; i++) {
            const simd *weights = (const simd *)(panel + i * LANES);
            _Pragma("GCC unroll 8") for (int r = 0; r < ROWS; r++)
                _Pragma("GCC unroll 4") for (int c = 0; c < REGISTERS; c++)
                    sums[r][c] += x[r][i] * weights[c];
        }
        for (int r = 0; r < rows; r++) {
            for (int c = 0; c < REGISTERS; c++)
                ((simd *)row)[c] =
                    sums[r][c] * ((const simd *)scale)[c] + ((const simd *)bias)[c];
            memcpy(p->y + (start + r) * p->y_stride + output, row, (size_t)some * sizeof *row);
        }
    }
}

#undef NAME
#undef FLOATS
#undef ROWS
#undef KIND
