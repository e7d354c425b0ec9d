/* malloc() for runs: pieces of one region, in size classes, whose freed pieces are used again first.
 *
 * Why: a run crashes processes without taking them down, so what they held must go with the run; and asking the kernel for memory over and over takes longer than the run itself.
 *
 * What always holds: outside of begin and end, and for pointers from outside of the region, libc's own functions do the work. One thread. */
#include "tests/sim/cluster/memory.h"

#include <assert.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)

bool memory_is_ours(void)
{
    return false;
}

void memory_begin(void)
{
}

void memory_end(void)
{
}

#else

extern void *__libc_malloc(size_t n);
extern void *__libc_calloc(size_t n, size_t size);
extern void *__libc_realloc(void *p, size_t n);
extern void *__libc_memalign(size_t align, size_t n);
extern void __libc_free(void *p);

#define REGION_BYTES (UINT64_C(1) << 36) /* addresses only; what is never touched costs nothing */
#define KEEP_BYTES (UINT64_C(256) << 20) /* what one run leaves to the next */
#define N_CLASSES 160u                   /* four to each power of two */

/* In front of every piece. */
struct head {
    uint32_t class_index;
    uint32_t aligned; /* to more than 16 bytes: it is used again for such ones only */
    uint64_t bytes;
};
static_assert(sizeof(struct head) == 16, "pieces are aligned to 16 bytes");

struct free_piece {
    struct free_piece *next;
};

static struct {
    uint8_t *base;
    uint64_t used, touched;
    bool active;
    struct free_piece *free[2][N_CLASSES];
} region;

/* Sizes 16, 32, 48, 64, then 80, 96, 112, 128, 160, ...: the class and its size. */
static uint32_t class_of(uint64_t n, uint64_t *ret_bytes)
{
    if (n <= 64) {
        uint32_t c = n ? (uint32_t)((n - 1) / 16) : 0;
        *ret_bytes = (c + 1) * 16;
        return c;
    }
    uint32_t power = 63u - (uint32_t)__builtin_clzll(n - 1); /* 2^power <= n - 1 */
    uint64_t quarter = UINT64_C(1) << (power - 2);
    uint32_t step = (uint32_t)((n - 1 - (UINT64_C(1) << power)) / quarter);
    *ret_bytes = (UINT64_C(1) << power) + (step + 1) * quarter;
    return 4 + (power - 6) * 4 + step;
}

static bool is_inside(const void *p)
{
    return (uint64_t)((const uint8_t *)p - region.base) < REGION_BYTES && region.base;
}

static struct head *head_of(void *p)
{
    return (struct head *)p - 1;
}

/* fresh: nobody has written to it since the kernel gave it, so it is zero. */
static void *take(uint64_t n, uint64_t align, bool *fresh)
{
    uint64_t bytes;
    uint32_t c = class_of(n, &bytes);
    assert(c < N_CLASSES);
    *fresh = false;
    uint32_t aligned = align > 16;
    struct free_piece **list = &region.free[aligned][c];
    if (*list && ((uintptr_t)*list & (align - 1)) == 0) {
        struct free_piece *p = *list;
        *list = p->next;
        *head_of(p) = (struct head){c, aligned, n};
        return p;
    }
    uint64_t at = region.used + sizeof(struct head);
    at = (at + align - 1) & ~(align - 1);
    if (at + bytes > REGION_BYTES)
        return NULL;
    *fresh = at >= region.touched;
    region.used = at + bytes;
    if (region.used > region.touched)
        region.touched = region.used;
    void *p = region.base + at;
    *head_of(p) = (struct head){c, aligned, n};
    return p;
}

static void give_back(void *p)
{
    struct head *h = head_of(p);
    struct free_piece **list = &region.free[h->aligned][h->class_index], *f = p;
    f->next = *list;
    *list = f;
}

void *malloc(size_t n)
{
    bool fresh;
    return region.active ? take(n, 16, &fresh) : __libc_malloc(n);
}

void free(void *p)
{
    if (!is_inside(p))
        __libc_free(p);
    else if (region.active)
        give_back(p);
}

void *calloc(size_t n, size_t size)
{
    if (!region.active)
        return __libc_calloc(n, size);
    size_t bytes;
    if (__builtin_mul_overflow(n, size, &bytes))
        return NULL;
    bool fresh;
    void *p = take(bytes, 16, &fresh);
    return p && !fresh ? memset(p, 0, bytes) : p;
}

void *realloc(void *p, size_t n)
{
    if (!region.active && !is_inside(p))
        return __libc_realloc(p, n);
    if (!p)
        return malloc(n);
    assert(region.active && is_inside(p)); /* what is from before the run stays as large as it is */
    uint64_t bytes, old = head_of(p)->bytes;
    if (class_of(n, &bytes) == head_of(p)->class_index) {
        head_of(p)->bytes = n;
        return p;
    }
    void *q = malloc(n);
    if (!q)
        return NULL;
    memcpy(q, p, old < n ? old : n);
    free(p);
    return q;
}

int posix_memalign(void **ret, size_t align, size_t n)
{
    bool fresh;
    void *p = region.active ? take(n, align < 16 ? 16 : align, &fresh) : __libc_memalign(align, n);
    if (!p)
        return ENOMEM;
    *ret = p;
    return 0;
}

void *aligned_alloc(size_t align, size_t n)
{
    void *p;
    return posix_memalign(&p, align, n) ? NULL : p;
}

bool memory_is_ours(void)
{
    return true;
}

void memory_begin(void)
{
    assert(!region.active);
    if (!region.base) {
        void *p = mmap(NULL, REGION_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED)
            abort();
        (void)madvise(p, REGION_BYTES, MADV_HUGEPAGE); /* a run goes through some ten MiB, a little everywhere */
        region.base = p;
    }
    region.active = true;
}

void memory_end(void)
{
    assert(region.active);
    region.active = false;
    region.used = 0;
    memset(region.free, 0, sizeof region.free);
    if (region.touched > KEEP_BYTES) {
        madvise(region.base + KEEP_BYTES, region.touched - KEEP_BYTES, MADV_DONTNEED);
        region.touched = KEEP_BYTES;
    }
}

#endif
