/* The cluster as a whole: making and ending it, and letting it run until nothing moves. What happens in it: px_node.c,
 * px_copy.c, px_front.c, px_message.c. */
#include "tests/unit/px_internal.h"

uint64_t px_random(struct px_cluster *c, uint64_t below)
{
    uint64_t z = c->random += UINT64_C(0x9E3779B97F4A7C15);
    z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ z >> 27) * UINT64_C(0x94D049BB133111EB);
    z ^= z >> 31;
    return below ? z % below : z;
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
        c->front[f].sink.fn = px_on_effect;
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
        px_catchup_free(container_of(c->catchups.next, struct px_catchup, link));
    while (!list_empty(&c->conns)) {
        struct px_conn *k = container_of(c->conns.next, struct px_conn, link);
        px_queue_free(&k->to_node);
        px_queue_free(&k->to_front);
        list_remove(&k->link);
        free(k);
    }
    for (unsigned n = 0; n < c->n_nodes; n++) {
        struct px_node *d = &c->node[n];
        px_queue_free(&d->held);
        px_forget_values(d);
        for (uint32_t i = 0; i < d->n_records; i++)
            px_drop(d->record[i].entry);
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
