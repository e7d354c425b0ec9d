/* Listeners: one accept in flight each, armed again after every connection. */
#include "base/uring_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define BACKLOG 512
#define RETRY_NS (100 * NS_PER_MS) /* after an accept that failed for lack of something */
/* A daemon that was just killed still listens for a moment: the kernel takes its ring down, and what the ring holds, after
 * the process is gone. Its successor waits that long before it says that the address is taken. */
#define IN_USE_WAIT_MS 2000u
#define IN_USE_LOOK_MS 10u

struct ulistener {
    struct listener l; /* first */
    struct ureq accept;
    struct list link;
    struct timer retry;
    int fd;
    bool armed, closing;
    char path[sizeof(((struct sockaddr_un *)0)->sun_path)]; /* "" for TCP */
    dev_t path_dev;
    ino_t path_ino;
};

static void arm(struct ulistener *ul)
{
    struct io_uring_sqe *sqe = uring_sqe(uring_of(ul->l.reactor), &ul->accept);
    io_uring_prep_accept(sqe, ul->fd, NULL, NULL, SOCK_CLOEXEC);
    uring_sqe_set(sqe, &ul->accept);
    ul->armed = true;
}

static void listener_gone(struct ulistener *ul)
{
    close(ul->fd);
    list_remove(&ul->link);
    free(ul);
}

static void on_retry(struct timer *t)
{
    arm(container_of(t, struct ulistener, retry));
}

static void on_accepted(struct ureq *q, int res, unsigned flags)
{
    struct ulistener *ul = container_of(q, struct ulistener, accept);
    struct uring *u = uring_of(ul->l.reactor);
    ul->armed = false;
    if (ul->closing) {
        if (res >= 0)
            close(res);
        listener_gone(ul);
        return;
    }
    if (res < 0) {
        bool at_once = res == -EINTR || res == -EAGAIN || res == -ECONNABORTED || res == -EPROTO;
        if (at_once)
            arm(ul);
        else
            uring_timer_set(&u->reactor, &ul->retry, uring_now(&u->reactor) + RETRY_NS);
        return;
    }
    arm(ul);
    struct conn *c = uring_conn_accepted(u, res, ul->l.address);
    if (!c)
        return;
    ul->l.on_accept(&ul->l, c);
    assert(c->handler); /* io.h: on_accept sets it, even to close at once */
    uring_conn_start(c);
}

/* A socket file that nothing listens on is left over from a daemon that was killed. */
static int remove_stale(const struct sockaddr_un *un)
{
    struct stat st;
    if (lstat(un->sun_path, &st) < 0)
        return errno == ENOENT ? 0 : -errno;
    if (!S_ISSOCK(st.st_mode))
        return -EADDRINUSE;
    int fd = address_socket((const struct sockaddr *)un);
    if (fd < 0)
        return fd;
    int r = connect(fd, (const struct sockaddr *)un, sizeof *un) < 0 ? -errno : 0;
    close(fd);
    if (r != -ECONNREFUSED)
        return -EADDRINUSE;
    return unlink(un->sun_path) < 0 && errno != ENOENT ? -errno : 0;
}

static int bind_one(struct ulistener *ul, const struct sockaddr *sa, socklen_t len)
{
    bool is_unix = sa->sa_family == AF_UNIX;
    int r = is_unix ? remove_stale((const void *)sa) : 0;
    if (r < 0)
        return r;
    int fd = address_socket(sa);
    if (fd < 0)
        return fd;
    int one = 1;
    if (!is_unix && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) < 0)
        goto fail;
    if (sa->sa_family == AF_INET6 && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one) < 0)
        goto fail;
    if (bind(fd, sa, len) < 0 || listen(fd, BACKLOG) < 0)
        goto fail;

    struct addresses bound;
    socklen_t bound_len = sizeof bound.a[0];
    if (getsockname(fd, &bound.a[0].sa, &bound_len) < 0)
        goto fail;
    address_format(is_unix ? sa : &bound.a[0].sa, ul->l.address);
    if (is_unix) {
        struct stat st;
        memcpy(ul->path, ((const struct sockaddr_un *)(const void *)sa)->sun_path, sizeof ul->path);
        if (lstat(ul->path, &st) < 0)
            goto fail;
        ul->path_dev = st.st_dev;
        ul->path_ino = st.st_ino;
    }
    ul->fd = fd;
    return 0;
fail:
    r = -errno;
    close(fd);
    return r;
}

static int bind_any(struct ulistener *ul, const struct addresses *as)
{
    int err = -EINVAL;
    for (unsigned i = 0; i < as->n && err < 0; i++)
        err = bind_one(ul, &as->a[i].sa, as->len[i]);
    return err;
}

int uring_listen(struct reactor *r, const char *address, void (*on_accept)(struct listener *, struct conn *), void *user,
                 struct listener **ret)
{
    struct addresses as;
    int err = address_parse(address, true, &as);
    if (err < 0)
        return err;
    struct ulistener *ul = calloc(1, sizeof *ul);
    if (!ul)
        return -ENOMEM;
    err = bind_any(ul, &as);
    for (unsigned ms = 0; err == -EADDRINUSE && ms < IN_USE_WAIT_MS; ms += IN_USE_LOOK_MS) {
        nanosleep(&(struct timespec){.tv_nsec = IN_USE_LOOK_MS * NS_PER_MS}, NULL);
        err = bind_any(ul, &as);
    }
    if (err < 0) {
        free(ul);
        return err;
    }
    ul->l.reactor = r;
    ul->l.on_accept = on_accept;
    ul->l.user = user;
    ul->accept.fn = on_accepted;
    ul->retry.fn = on_retry;
    list_push_back(&uring_of(r)->listeners, &ul->link);
    arm(ul);
    *ret = &ul->l;
    return 0;
}

void uring_listener_close(struct listener *l)
{
    struct ulistener *ul = (struct ulistener *)l;
    struct uring *u = uring_of(l->reactor);
    struct stat st;
    if (ul->closing)
        return;
    ul->closing = true;
    /* The address is free at once, though the accept is still to be taken back. Only our own socket: another daemon may have replaced the file. */
    shutdown(ul->fd, SHUT_RDWR);
    if (ul->path[0] && lstat(ul->path, &st) == 0 && st.st_dev == ul->path_dev && st.st_ino == ul->path_ino)
        unlink(ul->path);
    uring_timer_cancel(l->reactor, &ul->retry);
    if (!ul->armed) {
        listener_gone(ul);
        return;
    }
    struct io_uring_sqe *sqe = uring_sqe(u, NULL);
    io_uring_prep_cancel64(sqe, (uintptr_t)&ul->accept, 0);
    uring_sqe_set(sqe, NULL);
}

void uring_listeners_drain(struct uring *u)
{
    list_for_each_safe (l, &u->listeners)
        uring_listener_close(&container_of(l, struct ulistener, link)->l);
}
