/* What the files of the NBD side share: a connection's states, its requests, and who does what.
 *
 *   nbd_conn.c       life cycle: accept, the reading loop, limits and who waits for them, closing, drop, shutdown
 *   nbd_handshake.c  options
 *   nbd_transmit.c   requests: checks, admission, payload, hand-over to the export
 *   nbd_reply.c      replies
 *
 * What always holds: a request that was submitted is owned by the export until done(); it points to its connection only
 * while that connection is open. A connection's struct lives until on_closed. The bytes that a request holds (charge)
 * and the replies not yet sent (unsent_charge) are counted in server->payload_bytes. */
#ifndef QBD_NBDSERVER_NBD_INTERNAL_H
#define QBD_NBDSERVER_NBD_INTERNAL_H

#include "base/log.h"
#include "nbdserver/nbd_conn.h"
#include "nbdserver/nbd_proto.h"

enum nbd_state {
    NBD_CLIENT_FLAGS, /* greeting sent */
    NBD_OPTION,       /* haggling: an option comes next */
    NBD_OPTION_SKIP,  /* an option's data is being skipped; its answer is known */
    NBD_ATTACHING,    /* INFO, GO or EXPORT_NAME waits for an export that is not attached */
    NBD_REQUEST,      /* transmission: a request header comes next */
    NBD_ADMISSION,    /* a request waits for memory */
    NBD_PAYLOAD,      /* a WRITE's payload is received */
    NBD_DRAIN,        /* a failed WRITE's payload is thrown away; its answer is known */
    NBD_DISC_SEEN,    /* DISC came (or a shutdown): requests under way are answered, then it closes */
    NBD_FINISHING,    /* the last replies are being sent */
    NBD_CLOSED,       /* conn_close was called */
};

/* Why a socket is not read. */
enum nbd_pause {
    NBD_PAUSE_IN_FLIGHT = 1, /* as many requests under way as one connection may have */
    NBD_PAUSE_UNSENT = 2,    /* the client does not take its replies */
    NBD_PAUSE_MEMORY = 4,    /* payload_limit_bytes or the arena is used up */
    NBD_PAUSE_ATTACHING = 8, /* the client talks although an option is unanswered */
    NBD_PAUSE_END = 16,      /* nothing more is wanted */
};

#define NBD_LOW_WATER_BYTES (16u << 20) /* replies wanted again below this: enough to keep any link busy meanwhile */
#define NBD_HANDSHAKE_UNSENT_MAX (1u << 20)
/* A payload piece up to this is awaited in the window and copied; larger ones are received in place. */
#define NBD_COPY_MAX (32u << 10)
#define NBD_ATTACH_POLL_NS (200 * NS_PER_MS)
#define NBD_LINGER_NS (10 * NS_PER_S) /* for a client that does not take the last replies */
#define NBD_STALL_CHECK_NS NS_PER_S
/* For a client that makes no progress while others wait for the memory it holds. */
#define NBD_STALL_NS (60 * NS_PER_S)
#define NBD_SLAB_REQUESTS 64u
#define NBD_ZEROES_BYTES (256u << 10)
#define NBD_MESSAGE_MAX 256u /* of our own error messages */

/* The longest well-formed option: GO with the longest name and every information request. */
#define NBD_OPTION_MAX (4u + NBD_STRING_MAX + 2u + 2u * 65535u)
static_assert(sizeof(struct nbd_option_header) + NBD_OPTION_MAX <= CONN_WINDOW, "an option is seen whole");
static_assert(NBD_COPY_MAX + sizeof(struct nbd_request_header) <= CONN_WINDOW, "a small payload is seen whole");

struct nbd_request {
    struct export_request x;
    struct list link; /* connection's requests under way, or the pool */
    struct nbd_server *server;
    struct nbd_conn *conn; /* NULL: gone, no reply */
    uint64_t cookie;
    uint16_t command, flags;
    uint64_t charge; /* bytes counted in server->payload_bytes */
};

/* A request header in host order. */
struct nbd_header {
    uint64_t cookie;
    uint64_t offset;
    uint32_t length;
    uint16_t type, flags;
};

/* An INFO, GO or EXPORT_NAME that was understood. */
struct nbd_go {
    uint32_t option;
    bool want_name, want_description, want_block_size;
    struct export *export;
    uint64_t deadline_ns; /* of the wait for the export */
    uint64_t since_ns;
};

struct nbd_conn {
    struct nbd_server *server;
    struct conn *conn;
    struct list link;        /* server->connections */
    struct list memory_link; /* server->memory_waiters */
    enum nbd_state state;
    uint32_t paused;    /* nbd_pause bits */
    struct timer timer; /* handshake, attaching or lingering, by state */
    uint64_t handshake_deadline_ns;
    /* negotiated */
    bool no_zeroes;
    bool structured_replies;
    struct export *export; /* set in transmission */
    /* handshake */
    struct nbd_go go;
    uint32_t option; /* OPTION_SKIP: the option, how much of it is left, its answer */
    uint32_t skip_left;
    uint32_t skip_reply;
    const char *skip_why;
    /* transmission */
    struct list requests; /* submitted, not done */
    uint32_t in_flight;
    uint64_t unsent_charge;
    struct nbd_header header;    /* ADMISSION, DRAIN: the request */
    struct nbd_request *payload; /* PAYLOAD: the WRITE, its piece and how much of that is there */
    uint32_t piece;
    bool filling; /* conn_recv_into is under way */
    uint32_t drain_left;
    uint32_t drain_error;
    const char *drain_why;
    /* the stall check */
    uint64_t stall_mark, stall_since_ns;
};

/* ---- nbd_conn.c ---- */
/* Logs "peer: reason" and closes at once. */
void nbd_fail(struct nbd_conn *c, const char *fmt, ...) PRINTF_LIKE(2, 3);
void nbd_close(struct nbd_conn *c);         /* closes at once, silently */
void nbd_finish(struct nbd_conn *c);        /* sends what is queued, then closes */
void nbd_end_when_idle(struct nbd_conn *c); /* takes no more requests; finishes when those under way are answered */
void nbd_pause(struct nbd_conn *c, enum nbd_pause why);
void nbd_resume(struct nbd_conn *c, enum nbd_pause why);
void nbd_after_send(struct nbd_conn *c); /* accounts for unsent bytes, pauses when there are too many */
/* To the server that has the export which the client names; its bytes are read again there. c is that one's from now on. */
void nbd_conn_move(struct nbd_conn *c, struct nbd_server *to);
bool nbd_in_transmission(const struct nbd_conn *c);
void nbd_wait_for_memory(struct nbd_conn *c);
struct nbd_request *nbd_request_get(struct nbd_server *s); /* NULL: out of memory */
void nbd_request_put(struct nbd_request *r);               /* drops its buffers and its charge */

/* ---- each: how many of the len bytes were consumed; 0: more is needed (or nothing can go on) ---- */
size_t nbd_handshake_data(struct nbd_conn *c, const uint8_t *data, size_t len);
size_t nbd_transmit_data(struct nbd_conn *c, const uint8_t *data, size_t len);

/* ---- nbd_handshake.c ---- */
void nbd_greet(struct nbd_conn *c);
void nbd_handshake_timer(struct nbd_conn *c);
void nbd_attach_check(struct nbd_conn *c); /* in ATTACHING: answers when the export's state decides it */

/* ---- nbd_transmit.c ---- */
void nbd_payload_filled(struct nbd_conn *c);
bool nbd_admit(struct nbd_conn *c); /* in ADMISSION; false: still no memory */

/* ---- nbd_reply.c ---- */
void nbd_reply_done(struct nbd_conn *c, const struct nbd_request *r); /* by r->x.error */
void nbd_reply_error(struct nbd_conn *c, uint16_t command, uint64_t cookie, uint32_t error, const char *why);
void nbd_reply_empty(struct nbd_conn *c, uint16_t command, uint64_t cookie); /* success without data */

#endif
