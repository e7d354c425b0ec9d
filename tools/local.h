/* qbd local: shared by its commands. */
#ifndef QBD_TOOLS_LOCAL_H
#define QBD_TOOLS_LOCAL_H

#include "tools/cluster_dir.h"

/* What the command line asked for; a bit in `given` for each option that was there. */
enum local_option {
    GIVEN_REPLICAS = 1 << 0,
    GIVEN_NBDSERVERS = 1 << 1,
    GIVEN_VOLUME = 1 << 2,
    GIVEN_SIZE = 1 << 3,
    GIVEN_LISTEN = 1 << 4,
    GIVEN_JSON = 1 << 5,
    GIVEN_WAL_SIZE = 1 << 6,
    GIVEN_EXTENT_SIZE = 1 << 7,
    GIVEN_LEASE = 1 << 8,
    GIVEN_TIMEOUT = 1 << 9,
    GIVEN_LOG_LEVEL = 1 << 10,
    GIVEN_BIN_DIR = 1 << 11,
};

struct local_args {
    unsigned given;
    const char *dir, *volume, *listen, *log_level, *bin_dir;
    const char *name; /* the argument after the command, or NULL */
    uint32_t n_replicas, n_nbdservers, lease_ms, timeout_ms;
    uint64_t size_bytes, wal_size_bytes, extent_size_bytes;
};

/* local_start.c */
MUST_USE int local_start(struct cluster_dir *d, bool exists, const struct local_args *a, struct why *why);
MUST_USE int local_restart(struct cluster_dir *d, const struct local_args *a, struct why *why);
MUST_USE int local_add(struct cluster_dir *d, const struct local_args *a, struct why *why);
/* The URI of the front end that has the volume, else of its first one; false when there is none. */
bool local_uri(struct cluster_dir *d, const char *volume, char *buf, size_t cap);

/* local_status.c */
MUST_USE int local_status(struct cluster_dir *d, const struct local_args *a, struct why *why);

#endif
