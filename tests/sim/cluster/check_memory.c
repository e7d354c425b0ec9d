/* What only the processes' memory shows: bounds that were configured, the modules' own invariants, how far WAL space is
 * free, and what front ends believe of their leases beside what replicas granted. Sampled. */
#include <stdlib.h>

#include "consensus/proposer.h"
#include "nbdserver/volume_internal.h"
#include "replica/replica_internal.h"
#include "replica/scrub_internal.h"
#include "replica/store_internal.h"
#include "replica/wal_internal.h"
#include "tests/sim/cluster/check_internal.h"

/* Beyond overlay_bytes, where streams are held back: the entries in flight on three streams and in catch-up by then,
 * and maps. */
#define OVERLAY_SLACK (16 * SIM_MIB)
/* Beyond retain_bytes: what has a slot and is not chosen, and one entry more. */
#define RETAIN_SLACK (PROPOSER_INFLIGHT_BYTES + 2 * SIM_MIB)

/* Nothing here gives a block other contents under a good checksum: replicas that differ at equal slots were not at equal
 * slots, and what a scrub "repairs" then is an intact block. */
static void sample_scrub(struct checks *ck, const struct node *n)
{
    const struct scrub *sc = n->replica->scrub;
    const struct scrub_report *report[] = {&sc->now, &sc->last};
    for (unsigned i = 0; i < ARRAY_LEN(report) && !ck->cluster->beyond; i++)
        if (report[i]->disowned_blocks + report[i]->odd_peer_blocks + report[i]->undecided.blocks > 0)
            CK_FAIL(ck, "scrub: %s takes an intact block for one that replicas hold differently (%llu own, %llu others', %llu undecided)", n->host,
                    LLU(report[i]->disowned_blocks), LLU(report[i]->odd_peer_blocks), LLU(report[i]->undecided.blocks));
    /* A replica to whose disks nothing happened finds nothing; but what its donors could not give to a copy. */
    const struct group *g = store_group(n->replica->store, SIM_GROUP);
    uint64_t bad = sc->now.bad_blocks + sc->last.bad_blocks, pages = sc->now.rewritten_pages + sc->last.rewritten_pages;
    if (!ck_view_of(ck, n->index)->damaged && !n->io_failed && (pages > 0 || (bad > 0 && g && g->jump == 0)))
        CK_FAIL(ck, "scrub: %s finds %llu bad blocks and %llu bad pages on disks that are intact", n->host, LLU(bad), LLU(pages));
}

/* What large writes took and no leaf maps (docs/large-writes.md): somebody knows of each, or its space would be gone
 * until the next restart. */
static void sample_loose(struct checks *ck, const struct node *n)
{
    const struct store *s = n->replica->store;
    uint64_t known = 0;
    if (s->dead || !s->ready || s->n_loose == 0 || !list_empty(&s->large_writes))
        return;
    uint8_t *seen = calloc(s->slabs_total / 8 + 1, 1);
    assert(seen);
    for (unsigned gen = 0; gen < 2; gen++) {
        list_for_each(l, &s->overlay_regions[gen])
        {
            const struct region *r = container_of(l, struct region, overlay_link[gen]);
            for (unsigned k = 0; k < REGION_LEAVES; k++) {
                const struct oleaf *o = overlay_leaf(r, gen, k);
                for (unsigned i = 0; o && o->ref && i < LEAF_SLABS; i++)
                    if (o->ref[i])
                        bit_set(seen, o->ref[i]->slab);
            }
        }
        for (uint32_t i = 0; i < s->n_dropped[gen]; i++)
            bit_set(seen, s->dropped[gen][i]);
    }
    for (uint64_t i = 0; i < s->n_pending; i++)
        bit_set(seen, s->pending_list[i]);
    for (unsigned p = 0; p < GROUPS_MAX; p++) {
        struct group *g = s->groups[p];
        for (uint64_t slot = g ? g->applied + 1 : 1; g && slot <= g->last; slot++) {
            const struct slot_ref *ref = log_slot(g, slot)->ref;
            for (uint32_t i = 0; ref && i < ref->n; i++)
                bit_set(seen, ref->slab[i]);
        }
    }
    for (uint64_t i = 0; i < s->slabs_total; i++)
        known += bit_get(s->loose, i) && bit_get(seen, i);
    free(seen);
    if (known != s->n_loose)
        CK_FAIL(ck, "%s: %llu slabs are kept for large writes, and only %llu of them are known to anybody", n->host, LLU(s->n_loose), LLU(known));
}

static void sample_node(struct checks *ck, const struct node *n)
{
    struct store_stats st;
    struct reactor *r = sim_reactor_io(n->reactor);
    if (arena_used_bytes(r->arena) > arena_limit_bytes(r->arena))
        CK_FAIL(ck, "%s: its buffers hold %llu bytes, and %llu are its limit", n->host, LLU(arena_used_bytes(r->arena)),
                LLU(arena_limit_bytes(r->arena)));
    if (!n->ready || !n->replica)
        return;
    const struct store *s = n->replica->store;
    store_get_stats(s, &st);
    if (st.overlay_bytes > s->options.overlay_bytes + OVERLAY_SLACK)
        CK_FAIL(ck, "%s: the overlay holds %llu bytes", n->host, LLU(st.overlay_bytes));
    /* Dirty and pinned leaves can't go before a checkpoint. */
    if (st.leaf_cache_bytes > s->options.leaf_cache_bytes + (st.dirty_leaves + 64) * BLOCK_SIZE)
        CK_FAIL(ck, "%s: the leaf cache holds %llu bytes", n->host, LLU(st.leaf_cache_bytes));
    sample_scrub(ck, n);
    sample_loose(ck, n);
    const struct replica_group *g = replica_find_group(n->replica, SIM_GROUP);
    if (!g)
        return;
    uint64_t slots = paxos_log_last(&g->acceptor.log).slot - g->acceptor.log.base.slot;
    if (slots > STORE_SLOTS_MAX || g->acceptor.n_lost > LOST_MAX)
        CK_FAIL(ck, "%s: its log has %llu slots", n->host, LLU(slots));
    acceptor_check(&g->acceptor);
}

static void sample_frontend(struct checks *ck, const struct frontend *f)
{
    struct reactor *r = sim_reactor_io(f->reactor);
    if (arena_used_bytes(r->arena) > arena_limit_bytes(r->arena))
        CK_FAIL(ck, "%s: its buffers hold %llu bytes, and %llu are its limit", f->host, LLU(arena_used_bytes(r->arena)),
                LLU(arena_limit_bytes(r->arena)));
    for (uint32_t i = 0; f->volume && i < f->volume->n_groups; i++) {
        const struct proposer *p = f->volume->group[i].proposer;
        if (p->retained_bytes > p->params.retain_bytes + RETAIN_SLACK)
            CK_FAIL(ck, "%s: it retains %llu bytes of entries, and is told to keep %llu", f->host,
                    LLU(p->retained_bytes), LLU(p->params.retain_bytes));
        if (p->next > p->floor && p->next - p->floor > p->params.ring_slots)
            CK_FAIL(ck, "%s: its ring of %u slots holds %llu", f->host, p->params.ring_slots, LLU(p->next - p->floor));
        proposer_check(p);
    }
}

void ck_sample_memory(struct checks *ck)
{
    struct cluster *c = ck->cluster;
    for (unsigned i = 0; i < c->n_nodes; i++)
        if (c->node[i].reactor)
            sample_node(ck, &c->node[i]);
    for (unsigned i = 0; i < SIM_SESSIONS; i++)
        if (c->frontend[i].reactor)
            sample_frontend(ck, &c->frontend[i]);
}

void ck_sample_tail(struct ck_view *v)
{
    const struct replica *r = v->node->replica;
    const struct wal *w = r && v->node->ready && r->store ? r->store->wal : NULL;
    if (!w || v->damaged || w->tail.lsn <= v->root_tail_lsn)
        return;
    ck_look_at_root(v);
    if (w->tail.lsn > v->root_tail_lsn)
        CK_FAIL(v->ck, "%s: WAL space below LSN %llu is free to be used again, and the durable root's tail is %llu",
                v->node->host, LLU(w->tail.lsn), LLU(v->root_tail_lsn));
}

/* ---- leases (A8, P8), in the world's time ---- */

#define ROUNDING_NS 10000u

/* How long from now on, when a clock that drifts says that it is until until_ns. */
static uint64_t true_ns(const struct sim_reactor *r, uint64_t until_ns)
{
    uint64_t now = io_now(sim_reactor_io((struct sim_reactor *)(uintptr_t)r));
    if (until_ns <= now)
        return 0;
    return (until_ns - now) * 1000000 / (uint64_t)(1000000 + sim_drift(r)) + 1; /* what is left is never nothing */
}

/* For how long the replica keeps everybody but this proposer from a promise. One that is not there promises nothing. */
static uint64_t kept_ns(const struct ck_view *v, const struct uuid *proposer)
{
    const struct node *n = v->node;
    const struct replica_group *g =
        n->reactor && n->ready && n->replica ? replica_find_group(n->replica, SIM_GROUP) : NULL;
    if (!g || v->gone)
        return UINT64_MAX;
    const struct acceptor *a = &g->acceptor;
    uint64_t lease = uuid_equal(&a->holder, proposer) ? true_ns(n->reactor, a->lease_until_ns) : 0;
    uint64_t wait = uuid_equal(&a->promised.proposer, proposer) ? true_ns(n->reactor, a->restart_until_ns) : 0;
    return lease > wait ? lease : wait;
}

/* A front end that can read has leases of a majority that last there at least as long as it believes. */
static void sample_lease(struct checks *ck, const struct frontend *f)
{
    const struct proposer *p = f->volume->group[0].proposer;
    uint64_t now = io_now(sim_reactor_io(f->reactor)), watermark;
    if (!p || p->state != PROPOSER_SERVING || !proposer_can_read(p, now, &watermark))
        return;
    uint32_t backed = 0; /* disks */
    for (uint32_t i = 0; i < p->params.n_replicas; i++) {
        if (p->replica[i].needs_copy)
            continue; /* as it has heard, so that what it grants does not count */
        uint64_t believed = true_ns(f->reactor, p->replica[i].lease_until_ns);
        for (unsigned k = 0; k < ck->n_views && believed > 0; k++) {
            if (!uuid_equal(&ck->view[k]->identity, &p->params.identity[i]))
                continue;
            uint64_t kept = kept_ns(ck->view[k], &p->params.id);
            backed |= (uint32_t)(believed <= kept || believed - kept <= ROUNDING_NS) << k;
        }
    }
    if (!ck_is_quorum(ck, ck_ballot(ck, &p->ballot), backed))
        CK_FAIL(ck,
                "leases: %s believes that it can read under ballot %llu, for longer than a quorum keeps others away",
                f->host, LLU(p->ballot.round));
}

void ck_sample_leases(struct checks *ck)
{
    if (sim_now(ck->cluster->world) < ck->forced_until_ns)
        return;
    for (unsigned i = 0; i < SIM_SESSIONS; i++)
        if (ck->cluster->frontend[i].reactor && ck->cluster->frontend[i].volume)
            sample_lease(ck, &ck->cluster->frontend[i]);
}
