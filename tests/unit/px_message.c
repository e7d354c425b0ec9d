/* Entries and messages of the cluster. Entries are reference-counted by hand, so that a reference too many or too few
 * shows; a message owns a copy of everything that it points at, since the core that sent it may change it before it
 * arrives. */
#include "tests/unit/px_internal.h"

/* ---- entries: reference-counted by hand, so that a reference too many or too few shows ---- */

struct px_entry {
    struct px_cluster *c;
    struct buf buf;
    struct entry e; /* and room for a membership */
};

struct entry *px_entry_new(struct px_cluster *c, enum entry_kind kind, uint64_t id)
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

struct entry *px_hold(struct entry *e)
{
    return e ? entry_ref(e) : NULL;
}

void px_drop(struct entry *e)
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

struct px_msg *px_msg_copy(const struct msg *m)
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
        px_hold(*entry_of(&x->m));
    return x;
}

void px_msg_free(struct px_msg *x)
{
    list_remove(&x->link);
    if (entry_of(&x->m))
        px_drop(*entry_of(&x->m));
    free(x->runs);
    free(x->lost);
    free(x->memberships);
    free(x);
}

void px_queue_free(struct list *q)
{
    while (!list_empty(q))
        px_msg_free(container_of(q->next, struct px_msg, link));
}

struct px_conn *px_find_conn(struct px_cluster *c, uint32_t id)
{
    list_for_each(p, &c->conns)
    {
        struct px_conn *k = container_of(p, struct px_conn, link);
        if (k->id == id)
            return k;
    }
    return NULL;
}

uint64_t px_clock_of(const struct px_cluster *c, int64_t skew_ppm)
{
    return (uint64_t)((int64_t)c->now_ns + (int64_t)(c->now_ns / 1000000) * skew_ppm);
}

/* ---- messages on their way ---- */

static void node_read(struct px_cluster *c, struct px_conn *k, const struct msg *m)
{
    struct px_node *d = &c->node[k->node];
    uint64_t watermark = m->u.read.watermark;
    enum acceptor_read_verdict v = acceptor_read(&d->a, px_clock_of(c, d->skew_ppm), k->id, m, &c->fx);
    px_run_effects(c, k->node);
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
        list_push_back(&k->to_front, &px_msg_copy(&r)->link);
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
    px_msg_free(x);
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
    px_front_step(c, f, (struct proposer_event){.type = PROPOSER_MSG, .link = c->front[f].link_of[n], .msg = &x->m});
    px_msg_free(x);
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
