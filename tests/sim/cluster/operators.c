/* What happens around clients and is no fault of the machines: front ends are stopped and started in order, a volume is taken over by force, somebody asks for the status, clients' machines
 * crash or lose their network for a while, and strangers talk nonsense to the NBD port. */
#include <stdio.h>
#include <stdlib.h>

#include "base/mark.h"
#include "base/wire.h"
#include "consensus/paxos.h"
#include "nbdserver/volume_internal.h"
#include "tests/sim/cluster/workload_internal.h"

#define TOOL_NS (2 * NS_PER_S) /* a tool's life */

enum { OP_STOP, OP_FORCE, OP_STATUS, OP_CLIENT_CRASH, OP_CLIENT_CUT, OP_CLIENT_RESET, OP_STRANGER, OP_KINDS };
static_assert(OP_KINDS <= ARRAY_LEN(((struct operators *)0)->weight), "each has a weight");

static void again(struct workload *w);

static uint64_t outage(struct trial *r)
{
    return r->faults_over ? 0 : draw(r, 0, 2) ? draw(r, 0, 50 * NS_PER_MS) : draw(r, 0, 3 * NS_PER_S);
}

/* ---- front ends that stop and return ---- */

static void start_frontend(void *user)
{
    struct frontend *f = user;
    if (!f->reactor && !f->cluster->broken)
        cluster_start_frontend(f);
}

static void on_stopped(void *user, struct frontend *f)
{
    struct trial *r = user;
    sim_at(r->world, sim_now(r->world) + outage(r), start_frontend, f);
}

static void stop_frontend(struct workload *w)
{
    struct cluster *c = w->run->cluster;
    struct frontend *f = &c->frontend[draw(w->run, 0, SIM_FRONTENDS - 1)];
    if (!f->reactor || f->paused || f->draining)
        return;
    MARK("operator: stops a front end");
    cluster_stop_frontend(f);
}

/* ---- a tool that talks to a daemon ---- */

struct tool {
    struct workload *workload;
    struct sim_reactor *reactor;
    struct wire_peer peer[SIM_REPLICAS];
    unsigned n;
    struct msg msg; /* what is asked of each; target is set for each */
    bool is_status;
};

static void tool_end(void *user)
{
    struct tool *t = user;
    sim_reactor_crash(t->reactor, SIM_KILL);
}

static void tool_open(struct wire_peer *p)
{
    struct tool *t = p->user;
    struct msg m = {.type = MSG_HELLO, .u.hello = {.version = WIRE_VERSION, .role = ROLE_TOOL, .cluster = t->workload->run->cluster->config.id}};
    strcpy(m.u.hello.name, "operator");
    wire_peer_send(p, &m);
}

static void tool_msg(struct wire_peer *p, const struct msg *m, struct buf *payload)
{
    struct tool *t = p->user;
    struct cluster *c = t->workload->run->cluster;
    (void)payload;
    if (m->type == MSG_HELLO) {
        struct msg ask = t->msg;
        if (!t->is_status)
            ask.target = c->config.replicas[p - t->peer].identity;
        wire_peer_send(p, &ask);
    } else if (m->type == MSG_STATUS_REPLY) {
        const char *json = m->u.status_reply.json;
        uint32_t len = m->u.status_reply.len;
        if (len < 2 || json[0] != '{' || json[len - 1] != '}' || memchr(json, 0, len))
            cluster_fail(c, "a status is no JSON text: %.*s", len < 100 ? (int)len : 100, json);
        MARK("operator: reads a status");
        wire_peer_close(p);
    }
}

static void tool_closed(struct wire_peer *p, int err, const char *reason)
{
    struct tool *t = p->user;
    (void)err;
    if (reason)
        cluster_fail(t->workload->run->cluster, "a tool was answered against the protocol: %s", reason);
}

static const struct wire_handler tool_handler = {.on_open = tool_open, .on_msg = tool_msg, .on_closed = tool_closed};

static struct tool *tool_new(struct workload *w, const struct msg *m)
{
    struct trial *r = w->run;
    struct tool *t = calloc(1, sizeof *t);
    char name[24];
    assert(t);
    snprintf(name, sizeof name, "tool%u", ++w->operators.serial);
    t->workload = w;
    t->msg = *m;
    t->reactor = sim_reactor_new(r->world, name, 4 * SIM_MIB);
    sim_at(r->world, sim_now(r->world) + TOOL_NS, tool_end, t);
    sim_bury(t);
    return t;
}

static void tool_connect(struct tool *t, const char *address)
{
    int err = wire_peer_connect(&t->peer[t->n++], sim_reactor_io(t->reactor), address, &tool_handler, t);
    assert(err == 0);
}

static void ask_status(struct workload *w)
{
    struct cluster *c = w->run->cluster;
    struct tool *t = tool_new(w, &(struct msg){.type = MSG_STATUS});
    uint64_t i = draw(w->run, 0, SIM_REPLICAS + SIM_FRONTENDS - 1);
    t->is_status = true;
    tool_connect(t, i < SIM_REPLICAS ? c->config.replicas[i].address : c->frontend[i - SIM_REPLICAS].status_address);
}

/* After a front end's death, for an operator who knows that it is dead and does not want to wait: all replicas let in this one alone, before the dead one's lease is over. While another runs it would
 * be wrong (leases are what reads rest on), so nobody does it then, and cluster.c sees to it that none comes back before the force is over. */
static void force(struct workload *w)
{
    struct cluster *c = w->run->cluster;
    struct frontend *f = &c->frontend[draw(w->run, 0, SIM_FRONTENDS - 1)];
    for (unsigned i = 0; i < SIM_SESSIONS; i++)
        if (&c->frontend[i] != f && c->frontend[i].reactor)
            return;
    for (unsigned i = 0; i < c->n_nodes; i++)
        if (c->node[i].paused)
            return;
    if (!f->reactor || f->draining)
        return;
    if (f->session)
        MARK("operator: forces a take-over for the one that serves");
    else
        MARK("operator: forces a take-over");
    struct msg m = {.type = MSG_FORCE, .group = SIM_GROUP, .ballot = {.round = PAXOS_ROUND_MAX, .proposer = f->volume->proposer_id}};
    m.u.force.expiry_ns = draw(w->run, 1, 3000) * NS_PER_MS;
    c->forced = f;
    c->forced_until_ns = sim_now(c->world) + m.u.force.expiry_ns + TOOL_NS;
    struct tool *t = tool_new(w, &m);
    for (unsigned i = 0; i < SIM_REPLICAS; i++)
        tool_connect(t, c->config.replicas[i].address);
}

/* ---- clients' machines ---- */

static void restart_host(void *user)
{
    struct host *h = user;
    if (!h->reactor && !h->workload->run->cluster->broken)
        host_start(h);
}

static void crash_client(struct workload *w, struct host *h)
{
    struct trial *r = w->run;
    if (!h->reactor)
        return;
    MARK("operator: a client's machine crashes");
    host_crash(h, draw(r, 0, 1) ? SIM_POWER : SIM_KILL);
    sim_at(r->world, sim_now(r->world) + outage(r), restart_host, h);
}

static void heal_client(void *user)
{
    struct host *h = user;
    struct cluster *c = h->workload->run->cluster;
    for (unsigned i = 0; i < SIM_FRONTENDS; i++)
        sim_heal(c->world, h->name, c->frontend[i].host);
}

static void cut_client(struct workload *w, struct host *h)
{
    struct cluster *c = w->run->cluster;
    uint64_t how = draw(w->run, 0, 2);
    MARK("operator: a client's network fails");
    for (unsigned i = 0; i < SIM_FRONTENDS; i++) {
        if (how != 1)
            sim_cut_one_way(c->world, h->name, c->frontend[i].host);
        if (how != 2)
            sim_cut_one_way(c->world, c->frontend[i].host, h->name);
    }
    sim_at(c->world, sim_now(c->world) + outage(w->run), heal_client, h);
}

static void reset_client(struct workload *w, struct host *h)
{
    struct cluster *c = w->run->cluster;
    const char *fe = c->frontend[draw(w->run, 0, SIM_FRONTENDS - 1)].host;
    MARK("operator: a client's connections are reset");
    if (draw(w->run, 0, 1))
        sim_reset(c->world, h->name, fe);
    else if (draw(w->run, 0, 1))
        sim_link(c->world, h->name, fe)->reset_after_bytes = draw(w->run, 1, 50000);
    else
        sim_link(c->world, fe, h->name)->reset_after_bytes = draw(w->run, 1, 50000);
}

/* ---- strangers ---- */

struct stranger {
    struct workload *workload;
    struct sim_reactor *reactor;
    uint64_t how;
};

static void say_random(struct stranger *s, struct conn *c, uint32_t max)
{
    uint8_t bytes[600];
    uint32_t n = (uint32_t)draw(s->workload->run, 1, max);
    for (uint32_t i = 0; i < n; i++)
        bytes[i] = (uint8_t)sim_rand(s->workload->run->world);
    conn_send(c, &(struct segment){NULL, bytes, n}, 1);
}

static void say_flags(struct conn *c, uint32_t flags)
{
    uint32_t be = htobe32(flags);
    conn_send(c, &(struct segment){NULL, &be, sizeof be}, 1);
}

static void say_option(struct conn *c, uint32_t option, uint32_t length)
{
    struct nbd_option_header h = {.magic = htobe64(NBD_OPTION_MAGIC), .option = htobe32(option), .length = htobe32(length)};
    conn_send(c, &(struct segment){NULL, &h, sizeof h}, 1);
}

/* Into transmission without waiting for anything, then what is no request, or a WRITE whose payload never comes. */
static void say_go(struct stranger *s, struct conn *c)
{
    static const uint8_t nothing[6]; /* the default export, no information */
    say_flags(c, NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES);
    say_option(c, NBD_OPT_GO, sizeof nothing);
    conn_send(c, &(struct segment){NULL, nothing, sizeof nothing}, 1);
    if (draw(s->workload->run, 0, 1)) {
        say_random(s, c, 600);
        return;
    }
    uint32_t length = (uint32_t)draw(s->workload->run, 601, 100000);
    struct nbd_request_header h = {.magic = htobe32(NBD_REQUEST_MAGIC), .type = htobe16(NBD_CMD_WRITE), .length = htobe32(length)};
    conn_send(c, &(struct segment){NULL, &h, sizeof h}, 1);
    say_random(s, c, 600);
}

static void stranger_open(struct conn *c)
{
    struct stranger *s = c->user;
    static const char http[] = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    switch (s->how) {
    case 0:
        say_random(s, c, 600);
        break;
    case 1:
        conn_send(c, &(struct segment){NULL, http, sizeof http - 1}, 1);
        break;
    case 2: /* never says anything */
        break;
    case 3: /* an unknown client flag */
        say_flags(c, UINT32_C(1) << draw(s->workload->run, 2, 31));
        break;
    case 4: /* an option that never ends */
        say_flags(c, NBD_FLAG_C_FIXED_NEWSTYLE);
        say_option(c, (uint32_t)draw(s->workload->run, 0, 12), (uint32_t)draw(s->workload->run, 1, UINT32_MAX));
        say_random(s, c, 600);
        break;
    case 5: /* options that make no sense, then ABORT */
        say_flags(c, NBD_FLAG_C_FIXED_NEWSTYLE);
        say_option(c, (uint32_t)draw(s->workload->run, 12, 1000), 0);
        say_option(c, NBD_OPT_ABORT, 0);
        break;
    case 6: /* the old way to ask for what is not there */
        say_flags(c, 0);
        say_option(c, NBD_OPT_EXPORT_NAME, 3);
        conn_send(c, &(struct segment){NULL, "abc", 3}, 1);
        break;
    default:
        say_go(s, c);
    }
}

static size_t stranger_data(struct conn *c, const uint8_t *data, size_t len)
{
    (void)c;
    (void)data;
    return len;
}

static void stranger_closed(struct conn *c, int err)
{
    (void)c;
    (void)err;
}

static const struct conn_handler stranger_handler = {.on_open = stranger_open, .on_data = stranger_data, .on_closed = stranger_closed};

static void stranger_leaves(void *user)
{
    struct stranger *s = user;
    sim_reactor_crash(s->reactor, SIM_KILL);
}

static void stranger_comes(struct workload *w)
{
    struct trial *r = w->run;
    struct stranger *s = calloc(1, sizeof *s);
    char name[24];
    struct conn *c;
    assert(s);
    MARK("operator: a stranger calls");
    s->workload = w;
    s->how = draw(r, 0, 9);
    snprintf(name, sizeof name, "stranger%u", ++w->operators.serial);
    s->reactor = sim_reactor_new(r->world, name, 4 * SIM_MIB);
    sim_bury(s);
    int err = io_connect(sim_reactor_io(s->reactor), r->cluster->frontend[draw(r, 0, SIM_FRONTENDS - 1)].nbd_address, &stranger_handler, s, &c);
    assert(err == 0);
    sim_at(r->world, sim_now(r->world) + draw(r, 10, 3000) * NS_PER_MS, stranger_leaves, s);
}

/* ---- when ---- */

static void act(struct workload *w, unsigned kind)
{
    struct host *h = &w->host[draw(w->run, 0, w->n_hosts - 1)];
    switch (kind) {
    case OP_STOP:
        stop_frontend(w);
        break;
    case OP_FORCE:
        force(w);
        break;
    case OP_STATUS:
        ask_status(w);
        break;
    case OP_CLIENT_CRASH:
        crash_client(w, h);
        break;
    case OP_CLIENT_CUT:
        cut_client(w, h);
        break;
    case OP_CLIENT_RESET:
        reset_client(w, h);
        break;
    default:
        stranger_comes(w);
    }
}

static void operator_event(void *user)
{
    struct workload *w = user;
    struct operators *o = &w->operators;
    if (w->run->faults_over || w->run->cluster->broken)
        return;
    uint32_t x = (uint32_t)draw(w->run, 0, o->total - 1);
    unsigned kind = 0;
    while (x >= o->weight[kind])
        x -= o->weight[kind++];
    act(w, kind);
    again(w);
}

static void again(struct workload *w)
{
    sim_at(w->run->world, sim_now(w->run->world) + draw(w->run, 1, 2 * w->operators.gap_ns), operator_event, w);
}

void operators_draw(struct workload *w)
{
    struct operators *o = &w->operators;
    uint64_t off_of_ten = draw(w->run, 4, 10);
    for (unsigned k = 0; k < OP_KINDS; k++) {
        uint64_t off = draw(w->run, 0, 9), weight = draw(w->run, 1, 10);
        o->weight[k] = off < off_of_ten ? 0 : (uint32_t)weight;
        o->total += o->weight[k];
    }
    o->may_reset = o->weight[OP_CLIENT_RESET] > 0;
    o->gap_ns = w->run->scale.fault_ns / draw(w->run, 1, 12);
}

void operators_start(struct workload *w)
{
    w->run->cluster->on_frontend_stopped = on_stopped;
    if (w->operators.total > 0)
        again(w);
}
