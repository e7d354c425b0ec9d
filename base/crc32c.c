/* CRC32C by ISA-L, which picks the fastest version for the processor at its first call.
 *
 * crc32_iscsi() is the bare register: it inverts neither its initial value nor its result. Both inversions are done
 * here, so that a checksum handed to crc32c_extend() is the finished one of the bytes so far. */
#include "base/crc32c.h"

#include <isa-l/crc.h>

#define CHUNK_MAX (1u << 30) /* crc32_iscsi() takes an int */

uint32_t crc32c_extend(uint32_t crc, const void *p, size_t n)
{
    /* ISA-L's prototype lacks the const; it only reads. */
    unsigned char *at = (unsigned char *)(uintptr_t)p;
    crc = ~crc;
    while (n > 0) {
        size_t chunk = n < CHUNK_MAX ? n : CHUNK_MAX;
        crc = crc32_iscsi(at, (int)chunk, crc);
        at += chunk;
        n -= chunk;
    }
    return ~crc;
}

uint32_t crc32c(const void *p, size_t n)
{
    return crc32c_extend(0, p, n);
}
