/* The front end's connection to one replica: see replica_link.h. */
#include "nbdserver/replica_link.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

#include "base/log.h"
#include "base/mark.h"

static void link_connect(struct replica_link *l);

/* Remembers why the link is down. The same reason again and again is one log line, not one a second. */
PRINTF_LIKE(2, 3) static void link_problem(struct replica_link *l, const char *fmt, ...)
{
    char text[sizeof l->problem];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (strcmp(text, l->problem) == 0)
        return;
    memcpy(l->problem, text, sizeof text);
    log_warning("volume %s: %s (%s): %s", l->volume, l->replica->name, l->replica->address, text);
}

static void link_retry_later(struct replica_link *l)
{
    uint64_t random;
    io_random(l->reactor, &random, sizeof random);
    uint64_t half = l->backoff_ns / 2;
    l->state = LINK_BACKOFF;
    timer_set(l->reactor, &l->timer, io_now(l->reactor) + half + random % (half + 1));
    l->backoff_ns = l->backoff_ns * 2 < LINK_BACKOFF_MAX_NS ? l->backoff_ns * 2 : LINK_BACKOFF_MAX_NS;
}

static void link_stopped(struct replica_link *l)
{
    timer_cancel(l->reactor, &l->timer);
    l->state = LINK_STOPPED;
    l->handler->stopped(l);
}

/* The connection that there is goes away; on_closed ends the state CLOSING. */
static void link_close(struct replica_link *l)
{
    bool was_up = l->state == LINK_UP;
    assert(l->state == LINK_CONNECTING || l->state == LINK_HELLO || l->state == LINK_UP);
    timer_cancel(l->reactor, &l->timer);
    l->state = LINK_CLOSING;
    if (was_up && !l->stopping)
        l->handler->down(l);
    wire_peer_close(&l->peer);
}

static void on_open(struct wire_peer *p)
{
    struct replica_link *l = p->user;
    if (l->state != LINK_CONNECTING)
        return;
    l->state = LINK_HELLO;
    struct msg m = { .type = MSG_HELLO };
    m.u.hello.version = WIRE_VERSION;
    m.u.hello.role = ROLE_FRONTEND;
    m.u.hello.cluster = l->cluster;
    m.u.hello.identity = l->self;
    memcpy(m.u.hello.name, l->self_name, sizeof m.u.hello.name);
    wire_peer_send(p, &m);
}

/* The replica's HELLO: is it the one that the configuration means? */
static bool link_check_hello(struct replica_link *l, const struct msg *m)
{
    char have[37], want[37];
    if (m->type != MSG_HELLO)
        link_problem(l, "it began with message %u instead of HELLO", m->type);
    else if (m->u.hello.version != WIRE_VERSION)
        link_problem(l, "it speaks protocol version %u, this front end speaks %u", m->u.hello.version, WIRE_VERSION);
    else if (!uuid_equal(&m->u.hello.cluster, &l->cluster))
        link_problem(l, "it belongs to cluster %s, not to %s; check the address in the configuration",
                     uuid_format(&m->u.hello.cluster, have), uuid_format(&l->cluster, want));
    else if (m->u.hello.role != ROLE_REPLICA)
        link_problem(l, "it is no replica; check the address in the configuration");
    else if (!uuid_equal(&m->u.hello.identity, &l->replica->identity))
        link_problem(l, "its identity is %s, the configuration says %s: another replica or a new disk stands there; it is not used",
                     uuid_format(&m->u.hello.identity, have), uuid_format(&l->replica->identity, want));
    else
        return true;
    return false;
}

static void on_msg(struct wire_peer *p, const struct msg *m, struct buf *payload)
{
    struct replica_link *l = p->user;
    if (m->type == MSG_REFUSED && (l->state == LINK_HELLO || l->state == LINK_UP)) {
        MARK("link: refused by the replica");
        link_problem(l, "refused: %.*s", (int)sizeof m->u.refused.reason - 1, m->u.refused.reason);
        link_close(l);
    } else if (l->state == LINK_UP) {
        l->heard_ns = io_turn_now(l->reactor);
        l->handler->msg(l, m, payload);
    } else if (l->state == LINK_HELLO) {
        if (!link_check_hello(l, m)) {
            link_close(l);
            return;
        }
        timer_cancel(l->reactor, &l->timer);
        l->state = LINK_UP;
        l->backoff_ns = LINK_BACKOFF_MIN_NS;
        l->heard_ns = io_now(l->reactor);
        l->connects++;
        l->problem[0] = 0;
        log_info("volume %s: connected to %s (%s)", l->volume, l->replica->name, l->replica->address);
        l->handler->up(l);
    }
}

static struct buf *on_payload_buf(struct wire_peer *p, const struct msg *m, uint32_t len)
{
    struct replica_link *l = p->user;
    return l->state == LINK_UP ? l->handler->payload_buf(l, m, len) : NULL;
}

static void on_closed(struct wire_peer *p, int err, const char *reason)
{
    struct replica_link *l = p->user;
    bool was_up = l->state == LINK_UP;
    timer_cancel(l->reactor, &l->timer);
    if (l->stopping) {
        link_stopped(l);
        return;
    }
    if (l->state != LINK_CLOSING) {
        if (reason)
            link_problem(l, "protocol violation: %s", reason);
        else if (was_up)
            link_problem(l, "connection lost: %s", err ? strerror(-err) : "closed by the replica");
        else
            link_problem(l, "cannot connect: %s", err ? strerror(-err) : "closed by the replica");
    }
    link_retry_later(l);
    if (was_up)
        l->handler->down(l);
}

static const struct wire_handler link_wire = {
    .on_open = on_open,
    .on_msg = on_msg,
    .payload_buf = on_payload_buf,
    .on_closed = on_closed,
};

static void link_connect(struct replica_link *l)
{
    memset(&l->peer, 0, sizeof l->peer);
    l->state = LINK_CONNECTING;
    int rc = wire_peer_connect(&l->peer, l->reactor, l->replica->address, &link_wire, l);
    if (rc < 0) {
        if (rc == -EHOSTUNREACH) /* found without a packet: io_connect looks names up */
            link_problem(l, "cannot resolve %.*s", (int)(strrchr(l->replica->address, ':') - l->replica->address), l->replica->address);
        else
            link_problem(l, "cannot connect: %s", strerror(-rc));
        link_retry_later(l);
        return;
    }
    /* Blocks that a replica sends are verified where they are used, for another replica is asked for a bad one; a bad entry (VALUE) ends the connection. */
    l->peer.verify_payload = true;
    timer_set(l->reactor, &l->timer, io_now(l->reactor) + LINK_HELLO_TIMEOUT_NS);
}

static void on_timer(struct timer *t)
{
    struct replica_link *l = container_of(t, struct replica_link, timer);
    switch (l->state) {
    case LINK_BACKOFF:
        link_connect(l);
        break;
    case LINK_CONNECTING:
    case LINK_HELLO:
        MARK("link: no answer in time");
        link_problem(l, "no answer within %u ms", (unsigned)(LINK_HELLO_TIMEOUT_NS / NS_PER_MS));
        link_close(l);
        break;
    case LINK_UP: /* being stopped: it had its time to send the rest */
    case LINK_CLOSING:
        l->state = LINK_CLOSING;
        wire_peer_close(&l->peer);
        break;
    case LINK_STOPPED:
        break;
    }
}

void replica_link_init(struct replica_link *l, struct reactor *r, const struct replica_config *replica, const struct uuid *cluster,
                       const struct replica_link_handler *handler, void *user, uint32_t index)
{
    memset(l, 0, sizeof *l);
    l->reactor = r;
    l->handler = handler;
    l->user = user;
    l->index = index;
    l->replica = replica;
    l->cluster = *cluster;
    l->volume = "?";
    l->timer.fn = on_timer;
    l->state = LINK_STOPPED;
    l->backoff_ns = LINK_BACKOFF_MIN_NS;
}

void replica_link_start(struct replica_link *l, const struct uuid *self, const char *self_name)
{
    assert(l->state == LINK_STOPPED);
    l->self = *self;
    snprintf(l->self_name, sizeof l->self_name, "%s", self_name);
    l->stopping = false;
    link_connect(l);
}

void replica_link_send(struct replica_link *l, const struct msg *m)
{
    if (l->state == LINK_UP)
        wire_peer_send(&l->peer, m);
}

void replica_link_drop(struct replica_link *l, const char *why)
{
    if (l->state != LINK_UP && l->state != LINK_HELLO && l->state != LINK_CONNECTING)
        return;
    if (why)
        link_problem(l, "%s", why);
    link_close(l);
}

void replica_link_rename(struct replica_link *l, const struct uuid *self)
{
    l->self = *self;
    l->backoff_ns = LINK_BACKOFF_MIN_NS;
    replica_link_drop(l, NULL);
}

void replica_link_stop(struct replica_link *l)
{
    if (l->state == LINK_STOPPED || l->state == LINK_BACKOFF) {
        link_stopped(l);
        return;
    }
    l->stopping = true;
    if (l->state == LINK_UP) {
        conn_finish(l->peer.conn);
        timer_set(l->reactor, &l->timer, io_now(l->reactor) + LINK_FINISH_TIMEOUT_NS);
    } else if (l->state != LINK_CLOSING) {
        link_close(l);
    }
}
