/* The store against its model: entries of all kinds and sizes, reads at every applied slot, checkpoints, restarts;
 * space; damage and repair. */
#include "tests/unit/store_harness.h"

#include <errno.h>

static void begin(struct store_test *t, uint64_t seed)
{
    t_init(t, seed);
    t_format(t);
    t_start_ok(t);
}

static void audit_clean(struct store_test *t)
{
    struct t_audit a;
    t_audit(t, &a);
    assert_int_equal(a.used, a.reachable);
    assert_int_equal(a.bad_blocks, 0);
}

/* ---- plain ---- */

static void test_write_read_restart(void **state)
{
    struct store_test t;
    begin(&t, 1);
    t_create(&t, 4096);
    t_append(&t, 0, ENTRY_WRITE, 10, 20);
    t_append(&t, 0, ENTRY_WRITE, 15, 1);
    t_append(&t, 0, ENTRY_TRIM, 16, 2);
    t_append(&t, 0, ENTRY_WRITE, 500, 60); /* over the edge of a leaf */
    t_commit_all(&t);
    assert_int_equal(store_applied(t.store, 1), 4);
    t_check_image(&t, 0);
    t_stop(&t);
    audit_clean(&t);
    t_start_ok(&t);
    assert_int_equal(store_applied(t.store, 1), 4);
    t_stop(&t);
    t_free(&t);
}

/* What is committed but in no checkpoint comes back from the WAL: the COMMIT is learned again, the entries are there.
 */
static void test_power_cut_without_checkpoint(void **state)
{
    struct store_test t;
    begin(&t, 2);
    t_create(&t, 4096);
    t_promise(&t, 0, 7);
    for (unsigned i = 0; i < 50; i++)
        t_append(&t, 0, ENTRY_WRITE, i * 7, 9);
    t_commit_all(&t);
    t_append(&t, 0, ENTRY_WRITE, 0, 64);
    t_crash(&t, SIM_POWER);
    t_start_ok(&t);
    t_stop(&t);
    audit_clean(&t);
    t_free(&t);
}

static void random_life(uint64_t seed, unsigned n_groups, unsigned lives, unsigned ops)
{
    struct store_test t;
    t_init(&t, seed);
    t.n_extents = n_groups > 3 ? 14 : 4;
    t.capacity_bytes = t.n_extents * t.extent_bytes;
    t_format(&t);
    t_start_ok(&t);
    for (unsigned i = 0; i < n_groups; i++)
        t_create(&t, 700 + 600 * i);
    t_settle(&t);
    for (unsigned life = 0; life < lives; life++) {
        for (unsigned i = 0; i < ops; i++) {
            t_random(&t, 64);
            assert_int_equal(t.fatal, 0);
            if (sim_rand(t.world) % 100 == 0)
                store_checkpoint(t.store);
        }
        t_read_settle(&t);
        for (unsigned i = 0; i < n_groups; i++)
            t_check_image(&t, i);
        unsigned how = (unsigned)(sim_rand(t.world) % 3);
        if (how == 0)
            t_stop(&t);
        else
            t_crash(&t, how == 1 ? SIM_KILL : SIM_POWER);
        if (how == 0)
            audit_clean(&t);
        for (unsigned i = 0; i < n_groups && how == 0; i++)
            t_check_changed(&t, i);
        t_start_ok(&t);
    }
    t_stop(&t);
    audit_clean(&t);
    t_free(&t);
}

static void test_random_lives(void **state)
{
    for (uint64_t seed = 100; seed < 108; seed++)
        random_life(seed, 1 + (unsigned)(seed % 3), 5, 300);
}

static void test_many_groups(void **state)
{
    random_life(200, T_GROUPS, 4, 400);
}

static void test_can_create(void **state)
{
    struct store_test t;
    begin(&t, 3);
    t_create(&t, 100);
    t_settle(&t);
    assert_false(store_can_create(t.store, 1));
    assert_false(store_can_create(t.store, 0));
    assert_true(store_can_create(t.store, 2));
    t_stop(&t);
    t_free(&t);
}

/* ---- space ---- */

static uint64_t credit(struct store_test *t)
{
    t_run(t, NS_PER_MS);
    return t->group[0].credits.slabs;
}

static void test_full_and_trimmed(void **state)
{
    struct store_test t;
    t_init(&t, 4);
    t.n_extents = 1; /* 128 slabs, 16 of them the reserve */
    t.capacity_bytes = t.extent_bytes;
    t_format(&t);
    t_start_ok(&t);
    t_create(&t, 4096);
    t_settle(&t);
    uint64_t all = credit(&t);
    assert_int_equal(all, 128 - 16);
    assert_int_equal(t.group[0].credits.growing, 0);
    unsigned n = 0;
    while (credit(&t) > 0) {
        t_append(&t, 0, ENTRY_WRITE, 16 * n, 1); /* a slab each */
        t_commit_all(&t);
        n++;
        assert_true(n < 200);
    }
    assert_int_equal(n, all - 1); /* one slab of leaves */
    /* P10: what was assigned before credits were seen is never refused: the reserve takes it. */
    assert_true(store_has_room(t.store));
    for (unsigned i = 0; i < 8; i++, n++)
        t_append(&t, 0, ENTRY_WRITE, 16 * n, 16);
    /* With half of it used up a stream that lives from others' credits must wait. */
    assert_true(store_is_full(t.store) && !store_has_room(t.store));
    t_append_anyway(&t, 0, ENTRY_WRITE, 16 * n++, 16);
    t_commit_all(&t);
    t_checkpoint(&t);
    assert_int_equal(t.fatal, 0);
    assert_int_equal(credit(&t), 0);
    t_check_image(&t, 0);
    /* A zeroed range keeps its space, a trimmed one gives it back. */
    t_append_anyway(&t, 0, ENTRY_ZERO, 0, 16 * n);
    t_commit_all(&t);
    t_checkpoint(&t);
    assert_int_equal(credit(&t), 0);
    t_append_anyway(&t, 0, ENTRY_TRIM, 0, 16 * n);
    t_commit_all(&t);
    t_checkpoint(&t);
    assert_int_equal(credit(&t), all - 1);
    t_check_image(&t, 0);
    t_stop(&t);
    audit_clean(&t);
    t_start_ok(&t);
    t_settle(&t);
    assert_int_equal(credit(&t), all - 1);
    t_stop(&t);
    t_free(&t);
}

/* Writes are refused while there are no credits: what a TRIM gives back is there at once, not when the store is idle. */
static void test_trim_when_full(void **state)
{
    struct store_test t;
    t_init(&t, 8);
    t.n_extents = 1;
    t.capacity_bytes = t.extent_bytes;
    t_format(&t);
    t_start_ok(&t);
    t_create(&t, 4096);
    t_settle(&t);
    uint64_t all = credit(&t);
    for (unsigned n = 0; credit(&t) > 0; n++) {
        assert_true(n < 200);
        t_append(&t, 0, ENTRY_WRITE, 16 * n, 1);
        t_commit_all(&t);
    }
    t_checkpoint(&t);
    assert_int_equal(credit(&t), 0);
    uint64_t checkpoints = t.store->checkpoints_done;
    t_append(&t, 0, ENTRY_TRIM, 0, 16 * 40);
    t_commit_all(&t);
    t_run(&t, t.store->options.checkpoint_idle_ns / 4);
    assert_int_equal(t.store->checkpoints_done, checkpoints + 1);
    assert_int_equal(credit(&t), 40);
    /* With room again there is no hurry. */
    t_append(&t, 0, ENTRY_TRIM, 16 * 40, 16 * 4);
    t_commit_all(&t);
    t_run(&t, t.store->options.checkpoint_idle_ns / 4);
    assert_int_equal(t.store->checkpoints_done, checkpoints + 1);
    t_checkpoint(&t);
    assert_int_equal(credit(&t), 44);
    assert_true(all > 44);
    t_check_image(&t, 0);
    t_stop(&t);
    audit_clean(&t);
    t_free(&t);
}

/* Reservations follow what the log needs: a cut gives them back at the next checkpoint, a crash changes nothing. */
static void test_reservations(void **state)
{
    struct store_test t;
    begin(&t, 5);
    t_create(&t, 4096);
    t_settle(&t);
    uint64_t all = credit(&t);
    for (unsigned i = 0; i < 10; i++)
        t_append(&t, 0, ENTRY_WRITE, 16 * i + 8, 16); /* 11 slabs and one of leaves */
    assert_int_equal(t.store->slabs_reserved, 12);
    t_settle(&t);
    t_cut(&t, 0, 6);
    t_settle(&t);
    t_checkpoint(&t);
    assert_int_equal(t.store->slabs_reserved, 7);
    assert_int_equal(credit(&t), all - 7);
    t_crash(&t, SIM_POWER);
    t_start_ok(&t);
    assert_int_equal(t.store->slabs_reserved, 7);
    t_commit_all(&t);
    t_checkpoint(&t);
    assert_int_equal(t.store->slabs_reserved, 0);
    assert_int_equal(credit(&t), all - 7);
    t_stop(&t);
    audit_clean(&t);
    t_free(&t);
}

static void test_growth(void **state)
{
    struct store_test t;
    t_init(&t, 6);
    t.n_extents = 1;
    t.capacity_bytes = 3 * t.extent_bytes;
    t_format(&t);
    t_start_ok(&t);
    t_create(&t, 8192);
    t_settle(&t);
    t_run(&t, 10 * NS_PER_S);
    assert_int_equal(t.store->sb.n_extents, 1); /* there is credit for half an extent */
    for (unsigned i = 0; i < 300; i++) {
        t_append(&t, 0, ENTRY_WRITE, 16 * i, 3);
        t_commit_all(&t);
        t_run(&t, 50 * NS_PER_MS);
        if (t.store->sb.n_extents < 3)
            assert_true(t.group[0].credits.growing || t.group[0].credits.slabs > 0);
    }
    assert_int_equal(t.store->sb.n_extents, 3);
    t_run(&t, 10 * NS_PER_S);
    assert_int_equal(t.group[0].credits.growing, 0); /* the capacity is reached */
    t_check_image(&t, 0);
    t_crash(&t, SIM_POWER);
    t_start_ok(&t);
    assert_int_equal(t.sb.n_extents, 3);
    t_stop(&t);
    audit_clean(&t);
    t_free(&t);
}

/* A piece of catch-up may ask for more slabs than there are: its entries are committed and can't be refused. The checkpoint that would place them waits for the extents that are being made. */
static void test_more_than_there_is(void **state)
{
    struct store_test t;
    t_init(&t, 25);
    t.n_extents = 1;
    t.extent_bytes = 2u << 20; /* 32 slabs */
    t.capacity_bytes = 4 * t.extent_bytes;
    t_format(&t);
    t_start_ok(&t);
    unsigned g = t_create(&t, 4096);
    for (uint64_t slab = 0; slab < 40; slab++)
        t_append_anyway(&t, g, ENTRY_WRITE, slab * SLAB_BLOCKS, 1);
    t_commit_all(&t);
    assert_true(t.store->slabs_free < t.store->slabs_reserved && t.store->sb.n_extents == 1);
    t_checkpoint(&t);
    assert_int_equal(t.fatal, 0);
    assert_true(t.store->sb.n_extents > 1 && t.store->checkpoints_done > 0);
    t_check_image(&t, g);
    t_stop(&t);
    t_free(&t);
}

/* Of what nobody asked for only so much is taken as write-back finds slabs for. */
static void test_can_take(void **state)
{
    struct store_test t;
    t_init(&t, 27);
    t.n_extents = 1;
    t.extent_bytes = 2u << 20; /* 32 slabs */
    t.capacity_bytes = t.extent_bytes;
    t_format(&t);
    t_start_ok(&t);
    unsigned g = t_create(&t, 4096);
    t_append(&t, g, ENTRY_WRITE, 0, 1);
    t_commit_all(&t);
    t_checkpoint(&t); /* a slab, and one for leaves */
    struct entry *e[40];
    for (unsigned i = 0; i < 40; i++) {
        struct buf *payload = i % 4 ? NULL : buf_alloc_must(t.r->arena, 2 * BLOCK_SIZE);
        e[i] = i % 4 ? entry_new(t.r->arena, ENTRY_TRIM, 0, 4096, NULL, 0)
                     : entry_new(t.r->arena, ENTRY_WRITE, i * SLAB_BLOCKS + 15, 2, payload, 0); /* two slabs each */
        e[i]->group = 1;
    }
    assert_int_equal(t.store->slabs_free, 30);
    assert_int_equal(store_can_take(t.store, e, 40), 40); /* 10 * 2 - 1 */
    t.store->slabs_free -= 15;
    assert_int_equal(store_can_take(t.store, e, 40), 32); /* 1 + 7 * 2 */
    assert_int_equal(store_can_take(t.store, e, 9), 9);
    t.store->slabs_reserved += 15;
    assert_int_equal(store_can_take(t.store, e, 40), 0);
    t.store->slabs_reserved -= 15;
    t.store->slabs_free += 15;
    for (unsigned i = 0; i < 40; i++)
        entry_unref(e[i]);
    t_stop(&t);
    t_free(&t);
}

/* A crash at each moment of growing: the extent is there or not, the superblock counts it or not. The next process grows all the same. */
static void test_growth_cut_short(void **state)
{
    bool left = false, counted = false;
    for (unsigned i = 0; i < 40; i++) {
        struct store_test t;
        t_init(&t, 100 + i);
        t.n_extents = 1;
        t.capacity_bytes = 3 * t.extent_bytes;
        t_format(&t);
        t_start_ok(&t);
        t_create(&t, 8192);
        t_settle(&t);
        for (unsigned k = 0; k < 100 && !t.store->growing; k++) {
            t_append(&t, 0, ENTRY_WRITE, 16 * k, 3);
            t_commit_all(&t);
        }
        assert_true(t.store->growing && t.store->sb.n_extents == 1);
        sim_disk_timing(t.superblock)->write_ns = (struct sim_range){2 * NS_PER_MS, 4 * NS_PER_MS};
        while (i % 4 && !sim_dir_find(t.dir, "extents/00001"))
            t_run(&t, NS_PER_MS);
        t_run(&t, sim_rand(t.world) % (20 * NS_PER_MS));
        t_crash(&t, i % 3 ? SIM_POWER : SIM_KILL);
        struct sim_disk *extent = sim_dir_find(t.dir, "extents/00001");
        t_start_ok(&t);
        left |= extent && t.sb.n_extents == 1;
        counted |= t.sb.n_extents == 2;
        assert_true(extent || t.sb.n_extents == 1);
        for (unsigned k = 0; k < 300; k++) {
            t_append(&t, 0, ENTRY_WRITE, 16 * k, 3);
            t_commit_all(&t);
            t_run(&t, 50 * NS_PER_MS);
        }
        assert_int_equal(t.store->sb.n_extents, 3);
        t_check_image(&t, 0);
        t.sb = t.store->sb;
        t_stop(&t);
        audit_clean(&t);
        t_free(&t);
    }
    assert_true(left && counted);
}

static bool lands(void *user, struct sim_disk *d, uint64_t nth, uint64_t off)
{
    return *(const bool *)user;
}

static bool is_volatile(const struct sim_disk *d)
{
    for (uint64_t off = 0; off < sim_disk_size(d); off += BLOCK_SIZE)
        if (memcmp(sim_disk_page(d, off, false), sim_disk_page(d, off, true), BLOCK_SIZE) != 0)
            return true;
    return false;
}

/* A killed process's last writes can be read by the next one and are not durable: a root, or a superblock that counts one more extent. Then the power fails. */
static void test_what_was_read_is_made_durable(void **state)
{
    unsigned roots = 0, superblocks = 0;
    for (unsigned i = 0; i < 120; i++) {
        struct store_test t;
        bool all = true;
        t_init(&t, 500 + i);
        t.n_extents = 1;
        t.capacity_bytes = 4 * t.extent_bytes;
        t_format(&t);
        struct sim_disk *disks[] = {t.superblock, t.meta};
        for (unsigned k = 0; k < ARRAY_LEN(disks); k++) {
            sim_disk_set_landing(disks[k], lands, &all);
            sim_disk_timing(disks[k])->durable_ns = (struct sim_range){2 * NS_PER_MS, 2 * NS_PER_MS};
        }
        t_start_ok(&t);
        t_create(&t, 8192);
        t_settle(&t);
        for (unsigned k = 0; k < 100 && (i % 2 ? !t.store->growing : k < 10); k++) {
            t_append(&t, 0, ENTRY_WRITE, 16 * k, 3);
            t_commit_all(&t);
        }
        while (i % 2 && !sim_dir_find(t.dir, "extents/00001"))
            t_run(&t, NS_PER_MS / 10);
        uint64_t flushes = sim_disk_count(t.meta, SIM_FLUSH);
        if (i % 2 == 0)
            store_checkpoint(t.store);
        while (i % 2 == 0 && sim_disk_count(t.meta, SIM_FLUSH) == flushes)
            t_run(&t, NS_PER_MS / 10);
        t_run(&t, i * NS_PER_MS / 20);
        t_crash(&t, SIM_KILL);
        roots += is_volatile(t.meta);
        superblocks += is_volatile(t.superblock);
        t_start_ok(&t);
        t_append(&t, 0, ENTRY_WRITE, 5, 3); /* what it builds on them */
        t_settle(&t);
        all = false;
        t_crash(&t, SIM_POWER);
        t_start_ok(&t);
        t_check_image(&t, 0);
        t.sb = t.store->sb;
        t_stop(&t);
        audit_clean(&t);
        t_free(&t);
    }
    assert_true(roots > 0 && superblocks > 0);
}

static void test_growth_without_room(void **state)
{
    struct store_test t;
    t_init(&t, 7);
    t.n_extents = 1;
    t.capacity_bytes = 0;
    t_format(&t);
    sim_dir_set_capacity(t.dir, 0);
    t_start_ok(&t);
    t_create(&t, 8192);
    t_settle(&t);
    for (unsigned i = 0; i < 100; i++) /* credit for less than half an extent is left */
        t_append(&t, 0, ENTRY_WRITE, 16 * i, 16);
    t_commit_all(&t);
    t_run(&t, NS_PER_S);
    assert_int_equal(t.store->sb.n_extents, 1);
    assert_int_equal(t.group[0].credits.growing, 0);
    sim_dir_set_capacity(t.dir, UINT64_C(1) << 30); /* somebody made room */
    t_run(&t, 120 * NS_PER_S);
    assert_true(t.store->sb.n_extents > 1);
    t_stop(&t);
    audit_clean(&t);
    t_free(&t);
}

/* mkfs trims everything first. Nothing was ever written: it costs nothing; and over what was written a few bits. */
static void test_trim_of_everything(void **state)
{
    struct store_test t;
    begin(&t, 8);
    t_create(&t, 1u << 20);
    t_append(&t, 0, ENTRY_WRITE, 5, 1);
    t_append(&t, 0, ENTRY_WRITE, (1u << 20) - 3, 3);
    t_commit_all(&t);
    uint64_t before = t.store->overlay_bytes[0] + t.store->overlay_bytes[1];
    uint64_t regions = t.store->n_regions;
    for (uint64_t b = 0; b < 1u << 20; b += 16384)
        t_append(&t, 0, ENTRY_TRIM, b, 16384);
    t_commit_all(&t);
    assert_true(t.store->overlay_bytes[0] + t.store->overlay_bytes[1] <= before);
    assert_int_equal(t.store->n_regions, regions);
    struct store_read r;
    t_read_now(&t, 0, 0, 256, &r);
    for (unsigned i = 0; i < 256; i++)
        assert_true(bit_get(r.zero, i));
    buf_unref(r.buf);
    t_stop(&t);
    struct t_audit a;
    t_audit(&t, &a);
    assert_int_equal(a.mapped, 0);
    t_free(&t);
}

/* ---- damage ---- */

/* Five blocks of data in slot 1, on disk and in a checkpoint; the process is stopped. */
static void with_data(struct store_test *t, uint64_t seed)
{
    begin(t, seed);
    t_create(t, 2048);
    t_append(t, 0, ENTRY_WRITE, 100, 5);
    t_append(t, 0, ENTRY_WRITE, 1000, 60);
    t_commit_all(t);
    t_stop(t);
}

static int repair_result;
static void on_repaired(void *user, int err)
{
    repair_result = err;
}

static void repair(struct store_test *t, uint64_t block, uint64_t slot)
{
    uint8_t data[BLOCK_SIZE];
    t_content(t, 0, block, slot, data);
    repair_result = 1;
    store_repair(t->store, 1, block, slot, data, crc32c(data, sizeof data), on_repaired, NULL);
}

static void test_rotten_data_is_found_and_repaired(void **state)
{
    struct store_test t;
    with_data(&t, 9);
    uint64_t off;
    struct sim_disk *d = t_find_data(&t, 0, 102, &off);
    sim_disk_flip(d, off + 77, 3);
    assert_int_equal(t_start(&t), 0);
    struct store_read r;
    t_read_now(&t, 0, 100, 5, &r);
    assert_int_equal(r.err, -EBADMSG);
    assert_int_equal(r.bad[0], 1u << 2);
    buf_unref(r.buf);
    assert_int_equal(t.bad_reported, 1);
    /* Not an older image, not a wrong one, not for a block that is fine. */
    repair(&t, 102, 1);
    assert_int_equal(repair_result, -ERANGE);
    uint8_t zero[BLOCK_SIZE] = {0};
    store_repair(t.store, 1, 102, 2, zero, 1, on_repaired, NULL);
    assert_int_equal(repair_result, -EBADMSG);
    repair(&t, 101, 2);
    assert_int_equal(repair_result, -ESTALE);
    repair(&t, 102, 2);
    assert_int_equal(repair_result, 0);
    t_check_image(&t, 0);
    t_stop(&t);
    audit_clean(&t);
    t_start_ok(&t);
    t_stop(&t);
    t_free(&t);
}

/* An image from a peer that is ahead waits until this replica is there; an entry that overwrites the block first makes
 * it superfluous. */
static void test_repair_waits_and_yields(void **state)
{
    for (unsigned overwritten = 0; overwritten < 2; overwritten++) {
        struct store_test t;
        with_data(&t, 10);
        uint64_t off;
        struct sim_disk *d = t_find_data(&t, 0, 102, &off);
        sim_disk_flip(d, off + 77, 3);
        assert_int_equal(t_start(&t), 0);
        struct store_read r;
        t_read_now(&t, 0, 102, 1, &r);
        assert_int_equal(r.err, -EBADMSG);
        buf_unref(r.buf);
        t_append(&t, 0, ENTRY_WRITE, overwritten ? 102 : 103, 1); /* slot 3 */
        repair(&t, 102, 3);
        assert_int_equal(repair_result, 1);
        t_commit_all(&t);
        assert_int_equal(repair_result, overwritten ? -ESTALE : 0);
        t_check_image(&t, 0);
        t_stop(&t);
        audit_clean(&t);
        t_free(&t);
    }
}

static void test_unreadable_block(void **state)
{
    struct store_test t;
    with_data(&t, 11);
    uint64_t off;
    struct sim_disk *d = t_find_data(&t, 0, 1003, &off);
    sim_disk_spoil(d, off, BLOCK_SIZE);
    assert_int_equal(t_start(&t), 0);
    struct store_read r;
    t_read_now(&t, 0, 1000, 60, &r);
    assert_int_equal(r.err, -EBADMSG);
    assert_int_equal(r.bad[0], 1u << 3); /* only that one, though one read covered many */
    buf_unref(r.buf);
    repair(&t, 1003, 2);
    assert_int_equal(repair_result, 0);
    t_stop(&t);
    t_start_ok(&t);
    t_stop(&t);
    t_free(&t);
}

/* Every second block: few operations, and nothing but zeroes is written over, nothing else is read for them. */
static void test_every_second_block(void **state)
{
    struct store_test t;
    struct store_read r;
    begin(&t, 34);
    t_create(&t, 1024);
    for (unsigned i = 0; i < 256; i++)
        t_append(&t, 0, ENTRY_WRITE, 2 * i, 1);
    t_commit_all(&t);
    uint64_t off;
    t_checkpoint(&t);
    struct sim_disk *d = t_find_data(&t, 0, 0, &off);
    /* 511 blocks with the gaps, 32 at a time, and the leaf */
    assert_in_range(sim_disk_count(d, SIM_WRITE), 16, 20);
    uint64_t reads = sim_disk_count(d, SIM_READ);
    t_read_now(&t, 0, 0, 256, &r);
    buf_unref(r.buf);
    assert_in_range(sim_disk_count(d, SIM_READ) - reads, 1, 2);
    for (unsigned i = 0; i < 256; i++)
        assert_int_equal(r.zero[i / 64] >> (i % 64) & 1, i % 2);
    t_check_image(&t, 0);
    /* A block that can't be read, in the middle: it alone is bad, and what lies between is still zero. */
    sim_disk_spoil(d, off + 100 * BLOCK_SIZE, BLOCK_SIZE);
    t.may_be_bad = true;
    t_read_now(&t, 0, 0, 256, &r);
    buf_unref(r.buf);
    assert_int_equal(r.err, -EBADMSG);
    for (unsigned i = 0; i < 256; i++) {
        assert_int_equal(r.bad[i / 64] >> (i % 64) & 1, i == 100);
        assert_int_equal(r.zero[i / 64] >> (i % 64) & 1, i % 2);
    }
    t_append(&t, 0, ENTRY_WRITE, 100, 1);
    /* What stands between is never written over when it is data: every third of them, and their neighbours again. */
    for (unsigned i = 0; i < 85; i++)
        t_append(&t, 0, ENTRY_WRITE, 6 * i + 1, 1);
    t_commit_all(&t);
    t_checkpoint(&t);
    for (unsigned i = 0; i < 85; i++)
        t_append(&t, 0, ENTRY_WRITE, 6 * i + (i % 2 ? 0 : 3), 1);
    t_commit_all(&t);
    t_checkpoint(&t);
    t.may_be_bad = false;
    t_crash(&t, SIM_POWER);
    t_start_ok(&t); /* reads everything back */
    t_stop(&t);
    audit_clean(&t);
    t_free(&t);
}

/* A rotten leaf is never a hole. What is overwritten or repaired is good again, the rest stays bad through checkpoints
 * and restarts. */
static void test_rotten_leaf(void **state)
{
    for (unsigned how = 0; how < 3; how++) {
        struct store_test t;
        with_data(&t, 12);
        uint64_t off;
        struct sim_disk *d = t_find_leaf(&t, 0, 100, &off);
        if (how == 0)
            sim_disk_flip(d, off + offsetof(struct leaf, zero) + 12, 4); /* a zero bit: block 100 would be a hole */
        else if (how == 1)
            sim_disk_spoil(d, off, BLOCK_SIZE);
        else
            sim_disk_poke(d, off, (uint8_t[BLOCK_SIZE]){0}, BLOCK_SIZE); /* never arrived */
        assert_int_equal(t_start(&t), 0);
        struct store_read r;
        t_read_now(&t, 0, 90, 20, &r);
        assert_int_equal(r.err, -EBADMSG);
        assert_int_equal(r.bad[0], (1u << 20) - 1);
        buf_unref(r.buf);
        assert_true(t.bad_reported >= 512);
        t_append(&t, 0, ENTRY_WRITE, 90, 4);
        t_commit_all(&t);
        repair(&t, 100, 3);
        assert_int_equal(repair_result, 0);
        t_stop(&t);
        assert_int_equal(t_start(&t), 0);
        t_read_now(&t, 0, 90, 20, &r);
        assert_int_equal(r.err, -EBADMSG);
        assert_int_equal(r.bad[0], ((1u << 20) - 1) & ~0xfu & ~(1u << 10));
        buf_unref(r.buf);
        for (uint64_t b = 0; b < 512; b++) {
            repair(&t, b, 3);
            assert_true(repair_result == 0 || repair_result == -ESTALE);
            if (repair_result == -ESTALE) { /* not known yet in this life: found by reading */
                t_read_now(&t, 0, b, 1, &r);
                buf_unref(r.buf);
                if (r.err == -EBADMSG) {
                    repair(&t, b, 3);
                    assert_int_equal(repair_result, 0);
                }
            }
        }
        t_check_image(&t, 0);
        t_stop(&t);
        struct t_audit a;
        t_audit(&t, &a);
        assert_int_equal(a.bad_blocks, 0);
        assert_int_equal(a.used - a.reachable, 1); /* the one slab that the rotten leaf mapped */
        t_free(&t);
    }
}

/* A leaf that could not be read, and was left alone, is what it was once it can be read again: what it maps is mapped,
 * for the scrub too, and no slab is lost. */
static void test_unreadable_leaf_comes_back(void **state)
{
    for (unsigned restart = 0; restart < 2; restart++) {
        struct store_test t;
        with_data(&t, 13);
        struct t_audit before, after;
        t_audit(&t, &before);
        uint64_t off;
        uint8_t page[BLOCK_SIZE];
        struct sim_disk *d = t_find_leaf(&t, 0, 100, &off);
        sim_disk_peek(d, off, page, sizeof page);
        sim_disk_poke(d, off, (uint8_t[BLOCK_SIZE]){0}, BLOCK_SIZE); /* as good as unreadable, and can be undone */
        assert_int_equal(t_start(&t), 0);
        uint64_t mapped = store_mapped_bytes(t.store, 1);
        struct store_read r;
        t_read_now(&t, 0, 90, 20, &r);
        assert_int_equal(r.err, -EBADMSG);
        buf_unref(r.buf);
        assert_true(store_mapped_bytes(t.store, 1) < mapped);
        if (restart) { /* the checkpoint has its region's entry, for another leaf's sake */
            t_append(&t, 0, ENTRY_WRITE, 1000, 1);
            t_commit_all(&t);
            t_checkpoint(&t);
        }
        t_stop(&t);
        sim_disk_poke(d, off, page, sizeof page);
        t_start_ok(&t);
        t_check_image(&t, 0);
        assert_int_equal(store_mapped_bytes(t.store, 1), mapped);
        t_append(&t, 0, ENTRY_WRITE, 1000, 1);
        t_commit_all(&t);
        t_checkpoint(&t);
        t_stop(&t);
        t_audit(&t, &after);
        assert_int_equal(after.used - after.reachable, before.used - before.reachable);
        assert_int_equal(after.mapped, before.mapped);
        t_free(&t);
    }
}

/* A whole page that went to the wrong place is valid in itself, and is not believed. */
static void test_misdirected_leaf(void **state)
{
    for (unsigned how = 0; how < 2; how++) {
        struct store_test t;
        with_data(&t, 30);
        t_start_ok(&t);
        t_append(&t, 0, ENTRY_WRITE, 101, 1);
        t_commit_all(&t);
        t_stop(&t);
        uint64_t off, other;
        uint8_t page[BLOCK_SIZE];
        struct sim_disk *d = t_find_leaf(&t, 0, 100, &off);
        if (how == 0)
            other = off ^ BLOCK_SIZE; /* the leaf's other place: as of a checkpoint before */
        else
            t_find_leaf(&t, 0, 1000, &other); /* another leaf */
        sim_disk_peek(d, other, page, sizeof page);
        sim_disk_poke(d, off, page, sizeof page);
        assert_int_equal(t_start(&t), 0);
        struct store_read r;
        t_read_now(&t, 0, 100, 1, &r);
        assert_int_equal(r.err, -EBADMSG);
        buf_unref(r.buf);
        assert_int_equal(t.bad_reported, 512 + 1);
        t_stop(&t);
        t_free(&t);
    }
}

/* Two checkpoints, after which a page that each of them writes stands where it stood before. */
static void two_checkpoints(struct store_test *t)
{
    for (unsigned i = 0; i < 2; i++) {
        t_append(t, 0, ENTRY_ZERO, 100 + i, 1);
        t_commit_all(t);
        t_checkpoint(t);
    }
}

/* A write that never came to its place leaves a page there that is good in itself, and older than the one that is in force. */
static void test_stale_leaf(void **state)
{
    struct store_test t;
    uint64_t off, again;
    uint8_t page[BLOCK_SIZE];
    with_data(&t, 31);
    t_start_ok(&t);
    two_checkpoints(&t);
    struct sim_disk *d = t_find_leaf(&t, 0, 100, &off);
    sim_disk_peek(d, off, page, sizeof page);
    t_append(&t, 0, ENTRY_WRITE, 100, 1);
    t_commit_all(&t);
    t_checkpoint(&t);
    two_checkpoints(&t);
    t_append(&t, 0, ENTRY_WRITE, 102, 1);
    t_commit_all(&t);
    t_checkpoint(&t);
    t_find_leaf(&t, 0, 100, &again);
    assert_int_equal(off, again);
    t_crash(&t, SIM_POWER);
    sim_disk_poke(d, off, page, sizeof page);
    assert_int_equal(t_start(&t), 0);
    struct store_read r;
    t_read_now(&t, 0, 100, 1, &r);
    assert_int_equal(r.err, -EBADMSG);
    buf_unref(r.buf);
    t_stop(&t);
    t_free(&t);
}

static void test_stale_meta_is_refused(void **state)
{
    struct store_test t;
    struct t_audit a;
    begin(&t, 32);
    t_create(&t, 8 * REGION_BLOCKS);
    two_checkpoints(&t);
    t_audit(&t, &a);
    const uint32_t pages[] = {0, a.root.bitmap_page0, a.root.regions_page0};
    uint8_t was[ARRAY_LEN(pages)][BLOCK_SIZE];
    for (unsigned i = 0; i < ARRAY_LEN(pages); i++)
        sim_disk_peek(t.meta, meta_place(pages[i], bit_get(a.root.place, pages[i])), was[i], BLOCK_SIZE);
    for (unsigned i = 0; i < 6; i++) {
        t_append(&t, 0, ENTRY_WRITE, (i + 1) * REGION_BLOCKS, 1); /* a slab more, a region more */
        t_commit_all(&t);
        t_checkpoint(&t);
    }
    t_audit(&t, &a);
    t_crash(&t, SIM_POWER);
    unsigned tried = 0;
    for (unsigned i = 0; i < ARRAY_LEN(pages); i++) {
        uint64_t off = meta_place(pages[i], bit_get(a.root.place, pages[i]));
        uint8_t is[BLOCK_SIZE];
        sim_disk_peek(t.meta, off, is, BLOCK_SIZE);
        if (memcmp(is, was[i], BLOCK_SIZE) == 0)
            continue;
        sim_disk_poke(t.meta, off, was[i], BLOCK_SIZE);
        assert_int_equal(t_start(&t), -EBADMSG);
        t_crash(&t, SIM_KILL);
        sim_disk_poke(t.meta, off, is, BLOCK_SIZE);
        tried++;
    }
    assert_int_equal(tried, ARRAY_LEN(pages));
    t_start_ok(&t);
    t_stop(&t);
    t_free(&t);
}

static void test_rotten_meta_is_refused(void **state)
{
    struct store_test t;
    with_data(&t, 13);
    struct t_audit a;
    t_audit(&t, &a);
    const uint32_t pages[] = {0, 5, a.root.bitmap_page0, a.root.regions_page0, a.root.regions_page0 + 1};
    for (unsigned i = 0; i < ARRAY_LEN(pages); i++) {
        uint64_t off = meta_place(pages[i], bit_get(a.root.place, pages[i])) + 2000;
        sim_disk_flip(t.meta, off, 1);
        assert_int_equal(t_start(&t), -EBADMSG);
        assert_non_null(strstr(t.why, "damaged"));
        t_crash(&t, SIM_KILL);
        sim_disk_flip(t.meta, off, 1);
    }
    uint8_t roots[2 * BLOCK_SIZE];
    sim_disk_peek(t.meta, 0, roots, sizeof roots);
    sim_disk_flip(t.meta, 1000, 1);
    sim_disk_flip(t.meta, BLOCK_SIZE + 1000, 1);
    assert_int_equal(t_start(&t), -EBADMSG);
    assert_non_null(strstr(t.why, "both roots"));
    t_crash(&t, SIM_KILL);
    sim_disk_poke(t.meta, 0, roots, sizeof roots);
    t_start_ok(&t);
    t_stop(&t);
    t_free(&t);
}

/* Writing a slab fails: what it holds moves elsewhere, also what is not being written. */
static void test_relocation(void **state)
{
    struct store_test t;
    with_data(&t, 14);
    t_start_ok(&t);
    uint64_t off;
    struct sim_disk *d = t_find_data(&t, 0, 1000, &off);
    t_append(&t, 0, ENTRY_WRITE, 1002, 3);
    t_append(&t, 0, ENTRY_WRITE, 1006, 1);
    t_commit_all(&t);
    sim_disk_fail(d, SIM_WRITE, 0, 1, EIO);
    t_checkpoint(&t);
    assert_int_equal(t.fatal, 0);
    uint64_t now;
    struct sim_disk *to = t_find_data(&t, 0, 1000, &now);
    assert_true(to != d || now != off);
    t_check_image(&t, 0);
    t_stop(&t);
    struct t_audit a;
    t_audit(&t, &a);
    assert_int_equal(a.used - a.reachable, 1); /* nobody uses the bad one again */
    t_start_ok(&t);
    t_stop(&t);
    t_free(&t);
}

static void test_fatal_errors(void **state)
{
    for (unsigned which = 0; which < 4; which++) {
        struct store_test t;
        with_data(&t, 15 + which);
        t_start_ok(&t);
        t_append(&t, 0, ENTRY_WRITE, 1002, 3);
        t_commit_all(&t);
        uint64_t off;
        struct sim_disk *d = t_find_data(&t, 0, 1002, &off);
        if (which == 0)
            sim_disk_fail(d, SIM_FLUSH, 0, 1, EIO);
        else if (which == 1)
            sim_disk_fail(t.meta, SIM_WRITE, 0, 1, EIO);
        else if (which == 2)
            sim_disk_fail(t.meta, SIM_FLUSH, 0, 1, EIO);
        else
            sim_disk_fail(t.wal, SIM_WRITE, 0, 1, EIO);
        t_checkpoint(&t);
        assert_int_equal(t.fatal, -EIO);
        t_crash(&t, SIM_POWER);
        t_start_ok(&t);
        t_check_image(&t, 0);
        t_stop(&t);
        audit_clean(&t);
        t_free(&t);
    }
}

int main(int argc, char **argv)
{
    if (argc > 1) /* one test, by name or pattern */
        cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_write_read_restart),
        cmocka_unit_test(test_power_cut_without_checkpoint),
        cmocka_unit_test(test_random_lives),
        cmocka_unit_test(test_many_groups),
        cmocka_unit_test(test_can_create),
        cmocka_unit_test(test_full_and_trimmed),
        cmocka_unit_test(test_trim_when_full),
        cmocka_unit_test(test_reservations),
        cmocka_unit_test(test_growth),
        cmocka_unit_test(test_more_than_there_is),
        cmocka_unit_test(test_can_take),
        cmocka_unit_test(test_growth_cut_short),
        cmocka_unit_test(test_what_was_read_is_made_durable),
        cmocka_unit_test(test_growth_without_room),
        cmocka_unit_test(test_trim_of_everything),
        cmocka_unit_test(test_every_second_block),
        cmocka_unit_test(test_rotten_data_is_found_and_repaired),
        cmocka_unit_test(test_repair_waits_and_yields),
        cmocka_unit_test(test_unreadable_block),
        cmocka_unit_test(test_rotten_leaf),
        cmocka_unit_test(test_unreadable_leaf_comes_back),
        cmocka_unit_test(test_misdirected_leaf),
        cmocka_unit_test(test_stale_leaf),
        cmocka_unit_test(test_stale_meta_is_refused),
        cmocka_unit_test(test_rotten_meta_is_refused),
        cmocka_unit_test(test_relocation),
        cmocka_unit_test(test_fatal_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
