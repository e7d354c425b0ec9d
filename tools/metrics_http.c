/* The page of metrics over HTTP (libmicrohttpd, a thread for each connection).
 *
 * What always holds: the daemons are asked by one round at a time. Who comes while a round is under way gets its page:
 * it is as new as one can be had, and no number of scrapers asks the daemons more often than rounds take. */
#include "tools/metrics_http.h"

#include <errno.h>
#include <microhttpd.h>
#include <netdb.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define CONNECTIONS_MAX 64u
#define IDLE_SECONDS 10u

struct server {
    struct metrics_source *source;
    pthread_mutex_t lock;
    pthread_cond_t done;
    bool running;              /* a round is under way */
    uint64_t n_rounds;         /* over */
    struct MHD_Response *page; /* of the last one; NULL: it failed */
    struct MHD_Response *index, *not_found, *not_allowed, *failed;
};

static struct MHD_Response *make_response(const char *type, char *text, size_t len, enum MHD_ResponseMemoryMode mode)
{
    struct MHD_Response *r = text ? MHD_create_response_from_buffer(len, text, mode) : NULL;
    if (r && MHD_add_response_header(r, "Content-Type", type) != MHD_YES)
        abort(); /* out of memory, in a tool that has nothing to lose */
    return r;
}

static struct MHD_Response *fixed(const char *type, const char *text)
{
    struct MHD_Response *r = make_response(type, (char *)text, strlen(text), MHD_RESPMEM_PERSISTENT);
    if (!r)
        abort();
    return r;
}

/* A round, by whom comes first; the others wait for it. The page is queued under the lock, which keeps it from being
 * replaced: the connection then has a reference of its own. */
static enum MHD_Result answer_metrics(struct server *s, struct MHD_Connection *c)
{
    pthread_mutex_lock(&s->lock);
    if (s->running) {
        for (uint64_t n = s->n_rounds; s->n_rounds == n;)
            pthread_cond_wait(&s->done, &s->lock);
    } else {
        s->running = true;
        pthread_mutex_unlock(&s->lock);
        size_t len = 0;
        char *text = metrics_collect(s->source, &len);
        struct MHD_Response *page =
            make_response("text/plain; version=0.0.4; charset=utf-8", text, len, MHD_RESPMEM_MUST_FREE);
        pthread_mutex_lock(&s->lock);
        if (s->page)
            MHD_destroy_response(s->page);
        s->page = page;
        s->running = false;
        s->n_rounds++;
        pthread_cond_broadcast(&s->done);
    }
    enum MHD_Result ret =
        MHD_queue_response(c, s->page ? MHD_HTTP_OK : MHD_HTTP_SERVICE_UNAVAILABLE, s->page ? s->page : s->failed);
    pthread_mutex_unlock(&s->lock);
    return ret;
}

static enum MHD_Result on_request(void *user, struct MHD_Connection *c, const char *url, const char *method,
                                  const char *version, const char *body, size_t *body_len, void **request)
{
    static char headers_seen;
    struct server *s = user;
    if (!*request) { /* called once for the headers, then for the body and at its end */
        *request = &headers_seen;
        return MHD_YES;
    }
    if (*body_len) {
        *body_len = 0;
        return MHD_YES;
    }
    if (strcmp(method, MHD_HTTP_METHOD_GET) != 0 && strcmp(method, MHD_HTTP_METHOD_HEAD) != 0)
        return MHD_queue_response(c, MHD_HTTP_METHOD_NOT_ALLOWED, s->not_allowed);
    if (strcmp(url, "/metrics") == 0)
        return answer_metrics(s, c);
    return strcmp(url, "/") == 0 ? MHD_queue_response(c, MHD_HTTP_OK, s->index)
                                 : MHD_queue_response(c, MHD_HTTP_NOT_FOUND, s->not_found);
}

/* ---- the socket ---- */

static bool split(const char *address, char host[256], const char **port)
{
    const char *colon = strrchr(address, ':');
    if (!colon || colon - address >= 256 || !colon[1] || strspn(colon + 1, "0123456789") != strlen(colon + 1) ||
        strlen(colon + 1) > 5 || atoi(colon + 1) > 65535)
        return false;
    size_t n = (size_t)(colon - address);
    bool v6 = n >= 2 && address[0] == '[' && address[n - 1] == ']';
    snprintf(host, 256, "%.*s", (int)(v6 ? n - 2 : n), address + v6);
    *port = colon + 1;
    return v6 || !strchr(host, ':');
}

static int bind_to(const struct addrinfo *ai)
{
    int on = 1, fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, ai->ai_addr, ai->ai_addrlen) == 0 && listen(fd, SOMAXCONN) == 0)
        return fd;
    int err = errno;
    close(fd);
    errno = err;
    return -1;
}

/* Listens, and says where: the port may have been 0. */
static int listen_at(const char *address, char where[300], struct why *why)
{
    char host[256], name[256], service[16];
    const char *port;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV}, *found = NULL;
    struct sockaddr_storage sa;
    socklen_t len = sizeof sa;
    if (!split(address, host, &port))
        return because(why, "--listen: %s is no address (HOST:PORT, [V6]:PORT or :PORT)", address);
    int err = getaddrinfo(*host ? host : NULL, port, &hints, &found), fd = -1;
    if (err)
        return because(why, "--listen: cannot resolve %s: %s", address, gai_strerror(err));
    for (const struct addrinfo *ai = found; ai && fd < 0; ai = ai->ai_next)
        fd = bind_to(ai);
    if (fd < 0)
        because(why, "cannot listen on %s: %s", address, strerror(errno));
    freeaddrinfo(found);
    if (fd < 0)
        return -1;
    if (getsockname(fd, (struct sockaddr *)&sa, &len) < 0 ||
        getnameinfo((struct sockaddr *)&sa, len, name, sizeof name, service, sizeof service,
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
        close(fd);
        return because(why, "cannot tell where %s is", address);
    }
    snprintf(where, 300, strchr(name, ':') ? "[%s]:%s" : "%s:%s", name, service);
    return fd;
}

/* ---- its life ---- */

static void server_close(struct server *s)
{
    if (s->page)
        MHD_destroy_response(s->page);
    MHD_destroy_response(s->index);
    MHD_destroy_response(s->not_found);
    MHD_destroy_response(s->not_allowed);
    MHD_destroy_response(s->failed);
    pthread_cond_destroy(&s->done);
    pthread_mutex_destroy(&s->lock);
}

int metrics_serve(struct metrics_source *source, const char *address, struct why *why)
{
    struct server s = {.source = source};
    char where[300];
    int signal_number, fd = listen_at(address, where, why);
    if (fd < 0)
        return -1;
    sigset_t end;
    sigemptyset(&end);
    sigaddset(&end, SIGTERM);
    sigaddset(&end, SIGINT);
    pthread_sigmask(SIG_BLOCK, &end, NULL); /* before there are threads: only sigwait takes them */
    pthread_mutex_init(&s.lock, NULL);
    pthread_cond_init(&s.done, NULL);
    s.index = fixed("text/html; charset=utf-8",
                    "<!doctype html><title>qbd</title><h1>qbd</h1><p><a href=\"/metrics\">Metrics</a></p>\n");
    s.not_found = fixed("text/plain; charset=utf-8", "There is nothing here; the page is /metrics\n");
    s.not_allowed = fixed("text/plain; charset=utf-8", "Only GET and HEAD\n");
    s.failed = fixed("text/plain; charset=utf-8", "Out of memory\n");
    struct MHD_Daemon *d =
        MHD_start_daemon(MHD_USE_THREAD_PER_CONNECTION | MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_POLL | MHD_USE_ITC,
                         0, NULL, NULL, on_request, &s, MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_CONNECTION_LIMIT,
                         CONNECTIONS_MAX, MHD_OPTION_CONNECTION_TIMEOUT, IDLE_SECONDS, MHD_OPTION_END);
    if (d) {
        printf("serving http://%s/metrics\n", where);
        fflush(stdout);
        sigwait(&end, &signal_number);
        MHD_stop_daemon(d); /* ends what is being answered: at most a round */
    } else {
        close(fd);
    }
    server_close(&s);
    return d ? 0 : because(why, "cannot serve at %s: %s", address, strerror(errno));
}
