/* The simulator's processes of several reactors: messages, and connections that go from one to another. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "tests/sim/simio.h"

#define MIB (1u << 20)
#define ADDRESS "127.0.0.1:7000"
#define MEMBERS 3

struct world;

struct end {
    struct world *world;
    struct conn *conn;
    uint64_t received, sent;
    bool closed, on_its_way;
    int err;
    unsigned moves, move_one_in;
};

struct world {
    struct sim_world *w;
    struct sim_reactor *a, *b[MEMBERS]; /* a connects; b's process listens with its first */
    struct listener *listener;
    struct end client, server;
    unsigned crash_one_in; /* b's process ends in a callback */
    bool crashed;
};

static uint8_t stream_byte(uint64_t i)
{
    return (uint8_t)(i * 131 + (i >> 8) * 7 + (i >> 16));
}

static void end_open(struct conn *c)
{
}

static void end_moved(struct conn *c);

static size_t end_data(struct conn *c, const uint8_t *data, size_t len)
{
    struct end *e = c->user;
    struct world *x = e->world;
    assert_true(!e->closed && !e->on_its_way && e->conn == c);
    size_t take = sim_chance(x->w, 3) ? (size_t)(sim_rand(x->w) % (len + 1)) : len;
    for (size_t i = 0; i < take; i++)
        if (data[i] != stream_byte(e->received + i))
            fail_msg("byte %llu is wrong", (unsigned long long)(e->received + i));
    e->received += take;
    if (sim_chance(x->w, e->move_one_in)) {
        unsigned to = (c->reactor->index + 1 + (unsigned)(sim_rand(x->w) % (MEMBERS - 1))) % MEMBERS;
        e->moves++;
        e->on_its_way = true;
        conn_move(c, sim_reactor_io(x->b[to]), end_moved);
    } else if (sim_chance(x->w, x->crash_one_in)) {
        x->crashed = true;
        sim_reactor_crash(x->b[sim_rand(x->w) % MEMBERS], sim_chance(x->w, 2) ? SIM_POWER : SIM_KILL);
    }
    return take;
}

static void end_closed(struct conn *c, int err)
{
    struct end *e = c->user;
    assert_true(!e->closed && !e->on_its_way);
    e->closed = true;
    e->err = err;
}

static const struct conn_handler end_handler = {.on_open = end_open, .on_data = end_data, .on_closed = end_closed};

/* Half of it by reference, half copied. */
static void send_stream(struct end *e, size_t len)
{
    struct arena *arena = e->conn->reactor->arena;
    while (len > 0) {
        uint32_t part = (uint32_t)(1 + sim_rand(e->world->w) % 50000);
        part = part > len ? (uint32_t)len : part;
        struct buf *b = buf_alloc_must(arena, part);
        for (uint32_t i = 0; i < part; i++)
            b->data[i] = stream_byte(e->sent + i);
        struct segment seg[2] = {{b, b->data, part / 2}, {NULL, b->data + part / 2, part - part / 2}};
        conn_send(e->conn, seg, 2);
        buf_unref(b);
        e->sent += part;
        len -= part;
    }
}

static void end_moved(struct conn *c)
{
    struct end *e = c->user;
    assert_true(e->on_its_way && e->conn == c);
    e->on_its_way = false;
    c->handler = &end_handler;
    send_stream(e, sim_rand(e->world->w) % 30000);
}

static void on_accept(struct listener *l, struct conn *c)
{
    struct world *x = l->user;
    c->handler = &end_handler;
    c->user = &x->server;
    x->server.conn = c;
    send_stream(&x->server, 700000); /* more than a pipe holds */
}

static struct world *world_new(uint64_t seed)
{
    struct world *x = calloc(1, sizeof *x);
    assert_non_null(x);
    x->w = sim_world_new(seed);
    x->a = sim_reactor_new(x->w, "a", 64 * MIB);
    x->b[0] = sim_reactor_new(x->w, "b", 64 * MIB);
    for (unsigned i = 1; i < MEMBERS; i++) {
        x->b[i] = sim_reactor_another(x->b[0], 64 * MIB);
        assert_int_equal(sim_reactor_io(x->b[i])->index, i);
    }
    x->client.world = x->server.world = x;
    x->server.move_one_in = 3;
    assert_int_equal(io_listen(sim_reactor_io(x->b[0]), ADDRESS, on_accept, x, &x->listener), 0);
    assert_int_equal(io_connect(sim_reactor_io(x->a), ADDRESS, &end_handler, &x->client, &x->client.conn), 0);
    send_stream(&x->client, 2 * MIB);
    return x;
}

static void world_free(struct world *x)
{
    sim_world_free(x->w);
    free(x);
}

static void streams_survive_moves(void **state)
{
    for (uint64_t seed = 0; seed < 40; seed++) {
        struct world *x = world_new(seed);
        sim_run_for(x->w, 20 * NS_PER_S);
        x->server.move_one_in = 0;
        send_stream(&x->client, 1); /* what was left unconsumed is presented with it, whole */
        for (unsigned i = 0; i < 30; i++) {
            sim_run_for(x->w, 50 * NS_PER_MS);
            send_stream(&x->client, 1);
            send_stream(&x->server, 1);
        }
        sim_run_for(x->w, NS_PER_S);
        assert_true(x->server.moves > 0 && !x->server.closed && !x->client.closed);
        assert_true(x->client.sent - x->server.received < 30 && x->server.sent - x->client.received < 30);
        for (unsigned i = 0; i < MEMBERS; i++)
            assert_int_equal(arena_used_bytes(sim_reactor_io(x->b[i])->arena), 0);
        for (unsigned i = 0; i < MEMBERS; i++)
            sim_reactor_free(x->b[i]);
        world_free(x);
    }
}

static bool is_on_its_way(void *user)
{
    return ((struct world *)user)->server.on_its_way;
}

/* Whatever ends it while nobody has it: its new owner hears so, once. */
static void a_connection_may_break_on_its_way(void **state)
{
    unsigned reset = 0, orderly = 0;
    for (uint64_t seed = 0; seed < 60; seed++) {
        struct world *x = world_new(seed);
        assert_true(sim_run_until(x->w, is_on_its_way, x, 10 * NS_PER_S));
        x->server.move_one_in = seed % 2 ? 2 : 0;
        if (seed % 3 == 0)
            sim_reset(x->w, "a", "b");
        else if (seed % 3 == 1)
            conn_close(x->client.conn);
        else
            sim_break(x->w, "b", "a");
        sim_run_for(x->w, 30 * NS_PER_S);
        assert_true(x->server.closed && x->client.closed);
        reset += x->server.err == -ECONNRESET;
        orderly += x->server.err == 0;
        world_free(x);
    }
    assert_true(reset > 0 && orderly + reset == 60);
}

/* One of them ends, so all do: with a connection on its way, or in the hands of another. */
static void a_process_dies_as_a_whole(void **state)
{
    for (uint64_t seed = 0; seed < 60; seed++) {
        struct world *x = world_new(seed);
        if (seed % 2) {
            x->crash_one_in = 20;
            sim_run_for(x->w, 30 * NS_PER_S);
        } else {
            assert_true(sim_run_until(x->w, is_on_its_way, x, 10 * NS_PER_S));
            sim_reactor_crash(x->b[seed % MEMBERS], SIM_KILL);
            x->crashed = true;
        }
        if (x->crashed) {
            uint64_t received = x->server.received;
            x->b[0] = sim_reactor_new(x->w, "b", MIB); /* after a power cut somebody must be there to say that nobody is */
            if (!x->client.closed)
                send_stream(&x->client, 1);
            sim_run_for(x->w, 60 * NS_PER_S);
            assert_true(x->client.closed && !x->server.closed); /* the dead hear nothing */
            assert_int_equal(x->server.received, received);
        }
        world_free(x);
    }
}

static void a_paused_process_is_paused_as_a_whole(void **state)
{
    struct world *x = world_new(3);
    assert_true(sim_run_until(x->w, is_on_its_way, x, 10 * NS_PER_S));
    sim_pause(x->b[0]);
    sim_run_for(x->w, NS_PER_S);
    assert_true(x->server.on_its_way);
    uint64_t received = x->server.received;
    sim_resume(x->b[0]);
    sim_run_for(x->w, 10 * NS_PER_S);
    assert_true(x->server.received > received);
    world_free(x);
}

/* ---- messages ---- */

struct numbered {
    struct reactor_msg msg;
    unsigned number;
    unsigned *next;
};

static void on_numbered(struct reactor_msg *m)
{
    struct numbered *n = container_of(m, struct numbered, msg);
    assert_int_equal(n->number, (*n->next)++);
}

static void messages_arrive_in_order_and_after_a_while(void **state)
{
    struct sim_world *w = sim_world_new(1);
    struct sim_reactor *r = sim_reactor_new(w, "a", MIB), *s = sim_reactor_another(r, MIB);
    static struct numbered m[200];
    unsigned next = 0;
    for (unsigned i = 0; i < ARRAY_LEN(m); i++) {
        m[i] = (struct numbered){.msg.fn = on_numbered, .number = i, .next = &next};
        reactor_post(sim_reactor_io(r), sim_reactor_io(s), &m[i].msg);
        assert_int_equal(next, 0); /* never from inside the call */
    }
    sim_run_for(w, NS_PER_MS);
    assert_int_equal(next, ARRAY_LEN(m));
    for (unsigned i = 0; i < ARRAY_LEN(m); i++)
        reactor_post(sim_reactor_io(s), sim_reactor_io(r), &m[i].msg);
    sim_reactor_crash(s, SIM_KILL);
    sim_run_for(w, NS_PER_S);
    assert_int_equal(next, ARRAY_LEN(m)); /* the dead hear nothing */
    sim_world_free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(messages_arrive_in_order_and_after_a_while),
        cmocka_unit_test(streams_survive_moves),
        cmocka_unit_test(a_connection_may_break_on_its_way),
        cmocka_unit_test(a_process_dies_as_a_whole),
        cmocka_unit_test(a_paused_process_is_paused_as_a_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
