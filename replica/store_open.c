/* From disk to memory: roots, group pages, bitmap, regions (store.md §2 "Recovery" step 1). Then store_replay.c takes
 * the WAL.
 *
 * Everything read here was written by somebody's disk: it is checked before it is used, and what is damaged is refused
 * with its name. A replica that does not know what it promised, or which slabs are whose, must not guess: it is made
 * anew from its peers. (Damaged leaves and data are another matter: those are repaired block by block.) */
#include "replica/store_internal.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define CHUNK_PAGES 128u /* logical pages read at a time: both places of each */

struct opening {
    struct store *store;
    struct io_op op;
    struct iovec iov;
    uint8_t *buffer; /* 4 KiB-aligned, 2 * CHUNK_PAGES pages */
    uint32_t page;   /* the first of the chunk */
    uint32_t n_groups;
    char why[256];
};

static uint32_t page_crc(const void *page, size_t crc_at)
{
    static const uint8_t zero[4];
    const uint8_t *p = page;
    uint32_t crc = crc32c(p, crc_at);
    crc = crc32c_extend(crc, zero, sizeof zero);
    return crc32c_extend(crc, p + crc_at + 4, BLOCK_SIZE - crc_at - 4);
}

void page_seal(struct meta_header *h, enum meta_kind kind, uint64_t checkpoint, uint64_t group, uint64_t number)
{
    h->magic = META_MAGIC + (uint64_t)kind;
    h->version = DISK_VERSION;
    h->checkpoint = checkpoint;
    h->group = group;
    h->number = number;
    h->crc = page_crc(h, offsetof(struct meta_header, crc));
}

bool page_ok(const struct meta_header *h, enum meta_kind kind, uint64_t group, uint64_t number, uint64_t checkpoint)
{
    return h->magic == META_MAGIC + (uint64_t)kind && h->version == DISK_VERSION &&
           h->crc == page_crc(h, offsetof(struct meta_header, crc)) && h->group == group && h->number == number &&
           h->checkpoint > 0 && h->checkpoint <= checkpoint;
}

void root_seal(struct root *r)
{
    r->magic = META_MAGIC + META_ROOT;
    r->version = DISK_VERSION;
    r->crc = page_crc(r, offsetof(struct root, crc));
}

static bool root_ok(const struct root *r, unsigned place)
{
    return r->magic == META_MAGIC + META_ROOT && r->crc == page_crc(r, offsetof(struct root, crc)) &&
           (r->checkpoint & 1) == place && r->checkpoint > 0;
}

static const char *root_problem(const struct store *s, const struct root *r)
{
    uint64_t pages = s->sb.meta_pages;
    if (r->version != DISK_VERSION)
        return "its format version is unknown";
    if (r->bitmap_page0 < GROUPS_MAX || r->n_bitmap_pages == 0 || r->n_region_pages == 0 ||
        r->regions_page0 != r->bitmap_page0 + r->n_bitmap_pages ||
        (uint64_t)r->regions_page0 + r->n_region_pages > pages || r->n_groups > GROUPS_MAX)
        return "its layout is impossible";
    if (r->tail_lsn > r->redo_lsn || r->tail_lsn % BLOCK_SIZE || r->redo_lsn % BLOCK_SIZE || r->tail_seq == 0)
        return "its WAL positions are impossible";
    return NULL;
}

/* The end of opening, good or bad. */
void opening_done(struct store *s, int err, const char *fmt, ...)
{
    struct opening *o = s->opening;
    o->why[0] = 0;
    if (err) {
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(o->why, sizeof o->why, fmt, ap);
        va_end(ap);
        s->dead = true;
    }
    s->cb.on_ready(s->cb.user, err, err ? o->why : NULL);
}

static void read_at(struct opening *o, uint64_t off, uint64_t len, void (*fn)(struct io_op *op))
{
    o->op.fn = fn;
    o->iov = (struct iovec){o->buffer, len};
    dev_read(o->store->meta, &o->iov, 1, off, &o->op);
}

/* ---- pages ---- */

static bool membership_ok(const struct membership *m)
{
    return m->n_voters >= 1 && membership_is_valid(m);
}

static const char *take_group(struct store *s, uint32_t page, const struct group_page *p)
{
    if (p->group == 0)
        return NULL;
    if (store_group(s, p->group) || !membership_ok(&p->committed) || p->floor.slot > p->applied.slot ||
        p->n_tail > GROUP_TAIL_RUNS || p->jump > p->applied.slot)
        return "holds impossible values";
    struct wal_group wg = {.group = p->group, .size_blocks = p->size_blocks, .membership = p->committed};
    struct group *g = store_group_new(s, &wg, page);
    g->promised = p->promised;
    g->max_lease_ns = p->max_lease_ns;
    g->fuzzy_end = p->fuzzy_end;
    g->needs_copy = p->needs_copy;
    g->retired = p->retired;
    g->since = p->since;
    g->jump = p->jump;
    g->scrub = (struct store_scrub_place){.next = p->scrub_next, .passes = p->scrub_passes, .done_at = p->scrub_done_at};
    g->image_floor = p->applied.slot;
    replay_seed(s, g, p);
    s->opening->n_groups++;
    return NULL;
}

static const char *take_regions(struct store *s, uint32_t index, const struct regions_page *p)
{
    for (unsigned i = 0; i < REGIONS_PER_PAGE; i++) {
        const struct region_entry *from = &p->entry[i];
        if (from->group == 0)
            continue;
        struct group *g = store_group(s, from->group);
        uint32_t at = index * REGIONS_PER_PAGE + i;
        if (!g && from->present == 0) { /* of a group created since the checkpoint's position: the WAL creates it again,
                                           and the region with it */
            bit_set(s->meta_dirty, s->root->regions_page0 + index);
            continue;
        }
        if (!g)
            return "names a group that is not there";
        for (unsigned k = 0; k < ARRAY_LEN(from->leaf_slab); k++) {
            uint32_t slab = from->leaf_slab[k], leaves = from->present >> (k * LEAVES_PER_SLAB) & 0xff;
            if (slab == SLAB_NONE ? leaves != 0 : slab >= s->slabs_total || !bit_get(s->used, slab))
                return "names a slab that is not in use";
        }
        s->regions[at] = *from;
        s->regions_used = at + 1;
        if (!region_adopt(s, g, &s->regions[at]))
            return "names a region twice";
        g->n_unknown += (unsigned)__builtin_popcount(from->unknown);
    }
    return NULL;
}

static const char *take_page(struct store *s, uint32_t page, const uint8_t *p)
{
    const struct root *r = s->root;
    const struct meta_header *h = (const void *)p;
    enum meta_kind kind = page < GROUPS_MAX ? META_GROUP : page < r->regions_page0 ? META_BITMAP : META_REGIONS;
    if (!page_ok(h, kind, 0, page, r->checkpoint))
        return "is damaged";
    s->meta_crc[page] = h->crc;
    if (kind == META_GROUP)
        return take_group(s, page, (const void *)p);
    if (kind == META_REGIONS)
        return take_regions(s, page - r->regions_page0, (const void *)p);
    const struct bitmap_page *b = (const void *)p;
    memcpy(s->used + (size_t)(page - r->bitmap_page0) * sizeof b->used, b->used, sizeof b->used);
    if (page + 1 == r->regions_page0)
        slabs_count(s);
    return NULL;
}

static void read_pages(struct opening *o);

static void on_pages(struct io_op *op)
{
    struct opening *o = container_of(op, struct opening, op);
    struct store *s = o->store;
    if (op->result < 0) {
        opening_done(s, (int)op->result,
                     "meta: the checkpoint can't be read: %s; if this lasts, make the replica anew from its peers",
                     strerror((int)-op->result));
        return;
    }
    for (uint32_t i = 0; i < CHUNK_PAGES && o->page + i < s->n_meta_pages; i++) {
        uint32_t page = o->page + i;
        if (page >= GROUPS_MAX && page < s->root->bitmap_page0)
            continue;
        const char *why = take_page(s, page, o->buffer + (2 * (size_t)i + bit_get(s->root->place, page)) * BLOCK_SIZE);
        if (why) {
            opening_done(s, -EBADMSG, "meta: page %u of checkpoint %llu %s: make the replica anew from its peers", page,
                         (unsigned long long)s->root->checkpoint, why);
            return;
        }
    }
    o->page += CHUNK_PAGES;
    read_pages(o);
}

static void read_pages(struct opening *o)
{
    struct store *s = o->store;
    if (o->page >= s->n_meta_pages) {
        if (crc32c(s->meta_crc, s->n_meta_pages * sizeof s->meta_crc[0]) != s->root->meta_crc)
            opening_done(s, -EBADMSG,
                         "meta: a page of checkpoint %llu was never written to its place: make the replica anew from its peers",
                         (unsigned long long)s->root->checkpoint);
        else if (o->n_groups != s->root->n_groups)
            opening_done(s, -EBADMSG,
                         "meta: checkpoint %llu has %u groups instead of %u: make the replica anew from its peers",
                         (unsigned long long)s->root->checkpoint, o->n_groups, s->root->n_groups);
        else
            replay_begin(s);
        return;
    }
    uint32_t n = s->n_meta_pages - o->page;
    if (n > CHUNK_PAGES)
        n = CHUNK_PAGES;
    read_at(o, meta_place(o->page, 0), 2 * (uint64_t)n * BLOCK_SIZE, on_pages);
}

/* ---- roots ---- */

/* In force: the valid one with the higher number. When the newer one rotted, the older one is as good as long as
 * everything since is in the WAL; otherwise the WAL's recovery refuses, or pages of a later checkpoint than the root's
 * are found and refused. */
static void on_roots(struct io_op *op)
{
    struct opening *o = container_of(op, struct opening, op);
    struct store *s = o->store;
    if (op->result < 0) {
        opening_done(s, (int)op->result, "meta: the roots can't be read: %s", strerror((int)-op->result));
        return;
    }
    const struct root *best = NULL;
    for (unsigned place = 0; place < 2; place++) {
        const struct root *r = (const void *)(o->buffer + place * BLOCK_SIZE);
        if (root_ok(r, place) && (!best || r->checkpoint > best->checkpoint))
            best = r;
    }
    const char *why = best ? root_problem(s, best) : "both roots are damaged";
    if (why) {
        opening_done(s, -EBADMSG, "meta: no usable checkpoint (%s): make the replica anew from its peers", why);
        return;
    }
    *s->root = *best;
    s->n_meta_pages = best->regions_page0 + best->n_region_pages;
    s->regions_cap = best->n_region_pages * REGIONS_PER_PAGE;
    s->regions = store_calloc(s->regions_cap, sizeof *s->regions);
    slabs_init(s);
    read_pages(o);
}

/* What is read of the superblock and of a root may be a write of a killed predecessor that is not durable yet. Built upon like that it would be gone with the next power
 * cut, and what was built would refer to an extent that is not counted, or to a checkpoint that never was (store.md §2 "Recovery", step 4). */
static void on_meta_flushed(struct io_op *op)
{
    struct opening *o = container_of(op, struct opening, op);
    if (op->result < 0)
        opening_done(o->store, (int)op->result, "meta: flushing it failed: %s", strerror((int)-op->result));
    else
        read_at(o, 0, 2 * BLOCK_SIZE, on_roots);
}

static void on_superblock_flushed(struct io_op *op)
{
    struct opening *o = container_of(op, struct opening, op);
    if (op->result < 0) {
        opening_done(o->store, (int)op->result, "superblock: flushing it failed: %s", strerror((int)-op->result));
        return;
    }
    op->fn = on_meta_flushed;
    dev_flush(o->store->meta, op);
}

void opening_begin(struct store *s)
{
    struct opening *o = store_calloc(1, sizeof *o);
    o->store = s;
    o->buffer = aligned_alloc(BLOCK_SIZE, 2 * CHUNK_PAGES * BLOCK_SIZE);
    s->root = aligned_alloc(BLOCK_SIZE, sizeof *s->root);
    if (!o->buffer || !s->root)
        abort();
    memset(s->root, 0, sizeof *s->root);
    s->opening = o;
    o->op.fn = on_superblock_flushed;
    dev_flush(s->superblock_dev, &o->op);
}

void opening_free(struct store *s)
{
    if (s->opening)
        free(s->opening->buffer);
    free(s->opening);
}
