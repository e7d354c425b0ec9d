/* Large writes go to disk once (docs/large-writes.md): what is written where, crashes at every event, slabs that can't
 * be written or rot, entries that are cut, values for peers, space. */
#include "tests/unit/store_harness.h"

#include <errno.h>

static void begin(struct store_test *t, uint64_t seed)
{
    t_init(t, seed);
    t_format(t);
    t_start_ok(t);
    t_create(t, 3000);
    t_settle(t);
}

static void audit_clean(struct store_test *t)
{
    struct t_audit a;
    t_audit(t, &a);
    assert_int_equal(a.used, a.reachable);
    assert_int_equal(a.bad_blocks, 0);
}

static void end(struct store_test *t)
{
    t_commit_all(t);
    t_check_image(t, 0);
    t_stop(t);
    assert_int_equal(t->fatal, 0);
    audit_clean(t);
    t_start_ok(t);
    t_check_image(t, 0);
    t_stop(t);
    t_free(t);
}

static const struct slot_info *slot(struct store_test *t, uint64_t n)
{
    return log_slot(store_group(t->store, 1), n);
}

/* Where the first block of an entry's k-th slab stands. */
static struct sim_disk *slab_at(struct store_test *t, uint64_t n, unsigned k, uint64_t *ret_off)
{
    assert_non_null(slot(t, n)->ref);
    return t_extent(t, slot(t, n)->ref->slab[k], ret_off);
}

static uint64_t wal_bytes(struct store_test *t)
{
    struct store_stats st;
    store_get_stats(t->store, &st);
    return st.wal.bytes;
}

static void test_written_once(void **state)
{
    struct store_test t;
    begin(&t, 1);
    uint64_t wal = wal_bytes(&t);
    t_append(&t, 0, ENTRY_WRITE, 32, 64);
    t_settle(&t);
    assert_int_equal(t.store->large_bytes, 4 * SLAB_BYTES);
    assert_true(wal_bytes(&t) - wal <= 2 * BLOCK_SIZE);
    t_append(&t, 0, ENTRY_WRITE, 150, 60); /* 10 blocks, 3 slabs, 2 blocks */
    t_settle(&t);
    assert_int_equal(slot(&t, 2)->ref->n, 3);
    assert_int_equal(t.store->large_bytes, 7 * SLAB_BYTES);
    t_append(&t, 0, ENTRY_WRITE, 1001, 20); /* no whole slab is in it */
    assert_null(slot(&t, 3)->ref);
    t_commit_all(&t);
    t_check_image(&t, 0); /* from the slabs, before any leaf maps them */
    t_check_values(&t, 0);
    t_append(&t, 0, ENTRY_WRITE, 33, 2); /* in place, later */
    t_append(&t, 0, ENTRY_ZERO, 160, 3);
    t_commit_all(&t);
    t_check_image(&t, 0);
    uint64_t before = t.store->write_back_bytes;
    t_checkpoint(&t);
    assert_true(t.store->write_back_bytes - before < 4 * SLAB_BYTES);
    t_check_image(&t, 0);
    t_check_changed(&t, 0);
    end(&t);
}

/* Writes over large ones in small, in large, in part, by trims; cut ones; over checkpoints. */
static void history(struct store_test *t)
{
    t_append(t, 0, ENTRY_WRITE, 0, 64);
    t_append(t, 0, ENTRY_WRITE, 300, 50);
    t_commit_all(t);
    t_checkpoint(t);
    t_append(t, 0, ENTRY_WRITE, 16, 32);
    t_append(t, 0, ENTRY_WRITE, 20, 2);
    t_append(t, 0, ENTRY_WRITE, 16, 16); /* the same slab twice in one generation */
    t_append(t, 0, ENTRY_WRITE, 3, 1);   /* in place */
    t_commit_all(t);
    t_append(t, 0, ENTRY_WRITE, 40, 40); /* waits */
    t_checkpoint(t);
    t_append(t, 0, ENTRY_WRITE, 320, 16);
    t_settle(t);
    if (!t->crashed)
        t_cut(t, 0, t->group[0].last);
    t_append(t, 0, ENTRY_WRITE, 304, 33);
    t_append(t, 0, ENTRY_TRIM, 0, 20);
    t_append(t, 0, ENTRY_WRITE, 330, 1);
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
        t_crash(&t, how);
        t_start_ok(&t);
        t_crash(&t, SIM_POWER); /* what was read is durable by now */
        t_start_ok(&t);
        crashes += crashed;
        end(&t);
        if (!crashed)
            break;
    }
    assert_true(crashes > 60 / step);
}

static void test_power_cut_at_every_event(void **state)
{
    crash_everywhere(SIM_POWER, 1000, 1);
}

static void test_kill_at_every_other_event(void **state)
{
    crash_everywhere(SIM_KILL, 3000, 2);
}

static void set_durable_ns(struct store_test *t, uint64_t ns)
{
    sim_disk_timing(sim_dir_find(t->dir, "extents/00000"))->durable_ns = (struct sim_range){ns, ns};
}

/* The value goes to the WAL after all; the slab is never used again. */
static void test_slab_that_cannot_be_written(void **state)
{
    struct store_test t;
    begin(&t, 2);
    struct sim_disk *extent = sim_dir_find(t.dir, "extents/00000");
    sim_disk_fail(extent, SIM_WRITE, 0, 1, EIO);
    t_append(&t, 0, ENTRY_WRITE, 8, 40);
    t_append(&t, 0, ENTRY_WRITE, 100, 40);
    t_settle(&t);
    assert_null(slot(&t, 1)->ref);
    assert_non_null(slot(&t, 2)->ref);
    t_check_values(&t, 0);
    t_crash(&t, SIM_POWER);
    t_start_ok(&t);
    assert_int_equal(t.group[0].n_lost, 0);
    t_commit_all(&t);
    t_check_image(&t, 0);
    sim_disk_fail(extent, SIM_WRITE, 0, 1, EIO);
    t_append(&t, 0, ENTRY_WRITE, 200, 64);
    t_cut(&t, 0, t.group[0].last); /* while it is written */
    t_append(&t, 0, ENTRY_WRITE, 200, 33);
    t_commit_all(&t);
    t_check_image(&t, 0);
    t_stop(&t);
    struct t_audit a;
    t_audit(&t, &a);
    assert_true(a.used >= a.reachable);
    assert_int_equal(t.fatal, 0);
    t_free(&t);
}

/* ... while the entry before it is still being written: it comes again in a batch that vouches for its first record. */
static void test_slab_that_cannot_be_written_behind_another(void **state)
{
    for (unsigned crash = 0; crash < 2; crash++) {
        struct store_test t;
        begin(&t, 30 + crash);
        set_durable_ns(&t, 50 * NS_PER_MS);
        t_append(&t, 0, ENTRY_WRITE, 0, 64);
        t_run(&t, 5 * NS_PER_MS);
        set_durable_ns(&t, NS_PER_MS);
        sim_disk_fail(sim_dir_find(t.dir, "extents/00000"), SIM_WRITE, 0, 1, EIO);
        t_append(&t, 0, ENTRY_WRITE, 100, 40);
        t_run(&t, 20 * NS_PER_MS);
        assert_true(t.store->n_failed == 1 && slot(&t, 2)->ref);
        t_settle(&t);
        assert_true(t.store->n_failed == 0 && !slot(&t, 2)->ref);
        t_crash(&t, crash ? SIM_KILL : SIM_POWER);
        t_start_ok(&t);
        assert_int_equal(t.group[0].n_lost, 0);
        t_commit_all(&t);
        t_check_image(&t, 0);
        t_check_values(&t, 0);
        t_crash(&t, SIM_POWER);
        t_start_ok(&t);
        t_commit_all(&t);
        t_check_image(&t, 0);
        t_stop(&t);
        assert_int_equal(t.fatal, 0);
        t_free(&t);
    }
}

/* Whatever became of it, its space comes back. */
static void test_cut_slabs_come_back(void **state)
{
    for (unsigned variant = 0; variant < 3; variant++) {
        struct store_test t;
        begin(&t, 10 + variant);
        t_append(&t, 0, ENTRY_WRITE, 0, 64);
        t_commit_all(&t);
        t_checkpoint(&t);
        uint64_t free_slabs = t.store->slabs_free;
        t_append(&t, 0, ENTRY_WRITE, 0, 64);
        t_append(&t, 0, ENTRY_WRITE, 16, 16);
        if (variant > 0)
            t_settle(&t);
        if (variant > 1)
            t_checkpoint(&t); /* it waits for its commit over a root */
        t_cut(&t, 0, 2);
        t_settle(&t);
        t_checkpoint(&t);
        t_checkpoint(&t);
        assert_int_equal(t.store->n_loose, 0);
        assert_int_equal(t.store->slabs_free, free_slabs);
        end(&t);
    }
}

static bool is_over(void *user)
{
    struct store_test *t = user;
    return t->crashed || list_empty(&t->store->large_writes);
}

static bool is_one_of(uint32_t slab, const struct slot_ref *ref)
{
    for (uint32_t i = 0; i < ref->n; i++)
        if (ref->slab[i] == slab)
            return true;
    return false;
}

/* Cut while its slabs are being written: they are nobody else's until that is over, whoever needs some, and free with
 * the next root. A crash meanwhile lets the write land in slabs that are free, or nobody's yet. */
static void test_cut_while_it_is_written(void **state)
{
    for (unsigned variant = 0; variant < 4; variant++) {
        struct store_test t;
        begin(&t, 40 + variant);
        t_append(&t, 0, ENTRY_WRITE, 0, 64);
        t_commit_all(&t);
        t_checkpoint(&t);
        uint64_t free_slabs = t.store->slabs_free;
        set_durable_ns(&t, 3 * NS_PER_S);
        t_append(&t, 0, ENTRY_WRITE, 0, 64);
        struct slot_ref old = *slot(&t, 2)->ref;
        t_run(&t, 10 * NS_PER_MS);
        set_durable_ns(&t, NS_PER_MS);
        assert_false(list_empty(&t.store->large_writes));
        t_cut(&t, 0, 2);
        t.store->slab_cursor = old.slab[0]; /* where the allocator looks next */
        store_checkpoint(t.store);
        for (unsigned i = 0; i < 8; i++) {
            t_append(&t, 0, ENTRY_WRITE, 16 * i, 20);
            const struct slot_ref *ref = slot(&t, 2 + i)->ref;
            assert_non_null(ref);
            for (uint32_t k = 0; k < ref->n; k++)
                assert_false(is_one_of(ref->slab[k], &old));
        }
        t_run(&t, NS_PER_S);
        assert_false(list_empty(&t.store->large_writes)); /* still on its way, and so none of these is durable */
        for (uint32_t k = 0; k < old.n; k++)
            assert_true(bit_get(t.store->used, old.slab[k]));
        if (variant > 1) {
            t_crash(&t, variant == 2 ? SIM_POWER : SIM_KILL);
            t_start_ok(&t);
        } else {
            assert_true(sim_run_until(t.world, is_over, &t, 10 * NS_PER_S));
            assert_true(bit_get(t.store->used, old.slab[0])); /* with the next root */
        }
        t_commit_all(&t);
        t_check_image(&t, 0);
        t_checkpoint(&t);
        t_checkpoint(&t);
        assert_int_equal(t.store->n_loose, 0);
        assert_true(t.store->slabs_free >= free_slabs - 8); /* what is mapped for the first time since */
        end(&t);
    }
}

/* Accepted, vouched for by a later batch, not committed, and its slab rots: it is lost, and named. */
static void test_rot_of_an_uncommitted_value(void **state)
{
    struct store_test t;
    uint64_t off;
    begin(&t, 20);
    t_append(&t, 0, ENTRY_WRITE, 0, 64);
    t_settle(&t);
    t_append(&t, 0, ENTRY_WRITE, 100, 3);
    t_settle(&t);
    struct sim_disk *d = slab_at(&t, 1, 2, &off);
    t_crash(&t, SIM_POWER);
    sim_disk_flip(d, off + 5000, 3);
    t.may_lose = true;
    t_start_ok(&t);
    assert_int_equal(t.group[0].n_lost, 1);
    assert_int_equal(t.group[0].lost[0], 1);
    t_refill(&t, 0, 1);
    t_settle(&t);
    t.may_lose = false;
    end(&t);
}

/* Nobody vouches for it: it can't be told from a torn write. What was durable before stands. */
static void test_newest_slab_is_torn(void **state)
{
    struct store_test t;
    uint64_t off;
    begin(&t, 21);
    t_append(&t, 0, ENTRY_WRITE, 0, 16);
    t_settle(&t);
    t_append(&t, 0, ENTRY_WRITE, 16, 32);
    t_run(&t, 0);
    struct sim_disk *d = slab_at(&t, 2, 1, &off);
    t_settle(&t);
    t_crash(&t, SIM_POWER);
    sim_disk_flip(d, off + 9000, 1);
    assert_int_equal(t_start(&t), 0);
    assert_int_equal(t.group[0].found_log.run[t.group[0].found_log.n - 1].last, 1);
    t_crash(&t, SIM_KILL);
    t_free(&t);
}

/* Its slabs are another's, and no batch behind the one that refers to them says that that one was durable: the root
 * does, or a restart would take it for torn, and cut what was acknowledged behind it. */
static void test_slabs_used_again_and_no_batch_vouches(void **state)
{
    struct store_test t;
    begin(&t, 27);
    t_append(&t, 0, ENTRY_WRITE, 0, 16);
    t_commit_all(&t);
    t_checkpoint(&t);
    sim_disk_timing(t.wal)->durable_ns = (struct sim_range){50 * NS_PER_MS, 50 * NS_PER_MS};
    t_append(&t, 0, ENTRY_WRITE, 64, 64);
    uint32_t slab = slot(&t, 2)->ref->slab[0];
    t_run(&t, 20 * NS_PER_MS);
    assert_true(slot(&t, 2)->ref->written && list_empty(&t.store->large_writes));
    t_cut(&t, 0, 2);
    t_append(&t, 0, ENTRY_WRITE, 200, 1);
    uint64_t done = t.store->checkpoints_done;
    store_checkpoint(t.store); /* its batch is closed while that one is on its way */
    t_settle(&t);
    t_run(&t, NS_PER_S);
    assert_int_equal(t.store->checkpoints_done, done + 1);
    assert_false(bit_get(t.store->used, slab));
    sim_disk_timing(t.wal)->durable_ns = (struct sim_range){100 * NS_PER_S, 100 * NS_PER_S};
    t.store->slab_cursor = slab;
    for (unsigned i = 0; i < 8 && !bit_get(t.store->used, slab); i++)
        t_append(&t, 0, ENTRY_WRITE, 256, 64);
    assert_true(bit_get(t.store->used, slab));
    t_run(&t, 100 * NS_PER_MS);
    t_crash(&t, SIM_POWER);
    sim_disk_timing(t.wal)->durable_ns = (struct sim_range){NS_PER_MS, NS_PER_MS};
    t_start_ok(&t);
    assert_true(t.group[0].last >= 2);
    end(&t);
}

/* Committed, written over in place by newer blocks whose checkpoint never came to its end: no rot, and nothing is
 * undone. */
static void test_written_over_in_place_before_the_root(void **state)
{
    struct store_test t;
    begin(&t, 22);
    t_append(&t, 0, ENTRY_WRITE, 0, 64);
    t_append(&t, 0, ENTRY_WRITE, 7, 3);
    t_append(&t, 0, ENTRY_WRITE, 31, 2);
    t_commit_all(&t);
    sim_disk_timing(t.meta)->write_ns = (struct sim_range){100 * NS_PER_S, 100 * NS_PER_S};
    store_checkpoint(t.store);
    t_run(&t, 2 * NS_PER_S); /* the data is there, the checkpoint is not */
    assert_true(t.store->write_back_bytes >= 5 * BLOCK_SIZE && t.store->checkpoints_done == 0);
    t_crash(&t, SIM_KILL);
    sim_disk_timing(t.meta)->write_ns = (struct sim_range){NS_PER_MS, NS_PER_MS};
    t_start_ok(&t);
    assert_int_equal(t.group[0].n_lost, 0);
    assert_int_equal(store_applied(t.store, 1), 3);
    t_check_image(&t, 0);
    end(&t);
}

struct value {
    struct entry *e;
    int err;
    bool done;
};

static void on_value(void *user, struct entry *e, int err)
{
    *(struct value *)user = (struct value){.e = e, .err = err, .done = true};
}

static bool value_done(void *user)
{
    return ((struct value *)user)->done;
}

static int value_of(struct store_test *t, uint64_t n)
{
    struct value v = {0};
    store_value(t->store, 1, n, on_value, &v);
    assert_true(v.done || sim_run_until(t->world, value_done, &v, NS_PER_S));
    entry_unref(v.e);
    return v.err;
}

/* A peer gets a value that was replaced as long as nobody needs its slabs; not one that newer blocks were written into,
 * which is the end of the log. */
static void test_values_of_what_was_replaced(void **state)
{
    struct store_test t;
    begin(&t, 23);
    t_append(&t, 0, ENTRY_WRITE, 0, 16);
    t_append(&t, 0, ENTRY_WRITE, 64, 16);
    t_append(&t, 0, ENTRY_WRITE, 0, 16);
    t_commit_all(&t);
    t_checkpoint(&t);
    t_append(&t, 0, ENTRY_WRITE, 0, 16);
    t_commit_all(&t);
    t_checkpoint(&t);
    for (uint64_t n = 1; n <= 4; n++)
        assert_int_equal(value_of(&t, n), 0);
    t_append(&t, 0, ENTRY_WRITE, 70, 1);
    t_commit_all(&t);
    assert_int_equal(value_of(&t, 2), 0); /* not yet in place */
    t_checkpoint(&t);
    assert_int_equal(t.group[0].floor, 2);
    assert_int_equal(value_of(&t, 2), -ENOENT);
    assert_int_equal(value_of(&t, 3), 0);
    t_crash(&t, SIM_POWER);
    t_start_ok(&t);
    assert_int_equal(value_of(&t, 3), 0);
    assert_int_equal(value_of(&t, 4), 0);
    end(&t);
}

/* No slabs to spare: as before, and nothing is refused. */
static void test_nearly_full(void **state)
{
    struct store_test t;
    t_init(&t, 24);
    t.n_extents = 1;
    t.capacity_bytes = t.extent_bytes;
    t_format(&t);
    t_start_ok(&t);
    t_create(&t, 3000);
    t_settle(&t);
    for (unsigned i = 0; i < 5; i++) {
        t_append(&t, 0, ENTRY_WRITE, 256 * i, 256);
        t_commit_all(&t);
    }
    uint64_t once = t.store->large_bytes;
    for (unsigned i = 0; i < 30; i++) {
        t_append(&t, 0, ENTRY_WRITE, 64 * (i % 20), 64);
        t_commit_all(&t);
        assert_true(t.group[0].credits.slabs > 0);
    }
    assert_true(once > 0 && t.store->large_bytes < once + 30 * 4 * SLAB_BYTES);
    end(&t);
}

/* What large writes hold until the next root is nobody's end: whoever needs slabs waits for it, and is told that there
 * are none only when there are none. */
static void test_full_only_when_it_is(void **state)
{
    struct store_test t;
    t_init(&t, 26);
    t.wal_bytes = 64u << 20;
    t.n_extents = 1;
    t.extent_bytes = 32u << 20; /* 512 slabs, 64 of them the reserve */
    t.capacity_bytes = t.extent_bytes;
    t_format(&t);
    t_start_ok(&t);
    t_create(&t, 16384);
    t_settle(&t);
    for (unsigned i = 0; i < 4; i++)
        t_append(&t, 0, ENTRY_WRITE, 256 * i, 256);
    t_commit_all(&t);
    t_checkpoint(&t);
    sim_disk_timing(t.meta)->write_ns = (struct sim_range){20 * NS_PER_MS, 20 * NS_PER_MS};
    uint64_t n = 0, most = 0;
    for (unsigned i = 0, waited = 0; waited < 100; i++) {
        const struct credits *c = &t.group[0].credits;
        if (c->slabs == 0 && !c->growing)
            break;
        most = t.store->n_loose > most ? t.store->n_loose : most;
        if (c->slabs == 0) {
            t_run(&t, 20 * NS_PER_MS);
            waited++;
            continue;
        }
        waited = 0;
        if (c->slabs > 32 && i % 2) {
            t_append(&t, 0, ENTRY_WRITE, 256 * (i / 2 % 4), 256);
            t_commit_all(&t);
            continue;
        }
        t_append(&t, 0, ENTRY_WRITE, 1024 + 16 * n++, 1); /* a slab each */
        t_commit_all(&t);
    }
    assert_int_equal(t.group[0].credits.growing, 0);
    assert_int_equal(t.store->n_loose + t.store->n_pending, 0);
    assert_true(most > 32);
    assert_in_range(t.store->slabs_free - t.store->slabs_reserved, 60, 64); /* nothing but the reserve */
    assert_true(n > 512 - 64 - 64 - 24);
    sim_disk_timing(t.meta)->write_ns = (struct sim_range){NS_PER_MS, NS_PER_MS};
    end(&t);
}

/* Over and over a volume in sequence, clients being there, with some requests under way all the time: what goes to the
 * log is next to nothing, and checkpoints keep up with what is taken. */
static void test_in_sequence_for_long(void **state)
{
    struct store_test t;
    t_init(&t, 25);
    t.wal_bytes = 64u << 20;
    t.extent_bytes = 128u << 20;
    t.n_extents = 3;
    t.capacity_bytes = t.n_extents * t.extent_bytes;
    t.options = (struct store_options){.overlay_bytes = 32u << 20, .leaf_cache_bytes = 1u << 20};
    t_format(&t);
    t_start_ok(&t);
    uint64_t size = 32768; /* 128 MiB */
    t_create(&t, size);
    t_settle(&t);
    for (uint32_t i = 0; i < t.n_extents; i++) { /* leaves are slow, one by one, on a busy disk */
        char name[32];
        snprintf(name, sizeof name, "extents/%05u", i);
        sim_disk_timing(sim_dir_find(t.dir, name))->write_ns = (struct sim_range){20 * NS_PER_MS, 20 * NS_PER_MS};
    }
    uint64_t large = 0, wal = 0;
    for (unsigned i = 0; i < 4 * size / 256; i++) {
        if (i == size / 256) {
            large = t.store->large_bytes;
            wal = wal_bytes(&t);
        }
        store_note_client(t.store);
        t_append(&t, 0, ENTRY_WRITE, i * UINT64_C(256) % size, 256);
        t_run(&t, 2 * NS_PER_MS);
        if (i % 8 == 7)
            t_commit_all(&t);
    }
    large = t.store->large_bytes - large;
    wal = wal_bytes(&t) - wal;
    assert_true(large >= UINT64_C(3) * size * BLOCK_SIZE / 100 * 98);
    assert_true(wal <= UINT64_C(3) * size * BLOCK_SIZE / 100 * 5);
    end(&t);
}

int main(int argc, char **argv)
{
    if (argc > 1) /* one test, by name or pattern */
        cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_written_once),
        cmocka_unit_test(test_slab_that_cannot_be_written),
        cmocka_unit_test(test_slab_that_cannot_be_written_behind_another),
        cmocka_unit_test(test_cut_slabs_come_back),
        cmocka_unit_test(test_cut_while_it_is_written),
        cmocka_unit_test(test_rot_of_an_uncommitted_value),
        cmocka_unit_test(test_newest_slab_is_torn),
        cmocka_unit_test(test_slabs_used_again_and_no_batch_vouches),
        cmocka_unit_test(test_written_over_in_place_before_the_root),
        cmocka_unit_test(test_values_of_what_was_replaced),
        cmocka_unit_test(test_nearly_full),
        cmocka_unit_test(test_full_only_when_it_is),
        cmocka_unit_test(test_in_sequence_for_long),
        cmocka_unit_test(test_power_cut_at_every_event),
        cmocka_unit_test(test_kill_at_every_other_event),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
