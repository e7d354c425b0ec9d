/* The store: extents, map, overlay, write-back, checkpoints, recovery (store.md §2). One per replica daemon, many
 * groups.
 *
 * It owns the WAL. What the replica (replica.c) hands it: entries as the acceptor orders them to be persisted, and how
 * far each group may apply. What it answers: durability, reads, values for catch-up, credits.
 *
 * What always holds:
 *  - an entry is applied only when committed and locally durable, in slot order (A6); written back only when a COMMIT
 * record >= its slot is durable.
 *  - reads see all entries <= applied and nothing else.
 *  - nothing that the root in force refers to is overwritten, except data blocks whose newer contents are in the WAL
 * from redo on.
 *  - slabs used = mapped by a leaf or holding leaves, in the bitmap of the root in force or pending; free = the rest.
 */
#ifndef QBD_REPLICA_STORE_H
#define QBD_REPLICA_STORE_H

#include "consensus/paxos.h"
#include "replica/wal.h"

struct store;

struct store_devices {
    struct dir *dir; /* to make extents in */
    struct dev *superblock, *wal, *meta;
    struct dev **extents; /* as many as the superblock says; the array is copied */
    uint32_t n_extents;
};

struct store_options {
    uint64_t overlay_bytes;      /* checkpoints start when the overlay holds this much; default 256 MiB */
    uint64_t leaf_cache_bytes;   /* default 512 MiB */
    uint64_t checkpoint_idle_ns; /* a dirty store that is idle this long makes a checkpoint; default 5 s */
    unsigned write_back_depth;   /* default 16 */
    bool direct_reads;           /* clients' reads bypass the host's page cache as well */
    unsigned wal_small_in_flight; /* wal_set_small_in_flight(); default WAL_IN_FLIGHT_MAX */
};

/* What recovery found of a group, for acceptor_init. Pointers are valid during the callback. */
struct store_group_state {
    uint64_t group;
    uint64_t size_blocks;
    struct ballot promised;
    uint64_t max_lease_ns;
    const struct paxos_log *log; /* base = the log's floor */
    uint32_t n_lost;
    const uint64_t *lost;
    struct membership committed;
    struct membership uncommitted; /* n_voters = 0: none */
    uint64_t commit;               /* applied up to here */
    uint64_t fuzzy_end;
    bool needs_copy;
    bool retired; /* it was a voter, and the committed membership has it no more */
};

struct store_callbacks {
    void (*on_group)(void *user, const struct store_group_state *s); /* each group, before on_ready */
    void (*on_ready)(void *user, int err, const char *why);          /* recovery is over; only now answer anybody */
    void (*on_durable)(void *user, uint64_t group,
                       uint64_t seq); /* the group's persist records with seq <= this are durable */
    void (*on_applied)(void *user, uint64_t group,
                       uint64_t slot); /* applied advanced (called in the turn of store_commit or later) */
    void (*on_trimmed)(void *user, uint64_t group, uint64_t floor); /* the log's floor rose (ACCEPTOR_TRIM) */
    void (*on_credits)(void *user, uint64_t group, const struct credits *c);
    void (*on_copy_room)(void *user, uint64_t group); /* what a copy had brought is written back: there is room for more of it */
    /* A block is damaged: data (crc), leaf (unreadable). Repair it: fetch an image from a peer and store_repair it. Not called for what is unknown since a jump: the copy fetches that. */
    void (*on_bad)(void *user, uint64_t group, uint64_t block, uint32_t nblocks);
    void (*on_fatal)(void *user, int err, const char *what); /* WAL or flush error: exit */
    void *user;
};

MUST_USE int store_open(struct reactor *r, const struct store_devices *d, const struct superblock *sb,
                        const struct store_options *o, const struct store_callbacks *cb, struct store **ret);
/* Formats the devices (they are zero-filled): meta roots, group table; then the superblock with complete = 1.
 * done(err). */
void store_format(struct reactor *r, const struct store_devices *d, const struct superblock *sb,
                  void (*done)(void *user, int err), void *user);
/* A client's request has come: for CLIENTS_NS whatever can wait is done in small pieces. */
#define CLIENTS_NS NS_PER_S
void store_note_client(struct store *s);
bool store_has_clients(const struct store *s);
/* Clean stop: writes a checkpoint, then done. */
void store_close(struct store *s, void (*done)(void *user), void *user);
void store_free(struct store *s);

/* ---- persistence, in the order of the acceptor's effects; seq is the effect's ---- */
/* False: the group exists, or there are GROUPS_MAX. */
bool store_can_create(const struct store *s, uint64_t group);
/* With the own identity among the membership's learners the group needs a copy from the beginning: position 0. */
void store_create_group(struct store *s, const struct wal_group *g, uint64_t seq);
void store_promise(struct store *s, uint64_t group, const struct ballot *b, uint64_t max_lease_ns, uint64_t seq);
void store_cut(struct store *s, uint64_t group, uint64_t slot, uint64_t seq);
void store_append(struct store *s, struct entry *e, uint64_t seq);
void store_refill(struct store *s, struct entry *e, uint64_t seq);
/* The log does not reach what peers' logs hold (on), or does after all (off; ignored once a jump was made: completion is
 * store_copy_complete's). The record names the group's applied slot + 1 and counts at replay only when that is above the
 * checkpoint's applied slot. fn(user, 0) (may be NULL) when it is durable; a later call replaces an fn that is still due. */
void store_needs_copy(struct store *s, uint64_t group, bool on, void (*fn)(void *user, int err), void *user);
/* Apply through slot (committed and locally durable). The membership in force at the checkpoint is taken from MEMBER
 * entries as they are applied. */
void store_commit(struct store *s, uint64_t group, uint64_t slot);
/* False: WAL, overlay or extents are so full that appends must wait (the caller pauses its streams until on_credits). */
bool store_has_room(const struct store *s);
/* ... but a few entries without data may still come. */
bool store_has_reserve(const struct store *s);
/* No room, because of the extents: only growing or a trim helps, no checkpoint does. */
bool store_is_full(const struct store *s);

/* How many of the entries, from the first on, write-back will find slabs for: a piece of catch-up comes without anybody
 * having looked at this replica's credit. */
uint32_t store_can_take(const struct store *s, struct entry *const *e, uint32_t n);

/* ---- values ---- */
/* The value at (slot, e): fn with a reference, or NULL and -ENOENT (not here, or another e), -ENODATA (LOST), -ESTALE (an applied one that
 * went to disk once, and was overwritten since: the log reaches back no further than this slot), -EIO. May call fn before it returns. */
void store_value(struct store *s, uint64_t group, uint64_t slot, void (*fn)(void *user, struct entry *e, int err),
                 void *user);

/* ---- reads: the image at the group's applied slot ---- */
struct store_read {
    /* set by the caller */
    uint64_t group, block;
    uint32_t nblocks; /* 1..ENTRY_MAX_BLOCKS */
    bool for_client;  /* what was read lately may come from the host's memory; otherwise all is read from the disk (scrubs, copies) */
    void (*fn)(struct store_read *r);
    void *user;
    /* results, when fn is called */
    int err;          /* 0, -EBADMSG: some block is damaged or unknown since a jump (bad says which), -EIO, -ENOMEM */
    uint64_t applied; /* image of this slot */
    uint64_t changed_at; /* no lower than the last slot that changed one of the chunks read: an image carries it */
    struct buf *buf;  /* nblocks blocks (zero blocks' bytes undefined); the receiver's reference */
    uint32_t crc[ENTRY_MAX_BLOCKS];
    uint64_t zero[ENTRY_MAX_BLOCKS / 64];
    uint64_t bad[ENTRY_MAX_BLOCKS / 64];
    uint64_t lost[ENTRY_MAX_BLOCKS / 64]; /* marked as lost everywhere */
    uint64_t scratch[16];                 /* the store's */
};
/* Checksums of what came from disk are verified. May call fn before it returns. */
void store_read(struct store *s, struct store_read *r);

/* Installs a peer's image of one block that on_bad named (data NULL: the block is zero). `image_slot` is the peer's
 * applied slot at reading. The store keeps it until its own applied >= image_slot and installs it unless an entry has
 * overwritten the block since on_bad: exact at every applied slot, hence nothing fuzzy. done(err): -ESTALE when it was
 * overwritten (which healed it), -ECANCELED: a jump went over it. */
void store_repair(struct store *s, uint64_t group, uint64_t block, uint64_t image_slot, const uint8_t *data,
                  uint32_t crc, void (*done)(void *user, int err), void *user);

/* ---- a copy, at the donor (docs/rebuild.md) ---- */
struct store_region {
    uint32_t region;     /* block / REGION_BLOCKS */
    uint32_t present;    /* bit l: leaf l exists (on disk or in the overlay) */
    uint64_t changed_at; /* no lower than the highest slot that touched it */
};
/* The group's regions from number `from` on, in order of number, at most cap: how many. At the group's applied position (store_applied) at this instant; no I/O.
 * Fewer than cap: these were the last. 0 for an unknown group. */
uint32_t store_list_regions(const struct store *s, uint64_t group, uint32_t from, struct store_region *array, uint32_t cap);

/* One region's verdicts for a target that has everything up to slot `since`. Owned by the caller until fn. May read leaves. May call fn before it returns. */
struct store_chunks {
    /* set by the caller */
    uint64_t group, since;
    uint32_t region;
    void (*fn)(struct store_chunks *c);
    void *user;
    /* results */
    int err;                  /* 0, -ENOENT (no such group), -EAGAIN (this replica needs copy itself), -EIO (the store is dead) */
    uint64_t applied;         /* the verdicts are for this slot */
    uint64_t unchanged;       /* bit per 1 MiB chunk of the region: not changed in (since, applied]; never set where the leaf is absent */
    uint64_t changed_at[64];  /* per chunk */
};
void store_chunks_changed(struct store *s, struct store_chunks *c);

/* ---- the jump, at the target ---- */
/* Writes the group's overlay back (checkpoints as needed) and holds back every repair and image of the group from now until store_jump is over or
 * store_jump_cancel. fn is called at the end of a turn, when both generations of the group's overlay are empty and no checkpoint is under way: store_jump
 * called from within fn does not answer -EAGAIN. The caller applies nothing to the group meanwhile (else this takes as long as it does). May be
 * called again at any time (before the jump, after the listing); one at a time per group. fn never comes after store_jump_cancel, store_close or on_fatal. */
void store_drain(struct store *s, uint64_t group, void (*fn)(void *user), void *user);
void store_jump_cancel(struct store *s, uint64_t group);

struct store_jump {
    /* set by the caller; all of it is copied or used up before store_jump returns */
    struct log_pos to;            /* C: the donor's APPLIED position in the turn of the listing's last page; to.slot > the own applied slot */
    struct membership membership; /* committed at C, with its slot */
    bool keep_log;                /* the own log holds `to` (same ballot): its tail above C stays. Else the log is emptied */
    const struct store_region *listing; /* the donor's whole listing as of C, in order of number, no number twice */
    uint32_t n;
};
/* Could store_jump be called now? 0; -EAGAIN: a checkpoint is under way or the group's overlay is not empty (store_drain again); -EINVAL: `to` is not above
 * applied, no drain holds the group, the listing is out of order or names what lies beyond the volume, or the group does not need copy;
 * -ENOSPC: the listing's regions do not fit the region table. Changes nothing: call it before the acceptor is told. */
MUST_USE int store_jump_check(const struct store *s, uint64_t group, const struct store_jump *j);
/* The jump (docs/rebuild.md section 3 step 4), in this turn: marks what may have changed since the own applied slot as unknown, position := to, log emptied (a CUT(to.slot + 1)
 * record is written by the store itself; one that the acceptor's effects had the caller write with store_cut before is fine too) or its part above `to` kept; starts the checkpoint that makes it durable. Asserts what
 * store_jump_check says. Waiting repairs and images of the group are dropped: their callbacks come with -ECANCELED before this returns. fn(user) when it is durable in BOTH roots;
 * until then the caller hands over no append, refill, cut or commit of the group (asserted); promises are fine. A crash before the first root: the old position, needs copy. */
void store_jump(struct store *s, uint64_t group, const struct store_jump *j, void (*fn)(void *user), void *user);

struct store_copy_state {
    bool needs_copy;
    bool copying;             /* a jump was made in this copy: there is something to fill, or to complete */
    uint64_t since;           /* verdicts are asked since this slot (only when copying) */
    uint64_t jump;            /* images must be no older; 0: never jumped */
    uint64_t unknown_leaves;  /* 0 and copying: store_copy_complete */
    uint64_t unknown_bytes;   /* upper bound: 2 MiB (less at the end of the volume) per unknown leaf, minus what was installed and is not written back yet */
    uint64_t copied_bytes;    /* installed since the start of the daemon, zero blocks included */
    uint64_t unchanged_bytes; /* taken over by verdict, since the start of the daemon */
};
void store_copy_state(const struct store *s, uint64_t group, struct store_copy_state *ret);

/* ---- the copy, at the target ---- */
/* The next chunk with unknown blocks at or after block `from`. Owned by the caller until fn; may read a leaf; may call fn before it returns. */
struct store_unknown {
    /* set by the caller */
    uint64_t group, from;
    void (*fn)(struct store_unknown *u);
    void *user;
    /* results */
    int err;              /* 0; -ENOENT: none from there on (look at unknown_leaves, begin again at 0); -ECANCELED: a jump came; -EIO: dead */
    uint64_t block;       /* the chunk's first block (aligned to CHUNK_BLOCKS) */
    uint32_t nblocks;     /* CHUNK_BLOCKS, less at the end of the volume */
    bool whole;           /* nothing of it was written back since the jump: a verdict *unchanged* may still settle it */
    uint64_t want[CHUNK_BLOCKS / 64]; /* bit per block from `block`: unknown and not given up. What an image in flight will fill is still in it. */
};
void store_unknown_next(struct store *s, struct store_unknown *u);

/* A donor's verdict for one region: `unchanged` (as in store_chunks) in (since, image_slot]. Takes it where it may: chunks that are unknown as a whole, without an
 * explicit bad block; since <= the copy's `since` and image_slot >= `jump`, else none. fn(user, accepted bits): what is not accepted is fetched as images.
 * May call fn before it returns. */
void store_chunks_unchanged(struct store *s, uint64_t group, uint32_t region, uint64_t unchanged, uint64_t since, uint64_t image_slot,
                            void (*fn)(void *user, uint64_t accepted), void *user);

/* One request for an image: within one chunk. Owned by the caller (embedded); the store's from store_copy_begin until fn or store_copy_abandon. */
struct store_copy {
    /* set by the caller before store_copy_begin */
    uint64_t group, block;
    uint32_t nblocks;
    void (*fn)(struct store_copy *c);
    void *user;
    /* set by the caller before store_copy_install */
    uint64_t image_slot;  /* D: the donor's applied slot at reading */
    uint64_t changed_at;  /* the donor's, of the chunk */
    struct buf *buf;      /* the store takes its own reference; data of the blocks that are neither zero, bad, lost nor given up, one after another from buf_off; NULL when there is none */
    uint32_t buf_off;     /* a multiple of 8 will do */
    uint32_t crc[CHUNK_BLOCKS];               /* of the data blocks, by block (index from `block`); checked against buf: a mismatch counts as bad */
    uint64_t zero[CHUNK_BLOCKS / 64];
    uint64_t bad[CHUNK_BLOCKS / 64];     /* the donor has it not: nothing is installed */
    uint64_t lost[CHUNK_BLOCKS / 64];    /* no replica has it: reads say -EIO, by address (the caller's decision, docs/rebuild.md section 4) */
    uint64_t give_up[CHUNK_BLOCKS / 64]; /* bad at all who can be asked: becomes an explicit bad block, which holds up nothing */
    /* results, when fn is called */
    int err;              /* 0; -ERANGE: the image is older than `jump`: ask again; -ECANCELED: a jump came meanwhile */
    uint64_t left[CHUNK_BLOCKS / 64];    /* still unknown: bad at this donor, a wrong checksum, or the image too old for a block that was found bad here meanwhile */
    uint32_t installed;   /* blocks */
    void *pending; /* the store's */
};
/* Takes room for it: bytes and slabs. False: not now (too much under way, space short: ask again after the next checkpoint or in a while), or a drain/jump holds the group. */
MUST_USE bool store_copy_begin(struct store *s, struct store_copy *c);
/* The image came. Kept until applied >= image_slot and the leaf is there; then installed block by block where still unknown (exact at every applied slot; a block that an entry
 * wrote meanwhile is left alone). fn when done; may come before this returns. */
void store_copy_install(struct store *s, struct store_copy *c);
/* It will not come (or: nobody waits for it any more; an image handed over is dropped). fn is not called. */
void store_copy_abandon(struct store *s, struct store_copy *c);
/* No leaf is unknown (asserted): makes the checkpoint whose group page says complete. fn(user, 0) when its root is durable: only now the acceptor may be told.
 * fn(user, -ECANCELED): a jump came, or store_needs_copy(on). */
void store_copy_complete(struct store *s, uint64_t group, void (*fn)(void *user, int err), void *user);

/* ---- scrub (docs/rebuild.md section 9) ---- */
/* Where a group's scrub is, kept with each checkpoint. */
struct store_scrub_place {
    uint32_t next;    /* region */
    uint32_t passes;  /* completed */
    uint64_t done_at; /* seconds since 1970 */
};
void store_scrub_place(const struct store *s, uint64_t group, struct store_scrub_place *ret);
/* soon: have a checkpoint made for it. */
void store_scrub_set_place(struct store *s, uint64_t group, const struct store_scrub_place *place, bool soon);
/* Bytes of the slabs that hold the group's data; its first region from number `from` on (UINT32_MAX: none). No I/O; they look at every region. */
uint64_t store_mapped_bytes(const struct store *s, uint64_t group);
uint32_t store_next_region(const struct store *s, uint64_t group, uint32_t from);

/* One step through a region: a leaf, or at most 128 KiB of data. Owned by the caller until fn, which may come before this returns. What is found bad goes to on_bad by itself. */
struct store_scrub {
    /* set by the caller before a region's first step: the rest is zero */
    uint64_t group, block; /* the region's first block */
    void (*fn)(struct store_scrub *c);
    void *user;
    /* results of the step */
    int err; /* 0; -ENOENT: the region is over; -EAGAIN: the group needs a copy; -EIO: the store is dead */
    uint32_t read_bytes, verified_blocks;
    uint64_t leaf_block;                /* the leaf's first block: */
    uint64_t found[LEAF_BLOCKS / 64];   /* a bit per block of it, found bad or lost in this step and not in an earlier one */
    uint64_t lost[LEAF_BLOCKS / 64];    /* of them: no replica has it */
    bool leaf_rewritten, leaf_rotten;   /* the leaf was bad on disk: memory had it (a checkpoint writes it anew), or not */
    /* the store's */
    uint64_t seen[LEAF_BLOCKS / 64];
    bool leaf_seen, was_cached;
    unsigned slab;
    struct store_read read;
};
void store_scrub_next(struct store *s, struct store_scrub *c);

/* One step through superblock, root and meta pages, likewise. */
struct store_scrub_meta {
    uint32_t page; /* where: set to 0 by the caller, goes on from step to step */
    void (*fn)(struct store_scrub_meta *m);
    void *user;
    int err; /* 0; -ENOENT: that was all; -EIO: the store is dead */
    uint32_t read_bytes;
    uint32_t n_bad; /* bad on disk, written anew from memory */
};
void store_scrub_meta_next(struct store *s, struct store_scrub_meta *m);

/* A region's digests, of one instant. Owned by the caller until fn, which may come before this returns. */
struct store_digest {
    /* set by the caller */
    uint64_t group;
    uint32_t region;
    void (*fn)(struct store_digest *d);
    void *user;
    /* results */
    int err; /* 0; -ENOENT: no such group; -EAGAIN: it needs a copy; -EIO: the store is dead */
    uint64_t applied, comparable;
    uint32_t next; /* region above it that is there; UINT32_MAX: none */
    struct chunk_digest chunk[REGION_CHUNKS];
};
void store_digest(struct store *s, struct store_digest *d);

/* One chunk's checksums, likewise. */
struct store_crcs {
    /* set by the caller */
    uint64_t group, block; /* the chunk's first */
    void (*fn)(struct store_crcs *c);
    void *user;
    /* results */
    int err; /* as above; -EBADMSG: the chunk is not comparable */
    uint64_t applied, changed_at;
    uint32_t nblocks;
    uint32_t crc[CHUNK_BLOCKS];
};
void store_crcs(struct store *s, struct store_crcs *c);

/* The majority of the replicas has other content in this block than this one, at a slot that is this one's now: to be called from within store_crcs' fn alone. It is bad
 * from now on, as if its checksum did not hold (on_bad). False: not now; it is about to be written back. */
MUST_USE bool store_disown(struct store *s, uint64_t group, uint64_t block);
/* No replica has this damaged block intact (docs/rebuild.md section 4): it reads as lost until an entry overwrites it. False: it is not damaged (any more). */
MUST_USE bool store_lose(struct store *s, uint64_t group, uint64_t block, uint64_t image_slot);

struct store_stats {
    struct wal_stats wal;
    uint64_t slabs_total, slabs_free, slabs_reserved, slabs_pending_free;
    uint64_t overlay_bytes, leaf_cache_bytes, dirty_leaves;
    uint64_t checkpoint, checkpoints_done, write_back_bytes, large_bytes; /* large: written beside the WAL, once */
    uint64_t bad_blocks, repaired_blocks;
    bool checkpointing, growing;
};
void store_get_stats(const struct store *s, struct store_stats *ret);
/* The applied slot of a group; 0 when unknown. */
uint64_t store_applied(const struct store *s, uint64_t group);
/* Starts a checkpoint now (tests, clean stop). */
void store_checkpoint(struct store *s);

#endif
