/* The I/O boundary on Linux io_uring: what only a daemon's main() sees. */
#ifndef QBD_BASE_URING_H
#define QBD_BASE_URING_H

#include "base/io.h"

struct uring_options {
    uint64_t arena_limit_bytes;
    unsigned spin_us; /* poll for completions this long before sleeping; 0: never */
};

/* Makes the reactor of the calling thread. -errno; on failure *ret_why (static or leaked once) is one line for an operator: what is missing and how to enable it
 * (ENOSYS, EPERM by seccomp or kernel.io_uring_disabled, ENOMEM by memlock, kernel too old for a flag). */
MUST_USE int uring_reactor_new(const struct uring_options *opt, struct reactor **ret, const char **ret_why);
/* Runs until reactor->stopping. */
int uring_reactor_run(struct reactor *r);
void uring_reactor_free(struct reactor *r);
/* Calls fn in the loop for each of the signals that arrives (they are blocked for the process). */
MUST_USE int uring_on_signals(struct reactor *r, const int *signals, unsigned n, void (*fn)(int signo, void *user), void *user);

/* The reactors of a process: the first is the calling thread's, each other one has a thread of its own. With n == 1 there are no threads, and
 * nothing is as it would not be with uring_reactor_new(). What fails after that ends the process: there is no half-dead daemon. */
struct uring_team;
MUST_USE int uring_team_new(unsigned n, const struct uring_options *opt, struct uring_team **ret, const char **ret_why);
struct reactor *uring_team_reactor(struct uring_team *t, unsigned i);
/* Calls fn(user, i) for each reactor in turn, from the first on, each in its own thread, while no loop runs. The first that is not 0 ends it, and is returned. */
int uring_team_each(struct uring_team *t, int (*fn)(void *user, unsigned i), void *user);
/* Runs all of them until the first has stopped; then the others are stopped as well. Their loops have ended when it returns: 0, or why the first's failed. */
int uring_team_run(struct uring_team *t);
void uring_team_free(struct uring_team *t);

/* A data directory. Devices are opened O_DIRECT and flock(LOCK_EX)ed on the descriptor that does the I/O; a lock that another process holds is waited for up to lock_wait_ms
 * (a killed daemon's I/O may still be landing), then -EWOULDBLOCK. */
MUST_USE int uring_dir_open(struct reactor *r, const char *path, struct dir **ret);
void uring_dir_close(struct dir *d);
MUST_USE int uring_dev_open(struct dir *d, const char *name, unsigned lock_wait_ms, struct dev **ret);
/* From now on dev_read_cached() goes through the page cache; until then, and when there are too few descriptors for it (false), it is
 * direct. Devices that dev_create() makes have it at once. */
bool uring_dev_open_cached(struct dir *d, struct dev *dev);
void uring_dev_close(struct dev *dev);

/* For tests: from now on the answer to each write that begins while `on` is held back until it took at least delay_ns, and factor times as long as the device did. *s stays the caller's, who may
 * switch it on and off; NULL: no more. */
struct dev_slowness {
    bool on;
    uint64_t delay_ns;
    unsigned factor;
};
void uring_dev_slow(struct dev *d, const struct dev_slowness *s);

#endif
