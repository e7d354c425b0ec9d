/* The proposer, rule by rule (protocol.md P1-P10), against answers written by hand: what it sends, when it may, and
 * what it must not take for chosen. */
#include "tests/unit/proposer_rig.h"

/* ---- P1 ---- */

static void test_a_healthy_holder_is_not_disturbed(void **state)
{
    struct rig *r = *state;
    for (unsigned i = 0; i < N; i++)
        up(r, i);
    step(r, (struct proposer_event){.type = PROPOSER_ATTACH});
    struct uuid them = other(1).proposer;
    query_ack(r, 0, &them, 300 * MS, other(4));
    query_ack(r, 1, &them, 200 * MS, other(4));
    query_ack(r, 2, &them, 250 * MS, other(4));
    assert_int_equal(r->p.state, PROPOSER_WAITING);
    assert_int_equal(n_sent(r, MSG_PREPARE), 0);
    assert_string_equal(r->p.holder_name, "them");
    assert_true(uuid_equal(&r->p.holder, &them));
    assert_true(r->p.holder_until_ns > r->now);
    tick(r, 150 * MS);
    assert_int_equal(r->n, 0);
    tick(r, 200 * MS); /* it should have ended: ask again */
    assert_int_equal(n_sent(r, MSG_QUERY), 3);
    query_ack(r, 0, NULL, 0, other(4));
    query_ack(r, 2, NULL, 0, other(4));
    assert_int_equal(r->p.state, PROPOSER_PREPARING);
    assert_int_equal(r->p.ballot.round, 5); /* above everything heard */
}

static void test_no_majority_to_ask(void **state)
{
    struct rig *r = *state;
    up(r, 0);
    step(r, (struct proposer_event){.type = PROPOSER_ATTACH});
    query_ack(r, 0, NULL, 0, zero);
    assert_int_equal(r->p.state, PROPOSER_QUERYING);
    tick(r, 1500 * MS);
    assert_int_equal(n_sent(r, MSG_QUERY), 1);
    up(r, 2);
    assert_non_null(sent(r, 2, MSG_QUERY));
    query_ack(r, 2, NULL, 0, zero);
    assert_int_equal(r->p.state, PROPOSER_QUERYING); /* the first one's answer belongs to the earlier question */
    query_ack(r, 0, NULL, 0, zero);
    assert_int_equal(r->p.state, PROPOSER_PREPARING);
}

static void test_one_leftover_lease_does_not_stop_a_majority(void **state)
{
    struct rig *r = *state;
    preparing(r);
    struct uuid them = other(1).proposer;
    nack(r, 2, &them, 300 * MS, zero);
    assert_int_equal(r->p.state, PROPOSER_PREPARING);
    promise(r, 0, &(struct log_text){0});
    promise(r, 1, &(struct log_text){0});
    assert_int_equal(r->p.state, PROPOSER_RECOVERING);
}

static void test_losers_release_and_back_off(void **state)
{
    struct rig *r = *state;
    preparing(r);
    promise(r, 0, &(struct log_text){.lease_ns = LEASE});
    nack(r, 1, NULL, 0, other(9));
    assert_int_equal(r->p.state, PROPOSER_WAITING);
    assert_int_equal(n_sent(r, MSG_RELEASE), 3);
    assert_true(r->p.retry_at_ns > r->now);
    promise(r, 2, &(struct log_text){0}); /* late: the ballot is given up */
    assert_int_equal(r->p.state, PROPOSER_WAITING);
    uint64_t first = r->p.retry_at_ns - r->now;
    for (int i = 0; i < 4; i++) {
        tick(r, r->p.retry_at_ns - r->now);
        query_ack(r, 0, NULL, 0, zero);
        query_ack(r, 1, NULL, 0, zero);
        assert_int_equal(r->p.ballot.round, 10 + i); /* a round is never used twice (wrong rule 10) */
        nack(r, 1, NULL, 0, other(10 + (uint64_t)i));
    }
    assert_true(r->p.retry_at_ns - r->now > 4 * first);
}

static void test_two_refusals_by_lease_end_the_attempt(void **state)
{
    struct rig *r = *state;
    preparing(r);
    struct uuid them = other(1).proposer;
    nack(r, 0, &them, 300 * MS, zero);
    nack(r, 1, &them, 300 * MS, zero);
    assert_int_equal(r->p.state, PROPOSER_WAITING);
    assert_string_equal(r->p.holder_name, "them");
    assert_true(r->p.retry_at_ns >= r->now + 300 * MS);
}

static void test_an_attempt_without_answers_ends(void **state)
{
    struct rig *r = *state;
    preparing(r);
    promise(r, 0, &(struct log_text){.lease_ns = LEASE});
    tick(r, 1000 * MS);
    assert_int_equal(r->p.state, PROPOSER_WAITING);
    assert_int_equal(n_sent(r, MSG_RELEASE), 3);
}

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

/* Wrong rule 6: the uncommitted membership in the chosen log asks for both quorums, and replaces nothing. */
static void test_uncommitted_membership_needs_both(void **state)
{
    struct rig *r = *state;
    begin(r, 5);
    preparing(r);
    struct log_text with = {.n_runs = 1,
                            .run = {{other(1), 1, 2}},
                            .commit = pos(1, other(1)),
                            .n_memberships = 2,
                            .membership = {voters(0, 3, 0), voters(2, 3, 2)}};
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
    struct log_text with = {.n_runs = 1,
                            .run = {{other(1), 1, 2}},
                            .commit = pos(1, other(1)),
                            .n_memberships = 2,
                            .membership = {voters(0, 3, 0), voters(2, 3, 2)}};
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

/* ---- P4: streams ---- */

static void test_a_replica_below_the_ring_catches_up_first(void **state)
{
    struct rig *r = *state;
    preparing(r);
    struct log_text full = {.n_runs = 1, .run = {{other(1), 1, 9}}, .commit = pos(9, other(1))};
    struct log_text behind = {.n_runs = 1, .run = {{other(1), 1, 4}}, .commit = pos(4, other(1))};
    promise(r, 0, &full);
    promise(r, 2, &behind);
    session_entry(r);
    assert_int_equal(r->p.replica[2].stream, STREAM_BEHIND);
    assert_null(sent(r, 2, MSG_OPEN));
    assert_int_equal(sent(r, 2, MSG_BEAT)->msg.u.beat.commit.slot, 9); /* that is where it has to get to */
    opened(r, 0, 9);
    /* Replica 1 comes late, and was never promised: opened where the ring begins, its log is told by the Mismatch. */
    assert_int_equal(r->p.replica[1].stream, STREAM_OPENING);
    mismatch(r, 1, &behind);
    assert_int_equal(r->p.replica[1].stream, STREAM_BEHIND);
    accepted(r, 0, 10);
    beat_ack(r, 2, r->now, 0, 7);
    assert_null(sent(r, 2, MSG_OPEN));
    beat_ack(r, 2, r->now, 0, 9);
    assert_int_equal(sent(r, 2, MSG_OPEN)->msg.u.open.at.slot, 9);
    opened(r, 2, 9);
    accepted(r, 2, 10);
    assert_int_equal(r->p.state, PROPOSER_SERVING);
}

static void test_mismatch_finds_the_place(void **state)
{
    struct rig *r = *state;
    serving(r);
    for (int i = 0; i < 5; i++)
        write_one(r); /* 2 .. 6 */
    accepted(r, 0, 6);
    down(r, 2);
    accepted(r, 1, 6);
    up(r, 2);
    assert_int_equal(sent(r, 2, MSG_OPEN)->msg.u.open.at.slot, 1); /* the last one acknowledged */
    mismatch(r, 2, &(struct log_text){.n_runs = 1, .run = {{mine(1), 1, 3}}, .commit = pos(3, mine(1))});
    assert_int_equal(sent(r, 2, MSG_OPEN)->msg.u.open.at.slot, 3);
    opened(r, 2, 3);
    assert_int_equal(n_sent(r, MSG_ACCEPT), 3);
    accepted(r, 2, 6);
    assert_int_equal(r->p.floor, 6);
}

/* A replica that needs a copy refuses the place where its log does match. It is asked again, but not for ever at once.
 */
static void test_refused_at_the_matching_place(void **state)
{
    struct rig *r = *state;
    serving(r);
    down(r, 2);
    write_one(r);
    accepted(r, 0, 2);
    accepted(r, 1, 2);
    up(r, 2);
    mismatch(r, 2, &(struct log_text){.n_runs = 1, .run = {{mine(1), 1, 1}}});
    assert_int_equal(n_sent(r, MSG_OPEN), 0);
    assert_int_equal(r->p.replica[2].stream, STREAM_BEHIND);
    tick(r, 1100 * MS);
    assert_int_equal(n_sent(r, MSG_OPEN), 0); /* what it lacks is not here any more: no use to ask */
    beat_ack(r, 2, r->now, 0, 1);
    assert_int_equal(sent(r, 2, MSG_OPEN)->msg.u.open.at.slot, 1); /* it has moved */
    mismatch(r, 2, &(struct log_text){.n_runs = 1, .run = {{mine(1), 1, 1}}, .commit = pos(1, mine(1))});
    assert_int_equal(n_sent(r, MSG_OPEN), 0);
    tick(r, 1100 * MS);
    assert_int_equal(n_sent(r, MSG_OPEN), 1); /* now and then */
    tick(r, 100 * MS);
    assert_int_equal(n_sent(r, MSG_OPEN), 0);
}

static void test_nack_of_an_unknown_stream_opens_it_again(void **state)
{
    struct rig *r = *state;
    serving(r);
    write_one(r);
    nack(r, 1, NULL, 0, mine(1));
    assert_int_equal(sent(r, 1, MSG_OPEN)->msg.u.open.at.slot, 1);
    nack(r, 1, NULL, 0, mine(1)); /* from before the Open */
    assert_int_equal(r->n, 0);
    opened(r, 1, 1);
    assert_int_equal(n_sent(r, MSG_ACCEPT), 1);
}

static void test_a_full_replica_is_asked_for_a_stream_now_and_then(void **state)
{
    struct rig *r = *state;
    serving(r);
    write_one(r);
    nack(r, 1, NULL, 0, mine(1));
    assert_int_equal(n_sent(r, MSG_OPEN), 1);
    struct msg full = answer(r, MSG_NACK);
    full.u.holder.promised = mine(1);
    full.u.holder.full = 1;
    say(r, 1, full);
    assert_int_equal(r->n, 0);
    opened(r, 1, 1); /* of a stream that nobody waits for */
    assert_int_equal(n_sent(r, MSG_ACCEPT), 0);
    tick(r, 900 * MS);
    assert_int_equal(n_sent(r, MSG_OPEN), 0);
    tick(r, 200 * MS);
    assert_int_equal(n_sent(r, MSG_OPEN), 1);
    opened(r, 1, 1);
    assert_int_equal(n_sent(r, MSG_ACCEPT), 1);
}

/* ---- P5: chosen ---- */

static void test_chosen_needs_the_own_session_start(void **state)
{
    struct rig *r = *state;
    preparing(r);
    struct log_text t = {.n_runs = 1, .run = {{other(1), 1, 4}}, .commit = pos(1, other(1))};
    promise(r, 0, &t);
    promise(r, 1, &t);
    for (uint64_t s = 2; s <= 4; s++)
        value(r, 0, s, other(1), ENTRY_WRITE);
    session_entry(r);
    opened(r, 0, 4);
    opened(r, 1, 4);
    /* All of the old tail is at a majority under the own ballot: that alone chooses nothing (a longer log of a ballot
     * in between could still replace it). */
    accepted(r, 0, 4);
    accepted(r, 1, 4);
    assert_null(find(r, PROPOSER_CHOSEN));
    assert_int_equal(r->p.state, PROPOSER_STARTING);
    tick(r, BEAT);
    assert_int_equal(sent(r, 0, MSG_BEAT)->msg.u.beat.commit.slot, 1); /* and only W is announced */
    accepted(r, 0, 5);
    accepted(r, 1, 5);
    assert_int_equal(find(r, PROPOSER_CHOSEN)->slot, 5);
    assert_int_equal(r->p.state, PROPOSER_SERVING);
    assert_int_equal(sent(r, 0, MSG_BEAT)->msg.u.beat.commit.slot, 5); /* at once */
}

static void test_answers_of_another_ballot_never_count(void **state)
{
    struct rig *r = *state;
    serving(r);
    write_one(r);
    struct msg m = answer(r, MSG_ACCEPTED);
    m.ballot = other(1);
    m.u.accepted.through = 2;
    say(r, 0, m);
    say(r, 1, m);
    assert_int_equal(r->p.chosen, 1);
    accepted(r, 0, 2);
    accepted(r, 1, 2);
    assert_int_equal(find(r, PROPOSER_CHOSEN)->slot, 2);
    accepted(r, 2, 3); /* nobody ever sent it that */
    assert_non_null(find(r, PROPOSER_DISCONNECT));
    assert_int_equal(r->p.chosen, 2);
}

static void test_entries_carry_the_commit(void **state)
{
    struct rig *r = *state;
    serving(r);
    write_one(r);
    accepted(r, 0, 2);
    accepted(r, 1, 2);
    write_one(r);
    assert_int_equal(n_sent(r, MSG_ACCEPT), 3);
    for (unsigned i = 0; i < N; i++)
        assert_int_equal(sent(r, i, MSG_ACCEPT)->msg.u.accept.commit, 2);
}

/* ---- P7: a lost ballot ---- */

/* Slots 2 and 3 chosen, 4 .. 6 pending. */
static void lose(struct rig *r, struct entry **e)
{
    serving(r);
    for (int i = 0; i < 5; i++)
        e[i] = write_one(r);
    accepted(r, 0, 3);
    accepted(r, 1, 3);
    assert_int_equal(r->p.chosen, 3);
    nack(r, 2, NULL, 0, other(7));
    assert_int_equal(r->p.state, PROPOSER_WAITING);
    assert_null(find(r, PROPOSER_UNPLACED));
    assert_int_equal(n_sent(r, MSG_RELEASE), 3);
    struct entry *late = entry_at(r, ENTRY_WRITE, 0, zero);
    assert_int_equal(submit(r, late), -ENOTCONN);
    tick(r, 100 * MS);
    query_ack(r, 0, NULL, 0, other(7));
    query_ack(r, 1, NULL, 0, other(7));
    assert_int_equal(r->p.ballot.round, 8);
}

static void test_own_writes_found_and_not_found(void **state)
{
    struct rig *r = *state;
    struct entry *e[5];
    lose(r, e);
    struct log_text t = {.n_runs = 1, .run = {{mine(1), 1, 4}}, .commit = pos(2, mine(1))};
    promise(r, 0, &t);
    promise(r, 1, &t);
    assert_int_equal(n_sent(r, MSG_FETCH), 0); /* what is known to be chosen, and the own ones, are here */
    session_entry(r);
    assert_int_equal(r->p.session_slot, 5);
    assert_int_equal(r->p.recovered_commit.slot, 3); /* it saw that chosen itself, whatever the replicas remember */
    opened(r, 0, 4);
    opened(r, 1, 4);
    accepted(r, 0, 5);
    assert_null(
        find(r, PROPOSER_UNPLACED)); /* not before the session start is chosen: the old places could come back */
    accepted(r, 1, 5);
    /* In order, before the CHOSEN that covers their old slots' numbers, in the state in which they may be submitted
     * again. */
    assert_int_equal(r->effect[0].type, PROPOSER_UNPLACED);
    assert_ptr_equal(r->effect[0].entry, e[3]);
    assert_int_equal(r->effect[1].type, PROPOSER_UNPLACED);
    assert_ptr_equal(r->effect[1].entry, e[4]);
    assert_int_equal(r->effect[2].type, PROPOSER_CHOSEN);
    assert_int_equal(r->effect[2].slot, 5);
    assert_int_equal(r->effect[3].type, PROPOSER_STATE);
    assert_int_equal(r->p.state, PROPOSER_SERVING);
    assert_int_equal(submit(r, e[3]), 0);
    assert_int_equal(e[3]->slot, 6);
}

/* An attempt that sees a shorter log fails; the next one finds the writes after all. They must not have been given back
 * in between. */
static void test_a_place_that_comes_back(void **state)
{
    struct rig *r = *state;
    struct entry *e[5];
    lose(r, e);
    struct log_text shorter = {.n_runs = 1, .run = {{mine(1), 1, 3}}, .commit = pos(3, mine(1))};
    promise(r, 0, &shorter);
    promise(r, 1, &shorter);
    session_entry(r);
    assert_int_equal(r->p.session_slot, 4);
    nack(r, 1, NULL, 0, other(11));
    assert_int_equal(r->p.state, PROPOSER_WAITING);
    tick(r, 200 * MS);
    query_ack(r, 0, NULL, 0, other(11));
    query_ack(r, 2, NULL, 0, other(11));
    promise(r, 2, &(struct log_text){.n_runs = 1, .run = {{mine(1), 1, 6}}, .commit = pos(3, mine(1))});
    promise(r, 1, &shorter);
    session_entry(r);
    assert_int_equal(r->p.session_slot, 7);
    assert_int_equal(n_sent(r, MSG_FETCH), 0);
    opened(r, 2, 6);
    opened(r, 1, 3);
    assert_int_equal(n_sent(r, MSG_ACCEPT), 4);
    accepted(r, 2, 7);
    accepted(r, 1, 7);
    assert_null(find(r, PROPOSER_UNPLACED));
    assert_int_equal(find(r, PROPOSER_CHOSEN)->slot, 7);
}

/* Wrong rule 14. */
static void test_fenced_by_a_foreign_session_start(void **state)
{
    struct rig *r = *state;
    struct entry *e[5];
    lose(r, e);
    struct log_text t = {.n_runs = 2, .run = {{mine(1), 1, 4}, {other(7), 5, 5}}, .commit = pos(3, mine(1))};
    promise(r, 0, &t);
    promise(r, 1, &t);
    assert_int_equal(r->p.state, PROPOSER_FENCED);
    assert_int_equal(r->effect[r->n - 1].type, PROPOSER_STATE);
    assert_int_equal(total_refs(r), 0); /* every entry was let go of before */
    struct entry *late = entry_at(r, ENTRY_WRITE, 0, zero);
    assert_int_equal(submit(r, late), -ESTALE);
    tick(r, 5000 * MS);
    assert_int_equal(r->n, 0); /* never resumes by itself */
}

static void test_fenced_by_a_foreign_base(void **state)
{
    struct rig *r = *state;
    struct entry *e[5];
    lose(r, e);
    struct log_text t = {.base = pos(50, other(7)), .commit = pos(50, other(7))};
    promise(r, 0, &t);
    promise(r, 1, &t);
    assert_int_equal(r->p.state, PROPOSER_FENCED);
}

/* ---- P8: leases ---- */

static void test_leases_count_from_the_send_time(void **state)
{
    struct rig *r = *state;
    serving(r);
    uint64_t watermark = 0, sent_at = r->now;
    r->now += LEASE; /* those of the promises are over */
    assert_false(proposer_can_read(&r->p, r->now, &watermark));
    beat_ack(r, 0, sent_at + 100 * MS, LEASE, 1);
    assert_false(proposer_can_read(&r->p, r->now, &watermark));
    beat_ack(r, 1, sent_at + 50 * MS, LEASE, 1);
    assert_true(proposer_can_read(&r->p, r->now, &watermark));
    assert_int_equal(watermark, 1);
    uint64_t end = sent_at + 50 * MS + LEASE - LEASE / 64; /* shortened by the drift bound */
    assert_true(proposer_can_read(&r->p, end - 1, &watermark));
    assert_false(proposer_can_read(&r->p, end, &watermark));
    beat_ack(r, 1, r->now + 1, LEASE, 1); /* nobody echoes the future */
    assert_false(proposer_can_read(&r->p, end, &watermark));
    beat_ack(r, 1, r->now, 100 * LEASE, 1); /* nor grants more than was asked for */
    assert_false(proposer_can_read(&r->p, r->now + LEASE, &watermark));
}

static void test_no_reads_without_serving(void **state)
{
    struct rig *r = *state;
    preparing(r);
    uint64_t watermark;
    promise(r, 0, &(struct log_text){.lease_ns = LEASE});
    promise(r, 1, &(struct log_text){.lease_ns = LEASE});
    session_entry(r);
    assert_false(proposer_can_read(&r->p, r->now, &watermark));
    opened(r, 0, 0);
    opened(r, 1, 0);
    accepted(r, 0, 1);
    accepted(r, 1, 1);
    assert_true(proposer_can_read(&r->p, r->now, &watermark));
    nack(r, 2, NULL, 0, other(5));
    assert_false(proposer_can_read(&r->p, r->now, &watermark));
}

static void test_leases_off(void **state)
{
    struct rig *r = *state;
    r->params.lease_ns = 0;
    proposer_init(&r->p, &r->params);
    serving(r);
    uint64_t watermark;
    assert_false(proposer_can_read(&r->p, r->now, &watermark));
}

/* ---- a replica that needs a copy (docs/rebuild.md "Counting") ---- */

/* It is sent everything, and nothing is chosen with it, whatever it acknowledges. */
static void test_an_incomplete_replica_is_sent_everything_and_counts_for_nothing(void **state)
{
    struct rig *r = *state;
    preparing(r);
    promise(r, 0, &(struct log_text){.lease_ns = LEASE});
    promise(r, 1, &(struct log_text){.lease_ns = LEASE, .needs_copy = 1});
    assert_int_equal(r->p.state, PROPOSER_PREPARING);
    promise(r, 2, &(struct log_text){.lease_ns = LEASE});
    session_entry(r);
    opened(r, 0, 0);
    opened_as(r, 1, 0, true);
    assert_non_null(sent(r, 1, MSG_ACCEPT));
    accepted(r, 0, 1);
    received(r, 1, 1);
    assert_int_equal(r->p.state, PROPOSER_STARTING);
    opened(r, 2, 0);
    accepted(r, 2, 1);
    assert_int_equal(r->p.state, PROPOSER_SERVING);
    struct entry *e = write_one(r);
    assert_non_null(sent(r, 1, MSG_ACCEPT));
    accepted(r, 0, e->slot);
    received(r, 1, e->slot);
    assert_int_equal(r->p.chosen, 1);
    assert_int_equal(r->p.replica[1].received, e->slot);
    accepted(r, 2, e->slot);
    assert_int_equal(r->p.chosen, e->slot);
    assert_int_equal(r->p.floor, e->slot); /* what it has received need not be kept for it */
}

/* The tempting variant: `acked` from before. Node 1 acknowledged slot 2 and then found that it needs a copy (its disk
 * lost what the peers' logs do not reach): with node 0's late acknowledgement slot 2 would stand on one disk. */
static void test_what_was_acknowledged_before_needing_a_copy_does_not_count(void **state)
{
    struct rig *r = *state;
    for (int how = 0; how < 3; how++) {
        begin(r, N);
        serving(r);
        struct entry *e = write_one(r);
        accepted(r, 1, e->slot);
        down(r, 1);
        up(r, 1);
        if (how == 0)
            beat_ack_as(r, 1, r->now, LEASE, 0, true);
        else if (how == 1)
            opened_as(r, 1, e->slot, true);
        else {
            opened(r, 1, e->slot);
            received(r, 1, 1); /* less than it had acknowledged */
        }
        accepted(r, 0, e->slot);
        assert_int_equal(r->p.chosen, 1);
        /* That it is complete now says nothing of what it acknowledged then. */
        if (how == 0)
            opened(r, 1, e->slot);
        beat_ack(r, 1, r->now, LEASE, 1);
        tick(r, BEAT);
        assert_int_equal(r->p.chosen, 1);
        assert_true(r->p.replica[1].needs_copy);
        accepted(r, 1, e->slot); /* this does */
        assert_int_equal(r->p.chosen, e->slot);
        step(r, (struct proposer_event){.type = PROPOSER_DETACH});
    }
}

static void test_the_lease_of_an_incomplete_replica_does_not_count(void **state)
{
    struct rig *r = *state;
    serving(r);
    uint64_t watermark;
    assert_true(proposer_can_read(&r->p, r->now, &watermark)); /* by 0 and 1 */
    beat_ack_as(r, 1, r->now, LEASE, 0, true);
    assert_false(proposer_can_read(&r->p, r->now, &watermark));
    beat_ack(r, 2, r->now, LEASE, 0);
    assert_true(proposer_can_read(&r->p, r->now, &watermark));
}

/* P10: its space is no space of a majority; and with the two others there, nobody waits for it either. */
static void test_an_incomplete_replica_gives_no_credit(void **state)
{
    struct rig *r = *state;
    serving(r);
    beat_ack_as(r, 1, r->now, LEASE, 0, true);
    accepted_with(r, 0, 1, (struct credits){.slabs = 0, .slot_limit = 100});
    struct entry *e = entry_at(r, ENTRY_WRITE, 0, zero);
    assert_int_equal(submit(r, e), -ENOSPC);
    down(r, 2);
    tick(r, 2 * LEASE);
    assert_int_equal(submit(r, e), -EAGAIN); /* a majority has to be back first */
}

/* P9: it may hold every entry; what it lacks is below them. */
static void test_an_incomplete_replica_is_no_holder_for_a_membership(void **state)
{
    struct rig *r = *state;
    begin(r, 4);
    preparing(r);
    promise(r, 0, &(struct log_text){.lease_ns = LEASE});
    promise(r, 1, &(struct log_text){.lease_ns = LEASE});
    promise(r, 3, &(struct log_text){.needs_copy = 1});
    session_entry(r);
    for (unsigned i = 0; i < 4; i++)
        opened_as(r, i, 0, i == 3);
    accepted(r, 0, 1);
    accepted(r, 1, 1);
    received(r, 3, 1);
    struct entry *m = entry_at(r, ENTRY_MEMBER, 0, zero);
    m->u[0].membership = voters(1, 3, 0); /* {1, 2, 3} */
    assert_int_equal(submit(r, m), -ENODATA);
    accepted(r, 2, 1); /* a majority of the new ones without it: wrong rule 7 all the same */
    assert_int_equal(submit(r, m), -ENODATA);
    accepted(r, 3, 1);
    assert_int_equal(submit(r, m), 0);
}

/* ---- links that come and go ---- */

static void add_link(struct rig *r, uint32_t link, unsigned node, bool learner)
{
    step(r, (struct proposer_event){
                .type = PROPOSER_ADD_LINK, .link = link, .identity = node_id(node), .learner = learner});
}

static bool wants_link(const struct rig *r, unsigned node)
{
    struct uuid id = node_id(node);
    for (uint32_t i = 0; i < r->n; i++)
        if (r->effect[i].type == PROPOSER_WANT_LINK && uuid_equal(&r->effect[i].identity, &id))
            return true;
    return false;
}

/* The configuration names {0, 1, 2}; 3 has replaced 0 since. It is asked for, and counts like any other. */
static void test_a_voter_that_is_not_configured_is_asked_for(void **state)
{
    struct rig *r = *state;
    preparing(r);
    struct log_text t = {.n_runs = 1,
                         .run = {{other(1), 1, 4}},
                         .commit = pos(4, other(1)),
                         .n_memberships = 1,
                         .membership = {voters(1, 3, 4)}};
    promise(r, 1, &t);
    assert_true(wants_link(r, 3));
    assert_false(wants_link(r, 1));
    struct log_text old = {.n_runs = 1, .run = {{other(1), 1, 3}}, .commit = pos(3, other(1))};
    promise(r, 0, &old); /* a majority of the old ones is none any more */
    assert_int_equal(r->p.state, PROPOSER_PREPARING);
    add_link(r, 3, 3, false);
    up(r, 3);
    assert_non_null(sent(r, 3, MSG_PREPARE));
    promise(r, 3, &t);
    assert_int_equal(r->p.state, PROPOSER_RECOVERING);
    session_entry(r);
    assert_non_null(sent(r, 3, MSG_OPEN));
    opened(r, 1, 4);
    opened(r, 3, 4);
    accepted(r, 0, 5);
    accepted(r, 1, 5);
    assert_int_equal(r->p.state, PROPOSER_STARTING);
    accepted(r, 3, 5);
    assert_int_equal(r->p.state, PROPOSER_SERVING);
    /* Taken away, it is a voter that is away; its number may lead to somebody else. */
    step(r, (struct proposer_event){.type = PROPOSER_REMOVE_LINK, .link = 3});
    assert_true(wants_link(r, 3));
    add_link(r, 3, 4, true);
    assert_false(proposer_can_read(&r->p, r->now, &(uint64_t[1]){0}[0]));
    add_link(r, 4, 3, false);
    up(r, 4);
    assert_non_null(sent(r, 4, MSG_OPEN));
    assert_false(wants_link(r, 3));
}

/* The configuration names {0, 1, 2}; 0 was replaced by 3, and 1 is down: 2 and 3 are a majority. That 3 has to be asked for,
 * 2 tells when it is asked whether the group is free. */
static void test_a_query_tells_whom_to_ask(void **state)
{
    struct rig *r = *state;
    up(r, 2);
    step(r, (struct proposer_event){.type = PROPOSER_ATTACH});
    struct msg m = {.type = MSG_QUERY_ACK, .ballot.proposer = me()};
    m.u.holder.membership = voters(0, 2, 4); /* of somebody else: it is no word of a voter's */
    say(r, 2, m);
    assert_false(r->p.has_membership);
    m.u.holder.membership = voters(1, 3, 4);
    say(r, 2, m);
    assert_int_equal(r->p.state, PROPOSER_QUERYING);
    assert_true(wants_link(r, 3));
    assert_true(wants_link(r, 1) == false);
    add_link(r, 3, 3, false);
    up(r, 3);
    assert_non_null(sent(r, 3, MSG_QUERY));
    say(r, 3, m);
    assert_int_equal(r->p.state, PROPOSER_PREPARING);
    struct log_text t = {.n_runs = 1, .run = {{other(1), 1, 4}}, .commit = pos(4, other(1)), .n_memberships = 1, .membership = {voters(1, 3, 4)}};
    promise(r, 2, &t);
    promise(r, 3, &t);
    assert_int_equal(r->p.state, PROPOSER_RECOVERING);
}

/* Said again with each attempt: somebody may have written down where it is. */
static void test_a_missing_link_is_asked_for_again(void **state)
{
    struct rig *r = *state;
    preparing(r);
    struct log_text t = {.n_memberships = 1, .membership = {voters(1, 3, 0)}};
    promise(r, 1, &t);
    assert_true(wants_link(r, 3));
    tick(r, 1001 * MS);
    assert_int_equal(r->p.state, PROPOSER_WAITING);
    assert_false(wants_link(r, 3));
    tick(r, 2000 * MS);
    assert_int_equal(r->p.state, PROPOSER_QUERYING);
    assert_true(wants_link(r, 3));
}

/* A learner was made with whatever somebody took for the membership. Even complete it is not asked who votes, alone or
 * beside others. */
static void test_a_learner_says_nothing_of_memberships(void **state)
{
    struct rig *r = *state;
    preparing(r);
    add_link(r, 3, 3, true);
    up(r, 3);
    struct log_text t = {.n_memberships = 1, .membership = {voters(0, 2, 9)}, .n_runs = 1, .run = {{other(1), 1, 9}}};
    promise(r, 3, &t);
    assert_int_equal(r->p.state, PROPOSER_PREPARING);
    assert_false(r->p.has_membership);
    struct log_text v = {.n_runs = 1, .run = {{other(1), 1, 9}}};
    promise(r, 0, &v);
    promise(r, 1, &v);
    assert_int_equal(r->p.state, PROPOSER_RECOVERING);
    assert_int_equal(r->p.committed.slot, 0);
    assert_int_equal(r->p.committed.n_voters, 3);
    step(r, (struct proposer_event){.type = PROPOSER_DETACH});
}

/* Somebody who was voted out knows who votes now, and may be the only one that this front end knows. */
static void test_one_who_was_voted_out_tells_of_its_successors(void **state)
{
    struct rig *r = *state;
    preparing(r);
    struct msg m = answer(r, MSG_PROMISE);
    struct membership now = voters(3, 3, 7);
    struct run run = {other(1), 1, 7};
    m.u.promise.n_runs = 1;
    m.u.promise.runs = &run;
    m.u.promise.commit = pos(7, other(1));
    m.u.promise.n_memberships = 1;
    m.u.promise.memberships = &now;
    m.u.promise.retired = 1;
    say(r, 0, m);
    for (unsigned k = 3; k < 6; k++)
        assert_true(wants_link(r, k));
    assert_int_equal(r->p.committed.slot, 7);
    for (unsigned k = 3; k < 5; k++) {
        add_link(r, k, k, false);
        up(r, k);
        m.u.promise.retired = 0;
        m.ballot = r->p.ballot;
        say(r, k, m);
    }
    assert_int_equal(r->p.state, PROPOSER_RECOVERING);
    session_entry(r);
    assert_null(sent(r, 0, MSG_OPEN)); /* it is sent nothing */
    assert_non_null(sent(r, 3, MSG_OPEN));
}

/* The whole replacement of 0 by 3, as the front end that serves sees it. */
static void test_a_replacement(void **state)
{
    struct rig *r = *state;
    serving(r);
    const char *why;
    struct membership m = voters(1, 3, 0);
    assert_int_equal(proposer_may_change(&r->p, &m, &why), -ENOLINK);
    add_link(r, 3, 3, true);
    up(r, 3);
    assert_non_null(sent(r, 3, MSG_OPEN));
    assert_int_equal(proposer_may_change(&r->p, &m, &why), -ENOLINK);
    opened_as(r, 3, r->p.replica[3].opened.slot, true);
    received(r, 3, 1);
    assert_int_equal(proposer_may_change(&r->p, &m, &why), -ENODATA);
    struct entry *w = write_one(r);
    accepted(r, 3, 1); /* complete, and not yet at the end */
    assert_int_equal(proposer_may_change(&r->p, &m, &why), -EAGAIN);
    accepted(r, 1, w->slot);
    accepted(r, 3, w->slot); /* a majority of the new ones; 3 is no voter yet */
    assert_int_equal(r->p.chosen, 1);
    assert_int_equal(proposer_may_change(&r->p, &m, &why), -EAGAIN);
    accepted(r, 0, w->slot);
    assert_int_equal(r->p.chosen, w->slot);
    assert_int_equal(proposer_may_change(&r->p, &m, &why), 0);
    w = write_one(r);
    accepted(r, 1, w->slot);
    accepted(r, 2, w->slot); /* chosen, and a majority of the new ones holds it: without the one that comes in */
    assert_int_equal(proposer_may_change(&r->p, &m, &why), -EAGAIN);
    accepted(r, 3, w->slot);
    assert_int_equal(proposer_may_change(&r->p, &m, &why), 0);
    struct entry *e = entry_at(r, ENTRY_MEMBER, 0, zero);
    e->u[0].membership = m;
    assert_int_equal(submit(r, e), 0);
    assert_int_equal(proposer_may_change(&r->p, &m, &why), -EBUSY);
    accepted(r, 0, e->slot);
    accepted(r, 3, e->slot);
    assert_int_equal(r->p.chosen, w->slot); /* one of the old, one of the new */
    accepted(r, 1, e->slot);
    assert_int_equal(r->p.chosen, e->slot);
    assert_int_equal(r->p.committed.slot, e->slot);
    /* 0 learns of it and is sent nothing more; what it says of that it cannot unsay by being slow. */
    struct msg b = answer(r, MSG_BEAT_ACK);
    b.u.beat_ack.retired = 1;
    say(r, 0, b);
    w = write_one(r);
    assert_null(sent(r, 0, MSG_ACCEPT));
    accepted(r, 0, w->slot - 1);
    accepted(r, 3, w->slot);
    assert_int_equal(r->p.chosen, e->slot);
    accepted(r, 2, w->slot);
    assert_int_equal(r->p.chosen, w->slot);
    tick(r, 5000 * MS);
    assert_null(sent(r, 0, MSG_OPEN));
    step(r, (struct proposer_event){.type = PROPOSER_REMOVE_LINK, .link = 0});
    tick(r, BEAT);
    assert_null(sent(r, 0, MSG_BEAT));
}

/* Those that stay need not be those that chose the newest entries. */
static void test_those_that_stay_must_hold_everything(void **state)
{
    struct rig *r = *state;
    begin(r, 5);
    preparing(r);
    struct log_text t = {.n_memberships = 1, .membership = {voters(0, 5, 0)}};
    for (unsigned i = 0; i < 3; i++)
        promise(r, i, &t);
    session_entry(r);
    for (unsigned i = 0; i < 5; i++)
        opened(r, i, 0);
    for (unsigned i = 0; i < 3; i++)
        accepted(r, i, 1);
    assert_int_equal(r->p.state, PROPOSER_SERVING);
    struct membership m = voters(2, 3, 0);
    const char *why;
    assert_int_equal(proposer_may_change(&r->p, &m, &why), -EAGAIN); /* of {2, 3, 4} only 2 */
    assert_true(why[0] != 0);
    accepted(r, 3, 1);
    assert_int_equal(proposer_may_change(&r->p, &m, &why), 0);
}

/* Only an incomplete replica knows that slot 2 is committed, and it donates nothing. 0 has it and lost slot 1, 1 has slot 1:
 * neither can catch up from the other, so both pass through here. */
static void test_what_nobody_can_donate_passes_through_the_ring(void **state)
{
    struct rig *r = *state;
    preparing(r);
    promise(r, 2, &(struct log_text){.base = pos(2, other(1)), .commit = pos(2, other(1)), .needs_copy = 1});
    promise(r, 0, &(struct log_text){.n_runs = 1, .run = {{other(1), 1, 2}}, .n_lost = 1, .lost = {1}});
    promise(r, 1, &(struct log_text){.n_runs = 1, .run = {{other(1), 1, 1}}});
    assert_int_equal(r->p.state, PROPOSER_RECOVERING);
    assert_int_equal(r->p.floor, 0);
    assert_int_equal(r->p.chosen, 2);
    value(r, 1, 1, other(1), ENTRY_SESSION);
    value(r, 0, 2, other(1), ENTRY_WRITE);
    session_entry(r);
    assert_int_equal(r->p.state, PROPOSER_STARTING);
    assert_int_equal(sent(r, 0, MSG_OPEN)->msg.u.open.at.slot, 0); /* below what it lost */
    assert_int_equal(sent(r, 1, MSG_OPEN)->msg.u.open.at.slot, 1);
    opened(r, 0, 0);
    opened(r, 1, 1);
    assert_int_equal(sent(r, 1, MSG_ACCEPT)->msg.u.accept.entry->slot, 2);
    assert_int_equal(sent(r, 1, MSG_ACCEPT)->msg.u.accept.commit, 2);
    accepted(r, 0, 3);
    accepted(r, 1, 3);
    assert_int_equal(r->p.state, PROPOSER_SERVING);
    /* Where a quorum holds it all, or a complete one knows, catch-up is as good. */
    step(r, (struct proposer_event){.type = PROPOSER_DETACH});
    begin(r, N);
    preparing(r);
    promise(r, 0, &(struct log_text){.n_runs = 1, .run = {{other(1), 1, 2}}, .commit = pos(2, other(1))});
    promise(r, 1, &(struct log_text){.n_runs = 1, .run = {{other(1), 1, 1}}});
    assert_int_equal(r->p.floor, 2);
}

/* Three to five and back, one at a time. */
static void test_growing_and_shrinking(void **state)
{
    struct rig *r = *state;
    serving(r);
    uint64_t slot = 1;
    static const unsigned sizes[] = {4, 5, 4, 3};
    for (unsigned k = 0; k < 4; k++) {
        unsigned n = sizes[k], more = n > (k ? sizes[k - 1] : 3);
        if (more) {
            add_link(r, n - 1, n - 1, true);
            up(r, n - 1);
            opened(r, n - 1, slot);
            accepted(r, n - 1, slot);
        }
        struct entry *e = entry_at(r, ENTRY_MEMBER, 0, zero);
        e->u[0].membership = voters(0, n, 0);
        assert_int_equal(submit(r, e), 0);
        /* As many as the larger of the two needs. */
        unsigned need = (more ? n : n + 1) / 2 + 1;
        for (unsigned i = 0; i < need; i++) {
            assert_int_equal(r->p.chosen, slot);
            accepted(r, i, e->slot);
        }
        slot = e->slot;
        assert_int_equal(r->p.chosen, slot);
        for (unsigned i = need; i < r->p.params.n_replicas; i++)
            accepted(r, i, slot);
    }
    assert_int_equal(r->p.committed.n_voters, 3);
}

/* ---- P9: memberships ---- */

/* Wrong rules 6, 7 and 13: from proposing it on, both memberships have to agree, on writes and on leases, and the new
 * voters must hold everything. */
static void test_proposing_a_membership(void **state)
{
    struct rig *r = *state;
    begin(r, 5);
    preparing(r);
    promise(r, 0, &(struct log_text){.lease_ns = LEASE});
    promise(r, 1, &(struct log_text){.lease_ns = LEASE});
    session_entry(r);
    for (unsigned i = 0; i < 5; i++)
        opened(r, i, 0);
    accepted(r, 0, 1);
    accepted(r, 1, 1);
    assert_int_equal(r->p.state, PROPOSER_SERVING);
    uint64_t watermark;
    assert_true(proposer_can_read(&r->p, r->now, &watermark));
    struct entry *m = entry_at(r, ENTRY_MEMBER, 0, zero);
    m->u[0].membership = voters(2, 3, 0);
    assert_int_equal(submit(r, m), -EAGAIN); /* the new ones hold nothing yet */
    accepted(r, 3, 1);
    assert_int_equal(submit(r, m), -EAGAIN);
    accepted(r, 4, 1);
    struct entry *w = write_one(r);
    assert_int_equal(submit(r, m), -EAGAIN); /* not drained */
    accepted(r, 0, w->slot);
    accepted(r, 1, w->slot);
    assert_int_equal(submit(r, m), -EAGAIN); /* and now they do not hold that */
    accepted(r, 3, w->slot);
    accepted(r, 4, w->slot);
    assert_int_equal(submit(r, m), 0);
    assert_false(proposer_can_read(&r->p, r->now, &watermark)); /* joint leases */
    struct entry *again = entry_at(r, ENTRY_MEMBER, 0, zero);
    again->u[0].membership = voters(0, 3, 0);
    assert_int_equal(submit(r, again), -EBUSY);
    accepted(r, 0, m->slot);
    accepted(r, 1, m->slot);
    assert_int_equal(r->p.chosen, w->slot); /* the old majority alone */
    accepted(r, 3, m->slot);
    assert_int_equal(r->p.chosen, w->slot);
    accepted(r, 4, m->slot);
    assert_int_equal(r->p.chosen, m->slot);
    assert_int_equal(r->p.committed.slot, m->slot);
    beat_ack(r, 3, r->now, LEASE, 1);
    assert_false(proposer_can_read(&r->p, r->now, &watermark)); /* those of the old ones are of no use any more */
    beat_ack(r, 4, r->now, LEASE, 1);
    assert_true(proposer_can_read(&r->p, r->now, &watermark));
    struct entry *s = entry_at(r, ENTRY_SESSION, 0, zero);
    assert_int_equal(submit(r, s), -EINVAL);
    /* Back again; this time the new ones are the quicker. */
    accepted(r, 2, m->slot);
    assert_int_equal(submit(r, again), 0);
    accepted(r, 0, again->slot);
    accepted(r, 1, again->slot);
    assert_int_equal(r->p.chosen, m->slot);
    accepted(r, 2, again->slot);
    assert_int_equal(r->p.chosen, m->slot);
    accepted(r, 3, again->slot);
    assert_int_equal(r->p.chosen, again->slot);
}

/* ---- P10: space ---- */

static void test_slots_within_the_space_of_a_majority(void **state)
{
    struct rig *r = *state;
    serving(r);
    accepted_with(r, 0, 1, (struct credits){.slabs = 2, .slot_limit = 100});
    accepted_with(r, 1, 1, (struct credits){.slabs = 2, .slot_limit = 100});
    accepted_with(r, 2, 1, (struct credits){.slabs = 0, .slot_limit = 100});
    struct entry *e = entry_at(r, ENTRY_WRITE, 0, zero);
    e->block = 15; /* two slabs: it lies across a border */
    e->nblocks = 2;
    assert_int_equal(submit(r, e), 0);
    struct entry *f = entry_at(r, ENTRY_WRITE, 0, zero);
    assert_int_equal(submit(r, f), -EAGAIN); /* what is under way may need it all */
    struct entry *t = entry_at(r, ENTRY_TRIM, 0, zero);
    t->nblocks = 100;
    assert_int_equal(submit(r, t), 0); /* asks for none */
    accepted_with(r, 0, 3, (struct credits){.slabs = 0, .slot_limit = 100, .growing = 1});
    accepted_with(r, 1, 3, (struct credits){.slabs = 1, .slot_limit = 100});
    assert_int_equal(submit(r, f), -EAGAIN); /* one is growing */
    accepted_with(r, 0, 3, (struct credits){.slabs = 0, .slot_limit = 100});
    assert_int_equal(submit(r, f), -ENOSPC);
    accepted_with(r, 0, 3, (struct credits){.slabs = 1, .slot_limit = 3});
    assert_int_equal(submit(r, f), -EAGAIN); /* space, but no room in the log: a checkpoint brings it */
    accepted_with(r, 0, 3, (struct credits){.slabs = 1, .slot_limit = 4});
    assert_int_equal(submit(r, f), 0);
}

static void test_half_the_ring_may_be_under_way(void **state)
{
    struct rig *r = *state;
    serving(r);
    unsigned n = 0;
    struct entry *e;
    for (;;) {
        e = entry_at(r, ENTRY_WRITE, 0, zero);
        int rc = submit(r, e);
        if (rc != 0) {
            assert_int_equal(rc, -EAGAIN);
            break;
        }
        n++;
    }
    assert_int_equal(n, RING / 2);
    assert_int_equal(n_sent(r, MSG_ACCEPT), 0);
    accepted(r, 0, 4);
    accepted(r, 1, 4);
    assert_int_equal(submit(r, e), 0);
    down(r, 0);
    down(r, 1);
    up(r, 0);
    opened(r, 0, 4);
    assert_int_equal(n_sent(r, MSG_ACCEPT), r->p.next - 5);
}

/* Large ones are bounded by bytes: what is not chosen cannot leave the replicas' logs. */
static void test_bytes_under_way_are_bounded(void **state)
{
    struct rig *r = *state;
    serving(r);
    for (int k = 0;; k++) {
        struct entry *e = entry_at(r, ENTRY_WRITE, 0, zero);
        e->nblocks = ENTRY_MAX_BLOCKS;
        int rc = submit(r, e);
        if (rc == 0)
            continue;
        assert_int_equal(rc, -EAGAIN);
        assert_int_equal(k, 15); /* with what an entry costs beyond its payload, 16 would be too many */
        accepted(r, 0, 2);
        accepted(r, 1, 2);
        assert_int_equal(submit(r, e), 0);
        break;
    }
}

/* ---- what is kept ---- */

static void test_chosen_entries_wait_for_a_replica_that_is_away(void **state)
{
    struct rig *r = *state;
    serving(r);
    down(r, 2);
    for (int i = 0; i < 4; i++) {
        struct entry *e = write_one(r);
        accepted(r, 0, e->slot);
        accepted(r, 1, e->slot);
    }
    assert_int_equal(r->p.floor, 1);
    up(r, 2);
    opened(r, 2, 1);
    assert_int_equal(n_sent(r, MSG_ACCEPT), 4);
    accepted(r, 2, 5);
    assert_int_equal(r->p.floor, 5);
    assert_int_equal(r->p.retained_bytes, 0);
}

static void test_a_replica_too_far_behind_is_cut_off(void **state)
{
    struct rig *r = *state;
    r->params.retain_bytes = 40000; /* eight entries of one block and their bookkeeping */
    proposer_init(&r->p, &r->params);
    serving(r);
    bool cut = false;
    for (int i = 0; i < 20; i++) {
        struct entry *e = write_one(r);
        cut |= find(r, PROPOSER_DISCONNECT) != NULL;
        accepted(r, 0, e->slot);
        cut |= find(r, PROPOSER_DISCONNECT) != NULL;
        accepted(r, 1, e->slot);
        cut |= find(r, PROPOSER_DISCONNECT) != NULL;
        assert_int_equal(cut, i >= 8);
        assert_true(r->p.retained_bytes <= r->params.retain_bytes);
    }
    assert_int_equal(r->p.replica[2].stream, STREAM_DOWN);
    assert_int_equal(r->p.chosen, 21);
    accepted(r, 2, 20); /* from a link that is given up */
    assert_int_equal(r->p.replica[2].acked, 1);
    down(r, 2);
    up(r, 2);
    assert_true(sent(r, 2, MSG_OPEN)->msg.u.open.at.slot >= r->p.floor);
    mismatch(r, 2, &(struct log_text){.n_runs = 1, .run = {{mine(1), 1, 2}}, .commit = pos(1, mine(1))});
    assert_int_equal(r->p.replica[2].stream, STREAM_BEHIND);
}

static void test_nothing_unchosen_is_forgotten(void **state)
{
    struct rig *r = *state;
    r->params.retain_bytes = 10000;
    proposer_init(&r->p, &r->params);
    serving(r);
    for (int i = 0; i < 10; i++) {
        struct entry *e = write_one(r);
        assert_null(find(r, PROPOSER_DISCONNECT));
        accepted(r, 0, e->slot); /* one of three */
        assert_null(find(r, PROPOSER_DISCONNECT));
    }
    assert_int_equal(r->p.floor, 1);
    accepted(r, 1, 11);
    assert_int_equal(r->p.chosen, 11);
}

static void test_opened_too_late(void **state)
{
    struct rig *r = *state;
    r->params.retain_bytes = 10000;
    proposer_init(&r->p, &r->params);
    serving(r);
    down(r, 2);
    up(r, 2); /* OPEN at 1 is under way */
    for (int i = 0; i < 10; i++) {
        struct entry *e = write_one(r);
        accepted(r, 0, e->slot);
        accepted(r, 1, e->slot);
    }
    assert_true(r->p.floor > 1);
    opened(r, 2, 1);
    assert_int_equal(n_sent(r, MSG_ACCEPT), 0);
    assert_true(sent(r, 2, MSG_OPEN)->msg.u.open.at.slot >=
                r->p.floor); /* ends what the replica believes to be a stream */
}

static void test_detach(void **state)
{
    struct rig *r = *state;
    serving(r);
    write_one(r);
    step(r, (struct proposer_event){.type = PROPOSER_DETACH});
    assert_int_equal(n_sent(r, MSG_RELEASE), 3);
    assert_int_equal(r->p.state, PROPOSER_IDLE);
    assert_int_equal(total_refs(r), 0);
    tick(r, 1000 * MS);
    assert_int_equal(r->n, 0);
    step(r, (struct proposer_event){.type = PROPOSER_ATTACH});
    assert_int_equal(n_sent(r, MSG_QUERY), 3);
}

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

static void test_a_start_that_gets_stuck_is_tried_anew(void **state)
{
    struct rig *r = *state;
    preparing(r);
    promise(r, 0, &(struct log_text){0});
    promise(r, 1, &(struct log_text){0});
    session_entry(r);
    opened(r, 0, 0);
    down(r, 1);
    down(r, 2);
    tick(r, 1500 * MS);
    assert_int_equal(r->p.state, PROPOSER_STARTING); /* no majority: a new ballot would not help */
    up(r, 1);
    tick(r, 1500 * MS);
    assert_int_equal(r->p.state, PROPOSER_WAITING);
    assert_int_equal(r->p.chosen, 0);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_a_healthy_holder_is_not_disturbed),
        T(test_no_majority_to_ask),
        T(test_one_leftover_lease_does_not_stop_a_majority),
        T(test_losers_release_and_back_off),
        T(test_two_refusals_by_lease_end_the_attempt),
        T(test_an_attempt_without_answers_ends),
        T(test_best_log_by_ballot_then_length),
        T(test_needs_copy_is_no_vote),
        T(test_an_incomplete_replica_is_sent_everything_and_counts_for_nothing),
        T(test_what_was_acknowledged_before_needing_a_copy_does_not_count),
        T(test_the_lease_of_an_incomplete_replica_does_not_count),
        T(test_an_incomplete_replica_gives_no_credit),
        T(test_an_incomplete_replica_is_no_holder_for_a_membership),
        T(test_a_voter_that_is_not_configured_is_asked_for),
        T(test_a_query_tells_whom_to_ask),
        T(test_a_missing_link_is_asked_for_again),
        T(test_a_learner_says_nothing_of_memberships),
        T(test_one_who_was_voted_out_tells_of_its_successors),
        T(test_a_replacement),
        T(test_growing_and_shrinking),
        T(test_those_that_stay_must_hold_everything),
        T(test_what_nobody_can_donate_passes_through_the_ring),
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
        T(test_a_replica_below_the_ring_catches_up_first),
        T(test_mismatch_finds_the_place),
        T(test_refused_at_the_matching_place),
        T(test_nack_of_an_unknown_stream_opens_it_again),
        T(test_a_full_replica_is_asked_for_a_stream_now_and_then),
        T(test_chosen_needs_the_own_session_start),
        T(test_answers_of_another_ballot_never_count),
        T(test_entries_carry_the_commit),
        T(test_own_writes_found_and_not_found),
        T(test_a_place_that_comes_back),
        T(test_fenced_by_a_foreign_session_start),
        T(test_fenced_by_a_foreign_base),
        T(test_leases_count_from_the_send_time),
        T(test_no_reads_without_serving),
        T(test_leases_off),
        T(test_proposing_a_membership),
        T(test_slots_within_the_space_of_a_majority),
        T(test_half_the_ring_may_be_under_way),
        T(test_bytes_under_way_are_bounded),
        T(test_chosen_entries_wait_for_a_replica_that_is_away),
        T(test_a_replica_too_far_behind_is_cut_off),
        T(test_nothing_unchosen_is_forgotten),
        T(test_opened_too_late),
        T(test_detach),
        T(test_a_tail_longer_than_the_ring),
        T(test_a_start_that_gets_stuck_is_tried_anew),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
