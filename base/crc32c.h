/* CRC32C (Castagnoli, reflected, with the inversions of RFC 3720): crc32c("123456789") = 0xE3069283. */
#ifndef QBD_BASE_CRC32C_H
#define QBD_BASE_CRC32C_H

#include "base/types.h"

/* The checksum of n bytes. */
uint32_t crc32c(const void *p, size_t n);
/* The checksum of the bytes so far (crc) followed by n more. crc32c_extend(0, p, n) == crc32c(p, n). */
uint32_t crc32c_extend(uint32_t crc, const void *p, size_t n);

#define CRC32C_ZERO_BLOCK 0x98F94189u /* of 4096 zero bytes; a unit test holds it */

#endif
