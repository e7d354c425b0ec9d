/* The acceptor, rule by rule (protocol.md A1-A8), one step at a time: what it answers, what has to be durable before,
 * and what it must not do. */
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

static void begin_with_lost(struct rig *r, uint64_t last, uint64_t lost, uint64_t commit)
{
    static struct paxos_log log;
    memset(&log, 0, sizeof log);
    for (uint64_t s = 1; s <= last; s++) {
        struct ballot e = A(1);
        assert_true(paxos_log_append(&log, s, &e));
    }
    begin(r, &(struct acceptor_state){
                 .promised = A(1), .log = &log, .n_lost = 1, .lost = &lost, .commit = commit, .restarted = true});
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

/* ---- the jump (docs/rebuild.md section 3) ---- */

static void jump(struct rig *r, struct log_pos to, const struct membership *m)
{
    struct membership same = r->a.committed;
    step(r, (struct acceptor_event){.type = ACCEPTOR_JUMP, .to = to, .membership = m ? m : &same});
}

/* The last resort: two of three voters are gone for good. What stands here is the group's, without what rot has taken. */
static void test_a_survivor_is_made_the_group(void **state)
{
    struct rig *r = *state;
    stream(r, A(1), pos(0, A(0)));
    fill(r, A(1), 1, 5, A(1));
    assert_non_null(acceptor_may_recover(&r->a, r->now)); /* A's lease */
    struct paxos_log log = r->a.log;
    struct membership three = {.n_voters = 3, .voter = {r->identity, {.b = {1}}, {.b = {2}}}};
    begin(r, &(struct acceptor_state){.promised = A(1), .log = &log, .n_lost = 1, .lost = (uint64_t[]){4}, .commit = 2, .restarted = true,
                                      .committed = three});
    r->a.identity = r->identity;
    assert_null(acceptor_may_recover(&r->a, r->now));
    acceptor_set_needs_copy(&r->a, true);
    assert_non_null(acceptor_may_recover(&r->a, r->now));
    acceptor_set_needs_copy(&r->a, false);
    struct entry *e = member(r, 0, A(0), 1);
    e->u[0].membership.voter[0] = r->identity;
    step(r, (struct acceptor_event){.type = ACCEPTOR_RECOVER, .now_ns = r->now, .entries = &e, .n_entries = 1, .ballot = B(2)});
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
    assert_non_null(acceptor_may_recover(&r->a, r->now)); /* once is enough */
    prepare(r, A(2), 0);
    assert_non_null(sent(r, MSG_NACK)); /* whoever was under way is outbid */
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

/* ---- logs as runs ---- */

static void test_log_match(void **state)
{
    struct paxos_log *a = calloc(1, sizeof *a), *b = calloc(1, sizeof *b);
    struct log_pos m;
    assert_true(paxos_log_match(a, b, &m));
    assert_int_equal(m.slot, 0);
    for (uint64_t s = 1; s <= 10; s++) {
        struct ballot e = s <= 3 ? A(1) : s <= 7 ? A(2) : A(4), f = s <= 3 ? A(1) : s <= 5 ? A(2) : B(3);
        assert_true(paxos_log_append(a, s, &e));
        assert_true(paxos_log_append(b, s, &f));
    }
    assert_true(paxos_log_match(a, b, &m));
    assert_int_equal(m.slot, 5);
    paxos_log_trim(b, 4);
    assert_true(paxos_log_match(a, b, &m));
    assert_int_equal(m.slot, 5);
    paxos_log_trim(b, 5);
    assert_true(paxos_log_match(a, b, &m));
    assert_int_equal(m.slot, 5);
    paxos_log_trim(b, 6);
    assert_false(paxos_log_match(a, b, &m));
    assert_false(paxos_log_match(b, a, &m));
    paxos_log_cut(a, 6);
    assert_false(paxos_log_match(a, b, &m));
    assert_true(paxos_log_match(a, a, &m));
    assert_int_equal(m.slot, 5);
    free(a);
    free(b);
}

/* Wrong rule 1: the ballot of the last entry decides, then the length; not the length, not the last contact. */
static void test_order_of_logs(void **state)
{
    struct log_pos longer = pos(9, A(1)), newer = pos(5, A(2)), newest = pos(6, A(2));
    assert_true(log_pos_compare(&newer, &longer) > 0);
    assert_true(log_pos_compare(&newest, &newer) > 0);
    assert_int_equal(log_pos_compare(&newer, &newer), 0);
}

static void test_runs_from_outside_are_checked(void **state)
{
    struct log_pos base = pos(2, A(1));
    struct run ok[] = {{A(1), 3, 4}, {A(2), 5, 5}};
    assert_true(paxos_runs_valid(&base, 2, ok));
    struct run gap[] = {{A(1), 4, 4}}, reversed[] = {{A(1), 3, 2}}, falls[] = {{A(2), 3, 3}, {A(1), 4, 4}},
               twice[] = {{A(2), 3, 3}, {A(2), 4, 4}}, below[] = {{A(0), 3, 3}};
    assert_false(paxos_runs_valid(&base, 1, gap));
    assert_false(paxos_runs_valid(&base, 1, reversed));
    assert_false(paxos_runs_valid(&base, 2, falls));
    assert_false(paxos_runs_valid(&base, 2, twice));
    assert_false(paxos_runs_valid(&base, 1, below));
    assert_false(paxos_runs_valid(&base, RUNS_MAX + 1, ok));
    uint64_t lost[] = {3, 5};
    assert_true(paxos_lost_valid(2, lost, 2, 5));
    assert_false(paxos_lost_valid(2, lost, 3, 5));
    assert_false(paxos_lost_valid(2, lost, 2, 4));
    uint64_t same[] = {3, 3};
    assert_false(paxos_lost_valid(2, same, 2, 5));
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
        T(test_a_jump_keeps_the_tail_above_what_the_log_holds),
        T(test_a_jump_to_what_the_log_does_not_hold_empties_it),
        T(test_a_jump_within_what_is_not_durable_yet),
        T(test_a_jump_is_upwards_and_for_those_that_need_it),
        T(test_a_copy_that_is_complete_says_so),
        T(test_a_jump_brings_the_membership),
        T(test_a_replica_that_was_voted_out_says_so),
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
        T(test_catchup_keeps_a_matching_tail),
        T(test_catchup_replaces_from_the_first_other_entry),
        T(test_the_floor_of_a_peers_log_vouches_for_the_own_one),
        T(test_catchup_that_cuts_what_was_matched_ends_the_stream),
        T(test_stale_and_foreign_pieces_change_nothing),
        T(test_a_piece_behind_an_uncommitted_slot_is_ignored),
        T(test_lease_keeps_others_out_until_it_ends),
        T(test_beats_prolong_a_lease),
        T(test_largest_lease_is_durable_before_it_is_told),
        T(test_restart_waits_for_the_longest_lease),
        T(test_release),
        T(test_force),
        T(test_leases_are_bounded),
        T(test_membership_entries),
        T(test_memberships_by_catchup),
        T(test_trim),
        T(test_a_stream_that_was_overtaken),
        T(test_more_sessions_than_runs),
        T(test_more_uncommitted_sessions_than_runs),
        T(test_a_survivor_is_made_the_group),
        T(test_log_match),
        T(test_order_of_logs),
        T(test_runs_from_outside_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
