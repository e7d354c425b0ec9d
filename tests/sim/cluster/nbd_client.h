/* An NBD client over base/io.h: one connection, from the handshake to its end, with requests in a pipeline.
 *
 * It trusts the server in nothing: magic, cookies, chunk lengths, what was negotiated, errors that the specification does not have, replies that nobody asked for. Whatever is wrong is told to the
 * owner (wrong), and the connection is closed. What the contents of a read mean is the owner's business.
 *
 * Every request that was submitted is given back exactly once: replied, or lost when the connection ends. */
#ifndef QBD_TESTS_SIM_CLUSTER_NBD_CLIENT_H
#define QBD_TESTS_SIM_CLUSTER_NBD_CLIENT_H

#include "base/io.h"

enum nbd_client_state {
    NBD_CLIENT_DOWN,
    NBD_CLIENT_CONNECTING,
    NBD_CLIENT_GREETING,
    NBD_CLIENT_OPTION,      /* an option's reply is awaited */
    NBD_CLIENT_EXPORT_NAME, /* the answer without a header */
    NBD_CLIENT_READY,       /* transmission */
    NBD_CLIENT_CLOSING,
};

#define NBD_CLIENT_OPTIONS_MAX 6u
#define NBD_CLIENT_RANGES_MAX 40u /* a reply's content chunks: a READ of 32 MiB has at most 33 pieces */

struct nbd_client_options {
    const char *address; /* lives as long as the connection */
    const char *export_name;
    uint64_t size_bytes; /* what the server must say */
    bool no_zeroes;
    /* What is negotiated, in this order; the last is GO or EXPORT_NAME. */
    uint32_t option[NBD_CLIENT_OPTIONS_MAX];
    uint32_t n_options;
};

struct nbd_io {
    /* the owner's */
    uint16_t type, flags; /* as on the wire */
    uint64_t offset;
    uint32_t length;
    uint8_t *data; /* WRITE: the payload, needed during nbd_client_submit() only; READ: where length bytes go */
    void *user;
    /* result */
    uint32_t error; /* 0 or one of the eight */
    /* the client's */
    struct list link;
    uint64_t cookie;
    bool has_error;
    uint32_t n_ranges;
    struct {
        uint32_t from, to;
    } range[NBD_CLIENT_RANGES_MAX];
};

struct nbd_client;

struct nbd_client_handler {
    void (*ready)(struct nbd_client *c);
    void (*refused)(struct nbd_client *c, uint32_t type); /* GO's error reply; the client closes by itself */
    void (*replied)(struct nbd_client *c, struct nbd_io *io);
    void (*lost)(struct nbd_client *c, struct nbd_io *io);
    void (*down)(struct nbd_client *c, int err, uint32_t unanswered); /* the last callback; may connect again. err as in conn_handler; unanswered: how many were lost just now */
    void (*wrong)(struct nbd_client *c, const char *what);
};

struct nbd_client {
    struct reactor *reactor;
    const struct nbd_client_handler *handler;
    void *user;
    struct nbd_client_options options;
    struct conn *conn;
    enum nbd_client_state state;
    uint32_t option; /* index of the one whose reply is awaited */
    bool structured, has_info, disc_sent;
    uint16_t flags; /* transmission flags */
    uint64_t serial;
    uint64_t bytes_received;
    struct list pending;
    uint32_t n_pending;
    /* content of a READ that is being received */
    struct nbd_io *filling;
    uint32_t fill_at, fill_left;
    bool fill_last;
};

void nbd_client_init(struct nbd_client *c, struct reactor *r, const struct nbd_client_handler *h, void *user);
/* Down before. */
void nbd_client_connect(struct nbd_client *c, const struct nbd_client_options *o);
/* READY, and no DISC sent. */
void nbd_client_submit(struct nbd_client *c, struct nbd_io *io);
/* NBD_CMD_DISC: what is pending is answered, then the server closes. */
void nbd_client_disconnect(struct nbd_client *c);
/* Closes at once; lost and down follow. */
void nbd_client_drop(struct nbd_client *c);
/* Its process is gone: no callback will ever come. Requests are given back as lost. */
void nbd_client_died(struct nbd_client *c);

#endif
