/* What the WAL's recovery takes for the log after power failed: torn tails, subsets of the batches in flight, crashes
 * at random. */
#include "tests/unit/wal_recovery.h"

#include <errno.h>

/* ---- torn tails ---- */

/* Appends one batch (or a PAD and one) of a shape, not yet durable. */
static void append_shape(struct wal_test *t, enum shape shape)
{
    switch (shape) {
    case ONE_BLOCK:
        t_entry(t, 1, 1);
        break;
    case SMALL_RECORDS:
        t_promise(t, 1, t->e[1] += 1, 5);
        t_slot(t, WAL_COMMIT, 1, t->last[1]);
        t_slot(t, WAL_FUZZY, 1, 9);
        t_group(t, 3, 77);
        t_entry_kind(t, 3, ENTRY_MEMBER, 0, false, ++t->last[3], 4);
        break;
    case LARGE:
        t_entry(t, 1, 11);
        t_entry(t, 2, 2);
        break;
    case CUT_AND_APPEND:
        t_cut(t, 1, 2);
        t_entry(t, 1, 3);
        t_refill(t, t->n - 1);
        break;
    case THREE_DESC_PAGES:
        for (int i = 0; i < 140; i++)
            t_entry_kind(t, 1, ENTRY_TRIM, 3, false, ++t->last[1], t->e[1]);
        t_entry(t, 2, 1);
        break;
    case BEFORE_THE_END: /* as it stands at the ring's end: nothing, or a PAD */
    case WITH_PAD:
        t_entry(t, 1, 9);
        break;
    default:
        break;
    }
}

/* Sectors that the write of [from, to) would change. */
static uint32_t changed_sectors(const uint8_t *before, const uint8_t *after, uint32_t *ret)
{
    uint32_t n = 0;
    for (uint32_t s = 0; s < RING / SECTOR; s++)
        if (memcmp(before + s * SECTOR, after + s * SECTOR, SECTOR) != 0)
            ret[n++] = s;
    return n;
}

static void torn_at_every_sector(void **state)
{
    uint32_t *changed = must(malloc(RING / SECTOR * sizeof *changed));
    for (enum shape shape = 0; shape < SHAPES; shape++) {
        struct wal_test t, f;
        begin(&t, 20 + shape, shape);
        uint8_t *before = t_image(&t);
        uint32_t n_before = t.n;
        if (shape == START_ONLY) {
            t_crash(&t, SIM_POWER);
            t_start_ok(&t);
        }
        append_shape(&t, shape);
        t_settle(&t);
        uint8_t *after = t_image(&t);
        uint32_t n = changed_sectors(before, after, changed);
        assert_true(n > 0);
        t.durable = n_before; /* as if nobody had heard */
        for (uint32_t cut = 0; cut <= n; cut++) {
            for (unsigned way = 0; way < 3; way++) { /* all before it landed; all from it on; all but it */
                if (THOROUGH == 1 && cut % 3 != way && cut < n)
                    continue;
                uint8_t *mix = image_copy(way == 0 ? before : after);
                for (uint32_t i = 0; i < n; i++)
                    if (way == 0 ? i < cut : way == 1 ? i < cut : i == cut)
                        memcpy(mix + changed[i] * SECTOR, (way == 0 ? after : before) + changed[i] * SECTOR, SECTOR);
                bool whole = memcmp(mix, after, RING) == 0;
                t_fork(&f, &t, mix);
                t_start_ok(&f);
                /* Of a PAD and its batch one may have landed: then too nothing of the records did. */
                assert_int_equal(f.n, whole ? t.n : n_before);
                struct wal_stats s;
                wal_get_stats(f.wal, &s);
                assert_int_equal(s.rotten_batches, 0);
                assert_int_equal(s.lost_slots, 0);
                if (cut % 8 == 3)
                    goes_on_living(&f);
                t_free(&f);
                free(mix);
            }
        }
        free(before);
        free(after);
        t_free(&t);
    }
    free(changed);
}

/* ---- several in flight ---- */

static void any_subset_of_those_in_flight(void **state)
{
    for (uint64_t seed = 1; seed <= 4; seed++) {
        struct flight x;
        fly(&x, seed);
        for (unsigned mask = 0; mask < 1u << WAL_IN_FLIGHT_MAX; mask++) {
            uint8_t *mix = image_copy(x.before);
            uint32_t want = x.n_before, behind = 0;
            bool torn = false;
            for (unsigned i = 0; i < WAL_IN_FLIGHT_MAX; i++) {
                if (!(mask >> i & 1)) {
                    torn = true;
                    continue;
                }
                copy_range(mix, x.after, x.b[i].lsn, x.b[i].bytes);
                if (torn)
                    behind++;
                else
                    want = x.n_at[i];
            }
            struct wal_test f;
            t_fork(&f, &x.t, mix);
            t_start_ok(&f);
            assert_int_equal(f.n, want);
            struct wal_stats s;
            wal_get_stats(f.wal, &s);
            assert_int_equal(s.rotten_batches, 0);
            assert_int_equal(s.torn_batches, behind);
            goes_on_living(&f); /* over what is left behind the cut */
            t_free(&f);
            free(mix);
        }
        fly_free(&x);
    }
}

static void any_sectors_of_those_in_flight(void **state)
{
    struct flight x;
    fly(&x, 9);
    uint32_t *changed = must(malloc(RING / SECTOR * sizeof *changed));
    uint32_t n = changed_sectors(x.before, x.after, changed);
    for (int round = 0; round < 100 + 20 * (int)THOROUGH; round++) {
        uint8_t *mix = image_copy(x.before);
        uint32_t want = x.n_before;
        /* mostly landed, so that whole batches happen */
        uint64_t one_in = 2 + sim_rand(x.t.world) % 60;
        for (uint32_t i = 0; i < n; i++)
            if (sim_rand(x.t.world) % one_in)
                memcpy(mix + changed[i] * SECTOR, x.after + changed[i] * SECTOR, SECTOR);
        for (unsigned i = 0; i < WAL_IN_FLIGHT_MAX; i++) {
            if (memcmp(mix + x.b[i].lsn % RING, x.after + x.b[i].lsn % RING, x.b[i].bytes) != 0)
                break;
            want = x.n_at[i];
        }
        struct wal_test f;
        t_fork(&f, &x.t, mix);
        t_start_ok(&f);
        assert_int_equal(f.n, want);
        if (round % 8 == 0)
            goes_on_living(&f);
        t_free(&f);
        free(mix);
    }
    free(changed);
    fly_free(&x);
}

/* ---- crashes at random ---- */

static void live(struct wal_test *t)
{
    for (uint64_t i = sim_rand(t->world) % 25; i > 0; i--) {
        if (wal_room(t->wal) < 20 * BLOCK_SIZE) {
            uint32_t cut = t_cut_position(t);
            t_settle(t);
            t_trim(t, (uint32_t)(sim_rand(t->world) % (cut + 1)));
            continue;
        }
        t_random(t, 6);
        switch (sim_rand(t->world) % 8) {
        case 0:
            t_settle(t);
            break;
        case 1:
            t_cut_position(t);
            break;
        case 2:
            for (uint32_t k = t->first; k < t->durable; k++)
                if (t->rec[k].type == WAL_ENTRY && sim_rand(t->world) % 8 == 0) {
                    t_read(t, k);
                    break;
                }
            break;
        case 3:
        case 4:
        case 5:
            sim_run_for(t->world, sim_rand(t->world) % 300000);
            break;
        default:
            break;
        }
    }
}

/* Everything reported durable is replayed, nothing that was cut comes back, promises never go down (the list is exact). Crashes
 * happen in recoveries too. */
static void crashes_at_random(void **state)
{
    for (uint64_t seed = 1; seed <= 100 * THOROUGH; seed++) {
        struct wal_test t;
        t_init(&t, seed, seed % 3 ? RING / 2 : RING);
        if (seed % 4 == 0)
            sim_disk_timing(t.disk)->write_ns = (struct sim_range){ 10000, 3 * NS_PER_MS };
        for (int life = 0; life < 5; life++) {
            uint64_t nth = sim_rand(t.world) % 4 == 0 ? 1 + sim_rand(t.world) % 12 : 0;
            int err = t_start_crashing(&t, nth, sim_rand(t.world) & 1 ? SIM_POWER : SIM_KILL);
            if (err == -ECANCELED)
                continue;
            if (err)
                fail_msg("seed %lu life %d: refused: %s", seed, life, t.why);
            t_check(&t);
            live(&t);
            t_crash(&t, sim_rand(t.world) & 1 ? SIM_POWER : SIM_KILL);
        }
        t_free(&t);
    }
}

/* The same with a bit of rot in each recovery, in a batch that a later one vouches for: values may be lost, nothing else. */
static void crashes_and_rot_at_random(void **state)
{
    uint32_t lost = 0, whole = 0;
    for (uint64_t seed = 1; seed <= 16 * THOROUGH; seed++) {
        struct wal_test t;
        t_init(&t, 5000 + seed, RING);
        t_start_ok(&t);
        for (int life = 0; life < 4; life++) {
            live(&t);
            t_crash(&t, sim_rand(t.world) & 1 ? SIM_POWER : SIM_KILL);
            t_start_ok(&t); /* its START vouches for all */
            uint8_t *image = t_image(&t);
            struct t_batch b[256];
            uint32_t n = t_batches(&t, image, t.root.tail_lsn, b, 256);
            if (n > 1 && n < 256) {
                struct rotten x = { .t = t, .model = model_of(t.rec + t.first, t.n - t.first), .full = model_of(t.rec, t.n) };
                struct wal_test f;
                t_fork(&f, &t, image);
                uint32_t i = (uint32_t)(sim_rand(t.world) % (n - 1));
                flip(&f, &b[i], sim_rand(t.world) % (b[i].flags & WAL_PAD ? BLOCK_SIZE : b[i].bytes));
                uint32_t now = rot_is_told(&x, &f, 1);
                lost += now;
                whole += now == 0;
                t_free(&f);
                free(x.model);
                free(x.full);
            }
            free(image);
        }
        t_free(&t);
    }
    assert_true(lost > 10 && whole > 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(torn_at_every_sector),
        cmocka_unit_test(any_subset_of_those_in_flight),
        cmocka_unit_test(any_sectors_of_those_in_flight),
        cmocka_unit_test(crashes_at_random),
        cmocka_unit_test(crashes_and_rot_at_random),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
