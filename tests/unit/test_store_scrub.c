/* The scrub of a store: whatever rots is found where it is and healed from memory when memory has it; digests say whether two replicas hold the same; what the majority disowns,
 * and what nobody has. */
#include <errno.h>

#include "tests/unit/store_harness.h"

#define BLOCKS 40000u /* three regions, the last of which ends within a chunk */

static void begin(struct store_test *t, uint64_t seed)
{
    t_init(t, seed);
    t_format(t);
    t_start_ok(t);
    t_create(t, BLOCKS);
}

/* ---- one pass ---- */

struct pass {
    struct store_test *t;
    struct store_scrub step;
    struct store_scrub_meta meta;
    bool stepped;
    uint64_t read_bytes, verified, n_steps;
    uint32_t meta_bad, leaves_rewritten, leaves_rotten;
    uint64_t n_found, n_lost, first_found;
};

static bool has_stepped(void *user)
{
    return ((struct pass *)user)->stepped;
}

static void on_step(struct store_scrub *c)
{
    struct pass *p = c->user;
    p->stepped = true;
    assert_true(c->read_bytes <= 128 << 10);
    p->n_steps++;
    p->read_bytes += c->read_bytes;
    p->verified += c->verified_blocks;
    p->leaves_rewritten += c->leaf_rewritten;
    p->leaves_rotten += c->leaf_rotten;
    for (unsigned i = 0; i < LEAF_BLOCKS && !c->err; i++) {
        if (!bit_get(c->found, i))
            continue;
        if (p->n_found++ == 0)
            p->first_found = c->leaf_block + i;
        p->n_lost += bit_get(c->lost, i);
    }
}

static void on_meta(struct store_scrub_meta *m)
{
    struct pass *p = m->user;
    p->stepped = true;
    p->meta_bad += m->n_bad;
}

static void pass(struct store_test *t, struct pass *p)
{
    memset(p, 0, sizeof *p);
    p->t = t;
    p->meta = (struct store_scrub_meta){.fn = on_meta, .user = p};
    do {
        p->stepped = false;
        store_scrub_meta_next(t->store, &p->meta);
        assert_true(sim_run_until(t->world, has_stepped, p, NS_PER_S));
    } while (p->meta.err == 0);
    assert_int_equal(p->meta.err, -ENOENT);
    for (uint32_t r = 0; (r = store_next_region(t->store, 1, r)) != UINT32_MAX; r++) {
        p->step = (struct store_scrub){.group = 1, .block = (uint64_t)r * REGION_BLOCKS, .fn = on_step, .user = p};
        do {
            p->stepped = false;
            store_scrub_next(t->store, &p->step);
            assert_true(sim_run_until(t->world, has_stepped, p, NS_PER_S));
        } while (p->step.err == 0);
        assert_int_equal(p->step.err, -ENOENT);
    }
}

/* Data in all regions, with holes, neighbours and the last block; on disk, the process stopped. */
static void with_data(struct store_test *t, uint64_t seed)
{
    begin(t, seed);
    t_append(t, 0, ENTRY_WRITE, 100, 5);
    t_append(t, 0, ENTRY_WRITE, 1000, 60);
    t_append(t, 0, ENTRY_WRITE, 16384 - 7, 20);
    t_append(t, 0, ENTRY_WRITE, BLOCKS - 3, 3);
    t_append(t, 0, ENTRY_TRIM, 1010, 2);
    t_commit_all(t);
    t_stop(t);
}

static void all_that_is_there_is_read_and_no_more(void **state)
{
    struct store_test t;
    struct pass p;
    with_data(&t, 1);
    t_start_ok(&t);
    pass(&t, &p);
    assert_int_equal(p.verified, 5 + 60 - 2 + 20 + 3);
    assert_int_equal(p.n_found + p.meta_bad + p.leaves_rewritten, 0);
    assert_true(p.read_bytes <= store_mapped_bytes(t.store, 1) + 16 * BLOCK_SIZE);
    /* The place goes with the checkpoint. */
    struct store_scrub_place place = {.next = 2, .passes = 7, .done_at = 1234567};
    store_scrub_set_place(t.store, 1, &place, true);
    t_stop(&t);
    t_start_ok(&t);
    memset(&place, 0, sizeof place);
    store_scrub_place(t.store, 1, &place);
    assert_int_equal(place.next, 2);
    assert_int_equal(place.passes, 7);
    assert_int_equal(place.done_at, 1234567);
    t_stop(&t);
    t_free(&t);
}

static void on_repaired(void *user, int err)
{
    *(int *)user = err;
}

static int repair(struct store_test *t, uint64_t block)
{
    uint8_t data[BLOCK_SIZE];
    int result = 1;
    uint64_t slot = store_applied(t->store, 1);
    t_content(t, 0, block, slot, data);
    store_repair(t->store, 1, block, slot, data, crc32c(data, sizeof data), on_repaired, &result);
    return result;
}

static void rotten_data_is_found_by_its_address(void **state)
{
    static const uint64_t where[] = {100, 104, 1000, 1059, 16384 - 7, 16384, BLOCKS - 1};
    for (unsigned i = 0; i < 2 * ARRAY_LEN(where); i++) {
        struct store_test t;
        struct pass p;
        uint64_t off, block = where[i / 2];
        with_data(&t, 2);
        struct sim_disk *d = t_find_data(&t, 0, block, &off);
        if (i % 2)
            sim_disk_flip(d, off + 77, 3);
        else
            sim_disk_spoil(d, off, BLOCK_SIZE);
        assert_int_equal(t_start(&t), 0);
        pass(&t, &p);
        assert_int_equal(p.n_found, 1);
        assert_int_equal(p.first_found, block);
        assert_int_equal(t.bad_reported, 1);
        assert_int_equal(repair(&t, block), 0);
        pass(&t, &p);
        assert_int_equal(p.n_found, 0);
        t_stop(&t);
        t_start_ok(&t);
        t_stop(&t);
        t_free(&t);
    }
}

static void a_rotten_leaf_is_written_anew_when_memory_has_it(void **state)
{
    for (unsigned cached = 0; cached < 2; cached++) {
        struct store_test t;
        struct store_read r;
        struct pass p;
        uint64_t off;
        with_data(&t, 3);
        assert_int_equal(t_start(&t), 0);
        if (cached) {
            t_read_now(&t, 0, 100, 5, &r);
            buf_unref(r.buf);
        }
        struct sim_disk *d = t_find_leaf(&t, 0, 100, &off);
        sim_disk_flip(d, off + 2000, 3);
        pass(&t, &p);
        assert_int_equal(p.leaves_rewritten, cached);
        assert_int_equal(p.leaves_rotten, !cached);
        assert_int_equal(p.n_found, cached ? 0 : LEAF_BLOCKS);
        if (cached) {
            t_checkpoint(&t);
            pass(&t, &p);
            assert_int_equal(p.leaves_rewritten + p.n_found, 0);
            t_stop(&t);
            t_start_ok(&t);
        } else { /* and is found again, until it is repaired: in the cache, after a checkpoint, after a restart */
            t_checkpoint(&t);
            pass(&t, &p);
            assert_int_equal(p.n_found, LEAF_BLOCKS);
            t_stop(&t);
            assert_int_equal(t_start(&t), 0);
            pass(&t, &p);
            assert_int_equal(p.n_found, LEAF_BLOCKS);
            for (uint64_t b = 0; b < LEAF_BLOCKS; b++)
                assert_int_equal(repair(&t, b), 0);
            pass(&t, &p);
            assert_int_equal(p.n_found, 0);
            t_check_image(&t, 0);
        }
        t_stop(&t);
        t_free(&t);
    }
}

static void rotten_meta_is_written_anew(void **state)
{
    for (unsigned how = 0; how < 7; how++) {
        struct store_test t;
        struct pass p;
        with_data(&t, 4);
        t_start_ok(&t);
        const struct root *r = t.store->root;
        uint32_t page[] = {0, 5, r->bitmap_page0, r->regions_page0};
        struct sim_disk *d = how < 5 ? t.meta : t.superblock;
        uint64_t off = how < 4    ? meta_place(page[how], bit_get(r->place, page[how]))
                       : how == 4 ? (r->checkpoint & 1) * BLOCK_SIZE
                       : how == 5 ? 0
                                  : 2 * SUPERBLOCK_STRIDE;
        if (how % 2)
            sim_disk_flip(d, off + 444, 1);
        else
            sim_disk_poke(d, off, (uint8_t[BLOCK_SIZE]){0}, BLOCK_SIZE);
        pass(&t, &p);
        assert_int_equal(p.meta_bad, 1);
        assert_int_equal(p.n_found, 0);
        t_run(&t, NS_PER_S);
        pass(&t, &p);
        assert_int_equal(p.meta_bad, 0);
        t_crash(&t, SIM_POWER);
        t_start_ok(&t);
        t_stop(&t);
        t_free(&t);
    }
}

/* A process that died while it wrote the superblock leaves older copies: they are written anew, and are no damage. */
static void an_older_superblock_is_no_damage(void **state)
{
    struct store_test t;
    struct pass p;
    with_data(&t, 4);
    t_start_ok(&t);
    struct superblock older = t.store->sb;
    older.generation--;
    superblock_seal(&older);
    sim_disk_poke(t.superblock, SUPERBLOCK_STRIDE, (const uint8_t *)&older, sizeof older);
    pass(&t, &p);
    assert_int_equal(p.meta_bad, 0);
    t_run(&t, NS_PER_S);
    struct superblock now;
    sim_disk_peek(t.superblock, SUPERBLOCK_STRIDE, (uint8_t *)&now, sizeof now);
    assert_memory_equal(&now, &t.store->sb, sizeof now);
    t_stop(&t);
    t_free(&t);
}

/* While everything is written all the time, nothing intact is called damaged. */
static void a_busy_store_gives_no_false_alarm(void **state)
{
    for (uint64_t seed = 10; seed < 16; seed++) {
        struct store_test t;
        struct pass p = {0};
        with_data(&t, seed);
        t.options.leaf_cache_bytes = seed % 2 ? 4 * BLOCK_SIZE : 64 * BLOCK_SIZE;
        t_start_ok(&t);
        for (unsigned i = 0; i < 300; i++) {
            for (unsigned k = 0; k < 3; k++)
                t_append(&t, 0, k < 2 ? ENTRY_WRITE : ENTRY_TRIM, 15000 + sim_rand(t.world) % 3000,
                         1 + (uint32_t)(sim_rand(t.world) % 64));
            t_commit_all(&t);
            if (i % 5 == 0)
                store_checkpoint(t.store); /* goes on while the scrub reads */
            if (i % 20 == 0) {
                pass(&t, &p);
                assert_int_equal(p.n_found + p.meta_bad + p.leaves_rewritten + p.leaves_rotten, 0);
            }
        }
        assert_true(p.verified > 1000);
        assert_int_equal(t.bad_reported, 0);
        t_stop(&t);
        t_free(&t);
    }
}

/* io.h forbids reading what is being written, and the simulated disks hold callers to that: reads that take longer than two checkpoints must hold back the third write of their place. */
static void checkpoints_wait_for_slow_reads(void **state)
{
    struct store_test t;
    struct pass p = {0};
    with_data(&t, 20);
    t.options.leaf_cache_bytes = 4 * BLOCK_SIZE;
    t_start_ok(&t);
    struct sim_range slow = {40 * NS_PER_MS, 40 * NS_PER_MS};
    uint64_t off;
    sim_disk_timing(t.meta)->read_ns = slow;
    sim_disk_timing(t_find_leaf(&t, 0, 1000, &off))->read_ns = slow;
    for (p.meta = (struct store_scrub_meta){.fn = on_meta, .user = &p}; p.meta.err == 0;) {
        p.stepped = false;
        store_scrub_meta_next(t.store, &p.meta);
        for (unsigned i = 0; i < 4; i++) {
            t_append(&t, 0, ENTRY_WRITE, 1000, 1);
            t_commit_all(&t);
            t_checkpoint(&t);
        }
        assert_true(sim_run_until(t.world, has_stepped, &p, NS_PER_S));
    }
    uint64_t before = t.store->checkpoints_done;
    p.stepped = false;
    p.step = (struct store_scrub){.group = 1, .fn = on_step, .user = &p};
    store_scrub_next(t.store, &p.step);
    for (unsigned i = 0; i < 4; i++) {
        t_append(&t, 0, ENTRY_WRITE, 1000, 1);
        t_commit_all(&t);
        t_checkpoint(&t);
    }
    assert_true(t.store->checkpoints_done >= before + 4);
    assert_true(sim_run_until(t.world, has_stepped, &p, NS_PER_S));
    assert_int_equal(p.n_found + p.meta_bad + p.leaves_rewritten + p.leaves_rotten, 0);
    t_stop(&t);
    t_free(&t);
}

/* ---- digests ---- */

struct asked {
    struct store_digest d;
    struct store_crcs c;
    bool done;
};

static void on_digest(struct store_digest *d)
{
    ((struct asked *)d->user)->done = true;
}

static bool is_done(void *user)
{
    return ((struct asked *)user)->done;
}

static void digest(struct store_test *t, uint64_t group, uint32_t region, struct asked *a)
{
    memset(a, 0, sizeof *a);
    a->d = (struct store_digest){.group = group, .region = region, .fn = on_digest, .user = a};
    store_digest(t->store, &a->d);
    assert_true(sim_run_until(t->world, is_done, a, NS_PER_S));
}

static void on_crcs(struct store_crcs *c)
{
    ((struct asked *)c->user)->done = true;
}

static void crcs(struct store_test *t, uint64_t group, uint64_t block, struct asked *a)
{
    memset(a, 0, sizeof *a);
    a->c = (struct store_crcs){.group = group, .block = block, .fn = on_crcs, .user = a};
    store_crcs(t->store, &a->c);
    assert_true(sim_run_until(t->world, is_done, a, NS_PER_S));
}

static void assert_equal_digests(const struct asked *a, const struct asked *b)
{
    assert_int_equal(a->d.err, 0);
    assert_int_equal(b->d.err, 0);
    assert_true(a->d.comparable == b->d.comparable);
    for (unsigned i = 0; i < REGION_CHUNKS; i++)
        assert_true(a->d.chunk[i].digest == b->d.chunk[i].digest);
}

static struct store_test *disowning;
static void disown_block_1100(struct store_crcs *c)
{
    assert_true(store_disown(disowning->store, 1, 1100));
    ((struct asked *)c->user)->done = true;
}

/* In the overlay, on disk, after a restart; never written, trimmed, zeroed, a page of zeroes. */
static void equal_contents_have_equal_digests(void **state)
{
    struct store_test t;
    struct asked now, then, other;
    with_data(&t, 20);
    t_start_ok(&t);
    t_append(&t, 0, ENTRY_WRITE, 103, 9);
    t_append(&t, 0, ENTRY_ZERO, 1100, 1);
    t_commit_all(&t);
    digest(&t, 1, 0, &then);
    assert_true(then.d.comparable == UINT64_MAX);
    assert_int_equal(then.d.next, 1);
    assert_int_equal(then.d.applied, 7);
    assert_int_equal(then.d.chunk[0].changed_at, 6);
    t_checkpoint(&t);
    digest(&t, 1, 0, &now);
    assert_equal_digests(&now, &then);
    t_crash(&t, SIM_POWER);
    t_start_ok(&t);
    digest(&t, 1, 0, &now);
    assert_equal_digests(&now, &then);
    /* Block 1100 as a page of zeroes: what no entry does, an image may. */
    disowning = &t;
    memset(&other, 0, sizeof other);
    other.c = (struct store_crcs){.group = 1, .block = 1024, .fn = disown_block_1100, .user = &other};
    store_crcs(t.store, &other.c);
    assert_true(sim_run_until(t.world, is_done, &other, NS_PER_S));
    digest(&t, 1, 0, &now);
    assert_true(now.d.comparable == (UINT64_MAX & ~(UINT64_C(1) << 4))); /* bad: nothing to compare */
    crcs(&t, 1, 1024, &other);
    assert_int_equal(other.c.err, -EBADMSG);
    assert_int_equal(repair(&t, 1100), 0);
    for (unsigned i = 0; i < 2; i++) {
        digest(&t, 1, 0, &now);
        assert_equal_digests(&now, &then);
        t_checkpoint(&t);
    }
    t_check_image(&t, 0);
    t_append(&t, 0, ENTRY_TRIM, 0, 16384); /* all of region 0 is zero now, like a region that is not there */
    t_append(&t, 0, ENTRY_TRIM, 16384, 16384);
    t_commit_all(&t);
    t_create(&t, BLOCKS);
    t_settle(&t);
    digest(&t, 2, 0, &other);
    assert_int_equal(other.d.next, UINT32_MAX);
    for (unsigned i = 0; i < 2; i++) {
        digest(&t, 1, i, &now);
        assert_equal_digests(&now, &other);
        t_checkpoint(&t);
    }
    digest(&t, 1, 2, &now); /* the last region is cut short within a chunk; beyond it there is nothing */
    unsigned chunks = (BLOCKS - 2 * REGION_BLOCKS + CHUNK_BLOCKS - 1) / CHUNK_BLOCKS;
    assert_true(now.d.comparable == (UINT64_C(1) << chunks) - 1);
    digest(&t, 2, 2, &other);
    assert_true(now.d.chunk[chunks - 1].digest != other.d.chunk[chunks - 1].digest);
    t_stop(&t);
    t_free(&t);
}

/* The same entries, one block of which has another bit: the checksum matches, the digest does not. */
static void one_bit_under_a_good_checksum_is_seen(void **state)
{
    struct store_test t;
    struct asked one, other;
    begin(&t, 21);
    t_append(&t, 0, ENTRY_WRITE, 300, 60);
    t_commit_all(&t);
    t_checkpoint(&t);
    digest(&t, 1, 0, &one);
    uint64_t off;
    struct sim_disk *d = t_find_data(&t, 0, 333, &off);
    uint8_t data[BLOCK_SIZE];
    sim_disk_peek(d, off, data, sizeof data);
    data[1000] ^= 1;
    sim_disk_poke(d, off, data, sizeof data);
    struct region *r = region_find(t.store, store_group(t.store, 1), 0);
    r->cached[0]->page->crc[333] = crc32c(data, sizeof data);
    struct pass p;
    pass(&t, &p);
    assert_int_equal(p.n_found, 0);
    digest(&t, 1, 0, &other);
    for (unsigned i = 0; i < REGION_CHUNKS; i++)
        assert_int_equal(one.d.chunk[i].digest == other.d.chunk[i].digest, i != 1);
    t_crash(&t, SIM_POWER);
    t_free(&t);

    begin(&t, 21);
    t_append(&t, 0, ENTRY_WRITE, 300, 60);
    t_append(&t, 0, ENTRY_WRITE, 333, 1);
    t_commit_all(&t);
    digest(&t, 1, 0, &other);
    for (unsigned i = 0; i < REGION_CHUNKS; i++)
        assert_int_equal(one.d.chunk[i].digest == other.d.chunk[i].digest, i != 1);
    struct asked c;
    crcs(&t, 1, 256, &c);
    assert_int_equal(c.c.err, 0);
    assert_int_equal(c.c.nblocks, 256);
    assert_int_equal(c.c.changed_at, 2);
    assert_true(c.c.crc[0] == CRC32C_ZERO_BLOCK && c.c.crc[333 - 256] != CRC32C_ZERO_BLOCK);
    t_stop(&t);
    t_free(&t);
}

/* Digests of one store at many slots, as those of replicas that are not equally far: whenever the intervals meet they are equal, and where contents differ they never meet. */
static void only_equal_slots_are_compared(void **state)
{
    enum { TIMES = 60 };
    static struct asked at[TIMES];
    struct store_test t;
    uint64_t met = 0, apart = 0;
    begin(&t, 22);
    for (unsigned i = 0; i < TIMES; i++) {
        for (unsigned k = 0; k < 4; k++) {
            uint64_t block = sim_rand(t.world) % 4000;
            enum entry_kind kind = sim_rand(t.world) % 3 ? ENTRY_WRITE : sim_rand(t.world) % 2 ? ENTRY_TRIM : ENTRY_ZERO;
            t_append(&t, 0, kind, block, 1 + (uint32_t)(sim_rand(t.world) % 60));
        }
        t_commit_all(&t);
        if (i % 7 == 3)
            t_checkpoint(&t);
        if (i % 20 == 9) {
            t_crash(&t, SIM_POWER);
            t_start_ok(&t);
        }
        digest(&t, 1, 0, &at[i]);
        for (unsigned k = 0; k < i; k++) {
            const struct store_digest *a = &at[k].d, *b = &at[i].d;
            for (unsigned c = 0; c < REGION_CHUNKS; c++) {
                uint64_t from = a->chunk[c].changed_at > b->chunk[c].changed_at ? a->chunk[c].changed_at : b->chunk[c].changed_at;
                bool meet = from <= (a->applied < b->applied ? a->applied : b->applied);
                bool equal = a->chunk[c].digest == b->chunk[c].digest;
                assert_true(!meet || equal);
                met += meet;
                apart += !equal;
            }
        }
    }
    assert_true(met > 1000 && apart > 1000);
    t_stop(&t);
    t_free(&t);
}

/* ---- what the majority says ---- */

static struct store_test *t_of;
static uint64_t the_block;
static bool disowned;
static void disown_it(struct store_crcs *c)
{
    disowned = store_disown(t_of->store, 1, the_block);
    ((struct asked *)c->user)->done = true;
}

static bool disown(struct store_test *t, uint64_t block)
{
    struct asked a = {0};
    t_of = t;
    the_block = block;
    a.c = (struct store_crcs){.group = 1, .block = block / CHUNK_BLOCKS * CHUNK_BLOCKS, .fn = disown_it, .user = &a};
    store_crcs(t->store, &a.c);
    assert_true(sim_run_until(t->world, is_done, &a, NS_PER_S));
    return disowned;
}

static uint64_t bad_of(struct store_test *t, uint64_t block, uint32_t n, int *ret_err)
{
    struct store_read r;
    t_read_now(t, 0, block, n, &r);
    *ret_err = r.err;
    uint64_t bad = r.bad[0] | r.lost[0];
    buf_unref(r.buf);
    return bad;
}

static void what_the_majority_disowns_is_not_served(void **state)
{
    int err;
    struct store_test t;
    with_data(&t, 30);
    t_start_ok(&t);
    assert_true(disown(&t, 102));
    assert_true(disown(&t, 5000)); /* a leaf that is not there: zeroes */
    assert_int_equal(t.bad_reported, 2);
    assert_int_equal(bad_of(&t, 100, 5, &err), 4);
    assert_int_equal(err, -EBADMSG);
    assert_int_equal(bad_of(&t, 4999, 3, &err), 2);
    assert_int_equal(repair(&t, 102), 0);
    assert_int_equal(repair(&t, 5000), 0);
    assert_int_equal(bad_of(&t, 100, 5, &err), 0);
    assert_int_equal(bad_of(&t, 4999, 3, &err), 0);
    t_append(&t, 0, ENTRY_WRITE, 102, 1);
    t_commit_all(&t);
    assert_false(disown(&t, 102)); /* in memory: written back first */
    t_checkpoint(&t);
    assert_true(disown(&t, 102));
    t_append(&t, 0, ENTRY_WRITE, 102, 1); /* an entry heals it */
    t_commit_all(&t);
    assert_int_equal(bad_of(&t, 100, 5, &err), 0);
    t_check_image(&t, 0);
    t_stop(&t);
    t_start_ok(&t);
    t_stop(&t);
    t_free(&t);
}

static uint32_t place_after_restart(struct store_test *t, uint32_t place)
{
    struct store_scrub_place p;
    store_scrub_place(t->store, 1, &p);
    p.next = place;
    store_scrub_set_place(t->store, 1, &p, true);
    t_checkpoint(t);
    t_stop(t);
    t_start_ok(t);
    store_scrub_place(t->store, 1, &p);
    return p.next;
}

/* That a block was disowned is in memory alone. Who restarts before it is repaired looks again. */
static void what_was_disowned_is_found_again_after_a_restart(void **state)
{
    struct store_test t;
    with_data(&t, 32);
    t_start_ok(&t);
    assert_int_equal(place_after_restart(&t, 3), 3);
    assert_true(disown(&t, 102));
    assert_true(disown(&t, 103));
    assert_int_equal(place_after_restart(&t, 4), 0);
    assert_true(disown(&t, 102));
    assert_int_equal(repair(&t, 102), 0);
    assert_int_equal(place_after_restart(&t, 4), 4); /* the repair is in the same checkpoint */
    t_check_image(&t, 0);
    t_stop(&t);
    t_free(&t);
}

static void what_nobody_has_is_lost_alone(void **state)
{
    int err;
    uint64_t off;
    struct store_test t;
    struct pass p;
    with_data(&t, 31);
    struct sim_disk *d = t_find_data(&t, 0, 102, &off);
    sim_disk_flip(d, off + 77, 3);
    assert_int_equal(t_start(&t), 0);
    assert_false(store_lose(t.store, 1, 102, 5)); /* nobody found it damaged yet */
    assert_int_equal(bad_of(&t, 100, 5, &err), 4);
    assert_false(store_lose(t.store, 1, 102, 4)); /* what others said of an earlier slot */
    assert_false(store_lose(t.store, 1, 101, 5));
    assert_true(store_lose(t.store, 1, 102, 5));
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(bad_of(&t, 102, 1, &err), 1);
        assert_int_equal(err, -EIO);
        assert_int_equal(bad_of(&t, 100, 2, &err), 0);
        assert_int_equal(err, 0);
        assert_int_equal(bad_of(&t, 103, 2, &err), 0);
        struct asked a;
        digest(&t, 1, 0, &a);
        assert_true(a.d.comparable == (UINT64_MAX & ~UINT64_C(1)));
        if (i == 0)
            t_checkpoint(&t);
        if (i == 1) {
            t_stop(&t);
            assert_int_equal(t_start(&t), 0);
        }
    }
    /* Each pass names it and asks again; somebody who came back may have it. */
    t.bad_reported = 0;
    pass(&t, &p);
    assert_int_equal(p.n_found, 1);
    assert_int_equal(p.n_lost, 1);
    assert_int_equal(p.first_found, 102);
    assert_int_equal(t.bad_reported, 1);
    assert_true(store_lose(t.store, 1, 102, 5)); /* still nobody */
    t_checkpoint(&t);
    pass(&t, &p);
    assert_int_equal(p.n_lost, 1);
    assert_int_equal(repair(&t, 102), 0);
    pass(&t, &p);
    assert_int_equal(p.n_found, 0);
    t_check_image(&t, 0);
    t_stop(&t);
    t_start_ok(&t);
    t_stop(&t);
    t_free(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_that_is_there_is_read_and_no_more),
        cmocka_unit_test(rotten_data_is_found_by_its_address),
        cmocka_unit_test(a_rotten_leaf_is_written_anew_when_memory_has_it),
        cmocka_unit_test(rotten_meta_is_written_anew),
        cmocka_unit_test(an_older_superblock_is_no_damage),
        cmocka_unit_test(a_busy_store_gives_no_false_alarm),
        cmocka_unit_test(checkpoints_wait_for_slow_reads),
        cmocka_unit_test(equal_contents_have_equal_digests),
        cmocka_unit_test(one_bit_under_a_good_checksum_is_seen),
        cmocka_unit_test(only_equal_slots_are_compared),
        cmocka_unit_test(what_the_majority_disowns_is_not_served),
        cmocka_unit_test(what_was_disowned_is_found_again_after_a_restart),
        cmocka_unit_test(what_nobody_has_is_lost_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
