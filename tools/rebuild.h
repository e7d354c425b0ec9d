/* qbd rebuild's state, and what is beside its steps: the configuration, the progress line, writing down who votes now. */
#ifndef QBD_TOOLS_REBUILD_H
#define QBD_TOOLS_REBUILD_H

#include "tools/status.h"
#include "tools/which_cluster.h"

#define REBUILD_FRONTENDS_MAX (2 * FRONTENDS_MAX + 1)
#define PROGRESS_WIDTH 118

/* What the command line asked for. */
struct rebuild_arguments {
    struct which_cluster which;
    const char *lost, *onto, *add, *remove, *frontend[FRONTENDS_MAX];
    unsigned n_frontends;
    bool dry_run, live, quiet;
};

struct rebuild {
    struct cluster_config conf;
    struct cluster_path conf_path;
    struct cluster_dir *local; /* NULL: not a local cluster */
    bool quiet, bar_shown;
    char frontend[REBUILD_FRONTENDS_MAX][CONFIG_ADDRESS_MAX]; /* status addresses */
    unsigned n_frontends;
    pid_t session; /* of our own, or -1 */
    bool session_listed; /* its status address is the last of `frontend` */
    char session_dir[64];
    struct replica_view view[CONFIG_REPLICAS_MAX]; /* of each replica in the configuration, turned to `volume` */
    /* the volume under way */
    const struct volume_config *volume;
    uint64_t size_blocks;
    struct membership members, target;  /* in force; wanted */
    struct uuid leaving;                /* zero: nobody */
    const struct replica_config *joining; /* NULL: nobody */
};

struct copy_progress {
    char state[96];
    int64_t done_bytes, left_bytes; /* left: -1 while unknown */
    int64_t rate, eta_s, latency_us; /* bytes per second; -1: unknown */
};

/* The configuration, of a local cluster or of a file; the front ends of a local one. 0 or -1. */
MUST_USE int rebuild_load(struct rebuild *b, const struct which_cluster *which, struct why *why);
/* One line that is written over itself; on a terminal only. */
void rebuild_show(struct rebuild *b, const struct copy_progress *p);
/* The new voters into the configuration of a local cluster; for others, what its owner has to write. 0 or -1. */
MUST_USE int rebuild_record(struct rebuild *b, struct why *why);
/* A line for people; the progress line makes room. */
void rebuild_note(const struct rebuild *b, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* rebuild.c: what the command does with the configuration that is loaded. 0 or -1. */
MUST_USE int rebuild_run(struct rebuild *b, const struct rebuild_arguments *a, struct why *why);

/* rebuild_session.c: a front end without clients, for volume `volume`; where its status is. 0 or -1. */
MUST_USE int rebuild_session_start(struct rebuild *b, char ret_status[CONFIG_ADDRESS_MAX], struct why *why);
bool rebuild_session_runs(struct rebuild *b, struct why *why); /* false: it has ended by itself */
void rebuild_session_end(struct rebuild *b); /* when there is one */

/* rebuild_plan.c */
void rebuild_look(struct rebuild *b); /* asks every replica again */
/* members and size_blocks: the newest membership that a replica knows. 0 or -1. */
MUST_USE int rebuild_read_membership(struct rebuild *b, struct why *why);
struct replica_view *rebuild_view_of(struct rebuild *b, const struct uuid *identity); /* NULL: not in the configuration */
struct replica_view *rebuild_view_named(struct rebuild *b, const char *name);
/* How many voters answer and hold everything, `except` (or NULL) left out. */
unsigned rebuild_complete_voters(struct rebuild *b, const struct uuid *except);
const char *rebuild_name_of(struct rebuild *b, const struct uuid *identity, char text[37]);
bool membership_same_voters(const struct membership *a, const struct membership *b);
MUST_USE int rebuild_find_leaving(struct rebuild *b, const char *name, struct why *why);
/* leaving, joining and target; refuses what would lose data or quorum. 0 or -1. */
MUST_USE int rebuild_plan(struct rebuild *b, const struct rebuild_arguments *a, struct why *why);
void rebuild_say_plan(struct rebuild *b);
/* Does a majority of the voters know the membership that was read? */
bool rebuild_voters_know(struct rebuild *b);
/* By an earlier run that was interrupted before it could say so. */
bool rebuild_is_done(struct rebuild *b, const struct rebuild_arguments *a);

/* Sends a message that DONE answers. 0, or -1 with the daemon's own words. */
MUST_USE int rebuild_call_done(const char *address, struct rebuild *b, const struct uuid *target, const struct msg *m, unsigned timeout_ms, struct why *why);

/* SIGINT and SIGTERM end the command between two steps. */
void rebuild_catch_signals(void);
bool rebuild_interrupted(void);

#endif
