/* The reactors of a process and their threads.
 *
 * What always holds: a ring is made, run and freed by the thread that owns it (IORING_SETUP_SINGLE_ISSUER); a thread does nothing but
 * what it is told, one order after the other, and while a loop runs in it, messages are the only way to it. */
#include "base/uring_internal.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/log.h"

enum order { ORDER_NONE, ORDER_OPEN, ORDER_CALL, ORDER_RUN, ORDER_FREE };

struct member {
    struct uring_team *team;
    unsigned index;
    pthread_t thread;
    struct uring *ring;
    enum order order; /* under the team's lock */
    struct reactor_msg stop;
};

struct uring_team {
    unsigned n;
    struct uring_options options;
    struct member member[REACTORS_MAX];
    struct mail *mail;
    pthread_mutex_t lock;
    pthread_cond_t change;
    /* of the order under way */
    int (*fn)(void *user, unsigned i);
    void *user;
    int result;
    const char *why;
};

/* ---- what a member does ---- */

static int open_ring(struct member *m)
{
    struct reactor *r;
    int err = uring_reactor_new(&m->team->options, &r, &m->team->why);
    if (err < 0)
        return err;
    r->index = m->index;
    m->ring = uring_of(r);
    return 0;
}

static int run_ring(struct member *m)
{
    int err = uring_reactor_run(&m->ring->reactor);
    if (err < 0 && m->index > 0) {
        log_error("the event loop of thread %u failed: %s", m->index, strerror(-err));
        _exit(1); /* all or nobody */
    }
    return err;
}

static int carry_out(struct member *m, enum order order)
{
    switch (order) {
    case ORDER_OPEN:
        return open_ring(m);
    case ORDER_CALL:
        return m->team->fn(m->team->user, m->index);
    case ORDER_RUN:
        return run_ring(m);
    case ORDER_FREE:
        if (m->ring) {
            uring_mail_close(m->ring);
            uring_reactor_free(&m->ring->reactor);
        }
        return 0;
    case ORDER_NONE:
        break;
    }
    return 0;
}

static void *member_thread(void *arg)
{
    struct member *m = arg;
    struct uring_team *t = m->team;
    char name[16];
    snprintf(name, sizeof name, "qbd-%u", m->index);
    pthread_setname_np(pthread_self(), name);
    for (enum order order = ORDER_NONE; order != ORDER_FREE;) {
        pthread_mutex_lock(&t->lock);
        while (m->order == ORDER_NONE)
            pthread_cond_wait(&t->change, &t->lock);
        order = m->order;
        pthread_mutex_unlock(&t->lock);
        int result = carry_out(m, order);
        pthread_mutex_lock(&t->lock);
        m->order = ORDER_NONE;
        t->result = result;
        pthread_cond_broadcast(&t->change);
        pthread_mutex_unlock(&t->lock);
    }
    return NULL;
}

/* ---- orders ---- */

static void give(struct member *m, enum order order)
{
    pthread_mutex_lock(&m->team->lock);
    m->order = order;
    pthread_cond_broadcast(&m->team->change);
    pthread_mutex_unlock(&m->team->lock);
}

static int wait_for(struct member *m)
{
    struct uring_team *t = m->team;
    pthread_mutex_lock(&t->lock);
    while (m->order != ORDER_NONE)
        pthread_cond_wait(&t->change, &t->lock);
    int result = t->result;
    pthread_mutex_unlock(&t->lock);
    return result;
}

static int order_one(struct member *m, enum order order)
{
    if (m->index == 0)
        return carry_out(m, order);
    give(m, order);
    return wait_for(m);
}

/* Signals are the first's: it takes them through its ring. */
static int start_thread(struct member *m)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    int err = -pthread_create(&m->thread, NULL, member_thread, m);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return err;
}

static int open_mail(void *user, unsigned i)
{
    struct uring_team *t = user;
    return uring_mail_open(t->member[i].ring);
}

static int introduce(struct uring_team *t)
{
    struct uring *rings[REACTORS_MAX];
    for (unsigned i = 0; i < t->n; i++)
        rings[i] = t->member[i].ring;
    int err = uring_mail_new(rings, t->n, &t->mail);
    return err < 0 ? err : uring_team_each(t, open_mail, t);
}

int uring_team_new(unsigned n, const struct uring_options *opt, struct uring_team **ret, const char **ret_why)
{
    assert(n >= 1 && n <= REACTORS_MAX);
    struct uring_team *t = calloc(1, sizeof *t);
    int err = t ? 0 : -ENOMEM;
    *ret_why = "out of memory";
    if (err)
        return err;
    t->options = *opt;
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->change, NULL);
    for (unsigned i = 0; i < n && !err; i++) {
        struct member *m = &t->member[i];
        m->team = t;
        m->index = i;
        t->why = "no thread can be started";
        if (i > 0)
            err = start_thread(m);
        if (err)
            break;
        t->n = i + 1;
        err = order_one(m, ORDER_OPEN);
    }
    if (!err && n > 1) {
        t->why = "the reactors cannot be told of each other";
        err = introduce(t);
    }
    if (err) {
        *ret_why = t->why;
        uring_team_free(t);
        return err;
    }
    *ret = t;
    return 0;
}

struct reactor *uring_team_reactor(struct uring_team *t, unsigned i)
{
    assert(i < t->n);
    return &t->member[i].ring->reactor;
}

int uring_team_each(struct uring_team *t, int (*fn)(void *user, unsigned i), void *user)
{
    int result = 0;
    t->fn = fn;
    t->user = user;
    for (unsigned i = 0; i < t->n && !result; i++)
        result = order_one(&t->member[i], ORDER_CALL);
    return result;
}

static void on_stop(struct reactor_msg *msg)
{
    container_of(msg, struct member, stop)->ring->reactor.stopping = true;
}

int uring_team_run(struct uring_team *t)
{
    for (unsigned i = 1; i < t->n; i++) {
        t->member[i].ring->reactor.stopping = false;
        give(&t->member[i], ORDER_RUN);
    }
    int result = carry_out(&t->member[0], ORDER_RUN);
    for (unsigned i = 1; i < t->n; i++) {
        t->member[i].stop.fn = on_stop;
        uring_post_at_once(t->member[0].ring, t->member[i].ring, &t->member[i].stop);
        wait_for(&t->member[i]);
    }
    return result;
}

void uring_team_free(struct uring_team *t)
{
    if (!t)
        return;
    for (unsigned i = t->n; i-- > 0;) {
        struct member *m = &t->member[i];
        order_one(m, ORDER_FREE);
        if (i > 0)
            pthread_join(m->thread, NULL);
    }
    uring_mail_free(t->mail);
    pthread_mutex_destroy(&t->lock);
    pthread_cond_destroy(&t->change);
    free(t);
}
