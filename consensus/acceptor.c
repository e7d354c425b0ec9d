/* The acceptor's answers: promises and leases (A1, A2, A8), streams (A3, A5), watermarks (A6).
 *
 * What always holds:
 *  - what an answer rests on is durable before it leaves (effect.after): Promise: promised, the log it lists, the
 *    largest lease. Opened, Accepted, BeatAck: promised and the largest lease.
 *  - promised rises in memory at once: from then on lower ballots are refused, durable or not.
 *  - one stream at a time: Accepts count only on the link whose Open was answered under the promised ballot, so the
 *    late bytes of an older connection change nothing. */
#include "base/mark.h"
#include "consensus/acceptor_internal.h"

/* ---- effects ---- */

struct acceptor_effect *acceptor_effect(struct acceptor_effects *fx, enum acceptor_effect_type type)
{
    assert(fx->n < fx->cap);
    struct acceptor_effect *e = &fx->effect[fx->n++];
    memset(e, 0, sizeof *e);
    e->type = type;
    return e;
}

struct acceptor_effect *acceptor_persist(struct acceptor *a, struct acceptor_effects *fx,
                                         enum acceptor_effect_type type)
{
    struct acceptor_effect *e = acceptor_effect(fx, type);
    e->seq = ++a->seq;
    return e;
}

static struct msg *answer(struct acceptor *a, struct acceptor_effects *fx, const struct acceptor_event *ev,
                          enum msg_type type, uint64_t after)
{
    struct acceptor_effect *e = acceptor_effect(fx, ACCEPTOR_SEND);
    e->link = ev->link;
    e->after = after;
    e->msg.type = (uint16_t)type;
    e->msg.cookie = ev->msg->cookie;
    e->msg.group = a->group;
    e->msg.target = ev->msg->ballot.proposer;
    e->msg.ballot = ev->msg->ballot;
    return &e->msg;
}

/* ---- leases (A8) ---- */

struct hold {
    const struct uuid *holder; /* NULL: free */
    uint64_t until_ns;
    const char *name;
};

/* Who keeps others from being promised anything: a Force, a lease, or after a restart whoever might still have one. */
static struct hold current_hold(const struct acceptor *a, uint64_t now_ns)
{
    if (now_ns < a->force_until_ns)
        return (struct hold){.holder = &a->force_proposer, .until_ns = a->force_until_ns, .name = ""};
    if (now_ns < a->lease_until_ns)
        return (struct hold){.holder = &a->holder, .until_ns = a->lease_until_ns, .name = a->holder_name};
    if (now_ns < a->restart_until_ns)
        return (struct hold){.holder = &a->promised.proposer, .until_ns = a->restart_until_ns, .name = ""};
    return (struct hold){0};
}

static bool held_against(const struct acceptor *a, uint64_t now_ns, const struct uuid *proposer)
{
    struct hold h = current_hold(a, now_ns);
    MARK_IF(h.holder == &a->force_proposer, "acceptor: held by a force");
    MARK_IF(h.holder == &a->promised.proposer, "acceptor: held since a restart");
    return h.holder && !uuid_equal(h.holder, proposer);
}

static void fill_holder(const struct acceptor *a, uint64_t now_ns, struct msg *m)
{
    struct hold h = current_hold(a, now_ns);
    m->u.holder.promised = a->promised;
    m->u.holder.retired = a->retired;
    if (!h.holder)
        return;
    m->u.holder.holder = *h.holder;
    m->u.holder.remaining_ns = h.until_ns - now_ns;
    memcpy(m->u.holder.holder_name, h.name, h.name[0] ? NAME_MAX_BYTES : 1);
    m->u.holder.holder_name[NAME_MAX_BYTES - 1] = 0;
}

static void nack(struct acceptor *a, struct acceptor_effects *fx, const struct acceptor_event *ev)
{
    fill_holder(a, ev->now_ns, answer(a, fx, ev, MSG_NACK, 0));
}

/* A stream's queue may be long: one NACK says it for all of it. */
static void refuse_accept(struct acceptor *a, struct acceptor_effects *fx, const struct acceptor_event *ev)
{
    if (a->stream == ev->link && ballot_equal(&ev->msg->ballot, &a->promised))
        acceptor_drop_stream(a);
    if (a->refused_link == ev->link)
        return;
    MARK("acceptor: accept refused");
    a->refused_link = ev->link;
    nack(a, fx, ev);
}

static void persist_promise(struct acceptor *a, struct acceptor_effects *fx)
{
    a->promise_seq = acceptor_persist(a, fx, ACCEPTOR_PROMISE)->seq;
}

/* Grants the promised ballot's proposer a lease from now on; returns its length. `recorded`: a PROMISE record with
 * max_lease_ns follows anyway. */
static uint64_t grant(struct acceptor *a, struct acceptor_effects *fx, uint64_t now_ns, uint64_t lease_ns,
                      const char *name, bool recorded)
{
    if (lease_ns == 0 || a->released)
        return 0;
    if (lease_ns > PAXOS_LEASE_MAX_NS)
        lease_ns = PAXOS_LEASE_MAX_NS;
    if (!uuid_equal(&a->holder, &a->promised.proposer)) {
        a->holder = a->promised.proposer;
        a->lease_until_ns = 0;
        a->holder_name[0] = 0;
    }
    if (name) {
        memcpy(a->holder_name, name, NAME_MAX_BYTES);
        a->holder_name[NAME_MAX_BYTES - 1] = 0;
    }
    if (now_ns + lease_ns > a->lease_until_ns)
        a->lease_until_ns = now_ns + lease_ns;
    if (lease_ns > a->max_lease_ns) {
        a->max_lease_ns = lease_ns; /* a restart has to wait this long: durable before the lease is known to anybody */
        if (!recorded)
            persist_promise(a, fx);
    }
    return lease_ns;
}

/* ---- the promised ballot ---- */

void acceptor_drop_stream(struct acceptor *a)
{
    a->match_valid = false;
    a->match = 0;
    a->acked = 0;
    a->stream = ACCEPTOR_NO_LINK;
}

static void raise_promised(struct acceptor *a, const struct ballot *b)
{
    assert(ballot_compare(b, &a->promised) > 0);
    /* Whoever got a majority's promises for b proves that an older lease is void; a Prepare was checked against it. */
    if (!uuid_equal(&a->holder, &b->proposer)) {
        memset(&a->holder, 0, sizeof a->holder);
        a->holder_name[0] = 0;
        a->lease_until_ns = 0;
    }
    if (!uuid_equal(&a->promised.proposer, &b->proposer))
        a->restart_until_ns = 0;
    a->promised = *b;
    a->released = false;
    a->refused_link = ACCEPTOR_NO_LINK;
    acceptor_drop_stream(a);
}

/* ---- messages ---- */

static void on_query(struct acceptor *a, struct acceptor_effects *fx, const struct acceptor_event *ev)
{
    struct msg *m = answer(a, fx, ev, MSG_QUERY_ACK, 0);
    fill_holder(a, ev->now_ns, m);
    if (a->retired || acceptor_is_voter(a)) /* who votes, for those who have to know whom to ask; a learner was told anything */
        m->u.holder.membership = a->committed;
}

static void on_prepare(struct acceptor *a, struct acceptor_effects *fx, const struct acceptor_event *ev)
{
    const struct msg *m = ev->msg;
    int c = ballot_compare(&m->ballot, &a->promised);
    if (c < 0 || held_against(a, ev->now_ns, &m->ballot.proposer)) {
        MARK_IF(c < 0, "acceptor: prepare below promised");
        MARK_IF(c >= 0, "acceptor: prepare refused, lease of another");
        nack(a, fx, ev); /* A1 */
        return;
    }
    uint64_t lease_ns;
    if (c > 0) {
        raise_promised(a, &m->ballot);
        lease_ns = grant(a, fx, ev->now_ns, m->u.prepare.lease_ns, m->u.prepare.name, true);
        persist_promise(a, fx);
    } else {
        lease_ns = grant(a, fx, ev->now_ns, m->u.prepare.lease_ns, m->u.prepare.name, false);
        MARK("acceptor: prepare repeated under the promised ballot");
    }
    /* A1: the log as it stands at this record's place in the WAL: what this step lists, released when all records so
     * far are durable. */
    struct msg *p = answer(a, fx, ev, MSG_PROMISE, a->seq);
    p->u.promise.t_ns = m->u.prepare.t_ns;
    p->u.promise.lease_ns = lease_ns;
    p->u.promise.base = a->log.base;
    p->u.promise.commit = acceptor_commit_pos(a);
    p->u.promise.last = paxos_log_last(&a->log);
    p->u.promise.size_blocks = a->size_blocks;
    p->u.promise.credits = a->credits;
    p->u.promise.n_runs = a->log.n;
    p->u.promise.runs = a->log.run;
    p->u.promise.n_lost = a->n_lost;
    p->u.promise.lost = a->lost;
    p->u.promise.n_memberships = 1 + a->has_uncommitted;
    p->u.promise.memberships = a->memberships;
    p->u.promise.needs_copy = a->needs_copy;
    p->u.promise.retired = a->retired;
}

/* Accepted, when what is both matched and durable has grown (A5), or once more for a duplicate. */
static void acknowledge(struct acceptor *a, struct acceptor_effects *fx, bool again)
{
    if (a->stream == ACCEPTOR_NO_LINK)
        return;
    uint64_t through = a->match < a->durable ? a->match : a->durable;
    if (through == 0 || (through <= a->acked && !again))
        return;
    a->acked = through;
    struct acceptor_effect *e = acceptor_effect(fx, ACCEPTOR_SEND);
    e->link = a->stream;
    e->after = a->promise_seq;
    e->msg.type = MSG_ACCEPTED;
    e->msg.group = a->group;
    e->msg.target = a->promised.proposer;
    e->msg.ballot = a->promised;
    e->msg.u.accepted.through = through;
    e->msg.u.accepted.credits = a->credits;
    e->msg.u.accepted.needs_copy = a->needs_copy;
}

static void on_open(struct acceptor *a, struct acceptor_effects *fx, const struct acceptor_event *ev)
{
    const struct msg *m = ev->msg;
    int c = ballot_compare(&m->ballot, &a->promised);
    if (c < 0) {
        nack(a, fx, ev); /* A2 */
        MARK("acceptor: open below promised");
        return;
    }
    if (c > 0) {
        MARK("acceptor: open above promised");
        raise_promised(a, &m->ballot);
        persist_promise(a, fx);
    }
    const struct log_pos *at = &m->u.open.at;
    /* A3: fine iff the own entry at m has the same ballot, no LOST slot <= m, and m >= commit. It cuts nothing. */
    bool fine = paxos_log_holds(&a->log, at) && at->slot >= a->commit &&
                !(a->n_lost > 0 && a->lost[0] <= at->slot);
    if (!fine) {
        MARK("acceptor: mismatch");
        MARK_IF(at->slot < a->commit, "acceptor: open below commit");
        MARK_IF(a->n_lost > 0 && a->lost[0] <= at->slot, "acceptor: open at or above a LOST slot");
        MARK_IF(a->stream != ACCEPTOR_NO_LINK && a->stream != ev->link, "acceptor: mismatch ends the stream of another link");
        /* Also when the stream was another link's: its proposer has turned away from it, and this process may not know
         * for long. */
        acceptor_drop_stream(a);
        struct msg *r = answer(a, fx, ev, MSG_MISMATCH, a->promise_seq);
        r->u.mismatch.base = a->log.base;
        r->u.mismatch.commit = acceptor_commit_pos(a);
        r->u.mismatch.n_runs = a->log.n;
        r->u.mismatch.runs = a->log.run;
        r->u.mismatch.n_lost = a->n_lost;
        r->u.mismatch.lost = a->lost;
        return;
    }
    a->match_valid = true;
    a->match = at->slot;
    a->acked = 0;
    a->stream = ev->link;
    a->refused_link = ACCEPTOR_NO_LINK;
    struct msg *r = answer(a, fx, ev, MSG_OPENED, a->promise_seq);
    r->u.opened.m = at->slot;
    r->u.opened.credits = a->credits;
    r->u.opened.needs_copy = a->needs_copy;
    acknowledge(a, fx, false);
}

/* A6: a watermark never vouches for an entry that was not matched under its ballot. */
static void announced(struct acceptor *a, uint64_t slot)
{
    if (a->match_valid)
        acceptor_commit_to(a, slot < a->match ? slot : a->match);
}

static void on_accept(struct acceptor *a, struct acceptor_effects *fx, const struct acceptor_event *ev)
{
    const struct msg *m = ev->msg;
    struct entry *e = m->u.accept.entry;
    int c = ballot_compare(&m->ballot, &a->promised);
    if (c > 0) {
        MARK("acceptor: accept above promised");
        raise_promised(a, &m->ballot); /* A2; but nothing was opened under it */
        persist_promise(a, fx);
    }
    if (c != 0 || a->stream != ev->link || !e || e->slot > a->match + 1) {
        MARK_IF(c < 0, "acceptor: accept below promised");
        MARK_IF(c == 0 && a->stream != ev->link, "acceptor: accept on a link without the stream");
        refuse_accept(a, fx, ev);
        return;
    }
    announced(a, m->u.accept.commit); /* first, so that a committed membership makes room for the next one */
    if (e->slot <= a->match) {
        MARK("acceptor: accept of what is matched");
        acknowledge(a, fx, true);
        return;
    }
    if (!acceptor_take(a, fx, e)) {
        MARK("acceptor: accept of what can't be taken");
        refuse_accept(a, fx, ev);
        return;
    }
    acceptor_find_durable(a);
    announced(a, m->u.accept.commit);
    acknowledge(a, fx, false);
}

static void on_beat(struct acceptor *a, struct acceptor_effects *fx, const struct acceptor_event *ev)
{
    const struct msg *m = ev->msg;
    /* A2: a Beat above promised is granted nothing; A8: nor is one of a released ballot. */
    if (!ballot_equal(&m->ballot, &a->promised) || a->released) {
        MARK_IF(a->released, "acceptor: beat of a released ballot");
        MARK_IF(!a->released, "acceptor: beat of another ballot");
        nack(a, fx, ev);
        return;
    }
    uint64_t lease_ns = grant(a, fx, ev->now_ns, m->u.beat.lease_ns, NULL, false);
    const struct log_pos *target = &m->u.beat.commit;
    announced(a, target->slot);
    /* A stream that is open will bring what is missing; else the peers have to. */
    if (a->commit < target->slot && a->stream == ACCEPTOR_NO_LINK) {
        MARK("acceptor: behind, asks its peers");
        acceptor_effect(fx, ACCEPTOR_BEHIND)->target = *target;
    }
    struct msg *r = answer(a, fx, ev, MSG_BEAT_ACK, a->promise_seq);
    r->u.beat_ack.t_ns = m->u.beat.t_ns;
    r->u.beat_ack.lease_ns = lease_ns;
    r->u.beat_ack.commit = a->commit;
    r->u.beat_ack.applied = a->commit < a->durable ? a->commit : a->durable;
    r->u.beat_ack.last = paxos_log_last(&a->log).slot;
    r->u.beat_ack.credits = a->credits;
    r->u.beat_ack.needs_copy = a->needs_copy;
    r->u.beat_ack.retired = a->retired;
}

static void on_release(struct acceptor *a, const struct msg *m)
{
    if (!ballot_equal(&m->ballot, &a->promised))
        return;
    /* A8. Nobody but the promised ballot's proposer could hold a lease from before a restart: that wait ends as well.
     */
    MARK("acceptor: released");
    a->released = true;
    a->restart_until_ns = 0;
    if (uuid_equal(&a->holder, &m->ballot.proposer)) {
        memset(&a->holder, 0, sizeof a->holder);
        a->lease_until_ns = 0;
        a->holder_name[0] = 0;
    }
}

static void on_force(struct acceptor *a, struct acceptor_effects *fx, const struct acceptor_event *ev)
{
    if (ballot_compare(&ev->msg->ballot, &a->promised) < 0) {
        nack(a, fx, ev);
        return;
    }
    MARK("acceptor: force");
    uint64_t ns = ev->msg->u.force.expiry_ns;
    a->force_proposer = ev->msg->ballot.proposer;
    a->force_until_ns = ev->now_ns + (ns < PAXOS_FORCE_MAX_NS ? ns : PAXOS_FORCE_MAX_NS);
}

static void on_msg(struct acceptor *a, struct acceptor_effects *fx, const struct acceptor_event *ev)
{
    const struct msg *m = ev->msg;
    if (m->group != a->group || !uuid_equal(&m->target, &a->identity) || m->ballot.round > PAXOS_ROUND_MAX) {
        MARK("acceptor: message for another group or disk");
        answer(a, fx, ev, MSG_NACK, 0)->u.holder.unknown = 1; /* never answered as an empty log */
        return;
    }
    switch (m->type) {
    case MSG_QUERY:
        on_query(a, fx, ev);
        break;
    case MSG_PREPARE:
        on_prepare(a, fx, ev);
        break;
    case MSG_OPEN:
        on_open(a, fx, ev);
        break;
    case MSG_ACCEPT:
        on_accept(a, fx, ev);
        break;
    case MSG_BEAT:
        on_beat(a, fx, ev);
        break;
    case MSG_RELEASE:
        on_release(a, m);
        break;
    case MSG_FORCE:
        on_force(a, fx, ev);
        break;
    default:
        break; /* not the acceptor's */
    }
}

/* ---- the public face ---- */

void acceptor_step(struct acceptor *a, const struct acceptor_event *ev, struct acceptor_effects *effects)
{
    effects->n = 0;
    switch (ev->type) {
    case ACCEPTOR_MSG:
        on_msg(a, effects, ev);
        break;
    case ACCEPTOR_DURABLE:
        acceptor_on_durable(a, ev->durable_seq);
        break;
    case ACCEPTOR_LINK_DOWN:
        /* What was matched stays matched under the ballot; only nothing flows any more. */
        if (a->stream == ev->link)
            a->stream = ACCEPTOR_NO_LINK;
        if (a->refused_link == ev->link)
            a->refused_link = ACCEPTOR_NO_LINK;
        break;
    case ACCEPTOR_CAUGHT_UP:
        acceptor_on_caught_up(a, effects, ev);
        break;
    case ACCEPTOR_TRIM:
        acceptor_on_trim(a, ev->trim);
        break;
    case ACCEPTOR_JUMP:
        acceptor_on_jump(a, effects, ev);
        break;
    case ACCEPTOR_RECOVER:
        raise_promised(a, &ev->ballot);
        persist_promise(a, effects);
        acceptor_on_recover(a, effects, ev);
        break;
    case ACCEPTOR_COMPLETE:
        acceptor_set_needs_copy(a, false);
        break;
    }
    if (ev->type == ACCEPTOR_DURABLE || ev->type == ACCEPTOR_CAUGHT_UP || a->tell_complete)
        acknowledge(a, effects, a->tell_complete);
    a->tell_complete = false;
    acceptor_tell_commit(a, effects);
    if (a->membership_changed) {
        a->membership_changed = false;
        acceptor_effect(effects, ACCEPTOR_MEMBERSHIP);
    }
    if (QBD_CHECKS)
        acceptor_check(a);
}

enum acceptor_read_verdict acceptor_read(struct acceptor *a, uint64_t now_ns, uint32_t link, const struct msg *read,
                                         struct acceptor_effects *effects)
{
    effects->n = 0;
    struct acceptor_event ev = {.type = ACCEPTOR_MSG, .now_ns = now_ns, .link = link, .msg = read};
    if (read->group != a->group || !uuid_equal(&read->target, &a->identity)) {
        answer(a, effects, &ev, MSG_NACK, 0)->u.holder.unknown = 1;
        return ACCEPTOR_READ_NACK;
    }
    int c = ballot_compare(&read->ballot, &a->promised);
    if (c < 0 || a->needs_copy) {
        MARK_IF(c < 0, "acceptor: read below promised");
        nack(a, effects, &ev); /* A8: reads with a ballot < promised are refused */
        return ACCEPTOR_READ_NACK;
    }
    uint64_t watermark = read->u.read.watermark;
    if (c > 0)
        return watermark <= a->commit ? ACCEPTOR_READ_OK : ACCEPTOR_READ_BEHIND;
    announced(a, watermark);
    acceptor_tell_commit(a, effects);
    if (a->membership_changed) {
        a->membership_changed = false;
        acceptor_effect(effects, ACCEPTOR_MEMBERSHIP);
    }
    if (QBD_CHECKS)
        acceptor_check(a);
    return watermark <= a->commit ? ACCEPTOR_READ_OK : ACCEPTOR_READ_BEHIND;
}

struct log_pos acceptor_commit_pos(const struct acceptor *a)
{
    struct log_pos pos = {.slot = a->commit};
    bool known = paxos_log_at(&a->log, pos.slot, &pos.e);
    assert(known);
    (void)known;
    return pos;
}

void acceptor_set_needs_copy(struct acceptor *a, bool on)
{
    a->tell_complete = a->needs_copy && !on;
    a->needs_copy = on;
    if (on)
        acceptor_drop_stream(a);
}

bool acceptor_is_voter(const struct acceptor *a)
{
    return membership_has_voter(&a->committed, &a->identity);
}

const char *acceptor_may_recover(const struct acceptor *a, uint64_t now_ns)
{
    if (a->needs_copy)
        return "it does not hold a complete copy itself";
    if (!acceptor_is_voter(a))
        return "it is no voter of the group";
    if (a->committed.n_voters == 1 && !a->has_uncommitted)
        return "it is the group's only voter already";
    if (current_hold(a, now_ns).holder)
        return "a front end may still hold a lease of it: try again when that has run out";
    if (a->log.n == RUNS_MAX || !acceptor_has_room(a))
        return "its log is busy: try again";
    return NULL;
}

bool acceptor_has_room(const struct acceptor *a)
{
    return a->n_pending + 8 < ACCEPTOR_PENDING_MAX;
}

void acceptor_init(struct acceptor *a, const struct acceptor_state *s, uint64_t now_ns)
{
    memset(a, 0, sizeof *a);
    a->group = s->group;
    a->identity = s->identity;
    a->size_blocks = s->size_blocks;
    a->promised = s->promised;
    a->max_lease_ns = s->max_lease_ns;
    a->log = *s->log;
    assert(s->n_lost <= LOST_MAX);
    a->n_lost = s->n_lost;
    if (s->n_lost > 0)
        memcpy(a->lost, s->lost, s->n_lost * sizeof a->lost[0]);
    a->committed = s->committed;
    a->retired = s->retired && !acceptor_is_voter(a);
    if (s->uncommitted) {
        a->uncommitted = *s->uncommitted;
        a->has_uncommitted = true;
    }
    a->needs_copy = s->needs_copy;
    acceptor_find_durable(a);
    /* Commit is volatile and may be forgotten: below a LOST slot, so that catch-up starts there and fills it. */
    a->commit = s->commit < a->durable ? s->commit : a->durable;
    if (a->commit < a->log.base.slot)
        a->commit = a->log.base.slot;
    MARK_IF(s->commit > a->commit, "acceptor: commit forgotten, it was above a LOST slot");
    MARK_IF(s->n_lost > 0, "acceptor: restart with LOST slots");
    MARK_IF(paxos_log_last(&a->log).slot > a->commit, "acceptor: restart with a tail above commit");
    a->told = a->commit;
    if (a->has_uncommitted && a->uncommitted.slot <= a->commit) {
        acceptor_set_committed(a, &a->uncommitted);
        a->has_uncommitted = false;
    }
    a->stream = a->refused_link = ACCEPTOR_NO_LINK;
    /* A8: whoever held a lease when this process died may still count on it. */
    if (s->restarted && a->promised.round > 0)
        a->restart_until_ns = now_ns + a->max_lease_ns;
    acceptor_check(a);
}

void acceptor_check(const struct acceptor *a)
{
    struct log_pos last = paxos_log_last(&a->log);
    assert(paxos_log_valid(&a->log));
    assert(a->log.base.slot <= a->commit && a->commit <= last.slot);
    assert(a->durable <= last.slot);
    assert(a->told <= a->commit && a->told <= a->durable && a->log.base.slot <= a->told);
    assert(paxos_lost_valid(a->n_lost, a->lost, a->log.base.slot, last.slot));
    assert(a->n_lost == 0 || (a->lost[0] > a->commit && a->lost[0] > a->durable));
    assert(!a->has_uncommitted || (a->uncommitted.slot > a->commit && a->uncommitted.slot <= last.slot));
    assert(a->stream == ACCEPTOR_NO_LINK || a->match_valid);
    assert(!a->retired || !acceptor_is_voter(a));
    assert(!a->match_valid || a->match <= last.slot);
    assert(a->stream == ACCEPTOR_NO_LINK || a->acked <= a->match);
    assert(a->durable_seq <= a->seq && a->promise_seq <= a->seq);
    assert(a->n_pending <= ACCEPTOR_PENDING_MAX);
    for (uint32_t i = 0; i < a->n_pending; i++) {
        assert(a->pending[i].n > 0);
        assert(a->pending[i].first_seq > a->durable_seq && a->pending[i].first_seq + a->pending[i].n - 1 <= a->seq);
        assert(a->pending[i].first_slot > a->durable && a->pending[i].first_slot + a->pending[i].n - 1 <= last.slot);
    }
    assert(a->lease_until_ns == 0 || !uuid_is_zero(&a->holder));
}
