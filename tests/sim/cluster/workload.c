/* Clients: what they ask of the volume, and what of it goes into the history. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/sim/cluster/trial.h"

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

/* Requests come in bursts, so that crashes find many under way. */
static uint64_t think_ns(struct trial *r)
{
    return draw(r, 0, 7) ? draw(r, 0, NS_PER_MS / 5) : draw(r, 0, 8 * r->gap_ns);
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
    checks_answered(r->checks, q, c->began);
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
    again(c, r->reading_all ? 0 : think_ns(r));
}

static void choose_range(struct trial *r, uint32_t *first, uint32_t *n)
{
    uint32_t shape = (uint32_t)draw(r, 0, 99);
    uint32_t area = shape < 85 ? r->hot_cells : r->n_cells;
    uint32_t most = shape < 30 ? 1 : shape < 60 ? 8 : shape < 95 ? 96 : 2048;
    *n = (uint32_t)draw(r, 1, most < area ? most : area);
    if (*n > r->scale.request_max_bytes / CELL_BYTES)
        *n = r->scale.request_max_bytes / CELL_BYTES;
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

/* Requests of a dead front end are never answered; the arena that their buffers were in is gone. */
void workload_frontend_dead(struct trial *r, struct frontend *f)
{
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

void workload_draw(struct trial *r)
{
    r->n_cells = (uint32_t)(r->scale.sizes.volume_bytes / CELL_BYTES);
    r->hot_cells = (uint32_t)draw(r, 64, r->n_cells < 4096 ? r->n_cells : 4096);
    r->n_clients = (uint32_t)draw(r, 1, CLIENTS_MAX);
    r->gap_ns = 2 * r->scale.fault_ns / r->scale.requests * r->n_clients;
}

void workload_start(struct trial *r)
{
    for (uint32_t i = 0; i < r->n_clients; i++) {
        r->client[i] = (struct client){.run = r, .index = i};
        again(&r->client[i], draw(r, 0, 10 * NS_PER_MS));
    }
}

bool workload_is_idle(const struct trial *r)
{
    for (uint32_t i = 0; i < r->n_clients; i++)
        if (r->client[i].busy)
            return false;
    return true;
}

void workload_read_all(struct trial *r)
{
    r->reading_all = true;
    for (uint32_t i = 0; i < r->n_clients; i++)
        again(&r->client[i], i);
}

bool workload_all_read(const struct trial *r)
{
    return r->final_next >= r->n_cells && workload_is_idle(r);
}

void workload_bury(struct trial *r)
{
    for (uint32_t i = 0; i < r->n_clients; i++)
        sim_bury(r->client[i].request);
}
