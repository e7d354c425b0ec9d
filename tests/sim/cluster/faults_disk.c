/* What goes wrong with disks: operations that fail or take long, a crash at an operation, lasting damage where the atlas allows it, no room. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "replica/replica_internal.h"
#include "replica/wal_internal.h"
#include "tests/sim/cluster/atlas.h"

#define ROOM_BYTES (1024 * SIM_MIB)
#define GROW_GRACE_NS (40 * NS_PER_S) /* a store that found no room tries again after 30 s */
#define FAILED_STARTS_MAX 5u

/* A process that will crash at one of its operations. */
struct armed {
    enum fault kind; /* FAULT_KINDS: none */
    enum sim_io io;  /* SIM_IO_KINDS: any */
    char disk[12];   /* beginning of its name; empty: any */
    bool complete;
    uint32_t left; /* so many more such operations pass */
    enum sim_crash how;
    uint64_t outage_ns;
};

struct faults_disk {
    struct atlas atlas;
    struct armed armed[SIM_NODES];
    struct armed at_start[SIM_NODES]; /* becomes armed when the process starts */
    uint32_t starts[SIM_NODES];
    uint64_t errors[SIM_NODES];  /* operations that failed since the process started */
    uint64_t refused[SIM_NODES]; /* sim_dir_refused() as counted */
    uint32_t slow[SIM_NODES];
    uint32_t failed_starts[SIM_NODES];
    uint64_t full_until_ns;
    uint32_t tears[SIM_NODES]; /* how often it will die in its WAL yet */
    struct fault_rng tear[SIM_NODES];
};

static struct node *any_node(struct faults *f, struct fault_rng *g)
{
    return &f->run->cluster->node[fault_draw(g, 0, f->run->cluster->n_nodes - 1)];
}

/* ---- every operation passes here ---- */

static void count_error(struct faults *f, struct node *n, const struct sim_io_info *io)
{
    f->disk->errors[n->index]++;
    n->io_failed = true;
    fault_count(f, io->kind == SIM_READ ? FAULT_READ_ERROR : io->kind == SIM_FLUSH ? FAULT_FLUSH_ERROR : FAULT_WRITE_ERROR);
}

static bool matches(const struct armed *x, const struct sim_disk *d, const struct sim_io_info *io)
{
    return x->complete == io->complete && (x->io == SIM_IO_KINDS || x->io == io->kind) && strncmp(d ? sim_disk_name(d) : "extents/", x->disk, strlen(x->disk)) == 0;
}

/* The next death in the WAL, counted from a process's beginning. Its START batch is one of the writes. */
static void arm_tear(struct faults *f, unsigned node)
{
    struct faults_disk *x = f->disk;
    struct fault_rng *g = &x->tear[node];
    x->tears[node]--;
    x->armed[node] = (struct armed){.kind = FAULT_TORN_LOG,
                                    .io = SIM_WRITE,
                                    .disk = "wal",
                                    .complete = fault_chance(g, 2),
                                    .left = (uint32_t)fault_draw_log(g, 1, 40) - 1,
                                    .how = fault_chance(g, 4) ? SIM_POWER : SIM_KILL,
                                    .outage_ns = fault_draw_log(g, NS_PER_MS / 10, 5 * NS_PER_MS)};
}

static void on_io(void *user, struct sim_disk *d, const struct sim_io_info *io)
{
    struct node *n = user;
    struct trial *r = n->cluster->user;
    struct faults *f = r->faults;
    struct faults_disk *x = f->disk;
    if (io->complete && io->err && io->kind != SIM_CREATE) /* no room is no error of the disk */
        count_error(f, n, io);
    if (io->misdirected)
        fault_count(f, FAULT_MISDIRECTED_DATA);
    if (n->formatting)
        return;
    if (x->starts[n->index] != n->starts) { /* the first operation of a new process */
        x->starts[n->index] = n->starts;
        x->errors[n->index] = 0;
        if (x->at_start[n->index].kind != FAULT_KINDS)
            x->armed[n->index] = x->at_start[n->index];
        x->at_start[n->index].kind = FAULT_KINDS;
        if (x->tears[n->index] > 0)
            arm_tear(f, n->index);
    }
    if (r->faults_over || !n->replica) /* replica_open() has not returned yet */
        return;
    struct armed *armed = &x->armed[n->index];
    if (armed->kind == FAULT_KINDS || !matches(armed, d, io) || armed->left-- > 0)
        return;
    struct armed now = *armed;
    armed->kind = FAULT_KINDS;
    if (now.kind == FAULT_TORN_LOG) /* most of what is under way lands later, all of it or a part */
        sim_disk_set_late(d, 2, 5 * NS_PER_MS);
    fault_count(f, now.kind);
    faults_crash_node(f, n, now.how, now.outage_ns);
}

static struct armed draw_armed(struct fault_rng *g, enum fault kind, uint32_t most)
{
    static const char *const disks[] = {"", "", "wal", "wal", "meta", "extents/", "extents/", "superblock"};
    struct armed a = {.kind = kind,
                      .io = fault_chance(g, 3) ? (enum sim_io)fault_draw(g, 0, SIM_IO_KINDS - 1) : SIM_IO_KINDS,
                      .complete = fault_chance(g, 2),
                      .left = (uint32_t)fault_draw_log(g, 1, most) - 1,
                      .how = fault_chance(g, 2) ? SIM_POWER : SIM_KILL,
                      .outage_ns = fault_outage(g)};
    strcpy(a.disk, disks[fault_draw(g, 0, ARRAY_LEN(disks) - 1)]);
    return a;
}

static void arm_crash(struct faults *f, struct fault_rng *g, enum fault kind)
{
    struct node *n = any_node(f, g);
    struct faults_disk *x = f->disk;
    struct armed a = draw_armed(g, kind, kind == FAULT_CRASH_IN_RECOVERY ? 20 : 60);
    uint64_t outage = fault_outage(g);
    enum sim_crash how = fault_chance(g, 2) ? SIM_POWER : SIM_KILL;
    fault_say(f, "%s crashes (%s) at the %s of operation %u of kind %d on %s*%s", n->host, a.how == SIM_POWER ? "power" : "kill",
              a.complete ? "completion" : "submission", a.left + 1, (int)a.io, a.disk,
              kind == FAULT_CRASH_IN_RECOVERY ? ", counted from its next start" : kind == FAULT_CRASH_IN_CHECKPOINT ? ", in a checkpoint" : "");
    if (kind == FAULT_CRASH_IN_RECOVERY) {
        a.disk[0] = 0;
        x->at_start[n->index] = a;
        faults_crash_node(f, n, how, outage);
        return;
    }
    if (kind == FAULT_CRASH_IN_CHECKPOINT) {
        strcpy(a.disk, a.left % 3 ? "meta" : "extents/");
        if (!n->ready || n->paused)
            return;
        store_checkpoint(n->replica->store);
        sim_wake(n->reactor);
    }
    x->armed[n->index] = a;
}

/* ---- errors ---- */

static struct sim_disk *any_disk(struct node *n, struct fault_rng *g)
{
    unsigned count = 0;
    for (struct sim_disk *d = NULL; (d = sim_dir_next(n->dir, d));)
        count++;
    uint64_t i = fault_draw(g, 0, count - 1);
    struct sim_disk *d = sim_dir_next(n->dir, NULL);
    while (i-- > 0)
        d = sim_dir_next(n->dir, d);
    return d;
}

/* A failed write or flush is told, so nothing is lost by it; a block that can't be read is one copy less, hence the victim's alone. */
static void plant_error(struct faults *f, struct fault_rng *g, enum fault kind)
{
    struct node *n = kind == FAULT_READ_ERROR ? atlas_choose(&f->disk->atlas, g) : any_node(f, g);
    if (!n || n->formatting || n->absent)
        return;
    enum sim_io io = kind == FAULT_READ_ERROR ? SIM_READ : kind == FAULT_FLUSH_ERROR ? SIM_FLUSH : SIM_WRITE;
    struct sim_disk *d = any_disk(n, g);
    uint32_t after = (uint32_t)fault_draw_log(g, 1, 100) - 1, times = fault_chance(g, 4) ? (uint32_t)fault_draw(g, 2, 10) : 1;
    fault_say(f, "%s: %s: after %u more, %u operations fail (%s)", n->host, sim_disk_name(d), after, times, fault_name(kind));
    sim_disk_fail(d, io, after, times, EIO);
}

/* ---- lasting damage ---- */

/* Before it is done: from then on nobody may expect of this replica that all that was durable is there. */
static void note_damage(struct faults *f, struct node *n, enum damage what)
{
    atlas_damaged(&f->disk->atlas, n, what);
    n->io_failed = true;
    checks_damage(f->run->checks, n->index);
}

static void flip_bits(struct spot *s, struct fault_rng *g)
{
    if (fault_chance(g, 8)) { /* a whole sector of something else */
        uint64_t sector[64];
        for (unsigned i = 0; i < ARRAY_LEN(sector); i++)
            sector[i] = fault_draw(g, 0, UINT64_MAX - 1);
        sim_disk_poke(s->disk, s->off + fault_draw(g, 0, s->len / 512 - 1) * 512, sector, sizeof sector);
        return;
    }
    for (uint64_t i = fault_draw_log(g, 1, 8); i > 0; i--)
        sim_disk_flip(s->disk, s->off + fault_draw(g, 0, s->len - 1), (unsigned)fault_draw(g, 0, 7));
}

static bool find_spot(struct faults *f, struct node *n, struct fault_rng *g, enum fault kind, struct spot *s, enum damage *what)
{
    switch (kind) {
    case FAULT_FLIP_WAL:
    case FAULT_LATENT_WAL:
        *what = DAMAGE_WAL;
        return atlas_wal_batch(n, g, s);
    case FAULT_FLIP_LEAF:
    case FAULT_LATENT_LEAF:
        *what = DAMAGE_LEAF;
        return atlas_leaf(n, g, s);
    case FAULT_FLIP_DATA:
    case FAULT_LATENT_DATA:
        *what = DAMAGE_DATA;
        return atlas_data(n, g, s);
    case FAULT_FLIP_META:
        *what = DAMAGE_META;
        return atlas_meta(n, g, s);
    case FAULT_FLIP_SUPERBLOCK:
        *what = 0;
        return atlas_superblock(&f->disk->atlas, n, g, s);
    default:
        return false;
    }
}

static void damage_node(struct faults *f, struct node *n, struct fault_rng *g, enum fault kind, uint64_t times)
{
    bool latent = kind == FAULT_LATENT_WAL || kind == FAULT_LATENT_DATA || kind == FAULT_LATENT_LEAF;
    for (uint64_t i = 0; i < times; i++) {
        struct spot s;
        enum damage what;
        if (!find_spot(f, n, g, kind, &s, &what))
            return;
        fault_say(f, "%s: %s: %s in %llu + %llu", n->host, sim_disk_name(s.disk), fault_name(kind), (unsigned long long)s.off, (unsigned long long)s.len);
        note_damage(f, n, what);
        if (latent)
            sim_disk_spoil(s.disk, s.off + fault_draw(g, 0, s.len / BLOCK_SIZE - 1) * BLOCK_SIZE, BLOCK_SIZE);
        else
            flip_bits(&s, g);
        fault_count(f, kind);
    }
}

static void damage(struct faults *f, struct fault_rng *g, enum fault kind)
{
    struct node *n = atlas_choose(&f->disk->atlas, g);
    uint64_t times = fault_chance(g, 3) ? fault_draw_log(g, 1, 30) : 1;
    bool extents = kind == FAULT_FLIP_DATA || kind == FAULT_LATENT_DATA || kind == FAULT_FLIP_LEAF || kind == FAULT_LATENT_LEAF;
    if (f->run->options->beyond && extents && fault_chance(g, 3)) { /* so much that no copy of some blocks is left */
        for (unsigned i = 0; i < f->run->cluster->n_nodes; i++)
            if (!f->run->cluster->node[i].formatting && !f->run->cluster->node[i].replaced)
                damage_node(f, &f->run->cluster->node[i], g, kind, 200);
    } else if (n) {
        damage_node(f, n, g, kind, times);
    }
}

struct node *faults_victim(struct faults *f, struct fault_rng *g)
{
    return atlas_choose(&f->disk->atlas, g);
}

/* The values only: a descriptor that is gone together with its successor's would keep the daemon from starting at all. */
unsigned faults_rot_newest(struct faults *f, struct node *n, struct fault_rng *g, unsigned batches)
{
    struct spot s[16];
    unsigned found = atlas_wal_newest(n, batches < ARRAY_LEN(s) ? batches : ARRAY_LEN(s), s), rotten = 0;
    for (unsigned i = 0; i < found; i++) {
        const struct wal_batch *b = (const void *)sim_disk_page(s[i].disk, s[i].off, true);
        uint64_t desc = b->desc_pages * (uint64_t)BLOCK_SIZE;
        if (s[i].len <= desc)
            continue;
        note_damage(f, n, DAMAGE_WAL);
        fault_say(f, "%s: the values of the WAL batch at %llu rot", n->host, (unsigned long long)s[i].off);
        for (uint64_t at = desc; at < s[i].len; at += BLOCK_SIZE)
            if (!fault_chance(g, 4))
                sim_disk_flip(s[i].disk, s[i].off + at + fault_draw(g, 0, BLOCK_SIZE - 1), (unsigned)fault_draw(g, 0, 7));
        rotten++;
    }
    if (rotten)
        fault_count(f, FAULT_ROT_STORM);
    return rotten;
}

void faults_rot_data(struct faults *f, struct node *n, struct fault_rng *g, unsigned pages)
{
    static struct spot s[1024];
    unsigned found = atlas_all_data(n, s, ARRAY_LEN(s));
    if (found == 0)
        return;
    note_damage(f, n, DAMAGE_DATA);
    for (; pages > 0; pages--) {
        const struct spot *at = &s[fault_draw(g, 0, found - 1)];
        sim_disk_flip(at->disk, at->off + fault_draw(g, 0, BLOCK_SIZE - 1), (unsigned)fault_draw(g, 0, 7));
    }
}

void faults_tear_log(struct faults *f, struct node *n, struct fault_rng *g, unsigned times)
{
    struct faults_disk *x = f->disk;
    if (x->armed[n->index].kind == FAULT_TORN_LOG)
        return;
    x->tears[n->index] = times;
    x->tear[n->index] = *g;
    arm_tear(f, n->index);
}

/* A batch never came to its place, and stands in another one's: what recovery finds when that is noticed at all, that is, after later batches were durable. */
static void misdirect_wal(struct faults *f, struct fault_rng *g)
{
    struct node *n = atlas_choose(&f->disk->atlas, g);
    struct spot from, to;
    static uint8_t page[BLOCK_SIZE], zeroes[BLOCK_SIZE];
    if (!n || !atlas_wal_batch(n, g, &from) || !atlas_wal_batch(n, g, &to))
        return;
    note_damage(f, n, DAMAGE_WAL);
    uint64_t pages = from.len < to.len ? from.len / BLOCK_SIZE : to.len / BLOCK_SIZE;
    fault_say(f, "%s: the WAL batch at %llu stands at %llu", n->host, (unsigned long long)from.off, (unsigned long long)to.off);
    for (uint64_t i = 0; i < pages && from.off != to.off; i++) {
        sim_disk_peek(from.disk, from.off + i * BLOCK_SIZE, page, BLOCK_SIZE);
        sim_disk_poke(to.disk, to.off + i * BLOCK_SIZE, page, BLOCK_SIZE);
    }
    for (uint64_t i = 0; i < from.len / BLOCK_SIZE; i++)
        sim_disk_poke(from.disk, from.off + i * BLOCK_SIZE, zeroes, BLOCK_SIZE);
    fault_count(f, FAULT_MISDIRECTED_WAL);
}

/* A write to come goes elsewhere on the same disk. */
static void misdirect_data(struct faults *f, struct fault_rng *g)
{
    struct node *n = atlas_choose(&f->disk->atlas, g);
    struct spot s;
    bool meta = fault_chance(g, 4);
    if (!n || !(meta ? atlas_meta(n, g, &s) : atlas_data(n, g, &s)))
        return;
    uint64_t nth = sim_disk_count(s.disk, SIM_WRITE) + fault_draw_log(g, 1, 100), most = sim_disk_size(s.disk) - 256 * SIM_KIB;
    uint64_t to = s.off < most && fault_chance(g, 2) ? s.off : fault_draw(g, 0, most / BLOCK_SIZE) * BLOCK_SIZE;
    fault_say(f, "%s: %s: write %llu will go to %llu", n->host, sim_disk_name(s.disk), (unsigned long long)nth, (unsigned long long)to);
    note_damage(f, n, meta ? DAMAGE_META : DAMAGE_DATA | DAMAGE_LEAF);
    sim_disk_misdirect(s.disk, nth, to);
}

static void lose_disk(struct faults *f, struct fault_rng *g)
{
    struct node *n = atlas_choose(&f->disk->atlas, g);
    if (!n || !atlas_may_lose(&f->disk->atlas, n))
        return;
    fault_say(f, "%s: its disk is lost; it comes back with an empty one", n->host);
    f->disk->atlas.disk_lost = true;
    checks_damage(f->run->checks, n->index);
    cluster_lose_disk(n);
    cluster_new_disk(n);
    fault_count(f, FAULT_DISK_LOST);
}

bool faults_may_lose(struct faults *f, const struct node *n)
{
    return atlas_may_give_up(&f->disk->atlas, f->run->checks, n);
}

void faults_new_disk(struct faults *f, const struct node *n)
{
    atlas_new_disk(&f->disk->atlas, n);
    f->disk->failed_starts[n->index] = 0;
}

/* ---- time and room ---- */

static void set_speed(struct faults *f, struct node *n, uint64_t factor, uint64_t extra_ns)
{
    const struct sim_config *c = sim_config(f->run->world);
    const struct sim_range *normal[] = {&c->read_ns, &c->write_ns, &c->durable_ns, &c->flush_ns, &c->discard_ns};
    for (struct sim_disk *d = NULL; (d = sim_dir_next(n->dir, d));) {
        struct sim_disk_timing *t = sim_disk_timing(d);
        struct sim_range *now[] = {&t->read_ns, &t->write_ns, &t->durable_ns, &t->flush_ns, &t->discard_ns};
        for (unsigned i = 0; i < ARRAY_LEN(now); i++)
            *now[i] = (struct sim_range){normal[i]->min * factor + extra_ns, normal[i]->max * factor + extra_ns};
    }
}

static void end_slow(struct fault_action *a)
{
    if (--a->faults->disk->slow[a->a] == 0)
        set_speed(a->faults, &a->faults->run->cluster->node[a->a], 1, 0);
}

void faults_slow_disk(struct faults *f, struct node *n, uint64_t factor, uint64_t ns)
{
    f->disk->slow[n->index]++;
    set_speed(f, n, factor, 0);
    fault_later(f, ns, end_slow, n->index, 0, 0);
}

static void slow_disk(struct faults *f, struct fault_rng *g, enum fault kind)
{
    struct node *n = any_node(f, g);
    uint64_t ns = fault_outage(g), extra = kind == FAULT_STUCK_DISK ? fault_draw(g, NS_PER_S, 10 * NS_PER_S) : 0;
    uint64_t factor = kind == FAULT_SLOW_DISK ? fault_draw(g, 2, 50) : 1;
    fault_say(f, "%s: operations take %llu times as long and %.3f s more, for %.3f s", n->host, (unsigned long long)factor, (double)extra / 1e9, (double)ns / 1e9);
    f->disk->slow[n->index]++;
    set_speed(f, n, factor, extra);
    fault_later(f, ns, end_slow, n->index, 0, 0);
    fault_count(f, kind);
}

/* ENOSPC may still be answered for a while after there is room again. */
static void end_full_grace(struct fault_action *a)
{
    if (sim_now(a->faults->run->world) >= a->faults->disk->full_until_ns)
        a->faults->run->may_be_full = false;
}

static void note_refused(struct faults *f, struct node *n)
{
    f->count[FAULT_FULL_DISK] += sim_dir_refused(n->dir) - f->disk->refused[n->index];
    f->disk->refused[n->index] = sim_dir_refused(n->dir);
}

static void make_room(struct fault_action *a)
{
    struct faults *f = a->faults;
    struct node *n = &f->run->cluster->node[a->a];
    note_refused(f, n);
    if (sim_now(f->run->world) + GROW_GRACE_NS >= f->disk->full_until_ns) /* it is not full for another reason, longer */
        sim_dir_set_capacity(n->dir, ROOM_BYTES);
}

static void fill_disk(struct faults *f, struct node *n, uint64_t ns)
{
    uint64_t until = sim_now(f->run->world) + ns + GROW_GRACE_NS;
    fault_say(f, "%s: its file system is full for %.3f s", n->host, (double)ns / 1e9);
    f->run->may_be_full = true;
    f->disk->full_until_ns = f->disk->full_until_ns > until ? f->disk->full_until_ns : until;
    sim_dir_set_capacity(n->dir, sim_dir_used(n->dir));
    fault_later(f, ns, make_room, n->index, 0, 0);
    fault_surely(f, ns + GROW_GRACE_NS, end_full_grace, 0, 0, 0);
}

static void full_disk(struct faults *f, struct fault_rng *g)
{
    uint64_t ns = fault_draw_log(g, 100 * NS_PER_MS, 30 * NS_PER_S);
    struct node *n = any_node(f, g);
    bool all = fault_chance(g, 2);
    for (unsigned i = 0; i < f->run->cluster->n_nodes; i++) {
        struct node *x = &f->run->cluster->node[i];
        if ((all || x == n) && !x->formatting)
            fill_disk(f, x, ns);
    }
}

/* ---- the part's entry points ---- */

bool faults_disk_apply(struct faults *f, enum fault kind, struct fault_rng *g)
{
    switch (kind) {
    case FAULT_CRASH_AT_IO:
    case FAULT_CRASH_IN_RECOVERY:
    case FAULT_CRASH_IN_CHECKPOINT:
        arm_crash(f, g, kind);
        return true;
    case FAULT_WRITE_ERROR:
    case FAULT_FLUSH_ERROR:
    case FAULT_READ_ERROR:
        plant_error(f, g, kind);
        return true;
    case FAULT_LATENT_WAL:
    case FAULT_LATENT_DATA:
    case FAULT_LATENT_LEAF:
    case FAULT_FLIP_WAL:
    case FAULT_FLIP_SUPERBLOCK:
    case FAULT_FLIP_META:
    case FAULT_FLIP_LEAF:
    case FAULT_FLIP_DATA:
        damage(f, g, kind);
        return true;
    case FAULT_MISDIRECTED_WAL:
        misdirect_wal(f, g);
        return true;
    case FAULT_MISDIRECTED_DATA:
        misdirect_data(f, g);
        return true;
    case FAULT_DISK_LOST:
        lose_disk(f, g);
        return true;
    case FAULT_SLOW_DISK:
    case FAULT_STUCK_DISK:
        slow_disk(f, g, kind);
        return true;
    case FAULT_FULL_DISK:
        full_disk(f, g);
        return true;
    default:
        return false;
    }
}

/* A replica ended by itself. It is started again, as a service manager would do; but a disk that it finds rotten time after time it will always find rotten. */
static bool on_node_failed(void *user, struct node *n, bool refused, int err, const char *what)
{
    struct trial *r = user;
    struct faults *f = r->faults;
    bool had_errors = f->disk->errors[n->index] > 0;
    bool rotten = atlas_excuses_refusal(&f->disk->atlas, n);
    fault_say(f, "%s %s: %s (%d)", n->host, refused ? "can't start" : "ended", what, err);
    if (!had_errors && !(refused && rotten))
        return false;
    fault_count(f, refused ? FAULT_REFUSED_START : FAULT_RESTART_AFTER_ERROR);
    cluster_crash_node(n, SIM_KILL);
    if (refused && rotten && (!had_errors || ++f->disk->failed_starts[n->index] >= FAILED_STARTS_MAX))
        n->refused = true;
    else
        fault_surely(f, 100 * NS_PER_MS, fault_restart_node, n->index, 0, 0);
    return true;
}

void faults_disk_start(struct faults *f, struct fault_rng *g)
{
    struct cluster *c = f->run->cluster;
    f->disk = calloc(1, sizeof *f->disk);
    assert(f->disk);
    atlas_init(&f->disk->atlas, c, f->run->options->beyond, g);
    c->on_node_failed = on_node_failed;
    for (unsigned i = 0; i < f->run->cluster->n_nodes; i++) {
        f->disk->armed[i].kind = f->disk->at_start[i].kind = FAULT_KINDS;
        f->disk->starts[i] = c->node[i].starts;
        sim_dir_set_hook(c->node[i].dir, on_io, &c->node[i]);
    }
}

void faults_disk_stop(struct faults *f)
{
    for (unsigned i = 0; i < f->run->cluster->n_nodes; i++) {
        struct node *n = &f->run->cluster->node[i];
        set_speed(f, n, 1, 0);
        note_refused(f, n);
        sim_dir_set_capacity(n->dir, ROOM_BYTES);
        for (struct sim_disk *d = NULL; (d = sim_dir_next(n->dir, d));)
            for (unsigned io = 0; io < SIM_IO_KINDS; io++)
                sim_disk_fail(d, io, 0, 0, EIO);
    }
    if (f->run->may_be_full) {
        f->disk->full_until_ns = sim_now(f->run->world) + GROW_GRACE_NS;
        fault_surely(f, GROW_GRACE_NS, end_full_grace, 0, 0, 0);
    }
}
