/* Messages that fetch what is known to be committed: reads of blocks, and catch-up between replicas.
 *
 * What always holds: as in wire_codec.c, what a decoder lets through has been checked in every field. */
#include "base/crc32c.h"
#include "base/wire_codec.h"
#include "base/wire_format.h"

/* ---- reads ---- */

size_t wire_encode_read(const struct msg *m, uint8_t *to)
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

const char *wire_decode_read(const struct body *b, struct msg *m)
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

/* Bytes of payload: the blocks that the zero map does not name. UINT32_MAX when the map names blocks outside the range or
 * one with a CRC that zeroes don't have. */
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

size_t wire_encode_data(const struct msg *m, uint8_t *to)
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

const char *wire_decode_data(const struct body *b, struct msg *m)
{
    static const uint64_t no_zero[WIRE_ZERO_WORDS];
    const struct wire_data *w = (const void *)b->p;
    bool ok = w->status == DATA_OK;
    if (w->status > DATA_FUZZY || w->nblocks > ENTRY_MAX_BLOCKS || !wire_range_valid(w->block, w->nblocks) ||
        (ok && w->nblocks == 0))
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
        return b->payload_len == 0 && memcmp(w->zero, no_zero, sizeof no_zero) == 0
                   ? NULL
                   : "a DATA without data that has content";
    if (data_payload_bytes(w->zero, m->u.data.crc, w->nblocks) != b->payload_len)
        return "a DATA whose payload is not the blocks that its zero map leaves";
    return NULL;
}

/* ---- catch-up ---- */

size_t wire_encode_catchup(const struct msg *m, uint8_t *to)
{
    struct wire_catchup w = {.from = m->u.catchup.from, .max_bytes = m->u.catchup.max_bytes};
    memcpy(to, &w, sizeof w);
    return sizeof w;
}

const char *wire_decode_catchup(const struct body *b, struct msg *m)
{
    const struct wire_catchup *w = (const void *)b->p;
    m->u.catchup.from = w->from;
    m->u.catchup.max_bytes = w->max_bytes;
    return NULL;
}

size_t wire_encode_catchup_entry(const struct msg *m, uint8_t *to)
{
    return wire_encode_entry(to, m, m->u.catchup_entry.entry);
}

const char *wire_decode_catchup_entry(const struct body *b, struct msg *m)
{
    return wire_decode_entry(b, 0, &m->u.catchup_entry.entry);
}

size_t wire_encode_catchup_end(const struct msg *m, uint8_t *to)
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

const char *wire_decode_catchup_end(const struct body *b, struct msg *m)
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
