/* Clients: their connections, when they ask, and what they may be answered. What they ask is requests.c's. */
#include "tests/sim/cluster/workload_internal.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/mark.h"

#define WATCH_NS NS_PER_S
#define PROBE_NS (4 * NS_PER_S)

static void lane_event(void *user);

void lane_wrong(struct lane *l, const char *fmt, ...)
{
    char text[300];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    cluster_fail(l->workload->run->cluster, "NBD client at %s of %s: %s", l->host->name, l->frontend ? l->frontend->host : "nobody", text);
}

/* ---- what may be expected of a connection ---- */

/* The session that the connection belongs to: it ends when its front end is fenced or gone. */
bool lane_session_is_over(const struct lane *l)
{
    const struct frontend *f = l->frontend;
    return f->starts != l->starts || !f->reactor || f->session != l->session;
}

bool lane_may_be_shut(const struct lane *l)
{
    return lane_session_is_over(l) || l->frontend->draining;
}

/* ---- when ---- */

static void lane_plan(struct lane *l, uint64_t in_ns)
{
    struct sim_world *w = l->workload->run->world;
    uint64_t at = sim_now(w) + in_ns;
    if (l->planned && l->planned_ns <= at)
        return;
    l->planned = true;
    l->planned_ns = at;
    sim_at(w, at, lane_event, l);
}

static uint64_t burst_pause(struct lane *l)
{
    return draw(l->workload->run, 0, 2 * l->workload->pause_ns * l->burst);
}

static void lane_submit_some(struct lane *l)
{
    struct workload *w = l->workload;
    struct trial *r = w->run;
    while (l->nbd.state == NBD_CLIENT_READY && !l->nbd.disc_sent && l->nbd.n_pending < l->depth) {
        if (r->reading_all) {
            if (!request_make_final(l))
                return;
            continue;
        }
        if (r->faults_over || w->left == 0)
            return;
        if (l->burst == 0) {
            l->burst = (uint32_t)draw(r, 1, 3 * l->depth);
            lane_plan(l, burst_pause(l));
            return;
        }
        if (!request_make(l))
            return;
        w->left--;
        if (--l->burst == 0) {
            l->burst = (uint32_t)draw(r, 1, 3 * l->depth);
            lane_plan(l, burst_pause(l));
            return;
        }
    }
}

/* ---- connecting ---- */

static void add_option(struct nbd_client_options *o, uint32_t option)
{
    o->option[o->n_options++] = option;
}

static void choose_options(struct lane *l, struct nbd_client_options *o)
{
    static const uint32_t not_offered[] = {NBD_OPT_STARTTLS, NBD_OPT_PEEK_EXPORT, NBD_OPT_LIST_META_CONTEXT, NBD_OPT_EXTENDED_HEADERS, 77};
    struct trial *r = l->workload->run;
    *o = (struct nbd_client_options){
        .address = l->frontend->nbd_address,
        .export_name = "vol0",
        .size_bytes = r->cluster->sizes.volume_bytes,
        .no_zeroes = l->no_zeroes,
    };
    if (draw(r, 0, 3) == 0)
        o->export_name = ""; /* the default export */
    if (draw(r, 0, 7) == 0)
        add_option(o, NBD_OPT_LIST);
    if (draw(r, 0, 7) == 0)
        add_option(o, not_offered[draw(r, 0, ARRAY_LEN(not_offered) - 1)]);
    if (l->structured)
        add_option(o, NBD_OPT_STRUCTURED_REPLY);
    if (draw(r, 0, 7) == 0)
        add_option(o, NBD_OPT_INFO);
    add_option(o, l->export_name ? NBD_OPT_EXPORT_NAME : NBD_OPT_GO);
}

static void lane_connect(struct lane *l)
{
    struct trial *r = l->workload->run;
    struct cluster *c = r->cluster;
    struct frontend *f = draw(r, 0, 5) || r->faults_over ? cluster_serving(c, sim_rand(r->world)) : NULL;
    if (!f && draw(r, 0, 1))
        f = &c->frontend[draw(r, 0, SIM_FRONTENDS - 1)];
    if (!f) {
        lane_plan(l, draw(r, 1, 20) * NS_PER_MS);
        return;
    }
    struct nbd_client_options o;
    l->frontend = f;
    l->starts = f->starts;
    l->fenced = f->fenced;
    l->serial++;
    l->since_ns = l->heard_ns = sim_now(r->world);
    l->seen_bytes = l->nbd.bytes_received;
    l->probed_ns = 0;
    choose_options(l, &o);
    nbd_client_connect(&l->nbd, &o);
}

/* Plans may be many: only the one that is due is acted upon. */
static void lane_event(void *user)
{
    struct lane *l = user;
    struct trial *r = l->workload->run;
    if (!l->planned || l->planned_ns > sim_now(r->world))
        return;
    l->planned = false;
    if (!l->up || r->cluster->broken)
        return;
    if (l->nbd.state == NBD_CLIENT_DOWN) {
        if (!r->faults_over || r->reading_all)
            lane_connect(l);
    } else {
        lane_submit_some(l);
    }
}

/* ---- the client's callbacks ---- */

static void on_ready(struct nbd_client *c)
{
    struct lane *l = c->user;
    l->session = l->frontend->session;
    if (l->frontend->starts != l->starts || l->frontend->fenced != l->fenced || l->session == 0) {
        MARK("client: its session is over before it knows of it");
        nbd_client_drop(c);
        return;
    }
    lane_submit_some(l);
}

static void on_refused(struct nbd_client *c, uint32_t type)
{
    struct lane *l = c->user;
    if (type == NBD_REP_ERR_SHUTDOWN)
        MARK("client: refused, the server is shutting down");
    else if (type == NBD_REP_ERR_POLICY)
        MARK("client: refused, another front end has the volume");
    else
        MARK("client: refused, the volume is not attached in time");
    if (type == NBD_REP_ERR_SHUTDOWN && l->frontend->starts == l->starts && l->frontend->reactor && !l->frontend->draining)
        lane_wrong(l, "refused because of a shutdown that nobody asked for");
}

static void resume_reading(void *user)
{
    struct lane *l = user;
    if (l->up && l->nbd.conn && l->paused_serial == l->serial && l->nbd.state != NBD_CLIENT_DOWN)
        conn_recv_pause(l->nbd.conn, false);
    l->paused_serial = 0;
}

/* Manners: some clients leave without a word, some say goodbye, some do not read for a while. */
static void misbehave(struct lane *l)
{
    struct trial *r = l->workload->run;
    if (r->faults_over || l->nbd.state != NBD_CLIENT_READY)
        return;
    if (l->drop_one_in && draw(r, 1, l->drop_one_in) == 1) {
        MARK("client: drops its connection");
        nbd_client_drop(&l->nbd);
    } else if (l->disc_one_in && draw(r, 1, l->disc_one_in) == 1) {
        if (l->nbd.n_pending > 0)
            MARK("client: DISC with requests under way");
        nbd_client_disconnect(&l->nbd);
    } else if (l->pause_one_in && !l->paused_serial && draw(r, 1, l->pause_one_in) == 1) {
        MARK("client: does not read for a while");
        l->paused_serial = l->serial;
        conn_recv_pause(l->nbd.conn, true);
        sim_at(r->world, sim_now(r->world) + draw(r, 1, 800) * NS_PER_MS, resume_reading, l);
    }
}

static void on_replied(struct nbd_client *c, struct nbd_io *io)
{
    struct lane *l = c->user;
    request_replied(container_of(io, struct request, io));
    misbehave(l);
    lane_submit_some(l);
}

static void on_lost(struct nbd_client *c, struct nbd_io *io)
{
    request_lost(container_of(io, struct request, io));
}

/* A connection in transmission is closed for a reason: DISC (and then "the server MUST handle all outstanding requests"), a fence, a stop, a crash, the network. */
static void on_down(struct nbd_client *c, int err, uint32_t unanswered)
{
    struct lane *l = c->user;
    struct trial *r = l->workload->run;
    bool by_server = err == 0 || (err == -ECONNRESET && !l->workload->operators.may_reset);
    if (by_server && l->session != 0 && !lane_may_be_shut(l)) {
        if (!c->disc_sent)
            lane_wrong(l, "the server closed the connection for no reason");
        else if (unanswered > 0)
            lane_wrong(l, "after DISC the connection ended with %u requests unanswered", unanswered);
    }
    l->session = 0;
    lane_plan(l, draw(r, 0, 3) ? draw(r, 0, 5 * NS_PER_MS) : draw(r, 0, 100 * NS_PER_MS));
}

static void on_wrong(struct nbd_client *c, const char *what)
{
    lane_wrong(c->user, "%s", what);
}

static const struct nbd_client_handler handler = {
    .ready = on_ready, .refused = on_refused, .replied = on_replied, .lost = on_lost, .down = on_down, .wrong = on_wrong};

/* ---- watching ---- */

/* A peer that lost power says nothing for ever. As TCP's keep-alive would: say something, so that its successor denies the connection. A request that is not answered on a living connection is
 * nobody's fault but the server's, and is waited for. */
static void lane_watch(void *user)
{
    struct lane *l = user;
    struct trial *r = l->workload->run;
    uint64_t now = sim_now(r->world);
    if (r->cluster->broken)
        return;
    sim_at(r->world, now + WATCH_NS, lane_watch, l);
    enum nbd_client_state s = l->nbd.state;
    if (!l->up || s == NBD_CLIENT_DOWN || s == NBD_CLIENT_CLOSING)
        return;
    bool quiet = l->nbd.bytes_received == l->seen_bytes;
    l->seen_bytes = l->nbd.bytes_received;
    l->heard_ns = quiet ? l->heard_ns : now;
    if (s != NBD_CLIENT_READY) {
        if (now - l->since_ns > l->patience_ns) {
            MARK("client: loses patience with a handshake");
            nbd_client_drop(&l->nbd);
        }
    } else if (l->nbd.disc_sent) {
        if (now - l->heard_ns > l->patience_ns) /* nothing may be said any more, so nothing is learned */
            nbd_client_drop(&l->nbd);
    } else if (quiet && l->nbd.n_pending > 0 && now - l->probed_ns > PROBE_NS && l->paused_serial != l->serial) {
        l->probed_ns = now; /* once is not enough: the peer may lose power after it was received */
        request_make_probe(l);
    }
}

/* ---- hosts ---- */

void host_start(struct host *h)
{
    struct workload *w = h->workload;
    h->reactor = sim_reactor_new(w->run->world, h->name, 64 * SIM_MIB);
    for (uint32_t i = 0; i < w->n_lanes; i++) {
        struct lane *l = &w->lane[i];
        if (l->host != h)
            continue;
        uint64_t serial = l->nbd.serial, bytes = l->nbd.bytes_received;
        nbd_client_init(&l->nbd, sim_reactor_io(h->reactor), &handler, l);
        l->nbd.serial = serial;
        l->nbd.bytes_received = bytes;
        l->up = true;
        lane_plan(l, draw(w->run, 0, 10 * NS_PER_MS));
    }
}

void host_crash(struct host *h, enum sim_crash how)
{
    struct workload *w = h->workload;
    if (!h->reactor)
        return;
    sim_reactor_crash(h->reactor, how);
    h->reactor = NULL;
    for (uint32_t i = 0; i < w->n_lanes; i++) {
        struct lane *l = &w->lane[i];
        if (l->host != h)
            continue;
        l->up = false;
        l->session = 0;
        nbd_client_died(&l->nbd);
    }
}

/* ---- the run's calls ---- */

static uint32_t one_in(struct trial *r, uint32_t off_of_ten, uint32_t min, uint32_t max)
{
    return draw(r, 0, 9) < off_of_ten ? 0 : (uint32_t)draw(r, min, max);
}

static void draw_lane(struct workload *w, struct lane *l)
{
    struct trial *r = w->run;
    uint64_t depth = draw(r, 0, 9);
    l->workload = w;
    l->depth = (uint32_t)(depth < 3 ? 1 : depth < 8 ? draw(r, 2, 8) : draw(r, 8, DEPTH_MAX));
    l->drop_one_in = one_in(r, 5, 5, 100);
    l->disc_one_in = one_in(r, 5, 5, 100);
    l->pause_one_in = one_in(r, 7, 20, 200);
    l->structured = draw(r, 0, 1);
    l->export_name = draw(r, 0, 9) == 0;
    l->no_zeroes = draw(r, 0, 1);
    l->patience_ns = draw(r, 0, 1) ? draw(r, 2, 8) * NS_PER_S : 40 * NS_PER_S;
}

void workload_draw(struct trial *r)
{
    struct workload *w = calloc(1, sizeof *w);
    assert(w);
    r->workload = w;
    w->run = r;
    requests_draw(w);
    r->n_cells = w->cells.n;
    uint64_t shape = draw(r, 0, 9);
    r->n_clients = (uint32_t)(shape < 2 ? 1 : shape < 7 ? draw(r, 2, 4) : draw(r, 4, LANES_MAX));
    w->n_hosts = (uint32_t)draw(r, 1, r->n_clients < HOSTS_MAX ? r->n_clients : HOSTS_MAX);
    for (uint32_t i = 0; i < r->n_clients; i++)
        draw_lane(w, &w->lane[i]);
    operators_draw(w);
}

void workload_start(struct trial *r)
{
    struct workload *w = r->workload;
    w->n_lanes = r->n_clients < LANES_MAX ? r->n_clients : LANES_MAX;
    w->left = r->scale.requests;
    w->pause_ns = r->scale.fault_ns / r->scale.requests * w->n_lanes;
    for (uint32_t i = 0; i < w->n_lanes; i++)
        w->lane[i].host = &w->host[i % w->n_hosts];
    for (uint32_t i = 0; i < w->n_hosts; i++) {
        struct host *h = &w->host[i];
        h->workload = w;
        h->index = i;
        snprintf(h->name, sizeof h->name, "client%u", (i + 1) % 100);
        host_start(h);
    }
    for (uint32_t i = 0; i < w->n_lanes; i++)
        sim_at(r->world, sim_now(r->world) + draw(r, 1, WATCH_NS), lane_watch, &w->lane[i]);
    operators_start(w);
}

void workload_session_ended(struct trial *r, uint32_t session)
{
    struct workload *w = r->workload;
    if (session >= w->cap_sessions) {
        uint32_t cap = 2 * session + 16;
        w->session_over = realloc(w->session_over, cap * sizeof *w->session_over);
        assert(w->session_over);
        for (uint32_t i = w->cap_sessions; i < cap; i++)
            w->session_over[i] = UINT64_MAX;
        w->cap_sessions = cap;
    }
    w->session_over[session] = sim_now(r->world);
}

bool workload_is_idle(const struct trial *r)
{
    const struct workload *w = r->workload;
    for (uint32_t i = 0; i < w->n_lanes; i++)
        if (w->lane[i].nbd.n_pending > 0)
            return false;
    for (unsigned i = 0; i < SIM_FRONTENDS; i++)
        if (r->cluster->frontend[i].draining)
            return false;
    return true;
}

void workload_read_all(struct trial *r)
{
    struct workload *w = r->workload;
    r->reading_all = true;
    for (uint32_t i = 0; i < w->n_lanes; i++)
        lane_plan(&w->lane[i], 0);
}

bool workload_all_read(const struct trial *r)
{
    return r->workload->final_next >= r->n_cells && workload_is_idle(r);
}

void workload_free(struct trial *r)
{
    struct workload *w = r->workload;
    for (uint32_t i = 0; i < w->n_hosts; i++)
        host_crash(&w->host[i], SIM_KILL);
    cells_free(&w->cells);
    free(w->session_over);
    free(w);
    r->workload = NULL;
}
