/* A binary heap of timers by (time, order of setting).
 *
 * What always holds: slots[t->heap_index].timer == t for every timer that is set, and no slot fires before its parent. */
#include "base/timer.h"

#include <stdio.h>
#include <stdlib.h>

void timer_heap_init(struct timer_heap *h)
{
    *h = (struct timer_heap){0};
}

void timer_heap_free(struct timer_heap *h)
{
    free(h->slots);
    timer_heap_init(h);
}

static bool before(const struct timer_slot *a, const struct timer_slot *b)
{
    if (a->timer->at_ns != b->timer->at_ns)
        return a->timer->at_ns < b->timer->at_ns;
    return a->seq < b->seq;
}

static void put(struct timer_heap *h, uint32_t i, struct timer_slot s)
{
    h->slots[i] = s;
    s.timer->heap_index = i;
}

/* Finds the place of s, beginning with the free place i. */
static void sift(struct timer_heap *h, uint32_t i, struct timer_slot s)
{
    for (; i > 1 && before(&s, &h->slots[i / 2]); i /= 2)
        put(h, i, h->slots[i / 2]);
    for (uint32_t child = 2 * i; child <= h->n; child = 2 * i) {
        if (child < h->n && before(&h->slots[child + 1], &h->slots[child]))
            child++;
        if (!before(&h->slots[child], &s))
            break;
        put(h, i, h->slots[child]);
        i = child;
    }
    put(h, i, s);
}

static void grow(struct timer_heap *h)
{
    uint32_t cap = h->cap ? 2 * h->cap : 64;
    struct timer_slot *slots = realloc(h->slots, cap * sizeof *slots);
    if (!slots) {
        fprintf(stderr, "out of memory: %u timers\n", cap);
        abort();
    }
    h->slots = slots;
    h->cap = cap;
}

void timer_heap_set(struct timer_heap *h, struct timer *t, uint64_t at_ns)
{
    uint32_t i = t->heap_index;
    assert(t->fn);
    if (i == 0) {
        if (h->n + 1 >= h->cap)
            grow(h);
        i = ++h->n;
    } else {
        assert(i <= h->n && h->slots[i].timer == t);
    }
    t->at_ns = at_ns < h->floor_ns ? h->floor_ns : at_ns;
    sift(h, i, (struct timer_slot){t, h->seq++});
}

void timer_heap_cancel(struct timer_heap *h, struct timer *t)
{
    uint32_t i = t->heap_index;
    if (i == 0)
        return;
    assert(i <= h->n && h->slots[i].timer == t);
    t->heap_index = 0;
    struct timer_slot last = h->slots[h->n--];
    if (last.timer != t)
        sift(h, i, last);
}

uint64_t timer_heap_next(const struct timer_heap *h)
{
    return h->n ? h->slots[1].timer->at_ns : UINT64_MAX;
}

void timer_heap_run(struct timer_heap *h, uint64_t now_ns)
{
    assert(now_ns < UINT64_MAX);
    h->floor_ns = now_ns + 1;
    while (h->n && h->slots[1].timer->at_ns <= now_ns) {
        struct timer *t = h->slots[1].timer;
        timer_heap_cancel(h, t);
        t->fn(t);
    }
    h->floor_ns = 0;
}
