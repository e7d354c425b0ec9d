/* The front end's connection to one replica: connect, HELLO, messages; reconnects by itself with jittered backoff.
 *
 * What always holds: `up` and `down` alternate, up first; messages and sends only between the two. A peer whose HELLO names another cluster, version or identity than the
 * configured one is refused with a log line (a wiped disk is a new identity: protocol.md 18) and tried again later, for an operator may put it right. */
#ifndef QBD_NBDSERVER_REPLICA_LINK_H
#define QBD_NBDSERVER_REPLICA_LINK_H

#include "base/config.h"
#include "base/wire.h"

#define LINK_BACKOFF_MIN_NS (20 * NS_PER_MS)
#define LINK_BACKOFF_MAX_NS (1000 * NS_PER_MS)
#define LINK_HELLO_TIMEOUT_NS (2000 * NS_PER_MS) /* connect and HELLO together */
#define LINK_FINISH_TIMEOUT_NS (500 * NS_PER_MS) /* for the last bytes of a link that is stopped */

struct replica_link;

struct replica_link_handler {
    void (*up)(struct replica_link *l);
    void (*down)(struct replica_link *l); /* sends are no-ops from now on */
    void (*msg)(struct replica_link *l, const struct msg *m, struct buf *payload); /* as in wire_handler */
    struct buf *(*payload_buf)(struct replica_link *l, const struct msg *m, uint32_t len); /* as in wire_handler */
    void (*stopped)(struct replica_link *l); /* after replica_link_stop: the last callback */
};

enum replica_link_state { LINK_STOPPED, LINK_BACKOFF, LINK_CONNECTING, LINK_HELLO, LINK_UP, LINK_CLOSING };

struct replica_link {
    struct reactor *reactor;
    const struct replica_link_handler *handler;
    void *user;
    uint32_t index; /* the owner's number of this link */
    const struct replica_config *replica;
    const char *volume; /* for messages */
    struct uuid cluster, self;
    char self_name[NAME_MAX_BYTES];
    /* state */
    enum replica_link_state state;
    bool stopping;
    struct wire_peer peer;
    struct timer timer; /* reconnect, HELLO timeout, finish timeout */
    uint64_t backoff_ns;
    uint64_t heard_ns; /* the last message */
    uint64_t connects;
    char problem[320]; /* why it is down, for log and status; "" when up or not tried yet */
};

void replica_link_init(struct replica_link *l, struct reactor *r, const struct replica_config *replica, const struct uuid *cluster,
                       const struct replica_link_handler *handler, void *user, uint32_t index);
/* Connects under this identity and name; goes on until stopped. */
void replica_link_start(struct replica_link *l, const struct uuid *self, const char *self_name);
/* No-op unless up. */
void replica_link_send(struct replica_link *l, const struct msg *m);
/* Cuts the connection, whose unsent bytes are lost, and connects again. `down` is called before it returns, if it was up. why is for the log. */
void replica_link_drop(struct replica_link *l, const char *why);
/* Takes another identity: the connection is made anew. */
void replica_link_rename(struct replica_link *l, const struct uuid *self);
/* Sends what is queued (for a short while), closes, calls stopped once (perhaps before it returns). No `down`. */
void replica_link_stop(struct replica_link *l);

static inline bool replica_link_is_up(const struct replica_link *l)
{
    return l->state == LINK_UP;
}

#endif
