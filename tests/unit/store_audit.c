/* An auditor of a store's disks that shares nothing with the store but the format: see t_audit in store_harness.h. */
#include "tests/unit/store_harness.h"

static bool crc_ok(const void *page, size_t at)
{
    uint8_t copy[BLOCK_SIZE];
    uint32_t crc;
    memcpy(copy, page, sizeof copy);
    memcpy(&crc, copy + at, 4);
    memset(copy + at, 0, 4);
    return crc32c(copy, sizeof copy) == crc;
}

static void read_root(struct store_test *t, struct root *ret)
{
    struct root r[2];
    bool found = false;
    sim_disk_peek(t->meta, 0, r, sizeof r);
    for (unsigned i = 0; i < 2; i++) {
        if (!crc_ok(&r[i], offsetof(struct root, crc)) || r[i].magic != META_MAGIC + META_ROOT ||
            (found && r[i].checkpoint < ret->checkpoint))
            continue;
        *ret = r[i];
        found = true;
    }
    assert_true(found);
}

static void read_page(struct store_test *t, const struct root *r, uint32_t page, enum meta_kind kind, void *to)
{
    sim_disk_peek(t->meta, (2 + 2 * (uint64_t)page + (r->place[page / 8] >> (page % 8) & 1)) * BLOCK_SIZE, to,
                  BLOCK_SIZE);
    const struct meta_header *h = to;
    assert_true(crc_ok(to, offsetof(struct meta_header, crc)));
    assert_true(h->magic == META_MAGIC + (uint64_t)kind && h->number == page && h->checkpoint <= r->checkpoint);
}

struct sim_disk *t_extent(struct store_test *t, uint64_t slab, uint64_t *ret_off)
{
    uint64_t per = t->extent_bytes / SLAB_BYTES;
    char name[32];
    snprintf(name, sizeof name, "extents/%05u", (unsigned)(slab / per));
    *ret_off = slab % per * SLAB_BYTES;
    struct sim_disk *d = sim_dir_find(t->dir, name);
    assert_non_null(d);
    return d;
}

static struct sim_disk *leaf_at(struct store_test *t, const struct region_entry *e, unsigned l, uint64_t *ret_off)
{
    struct sim_disk *d = t_extent(t, e->leaf_slab[l / LEAVES_PER_SLAB], ret_off);
    *ret_off += ((l % LEAVES_PER_SLAB) * 2 + (e->place >> l & 1)) * BLOCK_SIZE;
    return d;
}

static void claim(uint8_t *reached, uint64_t slabs, uint32_t slab, struct t_audit *a)
{
    assert_true(slab < slabs);
    assert_false(reached[slab]); /* one owner */
    reached[slab] = 1;
    a->reachable++;
}

static void audit_leaf(struct store_test *t, const struct region_entry *e, unsigned l, uint8_t *reached, uint64_t slabs,
                       struct t_audit *a)
{
    struct leaf p;
    uint64_t off;
    struct sim_disk *d = leaf_at(t, e, l, &off);
    static uint8_t block[BLOCK_SIZE];
    sim_disk_peek(d, off, &p, sizeof p);
    assert_true(crc_ok(&p, offsetof(struct leaf, header.crc)));
    assert_true(p.header.magic == META_MAGIC + META_LEAF && p.header.group == e->group &&
                p.header.number == (uint64_t)e->region * REGION_LEAVES + l &&
                p.header.checkpoint <= a->root.checkpoint);
    a->leaves++;
    assert_true(e->changed_at >= p.changed_at[0] && e->changed_at >= p.changed_at[1]);
    bool unknown = e->unknown >> l & 1;
    for (unsigned i = 0; i < LEAF_SLABS; i++) {
        assert_int_equal(p.slab[i] != SLAB_NONE, e->mapped[(l * LEAF_SLABS + i) / 8] >> ((l * LEAF_SLABS + i) % 8) & 1);
        if (p.slab[i] != SLAB_NONE) {
            claim(reached, slabs, p.slab[i], a);
            a->mapped++;
        }
        for (unsigned k = 0; k < SLAB_BLOCKS; k++) {
            unsigned b = i * SLAB_BLOCKS + k;
            bool zero = p.zero[b / 8] >> (b % 8) & 1, bad = p.bad[b / 8] >> (b % 8) & 1,
                 lost = p.lost[b / 8] >> (b % 8) & 1;
            a->bad_blocks += bad;
            if (p.slab[i] == SLAB_NONE)
                assert_true(zero || bad || lost);
            if (zero || bad || lost || unknown)
                continue;
            d = t_extent(t, p.slab[i], &off);
            sim_disk_peek(d, off + k * BLOCK_SIZE, block, sizeof block);
            assert_int_equal(crc32c(block, sizeof block), p.crc[b]);
        }
    }
}

void t_audit(struct store_test *t, struct t_audit *ret)
{
    static uint8_t page[BLOCK_SIZE];
    memset(ret, 0, sizeof *ret);
    struct root *r = &ret->root;
    read_root(t, r);
    uint64_t slabs = t->sb.n_extents * (t->extent_bytes / SLAB_BYTES);
    uint8_t *reached = calloc(slabs, 1), *used = calloc(slabs, 1);
    for (uint32_t i = 0; i < r->n_bitmap_pages; i++) {
        read_page(t, r, r->bitmap_page0 + i, META_BITMAP, page);
        const struct bitmap_page *b = (const void *)page;
        for (uint64_t k = 0; k < BITMAP_BITS; k++) {
            uint64_t slab = i * BITMAP_BITS + k;
            bool set = b->used[k / 8] >> (k % 8) & 1;
            if (slab >= slabs) {
                assert_false(set);
                continue;
            }
            used[slab] = set;
            ret->used += set;
        }
    }
    static uint8_t regions[BLOCK_SIZE];
    for (uint32_t i = 0; i < r->n_region_pages; i++) {
        read_page(t, r, r->regions_page0 + i, META_REGIONS, regions);
        for (unsigned k = 0; k < REGIONS_PER_PAGE; k++) {
            const struct region_entry *e = &((const struct regions_page *)(const void *)regions)->entry[k];
            if (e->group == 0)
                continue;
            for (unsigned q = 0; q < REGION_LEAVES / LEAVES_PER_SLAB; q++)
                if (e->leaf_slab[q] != SLAB_NONE)
                    claim(reached, slabs, e->leaf_slab[q], ret);
            for (unsigned l = 0; l < REGION_LEAVES; l++)
                if (e->present >> l & 1)
                    audit_leaf(t, e, l, reached, slabs, ret);
        }
    }
    for (uint64_t i = 0; i < slabs; i++)
        assert_true(used[i] || !reached[i]);
    free(reached);
    free(used);
}

static bool find_region(struct store_test *t, unsigned g, uint64_t block, struct region_entry *ret)
{
    static uint8_t page[BLOCK_SIZE];
    struct root r;
    read_root(t, &r);
    for (uint32_t i = 0; i < r.n_region_pages; i++) {
        read_page(t, &r, r.regions_page0 + i, META_REGIONS, page);
        for (unsigned k = 0; k < REGIONS_PER_PAGE; k++) {
            const struct region_entry *e = &((const struct regions_page *)(const void *)page)->entry[k];
            if (e->group != t->group[g].id || e->region != block / REGION_BLOCKS)
                continue;
            *ret = *e;
            return true;
        }
    }
    return false;
}

struct sim_disk *t_find_leaf(struct store_test *t, unsigned g, uint64_t block, uint64_t *ret_off)
{
    struct region_entry e;
    unsigned l = block % REGION_BLOCKS / LEAF_BLOCKS;
    if (!find_region(t, g, block, &e) || !(e.present >> l & 1))
        return NULL;
    return leaf_at(t, &e, l, ret_off);
}

struct sim_disk *t_find_data(struct store_test *t, unsigned g, uint64_t block, uint64_t *ret_off)
{
    struct leaf p;
    uint64_t off;
    struct sim_disk *d = t_find_leaf(t, g, block, &off);
    if (!d)
        return NULL;
    sim_disk_peek(d, off, &p, sizeof p);
    unsigned b = block % LEAF_BLOCKS;
    if (p.slab[b / SLAB_BLOCKS] == SLAB_NONE)
        return NULL;
    d = t_extent(t, p.slab[b / SLAB_BLOCKS], ret_off);
    *ret_off += b % SLAB_BLOCKS * BLOCK_SIZE;
    return d;
}

void t_check_changed(struct store_test *t, unsigned gi)
{
    struct t_group *g = &t->group[gi];
    for (uint64_t chunk = 0; chunk * CHUNK_BLOCKS < g->size_blocks; chunk++) {
        uint64_t off, last_write = 0, from = chunk * CHUNK_BLOCKS, to = from + CHUNK_BLOCKS;
        struct leaf p;
        for (uint64_t slot = 1; slot <= g->saved_applied; slot++) {
            const struct t_spec *s = &g->spec[g->log[slot]];
            if (s->nblocks == 0 || s->block >= to || s->block + s->nblocks <= from)
                continue;
            if (s->kind == ENTRY_WRITE)
                last_write = slot;
        }
        struct sim_disk *d = t_find_leaf(t, gi, from, &off);
        if (!d) { /* what was written and trimmed again within the overlay left its slot to the region alone */
            struct region_entry e;
            assert_true(last_write == 0 || (find_region(t, gi, from, &e) && e.changed_at >= last_write));
            continue;
        }
        sim_disk_peek(d, off, &p, sizeof p);
        uint64_t changed = p.changed_at[chunk % LEAF_CHUNKS];
        /* Trims of what was never written leave no trace. A new leaf takes its region's word for what came and went there. */
        assert_true(changed >= last_write && changed <= g->saved_applied);
    }
}
