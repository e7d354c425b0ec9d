/* The socket on which operators talk to a front end: HELLO, then STATUS (answered by JSON), ADDRESS and MEMBERS (answered by DONE; docs/rebuild.md §6).
 *
 * Who can reach it may change who holds a volume's data: it belongs on a unix socket that only the operator can open. */
#ifndef QBD_NBDSERVER_OPERATOR_SERVER_H
#define QBD_NBDSERVER_OPERATOR_SERVER_H

#include "base/wire.h"

#define OPERATOR_CONNECTIONS_MAX 16u

struct operator_caller {
    uint64_t connection, cookie;
};

struct operator_server {
    struct reactor *reactor;
    struct uuid cluster, identity; /* what HELLO says */
    char name[NAME_MAX_BYTES];
    /* Writes the JSON text; returns its length (<= cap). */
    size_t (*render)(void *user, char *buf, size_t cap);
    /* Who asked, for an answer that comes later. NULL, or: true when operator_server_status() answers, and not render(). */
    bool (*status)(void *user, struct operator_caller who);
    /* Where a replica lives. 0 or an errno; -EINPROGRESS: operator_server_address() answers. */
    int (*address)(void *user, struct operator_caller who, const struct uuid *identity, const char *name, const char *address);
    /* Answered by operator_server_done(request), now or later. */
    void (*members)(void *user, uint64_t request, uint64_t group, enum members_verb verb, const struct membership *m);
    void *user;
    uint64_t n_requests, n_callers;
    struct listener *listener;
    struct list connections;
    uint32_t n_connections;
};

/* Answers a MEMBERS; nothing, when whoever sent it has gone. error: 0 or an errno. */
void operator_server_done(struct operator_server *s, uint64_t request, int error, const char *text);
/* Answers to what status() and address() put off; nothing, when whoever asked has gone. */
void operator_server_status(struct operator_server *s, struct operator_caller who, const char *text, size_t len);
void operator_server_address(struct operator_server *s, struct operator_caller who, int error);
/* cluster, name, the callbacks and user are set. -errno when the address can't be bound. */
MUST_USE int operator_server_open(struct operator_server *s, struct reactor *r, const char *address);
void operator_server_close(struct operator_server *s);

#endif
