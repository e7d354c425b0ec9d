/* An NBD server whose exports live in memory: the NBD side alone, on the real event loop, for real clients to try.
 *
 *   nbd_memory_server LISTEN SIZE_BYTES [MAX_DELAY_US]
 *
 * LISTEN as in base/io.h (unix:PATH, HOST:PORT). Exports: "memory" (the default; requests complete in random order
 * after up to MAX_DELAY_US), "other" (the same, smaller) and "readonly". Prints "ready ADDRESS" when it serves; SIGTERM
 * ends it when all requests under way are answered. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/uring.h"
#include "nbdserver/nbd_conn.h"
#include "tests/nbd/memory_export.h"

#define N_EXPORTS 3

static struct nbd_server server;
static struct memory_export exports[N_EXPORTS];
static struct listener *listener;

static void on_accept(struct listener *l, struct conn *c)
{
    nbd_server_accept(&server, c);
}

/* Requests of clients that went away may still be under way in the exports when the last connection is gone: they are waited for, up to a limit. */
#define SETTLE_NS (5 * NS_PER_S)
static uint64_t settle_until_ns;
static struct timer settle_timer;

static void settle(struct timer *t)
{
    uint64_t now = io_now(server.reactor);
    if (server.requests_out == 0 || now >= settle_until_ns)
        server.reactor->stopping = true;
    else
        timer_set(server.reactor, t, now + NS_PER_MS);
}

static void on_drained(struct nbd_server *s)
{
    settle_timer.fn = settle;
    settle_until_ns = io_now(s->reactor) + SETTLE_NS;
    settle(&settle_timer);
}

static void on_signal(int signo, void *user)
{
    if (server.shutting_down) {
        server.reactor->stopping = true;
        return;
    }
    listener_close(listener);
    nbd_server_shutdown(&server, on_drained);
}

static void make_exports(struct reactor *r, uint64_t size_bytes, uint64_t max_delay_ns)
{
    static const char *const names[N_EXPORTS] = {"memory", "other", "readonly"};
    static struct export *list[N_EXPORTS];
    for (int i = 0; i < N_EXPORTS; i++) {
        memory_export_init(&exports[i], r, names[i], i == 0 ? size_bytes : size_bytes / 2 + 513);
        exports[i].mode = max_delay_ns ? MEMORY_RANDOM : MEMORY_AT_ONCE;
        exports[i].max_delay_ns = max_delay_ns;
        list[i] = &exports[i].x;
    }
    exports[2].x.read_only = true;
    exports[2].x.description = "what nobody may change";
    memset(exports[2].bytes + 4096, 0x5a, 4096);
    server.exports = (struct export_list){.export = list, .n = N_EXPORTS, .default_export = "memory"};
}

int main(int argc, char **argv)
{
    static const int signals[] = {SIGTERM, SIGINT};
    struct uring_options options = {.arena_limit_bytes = UINT64_C(1) << 30, .spin_us = 0};
    struct reactor *r;
    const char *why = "";
    if (argc < 3) {
        fprintf(stderr, "usage: nbd_memory_server LISTEN SIZE_BYTES [MAX_DELAY_US]\n");
        return 2;
    }
    log_open("nbd_memory_server", LOG_INFO);
    int err = uring_reactor_new(&options, &r, &why);
    if (err) {
        fprintf(stderr, "nbd_memory_server: %s\n", why);
        return 1;
    }
    nbd_server_init(&server, r);
    make_exports(r, strtoull(argv[2], NULL, 0), argc > 3 ? strtoull(argv[3], NULL, 0) * 1000 : 0);
    err = uring_on_signals(r, signals, 2, on_signal, NULL);
    if (!err)
        err = io_listen(r, argv[1], on_accept, NULL, &listener);
    if (err) {
        fprintf(stderr, "nbd_memory_server: cannot listen on %s: %s\n", argv[1], strerror(-err));
        return 1;
    }
    printf("ready %s\n", listener->address);
    fflush(stdout);
    uring_reactor_run(r);
    /* What the clients left behind must have come back. */
    int leak = server.n_connections == 0 &&
               (server.requests_out > 0 || server.payload_bytes > 0 || arena_used_bytes(r->arena) > 0);
    if (leak)
        fprintf(stderr, "nbd_memory_server: left over: %u requests, %llu bytes of payload, %llu of the arena\n",
                server.requests_out, (unsigned long long)server.payload_bytes,
                (unsigned long long)arena_used_bytes(r->arena));
    return leak;
}
