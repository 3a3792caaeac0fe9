/* Runs the kernels over odd shapes in memory that ends where it should, for sanitizers.
 *
 * Exits with 1 and a line on stderr where an instruction set disagrees with the formula. */
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "sign_gemm.h"
#include "conv1d.h"

typedef void parallel_function(void (*work)(void *), void *data, unsigned threads, unsigned flags);
int cress_supported(int isa);
int cress_sign_gemm(const float *x, int64_t rows, int64_t x_stride, const uint8_t *tiles,
                      int64_t in, int64_t out, const float *g, const float *h, const float *bias,
                      float *y, int num_parts, int isa, int threads, parallel_function *parallel);

int cress_conv1d_supported(int isa);
int cress_conv1d(const struct conv1d *conv, int isa, int threads,
                  parallel_function *parallel);

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
#ifdef __EMSCRIPTEN__ /* without threads, one does it all */
    (void)run, (void)count;
    work(data);
#else
    pthread_t threads[8];
    struct start start = {work, data};
    for (unsigned i = 0; i < count; i++)
        if (pthread_create(&threads[i], NULL, run, &start))
            abort();
    for (unsigned i = 0; i < count; i++)
        pthread_join(threads[i], NULL);
#endif
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

static int check(int64_t rows, int64_t in, int64_t out, int num_parts, int isa, int threads)
{
    int64_t in_tiles = (in + 63) / 64, out_tiles = (out + 15) / 16, stride = in + 3;
    int64_t bytes = in_tiles * out_tiles * TILE_BYTES;
    float *x = random_floats((rows - 1) * stride + in), *g = random_floats(in);
    float *h = random_floats(out), *bias = random_floats(out), *y = random_floats(rows * out);
    uint8_t *tiles = malloc((size_t)bytes);
    for (int64_t i = 0; i < bytes; i++)
        tiles[i] = (uint8_t)rand();
    int plain = (int)(rows % 2);
    int status = cress_sign_gemm(x, rows, stride, tiles, in, out, plain ? NULL : g,
                                   plain ? NULL : h, plain ? NULL : bias, y, num_parts, isa, threads,
                                   in_threads);
    double qmax = num_parts == 1 ? 127 : 32639;
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
            double allowed = 0.51 * largest / qmax * (double)in + 1e-5 * (double)in;
            double expected = plain ? exact : exact * h[o] + bias[o];
            if (!(fabs(y[r * out + o] - expected) <= allowed)) {
                fprintf(stderr, "isa %d rows %ld in %ld out %ld num_parts %d: %g is not %g\n", isa,
                        (long)rows, (long)in, (long)out, num_parts, y[r * out + o], expected);
                status = 1;
                break;
            }
        }
    }
    free(x), free(g), free(h), free(bias), free(y), free(tiles);
    return status;
}

/* Weights of ``type``: small integers, which every type holds exactly, and zeros of padding. */
static void *random_weights(int64_t blocks, int64_t steps, int64_t inputs, int type, float *values)
{
    int64_t count = blocks * BLOCK;
    uint16_t *halves = malloc((size_t)count * 2);
    int8_t *q = malloc((size_t)count);
    for (int64_t i = 0; i < count; i++) {
        int64_t input = i / BLOCK % steps * 32 + i % BLOCK / 32 * 2 + i % 2;
        q[i] = (int8_t)(input < inputs ? rand() % 3 - 1 : 0);
        values[i] = q[i];
        uint16_t one = type == WEIGHT_BF16 ? 0x3f80 : 0x3c00;
        halves[i] = (uint16_t)(q[i] ? one | (q[i] < 0 ? 0x8000 : 0) : 0);
    }
    free(type == WEIGHT_INT8 ? (void *)halves : (void *)q);
    return type == WEIGHT_INT8 ? (void *)q : (void *)halves;
}

/* int8 weights of the tiled layout, which are freed, as rows. */
static int8_t *in_rows(const struct conv1d *w, int8_t *tiled)
{
    int64_t inputs = w->kernel_size * w->channels, steps = conv1d_steps(w);
    int8_t *rows = malloc((size_t)(w->groups * w->out * inputs));
    for (int64_t o = 0; o < w->groups * w->out; o++)
        for (int64_t j = 0; j < inputs; j++) {
            int64_t own = o % w->out, tile = o / w->out * conv1d_out_tiles(w) + own / 16;
            int64_t block = (tile * steps + j / 32) * BLOCK;
            rows[o * inputs + j] = tiled[block + (j % 32 / 2 * 16 + own % 16) * 2 + j % 2];
        }
    free(tiled);
    return rows;
}

static int check_conv1d(struct conv1d w, int isa, int threads)
{
    int64_t across = w.groups * w.out, width = w.groups * w.channels;
    int64_t steps = conv1d_steps(&w), tiles = conv1d_out_tiles(&w);
    int64_t blocks = w.groups * tiles * steps;
    float *values = malloc((size_t)(blocks * BLOCK) * sizeof *values);
    void *weights = random_weights(blocks, steps, w.kernel_size * w.channels, w.weight_type,
                                   values);
    if (w.weights_in_rows)
        weights = in_rows(&w, weights);
    float *x = random_floats(w.batch * w.frames * width);
    float *scale = random_floats(across), *bias = random_floats(across);
    float *y = random_floats(w.batch * w.count * across);
    w.x = x, w.weights = weights, w.scale = scale, w.y = y;
    w.bias = w.kernel_size % 2 ? bias : NULL;
    w.x_stride = width, w.x_batch_stride = w.frames * width, w.y_batch_stride = w.count * across;
    int status = cress_conv1d(&w, isa, threads, in_threads);
    for (int64_t place = 0; place < w.batch * w.count * across && !status; place++) {
        int64_t o = place % across, t = place / across % w.count, b = place / across / w.count;
        int64_t group = o / w.out, own = o % w.out;
        double exact = 0;
        for (int64_t j = 0; j < w.kernel_size * w.channels; j++) {
            int64_t frame = t * w.stride - w.padding + j / w.channels;
            int64_t tile = (group * tiles + own / 16) * steps + j / 32;
            float weight = values[tile * BLOCK + (j % 32 / 2 * 16 + own % 16) * 2 + j % 2];
            if (frame >= 0 && frame < w.frames)
                exact += weight * x[(b * w.frames + frame) * width + group * w.channels +
                                    j % w.channels];
        }
        exact = exact * scale[o] + (w.bias ? bias[o] : 0);
        if (w.gelu)
            exact *= 0.5 * (1 + erf(exact * sqrt(0.5)));
        double allowed = (w.num_parts == 2 ? 1e-5 : 5e-3) * (double)(w.kernel_size * w.channels);
        if (!(fabs(y[place] - exact) <= allowed)) {
            fprintf(stderr, "isa %d conv1d of kernel_size %ld, type %d: %g is not %g\n", isa,
                    (long)w.kernel_size, w.weight_type, y[place], exact);
            status = 1;
        }
    }
    free(values), free(weights), free(x), free(scale), free(bias), free(y);
    return status;
}

static int check_all_conv1d(int isa)
{
    const struct conv1d shapes[] = {
        {.batch = 1, .frames = 1, .groups = 1, .channels = 1, .out = 1, .kernel_size = 1, .stride = 1,
         .count = 1},
        {.batch = 2, .frames = 200, .groups = 1, .channels = 1, .out = 20, .kernel_size = 10, .stride = 5,
         .count = 39},
        {.batch = 2, .frames = 70, .groups = 1, .channels = 33, .out = 48, .kernel_size = 3, .stride = 2,
         .padding = 1, .count = 35},
        {.batch = 1, .frames = 21, .groups = 3, .channels = 5, .out = 17, .kernel_size = 8, .stride = 1,
         .padding = 4, .count = 22},
        {.batch = 1, .frames = 3, .groups = 1, .channels = 70, .out = 100, .kernel_size = 9, .stride = 3,
         .padding = 9, .count = 5},
        {.batch = 2, .frames = 37, .groups = 2, .channels = 20, .out = 40, .kernel_size = 5, .stride = 2,
         .padding = 2, .count = 19},
        {.batch = 1, .frames = 90, .groups = 1, .channels = 64, .out = 16, .kernel_size = 3, .stride = 1,
         .count = 88},
    };
    int failed = 0;
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (int type = 0; type < WEIGHT_COUNT; type++)
            for (int num_parts = 1; num_parts <= 2; num_parts++)
                for (int threads = 1; threads <= 5; threads += 2) {
                    struct conv1d w = shapes[s];
                    w.weight_type = type, w.num_parts = num_parts, w.gelu = threads == 3;
                    failed |= check_conv1d(w, isa, threads);
                    w.weights_in_rows = isa == ISA_AVX512_VNNI && conv1d_in_integers(&w);
                    if (w.weights_in_rows)
                        failed |= check_conv1d(w, isa, threads);
                }
    return failed;
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
                for (int num_parts = 1; num_parts <= 2; num_parts++)
                    for (int threads = 1; threads <= 3; threads += 2)
                        failed |= check(rows[r], sizes[s][0], sizes[s][1], num_parts, isa, threads);
    }
    for (int isa = 0; isa < ISA_COUNT; isa++)
        if (cress_conv1d_supported(isa)) {
            printf("conv1d:%d ", isa);
            failed |= check_all_conv1d(isa);
        }
    printf("checked\n");
    return failed != 0;
}
