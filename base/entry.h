/* A log entry in memory: what a slot holds. Immutable once its slot is assigned, shared by reference.
 *
 * The struct lives at the start of its meta buffer, followed by the CRCs (WRITE) or the membership (MEMBER); a WRITE's
 * payload is a slice of another buffer. Entries are whole 4 KiB blocks with the front end's CRCs (store.md §2): nobody
 * behind it ever computes a block's checksum anew. */
#ifndef QBD_BASE_ENTRY_H
#define QBD_BASE_ENTRY_H

#include "base/buf.h"

enum entry_kind {
    ENTRY_WRITE = 1,   /* nblocks blocks from block on, payload and CRCs */
    ENTRY_TRIM = 2,    /* the range reads as zeroes; its space may be given back */
    ENTRY_ZERO = 3,    /* the range reads as zeroes; its space stays allocated where it was */
    ENTRY_SESSION = 4, /* a proposer's session start (P4): e.proposer is whose */
    ENTRY_MEMBER = 5,  /* a membership (P9) */
};

struct entry {
    struct buf *meta;    /* holds this struct; its reference count is the entry's */
    struct buf *payload; /* WRITE: nblocks * BLOCK_SIZE bytes at payload_off (a multiple of 4 KiB in a 4 KiB-aligned
                            buffer), else NULL */
    uint32_t payload_off;
    uint32_t nblocks; /* WRITE: 1..ENTRY_MAX_BLOCKS; TRIM, ZERO: 1..ENTRY_MAX_RANGE_BLOCKS; else 0 */
    uint64_t block;   /* first block's number in the group's address space */
    uint64_t group;
    uint64_t slot;
    struct ballot e; /* of first proposal */
    uint8_t kind;
    union {
        uint32_t crc[ENTRY_MAX_BLOCKS]; /* WRITE: CRC32Cs; only nblocks of them are there */
        struct membership membership;   /* MEMBER */
    } u[];
};

/* One reference, NULL when the arena is at its limit. Sets kind, block, nblocks and zeroes the rest. payload is
 * adopted: its reference is the entry's from now on (on failure it stays the caller's). */
MUST_USE struct entry *entry_new(struct arena *a, enum entry_kind kind, uint64_t block, uint32_t nblocks,
                                 struct buf *payload, uint32_t payload_off);

static inline struct entry *entry_ref(struct entry *e)
{
    buf_ref(e->meta);
    return e;
}

void entry_unref(struct entry *e); /* NULL is fine; drops the payload with the last reference */

static inline uint32_t *entry_crcs(struct entry *e)
{
    return e->u[0].crc;
}

static inline const uint8_t *entry_block_data(const struct entry *e, uint32_t i)
{
    return e->payload->data + e->payload_off + (size_t)i * BLOCK_SIZE;
}

static inline uint32_t entry_payload_bytes(const struct entry *e)
{
    return e->kind == ENTRY_WRITE ? e->nblocks * BLOCK_SIZE : 0;
}

/* The payload against the CRCs. Returns the first bad block's index, or -1. */
MUST_USE int entry_verify(const struct entry *e);

/* Counts in range, identities non-zero and distinct, and everything unused zero. */
MUST_USE bool membership_is_valid(const struct membership *m);

/* The fixed form of an entry on the wire and in the WAL (docs/formats.md). CRCs or the membership follow it. */
struct entry_format {
    uint64_t group;
    uint64_t slot;
    uint64_t e_round;
    uint8_t e_proposer[16];
    uint64_t block;
    uint32_t nblocks;
    uint8_t kind;
    uint8_t flags;     /* 0 */
    uint16_t reserved; /* 0 */
};
static_assert(sizeof(struct entry_format) == 56, "entry_format has no padding");

/* Bytes of the encoded form: entry_format and what follows it (always a multiple of 4). */
size_t entry_encoded_bytes(const struct entry *e);
void entry_encode(const struct entry *e, uint8_t *to);
/* Validates everything (kind, ranges, lengths; a slot and a ballot that an entry can have). On success *ret is a new
 * entry without payload (set ret->payload, adopting the reference), and *ret_used the bytes taken. -EBADMSG: malformed;
 * -ENOMEM: arena at its limit. */
MUST_USE int entry_decode(struct arena *a, const uint8_t *from, size_t len, struct entry **ret, size_t *ret_used);

#endif
