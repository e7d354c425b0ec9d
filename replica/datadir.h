/* A replica's data directory on the host's file system: made by `qbd-replica format`, opened and locked by the daemon. */
#ifndef QBD_REPLICA_DATADIR_H
#define QBD_REPLICA_DATADIR_H

#include "base/uring.h"
#include "replica/store.h"

struct datadir {
    struct dir *dir;
    struct superblock superblock;
    struct store_devices devices;
};

struct datadir_geometry {
    uint64_t wal_bytes;      /* 64 MiB .. 64 GiB, a multiple of 1 MiB */
    uint64_t extent_bytes;   /* 64 MiB .. 64 GiB, a multiple of 1 MiB */
    uint64_t capacity_bytes; /* 0: until the file system is full */
};

/* Runs the reactor until the directory is formatted, durably; nothing of it stays open. One that holds data (-EEXIST: a complete format, a newer version's, or a log
 * that something was written to, though its superblock is lost) is refused and left as it is; what an interrupted format left is made anew. why: a sentence on failure. */
MUST_USE int datadir_format(struct reactor *r, const char *path, const struct uuid *cluster, const struct uuid *identity, const char *name,
                            const struct datadir_geometry *g, char why[256]);

/* Locks and opens everything. cluster, name: what the caller expects. -errno and why: another cluster's, another replica's, an unknown format, held by a running
 * daemon, not there. */
MUST_USE int datadir_open(struct reactor *r, const char *path, const struct uuid *cluster, const char *name, struct datadir *ret, char why[256]);
void datadir_close(struct datadir *d);

#endif
