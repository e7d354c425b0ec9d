/* The course of one run: set up, faults and requests, then everything must complete, and the checkers judge. */
#include "tests/sim/cluster/run.h"

#include <stdio.h>

#include "base/log.h"
#include "tests/sim/cluster/members.h"

#define LIVENESS_NS (120 * NS_PER_S)
#define BEYOND_NS (20 * NS_PER_S)

static bool is_broken(void *user)
{
    struct trial *r = user;
    trace_look(r->trace);
    return r->cluster->broken != NULL;
}

static bool all_idle(void *user)
{
    struct trial *r = user;
    trace_look(r->trace);
    return r->cluster->broken || workload_is_idle(r);
}

static bool voters_are_changed(void *user)
{
    struct trial *r = user;
    trace_look(r->trace);
    return r->cluster->broken || members_are_idle(r);
}

static bool all_read(void *user)
{
    struct trial *r = user;
    trace_look(r->trace);
    return r->cluster->broken || workload_all_read(r);
}

static bool is_level(void *user)
{
    struct trial *r = user;
    trace_look(r->trace);
    return r->cluster->broken || cluster_is_level(r->cluster);
}

/* What was answered must be right, whatever else happened. */
static void judge_history(struct trial *r)
{
    struct cluster *c = r->cluster;
    checks_audit(r->checks);
    const char *wrong = c->broken ? NULL : history_check(r->history);
    if (wrong)
        cluster_fail(c, "not linearizable: %s", wrong);
}

static void judge_liveness(struct trial *r)
{
    struct cluster *c = r->cluster;
    char how[300];
    if (!sim_run_until(r->world, all_idle, r, LIVENESS_NS)) {
        cluster_describe(c, how, sizeof how);
        cluster_fail(c, "liveness: a request was not answered %llu s after the last fault: %s", (unsigned long long)(LIVENESS_NS / NS_PER_S), how);
        return;
    }
    if (!sim_run_until(r->world, voters_are_changed, r, LIVENESS_NS)) {
        cluster_describe(c, how, sizeof how);
        cluster_fail(c, "liveness: the voters are not changed %llu s after the last fault: %s %s", (unsigned long long)(LIVENESS_NS / NS_PER_S), members_describe(r), how);
        return;
    }
    workload_read_all(r);
    if (!sim_run_until(r->world, all_read, r, LIVENESS_NS)) {
        cluster_describe(c, how, sizeof how);
        cluster_fail(c, "liveness: the volume can't be read %llu s after the last fault: %s", (unsigned long long)(LIVENESS_NS / NS_PER_S), how);
        return;
    }
    if (c->broken)
        return;
    if (!sim_run_until(r->world, is_level, r, LIVENESS_NS)) {
        cluster_describe(c, how, sizeof how);
        cluster_fail(c, "liveness: the replicas are not level %llu s after the last fault: %s", (unsigned long long)(LIVENESS_NS / NS_PER_S), how);
        return;
    }
    const char *wrong = c->broken ? NULL : cluster_compare_replicas(c);
    if (wrong)
        cluster_fail(c, "replicas differ: %s", wrong);
    checks_audit(r->checks);
    wrong = c->broken ? NULL : alter_and_scrub(r);
    if (wrong)
        cluster_fail(c, "scrub: %s", wrong);
}

/* Nothing need be answered; what is, must be right. */
static void try_to_read_all(struct trial *r)
{
    sim_run_until(r->world, all_idle, r, BEYOND_NS);
    workload_read_all(r);
    sim_run_until(r->world, all_read, r, BEYOND_NS);
}

static void finish(struct trial *r)
{
    faults_stop(r);
    if (r->options->beyond)
        try_to_read_all(r);
    else
        judge_liveness(r);
    if (r->cluster->broken && !cluster_can_recover(r->cluster) && strncmp(r->cluster->broken, "liveness:", 9) == 0) {
        /* Damage at more than a minority, or what the last complete one had is lost: nobody can help. */
        r->cluster->broken = NULL;
        r->unavailable = true;
    }
    judge_history(r);
}

/* ---- the run ---- */

static struct sim_world *logging;

static void print_log(void *user, enum log_level level, const char *text)
{
    const bool *on = user;
    if (*on)
        printf("%12.6f log %d: %s\n", (double)sim_now(logging) / 1e9, (int)level, text);
}

static void on_session_ended(void *user, uint32_t session)
{
    workload_session_ended(user, session);
}

static void on_session(void *user, uint32_t session, const struct ballot *ballot)
{
    struct trial *r = user;
    history_session(r->history, sim_now(r->world), session, ballot);
}

static void fill_result(struct trial *r, struct run_result *ret)
{
    struct cluster *c = r->cluster;
    ret->hash = sim_hash(r->world);
    ret->simulated_ns = sim_now(r->world);
    ret->writes = history_writes(r->history);
    ret->reads = history_reads(r->history);
    ret->lost_requests = r->lost;
    ret->kills = c->count.kills;
    ret->power_cuts = c->count.power_cuts;
    ret->restarts = c->count.restarts;
    ret->frontend_kills = c->count.frontend_kills;
    ret->fenced = c->count.fenced;
    ret->attached = c->count.attached;
    ret->pauses = c->count.pauses;
    ret->cuts = c->count.cuts;
    ret->resets = c->count.resets;
    ret->longest_wait_ns = r->longest_wait_ns;
    ret->unavailable = r->unavailable;
    faults_fill_result(r, ret);
    if (c->broken) {
        ret->failed = true;
        strncpy(ret->why, c->broken, sizeof ret->why - 1);
    }
}

/* What bounds sizes from below: an entry is at most an eighth of the WAL with its descriptor, and what two front ends have in flight must
 * fit beside its reserves, or a full WAL would hold back the messages that announce commits. */
static void draw_small(struct trial *r, struct scale *s)
{
    struct cluster_sizes *z = &s->sizes;
    z->volume_bytes = draw(r, 1, 2) * SIM_MIB;
    z->wal_bytes = draw(r, 0, 7) == 0 ? 8 * SIM_MIB : SIM_MIB << draw(r, 1, 2);
    z->extent_bytes = 8 * SIM_MIB << draw(r, 0, 1); /* a rotten leaf loses its 32 slabs, which only the reserve can replace at once */
    z->overlay_bytes = 128 * SIM_KIB << draw(r, 0, 4);
    z->leaf_cache_bytes = 64 * SIM_KIB << draw(r, 0, 3);
    z->checkpoint_idle_ns = draw(r, 100, 2000) * NS_PER_MS;
    z->retain_bytes = 64 * SIM_KIB << draw(r, 0, 5);
    z->inflight_bytes = z->wal_bytes >> draw(r, 2, 4);
    s->request_max_bytes = (uint32_t)(z->wal_bytes / 32);
    s->requests = (uint32_t)draw(r, 50, 600);
    s->fault_ns = draw(r, 500, 5000) * NS_PER_MS;
}

static void draw_large(struct trial *r, struct scale *s)
{
    struct cluster_sizes *z = &s->sizes;
    s->large = true;
    z->volume_bytes = 8 * SIM_MIB;
    z->wal_bytes = draw(r, 0, 3) == 0 ? 128 * SIM_MIB : 24 * SIM_MIB; /* in a short one logs do not reach back far */
    z->extent_bytes = 16 * SIM_MIB;
    z->overlay_bytes = 4 * SIM_MIB;
    z->leaf_cache_bytes = SIM_MIB;
    z->checkpoint_idle_ns = 3 * NS_PER_S;
    z->retain_bytes = 4 * SIM_MIB;
    s->request_max_bytes = (uint32_t)SIM_MIB;
    s->requests = (uint32_t)draw(r, 500, 10000);
    s->fault_ns = draw(r, 1, 20) * NS_PER_S;
}

static void draw_scale(struct trial *r)
{
    if (draw(r, 0, 99) < 3)
        draw_large(r, &r->scale);
    else
        draw_small(r, &r->scale);
}

void run_seed(const struct run_options *o, struct run_result *ret)
{
    memset(ret, 0, sizeof *ret);
    struct trial r = {.world = sim_world_new(o->seed), .options = o};
    logging = r.world;
    static bool log_on;
    log_on = o->log;
    log_set_sink(print_log, &log_on);
    r.trace = trace_new(&r, o);
    draw_scale(&r);
    faults_draw(&r);
    workload_draw(&r);
    if (o->clients && r.n_clients > o->clients)
        r.n_clients = o->clients;
    r.history = history_new(r.n_cells);
    r.scale.sizes.threads = o->threads;
    r.cluster = cluster_new(r.world, o->seed, &r.scale.sizes);
    r.cluster->user = &r;
    r.cluster->beyond = o->beyond;
    r.cluster->on_session_ended = on_session_ended;
    r.cluster->on_session = on_session;
    if (!r.cluster->broken)
        r.checks = checks_new(r.cluster);
    workload_start(&r);
    faults_start(&r);
    uint64_t length = o->fault_ns ? o->fault_ns : r.scale.fault_ns;
    ret->fault_ns = length;
    if (!r.cluster->broken)
        sim_run_until(r.world, is_broken, &r, length);
    if (!r.cluster->broken)
        finish(&r);
    fill_result(&r, ret);
    r.cluster->on_session_ended = NULL;
    workload_free(&r);
    checks_free(r.checks);
    cluster_free(r.cluster);
    sim_world_free(r.world);
    faults_free(&r);
    history_free(r.history);
    trace_free(r.trace);
    log_set_sink(NULL, NULL);
}
