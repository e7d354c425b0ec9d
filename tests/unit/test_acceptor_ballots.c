/* The acceptor's promises, Opens and leases (protocol.md A1-A3, A8): what it says to whom, and what must be durable
 * before it does. */
#include "tests/unit/acceptor_rig.h"

/* ---- A1: promises ---- */

static void test_promise_waits_for_its_record(void **state)
{
    struct rig *r = *state;
    prepare(r, A(1), 0);
    const struct acceptor_effect *p = sent(r, MSG_PROMISE), *rec = find(r, ACCEPTOR_PROMISE);
    assert_non_null(p);
    assert_non_null(rec);
    assert_true(rec < p);
    assert_int_equal(p->after, rec->seq);
    assert_true(p->after > r->a.durable_seq);
    assert_int_equal(p->msg.cookie, 42);
    assert_int_equal(p->msg.u.promise.t_ns, 123);
    assert_int_equal(p->msg.u.promise.n_runs, 0);
    assert_int_equal(p->msg.u.promise.n_memberships, 1);
    struct ballot b = A(1);
    assert_true(ballot_equal(&r->a.promised, &b));
}

static void test_lower_prepare_is_refused_at_once(void **state)
{
    struct rig *r = *state;
    prepare(r, A(5), 0); /* not yet durable */
    prepare(r, B(4), 0);
    assert_null(sent(r, MSG_PROMISE));
    const struct acceptor_effect *n = sent(r, MSG_NACK);
    assert_non_null(n);
    struct ballot b = A(5);
    assert_true(ballot_equal(&n->msg.u.holder.promised, &b));
    assert_null(find(r, ACCEPTOR_PROMISE));
    stream(r, A(5), pos(0, A(0))); /* nor with a stream at hand */
    prepare(r, A(4), 0);
    assert_null(sent(r, MSG_PROMISE));
    assert_non_null(sent(r, MSG_NACK));
    assert_int_equal(r->a.stream, 1);
}

static void test_same_prepare_is_answered_again(void **state)
{
    struct rig *r = *state;
    prepare(r, A(5), 0);
    all_durable(r);
    prepare(r, A(5), 0);
    assert_non_null(sent(r, MSG_PROMISE));
    assert_null(find(r, ACCEPTOR_PROMISE)); /* nothing new to record */
}

/* Wrong rule 9: a Promise must list the log as it stands at its record, and let no Accept of a lower ballot slip in
 * behind. */
static void test_promise_covers_what_was_appended_and_nothing_after(void **state)
{
    struct rig *r = *state;
    stream(r, A(1), pos(0, A(0)));
    accept_on(r, 1, A(1), entry(r, 1, A(1)), 0);
    accept_on(r, 1, A(1), entry(r, 2, A(1)), 0);
    uint64_t append = find(r, ACCEPTOR_APPEND)->seq;
    prepare(r, B(2), 0);
    const struct acceptor_effect *p = sent(r, MSG_PROMISE);
    assert_int_equal(p->msg.u.promise.last.slot, 2);
    assert_int_equal(p->msg.u.promise.n_runs, 1);
    assert_true(p->after > append);
    /* Before that is durable, the old stream goes on sending. */
    accept_on(r, 1, A(1), entry(r, 3, A(1)), 0);
    assert_null(find(r, ACCEPTOR_APPEND));
    assert_non_null(sent(r, MSG_NACK));
    assert_false(holds(r, 3, A(1)));
    /* And the old entries' durability is acknowledged to nobody any more. */
    all_durable(r);
    assert_null(sent(r, MSG_ACCEPTED));
}

static void test_query_changes_nothing(void **state)
{
    struct rig *r = *state;
    prepare(r, A(3), LEASE);
    all_durable(r);
    struct acceptor *before = malloc(sizeof *before);
    memcpy(before, &r->a, sizeof *before);
    simple(r, MSG_QUERY, B(0));
    assert_memory_equal(before, &r->a, sizeof *before);
    free(before);
    const struct acceptor_effect *q = sent(r, MSG_QUERY_ACK);
    struct ballot a = A(3);
    assert_true(uuid_equal(&q->msg.u.holder.holder, &a.proposer));
    assert_int_equal(q->msg.u.holder.remaining_ns, LEASE);
    assert_string_equal(q->msg.u.holder.holder_name, "front");
    assert_true(ballot_equal(&q->msg.u.holder.promised, &a));
}

static void test_another_identity_or_group_is_refused(void **state)
{
    struct rig *r = *state;
    struct msg m = {.type = MSG_PREPARE, .group = GROUP, .ballot = A(1)};
    step(r, (struct acceptor_event){.type = ACCEPTOR_MSG, .link = 1, .msg = &m});
    assert_int_equal(sent(r, MSG_NACK)->msg.u.holder.unknown, 1);
    m.target = r->identity;
    m.group = GROUP + 1;
    step(r, (struct acceptor_event){.type = ACCEPTOR_MSG, .link = 1, .msg = &m});
    assert_int_equal(sent(r, MSG_NACK)->msg.u.holder.unknown, 1);
    assert_int_equal(r->a.promised.round, 0);
    m.group = GROUP;
    m.ballot.round = UINT64_MAX; /* nothing could ever outbid it */
    step(r, (struct acceptor_event){.type = ACCEPTOR_MSG, .link = 1, .msg = &m});
    assert_null(sent(r, MSG_PROMISE));
    assert_int_equal(r->a.promised.round, 0);
}

/* ---- A2, A3: Open ---- */

static void test_open_raises_promised_durably_first(void **state)
{
    struct rig *r = *state;
    open_on(r, 1, A(4), pos(0, A(0)));
    const struct acceptor_effect *rec = find(r, ACCEPTOR_PROMISE);
    assert_non_null(rec);
    assert_int_equal(sent(r, MSG_OPENED)->after, rec->seq);
    open_on(r, 2, A(3), pos(0, A(0)));
    assert_non_null(sent(r, MSG_NACK));
    assert_int_equal(r->a.stream, 1);
}

/* Wrong rule 2: it is not the length that has to match. */
static void test_open_needs_the_same_ballot_at_m(void **state)
{
    struct rig *r = *state;
    stream(r, A(1), pos(0, A(0)));
    fill(r, A(1), 1, 4, A(1));
    open_on(r, 2, B(3), pos(4, B(2)));
    const struct acceptor_effect *m = sent(r, MSG_MISMATCH);
    assert_non_null(m);
    assert_int_equal(m->msg.u.mismatch.n_runs, 1);
    assert_int_equal(m->msg.u.mismatch.runs[0].last, 4);
    assert_int_equal(r->a.stream, ACCEPTOR_NO_LINK);
    open_on(r, 2, B(3), pos(5, A(1)));
    assert_non_null(sent(r, MSG_MISMATCH));
    open_on(r, 2, B(3), pos(4, A(1)));
    assert_non_null(sent(r, MSG_OPENED));
}

/* Wrong rule 4, first half: what was learned as committed is not opened below. */
static void test_open_needs_m_at_or_above_commit(void **state)
{
    struct rig *r = *state;
    caught_up(r, pos(0, A(0)), 5, A(1));
    all_durable(r);
    assert_int_equal(r->a.commit, 5);
    open_on(r, 1, B(2), pos(3, A(1)));
    assert_non_null(sent(r, MSG_MISMATCH));
    assert_int_equal(sent(r, MSG_MISMATCH)->msg.u.mismatch.commit.slot, 5);
    open_on(r, 1, B(2), pos(5, A(1)));
    assert_non_null(sent(r, MSG_OPENED));
}

/* Wrong rule 5: an Open, be it the first of its ballot, cuts nothing. */
static void test_open_cuts_nothing(void **state)
{
    struct rig *r = *state;
    stream(r, A(1), pos(0, A(0)));
    fill(r, A(1), 1, 6, A(1));
    open_on(r, 2, B(2), pos(3, A(1)));
    assert_non_null(sent(r, MSG_OPENED));
    assert_null(find(r, ACCEPTOR_CUT));
    assert_true(holds(r, 6, A(1)));
    /* Nor does a first Accept that the own log agrees with. */
    accept_on(r, 2, B(2), entry(r, 4, A(1)), 0);
    assert_null(find(r, ACCEPTOR_CUT));
    assert_true(holds(r, 6, A(1)));
    assert_int_equal(sent(r, MSG_ACCEPTED)->msg.u.accepted.through, 4);
}

static void test_open_needs_no_lost_slot_below(void **state)
{
    struct rig *r = *state;
    begin_with_lost(r, 6, 4, 2);
    assert_int_equal(r->a.durable, 3);
    open_on(r, 1, A(2), pos(6, A(1)));
    const struct acceptor_effect *m = sent(r, MSG_MISMATCH);
    assert_int_equal(m->msg.u.mismatch.n_lost, 1);
    assert_int_equal(m->msg.u.mismatch.lost[0], 4);
    open_on(r, 1, A(2), pos(3, A(1)));
    assert_non_null(sent(r, MSG_OPENED));
    /* A4: refilled by the stream; acknowledged when that is durable, and then with what follows. */
    all_durable(r);
    accept_on(r, 1, A(2), entry(r, 4, A(1)), 0);
    const struct acceptor_effect *refill = find(r, ACCEPTOR_REFILL);
    assert_non_null(refill);
    assert_int_equal(refill->entry->slot, 4);
    accept_on(r, 1, A(2), entry(r, 5, A(1)), 0);
    assert_null(find(r, ACCEPTOR_APPEND));
    assert_null(sent(r, MSG_ACCEPTED));
    all_durable(r);
    assert_int_equal(sent(r, MSG_ACCEPTED)->msg.u.accepted.through, 5);
    assert_int_equal(r->a.durable, 6);
}

static void test_commit_from_disk_stays_below_what_is_lost(void **state)
{
    struct rig *r = *state;
    begin_with_lost(r, 6, 4, 5);
    assert_int_equal(r->a.commit, 3); /* so that catch-up begins there and fills it */
    caught_up(r, pos(3, A(1)), 6, A(1));
    assert_int_equal(count(r, ACCEPTOR_REFILL), 1);
    assert_null(find(r, ACCEPTOR_APPEND));
    assert_int_equal(r->a.commit, 6);
    assert_null(find(r, ACCEPTOR_COMMIT)); /* not before it is durable */
    all_durable(r);
    assert_int_equal(find(r, ACCEPTOR_COMMIT)->slot, 6);
}

/* Invariant V: it leaves the stream, may come back to it, and says in all that it says that it does not count. */
static void test_a_replica_that_needs_a_copy_says_so(void **state)
{
    struct rig *r = *state;
    stream(r, A(1), pos(0, A(0)));
    acceptor_set_needs_copy(&r->a, true);
    accept_on(r, 1, A(1), entry(r, 1, A(1)), 0);
    assert_null(find(r, ACCEPTOR_APPEND));
    open_on(r, 1, A(1), pos(0, A(0)));
    assert_int_equal(sent(r, MSG_OPENED)->msg.u.opened.needs_copy, 1);
    accept_on(r, 1, A(1), entry(r, 1, A(1)), 0);
    all_durable(r);
    assert_int_equal(sent(r, MSG_ACCEPTED)->msg.u.accepted.through, 1);
    assert_int_equal(sent(r, MSG_ACCEPTED)->msg.u.accepted.needs_copy, 1);
    beat(r, A(1), LEASE, pos(1, A(1)));
    assert_int_equal(sent(r, MSG_BEAT_ACK)->msg.u.beat_ack.needs_copy, 1);
    prepare(r, A(2), 0); /* its old log still answers */
    assert_int_equal(sent(r, MSG_PROMISE)->msg.u.promise.needs_copy, 1);
    assert_int_equal(sent(r, MSG_PROMISE)->msg.u.promise.n_runs, 1);
    assert_int_equal(read_at(r, A(2), 0), ACCEPTOR_READ_NACK);
}

/* ---- A8: leases ---- */

static void test_lease_keeps_others_out_until_it_ends(void **state)
{
    struct rig *r = *state;
    prepare(r, A(1), LEASE);
    assert_int_equal(sent(r, MSG_PROMISE)->msg.u.promise.lease_ns, LEASE);
    all_durable(r);
    r->now += LEASE - 1;
    prepare(r, B(2), LEASE);
    const struct acceptor_effect *n = sent(r, MSG_NACK);
    assert_non_null(n);
    assert_int_equal(n->msg.u.holder.remaining_ns, 1);
    assert_string_equal(n->msg.u.holder.holder_name, "front");
    assert_int_equal(r->a.promised.round, 1);
    prepare(r, A(3), LEASE); /* its holder may */
    assert_non_null(sent(r, MSG_PROMISE));
    all_durable(r);
    r->now += LEASE;
    prepare(r, B(4), 0);
    assert_non_null(sent(r, MSG_PROMISE));
    assert_int_equal(sent(r, MSG_PROMISE)->msg.u.promise.lease_ns, 0);
}

static void test_beats_prolong_a_lease(void **state)
{
    struct rig *r = *state;
    prepare(r, A(1), LEASE);
    all_durable(r);
    r->now += LEASE - 1;
    beat(r, A(1), LEASE, pos(0, A(0)));
    const struct acceptor_effect *b = sent(r, MSG_BEAT_ACK);
    assert_int_equal(b->msg.u.beat_ack.lease_ns, LEASE);
    assert_int_equal(b->msg.u.beat_ack.t_ns, 99);
    assert_true(b->after <= r->a.durable_seq);
    r->now += LEASE - 1;
    prepare(r, B(2), 0);
    assert_non_null(sent(r, MSG_NACK));
    beat(r, B(2), LEASE, pos(0, A(0))); /* A2: above promised, granted nothing */
    assert_null(sent(r, MSG_BEAT_ACK));
}

/* Wrong rule 13: a lease that a restart would forget must not be told before it is durable ... */
static void test_largest_lease_is_durable_before_it_is_told(void **state)
{
    struct rig *r = *state;
    prepare(r, A(1), LEASE);
    all_durable(r);
    beat(r, A(1), 2 * LEASE, pos(0, A(0)));
    assert_non_null(find(r, ACCEPTOR_PROMISE));
    uint64_t record = find(r, ACCEPTOR_PROMISE)->seq;
    assert_int_equal(sent(r, MSG_BEAT_ACK)->after, record);
    beat(r, A(1), 2 * LEASE, pos(0, A(0))); /* and again, before it is */
    assert_null(find(r, ACCEPTOR_PROMISE));
    assert_int_equal(sent(r, MSG_BEAT_ACK)->after, record);
    assert_int_equal(r->a.max_lease_ns, 2 * LEASE);
    prepare(r, A(1), 4 * LEASE); /* the same ballot again: not a new promise, but a longer lease */
    assert_non_null(find(r, ACCEPTOR_PROMISE));
    assert_int_equal(sent(r, MSG_PROMISE)->after, find(r, ACCEPTOR_PROMISE)->seq);
}

/* ... and is honoured after it. */
static void test_restart_waits_for_the_longest_lease(void **state)
{
    struct rig *r = *state;
    begin(r, &(struct acceptor_state){.promised = A(3), .max_lease_ns = LEASE, .restarted = true});
    r->now += LEASE - 1;
    prepare(r, B(4), 0);
    const struct acceptor_effect *n = sent(r, MSG_NACK);
    assert_non_null(n);
    struct ballot a = A(3);
    assert_true(uuid_equal(&n->msg.u.holder.holder, &a.proposer));
    prepare(r, A(5), 0);
    assert_non_null(sent(r, MSG_PROMISE));
    r->now += 1;
    prepare(r, B(6), 0);
    assert_non_null(sent(r, MSG_PROMISE));
    begin(r, &(struct acceptor_state){.promised = A(3), .max_lease_ns = LEASE, .restarted = false});
    prepare(r, B(4), 0); /* a group just made */
    assert_non_null(sent(r, MSG_PROMISE));
}

static void test_release(void **state)
{
    struct rig *r = *state;
    prepare(r, A(1), LEASE);
    all_durable(r);
    simple(r, MSG_RELEASE, A(2)); /* not this one */
    prepare(r, B(2), 0);
    assert_non_null(sent(r, MSG_NACK));
    simple(r, MSG_RELEASE, A(1));
    beat(r, A(1), LEASE, pos(0, A(0))); /* later Beats are refused */
    assert_null(sent(r, MSG_BEAT_ACK));
    prepare(r, A(1), LEASE); /* a late copy of its Prepare gets no lease again */
    assert_int_equal(sent(r, MSG_PROMISE)->msg.u.promise.lease_ns, 0);
    prepare(r, B(2), 0);
    assert_non_null(sent(r, MSG_PROMISE));
    begin(r, &(struct acceptor_state){.promised = A(3), .max_lease_ns = LEASE, .restarted = true});
    simple(r, MSG_RELEASE, A(3)); /* nobody else could hold one from before */
    prepare(r, B(4), 0);
    assert_non_null(sent(r, MSG_PROMISE));
}

static void test_force(void **state)
{
    struct rig *r = *state;
    prepare(r, A(1), LEASE);
    all_durable(r);
    struct msg m = {.type = MSG_FORCE, .ballot = B(1)};
    m.u.force.expiry_ns = 50 * MS;
    say(r, 1, m);
    prepare(r, ballot(9, 'c'), 0);
    assert_non_null(sent(r, MSG_NACK));
    r->now += 50 * MS; /* it expires by itself */
    prepare(r, B(2), 0);
    assert_non_null(sent(r, MSG_NACK));
    say(r, 1, m);
    prepare(r, B(2), LEASE);
    assert_non_null(sent(r, MSG_PROMISE));
    struct ballot b = B(2);
    assert_true(uuid_equal(&r->a.holder, &b.proposer));
}

static void test_leases_are_bounded(void **state)
{
    struct rig *r = *state;
    prepare(r, A(1), UINT64_MAX);
    assert_int_equal(sent(r, MSG_PROMISE)->msg.u.promise.lease_ns, PAXOS_LEASE_MAX_NS);
    assert_true(r->a.lease_until_ns > r->now);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_promise_waits_for_its_record),
        T(test_lower_prepare_is_refused_at_once),
        T(test_same_prepare_is_answered_again),
        T(test_promise_covers_what_was_appended_and_nothing_after),
        T(test_query_changes_nothing),
        T(test_another_identity_or_group_is_refused),
        T(test_open_raises_promised_durably_first),
        T(test_open_needs_the_same_ballot_at_m),
        T(test_open_needs_m_at_or_above_commit),
        T(test_open_cuts_nothing),
        T(test_open_needs_no_lost_slot_below),
        T(test_commit_from_disk_stays_below_what_is_lost),
        T(test_a_replica_that_needs_a_copy_says_so),
        T(test_lease_keeps_others_out_until_it_ends),
        T(test_beats_prolong_a_lease),
        T(test_largest_lease_is_durable_before_it_is_told),
        T(test_restart_waits_for_the_longest_lease),
        T(test_release),
        T(test_force),
        T(test_leases_are_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
