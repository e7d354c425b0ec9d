/* One NBD client: fixed-newstyle handshake, then transmission (NBD's doc/proto.md; ../docs/nbd.md lists which MUST is
 * held where).
 *
 * A connection is a state machine fed by conn callbacks. Malformed input ends it alone, with one log line. */
#ifndef QBD_NBDSERVER_NBD_CONN_H
#define QBD_NBDSERVER_NBD_CONN_H

#include <stdatomic.h>

#include "base/io.h"
#include "nbdserver/export.h"

struct nbd_server;

/* All exports of a front end of several threads (docs/threads.md): which server has which. It changes no more when the first client comes. */
struct nbd_directory {
    struct nbd_place {
        const char *name, *description;
        struct nbd_server *server;
    } *place;
    uint32_t n;
    atomic_uint moving; /* connections that are between two servers */
};

struct nbd_server {
    struct reactor *reactor;
    struct export_list exports;
    struct nbd_directory *directory; /* NULL: `exports` are all there are */
    /* Limits; nbd_server_init sets defaults that may be changed before the first connection. */
    uint64_t payload_limit_bytes; /* of all connections: payload and replies held in memory; above it sockets are not
                                     read. A quarter of the arena's limit is safe. */
    uint32_t connections_max;
    uint64_t handshake_timeout_ns;
    uint64_t attach_wait_ns;   /* how long a client waits for an export that is not attached (yet) */
    uint64_t unsent_max_bytes; /* of one connection: above it its socket is not read */
    uint32_t in_flight_max;    /* requests of one connection; at it its socket is not read */
    /* state */
    struct list connections;
    uint32_t n_connections;
    uint64_t payload_bytes;
    bool shutting_down;
    uint64_t requests, errors; /* counters for status */
    void (*drained)(struct nbd_server *s);
    struct list memory_waiters; /* connections in the order in which payload_limit_bytes or the arena stopped them */
    struct turn_hook hook;      /* gives memory to waiters once per turn; ends a shutdown */
    struct timer stall_timer;   /* runs while somebody waits for memory */
    struct buf zeroes;          /* what zero pieces are sent from; its reference count never ends */
    struct list free_requests;  /* the pool: requests outlive their connections */
    struct nbd_request_slab *slabs;
    uint32_t requests_out; /* taken from the pool */
};

/* Once per reactor; s lives as long as the reactor (a turn hook points to it). */
void nbd_server_init(struct nbd_server *s, struct reactor *r);
/* Gives back the pool. No connection and no request may be left; runs after the reactor's last turn. */
void nbd_server_free(struct nbd_server *s);
/* Takes over an accepted connection. Never fails: a refused one is closed with a log line. */
void nbd_server_accept(struct nbd_server *s, struct conn *c);
/* attached, refused or state of x changed: clients that wait for it are looked at now (a slow poll finds out
 * otherwise). */
void nbd_server_export_changed(struct nbd_server *s, const struct export *x);
/* Closes all transmission-phase connections of this export (fenced: P7). NULL: of all. */
void nbd_server_drop(struct nbd_server *s, const struct export *x, const char *why);
/* Graceful: new requests get ESHUTDOWN, requests under way complete, then connections close; drained is called once, at
 * the end of a loop turn. */
void nbd_server_shutdown(struct nbd_server *s, void (*drained)(struct nbd_server *s));

#endif
