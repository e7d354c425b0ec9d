/* What a replica tells others of its store, for copies and repairs (docs/rebuild.md): which regions there are, what changed in them, images of blocks; each as of its applied slot.
 *
 * What always holds: nothing is told while this replica needs a copy itself, and nothing as of an earlier position than the request names. */
#include "replica/replica_internal.h"

#include <errno.h>
#include <stdlib.h>

#include "base/mark.h"

/* Position `at` is committed: the requester applied it or heard so from a donor. Where the own log holds it the own commit rises to it, as after a power cut nobody else may be there to announce
 * it; else the peers have to bring it. */
static enum donor_status donor_reach(struct replica_group *g, const struct log_pos *at)
{
    struct replica *r = g->replica;
    if (g->acceptor.needs_copy) {
        MARK("donate: asked while it needs a copy itself");
        return DONOR_INCOMPLETE;
    }
    if (at->slot > g->acceptor.commit) {
        struct acceptor_event ev = {.type = ACCEPTOR_CAUGHT_UP, .through = *at};
        replica_step(g, &ev);
        MARK_IF(at->slot <= g->acceptor.commit, "donate: the requester vouches for the own log");
        if (at->slot > g->acceptor.commit)
            catchup_wanted(g, at);
    }
    if (store_applied(r->store, g->id) >= at->slot)
        return DONOR_OK;
    MARK("donate: asked for more than was applied");
    return DONOR_BEHIND;
}

/* ---- listings ---- */

static void refuse_listing(struct session *s, const struct replica_group *g, const struct msg *m, enum donor_status status)
{
    wire_peer_send(&s->peer, &(struct msg){.type = MSG_REGIONS_REPLY, .cookie = m->cookie, .group = g->id, .u.regions_reply.status = status});
}

/* All of it in this turn: it is of one position. */
static void send_listing(struct session *s, struct replica_group *g, const struct msg *m, const struct log_pos *at)
{
    static struct store_region page[REGIONS_PER_MESSAGE];
    uint32_t from = 0, n;
    do {
        n = store_list_regions(g->replica->store, g->id, from, page, REGIONS_PER_MESSAGE);
        struct msg reply = {.type = MSG_REGIONS_REPLY,
                            .cookie = m->cookie,
                            .group = g->id,
                            .u.regions_reply = {.n = n,
                                                .more = n == REGIONS_PER_MESSAGE,
                                                .at = *at,
                                                .membership = g->acceptor.committed,
                                                .region = (const void *)page}};
        wire_peer_send(&s->peer, &reply);
        from = n > 0 ? page[n - 1].region + 1 : 0;
    } while (n == REGIONS_PER_MESSAGE);
}

void donate_regions(struct session *s, struct replica_group *g, const struct msg *m)
{
    struct log_pos at;
    enum donor_status status = donor_reach(g, &m->u.regions.at);
    if (status == DONOR_OK && (!replica_applied_pos(g, &at) || g->acceptor.committed.slot > at.slot))
        status = DONOR_BUSY; /* the membership at the applied slot is not known any more; soon it is this one */
    if (status != DONOR_OK)
        refuse_listing(s, g, m, status);
    else
        send_listing(s, g, m, &at);
}

/* ---- verdicts ---- */

struct donated_chunks {
    struct replica *replica;
    uint32_t session;
    uint64_t cookie;
    struct store_chunks chunks;
};

static void on_chunks(struct store_chunks *c)
{
    struct donated_chunks *d = container_of(c, struct donated_chunks, chunks);
    struct session *s = replica_find_session(d->replica, d->session);
    struct replica_group *g = replica_find_group(d->replica, c->group);
    struct msg m = {.type = MSG_CHUNKS_REPLY,
                    .cookie = d->cookie,
                    .group = c->group,
                    .u.chunks_reply = {.region = c->region, .at.slot = c->applied, .changed = ~c->unchanged, .changed_at = c->changed_at}};
    bool ok = g && !c->err && paxos_log_at(&g->acceptor.log, c->applied, &m.u.chunks_reply.at.e);
    if (!ok)
        m.u.chunks_reply.status = c->err == -EAGAIN ? DONOR_INCOMPLETE : DONOR_BUSY;
    if (s)
        wire_peer_send(&s->peer, &m);
    free(d);
}

void donate_chunks(struct session *s, struct replica_group *g, const struct msg *m)
{
    enum donor_status status = donor_reach(g, &m->u.chunks.at);
    struct donated_chunks *d = status == DONOR_OK ? calloc(1, sizeof *d) : NULL;
    if (!d) {
        struct msg no = {.type = MSG_CHUNKS_REPLY,
                         .cookie = m->cookie,
                         .group = g->id,
                         .u.chunks_reply = {.status = status == DONOR_OK ? DONOR_BUSY : status, .region = m->u.chunks.region}};
        wire_peer_send(&s->peer, &no);
        return;
    }
    *d = (struct donated_chunks){.replica = g->replica,
                                 .session = s->id,
                                 .cookie = m->cookie,
                                 .chunks = {.group = g->id, .since = m->u.chunks.since, .region = m->u.chunks.region, .fn = on_chunks}};
    store_chunks_changed(g->replica->store, &d->chunks);
}

/* ---- images ---- */

struct donated_image {
    struct replica *replica;
    uint64_t group;
    uint32_t session;
    uint64_t cookie;
    struct store_read read;
};

static void refuse_image(struct session *s, uint64_t group, uint64_t cookie, uint64_t block, uint32_t nblocks, enum donor_status status)
{
    struct msg m = {.type = MSG_IMAGE_REPLY,
                    .cookie = cookie,
                    .group = group,
                    .u.image_reply = {.status = status, .nblocks = nblocks, .block = block}};
    wire_peer_send(&s->peer, &m);
}

static void send_image(struct session *s, struct replica_group *g, struct donated_image *d)
{
    struct store_read *r = &d->read;
    struct segment segs[ENTRY_MAX_BLOCKS / 2 + 1];
    uint64_t skip[ENTRY_MAX_BLOCKS / 64];
    uint32_t bytes;
    for (unsigned i = 0; i < ENTRY_MAX_BLOCKS / 64; i++) {
        r->lost[i] &= ~r->bad[i];
        r->zero[i] &= ~(r->bad[i] | r->lost[i]);
        skip[i] = r->zero[i] | r->bad[i] | r->lost[i];
    }
    for (uint32_t i = 0; i < r->nblocks; i++)
        if ((r->bad[i / 64] | r->lost[i / 64]) >> (i % 64) & 1)
            r->crc[i] = 0;
    unsigned n = serve_payload(r, skip, segs, &bytes);
    struct log_pos at = {.slot = r->applied};
    if (!paxos_log_at(&g->acceptor.log, at.slot, &at.e)) { /* its log was emptied meanwhile: this is another one's image */
        refuse_image(s, d->group, d->cookie, r->block, r->nblocks, DONOR_BUSY);
        return;
    }
    struct msg m = {.type = MSG_IMAGE_REPLY,
                    .cookie = d->cookie,
                    .group = d->group,
                    .u.image_reply = {.status = DONOR_OK,
                                      .nblocks = r->nblocks,
                                      .block = r->block,
                                      .at = at,
                                      .changed_at = r->changed_at,
                                      .wal_ns = latency_of_clients(d->replica),
                                      .wal_quiet_ns = d->replica->latency.quiet_ns,
                                      .crc = r->crc,
                                      .zero = r->zero,
                                      .bad = r->bad,
                                      .lost = r->lost,
                                      .payload_len = bytes}};
    d->replica->n_images_served++;
    if (s->peer.conn)
        wire_send(s->peer.conn, &m, segs, n);
}

static void on_image_read(struct store_read *r)
{
    struct donated_image *d = container_of(r, struct donated_image, read);
    struct session *s = replica_find_session(d->replica, d->session);
    struct replica_group *g = replica_find_group(d->replica, d->group);
    if (s && g && r->buf)
        send_image(s, g, d);
    else if (s)
        refuse_image(s, d->group, d->cookie, r->block, r->nblocks, DONOR_BUSY);
    buf_unref(r->buf);
    free(d);
}

void donate_image(struct session *s, struct replica_group *g, const struct msg *m)
{
    struct replica *r = g->replica;
    uint64_t block = m->u.image.block;
    uint32_t nblocks = m->u.image.nblocks;
    if (block >= g->acceptor.size_blocks || nblocks > g->acceptor.size_blocks - block) {
        wire_peer_refuse(&s->peer, "%s: an image beyond the end of group %llu", r->superblock.name, (unsigned long long)g->id);
        return;
    }
    enum donor_status status = donor_reach(g, &m->u.image.at);
    struct donated_image *d = status == DONOR_OK ? calloc(1, sizeof *d) : NULL;
    if (!d) {
        refuse_image(s, g->id, m->cookie, block, nblocks, status == DONOR_OK ? DONOR_BUSY : status);
        return;
    }
    *d = (struct donated_image){.replica = r,
                                .group = g->id,
                                .session = s->id,
                                .cookie = m->cookie,
                                .read = {.group = g->id, .block = block, .nblocks = nblocks, .fn = on_image_read}};
    store_read(r->store, &d->read);
}
