/* `qbd rebuild` as a process of the simulated world: tools/rebuild.c, rebuild_plan.c and view.c as they ship, in a coroutine. What they call of the real world (sockets, the clock,
 * sleeping, the process that holds a detached volume) is here again for the simulated one.
 *
 * What always holds: one tool runs at a time, and no code of it but between rebuild_tool_start() or an event of its own and its next wait. One that was killed never runs again. */
#ifndef QBD_TESTS_SIM_CLUSTER_REBUILD_TOOL_H
#define QBD_TESTS_SIM_CLUSTER_REBUILD_TOOL_H

#include "tests/sim/cluster/trial.h"
#include "tools/rebuild.h"

struct rebuild_tool;

/* It has the configuration file as it is now, and looks into it no more. a lives as long as the tool. ended(user, err, why) is called once, at an event's end, unless it is killed before. */
struct rebuild_tool *rebuild_tool_start(struct trial *r, const struct rebuild_arguments *a, void (*ended)(void *user, int err, const char *why), void *user);
/* As SIGTERM: it ends between two steps. */
void rebuild_tool_interrupt(struct rebuild_tool *t);
/* As SIGKILL. Its session, if there is one, is told to stop by the kernel (PR_SET_PDEATHSIG). */
void rebuild_tool_kill(struct rebuild_tool *t);
/* It failed, for an earlier one had done it already; the configuration says so by now. */
bool rebuild_tool_was_done_before(const struct rebuild_tool *t);
/* What it said last. */
const char *rebuild_tool_said(const struct rebuild_tool *t);

#endif
