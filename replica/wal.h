/* The write-ahead log of one replica daemon, shared by all its groups (store.md §2 "WAL", "Recovery").
 *
 * Records are collected in the open batch; a batch is closed and written (IO_DURABLE) at the end of a loop turn when fewer than WAL_IN_FLIGHT_MAX are in flight, or when it is full. Batches are
 * reported durable strictly in sequence order.
 *
 * What always holds:
 *  - bytes [tail_lsn, head_lsn) of the ring are never overwritten; [redo_lsn, head_lsn) is what recovery needs.
 *  - a batch never wraps; per group it holds one contiguous append range of one ballot, and a CUT only before it.
 *  - payload is written from the entries' own buffers: no copy.
 *  - a batch that is held (wal_hold) counts as durable only when it was released as well.
 */
#ifndef QBD_REPLICA_WAL_H
#define QBD_REPLICA_WAL_H

#include "base/io.h"
#include "replica/disk_format.h"

struct wal;

/* Where an entry stands, for reading its value again. */
struct wal_place {
    uint64_t desc_lsn;    /* of its record's body (entry_format) */
    uint64_t payload_lsn; /* of its first payload page; 0 for entries without */
};

struct wal_callbacks {
    /* All records with token <= `token` are durable. Called in order. */
    void (*on_durable)(void *user, uint64_t token);
    /* entry got its place: called when its batch is closed (the place can be read once it is durable). It appends nothing. May be NULL. */
    void (*on_placed)(void *user, const struct entry *e, struct wal_place place);
    /* A write failed: the WAL is dead, the daemon must exit (store.md §2 "Errors"). */
    void (*on_error)(void *user, int err);
    void *user;
};

/* What is found at start, in log order, told to the caller of wal_recover. */
struct wal_replay {
    void (*on_group)(void *user, const struct wal_group *g);
    void (*on_promise)(void *user, const struct wal_promise *p);
    void (*on_cut)(void *user, uint64_t group, uint64_t slot);
    /* slab: NULL, or of a WRITE_REF the numbers of its whole slabs; e->payload is then only the blocks outside of them, NULL when there are none.
     * ref it to keep it. A refill may fill a lost slot, repeat one that is held, or (copied forward, its first record trimmed) extend the log. */
    void (*on_entry)(void *user, struct entry *e, struct wal_place place, const uint32_t *slab, bool refill);
    /* Slots first..last were appended under e and their values are lost (rot). cut as in wal_summary (0: none), to be done first.
     * A slot that is held already under the same e (after that cut) keeps what it holds: the rotten record was a refill or a copy. */
    void (*on_lost)(void *user, uint64_t group, uint64_t cut, uint64_t first, uint64_t last, const struct ballot *e);
    void (*on_commit)(void *user, uint64_t group, uint64_t slot);
    void (*on_fuzzy)(void *user, uint64_t group, uint64_t slot);
    void (*on_needs_copy)(void *user, const struct wal_needs_copy *n);
    /* Where a slab stands. False: there is none of that number. */
    bool (*slab_place)(void *user, uint32_t slab, struct dev **ret_dev, uint64_t *ret_off);
    /* The i-th of the devices that slabs are on; NULL: no more. */
    struct dev *(*slab_dev)(void *user, uint32_t i);
    /* err 0: the START batch is durable and the WAL accepts appends. Else -errno and why. */
    void (*on_done)(void *user, int err, const char *why);
    void *user;
};

struct wal_stats {
    uint64_t head_lsn, durable_lsn, redo_lsn, tail_lsn;
    uint64_t durable_seq;
    uint64_t batches, bytes, records;
    uint64_t torn_batches, rotten_batches, lost_slots; /* by the last recovery */
    uint64_t write_ns_ewma; /* latency of a batch */
    uint64_t durable_submitted_ns; /* when the write of the newest batch that is durable began */
    unsigned in_flight;
};

/* The ring is the whole device: at least WAL_MIN_BYTES; smaller ones (tests) hold only batches of up to 1/8 of the ring. Adds a turn hook, which writes what is open when a slot is free. */
#define WAL_MIN_BYTES (16u << 20)
MUST_USE struct wal *wal_new(struct reactor *r, struct dev *dev, const uint8_t salt[16], const struct wal_callbacks *cb);
/* A batch with little payload is closed only when fewer than n others are being written (default: WAL_IN_FLIGHT_MAX, as for large ones). */
void wal_set_small_in_flight(struct wal *w, unsigned n);
/* Takes the hook out again. Nothing of it may complete afterwards: all is durable, or the reactor runs no more. */
void wal_free(struct wal *w);
/* Does now what the turn hook does: for a module whose own hook, which runs later, appended something. */
void wal_kick(struct wal *w);

/* Recovery (store.md §2, steps 2-6), from the root's tail. With a fresh store tail_lsn = 0, tail_seq = 1, prev 0. Asynchronous. */
void wal_recover(struct wal *w, const struct root *root, const struct wal_replay *replay);

/* Appends. `token` numbers the caller's records: it never decreases. The WAL takes its own references on entries. Never fails: room was checked before (wal_room).
 * `refill`: the entry's slot was named before (A4 refill, A7 fill, or copied forward): not part of a batch's contiguous range. */
void wal_append_entry(struct wal *w, uint64_t token, struct entry *e, bool refill);
/* A WRITE whose whole slabs the caller writes to the slabs of these numbers: the batch must be held until they are durable. */
void wal_append_ref(struct wal *w, uint64_t token, struct entry *e, const uint32_t *slab, bool refill);
/* The batch of the record that was appended last counts as durable only after wal_release(), once for each hold. */
struct wal_write;
MUST_USE struct wal_write *wal_hold(struct wal *w);
void wal_release(struct wal *w, struct wal_write *b);
void wal_append_promise(struct wal *w, uint64_t token, uint64_t group, const struct ballot *b, uint64_t max_lease_ns);
void wal_append_cut(struct wal *w, uint64_t token, uint64_t group, uint64_t slot);
void wal_append_commit(struct wal *w, uint64_t token, uint64_t group, uint64_t slot);
void wal_append_fuzzy(struct wal *w, uint64_t token, uint64_t group, uint64_t slot);
void wal_append_needs_copy(struct wal *w, uint64_t token, uint64_t group, uint64_t slot, bool on);
void wal_append_group(struct wal *w, uint64_t token, const struct wal_group *g);

/* Bytes that can still be appended before the tail must move (records in the open batch are counted). An entry takes at most its payload and WAL_ENTRY_OVERHEAD. What wal_room leaves
 * out (max(4 MiB, 1/16 of the ring), at most 1/4) is for refills and for all other records: these may be appended at room 0. */
#define WAL_ENTRY_OVERHEAD (4u * BLOCK_SIZE)
uint64_t wal_room(const struct wal *w);
/* LSN of the next batch to be closed: all records appended so far with an earlier token lie below the LSN that it will have after closing. */
uint64_t wal_head_lsn(const struct wal *w);
/* Closes the open batch, so that a checkpoint has a definite position: returns the LSN (and its seq and chain) at which the next batch begins. What lies below is durable once wal_stats.durable_lsn reaches it. */
struct wal_position {
    uint64_t lsn, seq, prev_lsn;
    uint32_t prev_crc;
};
struct wal_position wal_cut_position(struct wal *w);
/* The position of the oldest batch beginning at or after lsn (kept in memory for every batch from tail on). */
struct wal_position wal_position_at(const struct wal *w, uint64_t lsn);
/* A root with these positions is durable: space before tail may be reused. */
void wal_trim(struct wal *w, const struct wal_position *tail, uint64_t redo_lsn);

/* Reads a durable entry again (of a WRITE_REF only the blocks outside of its slabs: the rest of its payload is undefined, and nothing of it is verified): calls fn with a new entry (one reference, the receiver's), or NULL and -errno (-EBADMSG: rotten, -ESTALE: below the tail meanwhile, -ENOMEM: arena at its limit).
 * May call fn before it returns. */
void wal_read_entry(struct wal *w, struct wal_place place, void (*fn)(void *user, struct entry *e, int err), void *user);

void wal_get_stats(const struct wal *w, struct wal_stats *ret);

#endif
