/* The life of NBD connections: accepted, read, held back when memory or the client's patience with replies runs out,
 * closed.
 *
 * What always holds: a connection is in server->connections from accept until on_closed; its requests that are still
 * with the export then lose it (no reply). Sockets are held back (not read) and never dropped for want of memory.
 * Whoever waits for memory waits in one queue, and what became free is given out once per loop turn. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "nbdserver/nbd_internal.h"

struct nbd_request_slab {
    struct nbd_request_slab *next;
    struct nbd_request requests[NBD_SLAB_REQUESTS];
};

static const uint8_t zero_bytes[NBD_ZEROES_BYTES];

/* ---- requests ---- */

struct nbd_request *nbd_request_get(struct nbd_server *s)
{
    if (list_empty(&s->free_requests)) {
        struct nbd_request_slab *slab = malloc(sizeof *slab);
        if (!slab)
            return NULL;
        slab->next = s->slabs;
        s->slabs = slab;
        for (unsigned i = 0; i < NBD_SLAB_REQUESTS; i++) {
            slab->requests[i].server = s;
            list_push_back(&s->free_requests, &slab->requests[i].link);
        }
    }
    struct nbd_request *r = container_of(list_pop_front(&s->free_requests), struct nbd_request, link);
    r->conn = NULL;
    r->charge = 0;
    s->requests_out++;
    return r;
}

void nbd_request_put(struct nbd_request *r)
{
    struct nbd_server *s = r->server;
    for (uint32_t i = 0; i < r->x.n_pieces; i++)
        buf_unref(r->x.data[i]);
    assert(s->payload_bytes >= r->charge && s->requests_out > 0);
    s->payload_bytes -= r->charge;
    s->requests_out--;
    list_push_front(&s->free_requests, &r->link); /* the one that is warm in the cache comes first */
}

/* ---- holding back ---- */

bool nbd_in_transmission(const struct nbd_conn *c)
{
    return c->export != NULL;
}

void nbd_pause(struct nbd_conn *c, enum nbd_pause why)
{
    if (c->paused == 0 && c->state != NBD_CLOSED)
        conn_recv_pause(c->conn, true);
    c->paused |= why;
}

void nbd_resume(struct nbd_conn *c, enum nbd_pause why)
{
    if (!(c->paused & why))
        return;
    c->paused &= ~(uint32_t)why;
    if (c->paused == 0 && c->state != NBD_CLOSED)
        conn_recv_pause(c->conn, false);
}

static void count_unsent(struct nbd_conn *c)
{
    size_t unsent = c->state == NBD_CLOSED ? 0 : conn_unsent(c->conn);
    assert(c->server->payload_bytes >= c->unsent_charge);
    c->server->payload_bytes += unsent - c->unsent_charge;
    c->unsent_charge = unsent;
}

void nbd_after_send(struct nbd_conn *c)
{
    count_unsent(c);
    if (c->unsent_charge > c->server->unsent_max_bytes)
        nbd_pause(c, NBD_PAUSE_UNSENT);
}

void nbd_wait_for_memory(struct nbd_conn *c)
{
    struct nbd_server *s = c->server;
    nbd_pause(c, NBD_PAUSE_MEMORY);
    if (list_empty(&s->memory_waiters))
        timer_set(s->reactor, &s->stall_timer, io_now(s->reactor) + NBD_STALL_CHECK_NS);
    list_push_back(&s->memory_waiters, &c->memory_link);
}

/* The turn hook: whatever became free in this turn (requests done, replies sent, buffers of others) goes to those who
 * wait, in their order. */
static void serve_memory_waiters(struct nbd_server *s)
{
    if (list_empty(&s->memory_waiters))
        return;
    list_for_each_safe(n, &s->connections) count_unsent(container_of(n, struct nbd_conn, link));
    while (!list_empty(&s->memory_waiters)) {
        struct nbd_conn *c = container_of(s->memory_waiters.next, struct nbd_conn, memory_link);
        if (!nbd_admit(c))
            break;
        list_remove(&c->memory_link);
        if (c->state != NBD_CLOSED)
            nbd_resume(c, NBD_PAUSE_MEMORY);
    }
    if (list_empty(&s->memory_waiters))
        timer_cancel(s->reactor, &s->stall_timer);
}

/* Clients that hold memory and neither send the payload they announced nor take their replies may not starve the others
 * for ever ("if a server believes a client's behaviour constitutes a denial of service, it MAY initiate a hard
 * disconnect"). Without others who wait they may take all the time they want. */
static void on_stall_timer(struct timer *t)
{
    struct nbd_server *s = container_of(t, struct nbd_server, stall_timer);
    uint64_t now = io_now(s->reactor);
    if (list_empty(&s->memory_waiters))
        return;
    list_for_each_safe(n, &s->connections)
    {
        struct nbd_conn *c = container_of(n, struct nbd_conn, link);
        if (c->state == NBD_CLOSED)
            continue;
        count_unsent(c);
        uint64_t mark = c->unsent_charge + (c->payload ? (uint64_t)(EXPORT_PIECES_MAX - c->piece) << 32 : 0);
        if (mark == 0 || mark != c->stall_mark) {
            c->stall_mark = mark;
            c->stall_since_ns = now;
        } else if (now - c->stall_since_ns >= NBD_STALL_NS) {
            nbd_fail(c, "no progress for %llu s (%s) while others wait for the memory it holds",
                     (unsigned long long)(NBD_STALL_NS / NS_PER_S),
                     c->payload ? "a write's payload is outstanding" : "it does not take its replies");
        }
    }
    timer_set(s->reactor, &s->stall_timer, now + NBD_STALL_CHECK_NS);
}

/* ---- closing ---- */

/* The connection takes no part any more: what it holds is given back, what is with the export goes on without it. */
static void detach(struct nbd_conn *c)
{
    timer_cancel(c->server->reactor, &c->timer);
    list_remove(&c->memory_link);
    /* After DISC "the server MUST handle all outstanding requests"; otherwise a request that has no slot yet may be
     * dropped (protocol.md P11: the client may have sent it again elsewhere). */
    bool keep = c->state == NBD_DISC_SEEN;
    for (struct list *n; (n = list_pop_front(&c->requests));) {
        struct nbd_request *r = container_of(n, struct nbd_request, link);
        r->conn = NULL;
        r->x.abandoned = !keep;
        c->in_flight--;
    }
    assert(c->in_flight == 0);
    c->state = NBD_CLOSED;
    count_unsent(c);
}

void nbd_close(struct nbd_conn *c)
{
    if (c->state == NBD_CLOSED)
        return;
    detach(c);
    conn_close(c->conn); /* the payload buffer that it may be filling stays until on_closed */
}

void nbd_fail(struct nbd_conn *c, const char *fmt, ...)
{
    char why[2 * NBD_MESSAGE_MAX];
    va_list ap;
    if (c->state == NBD_CLOSED)
        return;
    va_start(ap, fmt);
    vsnprintf(why, sizeof why, fmt, ap);
    va_end(ap);
    log_warning("NBD client %s: %s; connection closed", c->conn->peer, why);
    nbd_close(c);
}

void nbd_finish(struct nbd_conn *c)
{
    if (c->state == NBD_CLOSED || c->state == NBD_FINISHING)
        return;
    assert(c->in_flight == 0);
    list_remove(&c->memory_link);
    c->state = NBD_FINISHING;
    nbd_pause(c, NBD_PAUSE_END);
    conn_finish(c->conn);
    timer_set(c->server->reactor, &c->timer, io_now(c->server->reactor) + NBD_LINGER_NS);
}

void nbd_end_when_idle(struct nbd_conn *c)
{
    if (c->in_flight == 0) {
        nbd_finish(c);
        return;
    }
    nbd_pause(c, NBD_PAUSE_END);
    list_remove(&c->memory_link);
    c->state = NBD_DISC_SEEN;
}

static void on_timer(struct timer *t)
{
    struct nbd_conn *c = container_of(t, struct nbd_conn, timer);
    if (c->state == NBD_FINISHING)
        nbd_close(c);
    else
        nbd_handshake_timer(c);
}

/* ---- callbacks of the connection ---- */

static size_t on_data(struct conn *conn, const uint8_t *data, size_t len)
{
    struct nbd_conn *c = conn->user;
    size_t used = 0;
    while (c->state != NBD_CLOSED && c->paused == 0) {
        size_t n = nbd_in_transmission(c) ? nbd_transmit_data(c, data + used, len - used)
                                          : nbd_handshake_data(c, data + used, len - used);
        assert(n <= len - used);
        if (n == 0)
            break;
        used += n;
    }
    return used;
}

static void on_filled(struct conn *conn)
{
    struct nbd_conn *c = conn->user;
    if (c->state == NBD_PAYLOAD)
        nbd_payload_filled(c);
}

static void on_drained(struct conn *conn)
{
    struct nbd_conn *c = conn->user;
    if (c->state == NBD_CLOSED)
        return;
    count_unsent(c);
    nbd_resume(c, NBD_PAUSE_UNSENT);
}

static void on_closed(struct conn *conn, int err)
{
    struct nbd_conn *c = conn->user;
    struct nbd_server *s = c->server;
    if (c->state != NBD_CLOSED) {
        if (c->in_flight > 0 && c->state != NBD_DISC_SEEN)
            log_info("NBD client %s went away with %u requests under way", conn->peer, c->in_flight);
        else if (nbd_in_transmission(c))
            log_info("NBD client %s left %s", conn->peer, c->export->name);
        else
            log_debug("NBD client %s left during the handshake", conn->peer);
        detach(c);
    }
    if (c->payload)
        nbd_request_put(c->payload);
    list_remove(&c->link);
    s->n_connections--;
    free(c);
}

static const struct conn_handler handler = {
    .on_data = on_data,
    .on_filled = on_filled,
    .on_drained = on_drained,
    .on_closed = on_closed,
};

static size_t refused_on_data(struct conn *conn, const uint8_t *data, size_t len)
{
    return len;
}

static void refused_on_closed(struct conn *conn, int err)
{
}

static const struct conn_handler refused_handler = {.on_data = refused_on_data, .on_closed = refused_on_closed};

static void refuse(struct conn *conn, const char *why)
{
    log_warning("NBD client %s: refused: %s", conn->peer, why);
    conn->handler = &refused_handler;
    conn->user = NULL;
    conn_close(conn);
}

static const char *why_refused(const struct nbd_server *s)
{
    return s->shutting_down                         ? "the server is shutting down"
           : s->n_connections >= s->connections_max ? "too many connections"
                                                    : NULL;
}

static void take_over(struct nbd_server *s, struct nbd_conn *c)
{
    c->conn->handler = &handler;
    c->conn->user = c;
    c->server = s;
    list_push_back(&s->connections, &c->link);
    s->n_connections++;
    timer_set(s->reactor, &c->timer, c->handshake_deadline_ns);
}

void nbd_server_accept(struct nbd_server *s, struct conn *conn)
{
    const char *why = why_refused(s);
    struct nbd_conn *c = why ? NULL : calloc(1, sizeof *c);
    if (!c) {
        refuse(conn, why ? why : "out of memory");
        return;
    }
    c->conn = conn;
    c->state = NBD_CLIENT_FLAGS;
    c->timer.fn = on_timer;
    list_init(&c->memory_link);
    list_init(&c->requests);
    c->handshake_deadline_ns = io_now(s->reactor) + s->handshake_timeout_ns;
    take_over(s, c);
    nbd_greet(c);
}

/* ---- between the servers of one front end ---- */

static void on_moved(struct conn *conn)
{
    struct nbd_conn *c = conn->user;
    struct nbd_server *s = c->server;
    const char *why = why_refused(s);
    atomic_fetch_sub(&s->directory->moving, 1);
    if (why) {
        free(c);
        refuse(conn, why);
        return;
    }
    take_over(s, c);
}

void nbd_conn_move(struct nbd_conn *c, struct nbd_server *to)
{
    struct nbd_server *from = c->server;
    assert(to != from && c->state == NBD_OPTION && c->paused == 0 && c->in_flight == 0 && !c->payload);
    timer_cancel(from->reactor, &c->timer);
    list_remove(&c->link);
    from->n_connections--;
    assert(from->payload_bytes >= c->unsent_charge);
    from->payload_bytes -= c->unsent_charge;
    c->unsent_charge = 0;
    c->server = to;
    atomic_fetch_add(&to->directory->moving, 1);
    conn_move(c->conn, to->reactor, on_moved);
}

/* ---- the server ---- */

/* Transmission ends for each client when its requests under way are answered; handshakes are answered ERR_SHUTDOWN
 * meanwhile and end last. */
static void end_shutdown(struct nbd_server *s)
{
    bool busy = false;
    list_for_each_safe(n, &s->connections)
    {
        struct nbd_conn *c = container_of(n, struct nbd_conn, link);
        if (c->in_flight > 0)
            busy = true;
        else if (nbd_in_transmission(c))
            nbd_finish(c);
    }
    if (busy)
        return;
    list_for_each_safe(n, &s->connections) nbd_finish(container_of(n, struct nbd_conn, link));
    if (s->n_connections == 0 && s->drained) {
        void (*drained)(struct nbd_server *) = s->drained;
        s->drained = NULL;
        drained(s);
    }
}

static void on_turn(struct turn_hook *h)
{
    struct nbd_server *s = container_of(h, struct nbd_server, hook);
    serve_memory_waiters(s);
    if (s->shutting_down)
        end_shutdown(s);
}

void nbd_server_init(struct nbd_server *s, struct reactor *r)
{
    memset(s, 0, sizeof *s);
    s->reactor = r;
    s->payload_limit_bytes = 256u << 20;
    s->connections_max = 256;
    s->handshake_timeout_ns = 30 * NS_PER_S;
    s->attach_wait_ns = 30 * NS_PER_S;
    s->unsent_max_bytes = 64u << 20;
    s->in_flight_max = 1024;
    s->hook.fn = on_turn;
    s->stall_timer.fn = on_stall_timer;
    s->zeroes = (struct buf){.data = (uint8_t *)zero_bytes, .cap = NBD_ZEROES_BYTES, .refs = 1, .arena = r->arena};
    list_init(&s->connections);
    list_init(&s->memory_waiters);
    list_init(&s->free_requests);
    reactor_add_hook(r, &s->hook);
}

void nbd_server_free(struct nbd_server *s)
{
    assert(s->n_connections == 0 && s->requests_out == 0 && s->payload_bytes == 0);
    for (struct nbd_request_slab *slab; (slab = s->slabs);) {
        s->slabs = slab->next;
        free(slab);
    }
}

void nbd_server_export_changed(struct nbd_server *s, const struct export *x)
{
    list_for_each_safe(n, &s->connections)
    {
        struct nbd_conn *c = container_of(n, struct nbd_conn, link);
        if (c->state == NBD_ATTACHING && c->go.export == x)
            nbd_attach_check(c);
    }
}

void nbd_server_drop(struct nbd_server *s, const struct export *x, const char *why)
{
    list_for_each_safe(n, &s->connections)
    {
        struct nbd_conn *c = container_of(n, struct nbd_conn, link);
        if (nbd_in_transmission(c) && (!x || c->export == x))
            nbd_fail(c, "%s", why);
    }
}

void nbd_server_shutdown(struct nbd_server *s, void (*drained)(struct nbd_server *s))
{
    s->shutting_down = true;
    s->drained = drained;
    list_for_each_safe(n, &s->connections)
    {
        struct nbd_conn *c = container_of(n, struct nbd_conn, link);
        if (c->state == NBD_ATTACHING)
            nbd_attach_check(c);
    }
}
