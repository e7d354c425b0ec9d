/* See nbd_client.h. What always holds: a READ's bytes are each received once, and a request leaves `pending` with its last chunk or when the connection ends. */
#include "tests/sim/cluster/nbd_client.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "nbdserver/nbd_proto.h"

#define OPTION_REPLY_MAX (64u << 10)

PRINTF_LIKE(2, 3) static void wrong(struct nbd_client *c, const char *fmt, ...)
{
    char text[200];
    va_list ap;
    if (c->state == NBD_CLIENT_CLOSING)
        return;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    c->handler->wrong(c, text);
    nbd_client_drop(c);
}

static uint16_t get16(const uint8_t *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return be16toh(v);
}

static uint32_t get32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return be32toh(v);
}

static uint64_t get64(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return be64toh(v);
}

static void send_bytes(struct nbd_client *c, const void *p, uint32_t len)
{
    conn_send(c->conn, &(struct segment){NULL, p, len}, 1);
}

/* ---- handshake ---- */

static uint32_t option_now(const struct nbd_client *c)
{
    return c->options.option[c->option];
}

static void send_option(struct nbd_client *c)
{
    uint32_t option = option_now(c), name_len = (uint32_t)strlen(c->options.export_name), len = 0;
    uint8_t data[4 + NAME_MAX_BYTES + 2 + 6];
    assert(name_len < NAME_MAX_BYTES);
    if (option == NBD_OPT_EXPORT_NAME) {
        memcpy(data, c->options.export_name, len = name_len);
    } else if (option == NBD_OPT_GO || option == NBD_OPT_INFO) {
        uint32_t be_len = htobe32(name_len);
        uint16_t infos[4] = {htobe16(3), htobe16(NBD_INFO_BLOCK_SIZE), htobe16(NBD_INFO_NAME), htobe16(NBD_INFO_DESCRIPTION)};
        memcpy(data, &be_len, 4);
        memcpy(data + 4, c->options.export_name, name_len);
        memcpy(data + 4 + name_len, infos, sizeof infos);
        len = 4 + name_len + (uint32_t)sizeof infos;
    }
    struct nbd_option_header h = {.magic = htobe64(NBD_OPTION_MAGIC), .option = htobe32(option), .length = htobe32(len)};
    send_bytes(c, &h, sizeof h);
    if (len > 0)
        send_bytes(c, data, len);
    c->state = option == NBD_OPT_EXPORT_NAME ? NBD_CLIENT_EXPORT_NAME : NBD_CLIENT_OPTION;
    c->has_info = false;
}

static void next_option(struct nbd_client *c)
{
    c->option++;
    assert(c->option < c->options.n_options);
    send_option(c);
}

static size_t on_greeting(struct nbd_client *c, const uint8_t *p, size_t len)
{
    struct nbd_greeting g;
    if (len < sizeof g)
        return 0;
    memcpy(&g, p, sizeof g);
    if (be64toh(g.magic) != NBD_MAGIC || be64toh(g.option_magic) != NBD_OPTION_MAGIC) {
        wrong(c, "the greeting's magic is wrong");
        return sizeof g;
    }
    if (be16toh(g.flags) != (NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES)) {
        wrong(c, "handshake flags 0x%x", be16toh(g.flags));
        return sizeof g;
    }
    uint32_t flags = htobe32(NBD_FLAG_C_FIXED_NEWSTYLE | (c->options.no_zeroes ? NBD_FLAG_C_NO_ZEROES : 0));
    send_bytes(c, &flags, sizeof flags);
    send_option(c);
    return sizeof g;
}

static bool check_export(struct nbd_client *c, uint64_t size_bytes, uint16_t flags)
{
    uint16_t expected = NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA | NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES |
                        NBD_FLAG_CAN_MULTI_CONN | NBD_FLAG_SEND_FAST_ZERO | (c->structured ? NBD_FLAG_SEND_DF : 0);
    if (size_bytes != c->options.size_bytes)
        wrong(c, "the export has %llu bytes, not %llu", (unsigned long long)size_bytes, (unsigned long long)c->options.size_bytes);
    else if (flags != expected)
        wrong(c, "transmission flags 0x%x, not 0x%x", flags, expected);
    c->flags = flags;
    return c->state != NBD_CLIENT_CLOSING;
}

static void become_ready(struct nbd_client *c)
{
    c->state = NBD_CLIENT_READY;
    c->handler->ready(c);
}

static size_t on_export_name(struct nbd_client *c, const uint8_t *p, size_t len)
{
    size_t want = c->options.no_zeroes ? offsetof(struct nbd_export_name_reply, zeroes) : sizeof(struct nbd_export_name_reply);
    if (len < want)
        return 0;
    for (size_t i = offsetof(struct nbd_export_name_reply, zeroes); i < want; i++)
        if (p[i] != 0) {
            wrong(c, "EXPORT_NAME's padding is not zero");
            return want;
        }
    if (check_export(c, get64(p), get16(p + 8)))
        become_ready(c);
    return want;
}

static void on_info(struct nbd_client *c, const uint8_t *p, uint32_t len)
{
    uint16_t type = len >= 2 ? get16(p) : UINT16_MAX;
    if (type == NBD_INFO_EXPORT) {
        if (len != 12 || c->has_info)
            wrong(c, "INFO_EXPORT of %u bytes, or a second one", len);
        else
            c->has_info = check_export(c, get64(p + 2), get16(p + 10));
    } else if (type == NBD_INFO_BLOCK_SIZE) {
        if (len != 14 || get32(p + 2) != 1 || get32(p + 6) != BLOCK_SIZE || get32(p + 10) != NBD_PAYLOAD_MAX)
            wrong(c, "block sizes that were not agreed on");
    } else if (type == NBD_INFO_NAME) {
        size_t n = strlen(c->options.export_name); /* 0: whatever the default's name is */
        if (n > 0 && (len != 2 + n || memcmp(p + 2, c->options.export_name, n) != 0))
            wrong(c, "another export's name");
    } else if (type != NBD_INFO_DESCRIPTION) {
        wrong(c, "information of type %u, which nobody asked for", type);
    }
}

static void on_ack(struct nbd_client *c, uint32_t option, uint32_t len)
{
    if (len != 0) {
        wrong(c, "an ACK with data");
        return;
    }
    if ((option == NBD_OPT_GO || option == NBD_OPT_INFO) && !c->has_info) {
        wrong(c, "an ACK without INFO_EXPORT before it");
        return;
    }
    if (option == NBD_OPT_STRUCTURED_REPLY)
        c->structured = true;
    if (option == NBD_OPT_GO)
        become_ready(c);
    else
        next_option(c);
}

static void on_option_error(struct nbd_client *c, uint32_t option, uint32_t type)
{
    bool is_go = option == NBD_OPT_GO || option == NBD_OPT_INFO;
    bool offered = is_go || option == NBD_OPT_LIST || option == NBD_OPT_STRUCTURED_REPLY;
    bool fine = type == NBD_REP_ERR_SHUTDOWN || (!offered && type == NBD_REP_ERR_UNSUP) ||
                (is_go && (type == NBD_REP_ERR_POLICY || type == NBD_REP_ERR_UNKNOWN));
    if (!fine) {
        wrong(c, "option %u was answered with error 0x%x", option, type);
    } else if (option == NBD_OPT_GO) {
        struct nbd_option_header h = {.magic = htobe64(NBD_OPTION_MAGIC), .option = htobe32(NBD_OPT_ABORT)};
        send_bytes(c, &h, sizeof h);
        c->handler->refused(c, type);
        if (c->state != NBD_CLIENT_CLOSING)
            conn_finish(c->conn);
        c->state = NBD_CLIENT_CLOSING;
    } else {
        next_option(c);
    }
}

static size_t on_option_reply(struct nbd_client *c, const uint8_t *p, size_t len)
{
    struct nbd_option_reply h;
    if (len < sizeof h)
        return 0;
    memcpy(&h, p, sizeof h);
    uint32_t option = option_now(c), type = be32toh(h.type), n = be32toh(h.length);
    if (be64toh(h.magic) != NBD_REPLY_MAGIC || be32toh(h.option) != option || n > OPTION_REPLY_MAX) {
        wrong(c, "an option's reply with another magic or option, or of %u bytes", n);
        return sizeof h;
    }
    if (len - sizeof h < n)
        return 0;
    const uint8_t *data = p + sizeof h;
    if (type == NBD_REP_ACK)
        on_ack(c, option, n);
    else if (type == NBD_REP_INFO && (option == NBD_OPT_GO || option == NBD_OPT_INFO))
        on_info(c, data, n);
    else if (type == NBD_REP_SERVER && option == NBD_OPT_LIST && n >= 4 && get32(data) <= n - 4)
        ;
    else if (type >> 31)
        on_option_error(c, option, type);
    else
        wrong(c, "reply type %u to option %u", type, option);
    return sizeof h + n;
}

/* ---- replies ---- */

static struct nbd_io *io_find(struct nbd_client *c, uint64_t cookie)
{
    list_for_each(p, &c->pending) {
        struct nbd_io *io = container_of(p, struct nbd_io, link);
        if (io->cookie == cookie)
            return io;
    }
    return NULL;
}

static void io_done(struct nbd_client *c, struct nbd_io *io)
{
    list_remove(&io->link);
    c->n_pending--;
    c->handler->replied(c, io);
}

static bool error_exists(uint32_t error, const struct nbd_io *io)
{
    switch (error) {
    case NBD_EPERM:
    case NBD_EIO:
    case NBD_ENOMEM:
    case NBD_EINVAL:
    case NBD_ENOSPC:
    case NBD_ESHUTDOWN:
        return true;
    case NBD_EOVERFLOW:
        return io->type == NBD_CMD_READ;
    default: /* ENOTSUP is for FAST_ZERO alone, and here zeroing is always fast */
        return false;
    }
}

static void set_error(struct nbd_client *c, struct nbd_io *io, uint32_t error)
{
    if (!error_exists(error, io))
        wrong(c, "error %u for command %u", error, io->type);
    else if (io->has_error)
        wrong(c, "two errors for one request");
    io->error = error;
    io->has_error = true;
}

/* "The server MUST NOT send chunks that overlap", nor outside of what was asked for. */
static bool take_range(struct nbd_client *c, struct nbd_io *io, uint64_t offset, uint32_t len)
{
    if (io->type != NBD_CMD_READ || len == 0 || offset < io->offset || offset - io->offset > io->length || len > io->length - (offset - io->offset)) {
        wrong(c, "content %llu+%u for command %u at %llu+%u", (unsigned long long)offset, len, io->type, (unsigned long long)io->offset, io->length);
        return false;
    }
    uint32_t from = (uint32_t)(offset - io->offset);
    for (uint32_t i = 0; i < io->n_ranges; i++)
        if (from < io->range[i].to && io->range[i].from < from + len) {
            wrong(c, "content at %u is sent twice", from);
            return false;
        }
    if (io->n_ranges == NBD_CLIENT_RANGES_MAX || (io->n_ranges > 0 && io->flags & NBD_CMD_FLAG_DF)) {
        wrong(c, "more than %u content chunks", io->n_ranges);
        return false;
    }
    io->range[io->n_ranges].from = from;
    io->range[io->n_ranges++].to = from + len;
    return true;
}

static void last_chunk(struct nbd_client *c, struct nbd_io *io)
{
    uint32_t covered = 0;
    for (uint32_t i = 0; i < io->n_ranges; i++)
        covered += io->range[i].to - io->range[i].from;
    if (io->type == NBD_CMD_READ && !io->has_error && covered != io->length) {
        wrong(c, "a read of %u bytes is complete after %u", io->length, covered);
        return;
    }
    io_done(c, io);
}

static void begin_fill(struct nbd_client *c, struct nbd_io *io, uint32_t at, uint32_t len, bool last)
{
    c->filling = io;
    c->fill_at = at;
    c->fill_left = len;
    c->fill_last = last;
}

static size_t on_fill(struct nbd_client *c, const uint8_t *p, size_t len)
{
    struct nbd_io *io = c->filling;
    uint32_t n = len < c->fill_left ? (uint32_t)len : c->fill_left;
    memcpy(io->data + c->fill_at, p, n);
    c->fill_at += n;
    c->fill_left -= n;
    if (c->fill_left == 0) {
        c->filling = NULL;
        if (c->fill_last)
            last_chunk(c, io);
    }
    return n;
}

static size_t on_simple_reply(struct nbd_client *c, const uint8_t *p, size_t len)
{
    struct nbd_simple_reply r;
    if (len < sizeof r)
        return 0;
    memcpy(&r, p, sizeof r);
    struct nbd_io *io = io_find(c, r.cookie);
    uint32_t error = be32toh(r.error);
    if (!io) {
        wrong(c, "a reply to a request that is not pending");
        return sizeof r;
    }
    if (io->n_ranges > 0 || io->has_error || (c->structured && io->type == NBD_CMD_READ)) {
        wrong(c, "a simple reply where a structured one belongs");
        return sizeof r;
    }
    if (error)
        set_error(c, io, error);
    if (c->state == NBD_CLIENT_CLOSING)
        return sizeof r;
    if (!error && io->type == NBD_CMD_READ && io->length > 0) {
        io->range[0].from = 0;
        io->range[0].to = io->length;
        io->n_ranges = 1;
        begin_fill(c, io, 0, io->length, true);
    } else {
        io_done(c, io);
    }
    return sizeof r;
}

static size_t on_error_chunk(struct nbd_client *c, struct nbd_io *io, const uint8_t *p, size_t len, uint32_t n)
{
    if (n < 6 || n > 6 + NBD_STRING_MAX) {
        wrong(c, "an error chunk of %u bytes", n);
        return len;
    }
    if (len < n)
        return 0;
    if (get16(p + 4) != n - 6) {
        wrong(c, "an error's message of %u bytes in a chunk of %u", get16(p + 4), n);
        return n;
    }
    set_error(c, io, get32(p));
    return n;
}

static size_t on_chunk(struct nbd_client *c, const uint8_t *p, size_t len)
{
    struct nbd_chunk h;
    if (len < sizeof h)
        return 0;
    memcpy(&h, p, sizeof h);
    uint32_t n = be32toh(h.length), type = be16toh(h.type), flags = be16toh(h.flags);
    bool last = flags & NBD_REPLY_FLAG_DONE;
    struct nbd_io *io = io_find(c, h.cookie);
    const uint8_t *body = p + sizeof h;
    size_t rest = len - sizeof h;
    if (!c->structured || !io || flags & ~NBD_REPLY_FLAG_DONE) {
        wrong(c, !c->structured ? "a structured reply that was not negotiated" : !io ? "a chunk of a request that is not pending" : "unknown chunk flags");
        return sizeof h;
    }
    if (type == NBD_REPLY_TYPE_OFFSET_DATA) {
        if (rest < 8)
            return 0;
        if (n <= 8 || !take_range(c, io, get64(body), n - 8)) {
            wrong(c, "a data chunk of %u bytes", n);
            return sizeof h;
        }
        begin_fill(c, io, (uint32_t)(get64(body) - io->offset), n - 8, last);
        return sizeof h + 8;
    }
    if (type == NBD_REPLY_TYPE_OFFSET_HOLE) {
        if (rest < 12)
            return 0;
        if (n != 12 || (io->flags & NBD_CMD_FLAG_DF) || !take_range(c, io, get64(body), get32(body + 8))) {
            wrong(c, "a hole chunk of %u bytes", n);
            return sizeof h;
        }
        memset(io->data + (get64(body) - io->offset), 0, get32(body + 8));
    } else if (type == NBD_REPLY_TYPE_ERROR) {
        if (on_error_chunk(c, io, body, rest, n) == 0)
            return 0;
    } else if (type != NBD_REPLY_TYPE_NONE || n != 0 || !last) {
        wrong(c, "a chunk of type %u, %u bytes", type, n);
    }
    if (last && c->state != NBD_CLIENT_CLOSING)
        last_chunk(c, io);
    return sizeof h + n;
}

static size_t on_reply(struct nbd_client *c, const uint8_t *p, size_t len)
{
    if (c->filling)
        return on_fill(c, p, len);
    if (len < 4)
        return 0;
    uint32_t magic = get32(p);
    if (magic == NBD_SIMPLE_REPLY_MAGIC)
        return on_simple_reply(c, p, len);
    if (magic == NBD_STRUCTURED_REPLY_MAGIC)
        return on_chunk(c, p, len);
    wrong(c, "0x%08x where a reply begins", magic);
    return len;
}

/* ---- the connection ---- */

static size_t step(struct nbd_client *c, const uint8_t *p, size_t len)
{
    switch (c->state) {
    case NBD_CLIENT_GREETING:
        return on_greeting(c, p, len);
    case NBD_CLIENT_OPTION:
        return on_option_reply(c, p, len);
    case NBD_CLIENT_EXPORT_NAME:
        return on_export_name(c, p, len);
    case NBD_CLIENT_READY:
        return on_reply(c, p, len);
    default:
        return len;
    }
}

static size_t on_data(struct conn *conn, const uint8_t *data, size_t len)
{
    struct nbd_client *c = conn->user;
    size_t used = 0;
    while (used < len) {
        size_t n = step(c, data + used, len - used);
        if (n == 0)
            break;
        used += n;
        c->bytes_received += n;
    }
    return used < len ? used : len;
}

static void on_open(struct conn *conn)
{
    struct nbd_client *c = conn->user;
    if (c->state == NBD_CLIENT_CONNECTING)
        c->state = NBD_CLIENT_GREETING;
}

static void lose_all(struct nbd_client *c)
{
    c->filling = NULL;
    c->state = NBD_CLIENT_DOWN;
    c->conn = NULL;
    for (struct list *n; (n = list_pop_front(&c->pending));) {
        c->n_pending--;
        c->handler->lost(c, container_of(n, struct nbd_io, link));
    }
    assert(c->n_pending == 0);
}

static void on_closed(struct conn *conn, int err)
{
    struct nbd_client *c = conn->user;
    uint32_t unanswered = c->n_pending;
    lose_all(c);
    c->handler->down(c, err, unanswered);
}

static const struct conn_handler conn_callbacks = {.on_open = on_open, .on_data = on_data, .on_closed = on_closed};

void nbd_client_init(struct nbd_client *c, struct reactor *r, const struct nbd_client_handler *h, void *user)
{
    memset(c, 0, sizeof *c);
    c->reactor = r;
    c->handler = h;
    c->user = user;
    list_init(&c->pending);
}

void nbd_client_connect(struct nbd_client *c, const struct nbd_client_options *o)
{
    assert(c->state == NBD_CLIENT_DOWN && o->n_options > 0 && o->n_options <= NBD_CLIENT_OPTIONS_MAX);
    c->options = *o;
    c->option = 0;
    c->structured = c->has_info = c->disc_sent = false;
    c->state = NBD_CLIENT_CONNECTING;
    int err = io_connect(c->reactor, o->address, &conn_callbacks, c, &c->conn);
    assert(err == 0);
}

void nbd_client_submit(struct nbd_client *c, struct nbd_io *io)
{
    assert(c->state == NBD_CLIENT_READY && !c->disc_sent);
    io->cookie = ++c->serial * UINT64_C(0x9e3779b97f4a7c15); /* any value: the server may not make anything of it */
    io->error = 0;
    io->has_error = false;
    io->n_ranges = 0;
    list_push_back(&c->pending, &io->link);
    c->n_pending++;
    struct nbd_request_header h = {.magic = htobe32(NBD_REQUEST_MAGIC),
                                   .flags = htobe16(io->flags),
                                   .type = htobe16(io->type),
                                   .cookie = io->cookie,
                                   .offset = htobe64(io->offset),
                                   .length = htobe32(io->length)};
    struct segment seg[2] = {{NULL, &h, sizeof h}, {NULL, io->data, io->length}};
    conn_send(c->conn, seg, io->type == NBD_CMD_WRITE && io->length > 0 ? 2 : 1);
}

void nbd_client_disconnect(struct nbd_client *c)
{
    assert(c->state == NBD_CLIENT_READY);
    struct nbd_request_header h = {.magic = htobe32(NBD_REQUEST_MAGIC), .type = htobe16(NBD_CMD_DISC)};
    if (!c->disc_sent)
        send_bytes(c, &h, sizeof h);
    c->disc_sent = true;
}

void nbd_client_drop(struct nbd_client *c)
{
    if (c->state == NBD_CLIENT_DOWN || c->state == NBD_CLIENT_CLOSING)
        return;
    c->state = NBD_CLIENT_CLOSING;
    conn_close(c->conn);
}

void nbd_client_died(struct nbd_client *c)
{
    lose_all(c);
}
