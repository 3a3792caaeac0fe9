/* Runs the kernels over odd shapes in memory that ends where it should, for sanitizers.
 *
 * Exits with 1 and a line on stderr where an instruction set disagrees with the formula. */
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "sign_matmul.h"

typedef void parallel_function(void (*work)(void *), void *data, unsigned threads, unsigned flags);
int cress_supported(int isa);
int cress_sign_matmul(const float *x, int64_t rows, int64_t x_stride, const uint8_t *tiles,
                      int64_t in, int64_t out, const float *g, const float *h, const float *bias,
                      float *y, int planes, int isa, int threads, parallel_function *parallel);

struct start {
    void (*work)(void *);
    void *data;
};

static void *run(void *argument)
{
    struct start *start = argument;
    start->work(start->data);
    return NULL;
}

static void in_threads(void (*work)(void *), void *data, unsigned count, unsigned flags)
{
    (void)flags;
    pthread_t threads[8];
    struct start start = {work, data};
    for (unsigned i = 0; i < count; i++)
        if (pthread_create(&threads[i], NULL, run, &start))
            abort();
    for (unsigned i = 0; i < count; i++)
        pthread_join(threads[i], NULL);
}

static float random_float(void)
{
    return (float)rand() / (float)RAND_MAX * 2 - 1;
}

static float *random_floats(int64_t count)
{
    float *values = malloc((size_t)count * sizeof *values);
    for (int64_t i = 0; i < count; i++)
        values[i] = random_float();
    return values;
}

static int bit(const uint8_t *tiles, int64_t in_tiles, int64_t o, int64_t j)
{
    const uint8_t *tile = tiles + (o / 16 * in_tiles + j / 64) * TILE_BYTES;
    const uint8_t *word = tile + j % 64 / 32 * (TILE_BYTES / 2) + o % 16 * 4;
    return word[j % 4] >> (j % 32 / 4) & 1;
}

static int check(int64_t rows, int64_t in, int64_t out, int planes, int isa, int threads)
{
    int64_t in_tiles = (in + 63) / 64, out_tiles = (out + 15) / 16, stride = in + 3;
    int64_t bytes = in_tiles * out_tiles * TILE_BYTES;
    float *x = random_floats((rows - 1) * stride + in), *g = random_floats(in);
    float *h = random_floats(out), *bias = random_floats(out), *y = random_floats(rows * out);
    uint8_t *tiles = malloc((size_t)bytes);
    for (int64_t i = 0; i < bytes; i++)
        tiles[i] = (uint8_t)rand();
    int plain = (int)(rows % 2);
    int status = cress_sign_matmul(x, rows, stride, tiles, in, out, plain ? NULL : g,
                                   plain ? NULL : h, plain ? NULL : bias, y, planes, isa, threads,
                                   in_threads);
    double top = planes == 1 ? 127 : 32639;
    for (int64_t r = 0; r < rows && !status; r++) {
        float largest = 0;
        for (int64_t j = 0; j < in; j++)
            largest = fmaxf(largest, fabsf(plain ? x[r * stride + j] : x[r * stride + j] * g[j]));
        for (int64_t o = 0; o < out; o++) {
            double exact = 0;
            for (int64_t j = 0; j < in; j++) {
                double z = plain ? x[r * stride + j] : x[r * stride + j] * g[j];
                exact += bit(tiles, in_tiles, o, j) ? z : -z;
            }
            double allowed = 0.51 * largest / top * (double)in + 1e-5 * (double)in;
            double expected = plain ? exact : exact * h[o] + bias[o];
            if (!(fabs(y[r * out + o] - expected) <= allowed)) {
                fprintf(stderr, "isa %d rows %ld in %ld out %ld planes %d: %g is not %g\n", isa,
                        (long)rows, (long)in, (long)out, planes, y[r * out + o], expected);
                status = 1;
                break;
            }
        }
    }
    free(x), free(g), free(h), free(bias), free(y), free(tiles);
    return status;
}

int main(void)
{
    const int64_t rows[] = {1, 2, 3, 4, 5, 11, 12, 13, 16, 17, 33, 70};
    const int64_t sizes[][2] = {{1, 1}, {3, 17}, {64, 16}, {65, 33}, {129, 100}, {200, 161}};
    int failed = 0;
    for (int isa = 0; isa < ISA_COUNT; isa++) {
        if (!cress_supported(isa))
            continue;
        printf("%d ", isa);
        for (size_t r = 0; r < sizeof rows / sizeof *rows; r++)
            for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
                for (int planes = 1; planes <= 2; planes++)
                    for (int threads = 1; threads <= 3; threads += 2)
                        failed |= check(rows[r], sizes[s][0], sizes[s][1], planes, isa, threads);
    }
    printf("checked\n");
    return failed != 0;
}
