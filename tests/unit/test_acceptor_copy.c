/* How an acceptor that fell behind comes back: catch-up (protocol.md A7), the jump of a copy (docs/rebuild.md section
 * 3), and what one says that was voted out meanwhile. */
#include "tests/unit/acceptor_rig.h"

/* ---- A7: catch-up ---- */

static void test_catchup_keeps_a_matching_tail(void **state)
{
    struct rig *r = *state;
    stream(r, A(1), pos(0, A(0)));
    fill(r, A(1), 1, 6, A(1));
    caught_up(r, pos(0, A(0)), 4, A(1));
    assert_null(find(r, ACCEPTOR_CUT));
    assert_null(find(r, ACCEPTOR_APPEND));
    assert_int_equal(r->a.commit, 4);
    assert_true(holds(r, 6, A(1)));
    assert_int_equal(r->a.stream, 1);
}

static void test_catchup_replaces_from_the_first_other_entry(void **state)
{
    struct rig *r = *state;
    stream(r, A(1), pos(0, A(0)));
    fill(r, A(1), 1, 6, A(1));
    prepare(r, B(2), 0);
    all_durable(r);
    struct entry *list[] = {entry(r, 1, A(1)), entry(r, 2, A(1)), entry(r, 3, B(2)), entry(r, 4, B(2))};
    step(r, (struct acceptor_event){.type = ACCEPTOR_CAUGHT_UP,
                                    .from = pos(0, A(0)),
                                    .through = pos(4, B(2)),
                                    .entries = list,
                                    .n_entries = 4});
    assert_int_equal(count(r, ACCEPTOR_CUT), 1);
    assert_int_equal(find(r, ACCEPTOR_CUT)->slot, 3);
    assert_int_equal(count(r, ACCEPTOR_APPEND), 2);
    assert_int_equal(paxos_log_last(&r->a.log).slot, 4);
    assert_int_equal(r->a.commit, 4);
    assert_int_equal(find(r, ACCEPTOR_COMMIT)->slot, 2); /* the rest when durable */
    all_durable(r);
    assert_int_equal(find(r, ACCEPTOR_COMMIT)->slot, 4);
}

/* A peer's log begins above the own commit, but the own log holds its floor: the logs meet there after all. */
static void test_the_floor_of_a_peers_log_vouches_for_the_own_one(void **state)
{
    struct rig *r = *state;
    stream(r, A(1), pos(0, A(0)));
    fill(r, A(1), 1, 6, A(1));
    all_durable(r);
    step(r, (struct acceptor_event){.type = ACCEPTOR_CAUGHT_UP, .through = pos(4, B(1))});
    step(r, (struct acceptor_event){.type = ACCEPTOR_CAUGHT_UP, .through = pos(7, A(1))});
    assert_int_equal(r->a.commit, 0); /* by number it would do */
    step(r, (struct acceptor_event){.type = ACCEPTOR_CAUGHT_UP, .through = pos(4, A(1))});
    assert_int_equal(r->a.commit, 4);
    assert_int_equal(find(r, ACCEPTOR_COMMIT)->slot, 4);
    assert_true(holds(r, 6, A(1)));
    step(r, (struct acceptor_event){.type = ACCEPTOR_CAUGHT_UP, .through = pos(2, A(1))});
    assert_int_equal(r->a.commit, 4);

    begin_with_lost(r, 6, 4, 2);
    step(r, (struct acceptor_event){.type = ACCEPTOR_CAUGHT_UP, .through = pos(5, A(1))});
    assert_int_equal(r->a.commit, 3); /* not over a value that is not here */
}

static void test_catchup_that_cuts_what_was_matched_ends_the_stream(void **state)
{
    struct rig *r = *state;
    stream(r, A(1), pos(0, A(0)));
    fill(r, A(1), 1, 6, A(1));
    caught_up(r, pos(0, A(0)), 3, B(2));
    assert_int_equal(r->a.stream, ACCEPTOR_NO_LINK);
    assert_false(r->a.match_valid);
    assert_int_equal(r->a.commit, 3);
    accept_on(r, 1, A(1), entry(r, 7, A(1)), 0);
    assert_null(find(r, ACCEPTOR_APPEND));
}

static void test_stale_and_foreign_pieces_change_nothing(void **state)
{
    struct rig *r = *state;
    caught_up(r, pos(0, A(0)), 5, A(1));
    all_durable(r);
    caught_up(r, pos(0, A(0)), 3, A(1)); /* long known */
    assert_int_equal(r->fx.n, 0);
    caught_up(r, pos(2, A(1)), 7, A(1)); /* overlaps: what is new counts */
    assert_int_equal(count(r, ACCEPTOR_APPEND), 2);
    all_durable(r);
    caught_up(r, pos(9, A(1)), 10, A(1)); /* not contiguous */
    assert_int_equal(r->fx.n, 0);
    caught_up(r, pos(7, B(1)), 8, B(2)); /* another history */
    assert_int_equal(r->fx.n, 0);
    caught_up(r, pos(5, A(1)), 7, B(2)); /* contradicts what is committed here */
    assert_int_equal(r->fx.n, 0);
    assert_int_equal(paxos_log_last(&r->a.log).slot, 7);
    assert_true(holds(r, 7, A(1)));
}

/* A piece ahead of the own commit, though the own log reaches that far with other entries. */
static void test_a_piece_behind_an_uncommitted_slot_is_ignored(void **state)
{
    struct rig *r = *state;
    stream(r, A(1), pos(0, A(0)));
    fill(r, A(1), 1, 4, A(1));
    caught_up(r, pos(4, A(1)), 6, A(1));
    assert_int_equal(r->fx.n, 0);
    assert_int_equal(r->a.commit, 0);
}

/* ---- the jump (docs/rebuild.md section 3) ---- */

static void jump(struct rig *r, struct log_pos to, const struct membership *m)
{
    struct membership same = r->a.committed;
    step(r, (struct acceptor_event){.type = ACCEPTOR_JUMP, .to = to, .membership = m ? m : &same});
}

/* It was in the majority that chose slots 4 and 5; the value of slot 2 rotted, and the peers' logs begin above it. */
static void test_a_jump_keeps_the_tail_above_what_the_log_holds(void **state)
{
    struct rig *r = *state;
    stream(r, A(1), pos(0, A(0)));
    fill(r, A(1), 1, 5, A(1));
    struct paxos_log log = r->a.log;
    begin(r, &(struct acceptor_state){.promised = A(1), .log = &log, .n_lost = 2, .lost = (uint64_t[]){2, 5}, .commit = 1,
                                      .restarted = true, .needs_copy = true});
    r->a.identity = r->identity;
    jump(r, pos(3, A(1)), NULL);
    assert_null(find(r, ACCEPTOR_CUT));
    assert_null(find(r, ACCEPTOR_COMMIT));
    assert_true(holds(r, 5, A(1)));
    assert_int_equal(r->a.log.base.slot, 3);
    assert_int_equal(r->a.commit, 3);
    assert_int_equal(r->a.told, 3);
    assert_int_equal(r->a.n_lost, 1); /* what is LOST above stays so */
    assert_int_equal(r->a.durable, 4);
    assert_true(r->a.needs_copy);
    assert_int_equal(r->a.stream, ACCEPTOR_NO_LINK);
    prepare(r, A(2), 0);
    const struct msg *p = &sent(r, MSG_PROMISE)->msg;
    assert_int_equal(p->u.promise.last.slot, 5);
    assert_int_equal(p->u.promise.commit.slot, 3);
}

static void test_a_jump_to_what_the_log_does_not_hold_empties_it(void **state)
{
    struct rig *r = *state;
    stream(r, A(1), pos(0, A(0)));
    fill(r, A(1), 1, 5, A(1));
    accept_on(r, 1, A(1), entry(r, 6, A(1)), 0); /* not durable yet */
    acceptor_set_needs_copy(&r->a, true);
    jump(r, pos(4, B(2)), NULL); /* the own log parted from what was chosen */
    assert_int_equal(find(r, ACCEPTOR_CUT)->slot, 5);
    assert_null(find(r, ACCEPTOR_COMMIT));
    assert_int_equal(paxos_log_last(&r->a.log).slot, 4);
    assert_true(holds(r, 4, B(2)));
    assert_int_equal(r->a.durable, 4);
    assert_int_equal(r->a.n_pending, 0);
    all_durable(r); /* the record of slot 6 as well: it is nothing any more */
    assert_int_equal(r->a.durable, 4);
    open_on(r, 2, B(3), pos(4, B(2)));
    all_durable(r);
    accept_on(r, 2, B(3), entry(r, 5, B(3)), 4);
    all_durable(r);
    assert_int_equal(sent(r, MSG_ACCEPTED)->msg.u.accepted.through, 5);
    assert_int_equal(sent(r, MSG_ACCEPTED)->msg.u.accepted.needs_copy, 1);
    /* Far above its end: the same. */
    acceptor_set_needs_copy(&r->a, true);
    jump(r, pos(100, B(3)), NULL);
    assert_int_equal(find(r, ACCEPTOR_CUT)->slot, 101);
    assert_int_equal(paxos_log_last(&r->a.log).slot, 100);
}

static void test_a_jump_within_what_is_not_durable_yet(void **state)
{
    struct rig *r = *state;
    stream(r, A(1), pos(0, A(0)));
    for (uint64_t s = 1; s <= 6; s++)
        accept_on(r, 1, A(1), entry(r, s, A(1)), 0);
    acceptor_set_needs_copy(&r->a, true);
    jump(r, pos(3, A(1)), NULL);
    assert_int_equal(r->a.durable, 3); /* that is in the jump's checkpoint */
    durable(r, 5 + 1);                 /* the promise and slots 1 to 5 */
    assert_int_equal(r->a.durable, 5);
    all_durable(r);
    assert_int_equal(r->a.durable, 6);
}

static void test_a_jump_is_upwards_and_for_those_that_need_it(void **state)
{
    struct rig *r = *state;
    stream(r, A(1), pos(0, A(0)));
    fill(r, A(1), 1, 5, A(1));
    beat(r, A(1), 0, pos(4, A(1)));
    jump(r, pos(5, A(1)), NULL);
    assert_int_equal(r->a.log.base.slot, 0); /* it needs none */
    acceptor_set_needs_copy(&r->a, true);
    jump(r, pos(4, A(1)), NULL);
    assert_int_equal(r->a.log.base.slot, 0); /* not above its own position */
    assert_int_equal(r->fx.n, 0);
}

/* Complete is said at once where a stream is open: the proposer counts by an Accepted alone. */
static void test_a_copy_that_is_complete_says_so(void **state)
{
    struct rig *r = *state;
    acceptor_set_needs_copy(&r->a, true);
    jump(r, pos(9, A(1)), NULL);
    all_durable(r);
    stream(r, A(2), pos(9, A(1)));
    fill(r, A(2), 10, 11, A(2));
    step(r, (struct acceptor_event){.type = ACCEPTOR_COMPLETE});
    assert_int_equal(sent(r, MSG_ACCEPTED)->msg.u.accepted.through, 11);
    assert_int_equal(sent(r, MSG_ACCEPTED)->msg.u.accepted.needs_copy, 0);
    assert_int_equal(r->fx.n, 1);
    step(r, (struct acceptor_event){.type = ACCEPTOR_COMPLETE});
    assert_int_equal(r->fx.n, 0); /* once */
    assert_int_equal(read_at(r, A(2), 9), ACCEPTOR_READ_OK);
}

/* The jump brings the membership that was committed at its place. */
static void test_a_jump_brings_the_membership(void **state)
{
    struct rig *r = *state;
    struct uuid others[3] = {{{1}}, {{2}}, {{3}}};
    struct membership with = {.n_voters = 3}, without = {.slot = 7, .n_voters = 3};
    memset(&r->identity, 0x77, sizeof r->identity);
    with.voter[0] = r->identity;
    for (int i = 0; i < 3; i++) {
        without.voter[i] = others[i];
        if (i > 0)
            with.voter[i] = others[i];
    }
    static struct paxos_log empty;
    struct membership uncommitted = with;
    uncommitted.slot = 3;
    struct paxos_log log = {.n = 1, .run = {{A(1), 1, 4}}};
    begin(r, &(struct acceptor_state){.promised = A(1), .log = &log, .committed = with, .uncommitted = &uncommitted,
                                      .needs_copy = true});
    assert_true(acceptor_is_voter(&r->a));
    jump(r, pos(9, B(2)), &without);
    assert_non_null(find(r, ACCEPTOR_MEMBERSHIP));
    assert_int_equal(r->a.committed.slot, 7);
    assert_false(r->a.has_uncommitted);
    assert_true(r->a.retired);
    /* Its own uncommitted one at or below the place, in a log that holds the place, is committed. */
    begin(r, &(struct acceptor_state){.promised = A(1), .log = &log, .committed = with, .uncommitted = &uncommitted,
                                      .needs_copy = true});
    jump(r, pos(4, A(1)), &with);
    assert_int_equal(r->a.committed.slot, 3);
    assert_false(r->a.has_uncommitted);
    (void)empty;
}

/* One that stands above the place is not known to be chosen by the jump; it may be, by this replica's vote. */
static void test_a_jump_below_an_uncommitted_membership_keeps_it(void **state)
{
    struct rig *r = *state;
    struct membership committed = {.n_voters = 3, .voter = {r->identity, {{2}}, {{3}}}}, next = committed;
    next.slot = 5;
    next.voter[2] = (struct uuid){{4}};
    struct paxos_log log = {.n = 1, .run = {{A(1), 1, 6}}};
    begin(r, &(struct acceptor_state){.promised = A(1), .log = &log, .committed = committed, .uncommitted = &next, .needs_copy = true});
    jump(r, pos(3, A(1)), &committed);
    assert_int_equal(r->a.commit, 3);
    assert_int_equal(r->a.committed.slot, 0);
    assert_true(r->a.has_uncommitted);
    prepare(r, A(2), 0);
    const struct msg *p = &sent(r, MSG_PROMISE)->msg;
    assert_int_equal(p->u.promise.n_memberships, 2); /* whoever takes the log over has to ask the new voters as well */
    assert_int_equal(p->u.promise.memberships[1].slot, 5);
    stream(r, A(2), pos(6, A(1)));
    beat(r, A(2), 0, pos(4, A(1)));
    assert_true(r->a.has_uncommitted);
    beat(r, A(2), 0, pos(5, A(1)));
    assert_non_null(find(r, ACCEPTOR_MEMBERSHIP));
    assert_int_equal(r->a.committed.slot, 5);
    assert_true(uuid_equal(&r->a.committed.voter[2], &next.voter[2]));
}

/* ---- retirement ---- */

static void test_a_replica_that_was_voted_out_says_so(void **state)
{
    struct rig *r = *state;
    struct membership with = {.n_voters = 3, .voter = {r->identity, {{2}}, {{3}}}};
    begin(r, &(struct acceptor_state){.committed = with});
    assert_true(acceptor_is_voter(&r->a));
    stream(r, A(1), pos(0, A(0)));
    struct entry *m = member(r, 1, A(1), 3);
    m->u[0].membership.voter[0] = (struct uuid){{4}};
    m->u[0].membership.voter[1] = (struct uuid){{2}};
    m->u[0].membership.voter[2] = (struct uuid){{3}};
    accept_on(r, 1, A(1), m, 0);
    all_durable(r);
    beat(r, A(1), 0, pos(0, A(0)));
    assert_int_equal(sent(r, MSG_BEAT_ACK)->msg.u.beat_ack.retired, 0); /* not committed yet */
    beat(r, A(1), 0, pos(1, A(1)));
    assert_int_equal(sent(r, MSG_BEAT_ACK)->msg.u.beat_ack.retired, 1);
    simple(r, MSG_QUERY, B(0));
    assert_int_equal(sent(r, MSG_QUERY_ACK)->msg.u.holder.retired, 1);
    prepare(r, A(2), 0); /* what it knows may be needed by somebody who does not know of the new ones */
    assert_int_equal(sent(r, MSG_PROMISE)->msg.u.promise.retired, 1);
    assert_int_equal(sent(r, MSG_PROMISE)->msg.u.promise.commit.slot, 1);
    prepare(r, A(1), 0);
    assert_int_equal(sent(r, MSG_NACK)->msg.u.holder.retired, 1);
    /* After a restart the disk says so; voted in again, it is a voter. */
    struct membership out = r->a.committed;
    begin(r, &(struct acceptor_state){.committed = out, .retired = true, .restarted = true});
    assert_true(r->a.retired);
    begin(r, &(struct acceptor_state){.committed = with, .retired = true, .restarted = true});
    assert_false(r->a.retired);
    /* A learner was never a voter. */
    begin(r, &(struct acceptor_state){.committed = out, .needs_copy = true});
    assert_false(r->a.retired || acceptor_is_voter(&r->a));
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_catchup_keeps_a_matching_tail),
        T(test_catchup_replaces_from_the_first_other_entry),
        T(test_the_floor_of_a_peers_log_vouches_for_the_own_one),
        T(test_catchup_that_cuts_what_was_matched_ends_the_stream),
        T(test_stale_and_foreign_pieces_change_nothing),
        T(test_a_piece_behind_an_uncommitted_slot_is_ignored),
        T(test_a_jump_keeps_the_tail_above_what_the_log_holds),
        T(test_a_jump_to_what_the_log_does_not_hold_empties_it),
        T(test_a_jump_within_what_is_not_durable_yet),
        T(test_a_jump_is_upwards_and_for_those_that_need_it),
        T(test_a_copy_that_is_complete_says_so),
        T(test_a_jump_brings_the_membership),
        T(test_a_jump_below_an_uncommitted_membership_keeps_it),
        T(test_a_replica_that_was_voted_out_says_so),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
