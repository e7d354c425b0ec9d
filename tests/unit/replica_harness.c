#include "tests/unit/replica_harness.h"

#include <errno.h>

#include "replica/superblock.h"

#define META_PAGES 80u

static void quiet(void *user, enum log_level level, const char *text)
{
    if (getenv("QBD_TEST_LOG"))
        fprintf(stderr, "  %s\n", text);
}

/* ---- life ---- */

static struct dev *open_disk(struct rr *rr, const char *name)
{
    struct dev *dev;
    assert_int_equal(sim_dev_open(rr->sim, sim_dir_find(rr->dir, name), &dev), 0);
    return dev;
}

static void open_devices(struct rr *rr, struct store_devices *d)
{
    static struct dev *extents[64];
    *d = (struct store_devices){.dir = sim_dir_open(rr->sim, rr->dir),
                                .superblock = open_disk(rr, "superblock"),
                                .wal = open_disk(rr, "wal"),
                                .meta = open_disk(rr, "meta"),
                                .extents = extents,
                                .n_extents = rr->sb.n_extents};
    for (uint32_t i = 0; i < rr->sb.n_extents; i++) {
        char name[32];
        snprintf(name, sizeof name, "extents/%05u", i);
        extents[i] = open_disk(rr, name);
    }
}

static void boot(struct rr *rr)
{
    rr->sim = sim_reactor_new(rr->world, "r1", UINT64_C(256) << 20);
    rr->r = sim_reactor_io(rr->sim);
}

static void on_formatted(void *user, int err)
{
    assert_int_equal(err, 0);
    ((struct rr *)user)->formatted = true;
}

static bool is_formatted(void *user)
{
    return ((struct rr *)user)->formatted;
}

static void format(struct rr *rr)
{
    struct store_devices d;
    rr->sb = (struct superblock){.cluster = rr->config.id,
                                 .identity = rr->config.replicas[0].identity,
                                 .name = "replica-1",
                                 .generation = 1,
                                 .shard_count = 1,
                                 .n_extents = 1,
                                 .wal_bytes = rr->wal_bytes,
                                 .extent_bytes = 16u << 20,
                                 .capacity_bytes = rr->capacity_bytes,
                                 .meta_pages = META_PAGES};
    memset(rr->sb.salt, 3, sizeof rr->sb.salt);
    rr->dir = sim_dir_new(rr->world, "data", UINT64_C(1) << 40);
    rr->superblock = sim_disk_new(rr->world, rr->dir, "superblock", SUPERBLOCK_BYTES);
    rr->wal = sim_disk_new(rr->world, rr->dir, "wal", rr->wal_bytes);
    rr->meta = sim_disk_new(rr->world, rr->dir, "meta", (2 + 2 * META_PAGES) * (uint64_t)BLOCK_SIZE);
    sim_disk_new(rr->world, rr->dir, "extents/00000", rr->sb.extent_bytes);
    boot(rr);
    open_devices(rr, &d);
    store_format(rr->r, &d, &rr->sb, on_formatted, rr);
    assert_true(sim_run_until(rr->world, is_formatted, rr, 60 * NS_PER_S));
    sim_reactor_free(rr->sim);
    rr->sim = NULL;
}

struct rr *rr_new(uint64_t seed)
{
    struct rr *rr = calloc(1, sizeof *rr);
    assert_non_null(rr);
    log_set_sink(quiet, NULL);
    rr->world = sim_world_new(seed);
    memset(rr->config.id.b, 0xc1, 16);
    rr->config.lease_ms = 1000;
    rr->config.n_replicas = RR_REPLICAS;
    for (unsigned i = 0; i < RR_REPLICAS; i++) {
        struct replica_config *c = &rr->config.replicas[i];
        snprintf(c->name, sizeof c->name, "replica-%u", i + 1);
        snprintf(c->address, sizeof c->address, "r%u:7000", i + 1);
        memset(c->identity.b, 0xd1 + (int)i, 16);
        rr->donor_identity[i] = c->identity;
    }
    rr->options = (struct store_options){.overlay_bytes = 8u << 20, .leaf_cache_bytes = 64u << 10, .checkpoint_idle_ns = 5 * NS_PER_S, .write_back_depth = 4};
    rr->wal_bytes = 8u << 20;
    rr->capacity_bytes = 16u << 20;
    rr->others = sim_reactor_new(rr->world, "others", UINT64_C(256) << 20);
    return rr;
}

static void on_ready(void *user, int err, const char *why)
{
    struct rr *rr = user;
    rr->ready = true;
    rr->ready_err = err;
    snprintf(rr->why, sizeof rr->why, "%s", why ? why : "");
}

static void on_fatal(void *user, int err, const char *what)
{
    struct rr *rr = user;
    rr->fatal = err;
    snprintf(rr->fatal_what, sizeof rr->fatal_what, "%s", what);
}

static bool is_ready(void *user)
{
    return ((struct rr *)user)->ready;
}

int rr_start(struct rr *rr)
{
    static uint8_t image[SUPERBLOCK_BYTES];
    if (!rr->dir)
        format(rr);
    sim_disk_peek(rr->superblock, 0, image, sizeof image);
    assert_null(superblock_pick(image, &rr->sb));
    boot(rr);
    struct replica_options o = {.config = &rr->config,
                                .superblock = &rr->sb,
                                .listen_address = rr->listen ? rr->listen : rr->config.replicas[0].address,
                                .pid = 4711,
                                .store = rr->options,
                                .scrub_bytes_per_s = rr->scrub_bytes_per_s,
                                .scrub_interval_ns = rr->scrub_interval_ns};
    open_devices(rr, &o.devices);
    struct replica_callbacks cb = {.on_ready = on_ready, .on_fatal = on_fatal, .user = rr};
    rr->ready = rr->closed = false;
    rr->fatal = 0;
    assert_int_equal(replica_open(rr->r, &o, &cb, &rr->replica), 0);
    assert_true(sim_run_until(rr->world, is_ready, rr, 60 * NS_PER_S));
    return rr->ready_err;
}

void rr_start_ok(struct rr *rr)
{
    if (rr_start(rr))
        fail_msg("it does not start: %s", rr->why);
}

static void on_closed(void *user)
{
    ((struct rr *)user)->closed = true;
}

static bool is_closed(void *user)
{
    return ((struct rr *)user)->closed;
}

void rr_stop(struct rr *rr)
{
    replica_close(rr->replica, on_closed, rr);
    assert_true(sim_run_until(rr->world, is_closed, rr, 60 * NS_PER_S));
    sim_run_for(rr->world, 10 * NS_PER_MS);
    replica_free(rr->replica);
    rr->replica = NULL;
    sim_reactor_free(rr->sim); /* asserts that nothing is left */
    rr->sim = NULL;
}

void rr_crash(struct rr *rr, enum sim_crash how)
{
    sim_reactor_crash(rr->sim, how);
    sim_bury(rr->replica);
    rr->replica = NULL;
    rr->sim = NULL;
}

static void probe_free(struct rr_probe *p)
{
    for (unsigned i = 0; i < p->n_got; i++) {
        entry_unref(p->got[i].entry);
        free(p->got[i].json);
        free(p->got[i].data);
    }
    free(p->got);
    free(p);
}

void rr_free(struct rr *rr)
{
    for (struct rr_probe *p = rr->probes; p; p = p->next_probe)
        wire_peer_close(&p->peer);
    for (unsigned i = 0; i < RR_REPLICAS; i++)
        if (rr->donor[i])
            listener_close(rr->donor[i]);
    sim_run_for(rr->world, NS_PER_MS);
    if (rr->sim && !rr->fatal)
        rr_stop(rr);
    else if (rr->sim)
        rr_crash(rr, SIM_KILL);
    for (struct rr_probe *p; (p = rr->probes);) {
        rr->probes = p->next_probe;
        probe_free(p);
    }
    sim_world_free(rr->world);
    log_set_sink(NULL, NULL);
    free(rr);
}

void rr_run(struct rr *rr, uint64_t ns)
{
    sim_run_for(rr->world, ns);
}

struct replica_group *rr_group(struct rr *rr)
{
    return replica_find_group(rr->replica, RR_GROUP);
}

/* ---- probes ---- */

static void keep(struct rr_probe *p, const struct msg *m, struct buf *payload)
{
    assert_true(p->n_got < RR_GOT_MAX);
    struct rr_got *g = &p->got[p->n_got++];
    *g = (struct rr_got){.m = *m};
    struct entry *e = wire_msg_entry(m);
    if (e)
        g->entry = entry_ref(e);
    if (m->type == MSG_STATUS_REPLY) {
        g->json = strndup(m->u.status_reply.json, m->u.status_reply.len);
        assert_non_null(g->json);
    }
    if (m->type == MSG_DATA && m->u.data.status == DATA_OK) {
        memcpy(g->crc, m->u.data.crc, m->u.data.nblocks * sizeof g->crc[0]);
        memcpy(g->zero, m->u.data.zero, sizeof g->zero);
        g->data_len = m->u.data.payload_len;
    } else if (m->type == MSG_IMAGE_REPLY && m->u.image_reply.status == DONOR_OK) {
        memcpy(g->crc, m->u.image_reply.crc, m->u.image_reply.nblocks * sizeof g->crc[0]);
        memcpy(g->zero, m->u.image_reply.zero, sizeof g->zero);
        memcpy(g->bad, m->u.image_reply.bad, sizeof g->bad);
        memcpy(g->lost, m->u.image_reply.lost, sizeof g->lost);
        g->data_len = m->u.image_reply.payload_len;
    } else {
        return;
    }
    g->data = malloc(g->data_len + 1);
    assert_non_null(g->data);
    if (g->data_len)
        memcpy(g->data, payload->data, g->data_len);
}

static void probe_open(struct wire_peer *w)
{
    ((struct rr_probe *)w->user)->open = true;
}

static void probe_msg(struct wire_peer *w, const struct msg *m, struct buf *payload)
{
    struct rr_probe *p = w->user;
    keep(p, m, payload);
    if (p->serve)
        p->serve(p, m);
}

static void probe_closed(struct wire_peer *w, int err, const char *reason)
{
    struct rr_probe *p = w->user;
    p->closed = true;
    p->err = err;
    snprintf(p->reason, sizeof p->reason, "%s", reason ? reason : "");
}

static const struct wire_handler probe_handler = {.on_open = probe_open, .on_msg = probe_msg, .on_closed = probe_closed};

static struct rr_probe *probe_new(struct rr *rr)
{
    struct rr_probe *p = calloc(1, sizeof *p);
    assert_non_null(p);
    p->got = calloc(RR_GOT_MAX, sizeof *p->got);
    assert_non_null(p->got);
    p->rr = rr;
    p->peer.verify_payload = true;
    p->next_probe = rr->probes;
    rr->probes = p;
    return p;
}

static bool is_open(void *user)
{
    struct rr_probe *p = user;
    return p->open || p->closed;
}

struct rr_probe *rr_connect(struct rr *rr)
{
    struct rr_probe *p = probe_new(rr);
    assert_int_equal(wire_peer_connect(&p->peer, sim_reactor_io(rr->others), rr->config.replicas[0].address, &probe_handler, p), 0);
    assert_true(sim_run_until(rr->world, is_open, p, 10 * NS_PER_S));
    assert_true(p->open);
    return p;
}

struct rr_probe *rr_greet(struct rr *rr, enum node_role role)
{
    struct rr_probe *p = rr_connect(rr);
    struct msg m = {.type = MSG_HELLO, .u.hello = {.version = WIRE_VERSION, .role = role, .cluster = rr->config.id}};
    memset(m.u.hello.identity.b, 0xfe, 16);
    strcpy(m.u.hello.name, "probe");
    rr_say(p, m);
    struct rr_got *g = rr_take(p, MSG_HELLO);
    assert_int_equal(g->m.u.hello.role, ROLE_REPLICA);
    assert_string_equal(g->m.u.hello.name, "replica-1");
    assert_true(uuid_equal(&g->m.u.hello.identity, &rr->config.replicas[0].identity));
    return p;
}

void rr_say(struct rr_probe *p, struct msg m)
{
    if (uuid_is_zero(&m.target))
        m.target = p->rr->config.replicas[0].identity;
    if (m.group == 0)
        m.group = RR_GROUP;
    wire_peer_send(&p->peer, &m);
}

struct taking {
    struct rr_probe *p;
    enum msg_type type;
    struct rr_got *got;
};

static bool has_come(void *user)
{
    struct taking *t = user;
    while (!t->got && t->p->next < t->p->n_got) {
        struct rr_got *g = &t->p->got[t->p->next++];
        if (g->m.type == t->type)
            t->got = g;
    }
    return t->got || t->p->closed;
}

struct rr_got *rr_take(struct rr_probe *p, enum msg_type type)
{
    struct taking t = {.p = p, .type = type};
    sim_run_until(p->rr->world, has_come, &t, 30 * NS_PER_S);
    if (!t.got)
        fail_msg("no %s came (%s)", wire_type_name(type), p->closed ? "the connection ended" : "in time");
    return t.got;
}

static bool is_gone(void *user)
{
    return ((struct rr_probe *)user)->closed;
}

void rr_refused(struct rr_probe *p, const char *text)
{
    assert_true(sim_run_until(p->rr->world, is_gone, p, 30 * NS_PER_S));
    assert_string_equal(p->reason, "");
    struct rr_got *g = rr_take(p, MSG_REFUSED);
    if (!strstr(g->m.u.refused.reason, text))
        fail_msg("\"%s\" instead of \"%s\"", g->m.u.refused.reason, text);
}

char *rr_status(struct rr *rr)
{
    struct rr_probe *p = rr_greet(rr, ROLE_TOOL);
    rr_say(p, (struct msg){.type = MSG_STATUS, .cookie = 99});
    struct rr_got *g = rr_take(p, MSG_STATUS_REPLY);
    assert_int_equal(g->m.cookie, 99);
    char *json = g->json;
    g->json = NULL;
    wire_peer_close(&p->peer);
    return json;
}

/* ---- as a proposer ---- */

void rr_create(struct rr *rr, struct rr_probe *p)
{
    struct msg m = {.type = MSG_CREATE, .cookie = 1, .u.create = {.size_blocks = RR_BLOCKS, .membership.n_voters = RR_REPLICAS}};
    for (unsigned i = 0; i < RR_REPLICAS; i++)
        m.u.create.membership.voter[i] = rr->config.replicas[i].identity;
    rr_say(p, m);
    assert_int_equal(rr_take(p, MSG_CREATED)->m.u.created.error, 0);
}

struct ballot rr_ballot(uint64_t round)
{
    struct ballot b = {.round = round};
    if (round)
        memset(b.proposer.b, 0x70 + (int)(round % 8), 16);
    return b;
}

void rr_prepare(struct rr_probe *p, uint64_t round, uint64_t lease_ns)
{
    struct msg m = {.type = MSG_PREPARE, .ballot = rr_ballot(round), .u.prepare = {.lease_ns = lease_ns}};
    strcpy(m.u.prepare.name, "frontend-1");
    rr_say(p, m);
    rr_take(p, MSG_PROMISE);
}

void rr_open(struct rr_probe *p, uint64_t round, struct log_pos at)
{
    struct msg m = {.type = MSG_OPEN, .ballot = rr_ballot(round), .u.open = {.at = at}};
    rr_say(p, m);
    assert_int_equal(rr_take(p, MSG_OPENED)->m.u.opened.m, at.slot);
}

struct entry *rr_entry(struct rr *rr, uint64_t slot, uint64_t round, uint64_t block, uint32_t nblocks, uint8_t fill)
{
    struct arena *a = sim_reactor_io(rr->others)->arena;
    struct buf *b = buf_alloc_must(a, nblocks * BLOCK_SIZE);
    memset(b->data, fill, nblocks * BLOCK_SIZE);
    struct entry *e = entry_new(a, ENTRY_WRITE, block, nblocks, b, 0);
    assert_non_null(e);
    for (uint32_t i = 0; i < nblocks; i++)
        entry_crcs(e)[i] = crc32c(b->data + (size_t)i * BLOCK_SIZE, BLOCK_SIZE);
    e->group = RR_GROUP;
    e->slot = slot;
    e->e = rr_ballot(round);
    return e;
}

void rr_accept(struct rr_probe *p, uint64_t round, struct entry *e, uint64_t commit)
{
    rr_say(p, (struct msg){.type = MSG_ACCEPT, .ballot = rr_ballot(round), .u.accept = {.commit = commit, .entry = e}});
    entry_unref(e);
}

void rr_beat(struct rr_probe *p, uint64_t round, uint64_t commit)
{
    rr_say(p, (struct msg){.type = MSG_BEAT, .ballot = rr_ballot(round), .u.beat = {.commit = {.slot = commit, .e = rr_ballot(commit ? round : 0)}}});
}

struct applying {
    struct rr *rr;
    uint64_t slot;
};

static bool is_applied(void *user)
{
    struct applying *a = user;
    return store_applied(a->rr->replica->store, RR_GROUP) >= a->slot;
}

void rr_applied(struct rr *rr, uint64_t slot)
{
    struct applying a = {rr, slot};
    if (!sim_run_until(rr->world, is_applied, &a, 30 * NS_PER_S))
        fail_msg("applied %d, not %d", (int)store_applied(rr->replica->store, RR_GROUP), (int)slot);
}

/* ---- as other replicas ---- */

static void donor_serve(struct rr_probe *p, const struct msg *m)
{
    struct rr *rr = p->rr;
    if (m->type != MSG_HELLO) {
        if (rr->serve[p->index])
            rr->serve[p->index](p, m);
        return;
    }
    assert_int_equal(m->u.hello.role, ROLE_REPLICA);
    struct msg hello = {.type = MSG_HELLO,
                        .u.hello = {.version = WIRE_VERSION, .role = ROLE_REPLICA, .cluster = rr->config.id, .identity = rr->donor_identity[p->index]}};
    strcpy(hello.u.hello.name, rr->config.replicas[p->index].name);
    wire_peer_send(&p->peer, &hello);
}

static void on_accept(struct listener *l, struct conn *c)
{
    struct rr *rr = l->user;
    struct rr_probe *p = probe_new(rr);
    for (unsigned i = 0; i < RR_REPLICAS; i++)
        if (rr->donor[i] == l)
            p->index = i;
    p->serve = donor_serve;
    p->open = true;
    rr->last_donor = p;
    rr->n_donor_connects++;
    wire_peer_accept(&p->peer, c, &probe_handler, p);
}

void rr_donor(struct rr *rr, unsigned i, void (*serve)(struct rr_probe *p, const struct msg *m))
{
    rr->serve[i] = serve;
    if (!rr->donor[i])
        assert_int_equal(io_listen(sim_reactor_io(rr->others), rr->config.replicas[i].address, on_accept, rr, &rr->donor[i]), 0);
}

void rr_rot(struct rr *rr, uint8_t fill)
{
    struct sim_disk *extent = sim_dir_find(rr->dir, "extents/00000");
    uint8_t page[BLOCK_SIZE], want[BLOCK_SIZE];
    unsigned found = 0;
    memset(want, fill, sizeof want);
    for (uint64_t off = 0; off < sim_disk_size(extent); off += BLOCK_SIZE) {
        sim_disk_peek(extent, off, page, sizeof page);
        if (memcmp(page, want, sizeof want) != 0)
            continue;
        found++;
        sim_disk_flip(extent, off + 77, 3);
    }
    assert_int_equal(found, 2);
}
