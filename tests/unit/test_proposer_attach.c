/* The proposer becomes the holder, stays it or loses it (protocol.md P1, P7, P8), against answers written by hand:
 * attaching, a lost ballot and what becomes of the own writes, leases. */
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

/* ---- ends and dead ends ---- */

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
        T(test_own_writes_found_and_not_found),
        T(test_a_place_that_comes_back),
        T(test_fenced_by_a_foreign_session_start),
        T(test_fenced_by_a_foreign_base),
        T(test_leases_count_from_the_send_time),
        T(test_no_reads_without_serving),
        T(test_leases_off),
        T(test_detach),
        T(test_a_start_that_gets_stuck_is_tried_anew),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
