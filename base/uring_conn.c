/* Connections: sockets as ordered byte streams (io.h "connections").
 *
 * Receiving: at most one receive in flight, into the window or, when conn_recv_into() asked, straight to where the bytes stay.
 * Sending: segments queue up during a turn; at its end one sendmsg() takes as many as it can without blocking, and the ring sends the rest.
 *
 * What always holds:
 *  - a connection dies once (die()); from then on no handler is called but on_closed, which comes when the kernel has given
 *    back every buffer (ops == 0), from the next turn's ready list; then the struct is freed.
 *  - the window moves only while no receive into it is in flight.
 *  - a connection that moves is in no list and in no ring when it leaves: the kernel has given back every buffer, and of the old
 *    reactor's memory it has nothing.
 *  - segments stay in the queue, with their references, until the kernel took their last byte. */
#include "base/uring_internal.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define IOVS_MAX 128
#define TX_BYTES (16u << 10)         /* a transmit buffer for copied bytes */
#define LINGER_NS (1 * NS_PER_S)     /* how long a finished connection waits for the peer's end */
#define FILL_LARGE (64u << 10)       /* after a fill of this many bytes more such is expected, ... */
#define WINDOW_AFTER_FILL BLOCK_SIZE /* ... so the window takes little of what follows: its bytes are copied */
#define UNIX_BUFFER_BYTES (4 << 20)  /* unix sockets don't tune their buffers themselves */

enum conn_state { CONN_CONNECTING, CONN_OPEN, CONN_MOVING, CONN_DEAD };

struct queued {
    struct buf *buf;
    const uint8_t *ptr;
    uint32_t len;
};

struct ring_send {
    struct msghdr msg;
    struct iovec iov[IOVS_MAX];
};

struct uconn {
    struct conn conn; /* first */
    struct list link;  /* in uring.conns */
    struct list ready; /* in uring.ready */
    struct list dirty; /* in uring.dirty */
    int fd;
    enum conn_state state;
    int err;
    unsigned ops; /* in flight */
    bool finishing, lingering, presenting;

    /* receiving */
    struct ureq recv;
    bool recv_armed, recv_is_fill, paused, eof, present_pending;
    bool socket_empty; /* the last receive said so: poll before the next */
    bool short_window; /* WINDOW_AFTER_FILL applies */
    uint8_t *window;
    uint32_t w_off, w_len;
    uint8_t *into;
    size_t into_left, into_len;
    size_t asked;

    /* sending */
    struct ureq send;
    bool send_armed, send_failed, above_mark, drained_pending;
    struct queued *queue; /* a ring of queue_cap, a power of two */
    uint32_t q_head, q_tail, queue_cap;
    size_t unsent, low_water;
    struct buf *tx;
    uint32_t tx_off;
    struct ring_send *ring_send;
    struct timer linger;

    /* connecting */
    struct ureq connect;
    struct addresses *addresses;
    unsigned next_address;

    /* moving */
    struct reactor_msg move;
    struct reactor *move_to;
    void (*moved)(struct conn *c);
    uint8_t *carried; /* what was not sent yet: a copy, since buffers are the old reactor's */
    size_t carried_len;
};

static struct uconn *uconn_of(const struct conn *c)
{
    return (struct uconn *)(uintptr_t)c;
}

static struct uring *ring_of(struct uconn *c)
{
    return uring_of(c->conn.reactor);
}

static void *must(void *p)
{
    if (!p) {
        fprintf(stderr, "out of memory for a connection\n");
        abort();
    }
    return p;
}

/* Has the connection looked after in the next turn. */
static void schedule(struct uconn *c)
{
    if (list_empty(&c->ready))
        list_push_back(&ring_of(c)->ready, &c->ready);
}

/* ---- the end ---- */

static void queue_pop(struct uconn *c)
{
    buf_unref(c->queue[c->q_head++ & (c->queue_cap - 1)].buf);
}

static void drop_queue(struct uconn *c)
{
    while (c->q_head != c->q_tail)
        queue_pop(c);
    c->unsent = 0;
}

static void gone_if_idle(struct uconn *c)
{
    if (c->state != CONN_DEAD || c->ops)
        return;
    drop_queue(c);
    buf_unref(c->tx);
    c->tx = NULL;
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
    schedule(c);
}

static void cancel(struct uconn *c, struct ureq *q)
{
    struct io_uring_sqe *sqe = uring_sqe(ring_of(c), NULL);
    io_uring_prep_cancel64(sqe, (uintptr_t)q, 0);
    uring_sqe_set(sqe, NULL);
}

static void die(struct uconn *c, int err)
{
    if (c->state == CONN_DEAD)
        return;
    bool connecting = c->state == CONN_CONNECTING;
    c->state = CONN_DEAD;
    c->err = err;
    c->unsent = 0;
    uring_timer_cancel(c->conn.reactor, &c->linger);
    list_remove(&c->dirty);
    list_remove(&c->ready); /* on_closed is not for this turn */
    if (c->ops) {
        /* Ends what the kernel may wait in on behalf of our operations; then takes them off its hands. */
        if (c->fd >= 0)
            shutdown(c->fd, SHUT_RDWR);
        if (connecting)
            cancel(c, &c->connect);
        if (c->recv_armed)
            cancel(c, &c->recv);
        if (c->send_armed)
            cancel(c, &c->send);
    }
    gone_if_idle(c);
}

static void conn_free(struct uconn *c)
{
    assert(c->ops == 0);
    list_remove(&c->link);
    list_remove(&c->ready);
    list_remove(&c->dirty);
    free(c->addresses);
    free(c->carried);
    free(c->ring_send);
    free(c->queue);
    free(c->window);
    free(c);
}

void uring_conn_close(struct conn *conn)
{
    struct uconn *c = uconn_of(conn);
    assert(c->state != CONN_MOVING);
    die(c, -ECANCELED);
    c->err = -ECANCELED;
}

static void on_linger(struct timer *t)
{
    struct uconn *c = container_of(t, struct uconn, linger);
    die(c, c->err);
}

/* ---- receiving ---- */

static void arm_recv(struct uconn *c)
{
    if (c->recv_armed || c->eof || c->state != CONN_OPEN)
        return;
    if ((c->paused || c->finishing) && !c->lingering)
        return;
    uint8_t *to;
    size_t len;
    c->recv_is_fill = c->into && !c->lingering;
    if (c->recv_is_fill) {
        assert(c->w_off == c->w_len);
        to = c->into;
        len = c->into_left;
    } else {
        if (!c->window)
            c->window = must(aligned_alloc(BLOCK_SIZE, CONN_WINDOW));
        if (c->w_off == c->w_len || c->lingering) {
            c->w_off = c->w_len = 0;
        } else if (c->w_off && CONN_WINDOW - c->w_len < CONN_WINDOW / 2) {
            memmove(c->window, c->window + c->w_off, c->w_len - c->w_off);
            c->w_len -= c->w_off;
            c->w_off = 0;
        }
        to = c->window + c->w_len;
        len = CONN_WINDOW - c->w_len;
        assert(len > 0);
        if (c->short_window && len > WINDOW_AFTER_FILL)
            len = WINDOW_AFTER_FILL;
    }
    c->asked = len;
    struct io_uring_sqe *sqe = uring_sqe(ring_of(c), &c->recv);
    io_uring_prep_recv(sqe, c->fd, to, len, c->recv_is_fill ? MSG_WAITALL : 0);
    uring_sqe_set(sqe, &c->recv);
    if (c->socket_empty)
        sqe->ioprio |= IORING_RECVSEND_POLL_FIRST;
    c->recv_armed = true;
    c->ops++;
}

/* Serves a fill from what the window holds already. True when the fill is complete. */
static bool fill_from_window(struct uconn *c)
{
    size_t n = c->w_len - c->w_off;
    if (n > c->into_left)
        n = c->into_left;
    memcpy(c->into, c->window + c->w_off, n);
    c->w_off += (uint32_t)n;
    c->into += n;
    c->into_left -= n;
    return c->into_left == 0;
}

/* Hands over what is there, until the handler takes nothing more, and goes on receiving. */
static void present(struct uconn *c)
{
    c->present_pending = false;
    c->presenting = true;
    while (c->state == CONN_OPEN && !c->paused && !c->finishing) {
        if (c->into) {
            if (c->w_off != c->w_len)
                fill_from_window(c);
            if (c->into_left)
                break;
            c->short_window = c->into_len >= FILL_LARGE;
            c->into = NULL;
            c->conn.handler->on_filled(&c->conn);
            continue;
        }
        size_t len = c->w_len - c->w_off;
        if (len == 0)
            break;
        size_t used = c->conn.handler->on_data(&c->conn, c->window + c->w_off, len);
        assert(used <= len);
        c->w_off += (uint32_t)used;
        if (used == 0 && !c->into) {
            if (len == CONN_WINDOW && c->state == CONN_OPEN && !c->paused)
                die(c, -EMSGSIZE); /* it waits for more than the window holds */
            break;
        }
    }
    c->presenting = false;
    if (c->state == CONN_OPEN && c->eof && !c->paused && !c->finishing)
        die(c, c->send_failed ? c->err : 0);
    else
        arm_recv(c);
}

static void received(struct uconn *c, int res)
{
    if (c->recv_is_fill) {
        assert((size_t)res <= c->into_left);
        c->into += res;
        c->into_left -= (size_t)res;
        return;
    }
    c->w_len += (uint32_t)res;
    assert(c->w_len <= CONN_WINDOW);
    if (c->short_window && (size_t)res == c->asked)
        c->short_window = false; /* no fill came of it: small messages */
}

/* What came before the receive was taken back goes along. */
static void received_moving(struct uconn *c, int res)
{
    if (res > 0)
        received(c, res);
    else if (res == 0)
        c->eof = true;
    else if (res != -EINTR && res != -EAGAIN && res != -ECANCELED)
        c->err = res;
    schedule(c);
}

static void on_recv(struct ureq *q, int res, unsigned flags)
{
    struct uconn *c = container_of(q, struct uconn, recv);
    c->recv_armed = false;
    c->ops--;
    if (c->state != CONN_OPEN) {
        if (c->state == CONN_MOVING)
            received_moving(c, res);
        else
            gone_if_idle(c);
        return;
    }
    c->socket_empty = !(flags & IORING_CQE_F_SOCK_NONEMPTY) && res >= 0 && (size_t)res < c->asked;
    if (res == -EINTR || res == -EAGAIN) {
        arm_recv(c);
    } else if (res < 0) {
        die(c, c->finishing ? -ECANCELED : res);
    } else if (c->lingering) {
        if (res == 0)
            die(c, c->err);
        else
            arm_recv(c); /* discarded: the handler wants nothing more */
    } else {
        if (res == 0)
            c->eof = true;
        else
            received(c, res);
        present(c);
    }
}

void uring_conn_recv_into(struct conn *conn, void *ptr, size_t len)
{
    struct uconn *c = uconn_of(conn);
    assert(!c->into && len > 0);
    c->into = ptr;
    c->into_left = c->into_len = len;
    if (!c->presenting && c->state == CONN_OPEN) {
        c->present_pending = true;
        schedule(c);
    }
}

void uring_conn_recv_pause(struct conn *conn, bool on)
{
    struct uconn *c = uconn_of(conn);
    bool was = c->paused;
    c->paused = on;
    if (was && !on && !c->presenting && c->state == CONN_OPEN) {
        c->present_pending = true;
        schedule(c);
    }
}

/* ---- sending ---- */

static void queue_push(struct uconn *c, struct buf *buf, const uint8_t *ptr, uint32_t len)
{
    if (c->q_head != c->q_tail) {
        struct queued *last = &c->queue[(c->q_tail - 1) & (c->queue_cap - 1)];
        if (last->buf == buf && last->ptr + last->len == ptr) {
            last->len += len;
            return;
        }
    }
    if (c->q_tail - c->q_head == c->queue_cap) {
        uint32_t cap = c->queue_cap ? 2 * c->queue_cap : 32;
        struct queued *queue = must(malloc(cap * sizeof *queue));
        uint32_t n = 0;
        for (; c->q_head != c->q_tail; c->q_head++)
            queue[n++] = c->queue[c->q_head & (c->queue_cap - 1)];
        free(c->queue);
        c->queue = queue;
        c->queue_cap = cap;
        c->q_head = 0;
        c->q_tail = n;
    }
    c->queue[c->q_tail++ & (c->queue_cap - 1)] = (struct queued){buf_ref(buf), ptr, len};
}

/* Small bytes of many messages gather in one transmit buffer, and hence in one segment. */
static void queue_copy(struct uconn *c, const uint8_t *from, size_t len)
{
    while (len) {
        if (!c->tx || c->tx_off == c->tx->cap) {
            buf_unref(c->tx);
            size_t want = len < TX_BYTES ? TX_BYTES : len > BUF_MAX_BYTES ? BUF_MAX_BYTES : len;
            c->tx = buf_alloc_must(c->conn.reactor->arena, want);
            c->tx_off = 0;
        }
        size_t n = c->tx->cap - c->tx_off;
        if (n > len)
            n = len;
        memcpy(c->tx->data + c->tx_off, from, n);
        queue_push(c, c->tx, c->tx->data + c->tx_off, (uint32_t)n);
        c->tx_off += (uint32_t)n;
        from += n;
        len -= n;
    }
}

void uring_conn_send(struct conn *conn, const struct segment *segs, unsigned n)
{
    struct uconn *c = uconn_of(conn);
    if (c->state == CONN_DEAD || c->finishing || c->send_failed)
        return;
    for (unsigned i = 0; i < n; i++) {
        if (segs[i].len == 0)
            continue;
        if (segs[i].buf)
            queue_push(c, segs[i].buf, segs[i].ptr, segs[i].len);
        else
            queue_copy(c, segs[i].ptr, segs[i].len);
        c->unsent += segs[i].len;
    }
    if (c->low_water && c->unsent >= c->low_water)
        c->above_mark = true;
    if (c->state == CONN_OPEN && !c->send_armed && list_empty(&c->dirty) && c->unsent)
        list_push_back(&ring_of(c)->dirty, &c->dirty);
}

size_t uring_conn_unsent(const struct conn *conn)
{
    return uconn_of(conn)->unsent;
}

void uring_conn_set_low_water(struct conn *conn, size_t bytes)
{
    struct uconn *c = uconn_of(conn);
    c->low_water = bytes;
    c->above_mark = bytes && c->unsent >= bytes;
}

static void fell(struct uconn *c)
{
    if (c->above_mark && c->unsent < c->low_water) {
        c->above_mark = false;
        c->drained_pending = true;
        schedule(c);
    }
}

/* The kernel took n bytes. */
static void sent(struct uconn *c, size_t n)
{
    assert(n <= c->unsent);
    c->unsent -= n;
    while (n) {
        assert(c->q_head != c->q_tail);
        struct queued *s = &c->queue[c->q_head & (c->queue_cap - 1)];
        if (n < s->len) {
            s->ptr += n;
            s->len -= (uint32_t)n;
            break;
        }
        n -= s->len;
        queue_pop(c);
    }
    if (c->q_head == c->q_tail && c->tx) {
        if (c->tx->cap > TX_BYTES) {
            buf_unref(c->tx);
            c->tx = NULL;
        }
        c->tx_off = 0;
    }
    fell(c);
}

/* Everything is sent: tells the peer so, and waits a moment for its end. Closing at once with unread bytes would make the
 * kernel reset the connection, and the peer could lose what we sent last (a REFUSED with its reason). */
static void linger(struct uconn *c)
{
    c->lingering = true;
    c->err = -ECANCELED;
    if (c->eof) {
        die(c, -ECANCELED);
        return;
    }
    shutdown(c->fd, SHUT_WR);
    uring_timer_set(c->conn.reactor, &c->linger, uring_now(c->conn.reactor) + LINGER_NS);
    arm_recv(c);
}

/* The peer takes nothing more. What it said before may still be unread, so the receiving side decides when this ends; the timer, when it doesn't. */
static void send_failed(struct uconn *c, int err)
{
    if (c->finishing) {
        die(c, err);
        return;
    }
    c->send_failed = true;
    c->err = err;
    drop_queue(c);
    fell(c);
    uring_timer_set(c->conn.reactor, &c->linger, uring_now(c->conn.reactor) + LINGER_NS);
}

static unsigned gather(const struct uconn *c, struct iovec *iov, size_t *ret_bytes)
{
    unsigned n = 0;
    size_t bytes = 0;
    for (uint32_t i = c->q_head; i != c->q_tail && n < IOVS_MAX; i++) {
        const struct queued *s = &c->queue[i & (c->queue_cap - 1)];
        iov[n++] = (struct iovec){(void *)(uintptr_t)s->ptr, s->len};
        bytes += s->len;
    }
    *ret_bytes = bytes;
    return n;
}

static void arm_send(struct uconn *c)
{
    if (!c->ring_send)
        c->ring_send = must(malloc(sizeof *c->ring_send));
    size_t bytes;
    c->ring_send->msg = (struct msghdr){.msg_iov = c->ring_send->iov};
    c->ring_send->msg.msg_iovlen = gather(c, c->ring_send->iov, &bytes);
    struct io_uring_sqe *sqe = uring_sqe(ring_of(c), &c->send);
    io_uring_prep_sendmsg(sqe, c->fd, &c->ring_send->msg, MSG_NOSIGNAL | MSG_WAITALL);
    uring_sqe_set(sqe, &c->send);
    sqe->ioprio |= IORING_RECVSEND_POLL_FIRST; /* it is full: we have just tried */
    c->send_armed = true;
    c->ops++;
}

static void kick(struct uconn *c)
{
    struct iovec iov[IOVS_MAX];
    while (c->state == CONN_OPEN && c->unsent && !c->send_armed) {
        size_t bytes;
        struct msghdr msg = {.msg_iov = iov};
        msg.msg_iovlen = gather(c, iov, &bytes);
        ssize_t n = sendmsg(c->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno != EAGAIN) {
            send_failed(c, -errno);
            return;
        }
        if (n > 0)
            sent(c, (size_t)n);
        if (n < (ssize_t)bytes)
            arm_send(c);
    }
    if (c->state == CONN_OPEN && c->finishing && !c->lingering && !c->unsent && !c->send_armed)
        linger(c);
}

static void sent_moving(struct uconn *c, int res)
{
    if (res > 0)
        sent(c, (size_t)res);
    else if (res != -EINTR && res != -EAGAIN && res != -ECANCELED)
        c->err = res;
    schedule(c);
}

static void on_sent(struct ureq *q, int res, unsigned flags)
{
    struct uconn *c = container_of(q, struct uconn, send);
    c->send_armed = false;
    c->ops--;
    if (c->state != CONN_OPEN) {
        if (c->state == CONN_MOVING)
            sent_moving(c, res);
        else
            gone_if_idle(c);
        return;
    }
    if (res < 0 && res != -EINTR && res != -EAGAIN) {
        send_failed(c, res);
        return;
    }
    if (res > 0)
        sent(c, (size_t)res);
    if ((c->unsent || c->finishing) && list_empty(&c->dirty))
        list_push_back(&ring_of(c)->dirty, &c->dirty);
}

void uring_conn_finish(struct conn *conn)
{
    struct uconn *c = uconn_of(conn);
    if (c->state == CONN_DEAD || c->finishing)
        return;
    if (c->send_failed) {
        uring_conn_close(conn);
        return;
    }
    c->finishing = true;
    c->present_pending = false;
    if (c->state == CONN_OPEN && !c->send_armed && list_empty(&c->dirty))
        list_push_back(&ring_of(c)->dirty, &c->dirty);
}

void uring_conns_kick(struct uring *u)
{
    struct list *l;
    while ((l = list_pop_front(&u->dirty)))
        kick(container_of(l, struct uconn, dirty));
}

/* ---- beginnings ---- */

static struct uconn *conn_new(struct uring *u, int fd)
{
    struct uconn *c = calloc(1, sizeof *c);
    if (!c)
        return NULL;
    c->conn.reactor = &u->reactor;
    c->fd = fd;
    c->recv.fn = on_recv;
    c->send.fn = on_sent;
    c->linger.fn = on_linger;
    list_init(&c->ready);
    list_init(&c->dirty);
    list_push_back(&u->conns, &c->link);
    return c;
}

static void tune(int fd, int family)
{
    int one = 1, bytes = UNIX_BUFFER_BYTES;
    if (family != AF_UNIX) {
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        return;
    }
    /* As much as we may. Less only means more turns for large payloads. */
    if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof bytes) < 0)
        (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
}

struct conn *uring_conn_accepted(struct uring *u, int fd, const char *local_address)
{
    struct uconn *c = conn_new(u, fd);
    if (!c) {
        close(fd);
        return NULL;
    }
    struct addresses peer;
    socklen_t len = sizeof peer.a[0];
    struct ucred cred;
    socklen_t cred_len = sizeof cred;
    if (getpeername(fd, &peer.a[0].sa, &len) < 0)
        peer.a[0].sa.sa_family = AF_UNSPEC; /* gone already */
    tune(fd, peer.a[0].sa.sa_family);
    if (peer.a[0].sa.sa_family != AF_UNIX)
        address_format(&peer.a[0].sa, c->conn.peer);
    else if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &cred_len) == 0)
        snprintf(c->conn.peer, sizeof c->conn.peer, "%.80s (pid %d)", local_address, (int)cred.pid);
    else
        snprintf(c->conn.peer, sizeof c->conn.peer, "%.80s", local_address);
    c->state = CONN_OPEN;
    return &c->conn;
}

void uring_conn_start(struct conn *conn)
{
    arm_recv(uconn_of(conn));
}

/* Begins with the next address; -errno when no socket can be made for any. */
static int connect_next(struct uconn *c)
{
    int err = -EADDRNOTAVAIL;
    while (c->next_address < c->addresses->n) {
        unsigned i = c->next_address++;
        const struct sockaddr *sa = &c->addresses->a[i].sa;
        int fd = address_socket(sa);
        if (fd < 0) {
            err = fd;
            continue;
        }
        if (c->fd >= 0)
            close(c->fd);
        c->fd = fd;
        tune(fd, sa->sa_family);
        address_format(sa, c->conn.peer);
        struct io_uring_sqe *sqe = uring_sqe(ring_of(c), &c->connect);
        io_uring_prep_connect(sqe, fd, sa, c->addresses->len[i]);
        uring_sqe_set(sqe, &c->connect);
        c->ops++;
        return 0;
    }
    return err;
}

static void on_connected(struct ureq *q, int res, unsigned flags)
{
    struct uconn *c = container_of(q, struct uconn, connect);
    c->ops--;
    if (c->state == CONN_DEAD) {
        gone_if_idle(c);
        return;
    }
    if (res < 0) {
        if (connect_next(c) < 0)
            die(c, res);
        return;
    }
    c->state = CONN_OPEN;
    if (!c->finishing && c->conn.handler->on_open)
        c->conn.handler->on_open(&c->conn);
    if (c->state != CONN_OPEN)
        return;
    arm_recv(c);
    if ((c->unsent || c->finishing) && list_empty(&c->dirty))
        list_push_back(&ring_of(c)->dirty, &c->dirty);
}

int uring_connect(struct reactor *r, const char *address, const struct conn_handler *h, void *user, struct conn **ret)
{
    struct addresses as;
    int err = address_parse(address, false, &as);
    if (err < 0)
        return err;
    struct uconn *c = conn_new(uring_of(r), -1);
    if (!c)
        return -ENOMEM;
    c->conn.handler = h;
    c->conn.user = user;
    c->connect.fn = on_connected;
    c->addresses = malloc(sizeof *c->addresses);
    err = -ENOMEM;
    if (c->addresses) {
        *c->addresses = as;
        err = connect_next(c);
    }
    if (err < 0) {
        conn_free(c);
        return err;
    }
    *ret = &c->conn;
    return 0;
}

/* ---- moving to another reactor ---- */

static void arrived(struct reactor_msg *m)
{
    struct uconn *c = container_of(m, struct uconn, move);
    struct uring *u = uring_of(c->move_to);
    c->conn.reactor = c->move_to;
    c->move_to = NULL;
    list_push_back(&u->conns, &c->link);
    c->state = CONN_OPEN;
    c->conn.handler = NULL;
    if (c->carried_len) {
        queue_copy(c, c->carried, c->carried_len);
        c->unsent = c->carried_len;
        list_push_back(&u->dirty, &c->dirty);
    }
    free(c->carried);
    c->carried = NULL;
    c->carried_len = 0;
    c->moved(&c->conn);
    assert(c->conn.handler); /* io.h: fn sets it, even to close at once */
    if (c->state != CONN_OPEN)
        return;
    if (c->err) {
        die(c, c->err);
        return;
    }
    c->present_pending = true; /* what it brought, or its end; then receiving begins */
    schedule(c);
}

/* Nothing is in flight any more. */
static void leave(struct uconn *c)
{
    assert(c->ops == 0);
    if (c->unsent) {
        c->carried = must(malloc(c->unsent));
        for (uint32_t i = c->q_head; i != c->q_tail; i++) {
            const struct queued *s = &c->queue[i & (c->queue_cap - 1)];
            memcpy(c->carried + c->carried_len, s->ptr, s->len);
            c->carried_len += s->len;
        }
        assert(c->carried_len == c->unsent);
    }
    drop_queue(c);
    buf_unref(c->tx);
    c->tx = NULL;
    c->tx_off = 0;
    list_remove(&c->link);
    list_remove(&c->dirty);
    c->move.fn = arrived;
    uring_post(c->conn.reactor, c->move_to, &c->move);
}

void uring_conn_move(struct conn *conn, struct reactor *to, void (*fn)(struct conn *c))
{
    struct uconn *c = uconn_of(conn);
    assert(c->state == CONN_OPEN && !c->into && !c->finishing && to != conn->reactor);
    c->state = CONN_MOVING;
    c->move_to = to;
    c->moved = fn;
    c->paused = c->short_window = c->socket_empty = c->present_pending = c->drained_pending = c->above_mark = false;
    c->low_water = 0;
    uring_timer_cancel(conn->reactor, &c->linger);
    list_remove(&c->dirty);
    list_remove(&c->ready);
    if (c->recv_armed)
        cancel(c, &c->recv);
    if (c->send_armed)
        cancel(c, &c->send);
    schedule(c); /* not from inside its own callback */
}

bool uring_conn_drop_moved(struct reactor_msg *m)
{
    struct uconn *c = container_of(m, struct uconn, move);
    if (m->fn != arrived)
        return false;
    if (c->fd >= 0)
        close(c->fd);
    conn_free(c);
    return true;
}

/* ---- turns ---- */

static void tell(struct uconn *c)
{
    if (c->state == CONN_DEAD) {
        if (c->ops)
            return;
        c->conn.handler->on_closed(&c->conn, c->err);
        conn_free(c);
        return;
    }
    if (c->state == CONN_MOVING) {
        if (c->ops == 0)
            leave(c);
        return;
    }
    if (c->drained_pending) {
        c->drained_pending = false;
        if (c->conn.handler->on_drained && !c->finishing)
            c->conn.handler->on_drained(&c->conn);
    }
    if (c->state == CONN_OPEN && c->present_pending)
        present(c);
}

void uring_conns_ready(struct uring *u)
{
    struct list *l;
    assert(list_empty(&u->ready_now));
    /* What becomes ready from here on is told in the next turn (io.h: "in a later turn"). */
    while ((l = list_pop_front(&u->ready)))
        list_push_back(&u->ready_now, l);
    while ((l = list_pop_front(&u->ready_now)))
        tell(container_of(l, struct uconn, ready));
}

void uring_conns_drain(struct uring *u)
{
    list_for_each_safe (l, &u->conns)
        die(container_of(l, struct uconn, link), -ECANCELED);
}

void uring_conns_free(struct uring *u)
{
    list_for_each_safe (l, &u->conns) {
        struct uconn *c = container_of(l, struct uconn, link);
        drop_queue(c);
        buf_unref(c->tx);
        c->tx = NULL;
        conn_free(c);
    }
}
