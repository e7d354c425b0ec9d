#include "px_cluster.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define CHECK(c, cond, ...)                                                                                            \
    do {                                                                                                               \
        if (!(cond)) {                                                                                                 \
            fprintf(stderr, "seed %" PRIu64 " step %" PRIu64 ": %s: ", (c)->seed, (c)->step, #cond);                   \
            fprintf(stderr, __VA_ARGS__);                                                                              \
            fputc('\n', stderr);                                                                                       \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

#define TRACE(c, ...)                                                                                                  \
    do {                                                                                                               \
        if ((c)->trace) {                                                                                              \
            fprintf(stderr, "%6" PRIu64 " ", (c)->step);                                                               \
            fprintf(stderr, __VA_ARGS__);                                                                              \
            fputc('\n', stderr);                                                                                       \
        }                                                                                                              \
    } while (0)

uint64_t px_random(struct px_cluster *c, uint64_t below)
{
    uint64_t z = c->random += UINT64_C(0x9E3779B97F4A7C15);
    z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ z >> 27) * UINT64_C(0x94D049BB133111EB);
    z ^= z >> 31;
    return below ? z % below : z;
}

/* ---- entries: reference-counted by hand, so that a reference too many or too few shows ---- */

struct px_entry {
    struct px_cluster *c;
    struct buf buf;
    struct entry e; /* and room for a membership */
};

static struct entry *new_entry(struct px_cluster *c, enum entry_kind kind, uint64_t id)
{
    struct px_entry *x = calloc(1, sizeof *x + sizeof(struct membership));
    x->c = c;
    x->buf.refs = 1;
    x->e.meta = &x->buf;
    x->e.kind = (uint8_t)kind;
    x->e.group = PX_GROUP;
    x->e.block = id;
    x->e.nblocks = kind == ENTRY_WRITE;
    c->entries_alive++;
    return &x->e;
}

static struct entry *hold(struct entry *e)
{
    return e ? entry_ref(e) : NULL;
}

static void drop(struct entry *e)
{
    if (!e)
        return;
    assert(e->meta->refs > 0);
    if (--e->meta->refs > 0)
        return;
    struct px_entry *x = container_of(e, struct px_entry, e);
    x->c->entries_alive--;
    free(x);
}

/* ---- messages ---- */

static void *copy_of(const void *p, size_t n)
{
    if (n == 0)
        return NULL;
    void *q = malloc(n);
    memcpy(q, p, n);
    return q;
}

static struct entry **entry_of(struct msg *m)
{
    if (m->type == MSG_ACCEPT)
        return &m->u.accept.entry;
    if (m->type == MSG_VALUE)
        return &m->u.value.entry;
    return NULL;
}

static struct px_msg *copy_msg(const struct msg *m)
{
    struct px_msg *x = calloc(1, sizeof *x);
    list_init(&x->link);
    x->m = *m;
    if (m->type == MSG_PROMISE) {
        x->m.u.promise.runs = x->runs = copy_of(m->u.promise.runs, m->u.promise.n_runs * sizeof(struct run));
        x->m.u.promise.lost = x->lost = copy_of(m->u.promise.lost, m->u.promise.n_lost * sizeof(uint64_t));
        x->m.u.promise.memberships = x->memberships =
            copy_of(m->u.promise.memberships, m->u.promise.n_memberships * sizeof(struct membership));
    } else if (m->type == MSG_MISMATCH) {
        x->m.u.mismatch.runs = x->runs = copy_of(m->u.mismatch.runs, m->u.mismatch.n_runs * sizeof(struct run));
        x->m.u.mismatch.lost = x->lost = copy_of(m->u.mismatch.lost, m->u.mismatch.n_lost * sizeof(uint64_t));
    }
    if (entry_of(&x->m))
        hold(*entry_of(&x->m));
    return x;
}

static void free_msg(struct px_msg *x)
{
    list_remove(&x->link);
    if (entry_of(&x->m))
        drop(*entry_of(&x->m));
    free(x->runs);
    free(x->lost);
    free(x->memberships);
    free(x);
}

static void free_queue(struct list *q)
{
    while (!list_empty(q))
        free_msg(container_of(q->next, struct px_msg, link));
}

static struct px_conn *find_conn(struct px_cluster *c, uint32_t id)
{
    list_for_each(p, &c->conns)
    {
        struct px_conn *k = container_of(p, struct px_conn, link);
        if (k->id == id)
            return k;
    }
    return NULL;
}

static uint64_t clock_of(const struct px_cluster *c, int64_t skew_ppm)
{
    return (uint64_t)((int64_t)c->now_ns + (int64_t)(c->now_ns / 1000000) * skew_ppm);
}

/* ---- what is chosen ---- */

static void note_chosen(struct px_cluster *c, uint64_t slot, const struct ballot *e, const struct entry *entry)
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

static struct px_record *new_record(struct px_node *d, int type, uint64_t seq)
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
    struct px_record *r = new_record(d, (int)e->type, e->seq);
    r->slot = e->slot;
    r->entry = hold(e->entry);
    if (e->type == ACCEPTOR_PROMISE) {
        r->promised = d->a.promised;
        r->max_lease_ns = d->a.max_lease_ns;
    } else if (e->type == ACCEPTOR_CUT) {
        c->n_cuts++;
        for (uint64_t s = e->slot; s < PX_SLOTS_MAX && d->value[s]; s++) {
            drop(d->value[s]);
            d->value[s] = NULL;
        }
        /* values above a LOST slot */
        for (uint64_t s = e->slot; s < e->slot + 300 && s < PX_SLOTS_MAX; s++) {
            drop(d->value[s]);
            d->value[s] = NULL;
        }
    } else {
        c->n_refills += e->type == ACCEPTOR_REFILL;
        CHECK(c, e->slot < PX_SLOTS_MAX, "slot %" PRIu64, e->slot);
        CHECK(c, !d->value[e->slot], "slot %" PRIu64 " is filled twice", e->slot);
        d->value[e->slot] = hold(e->entry);
    }
}

static void deliver(struct px_cluster *c, struct px_node *d, struct px_msg *x)
{
    struct px_conn *k = find_conn(c, x->conn);
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
        free_msg(x);
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

static void run_effects(struct px_cluster *c, unsigned n)
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
            struct px_msg *x = copy_msg(&e->msg);
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
                note_chosen(c, s, &d->value[s]->e, d->value[s]);
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
    ev->now_ns = clock_of(c, d->skew_ppm);
    acceptor_step(&d->a, ev, &c->fx);
    acceptor_check(&d->a);
    run_effects(c, n);
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

static void forget_values(struct px_node *d)
{
    for (uint64_t s = 0; s < PX_SLOTS_MAX; s++) {
        drop(d->value[s]);
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
        drop(d->record[--d->n_records].entry);
    free_queue(&d->held);
    d->up = false;
    d->epoch++;
    d->wants_catchup = false;
    list_for_each_safe(p, &c->conns)
    {
        struct px_conn *k = container_of(p, struct px_conn, link);
        if (k->node == n) {
            free_queue(&k->to_node);
            if (!k->front_up) {
                free_queue(&k->to_front);
                list_remove(&k->link);
                free(k);
            }
        }
    }
}

void px_restart(struct px_cluster *c, unsigned n, uint64_t commit)
{
    struct px_node *d = &c->node[n];
    static struct paxos_log log;
    static uint64_t lost[LOST_MAX];
    assert(!d->up);
    struct acceptor_state s = {.group = PX_GROUP,
                               .identity = d->identity,
                               .size_blocks = d->size_blocks,
                               .log = &log,
                               .lost = lost,
                               .restarted = d->epoch > 0,
                               .needs_copy = d->first_needs_copy};
    forget_values(d);
    struct membership known = d->first; /* the committed one, by jumps */
    struct log_pos base = d->floor;
    d->jumped = 0;
    bool is_lost[PX_SLOTS_MAX] = {false};
    struct entry *entry[PX_SLOTS_MAX] = {NULL};
    uint64_t last = 0;
    for (uint32_t i = 0; i < d->n_records; i++) {
        const struct px_record *r = &d->record[i];
        switch (r->type) {
        case ACCEPTOR_PROMISE:
            CHECK(c, ballot_compare(&r->promised, &s.promised) >= 0, "node %u: promised falls", n);
            s.promised = r->promised;
            s.max_lease_ns = r->max_lease_ns;
            break;
        case ACCEPTOR_CUT:
            for (uint64_t k = r->slot; k <= last; k++)
                entry[k] = NULL;
            last = r->slot <= last ? r->slot - 1 : last;
            break;
        case PX_NEEDS_COPY:
            s.needs_copy = true;
            d->jumped = 0;
            break;
        case PX_COMPLETE:
            s.needs_copy = false;
            break;
        case PX_JUMP:
            for (uint64_t k = 1; k <= last; k++)
                if (!r->keep || k <= r->to.slot)
                    entry[k] = NULL;
            last = r->keep ? last : r->to.slot;
            d->jumped = r->to.slot;
            d->jumped_to = r->to;
            if (r->to.slot > base.slot)
                base = r->to;
            if (r->membership.slot > known.slot)
                known = r->membership;
            break;
        case ACCEPTOR_APPEND:
            CHECK(c, r->slot == last + 1, "node %u: gap at %" PRIu64, n, r->slot);
            last = r->slot;
            /* fallthrough */
        default:
            entry[r->slot] = r->entry;
            is_lost[r->slot] = r->rotten;
        }
    }
    memset(&log, 0, sizeof log);
    log.base = base;
    s.committed = known;
    struct membership uncommitted;
    for (uint64_t k = 1; k <= last; k++) {
        if (k > base.slot) {
            CHECK(c, entry[k] && paxos_log_append(&log, k, &entry[k]->e), "runs");
            if (is_lost[k])
                lost[s.n_lost++] = k;
        }
        if (!entry[k])
            continue;
        if (!is_lost[k] || k <= base.slot)
            d->value[k] = hold(entry[k]);
        s.retired |= membership_has_voter(&s.committed, &d->identity);
        if (entry[k]->kind == ENTRY_MEMBER && !is_lost[k] && k > known.slot) {
            /* P9: one is proposed only when the one before it is committed. */
            if (s.uncommitted)
                s.committed = uncommitted;
            s.uncommitted = NULL;
            if (k <= commit) {
                s.committed = entry[k]->u[0].membership;
            } else {
                uncommitted = entry[k]->u[0].membership;
                s.uncommitted = &uncommitted;
            }
        }
    }
    s.retired |= membership_has_voter(&d->first, &d->identity);
    s.commit = commit < base.slot ? base.slot : commit > last ? last : commit;
    d->up = true;
    d->needs_copy = s.needs_copy;
    d->known_from = base.slot;
    for (uint32_t i = 0; i < d->n_records; i++)
        d->record[i].seq = 0;
    TRACE(c, "restart node %u: last %" PRIu64 " commit %" PRIu64 " lost %u", n, last, s.commit, s.n_lost);
    acceptor_init(&d->a, &s, clock_of(c, d->skew_ppm));
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

/* ---- lost disks ---- */

static void front_step(struct px_cluster *c, unsigned i, struct proposer_event ev);

static const struct membership *newest_membership(const struct px_cluster *c)
{
    const struct membership *m = &c->node[0].a.committed;
    for (unsigned k = 1; k < c->n_nodes; k++)
        if (c->node[k].a.committed.slot > m->slot)
            m = &c->node[k].a.committed;
    return m;
}

bool px_may_wipe(const struct px_cluster *c, unsigned n)
{
    const struct membership *m = newest_membership(c);
    if (!c->node[n].up || (unsigned)__builtin_popcount(px_voter_mask(c, m)) != m->n_voters)
        return false;
    for (unsigned k = 0; k < c->n_nodes; k++) {
        const struct px_node *d = &c->node[k];
        bool votes = membership_has_voter(m, &d->identity);
        if (d->a.has_uncommitted || (k != n && votes && (d->needs_copy || d->floor.slot < m->slot)))
            return false;
    }
    return true;
}

void px_wipe(struct px_cluster *c, unsigned n)
{
    struct px_node *d = &c->node[n];
    struct membership now = *newest_membership(c);
    TRACE(c, "the disk of node %u is lost", n);
    if (d->up)
        px_crash(c, n, 0);
    for (uint32_t i = 0; i < d->n_records; i++)
        drop(d->record[i].entry);
    d->n_records = d->n_durable = 0;
    memset(&d->identity, (int)(0xA0 + n), sizeof d->identity);
    d->identity.b[0] = ++d->lives;
    for (unsigned f = 0; f < c->n_fronts; f++) {
        struct px_front *x = &c->front[f];
        px_disconnect(c, f, n);
        uint32_t link = x->alive ? x->link_of[n] : PROPOSER_NOBODY;
        x->sound[n] = 0;
        if (link == PROPOSER_NOBODY)
            continue;
        x->link_of[n] = PROPOSER_NOBODY;
        front_step(c, f, (struct proposer_event){.type = PROPOSER_REMOVE_LINK, .link = link});
    }
    d->floor = (struct log_pos){0};
    d->vouched = (struct ballot){0};
    d->lease_told_ns = 0;
    d->first = now;
    d->first_needs_copy = true;
    c->n_wiped++;
    px_restart(c, n, 0);
}

/* ---- copying ---- */

void px_need_copy(struct px_cluster *c, unsigned n)
{
    struct px_node *d = &c->node[n];
    assert(d->up && !d->needs_copy);
    TRACE(c, "node %u needs a copy", n);
    new_record(d, PX_NEEDS_COPY, d->a.seq);
    d->needs_copy = true;
    d->jumped = 0;
    acceptor_set_needs_copy(&d->a, true);
}

static bool is_donor(const struct px_cluster *c, unsigned n, unsigned peer)
{
    return peer != n && c->node[peer].up && !c->node[peer].needs_copy;
}

bool px_is_too_old(const struct px_cluster *c, unsigned n)
{
    const struct px_node *d = &c->node[n];
    unsigned donors = 0;
    for (unsigned k = 0; k < c->n_nodes; k++) {
        if (!is_donor(c, n, k) || c->node[k].a.told <= d->a.commit)
            continue; /* whoever is no further says nothing: two that are behind must not wait for each other */
        const struct log_pos *base = &c->node[k].a.log.base;
        bool lost = d->a.n_lost > 0 && d->a.lost[0] <= base->slot;
        if (d->a.commit >= base->slot || (paxos_log_holds(&d->a.log, base) && !lost))
            return false;
        donors++;
    }
    return donors > 0;
}

bool px_jump(struct px_cluster *c, unsigned n, unsigned peer)
{
    struct px_node *d = &c->node[n];
    const struct acceptor *p = &c->node[peer].a;
    if (!d->up || !d->needs_copy || !is_donor(c, n, peer) || p->told <= d->a.told)
        return false;
    struct log_pos to = {.slot = p->told};
    bool held = paxos_log_at(&p->log, to.slot, &to.e);
    assert(held);
    (void)held;
    bool keep = paxos_log_holds(&d->a.log, &to);
    TRACE(c, "node %u jumps to %" PRIu64 " of node %u%s", n, to.slot, peer, keep ? ", keeping its tail" : "");
    d->jumped = d->known_from = to.slot;
    d->jumped_to = to;
    c->n_jumps++;
    c->n_jumps_kept += keep && paxos_log_last(&d->a.log).slot > to.slot;
    px_node_step(c, n, &(struct acceptor_event){.type = ACCEPTOR_JUMP, .to = to, .membership = &p->committed});
    CHECK(c, d->a.commit == to.slot && d->a.log.base.slot == to.slot, "node %u did not jump", n);
    if (!keep)
        forget_values(d);
    struct px_record *r = new_record(d, PX_JUMP, d->a.seq);
    r->keep = keep;
    r->to = to;
    r->membership = p->committed;
    return true;
}

bool px_complete(struct px_cluster *c, unsigned n)
{
    struct px_node *d = &c->node[n];
    if (!d->up || !d->needs_copy || d->a.told < d->jumped)
        return false;
    for (uint32_t i = d->n_durable; i < d->n_records; i++)
        if (d->record[i].type >= PX_NEEDS_COPY)
            return false; /* never the jump's own checkpoint */
    /* A request names the jump's place: a donor that holds it learns that it is committed, for nobody else may be there to
     * say so. */
    for (unsigned k = 0; k < c->n_nodes && d->jumped; k++)
        if (is_donor(c, n, k) && c->node[k].a.told < d->jumped)
            px_node_step(c, k, &(struct acceptor_event){.type = ACCEPTOR_CAUGHT_UP, .through = d->jumped_to});
    /* Without a jump: logs sufficed after all, and it is as far as somebody who is complete. */
    for (unsigned k = 0; k < c->n_nodes; k++)
        if (is_donor(c, n, k) && (d->jumped ? c->node[k].a.told >= d->jumped : c->node[k].a.told <= d->a.told)) {
            new_record(d, PX_COMPLETE, d->a.seq);
            return true;
        }
    return false;
}

void px_mend(struct px_cluster *c, unsigned n)
{
    struct px_node *d = &c->node[n];
    if (!d->up)
        return;
    if (!d->needs_copy && px_is_too_old(c, n))
        px_need_copy(c, n);
    if (!d->needs_copy)
        return;
    if (d->jumped == 0 || px_is_too_old(c, n)) {
        unsigned best = n;
        for (unsigned k = 0; k < c->n_nodes; k++)
            if (is_donor(c, n, k) && (best == n || c->node[k].a.told > c->node[best].a.told))
                best = k;
        if (best != n)
            px_jump(c, n, best);
    }
    px_durable(c, n, UINT32_MAX);
    px_complete(c, n);
    px_durable(c, n, UINT32_MAX);
}

/* ---- front ends ---- */

/* Voters whose disks are lost: what they had said may have been true. */
static unsigned gone_voters(const struct px_cluster *c, const struct membership *m)
{
    return m->n_voters - (unsigned)__builtin_popcount(px_voter_mask(c, m));
}

/* Invariant V at the front end's side, apart from its own counting: who acknowledged this slot, complete. */
static void check_counted(const struct px_cluster *c, const struct px_front *f, uint64_t slot)
{
    for (unsigned w = 0; w < 1u + f->before_joint; w++) {
        const struct membership *m = &f->before[w];
        unsigned n = gone_voters(c, m);
        for (unsigned k = 0; k < c->n_nodes; k++)
            n += membership_has_voter(m, &c->node[k].identity) && f->sound[k] >= slot;
        CHECK(c, n >= membership_majority(m),
              "front %u: chosen slot %" PRIu64 " was acknowledged by %u complete ones of %u voters", f->index, slot, n,
              m->n_voters);
    }
}

static void note_sound(struct px_front *f, unsigned n, const struct msg *m)
{
    bool counted = m->type == MSG_OPENED || m->type == MSG_ACCEPTED || m->type == MSG_BEAT_ACK;
    if (!counted || !ballot_equal(&m->ballot, &f->p->ballot))
        return;
    if (!ballot_equal(&f->sound_ballot, &f->p->ballot))
        memset(f->sound, 0, sizeof f->sound);
    f->sound_ballot = f->p->ballot;
    if ((m->type == MSG_OPENED && m->u.opened.needs_copy) || (m->type == MSG_ACCEPTED && m->u.accepted.needs_copy) ||
        (m->type == MSG_BEAT_ACK && m->u.beat_ack.needs_copy))
        f->sound[n] = 0;
    else if (m->type == MSG_ACCEPTED && m->u.accepted.through > f->sound[n])
        f->sound[n] = m->u.accepted.through;
}

static void on_chosen(struct px_cluster *c, struct px_front *f, uint64_t slot)
{
    const struct proposer *p = f->p;
    c->n_chosen_events++;
    struct ballot e;
    CHECK(c, paxos_log_at(&p->log, slot, &e), "front %u: chosen %" PRIu64 " is not in its log", f->index, slot);
    unsigned holders = gone_voters(c, &p->committed); /* of the membership in force, as it has just found it committed */
    for (unsigned n = 0; n < c->n_nodes; n++)
        holders += membership_has_voter(&p->committed, &c->node[n].identity) && px_node_holds(c, n, slot, &e);
    check_counted(c, f, slot);
    CHECK(c, holders >= membership_majority(&p->committed), "front %u: chosen slot %" PRIu64 " is durable at %u of %u",
          f->index, slot, holders, p->committed.n_voters);
    for (uint64_t s = p->floor + 1; s <= slot; s++) {
        struct entry *entry = f->ring[s & (PX_RING - 1)].entry;
        CHECK(c, entry && entry->slot == s, "front %u slot %" PRIu64, f->index, s);
        note_chosen(c, s, &entry->e, entry);
    }
    for (uint32_t i = 0; i < c->n_ops; i++) {
        struct px_op *op = &c->op[i];
        if (op->front != f->index || op->incarnation != f->incarnation || op->state != PX_OP_FLYING || op->slot > slot)
            continue;
        op->state = PX_OP_ACKED;
        op->entry = NULL;
        CHECK(c, c->chosen[op->slot].known && c->chosen[op->slot].id == op->id,
              "write %" PRIu64 " acknowledged at slot %" PRIu64 ", which holds write %" PRIu64, op->id, op->slot,
              c->chosen[op->slot].id);
        CHECK(c, op->slot > op->acked_before,
              "write %" PRIu64 " at %" PRIu64 " before one acknowledged earlier at %" PRIu64, op->id, op->slot,
              op->acked_before);
        if (op->slot > c->acked_max)
            c->acked_max = op->slot;
    }
}

static struct px_op *op_of(struct px_cluster *c, struct px_front *f, struct entry *e)
{
    for (uint32_t i = 0; i < c->n_ops; i++)
        if (c->op[i].entry == e && c->op[i].front == f->index && c->op[i].incarnation == f->incarnation)
            return &c->op[i];
    return NULL;
}

static void on_effect(struct proposer_sink *sink, const struct proposer_effect *e)
{
    struct px_front *f = container_of(sink, struct px_front, sink);
    struct px_cluster *c = f->c;
    switch (e->type) {
    case PROPOSER_SEND: {
        struct px_conn *k = f->conn[f->node_of[e->link]];
        CHECK(c, k, "front %u sends on a link that is down", f->index);
        if (c->node[k->node].up && c->node[k->node].epoch == k->node_epoch)
            list_push_back(&k->to_node, &copy_msg(&e->msg)->link);
        break;
    }
    case PROPOSER_DISCONNECT:
        f->disconnect |= 1u << f->node_of[e->link];
        break;
    case PROPOSER_WANT_LINK:
        for (unsigned n = 0; n < c->n_nodes; n++)
            if (uuid_equal(&c->node[n].identity, &e->identity))
                f->want |= 1u << n;
        break;
    case PROPOSER_CHOSEN:
        on_chosen(c, f, e->slot);
        break;
    case PROPOSER_STATE:
        TRACE(c, "front %u state %d ballot %" PRIu64 " chosen %" PRIu64, f->index, f->p->state, f->p->ballot.round,
              f->p->chosen);
        if (f->p->state == PROPOSER_FENCED) {
            f->fenced = true;
            c->n_fenced++;
            for (uint32_t i = 0; i < c->n_ops; i++)
                if (c->op[i].front == f->index && c->op[i].incarnation == f->incarnation &&
                    c->op[i].state < PX_OP_ACKED)
                    c->op[i].state = PX_OP_FAILED;
        }
        break;
    case PROPOSER_HOLD:
        hold(e->entry);
        f->n_held++;
        break;
    case PROPOSER_FORGET:
        drop(e->entry);
        f->n_forgotten++;
        break;
    case PROPOSER_UNPLACED: {
        struct px_op *op = op_of(c, f, e->entry);
        if (e->entry->kind == ENTRY_MEMBER) { /* nobody waits for it */
            drop(e->entry);
            break;
        }
        CHECK(c, op && op->state == PX_OP_FLYING, "front %u: unplaced slot %" PRIu64 " is nobody's", f->index, e->slot);
        CHECK(c, f->p->state == PROPOSER_SERVING, "unplaced before serving");
        op->state = PX_OP_QUEUED;
        op->slot = 0;
        op->entry = NULL;
        drop(e->entry);
        f->n_unplaced++;
        c->n_unplaced++;
        break;
    }
    case PROPOSER_WANT_SESSION_ENTRY:
        f->want_session = true;
        break;
    }
}

static void add_link(struct px_cluster *c, unsigned i, unsigned n, bool learner);

static void front_step(struct px_cluster *c, unsigned i, struct proposer_event ev)
{
    struct px_front *f = &c->front[i];
    if (!f->alive)
        return;
    ev.now_ns = clock_of(c, f->skew_ppm);
    ev.random = px_random(c, 0);
    f->before[0] = f->p->committed;
    f->before[1] = f->p->uncommitted;
    f->before_joint = f->p->has_uncommitted;
    if (ev.type == PROPOSER_MSG)
        note_sound(f, f->node_of[ev.link], ev.msg);
    proposer_step(f->p, &ev, &f->sink);
    proposer_check(f->p);
    if (f->want_session) {
        f->want_session = false;
        front_step(c, i,
                   (struct proposer_event){.type = PROPOSER_SESSION_ENTRY, .entry = new_entry(c, ENTRY_SESSION, 0)});
    }
    for (unsigned n = 0; n < c->n_nodes; n++)
        if (f->disconnect >> n & 1) {
            f->disconnect &= ~(1u << n);
            px_disconnect(c, i, n);
        }
    for (unsigned n = 0; n < c->n_nodes; n++)
        if (f->want >> n & 1) {
            f->want &= ~(1u << n);
            if (f->link_of[n] != PROPOSER_NOBODY)
                continue;
            c->n_wanted++;
            add_link(c, i, n, false);
            px_connect(c, i, n);
        }
}

static void add_link(struct px_cluster *c, unsigned i, unsigned n, bool learner)
{
    struct px_front *f = &c->front[i];
    uint32_t link = f->link_of[n];
    if (link == PROPOSER_NOBODY)
        for (link = 0; link < f->p->params.n_replicas && !uuid_is_zero(&f->p->params.identity[link]);)
            link++;
    f->link_of[n] = (uint8_t)link;
    f->node_of[link] = (uint8_t)n;
    front_step(c, i, (struct proposer_event){.type = PROPOSER_ADD_LINK,
                                             .link = link,
                                             .identity = c->node[n].identity,
                                             .learner = learner});
}

void px_learn(struct px_cluster *c, unsigned i, unsigned n)
{
    TRACE(c, "front %u takes node %u as a learner", i, n);
    add_link(c, i, n, true);
    px_connect(c, i, n);
}

void px_front_start(struct px_cluster *c, unsigned i)
{
    px_front_start_knowing(c, i, (1u << c->n_nodes) - 1);
}

void px_front_start_knowing(struct px_cluster *c, unsigned i, uint32_t mask)
{
    struct px_front *f = &c->front[i];
    assert(!f->alive);
    f->alive = true;
    f->fenced = false;
    f->want_session = false;
    f->disconnect = f->want = 0;
    f->incarnation++;
    memset(f->link_of, PROPOSER_NOBODY, sizeof f->link_of);
    memset(f->node_of, PROPOSER_NOBODY, sizeof f->node_of);
    struct proposer_params p = {.group = PX_GROUP,
                                .lease_ns = c->lease_ns,
                                .beat_ns = PX_BEAT_NS,
                                .timeout_ns = PX_TIMEOUT_NS,
                                .retain_bytes = c->retain_bytes,
                                .ring = f->ring,
                                .ring_slots = PX_RING};
    snprintf(p.name, sizeof p.name, "front-%u", i);
    uint64_t r = px_random(c, 0);
    memcpy(p.id.b, &r, sizeof r);
    p.id.b[15] = (uint8_t)(i + 1);
    for (unsigned n = 0; n < c->n_nodes; n++)
        if (mask >> n & 1) {
            f->node_of[p.n_replicas] = (uint8_t)n;
            f->link_of[n] = (uint8_t)p.n_replicas;
            p.identity[p.n_replicas++] = c->node[n].identity;
        }
    if (!f->p)
        f->p = malloc(sizeof *f->p);
    proposer_init(f->p, &p);
    TRACE(c, "front %u starts", i);
    front_step(c, i, (struct proposer_event){.type = PROPOSER_ATTACH});
}

static void free_ring(struct px_front *f)
{
    struct proposer *p = f->p;
    for (uint32_t i = 0; i < PX_RING; i++) {
        struct proposer_slot *s = &f->ring[i];
        drop(s->entry);
        if (s->own != s->entry)
            drop(s->own);
        s->entry = s->own = NULL;
    }
    drop(p->session_entry);
    p->session_entry = NULL;
}

/* The process dies: nothing more comes from it, but what it sent may still arrive. */
void px_front_kill(struct px_cluster *c, unsigned i)
{
    struct px_front *f = &c->front[i];
    if (!f->alive)
        return;
    TRACE(c, "front %u is killed", i);
    f->alive = false;
    for (unsigned n = 0; n < c->n_nodes; n++)
        px_disconnect(c, i, n);
    free_ring(f);
    for (uint32_t k = 0; k < c->n_ops; k++)
        if (c->op[k].front == i && c->op[k].incarnation == f->incarnation && c->op[k].state < PX_OP_ACKED)
            c->op[k].state = PX_OP_FAILED;
}

void px_front_detach(struct px_cluster *c, unsigned i)
{
    front_step(c, i, (struct proposer_event){.type = PROPOSER_DETACH});
}

void px_connect(struct px_cluster *c, unsigned f, unsigned n)
{
    if (!c->front[f].alive || c->front[f].conn[n] || !c->node[n].up || c->front[f].link_of[n] == PROPOSER_NOBODY)
        return;
    struct px_conn *k = calloc(1, sizeof *k);
    *k =
        (struct px_conn){.id = ++c->next_conn, .front = f, .node = n, .node_epoch = c->node[n].epoch, .front_up = true};
    list_init(&k->link);
    list_init(&k->to_node);
    list_init(&k->to_front);
    list_push_back(&c->conns, &k->link);
    c->front[f].conn[n] = k;
    TRACE(c, "connect %u -> %u (%u)", f, n, k->id);
    front_step(c, f, (struct proposer_event){.type = PROPOSER_LINK_UP, .link = c->front[f].link_of[n]});
}

void px_disconnect(struct px_cluster *c, unsigned f, unsigned n)
{
    struct px_conn *k = c->front[f].conn[n];
    if (!k)
        return;
    TRACE(c, "disconnect %u -> %u (%u)", f, n, k->id);
    c->front[f].conn[n] = NULL;
    k->front_up = false;
    free_queue(&k->to_front);
    if (!c->node[n].up || c->node[n].epoch != k->node_epoch) {
        free_queue(&k->to_node);
        list_remove(&k->link);
        free(k);
    }
    front_step(c, f, (struct proposer_event){.type = PROPOSER_LINK_DOWN, .link = c->front[f].link_of[n]});
}

void px_conn_gone(struct px_cluster *c, struct px_conn *k)
{
    assert(!k->front_up);
    unsigned n = k->node;
    uint32_t id = k->id;
    free_queue(&k->to_node);
    free_queue(&k->to_front);
    list_remove(&k->link);
    free(k);
    struct acceptor_event ev = {.type = ACCEPTOR_LINK_DOWN, .link = id};
    if (c->node[n].up)
        px_node_step(c, n, &ev);
}

void px_tick(struct px_cluster *c, unsigned f)
{
    front_step(c, f, (struct proposer_event){.type = PROPOSER_TICK});
    px_pump(c, f);
}

uint32_t px_write(struct px_cluster *c, unsigned f)
{
    CHECK(c, c->n_ops < PX_OPS_MAX, "too many writes");
    struct px_op *op = &c->op[c->n_ops];
    *op = (struct px_op){.state = PX_OP_QUEUED,
                         .front = f,
                         .incarnation = c->front[f].incarnation,
                         .id = c->n_ops + 1,
                         .acked_before = c->acked_max};
    c->n_ops++;
    px_pump(c, f);
    return c->n_ops - 1;
}

void px_pump(struct px_cluster *c, unsigned i)
{
    struct px_front *f = &c->front[i];
    if (!f->alive)
        return;
    for (uint32_t k = 0; k < c->n_ops; k++) {
        struct px_op *op = &c->op[k];
        if (op->front != i || op->incarnation != f->incarnation || op->state != PX_OP_QUEUED)
            continue;
        struct entry *e = new_entry(c, ENTRY_WRITE, op->id);
        int rc = proposer_submit(f->p, clock_of(c, f->skew_ppm), e, &f->sink);
        if (rc != 0) {
            drop(e);
            break;
        }
        proposer_check(f->p);
        op->entry = e;
        op->slot = e->slot;
        op->state = PX_OP_FLYING;
    }
    for (unsigned n = 0; n < c->n_nodes; n++)
        if (f->disconnect >> n & 1) {
            f->disconnect &= ~(1u << n);
            px_disconnect(c, i, n);
        }
}

struct membership px_voters(const struct px_cluster *c, uint32_t mask)
{
    struct membership m = {0};
    for (unsigned k = 0; k < c->n_nodes; k++)
        if (mask >> k & 1)
            m.voter[m.n_voters++] = c->node[k].identity;
    return m;
}

uint32_t px_voter_mask(const struct px_cluster *c, const struct membership *m)
{
    uint32_t mask = 0;
    for (unsigned k = 0; k < c->n_nodes; k++)
        mask |= (uint32_t)membership_has_voter(m, &c->node[k].identity) << k;
    return mask;
}

int px_change(struct px_cluster *c, unsigned i, unsigned first, unsigned n)
{
    struct membership m = px_voters(c, ((1u << n) - 1) << first);
    return px_change_to(c, i, &m);
}

int px_change_to(struct px_cluster *c, unsigned i, const struct membership *m)
{
    struct px_front *f = &c->front[i];
    struct entry *e = new_entry(c, ENTRY_MEMBER, 0);
    e->u[0].membership = *m;
    e->u[0].membership.slot = 0;
    int rc = proposer_submit(f->p, clock_of(c, f->skew_ppm), e, &f->sink);
    if (rc != 0)
        drop(e);
    return rc;
}

/* P8: under the lease. The node's verdict is checked when the Read arrives. */
void px_read(struct px_cluster *c, unsigned i, unsigned n)
{
    struct px_front *f = &c->front[i];
    uint64_t watermark;
    if (!f->alive || !proposer_can_read(f->p, clock_of(c, f->skew_ppm), &watermark))
        return;
    CHECK(c, watermark >= c->acked_max, "front %u may read at %" PRIu64 " though %" PRIu64 " is acknowledged", i,
          watermark, c->acked_max);
    struct px_conn *k = f->conn[n];
    if (!k || !c->node[n].up || c->node[n].epoch != k->node_epoch)
        return;
    struct msg m = {.type = MSG_READ, .group = PX_GROUP, .target = c->node[n].identity, .ballot = f->p->ballot};
    m.u.read.nblocks = 1;
    m.u.read.watermark = watermark;
    list_push_back(&k->to_node, &copy_msg(&m)->link);
}

/* ---- messages on their way ---- */

static void node_read(struct px_cluster *c, struct px_conn *k, const struct msg *m)
{
    struct px_node *d = &c->node[k->node];
    uint64_t watermark = m->u.read.watermark;
    enum acceptor_read_verdict v = acceptor_read(&d->a, clock_of(c, d->skew_ppm), k->id, m, &c->fx);
    run_effects(c, k->node);
    if (v != ACCEPTOR_READ_OK)
        return;
    c->n_reads_ok++;
    CHECK(c, watermark <= d->a.commit, "node %u serves what it does not know as committed", k->node);
    for (uint64_t s = d->a.log.base.slot + 1; s <= watermark; s++) {
        struct ballot e;
        CHECK(c, paxos_log_at(&d->a.log, s, &e) && c->chosen[s].known && ballot_equal(&e, &c->chosen[s].e),
              "node %u serves slot %" PRIu64 " of another history", k->node, s);
    }
}

static void node_fetch(struct px_cluster *c, struct px_conn *k, const struct msg *m)
{
    struct px_node *d = &c->node[k->node];
    struct msg r = {
        .type = MSG_VALUE, .cookie = m->cookie, .group = m->group, .target = m->ballot.proposer, .ballot = m->ballot};
    r.u.value.at = m->u.fetch.at;
    struct entry *e = m->u.fetch.at.slot < PX_SLOTS_MAX ? d->value[m->u.fetch.at.slot] : NULL;
    if (e && ballot_equal(&e->e, &m->u.fetch.at.e)) {
        r.u.value.found = 1;
        r.u.value.entry = e;
    }
    if (k->front_up)
        list_push_back(&k->to_front, &copy_msg(&r)->link);
}

bool px_conn_to_node(struct px_cluster *c, struct px_conn *k)
{
    struct px_node *d = &c->node[k->node];
    if (list_empty(&k->to_node) || !d->up || d->epoch != k->node_epoch)
        return false;
    struct px_msg *x = container_of(k->to_node.next, struct px_msg, link);
    if (x->m.type == MSG_ACCEPT && !acceptor_has_room(&d->a))
        return false;
    list_remove(&x->link);
    TRACE(c, "%u -> node %u (%u): msg %u ballot %" PRIu64, k->front, k->node, k->id, x->m.type, x->m.ballot.round);
    struct acceptor_event ev = {.type = ACCEPTOR_MSG, .link = k->id, .msg = &x->m};
    if (x->m.type == MSG_READ)
        node_read(c, k, &x->m);
    else if (x->m.type == MSG_FETCH)
        node_fetch(c, k, &x->m);
    else
        px_node_step(c, k->node, &ev);
    free_msg(x);
    return true;
}

bool px_conn_to_front(struct px_cluster *c, struct px_conn *k)
{
    if (!k->front_up || list_empty(&k->to_front))
        return false;
    struct px_msg *x = container_of(k->to_front.next, struct px_msg, link);
    list_remove(&x->link);
    TRACE(c, "node %u -> %u (%u): msg %u ballot %" PRIu64, k->node, k->front, k->id, x->m.type, x->m.ballot.round);
    unsigned f = k->front, n = k->node;
    front_step(c, f, (struct proposer_event){.type = PROPOSER_MSG, .link = c->front[f].link_of[n], .msg = &x->m});
    free_msg(x);
    px_pump(c, f);
    return true;
}

bool px_to_node(struct px_cluster *c, unsigned f, unsigned n)
{
    return c->front[f].conn[n] && px_conn_to_node(c, c->front[f].conn[n]);
}

bool px_to_front(struct px_cluster *c, unsigned f, unsigned n)
{
    return c->front[f].conn[n] && px_conn_to_front(c, c->front[f].conn[n]);
}

/* ---- catch-up (A7) ---- */

bool px_catchup_ask(struct px_cluster *c, unsigned n, unsigned peer)
{
    struct px_node *d = &c->node[n];
    if (!d->up || n == peer)
        return false;
    struct px_catchup *u = calloc(1, sizeof *u);
    list_init(&u->link);
    *u = (struct px_catchup){
        .link = u->link, .node = n, .peer = peer, .epoch = d->epoch, .from = acceptor_commit_pos(&d->a)};
    list_init(&u->link);
    list_push_back(&c->catchups, &u->link);
    d->wants_catchup = false;
    return true;
}

static void free_catchup(struct px_catchup *u)
{
    for (uint32_t i = 0; i < u->n; i++)
        drop(u->entry[i]);
    list_remove(&u->link);
    free(u);
}

void px_catchup_answer(struct px_cluster *c, struct px_catchup *u, uint32_t max)
{
    struct px_node *d = &c->node[u->peer];
    struct ballot e;
    u->answered = true;
    if (!d->up || d->needs_copy)
        return;
    if (u->from.slot < d->a.log.base.slot) { /* too old: it may still know the beginning of this log */
        u->through = d->a.log.base;
        u->vouches = true;
        return;
    }
    if (u->from.slot > d->a.told || !paxos_log_at(&d->a.log, u->from.slot, &e) ||
        !ballot_equal(&e, &u->from.e))
        return;
    u->through = u->from;
    if ((u->from.slot + max) % 4 == 0) { /* as if its log did not reach back: what is committed here, without values */
        bool held = paxos_log_at(&d->a.log, d->a.told, &u->through.e);
        assert(held);
        (void)held;
        u->through.slot = d->a.told;
        u->vouches = true;
        return;
    }
    for (uint64_t s = u->from.slot + 1; s <= d->a.told && u->n < max && u->n < 8 && d->value[s]; s++) {
        u->entry[u->n++] = hold(d->value[s]);
        u->through = (struct log_pos){.slot = s, .e = d->value[s]->e};
    }
}

void px_catchup_deliver(struct px_cluster *c, struct px_catchup *u, bool keep)
{
    struct px_node *d = &c->node[u->node];
    if (d->up && d->epoch == u->epoch && (u->n > 0 || u->vouches) && acceptor_has_room(&d->a)) {
        TRACE(c, "catch-up node %u from %u: %" PRIu64 "..%" PRIu64, u->node, u->peer, u->from.slot + 1,
              u->through.slot);
        struct acceptor_event ev = {
            .type = ACCEPTOR_CAUGHT_UP, .from = u->from, .through = u->through, .entries = u->entry, .n_entries = u->n};
        px_node_step(c, u->node, &ev);
    }
    if (!keep)
        free_catchup(u);
}

void px_catch_up(struct px_cluster *c, unsigned n, unsigned peer)
{
    for (;;) {
        uint64_t before = c->node[n].a.commit;
        if (!px_catchup_ask(c, n, peer))
            return;
        struct px_catchup *u = container_of(c->catchups.prev, struct px_catchup, link);
        px_catchup_answer(c, u, 8);
        bool vouched = u->vouches;
        px_catchup_deliver(c, u, false);
        px_durable(c, n, UINT32_MAX);
        if (c->node[n].a.commit == before && vouched) { /* now with values */
            if (!px_catchup_ask(c, n, peer))
                return;
            u = container_of(c->catchups.prev, struct px_catchup, link);
            px_catchup_answer(c, u, 7);
            px_catchup_deliver(c, u, false);
            px_durable(c, n, UINT32_MAX);
        }
        if (c->node[n].a.commit == before)
            return;
    }
}

/* ---- until nothing moves ---- */

void px_settle(struct px_cluster *c, unsigned f, uint32_t mask)
{
    for (bool moved = true; moved;) {
        moved = false;
        for (unsigned n = 0; n < c->n_nodes; n++) {
            if (!(mask >> n & 1) || !c->node[n].up)
                continue;
            while (px_to_node(c, f, n))
                moved = true;
            px_durable(c, n, UINT32_MAX);
            while (px_to_front(c, f, n))
                moved = true;
        }
    }
}

static bool converged(const struct px_cluster *c, const struct px_front *f)
{
    if (f->p->state != PROPOSER_SERVING || f->p->chosen != f->p->next - 1)
        return false;
    for (unsigned n = 0; n < c->n_nodes; n++)
        if (c->node[n].up && membership_has_voter(&f->p->committed, &c->node[n].identity) &&
            (c->node[n].needs_copy || c->node[n].a.told != f->p->chosen || f->link_of[n] == PROPOSER_NOBODY ||
             f->p->replica[f->link_of[n]].stream != STREAM_OPEN))
            return false;
    return true;
}

bool px_converge(struct px_cluster *c, unsigned f, unsigned beats)
{
    uint32_t all = (1u << c->n_nodes) - 1;
    for (unsigned i = 0; i < beats; i++) {
        for (unsigned n = 0; n < c->n_nodes; n++)
            px_connect(c, f, n);
        px_tick(c, f);
        px_settle(c, f, all);
        for (unsigned n = 0; n < c->n_nodes; n++)
            px_mend(c, n);
        for (unsigned n = 0; n < c->n_nodes; n++)
            if (c->node[n].up && c->node[n].wants_catchup)
                for (unsigned k = 0; k < c->n_nodes; k++)
                    if (c->node[k].up && k != n)
                        px_catch_up(c, n, k);
        px_settle(c, f, all);
        if (converged(c, &c->front[f]))
            return true;
        c->now_ns += PX_BEAT_NS / 2;
        if (c->front[f].fenced)
            return false;
    }
    return false;
}

/* ---- making and ending it ---- */

struct px_cluster *px_new(uint64_t seed, unsigned n_nodes, unsigned n_fronts)
{
    return px_new_group(seed, n_nodes, n_nodes, n_fronts);
}

struct px_cluster *px_new_group(uint64_t seed, unsigned n_nodes, unsigned n_voters, unsigned n_fronts)
{
    assert(n_nodes <= PX_NODES_MAX && n_fronts <= PX_FRONTS_MAX);
    struct px_cluster *c = calloc(1, sizeof *c);
    c->seed = seed;
    c->random = seed * UINT64_C(0xD1342543DE82EF95) + 1;
    c->now_ns = 1000 * NS_PER_S;
    c->n_nodes = n_nodes;
    c->n_fronts = n_fronts;
    c->lease_ns = PX_LEASE_NS;
    c->retain_bytes = 64u << 20;
    list_init(&c->conns);
    list_init(&c->catchups);
    c->fx = (struct acceptor_effects){.cap = ARRAY_LEN(c->effect), .effect = c->effect};
    struct membership first = {.n_voters = (uint8_t)n_voters};
    for (unsigned n = 0; n < n_nodes; n++) {
        memset(c->node[n].identity.b, (int)(0xA0 + n), 16);
        if (n < n_voters)
            first.voter[n] = c->node[n].identity;
    }
    for (unsigned n = 0; n < n_nodes; n++) {
        struct px_node *d = &c->node[n];
        d->first = first;
        d->size_blocks = UINT64_C(1) << 40;
        list_init(&d->held);
        px_restart(c, n, 0);
    }
    for (unsigned f = 0; f < n_fronts; f++) {
        c->front[f].c = c;
        c->front[f].index = f;
        c->front[f].sink.fn = on_effect;
    }
    return c;
}

void px_free(struct px_cluster *c)
{
    for (unsigned f = 0; f < c->n_fronts; f++) {
        if (c->front[f].alive)
            px_front_kill(c, f);
        free(c->front[f].p);
    }
    while (!list_empty(&c->catchups))
        free_catchup(container_of(c->catchups.next, struct px_catchup, link));
    while (!list_empty(&c->conns)) {
        struct px_conn *k = container_of(c->conns.next, struct px_conn, link);
        free_queue(&k->to_node);
        free_queue(&k->to_front);
        list_remove(&k->link);
        free(k);
    }
    for (unsigned n = 0; n < c->n_nodes; n++) {
        struct px_node *d = &c->node[n];
        free_queue(&d->held);
        forget_values(d);
        for (uint32_t i = 0; i < d->n_records; i++)
            drop(d->record[i].entry);
        free(d->record);
    }
    CHECK(c, c->entries_alive == 0, "%" PRIu64 " entries are left", c->entries_alive);
    free(c);
}

const char *px_log_text(const struct px_cluster *c, unsigned n, char *buf, size_t cap)
{
    const struct acceptor *a = &c->node[n].a;
    size_t at = (size_t)snprintf(buf, cap, "%" PRIu64 "@%" PRIu64, a->log.base.slot, a->log.base.e.round);
    for (uint32_t i = 0; i < a->log.n && at < cap; i++)
        at += (size_t)snprintf(buf + at, cap - at, " %" PRIu64 "-%" PRIu64 "@%" PRIu64, a->log.run[i].first,
                               a->log.run[i].last, a->log.run[i].e.round);
    return buf;
}
