/* What the front end notes of sampled writes: each slot that is a multiple of TRACE_EVERY once, every replica's acknowledgement of it, and whose made it chosen. Virtual time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "nbdserver/volume_internal.h"
#include "tests/unit/volume_harness.h"

static struct write_trace *trace_of(struct rig *rig)
{
    return &rig->frontend[0].volume->group[0].trace;
}

static uint64_t chosen(struct rig *rig)
{
    return rig->frontend[0].volume->group[0].chosen;
}

static void write_until_slot(struct rig *rig, uint64_t slot)
{
    while (chosen(rig) < slot)
        write_value(rig, chosen(rig) % 64 * BLOCK_SIZE, BLOCK_SIZE, (uint8_t)chosen(rig));
}

static void pass(struct rig *rig, uint64_t ns)
{
    uint64_t until = io_now(rig->frontend[0].reactor) + ns;
    while (io_now(rig->frontend[0].reactor) < until)
        write_value(rig, 0, BLOCK_SIZE, 1);
}

static void test_each_sampled_slot_once(void **state)
{
    struct rig *rig = rig_attached(70);
    struct write_trace *t = trace_of(rig);
    rig->replica[2].durable_ns = (struct sim_range){20 * NS_PER_MS, 20 * NS_PER_MS};
    write_until_slot(rig, 5 * TRACE_EVERY);
    pass(rig, 40 * NS_PER_MS);
    uint64_t n = chosen(rig) / TRACE_EVERY;
    assert_int_equal(t->n, n);
    assert_int_equal(t->prepare.n, n);
    assert_int_equal(t->quorum.n, n);
    assert_int_equal(t->reply.n, n);
    assert_int_equal(t->decided[0] + t->decided[1], n);
    assert_int_equal(t->decided[2], 0); /* nobody waits for the slow one */
    for (uint64_t i = 0; i < 5; i++) {
        const struct write_sample *s = &t->sample[i];
        assert_int_equal(s->slot, (i + 1) * TRACE_EVERY);
        assert_int_equal(s->nblocks, 1);
        assert_true(s->arrived_ns <= s->placed_ns && s->placed_ns < s->chosen_ns && s->chosen_ns <= s->replied_ns);
        uint64_t second = s->acked_ns[0] > s->acked_ns[1] ? s->acked_ns[0] : s->acked_ns[1];
        assert_int_equal(second, s->chosen_ns); /* a majority of three */
        assert_true(s->acked_ns[2] >= s->placed_ns + 20 * NS_PER_MS);
    }
    assert_true(t->ack[2].n >= 5 && t->ack[2].ns / t->ack[2].n >= 20 * NS_PER_MS);
    assert_true(t->quorum.ns / t->quorum.n < 20 * NS_PER_MS);
    rig_free(rig);
}

static void check_status(struct rig *rig, const char *want)
{
    static char json[1 << 16];
    size_t n = volume_status(rig->frontend[0].volume, json, sizeof json - 1);
    json[n] = 0;
    assert_non_null(strstr(json, want));
    assert_null(strstr(json, "does not fit"));
}

/* A replica that is away for longer than samples are kept, and comes back: what is gone is not told, and everything else once. */
static void test_ring_goes_over_what_is_late(void **state)
{
    struct rig *rig = rig_attached(71);
    struct write_trace *t = trace_of(rig);
    write_until_slot(rig, TRACE_EVERY);
    cut(rig, 0, 1);
    write_until_slot(rig, (TRACE_KEPT + 3) * TRACE_EVERY);
    assert_int_equal(t->ack[1].n, 1);
    assert_int_equal(t->ack[0].n, TRACE_KEPT + 3);
    heal(rig, 0, 1);
    pass(rig, 5 * NS_PER_S);
    uint64_t later = chosen(rig) / TRACE_EVERY - (TRACE_KEPT + 3);
    assert_true(t->ack[1].n <= 1 + TRACE_KEPT + later);
    assert_int_equal(t->acked[1], t->n);
    assert_int_equal(t->quorum.n, t->n);
    check_status(rig, "\"trace\":{\"every\":64,");
    check_status(rig, "\"traced_acks\":");
    rig_free(rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_sampled_slot_once),
        cmocka_unit_test(test_ring_goes_over_what_is_late),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
