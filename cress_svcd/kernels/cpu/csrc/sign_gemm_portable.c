/* Plain C: the twin of the vector code, and what runs where there is none. */
#include "quantize.h"

void quantize_portable(const float *x, int64_t x_stride, int64_t in, const float *g,
                       struct quantized *quantized)
{
    quantize_rows(x, x_stride, in, g, quantized);
}

/* The bits of one output as bytes 0 and 1, in the order of the inputs. */
static void expand_output(const uint8_t *tiles, int64_t in_tiles, int output, int8_t *bits)
{
    for (int64_t half = 0; half < 2 * in_tiles; half++) {
        const uint8_t *word = tiles + half * (TILE_BYTES / 2) + 4 * output;
        for (int b = 0; b < 8; b++)
            for (int c = 0; c < 4; c++)
                bits[half * 32 + 4 * b + c] = (int8_t)((word[c] >> b) & 1);
    }
}

static int32_t dot(const int8_t *bits, const int8_t *values, int64_t count)
{
    int32_t total = 0;
    for (int64_t j = 0; j < count; j++)
        total += (int16_t)bits[j] * (int16_t)values[j];
    return total;
}

void multiply_portable(const uint8_t *tiles, int64_t in_tiles, int64_t first_tile, int64_t end_tile,
                       const struct quantized *quantized, const struct outputs *outputs, void *scratch)
{
    int8_t *bits = scratch;
    int num_parts = quantized->num_parts;
    int64_t end = end_tile * TILE_OUT < outputs->out ? end_tile * TILE_OUT : outputs->out;
    for (int64_t o = first_tile * TILE_OUT; o < end; o++) {
        const uint8_t *row = tiles + o / TILE_OUT * in_tiles * TILE_BYTES;
        expand_output(row, in_tiles, (int)(o % TILE_OUT), bits);
        float h = outputs->h ? outputs->h[o] : 1.0f;
        float bias = outputs->bias ? outputs->bias[o] : 0.0f;
        for (int64_t r = 0; r < quantized->count; r += num_parts) {
            float product = 0;
            for (int part = 0; part < num_parts; part++) {
                const int8_t *values = quantized->values + (r + part) * quantized->stride;
                int32_t sum = dot(bits, values, in_tiles * TILE_IN);
                product = product * 256 + (float)(2 * sum - quantized->sums[r + part]);
            }
            float *y = outputs->y + r / num_parts * outputs->y_stride;
            y[o] = product * quantized->scales[r / num_parts] * h + bias;
        }
    }
}
