/* The jump (docs/rebuild.md section 3): this replica's log does not reach what peers' logs still hold, so its position
 * becomes a peer's, and every block that may have changed in between becomes unknown.
 *
 * First a drain: the group's overlay is written back, and nothing is installed any more. Then, in one turn and while no
 * cycle is under way: marks, position, log; and the cycle that makes them durable begins.
 *
 * What always holds:
 *  - no COMMIT record of the group is written before both roots have the jump: with a root from before it, that record
 * would apply what was never chosen here.
 *  - until then no entry above the jump is handed over (asserted in store.c), for a log with a gap is none.
 *  - a second checkpoint follows the first, so that a newest root that rots leads back to one that has the jump, too.
 *  - a crash before the first root: the old position and log (cut above the jump, when it was emptied), needs copy. */
#include "replica/store_internal.h"

#include <errno.h>

#include "base/mark.h"

/* ---- the drain ---- */

void store_drain(struct store *s, uint64_t group, void (*fn)(void *user), void *user)
{
    struct group *g = store_group(s, group);
    assert(g && g->jumping == JUMP_NONE);
    g->held = true;
    g->drain_fn = fn;
    g->drain_user = user;
    store_schedule_kick(s);
}

void store_jump_cancel(struct store *s, uint64_t group)
{
    struct group *g = store_group(s, group);
    assert(g && g->jumping == JUMP_NONE);
    g->held = false;
    g->drain_fn = NULL;
    if (s->dead)
        return;
    repairs_on_applied(s, g);
    copies_on_applied(s, g);
}

void jump_poll(struct store *s)
{
    for (unsigned p = 0; p < GROUPS_MAX && s->cycle.state == CYCLE_IDLE && !s->dead && !s->closing; p++) {
        struct group *g = s->groups[p];
        if (!g || !g->drain_fn)
            continue;
        if (overlay_has_group(s, g)) {
            s->cycle.again = true;
            continue;
        }
        if (slabs_must_grow(s))
            continue; /* a cycle could not begin now: growing kicks again */
        void (*fn)(void *) = g->drain_fn;
        g->drain_fn = NULL;
        fn(g->drain_user);
    }
}

/* ---- the jump ---- */

static uint32_t marks_of(const struct group *g, const struct store_region *listed, const struct region *r)
{
    if (listed && listed->changed_at <= g->applied)
        return 0;
    return (listed ? listed->present : 0) | (r ? r->entry->present : 0);
}

static int check_listing(const struct store *s, const struct group *g, const struct store_jump *j)
{
    uint64_t regions = (g->size_blocks + REGION_BLOCKS - 1) / REGION_BLOCKS, more = 0;
    for (uint32_t i = 0; i < j->n; i++) {
        const struct store_region *l = &j->listing[i];
        if ((i > 0 && l->region <= j->listing[i - 1].region) || l->region >= regions)
            return -EINVAL;
        const struct region *r = region_find((struct store *)(uintptr_t)s, g, l->region); /* it only remembers what it found last */
        more += !r && marks_of(g, l, NULL) != 0;
    }
    MARK_IF(more > s->regions_cap - s->regions_used, "jump: the region table is too small");
    return more > s->regions_cap - s->regions_used ? -ENOSPC : 0;
}

int store_jump_check(const struct store *s, uint64_t group, const struct store_jump *j)
{
    const struct group *g = store_group(s, group);
    if (!g || !g->needs_copy || !g->held || g->jumping != JUMP_NONE || j->to.slot <= g->applied)
        return -EINVAL;
    if (s->dead || s->closing || s->cycle.state != CYCLE_IDLE || overlay_has_group(s, g) || slabs_must_grow(s))
        return -EAGAIN;
    struct ballot e;
    if (j->keep_log && !(paxos_log_at(&g->log, j->to.slot, &e) && ballot_equal(&e, &j->to.e)))
        return -EINVAL;
    return check_listing(s, g, j);
}

static bool is_listed(const struct store_jump *j, uint32_t region)
{
    uint32_t low = 0, high = j->n;
    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        if (j->listing[mid].region < region)
            low = mid + 1;
        else
            high = mid;
    }
    return low < j->n && j->listing[low].region == region;
}

/* What the donor changed since the own applied slot, and what it has not. */
static void mark(struct store *s, struct group *g, const struct store_jump *j)
{
    for (uint32_t i = 0; i < j->n; i++) {
        const struct store_region *l = &j->listing[i];
        struct region *r = region_find(s, g, l->region);
        uint32_t leaves = marks_of(g, l, r);
        if (!r && leaves)
            r = region_make(s, g, l->region);
        if (!r)
            continue;
        unknown_mark(s, r, leaves);
        region_touch(s, r, l->changed_at);
    }
    for (uint64_t i = 0; i < s->regions_used; i++) {
        if (s->regions[i].group != g->id)
            continue;
        struct region *r = region_find(s, g, s->regions[i].region);
        r->unchanged = 0;
        for (unsigned l = 0; l < REGION_LEAVES; l++)
            if (bad_leaf(r, l))
                r->bad[l]->since = j->to.slot; /* an image from before shows another state */
        if (is_listed(j, r->entry->region))
            continue;
        MARK_IF(r->entry->present, "jump: a region that the donor has not");
        unknown_mark(s, r, marks_of(g, NULL, r));
        region_touch(s, r, j->to.slot);
    }
}

static void move_log(struct store *s, struct group *g, const struct store_jump *j)
{
    uint64_t c = j->to.slot;
    g->applied = c;
    if (j->keep_log) {
        MARK("jump: the log's tail stays");
        log_raise_floor(g, c);
        if (g->uncommitted.n_voters && g->uncommitted.slot <= c)
            memset(&g->uncommitted, 0, sizeof g->uncommitted);
    } else {
        MARK("jump: the log is emptied");
        wal_append_cut(s->wal, store_next_token(s), g->id, c + 1);
        log_cut(g, g->log.base.slot + 1);
        memset(&g->uncommitted, 0, sizeof g->uncommitted);
        g->log.base = j->to;
        g->last = c;
    }
    store_set_committed(s, g, &j->membership);
    g->commit_logged = c;
}

void store_jump(struct store *s, uint64_t group, const struct store_jump *j, void (*fn)(void *user), void *user)
{
    struct group *g = store_group(s, group);
    int err = store_jump_check(s, group, j);
    assert(err == 0);
    mark(s, g, j);
    if (g->applied < g->since)
        g->since = g->applied;
    g->jump = g->image_floor = j->to.slot;
    move_log(s, g, j);
    g->jumping = JUMP_FIRST_ROOT;
    g->jump_fn = fn;
    g->jump_user = user;
    g->drain_fn = NULL;
    store_touch(s);
    cycle_start(s);
    copy_cancel_completion(g);
    repairs_drop(s, g);
    copies_drop(s, g);
}

void jump_on_root(struct store *s, struct group *g)
{
    if (g->jumping == JUMP_NONE)
        return;
    if (g->jumping == JUMP_FIRST_ROOT) {
        g->jumping = JUMP_SECOND_ROOT;
        s->cycle.again = true;
        return;
    }
    MARK("jump: durable in both roots");
    g->jumping = JUMP_NONE;
    g->held = false;
    repairs_on_applied(s, g); /* of damage found meanwhile */
    if (g->jump_fn)
        g->jump_fn(g->jump_user);
}
