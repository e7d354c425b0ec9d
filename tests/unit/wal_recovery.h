/* What the tests of the WAL's recovery share. Most of them make two images of a disk, before and after some batches
 * were written, and recover from every mixture. */
#ifndef QBD_TESTS_WAL_RECOVERY_H
#define QBD_TESTS_WAL_RECOVERY_H

#include "tests/unit/wal_harness.h"

#define KIB 1024u
#define SECTOR 512u
#define RING (512u * KIB)
#ifdef __SANITIZE_ADDRESS__
#define THOROUGH 1u /* every process of the simulation costs ten times as much */
#else
#define THOROUGH 16u
#endif

static inline void *must(void *p)
{
    assert_non_null(p);
    return p;
}

uint8_t *image_copy(const uint8_t *image);
struct model *model_of(const struct rec *r, uint32_t n);
/* Two lives on an image: what the first found, plus what it appends, is what the second finds. */
void goes_on_living(struct wal_test *f);

/* ---- torn tails ---- */

enum shape { ONE_BLOCK, SMALL_RECORDS, LARGE, CUT_AND_APPEND, THREE_DESC_PAGES, BEFORE_THE_END, WITH_PAD, START_ONLY, SHAPES };

/* A log of a few batches; where its end lies is the shape's. */
void begin(struct wal_test *t, uint64_t seed, enum shape shape);

/* ---- several in flight ---- */

struct flight {
    struct wal_test t;
    uint8_t *before, *after;
    uint32_t n_before;
    uint32_t n_at[WAL_IN_FLIGHT_MAX]; /* records through each batch */
    struct t_batch b[WAL_IN_FLIGHT_MAX];
};

/* Four batches, all in flight at once: none vouches for another. */
void fly(struct flight *x, uint64_t seed);
void fly_free(struct flight *x);
/* What lies at [lsn, lsn + bytes) of the log, from one image to another. */
void copy_range(uint8_t *to, const uint8_t *from, uint64_t lsn, uint64_t bytes);

/* ---- rot ---- */

struct rotten {
    struct wal_test t;
    uint8_t *image;
    struct model *model; /* what all records from the tail on amount to */
    struct model *full;  /* and with those before it; or NULL: there are none */
    struct t_batch b[64];
    uint32_t n; /* the last is a START, which vouches for all before it */
};

/* Batches of all kinds, all durable, then a restart. */
void make_rotten(struct rotten *x, uint64_t seed);
void rotten_free(struct rotten *x);
/* A bit of the byte at `at` of the batch. */
void flip(struct wal_test *f, const struct t_batch *b, uint64_t at);
/* Recovers with rot in it: nothing but values is lost, and the same is found again. Returns how many values. */
uint32_t rot_is_told(struct rotten *x, struct wal_test *f, uint32_t rotten_batches);

#endif
