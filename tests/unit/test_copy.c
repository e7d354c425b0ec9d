/* The jump and the copy (docs/rebuild.md) against the model: a power cut and kill -9 at every event of a whole copy, two
 * jumps, images and verdicts of all ages, random lives; and each thing that section 8 of that page says is wrong, where
 * it concerns the store. */
#include "tests/unit/copy_harness.h"

#include <errno.h>

/* ---- plain ---- */

static void test_lag_jump_copy(void **state)
{
    struct copy_test x;
    x_begin_jumped(&x, 1, SIZE);
    struct store_copy_state st = x_state(&x);
    assert_true(st.needs_copy && st.copying && st.since == 6 && st.jump == 12);
    assert_int_equal(st.unknown_leaves, 4 + 2); /* of two regions: those that either side has */
    x_check(&x);
    assert_int_equal(x_bad(&x, 0, 64), 64);
    assert_int_equal(x_bad(&x, 3000, 40), 40);
    assert_int_equal(x_bad(&x, R, 64), 0); /* nobody touched it */
    assert_int_equal(x_bad(&x, 4096, 64), 0);
    x_copy(&x, 1000);
    st = x_state(&x);
    assert_int_equal(st.unknown_leaves, 0);
    assert_true(st.unchanged_bytes > 0 && st.copied_bytes > 0 && st.unknown_bytes == 0);
    x_complete(&x);
    st = x_state(&x);
    assert_false(st.needs_copy || st.copying);
    x_check_complete(&x);
    /* A donor itself from now on: what it copied was changed when the donor says, not when it was copied. */
    for (uint32_t region = 0; region < 3; region++) {
        struct store_chunks d, t;
        x_chunks(&x, region, 6, &d);
        x_chunks_of(&x.t, region, 6, &t);
        assert_int_equal(t.err, 0);
        assert_int_equal(t.unchanged & d.unchanged, d.unchanged);
        for (unsigned k = 0; k < 64; k++)
            if (!(d.unchanged >> k & 1) && d.changed_at[k] > 6)
                assert_true(!(t.unchanged >> k & 1) && t.changed_at[k] >= d.changed_at[k]);
        assert_true(region == 1 || t.unchanged != 0);
    }
    x_afterwards(&x);
    x_free(&x);
}

/* All of a chunk's blocks are data: nothing but the image says when it changed. */
static void test_copied_chunk_is_as_old_as_it_is(void **state)
{
    struct copy_test x;
    x_begin(&x, 10, SIZE);
    for (unsigned i = 0; i < 4; i++)
        x_both(&x, ENTRY_WRITE, 4096 + 64 * i, 64);
    t_checkpoint(&x.t);
    x_donor(&x, ENTRY_WRITE, 4100, 4); /* 5 */
    x_donor(&x, ENTRY_SESSION, 0, 0);
    x_needs_copy(&x);
    x_jump(&x, false);
    x_donor(&x, ENTRY_SESSION, 0, 0);
    x_copy(&x, 1000);
    for (unsigned life = 0; life < 2; life++) {
        struct store_read r;
        t_read_now(&x.t, 0, 4096, 256, &r);
        assert_int_equal(r.err, 0);
        assert_int_equal(r.changed_at, 5);
        buf_unref(r.buf);
        if (life == 0)
            t_checkpoint(&x.t);
    }
    x_finish(&x);
    x_free(&x);
}

/* A learner: all is unknown but what nobody has. */
static void test_from_nothing(void **state)
{
    struct copy_test x;
    x_begin(&x, 20, SIZE);
    x_donor(&x, ENTRY_WRITE, 100, 60);
    x_donor(&x, ENTRY_WRITE, 2 * R + 100, 60);
    x_donor(&x, ENTRY_TRIM, 120, 10);
    x_needs_copy(&x);
    x_jump(&x, false);
    assert_int_equal(x_state(&x).since, 0);
    assert_int_equal(x_bad(&x, 100, 60), 60);
    assert_int_equal(x_bad(&x, 0, 256), 256);
    assert_int_equal(x_bad(&x, 600, 60), 0);
    x_finish(&x);
    x_afterwards(&x);
    x_free(&x);
}

static void test_created_as_a_learner(void **state)
{
    struct store_test t;
    t_init(&t, 25);
    t_format(&t);
    t_start_ok(&t);
    t.n_groups = 1;
    t.group[0] = (struct t_group){.id = 1, .size_blocks = 100, .seq = 1};
    struct wal_group wg = {.group = 1, .size_blocks = 100};
    wg.membership.n_learners = 1;
    wg.membership.learner[0] = t.sb.identity;
    wg.membership.n_voters = 1;
    memset(wg.membership.voter[0].b, 1, 16);
    store_create_group(t.store, &wg, 1);
    struct store_copy_state st;
    for (unsigned life = 0; life < 3; life++) { /* in memory, from the WAL, from a checkpoint */
        store_copy_state(t.store, 1, &st);
        assert_true(st.needs_copy && !st.copying && st.jump == 0);
        if (life == 1)
            t_checkpoint(&t);
        t_settle(&t);
        t_crash(&t, SIM_POWER);
        assert_int_equal(t_start(&t), 0);
    }
    t_free(&t);
}

/* A voter that the memberships leave out, by an entry or by a jump, remembers that it was one. */
static void test_retired_is_remembered(void **state)
{
    for (unsigned how = 0; how < 2; how++) {
        struct copy_test x;
        x_begin(&x, 30 + 2 * how, SIZE);
        struct group *g = store_group(x.t.store, 1);
        assert_true(membership_has_voter(&g->committed, &x.t.sb.identity)); /* the first group's in these tests */
        x_both(&x, ENTRY_SESSION, 0, 0);
        assert_false(g->retired);
        x_donor(&x, ENTRY_MEMBER, 0, 0); /* somebody else */
        if (how == 0) {
            x_feed(&x);
            t_commit_all(&x.t);
        } else {
            x_needs_copy(&x);
            x_jump(&x, false);
        }
        assert_true(g->retired);
        t_checkpoint(&x.t);
        x_crash(&x, SIM_POWER);
        x_restart(&x);
        assert_true(store_group(x.t.store, 1)->retired);
        x_free(&x);
    }
}

/* ---- a crash at every event ---- */

/* `keep`: the own log holds the donor's position and goes on above it; otherwise it has a tail that nobody chose. */
static void story(struct copy_test *x, bool keep)
{
    if (keep) {
        x_missed(x);
        x_feed(x); /* it has the entries, but not that they are chosen */
        t_append(&x->d, 0, ENTRY_WRITE, 30, 4);
        t_append(&x->d, 0, ENTRY_WRITE, 1420, 4);
        x_feed(x);
    } else {
        for (unsigned i = 0; i < 9; i++)
            t_append(&x->t, 0, ENTRY_WRITE, 40 * i, 7);
        x->d.group[0].e = 9;
        x_missed(x);
    }
    t_settle(&x->t);
    x_needs_copy(x);
    x_jump(x, keep);
    x_check(x);
    t_commit_all(&x->d); /* what is kept is chosen at last */
    t_commit_all(&x->t);
    x_both(x, ENTRY_WRITE, 25, 10);
    x_both(x, ENTRY_TRIM, 3010, 5);
    x_both(x, ENTRY_ZERO, 3300, 5);
    x_check(x);
    t_checkpoint(&x->t);
    x_check(x);
    x_copy(x, 2);
    x_both(x, ENTRY_WRITE, 1115, 4);
    /* Behind once more, with an image under way. */
    bool under_way = x_request(x, 1, 1280, 256);
    x_image(x, 1);
    x->d.group[0].e = 11;
    x_donor(x, ENTRY_WRITE, 1410, 3);
    x_donor(x, ENTRY_TRIM, R + 12, 3);
    x_jump(x, false);
    x_install(x, 1);
    x_check(x);
    assert_true(!under_way || x->cancelled == 1 || x->t.crashed);
    x_copy(x, 3);
    t_checkpoint(&x->t);
    x_copy(x, 1000);
    x_check(x);
    x_complete(x);
}

static void crash_everywhere(enum sim_crash how, uint64_t seed, uint64_t step, bool keep)
{
    unsigned crashes = 0;
    for (uint64_t at = 1;; at += step) {
        struct copy_test x;
        x_begin(&x, seed + 2 * at, SIZE);
        x_common_past(&x);
        x.t.crash_how = how;
        x.t.events = 0;
        x.t.crash_at = at;
        story(&x, keep);
        bool crashed = x.t.crashed;
        x.t.crash_at = 0;
        crashes += crashed;
        x_crash(&x, how);
        x_restart(&x);
        if (!crashed)
            assert_false(x.t.group[0].found_needs_copy);
        x_finish(&x);
        if (at % 8 == 1 || !crashed)
            x_afterwards(&x);
        x_free(&x);
        if (!crashed)
            break;
    }
    assert_true(crashes > 100 / step);
}

static void test_power_cut_at_every_event(void **state)
{
    crash_everywhere(SIM_POWER, 10000, 1, false);
}

static void test_kill_at_every_third_event(void **state)
{
    crash_everywhere(SIM_KILL, 20000, 3, false);
}

static void test_power_cut_with_a_kept_log(void **state)
{
    crash_everywhere(SIM_POWER, 30000, 1, true);
}

/* ---- the jump ---- */

/* A root that rots leads back to the one before: that one must have the jump, too, for the log from before is gone. */
static void test_newest_root_rots_after_the_jump(void **state)
{
    for (unsigned more = 0; more < 3; more++) {
        struct copy_test x;
        x_begin(&x, 40 + 2 * more, SIZE);
        x_common_past(&x);
        for (unsigned i = 0; i < 9; i++)
            t_append(&x.t, 0, ENTRY_WRITE, 40 * i, 7);
        x.d.group[0].e = 9;
        x_missed(&x);
        x_needs_copy(&x);
        x_jump(&x, false);
        if (more > 0)
            x_both(&x, ENTRY_WRITE, 300, 5);
        if (more > 1)
            x_copy(&x, 2);
        t_settle(&x.t);
        uint64_t newest = x.t.store->root->checkpoint;
        x_crash(&x, SIM_KILL);
        sim_disk_flip(x.t.meta, (newest & 1) * BLOCK_SIZE + 100, 3);
        x.t.group[0].saved_applied = 0;
        x_restart(&x);
        assert_true(store_applied(x.t.store, 1) >= 12);
        x_finish(&x);
        x_afterwards(&x);
        x_free(&x);
    }
}

/* The batch with the CUT is the newest one, and rots: the tail that nobody chose does not come back. */
static void test_cut_rots_after_the_jump(void **state)
{
    for (unsigned keep = 0; keep < 2; keep++) {
        struct copy_test x;
        x_begin(&x, 46 + 2 * keep, SIZE);
        x_common_past(&x);
        if (keep) {
            x_missed(&x);
            t_append(&x.d, 0, ENTRY_WRITE, 30, 4);
            x_feed(&x);
        } else {
            for (unsigned i = 0; i < 9; i++) {
                t_append(&x.t, 0, ENTRY_WRITE, 40 * i, 7);
                t_settle(&x.t);
            }
            x.d.group[0].e = 9;
            x_missed(&x);
        }
        t_settle(&x.t);
        x_needs_copy(&x);
        x_jump(&x, keep);
        t_settle(&x.t);
        struct wal *w = x.t.store->wal;
        uint64_t head = wal_head_lsn(w), newest = 0;
        struct wal_stats ws;
        wal_get_stats(w, &ws);
        for (uint64_t at = ws.tail_lsn; at < head; at = newest + 1) {
            newest = wal_position_at(w, at).lsn;
            if (wal_position_at(w, newest + 1).lsn >= head)
                break;
        }
        assert_true(newest > 0 && newest < head);
        x_crash(&x, SIM_KILL);
        sim_disk_flip(x.t.wal, newest % x.t.wal_bytes + 40, 3);
        x_restart(&x);
        assert_int_equal(store_applied(x.t.store, 1), 12);
        assert_int_equal(x.t.group[0].last, keep ? 13 : 12);
        t_commit_all(&x.d);
        x_feed(&x);
        x_finish(&x);
        x_afterwards(&x);
        x_free(&x);
    }
}

static void test_no_jump_while_a_checkpoint_is_made(void **state)
{
    struct copy_test x;
    x_begin(&x, 50, SIZE);
    x_common_past(&x);
    x_missed(&x);
    x_needs_copy(&x);
    x_list(&x);
    struct store_jump j = {.to = {12, {0}}, .listing = x.listing, .n = x.n_listed};
    assert_int_equal(store_jump_check(x.t.store, 1, &j), -EINVAL); /* not drained */
    x_drain(&x);
    assert_int_equal(store_jump_check(x.t.store, 1, &j), 0);
    for (unsigned how = 0; how < 2; how++) {
        if (how == 0) {
            store_checkpoint(x.t.store);
            sim_wake(x.t.sim);
            while (x.t.store->cycle.state == CYCLE_IDLE)
                assert_true(sim_step(x.t.world));
        } else {
            t_append(&x.t, 0, ENTRY_WRITE, 5, 1); /* applied since the drain */
            t_commit_all(&x.t);
        }
        assert_int_equal(store_jump_check(x.t.store, 1, &j), -EAGAIN);
        x_drain(&x);
        assert_int_equal(store_jump_check(x.t.store, 1, &j), 0);
    }
    t_run(&x.t, NS_PER_S);
    j.to.slot = 6;
    assert_int_equal(store_jump_check(x.t.store, 1, &j), -EINVAL); /* not ahead */
    j.to.slot = 12;
    j.keep_log = true;
    assert_int_equal(store_jump_check(x.t.store, 1, &j), -EINVAL); /* not held */
    j.keep_log = false;
    struct store_region twice[2] = {x.listing[0], x.listing[0]};
    j.listing = twice;
    j.n = 2;
    assert_int_equal(store_jump_check(x.t.store, 1, &j), -EINVAL);
    twice[1].region = 3; /* beyond the volume */
    assert_int_equal(store_jump_check(x.t.store, 1, &j), -EINVAL);
    store_jump_cancel(x.t.store, 1);
    x_free(&x);
}

/* What was applied and not written back is a state of before the jump. */
static void test_drain_writes_back(void **state)
{
    struct copy_test x;
    x_begin(&x, 60, SIZE);
    x_common_past(&x);
    x_both(&x, ENTRY_WRITE, 70, 5);
    x_both(&x, ENTRY_WRITE, R + 70, 5);
    assert_true(overlay_has_group(x.t.store, store_group(x.t.store, 1)));
    x_needs_copy(&x);
    x_drain(&x);
    assert_false(overlay_has_group(x.t.store, store_group(x.t.store, 1)));
    assert_false(store_copy_begin(x.t.store, &(struct store_copy){.group = 1, .block = 0, .nblocks = 1}));
    store_jump_cancel(x.t.store, 1);
    store_needs_copy(x.t.store, 1, false, NULL, NULL); /* the logs reached after all */
    x_both(&x, ENTRY_WRITE, 80, 5);
    x_crash(&x, SIM_POWER);
    x_restart(&x);
    assert_false(x.t.group[0].found_needs_copy);
    x_check_complete(&x);
    x_free(&x);
}

static void test_regions_that_the_donor_has_not(void **state)
{
    struct copy_test x;
    x_begin(&x, 70, SIZE);
    x_common_past(&x);
    x_donor(&x, ENTRY_WRITE, 3, 1);
    x_needs_copy(&x);
    x_drain(&x);
    x_list(&x);
    assert_int_equal(x.n_listed, 3);
    assert_int_equal(x.listing[1].region, 1);
    x.listing[1] = x.listing[2];
    x.n_listed = 2;
    x_jump_begin(&x, false);
    x_jump_wait(&x);
    assert_int_equal(x_bad(&x, R, 64), 64);
    assert_int_equal(x_bad(&x, 2 * R + 600, 40), 0);
    x_check(&x);
    x_free(&x);
}

static void test_region_table_too_small(void **state)
{
    struct copy_test x;
    x_begin(&x, 80, SIZE);
    x_common_past(&x);
    x_donor(&x, ENTRY_WRITE, 2 * R + 1, 1);
    x_needs_copy(&x);
    x_drain(&x);
    static struct store_region many[400];
    store_group(x.t.store, 1)->size_blocks = 400 * (uint64_t)R; /* of a larger volume */
    for (unsigned i = 0; i < 400; i++)
        many[i] = (struct store_region){.region = i, .present = 1, .changed_at = 7};
    struct store_jump j = {.to = {7, {0}}, .listing = many, .n = 400};
    assert_int_equal(store_jump_check(x.t.store, 1, &j), -ENOSPC);
    store_group(x.t.store, 1)->size_blocks = SIZE;
    x_free(&x);
}

/* ---- completion ---- */

/* Told only when the root is durable: a power cut at that moment, and it is complete. The root of a checkpoint that was
 * under way already does not say so. */
static void on_complete_crash(void *user, int err)
{
    struct copy_test *x = user;
    assert_int_equal(err, 0);
    x->complete = true;
    sim_reactor_crash(x->t.sim, SIM_POWER);
}

static void test_completion_is_durable_when_told(void **state)
{
    for (unsigned how = 0; how < 2; how++) {
        struct copy_test x;
        x_begin(&x, 210 + 2 * how, SIZE);
        x_common_past(&x);
        x_missed(&x);
        x_needs_copy(&x);
        x_jump(&x, false);
        x_copy(&x, 1000);
        if (how == 1)
            store_checkpoint(x.t.store);
        sim_wake(x.t.sim);
        while (how == 1 && x.t.store->cycle.state == CYCLE_IDLE)
            assert_true(sim_step(x.t.world));
        store_copy_complete(x.t.store, 1, on_complete_crash, &x);
        sim_wake(x.t.sim);
        while (!x.complete)
            assert_true(sim_step(x.t.world));
        x_crash(&x, SIM_POWER);
        x_restart(&x);
        assert_false(x.t.group[0].found_needs_copy);
        x_check_complete(&x);
        x_free(&x);
    }
}

static void note_cancelled(void *user, int err)
{
    assert_int_equal(err, -ECANCELED);
    *(bool *)user = true;
}

/* Needed again before it was done; and a jump's own checkpoint completes nothing. */
static void test_completion_cancelled(void **state)
{
    struct copy_test x;
    x_begin(&x, 220, SIZE);
    x_common_past(&x);
    x_donor(&x, ENTRY_SESSION, 0, 0); /* nothing changed */
    x_needs_copy(&x);
    x_jump(&x, false);
    struct store_copy_state st = x_state(&x);
    assert_true(st.needs_copy && st.copying && st.unknown_leaves == 0);
    x.complete = false;
    x_donor(&x, ENTRY_WRITE, 5, 1);
    for (unsigned when = 0; when < 2; when++) {
        static bool told;
        told = false;
        store_copy_complete(x.t.store, 1, note_cancelled, &told);
        sim_wake(x.t.sim);
        while (when == 1 && x.t.store->cycle.state != CYCLE_META)
            assert_true(sim_step(x.t.world));
        x_needs_copy(&x);
        assert_true(told);
        t_run(&x.t, NS_PER_S);
        assert_true(x_state(&x).needs_copy);
    }
    x_crash(&x, SIM_POWER);
    x_restart(&x);
    assert_true(x.t.group[0].found_needs_copy);
    x_finish(&x);
    x_afterwards(&x);
    x_free(&x);
}

/* ---- random lives ---- */

static uint64_t rnd(struct copy_test *x, uint64_t n)
{
    return sim_rand(x->d.world) % n;
}

static uint64_t some_block(struct copy_test *x)
{
    uint64_t near = rnd(x, 2) ? rnd(x, 3000) : rnd(x, 2) ? R + rnd(x, 1200) : 2 * R + rnd(x, 2700);
    return near;
}

static void entry(struct copy_test *x, bool both)
{
    static const enum entry_kind kind[] = {ENTRY_WRITE, ENTRY_WRITE, ENTRY_WRITE, ENTRY_TRIM, ENTRY_ZERO, ENTRY_MEMBER};
    enum entry_kind k = kind[rnd(x, ARRAY_LEN(kind))];
    uint64_t block = some_block(x);
    uint32_t n = (uint32_t)(1 + rnd(x, rnd(x, 4) ? 20 : 100));
    if (k == ENTRY_TRIM && rnd(x, 4) == 0) {
        block = block / 512 * 512;
        n = 512;
    }
    if (block + n > SIZE)
        n = (uint32_t)(SIZE - block);
    if (k == ENTRY_MEMBER)
        n = 0;
    if (both)
        x_both(x, k, block, n);
    else
        x_donor(x, k, block, n);
}

static void flight(struct copy_test *x)
{
    unsigned i = (unsigned)rnd(x, COPY_FLIGHTS);
    struct copy_flight *f = &x->flight[i];
    struct store_unknown u;
    if (f->handed_over)
        return;
    if (f->begun && f->c.buf) {
        x_install(x, i);
        return;
    }
    if (f->begun) {
        if (rnd(x, 6)) {
            x_image(x, i);
        } else {
            store_copy_abandon(x->t.store, &f->c);
            f->begun = false;
        }
        return;
    }
    if (x_unknown(x, some_block(x), &u) == 0) {
        uint32_t first = (uint32_t)rnd(x, u.nblocks), n = (uint32_t)(1 + rnd(x, u.nblocks - first));
        if (rnd(x, 2)) {
            first = 0;
            n = u.nblocks;
        }
        if (!x_request(x, i, u.block + first, n))
            t_checkpoint(&x->t);
    }
}

static void behind(struct copy_test *x)
{
    if (rnd(x, 2)) /* with a tail that nobody chose */
        for (uint64_t n = 1 + rnd(x, 8); n > 0; n--)
            t_append(&x->t, 0, ENTRY_WRITE, some_block(x), 1 + (uint32_t)rnd(x, 30));
    x->d.group[0].e++;
    for (uint64_t n = 1 + rnd(x, 8); n > 0; n--)
        entry(x, false);
    t_settle(&x->t);
    x_needs_copy(x);
    x_jump(x, false);
}

static void random_life(uint64_t seed)
{
    struct copy_test x;
    x_begin(&x, seed, SIZE);
    for (unsigned i = 0; i < 12; i++)
        entry(&x, true);
    for (unsigned step = 0; step < 400; step++) {
        struct store_copy_state st = x_state(&x);
        switch (rnd(&x, 40)) {
        case 0:
            behind(&x);
            break;
        case 1:
            t_checkpoint(&x.t);
            break;
        case 2:
            t_checkpoint(&x.d);
            break;
        case 3:
            x_check(&x);
            break;
        case 4: /* a crash with something under way */
            if (rnd(&x, 2))
                store_checkpoint(x.t.store);
            t_run(&x.t, rnd(&x, 3 * NS_PER_MS));
            x_crash(&x, rnd(&x, 2) ? SIM_POWER : SIM_KILL);
            x_restart(&x);
            break;
        case 5:
        case 6:
            x_verdict(&x, (uint32_t)rnd(&x, 3));
            break;
        case 7:
            if (st.copying && st.unknown_leaves == 0)
                x_complete(&x);
            break;
        case 8:
            x_copy(&x, 2);
            break;
        default:
            if (st.copying && rnd(&x, 3))
                flight(&x);
            else
                entry(&x, true);
        }
    }
    for (unsigned i = 0; i < COPY_FLIGHTS; i++)
        if (x.flight[i].begun && !x.flight[i].handed_over)
            store_copy_abandon(x.t.store, &x.flight[i].c);
    if (x_state(&x).needs_copy)
        x_finish(&x);
    x_check_complete(&x);
    x_afterwards(&x);
    x_free(&x);
}

static void test_random_copies(void **state)
{
    for (uint64_t seed = 5000; seed < 5040; seed += 2)
        random_life(seed);
}

#define T(name) cmocka_unit_test(name)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        T(test_lag_jump_copy),
        T(test_copied_chunk_is_as_old_as_it_is),
        T(test_from_nothing),
        T(test_created_as_a_learner),
        T(test_retired_is_remembered),
        T(test_power_cut_at_every_event),
        T(test_kill_at_every_third_event),
        T(test_power_cut_with_a_kept_log),
        T(test_newest_root_rots_after_the_jump),
        T(test_cut_rots_after_the_jump),
        T(test_no_jump_while_a_checkpoint_is_made),
        T(test_drain_writes_back),
        T(test_regions_that_the_donor_has_not),
        T(test_region_table_too_small),
        T(test_completion_is_durable_when_told),
        T(test_completion_cancelled),
        T(test_random_copies),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
