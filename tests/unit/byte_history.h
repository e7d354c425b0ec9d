/* What clients did to a range of bytes and saw in it, and whether one copy of it could have given that: linearizability of every byte.
 *
 * Each write fills its bytes with a value of its own (unique within a history, not 0); zeroing writes 0. Unique values are checked exactly by their zones (Gibbons and Korach, "Testing shared memories");
 * a read of 0 must have a zeroing write that no other write covered for certain. */
#ifndef QBD_TESTS_BYTE_HISTORY_H
#define QBD_TESTS_BYTE_HISTORY_H

#include "base/types.h"

#define HISTORY_OPS_MAX 1024u
#define HISTORY_NEVER UINT64_MAX

struct history_op {
    bool write;
    uint8_t value;       /* write */
    uint8_t *data;       /* read: len bytes, owned */
    uint64_t start, len; /* bytes within the range */
    uint64_t begin, end; /* points in time, all different; end HISTORY_NEVER: never answered, or with an error */
};

struct byte_history {
    uint64_t size;
    uint8_t *initial;
    uint32_t n;
    struct history_op op[HISTORY_OPS_MAX];
};

/* initial: size bytes, copied. Points in time are > 0. */
struct byte_history *byte_history_new(uint64_t size, const uint8_t *initial);
void byte_history_free(struct byte_history *h);
struct history_op *byte_history_add(struct byte_history *h);
/* NULL, or what is wrong, in a static buffer. */
const char *byte_history_check(const struct byte_history *h);

#endif
