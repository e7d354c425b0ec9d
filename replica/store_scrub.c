/* The scrub's part of the store (docs/rebuild.md section 9): reads back leaves, data, meta pages and superblock copies, one at a time, and says what it found; heals
 * from memory what memory still has. The digests for the comparison are in store_digest.c.
 *
 * What always holds:
 *  - one read of the disk per step; the caller sets the pace.
 *  - a place that is being read is not written: leaves and meta pages are read in an epoch, which the next checkpoint waits for
 *    (store_read.c); the superblock's reader holds back growth.
 *  - a leaf is judged by the page that was in force when the read began, and only if it still is when the read ends and nobody is
 *    about to write it.
 *  - meta pages and the root are judged only between checkpoints.
 *  - damage of data goes the way of all damage (bad_found): this file changes no content. */
#include "replica/store_internal.h"

#include <errno.h>
#include <stdlib.h>

#include "base/mark.h"

#define PIECE_SLABS 2u /* 128 KiB */
static_assert(PIECE_SLABS * SLAB_BLOCKS <= ENTRY_MAX_BLOCKS, "a piece is one read");

static void step_over(struct store_scrub *c, int err)
{
    c->err = err;
    c->fn(c);
}

/* ---- the place ---- */

uint64_t store_mapped_bytes(const struct store *s, uint64_t group)
{
    uint64_t slabs = 0;
    for (uint64_t i = 0; i < s->region_hash_size; i++)
        for (const struct region *r = s->region_hash[i]; r; r = r->hash_next)
            for (unsigned k = 0; r->entry->group == group && k < sizeof r->entry->mapped; k++)
                slabs += (unsigned)__builtin_popcount(r->entry->mapped[k]);
    return slabs * SLAB_BYTES;
}

uint32_t store_next_region(const struct store *s, uint64_t group, uint32_t from)
{
    uint32_t next = UINT32_MAX;
    for (uint64_t i = 0; i < s->region_hash_size; i++)
        for (const struct region *r = s->region_hash[i]; r; r = r->hash_next)
            if (r->entry->group == group && r->entry->region >= from && r->entry->region < next)
                next = r->entry->region;
    return next;
}

void store_scrub_place(const struct store *s, uint64_t group, struct store_scrub_place *ret)
{
    const struct group *g = store_group(s, group);
    *ret = g ? g->scrub : (struct store_scrub_place){0};
}

void store_scrub_set_place(struct store *s, uint64_t group, const struct store_scrub_place *place, bool soon)
{
    struct group *g = store_group(s, group);
    if (!g || s->dead)
        return;
    g->scrub = *place;
    if (soon)
        store_touch(s);
}

/* ---- leaves ---- */

struct leaf_check {
    struct io_op op;
    struct iovec iov;
    struct store *store;
    struct store_scrub *c;
    struct region *region;
    struct leaf_wait wait;
    struct buf *buf;
    unsigned leaf;
    uint64_t epoch;
    uint32_t crc;
    bool place, again;
};

/* What the leaf itself says is bad or lost, but for what the overlay has. */
static void collect(struct store *s, struct store_scrub *c, struct region *r, unsigned l, const struct leaf *p)
{
    bool any = false;
    for (unsigned i = 0; i < LEAF_BLOCKS && c->leaf_block + i < r->group->size_blocks; i++) {
        const struct opage *page;
        enum overlay_state st = overlay_find(s, r, c->leaf_block + i, &page);
        bool lost = st == OVERLAY_LOST || (st == OVERLAY_NONE && bit_get(p->lost, i));
        if (!lost && (st != OVERLAY_NONE || !bit_get(p->bad, i)))
            continue;
        bit_set(c->found, i);
        any = true;
        if (lost)
            bit_set(c->lost, i);
    }
    memcpy(c->seen, c->found, sizeof c->seen);
    if (any)
        bad_found(s, r, l, c->found); /* of what is lost, too: a replica that came back may have it */
}

static void leaf_over(struct leaf_check *k)
{
    struct store_scrub *c = k->c;
    struct cached_leaf *leaf = k->wait.leaf;
    c->leaf_rotten = leaf->rotten;
    MARK_IF(leaf->rotten, "scrub: rotten leaf");
    collect(k->store, c, k->region, k->leaf, leaf->page);
    leaf_unpin(k->store, leaf);
    free(k);
    step_over(c, 0);
}

static void on_leaf_cached(struct leaf_wait *w)
{
    leaf_over(container_of(w, struct leaf_check, wait));
}

static void get_leaf(struct leaf_check *k)
{
    k->wait.fn = on_leaf_cached;
    if (leaf_get(k->store, k->region, k->leaf, &k->wait))
        leaf_over(k);
}

static bool is_being_written(const struct region *r, unsigned l)
{
    return r->cached[l] && !r->cached[l]->loading && r->cached[l]->pins > 0;
}

static bool is_in_force(const struct leaf_check *k)
{
    const struct region_entry *e = k->region->entry;
    return !is_being_written(k->region, k->leaf) && k->place == (e->place >> k->leaf & 1) &&
           k->crc == e->leaf_crc[k->leaf];
}

static void read_leaf(struct leaf_check *k)
{
    uint64_t off;
    struct dev *d = leaf_place(k->store, k->region, k->leaf, k->place, &off);
    k->iov = (struct iovec){k->buf->data, BLOCK_SIZE};
    dev_read(d, &k->iov, 1, off, &k->op);
}

static void on_leaf_read(struct io_op *op)
{
    struct leaf_check *k = container_of(op, struct leaf_check, op);
    struct store *s = k->store;
    const struct meta_header *h = (const void *)k->buf->data;
    uint64_t newest = s->root->checkpoint + (s->cycle.state != CYCLE_IDLE);
    bool ok = op->result >= 0 && h->crc == k->crc &&
              page_ok(h, META_LEAF, k->region->entry->group, leaf_number(k->region, k->leaf), newest);
    if (!ok && !k->again && is_in_force(k)) {
        k->again = true; /* a transient error is no damage */
        read_leaf(k);
        return;
    }
    reads_over(s, k->epoch);
    buf_unref(k->buf);
    const struct cached_leaf *have = k->region->cached[k->leaf];
    if (!ok && is_in_force(k) && have && !have->loading && !have->rotten) {
        MARK("scrub: leaf written anew from memory");
        k->c->leaf_rewritten = true;
        overlay_touch(s, k->region, k->leaf, 0);
        store_touch(s);
    }
    get_leaf(k);
}

static void check_leaf(struct store *s, struct store_scrub *c, struct region *r, unsigned l)
{
    struct leaf_check *k = store_calloc(1, sizeof *k);
    *k = (struct leaf_check){.store = s, .c = c, .region = r, .leaf = l, .op.fn = on_leaf_read};
    c->leaf_block = leaf_number(r, l) * LEAF_BLOCKS;
    c->leaf_seen = true;
    c->was_cached = r->cached[l] != NULL;
    memset(c->seen, 0, sizeof c->seen);
    k->place = r->entry->place >> l & 1;
    k->crc = r->entry->leaf_crc[l];
    if (is_being_written(r, l)) {
        get_leaf(k);
        return;
    }
    c->read_bytes = BLOCK_SIZE;
    k->buf = buf_alloc_must(s->reactor->arena, BLOCK_SIZE);
    k->epoch = reads_begin(s);
    read_leaf(k);
}

/* ---- data ---- */

static void on_data(struct store_read *rd)
{
    struct store_scrub *c = container_of(rd, struct store_scrub, read);
    for (uint32_t i = 0; i < rd->nblocks && rd->buf; i++) {
        unsigned b = (unsigned)((rd->block + i) % LEAF_BLOCKS);
        bool lost = bit_get(rd->lost, i), bad = bit_get(rd->bad, i);
        c->verified_blocks += !lost && !bad && !bit_get(rd->zero, i);
        if ((!lost && !bad) || bit_get(c->seen, b))
            continue;
        bit_set(c->found, b);
        bit_set(c->seen, b);
        if (lost)
            bit_set(c->lost, b);
        MARK_IF(bad, "scrub: rotten block");
    }
    int err = rd->buf ? 0 : rd->err;
    buf_unref(rd->buf);
    step_over(c, err == -ENOMEM ? 0 : err); /* short of memory: that piece waits for the next pass */
}

/* Mapped slabs next to each other, from slab i of the leaf on. */
static void read_piece(struct store *s, struct store_scrub *c, const struct region *r, unsigned l, unsigned i)
{
    unsigned n = 1;
    while (n < PIECE_SLABS && i + n < LEAF_SLABS && bit_get(r->entry->mapped, l * LEAF_SLABS + i + n))
        n++;
    uint64_t first = leaf_number(r, l) * LEAF_BLOCKS + (uint64_t)i * SLAB_BLOCKS, size = r->group->size_blocks;
    uint64_t end = first + (uint64_t)n * SLAB_BLOCKS;
    c->slab = i + n;
    if (end > size)
        end = size;
    if (end <= first) {
        step_over(c, 0);
        return;
    }
    c->read = (struct store_read){
        .group = c->group, .block = first, .nblocks = (uint32_t)(end - first), .fn = on_data};
    c->read_bytes = c->read.nblocks * BLOCK_SIZE;
    store_read(s, &c->read);
}

void store_scrub_next(struct store *s, struct store_scrub *c)
{
    struct group *g = store_group(s, c->group);
    c->read_bytes = c->verified_blocks = 0;
    c->leaf_rewritten = c->leaf_rotten = false;
    memset(c->found, 0, sizeof c->found);
    memset(c->lost, 0, sizeof c->lost);
    struct region *r = g ? region_find(s, g, c->block / REGION_BLOCKS) : NULL;
    if (!r || s->dead || g->needs_copy) {
        step_over(c, !g || !r ? -ENOENT : s->dead ? -EIO : -EAGAIN);
        return;
    }
    uint64_t end = ((uint64_t)r->entry->region + 1) * REGION_BLOCKS;
    while (c->block < end) {
        unsigned l = c->block % REGION_BLOCKS / LEAF_BLOCKS;
        if (!c->leaf_seen && leaf_present(r, l) && !leaf_unknown(r, l)) {
            check_leaf(s, c, r, l);
            return;
        }
        for (; c->leaf_seen && c->slab < LEAF_SLABS; c->slab++) {
            if (bit_get(r->entry->mapped, l * LEAF_SLABS + c->slab)) {
                read_piece(s, c, r, l, c->slab);
                return;
            }
        }
        if (c->leaf_seen && !c->was_cached)
            leaf_chill(s, r, l); /* the cache stays as it was */
        c->leaf_seen = false;
        c->slab = 0;
        c->block += LEAF_BLOCKS;
    }
    step_over(c, -ENOENT);
}

/* ---- meta ---- */

struct meta_check {
    struct io_op op;
    struct iovec iov;
    struct store *store;
    struct store_scrub_meta *m;
    struct buf *buf;
    uint64_t checkpoint, epoch;
};

static void meta_over(struct store_scrub_meta *m, int err)
{
    m->err = err;
    m->fn(m);
}

static void on_superblock_healed(void *user, int err)
{
    struct store *s = user;
    s->growing = false;
    if (err)
        store_fatal(s, err, "the superblock can't be written");
    store_schedule_kick(s);
}

static void judge_superblock(struct store *s, struct meta_check *k)
{
    unsigned wrong = 0, damaged = 0;
    for (unsigned i = 0; i < SUPERBLOCK_COPIES; i++) {
        const uint8_t *copy = k->buf->data + (size_t)i * SUPERBLOCK_STRIDE;
        bool ok = k->op.result >= 0 && memcmp(copy, &s->sb, sizeof s->sb) == 0;
        wrong += !ok;
        damaged += !ok && (k->op.result < 0 || !superblock_copy_is_older(copy, &s->sb));
    }
    if (wrong == 0 || s->closing || s->dead)
        return;
    MARK("scrub: superblock written anew");
    k->m->n_bad = damaged;
    s->growing = true; /* nobody else writes it now */
    superblock_write(s->superblock_dev, &s->sb, on_superblock_healed, s);
}

static void judge_page(struct store *s, struct meta_check *k)
{
    const struct meta_header *h = (const void *)k->buf->data;
    uint32_t page = k->m->page - 2;
    if (s->cycle.state != CYCLE_IDLE || s->root->checkpoint != k->checkpoint || s->dead)
        return; /* just written anew, or about to be */
    bool root = k->m->page == 1;
    enum meta_kind kind = page < GROUPS_MAX              ? META_GROUP
                          : page < s->root->regions_page0 ? META_BITMAP
                                                          : META_REGIONS;
    bool ok = k->op.result >= 0 &&
              (root ? memcmp(h, s->root, sizeof *s->root) == 0
                    : page_ok(h, kind, 0, page, s->root->checkpoint) && h->crc == s->meta_crc[page]);
    if (ok)
        return;
    MARK("scrub: meta page written anew");
    k->m->n_bad = 1;
    if (!root)
        bit_set(s->meta_dirty, page);
    store_touch(s);
    store_checkpoint(s);
}

static void on_meta_read(struct io_op *op)
{
    struct meta_check *k = container_of(op, struct meta_check, op);
    struct store_scrub_meta *m = k->m;
    struct store *s = k->store;
    if (m->page == 0) {
        s->superblock_read = false;
        judge_superblock(s, k);
        store_schedule_kick(s); /* growth may have waited */
    } else {
        judge_page(s, k);
        reads_over(s, k->epoch);
    }
    m->page++;
    buf_unref(k->buf);
    s->meta_check = NULL;
    free(k);
    meta_over(m, 0);
}

void store_scrub_meta_next(struct store *s, struct store_scrub_meta *m)
{
    m->n_bad = m->read_bytes = 0;
    if (s->dead) {
        meta_over(m, -EIO);
        return;
    }
    uint32_t page = m->page - 2;
    if (m->page >= 2 && page >= GROUPS_MAX && page < s->root->bitmap_page0)
        page = s->root->bitmap_page0;
    if (m->page >= 2)
        m->page = page + 2;
    if (m->page >= 2 && page >= s->n_meta_pages) {
        meta_over(m, -ENOENT);
        return;
    }
    if (m->page == 0 ? s->growing : s->cycle.state != CYCLE_IDLE) {
        m->page++;
        meta_over(m, 0);
        return;
    }
    assert(!s->meta_check);
    struct meta_check *k = s->meta_check = store_calloc(1, sizeof *k);
    *k = (struct meta_check){.store = s, .m = m, .checkpoint = s->root->checkpoint, .op.fn = on_meta_read};
    if (m->page == 0)
        s->superblock_read = true;
    else
        k->epoch = reads_begin(s);
    m->read_bytes = m->page == 0 ? SUPERBLOCK_BYTES : BLOCK_SIZE;
    k->buf = buf_alloc_must(s->reactor->arena, m->read_bytes);
    k->iov = (struct iovec){k->buf->data, m->read_bytes};
    uint64_t off = m->page == 0   ? 0
                   : m->page == 1 ? (s->root->checkpoint & 1) * BLOCK_SIZE
                                  : meta_place(page, bit_get(s->root->place, page));
    dev_read(m->page == 0 ? s->superblock_dev : s->meta, &k->iov, 1, off, &k->op);
}
