/* What the store does with single blocks while it copies (docs/rebuild.md section 4): unknown leaves, verdicts, images, repairs,
 * bounds. See test_copy.c for the jump and whole copies. */
#include "tests/unit/copy_harness.h"

#include <errno.h>

/* ---- unknown leaves ---- */

static void test_trim_of_an_unknown_leaf_that_is_nowhere(void **state)
{
    struct copy_test x;
    x_begin_jumped(&x, 90, SIZE);
    x_both(&x, ENTRY_TRIM, 3010, 10);
    x_both(&x, ENTRY_ZERO, 3060, 2);
    for (unsigned life = 0; life < 2; life++) {
        assert_int_equal(x_bad(&x, 3010, 10), 0);
        assert_int_equal(x_bad(&x, 3060, 2), 0);
        assert_int_equal(x_bad(&x, 3000, 30), 20);
        assert_int_equal(x_bad(&x, 2600, 200), 200);
        if (life == 1)
            break;
        t_checkpoint(&x.t);
        assert_int_equal(x_bad(&x, 3000, 30), 20);
        x_crash(&x, SIM_POWER);
        x_restart(&x);
    }
    x_finish(&x);
    x_afterwards(&x);
    x_free(&x);
}

/* The target's chunk 1 of leaf 2 did not change, chunk 0 did. */
static void test_one_chunk_is_not_the_leaf(void **state)
{
    struct copy_test x;
    x_begin(&x, 100, SIZE);
    x_common_past(&x);
    x_missed(&x);
    x_donor(&x, ENTRY_WRITE, 1410, 3);
    x_needs_copy(&x);
    x_jump(&x, false);
    assert_true(x_request(&x, 0, 1024, 256));
    x_image(&x, 0);
    x_install(&x, 0);
    x_wait(&x, 0);
    assert_int_equal(x.installed, 256);
    assert_int_equal(x_bad(&x, 1024, 256), 0);
    assert_int_equal(x_bad(&x, 1280, 256), 256);
    t_checkpoint(&x.t);
    struct region *r = region_find(x.t.store, store_group(x.t.store, 1), 0);
    assert_true(leaf_unknown(r, 2));
    assert_int_equal(x_bad(&x, 1024, 256), 0);
    assert_int_equal(x_bad(&x, 1280, 256), 256);
    /* All but one block of the other. */
    assert_true(x_request(&x, 0, 1280, 255));
    x_image(&x, 0);
    x_install(&x, 0);
    x_wait(&x, 0);
    t_checkpoint(&x.t);
    assert_true(leaf_unknown(r, 2));
    x_crash(&x, SIM_POWER);
    x_restart(&x);
    assert_int_equal(x_bad(&x, 1024, 256), 0);
    assert_int_equal(x_bad(&x, 1280, 256), 1);
    struct store_unknown u;
    assert_int_equal(x_unknown(&x, 1024, &u), 0);
    assert_true(u.block == 1280 && !u.whole && u.want[3] == UINT64_C(1) << 63 && !u.want[0] && !u.want[1] && !u.want[2]);
    x_both(&x, ENTRY_WRITE, 1535, 1);
    t_checkpoint(&x.t);
    assert_false(leaf_unknown(region_find(x.t.store, store_group(x.t.store, 1), 0), 2));
    x_finish(&x);
    x_free(&x);
}

/* ---- verdicts ---- */

/* The leaf is rebuilt after rot, written so; then a jump goes over it, and the donor did not change the chunk. */
static void test_verdicts_clear_no_bad_bits(void **state)
{
    for (unsigned how = 0; how < 3; how++) {
        struct copy_test x;
        uint64_t off;
        x_begin(&x, 110 + 2 * how, SIZE);
        x_common_past(&x);
        t_stop(&x.t);
        if (how == 0) {
            x_rot_data(&x, 1400);
        } else {
            struct sim_disk *d = t_find_leaf(&x.t, 0, 1400, &off);
            sim_disk_flip(d, off + 300, 5);
        }
        assert_int_equal(t_start(&x.t), 0);
        t_jump_is_durable(&x.t, 0);
        x.t.group[0].durable_last = x.t.group[0].last;
        assert_true(x_bad(&x, 1400, 30) > 0); /* seen */
        if (how == 2) {
            x_both(&x, ENTRY_WRITE, 1300, 1); /* and written down */
            t_checkpoint(&x.t);
        }
        x_donor(&x, ENTRY_WRITE, 20, 1);
        x_needs_copy(&x);
        x_jump(&x, false);
        uint64_t taken = x_verdict(&x, 0);
        assert_int_equal(taken >> 5 & 1, 0);
        assert_int_equal(taken >> 4 & 1, how == 0);
        assert_true(taken != 0); /* others are */
        if (how < 2)
            assert_true(x_bad(&x, 1400, 30) > 0);
        x.asked = 1;
        x.damaged = true;
        x_check(&x);
        x_finish(&x);
        x_check_complete(&x);
        x_free(&x);
    }
}

static void note_accepted(void *user, uint64_t accepted)
{
    *(uint64_t *)user |= accepted;
}

static void test_verdicts_of_another_age(void **state)
{
    struct copy_test x;
    x_begin_jumped(&x, 120, SIZE);
    struct store_chunks c;
    uint64_t since = x_state(&x).since, jump = x_state(&x).jump, taken;
    x_chunks(&x, 0, since, &c);
    assert_true(c.unchanged >> 5 & 1);
    taken = 0;
    struct store *s = x.t.store;
    struct region *r = region_find(s, store_group(s, 1), 0);
    store_chunks_unchanged(s, 1, 0, c.unchanged, since + 1, c.applied, note_accepted, &taken);
    t_run(&x.t, NS_PER_S);
    assert_int_equal(r->unchanged, 0);
    store_chunks_unchanged(s, 1, 0, c.unchanged, since, jump - 1, note_accepted, &taken);
    t_run(&x.t, NS_PER_S);
    assert_int_equal(r->unchanged, 0);
    assert_int_equal(taken, 0);
    /* Written back since: its bad bits may have any reason. */
    x_both(&x, ENTRY_WRITE, 1300, 1);
    t_checkpoint(&x.t);
    store_chunks_unchanged(s, 1, 0, c.unchanged, since, c.applied, note_accepted, &taken);
    t_run(&x.t, NS_PER_S);
    assert_int_equal(taken >> 5 & 1, 0);
    assert_true(taken != 0);
    x_check(&x);
    x_finish(&x);
    x_free(&x);
}

/* At the donor the leaf came and went within the overlay: it has none. The target has one. */
static void test_donor_without_the_leaf(void **state)
{
    struct copy_test x;
    x_begin(&x, 130, SIZE);
    x_both(&x, ENTRY_WRITE, 0, 10);
    t_checkpoint(&x.d);
    x_both(&x, ENTRY_WRITE, 2100, 10);
    t_checkpoint(&x.t);
    x_donor(&x, ENTRY_TRIM, 2048, 512);
    t_checkpoint(&x.d);
    assert_int_equal(x.d.store->root->checkpoint, 3);
    t_crash(&x.d, SIM_POWER); /* that something was there is on disk all the same */
    t_start_ok(&x.d);
    x_needs_copy(&x);
    x_jump(&x, false);
    assert_int_equal(x_bad(&x, 2100, 10), 10);
    struct store_chunks c;
    x_chunks(&x, 0, 2, &c);
    assert_int_equal(c.unchanged, 3); /* leaf 0 is there */
    x_chunks(&x, 0, 100, &c); /* nothing since then: but what is not there is said by an image */
    assert_int_equal(c.unchanged, 3);
    assert_int_equal(c.changed_at[8], 3); /* of the region: the leaf is not there to say */
    x_finish(&x);
    assert_int_equal(x_bad(&x, 2100, 10), 0);
    x_afterwards(&x);
    x_free(&x);
}

/* ... and then the leaf is made anew for a write to its other chunk, at the donor or at one that copied. */
static void test_what_came_and_went_is_changed(void **state)
{
    struct copy_test x;
    x_begin(&x, 135, SIZE);
    x_both(&x, ENTRY_WRITE, 0, 10);
    t_checkpoint(&x.d);
    x_both(&x, ENTRY_WRITE, 2310, 10); /* 2: chunk 1 of leaf 4 */
    t_checkpoint(&x.t);
    x_donor(&x, ENTRY_TRIM, 2304, 256); /* 3 */
    t_checkpoint(&x.d);
    x_donor(&x, ENTRY_WRITE, 2100, 10); /* 4: chunk 0 */
    t_checkpoint(&x.d);
    struct store_chunks c;
    x_chunks(&x, 0, 2, &c);
    assert_int_equal(c.unchanged, 3);
    x_needs_copy(&x);
    x_jump(&x, false);
    assert_int_equal(x_bad(&x, 2310, 10), 10);
    x_finish(&x);
    assert_int_equal(x_bad(&x, 2310, 10), 0);
    x_chunks_of(&x.t, 0, 2, &c);
    assert_int_equal(c.unchanged, 3);
    x_afterwards(&x);
    x_free(&x);
}

/* The donor's word is never too low: a region, its chunks and images against the history. */
static void test_changed_at(void **state)
{
    struct copy_test x;
    x_begin(&x, 140, SIZE);
    for (unsigned i = 0; i < 60; i++) {
        uint64_t block = sim_rand(x.d.world) % (SIZE - 300);
        static const enum entry_kind kind[] = {ENTRY_WRITE, ENTRY_WRITE, ENTRY_TRIM, ENTRY_ZERO, ENTRY_SESSION};
        x_donor(&x, kind[sim_rand(x.d.world) % 5], block, 1 + (uint32_t)(sim_rand(x.d.world) % 64));
        if (i % 13 == 7)
            t_checkpoint(&x.d);
        if (i % 17 == 9) {
            t_crash(&x.d, SIM_POWER);
            t_start_ok(&x.d);
        }
    }
    x_list(&x);
    const struct t_group *g = &x.d.group[0];
    for (uint32_t i = 0; i < x.n_listed; i++) {
        struct store_chunks c;
        uint64_t since = g->last / 2;
        x_chunks(&x, x.listing[i].region, since, &c);
        for (unsigned k = 0; k < 64; k++) {
            uint64_t first = ((uint64_t)x.listing[i].region * 64 + k) * CHUNK_BLOCKS, last_write = 0;
            for (uint64_t slot = 1; slot <= g->last; slot++) {
                const struct t_spec *s = &g->spec[g->log[slot]];
                bool there = x.listing[i].present >> (k / 2) & 1;
                if (s->nblocks && s->block < first + CHUNK_BLOCKS && s->block + s->nblocks > first &&
                    (s->kind == ENTRY_WRITE || (last_write && there)))
                    last_write = slot;
            }
            assert_true(x.listing[i].changed_at >= last_write);
            if (!(c.unchanged >> k & 1) && c.changed_at[k] <= since)
                assert_false(x.listing[i].present >> (k / 2) & 1);
            assert_true(c.changed_at[k] >= last_write);
            assert_false((c.unchanged >> k & 1) && last_write > since);
        }
    }
    x_free(&x);
}

/* ---- images ---- */

static void test_images_of_before_a_jump(void **state)
{
    struct copy_test x;
    x_begin_jumped(&x, 150, SIZE);
    assert_true(x_request(&x, 0, 0, 64));
    x_image(&x, 0);
    assert_true(x_request(&x, 1, 1024, 256));
    x_donor(&x, ENTRY_WRITE, 2, 1); /* the target misses it */
    x_image(&x, 1);
    x_install(&x, 1); /* ahead: waits */
    x.d.group[0].e = 12;
    x_donor(&x, ENTRY_WRITE, 10, 30);
    struct store_copy old = x.flight[0].c;
    buf_ref(old.buf);
    x_jump(&x, false);
    assert_int_equal(x.cancelled, 2);
    assert_int_equal(x.t.store->copy_bytes, 0);
    assert_true(x_request(&x, 0, 0, 64));
    struct store_copy *c = &x.flight[0].c;
    void *pending = c->pending;
    struct buf *none = c->buf;
    *c = old;
    c->pending = pending;
    buf_unref(none);
    x_install(&x, 0);
    x_wait(&x, 0);
    assert_int_equal(x.too_old, 1);
    x_check(&x);
    x_finish(&x);
    x_free(&x);
}

/* Exact at every applied slot: it waits, and an entry that comes first wins. */
static void test_image_waits_and_yields(void **state)
{
    struct copy_test x;
    x_begin_jumped(&x, 160, SIZE);
    x_donor(&x, ENTRY_WRITE, 8, 4); /* 13: in the image */
    x_donor(&x, ENTRY_SESSION, 0, 0);
    assert_true(x_request(&x, 0, 0, 64));
    x_image(&x, 0);
    assert_int_equal(x.flight[0].c.image_slot, 14);
    x_donor(&x, ENTRY_WRITE, 40, 4); /* 15: not in it */
    x_feed(&x);
    t_settle(&x.t);
    t_commit(&x.t, 0, 13);
    x_install(&x, 0);
    t_run(&x.t, NS_PER_S);
    assert_false(x.flight[0].done);
    assert_int_equal(x_bad(&x, 0, 64), 60);
    t_commit(&x.t, 0, 15);
    x_wait(&x, 0);
    assert_int_equal(x_bad(&x, 0, 64), 0);
    assert_true(x.installed == 60 || x.installed == 56); /* before or after 15 */
    x_check(&x);
    /* One that is older than what was applied leaves alone what entries wrote, in the overlay and on disk. */
    assert_true(x_request(&x, 0, 1024, 256));
    x_image(&x, 0);
    x_both(&x, ENTRY_WRITE, 1030, 20);
    x_both(&x, ENTRY_TRIM, 1110, 3);
    t_checkpoint(&x.t);
    x_both(&x, ENTRY_WRITE, 1040, 20);
    x_install(&x, 0);
    x_wait(&x, 0);
    x_check(&x);
    assert_int_equal(x_bad(&x, 1024, 256), 0);
    x_finish(&x);
    x_afterwards(&x);
    x_free(&x);
}

struct repaired {
    int err;
    bool done;
};

static void on_repaired(void *user, int err)
{
    struct repaired *r = user;
    r->err = err;
    r->done = true;
}

/* From the drain to the jump nothing is installed and no verdict taken: it would be a state from before. */
static void test_held_between_drain_and_jump(void **state)
{
    struct copy_test x;
    x_begin(&x, 165, SIZE);
    x_common_past(&x);
    x_rot_data(&x, R + 10);
    assert_int_equal(x_bad(&x, R + 10, 1), 1);
    x_missed(&x);
    x_needs_copy(&x);
    x_jump(&x, false);
    x.damaged = true;
    assert_true(x_request(&x, 0, 0, 64));
    x_image(&x, 0);
    x_drain(&x);
    x_install(&x, 0);
    uint8_t data[BLOCK_SIZE];
    struct repaired r = {0};
    t_content(&x.d, 0, R + 10, 12, data);
    store_repair(x.t.store, 1, R + 10, 12, data, crc32c(data, BLOCK_SIZE), on_repaired, &r);
    assert_int_equal(x_verdict(&x, 0), 0);
    t_run(&x.t, NS_PER_S);
    assert_false(x.flight[0].done || r.done);
    assert_false(overlay_has_group(x.t.store, store_group(x.t.store, 1)));
    store_jump_cancel(x.t.store, 1);
    x_wait(&x, 0);
    assert_true(r.done && r.err == 0);
    assert_int_equal(x_bad(&x, 0, 64), 0);
    assert_int_equal(x_bad(&x, R + 10, 1), 0);
    assert_true(x_verdict(&x, 0) != 0);
    x_check(&x);
    x_finish(&x);
    x_free(&x);
}

/* A repair that waits for its slot when a jump comes shows a state that this replica never goes through. */
static void test_waiting_repair_is_dropped(void **state)
{
    struct copy_test x;
    x_begin(&x, 170, SIZE);
    x_common_past(&x);
    x_rot_data(&x, 1100);
    assert_int_equal(x_bad(&x, 1100, 1), 1);
    x_donor(&x, ENTRY_SESSION, 0, 0);
    uint8_t data[BLOCK_SIZE];
    t_content(&x.d, 0, 1100, 7, data);
    struct repaired r = {0}, late = {0};
    store_repair(x.t.store, 1, 1100, 7, data, crc32c(data, BLOCK_SIZE), on_repaired, &r);
    assert_false(r.done);
    x.d.group[0].e = 5;
    x_donor(&x, ENTRY_WRITE, 1100, 1);
    x_needs_copy(&x);
    x_drain(&x);
    x_list(&x);
    x_jump_begin(&x, false);
    x_jump_wait(&x);
    assert_true(r.done);
    assert_int_equal(r.err, -ECANCELED);
    store_repair(x.t.store, 1, 1100, 7, data, crc32c(data, BLOCK_SIZE), on_repaired, &late);
    assert_true(late.done && late.err == -ERANGE);
    assert_int_equal(x_bad(&x, 1100, 1), 1);
    x.damaged = true;
    x_check(&x);
    x_finish(&x);
    x_free(&x);
}

/* A leaf that rots while it is half copied: all of it is to be fetched, and nothing older than that. */
static void test_leaf_rots_while_it_is_copied(void **state)
{
    struct copy_test x;
    x_begin_jumped(&x, 180, SIZE);
    assert_true(x_request(&x, 0, 1024, 256));
    x_image(&x, 0);
    x_install(&x, 0);
    x_wait(&x, 0);
    assert_true(x_verdict(&x, 0) >> 5 & 1); /* which makes all of it known */
    x_copy(&x, 1);
    t_checkpoint(&x.t);
    x_both(&x, ENTRY_WRITE, 1030, 4);
    assert_true(x_request(&x, 1, 0, 256)); /* an old image of another leaf */
    x_image(&x, 1);
    x_both(&x, ENTRY_WRITE, 3, 5);
    x_both(&x, ENTRY_WRITE, 700, 5);
    t_checkpoint(&x.t);
    uint64_t off;
    struct sim_disk *d = t_find_leaf(&x.t, 0, 0, &off);
    sim_disk_flip(d, off + 2000, 4);
    x_bad(&x, 2 * R + 600, 1); /* the others go from the cache of four leaves */
    for (uint64_t b = 600; b < 4096; b += 512)
        x_bad(&x, b, 1);
    x_bad(&x, R, 1);
    if (region_find(x.t.store, store_group(x.t.store, 1), 0)->cached[0])
        fail_msg("the leaf is still in the cache");
    assert_int_equal(x_bad(&x, 3, 5), 5);
    x_install(&x, 1); /* it does not know 3..7 as they were */
    x_wait(&x, 1);
    assert_true(x.left > 0);
    x.damaged = true;
    x_check(&x);
    x_finish(&x);
    x_free(&x);
}

/* The same, and then the process ends: nobody remembers since when its blocks are bad. */
static void test_old_image_after_rot_and_restart(void **state)
{
    struct copy_test x;
    uint64_t off;
    x_begin_jumped(&x, 185, SIZE);
    for (unsigned i = 0; i < 2; i++) {
        assert_true(i ? x_request(&x, 0, 300, 100) : x_request(&x, 0, 0, 256));
        x_image(&x, 0);
        x_install(&x, 0);
        x_wait(&x, 0);
    }
    assert_true(x_request(&x, 0, 0, 256));
    x_image(&x, 0);
    struct store_copy old = x.flight[0].c;
    buf_ref(old.buf);
    x_both(&x, ENTRY_WRITE, 3, 5); /* which the image has not */
    t_checkpoint(&x.t);
    struct sim_disk *d = t_find_leaf(&x.t, 0, 0, &off);
    x_crash(&x, SIM_KILL);
    sim_disk_flip(d, off + 2000, 4);
    x.damaged = true;
    x_restart(&x);
    assert_int_equal(x_bad(&x, 3, 5), 5);
    x_both(&x, ENTRY_WRITE, 320, 4); /* of the other chunk: the leaf is rebuilt */
    t_checkpoint(&x.t);
    x_crash(&x, SIM_POWER);
    x_restart(&x);
    assert_int_equal(x_bad(&x, 320, 4), 0);
    assert_true(leaf_unknown(region_find(x.t.store, store_group(x.t.store, 1), 0), 0));
    assert_true(x_request(&x, 0, 0, 256));
    void *pending = x.flight[0].c.pending;
    x.flight[0].c = old;
    x.flight[0].c.pending = pending;
    x_install(&x, 0);
    x_wait(&x, 0);
    assert_int_equal(x.left, 256);
    x_check(&x);
    x_finish(&x);
    x_free(&x);
}

/* Nobody has it: it holds up nothing, or is lost for good. */
static void test_blocks_that_nobody_has(void **state)
{
    struct copy_test x;
    x_begin_jumped(&x, 190, SIZE);
    x_verdict(&x, 0);
    x.asked = 1;
    for (unsigned i = 0; i < 2; i++) { /* the rest of the chunk */
        assert_true(i ? x_request(&x, 0, 1113, 167) : x_request(&x, 0, 1024, 86));
        x_image(&x, 0);
        x_install(&x, 0);
        x_wait(&x, 0);
    }
    assert_int_equal(x_bad(&x, 1024, 256), 3);
    assert_true(x_request(&x, 0, 1110, 3));
    struct store_copy *c = &x.flight[0].c;
    x_image(&x, 0);
    memset(c->zero, 0, sizeof c->zero);
    c->bad[0] = 7;
    x_install(&x, 0);
    x_wait(&x, 0);
    assert_int_equal(x.left, 3);
    assert_int_equal(x_bad(&x, 1110, 3), 3);
    assert_true(x_request(&x, 0, 1110, 3));
    x_image(&x, 0);
    c->bad[0] = 7;
    c->give_up[0] = 5;
    c->lost[0] = 2;
    c->bad[0] = 0;
    x_install(&x, 0);
    x_wait(&x, 0);
    struct store_read r;
    for (unsigned life = 0; life < 3; life++) {
        t_read_now(&x.t, 0, 1110, 3, &r);
        assert_int_equal(r.err, -EBADMSG);
        assert_int_equal(r.bad[0], 5);
        assert_int_equal(r.lost[0], 2);
        buf_unref(r.buf);
        t_read_now(&x.t, 0, 1111, 1, &r);
        assert_int_equal(r.err, -EIO);
        buf_unref(r.buf);
        if (life == 0) {
            x_copy(&x, 1000);
            x_complete(&x);
            assert_int_equal(x.complete_err, 0);
        } else if (life == 1) {
            x_crash(&x, SIM_POWER);
            assert_int_equal(t_start(&x.t), 0);
            assert_false(x.t.group[0].found_needs_copy);
        }
    }
    x_free(&x);
}

/* ---- bounds ---- */

static void test_bounds(void **state)
{
    struct copy_test x;
    x_begin(&x, 200, SIZE);
    for (unsigned i = 0; i < 40; i++)
        x_donor(&x, ENTRY_WRITE, 512 * (i / 4) + 64 * (i % 4), 64);
    x_needs_copy(&x);
    x_jump(&x, false);
    x.t.store->options.overlay_bytes = 4u << 20; /* a quarter of that */
    assert_true(x_request(&x, 0, 0, 128));
    assert_true(x_request(&x, 1, 512, 128));
    assert_false(x_request(&x, 2, 1024, 1));
    uint64_t reserved = x.t.store->slabs_reserved;
    assert_int_equal(reserved, 16 + 1);
    store_checkpoint(x.t.store);
    t_checkpoint(&x.t);
    assert_int_equal(x.t.store->slabs_reserved, reserved); /* counted anew */
    x_image(&x, 0);
    x_install(&x, 0);
    x_wait(&x, 0);
    assert_false(x_request(&x, 2, 1024, 1)); /* it is in the overlay */
    store_copy_abandon(x.t.store, &x.flight[1].c);
    x.flight[1].begun = false;
    assert_true(x_request(&x, 2, 1024, 1));
    store_copy_abandon(x.t.store, &x.flight[2].c);
    x.flight[2].begun = false;
    t_checkpoint(&x.t);
    t_checkpoint(&x.t);
    assert_int_equal(x.t.store->slabs_reserved, 0);
    /* Space: what is left is for writers. */
    uint64_t keep = x.t.store->slabs_total / 16, free = x.t.store->slabs_free;
    while (slabs_to_spare(x.t.store) > keep + 8)
        x.t.store->slabs_free--;
    assert_true(x_request(&x, 1, 1024, 128));
    assert_false(x_request(&x, 2, 1536, 16));
    x.t.store->slabs_free = free;
    store_copy_abandon(x.t.store, &x.flight[1].c);
    x.flight[1].begun = false;
    x_finish(&x);
    x_afterwards(&x);
    x_free(&x);
}

#define T(name) cmocka_unit_test(name)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        T(test_trim_of_an_unknown_leaf_that_is_nowhere),
        T(test_one_chunk_is_not_the_leaf),
        T(test_verdicts_clear_no_bad_bits),
        T(test_verdicts_of_another_age),
        T(test_donor_without_the_leaf),
        T(test_what_came_and_went_is_changed),
        T(test_changed_at),
        T(test_images_of_before_a_jump),
        T(test_image_waits_and_yields),
        T(test_held_between_drain_and_jump),
        T(test_waiting_repair_is_dropped),
        T(test_leaf_rots_while_it_is_copied),
        T(test_old_image_after_rot_and_restart),
        T(test_blocks_that_nobody_has),
        T(test_bounds),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
