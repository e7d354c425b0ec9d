/* What is between processes: links, wires, and their bytes under way.
 *
 * What always holds: the bytes of one direction arrive in order and once, or the connection ends; a link that is down
 * delays them (as TCP repeats what was lost) and loses nothing by itself. */
#include "tests/sim/sim_net.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/crc32c.h"

#define RX_MIN_BYTES 4096u
#define RETRY_MIN_NS (50 * NS_PER_MS)
#define RETRY_MAX_NS (2 * NS_PER_S)

static uint64_t next_retry(uint64_t *retry_ns)
{
    uint64_t now = *retry_ns ? *retry_ns : RETRY_MIN_NS;
    *retry_ns = 2 * now < RETRY_MAX_NS ? 2 * now : RETRY_MAX_NS;
    return now;
}

/* ---- links ---- */

static struct sim_link *link_get(struct sim_world *w, struct sim_host *from, struct sim_host *to)
{
    list_for_each (l, &w->net->links) {
        struct sim_link_node *n = container_of(l, struct sim_link_node, node);
        if (n->from == from && n->to == to)
            return &n->link;
    }
    struct sim_link_node *n = calloc(1, sizeof *n);
    assert(n);
    *n = (struct sim_link_node){.from = from, .to = to, .link.latency_ns = w->config.latency_ns};
    list_push_back(&w->net->links, &n->node);
    return &n->link;
}

struct sim_link *sim_link(struct sim_world *w, const char *from, const char *to)
{
    return link_get(w, sim_host_get(w, from), sim_host_get(w, to));
}

/* How long until len bytes that are sent now arrive. */
static uint64_t link_delay(struct sim_world *w, struct sim_link *l, uint32_t len)
{
    uint64_t ns = sim_draw(w, l->latency_ns);
    if (l->ns_per_kib && len) {
        uint64_t start = l->busy_until_ns > w->now_ns ? l->busy_until_ns : w->now_ns;
        l->busy_until_ns = start + (uint64_t)l->ns_per_kib * len / 1024;
        ns += l->busy_until_ns - w->now_ns;
    }
    if (sim_chance(w, l->tail_one_in))
        ns += sim_draw(w, l->tail_ns);
    return ns;
}

static uint64_t host_pair(struct sim_world *w, const char *a, const char *b)
{
    return (uint64_t)sim_host_get(w, a)->id << 32 | sim_host_get(w, b)->id;
}

void sim_cut_one_way(struct sim_world *w, const char *from, const char *to)
{
    sim_note(w, NULL, 70, host_pair(w, from, to), "link %s -> %s is cut", from, to);
    sim_link(w, from, to)->down = true;
}

void sim_cut(struct sim_world *w, const char *a, const char *b)
{
    sim_cut_one_way(w, a, b);
    sim_cut_one_way(w, b, a);
}

void sim_heal(struct sim_world *w, const char *a, const char *b)
{
    sim_note(w, NULL, 71, host_pair(w, a, b), "links between %s and %s are healed", a, b);
    struct sim_link *link[2] = {sim_link(w, a, b), sim_link(w, b, a)};
    link[0]->down = link[1]->down = false;
    list_for_each (l, &w->net->wires) {
        struct sim_wire *wire = container_of(l, struct sim_wire, node);
        for (unsigned i = 0; i < 2; i++) {
            struct sim_pipe *p = &wire->pipe[i];
            if ((p->link == link[0] || p->link == link[1]) && p->retry_ns && p->arrival.index)
                sim_event_set(w, &p->arrival, w->now_ns + link_delay(w, p->link, 0));
        }
    }
}

/* ---- pipes ---- */

static void pipe_arm(struct sim_pipe *p)
{
    struct sim_world *w = p->wire->world;
    if (list_empty(&p->pieces))
        sim_event_cancel(w, &p->arrival);
    else if (!p->arrival.index)
        sim_event_set(w, &p->arrival, container_of(p->pieces.next, struct sim_piece, node)->at_ns);
}

void sim_pipe_put(struct sim_pipe *p, enum piece_kind kind, struct sim_piece *piece)
{
    struct sim_world *w = p->wire->world;
    if (p->rst_queued) {
        free(piece); /* nothing follows a reset */
        return;
    }
    p->rst_queued = kind == PIECE_RST;
    if (!piece) {
        piece = calloc(1, sizeof *piece);
        assert(piece);
    }
    piece->kind = kind;
    uint64_t at = w->now_ns + link_delay(w, p->link, piece->len);
    piece->at_ns = p->last_at_ns = at > p->last_at_ns ? at : p->last_at_ns;
    p->held += piece->len;
    list_push_back(&p->pieces, &piece->node);
    pipe_arm(p);
}

size_t sim_pipe_room(const struct sim_pipe *p)
{
    size_t cap = p->wire->world->config.pipe_bytes;
    return p->held < cap ? cap - p->held : 0;
}

static void pipe_space(struct sim_event *e)
{
    struct sim_pipe *p = container_of(e, struct sim_pipe, space);
    struct sim_sock *sender = p->wire->end[p - p->wire->pipe];
    if (sender)
        sim_sock_wake(sender);
}

void sim_pipe_consume(struct sim_pipe *p, size_t n)
{
    struct sim_wire *wire = p->wire;
    struct sim_sock *sender = wire->end[p - wire->pipe];
    assert(n <= p->rx_n && n <= p->held);
    p->rx_head += n;
    p->rx_n -= n;
    p->held -= n;
    if (n && sender && sender->blocked && !p->space.index)
        sim_event_set(wire->world, &p->space, wire->world->now_ns + link_delay(wire->world, p->link, 0));
}

static void pipe_purge(struct sim_pipe *p)
{
    for (struct list *l; (l = list_pop_front(&p->pieces));) {
        struct sim_piece *piece = container_of(l, struct sim_piece, node);
        p->held -= piece->len;
        free(piece);
    }
    pipe_arm(p);
}

/* Room at the end of rx for what arrives: it never holds more than pipe_bytes, but begins anywhere. Most connections never have much unread, and what is
 * read at once stays in the same few cache lines. */
static uint8_t *pipe_rx_tail(struct sim_pipe *p, uint32_t len)
{
    size_t need = p->rx_n + len;
    assert(need <= p->wire->world->config.pipe_bytes);
    if (p->rx_n == 0)
        p->rx_head = 0;
    if (need > p->rx_cap) {
        size_t cap = p->rx_cap ? p->rx_cap : RX_MIN_BYTES;
        while (cap < need)
            cap *= 2;
        uint8_t *rx = malloc(cap);
        assert(rx);
        if (p->rx_n)
            memcpy(rx, p->rx + p->rx_head, p->rx_n);
        free(p->rx);
        p->rx = rx;
        p->rx_cap = cap;
        p->rx_head = 0;
    } else if (p->rx_head + need > p->rx_cap) {
        memmove(p->rx, p->rx + p->rx_head, p->rx_n);
        p->rx_head = 0;
    }
    return p->rx + p->rx_head + p->rx_n;
}

static void wire_reset(struct sim_wire *wire)
{
    sim_note(wire->world, NULL, 72, wire->id, "connection %u is reset", wire->id);
    for (unsigned i = 0; i < 2; i++) {
        if (wire->pipe[i].rst_queued)
            continue; /* the one that is under way is the last, and must not be lost */
        pipe_purge(&wire->pipe[i]);
        sim_pipe_put(&wire->pipe[i], PIECE_RST, NULL);
    }
}

static void data_arrives(struct sim_pipe *p, struct sim_piece *piece, struct sim_sock *to)
{
    struct sim_link *link = p->link;
    uint32_t len = piece->len;
    bool reset = link->reset_after_bytes && len >= link->reset_after_bytes;
    if (reset)
        len = (uint32_t)link->reset_after_bytes;
    if (link->reset_after_bytes)
        link->reset_after_bytes -= len;
    link->carried_bytes += len;
    sim_fold(p->wire->world, crc32c(piece->data, len));
    memcpy(pipe_rx_tail(p, len), piece->data, len);
    p->rx_n += len;
    p->held -= piece->len - len;
    to->fresh = true;
    sim_sock_wake(to);
    if (reset)
        wire_reset(p->wire);
}

static void piece_arrives(struct sim_pipe *p, struct sim_piece *piece, struct sim_sock *to)
{
    switch (piece->kind) {
    case PIECE_DATA:
        data_arrives(p, piece, to);
        break;
    case PIECE_OPEN:
        to->established = true;
        sim_sock_wake(to);
        break;
    case PIECE_FIN:
        p->fin = true;
        sim_sock_wake(to);
        break;
    case PIECE_RST:
        /* What had arrived may still be read, or not. */
        if (to->established && sim_chance(p->wire->world, 2)) {
            p->held -= p->rx_n;
            p->rx_n = 0;
        }
        sim_sock_fail(to, to->established ? ECONNRESET : ECONNREFUSED);
        break;
    }
}

static void pipe_arrival(struct sim_event *e)
{
    static const char *const names[] = {"data", "open", "fin", "rst"};
    struct sim_pipe *p = container_of(e, struct sim_pipe, arrival);
    struct sim_wire *wire = p->wire;
    struct sim_world *w = wire->world;
    unsigned to_side = 1 - (unsigned)(p - wire->pipe);
    struct sim_sock *to = wire->end[to_side];
    struct sim_piece *piece = container_of(p->pieces.next, struct sim_piece, node);

    bool nobody = !to && wire->silent[to_side] && wire->host[to_side]->silent;
    if (p->link->down || nobody) {
        sim_event_set(w, &p->arrival, w->now_ns + next_retry(&p->retry_ns));
        return;
    }
    p->retry_ns = 0;
    list_remove(&piece->node);
    sim_note(w, to ? to->reactor : NULL, 73 + piece->kind, (uint64_t)wire->id << 32 | piece->len,
             "connection %u: %s arrives from %s, %u bytes", wire->id, names[piece->kind], wire->host[1 - to_side]->name,
             piece->len);
    pipe_arm(p);
    if (to) {
        piece_arrives(p, piece, to);
    } else {
        p->held -= piece->len;
        if (piece->kind == PIECE_DATA || piece->kind == PIECE_OPEN) /* "there is no such connection" */
            sim_pipe_put(&wire->pipe[to_side], PIECE_RST, NULL);
    }
    free(piece);
}

/* ---- wires ---- */

static void wire_free(struct sim_wire *w)
{
    sim_event_cancel(w->world, &w->syn);
    for (unsigned i = 0; i < 2; i++) {
        pipe_purge(&w->pipe[i]);
        sim_event_cancel(w->world, &w->pipe[i].space);
        free(w->pipe[i].rx);
    }
    list_remove(&w->node);
    free(w);
}

void sim_wire_drop_end(struct sim_wire *w, unsigned side, bool silent)
{
    struct sim_pipe *in = &w->pipe[1 - side];
    w->end[side]->wire = NULL;
    w->end[side] = NULL;
    w->silent[side] = silent;
    in->held -= in->rx_n;
    in->rx_n = 0;
    /* The room that this made: whoever still has something to send finds out that nobody wants it. */
    struct sim_sock *peer = w->end[1 - side];
    if (peer && peer->blocked && !silent && !in->space.index)
        sim_event_set(w->world, &in->space, w->world->now_ns + link_delay(w->world, in->link, 0));
    if (!w->end[0] && !w->end[1])
        wire_free(w);
}

void sim_reset(struct sim_world *w, const char *a, const char *b)
{
    struct sim_host *ha = sim_host_get(w, a), *hb = sim_host_get(w, b);
    list_for_each (l, &w->net->wires) {
        struct sim_wire *wire = container_of(l, struct sim_wire, node);
        if ((wire->host[0] == ha && wire->host[1] == hb) || (wire->host[0] == hb && wire->host[1] == ha))
            wire_reset(wire);
    }
}

/* The side of a wire between the two hosts that is `from`'s, or -1. */
static int side_of(const struct sim_wire *wire, const struct sim_host *from, const struct sim_host *to)
{
    for (int side = 0; side < 2; side++)
        if (wire->host[side] == from && wire->host[1 - side] == to)
            return side;
    return -1;
}

void sim_hold(struct sim_world *w, const char *from, const char *to, uint64_t ns)
{
    struct sim_host *hf = sim_host_get(w, from), *ht = sim_host_get(w, to);
    uint64_t at = w->now_ns + ns;
    sim_note(w, NULL, 84, host_pair(w, from, to), "connections %s -> %s are held for %llu ns", from, to, (unsigned long long)ns);
    list_for_each (l, &w->net->wires) {
        struct sim_wire *wire = container_of(l, struct sim_wire, node);
        int side = side_of(wire, hf, ht);
        if (side < 0)
            continue;
        struct sim_pipe *p = &wire->pipe[side];
        list_for_each (n, &p->pieces) {
            struct sim_piece *piece = container_of(n, struct sim_piece, node);
            piece->at_ns = piece->at_ns > at ? piece->at_ns : at;
        }
        p->last_at_ns = p->last_at_ns > at ? p->last_at_ns : at;
        sim_event_cancel(w, &p->arrival);
        pipe_arm(p);
    }
}

unsigned sim_break(struct sim_world *w, const char *from, const char *to)
{
    struct sim_host *hf = sim_host_get(w, from), *ht = sim_host_get(w, to);
    unsigned n = 0;
    sim_note(w, NULL, 85, host_pair(w, from, to), "%s loses its connections to %s", from, to);
    list_for_each (l, &w->net->wires) {
        struct sim_wire *wire = container_of(l, struct sim_wire, node);
        int side = side_of(wire, hf, ht);
        struct sim_sock *s = side < 0 ? NULL : wire->end[side];
        if (!s || !s->established || s->failed)
            continue;
        n += !list_empty(&wire->pipe[side].pieces);
        sim_sock_fail(s, ECONNRESET);
    }
    return n;
}

/* ---- connecting ---- */

static struct sim_listener *listener_find(struct sim_net *n, const char *address)
{
    list_for_each (l, &n->listeners) {
        struct sim_listener *s = container_of(l, struct sim_listener, net_node);
        if (strcmp(s->l.address, address) == 0)
            return s;
    }
    return NULL;
}

static struct sim_host *place_find(struct sim_net *n, const char *address)
{
    list_for_each (l, &n->places) {
        struct sim_place *p = container_of(l, struct sim_place, node);
        if (strcmp(p->address, address) == 0)
            return p->host;
    }
    return NULL;
}

static void wire_set_target(struct sim_wire *w, struct sim_host *to)
{
    w->host[1] = to;
    w->pipe[0].link = link_get(w->world, w->host[0], to);
    w->pipe[1].link = link_get(w->world, to, w->host[0]);
}

/* The request to connect reaches the other host: its kernel answers, whatever the process there is doing. */
static void syn_arrives(struct sim_event *e)
{
    struct sim_wire *w = container_of(e, struct sim_wire, syn);
    struct sim_world *world = w->world;
    struct sim_listener *listener = listener_find(world->net, w->address);
    if (listener)
        wire_set_target(w, listener->reactor->host);
    if (w->pipe[0].link->down || w->pipe[1].link->down || w->host[1]->silent) {
        if (world->now_ns >= w->syn_deadline_ns) {
            sim_sock_fail(w->end[0], ETIMEDOUT);
            return;
        }
        sim_event_set(world, &w->syn, world->now_ns + next_retry(&w->syn_retry_ns));
        return;
    }
    sim_note(world, NULL, 78, w->id, "connection %u to %s: %s", w->id, w->address, listener ? "made" : "refused");
    if (!listener) {
        sim_pipe_put(&w->pipe[1], PIECE_RST, NULL);
        return;
    }
    struct sim_sock *s = sim_sock_new(listener->reactor, w, 1);
    s->established = true;
    snprintf(s->c.peer, sizeof s->c.peer, "%s#%u", w->host[0]->name, w->id);
    list_push_back(&listener->backlog, &s->backlog_node);
    sim_ready_add(listener->reactor, &listener->ready);
    sim_pipe_put(&w->pipe[1], PIECE_OPEN, NULL);
}

struct sim_wire *sim_wire_new(struct sim_sock *from, const char *address)
{
    struct sim_world *world = from->reactor->world;
    struct sim_wire *w = calloc(1, sizeof *w);
    assert(w);
    w->world = world;
    w->id = ++world->net->n_wires;
    w->host[0] = from->reactor->host;
    w->end[0] = from;
    for (unsigned i = 0; i < 2; i++) {
        list_init(&w->pipe[i].pieces);
        w->pipe[i].wire = w;
        w->pipe[i].arrival.fn = pipe_arrival;
        w->pipe[i].space.fn = pipe_space;
    }
    strcpy(w->address, address);
    /* An address that nobody ever had is refused by the own host. */
    struct sim_host *to = place_find(world->net, address);
    wire_set_target(w, to ? to : w->host[0]);
    list_push_back(&world->net->wires, &w->node);
    w->syn.fn = syn_arrives;
    w->syn_deadline_ns = world->now_ns + world->config.connect_timeout_ns;
    sim_event_set(world, &w->syn, world->now_ns + link_delay(world, w->pipe[0].link, 0));
    return w;
}

/* ---- listening ---- */

/* "unix:/path", "HOST:PORT" or "[v6]:PORT". Sets *ret_port, not 0 for unix. Returns the length before the port,
 * -EINVAL. */
static int address_parse(const char *address, unsigned *ret_port)
{
    size_t len = strlen(address);
    if (len >= sizeof((struct listener *)0)->address)
        return -EINVAL;
    if (strncmp(address, "unix:", 5) == 0) {
        *ret_port = 1;
        return address[5] ? (int)len : -EINVAL;
    }
    const char *colon = strrchr(address, ':');
    if (!colon || colon == address || !colon[1] || strlen(colon + 1) > 5)
        return -EINVAL;
    if ((address[0] == '[') != (colon[-1] == ']') ||
        (address[0] != '[' && memchr(address, ':', (size_t)(colon - address))))
        return -EINVAL;
    unsigned port = 0;
    for (const char *p = colon + 1; *p; p++) {
        if (*p < '0' || *p > '9')
            return -EINVAL;
        port = port * 10 + (unsigned)(*p - '0');
    }
    if (port > 65535)
        return -EINVAL;
    *ret_port = port;
    return (int)(colon + 1 - address);
}

int sim_address_check(const char *address)
{
    unsigned port;
    int err = address_parse(address, &port);
    return err < 0 ? err : 0;
}

static void backlog_accept(struct sim_ready *ready)
{
    struct sim_listener *l = container_of(ready, struct sim_listener, ready);
    struct sim_reactor *r = l->reactor;
    if (l->closed) {
        list_remove(&l->node);
        free(l);
        return;
    }
    for (struct list *n; !r->gone && !l->closed && (n = list_pop_front(&l->backlog));) {
        struct sim_sock *s = container_of(n, struct sim_sock, backlog_node);
        s->told = true;
        sim_note(r->world, r, 80, s->id, "accepts %s", s->c.peer);
        l->l.on_accept(&l->l, &s->c);
        assert((r->gone || s->c.handler) && "on_accept must set the handler");
        sim_sock_wake(s);
    }
}

int sim_net_listen(struct reactor *io, const char *address, void (*on_accept)(struct listener *, struct conn *),
                   void *user, struct listener **ret)
{
    struct sim_reactor *r = sim_reactor_of(io);
    struct sim_net *net = r->world->net;
    unsigned port;
    int prefix = address_parse(address, &port);
    if (prefix < 0)
        return prefix;
    if (r->gone)
        return -ENETDOWN;
    if (listener_find(net, address))
        return -EADDRINUSE;
    struct sim_listener *l = calloc(1, sizeof *l);
    assert(l);
    l->l = (struct listener){.reactor = io, .on_accept = on_accept, .user = user};
    if (port)
        strcpy(l->l.address, address);
    else
        snprintf(l->l.address, sizeof l->l.address, "%.*s%u", prefix, address, net->next_port++);
    l->reactor = r;
    l->ready.fn = backlog_accept;
    list_init(&l->ready.node);
    list_init(&l->backlog);
    list_push_back(&r->listeners, &l->node);
    list_push_back(&net->listeners, &l->net_node);
    struct sim_place *place = calloc(1, sizeof *place);
    assert(place);
    place->host = r->host;
    strcpy(place->address, l->l.address);
    list_push_front(&net->places, &place->node);
    *ret = &l->l;
    return 0;
}

static void listener_leave(struct sim_listener *l, bool silent)
{
    l->closed = true;
    list_remove(&l->net_node);
    for (struct list *n; (n = list_pop_front(&l->backlog));) {
        struct sim_sock *s = container_of(n, struct sim_sock, backlog_node);
        if (!s->wire)
            continue;
        if (!silent)
            sim_pipe_put(&s->wire->pipe[s->side], PIECE_RST, NULL);
        sim_wire_drop_end(s->wire, s->side, silent);
    }
}

void sim_net_listener_close(struct listener *listener)
{
    struct sim_listener *l = container_of(listener, struct sim_listener, l);
    if (l->reactor->gone)
        return;
    listener_leave(l, false);
    sim_ready_add(l->reactor, &l->ready);
}

/* ---- beginning and end ---- */

struct sim_net *sim_net_new(struct sim_world *w)
{
    struct sim_net *n = calloc(1, sizeof *n);
    assert(n);
    list_init(&n->wires);
    list_init(&n->listeners);
    list_init(&n->links);
    list_init(&n->places);
    n->next_port = 30000;
    return n;
}

void sim_net_free(struct sim_world *w)
{
    struct sim_net *n = w->net;
    assert(list_empty(&n->wires) && list_empty(&n->listeners));
    for (struct list *l; (l = list_pop_front(&n->links));)
        free(container_of(l, struct sim_link_node, node));
    for (struct list *l; (l = list_pop_front(&n->places));)
        free(container_of(l, struct sim_place, node));
    free(n);
}

void sim_net_crash(struct sim_reactor *r, enum sim_crash how)
{
    list_for_each (l, &r->listeners)
        listener_leave(container_of(l, struct sim_listener, node), how == SIM_POWER);
    list_for_each (l, &r->conns) {
        struct sim_sock *s = container_of(l, struct sim_sock, node);
        if (!s->wire)
            continue;
        if (how == SIM_KILL)
            sim_pipe_put(&s->wire->pipe[s->side], sim_chance(r->world, 3) ? PIECE_RST : PIECE_FIN, NULL);
        sim_wire_drop_end(s->wire, s->side, how == SIM_POWER);
    }
}
