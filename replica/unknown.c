/* Which blocks are unknown since a jump (docs/rebuild.md section 2).
 *
 * The region entry has a bit per leaf: some of its blocks may be unknown. Then, chunk by chunk, `version` of the leaf
 * says whether its bad bits speak of this jump: if it is not the group's `jump`, or if there is no leaf, all of the
 * chunk is unknown, unless a donor said that it did not change (region.unchanged, in memory only: after a restart it is
 * asked again). What the overlay holds is known in any case: callers look there first.
 *
 * What always holds:
 *  - a leaf's bit is cleared only when both of its chunks are known (Invariant U); a block that nobody could give is bad
 *    from then on like any other.
 *  - a verdict never clears a bad bit: what becomes explicit stays so until an entry or an image overwrites it. */
#include "replica/store_internal.h"

#include "base/mark.h"

static unsigned chunk_index(unsigned l, unsigned c)
{
    return l * LEAF_CHUNKS + c;
}

uint32_t chunk_blocks(const struct region *r, unsigned l, unsigned c)
{
    uint64_t first = leaf_number(r, l) * LEAF_BLOCKS + (uint64_t)c * CHUNK_BLOCKS, size = r->group->size_blocks;
    if (first >= size)
        return 0;
    return size - first < CHUNK_BLOCKS ? (uint32_t)(size - first) : CHUNK_BLOCKS;
}

bool chunk_unknown(const struct region *r, unsigned l, unsigned c, const struct leaf *p)
{
    if (!leaf_unknown(r, l) || r->unchanged >> chunk_index(l, c) & 1)
        return false;
    return !p || p->version[c] != r->group->jump;
}

void unknown_mark(struct store *s, struct region *r, uint32_t leaves)
{
    r->group->n_unknown += (unsigned)__builtin_popcount(leaves & ~r->entry->unknown);
    r->entry->unknown |= leaves;
    region_dirty(s, r);
}

static bool touches(const struct oleaf *o, unsigned c)
{
    if (o->touch >> c & 1)
        return true;
    for (unsigned i = c * CHUNK_BLOCKS / 64; i < (c + 1) * CHUNK_BLOCKS / 64; i++)
        if (o->zero[i] | o->lost[i])
            return true;
    for (unsigned i = c * CHUNK_BLOCKS / SLAB_BLOCKS; o->slab && i < (c + 1) * CHUNK_BLOCKS / SLAB_BLOCKS; i++)
        if (o->slab[i])
            return true;
    for (unsigned i = c * CHUNK_BLOCKS / SLAB_BLOCKS; o->ref && i < (c + 1) * CHUNK_BLOCKS / SLAB_BLOCKS; i++)
        if (o->ref[i])
            return true;
    return false;
}

void unknown_make_explicit(struct region *r, unsigned l, struct leaf *p, const struct oleaf *o)
{
    for (unsigned c = 0; c < LEAF_CHUNKS; c++) {
        if (p->version[c] == r->group->jump)
            continue;
        bool unchanged = r->unchanged >> chunk_index(l, c) & 1;
        if (!unchanged && !touches(o, c))
            continue;
        p->version[c] = r->group->jump;
        if (unchanged)
            continue;
        MARK("unknown: a chunk's bad bits become explicit");
        uint32_t n = chunk_blocks(r, l, c);
        for (unsigned i = c * CHUNK_BLOCKS; i < c * CHUNK_BLOCKS + n; i++)
            bit_set(p->bad, i);
        memset(p->lost + c * CHUNK_BLOCKS / 8, 0, CHUNK_BLOCKS / 8); /* it may have been overwritten since */
    }
}

/* Bad bits that somebody may still clear. */
static bool waits_for_blocks(const struct region *r, unsigned l, unsigned c, const struct leaf *p)
{
    uint32_t n = chunk_blocks(r, l, c);
    const struct bad_leaf *b = bad_leaf(r, l);
    for (unsigned i = c * CHUNK_BLOCKS; i < c * CHUNK_BLOCKS + n; i++)
        if (bit_get(p->bad, i) && !(b && bit_get(b->given_up, i)))
            return true;
    return false;
}

void unknown_settle(struct store *s, struct region *r, unsigned l, const struct leaf *p)
{
    if (!leaf_unknown(r, l))
        return;
    for (unsigned c = 0; c < LEAF_CHUNKS; c++) {
        if (chunk_blocks(r, l, c) == 0)
            continue;
        if (chunk_unknown(r, l, c, p))
            return;
        if (p && waits_for_blocks(r, l, c, p))
            return;
    }
    MARK("unknown: all of a leaf is known");
    r->entry->unknown &= ~(UINT32_C(1) << l);
    r->unchanged &= ~(UINT64_C(3) << chunk_index(l, 0));
    r->group->n_unknown--;
    region_dirty(s, r);
}
