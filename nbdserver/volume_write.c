/* Writes: how a request becomes entries, and how these get their slots in an order that makes sub-block writes whole.
 *
 * Whole blocks go into entries as they are: the payload is shared with the client's request, the CRC of each block is computed here, once. The ends of a request that cover a block in part are
 * read-modify-write under an exclusive lock of that block: all earlier writes of the block are chosen before it is read (so the read sees them: its watermark is not lower), and no later
 * one gets a slot before the merged block is in the queue. From there on the order of slots does the rest, so the lock becomes a shared one. */
#include "nbdserver/volume_internal.h"

#include <stdlib.h>

#include "base/mark.h"

/* ---- ops ---- */

#define OPS_AT_ONCE 64

/* An op of the request; its memory comes from the volume's pool, which grows to the most that were ever under way (the NBD side bounds that by its payload limit). */
struct volume_op *op_new(struct volume *v, struct volume_group *g, struct export_request *r)
{
    if (list_empty(&v->ops_free)) {
        struct op_chunk *chunk = malloc(sizeof *chunk + OPS_AT_ONCE * sizeof(struct volume_op));
        if (!chunk) {
            log_error("out of memory");
            abort();
        }
        chunk->next = v->op_chunks;
        v->op_chunks = chunk;
        for (unsigned i = 0; i < OPS_AT_ONCE; i++)
            list_push_back(&v->ops_free, &chunk->op[i].link);
    }
    struct volume_op *op = container_of(list_pop_front(&v->ops_free), struct volume_op, link);
    memset(op, 0, sizeof *op);
    list_init(&op->link);
    list_init(&op->lock.link);
    op->group = g;
    op->request = r;
    list_push_back(&request_state(r)->ops, &op->of_request);
    r->pending++;
    return op;
}

static void request_put(struct volume *v, struct export_request *r)
{
    assert(r->pending > 0);
    if (--r->pending == 0)
        request_done(r, v);
}

void op_finish(struct volume *v, struct volume_op *op, int error)
{
    struct export_request *r = op->request;
    list_remove(&op->link);
    volume_read_cancel(&op->read);
    if (op->kind != 0)
        block_lock_release(&op->group->locks, &op->lock);
    if (op->state != OP_INFLIGHT)
        entry_unref(op->entry);
    buf_unref(op->payload);
    list_remove(&op->of_request);
    list_push_front(&v->ops_free, &op->link);
    v->pump_again = true; /* the lock may have let others go */
    if (r) {
        if (error && !r->error)
            r->error = error;
        request_put(v, r);
    }
}

void request_refuse(struct volume *v, struct export_request *r, int error)
{
    r->pending++; /* not answered while its ops are walked */
    if (!r->error)
        r->error = error;
    list_for_each_safe(p, &request_state(r)->ops) {
        struct volume_op *op = container_of(p, struct volume_op, of_request);
        if (op->state != OP_INFLIGHT)
            op_finish(v, op, error);
    }
    request_put(v, r);
}

void request_fail(struct volume *v, struct export_request *r, int error)
{
    r->pending++;
    list_for_each_safe(p, &request_state(r)->ops) {
        struct volume_op *op = container_of(p, struct volume_op, of_request);
        if (op->state != OP_INFLIGHT)
            continue;
        list_remove(&op->of_request);
        op->request = NULL;
        r->pending--;
    }
    v->requests_failed++;
    request_refuse(v, r, error);
    request_put(v, r);
}

/* ---- from the lock to the queue ---- */

static void op_enqueue(struct volume_op *op)
{
    op->state = OP_QUEUED;
    list_push_back(&op->group->queue, &op->link);
}

static void sub_block_read_done(struct volume_read *read, int error)
{
    struct volume_op *op = container_of(read, struct volume_op, read);
    struct volume_group *g = op->group;
    struct volume *v = g->volume;
    if (error) {
        op_finish(v, op, error);
        return;
    }
    MARK("volume: part of a block written");
    /* The block's buffer is this read's alone: merging in place disturbs nobody. */
    struct buf *block = read->buf;
    read->buf = NULL;
    if (!block) {
        block = buf_alloc_must(v->reactor->arena, BLOCK_SIZE);
        memset(block->data, 0, BLOCK_SIZE);
    }
    if (op->sub_data)
        memcpy(block->data + op->sub_off, op->sub_data, op->sub_len);
    else
        memset(block->data + op->sub_off, 0, op->sub_len);
    op->payload = block;
    op->payload_off = 0;
    op_enqueue(op);
    block_lock_downgrade(&g->locks, &op->lock);
    v->pump_again = true;
}

static void op_locked(struct volume_op *op)
{
    if (op->sub_block) {
        op->state = OP_READ;
        volume_read_start(op->group, &op->read, op->block, 1, sub_block_read_done);
    } else {
        op_enqueue(op);
    }
}

static void op_granted(struct block_lock *lock)
{
    struct volume_op *op = container_of(lock, struct volume_op, lock);
    list_push_back(&op->group->granted, &op->link);
}

static void op_begin(struct volume_op *op)
{
    op->state = OP_LOCK;
    if (block_lock_acquire(&op->group->locks, &op->lock, op->block, op->nblocks, op->sub_block, op_granted))
        op_locked(op);
}

/* ---- cutting requests ---- */

static struct volume_op *op_for(struct volume *v, struct export_request *r, enum entry_kind kind, uint64_t block, uint32_t nblocks)
{
    /* With stripes, this is where a block finds its group. */
    struct volume_op *op = op_new(v, &v->group[0], r);
    op->kind = kind;
    op->block = block;
    op->nblocks = nblocks;
    return op;
}

/* Part of one block, [at, end); data NULL: zeroes. */
static void cut_sub_block(struct volume *v, struct export_request *r, uint64_t at, uint64_t end, const uint8_t *data)
{
    struct volume_op *op = op_for(v, r, ENTRY_WRITE, at / BLOCK_SIZE, 1);
    op->sub_block = true;
    op->sub_off = at % BLOCK_SIZE;
    op->sub_len = (uint32_t)(end - at);
    op->sub_data = data;
    assert(op->sub_off + op->sub_len <= BLOCK_SIZE && op->sub_len < BLOCK_SIZE);
    op_begin(op);
}

/* TRIM and ZERO of whole blocks, in ranges of at most 64 MiB that end at multiples of it. */
static void cut_range(struct volume *v, struct export_request *r, enum entry_kind kind, uint64_t block, uint64_t nblocks)
{
    while (nblocks > 0) {
        uint64_t n = ENTRY_MAX_RANGE_BLOCKS - block % ENTRY_MAX_RANGE_BLOCKS;
        n = n < nblocks ? n : nblocks;
        op_begin(op_for(v, r, kind, block, (uint32_t)n));
        block += n;
        nblocks -= n;
    }
}

static void cut_zeroes(struct volume *v, struct export_request *r)
{
    uint64_t at = r->offset, end = r->offset + r->length;
    uint64_t first = (at + BLOCK_SIZE - 1) / BLOCK_SIZE, last = end / BLOCK_SIZE; /* whole blocks: [first, last) */
    if (r->op == EXPORT_TRIM) {
        /* A hint: the parts of blocks at its ends keep their bytes. */
        if (first < last)
            cut_range(v, r, ENTRY_TRIM, first, last - first);
        return;
    }
    uint64_t head_end = first * BLOCK_SIZE < end ? first * BLOCK_SIZE : end;
    if (at < head_end)
        cut_sub_block(v, r, at, head_end, NULL);
    /* A hole reads as zeroes too and gives its space back; NO_HOLE keeps it. */
    if (first < last)
        cut_range(v, r, r->flags & EXPORT_NO_HOLE ? ENTRY_ZERO : ENTRY_TRIM, first, last - first);
    if (last * BLOCK_SIZE < end && first <= last)
        cut_sub_block(v, r, last * BLOCK_SIZE, end, NULL);
}

static void cut_piece(struct volume *v, struct export_request *r, uint64_t at, uint32_t piece)
{
    uint64_t end = at + r->data_len[piece];
    struct buf *buf = r->data[piece];
    const uint8_t *data = buf->data + r->data_off[piece];
    if (at % BLOCK_SIZE != 0) {
        uint64_t head_end = (at / BLOCK_SIZE + 1) * BLOCK_SIZE;
        head_end = head_end < end ? head_end : end;
        cut_sub_block(v, r, at, head_end, data);
        data += head_end - at;
        at = head_end;
    }
    uint32_t whole = (uint32_t)((end - at) / BLOCK_SIZE);
    if (whole > 0) {
        assert(whole <= ENTRY_MAX_BLOCKS && (uintptr_t)data % BLOCK_SIZE == 0); /* export.h's rule of pieces */
        struct volume_op *op = op_for(v, r, ENTRY_WRITE, at / BLOCK_SIZE, whole);
        op->payload = buf_ref(buf);
        op->payload_off = (uint32_t)(data - buf->data);
        op_begin(op);
        data += (size_t)whole * BLOCK_SIZE;
        at += (uint64_t)whole * BLOCK_SIZE;
    }
    if (at < end)
        cut_sub_block(v, r, at, end, data);
}

void write_submit(struct volume *v, struct export_request *r)
{
    if (r->op != EXPORT_WRITE) {
        cut_zeroes(v, r);
        return;
    }
    uint64_t at = r->offset;
    for (uint32_t i = 0; i < r->n_pieces; i++) {
        cut_piece(v, r, at, i);
        at += r->data_len[i];
    }
    assert(at == r->offset + r->length);
}

/* ---- slots ---- */

/* False when memory is short: later. */
static bool op_make_entry(struct volume_op *op)
{
    struct entry *e = entry_new(op->group->volume->reactor->arena, op->kind, op->block, op->nblocks, op->payload, op->payload_off);
    if (!e)
        return false;
    op->payload = NULL; /* the entry's now */
    e->group = op->group->id;
    if (op->kind == ENTRY_WRITE) {
        uint32_t *crc = entry_crcs(e);
        for (uint32_t i = 0; i < op->nblocks; i++)
            crc[i] = crc32c(entry_block_data(e, i), BLOCK_SIZE);
    }
    op->entry = e;
    return true;
}

/* The queue's first op gets its slot. False: not now. */
static bool op_place(struct volume_group *g, struct volume_op *op)
{
    struct volume *v = g->volume;
    struct export_request *r = op->request;
    if (!r) { /* unplaced, and answered with an error meanwhile: it never was and never will be in the log */
        MARK("volume: unplaced write was answered with an error meanwhile");
        op_finish(v, op, 0);
        return true;
    }
    if (r->abandoned) { /* P11 */
        MARK("volume: queued write of a client that is gone");
        request_refuse(v, r, ESHUTDOWN);
        return true;
    }
    if (!op->entry && !op_make_entry(op))
        return false;
    switch (group_propose(g, op->entry)) {
    case 0:
        op->state = OP_INFLIGHT;
        op->slot = op->entry->slot;
        assert(list_empty(&g->inflight) || container_of(g->inflight.prev, struct volume_op, link)->slot < op->slot);
        list_remove(&op->link);
        list_push_back(&g->inflight, &op->link);
        trace_placed(g, op);
        g->writes++;
        g->no_space = false;
        return true;
    case -ENOSPC: /* P10: answered before a slot is assigned */
    MARK("volume: no space");
        if (!g->no_space)
            log_error("volume %s: no space: fewer than a majority of its replicas have room; writes fail until space is given back (TRIM) or added", v->name);
        g->no_space = true;
        request_refuse(v, r, ENOSPC);
        return true;
    default: /* EAGAIN, ENOTCONN: in order, later; ESTALE: the fence deals with it */
        return false;
    }
}

void write_pump(struct volume_group *g)
{
    while (!list_empty(&g->granted)) {
        struct volume_op *op = container_of(list_pop_front(&g->granted), struct volume_op, link);
        op_locked(op);
    }
    if (g->proposer->state != PROPOSER_SERVING)
        return;
    while (!list_empty(&g->unplaced)) {
        MARK("volume: unplaced write queued again");
        struct list *last = g->unplaced.prev;
        list_remove(last);
        list_push_front(&g->queue, last);
    }
    while (!list_empty(&g->queue)) {
        if (!op_place(g, container_of(g->queue.next, struct volume_op, link)))
            break;
    }
}

void write_chosen(struct volume_group *g)
{
    while (!list_empty(&g->inflight)) {
        struct volume_op *op = container_of(g->inflight.next, struct volume_op, link);
        if (op->slot > g->chosen)
            break;
        struct write_sample *s = trace_chosen(g, op->slot);
        op_finish(g->volume, op, 0);
        if (s)
            trace_replied(g, s);
    }
}

void write_unplaced(struct volume_group *g, struct entry *e)
{
    list_for_each(p, &g->inflight) {
        struct volume_op *op = container_of(p, struct volume_op, link);
        if (op->entry != e)
            continue;
        list_remove(&op->link);
        list_push_back(&g->unplaced, &op->link);
        op->state = OP_QUEUED;
        op->slot = 0;
        return;
    }
    entry_unref(e); /* no op's: a session start */
}
