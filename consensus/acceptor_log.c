/* How the acceptor's log changes: by Accept (A4), by catch-up (A7), by rising commits (A6) and durability (A5).
 *
 * What always holds:
 *  - nothing at or below commit is ever cut or replaced.
 *  - a slot is durable when its record is and its value is not LOST; `durable` is the end of the gapless durable
 *    prefix.
 *  - a log only ever holds what some proposer's log held through the same slot (log matching): equal (slot, e) means
 *    equal prefixes. */
#include "base/mark.h"
#include "consensus/acceptor_internal.h"

bool acceptor_is_lost(const struct acceptor *a, uint64_t slot)
{
    uint32_t i = paxos_lower_bound(a->lost, a->n_lost, slot);
    return i < a->n_lost && a->lost[i] == slot;
}

void acceptor_find_durable(struct acceptor *a)
{
    uint64_t durable = paxos_log_last(&a->log).slot;
    for (uint32_t i = 0; i < a->n_pending; i++)
        if (a->pending[i].first_slot - 1 < durable)
            durable = a->pending[i].first_slot - 1;
    if (a->n_lost > 0 && a->lost[0] - 1 < durable)
        durable = a->lost[0] - 1;
    a->durable = durable;
}

/* ---- what is not yet durable ---- */

/* Whether the record with the next seq but `skip` can be noted for slot. */
static bool pending_fits(const struct acceptor *a, uint64_t slot, unsigned skip)
{
    if (a->n_pending < ACCEPTOR_PENDING_MAX)
        return true;
    const typeof(a->pending[0]) *last = &a->pending[a->n_pending - 1];
    return last->first_slot + last->n == slot && last->first_seq + last->n == a->seq + 1 + skip;
}

static void pending_add(struct acceptor *a, uint64_t slot, uint64_t seq)
{
    if (a->n_pending > 0) {
        typeof(a->pending[0]) *last = &a->pending[a->n_pending - 1];
        if (last->first_slot + last->n == slot && last->first_seq + last->n == seq) {
            last->n++;
            return;
        }
    }
    assert(a->n_pending < ACCEPTOR_PENDING_MAX);
    a->pending[a->n_pending].first_slot = slot;
    a->pending[a->n_pending].first_seq = seq;
    a->pending[a->n_pending].n = 1;
    a->n_pending++;
}

static void pending_cut(struct acceptor *a, uint64_t slot)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < a->n_pending; i++) {
        typeof(a->pending[0]) run = a->pending[i];
        if (run.first_slot >= slot)
            continue;
        if (run.first_slot + run.n > slot)
            run.n = slot - run.first_slot;
        a->pending[n++] = run;
    }
    a->n_pending = n;
}

/* Records of slots <= slot are waited for no more. */
static void pending_forget(struct acceptor *a, uint64_t slot)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < a->n_pending; i++) {
        typeof(a->pending[0]) run = a->pending[i];
        if (run.first_slot + run.n - 1 <= slot)
            continue;
        if (run.first_slot <= slot) {
            uint64_t gone = slot + 1 - run.first_slot;
            run.first_slot += gone;
            run.first_seq += gone;
            run.n -= gone;
        }
        a->pending[n++] = run;
    }
    a->n_pending = n;
}

void acceptor_on_durable(struct acceptor *a, uint64_t seq)
{
    if (seq <= a->durable_seq)
        return;
    assert(seq <= a->seq);
    a->durable_seq = seq;
    uint32_t n = 0;
    for (uint32_t i = 0; i < a->n_pending; i++) {
        typeof(a->pending[0]) run = a->pending[i];
        if (run.first_seq + run.n - 1 <= seq)
            continue;
        if (run.first_seq <= seq) {
            uint64_t done = seq - run.first_seq + 1;
            run.first_seq += done;
            run.first_slot += done;
            run.n -= done;
        }
        a->pending[n++] = run;
    }
    a->n_pending = n;
    acceptor_find_durable(a);
}

/* ---- memberships ---- */

void acceptor_set_committed(struct acceptor *a, const struct membership *m)
{
    bool was = acceptor_is_voter(a);
    struct membership copy = *m; /* it may be the uncommitted one, and so a member of `a` */
    a->committed = copy;
    if (acceptor_is_voter(a))
        a->retired = false;
    else if (was)
        a->retired = true;
    MARK_IF(a->retired && was, "acceptor: retired");
    a->membership_changed = true;
}

static void note_membership(struct acceptor *a, const struct entry *e)
{
    if (e->kind != ENTRY_MEMBER || (a->committed.slot != 0 && e->slot <= a->committed.slot))
        return;
    a->membership_changed = true;
    struct membership m = e->u[0].membership;
    m.slot = e->slot;
    /* P9: another one is proposed only when the one before it is committed. That this is so may not have been heard
     * here: watermarks are forgotten by restarts. */
    if (a->has_uncommitted && a->uncommitted.slot > m.slot) {
        acceptor_set_committed(a, &m);
        return;
    }
    if (a->has_uncommitted && a->uncommitted.slot < m.slot)
        acceptor_set_committed(a, &a->uncommitted);
    a->uncommitted = m;
    a->has_uncommitted = true;
}

void acceptor_commit_to(struct acceptor *a, uint64_t slot)
{
    if (slot <= a->commit)
        return;
    assert(slot <= paxos_log_last(&a->log).slot);
    a->commit = slot;
    if (a->has_uncommitted && a->uncommitted.slot <= slot) {
        acceptor_set_committed(a, &a->uncommitted);
        a->has_uncommitted = false;
    }
}

void acceptor_tell_commit(struct acceptor *a, struct acceptor_effects *fx)
{
    uint64_t slot = a->commit < a->durable ? a->commit : a->durable;
    if (slot <= a->told)
        return;
    a->told = slot;
    acceptor_effect(fx, ACCEPTOR_COMMIT)->slot = slot;
}

/* ---- cut, append, refill ---- */

static void cut(struct acceptor *a, struct acceptor_effects *fx, uint64_t slot)
{
    assert(slot > a->commit);
    MARK("acceptor: log cut");
    MARK_IF(a->match_valid && a->match >= slot, "acceptor: catch-up cut what was matched");
    acceptor_persist(a, fx, ACCEPTOR_CUT)->slot = slot;
    paxos_log_cut(&a->log, slot);
    a->n_lost = paxos_lower_bound(a->lost, a->n_lost, slot);
    pending_cut(a, slot);
    if (a->has_uncommitted && a->uncommitted.slot >= slot) {
        a->has_uncommitted = false;
        a->membership_changed = true;
    }
    if (a->match_valid && a->match >= slot)
        acceptor_drop_stream(a); /* only catch-up cuts there: what was matched is not what was chosen */
}

/* A new run needs a place in the table. The oldest ones that are committed need not be known by run any more: the base
 * rises over them. */
static bool make_run_room(struct acceptor *a, const struct ballot *e)
{
    if (a->log.n < RUNS_MAX || ballot_equal(&a->log.run[a->log.n - 1].e, e))
        return true;
    MARK("acceptor: run table full");
    uint64_t end = a->log.run[0].last;
    if (end > a->told)
        return false;
    acceptor_on_trim(a, end);
    return true;
}

static void append(struct acceptor *a, struct acceptor_effects *fx, struct entry *e)
{
    struct acceptor_effect *fe = acceptor_persist(a, fx, ACCEPTOR_APPEND);
    fe->entry = e;
    fe->slot = e->slot;
    pending_add(a, e->slot, fe->seq);
    bool ok = paxos_log_append(&a->log, e->slot, &e->e);
    assert(ok);
    (void)ok;
    note_membership(a, e);
}

static void refill(struct acceptor *a, struct acceptor_effects *fx, struct entry *e)
{
    MARK("acceptor: LOST slot refilled");
    uint32_t i = paxos_lower_bound(a->lost, a->n_lost, e->slot);
    assert(i < a->n_lost && a->lost[i] == e->slot);
    memmove(&a->lost[i], &a->lost[i + 1], (a->n_lost - i - 1) * sizeof a->lost[0]);
    a->n_lost--;
    struct acceptor_effect *fe = acceptor_persist(a, fx, ACCEPTOR_REFILL);
    fe->entry = e;
    fe->slot = e->slot;
    pending_add(a, e->slot, fe->seq);
    note_membership(a, e);
}

/* What stands at the entry's slot, which is at most one above the last. */
enum place { PLACE_SAME, PLACE_LOST, PLACE_OTHER, PLACE_NEW };

static enum place place_of(const struct acceptor *a, const struct entry *e)
{
    struct ballot own;
    if (!paxos_log_at(&a->log, e->slot, &own))
        return PLACE_NEW;
    if (!ballot_equal(&own, &e->e))
        return PLACE_OTHER;
    return acceptor_is_lost(a, e->slot) ? PLACE_LOST : PLACE_SAME;
}

/* Puts e, which follows the log's slot e->slot - 1, into the log. False: it may not stand there, or a table is full;
 * nothing has changed. */
static bool put(struct acceptor *a, struct acceptor_effects *fx, struct entry *e)
{
    enum place place = place_of(a, e);
    if (place == PLACE_SAME)
        return true;
    if (!pending_fits(a, e->slot, place == PLACE_OTHER)) {
        MARK("acceptor: table of pending records full");
        return false;
    }
    if (place == PLACE_LOST) {
        refill(a, fx, e);
        return true;
    }
    /* A4: different e: refuse what is committed; else cut it and everything above. */
    MARK_IF(place == PLACE_OTHER && e->slot <= a->commit, "acceptor: entry against a committed one");
    if (place == PLACE_OTHER && e->slot <= a->commit)
        return false;
    struct ballot before;
    bool known = paxos_log_at(&a->log, e->slot - 1, &before);
    assert(known);
    (void)known;
    if (ballot_compare(&e->e, &before) < 0)
        return false; /* ballots never fall along a log */
    if (!make_run_room(a, &e->e))
        return false;
    if (place == PLACE_OTHER)
        cut(a, fx, e->slot);
    append(a, fx, e);
    return true;
}

bool acceptor_take(struct acceptor *a, struct acceptor_effects *fx, struct entry *e)
{
    assert(a->match_valid && e->slot == a->match + 1);
    bool ranged = e->kind == ENTRY_WRITE || e->kind == ENTRY_TRIM || e->kind == ENTRY_ZERO;
    if (ranged && (e->block > a->size_blocks || e->nblocks > a->size_blocks - e->block))
        return false;
    if (e->group != a->group || e->e.round == 0 || ballot_compare(&e->e, &a->promised) > 0)
        return false;
    /* Catch-up and a checkpoint may have passed the stream: whether the entry is the one that stood there cannot be
     * told any more. */
    if (e->slot < a->log.base.slot || !put(a, fx, e)) {
        MARK("acceptor: entry can't be put");
        return false;
    }
    a->match = e->slot;
    return true;
}

/* A7 without a value: what a peer has committed at `at` is committed here as well when the own log holds that very
 * entry, for then it holds all that the peer has below it (up to the first LOST slot). */
static void vouched_for(struct acceptor *a, const struct log_pos *at)
{
    if (!paxos_log_holds(&a->log, at))
        return;
    uint64_t slot = a->n_lost > 0 && a->lost[0] <= at->slot ? a->lost[0] - 1 : at->slot;
    MARK_IF(slot > a->commit, "acceptor: the floor of a peer's log vouches for the own one");
    acceptor_commit_to(a, slot);
    acceptor_find_durable(a);
}

/* A7, piecewise: the entries are all committed at a peer. Where the own entry has the same ballot it is kept (a LOST
 * one filled), from the first other one on the own log becomes the peer's. If that never happens the own tail stays. */
void acceptor_on_caught_up(struct acceptor *a, struct acceptor_effects *fx, const struct acceptor_event *ev)
{
    uint64_t slot = ev->from.slot;
    if (ev->n_entries == 0) {
        vouched_for(a, &ev->through);
        return;
    }
    if (ev->through.slot - slot != ev->n_entries || ev->through.slot < slot || slot > a->commit)
        return; /* malformed, or not contiguous to what is committed here */
    struct ballot own;
    if (slot >= a->log.base.slot && (!paxos_log_at(&a->log, slot, &own) || !ballot_equal(&own, &ev->from.e)))
        return;
    MARK_IF(slot < a->commit, "acceptor: catch-up piece begins below commit");
    const struct entry *last = ev->entries[ev->n_entries - 1];
    if (!ballot_equal(&last->e, &ev->through.e))
        return;
    for (uint32_t i = 0; i < ev->n_entries; i++) {
        struct entry *e = ev->entries[i];
        slot++;
        if (e->slot != slot || e->group != a->group)
            break;
        if (slot <= a->log.base.slot)
            continue; /* long done */
        if (!put(a, fx, e))
            break;
        acceptor_commit_to(a, slot);
    }
    MARK_IF(paxos_log_last(&a->log).slot > slot, "acceptor: own tail stays above what was caught up");
    acceptor_find_durable(a);
}

void acceptor_on_trim(struct acceptor *a, uint64_t slot)
{
    if (slot <= a->log.base.slot)
        return;
    assert(slot <= a->told); /* hence no LOST slot goes with it */
    paxos_log_trim(&a->log, slot);
}

/* ---- the jump (docs/rebuild.md section 3) ---- */

/* The own log does not hold `to`: it ends below, or parted from what was chosen at or below it. Nothing in it above `to`
 * was ever chosen, and what was chosen at or below it the peers have. */
static void empty_log(struct acceptor *a, struct acceptor_effects *fx, const struct log_pos *to)
{
    MARK("acceptor: a jump empties the log");
    acceptor_persist(a, fx, ACCEPTOR_CUT)->slot = to->slot + 1;
    a->log.base = *to;
    a->log.n = 0;
    a->n_lost = 0;
    a->n_pending = 0;
    a->has_uncommitted = false;
}

/* The tail above `to` stays: its entries may have been chosen by this replica's acknowledgement. */
static void keep_tail(struct acceptor *a, const struct log_pos *to)
{
    MARK_IF(paxos_log_last(&a->log).slot > to->slot, "acceptor: a jump keeps a tail");
    paxos_log_trim(&a->log, to->slot);
    uint32_t gone = paxos_lower_bound(a->lost, a->n_lost, to->slot + 1);
    MARK_IF(gone > 0, "acceptor: a jump over LOST slots");
    a->n_lost -= gone;
    memmove(a->lost, a->lost + gone, a->n_lost * sizeof a->lost[0]);
    pending_forget(a, to->slot);
}

void acceptor_on_jump(struct acceptor *a, struct acceptor_effects *fx, const struct acceptor_event *ev)
{
    const struct log_pos *to = &ev->to;
    const struct membership *m = ev->membership;
    if (!a->needs_copy || to->slot <= a->told)
        return;
    if (paxos_log_holds(&a->log, to))
        keep_tail(a, to);
    else
        empty_log(a, fx, to);
    a->commit = a->told = to->slot; /* a commit above it is forgotten, as by a restart: nothing is applied by the jump */
    acceptor_find_durable(a);
    if (m->slot > a->committed.slot)
        acceptor_set_committed(a, m);
    if (a->has_uncommitted && a->uncommitted.slot <= to->slot) {
        if (a->uncommitted.slot > a->committed.slot)
            acceptor_set_committed(a, &a->uncommitted);
        a->has_uncommitted = false;
    }
    a->membership_changed = true;
    acceptor_drop_stream(a);
}

/* What nobody else may have is declared chosen: the only step that is not Paxos, and an operator's alone. */
void acceptor_on_recover(struct acceptor *a, struct acceptor_effects *fx, const struct acceptor_event *ev)
{
    struct entry *e = ev->entries[0];
    assert(e->kind == ENTRY_MEMBER && ev->n_entries == 1 && acceptor_may_recover(a, ev->now_ns) == NULL);
    if (a->n_lost > 0)
        cut(a, fx, a->lost[0]); /* values that are gone for good, and what stood on them */
    e->slot = paxos_log_last(&a->log).slot + 1;
    e->e = ev->ballot;
    e->u[0].membership.slot = e->slot;
    append(a, fx, e);
    acceptor_commit_to(a, e->slot);
    acceptor_find_durable(a);
}
