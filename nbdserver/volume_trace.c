/* Where writes spend their time, as far as the front end sees it: one write in TRACE_EVERY, by its slot.
 *
 * Both ends of a stream look at the same slots, so a tool can put a write together from what the front end and the replicas say of it (qbd trace). The clock is read for sampled writes alone, which is why this may
 * always run.
 *
 * What always holds: samples are in ascending order of slots; everything about one is told once, or never when the ring went over it. */
#include "nbdserver/volume_internal.h"

static void part_add(struct trace_part *p, uint64_t from_ns, uint64_t to_ns)
{
    p->n++;
    p->ns += to_ns > from_ns ? to_ns - from_ns : 0;
}

static struct write_sample *sample_at(struct write_trace *t, uint64_t i)
{
    return &t->sample[i % TRACE_KEPT];
}

/* What is under way is waited for no more. */
void trace_forget(struct write_trace *t)
{
    t->chosen = t->n;
    for (uint32_t i = 0; i < VOLUME_LINKS_MAX; i++)
        t->acked[i] = t->n;
}

void trace_placed(struct volume_group *g, const struct volume_op *op)
{
    struct write_trace *t = &g->trace;
    if (op->slot % TRACE_EVERY != 0)
        return;
    if (t->n > 0 && sample_at(t, t->n - 1)->slot >= op->slot)
        trace_forget(t); /* slots begin anew: what had them was not chosen */
    struct write_sample *s = sample_at(t, t->n++);
    memset(s, 0, sizeof *s);
    s->slot = op->slot;
    s->nblocks = op->nblocks;
    s->arrived_ns = request_state(op->request)->submitted_ns;
    s->placed_ns = io_now(g->volume->reactor);
    part_add(&t->prepare, s->arrived_ns, s->placed_ns);
}

void trace_acked(struct volume_group *g, uint32_t link, uint64_t through)
{
    struct write_trace *t = &g->trace;
    uint64_t i = t->acked[link], now = 0;
    t->by = link;
    if (i == t->n)
        return;
    if (t->n - i > TRACE_KEPT)
        i = t->n - TRACE_KEPT;
    for (; i < t->n && sample_at(t, i)->slot <= through; i++) {
        struct write_sample *s = sample_at(t, i);
        if (now == 0)
            now = io_now(g->volume->reactor);
        s->acked_ns[link] = now;
        part_add(&t->ack[link], s->placed_ns, now);
    }
    t->acked[link] = i;
}

struct write_sample *trace_chosen(struct volume_group *g, uint64_t slot)
{
    struct write_trace *t = &g->trace;
    if (slot % TRACE_EVERY != 0)
        return NULL;
    if (t->n - t->chosen > TRACE_KEPT)
        t->chosen = t->n - TRACE_KEPT;
    while (t->chosen < t->n && sample_at(t, t->chosen)->slot < slot)
        t->chosen++;
    if (t->chosen == t->n || sample_at(t, t->chosen)->slot != slot)
        return NULL;
    struct write_sample *s = sample_at(t, t->chosen++);
    s->chosen_ns = io_now(g->volume->reactor);
    part_add(&t->quorum, s->placed_ns, s->chosen_ns);
    t->decided[t->by]++;
    return s;
}

void trace_replied(struct volume_group *g, struct write_sample *s)
{
    s->replied_ns = io_now(g->volume->reactor);
    part_add(&g->trace.reply, s->chosen_ns, s->replied_ns);
}
