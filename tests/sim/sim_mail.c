/* Messages between the reactors of a process: each takes an instant that is drawn, and those of one sender stay in order. */
#include "tests/sim/sim_internal.h"

#include <stdlib.h>

struct sim_mail {
    struct list node; /* in sim_reactor.mail of the receiver */
    struct sim_event event;
    struct sim_ready ready;
    struct sim_reactor *to;
    struct reactor_msg *msg;
};

static void mail_free(struct sim_mail *m)
{
    sim_event_cancel(m->to->world, &m->event);
    list_remove(&m->node);
    list_remove(&m->ready.node);
    free(m);
}

static void mail_read(struct sim_ready *ready)
{
    struct sim_mail *m = container_of(ready, struct sim_mail, ready);
    struct reactor_msg *msg = m->msg;
    sim_note(m->to->world, m->to, 6, 0, "a message of a sibling");
    mail_free(m); /* the process may end in fn */
    msg->fn(msg);
}

static void mail_arrives(struct sim_event *e)
{
    struct sim_mail *m = container_of(e, struct sim_mail, event);
    sim_ready_add(m->to, &m->ready);
}

void sim_mail_post(struct reactor *from_io, struct reactor *to_io, struct reactor_msg *msg)
{
    struct sim_reactor *from = sim_reactor_of(from_io), *to = sim_reactor_of(to_io);
    assert(from != to && from->first == to->first && "messages stay within a process");
    if (from->gone || to->gone)
        return;
    struct sim_mail *m = calloc(1, sizeof *m);
    assert(m);
    m->to = to;
    m->msg = msg;
    m->event.fn = mail_arrives;
    m->ready.fn = mail_read;
    list_init(&m->ready.node);
    list_push_back(&to->mail, &m->node);
    uint64_t at = to->world->now_ns + sim_draw(to->world, to->world->config.message_ns), *last = &to->mail_at_ns[from->r.index];
    *last = at > *last ? at : *last;
    sim_event_set(to->world, &m->event, *last);
}

void sim_mail_reap(struct sim_reactor *r)
{
    list_for_each_safe (l, &r->mail)
        mail_free(container_of(l, struct sim_mail, node));
}
