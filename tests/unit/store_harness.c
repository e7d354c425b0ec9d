/* See store_harness.h. */
#include "tests/unit/store_harness.h"

#include <errno.h>

static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 31)) * UINT64_C(0x9E3779B97F4A7C15);
    return x ^ (x >> 29);
}

static void pattern(uint64_t content, uint8_t *to)
{
    uint64_t x = mix(content);
    for (uint32_t i = 0; i < BLOCK_SIZE; i += 8, x += UINT64_C(0x9E3779B97F4A7C15))
        memcpy(to + i, &x, 8);
}

static struct ballot ballot(uint64_t round)
{
    struct ballot b = {.round = round};
    if (round)
        memset(b.proposer.b, 1 + (int)(round % 200), sizeof b.proposer.b);
    return b;
}

static struct membership membership(uint64_t id)
{
    struct membership m = {.n_voters = 1};
    memset(m.voter[0].b, 1 + (int)(id % 200), sizeof m.voter[0].b);
    return m;
}

static void *grow(void *p, uint32_t n, uint32_t *cap, size_t size)
{
    if (n < *cap)
        return p;
    *cap = *cap ? *cap * 2 : 256;
    p = realloc(p, *cap * size);
    assert_non_null(p);
    return p;
}

/* ---- the model ---- */

static struct t_op *add_op(struct t_group *g, enum t_op_type type)
{
    g->op = grow(g->op, g->n_ops, &g->cap_ops, sizeof *g->op);
    struct t_op *o = &g->op[g->n_ops++];
    *o = (struct t_op){.type = type, .seq = ++g->seq};
    return o;
}

static void log_set(struct t_group *g, uint64_t slot, uint32_t spec)
{
    if (slot >= g->cap_log) {
        g->cap_log = slot * 2 + 256;
        g->log = realloc(g->log, g->cap_log * sizeof *g->log);
        assert_non_null(g->log);
    }
    g->log[slot] = spec;
    g->last = slot;
}

static void model_do(struct t_group *g, const struct t_op *o)
{
    if (o->type == T_APPEND)
        log_set(g, o->slot, o->spec);
    else if (o->type == T_CUT)
        g->last = o->slot - 1;
    else if (o->type == T_PROMISE)
        g->promised = o->round;
    else if (o->type == T_JUMP)
        for (uint32_t i = 0; i < o->n; i++)
            log_set(g, o->slot - o->n + 1 + i, o->spec + i);
}

static void image_to(struct t_group *g, uint64_t slot)
{
    if (slot < g->image_slot) {
        memset(g->image, 0, g->size_blocks * sizeof *g->image);
        g->image_slot = 0;
    }
    while (g->image_slot < slot) {
        const struct t_spec *s = &g->spec[g->log[++g->image_slot]];
        for (uint32_t i = 0; i < s->nblocks; i++)
            g->image[s->block + i] = s->kind == ENTRY_WRITE ? s->id * 1024 + i + 1 : 0;
    }
}

/* Without moving the image. */
static uint64_t content_at(const struct t_group *g, uint64_t block, uint64_t slot)
{
    for (; slot > 0; slot--) {
        const struct t_spec *s = &g->spec[g->log[slot]];
        if (block >= s->block && block - s->block < s->nblocks)
            return s->kind == ENTRY_WRITE ? s->id * 1024 + (block - s->block) + 1 : 0;
    }
    return 0;
}

void t_content(struct store_test *t, unsigned g, uint64_t block, uint64_t slot, uint8_t *to)
{
    uint64_t c = content_at(&t->group[g], block, slot);
    memset(to, 0, BLOCK_SIZE);
    if (c)
        pattern(c, to);
}

static struct entry *make_entry(struct store_test *t, const struct t_group *g, const struct t_spec *s)
{
    struct buf *payload = NULL;
    bool range = s->kind == ENTRY_WRITE || s->kind == ENTRY_TRIM || s->kind == ENTRY_ZERO;
    if (s->kind == ENTRY_WRITE) {
        payload = buf_alloc_must(t->r->arena, (size_t)s->nblocks * BLOCK_SIZE);
        for (uint32_t i = 0; i < s->nblocks; i++)
            pattern(s->id * 1024 + i + 1, payload->data + (size_t)i * BLOCK_SIZE);
    }
    struct entry *e = entry_new(t->r->arena, s->kind, range ? s->block : 0, range ? s->nblocks : 0, payload, 0);
    assert_non_null(e);
    e->group = g->id;
    e->slot = s->slot;
    e->e = ballot(s->e);
    for (uint32_t i = 0; s->kind == ENTRY_WRITE && i < s->nblocks; i++)
        entry_crcs(e)[i] = crc32c(payload->data + (size_t)i * BLOCK_SIZE, BLOCK_SIZE);
    if (s->kind == ENTRY_MEMBER) {
        e->u[0].membership = membership(s->id);
        e->u[0].membership.slot = s->slot;
    }
    return e;
}

/* ---- the store's callbacks ---- */

static struct t_group *find(struct store_test *t, uint64_t id)
{
    assert_in_range(id, 1, t->n_groups);
    return &t->group[id - 1];
}

static void on_group(void *user, const struct store_group_state *s)
{
    struct t_group *g = find(user, s->group);
    assert_false(g->found);
    g->found = true;
    g->found_log = *s->log;
    g->found_promised = s->promised.round;
    struct ballot promised = ballot(s->promised.round);
    assert_true(ballot_equal(&promised, &s->promised));
    g->found_commit = s->commit;
    g->found_needs_copy = s->needs_copy;
    g->n_lost = s->n_lost;
    free(g->lost);
    g->lost = calloc(s->n_lost + 1, sizeof *g->lost);
    memcpy(g->lost, s->lost, s->n_lost * sizeof *g->lost);
    assert_int_equal(s->size_blocks, g->size_blocks);
    g->floor = s->log->base.slot;
}

static void on_ready(void *user, int err, const char *why)
{
    struct store_test *t = user;
    t->ready = true;
    t->ready_err = err;
    snprintf(t->why, sizeof t->why, "%s", why ? why : "");
}

static void on_durable(void *user, uint64_t group, uint64_t seq)
{
    struct t_group *g = find(user, group);
    assert_true(seq > g->durable_seq && seq <= g->seq);
    g->durable_seq = seq;
}

static void on_trimmed(void *user, uint64_t group, uint64_t floor)
{
    struct t_group *g = find(user, group);
    assert_true(floor > g->floor && floor <= store_applied(((struct store_test *)user)->store, group));
    g->floor = floor;
}

static void on_credits(void *user, uint64_t group, const struct credits *c)
{
    find(user, group)->credits = *c;
}

static void on_bad(void *user, uint64_t group, uint64_t block, uint32_t nblocks)
{
    struct store_test *t = user;
    assert_true(block + nblocks <= find(t, group)->size_blocks);
    t->bad_reported += nblocks;
}

static void on_fatal(void *user, int err, const char *what)
{
    struct store_test *t = user;
    t->fatal = err;
    snprintf(t->why, sizeof t->why, "%s", what);
}

/* ---- life ---- */

void t_init(struct store_test *t, uint64_t seed)
{
    memset(t, 0, sizeof *t);
    t->seed = seed;
    t->wal_bytes = 4u << 20;
    t->extent_bytes = 8u << 20;
    t->n_extents = 2;
    t->meta_pages = GROUPS_MAX + 28;
    t->capacity_bytes = t->n_extents * t->extent_bytes;
    t->options = (struct store_options){.overlay_bytes = 8u << 20, .leaf_cache_bytes = 16u << 10};
    t->crash_how = SIM_POWER;
    t->world = sim_world_new(seed);
}

static void on_disk(void *user, struct sim_disk *d, const struct sim_io_info *io)
{
    struct store_test *t = user;
    if (io->kind == SIM_READ && !t->count_reads)
        return;
    t->events++;
    if (t->crash_at && t->events == t->crash_at && !t->crashed)
        sim_reactor_crash(t->sim, t->crash_how);
}

static void on_crash(void *user)
{
    struct store_test *t = user;
    t->crashed = true;
    store_free(t->store);
    t->store = NULL;
    t->sim = NULL;
    t->reads = 0;
}

static void boot(struct store_test *t)
{
    t->sim = sim_reactor_new(t->world, "r1", UINT64_C(256) << 20);
    t->r = sim_reactor_io(t->sim);
    t->crashed = t->ready = t->closed = false;
    t->fatal = 0;
    sim_on_crash(t->sim, on_crash, t);
}

static struct dev *open_disk(struct store_test *t, struct sim_disk *d)
{
    struct dev *dev;
    sim_disk_set_hook(d, on_disk, t);
    assert_int_equal(sim_dev_open(t->sim, d, &dev), 0);
    return dev;
}

static void devices(struct store_test *t, struct store_devices *d, struct dev **extents)
{
    *d = (struct store_devices){.dir = sim_dir_open(t->sim, t->dir), .extents = extents, .n_extents = t->sb.n_extents};
    d->superblock = open_disk(t, t->superblock);
    d->wal = open_disk(t, t->wal);
    d->meta = open_disk(t, t->meta);
    for (uint32_t i = 0; i < t->sb.n_extents; i++) {
        char name[32];
        snprintf(name, sizeof name, "extents/%05u", i);
        extents[i] = open_disk(t, sim_dir_find(t->dir, name));
    }
}

static void on_formatted(void *user, int err)
{
    struct store_test *t = user;
    assert_int_equal(err, 0);
    t->formatted = true;
}

static bool is_formatted(void *user)
{
    struct store_test *t = user;
    return t->formatted || t->crashed;
}

void t_format(struct store_test *t)
{
    t->dir = sim_dir_new(t->world, "data", UINT64_C(1) << 40);
    t->superblock = sim_disk_new(t->world, t->dir, "superblock", SUPERBLOCK_BYTES);
    t->wal = sim_disk_new(t->world, t->dir, "wal", t->wal_bytes);
    t->meta = sim_disk_new(t->world, t->dir, "meta", meta_place(t->meta_pages, 0));
    t->sb = (struct superblock){.name = "r1",
                                .shard_count = 1,
                                .n_extents = t->n_extents,
                                .wal_bytes = t->wal_bytes,
                                .extent_bytes = t->extent_bytes,
                                .capacity_bytes = t->capacity_bytes,
                                .meta_pages = t->meta_pages,
                                .generation = 1};
    memset(t->sb.cluster.b, 1, 16);
    memset(t->sb.identity.b, 2, 16);
    memset(t->sb.salt, 3, 16);
    for (uint32_t i = 0; i < t->n_extents; i++) {
        char name[32];
        snprintf(name, sizeof name, "extents/%05u", i);
        sim_disk_new(t->world, t->dir, name, t->extent_bytes);
    }
    boot(t);
    struct store_devices d;
    struct dev *extents[T_EXTENTS];
    devices(t, &d, extents);
    store_format(t->r, &d, &t->sb, on_formatted, t);
    assert_true(sim_run_until(t->world, is_formatted, t, 60 * NS_PER_S));
    sim_on_crash(t->sim, NULL, NULL);
    sim_reactor_free(t->sim);
    t->sim = NULL;
}

static bool is_ready(void *user)
{
    struct store_test *t = user;
    return t->ready || t->crashed;
}

int t_start(struct store_test *t)
{
    static uint8_t image[SUPERBLOCK_BYTES];
    sim_disk_peek(t->superblock, 0, image, sizeof image);
    const char *why = superblock_pick(image, &t->sb);
    if (why)
        fail_msg("superblock: %s", why);
    if (t->write_twice)
        t->sb.features_incompat = 0;
    boot(t);
    struct store_devices d;
    struct dev *extents[T_EXTENTS];
    assert_true(t->sb.n_extents <= T_EXTENTS);
    devices(t, &d, extents);
    struct store_callbacks cb = {.on_group = on_group,
                                 .on_ready = on_ready,
                                 .on_durable = on_durable,
                                 .on_trimmed = on_trimmed,
                                 .on_credits = on_credits,
                                 .on_bad = on_bad,
                                 .on_fatal = on_fatal,
                                 .user = t};
    for (unsigned i = 0; i < t->n_groups; i++)
        t->group[i].found = false;
    int err = store_open(t->r, &d, &t->sb, &t->options, &cb, &t->store);
    if (err)
        return err;
    assert_true(sim_run_until(t->world, is_ready, t, 600 * NS_PER_S));
    return t->crashed ? -ECANCELED : t->ready_err;
}

/* Does the found log equal the model's after its first n operations? Leaves the model there. */
static bool matches(struct store_test *t, struct t_group *g, uint32_t n)
{
    g->last = g->promised = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (g->op[i].type == T_JUMP && g->op[i].slot > g->found_commit)
            return false;
        model_do(g, &g->op[i]);
    }
    struct log_pos last = paxos_log_last(&g->found_log);
    if (g->found_promised != g->promised || last.slot != g->last)
        return false;
    for (uint64_t slot = g->found_log.base.slot; slot <= g->last; slot++) {
        struct ballot e;
        if (!paxos_log_at(&g->found_log, slot, &e) || e.round != (slot ? g->spec[g->log[slot]].e : 0))
            return false;
    }
    return true;
}

static void check_group(struct store_test *t, struct t_group *g)
{
    uint32_t durable = 0, n = g->n_ops;
    while (durable < g->n_ops && g->op[durable].seq <= g->durable_seq)
        durable++;
    if (!g->found) {
        assert_int_equal(durable, 0);
        fail_msg("group %d: nobody may forget it in these tests", (int)g->id);
    }
    while (n > durable && !matches(t, g, n))
        n--;
    if (!matches(t, g, n))
        fail_msg("group %d: the log found (floor %d, last %d, promised %d) is none that its %d durable of %d "
                 "operations allow",
                 (int)g->id, (int)g->found_log.base.slot, (int)paxos_log_last(&g->found_log).slot,
                 (int)g->found_promised, (int)durable, (int)g->n_ops);
    for (uint32_t i = g->n_ops; i-- > n;)
        if (g->op[i].type == T_JUMP)
            g->committed = g->op[i].round; /* as if nothing had been */
    g->n_ops = n;
    g->seq = n ? g->op[n - 1].seq : 0;
    g->durable_seq = g->seq;
    g->durable_last = g->last;
    assert_true(g->last >= g->committed);
    assert_true(g->found_commit <= g->committed);
    if (!t->may_lose) {
        assert_int_equal(g->n_lost, 0);
        assert_true(g->found_commit >= g->saved_applied);
    }
    assert_int_equal(store_applied(t->store, g->id), g->found_commit);
}

void t_start_ok(struct store_test *t)
{
    int err = t_start(t);
    if (err)
        fail_msg("the store does not start: %d %s", err, t->why);
    for (unsigned i = 0; i < t->n_groups; i++) {
        struct t_group *g = &t->group[i];
        check_group(t, g);
        t_check_values(t, i);
        if (!t->may_lose) {
            t_check_image(t, i);
            if (g->committed > g->found_commit)
                store_commit(t->store, g->id, g->committed);
        }
        t_check_image(t, i);
    }
}

static void on_closed(void *user)
{
    struct store_test *t = user;
    t->closed = true;
}

static bool is_closed(void *user)
{
    struct store_test *t = user;
    return t->closed || t->crashed;
}

void t_stop(struct store_test *t)
{
    if (!t->sim)
        return;
    t_settle(t);
    if (t->crashed)
        return;
    store_close(t->store, on_closed, t);
    assert_true(sim_run_until(t->world, is_closed, t, 600 * NS_PER_S));
    if (t->crashed)
        return;
    for (unsigned i = 0; i < t->n_groups && t->ready_err == 0; i++)
        t->group[i].saved_applied = store_applied(t->store, t->group[i].id);
    store_free(t->store);
    t->store = NULL;
    sim_on_crash(t->sim, NULL, NULL);
    sim_reactor_free(t->sim);
    t->sim = NULL;
}

void t_crash(struct store_test *t, enum sim_crash how)
{
    if (t->sim)
        sim_reactor_crash(t->sim, how);
    sim_run_for(t->world, 1); /* what of it is done between two events */
}

void t_free(struct store_test *t)
{
    if (t->sim)
        t_crash(t, SIM_KILL);
    for (unsigned i = 0; i < t->n_groups; i++) {
        free(t->group[i].spec);
        free(t->group[i].op);
        free(t->group[i].log);
        free(t->group[i].image);
        free(t->group[i].lost);
    }
    sim_world_free(t->world);
}

void t_run(struct store_test *t, uint64_t ns)
{
    sim_run_for(t->world, ns);
}

static bool is_settled(void *user)
{
    struct store_test *t = user;
    if (t->crashed || t->fatal)
        return true;
    for (unsigned i = 0; i < t->n_groups; i++)
        if (t->group[i].durable_seq < t->group[i].seq)
            return false;
    return true;
}

void t_settle(struct store_test *t)
{
    if (t->crashed)
        return;
    sim_wake(t->sim);
    assert_true(sim_run_until(t->world, is_settled, t, 60 * NS_PER_S));
    for (unsigned i = 0; i < t->n_groups && !t->crashed; i++)
        t->group[i].durable_last = t->group[i].last;
}

static bool is_idle(void *user)
{
    struct store_test *t = user;
    return t->crashed || t->fatal || (t->store->cycle.state == CYCLE_IDLE && !t->store->cycle.again);
}

void t_checkpoint(struct store_test *t)
{
    if (t->crashed)
        return;
    sim_wake(t->sim);
    assert_true(sim_run_until(t->world, is_idle, t, 600 * NS_PER_S));
    if (t->crashed || t->fatal)
        return;
    uint64_t applied[T_GROUPS];
    for (unsigned i = 0; i < t->n_groups; i++)
        applied[i] = store_applied(t->store, t->group[i].id);
    store_checkpoint(t->store);
    sim_wake(t->sim);
    assert_true(sim_run_until(t->world, is_idle, t, 600 * NS_PER_S));
    for (unsigned i = 0; i < t->n_groups && !t->crashed && !t->fatal; i++)
        t->group[i].saved_applied = applied[i];
}

/* ---- operations ---- */

unsigned t_create(struct store_test *t, uint64_t size_blocks)
{
    assert_true(t->n_groups < T_GROUPS);
    struct t_group *g = &t->group[t->n_groups++];
    *g = (struct t_group){.id = t->n_groups, .size_blocks = size_blocks, .e = 1};
    g->image = calloc(size_blocks, sizeof *g->image);
    add_op(g, T_CREATE);
    struct wal_group wg = {.group = g->id, .size_blocks = size_blocks, .membership = membership(g->id)};
    assert_true(store_can_create(t->store, g->id));
    store_create_group(t->store, &wg, g->seq);
    return t->n_groups - 1;
}

static bool has_room(void *user)
{
    struct store_test *t = user;
    return t->crashed || t->fatal || store_has_room(t->store);
}

void t_append(struct store_test *t, unsigned gi, enum entry_kind kind, uint64_t block, uint32_t nblocks)
{
    if (t->crashed || t->fatal)
        return;
    if (!has_room(t)) {
        sim_wake(t->sim);
        if (!sim_run_until(t->world, has_room, t, 20 * NS_PER_S))
            t_commit_all(t); /* what waits for a commit can't be freed */
        if (t->crashed || t->fatal)
            return;
        sim_wake(t->sim);
        assert_true(sim_run_until(t->world, has_room, t, 600 * NS_PER_S));
        if (t->crashed || t->fatal)
            return;
    }
    t_append_anyway(t, gi, kind, block, nblocks);
}

void t_append_anyway(struct store_test *t, unsigned gi, enum entry_kind kind, uint64_t block, uint32_t nblocks)
{
    struct t_group *g = &t->group[gi];
    bool range = kind == ENTRY_WRITE || kind == ENTRY_TRIM || kind == ENTRY_ZERO;
    struct t_spec s = {.slot = g->last + 1,
                       .e = g->e,
                       .id = ++t->next_id,
                       .kind = kind,
                       .block = range ? block : 0,
                       .nblocks = range ? nblocks : 0};
    t_append_spec(t, gi, &s);
}

static uint32_t add_spec(struct t_group *g, const struct t_spec *s)
{
    g->spec = grow(g->spec, g->n_specs, &g->cap_specs, sizeof *g->spec);
    g->spec[g->n_specs] = *s;
    return g->n_specs++;
}

void t_append_spec(struct store_test *t, unsigned gi, const struct t_spec *s)
{
    struct t_group *g = &t->group[gi];
    if (t->crashed || t->fatal)
        return;
    uint32_t spec = add_spec(g, s);
    struct t_op *o = add_op(g, T_APPEND);
    o->slot = s->slot;
    o->spec = spec;
    model_do(g, o);
    struct entry *e = make_entry(t, g, s);
    store_append(t->store, e, o->seq);
    entry_unref(e);
}

void t_note_jump(struct store_test *t, unsigned gi, uint64_t slot, const struct t_spec *missed, uint32_t n)
{
    struct t_group *g = &t->group[gi];
    if (n > 0 && g->last > slot) { /* the log is emptied: a crash may leave only the cut of it */
        struct t_op *cut = add_op(g, T_CUT);
        cut->slot = slot + 1;
        model_do(g, cut);
    }
    uint32_t first = g->n_specs;
    for (uint32_t i = 0; i < n; i++)
        add_spec(g, &missed[i]);
    struct t_op *o = add_op(g, T_JUMP);
    o->slot = slot;
    o->round = g->committed;
    o->spec = first;
    o->n = n;
    model_do(g, o);
    memset(g->image, 0, g->size_blocks * sizeof *g->image);
    g->image_slot = 0;
    g->committed = g->floor = slot;
    if (n > 0 || g->durable_last < slot)
        g->durable_last = slot;
}

void t_jump_is_durable(struct store_test *t, unsigned gi)
{
    t->group[gi].durable_seq = t->group[gi].seq;
}

void t_cut(struct store_test *t, unsigned gi, uint64_t slot)
{
    struct t_group *g = &t->group[gi];
    if (t->crashed)
        return;
    assert_true(slot > g->committed);
    struct t_op *o = add_op(g, T_CUT);
    o->slot = slot;
    model_do(g, o);
    g->e++; /* another proposer's entries follow */
    if (g->durable_last >= slot)
        g->durable_last = slot - 1;
    store_cut(t->store, g->id, slot, o->seq);
}

void t_promise(struct store_test *t, unsigned gi, uint64_t round)
{
    struct t_group *g = &t->group[gi];
    if (t->crashed)
        return;
    struct t_op *o = add_op(g, T_PROMISE);
    o->round = round;
    model_do(g, o);
    struct ballot b = ballot(round);
    store_promise(t->store, g->id, &b, round, o->seq);
}

void t_refill(struct store_test *t, unsigned gi, uint64_t slot)
{
    struct t_group *g = &t->group[gi];
    struct t_op *o = add_op(g, T_REFILL);
    struct entry *e = make_entry(t, g, &g->spec[g->log[slot]]);
    store_refill(t->store, e, o->seq);
    entry_unref(e);
}

void t_commit(struct store_test *t, unsigned gi, uint64_t slot)
{
    struct t_group *g = &t->group[gi];
    if (t->crashed)
        return;
    if (slot > g->durable_last)
        slot = g->durable_last;
    if (slot <= g->committed)
        return;
    g->committed = slot;
    store_commit(t->store, g->id, slot);
}

void t_commit_all(struct store_test *t)
{
    t_settle(t);
    for (unsigned i = 0; i < t->n_groups && !t->crashed; i++)
        t_commit(t, i, t->group[i].last);
}

/* ---- reads ---- */

struct t_reading {
    struct store_read r;
    struct store_test *t;
    struct t_group *g;
    bool done, sync;
};

static void check_read(struct store_test *t, struct t_group *g, const struct store_read *r)
{
    static uint8_t want[BLOCK_SIZE];
    if (r->err)
        fail_msg("a read of group %d at %d+%d failed: %d", (int)g->id, (int)r->block, (int)r->nblocks, r->err);
    for (uint32_t i = 0; i < r->nblocks; i++) {
        uint64_t c = content_at(g, r->block + i, r->applied);
        if (c == 0 && bit_get(r->zero, i)) {
            assert_int_equal(r->crc[i], CRC32C_ZERO_BLOCK);
            continue;
        }
        memset(want, 0, sizeof want);
        if (c)
            pattern(c, want);
        if (bit_get(r->zero, i) || memcmp(want, r->buf->data + (size_t)i * BLOCK_SIZE, BLOCK_SIZE) ||
            crc32c(want, BLOCK_SIZE) != r->crc[i])
            fail_msg("group %d, block %d at slot %d is not what the model says (seed %d)", (int)g->id,
                     (int)(r->block + i), (int)r->applied, (int)t->seed);
    }
}

static void on_read(struct store_read *r)
{
    struct t_reading *x = container_of(r, struct t_reading, r);
    x->t->reads--;
    x->done = true;
    if (x->sync)
        return;
    check_read(x->t, x->g, r);
    buf_unref(r->buf);
    free(x);
}

void t_read(struct store_test *t, unsigned gi, uint64_t block, uint32_t nblocks)
{
    if (t->crashed)
        return;
    struct t_reading *x = calloc(1, sizeof *x);
    x->t = t;
    x->g = &t->group[gi];
    x->r = (struct store_read){.group = x->g->id, .block = block, .nblocks = nblocks, .for_client = t->reads_for_client, .fn = on_read};
    t->reads++;
    store_read(t->store, &x->r);
}

static bool no_reads(void *user)
{
    struct store_test *t = user;
    return t->reads == 0 || t->crashed;
}

void t_read_settle(struct store_test *t)
{
    if (!t->crashed)
        assert_true(sim_run_until(t->world, no_reads, t, 60 * NS_PER_S));
}

static bool read_done(void *user)
{
    return ((struct t_reading *)user)->done;
}

void t_read_now(struct store_test *t, unsigned gi, uint64_t block, uint32_t nblocks, struct store_read *r)
{
    struct t_reading x = {.t = t, .g = &t->group[gi], .sync = true};
    x.r = (struct store_read){.group = x.g->id, .block = block, .nblocks = nblocks, .for_client = t->reads_for_client, .fn = on_read};
    t->reads++;
    store_read(t->store, &x.r);
    if (!x.done)
        assert_true(sim_run_until(t->world, read_done, &x, 60 * NS_PER_S));
    *r = x.r;
}

void t_check_image(struct store_test *t, unsigned gi)
{
    struct t_group *g = &t->group[gi];
    static uint8_t want[BLOCK_SIZE];
    if (t->crashed)
        return;
    image_to(g, store_applied(t->store, g->id));
    for (uint64_t block = 0; block < g->size_blocks; block += ENTRY_MAX_BLOCKS) {
        struct store_read r;
        uint32_t n = g->size_blocks - block < ENTRY_MAX_BLOCKS ? (uint32_t)(g->size_blocks - block) : ENTRY_MAX_BLOCKS;
        t_read_now(t, gi, block, n, &r);
        if (r.err && !(r.err == -EBADMSG && t->may_be_bad))
            fail_msg("reading group %d at %d: %d", (int)g->id, (int)block, r.err);
        assert_int_equal(r.applied, g->image_slot);
        for (uint32_t i = 0; i < n; i++) {
            uint64_t c = g->image[block + i];
            if ((c == 0 && bit_get(r.zero, i)) || bit_get(r.bad, i))
                continue;
            memset(want, 0, sizeof want);
            if (c)
                pattern(c, want);
            if (bit_get(r.zero, i) || memcmp(want, r.buf->data + (size_t)i * BLOCK_SIZE, BLOCK_SIZE))
                fail_msg("group %d, block %d at slot %d is not what the model says (seed %d)", (int)g->id,
                         (int)(block + i), (int)r.applied, (int)t->seed);
        }
        buf_unref(r.buf);
    }
}

struct t_value {
    struct entry *e;
    int err;
    bool done;
};

static void on_value(void *user, struct entry *e, int err)
{
    struct t_value *v = user;
    v->e = e;
    v->err = err;
    v->done = true;
}

static bool value_done(void *user)
{
    return ((struct t_value *)user)->done;
}

/* By something that is committed: its slabs may hold something else by now. */
static bool is_overwritten(const struct t_group *g, uint64_t slot)
{
    const struct t_spec *s = &g->spec[g->log[slot]];
    for (uint64_t later = slot + 1; later <= g->committed; later++) {
        const struct t_spec *x = &g->spec[g->log[later]];
        if (x->nblocks > 0 && x->block < s->block + s->nblocks && s->block < x->block + x->nblocks)
            return s->kind == ENTRY_WRITE && ref_slabs(s->block, s->nblocks) > 0;
    }
    return false;
}

void t_check_values(struct store_test *t, unsigned gi)
{
    struct t_group *g = &t->group[gi];
    for (uint64_t slot = g->floor; slot <= g->last + 1; slot++) {
        struct t_value v = {0};
        store_value(t->store, g->id, slot, on_value, &v);
        if (!v.done)
            assert_true(sim_run_until(t->world, value_done, &v, 60 * NS_PER_S));
        if (slot == g->floor || slot > g->last) {
            assert_null(v.e);
            assert_int_equal(v.err, -ENOENT);
            continue;
        }
        if (v.err == -ENODATA && t->may_lose)
            continue;
        if (v.err == -ENOENT && slot <= g->floor)
            continue; /* a checkpoint took it meanwhile */
        if (v.err == -ESTALE && (t->may_be_bad || is_overwritten(g, slot)))
            continue;
        if (!v.e)
            fail_msg("the value of slot %d of group %d: %d (seed %d)", (int)slot, (int)g->id, v.err, (int)t->seed);
        struct entry *want = make_entry(t, g, &g->spec[g->log[slot]]);
        assert_true(v.e->slot == slot && v.e->group == g->id && ballot_equal(&v.e->e, &want->e) &&
                    v.e->kind == want->kind && v.e->block == want->block && v.e->nblocks == want->nblocks);
        if (want->payload)
            assert_memory_equal(entry_block_data(v.e, 0), entry_block_data(want, 0), entry_payload_bytes(want));
        entry_unref(want);
        entry_unref(v.e);
    }
}
