/* What the parts of the io_uring reactor share. Only uring*.c include this.
 *
 * user_data of a submission is a pointer to a struct ureq, or to a struct io_op with bit 0 set, or 0 for what nobody waits for;
 * URING_MAIL is a completion that another ring has put there. */
#ifndef QBD_BASE_URING_INTERNAL_H
#define QBD_BASE_URING_INTERNAL_H

/* liburing brings <linux/fs.h> along, which has a BLOCK_SIZE of its own: it comes before ours, and goes. Hence this header is a file's first. */
#include <liburing.h>
#undef BLOCK_SIZE

#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/un.h>

#include "base/timer.h"
#include "base/uring.h"

static_assert(BLOCK_SIZE == 4096, "BLOCK_SIZE is qbd's");

/* A submission of the reactor's own. fn is called once, with the completion's result and flags. */
struct ureq {
    void (*fn)(struct ureq *q, int res, unsigned flags);
};

struct uring_cqe {
    uint64_t user_data;
    int32_t res;
    uint32_t flags;
};

struct uring {
    struct reactor reactor; /* first */
    struct io_uring ring;
    uint64_t spin_ns;
    unsigned in_flight; /* submissions without a completion yet */
    bool draining;      /* the reactor is being freed: completions are taken and nobody is called */
    struct timer_heap timers;

    /* Completions taken from the ring and not yet handled. */
    struct uring_cqe *batch;
    unsigned batch_next, batch_n, batch_cap;

    struct list conns;
    struct list listeners;
    struct list ready;     /* connections that have something to be told in the next turn */
    struct list ready_now; /* those of this turn */
    struct list dirty;     /* connections with bytes queued since the last kick */
    struct list signals;

    /* Devices being made by helper threads. */
    struct list jobs;
    pthread_mutex_t jobs_lock; /* over jobs_done */
    struct list jobs_done;
    int jobs_event; /* eventfd; -1: none yet */
    uint64_t jobs_count;
    struct ureq jobs_req;
    atomic_bool jobs_cancel;
    struct mail *mail; /* of the process; NULL: there is no other reactor */
    atomic_bool mail_came; /* the owner was told, and has not looked yet */
    int mail_event;        /* eventfd: the bell where rings cannot write to each other */
    uint64_t mail_count;
    struct ureq mail_req;
    atomic_ulong dev_ops; /* device operations begun: how helper threads see that the disk is in use */
};

static inline struct uring *uring_of(struct reactor *r)
{
    return (struct uring *)r;
}

/* Never NULL: a full queue is submitted first. The caller prepares the entry; q may be NULL. */
struct io_uring_sqe *uring_sqe(struct uring *u, struct ureq *q);
struct io_uring_sqe *uring_sqe_op(struct uring *u, struct io_op *op);
/* prep functions of liburing reset user_data: these come after them. */
static inline void uring_sqe_set(struct io_uring_sqe *sqe, struct ureq *q)
{
    sqe->user_data = (uintptr_t)q;
}

#define URING_MAIL UINT64_C(2) /* no pointer: bit 0 is clear, and nothing lives there */

uint64_t uring_now(struct reactor *r);
void uring_timer_set(struct reactor *r, struct timer *t, uint64_t at_ns);
void uring_timer_cancel(struct reactor *r, struct timer *t);

/* uring_mail.c */
MUST_USE int uring_mail_new(struct uring **rings, unsigned n, struct mail **ret); /* once all rings are there, before any runs */
void uring_mail_free(struct mail *m);
MUST_USE int uring_mail_open(struct uring *u); /* by its own thread: it can be told from now on */
void uring_mail_close(struct uring *u);        /* when none of the rings runs any more */
void uring_mail_take(struct uring *u);
void uring_post(struct reactor *from, struct reactor *to, struct reactor_msg *m);
/* The same from a thread whose ring does not run: nothing is submitted. */
void uring_post_at_once(struct uring *from, struct uring *to, struct reactor_msg *m);

/* uring_dir.c */
void uring_dev_read(struct dev *d, const struct iovec *iov, unsigned n, uint64_t off, struct io_op *op);
void uring_dev_read_cached(struct dev *d, const struct iovec *iov, unsigned n, uint64_t off, struct io_op *op);
void uring_dev_write(struct dev *d, const struct iovec *iov, unsigned n, uint64_t off, unsigned flags, struct io_op *op);
void uring_dev_flush(struct dev *d, struct io_op *op);
void uring_dev_discard(struct dev *d, uint64_t off, uint64_t len, struct io_op *op);
void uring_dev_done(struct io_op *op, int res);

/* uring_slow.c: the operation to begin in place of the user's, which it completes later. */
struct io_op *uring_slow_write(struct dev *d, struct io_op *user);

/* uring_create.c */
void uring_dev_create(struct dir *d, const char *name, uint64_t size_bytes, struct dev_create_op *op);
void uring_jobs_drain(struct uring *u);

struct uring_dir {
    struct dir dir; /* first */
    int fd;
};

struct uring_dev {
    struct dev dev; /* first */
    int fd;
    int cached_fd; /* the same file through the page cache, for reads; -1: none, they are direct as well */
    bool is_block_device;
    const struct dev_slowness *slowness; /* or NULL */
};

/* Wraps an open, locked descriptor, which is adopted. NULL when out of memory. */
struct uring_dev *uring_dev_new(struct reactor *r, int fd, const char *name, uint64_t size_bytes, bool is_block_device);
/* A descriptor for reads of the file that fd is open on, through the page cache; or -1. */
int uring_open_cached(int dir_fd, const char *name, int fd);
/* A device's name: relative, at most one '/', no part that begins with a dot. */
bool uring_name_is_valid(const char *name);

/* uring_addr.c */
#define ADDRESSES_MAX 4

struct addresses {
    unsigned n;
    socklen_t len[ADDRESSES_MAX];
    union {
        struct sockaddr sa;
        struct sockaddr_un un;
        struct sockaddr_in in;
        struct sockaddr_in6 in6;
    } a[ADDRESSES_MAX];
};

MUST_USE int address_parse(const char *s, bool for_listen, struct addresses *ret);
void address_format(const struct sockaddr *sa, char to[112]);
int address_socket(const struct sockaddr *sa);

/* uring_listen.c */
int uring_listen(struct reactor *r, const char *address, void (*on_accept)(struct listener *, struct conn *), void *user,
                 struct listener **ret);
void uring_listener_close(struct listener *l);
void uring_listeners_drain(struct uring *u);

/* uring_conn.c */
/* An accepted socket, which is adopted. NULL when out of memory; the descriptor is closed then. */
struct conn *uring_conn_accepted(struct uring *u, int fd, const char *local_address);
/* The acceptor has set the handler: receiving may begin. */
void uring_conn_start(struct conn *conn);
int uring_connect(struct reactor *r, const char *address, const struct conn_handler *h, void *user, struct conn **ret);
void uring_conn_send(struct conn *conn, const struct segment *segs, unsigned n);
void uring_conn_recv_into(struct conn *conn, void *ptr, size_t len);
void uring_conn_recv_pause(struct conn *conn, bool on);
size_t uring_conn_unsent(const struct conn *conn);
void uring_conn_set_low_water(struct conn *conn, size_t bytes);
void uring_conn_close(struct conn *conn);
void uring_conn_finish(struct conn *conn);
void uring_conn_move(struct conn *conn, struct reactor *to, void (*fn)(struct conn *c));
bool uring_conn_drop_moved(struct reactor_msg *m); /* frees the connection that m brings; false: it is another message */
void uring_conns_ready(struct uring *u); /* tells what became ready before this turn */
void uring_conns_kick(struct uring *u);  /* sends what was queued */
void uring_conns_drain(struct uring *u);
void uring_conns_free(struct uring *u);

#endif
