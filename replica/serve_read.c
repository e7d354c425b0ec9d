/* READ: an image of blocks at an applied slot at or above the watermark (P8), with the checksums that the front end gave them. */
#include "replica/replica_internal.h"

#include <errno.h>
#include <stdlib.h>

#include "base/mark.h"

static void answer_status(struct session *s, const struct pending_read *p, enum data_status status)
{
    struct msg m = {.type = MSG_DATA,
                    .cookie = p->cookie,
                    .group = p->group->id,
                    .u.data = {.status = status, .nblocks = p->read.nblocks, .block = p->read.block}};
    wire_peer_send(&s->peer, &m);
}

static bool any_bit(const uint64_t *map)
{
    uint64_t any = 0;
    for (unsigned i = 0; i < ENTRY_MAX_BLOCKS / 64; i++)
        any |= map[i];
    return any != 0;
}

static bool bit(const uint64_t *map, uint32_t i)
{
    return map[i / 64] >> (i % 64) & 1;
}

unsigned serve_payload(const struct store_read *r, const uint64_t *skip, struct segment *segs, uint32_t *ret_bytes)
{
    unsigned n = 0;
    *ret_bytes = 0;
    for (uint32_t i = 0; i < r->nblocks; i++) {
        if (bit(skip, i))
            continue;
        if (i > 0 && n > 0 && !bit(skip, i - 1))
            segs[n - 1].len += BLOCK_SIZE;
        else
            segs[n++] = (struct segment){.buf = r->buf, .ptr = r->buf->data + (size_t)i * BLOCK_SIZE, .len = BLOCK_SIZE};
        *ret_bytes += BLOCK_SIZE;
    }
    return n;
}

static void answer_data(struct session *s, struct pending_read *p)
{
    struct store_read *r = &p->read;
    struct segment segs[ENTRY_MAX_BLOCKS / 2 + 1];
    uint32_t bytes;
    unsigned n = serve_payload(r, r->zero, segs, &bytes);
    struct msg m = {.type = MSG_DATA,
                    .cookie = p->cookie,
                    .group = p->group->id,
                    .u.data = {.status = DATA_OK,
                               .nblocks = r->nblocks,
                               .block = r->block,
                               .applied = r->applied,
                               .crc = r->crc,
                               .zero = r->zero,
                               .payload_len = bytes}};
    if (s->peer.conn)
        wire_send(s->peer.conn, &m, segs, n);
}

/* A read was checked against the ballot when it arrived. A higher ballot since then does no harm to the answer's freshness, but the image could hold a
 * successor's entries that the asking front end's clients must not see mixed with older ones (A8 "Reads with a ballot < promised are refused"): they are sent back. A replica that
 * promised the successor nothing may have those entries as well, from its peers. */
static bool is_superseded(const struct pending_read *p)
{
    const struct acceptor *a = &p->group->acceptor;
    struct log_pos last = paxos_log_last(&a->log);
    return ballot_compare(&p->ballot, &a->promised) < 0 || ballot_compare(&p->ballot, &last.e) < 0;
}

/* Some are kept: they are of a size that malloc has to look for. */
static void pending_put(struct replica *r, struct pending_read *p)
{
    if (r->n_spare_reads == SPARE_READS_MAX) {
        free(p);
        return;
    }
    r->n_spare_reads++;
    list_push_front(&r->spare_reads, &p->link);
}

static void on_read(struct store_read *r)
{
    struct pending_read *p = container_of(r, struct pending_read, read);
    struct session *s = replica_find_session(p->group->replica, p->session);
    if (s) {
        MARK_IF(r->err || any_bit(r->bad) || any_bit(r->lost), "read: damaged here");
        if (is_superseded(p))
            answer_status(s, p, DATA_BEHIND);
        else if (r->err || any_bit(r->bad) || any_bit(r->lost))
            answer_status(s, p, DATA_BAD);
        else
            answer_data(s, p);
    }
    buf_unref(r->buf);
    pending_put(p->group->replica, p);
}

static void start(struct pending_read *p)
{
    p->read.fn = on_read;
    p->read.group = p->group->id;
    p->read.for_client = true;
    p->group->replica->n_reads++;
    store_note_client(p->group->replica->store);
    store_read(p->group->replica->store, &p->read);
}

void serve_free_spares(struct replica *r)
{
    for (struct list *l; (l = list_pop_front(&r->spare_reads));)
        free(container_of(l, struct pending_read, link));
    r->n_spare_reads = 0;
}

static struct pending_read *pending_new(struct session *s, struct replica_group *g, const struct msg *m)
{
    struct replica *r = g->replica;
    struct list *spare = list_pop_front(&r->spare_reads);
    struct pending_read *p = spare ? container_of(spare, struct pending_read, link) : malloc(sizeof *p);
    if (!p)
        return NULL;
    r->n_spare_reads -= spare != NULL;
    memset(p, 0, offsetof(struct pending_read, read.crc)); /* what follows is the store's to fill */
    p->group = g;
    p->session = s->id;
    p->cookie = m->cookie;
    p->ballot = m->ballot;
    p->watermark = m->u.read.watermark;
    p->read.block = m->u.read.block;
    p->read.nblocks = m->u.read.nblocks;
    list_init(&p->link);
    return p;
}

static bool in_bounds(const struct replica_group *g, const struct msg *m)
{
    return m->u.read.block < g->acceptor.size_blocks && m->u.read.nblocks <= g->acceptor.size_blocks - m->u.read.block;
}

static void refuse_status(struct session *s, struct replica_group *g, const struct msg *m, enum data_status status)
{
    struct pending_read p = {.group = g, .cookie = m->cookie, .read = {.block = m->u.read.block, .nblocks = m->u.read.nblocks}};
    answer_status(s, &p, status);
}

void serve_read(struct session *s, struct replica_group *g, const struct msg *m)
{
    struct replica *r = g->replica;
    if (!in_bounds(g, m)) {
        wire_peer_refuse(&s->peer, "%s: a read beyond the end of group %llu", r->superblock.name, (unsigned long long)g->id);
        return;
    }
    assert(r->effects.n == 0);
    enum acceptor_read_verdict v = acceptor_read(&g->acceptor, io_turn_now(r->reactor), s->id, m, &r->effects);
    replica_run_effects(g);
    if (v == ACCEPTOR_READ_NACK)
        return;
    if (v == ACCEPTOR_READ_BEHIND || g->n_waiting_reads >= READS_WAITING_MAX) {
        MARK("read: behind the watermark");
        refuse_status(s, g, m, DATA_BEHIND);
        return;
    }
    struct pending_read *p = pending_new(s, g, m);
    if (!p) {
        refuse_status(s, g, m, DATA_BEHIND);
        return;
    }
    if (store_applied(r->store, g->id) >= p->watermark) {
        start(p);
        return;
    }
    MARK("read: waits until applied");
    list_push_back(&g->waiting_reads, &p->link);
    g->n_waiting_reads++;
}

void serve_waiting_reads(struct replica_group *g)
{
    uint64_t applied = store_applied(g->replica->store, g->id);
    list_for_each_safe(l, &g->waiting_reads)
    {
        struct pending_read *p = container_of(l, struct pending_read, link);
        if (p->watermark > applied)
            continue;
        list_remove(l);
        g->n_waiting_reads--;
        if (!is_superseded(p)) {
            start(p);
            continue;
        }
        struct session *s = replica_find_session(g->replica, p->session);
        if (s)
            answer_status(s, p, DATA_BEHIND);
        MARK("read: superseded while it waited");
        pending_put(g->replica, p);
    }
}

void serve_drop_reads(struct replica_group *g)
{
    struct list *l;
    while ((l = list_pop_front(&g->waiting_reads)))
        free(container_of(l, struct pending_read, link));
    g->n_waiting_reads = 0;
}
