/* What daemons say of themselves, as metrics for Prometheus (docs/metrics.md lists them all).
 *
 * What always holds: a page is valid text format 0.0.4, whatever the daemons said: each name has its HELP and TYPE
 * once, before its samples, and no series comes twice. A daemon that did not answer has up 0 and nothing else that it
 * would have to say itself; a key that it does not send makes no sample. */
#ifndef QBD_TOOLS_METRICS_H
#define QBD_TOOLS_METRICS_H

#include "tools/status.h"

#include <stdio.h>

#define METRICS_FRONTENDS_MAX 32

struct frontend_view {
    char name[CONFIG_ADDRESS_MAX]; /* the label */
    char address[CONFIG_ADDRESS_MAX];
    json_t *status; /* or NULL */
    struct why why; /* no status: why */
};

struct metrics_input {
    const struct cluster_config *conf;
    struct replica_view *replicas; /* one for each of conf's, in its order */
    struct frontend_view frontends[METRICS_FRONTENDS_MAX];
    uint32_t n_frontends;
    bool config_ok; /* conf was read for this page; else it is an older one */
    double scrape_seconds;
};

/* The whole page. Looks at nothing but its input; turns the replicas' views to other groups. */
void metrics_write(FILE *f, struct metrics_input *in);

/* Every metric that there is, in the page's order. */
void metrics_list(void (*fn)(void *user, const char *name, const char *type, const char *help), void *user);

#endif
