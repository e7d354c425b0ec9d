/* The acceptor at the edges of its rules: late and malformed messages, full tables, and what a restart or a lost value
 * leaves half known. Rule by rule: the other test_acceptor_*.c. */
#include "tests/unit/acceptor_rig.h"

/* ---- messages that come too late, too early or from nowhere ---- */

static void late_accepts_of_an_older_ballot_leave_the_stream_alone(void **state)
{
    struct rig *r = *state;
    stream(r, A(1), pos(0, A(0)));
    fill(r, A(1), 1, 2, A(1));
    stream(r, B(2), pos(2, A(1))); /* on the same link: its bytes from before are still coming */
    accept_on(r, 1, A(1), entry(r, 3, A(1)), 2);
    assert_non_null(sent(r, MSG_NACK));
    assert_null(find(r, ACCEPTOR_APPEND));
    assert_int_equal(r->a.commit, 0);
    assert_int_equal(r->a.stream, 1);
    fill(r, B(2), 3, 3, B(2));
    assert_int_equal(r->a.acked, 3);
}

static void an_accept_above_promised_raises_it_and_is_refused(void **state)
{
    struct rig *r = *state;
    stream(r, A(1), pos(0, A(0)));
    accept_on(r, 1, B(5), entry(r, 1, B(5)), 0);
    struct ballot b = B(5);
    assert_true(ballot_equal(&r->a.promised, &b));
    assert_non_null(find(r, ACCEPTOR_PROMISE));
    assert_null(find(r, ACCEPTOR_APPEND)); /* nothing was opened under it */
    assert_int_equal(r->a.stream, ACCEPTOR_NO_LINK);
    accept_on(r, 1, A(1), entry(r, 1, A(1)), 0);
    assert_null(find(r, ACCEPTOR_APPEND));
    assert_int_equal(paxos_log_last(&r->a.log).slot, 0);
}

static void what_is_no_message_for_an_acceptor_changes_nothing(void **state)
{
    struct rig *r = *state;
    stream(r, A(5), pos(0, A(0)));
    fill(r, A(5), 1, 1, A(5));
    struct acceptor before = r->a;
    simple(r, MSG_DATA, A(9));
    assert_int_equal(r->fx.n, 0);
    assert_memory_equal(&r->a, &before, sizeof before);
    struct msg force = {.type = MSG_FORCE, .ballot = A(4), .u.force = {.expiry_ns = LEASE}};
    say(r, 1, force); /* of an operator who looked long ago */
    assert_non_null(sent(r, MSG_NACK));
    assert_int_equal(r->a.force_until_ns, 0);
    struct msg read = {.type = MSG_READ, .ballot = A(5), .group = GROUP + 1, .target = r->identity, .u.read.watermark = 1};
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(acceptor_read(&r->a, r->now, 1, &read, &r->fx), ACCEPTOR_READ_NACK);
        assert_int_equal(sent(r, MSG_NACK)->msg.u.holder.unknown, 1);
        read.group = GROUP;
        read.target.b[0] ^= 1; /* the disk that stood here before */
    }
    assert_int_equal(r->a.commit, 0);
    accept_on(r, 1, A(5), NULL, 0);
    assert_null(find(r, ACCEPTOR_APPEND));
}

static void entries_that_reach_beyond_the_group_or_have_no_ballot_are_refused(void **state)
{
    struct rig *r = *state;
    stream(r, A(5), pos(0, A(0)));
    struct entry *e = entry(r, 1, A(5));
    e->block = 1001;
    accept_on(r, 1, A(5), e, 0);
    assert_null(find(r, ACCEPTOR_APPEND));
    stream(r, A(5), pos(0, A(0)));
    e = entry(r, 1, A(5));
    e->block = 999; /* the last one */
    e->nblocks = 2;
    accept_on(r, 1, A(5), e, 0);
    assert_null(find(r, ACCEPTOR_APPEND));
    stream(r, A(5), pos(0, A(0)));
    accept_on(r, 1, A(5), entry(r, 1, A(0)), 0);
    assert_null(find(r, ACCEPTOR_APPEND));
    stream(r, A(5), pos(0, A(0)));
    e = entry(r, 1, A(5));
    e->block = 998;
    e->nblocks = 2;
    accept_on(r, 1, A(5), e, 0);
    assert_non_null(find(r, ACCEPTOR_APPEND));
}

static void pieces_that_do_not_add_up_are_ignored(void **state)
{
    struct rig *r = *state;
    struct entry *list[4];
    caught_up(r, pos(0, A(0)), 3, A(1));
    all_durable(r);
    for (unsigned i = 0; i < 4; i++)
        list[i] = entry(r, 4 + i, A(1));
    struct acceptor_event good = {.type = ACCEPTOR_CAUGHT_UP, .from = pos(3, A(1)), .through = pos(7, A(1)), .entries = list, .n_entries = 4};
    struct acceptor_event bad[] = {good, good, good, good};
    bad[0].n_entries = 0;
    bad[1].n_entries = 3;
    bad[2].through = pos(7, A(2)); /* not what its last entry is */
    bad[3].from = pos(UINT64_MAX - 1, A(1)); /* ... + 4 entries: the numbers wrap */
    bad[3].through = pos(2, A(1));
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
        step(r, bad[i]);
        assert_int_equal(r->fx.n, 0);
    }
    list[2]->slot = 9; /* in the middle: what is before it counts */
    step(r, good);
    assert_int_equal(count(r, ACCEPTOR_APPEND), 2);
    assert_int_equal(r->a.commit, 5);
    list[2]->slot = 6;
    list[3]->group++;
    step(r, good);
    assert_int_equal(r->a.commit, 6);
}

/* ---- tables ---- */

static void a_full_table_of_pending_records_takes_what_extends_it_only(void **state)
{
    struct rig *r = *state;
    stream(r, A(1), pos(0, A(0)));
    uint64_t lease = MS, s = 1;
    for (;; s++) { /* every append is followed by another record: no two make a run */
        accept_on(r, 1, A(1), entry(r, s, A(1)), 0);
        assert_non_null(find(r, ACCEPTOR_APPEND));
        if (r->a.n_pending == ACCEPTOR_PENDING_MAX)
            break;
        beat(r, A(1), lease++, pos(0, A(0)));
    }
    assert_int_equal(s, ACCEPTOR_PENDING_MAX);
    accept_on(r, 1, A(1), entry(r, ++s, A(1)), 0); /* the next of the last run */
    assert_non_null(find(r, ACCEPTOR_APPEND));
    beat(r, A(1), lease++, pos(0, A(0)));
    accept_on(r, 1, A(1), entry(r, s + 1, A(1)), 0);
    assert_null(find(r, ACCEPTOR_APPEND)); /* refused, so that the proposer sends it again */
    assert_non_null(sent(r, MSG_NACK));
    assert_int_equal(r->a.stream, ACCEPTOR_NO_LINK);
    open_on(r, 1, A(1), pos(5, A(1)));
    accept_on(r, 1, A(1), entry(r, 6, A(1)), 0);
    assert_int_equal(r->a.match, 6); /* what is here already needs no place */
    open_on(r, 1, B(9), pos(5, A(1)));
    accept_on(r, 1, B(9), entry(r, 6, B(9)), 0);
    assert_non_null(sent(r, MSG_NACK));
    assert_null(find(r, ACCEPTOR_CUT)); /* nor is anything cut before there is a place */
    all_durable(r);
    assert_int_equal(r->a.durable, s);
    stream(r, B(9), pos(s, A(1)));
    fill(r, B(9), s + 1, s + 1, B(9));
}

static void a_cut_within_what_is_pending_keeps_the_rest_of_it(void **state)
{
    struct rig *r = *state;
    stream(r, A(1), pos(0, A(0)));
    accept_on(r, 1, A(1), entry(r, 1, A(1)), 0);
    beat(r, A(1), MS, pos(0, A(0))); /* a record between them: two runs */
    for (uint64_t s = 2; s <= 5; s++)
        accept_on(r, 1, A(1), entry(r, s, A(1)), 0);
    assert_int_equal(r->a.n_pending, 2);
    uint64_t third = r->a.seq - 2;
    struct entry *list[4];
    for (uint64_t s = 1; s <= 4; s++) /* 4 and 5 were never chosen */
        list[s - 1] = entry(r, s, s < 4 ? A(1) : B(2));
    step(r, (struct acceptor_event){.type = ACCEPTOR_CAUGHT_UP, .from = pos(0, A(0)), .through = pos(4, B(2)), .entries = list, .n_entries = 4});
    assert_int_equal(find(r, ACCEPTOR_CUT)->slot, 4);
    assert_int_equal(paxos_log_last(&r->a.log).slot, 4);
    assert_int_equal(r->a.durable, 0);
    durable(r, third - 1);
    assert_int_equal(r->a.durable, 2);
    durable(r, third + 2); /* the records of the slots that are gone vouch for nothing */
    assert_int_equal(r->a.durable, 3);
    all_durable(r);
    assert_int_equal(r->a.durable, 4);
}

static void the_last_run_goes_on_when_the_table_of_runs_is_full(void **state)
{
    struct rig *r = *state;
    for (uint64_t s = 1; s <= RUNS_MAX; s++) {
        r->n_pool = 0;
        open_on(r, 1, A(s), pos(s - 1, A(s - 1)));
        accept_on(r, 1, A(s), entry(r, s, A(s)), 0);
        all_durable(r);
    }
    accept_on(r, 1, A(RUNS_MAX), entry(r, RUNS_MAX + 1, A(RUNS_MAX)), 0);
    assert_non_null(find(r, ACCEPTOR_APPEND));
    assert_int_equal(r->a.log.n, RUNS_MAX);
}

static void a_trim_below_the_floor_is_nothing(void **state)
{
    struct rig *r = *state;
    caught_up(r, pos(0, A(0)), 5, A(1));
    all_durable(r);
    step(r, (struct acceptor_event){.type = ACCEPTOR_TRIM, .trim = 4});
    step(r, (struct acceptor_event){.type = ACCEPTOR_TRIM, .trim = 2});
    assert_int_equal(r->a.log.base.slot, 4);
}

/* ---- lost values and memberships that are known in part ---- */

static void with_lost(struct rig *r, uint64_t last, uint32_t n, const uint64_t *lost, const struct membership *committed, const struct membership *uncommitted,
                      uint64_t commit)
{
    static struct paxos_log log;
    memset(&log, 0, sizeof log);
    for (uint64_t s = 1; s <= last; s++) {
        struct ballot e = A(1);
        assert_true(paxos_log_append(&log, s, &e));
    }
    begin(r, &(struct acceptor_state){.promised = A(1),
                                      .log = &log,
                                      .n_lost = n,
                                      .lost = lost,
                                      .commit = commit,
                                      .restarted = true,
                                      .committed = committed ? *committed : (struct membership){.n_voters = 3},
                                      .uncommitted = uncommitted});
}

static void refill(struct rig *r, uint64_t from, struct entry **list, uint32_t n)
{
    step(r, (struct acceptor_event){
                .type = ACCEPTOR_CAUGHT_UP, .from = pos(from, A(from ? 1 : 0)), .through = pos(from + n, A(1)), .entries = list, .n_entries = n});
}

static void durable_stands_below_what_is_refilled_and_what_is_lost(void **state)
{
    struct rig *r = *state;
    with_lost(r, 6, 2, (uint64_t[]){3, 5}, NULL, NULL, 6);
    assert_int_equal(r->a.durable, 2);
    struct entry *list[] = {entry(r, 3, A(1)), entry(r, 4, A(1))};
    refill(r, 2, list, 2);
    assert_non_null(find(r, ACCEPTOR_REFILL));
    assert_int_equal(r->a.durable, 2); /* its record is under way */
    all_durable(r);
    assert_int_equal(r->a.durable, 4); /* and 5 is still lost */
}

static void a_membership_that_was_lost_is_known_again_by_its_value(void **state)
{
    struct rig *r = *state;
    /* Older than the committed one: history. */
    struct membership five = {.slot = 5, .n_voters = 5}, six = {.slot = 4, .n_voters = 6};
    with_lost(r, 6, 1, (uint64_t[]){2}, &five, NULL, 6);
    struct entry *list[] = {entry(r, 2, A(1))};
    list[0] = member(r, 2, A(1), 4);
    refill(r, 1, list, 1);
    assert_non_null(find(r, ACCEPTOR_REFILL));
    assert_int_equal(r->a.committed.n_voters, 5);
    assert_false(r->a.has_uncommitted);

    /* One that stands before the uncommitted one is committed (P9). */
    with_lost(r, 6, 1, (uint64_t[]){2}, NULL, &six, 6);
    list[0] = member(r, 2, A(1), 4);
    refill(r, 1, list, 1);
    assert_int_equal(r->a.committed.n_voters, 4);
    assert_true(r->a.has_uncommitted);
    assert_int_equal(r->a.uncommitted.n_voters, 6);

    /* The uncommitted one itself. */
    six.slot = 2;
    with_lost(r, 6, 1, (uint64_t[]){2}, NULL, &six, 6);
    list[0] = member(r, 2, A(1), 6);
    refill(r, 1, list, 1);
    assert_int_equal(r->a.committed.n_voters, 6); /* the piece is committed */
    assert_false(r->a.has_uncommitted);
}

static void a_cut_above_a_membership_keeps_it(void **state)
{
    struct rig *r = *state;
    stream(r, A(1), pos(0, A(0)));
    fill(r, A(1), 1, 1, A(1));
    accept_on(r, 1, A(1), member(r, 2, A(1), 5), 0);
    accept_on(r, 1, A(1), entry(r, 3, A(1)), 0);
    stream(r, B(3), pos(2, A(1)));
    accept_on(r, 1, B(3), entry(r, 3, B(3)), 0);
    assert_non_null(find(r, ACCEPTOR_CUT));
    assert_true(r->a.has_uncommitted);
    assert_int_equal(r->a.uncommitted.n_voters, 5);
}

static void a_read_may_be_what_commits_a_membership(void **state)
{
    struct rig *r = *state;
    stream(r, A(1), pos(0, A(0)));
    fill(r, A(1), 1, 1, A(1));
    accept_on(r, 1, A(1), member(r, 2, A(1), 5), 0);
    all_durable(r);
    assert_int_equal(read_at(r, A(1), 2), ACCEPTOR_READ_OK);
    assert_non_null(find(r, ACCEPTOR_MEMBERSHIP));
    assert_int_equal(r->a.committed.n_voters, 5);
    assert_int_equal(read_at(r, A(1), 2), ACCEPTOR_READ_OK);
    assert_null(find(r, ACCEPTOR_MEMBERSHIP)); /* told once */
}

static void a_restart_knows_what_its_checkpoint_knew(void **state)
{
    struct rig *r = *state;
    struct membership m = {.slot = 3, .n_voters = 5};
    with_lost(r, 6, 0, NULL, NULL, &m, 4); /* its slot is committed by now */
    assert_int_equal(r->a.committed.n_voters, 5);
    assert_false(r->a.has_uncommitted);
    with_lost(r, 6, 0, NULL, NULL, &m, 2);
    assert_int_equal(r->a.committed.n_voters, 3);
    assert_true(r->a.has_uncommitted);

    static struct paxos_log log; /* what the floor covers is committed, whatever else is known */
    memset(&log, 0, sizeof log);
    log.base = pos(7, A(1));
    begin(r, &(struct acceptor_state){.promised = A(1), .log = &log, .commit = 2, .restarted = true});
    assert_int_equal(r->a.commit, 7);
}

static void a_copy_that_is_complete_votes_again(void **state)
{
    struct rig *r = *state;
    acceptor_set_needs_copy(&r->a, true);
    stream(r, A(1), pos(0, A(0)));
    fill(r, A(1), 1, 2, A(1));
    assert_int_equal(r->a.acked, 2);
    acceptor_set_needs_copy(&r->a, false);
    beat(r, A(1), 0, pos(0, A(0))); /* said with whatever comes next */
    assert_int_equal(sent(r, MSG_ACCEPTED)->msg.u.accepted.through, 2);
    assert_int_equal(sent(r, MSG_ACCEPTED)->msg.u.accepted.needs_copy, 0);
}

/* ---- logs from outside ---- */

static void malformed_logs_are_told_from_logs(void **state)
{
    static struct run runs[RUNS_MAX + 1];
    static uint64_t lost[LOST_MAX + 1];
    struct log_pos base = pos(5, A(1));
    runs[0] = (struct run){.e = A(2), .first = 6, .last = 9};
    assert_true(paxos_runs_valid(&base, 1, runs));
    runs[0].last = 5; /* empty */
    assert_false(paxos_runs_valid(&base, 1, runs));
    runs[0].last = UINT64_MAX - 1;
    assert_false(paxos_runs_valid(&base, 1, runs));
    runs[0] = (struct run){.e = A(PAXOS_ROUND_MAX + 1), .first = 6, .last = 9}; /* nothing could outbid it */
    assert_false(paxos_runs_valid(&base, 1, runs));
    assert_false(paxos_runs_valid(&base, RUNS_MAX + 1, runs));
    for (uint32_t i = 0; i <= LOST_MAX; i++)
        lost[i] = i + 1;
    assert_true(paxos_lost_valid(LOST_MAX, lost, 0, LOST_MAX + 1));
    assert_false(paxos_lost_valid(LOST_MAX + 1, lost, 0, LOST_MAX + 1));

    static struct paxos_log a, b; /* not even the beginning in common */
    memset(&a, 0, sizeof a);
    memset(&b, 0, sizeof b);
    a.base.e = A(1);
    struct log_pos m;
    assert_false(paxos_log_match(&a, &b, &m));

    struct ballot e;
    for (uint64_t s = 1; s <= RUNS_MAX; s++) {
        e = A(s);
        assert_true(paxos_log_append(&b, s, &e));
    }
    e = A(RUNS_MAX + 1);
    assert_false(paxos_log_append(&b, RUNS_MAX + 1, &e));
    assert_int_equal(paxos_log_last(&b).slot, RUNS_MAX);

    struct membership many = {.n_voters = 255};
    struct uuid nobody = {{0x99}};
    assert_false(membership_has_voter(&many, &nobody)); /* and looks no further than there are places */
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(late_accepts_of_an_older_ballot_leave_the_stream_alone),
        T(an_accept_above_promised_raises_it_and_is_refused),
        T(what_is_no_message_for_an_acceptor_changes_nothing),
        T(entries_that_reach_beyond_the_group_or_have_no_ballot_are_refused),
        T(pieces_that_do_not_add_up_are_ignored),
        T(a_full_table_of_pending_records_takes_what_extends_it_only),
        T(a_cut_within_what_is_pending_keeps_the_rest_of_it),
        T(the_last_run_goes_on_when_the_table_of_runs_is_full),
        T(a_trim_below_the_floor_is_nothing),
        T(durable_stands_below_what_is_refilled_and_what_is_lost),
        T(a_membership_that_was_lost_is_known_again_by_its_value),
        T(a_cut_above_a_membership_keeps_it),
        T(a_read_may_be_what_commits_a_membership),
        T(a_restart_knows_what_its_checkpoint_knew),
        T(a_copy_that_is_complete_votes_again),
        T(malformed_logs_are_told_from_logs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
