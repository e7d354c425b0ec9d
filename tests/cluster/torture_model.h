/* What a volume may hold, byte for byte, after writes of which some were never answered.
 *
 * The model lives in a file that is mapped shared, so that it outlives the load generator: the volume is checked
 * against it after everything was killed.
 *
 *   - Each slot owns a region of its own (regions meet in the middle of blocks) and has at most one request
 * outstanding, so that "later" has a meaning in every byte.
 *   - A byte's allowed values: what the last ACKNOWLEDGED write put there, or what any LATER unacknowledged write would
 * have put there.
 *   - An acknowledged write ends the ambiguity of the bytes that it covers: a lost write that shows up after it is a
 * ghost.
 *   - A read of an ambiguous byte decides it (the session that it was lost with is over): it may not change its mind
 * afterwards.
 *
 * A write's content follows from its sequence number and the byte's offset, so that every misplaced, stale or mixed
 * byte can be told. */
#ifndef QBD_TESTS_TORTURE_MODEL_H
#define QBD_TESTS_TORTURE_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MODEL_SLOTS_MAX 256
#define MODEL_UNKNOWN_MAX 64
#define MODEL_ZEROES 0u /* the sequence number of content that is all zero */

struct model_unknown {
    uint64_t offset; /* in the volume */
    uint64_t seq;    /* its content, MODEL_ZEROES for zeroes */
    uint64_t len;
};

struct model_slot {
    uint64_t first, end; /* its region */
    uint64_t last_seq;
    uint64_t n_unknown;
    struct model_unknown unknown[MODEL_UNKNOWN_MAX]; /* oldest first */
};

/* The file's beginning. Scripts read acked_writes to see that the load flows: keep its place. */
struct model_header {
    char magic[8];
    uint64_t first, span; /* bytes of the volume under test */
    uint64_t n_slots;
    uint64_t seed;
    uint64_t max_len;
    uint64_t reserved[2];
    uint64_t acked_writes; /* at byte 64 */
    uint64_t reconnects;   /* at byte 72 */
    struct model_slot slots[MODEL_SLOTS_MAX];
};

struct model {
    struct model_header *h;
    uint8_t *acked; /* span bytes: what the last acknowledged writes left */
    size_t map_bytes;
};

/* Opens the file, or makes it (the volume is taken to be all zero then). Dies with a message when it cannot. */
void model_open(struct model *m, const char *path, uint64_t first, uint64_t span, unsigned n_slots, uint64_t max_len,
                uint64_t seed);
void model_content(const struct model *m, uint64_t seq, uint64_t offset, uint8_t *to, size_t len);
/* A new sequence number of the slot. */
uint64_t model_next_seq(struct model *m, unsigned slot);
/* From now on the volume may hold it. False when there is no room to remember one more: send the last one again until
 * it is answered. */
bool model_begin(struct model *m, unsigned slot, uint64_t seq, uint64_t offset, uint64_t len);
/* From now on the volume must hold it. */
void model_acked(struct model *m, unsigned slot, uint64_t seq, uint64_t offset, uint64_t len);
bool model_has_room(const struct model *m, unsigned slot);
/* Compares what was read of a slot's region, and decides what was ambiguous. False: prints what is wrong. */
bool model_check(struct model *m, unsigned slot, uint64_t offset, const uint8_t *got, size_t len);

#endif
