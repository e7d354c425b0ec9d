/* What operators ask and order: see operator_server.h. What always holds: a stranger's first message is HELLO, and nobody keeps more than a connection. */
#include "nbdserver/operator_server.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

struct operator_connection {
    struct list link;
    struct wire_peer peer;
    struct operator_server *server;
    bool greeted;
    uint64_t id;
    uint64_t request; /* a MEMBERS that is not answered yet; 0: none */
    uint64_t cookie;
};

static void on_hello(struct operator_connection *c, const struct msg *m)
{
    struct operator_server *s = c->server;
    if (m->type != MSG_HELLO) {
        wire_peer_refuse(&c->peer, "%s: HELLO comes first", s->name);
        return;
    }
    if (m->u.hello.version != WIRE_VERSION) {
        wire_peer_refuse(&c->peer, "%s: protocol version %u, not %u", s->name, WIRE_VERSION, m->u.hello.version);
        return;
    }
    c->greeted = true;
    struct msg answer = { .type = MSG_HELLO, .cookie = m->cookie };
    answer.u.hello.version = WIRE_VERSION;
    answer.u.hello.role = ROLE_FRONTEND;
    answer.u.hello.cluster = s->cluster;
    answer.u.hello.identity = s->identity;
    memcpy(answer.u.hello.name, s->name, sizeof answer.u.hello.name);
    wire_peer_send(&c->peer, &answer);
}

static void on_status(struct operator_connection *c, const struct msg *m)
{
    struct operator_server *s = c->server;
    if (s->status && s->status(s->user, (struct operator_caller){c->id, m->cookie}))
        return;
    struct buf *text = buf_alloc_must(s->reactor->arena, WIRE_BODY_MAX);
    struct msg answer = { .type = MSG_STATUS_REPLY, .cookie = m->cookie };
    answer.u.status_reply.json = (const char *)text->data;
    answer.u.status_reply.len = (uint32_t)s->render(s->user, (char *)text->data, WIRE_BODY_MAX);
    wire_peer_send(&c->peer, &answer);
    buf_unref(text);
}

static void answer_done(struct operator_connection *c, uint64_t cookie, int error, const char *text)
{
    struct msg m = { .type = MSG_DONE, .cookie = cookie, .u.done.error = error };
    snprintf(m.u.done.text, sizeof m.u.done.text, "%s", text);
    wire_peer_send(&c->peer, &m);
}

static void answer_address(struct operator_connection *c, uint64_t cookie, int err)
{
    answer_done(c, cookie, err, err == 0 ? "" : err == ENOSPC ? "it knows too many replicas already" : strerror(err));
}

static void on_address(struct operator_connection *c, const struct msg *m)
{
    struct operator_server *s = c->server;
    struct operator_caller who = { c->id, m->cookie };
    int err = s->address(s->user, who, &m->u.address.identity, m->u.address.name, m->u.address.address);
    if (err != -EINPROGRESS)
        answer_address(c, m->cookie, err);
}

static void on_members(struct operator_connection *c, const struct msg *m)
{
    struct operator_server *s = c->server;
    if (c->request) {
        answer_done(c, m->cookie, EBUSY, "the request before this one is not answered yet");
        return;
    }
    c->request = ++s->n_requests;
    c->cookie = m->cookie;
    s->members(s->user, c->request, m->group, m->u.members.verb, &m->u.members.membership);
}

static struct operator_connection *find_caller(struct operator_server *s, struct operator_caller who)
{
    list_for_each(p, &s->connections) {
        struct operator_connection *c = container_of(p, struct operator_connection, link);
        if (c->id == who.connection)
            return c;
    }
    return NULL;
}

void operator_server_status(struct operator_server *s, struct operator_caller who, const char *text, size_t len)
{
    struct operator_connection *c = find_caller(s, who);
    struct msg answer = { .type = MSG_STATUS_REPLY, .cookie = who.cookie, .u.status_reply = { .json = text, .len = (uint32_t)len } };
    if (c)
        wire_peer_send(&c->peer, &answer);
}

void operator_server_address(struct operator_server *s, struct operator_caller who, int error)
{
    struct operator_connection *c = find_caller(s, who);
    if (c)
        answer_address(c, who.cookie, error);
}

void operator_server_done(struct operator_server *s, uint64_t request, int error, const char *text)
{
    list_for_each(p, &s->connections) {
        struct operator_connection *c = container_of(p, struct operator_connection, link);
        if (c->request != request)
            continue;
        c->request = 0;
        answer_done(c, c->cookie, error, text);
        return;
    }
}

static void on_msg(struct wire_peer *p, const struct msg *m, struct buf *payload)
{
    struct operator_connection *c = p->user;
    if (!c->greeted)
        on_hello(c, m);
    else if (m->type == MSG_STATUS)
        on_status(c, m);
    else if (m->type == MSG_ADDRESS)
        on_address(c, m);
    else if (m->type == MSG_MEMBERS)
        on_members(c, m);
    else
        wire_peer_refuse(p, "%s: STATUS, ADDRESS and MEMBERS are answered here, nothing else", c->server->name);
}

static void on_closed(struct wire_peer *p, int err, const char *reason)
{
    struct operator_connection *c = p->user;
    list_remove(&c->link);
    c->server->n_connections--;
    free(c);
}

static const struct wire_handler operator_wire = { .on_msg = on_msg, .on_closed = on_closed };

/* One too many (or out of memory): dropped. A conn must have a handler to its end. */
static size_t unwanted_data(struct conn *conn, const uint8_t *data, size_t len)
{
    return len;
}

static void unwanted_closed(struct conn *conn, int err)
{
}

static const struct conn_handler unwanted = { .on_data = unwanted_data, .on_closed = unwanted_closed };

static void on_accept(struct listener *l, struct conn *conn)
{
    struct operator_server *s = l->user;
    struct operator_connection *c = s->n_connections < OPERATOR_CONNECTIONS_MAX ? calloc(1, sizeof *c) : NULL;
    if (!c) {
        conn->handler = &unwanted;
        conn_close(conn);
        return;
    }
    c->server = s;
    c->id = ++s->n_callers;
    list_push_back(&s->connections, &c->link);
    s->n_connections++;
    wire_peer_accept(&c->peer, conn, &operator_wire, c);
}

int operator_server_open(struct operator_server *s, struct reactor *r, const char *address)
{
    s->reactor = r;
    list_init(&s->connections);
    s->n_connections = 0;
    io_random(r, s->identity.b, sizeof s->identity.b);
    return io_listen(r, address, on_accept, s, &s->listener);
}

void operator_server_close(struct operator_server *s)
{
    listener_close(s->listener);
    list_for_each_safe(p, &s->connections)
        wire_peer_close(&container_of(p, struct operator_connection, link)->peer);
}
