/* The load: connections by libnbd, each with `depth` requests under way, in one thread.
 *
 * Latency is what a client waits: from the moment at which a request was due (with --rate: by its timetable, so that a
 * server that stalls is charged for what could not be sent meanwhile) until its answer, its flush included.
 *
 * What always holds: a slot has at most one request under way; libnbd's callbacks only note what came and when (they
 * may not call libnbd), and everything follows in the loop. With --verify no two requests of one position are under way
 * at once. */
#include "tools/bench.h"

#include <errno.h>
#include <libnbd.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define CONNECT_LIMIT_NS (10 * NS_PER_S)
#define RETRY_NS (NS_PER_S / 20)
#define DRAIN_LIMIT_NS (30 * NS_PER_S)
#define TRIES 64 /* at finding a position that nothing is under way at */

struct bench;

struct slot {
    struct bench *b;
    unsigned connection;
    enum bench_kind kind; /* of the request under way: BENCH_FLUSH is the second half of a write */
    bool busy, answered;
    int error;
    uint64_t position, seq;
    uint64_t due_ns, flush_ns, answered_ns;
    uint8_t *buf;
    struct slot *next; /* idle, or answered */
};

struct connection {
    struct nbd_handle *nbd; /* NULL: to be connected again at retry_ns */
    bool ready, lost;
    uint64_t since_ns, retry_ns;
    struct slot *idle;
    char why[256]; /* what its last failure was */
};

struct bench {
    const struct bench_options *o;
    struct journal *j;
    struct bench_result *r;
    uint64_t begin_ns, end_ns, last_answer_ns, tick_ns, next_due_ns;
    uint64_t n_positions, cursor, issued, in_flight, rng;
    bool stopping;
    uint64_t stop_ns;
    struct connection c[BENCH_CONNECTIONS_MAX];
    struct slot *slots, *answered, **answered_end;
    uint8_t *buffers;
    uint8_t *busy;                 /* by position (--verify) */
    struct slot *held, **held_end; /* answered writes that wait for the journal (--journal-sync) */
    struct histogram second;
    uint64_t second_bytes;
};

static volatile sig_atomic_t asked_to_stop;

static void on_signal(int signo)
{
    asked_to_stop++;
}

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

static uint64_t rnd(struct bench *b)
{
    b->rng += UINT64_C(0x9e3779b97f4a7c15);
    uint64_t x = b->rng;
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

static void stop(struct bench *b)
{
    if (!b->stopping)
        b->stop_ns = now_ns();
    b->stopping = true;
}

/* The first thing that went wrong is what is told; the run comes to its end. */
PRINTF_LIKE(2, 3) static void fail(struct bench *b, const char *fmt, ...)
{
    va_list ap;
    stop(b);
    if (b->r->error[0])
        return;
    va_start(ap, fmt);
    vsnprintf(b->r->error, sizeof b->r->error, fmt, ap);
    va_end(ap);
}

/* ---- what to ask for ---- */

static void release_position(struct bench *b, const struct slot *s)
{
    if (b->busy)
        b->busy[s->position] = 0;
}

static bool may_use(const struct bench *b, uint64_t position, bool write)
{
    return !b->busy || (!b->busy[position] && (!write || journal_is_settled(b->j, position)));
}

static bool choose_position(struct bench *b, struct slot *s, bool write)
{
    for (unsigned i = 0; i < TRIES; i++) {
        uint64_t p = b->o->sequential ? b->cursor : rnd(b) % b->n_positions;
        if (b->o->sequential)
            b->cursor = (b->cursor + 1) % b->n_positions;
        if (!may_use(b, p, write))
            continue;
        s->position = p;
        if (b->busy)
            b->busy[p] = 1;
        return true;
    }
    return false;
}

static uint64_t address_of(const struct bench *b, const struct slot *s)
{
    return b->o->offset + s->position * b->o->block_bytes;
}

static void fill_buffer(struct bench *b, struct slot *s)
{
    if (b->j) {
        for (uint64_t at = 0; at < b->o->block_bytes; at += BLOCK_SIZE)
            stamp_fill(s->buf + at, b->j->h->run, address_of(b, s) + at, s->seq);
        return;
    }
    for (uint64_t at = 0; at < b->o->block_bytes; at += BLOCK_SIZE) { /* no two blocks alike */
        uint64_t x = rnd(b);
        memcpy(s->buf + at, &x, b->o->block_bytes < sizeof x ? b->o->block_bytes : sizeof x);
    }
}

/* ---- answers ---- */

static int on_answer(void *user, int *error)
{
    struct slot *s = user;
    struct bench *b = s->b;
    s->answered_ns = now_ns();
    s->error = *error;
    s->answered = true;
    s->next = NULL;
    *b->answered_end = s;
    b->answered_end = &s->next;
    return 1;
}

static void make_idle(struct bench *b, struct slot *s)
{
    struct connection *c = &b->c[s->connection];
    release_position(b, s);
    s->busy = false;
    s->next = c->idle;
    c->idle = s;
    assert(b->in_flight > 0);
    b->in_flight--;
}

static void send_request(struct bench *b, struct slot *s)
{
    struct nbd_handle *nbd = b->c[s->connection].nbd;
    nbd_completion_callback done = {.callback = on_answer, .user_data = s};
    uint64_t at = address_of(b, s);
    int64_t cookie;
    s->answered = false;
    if (!nbd) { /* its write was the last thing that this connection answered */
        on_answer(s, &(int){ENOTCONN});
        return;
    }
    if (s->kind == BENCH_FLUSH)
        cookie = nbd_aio_flush(nbd, done, 0);
    else if (s->kind == BENCH_READ)
        cookie = nbd_aio_pread(nbd, s->buf, b->o->block_bytes, at, done, 0);
    else
        cookie = nbd_aio_pwrite(nbd, s->buf, b->o->block_bytes, at, done, b->o->fua ? LIBNBD_CMD_FLAG_FUA : 0);
    if (cookie >= 0 || s->answered)
        return;
    /* Not taken: as good as lost with its connection, or it says what is wrong with it. */
    int error = nbd_get_errno();
    if (!nbd_aio_is_dead(nbd) && !nbd_aio_is_closed(nbd))
        fail(b, "%s", nbd_get_error());
    on_answer(s, &error);
}

static void check_read(struct bench *b, const struct slot *s)
{
    char text[256];
    if (!journal_is_settled(b->j, s->position))
        return;
    for (uint64_t at = 0; at < b->o->block_bytes; at += BLOCK_SIZE) {
        uint64_t address = address_of(b, s) + at;
        struct stamp_read got = stamp_look(s->buf + at, b->j->h->run, address);
        if (!journal_allows(b->j, s->position, &got, text, sizeof text))
            fail(b, "wrong data was read at byte %llu: %s", (unsigned long long)address, text);
        b->r->verified_reads++;
    }
}

static void count(struct bench *b, enum bench_kind kind, uint64_t from_ns, uint64_t to_ns, uint64_t bytes)
{
    struct bench_side *side = &b->r->side[kind];
    uint64_t took = to_ns > from_ns ? to_ns - from_ns : 0;
    histogram_add(&side->latency, took);
    side->bytes += bytes;
    if (kind == BENCH_FLUSH)
        return;
    histogram_add(&b->second, took);
    b->second_bytes += bytes;
    b->last_answer_ns = to_ns;
}

static void finish_write(struct bench *b, struct slot *s, uint64_t at_ns)
{
    count(b, BENCH_WRITE, s->due_ns, at_ns, b->o->block_bytes);
    make_idle(b, s);
}

/* A durable write was answered. */
static void take_write(struct bench *b, struct slot *s)
{
    if (b->j)
        journal_ack(b->j, s->position);
    if (!b->j || !b->o->journal_sync) {
        finish_write(b, s, s->answered_ns);
        return;
    }
    s->next = NULL;
    *b->held_end = s;
    b->held_end = &s->next;
}

static void take_answer(struct bench *b, struct slot *s)
{
    static const char *const name[] = {"a read", "a write", "a flush"};
    struct connection *c = &b->c[s->connection];
    if (s->error) {
        if (c->lost || !c->nbd || nbd_aio_is_dead(c->nbd) || nbd_aio_is_closed(c->nbd) || s->error == ENOTCONN ||
            s->error == ESHUTDOWN)
            b->r->lost++;
        else
            fail(b, "%s of %llu bytes at byte %llu failed: %s", name[s->kind], (unsigned long long)b->o->block_bytes,
                 (unsigned long long)address_of(b, s), strerror(s->error));
        make_idle(b, s);
        return;
    }
    if (s->kind == BENCH_READ) {
        count(b, BENCH_READ, s->due_ns, s->answered_ns, b->o->block_bytes);
        if (b->j)
            check_read(b, s);
        make_idle(b, s);
    } else if (s->kind == BENCH_WRITE && b->o->flush) {
        s->kind = BENCH_FLUSH;
        s->flush_ns = s->answered_ns;
        send_request(b, s);
    } else {
        if (s->kind == BENCH_FLUSH)
            count(b, BENCH_FLUSH, s->flush_ns, s->answered_ns, 0);
        take_write(b, s);
    }
}

static void take_answers(struct bench *b)
{
    while (b->answered) {
        struct slot *s = b->answered;
        b->answered = s->next;
        if (!b->answered)
            b->answered_end = &b->answered;
        take_answer(b, s);
    }
    if (!b->held)
        return;
    struct why why;
    if (journal_sync(b->j, &why) < 0)
        fail(b, "%s", why.text);
    uint64_t now = now_ns();
    for (struct slot *s = b->held, *next; s; s = next) {
        next = s->next;
        finish_write(b, s, now);
    }
    b->held = NULL;
    b->held_end = &b->held;
}

/* ---- connections ---- */

static void note_failure(struct connection *c)
{
    const char *text = nbd_get_error();
    snprintf(c->why, sizeof c->why, "%s", text ? text : "");
}

static void connection_drop(struct bench *b, struct connection *c)
{
    const char *why = *c->why ? c->why : "the server closed the connection";
    c->lost = true;
    if (c->nbd)
        nbd_close(c->nbd); /* answers what is under way, with errors */
    c->nbd = NULL;
    take_answers(b);
    c->ready = false;
    c->retry_ns = now_ns() + RETRY_NS;
    if (b->begin_ns == 0 && b->o->reconnect_s == 0)
        fail(b, "cannot connect to %s: %s", b->o->uri, why);
    else if (b->o->reconnect_s == 0)
        fail(b, "the connection is lost: %s", why);
    else if ((double)(now_ns() - c->since_ns) > b->o->reconnect_s * 1e9)
        fail(b, "no connection for %.0f s: %s", b->o->reconnect_s, why);
}

static void connection_begin(struct bench *b, struct connection *c)
{
    c->lost = false;
    c->why[0] = '\0';
    c->nbd = nbd_create();
    if (!c->nbd) {
        fail(b, "%s", nbd_get_error());
        return;
    }
    nbd_set_pread_initialize(c->nbd, false);
    if (nbd_aio_connect_uri(c->nbd, b->o->uri) < 0) {
        note_failure(c);
        connection_drop(b, c);
    }
}

static void connection_step(struct bench *b, struct connection *c)
{
    if (!c->nbd) {
        if (now_ns() >= c->retry_ns && !b->stopping)
            connection_begin(b, c);
        return;
    }
    if (nbd_aio_is_dead(c->nbd) || nbd_aio_is_closed(c->nbd)) {
        if (c->ready)
            c->since_ns = now_ns();
        connection_drop(b, c);
        return;
    }
    if (!c->ready && nbd_aio_is_ready(c->nbd)) {
        b->r->reconnects += b->begin_ns != 0;
        c->ready = true;
    } else if (!c->ready && now_ns() - c->since_ns > CONNECT_LIMIT_NS && b->o->reconnect_s == 0) {
        snprintf(c->why, sizeof c->why, "the server does not answer within 10 s");
        connection_drop(b, c);
    }
}

static void notify(struct bench *b, struct connection *c, short events)
{
    unsigned dir = nbd_aio_get_direction(c->nbd);
    int err = 0;
    if (dir & LIBNBD_AIO_DIRECTION_READ && events & (POLLIN | POLLHUP | POLLERR))
        err = nbd_aio_notify_read(c->nbd);
    else if (dir & LIBNBD_AIO_DIRECTION_WRITE && events & (POLLOUT | POLLHUP | POLLERR))
        err = nbd_aio_notify_write(c->nbd);
    if (err < 0)
        note_failure(c); /* the handle's state says what becomes of it */
}

static void poll_connections(struct bench *b, uint64_t timeout_ns)
{
    struct timespec ts = {(time_t)(timeout_ns / NS_PER_S), (long)(timeout_ns % NS_PER_S)};
    struct pollfd fds[BENCH_CONNECTIONS_MAX];
    struct connection *which[BENCH_CONNECTIONS_MAX];
    unsigned n = 0;
    for (unsigned i = 0; i < b->o->connections; i++) {
        struct connection *c = &b->c[i];
        int fd = c->nbd ? nbd_aio_get_fd(c->nbd) : -1;
        if (fd < 0)
            continue;
        unsigned dir = nbd_aio_get_direction(c->nbd);
        fds[n] = (struct pollfd){.fd = fd,
                                 .events = (short)((dir & LIBNBD_AIO_DIRECTION_READ ? POLLIN : 0) |
                                                   (dir & LIBNBD_AIO_DIRECTION_WRITE ? POLLOUT : 0))};
        which[n++] = c;
    }
    if (ppoll(fds, n, &ts, NULL) < 0)
        return; /* a signal: the loop looks at it */
    for (unsigned i = 0; i < n; i++)
        if (fds[i].revents)
            notify(b, which[i], fds[i].revents);
}

/* ---- the loop ---- */

/* False: nothing may be sent now. */
static bool issue_one(struct bench *b, struct connection *c, uint64_t now)
{
    struct slot *s = c->idle;
    bool write = b->o->writes && (!b->o->reads || rnd(b) % 100 >= b->o->read_percent);
    if (!s || (b->o->ops && b->issued >= b->o->ops) || (b->o->rate > 0 && now < b->next_due_ns))
        return false;
    if (!choose_position(b, s, write))
        return false;
    c->idle = s->next;
    s->busy = true;
    s->kind = write ? BENCH_WRITE : BENCH_READ;
    s->due_ns = b->o->rate > 0 ? b->next_due_ns : now;
    b->next_due_ns += b->o->rate > 0 ? (uint64_t)(1e9 / b->o->rate) : 0;
    b->in_flight++;
    b->issued++;
    if (write) {
        if (b->j)
            s->seq = journal_issue(b->j, s->position);
        fill_buffer(b, s);
        if (b->o->rate == 0)
            s->due_ns = now_ns(); /* making up the contents is not the server's time */
    }
    send_request(b, s);
    return true;
}

/* In turns, so that a rate is spread over all connections. */
static void issue(struct bench *b)
{
    uint64_t now = now_ns();
    bool more = true;
    while (more && !b->stopping) {
        more = false;
        for (unsigned i = 0; i < b->o->connections && !b->stopping; i++)
            if (b->c[i].ready && issue_one(b, &b->c[i], now))
                more = true;
    }
}

static void tick(struct bench *b, uint64_t now)
{
    if (now < b->tick_ns)
        return;
    struct bench_second s = {
        .at_s = (double)(now - b->begin_ns) / 1e9,
        .ops = b->second.n,
        .bytes = b->second_bytes,
        .in_flight = b->in_flight,
        .p50_ns = histogram_percentile(&b->second, 50),
        .p99_ns = histogram_percentile(&b->second, 99),
    };
    bench_show_second(b->o, &s);
    memset(&b->second, 0, sizeof b->second);
    b->second_bytes = 0;
    while (b->tick_ns <= now)
        b->tick_ns += NS_PER_S;
}

/* Until something is to be done that no answer brings. What is due already and could not be sent waits for answers. */
static uint64_t timeout_ns(const struct bench *b, uint64_t now)
{
    uint64_t until = b->tick_ns;
    if (!b->stopping && b->end_ns < until)
        until = b->end_ns;
    if (!b->stopping && b->o->rate > 0 && b->next_due_ns > now && b->next_due_ns < until)
        until = b->next_due_ns;
    for (unsigned i = 0; i < b->o->connections && !b->stopping; i++)
        if (!b->c[i].nbd && b->c[i].retry_ns < until)
            until = b->c[i].retry_ns;
    uint64_t ns = until > now ? until - now : 0;
    return ns > NS_PER_S / 10 ? NS_PER_S / 10 : ns;
}

static bool is_over(struct bench *b, uint64_t now)
{
    if (asked_to_stop && !b->stopping) {
        b->r->interrupted = true;
        stop(b);
    }
    if (now >= b->end_ns || (b->o->ops && b->issued >= b->o->ops))
        stop(b);
    if (!b->stopping)
        return false;
    if (b->in_flight == 0)
        return true;
    if (now < b->stop_ns + DRAIN_LIMIT_NS && asked_to_stop < 2)
        return false;
    b->r->unanswered = b->in_flight;
    if (asked_to_stop < 2)
        fail(b, "%llu requests were not answered within 30 s", (unsigned long long)b->in_flight);
    return true;
}

static int connect_all(struct bench *b, struct why *why)
{
    uint64_t begin = now_ns();
    for (unsigned i = 0; i < b->o->connections; i++) {
        b->c[i].since_ns = begin;
        connection_begin(b, &b->c[i]);
    }
    for (unsigned n = 0; n < b->o->connections && !b->stopping;) {
        n = 0;
        for (unsigned i = 0; i < b->o->connections; i++) {
            connection_step(b, &b->c[i]);
            n += b->c[i].ready;
        }
        if (n < b->o->connections)
            poll_connections(b, NS_PER_S / 20);
        if (asked_to_stop || now_ns() - begin > CONNECT_LIMIT_NS + NS_PER_S)
            fail(b, asked_to_stop ? "interrupted" : "not all connections came about within 10 s");
    }
    return b->stopping ? because(why, "%s", b->r->error) : 0;
}

static int prepare(struct bench *b, struct why *why)
{
    const struct bench_options *o = b->o;
    size_t n = (size_t)o->connections * o->depth, stride = (o->block_bytes + BLOCK_SIZE - 1) / BLOCK_SIZE * BLOCK_SIZE;
    b->n_positions = o->size / o->block_bytes;
    b->slots = calloc(n, sizeof *b->slots);
    b->buffers = aligned_alloc(BLOCK_SIZE, n * stride);
    b->busy = b->j ? calloc(b->n_positions, 1) : NULL;
    if (!b->slots || !b->buffers || (b->j && !b->busy))
        return because(why, "out of memory: %zu requests of %llu bytes", n, (unsigned long long)o->block_bytes);
    for (size_t i = 0; i + 8 <= n * stride; i += 8) {
        uint64_t x = rnd(b);
        memcpy(b->buffers + i, &x, 8);
    }
    for (size_t i = 0; i < n; i++) {
        struct connection *c = &b->c[i % o->connections];
        b->slots[i] = (struct slot){
            .b = b, .connection = (unsigned)(i % o->connections), .buf = b->buffers + i * stride, .next = c->idle};
        c->idle = &b->slots[i];
    }
    return 0;
}

static void run(struct bench *b)
{
    b->begin_ns = b->last_answer_ns = b->next_due_ns = now_ns();
    b->tick_ns = b->begin_ns + NS_PER_S;
    b->end_ns = b->o->seconds > 0 ? b->begin_ns + (uint64_t)(b->o->seconds * 1e9) : UINT64_MAX;
    for (uint64_t now = b->begin_ns; !is_over(b, now); now = now_ns()) {
        issue(b);
        take_answers(b); /* what libnbd answered at once */
        poll_connections(b, timeout_ns(b, now));
        take_answers(b);
        for (unsigned i = 0; i < b->o->connections; i++)
            connection_step(b, &b->c[i]);
        tick(b, now_ns());
    }
    bench_hide_second(b->o);
    b->r->seconds = (double)(b->last_answer_ns - b->begin_ns) / 1e9;
}

int bench_run(const struct bench_options *o, struct journal *j, struct bench_result *ret, struct why *why)
{
    struct bench *b = calloc(1, sizeof *b);
    if (!b)
        return because(why, "out of memory");
    *b = (struct bench){.o = o, .j = j, .r = ret, .rng = o->seed};
    b->answered_end = &b->answered;
    b->held_end = &b->held;
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    int err = prepare(b, why);
    if (!err)
        err = connect_all(b, why);
    if (!err)
        run(b);
    for (unsigned i = 0; i < o->connections; i++) {
        if (b->c[i].nbd && b->c[i].ready && b->in_flight == 0)
            (void)!nbd_shutdown(b->c[i].nbd, 0);
        nbd_close(b->c[i].nbd);
    }
    free(b->busy);
    free(b->buffers);
    free(b->slots);
    free(b);
    return err;
}
