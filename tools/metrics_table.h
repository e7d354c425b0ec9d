/* Which metrics there are: those that stand in a daemon's status as they are, and those that metrics.c works out. */
#ifndef QBD_TOOLS_METRICS_TABLE_H
#define QBD_TOOLS_METRICS_TABLE_H

#include "base/types.h"
#include "tools/metrics_text.h"

#include <jansson.h>

/* How a number of the status becomes one in base units. */
enum unit { PLAIN, MILLI, MICRO, SLABS };

/* One that is in a status under a path of keys ("store.wal.bytes"). Booleans count as 1 and 0. */
struct told {
    struct metric_family family;
    const char *path;
    enum unit unit;
};

struct metrics_table {
    const struct told *row;
    size_t n;
};

extern const struct metrics_table metrics_of_replica, metrics_of_part, metrics_of_copy, metrics_of_part_scrub,
    metrics_of_frontend, metrics_of_session, metrics_of_peer;

/* The number that a status has under the path, in base units. False: it has none. */
bool metrics_number(json_t *status, const struct told *m, double *ret);

/* ---- what is worked out ---- */

extern const struct metric_family metric_exporter_info, metric_exporter_config_ok, metric_exporter_errors,
    metric_exporter_seconds, metric_volume_holder, metric_replica_up, metric_replica_info,
    metric_replica_scrub_running, metric_replica_wal_live, metric_replica_wal_redo, metric_part_state,
    metric_part_behind, metric_part_lease, metric_part_copying, metric_part_refused, metric_frontend_up,
    metric_frontend_info, metric_session_state, metric_peer_link, metric_peer_stream;

enum volume_fact {
    V_CREATED,
    V_SIZE,
    V_VOTERS,
    V_ANSWERING,
    V_UP_TO_DATE,
    V_LOST,
    V_FULL,
    V_REDUNDANCY,
    V_QUORUM,
    V_IN_USE,
    V_LEASE_HELD,
    V_LEASE,
    V_COMMIT,
    V_FACTS
};
extern const struct metric_family metric_volume[V_FACTS];

#endif
