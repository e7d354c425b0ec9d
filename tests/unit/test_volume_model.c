/* The volume session, with the real proposer, the real wire, simulated connections, and replicas made of the real
 * acceptor: many overlapping requests at once against a model of what each byte may be, in any order of completion,
 * while replicas come and go and rot. Virtual time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "tests/unit/byte_history.h"
#include "tests/unit/volume_harness.h"

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

static void run_load(uint64_t seed, unsigned phases, unsigned max_open, void (*fault)(struct load *))
{
    struct load *l = calloc(1, sizeof *l);
    assert_non_null(l);
    l->rig = rig_attached(seed);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_model_calm),
        cmocka_unit_test(test_model_replicas_come_and_go),
        cmocka_unit_test(test_model_all_links_break),
        cmocka_unit_test(test_model_rot),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
