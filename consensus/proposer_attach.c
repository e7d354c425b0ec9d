/* Phase 1, first half: query, prepare, back off, give a ballot up; and the fate of own writes after a lost ballot (P1,
 * P7).
 *
 * What always holds:
 *  - a round is above everything heard and never used twice.
 *  - own writes of a lost ballot stay in cell.own until the own next session start is chosen: only then is a place that
 *    they do not have in the log out of reach for ever. */
#include "base/mark.h"
#include "consensus/proposer_internal.h"

#define BACKOFF_MIN_NS (10 * NS_PER_MS)
#define BACKOFF_DOUBLINGS 7u
#define HELD_POLL_NS (1000 * NS_PER_MS) /* a holder may release early */
#define HELD_JITTER_NS (20 * NS_PER_MS)

/* ---- P1: query, back off ---- */

void proposer_query_replica(struct step *x, uint32_t i)
{
    struct proposer_effect e = proposer_message(x->p, i, MSG_QUERY);
    e.msg.ballot = (struct ballot){.proposer = x->p->params.id};
    proposer_send(x, &e);
}

void proposer_query(struct step *x)
{
    struct proposer *p = x->p;
    p->attempt_deadline_ns = x->now_ns + p->params.timeout_ns;
    p->has_uncommitted = false; /* the logs will tell again */
    proposer_links_changed(p);  /* and so will this, who is missing */
    for (uint32_t i = 0; i < p->params.n_replicas; i++)
        p->replica[i].answered_query = p->replica[i].said_free = false;
    proposer_set_state(x, PROPOSER_QUERYING);
    for (uint32_t i = 0; i < p->params.n_replicas; i++)
        if (proposer_linked(p, i))
            proposer_query_replica(x, i);
}

void proposer_note_holder(struct step *x, const struct msg *m)
{
    struct proposer *p = x->p;
    const struct uuid *holder = &m->u.holder.holder;
    if (uuid_is_zero(holder) || uuid_equal(holder, &p->params.id))
        return;
    uint64_t ns = m->u.holder.remaining_ns < PAXOS_FORCE_MAX_NS ? m->u.holder.remaining_ns : PAXOS_FORCE_MAX_NS;
    bool same = uuid_equal(holder, &p->holder), named = m->u.holder.holder_name[0] != 0;
    if (!same && p->holder_until_ns > x->now_ns + ns)
        return;
    if (!same || named) {
        memcpy(p->holder_name, m->u.holder.holder_name, NAME_MAX_BYTES);
        p->holder_name[NAME_MAX_BYTES - 1] = 0;
    }
    p->holder = *holder;
    p->holder_until_ns = x->now_ns + ns;
}

uint64_t proposer_backoff(struct step *x)
{
    struct proposer *p = x->p;
    uint32_t doublings = p->attempts < BACKOFF_DOUBLINGS ? p->attempts : BACKOFF_DOUBLINGS;
    uint64_t ns = BACKOFF_MIN_NS << doublings;
    p->attempts++;
    return ns / 2 + x->random % (ns / 2 + 1);
}

/* How long to leave a holder alone. */
static uint64_t held_wait(struct step *x)
{
    uint64_t ns = x->p->holder_until_ns > x->now_ns ? x->p->holder_until_ns - x->now_ns : 0;
    if (ns > HELD_POLL_NS)
        ns = HELD_POLL_NS;
    return ns + x->random % HELD_JITTER_NS;
}

static void prepare(struct step *x)
{
    struct proposer *p = x->p;
    p->max_round++; /* above everything heard: never used before, by anybody with this id */
    p->ballot = (struct ballot){.round = p->max_round, .proposer = p->params.id};
    p->attempt_deadline_ns = x->now_ns + p->params.timeout_ns;
    p->next_beat_ns = x->now_ns + p->params.beat_ns;
    for (uint32_t i = 0; i < p->params.n_replicas; i++) {
        struct proposer_replica *r = &p->replica[i];
        r->has_promised = r->refused = r->has_log = false;
        r->acked = r->received = r->lease_until_ns = r->commit = r->behind_commit = r->reopen_at_ns = 0;
        r->n_memberships = 0;
    }
    proposer_set_state(x, PROPOSER_PREPARING);
    for (uint32_t i = 0; i < p->params.n_replicas; i++)
        if (proposer_linked(p, i))
            proposer_prepare_replica(x, i);
}

void proposer_prepare_replica(struct step *x, uint32_t i)
{
    struct proposer *p = x->p;
    struct proposer_effect e = proposer_message(p, i, MSG_PREPARE);
    e.msg.u.prepare.lease_ns = p->params.lease_ns;
    e.msg.u.prepare.t_ns = x->now_ns;
    memcpy(e.msg.u.prepare.name, p->params.name, NAME_MAX_BYTES);
    proposer_send(x, &e);
}

/* Enough to go by before a Prepare. The membership known here may be an old one: a majority of all that are configured
 * is as good a reason to look. */
static bool is_enough(const struct proposer *p, uint32_t mask)
{
    return proposer_is_configured_majority(p, mask) || proposer_is_quorum(p, mask);
}

/* P1: Prepare only when a majority says free. */
void proposer_judge_query(struct step *x, bool late)
{
    struct proposer *p = x->p;
    uint32_t free_mask = 0, answered = 0, linked = 0;
    for (uint32_t i = 0; i < p->params.n_replicas; i++) {
        const struct proposer_replica *r = &p->replica[i];
        free_mask |= (uint32_t)r->said_free << i;
        answered |= (uint32_t)r->answered_query << i;
        linked |= (uint32_t)proposer_linked(p, i) << i;
    }
    if (is_enough(p, free_mask)) {
        prepare(x);
        return;
    }
    if (!late && (linked & ~answered))
        return;
    bool held = (answered & ~free_mask) != 0;
    if (held && (late || is_enough(p, answered))) {
        MARK("proposer: held by another");
        p->retry_at_ns = x->now_ns + held_wait(x);
        proposer_set_state(x, PROPOSER_WAITING);
    } else if (late) {
        MARK("proposer: too few answered the query");
        proposer_query(x);
    }
}

void proposer_on_query_ack(struct step *x, uint32_t i, const struct msg *m)
{
    struct proposer_replica *r = &x->p->replica[i];
    if (m->u.holder.unknown)
        return;
    const struct membership *who = &m->u.holder.membership;
    bool tells = m->u.holder.retired || membership_has_voter(who, &x->p->params.identity[i]);
    if (who->n_voters > 0 && who->n_voters <= MEMBERS_MAX && tells && (!x->p->has_membership || who->slot > x->p->committed.slot)) {
        MARK_IF(x->p->has_membership, "proposer: a newer membership by a query");
        proposer_set_membership(x->p, false, who); /* whom to ask; the promises will be held against it */
    }
    const struct uuid *holder = &m->u.holder.holder;
    r->answered_query = true;
    r->said_free = uuid_is_zero(holder) || uuid_equal(holder, &x->p->params.id);
    proposer_note_holder(x, m);
    proposer_judge_query(x, false);
}

/* A lease of another holds at i. The others may still be enough. */
void proposer_on_refused(struct step *x, uint32_t i, const struct msg *m)
{
    struct proposer *p = x->p;
    if (p->replica[i].has_promised)
        return;
    p->replica[i].refused = true;
    proposer_note_holder(x, m);
    uint32_t possible = 0;
    for (uint32_t k = 0; k < p->params.n_replicas; k++)
        possible |= (uint32_t)!p->replica[k].refused << k;
    if (!proposer_is_quorum(p, possible)) {
        MARK("proposer: refused by a quorum");
        proposer_abandon(x, x->now_ns + held_wait(x) + proposer_backoff(x));
    }
}

/* ---- giving up a ballot ---- */

/* Losers release their leases (P1). Everybody who was sent a Prepare hears it, promised or not: on one link it comes
 * after the Prepare. */
void proposer_release(struct step *x)
{
    struct proposer *p = x->p;
    if (p->state < PROPOSER_PREPARING || p->state > PROPOSER_SERVING)
        return;
    for (uint32_t i = 0; i < p->params.n_replicas; i++) {
        struct proposer_replica *r = &p->replica[i];
        r->lease_until_ns = 0;
        if (!proposer_linked(p, i))
            continue;
        r->stream = STREAM_IDLE;
        struct proposer_effect e = proposer_message(p, i, MSG_RELEASE);
        proposer_send(x, &e);
    }
}

/* What is chosen stays chosen: the next attempt need not hear it again. */
static void remember_chosen(struct proposer *p)
{
    if (p->state != PROPOSER_SERVING)
        return;
    p->recovered_commit.slot = p->chosen;
    bool known = paxos_log_at(&p->log, p->chosen, &p->recovered_commit.e);
    assert(known);
    (void)known;
}

void proposer_forget_entry(struct step *x, uint64_t slot)
{
    struct proposer_slot *s = proposer_slot_of(x->p, slot);
    if (s->entry && s->entry != s->own)
        proposer_emit_entry(x, PROPOSER_FORGET, slot, s->entry);
    s->entry = NULL;
}

/* The ballot is lost while serving: own writes that are not known to be chosen wait aside. */
static void stash_own(struct step *x)
{
    struct proposer *p = x->p;
    for (uint64_t slot = p->floor + 1; slot <= p->chosen; slot++)
        proposer_forget_entry(x, slot);
    p->floor = p->chosen;
    paxos_log_trim(&p->log, p->floor);
    assert(p->own_first == p->own_end);
    p->own_first = p->chosen + 1;
    p->own_end = p->next;
    MARK_IF(p->own_first < p->own_end, "proposer: own writes set aside");
    for (uint64_t slot = p->own_first; slot < p->own_end; slot++) {
        struct proposer_slot *s = proposer_slot_of(p, slot);
        /* Everything above the own session start is own, and that start is chosen. */
        assert(s->entry && !s->own && uuid_equal(&s->entry->e.proposer, &p->params.id) && s->entry->kind != ENTRY_SESSION);
        s->own = s->entry;
        s->own_found = false;
        s->entry = NULL;
    }
}

void proposer_abandon(struct step *x, uint64_t retry_at_ns)
{
    struct proposer *p = x->p;
    proposer_release(x);
    MARK_IF(p->state == PROPOSER_STARTING, "proposer: ballot given up while starting");
    if (p->state == PROPOSER_SERVING) {
        MARK("proposer: ballot lost while serving");
        remember_chosen(p);
        stash_own(x);
    } else {
        for (uint64_t slot = p->own_first; slot < p->own_end; slot++) {
            struct proposer_slot *s = proposer_slot_of(p, slot);
            if (s->entry == s->own)
                s->entry = NULL;
        }
    }
    p->session_slot = 0;
    p->want_session_entry = false;
    p->retry_at_ns = retry_at_ns;
    proposer_set_state(x, PROPOSER_WAITING);
}

void proposer_drop_all(struct step *x)
{
    struct proposer *p = x->p;
    remember_chosen(p);
    for (uint64_t slot = p->floor + 1; slot < p->next; slot++)
        proposer_forget_entry(x, slot);
    for (uint64_t slot = p->own_first; slot < p->own_end; slot++) {
        struct proposer_slot *s = proposer_slot_of(p, slot);
        assert(s->own);
        proposer_emit_entry(x, PROPOSER_FORGET, slot, s->own);
        s->own = NULL;
    }
    if (p->session_entry)
        proposer_emit_entry(x, PROPOSER_FORGET, 0, p->session_entry);
    p->session_entry = NULL;
    p->want_session_entry = false;
    p->own_first = p->own_end = 0;
    p->floor = p->chosen;
    p->next = p->chosen + 1;
    p->session_slot = 0;
    p->n_missing = p->n_fetching = 0;
    p->retained_bytes = p->bytes_total = p->slabs_total = p->floor_bytes = p->floor_slabs = 0;
}

/* ---- P7 ---- */

void proposer_settle_own(struct step *x)
{
    struct proposer *p = x->p;
    for (uint64_t slot = p->own_first; slot < p->own_end; slot++) {
        struct proposer_slot *s = proposer_slot_of(p, slot);
        struct entry *own = s->own;
        assert(own);
        s->own = NULL;
        MARK_IF(!s->own_found, "proposer: own write unplaced");
        if (!s->own_found)
            proposer_emit_entry(x, PROPOSER_UNPLACED, slot, own);
        else if (s->entry != own) /* chosen, and below the ring by now */
            proposer_emit_entry(x, PROPOSER_FORGET, slot, own);
    }
    p->own_first = p->own_end = 0;
}
