/* A process's end of a connection: base/io.h's conn.
 *
 * What always holds: callbacks of a conn come from sock_turn() and from a listener's turn only; on_closed() is the
 * last; bytes are presented in order, each once consumed never again. */
#include "tests/sim/sim_net.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

static struct sim_sock *sock_of(const struct conn *c)
{
    return container_of((uintptr_t)c, struct sim_sock, c);
}

static struct sim_pipe *pipe_in(const struct sim_sock *s)
{
    return &s->wire->pipe[1 - s->side];
}

static struct sim_pipe *pipe_out(const struct sim_sock *s)
{
    return &s->wire->pipe[s->side];
}

static void out_drop(struct sim_sock *s)
{
    for (struct list *l; (l = list_pop_front(&s->out));) {
        struct sim_out *o = container_of(l, struct sim_out, node);
        buf_unref(o->buf);
        free(o);
    }
    s->unsent = 0;
}

static void sock_free(struct sim_sock *s)
{
    assert(!s->wire);
    out_drop(s);
    list_remove(&s->node);
    list_remove(&s->kick_node);
    list_remove(&s->backlog_node);
    list_remove(&s->ready.node);
    free(s);
}

void sim_sock_wake(struct sim_sock *s)
{
    sim_ready_add(s->reactor, &s->ready);
}

void sim_sock_fail(struct sim_sock *s, int err)
{
    s->failed = err;
    sim_sock_wake(s);
}

/* ---- sending ---- */

/* Arbitrary lengths, so that parsers meet every cut: often long, sometimes a few bytes. */
static uint32_t draw_piece(struct sim_world *w, size_t max)
{
    uint64_t mode = sim_rand(w) % 8;
    uint64_t limit = mode == 0 ? 16 : mode <= 2 ? 1500 : w->config.chunk_max;
    if (limit > w->config.chunk_max)
        limit = w->config.chunk_max;
    uint64_t n = 1 + sim_rand(w) % limit;
    return (uint32_t)(n < max ? n : max);
}

static void out_take(struct sim_sock *s, uint8_t *to, uint32_t len)
{
    s->unsent -= len;
    while (len > 0) {
        struct sim_out *o = container_of(s->out.next, struct sim_out, node);
        uint32_t part = len < o->len ? len : o->len;
        memcpy(to, o->ptr, part);
        to += part;
        len -= part;
        o->ptr += part;
        o->len -= part;
        if (o->len)
            continue;
        list_remove(&o->node);
        buf_unref(o->buf);
        free(o);
    }
}

/* Hands the kernel what it takes; the rest waits for room. */
static void sock_pump(struct sim_sock *s)
{
    if (!s->wire || !s->established || s->failed || s->closed || s->moving)
        return;
    struct sim_pipe *p = pipe_out(s);
    bool above = s->unsent >= s->low_water;
    for (size_t room; s->unsent && (room = sim_pipe_room(p)) > 0;) {
        uint32_t len = draw_piece(s->reactor->world, room < s->unsent ? room : s->unsent);
        struct sim_piece *piece = malloc(sizeof *piece + len);
        assert(piece);
        piece->len = len;
        out_take(s, piece->data, len);
        sim_pipe_put(p, PIECE_DATA, piece);
    }
    s->blocked = s->unsent > 0;
    if (above && s->unsent < s->low_water && s->c.handler && s->c.handler->on_drained) {
        s->drained_due = true;
        sim_sock_wake(s);
    }
    if (s->finishing && !s->unsent) {
        sim_pipe_put(p, PIECE_FIN, NULL);
        sim_wire_drop_end(s->wire, s->side, false);
        s->closed = true;
        sim_sock_wake(s);
    }
}

/* At the end of the turn; outside of one, in a turn that comes. */
static void sock_want_kick(struct sim_sock *s)
{
    if (list_empty(&s->kick_node))
        list_push_back(&s->reactor->kick, &s->kick_node);
    if (!s->reactor->in_turn)
        sim_wake(s->reactor);
}

void sim_net_kick(struct sim_reactor *r)
{
    for (struct list *l; (l = list_pop_front(&r->kick));)
        sock_pump(container_of(l, struct sim_sock, kick_node));
}

void sim_net_send(struct conn *c, const struct segment *segs, unsigned n)
{
    struct sim_sock *s = sock_of(c);
    if (s->reactor->gone || s->closed || s->failed || s->finishing)
        return;
    const struct sim_tap *tap = &s->reactor->world->tap;
    if (tap->sent && s->wire)
        tap->sent(tap->user, s->reactor->host->name, 2 * s->wire->id + s->side, s->wire->address, segs, n);
    const struct sim_trace *trace = &s->reactor->world->trace;
    if (trace->sent && s->wire)
        trace->sent(trace->user, s->reactor->host->name, s->wire->host[1 - s->side]->name, segs, n);
    for (unsigned i = 0; i < n; i++) {
        const struct segment *g = &segs[i];
        if (!g->len)
            continue;
        struct sim_out *o = malloc(sizeof *o + (g->buf ? 0 : g->len));
        assert(o);
        o->len = g->len;
        o->buf = g->buf;
        if (g->buf) {
            const uint8_t *ptr = g->ptr;
            assert(ptr >= g->buf->data && ptr + g->len <= g->buf->data + g->buf->cap &&
                   "a segment lies inside its buffer");
            o->ptr = ptr;
            buf_ref(g->buf);
        } else {
            o->ptr = memcpy(o->copy, g->ptr, g->len);
        }
        s->unsent += g->len;
        list_push_back(&s->out, &o->node);
    }
    sock_want_kick(s);
}

size_t sim_net_unsent(const struct conn *c)
{
    return sock_of(c)->unsent;
}

void sim_net_set_low_water(struct conn *c, size_t bytes)
{
    sock_of(c)->low_water = bytes;
}

/* ---- receiving ---- */

static bool may_receive(const struct sim_sock *s)
{
    return s->wire && !s->paused && !s->finishing && !s->closed && !s->moving && !s->reactor->gone;
}

/* Presents the window: a copy of exactly its length that is gone after the call, so that reading beyond it or later is
 * seen. */
static size_t present(struct sim_sock *s, const uint8_t *data, size_t len)
{
    uint8_t *copy = malloc(len);
    assert(copy);
    memcpy(copy, data, len);
    size_t used = s->c.handler->on_data(&s->c, copy, len);
    free(copy);
    return used;
}

static void fill(struct sim_sock *s)
{
    struct sim_pipe *p = pipe_in(s);
    size_t n = p->rx_n < s->into_left ? p->rx_n : s->into_left;
    if (n)
        memcpy(s->into, p->rx + p->rx_head, n);
    s->into += n;
    s->into_left -= n;
    sim_pipe_consume(p, n);
}

static void sock_deliver(struct sim_sock *s)
{
    while (may_receive(s)) {
        struct sim_pipe *p = pipe_in(s);
        if (s->into) {
            fill(s);
            if (s->into_left)
                return;
            s->into = NULL;
            s->fresh = true;
            s->c.handler->on_filled(&s->c);
            continue;
        }
        if (!p->rx_n || !s->fresh)
            return;
        size_t len = p->rx_n < CONN_WINDOW ? p->rx_n : CONN_WINDOW;
        s->fresh = p->rx_n > len;
        size_t used = present(s, p->rx + p->rx_head, len);
        assert(used <= len && "more was consumed than there is");
        if (!s->wire)
            return;
        sim_pipe_consume(p, used);
        assert((used > 0 || len < CONN_WINDOW || !may_receive(s) || s->into) &&
               "what must be seen whole does not fit the window");
    }
}

void sim_net_recv_into(struct conn *c, void *ptr, size_t len)
{
    struct sim_sock *s = sock_of(c);
    if (s->reactor->gone || s->closed)
        return;
    assert(len > 0 && !s->into);
    s->into = ptr;
    s->into_left = len;
    memset(ptr, 0xE5, len);
    sim_sock_wake(s);
}

void sim_net_recv_pause(struct conn *c, bool on)
{
    struct sim_sock *s = sock_of(c);
    if (s->paused && !on) {
        s->fresh = true;
        sim_sock_wake(s);
    }
    s->paused = on;
}

/* ---- a turn ---- */

static void sock_tell_closed(struct sim_sock *s, int err)
{
    struct sim_reactor *r = s->reactor;
    if (s->wire)
        sim_wire_drop_end(s->wire, s->side, false);
    out_drop(s);
    sim_note(r->world, r, 81, (uint64_t)(int64_t)err, "connection to %s closed: %d", s->c.peer, err);
    s->c.handler->on_closed(&s->c, err);
    sock_free(s);
}

static void sock_turn(struct sim_ready *ready)
{
    struct sim_sock *s = container_of(ready, struct sim_sock, ready);
    struct sim_reactor *r = s->reactor;
    if (s->moving || (!s->outgoing && !s->told))
        return; /* its on_accept(), or what conn_move() was given, comes first */
    if (s->outgoing && s->established && !s->told && !s->closed) {
        s->told = true;
        sim_note(r->world, r, 82, s->id, "connected to %s", s->c.peer);
        s->c.handler->on_open(&s->c);
        if (r->gone)
            return;
        sock_want_kick(s);
    }
    if (s->blocked)
        sock_pump(s);
    if (s->established)
        sock_deliver(s);
    if (!r->gone && s->drained_due && !s->moving && !s->closed && !s->failed) {
        s->drained_due = false;
        s->c.handler->on_drained(&s->c);
    }
    if (r->gone || s->moving)
        return;
    if (s->closed) {
        if (s->ready.node.next == &s->ready.node) /* else it was closed in this very turn, and is told in the next */
            sock_tell_closed(s, -ECANCELED);
    } else if (s->failed) {
        sock_tell_closed(s, -s->failed);
    } else if (may_receive(s) && pipe_in(s)->fin && (!pipe_in(s)->rx_n || !s->fresh)) {
        sock_tell_closed(s, 0);
    }
}

/* ---- moving to another reactor ---- */

static void sock_arrives(struct reactor_msg *m)
{
    struct sim_sock *s = container_of(m, struct sim_sock, move);
    struct sim_reactor *to = s->move_to;
    list_remove(&s->node);
    list_remove(&s->kick_node);
    list_remove(&s->ready.node);
    list_push_back(&to->conns, &s->node);
    s->reactor = to;
    s->c.reactor = &to->r;
    s->c.handler = NULL;
    s->moving = false;
    s->fresh = true;
    sim_note(to->world, to, 86, s->id, "takes over the connection of %s", s->c.peer);
    s->moved(&s->c);
    if (to->gone)
        return;
    assert(s->c.handler && "it must set the handler");
    sock_want_kick(s);
    sim_sock_wake(s);
}

void sim_net_move(struct conn *c, struct reactor *to, void (*fn)(struct conn *c))
{
    struct sim_sock *s = sock_of(c);
    if (s->reactor->gone)
        return;
    assert(s->told && !s->closed && !s->finishing && !s->into && !s->moving);
    s->moving = true;
    s->paused = s->drained_due = false;
    s->low_water = 0;
    s->move.fn = sock_arrives;
    s->move_to = sim_reactor_of(to);
    s->moved = fn;
    /* What is unsent goes along, but not in this reactor's buffers. */
    list_for_each_safe (l, &s->out) {
        struct sim_out *o = container_of(l, struct sim_out, node);
        if (!o->buf)
            continue;
        struct sim_out *copy = malloc(sizeof *copy + o->len);
        assert(copy);
        *copy = (struct sim_out){.len = o->len};
        copy->ptr = memcpy(copy->copy, o->ptr, o->len);
        list_insert(&o->node, o->node.next, &copy->node);
        list_remove(&o->node);
        buf_unref(o->buf);
        free(o);
    }
    sim_mail_post(&s->reactor->r, to, &s->move);
}

/* ---- beginning and end ---- */

struct sim_sock *sim_sock_new(struct sim_reactor *r, struct sim_wire *w, unsigned side)
{
    struct sim_sock *s = calloc(1, sizeof *s);
    assert(s);
    s->c.reactor = &r->r;
    s->reactor = r;
    s->wire = w;
    s->side = side;
    s->id = ++r->world->net->n_socks;
    s->ready.fn = sock_turn;
    list_init(&s->ready.node);
    list_init(&s->kick_node);
    list_init(&s->backlog_node);
    list_init(&s->out);
    list_push_back(&r->conns, &s->node);
    if (w)
        w->end[side] = s;
    return s;
}

int sim_net_connect(struct reactor *io, const char *address, const struct conn_handler *h, void *user,
                    struct conn **ret)
{
    struct sim_reactor *r = sim_reactor_of(io);
    int err = sim_address_check(address);
    if (err)
        return err;
    if (r->gone)
        return -ENETDOWN;
    struct sim_sock *s = sim_sock_new(r, NULL, 0);
    s->outgoing = true;
    s->c.handler = h;
    s->c.user = user;
    strcpy(s->c.peer, address);
    s->wire = sim_wire_new(s, address);
    sim_note(r->world, r, 83, s->id, "connects to %s", address);
    *ret = &s->c;
    return 0;
}

void sim_net_close(struct conn *c)
{
    struct sim_sock *s = sock_of(c);
    if (s->reactor->gone || s->closed)
        return;
    if (s->wire) {
        /* As Linux does: bytes that nobody read make it a reset. */
        bool rst = pipe_in(s)->rx_n > 0 || sim_chance(s->reactor->world, 4);
        if (s->established)
            sim_pipe_put(pipe_out(s), rst ? PIECE_RST : PIECE_FIN, NULL);
        sim_wire_drop_end(s->wire, s->side, false);
    }
    out_drop(s);
    s->closed = true;
    s->into = NULL;
    list_remove(&s->ready.node); /* it may be waiting in this very turn: on_closed() comes in a later one */
    sim_sock_wake(s);
}

void sim_net_finish(struct conn *c)
{
    struct sim_sock *s = sock_of(c);
    if (s->reactor->gone || s->closed || s->finishing)
        return;
    s->finishing = true;
    s->into = NULL;
    sock_want_kick(s);
}

void sim_net_reap(struct sim_reactor *r)
{
    list_for_each_safe (l, &r->conns)
        sock_free(container_of(l, struct sim_sock, node));
    for (struct list *l; (l = list_pop_front(&r->listeners));) {
        struct sim_listener *s = container_of(l, struct sim_listener, node);
        list_remove(&s->ready.node);
        free(s);
    }
    list_init(&r->kick);
}
