/* Changes of who votes: disks are lost for good, and an operator replaces, adds and removes replicas with `qbd rebuild`, interrupted and repeated; while everything else that a seed draws goes wrong as well.
 *
 * What always holds: one change at a time, and a disk is given up only while the others of every membership that may be in force hold everything (atlas.h); so each change can be brought to its end, and
 * after the faults it must be, within a bounded time. */
#ifndef QBD_TESTS_SIM_CLUSTER_MEMBERS_H
#define QBD_TESTS_SIM_CLUSTER_MEMBERS_H

#include "tests/sim/cluster/faults_internal.h"

/* Whether this run changes its voters; with a theme of its own, or beside what it draws otherwise. */
void members_draw(struct faults *f);
void members_start(struct trial *r);
/* No further change begins, and the one under way is disturbed no more. */
void members_stop(struct trial *r);
/* Nothing is under way. */
bool members_are_idle(const struct trial *r);
/* What is, for a message. */
const char *members_describe(const struct trial *r);
void members_free(struct trial *r);

#endif
