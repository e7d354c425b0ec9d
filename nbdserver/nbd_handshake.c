/* Fixed newstyle negotiation: from the greeting to transmission ("Handshake", "Option types").
 *
 * What always holds: each option gets its final reply (EXPORT_NAME: its only one, or a close), then the next is parsed
 * at the right place whatever the last one held. "Prefer an error reply to a disconnect": only a violated MUST of the
 * client or a denial of service closes. */
#include <stdio.h>

#include "nbdserver/nbd_internal.h"

struct bytes {
    const uint8_t *at;
    size_t len;
};

struct option {
    uint32_t number;
    bool no_data;     /* "The client MUST NOT send any additional data ... SHOULD reject with NBD_REP_ERR_INVALID" */
    bool in_shutdown; /* answered while the server shuts down */
    void (*handle)(struct nbd_conn *c, uint32_t option, struct bytes data); /* NULL: ERR_UNSUP */
};

static uint32_t take_be32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return be32toh(v);
}

static uint16_t take_be16(const uint8_t *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return be16toh(v);
}

/* ---- replies ---- */

static void option_reply_2(struct nbd_conn *c, uint32_t option, uint32_t type, struct bytes a, struct bytes b)
{
    struct nbd_option_reply h = {
        .magic = htobe64(NBD_REPLY_MAGIC),
        .option = htobe32(option),
        .type = htobe32(type),
        .length = htobe32((uint32_t)(a.len + b.len)),
    };
    struct segment seg[3] = {{NULL, &h, sizeof h}};
    unsigned n = 1;
    if (a.len > 0)
        seg[n++] = (struct segment){NULL, a.at, (uint32_t)a.len};
    if (b.len > 0)
        seg[n++] = (struct segment){NULL, b.at, (uint32_t)b.len};
    conn_send(c->conn, seg, n);
    /* "The client MUST NOT send any option until it has received a final reply": one that never reads is no client. */
    if (c->state != NBD_CLOSED && conn_unsent(c->conn) > NBD_HANDSHAKE_UNSENT_MAX)
        nbd_fail(c, "sends options without reading the replies");
}

static void option_reply(struct nbd_conn *c, uint32_t option, uint32_t type, const void *p, size_t len)
{
    option_reply_2(c, option, type, (struct bytes){p, len}, (struct bytes){NULL, 0});
}

static void option_ack(struct nbd_conn *c, uint32_t option)
{
    option_reply(c, option, NBD_REP_ACK, NULL, 0);
}

/* "All error replies MAY have some data set, ... an error message string suitable for display". */
static void option_error(struct nbd_conn *c, uint32_t option, uint32_t type, const char *why)
{
    option_reply(c, option, type, why, strlen(why));
}

void nbd_greet(struct nbd_conn *c)
{
    /* "The server MUST NOT set any other flags" than these two. */
    struct nbd_greeting g = {
        .magic = htobe64(NBD_MAGIC),
        .option_magic = htobe64(NBD_OPTION_MAGIC),
        .flags = htobe16(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES),
    };
    conn_send(c->conn, &(struct segment){NULL, &g, sizeof g}, 1);
}

/* ---- strings and names ---- */

/* One UTF-8 sequence at p (RFC 3629: shortest form, no surrogates, up to U+10FFFF); its length, 0 when it is none. */
static size_t utf8_sequence(const uint8_t *p, size_t len)
{
    if (p[0] < 0x80)
        return 1;
    size_t n = 0;
    if (p[0] >= 0xc2 && p[0] <= 0xf4)
        n = p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;
    if (n == 0 || n > len)
        return 0;
    for (size_t i = 1; i < n; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) || (p[0] == 0xf0 && p[1] < 0x90) ||
        (p[0] == 0xf4 && p[1] > 0x8f))
        return 0;
    return n;
}

/* "Conventions": a string is UTF-8, MUST NOT contain NUL and MUST be no longer than 4096 bytes. NULL when it is one,
 * else what is wrong. */
static const char *string_check(struct bytes s)
{
    if (s.len > NBD_STRING_MAX)
        return "the export name is longer than 4096 bytes";
    for (size_t i = 0; i < s.len;) {
        size_t n = s.at[i] == 0 ? 0 : utf8_sequence(s.at + i, s.len - i);
        if (n == 0)
            return s.at[i] == 0 ? "the export name contains a NUL" : "the export name is not UTF-8";
        i += n;
    }
    return NULL;
}

static struct export *find_export(const struct nbd_server *s, struct bytes name)
{
    /* "A special, 'empty', name is reserved for a 'default' export". */
    if (name.len == 0) {
        if (!s->exports.default_export)
            return NULL;
        name = (struct bytes){(const uint8_t *)s->exports.default_export, strlen(s->exports.default_export)};
    }
    for (uint32_t i = 0; i < s->exports.n; i++) {
        struct export *x = s->exports.export[i];
        if (strlen(x->name) == name.len && memcmp(x->name, name.at, name.len) == 0)
            return x;
    }
    return NULL;
}

/* ---- the exports of the other threads ---- */

/* What the option calls the export; false: it is malformed, or names none, which its handler says. */
static bool option_names(uint32_t option, struct bytes d, struct bytes *ret)
{
    *ret = d;
    if (option == NBD_OPT_EXPORT_NAME)
        return true;
    if ((option != NBD_OPT_INFO && option != NBD_OPT_GO) || d.len < 4 || take_be32(d.at) > d.len - 4)
        return false;
    *ret = (struct bytes){d.at + 4, take_be32(d.at)};
    return true;
}

/* The server that has the export which the option is about, when it is another one. */
static struct nbd_server *other_server(const struct nbd_conn *c, uint32_t option, struct bytes data)
{
    const struct nbd_directory *all = c->server->directory;
    struct bytes name;
    for (uint32_t i = 0; all && option_names(option, data, &name) && i < all->n; i++)
        if (strlen(all->place[i].name) == name.len && memcmp(all->place[i].name, name.at, name.len) == 0)
            return all->place[i].server == c->server ? NULL : all->place[i].server;
    return NULL;
}

static uint16_t transmission_flags(const struct nbd_conn *c, const struct export *x)
{
    /* CAN_MULTI_CONN: a write is answered when it is chosen, hence durable and seen by every later read; FLUSH and FUA
     * add nothing to that on any connection. */
    uint16_t flags = NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA | NBD_FLAG_CAN_MULTI_CONN;
    if (x->read_only)
        flags |= NBD_FLAG_READ_ONLY;
    else /* "MUST set [FAST_ZERO] to 0 if WRITE_ZEROES is not set" */
        flags |= NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES | NBD_FLAG_SEND_FAST_ZERO;
    /* SEND_DF: "MUST leave this flag clear if structured replies have not been negotiated". */
    if (c->structured_replies)
        flags |= NBD_FLAG_SEND_DF;
    return flags;
}

/* ---- INFO, GO, EXPORT_NAME ---- */

static void enter_transmission(struct nbd_conn *c)
{
    timer_cancel(c->server->reactor, &c->timer);
    c->export = c->go.export;
    c->state = NBD_REQUEST;
    uint64_t quarter = c->server->unsent_max_bytes / 4;
    conn_set_low_water(c->conn, quarter < NBD_LOW_WATER_BYTES ? quarter : NBD_LOW_WATER_BYTES);
    log_info("NBD client %s uses %s (%s%s)", c->conn->peer, c->export->name,
             c->structured_replies ? "structured replies" : "simple replies",
             c->export->read_only ? ", read-only" : "");
}

static void send_infos(struct nbd_conn *c)
{
    const struct nbd_go *go = &c->go;
    const struct export *x = go->export;
    /* "The server MUST send an NBD_INFO_EXPORT at some point before sending an NBD_REP_ACK". */
    struct nbd_info_export e = {
        .type = htobe16(NBD_INFO_EXPORT),
        .size_bytes = htobe64(x->size_bytes),
        .flags = htobe16(transmission_flags(c, x)),
    };
    option_reply(c, go->option, NBD_REP_INFO, &e, sizeof e);
    if (go->want_block_size) {
        struct nbd_info_block_size b = {
            .type = htobe16(NBD_INFO_BLOCK_SIZE),
            .minimum = htobe32(NBD_BLOCK_MINIMUM),
            .preferred = htobe32(NBD_BLOCK_PREFERRED),
            .maximum_payload = htobe32(NBD_PAYLOAD_MAX),
        };
        option_reply(c, go->option, NBD_REP_INFO, &b, sizeof b);
    }
    if (go->want_name) {
        uint16_t type = htobe16(NBD_INFO_NAME);
        option_reply_2(c, go->option, NBD_REP_INFO, (struct bytes){(const uint8_t *)&type, sizeof type},
                       (struct bytes){(const uint8_t *)x->name, strlen(x->name)});
    }
    if (go->want_description && x->description) {
        uint16_t type = htobe16(NBD_INFO_DESCRIPTION);
        option_reply_2(c, go->option, NBD_REP_INFO, (struct bytes){(const uint8_t *)&type, sizeof type},
                       (struct bytes){(const uint8_t *)x->description, strlen(x->description)});
    }
    option_ack(c, go->option);
}

static void go_accept(struct nbd_conn *c)
{
    c->state = NBD_OPTION;
    if (c->go.option == NBD_OPT_EXPORT_NAME) {
        struct nbd_export_name_reply r = {
            .size_bytes = htobe64(c->go.export->size_bytes),
            .flags = htobe16(transmission_flags(c, c->go.export)),
        };
        /* "124 bytes, zeroes (reserved) (unless NBD_FLAG_C_NO_ZEROES was negotiated)". */
        size_t len = c->no_zeroes ? offsetof(struct nbd_export_name_reply, zeroes) : sizeof r;
        conn_send(c->conn, &(struct segment){NULL, &r, (uint32_t)len}, 1);
    } else {
        send_infos(c); /* GO: "MUST NOT send any zero padding bytes after the NBD_REP_ACK data" */
    }
    if (c->go.option != NBD_OPT_INFO && c->state != NBD_CLOSED)
        enter_transmission(c);
}

/* "NBD_REP_ERR_UNKNOWN: the server SHOULD NOT send NBD_REP_INFO replies"; haggling goes on. EXPORT_NAME has no error
 * reply: "MUST terminate the session". */
static void go_refuse(struct nbd_conn *c, uint32_t option, uint32_t type, const char *why)
{
    c->state = NBD_OPTION;
    if (option == NBD_OPT_EXPORT_NAME)
        nbd_fail(c, "EXPORT_NAME cannot be served: %s", why);
    else
        option_error(c, option, type, why);
}

static void set_attach_timer(struct nbd_conn *c)
{
    uint64_t at = io_now(c->server->reactor) + NBD_ATTACH_POLL_NS;
    timer_set(c->server->reactor, &c->timer, at < c->go.deadline_ns ? at : c->go.deadline_ns);
}

void nbd_attach_check(struct nbd_conn *c)
{
    assert(c->state == NBD_ATTACHING);
    struct nbd_server *s = c->server;
    const struct export *x = c->go.export;
    uint64_t now = io_now(s->reactor);
    if (!x->attached && !x->refused && !s->shutting_down && now < c->go.deadline_ns) {
        set_attach_timer(c);
        return;
    }
    /* The wait was ours, not the client's. */
    c->handshake_deadline_ns += now - c->go.since_ns;
    timer_set(s->reactor, &c->timer, c->handshake_deadline_ns);
    char why[NBD_MESSAGE_MAX];
    snprintf(why, sizeof why, "%.64s is not available: %s", x->name, x->state[0] ? x->state : "it is not attached");
    if (s->shutting_down)
        go_refuse(c, c->go.option, NBD_REP_ERR_SHUTDOWN, "the server is shutting down");
    else if (x->attached)
        go_accept(c);
    else /* one writer at a time is policy; a volume without a majority is merely not available */
        go_refuse(c, c->go.option, x->refused ? NBD_REP_ERR_POLICY : NBD_REP_ERR_UNKNOWN, why);
    if (c->state != NBD_CLOSED)
        nbd_resume(c, NBD_PAUSE_ATTACHING);
}

static void go_start(struct nbd_conn *c, const struct nbd_go *go)
{
    uint64_t now = io_now(c->server->reactor);
    c->go = *go;
    c->go.since_ns = now;
    c->go.deadline_ns = now + c->server->attach_wait_ns;
    c->state = NBD_ATTACHING;
    nbd_attach_check(c);
}

static void on_export_name(struct nbd_conn *c, uint32_t option, struct bytes name)
{
    const char *wrong = string_check(name);
    struct export *x = wrong ? NULL : find_export(c->server, name);
    if (!x)
        go_refuse(c, option, 0, wrong ? wrong : "no such export");
    else
        go_start(c, &(struct nbd_go){.option = option, .export = x});
}

/* Data: 32 bits length of name, name, 16 bits number of information requests, 16 bits each. */
static void on_info_or_go(struct nbd_conn *c, uint32_t option, struct bytes d)
{
    const uint32_t fixed = 4 + 2;
    /* "length of name: MUST be no larger than the option data length - 6" */
    if (d.len < fixed || take_be32(d.at) > d.len - fixed) {
        option_error(c, option, NBD_REP_ERR_INVALID, "the name is longer than the option's data");
        return;
    }
    struct bytes name = {d.at + 4, take_be32(d.at)};
    const uint8_t *requests = name.at + name.len + 2;
    size_t n = take_be16(name.at + name.len);
    if (d.len != fixed + name.len + 2 * n) {
        option_error(c, option, NBD_REP_ERR_INVALID,
                     "the number of information requests does not fit the option's data");
        return;
    }
    const char *wrong = string_check(name);
    if (wrong) {
        option_error(c, option, NBD_REP_ERR_INVALID, wrong);
        return;
    }
    struct nbd_go go = {.option = option, .export = find_export(c->server, name)};
    if (!go.export) {
        option_error(c, option, NBD_REP_ERR_UNKNOWN, name.len ? "no such export" : "there is no default export");
        return;
    }
    /* "The server MUST ignore any information requests it does not understand." A repeated one is answered once. */
    for (size_t i = 0; i < n; i++) {
        uint16_t type = take_be16(requests + 2 * i);
        go.want_name |= type == NBD_INFO_NAME;
        go.want_description |= type == NBD_INFO_DESCRIPTION;
        go.want_block_size |= type == NBD_INFO_BLOCK_SIZE;
    }
    go_start(c, &go);
}

/* ---- the other options ---- */

static void on_abort(struct nbd_conn *c, uint32_t option, struct bytes data)
{
    /* "The server MUST reply with NBD_REP_ACK"; "a server SHOULD ignore any data". The client may close without reading
     * it. */
    option_ack(c, option);
    if (c->state != NBD_CLOSED)
        nbd_finish(c);
}

static void send_server(struct nbd_conn *c, uint32_t option, const char *x_name, const char *description)
{
    /* 32 bits length of name, name, the rest is "suitable for direct display to a human being". */
    uint8_t name[4 + NBD_STRING_MAX];
    uint32_t len = (uint32_t)strlen(x_name);
    assert(len <= NBD_STRING_MAX);
    uint32_t be = htobe32(len);
    memcpy(name, &be, 4);
    memcpy(name + 4, x_name, len);
    const char *text = description ? description : "";
    option_reply_2(c, option, NBD_REP_SERVER, (struct bytes){name, 4 + len},
                   (struct bytes){(const uint8_t *)text, strlen(text)});
}

static void on_list(struct nbd_conn *c, uint32_t option, struct bytes data)
{
    const struct export_list *l = &c->server->exports;
    const struct nbd_directory *all = c->server->directory;
    for (uint32_t i = 0; i < (all ? all->n : l->n) && c->state != NBD_CLOSED; i++)
        send_server(c, option, all ? all->place[i].name : l->export[i]->name,
                    all ? all->place[i].description : l->export[i]->description);
    if (c->state != NBD_CLOSED)
        option_ack(c, option);
}

static void on_structured_reply(struct nbd_conn *c, uint32_t option, struct bytes data)
{
    c->structured_replies = true;
    option_ack(c, option);
}

/* Those without a handler have their place here and are answered as by a server that lacks them: "Servers that receive
 * messages which they do not implement MUST reply with NBD_REP_ERR_UNSUP". For STARTTLS that is NOTLS mode, where
 * ERR_TLS_REQD is never sent. */
static const struct option options[] = {
    {NBD_OPT_EXPORT_NAME, false, false, on_export_name},
    {NBD_OPT_ABORT, false, true, on_abort},
    {NBD_OPT_LIST, true, false, on_list},
    {NBD_OPT_STARTTLS, false, false, NULL},
    {NBD_OPT_INFO, false, false, on_info_or_go},
    {NBD_OPT_GO, false, false, on_info_or_go},
    {NBD_OPT_STRUCTURED_REPLY, true, false, on_structured_reply},
    {NBD_OPT_LIST_META_CONTEXT, false, false, NULL},
    {NBD_OPT_SET_META_CONTEXT, false, false, NULL},
    {NBD_OPT_EXTENDED_HEADERS, false, false, NULL},
};

static const struct option *find_option(uint32_t number)
{
    for (size_t i = 0; i < ARRAY_LEN(options); i++)
        if (options[i].number == number)
            return &options[i];
    return NULL;
}

/* ---- the stream ---- */

static void end_skip(struct nbd_conn *c)
{
    c->state = NBD_OPTION;
    if (c->option == NBD_OPT_ABORT)
        on_abort(c, c->option, (struct bytes){NULL, 0});
    else
        option_error(c, c->option, c->skip_reply, c->skip_why);
}

/* The answer is known without looking at the data: that is skipped, whatever its length, then the reply goes out. */
static void skip_option(struct nbd_conn *c, uint32_t option, uint32_t length, uint32_t reply, const char *why)
{
    c->option = option;
    c->skip_left = length;
    c->skip_reply = reply;
    c->skip_why = why;
    c->state = NBD_OPTION_SKIP;
    if (length == 0)
        end_skip(c);
}

static size_t on_client_flags(struct nbd_conn *c, const uint8_t *data, size_t len)
{
    if (len < 4)
        return 0;
    uint32_t flags = take_be32(data);
    /* "the server MUST drop the TCP connection if the client sets an unknown flag". Without FIXED_NEWSTYLE only
     * EXPORT_NAME is to be expected; others are answered all the same. */
    if (flags & ~(uint32_t)(NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES)) {
        nbd_fail(c, "unknown client flags 0x%x", flags);
        return 4;
    }
    c->no_zeroes = flags & NBD_FLAG_C_NO_ZEROES;
    c->state = NBD_OPTION;
    return 4;
}

static size_t on_option(struct nbd_conn *c, const uint8_t *data, size_t len)
{
    struct nbd_option_header h;
    if (len < sizeof h)
        return 0;
    memcpy(&h, data, sizeof h);
    if (be64toh(h.magic) != NBD_OPTION_MAGIC) {
        nbd_fail(c, "wrong magic 0x%016llx where an option begins", (unsigned long long)be64toh(h.magic));
        return sizeof h;
    }
    uint32_t number = be32toh(h.option), length = be32toh(h.length);
    const struct option *o = find_option(number);
    if (number == NBD_OPT_EXPORT_NAME && (length > NBD_STRING_MAX || c->server->shutting_down)) {
        go_refuse(c, number, 0,
                  c->server->shutting_down ? "the server is shutting down"
                                           : "the export name is longer than 4096 bytes");
        return sizeof h;
    }
    if (c->server->shutting_down && !(o && o->in_shutdown)) {
        skip_option(c, number, length, NBD_REP_ERR_SHUTDOWN, "the server is shutting down");
    } else if (!o || !o->handle) {
        skip_option(c, number, length, NBD_REP_ERR_UNSUP,
                    o ? "this server does not offer that option" : "unknown option");
    } else if (o->no_data && length > 0) {
        skip_option(c, number, length, NBD_REP_ERR_INVALID, "this option takes no data");
    } else if (number == NBD_OPT_ABORT) {
        skip_option(c, number, length, NBD_REP_ACK, NULL);
    } else if (length > NBD_OPTION_MAX) {
        skip_option(c, number, length, NBD_REP_ERR_TOO_BIG, "the option's data is too long");
    } else if (len - sizeof h < length) {
        return 0; /* seen whole */
    } else {
        struct bytes d = {data + sizeof h, length};
        struct nbd_server *other = other_server(c, number, d);
        if (other) {
            nbd_conn_move(c, other); /* with this option, which is answered there */
            return 0;
        }
        o->handle(c, number, d);
        return sizeof h + length;
    }
    return sizeof h;
}

static size_t on_skip(struct nbd_conn *c, size_t len)
{
    size_t n = len < c->skip_left ? len : c->skip_left;
    c->skip_left -= (uint32_t)n;
    if (c->skip_left == 0)
        end_skip(c);
    return n;
}

size_t nbd_handshake_data(struct nbd_conn *c, const uint8_t *data, size_t len)
{
    switch (c->state) {
    case NBD_CLIENT_FLAGS:
        return on_client_flags(c, data, len);
    case NBD_OPTION:
        return on_option(c, data, len);
    case NBD_OPTION_SKIP:
        return on_skip(c, len);
    case NBD_ATTACHING:
        /* "The client MUST NOT send any option until it has received a final reply": one that does anyway is read
         * afterwards. */
        if (len > 0)
            nbd_pause(c, NBD_PAUSE_ATTACHING);
        return 0;
    default:
        assert(!"a handshake state");
        return 0;
    }
}

void nbd_handshake_timer(struct nbd_conn *c)
{
    if (c->state == NBD_ATTACHING)
        nbd_attach_check(c);
    else
        nbd_fail(c, "the handshake took longer than %llu s",
                 (unsigned long long)(c->server->handshake_timeout_ns / NS_PER_S));
}
