/* What the tests of the acceptor share: one acceptor, its events by hand, and what came out of the last one. */
#ifndef QBD_TESTS_ACCEPTOR_RIG_H
#define QBD_TESTS_ACCEPTOR_RIG_H

#pragma GCC diagnostic ignored "-Wunused-function"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "consensus/acceptor.h"

#define GROUP 3
#define MS NS_PER_MS
#define LEASE (500 * MS)

struct rig {
    struct acceptor a;
    struct acceptor_effect effect[128];
    struct acceptor_effects fx;
    uint64_t now;
    struct uuid identity;
    uint8_t pool[256][sizeof(struct entry) + sizeof(struct membership)] __attribute__((aligned(16)));
    unsigned n_pool;
};

static struct ballot ballot(uint64_t round, char who)
{
    struct ballot b = {.round = round};
    if (round)
        memset(b.proposer.b, who, sizeof b.proposer.b);
    return b;
}

#define A(round) ballot(round, 'a')
#define B(round) ballot(round, 'b')

static struct log_pos pos(uint64_t slot, struct ballot e)
{
    return (struct log_pos){.slot = slot, .e = e};
}

static struct entry *entry(struct rig *r, uint64_t slot, struct ballot e)
{
    assert_true(r->n_pool < ARRAY_LEN(r->pool));
    struct entry *x = (struct entry *)r->pool[r->n_pool++];
    memset(x, 0, sizeof r->pool[0]);
    x->kind = ENTRY_WRITE;
    x->nblocks = 1;
    x->block = slot % 1000;
    x->group = GROUP;
    x->slot = slot;
    x->e = e;
    return x;
}

static struct entry *member(struct rig *r, uint64_t slot, struct ballot e, uint8_t n_voters)
{
    struct entry *x = entry(r, slot, e);
    x->kind = ENTRY_MEMBER;
    x->nblocks = 0;
    x->block = 0;
    x->u[0].membership.n_voters = n_voters;
    return x;
}

/* ---- a rig ---- */

static void begin(struct rig *r, const struct acceptor_state *more)
{
    static struct paxos_log empty;
    struct acceptor_state s = more ? *more : (struct acceptor_state){0};
    memset(r->identity.b, 0x77, 16);
    s.group = GROUP;
    s.identity = r->identity;
    s.size_blocks = 1000;
    if (!s.log)
        s.log = &empty;
    if (s.committed.n_voters == 0)
        s.committed.n_voters = 3;
    r->fx = (struct acceptor_effects){.cap = ARRAY_LEN(r->effect), .effect = r->effect};
    r->now = 1000 * MS;
    acceptor_init(&r->a, &s, r->now);
}

static int setup(void **state)
{
    struct rig *r = calloc(1, sizeof *r);
    begin(r, NULL);
    *state = r;
    return 0;
}

static int teardown(void **state)
{
    free(*state);
    return 0;
}

static void step(struct rig *r, struct acceptor_event ev)
{
    ev.now_ns = r->now;
    acceptor_step(&r->a, &ev, &r->fx);
    acceptor_check(&r->a);
}

static void say(struct rig *r, uint32_t link, struct msg m)
{
    m.group = GROUP;
    m.target = r->identity;
    m.cookie = 42;
    step(r, (struct acceptor_event){.type = ACCEPTOR_MSG, .link = link, .msg = &m});
}

static void prepare(struct rig *r, struct ballot b, uint64_t lease)
{
    struct msg m = {.type = MSG_PREPARE, .ballot = b};
    m.u.prepare.lease_ns = lease;
    m.u.prepare.t_ns = 123;
    strcpy(m.u.prepare.name, "front");
    say(r, 1, m);
}

static void open_on(struct rig *r, uint32_t link, struct ballot b, struct log_pos at)
{
    struct msg m = {.type = MSG_OPEN, .ballot = b};
    m.u.open.at = at;
    say(r, link, m);
}

static void accept_on(struct rig *r, uint32_t link, struct ballot b, struct entry *e, uint64_t commit)
{
    struct msg m = {.type = MSG_ACCEPT, .ballot = b};
    m.u.accept.entry = e;
    m.u.accept.commit = commit;
    say(r, link, m);
}

static void beat(struct rig *r, struct ballot b, uint64_t lease, struct log_pos commit)
{
    struct msg m = {.type = MSG_BEAT, .ballot = b};
    m.u.beat.t_ns = 99;
    m.u.beat.lease_ns = lease;
    m.u.beat.commit = commit;
    say(r, 1, m);
}

static void simple(struct rig *r, enum msg_type type, struct ballot b)
{
    say(r, 1, (struct msg){.type = (uint16_t)type, .ballot = b});
}

static void durable(struct rig *r, uint64_t seq)
{
    step(r, (struct acceptor_event){.type = ACCEPTOR_DURABLE, .durable_seq = seq});
}

static void all_durable(struct rig *r)
{
    durable(r, r->a.seq);
}

static enum acceptor_read_verdict read_at(struct rig *r, struct ballot b, uint64_t watermark)
{
    struct msg m = {.type = MSG_READ, .ballot = b, .group = GROUP, .target = r->identity};
    m.u.read.watermark = watermark;
    enum acceptor_read_verdict v = acceptor_read(&r->a, r->now, 1, &m, &r->fx);
    acceptor_check(&r->a);
    return v;
}

/* Entries of ballot e at slots first..last, as a catch-up piece behind `from`. */
static void caught_up(struct rig *r, struct log_pos from, uint64_t last, struct ballot e)
{
    struct entry *list[32];
    uint32_t n = 0;
    for (uint64_t s = from.slot + 1; s <= last; s++)
        list[n++] = entry(r, s, e);
    step(r, (struct acceptor_event){
                .type = ACCEPTOR_CAUGHT_UP, .from = from, .through = pos(last, e), .entries = list, .n_entries = n});
}

/* ---- what came out ---- */

static const struct acceptor_effect *find(const struct rig *r, enum acceptor_effect_type type)
{
    for (uint32_t i = 0; i < r->fx.n; i++)
        if (r->effect[i].type == type)
            return &r->effect[i];
    return NULL;
}

static unsigned count(const struct rig *r, enum acceptor_effect_type type)
{
    unsigned n = 0;
    for (uint32_t i = 0; i < r->fx.n; i++)
        n += r->effect[i].type == type;
    return n;
}

static const struct acceptor_effect *sent(const struct rig *r, enum msg_type type)
{
    for (uint32_t i = 0; i < r->fx.n; i++)
        if (r->effect[i].type == ACCEPTOR_SEND && r->effect[i].msg.type == type)
            return &r->effect[i];
    return NULL;
}

/* Promised b, stream open at `at` on link 1, everything durable. */
static void stream(struct rig *r, struct ballot b, struct log_pos at)
{
    open_on(r, 1, b, at);
    assert_non_null(sent(r, MSG_OPENED));
    all_durable(r);
}

/* ... and slots first..last accepted under it. */
static void fill(struct rig *r, struct ballot b, uint64_t first, uint64_t last, struct ballot e)
{
    for (uint64_t s = first; s <= last; s++) {
        accept_on(r, 1, b, entry(r, s, e), 0);
        assert_non_null(find(r, ACCEPTOR_APPEND));
    }
    all_durable(r);
}

static bool holds(const struct rig *r, uint64_t slot, struct ballot e)
{
    struct log_pos p = pos(slot, e);
    return paxos_log_holds(&r->a.log, &p);
}

/* Begins with slots 1..last of one ballot on disk, of which `lost` has lost its value. */
static void begin_with_lost(struct rig *r, uint64_t last, uint64_t lost, uint64_t commit)
{
    static struct paxos_log log;
    memset(&log, 0, sizeof log);
    for (uint64_t s = 1; s <= last; s++) {
        struct ballot e = A(1);
        assert_true(paxos_log_append(&log, s, &e));
    }
    begin(r, &(struct acceptor_state){
                 .promised = A(1), .log = &log, .n_lost = 1, .lost = &lost, .commit = commit, .restarted = true});
}

#endif
