/* Types shared by every layer: identities, ballots, members, time.
 *
 * All integers on the wire and on disk are little-endian; this code runs on little-endian hosts only, so that
 * fixed-layout structs can be read and written in place. */
#ifndef QBD_BASE_TYPES_H
#define QBD_BASE_TYPES_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "qbd's formats are little-endian");

#define MUST_USE __attribute__((warn_unused_result))
#define PRINTF_LIKE(f, a) __attribute__((format(printf, f, a)))
#define container_of(p, type, member) ((type *)((char *)(p)-offsetof(type, member)))
#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

#define BLOCK_SIZE 4096u /* the unit of checksums, entries and device I/O */
#define BLOCK_SHIFT 12
#define ENTRY_MAX_BLOCKS 256u /* a WRITE entry carries at most 1 MiB */
#define ENTRY_MAX_BYTES (ENTRY_MAX_BLOCKS * BLOCK_SIZE)
#define ENTRY_MAX_RANGE_BLOCKS 16384u /* a TRIM or ZERO entry covers at most 64 MiB */
#define NAME_MAX_BYTES 64 /* names of replicas, front ends, volumes: NUL-terminated UTF-8 */
#define ADDRESS_MAX_BYTES 112 /* "unix:PATH" or "HOST:PORT" */

/* 128 random bits: a cluster, a replica's disk, a proposer's process. All zero means "none". */
struct uuid {
    uint8_t b[16];
};

static inline bool uuid_equal(const struct uuid *a, const struct uuid *b)
{
    return memcmp(a->b, b->b, sizeof a->b) == 0;
}

static inline bool uuid_is_zero(const struct uuid *a)
{
    static const struct uuid zero;
    return uuid_equal(a, &zero);
}

/* A ballot orders proposers: by round, then by proposer id (protocol.md "State"). Round 0 is no proposer's. */
struct ballot {
    uint64_t round;
    struct uuid proposer;
};

static inline int ballot_compare(const struct ballot *a, const struct ballot *b)
{
    if (a->round != b->round)
        return a->round < b->round ? -1 : 1;
    return memcmp(a->proposer.b, b->proposer.b, sizeof a->proposer.b);
}

static inline bool ballot_equal(const struct ballot *a, const struct ballot *b)
{
    return ballot_compare(a, b) == 0;
}

/* A place in a group's log: the slot and the ballot under which its entry was FIRST proposed. Slots start at 1;
 * slot 0 with the zero ballot is the beginning of every log. */
struct log_pos {
    uint64_t slot;
    struct ballot e;
};

#define MEMBERS_MAX 7

/* Who votes and who learns from a slot on. Fixed layout: it is an entry's content, on the wire and on disk. */
struct membership {
    uint64_t slot; /* where the entry stands in the log; 0 for the one a group was created with */
    uint8_t n_voters;
    uint8_t n_learners;
    uint8_t reserved[6];
    struct uuid voter[MEMBERS_MAX];
    struct uuid learner[MEMBERS_MAX];
};
static_assert(sizeof(struct membership) == 16 + 2 * MEMBERS_MAX * 16, "membership has no padding");

#define NS_PER_MS UINT64_C(1000000)
#define NS_PER_S UINT64_C(1000000000)

#endif
