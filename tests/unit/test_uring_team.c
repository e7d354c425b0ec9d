/* Several reactors of a process: their messages, and connections that go from one to another while bytes flow both ways.
 *
 * Callbacks run in other threads, where cmocka's assertions may not be used: CHECK ends the program. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/uring.h"
#include "tests/unit/uring_fixture.h"

#define CHECK(x)                                                                                                                                    \
    do {                                                                                                                                            \
        if (!(x)) {                                                                                                                                 \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #x);                                                                                 \
            abort();                                                                                                                                \
        }                                                                                                                                           \
    } while (0)

#define MEMBERS 3u

static struct uring_team *team;

static struct reactor *member(unsigned i)
{
    return uring_team_reactor(team, i);
}

static int setup_team(void **state)
{
    struct uring_options opt = {.arena_limit_bytes = 256 << 20, .spin_us = spin_us};
    const char *why = "";
    int err = uring_team_new(MEMBERS, &opt, &team, &why);
    if (err < 0)
        fprintf(stderr, "%s\n", why);
    return err;
}

static int teardown_team(void **state)
{
    uring_team_free(team);
    team = NULL;
    return 0;
}

static void run_team(void);

/* ---- messages ---- */

#define MESSAGES 5000u

static struct numbered {
    struct reactor_msg msg;
    unsigned number, from, to;
} numbered[MEMBERS][MEMBERS][MESSAGES];

static unsigned next_number[MEMBERS][MEMBERS]; /* the receiver's */
static unsigned done_pairs;                    /* the first's */
static struct reactor_msg pair_done[MEMBERS][MEMBERS];

static void on_pair_done(struct reactor_msg *m)
{
    if (++done_pairs == MEMBERS * (MEMBERS - 1))
        member(0)->stopping = true;
}

static void on_numbered(struct reactor_msg *m)
{
    struct numbered *n = container_of(m, struct numbered, msg);
    CHECK(n->number == next_number[n->from][n->to]);
    if (++next_number[n->from][n->to] < MESSAGES)
        return;
    struct reactor_msg *done = &pair_done[n->from][n->to];
    done->fn = on_pair_done;
    if (n->to == 0)
        on_pair_done(done);
    else
        reactor_post(member(n->to), member(0), done);
}

/* All of them at once: many more than a queue holds. */
static int post_all(void *user, unsigned from)
{
    for (unsigned k = 0; k < MESSAGES; k++)
        for (unsigned to = 0; to < MEMBERS; to++) {
            struct numbered *n = &numbered[from][to][k];
            *n = (struct numbered){.msg.fn = on_numbered, .number = k, .from = from, .to = to};
            if (to != from)
                reactor_post(member(from), member(to), &n->msg);
        }
    return 0;
}

static void messages_arrive_once_and_in_order(void **state)
{
    memset(next_number, 0, sizeof next_number);
    done_pairs = 0;
    assert_int_equal(uring_team_each(team, post_all, NULL), 0);
    run_team();
    for (unsigned from = 0; from < MEMBERS; from++)
        for (unsigned to = 0; to < MEMBERS; to++)
            assert_int_equal(next_number[from][to], from == to ? 0 : MESSAGES);
}

/* A ball that wakes each of them from its sleep. */
static struct {
    struct reactor_msg msg;
    unsigned at, throws;
} ball;

static void on_ball(struct reactor_msg *m)
{
    if (++ball.throws == 3001) {
        CHECK(ball.at == 0);
        member(0)->stopping = true;
        return;
    }
    unsigned from = ball.at;
    ball.at = (from + 1) % MEMBERS;
    reactor_post(member(from), member(ball.at), &ball.msg);
}

static void sleepers_are_woken(void **state)
{
    ball.msg.fn = on_ball;
    ball.at = ball.throws = 0;
    on_ball(&ball.msg);
    run_team();
    assert_int_equal(ball.throws, 3001);
}

static int refuse_second(void *user, unsigned i)
{
    *(unsigned *)user += 1;
    return i == 1 ? -EPERM : 0;
}

static void what_fails_on_one_is_told(void **state)
{
    unsigned calls = 0;
    assert_int_equal(uring_team_each(team, refuse_second, &calls), -EPERM);
    assert_int_equal(calls, 2);
}

/* ---- moving ---- */

struct end {
    struct conn *conn;
    uint64_t received, to_receive, queued, to_send, stream_in, stream_out;
    uint64_t seed;
    unsigned moves, moves_max; /* it moves now and then */
    bool closed;
    int err;
    struct reactor_msg told;
    uint8_t fill[3000];
    size_t fill_len;
};

static struct end client_end, server_end;
static unsigned open_ends;
static struct listener *the_listener;
static unsigned break_after; /* the client closes after that many bytes; 0: it waits for all */

static uint64_t draw(struct end *e)
{
    e->seed ^= e->seed << 13;
    e->seed ^= e->seed >> 7;
    e->seed ^= e->seed << 17;
    return e->seed;
}

static void pump(struct end *e)
{
    struct reactor *r = e->conn->reactor;
    while (e->queued < e->to_send && conn_unsent(e->conn) < (1 << 20)) {
        uint64_t left = e->to_send - e->queued;
        size_t n = 1 + draw(e) % (draw(e) % 2 ? 100 : 70000);
        n = n > left ? left : n;
        struct buf *b = buf_alloc_must(r->arena, n);
        pattern_at(b->data, n, e->queued, e->stream_out);
        struct segment seg = {draw(e) % 2 ? b : NULL, b->data, (uint32_t)n};
        conn_send(e->conn, &seg, 1);
        buf_unref(b);
        e->queued += n;
    }
}

/* The client ends it when it has everything and nothing is left to be queued: what is queued is still sent. */
static void maybe_finish(struct end *e)
{
    if (e == &client_end && e->received == e->to_receive && e->queued == e->to_send)
        conn_finish(e->conn);
}

static void on_end_told(struct reactor_msg *m)
{
    if (--open_ends == 0)
        member(0)->stopping = true;
}

static void end_closed(struct conn *c, int err)
{
    struct end *e = c->user;
    CHECK(!e->closed);
    e->closed = true;
    e->err = err;
    e->conn = NULL;
    e->told.fn = on_end_told;
    if (c->reactor->index == 0)
        on_end_told(&e->told);
    else
        reactor_post(c->reactor, member(0), &e->told);
}

static size_t end_data(struct conn *c, const uint8_t *data, size_t len);
static const struct conn_handler end_handler;

static void end_moved(struct conn *c)
{
    struct end *e = c->user;
    CHECK(e->conn == c && !e->closed);
    c->handler = &end_handler;
    conn_set_low_water(c, 256 << 10);
    pump(e);
    maybe_finish(e);
}

static void end_filled(struct conn *c)
{
    struct end *e = c->user;
    CHECK(pattern_is_at(e->fill, e->fill_len, e->received, e->stream_in));
    e->received += e->fill_len;
    maybe_finish(e);
}

static void end_drained(struct conn *c)
{
    pump(c->user);
    maybe_finish(c->user);
}

/* Takes what it likes of what there is; and then, perhaps, goes elsewhere with the rest. */
static size_t end_data(struct conn *c, const uint8_t *data, size_t len)
{
    struct end *e = c->user;
    CHECK(!e->closed && e->conn == c && len > 0);
    size_t take = draw(e) % 3 ? len : draw(e) % (len + 1);
    uint64_t left = e->to_receive - e->received;
    if (left == len || take > left)
        take = len;
    CHECK(pattern_is_at(data, take, e->received, e->stream_in));
    e->received += take;
    left -= take;
    if (e->moves < e->moves_max && draw(e) % 2) {
        e->moves++;
        unsigned to = (c->reactor->index + 1 + (unsigned)(draw(e) % (MEMBERS - 1))) % MEMBERS;
        conn_move(c, member(to), end_moved);
        return take;
    }
    if (left && draw(e) % 4 == 0) {
        e->fill_len = left < sizeof e->fill ? left : sizeof e->fill;
        conn_recv_into(c, e->fill, e->fill_len);
        return take;
    }
    if (e == &client_end && break_after && e->received > break_after)
        conn_close(c);
    else
        maybe_finish(e);
    return take;
}

static void end_open(struct conn *c)
{
}

static const struct conn_handler end_handler = {end_open, end_data, end_filled, end_drained, end_closed};

static void on_accept(struct listener *l, struct conn *c)
{
    c->handler = &end_handler;
    c->user = &server_end;
    server_end.conn = c;
    conn_set_low_water(c, 256 << 10);
    pump(&server_end);
}

static void on_long(struct timer *t)
{
    CHECK(!"nothing happened for 60 s");
}

static void run_team(void)
{
    struct timer watchdog = {.fn = on_long};
    timer_set(member(0), &watchdog, io_now(member(0)) + 60 * NS_PER_S);
    member(0)->stopping = false;
    assert_int_equal(uring_team_run(team), 0);
    timer_cancel(member(0), &watchdog);
}

static void begin_stream(uint64_t bytes, unsigned moves, unsigned close_after)
{
    static uint64_t seed = 0x2545F4914F6CDD1D;
    char address[300];
    snprintf(address, sizeof address, "unix:%s", in_dir("socket"));
    client_end = (struct end){.to_receive = bytes, .to_send = bytes, .stream_in = 1, .stream_out = 2, .seed = seed += 77777, .moves_max = moves};
    server_end = (struct end){.to_receive = bytes, .to_send = bytes, .stream_in = 2, .stream_out = 1, .seed = seed += 99999, .moves_max = moves};
    break_after = close_after;
    open_ends = 2;
    assert_int_equal(io_listen(member(0), address, on_accept, NULL, &the_listener), 0);
    assert_int_equal(io_connect(member(0), address, &end_handler, &client_end, &client_end.conn), 0);
    conn_set_low_water(client_end.conn, 256 << 10);
    pump(&client_end);
}

/* What belongs to nobody any more is given back. */
static void end_stream(void)
{
    listener_close(the_listener);
    member(0)->stopping = true;
    assert_int_equal(uring_team_run(team), 0);
    for (unsigned i = 0; i < MEMBERS; i++)
        assert_int_equal(arena_used_bytes(member(i)->arena), 0);
}

static void streams_survive_moves(void **state)
{
    unsigned moves = 0;
    for (unsigned round = 0; round < 12; round++) {
        begin_stream(round % 3 ? 200000 : 6 << 20, 1 + 30 * (round % 4), 0);
        run_team();
        assert_true(client_end.closed && server_end.closed);
        assert_int_equal(client_end.received, client_end.to_receive);
        assert_int_equal(server_end.received, server_end.to_receive);
        assert_int_equal(server_end.err, 0);
        moves += server_end.moves + client_end.moves;
        end_stream();
    }
    assert_true(moves > 100);
}

/* The other end goes at any moment, also while nobody has the connection: on_closed comes, once, wherever it is then. */
static void connections_may_break_on_their_way(void **state)
{
    for (unsigned round = 0; round < 60; round++) {
        begin_stream(4 << 20, 1000, 1 + round * 5000);
        client_end.moves_max = round % 2 ? 0 : 1000;
        run_team();
        assert_true(client_end.closed && server_end.closed);
        assert_true(server_end.received <= client_end.queued);
        end_stream();
    }
}

/* Everything ends while messages and connections are under way; the sanitizers say whether something of it was lost. */
static void on_enough(struct timer *t)
{
    member(0)->stopping = true;
}

static void a_team_may_end_with_connections_under_way(void **state)
{
    struct timer enough = {.fn = on_enough};
    begin_stream(UINT64_C(1) << 40, 1000000, 0);
    timer_set(member(0), &enough, io_now(member(0)) + 20 * NS_PER_MS);
    run_team();
    timer_cancel(member(0), &enough);
    assert_int_equal(open_ends, 2);
}

static int setup_spinning(void **state)
{
    spin_us = 30;
    return setup_team(state);
}

static int teardown_spinning(void **state)
{
    spin_us = 0;
    return teardown_team(state);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup_team, teardown_team)
#define SPINNING(f) cmocka_unit_test_setup_teardown(f, setup_spinning, teardown_spinning)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(messages_arrive_once_and_in_order),
        TEST(sleepers_are_woken),
        TEST(what_fails_on_one_is_told),
        TEST(streams_survive_moves),
        TEST(connections_may_break_on_their_way),
        TEST(a_team_may_end_with_connections_under_way),
        SPINNING(messages_arrive_once_and_in_order),
        SPINNING(streams_survive_moves),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
