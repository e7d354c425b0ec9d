/* Coverage marks: how often a rare branch was taken. The simulator runs the object code that ships, so the marks ship too: an increment each, and nobody but the simulator reads them.
 *
 *     MARK("wal: wrapped");
 *
 * What always holds: marks of one name count as one; a mark reads nothing and decides nothing. They need no symbol from elsewhere, so that the consensus core may have them. */
#ifndef QBD_BASE_MARK_H
#define QBD_BASE_MARK_H

#include <stddef.h>
#include <stdint.h>

struct mark {
    const char *name;
    uint64_t count;
} __attribute__((aligned(16)));

/* Several threads may pass it: a count may then be lost, no more. */
#define MARK(text)                                                                                                                                             \
    do {                                                                                                                                                       \
        static struct mark mark_here __attribute__((section("qbd_marks"), used)) = {text, 0};                                                                  \
        __atomic_store_n(&mark_here.count, __atomic_load_n(&mark_here.count, __ATOMIC_RELAXED) + 1, __ATOMIC_RELAXED);                                         \
    } while (0)

#define MARK_IF(condition, text)                                                                                                                              \
    do {                                                                                                                                                       \
        if (condition)                                                                                                                                         \
            MARK(text);                                                                                                                                        \
    } while (0)

/* mark.c: all of the program's, in no useful order. */
struct mark *mark_first(void);
size_t mark_count(void);

#endif
