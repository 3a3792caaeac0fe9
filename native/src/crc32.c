#include "crc32.h"

#include <string.h>

enum { AT_ONCE = 8 };

/* tables[n][byte]: what a byte does to the checksum n bytes later. */
static void make_tables(uint32_t tables[AT_ONCE][256])
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t value = byte;
        for (int bit = 0; bit < 8; bit++)
            value = value >> 1 ^ (value & 1 ? 0xedb88320u : 0);
        tables[0][byte] = value;
    }
    for (int n = 1; n < AT_ONCE; n++)
        for (int byte = 0; byte < 256; byte++)
            tables[n][byte] = tables[n - 1][byte] >> 8 ^ tables[0][tables[n - 1][byte] & 255];
}

uint32_t crc32_after(uint32_t before, const void *bytes, size_t count)
{
    uint32_t tables[AT_ONCE][256], value = ~before;
    const unsigned char *at = bytes;
    make_tables(tables);
    for (; count >= AT_ONCE; count -= AT_ONCE, at += AT_ONCE) {
        uint64_t word;
        memcpy(&word, at, sizeof word); /* little-endian, as the file's numbers */
        word ^= value;
        value = 0;
        for (int n = 0; n < AT_ONCE; n++)
            value ^= tables[AT_ONCE - 1 - n][word >> 8 * n & 255];
    }
    for (; count; count--, at++)
        value = value >> 8 ^ tables[0][(value ^ *at) & 255];
    return ~value;
}
