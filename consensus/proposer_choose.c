/* Phase 1, second half: the choice of a log from the promises, the values of what is not known to be chosen of it, and
 * the session start behind it (P2, P3, P4).
 *
 * What always holds:
 *  - the choice is a function of the promises heard; it is made anew with every further promise until STARTING, and
 *    nothing that follows from it is sent before.
 *  - ring cells in (floor, next) belong to the chosen log while one is chosen: cell.e is its ballot there, cell.entry
 *    (if any) its value. */
#include "base/mark.h"
#include "consensus/proposer_internal.h"

/* ---- P2: the choice of a log ---- */

/* W: the highest commit that anybody told, or that this process itself saw chosen. */
static struct log_pos highest_commit(const struct proposer *p)
{
    struct log_pos w = p->recovered_commit;
    for (uint32_t i = 0; i < p->params.n_replicas; i++) {
        const struct proposer_replica *r = &p->replica[i];
        if (r->has_promised && r->promise_commit.slot > w.slot)
            w = r->promise_commit;
    }
    return w;
}

/* A learner knows what it was made with, which may be anything: only voters, and those who were, are asked who votes. */
static bool tells_membership(const struct proposer *p, uint32_t i)
{
    const struct proposer_replica *r = &p->replica[i];
    return r->has_promised && (r->retired || membership_has_voter(&r->memberships[0], &p->params.identity[i]));
}

/* Memberships in the answers. Only a committed one replaces the old one; one that the chosen log holds above W asks for
 * both (P2). */
static void adopt_committed(struct proposer *p)
{
    for (uint32_t i = 0; i < p->params.n_replicas; i++) {
        const struct proposer_replica *r = &p->replica[i];
        if (tells_membership(p, i) && (!p->has_membership || r->memberships[0].slot > p->committed.slot))
            proposer_set_membership(p, false, &r->memberships[0]);
    }
}

/* Two answers that name different voters for one slot: a disk was put in by creating the group anew on it instead of by
 * a membership change. Neither can be believed; a quorum of the wrong one would not intersect those that chose. */
static bool memberships_conflict(const struct proposer *p)
{
    for (uint32_t i = 0; i < p->params.n_replicas; i++) {
        const struct proposer_replica *r = &p->replica[i];
        const struct membership *m = &r->memberships[0];
        if (!tells_membership(p, i) || m->slot != p->committed.slot)
            continue;
        if (m->n_voters != p->committed.n_voters)
            return true;
        for (unsigned v = 0; v < m->n_voters; v++)
            if (!membership_has_voter(&p->committed, &m->voter[v]))
                return true;
    }
    return false;
}

/* Of two that the log holds the first is committed: the second was proposed only then (P9). */
static void note_membership(struct proposer *p, const struct membership *m, uint64_t w)
{
    if (m->slot <= p->committed.slot || (p->has_uncommitted && m->slot == p->uncommitted.slot))
        return;
    if (m->slot <= w) {
        proposer_set_membership(p, false, m);
    } else if (!p->has_uncommitted) {
        proposer_set_membership(p, true, m);
    } else {
        struct membership low = *m, high = p->uncommitted;
        if (low.slot > high.slot) {
            low = p->uncommitted;
            high = *m;
        }
        proposer_set_membership(p, false, &low);
        proposer_set_membership(p, true, &high);
    }
}

static void adopt_uncommitted(struct proposer *p, const struct paxos_log *best, uint64_t w)
{
    p->has_uncommitted = false;
    for (uint32_t i = 0; i < p->params.n_replicas; i++) {
        const struct proposer_replica *r = &p->replica[i];
        if (!r->has_promised || r->n_memberships < 2)
            continue;
        struct log_pos at = {.slot = r->memberships[1].slot};
        if (paxos_log_at(&r->log, at.slot, &at.e) && paxos_log_holds(best, &at))
            note_membership(p, &r->memberships[1], w);
    }
    /* One whose value was lost at those who answered may have come with a value. */
    for (uint64_t slot = p->floor + 1; slot < p->next; slot++) {
        const struct proposer_slot *s = proposer_slot_of(p, slot);
        if (!s->entry || s->entry->kind != ENTRY_MEMBER)
            continue;
        struct membership m = s->entry->u[0].membership;
        m.slot = slot;
        note_membership(p, &m, w);
    }
}

static uint32_t voting_mask(const struct proposer *p)
{
    uint32_t mask = 0;
    for (uint32_t i = 0; i < p->params.n_replicas; i++)
        mask |= (uint32_t)(p->replica[i].has_promised && !p->replica[i].needs_copy) << i;
    return mask;
}

static const struct paxos_log *best_log(struct proposer *p, uint32_t mask)
{
    const struct paxos_log *best = NULL;
    for (uint32_t i = 0; i < p->params.n_replicas; i++) {
        if (!(mask >> i & 1))
            continue;
        const struct paxos_log *l = &p->replica[i].log;
        struct log_pos a = paxos_log_last(l), b = best ? paxos_log_last(best) : a;
        if (!best || log_pos_compare(&a, &b) > 0) {
            best = l;
            p->size_blocks = p->replica[i].size_blocks;
        }
    }
    return best;
}

/* P7: a foreign session start after the own last one that served. Every session's entries begin with its start, so a
 * run of another proposer tells. */
static bool has_foreign_session(const struct proposer *p, const struct paxos_log *l)
{
    if (p->last_session_slot == 0)
        return false;
    if (l->base.slot > p->last_session_slot && !uuid_equal(&l->base.e.proposer, &p->params.id))
        return true;
    for (uint32_t i = 0; i < l->n; i++)
        if (l->run[i].last > p->last_session_slot && !uuid_equal(&l->run[i].e.proposer, &p->params.id))
            return true;
    return false;
}

/* The highest slot through which a quorum's logs equal `best`, values included. */
static uint64_t quorum_match(const struct proposer *p, const struct paxos_log *best, uint32_t mask)
{
    uint64_t match[PROPOSER_REPLICAS_MAX] = {0};
    for (uint32_t i = 0; i < p->params.n_replicas; i++) {
        const struct proposer_replica *r = &p->replica[i];
        struct log_pos m;
        if (!(mask >> i & 1) || !paxos_log_match(best, &r->log, &m))
            continue;
        match[i] = r->n_lost > 0 && r->lost[0] <= m.slot ? r->lost[0] - 1 : m.slot;
    }
    return proposer_quorum_value(p, match);
}

/* What lies at or below W is for catch-up to bring. But where no quorum holds all of it, and nobody who could donate knows
 * that it is committed (this process knows, or an incomplete replica), it passes through here like what is above W. */
static uint64_t below_w(const struct proposer *p, const struct paxos_log *best, uint64_t w, uint32_t mask)
{
    uint64_t donors = 0;
    for (uint32_t i = 0; i < p->params.n_replicas; i++)
        if ((mask >> i & 1) && p->replica[i].promise_commit.slot > donors)
            donors = p->replica[i].promise_commit.slot;
    if (donors >= w || donors < best->base.slot || quorum_match(p, best, mask) >= w)
        return w;
    MARK("proposer: ring begins below W, nobody can donate it");
    return donors;
}

/* Where the ring starts: at W; where the tail above it does not fit, higher, as far as a quorum needs nothing (the
 * others catch up from them once the session start is chosen). False: it cannot be held. */
static bool choose_floor(const struct proposer *p, const struct paxos_log *best, uint64_t w, uint32_t mask,
                         uint64_t *ret)
{
    uint64_t last = paxos_log_last(best).slot, floor = below_w(p, best, w, mask);
    for (int try = 0; try < 3; try++) {
        uint64_t low = floor, high = last + 2;
        if (p->own_first < p->own_end) {
            low = p->own_first - 1 < low ? p->own_first - 1 : low;
            high = p->own_end > high ? p->own_end : high;
        }
        if (high - low <= p->params.ring_slots) {
            *ret = floor;
            return true;
        }
        uint64_t match = quorum_match(p, best, mask);
        floor = floor < w ? w : match > w ? match : w;
    }
    return false;
}

static void count_missing(struct proposer *p)
{
    p->n_missing = 0;
    p->n_fetching = 0;
    for (uint64_t slot = p->floor + 1; slot < p->next; slot++) {
        const struct proposer_slot *s = proposer_slot_of(p, slot);
        p->n_missing += s->entry == NULL;
        p->n_fetching += s->asked != PROPOSER_NOBODY;
    }
    p->fetch_scan = p->floor + 1;
}

/* The ring takes the shape of the chosen log; values that are here already stay. */
static void rebase(struct step *x, const struct paxos_log *best, uint64_t floor)
{
    struct proposer *p = x->p;
    uint64_t last = paxos_log_last(best).slot;
    for (uint64_t slot = p->floor + 1; slot < p->next; slot++) {
        struct proposer_slot *s = proposer_slot_of(p, slot);
        struct log_pos at = {.slot = slot, .e = s->e};
        if (slot <= floor || slot > last || !paxos_log_holds(best, &at))
            proposer_forget_entry(x, slot);
    }
    for (uint64_t slot = p->own_first; slot < p->own_end; slot++) {
        struct proposer_slot *s = proposer_slot_of(p, slot);
        assert(s->own);
        struct log_pos at = {.slot = slot, .e = s->own->e};
        s->own_found = paxos_log_holds(best, &at);
        if (s->own_found && slot > floor && !s->entry) {
            MARK("proposer: own write in the chosen log");
            s->entry = s->own;
        }
    }
    p->log = *best;
    paxos_log_trim(&p->log, floor);
    p->floor = floor;
    p->next = last + 1;
    for (uint32_t i = 0; i < p->log.n; i++)
        for (uint64_t slot = p->log.run[i].first; slot <= p->log.run[i].last; slot++) {
            struct proposer_slot *s = proposer_slot_of(p, slot);
            s->e = p->log.run[i].e;
            s->asked = PROPOSER_NOBODY;
            s->tried = 0;
        }
    count_missing(p);
}

static void fence(struct step *x)
{
    proposer_release(x);
    proposer_drop_all(x);
    proposer_set_state(x, PROPOSER_FENCED);
}

static void select_log(struct step *x)
{
    struct proposer *p = x->p;
    adopt_committed(p);
    p->has_uncommitted = false;
    if (!p->has_membership)
        return; /* learners alone have answered */
    if (memberships_conflict(p)) {
        MARK("proposer: two disks name different voters");
        if (p->last_session_slot == 0)
            p->has_membership = false; /* it may be the wrong one that was heard first */
        proposer_abandon(x, x->now_ns + proposer_backoff(x));
        return;
    }
    uint32_t mask = voting_mask(p);
    if (!proposer_is_quorum(p, mask))
        return;
    const struct paxos_log *best = best_log(p, mask);
    struct log_pos w = highest_commit(p);
    uint64_t floor;
    if (!paxos_log_holds(best, &w)) {
        MARK("proposer: somebody committed what no log holds");
        /* Somebody has committed what no log here holds: this ballot is not the highest any more, whoever told us. */
        proposer_abandon(x, x->now_ns + proposer_backoff(x));
        return;
    }
    if (has_foreign_session(p, best)) {
        MARK("proposer: fenced, a foreign session in the log");
        fence(x);
        return;
    }
    if (!choose_floor(p, best, w.slot, mask, &floor)) {
        MARK("proposer: the tail does not fit the ring");
        proposer_abandon(x, x->now_ns + proposer_backoff(x));
        return;
    }
    p->recovered_commit = w;
    MARK_IF(floor > w.slot, "proposer: ring begins above W");
    MARK_IF(paxos_log_last(best).slot > w.slot, "proposer: a tail above W to recover");
    p->chosen = w.slot;
    rebase(x, best, floor);
    adopt_uncommitted(p, best, w.slot);
    /* P2: both memberships have to answer: collect more, select again. */
    if (!proposer_is_quorum(p, mask)) {
        proposer_set_state(x, PROPOSER_PREPARING);
        return;
    }
    proposer_set_state(x, PROPOSER_RECOVERING);
    proposer_recover(x);
}

void proposer_on_promise(struct step *x, uint32_t i, const struct msg *m)
{
    struct proposer *p = x->p;
    struct proposer_replica *r = &p->replica[i];
    if (r->has_promised)
        return;
    uint32_t n = m->u.promise.n_memberships;
    bool ok = n >= 1 && n <= 2;
    for (uint32_t k = 0; ok && k < n; k++)
        ok = m->u.promise.memberships[k].n_voters >= 1 && m->u.promise.memberships[k].n_voters <= MEMBERS_MAX;
    ok = ok && proposer_copy_log(r, &m->u.promise.base, m->u.promise.n_runs, m->u.promise.runs, m->u.promise.n_lost,
                                 m->u.promise.lost, &m->u.promise.commit);
    if (!ok) {
        r->has_log = false;
        proposer_disconnect(x, i);
        return;
    }
    r->has_promised = true;
    r->refused = false;
    r->promise_commit = m->u.promise.commit;
    r->commit = m->u.promise.commit.slot;
    r->needs_copy = m->u.promise.needs_copy != 0;
    r->size_blocks = m->u.promise.size_blocks;
    r->credits = m->u.promise.credits;
    r->has_credits = true;
    r->retired = m->u.promise.retired != 0;
    r->n_memberships = n;
    memcpy(r->memberships, m->u.promise.memberships, n * sizeof r->memberships[0]);
    proposer_count_lease(x, r, m->u.promise.t_ns, m->u.promise.lease_ns);
    select_log(x);
}

/* ---- values (P3) and the start ---- */

/* The voters' answers about (slot, e): who holds it, LOST or not. */
static uint32_t holders(const struct proposer *p, uint64_t slot, const struct ballot *e)
{
    struct log_pos at = {.slot = slot, .e = *e};
    uint32_t mask = 0;
    for (uint32_t i = 0; i < p->params.n_replicas; i++)
        mask |= (uint32_t)(p->replica[i].has_promised && paxos_log_holds(&p->replica[i].log, &at)) << i;
    return mask;
}

static uint32_t pick_holder(const struct proposer *p, uint64_t slot, uint32_t mask, uint32_t tried)
{
    for (uint32_t k = 0; k < p->params.n_replicas; k++) {
        uint32_t i = (uint32_t)((slot + k) % p->params.n_replicas); /* spread the load */
        const struct proposer_replica *r = &p->replica[i];
        if (!(mask >> i & 1) || (tried >> i & 1) || !proposer_linked(p, i))
            continue;
        uint32_t n = paxos_lower_bound(r->lost, r->n_lost, slot);
        if (n < r->n_lost && r->lost[n] == slot) {
            MARK("proposer: a holder has the entry as LOST");
            continue;
        }
        return i;
    }
    return PROPOSER_NOBODY;
}

/* P3: it was never chosen, and so nothing above it was. */
static void cut_log(struct step *x, uint64_t slot)
{
    struct proposer *p = x->p;
    MARK("proposer: LOST entry, never chosen: cut");
    for (uint64_t s = slot; s < p->next; s++)
        proposer_forget_entry(x, s);
    for (uint64_t s = p->own_first > slot ? p->own_first : slot; s < p->own_end; s++)
        proposer_slot_of(p, s)->own_found = false;
    paxos_log_cut(&p->log, slot);
    p->next = slot;
    if (p->has_uncommitted && p->uncommitted.slot >= slot)
        p->has_uncommitted = false;
    count_missing(p);
}

static void start(struct step *x)
{
    struct proposer *p = x->p;
    struct entry *e = p->session_entry;
    if (!paxos_log_append(&p->log, p->next, &p->ballot)) {
        proposer_abandon(
            x,
            x->now_ns + proposer_backoff(x)); /* as many sessions as a log can list, and none of them known as chosen */
        return;
    }
    e->group = p->params.group;
    e->slot = p->next;
    e->e = p->ballot;
    struct proposer_slot *s = proposer_slot_of(p, p->next);
    s->entry = e;
    s->e = p->ballot;
    p->session_entry = NULL;
    p->session_slot = p->next++;
    p->bytes_total = p->slabs_total = p->floor_bytes = p->floor_slabs = 0;
    for (uint64_t slot = p->floor + 1; slot < p->next; slot++)
        proposer_account(p, slot);
    p->attempt_deadline_ns = x->now_ns + p->params.timeout_ns;
    proposer_set_state(x, PROPOSER_STARTING);
    proposer_start_streams(x);
}

void proposer_recover(struct step *x)
{
    struct proposer *p = x->p;
    assert(p->state == PROPOSER_RECOVERING);
    uint32_t heard = voting_mask(p);
    while (p->fetch_scan < p->next && p->n_fetching < PROPOSER_FETCH_MAX) {
        uint64_t slot = p->fetch_scan;
        struct proposer_slot *s = proposer_slot_of(p, slot);
        if (s->entry || s->asked != PROPOSER_NOBODY) {
            p->fetch_scan++;
            continue;
        }
        uint32_t mask = holders(p, slot, &s->e);
        uint32_t i = pick_holder(p, slot, mask, s->tried);
        if (i == PROPOSER_NOBODY) {
            /* P3: no holder of (s, e) can give it. If holders + LOST + unheard voters are no majority it was never
             * chosen; else wait for more answers. */
            if (slot > p->recovered_commit.slot && !proposer_may_be_chosen(p, mask, heard)) {
                cut_log(x, slot);
                break;
            }
            MARK("proposer: LOST entry, waits for more answers");
            p->fetch_scan++;
            continue;
        }
        s->asked = (uint8_t)i;
        p->n_fetching++;
        p->fetch_scan++;
        struct proposer_effect e = proposer_message(p, i, MSG_FETCH);
        e.msg.cookie = slot;
        e.msg.u.fetch.at = (struct log_pos){.slot = slot, .e = s->e};
        proposer_send(x, &e);
    }
    if (p->n_missing > 0)
        return;
    if (p->session_entry) {
        start(x);
        return;
    }
    p->want_session_entry = true;
    struct proposer_effect e = {.type = PROPOSER_WANT_SESSION_ENTRY};
    x->sink->fn(x->sink, &e);
}

void proposer_on_value(struct step *x, uint32_t i, const struct msg *m)
{
    struct proposer *p = x->p;
    const struct log_pos *at = &m->u.value.at;
    if (p->state != PROPOSER_RECOVERING || at->slot <= p->floor || at->slot >= p->next)
        return;
    struct proposer_slot *s = proposer_slot_of(p, at->slot);
    if (!ballot_equal(&s->e, &at->e))
        return;
    if (s->asked == i) {
        s->asked = PROPOSER_NOBODY;
        p->n_fetching--;
    }
    if (s->entry)
        return;
    struct entry *e = m->u.value.found ? m->u.value.entry : NULL;
    if (!e || e->slot != at->slot || !ballot_equal(&e->e, &at->e) || e->group != p->params.group) {
        MARK("proposer: value not found, asks another");
        s->tried |= 1u << i;
        if (at->slot < p->fetch_scan)
            p->fetch_scan = at->slot;
        proposer_recover(x);
        return;
    }
    MARK_IF(s->asked != PROPOSER_NOBODY, "proposer: late value taken");
    if (s->asked != PROPOSER_NOBODY) { /* somebody else is asked as well: a late answer, as good */
        s->asked = PROPOSER_NOBODY;
        p->n_fetching--;
    }
    proposer_emit_entry(x, PROPOSER_HOLD, at->slot, e);
    s->entry = e;
    p->n_missing--;
    p->attempt_deadline_ns = x->now_ns + p->params.timeout_ns;
    if (e->kind == ENTRY_MEMBER && e->slot > p->committed.slot &&
        (!p->has_uncommitted || p->uncommitted.slot != e->slot))
        select_log(x); /* P2: a membership that nobody could list */
    else
        proposer_recover(x);
}

void proposer_forget_asked(struct step *x, uint32_t i, bool link_up)
{
    struct proposer *p = x->p;
    if (p->state != PROPOSER_RECOVERING)
        return;
    for (uint64_t slot = p->floor + 1; slot < p->next; slot++) {
        struct proposer_slot *s = proposer_slot_of(p, slot);
        if (s->asked == i) {
            s->asked = PROPOSER_NOBODY;
            p->n_fetching--;
        }
        if (link_up)
            s->tried &= ~(1u << i);
    }
    p->fetch_scan = p->floor + 1;
    proposer_recover(x);
}
