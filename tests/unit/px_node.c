/* The nodes: an acceptor and its disk, which is the list of records that it handed out; what of them is durable, a
 * crash, a restart from them, rot. */
#include "tests/unit/px_internal.h"

/* ---- what is chosen ---- */

void px_note_chosen(struct px_cluster *c, uint64_t slot, const struct ballot *e, const struct entry *entry)
{
    CHECK(c, slot < PX_SLOTS_MAX, "slot %" PRIu64, slot);
    struct px_chosen *k = &c->chosen[slot];
    uint64_t id = entry->kind == ENTRY_WRITE ? entry->block : 0;
    if (k->known) {
        CHECK(c, ballot_equal(&k->e, e) && k->kind == entry->kind && k->id == id,
              "slot %" PRIu64 ": two chosen entries, write %" PRIu64 " and write %" PRIu64, slot, k->id, id);
        return;
    }
    *k = (struct px_chosen){.known = true, .e = *e, .kind = entry->kind, .id = id};
    if (slot > c->chosen_max)
        c->chosen_max = slot;
    for (uint64_t s = slot - 1; s > 0 && s + 3 > slot; s--)
        CHECK(c, !c->chosen[s].known || ballot_compare(&c->chosen[s].e, e) <= 0, "slot %" PRIu64 ": ballots fall",
              slot);
    if (slot + 1 < PX_SLOTS_MAX && c->chosen[slot + 1].known)
        CHECK(c, ballot_compare(e, &c->chosen[slot + 1].e) <= 0, "slot %" PRIu64 ": ballots fall", slot);
    if (id)
        for (uint64_t s = 1; s <= c->chosen_max; s++)
            CHECK(c, s == slot || !c->chosen[s].known || c->chosen[s].id != id,
                  "write %" PRIu64 " at %" PRIu64 " and %" PRIu64, id, s, slot);
}

/* ---- nodes ---- */

bool px_node_holds(const struct px_cluster *c, unsigned n, uint64_t slot, const struct ballot *e)
{
    const struct px_node *d = &c->node[n];
    for (uint32_t i = d->n_durable; i-- > 0;) {
        const struct px_record *r = &d->record[i];
        if (r->type == ACCEPTOR_CUT && r->slot <= slot)
            return false;
        if (r->type == ACCEPTOR_APPEND && r->slot == slot)
            return ballot_equal(&r->entry->e, e);
        if (r->type == PX_JUMP && (!r->keep || slot <= r->to.slot))
            return slot <= r->to.slot; /* all of that is chosen */
    }
    return false;
}

struct px_record *px_record_new(struct px_node *d, int type, uint64_t seq)
{
    if (d->n_records == d->cap_records) {
        d->cap_records = d->cap_records ? 2 * d->cap_records : 64;
        d->record = realloc(d->record, d->cap_records * sizeof d->record[0]);
    }
    struct px_record *r = &d->record[d->n_records++];
    *r = (struct px_record){.type = type, .seq = seq};
    return r;
}

static void keep_record(struct px_cluster *c, struct px_node *d, const struct acceptor_effect *e)
{
    struct px_record *r = px_record_new(d, (int)e->type, e->seq);
    r->slot = e->slot;
    r->entry = px_hold(e->entry);
    if (e->type == ACCEPTOR_PROMISE) {
        r->promised = d->a.promised;
        r->max_lease_ns = d->a.max_lease_ns;
    } else if (e->type == ACCEPTOR_CUT) {
        c->n_cuts++;
        for (uint64_t s = e->slot; s < PX_SLOTS_MAX && d->value[s]; s++) {
            px_drop(d->value[s]);
            d->value[s] = NULL;
        }
        /* values above a LOST slot */
        for (uint64_t s = e->slot; s < e->slot + 300 && s < PX_SLOTS_MAX; s++) {
            px_drop(d->value[s]);
            d->value[s] = NULL;
        }
    } else {
        c->n_refills += e->type == ACCEPTOR_REFILL;
        CHECK(c, e->slot < PX_SLOTS_MAX, "slot %" PRIu64, e->slot);
        CHECK(c, !d->value[e->slot], "slot %" PRIu64 " is filled twice", e->slot);
        d->value[e->slot] = px_hold(e->entry);
    }
}

static void deliver(struct px_cluster *c, struct px_node *d, struct px_msg *x)
{
    struct px_conn *k = px_find_conn(c, x->conn);
    if (x->m.type == MSG_PROMISE || x->m.type == MSG_OPENED || x->m.type == MSG_ACCEPTED || x->m.type == MSG_BEAT_ACK) {
        if (ballot_compare(&x->m.ballot, &d->vouched) > 0)
            d->vouched = x->m.ballot;
        uint64_t lease = x->m.type == MSG_PROMISE    ? x->m.u.promise.lease_ns
                         : x->m.type == MSG_BEAT_ACK ? x->m.u.beat_ack.lease_ns
                                                     : 0;
        if (lease > d->lease_told_ns)
            d->lease_told_ns = lease;
    }
    c->n_mismatch += x->m.type == MSG_MISMATCH;
    if (k && k->front_up)
        list_push_back(&k->to_front, &x->link);
    else
        px_msg_free(x);
}

static void release(struct px_cluster *c, struct px_node *d)
{
    list_for_each_safe(p, &d->held)
    {
        struct px_msg *x = container_of(p, struct px_msg, link);
        if (x->after > d->a.durable_seq) {
            if (c->fifo_release)
                return;
            continue;
        }
        list_remove(&x->link);
        deliver(c, d, x);
    }
}

/* Invariant V: an answer of a replica that is not complete says so. */
static void check_candour(const struct px_cluster *c, unsigned n, const struct msg *m)
{
    const struct px_node *d = &c->node[n];
    uint32_t said = m->type == MSG_PROMISE    ? m->u.promise.needs_copy
                    : m->type == MSG_OPENED   ? m->u.opened.needs_copy
                    : m->type == MSG_ACCEPTED ? m->u.accepted.needs_copy
                    : m->type == MSG_BEAT_ACK ? m->u.beat_ack.needs_copy
                                              : d->needs_copy;
    CHECK(c, said == d->needs_copy, "node %u says in message %u that it is %s", n, m->type,
          said ? "not complete" : "complete");
}

void px_run_effects(struct px_cluster *c, unsigned n)
{
    struct px_node *d = &c->node[n];
    for (uint32_t i = 0; i < c->fx.n; i++) {
        const struct acceptor_effect *e = &c->fx.effect[i];
        switch (e->type) {
        case ACCEPTOR_PROMISE:
        case ACCEPTOR_CUT:
        case ACCEPTOR_APPEND:
        case ACCEPTOR_REFILL:
            keep_record(c, d, e);
            break;
        case ACCEPTOR_SEND: {
            struct px_msg *x = px_msg_copy(&e->msg);
            check_candour(c, n, &e->msg);
            x->conn = e->link;
            x->after = e->after;
            if (e->after <= d->a.durable_seq && (!c->fifo_release || list_empty(&d->held)))
                deliver(c, d, x);
            else
                list_push_back(&d->held, &x->link);
            break;
        }
        case ACCEPTOR_COMMIT:
            for (uint64_t s = (d->known_from > d->floor.slot ? d->known_from : d->floor.slot) + 1; s <= e->slot; s++) {
                struct ballot own;
                CHECK(c, d->value[s], "node %u commits slot %" PRIu64 " without a value", n, s);
                if (s > d->a.log.base.slot)
                    CHECK(c, paxos_log_at(&d->a.log, s, &own) && ballot_equal(&own, &d->value[s]->e),
                          "node %u slot %" PRIu64, n, s);
                px_note_chosen(c, s, &d->value[s]->e, d->value[s]);
            }
            break;
        case ACCEPTOR_BEHIND:
            d->wants_catchup = true;
            d->target = e->target;
            break;
        case ACCEPTOR_MEMBERSHIP:
            break;
        }
    }
    release(c, d);
}

void px_node_step(struct px_cluster *c, unsigned n, struct acceptor_event *ev)
{
    struct px_node *d = &c->node[n];
    assert(d->up);
    ev->now_ns = px_clock_of(c, d->skew_ppm);
    acceptor_step(&d->a, ev, &c->fx);
    acceptor_check(&d->a);
    px_run_effects(c, n);
}

void px_durable(struct px_cluster *c, unsigned n, uint32_t records)
{
    struct px_node *d = &c->node[n];
    uint32_t left = d->n_records - d->n_durable;
    if (records > left)
        records = left;
    if (records == 0)
        return;
    bool complete = false;
    for (uint32_t i = d->n_durable; i < d->n_durable + records; i++)
        complete = d->record[i].type == PX_COMPLETE ? true : d->record[i].type == PX_NEEDS_COPY ? false : complete;
    d->n_durable += records;
    struct acceptor_event ev = {.type = ACCEPTOR_DURABLE, .durable_seq = d->record[d->n_durable - 1].seq};
    px_node_step(c, n, &ev);
    if (complete && d->needs_copy) {
        d->needs_copy = false;
        c->n_completed++;
        TRACE(c, "node %u is complete", n);
        px_node_step(c, n, &(struct acceptor_event){.type = ACCEPTOR_COMPLETE});
    }
}

void px_forget_values(struct px_node *d)
{
    for (uint64_t s = 0; s < PX_SLOTS_MAX; s++) {
        px_drop(d->value[s]);
        d->value[s] = NULL;
    }
}

void px_crash(struct px_cluster *c, unsigned n, uint32_t landed)
{
    struct px_node *d = &c->node[n];
    assert(d->up);
    TRACE(c, "crash node %u", n);
    uint32_t left = d->n_records - d->n_durable;
    d->n_durable += landed < left ? landed : left;
    while (d->n_records > d->n_durable)
        px_drop(d->record[--d->n_records].entry);
    px_queue_free(&d->held);
    d->up = false;
    d->epoch++;
    d->wants_catchup = false;
    list_for_each_safe(p, &c->conns)
    {
        struct px_conn *k = container_of(p, struct px_conn, link);
        if (k->node == n) {
            px_queue_free(&k->to_node);
            if (!k->front_up) {
                px_queue_free(&k->to_front);
                list_remove(&k->link);
                free(k);
            }
        }
    }
}

/* What the records of a disk amount to. */
struct replay {
    struct acceptor_state s;
    struct paxos_log log;
    uint64_t lost[LOST_MAX];
    struct membership known;       /* the committed one, by jumps */
    struct membership uncommitted; /* s.uncommitted, if any */
    struct log_pos base;
    uint64_t last;
    struct entry *entry[PX_SLOTS_MAX];
    bool is_lost[PX_SLOTS_MAX];
};

static void replay_jump(struct replay *x, struct px_node *d, const struct px_record *r)
{
    for (uint64_t k = 1; k <= x->last; k++)
        if (!r->keep || k <= r->to.slot)
            x->entry[k] = NULL;
    x->last = r->keep ? x->last : r->to.slot;
    d->jumped = r->to.slot;
    d->jumped_to = r->to;
    if (r->to.slot > x->base.slot)
        x->base = r->to;
    if (r->membership.slot > x->known.slot)
        x->known = r->membership;
}

static void replay_record(struct replay *x, struct px_cluster *c, unsigned n, const struct px_record *r)
{
    struct px_node *d = &c->node[n];
    switch (r->type) {
    case ACCEPTOR_PROMISE:
        CHECK(c, ballot_compare(&r->promised, &x->s.promised) >= 0, "node %u: promised falls", n);
        x->s.promised = r->promised;
        x->s.max_lease_ns = r->max_lease_ns;
        break;
    case ACCEPTOR_CUT:
        for (uint64_t k = r->slot; k <= x->last; k++)
            x->entry[k] = NULL;
        x->last = r->slot <= x->last ? r->slot - 1 : x->last;
        break;
    case PX_NEEDS_COPY:
        x->s.needs_copy = true;
        d->jumped = 0;
        break;
    case PX_COMPLETE:
        x->s.needs_copy = false;
        break;
    case PX_JUMP:
        replay_jump(x, d, r);
        break;
    case ACCEPTOR_APPEND:
        CHECK(c, r->slot == x->last + 1, "node %u: gap at %" PRIu64, n, r->slot);
        x->last = r->slot;
        /* fallthrough */
    default:
        x->entry[r->slot] = r->entry;
        x->is_lost[r->slot] = r->rotten;
    }
}

/* P9: one is proposed only when the one before it is committed. */
static void replay_membership(struct replay *x, const struct entry *e, bool committed)
{
    if (x->s.uncommitted)
        x->s.committed = x->uncommitted;
    x->s.uncommitted = NULL;
    if (committed) {
        x->s.committed = e->u[0].membership;
    } else {
        x->uncommitted = e->u[0].membership;
        x->s.uncommitted = &x->uncommitted;
    }
}

/* The acceptor's log, and the values that the node has. */
static void replay_log(struct replay *x, struct px_cluster *c, struct px_node *d, uint64_t commit)
{
    struct acceptor_state *s = &x->s;
    x->log.base = x->base;
    s->committed = x->known;
    for (uint64_t k = 1; k <= x->last; k++) {
        struct entry *e = x->entry[k];
        if (k > x->base.slot) {
            CHECK(c, e && paxos_log_append(&x->log, k, &e->e), "runs");
            if (x->is_lost[k])
                x->lost[s->n_lost++] = k;
        }
        if (!e)
            continue;
        if (!x->is_lost[k] || k <= x->base.slot)
            d->value[k] = px_hold(e);
        s->retired |= membership_has_voter(&s->committed, &d->identity);
        if (e->kind == ENTRY_MEMBER && !x->is_lost[k] && k > x->known.slot)
            replay_membership(x, e, k <= commit);
    }
    s->retired |= membership_has_voter(&d->first, &d->identity);
    s->commit = commit < x->base.slot ? x->base.slot : commit > x->last ? x->last : commit;
}

void px_restart(struct px_cluster *c, unsigned n, uint64_t commit)
{
    struct px_node *d = &c->node[n];
    static struct replay x; /* large */
    assert(!d->up);
    memset(&x, 0, sizeof x);
    x.s = (struct acceptor_state){.group = PX_GROUP,
                                  .identity = d->identity,
                                  .size_blocks = d->size_blocks,
                                  .log = &x.log,
                                  .lost = x.lost,
                                  .restarted = d->epoch > 0,
                                  .needs_copy = d->first_needs_copy};
    px_forget_values(d);
    x.known = d->first;
    x.base = d->floor;
    d->jumped = 0;
    for (uint32_t i = 0; i < d->n_records; i++)
        replay_record(&x, c, n, &d->record[i]);
    replay_log(&x, c, d, commit);
    d->up = true;
    d->needs_copy = x.s.needs_copy;
    d->known_from = x.base.slot;
    for (uint32_t i = 0; i < d->n_records; i++)
        d->record[i].seq = 0;
    TRACE(c, "restart node %u: last %" PRIu64 " commit %" PRIu64 " lost %u", n, x.last, x.s.commit, x.s.n_lost);
    acceptor_init(&d->a, &x.s, px_clock_of(c, d->skew_ppm));
    d->a.credits = (struct credits){.slabs = 1u << 20, .slot_limit = UINT64_MAX};
    CHECK(c, ballot_compare(&d->a.promised, &d->vouched) >= 0, "node %u forgot a promise that it told", n);
    CHECK(c, d->a.max_lease_ns >= d->lease_told_ns, "node %u forgot a lease that it told", n);
}

void px_rot(struct px_cluster *c, unsigned n, uint64_t slot)
{
    struct px_node *d = &c->node[n];
    for (uint32_t i = d->n_records; i-- > 0;) {
        struct px_record *r = &d->record[i];
        if (r->slot == slot && (r->type == ACCEPTOR_APPEND || r->type == ACCEPTOR_REFILL)) {
            r->rotten = true;
            TRACE(c, "rot at node %u slot %" PRIu64, n, slot);
            return;
        }
        if (r->type == ACCEPTOR_CUT && r->slot <= slot)
            return;
    }
}

void px_trim(struct px_cluster *c, unsigned n, uint64_t slot)
{
    struct px_node *d = &c->node[n];
    if (slot <= d->floor.slot || slot > d->a.told)
        return;
    struct log_pos pos = {.slot = slot};
    if (!paxos_log_at(&d->a.log, slot, &pos.e))
        return;
    for (uint32_t i = d->n_durable; i < d->n_records; i++)
        if (d->record[i].type == PX_JUMP)
            return; /* that checkpoint comes first */
    d->floor = pos;
    struct acceptor_event ev = {.type = ACCEPTOR_TRIM, .trim = slot};
    px_node_step(c, n, &ev);
}
