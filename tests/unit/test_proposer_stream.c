/* The proposer's streams (protocol.md P4, P5, P10), against answers written by hand: where they begin, what is chosen,
 * how much may be under way, and what is kept for those that are away. */
#include "tests/unit/proposer_rig.h"

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

static void test_a_write_of_no_blocks_needs_no_space(void **state)
{
    struct rig *r = *state;
    serving(r);
    for (unsigned i = 0; i < N; i++)
        accepted_with(r, i, 1, (struct credits){.slabs = 0, .slot_limit = 100});
    struct entry *e = entry_at(r, ENTRY_WRITE, 0, zero);
    assert_int_equal(submit(r, e), -ENOSPC);
    e->nblocks = 0;
    assert_int_equal(submit(r, e), 0);
    assert_int_equal(r->p.slabs_total, 0);
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

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_a_replica_below_the_ring_catches_up_first),
        T(test_mismatch_finds_the_place),
        T(test_refused_at_the_matching_place),
        T(test_nack_of_an_unknown_stream_opens_it_again),
        T(test_a_full_replica_is_asked_for_a_stream_now_and_then),
        T(test_chosen_needs_the_own_session_start),
        T(test_answers_of_another_ballot_never_count),
        T(test_entries_carry_the_commit),
        T(test_slots_within_the_space_of_a_majority),
        T(test_a_write_of_no_blocks_needs_no_space),
        T(test_half_the_ring_may_be_under_way),
        T(test_bytes_under_way_are_bounded),
        T(test_chosen_entries_wait_for_a_replica_that_is_away),
        T(test_a_replica_too_far_behind_is_cut_off),
        T(test_nothing_unchosen_is_forgotten),
        T(test_opened_too_late),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
