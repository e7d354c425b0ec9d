/* What the WAL's recovery makes of rot: it is told, costs no more than it must, and never shortens the log. */
#include "tests/unit/wal_recovery.h"

#include <errno.h>

/* ---- rot ---- */

/* Entries that a batch appended or refilled, whose values it alone holds: the upper bound of what its rot may cost. */
static uint32_t entries_in(const struct rotten *x, const struct t_batch *b)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < x->t.n; i++)
        n += x->t.rec[i].type == WAL_ENTRY && x->t.rec[i].place.desc_lsn >= b->lsn && x->t.rec[i].place.desc_lsn < b->lsn + b->bytes;
    return n;
}

static void one_flipped_bit_in_every_sector(void **state)
{
    uint32_t lost = 0, told = 0;
    for (uint64_t seed = 1; seed <= 1 + THOROUGH / 8; seed++) {
        struct rotten x;
        make_rotten(&x, seed);
        for (uint32_t i = 0; i + 1 < x.n; i++) {
            for (uint64_t s = 0; s < x.b[i].bytes / SECTOR; s++) {
                if (s * SECTOR >= (uint64_t)x.b[i].desc_pages * BLOCK_SIZE && s % 3)
                    continue; /* payload: some */
                struct wal_test f;
                t_fork(&f, &x.t, x.image);
                flip(&f, &x.b[i], s * SECTOR + sim_rand(x.t.world) % SECTOR);
                uint32_t n = rot_is_told(&x, &f, 1);
                assert_true(n <= entries_in(&x, &x.b[i]));
                lost += n;
                told++;
                t_free(&f);
            }
        }
        rotten_free(&x);
    }
    assert_true(told > 100 && lost > 50); /* it did bite */
}

/* Only the payload's entries are lost, the batch's other records are not; and a refill heals. */
static void rot_in_payload_costs_that_entry_alone(void **state)
{
    struct wal_test t, f;
    t_init(&t, 3, RING);
    t_start_ok(&t);
    t_promise(&t, 1, 7, 70);
    for (int i = 0; i < 6; i++)
        t_entry(&t, 1, 2);
    t_slot(&t, WAL_COMMIT, 1, 3);
    t_settle(&t);
    t_crash(&t, SIM_POWER);
    t_start_ok(&t);
    uint8_t *image = t_image(&t);
    t_fork(&f, &t, image);
    sim_disk_flip(f.disk, f.rec[3].place.payload_lsn + 5000, 1); /* slots 3 and 4 */
    sim_disk_flip(f.disk, f.rec[4].place.payload_lsn, 1);
    assert_int_equal(t_start(&f), 0);
    assert_int_equal(f.n_got, t.n);
    unsigned lost = 0;
    for (uint32_t i = 0; i < f.n_got; i++)
        if (f.got[i].type == REC_LOST) {
            assert_true(f.got[i].slot == 3 || f.got[i].slot == 4);
            assert_int_equal(f.got[i].e, 1);
            assert_int_equal(f.got[i].id, 0);
            lost++;
        }
    assert_int_equal(lost, 2);
    struct wal_stats s;
    wal_get_stats(f.wal, &s);
    assert_int_equal(s.lost_slots, 2);
    t_refill(&f, 3);
    t_settle(&f);
    t_crash(&f, SIM_POWER);
    assert_int_equal(t_start(&f), 0);
    struct model *m = model_of(f.got, f.n_got);
    assert_false(m->g[1].slot[3].lost);
    assert_true(m->g[1].slot[4].lost);
    free(m);
    t_free(&f);
    free(image);
    t_free(&t);
}

/* What only echoes save: groups, memberships, fuzzy ends; and what only summaries of refills save: a copy carried forward. */
static void rot_in_descriptors_is_named_by_the_next(void **state)
{
    struct wal_test t, f;
    t_init(&t, 4, RING);
    t_start_ok(&t);
    t_entry(&t, 1, 1);
    t_entry(&t, 1, 1);
    uint32_t second = t.n - 1;
    t_settle(&t);
    uint64_t rotten = wal_head_lsn(t.wal);
    uint32_t first = t.n;
    t_group(&t, 2, 555);
    t_cut(&t, 1, 2);
    t_entry(&t, 1, 1);
    t_promise(&t, 2, 8, 80);
    t_entry_kind(&t, 2, ENTRY_SESSION, 0, false, 1, 8);
    t_entry_kind(&t, 2, ENTRY_MEMBER, 0, false, 2, 8);
    t_slot(&t, WAL_FUZZY, 2, 44);
    t_slot(&t, WAL_NEEDS_COPY, 1, 1);
    t_slot(&t, WAL_COMMIT, 2, 1);
    t_settle(&t);
    assert_true(second < first);
    t_entry(&t, 1, 1);
    t_settle(&t);
    t_promise(&t, 1, 9, 90);
    t_settle(&t);
    t_crash(&t, SIM_POWER);
    for (uint64_t at = 0; at < BLOCK_SIZE; at += 300) {
        uint8_t *image = t_image(&t);
        t_fork(&f, &t, image);
        sim_disk_flip(f.disk, rotten + at, 5);
        assert_int_equal(t_start(&f), 0);
        struct model *m = model_of(f.got, f.n_got);
        assert_true(m->g[2].created);
        assert_int_equal(m->g[2].size, 555);
        assert_int_equal(m->g[2].promised, 8);
        assert_int_equal(m->g[2].lease, 80);
        assert_int_equal(m->g[2].fuzzy, 44);
        assert_int_equal(m->g[2].commit, 1);
        assert_int_equal(m->g[1].needs_copy, 1);
        assert_int_equal(m->g[1].promised, 9);
        assert_int_equal(m->g[2].last, 2);
        assert_true(m->g[2].slot[1].lost);
        assert_false(m->g[2].slot[2].lost); /* the membership */
        assert_true(m->g[1].slot[2].lost);
        assert_int_equal(m->g[1].slot[2].e, 2); /* the one after the cut */
        assert_int_equal(m->g[1].last, 3);
        free(m);
        /* An echo's place is one to read from. */
        for (uint32_t i = 0; i < f.n_got; i++)
            if (f.got[i].type == WAL_ENTRY) {
                f.rec[0] = f.got[i];
                t_read(&f, 0);
            }
        t_free(&f);
        free(image);
    }
    t_free(&t);
}

/* A rotten copy carried forward, its original trimmed, must leave a LOST slot, not a shorter log. */
static void a_rotten_copy_does_not_shorten_the_log(void **state)
{
    struct wal_test t, f;
    t_init(&t, 5, RING);
    t_start_ok(&t);
    for (int i = 0; i < 4; i++)
        t_entry(&t, 1, 1);
    t_settle(&t);
    uint32_t tail = t_cut_position(&t);
    uint64_t rotten = wal_head_lsn(t.wal);
    t_refill(&t, 2);
    t_refill(&t, 3);
    t_settle(&t);
    t_promise(&t, 1, 9, 90);
    t_settle(&t);
    t_trim(&t, tail);
    t_crash(&t, SIM_POWER);
    uint8_t *image = t_image(&t);
    t_fork(&f, &t, image);
    sim_disk_flip(f.disk, rotten, 0);
    assert_int_equal(t_start(&f), 0);
    struct model *m = model_of(f.got, f.n_got);
    assert_int_equal(m->g[1].last, 4);
    assert_true(m->g[1].slot[3].lost && m->g[1].slot[4].lost);
    free(m);
    t_free(&f);
    free(image);
    t_free(&t);
}

static void two_in_a_row(void **state)
{
    struct rotten x;
    make_rotten(&x, 6);
    unsigned refused = 0, told = 0;
    for (uint32_t i = 0; i + 2 < x.n; i++) {
        for (unsigned how = 0; how < 4; how++) {
            bool desc1 = how & 1, desc2 = how & 2;
            uint64_t at1 = desc1 ? 70 : (uint64_t)x.b[i].desc_pages * BLOCK_SIZE + 9;
            uint64_t at2 = desc2 ? 90 : (uint64_t)x.b[i + 1].desc_pages * BLOCK_SIZE + 9;
            if (at1 >= x.b[i].bytes || at2 >= x.b[i + 1].bytes)
                continue; /* no payload */
            struct wal_test f;
            t_fork(&f, &x.t, x.image);
            flip(&f, &x.b[i], at1);
            flip(&f, &x.b[i + 1], at2);
            if (desc1 && desc2) {
                /* Nothing names what the first one held. */
                assert_int_equal(t_start(&f), -EIO);
                assert_non_null(strstr(f.why, "replace this replica"));
                refused++;
            } else {
                rot_is_told(&x, &f, 2);
                told++;
            }
            t_free(&f);
        }
    }
    assert_true(refused > 5 && told > 5);
    /* Not neighbours: both are named. */
    for (uint32_t i = 0; i + 3 < x.n; i++) {
        struct wal_test f;
        t_fork(&f, &x.t, x.image);
        flip(&f, &x.b[i], 50);
        flip(&f, &x.b[i + 2], 50);
        rot_is_told(&x, &f, 2);
        t_free(&f);
    }
    rotten_free(&x);
}

/* Many batches gone at once are no torn tail either. */
static void a_rotten_stretch_is_refused(void **state)
{
    struct rotten x;
    make_rotten(&x, 7);
    for (uint32_t n = 3; n + 1 < x.n; n += 4) {
        struct wal_test f;
        t_fork(&f, &x.t, x.image);
        uint8_t zero[BLOCK_SIZE] = { 0 };
        uint64_t from = x.b[1].lsn;
        for (uint64_t at = from; at < x.b[1 + n].lsn; at += BLOCK_SIZE)
            sim_disk_poke(f.disk, at, zero, BLOCK_SIZE);
        if (1 + n < x.n) {
            assert_int_equal(t_start(&f), -EIO);
            assert_true(f.why[0] != 0);
        }
        t_free(&f);
    }
    rotten_free(&x);
}

/* The newest batch is vouched for by none: its rot cannot be told from a torn write, and is cut. As soon as one later batch says
 * that it was durable, it is rot. */
static void the_newest_is_torn_until_vouched_for(void **state)
{
    for (unsigned vouched = 0; vouched < 2; vouched++) {
        for (unsigned where = 0; where < 3; where++) {
            struct wal_test t;
            t_init(&t, 8, RING);
            t_start_ok(&t);
            t_entry(&t, 1, 1);
            t_settle(&t);
            uint64_t lsn = wal_head_lsn(t.wal);
            t_entry(&t, 1, 2);
            t_settle(&t);
            uint32_t n = t.n;
            if (vouched) {
                t_promise(&t, 1, 5, 1);
                t_settle(&t);
            }
            t_crash(&t, SIM_POWER);
            sim_disk_flip(t.disk, lsn + (where == 0 ? 20 : where == 1 ? 130 : BLOCK_SIZE + 10), 2);
            assert_int_equal(t_start(&t), 0);
            struct wal_stats s;
            wal_get_stats(t.wal, &s);
            assert_int_equal(s.rotten_batches, vouched);
            if (!vouched)
                assert_int_equal(t.n_got, n - 1);
            struct model *m = model_of(t.got, t.n_got);
            assert_int_equal(m->g[1].last, vouched ? 2 : 1);
            assert_int_equal(m->g[1].promised, vouched ? 5 : 0);
            if (vouched)
                assert_true(m->g[1].slot[2].lost);
            free(m);
            t_free(&t);
        }
    }
}

/* Rot in the last durable batch, and batches in flight behind it of which any may have landed. */
static void rot_and_a_torn_tail_at_once(void **state)
{
    struct wal_test t;
    t_init(&t, 9, RING);
    t_start_ok(&t);
    t_entry(&t, 1, 1);
    t_settle(&t);
    uint64_t rot = wal_head_lsn(t.wal);
    t_entry(&t, 1, 2);
    t_promise(&t, 1, 5, 1);
    t_settle(&t);
    uint32_t n_durable = t.n;
    uint8_t *before = t_image(&t);
    uint64_t head = wal_head_lsn(t.wal);
    sim_disk_timing(t.disk)->durable_ns = (struct sim_range){ NS_PER_S, NS_PER_S };
    for (int i = 0; i < 3; i++) {
        t_entry(&t, 1, 1);
        sim_run_for(t.world, NS_PER_MS);
    }
    t_settle(&t);
    uint8_t *after = t_image(&t);
    struct t_batch b[3];
    assert_int_equal(t_batches(&t, after, head, b, 3), 3);
    for (unsigned mask = 0; mask < 8; mask++) {
        for (unsigned desc = 0; desc < 2; desc++) {
            uint8_t *mix = image_copy(before);
            for (unsigned i = 0; i < 3; i++)
                if (mask >> i & 1)
                    copy_range(mix, after, b[i].lsn, b[i].bytes);
            mix[rot + (desc ? 64 : BLOCK_SIZE + 64)] ^= 4;
            struct wal_test f;
            t_fork(&f, &t, mix);
            f.durable = 0;
            int err = t_start(&f);
            if (desc && mask && !(mask & 1)) {
                assert_int_equal(err, -EIO); /* its only witness is torn */
            } else {
                assert_int_equal(err, 0);
                struct model *m = model_of(f.got, f.n_got);
                unsigned whole = mask == 7 ? 3 : (mask & 3) == 3 ? 2 : mask & 1;
                assert_int_equal(m->g[1].last, mask ? 2 + whole : 1);
                assert_int_equal(m->g[1].promised, mask ? 5 : 0);
                if (mask)
                    assert_true(m->g[1].slot[2].lost);
                free(m);
            }
            t_free(&f);
            free(mix);
        }
    }
    assert_true(n_durable < t.n);
    free(before);
    free(after);
    t_free(&t);
}

/* The witness of a rotten batch is cut itself, its payload being torn: what it said must stand in the START batch at its place,
 * which the recovery after this one needs. */
static void a_torn_witness_is_heard_and_replaced(void **state)
{
    struct wal_test t;
    t_init(&t, 10, RING);
    t_start_ok(&t);
    t_group(&t, 1, 100);
    t_settle(&t);
    uint64_t rot = wal_head_lsn(t.wal);
    t_entry_kind(&t, 1, ENTRY_SESSION, 0, false, 1, 3);
    t_entry_kind(&t, 1, ENTRY_MEMBER, 0, false, 2, 3);
    t_promise(&t, 1, 6, 60);
    t.last[1] = 2;
    t.e[1] = 3;
    t_settle(&t);
    uint64_t witness = wal_head_lsn(t.wal);
    t_entry(&t, 1, 3);
    t_settle(&t);
    t_crash(&t, SIM_POWER);
    sim_disk_flip(t.disk, rot + 40, 1);
    sim_disk_flip(t.disk, witness + 2 * BLOCK_SIZE, 1);
    for (int life = 0; life < 3; life++) {
        assert_int_equal(t_start(&t), 0);
        struct model *m = model_of(t.got, t.n_got);
        assert_int_equal(m->g[1].last, 2);
        assert_true(m->g[1].slot[1].lost);
        assert_false(m->g[1].slot[2].lost);
        assert_int_equal(m->g[1].promised, 6);
        free(m);
        for (uint32_t i = 0; i < t.n_got; i++)
            if (t.got[i].type == WAL_ENTRY) {
                t.rec[0] = t.got[i];
                t_read(&t, 0);
            }
        t_crash(&t, SIM_POWER);
    }
    t_free(&t);
}

/* Rot of a PAD loses nothing; rot of the batch before it is named by the PAD. */
static void rot_around_a_pad(void **state)
{
    struct rotten x;
    memset(&x, 0, sizeof x);
    begin(&x.t, 11, WITH_PAD);
    t_cut(&x.t, 1, x.t.last[1]); /* would undo its own append if it were told twice */
    t_entry_kind(&x.t, 1, ENTRY_TRIM, 1, false, ++x.t.last[1], x.t.e[1]);
    t_settle(&x.t);
    t_entry(&x.t, 1, 9);
    t_settle(&x.t);
    t_entry(&x.t, 1, 1);
    t_settle(&x.t);
    t_crash(&x.t, SIM_POWER);
    x.image = t_image(&x.t);
    x.n = t_batches(&x.t, x.image, x.t.root.tail_lsn, x.b, 64);
    x.model = model_of(x.t.rec + x.t.first, x.t.n - x.t.first);
    uint32_t pad = 0;
    while (pad < x.n && !(x.b[pad].flags & WAL_PAD))
        pad++;
    assert_true(pad > 0 && pad + 2 < x.n);
    assert_true(x.b[pad + 1].flags & WAL_AFTER_PAD);
    for (uint32_t i = pad - 1; i <= pad + 1; i++) {
        struct wal_test f;
        t_fork(&f, &x.t, x.image);
        flip(&f, &x.b[i], 60);
        uint32_t lost = rot_is_told(&x, &f, 1);
        assert_int_equal(lost, i == pad ? 0 : 1);
        t_free(&f);
    }
    struct wal_test f;
    t_fork(&f, &x.t, x.image);
    flip(&f, &x.b[pad - 1], 60);
    flip(&f, &x.b[pad], 60);
    assert_int_equal(t_start(&f), -EIO);
    t_free(&f);
    rotten_free(&x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_flipped_bit_in_every_sector),
        cmocka_unit_test(rot_in_payload_costs_that_entry_alone),
        cmocka_unit_test(rot_in_descriptors_is_named_by_the_next),
        cmocka_unit_test(a_rotten_copy_does_not_shorten_the_log),
        cmocka_unit_test(two_in_a_row),
        cmocka_unit_test(a_rotten_stretch_is_refused),
        cmocka_unit_test(the_newest_is_torn_until_vouched_for),
        cmocka_unit_test(rot_and_a_torn_tail_at_once),
        cmocka_unit_test(a_torn_witness_is_heard_and_replaced),
        cmocka_unit_test(rot_around_a_pad),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
