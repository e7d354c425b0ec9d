/* Where entries spend their time in a replica: one in TRACE_EVERY, by its slot, the same ones that front ends look at (nbdserver/volume_trace.c).
 *
 *   receive   from the beginning of the loop turn that took it from its connection: checksums, the acceptor's step, into the log's open batch
 *   wait      until its batch is written: others are, or the turn goes on with other things
 *   disk      the write, durable
 *   answer    until the acknowledgement is queued
 *
 * What always holds: samples are in ascending order of slots, and of each the four parts follow one another. */
#include "replica/replica_internal.h"

static struct accept_sample *sample_at(struct accept_trace *t, uint64_t i)
{
    return &t->sample[i % TRACE_KEPT];
}

void trace_accept(struct replica_group *g, uint64_t slot)
{
    struct accept_trace *t = &g->trace;
    if (!g->acceptor.match_valid || g->acceptor.match != slot || g->acceptor.durable >= slot)
        return; /* refused, or one that was there already */
    if (t->n > 0 && sample_at(t, t->n - 1)->slot >= slot)
        t->durable = t->n; /* the log was cut: what had this slot is gone */
    struct accept_sample *s = sample_at(t, t->n++);
    *s = (struct accept_sample){.slot = slot, .appended_ns = io_now(g->replica->reactor)};
    s->received_ns = io_turn_now(g->replica->reactor);
    if (s->received_ns > s->appended_ns)
        s->received_ns = s->appended_ns;
}

static uint64_t between(uint64_t x, uint64_t low, uint64_t high)
{
    return x < low ? low : x > high ? high : x;
}

void trace_durable(struct replica_group *g, uint64_t durable_ns)
{
    struct accept_trace *t = &g->trace;
    uint64_t now = 0;
    struct store_stats st;
    if (t->n - t->durable > TRACE_KEPT)
        t->durable = t->n - TRACE_KEPT;
    for (; t->durable < t->n && sample_at(t, t->durable)->slot <= g->acceptor.durable; t->durable++) {
        struct accept_sample *s = sample_at(t, t->durable);
        if (now == 0) {
            store_get_stats(g->replica->store, &st);
            now = io_now(g->replica->reactor);
        }
        s->durable_ns = between(durable_ns, s->appended_ns, now);
        s->submitted_ns = between(st.wal.durable_submitted_ns, s->appended_ns, s->durable_ns);
        s->answered_ns = now;
        t->finished++;
        t->receive_ns += s->appended_ns - s->received_ns;
        t->wait_ns += s->submitted_ns - s->appended_ns;
        t->disk_ns += s->durable_ns - s->submitted_ns;
        t->answer_ns += s->answered_ns - s->durable_ns;
    }
}
