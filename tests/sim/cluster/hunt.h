/* Many runs, in several processes side by side. */
#ifndef QBD_TESTS_SIM_CLUSTER_HUNT_H
#define QBD_TESTS_SIM_CLUSTER_HUNT_H

#include "tests/sim/cluster/run.h"
#include "tests/sim/cluster/stats.h"

struct hunt {
    struct run_options run;
    uint64_t n;           /* runs */
    uint64_t first;       /* seeds first, first + 1, ...; ignored when fresh */
    bool fresh;           /* n seeds that follow from `commit` */
    uint64_t commit;
    unsigned jobs;
    bool verbose;         /* a line for each seed */
    bool hashes;          /* "seed hash" for each, in order, and nothing else */
    bool keep_going;      /* beyond HUNT_FAILED_MAX failing seeds */
};

#define HUNT_FAILED_MAX 100u

uint64_t hunt_seed(const struct hunt *h, uint64_t i);
/* Prints failing seeds as they come and totals at the end. Returns how many failed. */
uint64_t hunt_run(const struct hunt *h, struct stats *stats);
/* One run in a process of its own: a failed assertion is a finding (result.failed, and why). */
void hunt_isolated(const struct run_options *o, struct run_result *ret);
void hunt_print_result(uint64_t seed, const struct run_result *r);

#endif
