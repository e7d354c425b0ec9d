/* What the files of the store share: its structures, and the calls between them.
 *
 * - store.c: groups, persistence, durability, room and credits
 * - store_log.c: slots of a group's log: index and runs
 * - store_open.c, store_replay.c: from disk to memory; replay of the WAL
 * - store_format.c: a new data directory's meta
 * - overlay.c: what was applied and not yet written back, in memory
 * - map.c: regions, leaves and their cache
 * - slabs.c: bitmap, reservations, growth
 * - large.c, large_value.c, kept_slabs.c: writes that go to disk once (docs/large-writes.md)
 * - write_back.c, write_pace.c: the frozen overlay to the extents, leaves to their other places; how fast
 * - checkpoint.c: the cycle: commit records, freeze, write-back, meta, root
 * - store_read.c, store_repair.c: reads; damaged blocks and their repair
 * - unknown.c: which blocks are unknown since a jump
 * - store_scrub.c, store_digest.c: reading everything back; comparison with peers (docs/rebuild.md section 9)
 * - store_jump.c, store_copy.c, store_donor.c: the jump, the copy at the target, the copy at the donor (docs/rebuild.md)
 *
 * One region (64 MiB of a group's addresses) carries all that is known about it in memory: overlay, cached leaves,
 * reservations, damage. So an entry costs one lookup, and a checkpoint goes through regions in order of addresses. */
#ifndef QBD_REPLICA_STORE_INTERNAL_H
#define QBD_REPLICA_STORE_INTERNAL_H

#include "base/crc32c.h"
#include "replica/store.h"
#include "replica/superblock.h"

#define STORE_SLOTS_MAX (1u << 18) /* a group's log is kept to this many slots; credits say so */
#define COMMIT_EVERY_SLOTS 64u     /* a COMMIT record among the appends */
#define STORE_SLOTS_MARGIN 4096u   /* room left for streams that do not look at credits */
#define WRITE_BACK_DEPTH_MAX 64u
#define WRITE_BACK_MERGE_BLOCKS 32u /* 128 KiB */
#define WRITE_BACK_GAP_BLOCKS 2u    /* so many are written over between two of fresh slabs */
#define BATCH_LEAVES 512u           /* leaves that one turn of write-back takes in hand */
#define BATCH_BLOCKS 8192u
#define LOADS_IN_FLIGHT 32u
/* While clients are there: pieces that nobody notices */
#define GENTLE_MERGE_BLOCKS 16u
#define GENTLE_BATCH_LEAVES 64u
#define GENTLE_BATCH_BLOCKS 512u
#define GENTLE_LOADS 4u
#define META_IN_FLIGHT 16u
#define RELOCATE_TRIES 4u
#define REGIONS_SPARE 8u /* entries of the region table that credits never give out */
#define GROW_RETRY_NS (30 * NS_PER_S)
#define COPY_CLEAN_CYCLE 8u /* a cycle begins when a copy has brought this part of the overlay */
#define COPY_CLEAN_MOST 4u  /* ... and this part is the most that is requested, waiting or not yet written back */
#define COPY_CREDIT_MIN (UINT64_C(32) << 20) /* what a copy leaves to writers, or a sixteenth of a tiny store */
static_assert(REGION_LEAVES * LEAF_CHUNKS == 64, "a region's verdicts are one word");

/* ---- bits ---- */

static inline bool bit_get(const void *map, uint64_t i)
{
    return ((const uint8_t *)map)[i / 8] >> (i % 8) & 1;
}

static inline void bit_set(void *map, uint64_t i)
{
    ((uint8_t *)map)[i / 8] |= (uint8_t)(1u << (i % 8));
}

static inline void bit_clear(void *map, uint64_t i)
{
    ((uint8_t *)map)[i / 8] &= (uint8_t) ~(1u << (i % 8));
}

/* Bits of one slab (16 blocks) in a leaf's bitmap. */
static inline uint16_t slab_bits(const uint8_t map[LEAF_BLOCKS / 8], unsigned i)
{
    return (uint16_t)(map[2 * i] | map[2 * i + 1] << 8);
}

static inline void slab_bits_set(uint8_t map[LEAF_BLOCKS / 8], unsigned i, uint16_t bits)
{
    map[2 * i] = (uint8_t)bits;
    map[2 * i + 1] = (uint8_t)(bits >> 8);
}

/* Memory that the store can't go on without. Zeroed; aborts when there is none. */
void *store_calloc(size_t n, size_t size);
void *store_realloc(void *p, size_t size);

/* Fixed-size objects that come and go with every block. */
struct pool {
    void *free;
    size_t size;
};
void *pool_get(struct pool *p); /* contents undefined */
void pool_put(struct pool *p, void *o);
void pool_drain(struct pool *p);

/* ---- log ---- */

enum slot_state { SLOT_NONE = 0, SLOT_LOST = 1, SLOT_VALUE = 2 };

/* The whole slabs of a WRITE that went to disk once (docs/large-writes.md). */
struct slot_ref {
    uint32_t n;
    uint32_t slab[REF_SLABS_MAX];
    bool owned;   /* not applied: nobody else knows its slabs */
    bool written; /* they have the value */
    bool compact; /* while recovering: the entry's payload is only the blocks outside of them */
    bool gone;    /* one of them holds something else by now: peers can't get the value here */
};

/* kept_slabs.c: whose value a slab holds. */
struct kept_slab {
    uint32_t slab; /* SLAB_NONE: none */
    uint32_t page; /* the group's */
    uint64_t slot;
};

struct slot_info {
    struct entry *entry; /* a reference until it is applied; after that the value is read back from its place */
    struct slot_ref *ref; /* NULL: its value is in the WAL */
    struct wal_place place;
    uint32_t ballot; /* while recovering: index into group.ballots */
    uint8_t state;
    bool pinned; /* copied forward: the entry stays in memory until its new place is durable */
};

/* A jump is in force for good when both roots have it: a newest root that rots may not lead back before it. */
enum jump_state { JUMP_NONE, JUMP_FIRST_ROOT, JUMP_SECOND_ROOT };
enum complete_state { COMPLETE_NONE, COMPLETE_WANTED, COMPLETE_IN_IMAGE };

struct group {
    struct store *store;
    uint64_t id;
    unsigned page; /* its logical meta page */
    uint64_t size_blocks;
    struct ballot promised;
    uint64_t max_lease_ns;
    struct paxos_log log;    /* base = floor */
    uint64_t last;           /* of the log */
    struct slot_info *slots; /* slot s at s & (slots_cap - 1); floor < s <= last */
    uint64_t slots_cap;
    uint32_t n_lost;
    uint64_t applied;
    struct membership committed, uncommitted; /* uncommitted.n_voters = 0: none */
    uint64_t fuzzy_end;
    bool needs_copy, retired;
    uint64_t durable_seq; /* largest seq of the turn's durable records, to be reported */
    bool durable_reported;
    uint64_t slot_limit; /* as last published */
    uint64_t commit_logged; /* by the last COMMIT record among appends */
    unsigned n_repairs;  /* waiting for `applied` */
    unsigned n_copies;   /* images waiting for it */
    /* a copy */
    uint64_t since, jump; /* as in the group page */
    uint64_t n_unknown;   /* leaves */
    uint64_t image_floor; /* images for bad bits of an earlier life must be no older */
    uint64_t copied_blocks, unchanged_blocks;
    uint64_t clean_blocks[2]; /* installed images in an overlay generation, zeroes included */
    bool held; /* from the drain until the jump is over: nothing is installed */
    enum jump_state jumping;
    enum complete_state completing;
    uint64_t needs_copy_token;
    void (*needs_copy_fn)(void *user, int err);
    void (*drain_fn)(void *user);
    void (*jump_fn)(void *user);
    void (*complete_fn)(void *user, int err);
    void *needs_copy_user, *drain_user, *jump_user, *complete_user;
    struct store_scrub_place scrub;
    uint64_t n_disowned; /* blocks, in memory alone: while there are any, a restart scrubs from the beginning and finds them again */
    /* the checkpoint under way */
    struct group_page *image;           /* as of the freeze; 4 KiB-aligned */
    uint64_t copied_first, copied_last; /* slots copied forward; 0: none */
    uint64_t next_floor;
    /* recovery */
    struct ballot *ballots;
    uint32_t n_ballots, cap_ballots;
    uint64_t replay_commit;
    struct membership page_uncommitted;
    uint32_t n_page_tail;
    struct run page_tail[GROUP_TAIL_RUNS];
    struct log_pos page_applied;
};

/* ---- overlay ---- */

struct opage {
    struct buf *buf; /* a reference */
    uint32_t off;
    uint32_t crc;
};

struct oslab {
    struct opage page[SLAB_BLOCKS];
    uint16_t mask; /* which of them are there */
};

/* A slab that was written whole when its entry came: its blocks stand there already, but for those that were overwritten since. */
struct oref {
    uint32_t slab;
    uint16_t mask; /* which blocks it is still the newest of */
    uint32_t crc[SLAB_BLOCKS];
};

/* What was applied to one leaf's blocks since the generation began. A block has a page, or its zero bit, or its lost
 * bit, or its bit in a reference, or none (then an older generation or the disk has it). */
struct oleaf {
    uint64_t changed_at[LEAF_CHUNKS];
    uint64_t zero[LEAF_BLOCKS / 64];
    uint64_t trim[LEAF_BLOCKS / 64]; /* of the zero ones: its space may go */
    uint64_t lost[LEAF_BLOCKS / 64]; /* no replica has it */
    uint8_t touch; /* bit per chunk: its bad bits are to become explicit, though nothing of it may be here */
    struct oslab **slab;             /* LEAF_SLABS of them, or NULL: no pages */
    uint32_t n_pages;
    struct oref **ref;               /* likewise, or NULL: no references */
    uint32_t n_refs;
};

enum overlay_state { OVERLAY_NONE, OVERLAY_PAGE, OVERLAY_ZERO, OVERLAY_LOST, OVERLAY_REF };

/* ---- map ---- */

struct cached_leaf {
    struct buf *buf;   /* from store.leaf_pages */
    struct leaf *page; /* its bytes */
    struct region *region;
    unsigned number; /* in the region */
    unsigned pins;
    bool loading;
    bool retried;
    bool rotten;         /* made up because the disk's is unreadable: every block is bad */
    struct list lru;     /* while not pinned */
    struct list waiters; /* struct leaf_wait, while loading */
    struct iovec iov;
    struct io_op op;
    struct store *store;
};

/* What a cached leaf costs. */
#define CACHED_LEAF_BYTES (BLOCK_SIZE + sizeof(struct cached_leaf) + sizeof(struct buf))

struct leaf_wait {
    struct list link;
    void (*fn)(struct leaf_wait *w);
    struct cached_leaf *leaf; /* pinned for the waiter */
};

struct bad_leaf {
    uint64_t bits[LEAF_BLOCKS / 64];
    uint64_t disowned[LEAF_BLOCKS / 64]; /* of them: good by its checksum, but the majority of the replicas has something else */
    uint64_t given_up[LEAF_BLOCKS / 64]; /* of them: nobody could give it to the copy, which does not wait for it */
    uint64_t since; /* applied when the last of them was found: an image must be no older */
    unsigned n;
};

struct region {
    struct group *group;
    struct region *hash_next;
    struct region_entry *entry; /* in store.regions: its place in the table */
    struct oleaf **overlay[2]; /* [gen][leaf]; NULL while that generation has no leaf here */
    struct list overlay_link[2]; /* in store.overlay_regions when overlay[gen] has a leaf */
    unsigned n_overlay[2];
    struct cached_leaf *cached[REGION_LEAVES];
    uint32_t reserved[REGION_LEAVES]; /* slabs promised to entries, not mapped yet */
    bool reserved_leaf_slab[REGION_LEAVES / LEAVES_PER_SLAB];
    bool in_reserved;
    struct list reserved_link;
    struct bad_leaf **bad; /* [leaf]; NULL while no leaf has damage */
    unsigned n_bad;
    uint64_t unchanged; /* bit per chunk of an unknown leaf: a donor said that it did not change: it is known */
};

static inline struct oleaf *overlay_leaf(const struct region *r, unsigned gen, unsigned l)
{
    return r->overlay[gen] ? r->overlay[gen][l] : NULL;
}

static inline struct bad_leaf *bad_leaf(const struct region *r, unsigned l)
{
    return r->bad ? r->bad[l] : NULL;
}

struct extent {
    struct dev *dev;
    bool dirty; /* written since the last flush */
    bool unfilled; /* allocated alone: a durable write to it takes long */
};

/* ---- the cycle: write-back, then checkpoint ---- */

enum cycle_state {
    CYCLE_IDLE,
    CYCLE_COMMIT, /* until the commit records are durable and older reads are over */
    CYCLE_LOAD,
    CYCLE_WRITE,
    CYCLE_RELOCATE,
    CYCLE_LEAVES,
    CYCLE_FLUSH,
    CYCLE_META,
    CYCLE_META_FLUSH,
    CYCLE_ROOT,
};

struct batch_leaf {
    struct leaf_wait wait;
    struct region *region;
    unsigned number;
    bool create;           /* not on disk yet */
    uint32_t failed_slabs; /* writing them failed: to be relocated */
};

struct batch_block {
    uint64_t place; /* slab * SLAB_BLOCKS + index: the order on disk */
    const struct opage *page;
    uint32_t leaf; /* index in the batch */
    uint32_t slab; /* of the leaf: 0..LEAF_SLABS-1 */
    bool fresh;    /* a slab that this batch mapped: nothing else in it is referred to */
};

struct write_op {
    struct io_op op;
    struct store *store;
    uint32_t first, n; /* blocks, or the leaf's index */
    bool busy;
    uint64_t page_number; /* meta */
    struct buf *buf;
    struct iovec iov[WRITE_BACK_MERGE_BLOCKS];
};

struct relocation {
    struct io_op op;
    struct iovec iov;
    struct buf *buf; /* the slab's new contents */
    uint32_t leaf, slab, block;
    uint32_t target;
    unsigned tries;
    bool busy;
};

/* How far the cycle's write-back is, beside what has been used up since it began. */
struct write_pace {
    uint64_t total, done; /* bytes: blocks and leaves */
    uint64_t began_ns;
    uint64_t wal_lsn, wal_budget; /* appends from there on; when they have taken so many bytes the cycle is to be over */
    uint64_t fresh_taken, fresh_budget; /* likewise, slabs for large writes */
    struct timer timer;
};

struct cycle {
    enum cycle_state state;
    bool again; /* asked for meanwhile */
    bool advancing;
    uint64_t token;      /* the records that must be durable first */
    uint64_t read_epoch; /* reads of this and earlier epochs must be over */
    uint64_t mutations;
    uint64_t loose_left; /* slabs that the last one could not map */
    uint64_t refs_applied; /* before it */
    struct wal_position cut, redo, tail;
    uint64_t hold_lsn; /* the tail stays at or before it; UINT64_MAX: anywhere */
    struct region **regions; /* with frozen leaves, in order */
    uint32_t n_regions, region, leaf;
    struct batch_leaf *leaves;
    uint32_t n_leaves, next_load, next_leaf;
    uint32_t loads, leaf_error;
    struct batch_block *blocks;
    uint32_t n_blocks, next_block, cap_blocks;
    unsigned in_flight;
    struct relocation relocation;
    uint32_t next_extent;
    uint32_t next_page;
    uint64_t started_head;
    struct write_pace pace;
    struct root *root; /* the next one, 4 KiB-aligned */
    struct write_op op[WRITE_BACK_DEPTH_MAX];
};

struct repair_wait {
    struct list link;
    struct group *group;
    uint64_t block, image_slot;
    struct buf *buf; /* NULL: zero */
    uint32_t crc;
    void (*done)(void *user, int err);
    void *user;
};

struct token_record {
    uint64_t token, seq;
    struct group *group;
};

struct opening;

struct store {
    struct reactor *reactor;
    struct dir *dir;
    struct dev *superblock_dev, *wal_dev, *meta;
    struct extent *extents;
    struct superblock sb;
    struct store_options options;
    struct store_callbacks cb;
    struct wal *wal;
    struct root *root; /* in force; 4 KiB-aligned */
    bool ready, dead;
    uint64_t clients_until_ns; /* a client's request was here less than CLIENTS_NS before */

    struct group *groups[GROUPS_MAX]; /* by logical page; NULL: free */
    unsigned groups_end;              /* pages from here on are free */
    uint64_t group_ids[GROUPS_MAX];   /* 0: free */

    uint64_t token, durable_token;
    struct token_record *fifo; /* ring */
    uint64_t fifo_head, fifo_tail, fifo_cap;

    /* meta pages */
    uint8_t meta_dirty[META_PAGES_MAX / 8];
    uint32_t n_meta_pages; /* that are in use */
    uint32_t meta_crc[META_PAGES_MAX]; /* the header's of each logical page in force, or about to be with the next root */

    /* slabs */
    uint8_t *used, *pending; /* bitmaps: in use (pending ones too); to become free with the next root */
    uint64_t slabs_per_extent, slabs_total, slabs_free, slabs_reserved, slab_cursor;
    uint32_t *pending_list;
    uint64_t n_pending, cap_pending;
    struct dev_create_op create_op;
    struct superblock grown;
    bool growing, grow_blocked;
    uint8_t *loose, *more, *kept; /* bitmaps: taken by a large write and mapped by no leaf yet; of these, that its address had none; in kept_table */
    uint64_t n_loose, n_more, n_kept_free;
    uint64_t fresh_taken, refs_applied; /* so many since the start */
    bool fresh_wanted;    /* a large write found none: some are to be ahead of need from now on */
    struct kept_slab *kept_table; /* kept_slabs.c: a hash table; cap is a power of two */
    uint32_t kept_cap, n_kept;
    bool superblock_read; /* by the scrub: no growth meanwhile */
    struct meta_check *meta_check; /* the scrub's read of meta under way: one at a time */
    struct timer grow_timer;

    /* map */
    struct region_entry *regions;
    uint32_t regions_cap, regions_used;
    struct region **region_hash;
    uint64_t region_hash_size, n_regions;
    struct region *last_region;
    struct list leaf_lru;
    struct arena *leaf_pages; /* apart from the reactor's: the cache has a bound of its own */
    uint64_t n_leaves, leaves_max;
    struct list reserved_regions;

    /* overlay */
    unsigned gen; /* the active one; the other is frozen or empty */
    struct list overlay_regions[2];
    uint64_t overlay_bytes[2];
    bool trimmed; /* the active generation has a TRIM: its checkpoint may free slabs */
    struct pool oleaf_pool, oslab_pool, slab_array_pool, oleaf_array_pool, reading_pool, oref_pool;

    /* large writes */
    struct list large_writes, value_reads;
    uint64_t n_value_slabs; /* that are being read */
    uint32_t *dropped[2]; /* slabs that no leaf will map, by the overlay's generation: free with the root that has it */
    uint32_t n_dropped[2], cap_dropped[2];
    unsigned n_failed; /* large writes that came to nothing, and whose values are not in the WAL yet */
    uint64_t hold_from, hold_until; /* tokens: records from `from` on (0: none) count as durable only when `until` is, and nothing has failed */
    uint64_t hold_bytes;

    /* reads */
    uint64_t read_epoch;
    struct list readings;        /* calls of store_read() that have not been answered: the store is not closed before they are */
    uint64_t reads_in_flight[2]; /* by epoch & 1: reads of data blocks, and the scrub's of leaves and meta */
    struct list repairs;

    /* copies: requests (struct pending in store_copy.c) in the order in which they were begun */
    struct list copies;
    uint64_t copy_bytes;     /* requested or waiting */
    uint64_t clean_bytes[2]; /* installed, by overlay generation */

    struct cycle cycle;
    uint64_t mutations; /* what a checkpoint would save is counted */
    uint64_t idle_mutations;
    struct timer idle_timer;
    struct turn_hook hook;
    bool idle_set, kick_set, told_full;
    struct credits credits; /* as last published; slot_limit is per group */
    bool credits_published;
    void (*close_done)(void *user);
    void *close_user;
    bool closing;
    struct opening *opening;
    uint64_t replay_unknown; /* a group that the WAL has entries of and nobody knows */
    bool replay_misrefers;   /* a record refers to a slab that can't be its */
    unsigned fill_page;      /* where the end of recovery is: group and slot */
    uint64_t fill_slot;

    uint64_t checkpoints_done, large_bytes, write_back_bytes, bad_blocks, repaired_blocks, dirty_leaves;
};

/* store.c */
void store_fatal(struct store *s, int err, const char *what);
struct group *store_group(const struct store *s, uint64_t id);
struct group *store_group_new(struct store *s, const struct wal_group *g, unsigned page);
void store_set_committed(struct store *s, struct group *g, const struct membership *m);
uint64_t store_next_token(struct store *s);
void store_touch(struct store *s);         /* after each change of state: idle timer, thresholds */
void store_schedule_kick(struct store *s); /* look at thresholds, credits and closing at the end of this turn */
void store_apply(struct store *s, struct group *g, uint64_t through);
void store_publish(struct store *s); /* credits that changed */
void store_wal_durable(void *user, uint64_t token);
void store_wal_placed(void *user, const struct entry *e, struct wal_place place);
void store_wal_error(void *user, int err);

/* store_log.c */
void runs_append(struct paxos_log *l, uint64_t slot, const struct ballot *e);
void runs_cut(struct paxos_log *l, uint64_t slot); /* slots >= slot are gone */
void runs_trim(struct paxos_log *l, uint64_t floor);
struct slot_info *log_slot(struct group *g, uint64_t slot); /* floor < slot <= last */
/* Makes room for slots up to `last` and clears the new ones. */
void log_extend(struct group *g, uint64_t last);
void log_cut(struct group *g, uint64_t slot);
void log_raise_floor(struct group *g, uint64_t floor);
void log_free(struct group *g);

/* overlay.c */
void overlay_apply(struct store *s, struct group *g, const struct entry *e, const struct slot_ref *ref);
/* Images: content of the applied slot that no entry brings. changed_at: the donor's; 0: the own one stands. */
void overlay_put(struct store *s, struct region *r, uint64_t block, struct buf *buf, uint32_t off, uint32_t crc,
                 uint64_t changed_at);
void overlay_put_zero(struct store *s, struct region *r, uint64_t block, bool trim, uint64_t changed_at);
void overlay_put_lost(struct store *s, struct region *r, uint64_t block, uint64_t changed_at);
/* Has write-back make the chunk's bad bits explicit. */
void overlay_touch(struct store *s, struct region *r, unsigned l, unsigned chunk);
bool overlay_has_group(const struct store *s, const struct group *g);
enum overlay_state overlay_find(const struct store *s, const struct region *r, uint64_t block,
                                const struct opage **ret);
/* Of a block that is OVERLAY_REF: where it stands. */
const struct oref *overlay_find_ref(const struct store *s, const struct region *r, uint64_t block);
void overlay_drop_leaf(struct store *s, struct region *r, unsigned gen, unsigned l);
bool overlay_is_empty(const struct store *s, unsigned gen);

/* slabs.c */
void slabs_init(struct store *s);
void slabs_count(struct store *s); /* after the bitmap was loaded */
void slabs_free_memory(struct store *s);
uint32_t slab_alloc(struct store *s);              /* SLAB_NONE: there is none */
/* n of them for a large write, neighbours if there are some: loose. False, and none: not now. */
MUST_USE bool slabs_take_fresh(struct store *s, uint32_t n, uint32_t *ret);
void slab_is_more(struct store *s, uint32_t slab); /* that was taken so, for an address that has none */
/* Recovery: it was taken for a large write that counts. False: it is somebody else's. */
MUST_USE bool slab_claim(struct store *s, uint32_t slab);
void slab_settle(struct store *s, uint32_t slab); /* from loose to in use for good */
/* How many, from the first on, follow each other on one device. */
uint32_t slabs_neighbours(const struct store *s, const uint32_t *slab, uint32_t n);
void slab_release(struct store *s, uint32_t slab); /* free when the next root is durable */
void slabs_promote(struct store *s);               /* it is */
void slabs_reserve_entry(struct store *s, struct group *g, const struct entry *e, const struct slot_ref *ref);
void slabs_reserve_block(struct store *s, struct region *r, uint64_t block);
/* How many slabs the blocks of one leaf would take that are neither mapped nor reserved. */
uint64_t slabs_needed(const struct region *r, uint64_t block, uint32_t nblocks);
void slabs_reserve_leaf(struct store *s, struct region *r, unsigned l); /* the slab that the leaf itself stands in */
void slabs_reserve_again(struct store *s); /* all reservations, from what is in memory */
void slabs_take_reservation(struct store *s, struct region *r, unsigned l, unsigned slab);
void slabs_take_leaf_reservation(struct store *s, struct region *r, unsigned l);
uint64_t slabs_to_spare(const struct store *s); /* neither promised nor kept back */
uint64_t slabs_credit(const struct store *s);
/* So few to give that a front end may hold writes back. */
bool slabs_are_low(const struct store *s);
/* That are free with a root, without anybody's doing: given up, or replaced by what a large write took. */
uint64_t slabs_returning(const struct store *s);
/* So few to give that a front end may be refusing writes, and growth is no help. */
bool slabs_are_short(const struct store *s);
bool slabs_must_grow(const struct store *s);
/* Half of the reserve is used up: what comes from a stream that does not depend on this replica's credit must wait. */
bool slabs_are_out(const struct store *s);
bool slabs_can_grow(const struct store *s);
void slabs_maybe_grow(struct store *s);
void slabs_pace_growth(struct store *s); /* now and then, while one is being made */
void slabs_fill_page(const struct store *s, uint32_t index, struct bitmap_page *ret);
static inline struct dev *slab_dev(const struct store *s, uint64_t slab)
{
    assert(slab < s->slabs_total);
    return s->extents[slab / s->slabs_per_extent].dev;
}
static inline uint64_t slab_offset(const struct store *s, uint64_t slab)
{
    return slab % s->slabs_per_extent * SLAB_BYTES;
}
static inline void slab_mark_dirty(struct store *s, uint64_t slab)
{
    s->extents[slab / s->slabs_per_extent].dirty = true;
}

/* large.c */
/* Writes the entry's whole slabs to fresh ones and appends its record, when that can be done. False: nothing was done. */
MUST_USE bool large_append(struct store *s, struct group *g, struct entry *e, uint64_t token);
void large_forget(struct group *g, uint64_t slot, struct slot_info *i);
void large_drop_slab(struct store *s, uint32_t slab);               /* no leaf maps it, and none will */
/* The WAL says that records through `token` are durable: through which they are with their slabs. */
uint64_t large_on_durable(struct store *s, uint64_t token);
void large_release_dropped(struct store *s, unsigned gen);          /* the generation is frozen */
bool large_wants_cycle(const struct store *s);
void large_free(struct store *s);

/* large_value.c */
/* The value of an applied slot with a reference: as store_value. -ESTALE: it was overwritten since. */
void large_value(struct store *s, struct group *g, uint64_t slot, const struct ballot *e, void (*fn)(void *user, struct entry *e, int err), void *user);
/* Recovery: reads the slabs of an entry that is not applied. An error: its value is lost. */
void large_fill(struct store *s, struct group *g, uint64_t slot, void (*fn)(void *user, struct entry *e, int err), void *user);
bool large_is_read(const struct store *s, uint64_t slab);
void large_values_free(struct store *s);

/* kept_slabs.c */
void kept_add(struct store *s, const struct group *g, uint64_t slot, const struct slot_ref *ref);
void kept_remove(struct store *s, const struct group *g, uint64_t slot, const struct slot_ref *ref);
/* It is about to hold something else. */
void kept_forget(struct store *s, uint32_t slab);
bool kept_holds(const struct store *s, const struct group *g, uint64_t slot, const struct slot_ref *ref);

/* map.c */
struct region *region_find(struct store *s, const struct group *g, uint64_t number);
/* NULL: the region table is full. */
struct region *region_make(struct store *s, struct group *g, uint64_t number);
struct region *region_adopt(struct store *s, struct group *g,
                            struct region_entry *e); /* recovery; NULL: it is there already */
void region_dirty(struct store *s, const struct region *r);
static inline void region_touch(struct store *s, struct region *r, uint64_t slot)
{
    if (r->entry->changed_at >= slot)
        return;
    r->entry->changed_at = slot;
    region_dirty(s, r);
}
static inline bool leaf_present(const struct region *r, unsigned l)
{
    return r->entry->present >> l & 1;
}
static inline uint64_t leaf_number(const struct region *r, unsigned l)
{
    return (uint64_t)r->entry->region * REGION_LEAVES + l;
}
/* A leaf that is on disk or in the cache. True: w->leaf is there, pinned. False: w->fn is called later. A leaf that
 * can't be read comes as one whose blocks are all bad. */
bool leaf_get(struct store *s, struct region *r, unsigned l, struct leaf_wait *w);
/* A new, empty leaf in the cache, pinned. */
struct cached_leaf *leaf_make(struct store *s, struct region *r, unsigned l);
void leaf_unpin(struct store *s, struct cached_leaf *c);
void leaf_chill(struct store *s, const struct region *r, unsigned l); /* it was needed once */
/* Device and offset of one of its two places. */
struct dev *leaf_place(const struct store *s, const struct region *r, unsigned l, unsigned bit, uint64_t *ret_off);
uint64_t leaf_own_place(const struct store *s, const struct region *r, unsigned l, unsigned bit);
void map_free(struct store *s);

/* unknown.c */
static inline bool leaf_unknown(const struct region *r, unsigned l)
{
    return r->entry->unknown >> l & 1;
}
/* Blocks of the chunk that lie within the volume. */
uint32_t chunk_blocks(const struct region *r, unsigned l, unsigned c);
/* Is the chunk unknown as a whole, but for what the overlay has? p: the leaf; NULL: there is none. */
bool chunk_unknown(const struct region *r, unsigned l, unsigned c, const struct leaf *p);
/* Does the leaf's own page leave the block's content open (unknown since a jump, or bad)? */
static inline bool block_unknown(const struct region *r, unsigned l, unsigned i, const struct leaf *p)
{
    return chunk_unknown(r, l, i / CHUNK_BLOCKS, p) || (p && bit_get(p->bad, i));
}
/* Marks leaves of a jump. */
void unknown_mark(struct store *s, struct region *r, uint32_t leaves);
/* Before write-back changes the leaf of an unknown region: bad bits of the chunks that it touches become explicit. */
void unknown_make_explicit(struct region *r, unsigned l, struct leaf *p, const struct oleaf *o);
/* Clears the region's bit when all of the leaf is known. */
void unknown_settle(struct store *s, struct region *r, unsigned l, const struct leaf *p);

/* write_back.c */
void write_back_begin(struct store *s); /* after the freeze */
void write_back_advance(struct store *s);
void write_back_free(struct store *s);

/* write_pace.c */
/* wal_budget: how many bytes of appends the cycle may take at most, where room allows it. */
void write_pace_begin(struct store *s, uint64_t wal_budget);
void write_pace_end(struct store *s);
bool write_pace_is_gentle(const struct store *s);
/* False: not now; cycle_advance is called when it may be. */
bool write_pace_allows(struct store *s);
void write_pace_took(struct store *s, uint64_t bytes);
unsigned write_pace_depth(const struct store *s);

/* checkpoint.c */
bool cycle_wanted(const struct store *s, bool groups); /* groups: look at their logs, too */
void cycle_start(struct store *s);
void cycle_advance(struct store *s);
bool store_dirty(const struct store *s);
uint64_t store_wal_keep(const struct store *s); /* old log behind redo, for peers that catch up */

/* store_read.c: the epoch that a read of the disk belongs to; a checkpoint writes nothing before all reads from before it are over */
size_t reading_bytes(void);
uint64_t reads_begin(struct store *s);
void reads_over(struct store *s, uint64_t epoch);

/* store_repair.c */
struct bad_leaf *bad_leaf_make(struct region *r, unsigned l);
void bad_found(struct store *s, struct region *r, unsigned l, const uint64_t bits[LEAF_BLOCKS / 64]);
void bad_cleared(struct store *s, struct region *r, unsigned l, unsigned first, unsigned n);
void bad_given_up(struct store *s, struct region *r, unsigned l, unsigned i);
void repairs_on_applied(struct store *s, struct group *g);
void repairs_drop(struct store *s, struct group *g); /* a jump: -ECANCELED */
void repairs_free(struct store *s);

/* store_digest.c */
/* Is the block's content not what the majority of the replicas has? */
static inline bool block_disowned(const struct region *r, unsigned l, unsigned i)
{
    const struct bad_leaf *b = bad_leaf(r, l);
    return b && bit_get(b->disowned, i);
}

/* store_donor.c */
/* No lower than the last slot that changed the chunk. p: the leaf, or NULL: not at hand, or there is none. */
uint64_t chunk_changed_at(const struct region *r, unsigned l, unsigned c, const struct leaf *p);

/* store_jump.c */
void jump_poll(struct store *s); /* at the end of a turn without a cycle: drains that are over, before another begins */
void jump_on_root(struct store *s, struct group *g);

/* store_copy.c */
void copies_on_applied(struct store *s, struct group *g);
void copies_drop(struct store *s, struct group *g);
void copies_reserve_again(struct store *s);
void copies_free(struct store *s);
void copy_on_root(struct store *s, struct group *g);
void copy_cancel_completion(struct group *g);

/* store_open.c */
void page_seal(struct meta_header *h, enum meta_kind kind, uint64_t checkpoint, uint64_t group, uint64_t number);
bool page_ok(const struct meta_header *h, enum meta_kind kind, uint64_t group, uint64_t number, uint64_t checkpoint);
void root_seal(struct root *r);
static inline uint64_t meta_place(uint64_t page, bool bit)
{
    return (2 + 2 * page + bit) * BLOCK_SIZE;
}
void opening_begin(struct store *s);
void opening_free(struct store *s);

/* store_replay.c */
void replay_begin(struct store *s);
void replay_seed(struct store *s, struct group *g, const struct group_page *p);
/* The end of opening: err 0, or why not. */
void opening_done(struct store *s, int err, const char *fmt, ...) PRINTF_LIKE(3, 4);

#endif
