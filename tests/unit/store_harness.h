/* A store on simulated disks, with a model of every group: what was appended, cut, promised and committed, and so what
 * every block reads as at every slot.
 *
 * A recovery is held against the model: each group's log must be what some number of its operations gives, at least as
 * many as were reported durable; applied may not be behind the last finished checkpoint; every value and every block
 * must be the model's. */
#ifndef QBD_TESTS_STORE_HARNESS_H
#define QBD_TESTS_STORE_HARNESS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "replica/store_internal.h"
#include "tests/sim/simio.h"

#define T_GROUPS 8u
#define T_EXTENTS 16u

struct t_spec { /* an entry's content, by (slot, e) */
    uint64_t slot, e, id, block;
    uint32_t nblocks;
    uint8_t kind;
};

enum t_op_type { T_APPEND, T_CUT, T_PROMISE, T_REFILL, T_CREATE, T_JUMP };

struct t_op {
    enum t_op_type type;
    uint64_t seq, slot, round; /* a jump: to slot, from `round` */
    uint32_t spec, n;          /* a jump: the specs of the n slots up to `slot` that came with it */
};

struct t_group {
    uint64_t id, size_blocks;
    struct t_spec *spec;
    uint32_t n_specs, cap_specs;
    struct t_op *op;
    uint32_t n_ops, cap_ops;
    uint64_t seq, durable_seq;
    uint32_t *log; /* spec of each slot, 1..last */
    uint64_t last, cap_log;
    uint64_t e, promised, committed, durable_last;
    uint64_t floor, saved_applied; /* of the last finished checkpoint */
    uint64_t *image;               /* content of each block at image_slot; 0: zero */
    uint64_t image_slot;
    /* recovery's word */
    bool found;
    struct paxos_log found_log;
    uint64_t found_promised, found_commit, n_lost, *lost;
    bool found_needs_copy;
    struct credits credits;
};

struct store_test {
    uint64_t seed, wal_bytes, extent_bytes, capacity_bytes;
    uint32_t n_extents, meta_pages;
    struct store_options options;
    struct sim_world *world;
    struct sim_dir *dir;
    struct sim_disk *superblock, *wal, *meta;
    struct superblock sb;
    struct sim_reactor *sim;
    struct reactor *r;
    struct store *store;
    struct t_group group[T_GROUPS];
    unsigned n_groups;
    uint64_t next_id;
    bool ready, closed, formatted, crashed;
    bool reads_for_client; /* those that begin from now on */
    int ready_err, fatal;
    char why[256];
    uint64_t bad_reported; /* blocks named by on_bad */
    bool may_lose;         /* LOST slots are no failure */
    bool write_twice;      /* as a store that was formatted before large writes went to disk once */
    bool may_be_bad;       /* nor are blocks that say they are bad, when the image is checked */
    unsigned reads;        /* in flight */
    /* crash at the nth event of any disk; 0: never */
    uint64_t crash_at, events;
    bool count_reads;
    enum sim_crash crash_how;
};

void t_init(struct store_test *t, uint64_t seed);
void t_format(struct store_test *t);
void t_free(struct store_test *t);
/* A process opens the store. 0, store_open's or on_ready's error, -ECANCELED when it crashed meanwhile. */
int t_start(struct store_test *t);
/* t_start, then everything is held against the model, and what was committed is committed again. */
void t_start_ok(struct store_test *t);
void t_stop(struct store_test *t); /* an orderly end, with its checkpoint */
void t_crash(struct store_test *t, enum sim_crash how);
void t_run(struct store_test *t, uint64_t ns);
/* Until all that was appended is durable, or the process is gone. */
void t_settle(struct store_test *t);
/* Until a checkpoint that began now is over, or the process is gone. */
void t_checkpoint(struct store_test *t);

unsigned t_create(struct store_test *t, uint64_t size_blocks); /* its index */
void t_append(struct store_test *t, unsigned g, enum entry_kind kind, uint64_t block, uint32_t nblocks);
/* ... even where the store has no room: what a front end may have sent before it knew. */
void t_append_anyway(struct store_test *t, unsigned g, enum entry_kind kind, uint64_t block, uint32_t nblocks);
/* Appends somebody else's entry; its slot is the next one. */
void t_append_spec(struct store_test *t, unsigned g, const struct t_spec *s);
void t_cut(struct store_test *t, unsigned g, uint64_t slot);
/* The model's part of a jump to `slot`, whose last n entries (0: the own log has them) are `missed`; then, that it is
 * durable. */
void t_note_jump(struct store_test *t, unsigned g, uint64_t slot, const struct t_spec *missed, uint32_t n);
void t_jump_is_durable(struct store_test *t, unsigned g);
void t_promise(struct store_test *t, unsigned g, uint64_t round);
void t_refill(struct store_test *t, unsigned g, uint64_t slot);
void t_commit(struct store_test *t, unsigned g, uint64_t slot); /* at most what is durable */
void t_commit_all(struct store_test *t);                        /* settles first */
/* Something of everything. */
void t_random(struct store_test *t, uint32_t max_blocks);

/* Reads now, compares with the model at the read's applied slot when it comes. */
void t_read(struct store_test *t, unsigned g, uint64_t block, uint32_t nblocks);
void t_read_settle(struct store_test *t);
void t_check_image(struct store_test *t, unsigned g);
void t_check_values(struct store_test *t, unsigned g);
/* The result of one read, run to its end. */
void t_read_now(struct store_test *t, unsigned g, uint64_t block, uint32_t nblocks, struct store_read *r);
void t_content(struct store_test *t, unsigned g, uint64_t block, uint64_t slot, uint8_t *to);

/* The stopped store's leaves against the model: changed_at is no lower than the slot of the last entry that wrote to the chunk. */
void t_check_changed(struct store_test *t, unsigned g);

struct t_audit {
    uint64_t used, reachable, leaves, mapped, bad_blocks;
    struct root root;
};
/* Reads the disks by itself: the newest root, and everything reachable from it. No slab is used twice, every reachable
 * one is in the bitmap, every block matches its checksum; used - reachable is what leaked. */
void t_audit(struct store_test *t, struct t_audit *ret);
/* Where a block's data or its leaf stands. NULL: nowhere. */
struct sim_disk *t_find_data(struct store_test *t, unsigned g, uint64_t block, uint64_t *ret_off);
struct sim_disk *t_find_leaf(struct store_test *t, unsigned g, uint64_t block, uint64_t *ret_off);
struct sim_disk *t_extent(struct store_test *t, uint64_t slab, uint64_t *ret_off);

#endif
