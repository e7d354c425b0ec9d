/* One request for an image of unknown blocks: who is asked, what becomes of the answer (docs/rebuild.md section 4).
 *
 * What always holds:
 *  - a request is in the store's hands (begun) or waits for room there; what was asked and is not here yet is counted for its donor;
 *  - a block is given up only when everybody who can be asked said that it is damaged there, at or after the jump; it is called lost only when every other voter of every known membership did. */
#include "replica/replica_internal.h"

#include <errno.h>
#include <stdlib.h>

#include "base/mark.h"

#define EXHAUSTED_NS (5 * NS_PER_S) /* so long somebody may come back who has the block */

static unsigned index_of(const struct peer *p)
{
    return (unsigned)(p - p->replica->peers);
}

static bool any(const uint64_t *map)
{
    uint64_t all = 0;
    for (unsigned i = 0; i < CHUNK_BLOCKS / 64; i++)
        all |= map[i];
    return all != 0;
}

static bool get(const uint64_t *map, uint32_t i)
{
    return map[i / 64] >> (i % 64) & 1;
}

static void set(uint64_t *map, uint32_t i)
{
    map[i / 64] |= UINT64_C(1) << (i % 64);
}

/* ---- beginning and ending ---- */

static void on_installed(struct store_copy *c);

/* From the first wanted block to the last. */
static void cut_to_wanted(struct copy_request *rq)
{
    uint32_t first = 0, end = CHUNK_BLOCKS;
    while (first < end && !get(rq->want, first))
        first++;
    while (end > first && !get(rq->want, end - 1))
        end--;
    assert(end > first);
    rq->c.block = rq->chunk + first;
    rq->c.nblocks = end - first;
}

static bool begin(struct copy_request *rq)
{
    struct replica_group *g = rq->group;
    cut_to_wanted(rq);
    rq->c.group = g->id;
    rq->c.fn = on_installed;
    rq->c.user = rq;
    rq->begun = store_copy_begin(g->replica->store, &rq->c);
    MARK_IF(!rq->begun, "copy: no room for another image");
    return rq->begun;
}

static void no_more_asked(struct copy_request *rq)
{
    if (rq->state == COPY_ASKED)
        rq->group->copy.asked_bytes[index_of(rq->peer)] -= (uint64_t)rq->c.nblocks * BLOCK_SIZE;
    rq->cookie = 0;
    rq->peer = NULL;
}

static void request_free(struct copy_request *rq)
{
    struct copy *c = &rq->group->copy;
    list_remove(&rq->link);
    c->n_requests--;
    free(rq);
}

void copy_image_abandon(struct copy_request *rq)
{
    no_more_asked(rq);
    if (rq->begun)
        store_copy_abandon(rq->group->replica->store, &rq->c);
    request_free(rq);
}

bool copy_image_want(struct replica_group *g, uint64_t chunk, const uint64_t *want)
{
    struct copy_request *rq = calloc(1, sizeof *rq);
    if (!rq)
        return false;
    rq->group = g;
    rq->chunk = chunk;
    rq->state = COPY_TO_ASK;
    memcpy(rq->want, want, sizeof rq->want);
    if (!begin(rq)) {
        free(rq);
        return false;
    }
    list_push_back(&g->copy.requests, &rq->link);
    g->copy.n_requests++;
    copy_image_ask(rq);
    return true;
}

/* ---- whom to ask ---- */

static bool said_all_bad(const struct copy_request *rq, unsigned peer)
{
    for (unsigned i = 0; i < CHUNK_BLOCKS / 64; i++)
        if (rq->want[i] & ~rq->said_bad[peer][i])
            return false;
    return true;
}

/* The peer to be asked now, or NULL; *ret_exhausted: nobody who can be asked has it. */
static struct peer *choose(const struct copy_request *rq, bool *ret_exhausted)
{
    struct replica_group *g = rq->group;
    uint64_t now = io_now(g->replica->reactor);
    struct peer *best = NULL;
    bool hope = false, asked = false;
    unsigned n = peers_of_group(g);
    for (unsigned i = 0; i < n; i++) {
        struct peer *p = peer_of_group(g, (unsigned)((i + g->replica->next_cookie) % n)); /* of equals, another one each time */
        unsigned k = index_of(p);
        peer_want(p);
        if (said_all_bad(rq, k)) {
            asked = true;
            continue;
        }
        hope |= p->state == PEER_UP && now >= g->copy.incomplete_until_ns[k];
        if (p->state != PEER_UP || now < g->copy.avoid_until_ns[k] || g->copy.asked_bytes[k] >= COPY_PER_DONOR_BYTES)
            continue;
        if (!best || g->copy.asked_bytes[k] < g->copy.asked_bytes[index_of(best)])
            best = p;
    }
    *ret_exhausted = asked && !hope;
    return best;
}

/* Every other voter of the committed and of any other known membership said so; one that the configuration does not name cannot have. */
static bool all_voters_said(const struct copy_request *rq, uint32_t block)
{
    const struct acceptor *a = &rq->group->acceptor;
    const struct replica *r = rq->group->replica;
    for (unsigned k = 0; k < 1u + a->has_uncommitted; k++) {
        const struct membership *m = &a->memberships[k];
        for (unsigned v = 0; v < m->n_voters; v++) {
            bool said = uuid_equal(&m->voter[v], &a->identity);
            for (uint32_t i = 0; !said && i < r->n_peers; i++)
                said = uuid_equal(&m->voter[v], &r->peers[i].config.identity) && get(rq->said_bad[i], block);
            if (!said)
                return false;
        }
    }
    return true;
}

/* Nobody has what is wanted: it becomes damage that is known, block by block, and holds up nothing. */
static void settle(struct copy_request *rq)
{
    struct replica_group *g = rq->group;
    struct store_copy *c = &rq->c;
    struct store_copy_state st;
    store_copy_state(g->replica->store, g->id, &st);
    unsigned n_lost = 0, n = 0;
    memset(c->zero, 0, sizeof c->zero);
    memset(c->bad, 0, sizeof c->bad);
    memset(c->lost, 0, sizeof c->lost);
    memset(c->give_up, 0, sizeof c->give_up);
    for (uint32_t i = 0; i < c->nblocks; i++) {
        uint32_t at = (uint32_t)(c->block - rq->chunk) + i;
        bool lost = get(rq->want, at) && all_voters_said(rq, at);
        if (!get(rq->want, at)) {
            set(c->bad, i);
            continue;
        }
        set(lost ? c->lost : c->give_up, i);
        n_lost += lost;
        n++;
    }
    MARK_IF(n_lost > 0, "copy: blocks are lost, no voter has them");
    MARK_IF(n > n_lost, "copy: blocks given up, nobody who can be asked has them");
    log_error("group %llu: %u blocks from block %llu on are damaged at every replica that can be asked%s", (unsigned long long)g->id, n,
              (unsigned long long)c->block, n_lost ? "; those that no voter has are lost: reads of them fail" : "");
    c->buf = NULL;
    c->buf_off = 0;
    c->image_slot = rq->newer && rq->said_at > st.jump ? rq->said_at : st.jump;
    c->changed_at = st.jump;
    rq->state = COPY_INSTALLING;
    store_copy_install(g->replica->store, c);
}

void copy_image_ask(struct copy_request *rq)
{
    struct replica_group *g = rq->group;
    struct replica *r = g->replica;
    uint64_t now = io_now(r->reactor);
    bool exhausted;
    if (rq->state != COPY_TO_ASK || (!rq->begun && !begin(rq)))
        return;
    struct peer *p = choose(rq, &exhausted);
    if (!exhausted)
        rq->exhausted_ns = 0;
    else if (rq->exhausted_ns == 0)
        rq->exhausted_ns = now;
    if (exhausted) {
        bool everybody = true;
        for (uint32_t i = 0; i < rq->c.nblocks; i++) {
            uint32_t at = (uint32_t)(rq->c.block - rq->chunk) + i;
            everybody = everybody && (!get(rq->want, at) || all_voters_said(rq, at));
        }
        if (everybody || now - rq->exhausted_ns >= EXHAUSTED_NS)
            settle(rq);
        return;
    }
    if (!p)
        return;
    rq->state = COPY_ASKED;
    rq->peer = p;
    rq->cookie = r->next_cookie++;
    rq->asked_ns = now;
    g->copy.asked_bytes[index_of(p)] += (uint64_t)rq->c.nblocks * BLOCK_SIZE;
    struct msg m = {.type = MSG_IMAGE,
                    .cookie = rq->cookie,
                    .group = g->id,
                    .target = p->config.identity,
                    .u.image = {.at = g->acceptor.log.base, .block = rq->c.block, .nblocks = rq->c.nblocks}};
    if (!rq->newer || !replica_applied_pos(g, &m.u.image.at))
        copy_vouch(g, &m.u.image.at);
    wire_peer_send(&p->wire, &m);
}

/* ---- what came ---- */

static void ask_again(struct copy_request *rq)
{
    no_more_asked(rq);
    rq->state = COPY_TO_ASK;
}

void copy_image_failed(struct copy_request *rq, uint64_t avoid_ns)
{
    struct replica_group *g = rq->group;
    copy_avoid(g, rq->peer, avoid_ns);
    ask_again(rq);
}

/* The store gives the request back. */
static void on_installed(struct store_copy *c)
{
    struct copy_request *rq = c->user;
    struct replica_group *g = rq->group;
    bool wrong = c->err == -ERANGE; /* too old, or not what its checksums say: not asked of the same at once */
    rq->begun = false;
    if (c->err == 0) {
        memset(rq->want, 0, sizeof rq->want);
        for (uint32_t i = 0; i < c->nblocks; i++) {
            uint32_t at = (uint32_t)(c->block - rq->chunk) + i;
            if (!get(c->left, i))
                continue;
            set(rq->want, at);
            wrong |= !get(c->bad, i);
            if (rq->peer && get(c->bad, i)) {
                set(rq->said_bad[index_of(rq->peer)], at);
                rq->said_at = rq->said_at == 0 || c->image_slot < rq->said_at ? c->image_slot : rq->said_at;
            }
        }
    }
    bool done = g->copy.phase != COPY_FILLING || g->replica->closing || (c->err == 0 && !any(rq->want)) || (c->err && c->err != -ERANGE);
    if (done) {
        no_more_asked(rq);
        request_free(rq);
        if (g->copy.phase == COPY_FILLING)
            copy_fill_soon(g);
        return;
    }
    MARK_IF(c->err == 0, "copy: blocks of an image could not be used");
    MARK_IF(c->err == -ERANGE, "copy: an image from before the jump");
    if (wrong && (!rq->newer || !rq->peer)) { /* what was said of older images says nothing of damage that was found since */
        MARK_IF(rq->said_at > 0, "copy: damaged at donors, as of before the damage here");
        memset(rq->said_bad, 0, sizeof rq->said_bad);
        rq->said_at = 0;
        rq->exhausted_ns = 0;
    }
    rq->newer |= wrong;
    if (rq->peer && wrong)
        copy_avoid(g, rq->peer, COPY_BEHIND_NS);
    ask_again(rq);
    copy_fill_soon(g);
}

static void take(struct copy_request *rq, const struct msg *m, struct buf *payload)
{
    struct replica_group *g = rq->group;
    struct store_copy *c = &rq->c;
    const struct log_pos *at = &m->u.image_reply.at;
    pace_observe(&g->replica->pace, m->u.image_reply.wal_ns, m->u.image_reply.wal_quiet_ns, io_now(g->replica->reactor));
    if (m->u.image_reply.wal_ns > 0)
        store_note_client(g->replica->store); /* they read there, and here is what they share a disk or a line with */
    g->copy.donor_ns = m->u.image_reply.wal_ns;
    c->image_slot = at->slot;
    c->changed_at = m->u.image_reply.changed_at;
    c->buf = payload;
    c->buf_off = 0;
    memcpy(c->crc, m->u.image_reply.crc, c->nblocks * sizeof c->crc[0]);
    memcpy(c->zero, m->u.image_reply.zero, sizeof c->zero);
    memset(c->lost, 0, sizeof c->lost);
    memset(c->give_up, 0, sizeof c->give_up);
    for (unsigned i = 0; i < CHUNK_BLOCKS / 64; i++) /* lost there: others say so as well, or have it */
        c->bad[i] = m->u.image_reply.bad[i] | m->u.image_reply.lost[i];
    for (uint32_t i = 0; i < c->nblocks; i++)
        g->replica->n_bytes_copied += get(c->bad, i) || get(c->zero, i) ? 0 : BLOCK_SIZE;
    MARK_IF(any(c->bad), "copy: damaged at a donor");
    g->copy.asked_bytes[index_of(rq->peer)] -= (uint64_t)c->nblocks * BLOCK_SIZE;
    rq->cookie = 0;
    rq->state = COPY_INSTALLING;
    if (at->slot > g->acceptor.commit)
        copy_is_ahead(g, at);
    store_copy_install(g->replica->store, c);
}

void copy_image_on_msg(struct copy_request *rq, const struct msg *m, struct buf *payload)
{
    static const uint64_t avoid_ns[] = {
        [DONOR_BEHIND] = COPY_BEHIND_NS, [DONOR_INCOMPLETE] = COPY_INCOMPLETE_NS, [DONOR_BUSY] = COPY_BEHIND_NS};
    struct replica_group *g = rq->group;
    if (m->type != MSG_IMAGE_REPLY) {
        copy_image_failed(rq, COPY_INCOMPLETE_NS);
    } else if (m->u.image_reply.status != DONOR_OK) {
        MARK("copy: a donor that can't give an image");
        if (m->u.image_reply.status == DONOR_INCOMPLETE)
            g->copy.incomplete_until_ns[index_of(rq->peer)] = io_now(g->replica->reactor) + 2 * COPY_INCOMPLETE_NS;
        copy_image_failed(rq, avoid_ns[m->u.image_reply.status]);
    } else if (m->u.image_reply.block != rq->c.block || m->u.image_reply.nblocks != rq->c.nblocks) {
        wire_peer_close(&rq->peer->wire); /* copy_fill_peer_changed follows */
    } else {
        take(rq, m, payload);
    }
}
