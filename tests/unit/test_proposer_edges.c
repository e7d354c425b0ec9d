/* The proposer at the edges of its rules: answers that nobody asked for or that can't be, memberships known in part,
 * tails that can't be held. Rule by rule: the other test_proposer_*.c. */
#include "tests/unit/proposer_rig.h"

/* ---- links and messages ---- */

static void links_that_are_not_there_say_nothing(void **state)
{
    struct rig *r = *state;
    up(r, 0);
    up(r, 0);
    up(r, N);
    up(r, UINT32_MAX);
    down(r, 1);
    down(r, N);
    down(r, UINT32_MAX);
    step(r, (struct proposer_event){.type = PROPOSER_ATTACH});
    assert_int_equal(n_sent(r, MSG_QUERY), 1);
    step(r, (struct proposer_event){.type = PROPOSER_ATTACH}); /* once is enough */
    assert_int_equal(r->n, 0);
    query_ack(r, 1, NULL, 0, zero); /* its link is down */
    query_ack(r, N, NULL, 0, zero);
    assert_int_equal(r->p.state, PROPOSER_QUERYING);
    assert_false(r->p.replica[1].answered_query);
}

static void answers_about_something_else_are_no_answers(void **state)
{
    struct rig *r = *state;
    for (unsigned i = 0; i < N; i++)
        up(r, i);
    step(r, (struct proposer_event){.type = PROPOSER_ATTACH});
    struct msg m = {.type = MSG_QUERY_ACK, .ballot = other(0)};
    for (unsigned i = 0; i < N; i++)
        say(r, i, m); /* to another's query */
    m.ballot.proposer = me();
    m.u.holder.unknown = 1;
    for (unsigned i = 0; i < N; i++)
        say(r, i, m); /* no such group there: that is not "free" */
    m.u.holder.unknown = 0;
    m.group = GROUP + 1;
    for (unsigned i = 0; i < N; i++)
        step(r, (struct proposer_event){.type = PROPOSER_MSG, .link = i, .msg = &m});
    assert_int_equal(r->p.state, PROPOSER_QUERYING);
    assert_int_equal(n_sent(r, MSG_PREPARE), 0);
    query_ack(r, 0, NULL, 0, zero);
    query_ack(r, 1, NULL, 0, zero);
    assert_int_equal(r->p.state, PROPOSER_PREPARING);
    /* Nothing was opened yet: answers to that are ignored, whoever made them up. */
    opened(r, 0, 0);
    mismatch(r, 0, &(struct log_text){0});
    accepted(r, 0, 5);
    say(r, 0, answer(r, MSG_DATA));
    assert_int_equal(r->n, 0);
    assert_int_equal(r->p.replica[0].acked, 0);
}

/* A round that nothing could outbid would shut the group for ever. */
static void rounds_beyond_all_bounds_are_damage(void **state)
{
    struct rig *r = *state;
    for (unsigned i = 0; i < N; i++)
        up(r, i);
    step(r, (struct proposer_event){.type = PROPOSER_ATTACH});
    query_ack(r, 0, NULL, 0, other(PAXOS_ROUND_MAX + 1));
    assert_int_equal(find(r, PROPOSER_DISCONNECT)->link, 0);
    query_ack(r, 1, NULL, 0, zero);
    query_ack(r, 2, NULL, 0, zero);
    assert_int_equal(r->p.ballot.round, 1);
    nack(r, 1, NULL, 0, other(UINT64_MAX));
    assert_int_equal(find(r, PROPOSER_DISCONNECT)->link, 1);
    assert_int_equal(r->p.state, PROPOSER_PREPARING);
    assert_int_equal(r->p.max_round, 1);
}

static void an_unknown_group_is_asked_again_later(void **state)
{
    struct rig *r = *state;
    serving(r);
    down(r, 2);
    up(r, 2);
    assert_non_null(sent(r, 2, MSG_OPEN));
    struct msg m = answer(r, MSG_NACK);
    m.u.holder.unknown = 1;
    say(r, 2, m); /* a new disk, whose group is not made yet */
    assert_int_equal(r->p.replica[2].stream, STREAM_IDLE);
    say(r, 2, m);
    assert_int_equal(r->p.state, PROPOSER_SERVING);
    tick(r, 500 * MS);
    assert_null(sent(r, 2, MSG_OPEN));
    tick(r, 500 * MS);
    assert_non_null(sent(r, 2, MSG_OPEN));
}

static void a_promise_counts_once_and_a_late_refusal_not_at_all(void **state)
{
    struct rig *r = *state;
    preparing(r);
    struct log_text t = {.n_runs = 1, .run = {{other(1), 1, 3}}, .commit = pos(3, other(1))};
    promise(r, 0, &t);
    promise(r, 0, &(struct log_text){.n_runs = 1, .run = {{other(2), 1, 9}}});
    assert_int_equal(paxos_log_last(&r->p.replica[0].log).slot, 3);
    assert_int_equal(r->p.state, PROPOSER_PREPARING);
    struct uuid them = other(1).proposer;
    nack(r, 0, &them, 300 * MS, zero); /* overtaken by its own promise */
    assert_false(r->p.replica[0].refused);
    promise(r, 1, &t);
    assert_int_equal(r->p.state, PROPOSER_RECOVERING);
}

static void opened_elsewhere_or_twice_is_not_opened(void **state)
{
    struct rig *r = *state;
    preparing(r);
    promise(r, 0, &(struct log_text){0});
    promise(r, 1, &(struct log_text){0});
    session_entry(r);
    opened(r, 0, 1);
    assert_int_equal(r->p.replica[0].stream, STREAM_OPENING);
    opened(r, 0, 0);
    assert_int_equal(n_sent(r, MSG_ACCEPT), 1);
    opened(r, 0, 0);
    assert_int_equal(r->n, 0);
    mismatch(r, 0, &(struct log_text){0}); /* as late */
    assert_int_equal(r->p.replica[0].stream, STREAM_OPEN);
    /* A Mismatch whose log can't be one. */
    mismatch(r, 1, &(struct log_text){.n_runs = 1, .run = {{other(1), 7, 3}}});
    assert_int_equal(find(r, PROPOSER_DISCONNECT)->link, 1);
    assert_int_equal(r->p.replica[1].stream, STREAM_DOWN);
    down(r, 1);
    up(r, 1);
    mismatch(r, 1, &(struct log_text){.base = pos(UINT64_MAX - 1, other(1)), .commit = pos(UINT64_MAX - 1, other(1))});
    assert_int_equal(find(r, PROPOSER_DISCONNECT)->link, 1);
}

/* Committed there is not what stands here: whatever happened to it, no stream can begin. */
static void a_replica_that_committed_something_else_is_left_alone(void **state)
{
    struct rig *r = *state;
    serving(r);
    down(r, 2);
    up(r, 2);
    mismatch(r, 2, &(struct log_text){.n_runs = 2, .run = {{mine(1), 1, 1}, {other(7), 2, 2}}, .commit = pos(2, other(7))});
    assert_int_equal(r->p.replica[2].stream, STREAM_BEHIND);
    assert_int_equal(n_sent(r, MSG_OPEN), 0);
}

static void a_commit_from_beyond_the_log_is_not_opened_at(void **state)
{
    struct rig *r = *state;
    serving(r);
    beat_ack(r, 2, r->now, 0, 50);
    down(r, 2);
    up(r, 2);
    assert_int_equal(sent(r, 2, MSG_OPEN)->msg.u.open.at.slot, 1);
}

/* ---- the session entry ---- */

static void session_entries_that_nobody_needs_are_given_back(void **state)
{
    struct rig *r = *state;
    step(r, (struct proposer_event){.type = PROPOSER_SESSION_ENTRY});
    assert_int_equal(r->n, 0); /* the driver had no memory for it */
    session_entry(r);          /* not attached */
    assert_non_null(find(r, PROPOSER_FORGET));
    step(r, (struct proposer_event){.type = PROPOSER_ATTACH});
    struct entry *w = entry_at(r, ENTRY_WRITE, 0, zero);
    ++*refs_of(r, w);
    step(r, (struct proposer_event){.type = PROPOSER_SESSION_ENTRY, .entry = w});
    assert_non_null(find(r, PROPOSER_FORGET));
    session_entry(r); /* before it is asked for: kept */
    assert_null(find(r, PROPOSER_FORGET));
    session_entry(r);
    assert_non_null(find(r, PROPOSER_FORGET)); /* one too many */
    for (unsigned i = 0; i < N; i++)
        up(r, i);
    query_ack(r, 0, NULL, 0, zero);
    query_ack(r, 1, NULL, 0, zero);
    promise(r, 0, &(struct log_text){0});
    promise(r, 1, &(struct log_text){0});
    assert_int_equal(r->p.state, PROPOSER_STARTING); /* nobody had to be asked */
    step(r, (struct proposer_event){.type = PROPOSER_DETACH});

    begin(r, N);
    for (unsigned i = 0; i < N; i++)
        up(r, i);
    step(r, (struct proposer_event){.type = PROPOSER_ATTACH});
    session_entry(r);
    step(r, (struct proposer_event){.type = PROPOSER_DETACH});
    assert_non_null(find(r, PROPOSER_FORGET));
    assert_int_equal(r->p.state, PROPOSER_IDLE);
}

/* ---- memberships ---- */

static void promises_with_impossible_memberships_are_no_promises(void **state)
{
    struct rig *r = *state;
    preparing(r);
    for (unsigned i = 0; i < 4; i++) {
        struct membership m[3] = {voters(0, N, 0), voters(0, N, 2), voters(0, N, 3)};
        if (i == 2)
            m[0].n_voters = 0;
        if (i == 3)
            m[1].n_voters = MEMBERS_MAX + 1;
        struct msg p = answer(r, MSG_PROMISE);
        p.u.promise.n_memberships = i == 0 ? 0 : i == 1 ? 3 : 2;
        p.u.promise.memberships = m;
        say(r, 0, p);
        assert_non_null(find(r, PROPOSER_DISCONNECT));
        assert_false(r->p.replica[0].has_promised);
        down(r, 0);
        up(r, 0);
    }
}

static void other_voters_in_the_same_slot_are_a_conflict(void **state)
{
    struct rig *r = *state;
    begin(r, 4);
    preparing(r);
    promise(r, 0, &(struct log_text){0});
    promise(r, 1, &(struct log_text){.n_memberships = 1, .membership = {voters(1, 3, 0)}}); /* as many, and not the same */
    assert_int_equal(r->p.state, PROPOSER_WAITING);
    assert_false(r->p.has_membership); /* either may be the wrong one */
}

/* A voter whose link is not configured counts as one that never answers. */
static void a_voter_that_is_not_configured_may_be_missing(void **state)
{
    struct rig *r = *state;
    begin(r, 2);
    preparing(r);
    struct log_text lost = {.n_runs = 1, .run = {{other(1), 1, 2}}, .commit = pos(1, other(1)), .n_lost = 1, .lost = {2}};
    struct log_text shorter = {.n_runs = 1, .run = {{other(1), 1, 1}}, .commit = pos(1, other(1))};
    promise(r, 0, &lost);
    promise(r, 1, &shorter);
    assert_int_equal(r->p.state, PROPOSER_RECOVERING);
    assert_int_equal(r->p.next, 3); /* slot 2 may be chosen: the third voter may hold it */
    assert_null(find(r, PROPOSER_WANT_SESSION_ENTRY));
}

/* What one replica lists as uncommitted, another one's commit makes committed. */
static void a_listed_membership_below_w_is_the_committed_one(void **state)
{
    struct rig *r = *state;
    begin(r, 4);
    preparing(r);
    struct log_text lists = {.n_runs = 1,
                             .run = {{other(1), 1, 4}},
                             .commit = pos(1, other(1)),
                             .n_memberships = 2,
                             .membership = {voters(0, 3, 0), voters(1, 3, 2)}};
    struct log_text knows = {.n_runs = 1, .run = {{other(1), 1, 4}}, .commit = pos(3, other(1))};
    promise(r, 1, &lists);
    promise(r, 2, &knows);
    assert_false(r->p.has_uncommitted);
    assert_int_equal(r->p.committed.slot, 2);
    assert_true(membership_has_voter(&r->p.committed, &(struct uuid[1]){node_id(3)}[0]));
    assert_int_equal(r->p.state, PROPOSER_RECOVERING);
}

/* Two of them in one log, in either order of hearing: the first is committed, for the second was proposed only then. */
static void of_two_listed_memberships_the_first_is_committed(void **state)
{
    struct rig *r = *state;
    for (unsigned first = 0; first < 2; first++) {
        begin(r, 4);
        preparing(r);
        struct log_text t[2];
        for (unsigned i = 0; i < 2; i++)
            t[i] = (struct log_text){.n_runs = 1,
                                     .run = {{other(1), 1, 4}},
                                     .commit = pos(1, other(1)),
                                     .n_memberships = 2,
                                     .membership = {voters(0, 3, 0), i ? voters(0, 4, 4) : voters(1, 3, 2)}};
        promise(r, 1, &t[first]);
        promise(r, 2, &t[!first]);
        assert_int_equal(r->p.committed.slot, 2);
        assert_true(r->p.has_uncommitted);
        assert_int_equal(r->p.uncommitted.slot, 4);
        assert_int_equal(r->p.uncommitted.n_voters, 4);
    }
}

static void a_membership_of_another_log_is_not_adopted(void **state)
{
    struct rig *r = *state;
    preparing(r);
    struct log_text lists = {.n_runs = 1,
                             .run = {{other(1), 1, 2}},
                             .commit = pos(1, other(1)),
                             .n_memberships = 2,
                             .membership = {voters(0, 3, 0), voters(1, 3, 2)}};
    struct log_text best = {.n_runs = 2, .run = {{other(1), 1, 1}, {other(2), 2, 2}}, .commit = pos(1, other(1))};
    promise(r, 0, &lists);
    promise(r, 1, &best);
    assert_false(r->p.has_uncommitted); /* slot 2 of the chosen log is something else */
    assert_int_equal(r->p.state, PROPOSER_RECOVERING);
}

/* Cut with the tail that nobody can give and nobody chose. */
static void a_membership_in_a_lost_tail_goes_with_it(void **state)
{
    struct rig *r = *state;
    preparing(r);
    struct log_text lost = {.n_runs = 1,
                            .run = {{other(1), 1, 3}},
                            .commit = pos(1, other(1)),
                            .n_lost = 1,
                            .lost = {2},
                            .n_memberships = 2,
                            .membership = {voters(0, 3, 0), voters(0, 2, 3)}};
    struct log_text shorter = {.n_runs = 1, .run = {{other(1), 1, 1}}, .commit = pos(1, other(1))};
    promise(r, 0, &lost);
    promise(r, 1, &shorter);
    assert_true(r->p.has_uncommitted);
    promise(r, 2, &shorter);
    assert_int_equal(r->p.next, 2);
    assert_false(r->p.has_uncommitted);
}

static struct entry *member_of(struct rig *r, const struct membership *m)
{
    struct entry *e = entry_at(r, ENTRY_MEMBER, 0, zero);
    e->u[0].membership = *m;
    return e;
}

static void impossible_memberships_are_not_proposed(void **state)
{
    struct rig *r = *state;
    serving(r);
    struct membership m = voters(0, N, 0), bad[5] = {m, m, m, m, m};
    bad[0].n_voters = 0;
    bad[1].n_voters = MEMBERS_MAX + 1;
    bad[2].n_learners = MEMBERS_MAX + 1;
    bad[3].voter[2] = bad[3].voter[0]; /* two votes for one */
    memset(&bad[4].voter[1], 0, sizeof bad[4].voter[1]);
    for (unsigned i = 0; i < 5; i++)
        assert_int_equal(submit(r, member_of(r, &bad[i])), -EINVAL);
    m.n_voters = 2;
    assert_int_equal(submit(r, member_of(r, &m)), 0);
    assert_int_equal(submit(r, member_of(r, &m)), -EBUSY); /* one at a time */
    assert_true(r->p.has_uncommitted);
    accepted(r, 0, 2);
    assert_true(r->p.has_uncommitted);
    accepted(r, 1, 2);
    assert_false(r->p.has_uncommitted);
}

static void a_membership_below_a_lost_tail_stays(void **state)
{
    struct rig *r = *state;
    preparing(r);
    struct log_text lost = {.n_runs = 1,
                            .run = {{other(1), 1, 3}},
                            .commit = pos(1, other(1)),
                            .n_lost = 1,
                            .lost = {3},
                            .n_memberships = 2,
                            .membership = {voters(0, 3, 0), voters(0, 2, 2)}};
    struct log_text shorter = {.n_runs = 1, .run = {{other(1), 1, 2}}, .commit = pos(1, other(1))};
    promise(r, 0, &lost);
    promise(r, 1, &shorter);
    promise(r, 2, &shorter);
    assert_int_equal(r->p.next, 3);
    assert_true(r->p.has_uncommitted);
    assert_int_equal(r->p.uncommitted.slot, 2);
}

/* Listed, though its log does not reach there: of a tail that was cut meanwhile. */
static void a_membership_beyond_its_own_log_is_not_adopted(void **state)
{
    struct rig *r = *state;
    preparing(r);
    struct log_text t = {.n_runs = 1,
                         .run = {{other(1), 1, 2}},
                         .commit = pos(1, other(1)),
                         .n_memberships = 2,
                         .membership = {voters(0, 3, 0), voters(0, 2, 9)}};
    promise(r, 0, &t);
    promise(r, 1, &t);
    assert_false(r->p.has_uncommitted);
}

static void memberships_told_by_values_take_their_place_in_the_order(void **state)
{
    struct rig *r = *state;
    begin(r, 4);
    preparing(r);
    /* Slot 2's is committed already, says a replica that has not heard of slot 2's commit otherwise. */
    struct log_text known = {
        .n_runs = 1, .run = {{other(1), 1, 2}}, .commit = pos(1, other(1)), .n_memberships = 1, .membership = {voters(1, 3, 2)}};
    promise(r, 1, &known);
    promise(r, 2, &known);
    value(r, sent(r, 1, MSG_FETCH) ? 1 : 2, 2, other(1), ENTRY_MEMBER);
    assert_false(r->p.has_uncommitted);
    assert_int_equal(r->p.committed.slot, 2);
    step(r, (struct proposer_event){.type = PROPOSER_DETACH});

    /* Slot 3's is listed; that slot 2 holds one as well shows its value only. */
    begin(r, 4);
    preparing(r);
    struct log_text lists = {.n_runs = 1,
                             .run = {{other(1), 1, 3}},
                             .commit = pos(1, other(1)),
                             .n_memberships = 2,
                             .membership = {voters(0, 3, 0), voters(0, 4, 3)}};
    promise(r, 1, &lists);
    promise(r, 2, &lists);
    assert_int_equal(r->p.state, PROPOSER_PREPARING); /* {1, 2} are two of four */
    promise(r, 3, &lists);
    assert_int_equal(r->p.state, PROPOSER_RECOVERING);
    for (unsigned i = 1; i < 4; i++)
        value(r, i, 2, other(1), ENTRY_MEMBER);
    assert_int_equal(r->p.committed.slot, 2);
    assert_int_equal(r->p.uncommitted.slot, 3);
}

static void a_group_with_a_voter_that_is_not_configured_serves(void **state)
{
    struct rig *r = *state;
    begin(r, 2);
    preparing(r);
    promise(r, 0, &(struct log_text){.lease_ns = LEASE});
    promise(r, 1, &(struct log_text){.lease_ns = LEASE});
    session_entry(r);
    opened(r, 0, 0);
    opened(r, 1, 0);
    accepted(r, 0, 1);
    assert_int_equal(r->p.state, PROPOSER_STARTING);
    accepted(r, 1, 1);
    assert_int_equal(r->p.state, PROPOSER_SERVING);
}

/* ---- own writes of a lost ballot (P7) ---- */

/* Slots 1..3 are chosen, 4..6 own writes under way; a new ballot's Prepares are out. */
static void lost_ballot(struct rig *r)
{
    serving(r);
    for (int i = 0; i < 5; i++)
        write_one(r);
    accepted(r, 0, 3);
    accepted(r, 1, 3);
    nack(r, 2, NULL, 0, other(7));
    tick(r, 100 * MS);
    query_ack(r, 0, NULL, 0, other(7));
    query_ack(r, 1, NULL, 0, other(7));
    assert_int_equal(r->p.ballot.round, 8);
}

static void own_writes_that_others_know_to_be_chosen_are_done(void **state)
{
    struct rig *r = *state;
    lost_ballot(r);
    struct log_text t = {.n_runs = 1, .run = {{mine(1), 1, 6}}, .commit = pos(5, mine(1))};
    promise(r, 0, &t);
    promise(r, 1, &t);
    promise(r, 2, &t); /* chosen anew with each answer: the same */
    assert_int_equal(r->p.floor, 5);
    session_entry(r);
    assert_int_equal(r->p.session_slot, 7);
    for (unsigned i = 0; i < 2; i++) {
        opened(r, i, 5);
        accepted(r, i, 7);
    }
    assert_int_equal(r->p.state, PROPOSER_SERVING);
    assert_null(find(r, PROPOSER_UNPLACED));
    assert_int_equal(find(r, PROPOSER_CHOSEN)->slot, 7);
}

/* A session start of an attempt that came to nothing, lost by the one that has it, where own writes stood before. */
static void a_cut_where_own_writes_stood_leaves_them_unplaced(void **state)
{
    struct rig *r = *state;
    lost_ballot(r);
    struct log_text shorter = {.n_runs = 1, .run = {{mine(1), 1, 3}}, .commit = pos(3, mine(1))};
    promise(r, 0, &shorter);
    promise(r, 1, &shorter);
    session_entry(r);
    assert_int_equal(r->p.session_slot, 4);
    nack(r, 1, NULL, 0, other(11));
    tick(r, 200 * MS);
    query_ack(r, 0, NULL, 0, other(11));
    query_ack(r, 2, NULL, 0, other(11));
    promise(r, 0, &shorter);
    promise(r, 1, &shorter);
    promise(r, 2, &(struct log_text){.n_runs = 2, .run = {{mine(1), 1, 3}, {mine(8), 4, 4}}, .commit = pos(3, mine(1)), .n_lost = 1, .lost = {4}});
    assert_int_equal(r->p.next, 4); /* one of three at most ever held it */
    session_entry(r);
    for (unsigned i = 0; i < 2; i++) {
        opened(r, i, 3);
        accepted(r, i, 4);
    }
    assert_int_equal(r->p.state, PROPOSER_SERVING);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(r->effect[i].type, PROPOSER_UNPLACED);
    assert_int_equal(r->effect[3].type, PROPOSER_CHOSEN);
}

static void fenced_with_own_writes_found_lets_go_of_all(void **state)
{
    struct rig *r = *state;
    lost_ballot(r);
    struct log_text t = {.n_runs = 1, .run = {{mine(1), 1, 6}}, .commit = pos(3, mine(1))};
    promise(r, 0, &t);
    promise(r, 1, &t);
    assert_int_equal(r->p.state, PROPOSER_RECOVERING);
    promise(r, 2, &(struct log_text){.n_runs = 2, .run = {{mine(1), 1, 4}, {other(7), 5, 5}}, .commit = pos(3, mine(1))});
    assert_int_equal(r->p.state, PROPOSER_FENCED);
    assert_int_equal(total_refs(r), 0);
    session_entry(r); /* it was on its way */
    assert_int_equal(total_refs(r), 0);
    assert_int_equal(r->p.state, PROPOSER_FENCED);
}

static void a_conflict_while_it_served_does_not_shake_what_it_knows(void **state)
{
    struct rig *r = *state;
    lost_ballot(r);
    struct log_text t = {.n_runs = 1, .run = {{mine(1), 1, 6}}, .commit = pos(3, mine(1))}, wrong = t;
    wrong.n_memberships = 1;
    wrong.membership[0] = voters(0, 1, 0);
    promise(r, 0, &wrong);
    assert_int_equal(r->p.state, PROPOSER_WAITING);
    assert_true(r->p.has_membership);
    assert_int_equal(r->p.committed.n_voters, N);
}

/* ---- values ---- */

static void values_that_are_not_what_was_asked_for_are_asked_elsewhere(void **state)
{
    struct rig *r = *state;
    struct log_text t = {.n_runs = 1, .run = {{other(1), 1, 2}}, .commit = pos(1, other(1))};
    for (unsigned i = 0; i < 3; i++) {
        begin(r, N);
        preparing(r);
        promise(r, 0, &t);
        promise(r, 1, &t);
        assert_int_equal(n_sent(r, MSG_FETCH), 1);
        uint32_t asked = sent(r, 0, MSG_FETCH) ? 0 : 1;
        struct msg m = answer(r, MSG_VALUE);
        m.u.value.at = pos(2, other(1));
        m.u.value.found = 1;
        struct entry *e = m.u.value.entry = entry_at(r, ENTRY_WRITE, 2, other(1));
        if (i == 0)
            e->slot = 3;
        else if (i == 1)
            e->e = other(9);
        else
            e->group++;
        say(r, asked, m);
        assert_null(find(r, PROPOSER_HOLD));
        assert_non_null(sent(r, !asked, MSG_FETCH));
        value(r, !asked, 1, other(1), ENTRY_WRITE); /* below the ring */
        value(r, !asked, 9, other(1), ENTRY_WRITE); /* above it */
        assert_null(find(r, PROPOSER_HOLD));
        value(r, !asked, 2, other(1), ENTRY_WRITE);
        assert_non_null(find(r, PROPOSER_HOLD));
        assert_non_null(find(r, PROPOSER_WANT_SESSION_ENTRY));
        step(r, (struct proposer_event){.type = PROPOSER_DETACH});
    }
}

static void a_value_that_comes_before_the_log_is_chosen_is_not_taken(void **state)
{
    struct rig *r = *state;
    preparing(r);
    value(r, 0, 2, other(1), ENTRY_WRITE);
    assert_int_equal(r->n, 0);
}

static void a_membership_that_is_known_already_changes_nothing_by_its_value(void **state)
{
    struct rig *r = *state;
    begin(r, 4);
    preparing(r);
    struct log_text lists = {.n_runs = 1,
                             .run = {{other(1), 1, 2}},
                             .commit = pos(1, other(1)),
                             .n_memberships = 2,
                             .membership = {voters(0, 3, 0), voters(1, 3, 2)}};
    promise(r, 1, &lists);
    promise(r, 2, &lists);
    assert_int_equal(r->p.state, PROPOSER_RECOVERING);
    value(r, sent(r, 1, MSG_FETCH) ? 1 : 2, 2, other(1), ENTRY_MEMBER);
    assert_int_equal(r->p.state, PROPOSER_RECOVERING);
    assert_non_null(find(r, PROPOSER_WANT_SESSION_ENTRY));
    assert_int_equal(r->p.uncommitted.slot, 2);
}

/* ---- logs that can't be begun with ---- */

static void a_commit_that_no_voter_holds_ends_the_attempt(void **state)
{
    struct rig *r = *state;
    preparing(r);
    struct log_text away = {.n_runs = 1, .run = {{other(1), 1, 9}}, .commit = pos(9, other(1)), .needs_copy = 1};
    struct log_text t = {.n_runs = 1, .run = {{other(1), 1, 3}}, .commit = pos(3, other(1))};
    promise(r, 2, &away);
    promise(r, 0, &t);
    promise(r, 1, &t);
    assert_int_equal(r->p.state, PROPOSER_WAITING);
    assert_int_equal(n_sent(r, MSG_RELEASE), 3);
}

/* It has to pass through here, and does not fit: nothing is begun that could not be ended. */
static void a_tail_that_no_quorum_holds_and_the_ring_cannot(void **state)
{
    struct rig *r = *state;
    preparing(r);
    struct log_text t = {.n_runs = 1, .run = {{other(1), 1, 100}}, .commit = pos(1, other(1))};
    struct log_text shorter = {.n_runs = 1, .run = {{other(1), 1, 1}}, .commit = pos(1, other(1))};
    promise(r, 0, &t);
    promise(r, 1, &shorter);
    assert_int_equal(r->p.state, PROPOSER_WAITING);

    /* A quorum that has it all, but for values that one of them lost. */
    begin(r, N);
    preparing(r);
    struct log_text lost = t;
    lost.n_lost = 1;
    lost.lost[0] = 90;
    promise(r, 0, &t);
    promise(r, 1, &lost);
    assert_int_equal(r->p.floor, 89);
    assert_int_equal(n_sent(r, MSG_FETCH), 11);
    assert_null(sent(r, 1, MSG_FETCH) && sent(r, 1, MSG_FETCH)->msg.u.fetch.at.slot == 90 ? r : NULL);
    step(r, (struct proposer_event){.type = PROPOSER_DETACH});

    /* One that lost a value above where the logs part: that counts for nothing. */
    begin(r, N);
    preparing(r);
    struct log_text parted = {.n_runs = 2, .run = {{other(1), 1, 95}, {other(2), 96, 97}}, .commit = pos(1, other(1))};
    lost.lost[0] = 99;
    promise(r, 0, &parted);
    promise(r, 1, &lost);
    assert_int_equal(r->p.floor, 95);
    step(r, (struct proposer_event){.type = PROPOSER_DETACH});

    /* One whose log begins above the other's end has nothing in common with it. */
    begin(r, N);
    preparing(r);
    struct log_text above = {.base = pos(60, other(1)), .n_runs = 1, .run = {{other(1), 61, 100}}, .commit = pos(60, other(1))};
    promise(r, 0, &above);
    promise(r, 1, &shorter);
    assert_int_equal(r->p.state, PROPOSER_WAITING);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(links_that_are_not_there_say_nothing),
        T(answers_about_something_else_are_no_answers),
        T(rounds_beyond_all_bounds_are_damage),
        T(an_unknown_group_is_asked_again_later),
        T(a_promise_counts_once_and_a_late_refusal_not_at_all),
        T(opened_elsewhere_or_twice_is_not_opened),
        T(a_replica_that_committed_something_else_is_left_alone),
        T(a_commit_from_beyond_the_log_is_not_opened_at),
        T(session_entries_that_nobody_needs_are_given_back),
        T(promises_with_impossible_memberships_are_no_promises),
        T(other_voters_in_the_same_slot_are_a_conflict),
        T(a_voter_that_is_not_configured_may_be_missing),
        T(a_listed_membership_below_w_is_the_committed_one),
        T(of_two_listed_memberships_the_first_is_committed),
        T(a_membership_of_another_log_is_not_adopted),
        T(a_membership_in_a_lost_tail_goes_with_it),
        T(impossible_memberships_are_not_proposed),
        T(a_membership_below_a_lost_tail_stays),
        T(a_membership_beyond_its_own_log_is_not_adopted),
        T(memberships_told_by_values_take_their_place_in_the_order),
        T(a_group_with_a_voter_that_is_not_configured_serves),
        T(own_writes_that_others_know_to_be_chosen_are_done),
        T(a_cut_where_own_writes_stood_leaves_them_unplaced),
        T(fenced_with_own_writes_found_lets_go_of_all),
        T(a_conflict_while_it_served_does_not_shake_what_it_knows),
        T(values_that_are_not_what_was_asked_for_are_asked_elsewhere),
        T(a_value_that_comes_before_the_log_is_chosen_is_not_taken),
        T(a_membership_that_is_known_already_changes_nothing_by_its_value),
        T(a_commit_that_no_voter_holds_ends_the_attempt),
        T(a_tail_that_no_quorum_holds_and_the_ring_cannot),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
