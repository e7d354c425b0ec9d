#include "tests/unit/nbd_harness.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"

#define PATIENCE_NS (20 * NS_PER_S)

/* ---- the log ---- */

static char log_text[1 << 16];
static size_t log_len;
static unsigned log_warnings;

static void sink(void *user, enum log_level level, const char *text)
{
    if (level <= LOG_WARNING)
        log_warnings++;
    int n = snprintf(log_text + log_len, sizeof log_text - log_len, "%s\n", text);
    if (n > 0 && log_len + (size_t)n < sizeof log_text)
        log_len += (size_t)n;
}

bool logged(const char *needle)
{
    return strstr(log_text, needle) != NULL;
}

unsigned log_warning_count(void)
{
    return log_warnings;
}

/* ---- the world ---- */

static void on_accept(struct listener *l, struct conn *c)
{
    struct harness *h = l->user;
    nbd_server_accept(&h->server, c);
}

void harness_open(struct harness *h, uint64_t seed, uint32_t chunk, uint64_t arena_bytes)
{
    memset(h, 0, sizeof *h);
    log_len = 0;
    log_text[0] = 0;
    log_warnings = 0;
    log_set_sink(sink, NULL);
    h->w = sim_world_new(seed);
    struct sim_config *cfg = sim_config(h->w);
    cfg->chunk_max = chunk;
    cfg->pipe_bytes = 1u << 20;
    cfg->turn_ns = (struct sim_range){1000, 5000};
    cfg->latency_ns = (struct sim_range){1000, 50000};
    h->server_host = sim_reactor_new(h->w, "server", arena_bytes ? arena_bytes : UINT64_C(1) << 30);
    h->client_host = sim_reactor_new(h->w, "client", UINT64_C(1) << 30);
    struct reactor *r = sim_reactor_io(h->server_host);
    nbd_server_init(&h->server, r);
    memory_export_init(&h->disk, r, "disk", DISK_BYTES);
    memory_export_init(&h->ro, r, "ro-é", 1u << 20);
    memory_export_init(&h->big, r, "big", BIG_BYTES);
    h->ro.x.read_only = true;
    h->ro.x.description = "a read-only disk";
    h->list[0] = &h->disk.x;
    h->list[1] = &h->ro.x;
    h->list[2] = &h->big.x;
    h->server.exports = (struct export_list){.export = h->list, .n = 3, .default_export = "disk"};
    assert_int_equal(io_listen(r, "unix:/nbd", on_accept, h, &h->listener), 0);
}

void run_ms(struct harness *h, uint64_t ms)
{
    sim_run_for(h->w, ms * NS_PER_MS);
}

static bool all_gone(void *user)
{
    struct harness *h = user;
    return h->server.n_connections == 0;
}

void harness_close(struct harness *h)
{
    memory_export_complete_all(&h->disk);
    memory_export_complete_all(&h->ro);
    memory_export_complete_all(&h->big);
    nbd_server_drop(&h->server, NULL, "the test ends");
    assert_true(sim_run_until(h->w, all_gone, h, 120 * NS_PER_S));
    run_ms(h, 10);
    assert_int_equal(h->server.payload_bytes, 0);
    assert_int_equal(h->server.requests_out, 0);
    assert_int_equal(arena_used_bytes(sim_reactor_io(h->server_host)->arena), 0);
    listener_close(h->listener);
    nbd_server_free(&h->server);
    memory_export_free(&h->disk);
    memory_export_free(&h->ro);
    memory_export_free(&h->big);
    sim_world_free(h->w);
    log_set_sink(NULL, NULL);
}

/* ---- clients ---- */

static void client_on_open(struct conn *conn)
{
    struct client *c = conn->user;
    c->open = true;
}

static size_t client_on_data(struct conn *conn, const uint8_t *data, size_t len)
{
    struct client *c = conn->user;
    if (c->len + len > c->cap) {
        c->cap = 2 * (c->len + len);
        c->in = realloc(c->in, c->cap);
        assert_non_null(c->in);
    }
    memcpy(c->in + c->len, data, len);
    c->len += len;
    return len;
}

static void client_on_closed(struct conn *conn, int err)
{
    struct client *c = conn->user;
    c->gone = true;
    c->err = err;
    c->conn = NULL;
}

static const struct conn_handler client_handler = {
    .on_open = client_on_open, .on_data = client_on_data, .on_closed = client_on_closed};

static bool is_open(void *user)
{
    struct client *c = user;
    return c->open || c->gone;
}

static bool is_gone(void *user)
{
    return ((struct client *)user)->gone;
}

void client_open(struct client *c, struct harness *h)
{
    memset(c, 0, sizeof *c);
    c->h = h;
    assert_int_equal(io_connect(sim_reactor_io(h->client_host), "unix:/nbd", &client_handler, c, &c->conn), 0);
    assert_true(sim_run_until(h->w, is_open, c, PATIENCE_NS));
    assert_true(c->open);
}

void client_close(struct client *c)
{
    if (!c->gone) {
        conn_close(c->conn);
        assert_true(sim_run_until(c->h->w, is_gone, c, PATIENCE_NS));
    }
    free(c->in);
    c->in = NULL;
    run_ms(c->h, 5);
}

void client_send(struct client *c, const void *p, size_t n)
{
    if (c->gone)
        return; /* as a socket: what the server said before it went can still be read */
    const uint8_t *at = p;
    while (n > 0) {
        uint32_t k = n < 1u << 20 ? (uint32_t)n : 1u << 20;
        conn_send(c->conn, &(struct segment){NULL, at, k}, 1);
        at += k;
        n -= k;
    }
}

void client_stop_reading(struct client *c, bool on)
{
    conn_recv_pause(c->conn, on);
}

size_t unread(const struct client *c)
{
    return c->len - c->pos;
}

struct wanted {
    struct client *c;
    size_t n;
};

static bool has(void *user)
{
    struct wanted *w = user;
    return unread(w->c) >= w->n || w->c->gone;
}

const uint8_t *take(struct client *c, size_t n)
{
    struct wanted w = {c, n};
    sim_run_until(c->h->w, has, &w, PATIENCE_NS);
    if (unread(c) < n)
        fail_msg("wanted %zu bytes, got %zu%s; log:\n%s", n, unread(c), c->gone ? " and the end" : "", log_text);
    const uint8_t *p = c->in + c->pos;
    c->pos += n;
    return p;
}

void expect_nothing(struct client *c)
{
    run_ms(c->h, 20);
    if (c->gone)
        fail_msg("the connection ended (%d); log:\n%s", c->err, log_text);
    assert_int_equal(unread(c), 0);
}

void expect_end(struct client *c)
{
    assert_true(sim_run_until(c->h->w, is_gone, c, PATIENCE_NS));
    assert_int_equal(unread(c), 0);
}

/* ---- handshake ---- */

void send_client_flags(struct client *c, uint32_t flags)
{
    uint32_t be = htobe32(flags);
    client_send(c, &be, 4);
}

void send_option(struct client *c, uint32_t option, const void *data, uint32_t len)
{
    struct nbd_option_header o = {htobe64(NBD_OPTION_MAGIC), htobe32(option), htobe32(len)};
    client_send(c, &o, sizeof o);
    if (len > 0)
        client_send(c, data, len);
}

uint32_t go_data(uint8_t *to, const void *name, uint32_t name_len, const uint16_t *infos, uint16_t n_infos)
{
    uint32_t be = htobe32(name_len);
    memcpy(to, &be, 4);
    memcpy(to + 4, name, name_len);
    uint8_t *p = to + 4 + name_len;
    uint16_t v = htobe16(n_infos);
    memcpy(p, &v, 2);
    for (unsigned i = 0; i < n_infos; i++) {
        v = htobe16(infos[i]);
        memcpy(p + 2 + 2 * i, &v, 2);
    }
    return 4 + name_len + 2 + 2u * n_infos;
}

void send_go(struct client *c, uint32_t option, const char *name)
{
    uint8_t data[NBD_STRING_MAX + 64];
    send_option(c, option, data, go_data(data, name, (uint32_t)strlen(name), NULL, 0));
}

struct option_answer take_option_reply(struct client *c, uint32_t option)
{
    struct nbd_option_reply r;
    memcpy(&r, take(c, sizeof r), sizeof r);
    assert_true(be64toh(r.magic) == NBD_REPLY_MAGIC);
    assert_int_equal(be32toh(r.option), option);
    struct option_answer a = {.type = be32toh(r.type), .len = be32toh(r.length)};
    a.data = take(c, a.len);
    return a;
}

void expect_option_error(struct client *c, uint32_t option, uint32_t type, const char *text)
{
    struct option_answer a = take_option_reply(c, option);
    assert_int_equal(a.type, type);
    assert_true(a.len <= NBD_STRING_MAX);
    if (text && !memmem(a.data, a.len, text, strlen(text)))
        fail_msg("error text \"%.*s\" does not contain \"%s\"", (int)a.len, (const char *)a.data, text);
}

void client_greet(struct client *c, struct harness *h, uint32_t flags)
{
    client_open(c, h);
    take(c, sizeof(struct nbd_greeting));
    send_client_flags(c, flags);
}

uint16_t client_enter(struct client *c, struct harness *h, const char *name, bool structured)
{
    uint16_t flags = 0;
    client_greet(c, h, 3);
    if (structured) {
        send_option(c, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
        assert_int_equal(take_option_reply(c, NBD_OPT_STRUCTURED_REPLY).type, NBD_REP_ACK);
    }
    send_go(c, NBD_OPT_GO, name);
    for (;;) {
        struct option_answer a = take_option_reply(c, NBD_OPT_GO);
        if (a.type == NBD_REP_ACK)
            return flags;
        assert_int_equal(a.type, NBD_REP_INFO);
        struct nbd_info_export e;
        assert_int_equal(a.len, sizeof e);
        memcpy(&e, a.data, sizeof e);
        flags = be16toh(e.flags);
    }
}

/* ---- transmission ---- */

void send_request(struct client *c, uint16_t type, uint16_t flags, uint64_t cookie, uint64_t offset, uint32_t length)
{
    struct nbd_request_header r = {
        htobe32(NBD_REQUEST_MAGIC), htobe16(flags), htobe16(type), cookie, htobe64(offset), htobe32(length),
    };
    client_send(c, &r, sizeof r);
}

void send_write(struct client *c, uint16_t flags, uint64_t cookie, uint64_t offset, const void *p, uint32_t length)
{
    send_request(c, NBD_CMD_WRITE, flags, cookie, offset, length);
    client_send(c, p, length);
}

static void take_simple(struct client *c, struct reply_seen *s, uint16_t type, uint32_t length, uint8_t *data)
{
    struct nbd_simple_reply r;
    memcpy(&r, take(c, sizeof r), sizeof r);
    s->cookie = r.cookie;
    s->error = be32toh(r.error);
    if (type == NBD_CMD_READ && s->error == 0 && length > 0)
        memcpy(data, take(c, length), length);
}

static void take_error_chunk(struct client *c, struct reply_seen *s, uint32_t len)
{
    assert_in_range(len, 6, 6 + NBD_STRING_MAX);
    const uint8_t *p = take(c, len);
    uint32_t error;
    uint16_t text_len;
    memcpy(&error, p, 4);
    memcpy(&text_len, p + 4, 2);
    text_len = be16toh(text_len);
    assert_int_equal(text_len, len - 6);
    s->error = be32toh(error);
    assert_int_not_equal(s->error, 0);
    snprintf(s->text, sizeof s->text, "%.*s", text_len, (const char *)p + 6);
}

/* The rules of structured replies, held to each chunk. seen[] marks what was covered. */
static void take_content_chunk(struct client *c, struct reply_seen *s, uint16_t type, uint32_t len, uint64_t offset,
                               uint32_t length, uint8_t *data, uint8_t *seen)
{
    const uint8_t *p = take(c, len);
    uint64_t at;
    assert_true(len >= (type == NBD_REPLY_TYPE_OFFSET_DATA ? 9u : 12u));
    memcpy(&at, p, 8);
    at = be64toh(at);
    uint32_t n = len - 8;
    if (type == NBD_REPLY_TYPE_OFFSET_HOLE) {
        assert_int_equal(len, 12);
        memcpy(&n, p + 8, 4);
        n = be32toh(n);
        s->n_holes++;
    } else {
        s->n_data++;
    }
    assert_true(n > 0 && at >= offset && at - offset <= length && n <= length - (at - offset));
    for (uint32_t i = 0; i < n; i++)
        assert_false(seen[at - offset + i]); /* "MUST NOT overlap" */
    memset(seen + (at - offset), 1, n);
    if (type == NBD_REPLY_TYPE_OFFSET_HOLE)
        memset(data + (at - offset), 0, n);
    else
        memcpy(data + (at - offset), p + 8, n);
}

static void take_chunks(struct client *c, struct reply_seen *s, uint16_t type, uint16_t flags, uint64_t offset,
                        uint32_t length, uint8_t *data)
{
    uint8_t *seen = NULL; /* an error's length may be anything */
    bool first = true, done = false;
    while (!done) {
        struct nbd_chunk k;
        memcpy(&k, take(c, sizeof k), sizeof k);
        uint16_t kind = be16toh(k.type);
        uint32_t len = be32toh(k.length);
        assert_int_equal(be32toh(k.magic), NBD_STRUCTURED_REPLY_MAGIC);
        assert_int_equal(be16toh(k.flags) & ~NBD_REPLY_FLAG_DONE, 0);
        assert_true(first || k.cookie == s->cookie);
        s->cookie = k.cookie;
        first = false;
        done = be16toh(k.flags) & NBD_REPLY_FLAG_DONE;
        if (kind == NBD_REPLY_TYPE_NONE)
            assert_true(len == 0 && done);
        else if (kind == NBD_REPLY_TYPE_ERROR)
            take_error_chunk(c, s, len);
        else if (type == NBD_CMD_READ && (kind == NBD_REPLY_TYPE_OFFSET_DATA || kind == NBD_REPLY_TYPE_OFFSET_HOLE)) {
            if (!seen)
                seen = calloc(1, length);
            assert_non_null(seen);
            take_content_chunk(c, s, kind, len, offset, length, data, seen);
        } else
            fail_msg("unexpected chunk type %u", kind);
    }
    if (type == NBD_CMD_READ && s->error == 0) {
        for (uint32_t i = 0; i < length; i++)
            assert_true(seen && seen[i]); /* "MUST send enough data chunks to cover the entire region" */
        if (flags & NBD_CMD_FLAG_DF)
            assert_true(s->n_data <= 1 && s->n_holes == 0);
    }
    free(seen);
}

struct reply_seen take_reply(struct client *c, bool structured, uint16_t type, uint16_t flags, uint64_t offset,
                             uint32_t length, uint8_t *data)
{
    struct reply_seen s = {0};
    uint32_t magic;
    memcpy(&magic, take(c, 4), 4);
    c->pos -= 4;
    s.was_structured = be32toh(magic) == NBD_STRUCTURED_REPLY_MAGIC;
    if (s.was_structured) {
        assert_true(structured); /* "MUST NOT send this reply type unless negotiated" */
        take_chunks(c, &s, type, flags, offset, length, data);
    } else {
        assert_int_equal(be32toh(magic), NBD_SIMPLE_REPLY_MAGIC);
        assert_false(structured && type == NBD_CMD_READ); /* "MUST NOT use a simple reply for NBD_CMD_READ" */
        take_simple(c, &s, type, length, data);
        assert_false(structured && s.error); /* "SHOULD prefer sending errors via a structured reply" */
    }
    return s;
}

void expect_reply(struct client *c, bool structured, uint16_t type, uint64_t cookie, uint32_t error)
{
    struct reply_seen s = take_reply(c, structured, type, 0, 0, 0, NULL);
    assert_int_equal(s.error, error);
    assert_true(s.cookie == cookie);
}

void do_write(struct client *k, bool structured, uint64_t offset, const void *p, uint32_t length)
{
    send_write(k, 0, 1234, offset, p, length);
    expect_reply(k, structured, NBD_CMD_WRITE, 1234, 0);
}

void expect_read(struct client *k, bool structured, uint16_t flags, uint64_t offset, uint32_t length,
                 const uint8_t *want)
{
    send_request(k, NBD_CMD_READ, flags, 4321, offset, length);
    struct reply_seen s = take_reply(k, structured, NBD_CMD_READ, flags, offset, length, buffer);
    assert_int_equal(s.error, 0);
    assert_true(s.cookie == 4321);
    assert_memory_equal(buffer, want, length);
}

void expect_alive(struct client *k, bool structured)
{
    expect_nothing(k);
    send_request(k, NBD_CMD_FLUSH, 0, 99, 0, 0);
    expect_reply(k, structured, NBD_CMD_FLUSH, 99, 0);
}

/* ---- payloads ---- */

uint8_t *buffer, *pattern;

int harness_buffers_make(void **state)
{
    uint64_t x = 88172645463325252u;
    buffer = malloc(BUFFER_BYTES);
    pattern = malloc(BUFFER_BYTES);
    if (!buffer || !pattern)
        return -1;
    for (uint32_t i = 0; i < BUFFER_BYTES; i += 8) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        memcpy(pattern + i, &x, 8);
    }
    return 0;
}

int harness_buffers_free(void **state)
{
    free(buffer);
    free(pattern);
    return 0;
}
