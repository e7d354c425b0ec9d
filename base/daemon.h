/* What both daemons' main() do alike. */
#ifndef QBD_BASE_DAEMON_H
#define QBD_BASE_DAEMON_H

#include <argp.h>

#include "base/log.h"

/* Arguments that both have. What is wrong ends the program, with a line that says so and status 1. */
void daemon_arguments(const struct argp *argp, const char *version, int argc, char **argv, void *input);
void daemon_take_log_level(struct argp_state *state, const char *arg, enum log_level *ret);
void daemon_take_name(struct argp_state *state, const char *option, const char *arg, const char **ret);

/* A daemon may sit under its own /dev/nbd0: it must never wait for page cache that waits for it (store.md §1). Locks memory and asks the kernel to let its allocations go without
 * writing back through itself, where that is permitted; says so at debug level where it is not. */
void daemon_protect_from_reclaim(void);

#endif
