/* What both daemons' main() do alike. */
#ifndef QBD_BASE_DAEMON_H
#define QBD_BASE_DAEMON_H

#include "base/log.h"

/* "error", "warning", "info", "debug". 0, or -EINVAL. */
MUST_USE int daemon_parse_log_level(const char *s, enum log_level *ret);

/* A daemon may sit under its own /dev/nbd0: it must never wait for page cache that waits for it (store.md §1). Locks memory and asks the kernel to let its allocations go without
 * writing back through itself, where that is permitted; says so at debug level where it is not. */
void daemon_protect_from_reclaim(void);

#endif
