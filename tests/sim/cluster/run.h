/* One run: a seed draws the cluster's timing, its faults and its clients' requests; the checkers judge what came of it. */
#ifndef QBD_TESTS_SIM_CLUSTER_RUN_H
#define QBD_TESTS_SIM_CLUSTER_RUN_H

#include "base/types.h"

struct run_options {
    uint64_t seed;
    bool trace;        /* a line per event on stdout */
    bool log;          /* the daemons' log lines on stdout */
    uint64_t fault_ns; /* how long faults and requests last; 0: drawn */
};

struct run_result {
    bool failed;
    char why[600];
    uint64_t hash;
    uint64_t simulated_ns;
    uint64_t writes, reads, lost_requests;
    uint64_t kills, power_cuts, restarts, frontend_kills, fenced, attached, pauses, cuts, resets, rot;
    uint64_t longest_wait_ns;
};

void run_seed(const struct run_options *o, struct run_result *ret);

#endif
