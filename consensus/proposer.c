/* The proposer's events: links, ticks, beats and leases (P8), refusals. Phase 1 is in proposer_attach.c, phase 2 in
 * proposer_stream.c.
 *
 * What always holds:
 *  - an answer counts only under the current ballot, from a link that is up.
 *  - a lease is counted from the send time of the request that it answers, shortened by the drift bound, and only up to
 *    what was asked for. */
#include "base/mark.h"
#include "consensus/proposer_internal.h"

/* ---- effects ---- */

void proposer_set_state(struct step *x, enum proposer_state state)
{
    if (x->p->state == state)
        return;
    x->p->state = state;
    struct proposer_effect e = {.type = PROPOSER_STATE};
    x->sink->fn(x->sink, &e);
}

void proposer_emit_entry(struct step *x, enum proposer_effect_type type, uint64_t slot, struct entry *entry)
{
    struct proposer_effect e = {.type = type, .slot = slot, .entry = entry};
    x->sink->fn(x->sink, &e);
}

struct proposer_effect proposer_message(const struct proposer *p, uint32_t i, enum msg_type type)
{
    struct proposer_effect e = {.type = PROPOSER_SEND, .link = i};
    e.msg.type = (uint16_t)type;
    e.msg.group = p->params.group;
    e.msg.target = p->params.identity[i];
    e.msg.ballot = p->ballot;
    return e;
}

void proposer_disconnect(struct step *x, uint32_t i)
{
    assert(proposer_linked(x->p, i));
    x->p->replica[i].stream = STREAM_DOWN;
    struct proposer_effect e = {.type = PROPOSER_DISCONNECT, .link = i};
    x->sink->fn(x->sink, &e);
    proposer_forget_asked(x, i, false);
}

/* ---- beats and leases ---- */

void proposer_beat(struct step *x)
{
    struct proposer *p = x->p;
    p->next_beat_ns = x->now_ns + p->params.beat_ns;
    /* P5: announce as commit only W or chosen slots. */
    struct log_pos commit = p->recovered_commit;
    if (p->state == PROPOSER_SERVING) {
        commit.slot = p->chosen;
        bool known = paxos_log_at(&p->log, commit.slot, &commit.e);
        assert(known);
        (void)known;
    }
    for (uint32_t i = 0; i < p->params.n_replicas; i++) {
        struct proposer_replica *r = &p->replica[i];
        if (!proposer_linked(p, i) || (p->state == PROPOSER_RECOVERING && !r->has_promised))
            continue;
        struct proposer_effect e = proposer_message(p, i, MSG_BEAT);
        e.msg.u.beat.t_ns = x->now_ns;
        e.msg.u.beat.lease_ns = p->params.lease_ns;
        e.msg.u.beat.commit = commit;
        r->beat_sent_ns = x->now_ns;
        proposer_send(x, &e);
    }
}

void proposer_count_lease(struct step *x, struct proposer_replica *r, uint64_t t_ns, uint64_t lease_ns)
{
    if (lease_ns > x->p->params.lease_ns)
        lease_ns = x->p->params.lease_ns;
    if (lease_ns == 0 || t_ns > x->now_ns)
        return;
    /* P8: the replica counts by its own clock, which may run faster than this one by less than 1/64. */
    uint64_t until = t_ns + lease_ns - lease_ns / 64;
    if (until > r->lease_until_ns)
        r->lease_until_ns = until;
}

void proposer_note_incomplete(struct proposer_replica *r, uint32_t needs_copy)
{
    if (!needs_copy)
        return;
    MARK_IF(!r->needs_copy && r->acked > 0, "proposer: replica that had acknowledged needs a copy");
    r->needs_copy = true;
    r->acked = 0;
}

/* Voted out: it is told no more than that the group goes on. What it said under this ballot stands. */
static void note_retired(struct step *x, uint32_t i, uint32_t retired)
{
    struct proposer_replica *r = &x->p->replica[i];
    r->retired = retired != 0;
    if (proposer_wants_stream(x->p, i) || r->stream == STREAM_DOWN)
        return;
    MARK_IF(r->stream != STREAM_IDLE, "proposer: stream to a retired replica ended");
    r->stream = STREAM_IDLE;
}

static void on_beat_ack(struct step *x, uint32_t i, const struct msg *m)
{
    struct proposer_replica *r = &x->p->replica[i];
    proposer_note_incomplete(r, m->u.beat_ack.needs_copy);
    note_retired(x, i, m->u.beat_ack.retired);
    proposer_count_lease(x, r, m->u.beat_ack.t_ns, m->u.beat_ack.lease_ns);
    r->credits = m->u.beat_ack.credits;
    r->has_credits = true;
    r->applied = m->u.beat_ack.applied;
    if (m->u.beat_ack.commit > r->commit)
        r->commit = m->u.beat_ack.commit;
    proposer_on_progress(x, i);
}

/* ---- refusals ---- */

static void on_nack(struct step *x, uint32_t i, const struct msg *m)
{
    struct proposer *p = x->p;
    struct proposer_replica *r = &p->replica[i];
    int c = ballot_compare(&m->u.holder.promised, &p->ballot);
    if (!m->u.holder.unknown)
        note_retired(x, i, m->u.holder.retired);
    if (m->u.holder.unknown || m->u.holder.full) {
        if (r->stream == STREAM_OPENING) {
            r->stream = STREAM_IDLE;
            r->reopen_at_ns = x->now_ns + PROPOSER_REOPEN_NS;
        }
    } else if (c > 0) {
        MARK("proposer: outbid");
        /* Another ballot stands above ours. Whether its proposer got anywhere, the next attempt finds out (P7). */
        proposer_note_holder(x, m);
        proposer_abandon(x, x->now_ns + proposer_backoff(x));
    } else if (p->state == PROPOSER_PREPARING || p->state == PROPOSER_RECOVERING) {
        proposer_on_refused(x, i, m);
    } else if (r->stream == STREAM_OPEN) {
        MARK("proposer: open stream refused");
        proposer_reopen(x, i); /* the replica knows of no stream from here: it refused what it could not take */
    }
}

/* ---- events ---- */

/* Rounds are only ever heard, never trusted: a round that nothing could outbid is damage. */
static bool hear_round(struct step *x, uint32_t i, const struct ballot *b)
{
    if (b->round > PAXOS_ROUND_MAX) {
        proposer_disconnect(x, i);
        return false;
    }
    if (b->round > x->p->max_round)
        x->p->max_round = b->round;
    return true;
}

static void on_msg(struct step *x, uint32_t i, const struct msg *m)
{
    struct proposer *p = x->p;
    if (i >= p->params.n_replicas || !proposer_linked(p, i) || m->group != p->params.group)
        return;
    if ((m->type == MSG_QUERY_ACK || m->type == MSG_NACK) && !hear_round(x, i, &m->u.holder.promised))
        return;
    if (m->type == MSG_QUERY_ACK) {
        if (p->state == PROPOSER_QUERYING && uuid_equal(&m->ballot.proposer, &p->params.id))
            proposer_on_query_ack(x, i, m);
        return;
    }
    /* P5: answers to another ballot never count. */
    if (p->state < PROPOSER_PREPARING || p->state > PROPOSER_SERVING || !ballot_equal(&m->ballot, &p->ballot))
        return;
    bool streaming = p->state >= PROPOSER_STARTING;
    switch (m->type) {
    case MSG_NACK:
        on_nack(x, i, m);
        break;
    case MSG_PROMISE:
        if (!streaming)
            proposer_on_promise(x, i, m);
        break;
    case MSG_VALUE:
        if (!streaming)
            proposer_on_value(x, i, m);
        break;
    case MSG_OPENED:
        if (streaming)
            proposer_on_opened(x, i, m);
        break;
    case MSG_MISMATCH:
        if (streaming)
            proposer_on_mismatch(x, i, m);
        break;
    case MSG_ACCEPTED:
        if (streaming)
            proposer_on_accepted(x, i, m);
        break;
    case MSG_BEAT_ACK:
        on_beat_ack(x, i, m);
        break;
    default:
        break;
    }
}

static void on_link_up(struct step *x, uint32_t i)
{
    struct proposer *p = x->p;
    if (i >= p->params.n_replicas || proposer_linked(p, i))
        return;
    struct proposer_replica *r = &p->replica[i];
    r->stream = STREAM_IDLE;
    r->answered_query = r->said_free = r->refused = false;
    r->reopen_at_ns = 0;
    switch (p->state) {
    case PROPOSER_QUERYING:
        proposer_query_replica(x, i);
        break;
    case PROPOSER_PREPARING:
    case PROPOSER_RECOVERING:
        if (!r->has_promised)
            proposer_prepare_replica(x, i);
        proposer_forget_asked(x, i, true);
        break;
    case PROPOSER_STARTING:
    case PROPOSER_SERVING:
        MARK("proposer: link back while serving");
        if (proposer_wants_stream(p, i))
            proposer_open(x, i);
        break;
    default:
        break;
    }
}

static void on_link_down(struct step *x, uint32_t i)
{
    struct proposer *p = x->p;
    if (i >= p->params.n_replicas || !proposer_linked(p, i))
        return;
    p->replica[i].stream = STREAM_DOWN;
    proposer_forget_asked(x, i, false);
}

static void on_tick(struct step *x)
{
    struct proposer *p = x->p;
    uint32_t linked = 0;
    for (uint32_t i = 0; i < p->params.n_replicas; i++)
        linked |= (uint32_t)proposer_linked(p, i) << i;
    bool late = x->now_ns >= p->attempt_deadline_ns;
    switch (p->state) {
    case PROPOSER_QUERYING:
        if (late)
            proposer_judge_query(x, true);
        return;
    case PROPOSER_WAITING:
        if (x->now_ns >= p->retry_at_ns)
            proposer_query(x);
        return;
    case PROPOSER_PREPARING:
    case PROPOSER_RECOVERING:
        if (late) {
            MARK("proposer: no quorum in time");
            proposer_abandon(x, x->now_ns + proposer_backoff(x));
            return;
        }
        if (p->state == PROPOSER_RECOVERING) {
            if (x->now_ns >= p->next_beat_ns)
                proposer_beat(x);
            proposer_recover(x);
        }
        return;
    case PROPOSER_STARTING:
        /* A majority is there and still nothing moves: what they need may no longer be here. Another ballot looks again
         * at what they hold. */
        if (late && proposer_is_quorum(p, linked)) {
            MARK("proposer: start stuck with a quorum connected");
            proposer_abandon(x, x->now_ns + proposer_backoff(x));
            return;
        }
        break;
    case PROPOSER_SERVING:
        break;
    default:
        return;
    }
    if (x->now_ns >= p->next_beat_ns)
        proposer_beat(x);
    proposer_retry_streams(x);
}

static void on_session_entry(struct step *x, struct entry *e)
{
    struct proposer *p = x->p;
    if (!e)
        return;
    if (p->session_entry || e->kind != ENTRY_SESSION || p->state == PROPOSER_FENCED || !p->want_attach) {
        proposer_emit_entry(x, PROPOSER_FORGET, 0, e);
        return;
    }
    p->session_entry = e;
    p->want_session_entry = false;
    if (p->state == PROPOSER_RECOVERING)
        proposer_recover(x);
}

/* Nothing is known of it. Runs and lost slots that nobody counts are not touched: a group has three replicas of twenty. */
static void replica_clear(struct proposer_replica *r)
{
    memset(r, 0, offsetof(struct proposer_replica, log.run));
}

static void forget_link(struct step *x, uint32_t i)
{
    struct proposer *p = x->p;
    on_link_down(x, i);
    replica_clear(&p->replica[i]);
    memset(&p->params.identity[i], 0, sizeof p->params.identity[i]);
}

static void on_add_link(struct step *x, const struct proposer_event *ev)
{
    struct proposer *p = x->p;
    uint32_t i = ev->link;
    assert(i < PROPOSER_REPLICAS_MAX && !uuid_is_zero(&ev->identity));
    for (uint32_t k = 0; k < p->params.n_replicas; k++)
        assert(k == i || !uuid_equal(&p->params.identity[k], &ev->identity)); /* nobody has two links, or two votes */
    if (i < p->params.n_replicas && uuid_equal(&p->params.identity[i], &ev->identity)) {
        p->replica[i].learner = ev->learner;
        return;
    }
    if (i >= p->params.n_replicas)
        p->params.n_replicas = i + 1; /* numbers in between lead nowhere */
    assert(uuid_is_zero(&p->params.identity[i]));
    replica_clear(&p->replica[i]);
    p->params.identity[i] = ev->identity;
    p->replica[i].learner = ev->learner;
    proposer_links_changed(p);
}

static void on_remove_link(struct step *x, uint32_t i)
{
    struct proposer *p = x->p;
    if (i >= p->params.n_replicas || uuid_is_zero(&p->params.identity[i]))
        return;
    forget_link(x, i);
    proposer_links_changed(p);
}

/* Voters that nobody leads to. */
static void want_links(struct step *x)
{
    struct proposer *p = x->p;
    p->want_links = false;
    for (unsigned which = 0; which < 2; which++) {
        if (which ? !p->has_uncommitted : !p->has_membership)
            continue;
        const struct membership *m = which ? &p->uncommitted : &p->committed;
        for (uint32_t v = 0; v < m->n_voters; v++)
            if (p->voter_link[which][v] == PROPOSER_NOBODY) {
                MARK("proposer: a voter has no link");
                struct proposer_effect e = {.type = PROPOSER_WANT_LINK, .identity = m->voter[v]};
                x->sink->fn(x->sink, &e);
            }
    }
}

void proposer_step(struct proposer *p, const struct proposer_event *ev, struct proposer_sink *sink)
{
    struct step x = {.p = p, .sink = sink, .now_ns = ev->now_ns, .random = ev->random};
    switch (ev->type) {
    case PROPOSER_ATTACH:
        p->want_attach = true;
        if (p->state == PROPOSER_IDLE)
            proposer_query(&x);
        break;
    case PROPOSER_DETACH:
        p->want_attach = false;
        proposer_release(&x);
        proposer_drop_all(&x);
        p->last_session_slot = 0; /* nothing is pending: a later attach is a fresh one */
        if (p->state != PROPOSER_FENCED)
            proposer_set_state(&x, PROPOSER_IDLE);
        break;
    case PROPOSER_TICK:
        on_tick(&x);
        break;
    case PROPOSER_LINK_UP:
        on_link_up(&x, ev->link);
        break;
    case PROPOSER_LINK_DOWN:
        on_link_down(&x, ev->link);
        break;
    case PROPOSER_MSG:
        on_msg(&x, ev->link, ev->msg);
        break;
    case PROPOSER_SESSION_ENTRY:
        on_session_entry(&x, ev->entry);
        break;
    case PROPOSER_ADD_LINK:
        on_add_link(&x, ev);
        break;
    case PROPOSER_REMOVE_LINK:
        on_remove_link(&x, ev->link);
        break;
    }
    if (p->want_links)
        want_links(&x);
    if (QBD_CHECKS)
        proposer_check(p);
}

/* ---- the rest of the public face ---- */

void proposer_init(struct proposer *p, const struct proposer_params *params)
{
    memset(p, 0, offsetof(struct proposer, replica));
    for (uint32_t i = 0; i < PROPOSER_REPLICAS_MAX; i++)
        replica_clear(&p->replica[i]);
    p->params = *params;
    if (p->params.inflight_bytes == 0)
        p->params.inflight_bytes = PROPOSER_INFLIGHT_BYTES;
    assert(params->n_replicas > 0 && params->n_replicas <= PROPOSER_REPLICAS_MAX);
    assert(params->ring_slots >= 16 && (params->ring_slots & (params->ring_slots - 1)) == 0);
    assert(!uuid_is_zero(&params->id));
    memset(params->ring, 0, params->ring_slots * sizeof params->ring[0]);
    p->next = 1;
    for (uint32_t i = 0; i < params->n_replicas; i++)
        p->replica[i].configured = true;
}

bool proposer_can_read(const struct proposer *p, uint64_t now_ns, uint64_t *ret_watermark)
{
    if (p->state != PROPOSER_SERVING || p->params.lease_ns == 0)
        return false;
    uint32_t mask = 0;
    for (uint32_t i = 0; i < p->params.n_replicas; i++)
        mask |= (uint32_t)(now_ns < p->replica[i].lease_until_ns && !p->replica[i].needs_copy) << i;
    if (!proposer_is_quorum(p, mask))
        return false;
    *ret_watermark = p->chosen; /* P8: the highest chosen, >= the own session start */
    return true;
}

static void check_ring(const struct proposer *p)
{
    /* All of a short ring; the ends of a long one. */
    for (uint64_t slot = p->floor + 1; slot < p->next; slot++) {
        const struct proposer_slot *s = proposer_slot_of(p, slot);
        struct ballot e;
        bool known = paxos_log_at(&p->log, slot, &e);
        assert(known && ballot_equal(&e, &s->e));
        assert(s->entry && s->entry->slot == slot && ballot_equal(&s->entry->e, &e));
        if (slot == p->floor + 32 && p->next > slot + 32)
            slot = p->next - 32;
    }
}

void proposer_check(const struct proposer *p)
{
    assert(p->state <= PROPOSER_FENCED);
    assert(p->floor < p->next && p->chosen < p->next);
    assert(p->next - p->floor <= p->params.ring_slots);
    assert(p->own_first <= p->own_end);
    assert(p->ballot.round <= p->max_round);
    assert(!p->has_uncommitted || p->has_membership);
    for (unsigned which = 0; which < (unsigned)p->has_membership + p->has_uncommitted; which++)
        for (uint32_t v = 0; v < MEMBERS_MAX; v++) {
            uint8_t i = p->voter_link[which][v];
            const struct membership *m = which ? &p->uncommitted : &p->committed;
            assert(i == PROPOSER_NOBODY || (v < m->n_voters && uuid_equal(&p->params.identity[i], &m->voter[v])));
        }
    if (p->state == PROPOSER_STARTING || p->state == PROPOSER_SERVING) {
        assert(p->log.base.slot == p->floor && paxos_log_last(&p->log).slot == p->next - 1);
        assert(p->session_slot > 0 && p->session_slot < p->next);
        assert(p->retained_bytes == p->bytes_total - p->floor_bytes);
        assert(p->has_membership);
        check_ring(p);
        for (uint32_t i = 0; i < p->params.n_replicas; i++) {
            const struct proposer_replica *r = &p->replica[i];
            assert(r->acked < p->next && (!r->needs_copy || r->acked == 0));
            assert(r->stream != STREAM_OPEN || r->next == p->next);
        }
    }
    if (p->state == PROPOSER_SERVING) {
        assert(p->floor <= p->chosen && p->chosen >= p->session_slot);
        assert(p->own_first == p->own_end);
        assert(p->last_session_slot == p->session_slot);
    }
    if (p->state == PROPOSER_STARTING)
        assert(p->chosen < p->session_slot && p->chosen == p->recovered_commit.slot);
}
