/* The acceptor's log (protocol.md A4-A6): what it takes, when that is durable, what is committed; memberships in it,
 * and trimming. */
#include "tests/unit/acceptor_rig.h"

/* ---- A4: Accept ---- */

static void test_accept_replaces_another_ballots_tail(void **state)
{
    struct rig *r = *state;
    stream(r, A(1), pos(0, A(0)));
    fill(r, A(1), 1, 6, A(1));
    stream(r, B(2), pos(2, A(1)));
    accept_on(r, 1, B(2), entry(r, 3, B(2)), 0);
    const struct acceptor_effect *cut = find(r, ACCEPTOR_CUT), *append = find(r, ACCEPTOR_APPEND);
    assert_non_null(cut);
    assert_non_null(append);
    assert_int_equal(cut->slot, 3);
    assert_int_equal(append->seq, cut->seq + 1);
    assert_int_equal(paxos_log_last(&r->a.log).slot, 3);
    assert_int_equal(r->a.durable, 2);
    all_durable(r);
    assert_int_equal(sent(r, MSG_ACCEPTED)->msg.u.accepted.through, 3);
}

/* Wrong rule 4: the stream of an old proposer must not replace what catch-up has brought as committed since. */
static void test_accept_never_replaces_what_is_committed(void **state)
{
    struct rig *r = *state;
    stream(r, A(1), pos(0, A(0)));
    fill(r, A(1), 1, 2, A(1));
    caught_up(r, pos(0, A(0)), 2, A(1)); /* commit 2, matched */
    caught_up(r, pos(2, A(1)), 5, B(2)); /* what B's session chose behind it */
    all_durable(r);
    assert_int_equal(r->a.commit, 5);
    assert_int_equal(r->a.stream, 1);
    accept_on(r, 1, A(1), entry(r, 3, A(1)), 0);
    assert_null(find(r, ACCEPTOR_CUT));
    assert_null(find(r, ACCEPTOR_APPEND));
    assert_non_null(sent(r, MSG_NACK));
    assert_true(holds(r, 5, B(2)));
    assert_int_equal(r->a.commit, 5);
    assert_int_equal(r->a.stream, ACCEPTOR_NO_LINK);
}

static void test_duplicates_are_acknowledged_again(void **state)
{
    struct rig *r = *state;
    stream(r, A(1), pos(0, A(0)));
    fill(r, A(1), 1, 3, A(1));
    accept_on(r, 1, A(1), entry(r, 2, A(1)), 0);
    assert_int_equal(sent(r, MSG_ACCEPTED)->msg.u.accepted.through, 3);
    assert_null(find(r, ACCEPTOR_APPEND));
}

static void test_a_gap_is_not_acknowledged(void **state)
{
    struct rig *r = *state;
    stream(r, A(1), pos(0, A(0)));
    accept_on(r, 1, A(1), entry(r, 2, A(1)), 0);
    assert_null(find(r, ACCEPTOR_APPEND));
    assert_non_null(sent(r, MSG_NACK));
    for (uint64_t s = 3; s < 20; s++) { /* a whole queue behind it: one Nack was enough */
        accept_on(r, 1, A(1), entry(r, s, A(1)), 0);
        assert_int_equal(r->fx.n, 0);
    }
    stream(r, A(1), pos(0, A(0)));
    fill(r, A(1), 1, 2, A(1));
}

static void test_late_bytes_of_an_old_connection(void **state)
{
    struct rig *r = *state;
    stream(r, A(1), pos(0, A(0)));
    fill(r, A(1), 1, 2, A(1));
    open_on(r, 2, A(1), pos(2, A(1)));
    accept_on(r, 2, A(1), entry(r, 3, A(1)), 0);
    assert_non_null(find(r, ACCEPTOR_APPEND));
    accept_on(r, 1, A(1), entry(r, 3, A(1)), 0); /* the same, still under way on link 1 */
    assert_null(find(r, ACCEPTOR_APPEND));
    assert_null(sent(r, MSG_ACCEPTED));
    assert_int_equal(r->a.stream, 2);
    step(r, (struct acceptor_event){.type = ACCEPTOR_LINK_DOWN, .link = 1});
    assert_int_equal(r->a.stream, 2);
    all_durable(r);
    assert_int_equal(sent(r, MSG_ACCEPTED)->link, 2);
    step(r, (struct acceptor_event){.type = ACCEPTOR_LINK_DOWN, .link = 2});
    accept_on(r, 2, A(1), entry(r, 4, A(1)), 0);
    assert_null(find(r, ACCEPTOR_APPEND));
}

static void test_what_cannot_be_an_entry_is_refused(void **state)
{
    struct rig *r = *state;
    stream(r, A(5), pos(0, A(0)));
    struct entry *e = entry(r, 1, A(5));
    e->block = 1000; /* beyond the group */
    accept_on(r, 1, A(5), e, 0);
    assert_null(find(r, ACCEPTOR_APPEND));
    stream(r, A(5), pos(0, A(0)));
    accept_on(r, 1, A(5), entry(r, 1, A(6)), 0); /* first proposed under a ballot above its own */
    assert_null(find(r, ACCEPTOR_APPEND));
    stream(r, A(5), pos(0, A(0)));
    fill(r, A(5), 1, 1, A(3));
    accept_on(r, 1, A(5), entry(r, 2, A(2)), 0); /* ballots fall along the log */
    assert_null(find(r, ACCEPTOR_APPEND));
    stream(r, A(5), pos(1, A(3)));
    e = entry(r, 2, A(5));
    e->group = GROUP + 1;
    accept_on(r, 1, A(5), e, 0);
    assert_null(find(r, ACCEPTOR_APPEND));
}

/* Wrong rule 17: an assigned slot is never refused for lack of space. */
static void test_no_credit_is_no_reason_to_refuse(void **state)
{
    struct rig *r = *state;
    stream(r, A(1), pos(0, A(0)));
    r->a.credits = (struct credits){.slabs = 0, .slot_limit = 0};
    fill(r, A(1), 1, 3, A(1));
    assert_int_equal(sent(r, MSG_ACCEPTED)->msg.u.accepted.through, 3);
    assert_int_equal(sent(r, MSG_ACCEPTED)->msg.u.accepted.credits.slabs, 0);
}

/* ---- A5: durability ---- */

static void test_accepted_only_what_is_durable(void **state)
{
    struct rig *r = *state;
    stream(r, A(1), pos(0, A(0)));
    uint64_t seq[5];
    for (uint64_t s = 1; s <= 4; s++) {
        accept_on(r, 1, A(1), entry(r, s, A(1)), 0);
        assert_null(sent(r, MSG_ACCEPTED));
        seq[s] = find(r, ACCEPTOR_APPEND)->seq;
    }
    assert_int_equal(r->a.n_pending, 1);
    durable(r, seq[2]);
    assert_int_equal(sent(r, MSG_ACCEPTED)->msg.u.accepted.through, 2);
    durable(r, seq[2]);
    assert_null(sent(r, MSG_ACCEPTED));
    durable(r, seq[4]);
    assert_int_equal(sent(r, MSG_ACCEPTED)->msg.u.accepted.through, 4);
    assert_int_equal(r->a.n_pending, 0);
}

static void test_a_cut_takes_what_was_pending_with_it(void **state)
{
    struct rig *r = *state;
    stream(r, A(1), pos(0, A(0)));
    accept_on(r, 1, A(1), entry(r, 1, A(1)), 0);
    accept_on(r, 1, A(1), entry(r, 2, A(1)), 0);
    uint64_t old = find(r, ACCEPTOR_APPEND)->seq;
    open_on(r, 1, B(2), pos(0, A(0)));
    accept_on(r, 1, B(2), entry(r, 1, B(2)), 0);
    accept_on(r, 1, B(2), entry(r, 2, B(2)), 0);
    durable(r, old); /* A's two are durable: they say nothing about B's */
    assert_null(sent(r, MSG_ACCEPTED));
    assert_int_equal(r->a.durable, 0);
    all_durable(r);
    assert_int_equal(sent(r, MSG_ACCEPTED)->msg.u.accepted.through, 2);
}

static void test_opened_says_what_is_durable_of_the_match(void **state)
{
    struct rig *r = *state;
    stream(r, A(1), pos(0, A(0)));
    accept_on(r, 1, A(1), entry(r, 1, A(1)), 0);
    accept_on(r, 1, A(1), entry(r, 2, A(1)), 0);
    open_on(r, 2, A(1), pos(2, A(1)));
    assert_non_null(sent(r, MSG_OPENED));
    assert_null(sent(r, MSG_ACCEPTED));
    all_durable(r);
    assert_int_equal(sent(r, MSG_ACCEPTED)->msg.u.accepted.through, 2);
    assert_int_equal(sent(r, MSG_ACCEPTED)->link, 2);
}

static void test_pending_table_holds_back(void **state)
{
    struct rig *r = *state;
    stream(r, A(1), pos(0, A(0)));
    uint64_t lease = MS, s = 1;
    while (acceptor_has_room(&r->a)) { /* every append is followed by another record: no two make a run */
        accept_on(r, 1, A(1), entry(r, s, A(1)), 0);
        assert_non_null(find(r, ACCEPTOR_APPEND));
        beat(r, A(1), lease++, pos(0, A(0)));
        assert_non_null(find(r, ACCEPTOR_PROMISE));
        s++;
    }
    assert_true(s > 100);
    all_durable(r);
    assert_true(acceptor_has_room(&r->a));
    assert_int_equal(r->a.acked, s - 1);
}

/* ---- A6: commits ---- */

/* Wrong rule 3: a watermark by number would commit what never was chosen. */
static void test_commit_only_what_was_matched_under_the_ballot(void **state)
{
    struct rig *r = *state;
    stream(r, A(1), pos(0, A(0)));
    fill(r, A(1), 1, 5, A(1)); /* A's tail, never chosen */
    stream(r, B(2), pos(2, A(1)));
    accept_on(r, 1, B(2), entry(r, 3, B(2)), 5); /* B has chosen 5 of its own */
    assert_int_equal(r->a.commit, 3);
    all_durable(r);
    assert_int_equal(find(r, ACCEPTOR_COMMIT)->slot, 3);
    beat(r, B(2), 0, pos(7, B(2)));
    assert_int_equal(r->a.commit, 3);
    assert_null(find(r, ACCEPTOR_BEHIND)); /* the stream will bring it */
}

static void test_commit_needs_an_open_stream_of_the_ballot(void **state)
{
    struct rig *r = *state;
    stream(r, A(1), pos(0, A(0)));
    fill(r, A(1), 1, 5, A(1));
    prepare(r, B(2), 0);
    all_durable(r);
    beat(r, B(2), 0, pos(5, B(2)));
    assert_int_equal(r->a.commit, 0);
    const struct acceptor_effect *behind = find(r, ACCEPTOR_BEHIND);
    assert_non_null(behind);
    assert_int_equal(behind->target.slot, 5);
    beat(r, A(1), 0, pos(5, A(1))); /* and the old one announces nothing any more */
    assert_int_equal(r->a.commit, 0);
    assert_non_null(sent(r, MSG_NACK));
}

static void test_match_survives_its_link(void **state)
{
    struct rig *r = *state;
    stream(r, A(1), pos(0, A(0)));
    fill(r, A(1), 1, 5, A(1));
    step(r, (struct acceptor_event){.type = ACCEPTOR_LINK_DOWN, .link = 1});
    beat(r, A(1), 0, pos(4, A(1)));
    assert_int_equal(r->a.commit, 4);
    assert_int_equal(find(r, ACCEPTOR_COMMIT)->slot, 4);
}

static void test_commit_effect_waits_for_durability(void **state)
{
    struct rig *r = *state;
    stream(r, A(1), pos(0, A(0)));
    fill(r, A(1), 1, 2, A(1));
    accept_on(r, 1, A(1), entry(r, 3, A(1)), 3);
    assert_int_equal(r->a.commit, 3);
    assert_int_equal(find(r, ACCEPTOR_COMMIT)->slot, 2);
    all_durable(r);
    assert_int_equal(find(r, ACCEPTOR_COMMIT)->slot, 3);
}

static void test_reads(void **state)
{
    struct rig *r = *state;
    stream(r, A(1), pos(0, A(0)));
    fill(r, A(1), 1, 5, A(1));
    assert_int_equal(read_at(r, A(1), 4), ACCEPTOR_READ_OK); /* the watermark is an announced commit */
    assert_int_equal(r->a.commit, 4);
    assert_int_equal(find(r, ACCEPTOR_COMMIT)->slot, 4);
    /* Wrong rule 3, in reads: slot 5 here is A's, not the one B means. */
    prepare(r, B(2), 0);
    all_durable(r);
    assert_int_equal(read_at(r, B(2), 5), ACCEPTOR_READ_BEHIND);
    assert_int_equal(r->a.commit, 4);
    assert_int_equal(read_at(r, B(2), 4), ACCEPTOR_READ_OK); /* chosen is chosen */
    assert_int_equal(read_at(r, A(1), 1), ACCEPTOR_READ_NACK);
    assert_non_null(sent(r, MSG_NACK));
    assert_int_equal(read_at(r, B(9), 5), ACCEPTOR_READ_BEHIND);
    stream(r, B(2), pos(4, A(1)));
    assert_int_equal(read_at(r, B(2), 5), ACCEPTOR_READ_BEHIND); /* nothing matched there yet */
    fill(r, B(2), 5, 5, B(2));
    assert_int_equal(read_at(r, B(2), 5), ACCEPTOR_READ_OK);
}

/* ---- memberships, trimming ---- */

static void test_membership_entries(void **state)
{
    struct rig *r = *state;
    stream(r, A(1), pos(0, A(0)));
    fill(r, A(1), 1, 1, A(1));
    accept_on(r, 1, A(1), member(r, 2, A(1), 5), 0);
    assert_non_null(find(r, ACCEPTOR_MEMBERSHIP));
    assert_true(r->a.has_uncommitted);
    assert_int_equal(r->a.committed.n_voters, 3);
    prepare(r, A(2), 0);
    const struct msg *p = &sent(r, MSG_PROMISE)->msg;
    assert_int_equal(p->u.promise.n_memberships, 2);
    assert_int_equal(p->u.promise.memberships[1].n_voters, 5);
    assert_int_equal(p->u.promise.memberships[1].slot, 2);
    stream(r, A(2), pos(2, A(1)));
    accept_on(r, 1, A(2), member(r, 3, A(2), 4),
              0); /* P9: nobody proposes it before the first one is committed, heard or not */
    assert_non_null(find(r, ACCEPTOR_APPEND));
    assert_int_equal(r->a.committed.n_voters, 5);
    assert_int_equal(r->a.uncommitted.n_voters, 4);
    stream(r, B(3), pos(2, A(1)));
    accept_on(r, 1, B(3), entry(r, 3, B(3)), 0); /* cut: dropped */
    assert_non_null(find(r, ACCEPTOR_MEMBERSHIP));
    assert_false(r->a.has_uncommitted);
    assert_int_equal(r->a.committed.n_voters, 5);
}

static void test_memberships_by_catchup(void **state)
{
    struct rig *r = *state;
    struct entry *list[] = {entry(r, 1, A(1)), member(r, 2, A(1), 5), entry(r, 3, A(1)), member(r, 4, A(1), 4)};
    step(r, (struct acceptor_event){.type = ACCEPTOR_CAUGHT_UP,
                                    .from = pos(0, A(0)),
                                    .through = pos(4, A(1)),
                                    .entries = list,
                                    .n_entries = 4});
    assert_int_equal(count(r, ACCEPTOR_MEMBERSHIP), 1);
    assert_int_equal(r->a.committed.n_voters, 4);
    assert_int_equal(r->a.committed.slot, 4);
    assert_false(r->a.has_uncommitted);
}

static void test_trim(void **state)
{
    struct rig *r = *state;
    caught_up(r, pos(0, A(0)), 5, A(1));
    all_durable(r);
    step(r, (struct acceptor_event){.type = ACCEPTOR_TRIM, .trim = 4});
    assert_int_equal(r->a.log.base.slot, 4);
    open_on(r, 1, A(2), pos(4, A(1))); /* below commit */
    assert_non_null(sent(r, MSG_MISMATCH));
    assert_int_equal(sent(r, MSG_MISMATCH)->msg.u.mismatch.base.slot, 4);
    step(r, (struct acceptor_event){.type = ACCEPTOR_TRIM, .trim = 5});
    stream(r, A(2), pos(5, A(1))); /* the base is an entry like others */
    fill(r, A(2), 6, 7, A(2));
}

/* Catch-up and a checkpoint may overtake a stream; what it still brings lies below the log's base. */
static void test_a_stream_that_was_overtaken(void **state)
{
    struct rig *r = *state;
    stream(r, A(1), pos(0, A(0)));
    caught_up(r, pos(0, A(0)), 5, A(1));
    all_durable(r);
    step(r, (struct acceptor_event){.type = ACCEPTOR_TRIM, .trim = 4});
    accept_on(r, 1, A(1), entry(r, 1, A(1)), 0);
    assert_null(find(r, ACCEPTOR_APPEND));
    assert_null(sent(r, MSG_ACCEPTED));
    assert_non_null(sent(r, MSG_NACK));
}

static void test_more_sessions_than_runs(void **state)
{
    struct rig *r = *state;
    for (uint64_t s = 1; s <= RUNS_MAX + 50; s++) {
        r->n_pool = 0;
        open_on(r, 1, A(s), pos(s - 1, A(s - 1)));
        assert_non_null(sent(r, MSG_OPENED));
        accept_on(r, 1, A(s), entry(r, s, A(s)), 0);
        assert_non_null(find(r, ACCEPTOR_APPEND));
        all_durable(r);
        beat(r, A(s), 0, pos(s, A(s)));
        assert_int_equal(r->a.commit, s);
    }
    assert_int_equal(r->a.log.n, RUNS_MAX);
    assert_true(r->a.log.base.slot > 0); /* the oldest committed ones are known by the base alone */
}

static void test_more_uncommitted_sessions_than_runs(void **state)
{
    struct rig *r = *state;
    for (uint64_t s = 1; s <= RUNS_MAX; s++) {
        r->n_pool = 0;
        open_on(r, 1, A(s), pos(s - 1, A(s - 1)));
        accept_on(r, 1, A(s), entry(r, s, A(s)), 0);
        assert_non_null(find(r, ACCEPTOR_APPEND));
        all_durable(r);
    }
    open_on(r, 1, A(RUNS_MAX + 1), pos(RUNS_MAX, A(RUNS_MAX)));
    accept_on(r, 1, A(RUNS_MAX + 1), entry(r, RUNS_MAX + 1, A(RUNS_MAX + 1)), 0);
    assert_null(find(r, ACCEPTOR_APPEND)); /* refused, not forgotten */
    assert_int_equal(r->a.log.base.slot, 0);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_accept_replaces_another_ballots_tail),
        T(test_accept_never_replaces_what_is_committed),
        T(test_duplicates_are_acknowledged_again),
        T(test_a_gap_is_not_acknowledged),
        T(test_late_bytes_of_an_old_connection),
        T(test_what_cannot_be_an_entry_is_refused),
        T(test_no_credit_is_no_reason_to_refuse),
        T(test_accepted_only_what_is_durable),
        T(test_a_cut_takes_what_was_pending_with_it),
        T(test_opened_says_what_is_durable_of_the_match),
        T(test_pending_table_holds_back),
        T(test_commit_only_what_was_matched_under_the_ballot),
        T(test_commit_needs_an_open_stream_of_the_ballot),
        T(test_match_survives_its_link),
        T(test_commit_effect_waits_for_durability),
        T(test_reads),
        T(test_membership_entries),
        T(test_memberships_by_catchup),
        T(test_trim),
        T(test_a_stream_that_was_overtaken),
        T(test_more_sessions_than_runs),
        T(test_more_uncommitted_sessions_than_runs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
