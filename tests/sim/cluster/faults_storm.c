/* A storm of take-overs: what brings logs apart.
 *
 * Independent faults seldom leave an unchosen tail on one replica, then an attachment that does not see it, then one that does. A storm tries such sequences by the
 * dozen: step by step each front end is cut from some replicas (its bytes wait, and arrive late or never), the one that serves dies and comes back at once, replicas
 * die and come back. Its steps follow from the number of the fault that began it. */
#include "tests/sim/cluster/faults_internal.h"

#define STEP_MIN_NS (2 * NS_PER_MS)
#define STEP_MAX_NS (80 * NS_PER_MS)

/* Which replicas a front end does not reach in this step: most often none or one, so that somebody can go on. */
static unsigned draw_mask(struct fault_rng *g)
{
    uint64_t x = fault_draw(g, 0, 9), who = fault_draw(g, 0, SIM_REPLICAS - 1);
    return x < 4 ? 0 : x < 8 ? 1u << who : ((1u << SIM_REPLICAS) - 1) & ~(1u << who);
}

static void cut_masked(struct faults *f, struct fault_rng *g, uint64_t step_ns)
{
    for (unsigned i = 0; i < SIM_FRONTENDS; i++) {
        unsigned mask = draw_mask(g);
        bool both = fault_chance(g, 2);
        uint64_t ns = step_ns * fault_draw(g, 1, 3);
        for (unsigned k = 0; k < SIM_REPLICAS; k++) {
            if (!(mask >> k & 1))
                continue;
            faults_cut(f, SIM_REPLICAS + i, k, ns);
            if (both)
                faults_cut(f, k, SIM_REPLICAS + i, ns);
        }
    }
}

static void crash_some(struct faults *f, struct fault_rng *g)
{
    struct cluster *c = f->run->cluster;
    uint64_t outage_ns = fault_draw_log(g, NS_PER_MS / 10, 50 * NS_PER_MS), who = fault_draw(g, 0, SIM_REPLICAS - 1);
    enum sim_crash how = fault_chance(g, 2) ? SIM_POWER : SIM_KILL;
    if (fault_chance(g, 8))
        faults_crash_node(f, &c->node[who], how, outage_ns);
    if (!fault_chance(g, 2))
        return;
    struct frontend *serving = cluster_serving(c, who);
    if (serving)
        faults_crash_frontend(f, serving, how, outage_ns);
}

static void step(struct fault_action *a)
{
    struct faults *f = a->faults;
    struct fault_rng g = {a->x};
    crash_some(f, &g);
    uint64_t ns = fault_draw_log(&g, STEP_MIN_NS, STEP_MAX_NS);
    cut_masked(f, &g, ns);
    if (a->a > 1)
        fault_later(f, ns, step, a->a - 1, 0, g.state);
}

void faults_storm(struct faults *f, struct fault_rng *g)
{
    unsigned steps = (unsigned)fault_draw(g, 5, 60);
    fault_say(f, "a storm of %u steps", steps);
    fault_later(f, 0, step, steps, 0, g->state);
}
