/* A WAL on a simulated disk, with a list of what was appended, for the WAL's tests.
 *
 * Every record appended is kept as a `rec`; its token is its number in the list (from 1). A recovery is held against the list:
 * what it replays must be exactly the list's records from the tail on, to an end that lies at or behind the last one reported
 * durable. What lay behind that end is dropped from the list, so that a later recovery that brings it back fails. */
#ifndef QBD_TESTS_WAL_HARNESS_H
#define QBD_TESTS_WAL_HARNESS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "replica/wal_internal.h"
#include "tests/sim/simio.h"

enum { REC_LOST = 100 }; /* besides enum wal_record_type */

struct rec {
    unsigned type;
    uint64_t group, slot;
    uint64_t e;  /* an entry's round; a promise's round */
    uint64_t id; /* an entry's content, or cut of a LOST; a promise's lease; a group's size */
    uint32_t blocks;
    uint8_t kind;
    bool refill;
    struct wal_place place; /* not compared when desc_lsn is 0 */
};

#define T_GROUPS 65u
#define T_SLOTS 4096u
#define MODEL_GROUPS 8u
#define T_CUTS 256u

struct wal_test {
    uint64_t wal_bytes;
    uint8_t salt[16];
    struct sim_world *world;
    struct sim_disk *disk;
    struct sim_reactor *sim;
    struct reactor *r;
    struct wal *wal;

    struct rec *rec; /* [0, n): what the log should hold; [first, n): from the tail on */
    uint32_t n, cap, first;
    uint64_t durable; /* records reported durable: a count */
    uint32_t placed;  /* entries before this record have their place */
    struct root root;
    struct {
        struct wal_position at;
        uint32_t n; /* records below it */
    } cut[T_CUTS];
    uint32_t n_cuts;
    uint64_t next_id;
    uint64_t last[T_GROUPS], e[T_GROUPS], committed[T_GROUPS]; /* the logs' ends, for making sensible appends */

    struct rec *got;
    uint32_t n_got, cap_got;
    bool done;
    int err;
    char why[256];
    unsigned errors; /* on_error calls */
    const uint8_t *payload; /* for the next entry, instead of the pattern of its id */
};

void t_init(struct wal_test *t, uint64_t seed, uint64_t wal_bytes);
void t_free(struct wal_test *t);
/* A process starts and recovers; returns its error. The replay is in got. */
int t_start(struct wal_test *t);
/* The same, crashing the process at its nth disk operation of the recovery (0: never). -ECANCELED when it crashed. */
int t_start_crashing(struct wal_test *t, uint64_t nth, enum sim_crash how);
/* got against the list; then the list ends where the replay did. */
void t_check(struct wal_test *t);
void t_start_ok(struct wal_test *t); /* t_start, t_check */
void t_crash(struct wal_test *t, enum sim_crash how);
void t_settle(struct wal_test *t); /* until all that was appended is durable */
void t_turn(struct wal_test *t);   /* one turn, no time for completions */

void t_entry_kind(struct wal_test *t, uint64_t group, enum entry_kind kind, uint32_t blocks, bool refill, uint64_t slot, uint64_t e);
void t_entry(struct wal_test *t, uint64_t group, uint32_t blocks); /* the next WRITE of a group */
void t_refill(struct wal_test *t, uint32_t rec);                   /* appends a copy of record number rec as a refill */
void t_promise(struct wal_test *t, uint64_t group, uint64_t round, uint64_t lease);
void t_cut(struct wal_test *t, uint64_t group, uint64_t slot);
void t_slot(struct wal_test *t, enum wal_record_type type, uint64_t group, uint64_t slot);
void t_group(struct wal_test *t, uint64_t group, uint64_t size);
void t_random(struct wal_test *t, uint32_t max_blocks); /* a sensible random record */
/* The position after the last record, remembered. */
uint32_t t_cut_position(struct wal_test *t);
void t_trim(struct wal_test *t, uint32_t cut);

/* Reads record i's entry again and compares. */
void t_read(struct wal_test *t, uint32_t i);
struct entry *t_make_entry(struct wal_test *t, const struct rec *r);

/* ---- images ---- */

uint8_t *t_image(struct wal_test *t); /* malloc'ed copy of the disk */
void t_put_image(struct wal_test *t, const uint8_t *image);
/* A second process world with this image and t's list and root (deep copies). */
void t_fork(struct wal_test *to, const struct wal_test *t, const uint8_t *image);

struct t_batch {
    uint64_t lsn, seq, bytes;
    uint32_t desc_pages, flags, n_records;
    uint64_t incarnation;
};
/* The batches of an image from lsn on, as the chain has them. */
uint32_t t_batches(const struct wal_test *t, const uint8_t *image, uint64_t lsn, struct t_batch *ret, uint32_t max);

/* ---- a model: what records amount to ---- */

struct model_slot {
    uint64_t e, id;
    bool lost;
};
struct model_group {
    uint64_t base; /* slot before the first one told */
    uint64_t last;
    struct model_slot slot[T_SLOTS];
    uint64_t promised, lease, commit, fuzzy, needs_copy, size;
    bool created;
};
struct model {
    struct model_group g[MODEL_GROUPS];
};
struct model *model_new(void);
void model_apply(struct model *m, const struct rec *r);
/* Equal but for slots that b has lost. Returns how many these are. */
uint32_t model_check(const struct model *a, const struct model *b);

#endif
