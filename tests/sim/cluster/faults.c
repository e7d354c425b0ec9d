/* Faults: a seed weighs them, then they come at drawn times until the run's fault time is over. */
#include <stdlib.h>

#include "tests/sim/cluster/trial.h"

static void fault_event(void *user);

static void plan_fault(struct trial *r)
{
    sim_at(r->world, sim_now(r->world) + sim_draw(r->world, r->weights.gap_ns), fault_event, r);
}

static void restart_node(void *user)
{
    struct node *n = user;
    if (!n->reactor && !n->cluster->broken)
        cluster_start_node(n);
}

static void restart_frontend(void *user)
{
    struct frontend *f = user;
    if (!f->reactor && !f->cluster->broken)
        cluster_start_frontend(f);
}

static void resume_node(void *user)
{
    struct node *n = user;
    if (n->reactor && n->paused)
        sim_resume(n->reactor);
    n->paused = false;
}

static void resume_frontend(void *user)
{
    struct frontend *f = user;
    if (f->reactor && f->paused)
        sim_resume(f->reactor);
    f->paused = false;
}

static uint64_t outage(struct trial *r)
{
    uint64_t x = draw(r, 0, 9);
    return x < 4 ? draw(r, 0, 20 * NS_PER_MS) : x < 8 ? draw(r, 0, NS_PER_S) : draw(r, 0, 10 * NS_PER_S);
}

static void crash_node(struct trial *r, struct node *n, enum sim_crash how)
{
    if (!n->reactor)
        return;
    cluster_crash_node(n, how);
    sim_at(r->world, sim_now(r->world) + outage(r), restart_node, n);
}

static const char *any_host(struct trial *r)
{
    uint64_t i = draw(r, 0, SIM_REPLICAS + SIM_FRONTENDS - 1);
    return i < SIM_REPLICAS ? r->cluster->node[i].host : r->cluster->frontend[i - SIM_REPLICAS].host;
}

struct healing {
    struct trial *run;
    const char *a, *b;
};

static void heal(void *user)
{
    struct healing *h = user;
    sim_heal(h->run->world, h->a, h->b);
    free(h);
}

static void cut(struct trial *r, bool one_way)
{
    const char *a = any_host(r), *b = any_host(r);
    if (a == b)
        return;
    r->cluster->count.cuts++;
    if (one_way)
        sim_cut_one_way(r->world, a, b);
    else
        sim_cut(r->world, a, b);
    struct healing *h = malloc(sizeof *h);
    *h = (struct healing){r, a, b};
    sim_at(r->world, sim_now(r->world) + outage(r), heal, h);
}

static void fault_event(void *user)
{
    struct trial *r = user;
    struct cluster *c = r->cluster;
    const struct weights *w = &r->weights;
    if (r->faults_over || c->broken)
        return;
    struct node *n = &c->node[draw(r, 0, SIM_REPLICAS - 1)];
    struct frontend *f = &c->frontend[draw(r, 0, SIM_FRONTENDS - 1)];
    uint32_t x = (uint32_t)draw(r, 0, w->total - 1);
#define CHOSEN(weight) (x < (weight) || (x -= (weight), false))
    if (CHOSEN(w->kill)) {
        crash_node(r, n, SIM_KILL);
    } else if (CHOSEN(w->power)) {
        crash_node(r, n, SIM_POWER);
    } else if (CHOSEN(w->all_power)) {
        for (unsigned i = 0; i < SIM_REPLICAS; i++)
            crash_node(r, &c->node[i], SIM_POWER);
    } else if (CHOSEN(w->frontend_kill)) {
        if (f->reactor) {
            cluster_crash_frontend(f);
            sim_at(r->world, sim_now(r->world) + outage(r), restart_frontend, f);
        }
    } else if (CHOSEN(w->pause_node)) {
        if (n->reactor && !n->paused) {
            n->paused = true;
            c->count.pauses++;
            sim_pause(n->reactor);
            sim_at(r->world, sim_now(r->world) + outage(r), resume_node, n);
        }
    } else if (CHOSEN(w->pause_frontend)) {
        if (f->reactor && !f->paused) {
            f->paused = true;
            c->count.pauses++;
            sim_pause(f->reactor);
            sim_at(r->world, sim_now(r->world) + outage(r), resume_frontend, f);
        }
    } else if (CHOSEN(w->cut)) {
        cut(r, false);
    } else if (CHOSEN(w->one_way)) {
        cut(r, true);
    } else if (CHOSEN(w->reset)) {
        const char *a = any_host(r), *b = any_host(r);
        if (a != b) {
            c->count.resets++;
            sim_reset(r->world, a, b);
        }
    }
#undef CHOSEN
    plan_fault(r);
}

static uint32_t weight(struct trial *r)
{
    uint64_t x = draw(r, 0, 9);
    return x < 5 ? 0 : x < 9 ? (uint32_t)draw(r, 1, 10) : (uint32_t)draw(r, 20, 100);
}

static void draw_weights(struct trial *r)
{
    struct weights *w = &r->weights;
    uint32_t *all[] = {&w->kill,           &w->power, &w->all_power, &w->frontend_kill, &w->pause_node,
                       &w->pause_frontend, &w->cut,   &w->one_way,   &w->reset};
    for (unsigned i = 0; i < ARRAY_LEN(all); i++) {
        *all[i] = weight(r);
        w->total += *all[i];
    }
    if (w->total == 0)
        w->total = 1; /* a run without faults */
    uint64_t mean = draw(r, 0, 3) == 0 ? 20 * NS_PER_MS : draw(r, 50, 2000) * NS_PER_MS;
    w->gap_ns = (struct sim_range){mean / 10, 2 * mean};
}

static void draw_timing(struct trial *r)
{
    struct sim_config *cfg = sim_config(r->world);
    uint64_t slow = draw(r, 0, 4) == 0 ? 20 : 1;
    cfg->write_ns = (struct sim_range){20000, 150000 * slow};
    cfg->durable_ns = (struct sim_range){20000, 200000 * slow};
    cfg->latency_ns = (struct sim_range){5000, 100000 * slow};
}

void faults_draw(struct trial *r)
{
    draw_timing(r);
    draw_weights(r);
}

void faults_start(struct trial *r)
{
    plan_fault(r);
}

void faults_stop(struct trial *r)
{
    struct cluster *c = r->cluster;
    r->faults_over = true;
    const char *hosts[SIM_REPLICAS + SIM_FRONTENDS];
    for (unsigned i = 0; i < SIM_REPLICAS; i++)
        hosts[i] = c->node[i].host;
    for (unsigned i = 0; i < SIM_FRONTENDS; i++)
        hosts[SIM_REPLICAS + i] = c->frontend[i].host;
    for (unsigned a = 0; a < ARRAY_LEN(hosts); a++)
        for (unsigned b = a + 1; b < ARRAY_LEN(hosts); b++)
            sim_heal(r->world, hosts[a], hosts[b]);
    for (unsigned i = 0; i < SIM_REPLICAS; i++) {
        resume_node(&c->node[i]);
        restart_node(&c->node[i]);
    }
    for (unsigned i = 0; i < SIM_FRONTENDS; i++) {
        resume_frontend(&c->frontend[i]);
        restart_frontend(&c->frontend[i]);
    }
}
