/* The arena: buffers in size classes, carved from slabs that are allocated as a whole.
 *
 * What always holds: a slab belongs to one class; its free buffers are in its own list, and it is in its class's list
 * of usable slabs exactly while it has a free buffer. A buffer with refs == 0 is in its slab's free list, any other is
 * not. Memory that is held beyond what is in use comes back to the system when another class needs it, so that a change
 * of buffer sizes does not hold the limit's worth of memory once per class.
 *
 * With the address sanitizer the bytes of free buffers are poisoned: a use after the last unref is reported as such. */
#include "base/buf.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

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
#define SMALL_SLAB_BYTES (64u << 10)
#define SLAB_BYTES (512u << 10)

struct buf_slab {
    struct list all;    /* in arena.slabs */
    struct list usable; /* in arena.usable[class] while free != NULL, else by itself */
    struct buf *free;
    uint8_t *mem;
    uint32_t n, n_used;
    uint32_t bytes;
    uint32_t class_index;
    struct buf buf[];
};

struct arena {
    uint64_t limit_bytes;
    uint64_t used_bytes; /* capacities of buffers in use */
    uint64_t held_bytes; /* of all slabs */
    uint64_t idle_bytes; /* of slabs without a buffer in use */
    struct list slabs;
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
    list_init(&a->slabs);
    for (uint32_t c = 0; c < N_CLASSES; c++)
        list_init(&a->usable[c]);
    return a;
}

static void slab_free(struct arena *a, struct buf_slab *s)
{
    list_remove(&s->all);
    list_remove(&s->usable);
    a->held_bytes -= s->bytes;
    UNPOISON(s->mem, s->bytes);
    free(s->mem);
    free(s);
}

void arena_drop(struct arena *a)
{
    if (!a)
        return;
    list_for_each_safe (l, &a->slabs)
        slab_free(a, container_of(l, struct buf_slab, all));
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

/* Gives back every slab that has no buffer in use. */
static void arena_trim(struct arena *a)
{
    list_for_each_safe (l, &a->slabs) {
        struct buf_slab *s = container_of(l, struct buf_slab, all);
        if (s->n_used)
            continue;
        a->idle_bytes -= s->bytes;
        slab_free(a, s);
    }
    assert(a->idle_bytes == 0);
}

static struct buf_slab *slab_new(struct arena *a, uint32_t c)
{
    uint32_t cap = class_bytes(c);
    uint32_t bytes = c < 2 ? SMALL_SLAB_BYTES : cap > SLAB_BYTES ? cap : SLAB_BYTES;
    uint32_t n = bytes / cap;

    if (a->idle_bytes && a->held_bytes + bytes > a->limit_bytes)
        arena_trim(a);
    struct buf_slab *s = calloc(1, sizeof *s + n * sizeof s->buf[0]);
    if (!s)
        return NULL;
    void *mem;
    if (posix_memalign(&mem, BLOCK_SIZE, bytes)) {
        free(s);
        return NULL;
    }
    s->mem = mem;
    s->n = n;
    s->bytes = bytes;
    s->class_index = c;
    for (uint32_t i = n; i-- > 0;) {
        s->buf[i] = (struct buf){.data = s->mem + (size_t)i * cap, .cap = cap, .arena = a, .slab = s, .next = s->free};
        s->free = &s->buf[i];
    }
    POISON(s->mem, s->bytes);
    list_push_back(&a->slabs, &s->all);
    list_push_front(&a->usable[c], &s->usable);
    a->held_bytes += bytes;
    a->idle_bytes += bytes;
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
        a->idle_bytes -= s->bytes;
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
        a->idle_bytes += s->bytes;
}
