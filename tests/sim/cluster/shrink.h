/* Makes a failing seed's schedule of faults small. */
#ifndef QBD_TESTS_SIM_CLUSTER_SHRINK_H
#define QBD_TESTS_SIM_CLUSTER_SHRINK_H

#include "tests/sim/cluster/run.h"

/* Faults that a run leaves out, or alone keeps: "3,7-12". False: it can't be read. */
#define SCHEDULE_MAX 65536u /* faults of one run */
bool schedule_parse(const char *list, uint8_t set[SCHEDULE_MAX / 8]);

/* Prints what is left of the schedule, and the command that replays it. False: the seed does not fail. */
bool shrink(const struct run_options *o);

#endif
