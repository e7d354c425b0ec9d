/* A replica's maps and extents: an own reader of meta, leaves and slabs (docs/formats.md "Disk"), what may be written
 * to extents, and the audit at a run's end. */
#include <stdio.h>
#include <stdlib.h>

#include "base/crc32c.h"
#include "tests/sim/cluster/check_internal.h"

#define VIEW_FAIL(v, fmt, ...) CK_FAIL((v)->ck, "%s: " fmt, (v)->node->host, __VA_ARGS__)

uint32_t ck_page_crc(const uint8_t *page)
{
    static const uint8_t zero[4];
    return crc32c_extend(crc32c_extend(crc32c(page, 12), zero, 4), page + 16, BLOCK_SIZE - 16);
}

const struct root *ck_root(struct sim_disk *meta, bool durable)
{
    const struct root *best = NULL;
    for (unsigned i = 0; i < 2; i++) {
        const struct root *r = (const void *)sim_disk_page(meta, i * BLOCK_SIZE, durable);
        if (r->magic == META_MAGIC + META_ROOT && (!best || r->checkpoint > best->checkpoint) &&
            r->crc == ck_page_crc((const uint8_t *)r))
            best = r;
    }
    return best;
}

/* The logical page that is in force, or NULL when it is damaged. */
static const struct meta_header *meta_page(struct sim_disk *meta, const struct root *r, uint32_t page,
                                           enum meta_kind kind, bool durable)
{
    uint64_t bit = r->place[page / 8] >> (page % 8) & 1;
    const struct meta_header *h =
        (const void *)sim_disk_page(meta, (2 + 2 * (uint64_t)page + bit) * BLOCK_SIZE, durable);
    bool good = h->magic == META_MAGIC + kind && h->number == page && h->crc == ck_page_crc((const uint8_t *)h);
    return good ? h : NULL;
}

const struct group_page *ck_group_page(struct sim_disk *meta, const struct root *r, bool durable)
{
    for (uint32_t p = 0; p < GROUPS_MAX; p++) {
        const struct group_page *g = (const void *)meta_page(meta, r, p, META_GROUP, durable);
        if (g && g->group == SIM_GROUP)
            return g;
    }
    return NULL;
}

/* Is each page of the root's checkpoint the one that was written last for it? */
bool ck_is_whole(struct sim_disk *meta, const struct root *r, bool durable)
{
    uint32_t n = r->regions_page0 + r->n_region_pages, *crc = calloc(n, sizeof *crc);
    assert(crc);
    for (uint32_t p = 0; p < n; p++) {
        uint64_t bit = r->place[p / 8] >> (p % 8) & 1;
        const struct meta_header *h = (const void *)sim_disk_page(meta, (2 + 2 * (uint64_t)p + bit) * BLOCK_SIZE, durable);
        crc[p] = h->crc;
    }
    bool whole = crc32c(crc, n * sizeof *crc) == r->meta_crc;
    free(crc);
    return whole;
}

/* ---- writes ---- */

static struct ck_owner *owner_of(struct ck_view *v, uint32_t slab)
{
    if (slab >= v->n_owners) {
        uint32_t n = v->n_owners ? v->n_owners : 64;
        while (n <= slab)
            n *= 2;
        v->owner = realloc(v->owner, n * sizeof *v->owner);
        assert(v->owner);
        memset(v->owner + v->n_owners, 0, (n - v->n_owners) * sizeof *v->owner);
        v->n_owners = n;
    }
    return &v->owner[slab];
}

static uint32_t slabs_per_extent(const struct ck_view *v)
{
    struct sim_disk *first = sim_dir_find(v->node->dir, "extents/00000");
    return first ? (uint32_t)(sim_disk_size(first) / SLAB_BYTES) : 1;
}

const uint8_t *ck_extent_page(const struct ck_view *v, uint32_t slab, uint32_t page, bool durable)
{
    char name[32];
    uint32_t per = slabs_per_extent(v);
    snprintf(name, sizeof name, "extents/%05u", slab / per);
    struct sim_disk *d = sim_dir_find(v->node->dir, name);
    return d ? sim_disk_page(d, (uint64_t)(slab % per) * SLAB_BYTES + page * BLOCK_SIZE, durable) : NULL;
}

static bool bit_of(const uint8_t *map, uint32_t i)
{
    return map[i / 8] >> (i % 8) & 1;
}

/* What a jump made unknown is nothing to be judged; once it was copied, it is as good as anything. */
static bool is_unknown(const struct group_page *g, const struct region_entry *e, const struct leaf *l, uint32_t i)
{
    return e->unknown >> (l->header.number % REGION_LEAVES) & 1 && l->version[i / CHUNK_BLOCKS] != g->jump;
}

/* Another block of each slab at each checkpoint, of every fourth slab: what the root refers to is durable, or a newer
 * entry (in the WAL) is being written over it. */
static void slab_is_durable(struct ck_view *v, const struct root *r, const struct group_page *g, const struct region_entry *e, const struct leaf *l, uint32_t s)
{
    uint32_t page = (uint32_t)(r->checkpoint * 7 + s) % SLAB_BLOCKS, i = s * SLAB_BLOCKS + page;
    uint64_t block = l->header.number * LEAF_BLOCKS + i;
    if (s % 4 != r->checkpoint % 4 || block >= v->ck->n_blocks || bit_of(l->zero, i) || bit_of(l->lost, i) ||
        bit_of(l->bad, i) || !g || is_unknown(g, e, l, i))
        return;
    uint64_t applied = g->applied.slot;
    const struct ck_block *b = &v->ck->block[block];
    if (v->ck->blocks_unknown || (b->n > 0 && b->version[b->n - 1].slot > applied))
        return;
    const uint8_t *data = ck_extent_page(v, l->slab[s], page, true);
    if (!data || crc32c(data, BLOCK_SIZE) != l->crc[i])
        VIEW_FAIL(v, "checkpoint %llu is durable, and block %llu as of slot %llu is not", LLU(r->checkpoint),
                  LLU(block), LLU(applied));
}

static void owners_of_region(struct ck_view *v, const struct root *r, const struct group_page *g, const struct region_entry *e)
{
    for (uint32_t l = 0; l < REGION_LEAVES; l++) {
        uint32_t slab = e->leaf_slab[l / LEAVES_PER_SLAB], page = (l % LEAVES_PER_SLAB) * 2 + (e->place >> l & 1);
        if (slab == SLAB_NONE || slab > UINT16_MAX)
            continue;
        struct ck_owner *o = owner_of(v, slab);
        o->use = CK_LEAVES;
        if (!(e->present >> l & 1))
            continue;
        o->in_force |= 1u << page;
        const struct leaf *leaf = (const void *)ck_extent_page(v, slab, page, true);
        if (!leaf || leaf->header.magic != META_MAGIC + META_LEAF ||
            leaf->header.number != (uint64_t)e->region * REGION_LEAVES + l || leaf->header.crc != e->leaf_crc[l] ||
            leaf->header.crc != ck_page_crc((const uint8_t *)leaf)) {
            if (!v->damaged)
                VIEW_FAIL(v, "checkpoint %llu is durable, and its leaf %u is not", LLU(r->checkpoint),
                          e->region * REGION_LEAVES + l);
            continue;
        }
        for (uint32_t s = 0; s < LEAF_SLABS; s++)
            if (leaf->slab[s] <= UINT16_MAX && !v->damaged)
                slab_is_durable(v, r, g, e, leaf, s);
        for (uint32_t s = 0; s < LEAF_SLABS; s++)
            if (leaf->slab[s] <= UINT16_MAX)
                *owner_of(v, leaf->slab[s]) =
                    (struct ck_owner){.use = CK_DATA, .block = leaf->header.number * LEAF_BLOCKS + s * SLAB_BLOCKS};
    }
}

void ck_owners_load(struct ck_view *v, const struct root *r, const struct group_page *g)
{
    if (v->n_owners)
        memset(v->owner, 0, v->n_owners * sizeof *v->owner);
    for (uint32_t p = 0; p < r->n_region_pages; p++) {
        uint64_t page = r->regions_page0 + p, bit = r->place[page / 8] >> (page % 8) & 1;
        const struct regions_page *rp = (const void *)sim_disk_page(v->meta, (2 + 2 * page + bit) * BLOCK_SIZE, true);
        for (uint32_t i = 0; i < REGIONS_PER_PAGE; i++)
            if (rp->entry[i].group == SIM_GROUP)
                owners_of_region(v, r, g, &rp->entry[i]);
    }
}

/* What is about to be written into a page that the durable root refers to, or NULL when that may be. Data blocks of the
 * same place may: their newer contents are in the WAL. */
static const char *overwrites(const struct ck_view *v, uint32_t slab, uint32_t page, bool leaf, uint32_t crc)
{
    const struct ck_owner *o = slab < v->n_owners ? &v->owner[slab] : NULL;
    if (!o || o->use == CK_FREE)
        return NULL;
    if (o->use == CK_LEAVES)
        return o->in_force >> page & 1 ? "a leaf in force" : NULL;
    if (leaf)
        return "data, by a leaf,";
    uint64_t block = o->block + page;
    if (block >= v->ck->n_blocks || v->ck->blocks_unknown || v->ck->block[block].trimmed)
        return NULL;
    const struct ck_block *b = &v->ck->block[block];
    for (uint32_t i = b->n; i-- > 0;)
        if (b->version[i].crc == crc)
            return NULL;
    return "another block's data";
}

void ck_refer(struct ck_view *v, uint32_t slab, uint64_t slot, uint64_t hash, uint64_t block)
{
    if (slab >= v->n_references) {
        uint32_t n = v->n_references ? v->n_references : 64;
        while (n <= slab)
            n *= 2;
        v->reference = realloc(v->reference, n * sizeof *v->reference);
        assert(v->reference);
        memset(v->reference + v->n_references, 0, (n - v->n_references) * sizeof *v->reference);
        v->n_references = n;
    }
    v->reference[slab] = (struct ck_reference){.slot = slot, .hash = hash, .block = block};
}

/* What a record refers to, and a restart would take for the entry's value, may be written over in place by newer
 * entries alone. */
static bool spoils_reference(const struct ck_view *v, uint32_t slab, uint32_t page, uint32_t crc)
{
    const struct ck_reference *r = slab < v->n_references ? &v->reference[slab] : NULL;
    if (!r || r->slot == 0 || r->slot <= v->root_applied || ck_view_hash(v, r->slot) != r->hash)
        return false;
    uint64_t block = r->block + page;
    if (block >= v->ck->n_blocks || v->ck->blocks_unknown || v->ck->block[block].trimmed)
        return false;
    const struct ck_block *b = &v->ck->block[block];
    for (uint32_t i = b->n; i-- > 0;)
        if (b->version[i].crc == crc)
            return false;
    return true;
}

/* A slab that nobody has: what a large write brings stands there before it is committed. */
static bool is_fresh(const struct ck_view *v, uint32_t slab)
{
    return slab >= v->n_owners || v->owner[slab].use == CK_FREE;
}

/* Blocks reach the extents only from entries that are committed, and durably known to be, but for those of large writes
 * in slabs that are nobody's; and no page that the root in force refers to, or the log of what is newer, is used for
 * something else. */
void ck_extent_written(struct ck_view *v, const struct sim_disk *d, uint64_t off, const uint8_t *data, uint64_t len)
{
    struct checks *ck = v->ck;
    bool read = false;
    uint32_t extent = (uint32_t)strtoul(sim_disk_name(d) + 8, NULL, 10), per = slabs_per_extent(v);
    ck_view_advance(v); /* what it refers to is read before it is written over */
    for (uint64_t i = 0; i < len; i += BLOCK_SIZE) {
        const struct meta_header *h = (const void *)(data + i);
        bool leaf = h->magic == META_MAGIC + META_LEAF;
        uint32_t crc = leaf ? 0 : crc32c(data + i, BLOCK_SIZE),
                 slab = extent * per + (uint32_t)((off + i) / SLAB_BYTES),
                 page = (uint32_t)((off + i) / BLOCK_SIZE % SLAB_BLOCKS);
        if (overwrites(v, slab, page, leaf, crc) && !v->damaged) {
            ck_look_at_root(v);
            const char *what = overwrites(v, slab, page, leaf, crc);
            if (what)
                VIEW_FAIL(v, "writes to page %u of slab %u over %s of the durable checkpoint %llu", page, slab, what,
                          LLU(v->root_checkpoint));
        }
        if (!v->damaged && spoils_reference(v, slab, page, crc)) {
            ck_look_at_root(v);
            if (spoils_reference(v, slab, page, crc))
                VIEW_FAIL(v, "writes to page %u of slab %u over what its log refers to for slot %llu", page, slab, LLU(v->reference[slab].slot));
        }
        ck->stats.extent_blocks++;
        if (leaf || crc == CRC32C_ZERO_BLOCK)
            continue;
        uint32_t slot = ck_slot_of_crc(ck, crc);
        if (!read && slot > v->commit) {
            ck_view_advance(v);
            read = true;
        }
        if (slot == 0)
            VIEW_FAIL(v, "writes a block to its extents that no front end ever sent (checksum %08x)", crc);
        else if (slot > v->commit && !v->damaged && !is_fresh(v, slab) && (ck_look_at_root(v), slot > v->commit && !is_fresh(v, slab)))
            VIEW_FAIL(v, "writes a block of slot %u to its extents, and its durable commit is %llu", slot,
                      LLU(v->commit));
        if (ck->cluster->broken)
            return;
    }
}

/* ---- the audit ---- */

struct audit {
    struct ck_view *v;
    const struct root *root;
    uint64_t applied; /* the checkpoint's */
    const struct group_page *group;
    uint32_t n_slabs;
    uint8_t *seen; /* by slab */
};

/* A slab belongs to one owner, and the bitmap knows it. */
static bool take_slab(struct audit *a, uint32_t slab, const char *what)
{
    if (slab >= a->n_slabs) {
        VIEW_FAIL(a->v, "audit: %s is in slab %u of %u", what, slab, a->n_slabs);
        return false;
    }
    if (a->seen[slab]++) {
        VIEW_FAIL(a->v, "audit: slab %u is used twice", slab);
        return false;
    }
    uint32_t page = a->root->bitmap_page0 + slab / (uint32_t)BITMAP_BITS, bit = slab % (uint32_t)BITMAP_BITS;
    const struct bitmap_page *m = (const void *)meta_page(a->v->meta, a->root, page, META_BITMAP, false);
    if (!m && a->v->damaged)
        return true;
    if (!m || !(m->used[bit / 8] >> (bit % 8) & 1)) {
        VIEW_FAIL(a->v, "audit: slab %u holds %s, and the bitmap says that it is free", slab, what);
        return false;
    }
    return true;
}

/* The block was written by an entry above the checkpoint: what is in its place may be that one's, or torn by a crash or
 * an error. */
static bool is_newer(const struct ck_view *v, uint64_t block, uint64_t applied)
{
    const struct ck_block *b = &v->ck->block[block];
    return b->n > 0 && b->version[b->n - 1].slot > applied;
}

/* What a target would be told is no lower than the truth. A trim of what was not there leaves no trace. */
static void audit_changed(struct audit *a, const struct region_entry *e, const struct leaf *l, uint32_t i)
{
    const struct ck_block *b = &a->v->ck->block[l->header.number * LEAF_BLOCKS + i];
    uint64_t slot = 0, said = l->changed_at[i / CHUNK_BLOCKS];
    for (uint32_t k = 0; k < b->n; k++)
        if (b->version[k].slot <= a->applied && b->version[k].crc != CRC32C_ZERO_BLOCK)
            slot = b->version[k].slot;
    if (said < slot || e->changed_at < said)
        VIEW_FAIL(a->v, "audit: block %llu was changed by slot %llu, its chunk says %llu and its region %llu",
                  LLU(l->header.number * LEAF_BLOCKS + i), LLU(slot), LLU(said), LLU(e->changed_at));
}

static void audit_block(struct audit *a, const struct region_entry *e, const struct leaf *l, uint32_t i)
{
    struct checks *ck = a->v->ck;
    uint64_t block = l->header.number * LEAF_BLOCKS + i;
    if (block >= ck->n_blocks || bit_of(l->lost, i) || bit_of(l->bad, i) || is_unknown(a->group, e, l, i))
        return;
    if (!ck->blocks_unknown && !a->v->damaged)
        audit_changed(a, e, l, i);
    uint32_t slab = l->slab[i / SLAB_BLOCKS];
    bool zero = slab == SLAB_NONE || bit_of(l->zero, i);
    uint32_t crc = zero ? CRC32C_ZERO_BLOCK : l->crc[i], want;
    ck->stats.audited_blocks++;
    if (ck_block_at(ck, block, a->applied, &want) == CK_KNOWN && crc != want && !(zero && a->v->damaged)) {
        VIEW_FAIL(a->v, "audit: block %llu has checksum %08x at slot %llu, and the front end's is %08x", LLU(block),
                  crc, LLU(a->applied), want);
        return;
    }
    if (zero || a->v->damaged)
        return;
    const uint8_t *data = ck_extent_page(a->v, slab, i % SLAB_BLOCKS, false);
    uint32_t data_crc = data ? crc32c(data, BLOCK_SIZE) : 0;
    if (data_crc != crc && !is_newer(a->v, block, a->applied))
        VIEW_FAIL(a->v, "audit: block %llu does not match its checksum of slot %llu", LLU(block), LLU(a->applied));
}

static void audit_leaf(struct audit *a, const struct region_entry *e, uint32_t l)
{
    uint32_t bit = e->place >> l & 1, number = e->region * REGION_LEAVES + l;
    const struct leaf *leaf =
        (const void *)ck_extent_page(a->v, e->leaf_slab[l / LEAVES_PER_SLAB], (l % LEAVES_PER_SLAB) * 2 + bit, false);
    if (!leaf || leaf->header.magic != META_MAGIC + META_LEAF ||
        leaf->header.crc != ck_page_crc((const uint8_t *)leaf) || leaf->header.group != e->group ||
        leaf->header.number != number || leaf->header.crc != e->leaf_crc[l]) {
        if (!a->v->damaged)
            VIEW_FAIL(a->v, "audit: leaf %u is damaged", number);
        return;
    }
    for (uint32_t s = 0; s < LEAF_SLABS; s++) {
        bool mapped = leaf->slab[s] != SLAB_NONE;
        if (mapped && a->v->damaged && !bit_of(e->mapped, l * LEAF_SLABS + s))
            return; /* it could not be read, and was given up: what stands there under the latent error is nothing */
        if (mapped != bit_of(e->mapped, l * LEAF_SLABS + s)) {
            VIEW_FAIL(a->v, "audit: leaf %u and its region disagree about slab %u", number, s);
            return;
        }
        if (mapped && !take_slab(a, leaf->slab[s], "data"))
            return;
    }
    for (uint32_t c = 0; c < LEAF_CHUNKS; c++)
        if (leaf->version[c] > a->group->jump) {
            VIEW_FAIL(a->v, "audit: leaf %u speaks of a jump to %llu, and the last one was to %llu", number,
                      LLU(leaf->version[c]), LLU(a->group->jump));
            return;
        }
    for (uint32_t i = 0; i < LEAF_BLOCKS && !a->v->ck->cluster->broken; i++)
        audit_block(a, e, leaf, i);
}

static void audit_region(struct audit *a, const struct region_entry *e)
{
    if (e->unknown && (!a->group->needs_copy || a->group->since == GROUP_SINCE_NONE))
        VIEW_FAIL(a->v, "audit: region %u has unknown leaves (%08x), and the checkpoint says that it is complete", e->region, e->unknown);
    for (uint32_t i = 0; i < REGION_LEAVES / LEAVES_PER_SLAB; i++)
        if (e->leaf_slab[i] != SLAB_NONE && !take_slab(a, e->leaf_slab[i], "leaves"))
            return;
    for (uint32_t l = 0; l < REGION_LEAVES && !a->v->ck->cluster->broken; l++)
        if (e->present >> l & 1)
            audit_leaf(a, e, l);
}

/* What the bitmap says is used is owned by somebody. */
static void audit_bitmap(struct audit *a)
{
    if (a->v->node->io_failed)
        return; /* what could not be written or read is set aside */
    for (uint32_t s = 0; s < a->n_slabs; s++) {
        const struct bitmap_page *m = (const void *)meta_page(
            a->v->meta, a->root, a->root->bitmap_page0 + s / (uint32_t)BITMAP_BITS, META_BITMAP, false);
        uint32_t bit = s % (uint32_t)BITMAP_BITS, n = 0;
        for (; m && bit + n < BITMAP_BITS && s + n < a->n_slabs; n++)
            if (bit_of(m->used, bit + n) && !a->seen[s + n]) {
                VIEW_FAIL(a->v, "audit: slab %u is used by nobody, and the bitmap says that it is not free", s + n);
                return;
            }
        s += n ? n - 1 : 0;
    }
}

void ck_audit_view(struct ck_view *v)
{
    struct audit a = {.v = v, .root = ck_root(v->meta, false)};
    const struct group_page *g = a.root ? ck_group_page(v->meta, a.root, false) : NULL;
    if (!a.root || !g) {
        if (!v->damaged && (!a.root || a.root->tail_lsn > v->created_lsn))
            VIEW_FAIL(v, "audit: %s", a.root ? "no checkpoint of the group" : "no valid root");
        return;
    }
    if (!ck_is_whole(v->meta, a.root, false)) {
        if (!v->damaged)
            VIEW_FAIL(v, "audit: %s", "a page of the checkpoint is not the one that was written last");
        return;
    }
    a.applied = g->applied.slot;
    a.group = g;
    bool copying = g->since != GROUP_SINCE_NONE;
    if (g->jump > g->applied.slot || (copying && (!g->needs_copy || !g->jump || g->since >= g->jump)))
        VIEW_FAIL(v, "audit: jumped to %llu since %llu, at slot %llu%s: impossible", LLU(g->jump), LLU(g->since),
                  LLU(g->applied.slot), g->needs_copy ? "" : ", complete");
    char name[32];
    uint32_t extents = 0;
    do {
        a.n_slabs += slabs_per_extent(v);
        snprintf(name, sizeof name, "extents/%05u", ++extents);
    } while (sim_dir_find(v->node->dir, name));
    a.seen = calloc(a.n_slabs, 1);
    assert(a.seen);
    bool whole = true;
    for (uint32_t p = 0; p < a.root->n_region_pages && !v->ck->cluster->broken; p++) {
        const struct regions_page *rp =
            (const void *)meta_page(v->meta, a.root, a.root->regions_page0 + p, META_REGIONS, false);
        whole = whole && rp;
        for (uint32_t i = 0; rp && i < REGIONS_PER_PAGE; i++)
            if (rp->entry[i].group)
                audit_region(&a, &rp->entry[i]);
    }
    if (!whole && !v->damaged)
        VIEW_FAIL(v, "audit: %s", "a page of the region table is damaged");
    if (whole && !v->damaged && !v->ck->cluster->broken)
        audit_bitmap(&a);
    free(a.seen);
}
