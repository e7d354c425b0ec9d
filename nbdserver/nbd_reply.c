/* Replies of the transmission phase ("Simple reply message", "Structured reply types").
 *
 * What always holds: a reply's data is the export's buffers, by reference; only headers are copied. Once structured
 * replies were negotiated a READ never gets a simple one, not even for an error. A reply is composed when its request
 * is complete, so no chunk that says DONE can still fail. */
#include "nbdserver/nbd_internal.h"

/* Per piece a hole's or data's header and the data; zeroes need one per NBD_ZEROES_BYTES. */
#define SEGMENTS_MAX (2 * EXPORT_PIECES_MAX + NBD_PAYLOAD_MAX / NBD_ZEROES_BYTES + 2)
static_assert(NBD_ZEROES_BYTES <= ENTRY_MAX_BYTES, "a zero piece of 1 MiB is a few segments");

/* Large: never initialized as a whole. */
struct reply {
    unsigned n;
    struct segment seg[SEGMENTS_MAX];
};

static void add_bytes(struct reply *o, const void *p, uint32_t len)
{
    assert(o->n < SEGMENTS_MAX);
    o->seg[o->n++] = (struct segment){NULL, p, len};
}

static void add_buf(struct reply *o, struct buf *b, uint32_t off, uint32_t len)
{
    assert(o->n < SEGMENTS_MAX);
    assert((uint64_t)off + len <= b->cap);
    o->seg[o->n++] = (struct segment){b, b->data + off, len};
}

static void send_reply(struct nbd_conn *c, const struct reply *o)
{
    conn_send(c->conn, o->seg, o->n);
    nbd_after_send(c);
}

static struct nbd_chunk chunk(uint64_t cookie, uint16_t type, uint16_t flags, uint32_t length)
{
    return (struct nbd_chunk){
        .magic = htobe32(NBD_STRUCTURED_REPLY_MAGIC),
        .flags = htobe16(flags),
        .type = htobe16(type),
        .cookie = cookie,
        .length = htobe32(length),
    };
}

static struct nbd_simple_reply simple(uint64_t cookie, uint32_t error)
{
    return (struct nbd_simple_reply){
        .magic = htobe32(NBD_SIMPLE_REPLY_MAGIC), .error = htobe32(error), .cookie = cookie};
}

void nbd_reply_error(struct nbd_conn *c, uint16_t command, uint64_t cookie, uint32_t error, const char *why)
{
    struct reply o;
    o.n = 0;
    c->server->errors++;
    if (!c->structured_replies) {
        struct nbd_simple_reply s = simple(cookie, error); /* "MUST NOT send any payload for this request" */
        add_bytes(&o, &s, sizeof s);
        send_reply(c, &o);
        return;
    }
    /* "The server SHOULD prefer sending errors via a structured reply, as the error can then be accompanied by a
     * string". */
    uint16_t len = (uint16_t)strlen(why);
    struct nbd_chunk_error e = {
        .chunk = chunk(cookie, (uint16_t)NBD_REPLY_TYPE_ERROR, NBD_REPLY_FLAG_DONE,
                       (uint32_t)(sizeof e - sizeof e.chunk) + len),
        .error = htobe32(error),
        .message_length = htobe16(len),
    };
    add_bytes(&o, &e, sizeof e);
    add_bytes(&o, why, len);
    send_reply(c, &o);
}

void nbd_reply_empty(struct nbd_conn *c, uint16_t command, uint64_t cookie)
{
    struct reply o;
    o.n = 0;
    struct nbd_simple_reply s = simple(cookie, NBD_SUCCESS);
    struct nbd_chunk none = chunk(cookie, NBD_REPLY_TYPE_NONE, NBD_REPLY_FLAG_DONE, 0);
    /* "MUST NOT use a simple reply for NBD_CMD_READ ..., but MAY use either ... to all other requests". */
    if (c->structured_replies && command == NBD_CMD_READ)
        add_bytes(&o, &none, sizeof none);
    else
        add_bytes(&o, &s, sizeof s);
    send_reply(c, &o);
}

/* ---- READ ---- */

static void add_zeroes(struct nbd_conn *c, struct reply *o, uint32_t len)
{
    while (len > 0) {
        uint32_t n = len < NBD_ZEROES_BYTES ? len : NBD_ZEROES_BYTES;
        add_buf(o, &c->server->zeroes, 0, n);
        len -= n;
    }
}

static void add_pieces(struct nbd_conn *c, struct reply *o, const struct export_request *x, uint32_t from, uint32_t to)
{
    for (uint32_t i = from; i < to; i++) {
        if (x->data[i])
            add_buf(o, x->data[i], x->data_off[i], x->data_len[i]);
        else
            add_zeroes(c, o, x->data_len[i]);
    }
}

/* Neighbouring pieces of a kind make one chunk: "A server SHOULD try to minimize the number of chunks". With DF it is
 * one chunk, "with the zeroes explicitly present". */
static void reply_chunks(struct nbd_conn *c, const struct nbd_request *r)
{
    const struct export_request *x = &r->x;
    bool whole = r->flags & NBD_CMD_FLAG_DF;
    struct reply o;
    o.n = 0;
    union {
        struct nbd_chunk_data data;
        struct nbd_chunk_hole hole;
    } header[EXPORT_PIECES_MAX]; /* copied by conn_send */
    uint64_t at = x->offset;
    unsigned n = 0;
    for (uint32_t i = 0, next; i < x->n_pieces; i = next, n++) {
        uint32_t len = 0;
        bool hole = !whole && !x->data[i];
        for (next = i; next < x->n_pieces && (whole || !x->data[next] == hole); next++)
            len += x->data_len[next];
        uint16_t done = next == x->n_pieces ? NBD_REPLY_FLAG_DONE : 0;
        if (hole) {
            header[n].hole = (struct nbd_chunk_hole){chunk(r->cookie, NBD_REPLY_TYPE_OFFSET_HOLE, done, 12),
                                                     htobe64(at), htobe32(len)};
            add_bytes(&o, &header[n].hole, sizeof header[n].hole);
        } else {
            header[n].data =
                (struct nbd_chunk_data){chunk(r->cookie, NBD_REPLY_TYPE_OFFSET_DATA, done, 8 + len), htobe64(at)};
            add_bytes(&o, &header[n].data, sizeof header[n].data);
            add_pieces(c, &o, x, i, next);
        }
        at += len;
    }
    send_reply(c, &o);
}

static void reply_data(struct nbd_conn *c, const struct nbd_request *r)
{
    struct reply o;
    o.n = 0;
    struct nbd_simple_reply s = simple(r->cookie, NBD_SUCCESS);
    add_bytes(&o, &s, sizeof s);
    add_pieces(c, &o, &r->x, 0, r->x.n_pieces);
    send_reply(c, &o);
}

static void check_pieces(const struct export_request *x)
{
    uint64_t sum = 0;
    assert(x->n_pieces > 0 && x->n_pieces <= EXPORT_PIECES_MAX);
    for (uint32_t i = 0; i < x->n_pieces; i++) {
        assert(x->data_len[i] > 0 && x->data_len[i] <= ENTRY_MAX_BYTES);
        sum += x->data_len[i];
    }
    assert(sum == x->length); /* "The server MUST send enough data chunks to cover the entire region" */
}

/* ---- results of the export ---- */

/* "The allowed values for the error field have been restricted": ENOTSUP is for FAST_ZERO alone, EOVERFLOW for what was
 * refused before it got here. */
static uint32_t wire_error(const struct nbd_request *r)
{
    switch (r->x.error) {
    case NBD_EPERM:
    case NBD_EIO:
    case NBD_ENOMEM:
    case NBD_EINVAL:
    case NBD_ENOSPC:
    case NBD_ESHUTDOWN:
        return (uint32_t)r->x.error;
    case NBD_ENOTSUP:
        return r->flags & NBD_CMD_FLAG_FAST_ZERO ? NBD_ENOTSUP : NBD_EIO;
    default:
        return NBD_EIO;
    }
}

static const char *error_text(uint32_t error)
{
    switch (error) {
    case NBD_EPERM:
        return "not permitted";
    case NBD_ENOSPC:
        return "the volume's replicas have no space left";
    case NBD_ESHUTDOWN:
        return "the server is shutting down or lost the volume";
    case NBD_ENOTSUP:
        return "not faster than writing";
    case NBD_ENOMEM:
        return "out of memory";
    case NBD_EINVAL:
        return "invalid request";
    default:
        return "the volume could not do it";
    }
}

void nbd_reply_done(struct nbd_conn *c, const struct nbd_request *r)
{
    if (r->x.error) {
        uint32_t error = wire_error(r);
        nbd_reply_error(c, r->command, r->cookie, error, error_text(error));
        return;
    }
    if (r->command != NBD_CMD_READ) {
        nbd_reply_empty(c, r->command, r->cookie);
        return;
    }
    check_pieces(&r->x);
    if (c->structured_replies)
        reply_chunks(c, r);
    else
        reply_data(c, r);
}
