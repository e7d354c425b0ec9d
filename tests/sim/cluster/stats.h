/* What all runs of a hunt came to: faults by kind, requests, coverage marks. In memory that the processes of a hunt share. */
#ifndef QBD_TESTS_SIM_CLUSTER_STATS_H
#define QBD_TESTS_SIM_CLUSTER_STATS_H

#include "tests/sim/cluster/run.h"

struct stats;

struct stats *stats_new(void);
/* Around each run, in whichever process: marks begin at 0, and are added up. A run that ends its process is not counted. */
void stats_begin(void);
void stats_add(struct stats *s, const struct run_result *r);
uint64_t stats_seeds(const struct stats *s);
uint64_t stats_simulated_ns(const struct stats *s);
/* In one paragraph: seeds, time, requests. */
void stats_print_totals(const struct stats *s, double seconds);
/* A line per kind of fault, a line per mark, and at the end those that were never reached. Returns how many marks those are. */
unsigned stats_print(const struct stats *s);

#endif
