/* The copy at the target (docs/rebuild.md section 4): what is still unknown, verdicts, images, completion.
 *
 * What always holds:
 *  - an image of slot D is installed only at applied >= D, only into blocks that are unknown or bad at that moment, and
 *    only when D is no older than the jump and than the discovery of the block's damage: no entry between D and applied
 *    touched the block, or it would be known. So it is exact (Invariant U).
 *  - it goes into the overlay and is written back like anything else; before that checkpoint's root the block is still
 *    unknown on disk, and is fetched again after a crash.
 *  - requested + waiting + installed and not yet written back: at most a quarter of the overlay (one request always may).
 *  - between a drain and the end of the jump nothing is installed and no verdict taken. */
#include "replica/store_internal.h"

#include <errno.h>
#include <stdlib.h>

#include "base/mark.h"

static struct region *region_of(struct store *s, const struct group *g, uint64_t block)
{
    return region_find(s, g, block / REGION_BLOCKS);
}

static unsigned leaf_of(uint64_t block)
{
    return block % REGION_BLOCKS / LEAF_BLOCKS;
}

static unsigned chunk_of(uint64_t block)
{
    return block % LEAF_BLOCKS / CHUNK_BLOCKS;
}

static bool leaf_is_here(const struct region *r, unsigned l)
{
    return leaf_present(r, l) || r->cached[l];
}

void store_copy_state(const struct store *s, uint64_t group, struct store_copy_state *ret)
{
    const struct group *g = store_group(s, group);
    *ret = (struct store_copy_state){0};
    if (!g)
        return;
    uint64_t bytes = g->n_unknown * LEAF_BLOCKS * BLOCK_SIZE, end = g->size_blocks * BLOCK_SIZE,
             clean = (g->clean_blocks[0] + g->clean_blocks[1]) * BLOCK_SIZE;
    bytes = bytes > end ? end : bytes;
    *ret = (struct store_copy_state){
        .needs_copy = g->needs_copy,
        .copying = g->needs_copy && g->since != GROUP_SINCE_NONE,
        .since = g->since,
        .jump = g->jump,
        .unknown_leaves = g->n_unknown,
        .unknown_bytes = bytes > clean ? bytes - clean : 0,
        .copied_bytes = g->copied_blocks * BLOCK_SIZE,
        .unchanged_bytes = g->unchanged_blocks * BLOCK_SIZE,
    };
}

/* ---- what is unknown ---- */

struct scan {
    struct store *store;
    struct group *group;
    struct store_unknown *u;
    struct leaf_wait wait;
    struct region *region;
    uint64_t jump, block; /* block: where it looks next */
};

/* What was installed holds the copy up: no use in waiting until the store is idle. */
static void write_back_soon(struct store *s)
{
    if (s->cycle.state == CYCLE_IDLE && !overlay_is_empty(s, s->gen))
        store_checkpoint(s);
}

static void scan_over(struct scan *sc, int err)
{
    struct store_unknown *u = sc->u;
    u->err = err;
    if (err == -ENOENT && u->from == 0 && sc->group->n_unknown > 0 && !sc->group->held)
        write_back_soon(sc->store); /* all that is missing is in the overlay */
    free(sc);
    u->fn(u);
}

/* What the overlay does not know and nobody gave up. */
static bool wanted(struct scan *sc, unsigned l, unsigned c, const struct leaf *p)
{
    struct store_unknown *u = sc->u;
    struct region *r = sc->region;
    const struct bad_leaf *b = bad_leaf(r, l);
    bool any = false;
    u->block = leaf_number(r, l) * LEAF_BLOCKS + (uint64_t)c * CHUNK_BLOCKS;
    u->nblocks = chunk_blocks(r, l, c);
    u->whole = chunk_unknown(r, l, c, p);
    memset(u->want, 0, sizeof u->want);
    for (unsigned k = 0; k < u->nblocks; k++) {
        const struct opage *page;
        unsigned i = c * CHUNK_BLOCKS + k;
        if (!block_unknown(r, l, i, p) || (b && bit_get(b->given_up, i)) ||
            overlay_find(sc->store, r, u->block + k, &page) != OVERLAY_NONE)
            continue;
        bit_set(u->want, k);
        any = true;
    }
    return any;
}

/* One leaf. True: found. */
static bool scan_leaf(struct scan *sc, const struct leaf *p)
{
    unsigned l = leaf_of(sc->block);
    for (unsigned c = chunk_of(sc->block); c < LEAF_CHUNKS; c++)
        if (wanted(sc, l, c, p))
            return true;
    unknown_settle(sc->store, sc->region, l, p);
    sc->block = (sc->block / LEAF_BLOCKS + 1) * LEAF_BLOCKS;
    return false;
}

static void on_scan_leaf(struct leaf_wait *w);

static void scan(struct scan *sc)
{
    struct store *s = sc->store;
    while (sc->block < sc->group->size_blocks) {
        unsigned l = leaf_of(sc->block);
        sc->region = region_of(s, sc->group, sc->block);
        if (!sc->region || !(sc->region->entry->unknown >> l)) {
            sc->block = (sc->block / REGION_BLOCKS + 1) * REGION_BLOCKS;
            continue;
        }
        if (!leaf_unknown(sc->region, l)) {
            sc->block = (sc->block / LEAF_BLOCKS + 1) * LEAF_BLOCKS;
            continue;
        }
        if (!leaf_is_here(sc->region, l)) {
            if (scan_leaf(sc, NULL)) {
                scan_over(sc, 0);
                return;
            }
            continue;
        }
        sc->wait.fn = on_scan_leaf;
        if (!leaf_get(s, sc->region, l, &sc->wait))
            return;
        bool found = scan_leaf(sc, sc->wait.leaf->page);
        leaf_unpin(s, sc->wait.leaf);
        if (found) {
            scan_over(sc, 0);
            return;
        }
    }
    scan_over(sc, -ENOENT);
}

static void on_scan_leaf(struct leaf_wait *w)
{
    struct scan *sc = container_of(w, struct scan, wait);
    bool jumped = sc->group->jump != sc->jump, found = false;
    if (!jumped && leaf_unknown(sc->region, leaf_of(sc->block)))
        found = scan_leaf(sc, w->leaf->page);
    leaf_unpin(sc->store, w->leaf);
    if (jumped || found)
        scan_over(sc, jumped ? -ECANCELED : 0);
    else
        scan(sc);
}

void store_unknown_next(struct store *s, struct store_unknown *u)
{
    struct group *g = store_group(s, u->group);
    if (!g || s->dead) {
        u->err = g ? -EIO : -ENOENT;
        u->fn(u);
        return;
    }
    struct scan *sc = store_calloc(1, sizeof *sc);
    *sc = (struct scan){.store = s, .group = g, .u = u, .jump = g->jump, .block = u->from};
    scan(sc);
}

/* ---- verdicts ---- */

struct verdict {
    struct store *store;
    struct group *group;
    struct region *region;
    struct leaf_wait wait;
    unsigned leaf;
    uint64_t unchanged, since, image_slot, accepted;
    void (*fn)(void *user, uint64_t accepted);
    void *user;
};

/* Only what is unknown as a whole: the bad bits of a chunk that was written back since say nothing of why they are set.
 * And never over damage of its own. */
static bool may_take(const struct verdict *v, unsigned c, const struct leaf *p)
{
    const struct region *r = v->region;
    const struct bad_leaf *b = bad_leaf(r, v->leaf);
    if (!chunk_unknown(r, v->leaf, c, p))
        return false;
    for (unsigned i = c * CHUNK_BLOCKS; i < (c + 1) * CHUNK_BLOCKS; i++)
        if ((b && bit_get(b->bits, i)) || (p && (bit_get(p->bad, i) || bit_get(p->lost, i))))
            return false;
    return true;
}

static void judge_leaf(struct verdict *v, const struct leaf *p)
{
    struct group *g = v->group;
    if (g->held || v->image_slot < g->jump || v->since > g->since)
        return;
    for (unsigned c = 0; c < LEAF_CHUNKS; c++) {
        uint64_t bit = UINT64_C(1) << (v->leaf * LEAF_CHUNKS + c);
        if (!(v->unchanged & bit) || !may_take(v, c, p))
            continue;
        v->region->unchanged |= bit;
        v->accepted |= bit;
        g->unchanged_blocks += chunk_blocks(v->region, v->leaf, c);
    }
    unknown_settle(v->store, v->region, v->leaf, p);
}

static void on_verdict_leaf(struct leaf_wait *w);

static void judge(struct verdict *v)
{
    for (; v->leaf < REGION_LEAVES; v->leaf++) {
        if (!(v->unchanged >> (v->leaf * LEAF_CHUNKS) & 3) || !leaf_unknown(v->region, v->leaf))
            continue;
        if (!leaf_is_here(v->region, v->leaf)) {
            judge_leaf(v, NULL);
            continue;
        }
        v->wait.fn = on_verdict_leaf;
        if (!leaf_get(v->store, v->region, v->leaf, &v->wait))
            return;
        judge_leaf(v, v->wait.leaf->page);
        leaf_unpin(v->store, v->wait.leaf);
    }
    if (v->accepted)
        store_touch(v->store);
    v->fn(v->user, v->accepted);
    free(v);
}

static void on_verdict_leaf(struct leaf_wait *w)
{
    struct verdict *v = container_of(w, struct verdict, wait);
    judge_leaf(v, w->leaf->page);
    leaf_unpin(v->store, w->leaf);
    v->leaf++;
    judge(v);
}

void store_chunks_unchanged(struct store *s, uint64_t group, uint32_t region, uint64_t unchanged, uint64_t since,
                            uint64_t image_slot, void (*fn)(void *user, uint64_t accepted), void *user)
{
    struct group *g = store_group(s, group);
    struct region *r = g ? region_find(s, g, region) : NULL;
    if (!r || s->dead) {
        fn(user, 0);
        return;
    }
    struct verdict *v = store_calloc(1, sizeof *v);
    *v = (struct verdict){.store = s,
                          .group = g,
                          .region = r,
                          .unchanged = unchanged,
                          .since = since,
                          .image_slot = image_slot,
                          .fn = fn,
                          .user = user};
    judge(v);
}

/* ---- images ---- */

/* What of a request is the store's: it may outlive the request (the leaf is being read when that is abandoned). */
struct pending {
    struct list link; /* in store.copies */
    struct store *store;
    struct group *group;
    struct store_copy *c; /* NULL: abandoned */
    struct leaf_wait wait;
    struct buf *buf; /* the image's data, aligned: a reference; NULL: none */
    uint32_t buf_off;
    bool have;    /* the image is here */
    bool loading; /* the leaf is being read */
};

static uint64_t copy_bytes(const struct store_copy *c)
{
    return (uint64_t)c->nblocks * BLOCK_SIZE;
}

static void reserve(struct store *s, const struct group *g, const struct store_copy *c)
{
    struct region *r = region_of(s, g, c->block);
    for (uint32_t i = 0; r && i < c->nblocks; i++)
        slabs_reserve_block(s, r, c->block + i);
}

void copies_reserve_again(struct store *s)
{
    list_for_each(n, &s->copies)
    {
        const struct pending *p = container_of(n, struct pending, link);
        if (p->c)
            reserve(s, p->group, p->c);
    }
}

static bool has_space(struct store *s, const struct group *g, const struct store_copy *c)
{
    const struct region *r = region_of(s, g, c->block);
    uint64_t need = r ? slabs_needed(r, c->block, c->nblocks) : 0, keep = COPY_CREDIT_MIN / SLAB_BYTES;
    if (keep > s->slabs_total / 16)
        keep = s->slabs_total / 16;
    return need == 0 || slabs_to_spare(s) >= keep + need;
}

bool store_copy_begin(struct store *s, struct store_copy *c)
{
    struct group *g = store_group(s, c->group);
    assert(c->nblocks >= 1 && c->block % CHUNK_BLOCKS + c->nblocks <= CHUNK_BLOCKS);
    if (!g || s->dead || s->closing || g->held || c->block + c->nblocks > g->size_blocks)
        return false;
    uint64_t under_way = s->copy_bytes + s->clean_bytes[0] + s->clean_bytes[1];
    if (under_way > 0 && under_way + copy_bytes(c) > s->options.overlay_bytes / COPY_CLEAN_MOST) {
        MARK("copy: waits for write-back");
        write_back_soon(s);
        return false;
    }
    if (!has_space(s, g, c)) {
        MARK("copy: waits for space");
        store_schedule_kick(s); /* to grow */
        return false;
    }
    struct pending *p = store_calloc(1, sizeof *p);
    *p = (struct pending){.store = s, .group = g, .c = c};
    c->pending = p;
    list_push_back(&s->copies, &p->link);
    s->copy_bytes += copy_bytes(c);
    reserve(s, g, c);
    return true;
}

/* Out of the store's hands. What was reserved and not used is counted anew at the next cycle's end. */
static void let_go(struct store *s, struct store_copy *c)
{
    struct pending *p = c->pending;
    s->copy_bytes -= copy_bytes(c);
    p->group->n_copies -= p->have;
    buf_unref(p->buf);
    p->buf = NULL;
    c->pending = NULL;
    p->c = NULL;
    if (p->loading)
        return;
    list_remove(&p->link);
    free(p);
}

static void over(struct store *s, struct store_copy *c, int err)
{
    c->err = err;
    let_go(s, c);
    c->fn(c);
}

/* May an image of this slot, which is no older than the jump, be shown for the block? */
static bool is_new_enough(const struct group *g, const struct region *r, unsigned l, unsigned i, const struct leaf *p,
                          uint64_t image_slot)
{
    const struct bad_leaf *b = bad_leaf(r, l);
    if (b && bit_get(b->bits, i))
        return image_slot >= b->since;
    return chunk_unknown(r, l, i / CHUNK_BLOCKS, p) || image_slot >= g->image_floor;
}

static void put(struct store *s, struct region *r, struct store_copy *c, uint32_t k, uint32_t off)
{
    uint64_t block = c->block + k;
    unsigned l = leaf_of(block), i = block % LEAF_BLOCKS;
    bool nothing = bit_get(c->zero, k) || bit_get(c->lost, k);
    bad_cleared(s, r, l, i, 1);
    if (bit_get(c->lost, k)) {
        overlay_put_lost(s, r, block, c->changed_at);
    } else if (bit_get(c->zero, k)) {
        overlay_put_zero(s, r, block, true, c->changed_at);
        s->trimmed = true;
    } else {
        slabs_reserve_block(s, r, block);
        overlay_put(s, r, block, ((struct pending *)c->pending)->buf, off, c->crc[k], c->changed_at);
    }
    struct group *g = r->group;
    g->copied_blocks++;
    g->clean_blocks[s->gen]++;
    s->clean_bytes[s->gen] += nothing ? 0 : BLOCK_SIZE;
    c->installed++;
}

/* One instant: nothing else runs between the first and the last block. */
static void install(struct store *s, struct region *r, struct store_copy *c, const struct leaf *p)
{
    struct group *g = r->group;
    const struct pending *image = c->pending;
    unsigned l = leaf_of(c->block);
    uint32_t off = image->buf_off;
    for (uint32_t k = 0; k < c->nblocks; k++) {
        const struct opage *page;
        unsigned i = (unsigned)((c->block + k) % LEAF_BLOCKS);
        bool given_up = bit_get(c->give_up, k), bad = bit_get(c->bad, k) && !given_up,
             data = !given_up && !bad && !bit_get(c->zero, k) && !bit_get(c->lost, k);
        uint32_t at = off;
        off += data ? BLOCK_SIZE : 0;
        const struct bad_leaf *b = bad_leaf(r, l);
        bool open = block_unknown(r, l, i, p) || (b && bit_get(b->bits, i));
        if (!open || overlay_find(s, r, c->block + k, &page) != OVERLAY_NONE)
            continue; /* an entry or another image came first */
        if (given_up) {
            bad_given_up(s, r, l, i);
            overlay_touch(s, r, l, i / CHUNK_BLOCKS);
            store_touch(s);
            continue;
        }
        if (bad || !is_new_enough(g, r, l, i, p, c->image_slot) ||
            (data && crc32c(image->buf->data + at, BLOCK_SIZE) != c->crc[k]))
            bit_set(c->left, k);
        else
            put(s, r, c, k, at);
    }
    MARK_IF(c->installed > 0, "copy: image installed");
    if (c->installed > 0)
        store_touch(s); /* otherwise asking in vain would keep the store from ever being idle */
    over(s, c, 0);
}

static void on_copy_leaf(struct leaf_wait *w);

/* Installs it, or says what it waits for by doing nothing. */
static void try_copy(struct store *s, struct store_copy *c)
{
    struct pending *p = c->pending;
    struct group *g = p->group;
    if (!p->have || p->loading || g->held || g->applied < c->image_slot)
        return;
    struct region *r = region_of(s, g, c->block);
    unsigned l = leaf_of(c->block);
    if (c->image_slot < g->jump || !r) {
        over(s, c, r ? -ERANGE : 0);
        return;
    }
    if (!leaf_is_here(r, l)) {
        install(s, r, c, NULL);
        return;
    }
    p->wait.fn = on_copy_leaf;
    if (!leaf_get(s, r, l, &p->wait)) {
        p->loading = true;
        return;
    }
    struct cached_leaf *leaf = p->wait.leaf;
    install(s, r, c, leaf->page);
    leaf_unpin(s, leaf);
}

static void on_copy_leaf(struct leaf_wait *w)
{
    struct pending *p = container_of(w, struct pending, wait);
    struct store *s = p->store;
    struct cached_leaf *leaf = w->leaf;
    p->loading = false;
    if (p->c) {
        try_copy(s, p->c); /* it is pinned: at hand now */
    } else {
        list_remove(&p->link);
        free(p);
    }
    leaf_unpin(s, leaf);
}

/* Write-back hands the pages to the disk as they are. */
static void take_buf(struct store *s, struct pending *p, const struct store_copy *c)
{
    uint32_t n = 0;
    for (uint32_t k = 0; k < c->nblocks; k++)
        n += !bit_get(c->zero, k) && !bit_get(c->bad, k) && !bit_get(c->lost, k) && !bit_get(c->give_up, k);
    if (n == 0)
        return;
    if (c->buf_off % BLOCK_SIZE == 0) {
        p->buf = buf_ref(c->buf);
        p->buf_off = c->buf_off;
        return;
    }
    p->buf = buf_alloc_must(s->reactor->arena, (size_t)n * BLOCK_SIZE);
    memcpy(p->buf->data, c->buf->data + c->buf_off, (size_t)n * BLOCK_SIZE);
}

void store_copy_install(struct store *s, struct store_copy *c)
{
    struct pending *p = c->pending;
    assert(p && !p->have);
    take_buf(s, p, c);
    p->have = true;
    p->group->n_copies++;
    memset(c->left, 0, sizeof c->left);
    c->installed = 0;
    MARK_IF(p->group->applied < c->image_slot, "copy: image waits until applied");
    if (!s->dead)
        try_copy(s, c);
}

void store_copy_abandon(struct store *s, struct store_copy *c)
{
    let_go(s, c);
}

/* Each of them once: a callback may begin, install or abandon others. */
static struct store_copy *ready_copy(struct store *s, const struct group *g)
{
    list_for_each(n, &s->copies)
    {
        const struct pending *p = container_of(n, struct pending, link);
        if (p->group == g && p->c && p->have && !p->loading && g->applied >= p->c->image_slot)
            return p->c;
    }
    return NULL;
}

void copies_on_applied(struct store *s, struct group *g)
{
    struct store_copy *c;
    while (g->n_copies > 0 && !g->held && !s->dead && (c = ready_copy(s, g)))
        try_copy(s, c); /* over, or its leaf is being read */
}

static struct store_copy *copy_of(struct store *s, const struct group *g)
{
    list_for_each(n, &s->copies)
    {
        const struct pending *p = container_of(n, struct pending, link);
        if (p->group == g && p->c)
            return p->c;
    }
    return NULL;
}

/* A jump: while it is made nothing new is begun (the group is held), so this ends. */
void copies_drop(struct store *s, struct group *g)
{
    struct store_copy *c;
    while ((c = copy_of(s, g)))
        over(s, c, -ECANCELED);
}

void copies_free(struct store *s)
{
    struct list *n;
    while ((n = list_pop_front(&s->copies))) {
        struct pending *p = container_of(n, struct pending, link);
        buf_unref(p->buf);
        free(p);
    }
}

/* ---- the end ---- */

void store_copy_complete(struct store *s, uint64_t group, void (*fn)(void *user, int err), void *user)
{
    struct group *g = store_group(s, group);
    assert(g && g->needs_copy && g->n_unknown == 0 && g->since != GROUP_SINCE_NONE && g->completing == COMPLETE_NONE &&
           g->jumping == JUMP_NONE);
    g->completing = COMPLETE_WANTED;
    g->complete_fn = fn;
    g->complete_user = user;
    store_touch(s);
    store_checkpoint(s);
}

void copy_cancel_completion(struct group *g)
{
    if (g->completing == COMPLETE_NONE)
        return;
    g->completing = COMPLETE_NONE;
    if (g->complete_fn)
        g->complete_fn(g->complete_user, -ECANCELED);
}

/* A root is durable: there is room again; and was it the one that says that the copy is complete? */
void copy_on_root(struct store *s, struct group *g)
{
    if (g->needs_copy && s->cb.on_copy_room)
        s->cb.on_copy_room(s->cb.user, g->id);
    if (g->completing == COMPLETE_WANTED)
        s->cycle.again = true; /* asked for while that cycle was under way */
    if (g->completing != COMPLETE_IN_IMAGE)
        return;
    MARK("copy: complete");
    g->completing = COMPLETE_NONE;
    g->needs_copy = false;
    g->since = GROUP_SINCE_NONE;
    if (g->complete_fn)
        g->complete_fn(g->complete_user, 0);
}
