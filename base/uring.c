/* The reactor on io_uring: turns, completions, timers, signals (store.md §1).
 *
 * One thread, one ring. A turn tells connections what became ready, handles completions, fires timers, runs the hooks and kicks sends;
 * then one kernel entry submits everything that the turn produced and waits for more.
 *
 * Flags of the ring: SINGLE_ISSUER, since one thread owns it; DEFER_TASKRUN, so that completions are worked off when we
 * ask for them and never interrupt a turn; TASKRUN_FLAG, so that spinning sees in memory that there is such work.
 *
 * What always holds: no callback runs from inside one of io.h's calls, only from run_turn(). */
#include "base/uring_internal.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#define SQ_ENTRIES 1024u
#define CQ_ENTRIES 8192u
#define OP_TAG UINT64_C(1)

/* ---- time and chance ---- */

static uint64_t clock_ns(clockid_t id)
{
    struct timespec ts;
    clock_gettime(id, &ts);
    return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

uint64_t uring_now(struct reactor *r)
{
    return clock_ns(CLOCK_BOOTTIME);
}

static uint64_t uring_wall_clock(struct reactor *r)
{
    return clock_ns(CLOCK_REALTIME);
}

static void uring_random(struct reactor *r, void *p, size_t n)
{
    uint8_t *to = p;
    while (n) {
        ssize_t got = getrandom(to, n, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0) {
            perror("getrandom");
            abort();
        }
        to += got;
        n -= (size_t)got;
    }
}

void uring_timer_set(struct reactor *r, struct timer *t, uint64_t at_ns)
{
    timer_heap_set(&uring_of(r)->timers, t, at_ns);
}

void uring_timer_cancel(struct reactor *r, struct timer *t)
{
    timer_heap_cancel(&uring_of(r)->timers, t);
}

/* ---- submissions and completions ---- */

/* Takes what the ring holds into the batch, so that the ring has room again. */
static void take_completions(struct uring *u)
{
    unsigned n = io_uring_cq_ready(&u->ring);
    if (n == 0)
        return;
    if (u->batch_next == u->batch_n)
        u->batch_next = u->batch_n = 0;
    if (u->batch_n + n > u->batch_cap) {
        unsigned cap = 2 * (u->batch_n + n);
        struct uring_cqe *batch = realloc(u->batch, cap * sizeof *batch);
        if (!batch) {
            fprintf(stderr, "out of memory: %u completions\n", cap);
            abort();
        }
        u->batch = batch;
        u->batch_cap = cap;
    }
    unsigned head, taken = 0;
    struct io_uring_cqe *cqe;
    io_uring_for_each_cqe(&u->ring, head, cqe)
    {
        if (taken == n)
            break;
        u->batch[u->batch_n + taken++] = (struct uring_cqe){cqe->user_data, cqe->res, cqe->flags};
    }
    io_uring_cq_advance(&u->ring, taken);
    u->batch_n += taken;
}

static struct io_uring_sqe *get_sqe(struct uring *u)
{
    struct io_uring_sqe *sqe;
    while (!(sqe = io_uring_get_sqe(&u->ring))) {
        /* The queue is full: submit it now. When the kernel refuses because completions overflow, they are taken first. */
        int r = io_uring_submit(&u->ring);
        if (r == -EBUSY || r == -EAGAIN) {
            io_uring_get_events(&u->ring);
            take_completions(u);
        } else if (r < 0 && r != -EINTR) {
            fprintf(stderr, "io_uring: cannot submit: %s\n", strerror(-r));
            abort();
        }
    }
    u->in_flight++;
    return sqe;
}

struct io_uring_sqe *uring_sqe(struct uring *u, struct ureq *q)
{
    struct io_uring_sqe *sqe = get_sqe(u);
    io_uring_prep_nop(sqe);
    uring_sqe_set(sqe, q);
    return sqe;
}

struct io_uring_sqe *uring_sqe_op(struct uring *u, struct io_op *op)
{
    static_assert(_Alignof(struct io_op) > OP_TAG && _Alignof(struct ureq) > OP_TAG, "bit 0 of a pointer is free");
    struct io_uring_sqe *sqe = get_sqe(u);
    io_uring_prep_nop(sqe);
    sqe->user_data = (uintptr_t)op | OP_TAG;
    return sqe;
}

static void handle(struct uring *u, struct uring_cqe cqe)
{
    if (cqe.user_data == URING_MAIL) {
        uring_mail_take(u);
        return;
    }
    assert(u->in_flight > 0);
    u->in_flight--;
    if (cqe.user_data == 0)
        return;
    if (cqe.user_data & OP_TAG) {
        if (!u->draining)
            uring_dev_done((struct io_op *)(uintptr_t)(cqe.user_data & ~OP_TAG), cqe.res);
        return;
    }
    struct ureq *q = (struct ureq *)(uintptr_t)cqe.user_data;
    q->fn(q, cqe.res, cqe.flags);
}

static void handle_completions(struct uring *u)
{
    take_completions(u);
    /* What comes in meanwhile belongs to the next turn: hooks get their run. */
    unsigned end = u->batch_n;
    while (u->batch_next < end)
        handle(u, u->batch[u->batch_next++]);
}

static bool has_kernel_work(struct uring *u)
{
    return io_uring_cq_ready(&u->ring) ||
           (IO_URING_READ_ONCE(*u->ring.sq.kflags) & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW));
}

/* Polls for completions until `until`. Only what the kernel completes in our context needs an entry, and TASKRUN says so. */
static void spin(struct uring *u, uint64_t now, uint64_t timer_at)
{
    uint64_t until = now + u->spin_ns < timer_at ? now + u->spin_ns : timer_at;
    if (io_uring_sq_ready(&u->ring) && io_uring_submit(&u->ring) < 0)
        return;
    do {
        for (unsigned i = 0; i < 16; i++) {
            if (has_kernel_work(u))
                return;
            __builtin_ia32_pause();
        }
    } while (uring_now(&u->reactor) < until);
}

/* One kernel entry: submits, and waits unless there is something to do already. */
static int enter(struct uring *u)
{
    int r;
    bool wait = u->batch_next == u->batch_n && list_empty(&u->ready);
    uint64_t at = timer_heap_next(&u->timers);
    uint64_t now = wait && (at != UINT64_MAX || u->spin_ns) ? uring_now(&u->reactor) : 0;
    if (wait && at <= now)
        wait = false;
    if (wait && u->spin_ns)
        spin(u, now, at);
    if (!wait || (u->spin_ns && has_kernel_work(u))) {
        r = io_uring_submit_and_get_events(&u->ring);
    } else if (at == UINT64_MAX) {
        r = io_uring_submit_and_wait(&u->ring, 1);
    } else {
        if (u->spin_ns)
            now = uring_now(&u->reactor);
        uint64_t ns = at > now ? at - now : 0;
        struct __kernel_timespec ts = {.tv_sec = (int64_t)(ns / NS_PER_S), .tv_nsec = (long long)(ns % NS_PER_S)};
        struct io_uring_cqe *cqe;
        r = io_uring_submit_and_wait_timeout(&u->ring, &cqe, 1, &ts, NULL);
    }
    if (r == -EINTR || r == -ETIME || r == -EAGAIN || r == -EBUSY)
        return 0;
    return r < 0 ? r : 0;
}

static void run_turn(struct uring *u)
{
    u->reactor.turn_ns = uring_now(&u->reactor);
    uring_conns_ready(u);
    handle_completions(u);
    if (u->timers.n)
        timer_heap_run(&u->timers, u->reactor.turn_ns); /* what came due meanwhile fires in the next turn, which then comes at once */
    for (struct turn_hook *h = u->reactor.hooks; h; h = h->next)
        h->fn(h);
    uring_conns_kick(u);
}

int uring_reactor_run(struct reactor *r)
{
    struct uring *u = uring_of(r);
    /* A turn comes first: what was queued before the start is sent by it. */
    for (;;) {
        run_turn(u);
        if (r->stopping)
            return 0;
        int err = enter(u);
        if (err < 0)
            return err;
    }
}

/* ---- signals ---- */

struct signals {
    struct ureq req;
    struct list link;
    struct uring *u;
    int fd;
    struct signalfd_siginfo info;
    void (*fn)(int signo, void *user);
    void *user;
};

static void signals_arm(struct signals *s)
{
    struct io_uring_sqe *sqe = uring_sqe(s->u, &s->req);
    io_uring_prep_read(sqe, s->fd, &s->info, sizeof s->info, 0);
    uring_sqe_set(sqe, &s->req);
}

static void signals_done(struct ureq *q, int res, unsigned flags)
{
    struct signals *s = container_of(q, struct signals, req);
    if (s->u->draining)
        return;
    if (res == (int)sizeof s->info)
        s->fn((int)s->info.ssi_signo, s->user);
    else if (res != -EINTR && res != -EAGAIN && res != -ECANCELED) {
        fprintf(stderr, "signalfd: %s\n", strerror(res < 0 ? -res : EIO));
        abort();
    }
    signals_arm(s);
}

int uring_on_signals(struct reactor *r, const int *signals, unsigned n, void (*fn)(int signo, void *user), void *user)
{
    struct uring *u = uring_of(r);
    sigset_t set;
    sigemptyset(&set);
    for (unsigned i = 0; i < n; i++)
        if (sigaddset(&set, signals[i]) < 0)
            return -EINVAL;
    struct signals *s = calloc(1, sizeof *s);
    if (!s)
        return -ENOMEM;
    int err = -pthread_sigmask(SIG_BLOCK, &set, NULL);
    s->fd = err ? -1 : signalfd(-1, &set, SFD_CLOEXEC);
    if (s->fd < 0) {
        err = err ? err : -errno;
        free(s);
        return err;
    }
    s->u = u;
    s->req.fn = signals_done;
    s->fn = fn;
    s->user = user;
    list_push_back(&u->signals, &s->link);
    signals_arm(s);
    return 0;
}

/* ---- making and freeing ---- */

static const struct io_vtable uring_io = {
    .now = uring_now,
    .wall_clock = uring_wall_clock,
    .random = uring_random,
    .timer_set = uring_timer_set,
    .timer_cancel = uring_timer_cancel,
    .dev_read = uring_dev_read,
    .dev_read_cached = uring_dev_read_cached,
    .dev_write = uring_dev_write,
    .dev_flush = uring_dev_flush,
    .dev_discard = uring_dev_discard,
    .dev_create = uring_dev_create,
    .listen = uring_listen,
    .listener_close = uring_listener_close,
    .connect = uring_connect,
    .conn_send = uring_conn_send,
    .conn_recv_into = uring_conn_recv_into,
    .conn_recv_pause = uring_conn_recv_pause,
    .conn_unsent = uring_conn_unsent,
    .conn_set_low_water = uring_conn_set_low_water,
    .conn_close = uring_conn_close,
    .conn_finish = uring_conn_finish,
    .conn_move = uring_conn_move,
    .post = uring_post,
};

static const char *why_no_ring(int err)
{
    switch (err) {
    case -ENOSYS:
        return "this kernel has no io_uring (or a seccomp profile hides it): qbd needs Linux 5.19 or newer with CONFIG_IO_URING; "
               "in a container allow io_uring_setup, io_uring_enter and io_uring_register in its seccomp profile";
    case -EPERM:
    case -EACCES:
        return "io_uring is forbidden here: set sysctl kernel.io_uring_disabled=0 (or 1 and add this user to "
               "kernel.io_uring_group), and in a container allow io_uring_* in its seccomp profile";
    case -ENOMEM:
        return "io_uring has no memory for its rings: raise the memlock limit (ulimit -l, LimitMEMLOCK= in the unit) or free memory";
    case -EMFILE:
    case -ENFILE:
        return "io_uring has no file descriptor left: raise the limit of open files (ulimit -n, LimitNOFILE= in the unit)";
    case -EINVAL:
        return "this kernel's io_uring is too old: qbd needs Linux 5.19 or newer (6.1 or newer performs best)";
    default:
        return "io_uring cannot be set up";
    }
}

static int ring_init(struct io_uring *ring)
{
    static const unsigned wanted[] = {
        IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG, /* Linux 6.1 */
        IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG,                               /* Linux 5.19: same meaning, more interruptions */
    };
    const unsigned needed = IORING_FEAT_NODROP | IORING_FEAT_EXT_ARG | IORING_FEAT_SUBMIT_STABLE | IORING_FEAT_FAST_POLL;
    int r = -EINVAL;
    for (unsigned i = 0; i < ARRAY_LEN(wanted) && r == -EINVAL; i++) {
        struct io_uring_params p = {
            .flags = wanted[i] | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP | IORING_SETUP_SUBMIT_ALL,
            .cq_entries = CQ_ENTRIES,
        };
        r = io_uring_queue_init_params(SQ_ENTRIES, ring, &p);
        if (r == 0 && (p.features & needed) != needed) {
            io_uring_queue_exit(ring);
            r = -EINVAL;
        }
    }
    if (r == 0)
        (void)io_uring_register_ring_fd(ring); /* saves a descriptor look-up per entry; not needed */
    return r;
}

int uring_reactor_new(const struct uring_options *opt, struct reactor **ret, const char **ret_why)
{
    struct uring *u = calloc(1, sizeof *u);
    if (!u) {
        *ret_why = "out of memory";
        return -ENOMEM;
    }
    int r = ring_init(&u->ring);
    if (r < 0) {
        *ret_why = why_no_ring(r);
        free(u);
        return r;
    }
    u->reactor.io = &uring_io;
    u->reactor.arena = arena_new(opt->arena_limit_bytes);
    if (!u->reactor.arena) {
        *ret_why = "out of memory";
        io_uring_queue_exit(&u->ring);
        free(u);
        return -ENOMEM;
    }
    arena_use_huge_pages(u->reactor.arena);
    u->spin_ns = (uint64_t)opt->spin_us * 1000;
    u->jobs_event = u->mail_event = -1;
    pthread_mutex_init(&u->jobs_lock, NULL);
    timer_heap_init(&u->timers);
    struct list *lists[] = {&u->conns, &u->listeners, &u->ready, &u->ready_now, &u->dirty, &u->signals, &u->jobs, &u->jobs_done};
    for (unsigned i = 0; i < ARRAY_LEN(lists); i++)
        list_init(lists[i]);
    *ret = &u->reactor;
    return 0;
}

static void cancel_all(struct uring *u)
{
    struct io_uring_sqe *sqe = uring_sqe(u, NULL);
    io_uring_prep_cancel64(sqe, 0, IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_ALL);
    uring_sqe_set(sqe, NULL);
}

/* Nothing of the kernel's may land in memory that is about to be freed: cancels what waits for others, and waits for what is on its way to a disk. */
static void drain(struct uring *u)
{
    u->draining = true;
    uring_jobs_drain(u);
    uring_listeners_drain(u);
    uring_conns_drain(u);
    for (bool cancelled = false; u->in_flight; cancelled = true) {
        if (!cancelled)
            cancel_all(u);
        int r = io_uring_submit_and_wait(&u->ring, 1);
        if (r < 0 && r != -EINTR && r != -EAGAIN && r != -EBUSY)
            break;
        handle_completions(u);
    }
}

void uring_reactor_free(struct reactor *r)
{
    if (!r)
        return;
    struct uring *u = uring_of(r);
    drain(u);
    uring_conns_free(u);
    io_uring_queue_exit(&u->ring);
    list_for_each_safe (l, &u->signals) {
        struct signals *s = container_of(l, struct signals, link);
        close(s->fd);
        free(s);
    }
    if (u->jobs_event >= 0)
        close(u->jobs_event);
    pthread_mutex_destroy(&u->jobs_lock);
    timer_heap_free(&u->timers);
    arena_free(u->reactor.arena);
    free(u->batch);
    free(u);
}
