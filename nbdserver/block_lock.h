/* Locks over ranges of blocks: what orders read-modify-write against other writes of the same block.
 *
 * Shared locks (writes of whole blocks) go together: their slots order them. An exclusive lock (a sub-block write, which reads the block, merges and writes it back) goes with
 * nobody that overlaps. Granting is FIFO fair: a lock waits for every earlier one that it conflicts with, held or waiting, hence no lock waits for ever and nothing deadlocks
 * (an owner holds one lock and waits for no other).
 *
 * What always holds: a lock's `blockers` is the number of earlier, conflicting locks in the table; it is held iff blockers == 0.
 *
 * Cost: with no sub-block write about, taking and releasing is O(1); otherwise linear in the locks of the other kind. */
#ifndef QBD_NBDSERVER_BLOCK_LOCK_H
#define QBD_NBDSERVER_BLOCK_LOCK_H

#include "base/list.h"
#include "base/types.h"

struct block_lock {
    struct list link; /* in one of the table's lists while held or waiting */
    uint64_t block, nblocks;
    uint64_t seq; /* order of arrival */
    uint32_t blockers;
    bool exclusive;
    /* Called when the lock is held, if it was not at once. Must not call into the table (note it, act later). */
    void (*granted)(struct block_lock *l);
};

struct block_locks {
    struct list shared, exclusive; /* in the order of arrival, downgraded ones at their place's end */
    uint64_t next_seq;
};

void block_locks_init(struct block_locks *t);
bool block_locks_empty(const struct block_locks *t);
/* True: held now. False: granted() will be called. nblocks > 0. */
MUST_USE bool block_lock_acquire(struct block_locks *t, struct block_lock *l, uint64_t block, uint64_t nblocks, bool exclusive,
                                 void (*granted)(struct block_lock *l));
/* A held exclusive lock becomes a shared one: its owner's entry has its place in the order of slots, so later writes of whole blocks may follow; later exclusive ones go on waiting. */
void block_lock_downgrade(struct block_locks *t, struct block_lock *l);
/* Gives up a lock, held or waiting. */
void block_lock_release(struct block_locks *t, struct block_lock *l);

static inline bool block_lock_held(const struct block_lock *l)
{
    return l->blockers == 0;
}

#endif
