/* Slabs: which are in use, which are promised, how the store grows (store.md §2 "Space").
 *
 * What always holds:
 *  - slabs_free counts the clear bits of `used` below slabs_total. A slab that was given up stays in `used` (and in
 * `pending`) until the root that no longer refers to it is durable.
 *  - the bitmap on disk is `used` without `pending` and `loose`: right for the root that it belongs to. A loose slab is one that a large write took and no leaf
 *    maps yet (large.c): the WAL alone knows whose it is.
 *  - each slab that an entry in the log or the overlay will need, and that no leaf maps, is reserved once (in its
 * region). Reservations may be too many until the cycle's end counts them anew, never too few. A slab that was already
 * assigned is never refused: what credits did not foresee comes out of the reserve. */
#include "replica/store_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/mark.h"

static uint64_t bitmap_slabs(const struct store *s)
{
    return (uint64_t)s->root->n_bitmap_pages * BITMAP_BITS;
}

static void set_total(struct store *s)
{
    uint64_t total = s->sb.n_extents * s->slabs_per_extent;
    s->slabs_total = total < bitmap_slabs(s) ? total : bitmap_slabs(s);
}

static void grow_again(struct timer *t)
{
    struct store *s = container_of(t, struct store, grow_timer);
    s->grow_blocked = false;
    store_schedule_kick(s);
}

/* The root is in force. */
void slabs_init(struct store *s)
{
    s->slabs_per_extent = s->sb.extent_bytes / SLAB_BYTES;
    s->used = store_calloc(s->root->n_bitmap_pages, BITMAP_BITS / 8);
    s->pending = store_calloc(s->root->n_bitmap_pages, BITMAP_BITS / 8);
    s->loose = store_calloc(s->root->n_bitmap_pages, BITMAP_BITS / 8);
    s->more = store_calloc(s->root->n_bitmap_pages, BITMAP_BITS / 8);
    s->kept = store_calloc(s->root->n_bitmap_pages, BITMAP_BITS / 8);
    s->grow_timer.fn = grow_again;
    list_init(&s->reserved_regions);
    set_total(s);
}

void slabs_count(struct store *s)
{
    s->slabs_free = 0;
    for (uint64_t i = 0; i < s->slabs_total; i++)
        s->slabs_free += !bit_get(s->used, i);
}

void slabs_free_memory(struct store *s)
{
    free(s->used);
    free(s->pending);
    free(s->loose);
    free(s->more);
    free(s->kept);
    free(s->pending_list);
}

static void mark_bitmap_dirty(struct store *s, uint64_t slab)
{
    bit_set(s->meta_dirty, s->root->bitmap_page0 + slab / BITMAP_BITS);
}

static uint32_t take(struct store *s, uint64_t slab)
{
    kept_forget(s, (uint32_t)slab);
    bit_set(s->used, slab);
    mark_bitmap_dirty(s, slab);
    s->slabs_free--;
    s->slab_cursor = slab + 1;
    return (uint32_t)slab;
}

/* May it be taken? Those that the log refers to only when there are no others. */
static bool is_free(const struct store *s, uint64_t slab, bool kept_too)
{
    if (bit_get(s->used, slab) || (!kept_too && bit_get(s->kept, slab)))
        return false;
    return list_empty(&s->value_reads) || !large_is_read(s, slab);
}

static uint32_t find_free(struct store *s, bool kept_too)
{
    uint64_t i = s->slab_cursor, total = s->slabs_total;
    for (uint64_t looked = 0; looked < total + 8; looked++, i++) {
        if (i >= total)
            i = 0;
        if (i % 8 == 0 && s->used[i / 8] == 0xff) {
            i += 7;
            looked += 7;
            continue;
        }
        if (is_free(s, i, kept_too))
            return take(s, i);
    }
    return SLAB_NONE;
}

uint32_t slab_alloc(struct store *s)
{
    uint32_t slab = SLAB_NONE;
    if (s->slabs_free > s->n_kept_free)
        slab = find_free(s, false);
    if (slab == SLAB_NONE && s->slabs_free > 0) {
        MARK("slabs: one is taken that the log refers to");
        slab = find_free(s, true);
    }
    return slab;
}

static bool is_filled(const struct store *s, uint64_t slab)
{
    return !s->extents[slab / s->slabs_per_extent].unfilled;
}

#define RUN_SEARCH_SLABS 16384u /* 1 GiB */

/* n neighbours in one extent, not far from the cursor; UINT64_MAX: none. */
static uint64_t find_run(const struct store *s, uint32_t n)
{
    uint64_t total = s->slabs_total, most = total < RUN_SEARCH_SLABS ? total : RUN_SEARCH_SLABS, i = s->slab_cursor;
    uint32_t have = 0;
    for (uint64_t looked = 0; looked < most + n; looked++, i++) {
        if (i >= total)
            i = 0;
        if (i % s->slabs_per_extent == 0)
            have = 0;
        have = is_free(s, i, false) && is_filled(s, i) ? have + 1 : 0;
        if (have == n)
            return i + 1 - n;
    }
    return UINT64_MAX;
}

static void make_loose(struct store *s, uint32_t slab)
{
    bit_set(s->loose, slab);
    s->n_loose++;
}

static void make_firm(struct store *s, uint32_t slab)
{
    s->n_loose -= bit_get(s->loose, slab);
    s->n_more -= bit_get(s->more, slab);
    bit_clear(s->loose, slab);
    bit_clear(s->more, slab);
}

void slab_is_more(struct store *s, uint32_t slab)
{
    assert(bit_get(s->loose, slab) && !bit_get(s->more, slab));
    bit_set(s->more, slab);
    s->n_more++;
}

bool slabs_take_fresh(struct store *s, uint32_t n, uint32_t *ret)
{
    if (s->slabs_free < n + s->n_kept_free)
        return false;
    uint64_t run = find_run(s, n);
    MARK_IF(run == UINT64_MAX && n > 1, "slabs: no neighbours for a large write");
    for (uint32_t i = 0; i < n; i++) {
        uint32_t slab = run == UINT64_MAX ? find_free(s, false) : take(s, run + i);
        if (slab != SLAB_NONE && is_filled(s, slab)) {
            make_loose(s, slab);
            ret[i] = slab;
            continue;
        }
        for (uint32_t k = 0; k < i + (slab != SLAB_NONE); k++) { /* as if nothing had been: nobody wrote to them */
            uint32_t back = k < i ? ret[k] : slab;
            make_firm(s, back);
            bit_clear(s->used, back);
            s->slabs_free++;
        }
        return false;
    }
    s->fresh_taken += n;
    return true;
}

bool slab_claim(struct store *s, uint32_t slab)
{
    if (slab >= s->slabs_total || bit_get(s->used, slab))
        return false;
    s->n_kept_free -= bit_get(s->kept, slab);
    bit_set(s->used, slab);
    make_loose(s, slab);
    slab_is_more(s, slab); /* or not: until the next checkpoint nobody looks */
    s->slabs_free--;
    return true;
}

void slab_settle(struct store *s, uint32_t slab)
{
    assert(bit_get(s->used, slab) && bit_get(s->loose, slab));
    make_firm(s, slab);
    mark_bitmap_dirty(s, slab);
}

uint32_t slabs_neighbours(const struct store *s, const uint32_t *slab, uint32_t n)
{
    uint32_t k = 1;
    while (k < n && slab[k] == slab[0] + k && slab[k] % s->slabs_per_extent != 0)
        k++;
    return k;
}

void slab_release(struct store *s, uint32_t slab)
{
    assert(slab < s->slabs_total && bit_get(s->used, slab) && !bit_get(s->pending, slab));
    if (s->n_pending == s->cap_pending) {
        s->cap_pending = s->cap_pending ? 2 * s->cap_pending : 64;
        s->pending_list = store_realloc(s->pending_list, s->cap_pending * sizeof *s->pending_list);
    }
    s->pending_list[s->n_pending++] = slab;
    bit_set(s->pending, slab);
    mark_bitmap_dirty(s, slab);
}

void slabs_promote(struct store *s)
{
    for (uint64_t i = 0; i < s->n_pending; i++) {
        uint32_t slab = s->pending_list[i];
        make_firm(s, slab);
        s->n_kept_free += bit_get(s->kept, slab);
        bit_clear(s->used, slab);
        bit_clear(s->pending, slab);
    }
    s->slabs_free += s->n_pending;
    s->n_pending = 0;
}

void slabs_fill_page(const struct store *s, uint32_t index, struct bitmap_page *ret)
{
    size_t off = (size_t)index * sizeof ret->used;
    for (size_t i = 0; i < sizeof ret->used; i++)
        ret->used[i] = s->used[off + i] & (uint8_t)~(s->pending[off + i] | s->loose[off + i]);
}

/* ---- reservations ---- */

static void note_reserved(struct store *s, struct region *r)
{
    s->slabs_reserved++;
    if (!r->in_reserved) {
        r->in_reserved = true;
        list_push_back(&s->reserved_regions, &r->reserved_link);
    }
}

void slabs_reserve_leaf(struct store *s, struct region *r, unsigned l)
{
    unsigned k = l / LEAVES_PER_SLAB;
    if (r->entry->leaf_slab[k] != SLAB_NONE || r->reserved_leaf_slab[k])
        return;
    r->reserved_leaf_slab[k] = true;
    note_reserved(s, r);
}

static void reserve_slab(struct store *s, struct region *r, unsigned l, unsigned slab)
{
    if (bit_get(r->entry->mapped, l * LEAF_SLABS + slab) || r->reserved[l] >> slab & 1)
        return;
    r->reserved[l] |= UINT32_C(1) << slab;
    note_reserved(s, r);
    slabs_reserve_leaf(s, r, l);
}

uint64_t slabs_needed(const struct region *r, uint64_t block, uint32_t nblocks)
{
    unsigned l = block % REGION_BLOCKS / LEAF_BLOCKS, first = block % LEAF_BLOCKS / SLAB_BLOCKS,
             last = (block % LEAF_BLOCKS + nblocks - 1) / SLAB_BLOCKS;
    uint64_t n = 0;
    for (unsigned i = first; i <= last; i++)
        n += !bit_get(r->entry->mapped, l * LEAF_SLABS + i) && !(r->reserved[l] >> i & 1);
    unsigned k = l / LEAVES_PER_SLAB;
    return n + (r->entry->leaf_slab[k] == SLAB_NONE && !r->reserved_leaf_slab[k]);
}

void slabs_reserve_block(struct store *s, struct region *r, uint64_t block)
{
    reserve_slab(s, r, block % REGION_BLOCKS / LEAF_BLOCKS, block % LEAF_BLOCKS / SLAB_BLOCKS);
}

void slabs_reserve_entry(struct store *s, struct group *g, const struct entry *e, const struct slot_ref *ref)
{
    if (e->kind != ENTRY_WRITE)
        return;
    uint64_t before = s->slabs_reserved, first = (e->block + SLAB_BLOCKS - 1) / SLAB_BLOCKS;
    for (uint64_t slab = e->block / SLAB_BLOCKS; slab <= (e->block + e->nblocks - 1) / SLAB_BLOCKS; slab++) {
        struct region *r = region_make(s, g, slab / REGION_SLABS);
        if (!r)
            return; /* applying it will be fatal: credits gave out regions that are not there */
        if (ref && slab >= first && slab < first + ref->n) /* it has one already */
            slabs_reserve_leaf(s, r, slab % REGION_SLABS / LEAF_SLABS);
        else
            reserve_slab(s, r, slab % REGION_SLABS / LEAF_SLABS, slab % LEAF_SLABS);
    }
    if (s->slabs_reserved != before)
        store_schedule_kick(s);
}

void slabs_take_reservation(struct store *s, struct region *r, unsigned l, unsigned slab)
{
    if (!(r->reserved[l] >> slab & 1))
        return;
    r->reserved[l] &= ~(UINT32_C(1) << slab);
    s->slabs_reserved--;
}

void slabs_take_leaf_reservation(struct store *s, struct region *r, unsigned l)
{
    if (!r->reserved_leaf_slab[l / LEAVES_PER_SLAB])
        return;
    r->reserved_leaf_slab[l / LEAVES_PER_SLAB] = false;
    s->slabs_reserved--;
}

static void reserve_overlay(struct store *s)
{
    list_for_each(n, &s->overlay_regions[s->gen])
    {
        struct region *r = container_of(n, struct region, overlay_link[s->gen]);
        for (unsigned l = 0; l < REGION_LEAVES; l++) {
            const struct oleaf *o = overlay_leaf(r, s->gen, l);
            for (unsigned i = 0; o && o->slab && i < LEAF_SLABS; i++)
                if (o->slab[i] && !(o->ref && o->ref[i]))
                    reserve_slab(s, r, l, i);
            if (o && (leaf_unknown(r, l) || o->n_refs > 0))
                slabs_reserve_leaf(s, r, l);
        }
    }
}

void slabs_reserve_again(struct store *s)
{
    list_for_each_safe(n, &s->reserved_regions)
    {
        struct region *r = container_of(n, struct region, reserved_link);
        memset(r->reserved, 0, sizeof r->reserved);
        memset(r->reserved_leaf_slab, 0, sizeof r->reserved_leaf_slab);
        r->in_reserved = false;
        list_remove(n);
    }
    s->slabs_reserved = 0;
    reserve_overlay(s);
    copies_reserve_again(s);
    for (unsigned p = 0; p < GROUPS_MAX; p++) {
        struct group *g = s->groups[p];
        for (uint64_t slot = g ? g->applied + 1 : 1; g && slot <= g->last; slot++)
            if (log_slot(g, slot)->entry)
                slabs_reserve_entry(s, g, log_slot(g, slot)->entry, log_slot(g, slot)->ref);
    }
}

/* What an entry takes at most, if nothing before it takes the same. */
static uint64_t entry_needs(struct store *s, const struct group *g, const struct entry *e)
{
    uint64_t need = 0;
    for (uint64_t block = e->block, end = e->block + e->nblocks, stop; block < end; block = stop) {
        stop = (block / LEAF_BLOCKS + 1) * LEAF_BLOCKS;
        if (stop > end)
            stop = end;
        const struct region *r = region_find(s, g, block / REGION_BLOCKS);
        unsigned l = block % REGION_BLOCKS / LEAF_BLOCKS;
        if (e->kind == ENTRY_WRITE)
            need += r ? slabs_needed(r, block, (uint32_t)(stop - block))
                      : (stop - 1) / SLAB_BLOCKS - block / SLAB_BLOCKS + 2;
        else
            need += r && leaf_unknown(r, l);
    }
    return need;
}

uint32_t store_can_take(const struct store *s, struct entry *const *e, uint32_t n)
{
    uint64_t left = s->slabs_free > s->slabs_reserved ? s->slabs_free - s->slabs_reserved : 0;
    for (uint32_t i = 0; i < n; i++) {
        const struct group *g = store_group(s, e[i]->group);
        bool range = e[i]->kind == ENTRY_WRITE || e[i]->kind == ENTRY_TRIM || e[i]->kind == ENTRY_ZERO;
        uint64_t need = g && range ? entry_needs((struct store *)(uintptr_t)s, g, e[i]) : 0; /* looking a region up changes nothing */
        if (need > left)
            return i;
        left -= need;
    }
    return n;
}

/* Kept back for write-back and rebuild: max(256 MiB, 1/64), and an eighth where that would be most of a tiny store. */
static uint64_t reserve(const struct store *s)
{
    uint64_t total = s->slabs_total;
    if (total * SLAB_BYTES < (UINT64_C(2) << 30))
        return total / 8;
    uint64_t floor = (UINT64_C(256) << 20) / SLAB_BYTES;
    return total / 64 > floor ? total / 64 : floor;
}

uint64_t slabs_to_spare(const struct store *s)
{
    uint64_t taken = s->slabs_reserved + s->n_value_slabs + reserve(s);
    return s->slabs_free > taken ? s->slabs_free - taken : 0;
}

uint64_t slabs_credit(const struct store *s)
{
    uint64_t credit = slabs_to_spare(s);
    uint64_t regions = s->regions_cap - s->regions_used; /* each slab may be the first of a region */
    regions = regions > REGIONS_SPARE ? regions - REGIONS_SPARE : 0;
    return credit < regions ? credit : regions;
}

bool slabs_are_out(const struct store *s)
{
    return s->slabs_free <= s->slabs_reserved + reserve(s) / 2;
}

/* What a front end may have in flight. */
static uint64_t in_flight_most(const struct store *s)
{
    uint64_t most = (UINT64_C(16) << 20) / SLAB_BYTES;
    return most > s->slabs_total / 16 ? s->slabs_total / 16 : most;
}

bool slabs_are_low(const struct store *s)
{
    return slabs_to_spare(s) < in_flight_most(s);
}

bool slabs_are_short(const struct store *s)
{
    return slabs_credit(s) < in_flight_most(s) && !s->growing && !slabs_can_grow(s);
}

uint64_t slabs_returning(const struct store *s)
{
    return s->n_pending + (s->n_loose - s->n_more);
}

/* Write-back needs what is reserved. A piece of catch-up may ask for more than there is: then the next extent is awaited. */
bool slabs_must_grow(const struct store *s)
{
    bool wait = s->slabs_free < s->slabs_reserved && (s->growing || slabs_can_grow(s));
    MARK_IF(wait, "slabs: a checkpoint waits for another extent");
    return wait;
}

/* ---- growth ---- */

#define FRESH_BYTES (UINT64_C(512) << 20)

bool slabs_can_grow(const struct store *s)
{
    uint64_t bytes = (s->sb.n_extents + UINT64_C(1)) * s->sb.extent_bytes;
    return !s->grow_blocked && s->dir && (s->sb.capacity_bytes == 0 || bytes <= s->sb.capacity_bytes) &&
           (s->sb.n_extents + UINT64_C(1)) * s->slabs_per_extent <= bitmap_slabs(s);
}

static void on_superblock(void *user, int err)
{
    struct store *s = user;
    s->growing = false;
    if (err) {
        store_fatal(s, err, "the superblock can't be written");
        return;
    }
    /* Only now the new extent counts: recovery would not open it before. */
    MARK("slabs: grown");
    s->sb = s->grown;
    uint32_t n = s->sb.n_extents;
    s->extents = store_realloc(s->extents, n * sizeof *s->extents);
    s->extents[n - 1] = (struct extent){.dev = s->create_op.dev, .unfilled = s->create_op.allocate_only};
    uint64_t before = s->slabs_total;
    set_total(s);
    s->slabs_free += s->slabs_total - before; /* their bits are clear */
    store_schedule_kick(s);
}

static void on_created(struct io_op *op)
{
    struct dev_create_op *c = container_of(op, struct dev_create_op, op);
    struct store *s = container_of(c, struct store, create_op);
    if (op->result < 0) {
        MARK("slabs: no room for another extent");
        /* No room for another extent now: go on with what there is, credits say so. */
        s->growing = false;
        s->grow_blocked = true;
        if (!s->closing)
            timer_set(s->reactor, &s->grow_timer, io_now(s->reactor) + GROW_RETRY_NS);
        store_schedule_kick(s);
        return;
    }
    s->grown = s->sb;
    s->grown.n_extents++;
    s->grown.generation++;
    superblock_seal(&s->grown);
    superblock_write(s->superblock_dev, &s->grown, on_superblock, s);
}

static bool is_copied_to(const struct store *s)
{
    for (unsigned i = 0; i < GROUPS_MAX; i++)
        if (s->groups[i] && s->groups[i]->n_unknown > 0)
            return true;
    return false;
}

/* How far ahead of need: half an extent's credit. A copy takes it faster than another one is filled: a whole one. Large
 * writes want what they take until a checkpoint gives back what they replace, but not more than a quarter of all. */
static uint64_t lead(const struct store *s)
{
    uint64_t least = is_copied_to(s) ? s->slabs_per_extent : (s->slabs_per_extent + 1) / 2, fresh = FRESH_BYTES / SLAB_BYTES;
    if (fresh > s->slabs_total / 4)
        fresh = s->slabs_total / 4;
    return s->fresh_wanted && fresh > least ? fresh : least;
}

/* Those that are free, or will be without another extent. */
static uint64_t free_soon(const struct store *s)
{
    return s->slabs_free + slabs_returning(s);
}

/* An extent is filled with zeroes before it counts. Clients notice that, on the same disk, unless it is done patiently; but writes wait when it comes too late. So as with write-back: as large a
 * part of it is to be filled as of what is left for writes has been taken, and a fifth of that to spare. */
void slabs_pace_growth(struct store *s)
{
    uint64_t kept = s->slabs_reserved + reserve(s), left = free_soon(s) > kept ? free_soon(s) - kept : 0, ahead = lead(s);
    uint64_t taken = left < ahead ? ahead - left : 0;
    uint64_t due = s->sb.extent_bytes / ahead * taken / 5 * 6;
    uint64_t done = atomic_load_explicit(&s->create_op.done_bytes, memory_order_relaxed);
    unsigned patience = !store_has_clients(s) || left == 0 ? 0 : done >= due ? 32 : due - done < s->sb.extent_bytes / 16 ? 4 : 0;
    atomic_store_explicit(&s->create_op.patience, patience, memory_order_relaxed);
}

void slabs_maybe_grow(struct store *s)
{
    if (s->growing || s->superblock_read || s->closing || s->dead || !s->ready || !slabs_can_grow(s))
        return;
    if (free_soon(s) >= s->slabs_reserved + reserve(s) + lead(s))
        return;
    char name[32];
    snprintf(name, sizeof name, "extents/%05u", s->sb.n_extents);
    s->growing = true;
    atomic_store_explicit(&s->create_op.done_bytes, 0, memory_order_relaxed);
    slabs_pace_growth(s);
    /* Nobody else writes, and the copy writes all of it in large pieces: zeroes before that would be a third of the disk's work. */
    s->create_op.allocate_only = is_copied_to(s) && !store_has_clients(s);
    s->create_op.op.fn = on_created;
    dev_create(s->dir, name, s->sb.extent_bytes, &s->create_op);
}
