/* The overlay: what was applied and not yet written back, in memory (store.md §2 "Apply").
 *
 * There are two generations. Entries are applied to the active one; a checkpoint freezes it (the generations swap) and
 * drops the frozen one leaf by leaf as it is written back.
 *
 * What always holds:
 *  - a block stands in a generation as a page, as zero, as lost or in a reference, never as two of them.
 *  - a slab that a reference names, and that is replaced by another reference in the same generation, is mapped by no leaf and will be by none:
 *    it is dropped.
 *  - the active generation is newer than the frozen one, which is newer than the disk: readers look in that order.
 *  - pages refer to the entries' own payload; nothing is copied.
 *  - ranges that read as zero cost bits, and nothing at all where nothing was ever written. */
#include "replica/store_internal.h"

#include <errno.h>
#include <stdlib.h>

#include "base/mark.h"

void *pool_get(struct pool *p)
{
    void *o = p->free;
    if (!o)
        return store_calloc(1, p->size);
    memcpy(&p->free, o, sizeof p->free);
    return o;
}

void pool_put(struct pool *p, void *o)
{
    memcpy(o, &p->free, sizeof p->free);
    p->free = o;
}

void pool_drain(struct pool *p)
{
    while (p->free)
        free(pool_get(p));
}

static struct oleaf *leaf_for_change(struct store *s, struct region *r, unsigned l)
{
    if (!r->overlay[s->gen]) {
        r->overlay[s->gen] = pool_get(&s->oleaf_array_pool);
        memset(r->overlay[s->gen], 0, REGION_LEAVES * sizeof *r->overlay[0]);
        s->overlay_bytes[s->gen] += REGION_LEAVES * sizeof *r->overlay[0];
    }
    struct oleaf **o = &r->overlay[s->gen][l];
    if (!*o) {
        *o = pool_get(&s->oleaf_pool);
        memset(*o, 0, sizeof **o);
        s->overlay_bytes[s->gen] += sizeof **o;
        if (r->n_overlay[s->gen]++ == 0)
            list_push_back(&s->overlay_regions[s->gen], &r->overlay_link[s->gen]);
    }
    return *o;
}

static void drop_page(struct store *s, unsigned gen, struct oleaf *o, unsigned i)
{
    struct oslab *os = o->slab[i / SLAB_BLOCKS];
    unsigned b = i % SLAB_BLOCKS;
    buf_unref(os->page[b].buf);
    os->mask &= (uint16_t) ~(1u << b);
    o->n_pages--;
    s->overlay_bytes[gen] -= BLOCK_SIZE;
    if (os->mask == 0) {
        pool_put(&s->oslab_pool, os);
        o->slab[i / SLAB_BLOCKS] = NULL;
        s->overlay_bytes[gen] -= sizeof *os;
    }
}

static bool has_page(const struct oleaf *o, unsigned i)
{
    return o->slab && o->slab[i / SLAB_BLOCKS] && o->slab[i / SLAB_BLOCKS]->mask >> (i % SLAB_BLOCKS) & 1;
}

static void clear_ref(struct oleaf *o, unsigned i);

static void set_page(struct store *s, struct oleaf *o, unsigned i, struct buf *buf, uint32_t off, uint32_t crc)
{
    if (!o->slab) {
        o->slab = pool_get(&s->slab_array_pool);
        memset(o->slab, 0, LEAF_SLABS * sizeof *o->slab);
        s->overlay_bytes[s->gen] += LEAF_SLABS * sizeof *o->slab;
    }
    struct oslab **os = &o->slab[i / SLAB_BLOCKS];
    if (!*os) {
        *os = pool_get(&s->oslab_pool);
        (*os)->mask = 0;
        s->overlay_bytes[s->gen] += sizeof **os;
    }
    unsigned b = i % SLAB_BLOCKS;
    struct opage *p = &(*os)->page[b];
    if ((*os)->mask >> b & 1) {
        buf_unref(p->buf);
    } else {
        (*os)->mask |= (uint16_t)(1u << b);
        o->n_pages++;
        s->overlay_bytes[s->gen] += BLOCK_SIZE;
        o->zero[i / 64] &= ~(UINT64_C(1) << (i % 64));
        o->trim[i / 64] &= ~(UINT64_C(1) << (i % 64));
        o->lost[i / 64] &= ~(UINT64_C(1) << (i % 64));
    }
    clear_ref(o, i);
    *p = (struct opage){.buf = buf_ref(buf), .off = off, .crc = crc};
}

static void set_zero(struct store *s, struct oleaf *o, unsigned i, bool trim)
{
    if (has_page(o, i))
        drop_page(s, s->gen, o, i);
    uint64_t bit = UINT64_C(1) << (i % 64);
    clear_ref(o, i);
    o->zero[i / 64] |= bit;
    o->lost[i / 64] &= ~bit;
    if (trim)
        o->trim[i / 64] |= bit;
    else
        o->trim[i / 64] &= ~bit;
}

static void clear_ref(struct oleaf *o, unsigned i)
{
    if (o->ref && o->ref[i / SLAB_BLOCKS])
        o->ref[i / SLAB_BLOCKS]->mask &= (uint16_t) ~(1u << (i % SLAB_BLOCKS));
}

/* All of a slab of the leaf, which stands in `slab`. */
static void set_ref(struct store *s, struct oleaf *o, unsigned index, uint32_t slab, const uint32_t *crc)
{
    if (!o->ref) {
        o->ref = pool_get(&s->slab_array_pool);
        memset(o->ref, 0, LEAF_SLABS * sizeof *o->ref);
        s->overlay_bytes[s->gen] += LEAF_SLABS * sizeof *o->ref;
    }
    for (unsigned b = 0; b < SLAB_BLOCKS; b++)
        if (has_page(o, index * SLAB_BLOCKS + b))
            drop_page(s, s->gen, o, index * SLAB_BLOCKS + b);
    slab_bits_set((uint8_t *)o->zero, index, 0);
    slab_bits_set((uint8_t *)o->trim, index, 0);
    slab_bits_set((uint8_t *)o->lost, index, 0);
    struct oref **ref = &o->ref[index];
    if (*ref) {
        MARK("overlay: a reference is replaced by another");
        large_drop_slab(s, (*ref)->slab);
    } else {
        *ref = pool_get(&s->oref_pool);
        o->n_refs++;
        s->overlay_bytes[s->gen] += sizeof **ref;
    }
    (*ref)->slab = slab;
    (*ref)->mask = 0xffff;
    memcpy((*ref)->crc, crc, sizeof (*ref)->crc);
}

static void touch_chunks(struct oleaf *o, unsigned first, unsigned n, uint64_t slot)
{
    for (unsigned c = first / CHUNK_BLOCKS; c <= (first + n - 1) / CHUNK_BLOCKS; c++)
        if (o->changed_at[c] < slot)
            o->changed_at[c] = slot;
}

void overlay_put(struct store *s, struct region *r, uint64_t block, struct buf *buf, uint32_t off, uint32_t crc,
                 uint64_t changed_at)
{
    unsigned i = block % LEAF_BLOCKS;
    struct oleaf *o = leaf_for_change(s, r, block % REGION_BLOCKS / LEAF_BLOCKS);
    set_page(s, o, i, buf, off, crc);
    touch_chunks(o, i, 1, changed_at);
    region_touch(s, r, changed_at);
}

void overlay_put_zero(struct store *s, struct region *r, uint64_t block, bool trim, uint64_t changed_at)
{
    unsigned i = block % LEAF_BLOCKS, l = block % REGION_BLOCKS / LEAF_BLOCKS;
    struct oleaf *o = leaf_for_change(s, r, l);
    set_zero(s, o, i, trim);
    touch_chunks(o, i, 1, changed_at);
    region_touch(s, r, changed_at);
    slabs_reserve_leaf(s, r, l);
}

void overlay_put_lost(struct store *s, struct region *r, uint64_t block, uint64_t changed_at)
{
    overlay_put_zero(s, r, block, false, changed_at);
    unsigned i = block % LEAF_BLOCKS;
    struct oleaf *o = r->overlay[s->gen][block % REGION_BLOCKS / LEAF_BLOCKS];
    o->zero[i / 64] &= ~(UINT64_C(1) << (i % 64));
    o->lost[i / 64] |= UINT64_C(1) << (i % 64);
}

void overlay_touch(struct store *s, struct region *r, unsigned l, unsigned chunk)
{
    leaf_for_change(s, r, l)->touch |= (uint8_t)(1u << chunk);
    slabs_reserve_leaf(s, r, l);
}

static void apply_pages(struct store *s, struct oleaf *o, unsigned first, unsigned n, const struct entry *e,
                        uint32_t from)
{
    /* Through a pointer: indexing u[0].crc itself tells the compiler that the only index is 0, and it makes one turn of
     * this loop. */
    const uint32_t *crc = e->u[0].crc;
    for (unsigned k = 0; k < n; k++)
        set_page(s, o, first + k, e->payload, e->payload_off + (from + k) * BLOCK_SIZE, crc[from + k]);
}

static void apply_zero(struct store *s, struct oleaf *o, unsigned first, unsigned n, bool trim)
{
    if (n < LEAF_BLOCKS || o->n_pages > 0 || o->n_refs > 0) {
        for (unsigned k = 0; k < n; k++)
            set_zero(s, o, first + k, trim);
        return;
    }
    memset(o->zero, 0xff, sizeof o->zero);
    memset(o->trim, trim ? 0xff : 0, sizeof o->trim);
    memset(o->lost, 0, sizeof o->lost);
}

/* As apply_pages, of an entry that went to disk once: its whole slabs are references. */
static void apply_ref(struct store *s, struct oleaf *o, unsigned first, unsigned n, const struct entry *e, uint32_t from, const struct slot_ref *ref)
{
    const uint32_t *crc = e->u[0].crc;
    uint32_t head = ref_head(e->block), end = head + ref->n * SLAB_BLOCKS;
    for (unsigned k = 0; k < n;) {
        uint32_t i = from + k;
        if (i >= head && i < end) {
            set_ref(s, o, (first + k) / SLAB_BLOCKS, ref->slab[(i - head) / SLAB_BLOCKS], crc + i);
            k += SLAB_BLOCKS; /* a leaf begins and ends between slabs */
            continue;
        }
        uint32_t page = ref->compact && i >= end ? i - ref->n * SLAB_BLOCKS : i;
        set_page(s, o, first + k, e->payload, e->payload_off + page * BLOCK_SIZE, crc[i]);
        k++;
    }
}

/* A leaf that is nowhere reads as zero already: there is nothing to write down, and no replica at or below this slot
 * has anything else there. One that is unknown is another matter: after this entry its blocks are known to be zero. */
static bool leaf_is_nowhere(const struct region *r, unsigned l)
{
    return !leaf_present(r, l) && !overlay_leaf(r, 0, l) && !overlay_leaf(r, 1, l) && !r->cached[l] && !leaf_unknown(r, l);
}

void overlay_apply(struct store *s, struct group *g, const struct entry *e, const struct slot_ref *ref)
{
    uint64_t block = e->block, end = e->block + e->nblocks;
    while (block < end) {
        uint64_t number = block / REGION_BLOCKS, stop = (block / LEAF_BLOCKS + 1) * LEAF_BLOCKS;
        unsigned l = block % REGION_BLOCKS / LEAF_BLOCKS, first = block % LEAF_BLOCKS;
        struct region *r = e->kind == ENTRY_WRITE ? region_make(s, g, number) : region_find(s, g, number);
        if (!r && e->kind == ENTRY_WRITE) {
            store_fatal(s, -ENOSPC, "the region table is full: make the replica anew with more meta pages");
            return;
        }
        if (!r)
            stop = (number + 1) * REGION_BLOCKS;
        if (stop > end)
            stop = end;
        if (r && (e->kind == ENTRY_WRITE || !leaf_is_nowhere(r, l))) {
            struct oleaf *o = leaf_for_change(s, r, l);
            unsigned n = (unsigned)(stop - block);
            if (e->kind == ENTRY_WRITE && ref)
                apply_ref(s, o, first, n, e, (uint32_t)(block - e->block), ref);
            else if (e->kind == ENTRY_WRITE)
                apply_pages(s, o, first, n, e, (uint32_t)(block - e->block));
            else
                apply_zero(s, o, first, n, e->kind == ENTRY_TRIM);
            if (e->kind != ENTRY_WRITE && leaf_unknown(r, l))
                slabs_reserve_leaf(s, r, l);
            s->trimmed |= e->kind == ENTRY_TRIM;
            touch_chunks(o, first, n, e->slot);
            region_touch(s, r, e->slot);
            if (r->n_bad)
                bad_cleared(s, r, l, first, n);
        }
        block = stop;
    }
}

static const struct oref *ref_at(const struct oleaf *o, unsigned i)
{
    const struct oref *ref = o->ref ? o->ref[i / SLAB_BLOCKS] : NULL;
    return ref && ref->mask >> (i % SLAB_BLOCKS) & 1 ? ref : NULL;
}

enum overlay_state overlay_find(const struct store *s, const struct region *r, uint64_t block, const struct opage **ret)
{
    unsigned i = block % LEAF_BLOCKS, l = block % REGION_BLOCKS / LEAF_BLOCKS;
    for (unsigned k = 0; k < 2; k++) {
        const struct oleaf *o = overlay_leaf(r, s->gen ^ k, l);
        if (!o)
            continue;
        if (has_page(o, i)) {
            *ret = &o->slab[i / SLAB_BLOCKS]->page[i % SLAB_BLOCKS];
            return OVERLAY_PAGE;
        }
        if (o->zero[i / 64] >> (i % 64) & 1)
            return OVERLAY_ZERO;
        if (o->lost[i / 64] >> (i % 64) & 1)
            return OVERLAY_LOST;
        if (ref_at(o, i))
            return OVERLAY_REF;
    }
    return OVERLAY_NONE;
}

const struct oref *overlay_find_ref(const struct store *s, const struct region *r, uint64_t block)
{
    unsigned i = block % LEAF_BLOCKS, l = block % REGION_BLOCKS / LEAF_BLOCKS;
    const struct oleaf *newer = overlay_leaf(r, s->gen, l), *older = overlay_leaf(r, s->gen ^ 1u, l);
    const struct oref *ref = newer ? ref_at(newer, i) : NULL;
    return ref || !older ? ref : ref_at(older, i);
}

void overlay_drop_leaf(struct store *s, struct region *r, unsigned gen, unsigned l)
{
    struct oleaf *o = overlay_leaf(r, gen, l);
    if (!o)
        return;
    for (unsigned i = 0; o->slab && i < LEAF_SLABS; i++)
        for (unsigned b = 0; o->slab[i] && b < SLAB_BLOCKS; b++)
            if (o->slab[i]->mask >> b & 1)
                drop_page(s, gen, o, i * SLAB_BLOCKS + b);
    if (o->slab) {
        pool_put(&s->slab_array_pool, o->slab);
        s->overlay_bytes[gen] -= LEAF_SLABS * sizeof *o->slab;
    }
    for (unsigned i = 0; o->ref && i < LEAF_SLABS; i++)
        if (o->ref[i]) { /* the leaf maps its slab by now */
            pool_put(&s->oref_pool, o->ref[i]);
            s->overlay_bytes[gen] -= sizeof **o->ref;
        }
    if (o->ref) {
        pool_put(&s->slab_array_pool, o->ref);
        s->overlay_bytes[gen] -= LEAF_SLABS * sizeof *o->ref;
    }
    assert(o->n_pages == 0);
    pool_put(&s->oleaf_pool, o);
    s->overlay_bytes[gen] -= sizeof *o;
    r->overlay[gen][l] = NULL;
    if (--r->n_overlay[gen] == 0) {
        list_remove(&r->overlay_link[gen]);
        pool_put(&s->oleaf_array_pool, r->overlay[gen]);
        r->overlay[gen] = NULL;
        s->overlay_bytes[gen] -= REGION_LEAVES * sizeof *r->overlay[0];
    }
}

bool overlay_is_empty(const struct store *s, unsigned gen)
{
    return list_empty(&s->overlay_regions[gen]);
}

bool overlay_has_group(const struct store *s, const struct group *g)
{
    for (unsigned gen = 0; gen < 2; gen++)
        list_for_each(n, &s->overlay_regions[gen]) if (container_of(n, struct region, overlay_link[gen])->group == g)
            return true;
    return false;
}
