/* What the simulator's files share. Tests see simio.h only. */
#ifndef QBD_TESTS_SIM_SIM_INTERNAL_H
#define QBD_TESTS_SIM_SIM_INTERNAL_H

#include "base/timer.h"
#include "tests/sim/simio.h"

/* Something that happens at a time, outside of processes: a device finishes, bytes arrive, a reactor's turn begins.
 * Events of the same time happen in the order in which they were set. */
struct sim_event {
    uint64_t at_ns;
    uint64_t seq;
    uint32_t index; /* 1-based place in the heap; 0: not set */
    void (*fn)(struct sim_event *e);
};

/* Something that a process has to be told in its next turn. */
struct sim_ready {
    struct list node; /* in sim_reactor.ready or .batch; else by itself */
    void (*fn)(struct sim_ready *s);
};

/* Where processes run. Its clock goes on while they come and go. */
struct sim_host {
    struct list node;
    uint32_t id;
    char name[NAME_MAX_BYTES];
    uint64_t clock_world_ns, clock_local_ns; /* they were equal in time when the drift was last set */
    int32_t drift_ppm;
    bool silent; /* without power: nobody answers */
};

struct sim_net; /* sim_net.c's */

struct sim_world {
    struct sim_config config;
    uint64_t now_ns;
    uint64_t hash;
    uint64_t rng[4];
    uint64_t event_seq;
    struct sim_event **heap;
    uint32_t n_heap, cap_heap;
    struct list reactors; /* also ended ones, so that a pointer to one stays valid */
    struct list hosts;
    struct list disks;
    struct list dirs;
    uint32_t n_reactors, n_hosts, n_disks;
    struct sim_net *net;
    struct sim_trace trace;
    struct sim_tap tap;
};

struct sim_reactor {
    struct reactor r;
    struct sim_world *world;
    struct sim_host *host;
    struct list node;
    uint32_t id;
    uint64_t rng[4];
    struct sim_event turn;
    struct sim_event reap;
    uint64_t busy_until_ns;
    bool wake; /* a turn is wanted although nothing is ready */
    bool paused;
    bool in_turn;
    bool in_call; /* inside of a call whose hook may end the process */
    bool gone;    /* crashed: its calls are void */
    bool reaped;  /* and nothing of it is left */
    void (*on_crash)(void *user);
    void *crash_user;
    struct list ready, batch;
    struct timer_heap timers;
    struct list devs, dir_handles, ops, creates;
    struct list conns, listeners; /* sim_net.c's */
    struct sim_reactor *first;    /* of the process: itself for most */
    unsigned n_siblings;          /* the first's: how many others there are */
    struct list mail;             /* sim_mail on its way to this one */
    uint64_t mail_at_ns[REACTORS_MAX]; /* when the last message from each sibling comes */
    struct list kick;             /* connections with something to send at the end of the turn */
};

/* sim_world.c */
void sim_event_set(struct sim_world *w, struct sim_event *e, uint64_t at_ns);
void sim_event_cancel(struct sim_world *w, struct sim_event *e);
void sim_rng_seed(uint64_t rng[4], uint64_t seed);
uint64_t sim_rng_next(uint64_t rng[4]);
uint64_t sim_mix(uint64_t x);
struct sim_host *sim_host_get(struct sim_world *w, const char *name);
/* Each event of the history: folded into the hash, and told to the trace. */
void sim_note(struct sim_world *w, const struct sim_reactor *r, uint64_t a, uint64_t b, const char *fmt, ...)
    PRINTF_LIKE(5, 6);

/* sim_reactor.c */
static inline struct sim_reactor *sim_reactor_of(struct reactor *r)
{
    return container_of(r, struct sim_reactor, r);
}
void sim_reactor_arm(struct sim_reactor *r);
void sim_ready_add(struct sim_reactor *r, struct sim_ready *s);

/* sim_mail.c: messages between the reactors of a process */
void sim_mail_post(struct reactor *from, struct reactor *to, struct reactor_msg *m);
void sim_mail_reap(struct sim_reactor *r);

/* sim_dev.c, sim_net.c: their part of the vtable, and of a process's end */
void sim_dev_read(struct dev *d, const struct iovec *iov, unsigned n, uint64_t off, struct io_op *op);
void sim_dev_read_cached(struct dev *d, const struct iovec *iov, unsigned n, uint64_t off, struct io_op *op);
void sim_dev_write(struct dev *d, const struct iovec *iov, unsigned n, uint64_t off, unsigned flags, struct io_op *op);
void sim_dev_flush(struct dev *d, struct io_op *op);
void sim_dev_discard(struct dev *d, uint64_t off, uint64_t len, struct io_op *op);
void sim_dev_create(struct dir *d, const char *name, uint64_t size_bytes, struct dev_create_op *op);
void sim_dev_crash(struct sim_reactor *r, enum sim_crash how); /* what is on media is decided */
void sim_dev_reap(struct sim_reactor *r);                      /* the handles go */
void sim_disks_free(struct sim_world *w);

struct sim_net *sim_net_new(struct sim_world *w);
void sim_net_free(struct sim_world *w);
int sim_net_listen(struct reactor *r, const char *address, void (*on_accept)(struct listener *, struct conn *),
                   void *user, struct listener **ret);
void sim_net_listener_close(struct listener *l);
int sim_net_connect(struct reactor *r, const char *address, const struct conn_handler *h, void *user,
                    struct conn **ret);
void sim_net_send(struct conn *c, const struct segment *segs, unsigned n);
void sim_net_recv_into(struct conn *c, void *ptr, size_t len);
void sim_net_recv_pause(struct conn *c, bool on);
size_t sim_net_unsent(const struct conn *c);
void sim_net_set_low_water(struct conn *c, size_t bytes);
void sim_net_close(struct conn *c);
void sim_net_finish(struct conn *c);
void sim_net_move(struct conn *c, struct reactor *to, void (*fn)(struct conn *c));
void sim_net_kick(struct sim_reactor *r); /* at a turn's end: what is queued goes out */
void sim_net_crash(struct sim_reactor *r, enum sim_crash how);
void sim_net_reap(struct sim_reactor *r);

#endif
