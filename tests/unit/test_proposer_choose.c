/* Which log the proposer takes over (protocol.md P2, P3), against answers written by hand: what it must not take for
 * chosen, and what it must not lose. */
#include "tests/unit/proposer_rig.h"

/* ---- P2: the choice ---- */

/* Wrong rule 1: by length, slot 9 of ballot 1 would win, and with it slot 5 of ballot 2, which may be chosen, would be
 * lost. */
static void test_best_log_by_ballot_then_length(void **state)
{
    struct rig *r = *state;
    preparing(r);
    promise(r, 0, &(struct log_text){.n_runs = 1, .run = {{other(1), 1, 9}}, .commit = pos(2, other(1))});
    promise(r, 1,
            &(struct log_text){.n_runs = 2, .run = {{other(1), 1, 4}, {other(2), 5, 5}}, .commit = pos(4, other(1))});
    assert_int_equal(r->p.state, PROPOSER_RECOVERING);
    assert_int_equal(paxos_log_last(&r->p.log).slot, 5);
    assert_int_equal(r->p.recovered_commit.slot, 4); /* W: the highest commit of any answer */
    assert_int_equal(n_sent(r, MSG_FETCH), 1);
    const struct proposer_effect *f = sent(r, 1, MSG_FETCH);
    assert_non_null(f);
    assert_int_equal(f->msg.u.fetch.at.slot, 5);
    value(r, 1, 5, other(2), ENTRY_WRITE);
    assert_non_null(find(r, PROPOSER_HOLD));
    session_entry(r);
    assert_int_equal(r->p.session_slot, 6);
    /* P4: where each is opened; m = the highest slot of equal e. */
    assert_int_equal(sent(r, 0, MSG_OPEN)->msg.u.open.at.slot, 4);
    assert_int_equal(sent(r, 1, MSG_OPEN)->msg.u.open.at.slot, 5);
    opened(r, 0, 4);
    assert_int_equal(n_sent(r, MSG_ACCEPT), 2);
    const struct proposer_effect *a = sent(r, 0, MSG_ACCEPT);
    struct ballot e = other(2);
    assert_true(
        ballot_equal(&a->msg.u.accept.entry->e, &e)); /* older entries keep their e (wrong rule 1, second half) */
    assert_int_equal(a->msg.u.accept.commit, 4);
}

/* Wrong rule 7: whoever needs a copy promises, but its log is neither chosen nor counted. */
static void test_needs_copy_is_no_vote(void **state)
{
    struct rig *r = *state;
    preparing(r);
    promise(r, 0, &(struct log_text){.n_runs = 1, .run = {{other(1), 1, 3}}});
    promise(r, 1, &(struct log_text){.n_runs = 1, .run = {{other(5), 1, 3}}, .needs_copy = 1});
    assert_int_equal(r->p.state, PROPOSER_PREPARING);
    promise(r, 2, &(struct log_text){.n_runs = 1, .run = {{other(1), 1, 2}}});
    assert_int_equal(r->p.state, PROPOSER_RECOVERING);
    struct ballot e = other(1);
    struct log_pos last = paxos_log_last(&r->p.log);
    assert_int_equal(last.slot, 3);
    assert_true(ballot_equal(&last.e, &e));
}

static void test_answers_that_cannot_be(void **state)
{
    struct rig *r = *state;
    preparing(r);
    promise(r, 0, &(struct log_text){.n_runs = 1, .run = {{other(1), 2, 3}}}); /* a gap */
    assert_non_null(find(r, PROPOSER_DISCONNECT));
    assert_int_equal(r->p.state, PROPOSER_PREPARING);
    promise(r, 1,
            &(struct log_text){.n_runs = 1,
                               .run = {{other(1), 1, 3}},
                               .commit = pos(2, other(2))}); /* committed what it does not hold */
    assert_non_null(find(r, PROPOSER_DISCONNECT));
    promise(r, 2, &(struct log_text){.n_lost = 1, .lost = {4}});
    assert_non_null(find(r, PROPOSER_DISCONNECT));
    down(r, 0);
    up(r, 0);
    assert_non_null(sent(r, 0, MSG_PREPARE)); /* the same ballot, asked again */
}

/* {0, 1, 2}, and {2, 3, 4} in slot 2, above the commit. */
static struct log_text with_two_memberships(void)
{
    return (struct log_text){.n_runs = 1,
                             .run = {{other(1), 1, 2}},
                             .commit = pos(1, other(1)),
                             .n_memberships = 2,
                             .membership = {voters(0, 3, 0), voters(2, 3, 2)}};
}

/* Wrong rule 6: the uncommitted membership in the chosen log asks for both quorums, and replaces nothing. */
static void test_uncommitted_membership_needs_both(void **state)
{
    struct rig *r = *state;
    begin(r, 5);
    preparing(r);
    struct log_text with = with_two_memberships();
    struct log_text without = {.n_runs = 1, .run = {{other(1), 1, 1}}, .commit = pos(1, other(1))};
    promise(r, 0, &without);
    assert_int_equal(r->p.state, PROPOSER_PREPARING);
    promise(r, 1, &with);
    assert_int_equal(r->p.state, PROPOSER_PREPARING); /* {0, 1}: the old majority, none of the new */
    assert_true(r->p.has_uncommitted);
    promise(r, 3, &without);
    assert_int_equal(r->p.state, PROPOSER_PREPARING);
    promise(r, 4, &without);
    assert_int_equal(r->p.state, PROPOSER_RECOVERING);
    value(r, 1, 2, other(1), ENTRY_MEMBER);
    session_entry(r);
    for (unsigned i = 0; i < 5; i++)
        if (i != 2)
            opened(r, i, i == 1 ? 2 : 1);
    accepted(r, 0, 3);
    accepted(r, 1, 3);
    assert_int_equal(r->p.state, PROPOSER_STARTING); /* chosen by the old alone is not chosen */
    accepted(r, 3, 3);
    assert_int_equal(r->p.state, PROPOSER_STARTING);
    accepted(r, 4, 3);
    assert_int_equal(r->p.state, PROPOSER_SERVING);
    assert_false(r->p.has_uncommitted); /* committed with it */
    assert_int_equal(r->p.committed.slot, 2);
    assert_true(membership_has_voter(&r->p.committed, &(struct uuid[1]){node_id(4)}[0]));
}

/* One slot, two memberships: a disk that was put in by making the group anew on it. A majority of the wrong one would
 * not meet those that chose. */
static void test_conflicting_memberships_are_not_believed(void **state)
{
    struct rig *r = *state;
    preparing(r);
    promise(r, 0, &(struct log_text){.n_memberships = 1, .membership = {voters(0, 1, 0)}});
    assert_int_equal(r->p.state, PROPOSER_RECOVERING); /* alone it is all there is */
    assert_null(find(r, PROPOSER_DISCONNECT));
    promise(r, 1, &(struct log_text){0});
    assert_int_equal(r->p.state, PROPOSER_WAITING);
    assert_int_equal(n_sent(r, MSG_RELEASE), 3);
}

static void test_new_voters_alone_are_no_quorum(void **state)
{
    struct rig *r = *state;
    begin(r, 5);
    preparing(r);
    struct log_text with = with_two_memberships();
    promise(r, 3, &with);
    promise(r, 4, &with);
    promise(r, 2, &with);
    assert_int_equal(r->p.state, PROPOSER_PREPARING); /* of {0, 1, 2} only one */
    promise(r, 1, &with);
    assert_int_equal(r->p.state, PROPOSER_RECOVERING);
}

/* The membership's value was lost at those who listed their logs: it comes with a value, and asks for both all the
 * same. */
static void test_membership_found_by_its_value(void **state)
{
    struct rig *r = *state;
    begin(r, 4);
    preparing(r);
    struct log_text lost = {
        .n_runs = 1, .run = {{other(1), 1, 2}}, .commit = pos(1, other(1)), .n_lost = 1, .lost = {2}};
    struct log_text holds = {.n_runs = 1, .run = {{other(1), 1, 2}}, .commit = pos(1, other(1))};
    promise(r, 0, &lost);
    promise(r, 1, &holds);
    assert_int_equal(r->p.state, PROPOSER_RECOVERING);
    value(r, 1, 2, other(1), ENTRY_MEMBER); /* {1, 2, 3} */
    assert_int_equal(r->p.state, PROPOSER_PREPARING);
    promise(r, 3, &lost);
    assert_int_equal(r->p.state, PROPOSER_RECOVERING);
    assert_true(r->p.has_uncommitted);
}

/* ---- P3: values that are lost ---- */

/* Wrong rule 12: two of three hold or held it; it may be chosen, whoever cannot give it now. */
static void test_lost_slot_that_may_be_chosen_is_waited_for(void **state)
{
    struct rig *r = *state;
    preparing(r);
    struct log_text lost = {
        .n_runs = 1, .run = {{other(1), 1, 3}}, .commit = pos(1, other(1)), .n_lost = 1, .lost = {2}};
    promise(r, 0, &lost);
    promise(r, 1, &(struct log_text){.n_runs = 1, .run = {{other(1), 1, 1}}, .commit = pos(1, other(1))});
    /* Replica 0 lost it, 1 does not have it, 2 was not heard: 0 and 2 may be a majority. */
    assert_int_equal(r->p.state, PROPOSER_RECOVERING);
    assert_int_equal(n_sent(r, MSG_FETCH), 1);
    assert_int_equal(sent(r, 0, MSG_FETCH)->msg.u.fetch.at.slot, 3);
    value(r, 0, 3, other(1), ENTRY_WRITE);
    assert_null(find(r, PROPOSER_WANT_SESSION_ENTRY));
    tick(r, 10 * MS);
    assert_null(find(r, PROPOSER_WANT_SESSION_ENTRY));
    assert_int_equal(r->p.next, 4);
    /* The third one has it. */
    promise(r, 2, &(struct log_text){.n_runs = 1, .run = {{other(1), 1, 2}}, .commit = pos(1, other(1))});
    assert_non_null(sent(r, 2, MSG_FETCH));
    value(r, 2, 2, other(1), ENTRY_WRITE);
    assert_non_null(find(r, PROPOSER_WANT_SESSION_ENTRY));
    session_entry(r);
    assert_int_equal(r->p.session_slot, 4);
}

static void test_lost_slot_that_was_never_chosen_is_cut(void **state)
{
    struct rig *r = *state;
    preparing(r);
    struct log_text lost = {
        .n_runs = 1, .run = {{other(1), 1, 3}}, .commit = pos(1, other(1)), .n_lost = 1, .lost = {2}};
    struct log_text shorter = {.n_runs = 1, .run = {{other(1), 1, 1}}, .commit = pos(1, other(1))};
    promise(r, 0, &lost);
    promise(r, 1, &shorter);
    assert_int_equal(r->p.next, 4);
    promise(r, 2, &shorter); /* now one of three at most ever held it */
    assert_int_equal(r->p.next, 2);
    assert_non_null(find(r, PROPOSER_WANT_SESSION_ENTRY));
    session_entry(r);
    assert_int_equal(r->p.session_slot, 2);
    assert_int_equal(sent(r, 0, MSG_OPEN)->msg.u.open.at.slot, 1); /* P4: below what it lost */
}

/* Its own m is below what it lost, so that the stream fills it. */
static void test_a_replica_is_opened_below_what_it_lost(void **state)
{
    struct rig *r = *state;
    preparing(r);
    struct log_text lost = {
        .n_runs = 1, .run = {{other(1), 1, 5}}, .commit = pos(2, other(1)), .n_lost = 2, .lost = {4, 5}};
    struct log_text whole = {.n_runs = 1, .run = {{other(1), 1, 5}}, .commit = pos(2, other(1))};
    promise(r, 0, &lost);
    promise(r, 1, &whole);
    for (uint64_t s = 3; s <= 5; s++)
        for (unsigned i = 0; i < 2; i++)
            value(r, i, s, other(1), i == 1 || s == 3 ? ENTRY_WRITE : 0);
    session_entry(r);
    assert_int_equal(sent(r, 0, MSG_OPEN)->msg.u.open.at.slot, 3);
    assert_int_equal(sent(r, 1, MSG_OPEN)->msg.u.open.at.slot, 5);
    opened(r, 0, 3);
    assert_int_equal(n_sent(r, MSG_ACCEPT), 3);
    /* And by a Mismatch as well. */
    down(r, 1);
    up(r, 1);
    lost.n_lost = 1;
    mismatch(r, 1, &lost);
    assert_int_equal(sent(r, 1, MSG_OPEN)->msg.u.open.at.slot, 3);
}

static void test_lost_at_two_is_never_shortened(void **state)
{
    struct rig *r = *state;
    preparing(r);
    struct log_text lost = {
        .n_runs = 1, .run = {{other(1), 1, 3}}, .commit = pos(1, other(1)), .n_lost = 1, .lost = {3}};
    struct log_text shorter = {.n_runs = 1, .run = {{other(1), 1, 2}}, .commit = pos(1, other(1))};
    promise(r, 0, &lost);
    promise(r, 1, &lost);
    promise(r, 2, &shorter);
    value(r, 0, 2, other(1), ENTRY_WRITE);
    value(r, 1, 2, other(1), ENTRY_WRITE);
    value(r, 2, 2, other(1), ENTRY_WRITE);
    assert_int_equal(r->p.next, 4);
    assert_null(find(r, PROPOSER_WANT_SESSION_ENTRY));
    assert_int_equal(r->p.state, PROPOSER_RECOVERING);
}

static void test_a_holder_that_cannot_give_it_is_not_the_last(void **state)
{
    struct rig *r = *state;
    preparing(r);
    struct log_text t = {.n_runs = 1, .run = {{other(1), 1, 2}}, .commit = pos(1, other(1))};
    promise(r, 0, &t);
    promise(r, 1, &t);
    unsigned asked = sent(r, 0, MSG_FETCH) ? 0 : 1;
    assert_non_null(sent(r, asked, MSG_FETCH));
    down(r, asked); /* its link breaks */
    assert_non_null(sent(r, !asked, MSG_FETCH));
    value(r, !asked, 2, other(1), 0); /* not found */
    assert_int_equal(n_sent(r, MSG_FETCH), 0);
    assert_int_equal(r->p.next, 3);
    up(r, asked);
    assert_non_null(sent(r, asked, MSG_FETCH));
    value(r, asked, 2, other(2), ENTRY_WRITE); /* another entry */
    assert_null(find(r, PROPOSER_HOLD));
    value(r, asked, 2, other(1), ENTRY_WRITE);
    assert_non_null(find(r, PROPOSER_WANT_SESSION_ENTRY));
}

/* ---- a tail that is too long ---- */

static void test_a_tail_longer_than_the_ring(void **state)
{
    struct rig *r = *state;
    preparing(r);
    struct log_text t = {.n_runs = 1, .run = {{other(1), 1, 100}}, .commit = pos(1, other(1))};
    promise(r, 0, &t);
    /* A majority holds it all: nothing of it has to pass through here. */
    promise(r, 1, &t);
    assert_int_equal(n_sent(r, MSG_FETCH), 0);
    session_entry(r);
    assert_int_equal(r->p.session_slot, 101);
    assert_int_equal(sent(r, 0, MSG_OPEN)->msg.u.open.at.slot, 100);
    assert_int_equal(sent(r, 0, MSG_BEAT)->msg.u.beat.commit.slot, 1);
    opened(r, 0, 100);
    opened(r, 1, 100);
    accepted(r, 0, 101);
    accepted(r, 1, 101);
    assert_int_equal(r->p.state, PROPOSER_SERVING);
    assert_int_equal(sent(r, 2, MSG_BEAT)->msg.u.beat.commit.slot, 101);
}

/* What nobody can donate would have to pass through here (test_what_nobody_can_donate_passes_through_the_ring), and does not
 * fit. The group goes on with what does: its committed slots are for catch-up to bring, as soon as anybody can. */
static void test_what_nobody_can_donate_does_not_fit(void **state)
{
    struct rig *r = *state;
    preparing(r);
    promise(r, 2, &(struct log_text){.base = pos(40, other(1)), .commit = pos(40, other(1)), .needs_copy = 1});
    promise(r, 0, &(struct log_text){.n_runs = 1, .run = {{other(1), 1, 41}}, .n_lost = 1, .lost = {1}});
    promise(r, 1, &(struct log_text){.n_runs = 1, .run = {{other(1), 1, 1}}});
    assert_int_equal(r->p.state, PROPOSER_RECOVERING);
    assert_int_equal(r->p.floor, 40);
    assert_int_equal(r->p.chosen, 40);
    assert_int_equal(n_sent(r, MSG_FETCH), 1);
    assert_int_equal(sent(r, 0, MSG_FETCH)->msg.u.fetch.at.slot, 41);
    value(r, 0, 41, other(1), ENTRY_WRITE);
    session_entry(r);
    assert_int_equal(r->p.session_slot, 42);
    assert_int_equal(sent(r, 2, MSG_OPEN)->msg.u.open.at.slot, 40);
    assert_null(sent(r, 0, MSG_OPEN)); /* below the ring */
    assert_null(sent(r, 1, MSG_OPEN));
    assert_int_equal(sent(r, 1, MSG_BEAT)->msg.u.beat.commit.slot, 40); /* they know what to look for */
    beat_ack(r, 1, r->now, LEASE, 40);
    assert_int_equal(sent(r, 1, MSG_OPEN)->msg.u.open.at.slot, 40);
}

/* ---- a long tail that is fetched ---- */

/* 32 values are asked for at a time. Somebody says "not found" of one whose turn has not come: those before it are asked for all
 * the same, and that one elsewhere. */
static void test_not_found_before_it_was_asked_for(void **state)
{
    struct rig *r = *state;
    static struct proposer_slot ring[64];
    begin_with_ring(r, ring, 64);
    preparing(r);
    struct log_text t = {.n_runs = 1, .run = {{other(1), 1, 40}}};
    promise(r, 0, &t);
    promise(r, 1, &t);
    assert_int_equal(n_sent(r, MSG_FETCH), 32);
    value(r, 0, 40, other(1), 0);
    assert_int_equal(n_sent(r, MSG_FETCH), 0);
    for (uint64_t slot = 1; slot <= 40; slot++) {
        assert_null(find(r, PROPOSER_WANT_SESSION_ENTRY));
        assert_true(ring[slot].asked < 2);
        assert_true(slot < 40 || ring[slot].asked == 1);
        value(r, ring[slot].asked, slot, other(1), ENTRY_WRITE);
    }
    assert_non_null(find(r, PROPOSER_WANT_SESSION_ENTRY));
}

/* As many sessions as a log can list, of which none is known to be chosen: there is no place for the own one. The ballot is given
 * up, its entry kept, and the next attempt finds that a replica has heard of a commit. */
static void test_a_log_of_as_many_sessions_as_there_are_runs(void **state)
{
    struct rig *r = *state;
    static struct proposer_slot ring[2 * RUNS_MAX];
    static struct run run[RUNS_MAX];
    for (uint64_t s = 1; s <= RUNS_MAX; s++)
        run[s - 1] = (struct run){other(s), s, s};
    struct membership all = voters(0, N, 0);
    begin_with_ring(r, ring, 2 * RUNS_MAX);
    for (unsigned i = 0; i < N; i++)
        up(r, i);
    step(r, (struct proposer_event){.type = PROPOSER_ATTACH});
    for (uint64_t commit = 0;; commit = 1) {
        for (unsigned i = 0; i < 2; i++)
            query_ack(r, i, NULL, 0, other(RUNS_MAX));
        assert_int_equal(r->p.ballot.round, RUNS_MAX + 1 + commit);
        for (unsigned i = 0; i < 2; i++) {
            struct msg m = answer(r, MSG_PROMISE);
            m.u.promise.commit = commit ? pos(commit, other(commit)) : pos(0, zero);
            m.u.promise.n_runs = RUNS_MAX;
            m.u.promise.runs = run;
            m.u.promise.n_memberships = 1;
            m.u.promise.memberships = &all;
            say(r, i, m);
        }
        assert_int_equal(r->p.floor, commit);
        if (commit > 0)
            break;
        assert_int_equal(r->p.state, PROPOSER_RECOVERING);
        for (uint64_t s = 1; s <= RUNS_MAX; s++)
            value(r, ring[s].asked, s, other(s), ENTRY_SESSION);
        assert_non_null(find(r, PROPOSER_WANT_SESSION_ENTRY));
        session_entry(r);
        assert_int_equal(r->p.state, PROPOSER_WAITING);
        assert_int_equal(n_sent(r, MSG_RELEASE), N);
        assert_null(sent(r, 0, MSG_OPEN));
        assert_null(find(r, PROPOSER_FORGET));
        tick(r, r->p.retry_at_ns - r->now);
        assert_int_equal(n_sent(r, MSG_QUERY), N);
    }
    assert_int_equal(r->p.state, PROPOSER_STARTING);
    assert_int_equal(r->p.session_slot, RUNS_MAX + 1);
    assert_int_equal(sent(r, 0, MSG_OPEN)->msg.u.open.at.slot, RUNS_MAX);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_best_log_by_ballot_then_length),
        T(test_needs_copy_is_no_vote),
        T(test_answers_that_cannot_be),
        T(test_uncommitted_membership_needs_both),
        T(test_conflicting_memberships_are_not_believed),
        T(test_new_voters_alone_are_no_quorum),
        T(test_membership_found_by_its_value),
        T(test_lost_slot_that_may_be_chosen_is_waited_for),
        T(test_lost_slot_that_was_never_chosen_is_cut),
        T(test_a_replica_is_opened_below_what_it_lost),
        T(test_lost_at_two_is_never_shortened),
        T(test_a_holder_that_cannot_give_it_is_not_the_last),
        T(test_a_tail_longer_than_the_ring),
        T(test_what_nobody_can_donate_does_not_fit),
        T(test_not_found_before_it_was_asked_for),
        T(test_a_log_of_as_many_sessions_as_there_are_runs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
