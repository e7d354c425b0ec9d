/* What brings a node up to the others without a front end: catch-up, and after a lost disk or too old a log the jump
 * and the copy. */
#include "tests/unit/px_internal.h"

/* ---- lost disks ---- */

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
        px_drop(d->record[i].entry);
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
        px_front_step(c, f, (struct proposer_event){.type = PROPOSER_REMOVE_LINK, .link = link});
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
    px_record_new(d, PX_NEEDS_COPY, d->a.seq);
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
        px_forget_values(d);
    struct px_record *r = px_record_new(d, PX_JUMP, d->a.seq);
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
            px_record_new(d, PX_COMPLETE, d->a.seq);
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

void px_catchup_free(struct px_catchup *u)
{
    for (uint32_t i = 0; i < u->n; i++)
        px_drop(u->entry[i]);
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
        u->entry[u->n++] = px_hold(d->value[s]);
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
        px_catchup_free(u);
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
