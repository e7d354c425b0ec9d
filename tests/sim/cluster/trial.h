/* One run's state, shared by its parts: run.c (the course of a run), workload.c (clients), faults.c (what goes wrong). */
#ifndef QBD_TESTS_SIM_CLUSTER_TRIAL_H
#define QBD_TESTS_SIM_CLUSTER_TRIAL_H

#include "tests/sim/cluster/checks.h"
#include "tests/sim/cluster/cluster.h"
#include "tests/sim/cluster/history.h"
#include "tests/sim/cluster/run.h"

#define CLIENTS_MAX 12u
#define CELLS_PER_BLOCK (BLOCK_SIZE / CELL_BYTES)

/* How large the run is, drawn first. Most runs are small, so that there can be many. */
struct scale {
    bool large;
    struct cluster_sizes sizes;
    uint32_t request_max_bytes; /* no WRITE is longer: a small WAL takes no longer entries */
    uint32_t requests;          /* about as many, over all clients */
    uint64_t fault_ns;          /* faults and requests last this long */
};

struct trial;

struct client {
    struct trial *run;
    unsigned index;
    bool busy;
    struct frontend *frontend; /* of the request under way */
    uint32_t session;
    struct export_request *request;
    uint32_t first, n; /* cells */
    uint32_t write;    /* its number in the history */
    bool is_write;
    uint64_t began;
};

struct trial {
    struct sim_world *world;
    struct cluster *cluster;
    struct history *history;
    struct checks *checks;
    struct scale scale;
    const struct run_options *options;
    struct faults *faults;
    uint32_t n_clients;
    struct client client[CLIENTS_MAX];
    uint32_t n_cells, hot_cells;
    uint64_t gap_ns; /* at most so long from an answer to its client's next request */
    bool faults_over, reading_all;
    bool unavailable;       /* liveness can't be asked for: see run_result */
    bool may_be_full;       /* some replica's disk is full, or was until a moment ago: ENOSPC is an answer */
    bool may_be_unreadable; /* more than replication can survive was damaged: EIO is an answer */
    uint32_t final_next; /* next cell of the final read */
    uint64_t longest_wait_ns, lost;
};

static inline uint64_t draw(struct trial *r, uint64_t min, uint64_t max)
{
    return sim_draw(r->world, (struct sim_range){min, max});
}

/* ---- workload.c ---- */

void workload_draw(struct trial *r);
void workload_start(struct trial *r);
void workload_frontend_dead(struct trial *r, struct frontend *f);
bool workload_is_idle(const struct trial *r);
/* After the faults: every cell is read once more, by whoever is free. */
void workload_read_all(struct trial *r);
bool workload_all_read(const struct trial *r);
/* What requests are left is out of reach of everybody. */
void workload_bury(struct trial *r);

/* ---- faults.c ---- */

void faults_draw(struct trial *r);
void faults_start(struct trial *r);
/* The last fault is over: links are whole, everything runs. */
void faults_stop(struct trial *r);
void faults_fill_result(const struct trial *r, struct run_result *ret);
void faults_free(struct trial *r);

#endif
