/* Large writes go to disk once (docs/large-writes.md): the whole slabs of a WRITE are written to fresh slabs beside its
 * batch of the WAL, which holds a reference only, and counts as durable when they are.
 *
 * What always holds:
 *  - a slab that is written here was free in the root in force, is in use from now on, and is nobody's in the bitmap on
 *    disk (`loose`) until a leaf that maps it is written: what a crash leaves unreferred is free again.
 *  - its batch is held until the write is over, whether it came to anything or not; a value that could not be written
 *    goes to the WAL after all, and nothing from its first record on is reported durable before that.
 *  - slabs of an entry that is cut are given back when their write is over, and are free with the next root. */
#include "replica/store_internal.h"

#include <errno.h>
#include <stdlib.h>

#include "base/mark.h"

struct large_piece {
    struct io_op op;
    struct iovec iov;
    struct large_write *write;
    uint32_t first, n; /* slabs of the entry: neighbours on disk */
};

struct large_write {
    struct list link; /* in store.large_writes */
    struct store *store;
    struct group *group;
    struct entry *e;
    struct wal_write *batch;
    uint64_t token;
    struct slot_ref ref; /* the slabs: the slot's own may be gone */
    uint32_t failed;     /* of the slabs, as bits */
    int err;
    bool cut;
    unsigned pending, n_pieces;
    struct large_piece piece[REF_SLABS_MAX];
};

/* ---- slabs that are nobody's any more ---- */

void large_drop_slab(struct store *s, uint32_t slab)
{
    unsigned gen = s->gen;
    if (!s->ready) /* replay: nothing is in use but what the root says and what is left at the end */
        return;
    if (s->n_dropped[gen] == s->cap_dropped[gen]) {
        s->cap_dropped[gen] = s->cap_dropped[gen] ? 2 * s->cap_dropped[gen] : 64;
        s->dropped[gen] = store_realloc(s->dropped[gen], s->cap_dropped[gen] * sizeof *s->dropped[gen]);
    }
    s->dropped[gen][s->n_dropped[gen]++] = slab;
}

void large_release_dropped(struct store *s, unsigned gen)
{
    for (uint32_t i = 0; i < s->n_dropped[gen]; i++)
        slab_release(s, s->dropped[gen][i]);
    MARK_IF(s->n_dropped[gen] > 0, "large: slabs that no leaf ever mapped are given back");
    s->n_dropped[gen] = 0;
}

/* Under way, or failed and not yet in the WAL. NULL: the WAL was dead before it could begin. */
static struct large_write *find_write(struct store *s, const struct group *g, const struct entry *e)
{
    list_for_each(n, &s->large_writes)
    {
        struct large_write *w = container_of(n, struct large_write, link);
        if (w->group == g && !w->cut && w->e == e)
            return w;
    }
    return NULL;
}

/* The slot's reference is no more. */
void large_forget(struct group *g, uint64_t slot, struct slot_info *i)
{
    struct store *s = g->store;
    struct slot_ref *ref = i->ref;
    if (!ref)
        return;
    i->ref = NULL;
    kept_remove(s, g, slot, ref);
    struct large_write *w = ref->written ? NULL : find_write(s, g, i->entry);
    if (w) {
        MARK("large: cut while it is written");
        w->cut = true;
    } else if (ref->owned) {
        for (uint32_t k = 0; k < ref->n; k++)
            large_drop_slab(s, ref->slab[k]);
    }
    free(ref);
}

/* ---- writing ---- */

/* Nothing is written to it again. */
static void leak_slab(struct store *s, uint32_t slab)
{
    slab_settle(s, slab);
}

static void give_back(struct store *s, const struct large_write *w)
{
    for (uint32_t i = 0; i < w->ref.n; i++)
        if (w->failed >> i & 1)
            leak_slab(s, w->ref.slab[i]);
        else
            large_drop_slab(s, w->ref.slab[i]);
}

/* It came to nothing: its value is to go to the WAL after all. Not at once: the record that is there already must be
 * vouched for by the batch that brings the value again, or a restart would take the batch of the first for torn, and
 * cut both. */
static void fail(struct store *s, struct large_write *w)
{
    MARK("large: a slab can't be written, the value goes to the WAL");
    if (s->hold_from == 0)
        s->hold_bytes = 0;
    s->hold_bytes += entry_payload_bytes(w->e) + WAL_ENTRY_OVERHEAD;
    if (s->hold_bytes > s->wal_dev->size_bytes / 16) { /* of what wal_room() leaves out for such */
        store_fatal(s, w->err, "the extents can't be written");
        return;
    }
    if (s->hold_from == 0)
        s->hold_from = s->durable_token + 1; /* all of its batch: a restart would cut it, as long as nobody vouches for it */
    s->n_failed++;
}

static void write_free(struct large_write *w)
{
    list_remove(&w->link);
    entry_unref(w->e);
    free(w);
}

/* As if it had been refilled: its first record has lost its value as rot would have it. */
static void write_again(struct store *s, struct large_write *w)
{
    struct group *g = w->group;
    if (!w->cut) {
        struct slot_info *i = log_slot(g, w->e->slot);
        assert(i->entry == w->e && i->ref && i->ref->owned);
        kept_remove(s, g, w->e->slot, i->ref);
        free(i->ref);
        i->ref = NULL;
        s->hold_until = store_next_token(s);
        wal_append_entry(s->wal, s->hold_until, w->e, true);
        slabs_reserve_entry(s, g, w->e, NULL);
    }
    give_back(s, w);
    s->n_failed--;
    write_free(w);
}

uint64_t large_on_durable(struct store *s, uint64_t token)
{
    if (s->hold_from == 0)
        return token;
    list_for_each_safe(n, &s->large_writes)
    {
        struct large_write *w = container_of(n, struct large_write, link);
        if (w->err && w->pending == 0 && w->token <= token)
            write_again(s, w);
    }
    if (s->n_failed > 0 || s->hold_until > token)
        return token < s->hold_from ? token : s->hold_from - 1;
    s->hold_from = s->hold_until = 0;
    return token;
}

static void write_over(struct large_write *w)
{
    struct store *s = w->store;
    struct wal_write *batch = w->batch;
    if (!s->dead && w->err && !w->cut) {
        fail(s, w);
    } else {
        if (!s->dead && w->cut)
            give_back(s, w);
        else if (!s->dead)
            log_slot(w->group, w->e->slot)->ref->written = true;
        write_free(w);
    }
    if (!s->dead)
        wal_release(s->wal, batch);
    if (s->closing)
        store_schedule_kick(s);
}

static void on_piece(struct io_op *op)
{
    struct large_piece *p = container_of(op, struct large_piece, op);
    struct large_write *w = p->write;
    if (op->result < 0) {
        w->err = (int)op->result;
        w->failed |= ((UINT32_C(1) << p->n) - 1) << p->first;
    } else {
        w->store->large_bytes += (uint64_t)p->n * SLAB_BYTES;
    }
    if (--w->pending == 0)
        write_over(w);
}

static void begin(struct store *s, struct group *g, struct entry *e, const struct slot_ref *ref, uint64_t token)
{
    struct wal_write *batch = wal_hold(s->wal);
    if (!batch)
        return; /* the WAL is dead */
    struct large_write *w = store_calloc(1, sizeof *w);
    *w = (struct large_write){.store = s, .group = g, .e = entry_ref(e), .batch = batch, .token = token, .ref = *ref};
    list_push_back(&s->large_writes, &w->link);
    uint32_t head = ref_head(e->block);
    for (uint32_t i = 0; i < ref->n;) {
        uint32_t n = slabs_neighbours(s, ref->slab + i, ref->n - i);
        struct large_piece *p = &w->piece[w->n_pieces++];
        *p = (struct large_piece){.op.fn = on_piece, .write = w, .first = i, .n = n};
        p->iov = (struct iovec){e->payload->data + e->payload_off + ((size_t)head + i * SLAB_BLOCKS) * BLOCK_SIZE, (size_t)n * SLAB_BYTES};
        i += n;
    }
    w->pending = w->n_pieces;
    for (unsigned i = 0; i < w->n_pieces; i++) {
        uint32_t slab = ref->slab[w->piece[i].first];
        dev_write(slab_dev(s, slab), &w->piece[i].iov, 1, slab_offset(s, slab), IO_DURABLE, &w->piece[i].op);
    }
}

static bool region_has_slab(struct store *s, const struct group *g, uint64_t slab)
{
    const struct region *r = region_find(s, g, slab / REGION_SLABS);
    return r && bit_get(r->entry->mapped, slab % REGION_SLABS);
}

/* It takes slabs even where the address has some, until the next root: never those that credits promise to others. */
static bool can_afford(const struct store *s, uint32_t n)
{
    uint64_t keep = (UINT64_C(32) << 20) / SLAB_BYTES;
    if (keep > s->slabs_total / 8)
        keep = s->slabs_total / 8;
    return slabs_to_spare(s) >= keep + n;
}

bool large_append(struct store *s, struct group *g, struct entry *e, uint64_t token)
{
    uint32_t n = e->kind == ENTRY_WRITE ? ref_slabs(e->block, e->nblocks) : 0;
    if (n == 0 || !(s->sb.features_incompat & FEATURE_INCOMPAT_WRITE_REF))
        return false;
    struct slot_ref ref = {.n = n, .owned = true};
    bool can = can_afford(s, n) && slabs_take_fresh(s, n, ref.slab);
    if (!can) {
        MARK("large: no slabs to spare, written twice");
        s->fresh_wanted = true;
        store_schedule_kick(s); /* a checkpoint gives back what others replaced */
        return false;
    }
    MARK("large: written once");
    MARK_IF(n * SLAB_BLOCKS < e->nblocks, "large: the ends of an entry are in its batch");
    struct slot_info *i = log_slot(g, e->slot);
    i->ref = store_calloc(1, sizeof *i->ref);
    *i->ref = ref;
    for (uint32_t k = 0; k < n; k++)
        if (!region_has_slab(s, g, (e->block + SLAB_BLOCKS - 1) / SLAB_BLOCKS + k))
            slab_is_more(s, ref.slab[k]);
    kept_add(s, g, e->slot, i->ref);
    wal_append_ref(s->wal, token, e, ref.slab, false);
    begin(s, g, e, &ref, token);
    if (large_wants_cycle(s))
        store_schedule_kick(s);
    return true;
}

/* Written, and mapped by no leaf yet: so many are worth a checkpoint. When others need what they replace, few are. */
bool large_wants_cycle(const struct store *s)
{
    if ((s->refs_applied != s->cycle.refs_applied || s->n_dropped[s->gen] > 0) && slabs_are_low(s))
        return true;
    uint64_t most = (UINT64_C(1) << 30) / SLAB_BYTES;
    if (most > s->slabs_total / 8)
        most = s->slabs_total / 8;
    uint64_t spare = (slabs_to_spare(s) + s->n_loose + s->n_pending) / 4; /* while it is made there is to be room for more */
    if (most > spare)
        most = spare;
    return s->n_loose > s->cycle.loose_left + most; /* what waits for its commit no cycle helps */
}

void large_free(struct store *s)
{
    struct list *n;
    while ((n = list_pop_front(&s->large_writes))) {
        struct large_write *w = container_of(n, struct large_write, link);
        entry_unref(w->e);
        free(w);
    }
    large_values_free(s);
    free(s->dropped[0]);
    free(s->dropped[1]);
    free(s->kept_table);
}
