/* Frames on connections: cutting the stream into messages, and queueing messages as frames.
 *
 * What always holds: a handler sees a message only when its header, its body and, where it is to be verified, its payload
 * passed every check; after the first violation, after wire_peer_close() and after wire_peer_refuse() it sees none. Large payloads are received where they stay (conn_recv_into): an
 * entry's payload is never copied in user space once it was received, and never when it is sent. */
#include "base/wire.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

#include "base/wire_format.h"

/* Bodies up to here are moved to the stack when the stream has them unaligned; all but the largest promises and status texts. */
#define BODY_SCRATCH 2048

/* ---- sending ---- */

/* The bytes that must be at hand for m's header and body. */
static size_t frame_bound(const struct msg *m)
{
    switch (m->type) {
    case MSG_PROMISE:
    case MSG_MISMATCH:
    case MSG_STATUS_REPLY:
    case MSG_REGIONS_REPLY:
        return sizeof(struct wire_header) + WIRE_BODY_MAX;
    default:
        return sizeof(struct wire_header) + BODY_SCRATCH;
    }
}

static_assert(sizeof(struct wire_value) + WIRE_ENTRY_MAX <= BODY_SCRATCH, "an entry's body is a small one");
static_assert(sizeof(struct wire_data) + ENTRY_MAX_BLOCKS * sizeof(uint32_t) <= BODY_SCRATCH, "a DATA's body is a small one");
static_assert(sizeof(struct wire_image_reply) + ENTRY_MAX_BLOCKS * sizeof(uint32_t) <= BODY_SCRATCH, "an IMAGE_REPLY's body is a small one");

/* Blocks that belong to no entry follow such a message. */
static bool carries_blocks(uint16_t type)
{
    return type == MSG_DATA || type == MSG_IMAGE_REPLY;
}

static void send_frame(struct conn *c, const struct msg *m, uint8_t *to, const struct segment *payload, unsigned n_payload,
                       uint32_t payload_len)
{
    struct segment head = {.ptr = to, .len = (uint32_t)wire_encode(m, payload_len, to)};
    conn_send(c, &head, 1);
    if (n_payload)
        conn_send(c, payload, n_payload);
}

void wire_send(struct conn *c, const struct msg *m, const struct segment *data_payload, unsigned n_data_payload)
{
    struct segment entry_payload;
    uint32_t payload_len = 0;
    const struct entry *e = m->type == MSG_VALUE && !m->u.value.found ? NULL : wire_msg_entry(m);
    assert(carries_blocks(m->type) || n_data_payload == 0);
    if (e && entry_payload_bytes(e)) {
        payload_len = entry_payload_bytes(e);
        entry_payload = (struct segment){.buf = e->payload, .ptr = entry_block_data(e, 0), .len = payload_len};
        data_payload = &entry_payload;
        n_data_payload = 1;
    } else {
        for (unsigned i = 0; i < n_data_payload; i++)
            payload_len += data_payload[i].len;
    }
    if (frame_bound(m) > sizeof(struct wire_header) + BODY_SCRATCH) {
        struct buf *b = buf_alloc_must(c->reactor->arena, frame_bound(m));
        send_frame(c, m, b->data, data_payload, n_data_payload, payload_len);
        buf_unref(b);
    } else {
        _Alignas(8) uint8_t head[sizeof(struct wire_header) + BODY_SCRATCH];
        send_frame(c, m, head, data_payload, n_data_payload, payload_len);
    }
}

/* ---- receiving ---- */

static void drop_message(struct wire_peer *p)
{
    entry_unref(wire_msg_entry(&p->msg));
    p->msg.type = 0;
    buf_unref(p->payload);
    buf_unref(p->body);
    p->payload = p->body = NULL;
    p->have_header = false;
}

static void violated(struct wire_peer *p, const char *what)
{
    p->violation = what;
    p->closing = true;
    conn_close(p->conn);
}

/* The message is complete: verifies its payload and hands it over. */
static void deliver(struct wire_peer *p)
{
    struct entry *e = wire_msg_entry(&p->msg);
    if (e && p->payload) {
        e->payload = p->payload;
        e->payload_off = 0;
        p->payload = NULL;
        if (p->verify_payload && entry_verify(e) >= 0) {
            violated(p, "a payload that does not match its checksums");
            return;
        }
    }
    p->handler->on_msg(p, &p->msg, p->payload);
    drop_message(p);
}

/* Decodes the body that begins at data. A DATA's or an IMAGE_REPLY's body is kept until its payload has come, since the message points into it. */
static const char *take_body(struct wire_peer *p, const uint8_t *data, uint8_t scratch[BODY_SCRATCH])
{
    const struct wire_header *h = &p->header;
    struct arena *a = p->conn->reactor->arena;
    const uint8_t *body = data;
    if ((h->payload_len && carries_blocks(h->type)) || ((uintptr_t)data % 8 && h->body_len > BODY_SCRATCH)) {
        p->body = buf_alloc_must(a, h->body_len);
        body = memcpy(p->body->data, data, h->body_len);
    } else if ((uintptr_t)data % 8) {
        body = memcpy(scratch, data, h->body_len);
    }
    const char *why = wire_decode(a, h, body, &p->msg);
    if (why)
        p->msg.type = 0; /* nothing in it to be dropped */
    return why;
}

static void take_payload_buf(struct wire_peer *p)
{
    uint32_t len = p->header.payload_len;
    if (carries_blocks(p->msg.type) && p->handler->payload_buf)
        p->payload = p->handler->payload_buf(p, &p->msg, len);
    if (!p->payload)
        p->payload = buf_alloc_must(p->conn->reactor->arena, len);
    assert(p->payload->cap >= len);
}

/* One step: a header, or a body with what of its payload is there. Returns the bytes taken; 0: more must come first. *ret_filling: the payload's rest goes straight to its buffer. */
static size_t take_some(struct wire_peer *p, const uint8_t *data, size_t len, bool *ret_filling)
{
    struct wire_header *h = &p->header;
    if (!p->have_header) {
        if (len < sizeof *h)
            return 0;
        memcpy(h, data, sizeof *h);
        const char *why = wire_check_header(h);
        if (why)
            violated(p, why);
        p->have_header = true;
        return sizeof *h;
    }
    if (len < h->body_len)
        return 0;
    _Alignas(8) uint8_t scratch[BODY_SCRATCH];
    const char *why = take_body(p, data, scratch);
    size_t used = h->body_len;
    if (why) {
        violated(p, why);
        return used;
    }
    if (h->payload_len) {
        take_payload_buf(p);
        if (len - used < h->payload_len) {
            *ret_filling = true;
            conn_recv_into(p->conn, p->payload->data, h->payload_len);
            return used;
        }
        memcpy(p->payload->data, data + used, h->payload_len);
        used += h->payload_len;
    }
    deliver(p);
    return used;
}

static size_t peer_on_data(struct conn *c, const uint8_t *data, size_t len)
{
    struct wire_peer *p = c->user;
    size_t used = 0;
    bool filling = false;
    while (!p->closing && !p->paused && !filling) {
        /* A body may be empty: then having taken a header is what goes on. */
        bool had_header = p->have_header;
        size_t n = take_some(p, data + used, len - used, &filling);
        used += n;
        if (n == 0 && had_header == p->have_header)
            break;
    }
    return used;
}

static void peer_on_filled(struct conn *c)
{
    struct wire_peer *p = c->user;
    if (!p->closing)
        deliver(p);
}

static void peer_on_open(struct conn *c)
{
    struct wire_peer *p = c->user;
    if (!p->closing && p->handler->on_open)
        p->handler->on_open(p);
}

static void peer_on_closed(struct conn *c, int err)
{
    struct wire_peer *p = c->user;
    drop_message(p);
    p->conn = NULL;
    p->handler->on_closed(p, p->violation ? -EPROTO : err, p->violation);
}

static const struct conn_handler peer_handler = {
    .on_open = peer_on_open,
    .on_data = peer_on_data,
    .on_filled = peer_on_filled,
    .on_closed = peer_on_closed,
};

static void peer_init(struct wire_peer *p, const struct wire_handler *h, void *user)
{
    p->handler = h;
    p->user = user;
    p->have_header = p->paused = p->closing = p->refusing = false;
    p->body = p->payload = NULL;
    p->violation = NULL;
    p->msg.type = 0;
}

void wire_peer_accept(struct wire_peer *p, struct conn *c, const struct wire_handler *h, void *user)
{
    peer_init(p, h, user);
    p->conn = c;
    c->handler = &peer_handler;
    c->user = p;
}

int wire_peer_connect(struct wire_peer *p, struct reactor *r, const char *address, const struct wire_handler *h, void *user)
{
    peer_init(p, h, user);
    p->conn = NULL;
    return io_connect(r, address, &peer_handler, p, &p->conn);
}

void wire_peer_send(struct wire_peer *p, const struct msg *m)
{
    if (p->conn && !p->closing)
        wire_send(p->conn, m, NULL, 0);
}

void wire_peer_pause(struct wire_peer *p, bool on)
{
    if (!p->conn || p->closing || p->paused == on)
        return;
    p->paused = on;
    conn_recv_pause(p->conn, on);
}

void wire_peer_close(struct wire_peer *p)
{
    if (!p->conn || (p->closing && !p->refusing))
        return;
    p->closing = true;
    p->refusing = false;
    conn_close(p->conn);
}

void wire_peer_refuse(struct wire_peer *p, const char *fmt, ...)
{
    if (!p->conn || p->closing)
        return;
    struct msg m = {.type = MSG_REFUSED};
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(m.u.refused.reason, sizeof m.u.refused.reason, fmt, ap);
    va_end(ap);
    wire_send(p->conn, &m, NULL, 0);
    p->closing = p->refusing = true;
    conn_finish(p->conn);
}
