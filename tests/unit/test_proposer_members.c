/* The proposer and its replicas (protocol.md P9, docs/rebuild.md), against answers written by hand: replicas that need
 * a copy, links that come and go, learners, changes of the voters. */
#include "tests/unit/proposer_rig.h"

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
    m.u.holder.membership.n_voters = MEMBERS_MAX + 1; /* more than there are places */
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

/* ... and says so as well when it refuses: a lease that nobody holds any more but it. It is sent nothing, whoever votes. */
static void test_one_who_was_voted_out_refuses(void **state)
{
    struct rig *r = *state;
    preparing(r);
    struct uuid them = other(1).proposer;
    struct msg m = answer(r, MSG_NACK);
    m.u.holder.holder = them;
    m.u.holder.remaining_ns = 300 * MS;
    m.u.holder.retired = 1;
    say(r, 0, m);
    assert_int_equal(r->p.state, PROPOSER_PREPARING);
    assert_true(r->p.replica[0].retired);
    struct log_text t = {.n_runs = 1, .run = {{other(1), 1, 4}}, .commit = pos(4, other(1)), .n_memberships = 1, .membership = {voters(1, 3, 4)}};
    promise(r, 1, &t);
    promise(r, 2, &t);
    session_entry(r);
    assert_int_equal(r->p.state, PROPOSER_STARTING);
    assert_null(sent(r, 0, MSG_OPEN));
    assert_non_null(sent(r, 1, MSG_OPEN));
    down(r, 0);
    up(r, 0);
    assert_null(sent(r, 0, MSG_OPEN));
    opened(r, 1, 4);
    opened(r, 2, 4);
    accepted(r, 1, 5);
    accepted(r, 2, 5);
    assert_int_equal(r->p.state, PROPOSER_SERVING);
    down(r, 0);
    up(r, 0);
    assert_null(sent(r, 0, MSG_OPEN));
    tick(r, 5000 * MS);
    assert_null(sent(r, 0, MSG_OPEN));
}

/* Two answers name different voters for one slot. The one that was heard first is as good as the other: its voters are not looked
 * for any more. */
static void test_voters_that_are_not_believed_are_not_looked_for(void **state)
{
    struct rig *r = *state;
    preparing(r);
    struct log_text t = {.n_memberships = 1, .membership = {voters(0, 3, 0)}};
    t.membership[0].voter[2] = node_id(3);
    promise(r, 0, &t);
    assert_true(wants_link(r, 3));
    promise(r, 1, &(struct log_text){0});
    assert_int_equal(r->p.state, PROPOSER_WAITING);
    assert_false(r->p.has_membership);
    tick(r, r->p.retry_at_ns - r->now);
    assert_int_equal(r->p.state, PROPOSER_QUERYING);
    assert_false(wants_link(r, 3));
    assert_false(r->p.want_links);
}

static void test_a_link_that_is_not_there_is_not_removed(void **state)
{
    struct rig *r = *state;
    serving(r);
    struct entry *w = write_one(r);
    add_link(r, 3, 3, true);
    step(r, (struct proposer_event){.type = PROPOSER_REMOVE_LINK, .link = 3});
    static const uint32_t gone[] = {3, 4, PROPOSER_REPLICAS_MAX, UINT32_MAX};
    for (unsigned i = 0; i < ARRAY_LEN(gone); i++) {
        step(r, (struct proposer_event){.type = PROPOSER_REMOVE_LINK, .link = gone[i]});
        assert_int_equal(r->n, 0);
        assert_int_equal(r->p.params.n_replicas, 4);
    }
    accepted(r, 0, w->slot);
    accepted(r, 1, w->slot);
    assert_int_equal(r->p.chosen, w->slot);
    add_link(r, 3, 4, true); /* the number is free */
    up(r, 3);
    assert_non_null(sent(r, 3, MSG_OPEN));
    step(r, (struct proposer_event){.type = PROPOSER_REMOVE_LINK, .link = 2});
    assert_true(wants_link(r, 2)); /* a voter */
    step(r, (struct proposer_event){.type = PROPOSER_REMOVE_LINK, .link = 2});
    assert_int_equal(r->n, 0); /* nothing is new */
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

/* Only whoever serves proposes: what another state says of a change, and that it says why. */
static void test_no_change_by_one_that_does_not_serve(void **state)
{
    struct rig *r = *state;
    struct membership m = voters(0, 2, 0);
    const char *why = NULL;
    assert_int_equal(proposer_may_change(&r->p, &m, &why), -ENOTCONN);
    assert_string_equal(why, "the volume is not being served");
    serving(r);
    assert_int_equal(proposer_may_change(&r->p, &m, &why), 0);
    assert_string_equal(why, "");
    nack(r, 2, NULL, 0, other(7)); /* outbid */
    assert_int_equal(r->p.state, PROPOSER_WAITING);
    assert_int_equal(proposer_may_change(&r->p, &m, &why), -ENOTCONN);
    tick(r, 100 * MS);
    for (unsigned i = 0; i < 2; i++)
        query_ack(r, i, NULL, 0, other(7));
    assert_int_equal(proposer_may_change(&r->p, &m, &why), -ENOTCONN);
    struct log_text t = {.n_runs = 2, .run = {{mine(1), 1, 1}, {other(7), 2, 2}}, .commit = pos(1, mine(1))};
    promise(r, 0, &t);
    promise(r, 1, &t);
    assert_int_equal(r->p.state, PROPOSER_FENCED);
    assert_int_equal(proposer_may_change(&r->p, &m, &why), -ESTALE); /* it never will again */
    assert_string_equal(why, "the volume is not being served");
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

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
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
        T(test_one_who_was_voted_out_refuses),
        T(test_voters_that_are_not_believed_are_not_looked_for),
        T(test_a_link_that_is_not_there_is_not_removed),
        T(test_a_replacement),
        T(test_no_change_by_one_that_does_not_serve),
        T(test_those_that_stay_must_hold_everything),
        T(test_what_nobody_can_donate_passes_through_the_ring),
        T(test_growing_and_shrinking),
        T(test_proposing_a_membership),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
