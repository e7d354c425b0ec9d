/* Recovery: what of the ring is the log, what is a torn tail, and what was lost by rot (store.md §2 "Recovery").
 *
 * The walk takes batches from the root's tail on while they are good and chained. At the first that is not, the survey looks at
 * every page of the rest of the lap for headers of this WAL. What it sees proves how far batches were durable: the highest
 * durable_seq. A bad batch above that was in flight: a torn tail, the log ends before it. One at or below was durable once: rot.
 * "Calling a batch rot because a later one is valid while several were in flight" and "calling rot a torn tail" are both wrong
 * (protocol.md).
 *
 * A batch that refers to slabs (WRITE_REF) is as good as they are, as long as nobody vouches for it: they are read and held against its checksums. What
 * somebody vouches for is not looked at: later entries may have been written over it in place, and what is rotten in it is found by who reads it.
 *
 * What always holds:
 *  - nothing is told twice, and nothing of a batch that is cut.
 *  - a rotten batch never shortens the log: its payload's loss is told entry by entry; when its descriptors are gone, its
 *    successor's front tells what it held; when that is gone too, the daemon must not start.
 *  - a batch of a lower incarnation at or beyond the START of a higher one was cut once and is nothing. */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/mark.h"
#include "replica/wal_internal.h"

/* A header of this WAL in this lap, beyond the place where the walk stopped first. */
struct sighting {
    uint64_t lsn, seq, prev_lsn, durable_seq, incarnation, start_lsn;
    uint32_t prev_crc;
    bool stale;
};

struct lost_run {
    uint64_t group, first, last; /* first 0: none */
    struct ballot e;
};

struct wal_recovery {
    struct wal *w;
    struct wal_replay replay;
    uint64_t limit_lsn; /* one lap from the tail */
    uint64_t root_redo_lsn;

    /* the walk */
    struct wal_position next; /* where the next batch should be, with its seq and chain */
    uint64_t incarnation, start_lsn; /* of the batch before, when `linked` */
    bool linked;
    bool gap; /* the batch before is rotten and unreadable: what `next` says of it counts */
    struct lost_run lost;

    /* the slabs of the batch at `next`, when nobody vouches for it */
    struct {
        const struct wal_batch *batch; /* in the window */
        struct wal_cursor cursor;
        const struct wal_record *record;
        uint32_t slab, n; /* of the record: those that are being read */
        bool done, good, again;
        struct buf *buf;
    } refs;
    uint64_t vouched_seq; /* by the root */
    uint32_t flush_next;
    bool refs_read; /* some were: they must be flushed */

    /* the survey */
    bool surveyed;
    uint64_t survey_lsn;
    struct sighting *sighting;
    uint32_t n_sightings, cap_sightings;
    uint64_t proven_seq;
    uint64_t max_incarnation;

    /* the window: what was read last */
    struct buf *window;
    uint64_t window_lsn;
    uint32_t window_bytes;
    void (*resume)(struct wal_recovery *r);
    struct io_op op;
    struct iovec iov;
    char why[200];
};

static void walk(struct wal_recovery *r);
static void survey(struct wal_recovery *r);

void wal_recovery_free(struct wal_recovery *r)
{
    buf_unref(r->window);
    buf_unref(r->refs.buf);
    free(r->sighting);
    free(r);
}

/* The end, good or bad. */
static void finish(struct wal_recovery *r, int err)
{
    struct wal *w = r->w;
    struct wal_replay replay = r->replay;
    char why[sizeof r->why];
    memcpy(why, r->why, sizeof why);
    w->recovery = NULL;
    w->state = err ? WAL_DEAD : WAL_RUNNING;
    wal_recovery_free(r);
    replay.on_done(replay.user, err, err ? why : NULL);
}

static void refuse(struct wal_recovery *r, int err, const char *fmt, ...) PRINTF_LIKE(3, 4);
static void refuse(struct wal_recovery *r, int err, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(r->why, sizeof r->why, fmt, ap);
    va_end(ap);
    finish(r, err);
}

/* A batch proves that a later checkpoint was in force than the one whose root was found: what that one freed has been used again. Starting from the older one would
 * drop entries or read reused slabs. */
static void refuse_stale_root(struct wal_recovery *r, uint64_t lsn)
{
    MARK("recovery: refused, stale root");
    refuse(r, -EIO, "the newest checkpoint's root is damaged: the WAL at LSN %" PRIu64 " was written after a later one than is left; replace this replica", lsn);
}

/* ---- the window ---- */

static void window_read(struct io_op *op)
{
    struct wal_recovery *r = container_of(op, struct wal_recovery, op);
    if (op->result != (int64_t)r->iov.iov_len) {
        int err = op->result < 0 ? (int)op->result : -EIO;
        refuse(r, err, "reading the WAL at byte %" PRIu64 " failed: %s", r->window_lsn % r->w->wal_bytes, strerror(-err));
        return;
    }
    r->window_bytes = (uint32_t)r->iov.iov_len;
    r->resume(r);
}

/* Reads on from lsn; resume(r) follows. Near the limit that goes over it, to the tail's pages, so that a batch which should not reach there is read whole: see
 * reaches_beyond. Only what begins before the limit is looked at. */
static void window_load(struct wal_recovery *r, uint64_t lsn, void (*resume)(struct wal_recovery *r))
{
    struct wal *w = r->w;
    uint64_t most = w->wal_bytes < WAL_BATCH_MAX_BYTES ? w->wal_bytes : WAL_BATCH_MAX_BYTES;
    if (!r->window)
        r->window = buf_alloc_must(w->reactor->arena, most);
    uint64_t rest = w->wal_bytes - lsn % w->wal_bytes;
    r->window_lsn = lsn;
    r->window_bytes = 0;
    r->resume = resume;
    r->iov = (struct iovec){ r->window->data, rest < most ? rest : most };
    r->op.fn = window_read;
    dev_read(w->dev, &r->iov, 1, lsn % w->wal_bytes, &r->op);
}

/* The bytes at lsn and how many there are; none when lsn is not in the window. */
static const uint8_t *window_at(const struct wal_recovery *r, uint64_t lsn, size_t *ret_len)
{
    if (lsn < r->window_lsn || lsn >= r->window_lsn + r->window_bytes) {
        *ret_len = 0;
        return NULL;
    }
    *ret_len = r->window_lsn + r->window_bytes - lsn;
    return r->window->data + (lsn - r->window_lsn);
}

/* As wal_check_batch, of what the window has at lsn. MORE: load it. */
static enum wal_check window_check(const struct wal_recovery *r, uint64_t lsn, const struct wal_batch **ret, size_t *ret_len)
{
    const uint8_t *p = window_at(r, lsn, ret_len);
    if (!p)
        return WAL_CHECK_MORE;
    enum wal_check c = wal_check_batch(r->w->salt, r->w->wal_bytes, lsn, p, *ret_len);
    *ret = (const void *)p;
    if (c == WAL_CHECK_MORE && r->window_lsn == lsn)
        return WAL_CHECK_BAD; /* longer than the longest */
    return c;
}

/* ---- telling ---- */

static void tell_lost(struct wal_recovery *r)
{
    struct lost_run *l = &r->lost;
    if (l->first == 0)
        return;
    r->w->stats.lost_slots += l->last - l->first + 1;
    r->replay.on_lost(r->replay.user, l->group, 0, l->first, l->last, &l->e);
    l->first = 0;
}

/* One entry's value is rotten, its descriptor is not. */
static void note_lost(struct wal_recovery *r, const struct entry_format *e)
{
    struct lost_run *l = &r->lost;
    struct ballot b = { .round = e->e_round };
    memcpy(b.proposer.b, e->e_proposer, sizeof b.proposer.b);
    MARK("recovery: an entry's value is rotten");
    if (l->first && l->group == e->group && l->last + 1 == e->slot && ballot_equal(&l->e, &b)) {
        l->last = e->slot;
        return;
    }
    tell_lost(r);
    *l = (struct lost_run){ .group = e->group, .first = e->slot, .last = e->slot, .e = b };
}

/* payload: the entry's pages, or NULL. False: refused. */
static bool tell_entry(struct wal_recovery *r, const struct wal_record *rec, struct wal_place place, const uint8_t *payload)
{
    uint32_t n_slabs, pages = wal_record_pages(rec);
    struct arena *a = r->w->reactor->arena;
    struct entry *e;
    size_t used;
    int err = entry_decode(a, wal_record_body(rec), rec->body_bytes, &e, &used);
    if (err) {
        refuse(r, err, "an entry in the WAL at LSN %" PRIu64 " cannot be taken: %s", place.desc_lsn,
               err == -ENOMEM ? "out of memory" : "it is malformed");
        return false;
    }
    if (payload) {
        /* A copy: the window is read over again, and a small entry must not pin a large buffer. */
        e->payload = buf_alloc_must(a, (size_t)pages * BLOCK_SIZE);
        memcpy(e->payload->data, payload, (size_t)pages * BLOCK_SIZE);
    }
    r->replay.on_entry(r->replay.user, e, place, wal_record_slabs(rec, &n_slabs), (rec->flags & (WAL_REFILL | WAL_ECHO)) != 0);
    entry_unref(e);
    return true;
}

/* All records but ENTRY. */
static void tell_record(struct wal_recovery *r, const struct wal_record *rec)
{
    const struct wal_replay *to = &r->replay;
    const struct wal_slot *s = (const void *)wal_record_body(rec);
    switch (rec->type) {
    case WAL_PROMISE:
        to->on_promise(to->user, (const void *)wal_record_body(rec));
        break;
    case WAL_CUT:
        to->on_cut(to->user, s->group, s->slot);
        break;
    case WAL_COMMIT:
        to->on_commit(to->user, s->group, s->slot);
        break;
    case WAL_FUZZY:
        to->on_fuzzy(to->user, s->group, s->slot);
        break;
    case WAL_NEEDS_COPY:
        to->on_needs_copy(to->user, (const void *)wal_record_body(rec));
        break;
    case WAL_GROUP:
        to->on_group(to->user, (const void *)wal_record_body(rec));
        break;
    default:
        assert(!"wal_check_batch lets no other type through");
    }
}

static bool payload_is_good(const struct wal_record *rec, const uint8_t *payload)
{
    const uint32_t *crc = (const void *)(wal_record_body(rec) + sizeof(struct entry_format));
    uint32_t n = wal_record_pages(rec);
    for (uint32_t i = 0; i < n; i++)
        if (crc32c(payload + (size_t)i * BLOCK_SIZE, BLOCK_SIZE) != crc[wal_page_block(rec, i)])
            return false;
    return true;
}

static const uint8_t *payload_at(const struct wal_batch *b, const struct wal_cursor *c)
{
    return (const uint8_t *)b + (size_t)c->payload_page * BLOCK_SIZE;
}

static bool batch_payload_is_good(const struct wal_batch *b)
{
    struct wal_cursor c;
    const struct wal_record *rec;
    wal_cursor_init(&c, b);
    while ((rec = wal_cursor_next(&c)))
        if (!payload_is_good(rec, payload_at(b, &c)))
            return false;
    return true;
}

/* ---- the slabs that a batch refers to ---- */

static bool batch_refers(const struct wal_batch *b)
{
    struct wal_cursor c;
    const struct wal_record *rec;
    wal_cursor_init(&c, b);
    while ((rec = wal_cursor_next(&c)))
        if (rec->type == WAL_WRITE_REF)
            return true;
    return false;
}

static void refs_next(struct wal_recovery *r);

static void refs_over(struct wal_recovery *r, bool good)
{
    MARK_IF(!good, "recovery: torn slab of a whole batch");
    r->refs.done = true;
    r->refs.good = good;
    buf_unref(r->refs.buf);
    r->refs.buf = NULL;
    walk(r);
}

static void refs_read(struct io_op *op)
{
    struct wal_recovery *r = container_of(op, struct wal_recovery, op);
    const struct wal_record *rec = r->refs.record;
    const struct entry_format *e = (const void *)wal_record_body(rec);
    const uint32_t *crc = (const void *)(e + 1);
    if (op->result != (int64_t)r->iov.iov_len && !r->refs.again) {
        r->refs.again = true; /* a transient error would cost a restart */
        refs_next(r);
        return;
    }
    if (op->result != (int64_t)r->iov.iov_len) {
        int err = op->result < 0 ? (int)op->result : -EIO;
        refuse(r, err, "reading a slab that the WAL batch at LSN %" PRIu64 " refers to failed: %s", r->refs.batch->lsn, strerror(-err));
        return;
    }
    uint32_t first = ref_head(e->block) + r->refs.slab * SLAB_BLOCKS;
    for (uint32_t i = 0; i < r->refs.n * SLAB_BLOCKS; i++)
        if (crc32c(r->refs.buf->data + (size_t)i * BLOCK_SIZE, BLOCK_SIZE) != crc[first + i]) {
            refs_over(r, false);
            return;
        }
    r->refs.slab += r->refs.n;
    r->refs.again = false;
    refs_next(r);
}

/* The next neighbours. */
static void refs_next(struct wal_recovery *r)
{
    uint32_t n = 0;
    const uint32_t *slab;
    while (r->refs.record && (slab = wal_record_slabs(r->refs.record, &n), r->refs.slab >= n)) {
        r->refs.record = wal_cursor_next(&r->refs.cursor);
        r->refs.slab = 0;
    }
    if (!r->refs.record) {
        refs_over(r, true);
        return;
    }
    struct dev *dev, *next;
    uint64_t off, at;
    uint32_t i = r->refs.slab, k = 1;
    if (!r->replay.slab_place || !r->replay.slab_place(r->replay.user, slab[i], &dev, &off)) {
        refuse(r, -EIO, "the WAL batch at LSN %" PRIu64 " refers to slab %" PRIu32 ", which is not there", r->refs.batch->lsn, slab[i]);
        return;
    }
    while (i + k < n && slab[i + k] == slab[i] + k && r->replay.slab_place(r->replay.user, slab[i + k], &next, &at) && next == dev)
        k++;
    r->refs.n = k;
    r->refs_read = true;
    r->iov = (struct iovec){ r->refs.buf->data, (size_t)k * SLAB_BYTES };
    r->op.fn = refs_read;
    dev_read(dev, &r->iov, 1, off, &r->op);
}

static void refs_begin(struct wal_recovery *r, const struct wal_batch *b)
{
    r->refs.batch = b;
    r->refs.done = r->refs.again = false;
    r->refs.buf = buf_alloc_must(r->w->reactor->arena, REF_SLABS_MAX * SLAB_BYTES);
    wal_cursor_init(&r->refs.cursor, b);
    r->refs.record = wal_cursor_next(&r->refs.cursor);
    r->refs.slab = 0;
    refs_next(r);
}

/* ---- a batch whose descriptors are rotten, told by its successor's front ---- */

static void tell_summary(struct wal_recovery *r, const struct wal_summary *s)
{
    const struct wal_replay *to = &r->replay;
    struct ballot e = { .round = s->e_round };
    memcpy(e.proposer.b, s->e_proposer, sizeof e.proposer.b);
    if (s->first) {
        MARK("recovery: slots lost with their descriptors");
        r->w->stats.lost_slots += s->last - s->first + 1;
        to->on_lost(to->user, s->group, s->cut, s->first, s->last, &e);
    } else if (s->cut) {
        to->on_cut(to->user, s->group, s->cut);
    }
    if (s->flags & WAL_SUMMARY_REFILL)
        return;
    struct wal_group_state *g = wal_states_get(&r->w->states, s->group);
    if (s->promised_round) {
        struct wal_promise p = { .group = s->group, .round = s->promised_round, .max_lease_ns = s->max_lease_ns };
        memcpy(p.proposer, s->promised_proposer, sizeof p.proposer);
        g->promised.round = p.round;
        memcpy(g->promised.proposer.b, p.proposer, sizeof p.proposer);
        g->max_lease_ns = p.max_lease_ns;
        to->on_promise(to->user, &p);
    }
    if (s->commit) {
        g->commit = s->commit;
        to->on_commit(to->user, s->group, s->commit);
    }
}

/* The echoes at the beginning of b: creations of groups, or all others. */
static bool tell_echoes(struct wal_recovery *r, const struct wal_batch *b, bool groups)
{
    struct wal_cursor c;
    const struct wal_record *rec;
    wal_cursor_init(&c, b);
    while ((rec = wal_cursor_next(&c)) && (rec->flags & WAL_ECHO)) {
        if ((rec->type == WAL_GROUP) != groups)
            continue;
        if (rec->type != WAL_ENTRY) {
            tell_record(r, rec);
            continue;
        }
        uint64_t at = (uint64_t)(wal_record_body(rec) - (const uint8_t *)b);
        if (!tell_entry(r, rec, (struct wal_place){ .desc_lsn = b->lsn + at }, NULL))
            return false;
    }
    return true;
}

/* b's front becomes that of the START batch should the log end here: it then stands at b's LSN with the same bytes, so that the
 * places of echoed entries hold for it too. */
static bool tell_gap(struct wal_recovery *r, const struct wal_batch *b)
{
    struct wal *w = r->w;
    r->gap = false;
    if (b->flags & WAL_AFTER_PAD) { /* what rotted was a PAD: nothing lost, nothing to be named */
        MARK("recovery: a PAD was rotten");
        wal_front_clear(w->front);
        return true;
    }
    wal_front_read(w->front, b);
    if (!tell_echoes(r, b, true))
        return false;
    for (uint32_t i = 0; i < w->front->n_summaries; i++)
        tell_summary(r, &w->front->summary[i]);
    return tell_echoes(r, b, false);
}

/* ---- a readable batch ---- */

static bool replay_records(struct wal_recovery *r, const struct wal_batch *b, bool rotten)
{
    struct wal *w = r->w;
    struct wal_cursor c;
    const struct wal_record *rec;
    wal_front_clear(w->open_front);
    wal_cursor_init(&c, b);
    while ((rec = wal_cursor_next(&c))) {
        if (rec->flags & WAL_ECHO)
            continue;
        if (!wal_front_note(w->open_front, rec)) {
            refuse(r, -EIO, "the WAL batch at LSN %" PRIu64 " breaks the rules of its format", b->lsn);
            return false;
        }
        wal_states_note(&w->states, rec);
        uint32_t pages = wal_record_pages(rec);
        if (rotten && !payload_is_good(rec, payload_at(b, &c))) {
            note_lost(r, (const void *)wal_record_body(rec));
            continue;
        }
        tell_lost(r);
        if (!wal_record_is_entry(rec)) {
            tell_record(r, rec);
            continue;
        }
        struct wal_place place = { .desc_lsn = b->lsn + (uint64_t)(wal_record_body(rec) - (const uint8_t *)b) };
        if (pages)
            place.payload_lsn = b->lsn + (uint64_t)c.payload_page * BLOCK_SIZE;
        if (!tell_entry(r, rec, place, pages ? payload_at(b, &c) : NULL))
            return false;
    }
    tell_lost(r);
    wal_front_finish(w->open_front, &w->states);
    struct wal_front *f = w->front;
    w->front = w->open_front;
    w->open_front = f;
    return true;
}

/* b stands at r->next, chained, with its payload in the window. */
static bool replay_batch(struct wal_recovery *r, const struct wal_batch *b, bool rotten)
{
    struct wal *w = r->w;
    if (b->redo_lsn > r->root_redo_lsn) {
        refuse_stale_root(r, b->lsn);
        return false;
    }
    if (r->gap && !tell_gap(r, b))
        return false;
    if (!replay_records(r, b, rotten))
        return false;
    w->stats.rotten_batches += rotten;
    wal_index_push(&w->index, &r->next, b->desc_pages);
    r->refs.done = false;
    r->next = (struct wal_position){
        .lsn = b->lsn + wal_batch_bytes(b), .seq = b->seq + 1, .prev_lsn = b->lsn, .prev_crc = b->crc
    };
    r->linked = true;
    r->incarnation = b->incarnation;
    r->start_lsn = b->start_lsn;
    if (b->incarnation > r->max_incarnation)
        r->max_incarnation = b->incarnation;
    return true;
}

/* ---- the walk ---- */

static bool chained(const struct wal_recovery *r, const struct wal_batch *b)
{
    if (b->seq != r->next.seq || b->prev_lsn != r->next.prev_lsn || b->prev_crc != r->next.prev_crc)
        return false;
    if (b->lsn + wal_batch_bytes(b) > r->limit_lsn)
        return false;
    if (!r->linked)
        return true;
    return b->flags & WAL_START ? b->incarnation > r->incarnation
                                : b->incarnation == r->incarnation && b->start_lsn == r->start_lsn;
}

static void flushed(struct io_op *op);

/* The log ends at r->next. (4) What was read may not be durable yet: flush; (5) then write the START batch. */
static void walk_end(struct wal_recovery *r)
{
    struct wal *w = r->w;
    for (uint32_t i = 0; i < r->n_sightings; i++)
        if (!r->sighting[i].stale && r->sighting[i].lsn > r->next.lsn)
            w->stats.torn_batches++;
    w->head = r->next;
    if (w->redo_lsn > w->head.lsn) /* rot of the newest batches, which none vouches for, reached below the checkpoint's position */
        w->redo_lsn = w->head.lsn;
    MARK_IF(w->head.lsn / w->wal_bytes != w->tail.lsn / w->wal_bytes, "recovery: the log wraps");
    w->incarnation = r->max_incarnation + 1;
    uint32_t pages = (uint32_t)((sizeof(struct wal_batch) + wal_front_bytes(w->front) + BLOCK_SIZE - 1) / BLOCK_SIZE);
    if (w->head.lsn + (pages + 1) * (uint64_t)BLOCK_SIZE > r->limit_lsn) {
        MARK("recovery: refused, WAL full to its last page");
        refuse(r, -ENOSPC, "the WAL is full to its last page: no batch fits at LSN %" PRIu64, w->head.lsn);
        return;
    }
    r->op.fn = flushed;
    dev_flush(w->dev, &r->op);
}

static void flushed(struct io_op *op)
{
    struct wal_recovery *r = container_of(op, struct wal_recovery, op);
    if (op->result < 0) {
        refuse(r, (int)op->result, "flushing the WAL and what it refers to failed: %s", strerror((int)-op->result));
        return;
    }
    struct dev *slabs = r->refs_read ? r->replay.slab_dev(r->replay.user, r->flush_next++) : NULL;
    if (slabs)
        dev_flush(slabs, &r->op);
    else
        wal_start(r->w);
}

/* (6) only now answer anybody. */
void wal_started(struct wal *w)
{
    struct wal_recovery *r = w->recovery;
    if (w->state == WAL_DEAD)
        refuse(r, -EIO, "writing the WAL's START batch at byte %" PRIu64 " failed", w->start_lsn % w->wal_bytes);
    else
        finish(r, 0);
}

/* r->next was durable once and its descriptors are unreadable: goes on at its successor, whose front names what it held.
 * False: refused. */
static bool skip_rotten(struct wal_recovery *r)
{
    const struct sighting *next = NULL;
    for (uint32_t i = 0; i < r->n_sightings && !r->gap; i++) {
        const struct sighting *s = &r->sighting[i];
        if (!s->stale && s->prev_lsn == r->next.lsn && s->seq == r->next.seq + 1)
            next = s;
    }
    if (!next) {
        MARK("recovery: refused, damage beyond what neighbours tell");
        /* Rather no service from this replica than one that forgot what it promised. */
        refuse(r, -EIO,
               "WAL batch %" PRIu64 " at byte %" PRIu64 " was durable and is damaged beyond what its neighbours tell: replace this replica",
               r->next.seq, r->next.lsn % r->w->wal_bytes);
        return false;
    }
    MARK("recovery: unreadable batch skipped");
    wal_index_push(&r->w->index, &r->next, 0);
    r->w->stats.rotten_batches++;
    r->next = (struct wal_position){ .lsn = next->lsn, .seq = next->seq, .prev_lsn = next->prev_lsn, .prev_crc = next->prev_crc };
    r->linked = false;
    r->gap = true;
    return true;
}

static void survey_begin(struct wal_recovery *r)
{
    r->survey_lsn = r->next.lsn;
    survey(r);
}

/* The writer never went over the tail of the root in force. */
static bool reaches_beyond(const struct wal_recovery *r, const struct wal_batch *b)
{
    return b->lsn + wal_batch_bytes(b) > r->limit_lsn;
}

static void walk(struct wal_recovery *r)
{
    for (;;) {
        if (r->next.lsn >= r->limit_lsn) {
            walk_end(r);
            return;
        }
        const struct wal_batch *b;
        size_t len;
        enum wal_check c = window_check(r, r->next.lsn, &b, &len);
        bool ok = c == WAL_CHECK_OK && chained(r, b);
        if (c == WAL_CHECK_MORE || (ok && !(b->flags & WAL_PAD) && wal_batch_bytes(b) > len)) {
            window_load(r, r->next.lsn, walk);
            return;
        }
        if (ok && reaches_beyond(r, b)) {
            refuse_stale_root(r, b->lsn);
            return;
        }
        bool good = ok && (b->flags & WAL_PAD || batch_payload_is_good(b));
        uint64_t vouched = r->proven_seq > r->vouched_seq ? r->proven_seq : r->vouched_seq;
        bool refers = good && !(b->flags & WAL_PAD) && b->seq > vouched && batch_refers(b);
        if ((!good || refers) && !r->surveyed) {
            survey_begin(r);
            return;
        }
        if (refers && !r->refs.done) {
            refs_begin(r, b);
            return;
        }
        good = good && (!refers || r->refs.good);
        if (!good && r->next.seq > r->proven_seq) { /* a torn tail */
            MARK("recovery: torn tail cut");
            MARK_IF(r->gap, "recovery: torn tail behind an unreadable batch");
            MARK_IF(ok, "recovery: torn batch with whole descriptors");
            r->w->stats.torn_batches += ok;
            if (r->gap && !ok)
                skip_rotten(r); /* refuses: what was to name the batch before is gone */
            else if (!r->gap || tell_gap(r, b))
                walk_end(r);
            return;
        }
        if (ok ? !replay_batch(r, b, !good) : !skip_rotten(r))
            return;
    }
}

/* ---- the survey ---- */

static void survey_note(struct wal_recovery *r, const struct wal_batch *b)
{
    if (r->n_sightings == r->cap_sightings) {
        r->cap_sightings = r->cap_sightings ? r->cap_sightings * 2 : 64;
        r->sighting = realloc(r->sighting, r->cap_sightings * sizeof r->sighting[0]);
        if (!r->sighting)
            abort();
    }
    r->sighting[r->n_sightings++] = (struct sighting){
        .lsn = b->lsn,
        .seq = b->seq,
        .prev_lsn = b->prev_lsn,
        .durable_seq = b->durable_seq,
        .incarnation = b->incarnation,
        .start_lsn = b->start_lsn,
        .prev_crc = b->prev_crc,
    };
}

static int by_incarnation(const void *a, const void *b)
{
    const struct sighting *x = a, *y = b;
    if (x->incarnation != y->incarnation)
        return x->incarnation < y->incarnation ? -1 : 1;
    return x->lsn < y->lsn ? -1 : x->lsn > y->lsn;
}

/* What an earlier recovery cut is nothing: a later incarnation began at or before it. Incarnations begin one behind the other,
 * so the next higher one that was seen decides. */
static void survey_end(struct wal_recovery *r)
{
    struct sighting *s = r->sighting;
    uint32_t n = r->n_sightings;
    if (n)
        qsort(s, n, sizeof *s, by_incarnation);
    uint64_t higher = 0, higher_start = UINT64_MAX;
    for (uint32_t i = n; i-- > 0;) {
        if (i + 1 < n && s[i + 1].incarnation != s[i].incarnation && s[i + 1].start_lsn < higher_start) {
            higher = s[i + 1].incarnation;
            higher_start = s[i + 1].start_lsn;
        }
        s[i].stale = (higher > s[i].incarnation && higher_start <= s[i].lsn) || (r->linked && s[i].incarnation < r->incarnation);
        if (!s[i].stale && s[i].durable_seq > r->proven_seq)
            r->proven_seq = s[i].durable_seq;
        MARK_IF(s[i].stale, "recovery: batch of a cut incarnation");
        if (s[i].incarnation > r->max_incarnation)
            r->max_incarnation = s[i].incarnation;
    }
    r->surveyed = true;
    walk(r);
}

static void survey(struct wal_recovery *r)
{
    while (r->survey_lsn < r->limit_lsn) {
        const struct wal_batch *b;
        size_t len;
        enum wal_check c = window_check(r, r->survey_lsn, &b, &len);
        if (c == WAL_CHECK_MORE) {
            window_load(r, r->survey_lsn, survey);
            return;
        }
        if (c == WAL_CHECK_OK && reaches_beyond(r, b)) {
            refuse_stale_root(r, b->lsn);
            return;
        }
        if (c == WAL_CHECK_OK && r->survey_lsn > r->next.lsn)
            survey_note(r, b);
        const uint8_t *page = window_at(r, r->survey_lsn, &len);
        if (c == WAL_CHECK_BAD && wal_check_batch(r->w->salt, r->w->wal_bytes, r->survey_lsn + r->w->wal_bytes, page, len) == WAL_CHECK_OK) {
            refuse_stale_root(r, r->survey_lsn + r->w->wal_bytes); /* a lap ahead of what the root's tail allows */
            return;
        }
        /* Page by page also behind a good header: a PAD's pages, or a torn batch's, may hold something older. */
        r->survey_lsn += BLOCK_SIZE;
    }
    survey_end(r);
}

void wal_recover(struct wal *w, const struct root *root, const struct wal_replay *replay)
{
    assert(w->state == WAL_NEW);
    struct wal_recovery *r = calloc(1, sizeof *r);
    if (!r)
        abort();
    w->state = WAL_RECOVERING;
    w->recovery = r;
    w->redo_lsn = r->root_redo_lsn = root->redo_lsn;
    r->vouched_seq = root->durable_seq;
    w->tail = (struct wal_position){
        .lsn = root->tail_lsn, .seq = root->tail_seq, .prev_lsn = root->tail_prev_lsn, .prev_crc = root->tail_prev_crc
    };
    assert(w->tail.lsn % BLOCK_SIZE == 0 && w->tail.seq > 0);
    r->w = w;
    r->replay = *replay;
    r->next = w->tail;
    r->limit_lsn = w->tail.lsn + w->wal_bytes;
    window_load(r, r->next.lsn, walk);
}
