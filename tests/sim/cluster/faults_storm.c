/* A storm of take-overs: what brings logs apart.
 *
 * Independent faults seldom leave an unchosen tail on one replica, then an attachment that does not see it, then one that does. A storm tries such sequences by the
 * dozen: step by step what each front end sends to some of the replicas is late by more than a lease, the front end that serves dies and comes back at once, replicas
 * die and come back. Its steps follow from the number of the fault that began it. One storm at a time: two would only keep everybody from everything. */
#include "tests/sim/cluster/faults_internal.h"

static struct sim_link *link_to(struct faults *f, unsigned frontend, unsigned replica)
{
    return sim_link(f->run->world, fault_host(f, SIM_REPLICAS + frontend), fault_host(f, replica));
}

static void end_late(struct fault_action *a)
{
    link_to(a->faults, a->a, a->b)->latency_ns = sim_config(a->faults->run->world)->latency_ns;
}

/* Which replicas a front end does not reach in time: most often none or one, so that somebody can go on. */
static unsigned draw_mask(struct fault_rng *g)
{
    uint64_t x = fault_draw(g, 0, 9), who = fault_draw(g, 0, SIM_REPLICAS - 1);
    return x < 4 ? 0 : x < 8 ? 1u << who : ((1u << SIM_REPLICAS) - 1) & ~(1u << who);
}

static void make_late(struct faults *f, struct fault_rng *g, unsigned frontend, uint64_t most_ns)
{
    unsigned mask = draw_mask(g);
    uint64_t late_ns = fault_draw_log(g, 2 * NS_PER_MS, most_ns), for_ns = fault_draw_log(g, NS_PER_MS, most_ns);
    for (unsigned k = 0; k < SIM_REPLICAS; k++) {
        if (!(mask >> k & 1))
            continue;
        link_to(f, frontend, k)->latency_ns = (struct sim_range){late_ns, late_ns};
        fault_later(f, for_ns, end_late, frontend, k, 0);
    }
}

static void crash_some(struct faults *f, struct fault_rng *g)
{
    struct cluster *c = f->run->cluster;
    uint64_t outage_ns = fault_draw_log(g, NS_PER_MS / 10, 50 * NS_PER_MS), who = fault_draw(g, 0, SIM_REPLICAS - 1);
    enum sim_crash how = fault_chance(g, 2) ? SIM_POWER : SIM_KILL;
    if (fault_chance(g, 8))
        faults_crash_node(f, &c->node[who], how, outage_ns);
    if (fault_chance(g, 3))
        return;
    struct frontend *serving = cluster_serving(c, who);
    if (serving)
        faults_crash_frontend(f, serving, how, outage_ns);
}

static void step(struct fault_action *a)
{
    struct faults *f = a->faults;
    struct fault_rng g = {a->x};
    uint64_t lease_ns = f->run->cluster->config.lease_ms * NS_PER_MS;
    crash_some(f, &g);
    for (unsigned i = 0; i < SIM_FRONTENDS; i++)
        make_late(f, &g, i, 2 * lease_ns + 50 * NS_PER_MS);
    if (a->a > 1)
        fault_later(f, fault_draw_log(&g, 2 * NS_PER_MS, 2 * lease_ns + 50 * NS_PER_MS), step, a->a - 1, 0, g.state);
    else
        f->storm = false;
}

bool faults_storm(struct faults *f, struct fault_rng *g)
{
    unsigned steps = (unsigned)fault_draw(g, 5, 60);
    fault_say(f, "a storm of %u steps%s", steps, f->storm ? "; there is one already" : "");
    if (f->storm)
        return false;
    f->storm = true;
    fault_later(f, 0, step, steps, 0, g->state);
    return true;
}
