/* The volume session, with the real proposer, the real wire, simulated connections, and replicas made of the real
 * acceptor: what clients see of sizes, edges, majorities that come and go, and space. Virtual time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>
#include <errno.h>

#include "base/log.h"
#include "tests/unit/volume_harness.h"

/* ---- the plain ways ---- */

static void test_unwritten_reads_as_zero_pieces(void **state)
{
    struct rig *rig = rig_attached(1);
    struct request *q = submit(&rig->frontend[0], EXPORT_READ, 0, (uint32_t)VOLUME_BYTES, NULL, 0, 0);
    assert_int_equal(await(rig, q), 0);
    assert_true(q->all_zero_pieces);
    assert_int_equal(q->r.n_pieces, VOLUME_BYTES / MIB);
    rig_free(rig);
}

static void test_sizes_and_offsets(void **state)
{
    static const struct {
        uint64_t offset;
        uint32_t length;
    } cases[] = {
        {0, 1}, {4095, 1}, {4095, 2}, {4096, 4096}, {100, 4096}, {EDGE - 1, 2}, {EDGE - 5000, 10000}, {EDGE, 1048576}, {1, 3 * 1048576}, {4096 * 3 + 5, 4091},
        {VOLUME_BYTES - 1, 1}, {VOLUME_BYTES - 5000, 5000}, {512, 512}, {0, (uint32_t)VOLUME_BYTES},
    };
    struct rig *rig = rig_attached(2);
    uint8_t *model = calloc(1, VOLUME_BYTES);
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        write_value(rig, cases[i].offset, cases[i].length, (uint8_t)(i + 1));
        memset(model + cases[i].offset, (int)i + 1, cases[i].length);
        struct request *q = submit(&rig->frontend[0], EXPORT_READ, 0, (uint32_t)VOLUME_BYTES, NULL, 0, 0);
        assert_int_equal(await(rig, q), 0);
        if (memcmp(q->data, model, VOLUME_BYTES) != 0)
            fail_msg("write of %u bytes at %llu", cases[i].length, (unsigned long long)cases[i].offset);
    }
    free(model);
    rig_free(rig);
}

static void test_zero_and_trim(void **state)
{
    struct rig *rig = rig_attached(3);
    write_value(rig, 0, (uint32_t)VOLUME_BYTES, 7);
    assert_int_equal(await(rig, submit(&rig->frontend[0], EXPORT_ZERO, 1000, 2 * 1048576, NULL, 0, EXPORT_NO_HOLE)), 0);
    check_value(rig, 0, 1000, 7);
    check_value(rig, 1000, 2 * 1048576, 0);
    check_value(rig, 1000 + 2 * 1048576, 10000, 7);
    /* TRIM leaves the parts of blocks at its ends alone */
    uint64_t at = 3 * MIB;
    assert_int_equal(await(rig, submit(&rig->frontend[0], EXPORT_TRIM, at + 10, 3 * BLOCK_SIZE, NULL, 0, 0)), 0);
    check_value(rig, at, BLOCK_SIZE, 7);
    check_value(rig, at + BLOCK_SIZE, 2 * BLOCK_SIZE, 0);
    check_value(rig, at + 3 * BLOCK_SIZE, BLOCK_SIZE, 7);
    assert_int_equal(await(rig, submit(&rig->frontend[0], EXPORT_TRIM, at + 4 * BLOCK_SIZE + 10, 4000, NULL, 0, 0)), 0);
    check_value(rig, at + 4 * BLOCK_SIZE, BLOCK_SIZE, 7);
    /* ZERO within one block, without a hole's flag */
    assert_int_equal(await(rig, submit(&rig->frontend[0], EXPORT_ZERO, at + 5 * BLOCK_SIZE + 10, 100, NULL, 0, 0)), 0);
    check_value(rig, at + 5 * BLOCK_SIZE, 10, 7);
    check_value(rig, at + 5 * BLOCK_SIZE + 10, 100, 0);
    check_value(rig, at + 5 * BLOCK_SIZE + 110, BLOCK_SIZE - 110, 7);
    rig_free(rig);
}

static void test_nothing_to_do_completes(void **state)
{
    struct rig *rig = rig_attached(4);
    static const enum export_op ops[] = {EXPORT_READ, EXPORT_WRITE, EXPORT_TRIM, EXPORT_ZERO, EXPORT_FLUSH};
    for (unsigned i = 0; i < ARRAY_LEN(ops); i++) {
        struct request *q = submit(&rig->frontend[0], ops[i], 5000, 0, NULL, 0, 0);
        assert_true(q->done); /* at once */
        assert_int_equal(q->error, 0);
    }
    rig_free(rig);
}

/* FLUSH covers what was answered before it, which is durable already: it never waits, not even without a majority. */
static void test_flush_is_free(void **state)
{
    struct rig *rig = rig_attached(5);
    write_value(rig, 0, 4096, 1);
    cut(rig, 0, 0);
    cut(rig, 0, 1);
    sim_run_for(rig->world, 3 * NS_PER_S);
    struct request *w = submit(&rig->frontend[0], EXPORT_WRITE, 0, 4096, NULL, 2, EXPORT_FUA);
    struct request *q = submit(&rig->frontend[0], EXPORT_FLUSH, 0, 0, NULL, 0, 0);
    assert_true(q->done && !w->done);
    heal(rig, 0, 0);
    assert_int_equal(await(rig, w), 0);
    heal(rig, 0, 1);
    rig_free(rig);
}

/* ---- sub-block writes ---- */

/* Neighbours in one block, all at once: each keeps its bytes. */
static void test_sub_block_writes_of_one_block(void **state)
{
    struct rig *rig = rig_attached(60);
    for (unsigned i = 0; i < 64; i++)
        submit(&rig->frontend[0], EXPORT_WRITE, 8192 + i * 64, 64, NULL, (uint8_t)(i + 1), 0);
    await_all(rig);
    for (unsigned i = 0; i < 64; i++)
        check_value(rig, 8192 + i * 64, 64, (uint8_t)(i + 1));
    rig_free(rig);
}

/* A sub-block write in front of a whole-block write of the same block, submitted in one turn: the later one wins as a whole, or the earlier one's bytes stand in it; never anything else. */
static void test_sub_block_before_whole_block(void **state)
{
    for (uint64_t seed = 61; seed < 81; seed++) {
        struct rig *rig = rig_attached(seed);
        write_value(rig, 0, 3 * BLOCK_SIZE, 9);
        submit(&rig->frontend[0], EXPORT_WRITE, 4096 + 100, 50, NULL, 1, 0);
        submit(&rig->frontend[0], EXPORT_WRITE, 0, 3 * BLOCK_SIZE, NULL, 2, 0);
        submit(&rig->frontend[0], EXPORT_WRITE, 4096 + 200, 50, NULL, 3, 0);
        await_all(rig);
        /* FIFO locks: the order of arrival is the order of effect for overlapping ones */
        check_value(rig, 4096, 200, 2);
        check_value(rig, 4096 + 200, 50, 3);
        check_value(rig, 4096 + 250, BLOCK_SIZE - 250, 2);
        rig_free(rig);
    }
}

/* ---- majorities that come and go ---- */

static void test_one_replica_lost_stalls_nothing(void **state)
{
    for (unsigned lost = 0; lost < REPLICAS; lost++) {
        struct rig *rig = rig_attached(110 + lost);
        write_value(rig, 0, MIB, 1);
        cut(rig, 0, lost);
        for (unsigned i = 0; i < 100; i++) {
            struct request *w = submit(&rig->frontend[0], EXPORT_WRITE, i * 5000, 5000, NULL, 2, 0);
            assert_int_equal(await(rig, w), 0);
            struct request *r = submit(&rig->frontend[0], EXPORT_READ, i * 5000, 5000, NULL, 0, 0);
            assert_int_equal(await(rig, r), 0);
            if (w->answered_ns - w->submitted_ns > 50 * NS_PER_MS || r->answered_ns - r->submitted_ns > 50 * NS_PER_MS)
                fail_msg("replica %u lost: request %u waited", lost, i);
        }
        compare_replicas(rig);
        rig_free(rig);
    }
}

static void test_fail_after(void **state)
{
    struct rig *rig = rig_new(120);
    rig_start_frontend(rig, 0, 2 * NS_PER_S);
    rig_attach(rig, 0);
    write_value(rig, 0, 8192, 1);
    cut(rig, 0, 0);
    cut(rig, 0, 1);
    struct request *w = submit(&rig->frontend[0], EXPORT_WRITE, 0, 4096, NULL, 2, 0);
    struct request *s = submit(&rig->frontend[0], EXPORT_WRITE, 10, 10, NULL, 3, 0); /* waits for the lock of w's block */
    struct request *r = submit(&rig->frontend[0], EXPORT_READ, 4096, 4096, NULL, 0, 0);
    sim_run_for(rig->world, NS_PER_S);
    assert_false(w->done || s->done);
    sim_run_for(rig->world, 3 * NS_PER_S);
    assert_true(w->done && s->done && r->done);
    assert_int_equal(w->error, EIO);
    assert_int_equal(s->error, EIO);
    heal(rig, 0, 0);
    heal(rig, 0, 1);
    sim_run_for(rig->world, 5 * NS_PER_S);
    rig_attach(rig, 0);
    write_value(rig, 0, 100, 4); /* the lock of the orphan is gone */
    check_value(rig, 0, 100, 4);
    rig_free(rig);
}

/* P11: gone before it got a slot: dropped, though its front end lives on. */
static void test_abandoned_requests_get_no_slot(void **state)
{
    struct rig *rig = rig_attached(130);
    struct rig_frontend *f = &rig->frontend[0];
    write_value(rig, 0, 64 * BLOCK_SIZE, 1);
    cut(rig, 0, 0);
    cut(rig, 0, 1);
    sim_run_for(rig->world, 3 * NS_PER_S);
    struct request *s = submit(f, EXPORT_WRITE, 20 * BLOCK_SIZE + 5, 10, NULL, 3, 0); /* its read waits for the lease */
    s->r.abandoned = true;
    heal(rig, 0, 0);
    heal(rig, 0, 1);
    await_all(rig);
    assert_int_not_equal(s->error, 0);
    check_value(rig, 20 * BLOCK_SIZE, BLOCK_SIZE, 1);
    rig_free(rig);
}

/* ---- space ---- */

static void test_no_space(void **state)
{
    struct rig *rig = rig_attached(140);
    struct rig_frontend *f = &rig->frontend[0];
    write_value(rig, 0, MIB, 1);
    for (unsigned i = 0; i < 2; i++)
        fake_replica_set_credits(&rig->replica[i], 0, false);
    sim_run_for(rig->world, 2 * NS_PER_S);
    struct request *w = submit(f, EXPORT_WRITE, MIB, 3 * 1048576, NULL, 2, 0);
    struct request *s = submit(f, EXPORT_WRITE, 2 * MIB + 5, 100, NULL, 2, 0);
    assert_int_equal(await(rig, w), ENOSPC);
    assert_int_equal(await(rig, s), ENOSPC);
    check_value(rig, MIB, 3 * 1048576, 0); /* no entry of them got a slot */
    check_value(rig, 0, MIB, 1);
    for (unsigned i = 0; i < 2; i++)
        fake_replica_set_credits(&rig->replica[i], 1000, false);
    sim_run_for(rig->world, 2 * NS_PER_S);
    write_value(rig, MIB, 3 * 1048576, 3);
    check_value(rig, MIB, 3 * 1048576, 3);
    rig_free(rig);
}

/* One full replica of three is none of the clients' business; while space is being made, writes wait. */
static void test_space_at_a_majority_and_growing(void **state)
{
    struct rig *rig = rig_attached(141);
    fake_replica_set_credits(&rig->replica[0], 0, false);
    sim_run_for(rig->world, 2 * NS_PER_S);
    write_value(rig, 0, MIB, 1);
    for (unsigned i = 0; i < REPLICAS; i++)
        fake_replica_set_credits(&rig->replica[i], 0, true);
    sim_run_for(rig->world, 2 * NS_PER_S);
    struct request *w = submit(&rig->frontend[0], EXPORT_WRITE, MIB, MIB, NULL, 2, 0);
    sim_run_for(rig->world, 5 * NS_PER_S);
    assert_false(w->done);
    for (unsigned i = 0; i < REPLICAS; i++)
        fake_replica_set_credits(&rig->replica[i], 1000, false);
    assert_int_equal(await(rig, w), 0);
    rig_free(rig);
}

/* ---- what the log says ---- */

struct said {
    const char *text;
    unsigned n;
};

static void count_said(void *user, enum log_level level, const char *text)
{
    struct said *said = user;
    for (; said->text; said++)
        said->n += strstr(text, said->text) != NULL;
}

static void test_volume_that_was_never_created(void **state)
{
    struct rig *rig = rig_new(170);
    struct said said[] = {{"volume vol0 does not exist on its replicas: qbd volume create --cluster FILE vol0", 0}, {NULL, 0}};
    log_set_sink(count_said, said);
    rig->replica[0].absent = true; /* one new disk is not a volume that does not exist */
    for (unsigned i = 1; i < REPLICAS; i++)
        cut(rig, 0, i);
    rig_start_frontend(rig, 0, 0);
    sim_run_for(rig->world, 10 * NS_PER_S);
    assert_int_equal(said[0].n, 0);
    rig->replica[1].absent = true;
    heal(rig, 0, 1);
    sim_run_for(rig->world, 30 * NS_PER_S);
    assert_int_equal(said[0].n, 1);
    assert_string_equal(rig->frontend[0].export->state, said[0].text);
    assert_false(rig->frontend[0].export->attached);
    rig->replica[0].absent = rig->replica[1].absent = false; /* created */
    rig_attach(rig, 0);
    assert_string_equal(rig->frontend[0].export->state, "volume vol0 serves");
    rig_free(rig);
}

static void test_majority_lost_and_found_is_said_once(void **state)
{
    struct rig *rig = rig_attached(171);
    struct said said[] = {{"volume vol0: no majority of replicas answers; requests wait", 0}, {"volume vol0 serves again after ", 0},
                          {"is being attached", 0}, {NULL, 0}};
    sim_run_for(rig->world, 2 * NS_PER_S);
    log_set_sink(count_said, said);
    cut(rig, 0, 0);
    sim_run_for(rig->world, 20 * NS_PER_S);
    assert_int_equal(said[0].n, 0); /* two of three are a majority */
    cut(rig, 0, 1);
    sim_run_for(rig->world, 20 * NS_PER_S);
    assert_int_equal(said[0].n, 1);
    assert_int_equal(said[1].n, 0);
    heal(rig, 0, 1);
    sim_run_for(rig->world, 20 * NS_PER_S);
    assert_int_equal(said[0].n, 1);
    assert_int_equal(said[1].n, 1);
    assert_string_equal(rig->frontend[0].export->state, "volume vol0 serves");
    rig_stop_frontend(rig, 0); /* a clean stop is not worth a warning */
    assert_int_equal(said[0].n, 1);
    assert_int_equal(said[2].n, 0);
    rig_free(rig);
}

/* ---- links and ends ---- */

static void test_wrong_identity_is_not_used(void **state)
{
    struct rig *rig = rig_new(170);
    rig->replica[1].identity.b[3] ^= 1; /* a new disk under the old name */
    rig_start_frontend(rig, 0, 0);
    rig_attach(rig, 0);
    write_value(rig, 0, 4096, 1);
    sim_run_for(rig->world, 3 * NS_PER_S);
    assert_int_equal(rig->replica[1].applied, 0);
    char json[16384];
    size_t n = volume_status(rig->frontend[0].volume, json, sizeof json);
    assert_true(n > 0 && n < sizeof json);
    json[n] = 0;
    assert_non_null(strstr(json, "\"state\":\"attached\""));
    assert_non_null(strstr(json, "another replica or a new disk stands there"));
    char small[200];
    n = volume_status(rig->frontend[0].volume, small, sizeof small); /* what does not fit is not cut in the middle */
    small[n] = 0;
    assert_string_equal(small, "{\"error\":\"status does not fit\"}");
    rig_free(rig);
}

static void test_wrong_cluster_is_not_used(void **state)
{
    struct rig *rig = rig_new(171);
    for (unsigned i = 0; i < 2; i++)
        rig->replica[i].cluster.b[0] ^= 1;
    rig_start_frontend(rig, 0, 0);
    sim_run_for(rig->world, 5 * NS_PER_S);
    assert_false(rig->frontend[0].export->attached || rig->frontend[0].export->refused);
    assert_non_null(strstr(rig->frontend[0].export->state, "waits for a majority of its replicas: 1 of 3 are connected"));
    rig_free(rig);
}

/* A front end that dies in the middle of everything: no leak, no callback. */
static void test_crash_of_the_front_end(void **state)
{
    struct rig *rig = rig_attached(172);
    struct rig_frontend *f = &rig->frontend[0];
    for (unsigned i = 0; i < 20; i++)
        submit(f, i % 2 ? EXPORT_WRITE : EXPORT_READ, i * 5000, 7000, NULL, 1, 0);
    sim_run_for(rig->world, 300000);
    assert_true(rig->open > 0);
    sim_reactor_crash(f->sim, SIM_KILL);
    volume_free(f->volume);
    f->volume = NULL;
    for (struct request *q = rig->requests; q; q = q->next)
        q->done = true; /* nobody is there to be told */
    rig->open = 0;
    rig_start_frontend(rig, 1, 0);
    rig_attach(rig, 1);
    struct request *q = submit(&rig->frontend[1], EXPORT_WRITE, 0, 4096, NULL, 3, 0);
    assert_int_equal(await(rig, q), 0);
    rig_free(rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_unwritten_reads_as_zero_pieces),
        cmocka_unit_test(test_sizes_and_offsets),
        cmocka_unit_test(test_zero_and_trim),
        cmocka_unit_test(test_nothing_to_do_completes),
        cmocka_unit_test(test_flush_is_free),
        cmocka_unit_test(test_sub_block_writes_of_one_block),
        cmocka_unit_test(test_sub_block_before_whole_block),
        cmocka_unit_test(test_one_replica_lost_stalls_nothing),
        cmocka_unit_test(test_fail_after),
        cmocka_unit_test(test_abandoned_requests_get_no_slot),
        cmocka_unit_test(test_no_space),
        cmocka_unit_test(test_space_at_a_majority_and_growing),
        cmocka_unit_test(test_volume_that_was_never_created),
        cmocka_unit_test(test_majority_lost_and_found_is_said_once),
        cmocka_unit_test(test_wrong_identity_is_not_used),
        cmocka_unit_test(test_wrong_cluster_is_not_used),
        cmocka_unit_test(test_crash_of_the_front_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
