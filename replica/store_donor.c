/* What a complete replica tells one that copies from it (docs/rebuild.md sections 3 and 4): its regions, and which
 * chunks changed since a slot. Images are ordinary reads (store_read).
 *
 * What always holds: an answer is of one instant, and names the slot applied then. What it says of changes is an upper
 * bound: a chunk that did change is never called unchanged. */
#include "replica/store_internal.h"

#include <errno.h>
#include <stdlib.h>

#include "base/mark.h"

/* ---- the listing ---- */

static int by_number(const void *a, const void *b)
{
    uint32_t x = ((const struct store_region *)a)->region, y = ((const struct store_region *)b)->region;
    return x < y ? -1 : x > y;
}

static uint32_t leaves_here(const struct region *r)
{
    uint32_t leaves = r->entry->present;
    for (unsigned l = 0; l < REGION_LEAVES; l++)
        leaves |= (uint32_t)(overlay_leaf(r, 0, l) || overlay_leaf(r, 1, l) || r->cached[l]) << l;
    return leaves;
}

uint32_t store_list_regions(const struct store *s, uint64_t group, uint32_t from, struct store_region *array,
                            uint32_t cap)
{
    const struct group *g = store_group(s, group);
    struct store_region *all = store_calloc(s->n_regions, sizeof *all);
    uint32_t n = 0;
    for (uint64_t i = 0; g && i < s->region_hash_size; i++)
        for (const struct region *r = s->region_hash[i]; r; r = r->hash_next)
            if (r->group == g && r->entry->region >= from)
                all[n++] = (struct store_region){.region = r->entry->region,
                                                 .present = leaves_here(r),
                                                 .changed_at = r->entry->changed_at};
    if (n > 1)
        qsort(all, n, sizeof *all, by_number);
    if (n > cap)
        n = cap;
    if (n > 0)
        memcpy(array, all, n * sizeof *all);
    free(all);
    return n;
}

/* ---- verdicts ---- */

uint64_t chunk_changed_at(const struct region *r, unsigned l, unsigned c, const struct leaf *p)
{
    uint64_t at = p ? p->changed_at[c] : 0;
    for (unsigned gen = 0; gen < 2; gen++) {
        const struct oleaf *o = overlay_leaf(r, gen, l);
        if (o && o->changed_at[c] > at)
            at = o->changed_at[c];
    }
    bool unseen = !p && (at == 0 || leaf_present(r, l));
    return unseen ? r->entry->changed_at : at;
}

/* All of the region's leaves are taken in hand first, so that the answer is of one instant. */
struct asking {
    struct store *store;
    struct store_chunks *c;
    struct region *region;
    unsigned loading;
    bool begun;
    struct leaf_ask {
        struct leaf_wait wait;
        struct asking *asking;
        bool wanted;
    } leaf[REGION_LEAVES];
};

static void answer(struct asking *a)
{
    struct store *s = a->store;
    struct store_chunks *c = a->c;
    const struct region *r = a->region;
    uint32_t here = leaves_here(r);
    c->applied = r->group->applied;
    if (r->group->needs_copy)
        c->err = -EAGAIN;
    for (unsigned l = 0; l < REGION_LEAVES; l++) {
        struct cached_leaf *have = a->leaf[l].wanted ? a->leaf[l].wait.leaf : NULL;
        for (unsigned k = 0; k < LEAF_CHUNKS; k++) {
            uint64_t at = chunk_changed_at(r, l, k, have ? have->page : NULL);
            c->changed_at[l * LEAF_CHUNKS + k] = at;
            if ((here >> l & 1) && at <= c->since)
                c->unchanged |= UINT64_C(1) << (l * LEAF_CHUNKS + k);
        }
        if (have)
            leaf_unpin(s, have);
    }
    if (c->err)
        c->unchanged = 0;
    free(a);
    c->fn(c);
}

static void on_leaf(struct leaf_wait *w)
{
    struct asking *a = container_of(w, struct leaf_ask, wait)->asking;
    if (--a->loading == 0 && a->begun)
        answer(a);
}

void store_chunks_changed(struct store *s, struct store_chunks *c)
{
    struct group *g = store_group(s, c->group);
    struct region *r = g ? region_find(s, g, c->region) : NULL;
    c->err = !g ? -ENOENT : s->dead ? -EIO : g->needs_copy ? -EAGAIN : 0;
    c->applied = g ? g->applied : 0;
    c->unchanged = 0;
    memset(c->changed_at, 0, sizeof c->changed_at);
    if (c->err || !r) {
        c->fn(c);
        return;
    }
    struct asking *a = store_calloc(1, sizeof *a);
    *a = (struct asking){.store = s, .c = c, .region = r};
    /* A region that nobody touched since needs no leaf to be read for that to be known. */
    bool quiet = r->entry->changed_at <= c->since;
    MARK_IF(quiet, "donor: verdicts without a leaf");
    for (unsigned l = 0; l < REGION_LEAVES && !quiet; l++) {
        if (!leaf_present(r, l) && !r->cached[l])
            continue;
        a->leaf[l] = (struct leaf_ask){.wait.fn = on_leaf, .asking = a, .wanted = true};
        a->loading += !leaf_get(s, r, l, &a->leaf[l].wait);
    }
    a->begun = true;
    if (a->loading == 0)
        answer(a);
}
