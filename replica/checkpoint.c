/* The cycle: write-back, then a checkpoint (store.md §2 "Apply", "Checkpoint"; ST1).
 *
 * COMMIT: commit records for all groups are appended, the WAL is cut at C, entries that wait for their commit since
 * long are copied forward, the overlay is frozen. Wait until those records are durable (only what a durable commit
 * covers is written back) and reads from before are over.
 *
 * LOAD, WRITE, RELOCATE, LEAVES: write_back.c, batch by batch: data in place or into fresh slabs, leaves to their other
 * places. Nothing that the root in force refers to is overwritten but data blocks whose newer contents are in the WAL
 * from its redo position on.
 *
 * FLUSH: every extent written since. META, META_FLUSH: groups, bitmap and regions to their other places.
 *
 * ROOT: the root, IO_DURABLE. Only then: freed slabs are free, the WAL before its tail may be overwritten, the logs'
 * floors rise.
 *
 * Leaves are flushed together with the data: neither is referred to before the root.
 *
 * What always holds: one cycle at a time; group pages say what was so at C; redo <= C and <= every entry above the
 * group's applied slot at C; tail <= redo. */
#include "replica/store_internal.h"

#include <errno.h>
#include <stdlib.h>

#include "base/mark.h"

static bool ring_is_small(const struct store *s)
{
    return s->wal_dev->size_bytes < (64u << 20);
}

uint64_t store_wal_keep(const struct store *s)
{
    return s->wal_dev->size_bytes / (ring_is_small(s) ? 8 : 2);
}

static uint64_t live_max(const struct store *s)
{
    return s->wal_dev->size_bytes / (ring_is_small(s) ? 8 : 4);
}

bool store_dirty(const struct store *s)
{
    return s->mutations != s->cycle.mutations || !overlay_is_empty(s, s->gen);
}

/* Is it time? Each reason asks for something new since the last cycle, too: what one cycle could not help, the next
 * won't. */
bool cycle_wanted(const struct store *s, bool groups)
{
    const struct cycle *c = &s->cycle;
    if (!s->ready || s->dead || c->state != CYCLE_IDLE)
        return false;
    uint64_t head = wal_head_lsn(s->wal);
    if (head - s->root->redo_lsn > live_max(s) && head - c->started_head > s->wal_dev->size_bytes / 32) {
        MARK("checkpoint: wanted by the WAL");
        return true;
    }
    if (s->clean_bytes[s->gen] > s->options.overlay_bytes / COPY_CLEAN_CYCLE) {
        MARK("checkpoint: wanted by a copy");
        return true;
    }
    if (s->overlay_bytes[s->gen] > s->options.overlay_bytes / 2) {
        MARK("checkpoint: wanted by the overlay");
        return true;
    }
    if (large_wants_cycle(s)) {
        MARK("checkpoint: wanted by large writes");
        return true;
    }
    /* Trimmed slabs are free when the root without them is durable. Writes are refused until then (P10), so nothing
     * would make the store busy, nor should anybody wait until it counts as idle. */
    if (s->trimmed && slabs_are_short(s)) {
        MARK("checkpoint: wanted by trimmed slabs");
        return true;
    }
    const struct arena *a = s->reactor->arena;
    if (s->overlay_bytes[s->gen] > s->options.overlay_bytes / 16 && arena_used_bytes(a) > arena_limit_bytes(a) / 4 * 3) {
        MARK("checkpoint: wanted by memory");
        return true;
    }
    for (unsigned i = 0; groups && i < GROUPS_MAX; i++) {
        const struct group *g = s->groups[i];
        if (!g || g->applied < g->log.base.slot + 256)
            continue;
        if (g->last - g->log.base.slot > STORE_SLOTS_MAX / 2 || g->log.n > RUNS_MAX / 4 * 3) {
            MARK("checkpoint: wanted by a long log");
            return true;
        }
    }
    return false;
}

/* ---- begin ---- */

/* A slab that can't be written after all must not be referred to by two records, of which the refill vouches for one. */
static bool is_written(const struct slot_info *i)
{
    return !i->ref || i->ref->written;
}

/* Entries that still wait for their commit and stand before `limit` in the WAL. */
static uint64_t bytes_before(struct store *s, uint64_t limit)
{
    uint64_t bytes = 0;
    for (unsigned p = 0; p < GROUPS_MAX; p++) {
        struct group *g = s->groups[p];
        for (uint64_t slot = g ? g->applied + 1 : 1; g && slot <= g->last; slot++) {
            const struct slot_info *i = log_slot(g, slot);
            if (i->entry && i->place.desc_lsn < limit && is_written(i))
                bytes += entry_payload_bytes(i->entry) + WAL_ENTRY_OVERHEAD - (i->ref ? i->ref->n * SLAB_BYTES : 0);
        }
    }
    return bytes;
}

static void copy_group_forward(struct store *s, struct group *g, uint64_t limit)
{
    for (uint64_t slot = g->applied + 1; slot <= g->last; slot++) {
        struct slot_info *i = log_slot(g, slot);
        if (!i->entry || i->place.desc_lsn >= limit || !is_written(i))
            continue;
        if (i->ref)
            wal_append_ref(s->wal, store_next_token(s), i->entry, i->ref->slab, true);
        else
            wal_append_entry(s->wal, store_next_token(s), i->entry, true);
        MARK_IF(i->ref, "checkpoint: reference copied forward");
        MARK("checkpoint: entry copied forward");
        i->pinned = true; /* its new place can't be read before it is durable */
        if (!g->copied_first)
            g->copied_first = slot;
        g->copied_last = slot;
    }
}

/* What stays long without a commit would keep the WAL from ever being freed: what is older than the live part should be
 * is appended again, when that fits. */
static void copy_forward(struct store *s)
{
    uint64_t cut = s->cycle.cut.lsn;
    if (cut < live_max(s))
        return;
    uint64_t limit = cut - live_max(s), bytes = bytes_before(s, limit);
    if (bytes == 0 || bytes > live_max(s) / 2 || bytes > wal_room(s->wal))
        return;
    for (unsigned p = 0; p < GROUPS_MAX; p++)
        if (s->groups[p])
            copy_group_forward(s, s->groups[p], limit);
}

/* The batch in which lsn lies: it begins at most a batch's length before. */
static struct wal_position batch_of(struct store *s, uint64_t lsn)
{
    uint64_t from = lsn > WAL_BATCH_MAX_BYTES ? lsn - WAL_BATCH_MAX_BYTES : 0;
    struct wal_position p = wal_position_at(s->wal, from > s->root->tail_lsn ? from : s->root->tail_lsn);
    for (;;) {
        struct wal_position next = wal_position_at(s->wal, p.lsn + 1);
        if (next.lsn > lsn || next.lsn == p.lsn)
            break;
        p = next;
    }
    assert(p.lsn <= lsn);
    return p;
}

/* ST2, ST1: from here on recovery needs the WAL. An entry that waits for its commit may stand before the position in force: it was copied forward, its
 * copy has rotted since, and recovery, which begins at the tail, has found it in its old place. That place must stay until it is copied again or
 * applied (hold_lsn); the redo position does not go back for it. */
static struct wal_position redo_position(struct store *s)
{
    uint64_t low = s->cycle.cut.lsn;
    s->cycle.hold_lsn = UINT64_MAX;
    for (unsigned p = 0; p < GROUPS_MAX; p++) {
        struct group *g = s->groups[p];
        for (uint64_t slot = g ? g->applied + 1 : 1; g && slot <= g->last; slot++) {
            const struct slot_info *i = log_slot(g, slot);
            if (i->state != SLOT_VALUE || i->pinned)
                continue;
            if (i->place.desc_lsn >= s->root->redo_lsn)
                low = i->place.desc_lsn < low ? i->place.desc_lsn : low;
            else if (i->place.desc_lsn < s->cycle.hold_lsn)
                s->cycle.hold_lsn = i->place.desc_lsn;
        }
    }
    MARK_IF(s->cycle.hold_lsn < low, "checkpoint: an entry before the redo position holds the tail");
    MARK_IF(low < s->cycle.cut.lsn, "checkpoint: redo before the cut");
    return low == s->cycle.cut.lsn ? s->cycle.cut : batch_of(s, low);
}

static void name_tail(struct group *g, struct group_page *p)
{
    for (uint32_t i = 0; i < g->log.n && p->n_tail < GROUP_TAIL_RUNS; i++) {
        struct run r = g->log.run[i];
        if (r.last <= g->applied)
            continue;
        if (r.first <= g->applied)
            r.first = g->applied + 1;
        p->tail[p->n_tail++] = r;
        MARK("checkpoint: names a tail");
    }
}

static void take_image(struct group *g)
{
    struct group_page *p = g->image;
    memset(p, 0, sizeof *p);
    p->group = g->id;
    p->size_blocks = g->size_blocks;
    p->promised = g->promised;
    p->max_lease_ns = g->max_lease_ns;
    p->applied.slot = g->applied;
    if (g->applied == g->log.base.slot) {
        p->applied = g->log.base;
    } else {
        bool known = paxos_log_at(&g->log, g->applied, &p->applied.e);
        assert(known);
    }
    p->fuzzy_end = g->fuzzy_end;
    p->committed = g->committed;
    p->uncommitted = g->uncommitted;
    p->retired = g->retired;
    p->needs_copy = g->needs_copy;
    p->since = g->since;
    p->jump = g->jump;
    p->scrub_next = g->n_disowned > 0 ? 0 : g->scrub.next;
    p->scrub_passes = g->scrub.passes;
    p->scrub_done_at = g->scrub.done_at;
    if (g->completing == COMPLETE_WANTED && g->jumping == JUMP_NONE) {
        assert(g->needs_copy && g->n_unknown == 0);
        g->completing = COMPLETE_IN_IMAGE;
        p->needs_copy = 0;
        p->since = GROUP_SINCE_NONE;
    }
    name_tail(g, p);
}

void cycle_start(struct store *s)
{
    struct cycle *c = &s->cycle;
    assert(c->state == CYCLE_IDLE && s->ready && overlay_is_empty(s, s->gen ^ 1u));
    c->again = false;
    c->state = CYCLE_COMMIT;
    c->mutations = s->mutations;
    c->refs_applied = s->refs_applied;
    for (unsigned p = 0; p < GROUPS_MAX; p++)
        if (s->groups[p] && s->groups[p]->applied > 0 && s->groups[p]->jumping == JUMP_NONE)
            wal_append_commit(s->wal, store_next_token(s), s->groups[p]->id, s->groups[p]->applied);
    c->cut = wal_cut_position(s->wal);
    copy_forward(s);
    c->started_head = wal_cut_position(s->wal).lsn; /* the own copies are no reason for another cycle */
    c->redo = redo_position(s);
    c->token = s->token;
    for (unsigned p = 0; p < GROUPS_MAX; p++)
        if (s->groups[p])
            take_image(s->groups[p]);
    if (!c->root)
        c->root = aligned_alloc(BLOCK_SIZE, sizeof *c->root);
    if (!c->root)
        abort();
    *c->root = *s->root;
    c->root->checkpoint++;
    c->read_epoch = s->read_epoch++;
    s->gen ^= 1;
    s->trimmed = false;
    large_release_dropped(s, s->gen ^ 1u);
    write_back_begin(s);
    write_pace_begin(s, live_max(s) / 2);
    cycle_advance(s);
}

/* ---- flush, meta, root ---- */

static void step_done(struct io_op *op, const char *what)
{
    struct write_op *w = container_of(op, struct write_op, op);
    struct store *s = w->store;
    w->busy = false;
    buf_unref(w->buf);
    w->buf = NULL;
    s->cycle.in_flight--;
    if (op->result < 0)
        store_fatal(s, (int)op->result, what);
    cycle_advance(s);
}

static void on_flushed(struct io_op *op)
{
    step_done(op, "an extent can't be flushed");
}

static void on_meta(struct io_op *op)
{
    step_done(op, "the checkpoint can't be written");
}

static struct write_op *idle_op(struct store *s, void (*fn)(struct io_op *op))
{
    for (unsigned i = 0; i < META_IN_FLIGHT; i++) {
        struct write_op *w = &s->cycle.op[i];
        if (w->busy)
            continue;
        *w = (struct write_op){.store = s, .busy = true, .op.fn = fn};
        s->cycle.in_flight++;
        return w;
    }
    return NULL;
}

/* Each of these: true when the state is over. */
static bool flush_extents(struct store *s)
{
    struct cycle *c = &s->cycle;
    for (; c->next_extent < s->sb.n_extents; c->next_extent++) {
        struct extent *x = &s->extents[c->next_extent];
        if (!x->dirty)
            continue;
        struct write_op *w = idle_op(s, on_flushed);
        if (!w)
            return false;
        x->dirty = false;
        dev_flush(x->dev, &w->op);
    }
    return c->in_flight == 0;
}

/* The log's new floor, given which batches of the WAL are kept: all slots above it have their values there. */
static uint64_t floor_after(struct store *s, struct group *g)
{
    uint64_t applied = g->image->applied.slot, floor = g->log.base.slot;
    for (uint64_t slot = floor + 1; slot <= applied; slot++) {
        const struct slot_info *i = log_slot(g, slot);
        if (i->state != SLOT_VALUE || i->place.desc_lsn < s->cycle.tail.lsn || (i->ref && i->ref->gone))
            floor = slot;
    }
    /* Values in slabs are kept as long as values in the WAL are: so many bytes of them. */
    uint64_t bytes = 0;
    for (uint64_t slot = applied; slot > floor; slot--) {
        const struct slot_info *i = log_slot(g, slot);
        bytes += i->ref ? i->ref->n * SLAB_BYTES : 0;
        if (bytes > s->wal_dev->size_bytes / 2) {
            MARK("checkpoint: values in slabs give way");
            floor = slot;
        }
    }
    if (g->last - floor > STORE_SLOTS_MAX / 4)
        floor = applied < g->last - STORE_SLOTS_MAX / 4 ? applied : g->last - STORE_SLOTS_MAX / 4;
    uint32_t n = g->log.n;
    if (n > RUNS_MAX / 2) {
        uint64_t at = g->log.run[n - RUNS_MAX / 2].first;
        if (at > floor)
            floor = at < applied ? at : applied;
    }
    return floor;
}

static void fix_positions(struct store *s)
{
    struct cycle *c = &s->cycle;
    /* The log for peers gives way when what is needed itself takes more than a quarter of the ring: appends come first. */
    uint64_t ring = s->wal_dev->size_bytes, live = wal_head_lsn(s->wal) - c->redo.lsn, keep = store_wal_keep(s);
    uint64_t spare = live < ring / 4 * 3 ? ring / 4 * 3 - live : 0;
    if (keep > spare) {
        MARK("checkpoint: log for peers gives way");
        keep = spare;
    }
    uint64_t tail = c->redo.lsn > keep ? c->redo.lsn - keep : 0;
    if (c->hold_lsn < tail)
        tail = batch_of(s, c->hold_lsn).lsn;
    c->tail = wal_position_at(s->wal, tail > s->root->tail_lsn ? tail : s->root->tail_lsn);
    assert(c->tail.lsn <= c->redo.lsn && c->redo.lsn <= c->cut.lsn);
    struct root *r = c->root;
    r->tail_lsn = c->tail.lsn;
    r->tail_seq = c->tail.seq;
    r->tail_prev_lsn = c->tail.prev_lsn;
    r->tail_prev_crc = c->tail.prev_crc;
    r->redo_lsn = c->redo.lsn;
    r->redo_seq = c->redo.seq;
    struct wal_stats wal;
    wal_get_stats(s->wal, &wal);
    r->durable_seq = wal.durable_seq; /* slabs that this root frees may be written over: nobody looks at them for the sake of these */
    r->n_groups = 0;
    for (unsigned p = 0; p < GROUPS_MAX; p++) {
        struct group *g = s->groups[p];
        if (!g || !g->image->group)
            continue; /* created since C: its record is behind redo */
        r->n_groups++;
        g->next_floor = floor_after(s, g);
        g->image->floor.slot = g->next_floor;
        if (g->next_floor == g->log.base.slot) {
            g->image->floor = g->log.base;
        } else {
            bool known = paxos_log_at(&g->log, g->next_floor, &g->image->floor.e);
            assert(known);
        }
        bit_set(s->meta_dirty, p);
    }
}

static void fill_page(struct store *s, uint32_t page, void *to)
{
    uint64_t checkpoint = s->cycle.root->checkpoint;
    const struct root *r = s->root;
    if (page < GROUPS_MAX) {
        if (s->groups[page])
            memcpy(to, s->groups[page]->image, BLOCK_SIZE);
        else
            memset(to, 0, BLOCK_SIZE);
        page_seal(to, META_GROUP, checkpoint, 0, page);
        return;
    }
    memset(to, 0, BLOCK_SIZE);
    if (page >= r->bitmap_page0 && page < r->bitmap_page0 + r->n_bitmap_pages) {
        slabs_fill_page(s, page - r->bitmap_page0, to);
        page_seal(to, META_BITMAP, checkpoint, 0, page);
        return;
    }
    assert(page >= r->regions_page0 && page < r->regions_page0 + r->n_region_pages);
    struct regions_page *p = to;
    memcpy(p->entry, s->regions + (size_t)(page - r->regions_page0) * REGIONS_PER_PAGE, sizeof p->entry);
    page_seal(to, META_REGIONS, checkpoint, 0, page);
}

static bool write_meta(struct store *s)
{
    struct cycle *c = &s->cycle;
    for (; c->next_page < s->n_meta_pages; c->next_page++) {
        uint32_t page = c->next_page;
        if (!bit_get(s->meta_dirty, page))
            continue;
        struct write_op *w = idle_op(s, on_meta);
        if (!w)
            return false;
        bit_clear(s->meta_dirty, page);
        bool bit = !bit_get(s->root->place, page);
        (bit ? bit_set : bit_clear)(c->root->place, page);
        w->buf = buf_alloc_must(s->reactor->arena, BLOCK_SIZE);
        fill_page(s, page, w->buf->data);
        s->meta_crc[page] = ((const struct meta_header *)(const void *)w->buf->data)->crc;
        w->iov[0] = (struct iovec){w->buf->data, BLOCK_SIZE};
        dev_write(s->meta, w->iov, 1, meta_place(page, bit), 0, &w->op);
    }
    return c->in_flight == 0;
}

static void flush_meta(struct store *s)
{
    dev_flush(s->meta, &idle_op(s, on_meta)->op);
}

static void write_root(struct store *s)
{
    struct root *r = s->cycle.root;
    struct write_op *w = idle_op(s, on_meta);
    r->meta_crc = crc32c(s->meta_crc, s->n_meta_pages * sizeof s->meta_crc[0]);
    root_seal(r);
    w->iov[0] = (struct iovec){r, sizeof *r};
    dev_write(s->meta, w->iov, 1, (r->checkpoint & 1) * BLOCK_SIZE, IO_DURABLE, &w->op);
}

/* ---- the root is durable ---- */

static void unpin_copied(struct group *g)
{
    uint64_t slot = g->copied_first > g->log.base.slot ? g->copied_first : g->log.base.slot + 1;
    for (; g->copied_first && slot <= g->copied_last && slot <= g->last; slot++) {
        struct slot_info *i = log_slot(g, slot);
        i->pinned = false;
        if (i->entry && slot <= g->applied) {
            entry_unref(i->entry);
            i->entry = NULL;
        }
    }
    g->copied_first = g->copied_last = 0;
}

static void finish(struct store *s)
{
    struct cycle *c = &s->cycle;
    *s->root = *c->root;
    slabs_promote(s);
    s->clean_bytes[s->gen ^ 1u] = 0;
    wal_trim(s->wal, &c->tail, c->redo.lsn);
    c->state = CYCLE_IDLE;
    write_pace_end(s);
    s->checkpoints_done++;
    c->loose_left = s->n_loose;
    slabs_reserve_again(s);
    for (unsigned p = 0; p < GROUPS_MAX; p++) {
        struct group *g = s->groups[p];
        if (!g)
            continue;
        unpin_copied(g);
        bool rises = g->image->group && g->next_floor > g->log.base.slot;
        if (rises)
            log_raise_floor(g, g->next_floor);
        g->image->group = 0;
        if (rises && s->cb.on_trimmed)
            s->cb.on_trimmed(s->cb.user, g->id, g->next_floor);
    }
    for (unsigned p = 0; p < GROUPS_MAX && !s->dead; p++) {
        struct group *g = s->groups[p];
        if (!g)
            continue;
        g->clean_blocks[s->gen ^ 1u] = 0;
        jump_on_root(s, g);
        copy_on_root(s, g);
    }
    store_schedule_kick(s); /* credits, room, the next one */
}

static bool step(struct store *s)
{
    struct cycle *c = &s->cycle;
    switch (c->state) {
    case CYCLE_IDLE:
        return false;
    case CYCLE_COMMIT:
        if (s->durable_token < c->token || s->reads_in_flight[c->read_epoch & 1] > 0)
            return false;
        c->state = CYCLE_LOAD;
        return true;
    case CYCLE_LOAD:
    case CYCLE_WRITE:
    case CYCLE_RELOCATE:
    case CYCLE_LEAVES: {
        enum cycle_state before = c->state;
        write_back_advance(s);
        c->next_extent = 0;
        return c->state != before;
    }
    case CYCLE_FLUSH:
        if (!flush_extents(s))
            return false;
        fix_positions(s);
        c->next_page = 0;
        c->state = CYCLE_META;
        return true;
    case CYCLE_META:
        if (!write_meta(s))
            return false;
        c->state = CYCLE_META_FLUSH;
        flush_meta(s);
        return false;
    case CYCLE_META_FLUSH:
        if (c->in_flight > 0)
            return false;
        c->state = CYCLE_ROOT;
        write_root(s);
        return false;
    case CYCLE_ROOT:
        if (c->in_flight > 0)
            return false;
        finish(s);
        return false;
    }
    return false;
}

void cycle_advance(struct store *s)
{
    if (s->cycle.advancing)
        return;
    s->cycle.advancing = true;
    while (!s->dead && step(s))
        ;
    s->cycle.advancing = false;
}
