/* Phase 2: streams, choosing, forgetting, submitting (P4, P5, P9, P10).
 *
 * What always holds:
 *  - a stream that is OPEN has been sent everything up to next - 1: entries go out the moment they get their slot.
 *  - `acked` only grows under a ballot and only by its own Accepted, but for a replica that says that it needs a copy:
 *    that begins anew. n is chosen when a quorum acked >= n >= session start.
 *  - a slot leaves the ring only when it is chosen. */
#include "consensus/proposer_internal.h"

#include <errno.h>

#include "base/mark.h"

static uint64_t entry_bytes(const struct entry *e)
{
    return PROPOSER_ENTRY_BYTES + entry_payload_bytes(e);
}

/* The slabs that a write touches: each may need a new one (P10 counts the worst case). */
static uint64_t entry_slabs(const struct entry *e)
{
    if (e->kind != ENTRY_WRITE || e->nblocks == 0)
        return 0;
    return (e->block + e->nblocks - 1) / PROPOSER_SLAB_BLOCKS - e->block / PROPOSER_SLAB_BLOCKS + 1;
}

void proposer_account(struct proposer *p, uint64_t slot)
{
    struct proposer_slot *s = proposer_slot_of(p, slot);
    p->bytes_total += entry_bytes(s->entry);
    p->slabs_total += entry_slabs(s->entry);
    s->bytes_end = p->bytes_total;
    s->slabs_end = p->slabs_total;
    p->retained_bytes = p->bytes_total - p->floor_bytes;
}

static uint64_t bytes_through(const struct proposer *p, uint64_t slot)
{
    return slot <= p->floor ? p->floor_bytes : proposer_slot_of(p, slot)->bytes_end;
}

static uint64_t slabs_through(const struct proposer *p, uint64_t slot)
{
    return slot <= p->floor ? p->floor_slabs : proposer_slot_of(p, slot)->slabs_end;
}

/* ---- streams (P4) ---- */

static void send_accept(struct step *x, uint32_t i, struct entry *entry)
{
    struct proposer_effect e = proposer_message(x->p, i, MSG_ACCEPT);
    e.slot = entry->slot;
    e.msg.u.accept.commit = x->p->chosen; /* W until the session start is chosen (P5) */
    e.msg.u.accept.entry = entry;
    proposer_send(x, &e);
}

static void open_at(struct step *x, uint32_t i, uint64_t slot)
{
    struct proposer *p = x->p;
    struct proposer_replica *r = &p->replica[i];
    assert(slot >= p->floor && slot < p->next);
    r->opened.slot = slot;
    bool known = paxos_log_at(&p->log, slot, &r->opened.e);
    assert(known);
    (void)known;
    r->stream = STREAM_OPENING;
    struct proposer_effect e = proposer_message(p, i, MSG_OPEN);
    e.msg.u.open.at = r->opened;
    memcpy(e.msg.u.open.name, p->params.name, NAME_MAX_BYTES);
    proposer_send(x, &e);
}

static uint64_t likely_place(const struct proposer *p, uint32_t i)
{
    const struct proposer_replica *r = &p->replica[i];
    uint64_t slot = r->received > r->commit ? r->received : r->commit;
    if (slot < p->floor)
        slot = p->floor;
    return slot < p->next ? slot : p->next - 1;
}

/* Without its log at hand: where it was last heard to be. A Mismatch brings its log. */
void proposer_open(struct step *x, uint32_t i)
{
    open_at(x, i, likely_place(x->p, i));
}

void proposer_reopen(struct step *x, uint32_t i)
{
    struct proposer_replica *r = &x->p->replica[i];
    if (likely_place(x->p, i) == r->opened.slot) {
        MARK("proposer: refused stream waits before it reopens");
        r->stream = STREAM_IDLE;
        r->reopen_at_ns = x->now_ns + PROPOSER_REFUSED_NS;
    } else {
        proposer_open(x, i);
    }
}

static void set_behind(struct step *x, uint32_t i)
{
    struct proposer_replica *r = &x->p->replica[i];
    MARK("proposer: replica behind the ring");
    r->stream = STREAM_BEHIND;
    r->behind_commit = r->commit;
    r->reopen_at_ns = x->now_ns + PROPOSER_REOPEN_NS;
}

/* P4, with its log at hand: m = the highest slot of equal e, below anything LOST. `again`: the last Open failed, so the
 * same one would fail as well. */
static void place(struct step *x, uint32_t i, bool again)
{
    struct proposer *p = x->p;
    struct proposer_replica *r = &p->replica[i];
    struct log_pos m;
    bool found = paxos_log_match(&p->log, &r->log, &m);
    r->has_log = false;
    if (found && r->n_lost > 0 && r->lost[0] <= m.slot) {
        MARK("proposer: stream opened below a LOST slot");
        m.slot = r->lost[0] - 1;
    }
    if (!found || m.slot < p->floor || m.slot < r->promise_commit.slot || (again && m.slot == r->opened.slot))
        set_behind(x, i);
    else
        open_at(x, i, m.slot);
}

void proposer_start_streams(struct step *x)
{
    struct proposer *p = x->p;
    for (uint32_t i = 0; i < p->params.n_replicas; i++) {
        if (!proposer_linked(p, i) || !proposer_wants_stream(p, i))
            continue;
        if (p->replica[i].has_log)
            place(x, i, false);
        else
            proposer_open(x, i);
    }
    proposer_beat(x);
}

void proposer_retry_streams(struct step *x)
{
    struct proposer *p = x->p;
    for (uint32_t i = 0; i < p->params.n_replicas; i++) {
        struct proposer_replica *r = &p->replica[i];
        if (x->now_ns < r->reopen_at_ns || !proposer_wants_stream(p, i))
            continue;
        if (r->stream == STREAM_IDLE || (r->stream == STREAM_BEHIND && r->commit >= p->floor)) {
            r->reopen_at_ns = x->now_ns + PROPOSER_REOPEN_NS;
            proposer_open(x, i);
        }
    }
}

/* A replica that is behind has moved: maybe far enough. */
void proposer_on_progress(struct step *x, uint32_t i)
{
    struct proposer_replica *r = &x->p->replica[i];
    if (x->p->state >= PROPOSER_STARTING && r->stream == STREAM_BEHIND && r->commit > r->behind_commit &&
        r->commit >= x->p->floor) {
        MARK("proposer: replica that was behind is back in the ring");
        proposer_open(x, i);
    }
}

void proposer_on_opened(struct step *x, uint32_t i, const struct msg *m)
{
    struct proposer *p = x->p;
    struct proposer_replica *r = &p->replica[i];
    if (r->stream != STREAM_OPENING || m->u.opened.m != r->opened.slot)
        return;
    r->credits = m->u.opened.credits;
    r->has_credits = true;
    proposer_note_incomplete(r, m->u.opened.needs_copy);
    r->has_log = false;
    if (r->opened.slot < p->floor) {
        MARK("proposer: opened at what was forgotten meanwhile");
        /* What it needs was forgotten meanwhile. It believes in a stream that nothing will come on: a Mismatch ends
         * that, and it turns to its peers. */
        proposer_open(x, i);
        return;
    }
    r->stream = STREAM_OPEN;
    r->received = r->opened.slot;
    for (r->next = r->opened.slot + 1; r->next < p->next; r->next++)
        send_accept(x, i, proposer_slot_of(p, r->next)->entry);
}

bool proposer_copy_log(struct proposer_replica *r, const struct log_pos *base, uint32_t n_runs, const struct run *runs,
                       uint32_t n_lost, const uint64_t *lost, const struct log_pos *commit)
{
    if (base->slot > UINT64_MAX - 2 || !paxos_runs_valid(base, n_runs, runs))
        return false;
    r->log.base = *base;
    r->log.n = n_runs;
    if (n_runs > 0)
        memcpy(r->log.run, runs, n_runs * sizeof runs[0]);
    if (!paxos_lost_valid(n_lost, lost, base->slot, paxos_log_last(&r->log).slot) || !paxos_log_holds(&r->log, commit))
        return false;
    r->n_lost = n_lost;
    if (n_lost > 0)
        memcpy(r->lost, lost, n_lost * sizeof lost[0]);
    r->promise_commit = *commit;
    r->has_log = true;
    return true;
}

void proposer_on_mismatch(struct step *x, uint32_t i, const struct msg *m)
{
    struct proposer_replica *r = &x->p->replica[i];
    if (r->stream != STREAM_OPENING)
        return;
    if (!proposer_copy_log(r, &m->u.mismatch.base, m->u.mismatch.n_runs, m->u.mismatch.runs, m->u.mismatch.n_lost,
                           m->u.mismatch.lost, &m->u.mismatch.commit)) {
        r->has_log = false;
        proposer_disconnect(x, i);
        return;
    }
    if (m->u.mismatch.commit.slot > r->commit)
        r->commit = m->u.mismatch.commit.slot;
    MARK("proposer: mismatch, places the stream anew");
    place(x, i, true);
}

/* ---- choosing (P5) and forgetting ---- */

static void forget_through(struct step *x, uint64_t slot)
{
    struct proposer *p = x->p;
    assert(slot <= p->chosen);
    if (slot <= p->floor)
        return;
    p->floor_bytes = bytes_through(p, slot);
    p->floor_slabs = slabs_through(p, slot);
    for (uint64_t s = p->floor + 1; s <= slot; s++) {
        struct proposer_slot *cell = proposer_slot_of(p, s);
        proposer_emit_entry(x, PROPOSER_FORGET, s, cell->entry);
        cell->entry = NULL;
    }
    p->floor = slot;
    paxos_log_trim(&p->log, slot);
    p->retained_bytes = p->bytes_total - p->floor_bytes;
}

static bool is_tight(const struct proposer *p, uint64_t bytes, uint64_t slots)
{
    return bytes > p->params.retain_bytes || slots > p->params.ring_slots / 2;
}

/* Chosen entries go when nobody needs them any more. Those that a replica may still need are kept within bounds; one
 * whose unacknowledged part is beyond them is cut off (its connection's queue holds the same bytes) and catches up from
 * its peers. */
static void forget(struct step *x)
{
    struct proposer *p = x->p;
    uint64_t acked = p->chosen;
    bool all_open = true;
    for (uint32_t i = 0; i < p->params.n_replicas; i++) {
        const struct proposer_replica *r = &p->replica[i];
        if (!proposer_wants_stream(p, i))
            continue;
        if (r->stream != STREAM_OPEN)
            all_open = false;
        else if (r->received < acked)
            acked = r->received;
    }
    if (all_open)
        forget_through(x, acked);
    if (!is_tight(p, p->retained_bytes, p->next - p->floor))
        return;
    for (uint32_t i = 0; i < p->params.n_replicas; i++) {
        const struct proposer_replica *r = &p->replica[i];
        uint64_t from = r->received > p->floor ? r->received : p->floor;
        if (r->stream == STREAM_OPEN && r->received < p->chosen &&
            is_tight(p, p->bytes_total - bytes_through(p, from), p->next - from)) {
            MARK("proposer: replica cut off, too far behind");
            proposer_disconnect(x, i);
        }
    }
    uint64_t slot = p->floor;
    while (slot < p->chosen && is_tight(p, p->bytes_total - bytes_through(p, slot), p->next - slot))
        slot++;
    MARK_IF(slot > p->floor, "proposer: entries forgotten that a replica may need");
    forget_through(x, slot);
}

static void advance(struct step *x)
{
    struct proposer *p = x->p;
    uint64_t acked[PROPOSER_REPLICAS_MAX];
    for (uint32_t i = 0; i < p->params.n_replicas; i++)
        acked[i] = p->replica[i].acked;
    uint64_t n = proposer_quorum_value(p, acked);
    /* P5: n is chosen iff n >= the own session start and a quorum acknowledged >= n under this ballot; then everything
     * <= n is. */
    if (n < p->session_slot || n <= p->chosen)
        return;
    p->chosen = n;
    if (p->has_uncommitted && p->uncommitted.slot <= n) {
        struct membership m = p->uncommitted;
        p->has_uncommitted = false;
        proposer_set_membership(p, false, &m);
    }
    bool starting = p->state == PROPOSER_STARTING;
    MARK_IF(starting && p->own_first < p->own_end, "proposer: serves again with own writes to settle");
    if (starting) {
        p->state = PROPOSER_SERVING;
        p->last_session_slot = p->session_slot;
        p->attempts = 0;
        proposer_settle_own(x);
    }
    struct proposer_effect e = {.type = PROPOSER_CHOSEN, .slot = n};
    x->sink->fn(x->sink, &e);
    if (starting) {
        struct proposer_effect s = {.type = PROPOSER_STATE};
        x->sink->fn(x->sink, &s);
        proposer_beat(x); /* at once: what is chosen is worth knowing by more than this process */
    }
}

void proposer_on_accepted(struct step *x, uint32_t i, const struct msg *m)
{
    struct proposer *p = x->p;
    struct proposer_replica *r = &p->replica[i];
    uint64_t through = m->u.accepted.through;
    if (through >= p->next) {
        proposer_disconnect(x, i); /* nobody ever sent it that */
        return;
    }
    r->credits = m->u.accepted.credits;
    r->has_credits = true;
    proposer_note_incomplete(r, m->u.accepted.needs_copy);
    r->needs_copy = m->u.accepted.needs_copy != 0;
    r->received = through > r->received ? through : r->received;
    if (!r->needs_copy && through > r->acked) {
        r->acked = through;
        if (p->state == PROPOSER_STARTING)
            p->attempt_deadline_ns = x->now_ns + p->params.timeout_ns;
        advance(x);
    }
    if (p->state == PROPOSER_SERVING)
        forget(x);
}

/* ---- submitting (P9, P10) ---- */

static uint32_t open_streams(const struct proposer *p)
{
    uint32_t set = 0;
    for (uint32_t i = 0; i < p->params.n_replicas; i++)
        set |= (uint32_t)(p->replica[i].stream == STREAM_OPEN && !p->replica[i].needs_copy) << i;
    return set;
}

/* P10: slots are assigned only within the space credits of a quorum. */
static int check_credits(const struct proposer *p, uint64_t now_ns, uint64_t need)
{
    uint32_t room = 0, hope = 0;
    for (uint32_t i = 0; i < p->params.n_replicas; i++) {
        const struct proposer_replica *r = &p->replica[i];
        if (r->needs_copy)
            continue;
        if (r->stream != STREAM_OPEN || !r->has_credits) {
            /* What it said before says nothing of now; but if it was there a moment ago, it may soon be back. */
            hope |= (uint32_t)(r->lease_until_ns > now_ns) << i;
            continue;
        }
        /* What it has not acknowledged may not be counted in its credit yet. */
        uint64_t unacked = p->slabs_total - slabs_through(p, r->acked);
        bool fits = need == 0 || r->credits.slabs >= unacked + need;
        hope |= (uint32_t)(fits || r->credits.growing) << i;
        room |= (uint32_t)(fits && r->credits.slot_limit >= p->next) << i;
    }
    if (proposer_is_quorum(p, room))
        return 0;
    /* Log room comes back with the next checkpoint, and the lost replicas of a quorum do too; space does not come back by
     * waiting when nothing is under way. */
    if (proposer_is_quorum(p, hope) || !proposer_is_quorum(p, open_streams(p)) || p->chosen != p->next - 1)
        return -EAGAIN;
    MARK("proposer: no space at a quorum");
    return -ENOSPC;
}

/* Whoever is to vote now and did not before: complete, in the stream, and holding everything. */
static int check_new_voter(const struct proposer *p, const struct uuid *identity, const char **why)
{
    const struct proposer_replica *r = NULL;
    for (uint32_t i = 0; i < p->params.n_replicas; i++)
        if (uuid_equal(identity, &p->params.identity[i]))
            r = &p->replica[i];
    if (!r || r->stream != STREAM_OPEN) {
        *why = "a new voter is not connected, or not in the stream yet";
        return -ENOLINK;
    }
    if (r->needs_copy) {
        *why = "a new voter is not complete: its copy is under way";
        return -ENODATA;
    }
    *why = "a new voter does not hold the newest entries yet";
    return r->acked == p->next - 1 ? 0 : -EAGAIN;
}

/* P9: the pipeline drained, at most one uncommitted, and a majority of the new voters durably holds everything; of those that
 * come in, each, for the others may be the ones that go. */
int proposer_may_change(const struct proposer *p, const struct membership *m, const char **why)
{
    *why = "the volume is not being served";
    if (p->state != PROPOSER_SERVING)
        return p->state == PROPOSER_FENCED ? -ESTALE : -ENOTCONN;
    *why = "another change of the membership is not committed yet";
    if (p->has_uncommitted)
        return -EBUSY;
    *why = "no group can have these voters";
    if (m->n_voters == 0 || m->n_voters > MEMBERS_MAX || m->n_learners > MEMBERS_MAX)
        return -EINVAL;
    for (uint32_t v = 0; v < m->n_voters; v++)
        for (uint32_t k = 0; k <= v; k++)
            if (k == v ? uuid_is_zero(&m->voter[v]) : uuid_equal(&m->voter[v], &m->voter[k]))
                return -EINVAL; /* one voice each */
    int soon = 0;
    const char *soon_why = "";
    for (uint32_t v = 0; v < m->n_voters; v++) {
        int rc = membership_has_voter(&p->committed, &m->voter[v]) ? 0 : check_new_voter(p, &m->voter[v], why);
        if (rc != 0 && rc != -EAGAIN)
            return rc;
        if (rc != 0) {
            soon = rc;
            soon_why = *why;
        }
    }
    *why = "the entries under way are not chosen yet";
    if (p->chosen != p->next - 1)
        return -EAGAIN;
    *why = soon_why;
    if (soon != 0)
        return soon;
    unsigned n = 0;
    for (uint32_t v = 0; v < m->n_voters; v++)
        for (uint32_t i = 0; i < p->params.n_replicas; i++)
            n += uuid_equal(&m->voter[v], &p->params.identity[i]) && p->replica[i].acked == p->next - 1;
    *why = "no majority of the new voters holds the newest entries yet";
    if (n < membership_majority(m))
        return -EAGAIN;
    *why = "";
    return 0;
}

static int check_submit(struct proposer *p, uint64_t now_ns, const struct entry *e)
{
    if (p->state == PROPOSER_FENCED)
        return -ESTALE;
    if (p->state != PROPOSER_SERVING)
        return -ENOTCONN;
    if (e->kind == ENTRY_SESSION)
        return -EINVAL;
    if (p->next - p->chosen > p->params.ring_slots / 2 || p->next + 1 - p->floor > p->params.ring_slots) {
        MARK("proposer: ring full");
        return -EAGAIN;
    }
    /* What is not chosen can't leave the replicas' WALs: it must stay well below the smallest ring, or a full WAL would
     * hold back the very messages that announce its commit. */
    if (p->chosen < p->next - 1 &&
        p->bytes_total - bytes_through(p, p->chosen) + entry_bytes(e) > p->params.inflight_bytes) {
        MARK("proposer: too many bytes in flight");
        return -EAGAIN;
    }
    const char *why;
    int rc = e->kind == ENTRY_MEMBER ? proposer_may_change(p, &e->u[0].membership, &why) : 0;
    return rc != 0 ? rc : check_credits(p, now_ns, entry_slabs(e));
}

int proposer_submit(struct proposer *p, uint64_t now_ns, struct entry *entry, struct proposer_sink *sink)
{
    struct step x = {.p = p, .sink = sink, .now_ns = now_ns};
    int rc = check_submit(p, now_ns, entry);
    if (rc != 0)
        return rc;
    uint64_t slot = p->next;
    bool ok = paxos_log_append(&p->log, slot, &p->ballot);
    assert(ok); /* the session start made the run */
    (void)ok;
    entry->group = p->params.group;
    entry->slot = slot;
    entry->e = p->ballot;
    struct proposer_slot *s = proposer_slot_of(p, slot);
    assert(!s->entry && !s->own);
    s->entry = entry;
    s->e = p->ballot;
    p->next++;
    proposer_account(p, slot);
    if (entry->kind == ENTRY_MEMBER) {
        entry->u[0].membership.slot = slot;
        proposer_set_membership(p, true, &entry->u[0].membership); /* joint quorum from now on */
    }
    for (uint32_t i = 0; i < p->params.n_replicas; i++) {
        struct proposer_replica *r = &p->replica[i];
        if (r->stream != STREAM_OPEN)
            continue;
        assert(r->next == slot);
        send_accept(&x, i, entry);
        r->next++;
    }
    if (is_tight(p, p->retained_bytes, p->next - p->floor))
        forget(&x);
    return 0;
}
