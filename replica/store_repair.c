/* Damaged blocks and their repair (store.md §2 "Errors", store.h store_repair).
 *
 * What always holds: a block is known as bad from the moment its damage is seen until an entry overwrites it or an
 * image is installed. An image of slot D is installed when the own applied slot reached D, if D is not older than the
 * damage's discovery: an entry between D and `applied` that touches the block would have cleared it, so the image is
 * exact. It goes the way of any block: through the overlay and the next checkpoint; after a crash before that, the next
 * read finds the damage again. */
#include "replica/store_internal.h"

#include <errno.h>
#include <stdlib.h>

#include "base/mark.h"

static void tell(struct store *s, struct region *r, unsigned l, const uint64_t bits[LEAF_BLOCKS / 64])
{
    uint64_t block = leaf_number(r, l) * LEAF_BLOCKS;
    for (unsigned i = 0; i < LEAF_BLOCKS;) {
        unsigned n = 0;
        while (i + n < LEAF_BLOCKS && bit_get(bits, i + n))
            n++;
        if (n > 0 && s->cb.on_bad)
            s->cb.on_bad(s->cb.user, r->group->id, block + i, n);
        i += n + 1;
    }
}

struct bad_leaf *bad_leaf_make(struct region *r, unsigned l)
{
    if (!r->bad)
        r->bad = store_calloc(REGION_LEAVES, sizeof *r->bad);
    if (!r->bad[l]) {
        r->bad[l] = store_calloc(1, sizeof *r->bad[l]);
        r->n_bad++;
    }
    return r->bad[l];
}

void bad_found(struct store *s, struct region *r, unsigned l, const uint64_t bits[LEAF_BLOCKS / 64])
{
    uint64_t block = leaf_number(r, l) * LEAF_BLOCKS, told[LEAF_BLOCKS / 64] = {0};
    const struct opage *page;
    bool any = false;
    for (unsigned i = 0; i < LEAF_BLOCKS; i++) {
        /* What the overlay holds was overwritten meanwhile, which healed it; but what it refers to is on disk. */
        if (!bit_get(bits, i) || block + i >= r->group->size_blocks)
            continue;
        enum overlay_state st = overlay_find(s, r, block + i, &page);
        if (st != OVERLAY_NONE && st != OVERLAY_REF)
            continue;
        bit_set(told, i);
        any = true;
        struct bad_leaf *b = bad_leaf_make(r, l);
        if (bit_get(b->bits, i))
            continue;
        bit_set(b->bits, i);
        b->n++;
        b->since = r->group->applied;
        MARK("repair: damage found");
        s->bad_blocks++;
    }
    if (any)
        tell(s, r, l, told);
}

void bad_cleared(struct store *s, struct region *r, unsigned l, unsigned first, unsigned n)
{
    struct bad_leaf *b = bad_leaf(r, l);
    if (!b)
        return;
    for (unsigned i = first; i < first + n; i++) {
        if (bit_get(b->bits, i)) {
            bit_clear(b->bits, i);
            bit_clear(b->given_up, i);
            r->group->n_disowned -= bit_get(b->disowned, i);
            bit_clear(b->disowned, i);
            b->n--;
        }
    }
    if (b->n == 0) {
        free(b);
        r->bad[l] = NULL;
        if (--r->n_bad == 0) {
            free(r->bad);
            r->bad = NULL;
        }
    }
}

/* Nobody can give the block to a copy: from here on it is bad like any other. */
void bad_given_up(struct store *s, struct region *r, unsigned l, unsigned i)
{
    struct bad_leaf *b = bad_leaf_make(r, l);
    bit_set(b->given_up, i);
    if (bit_get(b->bits, i))
        return;
    bit_set(b->bits, i);
    b->n++;
    if (b->since < r->group->jump)
        b->since = r->group->jump;
    s->bad_blocks++;
}

/* 0: installed. -EAGAIN: `applied` is not there yet, or a jump is about to be made. */
static int try_install(struct store *s, struct repair_wait *w)
{
    struct group *g = w->group;
    if (g->held)
        return -EAGAIN;
    struct region *r = region_find(s, g, w->block / REGION_BLOCKS);
    unsigned l = w->block % REGION_BLOCKS / LEAF_BLOCKS, i = w->block % LEAF_BLOCKS;
    const struct bad_leaf *b = r ? bad_leaf(r, l) : NULL;
    if (!b || !bit_get(b->bits, i))
        return -ESTALE;
    if (w->image_slot < b->since)
        return -ERANGE; /* ST3: an older block may not come back */
    if (g->applied < w->image_slot)
        return -EAGAIN;
    bad_cleared(s, r, l, i, 1);
    if (w->buf) {
        slabs_reserve_block(s, r, w->block);
        overlay_put(s, r, w->block, w->buf, 0, w->crc, 0);
    } else {
        overlay_put_zero(s, r, w->block, false, 0);
    }
    s->repaired_blocks++;
    store_touch(s);
    return 0;
}

static void finish(struct repair_wait *w, int err)
{
    buf_unref(w->buf);
    if (w->done)
        w->done(w->user, err);
    free(w);
}

void store_repair(struct store *s, uint64_t group, uint64_t block, uint64_t image_slot, const uint8_t *data,
                  uint32_t crc, void (*done)(void *user, int err), void *user)
{
    struct group *g = store_group(s, group);
    struct repair_wait *w = store_calloc(1, sizeof *w);
    *w = (struct repair_wait){
        .group = g, .block = block, .image_slot = image_slot, .crc = crc, .done = done, .user = user};
    int err = !g ? -ENOENT : s->dead ? -EIO : data && crc32c(data, BLOCK_SIZE) != crc ? -EBADMSG : 0;
    if (!err && data) {
        w->buf = buf_alloc(s->reactor->arena, BLOCK_SIZE);
        if (w->buf)
            memcpy(w->buf->data, data, BLOCK_SIZE);
        else
            err = -ENOMEM;
    }
    if (!err)
        err = try_install(s, w);
    if (err == -EAGAIN) {
        MARK("repair: image waits until applied");
        g->n_repairs++;
        list_push_back(&s->repairs, &w->link);
        return;
    }
    finish(w, err);
}

void repairs_on_applied(struct store *s, struct group *g)
{
    if (g->n_repairs == 0 || g->held)
        return;
    struct list ready;
    list_init(&ready); /* done() may come with the next repair */
    list_for_each_safe(n, &s->repairs)
    {
        struct repair_wait *w = container_of(n, struct repair_wait, link);
        if (w->group != g || g->applied < w->image_slot)
            continue;
        list_remove(n);
        list_push_back(&ready, n);
        g->n_repairs--;
    }
    struct list *n;
    while ((n = list_pop_front(&ready))) {
        struct repair_wait *w = container_of(n, struct repair_wait, link);
        finish(w, try_install(s, w));
    }
}

/* What an image from before a jump shows is no state that this replica goes through. */
void repairs_drop(struct store *s, struct group *g)
{
    struct list gone;
    list_init(&gone);
    list_for_each_safe(n, &s->repairs)
    {
        if (container_of(n, struct repair_wait, link)->group != g)
            continue;
        list_remove(n);
        list_push_back(&gone, n);
        g->n_repairs--;
    }
    struct list *n;
    while ((n = list_pop_front(&gone)))
        finish(container_of(n, struct repair_wait, link), -ECANCELED);
}

void repairs_free(struct store *s)
{
    struct list *n;
    while ((n = list_pop_front(&s->repairs))) {
        struct repair_wait *w = container_of(n, struct repair_wait, link);
        buf_unref(w->buf);
        free(w);
    }
}
