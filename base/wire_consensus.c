/* Messages between a proposer and its acceptors (docs/protocol.md), but for reads.
 *
 * What always holds: as in wire_codec.c, what a decoder lets through has been checked in every field. Runs and LOST
 * slots that it hands out are in order, and these within those. */
#include "base/wire_codec.h"
#include "base/wire_format.h"

size_t wire_encode_holder(const struct msg *m, uint8_t *to)
{
    struct wire_holder w = {
        .promised = m->u.holder.promised,
        .holder = m->u.holder.holder,
        .remaining_ns = m->u.holder.remaining_ns,
        .unknown = m->u.holder.unknown ? 1 : 0,
        .full = m->u.holder.full ? 1 : 0,
        .retired = m->u.holder.retired ? 1 : 0,
    };
    wire_encode_name(w.name, m->u.holder.holder_name, sizeof w.name);
    if (m->u.holder.membership.n_voters > 0)
        wire_encode_membership((uint8_t *)&w.membership, &m->u.holder.membership);
    memcpy(to, &w, sizeof w);
    return sizeof w;
}

const char *wire_decode_holder(const struct body *b, struct msg *m)
{
    const struct wire_holder *w = (const void *)b->p;
    if (w->unknown > 1 || w->full > 1 || w->retired > 1 || w->reserved != 0)
        return "a malformed QUERY_ACK or NACK";
    m->u.holder.promised = w->promised;
    m->u.holder.holder = w->holder;
    m->u.holder.remaining_ns = w->remaining_ns;
    m->u.holder.unknown = w->unknown;
    m->u.holder.full = w->full;
    m->u.holder.retired = w->retired;
    m->u.holder.reserved = 0;
    static const struct membership none;
    if (w->membership.n_voters == 0 ? memcmp(&w->membership, &none, sizeof none) != 0
                                    : !membership_is_valid(&w->membership))
        return "a QUERY_ACK or NACK with a malformed membership";
    m->u.holder.membership = w->membership;
    return wire_decode_name(m->u.holder.holder_name, w->name, sizeof w->name);
}

size_t wire_encode_prepare(const struct msg *m, uint8_t *to)
{
    struct wire_prepare w = {.lease_ns = m->u.prepare.lease_ns, .t_ns = m->u.prepare.t_ns};
    wire_encode_name(w.name, m->u.prepare.name, sizeof w.name);
    memcpy(to, &w, sizeof w);
    return sizeof w;
}

const char *wire_decode_prepare(const struct body *b, struct msg *m)
{
    const struct wire_prepare *w = (const void *)b->p;
    m->u.prepare.lease_ns = w->lease_ns;
    m->u.prepare.t_ns = w->t_ns;
    return wire_decode_name(m->u.prepare.name, w->name, sizeof w->name);
}

size_t wire_encode_promise(const struct msg *m, uint8_t *to)
{
    struct wire_promise w = {
        .t_ns = m->u.promise.t_ns,
        .lease_ns = m->u.promise.lease_ns,
        .base = m->u.promise.base,
        .commit = m->u.promise.commit,
        .last = m->u.promise.last,
        .size_blocks = m->u.promise.size_blocks,
        .credits = wire_encode_credits(&m->u.promise.credits),
        .n_runs = m->u.promise.n_runs,
        .n_lost = m->u.promise.n_lost,
        .n_memberships = m->u.promise.n_memberships,
        .needs_copy = m->u.promise.needs_copy ? 1 : 0,
        .retired = m->u.promise.retired ? 1 : 0,
    };
    assert(w.n_memberships <= WIRE_MEMBERSHIPS_MAX);
    memcpy(to, &w, sizeof w);
    size_t len = sizeof w;
    len += wire_encode_runs(to + len, w.base.slot, m->u.promise.runs, w.n_runs, m->u.promise.lost, w.n_lost);
    for (uint32_t i = 0; i < w.n_memberships; i++, len += sizeof(struct membership))
        wire_encode_membership(to + len, &m->u.promise.memberships[i]);
    return len;
}

const char *wire_decode_promise(const struct body *b, struct msg *m)
{
    const struct wire_promise *w = (const void *)b->p;
    if (w->n_runs > RUNS_MAX || w->n_lost > LOST_MAX || w->n_memberships > WIRE_MEMBERSHIPS_MAX || w->needs_copy > 1)
        return "a PROMISE with a count out of bounds";
    if (w->retired > 1 || w->reserved != 0)
        return "a malformed PROMISE";
    size_t lost = sizeof *w + w->n_runs * sizeof(struct run);
    size_t memberships = lost + w->n_lost * sizeof(uint64_t);
    if (b->len != memberships + w->n_memberships * sizeof(struct membership))
        return "a PROMISE whose length is not that of its lists";
    m->u.promise.t_ns = w->t_ns;
    m->u.promise.lease_ns = w->lease_ns;
    m->u.promise.base = w->base;
    m->u.promise.commit = w->commit;
    m->u.promise.last = w->last;
    m->u.promise.size_blocks = w->size_blocks;
    m->u.promise.credits = w->credits;
    m->u.promise.n_runs = w->n_runs;
    m->u.promise.n_lost = w->n_lost;
    m->u.promise.n_memberships = w->n_memberships;
    m->u.promise.needs_copy = w->needs_copy;
    m->u.promise.retired = w->retired;
    m->u.promise.reserved = 0;
    m->u.promise.runs = (const void *)(b->p + sizeof *w);
    m->u.promise.lost = (const void *)(b->p + lost);
    m->u.promise.memberships = (const void *)(b->p + memberships);
    const char *why = wire_check_credits(&w->credits);
    for (uint32_t i = 0; !why && i < w->n_memberships; i++)
        why = membership_is_valid(&m->u.promise.memberships[i]) ? NULL : "a PROMISE with a malformed membership";
    return why ? why : wire_check_runs(w->base.slot, m->u.promise.runs, w->n_runs, m->u.promise.lost, w->n_lost);
}

size_t wire_encode_fetch(const struct msg *m, uint8_t *to)
{
    struct wire_fetch w = {.at = m->u.fetch.at};
    memcpy(to, &w, sizeof w);
    return sizeof w;
}

const char *wire_decode_fetch(const struct body *b, struct msg *m)
{
    m->u.fetch.at = ((const struct wire_fetch *)(const void *)b->p)->at;
    return NULL;
}

static bool entry_is_at(const struct entry *e, const struct log_pos *at)
{
    return e->slot == at->slot && ballot_equal(&e->e, &at->e);
}

size_t wire_encode_value(const struct msg *m, uint8_t *to)
{
    struct wire_value w = {.at = m->u.value.at, .found = m->u.value.found ? 1 : 0};
    memcpy(to, &w, sizeof w);
    if (!w.found)
        return sizeof w;
    assert(entry_is_at(m->u.value.entry, &w.at));
    return sizeof w + wire_encode_entry(to + sizeof w, m, m->u.value.entry);
}

const char *wire_decode_value(const struct body *b, struct msg *m)
{
    const struct wire_value *w = (const void *)b->p;
    if (w->found > 1 || w->reserved != 0)
        return "a malformed VALUE";
    m->u.value.at = w->at;
    m->u.value.found = w->found;
    m->u.value.entry = NULL;
    if (!w->found)
        return b->len != sizeof *w || b->payload_len != 0 ? "a VALUE that was not found and has content" : NULL;
    const char *why = wire_decode_entry(b, sizeof *w, &m->u.value.entry);
    if (why || entry_is_at(m->u.value.entry, &w->at))
        return why;
    entry_unref(m->u.value.entry);
    return "a VALUE of another place than it says"; /* values are named by (slot, e) */
}

size_t wire_encode_open(const struct msg *m, uint8_t *to)
{
    struct wire_open w = {.at = m->u.open.at};
    wire_encode_name(w.name, m->u.open.name, sizeof w.name);
    memcpy(to, &w, sizeof w);
    return sizeof w;
}

const char *wire_decode_open(const struct body *b, struct msg *m)
{
    const struct wire_open *w = (const void *)b->p;
    m->u.open.at = w->at;
    return wire_decode_name(m->u.open.name, w->name, sizeof w->name);
}

size_t wire_encode_opened(const struct msg *m, uint8_t *to)
{
    struct wire_opened w = {
        .m = m->u.opened.m,
        .credits = wire_encode_credits(&m->u.opened.credits),
        .needs_copy = m->u.opened.needs_copy ? 1 : 0,
    };
    memcpy(to, &w, sizeof w);
    return sizeof w;
}

const char *wire_decode_opened(const struct body *b, struct msg *m)
{
    const struct wire_opened *w = (const void *)b->p;
    m->u.opened.m = w->m;
    m->u.opened.credits = w->credits;
    m->u.opened.needs_copy = w->needs_copy;
    m->u.opened.reserved = 0;
    if (w->needs_copy > 1 || w->reserved != 0)
        return "a malformed OPENED";
    return wire_check_credits(&w->credits);
}

size_t wire_encode_mismatch(const struct msg *m, uint8_t *to)
{
    struct wire_mismatch w = {
        .base = m->u.mismatch.base,
        .commit = m->u.mismatch.commit,
        .n_runs = m->u.mismatch.n_runs,
        .n_lost = m->u.mismatch.n_lost,
    };
    memcpy(to, &w, sizeof w);
    return sizeof w + wire_encode_runs(to + sizeof w, w.base.slot, m->u.mismatch.runs, w.n_runs, m->u.mismatch.lost,
                                       w.n_lost);
}

const char *wire_decode_mismatch(const struct body *b, struct msg *m)
{
    const struct wire_mismatch *w = (const void *)b->p;
    if (w->n_runs > RUNS_MAX || w->n_lost > LOST_MAX)
        return "a MISMATCH with a count out of bounds";
    size_t lost = sizeof *w + w->n_runs * sizeof(struct run);
    if (b->len != lost + w->n_lost * sizeof(uint64_t))
        return "a MISMATCH whose length is not that of its lists";
    m->u.mismatch.base = w->base;
    m->u.mismatch.commit = w->commit;
    m->u.mismatch.n_runs = w->n_runs;
    m->u.mismatch.n_lost = w->n_lost;
    m->u.mismatch.runs = (const void *)(b->p + sizeof *w);
    m->u.mismatch.lost = (const void *)(b->p + lost);
    return wire_check_runs(w->base.slot, m->u.mismatch.runs, w->n_runs, m->u.mismatch.lost, w->n_lost);
}

size_t wire_encode_accept(const struct msg *m, uint8_t *to)
{
    struct wire_accept w = {.commit = m->u.accept.commit};
    memcpy(to, &w, sizeof w);
    return sizeof w + wire_encode_entry(to + sizeof w, m, m->u.accept.entry);
}

const char *wire_decode_accept(const struct body *b, struct msg *m)
{
    const struct wire_accept *w = (const void *)b->p;
    m->u.accept.commit = w->commit;
    return wire_decode_entry(b, sizeof *w, &m->u.accept.entry);
}

size_t wire_encode_accepted(const struct msg *m, uint8_t *to)
{
    struct wire_accepted w = {
        .through = m->u.accepted.through,
        .credits = wire_encode_credits(&m->u.accepted.credits),
        .needs_copy = m->u.accepted.needs_copy ? 1 : 0,
    };
    memcpy(to, &w, sizeof w);
    return sizeof w;
}

const char *wire_decode_accepted(const struct body *b, struct msg *m)
{
    const struct wire_accepted *w = (const void *)b->p;
    m->u.accepted.through = w->through;
    m->u.accepted.credits = w->credits;
    m->u.accepted.needs_copy = w->needs_copy;
    m->u.accepted.reserved = 0;
    if (w->needs_copy > 1 || w->reserved != 0)
        return "a malformed ACCEPTED";
    return wire_check_credits(&w->credits);
}

size_t wire_encode_beat(const struct msg *m, uint8_t *to)
{
    struct wire_beat w = {.t_ns = m->u.beat.t_ns, .lease_ns = m->u.beat.lease_ns, .commit = m->u.beat.commit};
    memcpy(to, &w, sizeof w);
    return sizeof w;
}

const char *wire_decode_beat(const struct body *b, struct msg *m)
{
    const struct wire_beat *w = (const void *)b->p;
    m->u.beat.t_ns = w->t_ns;
    m->u.beat.lease_ns = w->lease_ns;
    m->u.beat.commit = w->commit;
    return NULL;
}

size_t wire_encode_beat_ack(const struct msg *m, uint8_t *to)
{
    struct wire_beat_ack w = {
        .t_ns = m->u.beat_ack.t_ns,
        .lease_ns = m->u.beat_ack.lease_ns,
        .commit = m->u.beat_ack.commit,
        .applied = m->u.beat_ack.applied,
        .last = m->u.beat_ack.last,
        .credits = wire_encode_credits(&m->u.beat_ack.credits),
        .needs_copy = m->u.beat_ack.needs_copy ? 1 : 0,
        .retired = m->u.beat_ack.retired ? 1 : 0,
    };
    memcpy(to, &w, sizeof w);
    return sizeof w;
}

const char *wire_decode_beat_ack(const struct body *b, struct msg *m)
{
    const struct wire_beat_ack *w = (const void *)b->p;
    m->u.beat_ack.t_ns = w->t_ns;
    m->u.beat_ack.lease_ns = w->lease_ns;
    m->u.beat_ack.commit = w->commit;
    m->u.beat_ack.applied = w->applied;
    m->u.beat_ack.last = w->last;
    m->u.beat_ack.credits = w->credits;
    m->u.beat_ack.needs_copy = w->needs_copy;
    m->u.beat_ack.retired = w->retired;
    if (w->needs_copy > 1 || w->retired > 1)
        return "a malformed BEAT_ACK";
    return wire_check_credits(&w->credits);
}

size_t wire_encode_force(const struct msg *m, uint8_t *to)
{
    struct wire_force w = {.expiry_ns = m->u.force.expiry_ns};
    memcpy(to, &w, sizeof w);
    return sizeof w;
}

const char *wire_decode_force(const struct body *b, struct msg *m)
{
    m->u.force.expiry_ns = ((const struct wire_force *)(const void *)b->p)->expiry_ns;
    return NULL;
}
