/* Appending, closing and writing batches.
 *
 * A record goes into the open batch. A batch is closed (it gets its place, its chain and its CRC) in the turn hook when a write
 * slot is free, or at once when the next record may not stand in it; then it is written, or waits in the queue for a slot. At
 * queue depth one nothing ever waits: a record is written in the turn in which it was appended.
 *
 * What always holds:
 *  - places are given in sequence order: [tail, head) is one chain of batches, head.prev_* describe the last of them.
 *  - durable_seq counts batches durable without a gap, and callers hear of them in that order; a batch that is held is not durable.
 *  - no write overlaps a batch at or above the tail, a write in flight, or a read in flight. */
#include "replica/wal.h"

#include <errno.h>
#include <stdlib.h>

#include "base/mark.h"
#include "replica/wal_internal.h"

static void wal_turn(struct turn_hook *h);

struct wal *wal_new(struct reactor *r, struct dev *dev, const uint8_t salt[16], const struct wal_callbacks *cb)
{
    struct wal *w = calloc(1, sizeof *w);
    if (!w)
        return NULL;
    w->open_front = calloc(1, sizeof *w->open_front);
    w->front = calloc(1, sizeof *w->front);
    if (!w->open_front || !w->front) {
        free(w->open_front);
        free(w->front);
        free(w);
        return NULL;
    }
    w->reactor = r;
    w->dev = dev;
    w->cb = *cb;
    memcpy(w->salt, salt, sizeof w->salt);
    w->wal_bytes = dev->size_bytes & ~(uint64_t)(BLOCK_SIZE - 1);
    uint64_t max = w->wal_bytes / 8 & ~(uint64_t)(BLOCK_SIZE - 1);
    w->batch_max_bytes = max < WAL_BATCH_MAX_BYTES ? (uint32_t)max : WAL_BATCH_MAX_BYTES;
    assert(w->batch_max_bytes >= WAL_ENTRY_OVERHEAD + BLOCK_SIZE);
    list_init(&w->queue);
    list_init(&w->writing);
    list_init(&w->spare);
    list_init(&w->reads);
    w->small_in_flight = WAL_IN_FLIGHT_MAX;
    w->hook.fn = wal_turn;
    reactor_add_hook(r, &w->hook);
    return w;
}

/* ---- batches in memory ---- */

static struct wal_write *write_get(struct wal *w)
{
    struct list *n = list_pop_front(&w->spare);
    struct wal_write *b = n ? container_of(n, struct wal_write, link) : malloc(sizeof *b);
    if (!b)
        abort();
    list_init(&b->link);
    b->w = w;
    b->desc = NULL;
    b->desc_bytes = b->n_records = b->payload_pages = b->flags = 0;
    b->lsn = b->bytes = b->seq = b->token = 0;
    b->has_token = b->done = false;
    b->holds = 0;
    b->n_entries = 0;
    b->n_iov = 1; /* [0] is the descriptors' */
    return b;
}

/* Gives back what the batch holds of others. */
static void write_drop(struct wal_write *b)
{
    for (uint32_t i = 0; i < b->n_entries; i++)
        entry_unref(b->placed[i].e);
    b->n_entries = 0;
    buf_unref(b->desc);
    b->desc = NULL;
}

static void write_put(struct wal_write *b)
{
    write_drop(b);
    list_push_front(&b->w->spare, &b->link);
}

/* Room for `bytes` bytes of descriptors. */
static void desc_reserve(struct wal_write *b, uint32_t bytes)
{
    if (bytes < BLOCK_SIZE)
        bytes = BLOCK_SIZE; /* smaller ones are not aligned */
    if (b->desc && bytes <= b->desc->cap)
        return;
    struct buf *more = buf_alloc_must(b->w->reactor->arena, bytes);
    if (b->desc)
        memcpy(more->data, b->desc->data, b->desc_bytes);
    buf_unref(b->desc);
    b->desc = more;
}

static void list_drop_writes(struct list *l, bool drop)
{
    struct list *n;
    while ((n = list_pop_front(l))) {
        struct wal_write *b = container_of(n, struct wal_write, link);
        if (drop)
            write_drop(b);
        free(b);
    }
}

void wal_free(struct wal *w)
{
    if (!w)
        return;
    for (struct turn_hook **p = &w->reactor->hooks; *p; p = &(*p)->next)
        if (*p == &w->hook) {
            *p = w->hook.next;
            break;
        }
    if (w->recovery)
        wal_recovery_free(w->recovery);
    wal_reads_free(w);
    if (w->open)
        list_push_back(&w->queue, &w->open->link);
    list_drop_writes(&w->queue, true);
    list_drop_writes(&w->writing, true);
    list_drop_writes(&w->spare, false);
    free(w->index.entry);
    free(w->states.state);
    free(w->front);
    free(w->open_front);
    free(w);
}

/* ---- closing ---- */

/* Ring pages from lsn to the ring's end. */
static uint64_t pages_to_end(const struct wal *w, uint64_t lsn)
{
    return (w->wal_bytes - lsn % w->wal_bytes) / BLOCK_SIZE;
}

/* Above this no byte may be overwritten: kept batches, and those whose writes are under way. */
static uint64_t ring_floor(const struct wal *w)
{
    return w->tail.lsn < w->durable_lsn ? w->tail.lsn : w->durable_lsn;
}

/* Gives the batch its place at the head and finishes its descriptor pages. */
static void write_place(struct wal *w, struct wal_write *b, uint32_t desc_pages, uint32_t front_bytes, uint32_t n_summaries)
{
    b->lsn = w->head.lsn;
    b->seq = w->head.seq;
    b->bytes = ((uint64_t)desc_pages + b->payload_pages) * BLOCK_SIZE;
    assert(b->lsn + b->bytes <= ring_floor(w) + w->wal_bytes); /* wal_room() was asked */

    desc_reserve(b, desc_pages * BLOCK_SIZE);
    memset(b->desc->data + b->desc_bytes, 0, desc_pages * BLOCK_SIZE - b->desc_bytes);
    struct wal_batch *h = (struct wal_batch *)(void *)b->desc->data;
    *h = (struct wal_batch){
        .magic = WAL_MAGIC,
        .version = DISK_VERSION,
        .lsn = b->lsn,
        .seq = b->seq,
        .prev_lsn = w->head.prev_lsn,
        .prev_crc = w->head.prev_crc,
        .flags = b->flags,
        .desc_pages = desc_pages,
        .payload_pages = b->payload_pages,
        .n_summaries = n_summaries,
        .n_records = b->n_records,
        .durable_seq = w->durable_seq,
        .incarnation = w->incarnation,
        .start_lsn = w->start_lsn,
        .redo_lsn = w->redo_lsn,
        .desc_bytes = b->desc_bytes,
        .front_bytes = front_bytes,
    };
    h->crc = wal_header_crc(w->salt, h);
    b->iov[0] = (struct iovec){ b->desc->data, (size_t)desc_pages * BLOCK_SIZE };

    wal_index_push(&w->index, &w->head, desc_pages);
    w->head = (struct wal_position){ .lsn = b->lsn + b->bytes, .seq = b->seq + 1, .prev_lsn = b->lsn, .prev_crc = h->crc };
    w->stats.batches++;
    w->stats.bytes += b->bytes;
    list_push_back(&w->queue, &b->link);
}

/* The front of the batch before, at the beginning of the descriptors. */
static void write_front(struct wal_write *b, const struct wal_front *f)
{
    b->desc_bytes = (uint32_t)sizeof(struct wal_batch) + wal_front_bytes(f);
    desc_reserve(b, b->desc_bytes);
    b->n_records = f->n_echoes;
    wal_front_write(f, b->desc->data + sizeof(struct wal_batch));
}

static uint32_t pages_of(uint32_t bytes)
{
    return (bytes + BLOCK_SIZE - 1) / BLOCK_SIZE;
}

/* A batch never wraps: the rest of the ring becomes a PAD, of which only the descriptors are written. */
static void close_pad(struct wal *w)
{
    struct wal_write *b = write_get(w);
    write_front(b, w->front);
    uint32_t desc_pages = pages_of(b->desc_bytes);
    uint64_t rest = pages_to_end(w, w->head.lsn);
    assert(desc_pages <= rest);
    MARK("wal: wrapped");
    b->flags = WAL_PAD;
    b->payload_pages = (uint32_t)(rest - desc_pages);
    write_place(w, b, desc_pages, wal_front_bytes(w->front), w->front->n_summaries);
}

static void close_open(struct wal *w)
{
    struct wal_write *b = w->open;
    w->open = NULL;
    wal_front_finish(w->open_front, &w->states);
    uint32_t desc_pages = pages_of(b->desc_bytes);
    uint64_t rest = pages_to_end(w, w->head.lsn);
    if (desc_pages + b->payload_pages > rest) {
        assert(!(b->flags & WAL_START));
        close_pad(w);
        b->flags |= WAL_AFTER_PAD;
    } else if (desc_pages + b->payload_pages == rest - 1) {
        MARK("wal: page added, a PAD needs two");
        desc_pages++; /* a PAD needs two pages: leave none or enough */
    }
    assert(((uint64_t)desc_pages + b->payload_pages) * BLOCK_SIZE <= w->batch_max_bytes);
    write_place(w, b, desc_pages, wal_front_bytes(w->front), w->front->n_summaries);

    struct wal_front *closed = w->open_front;
    w->open_front = w->front;
    w->front = closed;
    wal_front_clear(w->open_front);

    if (!w->cb.on_placed)
        return;
    uint64_t payload_lsn = b->lsn + (uint64_t)desc_pages * BLOCK_SIZE;
    for (uint32_t i = 0; i < b->n_entries; i++) {
        const struct wal_placed *p = &b->placed[i];
        struct wal_place place = { .desc_lsn = b->lsn + p->body_at };
        if (p->pages)
            place.payload_lsn = payload_lsn + (uint64_t)p->payload_page * BLOCK_SIZE;
        w->cb.on_placed(w->cb.user, p->e, place);
    }
}

/* ---- writing ---- */

static void write_done(struct io_op *op);
static void count_durable(struct wal *w);

static void submit(struct wal *w)
{
    while (w->in_flight < WAL_IN_FLIGHT_MAX && !list_empty(&w->queue)) {
        struct wal_write *b = container_of(w->queue.next, struct wal_write, link);
        if (wal_read_conflicts(w, b->lsn, b->bytes))
            return; /* the read's end calls the hook's turn */
        list_remove(&b->link);
        list_push_back(&w->writing, &b->link);
        w->in_flight++;
        b->submitted_ns = io_now(w->reactor);
        b->op.fn = write_done;
        dev_write(w->dev, b->iov, b->n_iov, b->lsn % w->wal_bytes, IO_DURABLE, &b->op);
    }
}

/* Each durable write is a flush of the disk, flushes wait for each other, and what comes meanwhile makes the next batch larger. A large one is mostly transfer. */
static unsigned in_flight_for(const struct wal *w, const struct wal_write *b)
{
    return (uint64_t)b->payload_pages * BLOCK_SIZE < WAL_BULK_BYTES ? w->small_in_flight : WAL_IN_FLIGHT_MAX;
}

void wal_set_small_in_flight(struct wal *w, unsigned n)
{
    assert(n >= 1 && n <= WAL_IN_FLIGHT_MAX);
    w->small_in_flight = n;
}

void wal_kick(struct wal *w)
{
    if (w->state != WAL_RUNNING)
        return;
    submit(w);
    if (w->open && w->in_flight < in_flight_for(w, w->open) && list_empty(&w->queue)) {
        close_open(w);
        submit(w);
    }
}

static void wal_turn(struct turn_hook *h)
{
    wal_kick(container_of(h, struct wal, hook));
}

static void wal_die(struct wal *w, int err)
{
    MARK("wal: write failed");
    w->state = WAL_DEAD;
    if (w->recovery) /* only the START batch is written then */
        wal_started(w);
    else
        w->cb.on_error(w->cb.user, err);
}

static void note_latency(struct wal *w, const struct wal_write *b)
{
    uint64_t ns = io_now(w->reactor) - b->submitted_ns;
    w->stats.write_ns_ewma = w->stats.write_ns_ewma ? (w->stats.write_ns_ewma * 7 + ns) / 8 : ns;
}

/* Batches complete in any order; callers hear of them in sequence order (A5 "batches complete in order"). */
static void write_done(struct io_op *op)
{
    struct wal_write *b = container_of(op, struct wal_write, op);
    struct wal *w = b->w;
    w->in_flight--;
    b->done = true;
    if (w->state == WAL_DEAD || op->result != (int64_t)(b->flags & WAL_PAD ? b->iov[0].iov_len : b->bytes)) {
        int err = op->result < 0 ? (int)op->result : -EIO;
        list_remove(&b->link);
        write_put(b);
        if (w->state != WAL_DEAD)
            wal_die(w, err);
        return;
    }
    note_latency(w, b);
    count_durable(w);
}

struct wal_write *wal_hold(struct wal *w)
{
    assert(w->open || w->state == WAL_DEAD);
    if (w->open)
        w->open->holds++;
    return w->open;
}

void wal_release(struct wal *w, struct wal_write *b)
{
    if (w->state == WAL_DEAD)
        return;
    assert(b && b->holds > 0);
    if (--b->holds == 0 && b->done)
        count_durable(w);
}

/* What is durable from the beginning on, and tells of it. */
static void count_durable(struct wal *w)
{
    uint64_t token = 0;
    bool has_token = false, started = false;
    while (!list_empty(&w->writing)) {
        struct wal_write *b = container_of(w->writing.next, struct wal_write, link);
        if (!b->done) {
            MARK("wal: batch done before an earlier one");
            break;
        }
        if (b->holds > 0) {
            MARK("wal: batch done before the slabs that it refers to");
            break;
        }
        list_remove(&b->link);
        assert(b->seq == w->durable_seq + 1);
        w->durable_seq = b->seq;
        w->durable_lsn = b->lsn + b->bytes;
        w->stats.durable_submitted_ns = b->submitted_ns;
        if (b->has_token) {
            token = b->token;
            has_token = true;
        }
        started |= (b->flags & WAL_START) != 0;
        write_put(b);
    }
    if (started)
        wal_started(w);
    if (has_token)
        w->cb.on_durable(w->cb.user, token);
}

void wal_start(struct wal *w)
{
    assert(!w->open && list_empty(&w->queue) && w->in_flight == 0);
    w->durable_lsn = w->start_lsn = w->head.lsn;
    w->durable_seq = w->head.seq - 1;
    w->open = write_get(w);
    w->open->flags = WAL_START;
    wal_front_clear(w->open_front);
    write_front(w->open, w->front);
    close_open(w);
    submit(w);
}

/* ---- appending ---- */

/* May a record with so many payload pages still stand in the open batch? One page is left for the one that closing may add. */
static bool open_has_room(const struct wal *w, uint32_t record_bytes, uint32_t payload_pages)
{
    const struct wal_write *b = w->open;
    uint32_t desc = b->desc_bytes + record_bytes;
    uint32_t pages = pages_of(desc) + 1 + b->payload_pages + payload_pages;
    return desc <= WAL_DESC_MAX_BYTES && pages * BLOCK_SIZE <= w->batch_max_bytes && b->n_entries < WAL_BATCH_ENTRIES_MAX && b->n_iov + 2 <= WAL_BATCH_IOV_MAX;
}

static void open_add_pages(struct wal_write *b, const struct entry *e, uint32_t first, uint32_t pages)
{
    if (pages == 0)
        return;
    b->payload_pages += pages;
    /* Neighbours in one buffer (a large request cut into entries) are one piece. */
    struct iovec *last = &b->iov[b->n_iov - 1];
    uint8_t *from = e->payload->data + e->payload_off + (size_t)first * BLOCK_SIZE;
    if (b->n_iov > 1 && (uint8_t *)last->iov_base + last->iov_len == from)
        last->iov_len += (size_t)pages * BLOCK_SIZE;
    else
        b->iov[b->n_iov++] = (struct iovec){ from, (size_t)pages * BLOCK_SIZE };
}

static void open_add_entry(struct wal_write *b, struct entry *e, const struct wal_record *r, uint32_t body_at)
{
    uint32_t pages = wal_record_pages(r), head = 0;
    b->placed[b->n_entries++] = (struct wal_placed){ entry_ref(e), body_at, b->payload_pages, pages };
    if (r->type == WAL_WRITE_REF) {
        head = ref_head(e->block);
        open_add_pages(b, e, 0, head);
    }
    open_add_pages(b, e, head < pages ? wal_page_block(r, head) : 0, pages - head);
}

/* r: the record with its body, zeroed to a multiple of 8. e: the entry of an ENTRY record, else NULL. */
static void append(struct wal *w, uint64_t token, const struct wal_record *r, struct entry *e)
{
    if (w->state == WAL_DEAD)
        return;
    assert(w->state == WAL_RUNNING);
    assert(token >= w->last_token);
    w->last_token = token;
    uint32_t bytes = wal_record_bytes(r), pages = wal_record_pages(r);
    if (w->open && !(open_has_room(w, bytes, pages) && wal_front_note(w->open_front, r))) {
        MARK("wal: batch full");
        close_open(w);
        submit(w);
        assert(!w->open); /* on_placed appends nothing */
    }
    if (!w->open) {
        w->open = write_get(w);
        write_front(w->open, w->front);
        bool fits = open_has_room(w, bytes, pages) && wal_front_note(w->open_front, r);
        assert(fits);
    }
    struct wal_write *b = w->open;
    uint32_t at = b->desc_bytes;
    desc_reserve(b, at + bytes);
    memcpy(b->desc->data + at, r, bytes);
    b->desc_bytes = at + bytes;
    b->n_records++;
    b->token = token;
    b->has_token = true;
    if (e)
        open_add_entry(b, e, r, at + (uint32_t)sizeof *r);
    wal_states_note(&w->states, r);
    w->stats.records++;
}

/* n_slabs 0: an ENTRY. */
static void append_entry(struct wal *w, uint64_t token, struct entry *e, const uint32_t *slab, uint32_t n_slabs, bool refill)
{
    uint64_t space[(WAL_RECORD_MAX_BYTES + 7) / 8];
    uint32_t encoded = (uint32_t)entry_encoded_bytes(e), n = encoded + 4 * n_slabs;
    struct wal_record *r = (struct wal_record *)space;
    assert(sizeof *r + n <= sizeof space);
    assert(e->slot > 0 && (e->kind == ENTRY_WRITE) == (e->payload != NULL));
    space[(sizeof *r + n - 1) / 8] = 0;
    *r = (struct wal_record){ .type = n_slabs ? WAL_WRITE_REF : WAL_ENTRY, .flags = refill ? WAL_REFILL : 0, .body_bytes = n };
    entry_encode(e, (uint8_t *)(r + 1));
    if (n_slabs)
        memcpy((uint8_t *)(r + 1) + encoded, slab, 4 * n_slabs);
    append(w, token, r, e);
}

void wal_append_entry(struct wal *w, uint64_t token, struct entry *e, bool refill)
{
    append_entry(w, token, e, NULL, 0, refill);
}

void wal_append_ref(struct wal *w, uint64_t token, struct entry *e, const uint32_t *slab, bool refill)
{
    uint32_t n = ref_slabs(e->block, e->nblocks);
    assert(e->kind == ENTRY_WRITE && n > 0);
    append_entry(w, token, e, slab, n, refill);
}

static void append_small(struct wal *w, uint64_t token, uint16_t type, const void *body, uint32_t n)
{
    uint64_t space[(sizeof(struct wal_record) + sizeof(struct wal_group)) / 8];
    struct wal_record *r = (struct wal_record *)space;
    assert(n % 8 == 0 && sizeof *r + n <= sizeof space);
    *r = (struct wal_record){ .type = type, .body_bytes = n };
    memcpy(r + 1, body, n);
    append(w, token, r, NULL);
}

static void append_slot(struct wal *w, uint64_t token, uint16_t type, uint64_t group, uint64_t slot)
{
    append_small(w, token, type, &(struct wal_slot){ group, slot }, sizeof(struct wal_slot));
}

void wal_append_promise(struct wal *w, uint64_t token, uint64_t group, const struct ballot *b, uint64_t max_lease_ns)
{
    struct wal_promise p = { .group = group, .round = b->round, .max_lease_ns = max_lease_ns };
    memcpy(p.proposer, b->proposer.b, sizeof p.proposer);
    append_small(w, token, WAL_PROMISE, &p, sizeof p);
}

void wal_append_cut(struct wal *w, uint64_t token, uint64_t group, uint64_t slot)
{
    assert(slot > 0);
    append_slot(w, token, WAL_CUT, group, slot);
}

void wal_append_commit(struct wal *w, uint64_t token, uint64_t group, uint64_t slot)
{
    append_slot(w, token, WAL_COMMIT, group, slot);
}

void wal_append_fuzzy(struct wal *w, uint64_t token, uint64_t group, uint64_t slot)
{
    append_slot(w, token, WAL_FUZZY, group, slot);
}

void wal_append_needs_copy(struct wal *w, uint64_t token, uint64_t group, uint64_t slot, bool on)
{
    append_small(w, token, WAL_NEEDS_COPY, &(struct wal_needs_copy){ group, slot, on }, sizeof(struct wal_needs_copy));
}

void wal_append_group(struct wal *w, uint64_t token, const struct wal_group *g)
{
    append_small(w, token, WAL_GROUP, g, sizeof *g);
}

/* ---- space and positions ---- */

uint64_t wal_room(const struct wal *w)
{
    if (w->state != WAL_RUNNING)
        return 0;
    uint64_t reserve = w->wal_bytes / 16;
    if (reserve < (4u << 20))
        reserve = 4u << 20;
    if (reserve > w->wal_bytes / 4)
        reserve = w->wal_bytes / 4;
    uint64_t used = w->head.lsn - ring_floor(w);
    if (w->open) /* with the page that closing may add */
        used += ((uint64_t)pages_of(w->open->desc_bytes) + 1 + w->open->payload_pages) * BLOCK_SIZE;
    used += reserve + w->batch_max_bytes; /* a PAD may waste as much as a batch, once a lap */
    return used < w->wal_bytes ? w->wal_bytes - used : 0;
}

uint64_t wal_head_lsn(const struct wal *w)
{
    return w->head.lsn;
}

struct wal_position wal_cut_position(struct wal *w)
{
    if (w->state == WAL_RUNNING && w->open) {
        close_open(w);
        submit(w);
    }
    return w->head;
}

struct wal_position wal_position_at(const struct wal *w, uint64_t lsn)
{
    assert(lsn >= w->tail.lsn);
    uint32_t i = wal_index_below(&w->index, lsn);
    if (i == w->index.n)
        return w->head;
    const struct wal_index_entry *x = wal_index_at(&w->index, i);
    return (struct wal_position){ .lsn = x->lsn, .seq = x->seq, .prev_lsn = x->prev_lsn, .prev_crc = x->prev_crc };
}

void wal_trim(struct wal *w, const struct wal_position *tail, uint64_t redo_lsn)
{
    assert(tail->lsn >= w->tail.lsn && tail->lsn <= w->head.lsn);
    assert(redo_lsn >= tail->lsn && redo_lsn >= w->redo_lsn && redo_lsn <= w->head.lsn);
    uint32_t n = wal_index_below(&w->index, tail->lsn);
    assert(n == w->index.n ? tail->seq == w->head.seq : tail->seq == wal_index_at(&w->index, n)->seq);
    w->index.first = (w->index.first + n) & (w->index.cap ? w->index.cap - 1 : 0);
    w->index.n -= n;
    w->tail = *tail;
    w->redo_lsn = redo_lsn;
}

void wal_get_stats(const struct wal *w, struct wal_stats *ret)
{
    *ret = w->stats;
    ret->head_lsn = w->head.lsn;
    ret->durable_lsn = w->durable_lsn;
    ret->durable_seq = w->durable_seq;
    ret->redo_lsn = w->redo_lsn;
    ret->tail_lsn = w->tail.lsn;
    ret->in_flight = w->in_flight;
}
