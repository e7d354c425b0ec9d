/* Range locks of blocks: see block_lock.h. */
#include "nbdserver/block_lock.h"

#include "base/mark.h"

void block_locks_init(struct block_locks *t)
{
    list_init(&t->shared);
    list_init(&t->exclusive);
    t->next_seq = 1;
}

bool block_locks_empty(const struct block_locks *t)
{
    return list_empty(&t->shared) && list_empty(&t->exclusive);
}

static bool overlap(const struct block_lock *a, const struct block_lock *b)
{
    return a->block < b->block + b->nblocks && b->block < a->block + a->nblocks;
}

static uint32_t count_overlapping(const struct list *head, const struct block_lock *l)
{
    uint32_t n = 0;
    for (const struct list *p = head->next; p != head; p = p->next)
        n += overlap(container_of(p, struct block_lock, link), l);
    return n;
}

bool block_lock_acquire(struct block_locks *t, struct block_lock *l, uint64_t block, uint64_t nblocks, bool exclusive,
                        void (*granted)(struct block_lock *l))
{
    assert(nblocks > 0);
    l->block = block;
    l->nblocks = nblocks;
    l->seq = t->next_seq++;
    l->exclusive = exclusive;
    l->granted = granted;
    l->blockers = count_overlapping(&t->exclusive, l);
    if (exclusive)
        l->blockers += count_overlapping(&t->shared, l);
    list_push_back(exclusive ? &t->exclusive : &t->shared, &l->link);
    MARK_IF(l->blockers, "volume: request waits for a block's lock");
    return block_lock_held(l);
}

/* l no longer stands in the way of the later locks of this list that overlap it. */
static void unblock(struct list *head, const struct block_lock *l)
{
    list_for_each_safe(p, head) {
        struct block_lock *w = container_of(p, struct block_lock, link);
        if (w->seq <= l->seq || !overlap(w, l))
            continue;
        assert(w->blockers > 0); /* l conflicted with it and was there */
        if (--w->blockers == 0)
            w->granted(w);
    }
}

void block_lock_downgrade(struct block_locks *t, struct block_lock *l)
{
    assert(l->exclusive && block_lock_held(l));
    list_remove(&l->link);
    l->exclusive = false;
    list_push_back(&t->shared, &l->link);
    /* Nothing earlier in `shared` overlaps it (it was held), so only later ones waited for it. */
    unblock(&t->shared, l);
}

void block_lock_release(struct block_locks *t, struct block_lock *l)
{
    list_remove(&l->link);
    unblock(&t->exclusive, l);
    if (l->exclusive)
        unblock(&t->shared, l);
}
