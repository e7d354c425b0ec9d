/* The deterministic implementation of base/io.h: processes, disks and network of a whole cluster in one thread.
 *
 * One world has one seed and one history: the same calls give the same callbacks in the same order at the same virtual
 * times, on every machine and build type. Nothing in here reads a clock, compares addresses to decide an order, or
 * computes with floating point.
 *
 * Three kinds of things live in a world, with different lifetimes:
 *   - sim_disk, sim_dir: what is on media. Survives everything but sim_world_free().
 *   - sim_reactor: one process of a host. Ends by sim_reactor_crash() or sim_reactor_free(); a successor with the same
 *     host name opens its disks again.
 *   - dev, conn, timer: of a process, as io.h has them; they vanish with it, without callbacks.
 *
 * Time passes between turns only. A turn of a reactor is as io.h promises: completions and arrivals (in the order in
 * which they happened), due timers, hooks, sends. Then it is busy for a drawn while (turn_ns), so that what happens
 * meanwhile is handled together in its next turn. Devices and network go on while a process is busy or paused.
 *
 * Tests may call logic directly between two runs, as if from a callback; sim_run_*() gives every reactor a turn first,
 * so that hooks see it. */
#ifndef QBD_TESTS_SIM_SIMIO_H
#define QBD_TESTS_SIM_SIMIO_H

#include "base/io.h"

struct sim_world;
struct sim_reactor;
struct sim_disk;
struct sim_dir;

/* A range to draw from, both ends included. */
struct sim_range {
    uint64_t min, max;
};

/* ---- the world ---- */

struct sim_config {
    struct sim_range turn_ns; /* how long a reactor is busy after a turn */
    struct sim_range read_ns; /* latencies of new disks; each disk has its own copy */
    struct sim_range write_ns;
    struct sim_range durable_ns; /* on top of write_ns for IO_DURABLE */
    struct sim_range flush_ns;
    struct sim_range discard_ns;
    struct sim_range create_ns;  /* dev_create */
    struct sim_range latency_ns; /* one way, of new links */
    struct sim_range message_ns; /* between the reactors of a process */
    uint32_t pipe_bytes;         /* what a connection's direction holds: in flight and unread */
    uint32_t chunk_max;          /* longest piece in which bytes arrive; pieces are cut at random */
    uint64_t connect_timeout_ns;
};

struct sim_world *sim_world_new(uint64_t seed);
/* Drops the reactors that are left, then everything. */
void sim_world_free(struct sim_world *w);
struct sim_config *sim_config(struct sim_world *w); /* change it before what it concerns is made */

uint64_t sim_now(const struct sim_world *w); /* nanoseconds of virtual time, from 0 */
/* Of the whole history so far: every event, with the contents of writes and sends. */
uint64_t sim_hash(const struct sim_world *w);
void sim_fold(struct sim_world *w, uint64_t x); /* a test's own events may take part */
uint64_t sim_rand(struct sim_world *w);
uint64_t sim_draw(struct sim_world *w, struct sim_range r);
bool sim_chance(struct sim_world *w, uint32_t one_in); /* true once in one_in times; 0: never */

/* Handles the next event. False when there is none (nothing will ever happen again by itself). */
bool sim_step(struct sim_world *w);
/* Until done(user) is true, looked at after each event, or max_ns have passed (then the clock stands there), or nothing
 * is left to happen. Returns done(user). done may be NULL. */
bool sim_run_until(struct sim_world *w, bool (*done)(void *user), void *user, uint64_t max_ns);
void sim_run_for(struct sim_world *w, uint64_t ns);
/* Calls fn(user) at a virtual time, outside of every reactor: for faults and workloads. */
void sim_at(struct sim_world *w, uint64_t at_ns, void (*fn)(void *user), void *user);
/* Watches what processes hand over, at the moment of the call; for checkers. It must change nothing: with and without it
 * a history is the same. NULL: nobody watches. */
struct sim_tap {
    /* conn_send() at one end of a connection: an end keeps its number for life, the other end's is conn ^ 1. address: what
     * was connected to. */
    void (*sent)(void *user, const char *host, uint32_t conn, const char *address, const struct segment *segs, unsigned n);
    /* A write at its submission: off, len, flags and all its bytes. */
    void (*written)(void *user, struct sim_disk *d, uint64_t off, const uint8_t *data, uint64_t len, unsigned flags);
    void *user;
};
void sim_set_tap(struct sim_world *w, const struct sim_tap *tap); /* copied */
/* For people: a readable line per event (kind: which one, see sim_note()'s calls), and what processes send. It may change
 * nothing either. NULL: nobody reads. */
struct sim_trace {
    void (*event)(void *user, uint64_t now_ns, unsigned kind, const char *text);
    void (*sent)(void *user, const char *from, const char *to, const struct segment *segs, unsigned n);
    void *user;
};
void sim_set_trace(struct sim_world *w, const struct sim_trace *trace); /* copied */

/* ---- processes ---- */

/* host: where the process runs, for links; a restarted one has the same. */
struct sim_reactor *sim_reactor_new(struct sim_world *w, const char *host, uint64_t arena_limit_bytes);
struct reactor *sim_reactor_io(struct sim_reactor *r); /* what logic gets */
/* One more reactor of r's process (a thread of it): it ends when any of them crashes, and is paused and resumed with them. r is the process's first. */
struct sim_reactor *sim_reactor_another(struct sim_reactor *r, uint64_t arena_limit_bytes);

enum sim_crash {
    SIM_KILL,  /* kill -9: what devices completed stays readable, but what was not durable still is not; peers see their
                  connections end */
    SIM_POWER, /* power cut of the host, hence of every process on it: every sector that is not durable is old or new;
                * peers see nothing (half-open) until they send something and a process runs on the host again; the
                * host's clock begins anew */
};

/* Ends the process now: timers, ops and connections vanish without callbacks, the arena is dropped, its disks suffer as
 * their crash model says. From inside one of its own callbacks (or a disk's hook under one) it takes effect at once for
 * everything outside, all further calls of the process are void, and the rest goes when the callback returns. on_crash
 * (may be NULL) is called then, for the owner to free what logic had allocated by itself. */
void sim_reactor_crash(struct sim_reactor *r, enum sim_crash how);
void sim_on_crash(struct sim_reactor *r, void (*on_crash)(void *user), void *user);
/* An orderly end: asserts that no op is in flight and no buffer in use. Connections end as with SIM_KILL. */
void sim_reactor_free(struct sim_reactor *r);
/* A turn as soon as it is not busy. */
void sim_wake(struct sim_reactor *r);
/* SIGSTOP until sim_resume(). Clock, devices and network go on. */
void sim_pause(struct sim_reactor *r);
void sim_resume(struct sim_reactor *r);
/* This reactor alone is busy for ns from now on, as in a system call that takes long. */
void sim_stall(struct sim_reactor *r, uint64_t ns);
/* From now on its clock (io_now) runs at 1 + ppm/10^6 of the world's. */
void sim_set_drift(struct sim_reactor *r, int32_t ppm);
int32_t sim_drift(const struct sim_reactor *r);
/* Keeps p reachable for the leak sanitizer: the memory of logic that crashed and can't be taken down in order. */
void sim_bury(void *p);
/* What was buried is gone: the memory that it was in has been dropped as a whole. */
void sim_forget_buried(void);

/* ---- disks ---- */

enum sim_io { SIM_READ, SIM_WRITE, SIM_FLUSH, SIM_DISCARD, SIM_CREATE, SIM_IO_KINDS };

/* An operation as hooks see it. */
struct sim_io_info {
    enum sim_io kind;
    uint64_t nth; /* 1, 2, ...: of this kind on this disk, in order of submission */
    uint64_t off, len;
    unsigned flags;
    bool complete; /* at submission false, at completion (before its owner hears of it) true */
    int err;       /* at completion: errno of the failure that was planted, or 0 */
    bool misdirected;
};

/* size_bytes is a multiple of 4 KiB; it reads as zeroes. Belongs to the directory when there is one (its name must be
 * new there). */
struct sim_disk *sim_disk_new(struct sim_world *w, struct sim_dir *dir, const char *name, uint64_t size_bytes);
/* Opens and locks. -EWOULDBLOCK while another process holds it. Writes that were in flight when the last holder crashed
 * land now at the latest. */
MUST_USE int sim_dev_open(struct sim_reactor *r, struct sim_disk *d, struct dev **ret);
/* The same without the lock, as a daemon would that locks something else: late writes go on landing. For mutations. */
MUST_USE int sim_dev_open_unlocked(struct sim_reactor *r, struct sim_disk *d, struct dev **ret);
void sim_dev_close(struct dev *dev); /* nothing may be in flight */
struct sim_disk *sim_dev_disk(const struct dev *dev);
const char *sim_disk_name(const struct sim_disk *d);
struct sim_dir *sim_disk_dir(const struct sim_disk *d); /* NULL: none */
uint64_t sim_disk_size(const struct sim_disk *d);
uint64_t sim_disk_count(const struct sim_disk *d, enum sim_io kind); /* submitted so far: the last one's nth */

struct sim_disk_timing {
    struct sim_range read_ns, write_ns, durable_ns, flush_ns, discard_ns;
};
struct sim_disk_timing *sim_disk_timing(struct sim_disk *d);

/* Called at each submission and completion. It may call sim_reactor_crash(): then an operation at its submission has
 * not happened, and a completed one is done but nobody heard of it. */
void sim_disk_set_hook(struct sim_disk *d, void (*hook)(void *user, struct sim_disk *d, const struct sim_io_info *io),
                       void *user);
/* Decides what is on media after a crash: whether the 512-byte sector at byte offset off got what write number nth put
 * there. Asked for completed writes that are not durable and for those in flight, in no particular order and perhaps
 * more than once. NULL: by chance. With it no write lands late. */
void sim_disk_set_landing(struct sim_disk *d,
                          bool (*landed)(void *user, struct sim_disk *d, uint64_t nth, uint64_t off), void *user);
/* One in how many writes that were in flight at a crash land later, between 0 and late_ns after it, or when the lock is
 * granted. Default: one in 4, 5 ms. 0: never. */
void sim_disk_set_late(struct sim_disk *d, uint32_t one_in, uint64_t late_ns);
/* The power fails for this disk; its holder, if any, must have crashed (sim_reactor_crash(SIM_POWER) does both). */
void sim_disk_power_cut(struct sim_disk *d);

/* After `after` more operations of this kind, the next `times` ones fail with -err (UINT32_MAX: all). A failed write
 * leaves each of its sectors old or new. */
void sim_disk_fail(struct sim_disk *d, enum sim_io kind, uint32_t after, uint32_t times, int err);
/* Latent errors: reads of these pages fail with -EIO until they are written. */
void sim_disk_spoil(struct sim_disk *d, uint64_t off, uint64_t len);
/* Write number nth goes to to_off instead of its own place, and nobody is told. */
void sim_disk_misdirect(struct sim_disk *d, uint64_t nth, uint64_t to_off);
/* Rot. */
void sim_disk_flip(struct sim_disk *d, uint64_t byte_off, unsigned bit);
/* What a read would give now; what would be left if nothing of what is not durable landed; changing both. Any offset
 * and length. */
void sim_disk_peek(const struct sim_disk *d, uint64_t off, void *to, size_t len);
void sim_disk_peek_durable(const struct sim_disk *d, uint64_t off, void *to, size_t len);
/* The same for the page that begins at off (a multiple of 4 KiB), without a copy: valid until something happens. */
const uint8_t *sim_disk_page(const struct sim_disk *d, uint64_t off, bool durable);
bool sim_disk_is_blank(const struct sim_disk *d, uint64_t off); /* a read of that page would give zeroes */
void sim_disk_poke(struct sim_disk *d, uint64_t off, const void *from, size_t len);
/* to becomes what a read of from would give, all durable: to try many endings of one history. Nothing of `to` may be in
 * flight. */
void sim_disk_copy(struct sim_disk *to, const struct sim_disk *from);
/* The whole disk is lost: all zeroes again. */
void sim_disk_wipe(struct sim_disk *d);
/* It is no longer there, as a deleted file. Nobody has it open. */
void sim_disk_remove(struct sim_disk *d);

/* ---- directories ---- */

/* capacity_bytes: above this sum of its disks' sizes dev_create says -ENOSPC. */
struct sim_dir *sim_dir_new(struct sim_world *w, const char *path, uint64_t capacity_bytes);
void sim_dir_set_capacity(struct sim_dir *d, uint64_t capacity_bytes);
uint64_t sim_dir_used(const struct sim_dir *d);
uint64_t sim_dir_refused(const struct sim_dir *d); /* how often dev_create has said -ENOSPC */
/* sim_disk_set_hook() of all its disks, also of those that are made later; and it hears of dev_create() (SIM_CREATE: the disk is NULL at submission, and at a
 * completion with an error). */
void sim_dir_set_hook(struct sim_dir *d, void (*hook)(void *user, struct sim_disk *d, const struct sim_io_info *io), void *user);
/* Its disks one after the other, in the order in which they were made: the first after NULL, NULL after the last. */
struct sim_disk *sim_dir_next(struct sim_dir *d, struct sim_disk *after);
struct sim_disk *sim_dir_find(struct sim_dir *d, const char *name); /* NULL: not there */
/* The process's handle of it (freed with the process). dev_create() says -EEXIST for a name that is there, unless it is
 * blank and nobody's: then it takes it. After a crash during it the disk is there or not. */
struct dir *sim_dir_open(struct sim_reactor *r, struct sim_dir *d);

/* ---- network ---- */

/* One direction between two hosts; made at the first mention. While it is down, bytes wait (as TCP repeats them); new
 * connections time out. */
struct sim_link {
    bool down;
    struct sim_range latency_ns;
    uint32_t tail_one_in; /* one in so many pieces is late by tail_ns more; 0: none */
    struct sim_range tail_ns;
    uint32_t ns_per_kib;        /* the link's speed; 0: no limit */
    uint64_t reset_after_bytes; /* the connection that carries this byte (counted from now) is reset right behind it; 0:
                                   none. Goes back to 0 then. */
    uint64_t carried_bytes;     /* so far */
    uint64_t busy_until_ns;     /* the simulator's */
};
struct sim_link *sim_link(struct sim_world *w, const char *from, const char *to);
void sim_cut(struct sim_world *w, const char *a, const char *b); /* both directions */
void sim_cut_one_way(struct sim_world *w, const char *from, const char *to);
void sim_heal(struct sim_world *w, const char *a, const char *b); /* both directions; what waited goes on */
/* Resets every connection between the two hosts: each end sees -ECONNRESET as soon as its direction lets it. */
void sim_reset(struct sim_world *w, const char *a, const char *b);
/* What the connections that exist now carry from `from` to `to`, already under way or sent later, arrives ns from now at the earliest. New
 * connections are not concerned. */
void sim_hold(struct sim_world *w, const char *from, const char *to, uint64_t ns);
/* `from`'s ends of its connections to `to` fail with -ECONNRESET now, and only they: what was sent goes on arriving. Returns how many
 * of them had bytes under way. */
unsigned sim_break(struct sim_world *w, const char *from, const char *to);

#endif
