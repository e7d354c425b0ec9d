/* Connections of the io_uring reactor over real unix and TCP sockets: io.h's promises, one by one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>

#include "base/crc32c.h"
#include "base/uring.h"
#include "base/wire.h"
#include "tests/unit/uring_fixture.h"

/* The addresses that every test of streams runs on. */
static const char *address_of(unsigned i)
{
    static char unix_address[300];
    snprintf(unix_address, sizeof unix_address, "unix:%s", in_dir("socket"));
    return i == 0 ? unix_address : i == 1 ? "127.0.0.1:0" : "[::1]:0";
}

/* ---- a peer of these tests ---- */

#define FILL_MAX (512u << 10)

struct peer {
    struct conn *conn;
    uint64_t stream_in, stream_out; /* which pattern comes, and goes */
    uint64_t received, to_receive;
    uint64_t queued, to_send;
    size_t queue_max; /* how much is queued at once; default 1 MiB */
    uint64_t seed;
    uint8_t *fill; /* where conn_recv_into() puts bytes */
    size_t fill_len;
    bool use_fill, use_pause, paused;
    unsigned n_open, n_drained, n_closed;
    int err;
    struct timer unpause;
    void (*when_closed)(struct peer *p);
    void (*when_received)(struct peer *p); /* all of to_receive */
    bool in_call; /* inside one of io.h's calls: no callback may come */
};

static struct peer client, server;
static unsigned open_ends;

static uint64_t next_random(struct peer *p)
{
    p->seed ^= p->seed << 13;
    p->seed ^= p->seed >> 7;
    p->seed ^= p->seed << 17;
    return p->seed;
}

static void check(struct peer *p, const uint8_t *data, size_t n)
{
    if (!pattern_is_at(data, n, p->received, p->stream_in))
        fail_msg("bytes %llu to %llu of the stream are wrong", (unsigned long long)p->received, (unsigned long long)(p->received + n));
    p->received += n;
    if (p->received > p->to_receive)
        fail_msg("more came than was sent");
    if (p->received == p->to_receive && p->when_received)
        p->when_received(p);
}

static void on_unpause(struct timer *t)
{
    struct peer *p = container_of(t, struct peer, unpause);
    p->paused = false;
    p->in_call = true;
    conn_recv_pause(p->conn, false);
    p->in_call = false;
}

static void maybe_pause(struct peer *p)
{
    if (!p->use_pause || next_random(p) % 8)
        return;
    p->paused = true;
    conn_recv_pause(p->conn, true);
    timer_set(reactor, &p->unpause, io_now(reactor) + next_random(p) % (200 * 1000));
}

static size_t peer_on_data(struct conn *c, const uint8_t *data, size_t len)
{
    struct peer *p = c->user;
    assert_false(p->in_call || p->paused);
    assert_ptr_equal(p->conn, c);
    assert_true(len > 0 && len <= CONN_WINDOW);
    /* Sometimes a part only, sometimes nothing until there is more. */
    size_t take = len;
    switch (next_random(p) % 8) {
    case 0:
    case 1:
        take = next_random(p) % (len + 1);
        break;
    case 2:
    case 3:
        take = len == CONN_WINDOW ? 1 : 0;
        break;
    }
    if (p->received + take >= p->to_receive || p->to_receive - p->received == len)
        take = len; /* no more will come that could present the rest again */
    uint64_t before = p->received;
    check(p, data, take);
    uint64_t left = p->to_receive - p->received;
    if (p->use_fill && left && before != p->to_receive && next_random(p) % 2) {
        p->fill_len = 1 + next_random(p) % (next_random(p) % 2 ? 5000 : FILL_MAX);
        if (p->fill_len > left)
            p->fill_len = left;
        p->in_call = true;
        conn_recv_into(c, p->fill, p->fill_len);
        p->in_call = false;
    }
    maybe_pause(p);
    return take;
}

static void peer_on_filled(struct conn *c)
{
    struct peer *p = c->user;
    assert_false(p->in_call || p->paused);
    size_t n = p->fill_len;
    p->fill_len = 0;
    check(p, p->fill, n);
    uint64_t left = p->to_receive - p->received;
    if (left && next_random(p) % 3 == 0) { /* one fill after the other */
        p->fill_len = left < 3000 ? left : 3000;
        conn_recv_into(c, p->fill, p->fill_len);
    }
    maybe_pause(p);
}

/* Keeps about a megabyte in the queue, in pieces of all kinds. */
static void pump(struct peer *p)
{
    uint8_t small[40000];
    while (p->queued < p->to_send && conn_unsent(p->conn) < p->queue_max) {
        uint64_t left = p->to_send - p->queued;
        size_t n;
        p->in_call = true;
        if (next_random(p) % 3) {
            n = 1 + next_random(p) % (next_random(p) % 4 ? 200 : sizeof small);
            n = n > left ? left : n;
            pattern_at(small, n, p->queued, p->stream_out);
            conn_send(p->conn, &(struct segment){.ptr = small, .len = (uint32_t)n}, 1);
            memset(small, 0xee, n); /* it was copied */
        } else {
            n = 1 + next_random(p) % (300 << 10);
            n = n > left ? left : n;
            struct buf *b = buf_alloc_must(reactor->arena, n);
            pattern_at(b->data, n, p->queued, p->stream_out);
            size_t half = n / 2;
            struct segment segs[3] = {{b, b->data, (uint32_t)half}, {.len = 0}, {b, b->data + half, (uint32_t)(n - half)}};
            conn_send(p->conn, segs, 3);
            buf_unref(b);
        }
        p->in_call = false;
        p->queued += n;
    }
}

static void peer_on_drained(struct conn *c)
{
    struct peer *p = c->user;
    assert_false(p->in_call);
    assert_true(conn_unsent(c) < (256 << 10));
    p->n_drained++;
    pump(p);
}

static void peer_on_open(struct conn *c)
{
    struct peer *p = c->user;
    assert_false(p->in_call);
    p->n_open++;
}

static void peer_on_closed(struct conn *c, int err)
{
    struct peer *p = c->user;
    assert_false(p->in_call);
    p->n_closed++;
    p->err = err;
    p->conn = NULL;
    timer_cancel(reactor, &p->unpause);
    if (p->when_closed)
        p->when_closed(p);
    if (--open_ends == 0)
        reactor->stopping = true;
}

static const struct conn_handler peer_handler = {
    .on_open = peer_on_open,
    .on_data = peer_on_data,
    .on_filled = peer_on_filled,
    .on_drained = peer_on_drained,
    .on_closed = peer_on_closed,
};

static void peer_init(struct peer *p, uint64_t seed)
{
    uint8_t *fill = p->fill ? p->fill : aligned_alloc(4096, FILL_MAX);
    *p = (struct peer){.seed = seed, .fill = fill, .queue_max = 1 << 20, .unpause.fn = on_unpause};
}

static struct listener *listener;
static const struct conn_handler *server_handler = &peer_handler;

static void on_accept(struct listener *l, struct conn *c)
{
    assert_ptr_equal(l, listener);
    assert_ptr_equal(l->user, &server);
    assert_true(c->peer[0]);
    c->handler = server_handler;
    c->user = &server;
    server.conn = c;
    conn_set_low_water(c, 256 << 10);
    pump(&server);
}

/* Both ends of a new connection; what the client queues before it is open counts too. */
static void begin(unsigned where)
{
    assert_int_equal(io_listen(reactor, address_of(where), on_accept, &server, &listener), 0);
    client.in_call = true;
    assert_int_equal(io_connect(reactor, listener->address, &peer_handler, &client, &client.conn), 0);
    client.in_call = false;
    assert_string_equal(client.conn->peer, listener->address);
    conn_set_low_water(client.conn, 256 << 10);
    open_ends = 2;
    pump(&client);
}

static void end(void)
{
    listener_close(listener);
    reactor->stopping = true;
    assert_int_equal(uring_reactor_run(reactor), 0);
    assert_int_equal(arena_used_bytes(reactor->arena), 0);
}

static int setup_conns(void **state)
{
    peer_init(&client, 0x1234567);
    peer_init(&server, 0x7654321);
    client.stream_out = server.stream_in = 1;
    client.stream_in = server.stream_out = 2;
    return setup_reactor(state);
}

/* ---- streams ---- */

static void finish_when_both_are_done(struct peer *p)
{
    if (client.received == client.to_receive && server.received == server.to_receive)
        conn_finish(client.conn);
}

static void large_streams_flow_both_ways(void **state)
{
    for (unsigned where = 0; where < 3; where++) {
        for (unsigned kind = 0; kind < 4; kind++) {
            uint64_t bytes = 3 << 20;
            client.received = client.queued = server.received = server.queued = 0;
            client.to_send = server.to_receive = bytes;
            server.to_send = client.to_receive = bytes / 2 + 12345;
            client.use_fill = server.use_fill = kind & 1;
            client.use_pause = server.use_pause = kind & 2;
            client.when_received = server.when_received = finish_when_both_are_done;
            client.n_open = client.n_closed = server.n_closed = 0;
            begin(where);
            run();
            assert_int_equal(client.n_open, 1);
            assert_int_equal(client.n_closed, 1);
            assert_int_equal(client.err, -ECANCELED);
            assert_int_equal(server.n_closed, 1);
            assert_int_equal(server.err, 0);
            assert_true(server.received == bytes && client.received == bytes / 2 + 12345);
            assert_true(client.n_drained > 0 && server.n_drained > 0);
            end();
        }
    }
}

/* More than the sockets hold: the kernel has a send of ours while more is queued, and takes parts of it. */
static void what_the_socket_does_not_take_is_sent_later(void **state)
{
    for (unsigned where = 0; where < 3; where++) {
        for (unsigned kind = 0; kind < 2; kind++) {
            client.received = client.queued = server.received = server.queued = 0;
            client.queue_max = server.queue_max = 12 << 20;
            client.to_send = server.to_receive = 24 << 20;
            server.to_send = client.to_receive = 13 << 20;
            client.use_pause = server.use_pause = kind;
            client.use_fill = server.use_fill = true;
            client.when_received = server.when_received = finish_when_both_are_done;
            begin(where);
            run();
            assert_int_equal(client.err, -ECANCELED);
            assert_int_equal(server.err, 0);
            assert_true(server.received == 24 << 20 && client.received == 13 << 20);
            end();
        }
    }
}

/* ---- finish and close ---- */

static void finish_sends_everything_first(void **state)
{
    for (unsigned where = 0; where < 3; where++) {
        client.received = client.queued = server.received = server.queued = 0;
        client.to_send = server.to_receive = 900 << 10; /* under a megabyte: all is queued at once */
        /* The server sends what nobody will take: the client wants nothing more, and loses nothing of its own by that. */
        server.to_send = 4096;
        client.to_receive = 4096;
        begin(where);
        assert_true(client.queued == client.to_send);
        conn_finish(client.conn);
        run();
        assert_true(server.received == 900 << 10);
        assert_int_equal(server.err, 0);
        assert_int_equal(client.err, -ECANCELED);
        assert_true(client.received == 0);
        end();
    }
}

static void close_drops_what_is_unsent(void **state)
{
    for (unsigned where = 0; where < 3; where++) {
        client.received = client.queued = server.received = server.queued = 0;
        client.n_closed = server.n_closed = 0;
        client.paused = false;
        client.to_send = server.to_receive = 64 << 20;
        server.to_send = client.to_receive = 64 << 20;
        server.use_fill = client.use_fill = true;
        begin(where);
        /* Closes in the middle of everything: both queues full, a receive and a send in the kernel's hands. */
        for (unsigned i = 0; i < 8; i++) {
            reactor->stopping = true; /* one turn */
            assert_int_equal(uring_reactor_run(reactor), 0);
        }
        client.in_call = true;
        conn_close(client.conn);
        client.in_call = false;
        client.paused = true; /* nothing but on_closed from here on: peer_on_data would fail */
        assert_int_equal(client.n_closed, 0);
        assert_int_equal(conn_unsent(client.conn), 0);
        conn_close(client.conn); /* twice is once */
        run();
        assert_int_equal(client.n_closed, 1);
        assert_int_equal(client.err, -ECANCELED);
        assert_int_equal(server.n_closed, 1);
        assert_true(server.err != -ECANCELED);
        end();
    }
}

static void stop_soon(struct timer *t)
{
    reactor->stopping = true;
}

static void run_for(uint64_t ns)
{
    struct timer t = {.fn = stop_soon};
    timer_set(reactor, &t, io_now(reactor) + ns);
    run();
}

/* The server reads nothing: the client's send and its fill stay with the kernel, until it closes. */
static void close_takes_back_what_the_kernel_has(void **state)
{
    for (unsigned where = 0; where < 3; where++) {
        client.received = client.queued = server.received = server.queued = 0;
        client.to_send = 64 << 20;
        server.to_receive = 64 << 20;
        begin(where);
        run_for(5 * NS_PER_MS);
        assert_non_null(server.conn);
        conn_recv_pause(server.conn, true);
        server.paused = true;
        for (uint64_t queued = 0; queued != client.queued;) { /* until the sockets are full */
            queued = client.queued;
            run_for(20 * NS_PER_MS);
        }
        assert_true(conn_unsent(client.conn) > 0);
        /* A fill that will not be served. */
        conn_recv_into(client.conn, client.fill, FILL_MAX);
        run_for(5 * NS_PER_MS);
        conn_close(client.conn);
        run_for(20 * NS_PER_MS);
        assert_null(client.conn);
        /* References on unsent buffers were dropped by then; the server's side holds none. */
        assert_int_equal(arena_used_bytes(reactor->arena), 0);
        free(client.fill);
        client.fill = aligned_alloc(4096, FILL_MAX);
        conn_close(server.conn);
        run();
        server.paused = false;
        end();
    }
}

static void paused_peers_hear_nothing(void **state)
{
    client.to_send = server.to_receive = 100000;
    begin(0);
    run_for(NS_PER_MS / 10);
    while (!server.conn)
        run_for(NS_PER_MS);
    conn_recv_pause(server.conn, true);
    server.paused = true;
    conn_finish(client.conn);
    run_for(10 * NS_PER_MS);
    uint64_t before = server.received;
    run_for(10 * NS_PER_MS);
    assert_true(server.received == before);
    assert_int_equal(server.n_closed, 0); /* the end comes after what came before it */
    server.paused = false;
    conn_recv_pause(server.conn, false);
    assert_true(server.received == before); /* not from inside the call */
    run();
    assert_true(server.received == 100000);
    assert_int_equal(server.err, 0);
    end();
}

static size_t takes_nothing(struct conn *c, const uint8_t *data, size_t len)
{
    return 0;
}

static void what_never_fits_the_window_ends_the_connection(void **state)
{
    static const struct conn_handler stubborn = {.on_data = takes_nothing, .on_closed = peer_on_closed};
    client.to_send = 4 << 20;
    server_handler = &stubborn;
    begin(0);
    run();
    server_handler = &peer_handler;
    assert_int_equal(server.err, -EMSGSIZE);
    assert_true(client.err != 0);
    end();
}

static void close_in_on_data(struct peer *p)
{
    conn_close(p->conn);
    conn_send(p->conn, &(struct segment){.ptr = "x", .len = 1}, 1); /* goes nowhere */
    conn_finish(p->conn);
    p->paused = true;
}

static void a_handler_may_close_in_a_callback(void **state)
{
    client.to_send = server.to_receive = 5000;
    server.when_received = close_in_on_data;
    begin(1);
    run();
    assert_int_equal(server.err, -ECANCELED);
    assert_int_equal(server.n_closed, 1);
    assert_int_equal(client.n_closed, 1);
    server.paused = false;
    end();
}

static void close_on_accept(struct listener *l, struct conn *c)
{
    c->handler = &peer_handler;
    c->user = &server;
    server.conn = c;
    conn_close(c);
}

static void an_acceptor_may_refuse(void **state)
{
    assert_int_equal(io_listen(reactor, address_of(0), close_on_accept, &server, &listener), 0);
    assert_int_equal(io_connect(reactor, listener->address, &peer_handler, &client, &client.conn), 0);
    open_ends = 2;
    run();
    assert_int_equal(server.err, -ECANCELED);
    assert_int_equal(client.n_closed, 1);
    end();
}

/* What a peer said before it went away is heard, though our own sends to it fail. */
static void last_words_are_heard(void **state)
{
    for (unsigned where = 0; where < 2; where++) {
        client.received = client.queued = server.received = server.queued = 0;
        client.to_send = 0;
        server.to_send = client.to_receive = 60000;
        begin(where);
        conn_recv_pause(client.conn, true);
        client.paused = true;
        while (!server.conn || conn_unsent(server.conn))
            run_for(NS_PER_MS);
        conn_finish(server.conn);
        run_for(10 * NS_PER_MS);
        if (where == 0) { /* over TCP, the reset that follows takes unread bytes with it: that is TCP's */
            conn_close(server.conn);
            run_for(10 * NS_PER_MS);
            uint8_t word[1000] = {0};
            conn_send(client.conn, &(struct segment){.ptr = word, .len = sizeof word}, 1);
            run_for(10 * NS_PER_MS);
        }
        client.paused = false;
        conn_recv_pause(client.conn, false);
        run();
        assert_true(client.received == 60000);
        end();
    }
}

/* A plain socket, connected to the listener. */
static int raw_client(void)
{
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    snprintf(un.sun_path, sizeof un.sun_path, "%s", in_dir("socket"));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&un, sizeof un), 0);
    return fd;
}

static void accept_client(struct listener *l, struct conn *c)
{
    c->handler = &peer_handler;
    c->user = &client;
    client.conn = c;
}

static void peers_that_never_end_are_not_waited_for(void **state)
{
    struct listener *second;
    char second_address[300];
    uint8_t text[100];
    assert_int_equal(io_listen(reactor, address_of(0), on_accept, &server, &listener), 0);
    int quiet = raw_client();
    while (!server.conn)
        run_for(NS_PER_MS);
    rename(in_dir("socket"), in_dir("socket1"));
    snprintf(second_address, sizeof second_address, "unix:%s", in_dir("socket"));
    assert_int_equal(io_listen(reactor, second_address, accept_client, NULL, &second), 0);
    int deaf = raw_client();
    while (!client.conn)
        run_for(NS_PER_MS);
    open_ends = 2;

    /* One is finished, and its peer neither closes nor reads at first. */
    server.to_send = 100;
    pump(&server);
    conn_finish(server.conn);
    /* The other takes nothing any more, and says something still. */
    assert_int_equal(shutdown(deaf, SHUT_RD), 0);
    conn_send(client.conn, &(struct segment){.ptr = "x", .len = 1}, 1);
    run_for(5 * NS_PER_MS);
    assert_int_equal(client.n_closed, 0);
    assert_int_equal(conn_unsent(client.conn), 0);
    client.to_receive = 100;
    pattern(text, sizeof text, client.stream_in);
    assert_int_equal(send(deaf, text, sizeof text, 0), sizeof text);
    run();
    assert_true(client.received == 100);
    assert_int_equal(client.err, -EPIPE);
    assert_int_equal(server.err, -ECANCELED);
    assert_int_equal(recv(quiet, text, sizeof text, 0), 100);
    assert_int_equal(recv(quiet, text, sizeof text, 0), 0);
    close(quiet);
    close(deaf);
    listener_close(second);
    unlink(in_dir("socket1"));
    end();
}

/* ---- connecting and listening ---- */

static int connect_result(const char *address)
{
    peer_init(&client, 1);
    open_ends = 1;
    int r = io_connect(reactor, address, &peer_handler, &client, &client.conn);
    if (r < 0)
        return r;
    run();
    assert_int_equal(client.n_open, 0);
    return client.err;
}

static void connecting_to_nobody_is_told(void **state)
{
    char address[300], taken[112];
    snprintf(address, sizeof address, "unix:%s", in_dir("nobody"));
    assert_int_equal(connect_result(address), -ENOENT);
    assert_int_equal(io_listen(reactor, "127.0.0.1:0", on_accept, &server, &listener), 0);
    snprintf(taken, sizeof taken, "%s", listener->address);
    listener_close(listener);
    assert_int_equal(connect_result(taken), -ECONNREFUSED);
    static const char *const bad[] = {"", "unix:", "x", "host", ":1", "1.2.3.4", "1.2.3.4:", "1.2.3.4:0", "1.2.3.4:65536", "1.2.3.4:1x",
                                      "1.2.3.4:-1", "::1:5", "[::1]", "[::1:5", "[]:5", "[x]:5", "1.2.3.4:123456"};
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
        int r = connect_result(bad[i]);
        if (r != -EINVAL)
            fail_msg("\"%s\": %d", bad[i], r);
    }
    char longer[200];
    memset(longer, 'x', sizeof longer);
    memcpy(longer, "unix:", 5);
    longer[199] = 0;
    assert_int_equal(connect_result(longer), -ENAMETOOLONG);
}

static void a_connection_that_is_not_there_yet_may_be_closed(void **state)
{
    /* A listener with a full queue, which nobody accepts from: connecting waits. */
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    snprintf(un.sun_path, sizeof un.sun_path, "%s", in_dir("full"));
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&un, sizeof un), 0);
    assert_int_equal(listen(fd, 0), 0);
    char address[300];
    snprintf(address, sizeof address, "unix:%s", un.sun_path);
    struct peer p[4] = {0};
    for (unsigned i = 0; i < 4; i++) {
        p[i].unpause.fn = on_unpause;
        assert_int_equal(io_connect(reactor, address, &peer_handler, &p[i], &p[i].conn), 0);
    }
    open_ends = 4;
    run_for(10 * NS_PER_MS);
    assert_int_equal(p[3].n_open, 0);
    for (unsigned i = 0; i < 4; i++)
        conn_close(p[i].conn);
    run();
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(p[i].err, -ECANCELED);
    close(fd);
}

static void names_are_looked_up(void **state)
{
    assert_int_equal(io_listen(reactor, "127.0.0.1:0", on_accept, &server, &listener), 0);
    char address[128];
    snprintf(address, sizeof address, "localhost:%s", strrchr(listener->address, ':') + 1);
    client.to_send = server.to_receive = 1000;
    int r = io_connect(reactor, address, &peer_handler, &client, &client.conn);
    if (r < 0) {
        end();
        print_message("SKIP: localhost has no address on this machine\n");
        skip();
    }
    open_ends = 2;
    pump(&client);
    conn_finish(client.conn);
    run(); /* where localhost is ::1 too, the second address is tried */
    assert_true(server.received == 1000);
    end();
}

static void listeners_replace_stale_sockets_and_no_others(void **state)
{
    struct listener *second;
    const char *address = address_of(0);
    assert_int_equal(io_listen(reactor, address, on_accept, &server, &listener), 0);
    assert_string_equal(listener->address, address);
    assert_int_equal(io_listen(reactor, address, on_accept, &server, &second), -EADDRINUSE);
    listener_close(listener);
    struct stat st;
    assert_int_equal(lstat(in_dir("socket"), &st), -1); /* gone with its listener */

    struct sockaddr_un un = {.sun_family = AF_UNIX};
    snprintf(un.sun_path, sizeof un.sun_path, "%s", in_dir("socket"));
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&un, sizeof un), 0);
    close(fd); /* as a killed daemon leaves it */
    assert_int_equal(io_listen(reactor, address, on_accept, &server, &listener), 0);
    /* Somebody else's file under that name stays. */
    unlink(un.sun_path);
    FILE *f = fopen(un.sun_path, "w");
    fclose(f);
    assert_int_equal(io_listen(reactor, address, on_accept, &server, &second), -EADDRINUSE);
    listener_close(listener);
    assert_int_equal(lstat(un.sun_path, &st), 0);
    unlink(un.sun_path);

    assert_int_equal(io_listen(reactor, "127.0.0.1:0", on_accept, &server, &listener), 0);
    assert_null(strstr(listener->address, ":0"));
    assert_int_equal(io_listen(reactor, listener->address, on_accept, &server, &second), -EADDRINUSE);
    listener_close(listener);
    assert_int_equal(io_listen(reactor, "nonsense", on_accept, &server, &second), -EINVAL);
    run_for(NS_PER_MS);
}

/* A killed daemon's ring, and the listener in it, goes a moment after its process. */
static void listeners_wait_for_one_that_is_dying(void **state)
{
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    snprintf(un.sun_path, sizeof un.sun_path, "%s", in_dir("dying"));
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&un, sizeof un), 0);
    assert_int_equal(listen(fd, 8), 0);
    pid_t pid = fork();
    if (pid == 0) {
        nanosleep(&(struct timespec){.tv_nsec = 100 * NS_PER_MS}, NULL);
        _exit(0);
    }
    close(fd);
    char address[sizeof un.sun_path + 8];
    snprintf(address, sizeof address, "unix:%s", un.sun_path);
    assert_int_equal(io_listen(reactor, address, on_accept, &server, &listener), 0);
    listener_close(listener);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    run_for(NS_PER_MS);
}

/* ---- the end of a reactor ---- */

static void a_reactor_may_be_freed_with_open_connections(void **state)
{
    client.to_send = server.to_receive = 64 << 20;
    begin(1);
    run_for(NS_PER_MS);
    client.in_call = server.in_call = true; /* nobody is called any more */
    teardown_reactor(state);
    assert_int_equal(client.n_closed + server.n_closed, 0);
}

/* ---- frames over sockets ---- */

struct wire_end {
    struct wire_peer peer;
    unsigned n;
    bool closed;
};

static struct wire_end near_end, far_end;
#define FRAMES 400

static struct entry *nth_entry(unsigned n)
{
    uint32_t nblocks = n % 7 == 0 ? ENTRY_MAX_BLOCKS : 1 + n % 5;
    struct buf *b = buf_alloc_must(reactor->arena, nblocks * BLOCK_SIZE);
    pattern(b->data, nblocks * BLOCK_SIZE, n);
    struct entry *e = entry_new(reactor->arena, ENTRY_WRITE, n, nblocks, b, 0);
    assert_non_null(e);
    e->group = 1;
    e->slot = n + 1;
    e->e = (struct ballot){1, {{1}}};
    for (uint32_t i = 0; i < nblocks; i++)
        entry_crcs(e)[i] = crc32c(entry_block_data(e, i), BLOCK_SIZE);
    return e;
}

static void send_accept(struct wire_peer *p, unsigned n)
{
    struct msg m = {.type = MSG_ACCEPT, .group = 1, .cookie = n};
    m.u.accept.entry = nth_entry(n);
    wire_peer_send(p, &m);
    entry_unref(m.u.accept.entry);
}

static void far_on_msg(struct wire_peer *p, const struct msg *m, struct buf *payload)
{
    assert_int_equal(m->type, MSG_ACCEPT);
    const struct entry *e = m->u.accept.entry;
    assert_int_equal(e->slot, far_end.n + 1);
    assert_true(pattern_is_at(entry_block_data(e, 0), entry_payload_bytes(e), 0, far_end.n));
    far_end.n++;
    struct msg answer = {.type = MSG_ACCEPTED, .group = 1, .cookie = m->cookie};
    answer.u.accepted.through = e->slot;
    wire_peer_send(p, &answer);
}

static void near_on_msg(struct wire_peer *p, const struct msg *m, struct buf *payload)
{
    assert_int_equal(m->u.accepted.through, ++near_end.n);
    if (near_end.n + 8 <= FRAMES)
        send_accept(p, near_end.n + 7);
    if (near_end.n == FRAMES)
        wire_peer_refuse(p, "that was all");
}

static void wire_on_open(struct wire_peer *p)
{
    for (unsigned i = 0; i < 8; i++)
        send_accept(p, i);
}

static void wire_on_closed(struct wire_peer *p, int err, const char *reason)
{
    struct wire_end *e = p->user;
    assert_null(reason);
    e->closed = true;
    if (near_end.closed && far_end.closed)
        reactor->stopping = true;
}

static bool heard_refusal;

static void far_on_any(struct wire_peer *p, const struct msg *m, struct buf *payload)
{
    if (m->type == MSG_REFUSED) {
        assert_string_equal(m->u.refused.reason, "that was all");
        heard_refusal = true;
    } else {
        far_on_msg(p, m, payload);
    }
}

static const struct wire_handler near_handler = {.on_open = wire_on_open, .on_msg = near_on_msg, .on_closed = wire_on_closed};
static const struct wire_handler far_handler = {.on_msg = far_on_any, .on_closed = wire_on_closed};

static void wire_on_accept(struct listener *l, struct conn *c)
{
    far_end.peer.verify_payload = true;
    wire_peer_accept(&far_end.peer, c, &far_handler, &far_end);
}

static void frames_travel_over_sockets(void **state)
{
    for (unsigned where = 0; where < 3; where++) {
        memset(&near_end, 0, sizeof near_end);
        memset(&far_end, 0, sizeof far_end);
        heard_refusal = false;
        assert_int_equal(io_listen(reactor, address_of(where), wire_on_accept, NULL, &listener), 0);
        assert_int_equal(wire_peer_connect(&near_end.peer, reactor, listener->address, &near_handler, &near_end), 0);
        run();
        assert_int_equal(near_end.n, FRAMES);
        assert_int_equal(far_end.n, FRAMES);
        assert_true(heard_refusal);
        end();
    }
}

static int setup_spinning(void **state)
{
    spin_us = 30;
    return setup_conns(state);
}

static int teardown_spinning(void **state)
{
    spin_us = 0;
    return teardown_reactor(state);
}

static int free_peers(void **state)
{
    free(client.fill);
    free(server.fill);
    return remove_dir(state);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup_conns, teardown_reactor)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(large_streams_flow_both_ways),
        TEST(what_the_socket_does_not_take_is_sent_later),
        TEST(finish_sends_everything_first),
        TEST(close_drops_what_is_unsent),
        TEST(close_takes_back_what_the_kernel_has),
        TEST(paused_peers_hear_nothing),
        TEST(what_never_fits_the_window_ends_the_connection),
        TEST(a_handler_may_close_in_a_callback),
        TEST(an_acceptor_may_refuse),
        TEST(last_words_are_heard),
        TEST(peers_that_never_end_are_not_waited_for),
        TEST(connecting_to_nobody_is_told),
        TEST(a_connection_that_is_not_there_yet_may_be_closed),
        TEST(names_are_looked_up),
        TEST(listeners_replace_stale_sockets_and_no_others),
        TEST(listeners_wait_for_one_that_is_dying),
        TEST(a_reactor_may_be_freed_with_open_connections),
        TEST(frames_travel_over_sockets),
        cmocka_unit_test_setup_teardown(frames_travel_over_sockets, setup_spinning, teardown_spinning),
    };
    return cmocka_run_group_tests(tests, make_dir, free_peers);
}
