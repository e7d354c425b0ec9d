/* What a front end's process does, without the process: NBD clients on one side, volumes on the other, a status socket beside them.
 *
 * main.c runs it over io_uring, the simulator over its own reactor: what is between a client's socket and a volume is the same object code.
 *
 * Life: the listeners stand from the beginning (a client that comes before the volume is attached waits in its handshake), volumes attach, service_stop() ends: no new requests, those under way
 * complete, leases are released. A majority that does not come back within a few seconds cuts that short.
 *
 * A front end of several threads is as many services, each on a reactor of its own (team.h). */
#ifndef QBD_NBDSERVER_SERVICE_H
#define QBD_NBDSERVER_SERVICE_H

#include "nbdserver/nbd_conn.h"
#include "nbdserver/operator_server.h"
#include "nbdserver/volume.h"

#define SERVICE_LISTENERS_MAX 16
#define SERVICE_DRAIN_TIMEOUT_NS (5 * NS_PER_S)

struct service_options {
    const struct cluster_config *config; /* lives as long as the service */
    const char *name;                    /* told to others as the holder; likewise */
    int pid;                             /* for the status */
    uint64_t payload_limit_bytes;        /* of clients' data held in memory */
    uint64_t retain_bytes, inflight_bytes, fail_after_ns; /* as in volume_options */
};

struct service_callbacks { /* each may be NULL */
    void (*on_state)(void *user, struct volume *v); /* as in volume_callbacks, after the clients were told */
    void (*on_fenced)(void *user, struct volume *v);
    void (*on_stopped)(void *user); /* service_stop() is done: nothing is left to wait for */
    void *user;
};

struct service;
struct team;
struct team_call;

struct served_volume {
    struct service *service;
    struct volume *volume;
};

struct service {
    struct reactor *reactor;
    struct team *team;           /* NULL: it is the whole front end */
    struct team_call *stop_call; /* another member's, answered when it has stopped */
    struct service_options options;
    struct service_callbacks cb;
    struct nbd_server nbd; /* its limits may be changed between service_init() and the first service_listen() */
    struct operator_server operators;
    bool has_status;
    struct served_volume volume[CONFIG_VOLUMES_MAX];
    struct export *export[CONFIG_VOLUMES_MAX];
    uint32_t n_volumes, n_closed;
    struct listener *listener[SERVICE_LISTENERS_MAX];
    unsigned n_listeners;
    struct timer drain_timer;
    uint64_t started_ns;
    bool stopping, closing_volumes, stopped;
};

/* Once per reactor; s lives as long as the reactor. */
void service_init(struct service *s, struct reactor *r, const struct service_options *o, const struct service_callbacks *cb);
/* Serves this volume of the configuration too (named twice: once). -errno, with a line in the log. */
MUST_USE int service_add_volume(struct service *s, const char *name);
/* Where clients connect. After the volumes. -errno, with a line in the log. */
MUST_USE int service_listen(struct service *s, const char *address);
/* Where operators ask for the status. */
MUST_USE int service_listen_status(struct service *s, const char *address);
/* No new requests; those under way complete; then the volumes are closed and on_stopped is called. */
void service_stop(struct service *s);
/* After on_stopped and the reactor's last turn. False, and nothing is freed, when clients' connections are left (those under way when the drain was cut short). */
bool service_free(struct service *s);
bool service_is_idle(const struct service *s); /* service_free() would say true */

/* ---- for team.c ---- */

struct service_sums {
    uint64_t clients, requests, errors, payload_bytes, memory_bytes;
};
void service_add_sums(const struct service *s, struct service_sums *to);
/* The status up to its list of volumes. missing: of the threads' numbers, as text; returns 0 when it does not fit. */
size_t service_status_head(const struct service *s, const struct service_sums *sums, unsigned threads, const char *missing, char *buf, size_t cap);
struct volume *service_find_group(const struct service *s, uint64_t group); /* NULL: not here */
/* All of its volumes hear where a replica lives. 0 or an errno. */
int service_learn_address(struct service *s, const struct uuid *identity, const char *name, const char *address);

#endif
