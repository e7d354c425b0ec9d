/* Messages between the reactors of a process: a bounded queue for each ordered pair, and a bell (docs/threads.md section 2).
 *
 * A queue has one writer and one reader, so two indices are all that they share. The bell is IORING_OP_MSG_RING: a completion in the
 * receiver's ring, which ends its sleep; where the kernel has no such operation (before 5.18) or refuses, an eventfd that the receiver reads
 * through its ring. It is rung once for whatever comes until the receiver looks.
 *
 * What always holds: between two reactors messages arrive in the order in which they were posted; what does not fit the queue waits with its
 * writer, before everything that is posted later; nobody waits for anybody. */
#include "base/uring_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define SLOTS 128u /* a power of two */
#define CACHE_LINE 64
#define RETRY_NS NS_PER_MS /* a full queue: the reader has not come by yet */

struct mail_queue {
    _Alignas(CACHE_LINE) atomic_uint head; /* the reader's: those before it are taken */
    _Alignas(CACHE_LINE) atomic_uint tail; /* the writer's: those before it are there */
    struct reactor_msg *slot[SLOTS];
    /* the writer's alone */
    struct list waiting;
    struct timer retry;
    struct ureq bell;
    struct uring *from, *to;
};

struct mail {
    unsigned n;
    struct mail_queue *queue; /* [from * n + to] */
};

static struct mail_queue *queue_of(struct mail *m, const struct uring *from, const struct uring *to)
{
    return &m->queue[from->reactor.index * m->n + to->reactor.index];
}

static bool queue_put(struct mail_queue *q, struct reactor_msg *m)
{
    unsigned tail = atomic_load_explicit(&q->tail, memory_order_relaxed);
    if (tail - atomic_load_explicit(&q->head, memory_order_acquire) == SLOTS)
        return false;
    q->slot[tail % SLOTS] = m;
    atomic_store_explicit(&q->tail, tail + 1, memory_order_release);
    return true;
}

static struct reactor_msg *queue_take(struct mail_queue *q)
{
    unsigned head = atomic_load_explicit(&q->head, memory_order_relaxed);
    if (head == atomic_load_explicit(&q->tail, memory_order_acquire))
        return NULL;
    struct reactor_msg *m = q->slot[head % SLOTS];
    atomic_store_explicit(&q->head, head + 1, memory_order_release);
    return m;
}

static void put_waiting(struct mail_queue *q)
{
    while (!list_empty(&q->waiting) && queue_put(q, container_of(q->waiting.next, struct reactor_msg, link)))
        list_remove(q->waiting.next);
}

/* ---- the bell ---- */

static void ring_event(struct uring *to)
{
    uint64_t one = 1;
    while (write(to->mail_event, &one, sizeof one) < 0 && errno == EINTR)
        ;
}

/* True: nobody has rung since it last looked. The exchange and the one in uring_mail_take() make what was put before seen after. */
static bool must_ring(struct uring *to)
{
    return !atomic_exchange(&to->mail_came, true);
}

static void on_rung(struct ureq *bell, int res, unsigned flags)
{
    struct mail_queue *q = container_of(bell, struct mail_queue, bell);
    if (res < 0 && !q->from->draining)
        ring_event(q->to);
}

static void ring(struct mail_queue *q)
{
    if (!must_ring(q->to))
        return;
    struct io_uring_sqe *sqe = uring_sqe(q->from, &q->bell);
    io_uring_prep_msg_ring(sqe, q->to->ring.ring_fd, 0, URING_MAIL, 0);
    uring_sqe_set(sqe, &q->bell);
}

static void event_arm(struct uring *u)
{
    struct io_uring_sqe *sqe = uring_sqe(u, &u->mail_req);
    io_uring_prep_read(sqe, u->mail_event, &u->mail_count, sizeof u->mail_count, 0);
    uring_sqe_set(sqe, &u->mail_req);
}

static void on_event(struct ureq *q, int res, unsigned flags)
{
    struct uring *u = container_of(q, struct uring, mail_req);
    if (u->draining)
        return;
    event_arm(u);
    uring_mail_take(u);
}

/* ---- posting and taking ---- */

static void retry_later(struct mail_queue *q)
{
    uring_timer_set(&q->from->reactor, &q->retry, uring_now(&q->from->reactor) + RETRY_NS);
}

static void on_retry(struct timer *t)
{
    struct mail_queue *q = container_of(t, struct mail_queue, retry);
    put_waiting(q);
    if (!list_empty(&q->waiting))
        retry_later(q);
    ring(q);
}

void uring_post(struct reactor *from, struct reactor *to, struct reactor_msg *m)
{
    assert(from != to && uring_of(from)->mail && uring_of(from)->mail == uring_of(to)->mail);
    struct mail_queue *q = queue_of(uring_of(from)->mail, uring_of(from), uring_of(to));
    if (list_empty(&q->waiting) && queue_put(q, m)) {
        ring(q);
        return;
    }
    if (list_empty(&q->waiting))
        retry_later(q);
    list_push_back(&q->waiting, &m->link);
}

void uring_post_at_once(struct uring *from, struct uring *to, struct reactor_msg *m)
{
    struct mail_queue *q = queue_of(from->mail, from, to);
    list_push_back(&q->waiting, &m->link);
    for (put_waiting(q); !list_empty(&q->waiting); put_waiting(q))
        usleep(RETRY_NS / 1000);
    atomic_store(&to->mail_came, true);
    ring_event(to);
}

void uring_mail_take(struct uring *u)
{
    if (u->draining)
        return;
    (void)atomic_exchange(&u->mail_came, false);
    for (unsigned i = 0; i < u->mail->n; i++) {
        struct mail_queue *q = &u->mail->queue[i * u->mail->n + u->reactor.index];
        /* No more than were there: an answer to an answer is for another turn. */
        unsigned n = atomic_load_explicit(&q->tail, memory_order_acquire) - atomic_load_explicit(&q->head, memory_order_relaxed);
        for (struct reactor_msg *m; n > 0 && (m = queue_take(q)); n--)
            m->fn(m);
    }
}

/* ---- beginning and end ---- */

int uring_mail_new(struct uring **rings, unsigned n, struct mail **ret)
{
    struct mail *m = calloc(1, sizeof *m);
    struct mail_queue *queue = aligned_alloc(CACHE_LINE, n * n * sizeof *queue);
    if (!m || !queue) {
        free(m);
        free(queue);
        return -ENOMEM;
    }
    memset(queue, 0, n * n * sizeof *queue);
    m->n = n;
    m->queue = queue;
    for (unsigned i = 0; i < n * n; i++) {
        struct mail_queue *q = &queue[i];
        list_init(&q->waiting);
        q->retry.fn = on_retry;
        q->bell.fn = on_rung;
        q->from = rings[i / n];
        q->to = rings[i % n];
    }
    for (unsigned i = 0; i < n; i++)
        rings[i]->mail = m;
    *ret = m;
    return 0;
}

void uring_mail_free(struct mail *m)
{
    if (!m)
        return;
    free(m->queue);
    free(m);
}

int uring_mail_open(struct uring *u)
{
    u->mail_event = eventfd(0, EFD_CLOEXEC);
    if (u->mail_event < 0)
        return -errno;
    u->mail_req.fn = on_event;
    event_arm(u);
    return 0;
}

/* What nobody will take: connections are closed, other messages are their owners'. */
static void drop(struct mail_queue *q)
{
    for (struct list *l; (l = list_pop_front(&q->waiting));)
        uring_conn_drop_moved(container_of(l, struct reactor_msg, link));
    for (struct reactor_msg *m; (m = queue_take(q));)
        uring_conn_drop_moved(m);
}

void uring_mail_close(struct uring *u)
{
    if (!u->mail)
        return;
    for (unsigned i = 0; i < u->mail->n; i++)
        drop(&u->mail->queue[i * u->mail->n + u->reactor.index]);
    if (u->mail_event >= 0)
        close(u->mail_event);
    u->mail_event = -1;
}
