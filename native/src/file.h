/* A .cress file in memory: a safetensors file whose every offset and size has been checked. */
#ifndef CRESS_FILE_H
#define CRESS_FILE_H

#include "json.h"

enum dtype { DTYPE_U8, DTYPE_I8, DTYPE_F16, DTYPE_BF16, DTYPE_I32, DTYPE_F32, DTYPE_OTHER };
enum { MOST_DIMENSIONS = 4 };

struct tensor {
    const char *name;
    enum dtype dtype;
    int dimensions;
    int64_t shape[MOST_DIMENSIONS];
    int64_t count; /* of its elements */
    const void *data;
};

struct file {
    const void *start;
    size_t size;
    void *map; /* what file_close unmaps; NULL: the memory is the caller's */
    struct tensor *tensors; /* sorted by name */
    size_t count;
    const struct json *plan, *ties;
};

void file_open(struct arena *arena, struct file *file, const char *path);
/* Of bytes that stay where they are; ``name`` is for messages. */
void file_read(struct arena *arena, struct file *file, const void *bytes, size_t size,
               const char *name);
void file_close(struct file *file);

/* The tensor of a name, through its tie; NULL where there is none. */
const struct tensor *file_find(const struct file *file, const char *name);
/* The tensor PREFIX.SUFFIX of a shape (-1: any length), which must be there. */
const struct tensor *file_get(struct arena *arena, const struct file *file, const char *prefix,
                              const char *suffix, int dimensions, const int64_t *shape);
const struct tensor *file_find_part(struct arena *arena, const struct file *file,
                                    const char *prefix, const char *suffix);

/* A number of a floating-point tensor; all of them, as float32. */
float half_to_float(uint16_t half);
void to_floats(const struct tensor *tensor, int64_t first, int64_t count, float *to);
int is_floating(const struct tensor *tensor);

#endif
