/* The superblock: four copies, of which the newest valid one counts.
 *
 * What always holds: at every moment of a superblock_write, torn at any sector or not, there is a whole copy of the newest
 * superblock that any earlier write completed a copy of. Copies are written one after the other, and odd generations begin at the
 * other end than even ones: so the copy that a generation overwrites first is never the only one of the generation before. */
#include "replica/superblock.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "base/crc32c.h"

static_assert(SUPERBLOCK_COPIES * SUPERBLOCK_STRIDE == SUPERBLOCK_BYTES, "the copies fill the device");

static uint32_t superblock_crc(const struct superblock *s)
{
    static const uint8_t zero[4];
    const uint8_t *p = (const uint8_t *)s;
    size_t at = offsetof(struct superblock, crc), after = at + sizeof s->crc;
    uint32_t crc = crc32c(p, at);
    crc = crc32c_extend(crc, zero, sizeof zero);
    return crc32c_extend(crc, p + after, sizeof *s - after);
}

void superblock_seal(struct superblock *s)
{
    s->magic = SUPERBLOCK_MAGIC;
    s->version = DISK_VERSION;
    s->crc = superblock_crc(s);
}

static bool values_are_sane(const struct superblock *s)
{
    return memchr(s->name, 0, sizeof s->name) && !uuid_is_zero(&s->identity) && !uuid_is_zero(&s->cluster) &&
           s->shard_count == 1 && s->wal_bytes >= BLOCK_SIZE && s->wal_bytes % BLOCK_SIZE == 0 &&
           s->extent_bytes >= SLAB_BYTES && s->extent_bytes % SLAB_BYTES == 0 && s->meta_pages > 0 &&
           s->meta_pages <= META_PAGES_MAX;
}

/* Why a valid copy may not be used, or NULL. The order: what a newer version may have changed comes first. */
static const char *refusal(const struct superblock *s)
{
    static _Thread_local char why[128];
    if (s->version != DISK_VERSION)
        snprintf(why, sizeof why, "format version %" PRIu32 " is not known to this version of qbd (it knows %u)", s->version, DISK_VERSION);
    else if (s->features_incompat & ~FEATURES_INCOMPAT)
        snprintf(why, sizeof why, "unknown incompatible features 0x%" PRIx64 ": use the version of qbd that made them",
                 s->features_incompat & ~FEATURES_INCOMPAT);
    else if (s->features_ro_compat)
        snprintf(why, sizeof why, "unknown features 0x%" PRIx64 " forbid writing: use the version of qbd that made them", s->features_ro_compat);
    else if (s->complete != 1)
        return "formatting was interrupted; format it again";
    else if (!values_are_sane(s))
        return "the superblock holds impossible values";
    else
        return NULL;
    return why;
}

const char *superblock_pick(const void *image, struct superblock *ret)
{
    struct superblock s, best = { .generation = 0 };
    bool found = false, any_magic = false;
    for (uint32_t i = 0; i < SUPERBLOCK_COPIES; i++) {
        memcpy(&s, (const uint8_t *)image + (size_t)i * SUPERBLOCK_STRIDE, sizeof s);
        any_magic |= s.magic == SUPERBLOCK_MAGIC;
        if (s.magic != SUPERBLOCK_MAGIC || s.crc != superblock_crc(&s))
            continue;
        if (!found || s.generation > best.generation)
            best = s;
        found = true;
    }
    if (!found)
        return any_magic ? "all copies of the superblock are damaged" : "not a qbd data directory";
    const char *why = refusal(&best);
    if (!why)
        *ret = best;
    return why;
}

bool superblock_copy_is_older(const void *copy, const struct superblock *s)
{
    struct superblock c;
    memcpy(&c, copy, sizeof c);
    return c.magic == SUPERBLOCK_MAGIC && c.crc == superblock_crc(&c) && c.generation < s->generation;
}

/* Lives in `state`, a buffer of its own. */
struct superblock_writing {
    struct buf *state;
    struct io_op op;
    struct dev *dev;
    struct buf *page;
    struct iovec iov;
    uint32_t n; /* copies written */
    bool backward;
    void (*done)(void *user, int err);
    void *user;
};

static void write_copy(struct superblock_writing *w);

static void copy_written(struct io_op *op)
{
    struct superblock_writing *w = container_of(op, struct superblock_writing, op);
    int err = op->result == (int64_t)w->iov.iov_len ? 0 : op->result < 0 ? (int)op->result : -EIO;
    w->n++;
    if (!err && w->n < SUPERBLOCK_COPIES) {
        write_copy(w);
        return;
    }
    void (*done)(void *, int) = w->done;
    void *user = w->user;
    buf_unref(w->page);
    buf_unref(w->state);
    done(user, err);
}

static void write_copy(struct superblock_writing *w)
{
    uint32_t copy = w->backward ? SUPERBLOCK_COPIES - 1 - w->n : w->n;
    w->op.fn = copy_written;
    dev_write(w->dev, &w->iov, 1, (uint64_t)copy * SUPERBLOCK_STRIDE, IO_DURABLE, &w->op);
}

void superblock_write(struct dev *dev, const struct superblock *s, void (*done)(void *user, int err), void *user)
{
    assert(s->crc == superblock_crc(s)); /* sealed */
    struct buf *state = buf_alloc_must(dev->reactor->arena, sizeof(struct superblock_writing));
    struct superblock_writing *w = (void *)state->data;
    *w = (struct superblock_writing){ .state = state, .dev = dev };
    w->page = buf_alloc_must(dev->reactor->arena, sizeof *s);
    memcpy(w->page->data, s, sizeof *s);
    w->iov = (struct iovec){ w->page->data, sizeof *s };
    w->backward = s->generation & 1;
    w->done = done;
    w->user = user;
    write_copy(w);
}
