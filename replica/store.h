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
    /* A block is damaged: data (crc), leaf (unreadable). Repair it: fetch an image from a peer and store_repair it. */
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
/* Clean stop: writes a checkpoint, then done. */
void store_close(struct store *s, void (*done)(void *user), void *user);
void store_free(struct store *s);

/* ---- persistence, in the order of the acceptor's effects; seq is the effect's ---- */
/* False: the group exists, or there are GROUPS_MAX. */
bool store_can_create(const struct store *s, uint64_t group);
void store_create_group(struct store *s, const struct wal_group *g, uint64_t seq);
void store_promise(struct store *s, uint64_t group, const struct ballot *b, uint64_t max_lease_ns, uint64_t seq);
void store_cut(struct store *s, uint64_t group, uint64_t slot, uint64_t seq);
void store_append(struct store *s, struct entry *e, uint64_t seq);
void store_refill(struct store *s, struct entry *e, uint64_t seq);
void store_needs_copy(struct store *s, uint64_t group, bool on);
/* Apply through slot (committed and locally durable). The membership in force at the checkpoint is taken from MEMBER
 * entries as they are applied. */
void store_commit(struct store *s, uint64_t group, uint64_t slot);
/* False: WAL, overlay or extents are so full that appends must wait (the caller pauses its streams until on_credits). */
bool store_has_room(const struct store *s);
/* ... because of the extents: only growing or a trim helps, no checkpoint does. */
bool store_is_full(const struct store *s);

/* ---- values ---- */
/* The value at (slot, e): fn with a reference, or NULL and -ENOENT (not here, or another e), -ENODATA (LOST), -EIO. May
 * call fn before it returns. */
void store_value(struct store *s, uint64_t group, uint64_t slot, void (*fn)(void *user, struct entry *e, int err),
                 void *user);

/* ---- reads: the image at the group's applied slot ---- */
struct store_read {
    /* set by the caller */
    uint64_t group, block;
    uint32_t nblocks; /* 1..ENTRY_MAX_BLOCKS */
    void (*fn)(struct store_read *r);
    void *user;
    /* results, when fn is called */
    int err;          /* 0, -EBADMSG: some block is damaged (bad says which), -EIO, -ENOMEM */
    uint64_t applied; /* image of this slot */
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
 * overwritten (which healed it). */
void store_repair(struct store *s, uint64_t group, uint64_t block, uint64_t image_slot, const uint8_t *data,
                  uint32_t crc, void (*done)(void *user, int err), void *user);

struct store_stats {
    struct wal_stats wal;
    uint64_t slabs_total, slabs_free, slabs_reserved, slabs_pending_free;
    uint64_t overlay_bytes, leaf_cache_bytes, dirty_leaves;
    uint64_t checkpoint, checkpoints_done, write_back_bytes;
    uint64_t bad_blocks, repaired_blocks;
    bool checkpointing, growing;
};
void store_get_stats(const struct store *s, struct store_stats *ret);
/* The applied slot of a group; 0 when unknown. */
uint64_t store_applied(const struct store *s, uint64_t group);
/* Starts a checkpoint now (tests, clean stop). */
void store_checkpoint(struct store *s);

#endif
