#include "tests/sim/cluster/atlas.h"

#include <stdlib.h>

#include "replica/replica_internal.h"
#include "replica/store_internal.h"
#include "replica/wal_internal.h"

void atlas_init(struct atlas *a, struct cluster *c, bool beyond, struct fault_rng *g)
{
    *a = (struct atlas){.cluster = c, .beyond = beyond, .victim = (unsigned)fault_draw(g, 0, SIM_REPLICAS - 1)};
}

struct node *atlas_choose(struct atlas *a, struct fault_rng *g)
{
    unsigned any = (unsigned)fault_draw(g, 0, SIM_REPLICAS - 1);
    struct node *n = &a->cluster->node[a->beyond ? any : a->victim];
    return n->formatting || n->replaced || n->absent ? NULL : n;
}

/* It holds all that is chosen, or will have it from those that do; and knows by its disk who votes, unless the operator was told that a majority does. */
static bool holds_all(struct checks *ck, const struct node *n, uint64_t *commit)
{
    const struct cluster *c = n->cluster;
    struct replica_group *g = n->ready ? replica_find_group(n->replica, SIM_GROUP) : NULL;
    if (!g || g->acceptor.needs_copy || g->acceptor.n_lost > 0)
        return false;
    *commit = *commit > g->acceptor.commit ? *commit : g->acceptor.commit;
    if (c->said_done == c->members.slot)
        return true;
    if (g->acceptor.committed.slot != c->members.slot || g->acceptor.has_uncommitted)
        return false;
    return checks_durable_commit(ck, n->index) >= c->members.slot;
}

bool atlas_may_give_up(const struct atlas *a, struct checks *ck, const struct node *n)
{
    struct cluster *c = a->cluster;
    uint64_t commit = 0;
    unsigned holds = 0;
    if (n->formatting || n->paused)
        return false;
    for (unsigned i = 0; i < c->n_nodes; i++)
        if (a->damage[i] && i != n->index)
            return false;
    for (unsigned i = 0; i < c->members.n_voters; i++) {
        const struct node *x = cluster_node_of(c, &c->members.voter[i]);
        if (x != n && (!x || !holds_all(ck, x, &commit)))
            return false;
        holds += x != n;
    }
    for (unsigned i = 0; i < c->members.n_voters; i++) {
        const struct node *x = cluster_node_of(c, &c->members.voter[i]);
        if (x != n && replica_find_group(x->replica, SIM_GROUP)->acceptor.commit + 32 < commit)
            return false;
    }
    return holds >= membership_majority(&c->members);
}

void atlas_new_disk(struct atlas *a, const struct node *n)
{
    a->damage[n->index] = 0;
    a->superblock_copies[n->index] = 0;
    a->victim = n->index; /* what else is damaged later is damaged there, where replication has nothing to lose */
}

/* The others must hold all that is committed, each in reach of the other's log: what they may lack is copied only by issue 4. */
bool atlas_may_lose(const struct atlas *a, const struct node *n)
{
    if (a->beyond)
        return !n->formatting && !n->replaced;
    if (a->disk_lost || n->index != a->victim || n->formatting)
        return false;
    uint64_t commit = 0, floor = 0;
    for (unsigned pass = 0; pass < 2; pass++) {
        for (unsigned i = 0; i < SIM_REPLICAS; i++) {
            const struct node *other = &a->cluster->node[i];
            if (other == n)
                continue;
            struct replica_group *g = other->ready ? replica_find_group(other->replica, SIM_GROUP) : NULL;
            if (!g || g->acceptor.needs_copy || g->acceptor.n_lost > 0)
                return false;
            if (pass == 1 && (g->acceptor.commit < floor || g->acceptor.commit + 32 < commit))
                return false;
            commit = commit > g->acceptor.commit ? commit : g->acceptor.commit;
            floor = floor > g->acceptor.log.base.slot ? floor : g->acceptor.log.base.slot;
        }
    }
    return true;
}

/* ---- the WAL ---- */

struct found_batch {
    uint64_t lsn, seq, bytes, durable_seq, incarnation, start_lsn;
};

struct batches {
    struct found_batch *batch;
    uint32_t n, cap;
};

static void note_batch(struct batches *all, const struct wal_batch *b)
{
    if (all->n == all->cap) {
        all->cap = all->cap ? 2 * all->cap : 256;
        all->batch = realloc(all->batch, all->cap * sizeof all->batch[0]);
        assert(all->batch);
    }
    all->batch[all->n++] = (struct found_batch){.lsn = b->lsn,
                                                .seq = b->seq,
                                                .bytes = wal_batch_bytes(b),
                                                .durable_seq = b->durable_seq,
                                                .incarnation = b->incarnation,
                                                .start_lsn = b->start_lsn};
}

/* Batches that would be good if the power failed now and nothing else landed. */
static void find_batches(struct sim_disk *wal, const uint8_t salt[16], struct batches *all)
{
    static _Alignas(8) uint8_t copy[WAL_DESC_PAGES_MAX * BLOCK_SIZE];
    uint64_t size = sim_disk_size(wal);
    for (uint64_t off = 0; off < size; off += BLOCK_SIZE) {
        const struct wal_batch *page = (const void *)sim_disk_page(wal, off, true);
        uint64_t pages = page->desc_pages;
        if (page->magic != WAL_MAGIC || page->lsn % size != off || pages == 0 || pages > WAL_DESC_PAGES_MAX || off + pages * BLOCK_SIZE > size)
            continue;
        const struct wal_batch *b = page;
        if (pages > 1) {
            sim_disk_peek_durable(wal, off, copy, pages * BLOCK_SIZE);
            b = (const void *)copy;
        }
        if (wal_check_batch(salt, size, b->lsn, (const uint8_t *)b, pages * BLOCK_SIZE) == WAL_CHECK_OK)
            note_batch(all, b);
    }
}

/* Keeps the batches of the log as it stands that a durable batch vouches for. */
static void keep_proven(struct batches *all, uint64_t wal_bytes)
{
    uint64_t incarnation = 0, start = 0, proven = 0, head = 0;
    for (uint32_t i = 0; i < all->n; i++)
        if (all->batch[i].incarnation > incarnation) {
            incarnation = all->batch[i].incarnation;
            start = all->batch[i].start_lsn;
        }
    for (uint32_t i = 0; i < all->n; i++) {
        const struct found_batch *b = &all->batch[i];
        if (b->incarnation != incarnation)
            continue;
        proven = proven > b->durable_seq ? proven : b->durable_seq;
        head = head > b->lsn + b->bytes ? head : b->lsn + b->bytes;
    }
    uint32_t kept = 0;
    for (uint32_t i = 0; i < all->n; i++) {
        const struct found_batch *b = &all->batch[i];
        bool stale = b->incarnation != incarnation && b->lsn >= start;
        if (!stale && b->seq <= proven && b->lsn + wal_bytes > head)
            all->batch[kept++] = *b;
    }
    all->n = kept;
}

static int younger_first(const void *a, const void *b)
{
    const struct found_batch *x = a, *y = b;
    return x->lsn > y->lsn ? -1 : x->lsn < y->lsn;
}

/* The proven batch that has `back` younger ones. */
static void take_batch(struct sim_disk *wal, const struct batches *all, uint32_t back, struct spot *ret)
{
    assert(back < all->n);
    const struct found_batch *b = &all->batch[back];
    *ret = (struct spot){.disk = wal, .off = b->lsn % sim_disk_size(wal), .len = b->bytes};
    if (ret->off + ret->len > sim_disk_size(wal)) /* a PAD: its payload pages are none */
        ret->len = BLOCK_SIZE;
}

static bool find_proven(struct node *n, struct batches *all)
{
    static uint8_t image[SUPERBLOCK_BYTES];
    struct superblock sb;
    struct sim_disk *wal = sim_dir_find(n->dir, "wal");
    sim_disk_peek(sim_dir_find(n->dir, "superblock"), 0, image, sizeof image);
    if (superblock_pick(image, &sb))
        return false;
    find_batches(wal, sb.salt, all);
    keep_proven(all, sim_disk_size(wal));
    if (all->n > 0) /* by place, so that a choice does not hang on the order of the search */
        qsort(all->batch, all->n, sizeof *all->batch, younger_first);
    return all->n > 0;
}

bool atlas_wal_batch(struct node *n, struct fault_rng *g, struct spot *ret)
{
    struct batches all = {0};
    bool found = find_proven(n, &all);
    if (found) { /* more often a young one */
        uint32_t back = (uint32_t)(fault_chance(g, 2) ? fault_draw(g, 0, all.n - 1) : fault_draw_log(g, 1, all.n) - 1);
        take_batch(sim_dir_find(n->dir, "wal"), &all, back, ret);
    }
    free(all.batch);
    return found;
}

unsigned atlas_wal_newest(struct node *n, unsigned want, struct spot *ret)
{
    struct batches all = {0};
    unsigned count = 0;
    if (find_proven(n, &all))
        for (; count < want && count < all.n; count++)
            take_batch(sim_dir_find(n->dir, "wal"), &all, count, &ret[count]);
    free(all.batch);
    return count;
}

/* ---- extents ---- */

/* Slabs that large writes wait for which nobody vouches for yet: rot there can't be told from a torn write, like rot
 * of the newest batch. */
struct stakes {
    uint32_t slab[4096], n;
};

static bool is_at_stake(const struct stakes *s, uint32_t slab)
{
    for (uint32_t i = 0; i < s->n; i++)
        if (s->slab[i] == slab)
            return true;
    return false;
}

static void add_stake(struct stakes *s, uint32_t slab)
{
    if (s->n < ARRAY_LEN(s->slab) && !is_at_stake(s, slab))
        s->slab[s->n++] = slab;
}

static void stakes_of_batch(struct sim_disk *wal, uint64_t off, struct stakes *s)
{
    static _Alignas(8) uint8_t copy[WAL_DESC_PAGES_MAX * BLOCK_SIZE];
    const struct wal_batch *b = (const void *)copy;
    struct wal_cursor c;
    const struct wal_record *r;
    sim_disk_peek_durable(wal, off, copy, BLOCK_SIZE);
    sim_disk_peek_durable(wal, off, copy, b->desc_pages * (uint64_t)BLOCK_SIZE);
    wal_cursor_init(&c, b);
    while ((r = wal_cursor_next(&c))) {
        uint32_t n;
        const uint32_t *slab = wal_record_slabs(r, &n);
        for (uint32_t i = 0; i < n; i++)
            add_stake(s, slab[i]);
    }
}

static void find_stakes(struct node *n, struct stakes *s)
{
    static uint8_t image[SUPERBLOCK_BYTES];
    struct superblock sb;
    struct batches all = {0};
    struct sim_disk *wal = sim_dir_find(n->dir, "wal");
    s->n = 0;
    const struct store *st = n->replica ? n->replica->store : NULL;
    for (uint32_t i = 0; st && st->loose && i < st->slabs_total; i++)
        if (bit_get(st->loose, i))
            add_stake(s, i);
    sim_disk_peek(sim_dir_find(n->dir, "superblock"), 0, image, sizeof image);
    if (superblock_pick(image, &sb))
        return;
    find_batches(wal, sb.salt, &all);
    uint64_t proven = 0;
    for (uint32_t i = 0; i < all.n; i++)
        proven = proven > all.batch[i].durable_seq ? proven : all.batch[i].durable_seq;
    for (uint32_t i = 0; i < all.n; i++)
        if (all.batch[i].seq > proven)
            stakes_of_batch(wal, all.batch[i].lsn % sim_disk_size(wal), s);
    free(all.batch);
}

static uint32_t slab_of(const struct sim_disk *d, uint64_t off)
{
    return (uint32_t)(strtoul(sim_disk_name(d) + 8, NULL, 10) * (sim_disk_size(d) / SLAB_BYTES) + off / SLAB_BYTES);
}

/* The next page, round and round over all extents from a drawn one on, that is a leaf or that is data. */
static bool find_in_extents(struct node *n, struct fault_rng *g, bool leaf, struct spot *ret)
{
    struct sim_disk *extent[64];
    unsigned n_extents = 0;
    for (struct sim_disk *d = NULL; (d = sim_dir_next(n->dir, d)) && n_extents < ARRAY_LEN(extent);)
        if (strncmp(sim_disk_name(d), "extents/", 8) == 0)
            extent[n_extents++] = d;
    if (n_extents == 0)
        return false;
    static struct stakes stakes;
    find_stakes(n, &stakes);
    uint64_t pages = sim_disk_size(extent[0]) / BLOCK_SIZE, all = pages * n_extents, first = fault_draw(g, 0, all - 1);
    for (uint64_t i = 0; i < all; i++) {
        uint64_t p = (first + i) % all;
        struct sim_disk *d = extent[p / pages];
        if (sim_disk_is_blank(d, p % pages * BLOCK_SIZE))
            continue;
        const struct meta_header *h = (const void *)sim_disk_page(d, p % pages * BLOCK_SIZE, false);
        if ((h->magic == META_MAGIC + META_LEAF) != leaf || is_at_stake(&stakes, slab_of(d, p % pages * BLOCK_SIZE)))
            continue;
        *ret = (struct spot){.disk = d, .off = p % pages * BLOCK_SIZE, .len = BLOCK_SIZE};
        return true;
    }
    return false;
}

unsigned atlas_all_data(struct node *n, struct spot *ret, unsigned cap)
{
    unsigned count = 0;
    static struct stakes stakes;
    find_stakes(n, &stakes);
    for (struct sim_disk *d = NULL; (d = sim_dir_next(n->dir, d));) {
        if (strncmp(sim_disk_name(d), "extents/", 8) != 0)
            continue;
        for (uint64_t off = 0; off < sim_disk_size(d) && count < cap; off += BLOCK_SIZE) {
            const struct meta_header *h = (const void *)sim_disk_page(d, off, false);
            if (!sim_disk_is_blank(d, off) && h->magic != META_MAGIC + META_LEAF && !is_at_stake(&stakes, slab_of(d, off)))
                ret[count++] = (struct spot){.disk = d, .off = off, .len = BLOCK_SIZE};
        }
    }
    return count;
}

bool atlas_leaf(struct node *n, struct fault_rng *g, struct spot *ret)
{
    return find_in_extents(n, g, true, ret);
}

bool atlas_data(struct node *n, struct fault_rng *g, struct spot *ret)
{
    return find_in_extents(n, g, false, ret);
}

/* ---- the rest ---- */

/* Within bounds one copy always stays: a replica must start with it. */
bool atlas_superblock(struct atlas *a, struct node *n, struct fault_rng *g, struct spot *ret)
{
    unsigned copy = (unsigned)fault_draw(g, 0, SUPERBLOCK_COPIES - 1), all = (1u << SUPERBLOCK_COPIES) - 1;
    unsigned damaged = a->superblock_copies[n->index] | 1u << copy;
    if (damaged == all) {
        if (!a->beyond)
            return false;
        atlas_damaged(a, n, DAMAGE_SUPERBLOCK);
    }
    a->superblock_copies[n->index] = damaged;
    *ret = (struct spot){.disk = sim_dir_find(n->dir, "superblock"), .off = copy * (uint64_t)SUPERBLOCK_STRIDE, .len = BLOCK_SIZE};
    return true;
}

bool atlas_meta(struct node *n, struct fault_rng *g, struct spot *ret)
{
    struct sim_disk *meta = sim_dir_find(n->dir, "meta");
    uint64_t pages = sim_disk_size(meta) / BLOCK_SIZE, first = fault_chance(g, 3) ? fault_draw(g, 0, 1) : fault_draw(g, 0, pages - 1);
    for (uint64_t i = 0; i < pages; i++) {
        uint64_t p = (first + i) % pages;
        if (sim_disk_is_blank(meta, p * BLOCK_SIZE))
            continue;
        *ret = (struct spot){.disk = meta, .off = p * BLOCK_SIZE, .len = BLOCK_SIZE};
        return true;
    }
    return false;
}

void atlas_damaged(struct atlas *a, const struct node *n, enum damage what)
{
    a->damage[n->index] |= what;
}

bool atlas_excuses_refusal(const struct atlas *a, const struct node *n)
{
    return a->damage[n->index] & (DAMAGE_WAL | DAMAGE_META | DAMAGE_SUPERBLOCK);
}
