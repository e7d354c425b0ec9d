/* What the WAL's recovery must not take for the log though it looks like it: stale batches of earlier laps, forged
 * ones in the data, garbage. */
#include "tests/unit/wal_recovery.h"

#include <errno.h>

/* ---- stale batches ---- */

/* Cut after cut in the same stretch of the ring, with good batches of earlier incarnations left behind each. */
static void what_was_cut_stays_cut(void **state)
{
    for (uint64_t seed = 1; seed <= 10 * THOROUGH; seed++) {
        struct wal_test t;
        t_init(&t, seed, RING);
        sim_disk_set_late(t.disk, 0, 0);
        t_start_ok(&t);
        sim_disk_timing(t.disk)->write_ns = (struct sim_range){ 10000, 4 * NS_PER_MS };
        for (int life = 0; life < 12; life++) {
            for (uint64_t i = sim_rand(t.world) % 8; i > 0; i--) {
                t_entry(&t, 1, 1 + (uint32_t)(sim_rand(t.world) % 3));
                sim_run_for(t.world, 60000 + sim_rand(t.world) % 500000);
            }
            t_crash(&t, SIM_POWER);
            t_start_ok(&t);
        }
        t_free(&t);
    }
}

/* A START that rotted, whose stale former successor says it follows the same place: it must not speak for it. */
static void a_stale_batch_is_no_witness(void **state)
{
    struct flight x;
    fly(&x, 12);
    struct wal_test *t = &x.t, f;
    /* Of four in flight only the second, third and fourth landed; the recovery cuts at the first. */
    uint8_t *mix = image_copy(x.after);
    copy_range(mix, x.before, x.b[0].lsn, x.b[0].bytes);
    t_fork(&f, t, mix);
    t_start_ok(&f);
    assert_int_equal(f.n, x.n_before);
    uint64_t start = x.b[0].lsn;
    /* One more batch of one page: the START now has a successor, and, beyond, there is the stale one of the same seq. */
    t_promise(&f, 5, 50, 1);
    t_settle(&f);
    t_promise(&f, 5, 51, 1);
    t_settle(&f);
    t_crash(&f, SIM_POWER);
    uint8_t *image = t_image(&f);
    struct wal_test g;
    t_fork(&g, &f, image);
    sim_disk_flip(g.disk, start + 30, 1);
    assert_int_equal(t_start(&g), 0);
    assert_int_equal(g.n_got, f.n);
    for (uint32_t i = 0; i < g.n_got; i++)
        assert_int_not_equal(g.got[i].type, REC_LOST);
    t_free(&g);
    /* With its true successor gone as well nothing tells what the START's place held; the stale one may not. */
    t_fork(&g, &f, image);
    sim_disk_flip(g.disk, start + 30, 1);
    sim_disk_flip(g.disk, start + BLOCK_SIZE + 30, 1);
    assert_int_equal(t_start(&g), -EIO);
    t_free(&g);
    free(image);
    free(mix);
    t_free(&f);
    fly_free(&x);
}

/* The ring is full of good batches of the last lap: none of them is the next one, none vouches. */
static void the_last_lap_is_over(void **state)
{
    struct wal_test t;
    t_init(&t, 13, RING);
    t_start_ok(&t);
    while (wal_head_lsn(t.wal) < 5 * RING / 2) {
        t_entry(&t, 1, 1);
        t_settle(&t);
        uint32_t cut = t_cut_position(&t);
        if (wal_room(t.wal) < 40 * BLOCK_SIZE)
            t_trim(&t, cut);
    }
    for (int i = 0; i < 30; i++) {
        t_entry(&t, 1, 1);
        if (i % 3)
            t_settle(&t);
        t_crash(&t, SIM_POWER);
        t_start_ok(&t);
        struct wal_stats s;
        wal_get_stats(t.wal, &s);
        assert_int_equal(s.rotten_batches, 0);
        uint32_t cut = t_cut_position(&t);
        if (wal_room(t.wal) < 40 * BLOCK_SIZE)
            t_trim(&t, cut);
    }
    t_free(&t);
}

/* Appends small batches until fewer than `rest` bytes are left up to lsn. */
static void fill_up_to(struct wal_test *t, uint64_t lsn, uint64_t rest)
{
    while (wal_head_lsn(t->wal) + rest < lsn) {
        t_entry(t, 1, 1);
        t_settle(t);
        uint32_t cut = t_cut_position(t);
        if (wal_room(t->wal) < 80 * BLOCK_SIZE)
            t_trim(t, cut);
    }
}

/* The root that was found is not the newest (that one has rotted): a lap from its tail on, the log goes over what the
 * newer one freed. Of the batch that was
 * written last only the payload lies there: its header is before. */
static void a_batch_that_reaches_beyond_the_lap_tells_of_a_newer_root(void **state)
{
    for (unsigned blocks = 6; blocks <= 12; blocks++) {
        struct wal_test t;
        t_init(&t, 20 + blocks, RING);
        t_start_ok(&t);
        fill_up_to(&t, RING / 3, 0);
        t_trim(&t, t_cut_position(&t));
        struct root old = t.root;
        uint64_t limit = old.tail_lsn + RING;
        fill_up_to(&t, limit, 5 * BLOCK_SIZE);
        assert_true(t.root.tail_lsn > old.tail_lsn);
        t_entry(&t, 1, blocks);
        t_settle(&t);
        assert_true(wal_head_lsn(t.wal) > limit);
        t_crash(&t, SIM_POWER);
        struct root newest = t.root;
        t.root = old;
        assert_int_equal(t_start(&t), -EIO);
        assert_non_null(strstr(t.why, "root"));
        t_crash(&t, SIM_POWER);
        t.root = newest;
        t_start_ok(&t);
        t_free(&t);
    }
}

/* ---- forged batches ---- */

/* A client writes blocks that look like batches of exactly the places where they come to stand, vouching for everything, and
 * the batch that carries them is torn: its descriptors never landed. */
static void forge(uint8_t *to, const uint8_t *salt, uint64_t lsn, uint64_t prev_lsn, uint64_t seq)
{
    memset(to, 0, BLOCK_SIZE);
    struct wal_batch *b = (void *)to;
    *b = (struct wal_batch){
        .magic = WAL_MAGIC, .version = DISK_VERSION, .lsn = lsn, .seq = seq, .prev_lsn = prev_lsn, .desc_pages = 1,
        .durable_seq = seq - 1, .incarnation = 9, .desc_bytes = sizeof *b,
    };
    static const uint8_t none[16];
    b->crc = salt ? wal_header_crc(salt, b) : wal_header_crc(none, b);
}

static void forged_batches_are_only_data(void **state)
{
    for (unsigned way = 0; way < 3; way++) { /* no salt; the true salt (what the check must bite on); copies from elsewhere */
        struct wal_test t;
        t_init(&t, 14, RING);
        t_start_ok(&t);
        for (int i = 0; i < 6; i++) {
            t_entry(&t, 1, 1);
            t_settle(&t);
        }
        uint64_t head = wal_head_lsn(t.wal), next_seq = wal_cut_position(t.wal).seq;
        uint8_t *image = t_image(&t);
        uint8_t *payload = must(aligned_alloc(BLOCK_SIZE, 8 * BLOCK_SIZE));
        for (unsigned i = 0; i < 8; i++) {
            uint64_t lsn = head + (1 + i) * BLOCK_SIZE;
            if (way < 2)
                forge(payload + i * BLOCK_SIZE, way ? t.salt : NULL, lsn, head, next_seq + 1 + i);
            else
                memcpy(payload + i * BLOCK_SIZE, image + i * BLOCK_SIZE, BLOCK_SIZE); /* real batches of this WAL */
        }
        t.payload = payload;
        uint32_t n = t.n;
        t_entry(&t, 1, 8);
        t_settle(&t);
        t.payload = NULL;
        uint8_t *after = t_image(&t);
        t_crash(&t, SIM_POWER);
        t.durable = n;
        for (unsigned landed = 0; landed < 2; landed++) {
            memcpy(image, after, RING);
            if (!landed)
                memset(image + head, 0, BLOCK_SIZE);
            struct wal_test f;
            t_fork(&f, &t, image);
            int err = t_start(&f);
            if (way == 1 && !landed) {
                assert_true(err != 0 || f.n_got != n); /* so this test can fail */
            } else {
                assert_int_equal(err, 0);
                f.payload = payload;
                t_check(&f);
                f.payload = NULL;
                assert_int_equal(f.n, landed ? t.n : n);
                goes_on_living(&f);
            }
            t_free(&f);
        }
        free(payload);
        free(image);
        free(after);
        t_free(&t);
    }
}

/* Real batches put elsewhere byte by byte: at the head, and a lap's multiple away. */
static void a_batch_counts_in_its_place_only(void **state)
{
    struct rotten x;
    make_rotten(&x, 15);
    uint64_t head = x.b[x.n - 1].lsn + x.b[x.n - 1].bytes;
    for (uint32_t i = 0; i < x.n; i++) {
        struct wal_test f;
        uint8_t *image = image_copy(x.image);
        for (uint64_t at = head; at + x.b[i].bytes <= RING; at += 32 * BLOCK_SIZE)
            memcpy(image + at, x.image + x.b[i].lsn, x.b[i].bytes);
        t_fork(&f, &x.t, image);
        t_start_ok(&f);
        assert_int_equal(f.n, x.t.n);
        t_free(&f);
        free(image);
    }
    rotten_free(&x);
}

/* Bytes of any kind never break the scan. */
static void garbage_is_survived(void **state)
{
    for (uint64_t seed = 1; seed <= 10 * THOROUGH; seed++) {
        struct rotten x;
        make_rotten(&x, 100 + seed % 3);
        struct wal_test f;
        t_fork(&f, &x.t, x.image);
        struct sim_world *w = f.world;
        for (uint64_t s = 0; s < seed; s++)
            sim_rand(w);
        for (uint64_t i = 1 + sim_rand(w) % 20; i > 0; i--) {
            uint8_t noise[64];
            for (unsigned k = 0; k < sizeof noise; k++)
                noise[k] = (uint8_t)sim_rand(w);
            /* headers more than the rest */
            const struct t_batch *b = &x.b[sim_rand(w) % x.n];
            sim_disk_poke(f.disk, b->lsn + sim_rand(w) % (sim_rand(w) & 1 ? 512 : b->bytes - 64), noise, 1 + sim_rand(w) % 64);
        }
        int err = t_start(&f);
        if (err)
            assert_int_equal(err, -EIO);
        t_free(&f);
        rotten_free(&x);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_cut_stays_cut),
        cmocka_unit_test(a_stale_batch_is_no_witness),
        cmocka_unit_test(the_last_lap_is_over),
        cmocka_unit_test(a_batch_that_reaches_beyond_the_lap_tells_of_a_newer_root),
        cmocka_unit_test(forged_batches_are_only_data),
        cmocka_unit_test(a_batch_counts_in_its_place_only),
        cmocka_unit_test(garbage_is_survived),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
