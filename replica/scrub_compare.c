/* The scrub's comparison of a region with the peers: digests of chunks, then checksums of the blocks of those that differ (docs/rebuild.md section 9).
 *
 * What always holds:
 *  - two replicas' chunks are compared only when there is a slot at which both were what they told: the intervals from changed_at to applied meet.
 *  - the own side is taken last, in the turn that compares: what follows from it is true now.
 *  - a block's content is right when more than half of the committed membership's voters have it; who does not answer has another. */
#include "replica/scrub_internal.h"

#include <errno.h>
#include <stdlib.h>

#include "base/mark.h"

static uint64_t now_ns(const struct scrub *sc)
{
    return io_now(sc->replica->reactor);
}

static bool meet(uint64_t changed_a, uint64_t applied_a, uint64_t changed_b, uint64_t applied_b)
{
    return changed_a <= applied_b && changed_b <= applied_a;
}

/* ---- asking ---- */

static void ask(struct scrub *sc, struct scrub_answer *a)
{
    struct replica *r = sc->replica;
    struct msg m = {.type = sc->state == SCRUB_DIGESTS ? MSG_DIGESTS : MSG_CRCS,
                    .cookie = r->next_cookie++,
                    .group = sc->group,
                    .target = a->peer->config.identity};
    if (sc->state == SCRUB_DIGESTS)
        m.u.digests.region = sc->region;
    else
        m.u.crcs.block = (uint64_t)sc->region * REGION_BLOCKS + sc->chunk * CHUNK_BLOCKS;
    a->cookie = m.cookie;
    wire_peer_send(&a->peer->wire, &m);
}

static void ask_all(struct scrub *sc)
{
    struct replica_group *g = scrub_group(sc);
    uint64_t now = now_ns(sc);
    bool connect = now >= sc->connect_ns;
    sc->n_answers = 0;
    sc->asks++;
    for (unsigned i = 0; g && i < peers_of_group(g) && sc->n_answers < MEMBERS_MAX; i++) {
        struct peer *p = peer_of_group(g, i);
        if (!membership_has_voter(&g->acceptor.committed, &p->config.identity))
            continue;
        struct scrub_answer *a = &sc->answer[sc->n_answers++];
        a->peer = p;
        a->cookie = 0;
        a->here = false;
        if (connect)
            peer_want(a->peer);
        if (a->peer->state == PEER_UP)
            ask(sc, a);
    }
    if (connect)
        sc->connect_ns = now + SCRUB_CONNECT_NS;
    sc->waiting = true;
    sc->deadline_ns = now + SCRUB_ANSWER_NS;
}

static bool is_awaited(const struct scrub_answer *a)
{
    return a->cookie != 0 || (!a->here && a->peer->state == PEER_CONNECTING);
}

static void ask_later(struct scrub *sc)
{
    sc->waiting = false;
    scrub_schedule(sc, now_ns(sc) + SCRUB_AGAIN_NS);
}

void scrub_compare_begin(struct scrub *sc)
{
    sc->state = SCRUB_DIGESTS;
    sc->asks = 0;
    sc->waiting = false;
    sc->todo = UINT64_MAX;
    sc->differ = 0;
    sc->next_region = UINT32_MAX;
}

/* ---- digests ---- */

static void next_chunk(struct scrub *sc)
{
    if (sc->differ == 0) {
        scrub_region_over(sc);
        return;
    }
    sc->chunk = (unsigned)__builtin_ctzll(sc->differ);
    sc->differ &= sc->differ - 1;
    sc->state = SCRUB_CRCS;
    sc->asks = 0;
    sc->waiting = false;
    scrub_schedule(sc, now_ns(sc));
}

static void compare_chunk(struct scrub *sc, unsigned c, uint64_t *later)
{
    const struct store_digest *own = &sc->digest;
    bool compared = false, apart = false;
    for (unsigned i = 0; i < sc->n_answers; i++) {
        const struct scrub_answer *a = &sc->answer[i];
        if (!a->here || !(a->comparable >> c & 1))
            continue;
        if (!meet(own->chunk[c].changed_at, own->applied, a->chunk[c].changed_at, a->applied)) {
            MARK("scrub: chunks of different slots");
            apart = true;
            continue;
        }
        compared = true;
        if (own->chunk[c].digest != a->chunk[c].digest)
            sc->differ |= UINT64_C(1) << c;
    }
    if (apart && sc->asks < SCRUB_ASKS)
        *later |= UINT64_C(1) << c;
    else if (compared)
        sc->now.compared_chunks++;
    else if (apart)
        sc->now.skipped_chunks++;
}

static void on_own_digest(struct store_digest *d)
{
    struct scrub *sc = d->user;
    uint64_t later = 0;
    if (!scrub_step_ended(sc))
        return;
    for (unsigned c = 0; c < REGION_CHUNKS && !d->err; c++)
        if (sc->todo >> c & d->comparable >> c & 1)
            compare_chunk(sc, c, &later);
    sc->todo = later;
    if (later != 0)
        ask_later(sc);
    else
        next_chunk(sc);
}

/* ---- checksums ---- */

struct verdict {
    unsigned votes, differing;
    uint32_t crc;
    bool decided;
};

static struct verdict judge(const struct scrub *sc, const struct replica_group *g, uint32_t i)
{
    uint32_t value[MEMBERS_MAX + 1] = {0};
    unsigned n = 0, votes[MEMBERS_MAX + 1] = {0};
    struct verdict v = {0};
    value[n] = sc->crcs.crc[i];
    votes[n++] = membership_has_voter(&g->acceptor.committed, &sc->replica->superblock.identity);
    for (unsigned k = 0; k < sc->n_answers; k++) {
        if (!sc->answer[k].here)
            continue;
        unsigned at = 0;
        while (at < n && value[at] != sc->answer[k].crc[i])
            at++;
        value[at] = sc->answer[k].crc[i];
        votes[at]++;
        n += at == n;
    }
    v.differing = n - 1;
    for (unsigned k = 0; k < n; k++)
        if (2 * votes[k] > g->acceptor.committed.n_voters)
            v = (struct verdict){.votes = votes[k], .differing = n - 1, .crc = value[k], .decided = true};
    return v;
}

static void judge_block(struct scrub *sc, const struct replica_group *g, uint32_t i)
{
    struct verdict v = judge(sc, g, i);
    uint64_t block = sc->crcs.block + i;
    if (v.differing == 0)
        return;
    if (v.decided && v.crc == sc->crcs.crc[i]) {
        sc->now.odd_peer_blocks++;
        log_warning("group %llu: block %llu: another replica holds other data than the majority; its own scrub repairs it", (unsigned long long)sc->group,
                    (unsigned long long)block);
        return;
    }
    if (v.decided && store_disown(sc->replica->store, sc->group, block)) {
        log_error("group %llu: block %llu is not what %u of %u replicas hold, though its checksum is right; repairing it from them", (unsigned long long)sc->group,
                  (unsigned long long)block, v.votes, g->acceptor.committed.n_voters);
        sc->now.disowned_blocks++;
        scrub_list_add(&sc->now.found, sc->group, block, 1, false);
        return;
    }
    MARK_IF(!v.decided, "scrub: replicas differ and nobody has a majority");
    log_error("group %llu: block %llu differs between replicas, and %s; nothing is changed", (unsigned long long)sc->group, (unsigned long long)block,
              v.decided ? "what stands here is about to be written back: the next pass repairs it" : "no majority says which one is right");
    scrub_list_add(&sc->now.undecided, sc->group, block, 1, false);
}

static bool all_meet(const struct scrub *sc)
{
    uint64_t from = sc->crcs.changed_at, to = sc->crcs.applied;
    for (unsigned i = 0; i < sc->n_answers; i++) {
        const struct scrub_answer *a = &sc->answer[i];
        if (!a->here)
            continue;
        from = a->changed_at > from ? a->changed_at : from;
        to = a->applied < to ? a->applied : to;
    }
    return from <= to;
}

static void on_own_crcs(struct store_crcs *c)
{
    struct scrub *sc = c->user;
    if (!scrub_step_ended(sc))
        return;
    const struct replica_group *g = scrub_group(sc);
    for (unsigned i = 0; i < sc->n_answers; i++)
        sc->answer[i].here &= !c->err && sc->answer[i].nblocks == c->nblocks;
    if (g && !c->err && !all_meet(sc)) {
        if (sc->asks < SCRUB_ASKS) {
            ask_later(sc);
            return;
        }
        sc->now.skipped_chunks++;
    } else if (g && !c->err) {
        for (uint32_t i = 0; i < c->nblocks; i++)
            judge_block(sc, g, i);
    }
    next_chunk(sc);
}

/* ---- the run ---- */

static void take_own_side(struct scrub *sc)
{
    sc->waiting = false;
    for (unsigned i = 0; i < sc->n_answers; i++)
        sc->answer[i].cookie = 0; /* what comes later is dropped */
    sc->busy = true;
    if (sc->state == SCRUB_DIGESTS) {
        sc->digest = (struct store_digest){.group = sc->group, .region = sc->region, .fn = on_own_digest, .user = sc};
        store_digest(sc->replica->store, &sc->digest);
    } else {
        sc->crcs = (struct store_crcs){.group = sc->group,
                                       .block = (uint64_t)sc->region * REGION_BLOCKS + sc->chunk * CHUNK_BLOCKS,
                                       .fn = on_own_crcs,
                                       .user = sc};
        store_crcs(sc->replica->store, &sc->crcs);
    }
}

void scrub_compare_run(struct scrub *sc)
{
    if (!sc->waiting)
        ask_all(sc);
    bool awaited = false;
    for (unsigned i = 0; i < sc->n_answers; i++)
        awaited |= is_awaited(&sc->answer[i]);
    if (awaited && now_ns(sc) < sc->deadline_ns)
        scrub_schedule(sc, sc->deadline_ns);
    else
        take_own_side(sc);
}

/* ---- what peers say ---- */

static struct scrub_answer *answer_of(struct scrub *sc, const struct peer *p)
{
    for (unsigned i = 0; sc->waiting && i < sc->n_answers; i++)
        if (sc->answer[i].peer == p)
            return &sc->answer[i];
    return NULL;
}

void scrub_peer_changed(struct peer *p)
{
    struct scrub *sc = p->replica->scrub;
    struct scrub_answer *a = answer_of(sc, p);
    if (!a)
        return;
    if (p->state == PEER_UP && a->cookie == 0 && !a->here)
        ask(sc, a);
    else if (p->state == PEER_DOWN)
        a->cookie = 0;
    scrub_schedule(sc, now_ns(sc));
}

void scrub_on_answer(struct peer *p, const struct msg *m)
{
    struct scrub *sc = p->replica->scrub;
    struct scrub_answer *a = answer_of(sc, p);
    if (!a || a->cookie == 0 || a->cookie != m->cookie)
        return;
    a->cookie = 0;
    if (m->type == MSG_DIGESTS_REPLY && sc->state == SCRUB_DIGESTS && m->u.digests_reply.status == DONOR_OK &&
        m->u.digests_reply.region == sc->region) {
        a->here = true;
        a->applied = m->u.digests_reply.applied;
        a->comparable = m->u.digests_reply.comparable;
        memcpy(a->chunk, m->u.digests_reply.chunk, sizeof a->chunk);
        if (m->u.digests_reply.next < sc->next_region)
            sc->next_region = m->u.digests_reply.next;
    } else if (m->type == MSG_CRCS_REPLY && sc->state == SCRUB_CRCS && m->u.crcs_reply.status == DONOR_OK) {
        a->here = true;
        a->applied = m->u.crcs_reply.applied;
        a->changed_at = m->u.crcs_reply.changed_at;
        a->nblocks = m->u.crcs_reply.nblocks;
        memcpy(a->crc, m->u.crcs_reply.crc, a->nblocks * sizeof a->crc[0]);
    }
    scrub_schedule(sc, now_ns(sc));
}

/* ---- what peers ask ---- */

struct digest_request {
    struct replica *replica;
    uint32_t session;
    uint64_t cookie;
    struct store_digest digest;
    struct store_crcs crcs;
};

static enum donor_status donor_status_of(int err)
{
    return err == 0 ? DONOR_OK : err == -EAGAIN ? DONOR_INCOMPLETE : DONOR_BUSY;
}

static struct digest_request *request_new(const struct session *s, const struct msg *m)
{
    struct digest_request *q = calloc(1, sizeof *q);
    if (!q)
        return NULL; /* the asker goes on without it */
    q->replica = s->replica;
    q->session = s->id;
    q->cookie = m->cookie;
    return q;
}

static void on_asked_digest(struct store_digest *d)
{
    struct digest_request *q = d->user;
    struct session *s = replica_find_session(q->replica, q->session);
    struct msg m = {.type = MSG_DIGESTS_REPLY,
                    .cookie = q->cookie,
                    .group = d->group,
                    .u.digests_reply = {.status = donor_status_of(d->err),
                                        .region = d->region,
                                        .applied = d->applied,
                                        .comparable = d->comparable,
                                        .next = d->next,
                                        .chunk = d->chunk}};
    if (s)
        wire_peer_send(&s->peer, &m);
    free(q);
}

void scrub_donate_digests(struct session *s, struct replica_group *g, const struct msg *m)
{
    struct digest_request *q = request_new(s, m);
    if (!q)
        return;
    q->digest = (struct store_digest){.group = g->id, .region = m->u.digests.region, .fn = on_asked_digest, .user = q};
    store_digest(s->replica->store, &q->digest);
}

static void on_asked_crcs(struct store_crcs *c)
{
    struct digest_request *q = c->user;
    struct session *s = replica_find_session(q->replica, q->session);
    struct msg m = {.type = MSG_CRCS_REPLY,
                    .cookie = q->cookie,
                    .group = c->group,
                    .u.crcs_reply = {.status = donor_status_of(c->err),
                                     .nblocks = c->nblocks,
                                     .block = c->block,
                                     .applied = c->applied,
                                     .changed_at = c->changed_at,
                                     .crc = c->crc}};
    if (s)
        wire_peer_send(&s->peer, &m);
    free(q);
}

void scrub_donate_crcs(struct session *s, struct replica_group *g, const struct msg *m)
{
    if (m->u.crcs.block >= g->acceptor.size_blocks) {
        wire_peer_refuse(&s->peer, "%s: checksums beyond the end of group %llu", s->replica->superblock.name, (unsigned long long)g->id);
        return;
    }
    struct digest_request *q = request_new(s, m);
    if (!q)
        return;
    q->crcs = (struct store_crcs){.group = g->id, .block = m->u.crcs.block, .fn = on_asked_crcs, .user = q};
    store_crcs(s->replica->store, &q->crcs);
}
