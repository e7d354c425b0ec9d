/* The last resort (docs/rebuild.md "Recovery"): the other voters are gone for good, and an operator makes what stands at
 * one replica the group's. When that is refused, and what it leaves. */
#include "tests/unit/acceptor_rig.h"

static const struct uuid two = {{2}}, three = {{3}};

/* Slots 1 to 5 of A(1) on disk, and this replica is one of three voters; `s` says more. */
static void survivor(struct rig *r, struct acceptor_state s)
{
    static struct paxos_log log;
    log = (struct paxos_log){.n = 1, .run = {{A(1), 1, 5}}};
    s.promised = A(1);
    s.restarted = true;
    if (!s.log)
        s.log = &log;
    if (s.committed.n_voters == 0)
        s.committed = (struct membership){.n_voters = 3, .voter = {r->identity, two, three}};
    begin(r, &s);
}

static void recover(struct rig *r, struct ballot b)
{
    struct entry *e = member(r, 0, A(0), 1);
    e->u[0].membership.voter[0] = r->identity;
    step(r, (struct acceptor_event){.type = ACCEPTOR_RECOVER, .entries = &e, .n_entries = 1, .ballot = b});
}

static bool refused_for(const struct rig *r, const char *what)
{
    const char *why = acceptor_may_recover(&r->a, r->now);
    return why && strstr(why, what);
}

/* ---- what it leaves ---- */

/* What stands here is the group's, without what rot has taken. */
static void test_a_survivor_is_made_the_group(void **state)
{
    struct rig *r = *state;
    survivor(r, (struct acceptor_state){.n_lost = 1, .lost = (uint64_t[]){4}, .commit = 2});
    recover(r, B(2));
    assert_int_equal(find(r, ACCEPTOR_CUT)->slot, 4); /* its value is nowhere, and 5 stood on it */
    assert_int_equal(find(r, ACCEPTOR_APPEND)->slot, 4);
    assert_int_equal(count(r, ACCEPTOR_PROMISE), 1);
    assert_int_equal(find(r, ACCEPTOR_COMMIT)->slot, 3); /* the change itself not before it is durable */
    assert_true(holds(r, 3, A(1)) && holds(r, 4, B(2)));
    assert_int_equal(r->a.n_lost, 0);
    all_durable(r);
    assert_int_equal(find(r, ACCEPTOR_COMMIT)->slot, 4);
    assert_int_equal(r->a.committed.n_voters, 1);
    assert_int_equal(r->a.committed.slot, 4);
    assert_false(r->a.has_uncommitted);
    assert_true(refused_for(r, "only voter already")); /* once is enough */
    prepare(r, A(2), 0);
    assert_non_null(sent(r, MSG_NACK)); /* whoever was under way is outbid */
}

/* Entries that nobody announced as chosen are the group's as well: nobody can say any more that they were not. */
static void test_a_survivor_without_rot_keeps_all_it_has(void **state)
{
    struct rig *r = *state;
    survivor(r, (struct acceptor_state){.commit = 2});
    recover(r, B(2));
    assert_null(find(r, ACCEPTOR_CUT));
    assert_int_equal(find(r, ACCEPTOR_APPEND)->slot, 6);
    assert_int_equal(find(r, ACCEPTOR_COMMIT)->slot, 5);
    assert_true(holds(r, 5, A(1)) && holds(r, 6, B(2)));
    all_durable(r);
    assert_int_equal(find(r, ACCEPTOR_COMMIT)->slot, 6);
    assert_int_equal(r->a.committed.slot, 6);
    prepare(r, B(3), 0); /* the next front end needs nobody else */
    const struct msg *p = &sent(r, MSG_PROMISE)->msg;
    assert_int_equal(p->u.promise.commit.slot, 6);
    assert_int_equal(p->u.promise.n_memberships, 1);
    assert_int_equal(p->u.promise.memberships[0].n_voters, 1);
    assert_true(uuid_equal(&p->u.promise.memberships[0].voter[0], &r->identity));
}

/* A lone voter was about to get company, which is gone before it voted: without this no quorum would ever be there again. */
static void test_a_lone_voter_takes_back_a_change_under_way(void **state)
{
    struct rig *r = *state;
    struct membership alone = {.n_voters = 1, .voter = {r->identity}}, both = {.slot = 3, .n_voters = 2, .voter = {r->identity, two}};
    survivor(r, (struct acceptor_state){.committed = alone, .uncommitted = &both, .commit = 2});
    assert_null(acceptor_may_recover(&r->a, r->now));
    recover(r, B(2));
    assert_non_null(find(r, ACCEPTOR_MEMBERSHIP));
    all_durable(r);
    assert_int_equal(r->a.committed.slot, 6);
    assert_int_equal(r->a.committed.n_voters, 1);
    assert_false(r->a.has_uncommitted);
    assert_true(acceptor_is_voter(&r->a));
    assert_true(refused_for(r, "only voter already"));
}

/* ---- when it is refused ---- */

static void test_who_has_nothing_to_say_is_not_recovered(void **state)
{
    struct rig *r = *state;
    survivor(r, (struct acceptor_state){0});
    assert_null(acceptor_may_recover(&r->a, r->now));
    acceptor_set_needs_copy(&r->a, true);
    assert_true(refused_for(r, "complete copy"));
    acceptor_set_needs_copy(&r->a, false);
    assert_null(acceptor_may_recover(&r->a, r->now));
    survivor(r, (struct acceptor_state){.committed = {.n_voters = 2, .voter = {two, three}}}); /* voted out, or a learner */
    assert_true(refused_for(r, "no voter"));
    survivor(r, (struct acceptor_state){.committed = {.n_voters = 1, .voter = {r->identity}}});
    assert_true(refused_for(r, "only voter already"));
}

/* Somebody may be reading under it, and would read what is about to be superseded. */
static void test_not_while_somebody_may_hold_a_lease(void **state)
{
    struct rig *r = *state;
    survivor(r, (struct acceptor_state){0});
    prepare(r, A(2), LEASE);
    all_durable(r);
    assert_true(refused_for(r, "lease"));
    r->now += LEASE - 1;
    assert_true(refused_for(r, "lease"));
    r->now++;
    assert_null(acceptor_may_recover(&r->a, r->now));
    /* A restart does not know whether it is still held. */
    survivor(r, (struct acceptor_state){.max_lease_ns = LEASE});
    assert_true(refused_for(r, "lease"));
    r->now += LEASE;
    assert_null(acceptor_may_recover(&r->a, r->now));
    /* A take-over by force is under way. */
    say(r, 1, (struct msg){.type = MSG_FORCE, .ballot = A(4), .u.force = {.expiry_ns = LEASE}});
    assert_true(refused_for(r, "lease"));
    r->now += LEASE;
    assert_null(acceptor_may_recover(&r->a, r->now));
}

/* The membership needs a place in the tables, and there is no refusing it half way. */
static void test_not_while_a_table_is_full(void **state)
{
    struct rig *r = *state;
    static struct paxos_log log;
    memset(&log, 0, sizeof log);
    for (uint64_t s = 1; s <= RUNS_MAX; s++) {
        struct ballot e = A(s);
        assert_true(paxos_log_append(&log, s, &e));
    }
    survivor(r, (struct acceptor_state){.log = &log, .commit = RUNS_MAX});
    assert_true(refused_for(r, "busy"));
    step(r, (struct acceptor_event){.type = ACCEPTOR_TRIM, .trim = 1}); /* by the next checkpoint */
    assert_null(acceptor_may_recover(&r->a, r->now));

    survivor(r, (struct acceptor_state){0});
    stream(r, A(2), pos(5, A(1)));
    for (uint64_t s = 6, lease = 1; acceptor_has_room(&r->a); s++) { /* a record between two appends: each is a run */
        accept_on(r, 1, A(2), entry(r, s, A(2)), 0);
        beat(r, A(2), lease++, pos(0, A(0)));
    }
    r->now += MS; /* no lease is in the way */
    assert_true(refused_for(r, "busy"));
    all_durable(r);
    assert_null(acceptor_may_recover(&r->a, r->now));
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_a_survivor_is_made_the_group),
        T(test_a_survivor_without_rot_keeps_all_it_has),
        T(test_a_lone_voter_takes_back_a_change_under_way),
        T(test_who_has_nothing_to_say_is_not_recovered),
        T(test_not_while_somebody_may_hold_a_lease),
        T(test_not_while_a_table_is_full),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
