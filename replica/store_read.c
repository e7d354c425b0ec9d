/* Reads: the image at the group's applied slot (store.md §3).
 *
 * A read first gets the leaves that it needs into the cache, then takes everything at one instant: blocks of the
 * overlay are copied, for the others place and checksum are taken and the disk is read. What stands on disk for them
 * can't change before the read is over: a block that write-back overwrites is in the frozen overlay, and write-back
 * begins only when all reads from before the freeze are over (read_epoch); a slab that is freed is not used anew before
 * the checkpoint after that.
 *
 * Small reads of clients go through the host's page cache (docs/store.md §3). What does not fit its checksum there is read
 * once more from the disk, whose word counts.
 *
 * Zero blocks between others in one slab are read along and not looked at: one operation instead of many. */
#include "replica/store_internal.h"

#include <errno.h>
#include <stdlib.h>

#include "base/mark.h"

#define READ_GAP_BLOCKS 4u
/* Longer ones are a stream's, which the disk gives as fast as memory is copied, and which would drive out what is asked for again. */
#define READ_CACHED_MAX_BLOCKS 16u

struct reading;

struct fragment {
    struct io_op op;
    struct reading *reading;
    struct iovec iov;
    uint32_t first, n; /* blocks of the read, contiguous on disk */
    uint64_t place;    /* slab * SLAB_BLOCKS + index of the first */
    bool cached;       /* read through the page cache: what is wrong there is no damage yet */
    bool single;       /* the whole failed: block by block, to find which */
    uint32_t at;
};

struct part { /* what falls into one leaf */
    struct region *region;
    unsigned leaf;
    uint32_t first, n; /* blocks of the read */
    struct cached_leaf *have;
};

struct reading {
    struct list link; /* in store.readings */
    struct store *store;
    struct group *group;
    struct store_read *r;
    struct leaf_wait wait;
    unsigned waiting_part;
    struct part part[2];
    unsigned n_parts;
    uint64_t epoch;
    uint32_t pending;
    uint32_t n_fragments;
    struct fragment *fragment;
    struct fragment one;
    uint64_t unknown[ENTRY_MAX_BLOCKS / 64]; /* bad because of a jump: the copy fetches them, nobody else need be told */
    uint64_t place[ENTRY_MAX_BLOCKS]; /* on disk, also of a zero block that has room there; UINT64_MAX: not read from there. Not zeroed, and last */
};
static_assert(ENTRY_MAX_BLOCKS <= LEAF_BLOCKS, "a read touches at most two leaves");

size_t reading_bytes(void)
{
    return sizeof(struct reading);
}

uint64_t reads_begin(struct store *s)
{
    s->reads_in_flight[s->read_epoch & 1]++;
    return s->read_epoch;
}

void reads_over(struct store *s, uint64_t epoch)
{
    assert(s->reads_in_flight[epoch & 1] > 0);
    if (--s->reads_in_flight[epoch & 1] == 0 && s->cycle.state == CYCLE_COMMIT)
        cycle_advance(s);
}

/* A large write has replaced the slab that the block was read from. */
static bool is_superseded(const struct reading *rd, const struct part *pt, uint32_t i)
{
    const struct opage *page;
    uint64_t block = rd->r->block + i;
    return rd->place[i] != UINT64_MAX && overlay_find(rd->store, pt->region, block, &page) == OVERLAY_REF &&
           overlay_find_ref(rd->store, pt->region, block)->slab != rd->place[i] / SLAB_BLOCKS;
}

static void finish(struct reading *rd)
{
    struct store_read *r = rd->r;
    struct store *s = rd->store;
    bool bad = false, lost = false;
    for (unsigned p = 0; p < rd->n_parts; p++) {
        uint64_t bits[LEAF_BLOCKS / 64] = {0};
        bool any = false;
        for (uint32_t i = rd->part[p].first; i < rd->part[p].first + rd->part[p].n; i++) {
            lost |= bit_get(r->lost, i);
            if (!bit_get(r->bad, i))
                continue;
            bit_set(bits, (r->block + i) % LEAF_BLOCKS);
            bad = true;
            if (is_superseded(rd, &rd->part[p], i)) {
                bit_clear(bits, (r->block + i) % LEAF_BLOCKS);
                continue;
            }
            any |= !bit_get(rd->unknown, i);
            if (bit_get(rd->unknown, i))
                bit_clear(bits, (r->block + i) % LEAF_BLOCKS);
        }
        if (any)
            bad_found(s, rd->part[p].region, rd->part[p].leaf, bits);
    }
    r->err = bad ? -EBADMSG : lost ? -EIO : 0;
    if (rd->fragment != &rd->one)
        free(rd->fragment);
    list_remove(&rd->link);
    pool_put(&s->reading_pool, rd);
    if (s->closing)
        store_schedule_kick(s);
    r->fn(r);
}

static void read_fragment(struct fragment *f)
{
    struct reading *rd = f->reading;
    struct store *s = rd->store;
    uint32_t i = f->first + (f->single ? f->at : 0), n = f->single ? 1 : f->n;
    uint64_t place = f->place + (f->single ? f->at : 0);
    f->iov = (struct iovec){rd->r->buf->data + (size_t)i * BLOCK_SIZE, (size_t)n * BLOCK_SIZE};
    (f->cached ? dev_read_cached : dev_read)(slab_dev(s, place / SLAB_BLOCKS), &f->iov, 1,
                                             slab_offset(s, place / SLAB_BLOCKS) + place % SLAB_BLOCKS * BLOCK_SIZE, &f->op);
}

static void verify(struct store_read *r, uint32_t first, uint32_t n, bool failed)
{
    for (uint32_t i = first; i < first + n; i++)
        if (!bit_get(r->zero, i) && (failed || crc32c(r->buf->data + (size_t)i * BLOCK_SIZE, BLOCK_SIZE) != r->crc[i]))
            bit_set(r->bad, i);
}

static bool is_intact(const struct fragment *f)
{
    const struct store_read *r = f->reading->r;
    for (uint32_t i = f->first; i < f->first + f->n; i++)
        if (!bit_get(r->zero, i) && crc32c(r->buf->data + (size_t)i * BLOCK_SIZE, BLOCK_SIZE) != r->crc[i])
            return false;
    return true;
}

/* True when that was all. */
static bool on_cached(struct fragment *f)
{
    f->cached = false;
    if (f->op.result >= 0 && is_intact(f))
        return true;
    MARK("read: the page cache does not fit, the disk is asked");
    read_fragment(f);
    return false;
}

/* True when the fragment is over. */
static bool on_direct(struct fragment *f)
{
    struct reading *rd = f->reading;
    bool failed = f->op.result < 0;
    if (failed && f->n > 1 && !f->single) {
        f->single = true;
        f->at = 0;
        read_fragment(f);
        return false;
    }
    if (!f->single) {
        verify(rd->r, f->first, f->n, failed);
        return true;
    }
    verify(rd->r, f->first + f->at, 1, failed);
    while (++f->at < f->n && bit_get(rd->r->zero, f->first + f->at))
        ;
    if (f->at == f->n)
        return true;
    read_fragment(f);
    return false;
}

static void on_read(struct io_op *op)
{
    struct fragment *f = container_of(op, struct fragment, op);
    struct reading *rd = f->reading;
    struct store *s = rd->store;
    if (!(f->cached ? on_cached(f) : on_direct(f)) || --rd->pending > 0)
        return;
    uint64_t epoch = rd->epoch;
    finish(rd);
    reads_over(s, epoch);
}

static bool extends(const struct reading *rd, uint32_t first, uint32_t i)
{
    const struct store *s = rd->store;
    uint64_t a = rd->place[first], b = rd->place[i];
    return b == a + (i - first) && b / SLAB_BLOCKS / s->slabs_per_extent == a / SLAB_BLOCKS / s->slabs_per_extent;
}

/* How long the run is that begins with block i: contiguous in the read and on disk, ending with a block that is wanted. */
static uint32_t run_length(const struct reading *rd, uint32_t i)
{
    uint32_t n = rd->r->nblocks, k = 1;
    for (uint32_t j = 1; i + j < n && j - k <= READ_GAP_BLOCKS && rd->place[i + j] != UINT64_MAX && extends(rd, i, i + j); j++)
        if (!bit_get(rd->r->zero, i + j))
            k = j + 1;
    return k;
}

/* The runs of the read; set: its fragments. Returns how many. */
static uint32_t each_run(struct reading *rd, bool set)
{
    uint32_t n = rd->r->nblocks, count = 0;
    bool cached = rd->r->for_client && n <= READ_CACHED_MAX_BLOCKS && !rd->store->options.direct_reads;
    for (uint32_t i = 0; i < n;) {
        if (rd->place[i] == UINT64_MAX || bit_get(rd->r->zero, i)) {
            i++;
            continue;
        }
        uint32_t k = run_length(rd, i);
        if (set)
            rd->fragment[count] =
                (struct fragment){.op.fn = on_read, .reading = rd, .first = i, .n = k, .place = rd->place[i], .cached = cached};
        count++;
        i += k;
    }
    return count;
}

static void read_disk(struct reading *rd)
{
    struct store *s = rd->store;
    rd->n_fragments = each_run(rd, false);
    if (rd->n_fragments == 0) {
        finish(rd);
        return;
    }
    rd->fragment = rd->n_fragments == 1 ? &rd->one : store_calloc(rd->n_fragments, sizeof *rd->fragment);
    each_run(rd, true);
    rd->epoch = reads_begin(s);
    rd->pending = rd->n_fragments;
    for (uint32_t i = 0; i < rd->n_fragments; i++)
        read_fragment(&rd->fragment[i]);
}

static void take_zero(struct store_read *r, uint32_t i)
{
    bit_set(r->zero, i);
    r->crc[i] = CRC32C_ZERO_BLOCK;
}

static void take_unknown(struct reading *rd, uint32_t i)
{
    bit_set(rd->r->bad, i);
    bit_set(rd->unknown, i);
}

static void take_from_leaf(struct reading *rd, const struct part *pt, const struct leaf *leaf, uint32_t i)
{
    struct store_read *r = rd->r;
    unsigned b = (r->block + i) % LEAF_BLOCKS;
    uint32_t slab = leaf->slab[b / SLAB_BLOCKS];
    const struct bad_leaf *found = bad_leaf(pt->region, pt->leaf);
    bool copied = leaf_unknown(pt->region, pt->leaf) && !(found && bit_get(found->bits, b));
    if (chunk_unknown(pt->region, pt->leaf, b / CHUNK_BLOCKS, leaf) || (copied && bit_get(leaf->bad, b))) {
        take_unknown(rd, i);
    } else if (bit_get(leaf->lost, b)) {
        bit_set(r->lost, i);
    } else if (bit_get(leaf->bad, b)) {
        bit_set(r->bad, i);
    } else {
        bool zero = slab == SLAB_NONE || bit_get(leaf->zero, b);
        if (slab != SLAB_NONE)
            rd->place[i] = (uint64_t)slab * SLAB_BLOCKS + b % SLAB_BLOCKS;
        if (zero)
            take_zero(r, i);
        else
            r->crc[i] = leaf->crc[b];
    }
}

/* The instant at which the image is taken: nothing else runs between the first and the last block. */
static void take(struct reading *rd)
{
    struct store_read *r = rd->r;
    r->applied = rd->group->applied;
    for (unsigned p = 0; p < rd->n_parts; p++) {
        struct part *pt = &rd->part[p];
        const struct leaf *leaf = pt->have ? pt->have->page : NULL;
        for (uint32_t i = pt->first; i < pt->first + pt->n; i++) {
            const struct opage *page;
            unsigned c = (unsigned)((r->block + i) % LEAF_BLOCKS / CHUNK_BLOCKS);
            enum overlay_state st =
                pt->region ? overlay_find(rd->store, pt->region, r->block + i, &page) : OVERLAY_NONE;
            rd->place[i] = UINT64_MAX;
            if (pt->region && (i == pt->first || (r->block + i) % CHUNK_BLOCKS == 0)) {
                uint64_t at = chunk_changed_at(pt->region, pt->leaf, c, leaf);
                r->changed_at = at > r->changed_at ? at : r->changed_at;
            }
            if (st == OVERLAY_PAGE) {
                memcpy(r->buf->data + (size_t)i * BLOCK_SIZE, page->buf->data + page->off, BLOCK_SIZE);
                r->crc[i] = page->crc;
            } else if (st == OVERLAY_REF) {
                const struct oref *ref = overlay_find_ref(rd->store, pt->region, r->block + i);
                rd->place[i] = (uint64_t)ref->slab * SLAB_BLOCKS + (r->block + i) % SLAB_BLOCKS;
                r->crc[i] = ref->crc[(r->block + i) % SLAB_BLOCKS];
            } else if (st == OVERLAY_LOST) {
                bit_set(r->lost, i);
            } else if (st == OVERLAY_ZERO) {
                take_zero(r, i);
            } else if (pt->region && block_disowned(pt->region, pt->leaf, (r->block + i) % LEAF_BLOCKS)) {
                bit_set(r->bad, i);
            } else if (leaf) {
                take_from_leaf(rd, pt, leaf, i);
            } else if (pt->region && chunk_unknown(pt->region, pt->leaf, c, NULL)) {
                take_unknown(rd, i);
            } else {
                take_zero(r, i);
            }
        }
        if (pt->have)
            leaf_unpin(rd->store, pt->have);
        pt->have = NULL;
    }
    read_disk(rd);
}

static bool needs_leaf(const struct reading *rd, const struct part *pt)
{
    if (!pt->region || pt->have || (!leaf_present(pt->region, pt->leaf) && !pt->region->cached[pt->leaf]))
        return false;
    const struct opage *page;
    for (uint32_t i = pt->first; i < pt->first + pt->n; i++)
        if (overlay_find(rd->store, pt->region, rd->r->block + i, &page) == OVERLAY_NONE)
            return true;
    return false;
}

static void on_leaf(struct leaf_wait *w);

static void get_leaves(struct reading *rd)
{
    for (unsigned p = 0; p < rd->n_parts; p++) {
        struct part *pt = &rd->part[p];
        /* Asked anew after each wait: what the overlay held may be on disk now, a region may have come to be. */
        if (!pt->region)
            pt->region = region_find(rd->store, rd->group, (rd->r->block + pt->first) / REGION_BLOCKS);
        if (!needs_leaf(rd, pt))
            continue;
        rd->waiting_part = p;
        rd->wait.fn = on_leaf;
        if (!leaf_get(rd->store, pt->region, pt->leaf, &rd->wait))
            return;
        pt->have = rd->wait.leaf;
    }
    take(rd);
}

static void on_leaf(struct leaf_wait *w)
{
    struct reading *rd = container_of(w, struct reading, wait);
    rd->part[rd->waiting_part].have = w->leaf;
    get_leaves(rd);
}

void store_read(struct store *s, struct store_read *r)
{
    struct group *g = store_group(s, r->group);
    r->buf = NULL;
    memset(r->zero, 0, sizeof r->zero);
    memset(r->bad, 0, sizeof r->bad);
    memset(r->lost, 0, sizeof r->lost);
    r->changed_at = 0;
    r->err = 0;
    if (!g)
        r->err = -ENOENT;
    else if (s->dead)
        r->err = -EIO;
    else if (r->nblocks == 0 || r->nblocks > ENTRY_MAX_BLOCKS || r->block >= g->size_blocks ||
             r->nblocks > g->size_blocks - r->block)
        r->err = -EINVAL;
    else if (!(r->buf = buf_alloc(s->reactor->arena, (size_t)r->nblocks * BLOCK_SIZE)))
        r->err = -ENOMEM;
    if (r->err) {
        r->fn(r);
        return;
    }
    struct reading *rd = pool_get(&s->reading_pool);
    memset(rd, 0, offsetof(struct reading, place));
    list_push_back(&s->readings, &rd->link);
    rd->store = s;
    rd->group = g;
    rd->r = r;
    for (uint32_t i = 0; i < r->nblocks;) {
        uint64_t block = r->block + i;
        uint32_t n = (uint32_t)(LEAF_BLOCKS - block % LEAF_BLOCKS);
        if (n > r->nblocks - i)
            n = r->nblocks - i;
        rd->part[rd->n_parts++] = (struct part){.leaf = block % REGION_BLOCKS / LEAF_BLOCKS, .first = i, .n = n};
        i += n;
    }
    get_leaves(rd);
}
