/* A replica: acceptor and learner of every group placed on it, behind one listener, on one store.
 *
 * This is the glue between connections, the pure acceptor (consensus/) and the store. What always holds:
 *  - nobody is answered before recovery is over (store.md §2 "Recovery", step 6): the listener opens then;
 *  - an answer that depends on a record leaves when that record is durable, in the order of the acceptor's effects;
 *  - a message for another identity, another cluster or an unknown group is refused, never answered as an empty log. */
#ifndef QBD_REPLICA_REPLICA_H
#define QBD_REPLICA_REPLICA_H

#include "base/config.h"
#include "base/io.h"
#include "replica/store.h"

struct replica;

struct replica_options {
    const struct cluster_config *config; /* addresses of peers; kept by reference */
    const struct superblock *superblock; /* who this is; copied */
    const char *listen_address;
    int pid; /* told in status */
    struct store_devices devices;
    struct store_options store;
    uint64_t scrub_bytes_per_s;  /* in the background; 0: only when an operator asks */
    uint64_t scrub_interval_ns;  /* from the end of a pass to the next one */
};

struct replica_callbacks {
    /* Recovery is over and the listener is open (err 0), or the daemon can't serve: why is a sentence. */
    void (*on_ready)(void *user, int err, const char *why);
    /* A WAL or flush error: exit; redo repairs on restart (store.md §2 "Errors"). */
    void (*on_fatal)(void *user, int err, const char *what);
    void *user;
};

MUST_USE int replica_open(struct reactor *r, const struct replica_options *o, const struct replica_callbacks *cb, struct replica **ret);
/* Clean stop: no new work, a checkpoint, then done. */
void replica_close(struct replica *r, void (*done)(void *user), void *user);
void replica_free(struct replica *r);

/* A replica that failed too often in a short time stays up only to say so: it answers STATUS with the reason and refuses everything else. */
MUST_USE int replica_open_failed(struct reactor *r, const struct superblock *sb, const char *listen_address, int pid, const char *why);

#endif
