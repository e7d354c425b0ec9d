/* The I/O boundary: everything that logic asks of the world.
 *
 * Source: store.md §1. Two implementations: io_uring (base/uring.c) and the deterministic simulator (tests/sim/). All protocol and
 * storage code is event-driven, runs on the one thread of its reactor and calls nothing else for time, chance, timers, devices
 * or connections. Every callback is called from the reactor's loop, never from inside one of the calls below.
 *
 * A loop turn: completions and arrivals are handled; timers fire; the turn hooks run in the order of their addition (modules close batches here); queued sends are kicked; then one kernel entry waits for more. */
#ifndef QBD_BASE_IO_H
#define QBD_BASE_IO_H

#include <stdatomic.h>
#include <sys/uio.h>

#include "base/buf.h"
#include "base/list.h"
#include "base/types.h"

struct reactor;
struct dev;
struct dir;
struct conn;
struct listener;

/* An operation under way, embedded in its owner's struct. fn is called once, when it is complete. */
struct io_op {
    void (*fn)(struct io_op *op);
    int64_t result;     /* >= 0 bytes (all that were asked for), or -errno */
    struct io_op *link; /* the implementation's while in flight, the owner's otherwise */
    uint64_t scratch[2]; /* the implementation's while in flight */
};

struct timer {
    void (*fn)(struct timer *t);
    uint64_t at_ns;
    uint32_t heap_index; /* 0: not set */
};

struct turn_hook {
    void (*fn)(struct turn_hook *h);
    struct turn_hook *next;
};

/* ---- devices: a flat byte space, opened and locked before the logic starts ---- */

#define IO_DURABLE 1u /* on stable media when complete; covers this write only (a drive's FUA) */
#define IO_IOV_MAX 1024u

struct dev {
    struct reactor *reactor;
    uint64_t size_bytes;
    char name[NAME_MAX_BYTES]; /* "wal", "meta", "extents/00000": for messages */
};

/* ---- connections: ordered byte streams ---- */

struct conn_handler {
    /* An outgoing connection is established. */
    void (*on_open)(struct conn *c);
    /* len > 0 bytes have arrived. Returns how many it consumed; the rest is presented again, with more, when more arrives (or after the connection was unpaused, or when on_filled returned).
     * It may call conn_recv_into(): then the bytes after those consumed go there. The window is CONN_WINDOW bytes: what must be seen whole may not be longer. */
    size_t (*on_data)(struct conn *c, const uint8_t *data, size_t len);
    /* All bytes asked for by conn_recv_into() are there. */
    void (*on_filled)(struct conn *c);
    /* The queue of unsent bytes fell below the mark given to conn_set_low_water(). May be NULL. */
    void (*on_drained)(struct conn *c);
    /* The last callback: the connection is gone (err: 0 for the peer's orderly end, else -errno; -ECANCELED after conn_close()). References on unsent buffers were dropped. The conn is freed after return. */
    void (*on_closed)(struct conn *c, int err);
};

#define CONN_WINDOW (256u << 10)

struct conn {
    struct reactor *reactor;
    const struct conn_handler *handler;
    void *user;
    char peer[112]; /* the address, for messages */
};

struct listener {
    struct reactor *reactor;
    void (*on_accept)(struct listener *l, struct conn *c); /* must set c->handler and c->user, or conn_close(c) after setting them */
    void *user;
    char address[112]; /* as bound: a TCP port 0 is replaced by the real one */
};

/* An operation that makes a new device; result 0 or -errno, dev on success. */
struct dev_create_op {
    struct io_op op;
    struct dev *dev;
    bool allocate_only; /* no zeroes are written first: the caller is about to write most of it */
    atomic_uint patience; /* the caller's, also while it is under way: beside the reactor's own use of its disks, a break this many times as long as each piece of work */
    atomic_ulong done_bytes; /* how far it is; 0 until it is known */
};

/* ---- the other reactors of the process ---- */

#define REACTORS_MAX 16u

/* What one reactor tells another, embedded in its owner's struct: the sender's until reactor_post(), nobody's on its way, the receiver's from fn on. */
struct reactor_msg {
    void (*fn)(struct reactor_msg *m); /* called once, in the receiver's loop */
    struct list link;                  /* the implementation's while it is under way */
};

struct io_vtable {
    uint64_t (*now)(struct reactor *);
    uint64_t (*wall_clock)(struct reactor *);
    void (*random)(struct reactor *, void *, size_t);
    void (*timer_set)(struct reactor *, struct timer *, uint64_t at_ns);
    void (*timer_cancel)(struct reactor *, struct timer *);
    void (*dev_read)(struct dev *, const struct iovec *, unsigned, uint64_t, struct io_op *);
    void (*dev_read_cached)(struct dev *, const struct iovec *, unsigned, uint64_t, struct io_op *);
    void (*dev_write)(struct dev *, const struct iovec *, unsigned, uint64_t, unsigned, struct io_op *);
    void (*dev_flush)(struct dev *, struct io_op *);
    void (*dev_discard)(struct dev *, uint64_t, uint64_t, struct io_op *);
    void (*dev_create)(struct dir *, const char *, uint64_t, struct dev_create_op *);
    int (*listen)(struct reactor *, const char *, void (*)(struct listener *, struct conn *), void *, struct listener **);
    void (*listener_close)(struct listener *);
    int (*connect)(struct reactor *, const char *, const struct conn_handler *, void *, struct conn **);
    void (*conn_send)(struct conn *, const struct segment *, unsigned);
    void (*conn_recv_into)(struct conn *, void *, size_t);
    void (*conn_recv_pause)(struct conn *, bool);
    size_t (*conn_unsent)(const struct conn *);
    void (*conn_set_low_water)(struct conn *, size_t);
    void (*conn_close)(struct conn *);
    void (*conn_finish)(struct conn *);
    void (*conn_move)(struct conn *, struct reactor *, void (*)(struct conn *));
    void (*post)(struct reactor *, struct reactor *, struct reactor_msg *);
};

struct reactor {
    const struct io_vtable *io;
    struct arena *arena;
    struct turn_hook *hooks; /* singly linked, in the order of addition */
    uint64_t turn_ns;        /* the implementation's: when this turn began; 0 before the first */
    bool stopping;
    unsigned index;          /* among the process's reactors: 0 is the first, and the only one of most */
};

struct dir {
    struct reactor *reactor;
    char path[256]; /* for messages */
};

/* Nanoseconds of CLOCK_BOOTTIME (it goes on while the machine sleeps: leases need that). Read anew at each call. */
static inline uint64_t io_now(struct reactor *r)
{
    return r->io->now(r);
}

/* When this turn began: a clock that costs nothing, for what a turn's length does not matter to. Never for leases. */
static inline uint64_t io_turn_now(struct reactor *r)
{
    return r->turn_ns ? r->turn_ns : io_now(r);
}

/* Nanoseconds since 1970, for people (log lines, status). Logic never decides by it. */
static inline uint64_t io_wall_clock(struct reactor *r)
{
    return r->io->wall_clock(r);
}

static inline void io_random(struct reactor *r, void *p, size_t n)
{
    r->io->random(r, p, n);
}

/* (Re)sets the timer; a time in the past fires in the next turn. */
static inline void timer_set(struct reactor *r, struct timer *t, uint64_t at_ns)
{
    r->io->timer_set(r, t, at_ns);
}

static inline void timer_cancel(struct reactor *r, struct timer *t)
{
    r->io->timer_cancel(r, t);
}

/* Offsets, lengths and memory are multiples of 4 KiB. iov and the memory stay valid until op completes; n <= IO_IOV_MAX.
 * Overlapping writes in flight, or a read overlapping a write in flight, are the caller's mistake (an assertion in the simulator). */
static inline void dev_read(struct dev *d, const struct iovec *iov, unsigned n, uint64_t off, struct io_op *op)
{
    d->reactor->io->dev_read(d, iov, n, off, op);
}

/* The same, but what was read this way before may come from the host's memory. A completed write is seen by every read that begins
 * afterwards, but for the host's mistakes; what the medium does to the data meanwhile is not. For who has a checksum, and reads
 * again with dev_read() before calling it damage. */
static inline void dev_read_cached(struct dev *d, const struct iovec *iov, unsigned n, uint64_t off, struct io_op *op)
{
    d->reactor->io->dev_read_cached(d, iov, n, off, op);
}

static inline void dev_write(struct dev *d, const struct iovec *iov, unsigned n, uint64_t off, unsigned flags, struct io_op *op)
{
    d->reactor->io->dev_write(d, iov, n, off, flags, op);
}

/* Makes durable what completed before it was submitted. */
static inline void dev_flush(struct dev *d, struct io_op *op)
{
    d->reactor->io->dev_flush(d, op);
}

/* A hint: the bytes' contents become undefined until written. */
static inline void dev_discard(struct dev *d, uint64_t off, uint64_t len, struct io_op *op)
{
    d->reactor->io->dev_discard(d, off, len, op);
}

/* Makes a device named name in the directory: allocated, zero-filled, durable, locked and open. It takes long and disturbs nothing. -ENOSPC when it does not fit.
 * One of that name and size that nobody holds and that is all zeroes (a crash came before it was counted) is taken as it is; any other: -EEXIST. */
static inline void dev_create(struct dir *d, const char *name, uint64_t size_bytes, struct dev_create_op *op)
{
    d->reactor->io->dev_create(d, name, size_bytes, op);
}

/* Addresses: "unix:/path", "HOST:PORT", "[v6]:PORT". -errno when it can't be bound (or parsed: -EINVAL; -EHOSTUNREACH: the host's name
 * cannot be resolved). */
MUST_USE static inline int io_listen(struct reactor *r, const char *address, void (*on_accept)(struct listener *, struct conn *), void *user, struct listener **ret)
{
    return r->io->listen(r, address, on_accept, user, ret);
}

static inline void listener_close(struct listener *l)
{
    l->reactor->io->listener_close(l);
}

/* Begins to connect; on_open or on_closed follows. -errno only when the address can't be parsed or its host not be resolved
 * (-EHOSTUNREACH), or resources are gone. */
MUST_USE static inline int io_connect(struct reactor *r, const char *address, const struct conn_handler *h, void *user, struct conn **ret)
{
    return r->io->connect(r, address, h, user, ret);
}

/* Queues bytes, in order. Takes its own references. Never fails: errors come as on_closed. */
static inline void conn_send(struct conn *c, const struct segment *segs, unsigned n)
{
    c->reactor->io->conn_send(c, segs, n);
}

/* The next len > 0 bytes of the stream go to ptr, which stays valid until on_filled or on_closed. Call it from on_data or on_filled. */
static inline void conn_recv_into(struct conn *c, void *ptr, size_t len)
{
    c->reactor->io->conn_recv_into(c, ptr, len);
}

/* While paused no on_data and no on_filled is called. Unpausing presents what is left in the window, in a later callback. */
static inline void conn_recv_pause(struct conn *c, bool on)
{
    c->reactor->io->conn_recv_pause(c, on);
}

static inline size_t conn_unsent(const struct conn *c)
{
    return c->reactor->io->conn_unsent(c);
}

static inline void conn_set_low_water(struct conn *c, size_t bytes)
{
    c->reactor->io->conn_set_low_water(c, bytes);
}

/* Drops the connection with what is unsent; on_closed(-ECANCELED) follows in a later turn, nothing else does. */
static inline void conn_close(struct conn *c)
{
    c->reactor->io->conn_close(c);
}

/* Sends what is queued, then closes (on_closed(-ECANCELED), or the error); receives nothing more. */
static inline void conn_finish(struct conn *c)
{
    c->reactor->io->conn_finish(c);
}

/* Gives the connection to another reactor of the process (docs/threads.md section 2); called in on_data or at a time when all that
 * conn_recv_into() asked for is there. From this call on the connection is nobody's: no callback comes, and none of the calls above may
 * be made. In to's loop fn(c) is called then, once, also when the connection broke on its way (on_closed follows then); it sets c->handler
 * and c->user, as on_accept does. Bytes that were not consumed are presented there, those not sent yet are sent from there.
 * A reactor that ends meanwhile drops it, and fn is not called. */
static inline void conn_move(struct conn *c, struct reactor *to, void (*fn)(struct conn *c))
{
    c->reactor->io->conn_move(c, to, fn);
}

/* Called in from's loop: m->fn(m) is called in to's, another reactor of the same process. Messages between two arrive in the order in which
 * they were posted. */
static inline void reactor_post(struct reactor *from, struct reactor *to, struct reactor_msg *m)
{
    from->io->post(from, to, m);
}

/* Adds a hook at the end of the list. Hooks are never removed; they live as long as the reactor. */
static inline void reactor_add_hook(struct reactor *r, struct turn_hook *h)
{
    struct turn_hook **p = &r->hooks;
    while (*p)
        p = &(*p)->next;
    h->next = NULL;
    *p = h;
}

#endif
