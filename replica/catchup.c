/* Catch-up from a peer's log (protocol.md A7), piece by piece: ask for what follows the own commit, hand each piece to the acceptor, ask on until nothing more comes.
 *
 * A piece ends at an entry that is committed at the donor, so each is an A7 of its own. States: IDLE; CONNECTING (a peer's connection is being made); RECEIVING (a request is
 * under way); BLOCKED (the store has no room; catchup_continue goes on); PAUSING (nobody could help; tried again after a while); HELD (a jump is being made). When every other voter
 * said that its log no longer reaches back, or those that can be asked did and the others had their time, this replica needs a copy (copy.c). */
#include "replica/replica_internal.h"

#include <errno.h>
#include <stdlib.h>

#include "base/mark.h"

static void set_timer(struct replica_group *g, uint64_t in_ns)
{
    timer_set(g->replica->reactor, &g->catchup.timer, io_now(g->replica->reactor) + in_ns);
}

static void drop_piece(struct catchup *c)
{
    for (uint32_t i = 0; i < c->n_entries; i++)
        entry_unref(c->entries[i]);
    c->n_entries = 0;
    c->received_bytes = 0;
}

static void become_idle(struct replica_group *g)
{
    struct catchup *c = &g->catchup;
    drop_piece(c);
    timer_cancel(g->replica->reactor, &c->timer);
    c->state = CATCHUP_IDLE;
    c->peer = NULL;
    c->cookie = 0;
    status_note_state(g);
}

static void forget_round(struct catchup *c)
{
    c->failed_peers = 0;
    c->asked = c->too_old = 0;
    c->best_commit = 0;
}

/* A piece must fit what wal_room() leaves out: the room is not looked at again while it is being taken. */
static uint64_t piece_bytes(const struct replica *r)
{
    uint64_t most = r->superblock.wal_bytes / 4;
    return most < CATCHUP_PIECE_BYTES ? most : CATCHUP_PIECE_BYTES;
}

static void ask(struct replica_group *g)
{
    struct catchup *c = &g->catchup;
    drop_piece(c);
    c->state = CATCHUP_RECEIVING;
    c->cookie = g->replica->next_cookie++;
    c->from = acceptor_commit_pos(&g->acceptor);
    struct msg m = {.type = MSG_CATCHUP,
                    .cookie = c->cookie,
                    .group = g->id,
                    .target = c->peer->config.identity,
                    .u.catchup = {.from = c->from, .max_bytes = piece_bytes(g->replica)}};
    wire_peer_send(&c->peer->wire, &m);
    set_timer(g, CATCHUP_TIMEOUT_NS);
}

/* Every other voter has no log that reaches back; or those who could be asked have not, they and this one are a majority, and the others had their time. */
static bool must_copy(struct replica_group *g)
{
    const struct catchup *c = &g->catchup;
    unsigned asked = (unsigned)__builtin_popcount(c->asked), voters = 0, too_old = 0;
    if (c->too_old == 0)
        return false;
    for (uint32_t i = 0; i < g->replica->n_peers; i++) {
        bool votes = membership_has_voter(&g->acceptor.committed, &g->replica->peers[i].config.identity);
        voters += votes;
        too_old += votes && (c->too_old & UINT32_C(1) << i);
    }
    if (too_old == voters && too_old + 1 >= g->acceptor.committed.n_voters)
        return true;
    /* Who copies anyway need not wait: else one that is started again and again would never come to its next jump. */
    bool decided = g->copy.phase == COPY_WAITING || g->copy.phase == COPY_FILLING || io_now(g->replica->reactor) - c->too_old_ns >= CATCHUP_DECIDE_NS;
    return decided && asked + 1 >= membership_majority(&g->acceptor.committed);
}

static void pause_or_give_up(struct replica_group *g)
{
    struct catchup *c = &g->catchup;
    bool met = c->target.slot > 0 && c->target.slot <= g->acceptor.commit;
    if (met || (c->target.slot == 0 && g->copy.phase != COPY_WAITING)) { /* the stream has brought it meanwhile, or nothing was missing */
        MARK("catchup: the stream brought it meanwhile");
        c->anybody = false;
        become_idle(g);
        if (met)
            copy_log_suffices(g);
        return;
    }
    drop_piece(c);
    c->peer = NULL;
    c->cookie = 0;
    c->failed_peers = 0;
    if (must_copy(g)) {
        log_error("group %llu: behind at slot %llu, and no peer's log reaches back that far: needs copy", (unsigned long long)g->id,
                  (unsigned long long)g->acceptor.commit);
        copy_wanted(g);
        if (c->state == CATCHUP_HELD)
            return;
    }
    MARK_IF(!c->anybody, "catchup: no voter that it knows of could help");
    c->anybody = true;
    c->state = CATCHUP_PAUSING;
    status_note_state(g);
    set_timer(g, g->copy.phase == COPY_WAITING ? 10 * CATCHUP_RETRY_NS : CATCHUP_RETRY_NS);
}

static void try_next_peer(struct replica_group *g);

static void try_peer(struct replica_group *g, struct peer *p)
{
    struct catchup *c = &g->catchup;
    c->peer = p;
    if (p->state == PEER_UP) {
        ask(g);
        return;
    }
    peer_want(p);
    if (p->state != PEER_CONNECTING) {
        c->failed_peers++;
        try_next_peer(g);
        return;
    }
    c->state = CATCHUP_CONNECTING;
    set_timer(g, PEER_CONNECT_TIMEOUT_NS);
}

static void try_next_peer(struct replica_group *g)
{
    struct catchup *c = &g->catchup;
    unsigned n = peers_of_group(g);
    drop_piece(c);
    c->cookie = 0;
    if (n == 0 || c->failed_peers >= n) {
        pause_or_give_up(g);
        return;
    }
    try_peer(g, peer_of_group(g, c->next_peer++ % n));
}

static void peer_failed(struct replica_group *g)
{
    g->catchup.failed_peers++;
    try_next_peer(g);
}

static void on_timer(struct timer *t)
{
    struct replica_group *g = container_of(t, struct replica_group, catchup.timer);
    struct catchup *c = &g->catchup;
    if (c->state == CATCHUP_PAUSING && c->target.slot <= g->acceptor.commit && g->copy.phase == COPY_NONE)
        become_idle(g); /* it came back into the stream by itself */
    else if (c->state == CATCHUP_PAUSING)
        try_next_peer(g);
    else if (c->state == CATCHUP_CONNECTING || c->state == CATCHUP_RECEIVING) {
        MARK("catchup: a peer did not answer in time");
        peer_failed(g);
    }
}

void catchup_init(struct replica_group *g)
{
    g->catchup.timer.fn = on_timer;
    g->catchup.next_peer = g->replica->superblock.identity.b[0]; /* not everybody asks the same peer first */
}

void catchup_wanted(struct replica_group *g, const struct log_pos *target)
{
    struct catchup *c = &g->catchup;
    if (target->slot > c->target.slot)
        c->target = *target;
    if (c->state != CATCHUP_IDLE || g->replica->closing)
        return;
    forget_round(c);
    try_next_peer(g);
}

void catchup_peer_changed(struct replica_group *g, struct peer *p)
{
    struct catchup *c = &g->catchup;
    if (c->peer != p)
        return;
    if (p->state == PEER_UP && c->state == CATCHUP_CONNECTING)
        ask(g);
    else if (p->state == PEER_DOWN && (c->state == CATCHUP_CONNECTING || c->state == CATCHUP_RECEIVING))
        peer_failed(g);
}

/* ---- receiving ---- */

static void take_entry(struct replica_group *g, const struct msg *m)
{
    struct catchup *c = &g->catchup;
    struct entry *e = m->u.catchup_entry.entry;
    bool fits = e->block <= g->acceptor.size_blocks && e->nblocks <= g->acceptor.size_blocks - e->block;
    if (e->group != g->id || e->slot != c->from.slot + 1 + c->n_entries || c->n_entries == CATCHUP_PIECE_ENTRIES || !fits) {
        log_warning("group %llu: %s sent an entry out of order; dropping it as a donor for now", (unsigned long long)g->id, c->peer->config.name);
        wire_peer_close(&c->peer->wire); /* peer_failed follows */
        return;
    }
    c->entries[c->n_entries++] = entry_ref(e);
    c->received_bytes += entry_payload_bytes(e);
    set_timer(g, CATCHUP_TIMEOUT_NS);
}

static void take_piece(struct replica_group *g, const struct msg *m)
{
    struct catchup *c = &g->catchup;
    struct replica *r = g->replica;
    const struct entry *last = c->entries[c->n_entries - 1];
    if (m->u.catchup_end.through.slot != last->slot || !ballot_equal(&m->u.catchup_end.through.e, &last->e)) {
        wire_peer_close(&c->peer->wire);
        return;
    }
    if (!store_has_room(r->store)) { /* there was when it was asked for; another group may have used it */
        MARK("catchup: no room for the piece");
        drop_piece(c);
        c->state = CATCHUP_BLOCKED;
        timer_cancel(r->reactor, &c->timer);
        return;
    }
    /* Nobody looked at this replica's credit for space: what write-back would find no slabs for is asked for again. */
    uint32_t n = store_can_take(r->store, c->entries, c->n_entries);
    if (n == 0) {
        MARK("catchup: no space for a single entry");
        drop_piece(c);
        c->state = CATCHUP_PAUSING;
        set_timer(g, CATCHUP_RETRY_NS);
        return;
    }
    MARK_IF(n < c->n_entries, "catchup: a piece cut to the space that there is");
    struct acceptor_event ev = {
        .type = ACCEPTOR_CAUGHT_UP,
        .from = c->from,
        .through = {.slot = c->entries[n - 1]->slot, .e = c->entries[n - 1]->e},
        .entries = c->entries,
        .n_entries = n,
    };
    uint64_t before = g->acceptor.commit;
    replica_step(g, &ev);
    if (g->acceptor.commit == before) {
        MARK("catchup: piece not usable");
        peer_failed(g); /* stale by now, or not usable: don't ask for the same again and again */
        return;
    }
    r->n_catchup_entries += n;
    c->total_entries += n;
    forget_round(c);
    drop_piece(c);
    if (store_has_room(r->store)) {
        ask(g);
        return;
    }
    MARK("catchup: blocked until there is room");
    c->state = CATCHUP_BLOCKED;
    timer_cancel(r->reactor, &c->timer);
}

static void note_too_old(struct replica_group *g, const struct msg *m)
{
    struct catchup *c = &g->catchup;
    const struct log_pos *commit = &m->u.catchup_end.commit;
    if (c->too_old == 0)
        c->too_old_ns = io_now(g->replica->reactor);
    c->too_old |= UINT32_C(1) << (c->peer - g->replica->peers);
    if (commit->slot > c->target.slot)
        c->target = *commit;
    if (commit->slot <= c->best_commit)
        return;
    c->best_commit = commit->slot;
    for (unsigned i = 0; i < peers_of_group(g); i++)
        if (peer_of_group(g, i) == c->peer)
            c->best_peer = i;
}

static void on_end(struct replica_group *g, const struct msg *m)
{
    struct catchup *c = &g->catchup;
    if (m->u.catchup_end.status == CATCHUP_OK && c->n_entries > 0) {
        take_piece(g, m);
        return;
    }
    if (m->u.catchup_end.status == CATCHUP_TOO_OLD) {
        MARK("catchup: a peer's log does not reach back");
        struct acceptor_event ev = {.type = ACCEPTOR_CAUGHT_UP, .through = m->u.catchup_end.through};
        uint64_t before = g->acceptor.commit;
        replica_step(g, &ev);
        if (g->acceptor.commit > before) {
            forget_round(c);
            ask(g);
            return;
        }
        note_too_old(g, m);
    }
    c->asked |= UINT32_C(1) << (c->peer - g->replica->peers);
    if (m->u.catchup_end.status == CATCHUP_OK && g->acceptor.commit >= c->target.slot) {
        MARK_IF(c->total_entries, "catchup: caught up from peers");
        if (c->total_entries)
            log_info("group %llu: caught up through slot %llu (%llu entries from peers)", (unsigned long long)g->id,
                     (unsigned long long)g->acceptor.commit, (unsigned long long)c->total_entries);
        c->total_entries = 0;
        c->anybody = false;
        become_idle(g);
        copy_log_suffices(g);
        return;
    }
    peer_failed(g); /* it has no more than we have, or can't help */
}

void catchup_on_msg(struct replica_group *g, struct peer *p, const struct msg *m)
{
    struct catchup *c = &g->catchup;
    if (c->state != CATCHUP_RECEIVING || c->peer != p || m->cookie != c->cookie)
        return; /* of a request that was given up */
    if (m->type == MSG_CATCHUP_ENTRY)
        take_entry(g, m);
    else if (m->type == MSG_CATCHUP_END)
        on_end(g, m);
    else if (m->type == MSG_NACK)
        peer_failed(g); /* the group is unknown there */
}

void catchup_continue(struct replica_group *g)
{
    if (g->catchup.state != CATCHUP_BLOCKED || !store_has_room(g->replica->store))
        return;
    if (g->catchup.peer && g->catchup.peer->state == PEER_UP)
        ask(g);
    else
        try_next_peer(g);
}

void catchup_stop(struct replica_group *g)
{
    become_idle(g);
}

void catchup_hold(struct replica_group *g)
{
    become_idle(g);
    g->catchup.state = CATCHUP_HELD;
}

void catchup_release(struct replica_group *g, uint64_t in_ns)
{
    struct catchup *c = &g->catchup;
    if (c->state != CATCHUP_HELD || g->replica->closing)
        return;
    forget_round(c);
    c->state = CATCHUP_PAUSING;
    set_timer(g, in_ns);
}

/* ---- donating ---- */

struct donation {
    struct replica *replica;
    uint64_t group;
    uint32_t session;
    uint64_t cookie;
    struct log_pos sent; /* through here */
    uint64_t through;    /* the commit when it began */
    uint64_t bytes, max_bytes;
    uint32_t n;
    bool in_fetch, fetched; /* store_value may answer before it returns: loop instead of recursing */
    bool failed;
    bool gone; /* the value was overwritten: nobody gets it here any more */
};

static void donation_end(struct donation *d, struct replica_group *g, struct session *s, enum catchup_status status)
{
    if (s) {
        struct msg m = {.type = MSG_CATCHUP_END, .cookie = d->cookie, .group = d->group, .u.catchup_end = {.status = status, .through = d->sent}};
        if (g)
            m.u.catchup_end.commit = acceptor_commit_pos(&g->acceptor);
        wire_peer_send(&s->peer, &m);
        s->catchup_busy = false;
    }
    free(d);
}

static void on_value(void *user, struct entry *e, int err);

static void donation_run(struct donation *d)
{
    for (;;) {
        struct session *s = replica_find_session(d->replica, d->session);
        struct replica_group *g = replica_find_group(d->replica, d->group);
        if (s && g && d->gone && d->n == 0) {
            MARK("catchup: donor's next value is overwritten");
            donation_end(d, g, s, CATCHUP_TOO_OLD);
            return;
        }
        bool done = d->failed || d->sent.slot >= d->through || d->bytes >= d->max_bytes || d->n >= CATCHUP_PIECE_ENTRIES;
        if (!s || !g || done || d->replica->closing) {
            donation_end(d, g, s, CATCHUP_OK);
            return;
        }
        d->in_fetch = true;
        d->fetched = false;
        store_value(d->replica->store, d->group, d->sent.slot + 1, on_value, d);
        d->in_fetch = false;
        if (!d->fetched)
            return; /* on_value goes on */
    }
}

static void on_value(void *user, struct entry *e, int err)
{
    struct donation *d = user;
    struct session *s = replica_find_session(d->replica, d->session);
    struct replica_group *g = replica_find_group(d->replica, d->group);
    struct log_pos above;
    if (e && s) {
        struct msg m = {.type = MSG_CATCHUP_ENTRY, .cookie = d->cookie, .group = d->group, .u.catchup_entry.entry = e};
        wire_peer_send(&s->peer, &m);
        d->sent = (struct log_pos){.slot = e->slot, .e = e->e};
        d->bytes += entry_payload_bytes(e) + BLOCK_SIZE / 8;
        d->n++;
        d->replica->n_donated_entries++;
    } else {
        MARK("catchup: donor can't give a value");
        d->gone = err == -ESTALE && g && paxos_log_at(&g->acceptor.log, d->sent.slot + 1, &above.e);
        if (d->gone && d->n == 0) /* who holds that entry needs none before it: the logs do meet */
            d->sent = (struct log_pos){.slot = d->sent.slot + 1, .e = above.e};
        d->failed = true; /* lost here, or overwritten meanwhile: what was sent so far is a piece of its own */
    }
    entry_unref(e);
    d->fetched = true;
    if (!d->in_fetch)
        donation_run(d);
}

void catchup_donate(struct session *s, struct replica_group *g, const struct msg *m)
{
    struct donation *d = calloc(1, sizeof *d);
    if (!d || s->catchup_busy) {
        free(d);
        return; /* one at a time; the requester's timer asks again */
    }
    s->catchup_busy = true;
    *d = (struct donation){
        .replica = g->replica,
        .group = g->id,
        .session = s->id,
        .cookie = m->cookie,
        .sent = m->u.catchup.from,
        .through = g->acceptor.commit,
        .max_bytes = m->u.catchup.max_bytes < CATCHUP_PIECE_BYTES ? m->u.catchup.max_bytes : CATCHUP_PIECE_BYTES,
    };
    const struct log_pos *from = &m->u.catchup.from;
    struct ballot e;
    if (g->acceptor.needs_copy || from->slot > g->acceptor.commit) {
        MARK("catchup: asked for more than the donor has");
        donation_end(d, g, s, CATCHUP_UNMATCHED);
        return;
    }
    if (from->slot < g->acceptor.log.base.slot) {
        MARK("catchup: donor's log does not reach back");
        d->sent = g->acceptor.log.base; /* if the other one holds this, the logs do meet */
        donation_end(d, g, s, CATCHUP_TOO_OLD);
        return;
    }
    bool known = from->slot == g->acceptor.log.base.slot ? (e = g->acceptor.log.base.e, true) : paxos_log_at(&g->acceptor.log, from->slot, &e);
    if (!known || !ballot_equal(&e, &from->e)) {
        donation_end(d, g, s, CATCHUP_UNMATCHED);
        return;
    }
    donation_run(d);
}
