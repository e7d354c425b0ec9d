/* A lost disk is replaced while the volume is written to: whole replicas on simulated disks, the front end's volume session, and an operator who repeats each step until it is done. The new
 * replica, its donors and the front end are killed at random moments meanwhile. Then the change must come to its end, a second of the old replicas is taken away, and every block must hold what the
 * clients may find there: the last write that was answered, or one behind it that was not.
 *
 *   test_rebuild [FIRST_SEED N_SEEDS]      default: a dozen */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "nbdserver/volume_internal.h"
#include "replica/replica_internal.h"
#include "replica/superblock.h"
#include "tests/sim/simio.h"

#define BOXES 4u /* the last one is the spare */
#define GROUP 5
#define BLOCKS 2048u
#define META_PAGES 80u
#define WAL_BYTES (UINT64_C(8) << 20)
#define EXTENT_BYTES (UINT64_C(16) << 20)
#define OPEN_MAX 6u
#define PIECE 16u /* blocks of a write or a read at most */

#define CHECK(b, cond, ...)                                                                                            \
    do {                                                                                                               \
        if (!(cond)) {                                                                                                 \
            fprintf(stderr, "seed %" PRIu64 " at %.3f s: %s: ", (b)->seed, (double)sim_now((b)->world) / 1e9, #cond);  \
            fprintf(stderr, __VA_ARGS__);                                                                              \
            fputc('\n', stderr);                                                                                       \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

struct bench;

struct box {
    struct bench *bench;
    unsigned index;
    struct sim_dir *dir;
    struct superblock sb;
    struct sim_reactor *sim;
    struct replica *replica;
    struct dev *extents[64];
    bool formatted, ready;
};

struct write {
    struct export_request r;
    struct bench *bench;
    uint64_t block;
    uint32_t n, session; /* session: of the front end that took it */
    uint8_t value;
    bool is_read, busy;
};

struct bench {
    uint64_t seed;
    struct sim_world *world;
    struct cluster_config config;
    struct box box[BOXES];
    struct sim_reactor *tool, *front;
    struct volume *volume;
    uint32_t session;
    struct write *write[OPEN_MAX];
    uint64_t may[BLOCKS]; /* values that a block may have, as bits */
    bool busy[BLOCKS];
    uint8_t next_value;
    uint64_t n_acked, n_lost, n_read, n_kills;
    bool writing;
    /* the operator */
    struct wire_peer peer;
    bool greeted, created, peer_closed;
    int create_error;
    uint32_t learned; /* the session that was told of the learner */
    bool asked, done;
    unsigned refusals;
};

static void quiet(void *user, enum log_level level, const char *text)
{
    struct bench *b = user;
    if (getenv("QBD_TEST_LOG"))
        fprintf(stderr, "%10.3f %s\n", (double)sim_now(b->world) / 1e9, text);
}

static uint64_t draw(struct bench *b, uint64_t n)
{
    return sim_rand(b->world) % n;
}

/* ---- replicas ---- */

static struct dev *open_disk(struct box *x, const char *name)
{
    struct dev *dev;
    int rc = sim_dev_open(x->sim, sim_dir_find(x->dir, name), &dev);
    CHECK(x->bench, rc == 0, "%s", name);
    return dev;
}

static void boot(struct box *x)
{
    char host[8];
    snprintf(host, sizeof host, "r%u", x->index + 1);
    x->sim = sim_reactor_new(x->bench->world, host, UINT64_C(256) << 20);
}

static void open_devices(struct box *x, struct store_devices *d)
{
    *d = (struct store_devices){.dir = sim_dir_open(x->sim, x->dir),
                                .superblock = open_disk(x, "superblock"),
                                .wal = open_disk(x, "wal"),
                                .meta = open_disk(x, "meta"),
                                .extents = x->extents,
                                .n_extents = x->sb.n_extents};
    for (uint32_t i = 0; i < x->sb.n_extents; i++) {
        char name[32];
        snprintf(name, sizeof name, "extents/%05u", i);
        x->extents[i] = open_disk(x, name);
    }
}

static void on_formatted(void *user, int err)
{
    struct box *x = user;
    CHECK(x->bench, err == 0, "format: %d", err);
    x->formatted = true;
}

static bool is_formatted(void *user)
{
    return ((struct box *)user)->formatted;
}

static void format(struct box *x)
{
    struct bench *b = x->bench;
    struct store_devices d;
    char path[32];
    x->sb = (struct superblock){.cluster = b->config.id,
                                .identity = b->config.replicas[x->index].identity,
                                .generation = 1,
                                .shard_count = 1,
                                .n_extents = 1,
                                .wal_bytes = WAL_BYTES,
                                .extent_bytes = EXTENT_BYTES,
                                .capacity_bytes = 4 * EXTENT_BYTES,
                                .meta_pages = META_PAGES};
    snprintf(x->sb.name, sizeof x->sb.name, "replica-%u", x->index + 1);
    memset(x->sb.salt, 3 + (int)x->index, sizeof x->sb.salt);
    snprintf(path, sizeof path, "data-%u", x->index + 1);
    x->dir = sim_dir_new(b->world, path, UINT64_C(1) << 40);
    sim_disk_new(b->world, x->dir, "superblock", SUPERBLOCK_BYTES);
    sim_disk_new(b->world, x->dir, "wal", WAL_BYTES);
    sim_disk_new(b->world, x->dir, "meta", (2 + 2 * META_PAGES) * (uint64_t)BLOCK_SIZE);
    sim_disk_new(b->world, x->dir, "extents/00000", EXTENT_BYTES);
    boot(x);
    open_devices(x, &d);
    store_format(sim_reactor_io(x->sim), &d, &x->sb, on_formatted, x);
    bool ok = sim_run_until(b->world, is_formatted, x, 60 * NS_PER_S);
    CHECK(b, ok, "formatted");
    sim_reactor_free(x->sim);
    x->sim = NULL;
}

static void on_ready(void *user, int err, const char *why)
{
    struct box *x = user;
    CHECK(x->bench, err == 0, "replica-%u does not start: %s", x->index + 1, why ? why : "");
    x->ready = true;
}

static void on_fatal(void *user, int err, const char *what)
{
    struct box *x = user;
    CHECK(x->bench, false, "replica-%u ends: %s (%d)", x->index + 1, what, err);
}

static bool is_ready(void *user)
{
    return ((struct box *)user)->ready;
}

static void start_box(struct box *x)
{
    static uint8_t image[SUPERBLOCK_BYTES];
    if (x->sim)
        return;
    sim_disk_peek(sim_dir_find(x->dir, "superblock"), 0, image, sizeof image);
    const char *why = superblock_pick(image, &x->sb);
    CHECK(x->bench, !why, "%s", why);
    boot(x);
    struct replica_options o = {.config = &x->bench->config,
                                .superblock = &x->sb,
                                .listen_address = x->bench->config.replicas[x->index].address,
                                .pid = (int)x->index + 1,
                                .store = {.overlay_bytes = 8u << 20, .leaf_cache_bytes = 64u << 10, .checkpoint_idle_ns = 2 * NS_PER_S, .write_back_depth = 4}};
    open_devices(x, &o.devices);
    struct replica_callbacks cb = {.on_ready = on_ready, .on_fatal = on_fatal, .user = x};
    x->ready = false;
    int rc = replica_open(sim_reactor_io(x->sim), &o, &cb, &x->replica);
    CHECK(x->bench, rc == 0, "replica_open: %d", rc);
}

static void restart_box(void *user)
{
    start_box(user);
}

static void kill_box(struct box *x, bool power)
{
    if (!x->sim)
        return;
    sim_reactor_crash(x->sim, power ? SIM_POWER : SIM_KILL);
    sim_bury(x->replica);
    x->replica = NULL;
    x->sim = NULL;
    x->bench->n_kills++;
}

/* ---- the front end and its clients ---- */

static void start_front(void *user)
{
    struct bench *b = user;
    if (b->front)
        return;
    b->front = sim_reactor_new(b->world, "fe", UINT64_C(256) << 20);
    struct volume_options o = {.config = &b->config, .volume_name = "vol0", .frontend_name = "fe"};
    int rc = volume_open(sim_reactor_io(b->front), &o, NULL, &b->volume);
    CHECK(b, rc == 0, "volume_open: %d", rc);
    b->session++;
}

static void kill_front(struct bench *b)
{
    if (!b->front)
        return;
    sim_reactor_crash(b->front, SIM_KILL);
    sim_bury(b->volume);
    b->volume = NULL;
    b->front = NULL;
    b->asked = false;
    b->n_kills++;
    for (unsigned i = 0; i < OPEN_MAX; i++) {
        struct write *w = b->write[i];
        if (!w->busy)
            continue;
        w->busy = false; /* what became of it nobody was told: its value stays possible */
        b->n_lost += !w->is_read;
        for (uint32_t k = 0; k < w->n && !w->is_read; k++)
            b->busy[w->block + k] = false;
        b->write[i] = calloc(1, sizeof *w);
        b->write[i]->bench = b;
        sim_bury(w);
    }
}

static void check_read(struct bench *b, struct write *w)
{
    uint64_t at = 0;
    for (uint32_t i = 0; i < w->r.n_pieces; i++)
        for (uint32_t k = 0; k < w->r.data_len[i]; k++, at++) {
            uint8_t v = w->r.data[i] ? w->r.data[i]->data[w->r.data_off[i] + k] : 0;
            uint64_t block = w->block + at / BLOCK_SIZE;
            CHECK(b, v < 64 && (b->may[block] >> v & 1), "block %" PRIu64 " holds %u, and may hold %" PRIx64, block, v, b->may[block]);
        }
    CHECK(b, at == (uint64_t)w->n * BLOCK_SIZE, "%" PRIu64 " bytes", at);
    b->n_read++;
}

static void on_done(struct export_request *r)
{
    struct write *w = r->user;
    struct bench *b = w->bench;
    w->busy = false;
    if (w->is_read) {
        CHECK(b, r->error == 0, "a read of block %" PRIu64 " fails: %d", w->block, r->error);
        check_read(b, w);
    } else {
        b->n_acked += r->error == 0;
        for (uint32_t k = 0; k < w->n; k++) {
            b->busy[w->block + k] = false;
            if (r->error == 0)
                b->may[w->block + k] = UINT64_C(1) << w->value;
        }
    }
    for (uint32_t i = 0; i < r->n_pieces; i++)
        buf_unref(r->data[i]);
}

static struct write *idle_write(struct bench *b)
{
    for (unsigned i = 0; i < OPEN_MAX; i++)
        if (!b->write[i]->busy)
            return b->write[i];
    return NULL;
}

static void submit(struct bench *b, struct write *w, bool is_read, uint64_t block, uint32_t n)
{
    struct bench *bench = w->bench;
    *w = (struct write){.bench = bench, .block = block, .n = n, .is_read = is_read, .busy = true, .session = b->session};
    w->r = (struct export_request){.op = is_read ? EXPORT_READ : EXPORT_WRITE, .offset = block * BLOCK_SIZE, .length = n * BLOCK_SIZE, .done = on_done, .user = w};
    if (!is_read) {
        bool clash = true;
        while (clash) {
            b->next_value = (uint8_t)(b->next_value % 63 + 1);
            clash = false;
            for (uint32_t k = 0; k < n; k++)
                clash |= (b->may[block + k] >> b->next_value & 1) && b->may[block + k] != ~UINT64_C(0);
        }
        w->value = b->next_value;
        for (uint32_t k = 0; k < n; k++) {
            b->busy[block + k] = true;
            b->may[block + k] |= UINT64_C(1) << w->value;
        }
        w->r.n_pieces = export_cut(w->r.offset, w->r.length, w->r.data_off, w->r.data_len);
        for (uint32_t i = 0; i < w->r.n_pieces; i++) {
            w->r.data[i] = buf_alloc_must(sim_reactor_io(b->front)->arena, w->r.data_off[i] + w->r.data_len[i]);
            memset(w->r.data[i]->data, w->value, w->r.data_off[i] + w->r.data_len[i]);
        }
    }
    struct export *x = volume_export(b->volume);
    x->submit(x, &w->r);
}

/* Clients write all the time. */
static void client(void *user)
{
    struct bench *b = user;
    if (!b->writing)
        return;
    sim_at(b->world, sim_now(b->world) + (1 + draw(b, 8)) * NS_PER_MS, client, b);
    struct write *w = b->front && volume_export(b->volume)->attached ? idle_write(b) : NULL;
    uint32_t n = 1 + (uint32_t)draw(b, PIECE);
    uint64_t block = draw(b, BLOCKS - n);
    bool free = w != NULL;
    for (uint32_t k = 0; free && k < n; k++)
        free = !b->busy[block + k];
    if (free)
        submit(b, w, false, block, n);
}

/* ---- the operator ---- */

static void peer_open(struct wire_peer *p)
{
    struct bench *b = p->user;
    struct msg m = {.type = MSG_HELLO, .u.hello = {.version = WIRE_VERSION, .role = ROLE_TOOL, .cluster = b->config.id}};
    strcpy(m.u.hello.name, "operator");
    wire_peer_send(p, &m);
}

static void peer_msg(struct wire_peer *p, const struct msg *m, struct buf *payload)
{
    struct bench *b = p->user;
    b->greeted |= m->type == MSG_HELLO;
    if (m->type == MSG_CREATED) {
        b->created = true;
        b->create_error = m->u.created.error;
    }
}

static void peer_closed(struct wire_peer *p, int err, const char *reason)
{
    ((struct bench *)p->user)->peer_closed = true;
}

static const struct wire_handler peer_handler = {.on_open = peer_open, .on_msg = peer_msg, .on_closed = peer_closed};

static bool is_greeted(void *user)
{
    return ((struct bench *)user)->greeted;
}

static bool is_created(void *user)
{
    return ((struct bench *)user)->created;
}

static bool is_peer_closed(void *user)
{
    return ((struct bench *)user)->peer_closed;
}

static void create(struct bench *b, unsigned box, const struct membership *members)
{
    const struct replica_config *rc = &b->config.replicas[box];
    memset(&b->peer, 0, sizeof b->peer);
    b->greeted = b->created = b->peer_closed = false;
    int rc_connect = wire_peer_connect(&b->peer, sim_reactor_io(b->tool), rc->address, &peer_handler, b);
    CHECK(b, rc_connect == 0 && sim_run_until(b->world, is_greeted, b, 10 * NS_PER_S), "replica-%u is not there", box + 1);
    struct msg m = {.type = MSG_CREATE, .cookie = 1, .group = GROUP, .target = rc->identity, .u.create = {.size_blocks = BLOCKS, .membership = *members}};
    wire_peer_send(&b->peer, &m);
    CHECK(b, sim_run_until(b->world, is_created, b, 10 * NS_PER_S) && b->create_error == 0, "CREATE: %d", b->create_error);
    wire_peer_close(&b->peer);
    CHECK(b, sim_run_until(b->world, is_peer_closed, b, 10 * NS_PER_S), "closed");
}

static void on_members(void *user, int err, const char *text)
{
    struct bench *b = user;
    b->asked = false;
    b->done |= err == 0;
    b->refusals += err != 0;
}

/* Each step as often as it takes, whatever was forgotten meanwhile. */
static void operator_turn(void *user)
{
    struct bench *b = user;
    if (b->done)
        return;
    sim_at(b->world, sim_now(b->world) + 200 * NS_PER_MS, operator_turn, b);
    if (!b->front || !volume_export(b->volume)->attached || b->asked)
        return;
    const char *text;
    struct membership learner = {.n_voters = 1, .n_learners = 1}, voters = {.n_voters = 3};
    learner.voter[0] = b->config.replicas[1].identity;
    learner.learner[0] = b->config.replicas[3].identity;
    for (unsigned i = 0; i < 3; i++)
        voters.voter[i] = b->config.replicas[i + 1].identity;
    int rc = volume_members(b->volume, MEMBERS_LEARN, &learner, NULL, NULL, &text);
    CHECK(b, rc == 0, "LEARN: %d %s", rc, text);
    rc = volume_members(b->volume, MEMBERS_CHANGE, &voters, on_members, b, &text);
    CHECK(b, rc == -EINPROGRESS || rc == -EBUSY, "VOTERS: %d %s", rc, text);
    b->asked = rc == -EINPROGRESS;
}

static bool is_replaced(void *user)
{
    return ((struct bench *)user)->done;
}

/* ---- the story ---- */

static void faults(void *user)
{
    struct bench *b = user;
    if (b->done)
        return;
    sim_at(b->world, sim_now(b->world) + (100 + draw(b, 1500)) * NS_PER_MS, faults, b);
    uint64_t later = sim_now(b->world) + draw(b, 800) * NS_PER_MS, dice = draw(b, 8);
    struct box *x = dice < 4 ? &b->box[3] : &b->box[1 + dice % 2]; /* the target; a donor */
    if (dice >= 7) {
        kill_front(b);
        sim_at(b->world, later, start_front, b);
    } else if (x->sim && x->ready) {
        kill_box(x, draw(b, 3) == 0);
        sim_at(b->world, later, restart_box, x);
    }
}

static bool is_attached(void *user)
{
    struct bench *b = user;
    return b->front && volume_export(b->volume)->attached;
}

static bool is_quiet(void *user)
{
    struct bench *b = user;
    for (unsigned i = 0; i < OPEN_MAX; i++)
        if (b->write[i]->busy)
            return false;
    return true;
}

static bool enough_writes(void *user)
{
    return ((struct bench *)user)->n_acked >= 300;
}

static void check_all(struct bench *b)
{
    CHECK(b, sim_run_until(b->world, is_attached, b, 60 * NS_PER_S), "attached: %s", b->volume ? volume_export(b->volume)->state : "no front end");
    CHECK(b, sim_run_until(b->world, is_quiet, b, 60 * NS_PER_S), "all answered");
    for (uint64_t block = 0; block < BLOCKS; block += PIECE) {
        submit(b, b->write[0], true, block, PIECE);
        CHECK(b, sim_run_until(b->world, is_quiet, b, 60 * NS_PER_S), "block %" PRIu64 " is read", block);
    }
}

static void setup(struct bench *b, uint64_t seed)
{
    b->seed = seed;
    b->world = sim_world_new(seed);
    log_set_sink(quiet, b);
    memset(b->config.id.b, 0xc1, 16);
    b->config.lease_ms = 500;
    b->config.n_replicas = BOXES;
    b->config.n_volumes = 1;
    b->config.volumes[0] = (struct volume_config){.name = "vol0", .group = GROUP, .size_bytes = BLOCKS * BLOCK_SIZE, .n_replicas = 3, .replica = {0, 1, 2}};
    for (unsigned i = 0; i < BOXES; i++) {
        struct replica_config *c = &b->config.replicas[i];
        snprintf(c->name, sizeof c->name, "replica-%u", i + 1);
        snprintf(c->address, sizeof c->address, "r%u:7000", i + 1);
        memset(c->identity.b, 0xd1 + (int)i, 16);
        b->box[i].bench = b;
        b->box[i].index = i;
    }
    for (unsigned i = 0; i < OPEN_MAX; i++) {
        b->write[i] = calloc(1, sizeof *b->write[i]);
        b->write[i]->bench = b;
    }
    for (unsigned i = 0; i < BLOCKS; i++)
        b->may[i] = 1;
    b->tool = sim_reactor_new(b->world, "tool", UINT64_C(64) << 20);
}

static void add_box(struct bench *b, unsigned i, const struct membership *members)
{
    format(&b->box[i]);
    start_box(&b->box[i]);
    CHECK(b, sim_run_until(b->world, is_ready, &b->box[i], 60 * NS_PER_S), "replica-%u", i + 1);
    create(b, i, members);
}

static void teardown(struct bench *b)
{
    kill_front(b);
    for (unsigned i = 0; i < BOXES; i++)
        kill_box(&b->box[i], false);
    sim_reactor_crash(b->tool, SIM_KILL);
    sim_world_free(b->world);
    log_set_sink(NULL, NULL);
    for (unsigned i = 0; i < OPEN_MAX; i++)
        free(b->write[i]);
    free(b);
}

static void run(uint64_t seed, uint64_t *kills)
{
    struct bench *b = calloc(1, sizeof *b);
    setup(b, seed);
    struct membership members = {.n_voters = 3};
    for (unsigned i = 0; i < 3; i++)
        members.voter[i] = b->config.replicas[i].identity;
    for (unsigned i = 0; i < 3; i++)
        add_box(b, i, &members);
    start_front(b);
    b->writing = true;
    client(b);
    CHECK(b, sim_run_until(b->world, enough_writes, b, 120 * NS_PER_S), "%" PRIu64 " writes", b->n_acked);
    kill_box(&b->box[0], true); /* for good: its disk is lost */
    members.n_learners = 1;
    members.learner[0] = b->config.replicas[3].identity;
    add_box(b, 3, &members);
    if (seed % 4)
        faults(b);
    operator_turn(b);
    CHECK(b, sim_run_until(b->world, is_replaced, b, 300 * NS_PER_S), "not replaced; %u refusals, %" PRIu64 " kills", b->refusals, b->n_kills);
    /* Whatever the faults took down comes back; then one more of the old ones goes, and the new one is needed. */
    sim_run_for(b->world, 3 * NS_PER_S);
    check_all(b);
    kill_box(&b->box[1 + seed % 2], true);
    uint64_t before = b->n_acked;
    sim_run_for(b->world, 3 * NS_PER_S);
    CHECK(b, b->n_acked > before, "no write is answered by the new majority");
    b->writing = false;
    check_all(b);
    /* Everybody dies, and the front end has the old configuration. */
    kill_front(b);
    for (unsigned i = 1; i < BOXES; i++)
        kill_box(&b->box[i], true);
    for (unsigned i = 1; i < BOXES; i++)
        if (i != 1 + seed % 2)
            start_box(&b->box[i]);
    start_front(b);
    check_all(b);
    printf("seed %" PRIu64 ": replaced with %" PRIu64 " kills and %u refusals, %" PRIu64 " writes answered, %" PRIu64 " lost, %.1f s\n", seed, b->n_kills, b->refusals, b->n_acked, b->n_lost,
           (double)sim_now(b->world) / 1e9);
    *kills += b->n_kills;
    teardown(b);
}

int main(int argc, char **argv)
{
    uint64_t first = argc > 1 ? strtoull(argv[1], NULL, 10) : 1, n = argc > 2 ? strtoull(argv[2], NULL, 10) : 12, kills = 0;
    for (uint64_t seed = first; seed < first + n; seed++)
        run(seed, &kills);
    return n < 8 || kills > n ? 0 : 1; /* a test of kills that kills nobody tests nothing */
}
