#include "tests/sim/cluster/run.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "tests/sim/cluster/cluster.h"
#include "tests/sim/cluster/history.h"

#define CLIENTS_MAX 12u
#define LIVENESS_NS (120 * NS_PER_S)
#define CELLS_PER_BLOCK (BLOCK_SIZE / CELL_BYTES)

/* How a seed weighs its faults; each is drawn, many are 0. */
struct weights {
    uint32_t kill, power, all_power, frontend_kill, pause_node, pause_frontend, cut, one_way, reset, slow;
    uint32_t total;
    struct sim_range gap_ns; /* between faults */
};

struct client {
    struct trial *run;
    unsigned index;
    bool busy;
    struct frontend *frontend; /* of the request under way */
    uint32_t session;
    struct export_request *request;
    uint32_t first, n; /* cells */
    uint32_t write;    /* its number in the history */
    bool is_write;
    uint64_t began;
};

struct trial {
    struct sim_world *world;
    struct cluster *cluster;
    struct history *history;
    struct weights weights;
    uint32_t n_clients;
    struct client client[CLIENTS_MAX];
    uint32_t n_cells, hot_cells;
    bool faults_over, reading_all;
    uint64_t end_ns;
    uint32_t final_next; /* next cell of the final read */
    uint64_t longest_wait_ns, lost;
};

static uint64_t draw(struct trial *r, uint64_t min, uint64_t max)
{
    return sim_draw(r->world, (struct sim_range){min, max});
}

/* ---- contents: a cell's 64 words are its write's number, each mixed with its place ---- */

static uint64_t word(uint64_t number, unsigned k)
{
    return number ^ (k * UINT64_C(0x9e3779b97f4a7c15));
}

static void fill_cell(uint8_t *p, uint64_t number)
{
    for (unsigned k = 0; k < CELL_BYTES / 8; k++) {
        uint64_t w = word(number, k);
        memcpy(p + 8 * k, &w, 8);
    }
}

/* The number, or UINT64_MAX when the cell is torn. All zero bytes: 0. */
static uint64_t parse_cell(const uint8_t *p)
{
    uint64_t first, w;
    memcpy(&first, p, 8);
    for (unsigned k = 1; k < CELL_BYTES / 8; k++) {
        memcpy(&w, p + 8 * k, 8);
        if (w != (first ? word(first, k) : 0))
            return UINT64_MAX;
    }
    return first;
}

/* Bytes of a request lie in pieces: cell i of it. */
static uint8_t *cell_of(const struct export_request *q, uint32_t i)
{
    uint32_t at = i * CELL_BYTES;
    for (uint32_t p = 0; p < q->n_pieces; p++) {
        if (at < q->data_len[p])
            return q->data[p] ? q->data[p]->data + q->data_off[p] + at : NULL;
        at -= q->data_len[p];
    }
    assert(false);
    return NULL;
}

/* ---- clients ---- */

static void client_next(struct client *c);

static void client_event(void *user)
{
    client_next(user);
}

static void again(struct client *c, uint64_t in_ns)
{
    sim_at(c->run->world, sim_now(c->run->world) + in_ns, client_event, c);
}

static void release(struct export_request *q)
{
    for (uint32_t i = 0; i < q->n_pieces; i++)
        buf_unref(q->data[i]);
    free(q);
}

static void take_read(struct client *c, const struct export_request *q)
{
    struct trial *r = c->run;
    uint64_t *value = malloc(c->n * sizeof *value);
    for (uint32_t i = 0; i < c->n; i++) {
        const uint8_t *p = cell_of(q, i);
        value[i] = p ? parse_cell(p) : 0;
        if (value[i] == UINT64_MAX)
            cluster_fail(r->cluster, "cell %u is torn: it holds parts of several writes", c->first + i);
    }
    if (!r->cluster->broken)
        history_read(r->history, c->began, sim_now(r->world), c->session, c->first, c->n, value);
    free(value);
}

static void on_done(struct export_request *q)
{
    struct client *c = q->user;
    struct trial *r = c->run;
    uint64_t now = sim_now(r->world);
    assert(c->busy && c->request == q);
    c->busy = false;
    c->request = NULL;
    if (now - c->began > r->longest_wait_ns)
        r->longest_wait_ns = now - c->began;
    if (q->error == 0 && q->op == EXPORT_READ)
        take_read(c, q);
    else if (q->error == 0 && c->is_write)
        history_written(r->history, now, c->write);
    else if (q->error && q->error != ESHUTDOWN)
        cluster_fail(r->cluster, "a request failed: %s", strerror(q->error));
    if (q->error) {
        r->lost++;
        if (r->reading_all)
            r->final_next = 0; /* once more */
    }
    release(q);
    again(c, r->reading_all ? 0 : draw(r, 0, 3 * NS_PER_MS));
}

static void choose_range(struct trial *r, uint32_t *first, uint32_t *n)
{
    uint32_t shape = (uint32_t)draw(r, 0, 99);
    uint32_t area = shape < 85 ? r->hot_cells : r->n_cells;
    uint32_t most = shape < 30 ? 1 : shape < 60 ? 8 : shape < 95 ? 96 : 2048;
    *n = (uint32_t)draw(r, 1, most < area ? most : area);
    *first = (uint32_t)draw(r, 0, area - *n);
    if (shape % 3 == 0) { /* whole blocks */
        *first -= *first % CELLS_PER_BLOCK;
        *n = (*n + CELLS_PER_BLOCK - 1) / CELLS_PER_BLOCK * CELLS_PER_BLOCK;
        if (*first + *n > area)
            *n = area - *first;
    }
}

static bool make_payload(struct client *c, struct export_request *q, uint64_t number)
{
    struct arena *a = sim_reactor_io(c->frontend->reactor)->arena;
    q->n_pieces = export_cut(q->offset, q->length, q->data_off, q->data_len);
    for (uint32_t i = 0; i < q->n_pieces; i++) {
        q->data[i] = buf_alloc(a, q->data_off[i] + q->data_len[i]);
        if (!q->data[i]) {
            q->n_pieces = i;
            return false;
        }
    }
    for (uint32_t i = 0; i < q->length / CELL_BYTES; i++)
        fill_cell(cell_of(q, i), number);
    return true;
}

static enum export_op choose_op(struct trial *r)
{
    uint64_t x = draw(r, 0, 99);
    return x < 45 ? EXPORT_WRITE : x < 85 ? EXPORT_READ : x < 92 ? EXPORT_ZERO : x < 97 ? EXPORT_TRIM : EXPORT_FLUSH;
}

static void record(struct client *c, struct export_request *q)
{
    struct trial *r = c->run;
    uint32_t first = c->first, n = c->n;
    if (q->op == EXPORT_TRIM) { /* whole blocks only: the ends stay as they are */
        uint32_t end = (first + n) / CELLS_PER_BLOCK * CELLS_PER_BLOCK;
        first = (first + CELLS_PER_BLOCK - 1) / CELLS_PER_BLOCK * CELLS_PER_BLOCK;
        n = end > first ? end - first : 0;
    }
    c->is_write = q->op == EXPORT_WRITE || (n > 0 && (q->op == EXPORT_ZERO || q->op == EXPORT_TRIM));
    if (c->is_write)
        c->write = history_write(r->history, c->began, c->session, first, n, q->op != EXPORT_WRITE);
}

static bool choose_request(struct client *c, struct export_request *q)
{
    struct trial *r = c->run;
    if (!r->reading_all) {
        q->op = choose_op(r);
        choose_range(r, &c->first, &c->n);
        q->flags = draw(r, 0, 7) == 0 ? EXPORT_FUA : draw(r, 0, 3) == 0 ? EXPORT_NO_HOLE : 0;
        return true;
    }
    if (r->final_next >= r->n_cells)
        return false;
    q->op = EXPORT_READ;
    c->first = r->final_next;
    c->n = r->n_cells - c->first < 4096 ? r->n_cells - c->first : 4096;
    r->final_next += c->n;
    return true;
}

static void client_next(struct client *c)
{
    struct trial *r = c->run;
    if (c->busy || r->cluster->broken || (r->faults_over && !r->reading_all))
        return;
    struct frontend *f = cluster_serving(r->cluster, sim_rand(r->world));
    if (!f) {
        again(c, 5 * NS_PER_MS);
        return;
    }
    struct export_request *q = calloc(1, sizeof *q);
    c->frontend = f;
    c->session = f->session;
    c->began = sim_now(r->world);
    if (!choose_request(c, q)) {
        free(q);
        return;
    }
    q->offset = (uint64_t)c->first * CELL_BYTES;
    q->length = q->op == EXPORT_FLUSH ? 0 : c->n * CELL_BYTES;
    q->done = on_done;
    q->user = c;
    record(c, q);
    if (q->op == EXPORT_WRITE && !make_payload(c, q, c->write)) {
        release(q);
        again(c, NS_PER_MS);
        return;
    }
    c->busy = true;
    c->request = q;
    struct export *x = volume_export(f->volume);
    x->submit(x, q);
    sim_wake(f->reactor);
}

static void on_session_ended(void *user, uint32_t session)
{
    struct trial *r = user;
    history_session_ended(r->history, session);
}

/* Requests of a dead front end are never answered; the arena that their buffers were in is gone. */
static void on_frontend_dead(void *user, struct frontend *f)
{
    struct trial *r = user;
    for (uint32_t i = 0; i < r->n_clients; i++) {
        struct client *c = &r->client[i];
        if (!c->busy || c->frontend != f)
            continue;
        c->busy = false;
        sim_bury(c->request);
        c->request = NULL;
        r->lost++;
        if (r->reading_all)
            r->final_next = 0;
        again(c, draw(r, 0, 20 * NS_PER_MS));
    }
}

/* ---- faults ---- */

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

/* ---- the end: faults stop, everything must complete ---- */

static void stop_faults(struct trial *r)
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

static bool is_broken(void *user)
{
    return ((struct trial *)user)->cluster->broken != NULL;
}

static bool all_idle(void *user)
{
    struct trial *r = user;
    for (uint32_t i = 0; i < r->n_clients; i++)
        if (r->client[i].busy)
            return r->cluster->broken != NULL;
    return true;
}

static bool all_read(void *user)
{
    struct trial *r = user;
    return (r->final_next >= r->n_cells && all_idle(r)) || r->cluster->broken;
}

static bool is_level(void *user)
{
    struct trial *r = user;
    return r->cluster->broken || cluster_is_level(r->cluster);
}

static void finish(struct trial *r)
{
    struct cluster *c = r->cluster;
    stop_faults(r);
    if (!sim_run_until(r->world, all_idle, r, LIVENESS_NS)) {
        cluster_fail(c, "liveness: a request was not answered %llu s after the last fault", (unsigned long long)(LIVENESS_NS / NS_PER_S));
        return;
    }
    r->reading_all = true;
    for (uint32_t i = 0; i < r->n_clients; i++)
        again(&r->client[i], i);
    if (!sim_run_until(r->world, all_read, r, LIVENESS_NS)) {
        cluster_fail(c, "liveness: the volume can't be read %llu s after the last fault", (unsigned long long)(LIVENESS_NS / NS_PER_S));
        return;
    }
    if (c->broken)
        return;
    if (!sim_run_until(r->world, is_level, r, LIVENESS_NS)) {
        char how[300];
        cluster_describe(c, how, sizeof how);
        cluster_fail(c, "liveness: the replicas are not level %llu s after the last fault: %s", (unsigned long long)(LIVENESS_NS / NS_PER_S), how);
        return;
    }
    const char *wrong = c->broken ? NULL : cluster_compare_replicas(c);
    if (wrong)
        cluster_fail(c, "replicas differ: %s", wrong);
    for (uint32_t s = 1; s < c->n_sessions; s++)
        history_session_ended(r->history, s);
    wrong = c->broken ? NULL : history_check(r->history);
    if (wrong)
        cluster_fail(c, "not linearizable: %s", wrong);
}

/* ---- the run ---- */

static void print_trace(void *user, uint64_t now_ns, const char *text)
{
    (void)user;
    printf("%12.6f %s\n", (double)now_ns / 1e9, text);
}

static struct sim_world *logging;

static void print_log(void *user, enum log_level level, const char *text)
{
    const bool *on = user;
    if (*on)
        printf("%12.6f log %d: %s\n", (double)sim_now(logging) / 1e9, (int)level, text);
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
    if (c->broken) {
        ret->failed = true;
        strncpy(ret->why, c->broken, sizeof ret->why - 1);
    }
}

void run_seed(const struct run_options *o, struct run_result *ret)
{
    memset(ret, 0, sizeof *ret);
    struct trial r = {.world = sim_world_new(o->seed)};
    logging = r.world;
    static bool log_on;
    log_on = o->log;
    log_set_sink(print_log, &log_on);
    if (o->trace)
        sim_set_trace(r.world, print_trace, NULL);
    draw_timing(&r);
    draw_weights(&r);
    uint64_t volume = 8 * SIM_MIB;
    r.n_cells = (uint32_t)(volume / CELL_BYTES);
    r.hot_cells = (uint32_t)draw(&r, 64, 4096);
    r.n_clients = (uint32_t)draw(&r, 1, CLIENTS_MAX);
    r.history = history_new(r.n_cells);
    r.cluster = cluster_new(r.world, o->seed, volume);
    r.cluster->user = &r;
    r.cluster->on_session_ended = on_session_ended;
    r.cluster->on_frontend_dead = on_frontend_dead;
    for (uint32_t i = 0; i < r.n_clients; i++) {
        r.client[i] = (struct client){.run = &r, .index = i};
        again(&r.client[i], draw(&r, 0, 10 * NS_PER_MS));
    }
    plan_fault(&r);
    uint64_t length = o->fault_ns ? o->fault_ns : draw(&r, 1, 20) * NS_PER_S;
    if (!r.cluster->broken)
        sim_run_until(r.world, is_broken, &r, length);
    if (!r.cluster->broken)
        finish(&r);
    fill_result(&r, ret);
    r.cluster->on_frontend_dead = NULL;
    for (uint32_t i = 0; i < r.n_clients; i++)
        sim_bury(r.client[i].request);
    cluster_free(r.cluster);
    sim_world_free(r.world);
    history_free(r.history);
    log_set_sink(NULL, NULL);
}
