/* Addresses: "unix:PATH", "HOST:PORT", "[v6]:PORT" to socket addresses and back. */
#include "base/uring_internal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static int parse_unix(const char *path, struct addresses *ret)
{
    size_t n = strlen(path);
    if (n == 0)
        return -EINVAL;
    if (n >= sizeof ret->a[0].un.sun_path)
        return -ENAMETOOLONG;
    memset(&ret->a[0].un, 0, sizeof ret->a[0].un);
    ret->a[0].un.sun_family = AF_UNIX;
    memcpy(ret->a[0].un.sun_path, path, n + 1);
    ret->len[0] = sizeof ret->a[0].un;
    ret->n = 1;
    return 0;
}

/* Cuts "HOST:PORT" in two. A v6 address stands in brackets, since it has colons of its own. */
static int split(const char *s, bool for_listen, char host[256], char port[6])
{
    const char *colon = strrchr(s, ':');
    if (!colon)
        return -EINVAL;
    size_t host_len = (size_t)(colon - s);
    if (s[0] == '[') {
        if (host_len < 3 || colon[-1] != ']')
            return -EINVAL;
        s++;
        host_len -= 2;
    } else if (memchr(s, ':', host_len)) {
        return -EINVAL;
    }
    if (host_len == 0 || host_len >= 256)
        return -EINVAL;
    size_t port_len = strlen(colon + 1);
    if (port_len == 0 || port_len > 5 || strspn(colon + 1, "0123456789") != port_len)
        return -EINVAL;
    unsigned long number = strtoul(colon + 1, NULL, 10);
    if (number > 65535 || (number == 0 && !for_listen))
        return -EINVAL;
    memcpy(host, s, host_len);
    host[host_len] = 0;
    memcpy(port, colon + 1, port_len + 1);
    return 0;
}

/* -EINVAL: it is no address; -EHOSTUNREACH: its host's name cannot be resolved (now). */
int address_parse(const char *s, bool for_listen, struct addresses *ret)
{
    if (strncmp(s, "unix:", 5) == 0)
        return parse_unix(s + 5, ret);
    char host[256], port[6];
    int r = split(s, for_listen, host, port);
    if (r < 0)
        return r;
    /* Numbers first: a look-up of names waits for a name server, which only an operator who writes names asks for. */
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | (for_listen ? AI_PASSIVE : 0)};
    struct addrinfo *found;
    r = getaddrinfo(host, port, &hints, &found);
    bool is_number = s[0] == '['; /* brackets are for v6 addresses, not for names */
    if (r == EAI_NONAME && !is_number) {
        hints.ai_flags &= ~AI_NUMERICHOST;
        r = getaddrinfo(host, port, &hints, &found);
    }
    if (r != 0)
        return r == EAI_MEMORY ? -ENOMEM : is_number ? -EINVAL : -EHOSTUNREACH;
    ret->n = 0;
    for (struct addrinfo *a = found; a && ret->n < ADDRESSES_MAX; a = a->ai_next) {
        if (a->ai_addrlen > sizeof ret->a[0] || (a->ai_family != AF_INET && a->ai_family != AF_INET6))
            continue;
        memcpy(&ret->a[ret->n], a->ai_addr, a->ai_addrlen);
        ret->len[ret->n++] = a->ai_addrlen;
    }
    freeaddrinfo(found);
    return ret->n ? 0 : -EINVAL;
}

void address_format(const struct sockaddr *sa, char to[112])
{
    char host[INET6_ADDRSTRLEN] = "?";
    switch (sa->sa_family) {
    case AF_UNIX:
        snprintf(to, 112, "unix:%.106s", ((const struct sockaddr_un *)(const void *)sa)->sun_path);
        break;
    case AF_INET: {
        const struct sockaddr_in *in = (const void *)sa;
        inet_ntop(AF_INET, &in->sin_addr, host, sizeof host);
        snprintf(to, 112, "%s:%u", host, (unsigned)ntohs(in->sin_port));
        break;
    }
    case AF_INET6: {
        const struct sockaddr_in6 *in6 = (const void *)sa;
        inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof host);
        snprintf(to, 112, "[%s]:%u", host, (unsigned)ntohs(in6->sin6_port));
        break;
    }
    default:
        snprintf(to, 112, "?");
    }
}

/* A blocking socket: the ring waits for it by polling, and reports EAGAIN at once for one that does not block. */
int address_socket(const struct sockaddr *sa)
{
    int fd = socket(sa->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    return fd < 0 ? -errno : fd;
}
