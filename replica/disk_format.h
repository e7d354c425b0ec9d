/* What stands on a replica's disk, byte by byte. The prose is in docs/formats.md; the rules are store.md §2.
 *
 * A data directory holds the devices `superblock`, `wal`, `meta` and `extents/00000`, `extents/00001`, ...
 *
 *  superblock  64 KiB: 4 copies of one page, at 0, 16, 32 and 48 KiB. Written at format and when the store grows.
 *  wal         a ring of batches; LSN = 64-bit byte position that only grows, its place is lsn % wal_bytes.
 *  meta        two root pages (places 0 and 1, by checkpoint number & 1), then two places for each of meta_pages logical pages: page p is at
 *              byte (2 + 2 * p + bit) * 4096, where bit is bit p of the root's place map. No page in force is ever overwritten.
 *  extents/N   extent_bytes each, in slabs of 64 KiB. Slab number s lives in extent s / slabs_per_extent. Slabs hold data or leaves.
 *
 * Logical meta pages: 0..GROUPS_MAX-1 group pages; then the slab bitmap; then the region table (see struct root).
 * A region is 64 MiB of a group's address space: 32 leaves of 2 MiB. Its 64 leaf places (2 for each leaf) are in up to 4 slabs: leaf l is in leaf_slab[l / 8] at byte ((l % 8) * 2 + bit) * 4096 where bit is bit l of `place`. */
#ifndef QBD_REPLICA_DISK_FORMAT_H
#define QBD_REPLICA_DISK_FORMAT_H

#include "base/msg.h"

#define DISK_VERSION 3u
#define SLAB_BYTES (64u << 10)
#define SLAB_BLOCKS (SLAB_BYTES / BLOCK_SIZE)
#define LEAF_BLOCKS 512u
#define LEAF_SLABS (LEAF_BLOCKS / SLAB_BLOCKS)
#define CHUNK_BLOCKS 256u /* 1 MiB: the unit of changed_at */
#define LEAF_CHUNKS (LEAF_BLOCKS / CHUNK_BLOCKS)
#define REGION_LEAVES 32u
#define REGION_BLOCKS (REGION_LEAVES * LEAF_BLOCKS)
#define REGION_SLABS (REGION_LEAVES * LEAF_SLABS)
#define LEAVES_PER_SLAB 8u
#define SLAB_NONE 0xffffffffu
#define GROUPS_MAX 64u

/* The whole slabs of a WRITE of nblocks blocks from block on: how many, and how many blocks come before them. */
#define REF_SLABS_MAX (ENTRY_MAX_BLOCKS / SLAB_BLOCKS)
static inline uint32_t ref_head(uint64_t block)
{
    return (uint32_t)((SLAB_BLOCKS - block % SLAB_BLOCKS) % SLAB_BLOCKS);
}

static inline uint32_t ref_slabs(uint64_t block, uint32_t nblocks)
{
    return nblocks > ref_head(block) ? (nblocks - ref_head(block)) / SLAB_BLOCKS : 0;
}

#define SUPERBLOCK_MAGIC UINT64_C(0x5245505553444251) /* "QBDSUPER" */
#define SUPERBLOCK_BYTES (64u << 10)
#define SUPERBLOCK_COPIES 4u
#define SUPERBLOCK_STRIDE (16u << 10)

/* Feature masks: an unknown bit in incompat: refuse; in ro_compat: refuse to write (refuse, here); in compat: ignore. */
#define FEATURE_INCOMPAT_WRITE_REF UINT64_C(1) /* the WAL may hold WRITE_REF records; without it none is written */
#define FEATURES_INCOMPAT FEATURE_INCOMPAT_WRITE_REF /* that this version knows */
struct superblock {
    uint64_t magic;
    uint32_t version;
    uint32_t crc; /* of the page with crc = 0 */
    uint64_t generation; /* the copy with the highest valid one counts */
    struct uuid cluster;
    struct uuid identity;
    char name[NAME_MAX_BYTES];
    uint8_t salt[16]; /* seeds WAL header CRCs; never leaves the machine */
    uint64_t features_compat, features_ro_compat, features_incompat;
    uint32_t shard_count; /* 1 */
    uint32_t n_extents;   /* extent files that count; a file beyond them is a half-made one, to be made anew */
    uint64_t wal_bytes;
    uint64_t extent_bytes;
    uint64_t capacity_bytes; /* sum of extents up to which the store grows; 0: until the file system is full */
    uint32_t meta_pages;
    uint32_t complete; /* 1: format finished */
    uint64_t formatted_at; /* seconds since 1970, for people */
    uint8_t pad[3888];
};
static_assert(sizeof(struct superblock) == BLOCK_SIZE, "superblock is one page");

#define META_MAGIC UINT64_C(0x4154454d44425100) /* each kind adds its number */
enum meta_kind { META_ROOT = 1, META_GROUP = 2, META_BITMAP = 3, META_REGIONS = 4, META_LEAF = 5 };

#define META_PAGES_MAX 16384u

/* The checkpoint's root. In force: the valid one with the higher checkpoint number. */
struct root {
    uint64_t magic;
    uint32_t version;
    uint32_t crc;
    uint64_t checkpoint;
    /* WAL: from tail on batches are kept (for peers that catch up); from redo on their effects are not in this checkpoint */
    uint64_t tail_lsn, tail_seq, tail_prev_lsn;
    uint64_t redo_lsn, redo_seq;
    uint32_t tail_prev_crc; /* chain: header crc of the batch before tail */
    uint32_t n_groups;
    uint32_t bitmap_page0, n_bitmap_pages;
    uint32_t regions_page0, n_region_pages;
    uint32_t meta_crc; /* of the CRCs of all logical pages in force, in their order: a write of one that never came to its place is seen */
    uint32_t reserved32;
    uint64_t durable_seq; /* all batches of the WAL <= it were durable when this was written: what they refer to need not be looked at (docs/large-writes.md) */
    uint64_t reserved[2];
    uint8_t place[META_PAGES_MAX / 8];
    uint8_t pad[1928];
};
static_assert(sizeof(struct root) == BLOCK_SIZE, "root is one page");

/* Header of every other meta page and of leaves. */
struct meta_header {
    uint64_t magic; /* META_MAGIC + kind */
    uint32_t version;
    uint32_t crc; /* of the page with crc = 0 */
    uint64_t checkpoint; /* that wrote it */
    uint64_t group; /* leaves; else 0 */
    uint64_t number; /* logical page, or leaf number in the group (block / LEAF_BLOCKS) */
    uint64_t reserved[3];
};
static_assert(sizeof(struct meta_header) == 64, "meta_header has no padding");

#define GROUP_TAIL_RUNS 80u
#define GROUP_SINCE_NONE UINT64_MAX

/* A group at checkpoint `header.checkpoint`: all of ST1 that is not in the WAL from redo on. */
struct group_page {
    struct meta_header header;
    uint64_t group; /* 0: page not in use */
    uint64_t size_blocks;
    struct ballot promised;
    uint64_t max_lease_ns;
    struct log_pos applied;  /* the checkpoint's position ("base"): all entries <= it are in the extents */
    struct log_pos floor;    /* the log's position just below the first entry in the WAL from tail on */
    uint64_t fuzzy_end;
    struct membership committed;
    struct membership uncommitted; /* n_voters = 0: none */
    uint64_t retired; /* 1: this replica was a voter, and the committed membership has it no more; where the group went is the directory's business */
    uint32_t needs_copy;
    /* The slots above `applied` as of the checkpoint, by name: what the WAL from tail on does not give of them has lost its value. More runs than fit here: the WAL from redo on names the rest. */
    uint32_t n_tail;
    struct run tail[GROUP_TAIL_RUNS];
    uint64_t since; /* lowest applied slot from which a jump of the copy under way started; GROUP_SINCE_NONE: none was made */
    uint64_t jump;  /* slot that the last jump led to; 0: none ever */
    uint32_t scrub_next;    /* the scrub's pass goes on with this region; 0: none is under way */
    uint32_t scrub_passes;  /* completed */
    uint64_t scrub_done_at; /* when the last one was: seconds since 1970, for people; 0: never */
    uint8_t pad[184];
};
static_assert(sizeof(struct group_page) == BLOCK_SIZE, "group_page is one page");

#define BITMAP_BITS ((BLOCK_SIZE - sizeof(struct meta_header)) * 8)
struct bitmap_page {
    struct meta_header header;
    uint8_t used[BLOCK_SIZE - sizeof(struct meta_header)]; /* bit i: slab number * BITMAP_BITS + i is in use */
};
static_assert(sizeof(struct bitmap_page) == BLOCK_SIZE, "bitmap_page is one page");

/* One region's place. `mapped` tells without reading leaves which slabs exist, so that an append knows what space it will take. */
struct region_entry {
    uint64_t group;  /* 0: entry free */
    uint32_t region; /* block / REGION_BLOCKS */
    uint32_t unknown; /* bit l: leaf l may have unknown blocks since a jump (docs/rebuild.md); it need not exist */
    uint32_t leaf_slab[REGION_LEAVES / LEAVES_PER_SLAB]; /* SLAB_NONE: not there */
    uint32_t present; /* bit l: leaf l exists */
    uint32_t place;   /* bit l: which of its two places is in force */
    uint8_t mapped[REGION_SLABS / 8];
    uint32_t leaf_crc[REGION_LEAVES]; /* the header's CRC of each leaf in force: an older one that still stands there is not believed */
    uint64_t changed_at; /* no lower than the highest slot of an entry that touched the region */
};
static_assert(sizeof(struct region_entry) == 304, "region_entry has no padding");
#define REGIONS_PER_PAGE 13u
struct regions_page {
    struct meta_header header;
    struct region_entry entry[REGIONS_PER_PAGE];
    uint8_t pad[80];
};
static_assert(sizeof(struct regions_page) == BLOCK_SIZE, "regions_page is one page");

/* The map of 2 MiB: 32 slabs, 512 blocks. */
struct leaf {
    struct meta_header header;
    uint64_t changed_at[LEAF_CHUNKS]; /* no lower than the slot of the last entry that touched the chunk: exact, but for a new leaf, which takes the region's word */
    uint64_t version[LEAF_CHUNKS];    /* the jump for which the chunk's bad bits were set. While the region says that the leaf is unknown: another than the group's `jump`: all of the chunk is unknown */
    uint32_t slab[LEAF_SLABS];        /* SLAB_NONE: a hole, all its blocks zero */
    uint8_t zero[LEAF_BLOCKS / 8];    /* block reads as zero */
    uint8_t lost[LEAF_BLOCKS / 8];    /* no replica has it intact: EIO */
    uint32_t crc[LEAF_BLOCKS];
    uint8_t bad[LEAF_BLOCKS / 8];     /* contents unknown here (a jump went over it, this leaf was rebuilt after rot, or its slab could not be read): to be fetched from a peer */
    uint8_t pad[1632];
};
static_assert(sizeof(struct leaf) == BLOCK_SIZE, "leaf is one page");

/* ---- WAL ---- */

#define WAL_MAGIC UINT64_C(0x3148435441424251) /* "QBBATCH1" */
#define WAL_BATCH_MAX_BYTES (2u << 20)
#define WAL_IN_FLIGHT_MAX 4u
enum wal_flags {
    WAL_START = 1,     /* the first batch of an incarnation; what lay at or beyond its LSN before is void */
    WAL_PAD = 2,       /* nothing; its payload pages are not written; the ring goes on at its beginning */
    WAL_AFTER_PAD = 4, /* the batch before this one is a PAD: this front names the one before the PAD once more */
};

/* At the start of a batch, followed by its front: n_summaries wal_summary, then echoes (records); then by records (wal_record,
 * its body, padded to 8), all within desc_pages pages; then payload_pages pages of blocks, in the order of the WRITE records.
 * n_records counts echoes too. The header CRC covers all descriptor pages (crc = 0), seeded with the salt.
 * A batch ends at the ring's end or at least two pages before it, so that a PAD or START with a full front always fits. */
struct wal_batch {
    uint64_t magic;
    uint32_t version;
    uint32_t crc;
    uint64_t lsn, seq;
    uint64_t prev_lsn;
    uint32_t prev_crc;
    uint32_t flags;
    uint32_t desc_pages, payload_pages;
    uint32_t n_summaries, n_records;
    uint64_t durable_seq; /* all batches <= it were durable when this one was closed */
    uint64_t incarnation; /* counts starts of the daemon: higher than that of any batch seen at the start */
    uint64_t start_lsn;   /* of this incarnation's START: batches of lower incarnations at or beyond it are void */
    uint64_t redo_lsn;
    uint32_t desc_bytes;  /* used bytes of the descriptor pages */
    uint32_t front_bytes; /* of the summaries and echoes */
};
static_assert(sizeof(struct wal_batch) == 104, "wal_batch has no padding");

#define WAL_FRONT_MAX_BYTES (2u * BLOCK_SIZE - (uint32_t)sizeof(struct wal_batch))

/* What the PREVIOUS batch did to a group: names what is lost when that one is rotten. A batch holds, per group, at most one
 * contiguous range of appends, of one ballot e, and a CUT only before them (otherwise the WAL closes it and begins another).
 * Refilled entries are named by summaries of their own (WAL_SUMMARY_REFILL: only group, first, last and e count). Group
 * creations, FUZZY, NEEDS_COPY and MEMBER entries of the previous batch are repeated whole, as echoes. */
enum wal_summary_flags { WAL_SUMMARY_REFILL = 1 };
struct wal_summary {
    uint64_t group;
    uint64_t flags;
    uint64_t cut;         /* 0: none, else slots >= cut were cut before the appends */
    uint64_t first, last; /* appended; 0: none */
    uint64_t e_round;
    uint8_t e_proposer[16];
    uint64_t promised_round; /* as of the end of that batch; 0: no PROMISE since the WAL's tail */
    uint8_t promised_proposer[16];
    uint64_t max_lease_ns;
    uint64_t commit; /* as of the end of that batch; 0: no COMMIT since the WAL's tail */
};
static_assert(sizeof(struct wal_summary) == 104, "wal_summary has no padding");

enum wal_record_type {
    WAL_ENTRY = 1,   /* entry_format, then its CRCs or membership; its payload in the payload pages. All entry kinds: WRITE, TRIM, ZERO, SESSION, MEMBER */
    WAL_WRITE_REF = 2, /* a WRITE whose whole slabs were written to the extents: as ENTRY, then the number of each (u32); its payload pages are the blocks outside of them */
    WAL_PROMISE = 3, /* wal_promise */
    WAL_CUT = 4,     /* wal_slot: slots >= slot are gone */
    WAL_COMMIT = 5,  /* wal_slot: slots <= slot are committed */
    WAL_FUZZY = 6,   /* wal_slot: fuzzy_end */
    WAL_SLABFREE = 7, /* reserved: what a batch's references free is found from the records themselves */
    WAL_GROUP = 8,   /* wal_group: the group was created here */
    WAL_NEEDS_COPY = 9, /* wal_needs_copy */
};

enum wal_record_flags {
    WAL_REFILL = 1, /* ENTRY, WRITE_REF: refilled or copied forward: the slot was named before */
    WAL_ECHO = 2,   /* a record of the previous batch, repeated: counts only when that one is rotten */
};

struct wal_record {
    uint16_t type;
    uint16_t flags;
    uint32_t body_bytes;
};

struct wal_promise {
    uint64_t group;
    uint64_t round;
    uint8_t proposer[16];
    uint64_t max_lease_ns;
};

struct wal_slot {
    uint64_t group;
    uint64_t slot;
};

/* Counts only when `slot` is above the applied slot of the checkpoint that replay starts from: an old one never undoes a completed copy. */
struct wal_needs_copy {
    uint64_t group;
    uint64_t slot; /* applied + 1 when it was written */
    uint64_t on;   /* 1: the log does not reach what peers' logs hold; 0: it does after all */
};

struct wal_group {
    uint64_t group;
    uint64_t size_blocks;
    struct membership membership; /* this replica among the learners: it needs a copy from the beginning */
};

#endif
