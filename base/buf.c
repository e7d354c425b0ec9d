/* The arena: buffers in size classes, carved from slabs, which are parts of chunks of memory.
 *
 * What always holds: a slab belongs to one class; its free buffers are in its own list, and it is in its class's list
 * of usable slabs exactly while it has a free buffer. A buffer with refs == 0 is in its slab's free list, any other is
 * not. A slab without a buffer in use goes to another class when that needs memory, so that a change of buffer sizes does
 * not hold the limit's worth of memory once per class; a chunk without a slab goes back to the system above the limit.
 *
 * A first touch of a page is a fault in the middle of a copy, dearer than the copy: hence chunks of the size of the
 * processor's large pages where the owner wants them, and reuse before anything new.
 *
 * With the address sanitizer the bytes of free buffers are poisoned: a use after the last unref is reported as such. */
#include "base/buf.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "base/list.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#define POISON(p, n) __asan_poison_memory_region((p), (n))
#define UNPOISON(p, n) __asan_unpoison_memory_region((p), (n))
#else
#define POISON(p, n) ((void)(p), (void)(n))
#define UNPOISON(p, n) ((void)(p), (void)(n))
#endif

/* 256 B, 1 KiB, then 4 KiB << i up to 2 MiB. */
#define N_CLASSES 12u
#define SMALL_SLAB_BYTES (64u << 10) /* from malloc, outside of chunks */
#define UNIT_BYTES (512u << 10)      /* chunks and larger slabs are so many of these */
#define CHUNK_UNITS_MAX 4u

static_assert(UNIT_BYTES * CHUNK_UNITS_MAX == BUF_MAX_BYTES, "the largest buffer takes a whole chunk");

struct buf_chunk {
    struct list link; /* in arena.chunks */
    uint8_t *mem;
    uint32_t units;
    uint32_t free; /* a bit per unit */
};

struct buf_slab {
    struct list all;    /* in arena.slabs */
    struct list usable; /* in arena.usable[class] while free != NULL, else by itself */
    struct list idle;   /* in arena.idle while n_used == 0, else by itself */
    struct buf *free;
    uint8_t *mem;
    struct buf_chunk *chunk; /* NULL: from malloc */
    uint32_t n, n_used;
    uint32_t bytes;
    uint32_t class_index;
    struct buf buf[];
};

struct arena {
    uint64_t limit_bytes;
    uint64_t used_bytes; /* capacities of buffers in use */
    uint64_t held_bytes; /* of all chunks and small slabs */
    bool huge_pages;
    struct list chunks; /* those with free units first */
    struct list slabs;
    struct list idle; /* slabs without a buffer in use */
    struct list usable[N_CLASSES];
};

static_assert((BLOCK_SIZE << (N_CLASSES - 3)) == BUF_MAX_BYTES, "the last class is the largest buffer");

static uint32_t class_bytes(uint32_t c)
{
    return c == 0 ? 256u : c == 1 ? 1024u : BLOCK_SIZE << (c - 2);
}

static uint32_t class_of(size_t len)
{
    if (len <= 256)
        return 0;
    if (len <= 1024)
        return 1;
    if (len <= BLOCK_SIZE)
        return 2;
    return 2 + (64u - (uint32_t)__builtin_clzll((unsigned long long)(len - 1) >> BLOCK_SHIFT));
}

struct arena *arena_new(uint64_t limit_bytes)
{
    struct arena *a = calloc(1, sizeof *a);
    if (!a)
        return NULL;
    a->limit_bytes = limit_bytes;
    list_init(&a->chunks);
    list_init(&a->slabs);
    list_init(&a->idle);
    for (uint32_t c = 0; c < N_CLASSES; c++)
        list_init(&a->usable[c]);
    return a;
}

void arena_use_huge_pages(struct arena *a)
{
    assert(list_empty(&a->chunks));
    a->huge_pages = true;
}

/* ---- chunks ---- */

/* The system's memory for a chunk: aligned to its own size when large pages are to back it. */
static uint8_t *chunk_memory(const struct arena *a, uint32_t bytes)
{
    void *mem;
    if (!a->huge_pages)
        return posix_memalign(&mem, BLOCK_SIZE, bytes) ? NULL : mem;
    uint8_t *at = mmap(NULL, 2 * (size_t)bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED)
        return NULL;
    size_t before = (bytes - (uintptr_t)at % bytes) % bytes;
    if (before)
        munmap(at, before);
    munmap(at + before + bytes, bytes - before);
    (void)madvise(at + before, bytes, MADV_HUGEPAGE); /* without them it works as well */
    return at + before;
}

static void chunk_free(struct arena *a, struct buf_chunk *k)
{
    uint32_t bytes = k->units * UNIT_BYTES;
    UNPOISON(k->mem, bytes);
    if (a->huge_pages)
        munmap(k->mem, bytes);
    else
        free(k->mem);
    a->held_bytes -= bytes;
    list_remove(&k->link);
    free(k);
}

static struct buf_chunk *chunk_new(struct arena *a, uint32_t units)
{
    struct buf_chunk *k = malloc(sizeof *k);
    if (!k)
        return NULL;
    *k = (struct buf_chunk){.units = a->huge_pages ? CHUNK_UNITS_MAX : units};
    k->free = (1u << k->units) - 1;
    k->mem = chunk_memory(a, k->units * UNIT_BYTES);
    if (!k->mem) {
        free(k);
        return NULL;
    }
    POISON(k->mem, k->units * UNIT_BYTES);
    a->held_bytes += k->units * UNIT_BYTES;
    list_push_front(&a->chunks, &k->link);
    return k;
}

/* Takes n units that lie together, if the chunk has them. */
static uint8_t *chunk_take(struct arena *a, struct buf_chunk *k, uint32_t n)
{
    uint32_t mask = (1u << n) - 1;
    for (uint32_t i = 0; i + n <= k->units; i++) {
        if ((k->free >> i & mask) != mask)
            continue;
        k->free &= ~(mask << i);
        list_remove(&k->link);
        if (k->free)
            list_push_front(&a->chunks, &k->link);
        else
            list_push_back(&a->chunks, &k->link);
        return k->mem + (size_t)i * UNIT_BYTES;
    }
    return NULL;
}

static uint8_t *units_find(struct arena *a, uint32_t n, struct buf_chunk **ret)
{
    list_for_each(l, &a->chunks)
    {
        struct buf_chunk *k = container_of(l, struct buf_chunk, link);
        uint8_t *mem = k->free ? chunk_take(a, k, n) : NULL;
        if (mem) {
            *ret = k;
            return mem;
        }
        if (!k->free)
            break; /* nor have those behind it */
    }
    return NULL;
}

/* ---- slabs ---- */

static void slab_free(struct arena *a, struct buf_slab *s)
{
    struct buf_chunk *k = s->chunk;
    list_remove(&s->all);
    list_remove(&s->usable);
    list_remove(&s->idle);
    if (k) {
        k->free |= ((1u << s->bytes / UNIT_BYTES) - 1) << (s->mem - k->mem) / UNIT_BYTES;
        list_remove(&k->link);
        list_push_front(&a->chunks, &k->link);
    } else {
        a->held_bytes -= s->bytes;
        UNPOISON(s->mem, s->bytes);
        free(s->mem);
    }
    free(s);
}

/* Takes every slab apart that has no buffer in use. */
static void slabs_trim(struct arena *a)
{
    list_for_each_safe(l, &a->idle) slab_free(a, container_of(l, struct buf_slab, idle));
}

/* ... and gives back what is a whole chunk then. */
static void arena_trim(struct arena *a)
{
    slabs_trim(a);
    list_for_each_safe(l, &a->chunks)
    {
        struct buf_chunk *k = container_of(l, struct buf_chunk, link);
        if (k->free == (1u << k->units) - 1)
            chunk_free(a, k);
    }
}

void arena_drop(struct arena *a)
{
    if (!a)
        return;
    list_for_each_safe (l, &a->slabs)
        slab_free(a, container_of(l, struct buf_slab, all));
    list_for_each_safe (l, &a->chunks)
        chunk_free(a, container_of(l, struct buf_chunk, link));
    assert(a->held_bytes == 0);
    free(a);
}

void arena_free(struct arena *a)
{
    assert(!a || a->used_bytes == 0);
    arena_drop(a);
}

uint64_t arena_used_bytes(const struct arena *a)
{
    return a->used_bytes;
}

uint64_t arena_limit_bytes(const struct arena *a)
{
    return a->limit_bytes;
}

/* Memory for a slab: what chunks have free, what other classes do not use, and something new at last. */
static uint8_t *slab_memory(struct arena *a, uint32_t bytes, struct buf_chunk **ret)
{
    uint32_t units = bytes / UNIT_BYTES;
    uint8_t *mem = units_find(a, units, ret);
    if (!mem && !list_empty(&a->idle)) {
        slabs_trim(a);
        mem = units_find(a, units, ret);
    }
    if (mem)
        return mem;
    if (a->held_bytes + bytes > a->limit_bytes)
        arena_trim(a);
    *ret = chunk_new(a, units);
    return *ret ? chunk_take(a, *ret, units) : NULL;
}

static uint8_t *small_slab_memory(struct arena *a)
{
    void *mem;
    if (posix_memalign(&mem, BLOCK_SIZE, SMALL_SLAB_BYTES))
        return NULL;
    POISON(mem, SMALL_SLAB_BYTES);
    a->held_bytes += SMALL_SLAB_BYTES;
    return mem;
}

static struct buf_slab *slab_new(struct arena *a, uint32_t c)
{
    uint32_t cap = class_bytes(c);
    uint32_t bytes = c < 2 ? SMALL_SLAB_BYTES : cap > UNIT_BYTES ? cap : UNIT_BYTES;
    uint32_t n = bytes / cap;
    struct buf_slab *s = calloc(1, sizeof *s + n * sizeof s->buf[0]);
    if (!s)
        return NULL;
    s->mem = c < 2 ? small_slab_memory(a) : slab_memory(a, bytes, &s->chunk);
    if (!s->mem) {
        free(s);
        return NULL;
    }
    s->n = n;
    s->bytes = bytes;
    s->class_index = c;
    for (uint32_t i = n; i-- > 0;) {
        s->buf[i] = (struct buf){.data = s->mem + (size_t)i * cap, .cap = cap, .arena = a, .slab = s, .next = s->free};
        s->free = &s->buf[i];
    }
    list_push_back(&a->slabs, &s->all);
    list_push_front(&a->usable[c], &s->usable);
    list_push_back(&a->idle, &s->idle);
    return s;
}

static struct buf *alloc_class(struct arena *a, uint32_t c)
{
    struct list *usable = &a->usable[c];
    struct buf_slab *s = list_empty(usable) ? slab_new(a, c) : container_of(usable->next, struct buf_slab, usable);
    if (!s)
        return NULL;
    struct buf *b = s->free;
    assert(b && b->refs == 0);
    s->free = b->next;
    if (!s->free)
        list_remove(&s->usable);
    if (s->n_used++ == 0)
        list_remove(&s->idle);
    b->next = NULL;
    b->refs = 1;
    a->used_bytes += b->cap;
    UNPOISON(b->data, b->cap);
    return b;
}

struct buf *buf_alloc(struct arena *a, size_t len)
{
    assert(len <= BUF_MAX_BYTES);
    uint32_t c = class_of(len);
    if (a->used_bytes + class_bytes(c) > a->limit_bytes)
        return NULL;
    return alloc_class(a, c);
}

struct buf *buf_alloc_must(struct arena *a, size_t len)
{
    assert(len <= BUF_MAX_BYTES);
    struct buf *b = alloc_class(a, class_of(len));
    if (!b) {
        fprintf(stderr, "out of memory: %zu bytes for work that must finish, %llu bytes in use\n", len,
                (unsigned long long)a->used_bytes);
        abort();
    }
    return b;
}

void buf_unref(struct buf *b)
{
    if (!b)
        return;
    assert(b->refs > 0);
    if (--b->refs)
        return;
    struct buf_slab *s = b->slab;
    struct arena *a = b->arena;
    POISON(b->data, b->cap);
    if (!s->free)
        list_push_front(&a->usable[s->class_index], &s->usable);
    b->next = s->free;
    s->free = b;
    assert(a->used_bytes >= b->cap && s->n_used > 0);
    a->used_bytes -= b->cap;
    if (--s->n_used == 0)
        list_push_back(&a->idle, &s->idle);
}
