/* One NBD client: fixed-newstyle handshake, then transmission (NBD's doc/proto.md; ../docs/nbd.md lists which MUST is held where).
 *
 * A connection is a state machine fed by conn callbacks. Malformed input ends that connection alone, with one log line. */
#ifndef QBD_NBDSERVER_NBD_CONN_H
#define QBD_NBDSERVER_NBD_CONN_H

#include "base/io.h"
#include "nbdserver/export.h"

struct nbd_server {
    struct reactor *reactor;
    struct export_list exports;
    uint64_t payload_limit_bytes; /* of all connections: above it sockets are not read */
    uint32_t connections_max;
    uint64_t handshake_timeout_ns;
    /* state */
    struct list connections;
    uint32_t n_connections;
    uint64_t payload_bytes;
    bool shutting_down;
    uint64_t requests, errors; /* counters for status */
};

void nbd_server_init(struct nbd_server *s, struct reactor *r);
/* Takes over an accepted connection. Never fails: a refused one is closed with a log line. */
void nbd_server_accept(struct nbd_server *s, struct conn *c);
/* Closes all transmission-phase connections of this export (fenced: P7). NULL: of all. */
void nbd_server_drop(struct nbd_server *s, const struct export *x, const char *why);
/* Graceful: new requests get ESHUTDOWN, requests under way complete, then connections close; drained is called once. */
void nbd_server_shutdown(struct nbd_server *s, void (*drained)(struct nbd_server *s));

#endif
