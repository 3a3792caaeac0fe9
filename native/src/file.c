#include "file.h"

#include "crc32.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define FORMAT "cress"
#define VERSION "1"
#define VERSION_OF_SEVERAL "2" /* of several target languages */
enum { MOST_HEADER = 100000000, MOST_TENSORS = 1000000 };

static const struct {
    const char *name;
    enum dtype dtype;
    int bytes;
} dtypes[] = {
    {"U8", DTYPE_U8, 1},    {"I8", DTYPE_I8, 1},   {"F16", DTYPE_F16, 2},
    {"BF16", DTYPE_BF16, 2}, {"I32", DTYPE_I32, 4}, {"F32", DTYPE_F32, 4},
    {"BOOL", DTYPE_OTHER, 1}, {"I16", DTYPE_OTHER, 2}, {"U16", DTYPE_OTHER, 2},
    {"I64", DTYPE_OTHER, 8}, {"U64", DTYPE_OTHER, 8}, {"F64", DTYPE_OTHER, 8},
};

static void map_file(struct arena *arena, struct file *file, const char *path)
{
    int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe does not keep it waiting */
    struct stat about;
    if (descriptor < 0)
        fail(arena, "%s: cannot be opened (%s)", path, strerror(errno));
    if (fstat(descriptor, &about) || !S_ISREG(about.st_mode) || about.st_size < 8) {
        close(descriptor);
        fail(arena, "%s: is no .cress file, but a folder, a device or too short", path);
    }
    file->size = (size_t)about.st_size;
    void *map = mmap(NULL, file->size, PROT_READ, MAP_PRIVATE, descriptor, 0);
    close(descriptor);
    if (map == MAP_FAILED)
        fail(arena, "%s: cannot be mapped into memory (%s)", path, strerror(errno));
    file->start = file->map = map;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct tensor *)a)->name, ((const struct tensor *)b)->name);
}

static void read_tensor(struct arena *arena, const struct json *entry, const char *data,
                        uint64_t bytes, struct tensor *tensor, const char *path)
{
    const char *name = tensor->name = entry->key;
    const char *dtype = json_string(arena, entry, "dtype");
    const struct json *shape = json_get(arena, entry, "shape", JSON_LIST);
    const struct json *offsets = json_get(arena, entry, "data_offsets", JSON_LIST);
    uint64_t size = 0;
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++)
        if (!strcmp(dtypes[i].name, dtype)) {
            tensor->dtype = dtypes[i].dtype;
            size = (uint64_t)dtypes[i].bytes;
        }
    if (!size || shape->length > MOST_DIMENSIONS || offsets->length != 2)
        fail(arena, "%s: the tensor %.100s is of an unknown type or form", path, name);
    uint64_t count = 1;
    for (const struct json *item = shape->items; item; item = item->next) {
        if (item->kind != JSON_NUMBER || !(item->number >= 0 && item->number <= 2147483647.0) ||
            __builtin_mul_overflow(count, (uint64_t)item->number, &count))
            fail(arena, "%s: the tensor %.100s has an impossible shape", path, name);
        tensor->shape[tensor->dimensions++] = (int64_t)item->number;
    }
    double begin = offsets->items->number, end = offsets->items->next->number;
    if (offsets->items->kind != JSON_NUMBER || offsets->items->next->kind != JSON_NUMBER ||
        !(begin >= 0 && begin <= end && end <= (double)bytes) || count > bytes ||
        (uint64_t)end - (uint64_t)begin != count * size)
        fail(arena, "%s: the tensor %.100s lies outside the file, or is of another size", path,
             name);
    tensor->count = (int64_t)count;
    tensor->data = data + (uint64_t)begin;
    /* What is read as numbers of several bytes must lie as such in memory. */
    if ((uintptr_t)tensor->data % (size > 4 ? 4 : size))
        fail(arena, "%s: the tensor %.100s is not aligned", path, name);
}

static const struct json *metadata_json(struct arena *arena, const struct json *metadata,
                                        const char *key, const char *path)
{
    const struct json *text = json_find(metadata, key);
    if (!text || text->kind != JSON_STRING)
        fail(arena, "%s: its metadata lacks %s", path, key);
    return json_parse(arena, text->text, text->length, path);
}

/* Entries of the metadata; a file of before there was a checksum has none. */
static const char *const known[] = {"format", "version", "state", "ties", "plan", "crc32"};
enum { DIGITS = 8 };

/* The checksum is that of the whole file, its own digits taken for zeros. */
static void check_sum(struct arena *arena, const struct file *file, size_t header,
                      const struct json *metadata, const char *path)
{
    static const char start[] = "\"crc32\":\"";
    const char *content = file->start, *at;
    for (const struct json *entry = metadata->items; entry; entry = entry->next) {
        size_t i = 0;
        while (i < sizeof known / sizeof *known && strcmp(entry->key, known[i]))
            i++;
        if (i == sizeof known / sizeof *known)
            fail(arena, "%s: is damaged: its metadata has an unknown entry", path);
    }
    const struct json *stated = json_find(metadata, "crc32");
    if (!stated)
        return;
    /* Within strings quotes have backslashes before them. */
    size_t length = sizeof start - 1, rest = header;
    for (at = content + 8; rest > length + DIGITS && memcmp(at, start, length); at++)
        rest--;
    if (rest <= length + DIGITS || stated->kind != JSON_STRING || stated->length != DIGITS)
        fail(arena, "%s: is damaged: its checksum is no number", path);
    at += length;
    uint32_t sum = crc32_after(0, content, (size_t)(at - content));
    sum = crc32_after(sum, "00000000", DIGITS);
    sum = crc32_after(sum, at + DIGITS, file->size - (size_t)(at + DIGITS - content));
    char digits[DIGITS + 1];
    snprintf(digits, sizeof digits, "%08x", (unsigned)sum);
    if (memcmp(digits, at, DIGITS))
        fail(arena, "%s: is damaged: it has the checksum %s, and says %.8s; copy or export it again",
             path, digits, stated->text);
}

static void read_header(struct arena *arena, struct file *file, const char *path)
{
    const unsigned char *start = file->start;
    uint64_t header = 0;
    if (!memcmp(start, "PK\3\4", 4))
        fail(arena, "%s: is a checkpoint of PyTorch; 'cress-svcd export' makes a .cress file of a "
                    "packed one", path);
    if (!memcmp(start, "RIFF", 4))
        fail(arena, "%s: is a recording; expected a .cress file of 'cress-svcd export'", path);
    for (int i = 7; i >= 0; i--)
        header = header << 8 | start[i];
    if (header > MOST_HEADER || header > file->size - 8 || !header || start[8] != '{')
        fail(arena, "%s: is no .cress file of 'cress-svcd export', or is truncated", path);
    const char *data = (const char *)start + 8 + header;
    uint64_t bytes = file->size - 8 - header;
    const struct json *root = json_parse(arena, (const char *)start + 8, header, path);
    const struct json *metadata = json_find(root, "__metadata__");
    const struct json *format = json_find(metadata, "format");
    const struct json *version = json_find(metadata, "version");
    if (!format || format->kind != JSON_STRING || strcmp(format->text, FORMAT))
        fail(arena, "%s: is no .cress file; expected one of 'cress-svcd export'", path);
    const char *found = version && version->kind == JSON_STRING ? version->text : "none";
    if (strcmp(found, VERSION) && strcmp(found, VERSION_OF_SEVERAL))
        fail(arena, "%s: is of format version %.20s, and this library reads versions %s and %s",
             path, found, VERSION, VERSION_OF_SEVERAL);
    check_sum(arena, file, header, metadata, path);
    if (root->length > MOST_TENSORS)
        fail(arena, "%s: holds too many tensors", path);
    file->tensors = take_zeros(arena, root->length, sizeof *file->tensors);
    for (const struct json *entry = root->items; entry; entry = entry->next)
        if (strcmp(entry->key, "__metadata__"))
            read_tensor(arena, entry, data, bytes, &file->tensors[file->count++], path);
    qsort(file->tensors, file->count, sizeof *file->tensors, by_name);
    file->plan = metadata_json(arena, metadata, "plan", path);
    file->ties = metadata_json(arena, metadata, "ties", path);
}

void file_open(struct arena *arena, struct file *file, const char *path)
{
    map_file(arena, file, path);
    read_header(arena, file, path);
}

void file_read(struct arena *arena, struct file *file, const void *bytes, size_t size,
               const char *name)
{
    if (size < 8)
        fail(arena, "%s: is no .cress file, but too short", name);
    file->start = bytes;
    file->size = size;
    read_header(arena, file, name);
}

void file_close(struct file *file)
{
    if (file->map)
        munmap(file->map, file->size);
    file->map = NULL;
}

static const struct tensor *find_stored(const struct file *file, const char *name)
{
    struct tensor key = {.name = name};
    return bsearch(&key, file->tensors, file->count, sizeof key, by_name);
}

const struct tensor *file_find(const struct file *file, const char *name)
{
    const struct tensor *found = find_stored(file, name);
    const struct json *tie = found ? NULL : json_find(file->ties, name);
    return tie && tie->kind == JSON_STRING ? find_stored(file, tie->text) : found;
}

static void join(struct arena *arena, char name[512], const char *prefix, const char *suffix)
{
    if (snprintf(name, 512, "%s.%s", prefix, suffix) >= 512)
        fail(arena, "the name %.100s… is too long", prefix);
}

const struct tensor *file_find_part(struct arena *arena, const struct file *file,
                                    const char *prefix, const char *suffix)
{
    char name[512];
    join(arena, name, prefix, suffix);
    return file_find(file, name);
}

const struct tensor *file_get(struct arena *arena, const struct file *file, const char *prefix,
                              const char *suffix, int dimensions, const int64_t *shape)
{
    const struct tensor *found = file_find_part(arena, file, prefix, suffix);
    if (!found)
        fail(arena, "the tensor %.200s.%s is missing", prefix, suffix);
    int fits = found->dimensions == dimensions;
    for (int i = 0; fits && i < dimensions; i++)
        fits = shape[i] < 0 || shape[i] == found->shape[i];
    if (!fits)
        fail(arena, "the tensor %.200s.%s has another shape than the plan says", prefix, suffix);
    return found;
}

float half_to_float(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, rest = half & 0x7fff, bits;
    float value;
    if (rest >= 0x7c00) { /* infinity, NaN */
        bits = sign | 0x7f800000 | (rest & 0x3ff) << 13;
    } else if (rest >= 0x400) {
        bits = sign | ((rest << 13) + ((127 - 15) << 23));
    } else { /* below 2^-14: an integer times 2^-24 */
        value = (float)rest * 0x1p-24f;
        memcpy(&bits, &value, sizeof bits);
        bits |= sign;
    }
    memcpy(&value, &bits, sizeof value);
    return value;
}

int is_floating(const struct tensor *tensor)
{
    return tensor->dtype == DTYPE_F32 || tensor->dtype == DTYPE_F16 || tensor->dtype == DTYPE_BF16;
}

void to_floats(const struct tensor *tensor, int64_t first, int64_t count, float *to)
{
    const uint16_t *halves = (const uint16_t *)tensor->data + first;
    if (tensor->dtype == DTYPE_F32) {
        memcpy(to, (const float *)tensor->data + first, (size_t)count * sizeof *to);
    } else if (tensor->dtype == DTYPE_F16) {
        for (int64_t i = 0; i < count; i++)
            to[i] = half_to_float(halves[i]);
    } else if (tensor->dtype == DTYPE_BF16) {
        for (int64_t i = 0; i < count; i++) {
            uint32_t bits = (uint32_t)halves[i] << 16;
            memcpy(&to[i], &bits, sizeof bits);
        }
    } else {
        for (int64_t i = 0; i < count; i++)
            to[i] = ((const int8_t *)tensor->data)[first + i];
    }
}
