/* An export in memory, for tests of the NBD side: it holds submit() to export.h's rules, and completes requests at
 * once, when told to, or in random order after random delays. */
#ifndef QBD_TESTS_NBD_MEMORY_EXPORT_H
#define QBD_TESTS_NBD_MEMORY_EXPORT_H

#include "base/io.h"
#include "nbdserver/export.h"

enum memory_mode {
    MEMORY_AT_ONCE, /* done() is called before submit() returns */
    MEMORY_HOLD,    /* by memory_export_complete() */
    MEMORY_RANDOM,  /* some of those that wait, in random order, each time the timer fires */
};

struct memory_export {
    struct export x; /* first: submit gets a pointer to it */
    struct reactor *reactor;
    uint8_t *bytes;
    enum memory_mode mode;
    uint64_t max_delay_ns; /* RANDOM */
    int fail;              /* the result of requests completed from now on */
    int fail_with_pieces;  /* a failing READ leaves buffers behind that must be dropped */
    struct list held;
    uint32_t n_held, n_held_max;
    struct timer timer;
    /* what was seen */
    uint64_t submitted, completed, abandoned;
    struct {
        enum export_op op;
        uint32_t flags;
        uint64_t offset;
        uint32_t length;
    } last;
};

void memory_export_init(struct memory_export *m, struct reactor *r, const char *name, uint64_t size_bytes);
void memory_export_free(struct memory_export *m);
/* Executes and completes the index-th of the held requests (0: the oldest). */
void memory_export_complete(struct memory_export *m, uint32_t index);
void memory_export_complete_all(struct memory_export *m);

#endif
