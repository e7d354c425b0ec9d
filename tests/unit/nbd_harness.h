/* What the NBD unit tests share: one server on a simulated host, clients on another, and a hand-written client that
 * speaks bytes.
 *
 * The simulator cuts the stream into pieces of 1 to h->chunk bytes; with 1 the server's state machine is driven byte by
 * byte. */
#ifndef QBD_TESTS_UNIT_NBD_HARNESS_H
#define QBD_TESTS_UNIT_NBD_HARNESS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "nbdserver/nbd_conn.h"
#include "nbdserver/nbd_proto.h"
#include "tests/nbd/memory_export.h"
#include "tests/sim/simio.h"

#define DISK_BYTES ((8u << 20) + 12345u) /* of the export "disk", the default one */
#define BIG_BYTES (UINT64_C(9) << 30)    /* of "big" */

struct harness {
    struct sim_world *w;
    struct sim_reactor *server_host, *client_host;
    struct nbd_server server;
    struct listener *listener;
    struct memory_export disk, ro, big; /* ro: read-only, with a description */
    struct export *list[4];
    unsigned drained;
};

struct client {
    struct harness *h;
    struct conn *conn;
    bool open, gone;
    int err;
    uint8_t *in;
    size_t len, cap, pos;
};

/* chunk: longest piece in which bytes arrive. arena_bytes: 0 for plenty. */
void harness_open(struct harness *h, uint64_t seed, uint32_t chunk, uint64_t arena_bytes);
/* All clients must be gone or go now; asserts that nothing leaked. */
void harness_close(struct harness *h);
void run_ms(struct harness *h, uint64_t ms);

/* The log's lines since the harness was opened; they are not printed. */
bool logged(const char *needle);
unsigned log_warning_count(void);

void client_open(struct client *c, struct harness *h);
void client_close(struct client *c); /* at once; then the struct may be reused */
void client_send(struct client *c, const void *p, size_t n);
void client_stop_reading(struct client *c, bool on);
/* The next n bytes that the server sent; waits for them, fails the test when they don't come. */
const uint8_t *take(struct client *c, size_t n);
void expect_nothing(struct client *c); /* no byte left, connection open, after things settled */
void expect_end(struct client *c);     /* no byte left, and the server ends the connection */
size_t unread(const struct client *c);

/* ---- handshake ---- */
struct option_answer {
    uint32_t type;
    uint32_t len;
    const uint8_t *data; /* until the next take() */
};
void send_client_flags(struct client *c, uint32_t flags);
void send_option(struct client *c, uint32_t option, const void *data, uint32_t len);
/* INFO's and GO's data; returns its length. */
uint32_t go_data(uint8_t *to, const void *name, uint32_t name_len, const uint16_t *infos, uint16_t n_infos);
void send_go(struct client *c, uint32_t option, const char *name);
struct option_answer take_option_reply(struct client *c, uint32_t option);
/* Takes one reply: this error, with a text unless NULL is given (then any). */
void expect_option_error(struct client *c, uint32_t option, uint32_t type, const char *text);
/* Greeting and client flags. */
void client_greet(struct client *c, struct harness *h, uint32_t flags);
/* Greeting, options, GO; returns the transmission flags. */
uint16_t client_enter(struct client *c, struct harness *h, const char *name, bool structured);

/* ---- transmission ---- */
void send_request(struct client *c, uint16_t type, uint16_t flags, uint64_t cookie, uint64_t offset, uint32_t length);
void send_write(struct client *c, uint16_t flags, uint64_t cookie, uint64_t offset, const void *p, uint32_t length);
/* One whole reply to a request of that type: by simple reply or chunks, as it comes. A READ's data goes to data (offset
 * and length are the request's); coverage, bounds, DONE and the rules of structured replies are checked. Returns the
 * error. */
struct reply_seen {
    uint64_t cookie;
    uint32_t error;
    bool was_structured;
    unsigned n_data, n_holes;
    char text[256];
};
struct reply_seen take_reply(struct client *c, bool structured, uint16_t type, uint16_t flags, uint64_t offset,
                             uint32_t length, uint8_t *data);
/* As take_reply for a request without data; asserts cookie and error. */
void expect_reply(struct client *c, bool structured, uint16_t type, uint64_t cookie, uint32_t error);

/* ---- payloads: group fixtures; buffer is for what comes back, pattern is random bytes ---- */
#define BUFFER_BYTES ((32u << 20) + 8192)
#define MIB (UINT64_C(1) << 20)
extern uint8_t *buffer, *pattern;
int harness_buffers_make(void **state);
int harness_buffers_free(void **state);

/* One request and its reply, which must be success. */
void do_write(struct client *k, bool structured, uint64_t offset, const void *p, uint32_t length);
void expect_read(struct client *k, bool structured, uint16_t flags, uint64_t offset, uint32_t length,
                 const uint8_t *want);
void expect_alive(struct client *k, bool structured); /* nothing unread, and a FLUSH is answered */

#endif
