/* What the tests of the proposer share: one proposer, answers by hand, and what came out of the last step. */
#ifndef QBD_TESTS_PROPOSER_RIG_H
#define QBD_TESTS_PROPOSER_RIG_H

#pragma GCC diagnostic ignored "-Wunused-function"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>
#include <errno.h>

#include "consensus/proposer.h"

#define GROUP 3
#define MS NS_PER_MS
#define LEASE (640 * MS)
#define BEAT (100 * MS)
#define RING 32
#define POOL 1280 /* more than a log can list sessions */
#define N 3

struct rig {
    struct proposer p;
    struct proposer_slot ring[RING];
    struct proposer_sink sink;
    struct proposer_params params;
    struct proposer_effect effect[POOL + 64]; /* of the last step */
    uint32_t n;
    uint64_t now;
    uint8_t pool[POOL][sizeof(struct entry) + sizeof(struct membership)] __attribute__((aligned(16)));
    unsigned n_pool;
    int refs[POOL]; /* held by the proposer */
};

static struct uuid node_id(unsigned i)
{
    struct uuid u;
    memset(u.b, (int)(0xA0 + i), sizeof u.b);
    return u;
}

static struct uuid me(void)
{
    struct uuid u;
    memset(u.b, 0x11, sizeof u.b);
    return u;
}

static struct ballot mine(uint64_t round)
{
    return (struct ballot){.round = round, .proposer = me()};
}

static struct ballot other(uint64_t round)
{
    struct ballot b = {.round = round};
    memset(b.proposer.b, 0x22, sizeof b.proposer.b);
    return b;
}

static const struct ballot zero;

static struct log_pos pos(uint64_t slot, struct ballot e)
{
    return (struct log_pos){.slot = slot, .e = e};
}

/* ---- entries ---- */

static struct entry *entry_at(struct rig *r, enum entry_kind kind, uint64_t slot, struct ballot e)
{
    assert_true(r->n_pool < ARRAY_LEN(r->pool));
    struct entry *x = (struct entry *)r->pool[r->n_pool++];
    memset(x, 0, sizeof r->pool[0]);
    x->kind = (uint8_t)kind;
    x->nblocks = kind == ENTRY_WRITE;
    x->group = GROUP;
    x->slot = slot;
    x->e = e;
    return x;
}

static int *refs_of(struct rig *r, const struct entry *e)
{
    return &r->refs[((const uint8_t *)e - r->pool[0]) / sizeof r->pool[0]];
}

static int total_refs(const struct rig *r)
{
    int n = 0;
    for (unsigned i = 0; i < r->n_pool; i++)
        n += r->refs[i];
    return n;
}

/* ---- the rig ---- */

static void on_effect(struct proposer_sink *sink, const struct proposer_effect *e)
{
    struct rig *r = container_of(sink, struct rig, sink);
    assert_true(r->n < ARRAY_LEN(r->effect));
    r->effect[r->n++] = *e;
    if (e->type == PROPOSER_HOLD)
        ++*refs_of(r, e->entry);
    if (e->type == PROPOSER_FORGET || e->type == PROPOSER_UNPLACED) {
        assert_true(*refs_of(r, e->entry) > 0);
        --*refs_of(r, e->entry);
    }
}

static void begin(struct rig *r, uint32_t n_replicas)
{
    r->params = (struct proposer_params){.group = GROUP,
                                         .id = me(),
                                         .name = "me",
                                         .lease_ns = LEASE,
                                         .beat_ns = BEAT,
                                         .timeout_ns = 1000 * MS,
                                         .retain_bytes = 1u << 20,
                                         .n_replicas = n_replicas,
                                         .ring = r->ring,
                                         .ring_slots = RING};
    for (unsigned i = 0; i < n_replicas; i++)
        r->params.identity[i] = node_id(i);
    r->sink.fn = on_effect;
    r->now = 1000000 * MS;
    proposer_init(&r->p, &r->params);
}

/* ... with a longer ring, for tails that are fetched. */
static void begin_with_ring(struct rig *r, struct proposer_slot *ring, uint32_t slots)
{
    begin(r, N);
    r->params.ring = ring;
    r->params.ring_slots = slots;
    proposer_init(&r->p, &r->params);
}

static int setup(void **state)
{
    struct rig *r = calloc(1, sizeof *r);
    begin(r, N);
    *state = r;
    return 0;
}

static int teardown(void **state)
{
    struct rig *r = *state;
    /* Whatever the test left behind: a detach lets go of everything. */
    r->n = 0;
    proposer_step(&r->p, &(struct proposer_event){.type = PROPOSER_DETACH, .now_ns = r->now}, &r->sink);
    int left = total_refs(r);
    free(r);
    return left;
}

static void step(struct rig *r, struct proposer_event ev)
{
    r->n = 0;
    ev.now_ns = r->now;
    ev.random = 7;
    proposer_step(&r->p, &ev, &r->sink);
    proposer_check(&r->p);
}

static void say(struct rig *r, uint32_t link, struct msg m)
{
    m.group = GROUP;
    m.target = me();
    step(r, (struct proposer_event){.type = PROPOSER_MSG, .link = link, .msg = &m});
}

static void up(struct rig *r, uint32_t i)
{
    step(r, (struct proposer_event){.type = PROPOSER_LINK_UP, .link = i});
}

static void down(struct rig *r, uint32_t i)
{
    step(r, (struct proposer_event){.type = PROPOSER_LINK_DOWN, .link = i});
}

static void tick(struct rig *r, uint64_t later)
{
    r->now += later;
    step(r, (struct proposer_event){.type = PROPOSER_TICK});
}

static struct msg answer(const struct rig *r, enum msg_type type)
{
    return (struct msg){.type = (uint16_t)type, .ballot = r->p.ballot};
}

static void query_ack(struct rig *r, uint32_t i, const struct uuid *holder, uint64_t remaining, struct ballot promised)
{
    struct msg m = {.type = MSG_QUERY_ACK, .ballot.proposer = me()};
    m.u.holder.promised = promised;
    if (holder) {
        m.u.holder.holder = *holder;
        m.u.holder.remaining_ns = remaining;
        strcpy(m.u.holder.holder_name, "them");
    }
    say(r, i, m);
}

static void nack(struct rig *r, uint32_t i, const struct uuid *holder, uint64_t remaining, struct ballot promised)
{
    struct msg m = answer(r, MSG_NACK);
    m.u.holder.promised = promised;
    if (holder) {
        m.u.holder.holder = *holder;
        m.u.holder.remaining_ns = remaining;
        strcpy(m.u.holder.holder_name, "them");
    }
    say(r, i, m);
}

/* What a replica holds, for its Promise and Mismatch. */
struct log_text {
    struct log_pos base, commit;
    uint32_t n_runs;
    struct run run[8];
    uint32_t n_lost;
    uint64_t lost[8];
    uint32_t n_memberships;
    struct membership membership[2];
    uint32_t needs_copy;
    uint64_t lease_ns;
};

static struct membership voters(unsigned first, unsigned n, uint64_t slot)
{
    struct membership m = {.slot = slot, .n_voters = (uint8_t)n};
    for (unsigned i = 0; i < n; i++)
        m.voter[i] = node_id(first + i);
    return m;
}

static void promise(struct rig *r, uint32_t i, const struct log_text *t)
{
    struct membership first[2] = {voters(0, N, 0)};
    struct msg m = answer(r, MSG_PROMISE);
    m.u.promise.t_ns = r->now;
    m.u.promise.lease_ns = t->lease_ns;
    m.u.promise.base = t->base;
    m.u.promise.commit = t->commit;
    m.u.promise.size_blocks = 1000;
    m.u.promise.credits = (struct credits){.slabs = 1000, .slot_limit = 1000000};
    m.u.promise.n_runs = t->n_runs;
    m.u.promise.runs = t->run;
    m.u.promise.n_lost = t->n_lost;
    m.u.promise.lost = t->lost;
    m.u.promise.n_memberships = t->n_memberships ? t->n_memberships : 1;
    m.u.promise.memberships = t->n_memberships ? t->membership : first;
    m.u.promise.needs_copy = t->needs_copy;
    m.u.promise.last = t->n_runs ? pos(t->run[t->n_runs - 1].last, t->run[t->n_runs - 1].e) : t->base;
    say(r, i, m);
}

static void mismatch(struct rig *r, uint32_t i, const struct log_text *t)
{
    struct msg m = answer(r, MSG_MISMATCH);
    m.u.mismatch.base = t->base;
    m.u.mismatch.commit = t->commit;
    m.u.mismatch.n_runs = t->n_runs;
    m.u.mismatch.runs = t->run;
    m.u.mismatch.n_lost = t->n_lost;
    m.u.mismatch.lost = t->lost;
    say(r, i, m);
}

static void opened_as(struct rig *r, uint32_t i, uint64_t slot, bool needs_copy)
{
    struct msg m = answer(r, MSG_OPENED);
    m.u.opened.m = slot;
    m.u.opened.credits = (struct credits){.slabs = 1000, .slot_limit = 1000000};
    m.u.opened.needs_copy = needs_copy;
    say(r, i, m);
}

static void opened(struct rig *r, uint32_t i, uint64_t slot)
{
    opened_as(r, i, slot, false);
}

static void accepted_with(struct rig *r, uint32_t i, uint64_t through, struct credits credits)
{
    struct msg m = answer(r, MSG_ACCEPTED);
    m.u.accepted.through = through;
    m.u.accepted.credits = credits;
    say(r, i, m);
}

/* By one that needs a copy. */
static void received(struct rig *r, uint32_t i, uint64_t through)
{
    struct msg m = answer(r, MSG_ACCEPTED);
    m.u.accepted.through = through;
    m.u.accepted.credits = (struct credits){.slabs = 1000, .slot_limit = 1000000};
    m.u.accepted.needs_copy = 1;
    say(r, i, m);
}

static void accepted(struct rig *r, uint32_t i, uint64_t through)
{
    accepted_with(r, i, through, (struct credits){.slabs = 1000, .slot_limit = 1000000});
}

static void beat_ack_as(struct rig *r, uint32_t i, uint64_t t, uint64_t lease, uint64_t commit, bool needs_copy)
{
    struct msg m = answer(r, MSG_BEAT_ACK);
    m.u.beat_ack.t_ns = t;
    m.u.beat_ack.lease_ns = lease;
    m.u.beat_ack.commit = commit;
    m.u.beat_ack.credits = (struct credits){.slabs = 1000, .slot_limit = 1000000};
    m.u.beat_ack.needs_copy = needs_copy;
    say(r, i, m);
}

static void beat_ack(struct rig *r, uint32_t i, uint64_t t, uint64_t lease, uint64_t commit)
{
    beat_ack_as(r, i, t, lease, commit, false);
}

static void value(struct rig *r, uint32_t i, uint64_t slot, struct ballot e, enum entry_kind kind)
{
    struct msg m = answer(r, MSG_VALUE);
    m.u.value.at = pos(slot, e);
    if (kind) {
        m.u.value.found = 1;
        m.u.value.entry = entry_at(r, kind, slot, e);
        if (kind == ENTRY_MEMBER)
            m.u.value.entry->u[0].membership = voters(1, 3, slot);
    }
    say(r, i, m);
}

static void session_entry(struct rig *r)
{
    struct entry *e = entry_at(r, ENTRY_SESSION, 0, zero);
    ++*refs_of(r, e);
    step(r, (struct proposer_event){.type = PROPOSER_SESSION_ENTRY, .entry = e});
}

/* ---- what came out ---- */

static const struct proposer_effect *find(const struct rig *r, enum proposer_effect_type type)
{
    for (uint32_t i = 0; i < r->n; i++)
        if (r->effect[i].type == type)
            return &r->effect[i];
    return NULL;
}

static const struct proposer_effect *sent(const struct rig *r, uint32_t link, enum msg_type type)
{
    for (uint32_t i = 0; i < r->n; i++)
        if (r->effect[i].type == PROPOSER_SEND && r->effect[i].link == link && r->effect[i].msg.type == type)
            return &r->effect[i];
    return NULL;
}

static unsigned n_sent(const struct rig *r, enum msg_type type)
{
    unsigned n = 0;
    for (uint32_t i = 0; i < r->n; i++)
        n += r->effect[i].type == PROPOSER_SEND && r->effect[i].msg.type == type;
    return n;
}

/* ---- the way to serving ---- */

/* Attached, linked, told that the group is free; the Prepares are out. */
static void preparing(struct rig *r)
{
    for (unsigned i = 0; i < r->params.n_replicas; i++)
        up(r, i);
    step(r, (struct proposer_event){.type = PROPOSER_ATTACH});
    assert_int_equal(n_sent(r, MSG_QUERY), r->params.n_replicas);
    query_ack(r, 0, NULL, 0, zero);
    query_ack(r, 1, NULL, 0, zero);
    if (r->params.n_replicas > 3)
        query_ack(r, 2, NULL, 0, zero);
    assert_int_equal(r->p.state, PROPOSER_PREPARING);
    assert_int_equal(n_sent(r, MSG_PREPARE), r->params.n_replicas);
}

/* Serving an empty group, all three open; the session start is slot 1. */
static void serving(struct rig *r)
{
    preparing(r);
    promise(r, 0, &(struct log_text){.lease_ns = LEASE});
    promise(r, 1, &(struct log_text){.lease_ns = LEASE});
    assert_non_null(find(r, PROPOSER_WANT_SESSION_ENTRY));
    session_entry(r);
    assert_int_equal(r->p.state, PROPOSER_STARTING);
    assert_int_equal(n_sent(r, MSG_OPEN), N);
    for (unsigned i = 0; i < N; i++) {
        opened(r, i, 0);
        assert_non_null(sent(r, i, MSG_ACCEPT));
    }
    accepted(r, 0, 1);
    assert_int_equal(r->p.state, PROPOSER_STARTING);
    accepted(r, 1, 1);
    assert_int_equal(r->p.state, PROPOSER_SERVING);
    accepted(r, 2, 1);
}

static int submit(struct rig *r, struct entry *e)
{
    r->n = 0;
    int rc = proposer_submit(&r->p, r->now, e, &r->sink);
    proposer_check(&r->p);
    if (rc == 0)
        ++*refs_of(r, e);
    return rc;
}

static struct entry *write_one(struct rig *r)
{
    struct entry *e = entry_at(r, ENTRY_WRITE, 0, zero);
    assert_int_equal(submit(r, e), 0);
    return e;
}

#endif
