/* Products in float32: some rows by some outputs at a time, whose sums stay in registers.
 *
 * The Makefile lets products and sums be fused here: nothing is rounded to integers. */
#include "product.h"

#include <stdlib.h>
#include <string.h>

#include "vectors.h"

struct call {
    const struct product *product;
    int64_t panels, next;
    void (*multiply_panel)(const struct product *product, int64_t output, const float *panel);
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

#ifdef CRESS_X86
#define NAME multiply_panel_avx512
#define FLOATS 16
#define ROWS 8
#define KIND __attribute__((target("arch=x86-64-v4")))
#include "product_rows.h"
#define FLOATS 8
#define ROWS 6
#else
#define FLOATS 4
#define ROWS 4
#endif
#define NAME multiply_panel
#define KIND VECTORS
#include "product_rows.h"

static void multiply_panels(void *data)
{
    struct call *call = data;
    int64_t size = call->product->size, panel;
    float *memory = malloc((size_t)(size * (LANES + 1)) * sizeof *memory + 64);
    if (!memory) {
        __atomic_store_n(&call->out_of_memory, 1, __ATOMIC_RELAXED);
        return;
    }
    while ((panel = __atomic_fetch_add(&call->next, 1, __ATOMIC_RELAXED)) < call->panels) {
        lay_out(call->product, panel * LANES, memory, memory + size * LANES);
        call->multiply_panel(call->product, panel * LANES, memory);
    }
    free(memory);
}

void multiply(struct run *run, const struct product *product)
{
    struct call call = {.product = product, .panels = (product->out + LANES - 1) / LANES,
                        .multiply_panel = multiply_panel};
#ifdef CRESS_X86
    if (has_avx512(run))
        call.multiply_panel = multiply_panel_avx512;
#endif
    int threads = threads_for(run, product->rows * product->size * product->out);
    run_parallel(multiply_panels, &call, (unsigned)threads, 0);
    if (call.out_of_memory)
        fail(run->arena, "out of memory in a product");
}
