/* One run: a seed draws the cluster's timing, its faults and its clients' requests; the checkers judge what came of it. */
#ifndef QBD_TESTS_SIM_CLUSTER_RUN_H
#define QBD_TESTS_SIM_CLUSTER_RUN_H

#include "base/types.h"
#include "tests/sim/cluster/faults.h"

struct run_options {
    uint64_t seed;
    bool trace;        /* told on stdout: messages, what became durable and chosen, faults, requests */
    bool events;       /* and the simulator's own events */
    bool log;          /* the daemons' log lines on stdout */
    uint64_t fault_ns; /* how long faults and requests last; 0: drawn */
    uint32_t clients;  /* at most so many; 0: as drawn */
    bool say_faults;   /* a line per fault on stdout: its index, when, what */
    bool storms;       /* no faults but storms of take-overs */
    enum theme theme;  /* of every run; THEME_DRAWN: as drawn */
    bool threads;      /* front ends of two reactors (docs/threads.md): each client's connection goes from one to the other */
    bool beyond;       /* more damage than replication can survive: a clean refusal is demanded, silence is not, and no liveness */
    /* Faults have indices in the order of their times; what each one is and when depends on the seed and its index alone.
     * Bit i set: number i is not applied. NULL: all are. */
    const uint8_t *skip;
    uint32_t n_skip; /* bits; those beyond count as 0 */
};

struct run_result {
    bool failed;
    char why[600];
    uint64_t hash;
    uint64_t simulated_ns;
    uint64_t writes, reads, lost_requests;
    uint64_t kills, power_cuts, restarts, frontend_kills, fenced, attached, pauses, cuts, resets, rot;
    uint64_t longest_wait_ns;
    uint64_t fault_ns;            /* how long faults and requests lasted */
    uint32_t n_planned;           /* faults had indices 0..n_planned-1 */
    uint64_t faults[FAULT_KINDS]; /* how often each really happened */
    bool unavailable;             /* ended without a majority that has the data (damage beyond what can be healed before issue 4) */
};

void run_seed(const struct run_options *o, struct run_result *ret);

#endif
