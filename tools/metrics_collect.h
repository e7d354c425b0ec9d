/* Asking all daemons of a cluster at once, within a limit, and making a page of metrics of what they say. */
#ifndef QBD_TOOLS_METRICS_COLLECT_H
#define QBD_TOOLS_METRICS_COLLECT_H

#include "tools/metrics.h"
#include "tools/which_cluster.h"

#define SCRAPE_LIMIT_MS 2000u

struct metrics_source {
    struct which_cluster which;
    struct frontend_view frontends[METRICS_FRONTENDS_MAX]; /* names and addresses that the command line gave */
    uint32_t n_frontends;
    struct cluster_dir conf; /* as it was read last */
};

/* "[NAME=]ADDR": one more front end. 0 or -1. */
MUST_USE int metrics_add_frontend(struct metrics_source *s, const char *arg, struct why *why);
/* Reads the configuration for the first time. 0 or -1. */
MUST_USE int metrics_source_open(struct metrics_source *s, struct why *why);
/* A page: the caller frees it. Takes little more than SCRAPE_LIMIT_MS whatever the daemons do. One at a time. NULL: out
 * of memory. */
char *metrics_collect(struct metrics_source *s, size_t *ret_len);

#endif
