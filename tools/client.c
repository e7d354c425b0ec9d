/* Blocking clients of the daemons' two protocols. Everything received is untrusted: frames go through wire_check_header
 * and wire_decode, NBD replies are bounded here. */
#include "tools/client.h"

#include "base/wire.h"

#include <endian.h>
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define CLIENT_ARENA_BYTES (8u << 20)

static unsigned left_ms(uint64_t until_ms)
{
    uint64_t now = now_ms();
    return now < until_ms ? (unsigned)(until_ms - now) : 0;
}

/* A limit of 0 would be none. */
static void limit_connect(int fd, uint64_t until_ms)
{
    unsigned ms = left_ms(until_ms);
    struct timeval t = {.tv_sec = ms / 1000, .tv_usec = ms ? (ms % 1000) * 1000 : 1000};
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof t);
}

static int connect_unix(const char *path, uint64_t until_ms, struct why *why)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof a.sun_path)
        return because(why, "the socket path %s is too long (%zu bytes at most)", path, sizeof a.sun_path - 1);
    memcpy(a.sun_path, path, strlen(path) + 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return because(why, "cannot make a socket: %s", strerror(errno));
    limit_connect(fd, until_ms);
    if (connect(fd, (struct sockaddr *)&a, sizeof a) < 0) {
        because(why, "cannot connect to %s: %s", path, strerror(errno));
        close(fd);
        return -1;
    }
    return fd;
}

static int connect_tcp(const char *address, uint64_t until_ms, struct why *why)
{
    char host[256];
    const char *colon = strrchr(address, ':');
    if (!colon || (size_t)(colon - address) >= sizeof host)
        return because(why, "%s is no address (unix:PATH or HOST:PORT)", address);
    const char *from = address;
    size_t len = (size_t)(colon - address);
    if (len >= 2 && from[0] == '[' && from[len - 1] == ']') {
        from++;
        len -= 2;
    }
    memcpy(host, from, len);
    host[len] = '\0';
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM}, *found = NULL;
    int err = getaddrinfo(host, colon + 1, &hints, &found);
    if (err)
        return because(why, "cannot resolve %s: %s", address, gai_strerror(err));
    int fd = -1, last = 0;
    for (struct addrinfo *ai = found; ai && fd < 0; ai = ai->ai_next) {
        fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0) {
            last = errno;
            continue;
        }
        limit_connect(fd, until_ms);
        if (connect(fd, ai->ai_addr, ai->ai_addrlen) < 0) {
            last = errno;
            close(fd);
            fd = -1;
        }
    }
    freeaddrinfo(found);
    return fd >= 0
               ? fd
               : because(why, "cannot connect to %s: %s", address, strerror(last == EINPROGRESS ? ETIMEDOUT : last));
}

static int connect_to(const char *address, uint64_t until_ms, struct why *why)
{
    return strncmp(address, "unix:", 5) == 0 ? connect_unix(address + 5, until_ms, why)
                                             : connect_tcp(address, until_ms, why);
}

/* Until the socket is ready, or the time is over (false). */
static bool wait_ready(int fd, short events, uint64_t until_ms)
{
    struct pollfd p = {.fd = fd, .events = events};
    int n = -1;
    errno = EINTR;
    for (unsigned ms = left_ms(until_ms); ms && n < 0 && errno == EINTR; ms = left_ms(until_ms))
        n = poll(&p, 1, (int)ms);
    return n > 0; /* the time is over even if more is there: it may come for ever */
}

static int send_all(int fd, const void *p, size_t n, uint64_t until_ms, struct why *why)
{
    for (const char *c = p; n;) {
        if (!wait_ready(fd, POLLOUT, until_ms))
            return because(why, "cannot send: %s", strerror(ETIMEDOUT));
        ssize_t w = send(fd, c, n, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (w < 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        if (w < 0)
            return because(why, "cannot send: %s", strerror(errno));
        c += w;
        n -= (size_t)w;
    }
    return 0;
}

static int recv_all(int fd, void *p, size_t n, uint64_t until_ms, struct why *why)
{
    for (char *c = p; n;) {
        if (!wait_ready(fd, POLLIN, until_ms))
            return because(why, "cannot receive: no answer in time");
        ssize_t r = recv(fd, c, n, MSG_DONTWAIT);
        if (r < 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        if (r < 0)
            return because(why, "cannot receive: %s", strerror(errno));
        if (r == 0)
            return because(why, "the daemon closed the connection");
        c += r;
        n -= (size_t)r;
    }
    return 0;
}

static int client_send(struct client *c, const struct msg *m, struct why *why)
{
    uint8_t *frame = malloc(sizeof(struct wire_header) + WIRE_BODY_MAX);
    if (!frame)
        return because(why, "out of memory");
    size_t len = wire_encode(m, 0, frame);
    int err = send_all(c->fd, frame, len, c->until_ms, why);
    free(frame);
    return err;
}

/* One frame. Payload (none of the answers that a tool asks for has any) is refused. */
static int client_recv(struct client *c, struct msg *ret, struct why *why)
{
    struct wire_header h;
    if (recv_all(c->fd, &h, sizeof h, c->until_ms, why) < 0)
        return -1;
    const char *wrong = wire_check_header(&h);
    if (!wrong && h.payload_len)
        wrong = "a payload where none belongs";
    if (wrong)
        return because(why, "not understood: %s", wrong);
    if (recv_all(c->fd, c->body, h.body_len, c->until_ms, why) < 0)
        return -1;
    wrong = wire_decode(c->arena, &h, c->body, ret);
    if (wrong)
        return because(why, "not understood: %s", wrong);
    if (ret->type == MSG_REFUSED)
        return because(why, "refused: %.255s", ret->u.refused.reason);
    return 0;
}

int client_open(struct client *c, const char *address, const struct uuid *cluster, const struct uuid *target,
                unsigned timeout_ms, struct why *why)
{
    *c = (struct client){.target = *target, .timeout_ms = timeout_ms, .until_ms = now_ms() + timeout_ms};
    c->fd = connect_to(address, c->until_ms, why);
    if (c->fd < 0)
        return -1;
    c->arena = arena_new(CLIENT_ARENA_BYTES);
    c->body = malloc(WIRE_BODY_MAX);
    struct msg hello = {.type = MSG_HELLO, .target = *target}, answer;
    hello.u.hello.version = WIRE_VERSION;
    hello.u.hello.role = ROLE_TOOL;
    hello.u.hello.cluster = *cluster;
    random_uuid(&hello.u.hello.identity);
    snprintf(hello.u.hello.name, sizeof hello.u.hello.name, "qbd");
    int err = c->arena && c->body ? client_send(c, &hello, why) : because(why, "out of memory");
    if (!err)
        err = client_recv(c, &answer, why);
    if (!err && answer.type != MSG_HELLO)
        err = because(why, "the daemon did not greet");
    if (!err && !uuid_is_zero(target) && !uuid_equal(&answer.u.hello.identity, target))
        err = because(why, "another replica answers at %s (%.63s)", address, answer.u.hello.name);
    if (err)
        client_close(c);
    return err;
}

/* Within what is left of the time. */
static int call(struct client *c, const struct msg *m, enum msg_type answer, struct msg *ret, struct why *why)
{
    if (client_send(c, m, why) < 0)
        return -1;
    do {
        if (client_recv(c, ret, why) < 0)
            return -1;
    } while (ret->type != answer || ret->cookie != m->cookie);
    return 0;
}

int client_call(struct client *c, const struct msg *m, enum msg_type answer, struct msg *ret, struct why *why)
{
    c->until_ms = now_ms() + c->timeout_ms;
    return call(c, m, answer, ret, why);
}

void client_close(struct client *c)
{
    close(c->fd);
    free(c->body);
    if (c->arena)
        arena_free(c->arena);
}

json_t *client_status(const char *address, const struct uuid *cluster, const struct uuid *target, unsigned timeout_ms,
                      struct why *why)
{
    struct client c;
    if (client_open(&c, address, cluster, target, timeout_ms, why) < 0)
        return NULL;
    struct msg m = {.type = MSG_STATUS, .cookie = 1, .target = *target}, answer;
    json_t *status = NULL;
    if (call(&c, &m, MSG_STATUS_REPLY, &answer, why) == 0) {
        json_error_t e;
        status = json_loadb(answer.u.status_reply.json, answer.u.status_reply.len, 0, &e);
        if (!json_is_object(status)) {
            because(why, "its status is not understood: %s", status ? "not an object" : e.text);
            json_decref(status);
            status = NULL;
        }
    }
    client_close(&c);
    return status;
}

/* NBD: the fixed newstyle handshake (all integers are big-endian). */
#define NBD_MAGIC UINT64_C(0x4e42444d41474943)
#define NBD_OPT_MAGIC UINT64_C(0x49484156454f5054)
#define NBD_REPLY_MAGIC UINT64_C(0x0003e889045565a9)
#define NBD_OPT_GO 7u
#define NBD_REP_ACK 1u
#define NBD_REP_ERROR 0x80000000u
#define NBD_FLAG_FIXED_NEWSTYLE 1u
#define NBD_FLAG_NO_ZEROES 2u

struct nbd_reply {
    uint64_t magic;
    uint32_t option, type, len;
} __attribute__((packed));

static int nbd_go(int fd, const char *export, uint64_t until_ms, struct why *why)
{
    struct {
        uint64_t magic, option_magic;
        uint16_t flags;
    } __attribute__((packed)) greeting;
    if (recv_all(fd, &greeting, sizeof greeting, until_ms, why) < 0)
        return -1;
    if (be64toh(greeting.magic) != NBD_MAGIC || be64toh(greeting.option_magic) != NBD_OPT_MAGIC ||
        !(be16toh(greeting.flags) & NBD_FLAG_FIXED_NEWSTYLE))
        return because(why, "what answers there is no NBD server of today");
    uint32_t name_len = (uint32_t)strlen(export);
    uint8_t go[4 + 16 + 4 + NAME_MAX_BYTES + 2], *p = go;
    uint32_t client_flags = htobe32(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
    uint64_t magic = htobe64(NBD_OPT_MAGIC);
    uint32_t option[2] = {htobe32(NBD_OPT_GO), htobe32(4 + name_len + 2)}, be_name_len = htobe32(name_len);
    p = mempcpy(p, &client_flags, 4);
    p = mempcpy(p, &magic, 8);
    p = mempcpy(p, option, 8);
    p = mempcpy(p, &be_name_len, 4);
    p = mempcpy(p, export, name_len);
    p = mempcpy(p, "\0", 2); /* no information requests */
    if (send_all(fd, go, (size_t)(p - go), until_ms, why) < 0)
        return -1;
    for (;;) {
        struct nbd_reply r;
        char text[4097];
        if (recv_all(fd, &r, sizeof r, until_ms, why) < 0)
            return -1;
        uint32_t type = be32toh(r.type), len = be32toh(r.len);
        if (be64toh(r.magic) != NBD_REPLY_MAGIC || len >= sizeof text)
            return because(why, "the NBD server's answer is malformed");
        if (recv_all(fd, text, len, until_ms, why) < 0)
            return -1;
        text[len] = '\0';
        if (type == NBD_REP_ACK)
            return 0;
        if (type & NBD_REP_ERROR && len)
            return because(why, "%s", text);
        if (type & NBD_REP_ERROR)
            return because(why, "the NBD server refuses the volume (error 0x%x)", type);
    }
}

int nbd_probe(const char *address, const char *export, unsigned timeout_ms, struct why *why)
{
    assert(strlen(export) < NAME_MAX_BYTES);
    uint64_t until_ms = now_ms() + timeout_ms;
    int fd = connect_to(address, until_ms, why);
    if (fd < 0)
        return -1;
    int err = nbd_go(fd, export, until_ms, why);
    if (!err) {
        /* NBD_CMD_DISC, so that the server need not wonder. */
        struct {
            uint32_t magic;
            uint16_t flags, type;
            uint64_t cookie, offset;
            uint32_t len;
        } __attribute__((packed)) disc = {.magic = htobe32(0x25609513), .type = htobe16(2)};
        struct why ignored;
        if (send_all(fd, &disc, sizeof disc, until_ms, &ignored) < 0)
            err = 0; /* GO succeeded, that is what was asked */
    }
    close(fd);
    return err;
}

static void percent_encode(const char *s, char *buf, size_t cap)
{
    size_t n = 0;
    for (; *s && n + 4 < cap; s++) {
        unsigned char c = (unsigned char)*s;
        if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || strchr("/-._~", c))
            buf[n++] = (char)c;
        else
            n += (size_t)snprintf(buf + n, cap - n, "%%%02X", c);
    }
    buf[n] = '\0';
}

void nbd_uri(const char *address, const char *export, char *buf, size_t cap)
{
    char name[3 * NAME_MAX_BYTES + 4], path[3 * 128 + 4];
    percent_encode(export, name, sizeof name);
    if (strncmp(address, "unix:", 5) == 0) {
        percent_encode(address + 5, path, sizeof path);
        snprintf(buf, cap, "nbd+unix:///%s?socket=%s", name, path);
    } else {
        snprintf(buf, cap, "nbd://%s/%s", address, name);
    }
}

int nbd_choose_port(char *address, size_t cap, struct why *why)
{
    char host[256];
    const char *colon = strrchr(address, ':');
    if (strncmp(address, "unix:", 5) == 0 || !colon || strtoul(colon + 1, NULL, 10) != 0)
        return 0;
    bool v6 = *address == '[';
    int n = (int)(colon - address);
    snprintf(host, sizeof host, "%.*s", v6 ? n - 2 : n, address + v6);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *found;
    int gai = getaddrinfo(host, "0", &hints, &found);
    if (gai)
        return because(why, "cannot resolve %s: %s", address, gai_strerror(gai));
    struct sockaddr_storage sa;
    socklen_t len = sizeof sa;
    char port[8];
    int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int err =
        fd < 0 || bind(fd, found->ai_addr, found->ai_addrlen) < 0 || getsockname(fd, (struct sockaddr *)&sa, &len) < 0
            ? because(why, "cannot listen on %s: %s", address, strerror(errno))
            : 0;
    if (!err && getnameinfo((struct sockaddr *)&sa, len, NULL, 0, port, sizeof port, NI_NUMERICSERV) != 0)
        err = because(why, "cannot choose a port for %s", address);
    if (fd >= 0)
        close(fd);
    freeaddrinfo(found);
    if (!err)
        snprintf(address + n, cap - (size_t)n, ":%s", port);
    return err;
}

int client_require_file(const char *path, struct why *why)
{
    struct stat st;
    if (stat(path, &st) == 0 && !S_ISDIR(st.st_mode))
        return 0;
    return because(why, "%s is not a configuration file; say --cluster FILE", path);
}
