/* Replay of the WAL at start (store.md §2 "Recovery"; ST1, ST2): from the state of the checkpoint, in log order, to
 * what is known here and how far it is applied.
 *
 * The WAL is told from its tail on, which is older than the checkpoint: entries at or below the checkpoint's applied
 * slot only say where values for peers are. What the checkpoint named as accepted above its applied slot stands as LOST
 * until the WAL gives the value, so that rot can never shorten the log silently.
 *
 * Gaps may show up on the way (a batch before the tail held what a later cut removed); at the end there must be none
 * above the applied slot. */
#include "replica/store_internal.h"

#include <errno.h>
#include <stdlib.h>

#include "base/mark.h"

#define REPLAY_SLOTS_MAX (1u << 24) /* beyond any log that was ever let in */

static uint32_t ballot_index(struct group *g, const struct ballot *e)
{
    for (uint32_t i = g->n_ballots; i-- > 0;)
        if (ballot_equal(&g->ballots[i], e))
            return i;
    if (g->n_ballots == g->cap_ballots) {
        g->cap_ballots = g->cap_ballots ? 2 * g->cap_ballots : 8;
        g->ballots = store_realloc(g->ballots, g->cap_ballots * sizeof *g->ballots);
    }
    g->ballots[g->n_ballots] = *e;
    return g->n_ballots++;
}

/* NULL: the slot is below the floor, or can't be. */
static struct slot_info *slot_for(struct group *g, uint64_t slot)
{
    if (slot <= g->log.base.slot || slot - g->log.base.slot > REPLAY_SLOTS_MAX)
        return NULL;
    if (slot > g->last)
        log_extend(g, slot);
    return log_slot(g, slot);
}

static void set_lost(struct group *g, uint64_t slot, const struct ballot *e)
{
    struct slot_info *i = slot_for(g, slot);
    uint32_t b = ballot_index(g, e);
    if (!i || (i->state == SLOT_VALUE && i->ballot == b))
        return; /* (slot, e) names one value, and it was seen elsewhere */
    MARK_IF(i->state == SLOT_VALUE, "replay: LOST replaces another ballot's value");
    large_forget(g, slot, i);
    if (i->state == SLOT_VALUE)
        entry_unref(i->entry);
    if (i->state != SLOT_LOST)
        g->n_lost++;
    *i = (struct slot_info){.state = SLOT_LOST, .ballot = b};
}

/* What the checkpoint named above its applied slot: LOST until the WAL gives the value. */
static void seed_tail(struct group *g)
{
    for (uint32_t i = 0; i < g->n_page_tail; i++) {
        const struct run *t = &g->page_tail[i];
        for (uint64_t slot = t->first; slot <= t->last && slot - g->log.base.slot <= REPLAY_SLOTS_MAX; slot++)
            set_lost(g, slot, &t->e);
    }
}

/* A cut at or below the checkpoint's applied slot is older than the checkpoint: what that named stands all the same. */
static void replay_cut(struct group *g, uint64_t slot)
{
    log_cut(g, slot);
    if (slot <= g->page_applied.slot) {
        MARK("replay: cut older than the checkpoint");
        seed_tail(g);
    }
}

void replay_seed(struct store *s, struct group *g, const struct group_page *p)
{
    g->log.base = p->floor;
    g->last = p->floor.slot;
    g->applied = p->applied.slot;
    g->page_applied = p->applied;
    g->page_uncommitted = p->uncommitted;
    g->n_page_tail = p->n_tail < GROUP_TAIL_RUNS ? p->n_tail : GROUP_TAIL_RUNS;
    memcpy(g->page_tail, p->tail, g->n_page_tail * sizeof p->tail[0]);
    seed_tail(g);
}

/* ---- what the WAL tells ---- */

static void apply_what_can_be(struct store *s, struct group *g)
{
    uint64_t through = g->applied;
    while (through < g->replay_commit && through < g->last) {
        const struct slot_info *i = log_slot(g, through + 1);
        if (i->state != SLOT_VALUE || !i->entry)
            break;
        through++;
    }
    if (through > g->applied)
        store_apply(s, g, through);
}

static void on_group(void *user, const struct wal_group *wg)
{
    struct store *s = user;
    if (store_group(s, wg->group))
        return;
    for (unsigned page = 0; page < GROUPS_MAX; page++) {
        if (s->groups[page])
            continue;
        store_group_new(s, wg, page);
        s->mutations++;
        return;
    }
}

static void on_promise(void *user, const struct wal_promise *p)
{
    struct group *g = store_group(user, p->group);
    if (!g)
        return;
    struct ballot b = {.round = p->round};
    memcpy(b.proposer.b, p->proposer, sizeof b.proposer.b);
    if (ballot_compare(&b, &g->promised) > 0)
        g->promised = b;
    if (p->max_lease_ns > g->max_lease_ns)
        g->max_lease_ns = p->max_lease_ns;
}

static void on_cut(void *user, uint64_t group, uint64_t slot)
{
    struct group *g = store_group(user, group);
    if (g && slot > 0)
        replay_cut(g, slot);
}

/* A jump emptied the log, and its CUT stands in a batch that rotted as the newest one. What the checkpoint does not name
 * above its applied slot, and what does not stand where redo begins or later, is none of the log's (cycle's redo_position). */
static bool is_dead(const struct store *s, const struct group *g, const struct entry *e, struct wal_place place)
{
    if (g->jump == 0 || e->slot <= g->page_applied.slot || place.desc_lsn >= s->root->redo_lsn ||
        g->n_page_tail == GROUP_TAIL_RUNS)
        return false;
    for (uint32_t i = 0; i < g->n_page_tail; i++) {
        const struct run *t = &g->page_tail[i];
        if (e->slot >= t->first && e->slot <= t->last && ballot_equal(&e->e, &t->e))
            return false;
    }
    MARK("replay: an entry that a jump dropped");
    return true;
}

/* The slabs of a WRITE_REF. What is not applied brings its ends alone. */
static void note_ref(struct store *s, struct group *g, const struct entry *e, const uint32_t *slab)
{
    struct slot_info *i = log_slot(g, e->slot);
    struct slot_ref *ref = store_calloc(1, sizeof *ref);
    ref->n = ref_slabs(e->block, e->nblocks);
    ref->owned = ref->compact = e->slot > g->applied;
    ref->written = true;
    memcpy(ref->slab, slab, ref->n * sizeof *slab);
    for (uint32_t k = 0; k < ref->n; k++)
        if (slab[k] >= s->slabs_total) {
            s->replay_misrefers = true;
            free(ref);
            return;
        }
    i->ref = ref;
    kept_add(s, g, e->slot, ref);
}

static void on_entry(void *user, struct entry *e, struct wal_place place, const uint32_t *slab, bool refill)
{
    struct store *s = user;
    struct group *g = store_group(s, e->group);
    if (!g)
        s->replay_unknown = e->group;
    if (g && is_dead(s, g, e, place))
        return;
    struct slot_info *i = g ? slot_for(g, e->slot) : NULL;
    if (!i)
        return;
    MARK_IF(i->state == SLOT_LOST, "replay: the WAL has what the checkpoint named");
    if (i->state == SLOT_LOST)
        g->n_lost--;
    large_forget(g, e->slot, i);
    entry_unref(i->entry);
    *i = (struct slot_info){.state = SLOT_VALUE, .place = place, .ballot = ballot_index(g, &e->e)};
    if (e->slot > g->applied)
        i->entry = entry_ref(e);
    if (slab)
        note_ref(s, g, e, slab);
    if (refill)
        apply_what_can_be(s, g);
}

static void on_lost(void *user, uint64_t group, uint64_t cut, uint64_t first, uint64_t last, const struct ballot *e)
{
    struct group *g = store_group(user, group);
    if (!g)
        return;
    if (cut)
        replay_cut(g, cut);
    for (uint64_t slot = first; slot <= last && last - first < REPLAY_SLOTS_MAX; slot++)
        set_lost(g, slot, e);
}

/* What is committed at this place of the log is final: applying it now lets overwritten pages go at once. */
static void on_commit(void *user, uint64_t group, uint64_t slot)
{
    struct group *g = store_group(user, group);
    if (!g)
        return;
    if (slot > g->replay_commit)
        g->replay_commit = slot;
    apply_what_can_be(user, g);
}

static void on_fuzzy(void *user, uint64_t group, uint64_t slot)
{
    struct group *g = store_group(user, group);
    if (g && slot > g->fuzzy_end)
        g->fuzzy_end = slot;
}

/* One from before the checkpoint is in it: the copy that it asked for may be complete by now. */
static void on_needs_copy(void *user, const struct wal_needs_copy *n)
{
    struct group *g = store_group(user, n->group);
    MARK_IF(g && n->slot <= g->page_applied.slot, "replay: NEEDS_COPY older than the checkpoint");
    if (g && n->slot > g->page_applied.slot)
        g->needs_copy = n->on;
}

/* ---- the end ---- */

/* Below the checkpoint's applied slot the extents have everything: a value that is gone only means that peers can't get
 * it here. The floor rises above it. */
static void settle_floor(struct group *g)
{
    uint64_t floor = g->log.base.slot, applied = g->page_applied.slot;
    bool known = true;
    for (uint64_t slot = floor + 1; slot <= applied && slot <= g->last; slot++) {
        const struct slot_info *i = log_slot(g, slot);
        if (i->state == SLOT_VALUE && known)
            continue;
        floor = slot;
        known = i->state != SLOT_NONE; /* its ballot is needed for the base */
    }
    if (g->last < applied || !known)
        floor = applied;
    if (floor == g->log.base.slot)
        return;
    MARK("replay: floor raised above values that are gone");
    struct log_pos base = g->page_applied;
    if (floor < applied)
        base = (struct log_pos){floor, g->ballots[log_slot(g, floor)->ballot]};
    uint64_t last = g->last;
    for (uint64_t slot = g->log.base.slot + 1; slot <= floor && slot <= last; slot++) {
        struct slot_info *i = log_slot(g, slot);
        if (i->state == SLOT_LOST)
            g->n_lost--;
        large_forget(g, slot, i);
        entry_unref(i->entry);
        *i = (struct slot_info){.state = SLOT_NONE};
    }
    g->log.base = base;
    if (g->last < floor)
        g->last = floor;
}

/* 0, or why the log makes no sense. */
static const char *settle_log(struct group *g)
{
    g->log.n = 0;
    const struct slot_info *before = NULL;
    for (uint64_t slot = g->log.base.slot + 1; slot <= g->last; slot++) {
        const struct slot_info *i = log_slot(g, slot);
        if (i->state == SLOT_NONE)
            return "has a hole";
        if (g->log.n == RUNS_MAX && (!before || before->ballot != i->ballot))
            return "has too many runs";
        runs_append(&g->log, slot, &g->ballots[i->ballot]);
        before = i;
        if (slot <= g->applied || !i->entry || i->entry->kind != ENTRY_MEMBER)
            continue;
        g->uncommitted = i->entry->u[0].membership;
        g->uncommitted.slot = slot;
    }
    /* A membership whose value was lost: the checkpoint may know it. */
    const struct membership *m = &g->page_uncommitted;
    if (m->n_voters && !g->uncommitted.n_voters && m->slot > g->applied && m->slot <= g->last &&
        log_slot(g, m->slot)->state == SLOT_LOST)
        g->uncommitted = *m;
    if (g->n_lost > LOST_MAX)
        return "has lost more values than can be named";
    return g->last < g->applied ? "ends before what was applied" : NULL;
}

static void tell_group(struct store *s, struct group *g)
{
    uint64_t *lost = store_calloc(LOST_MAX, sizeof *lost);
    uint32_t n = 0;
    for (uint64_t slot = g->log.base.slot + 1; slot <= g->last && n < LOST_MAX && g->n_lost > 0; slot++)
        if (log_slot(g, slot)->state == SLOT_LOST)
            lost[n++] = slot;
    struct store_group_state st = {
        .group = g->id,
        .size_blocks = g->size_blocks,
        .promised = g->promised,
        .max_lease_ns = g->max_lease_ns,
        .log = &g->log,
        .n_lost = n,
        .lost = lost,
        .committed = g->committed,
        .uncommitted = g->uncommitted,
        .commit = g->applied,
        .fuzzy_end = g->fuzzy_end,
        .needs_copy = g->needs_copy,
        .retired = g->retired,
    };
    s->cb.on_group(s->cb.user, &st);
    free(lost);
}

/* Slabs that large writes took, and that the map in force knows nothing of: from here on they are in use, unless nobody names them any more. */
static bool claim_refs(struct store *s)
{
    list_for_each(n, &s->overlay_regions[s->gen])
    {
        const struct region *r = container_of(n, struct region, overlay_link[s->gen]);
        for (unsigned l = 0; l < REGION_LEAVES; l++) {
            const struct oleaf *o = overlay_leaf(r, s->gen, l);
            for (unsigned i = 0; o && o->ref && i < LEAF_SLABS; i++) {
                const struct oref *ref = o->ref[i];
                if (ref && !slab_claim(s, ref->slab))
                    return false;
            }
        }
    }
    for (unsigned p = 0; p < GROUPS_MAX; p++) {
        struct group *g = s->groups[p];
        for (uint64_t slot = g ? g->applied + 1 : 1; g && slot <= g->last; slot++) {
            const struct slot_ref *ref = log_slot(g, slot)->ref;
            for (uint32_t k = 0; ref && k < ref->n; k++)
                if (!slab_claim(s, ref->slab[k]))
                    return false;
        }
    }
    return true;
}

static void settle(struct store *s)
{
    for (unsigned p = 0; p < GROUPS_MAX; p++) {
        struct group *g = s->groups[p];
        if (!g)
            continue;
        settle_floor(g);
        const char *problem = settle_log(g);
        if (problem) {
            MARK("replay: refused, the log makes no sense");
            opening_done(s, -EBADMSG, "wal: the log of group %llu %s: make the replica anew from its peers",
                         (unsigned long long)g->id, problem);
            return;
        }
    }
    if (s->replay_misrefers || !claim_refs(s)) {
        MARK("replay: refused, a slab has two owners");
        opening_done(s, -EBADMSG, "wal: it refers to a slab that is another's: make the replica anew from its peers");
        return;
    }
    s->ready = true;
    slabs_reserve_again(s);
    for (unsigned p = 0; p < GROUPS_MAX; p++)
        if (s->groups[p])
            tell_group(s, s->groups[p]);
    store_publish(s);
    if (store_dirty(s))
        store_touch(s);
    store_schedule_kick(s);
    opening_done(s, 0, NULL);
}

/* ---- what waits for its commit and went to disk once: its value comes into memory, or it is lost ---- */

static void fill_refs(struct store *s);

static void on_filled(void *user, struct entry *e, int err)
{
    struct store *s = user;
    struct group *g = s->groups[s->fill_page];
    if (err) {
        MARK("replay: the slabs of an entry are rotten");
        struct slot_info *i = log_slot(g, s->fill_slot);
        uint32_t ballot = i->ballot;
        large_forget(g, s->fill_slot, i);
        entry_unref(i->entry);
        *i = (struct slot_info){.state = SLOT_LOST, .ballot = ballot};
        g->n_lost++;
    }
    entry_unref(e);
    s->fill_slot++;
    fill_refs(s);
}

static void fill_refs(struct store *s)
{
    for (; s->fill_page < GROUPS_MAX; s->fill_page++, s->fill_slot = 0) {
        struct group *g = s->groups[s->fill_page];
        if (!g)
            continue;
        if (s->fill_slot <= g->applied)
            s->fill_slot = g->applied + 1;
        for (; s->fill_slot <= g->last; s->fill_slot++) {
            const struct slot_ref *ref = log_slot(g, s->fill_slot)->ref;
            if (!ref || !ref->compact)
                continue;
            MARK("replay: an entry's value is read from its slabs");
            large_fill(s, g, s->fill_slot, on_filled, s);
            return;
        }
    }
    settle(s);
}

static void on_done(void *user, int err, const char *why)
{
    struct store *s = user;
    if (err) {
        opening_done(s, err, "wal: %s", why);
        return;
    }
    if (s->dead) /* while applying */
        return;
    if (s->replay_unknown) {
        MARK("replay: refused, creation of a group lost");
        opening_done(s, -EBADMSG,
                     "wal: it has entries of group %llu, whose creation is lost: make the replica anew from its peers",
                     (unsigned long long)s->replay_unknown);
        return;
    }
    /* Rot of the newest batches can end the WAL before redo: what they held below the checkpoint's position is in the
     * checkpoint, entries above `applied` by name. */
    if (s->root->redo_lsn > wal_head_lsn(s->wal))
        s->root->redo_lsn = wal_head_lsn(s->wal);
    for (unsigned p = 0; p < GROUPS_MAX; p++) {
        struct group *g = s->groups[p];
        if (!g)
            continue;
        apply_what_can_be(s, g);
    }
    fill_refs(s);
}

static bool slab_place(void *user, uint32_t slab, struct dev **ret_dev, uint64_t *ret_off)
{
    struct store *s = user;
    if (slab >= s->slabs_total)
        return false;
    *ret_dev = slab_dev(s, slab);
    *ret_off = slab_offset(s, slab);
    return true;
}

static struct dev *slab_dev_at(void *user, uint32_t i)
{
    struct store *s = user;
    return i < s->sb.n_extents ? s->extents[i].dev : NULL;
}

void replay_begin(struct store *s)
{
    struct wal_replay replay = {
        .on_group = on_group,
        .on_promise = on_promise,
        .on_cut = on_cut,
        .on_entry = on_entry,
        .on_lost = on_lost,
        .on_commit = on_commit,
        .on_fuzzy = on_fuzzy,
        .on_needs_copy = on_needs_copy,
        .slab_place = slab_place,
        .slab_dev = slab_dev_at,
        .on_done = on_done,
        .user = s,
    };
    wal_recover(s->wal, s->root, &replay);
}
