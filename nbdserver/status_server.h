/* The socket on which operators ask the front end how it is: HELLO, then STATUS, answered by JSON. It changes nothing. */
#ifndef QBD_NBDSERVER_STATUS_SERVER_H
#define QBD_NBDSERVER_STATUS_SERVER_H

#include "base/wire.h"

#define STATUS_CONNECTIONS_MAX 16u

struct status_server {
    struct reactor *reactor;
    struct uuid cluster, identity; /* what HELLO says */
    char name[NAME_MAX_BYTES];
    /* Writes the JSON text; returns its length (<= cap). */
    size_t (*render)(void *user, char *buf, size_t cap);
    void *user;
    struct listener *listener;
    struct list connections;
    uint32_t n_connections;
};

/* cluster, name, render and user are set. -errno when the address can't be bound. */
MUST_USE int status_server_open(struct status_server *s, struct reactor *r, const char *address);
void status_server_close(struct status_server *s);

#endif
