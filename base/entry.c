/* Entries: making them, checking them, and their encoded form, which the wire and the WAL share.
 *
 * What always holds: an entry's struct stands at the start of its meta buffer, with exactly the CRCs of its blocks or
 * its membership behind it; encode and decode are inverse to each other, and decode takes nothing that encode would not
 * write. */
#include "base/entry.h"

#include <errno.h>

#include "base/crc32c.h"

/* What follows the fixed part, in memory and encoded. */
static size_t tail_bytes(enum entry_kind kind, uint32_t nblocks)
{
    switch (kind) {
    case ENTRY_WRITE:
        return (size_t)nblocks * sizeof(uint32_t);
    case ENTRY_MEMBER:
        return sizeof(struct membership);
    case ENTRY_TRIM:
    case ENTRY_ZERO:
    case ENTRY_SESSION:
        return 0;
    }
    return 0;
}

/* The block range that an entry of this kind may have. The last block's end must be an offset in bytes that 64 bits
 * hold. */
static bool range_is_valid(unsigned kind, uint64_t block, uint32_t nblocks)
{
    uint32_t max;
    switch (kind) {
    case ENTRY_WRITE:
        max = ENTRY_MAX_BLOCKS;
        break;
    case ENTRY_TRIM:
    case ENTRY_ZERO:
        max = ENTRY_MAX_RANGE_BLOCKS;
        break;
    case ENTRY_SESSION:
    case ENTRY_MEMBER:
        return block == 0 && nblocks == 0;
    default:
        return false;
    }
    return nblocks >= 1 && nblocks <= max && block <= (UINT64_MAX >> BLOCK_SHIFT) - nblocks;
}

bool membership_is_valid(const struct membership *m)
{
    static const uint8_t zero[sizeof m->reserved];
    if (m->n_voters < 1 || m->n_voters > MEMBERS_MAX || m->n_learners > MEMBERS_MAX)
        return false;
    if (memcmp(m->reserved, zero, sizeof zero) != 0)
        return false;
    const struct uuid *seen[2 * MEMBERS_MAX];
    unsigned n = 0;
    for (unsigned i = 0; i < 2 * MEMBERS_MAX; i++) {
        bool voter = i < MEMBERS_MAX;
        const struct uuid *id = voter ? &m->voter[i] : &m->learner[i - MEMBERS_MAX];
        bool used = voter ? i < m->n_voters : i - MEMBERS_MAX < m->n_learners;
        if (uuid_is_zero(id) == used)
            return false;
        for (unsigned k = 0; used && k < n; k++)
            if (uuid_equal(seen[k], id))
                return false;
        if (used)
            seen[n++] = id;
    }
    return true;
}

struct entry *entry_new(struct arena *a, enum entry_kind kind, uint64_t block, uint32_t nblocks, struct buf *payload,
                        uint32_t payload_off)
{
    assert(range_is_valid(kind, block, nblocks));
    assert(kind == ENTRY_WRITE || !payload);
    if (payload) {
        assert(payload_off % BLOCK_SIZE == 0);
        assert(payload_off <= payload->cap && nblocks * BLOCK_SIZE <= payload->cap - payload_off);
    }
    size_t bytes = offsetof(struct entry, u) + tail_bytes(kind, nblocks);
    struct buf *meta = buf_alloc(a, bytes);
    if (!meta)
        return NULL;
    struct entry *e = (struct entry *)meta->data;
    memset(e, 0, bytes);
    e->meta = meta;
    e->payload = payload;
    e->payload_off = payload_off;
    e->kind = (uint8_t)kind;
    e->block = block;
    e->nblocks = nblocks;
    return e;
}

void entry_unref(struct entry *e)
{
    if (!e)
        return;
    if (e->meta->refs == 1) {
        buf_unref(e->payload);
        e->payload = NULL;
    }
    buf_unref(e->meta);
}

int entry_verify(const struct entry *e)
{
    if (e->kind != ENTRY_WRITE)
        return -1;
    assert(e->payload);
    const uint32_t *crc = e->u[0].crc;
    for (uint32_t i = 0; i < e->nblocks; i++)
        if (crc32c(entry_block_data(e, i), BLOCK_SIZE) != crc[i])
            return (int)i;
    return -1;
}

size_t entry_encoded_bytes(const struct entry *e)
{
    return sizeof(struct entry_format) + tail_bytes(e->kind, e->nblocks);
}

void entry_encode(const struct entry *e, uint8_t *to)
{
    struct entry_format f = {
        .group = e->group,
        .slot = e->slot,
        .e_round = e->e.round,
        .block = e->block,
        .nblocks = e->nblocks,
        .kind = e->kind,
    };
    memcpy(f.e_proposer, e->e.proposer.b, sizeof f.e_proposer);
    memcpy(to, &f, sizeof f);
    memcpy(to + sizeof f, e->u, tail_bytes(e->kind, e->nblocks));
}

static bool format_is_valid(const struct entry_format *f)
{
    struct uuid proposer;
    memcpy(proposer.b, f->e_proposer, sizeof proposer.b);
    /* Slots start at 1, round 0 is no proposer's, and the zero id is nobody's. */
    return f->flags == 0 && f->reserved == 0 && f->slot >= 1 && f->e_round >= 1 && !uuid_is_zero(&proposer) &&
           range_is_valid(f->kind, f->block, f->nblocks);
}

int entry_decode(struct arena *a, const uint8_t *from, size_t len, struct entry **ret, size_t *ret_used)
{
    struct entry_format f;
    if (len < sizeof f)
        return -EBADMSG;
    memcpy(&f, from, sizeof f);
    if (!format_is_valid(&f))
        return -EBADMSG;
    size_t tail = tail_bytes(f.kind, f.nblocks);
    if (len - sizeof f < tail)
        return -EBADMSG;
    if (f.kind == ENTRY_MEMBER) {
        struct membership m;
        memcpy(&m, from + sizeof f, sizeof m);
        if (!membership_is_valid(&m) || m.slot != f.slot)
            return -EBADMSG;
    }

    struct entry *e = entry_new(a, f.kind, f.block, f.nblocks, NULL, 0);
    if (!e)
        return -ENOMEM;
    e->group = f.group;
    e->slot = f.slot;
    e->e.round = f.e_round;
    memcpy(e->e.proposer.b, f.e_proposer, sizeof f.e_proposer);
    memcpy(e->u, from + sizeof f, tail);
    *ret = e;
    *ret_used = sizeof f + tail;
    return 0;
}
