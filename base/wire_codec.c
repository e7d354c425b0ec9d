/* Messages to bytes and back: encode and decode of each message side by side.
 *
 * What always holds: a body that wire_decode lets through has been checked in every field, so that nothing behind it
 * checks lengths, counts, ranges or reserved bytes again. Encoding is canonical: reserved bytes and what follows a name's end are zero. What a
 * caller hands to wire_encode is trusted, and a bad length there is an assertion. */
#include <errno.h>

#include "base/crc32c.h"
#include "base/wire.h"
#include "base/wire_codec.h"
#include "base/wire_format.h"

struct codec {
    const char *name;
    uint32_t body_min, body_max;
    uint32_t payload_max;
    size_t (*encode)(const struct msg *m, uint8_t *to);
    const char *(*decode)(const struct body *b, struct msg *m);
};

/* ---- parts that messages share ---- */

static void encode_name(char *to, const char *name, size_t size)
{
    size_t n = strnlen(name, size);
    assert(n < size);
    memcpy(to, name, n);
    memset(to + n, 0, size - n);
}

static const char *decode_name(char *to, const char *from, size_t size)
{
    if (!memchr(from, 0, size))
        return "a name has no end";
    memcpy(to, from, size);
    return NULL;
}

static struct credits encode_credits(const struct credits *c)
{
    return (struct credits){.slabs = c->slabs, .slot_limit = c->slot_limit, .growing = c->growing ? 1 : 0};
}

static const char *check_credits(const struct credits *c)
{
    static const struct credits zero;
    if (c->growing > 1 || memcmp(c->reserved, zero.reserved, sizeof c->reserved) != 0)
        return "malformed credits";
    return NULL;
}

void wire_encode_membership(uint8_t *to, const struct membership *m)
{
    assert(membership_is_valid(m));
    memcpy(to, m, sizeof *m);
}

/* Runs cover (base, end] without a gap; LOST slots lie in that range, ascending. */
static const char *check_runs(uint64_t base, const struct run *runs, uint32_t n_runs, const uint64_t *lost, uint32_t n_lost)
{
    uint64_t end = base;
    for (uint32_t i = 0; i < n_runs; i++) {
        if (end == UINT64_MAX || runs[i].first != end + 1 || runs[i].last < runs[i].first)
            return "runs that are not ascending without gaps";
        end = runs[i].last;
    }
    for (uint32_t i = 0; i < n_lost; i++)
        if (lost[i] <= (i ? lost[i - 1] : base) || lost[i] > end)
            return "lost slots that are not ascending inside the runs";
    return NULL;
}

static size_t encode_runs(uint8_t *to, uint64_t base, const struct run *runs, uint32_t n_runs, const uint64_t *lost,
                          uint32_t n_lost)
{
    assert(n_runs <= RUNS_MAX && n_lost <= LOST_MAX);
    assert(check_runs(base, runs, n_runs, lost, n_lost) == NULL);
    if (n_runs)
        memcpy(to, runs, n_runs * sizeof *runs);
    if (n_lost)
        memcpy(to + n_runs * sizeof *runs, lost, n_lost * sizeof *lost);
    return n_runs * sizeof *runs + n_lost * sizeof *lost;
}

bool wire_range_valid(uint64_t block, uint64_t nblocks)
{
    return block <= (UINT64_MAX >> BLOCK_SHIFT) - nblocks;
}

/* A valid entry that the arena has no room for is made beyond the limit: its bytes are here already, and dropping the connection
 * would only bring them again. Whoever reads the connection holds it back (conn_recv_pause) long before. */
static int decode_beyond_limit(const struct body *b, size_t off, struct entry **ret, size_t *ret_used)
{
    struct arena *spare = arena_new(UINT64_MAX);
    if (!spare)
        return -ENOMEM;
    struct entry *e;
    int r = entry_decode(spare, b->p + off, b->len - off, &e, ret_used);
    if (r == 0) {
        size_t bytes = offsetof(struct entry, u) + *ret_used - sizeof(struct entry_format);
        struct buf *meta = buf_alloc_must(b->arena, bytes);
        memcpy(meta->data, e, bytes);
        *ret = (struct entry *)meta->data;
        (*ret)->meta = meta;
        entry_unref(e);
    }
    arena_free(spare);
    return r;
}

/* The entry that the body ends with, from off on: of the frame's group, and its payload is the frame's payload. */
static const char *decode_entry(const struct body *b, size_t off, struct entry **ret)
{
    struct entry *e;
    size_t used;
    int r = entry_decode(b->arena, b->p + off, b->len - off, &e, &used);
    if (r == -ENOMEM)
        r = decode_beyond_limit(b, off, &e, &used);
    if (r < 0)
        return r == -ENOMEM ? "an entry that there is no memory for" : "a malformed entry";
    const char *why = NULL;
    if (used != b->len - off)
        why = "bytes after an entry's end";
    else if (e->group != b->group)
        why = "an entry of another group than its frame's";
    else if (entry_payload_bytes(e) != b->payload_len)
        why = "a payload whose length is not its entry's";
    if (why)
        entry_unref(e);
    else
        *ret = e;
    return why;
}

static size_t encode_entry(uint8_t *to, const struct msg *m, const struct entry *e)
{
    assert(e->group == m->group);
    entry_encode(e, to);
    return entry_encoded_bytes(e);
}

static size_t encode_empty(const struct msg *m, uint8_t *to)
{
    return 0;
}

static const char *decode_empty(const struct body *b, struct msg *m)
{
    return NULL;
}

/* ---- session ---- */

static size_t encode_hello(const struct msg *m, uint8_t *to)
{
    struct wire_hello w = {
        .version = m->u.hello.version,
        .role = m->u.hello.role,
        .features = m->u.hello.features,
        .cluster = m->u.hello.cluster,
        .identity = m->u.hello.identity,
    };
    encode_name(w.name, m->u.hello.name, sizeof w.name);
    memcpy(to, &w, sizeof w);
    return sizeof w;
}

static const char *decode_hello(const struct body *b, struct msg *m)
{
    const struct wire_hello *w = (const void *)b->p;
    if (w->role < ROLE_FRONTEND || w->role > ROLE_TOOL)
        return "a HELLO of an unknown role";
    m->u.hello.version = w->version;
    m->u.hello.role = w->role;
    m->u.hello.features = w->features;
    m->u.hello.cluster = w->cluster;
    m->u.hello.identity = w->identity;
    return decode_name(m->u.hello.name, w->name, sizeof w->name);
}

static size_t encode_refused(const struct msg *m, uint8_t *to)
{
    encode_name((char *)to, m->u.refused.reason, WIRE_REASON_MAX);
    return WIRE_REASON_MAX;
}

static const char *decode_refused(const struct body *b, struct msg *m)
{
    return decode_name(m->u.refused.reason, (const char *)b->p, WIRE_REASON_MAX);
}

/* ---- consensus ---- */

static size_t encode_holder(const struct msg *m, uint8_t *to)
{
    struct wire_holder w = {
        .promised = m->u.holder.promised,
        .holder = m->u.holder.holder,
        .remaining_ns = m->u.holder.remaining_ns,
        .unknown = m->u.holder.unknown ? 1 : 0,
        .full = m->u.holder.full ? 1 : 0,
        .retired = m->u.holder.retired ? 1 : 0,
    };
    encode_name(w.name, m->u.holder.holder_name, sizeof w.name);
    if (m->u.holder.membership.n_voters > 0)
        wire_encode_membership((uint8_t *)&w.membership, &m->u.holder.membership);
    memcpy(to, &w, sizeof w);
    return sizeof w;
}

static const char *decode_holder(const struct body *b, struct msg *m)
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
    if (w->membership.n_voters == 0 ? memcmp(&w->membership, &none, sizeof none) != 0 : !membership_is_valid(&w->membership))
        return "a QUERY_ACK or NACK with a malformed membership";
    m->u.holder.membership = w->membership;
    return decode_name(m->u.holder.holder_name, w->name, sizeof w->name);
}

static size_t encode_prepare(const struct msg *m, uint8_t *to)
{
    struct wire_prepare w = {.lease_ns = m->u.prepare.lease_ns, .t_ns = m->u.prepare.t_ns};
    encode_name(w.name, m->u.prepare.name, sizeof w.name);
    memcpy(to, &w, sizeof w);
    return sizeof w;
}

static const char *decode_prepare(const struct body *b, struct msg *m)
{
    const struct wire_prepare *w = (const void *)b->p;
    m->u.prepare.lease_ns = w->lease_ns;
    m->u.prepare.t_ns = w->t_ns;
    return decode_name(m->u.prepare.name, w->name, sizeof w->name);
}

static size_t encode_promise(const struct msg *m, uint8_t *to)
{
    struct wire_promise w = {
        .t_ns = m->u.promise.t_ns,
        .lease_ns = m->u.promise.lease_ns,
        .base = m->u.promise.base,
        .commit = m->u.promise.commit,
        .last = m->u.promise.last,
        .size_blocks = m->u.promise.size_blocks,
        .credits = encode_credits(&m->u.promise.credits),
        .n_runs = m->u.promise.n_runs,
        .n_lost = m->u.promise.n_lost,
        .n_memberships = m->u.promise.n_memberships,
        .needs_copy = m->u.promise.needs_copy ? 1 : 0,
        .retired = m->u.promise.retired ? 1 : 0,
    };
    assert(w.n_memberships <= WIRE_MEMBERSHIPS_MAX);
    memcpy(to, &w, sizeof w);
    size_t len = sizeof w;
    len += encode_runs(to + len, w.base.slot, m->u.promise.runs, w.n_runs, m->u.promise.lost, w.n_lost);
    for (uint32_t i = 0; i < w.n_memberships; i++, len += sizeof(struct membership))
        wire_encode_membership(to + len, &m->u.promise.memberships[i]);
    return len;
}

static const char *decode_promise(const struct body *b, struct msg *m)
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
    const char *why = check_credits(&w->credits);
    for (uint32_t i = 0; !why && i < w->n_memberships; i++)
        why = membership_is_valid(&m->u.promise.memberships[i]) ? NULL : "a PROMISE with a malformed membership";
    return why ? why : check_runs(w->base.slot, m->u.promise.runs, w->n_runs, m->u.promise.lost, w->n_lost);
}

static size_t encode_fetch(const struct msg *m, uint8_t *to)
{
    struct wire_fetch w = {.at = m->u.fetch.at};
    memcpy(to, &w, sizeof w);
    return sizeof w;
}

static const char *decode_fetch(const struct body *b, struct msg *m)
{
    m->u.fetch.at = ((const struct wire_fetch *)(const void *)b->p)->at;
    return NULL;
}

static bool entry_is_at(const struct entry *e, const struct log_pos *at)
{
    return e->slot == at->slot && ballot_equal(&e->e, &at->e);
}

static size_t encode_value(const struct msg *m, uint8_t *to)
{
    struct wire_value w = {.at = m->u.value.at, .found = m->u.value.found ? 1 : 0};
    memcpy(to, &w, sizeof w);
    if (!w.found)
        return sizeof w;
    assert(entry_is_at(m->u.value.entry, &w.at));
    return sizeof w + encode_entry(to + sizeof w, m, m->u.value.entry);
}

static const char *decode_value(const struct body *b, struct msg *m)
{
    const struct wire_value *w = (const void *)b->p;
    if (w->found > 1 || w->reserved != 0)
        return "a malformed VALUE";
    m->u.value.at = w->at;
    m->u.value.found = w->found;
    m->u.value.entry = NULL;
    if (!w->found)
        return b->len != sizeof *w || b->payload_len != 0 ? "a VALUE that was not found and has content" : NULL;
    const char *why = decode_entry(b, sizeof *w, &m->u.value.entry);
    if (why || entry_is_at(m->u.value.entry, &w->at))
        return why;
    entry_unref(m->u.value.entry);
    return "a VALUE of another place than it says"; /* values are named by (slot, e) */
}

static size_t encode_open(const struct msg *m, uint8_t *to)
{
    struct wire_open w = {.at = m->u.open.at};
    encode_name(w.name, m->u.open.name, sizeof w.name);
    memcpy(to, &w, sizeof w);
    return sizeof w;
}

static const char *decode_open(const struct body *b, struct msg *m)
{
    const struct wire_open *w = (const void *)b->p;
    m->u.open.at = w->at;
    return decode_name(m->u.open.name, w->name, sizeof w->name);
}

static size_t encode_opened(const struct msg *m, uint8_t *to)
{
    struct wire_opened w = {
        .m = m->u.opened.m,
        .credits = encode_credits(&m->u.opened.credits),
        .needs_copy = m->u.opened.needs_copy ? 1 : 0,
    };
    memcpy(to, &w, sizeof w);
    return sizeof w;
}

static const char *decode_opened(const struct body *b, struct msg *m)
{
    const struct wire_opened *w = (const void *)b->p;
    m->u.opened.m = w->m;
    m->u.opened.credits = w->credits;
    m->u.opened.needs_copy = w->needs_copy;
    m->u.opened.reserved = 0;
    if (w->needs_copy > 1 || w->reserved != 0)
        return "a malformed OPENED";
    return check_credits(&w->credits);
}

static size_t encode_mismatch(const struct msg *m, uint8_t *to)
{
    struct wire_mismatch w = {
        .base = m->u.mismatch.base,
        .commit = m->u.mismatch.commit,
        .n_runs = m->u.mismatch.n_runs,
        .n_lost = m->u.mismatch.n_lost,
    };
    memcpy(to, &w, sizeof w);
    return sizeof w + encode_runs(to + sizeof w, w.base.slot, m->u.mismatch.runs, w.n_runs, m->u.mismatch.lost, w.n_lost);
}

static const char *decode_mismatch(const struct body *b, struct msg *m)
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
    return check_runs(w->base.slot, m->u.mismatch.runs, w->n_runs, m->u.mismatch.lost, w->n_lost);
}

static size_t encode_accept(const struct msg *m, uint8_t *to)
{
    struct wire_accept w = {.commit = m->u.accept.commit};
    memcpy(to, &w, sizeof w);
    return sizeof w + encode_entry(to + sizeof w, m, m->u.accept.entry);
}

static const char *decode_accept(const struct body *b, struct msg *m)
{
    const struct wire_accept *w = (const void *)b->p;
    m->u.accept.commit = w->commit;
    return decode_entry(b, sizeof *w, &m->u.accept.entry);
}

static size_t encode_accepted(const struct msg *m, uint8_t *to)
{
    struct wire_accepted w = {
        .through = m->u.accepted.through,
        .credits = encode_credits(&m->u.accepted.credits),
        .needs_copy = m->u.accepted.needs_copy ? 1 : 0,
    };
    memcpy(to, &w, sizeof w);
    return sizeof w;
}

static const char *decode_accepted(const struct body *b, struct msg *m)
{
    const struct wire_accepted *w = (const void *)b->p;
    m->u.accepted.through = w->through;
    m->u.accepted.credits = w->credits;
    m->u.accepted.needs_copy = w->needs_copy;
    m->u.accepted.reserved = 0;
    if (w->needs_copy > 1 || w->reserved != 0)
        return "a malformed ACCEPTED";
    return check_credits(&w->credits);
}

static size_t encode_beat(const struct msg *m, uint8_t *to)
{
    struct wire_beat w = {.t_ns = m->u.beat.t_ns, .lease_ns = m->u.beat.lease_ns, .commit = m->u.beat.commit};
    memcpy(to, &w, sizeof w);
    return sizeof w;
}

static const char *decode_beat(const struct body *b, struct msg *m)
{
    const struct wire_beat *w = (const void *)b->p;
    m->u.beat.t_ns = w->t_ns;
    m->u.beat.lease_ns = w->lease_ns;
    m->u.beat.commit = w->commit;
    return NULL;
}

static size_t encode_beat_ack(const struct msg *m, uint8_t *to)
{
    struct wire_beat_ack w = {
        .t_ns = m->u.beat_ack.t_ns,
        .lease_ns = m->u.beat_ack.lease_ns,
        .commit = m->u.beat_ack.commit,
        .applied = m->u.beat_ack.applied,
        .last = m->u.beat_ack.last,
        .credits = encode_credits(&m->u.beat_ack.credits),
        .needs_copy = m->u.beat_ack.needs_copy ? 1 : 0,
        .retired = m->u.beat_ack.retired ? 1 : 0,
    };
    memcpy(to, &w, sizeof w);
    return sizeof w;
}

static const char *decode_beat_ack(const struct body *b, struct msg *m)
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
    return check_credits(&w->credits);
}

static size_t encode_force(const struct msg *m, uint8_t *to)
{
    struct wire_force w = {.expiry_ns = m->u.force.expiry_ns};
    memcpy(to, &w, sizeof w);
    return sizeof w;
}

static const char *decode_force(const struct body *b, struct msg *m)
{
    m->u.force.expiry_ns = ((const struct wire_force *)(const void *)b->p)->expiry_ns;
    return NULL;
}

/* ---- reads ---- */

static size_t encode_read(const struct msg *m, uint8_t *to)
{
    struct wire_read w = {
        .block = m->u.read.block,
        .nblocks = m->u.read.nblocks,
        .watermark = m->u.read.watermark,
    };
    assert(w.nblocks >= 1 && w.nblocks <= ENTRY_MAX_BLOCKS);
    memcpy(to, &w, sizeof w);
    return sizeof w;
}

static const char *decode_read(const struct body *b, struct msg *m)
{
    const struct wire_read *w = (const void *)b->p;
    if (w->nblocks < 1 || w->nblocks > ENTRY_MAX_BLOCKS || !wire_range_valid(w->block, w->nblocks) || w->reserved != 0)
        return "a READ of an impossible range";
    m->u.read.block = w->block;
    m->u.read.nblocks = w->nblocks;
    m->u.read.reserved = 0;
    m->u.read.watermark = w->watermark;
    return NULL;
}

/* Bytes of payload: the blocks that the zero map does not name. UINT32_MAX when the map names blocks outside the range or one with a CRC that zeroes don't have. */
static uint32_t data_payload_bytes(const uint64_t zero[WIRE_ZERO_WORDS], const uint32_t *crc, uint32_t nblocks)
{
    uint32_t n = nblocks;
    for (uint32_t w = 0; w < WIRE_ZERO_WORDS; w++) {
        for (uint64_t left = zero[w]; left; left &= left - 1, n--) {
            uint32_t i = w * 64 + (uint32_t)__builtin_ctzll(left);
            if (i >= nblocks || crc[i] != CRC32C_ZERO_BLOCK)
                return UINT32_MAX;
        }
    }
    return n * BLOCK_SIZE;
}

static size_t encode_data(const struct msg *m, uint8_t *to)
{
    struct wire_data w = {
        .status = m->u.data.status,
        .nblocks = m->u.data.nblocks,
        .block = m->u.data.block,
        .applied = m->u.data.applied,
    };
    assert(w.status <= DATA_FUZZY && w.nblocks <= ENTRY_MAX_BLOCKS);
    if (w.status != DATA_OK) {
        assert(m->u.data.payload_len == 0);
        memcpy(to, &w, sizeof w);
        return sizeof w;
    }
    assert(w.nblocks >= 1);
    memcpy(w.zero, m->u.data.zero, sizeof w.zero);
    assert(data_payload_bytes(w.zero, m->u.data.crc, w.nblocks) == m->u.data.payload_len);
    memcpy(to, &w, sizeof w);
    memcpy(to + sizeof w, m->u.data.crc, w.nblocks * sizeof(uint32_t));
    return sizeof w + w.nblocks * sizeof(uint32_t);
}

static const char *decode_data(const struct body *b, struct msg *m)
{
    static const uint64_t no_zero[WIRE_ZERO_WORDS];
    const struct wire_data *w = (const void *)b->p;
    bool ok = w->status == DATA_OK;
    if (w->status > DATA_FUZZY || w->nblocks > ENTRY_MAX_BLOCKS || !wire_range_valid(w->block, w->nblocks) || (ok && w->nblocks == 0))
        return "a DATA of an impossible range or status";
    if (b->len != sizeof *w + (ok ? w->nblocks * sizeof(uint32_t) : 0))
        return "a DATA whose length is not that of its checksums";
    m->u.data.status = w->status;
    m->u.data.nblocks = w->nblocks;
    m->u.data.block = w->block;
    m->u.data.applied = w->applied;
    m->u.data.payload_len = b->payload_len;
    m->u.data.crc = ok ? (const void *)(b->p + sizeof *w) : NULL;
    m->u.data.zero = ok ? w->zero : NULL;
    if (!ok)
        return b->payload_len != 0 || memcmp(w->zero, no_zero, sizeof no_zero) != 0 ? "a DATA without data that has content"
                                                                                    : NULL;
    if (data_payload_bytes(w->zero, m->u.data.crc, w->nblocks) != b->payload_len)
        return "a DATA whose payload is not the blocks that its zero map leaves";
    return NULL;
}

/* ---- catch-up ---- */

static size_t encode_catchup(const struct msg *m, uint8_t *to)
{
    struct wire_catchup w = {.from = m->u.catchup.from, .max_bytes = m->u.catchup.max_bytes};
    memcpy(to, &w, sizeof w);
    return sizeof w;
}

static const char *decode_catchup(const struct body *b, struct msg *m)
{
    const struct wire_catchup *w = (const void *)b->p;
    m->u.catchup.from = w->from;
    m->u.catchup.max_bytes = w->max_bytes;
    return NULL;
}

static size_t encode_catchup_entry(const struct msg *m, uint8_t *to)
{
    return encode_entry(to, m, m->u.catchup_entry.entry);
}

static const char *decode_catchup_entry(const struct body *b, struct msg *m)
{
    return decode_entry(b, 0, &m->u.catchup_entry.entry);
}

static size_t encode_catchup_end(const struct msg *m, uint8_t *to)
{
    struct wire_catchup_end w = {
        .status = m->u.catchup_end.status,
        .through = m->u.catchup_end.through,
        .commit = m->u.catchup_end.commit,
    };
    assert(w.status <= CATCHUP_UNMATCHED);
    memcpy(to, &w, sizeof w);
    return sizeof w;
}

static const char *decode_catchup_end(const struct body *b, struct msg *m)
{
    const struct wire_catchup_end *w = (const void *)b->p;
    if (w->status > CATCHUP_UNMATCHED || w->reserved != 0)
        return "a malformed CATCHUP_END";
    m->u.catchup_end.status = w->status;
    m->u.catchup_end.reserved = 0;
    m->u.catchup_end.through = w->through;
    m->u.catchup_end.commit = w->commit;
    return NULL;
}

/* ---- operator ---- */

static size_t encode_create(const struct msg *m, uint8_t *to)
{
    struct wire_create w = {.size_blocks = m->u.create.size_blocks};
    assert(w.size_blocks >= 1);
    memcpy(to, &w, sizeof w);
    wire_encode_membership(to + offsetof(struct wire_create, membership), &m->u.create.membership);
    return sizeof w;
}

static const char *decode_create(const struct body *b, struct msg *m)
{
    const struct wire_create *w = (const void *)b->p;
    if (w->size_blocks < 1 || w->size_blocks > UINT64_MAX >> BLOCK_SHIFT ||
        !membership_is_valid(&w->membership))
        return "a CREATE of an impossible size or membership";
    m->u.create.size_blocks = w->size_blocks;
    m->u.create.membership = w->membership;
    return NULL;
}

static size_t encode_created(const struct msg *m, uint8_t *to)
{
    struct wire_created w = {.error = m->u.created.error};
    memcpy(to, &w, sizeof w);
    return sizeof w;
}

static const char *decode_created(const struct body *b, struct msg *m)
{
    const struct wire_created *w = (const void *)b->p;
    if (w->error < 0 || w->error > 4095 || w->reserved != 0)
        return "a malformed CREATED";
    m->u.created.error = w->error;
    m->u.created.reserved = 0;
    return NULL;
}

static size_t encode_status_reply(const struct msg *m, uint8_t *to)
{
    assert(m->u.status_reply.len <= WIRE_BODY_MAX);
    if (m->u.status_reply.len)
        memcpy(to, m->u.status_reply.json, m->u.status_reply.len);
    return m->u.status_reply.len;
}

static const char *decode_status_reply(const struct body *b, struct msg *m)
{
    m->u.status_reply.json = (const char *)b->p;
    m->u.status_reply.len = b->len;
    return NULL;
}

/* ---- frames ---- */

#define FIXED(what) sizeof(struct wire_##what), sizeof(struct wire_##what), 0, encode_##what, decode_##what
#define FIXED_OF(what) sizeof(struct wire_##what), sizeof(struct wire_##what), 0, wire_encode_##what, wire_decode_##what
#define EMPTY 0, 0, 0, encode_empty, decode_empty

static const struct codec codecs[] = {
    [MSG_HELLO] = {"HELLO", FIXED(hello)},
    [MSG_REFUSED] = {"REFUSED", FIXED(refused)},
    [MSG_QUERY] = {"QUERY", EMPTY},
    [MSG_QUERY_ACK] = {"QUERY_ACK", FIXED(holder)},
    [MSG_PREPARE] = {"PREPARE", FIXED(prepare)},
    [MSG_PROMISE] = {"PROMISE", sizeof(struct wire_promise), WIRE_BODY_MAX, 0, encode_promise, decode_promise},
    [MSG_NACK] = {"NACK", FIXED(holder)},
    [MSG_FETCH] = {"FETCH", FIXED(fetch)},
    [MSG_VALUE] = {"VALUE", sizeof(struct wire_value), sizeof(struct wire_value) + WIRE_ENTRY_MAX, WIRE_PAYLOAD_MAX,
                   encode_value, decode_value},
    [MSG_OPEN] = {"OPEN", FIXED(open)},
    [MSG_OPENED] = {"OPENED", FIXED(opened)},
    [MSG_MISMATCH] = {"MISMATCH", sizeof(struct wire_mismatch), WIRE_BODY_MAX, 0, encode_mismatch, decode_mismatch},
    [MSG_ACCEPT] = {"ACCEPT", sizeof(struct wire_accept) + WIRE_ENTRY_MIN, sizeof(struct wire_accept) + WIRE_ENTRY_MAX,
                    WIRE_PAYLOAD_MAX, encode_accept, decode_accept},
    [MSG_ACCEPTED] = {"ACCEPTED", FIXED(accepted)},
    [MSG_BEAT] = {"BEAT", FIXED(beat)},
    [MSG_BEAT_ACK] = {"BEAT_ACK", FIXED(beat_ack)},
    [MSG_RELEASE] = {"RELEASE", EMPTY},
    [MSG_FORCE] = {"FORCE", FIXED(force)},
    [MSG_READ] = {"READ", FIXED(read)},
    [MSG_DATA] = {"DATA", sizeof(struct wire_data), sizeof(struct wire_data) + ENTRY_MAX_BLOCKS * sizeof(uint32_t),
                  WIRE_PAYLOAD_MAX, encode_data, decode_data},
    [MSG_CATCHUP] = {"CATCHUP", FIXED(catchup)},
    [MSG_CATCHUP_ENTRY] = {"CATCHUP_ENTRY", WIRE_ENTRY_MIN, WIRE_ENTRY_MAX, WIRE_PAYLOAD_MAX, encode_catchup_entry,
                           decode_catchup_entry},
    [MSG_CATCHUP_END] = {"CATCHUP_END", FIXED(catchup_end)},
    [MSG_REGIONS] = {"REGIONS", FIXED_OF(regions)},
    [MSG_REGIONS_REPLY] = {"REGIONS_REPLY", sizeof(struct wire_regions_reply),
                           sizeof(struct wire_regions_reply) + REGIONS_PER_MESSAGE * sizeof(struct listed_region), 0,
                           wire_encode_regions_reply, wire_decode_regions_reply},
    [MSG_CHUNKS] = {"CHUNKS", FIXED_OF(chunks)},
    [MSG_CHUNKS_REPLY] = {"CHUNKS_REPLY", sizeof(struct wire_chunks_reply),
                          sizeof(struct wire_chunks_reply) + REGION_CHUNKS * sizeof(uint64_t), 0,
                          wire_encode_chunks_reply, wire_decode_chunks_reply},
    [MSG_IMAGE] = {"IMAGE", FIXED_OF(image)},
    [MSG_IMAGE_REPLY] = {"IMAGE_REPLY", sizeof(struct wire_image_reply),
                         sizeof(struct wire_image_reply) + ENTRY_MAX_BLOCKS * sizeof(uint32_t), WIRE_PAYLOAD_MAX,
                         wire_encode_image_reply, wire_decode_image_reply},
    [MSG_DIGESTS] = {"DIGESTS", FIXED_OF(digests)},
    [MSG_DIGESTS_REPLY] = {"DIGESTS_REPLY", sizeof(struct wire_digests_reply),
                           sizeof(struct wire_digests_reply) + REGION_CHUNKS * sizeof(struct chunk_digest), 0,
                           wire_encode_digests_reply, wire_decode_digests_reply},
    [MSG_CRCS] = {"CRCS", FIXED_OF(crcs)},
    [MSG_CRCS_REPLY] = {"CRCS_REPLY", sizeof(struct wire_crcs_reply),
                        sizeof(struct wire_crcs_reply) + ENTRY_MAX_BLOCKS * sizeof(uint32_t), 0, wire_encode_crcs_reply,
                        wire_decode_crcs_reply},
    [MSG_CREATE] = {"CREATE", FIXED(create)},
    [MSG_CREATED] = {"CREATED", FIXED(created)},
    [MSG_STATUS] = {"STATUS", EMPTY},
    [MSG_STATUS_REPLY] = {"STATUS_REPLY", 0, WIRE_BODY_MAX, 0, encode_status_reply, decode_status_reply},
    [MSG_ADDRESS] = {"ADDRESS", FIXED_OF(address)},
    [MSG_MEMBERS] = {"MEMBERS", FIXED_OF(members)},
    [MSG_DONE] = {"DONE", FIXED_OF(done)},
    [MSG_SCRUB] = {"SCRUB", FIXED_OF(scrub)},
    [MSG_RECOVER] = {"RECOVER", EMPTY},
};

const char *wire_type_name(uint16_t type)
{
    return type < ARRAY_LEN(codecs) && codecs[type].name ? codecs[type].name : NULL;
}

struct entry *wire_msg_entry(const struct msg *m)
{
    switch (m->type) {
    case MSG_VALUE:
        return m->u.value.entry;
    case MSG_ACCEPT:
        return m->u.accept.entry;
    case MSG_CATCHUP_ENTRY:
        return m->u.catchup_entry.entry;
    default:
        return NULL;
    }
}

static uint32_t header_crc(const struct wire_header *h)
{
    struct wire_header w = *h;
    w.header_crc = 0;
    return crc32c(&w, sizeof w);
}

size_t wire_encode(const struct msg *m, uint32_t payload_len, uint8_t *to)
{
    assert(wire_type_name(m->type));
    const struct codec *c = &codecs[m->type];
    const struct entry *e = m->type == MSG_VALUE && !m->u.value.found ? NULL : wire_msg_entry(m);
    assert(payload_len == (m->type == MSG_DATA          ? m->u.data.payload_len
                           : m->type == MSG_IMAGE_REPLY ? m->u.image_reply.payload_len
                           : e                          ? entry_payload_bytes(e)
                                                        : 0));

    size_t body_len = c->encode(m, to + sizeof(struct wire_header));
    assert(body_len >= c->body_min && body_len <= c->body_max);
    struct wire_header h = {
        .magic = WIRE_MAGIC,
        .type = m->type,
        .body_len = (uint32_t)body_len,
        .payload_len = payload_len,
        .body_crc = crc32c(to + sizeof h, body_len),
        .cookie = m->cookie,
        .group = m->group,
        .ballot_round = m->ballot.round,
    };
    memcpy(h.target, m->target.b, sizeof h.target);
    memcpy(h.ballot_proposer, m->ballot.proposer.b, sizeof h.ballot_proposer);
    h.header_crc = header_crc(&h);
    memcpy(to, &h, sizeof h);
    return sizeof h + body_len;
}

const char *wire_check_header(const struct wire_header *h)
{
    if (h->magic != WIRE_MAGIC)
        return "not a frame of this protocol";
    if (h->header_crc != header_crc(h))
        return "a frame whose header has a wrong checksum";
    if (!wire_type_name(h->type) || h->flags != 0)
        return "a frame of an unknown type";
    const struct codec *c = &codecs[h->type];
    if (h->body_len < c->body_min || h->body_len > c->body_max)
        return "a frame whose body has a length that its type can't have";
    if (h->payload_len > c->payload_max || h->payload_len % BLOCK_SIZE != 0)
        return "a frame whose payload has a length that its type can't have";
    return NULL;
}

const char *wire_decode(struct arena *a, const struct wire_header *h, const uint8_t *body, struct msg *ret)
{
    assert((uintptr_t)body % sizeof(uint64_t) == 0);
    if (crc32c(body, h->body_len) != h->body_crc)
        return "a frame whose body has a wrong checksum";
    struct body b = {.arena = a, .p = body, .len = h->body_len, .payload_len = h->payload_len, .group = h->group};
    ret->type = h->type;
    ret->cookie = h->cookie;
    ret->group = h->group;
    ret->ballot.round = h->ballot_round;
    memcpy(ret->target.b, h->target, sizeof h->target);
    memcpy(ret->ballot.proposer.b, h->ballot_proposer, sizeof h->ballot_proposer);
    return codecs[h->type].decode(&b, ret);
}
