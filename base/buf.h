/* Reference-counted buffers from an arena.
 *
 * An arena belongs to one reactor and is used by its thread alone. Buffers come in size classes (256 B, 1 KiB, 4 KiB,
 * then powers of two to 2 MiB); those of 4 KiB and more are aligned to 4 KiB, so that devices can use them directly.
 * Freed buffers are kept for reuse. The arena's limit counts capacities of buffers in use, not the slices that somebody
 * uses of them. */
#ifndef QBD_BASE_BUF_H
#define QBD_BASE_BUF_H

#include "base/types.h"

#define BUF_MAX_BYTES (2u << 20)

struct arena;
struct buf_slab;

struct buf {
    uint8_t *data;
    uint32_t cap;  /* bytes at data: the class's size */
    uint32_t refs; /* 0: free, in the arena's list */
    struct arena *arena;
    struct buf *next;      /* the arena's, while free */
    struct buf_slab *slab; /* the memory that it was carved from */
};

/* Bytes to be sent. With a buf, the reference is shared: whoever takes the segment takes a reference of its own for as
 * long as it needs the bytes. Without (buf == NULL), the bytes at ptr are copied during the call. */
struct segment {
    struct buf *buf;
    const void *ptr; /* inside buf->data when there is a buf */
    uint32_t len;
};

/* limit_bytes: the sum of capacities in use above which buf_alloc fails. NULL when out of memory. */
struct arena *arena_new(uint64_t limit_bytes);
/* Memory comes in pieces of 2 MiB that the system is asked to back with large pages. Before the first buffer. */
void arena_use_huge_pages(struct arena *a);
void arena_free(struct arena *a); /* asserts that no buffer is in use */
/* Frees the arena and every buffer of it, in use or not: what a crash does to a process. For simulated processes. */
void arena_drop(struct arena *a);
uint64_t arena_used_bytes(const struct arena *a);
uint64_t arena_limit_bytes(const struct arena *a);

/* One reference, cap >= len. NULL when the limit is reached or the system is out of memory. len <= BUF_MAX_BYTES.
 * Contents are undefined. */
MUST_USE struct buf *buf_alloc(struct arena *a, size_t len);
/* As buf_alloc, beyond the limit too: for work that must finish to free memory (write-back, replies). Aborts the
 * process with a message when the system is out of memory. */
MUST_USE struct buf *buf_alloc_must(struct arena *a, size_t len);

static inline struct buf *buf_ref(struct buf *b)
{
    assert(b->refs > 0);
    b->refs++;
    return b;
}

void buf_unref(struct buf *b); /* NULL is fine */

#endif
