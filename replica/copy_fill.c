/* The copier: verdicts on the marked regions first, then images of what is unknown, in order of address, from all complete peers at once (docs/rebuild.md section 4).
 *
 * Two walks over the unknown chunks. The first asks one question per region and takes over what did not change. The second asks for images as room and pace allow, and begins anew
 * until nothing is unknown. All that is durable of it is in the store: after a restart both begin again, with less to do. */
#include "replica/replica_internal.h"

#include <errno.h>
#include <stdlib.h>

#include "base/mark.h"

static void walk(struct replica_group *g);

static unsigned index_of(const struct peer *p)
{
    return (unsigned)(p - p->replica->peers);
}

void copy_avoid(struct replica_group *g, const struct peer *p, uint64_t ns)
{
    g->copy.avoid_until_ns[index_of(p)] = io_now(g->replica->reactor) + ns;
}

/* The newest position that this replica knows to be committed and that is no later than it must be: donors at it or above can help. They may have forgotten that it is. */
void copy_vouch(const struct replica_group *g, struct log_pos *ret)
{
    struct store_copy_state st;
    store_copy_state(g->replica->store, g->id, &st);
    struct log_pos at = {.slot = st.jump};
    if (paxos_log_at(&g->acceptor.log, at.slot, &at.e))
        *ret = at;
    else
        *ret = g->acceptor.log.base; /* it has risen above the jump since */
}

/* An answer is of a position that is not here yet. The stream brings it, or the peers do. */
void copy_is_ahead(struct replica_group *g, const struct log_pos *at)
{
    struct copy *c = &g->copy;
    if (at->slot > c->ahead.slot)
        c->ahead = *at;
    if (c->ahead_ns == 0)
        c->ahead_ns = io_now(g->replica->reactor);
    if (g->acceptor.stream == ACCEPTOR_NO_LINK) {
        MARK("copy: catches up to an image");
        catchup_wanted(g, at);
    }
}

static void look_ahead(struct replica_group *g, uint64_t now)
{
    struct copy *c = &g->copy;
    if (c->ahead_ns == 0)
        return;
    if (c->ahead.slot <= g->acceptor.commit) {
        c->ahead_ns = 0;
        return;
    }
    if (now - c->ahead_ns >= NS_PER_S) {
        c->ahead_ns = now;
        catchup_wanted(g, &c->ahead);
    }
}

/* ---- verdicts ---- */

static struct peer *verdict_donor(struct replica_group *g)
{
    uint64_t now = io_now(g->replica->reactor);
    struct peer *found = NULL;
    for (unsigned i = 0; i < peers_of_group(g); i++) {
        struct peer *p = peer_of_group(g, i);
        peer_want(p);
        if (!found && p->state == PEER_UP && now >= g->copy.avoid_until_ns[index_of(p)])
            found = p;
    }
    return found;
}

static void ask_verdict(struct replica_group *g)
{
    struct copy *c = &g->copy;
    struct store_copy_state st;
    struct peer *p = verdict_donor(g);
    if (!p)
        return; /* the timer tries again */
    store_copy_state(g->replica->store, g->id, &st);
    c->verdict.state = VERDICT_ASKED;
    c->verdict.peer = p;
    c->verdict.cookie = g->replica->next_cookie++;
    c->verdict.asked_ns = io_now(g->replica->reactor);
    struct msg m = {.type = MSG_CHUNKS,
                    .cookie = c->verdict.cookie,
                    .group = g->id,
                    .target = p->config.identity,
                    .u.chunks = {.since = st.since, .region = c->verdict.region}};
    copy_vouch(g, &m.u.chunks.at);
    wire_peer_send(&p->wire, &m);
}

static void verdict_failed(struct replica_group *g, uint64_t avoid_ns)
{
    struct copy *c = &g->copy;
    copy_avoid(g, c->verdict.peer, avoid_ns);
    c->verdict.state = VERDICT_TO_ASK;
    c->verdict.cookie = 0;
    ask_verdict(g);
}

static void on_taken(void *user, uint64_t accepted)
{
    struct replica_group *g = user;
    struct copy *c = &g->copy;
    if (c->verdict.state != VERDICT_TAKEN || c->phase != COPY_FILLING)
        return;
    MARK_IF(accepted != 0, "copy: chunks did not change");
    c->verdict.state = VERDICT_NONE;
    c->cursor = (uint64_t)(c->verdict.region + 1) * REGION_BLOCKS;
    copy_fill_soon(g);
}

static void on_verdict(struct replica_group *g, const struct msg *m)
{
    struct copy *c = &g->copy;
    static const uint64_t avoid_ns[] = {
        [DONOR_BEHIND] = COPY_BEHIND_NS, [DONOR_INCOMPLETE] = COPY_INCOMPLETE_NS, [DONOR_BUSY] = COPY_BEHIND_NS};
    if (m->type != MSG_CHUNKS_REPLY || m->u.chunks_reply.status != DONOR_OK || m->u.chunks_reply.region != c->verdict.region) {
        bool told = m->type == MSG_CHUNKS_REPLY && m->u.chunks_reply.status != DONOR_OK;
        verdict_failed(g, told ? avoid_ns[m->u.chunks_reply.status] : COPY_INCOMPLETE_NS);
        return;
    }
    struct store_copy_state st;
    store_copy_state(g->replica->store, g->id, &st);
    c->verdict.state = VERDICT_TAKEN;
    c->verdict.cookie = 0;
    store_chunks_unchanged(g->replica->store, g->id, c->verdict.region, ~m->u.chunks_reply.changed, st.since, m->u.chunks_reply.at.slot, on_taken, g);
}

/* ---- the walk ---- */

static void on_unknown(struct store_unknown *u)
{
    struct replica_group *g = u->user;
    struct copy *c = &g->copy;
    c->walking = false;
    c->walked = !c->stale;
    c->stale = false;
    if (!c->in_walk && !g->replica->closing)
        walk(g);
}

static bool may_ask(struct replica_group *g)
{
    struct copy *c = &g->copy;
    struct replica *r = g->replica;
    /* Not while it is being brought forward. That nobody can is no reason to wait: what is known to be chosen may be in logs that do not know it, until this replica counts again. */
    bool waits = g->catchup.state == CATCHUP_IDLE || g->catchup.state == CATCHUP_PAUSING;
    bool behind = !waits && g->catchup.target.slot > g->acceptor.commit;
    unsigned most = pace_is_gentle(&r->pace, io_now(r->reactor)) ? COPY_GENTLE_REQUESTS : COPY_REQUESTS_MAX;
    return c->n_requests < most && !behind && pace_allows(&r->pace, io_now(r->reactor));
}

/* What of the chunk that was found is asked for next, from the cursor on: all that is unknown, or a little when clients are there. Sets the cursor behind it; returns how many blocks it spans. */
static uint32_t choose_blocks(struct replica_group *g)
{
    struct copy *c = &g->copy;
    struct store_unknown *u = &c->unknown;
    uint32_t most = pace_is_gentle(&g->replica->pace, io_now(g->replica->reactor)) ? COPY_GENTLE_BLOCKS : CHUNK_BLOCKS;
    uint32_t first = c->cursor > u->block ? (uint32_t)(c->cursor - u->block) : 0, end;
    while (first < u->nblocks && !(u->want[first / 64] >> (first % 64) & 1))
        first++;
    end = first + most < u->nblocks ? first + most : u->nblocks;
    for (uint32_t i = 0; i < CHUNK_BLOCKS; i++)
        if (i < first || i >= end)
            u->want[i / 64] &= ~(UINT64_C(1) << (i % 64));
    c->next_cursor = u->block + end;
    return end - first;
}

/* The store takes no more: what it has must be written back, and nobody may do that soon but this. */
static void write_back(struct replica_group *g)
{
    struct store_stats st;
    store_get_stats(g->replica->store, &st);
    if (!st.checkpointing && st.overlay_bytes > 0)
        store_checkpoint(g->replica->store);
}

/* What the walk found. False: that is all for now. */
static bool took(struct replica_group *g)
{
    struct copy *c = &g->copy;
    struct store_unknown *u = &c->unknown;
    if (u->err == -ENOENT) {
        if (c->pass == COPY_VERDICTS) {
            c->pass = COPY_IMAGES;
            c->cursor = 0;
            return true;
        }
        struct store_stats st;
        store_get_stats(g->replica->store, &st);
        c->round_over = true;
        c->checkpoints = st.checkpoints_done;
        return false;
    }
    if (u->err)
        return false;
    if (c->pass == COPY_VERDICTS) {
        if (!u->whole) {
            c->cursor = u->block + u->nblocks;
            return true;
        }
        c->verdict.state = VERDICT_TO_ASK;
        c->verdict.region = (uint32_t)(u->block / REGION_BLOCKS);
        ask_verdict(g);
        return false;
    }
    if (!may_ask(g))
        return false; /* looked for again */
    uint32_t n = choose_blocks(g);
    if (n > 0 && !copy_image_want(g, u->block, u->want)) {
        write_back(g);
        return false;
    }
    pace_take(&g->replica->pace, (uint64_t)n * BLOCK_SIZE);
    c->cursor = c->next_cursor;
    return true;
}

/* A round is over: what it asked for comes in, is written back, and then there is nothing unknown, or another round. */
static void rest(struct replica_group *g)
{
    struct copy *c = &g->copy;
    struct store_copy_state st;
    struct store_stats stats;
    if (c->n_requests > 0)
        return;
    store_copy_state(g->replica->store, g->id, &st);
    if (st.unknown_leaves == 0) {
        copy_filled(g);
        return;
    }
    store_get_stats(g->replica->store, &stats);
    if (stats.checkpoints_done == c->checkpoints) {
        if (!stats.checkpointing)
            store_checkpoint(g->replica->store);
        return;
    }
    c->round_over = false;
    c->cursor = 0;
}

static void walk(struct replica_group *g)
{
    struct copy *c = &g->copy;
    for (;;) {
        if (c->phase != COPY_FILLING || c->walking || c->verdict.state != VERDICT_NONE)
            return;
        bool walked = c->walked;
        c->walked = false;
        if (walked && !took(g))
            return;
        if (c->verdict.state != VERDICT_NONE || c->phase != COPY_FILLING)
            return;
        if (c->round_over || (c->pass == COPY_IMAGES && !may_ask(g)))
            return;
        c->unknown.group = g->id;
        c->unknown.from = c->cursor;
        c->unknown.fn = on_unknown;
        c->unknown.user = g;
        c->walking = c->in_walk = true;
        store_unknown_next(g->replica->store, &c->unknown);
        c->in_walk = false;
    }
}

/* ---- events ---- */

void copy_fill_soon(struct replica_group *g)
{
    copy_set_timer(g, 0);
}

static void count(struct replica_group *g, uint64_t now)
{
    struct copy *c = &g->copy;
    if (now - c->counted_ns < NS_PER_S)
        return;
    struct store_copy_state st;
    store_copy_state(g->replica->store, g->id, &st);
    uint64_t bytes = st.copied_bytes > c->counted_bytes ? st.copied_bytes - c->counted_bytes : 0;
    uint64_t rate = (uint64_t)((unsigned __int128)bytes * NS_PER_S / (now - c->counted_ns));
    c->rate = c->rate ? (3 * c->rate + rate) / 4 : rate;
    c->counted_ns = now;
    c->counted_bytes = st.copied_bytes;
}

void copy_fill_tick(struct replica_group *g)
{
    struct copy *c = &g->copy;
    struct replica *r = g->replica;
    uint64_t now = io_now(r->reactor);
    uint64_t own = latency_of_clients(r);
    pace_observe(&r->pace, own, r->latency.quiet_ns, now);
    count(g, now);
    look_ahead(g, now);
    list_for_each_safe(l, &c->requests)
    {
        struct copy_request *rq = container_of(l, struct copy_request, link);
        if (rq->state == COPY_ASKED && now - rq->asked_ns >= COPY_ANSWER_NS) {
            MARK("copy: a donor did not answer in time");
            copy_image_failed(rq, COPY_INCOMPLETE_NS);
        }
        /* Who gave it may be gone, and nobody else may know that the log is committed that far before this replica counts again: then what the others have must do. The walk finds the blocks again. */
        if (rq->state == COPY_INSTALLING && rq->c.image_slot > store_applied(r->store, g->id) && now - rq->asked_ns >= COPY_AHEAD_NS) {
            MARK("copy: an image from too far ahead is given up");
            copy_image_abandon(rq);
            continue;
        }
        if (rq->state == COPY_TO_ASK)
            copy_image_ask(rq); /* may be the end of it */
    }
    if (c->verdict.state == VERDICT_ASKED && now - c->verdict.asked_ns >= COPY_ANSWER_NS)
        verdict_failed(g, COPY_INCOMPLETE_NS);
    else if (c->verdict.state == VERDICT_TO_ASK)
        ask_verdict(g);
    if (c->round_over)
        rest(g);
    walk(g);
    if (c->phase != COPY_FILLING)
        return;
    /* Soon again when only the pace holds it up. */
    uint64_t next = now + COPY_TICK_NS, paced = pace_next(&r->pace, now);
    if (c->pass == COPY_IMAGES && !c->round_over && paced > now && paced < next)
        next = paced;
    if (c->timer.heap_index == 0 || c->timer.at_ns > next)
        timer_set(r->reactor, &c->timer, next);
}

void copy_fill_peer_changed(struct replica_group *g, struct peer *p)
{
    struct copy *c = &g->copy;
    if (p->state == PEER_DOWN) {
        list_for_each(l, &c->requests)
        {
            struct copy_request *rq = container_of(l, struct copy_request, link);
            if (rq->state == COPY_ASKED && rq->peer == p)
                copy_image_failed(rq, 0);
        }
        if (c->verdict.state == VERDICT_ASKED && c->verdict.peer == p)
            verdict_failed(g, 0);
    }
    copy_fill_soon(g);
}

void copy_fill_on_msg(struct replica_group *g, struct peer *p, const struct msg *m, struct buf *payload)
{
    struct copy *c = &g->copy;
    if (c->verdict.state == VERDICT_ASKED && c->verdict.peer == p && c->verdict.cookie == m->cookie) {
        on_verdict(g, m);
        return;
    }
    list_for_each(l, &c->requests)
    {
        struct copy_request *rq = container_of(l, struct copy_request, link);
        if (rq->state != COPY_ASKED || rq->peer != p || rq->cookie != m->cookie)
            continue;
        copy_image_on_msg(rq, m, payload); /* rq may be gone */
        copy_fill_soon(g);
        return;
    }
}

void copy_fill_begin(struct replica_group *g)
{
    struct copy *c = &g->copy;
    struct store_copy_state st;
    store_copy_state(g->replica->store, g->id, &st);
    assert(list_empty(&c->requests));
    c->phase = COPY_FILLING;
    c->pass = COPY_VERDICTS;
    c->cursor = 0;
    c->walked = c->round_over = false;
    c->verdict.state = VERDICT_NONE;
    c->ahead_ns = 0;
    c->ahead = (struct log_pos){0};
    c->counted_ns = io_now(g->replica->reactor);
    c->counted_bytes = st.copied_bytes;
    status_note_state(g);
    copy_fill_soon(g);
}

void copy_fill_stop(struct replica_group *g)
{
    struct copy *c = &g->copy;
    list_for_each_safe(l, &c->requests)
    {
        copy_image_abandon(container_of(l, struct copy_request, link));
    }
    c->walked = false;
    c->stale = c->walking; /* what the store still looks for is of no use any more */
    c->verdict.state = VERDICT_NONE;
    c->verdict.cookie = 0;
    timer_cancel(g->replica->reactor, &c->timer);
}
