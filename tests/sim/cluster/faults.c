/* The schedule of faults, and what goes wrong with processes.
 *
 * A seed weighs the kinds: many are off, some come often. Then faults come at drawn times until the run's fault time is over. Fault number i is drawn from a stream
 * made of the seed and i alone: what it is, whom it concerns, for how long, and when it comes after number i - 1. So any of them can be left out
 * (run_options.skip) and the others stay what they are. */
#include "tests/sim/cluster/faults.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/sim/cluster/members.h"

/* Two clocks that differ by less than this hold a lease's promise: the holder counts 63/64 of it (P8), and (1 + x) / (1 - x) <= 64/63 for x <= 1/127. */
#define DRIFT_MAX_PPM 7800

static const char *const names[FAULT_KINDS] = {
    [FAULT_KILL] = "kill",
    [FAULT_POWER] = "power cut",
    [FAULT_ALL_POWER] = "power cut of all",
    [FAULT_CRASH_AT_IO] = "crash at an I/O",
    [FAULT_CRASH_IN_RECOVERY] = "crash in recovery",
    [FAULT_CRASH_IN_CHECKPOINT] = "crash in a checkpoint",
    [FAULT_PAUSE_REPLICA] = "pause of a replica",
    [FAULT_DRIFT] = "clock drift",
    [FAULT_FRONTEND_KILL] = "front end killed",
    [FAULT_FRONTEND_POWER] = "front end's power cut",
    [FAULT_FRONTEND_RACE] = "front ends race",
    [FAULT_PAUSE_FRONTEND] = "pause of a front end",
    [FAULT_STORM] = "storm of take-overs",
    [FAULT_CUT] = "cut",
    [FAULT_ONE_WAY] = "one-way cut",
    [FAULT_ISOLATED_HOST] = "isolated host",
    [FAULT_ISOLATED_PAIR] = "isolated pair",
    [FAULT_RESET] = "reset",
    [FAULT_RESET_AT_BYTE] = "reset at a byte",
    [FAULT_OLD_CONNECTION] = "old connection speaks late",
    [FAULT_DELAY_TAIL] = "heavy-tailed delay",
    [FAULT_SLOW_LINK] = "slow link",
    [FAULT_SLOW_DISK] = "slow disk",
    [FAULT_STUCK_DISK] = "stuck disk",
    [FAULT_FULL_DISK] = "full disk",
    [FAULT_WRITE_ERROR] = "write error",
    [FAULT_FLUSH_ERROR] = "flush error",
    [FAULT_READ_ERROR] = "read error",
    [FAULT_LATENT_WAL] = "latent error in the WAL",
    [FAULT_LATENT_DATA] = "latent error in data",
    [FAULT_LATENT_LEAF] = "latent error in a leaf",
    [FAULT_FLIP_WAL] = "flip in the WAL",
    [FAULT_FLIP_SUPERBLOCK] = "flip in the superblock",
    [FAULT_FLIP_META] = "flip in meta",
    [FAULT_FLIP_LEAF] = "flip in a leaf",
    [FAULT_FLIP_DATA] = "flip in data",
    [FAULT_MISDIRECTED_WAL] = "misdirected WAL write",
    [FAULT_MISDIRECTED_DATA] = "misdirected write",
    [FAULT_DISK_LOST] = "disk lost",
    [FAULT_RESTART_AFTER_ERROR] = "restart after an error",
    [FAULT_REFUSED_START] = "refused start",
    [FAULT_ROT_STORM] = "storm of rot",
    [FAULT_STALE_STREAM] = "stale stream beside a catch-up",
    [FAULT_LATE_ANSWERS] = "answers of another ballot",
    [FAULT_REPAIR_STORM] = "storm of repairs",
    [FAULT_TORN_LOG] = "torn log, time after time",
    [FAULT_TAILS] = "stream to a tail that was not heard",
};

const char *fault_name(unsigned kind)
{
    return kind < FAULT_KINDS ? names[kind] : "?";
}

/* ---- drawing ---- */

static uint64_t mix(uint64_t x)
{
    x += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

struct fault_rng fault_stream(const struct faults *f, uint64_t index)
{
    return (struct fault_rng){mix(f->seed) ^ mix(index + UINT64_C(0x5fa17))};
}

uint64_t fault_draw(struct fault_rng *g, uint64_t min, uint64_t max)
{
    assert(min <= max && max - min < UINT64_MAX);
    g->state += UINT64_C(0x9e3779b97f4a7c15);
    return min + mix(g->state) % (max - min + 1);
}

bool fault_chance(struct fault_rng *g, uint32_t one_in)
{
    return fault_draw(g, 1, one_in) == 1;
}

uint64_t fault_draw_log(struct fault_rng *g, uint64_t min, uint64_t max)
{
    assert(min >= 1);
    unsigned octaves = 0;
    while (min << octaves < max)
        octaves++;
    uint64_t low = min << fault_draw(g, 0, octaves ? octaves - 1 : 0);
    return fault_draw(g, low, 2 * low < max ? 2 * low : max);
}

uint64_t fault_outage(struct fault_rng *g)
{
    uint64_t x = fault_draw(g, 0, 19);
    return x < 8 ? fault_draw(g, 0, 20 * NS_PER_MS) : x < 15 ? fault_draw(g, 0, 500 * NS_PER_MS) : fault_draw(g, 0, x < 19 ? 4 * NS_PER_S : 30 * NS_PER_S);
}

struct faults *faults_of(struct trial *r)
{
    return r->faults;
}

void fault_count(struct faults *f, enum fault kind)
{
    f->count[kind]++;
}

void fault_say(struct faults *f, const char *fmt, ...)
{
    if (!f->run->options->say_faults)
        return;
    va_list ap;
    va_start(ap, fmt);
    printf("%12.6f fault %u: ", (double)sim_now(f->run->world) / 1e9, f->next);
    vprintf(fmt, ap);
    printf("\n");
    va_end(ap);
}

void fault_tell(struct trial *r, const char *fmt, ...)
{
    if (!r->options->say_faults && !r->options->trace)
        return;
    va_list ap;
    va_start(ap, fmt);
    printf("%12.6f ", (double)sim_now(r->world) / 1e9);
    vprintf(fmt, ap);
    printf("\n");
    va_end(ap);
}

static void run_action(void *user)
{
    struct fault_action *a = user;
    if ((a->surely || !a->faults->run->faults_over) && !a->faults->run->cluster->broken)
        a->fn(a);
}

static void schedule(struct faults *f, uint64_t ns, struct fault_action action)
{
    struct fault_action *act = calloc(1, sizeof *act);
    assert(act);
    *act = action;
    list_push_back(&f->actions, &act->link);
    sim_at(f->run->world, sim_now(f->run->world) + ns, run_action, act);
}

void fault_later(struct faults *f, uint64_t ns, void (*fn)(struct fault_action *a), unsigned a, unsigned b, uint64_t x)
{
    schedule(f, ns, (struct fault_action){.faults = f, .fn = fn, .a = a, .b = b, .x = x});
}

void fault_surely(struct faults *f, uint64_t ns, void (*fn)(struct fault_action *a), unsigned a, unsigned b, uint64_t x)
{
    schedule(f, ns, (struct fault_action){.faults = f, .fn = fn, .a = a, .b = b, .x = x, .surely = true});
}

const char *fault_host(struct faults *f, unsigned i)
{
    struct cluster *c = f->run->cluster;
    return i < c->n_nodes ? c->node[i].host : c->frontend[i - c->n_nodes].host;
}

/* ---- processes ---- */

static void start_node(struct node *n)
{
    if (!n->reactor && !n->refused && !n->absent && !n->cluster->broken)
        cluster_start_node(n);
}

static void start_frontend(struct frontend *f)
{
    if (!f->reactor && !f->cluster->broken)
        cluster_start_frontend(f);
}

static void resume_node(struct node *n)
{
    if (n->reactor && n->paused)
        sim_resume(n->reactor);
    n->paused = false;
}

static void resume_frontend(struct frontend *f)
{
    if (f->reactor && f->paused)
        sim_resume(f->reactor);
    f->paused = false;
}

void fault_restart_node(struct fault_action *a)
{
    start_node(&a->faults->run->cluster->node[a->a]);
}

static void on_restart_frontend(struct fault_action *a)
{
    start_frontend(&a->faults->run->cluster->frontend[a->a]);
}

static void on_resume(struct fault_action *a)
{
    struct cluster *c = a->faults->run->cluster;
    if (a->a < c->n_nodes)
        resume_node(&c->node[a->a]);
    else
        resume_frontend(&c->frontend[a->a - c->n_nodes]);
}

bool faults_crash_node(struct faults *f, struct node *n, enum sim_crash how, uint64_t outage_ns)
{
    if (!n->reactor || n->formatting)
        return false;
    cluster_crash_node(n, how);
    fault_later(f, outage_ns, fault_restart_node, n->index, 0, 0);
    return true;
}

static bool crash_node(struct faults *f, struct fault_rng *g, enum sim_crash how)
{
    struct node *n = &f->run->cluster->node[fault_draw(g, 0, f->run->cluster->n_nodes - 1)];
    uint64_t ns = fault_outage(g);
    fault_say(f, "%s %s, back in %.3f s", n->host, how == SIM_POWER ? "loses power" : "is killed", (double)ns / 1e9);
    return faults_crash_node(f, n, how, ns);
}

static bool crash_all(struct faults *f, struct fault_rng *g)
{
    bool any = false;
    fault_say(f, "all replicas lose power");
    for (unsigned i = 0; i < f->run->cluster->n_nodes; i++)
        any |= faults_crash_node(f, &f->run->cluster->node[i], SIM_POWER, fault_outage(g));
    return any;
}

bool faults_crash_frontend(struct faults *f, struct frontend *fe, enum sim_crash how, uint64_t outage_ns)
{
    if (!fe->reactor)
        return false;
    cluster_crash_frontend(fe, how);
    if (fe->index < SIM_FRONTENDS) /* a tool's session is no service */
        fault_later(f, outage_ns, on_restart_frontend, fe->index, 0, 0);
    return true;
}

static bool crash_any_frontend(struct faults *f, struct fault_rng *g, enum sim_crash how)
{
    struct frontend *fe = &f->run->cluster->frontend[fault_draw(g, 0, SIM_FRONTENDS - 1)];
    uint64_t ns = fault_outage(g);
    fault_say(f, "%s %s, back in %.3f s", fe->host, how == SIM_POWER ? "loses power" : "is killed", (double)ns / 1e9);
    return faults_crash_frontend(f, fe, how, ns);
}

static bool race(struct faults *f, struct fault_rng *g)
{
    uint64_t ns = fault_outage(g);
    bool any = false;
    fault_say(f, "all front ends are killed, back together in %.3f s", (double)ns / 1e9);
    for (unsigned i = 0; i < SIM_FRONTENDS; i++)
        any |= faults_crash_frontend(f, &f->run->cluster->frontend[i], SIM_KILL, ns + fault_draw(g, 0, NS_PER_MS));
    return any;
}

static bool pause_host(struct faults *f, struct fault_rng *g, unsigned first, unsigned n)
{
    struct cluster *c = f->run->cluster;
    unsigned i = first + (unsigned)fault_draw(g, 0, n - 1);
    uint64_t ns = fault_outage(g);
    struct sim_reactor *r = i < c->n_nodes ? c->node[i].reactor : c->frontend[i - c->n_nodes].reactor;
    bool *paused = i < c->n_nodes ? &c->node[i].paused : &c->frontend[i - c->n_nodes].paused;
    fault_say(f, "%s is paused for %.3f s", fault_host(f, i), (double)ns / 1e9);
    if (!r || *paused)
        return false;
    *paused = true;
    c->count.pauses++;
    sim_pause(r);
    fault_later(f, ns, on_resume, i, 0, 0);
    return true;
}

/* To the bound, or anywhere within it; it lasts. */
static bool drift(struct faults *f, struct fault_rng *g)
{
    struct cluster *c = f->run->cluster;
    unsigned i = (unsigned)fault_draw(g, 0, f->n_hosts - 1);
    uint64_t ppm = fault_chance(g, 2) ? DRIFT_MAX_PPM : fault_draw(g, 0, DRIFT_MAX_PPM);
    int32_t signed_ppm = fault_chance(g, 2) ? -(int32_t)ppm : (int32_t)ppm;
    struct sim_reactor *r = i < c->n_nodes ? c->node[i].reactor : c->frontend[i - c->n_nodes].reactor;
    fault_say(f, "the clock of %s drifts by %d ppm", fault_host(f, i), signed_ppm);
    if (!r)
        return false;
    sim_set_drift(r, signed_ppm);
    return true;
}

/* ---- the schedule ---- */

static bool apply_to_process(struct faults *f, enum fault kind, struct fault_rng *g)
{
    switch (kind) {
    case FAULT_KILL:
        return crash_node(f, g, SIM_KILL);
    case FAULT_POWER:
        return crash_node(f, g, SIM_POWER);
    case FAULT_ALL_POWER:
        return crash_all(f, g);
    case FAULT_PAUSE_REPLICA:
        return pause_host(f, g, 0, f->run->cluster->n_nodes);
    case FAULT_PAUSE_FRONTEND:
        return pause_host(f, g, f->run->cluster->n_nodes, SIM_FRONTENDS);
    case FAULT_DRIFT:
        return drift(f, g);
    case FAULT_FRONTEND_KILL:
        return crash_any_frontend(f, g, SIM_KILL);
    case FAULT_FRONTEND_POWER:
        return crash_any_frontend(f, g, SIM_POWER);
    case FAULT_FRONTEND_RACE:
        return race(f, g);
    case FAULT_STORM:
        return faults_storm(f, g);
    case FAULT_ROT_STORM:
    case FAULT_STALE_STREAM:
    case FAULT_LATE_ANSWERS:
    case FAULT_REPAIR_STORM:
    case FAULT_TORN_LOG:
    case FAULT_TAILS:
        return faults_scene(f, kind, g);
    default:
        return false;
    }
}

static enum fault choose(const struct faults *f, struct fault_rng *g)
{
    uint64_t x = fault_draw(g, 0, f->total - 1);
    for (unsigned k = 0; k < FAULT_KINDS; k++) {
        if (x < f->weight[k])
            return k;
        x -= f->weight[k];
    }
    assert(!"the weights' sum is their total");
    return FAULT_KINDS;
}

static bool is_skipped(const struct run_options *o, uint32_t i)
{
    return o->skip && i < o->n_skip && o->skip[i / 8] >> (i % 8) & 1;
}

static void plan(struct faults *f);

static void fault_event(void *user)
{
    struct faults *f = user;
    struct trial *r = f->run;
    if (r->faults_over || r->cluster->broken)
        return;
    struct fault_rng g = fault_stream(f, f->next);
    fault_draw(&g, f->gap_ns.min, f->gap_ns.max); /* plan() drew it */
    enum fault kind = choose(f, &g);
    if (!is_skipped(r->options, f->next)) {
        sim_fold(r->world, (uint64_t)kind << 32 | f->next);
        if (!faults_net_apply(f, kind, &g) && !faults_disk_apply(f, kind, &g) && apply_to_process(f, kind, &g))
            fault_count(f, kind);
    }
    f->next++;
    plan(f);
}

static void plan(struct faults *f)
{
    struct fault_rng g = fault_stream(f, f->next);
    uint64_t gap = fault_draw(&g, f->gap_ns.min, f->gap_ns.max);
    sim_at(f->run->world, sim_now(f->run->world) + gap, fault_event, f);
}

/* What cannot be scheduled: it follows from other faults. */
static bool is_drawn(unsigned kind)
{
    return kind != FAULT_RESTART_AFTER_ERROR && kind != FAULT_REFUSED_START;
}

/* A full disk is noticed where stores must grow: the volume is larger than what they begin with. Without the kinds of damage that cost slabs at once: their replacement is what a reserve is kept for, which is none of so small a store. */
static void make_room_scarce(struct faults *f, struct fault_rng *g)
{
    static const enum fault costly[] = {FAULT_LATENT_DATA, FAULT_LATENT_LEAF, FAULT_FLIP_LEAF, FAULT_FLIP_DATA, FAULT_MISDIRECTED_DATA, FAULT_WRITE_ERROR, FAULT_READ_ERROR};
    if (f->weight[FAULT_FULL_DISK] == 0 || f->run->scale.large || fault_chance(g, 3))
        return;
    for (unsigned i = 0; i < ARRAY_LEN(costly); i++) {
        f->total -= f->weight[costly[i]];
        f->weight[costly[i]] = 0;
    }
    f->weight[FAULT_FULL_DISK] += 50;
    f->total += 50;
    f->run->scale.sizes.extent_bytes = 8 * SIM_MIB; /* smaller ones would hold less in reserve than a single entry may need */
    f->run->scale.sizes.volume_bytes = fault_draw(g, 10, 20) * SIM_MIB;
    f->run->scale.scattered = true;
    if (f->run->scale.requests < 600)
        f->run->scale.requests = 600;
}

static void draw_weights(struct faults *f)
{
    struct fault_rng g = fault_stream(f, UINT64_MAX);
    uint64_t on_of_ten = fault_draw(&g, 1, 8);
    bool storm = fault_chance(&g, 4) || f->run->options->storms; /* and nothing else */
    for (unsigned k = 0; k < FAULT_ROT_STORM; k++) { /* from there on they are of themes */
        uint64_t on = fault_draw(&g, 0, 9), extreme = fault_draw(&g, 0, 9);
        uint64_t weight = extreme == 0 ? fault_draw(&g, 20, 100) : fault_draw(&g, 1, 10);
        f->weight[k] = on < on_of_ten && is_drawn(k) ? (uint32_t)weight : 0;
        if (storm)
            f->weight[k] = k == FAULT_STORM;
        f->total += f->weight[k];
    }
    if (storm) { /* many attachments, each with writes under way when it ends */
        f->run->scale.sizes.lease_ms = (uint32_t)fault_draw(&g, 20, 80);
        f->run->scale.requests *= 4;
    }
    make_room_scarce(f, &g);
    uint64_t mean = fault_draw_log(&g, 5 * NS_PER_MS, NS_PER_S);
    f->gap_ns = (struct sim_range){mean / 10, 2 * mean};
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
    struct faults *f = calloc(1, sizeof *f);
    assert(f);
    r->faults = f;
    f->run = r;
    f->seed = r->options->seed;
    list_init(&f->actions);
    draw_timing(r);
    draw_weights(f);
    faults_draw_theme(f);
    members_draw(f);
}

void faults_start(struct trial *r)
{
    struct fault_rng g = fault_stream(r->faults, UINT64_MAX - 1);
    r->faults->n_hosts = r->cluster->n_nodes + SIM_FRONTENDS + r->scale.sizes.spares;
    faults_disk_start(r->faults, &g);
    r->may_be_unreadable = r->options->beyond;
    if (r->faults->total > 0)
        plan(r->faults);
    members_start(r);
}

void faults_stop(struct trial *r)
{
    struct cluster *c = r->cluster;
    r->faults_over = true;
    fault_say(r->faults, "the faults are over");
    faults_net_stop(r->faults);
    faults_disk_stop(r->faults);
    members_stop(r);
    for (unsigned i = 0; i < c->n_nodes; i++) {
        resume_node(&c->node[i]);
        start_node(&c->node[i]);
    }
    for (unsigned i = 0; i < SIM_FRONTENDS; i++) {
        resume_frontend(&c->frontend[i]);
        start_frontend(&c->frontend[i]);
    }
}

void faults_fill_result(const struct trial *r, struct run_result *ret)
{
    static_assert(sizeof ret->faults == sizeof r->faults->count, "one count for each kind");
    memcpy(ret->faults, r->faults->count, sizeof ret->faults);
    ret->n_planned = r->faults->next;
}

void faults_free(struct trial *r)
{
    members_free(r);
    for (struct list *l; (l = list_pop_front(&r->faults->actions));)
        free(container_of(l, struct fault_action, link));
    free(r->faults->disk);
    free(r->faults);
    r->faults = NULL;
}
