/* The end of a run that scrubs: memory of one replica goes bad, so that a block of it changes under a good checksum. No checksum can tell; the comparison with its peers must (docs/rebuild.md section 9): the block is disowned,
 * and what the others have comes back. Nobody reads meanwhile: whoever read there first would be answered wrongly, which is no bug of a scrub. */
#include <stdio.h>

#include "base/crc32c.h"
#include "base/mark.h"
#include "replica/scrub_internal.h"
#include "replica/store_internal.h"
#include "tests/sim/cluster/trial.h"

#define HEAL_NS (120 * NS_PER_S)

struct altered {
    struct trial *run;
    struct node *node;
    uint64_t block;
    uint32_t crc; /* the right one */
};

static struct store *store_of(const struct node *n)
{
    return n->replica->store;
}

static bool is_plain(struct store *s, struct region *r, const struct cached_leaf *c, unsigned i)
{
    const struct opage *page;
    const struct leaf *p = c->page;
    const struct bad_leaf *b = bad_leaf(r, c->number);
    uint64_t block = r->entry->region * (uint64_t)REGION_BLOCKS + c->number * LEAF_BLOCKS + i;
    return p->slab[i / SLAB_BLOCKS] != SLAB_NONE && !bit_get(p->zero, i) && !bit_get(p->bad, i) && !bit_get(p->lost, i) &&
           !(b && bit_get(b->bits, i)) && overlay_find(s, r, block, &page) == OVERLAY_NONE;
}

/* Another content, with its checksum where the replica keeps it in memory. */
static bool alter_block(struct altered *a, struct region *r, struct cached_leaf *c, unsigned i)
{
    uint8_t data[BLOCK_SIZE];
    char name[32];
    struct store *s = store_of(a->node);
    uint32_t per = (uint32_t)(a->run->scale.sizes.extent_bytes / SLAB_BYTES), slab = c->page->slab[i / SLAB_BLOCKS];
    uint64_t at = slab % per * (uint64_t)SLAB_BYTES + i % SLAB_BLOCKS * (uint64_t)BLOCK_SIZE;
    snprintf(name, sizeof name, "extents/%05u", slab / per);
    struct sim_disk *d = sim_dir_find(a->node->dir, name);
    if (!d || s->cycle.state != CYCLE_IDLE)
        return false;
    sim_disk_peek(d, at, data, sizeof data);
    if (crc32c(data, sizeof data) != c->page->crc[i])
        return false; /* rotten already */
    data[0] ^= 1;
    sim_disk_poke(d, at, data, sizeof data);
    a->crc = c->page->crc[i];
    a->block = r->entry->region * (uint64_t)REGION_BLOCKS + c->number * LEAF_BLOCKS + i;
    c->page->crc[i] = crc32c(data, sizeof data);
    return true;
}

static bool alter_any(struct altered *a)
{
    struct store *s = store_of(a->node);
    struct group *g = store_group(s, SIM_GROUP);
    struct region *r = g && !g->needs_copy ? region_find(s, g, 0) : NULL;
    for (unsigned l = 0; r && l < REGION_LEAVES; l++) {
        struct cached_leaf *c = r->cached[l];
        for (unsigned i = 0; c && !c->loading && !c->rotten && i < LEAF_BLOCKS; i++)
            if (is_plain(s, r, c, i) && alter_block(a, r, c, i))
                return true;
    }
    return false;
}

/* What a scrub that is reading took from the leaf before is not what it finds on disk afterwards: its checksums would not be good. */
static bool is_not_reading(void *user)
{
    const struct altered *a = user;
    return a->run->cluster->broken || !a->node->ready || !a->node->replica->scrub->busy;
}

static bool is_over(void *user)
{
    struct altered *a = user;
    const struct scrub *sc = a->node->ready ? a->node->replica->scrub : NULL;
    if (a->run->cluster->broken || !sc || sc->now.disowned_blocks + sc->last.disowned_blocks > 0)
        return true;
    struct store *s = store_of(a->node);
    struct region *r = region_find(s, store_group(s, SIM_GROUP), a->block / REGION_BLOCKS);
    const struct cached_leaf *c = r->cached[a->block % REGION_BLOCKS / LEAF_BLOCKS];
    const struct opage *page;
    if (!c || c->loading)
        return true; /* it went from memory, and with it the wrong checksum */
    /* Somebody else who was reading found that data and checksum differ, and the block is repaired for that. */
    return (overlay_find(s, r, a->block, &page) == OVERLAY_PAGE && page->crc == a->crc) || c->page->crc[a->block % LEAF_BLOCKS] == a->crc;
}

/* What is damaged there may still have to be repaired: from this replica, too, and then two of three have what was changed. */
static bool others_are_damaged(const struct trial *r, const struct node *n)
{
    bool damaged = false;
    for (unsigned i = 0; i < r->cluster->n_nodes; i++)
        damaged |= i != n->index && !r->cluster->node[i].absent && checks_is_damaged(r->checks, i);
    return damaged;
}

const char *alter_and_scrub(struct trial *r)
{
    struct cluster *c = r->cluster;
    if (r->scale.sizes.scrub_bytes_per_s == 0 || r->options->beyond || c->broken)
        return NULL;
    for (unsigned i = 0; i < c->members.n_voters; i++) {
        const struct node *n = cluster_node_of(c, &c->members.voter[i]);
        if (!n || !n->ready)
            return NULL; /* two of three have no majority against each other */
    }
    for (unsigned i = 0; i < c->n_nodes; i++) {
        struct altered a = {.run = r, .node = &c->node[i]};
        if (!a.node->ready || a.node->io_failed || !cluster_votes(&c->members, a.node) || others_are_damaged(r, a.node))
            continue;
        checks_end(r->checks); /* what is wrong now is meant to be */
        if (!sim_run_until(r->world, is_not_reading, &a, HEAL_NS) || c->broken || !a.node->ready || !alter_any(&a))
            continue;
        MARK("operator: a block changes under a good checksum");
        if (!sim_run_until(r->world, is_over, &a, HEAL_NS))
            return "a block was changed under a good checksum, and no scrub finds it";
        return c->broken ? NULL : cluster_compare_replicas(c);
    }
    return NULL;
}
