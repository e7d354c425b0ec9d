/* The histories behind "What looks right and is wrong" (protocol.md): for each wrong rule that has a place in
 * consensus/, the interleaving in which it loses or forks, played with real acceptors and proposers, and what the right
 * rules make of it. px_cluster.c checks agreement all along; tests/unit/check_mutations plants the wrong rules and
 * demands that these (or others) fail.
 *
 * Rules 11, 16 and 18 belong to the store, 15 to the volume session; 17 is in test_acceptor_copy.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>
#include <errno.h>

#include "tests/unit/px_cluster.h"

#define NODE(n) (1u << (n))
#define ALL 7u

static struct px_cluster *begin(void **state, unsigned n_fronts)
{
    struct px_cluster *c = px_new(1, 3, n_fronts);
    c->lease_ns = 0; /* histories of one ballot after the other; leases have their own */
    *state = c;
    return c;
}

static int teardown(void **state)
{
    px_free(*state);
    return 0;
}

static void connect_to(struct px_cluster *c, unsigned f, uint32_t mask)
{
    for (unsigned n = 0; n < c->n_nodes; n++)
        if (mask >> n & 1)
            px_connect(c, f, n);
}

/* Messages, beats and catch-up among the nodes of mask, until the front end serves. */
static void until_serving(struct px_cluster *c, unsigned f, uint32_t mask)
{
    px_settle(c, f, mask);
    for (int i = 0; i < 10 && c->front[f].p->state != PROPOSER_SERVING; i++) {
        c->now_ns += PX_BEAT_NS;
        px_tick(c, f);
        px_settle(c, f, mask);
        for (unsigned n = 0; n < c->n_nodes; n++)
            for (unsigned k = 0; k < c->n_nodes; k++)
                if ((mask >> n & 1) && (mask >> k & 1) && n != k && c->node[n].wants_catchup)
                    px_catch_up(c, n, k);
        px_settle(c, f, mask);
    }
    assert_int_equal(c->front[f].p->state, PROPOSER_SERVING);
}

/* A new front end that reaches the nodes of mask and serves. */
static void attach(struct px_cluster *c, unsigned f, uint32_t mask)
{
    px_front_start(c, f);
    connect_to(c, f, mask);
    until_serving(c, f, mask);
}

static void acked(const struct px_cluster *c, uint32_t op)
{
    assert_int_equal(c->op[op].state, PX_OP_ACKED);
}

/* Everything to node n that is under way from f, and durable; nothing back. */
static void push(struct px_cluster *c, unsigned f, unsigned n)
{
    while (px_to_node(c, f, n)) {
    }
    px_durable(c, n, UINT32_MAX);
}

/* The write's slot holds it at node n. */
static bool node_has(const struct px_cluster *c, unsigned n, uint32_t op)
{
    const struct entry *e = c->node[n].value[c->op[op].slot];
    return e && e->kind == ENTRY_WRITE && e->block == c->op[op].id;
}

static void all_equal(struct px_cluster *c, unsigned f)
{
    assert_true(px_converge(c, f, 100));
    char a[256], b[256];
    for (unsigned n = 1; n < c->n_nodes; n++)
        if (c->node[n].up && c->node[n].a.log.base.slot == c->node[0].a.log.base.slot)
            assert_string_equal(px_log_text(c, 0, a, sizeof a), px_log_text(c, n, b, sizeof b));
}

/* 1. "The newest contact has the newest log." Node 2 was talked to last, but got only an old entry; what 0 and 1 chose
 * is not there. */
static void test_1_last_contact_is_not_the_newest_log(void **state)
{
    struct px_cluster *c = begin(state, 3);
    attach(c, 0, NODE(0) | NODE(1));
    uint32_t w = px_write(c, 0);
    px_settle(c, 0, ALL);
    acked(c, w);
    px_front_kill(c, 0);
    /* Front 1 takes the log from node 1 and dies while node 2 has only its first slot. */
    px_front_start(c, 1);
    connect_to(c, 1, NODE(1) | NODE(2));
    for (int i = 0; i < 20 && c->front[1].p->state != PROPOSER_STARTING; i++) {
        for (unsigned n = 1; n < 3; n++) {
            px_to_node(c, 1, n);
            px_durable(c, n, UINT32_MAX);
            px_to_front(c, 1, n);
        }
    }
    assert_int_equal(c->front[1].p->state, PROPOSER_STARTING);
    px_catch_up(c, 2, 1); /* what 1 knows as committed: the first session start */
    px_front_kill(c, 1);
    assert_int_equal(paxos_log_last(&c->node[2].a.log).slot, 1);
    assert_true(ballot_compare(&c->node[2].a.promised, &c->node[0].a.promised) > 0);
    /* Front 2 hears 0 and 2: the log of 0 is the newer one. */
    attach(c, 2, NODE(0) | NODE(2));
    assert_true(node_has(c, 2, w));
    all_equal(c, 2);
}

/* 1, second half: entries keep the ballot of their first proposal, whoever brings them. */
static void test_1_old_entries_keep_their_ballot(void **state)
{
    struct px_cluster *c = begin(state, 2);
    attach(c, 0, NODE(0) | NODE(1));
    uint32_t w = px_write(c, 0);
    push(c, 0, 0); /* at one node only: not chosen */
    uint64_t slot = c->op[w].slot;
    struct ballot e = c->op[w].entry->e;
    px_front_kill(c, 0);
    attach(c, 1, NODE(0) | NODE(2));
    assert_true(px_node_holds(c, 2, slot, &e));
    assert_true(c->chosen[slot].known && ballot_equal(&c->chosen[slot].e, &e));
    all_equal(c, 1);
}

/* Node 0 holds two writes of front 0 that nobody else has; front 1 has chosen others in their slots, with 1 and 2. */
static void fork_at_node_0(struct px_cluster *c, uint32_t *mine)
{
    attach(c, 0, ALL);
    px_write(c, 0);
    px_write(c, 0);
    push(c, 0, 0); /* slots 2 and 3, here alone */
    px_front_kill(c, 0);
    attach(c, 1, NODE(1) | NODE(2)); /* its session start is slot 2 */
    *mine = px_write(c, 1);
    px_settle(c, 1, ALL);
    acked(c, *mine);
    assert_int_equal(c->op[*mine].slot, 3);
    assert_int_equal(paxos_log_last(&c->node[0].a.log).slot, 3);
}

/* 2. "My log reaches slot - 1." Both are three slots long. */
static void test_2_equal_length_is_no_match(void **state)
{
    struct px_cluster *c = begin(state, 2);
    uint32_t w;
    fork_at_node_0(c, &w);
    px_connect(c, 1, 0);
    uint32_t x = px_write(c, 1);
    px_settle(c, 1, ALL);
    acked(c, x);
    assert_true(node_has(c, 0, w));
    assert_true(node_has(c, 0, x));
    all_equal(c, 1);
}

/* 3. "Chosen through 3, says the ballot that I promised." But slot 3 here is another one. */
static void test_3_watermark_of_unmatched_slots(void **state)
{
    struct px_cluster *c = begin(state, 2);
    uint32_t w;
    fork_at_node_0(c, &w);
    px_connect(c, 1, 0);
    struct msg m = {
        .type = MSG_BEAT, .group = PX_GROUP, .target = c->node[0].identity, .ballot = c->front[1].p->ballot};
    m.u.beat.commit = (struct log_pos){.slot = 3, .e = c->front[1].p->ballot};
    struct acceptor_event ev = {.type = ACCEPTOR_MSG, .link = 99, .msg = &m};
    /* The promise came from elsewhere; the stream is not open. */
    struct msg p = {
        .type = MSG_PREPARE, .group = PX_GROUP, .target = c->node[0].identity, .ballot = c->front[1].p->ballot};
    px_node_step(c, 0, &(struct acceptor_event){.type = ACCEPTOR_MSG, .link = 99, .msg = &p});
    px_durable(c, 0, UINT32_MAX);
    px_node_step(c, 0, &ev);
    assert_true(c->node[0].a.commit < 2);
    assert_true(c->node[0].wants_catchup);
    struct msg r = {
        .type = MSG_READ, .group = PX_GROUP, .target = c->node[0].identity, .ballot = c->front[1].p->ballot};
    r.u.read.watermark = 3;
    assert_int_equal(acceptor_read(&c->node[0].a, c->now_ns, 99, &r, &c->fx), ACCEPTOR_READ_BEHIND);
    all_equal(c, 1);
    assert_true(node_has(c, 0, w));
}

/* 4. The old front end's stream to node 0 is open and full; meanwhile node 0 has learned from node 1 what the new one
 * chose. */
static void test_4_old_stream_against_catch_up(void **state)
{
    struct px_cluster *c = begin(state, 2);
    attach(c, 0, ALL);
    px_write(c, 0);
    px_write(c, 0); /* slots 2 and 3: under way to node 0 */
    px_disconnect(c, 0, 1);
    px_disconnect(c, 0, 2);
    attach(c, 1, NODE(1) | NODE(2));
    uint32_t w = px_write(c, 1);
    px_settle(c, 1, NODE(1) | NODE(2));
    acked(c, w);
    px_tick(c, 1);
    c->now_ns += PX_BEAT_NS;
    px_tick(c, 1);
    px_settle(c, 1, NODE(1) | NODE(2));
    px_catch_up(c, 0, 1);
    assert_true(c->node[0].a.commit >= c->op[w].slot);
    push(c, 0, 0);
    assert_true(node_has(c, 0, w));
    assert_true(c->node[0].a.commit >= c->op[w].slot);
    px_front_kill(c, 0);
    all_equal(c, 1);
}

/* 5. "The first Accept of a ballot cuts the tail." The bytes of an earlier connection arrive after a later one has
 * brought more, which is acknowledged. */
static void test_5_replayed_stream_cuts_nothing(void **state)
{
    struct px_cluster *c = begin(state, 2);
    attach(c, 0, NODE(0) | NODE(1));
    px_disconnect(c, 0, 0);
    px_connect(c, 0, 0); /* OPEN is under way ... */
    struct px_conn *old = c->front[0].conn[0];
    struct list *under_way = &old->to_node;
    assert_false(list_empty(under_way));
    px_disconnect(c, 0, 0);
    px_connect(c, 0, 0); /* ... and on another connection again */
    uint32_t a = px_write(c, 0), b = px_write(c, 0);
    px_settle(c, 0, ALL);
    acked(c, a);
    acked(c, b);
    while (px_conn_to_node(c, old)) {
    }
    px_durable(c, 0, UINT32_MAX);
    assert_true(node_has(c, 0, a));
    assert_true(node_has(c, 0, b));
    px_crash(c, 1, 0);
    px_front_kill(c, 0);
    attach(c, 1, NODE(0) | NODE(2)); /* node 0 is the only one left that holds them */
    assert_true(node_has(c, 2, b));
    px_restart(c, 1, 0);
    all_equal(c, 1);
}

/* 6. A change from {0,1,2} to {2,3,4} reached only node 2. Whoever took it for granted would have a majority without 0
 * and 1, beside one without 3 and 4. */
static void test_6_uncommitted_membership_decides_nothing(void **state)
{
    struct px_cluster *c = px_new_group(1, 5, 3, 3);
    *state = c;
    c->lease_ns = 0;
    attach(c, 0, 31);
    px_tick(c, 0);
    px_settle(c, 0, 31);
    assert_int_equal(px_change(c, 0, 2, 3), 0);
    push(c, 0, 2);
    push(c, 0, 3);
    assert_true(c->node[2].a.has_uncommitted);
    px_front_kill(c, 0);
    /* Front 1 reaches only the new ones: of the old it needs one more. */
    px_front_start(c, 1);
    connect_to(c, 1, NODE(2) | NODE(3) | NODE(4));
    px_settle(c, 1, 31);
    assert_int_equal(c->front[1].p->state, PROPOSER_PREPARING);
    /* Front 2 reaches 0 and 1: a majority of what is committed, and their logs know of no other. (4, which knows of
     * nothing, only makes up the number to be asked first.) */
    attach(c, 2, NODE(0) | NODE(1) | NODE(4));
    uint32_t w = px_write(c, 2);
    px_settle(c, 2, 31);
    acked(c, w);
    /* Front 1 finds out. */
    for (int i = 0; i < 100; i++) {
        px_tick(c, 1);
        px_settle(c, 1, 31);
        c->now_ns += PX_BEAT_NS;
        assert_int_not_equal(c->front[1].p->state, PROPOSER_SERVING);
    }
    px_front_kill(c, 1);
    all_equal(c, 2);
    assert_false(c->node[2].a.has_uncommitted);
}

/* ... and one that is completed moves the majority. */
static void test_6_membership_change_completes(void **state)
{
    struct px_cluster *c = px_new_group(1, 5, 3, 2);
    *state = c;
    c->lease_ns = 0;
    attach(c, 0, 31);
    assert_int_equal(px_change(c, 0, 2, 3), 0);
    push(c, 0, 0);
    push(c, 0, 1);
    while (px_to_front(c, 0, 0) || px_to_front(c, 0, 1)) {
    }
    assert_true(c->front[0].p->has_uncommitted); /* the old majority alone */
    px_settle(c, 0, 31);
    assert_false(c->front[0].p->has_uncommitted);
    uint32_t w = px_write(c, 0);
    px_settle(c, 0, NODE(3) | NODE(4));
    acked(c, w); /* the new majority is enough now */
    px_front_kill(c, 0);
    px_front_start(c, 1);
    connect_to(c, 1, NODE(0) | NODE(1) | NODE(4));
    px_settle(c, 1, 31);
    assert_int_not_equal(c->front[1].p->state, PROPOSER_SERVING); /* one of the new three */
    px_connect(c, 1, 3);
    px_settle(c, 1, 31);
    c->now_ns += PX_TIMEOUT_NS;
    assert_true(px_converge(c, 1, 50));
    assert_true(node_has(c, 4, w));
}

/* ---- changing the voters (docs/rebuild.md section 6) ---- */

/* Everything about to happen between f and the nodes of mask, one message or record at a time, `n` of them at most. */
static unsigned some_steps(struct px_cluster *c, unsigned f, uint32_t mask, unsigned n)
{
    unsigned done = 0;
    for (bool moved = true; moved && done < n;) {
        moved = false;
        for (unsigned k = 0; k < c->n_nodes && done < n; k++) {
            if (!(mask >> k & 1) || !c->node[k].up)
                continue;
            bool a = px_to_node(c, f, k);
            bool b = !a && c->node[k].n_records > c->node[k].n_durable;
            if (b)
                px_durable(c, k, 1);
            bool d = !a && !b && px_to_front(c, f, k);
            moved |= a || b || d;
            done += a || b || d;
        }
    }
    return done;
}

/* Four nodes, three voters; 3 is a learner, complete, when node 0's disk is lost and node 3 is to take its place. */
static struct px_cluster *replacing(void **state, uint32_t *w)
{
    struct px_cluster *c = px_new_group(1, 4, 3, 2);
    c->lease_ns = 0;
    *state = c;
    px_need_copy(c, 3);
    px_durable(c, 3, UINT32_MAX);
    px_front_start_knowing(c, 0, ALL);
    connect_to(c, 0, ALL);
    until_serving(c, 0, ALL);
    *w = px_write(c, 0);
    px_settle(c, 0, ALL);
    acked(c, *w);
    c->now_ns += PX_BEAT_NS;
    px_tick(c, 0);
    px_settle(c, 0, ALL);
    for (unsigned n = 0; n < 3; n++)
        px_trim(c, n, c->node[n].a.told);
    px_learn(c, 0, 3);
    struct membership m = px_voters(c, 14);
    assert_int_equal(px_change_to(c, 0, &m), -ENOLINK);
    px_settle(c, 0, 15);
    assert_true(px_jump(c, 3, 0));
    px_durable(c, 3, UINT32_MAX);
    for (int i = 0; i < 3; i++) {
        c->now_ns += PX_BEAT_NS;
        px_tick(c, 0);
        px_settle(c, 0, 15);
    }
    assert_int_equal(px_change_to(c, 0, &m), -ENODATA); /* wrong rule 7 */
    assert_true(px_complete(c, 3));
    px_settle(c, 0, 15);
    px_crash(c, 0, 0);
    px_disconnect(c, 0, 0);
    return c;
}

/* The front end dies after each number of steps from proposing on. Its successor has the old configuration, and no more than
 * a majority of either; whatever it finds it ends, or it was nothing. Then the group serves with one more of the old ones
 * away, if the change was made. */
static void test_a_change_survives_the_death_of_its_proposer_at_any_point(void **state)
{
    bool made[2] = {false, false}, over = false;
    for (unsigned steps = 0; !over; steps++) {
        uint32_t w;
        struct px_cluster *c = replacing(state, &w);
        struct membership m = px_voters(c, 14);
        assert_int_equal(px_change_to(c, 0, &m), 0);
        over = some_steps(c, 0, 14, steps) < steps;
        px_front_kill(c, 0);
        px_front_start_knowing(c, 1, ALL);
        assert_true(px_converge(c, 1, 100));
        bool now = membership_has_voter(&c->front[1].p->committed, &c->node[3].identity);
        assert_false(c->front[1].p->has_uncommitted);
        made[now] = true;
        assert_true(!over || now);
        uint32_t x = px_write(c, 1);
        assert_true(px_converge(c, 1, 50));
        acked(c, x);
        assert_true(node_has(c, 2, w) && node_has(c, 2, x));
        if (now) {
            assert_true(c->front[1].link_of[3] != PROPOSER_NOBODY);
            px_crash(c, 1, 0);
            px_disconnect(c, 1, 1);
            uint32_t y = px_write(c, 1);
            px_settle(c, 1, 15);
            acked(c, y);
            px_front_kill(c, 1); /* and a third one, that knows the new ones */
            px_front_start_knowing(c, 1, 14);
            assert_true(px_converge(c, 1, 100));
            assert_true(node_has(c, 3, y));
        }
        if (!over) {
            px_free(c);
            *state = NULL;
        }
    }
    assert_true(made[0] && made[1]);
}

/* 0 was away while it was replaced. Back again it hears of it from its peers, and says so; it is no part of any majority. */
static void test_a_replaced_voter_that_returns_is_retired(void **state)
{
    uint32_t w;
    struct px_cluster *c = replacing(state, &w);
    struct membership m = px_voters(c, 14);
    assert_int_equal(px_change_to(c, 0, &m), 0);
    px_settle(c, 0, 14);
    assert_int_equal(c->front[0].p->committed.slot, c->front[0].p->chosen);
    uint32_t x = px_write(c, 0);
    px_settle(c, 0, 14);
    acked(c, x);
    px_restart(c, 0, c->node[0].a.told);
    /* With it and one other: the old majority, of which the other knows better. */
    px_front_kill(c, 0);
    px_crash(c, 2, 0);
    px_crash(c, 3, 0);
    px_front_start_knowing(c, 1, ALL);
    for (int i = 0; i < 30; i++) {
        connect_to(c, 1, 15);
        px_tick(c, 1);
        px_settle(c, 1, 15);
        c->now_ns += PX_BEAT_NS;
        assert_int_not_equal(c->front[1].p->state, PROPOSER_SERVING);
    }
    px_restart(c, 3, 0);
    assert_true(px_converge(c, 1, 100));
    assert_true(node_has(c, 1, x) && node_has(c, 3, x));
    c->now_ns += PX_BEAT_NS;
    px_tick(c, 1);
    px_settle(c, 1, 15);
    px_catch_up(c, 0, 1);
    px_catch_up(c, 0, 1);
    assert_true(c->node[0].a.retired);
    c->now_ns += 10 * PX_BEAT_NS;
    px_tick(c, 1);
    px_settle(c, 1, 15);
    assert_true(c->front[1].p->replica[c->front[1].link_of[0]].retired);
    assert_int_equal(c->front[1].p->replica[c->front[1].link_of[0]].stream, STREAM_IDLE);
    px_crash(c, 0, 0);
    px_restart(c, 0, 0);
    px_restart(c, 2, 0);
    assert_true(px_converge(c, 1, 100));
}

/* 18. Node 1's disk is lost and another one stands there. It is nobody: with it and node 2 there is no majority of {0, 1, 2},
 * and what 0 and 1 chose is not forgotten. As a learner it gets everything and takes the lost one's place. */
static void test_18_a_wiped_disk_is_somebody_else(void **state)
{
    struct px_cluster *c = begin(state, 2);
    attach(c, 0, NODE(0) | NODE(1));
    uint32_t w = px_write(c, 0);
    px_settle(c, 0, ALL);
    acked(c, w);
    struct uuid old = c->node[1].identity;
    px_wipe(c, 1);
    px_front_kill(c, 0);
    px_crash(c, 0, 0);
    px_front_start(c, 1);
    struct membership m = px_voters(c, ALL);
    assert_int_equal(m.n_voters, 3);
    assert_false(uuid_equal(&old, &m.voter[1]));
    for (int i = 0; i < 30; i++) {
        connect_to(c, 1, ALL);
        px_tick(c, 1);
        px_settle(c, 1, ALL);
        c->now_ns += PX_BEAT_NS;
        assert_int_not_equal(c->front[1].p->state, PROPOSER_SERVING);
    }
    px_restart(c, 0, c->node[0].a.told);
    connect_to(c, 1, ALL);
    until_serving(c, 1, ALL);
    assert_int_equal(px_change_to(c, 1, &m), -ENODATA);
    px_learn(c, 1, 1);
    for (int i = 0; i < 50 && c->node[1].needs_copy; i++) {
        px_mend(c, 1);
        c->now_ns += PX_BEAT_NS;
        px_tick(c, 1);
        px_settle(c, 1, ALL);
        if (c->node[1].wants_catchup)
            px_catch_up(c, 1, 0);
    }
    assert_false(c->node[1].needs_copy);
    for (int i = 0; i < 20 && c->front[1].p->committed.slot == 0; i++) {
        px_settle(c, 1, ALL);
        (void)px_change_to(c, 1, &m);
        c->now_ns += PX_BEAT_NS;
        px_tick(c, 1);
    }
    assert_true(membership_has_voter(&c->front[1].p->committed, &c->node[1].identity));
    assert_true(px_converge(c, 1, 50));
    px_crash(c, 0, 0);
    px_disconnect(c, 1, 0);
    uint32_t x = px_write(c, 1);
    px_settle(c, 1, ALL);
    acked(c, x);
}

/* The complete learner alone holds the newest log: it may be chosen, and what it holds of the change is found in it. */
static void test_three_to_five_and_back(void **state)
{
    struct px_cluster *c = px_new_group(1, 5, 3, 1);
    c->lease_ns = 0;
    *state = c;
    for (unsigned n = 3; n < 5; n++) {
        px_need_copy(c, n);
        px_durable(c, n, UINT32_MAX);
    }
    px_front_start_knowing(c, 0, ALL);
    assert_true(px_converge(c, 0, 100));
    static const uint32_t wanted[] = {15, 31, 30, 28};
    uint32_t before = ALL;
    for (unsigned k = 0; k < 4; k++) {
        struct membership m = px_voters(c, wanted[k]);
        uint32_t more = wanted[k] & ~before;
        if (more)
            px_learn(c, 0, (unsigned)__builtin_ctz(more));
        int rc = -1;
        for (int i = 0; i < 50 && rc != 0; i++) {
            px_write(c, 0);
            (void)px_converge(c, 0, 1);
            rc = px_change_to(c, 0, &m);
        }
        assert_int_equal(rc, 0);
        assert_true(px_converge(c, 0, 100));
        assert_int_equal(px_voter_mask(c, &c->front[0].p->committed), wanted[k]);
        before = wanted[k];
    }
    for (unsigned n = 0; n < 2; n++)
        px_crash(c, n, 0);
    px_crash(c, 3, 0);
    px_front_kill(c, 0);
    px_front_start_knowing(c, 0, 28);
    uint32_t x;
    for (int i = 0; i < 100 && c->front[0].p->state != PROPOSER_SERVING; i++)
        px_converge(c, 0, 1);
    assert_int_equal(c->front[0].p->state, PROPOSER_SERVING);
    x = px_write(c, 0);
    px_settle(c, 0, 31);
    acked(c, x);
}

/* 7. Node 1 lost what its peers' logs do not reach any more. It answers, but no majority is made of it. */
static void test_7_needs_copy_is_no_voter(void **state)
{
    struct px_cluster *c = begin(state, 2);
    attach(c, 0, NODE(0) | NODE(2));
    uint32_t w = px_write(c, 0);
    px_settle(c, 0, ALL);
    acked(c, w);
    px_front_kill(c, 0);
    px_crash(c, 0, 0);
    px_need_copy(c, 1);
    px_front_start(c, 1);
    connect_to(c, 1, NODE(1) | NODE(2));
    for (int i = 0; i < 20; i++) {
        px_tick(c, 1);
        px_settle(c, 1, ALL);
        c->now_ns += PX_BEAT_NS;
        assert_true(c->front[1].p->state < PROPOSER_RECOVERING || c->front[1].p->state == PROPOSER_WAITING);
    }
    px_restart(c, 0, 0);
    px_connect(c, 1, 0);
    until_serving(c, 1, ALL);
    assert_true(c->front[1].p->replica[1].needs_copy);
    assert_true(px_converge(c, 1, 100)); /* by a jump, copying and its word that it is complete */
    assert_false(c->front[1].p->replica[1].needs_copy);
    assert_true(node_has(c, 2, w));
}

/* Emptying the log at a jump although it holds the place. Writes a, b stand on 0 and 1 (2 is slow); slot 2 rots at 1, and
 * 0's log begins above it by then: 1 jumps to what 0 has applied, which is below b. Then 0's machine is away, with no disk
 * lost: b is on 1 and must be found there. */
static void test_a_jump_forgets_nothing_that_its_vote_chose(void **state)
{
    struct px_cluster *c = begin(state, 2);
    attach(c, 0, ALL);
    uint32_t first = px_write(c, 0), a = px_write(c, 0);
    px_settle(c, 0, ALL);
    acked(c, a);
    c->now_ns += PX_BEAT_NS;
    px_tick(c, 0);
    px_settle(c, 0, ALL);
    px_disconnect(c, 0, 2);
    uint32_t b = px_write(c, 0);
    px_settle(c, 0, NODE(0) | NODE(1));
    acked(c, b);
    for (unsigned n = 0; n < 3; n += 2)
        px_trim(c, n, c->op[a].slot);
    px_rot(c, 1, c->op[first].slot);
    px_crash(c, 1, 0);
    px_restart(c, 1, 0);
    px_disconnect(c, 0, 1);
    assert_true(px_is_too_old(c, 1));
    px_need_copy(c, 1);
    uint64_t at = c->node[2].a.told;
    assert_true(at < c->op[b].slot);
    assert_true(px_jump(c, 1, 2));
    px_durable(c, 1, UINT32_MAX);
    assert_true(px_complete(c, 1));
    px_durable(c, 1, UINT32_MAX);
    assert_false(c->node[1].needs_copy);
    px_front_kill(c, 0);
    px_crash(c, 0, 0);
    attach(c, 1, NODE(1) | NODE(2));
    assert_true(node_has(c, 1, b));
    assert_true(node_has(c, 2, b));
    px_restart(c, 0, c->node[0].a.told);
    all_equal(c, 1);
}

/* A crash before the jump's checkpoint is durable: the old position, and still no vote. */
static void test_a_jump_that_was_not_durable_has_not_been(void **state)
{
    struct px_cluster *c = begin(state, 1);
    attach(c, 0, NODE(0) | NODE(1));
    for (int i = 0; i < 5; i++)
        px_write(c, 0);
    px_settle(c, 0, ALL);
    c->now_ns += PX_BEAT_NS;
    px_tick(c, 0);
    px_settle(c, 0, ALL);
    for (unsigned n = 0; n < 2; n++)
        px_trim(c, n, c->node[n].a.told);
    assert_true(px_is_too_old(c, 2));
    px_need_copy(c, 2);
    px_durable(c, 2, UINT32_MAX);
    assert_true(px_jump(c, 2, 0));
    assert_false(px_complete(c, 2)); /* not before that is durable */
    px_crash(c, 2, 1);               /* the CUT has landed, the root has not */
    px_restart(c, 2, 0);
    assert_int_equal(paxos_log_last(&c->node[2].a.log).slot, 0);
    assert_true(c->node[2].a.needs_copy);
    all_equal(c, 0);
    assert_false(c->node[2].a.needs_copy);
}

/* 8. A checkpoint (trim) and a restart later, the promise still stands against the old stream's bytes. */
static void test_8_promise_outlives_checkpoint_and_restart(void **state)
{
    struct px_cluster *c = begin(state, 2);
    attach(c, 0, ALL);
    px_write(c, 0);
    px_settle(c, 0, ALL);
    c->now_ns += PX_BEAT_NS;
    px_tick(c, 0);
    px_settle(c, 0, ALL);
    px_write(c, 0); /* slot 3, under way */
    px_front_start(c, 1);
    connect_to(c, 1, NODE(1) | NODE(2));
    px_settle(c, 1, ALL);
    assert_int_equal(c->front[1].p->state, PROPOSER_SERVING);
    px_trim(c, 1, c->node[1].a.told);
    px_trim(c, 2, c->node[2].a.told);
    px_crash(c, 1, 0);
    px_restart(c, 1, c->node[1].floor.slot);
    assert_true(ballot_equal(&c->node[1].a.promised, &c->front[1].p->ballot));
    px_disconnect(c, 0, 1);
    px_connect(c, 0, 1);
    px_settle(c, 0, NODE(0) | NODE(1));
    assert_int_not_equal(c->front[0].p->state, PROPOSER_SERVING);
    px_front_kill(c, 0);
    px_disconnect(c, 1, 1);
    all_equal(c, 1);
}

/* 9. An Accept of the old ballot arrives when the Promise of the new one is under way to the disk: it is not in the
 * Promise, so it must not be acknowledged. */
static void test_9_no_accept_behind_the_promise(void **state)
{
    struct px_cluster *c = begin(state, 2);
    attach(c, 0, NODE(0) | NODE(1));
    uint32_t w = px_write(c, 0); /* under way to 0 and 1 */
    px_front_start(c, 1);
    connect_to(c, 1, NODE(1) | NODE(2));
    while (c->front[1].p->state != PROPOSER_PREPARING)
        for (unsigned n = 1; n < 3; n++) {
            px_to_node(c, 1, n);
            px_to_front(c, 1, n);
        }
    while (px_to_node(c, 1, 1)) {
    } /* the Prepare; not durable */
    assert_int_equal(c->node[1].a.promised.round, c->front[1].p->ballot.round);
    while (px_to_node(c, 0, 1)) {
    } /* the old write */
    while (px_to_node(c, 0, 0)) {
    }
    px_durable(c, 0, UINT32_MAX);
    px_durable(c, 1, UINT32_MAX);
    while (px_to_front(c, 0, 0) || px_to_front(c, 0, 1)) {
    }
    assert_int_not_equal(c->op[w].state, PX_OP_ACKED);
    until_serving(c, 1, NODE(1) | NODE(2));
    assert_false(node_has(c, 1, w));
    px_front_kill(c, 0);
    all_equal(c, 1);
}

/* 10. The same place, a new process: its ballots are new. The answers to the old one's Prepare count for nothing. */
static void test_10_ballots_are_never_reused(void **state)
{
    struct px_cluster *c = begin(state, 1);
    px_front_start(c, 0);
    connect_to(c, 0, ALL);
    for (unsigned n = 0; n < 3; n++) {
        px_to_node(c, 0, n);
        px_to_front(c, 0, n);
    }
    assert_int_equal(c->front[0].p->state, PROPOSER_PREPARING);
    struct ballot old = c->front[0].p->ballot;
    for (unsigned n = 0; n < 3; n++)
        push(c, 0, n); /* promised, the answers get lost with the process */
    px_front_kill(c, 0);
    attach(c, 0, ALL);
    assert_true(ballot_compare(&c->front[0].p->ballot, &old) > 0);
    assert_true(c->front[0].p->ballot.round > old.round);
    assert_false(uuid_equal(&c->front[0].p->ballot.proposer, &old.proposer));
    all_equal(c, 0);
}

/* 12. Chosen by 0 and 1; 0's value rots, 1 is away. Nobody who answers can give it, but it may be chosen: no attach
 * before 1 is back. */
static void test_12_lost_but_maybe_chosen(void **state)
{
    struct px_cluster *c = begin(state, 2);
    attach(c, 0, NODE(0) | NODE(1));
    uint32_t w = px_write(c, 0);
    px_settle(c, 0, ALL);
    acked(c, w);
    px_front_kill(c, 0);
    px_rot(c, 0, c->op[w].slot);
    px_crash(c, 0, 0);
    px_restart(c, 0, 0);
    assert_int_equal(c->node[0].a.n_lost, 1);
    px_crash(c, 1, 0);
    px_front_start(c, 1);
    connect_to(c, 1, NODE(0) | NODE(2));
    for (int i = 0; i < 50; i++) {
        px_tick(c, 1);
        px_settle(c, 1, ALL);
        c->now_ns += PX_BEAT_NS;
        assert_int_not_equal(c->front[1].p->state, PROPOSER_SERVING);
        assert_int_not_equal(c->front[1].p->state, PROPOSER_STARTING);
    }
    px_restart(c, 1, 0);
    all_equal(c, 1);
    assert_int_equal(c->node[0].a.n_lost, 0);
    for (unsigned n = 0; n < 3; n++)
        assert_true(node_has(c, n, w));
}

/* ... and one that only node 0 ever had is given up as soon as both others say so, and not before. */
static void test_12_lost_and_never_chosen(void **state)
{
    struct px_cluster *c = begin(state, 2);
    attach(c, 0, ALL);
    uint32_t w = px_write(c, 0);
    push(c, 0, 0);
    uint64_t slot = c->op[w].slot;
    px_front_kill(c, 0);
    px_rot(c, 0, slot);
    px_crash(c, 0, 0);
    px_restart(c, 0, 0);
    px_front_start(c, 1);
    connect_to(c, 1, NODE(0) | NODE(1));
    px_settle(c, 1, ALL);
    assert_int_equal(c->front[1].p->state, PROPOSER_RECOVERING);
    px_connect(c, 1, 2);
    px_settle(c, 1, ALL);
    assert_int_equal(c->front[1].p->state, PROPOSER_SERVING);
    assert_int_equal(c->front[1].p->session_slot, slot);
    all_equal(c, 1);
    assert_int_equal(c->node[0].a.n_lost, 0);
}

/* 13. Front 0 reads under the leases of 0 and 1. Node 1 restarts: front 1, with 1 and 2, must not get anything chosen
 * while front 0 may still read. */
static void test_13_lease_outlives_a_restart(void **state)
{
    struct px_cluster *c = begin(state, 2);
    c->lease_ns = PX_LEASE_NS;
    attach(c, 0, NODE(0) | NODE(1));
    uint64_t watermark, until = c->now_ns + PX_LEASE_NS - PX_LEASE_NS / 64;
    assert_true(proposer_can_read(c->front[0].p, c->now_ns, &watermark));
    px_crash(c, 1, 0);
    px_restart(c, 1, 0);
    px_front_start(c, 1);
    connect_to(c, 1, NODE(1) | NODE(2));
    uint64_t takeover = 0;
    for (int i = 0; i < 100 && takeover == 0; i++) {
        px_tick(c, 1);
        px_settle(c, 1, ALL);
        if (c->front[1].p->state == PROPOSER_SERVING) {
            takeover = c->now_ns;
            uint32_t w = px_write(c, 1);
            px_settle(c, 1, ALL);
            acked(c, w);
        }
        px_read(c, 0, 0); /* checks that no acknowledged write is missed */
        assert_int_equal(proposer_can_read(c->front[0].p, c->now_ns, &watermark), c->now_ns < until);
        c->now_ns += PX_LEASE_NS / 20;
    }
    assert_true(takeover >= until);
    assert_true(takeover <= until + PX_LEASE_NS / 2);
    px_front_kill(c, 0);
    all_equal(c, 1);
}

static void test_13_holder_is_named_and_release_frees(void **state)
{
    struct px_cluster *c = begin(state, 2);
    c->lease_ns = PX_LEASE_NS;
    attach(c, 0, ALL);
    px_front_start(c, 1);
    connect_to(c, 1, ALL);
    px_settle(c, 1, ALL);
    assert_int_equal(c->front[1].p->state, PROPOSER_WAITING);
    assert_string_equal(c->front[1].p->holder_name, "front-0");
    for (int i = 0; i < 30; i++) { /* a healthy holder is not disturbed, for as long as it likes */
        c->now_ns += PX_BEAT_NS;
        px_tick(c, 0);
        px_settle(c, 0, ALL);
        px_tick(c, 1);
        px_settle(c, 1, ALL);
        assert_int_not_equal(c->front[1].p->state, PROPOSER_SERVING);
        assert_int_equal(c->front[0].p->state, PROPOSER_SERVING);
    }
    px_front_detach(c, 0);
    px_settle(c, 0, ALL);
    assert_int_equal(c->front[0].p->state, PROPOSER_IDLE);
    assert_true(px_converge(c, 1, 15)); /* within a second: it polls */
}

/* 14. Front 0 was cut off with writes pending; front 1 served meanwhile. What front 0 still has must not come after it.
 */
static void test_14_no_resuming_after_a_foreign_session(void **state)
{
    struct px_cluster *c = begin(state, 2);
    attach(c, 0, ALL);
    uint32_t a = px_write(c, 0);
    for (unsigned n = 0; n < 3; n++)
        px_disconnect(c, 0, n);
    /* The nodes hear that the connections are gone; the write is lost on the way. */
    list_for_each_safe(p, &c->conns) px_conn_gone(c, container_of(p, struct px_conn, link));
    attach(c, 1, ALL);
    uint32_t b = px_write(c, 1);
    px_settle(c, 1, ALL);
    acked(c, b);
    px_front_kill(c, 1);
    connect_to(c, 0, ALL);
    for (int i = 0; i < 50 && !c->front[0].fenced; i++) {
        px_tick(c, 0);
        px_settle(c, 0, ALL);
        c->now_ns += PX_BEAT_NS;
    }
    assert_true(c->front[0].fenced);
    assert_int_equal(c->op[a].state, PX_OP_FAILED);
    assert_int_equal(c->front[0].n_unplaced, 0);
    px_front_kill(c, 0);
    attach(c, 0, ALL);
    all_equal(c, 0);
    for (uint64_t s = 1; s <= c->chosen_max; s++)
        assert_true(c->chosen[s].id != c->op[a].id);
}

/* ... but when nobody served in between it goes on: what is found is acknowledged once, the rest is proposed again, in
 * order. */
static void test_14_resuming_when_nobody_served_between(void **state)
{
    struct px_cluster *c = begin(state, 2);
    attach(c, 0, ALL);
    uint32_t op[4];
    for (int i = 0; i < 4; i++)
        op[i] = px_write(c, 0);
    px_to_node(c, 0, 1);
    px_to_node(c, 0, 1);
    /* Front 1 only prepares, and dies. */
    px_front_start(c, 1);
    connect_to(c, 1, NODE(1) | NODE(2));
    for (int i = 0; i < 3; i++)
        for (unsigned n = 1; n < 3; n++) {
            px_to_node(c, 1, n);
            px_durable(c, n, UINT32_MAX);
            px_to_front(c, 1, n);
        }
    px_front_kill(c, 1);
    px_settle(c, 0, NODE(1) | NODE(2));
    assert_int_not_equal(c->front[0].p->state, PROPOSER_SERVING);
    px_disconnect(c, 0, 0); /* with it goes the way to the node that could have had all four */
    assert_true(px_converge(c, 0, 50));
    for (int i = 0; i < 4; i++) {
        acked(c, op[i]);
        assert_true(i == 0 || c->op[op[i]].slot > c->op[op[i - 1]].slot);
    }
    assert_true(c->front[0].n_unplaced > 0);
    all_equal(c, 0);
}

/* All at once, in the middle of it: nothing that was acknowledged is missing, whatever landed of the rest. */
static void test_power_cut_of_everything(void **state)
{
    struct px_cluster *c = begin(state, 1);
    attach(c, 0, ALL);
    uint32_t first = px_write(c, 0);
    for (int i = 0; i < 20; i++)
        px_write(c, 0);
    for (unsigned n = 0; n < 3; n++) {
        while (px_to_node(c, 0, n)) {
        }
        px_durable(c, n, n * 7);
    }
    while (px_to_front(c, 0, 0) || px_to_front(c, 0, 1) || px_to_front(c, 0, 2)) {
    }
    acked(c, first);
    px_front_kill(c, 0);
    for (unsigned n = 0; n < 3; n++)
        px_crash(c, n, 2 - n);
    for (unsigned n = 0; n < 3; n++)
        px_restart(c, n, 0);
    attach(c, 0, ALL);
    all_equal(c, 0);
    for (uint32_t i = 0; i < c->n_ops; i++)
        if (c->op[i].state == PX_OP_ACKED)
            assert_true(node_has(c, 0, i));
}

#define T(f) cmocka_unit_test_teardown(f, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_1_last_contact_is_not_the_newest_log),
        T(test_1_old_entries_keep_their_ballot),
        T(test_2_equal_length_is_no_match),
        T(test_3_watermark_of_unmatched_slots),
        T(test_4_old_stream_against_catch_up),
        T(test_5_replayed_stream_cuts_nothing),
        T(test_6_uncommitted_membership_decides_nothing),
        T(test_6_membership_change_completes),
        T(test_a_change_survives_the_death_of_its_proposer_at_any_point),
        T(test_a_replaced_voter_that_returns_is_retired),
        T(test_18_a_wiped_disk_is_somebody_else),
        T(test_three_to_five_and_back),
        T(test_7_needs_copy_is_no_voter),
        T(test_a_jump_forgets_nothing_that_its_vote_chose),
        T(test_a_jump_that_was_not_durable_has_not_been),
        T(test_8_promise_outlives_checkpoint_and_restart),
        T(test_9_no_accept_behind_the_promise),
        T(test_10_ballots_are_never_reused),
        T(test_12_lost_but_maybe_chosen),
        T(test_12_lost_and_never_chosen),
        T(test_13_lease_outlives_a_restart),
        T(test_13_holder_is_named_and_release_frees),
        T(test_14_no_resuming_after_a_foreign_session),
        T(test_14_resuming_when_nobody_served_between),
        T(test_power_cut_of_everything),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
