/* Messages by which replicas copy from and repair each other (docs/rebuild.md): listings of regions, verdicts on chunks, images of blocks.
 *
 * What always holds: as in wire_codec.c, what a decoder lets through has been checked in every field; an answer that is not DONOR_OK carries its status and its
 * subject, and nothing else. */
#include "base/crc32c.h"
#include "base/wire_codec.h"
#include "base/wire_format.h"

static bool is_zero(const void *p, size_t n)
{
    const uint8_t *b = p;
    while (n > 0 && *b == 0)
        b++, n--;
    return n == 0;
}

/* ---- listings ---- */

size_t wire_encode_regions(const struct msg *m, uint8_t *to)
{
    struct wire_regions w = {.at = m->u.regions.at};
    memcpy(to, &w, sizeof w);
    return sizeof w;
}

const char *wire_decode_regions(const struct body *b, struct msg *m)
{
    m->u.regions.at = ((const struct wire_regions *)(const void *)b->p)->at;
    return NULL;
}

static bool regions_ascend(const struct listed_region *region, uint32_t n)
{
    for (uint32_t i = 1; i < n; i++)
        if (region[i].region <= region[i - 1].region)
            return false;
    return true;
}

size_t wire_encode_regions_reply(const struct msg *m, uint8_t *to)
{
    struct wire_regions_reply w = {.status = m->u.regions_reply.status};
    assert(w.status <= DONOR_BUSY);
    if (w.status == DONOR_OK) {
        assert(m->u.regions_reply.n <= REGIONS_PER_MESSAGE && membership_is_valid(&m->u.regions_reply.membership));
        assert(regions_ascend(m->u.regions_reply.region, m->u.regions_reply.n));
        w.n = m->u.regions_reply.n;
        w.more = m->u.regions_reply.more ? 1 : 0;
        w.at = m->u.regions_reply.at;
        w.membership = m->u.regions_reply.membership;
        if (w.n)
            memcpy(to + sizeof w, m->u.regions_reply.region, w.n * sizeof(struct listed_region));
    }
    memcpy(to, &w, sizeof w);
    return sizeof w + w.n * sizeof(struct listed_region);
}

const char *wire_decode_regions_reply(const struct body *b, struct msg *m)
{
    const struct wire_regions_reply *w = (const void *)b->p;
    const struct listed_region *region = (const void *)(b->p + sizeof *w);
    if (w->status > DONOR_BUSY || w->n > REGIONS_PER_MESSAGE || w->more > 1 || w->reserved != 0)
        return "a malformed REGIONS_REPLY";
    if (b->len != sizeof *w + w->n * sizeof *region)
        return "a REGIONS_REPLY whose length is not that of its list";
    if (w->status == DONOR_OK ? !membership_is_valid(&w->membership) || !regions_ascend(region, w->n)
                              : !is_zero((const uint8_t *)w + sizeof w->status, sizeof *w - sizeof w->status))
        return "a REGIONS_REPLY with a malformed membership or list";
    m->u.regions_reply.status = w->status;
    m->u.regions_reply.n = w->n;
    m->u.regions_reply.more = w->more;
    m->u.regions_reply.reserved = 0;
    m->u.regions_reply.at = w->at;
    m->u.regions_reply.membership = w->membership;
    m->u.regions_reply.region = region;
    return NULL;
}

/* ---- verdicts ---- */

size_t wire_encode_chunks(const struct msg *m, uint8_t *to)
{
    struct wire_chunks w = {.at = m->u.chunks.at, .since = m->u.chunks.since, .region = m->u.chunks.region};
    memcpy(to, &w, sizeof w);
    return sizeof w;
}

const char *wire_decode_chunks(const struct body *b, struct msg *m)
{
    const struct wire_chunks *w = (const void *)b->p;
    if (w->reserved != 0)
        return "a malformed CHUNKS";
    m->u.chunks.at = w->at;
    m->u.chunks.since = w->since;
    m->u.chunks.region = w->region;
    m->u.chunks.reserved = 0;
    return NULL;
}

size_t wire_encode_chunks_reply(const struct msg *m, uint8_t *to)
{
    struct wire_chunks_reply w = {.status = m->u.chunks_reply.status, .region = m->u.chunks_reply.region};
    assert(w.status <= DONOR_BUSY);
    if (w.status != DONOR_OK) {
        memcpy(to, &w, sizeof w);
        return sizeof w;
    }
    w.at = m->u.chunks_reply.at;
    w.changed = m->u.chunks_reply.changed;
    memcpy(to, &w, sizeof w);
    memcpy(to + sizeof w, m->u.chunks_reply.changed_at, REGION_CHUNKS * sizeof(uint64_t));
    return sizeof w + REGION_CHUNKS * sizeof(uint64_t);
}

const char *wire_decode_chunks_reply(const struct body *b, struct msg *m)
{
    const struct wire_chunks_reply *w = (const void *)b->p;
    bool ok = w->status == DONOR_OK;
    if (w->status > DONOR_BUSY || b->len != sizeof *w + (ok ? REGION_CHUNKS * sizeof(uint64_t) : 0))
        return "a CHUNKS_REPLY of an unknown status or a wrong length";
    if (!ok && (w->changed != 0 || !is_zero(&w->at, sizeof w->at)))
        return "a CHUNKS_REPLY without verdicts that has content";
    m->u.chunks_reply.status = w->status;
    m->u.chunks_reply.region = w->region;
    m->u.chunks_reply.at = w->at;
    m->u.chunks_reply.changed = w->changed;
    m->u.chunks_reply.changed_at = ok ? (const void *)(b->p + sizeof *w) : NULL;
    return NULL;
}

/* ---- images ---- */

size_t wire_encode_image(const struct msg *m, uint8_t *to)
{
    struct wire_image w = {.at = m->u.image.at, .block = m->u.image.block, .nblocks = m->u.image.nblocks};
    assert(w.nblocks >= 1 && w.nblocks <= ENTRY_MAX_BLOCKS);
    memcpy(to, &w, sizeof w);
    return sizeof w;
}

const char *wire_decode_image(const struct body *b, struct msg *m)
{
    const struct wire_image *w = (const void *)b->p;
    if (w->nblocks < 1 || w->nblocks > ENTRY_MAX_BLOCKS || !wire_range_valid(w->block, w->nblocks) || w->reserved != 0)
        return "an IMAGE of an impossible range";
    m->u.image.at = w->at;
    m->u.image.block = w->block;
    m->u.image.nblocks = w->nblocks;
    m->u.image.reserved = 0;
    return NULL;
}

/* Bytes of payload: the blocks that no map names. UINT32_MAX when a map names blocks outside of the range, two maps the same, or a CRC is not that of its map. */
static uint32_t image_payload_bytes(const uint64_t *zero, const uint64_t *bad, const uint64_t *lost, const uint32_t *crc,
                                    uint32_t nblocks)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < ENTRY_MAX_BLOCKS; i++) {
        uint64_t bit = UINT64_C(1) << (i % 64);
        bool is_zero = zero[i / 64] & bit, is_bad = bad[i / 64] & bit, is_lost = lost[i / 64] & bit;
        if (is_zero + is_bad + is_lost > (i < nblocks))
            return UINT32_MAX;
        if (i >= nblocks)
            continue;
        if ((is_zero && crc[i] != CRC32C_ZERO_BLOCK) || ((is_bad || is_lost) && crc[i] != 0))
            return UINT32_MAX;
        n += !is_zero && !is_bad && !is_lost;
    }
    return n * BLOCK_SIZE;
}

size_t wire_encode_image_reply(const struct msg *m, uint8_t *to)
{
    struct wire_image_reply w = {
        .status = m->u.image_reply.status,
        .nblocks = m->u.image_reply.nblocks,
        .block = m->u.image_reply.block,
    };
    assert(w.status <= DONOR_BUSY && w.nblocks >= 1 && w.nblocks <= ENTRY_MAX_BLOCKS);
    if (w.status != DONOR_OK) {
        assert(m->u.image_reply.payload_len == 0);
        memcpy(to, &w, sizeof w);
        return sizeof w;
    }
    w.at = m->u.image_reply.at;
    w.changed_at = m->u.image_reply.changed_at;
    w.wal_ns = m->u.image_reply.wal_ns;
    w.wal_quiet_ns = m->u.image_reply.wal_quiet_ns;
    memcpy(w.zero, m->u.image_reply.zero, sizeof w.zero);
    memcpy(w.bad, m->u.image_reply.bad, sizeof w.bad);
    memcpy(w.lost, m->u.image_reply.lost, sizeof w.lost);
    assert(image_payload_bytes(w.zero, w.bad, w.lost, m->u.image_reply.crc, w.nblocks) == m->u.image_reply.payload_len);
    memcpy(to, &w, sizeof w);
    memcpy(to + sizeof w, m->u.image_reply.crc, w.nblocks * sizeof(uint32_t));
    return sizeof w + w.nblocks * sizeof(uint32_t);
}

const char *wire_decode_image_reply(const struct body *b, struct msg *m)
{
    const struct wire_image_reply *w = (const void *)b->p;
    const uint32_t *crc = (const void *)(b->p + sizeof *w);
    bool ok = w->status == DONOR_OK;
    if (w->status > DONOR_BUSY || w->nblocks < 1 || w->nblocks > ENTRY_MAX_BLOCKS || !wire_range_valid(w->block, w->nblocks))
        return "an IMAGE_REPLY of an impossible range or status";
    if (b->len != sizeof *w + (ok ? w->nblocks * sizeof(uint32_t) : 0))
        return "an IMAGE_REPLY whose length is not that of its checksums";
    if (!ok && (b->payload_len != 0 || !is_zero(&w->at, sizeof *w - offsetof(struct wire_image_reply, at))))
        return "an IMAGE_REPLY without an image that has content";
    if (ok && image_payload_bytes(w->zero, w->bad, w->lost, crc, w->nblocks) != b->payload_len)
        return "an IMAGE_REPLY whose payload is not the blocks that its maps leave";
    m->u.image_reply.status = w->status;
    m->u.image_reply.nblocks = w->nblocks;
    m->u.image_reply.block = w->block;
    m->u.image_reply.at = w->at;
    m->u.image_reply.changed_at = w->changed_at;
    m->u.image_reply.wal_ns = w->wal_ns;
    m->u.image_reply.wal_quiet_ns = w->wal_quiet_ns;
    m->u.image_reply.crc = ok ? crc : NULL;
    m->u.image_reply.zero = ok ? w->zero : NULL;
    m->u.image_reply.bad = ok ? w->bad : NULL;
    m->u.image_reply.lost = ok ? w->lost : NULL;
    m->u.image_reply.payload_len = b->payload_len;
    return NULL;
}
