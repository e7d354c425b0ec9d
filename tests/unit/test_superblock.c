/* The superblock: which copy counts, why none does, and that no torn write loses what was in force. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include <errno.h>

#include "base/crc32c.h"
#include "replica/superblock.h"
#include "tests/sim/simio.h"

#define SECTOR 512u
#define SECTORS (BLOCK_SIZE / SECTOR)

static struct superblock make(uint64_t generation)
{
    struct superblock s;
    memset(&s, 0, sizeof s);
    s.generation = generation;
    s.cluster.b[0] = 1;
    s.identity.b[0] = 2;
    strcpy(s.name, "replica-1");
    s.shard_count = 1;
    s.n_extents = (uint32_t)generation;
    s.wal_bytes = 64u << 20;
    s.extent_bytes = 1u << 30;
    s.meta_pages = 512;
    s.complete = 1;
    /* Generations differ in every sector, so that a torn page is neither. */
    for (size_t i = 0; i < sizeof s.pad; i++)
        s.pad[i] = (uint8_t)(generation * 31 + i / 100);
    superblock_seal(&s);
    return s;
}

static uint8_t *image_of(const struct superblock *a, const struct superblock *b, const struct superblock *c, const struct superblock *d)
{
    const struct superblock *copy[SUPERBLOCK_COPIES] = { a, b, c, d };
    uint8_t *image = calloc(1, SUPERBLOCK_BYTES);
    assert_non_null(image);
    for (unsigned i = 0; i < SUPERBLOCK_COPIES; i++)
        if (copy[i])
            memcpy(image + i * SUPERBLOCK_STRIDE, copy[i], sizeof *copy[i]);
    return image;
}

static void refused(const struct superblock *s, const char *says)
{
    uint8_t *image = image_of(s, s, NULL, s);
    struct superblock got;
    memset(&got, 0xaa, sizeof got);
    struct superblock untouched = got;
    const char *why = superblock_pick(image, &got);
    assert_non_null(why);
    if (!strstr(why, says))
        fail_msg("\"%s\" instead of \"%s\"", why, says);
    assert_memory_equal(&got, &untouched, sizeof got);
    free(image);
}

static void the_newest_valid_copy_counts(void **state)
{
    struct superblock a = make(7), b = make(8), bad = make(9), got;
    bad.n_extents ^= 1;
    uint8_t *image = image_of(&a, &bad, &b, &a);
    assert_null(superblock_pick(image, &got));
    assert_memory_equal(&got, &b, sizeof b);
    free(image);
    image = image_of(NULL, NULL, NULL, &a); /* one copy is enough */
    assert_null(superblock_pick(image, &got));
    assert_memory_equal(&got, &a, sizeof a);
    free(image);
}

static void refusals_are_sentences(void **state)
{
    refused(NULL, "not a qbd data directory");
    struct superblock s = make(1);
    s.magic ^= 1;
    refused(&s, "not a qbd data directory");

    s = make(1);
    s.wal_bytes++;
    refused(&s, "damaged");

    s = make(1);
    s.complete = 0;
    superblock_seal(&s);
    refused(&s, "formatting was interrupted; format it again");

    s = make(1);
    s.features_incompat = 0x12;
    superblock_seal(&s);
    refused(&s, "unknown incompatible features 0x12");

    s = make(1);
    s.features_ro_compat = 0x8;
    superblock_seal(&s);
    refused(&s, "0x8");

    s = make(1);
    s.features_compat = 0xff;
    superblock_seal(&s);
    uint8_t *image = image_of(&s, NULL, NULL, NULL);
    assert_null(superblock_pick(image, &s));
    free(image);

    struct superblock sane = make(1);
    for (int i = 0; i < 9; i++) {
        s = sane;
        switch (i) {
        case 0: s.shard_count = 2; break;
        case 1: s.wal_bytes = 0; break;
        case 2: s.wal_bytes = BLOCK_SIZE + 512; break;
        case 3: s.extent_bytes = SLAB_BYTES - 1; break;
        case 4: s.meta_pages = META_PAGES_MAX + 1; break;
        case 5: memset(s.name, 'x', sizeof s.name); break;
        case 6: memset(&s.identity, 0, sizeof s.identity); break;
        case 7: memset(&s.cluster, 0, sizeof s.cluster); break;
        case 8: s.meta_pages = 0; break;
        }
        superblock_seal(&s);
        refused(&s, "impossible values");
    }
}

/* The version's own rule: the newest copy decides, an older one is no way around what it says. */
static void an_unknown_version_is_named(void **state)
{
    struct superblock old = make(3), s = make(4), got;
    s.version = 77;
    s.crc = 0;
    uint32_t crc = crc32c(&s, sizeof s);
    s.crc = crc;
    refused(&s, "format version 77 is not known");
    uint8_t *image = image_of(&old, &s, &old, &old);
    assert_non_null(superblock_pick(image, &got));
    free(image);
}

/* ---- writing ---- */

static void note_done(void *user, int err)
{
    *(int *)user = err;
}

static bool is_done(void *user)
{
    return *(int *)user != 1;
}

static int write_it(struct sim_world *w, struct dev *dev, const struct superblock *s)
{
    int err = 1;
    superblock_write(dev, s, note_done, &err);
    assert_true(sim_run_until(w, is_done, &err, NS_PER_S));
    return err;
}

static void all_copies_are_written_durably(void **state)
{
    struct sim_world *w = sim_world_new(1);
    struct sim_disk *d = sim_disk_new(w, NULL, "superblock", SUPERBLOCK_BYTES);
    struct sim_reactor *r = sim_reactor_new(w, "host", 1u << 20);
    struct dev *dev;
    assert_int_equal(sim_dev_open(r, d, &dev), 0);
    for (uint64_t g = 1; g <= 4; g++) {
        struct superblock s = make(g), got;
        assert_int_equal(write_it(w, dev, &s), 0);
        uint8_t *image = malloc(SUPERBLOCK_BYTES);
        assert_non_null(image);
        sim_disk_peek_durable(d, 0, image, SUPERBLOCK_BYTES);
        for (unsigned i = 0; i < SUPERBLOCK_COPIES; i++)
            assert_memory_equal(image + i * SUPERBLOCK_STRIDE, &s, sizeof s);
        assert_null(superblock_pick(image, &got));
        free(image);
    }
    for (uint32_t nth = 0; nth < SUPERBLOCK_COPIES; nth++) {
        uint64_t before = sim_disk_count(d, SIM_WRITE);
        struct superblock s = make(5);
        sim_disk_fail(d, SIM_WRITE, nth, 1, EIO);
        assert_int_equal(write_it(w, dev, &s), -EIO);
        assert_int_equal(sim_disk_count(d, SIM_WRITE) - before, nth + 1); /* no further copy is touched */
    }
    sim_dev_close(dev);
    sim_reactor_free(r);
    sim_world_free(w);
}

struct order {
    unsigned n, copy[SUPERBLOCK_COPIES];
};

static void note_order(void *user, struct sim_disk *d, const struct sim_io_info *io)
{
    struct order *o = user;
    if (io->complete || io->kind != SIM_WRITE)
        return;
    assert_true(o->n < SUPERBLOCK_COPIES);
    o->copy[o->n++] = (unsigned)(io->off / SUPERBLOCK_STRIDE);
}

/* Power cuts in two writes, one after the other, each torn at every sector of every copy: what was in force stays in force or
 * gives way to the next, and never comes back. */
static void no_torn_write_loses_what_is_in_force(void **state)
{
    struct sim_world *w = sim_world_new(2);
    struct sim_disk *d = sim_disk_new(w, NULL, "superblock", SUPERBLOCK_BYTES);
    struct sim_reactor *r = sim_reactor_new(w, "host", 1u << 20);
    struct dev *dev;
    assert_int_equal(sim_dev_open(r, d, &dev), 0);
    struct order order[2] = { { 0 }, { 0 } };
    for (unsigned parity = 0; parity < 2; parity++) {
        struct superblock s = make(10 + parity);
        sim_disk_set_hook(d, note_order, &order[parity]);
        assert_int_equal(write_it(w, dev, &s), 0);
        assert_int_equal(order[parity].n, SUPERBLOCK_COPIES);
    }
    sim_disk_set_hook(d, NULL, NULL);
    for (unsigned parity = 0; parity < 2; parity++) {
        uint64_t g = 20 + parity;
        struct superblock s0 = make(g), s1 = make(g + 1), got;
        uint8_t *one = malloc(SUPERBLOCK_BYTES), *two = malloc(SUPERBLOCK_BYTES);
        assert_true(one && two);
        /* copies done, then sectors of the next one, from the front or from the back */
        for (unsigned cut1 = 0; cut1 < 2 * SUPERBLOCK_COPIES * SECTORS; cut1++) {
            uint8_t *image = image_of(&s0, &s0, &s0, &s0);
            memcpy(one, image, SUPERBLOCK_BYTES);
            free(image);
            unsigned copies = cut1 / 2 / SECTORS, sectors = cut1 / 2 % SECTORS;
            for (unsigned i = 0; i <= copies; i++) {
                unsigned bytes = i < copies ? BLOCK_SIZE : sectors * SECTOR, off = cut1 & 1 ? BLOCK_SIZE - bytes : 0;
                memcpy(one + order[s1.generation & 1].copy[i] * SUPERBLOCK_STRIDE + off, (uint8_t *)&s1 + off, bytes);
            }
            assert_null(superblock_pick(one, &got));
            assert_int_equal(got.generation, copies > 0 ? g + 1 : g);
            struct superblock s2 = make(got.generation + 1); /* maybe s1's number, but other contents */
            for (size_t i = 0; i < sizeof s2.pad; i++)
                s2.pad[i] ^= 0x80;
            superblock_seal(&s2);
            uint64_t in_force = got.generation;
            for (unsigned cut2 = 0; cut2 < 2 * SECTORS; cut2++) { /* the next write's first copy */
                memcpy(two, one, SUPERBLOCK_BYTES);
                unsigned bytes = cut2 / 2 * SECTOR, off = cut2 & 1 ? BLOCK_SIZE - bytes : 0;
                memcpy(two + order[s2.generation & 1].copy[0] * SUPERBLOCK_STRIDE + off, (uint8_t *)&s2 + off, bytes);
                assert_null(superblock_pick(two, &got));
                assert_int_equal(got.generation, in_force);
            }
        }
        free(one);
        free(two);
    }
    sim_dev_close(dev);
    sim_reactor_free(r);
    sim_world_free(w);
}

/* The same with the simulator's power cuts, many generations long. */
static void power_cuts_never_turn_it_back(void **state)
{
    for (uint64_t seed = 1; seed <= 60; seed++) {
        struct sim_world *w = sim_world_new(seed);
        struct sim_disk *d = sim_disk_new(w, NULL, "superblock", SUPERBLOCK_BYTES);
        uint64_t in_force = 0;
        for (int life = 0; life < 12; life++) {
            struct sim_reactor *r = sim_reactor_new(w, "host", 1u << 20);
            struct dev *dev;
            struct superblock got;
            uint8_t image[SUPERBLOCK_BYTES];
            assert_int_equal(sim_dev_open(r, d, &dev), 0);
            sim_disk_peek(d, 0, image, sizeof image);
            const char *why = superblock_pick(image, &got);
            if (why)
                assert_int_equal(in_force, 0);
            else
                assert_true(got.generation >= in_force && got.generation <= in_force + 1);
            in_force = why ? 0 : got.generation;
            struct superblock s = make(in_force + 1);
            int err = 1;
            superblock_write(dev, &s, note_done, &err);
            sim_run_for(w, sim_rand(w) % 2000000);
            if (err == 0)
                in_force = s.generation;
            sim_reactor_crash(r, SIM_POWER);
        }
        sim_world_free(w);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_newest_valid_copy_counts),
        cmocka_unit_test(refusals_are_sentences),
        cmocka_unit_test(an_unknown_version_is_named),
        cmocka_unit_test(all_copies_are_written_durably),
        cmocka_unit_test(no_torn_write_loses_what_is_in_force),
        cmocka_unit_test(power_cuts_never_turn_it_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
