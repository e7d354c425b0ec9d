/* A storm of take-overs: what brings logs apart.
 *
 * Independent faults seldom leave an unchosen tail on one replica, then an attachment that does not see it, then one that does. A storm tries such sequences by the
 * dozen. Most steps are random: what each front end sends to some of the replicas is late by more than a lease, the one that serves dies and comes back at once,
 * replicas die and come back. The others go, with drawn times, along the path that the wrong rules of protocol.md fear:
 *   TAIL:  the front end that serves reaches one replica alone, which gets what nobody else has;
 *   ELUDE: it dies (or lives on, reaching that replica alone), and for a while its successor goes on without that replica;
 *   MEET:  the successor dies too, and the next one reaches that replica and not all of the others;
 *   FORGET: one replica does not hear from the front end that serves until its lease there is over;
 *   RESTART: then another one restarts, and must remember that it gave a lease;
 *   RIVAL: the front end that serves reaches one replica alone;
 *   RIVAL_DIES: another one is about to take over, and dies before it did: the first has to find out what became of its writes.
 * In some storms the WALs rot, within what the atlas allows.
 * Steps follow from the number of the fault that began the storm. One storm at a time: two would only keep everybody from everything. */
#include "nbdserver/volume_internal.h"
#include "tests/sim/cluster/faults_internal.h"

#define KILL_WATCH_NS 10000u
#define RIVAL_WATCH_NS (NS_PER_MS / 2)

enum phase { PHASE_RANDOM, PHASE_TAIL, PHASE_ELUDE, PHASE_MEET, PHASE_FORGET, PHASE_RESTART, PHASE_RIVAL, PHASE_RIVAL_DIES, PHASES };

static struct sim_link *link_to(struct faults *f, unsigned frontend, unsigned replica)
{
    return sim_link(f->run->world, fault_host(f, f->run->cluster->n_nodes + frontend), fault_host(f, replica));
}

static void end_late(struct fault_action *a)
{
    link_to(a->faults, a->a, a->b)->latency_ns = sim_config(a->faults->run->world)->latency_ns;
}

static void make_late(struct faults *f, unsigned frontend, unsigned mask, uint64_t late_ns, uint64_t for_ns)
{
    for (unsigned k = 0; k < SIM_REPLICAS; k++) {
        if (!(mask >> k & 1))
            continue;
        link_to(f, frontend, k)->latency_ns = (struct sim_range){late_ns, late_ns};
        fault_later(f, for_ns, end_late, frontend, k, 0);
    }
}

static void kill_again(struct fault_action *a)
{
    struct fault_rng g = {a->x};
    faults_crash_node(a->faults, &a->faults->run->cluster->node[a->a], SIM_KILL, fault_draw_log(&g, NS_PER_MS / 10, 10 * NS_PER_MS));
}

/* Killed with a write of its WAL under way, which may land when its successor has read the WAL already, if that did not wait for the lock; and once more, so that
 * another one reads what has become of it. */
static void kill_writing(struct fault_action *a)
{
    struct faults *f = a->faults;
    struct node *n = &f->run->cluster->node[a->a];
    struct fault_rng g = {a->x};
    struct sim_disk *wal = sim_dir_find(n->dir, "wal");
    if (!n->reactor || !wal)
        return;
    if (a->b > 0 && sim_disk_count(wal, SIM_WRITE) == f->storm_writes[n->index]) {
        fault_later(f, KILL_WATCH_NS, kill_writing, a->a, a->b - 1, a->x);
        return;
    }
    sim_disk_set_late(wal, 2, 20 * NS_PER_MS);
    uint64_t outage_ns = fault_draw_log(&g, NS_PER_MS / 10, 10 * NS_PER_MS);
    faults_crash_node(f, n, SIM_KILL, outage_ns);
    fault_later(f, outage_ns + fault_draw_log(&g, NS_PER_MS, 50 * NS_PER_MS), kill_again, a->a, 0, g.state);
}

static void restart(struct faults *f, struct fault_rng *g, unsigned replica)
{
    struct sim_disk *wal = sim_dir_find(f->run->cluster->node[replica].dir, "wal");
    if (wal && fault_chance(g, 2)) {
        f->storm_writes[replica] = sim_disk_count(wal, SIM_WRITE);
        fault_later(f, KILL_WATCH_NS, kill_writing, replica, 500, g->state);
        return;
    }
    enum sim_crash how = fault_chance(g, 2) ? SIM_POWER : SIM_KILL;
    faults_crash_node(f, &f->run->cluster->node[replica], how, fault_draw_log(g, NS_PER_MS / 10, 50 * NS_PER_MS));
}

static void crash_serving(struct faults *f, struct fault_rng *g)
{
    uint64_t outage_ns = fault_draw_log(g, NS_PER_MS / 10, 50 * NS_PER_MS);
    enum sim_crash how = fault_chance(g, 2) ? SIM_POWER : SIM_KILL;
    struct frontend *serving = cluster_serving(f->run->cluster, fault_draw(g, 0, 1));
    if (serving)
        faults_crash_frontend(f, serving, how, outage_ns);
}

static unsigned but(unsigned replica)
{
    return ((1u << SIM_REPLICAS) - 1) & ~(1u << replica);
}

/* Which replicas a front end does not reach in time: most often none or one, so that somebody can go on. */
static unsigned draw_mask(struct fault_rng *g)
{
    uint64_t x = fault_draw(g, 0, 9);
    unsigned who = (unsigned)fault_draw(g, 0, SIM_REPLICAS - 1);
    return x < 4 ? 0 : x < 8 ? 1u << who : but(who);
}

static uint64_t random_step(struct faults *f, struct fault_rng *g, uint64_t most_ns)
{
    if (fault_chance(g, 8))
        restart(f, g, (unsigned)fault_draw(g, 0, SIM_REPLICAS - 1));
    if (!fault_chance(g, 3))
        crash_serving(f, g);
    for (unsigned i = 0; i < SIM_FRONTENDS; i++) {
        uint64_t late_ns = fault_draw_log(g, 2 * NS_PER_MS, most_ns);
        make_late(f, i, draw_mask(g), late_ns, fault_draw_log(g, NS_PER_MS, most_ns));
    }
    return fault_draw_log(g, 2 * NS_PER_MS, most_ns);
}

/* The one that served dies, or lives on and reaches the victim alone. */
static uint64_t elude(struct faults *f, struct fault_rng *g, unsigned victim, uint64_t most_ns)
{
    uint64_t ns = fault_draw_log(g, 40 * NS_PER_MS, most_ns);
    struct frontend *old = cluster_serving(f->run->cluster, 0);
    bool lives = fault_chance(g, 3);
    for (unsigned i = 0; i < SIM_FRONTENDS; i++)
        make_late(f, i, lives && old && old->index == i ? but(victim) : 1u << victim, most_ns, ns);
    if (!lives)
        crash_serving(f, g);
    return ns;
}

static uint64_t forget(struct faults *f, struct fault_rng *g, unsigned victim, uint64_t lease_ns)
{
    struct frontend *serving = cluster_serving(f->run->cluster, 0);
    if (!serving)
        return NS_PER_MS;
    make_late(f, serving->index, 1u << victim, 3 * lease_ns, 3 * lease_ns);
    return lease_ns + fault_draw(g, 0, lease_ns);
}

static uint64_t rival(struct faults *f, struct fault_rng *g, unsigned victim, uint64_t lease_ns)
{
    struct frontend *serving = cluster_serving(f->run->cluster, 0);
    uint64_t ns = 2 * lease_ns + fault_draw(g, 0, 50 * NS_PER_MS);
    f->rival_until_ns = sim_now(f->run->world) + ns;
    if (serving)
        make_late(f, serving->index, but(victim), ns, ns);
    return lease_ns / 2;
}

struct frontend *faults_find_rival(struct faults *f)
{
    for (unsigned i = 0; i < SIM_FRONTENDS; i++) {
        struct frontend *fe = &f->run->cluster->frontend[i];
        const struct proposer *p = fe->reactor && fe->volume ? fe->volume->group[0].proposer : NULL;
        if (p && p->state >= PROPOSER_PREPARING && p->state <= PROPOSER_STARTING)
            return fe;
    }
    return NULL;
}

/* Returns how long the step lasts. */
static uint64_t take_step(struct faults *f, struct fault_rng *g, enum phase phase, unsigned victim)
{
    uint64_t lease_ns = f->run->cluster->config.lease_ms * NS_PER_MS, most_ns = 2 * lease_ns + 60 * NS_PER_MS, ns;
    unsigned other = (victim + (unsigned)fault_draw(g, 1, SIM_REPLICAS - 1)) % SIM_REPLICAS;
    switch (phase) {
    case PHASE_TAIL:
        ns = fault_draw_log(g, 4 * NS_PER_MS, 64 * NS_PER_MS);
        for (unsigned i = 0; i < SIM_FRONTENDS; i++)
            make_late(f, i, but(victim), most_ns, ns);
        return ns;
    case PHASE_ELUDE:
        return elude(f, g, victim, most_ns);
    case PHASE_MEET:
        if (fault_chance(g, 3))
            restart(f, g, victim);
        crash_serving(f, g);
        ns = fault_draw_log(g, 40 * NS_PER_MS, most_ns);
        for (unsigned i = 0; i < SIM_FRONTENDS; i++)
            make_late(f, i, 1u << other, most_ns, ns);
        return ns;
    case PHASE_FORGET:
        return forget(f, g, victim, lease_ns);
    case PHASE_RESTART:
        restart(f, g, other);
        return lease_ns;
    case PHASE_RIVAL:
        return rival(f, g, victim, lease_ns);
    case PHASE_RIVAL_DIES:
        if (faults_find_rival(f))
            faults_crash_frontend(f, faults_find_rival(f), fault_chance(g, 2) ? SIM_POWER : SIM_KILL, 5 * lease_ns);
        return 3 * lease_ns;
    default:
        return random_step(f, g, most_ns);
    }
}

static enum phase next_phase(struct fault_rng *g, enum phase phase)
{
    if (phase == PHASE_TAIL || phase == PHASE_ELUDE || phase == PHASE_FORGET || phase == PHASE_RIVAL)
        return phase + 1;
    uint64_t x = fault_draw(g, 0, 9);
    return x < 4 ? PHASE_TAIL : x < 5 ? PHASE_FORGET : x < 8 ? PHASE_RIVAL : PHASE_RANDOM;
}

static void step(struct fault_action *a)
{
    struct faults *f = a->faults;
    struct fault_rng g = {a->x};
    enum phase phase = a->b % PHASES;
    unsigned victim = a->b / PHASES;
    if (phase == PHASE_RIVAL_DIES && !faults_find_rival(f) && sim_now(f->run->world) < f->rival_until_ns) {
        fault_later(f, fault_draw(&g, 1, RIVAL_WATCH_NS), step, a->a, a->b, g.state);
        return;
    }
    if (f->storm_rots)
        for (uint64_t n = fault_draw(&g, 0, 4); n > 0; n--)
            faults_disk_apply(f, FAULT_FLIP_WAL, &g);
    uint64_t ns = take_step(f, &g, phase, victim);
    phase = next_phase(&g, phase);
    if (phase == PHASE_TAIL || phase == PHASE_FORGET || phase == PHASE_RIVAL)
        victim = (unsigned)fault_draw(&g, 0, SIM_REPLICAS - 1);
    if (a->a > 1)
        fault_later(f, ns, step, a->a - 1, victim * PHASES + phase, g.state);
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
    f->storm_rots = fault_chance(g, 4);
    fault_later(f, 0, step, steps, PHASE_RANDOM, g->state);
    return true;
}
