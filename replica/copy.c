/* From "needs copy" to "complete": the course of a copy (docs/rebuild.md sections 3 and 4).
 *
 * What always holds:
 *  - the acceptor says "needs copy" from when that is durable until the checkpoint that says otherwise is;
 *  - from the listing's last page to the jump nothing is applied, from the jump until it is durable nothing is persisted for the group but promises: Opens are held back, catch-up is not under way;
 *  - catch-up decides that a jump is needed (copy_wanted) and that logs suffice (copy_log_suffices); a copy under way never waits for a stream. */
#include "replica/replica_internal.h"

#include <errno.h>
#include <stdlib.h>

#include "base/mark.h"

/* An Open that came while a jump was being made durable. */
struct held_open {
    struct list link;
    uint32_t session;
    struct msg msg;
};

static void begin_drain(struct replica_group *g, enum copy_phase phase);

static unsigned long long id_of(const struct replica_group *g)
{
    return (unsigned long long)g->id;
}

void copy_set_timer(struct replica_group *g, uint64_t in_ns)
{
    timer_set(g->replica->reactor, &g->copy.timer, io_now(g->replica->reactor) + in_ns);
}

/* ---- what is held back ---- */

bool copy_holds(struct session *s, struct replica_group *g, const struct msg *m)
{
    if (g->copy.phase != COPY_JUMPING || m->type != MSG_OPEN)
        return false;
    MARK("copy: an open is held back during the jump");
    list_for_each(l, &g->copy.held)
    {
        struct held_open *h = container_of(l, struct held_open, link);
        if (h->session == s->id) {
            h->msg = *m;
            return true;
        }
    }
    struct held_open *h = calloc(1, sizeof *h);
    if (!h)
        return true; /* the proposer asks again */
    h->session = s->id;
    h->msg = *m;
    list_push_back(&g->copy.held, &h->link);
    return true;
}

static void drop_held(struct replica_group *g)
{
    struct list *l;
    while ((l = list_pop_front(&g->copy.held)))
        free(container_of(l, struct held_open, link));
}

static void let_in_held(struct replica_group *g)
{
    struct list *l;
    while ((l = list_pop_front(&g->copy.held))) {
        struct held_open *h = container_of(l, struct held_open, link);
        if (replica_find_session(g->replica, h->session)) {
            struct acceptor_event ev = {.type = ACCEPTOR_MSG, .link = h->session, .msg = &h->msg};
            replica_step(g, &ev);
        }
        free(h);
    }
}

/* ---- finding out, and that logs suffice after all ---- */

static void on_marked(void *user, int err)
{
    struct replica_group *g = user;
    if (err || g->replica->closing)
        return; /* the store is dead: so is the daemon, soon */
    acceptor_set_needs_copy(&g->acceptor, true);
    status_note_state(g);
    begin_drain(g, COPY_DRAINING);
}

void copy_wanted(struct replica_group *g)
{
    struct copy *c = &g->copy;
    struct replica *r = g->replica;
    if (c->phase == COPY_COMPLETING || c->phase == COPY_UNMARKING) {
        c->wanted_again = true;
        return;
    }
    if (c->phase != COPY_NONE && c->phase != COPY_WAITING && c->phase != COPY_FILLING)
        return; /* on its way */
    catchup_hold(g);
    if (c->phase == COPY_NONE) {
        MARK("copy: needs copy");
        c->since_ns = io_now(r->reactor);
        c->phase = COPY_MARKING;
        store_needs_copy(r->store, g->id, true, on_marked, g);
        return;
    }
    MARK_IF(c->phase == COPY_FILLING, "copy: jumps again, the logs were trimmed meanwhile");
    begin_drain(g, COPY_DRAINING);
}

static void be_complete(struct replica_group *g)
{
    struct copy *c = &g->copy;
    c->phase = COPY_NONE;
    c->since_ns = 0;
    timer_cancel(g->replica->reactor, &c->timer);
    struct acceptor_event ev = {.type = ACCEPTOR_COMPLETE};
    replica_step(g, &ev);
    status_note_state(g);
    if (c->wanted_again) {
        c->wanted_again = false;
        copy_wanted(g);
    }
}

static void on_unmarked(void *user, int err)
{
    struct replica_group *g = user;
    if (err || g->replica->closing)
        return;
    log_info("group %llu: needs no copy after all: peers' logs reach back far enough", id_of(g));
    be_complete(g);
}

void copy_log_suffices(struct replica_group *g)
{
    struct copy *c = &g->copy;
    struct store_copy_state st;
    if (c->phase != COPY_WAITING)
        return;
    store_copy_state(g->replica->store, g->id, &st);
    if (st.copying)
        return; /* cannot be: a copy under way fills */
    MARK("copy: the logs suffice after all");
    c->phase = COPY_UNMARKING;
    store_needs_copy(g->replica->store, g->id, false, on_unmarked, g);
}

/* ---- the jump ---- */

/* No jump this time: catch-up looks again whether one is needed, and calls. */
void copy_give_way(struct replica_group *g, uint64_t in_ns)
{
    struct copy *c = &g->copy;
    struct store_copy_state st;
    store_jump_cancel(g->replica->store, g->id);
    store_copy_state(g->replica->store, g->id, &st);
    copy_list_drop(g);
    if (st.copying)
        copy_fill_begin(g);
    else
        c->phase = COPY_WAITING;
    catchup_release(g, in_ns);
}

static void on_jumped(void *user)
{
    struct replica_group *g = user;
    if (g->replica->closing)
        return;
    assert(g->copy.phase == COPY_JUMPING);
    MARK("copy: jumped");
    log_info("group %llu: continues at slot %llu, what changed before it is copied from peers", id_of(g), (unsigned long long)g->acceptor.commit);
    copy_fill_begin(g);
    let_in_held(g);
    catchup_release(g, 0);
}

static void jump(struct replica_group *g)
{
    struct copy *c = &g->copy;
    struct replica *r = g->replica;
    if (c->at.slot <= g->acceptor.commit) { /* a stream was faster */
        MARK("copy: no jump, the position was reached meanwhile");
        copy_give_way(g, 0);
        return;
    }
    struct store_jump j = {.to = c->at,
                           .membership = c->membership,
                           .keep_log = paxos_log_holds(&g->acceptor.log, &c->at),
                           .listing = c->listing,
                           .n = c->n_listing};
    int err = store_jump_check(r->store, g->id, &j);
    if (err == -EAGAIN) {
        begin_drain(g, COPY_REDRAINING);
        return;
    }
    if (err) {
        c->refused = err == -ENOSPC ? "what a copy would mark does not fit into this disk's region table: it needs a larger one" : "the donor's listing can't be used";
        log_error("group %llu: can't be copied: %s", id_of(g), c->refused);
        copy_give_way(g, COPY_REFUSED_NS);
        return;
    }
    MARK_IF(j.keep_log, "copy: jumps to a position that the own log holds");
    MARK_IF(!j.keep_log, "copy: jumps, the log is emptied");
    c->refused = NULL;
    c->phase = COPY_JUMPING;
    struct acceptor_event ev = {.type = ACCEPTOR_JUMP, .to = c->at, .membership = &c->membership};
    replica_step(g, &ev);
    store_jump(r->store, g->id, &j, on_jumped, g);
    copy_list_drop(g);
}

static void on_drained(void *user)
{
    struct replica_group *g = user;
    if (g->replica->closing)
        return;
    if (g->copy.phase == COPY_REDRAINING)
        jump(g);
    else if (g->copy.phase == COPY_DRAINING)
        copy_list_begin(g);
}

static void begin_drain(struct replica_group *g, enum copy_phase phase)
{
    copy_fill_stop(g);
    g->copy.phase = phase;
    store_drain(g->replica->store, g->id, on_drained, g);
}

void copy_listed(struct replica_group *g)
{
    begin_drain(g, COPY_REDRAINING);
}

/* ---- the end ---- */

static void on_complete(void *user, int err)
{
    struct replica_group *g = user;
    if (g->replica->closing || g->copy.phase != COPY_COMPLETING)
        return;
    if (err) {
        copy_fill_begin(g);
        return;
    }
    MARK("copy: complete");
    log_info("group %llu: the copy is complete: it counts again", id_of(g));
    be_complete(g);
    repair_run(g->replica);
}

void copy_filled(struct replica_group *g)
{
    copy_fill_stop(g);
    g->copy.phase = COPY_COMPLETING;
    store_copy_complete(g->replica->store, g->id, on_complete, g);
}

/* ---- life ---- */

static void on_timer(struct timer *t)
{
    struct replica_group *g = container_of(t, struct replica_group, copy.timer);
    if (g->copy.phase == COPY_LISTING)
        copy_list_timeout(g);
    else if (g->copy.phase == COPY_FILLING)
        copy_fill_tick(g);
}

void copy_init(struct replica_group *g)
{
    struct copy *c = &g->copy;
    c->timer.fn = on_timer;
    list_init(&c->held);
    list_init(&c->requests);
    if (g->acceptor.needs_copy) {
        c->phase = COPY_WAITING;
        c->since_ns = io_now(g->replica->reactor);
    }
}

void copy_resume(struct replica_group *g)
{
    struct store_copy_state st;
    if (g->copy.phase != COPY_WAITING)
        return;
    store_copy_state(g->replica->store, g->id, &st);
    if (!st.copying)
        return;
    MARK("copy: goes on after a restart");
    copy_fill_begin(g);
}

void copy_has_room(struct replica_group *g)
{
    if (g->copy.phase == COPY_FILLING)
        copy_fill_soon(g);
}

void copy_peer_changed(struct replica_group *g, struct peer *p)
{
    if (g->copy.phase == COPY_LISTING)
        copy_list_peer_changed(g, p);
    else if (g->copy.phase == COPY_FILLING)
        copy_fill_peer_changed(g, p);
}

void copy_on_msg(struct replica_group *g, struct peer *p, const struct msg *m, struct buf *payload)
{
    if (g->copy.phase == COPY_LISTING)
        copy_list_on_msg(g, p, m);
    else if (g->copy.phase == COPY_FILLING)
        copy_fill_on_msg(g, p, m, payload);
}

void copy_stop(struct replica_group *g)
{
    struct copy *c = &g->copy;
    copy_fill_stop(g);
    copy_list_drop(g);
    drop_held(g);
    if (c->phase == COPY_DRAINING || c->phase == COPY_LISTING || c->phase == COPY_REDRAINING)
        store_jump_cancel(g->replica->store, g->id);
    timer_cancel(g->replica->reactor, &c->timer);
}
