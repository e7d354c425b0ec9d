/* The map: regions, and leaves with their cache (store.md §2 "Map").
 *
 * What always holds:
 *  - a region in memory has its entry in the region table; neither ever goes away.
 *  - a leaf that is being changed is pinned; one that is not pinned equals what stands at its place in force.
 *  - `place` in memory names the newest complete copy; the region table on disk follows with the next root.
 *  - an unreadable leaf is never a hole: it reads as 512 bad blocks until they are overwritten or repaired. What its
 * slabs were is unknown: they stay in use for as long as this disk is a replica's, 2 MiB for such a leaf at most. One
 * that can be read again before it was written anew is what it was. */
#include "replica/store_internal.h"

#include <stdlib.h>

#include "base/mark.h"

/* ---- regions ---- */

static uint64_t region_hash(uint64_t group, uint64_t number)
{
    uint64_t h = (group * UINT64_C(0x9e3779b97f4a7c15)) ^ number;
    h ^= h >> 29;
    h *= UINT64_C(0xbf58476d1ce4e5b9);
    return h ^ h >> 32;
}

static void rehash(struct store *s)
{
    uint64_t size = s->region_hash_size ? 2 * s->region_hash_size : 256;
    struct region **table = store_calloc(size, sizeof *table);
    for (uint64_t i = 0; i < s->region_hash_size; i++) {
        for (struct region *r = s->region_hash[i], *next; r; r = next) {
            struct region **to = &table[region_hash(r->entry->group, r->entry->region) & (size - 1)];
            next = r->hash_next;
            r->hash_next = *to;
            *to = r;
        }
    }
    free(s->region_hash);
    s->region_hash = table;
    s->region_hash_size = size;
}

struct region *region_find(struct store *s, const struct group *g, uint64_t number)
{
    struct region *r = s->last_region;
    if (r && r->group == g && r->entry->region == number)
        return r;
    if (!s->region_hash_size)
        return NULL;
    for (r = s->region_hash[region_hash(g->id, number) & (s->region_hash_size - 1)]; r; r = r->hash_next)
        if (r->group == g && r->entry->region == number)
            return s->last_region = r;
    return NULL;
}

static struct region *add(struct store *s, struct group *g, struct region_entry *e)
{
    if (s->n_regions >= s->region_hash_size)
        rehash(s);
    struct region *r = store_calloc(1, sizeof *r);
    r->group = g;
    r->entry = e;
    list_init(&r->overlay_link[0]);
    list_init(&r->overlay_link[1]);
    list_init(&r->reserved_link);
    struct region **to = &s->region_hash[region_hash(g->id, e->region) & (s->region_hash_size - 1)];
    r->hash_next = *to;
    *to = r;
    s->n_regions++;
    return r;
}

struct region *region_adopt(struct store *s, struct group *g, struct region_entry *e)
{
    return region_find(s, g, e->region) ? NULL : add(s, g, e);
}

struct region *region_make(struct store *s, struct group *g, uint64_t number)
{
    struct region *r = region_find(s, g, number);
    if (r || s->regions_used == s->regions_cap || number > UINT32_MAX)
        return r;
    struct region_entry *e = &s->regions[s->regions_used++];
    *e = (struct region_entry){.group = g->id, .region = (uint32_t)number};
    memset(e->leaf_slab, 0xff, sizeof e->leaf_slab);
    r = add(s, g, e);
    region_dirty(s, r);
    return r;
}

void region_dirty(struct store *s, const struct region *r)
{
    bit_set(s->meta_dirty, s->root->regions_page0 + (uint64_t)(r->entry - s->regions) / REGIONS_PER_PAGE);
}

/* ---- leaves ---- */

uint64_t leaf_own_place(const struct store *s, const struct region *r, unsigned l, unsigned bit)
{
    return (uint64_t)r->entry->leaf_slab[l / LEAVES_PER_SLAB] * SLAB_BYTES +
           ((l % LEAVES_PER_SLAB) * 2 + bit) * BLOCK_SIZE;
}

struct dev *leaf_place(const struct store *s, const struct region *r, unsigned l, unsigned bit, uint64_t *ret_off)
{
    uint32_t slab = r->entry->leaf_slab[l / LEAVES_PER_SLAB];
    *ret_off = slab_offset(s, slab) + ((l % LEAVES_PER_SLAB) * 2 + bit) * BLOCK_SIZE;
    return slab_dev(s, slab);
}

static struct cached_leaf *cache_new(struct store *s, struct region *r, unsigned l)
{
    struct cached_leaf *c = store_calloc(1, sizeof *c);
    c->buf = buf_alloc_must(s->leaf_pages, BLOCK_SIZE);
    c->page = (struct leaf *)c->buf->data;
    c->store = s;
    c->region = r;
    c->number = l;
    list_init(&c->lru);
    list_init(&c->waiters);
    r->cached[l] = c;
    s->n_leaves++;
    return c;
}

static void cache_free(struct store *s, struct cached_leaf *c)
{
    list_remove(&c->lru);
    c->region->cached[c->number] = NULL;
    s->n_leaves--;
    buf_unref(c->buf);
    free(c);
}

static void pin(struct cached_leaf *c)
{
    if (c->pins++ == 0)
        list_remove(&c->lru);
}

void leaf_unpin(struct store *s, struct cached_leaf *c)
{
    assert(c->pins > 0);
    if (--c->pins > 0)
        return;
    list_push_back(&s->leaf_lru, &c->lru);
    while (s->n_leaves > s->leaves_max && !list_empty(&s->leaf_lru))
        cache_free(s, container_of(s->leaf_lru.next, struct cached_leaf, lru));
}

/* Of those that nobody uses it goes first. */
void leaf_chill(struct store *s, const struct region *r, unsigned l)
{
    struct cached_leaf *c = r->cached[l];
    if (!c || c->loading || c->pins > 0)
        return;
    list_remove(&c->lru);
    list_push_front(&s->leaf_lru, &c->lru);
}

struct cached_leaf *leaf_make(struct store *s, struct region *r, unsigned l)
{
    assert(!r->cached[l] && !leaf_present(r, l));
    struct cached_leaf *c = cache_new(s, r, l);
    memset(c->page, 0, sizeof *c->page);
    memset(c->page->slab, 0xff, sizeof c->page->slab);
    memset(c->page->zero, 0xff, sizeof c->page->zero);
    pin(c);
    return c;
}

/* Untrusted bytes: the page's own checks, then that it may be what is looked for, then that what it points to can be.
 */
static bool leaf_ok(const struct store *s, const struct cached_leaf *c)
{
    const struct leaf *p = c->page;
    const struct region *r = c->region;
    uint64_t newest = s->root->checkpoint + (s->cycle.state != CYCLE_IDLE);
    if (!page_ok(&p->header, META_LEAF, r->entry->group, leaf_number(r, c->number), newest))
        return false;
    if (p->header.crc != r->entry->leaf_crc[c->number]) /* good, but not the newest: the write of that one went elsewhere */
        return false;
    if (p->header.reserved[0] != leaf_own_place(s, r, c->number, r->entry->place >> c->number & 1))
        return false;
    for (unsigned i = 0; i < LEAF_SLABS; i++)
        if (p->slab[i] != SLAB_NONE && (p->slab[i] >= s->slabs_total || !bit_get(s->used, p->slab[i])))
            return false;
    return true;
}

static void make_rotten(struct store *s, struct cached_leaf *c)
{
    struct leaf *p = c->page;
    struct region *r = c->region;
    memset(p, 0, sizeof *p);
    memset(p->slab, 0xff, sizeof p->slab);
    memset(p->bad, 0xff, sizeof p->bad);
    for (unsigned i = 0; i < LEAF_CHUNKS; i++)
        p->changed_at[i] = r->entry->changed_at; /* no earlier than the truth */
    /* Its bad bits are explicit, hence no verdict of a donor clears them: what stood here is gone. */
    for (unsigned i = 0; i < LEAF_CHUNKS; i++)
        p->version[i] = r->group->jump;
    r->unchanged &= ~(UINT64_C(3) << (c->number * LEAF_CHUNKS));
    c->rotten = true;
    for (unsigned i = 0; i < LEAF_SLABS; i++)
        bit_clear(r->entry->mapped, c->number * LEAF_SLABS + i);
    uint64_t all[LEAF_BLOCKS / 64];
    memset(all, 0xff, sizeof all);
    bad_found(s, r, c->number, all);
}

/* Its region knows what it maps, unless it could not be read before, perhaps by an earlier process (make_rotten). */
static void note_mapped(struct store *s, const struct cached_leaf *c)
{
    struct region *r = c->region;
    for (unsigned i = 0; i < LEAF_SLABS; i++) {
        size_t at = c->number * LEAF_SLABS + i;
        if (c->page->slab[i] == SLAB_NONE || bit_get(r->entry->mapped, at))
            continue;
        MARK("map: a leaf can be read again");
        bit_set(r->entry->mapped, at);
        region_dirty(s, r);
    }
}

static void load(struct cached_leaf *c)
{
    uint64_t off;
    struct dev *d = leaf_place(c->store, c->region, c->number, c->region->entry->place >> c->number & 1, &off);
    c->iov = (struct iovec){c->page, BLOCK_SIZE};
    dev_read(d, &c->iov, 1, off, &c->op);
}

static void on_loaded(struct io_op *op)
{
    struct cached_leaf *c = container_of(op, struct cached_leaf, op);
    struct store *s = c->store;
    bool ok = op->result >= 0 && leaf_ok(s, c);
    if (!ok && !c->retried) {
        c->retried = true; /* a transient error would cost 2 MiB of repairs */
        load(c);
        return;
    }
    if (ok)
        note_mapped(s, c);
    else
        make_rotten(s, c);
    c->loading = false;
    c->pins++; /* our own, while waiters run */
    struct list *n;
    while ((n = list_pop_front(&c->waiters))) {
        struct leaf_wait *w = container_of(n, struct leaf_wait, link);
        pin(c);
        w->leaf = c;
        w->fn(w);
    }
    leaf_unpin(s, c);
}

bool leaf_get(struct store *s, struct region *r, unsigned l, struct leaf_wait *w)
{
    struct cached_leaf *c = r->cached[l];
    if (c && !c->loading) {
        pin(c);
        w->leaf = c;
        return true;
    }
    bool begin = !c;
    if (begin) {
        assert(leaf_present(r, l));
        c = cache_new(s, r, l);
        c->loading = true;
        c->op.fn = on_loaded;
    }
    w->leaf = NULL;
    list_push_back(&c->waiters, &w->link);
    if (begin)
        load(c);
    return false;
}

void map_free(struct store *s)
{
    for (uint64_t i = 0; i < s->region_hash_size; i++) {
        for (struct region *r = s->region_hash[i], *next; r; r = next) {
            next = r->hash_next;
            for (unsigned l = 0; l < REGION_LEAVES; l++) {
                overlay_drop_leaf(s, r, 0, l);
                overlay_drop_leaf(s, r, 1, l);
                if (r->cached[l])
                    cache_free(s, r->cached[l]);
                free(bad_leaf(r, l));
            }
            free(r->bad);
            free(r);
        }
    }
    free(s->region_hash);
    free(s->regions);
    arena_free(s->leaf_pages);
}
