/* Talking to daemons as a tool does: blocking, one request at a time, with a time limit.
 *
 * Frames are base/wire.h's; the NBD handshake is the smallest that proves that a volume serves. */
#ifndef QBD_TOOLS_CLIENT_H
#define QBD_TOOLS_CLIENT_H

#include "base/msg.h"
#include "tools/cli.h"

#include <jansson.h>

struct client {
    int fd;
    struct arena *arena;
    uint8_t *body; /* of the last answer: what its pointers point into */
    struct uuid target;
    unsigned timeout_ms;
    uint64_t until_ms; /* when what is under way is given up: a daemon that sends a byte now and then gets no longer */
};

/* Connects and exchanges HELLOs, within timeout_ms altogether. target: the replica's identity, zero for a front end. 0
 * or -1. */
MUST_USE int client_open(struct client *c, const char *address, const struct uuid *cluster, const struct uuid *target,
                         unsigned timeout_ms, struct why *why);
/* Sends m and waits for its answer, for the client's timeout_ms altogether. 0 or -1. */
MUST_USE int client_call(struct client *c, const struct msg *m, enum msg_type answer, struct msg *ret, struct why *why);
void client_close(struct client *c);

/* STATUS of the daemon at address, or NULL, within timeout_ms altogether (beside what the resolver of names takes). The
 * caller's reference. */
json_t *client_status(const char *address, const struct uuid *cluster, const struct uuid *target, unsigned timeout_ms,
                      struct why *why);

/* Goes through a real NBD handshake up to a successful GO, then leaves; within timeout_ms altogether. 0 or -1 with the
 * server's own words where it has any. */
MUST_USE int nbd_probe(const char *address, const char *export, unsigned timeout_ms, struct why *why);
/* The URI of an export at an address as --listen takes it. */
void nbd_uri(const char *address, const char *export, char *buf, size_t cap);

/* An address, say, where a configuration file belongs. 0 or -1. */
MUST_USE int client_require_file(const char *path, struct why *why);
/* Puts a free port in place of port 0: clients must be told one. Other addresses stay. 0 or -1. */
MUST_USE int nbd_choose_port(char *address, size_t cap, struct why *why);

#endif
