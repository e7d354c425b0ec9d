/* Write-back: the frozen overlay to the extents (store.md §2 "Write-back").
 *
 * In batches of leaves, in the order of addresses: get the leaves, change them in memory, sort the batch's blocks by
 * place, write neighbours together; then drop the batch from the overlay and write its leaves to their other places.
 * Readers see the frozen pages until the data is on the device and the changed leaf afterwards (it is pinned until it
 * is written).
 *
 * What always holds:
 *  - no block is written that the frozen overlay does not hold: a fresh slab's other blocks are marked zero instead. (Small gaps
 *    between blocks of fresh slabs are written over with zeroes, for the sake of larger writes: nothing refers to them.)
 *  - a leaf is written once a cycle, after all data of its batch.
 *  - a slab that could not be written is never used again: what it held moves to another. */
#include "replica/store_internal.h"

#include <errno.h>
#include <stdlib.h>

#include "base/mark.h"

static unsigned frozen(const struct store *s)
{
    return s->gen ^ 1u;
}

static int by_address(const void *a, const void *b)
{
    const struct region *x = *(struct region *const *)a, *y = *(struct region *const *)b;
    if (x->group != y->group)
        return x->group->page < y->group->page ? -1 : 1;
    return x->entry->region < y->entry->region ? -1 : 1;
}

void write_back_begin(struct store *s)
{
    struct cycle *c = &s->cycle;
    uint32_t n = 0;
    list_for_each(l, &s->overlay_regions[frozen(s)]) n++;
    c->regions = store_realloc(c->regions, (n + 1) * sizeof(struct region *));
    c->n_regions = 0;
    list_for_each(l, &s->overlay_regions[frozen(s)]) c->regions[c->n_regions++] =
        container_of(l, struct region, overlay_link[frozen(s)]);
    if (n > 1)
        qsort(c->regions, n, sizeof(struct region *), by_address);
    c->region = c->leaf = 0;
    c->n_leaves = 0;
    if (!c->leaves)
        c->leaves = store_calloc(BATCH_LEAVES, sizeof *c->leaves);
}

void write_back_free(struct store *s)
{
    struct cycle *c = &s->cycle;
    for (unsigned i = 0; i < WRITE_BACK_DEPTH_MAX; i++)
        buf_unref(c->op[i].buf);
    buf_unref(c->relocation.buf);
    free(c->regions);
    free(c->leaves);
    free(c->blocks);
}

/* ---- load ---- */

static void on_leaf(struct leaf_wait *w)
{
    struct store *s = w->leaf->store;
    s->cycle.loads--;
    cycle_advance(s);
}

static void collect(struct store *s)
{
    struct cycle *c = &s->cycle;
    bool gentle = write_pace_is_gentle(s);
    uint32_t blocks = 0, most_leaves = gentle ? GENTLE_BATCH_LEAVES : BATCH_LEAVES, most_blocks = gentle ? GENTLE_BATCH_BLOCKS : BATCH_BLOCKS;
    c->n_leaves = c->next_load = 0;
    for (; c->region < c->n_regions; c->region++, c->leaf = 0) {
        struct region *r = c->regions[c->region];
        for (; c->leaf < REGION_LEAVES; c->leaf++) {
            const struct oleaf *o = overlay_leaf(r, frozen(s), c->leaf);
            if (!o)
                continue;
            if (o->n_pages == 0 && o->n_refs == 0 && !leaf_present(r, c->leaf) && !leaf_unknown(r, c->leaf)) { /* came and went within the overlay */
                MARK("write-back: leaf came and went in the overlay");
                overlay_drop_leaf(s, r, frozen(s), c->leaf);
                continue;
            }
            if (c->n_leaves == most_leaves || blocks >= most_blocks)
                return;
            c->leaves[c->n_leaves++] = (struct batch_leaf){.region = r, .number = c->leaf, .wait.fn = on_leaf};
            blocks += o->n_pages;
        }
    }
}

/* True when all are there. */
static bool load(struct store *s)
{
    struct cycle *c = &s->cycle;
    uint32_t most = write_pace_is_gentle(s) ? GENTLE_LOADS : LOADS_IN_FLIGHT;
    while (c->next_load < c->n_leaves && c->loads < most) {
        struct batch_leaf *b = &c->leaves[c->next_load++];
        b->create = !leaf_present(b->region, b->number);
        if (b->create)
            b->wait.leaf = leaf_make(s, b->region, b->number);
        else if (!leaf_get(s, b->region, b->number, &b->wait))
            c->loads++;
    }
    return c->next_load == c->n_leaves && c->loads == 0;
}

/* ---- prepare ---- */

static void add_block(struct store *s, uint32_t leaf, uint32_t slab_in_leaf, bool fresh, uint64_t place, const struct opage *page)
{
    struct cycle *c = &s->cycle;
    if (c->n_blocks == c->cap_blocks) {
        c->cap_blocks = c->cap_blocks ? 2 * c->cap_blocks : 1024;
        c->blocks = store_realloc(c->blocks, c->cap_blocks * sizeof *c->blocks);
    }
    c->blocks[c->n_blocks++] = (struct batch_block){.place = place, .page = page, .leaf = leaf, .slab = slab_in_leaf, .fresh = fresh};
}

static bool map_slab(struct store *s, struct region *r, unsigned l, struct leaf *p, unsigned i)
{
    uint32_t slab = slab_alloc(s);
    if (slab == SLAB_NONE) {
        store_fatal(s, -ENOSPC, "no slab is left for write-back");
        return false;
    }
    p->slab[i] = slab;
    bit_set(r->entry->mapped, l * LEAF_SLABS + i);
    slabs_take_reservation(s, r, l, i);
    return true;
}

static void unmap_slab(struct store *s, struct region *r, unsigned l, struct leaf *p, unsigned i)
{
    MARK("write-back: slab given back");
    slab_release(s, p->slab[i]);
    p->slab[i] = SLAB_NONE;
    bit_clear(r->entry->mapped, l * LEAF_SLABS + i);
}

/* What was there before is nobody's with the next root. */
static void map_ref(struct store *s, struct region *r, unsigned l, struct leaf *p, unsigned i, const struct oref *ref)
{
    uint32_t old = p->slab[i];
    if (old != SLAB_NONE) {
        MARK("write-back: slab replaced by a large write's");
        slab_release(s, old);
    }
    p->slab[i] = ref->slab;
    bit_set(r->entry->mapped, l * LEAF_SLABS + i);
    slabs_take_reservation(s, r, l, i);
    slab_settle(s, ref->slab);
    for (unsigned k = 0; k < SLAB_BLOCKS; k++)
        if (ref->mask >> k & 1)
            p->crc[i * SLAB_BLOCKS + k] = ref->crc[k];
}

/* One slab's 16 blocks: the leaf as it will be, and what must be written for that. */
static bool prepare_slab(struct store *s, uint32_t index, struct leaf *p, const struct oleaf *o, unsigned i)
{
    struct batch_leaf *b = &s->cycle.leaves[index];
    const struct oslab *os = o->slab ? o->slab[i] : NULL;
    uint16_t pages = os ? os->mask : 0, zeros = slab_bits((const uint8_t *)o->zero, i),
             trims = slab_bits((const uint8_t *)o->trim, i), losts = slab_bits((const uint8_t *)o->lost, i);
    const struct oref *ref = o->ref ? o->ref[i] : NULL;
    uint16_t refs = ref ? ref->mask : 0;
    if (!pages && !zeros && !losts && !ref)
        return true;
    if (ref)
        map_ref(s, b->region, b->number, p, i, ref);
    bool fresh = p->slab[i] == SLAB_NONE; /* not one that a large write filled */
    if (pages && fresh && !map_slab(s, b->region, b->number, p, i))
        return false;
    uint16_t set = pages | zeros | losts | refs;
    uint16_t zero = (uint16_t)((slab_bits(p->zero, i) & ~(pages | refs)) | zeros);
    uint16_t bad = (uint16_t)(slab_bits(p->bad, i) & ~set), lost = (uint16_t)((slab_bits(p->lost, i) & ~set) | losts);
    slab_bits_set(p->zero, i, zero);
    slab_bits_set(p->bad, i, bad);
    slab_bits_set(p->lost, i, lost);
    for (unsigned k = 0; k < SLAB_BLOCKS; k++) {
        if (!(pages >> k & 1))
            continue;
        kept_forget(s, p->slab[i]); /* written over in place */
        p->crc[i * SLAB_BLOCKS + k] = os->page[k].crc;
        add_block(s, index, i, fresh, (uint64_t)p->slab[i] * SLAB_BLOCKS + k, &os->page[k]);
    }
    /* A trim that leaves nothing gives the space back; zeroes alone keep it (ENTRY_ZERO). */
    if (p->slab[i] != SLAB_NONE && zero == 0xffff && trims && !bad && !lost)
        unmap_slab(s, b->region, b->number, p, i);
    return true;
}

static bool prepare_leaf(struct store *s, uint32_t index)
{
    struct batch_leaf *b = &s->cycle.leaves[index];
    struct region *r = b->region;
    const struct oleaf *o = overlay_leaf(r, frozen(s), b->number);
    struct leaf *p = b->wait.leaf->page;
    for (unsigned c = 0; b->create && c < LEAF_CHUNKS; c++) {
        /* What came and went here in the overlay before left its slot in the region alone. What a jump made unknown is told
         * by the images that are to come. */
        if (!chunk_unknown(r, b->number, c, p))
            p->changed_at[c] = r->entry->changed_at;
    }
    if (leaf_unknown(r, b->number))
        unknown_make_explicit(r, b->number, p, o);
    for (unsigned i = 0; i < LEAF_SLABS; i++)
        if (!prepare_slab(s, index, p, o, i))
            return false;
    if (leaf_unknown(r, b->number))
        unknown_settle(s, r, b->number, p);
    for (unsigned c = 0; c < LEAF_CHUNKS; c++)
        if (p->changed_at[c] < o->changed_at[c])
            p->changed_at[c] = o->changed_at[c];
    uint32_t *leaf_slab = &r->entry->leaf_slab[b->number / LEAVES_PER_SLAB];
    if (*leaf_slab == SLAB_NONE) {
        *leaf_slab = slab_alloc(s);
        if (*leaf_slab == SLAB_NONE) {
            store_fatal(s, -ENOSPC, "no slab is left for leaves");
            return false;
        }
        slabs_take_leaf_reservation(s, r, b->number);
    }
    if (b->create) {
        /* From here on it is there: in the cache until it is written, which flips this bit to 0. */
        r->entry->present |= UINT32_C(1) << b->number;
        r->entry->place |= UINT32_C(1) << b->number;
    }
    region_dirty(s, r);
    return true;
}

static int by_place(const void *a, const void *b)
{
    uint64_t x = ((const struct batch_block *)a)->place, y = ((const struct batch_block *)b)->place;
    return x < y ? -1 : x > y;
}

static bool prepare(struct store *s)
{
    struct cycle *c = &s->cycle;
    c->n_blocks = c->next_block = 0;
    for (uint32_t i = 0; i < c->n_leaves; i++)
        if (!prepare_leaf(s, i))
            return false;
    if (c->n_blocks > 1)
        qsort(c->blocks, c->n_blocks, sizeof *c->blocks, by_place);
    return true;
}

/* ---- write ---- */

static void note_failed(struct store *s, const struct write_op *w)
{
    for (uint32_t i = w->first; i < w->first + w->n; i++) {
        const struct batch_block *b = &s->cycle.blocks[i];
        s->cycle.leaves[b->leaf].failed_slabs |= UINT32_C(1) << b->slab;
    }
}

static void on_written(struct io_op *op)
{
    struct write_op *w = container_of(op, struct write_op, op);
    struct store *s = w->store;
    w->busy = false;
    s->cycle.in_flight--;
    MARK_IF(op->result < 0, "write-back: a block can't be written");
    if (op->result < 0)
        note_failed(s, w);
    else
        s->write_back_bytes += (uint64_t)w->n * BLOCK_SIZE;
    cycle_advance(s);
}

static struct write_op *idle_op(struct store *s, void (*fn)(struct io_op *op))
{
    for (unsigned i = 0; i < s->options.write_back_depth; i++) {
        struct write_op *w = &s->cycle.op[i];
        if (w->busy)
            continue;
        w->busy = true;
        w->store = s;
        w->op.fn = fn;
        w->buf = NULL;
        s->cycle.in_flight++;
        return w;
    }
    return NULL;
}

static void add_iov(struct write_op *w, unsigned *n_iov, const uint8_t *data)
{
    struct iovec *last = *n_iov > 0 ? &w->iov[*n_iov - 1] : NULL;
    if (last && (const uint8_t *)last->iov_base + last->iov_len == data)
        last->iov_len += BLOCK_SIZE;
    else
        w->iov[(*n_iov)++] = (struct iovec){(void *)(uintptr_t)data, BLOCK_SIZE};
}

/* May the block be written with those before it, whose end is at `end`? */
static bool follows(const struct store *s, const struct batch_block *before, const struct batch_block *b, uint64_t end)
{
    if (b->place / SLAB_BLOCKS / s->slabs_per_extent != before->place / SLAB_BLOCKS / s->slabs_per_extent)
        return false;
    return b->place == end || (b->fresh && before->fresh && b->place - end <= WRITE_BACK_GAP_BLOCKS);
}

/* A peer is being given what a block of the batch is about to overwrite. */
static bool is_read(const struct store *s, const struct batch_block *b)
{
    bool is = !list_empty(&s->value_reads) && large_is_read(s, b->place / SLAB_BLOCKS);
    MARK_IF(is, "write-back: waits for a value that is read");
    return is;
}

static void write_run(struct store *s, struct write_op *w)
{
    static const uint8_t zeroes[BLOCK_SIZE] __attribute__((aligned(BLOCK_SIZE)));
    struct cycle *c = &s->cycle;
    const struct batch_block *first = &c->blocks[c->next_block];
    uint64_t end = first->place, slab = end / SLAB_BLOCKS, most = write_pace_is_gentle(s) ? GENTLE_MERGE_BLOCKS : WRITE_BACK_MERGE_BLOCKS;
    unsigned n_iov = 0;
    w->first = c->next_block;
    for (w->n = 0; c->next_block < c->n_blocks; w->n++) {
        const struct batch_block *b = &c->blocks[c->next_block];
        if (w->n > 0 && (b->place - first->place >= most || !follows(s, b - 1, b, end) || is_read(s, b)))
            break;
        MARK_IF(end < b->place, "write-back: a gap is written over");
        for (; end < b->place; end++)
            add_iov(w, &n_iov, zeroes);
        add_iov(w, &n_iov, b->page->buf->data + b->page->off);
        end++;
        c->next_block++;
    }
    slab_mark_dirty(s, slab); /* an extent has them all */
    dev_write(slab_dev(s, slab), w->iov, n_iov, slab_offset(s, slab) + first->place % SLAB_BLOCKS * BLOCK_SIZE, 0, &w->op);
}

static bool write_blocks(struct store *s)
{
    struct cycle *c = &s->cycle;
    while (c->next_block < c->n_blocks && c->in_flight < write_pace_depth(s) && write_pace_allows(s)) {
        if (is_read(s, &c->blocks[c->next_block]))
            return false; /* its end goes on here */
        struct write_op *w = idle_op(s, on_written);
        if (!w)
            return false;
        write_run(s, w);
        write_pace_took(s, (uint64_t)w->n * BLOCK_SIZE);
    }
    return c->next_block == c->n_blocks && c->in_flight == 0;
}

/* ---- relocation: a slab could not be written (store.md §2 "Errors") ---- */

static void relocate_next(struct store *s);

static void relocate_write(struct store *s);

static void on_relocated(struct io_op *op)
{
    struct relocation *m = container_of(op, struct relocation, op);
    struct cycle *c = container_of(m, struct cycle, relocation);
    struct store *s = container_of(c, struct store, cycle);
    if (op->result < 0) {
        if (++m->tries == RELOCATE_TRIES) {
            store_fatal(s, (int)op->result, "the extents can't be written");
            return;
        }
        relocate_write(s);
        return;
    }
    struct batch_leaf *b = &c->leaves[m->leaf];
    kept_forget(s, b->wait.leaf->page->slab[m->slab]);
    b->wait.leaf->page->slab[m->slab] = m->target; /* the old one stays in use, with nobody in it */
    b->failed_slabs &= ~(UINT32_C(1) << m->slab);
    MARK("write-back: slab relocated");
    s->write_back_bytes += SLAB_BYTES;
    buf_unref(m->buf);
    m->buf = NULL;
    m->busy = false;
    cycle_advance(s);
}

static void relocate_write(struct store *s)
{
    struct relocation *m = &s->cycle.relocation;
    m->target = slab_alloc(s);
    if (m->target == SLAB_NONE) {
        store_fatal(s, -ENOSPC, "a slab can't be written, and no other is free");
        return;
    }
    m->op.fn = on_relocated;
    m->iov = (struct iovec){m->buf->data, SLAB_BYTES};
    slab_mark_dirty(s, m->target);
    dev_write(slab_dev(s, m->target), &m->iov, 1, slab_offset(s, m->target), 0, &m->op);
}

static void relocate_bad(struct store *s, struct relocation *m)
{
    struct batch_leaf *b = &s->cycle.leaves[m->leaf];
    uint64_t bits[LEAF_BLOCKS / 64] = {0};
    MARK("write-back: old block damaged at relocation");
    unsigned i = m->slab * SLAB_BLOCKS + m->block;
    memset(m->buf->data + m->block * BLOCK_SIZE, 0, BLOCK_SIZE); /* damage is not carried to the new place */
    bit_set(b->wait.leaf->page->bad, i);
    bit_set(bits, i);
    bad_found(s, b->region, b->number, bits);
}

static void on_old_block(struct io_op *op)
{
    struct relocation *m = container_of(op, struct relocation, op);
    struct cycle *c = container_of(m, struct cycle, relocation);
    struct store *s = container_of(c, struct store, cycle);
    const struct leaf *p = c->leaves[m->leaf].wait.leaf->page;
    uint32_t crc = p->crc[m->slab * SLAB_BLOCKS + m->block];
    if (op->result < 0 || crc32c(m->buf->data + m->block * BLOCK_SIZE, BLOCK_SIZE) != crc)
        relocate_bad(s, m);
    m->block++;
    relocate_next(s);
}

/* Puts the slab's blocks together, from the overlay and from where they were. */
static void relocate_next(struct store *s)
{
    struct relocation *m = &s->cycle.relocation;
    const struct batch_leaf *b = &s->cycle.leaves[m->leaf];
    const struct leaf *p = b->wait.leaf->page;
    const struct oleaf *o = overlay_leaf(b->region, frozen(s), b->number);
    const struct oslab *os = o->slab ? o->slab[m->slab] : NULL;
    for (; m->block < SLAB_BLOCKS; m->block++) {
        unsigned i = m->slab * SLAB_BLOCKS + m->block;
        uint8_t *to = m->buf->data + m->block * BLOCK_SIZE;
        if (os && os->mask >> m->block & 1) {
            memcpy(to, os->page[m->block].buf->data + os->page[m->block].off, BLOCK_SIZE);
        } else if (!bit_get(p->zero, i) && !bit_get(p->bad, i) && !bit_get(p->lost, i)) {
            uint32_t slab = p->slab[m->slab];
            m->op.fn = on_old_block;
            m->iov = (struct iovec){to, BLOCK_SIZE};
            dev_read(slab_dev(s, slab), &m->iov, 1, slab_offset(s, slab) + m->block * BLOCK_SIZE, &m->op);
            return;
        }
    }
    relocate_write(s);
}

/* True when no slab of the batch failed (any more). */
static bool relocate(struct store *s)
{
    struct cycle *c = &s->cycle;
    struct relocation *m = &c->relocation;
    if (m->busy)
        return false;
    for (uint32_t i = 0; i < c->n_leaves; i++) {
        if (!c->leaves[i].failed_slabs)
            continue;
        *m = (struct relocation){.leaf = i, .slab = (uint32_t)__builtin_ctz(c->leaves[i].failed_slabs), .busy = true};
        m->buf = buf_alloc_must(s->reactor->arena, SLAB_BYTES);
        memset(m->buf->data, 0, SLAB_BYTES);
        relocate_next(s);
        return false;
    }
    return true;
}

/* ---- leaves ---- */

static void on_leaf_written(struct io_op *op)
{
    struct write_op *w = container_of(op, struct write_op, op);
    struct store *s = w->store;
    struct batch_leaf *b = &s->cycle.leaves[w->first];
    w->busy = false;
    s->cycle.in_flight--;
    if (op->result < 0) {
        store_fatal(s, (int)op->result, "a leaf can't be written");
        return;
    }
    b->region->entry->place ^= UINT32_C(1) << b->number;
    b->region->entry->leaf_crc[b->number] = b->wait.leaf->page->header.crc;
    b->wait.leaf->rotten = false;
    region_dirty(s, b->region);
    leaf_unpin(s, b->wait.leaf);
    cycle_advance(s);
}

static bool write_leaves(struct store *s)
{
    struct cycle *c = &s->cycle;
    while (c->next_leaf < c->n_leaves) {
        const struct region *to = c->leaves[c->next_leaf].region;
        uint32_t slab = to->entry->leaf_slab[c->leaves[c->next_leaf].number / LEAVES_PER_SLAB];
        kept_forget(s, slab); /* recovery found an entry that was there once */
        if (c->in_flight >= write_pace_depth(s) || !write_pace_allows(s) || (!list_empty(&s->value_reads) && large_is_read(s, slab)))
            return false;
        struct write_op *w = idle_op(s, on_leaf_written);
        if (!w)
            return false;
        write_pace_took(s, BLOCK_SIZE);
        struct batch_leaf *b = &c->leaves[c->next_leaf];
        struct leaf *p = b->wait.leaf->page;
        unsigned bit = !(b->region->entry->place >> b->number & 1);
        uint64_t off;
        struct dev *d = leaf_place(s, b->region, b->number, bit, &off);
        p->header.reserved[0] = leaf_own_place(s, b->region, b->number, bit);
        page_seal(&p->header, META_LEAF, c->root->checkpoint, b->region->entry->group,
                  leaf_number(b->region, b->number));
        w->first = c->next_leaf++;
        w->iov[0] = (struct iovec){p, sizeof *p};
        slab_mark_dirty(s, b->region->entry->leaf_slab[b->number / LEAVES_PER_SLAB]);
        dev_write(d, w->iov, 1, off, 0, &w->op);
    }
    return c->in_flight == 0;
}

/* One state on, or none: the caller looks whether it changed. */
void write_back_advance(struct store *s)
{
    struct cycle *c = &s->cycle;
    switch (c->state) {
    case CYCLE_LOAD:
        if (c->n_leaves == 0)
            collect(s);
        if (c->n_leaves == 0) {
            assert(overlay_is_empty(s, frozen(s)));
            c->state = CYCLE_FLUSH;
        } else if (load(s) && prepare(s)) {
            c->state = CYCLE_WRITE;
        }
        break;
    case CYCLE_WRITE:
        if (write_blocks(s))
            c->state = CYCLE_RELOCATE;
        break;
    case CYCLE_RELOCATE:
        if (!relocate(s))
            break;
        for (uint32_t i = 0; i < c->n_leaves; i++)
            overlay_drop_leaf(s, c->leaves[i].region, frozen(s), c->leaves[i].number);
        c->next_leaf = 0;
        c->state = CYCLE_LEAVES;
        if (s->told_full)
            store_schedule_kick(s); /* there may be room again */
        break;
    case CYCLE_LEAVES:
        if (!write_leaves(s))
            break;
        c->n_leaves = 0;
        c->state = CYCLE_LOAD;
        break;
    default:
        assert(!"not a state of write-back");
    }
}
