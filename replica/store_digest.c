/* What replicas compare: digests of chunks and checksums of blocks, at one instant and without reading data; and what follows from the comparison (docs/rebuild.md section 9).
 *
 * What always holds:
 *  - equal contents give equal digests, however they are kept: a hole, a zero bit and a page of zeroes all count as a block of zeroes.
 *  - a chunk's content was the same at every slot from changed_at to the applied one: changed_at may be too high, never too low.
 *  - a chunk with a block that is bad, lost, unknown or disowned is not comparable, nor is anything of a group that needs a copy. */
#include "replica/store_internal.h"

#include <errno.h>
#include <stdlib.h>

#include "base/mark.h"

/* Each step is one to one in h for a given crc and in crc for a given h: two chunks that differ in one block always have different digests. */
static uint64_t digest_of(const uint32_t *crc, uint32_t n)
{
    uint64_t h = n;
    for (uint32_t i = 0; i < n; i++) {
        h = (h ^ crc[i]) * UINT64_C(0x9e3779b97f4a7c15);
        h ^= h >> 29;
    }
    return h;
}

/* False: not comparable. */
static bool block_crc(const struct store *s, const struct region *r, unsigned l, unsigned i, const struct leaf *p,
                      uint32_t *ret)
{
    const struct opage *page;
    *ret = CRC32C_ZERO_BLOCK;
    switch (overlay_find(s, r, leaf_number(r, l) * LEAF_BLOCKS + i, &page)) {
    case OVERLAY_PAGE:
        *ret = page->crc;
        return true;
    case OVERLAY_ZERO:
        return true;
    case OVERLAY_LOST:
        return false;
    case OVERLAY_REF:
        *ret = overlay_find_ref(s, r, leaf_number(r, l) * LEAF_BLOCKS + i)->crc[i % SLAB_BLOCKS];
        return !(bad_leaf(r, l) && bit_get(bad_leaf(r, l)->bits, i));
    case OVERLAY_NONE:
        break;
    }
    if (block_unknown(r, l, i, p) || block_disowned(r, l, i) || (p && bit_get(p->lost, i)))
        return false;
    if (p && p->slab[i / SLAB_BLOCKS] != SLAB_NONE && !bit_get(p->zero, i))
        *ret = p->crc[i];
    return true;
}

/* r NULL: nothing was ever written there. */
static bool chunk_crcs(const struct store *s, const struct region *r, unsigned l, unsigned c, const struct leaf *p,
                       uint32_t n, uint32_t crc[CHUNK_BLOCKS])
{
    for (uint32_t i = 0; i < n; i++) {
        crc[i] = CRC32C_ZERO_BLOCK;
        if (r && !block_crc(s, r, l, c * CHUNK_BLOCKS + i, p, &crc[i]))
            return false;
    }
    return true;
}

static uint32_t blocks_within(const struct group *g, uint64_t block)
{
    if (block >= g->size_blocks)
        return 0;
    uint64_t n = g->size_blocks - block;
    return n < CHUNK_BLOCKS ? (uint32_t)n : CHUNK_BLOCKS;
}

static int refusal(const struct store *s, const struct group *g)
{
    return !g ? -ENOENT : s->dead ? -EIO : g->needs_copy ? -EAGAIN : 0;
}

/* ---- a region's digests ---- */

/* All of the region's leaves are taken in hand first, so that the answer is of one instant. */
struct digesting {
    struct store *store;
    struct group *group;
    struct store_digest *d;
    unsigned loading;
    bool begun;
    struct digest_leaf {
        struct leaf_wait wait;
        struct digesting *of;
        bool wanted, was_cached;
    } leaf[REGION_LEAVES];
};

static void take_digest(struct digesting *a)
{
    struct store *s = a->store;
    struct store_digest *d = a->d;
    const struct region *r = region_find(s, a->group, d->region); /* it may have come to be meanwhile */
    uint32_t crc[CHUNK_BLOCKS];
    d->err = refusal(s, a->group);
    d->applied = a->group->applied;
    for (unsigned k = 0; k < REGION_CHUNKS; k++) {
        unsigned l = k / LEAF_CHUNKS, c = k % LEAF_CHUNKS;
        const struct leaf *p = a->leaf[l].wanted ? a->leaf[l].wait.leaf->page : NULL;
        uint32_t n = blocks_within(a->group, (uint64_t)d->region * REGION_BLOCKS + k * CHUNK_BLOCKS);
        bool unseen = r && !p && (leaf_present(r, l) || r->cached[l]); /* came to be while others were read */
        if (d->err || n == 0 || unseen || !chunk_crcs(s, r, l, c, p, n, crc))
            continue;
        uint64_t at = r ? chunk_changed_at(r, l, c, p) : 0;
        if (at > d->applied)
            continue; /* an image told more than was applied here yet */
        d->comparable |= UINT64_C(1) << k;
        d->chunk[k] = (struct chunk_digest){.changed_at = at, .digest = digest_of(crc, n)};
    }
    d->next = d->region == UINT32_MAX ? UINT32_MAX : store_next_region(s, d->group, d->region + 1);
    for (unsigned l = 0; l < REGION_LEAVES; l++) {
        if (!a->leaf[l].wanted)
            continue;
        leaf_unpin(s, a->leaf[l].wait.leaf);
        if (!a->leaf[l].was_cached)
            leaf_chill(s, r, l);
    }
    free(a);
    d->fn(d);
}

static void on_digest_leaf(struct leaf_wait *w)
{
    struct digesting *a = container_of(w, struct digest_leaf, wait)->of;
    if (--a->loading == 0 && a->begun)
        take_digest(a);
}

void store_digest(struct store *s, struct store_digest *d)
{
    struct group *g = store_group(s, d->group);
    d->err = refusal(s, g);
    d->applied = d->comparable = 0;
    d->next = UINT32_MAX;
    memset(d->chunk, 0, sizeof d->chunk);
    if (d->err) {
        d->fn(d);
        return;
    }
    struct digesting *a = store_calloc(1, sizeof *a);
    *a = (struct digesting){.store = s, .group = g, .d = d};
    struct region *r = region_find(s, g, d->region);
    for (unsigned l = 0; r && l < REGION_LEAVES; l++) {
        if (!leaf_present(r, l) && !r->cached[l])
            continue;
        a->leaf[l] =
            (struct digest_leaf){.wait.fn = on_digest_leaf, .of = a, .wanted = true, .was_cached = r->cached[l]};
        a->loading += !leaf_get(s, r, l, &a->leaf[l].wait);
    }
    a->begun = true;
    if (a->loading == 0)
        take_digest(a);
}

/* ---- a chunk's checksums ---- */

struct crc_taking {
    struct store *store;
    struct group *group;
    struct store_crcs *c;
    struct leaf_wait wait;
};

static void take_crcs(struct store *s, struct group *g, struct store_crcs *c, const struct leaf *p)
{
    const struct region *r = region_find(s, g, c->block / REGION_BLOCKS);
    unsigned l = c->block % REGION_BLOCKS / LEAF_BLOCKS, k = c->block % LEAF_BLOCKS / CHUNK_BLOCKS;
    c->err = refusal(s, g);
    c->applied = g->applied;
    c->nblocks = blocks_within(g, c->block);
    bool ok = !c->err && c->nblocks > 0 && chunk_crcs(s, r, l, k, p, c->nblocks, c->crc);
    c->changed_at = r ? chunk_changed_at(r, l, k, p) : 0;
    if (!c->err && (!ok || c->changed_at > c->applied))
        c->err = -EBADMSG;
    c->fn(c);
}

static void on_crcs_leaf(struct leaf_wait *w)
{
    struct crc_taking *t = container_of(w, struct crc_taking, wait);
    struct store *s = t->store;
    struct cached_leaf *leaf = w->leaf;
    take_crcs(s, t->group, t->c, leaf->page);
    leaf_unpin(s, leaf);
    free(t);
}

void store_crcs(struct store *s, struct store_crcs *c)
{
    struct group *g = store_group(s, c->group);
    assert(c->block % CHUNK_BLOCKS == 0);
    if (!g) {
        c->err = -ENOENT;
        c->fn(c);
        return;
    }
    struct region *r = region_find(s, g, c->block / REGION_BLOCKS);
    unsigned l = c->block % REGION_BLOCKS / LEAF_BLOCKS;
    if (s->dead || !r || (!leaf_present(r, l) && !r->cached[l])) {
        take_crcs(s, g, c, NULL);
        return;
    }
    struct crc_taking *t = store_calloc(1, sizeof *t);
    *t = (struct crc_taking){.store = s, .group = g, .c = c, .wait.fn = on_crcs_leaf};
    if (leaf_get(s, r, l, &t->wait))
        on_crcs_leaf(&t->wait);
}

/* ---- what follows ---- */

bool store_disown(struct store *s, uint64_t group, uint64_t block)
{
    struct group *g = store_group(s, group);
    const struct opage *page;
    assert(g && block < g->size_blocks);
    struct region *r = s->dead || g->needs_copy ? NULL : region_make(s, g, block / REGION_BLOCKS);
    if (!r || overlay_find(s, r, block, &page) != OVERLAY_NONE)
        return false;
    unsigned l = block % REGION_BLOCKS / LEAF_BLOCKS, i = block % LEAF_BLOCKS;
    MARK("scrub: block disowned");
    g->n_disowned += !block_disowned(r, l, i);
    bit_set(bad_leaf_make(r, l)->disowned, i);
    uint64_t bits[LEAF_BLOCKS / 64] = {0};
    bit_set(bits, i);
    bad_found(s, r, l, bits);
    return true;
}

bool store_lose(struct store *s, uint64_t group, uint64_t block, uint64_t image_slot)
{
    struct group *g = store_group(s, group);
    struct region *r = g ? region_find(s, g, block / REGION_BLOCKS) : NULL;
    unsigned l = block % REGION_BLOCKS / LEAF_BLOCKS, i = block % LEAF_BLOCKS;
    const struct bad_leaf *b = r ? bad_leaf(r, l) : NULL;
    if (s->dead || g->held || g->needs_copy || !b || !bit_get(b->bits, i) || image_slot < b->since || image_slot < g->jump)
        return false;
    MARK("repair: no replica has the block");
    bad_cleared(s, r, l, i, 1);
    overlay_put_lost(s, r, block, 0);
    store_touch(s);
    return true;
}
