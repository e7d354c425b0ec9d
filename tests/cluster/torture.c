/* A load of writes that can prove afterwards what must be there (torture_model.h).
 *
 *   torture write  --uri URI --model FILE [--seconds S] [--depth N] ...    until the time is over or SIGTERM; survives
 * the server's death, reconnecting torture verify --uri URI --model FILE                                  reads
 * everything back
 *
 * The last line on stdout is a JSON object with counts and waits. Exit status: 0 good, 1 the volume holds what it must
 * not, 2 the test itself could not go on. */
#include "tests/cluster/torture_model.h"

#include <argp.h>
#include <err.h>
#include <errno.h>
#include <inttypes.h>
#include <libnbd.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define CONNECTIONS_MAX 16
#define NS_PER_MS 1000000ull
#define NS_PER_S 1000000000ull
#define RECONNECT_PAUSE_NS (10 * NS_PER_MS)
#define CONNECT_TIMEOUT_NS (5 * NS_PER_S)
/* A server that lives may still find a request in the socket of a client that hung up, and it may take its time; until
 * then the request is under way, and neither a read nor another write of those bytes says anything about it. */
#define SETTLE_NS (2 * NS_PER_S)
#define BUCKET_NS (10 * NS_PER_MS)
#define BUCKETS_MAX 60000u
#define LATENCIES_MAX (1u << 20)

enum op_kind { OP_WRITE, OP_READ, OP_ZERO };
enum op_state { OP_IDLE, OP_WAITING /* to be sent, again or for the first time */, OP_SENT };

struct op {
    enum op_state state;
    enum op_kind kind;
    uint64_t offset, len, seq;
    uint64_t not_before_ns;
    uint64_t started_ns; /* when it was first sent: waits count from there, whatever happened in between */
    uint32_t flags;
    unsigned connection;
    uint8_t *buf;
};

struct connection {
    struct nbd_handle *nbd; /* NULL: to be connected, not before retry_ns */
    bool ready;
    uint64_t retry_ns, since_ns;
};

struct options {
    const char *command, *uri, *model;
    double seconds;
    unsigned depth, n_connections, read_percent, zero_percent, hangup_ms, rate;
    uint64_t first, span, max_len, fixed_len, seed;
    double reconnect_s, drain_s;
    bool buckets, keep_trying;
};

static struct options o = {
    .seconds = 10,
    .depth = 16,
    .n_connections = 2,
    .read_percent = 15,
    .zero_percent = 4,
    .span = 64 << 20,
    .max_len = 256 << 10,
    .seed = 1,
    .reconnect_s = 60,
    .drain_s = 30,
};

static struct model model;
static struct op ops[MODEL_SLOTS_MAX];
static struct connection connections[CONNECTIONS_MAX];
static uint64_t rng_state, begin_ns, begin_realtime_ns;
static volatile sig_atomic_t stop_asked;
static bool hanging_up; /* on purpose: the server lives */

static struct {
    uint64_t writes, reads, bytes_written, reconnects, lost, sent_again, abandoned, errors, hangups;
    uint64_t longest_ns, longest_at_ns, n_latencies;
    uint32_t latency_us[LATENCIES_MAX];
    uint32_t bucket_us[BUCKETS_MAX];
} stats;

static uint64_t clock_ns(clockid_t id)
{
    struct timespec t;
    clock_gettime(id, &t);
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

static uint64_t now_ns(void)
{
    return clock_ns(CLOCK_MONOTONIC);
}

static uint64_t rnd(void)
{
    rng_state += UINT64_C(0x9e3779b97f4a7c15);
    uint64_t x = rng_state;
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

static uint64_t rnd_below(uint64_t n)
{
    return rnd() % n;
}

static bool percent(unsigned p)
{
    return rnd_below(100) < p;
}

/* ---- connections ---- */

static void lose_ops_of(unsigned c);

static void connection_drop(unsigned c)
{
    struct connection *k = &connections[c];
    if (!k->nbd)
        return;
    nbd_close(k->nbd); /* completes what is outstanding, with errors */
    k->nbd = NULL;
    k->ready = false;
    k->retry_ns = now_ns() + RECONNECT_PAUSE_NS;
    lose_ops_of(c);
}

static void connection_begin(unsigned c)
{
    struct connection *k = &connections[c];
    k->nbd = nbd_create();
    if (!k->nbd)
        errx(2, "%s", nbd_get_error());
    nbd_set_strict_mode(k->nbd, 0);
    k->since_ns = now_ns();
    if (nbd_aio_connect_uri(k->nbd, o.uri) < 0) {
        nbd_close(k->nbd);
        k->nbd = NULL;
        k->retry_ns = now_ns() + RECONNECT_PAUSE_NS;
    }
}

/* Follows one connection's state after its socket had events. */
static void connection_step(unsigned c)
{
    struct connection *k = &connections[c];
    if (!k->nbd) {
        if (now_ns() >= k->retry_ns)
            connection_begin(c);
        return;
    }
    if (nbd_aio_is_dead(k->nbd) || nbd_aio_is_closed(k->nbd)) {
        connection_drop(c);
        return;
    }
    if (!k->ready && nbd_aio_is_ready(k->nbd)) {
        k->ready = true;
        int64_t size = nbd_get_size(k->nbd);
        if (size < 0 || (uint64_t)size < model.h->first + model.h->span)
            errx(2, "the volume has %" PRId64 " bytes, the model wants %" PRIu64, size, model.h->first + model.h->span);
    } else if (!k->ready && now_ns() - k->since_ns > CONNECT_TIMEOUT_NS) {
        connection_drop(c);
    }
}

static void poll_connections(int timeout_ms)
{
    struct pollfd fds[CONNECTIONS_MAX];
    unsigned which[CONNECTIONS_MAX], n = 0;
    for (unsigned c = 0; c < o.n_connections; c++) {
        struct connection *k = &connections[c];
        if (!k->nbd)
            continue;
        unsigned dir = nbd_aio_get_direction(k->nbd);
        int fd = nbd_aio_get_fd(k->nbd);
        if (fd < 0)
            continue;
        fds[n] = (struct pollfd){.fd = fd,
                                 .events = (short)((dir & LIBNBD_AIO_DIRECTION_READ ? POLLIN : 0) |
                                                   (dir & LIBNBD_AIO_DIRECTION_WRITE ? POLLOUT : 0))};
        which[n++] = c;
    }
    if (poll(fds, n, timeout_ms) < 0 && errno != EINTR)
        err(2, "poll");
    for (unsigned i = 0; i < n; i++) {
        struct connection *k = &connections[which[i]];
        unsigned dir = nbd_aio_get_direction(k->nbd);
        /* Failures show in the handle's state. */
        if (dir & LIBNBD_AIO_DIRECTION_READ && fds[i].revents & (POLLIN | POLLHUP | POLLERR))
            nbd_aio_notify_read(k->nbd);
        else if (dir & LIBNBD_AIO_DIRECTION_WRITE && fds[i].revents & (POLLOUT | POLLHUP | POLLERR))
            nbd_aio_notify_write(k->nbd);
    }
}

/* ---- operations ---- */

static void record_wait(uint64_t ns, uint64_t at_ns)
{
    uint64_t us = ns / 1000, bucket = (at_ns - begin_ns) / BUCKET_NS;
    if (us > UINT32_MAX)
        us = UINT32_MAX;
    if (ns > stats.longest_ns) {
        stats.longest_ns = ns;
        stats.longest_at_ns = at_ns - begin_ns;
    }
    if (stats.n_latencies < LATENCIES_MAX)
        stats.latency_us[stats.n_latencies] = (uint32_t)us;
    else
        stats.latency_us[rnd_below(LATENCIES_MAX)] = (uint32_t)us; /* good enough for percentiles */
    stats.n_latencies++;
    if (bucket < BUCKETS_MAX && us > stats.bucket_us[bucket])
        stats.bucket_us[bucket] = (uint32_t)us;
}

/* The connection is gone and the outcome unknown: send the same again, or never mind and do something else (then it may
 * or may not be there). */
static void op_lost(struct op *op, unsigned slot)
{
    stats.lost++;
    op->not_before_ns = hanging_up ? now_ns() + SETTLE_NS : 0;
    if (op->kind == OP_READ) {
        op->state = OP_IDLE;
    } else if (o.keep_trying || percent(50) || !model_has_room(&model, slot)) {
        op->state = OP_WAITING;
        stats.sent_again++;
    } else {
        op->state = OP_IDLE;
        stats.abandoned++;
    }
}

static void op_good(struct op *op, unsigned slot)
{
    uint64_t now = now_ns();
    record_wait(now - op->started_ns, now);
    op->state = OP_IDLE;
    if (op->kind == OP_READ) {
        stats.reads++;
        if (!model_check(&model, slot, op->offset, op->buf, op->len)) {
            fprintf(stderr,
                    "a READ of %" PRIu64 " bytes at %" PRIu64 " (blocks %" PRIu64 " + %" PRIu64 " to %" PRIu64
                    " + %" PRIu64 ") under load returned what it must not\n",
                    op->len, op->offset, op->offset / 4096, op->offset % 4096, (op->offset + op->len) / 4096,
                    (op->offset + op->len) % 4096);
            exit(1);
        }
        return;
    }
    model_acked(&model, slot, op->kind == OP_WRITE ? op->seq : MODEL_ZEROES, op->offset, op->len);
    stats.writes++;
    stats.bytes_written += op->len;
}

static int op_done(void *user, int *error)
{
    struct op *op = user;
    unsigned slot = (unsigned)(op - ops);
    if (op->state != OP_SENT)
        return 1;
    if (*error == 0) {
        op_good(op, slot);
        return 1;
    }
    /* A dead connection's requests end with ENOTCONN; a server that ends or was fenced says ESHUTDOWN or EIO: unknown,
     * all of them. */
    if (*error != ENOTCONN && *error != ESHUTDOWN && *error != EIO && *error != ECONNRESET && *error != EPIPE)
        errx(2, "the server answers %s to a %s of %" PRIu64 " bytes at %" PRIu64, strerror(*error),
             op->kind == OP_READ ? "READ" : "WRITE", op->len, op->offset);
    if (*error == ESHUTDOWN || *error == EIO)
        stats.errors++;
    op_lost(op, slot);
    return 1;
}

static void lose_ops_of(unsigned c)
{
    for (unsigned i = 0; i < o.depth; i++)
        if (ops[i].state == OP_SENT && ops[i].connection == c)
            op_lost(&ops[i], i);
}

static void op_choose(struct op *op, unsigned slot)
{
    const struct model_slot *s = &model.h->slots[slot];
    uint64_t room = s->end - s->first, align = (uint64_t)1 << rnd_below(13); /* 1 byte to 4 KiB */
    uint64_t len = o.fixed_len   ? o.fixed_len
                   : percent(50) ? 4096 * (1 + rnd_below(4))
                                 : 1 + rnd_below(model.h->max_len);
    op->kind = percent(o.read_percent) ? OP_READ : percent(o.zero_percent) ? OP_ZERO : OP_WRITE;
    op->flags = op->kind != OP_READ && percent(10) ? LIBNBD_CMD_FLAG_FUA : 0;
    if (o.fixed_len)
        align = o.fixed_len;
    if (len > room)
        len = room;
    uint64_t at = s->first + rnd_below(room - len + 1);
    at -= at % align;
    if (at < s->first)
        at += align;
    if (at + len > s->end)
        len = at < s->end ? s->end - at : 0;
    if (len == 0) {
        at = s->first;
        len = 1;
    }
    op->offset = at;
    op->len = len;
    op->started_ns = 0;
    if (op->kind == OP_READ)
        return;
    op->seq = model_next_seq(&model, slot);
    if (op->kind == OP_WRITE)
        model_content(&model, op->seq, op->offset, op->buf, op->len);
    if (!model_begin(&model, slot, op->kind == OP_WRITE ? op->seq : MODEL_ZEROES, op->offset, op->len))
        errx(2, "the model has no room left");
}

static void op_send(struct op *op, unsigned slot)
{
    unsigned c = (slot + (unsigned)rnd_below(o.n_connections)) % o.n_connections;
    struct nbd_handle *nbd = connections[c].nbd;
    if (!connections[c].ready)
        return; /* stays waiting; another turn picks another connection */
    nbd_completion_callback done = {.callback = op_done, .user_data = op};
    op->state = OP_SENT;
    op->connection = c;
    if (!op->started_ns)
        op->started_ns = now_ns();
    int64_t cookie;
    if (op->kind == OP_READ)
        cookie = nbd_aio_pread(nbd, op->buf, op->len, op->offset, done, 0);
    else if (op->kind == OP_ZERO)
        cookie = nbd_aio_zero(nbd, op->len, op->offset, done, op->flags | (op->seq % 2 ? LIBNBD_CMD_FLAG_NO_HOLE : 0));
    else
        cookie = nbd_aio_pwrite(nbd, op->buf, op->len, op->offset, done, op->flags);
    if (cookie < 0 && op->state == OP_SENT)
        op->state = OP_WAITING; /* the connection died under us: it was not sent */
}

static void maybe_hang_up(uint64_t now, uint64_t *next_ns)
{
    if (!o.hangup_ms || now < *next_ns)
        return;
    *next_ns = now + (1 + rnd_below(2 * o.hangup_ms)) * NS_PER_MS;
    unsigned c = (unsigned)rnd_below(o.n_connections);
    if (connections[c].ready) {
        stats.hangups++;
        hanging_up = true;
        connection_drop(c);
        hanging_up = false;
    }
}

static bool all_idle(void)
{
    for (unsigned i = 0; i < o.depth; i++)
        if (ops[i].state != OP_IDLE)
            return false;
    return true;
}

/* Steps all connections; how long none has been ready is what bounds the wait for a server that never comes back. */
static void step_connections(uint64_t now, uint64_t *last_ready_ns)
{
    bool was_ready[CONNECTIONS_MAX], any = false;
    for (unsigned c = 0; c < o.n_connections; c++) {
        was_ready[c] = connections[c].ready;
        connection_step(c);
        if (connections[c].ready && !was_ready[c]) {
            stats.reconnects++;
            model.h->reconnects++;
        }
        any |= connections[c].ready;
    }
    if (any)
        *last_ready_ns = now;
    else if (now - *last_ready_ns > (uint64_t)(o.reconnect_s * NS_PER_S))
        errx(2, "no connection for %.0f s: %s", o.reconnect_s,
             nbd_get_error() ? nbd_get_error() : "the handshake is not answered");
}

static void run_load(void)
{
    uint64_t chosen = 0, until = begin_ns + (uint64_t)(o.seconds * NS_PER_S), last_ready = begin_ns, hangup = begin_ns,
             drain_until = 0;
    for (;;) {
        uint64_t now = now_ns();
        bool stopping = stop_asked || now >= until;
        if (stopping && !drain_until)
            drain_until = now + (uint64_t)(o.drain_s * NS_PER_S);
        if (stopping && (all_idle() || now >= drain_until))
            return;
        step_connections(now, &last_ready);
        if (!stopping)
            maybe_hang_up(now, &hangup);
        for (unsigned i = 0; i < o.depth; i++) {
            if (now < ops[i].not_before_ns)
                continue;
            if (ops[i].state == OP_IDLE && !stopping &&
                (!o.rate || chosen < (now - begin_ns) / (NS_PER_S / o.rate) + 1)) {
                op_choose(&ops[i], i);
                ops[i].state = OP_WAITING;
                chosen++;
            }
            if (ops[i].state == OP_WAITING)
                op_send(&ops[i], i);
        }
        poll_connections(o.rate ? 1 : 10);
    }
}

static int compare_u32(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static double percentile_ms(double p)
{
    uint64_t n = stats.n_latencies < LATENCIES_MAX ? stats.n_latencies : LATENCIES_MAX;
    return n ? stats.latency_us[(uint64_t)(p * (double)(n - 1))] / 1000.0 : 0;
}

static void report(void)
{
    uint64_t n = stats.n_latencies < LATENCIES_MAX ? stats.n_latencies : LATENCIES_MAX;
    qsort(stats.latency_us, n, sizeof stats.latency_us[0], compare_u32);
    printf("{\"writes\": %" PRIu64 ", \"reads\": %" PRIu64 ", \"bytes_written\": %" PRIu64 ", \"connects\": %" PRIu64
           ", \"lost\": %" PRIu64 ", \"sent_again\": %" PRIu64 ", \"abandoned\": %" PRIu64 ", \"errors\": %" PRIu64
           ", \"hangups\": %" PRIu64,
           stats.writes, stats.reads, stats.bytes_written, stats.reconnects, stats.lost, stats.sent_again,
           stats.abandoned, stats.errors, stats.hangups);
    printf(", \"seconds\": %.3f, \"p50_ms\": %.3f, \"p99_ms\": %.3f, \"longest_ms\": %.3f, \"longest_at_s\": %.3f, "
           "\"begin\": %.3f",
           (double)(now_ns() - begin_ns) / 1e9, percentile_ms(0.5), percentile_ms(0.99), (double)stats.longest_ns / 1e6,
           (double)stats.longest_at_ns / 1e9, (double)begin_realtime_ns / 1e9);
    if (o.buckets) {
        /* [ms since begin, longest wait in us of what completed in the 10 ms from there on] */
        const char *comma = "";
        printf(", \"buckets\": [");
        for (unsigned i = 0; i < BUCKETS_MAX; i++) {
            if (!stats.bucket_us[i])
                continue;
            printf("%s[%u, %" PRIu32 "]", comma, i * 10, stats.bucket_us[i]);
            comma = ", ";
        }
        printf("]");
    }
    printf("}\n");
}

static void on_signal(int signal)
{
    stop_asked = 1;
}

static int command_write(void)
{
    struct sigaction sa = {.sa_handler = on_signal};
    sigaction(SIGTERM, &sa, NULL);
    sigaction(SIGINT, &sa, NULL);
    if (o.depth > model.h->n_slots)
        errx(2, "the model has %" PRIu64 " slots", model.h->n_slots);
    for (unsigned i = 0; i < o.depth; i++) {
        ops[i].buf = aligned_alloc(4096, (model.h->max_len > o.fixed_len ? model.h->max_len : o.fixed_len) + 65536);
        if (!ops[i].buf)
            err(2, "buffers");
    }
    begin_ns = now_ns();
    begin_realtime_ns = clock_ns(CLOCK_REALTIME);
    /* Sequence numbers never repeat over runs; what is chosen at random should not either. */
    rng_state = o.seed ^ model.h->acked_writes * 1000003 ^ model.h->slots[0].last_seq << 32;
    run_load();
    report();
    return 0;
}

/* Connects with patience: the front end may be attaching. */
static struct nbd_handle *connect_patiently(void)
{
    uint64_t until = now_ns() + (uint64_t)(o.reconnect_s * NS_PER_S);
    for (;;) {
        o.n_connections = 1;
        uint64_t ignored = now_ns();
        step_connections(now_ns(), &ignored);
        if (connections[0].ready)
            return connections[0].nbd;
        if (now_ns() > until)
            errx(2, "cannot connect to %s within %.0f s: %s", o.uri, o.reconnect_s,
                 nbd_get_error() ? nbd_get_error() : "no answer");
        poll_connections(10);
    }
}

static int command_verify(void)
{
    struct nbd_handle *nbd = connect_patiently();
    static uint8_t buf[1 << 20];
    bool good = true;
    uint64_t checked = 0;
    for (unsigned i = 0; i < model.h->n_slots; i++) {
        const struct model_slot *s = &model.h->slots[i];
        for (uint64_t at = s->first; at < s->end;) {
            uint64_t n = s->end - at < sizeof buf ? s->end - at : sizeof buf;
            if (nbd_pread(nbd, buf, n, at, 0) < 0)
                errx(2, "cannot read %" PRIu64 " bytes at %" PRIu64 ": %s", n, at, nbd_get_error());
            good &= model_check(&model, i, at, buf, n);
            at += n;
            checked += n;
        }
    }
    nbd_shutdown(nbd, 0);
    printf("{\"verified_bytes\": %" PRIu64 ", \"acked_writes\": %" PRIu64 ", \"good\": %s}\n", checked,
           model.h->acked_writes, good ? "true" : "false");
    return good ? 0 : 1;
}

enum {
    KEY_URI = 256,
    KEY_MODEL,
    KEY_SECONDS,
    KEY_DEPTH,
    KEY_CONNECTIONS,
    KEY_READS,
    KEY_ZEROES,
    KEY_HANGUP,
    KEY_FIRST,
    KEY_SPAN,
    KEY_MAX,
    KEY_FIXED,
    KEY_SEED,
    KEY_RECONNECT,
    KEY_DRAIN,
    KEY_BUCKETS,
    KEY_KEEP,
    KEY_RATE
};

static const struct argp_option options[] = {
    {"uri", KEY_URI, "URI", 0, "The volume", 0},
    {"model", KEY_MODEL, "FILE", 0, "The model; made when it is not there", 0},
    {"seconds", KEY_SECONDS, "S", 0, "How long to write", 0},
    {"depth", KEY_DEPTH, "N", 0, "Requests at a time, each in a region of its own", 0},
    {"connections", KEY_CONNECTIONS, "N", 0, "How many", 0},
    {"reads", KEY_READS, "PERCENT", 0, "Reads among the load, checked at once", 0},
    {"zeroes", KEY_ZEROES, "PERCENT", 0, "WRITE_ZEROES among the writes", 0},
    {"hangup-ms", KEY_HANGUP, "MS", 0, "Close a connection on purpose about this often", 0},
    {"rate", KEY_RATE, "N", 0, "At most so many requests a second", 0},
    {"first", KEY_FIRST, "BYTES", 0, "Where the part under test begins (new models)", 0},
    {"span", KEY_SPAN, "BYTES", 0, "How large it is (new models)", 0},
    {"max-len", KEY_MAX, "BYTES", 0, "Longest request (new models)", 0},
    {"fixed-len", KEY_FIXED, "BYTES", 0, "All requests this long and aligned to it", 0},
    {"seed", KEY_SEED, "N", 0, "Of what is random", 0},
    {"reconnect-s", KEY_RECONNECT, "S", 0, "How long to try to connect again", 0},
    {"drain-s", KEY_DRAIN, "S", 0, "How long to wait for outstanding requests at the end", 0},
    {"buckets", KEY_BUCKETS, NULL, 0, "Report the longest wait of every 10 ms", 0},
    {"keep-trying", KEY_KEEP, NULL, 0, "Never abandon a lost write: send it again until it is answered", 0},
    {0},
};

static uint64_t number(const char *arg)
{
    char *end;
    uint64_t v = strtoull(arg, &end, 0);
    uint64_t unit = *end == 'K' ? 1u << 10 : *end == 'M' ? 1u << 20 : *end == 'G' ? 1u << 30 : 1;
    if (end == arg || (unit == 1 ? *end : end[1]))
        errx(2, "\"%s\" is no number", arg);
    return v * unit;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    switch (key) {
    case KEY_URI:
        o.uri = arg;
        return 0;
    case KEY_MODEL:
        o.model = arg;
        return 0;
    case KEY_SECONDS:
        o.seconds = atof(arg);
        return 0;
    case KEY_DEPTH:
        o.depth = (unsigned)number(arg);
        return 0;
    case KEY_CONNECTIONS:
        o.n_connections = (unsigned)number(arg);
        return 0;
    case KEY_READS:
        o.read_percent = (unsigned)number(arg);
        return 0;
    case KEY_ZEROES:
        o.zero_percent = (unsigned)number(arg);
        return 0;
    case KEY_HANGUP:
        o.hangup_ms = (unsigned)number(arg);
        return 0;
    case KEY_FIRST:
        o.first = number(arg);
        return 0;
    case KEY_SPAN:
        o.span = number(arg);
        return 0;
    case KEY_MAX:
        o.max_len = number(arg);
        return 0;
    case KEY_FIXED:
        o.fixed_len = number(arg);
        return 0;
    case KEY_SEED:
        o.seed = number(arg);
        return 0;
    case KEY_RECONNECT:
        o.reconnect_s = atof(arg);
        return 0;
    case KEY_DRAIN:
        o.drain_s = atof(arg);
        return 0;
    case KEY_BUCKETS:
        o.buckets = true;
        return 0;
    case KEY_RATE:
        o.rate = (unsigned)number(arg);
        return 0;
    case KEY_KEEP:
        o.keep_trying = true;
        return 0;
    case ARGP_KEY_ARG:
        o.command = arg;
        return 0;
    case ARGP_KEY_END:
        if (!o.command || !o.uri || !o.model || !o.depth || o.depth > MODEL_SLOTS_MAX || !o.n_connections ||
            o.n_connections > CONNECTIONS_MAX)
            argp_usage(state);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

int main(int argc, char **argv)
{
    static const struct argp argp = {options, parse, "write|verify", NULL, NULL, NULL, NULL};
    argp_err_exit_status = 2;
    argp_parse(&argp, argc, argv, 0, NULL, NULL);
    signal(SIGPIPE, SIG_IGN);
    if (o.fixed_len > o.max_len)
        o.max_len = o.fixed_len;
    model_open(&model, o.model, o.first, o.span, o.depth, o.max_len, o.seed);
    if (strcmp(o.command, "write") == 0)
        return command_write();
    if (strcmp(o.command, "verify") == 0)
        return command_verify();
    errx(2, "write or verify, not %s", o.command);
}
