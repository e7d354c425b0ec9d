/* Values whose slabs are read back: for peers that catch up, and at the end of recovery (docs/large-writes.md sections
 * 5 and 6).
 *
 * What always holds: no write overlaps such a read. Slabs that are being read are not allocated (slabs.c), and
 * write-back waits where it would write into one (large_is_read); fresh slabs that are being written belong to entries
 * whose value is in memory. What was read counts only when all of the entry's checksums hold. */
#include "replica/store_internal.h"

#include <errno.h>
#include <stdlib.h>

#include "base/mark.h"

struct value_piece {
    struct io_op op;
    struct iovec iov;
    struct large_value *value;
    uint32_t first, n;
};

struct large_value {
    struct list link; /* in store.value_reads, while slabs are read */
    struct store *store;
    struct group *group;
    uint64_t slot;
    struct ballot e;
    struct slot_ref ref;
    struct entry *entry;
    void (*fn)(void *user, struct entry *e, int err);
    void *user;
    bool counted, wrong;
    unsigned pending, n_pieces;
    struct value_piece piece[REF_SLABS_MAX];
};

bool large_is_read(const struct store *s, uint64_t slab)
{
    list_for_each(n, &s->value_reads)
    {
        const struct slot_ref *ref = &container_of(n, struct large_value, link)->ref;
        for (uint32_t i = 0; i < ref->n; i++)
            if (ref->slab[i] == slab)
                return true;
    }
    return false;
}

static void value_over(struct large_value *v, int err)
{
    struct entry *e = v->entry;
    if (err) {
        entry_unref(e);
        e = NULL;
    }
    void (*fn)(void *, struct entry *, int) = v->fn;
    void *user = v->user;
    free(v);
    fn(user, e, err);
}

/* The slot still is what it was when the read began. */
static struct slot_info *slot_of(const struct large_value *v)
{
    struct group *g = v->group;
    struct ballot e;
    if (v->slot <= g->log.base.slot || !paxos_log_at(&g->log, v->slot, &e) || !ballot_equal(&e, &v->e))
        return NULL;
    struct slot_info *i = log_slot(g, v->slot);
    return i->ref && i->ref->slab[0] == v->ref.slab[0] ? i : NULL;
}

static void on_piece(struct io_op *op)
{
    struct value_piece *p = container_of(op, struct value_piece, op);
    struct large_value *v = p->value;
    struct store *s = v->store;
    v->wrong |= op->result < 0;
    if (--v->pending > 0)
        return;
    list_remove(&v->link);
    s->n_value_slabs -= v->ref.n;
    bool ok = !v->wrong && entry_verify(v->entry) < 0;
    struct slot_info *i = s->ready ? slot_of(v) : NULL;
    if (!ok && i) {
        MARK("large: a value was overwritten where it stood");
        i->ref->gone = true;
    }
    value_over(v, ok ? 0 : i || !s->ready ? -ESTALE : -ENOENT);
    if (s->cycle.state != CYCLE_IDLE)
        cycle_advance(s);
    if (s->closing)
        store_schedule_kick(s);
}

/* The entry has its payload but for the slabs. */
static void read_slabs(struct large_value *v)
{
    struct store *s = v->store;
    const struct slot_ref *ref = &v->ref;
    uint8_t *to = v->entry->payload->data + v->entry->payload_off + (size_t)ref_head(v->entry->block) * BLOCK_SIZE;
    list_push_back(&s->value_reads, &v->link);
    s->n_value_slabs += ref->n;
    for (uint32_t i = 0; i < ref->n;) {
        uint32_t n = slabs_neighbours(s, ref->slab + i, ref->n - i);
        struct value_piece *p = &v->piece[v->n_pieces++];
        *p = (struct value_piece){.op.fn = on_piece, .value = v, .first = i, .n = n};
        p->iov = (struct iovec){to + (size_t)i * SLAB_BYTES, (size_t)n * SLAB_BYTES};
        i += n;
    }
    v->pending = v->n_pieces;
    for (unsigned i = 0; i < v->n_pieces; i++) {
        uint32_t slab = ref->slab[v->piece[i].first];
        dev_read(slab_dev(s, slab), &v->piece[i].iov, 1, slab_offset(s, slab), &v->piece[i].op);
    }
}

/* Free slabs are kept from being allocated for a moment: not where all that are left are promised. */
static bool can_afford(const struct store *s, const struct slot_ref *ref)
{
    uint64_t free_slabs = 0;
    for (uint32_t i = 0; i < ref->n; i++)
        free_slabs += !bit_get(s->used, ref->slab[i]);
    return free_slabs == 0 || s->slabs_free >= s->slabs_reserved + s->n_value_slabs + free_slabs;
}

static void on_record(void *user, struct entry *e, int err)
{
    struct large_value *v = user;
    struct slot_info *i = slot_of(v);
    v->entry = e;
    if (err)
        err = err == -ENOMEM ? err : err == -ESTALE ? -ENOENT : -EIO; /* below the log's tail by now */
    else if (!i)
        err = -ENOENT;
    else if (e->slot != v->slot || !ballot_equal(&e->e, &v->e) || ref_slabs(e->block, e->nblocks) != v->ref.n)
        err = -EIO;
    else if (i->ref->gone || !kept_holds(v->store, v->group, v->slot, &v->ref) || !can_afford(v->store, &v->ref))
        err = -ESTALE;
    if (err)
        value_over(v, err);
    else
        read_slabs(v);
}

void large_value(struct store *s, struct group *g, uint64_t slot, const struct ballot *e,
                 void (*fn)(void *user, struct entry *e, int err), void *user)
{
    const struct slot_info *i = log_slot(g, slot);
    if (i->ref->gone) {
        MARK("large: a value is gone");
        fn(user, NULL, -ESTALE);
        return;
    }
    struct large_value *v = store_calloc(1, sizeof *v);
    *v = (struct large_value){.store = s, .group = g, .slot = slot, .e = *e, .ref = *i->ref, .fn = fn, .user = user};
    wal_read_entry(s->wal, i->place, on_record, v);
}

/* ---- recovery ---- */

/* What waits for its commit is kept in memory whole, or it is lost: the WAL brought its ends only. */
void large_fill(struct store *s, struct group *g, uint64_t slot, void (*fn)(void *user, struct entry *e, int err), void *user)
{
    struct slot_info *i = log_slot(g, slot);
    struct entry *e = i->entry;
    struct buf *ends = e->payload, *whole = buf_alloc_must(s->reactor->arena, entry_payload_bytes(e));
    uint32_t head = ref_head(e->block), slabs = i->ref->n * SLAB_BLOCKS;
    if (ends) {
        memcpy(whole->data, ends->data, (size_t)head * BLOCK_SIZE);
        memcpy(whole->data + (size_t)(head + slabs) * BLOCK_SIZE, ends->data + (size_t)head * BLOCK_SIZE,
               (size_t)(e->nblocks - head - slabs) * BLOCK_SIZE);
        buf_unref(ends);
    }
    e->payload = whole;
    e->payload_off = 0;
    i->ref->compact = false;
    struct large_value *v = store_calloc(1, sizeof *v);
    *v = (struct large_value){.store = s, .group = g, .slot = slot, .e = e->e, .ref = *i->ref, .entry = entry_ref(e), .fn = fn, .user = user};
    read_slabs(v);
}

void large_values_free(struct store *s)
{
    struct list *n;
    while ((n = list_pop_front(&s->value_reads))) {
        struct large_value *v = container_of(n, struct large_value, link);
        entry_unref(v->entry);
        free(v);
    }
}
