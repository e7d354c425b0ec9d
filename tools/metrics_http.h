/* The page of metrics over HTTP. */
#ifndef QBD_TOOLS_METRICS_HTTP_H
#define QBD_TOOLS_METRICS_HTTP_H

#include "tools/metrics_collect.h"

/* Serves /metrics at the address (HOST:PORT, [V6]:PORT, :PORT for all of the machine's) until SIGTERM or SIGINT. 0 or
 * -1. */
MUST_USE int metrics_serve(struct metrics_source *s, const char *address, struct why *why);

#endif
