/* Daemons of a local cluster as processes: starting them, finding them again, signalling them.
 *
 * A process is known by its pid AND its start time AND the boot it was started in, so that a reused pid is never taken
 * for ours; signals go through a pidfd that was checked after it was opened. */
#ifndef QBD_TOOLS_PROCESS_H
#define QBD_TOOLS_PROCESS_H

#include "tools/cli.h"

#include <limits.h>
#include <sys/types.h>

enum process_state { PROCESS_GONE, PROCESS_RUNNING, PROCESS_PAUSED };

struct process {
    enum process_state state;
    pid_t pid; /* 0 when gone */
    uint64_t start_ticks;
};

/* The process that pid_file names, if it lives (a zombie does not). */
struct process process_find(const char *pid_file);

struct process_start {
    const char *cwd;
    const char *log;      /* stderr is appended to it, and stdout */
    bool discard_stdout;  /* ... or not */
    const char *pid_file; /* NULL: none */
    char *const *argv;    /* argv[0] is a path */
    bool dies_with_us;    /* it gets SIGTERM when the caller ends, however that comes about */
};

/* Starts it in a session of its own. Returns its pid (also a child of this process), or -1. */
pid_t process_start(const struct process_start *s, struct why *why);
/* Waits for a child to exit, at most timeout_ms (0: looks once). True when it exited; *ret_status is as waitpid's. */
bool process_reap(pid_t child, unsigned timeout_ms, int *ret_status);
/* "exit status 1", "signal 9 (Killed)" */
void process_describe_exit(int status, char *buf, size_t cap);
/* 0, -ESRCH when it is gone, or another -errno. */
MUST_USE int process_signal(const struct process *p, int signal);
/* True when it is gone within timeout_ms. */
MUST_USE bool process_wait_gone(const struct process *p, unsigned timeout_ms);

/* The path of a program of qbd's: in dir, or (NULL) where this one is. 0 or -1. */
MUST_USE int find_program(const char *dir, const char *name, char path[PATH_MAX], struct why *why);

#endif
