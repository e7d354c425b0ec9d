/* Writes that take longer than the device does: how a test makes one disk of several slow (qbd-replica --inject). Only
 * the answer is held back: what is written is written, and durable, as without it. */
#include "base/uring_internal.h"

#include <stdio.h>
#include <stdlib.h>

struct slow_write {
    struct io_op op; /* the device's */
    struct timer timer;
    struct io_op *user;
    struct reactor *reactor;
    uint64_t begun_ns;
    const struct dev_slowness *slowness;
};

static void answer(struct timer *t)
{
    struct slow_write *w = container_of(t, struct slow_write, timer);
    struct io_op *user = w->user;
    user->result = w->op.result;
    user->link = NULL;
    free(w);
    user->fn(user);
}

static void written(struct io_op *op)
{
    struct slow_write *w = container_of(op, struct slow_write, op);
    uint64_t took = uring_now(w->reactor) - w->begun_ns;
    if (w->slowness->factor > 1)
        took *= w->slowness->factor;
    if (took < w->slowness->delay_ns)
        took = w->slowness->delay_ns;
    uring_timer_set(w->reactor, &w->timer, w->begun_ns + took);
}

void uring_dev_slow(struct dev *d, const struct dev_slowness *s)
{
    ((struct uring_dev *)d)->slowness = s;
}

struct io_op *uring_slow_write(struct dev *d, struct io_op *user)
{
    struct slow_write *w = malloc(sizeof *w);
    if (!w) {
        fprintf(stderr, "out of memory: a slow write\n");
        abort();
    }
    *w = (struct slow_write){
        .op.fn = written,
        .timer.fn = answer,
        .user = user,
        .reactor = d->reactor,
        .begun_ns = uring_now(d->reactor),
        .slowness = ((struct uring_dev *)d)->slowness,
    };
    return &w->op;
}
