/* How fast write-back goes (replica/write_pace.c), in simulated time: at once when nobody is there, evenly while clients are, never too late, and never for longer than it must. */
#include "tests/unit/store_harness.h"

#define SIZE 16384u /* blocks: 64 MiB */

static void begin(struct store_test *t, uint64_t seed)
{
    t_init(t, seed);
    t->wal_bytes = 64u << 20;
    t->extent_bytes = 64u << 20;
    t->capacity_bytes = t->n_extents * t->extent_bytes;
    t->options = (struct store_options){.overlay_bytes = 64u << 20, .leaf_cache_bytes = 1u << 20};
    t->write_twice = true; /* what is written back is what this is about */
    t_format(t);
    t_start_ok(t);
    t_create(t, SIZE);
    t_settle(t);
    t_checkpoint(t);
}

static void end(struct store_test *t)
{
    struct t_audit a;
    t_check_image(t, 0);
    t_stop(t);
    t_audit(t, &a);
    assert_int_equal(a.used, a.reachable);
    assert_int_equal(a.bad_blocks, 0);
    t_free(t);
}

static void fill(struct store_test *t, unsigned mib)
{
    for (unsigned i = 0; i < 8 * mib; i++)
        t_append(t, 0, ENTRY_WRITE, 32 * i, 32);
    t_commit_all(t);
}

/* Runs in steps of 10 ms, with a client's request in each; until checkpoints_done reaches `until` or that time is over. Returns how long it took; *ret_most: what a step wrote back at most. */
static uint64_t serve(struct store_test *t, uint64_t until, uint64_t ns, uint64_t *ret_most)
{
    uint64_t begin_ns = io_now(t->r), before = t->store->write_back_bytes;
    *ret_most = 0;
    while (t->store->checkpoints_done < until && io_now(t->r) - begin_ns < ns) {
        store_note_client(t->store);
        t_run(t, 10 * NS_PER_MS);
        uint64_t wrote = t->store->write_back_bytes - before;
        before = t->store->write_back_bytes;
        *ret_most = wrote > *ret_most ? wrote : *ret_most;
    }
    return io_now(t->r) - begin_ns;
}

/* From here a cycle of so much is under way; returns the checkpoint that it makes. */
static uint64_t begin_cycle(struct store_test *t, unsigned mib)
{
    fill(t, mib);
    assert_int_equal(t->store->cycle.state, CYCLE_IDLE);
    uint64_t done = t->store->checkpoints_done;
    store_checkpoint(t->store);
    return done + 1;
}

static void test_at_once_when_nobody_is_there(void **state)
{
    struct store_test t;
    begin(&t, 1);
    uint64_t until = begin_cycle(&t, 8), from = io_now(t.r);
    while (t.store->checkpoints_done < until && io_now(t.r) - from < 10 * NS_PER_S)
        t_run(&t, 10 * NS_PER_MS);
    assert_in_range(io_now(t.r) - from, 0, NS_PER_S / 2);
    end(&t);
}

static void test_evenly_while_clients_are_there(void **state)
{
    struct store_test t;
    uint64_t most;
    begin(&t, 2);
    uint64_t until = begin_cycle(&t, 8), ns = serve(&t, until, 20 * NS_PER_S, &most);
    assert_int_equal(t.store->checkpoints_done, until);
    assert_in_range(ns, NS_PER_S * 8 / 10, NS_PER_S * 15 / 10); /* 8 MiB a second, as little as it is */
    assert_in_range(most, 1, 256 << 10);
    end(&t);
}

/* They go: so does the reason to wait. */
static void test_the_rest_at_once_when_clients_go(void **state)
{
    struct store_test t;
    uint64_t most;
    begin(&t, 3);
    uint64_t until = begin_cycle(&t, 12);
    serve(&t, until, NS_PER_S / 5, &most);
    assert_in_range(t.store->write_back_bytes, 1, 4 << 20);
    t_run(&t, CLIENTS_NS);
    assert_in_range(t.store->checkpoints_done, until - 1, until);
    t_run(&t, NS_PER_S / 2);
    assert_int_equal(t.store->checkpoints_done, until);
    end(&t);
}

/* What fills the log drives the write-back of what stands in its way: there is always room, at any rate of writes, though clients are there all the time. */
static void check_never_too_late(uint64_t seed, uint64_t pause_ns)
{
    struct store_test t;
    uint32_t state = (uint32_t)seed;
    begin(&t, seed);
    uint64_t laps = 4 * t.wal_bytes, from = wal_head_lsn(t.store->wal), checkpoints = t.store->checkpoints_done;
    while (wal_head_lsn(t.store->wal) - from < laps) {
        store_note_client(t.store);
        for (unsigned i = 0; i < 4; i++) {
            state = state * 1664525u + 1013904223u;
            t_append(&t, 0, ENTRY_WRITE, (state >> 8) % (SIZE - 32), 32);
        }
        t_commit_all(&t);
        assert_true(store_has_room(t.store));
        if (pause_ns)
            t_run(&t, pause_ns);
    }
    assert_true(t.store->checkpoints_done - checkpoints >= 4);
    end(&t);
}

static void test_never_too_late(void **state)
{
    check_never_too_late(4, 0);
    check_never_too_late(5, 5 * NS_PER_MS);
    check_never_too_late(6, 40 * NS_PER_MS);
}

/* Peers keep for a jump what they log meanwhile: it can't wait. */
static void note(void *user)
{
    *(bool *)user = true;
}

static void test_a_drain_is_not_held_up(void **state)
{
    struct store_test t;
    uint64_t most;
    bool drained = false;
    begin(&t, 7);
    uint64_t until = begin_cycle(&t, 12);
    serve(&t, until, NS_PER_S / 10, &most);
    assert_int_equal(t.store->checkpoints_done, until - 1);
    store_drain(t.store, t.group[0].id, note, &drained);
    serve(&t, until + 1, NS_PER_S / 2, &most);
    assert_true(drained);
    store_jump_cancel(t.store, t.group[0].id);
    end(&t);
}

static void test_an_end_is_not_held_up(void **state)
{
    struct store_test t;
    uint64_t most;
    begin(&t, 8);
    uint64_t until = begin_cycle(&t, 12), from;
    serve(&t, until, NS_PER_S / 10, &most);
    store_note_client(t.store);
    from = sim_now(t.world);
    t_stop(&t);
    assert_in_range(sim_now(t.world) - from, 0, NS_PER_S / 2);
    t_start_ok(&t);
    end(&t);
}

/* A crash in the middle of a cycle that takes its time is one like any other. */
static void test_a_crash_on_the_way(void **state)
{
    struct store_test t;
    uint64_t most;
    for (unsigned i = 1; i < 10; i += 2) {
        begin(&t, 20 + i);
        uint64_t until = begin_cycle(&t, 8);
        serve(&t, until, i * NS_PER_S / 10, &most);
        t_crash(&t, i % 4 == 1 ? SIM_POWER : SIM_KILL);
        t_start_ok(&t);
        end(&t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_at_once_when_nobody_is_there),
        cmocka_unit_test(test_evenly_while_clients_are_there),
        cmocka_unit_test(test_the_rest_at_once_when_clients_go),
        cmocka_unit_test(test_never_too_late),
        cmocka_unit_test(test_a_drain_is_not_held_up),
        cmocka_unit_test(test_an_end_is_not_held_up),
        cmocka_unit_test(test_a_crash_on_the_way),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
