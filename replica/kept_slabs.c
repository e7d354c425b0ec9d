/* Which slabs the groups' logs refer to (docs/large-writes.md section 6): from a slab's number to the entry whose value
 * it holds, or held when its record was written.
 *
 * A peer may ask for that value as long as the entry is in the log, although the map may have nothing of it any more.
 * So the allocator passes by these slabs as long as there are others, and who writes over one of them, or takes it for
 * something else, says so here: then the value is gone.
 *
 * What always holds: an element's entry is in its group's log and has a slot_ref with that slab; n_kept_free counts
 * elements whose slab is free. */
#include "replica/store_internal.h"

#include <stdlib.h>

#define EMPTY SLAB_NONE

static uint32_t home(const struct store *s, uint32_t slab)
{
    return (slab * UINT32_C(0x9e3779b1)) >> 7 & (s->kept_cap - 1);
}

static struct kept_slab *find(const struct store *s, uint32_t slab)
{
    if (s->kept_cap == 0 || slab >= s->slabs_total || !bit_get(s->kept, slab))
        return NULL;
    for (uint32_t i = home(s, slab);; i = (i + 1) & (s->kept_cap - 1)) {
        assert(s->kept_table[i].slab != EMPTY);
        if (s->kept_table[i].slab == slab)
            return &s->kept_table[i];
    }
}

static struct kept_slab *insert(struct store *s, uint32_t slab)
{
    uint32_t i = home(s, slab);
    while (s->kept_table[i].slab != EMPTY)
        i = (i + 1) & (s->kept_cap - 1);
    s->kept_table[i].slab = slab;
    return &s->kept_table[i];
}

static void grow(struct store *s)
{
    struct kept_slab *old = s->kept_table;
    uint32_t n = s->kept_cap;
    s->kept_cap = n ? 2 * n : 256;
    s->kept_table = store_calloc(s->kept_cap, sizeof *s->kept_table);
    for (uint32_t i = 0; i < s->kept_cap; i++)
        s->kept_table[i].slab = EMPTY;
    for (uint32_t i = 0; i < n; i++)
        if (old[i].slab != EMPTY)
            *insert(s, old[i].slab) = old[i];
    free(old);
}

/* Linear probing without tombstones: those behind it move up as far as they may. */
static void erase(struct store *s, struct kept_slab *k)
{
    uint32_t mask = s->kept_cap - 1, hole = (uint32_t)(k - s->kept_table);
    bit_clear(s->kept, k->slab);
    s->n_kept_free -= !bit_get(s->used, k->slab);
    s->n_kept--;
    for (uint32_t i = (hole + 1) & mask; s->kept_table[i].slab != EMPTY; i = (i + 1) & mask) {
        uint32_t from = home(s, s->kept_table[i].slab);
        if (((i - from) & mask) < ((i - hole) & mask))
            continue; /* its home is behind the hole */
        s->kept_table[hole] = s->kept_table[i];
        hole = i;
    }
    s->kept_table[hole].slab = EMPTY;
}

static struct slot_ref *owner(const struct store *s, const struct kept_slab *k)
{
    struct group *g = s->groups[k->page];
    assert(g && k->slot > g->log.base.slot && k->slot <= g->last);
    struct slot_ref *ref = log_slot(g, k->slot)->ref;
    assert(ref);
    return ref;
}

void kept_add(struct store *s, const struct group *g, uint64_t slot, const struct slot_ref *ref)
{
    for (uint32_t i = 0; i < ref->n; i++) {
        uint32_t slab = ref->slab[i];
        kept_forget(s, slab); /* of an older entry, found by replay */
        if (2 * (s->n_kept + 1) > s->kept_cap)
            grow(s);
        *insert(s, slab) = (struct kept_slab){.slab = slab, .page = g->page, .slot = slot};
        bit_set(s->kept, slab);
        s->n_kept++;
        s->n_kept_free += !bit_get(s->used, slab);
    }
}

bool kept_holds(const struct store *s, const struct group *g, uint64_t slot, const struct slot_ref *ref)
{
    for (uint32_t i = 0; i < ref->n; i++) {
        const struct kept_slab *k = find(s, ref->slab[i]);
        if (!k || k->page != g->page || k->slot != slot)
            return false;
    }
    return true;
}

void kept_remove(struct store *s, const struct group *g, uint64_t slot, const struct slot_ref *ref)
{
    for (uint32_t i = 0; i < ref->n; i++) {
        struct kept_slab *k = find(s, ref->slab[i]);
        if (k && k->page == g->page && k->slot == slot)
            erase(s, k);
    }
}

void kept_forget(struct store *s, uint32_t slab)
{
    struct kept_slab *k = find(s, slab);
    if (!k)
        return;
    owner(s, k)->gone = true;
    erase(s, k);
}
