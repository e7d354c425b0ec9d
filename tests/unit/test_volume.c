/* The volume session, with the real proposer, the real wire, simulated connections, and replicas made of the real acceptor: what clients see while replicas die, rot, lag, fill up and while another front end
 * takes over. Virtual time; each test prints its seed when it fails by way of its name and arguments. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include <errno.h>

#include "base/log.h"
#include "tests/unit/byte_history.h"
#include "tests/unit/volume_harness.h"

#define MIB (UINT64_C(1) << 20)
#define EDGE MIB /* a boundary of entries */

static struct rig *attached(uint64_t seed)
{
    struct rig *rig = rig_new(seed);
    rig_start_frontend(rig, 0, 0);
    rig_attach(rig, 0);
    return rig;
}

/* ---- the plain ways ---- */

static void test_unwritten_reads_as_zero_pieces(void **state)
{
    struct rig *rig = attached(1);
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
    struct rig *rig = attached(2);
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
    struct rig *rig = attached(3);
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
    struct rig *rig = attached(4);
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
    struct rig *rig = attached(5);
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

/* ---- the model: many overlapping requests at once, any order of completion ---- */

#define REGION_BLOCKS 12u
#define REGION (REGION_BLOCKS * BLOCK_SIZE)
#define REGION_START (EDGE - 6 * BLOCK_SIZE) /* entries are cut in its middle */
#define PHASE_OPS 220u

struct load {
    struct rig *rig;
    uint64_t seed;
    unsigned max_open;
    unsigned values;      /* used in this phase */
    uint8_t first_value;
    struct byte_history *history;
    struct history_op *op[PHASE_OPS + 1];
    struct request *request[PHASE_OPS + 1];
    unsigned n;
    void (*fault)(struct load *l);
    unsigned faults;
};

static uint64_t draw(struct load *l, uint64_t n)
{
    return sim_rand(l->rig->world) % n;
}

static void draw_range(struct load *l, uint64_t *ret_at, uint32_t *ret_len)
{
    static const uint32_t lengths[] = {1, 16, 512, 700, 4096, 4096, 8192, 5000, 16384, 20000};
    uint32_t len = lengths[draw(l, ARRAY_LEN(lengths))];
    if (draw(l, 3) == 0)
        len = 1 + (uint32_t)draw(l, len);
    uint64_t at = draw(l, REGION - len + 1);
    if (draw(l, 3) == 0)
        at = at / BLOCK_SIZE * BLOCK_SIZE;
    else if (draw(l, 2) == 0)
        at = at / 512 * 512;
    *ret_at = at;
    *ret_len = len;
}

static void submit_random(struct load *l)
{
    uint64_t at;
    uint32_t len;
    draw_range(l, &at, &len);
    unsigned what = (unsigned)draw(l, 100);
    enum export_op op = what < 45 && l->values < 240 ? EXPORT_WRITE : what < 85 ? EXPORT_READ : what < 93 ? EXPORT_ZERO : EXPORT_TRIM;
    struct history_op *o = byte_history_add(l->history);
    *o = (struct history_op){.write = op != EXPORT_READ, .start = at, .len = len, .end = HISTORY_NEVER};
    if (op == EXPORT_WRITE)
        o->value = (uint8_t)(l->first_value + l->values++);
    if (op == EXPORT_TRIM) { /* only whole blocks */
        uint64_t first = (at + BLOCK_SIZE - 1) / BLOCK_SIZE, last = (at + len) / BLOCK_SIZE;
        o->start = first * BLOCK_SIZE;
        o->len = last > first ? (last - first) * BLOCK_SIZE : 0;
    }
    l->op[l->n] = o;
    l->request[l->n] = submit(&l->rig->frontend[0], op, REGION_START + at, len, NULL, o->value, draw(l, 2) ? EXPORT_NO_HOLE : 0);
    l->n++;
}

/* What came of the requests goes into the history. Reads that failed tell nothing. */
static void collect(struct load *l)
{
    uint32_t kept = 0;
    for (unsigned i = 0; i < l->n; i++) {
        struct request *q = l->request[i];
        assert_true(q->done);
        struct history_op o = *l->op[i];
        o.begin = q->begin;
        o.end = q->error ? HISTORY_NEVER : q->end;
        if (q->r.op == EXPORT_READ) {
            if (q->error)
                continue;
            o.data = q->data;
            q->data = NULL;
        }
        l->history->op[kept++] = o;
    }
    l->history->n = kept;
}

static uint8_t *read_region(struct rig *rig)
{
    struct request *q = submit(&rig->frontend[0], EXPORT_READ, REGION_START, REGION, NULL, 0, 0);
    assert_int_equal(await(rig, q), 0);
    uint8_t *copy = malloc(REGION);
    assert_non_null(copy);
    memcpy(copy, q->data, REGION);
    return copy;
}

static void run_phase(struct load *l, unsigned phase)
{
    write_value(l->rig, REGION_START, REGION, phase % 2 ? 250 : 251); /* the values of earlier phases are used again */
    uint8_t *initial = read_region(l->rig);
    l->history = byte_history_new(REGION, initial);
    l->first_value = 1;
    l->values = l->n = 0;
    free(initial);
    while (l->n < PHASE_OPS) {
        while (l->rig->open >= l->max_open)
            if (!sim_step(l->rig->world))
                fail_msg("nothing happens any more");
        submit_random(l);
        if (draw(l, 3) == 0)
            sim_run_for(l->rig->world, draw(l, 600000));
        if (l->fault)
            l->fault(l);
    }
    await_all(l->rig);
    /* the end is a read of everything */
    struct history_op *o = byte_history_add(l->history);
    *o = (struct history_op){.len = REGION};
    l->op[l->n] = o;
    l->request[l->n++] = submit(&l->rig->frontend[0], EXPORT_READ, REGION_START, REGION, NULL, 0, 0);
    await_all(l->rig);
    collect(l);
    const char *why = byte_history_check(l->history);
    byte_history_free(l->history);
    if (why)
        fail_msg("seed %llu phase %u: %s", (unsigned long long)l->seed, phase, why);
}

/* Once all is quiet and every replica is there, they hold the same bytes. */
static void compare_replicas(struct rig *rig)
{
    for (unsigned i = 0; i < REPLICAS; i++)
        heal(rig, 0, i);
    sim_run_for(rig->world, 10 * NS_PER_S);
    for (unsigned i = 1; i < REPLICAS; i++) {
        assert_int_equal(rig->replica[i].applied, rig->replica[0].applied);
        assert_memory_equal(rig->replica[i].block, rig->replica[0].block, VOLUME_BYTES);
        assert_memory_equal(rig->replica[i].crc, rig->replica[0].crc, sizeof rig->replica[i].crc);
    }
}

static void run_load(uint64_t seed, unsigned phases, unsigned max_open, void (*fault)(struct load *))
{
    struct load *l = calloc(1, sizeof *l);
    assert_non_null(l);
    l->rig = attached(seed);
    l->seed = seed;
    l->max_open = max_open;
    l->fault = fault;
    for (unsigned i = 0; i < phases; i++)
        run_phase(l, i);
    if (fault)
        assert_true(l->faults > 0);
    memset(l->rig->replica[0].bad, 0, sizeof l->rig->replica[0].bad);
    compare_replicas(l->rig);
    rig_free(l->rig);
    free(l);
}

static void test_model_calm(void **state)
{
    for (uint64_t seed = 10; seed < 16; seed++)
        run_load(seed, 3, 4 + (unsigned)seed % 3 * 14, NULL);
}

static void lose_and_return(struct load *l)
{
    if (draw(l, 12) != 0)
        return;
    unsigned i = (unsigned)draw(l, REPLICAS);
    l->faults++;
    switch (draw(l, 3)) {
    case 0: /* the connection breaks */
        fake_replica_drop_sessions(&l->rig->replica[i]);
        break;
    case 1: /* the network does, one replica at a time */
        for (unsigned k = 0; k < REPLICAS; k++)
            heal(l->rig, 0, k);
        cut(l->rig, 0, i);
        break;
    default:
        for (unsigned k = 0; k < REPLICAS; k++)
            heal(l->rig, 0, k);
    }
}

static void test_model_replicas_come_and_go(void **state)
{
    for (uint64_t seed = 30; seed < 36; seed++)
        run_load(seed, 3, 20, lose_and_return);
}

/* Also all connections at once, again and again: requests wait, nothing is lost or done twice in a way that shows. */
static void lose_all(struct load *l)
{
    if (draw(l, 15) != 0)
        return;
    l->faults++;
    for (unsigned i = 0; i < REPLICAS; i++)
        if (draw(l, 4) != 0)
            fake_replica_drop_sessions(&l->rig->replica[i]);
}

static void test_model_all_links_break(void **state)
{
    for (uint64_t seed = 40; seed < 46; seed++)
        run_load(seed, 3, 20, lose_all);
}

static void rot(struct load *l)
{
    if (draw(l, 6) != 0)
        return;
    l->faults++;
    for (unsigned b = 0; b < FAKE_BLOCKS; b++)
        for (unsigned i = 0; i < REPLICAS; i++)
            l->rig->replica[i].bad[b] = l->rig->replica[i].corrupt[b] = false;
    for (unsigned k = 0; k < 4; k++) {
        unsigned b = (unsigned)(REGION_START / BLOCK_SIZE + draw(l, REGION_BLOCKS)), i = (unsigned)draw(l, REPLICAS);
        l->rig->replica[i].bad[b] = draw(l, 2);
        l->rig->replica[(i + 1) % REPLICAS].corrupt[b] = draw(l, 2); /* one of three stays good */
    }
    l->rig->replica[draw(l, REPLICAS)].behind += 2;
}

static void test_model_rot(void **state)
{
    for (uint64_t seed = 50; seed < 54; seed++)
        run_load(seed, 2, 16, rot);
}

/* ---- sub-block writes ---- */

/* Neighbours in one block, all at once: each keeps its bytes. */
static void test_sub_block_writes_of_one_block(void **state)
{
    struct rig *rig = attached(60);
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
        struct rig *rig = attached(seed);
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

/* ---- reads ---- */

static void test_bad_checksum_is_read_elsewhere(void **state)
{
    struct rig *rig = attached(90);
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
    struct rig *rig = attached(91);
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
    struct rig *rig = attached(92);
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
    struct rig *rig = attached(93);
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
    struct rig *rig = attached(94);
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
    struct rig *rig = attached(95);
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
    struct rig *rig = attached(96);
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
    struct rig *rig = attached(97);
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
    struct rig *rig = attached(98);
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

/* ---- leases, majorities ---- */

static void test_reads_wait_for_the_lease(void **state)
{
    struct rig *rig = attached(100);
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

static void test_one_replica_lost_stalls_nothing(void **state)
{
    for (unsigned lost = 0; lost < REPLICAS; lost++) {
        struct rig *rig = attached(110 + lost);
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
    struct rig *rig = attached(130);
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
    struct rig *rig = attached(140);
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
    struct rig *rig = attached(141);
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

/* ---- another front end ---- */

static void test_second_front_end_is_told_who_holds_it(void **state)
{
    struct rig *rig = attached(150);
    write_value(rig, 0, 4096, 1);
    rig_start_frontend(rig, 1, 0);
    sim_run_for(rig->world, 5 * NS_PER_S);
    struct rig_frontend *second = &rig->frontend[1];
    assert_false(second->export->attached);
    assert_true(second->export->refused);
    assert_non_null(strstr(second->export->state, "volume vol0 is held by frontend-1; its lease ends in "));
    assert_true(rig->frontend[0].export->attached); /* the healthy holder is not disturbed (P1) */
    assert_int_equal(rig->frontend[0].fenced, 0);
    /* an orderly end releases the lease: the second one has it at once */
    uint64_t t = sim_now(rig->world);
    rig_stop_frontend(rig, 0);
    rig_attach(rig, 1);
    assert_true(sim_now(rig->world) - t < 900 * NS_PER_MS); /* less than the lease */
    struct request *q = submit(second, EXPORT_READ, 0, 4096, NULL, 0, 0);
    assert_int_equal(await(rig, q), 0);
    assert_int_equal(q->data[0], 1);
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
    struct rig *rig = attached(171);
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

static void partition_first(struct rig *rig, bool on)
{
    for (unsigned i = 0; i < REPLICAS; i++)
        (on ? cut : heal)(rig, 0, i);
}

/* P7: the first front end is cut off, the second takes over, the first comes back: all its requests fail, its clients are dropped, and it waits to attach as somebody new. */
static void test_fenced(void **state)
{
    struct rig *rig = attached(151);
    struct rig_frontend *first = &rig->frontend[0], *second = &rig->frontend[1];
    write_value(rig, 0, 16 * BLOCK_SIZE, 1);
    partition_first(rig, true);
    struct request *w = submit(first, EXPORT_WRITE, 0, 4096, NULL, 2, 0);
    struct request *s = submit(first, EXPORT_WRITE, 100, 100, NULL, 3, 0);
    struct request *r = submit(first, EXPORT_READ, 8192, 4096, NULL, 0, 0);
    rig_start_frontend(rig, 1, 0);
    rig_attach(rig, 1);
    struct request *other = submit(second, EXPORT_WRITE, 0, 8192, NULL, 9, 0);
    assert_int_equal(await(rig, other), 0);
    assert_false(w->done || s->done || r->done);
    partition_first(rig, false);
    uint64_t t = sim_now(rig->world);
    await_all(rig);
    assert_true(sim_now(rig->world) - t < 5 * NS_PER_S); /* not only when the second one goes */
    assert_int_equal(w->error, ESHUTDOWN);
    assert_int_equal(s->error, ESHUTDOWN);
    assert_int_equal(first->fenced, 1);
    assert_int_equal(first->unanswered_at_fence, 0); /* failed first, dropped then */
    sim_run_for(rig->world, 5 * NS_PER_S);
    assert_false(first->export->attached);
    assert_true(first->export->refused);
    assert_non_null(strstr(first->export->state, "held by frontend-2"));
    /* none of its writes comes to light later */
    struct request *q = submit(second, EXPORT_READ, 0, 8192, NULL, 0, 0);
    assert_int_equal(await(rig, q), 0);
    for (unsigned i = 0; i < 8192; i++)
        assert_int_equal(q->data[i], 9);
    rig_stop_frontend(rig, 1);
    rig_attach(rig, 0);
    write_value(rig, 0, 100, 4);
    check_value(rig, 0, 100, 4);
    check_value(rig, 100, 8000, 9);
    compare_replicas(rig);
    rig_free(rig);
}

/* Many times back and forth with requests in flight: what was answered with success by either is what stands there. */
static void test_back_and_forth(void **state)
{
    struct rig *rig = attached(152);
    uint8_t value = 1;
    rig_start_frontend(rig, 1, 0);
    for (unsigned round = 0; round < 8; round++) {
        unsigned holder = round % 2, other = 1 - holder;
        struct rig_frontend *f = &rig->frontend[holder];
        rig_attach(rig, holder);
        struct request *w = submit(f, EXPORT_WRITE, 50, 10000, NULL, ++value, 0);
        assert_int_equal(await(rig, w), 0);
        for (unsigned i = 0; i < REPLICAS; i++)
            cut(rig, holder, i);
        for (unsigned i = 0; i < 5; i++) /* never chosen, never answered with success */
            submit(f, EXPORT_WRITE, 60 + i, 9000, NULL, 255, 0);
        rig_attach(rig, other);
        struct request *q = submit(&rig->frontend[other], EXPORT_READ, 50, 10000, NULL, 0, 0);
        assert_int_equal(await(rig, q), 0);
        for (unsigned i = 0; i < 10000; i++)
            assert_int_equal(q->data[i], value);
        for (unsigned i = 0; i < REPLICAS; i++)
            heal(rig, holder, i);
        await_all(rig);
        assert_int_equal(f->fenced, round / 2 + 1);
    }
    rig_free(rig);
}

/* ---- a foreign ballot that came to nothing (P7): the session goes on, requests only wait ---- */

struct intruder {
    struct rig *rig;
    struct sim_reactor *sim;
    struct wire_peer peer[REPLICAS];
    unsigned promises, nacks;
    struct ballot ballot;
};

static void intruder_open(struct wire_peer *p)
{
    struct intruder *in = p->user;
    struct msg m = {.type = MSG_HELLO};
    m.u.hello.version = WIRE_VERSION;
    m.u.hello.role = ROLE_FRONTEND;
    m.u.hello.cluster = in->rig->config.id;
    m.u.hello.identity = in->ballot.proposer;
    wire_peer_send(p, &m);
}

static void intruder_msg(struct wire_peer *p, const struct msg *m, struct buf *payload)
{
    struct intruder *in = p->user;
    if (m->type == MSG_HELLO) {
        struct msg prepare = {.type = MSG_PREPARE, .group = GROUP, .target = in->rig->config.replicas[p - in->peer].identity, .ballot = in->ballot};
        wire_peer_send(p, &prepare);
    }
    in->promises += m->type == MSG_PROMISE;
    in->nacks += m->type == MSG_NACK;
}

static void intruder_closed(struct wire_peer *p, int err, const char *reason)
{
}

static const struct wire_handler intruder_wire = {.on_open = intruder_open, .on_msg = intruder_msg, .on_closed = intruder_closed};

static void test_foreign_ballot_without_session(void **state)
{
    for (uint64_t seed = 160; seed < 170; seed++) {
        struct rig *rig = attached(seed);
        struct rig_frontend *f = &rig->frontend[0];
        struct intruder in = {.rig = rig, .sim = sim_reactor_new(rig->world, "intruder", 1u << 24), .ballot = {.round = 1000, .proposer.b = {1}}};
        write_value(rig, 0, 64 * BLOCK_SIZE, 1);
        /* Writes get slots and reach one replica, or none, and the lease runs out. */
        cut(rig, 0, 0);
        cut(rig, 0, 1);
        if (seed % 2)
            cut(rig, 0, 2);
        for (unsigned i = 0; i < 10; i++)
            submit(f, EXPORT_WRITE, i * 3000, 3000, NULL, (uint8_t)(100 + i), 0);
        sim_run_for(rig->world, 3 * NS_PER_S);
        for (unsigned i = 0; i < 2; i++)
            assert_int_equal(wire_peer_connect(&in.peer[i], sim_reactor_io(in.sim), rig->config.replicas[i].address, &intruder_wire, &in), 0);
        sim_run_for(rig->world, NS_PER_S);
        assert_int_equal(in.promises, 2);
        partition_first(rig, false);
        await_all(rig);
        assert_int_equal(f->fenced, 0);
        for (unsigned i = 0; i < 10; i++)
            check_value(rig, i * 3000, 3000, (uint8_t)(100 + i));
        rig_attach(rig, 0);
        compare_replicas(rig);
        sim_reactor_crash(in.sim, SIM_KILL);
        rig_free(rig);
    }
}

/* A sub-block write and a whole-block write of the same block, both with slots that the new log does not hold: they are proposed again in the same order, or the merged block would bury the later write. */
static void test_unplaced_writes_keep_their_order(void **state)
{
    for (uint64_t seed = 165; seed < 170; seed++) {
        struct rig *rig = attached(seed);
        struct rig_frontend *f = &rig->frontend[0];
        struct intruder in = {.rig = rig, .sim = sim_reactor_new(rig->world, "intruder", 1u << 24), .ballot = {.round = 1000, .proposer.b = {1}}};
        write_value(rig, 0, 64 * BLOCK_SIZE, 1);
        sim_run_for(rig->world, NS_PER_S);
        cut(rig, 0, 0);
        cut(rig, 0, 1);
        struct request *s = submit(f, EXPORT_WRITE, 40 * BLOCK_SIZE + 100, 100, NULL, 60, 0); /* read at replica 3 while the lease lasts */
        sim_run_for(rig->world, 30 * NS_PER_MS);
        struct request *w = submit(f, EXPORT_WRITE, 40 * BLOCK_SIZE, BLOCK_SIZE, NULL, 70, 0);
        sim_run_for(rig->world, 30 * NS_PER_MS);
        uint64_t last = paxos_log_last(&rig->replica[2].acceptor->log).slot;
        assert_int_equal(last, rig->replica[0].acceptor->commit + 2); /* both have their slots, there alone */
        cut(rig, 0, 2);
        sim_run_for(rig->world, 3 * NS_PER_S);
        for (unsigned i = 0; i < 2; i++)
            assert_int_equal(wire_peer_connect(&in.peer[i], sim_reactor_io(in.sim), rig->config.replicas[i].address, &intruder_wire, &in), 0);
        sim_run_for(rig->world, NS_PER_S);
        assert_int_equal(in.promises, 2);
        heal(rig, 0, 0);
        heal(rig, 0, 1);
        assert_int_equal(await(rig, s), 0);
        assert_int_equal(await(rig, w), 0);
        assert_int_equal(f->fenced, 0);
        check_value(rig, 40 * BLOCK_SIZE, BLOCK_SIZE, 70);
        compare_replicas(rig);
        sim_reactor_crash(in.sim, SIM_KILL);
        rig_free(rig);
    }
}

/* ---- links ---- */

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
    struct rig *rig = attached(172);
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
        cmocka_unit_test(test_model_calm),
        cmocka_unit_test(test_model_replicas_come_and_go),
        cmocka_unit_test(test_model_all_links_break),
        cmocka_unit_test(test_model_rot),
        cmocka_unit_test(test_sub_block_writes_of_one_block),
        cmocka_unit_test(test_sub_block_before_whole_block),
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
        cmocka_unit_test(test_one_replica_lost_stalls_nothing),
        cmocka_unit_test(test_fail_after),
        cmocka_unit_test(test_abandoned_requests_get_no_slot),
        cmocka_unit_test(test_no_space),
        cmocka_unit_test(test_space_at_a_majority_and_growing),
        cmocka_unit_test(test_second_front_end_is_told_who_holds_it),
        cmocka_unit_test(test_volume_that_was_never_created),
        cmocka_unit_test(test_majority_lost_and_found_is_said_once),
        cmocka_unit_test(test_fenced),
        cmocka_unit_test(test_back_and_forth),
        cmocka_unit_test(test_foreign_ballot_without_session),
        cmocka_unit_test(test_unplaced_writes_keep_their_order),
        cmocka_unit_test(test_wrong_identity_is_not_used),
        cmocka_unit_test(test_wrong_cluster_is_not_used),
        cmocka_unit_test(test_crash_of_the_front_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
