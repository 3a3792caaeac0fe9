/* Products in float32: some rows by some outputs at a time, whose sums stay in registers.
 *
 * The Makefile lets products and sums be fused here: nothing is rounded to integers. */
#include "product.h"

#include <stdlib.h>
#include <string.h>

#include "vectors.h"

enum { ROWS = 4, WIDE_ROWS = 8 /* where a register holds all lanes */ };

struct call {
    const struct product *product;
    int64_t panels, next;
    int out_of_memory;
};

/* The weights of LANES outputs as size x LANES. */
static void lay_out(const struct product *product, int64_t output, float *panel, float *row)
{
    int64_t size = product->size;
    for (int64_t lane = 0; lane < LANES; lane++) {
        const float *weight = row;
        if (output + lane >= product->out)
            memset(row, 0, (size_t)size * sizeof *row);
        else if (product->floats)
            weight = product->floats + (output + lane) * size;
        else
            to_floats(product->weight, product->first + (output + lane) * size, size, row);
        for (int64_t i = 0; i < size; i++)
            panel[i * LANES + lane] = weight[i];
    }
}

/* ``at_once``, a constant: rows whose sums the registers hold. */
static inline __attribute__((always_inline)) void multiply_rows(const struct product *p,
                                                                int64_t output, const float *panel,
                                                                const int at_once)
{
    int64_t some = p->out - output < LANES ? p->out - output : LANES;
    float scale[LANES], bias[LANES], row[LANES];
    for (int64_t i = 0; i < LANES; i++) {
        scale[i] = p->scale && i < some ? p->scale[output + i] : 1;
        bias[i] = p->bias && i < some ? p->bias[output + i] : 0;
    }
    for (int64_t start = 0; start < p->rows; start += at_once) {
        int rows = p->rows - start < at_once ? (int)(p->rows - start) : at_once;
        const float *x[WIDE_ROWS];
        piece sums[WIDE_ROWS][PIECES];
        for (int r = 0; r < at_once; r++) {
            x[r] = p->x + (start + (r < rows ? r : 0)) * p->step;
            for (int c = 0; c < PIECES; c++)
                sums[r][c] = (piece){0};
        }
        for (int64_t i = 0; i < p->size; i++) {
            const piece *weights = (const piece *)(panel + i * LANES);
            _Pragma("GCC unroll 8") for (int r = 0; r < at_once; r++)
                _Pragma("GCC unroll 4") for (int c = 0; c < PIECES; c++)
                    sums[r][c] += x[r][i] * weights[c];
        }
        for (int r = 0; r < rows; r++) {
            for (int c = 0; c < PIECES; c++)
                ((piece *)row)[c] =
                    sums[r][c] * ((const piece *)scale)[c] + ((const piece *)bias)[c];
            memcpy(p->y + (start + r) * p->y_stride + output, row, (size_t)some * sizeof *row);
        }
    }
}

VECTORS static void multiply_panel(const struct product *p, int64_t output, const float *panel,
                                   int wide)
{
    if (wide)
        multiply_rows(p, output, panel, WIDE_ROWS);
    else
        multiply_rows(p, output, panel, ROWS);
}

static void multiply_panels(void *data)
{
    struct call *call = data;
    int64_t size = call->product->size, panel;
    int wide = cress_supported(ISA_AVX512_VNNI);
    float *memory = malloc((size_t)(size * (LANES + 1)) * sizeof *memory + 64);
    if (!memory) {
        __atomic_store_n(&call->out_of_memory, 1, __ATOMIC_RELAXED);
        return;
    }
    while ((panel = __atomic_fetch_add(&call->next, 1, __ATOMIC_RELAXED)) < call->panels) {
        lay_out(call->product, panel * LANES, memory, memory + size * LANES);
        multiply_panel(call->product, panel * LANES, memory, wide);
    }
    free(memory);
}

void multiply(struct run *run, const struct product *product)
{
    struct call call = {.product = product, .panels = (product->out + LANES - 1) / LANES};
    int threads = threads_for(run, product->rows * product->size * product->out);
    run_parallel(multiply_panels, &call, (unsigned)threads, 0);
    if (call.out_of_memory)
        fail(run->arena, "out of memory in a product");
}
