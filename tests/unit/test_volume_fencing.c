/* The volume session, with the real proposer, the real wire, simulated connections, and replicas made of the real
 * acceptor: another front end takes over, tries to, or comes to nothing. Virtual time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>
#include <errno.h>

#include "tests/unit/volume_harness.h"

/* ---- another front end ---- */

static void test_second_front_end_is_told_who_holds_it(void **state)
{
    struct rig *rig = rig_attached(150);
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

static void partition_first(struct rig *rig, bool on)
{
    for (unsigned i = 0; i < REPLICAS; i++)
        (on ? cut : heal)(rig, 0, i);
}

/* P7: the first front end is cut off, the second takes over, the first comes back: all its requests fail, its clients are dropped, and it waits to attach as somebody new. */
static void test_fenced(void **state)
{
    struct rig *rig = rig_attached(151);
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
    struct rig *rig = rig_attached(152);
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
        struct rig *rig = rig_attached(seed);
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
        struct rig *rig = rig_attached(seed);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_second_front_end_is_told_who_holds_it),
        cmocka_unit_test(test_fenced),
        cmocka_unit_test(test_back_and_forth),
        cmocka_unit_test(test_foreign_ballot_without_session),
        cmocka_unit_test(test_unplaced_writes_keep_their_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
