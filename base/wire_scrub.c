/* Messages of the scrub (docs/rebuild.md section 9): digests of chunks, checksums of one chunk's blocks, an operator's wish for a pass.
 *
 * What always holds: as in wire_codec.c, what a decoder lets through has been checked in every field; an answer that is not DONOR_OK carries its status and its
 * subject, and nothing else; a chunk that is not comparable has no digest. */
#include "base/wire_codec.h"
#include "base/wire_format.h"

size_t wire_encode_digests(const struct msg *m, uint8_t *to)
{
    struct wire_digests w = {.region = m->u.digests.region};
    memcpy(to, &w, sizeof w);
    return sizeof w;
}

const char *wire_decode_digests(const struct body *b, struct msg *m)
{
    const struct wire_digests *w = (const void *)b->p;
    if (w->reserved != 0)
        return "a malformed DIGESTS";
    m->u.digests.region = w->region;
    m->u.digests.reserved = 0;
    return NULL;
}

size_t wire_encode_digests_reply(const struct msg *m, uint8_t *to)
{
    struct wire_digests_reply w = {.status = m->u.digests_reply.status, .region = m->u.digests_reply.region};
    assert(w.status <= DONOR_BUSY);
    if (w.status != DONOR_OK) {
        memcpy(to, &w, sizeof w);
        return sizeof w;
    }
    struct chunk_digest *chunk = (void *)(to + sizeof w);
    w.applied = m->u.digests_reply.applied;
    w.comparable = m->u.digests_reply.comparable;
    w.next = m->u.digests_reply.next;
    assert(w.next > w.region || w.next == UINT32_MAX);
    memcpy(to, &w, sizeof w);
    for (unsigned i = 0; i < REGION_CHUNKS; i++)
        chunk[i] = w.comparable >> i & 1 ? m->u.digests_reply.chunk[i] : (struct chunk_digest){0, 0};
    return sizeof w + REGION_CHUNKS * sizeof *chunk;
}

const char *wire_decode_digests_reply(const struct body *b, struct msg *m)
{
    const struct wire_digests_reply *w = (const void *)b->p;
    const struct chunk_digest *chunk = (const void *)(b->p + sizeof *w);
    bool ok = w->status == DONOR_OK;
    if (w->status > DONOR_BUSY || w->reserved != 0)
        return "a malformed DIGESTS_REPLY";
    if (b->len != sizeof *w + (ok ? REGION_CHUNKS * sizeof *chunk : 0))
        return "a DIGESTS_REPLY whose length is not that of its digests";
    if (ok ? w->next <= w->region && w->next != UINT32_MAX : w->applied != 0 || w->comparable != 0 || w->next != 0)
        return "a DIGESTS_REPLY that goes backwards, or has content without digests";
    for (unsigned i = 0; ok && i < REGION_CHUNKS; i++)
        if (w->comparable >> i & 1 ? chunk[i].changed_at > w->applied : chunk[i].changed_at != 0 || chunk[i].digest != 0)
            return "a DIGESTS_REPLY with an impossible chunk";
    m->u.digests_reply.status = w->status;
    m->u.digests_reply.region = w->region;
    m->u.digests_reply.applied = w->applied;
    m->u.digests_reply.comparable = w->comparable;
    m->u.digests_reply.next = w->next;
    m->u.digests_reply.reserved = 0;
    m->u.digests_reply.chunk = ok ? chunk : NULL;
    return NULL;
}

size_t wire_encode_crcs(const struct msg *m, uint8_t *to)
{
    struct wire_crcs w = {.block = m->u.crcs.block};
    assert(w.block % ENTRY_MAX_BLOCKS == 0);
    memcpy(to, &w, sizeof w);
    return sizeof w;
}

const char *wire_decode_crcs(const struct body *b, struct msg *m)
{
    const struct wire_crcs *w = (const void *)b->p;
    if (w->block % ENTRY_MAX_BLOCKS != 0 || !wire_range_valid(w->block, 1))
        return "a CRCS of no chunk";
    m->u.crcs.block = w->block;
    return NULL;
}

size_t wire_encode_crcs_reply(const struct msg *m, uint8_t *to)
{
    struct wire_crcs_reply w = {.status = m->u.crcs_reply.status, .block = m->u.crcs_reply.block};
    assert(w.status <= DONOR_BUSY);
    if (w.status == DONOR_OK) {
        w.nblocks = m->u.crcs_reply.nblocks;
        w.applied = m->u.crcs_reply.applied;
        w.changed_at = m->u.crcs_reply.changed_at;
        assert(w.nblocks >= 1 && w.nblocks <= ENTRY_MAX_BLOCKS && w.changed_at <= w.applied);
        memcpy(to + sizeof w, m->u.crcs_reply.crc, w.nblocks * sizeof(uint32_t));
    }
    memcpy(to, &w, sizeof w);
    return sizeof w + w.nblocks * sizeof(uint32_t);
}

const char *wire_decode_crcs_reply(const struct body *b, struct msg *m)
{
    const struct wire_crcs_reply *w = (const void *)b->p;
    bool ok = w->status == DONOR_OK;
    if (w->status > DONOR_BUSY || w->nblocks > ENTRY_MAX_BLOCKS || ok != (w->nblocks > 0) ||
        w->block % ENTRY_MAX_BLOCKS != 0 || !wire_range_valid(w->block, ENTRY_MAX_BLOCKS))
        return "a CRCS_REPLY of an impossible range or status";
    if (b->len != sizeof *w + w->nblocks * sizeof(uint32_t))
        return "a CRCS_REPLY whose length is not that of its checksums";
    if (w->changed_at > w->applied || (!ok && w->applied != 0))
        return "a CRCS_REPLY with impossible slots";
    m->u.crcs_reply.status = w->status;
    m->u.crcs_reply.nblocks = w->nblocks;
    m->u.crcs_reply.block = w->block;
    m->u.crcs_reply.applied = w->applied;
    m->u.crcs_reply.changed_at = w->changed_at;
    m->u.crcs_reply.crc = ok ? (const void *)(b->p + sizeof *w) : NULL;
    return NULL;
}

size_t wire_encode_scrub(const struct msg *m, uint8_t *to)
{
    struct wire_scrub w = {.flags = m->u.scrub.flags};
    assert((w.flags & ~SCRUB_AT_FULL_RATE) == 0);
    memcpy(to, &w, sizeof w);
    return sizeof w;
}

const char *wire_decode_scrub(const struct body *b, struct msg *m)
{
    const struct wire_scrub *w = (const void *)b->p;
    if ((w->flags & ~SCRUB_AT_FULL_RATE) != 0 || w->reserved != 0)
        return "a malformed SCRUB";
    m->u.scrub.flags = w->flags;
    m->u.scrub.reserved = 0;
    return NULL;
}
