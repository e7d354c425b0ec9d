/* Checkpoints, cut and torn: a power cut at every event of every disk, kill -9 at every other; pages torn at every
 * sector while extents, meta or root are on their way; long uncommitted tails over several laps of the WAL; lost slots;
 * rot in roots and in the newest batch. */
#include "tests/unit/store_harness.h"

#include <errno.h>

static void audit_clean(struct store_test *t)
{
    struct t_audit a;
    t_audit(t, &a);
    assert_int_equal(a.used, a.reachable);
    assert_int_equal(a.bad_blocks, 0);
}

static void begin_with_wal(struct store_test *t, uint64_t seed, uint64_t wal_bytes)
{
    t_init(t, seed);
    if (wal_bytes)
        t->wal_bytes = wal_bytes;
    t_format(t);
    t_start_ok(t);
    t_create(t, 3000);
    t_create(t, 600);
    t_settle(t); /* a creation that was never durable is another test's business */
}

static void begin(struct store_test *t, uint64_t seed)
{
    begin_with_wal(t, seed, 0);
}

/* Life goes on after a recovery, and what is on disk after a clean stop is in order. */
static void go_on(struct store_test *t)
{
    for (unsigned g = 0; g < t->n_groups; g++) {
        t_append(t, g, ENTRY_WRITE, 5, 60);
        t_append(t, g, ENTRY_TRIM, 16, 32);
    }
    t_commit_all(t);
    t_stop(t);
    assert_int_equal(t->fatal, 0);
    audit_clean(t);
    t_start_ok(t);
    t_stop(t);
}

/* ---- a crash at every event ---- */

/* Three checkpoints that map, overwrite, trim, free, use again; with uncommitted entries, promises, a cut, a
 * membership. */
static void history(struct store_test *t)
{
    t_promise(t, 0, 3);
    t_append(t, 0, ENTRY_WRITE, 0, 40);
    t_append(t, 1, ENTRY_WRITE, 500, 30);
    t_append(t, 0, ENTRY_WRITE, 1000, 64);
    t_commit_all(t);
    t_append(t, 0, ENTRY_WRITE, 3, 3); /* uncommitted */
    t_append(t, 1, ENTRY_MEMBER, 0, 0);
    t_settle(t);
    t_checkpoint(t);
    t_append(t, 0, ENTRY_TRIM, 1000, 40);
    t_append(t, 0, ENTRY_ZERO, 20, 10);
    t_append(t, 0, ENTRY_WRITE, 10, 3);
    t_append(t, 0, ENTRY_WRITE, 1490, 60); /* another leaf, too */
    t_append(t, 1, ENTRY_TRIM, 0, 600);
    t_append(t, 1, ENTRY_WRITE, 515, 1);
    t_commit_all(t);
    t_append(t, 0, ENTRY_WRITE, 11, 60);
    t_promise(t, 1, 5);
    t_settle(t);
    if (!t->crashed)
        t_cut(t, 0, t->group[0].last);
    t_append(t, 0, ENTRY_SESSION, 0, 0);
    t_settle(t);
    t_checkpoint(t);
    t_append(t, 0, ENTRY_WRITE, 1000, 16); /* into what was freed */
    t_append(t, 1, ENTRY_WRITE, 100, 16);
    t_commit_all(t);
    t_checkpoint(t);
}

static void crash_everywhere(enum sim_crash how, uint64_t seed, uint64_t step)
{
    unsigned crashes = 0;
    for (uint64_t at = 1;; at += step) {
        struct store_test t;
        begin(&t, seed + at);
        t.crash_how = how;
        t.events = 0;
        t.crash_at = at;
        history(&t);
        bool crashed = t.crashed;
        t.crash_at = 0;
        if (!crashed)
            t_crash(&t, how);
        crashes += crashed;
        t_crash(&t, how);
        t_start_ok(&t);
        go_on(&t);
        t_free(&t);
        if (!crashed)
            break;
    }
    assert_true(crashes > 100 / step);
}

static void test_kill_at_every_other_event(void **state)
{
    crash_everywhere(SIM_KILL, 1000, 2); /* the power cuts miss none */
}

static void test_power_cut_at_every_event(void **state)
{
    crash_everywhere(SIM_POWER, 3000, 1);
}

/* The same while recovering from a crash in the middle of the second checkpoint. */
static void test_crash_while_recovering(void **state)
{
    for (uint64_t at = 1;; at++) {
        struct store_test t;
        begin(&t, 5000 + at);
        t.events = 0;
        t.crash_at = 90;
        history(&t);
        assert_true(t.crashed);
        t_crash(&t, SIM_POWER);
        t.events = 0;
        t.count_reads = true;
        t.crash_at = at;
        int err = t_start(&t);
        t.crash_at = 0;
        t.count_reads = false;
        assert_true(err == 0 || err == -ECANCELED);
        t_crash(&t, SIM_POWER);
        t_start_ok(&t);
        go_on(&t);
        t_free(&t);
        if (err == 0)
            break;
    }
}

/* ---- torn at every sector ---- */

enum stage { STAGE_FLUSH, STAGE_META, STAGE_ROOT };

struct tear {
    unsigned sector; /* of a page */
    bool only;       /* only that one landed; else all but that one */
};

static bool landed(void *user, struct sim_disk *d, uint64_t nth, uint64_t off)
{
    const struct tear *t = user;
    return (off / 512 % 8 == t->sector) == t->only;
}

static void to_stage(struct store_test *t, enum stage stage)
{
    static const enum cycle_state state[] = {CYCLE_FLUSH, CYCLE_META_FLUSH, CYCLE_ROOT};
    store_checkpoint(t->store);
    sim_wake(t->sim);
    while (t->store->cycle.state != state[stage] || t->store->cycle.in_flight == 0)
        assert_true(sim_step(t->world));
}

static void test_torn_at_every_sector(void **state)
{
    for (unsigned stage = STAGE_FLUSH; stage <= STAGE_ROOT; stage++) {
        for (unsigned i = 0; i < 16; i++) {
            struct tear tear = {.sector = i / 2, .only = i & 1};
            struct store_test t;
            begin(&t, 7000 + stage * 16 + i);
            history(&t);
            t_append(&t, 0, ENTRY_WRITE, 2, 63);
            t_append(&t, 0, ENTRY_TRIM, 1490, 60);
            t_commit_all(&t);
            to_stage(&t, stage);
            sim_disk_set_landing(t.meta, landed, &tear);
            uint64_t off;
            for (uint64_t x = 0; x < t.n_extents; x++)
                sim_disk_set_landing(t_extent(&t, x * t.extent_bytes / SLAB_BYTES, &off), landed, &tear);
            t_crash(&t, SIM_POWER);
            sim_disk_set_landing(t.meta, NULL, NULL);
            for (uint64_t x = 0; x < t.n_extents; x++)
                sim_disk_set_landing(t_extent(&t, x * t.extent_bytes / SLAB_BYTES, &off), NULL, NULL);
            t_start_ok(&t);
            assert_int_equal(t.bad_reported, 0);
            go_on(&t);
            t_free(&t);
        }
    }
}

/* Payloads stand in the WAL: it is what this is about. */
static void use_the_ring(struct store_test *t)
{
    t->write_twice = true;
    t->store->sb.features_incompat = 0;
}

/* ---- long tails ---- */

/* Group 0 waits for a commit while group 1 goes round the ring. */
static void laps(struct store_test *t, unsigned entries)
{
    for (unsigned i = 0; i < entries; i++) {
        t_append(t, 1, ENTRY_WRITE, (i * 37) % 536, 64);
        t_settle(t);
        t_commit(t, 1, t->group[1].last);
    }
}

static void test_uncommitted_tail_over_laps(void **state)
{
    for (unsigned variant = 0; variant < 4; variant++) {
        struct store_test t;
        begin(&t, 8000 + variant);
        use_the_ring(&t);
        t_append(&t, 0, ENTRY_WRITE, 0, 8);
        t_commit_all(&t);
        t_append(&t, 0, ENTRY_WRITE, 4, 8); /* waits */
        t_append(&t, 0, ENTRY_MEMBER, 0, 0);
        t_append(&t, 0, ENTRY_TRIM, 2, 4);
        laps(&t, 40);
        uint64_t head = wal_head_lsn(t.store->wal);
        assert_true(t.store->checkpoints_done > 3 && head > 2 * t.wal_bytes);
        if (variant & 1) { /* the copies may not win over what replaced them */
            t_cut(&t, 0, 2);
            t_append(&t, 0, ENTRY_WRITE, 5, 2);
            t_append(&t, 0, ENTRY_ZERO, 0, 1);
            t_settle(&t);
        }
        if (variant & 2)
            laps(&t, 40);
        t_crash(&t, SIM_POWER);
        t_start_ok(&t);
        if (variant & 1)
            assert_int_equal(t.group[0].last, 3);
        t_commit_all(&t);
        t_check_image(&t, 0);
        laps(&t, 10);
        go_on(&t);
        t_free(&t);
    }
}

/* ---- lost values ---- */

static void flip_payload(struct store_test *t, const struct wal_place *p)
{
    sim_disk_flip(t->wal, p->payload_lsn % t->wal_bytes + 123, 4);
}

static void test_lost_uncommitted_slot(void **state)
{
    struct store_test t;
    begin(&t, 9000);
    for (unsigned i = 0; i < 5; i++) {
        t_append(&t, 0, ENTRY_WRITE, 10 * i, 10);
        t_settle(&t);
    }
    t_commit(&t, 0, 1);
    struct wal_place place = log_slot(store_group(t.store, 1), 3)->place;
    t_crash(&t, SIM_KILL);
    flip_payload(&t, &place);
    t.may_lose = true;
    t_start_ok(&t);
    assert_int_equal(t.group[0].n_lost, 1);
    assert_int_equal(t.group[0].lost[0], 3);
    t_commit(&t, 0, 1);
    t_commit(&t, 0, 2);
    /* The name outlives the WAL that held the value: rot is never forgotten, nor silently shortened. */
    laps(&t, 40);
    assert_true(place.desc_lsn < t.store->root->tail_lsn);
    t_crash(&t, SIM_POWER);
    t_start_ok(&t);
    assert_int_equal(t.group[0].n_lost, 1);
    assert_int_equal(t.group[0].lost[0], 3);
    assert_int_equal(t.group[0].last, 5);
    t_refill(&t, 0, 3);
    t_settle(&t);
    t.may_lose = false;
    t_crash(&t, SIM_POWER);
    t_start_ok(&t);
    t_commit_all(&t);
    go_on(&t);
    t_free(&t);
}

/* Committed by a durable record, written back in part, but in no checkpoint, and then its value rots: applied stops
 * before it; what the disk has of later entries is found by its checksum. */
static void test_lost_committed_slot(void **state)
{
    struct store_test t;
    begin(&t, 9100);
    use_the_ring(&t);
    for (unsigned i = 0; i < 3; i++) {
        t_append(&t, 0, ENTRY_WRITE, 16 * i, 16);
        t_settle(&t);
    }
    t_commit_all(&t);
    t_checkpoint(&t);
    for (unsigned i = 0; i < 3; i++) {
        t_append(&t, 0, ENTRY_WRITE, 16 * i, 16);
        t_settle(&t);
    }
    t_commit_all(&t);
    struct wal_place place = log_slot(store_group(t.store, 1), 5)->place;
    to_stage(&t, STAGE_META);
    t_crash(&t, SIM_KILL);
    flip_payload(&t, &place);
    t.may_lose = true;
    assert_int_equal(t_start(&t), 0);
    assert_int_equal(store_applied(t.store, 1), 4);
    assert_int_equal(t.group[0].n_lost, 1);
    struct store_read r;
    t_read_now(&t, 0, 0, 16, &r);
    assert_int_equal(r.err, 0);
    buf_unref(r.buf);
    t_read_now(&t, 0, 16, 16, &r);
    assert_int_equal(r.err, -EBADMSG); /* newer than slot 4: not to be shown */
    buf_unref(r.buf);
    t_refill(&t, 0, 5);
    t_settle(&t);
    store_commit(t.store, 1, 6);
    t.may_lose = false;
    t_check_image(&t, 0);
    go_on(&t);
    t_free(&t);
}

/* A value that was copied forward stands twice until the next root: the loss of one costs nothing. */
static void test_lost_copy(void **state)
{
    struct store_test t;
    begin(&t, 9150);
    use_the_ring(&t);
    t_append(&t, 0, ENTRY_WRITE, 4, 8); /* waits */
    t_settle(&t);
    struct wal_place original = log_slot(store_group(t.store, 1), 1)->place;
    sim_disk_timing(t.meta)->write_ns = (struct sim_range){2 * NS_PER_S, 2 * NS_PER_S};
    while (!log_slot(store_group(t.store, 1), 1)->pinned)
        laps(&t, 1);
    laps(&t, 2); /* batches that prove it was durable */
    struct wal_place copy = log_slot(store_group(t.store, 1), 1)->place;
    assert_true(copy.desc_lsn > original.desc_lsn && t.store->root->tail_lsn <= original.desc_lsn);
    t_crash(&t, SIM_KILL);
    sim_disk_timing(t.meta)->write_ns = (struct sim_range){NS_PER_MS, NS_PER_MS};
    flip_payload(&t, &copy);
    t_start_ok(&t);
    t_commit_all(&t);
    t_check_image(&t, 0);
    go_on(&t);
    t_free(&t);
}

/* The root that came of the copy is durable, the redo position beyond the original, and then the copy rots: the original counts, and holds the log's tail. */
static void test_lost_copy_behind_a_root(void **state)
{
    struct store_test t;
    begin_with_wal(&t, 9170, 64u << 20); /* one that keeps a long log for peers */
    use_the_ring(&t);
    t_append(&t, 0, ENTRY_WRITE, 4, 8); /* waits */
    t_settle(&t);
    struct wal_place original = log_slot(store_group(t.store, 1), 1)->place;
    while (t.store->root->redo_lsn <= original.desc_lsn)
        laps(&t, 1);
    struct wal_place copy = log_slot(store_group(t.store, 1), 1)->place;
    assert_true(copy.desc_lsn > original.desc_lsn && t.store->root->tail_lsn <= original.desc_lsn);
    /* So much waits behind it that a checkpoint copies nothing forward. */
    sim_disk_timing(t.meta)->write_ns = (struct sim_range){100 * NS_PER_S, 100 * NS_PER_S};
    store_checkpoint(t.store);
    for (unsigned i = 0; i < 110; i++) {
        t_append(&t, 0, ENTRY_WRITE, i * 16, 64);
        t_settle(&t);
    }
    t_crash(&t, SIM_KILL);
    sim_disk_timing(t.meta)->write_ns = (struct sim_range){NS_PER_MS, NS_PER_MS};
    flip_payload(&t, &copy);
    t_start_ok(&t);
    uint64_t redo = t.store->root->redo_lsn, done = t.store->checkpoints_done;
    assert_true(original.desc_lsn < redo);
    for (unsigned i = 0; i < 10; i++) {
        laps(&t, 4);
        t_checkpoint(&t);
        assert_int_equal(t.fatal, 0);
        assert_int_equal(log_slot(store_group(t.store, 1), 1)->place.desc_lsn, original.desc_lsn);
        assert_true(t.store->root->tail_lsn <= original.desc_lsn && t.store->root->redo_lsn >= redo);
    }
    assert_true(t.store->checkpoints_done >= done + 10);
    t_crash(&t, SIM_POWER);
    t_start_ok(&t);
    laps(&t, 20);
    t_commit_all(&t);
    t_check_image(&t, 0);
    go_on(&t);
    t_free(&t);
}

/* Below the checkpoint a lost value costs peers something, not this replica: the floor rises. */
static void test_lost_old_value(void **state)
{
    struct store_test t;
    begin(&t, 9200);
    for (unsigned i = 0; i < 5; i++) {
        t_append(&t, 0, ENTRY_WRITE, 10 * i, 10);
        t_settle(&t);
    }
    t_commit_all(&t);
    struct wal_place place = log_slot(store_group(t.store, 1), 3)->place;
    t_stop(&t);
    flip_payload(&t, &place);
    t_start_ok(&t);
    assert_int_equal(t.group[0].floor, 3);
    go_on(&t);
    t_free(&t);
}

/* ---- rot ---- */

/* The newest batch of an idle store rots: nothing tells it from a torn one, but the checkpoint knows what it held. */
static void test_rot_of_newest_batch(void **state)
{
    for (unsigned uncommitted = 0; uncommitted < 2; uncommitted++) {
        struct store_test t;
        begin(&t, 9300);
        t_append(&t, 0, ENTRY_WRITE, 0, 10);
        t_commit_all(&t);
        t_promise(&t, 0, 9);
        if (uncommitted)
            t_append(&t, 0, ENTRY_WRITE, 3, 3);
        t_checkpoint(&t);
        uint64_t lsn = wal_cut_position(t.store->wal).prev_lsn;
        t_settle(&t);
        t_crash(&t, SIM_KILL);
        for (unsigned i = 0; i < 2; i++) { /* the one with the commit, and the one with the entry */
            struct wal_batch b;
            sim_disk_peek(t.wal, lsn % t.wal_bytes, &b, sizeof b);
            sim_disk_flip(t.wal, lsn % t.wal_bytes + 30, 1);
            lsn = b.prev_lsn;
        }
        t.may_lose = true;
        t_start_ok(&t);
        assert_int_equal(t.group[0].found_promised, 9);
        assert_int_equal(store_applied(t.store, 1), 1);
        if (uncommitted) {
            assert_int_equal(t.group[0].n_lost, 1);
            t_refill(&t, 0, 2);
        }
        t.may_lose = false;
        t_commit_all(&t);
        t_checkpoint(&t);
        laps(&t, 30);
        go_on(&t);
        t_free(&t);
    }
}

/* The newest root rots: either the store starts from the one before and has everything, or it refuses. */
static void test_rot_of_newest_root(void **state)
{
    unsigned started = 0, refused = 0;
    for (uint64_t seed = 9400; seed < 9464; seed++) {
        struct store_test t;
        begin(&t, seed);
        use_the_ring(&t);
        history(&t);
        laps(&t, (unsigned)(sim_rand(t.world) % 30));
        for (unsigned i = (unsigned)(sim_rand(t.world) % 3); i > 0; i--)
            t_checkpoint(&t);
        t_append(&t, 0, ENTRY_WRITE, 0, (uint32_t)(1 + sim_rand(t.world) % 64));
        t_settle(&t);
        uint64_t place = t.store->root->checkpoint & 1;
        t_crash(&t, SIM_POWER);
        sim_disk_flip(t.meta, place * BLOCK_SIZE + 300, 2);
        int err = t_start(&t);
        if (err == 0) {
            t_crash(&t, SIM_KILL);
            t.may_be_bad = true; /* leaves of a later checkpoint than the root's are not believed */
            t_start_ok(&t);
            started++;
        } else {
            refused++;
        }
        t_free(&t);
    }
    assert_true(started > 0 && refused > 0);
}

/* ---- order ---- */

static bool nothing_landed(void *user, struct sim_disk *d, uint64_t nth, uint64_t off)
{
    return false;
}

/* What is not durable is lost, all of it, after the WAL went round: a root that was believed too early would leave the
 * one before, whose WAL is overwritten. */
static void test_only_what_is_durable_counts(void **state)
{
    for (uint64_t seed = 9800; seed < 9816; seed++) {
        struct store_test t;
        begin(&t, seed);
        uint64_t off;
        sim_disk_set_landing(t.meta, nothing_landed, NULL);
        sim_disk_set_landing(t.wal, nothing_landed, NULL);
        for (uint64_t x = 0; x < t.n_extents; x++)
            sim_disk_set_landing(t_extent(&t, x * t.extent_bytes / SLAB_BYTES, &off), nothing_landed, NULL);
        laps(&t, 40 + (unsigned)(sim_rand(t.world) % 20));
        t_crash(&t, SIM_POWER);
        t_start_ok(&t);
        go_on(&t);
        t_free(&t);
    }
}

static bool full(struct store_test *t)
{
    t_append(t, 0, ENTRY_WRITE, 0, 60);
    t_settle(t);
    return !store_has_room(t->store);
}

/* The tail moves far with one root; then the ring is filled to the brim while no other checkpoint comes about. The root
 * before would find its WAL overwritten. */
static void test_root_is_durable_before_the_wal_is_overwritten(void **state)
{
    struct store_test t;
    begin(&t, 9820);
    while (!full(&t))
        ;
    t_commit_all(&t);
    t_checkpoint(&t);
    uint64_t tail = t.store->root->tail_lsn;
    sim_disk_timing(t.meta)->write_ns = (struct sim_range){1000 * NS_PER_S, 1000 * NS_PER_S};
    while (!full(&t))
        ;
    assert_true(t.store->root->tail_lsn == tail && tail > t.wal_bytes / 4);
    assert_true(wal_head_lsn(t.store->wal) > t.wal_bytes);
    sim_disk_set_landing(t.meta, nothing_landed, NULL);
    t_crash(&t, SIM_POWER);
    sim_disk_timing(t.meta)->write_ns = (struct sim_range){NS_PER_MS, NS_PER_MS};
    t_start_ok(&t);
    go_on(&t);
    t_free(&t);
}

/* A slow read from before the freeze, of blocks that the checkpoint overwrites in place: it is over before they are
 * written (the simulated disk asserts it), and sees one image. */
static void test_slow_reads_hold_up_write_back(void **state)
{
    struct store_test t;
    begin(&t, 9900);
    t_append(&t, 0, ENTRY_WRITE, 0, 64);
    t_commit_all(&t);
    t_checkpoint(&t);
    uint64_t off;
    struct sim_disk *d = t_find_data(&t, 0, 3, &off);
    sim_disk_timing(d)->read_ns = (struct sim_range){NS_PER_S, NS_PER_S};
    t_read(&t, 0, 3, 20);
    t_run(&t, 20 * NS_PER_MS); /* its leaf comes from the cache or from that slow disk */
    t_append(&t, 0, ENTRY_WRITE, 0, 30);
    t_commit_all(&t);
    store_checkpoint(t.store);
    t_run(&t, 500 * NS_PER_MS);
    assert_int_equal(t.reads, 1);
    assert_int_equal(t.store->cycle.state, CYCLE_COMMIT);
    t_read(&t, 0, 0, 64); /* a newer one sees the frozen overlay, and the disk only where nothing is written */
    t_read_settle(&t);
    t_checkpoint(&t);
    t_check_image(&t, 0);
    go_on(&t);
    t_free(&t);
}

/* What is trimmed is free when the root without it is durable, and not before. */
static void test_pending_free(void **state)
{
    struct store_test t;
    begin(&t, 9950);
    t_append(&t, 0, ENTRY_WRITE, 0, 64);
    t_commit_all(&t);
    t_checkpoint(&t);
    struct store_stats before, during, after;
    store_get_stats(t.store, &before);
    t_append(&t, 0, ENTRY_TRIM, 0, 64);
    t_commit_all(&t);
    to_stage(&t, STAGE_ROOT);
    store_get_stats(t.store, &during);
    assert_int_equal(during.slabs_pending_free, 4);
    assert_int_equal(during.slabs_free, before.slabs_free);
    t_checkpoint(&t);
    store_get_stats(t.store, &after);
    assert_int_equal(after.slabs_pending_free, 0);
    assert_int_equal(after.slabs_free, before.slabs_free + 4);
    go_on(&t);
    t_free(&t);
}

/* ---- a creation, a region and a membership that meet a checkpoint ---- */

static void test_creation_during_a_checkpoint(void **state)
{
    for (unsigned stage = STAGE_FLUSH; stage <= STAGE_ROOT; stage++) {
        struct store_test t;
        begin(&t, 9500 + stage);
        t_append(&t, 0, ENTRY_WRITE, 0, 10);
        t_commit_all(&t);
        store_checkpoint(t.store);
        sim_wake(t.sim);
        while (t.store->cycle.state == CYCLE_IDLE)
            assert_true(sim_step(t.world));
        t_create(&t, 100);
        t_append(&t, 2, ENTRY_WRITE, 7, 7); /* takes a region while the region table is about to be written */
        t_settle(&t);
        t_commit(&t, 2, 1);
        if (t.store->cycle.state != CYCLE_IDLE && stage != STAGE_ROOT)
            to_stage(&t, stage);
        else
            t_run(&t, NS_PER_S);
        t_crash(&t, SIM_POWER);
        t_start_ok(&t);
        go_on(&t);
        t_free(&t);
    }
}

static void test_membership(void **state)
{
    struct store_test t;
    begin(&t, 9600);
    t_append(&t, 0, ENTRY_MEMBER, 0, 0);
    t_commit_all(&t);
    t_append(&t, 0, ENTRY_MEMBER, 0, 0);
    t_settle(&t);
    for (unsigned i = 0; i < 2; i++) {
        struct group *g = store_group(t.store, 1);
        assert_int_equal(g->committed.slot, 1); /* as they are applied */
        assert_int_equal(g->uncommitted.slot, 2);
        assert_int_equal(g->uncommitted.n_voters, 1);
        if (i == 0) {
            t_checkpoint(&t);
            t_crash(&t, SIM_POWER);
            t_start_ok(&t);
        }
    }
    t_cut(&t, 0, 2);
    assert_int_equal(store_group(t.store, 1)->uncommitted.n_voters, 0);
    go_on(&t);
    t_free(&t);
}

/* That a membership is committed outlives the process without a checkpoint, and without an entry behind it: the voters that
 * it replaces may be gone for good, and an uncommitted one would still ask for them. */
static void test_a_committed_membership_is_written_down_at_once(void **state)
{
    struct store_test t;
    begin(&t, 9610);
    t_append(&t, 0, ENTRY_WRITE, 0, 1);
    t_commit_all(&t);
    t_append(&t, 0, ENTRY_MEMBER, 0, 0);
    t_commit_all(&t);
    uint64_t slot = t.group[0].last;
    assert_int_equal(store_group(t.store, 1)->committed.slot, slot);
    t_run(&t, 20 * NS_PER_MS);
    t_crash(&t, SIM_POWER);
    t_start_ok(&t);
    assert_true(t.group[0].found_commit >= slot);
    go_on(&t);
    t_free(&t);
}

/* A dirty store that is left alone makes its checkpoint, once. */
static void test_idle_checkpoint(void **state)
{
    struct store_test t;
    begin(&t, 9700);
    t_append(&t, 0, ENTRY_WRITE, 0, 10);
    t_commit_all(&t);
    t_run(&t, 30 * NS_PER_S);
    assert_int_equal(t.store->checkpoints_done, 1);
    t_run(&t, 300 * NS_PER_S);
    assert_int_equal(t.store->checkpoints_done, 1);
    assert_true(overlay_is_empty(t.store, 0) && overlay_is_empty(t.store, 1));
    t_check_image(&t, 0);
    go_on(&t);
    t_free(&t);
}

int main(int argc, char **argv)
{
    if (argc > 1) /* one test, by name or pattern */
        cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_idle_checkpoint),
        cmocka_unit_test(test_membership),
        cmocka_unit_test(test_a_committed_membership_is_written_down_at_once),
        cmocka_unit_test(test_creation_during_a_checkpoint),
        cmocka_unit_test(test_kill_at_every_other_event),
        cmocka_unit_test(test_power_cut_at_every_event),
        cmocka_unit_test(test_crash_while_recovering),
        cmocka_unit_test(test_torn_at_every_sector),
        cmocka_unit_test(test_uncommitted_tail_over_laps),
        cmocka_unit_test(test_lost_uncommitted_slot),
        cmocka_unit_test(test_lost_committed_slot),
        cmocka_unit_test(test_lost_old_value),
        cmocka_unit_test(test_rot_of_newest_batch),
        cmocka_unit_test(test_rot_of_newest_root),
        cmocka_unit_test(test_root_is_durable_before_the_wal_is_overwritten),
        cmocka_unit_test(test_lost_copy),
        cmocka_unit_test(test_lost_copy_behind_a_root),
        cmocka_unit_test(test_only_what_is_durable_counts),
        cmocka_unit_test(test_slow_reads_hold_up_write_back),
        cmocka_unit_test(test_pending_free),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
