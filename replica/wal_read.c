/* Reading an entry again from where it stands in the ring: first its batch's descriptor pages, whose CRC vouches for the record,
 * then its payload, for which the record's CRCs vouch.
 *
 * What always holds: no batch is written where a read is under way (wal_read_conflicts), and nothing is handed out that was
 * below the tail when its last byte had been read. */
#include <errno.h>
#include <stdlib.h>

#include "replica/wal_internal.h"

struct wal_read {
    struct list link;
    struct wal *w;
    struct io_op op;
    struct iovec iov[2];
    uint32_t bytes; /* that are being read */
    struct wal_place place;
    uint64_t batch_lsn;
    uint64_t lsn; /* of what is being read */
    bool refers; /* a WRITE_REF */
    struct buf *buf;
    struct entry *e;
    void (*fn)(void *user, struct entry *e, int err);
    void *user;
};

bool wal_read_conflicts(const struct wal *w, uint64_t lsn, uint64_t bytes)
{
    uint64_t from = lsn % w->wal_bytes;
    list_for_each(n, &w->reads)
    {
        const struct wal_read *rd = container_of(n, struct wal_read, link);
        uint64_t at = rd->lsn % w->wal_bytes;
        if (at < from + bytes && from < at + rd->bytes)
            return true;
    }
    return false;
}

static void read_free(struct wal_read *rd)
{
    list_remove(&rd->link);
    buf_unref(rd->buf);
    entry_unref(rd->e);
    free(rd);
}

void wal_reads_free(struct wal *w)
{
    while (!list_empty(&w->reads))
        read_free(container_of(w->reads.next, struct wal_read, link));
}

static void read_end(struct wal_read *rd, int err)
{
    struct entry *e = NULL;
    if (!err) {
        e = rd->e;
        rd->e = NULL;
    }
    void (*fn)(void *, struct entry *, int) = rd->fn;
    void *user = rd->user;
    read_free(rd);
    fn(user, e, err);
}

/* `skip` bytes of the buffer's `bytes` from skip_at on are not read. */
static void read_begin(struct wal_read *rd, uint64_t lsn, uint32_t bytes, uint32_t skip_at, uint32_t skip, void (*fn)(struct io_op *op))
{
    rd->buf = buf_alloc(rd->w->reactor->arena, bytes);
    if (!rd->buf) {
        read_end(rd, -ENOMEM);
        return;
    }
    uint32_t after = bytes - skip_at - skip;
    unsigned n = 0;
    if (skip_at > 0)
        rd->iov[n++] = (struct iovec){ rd->buf->data, skip_at };
    if (after > 0)
        rd->iov[n++] = (struct iovec){ rd->buf->data + skip_at + skip, after };
    rd->lsn = lsn;
    rd->bytes = bytes - skip;
    rd->op.fn = fn;
    dev_read(rd->w->dev, rd->iov, n, lsn % rd->w->wal_bytes, &rd->op);
}

/* 0, or what is wrong with what was read. */
static int read_result(const struct wal_read *rd)
{
    if (rd->batch_lsn < rd->w->tail.lsn)
        return -ESTALE;
    if (rd->op.result < 0)
        return (int)rd->op.result;
    return rd->op.result == (int64_t)rd->bytes ? 0 : -EIO;
}

static void payload_read(struct io_op *op)
{
    struct wal_read *rd = container_of(op, struct wal_read, op);
    int err = read_result(rd);
    if (!err) {
        rd->e->payload = rd->buf;
        rd->buf = NULL;
        if (!rd->refers && entry_verify(rd->e) >= 0)
            err = -EBADMSG;
    }
    read_end(rd, err);
}

/* The entry record whose body begins at the place; NULL when there is none, or its payload is said to be elsewhere. */
static const struct wal_record *find_record(const struct wal_read *rd, const struct wal_batch *b)
{
    struct wal_cursor c;
    const struct wal_record *rec;
    wal_cursor_init(&c, b);
    while ((rec = wal_cursor_next(&c))) {
        if (b->lsn + (uint64_t)(wal_record_body(rec) - (const uint8_t *)b) != rd->place.desc_lsn)
            continue;
        uint64_t payload = wal_record_pages(rec) ? b->lsn + (uint64_t)c.payload_page * BLOCK_SIZE : 0;
        return wal_record_is_entry(rec) && payload == rd->place.payload_lsn ? rec : NULL;
    }
    return NULL;
}

static int take_record(struct wal_read *rd)
{
    int err = read_result(rd);
    if (err)
        return err;
    const struct wal *w = rd->w;
    if (wal_check_batch(w->salt, w->wal_bytes, rd->batch_lsn, rd->buf->data, rd->bytes) != WAL_CHECK_OK)
        return -EBADMSG;
    const struct wal_record *rec = find_record(rd, (const void *)rd->buf->data);
    if (!rec)
        return -EBADMSG;
    size_t used;
    rd->refers = rec->type == WAL_WRITE_REF;
    return entry_decode(w->reactor->arena, wal_record_body(rec), rec->body_bytes, &rd->e, &used);
}

static void descriptors_read(struct io_op *op)
{
    struct wal_read *rd = container_of(op, struct wal_read, op);
    int err = take_record(rd);
    if (err || rd->e->kind != ENTRY_WRITE) {
        read_end(rd, err);
        return;
    }
    buf_unref(rd->buf);
    rd->buf = NULL;
    const struct entry *e = rd->e;
    uint32_t bytes = entry_payload_bytes(e), head = rd->refers ? ref_head(e->block) * BLOCK_SIZE : 0,
             slabs = rd->refers ? ref_slabs(e->block, e->nblocks) * SLAB_BYTES : 0;
    if (slabs < bytes) {
        read_begin(rd, rd->place.payload_lsn, bytes, head, slabs, payload_read);
        return;
    }
    rd->e->payload = buf_alloc(rd->w->reactor->arena, bytes);
    read_end(rd, rd->e->payload ? 0 : -ENOMEM);
}

void wal_read_entry(struct wal *w, struct wal_place place, void (*fn)(void *user, struct entry *e, int err), void *user)
{
    assert(place.desc_lsn < w->durable_lsn);
    uint32_t i = wal_index_below(&w->index, place.desc_lsn);
    if (place.desc_lsn < w->tail.lsn || i == 0) {
        fn(user, NULL, -ESTALE);
        return;
    }
    const struct wal_index_entry *x = wal_index_at(&w->index, i - 1);
    if (x->desc_pages == 0) {
        fn(user, NULL, -EBADMSG);
        return;
    }
    struct wal_read *rd = calloc(1, sizeof *rd);
    if (!rd) {
        fn(user, NULL, -ENOMEM);
        return;
    }
    rd->w = w;
    rd->place = place;
    rd->batch_lsn = x->lsn;
    rd->fn = fn;
    rd->user = user;
    list_push_back(&w->reads, &rd->link);
    read_begin(rd, x->lsn, x->desc_pages * BLOCK_SIZE, 0, 0, descriptors_read);
}
