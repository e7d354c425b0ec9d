#include "tests/sim/cluster/cluster.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/mark.h"
#include "nbdserver/volume_internal.h"
#include "replica/replica_internal.h"
#include "replica/superblock.h"

#define META_PAGES 80u
#define COMPARE_TRIES 20u
#define NODE_ARENA_BYTES (256 * SIM_MIB)

void cluster_fail(struct cluster *c, const char *fmt, ...)
{
    if (c->broken)
        return; /* the first is the cause */
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(c->broken_text, sizeof c->broken_text, fmt, ap);
    va_end(ap);
    c->broken = c->broken_text;
}

static void make_uuid(struct uuid *u, uint64_t a, uint64_t b)
{
    memcpy(u->b, &a, 8);
    memcpy(u->b + 8, &b, 8);
}

/* ---- disks ---- */

static struct dev *open_disk(struct node *n, const char *name)
{
    struct sim_disk *d = sim_dir_find(n->dir, name);
    struct dev *dev;
    assert(d);
    int err = sim_dev_open(n->reactor, d, &dev);
    assert(err == 0);
    return dev;
}

static void open_devices(struct node *n, const struct superblock *sb, struct store_devices *ret)
{
    static struct dev *extents[4096];
    *ret = (struct store_devices){.dir = sim_dir_open(n->reactor, n->dir),
                                  .superblock = open_disk(n, "superblock"),
                                  .wal = open_disk(n, "wal"),
                                  .meta = open_disk(n, "meta"),
                                  .extents = extents,
                                  .n_extents = sb->n_extents};
    for (uint32_t i = 0; i < sb->n_extents; i++) {
        char name[32];
        snprintf(name, sizeof name, "extents/%05u", i);
        extents[i] = open_disk(n, name);
    }
}

static bool is_ready(void *user)
{
    return ((struct node *)user)->ready;
}

static bool is_formatted(void *user)
{
    return !((struct node *)user)->formatting;
}

/* What format says is done is durable. */
static void end_format(void *user)
{
    struct node *n = user;
    sim_reactor_crash(n->reactor, SIM_POWER);
    n->reactor = NULL;
    n->formatting = n->paused = false;
    if (n->replaced)
        cluster_start_node(n);
}

static void on_formatted(void *user, int err)
{
    struct node *n = user;
    if (err)
        cluster_fail(n->cluster, "%s: format failed: %s", n->host, strerror(-err));
    sim_at(n->cluster->world, sim_now(n->cluster->world), end_format, n);
}

/* In an empty directory. */
static void format_begin(struct node *n, const struct uuid *identity)
{
    struct cluster *c = n->cluster;
    struct superblock sb = {.cluster = c->config.id,
                            .identity = *identity,
                            .generation = 1,
                            .shard_count = 1,
                            .n_extents = 1,
                            .wal_bytes = c->sizes.wal_bytes,
                            .extent_bytes = c->sizes.extent_bytes,
                            .meta_pages = META_PAGES};
    snprintf(sb.name, sizeof sb.name, "replica-%u", n->index + 1);
    n->identity = *identity;
    n->disks++;
    for (unsigned i = 0; i < sizeof sb.salt; i++)
        sb.salt[i] = (uint8_t)sim_rand(c->world);
    sim_disk_new(c->world, n->dir, "superblock", SUPERBLOCK_BYTES);
    sim_disk_new(c->world, n->dir, "wal", c->sizes.wal_bytes);
    sim_disk_new(c->world, n->dir, "meta", (2 + 2 * META_PAGES) * (uint64_t)BLOCK_SIZE);
    sim_disk_new(c->world, n->dir, "extents/00000", c->sizes.extent_bytes);
    n->reactor = sim_reactor_new(c->world, n->host, NODE_ARENA_BYTES);
    n->formatting = true;
    struct store_devices d;
    open_devices(n, &sb, &d);
    store_format(sim_reactor_io(n->reactor), &d, &sb, on_formatted, n);
}

void cluster_lose_disk(struct node *n)
{
    assert(!n->formatting && !n->absent);
    if (n->reactor)
        cluster_crash_node(n, SIM_POWER);
    for (struct sim_disk *d; (d = sim_dir_next(n->dir, NULL));)
        sim_disk_remove(d);
    n->absent = true;
    n->refused = n->io_failed = false;
}

void cluster_new_disk(struct node *n)
{
    struct uuid identity;
    assert(n->absent && !n->formatting && !n->reactor);
    n->absent = false;
    n->replaced = true;
    make_uuid(&identity, n->disks == 0 ? 0xd1 + n->index : 0xe1 + n->index + 0x100 * (n->disks - 1), n->cluster->seed);
    format_begin(n, &identity);
}

bool cluster_votes(const struct membership *m, const struct node *n)
{
    return n->disks > 0 && !n->absent && membership_has_voter(m, &n->identity);
}

struct node *cluster_node_of(struct cluster *c, const struct uuid *identity)
{
    for (unsigned i = 0; i < c->n_nodes; i++)
        if (c->node[i].disks > 0 && !c->node[i].absent && uuid_equal(&c->node[i].identity, identity))
            return &c->node[i];
    return NULL;
}

/* ---- replicas ---- */

static void failed(struct node *n, bool refused, int err, const char *what)
{
    struct cluster *c = n->cluster;
    if (!c->on_node_failed || !c->on_node_failed(c->user, n, refused, err, what))
        cluster_fail(c, "%s: %s: %s: %s", n->host, refused ? "can't serve after its restart" : "fatal", what, strerror(-err));
}

static void on_ready(void *user, int err, const char *why)
{
    struct node *n = user;
    n->ready = !err;
    if (err)
        failed(n, true, err, why ? why : "?");
}

static void on_fatal(void *user, int err, const char *what)
{
    struct node *n = user;
    n->cluster->count.fatal++;
    failed(n, false, err, what);
}

void cluster_start_node(struct node *n)
{
    struct cluster *c = n->cluster;
    assert(!n->reactor && !n->absent);
    n->restart_planned = false;
    n->starts++;
    c->count.restarts++;
    assert(!n->formatting);
    n->reactor = sim_reactor_new(c->world, n->host, NODE_ARENA_BYTES);
    static uint8_t image[SUPERBLOCK_BYTES];
    struct superblock sb;
    sim_disk_peek(sim_dir_find(n->dir, "superblock"), 0, image, sizeof image);
    const char *wrong = superblock_pick(image, &sb);
    if (wrong) {
        failed(n, true, -EBADMSG, wrong);
        return;
    }
    char address[32];
    snprintf(address, sizeof address, "unix:%s", n->host);
    n->config = c->config;
    struct replica_options o = {
        .config = &n->config,
        .superblock = &sb,
        .listen_address = address,
        .store = {.overlay_bytes = c->sizes.overlay_bytes,
                  .leaf_cache_bytes = c->sizes.leaf_cache_bytes,
                  .checkpoint_idle_ns = c->sizes.checkpoint_idle_ns,
                  .write_back_depth = 8,
                  .wal_small_in_flight = c->seed % 4 == 0 ? 0 : 2, /* mostly what the daemon does */
                  .direct_reads = c->seed % 8 == 5},
        .scrub_bytes_per_s = c->sizes.scrub_bytes_per_s,
        .scrub_interval_ns = c->sizes.scrub_interval_ns,
    };
    open_devices(n, &sb, &o.devices);
    struct replica_callbacks cb = {.on_ready = on_ready, .on_fatal = on_fatal, .user = n};
    int err = replica_open(sim_reactor_io(n->reactor), &o, &cb, &n->replica);
    if (err)
        cluster_fail(c, "%s: can't start: %s", n->host, strerror(-err));
}

void cluster_crash_node(struct node *n, enum sim_crash how)
{
    struct cluster *c = n->cluster;
    if (!n->reactor)
        return;
    *(how == SIM_KILL ? &c->count.kills : &c->count.power_cuts) += 1;
    sim_reactor_crash(n->reactor, how);
    sim_bury(n->replica);
    n->reactor = NULL;
    n->replica = NULL;
    n->ready = n->paused = false;
}

/* ---- front ends ---- */

static void on_state(void *user, struct volume *v)
{
    struct frontend *f = user;
    struct cluster *c = f->cluster;
    if (!volume_export(v)->attached || f->session)
        return;
    f->session = ++c->n_sessions;
    c->count.attached++;
    if (c->on_session)
        c->on_session(c->user, f->session, &v->group[0].proposer->ballot);
}

static void end_session(struct frontend *f)
{
    struct cluster *c = f->cluster;
    if (f->session && c->on_session_ended)
        c->on_session_ended(c->user, f->session);
    f->session = 0;
    f->fenced++;
}

static void on_fenced(void *user, struct volume *v)
{
    struct frontend *f = user;
    (void)v;
    f->cluster->count.fenced++;
    end_session(f);
}

static void bury_services(struct frontend *f)
{
    if (f->first_service != f->service)
        sim_bury(f->first_service);
    sim_bury(f->service);
}

static bool frontend_free(struct frontend *f)
{
    bool two = f->first_service != f->service;
    if (two ? !team_free(&f->team) : !service_free(f->service))
        return false;
    if (two) {
        sim_reactor_free(f->first_reactor);
        free(f->first_service);
    }
    sim_reactor_free(f->reactor);
    free(f->service);
    return true;
}

/* The process exits. What it has not given back by then it has leaked (unless its drain was cut short). */
static void frontend_exit(void *user)
{
    struct frontend *f = user;
    struct cluster *c = f->cluster;
    if (!f->reactor || !f->service->stopped)
        return; /* killed meanwhile */
    c->count.frontend_stops++;
    end_session(f);
    if (frontend_free(f)) {
        MARK("front end: stopped in order");
    } else {
        MARK("front end: stopped with clients left");
        sim_reactor_crash(f->reactor, SIM_KILL);
        bury_services(f);
    }
    f->reactor = NULL;
    f->service = f->first_service = NULL;
    f->volume = NULL;
    f->paused = f->draining = false;
    if (c->on_frontend_stopped)
        c->on_frontend_stopped(c->user, f);
}

static void on_stopped(void *user)
{
    struct frontend *f = user;
    sim_at(f->cluster->world, sim_now(f->cluster->world), frontend_exit, f);
}

void cluster_stop_frontend(struct frontend *f)
{
    assert(f->reactor && !f->paused && !f->draining);
    f->draining = true;
    if (f->first_service == f->service) {
        service_stop(f->service);
    } else {
        team_stop(&f->team);
        sim_wake(f->first_reactor);
    }
    sim_wake(f->reactor);
}

static void start_forced_out(void *user)
{
    struct frontend *f = user;
    if (!f->reactor && !f->cluster->broken)
        cluster_start_frontend(f);
}

/* While a take-over is forced for one front end, no other one may run: the operator has sworn it. A replica that is paused may not have read that yet. */
static bool is_forced_out(struct frontend *f)
{
    struct cluster *c = f->cluster;
    if (!c->forced || c->forced == f)
        return false;
    bool wait = sim_now(c->world) < c->forced_until_ns;
    for (unsigned i = 0; i < c->n_nodes; i++)
        wait |= c->node[i].paused;
    if (wait)
        sim_at(c->world, sim_now(c->world) + 100 * NS_PER_MS, start_forced_out, f);
    else
        c->forced = NULL;
    return wait;
}

static struct service *new_service(struct frontend *f, struct sim_reactor *r)
{
    struct cluster *c = f->cluster;
    struct service_options o = {.config = &f->config,
                                .name = f->host,
                                .payload_limit_bytes = c->limits.payload_bytes,
                                .retain_bytes = c->sizes.retain_bytes,
                                .inflight_bytes = c->sizes.inflight_bytes,
                                .fail_after_ns = c->fail_after_ns};
    struct service_callbacks cb = {.on_state = on_state, .on_fenced = on_fenced, .on_stopped = on_stopped, .user = f};
    struct service *s = calloc(1, sizeof *s);
    assert(s);
    service_init(s, sim_reactor_io(r), &o, &cb);
    s->nbd.unsent_max_bytes = c->limits.unsent_bytes;
    s->nbd.attach_wait_ns = c->limits.attach_wait_ns;
    s->nbd.in_flight_max = c->limits.in_flight;
    return s;
}

/* A volume of which nothing is ever heard: its only replica does not exist. */
static void add_idle_volume(struct cluster_config *cfg)
{
    struct replica_config *r = &cfg->replicas[cfg->n_replicas];
    struct volume_config *v = &cfg->volumes[cfg->n_volumes++];
    snprintf(r->name, sizeof r->name, "nobody");
    snprintf(r->address, sizeof r->address, "unix:nobody");
    make_uuid(&r->identity, 0xffff, 1);
    *v = (struct volume_config){.group = SIM_GROUP + 1, .size_bytes = SIM_MIB, .n_replicas = 1, .replica = {cfg->n_replicas++}};
    snprintf(v->name, sizeof v->name, "idle");
}

/* The first of two reactors: it accepts, and has a volume that nobody asks for. */
static int open_first(struct frontend *f)
{
    add_idle_volume(&f->config);
    f->first_service = new_service(f, f->first_reactor);
    return service_add_volume(f->first_service, "idle");
}

static int open_service(struct frontend *f)
{
    struct cluster *c = f->cluster;
    f->config = c->config;
    int err = c->sizes.threads ? open_first(f) : 0;
    f->service = new_service(f, f->reactor);
    if (!err)
        err = service_add_volume(f->service, "vol0");
    f->volume = f->service->volume[0].volume;
    if (!c->sizes.threads)
        f->first_service = f->service;
    else if (!err)
        team_init(&f->team, (struct service *[]){f->first_service, f->service}, 2);
    if (!err && f->index < SIM_FRONTENDS) /* a tool's session serves nobody */
        err = service_listen(f->first_service, f->nbd_address);
    if (!err)
        err = service_listen_status(f->first_service, f->status_address);
    return err;
}

void cluster_start_frontend(struct frontend *f)
{
    struct cluster *c = f->cluster;
    assert(!f->reactor);
    f->restart_planned = false;
    if (f->kept_down || is_forced_out(f))
        return;
    f->starts++;
    f->first_reactor = f->reactor = sim_reactor_new(c->world, f->host, c->limits.arena_bytes);
    if (c->sizes.threads)
        f->reactor = sim_reactor_another(f->first_reactor, c->limits.arena_bytes);
    int err = open_service(f);
    if (err)
        cluster_fail(c, "%s: can't start: %s", f->host, strerror(-err));
}

void cluster_crash_frontend(struct frontend *f, enum sim_crash how)
{
    struct cluster *c = f->cluster;
    if (!f->reactor)
        return;
    c->count.frontend_kills++;
    sim_reactor_crash(f->reactor, how);
    bury_services(f);
    f->reactor = NULL;
    f->service = f->first_service = NULL;
    f->volume = NULL;
    f->paused = f->draining = false;
    end_session(f);
}

struct frontend *cluster_serving(struct cluster *c, uint64_t random)
{
    for (unsigned i = 0; i < SIM_FRONTENDS; i++) {
        struct frontend *f = &c->frontend[(random + i) % SIM_FRONTENDS];
        if (f->reactor && f->session && !f->draining && volume_export(f->volume)->attached)
            return f;
    }
    return NULL;
}

/* Mostly ample; small ones make clients wait for memory, and for each other. The arena as main.c has it. */
static void draw_limits(struct cluster *c)
{
    struct sim_world *w = c->world;
    bool small = sim_chance(w, 6);
    c->limits.payload_bytes = small ? sim_draw(w, (struct sim_range){2 * SIM_MIB, 4 * SIM_MIB}) : 64 * SIM_MIB;
    c->limits.arena_bytes = 4 * c->limits.payload_bytes + c->sizes.retain_bytes;
    c->limits.unsent_bytes = sim_chance(w, 6) ? sim_draw(w, (struct sim_range){SIM_KIB, 100 * SIM_KIB}) : 64 * SIM_MIB;
    c->limits.in_flight = sim_chance(w, 6) ? (uint32_t)sim_draw(w, (struct sim_range){1, 8}) : 1024;
    c->limits.attach_wait_ns = sim_draw(w, (struct sim_range){1, 100}) * (NS_PER_S * 3 / 10);
    c->fail_after_ns = sim_chance(w, 12) ? sim_draw(w, (struct sim_range){50, 3000}) * NS_PER_MS : 0;
}

/* ---- the cluster ---- */

/* Front ends take over from each other within a run only where leases are short against its faults, and it is take-overs that make logs diverge. */
static uint32_t draw_lease_ms(struct cluster *c)
{
    uint64_t shape = sim_draw(c->world, (struct sim_range){0, 9});
    return (uint32_t)sim_draw(c->world, shape < 6 ? (struct sim_range){20, 150} : shape < 9 ? (struct sim_range){150, 1000} : (struct sim_range){2000, 2000});
}

static void make_config(struct cluster *c)
{
    struct cluster_config *cfg = &c->config;
    make_uuid(&cfg->id, 0xc1, c->seed);
    cfg->lease_ms = c->sizes.lease_ms ? c->sizes.lease_ms : draw_lease_ms(c);
    cfg->copy_ceiling_bytes_per_s = c->sizes.copy_ceiling_bytes_per_s;
    cfg->copy_floor_bytes_per_s = c->sizes.copy_ceiling_bytes_per_s / 16;
    cfg->n_replicas = SIM_REPLICAS;
    for (unsigned i = 0; i < SIM_REPLICAS; i++) {
        struct replica_config *r = &cfg->replicas[i];
        snprintf(r->name, sizeof r->name, "replica-%u", i + 1);
        snprintf(r->address, sizeof r->address, "unix:r%u", i + 1);
        make_uuid(&r->identity, 0xd1 + i, c->seed);
    }
    cfg->n_volumes = 1;
    struct volume_config *v = &cfg->volumes[0];
    strcpy(v->name, "vol0");
    v->group = SIM_GROUP;
    v->size_bytes = c->sizes.volume_bytes;
    v->n_replicas = SIM_REPLICAS;
    for (unsigned i = 0; i < SIM_REPLICAS; i++)
        v->replica[i] = i;
}

/* As `qbd local start` does with CREATE: straight to each replica. */
struct creator {
    struct cluster *cluster;
    struct wire_peer peer[SIM_REPLICAS];
    unsigned created;
};

static void creator_open(struct wire_peer *p)
{
    struct creator *cr = p->user;
    struct msg m = {.type = MSG_HELLO, .u.hello = {.version = WIRE_VERSION, .role = ROLE_TOOL, .cluster = cr->cluster->config.id}};
    strcpy(m.u.hello.name, "creator");
    wire_peer_send(p, &m);
}

static void creator_msg(struct wire_peer *p, const struct msg *m, struct buf *payload)
{
    struct creator *cr = p->user;
    struct cluster *c = cr->cluster;
    unsigned i = (unsigned)(p - cr->peer);
    (void)payload;
    if (m->type == MSG_HELLO) {
        struct msg create = {.type = MSG_CREATE, .group = SIM_GROUP, .target = c->config.replicas[i].identity};
        create.u.create.size_blocks = c->sizes.volume_bytes / BLOCK_SIZE;
        create.u.create.membership.n_voters = SIM_REPLICAS;
        for (unsigned k = 0; k < SIM_REPLICAS; k++)
            create.u.create.membership.voter[k] = c->config.replicas[k].identity;
        wire_peer_send(p, &create);
    } else if (m->type == MSG_CREATED && m->u.created.error == 0) {
        cr->created++;
    } else {
        cluster_fail(c, "creating the group on replica %u failed", i + 1);
    }
}

static void creator_closed(struct wire_peer *p, int err, const char *reason)
{
    (void)p;
    (void)err;
    (void)reason;
}

static const struct wire_handler creator_handler = {.on_open = creator_open, .on_msg = creator_msg, .on_closed = creator_closed};

static bool all_created(void *user)
{
    return ((struct creator *)user)->created == SIM_REPLICAS;
}

static void create_group(struct cluster *c)
{
    struct sim_reactor *r = sim_reactor_new(c->world, "tool", 16 * SIM_MIB);
    struct creator cr = {.cluster = c};
    for (unsigned i = 0; i < SIM_REPLICAS; i++) {
        int err = wire_peer_connect(&cr.peer[i], sim_reactor_io(r), c->config.replicas[i].address, &creator_handler, &cr);
        assert(err == 0);
    }
    if (!sim_run_until(c->world, all_created, &cr, 60 * NS_PER_S))
        cluster_fail(c, "the group was not created within a minute");
    sim_reactor_crash(r, SIM_KILL);
}

struct cluster *cluster_new(struct sim_world *w, uint64_t seed, const struct cluster_sizes *sizes)
{
    struct cluster *c = calloc(1, sizeof *c);
    c->world = w;
    c->seed = seed;
    c->sizes = *sizes;
    make_config(c);
    draw_limits(c);
    c->n_nodes = sizes->spares ? SIM_NODES : SIM_REPLICAS;
    for (unsigned i = 0; i < c->n_nodes; i++) {
        struct node *n = &c->node[i];
        n->cluster = c;
        n->index = i;
        snprintf(n->host, sizeof n->host, "r%u", i + 1);
        n->dir = sim_dir_new(w, n->host, 1024 * SIM_MIB);
        n->absent = i >= SIM_REPLICAS;
        if (n->absent)
            continue;
        c->members.voter[c->members.n_voters++] = c->config.replicas[i].identity;
        format_begin(n, &c->config.replicas[i].identity);
        sim_run_until(w, is_formatted, n, 60 * NS_PER_S);
        assert(!n->formatting);
        cluster_start_node(n);
        if (!sim_run_until(w, is_ready, n, 60 * NS_PER_S))
            cluster_fail(c, "%s was not ready within a minute", n->host);
        if (c->broken)
            return c;
    }
    c->founders = c->members;
    create_group(c);
    for (unsigned i = 0; i < SIM_SESSIONS && !c->broken; i++) {
        struct frontend *f = &c->frontend[i];
        f->cluster = c;
        f->index = i;
        snprintf(f->host, sizeof f->host, "fe%u", i + 1);
        snprintf(f->nbd_address, sizeof f->nbd_address, "unix:fe%u-nbd", i + 1);
        snprintf(f->status_address, sizeof f->status_address, "unix:fe%u-status", i + 1);
        f->kept_down = i >= SIM_FRONTENDS;
        cluster_start_frontend(f);
    }
    return c;
}

void cluster_free(struct cluster *c)
{
    for (unsigned i = 0; i < c->n_nodes; i++)
        cluster_crash_node(&c->node[i], SIM_KILL);
    c->on_session_ended = NULL;
    c->on_frontend_stopped = NULL;
    for (unsigned i = 0; i < SIM_SESSIONS; i++)
        cluster_crash_frontend(&c->frontend[i], SIM_KILL);
    free(c);
}

/* ---- replicas against each other ---- */

static bool takes_part(const struct node *n)
{
    return n->ready && !n->refused && cluster_votes(&n->cluster->members, n) && replica_find_group(n->replica, SIM_GROUP);
}

static bool is_complete(const struct node *n)
{
    return takes_part(n) && !replica_find_group(n->replica, SIM_GROUP)->acceptor.needs_copy;
}

/* The best log that is left is what the next session goes on with (P2): the voters that it proposes have a say then, and they may be more than are left. */
static const struct membership *proposed_voters(const struct cluster *c)
{
    const struct acceptor *best = NULL;
    for (unsigned i = 0; i < c->n_nodes; i++) {
        if (!takes_part(&c->node[i]))
            continue;
        const struct acceptor *a = &replica_find_group(c->node[i].replica, SIM_GROUP)->acceptor;
        struct log_pos last = paxos_log_last(&a->log), best_last = best ? paxos_log_last(&best->log) : last;
        if (!best || log_pos_compare(&last, &best_last) > 0)
            best = a;
    }
    return best && best->has_uncommitted ? &best->uncommitted : NULL;
}

static bool has_majority(const struct cluster *c, const struct membership *m)
{
    unsigned n = 0;
    for (unsigned i = 0; i < c->n_nodes; i++) {
        const struct node *x = &c->node[i];
        n += x->ready && !x->refused && membership_has_voter(m, &x->identity) && replica_find_group(x->replica, SIM_GROUP);
    }
    return n >= membership_majority(m);
}

/* One that is complete is enough: the others copy from it. */
bool cluster_can_recover(struct cluster *c)
{
    unsigned complete = 0;
    for (unsigned i = 0; i < c->n_nodes; i++)
        complete += is_complete(&c->node[i]);
    const struct membership *proposed = proposed_voters(c);
    return complete > 0 && has_majority(c, &c->members) && (!proposed || has_majority(c, proposed));
}

bool cluster_is_level(struct cluster *c)
{
    uint64_t applied = 0;
    unsigned level = 0;
    for (unsigned i = 0; i < c->n_nodes; i++) {
        struct node *n = &c->node[i];
        if (n->absent)
            continue;
        if (!n->ready && !n->refused)
            return false;
        if (n->replaced && n->ready && replica_find_group(n->replica, SIM_GROUP))
            cluster_fail(c, "%s is a new disk and takes part in a group that it was never made a member of", n->host);
        if (!takes_part(n))
            continue;
        struct replica_group *g = replica_find_group(n->replica, SIM_GROUP);
        uint64_t a = store_applied(n->replica->store, SIM_GROUP);
        if (g->acceptor.needs_copy || a != g->acceptor.commit || paxos_log_last(&g->acceptor.log).slot != a || (level > 0 && a != applied))
            return false;
        applied = a;
        level++;
    }
    return level >= membership_majority(&c->members);
}

void cluster_describe(struct cluster *c, char *to, size_t cap)
{
    size_t n = 0;
    for (unsigned i = 0; i < c->n_nodes && n < cap; i++) {
        struct node *nd = &c->node[i];
        struct replica_group *g = nd->ready ? replica_find_group(nd->replica, SIM_GROUP) : NULL;
        if (nd->absent)
            continue;
        if (!g) {
            n += (size_t)snprintf(to + n, cap - n, "[%s %s] ", nd->host, nd->refused ? "refuses its disk" : nd->ready ? "is a new disk" : "is down");
            continue;
        }
        n += (size_t)snprintf(to + n, cap - n, "[%s%s floor %llu applied %llu commit %llu last %llu%s catch-up %d] ", nd->host, cluster_votes(&c->members, nd) ? "" : " (no voter)",
                              (unsigned long long)g->acceptor.log.base.slot, (unsigned long long)store_applied(nd->replica->store, SIM_GROUP),
                              (unsigned long long)g->acceptor.commit, (unsigned long long)paxos_log_last(&g->acceptor.log).slot,
                              g->acceptor.needs_copy ? " needs copy" : "", (int)g->catchup.state);
    }
}

struct image {
    struct store_read read;
    bool done;
};

static void on_image(struct store_read *r)
{
    container_of(r, struct image, read)->done = true;
}

static bool image_done(void *user)
{
    return ((struct image *)user)->done;
}

/* What rotted is repaired from peers once it is read, within a minute. */
static const char *read_image(struct cluster *c, struct node *n, uint64_t block, uint32_t nblocks, struct image *im)
{
    static char text[160];
    for (unsigned tries = 0; tries < 60; tries++) {
        *im = (struct image){.read = {.group = SIM_GROUP, .block = block, .nblocks = nblocks, .fn = on_image}};
        store_read(n->replica->store, &im->read);
        if (!sim_run_until(c->world, image_done, im, 60 * NS_PER_S))
            return "a store did not answer a read within a minute";
        if (im->read.err != -EBADMSG)
            break;
        buf_unref(im->read.buf);
        im->read.buf = NULL;
        sim_run_for(c->world, NS_PER_S);
        if (c->broken || !n->ready)
            return "a replica ended while it was read";
    }
    if (!im->read.err)
        return NULL;
    snprintf(text, sizeof text, "%s could not read blocks %llu + %u: %s", n->host, (unsigned long long)block, nblocks, strerror(-im->read.err));
    return text;
}

static bool differs(const struct store_read *a, const struct store_read *b, uint32_t i, uint32_t *crc_a, uint32_t *crc_b)
{
    *crc_a = a->zero[i / 64] >> (i % 64) & 1 ? CRC32C_ZERO_BLOCK : a->crc[i];
    *crc_b = b->zero[i / 64] >> (i % 64) & 1 ? CRC32C_ZERO_BLOCK : b->crc[i];
    return *crc_a != *crc_b;
}

/* One range of all replicas that take part, against the first of them. ret_moved: a session began meanwhile, so that they were not read at one slot. */
static const char *compare_range(struct cluster *c, uint64_t block, uint32_t n, bool *ret_moved)
{
    static char text[160];
    static struct image im[SIM_NODES];
    const char *wrong = NULL;
    int first = -1;
    for (unsigned i = 0; i < c->n_nodes && !wrong; i++) {
        if (!takes_part(&c->node[i]))
            continue;
        wrong = read_image(c, &c->node[i], block, n, &im[i]);
        if (wrong)
            break;
        if (first < 0) {
            first = (int)i;
            continue;
        }
        const struct store_read *a = &im[first].read, *b = &im[i].read;
        uint32_t crc_a, crc_b;
        *ret_moved |= a->applied != b->applied;
        for (uint32_t k = 0; k < n && !wrong && !*ret_moved; k++)
            if (differs(a, b, k, &crc_a, &crc_b)) {
                snprintf(text, sizeof text, "block %llu: replica %d has %08x at slot %llu, replica %u has %08x at slot %llu",
                         (unsigned long long)(block + k), first + 1, crc_a, (unsigned long long)a->applied, i + 1, crc_b,
                         (unsigned long long)b->applied);
                wrong = text;
            }
    }
    for (unsigned i = 0; i < c->n_nodes; i++) {
        if (im[i].done)
            buf_unref(im[i].read.buf);
        im[i].done = false;
    }
    return wrong;
}

static bool stays_level(void *user)
{
    return cluster_is_level(user);
}

const char *cluster_compare_replicas(struct cluster *c)
{
    uint64_t n_blocks = c->sizes.volume_bytes / BLOCK_SIZE;
    const char *wrong = NULL;
    unsigned tries = 0;
    for (uint64_t block = 0; block < n_blocks && !wrong;) {
        bool moved = false;
        wrong = compare_range(c, block, n_blocks - block < ENTRY_MAX_BLOCKS ? (uint32_t)(n_blocks - block) : ENTRY_MAX_BLOCKS, &moved);
        if (!moved)
            block += ENTRY_MAX_BLOCKS;
        else if (++tries == COMPARE_TRIES || !sim_run_until(c->world, stays_level, c, 60 * NS_PER_S))
            wrong = "they do not stay at one slot although nobody writes";
    }
    return wrong;
}
