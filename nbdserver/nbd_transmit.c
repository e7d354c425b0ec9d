/* The transmission phase's requests: what a header must satisfy, memory for it, its payload, and the hand-over to the
 * export ("Request message", "Request types", "Error values").
 *
 * What always holds: a header that is well formed gets exactly one answer, whatever it asks for, and the stream stays
 * in step: a failed WRITE's payload is taken all the same. An admitted request holds all the memory it will need before
 * its first payload byte is received, so that requests never wait for each other with memory half taken. */
#include "nbdserver/nbd_internal.h"

struct command {
    bool known, writes;
    uint16_t flags;      /* besides FUA */
    uint32_t beyond_end; /* "Error values": the answer to a request past the end */
    enum export_op op;
};

/* CACHE and BLOCK_STATUS are not offered (later issues) and count as unknown: "The server SHOULD return NBD_EINVAL if
 * it receives an unknown command". */
static const struct command commands[] = {
    [NBD_CMD_READ] = {true, false, NBD_CMD_FLAG_DF, NBD_EINVAL, EXPORT_READ},
    [NBD_CMD_WRITE] = {true, true, 0, NBD_ENOSPC, EXPORT_WRITE},
    [NBD_CMD_FLUSH] = {true, false, 0, NBD_EINVAL, EXPORT_FLUSH},
    [NBD_CMD_TRIM] = {true, true, 0, NBD_EINVAL, EXPORT_TRIM},
    [NBD_CMD_WRITE_ZEROES] = {true, true, NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO, NBD_ENOSPC, EXPORT_ZERO},
};

/* 0, or the error to answer with and why. The request touches nothing unless this says 0. */
static uint32_t check(const struct nbd_conn *c, const struct nbd_header *h, const char **why)
{
    const struct export *x = c->export;
    const struct command *k = h->type < ARRAY_LEN(commands) && commands[h->type].known ? &commands[h->type] : NULL;
    *why = "unknown command";
    if (!k)
        return NBD_EINVAL;
    /* "This flag [FUA] is valid for all commands": SEND_FUA is always set, so READ and FLUSH included. "SHOULD return
     * NBD_EINVAL if it receives a request with a flag not explicitly documented as applicable to the given request"; DF
     * needs SEND_DF, FAST_ZERO needs SEND_FAST_ZERO (set unless read-only). */
    uint16_t allowed = k->flags | NBD_CMD_FLAG_FUA;
    if (!c->structured_replies)
        allowed &= (uint16_t)~NBD_CMD_FLAG_DF;
    *why = "flag that this command does not have";
    if (h->flags & ~allowed)
        return NBD_EINVAL;
    *why = "the server is shutting down";
    if (c->server->shutting_down)
        return NBD_ESHUTDOWN;
    /* "If this flag [READ_ONLY] is set, the server MUST error subsequent write operations", "SHOULD return EPERM". */
    *why = "the export is read-only";
    if (k->writes && x->read_only)
        return NBD_EPERM;
    *why = "a flush has neither offset nor length";
    if (h->type == NBD_CMD_FLUSH)
        return h->offset || h->length ? NBD_EINVAL : 0;
    *why = "beyond the end of the export";
    if (h->length > x->size_bytes || h->offset > x->size_bytes - h->length)
        return k->beyond_end;
    *why = "longer than the maximum payload";
    if (h->type == NBD_CMD_WRITE && h->length > NBD_PAYLOAD_MAX)
        return NBD_EINVAL;
    /* "The server is also permitted to reject large read requests up front with NBD_EOVERFLOW" (structured replies);
     * EOVERFLOW is defined for nothing else here. */
    if (h->type == NBD_CMD_READ && h->length > NBD_PAYLOAD_MAX)
        return c->structured_replies ? NBD_EOVERFLOW : NBD_EINVAL;
    return 0;
}

/* ---- hand-over ---- */

static void on_done(struct export_request *x)
{
    struct nbd_request *r = container_of(x, struct nbd_request, x);
    struct nbd_conn *c = r->conn;
    if (c) {
        list_remove(&r->link);
        c->in_flight--;
        nbd_reply_done(c, r);
    }
    nbd_request_put(r); /* queued replies hold references of their own, and nbd_after_send counted them */
    if (!c)
        return;
    /* With some room, so that a full pipeline is not stopped and started at every request. */
    if (c->in_flight <= c->server->in_flight_max - c->server->in_flight_max / 8)
        nbd_resume(c, NBD_PAUSE_IN_FLIGHT);
    if (c->state == NBD_DISC_SEEN && c->in_flight == 0)
        nbd_finish(c);
}

static void submit(struct nbd_conn *c, struct nbd_request *r)
{
    list_push_back(&c->requests, &r->link);
    c->state = NBD_REQUEST;
    if (++c->in_flight >= c->server->in_flight_max)
        nbd_pause(c, NBD_PAUSE_IN_FLIGHT);
    c->export->submit(c->export, &r->x); /* may be done, and c closed, when this returns */
}

static struct nbd_request *new_request(struct nbd_conn *c, const struct nbd_header *h)
{
    struct nbd_request *r = nbd_request_get(c->server);
    if (!r)
        return NULL;
    r->conn = c;
    r->cookie = h->cookie;
    r->command = h->type;
    r->flags = h->flags;
    r->x.op = commands[h->type].op;
    r->x.flags =
        (h->flags & NBD_CMD_FLAG_FUA ? EXPORT_FUA : 0) | (h->flags & NBD_CMD_FLAG_NO_HOLE ? EXPORT_NO_HOLE : 0);
    r->x.offset = h->offset;
    r->x.length = h->length;
    r->x.n_pieces = 0;
    r->x.error = 0;
    r->x.done = on_done;
    r->x.user = NULL;
    r->x.abandoned = false;
    return r;
}

/* ---- admission: memory for the whole request, or none ---- */

static uint32_t blocks_bytes(uint32_t off, uint32_t len)
{
    return (off + len + BLOCK_SIZE - 1) & ~(BLOCK_SIZE - 1);
}

static bool alloc_payload(struct nbd_conn *c, struct nbd_request *r)
{
    struct export_request *x = &r->x;
    uint32_t n = export_cut(x->offset, x->length, x->data_off, x->data_len);
    for (uint32_t i = 0; i < n; i++) {
        struct buf *b = buf_alloc(c->server->reactor->arena, blocks_bytes(x->data_off[i], x->data_len[i]));
        if (!b)
            return false; /* nbd_request_put drops those before */
        x->data[i] = b;
        x->n_pieces = i + 1;
    }
    return true;
}

bool nbd_admit(struct nbd_conn *c)
{
    assert(c->state == NBD_ADMISSION);
    struct nbd_server *s = c->server;
    const struct nbd_header *h = &c->header;
    bool has_data = h->type == NBD_CMD_READ || h->type == NBD_CMD_WRITE;
    uint64_t charge = has_data ? (uint64_t)blocks_bytes((uint32_t)(h->offset % BLOCK_SIZE), h->length) : 0;
    /* One request goes on whatever the limit is. */
    if (charge > 0 && s->payload_bytes > 0 && s->payload_bytes + charge > s->payload_limit_bytes)
        return false;
    struct nbd_request *r = new_request(c, h);
    if (!r)
        return false;
    if (h->type == NBD_CMD_WRITE && !alloc_payload(c, r)) {
        nbd_request_put(r);
        return false;
    }
    r->charge = charge;
    s->payload_bytes += charge;
    s->requests++;
    if (h->type == NBD_CMD_WRITE) {
        c->payload = r;
        c->piece = 0;
        c->state = NBD_PAYLOAD;
    } else {
        submit(c, r);
    }
    return true;
}

/* ---- payload ---- */

/* The next piece: out of the window when it is there, received in place when it is large. */
static size_t on_payload(struct nbd_conn *c, const uint8_t *data, size_t len)
{
    struct nbd_request *r = c->payload;
    struct export_request *x = &r->x;
    if (c->filling)
        return 0;
    uint8_t *to = x->data[c->piece]->data + x->data_off[c->piece];
    uint32_t want = x->data_len[c->piece];
    if (want > len) {
        if (want > NBD_COPY_MAX) {
            c->filling = true;
            conn_recv_into(c->conn, to, want);
        }
        return 0;
    }
    memcpy(to, data, want);
    if (++c->piece == x->n_pieces) {
        c->payload = NULL;
        submit(c, r);
    }
    return want;
}

void nbd_payload_filled(struct nbd_conn *c)
{
    assert(c->state == NBD_PAYLOAD && c->filling);
    struct nbd_request *r = c->payload;
    c->filling = false;
    if (++c->piece < r->x.n_pieces) {
        on_payload(c, NULL, 0);
        return;
    }
    c->payload = NULL;
    submit(c, r);
}

/* "A failed WRITE still has its payload taken from the stream". */
static size_t on_drain(struct nbd_conn *c, size_t len)
{
    size_t n = len < c->drain_left ? len : c->drain_left;
    c->drain_left -= (uint32_t)n;
    if (c->drain_left == 0) {
        c->state = NBD_REQUEST;
        nbd_reply_error(c, c->header.type, c->header.cookie, c->drain_error, c->drain_why);
    }
    return n;
}

/* ---- requests ---- */

static void refuse(struct nbd_conn *c, const struct nbd_header *h, uint32_t error, const char *why)
{
    c->server->requests++;
    if (h->type != NBD_CMD_WRITE || h->length == 0) {
        nbd_reply_error(c, h->type, h->cookie, error, why);
        return;
    }
    c->header = *h;
    c->drain_left = h->length;
    c->drain_error = error;
    c->drain_why = why;
    c->state = NBD_DRAIN;
}

static void on_request(struct nbd_conn *c, const struct nbd_header *h)
{
    /* "There is no reply to an NBD_CMD_DISC." "The server MUST handle all outstanding requests", then close. */
    if (h->type == NBD_CMD_DISC) {
        nbd_end_when_idle(c);
        return;
    }
    const char *why;
    uint32_t error = check(c, h, &why);
    if (error) {
        refuse(c, h, error, why);
        return;
    }
    /* "The client SHOULD NOT request a length of 0; ... the server SHOULD NOT disconnect": nothing is done,
     * successfully. */
    if (h->length == 0 && h->type != NBD_CMD_FLUSH) {
        c->server->requests++;
        nbd_reply_empty(c, h->type, h->cookie);
        return;
    }
    c->header = *h;
    c->state = NBD_ADMISSION;
    /* Those who wait come first, or a large request would wait for ever beside a stream of small ones. */
    if (!list_empty(&c->server->memory_waiters) || !nbd_admit(c))
        nbd_wait_for_memory(c);
}

static size_t on_header(struct nbd_conn *c, const uint8_t *data, size_t len)
{
    struct nbd_request_header w;
    if (len < sizeof w)
        return 0;
    memcpy(&w, data, sizeof w);
    if (be32toh(w.magic) != NBD_REQUEST_MAGIC) {
        nbd_fail(c, "wrong magic 0x%08x where a request begins", be32toh(w.magic));
        return sizeof w;
    }
    struct nbd_header h = {
        .cookie = w.cookie,
        .offset = be64toh(w.offset),
        .length = be32toh(w.length),
        .type = be16toh(w.type),
        .flags = be16toh(w.flags),
    };
    on_request(c, &h);
    return sizeof w;
}

size_t nbd_transmit_data(struct nbd_conn *c, const uint8_t *data, size_t len)
{
    switch (c->state) {
    case NBD_REQUEST:
        return on_header(c, data, len);
    case NBD_PAYLOAD:
        return on_payload(c, data, len);
    case NBD_DRAIN:
        return on_drain(c, len);
    default:
        assert(!"a state in which requests are read");
        return 0;
    }
}
