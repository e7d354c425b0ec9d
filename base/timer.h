/* A heap of timers: the part of a reactor that the kernel's and the simulator's share.
 *
 * Timers fire in the order of their times, those of equal times in the order in which they were set. */
#ifndef QBD_BASE_TIMER_H
#define QBD_BASE_TIMER_H

#include "base/io.h"

struct timer_slot {
    struct timer *timer;
    uint64_t seq;
};

struct timer_heap {
    struct timer_slot *slots; /* slots[1] is the first to fire; slots[0] is unused, so that index 0 means "not set" */
    uint32_t n, cap;
    uint64_t seq;
    uint64_t floor_ns; /* while timers fire: what is set for the past waits for the next turn */
};

void timer_heap_init(struct timer_heap *h);
void timer_heap_free(struct timer_heap *h);
/* (Re)sets t. Aborts the process with a message when the system is out of memory. */
void timer_heap_set(struct timer_heap *h, struct timer *t, uint64_t at_ns);
void timer_heap_cancel(struct timer_heap *h, struct timer *t); /* no-op when not set */
/* When the next one fires; UINT64_MAX: none is set. */
uint64_t timer_heap_next(const struct timer_heap *h);
/* Fires all that are due at now_ns. They may set and cancel any timer; what they set fires in a later call. */
void timer_heap_run(struct timer_heap *h, uint64_t now_ns);

#endif
