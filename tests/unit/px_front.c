/* The front ends: a proposer, its links, and the checks of what it takes for chosen. */
#include "tests/unit/px_internal.h"

#include <errno.h>

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
        px_note_chosen(c, s, &entry->e, entry);
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

void px_on_effect(struct proposer_sink *sink, const struct proposer_effect *e)
{
    struct px_front *f = container_of(sink, struct px_front, sink);
    struct px_cluster *c = f->c;
    switch (e->type) {
    case PROPOSER_SEND: {
        struct px_conn *k = f->conn[f->node_of[e->link]];
        CHECK(c, k, "front %u sends on a link that is down", f->index);
        if (c->node[k->node].up && c->node[k->node].epoch == k->node_epoch)
            list_push_back(&k->to_node, &px_msg_copy(&e->msg)->link);
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
        px_hold(e->entry);
        f->n_held++;
        break;
    case PROPOSER_FORGET:
        px_drop(e->entry);
        f->n_forgotten++;
        break;
    case PROPOSER_UNPLACED: {
        struct px_op *op = op_of(c, f, e->entry);
        if (e->entry->kind == ENTRY_MEMBER) { /* nobody waits for it */
            px_drop(e->entry);
            break;
        }
        CHECK(c, op && op->state == PX_OP_FLYING, "front %u: unplaced slot %" PRIu64 " is nobody's", f->index, e->slot);
        CHECK(c, f->p->state == PROPOSER_SERVING, "unplaced before serving");
        op->state = PX_OP_QUEUED;
        op->slot = 0;
        op->entry = NULL;
        px_drop(e->entry);
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

void px_front_step(struct px_cluster *c, unsigned i, struct proposer_event ev)
{
    struct px_front *f = &c->front[i];
    if (!f->alive)
        return;
    ev.now_ns = px_clock_of(c, f->skew_ppm);
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
        px_front_step(c, i,
                   (struct proposer_event){.type = PROPOSER_SESSION_ENTRY, .entry = px_entry_new(c, ENTRY_SESSION, 0)});
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
    px_front_step(c, i, (struct proposer_event){.type = PROPOSER_ADD_LINK,
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
    px_front_step(c, i, (struct proposer_event){.type = PROPOSER_ATTACH});
}

static void free_ring(struct px_front *f)
{
    struct proposer *p = f->p;
    for (uint32_t i = 0; i < PX_RING; i++) {
        struct proposer_slot *s = &f->ring[i];
        px_drop(s->entry);
        if (s->own != s->entry)
            px_drop(s->own);
        s->entry = s->own = NULL;
    }
    px_drop(p->session_entry);
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
    px_front_step(c, i, (struct proposer_event){.type = PROPOSER_DETACH});
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
    px_front_step(c, f, (struct proposer_event){.type = PROPOSER_LINK_UP, .link = c->front[f].link_of[n]});
}

void px_disconnect(struct px_cluster *c, unsigned f, unsigned n)
{
    struct px_conn *k = c->front[f].conn[n];
    if (!k)
        return;
    TRACE(c, "disconnect %u -> %u (%u)", f, n, k->id);
    c->front[f].conn[n] = NULL;
    k->front_up = false;
    px_queue_free(&k->to_front);
    if (!c->node[n].up || c->node[n].epoch != k->node_epoch) {
        px_queue_free(&k->to_node);
        list_remove(&k->link);
        free(k);
    }
    px_front_step(c, f, (struct proposer_event){.type = PROPOSER_LINK_DOWN, .link = c->front[f].link_of[n]});
}

void px_conn_gone(struct px_cluster *c, struct px_conn *k)
{
    assert(!k->front_up);
    unsigned n = k->node;
    uint32_t id = k->id;
    px_queue_free(&k->to_node);
    px_queue_free(&k->to_front);
    list_remove(&k->link);
    free(k);
    struct acceptor_event ev = {.type = ACCEPTOR_LINK_DOWN, .link = id};
    if (c->node[n].up)
        px_node_step(c, n, &ev);
}

void px_tick(struct px_cluster *c, unsigned f)
{
    px_front_step(c, f, (struct proposer_event){.type = PROPOSER_TICK});
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
        struct entry *e = px_entry_new(c, ENTRY_WRITE, op->id);
        int rc = proposer_submit(f->p, px_clock_of(c, f->skew_ppm), e, &f->sink);
        if (rc != 0) {
            px_drop(e);
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
    struct entry *e = px_entry_new(c, ENTRY_MEMBER, 0);
    e->u[0].membership = *m;
    e->u[0].membership.slot = 0;
    int rc = proposer_submit(f->p, px_clock_of(c, f->skew_ppm), e, &f->sink);
    if (rc != 0)
        px_drop(e);
    return rc;
}

/* P8: under the lease. The node's verdict is checked when the Read arrives. */
void px_read(struct px_cluster *c, unsigned i, unsigned n)
{
    struct px_front *f = &c->front[i];
    uint64_t watermark;
    if (!f->alive || !proposer_can_read(f->p, px_clock_of(c, f->skew_ppm), &watermark))
        return;
    CHECK(c, watermark >= c->acked_max, "front %u may read at %" PRIu64 " though %" PRIu64 " is acknowledged", i,
          watermark, c->acked_max);
    struct px_conn *k = f->conn[n];
    if (!k || !c->node[n].up || c->node[n].epoch != k->node_epoch)
        return;
    struct msg m = {.type = MSG_READ, .group = PX_GROUP, .target = c->node[n].identity, .ballot = f->p->ballot};
    m.u.read.nblocks = 1;
    m.u.read.watermark = watermark;
    list_push_back(&k->to_node, &px_msg_copy(&m)->link);
}
