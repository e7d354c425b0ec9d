/* Checkers that stand apart from the code under test: they watch what processes send and write, read the disks by a
 * reader of their own, and keep a model of what was chosen. What they check is docs/consistency.md's list of
 * invariants:
 *
 *  - a name (slot, e) has one value, proposed first by e's proposer; a slot has one chosen value; what is committed,
 * applied or copied anywhere is it.
 *  - what an answer rests on is durable: Promise, Opened, Accepted, BeatAck, Created, and the client's success.
 *  - promises never regress, over any crash.
 *  - quorums are those of the memberships that the chosen log holds: who begins a session has its promises, what is chosen has its
 * acknowledgements; new voters are proposed when they hold everything.
 *  - a disk answers under its own identity, and counts only while what is durable there says that it is complete; what is donated is
 * of a position that was applied.
 *  - no front end can read by its lease once another session has begun.
 *  - every block that a replica hands out or keeps has the checksum that a front end gave it, as of the replica's
 * applied slot.
 *  - WAL space is used again only when a durable root lets it go, and only committed entries' blocks reach the extents.
 *  - a slot is assigned only within a quorum's credits, and an entry that has its slot is refused nowhere for lack of
 * space.
 *  - a replica whose disks nothing ever happened to says of no block that it is damaged; its scrub finds nothing.
 *  - no scrub finds that replicas differ at equal slots: nothing makes them differ under good checksums.
 *  - memory stays within its stated bounds.
 *
 * Nothing here changes what happens in a run: to its history only the moments are added at which memory is sampled. The
 * first violation goes to cluster_fail(). */
#ifndef QBD_TESTS_SIM_CLUSTER_CHECKS_H
#define QBD_TESTS_SIM_CLUSTER_CHECKS_H

#include "tests/sim/cluster/cluster.h"

struct checks;

/* From now on. Before the group's first message. */
struct checks *checks_new(struct cluster *c);
void checks_free(struct checks *ck); /* NULL is fine */
/* Nothing is watched or sampled any more. */
void checks_end(struct checks *ck);

/* A front end answers a request with success that arrived at began_ns: what it wrote is chosen. */
void checks_answered(struct checks *ck, const struct export_request *q, uint64_t began_ns);
/* Call it before this replica's disks are damaged (rot, lost or misdirected writes): from then on it may have lost what
 * was durable there, as long as what it says is true. */
void checks_damage(struct checks *ck, unsigned node);
/* Was that said of the disk that it has? */
bool checks_is_damaged(struct checks *ck, unsigned node);
/* How far the log of this replica is committed by what is durable there. */
uint64_t checks_durable_commit(struct checks *ck, unsigned node);
/* The replicas' disks as they stand, read independently: maps, bitmap, checksums. For the end of a run, while the
 * processes run or after. */
void checks_audit(struct checks *ck);

struct checks_stats {
    uint64_t jumps, memberships, image_blocks;
    uint64_t messages, accepts, acknowledged, chosen, durable_batches, data_blocks, read_sessions, extent_blocks, roots,
        audited_blocks, answered_blocks, resyncs;
};
const struct checks_stats *checks_stats(const struct checks *ck);

#endif
