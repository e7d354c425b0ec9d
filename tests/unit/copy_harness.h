/* A target that fell behind and a donor, each a store on its own simulated disks; the test is the network between them
 * and decides what is asked and answered when.
 *
 * The donor is given every entry of one group; the target misses some. What each of them holds is known from the model
 * of store_harness.h, at every slot: what the target shows must be that, or be said to be unknown (Invariant U). */
#ifndef QBD_TESTS_COPY_HARNESS_H
#define QBD_TESTS_COPY_HARNESS_H

#include "tests/unit/store_harness.h"

#define COPY_FLIGHTS 6u
#define R REGION_BLOCKS
#define SIZE (2 * R + 3000u) /* of the volume in most tests */

struct copy_flight {
    struct copy_test *x;
    struct store_copy c;
    bool begun, handed_over, done;
};

struct copy_test {
    struct store_test d, t; /* donor, target */
    uint64_t size_blocks;
    uint32_t asked; /* regions whose verdicts were asked since the jump: bits */
    bool keep;      /* at the jump under way */
    bool damaged;   /* the test damaged the target: it may say so */
    bool drained, jumped, marked, complete;
    int complete_err, jump_check;
    struct store_region listing[64];
    uint32_t n_listed;
    uint64_t at; /* where the copier looks next */
    struct copy_flight flight[COPY_FLIGHTS + 1]; /* the last one is x_copy's */
    uint64_t installed, accepted, cancelled, too_old, left;
};

void x_begin(struct copy_test *x, uint64_t seed, uint64_t size_blocks);
void x_free(struct copy_test *x);
/* The donor appends, commits and applies; x_feed gives the target what it has not yet, x_both commits there, too. */
void x_donor(struct copy_test *x, enum entry_kind kind, uint64_t block, uint32_t nblocks);
void x_feed(struct copy_test *x);
void x_both(struct copy_test *x, enum entry_kind kind, uint64_t block, uint32_t nblocks);

void x_needs_copy(struct copy_test *x);
void x_drain(struct copy_test *x);
/* Listing, drain, jump, until it is durable (or the target crashed). */
void x_jump(struct copy_test *x, bool keep);
/* The same in parts. */
void x_list(struct copy_test *x);
void x_jump_begin(struct copy_test *x, bool keep);
void x_jump_wait(struct copy_test *x);

/* A request for [block, block + n): false when the store has no room for it. Then the donor's image as of now, then that
 * it is handed over. */
bool x_request(struct copy_test *x, unsigned flight, uint64_t block, uint32_t n);
void x_image(struct copy_test *x, unsigned flight);
void x_install(struct copy_test *x, unsigned flight);
void x_wait(struct copy_test *x, unsigned flight);
/* The next unknown chunk at or after block; its err. */
int x_unknown(struct copy_test *x, uint64_t block, struct store_unknown *ret);
/* The donor's verdicts for a region handed over: accepted chunks. */
uint64_t x_verdict(struct copy_test *x, uint32_t region);
void x_chunks_of(struct store_test *t, uint32_t region, uint64_t since, struct store_chunks *ret);
void x_chunks(struct copy_test *x, uint32_t region, uint64_t since, struct store_chunks *ret);
/* The copier: n chunks, or all there are. */
void x_copy(struct copy_test *x, unsigned n);
void x_complete(struct copy_test *x);
struct store_copy_state x_state(struct copy_test *x);

/* Invariant U, and that nobody took unknown blocks for damage. */
void x_check(struct copy_test *x);
/* Nothing is unknown. */
void x_check_complete(struct copy_test *x);
/* How many blocks of the range the target says are bad. */
uint32_t x_bad(struct copy_test *x, uint64_t block, uint32_t n);

void x_crash(struct copy_test *x, enum sim_crash how);
void x_restart(struct copy_test *x); /* and checks */
/* What both know, on disk: 6 slots; what the target then misses: 6 more. */
void x_common_past(struct copy_test *x);
void x_missed(struct copy_test *x);
/* x_begin, the past, what was missed, and the jump: the target may copy. */
void x_begin_jumped(struct copy_test *x, uint64_t seed, uint64_t size_blocks);
/* To the end of the copy, from wherever a crash left it. Then: all is there after restarts, the old NEEDS_COPY record in the
 * WAL notwithstanding. */
void x_finish(struct copy_test *x);
void x_afterwards(struct copy_test *x);
void x_audit_clean(struct store_test *t);
void x_rot_data(struct copy_test *x, uint64_t block); /* of the target */

#endif
