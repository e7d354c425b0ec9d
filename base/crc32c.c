/* CRC32C by ISA-L, which picks the fastest version for the processor at its first call.
 *
 * crc32_iscsi() is the bare register: it inverts neither its initial value nor its result. Both inversions are done
 * here, so that a checksum handed to crc32c_extend() is the finished one of the bytes so far. */
#include "base/crc32c.h"

#include <isa-l/crc.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define CHUNK_MAX (1u << 30) /* crc32_iscsi() takes an int */

/* ISA-L's AVX-512 version returns without VZEROUPPER. With the upper halves of vector registers in use every SSE
 * instruction has to merge with them, so that code which has nothing to do with checksums is slower from then on, all of
 * it. A function of its own: only there may the compiler use AVX, and its callers know of no vector register that
 * outlives a call. */
#if defined(__x86_64__)
__attribute__((target("avx"), noinline)) static void clear_upper_halves(void)
{
    _mm256_zeroupper();
}
#endif

static void forget_upper_halves(void)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx"))
        clear_upper_halves();
#endif
}

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
    forget_upper_halves();
    return ~crc;
}

uint32_t crc32c(const void *p, size_t n)
{
    return crc32c_extend(0, p, n);
}
