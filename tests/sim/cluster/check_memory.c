/* Memory stays within what was configured, in every process, at any time. Sampled. */
#include "consensus/proposer.h"
#include "nbdserver/volume_internal.h"
#include "replica/replica_internal.h"
#include "replica/store_internal.h"
#include "tests/sim/cluster/check_internal.h"

/* Beyond overlay_bytes, where streams are held back: the entries in flight on three streams and in catch-up by then, and maps. */
#define OVERLAY_SLACK (16 * SIM_MIB)
/* Beyond retain_bytes: what has a slot and is not chosen, and one entry more. */
#define RETAIN_SLACK (PROPOSER_INFLIGHT_BYTES + 2 * SIM_MIB)

static void sample_node(struct checks *ck, const struct node *n)
{
    struct store_stats st;
    struct reactor *r = sim_reactor_io(n->reactor);
    if (arena_used_bytes(r->arena) > arena_limit_bytes(r->arena))
        CK_FAIL(ck, "%s: its buffers hold %llu bytes, and %llu are its limit", n->host, LLU(arena_used_bytes(r->arena)), LLU(arena_limit_bytes(r->arena)));
    if (!n->ready || !n->replica)
        return;
    const struct store *s = n->replica->store;
    store_get_stats(s, &st);
    if (st.overlay_bytes > s->options.overlay_bytes + OVERLAY_SLACK)
        CK_FAIL(ck, "%s: the overlay holds %llu bytes", n->host, LLU(st.overlay_bytes));
    /* Dirty and pinned leaves can't go before a checkpoint. */
    if (st.leaf_cache_bytes > s->options.leaf_cache_bytes + (st.dirty_leaves + 64) * BLOCK_SIZE)
        CK_FAIL(ck, "%s: the leaf cache holds %llu bytes", n->host, LLU(st.leaf_cache_bytes));
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
        CK_FAIL(ck, "%s: its buffers hold %llu bytes, and %llu are its limit", f->host, LLU(arena_used_bytes(r->arena)), LLU(arena_limit_bytes(r->arena)));
    for (uint32_t i = 0; f->volume && i < f->volume->n_groups; i++) {
        const struct proposer *p = f->volume->group[i].proposer;
        if (p->retained_bytes > p->params.retain_bytes + RETAIN_SLACK)
            CK_FAIL(ck, "%s: it retains %llu bytes of entries, and is told to keep %llu", f->host, LLU(p->retained_bytes), LLU(p->params.retain_bytes));
        if (p->next > p->floor && p->next - p->floor > p->params.ring_slots)
            CK_FAIL(ck, "%s: its ring of %u slots holds %llu", f->host, p->params.ring_slots, LLU(p->next - p->floor));
        proposer_check(p);
    }
}

void ck_sample_memory(struct checks *ck)
{
    struct cluster *c = ck->cluster;
    for (unsigned i = 0; i < SIM_REPLICAS; i++)
        if (c->node[i].reactor)
            sample_node(ck, &c->node[i]);
    for (unsigned i = 0; i < SIM_FRONTENDS; i++)
        if (c->frontend[i].reactor)
            sample_frontend(ck, &c->frontend[i]);
}
