/* The volume session, with the real proposer, the real wire, simulated connections, and replicas made of the real
 * acceptor: where reads go when a replica is bad, slow, mute or gone, and when they must wait. Virtual time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>
#include <errno.h>

#include "tests/unit/volume_harness.h"

/* ---- reads ---- */

static void test_bad_checksum_is_read_elsewhere(void **state)
{
    struct rig *rig = rig_attached(90);
    write_value(rig, 0, 64 * BLOCK_SIZE, 5);
    rig->replica[0].corrupt[10] = rig->replica[1].corrupt[10] = true;
    for (unsigned i = 0; i < 20; i++) {
        check_value(rig, 0, 64 * BLOCK_SIZE, 5);
        check_value(rig, 10 * BLOCK_SIZE + 17, 1000, 5);
    }
    assert_true(rig->replica[0].n_data + rig->replica[1].n_data > 0);
    rig_free(rig);
}

static void test_bad_everywhere_is_eio(void **state)
{
    struct rig *rig = rig_attached(91);
    write_value(rig, 0, 64 * BLOCK_SIZE, 5);
    for (unsigned i = 0; i < REPLICAS; i++)
        rig->replica[i].bad[10] = true;
    assert_int_equal(await(rig, submit(&rig->frontend[0], EXPORT_READ, 10 * BLOCK_SIZE, 100, NULL, 0, 0)), EIO);
    assert_int_equal(await(rig, submit(&rig->frontend[0], EXPORT_READ, 0, 64 * BLOCK_SIZE, NULL, 0, 0)), EIO);
    check_value(rig, 0, 10 * BLOCK_SIZE, 5);
    /* a sub-block write of a block that nobody can read fails; a whole-block write heals it */
    assert_int_equal(await(rig, submit(&rig->frontend[0], EXPORT_WRITE, 10 * BLOCK_SIZE, 100, NULL, 6, 0)), EIO);
    rig_free(rig);
}

/* Each replica has a bad block of its own: none can give the whole range, all of it is there. */
static void test_bad_in_different_places(void **state)
{
    struct rig *rig = rig_attached(92);
    for (unsigned b = 0; b < 40; b++)
        write_value(rig, b * BLOCK_SIZE, BLOCK_SIZE, (uint8_t)(b + 1));
    assert_int_equal(await(rig, submit(&rig->frontend[0], EXPORT_TRIM, 20 * BLOCK_SIZE, BLOCK_SIZE, NULL, 0, 0)), 0);
    for (unsigned i = 0; i < REPLICAS; i++)
        rig->replica[i].bad[10 + i] = true;
    rig->replica[0].corrupt[30] = rig->replica[1].bad[30] = true;
    struct request *q = submit(&rig->frontend[0], EXPORT_READ, 5, 40 * BLOCK_SIZE - 5, NULL, 0, 0);
    assert_int_equal(await(rig, q), 0);
    for (uint32_t i = 0; i < q->r.length; i++) {
        unsigned b = (i + 5) / BLOCK_SIZE;
        assert_int_equal(q->data[i], b == 20 ? 0 : b + 1);
    }
    rig_free(rig);
}

/* Bad at two, the third away: that is no reason for an error. */
static void test_bad_waits_for_the_replica_that_is_away(void **state)
{
    struct rig *rig = rig_attached(93);
    write_value(rig, 0, 4 * BLOCK_SIZE, 5);
    sim_run_for(rig->world, NS_PER_S);
    rig->replica[0].bad[2] = rig->replica[1].bad[2] = true;
    cut(rig, 0, 2);
    fake_replica_drop_sessions(&rig->replica[2]);
    sim_run_for(rig->world, NS_PER_S);
    struct request *q = submit(&rig->frontend[0], EXPORT_READ, 0, 4 * BLOCK_SIZE, NULL, 0, 0);
    sim_run_for(rig->world, 5 * NS_PER_S);
    assert_false(q->done);
    heal(rig, 0, 2);
    assert_int_equal(await(rig, q), 0);
    rig_free(rig);
}

static void test_slow_read_is_hedged(void **state)
{
    struct rig *rig = rig_attached(94);
    write_value(rig, 0, 4 * BLOCK_SIZE, 5);
    for (unsigned i = 0; i < 60; i++)
        check_value(rig, 0, 4096, 5); /* all are measured */
    for (unsigned i = 0; i < REPLICAS; i++) {
        struct sim_range fast = rig->replica[i].read_ns;
        rig->replica[i].read_ns = (struct sim_range){300 * NS_PER_MS, 300 * NS_PER_MS};
        for (unsigned k = 0; k < 10; k++) {
            struct request *q = submit(&rig->frontend[0], EXPORT_READ, 0, 4096, NULL, 0, 0);
            assert_int_equal(await(rig, q), 0);
            assert_int_equal(q->data[7], 5);
            if (q->answered_ns - q->submitted_ns > 60 * NS_PER_MS)
                fail_msg("a read waited %llu us for a slow replica", (unsigned long long)(q->answered_ns - q->submitted_ns) / 1000);
        }
        rig->replica[i].read_ns = fast;
        sim_run_for(rig->world, NS_PER_S); /* the late answers come, and find nobody */
    }
    rig_free(rig);
}

/* A replica that takes reads and never answers costs a hedge, not an answer. */
static void test_mute_replica(void **state)
{
    struct rig *rig = rig_attached(95);
    write_value(rig, 0, MIB, 5);
    rig->replica[1].mute_reads = true;
    for (unsigned i = 0; i < 300; i++)
        check_value(rig, i % 200 * BLOCK_SIZE + 3, 5000, 5);
    assert_true(rig->replica[1].n_reads < 100); /* it is avoided */
    rig->replica[1].mute_reads = false;
    rig_free(rig);
}

static void test_reads_spread_at_depth(void **state)
{
    struct rig *rig = rig_attached(96);
    write_value(rig, 0, MIB, 5);
    for (unsigned i = 0; i < 600; i++) {
        submit(&rig->frontend[0], EXPORT_READ, i % 200 * BLOCK_SIZE, 4096, NULL, 0, 0);
        while (rig->open >= 32)
            sim_step(rig->world);
    }
    await_all(rig);
    for (unsigned i = 0; i < REPLICAS; i++)
        assert_true(rig->replica[i].n_reads > 60);
    rig_free(rig);
}

static unsigned long long status_number(struct rig_frontend *f, const char *key)
{
    char json[16384];
    size_t n = volume_status(f->volume, json, sizeof json - 1);
    json[n] = 0;
    const char *at = strstr(json, key);
    assert_non_null(at);
    return strtoull(at + strlen(key), NULL, 10);
}

/* When everything becomes slow at once, asking everybody twice would make it slower. */
static void test_hedging_has_a_budget(void **state)
{
    struct rig *rig = rig_attached(97);
    write_value(rig, 0, MIB, 5);
    for (unsigned i = 0; i < 2000; i++) {
        submit(&rig->frontend[0], EXPORT_READ, i % 200 * BLOCK_SIZE, 4096, NULL, 0, 0);
        while (rig->open >= 8)
            sim_step(rig->world);
    }
    await_all(rig);
    unsigned long long before = status_number(&rig->frontend[0], "\"read_hedges\":");
    for (unsigned k = 0; k < REPLICAS; k++)
        rig->replica[k].read_ns = (struct sim_range){15 * NS_PER_MS, 18 * NS_PER_MS};
    for (unsigned i = 0; i < 300; i++)
        submit(&rig->frontend[0], EXPORT_READ, i % 200 * BLOCK_SIZE, 4096, NULL, 0, 0);
    await_all(rig);
    unsigned long long hedges = status_number(&rig->frontend[0], "\"read_hedges\":") - before;
    assert_in_range(hedges, 20, 64 + 300 / 16);
    rig_free(rig);
}

/* A connection whose other end is gone without a word is given up, and one that only stalled is made anew. */
static void test_silent_link_is_made_anew(void **state)
{
    struct rig *rig = rig_attached(98);
    write_value(rig, 0, MIB, 5);
    sim_pause(rig->replica[0].sim);
    sim_run_for(rig->world, 20 * NS_PER_S);
    check_value(rig, 0, MIB, 5);
    sim_resume(rig->replica[0].sim);
    sim_run_for(rig->world, 10 * NS_PER_S);
    unsigned long long connects = status_number(&rig->frontend[0], "\"connects\":"); /* of the first replica */
    assert_in_range(connects, 2, 3);
    compare_replicas(rig);
    rig_free(rig);
}

/* ---- leases ---- */

static void test_reads_wait_for_the_lease(void **state)
{
    struct rig *rig = rig_attached(100);
    write_value(rig, 0, 4096, 1);
    cut(rig, 0, 0);
    cut(rig, 0, 1);
    sim_run_for(rig->world, 2 * NS_PER_S); /* the lease of 1 s is over */
    uint64_t reads = rig->replica[2].n_reads;
    struct request *q = submit(&rig->frontend[0], EXPORT_READ, 0, 4096, NULL, 0, 0);
    sim_run_for(rig->world, 5 * NS_PER_S);
    assert_false(q->done);
    assert_int_equal(rig->replica[2].n_reads, reads); /* not even asked: it might be stale */
    heal(rig, 0, 0);
    assert_int_equal(await(rig, q), 0);
    assert_int_equal(q->data[0], 1);
    heal(rig, 0, 1);
    rig_free(rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bad_checksum_is_read_elsewhere),
        cmocka_unit_test(test_bad_everywhere_is_eio),
        cmocka_unit_test(test_bad_in_different_places),
        cmocka_unit_test(test_bad_waits_for_the_replica_that_is_away),
        cmocka_unit_test(test_slow_read_is_hedged),
        cmocka_unit_test(test_mute_replica),
        cmocka_unit_test(test_reads_spread_at_depth),
        cmocka_unit_test(test_hedging_has_a_budget),
        cmocka_unit_test(test_silent_link_is_made_anew),
        cmocka_unit_test(test_reads_wait_for_the_lease),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
