/* The checksum of zip and PNG (CRC-32, polynomial 0xedb88320), of pieces one after the other. */
#ifndef CRESS_CRC32_H
#define CRESS_CRC32_H

#include <stddef.h>
#include <stdint.h>

/* ``before`` is that of the bytes before these; 0 at the beginning. */
uint32_t crc32_after(uint32_t before, const void *bytes, size_t count);

#endif
