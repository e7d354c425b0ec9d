/* One run's state, shared by its parts: run.c (the course of a run), workload.c (clients), faults.c (what goes wrong). */
#ifndef QBD_TESTS_SIM_CLUSTER_TRIAL_H
#define QBD_TESTS_SIM_CLUSTER_TRIAL_H

#include "tests/sim/cluster/checks.h"
#include "tests/sim/cluster/cluster.h"
#include "tests/sim/cluster/history.h"
#include "tests/sim/cluster/run.h"
#include "tests/sim/cluster/trace.h"

/* How large the run is, drawn first. Most runs are small, so that there can be many. */
struct scale {
    bool large;
    struct cluster_sizes sizes;
    bool scattered;             /* requests go anywhere, so that what stores hold grows */
    uint32_t crowded;           /* nearly all requests go to so many blocks; 0: no */
    uint32_t request_max_bytes; /* no WRITE is longer: a small WAL takes no longer entries */
    uint32_t requests;          /* about as many, over all clients */
    uint64_t fault_ns;          /* faults and requests last this long */
};

struct workload;
struct members;

struct trial {
    struct sim_world *world;
    struct cluster *cluster;
    struct history *history;
    struct checks *checks;
    struct trace *trace;
    struct scale scale;
    const struct run_options *options;
    struct faults *faults;
    struct workload *workload;
    struct members *members; /* NULL: who votes never changes */
    unsigned n_tools;
    uint32_t n_clients; /* connections that ask; may be made smaller between workload_draw() and workload_start() */
    uint32_t n_cells;
    bool faults_over, reading_all;
    bool unavailable;       /* liveness can't be asked for: see run_result */
    bool may_be_full;       /* some replica's disk is full, or was until a moment ago: ENOSPC is an answer */
    bool may_be_unreadable; /* more than replication can survive was damaged: EIO is an answer */
    uint64_t longest_wait_ns, lost;
};

static inline uint64_t draw(struct trial *r, uint64_t min, uint64_t max)
{
    return sim_draw(r->world, (struct sim_range){min, max});
}

/* ---- workload.c ---- */

void workload_draw(struct trial *r);
void workload_start(struct trial *r);
void workload_session_ended(struct trial *r, uint32_t session);
/* No request is under way, no front end is stopping. */
bool workload_is_idle(const struct trial *r);
/* After the faults: every cell is read once more, by whoever is free. */
void workload_read_all(struct trial *r);
bool workload_all_read(const struct trial *r);
void workload_free(struct trial *r);

/* ---- alter.c: at the end of a run ---- */

/* NULL, or what is wrong. */
const char *alter_and_scrub(struct trial *r);

/* ---- faults.c ---- */

/* For people who asked for faults: something that is none of the schedule's. */
void fault_tell(struct trial *r, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* members.c: the operator does not write down who votes. */
bool fault_forgets_record(const struct trial *r);

void faults_draw(struct trial *r);
void faults_start(struct trial *r);
/* The last fault is over: links are whole, everything runs. */
void faults_stop(struct trial *r);
void faults_fill_result(const struct trial *r, struct run_result *ret);
void faults_free(struct trial *r);

#endif
