/* Frames: how messages travel (docs/formats.md "Wire").
 *
 * A frame is a fixed header, a body of header.body_len bytes, and a payload of header.payload_len bytes. Header and body carry a CRC32C each; payload consists of
 * whole blocks whose CRCs are in the body (checksums are computed once, by the front end). Untrusted until wire_* has validated it. */
#ifndef QBD_BASE_WIRE_H
#define QBD_BASE_WIRE_H

#include "base/io.h"
#include "base/msg.h"

#define WIRE_MAGIC 0x31444251u /* "QBD1" */
#define WIRE_VERSION 2u
#define WIRE_BODY_MAX (128u << 10)
#define WIRE_PAYLOAD_MAX ENTRY_MAX_BYTES

struct wire_header {
    uint32_t magic;
    uint32_t header_crc; /* of this header with header_crc = 0 */
    uint16_t type;
    uint16_t flags; /* 0 */
    uint32_t body_len;
    uint32_t payload_len;
    uint32_t body_crc;
    uint64_t cookie;
    uint64_t group;
    uint8_t target[16];
    uint64_t ballot_round;
    uint8_t ballot_proposer[16];
};
static_assert(sizeof(struct wire_header) == 80, "wire_header has no padding");

/* Queues a message on c; payload (an entry's, or data_payload for DATA and IMAGE_REPLY) is shared by reference, not copied. */
void wire_send(struct conn *c, const struct msg *m, const struct segment *data_payload, unsigned n_data_payload);

/* A connection that speaks frames: owns the conn's handler. Embedded in the owner's struct. */
struct wire_peer;

struct wire_handler {
    void (*on_open)(struct wire_peer *p); /* outgoing: send your HELLO now */
    /* One validated message. Entries in it (ACCEPT, VALUE, CATCHUP_ENTRY) are the receiver's to entry_ref if it keeps them; their payload has been verified against its CRCs when verify_payload is set. */
    void (*on_msg)(struct wire_peer *p, const struct msg *m, struct buf *payload); /* payload: DATA's or IMAGE_REPLY's blocks (ref to keep), else NULL */
    /* Where a DATA's or an IMAGE_REPLY's payload of len bytes goes: returns a buf (one reference, adopted; cap >= len), or NULL for a fresh one. May be NULL. */
    struct buf *(*payload_buf)(struct wire_peer *p, const struct msg *m, uint32_t len);
    /* reason: a sentence when the peer violated the protocol, else NULL and err as in conn_handler. p->conn is NULL from now on. */
    void (*on_closed)(struct wire_peer *p, int err, const char *reason);
};

struct wire_peer {
    struct conn *conn;
    const struct wire_handler *handler;
    void *user;
    bool verify_payload; /* the owner's: set it at any time */
    /* wire.c's own */
    bool paused, closing, refusing;
    struct wire_header header;
    bool have_header;
    struct buf *body;
    struct buf *payload;
    const char *violation;
    struct msg msg;
};

void wire_peer_accept(struct wire_peer *p, struct conn *c, const struct wire_handler *h, void *user);
MUST_USE int wire_peer_connect(struct wire_peer *p, struct reactor *r, const char *address, const struct wire_handler *h, void *user);
void wire_peer_send(struct wire_peer *p, const struct msg *m); /* no-op when closed */
/* Drops the connection; the handler's on_closed follows in a later turn, nothing else does. No-op when closed. */
void wire_peer_close(struct wire_peer *p);
/* As conn_recv_pause, effective at once: called in on_msg, no further message is handed over. */
void wire_peer_pause(struct wire_peer *p, bool on);
/* Sends REFUSED with the reason, then closes; wire_peer_close() cuts that short for a peer that does not read. */
void wire_peer_refuse(struct wire_peer *p, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* Encoding apart from connections, for tests and fuzzers. wire_encode writes header and body (not the payload) and returns their length; to has room for
 * sizeof(struct wire_header) + WIRE_BODY_MAX. */
size_t wire_encode(const struct msg *m, uint32_t payload_len, uint8_t *to);
/* Checks magic, CRC and bounds. NULL, or what is wrong. */
const char *wire_check_header(const struct wire_header *h);
/* Decodes a body of a header that was checked (the body's CRC is checked here); body is aligned to 8 bytes and ret points into it. An entry in the message
 * (wire_msg_entry) is made in arena, beyond its limit too, without payload: its one reference is the caller's. NULL, or what is wrong. */
const char *wire_decode(struct arena *a, const struct wire_header *h, const uint8_t *body, struct msg *ret);
/* The entry that a VALUE, an ACCEPT or a CATCHUP_ENTRY carries, or NULL. */
struct entry *wire_msg_entry(const struct msg *m);
/* "ACCEPT" and so on, for messages to people; NULL for a type that does not exist. */
const char *wire_type_name(uint16_t type);

#endif
