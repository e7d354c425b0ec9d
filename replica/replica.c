/* The replica's life and its groups: the acceptor's effects become records and answers, the store's reports become events.
 *
 * The order of things is the acceptor's: persist effects are handed to the store as they come, answers wait in `deferred` until the record they depend on is durable. */
#include "replica/replica_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/mark.h"

#define PAUSED_SAY_NS (10 * NS_PER_S)

struct replica_group *replica_find_group(struct replica *r, uint64_t group)
{
    list_for_each(p, &r->groups)
    {
        struct replica_group *g = container_of(p, struct replica_group, link);
        if (g->id == group)
            return g;
    }
    return NULL;
}

struct session *replica_find_session(struct replica *r, uint32_t id)
{
    list_for_each(p, &r->sessions)
    {
        struct session *s = container_of(p, struct session, link);
        if (s->id == id)
            return s;
    }
    return NULL;
}

/* ---- answers ---- */

static void send_or_defer(struct replica_group *g, const struct acceptor_effect *e)
{
    struct replica *r = g->replica;
    if (e->after <= g->acceptor.durable_seq && list_empty(&g->deferred)) {
        struct session *s = replica_find_session(r, e->link);
        if (s)
            wire_peer_send(&s->peer, &e->msg);
        return;
    }
    /* The answer is built now, as the log stands at the record's place (A1), and leaves when that is durable. */
    size_t n = wire_encode(&e->msg, 0, r->scratch);
    struct deferred *d = calloc(1, sizeof *d);
    if (!d) {
        log_error("out of memory for an answer; exiting");
        abort();
    }
    d->after = e->after;
    d->session = e->link;
    d->frame = buf_alloc_must(r->reactor->arena, n);
    memcpy(d->frame->data, r->scratch, n);
    d->frame_len = (uint32_t)n;
    list_push_back(&g->deferred, &d->link);
}

static void deferred_free(struct deferred *d)
{
    buf_unref(d->frame);
    free(d);
}


static void release_deferred(struct replica_group *g)
{
    while (!list_empty(&g->deferred)) {
        struct deferred *d = container_of(g->deferred.next, struct deferred, link);
        if (d->after > g->acceptor.durable_seq)
            break;
        list_remove(&d->link);
        struct session *s = replica_find_session(g->replica, d->session);
        if (s && s->peer.conn) {
            struct segment seg = {.buf = d->frame, .ptr = d->frame->data, .len = d->frame_len};
            conn_send(s->peer.conn, &seg, 1);
        }
        deferred_free(d);
    }
}

/* ---- effects and events ---- */

static void run_effect(struct replica_group *g, const struct acceptor_effect *e)
{
    struct replica *r = g->replica;
    switch (e->type) {
    case ACCEPTOR_PROMISE:
        store_promise(r->store, g->id, &g->acceptor.promised, g->acceptor.max_lease_ns, e->seq);
        break;
    case ACCEPTOR_CUT:
        store_cut(r->store, g->id, e->slot, e->seq);
        break;
    case ACCEPTOR_APPEND:
        store_append(r->store, e->entry, e->seq);
        break;
    case ACCEPTOR_REFILL:
        store_refill(r->store, e->entry, e->seq);
        break;
    case ACCEPTOR_SEND:
        send_or_defer(g, e);
        break;
    case ACCEPTOR_COMMIT:
        store_commit(r->store, g->id, e->slot);
        break;
    case ACCEPTOR_BEHIND:
        r->n_behind++;
        catchup_wanted(g, &e->target);
        break;
    case ACCEPTOR_MEMBERSHIP:
        log_info("group %llu: membership changed: %u voters, %u learners committed%s", (unsigned long long)g->id,
                 g->acceptor.committed.n_voters, g->acceptor.committed.n_learners,
                 g->acceptor.has_uncommitted ? "; another one is under way" : "");
        break;
    }
}

/* Nothing that an effect calls reports back before it returns (the store reports from its turn hook or completions), so the acceptor is never stepped in here. */
void replica_run_effects(struct replica_group *g)
{
    struct acceptor_effects *fx = &g->replica->effects;
    for (uint32_t i = 0; i < fx->n; i++)
        run_effect(g, &fx->effect[i]);
    fx->n = 0;
}

void replica_step(struct replica_group *g, struct acceptor_event *ev)
{
    assert(g->replica->effects.n == 0); /* never from inside an effect */
    /* Leases are granted by the clock. Entries and their durability, most of what comes, need no time but that in a refusal. */
    bool exact = ev->type == ACCEPTOR_MSG ? ev->msg->type != MSG_ACCEPT : ev->type != ACCEPTOR_DURABLE;
    ev->now_ns = exact ? io_now(g->replica->reactor) : io_turn_now(g->replica->reactor);
    acceptor_step(&g->acceptor, ev, &g->replica->effects);
    replica_run_effects(g);
}

/* A WAL that is just too small would say it many times a second. */
static void say_held(struct replica *r)
{
    MARK("replica: streams held back, no room");
    struct store_stats st;
    store_get_stats(r->store, &st);
    bool out = store_is_full(r->store), full = out && !st.growing;
    uint64_t now = io_now(r->reactor), *said = full ? &r->said_full_ns : &r->said_paused_ns;
    if (*said != 0 && now - *said < PAUSED_SAY_NS)
        return;
    *said = now;
    if (full)
        log_error("no space is left for writes: this replica falls behind until its file system has room for another extent");
    else if (out)
        log_info("streams are held back until another extent is there");
    else
        log_info("the log is full: streams are held back until a checkpoint makes room");
}

bool replica_has_room(const struct replica *r)
{
    bool room = store_has_room(r->store);
    list_for_each(p, &r->groups)
    {
        room = room && acceptor_has_room(&container_of(p, struct replica_group, link)->acceptor);
    }
    return room;
}

void replica_update_pause(struct replica *r)
{
    if (replica_has_room(r)) {
        list_for_each(p, &r->groups)
        {
            catchup_continue(container_of(p, struct replica_group, link));
        }
        hold_release(r);
    }
    r->no_room = !replica_has_room(r);
    if (r->held_bytes > 0)
        say_held(r);
    bool full = r->no_room && hold_is_full(r);
    MARK_IF(full, "replica: front ends are not read from, too much is held");
    if (!full && !r->sessions_paused)
        return;
    list_for_each_safe(p, &r->sessions)
    {
        struct session *s = container_of(p, struct session, link);
        bool pause = full && s->greeted && s->role == ROLE_FRONTEND;
        if (pause == s->paused || !s->peer.conn)
            continue;
        s->paused = pause;
        r->sessions_paused += pause ? 1 : -1u;
        wire_peer_pause(&s->peer, pause);
    }
}

/* ---- what the store reports ---- */

static void on_store_group(void *user, const struct store_group_state *st)
{
    struct replica *r = user;
    struct acceptor_state s = {
        .group = st->group,
        .identity = r->superblock.identity,
        .size_blocks = st->size_blocks,
        .promised = st->promised,
        .max_lease_ns = st->max_lease_ns,
        .log = st->log,
        .n_lost = st->n_lost,
        .lost = st->lost,
        .committed = st->committed,
        .uncommitted = st->uncommitted.n_voters ? &st->uncommitted : NULL,
        .commit = st->commit,
        .restarted = true,
        .needs_copy = st->needs_copy,
        .retired = st->retired,
    };
    struct replica_group *g = replica_add_group(r, &s);
    g->recovered = true;
    struct log_pos last = paxos_log_last(st->log);
    log_info("group %llu: recovered: committed and applied through slot %llu, log %llu..%llu%s%s", (unsigned long long)g->id,
             (unsigned long long)st->commit, (unsigned long long)st->log->base.slot + 1, (unsigned long long)last.slot,
             st->n_lost ? ", with lost entries (to be refilled by peers)" : "", st->needs_copy ? ", needs copy" : "");
}

static void on_store_ready(void *user, int err, const char *why)
{
    struct replica *r = user;
    char text[256]; /* on_ready's for as long as it runs */
    if (!err) {
        err = io_listen(r->reactor, r->listen_address, session_accept, r, &r->listener);
        snprintf(text, sizeof text, "can't listen on %s: %s", r->listen_address,
                 err == -EADDRINUSE ? "it is in use by another process" : err == -EHOSTUNREACH ? "its host cannot be resolved" : strerror(-err));
        if (err)
            why = text;
    }
    r->ready = !err;
    r->cb.on_ready(r->cb.user, err, why);
    if (err)
        return;
    scrub_start(r);
    struct log_pos unknown = {0};
    list_for_each(p, &r->groups)
    {
        struct replica_group *g = container_of(p, struct replica_group, link);
        copy_resume(g);
        catchup_wanted(g, &unknown);
    }
}

static void on_store_durable(void *user, uint64_t group, uint64_t seq)
{
    struct replica *r = user;
    struct replica_group *g = replica_find_group(r, group);
    if (!g)
        return;
    uint64_t heard_ns = trace_waits(g) ? io_now(r->reactor) : 0;
    if (seq > g->acceptor.durable_seq) {
        struct acceptor_event ev = {.type = ACCEPTOR_DURABLE, .durable_seq = seq};
        replica_step(g, &ev);
    }
    release_deferred(g);
    if (heard_ns)
        trace_durable(g, heard_ns);
    replica_update_pause(r);
}

static void on_store_applied(void *user, uint64_t group, uint64_t slot)
{
    (void)slot;
    struct replica_group *g = replica_find_group(user, group);
    if (g)
        serve_waiting_reads(g);
}

static void on_store_trimmed(void *user, uint64_t group, uint64_t floor)
{
    struct replica_group *g = replica_find_group(user, group);
    if (!g)
        return;
    struct acceptor_event ev = {.type = ACCEPTOR_TRIM, .trim = floor};
    replica_step(g, &ev);
    replica_update_pause(g->replica);
}

static void on_store_copy_room(void *user, uint64_t group)
{
    struct replica_group *g = replica_find_group(user, group);
    if (g)
        copy_has_room(g);
}

static void on_store_credits(void *user, uint64_t group, const struct credits *c)
{
    struct replica_group *g = replica_find_group(user, group);
    if (!g)
        return;
    g->acceptor.credits = *c;
    if (g->replica->ready)
        replica_update_pause(g->replica);
}

static void on_store_bad(void *user, uint64_t group, uint64_t block, uint32_t nblocks)
{
    struct replica_group *g = replica_find_group(user, group);
    if (!g)
        return;
    struct replica *r = g->replica;
    snprintf(r->last_error, sizeof r->last_error, "group %llu: blocks %llu..%llu are damaged", (unsigned long long)group, (unsigned long long)block,
             (unsigned long long)(block + nblocks - 1));
    r->last_error_ns = io_now(r->reactor);
    repair_wanted(g, block, nblocks);
}

bool replica_applied_pos(const struct replica_group *g, struct log_pos *ret)
{
    ret->slot = store_applied(g->replica->store, g->id);
    return paxos_log_at(&g->acceptor.log, ret->slot, &ret->e);
}

static void on_store_fatal(void *user, int err, const char *what)
{
    struct replica *r = user;
    r->cb.on_fatal(r->cb.user, err, what);
}

/* ---- groups ---- */

struct replica_group *replica_add_group(struct replica *r, const struct acceptor_state *s)
{
    struct replica_group *g = calloc(1, sizeof *g);
    if (!g) {
        log_error("out of memory for group %llu; exiting", (unsigned long long)s->group);
        abort();
    }
    g->replica = r;
    g->id = s->group;
    list_init(&g->deferred);
    list_init(&g->waiting_reads);
    acceptor_init(&g->acceptor, s, io_now(r->reactor));
    catchup_init(g);
    copy_init(g);
    g->state_since_ns = io_now(r->reactor);
    list_push_back(&r->groups, &g->link);
    return g;
}

static bool has_learner(const struct membership *m, const struct uuid *identity)
{
    for (unsigned i = 0; i < m->n_learners; i++)
        if (uuid_equal(&m->learner[i], identity))
            return true;
    return false;
}

static int refuse_create(struct replica *r, const struct replica_group *g, const struct msg *m)
{
    const struct membership *want = &m->u.create.membership;
    if (g && has_learner(want, &r->superblock.identity)) /* a former voter that is to vote again, or a CREATE that is repeated */
        return g->acceptor.size_blocks == m->u.create.size_blocks ? 0 : EEXIST;
    if (g) {
        bool same = g->acceptor.size_blocks == m->u.create.size_blocks && g->acceptor.committed.n_voters == want->n_voters;
        for (unsigned i = 0; same && i < want->n_voters; i++)
            same = membership_has_voter(&g->acceptor.committed, &want->voter[i]);
        return same ? 0 : EEXIST;
    }
    if (m->group == 0 || m->u.create.size_blocks == 0 || m->u.create.size_blocks > GROUP_BLOCKS_MAX || want->n_voters == 0)
        return EINVAL;
    /* A founding member votes from the beginning. A group that has a history is joined as a learner: its data is elsewhere, and whatever this identity may have promised is not known here. */
    if (membership_has_voter(want, &r->superblock.identity) ? want->slot != 0 : !has_learner(want, &r->superblock.identity))
        return EPERM;
    unsigned n = 0;
    list_for_each(p, &r->groups)
        n++;
    return n >= GROUPS_MAX ? ENOSPC : 0;
}

/* CREATE is answered when the group's record is durable: until then nothing else is answered for it either, as all of it depends on later records. */
void replica_create_group(struct session *s, const struct msg *m)
{
    struct replica *r = s->replica;
    struct replica_group *g = replica_find_group(r, m->group);
    int err = refuse_create(r, g, m);
    struct msg answer = {.type = MSG_CREATED, .cookie = m->cookie, .group = m->group, .u.created = {.error = err}};
    if (err) {
        wire_peer_send(&s->peer, &answer);
        return;
    }
    if (!g) {
        struct wal_group rec = {.group = m->group, .size_blocks = m->u.create.size_blocks, .membership = m->u.create.membership};
        static const struct paxos_log empty;
        struct acceptor_state st = {
            .group = m->group,
            .identity = r->superblock.identity,
            .size_blocks = rec.size_blocks,
            .log = &empty,
            .committed = rec.membership,
            .needs_copy = has_learner(&rec.membership, &r->superblock.identity),
        };
        g = replica_add_group(r, &st);
        g->acceptor.seq++;         /* its record is the group's first */
        store_create_group(r->store, &rec, g->acceptor.seq);
        log_info("group %llu: created%s: %llu bytes, %u voters", (unsigned long long)g->id, st.needs_copy ? " as a learner" : "",
                 (unsigned long long)rec.size_blocks * BLOCK_SIZE, rec.membership.n_voters);
    }
    if (has_learner(&m->u.create.membership, &r->superblock.identity)) {
        g->copy.invited = true;
        /* It asks by itself, as after a restart: a stream that begins at slot 1 would bring it all, and nobody would say that this is enough. */
        if (g->acceptor.needs_copy)
            catchup_wanted(g, &(struct log_pos){0});
    }
    /* The record is the group's first (seq 1) when it was created in this life; one that was recovered is durable. */
    struct acceptor_effect e = {.type = ACCEPTOR_SEND, .after = g->recovered ? 0 : 1, .link = s->id, .msg = answer};
    send_or_defer(g, &e);
}

/* ---- the last resort ---- */

static void answer_recover(struct replica_group *g, struct session *s, const struct msg *m, int err, const char *why)
{
    struct acceptor_effect e = {.type = ACCEPTOR_SEND, .after = err ? 0 : g->acceptor.seq, .link = s->id,
                                .msg = {.type = MSG_DONE, .cookie = m->cookie, .group = g->id, .u.done.error = err}};
    snprintf(e.msg.u.done.text, sizeof e.msg.u.done.text, "%s", why);
    if (err)
        wire_peer_send(&s->peer, &e.msg);
    else
        send_or_defer(g, &e);
}

void replica_recover_group(struct session *s, struct replica_group *g, const struct msg *m)
{
    struct replica *r = g->replica;
    uint64_t now = io_now(r->reactor);
    const char *why = s->role != ROLE_TOOL ? "only a tool may ask for that" : acceptor_may_recover(&g->acceptor, now);
    if (!why && !store_has_room(r->store))
        why = "its log is full: try again";
    struct entry *e = why ? NULL : entry_new(r->reactor->arena, ENTRY_MEMBER, 0, 0, NULL, 0);
    if (!e) {
        answer_recover(g, s, m, why ? EPERM : ENOMEM, why ? why : "out of memory");
        return;
    }
    e->group = g->id;
    e->u[0].membership = (struct membership){.n_voters = 1, .voter = {r->superblock.identity}};
    uint64_t was = paxos_log_last(&g->acceptor.log).slot, lost = g->acceptor.n_lost;
    struct acceptor_event ev = {.type = ACCEPTOR_RECOVER, .now_ns = now, .entries = &e, .n_entries = 1,
                                .ballot = {.round = g->acceptor.promised.round + 1, .proposer = m->ballot.proposer}};
    replica_step(g, &ev);
    log_warning("group %llu: RECOVERED by an operator's order: the log through slot %llu (it ended at %llu, %llu values were lost) is the group's now, and this replica its only voter; "
                "what was acknowledged with the votes of others alone is gone",
                (unsigned long long)g->id, (unsigned long long)e->slot, (unsigned long long)was, (unsigned long long)lost);
    entry_unref(e);
    answer_recover(g, s, m, 0, "");
}

/* ---- life ---- */

int replica_open(struct reactor *reactor, const struct replica_options *o, const struct replica_callbacks *cb, struct replica **ret)
{
    struct replica *r = calloc(1, sizeof *r);
    if (!r)
        return -ENOMEM;
    r->reactor = reactor;
    r->config = o->config;
    r->superblock = *o->superblock;
    r->cb = *cb;
    r->pid = o->pid;
    r->started_ns = io_now(reactor);
    r->next_session = 1;
    r->next_cookie = 1;
    strncpy(r->listen_address, o->listen_address, sizeof r->listen_address - 1);
    list_init(&r->sessions);
    list_init(&r->groups);
    list_init(&r->spare_reads);
    r->scratch = malloc(sizeof(struct wire_header) + WIRE_BODY_MAX);
    r->effects.cap = EFFECTS_MAX;
    r->effects.effect = malloc(sizeof *r->effects.effect * EFFECTS_MAX);
    if (!r->scratch || !r->effects.effect) {
        replica_free(r);
        return -ENOMEM;
    }
    peers_init(r);
    repair_init(r);
    pace_init(&r->pace, o->config->copy_floor_bytes_per_s, o->config->copy_ceiling_bytes_per_s, r->started_ns);
    if (!scrub_init(r, o->scrub_bytes_per_s, o->scrub_interval_ns)) {
        replica_free(r);
        return -ENOMEM;
    }
    struct store_callbacks scb = {
        .on_group = on_store_group,
        .on_ready = on_store_ready,
        .on_durable = on_store_durable,
        .on_applied = on_store_applied,
        .on_trimmed = on_store_trimmed,
        .on_credits = on_store_credits,
        .on_copy_room = on_store_copy_room,
        .on_bad = on_store_bad,
        .on_fatal = on_store_fatal,
        .user = r,
    };
    *ret = r; /* callbacks may come before store_open returns */
    int err = store_open(reactor, &o->devices, &r->superblock, &o->store, &scb, &r->store);
    if (err) {
        *ret = NULL;
        replica_free(r);
    }
    return err;
}

static void on_store_closed(void *user)
{
    struct replica *r = user;
    r->store_closed = true;
    replica_close_poll(r);
}

void replica_close_poll(struct replica *r)
{
    if (r->store_closed && !scrub_is_busy(r))
        r->closed(r->closed_user);
}

void replica_close(struct replica *r, void (*done)(void *user), void *user)
{
    assert(!r->closing);
    r->closing = true;
    r->closed = done;
    r->closed_user = user;
    if (r->listener)
        listener_close(r->listener);
    r->listener = NULL;
    timer_cancel(r->reactor, &r->repair_timer);
    scrub_stop(r);
    list_for_each(p, &r->groups)
    {
        catchup_stop(container_of(p, struct replica_group, link));
        copy_stop(container_of(p, struct replica_group, link));
    }
    peers_close(r);
    list_for_each_safe(p, &r->sessions)
    {
        wire_peer_close(&container_of(p, struct session, link)->peer);
    }
    store_close(r->store, on_store_closed, r);
}

static void group_free(struct replica_group *g)
{
    while (!list_empty(&g->deferred)) {
        struct deferred *d = container_of(list_pop_front(&g->deferred), struct deferred, link);
        deferred_free(d);
    }
    serve_drop_reads(g);
    free(g);
}

void replica_free(struct replica *r)
{
    while (!list_empty(&r->groups))
        group_free(container_of(list_pop_front(&r->groups), struct replica_group, link));
    serve_free_spares(r);
    if (r->store)
        store_free(r->store);
    free(r->scrub);
    free(r->effects.effect);
    free(r->scratch);
    free(r);
}
