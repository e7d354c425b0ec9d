/* The WAL at work: batches and their order, the ring, reading again, errors. */
#include "tests/unit/wal_harness.h"

#include <errno.h>

#define KIB 1024u

static struct wal_stats stats(struct wal_test *t)
{
    struct wal_stats s;
    wal_get_stats(t->wal, &s);
    return s;
}

static void restart(struct wal_test *t, enum sim_crash how)
{
    t_crash(t, how);
    t_start_ok(t);
}

static void begins_empty_and_comes_back(void **state)
{
    struct wal_test t;
    t_init(&t, 1, 1024 * KIB);
    t_start_ok(&t);
    assert_int_equal(t.n_got, 0);
    assert_int_equal(stats(&t).batches, 1); /* START */
    t_group(&t, 1, 1000);
    t_promise(&t, 1, 3, 77);
    for (int i = 0; i < 10; i++)
        t_entry(&t, 1, 1 + (uint32_t)i);
    t_slot(&t, WAL_COMMIT, 1, 4);
    t_cut(&t, 1, 8);
    t_entry_kind(&t, 1, ENTRY_MEMBER, 0, false, ++t.last[1], 9);
    t_entry_kind(&t, 1, ENTRY_SESSION, 0, false, ++t.last[1], 9);
    t_entry_kind(&t, 1, ENTRY_TRIM, 16384, false, ++t.last[1], 9);
    t_entry_kind(&t, 1, ENTRY_ZERO, 5, false, ++t.last[1], 9);
    t_slot(&t, WAL_FUZZY, 1, 12);
    t_slot(&t, WAL_NEEDS_COPY, 1, 1);
    t_settle(&t);
    uint32_t n = t.n;
    restart(&t, SIM_POWER);
    assert_int_equal(t.n_got, n);
    restart(&t, SIM_POWER);
    assert_int_equal(t.n_got, n);
    t_free(&t);
}

static void an_entry_is_written_in_its_turn(void **state)
{
    struct wal_test t;
    t_init(&t, 2, 1024 * KIB);
    sim_config(t.world)->turn_ns = (struct sim_range){ 1, 1 };
    t_start_ok(&t);
    uint64_t writes = sim_disk_count(t.disk, SIM_WRITE), batches = stats(&t).batches;
    for (int i = 0; i < 20; i++) {
        t_entry(&t, 1, 1);
        t_turn(&t);
        assert_int_equal(sim_disk_count(t.disk, SIM_WRITE), ++writes);
        t_settle(&t);
    }
    assert_int_equal(stats(&t).batches, batches + 20);
    assert_true(stats(&t).write_ns_ewma > 0);
    t_free(&t);
}

static void no_more_than_four_in_flight_and_the_rest_in_one_batch(void **state)
{
    struct wal_test t;
    t_init(&t, 3, 4096 * KIB);
    *sim_disk_timing(t.disk) = (struct sim_disk_timing){ .write_ns = { 5 * NS_PER_MS, 5 * NS_PER_MS } };
    t_start_ok(&t);
    uint64_t batches = stats(&t).batches;
    for (unsigned i = 0; i < 20; i++) {
        t_entry(&t, 1, 1);
        sim_run_for(t.world, 100000); /* longer than a turn, shorter than a write */
        assert_int_equal(stats(&t).in_flight, i < WAL_IN_FLIGHT_MAX ? i + 1 : WAL_IN_FLIGHT_MAX);
    }
    assert_int_equal(stats(&t).batches, batches + WAL_IN_FLIGHT_MAX);
    t_settle(&t);
    assert_int_equal(stats(&t).batches, batches + WAL_IN_FLIGHT_MAX + 1);
    restart(&t, SIM_POWER);
    t_free(&t);
}

static void small_batches_wait_for_each_other_and_large_ones_do_not(void **state)
{
    struct wal_test t;
    t_init(&t, 5, 16384 * KIB);
    *sim_disk_timing(t.disk) = (struct sim_disk_timing){ .write_ns = { 5 * NS_PER_MS, 5 * NS_PER_MS } };
    t_start_ok(&t);
    wal_set_small_in_flight(t.wal, 2);
    uint64_t batches = stats(&t).batches;
    for (unsigned i = 0; i < 20; i++) {
        t_entry(&t, 1, 1);
        sim_run_for(t.world, 100000);
        assert_int_equal(stats(&t).in_flight, i < 2 ? i + 1 : 2);
    }
    t_entry(&t, 1, 64); /* with what waited it is 328 KiB */
    sim_run_for(t.world, 100000);
    assert_int_equal(stats(&t).in_flight, 3);
    t_entry(&t, 1, 1);
    sim_run_for(t.world, 100000);
    assert_int_equal(stats(&t).in_flight, 3);
    t_settle(&t);
    assert_int_equal(stats(&t).batches, batches + 4);
    restart(&t, SIM_POWER);
    t_free(&t);
}

/* on_durable comes in order although writes complete in any order (the harness asserts it); what it said is on media. */
static void durable_means_on_media_in_order(void **state)
{
    for (uint64_t seed = 1; seed <= 40; seed++) {
        struct wal_test t;
        t_init(&t, seed, 2048 * KIB);
        sim_disk_timing(t.disk)->write_ns = (struct sim_range){ 10000, 3 * NS_PER_MS };
        t_start_ok(&t);
        for (int i = 0; i < 60; i++) {
            t_entry(&t, 1 + sim_rand(t.world) % 2, 1 + sim_rand(t.world) % 4);
            sim_run_for(t.world, sim_rand(t.world) % 400000);
            if (i % 20 != 19)
                continue;
            /* Nothing of what is not durable landed: */
            uint8_t *media = malloc(t.wal_bytes);
            assert_non_null(media);
            sim_disk_peek_durable(t.disk, 0, media, t.wal_bytes);
            struct wal_test f;
            t_fork(&f, &t, media);
            t_start_ok(&f);
            t_free(&f);
            free(media);
        }
        t_free(&t);
    }
}

static void a_full_batch_is_closed_at_once_and_queues(void **state)
{
    struct wal_test t;
    t_init(&t, 4, 32768 * KIB);
    *sim_disk_timing(t.disk) = (struct sim_disk_timing){ .write_ns = { 50 * NS_PER_MS, 50 * NS_PER_MS } };
    t_start_ok(&t);
    uint64_t batches = stats(&t).batches;
    for (int i = 0; i < 11; i++)
        t_entry(&t, 1, 256); /* one to a batch: two do not fit in 2 MiB with their descriptors */
    assert_int_equal(stats(&t).in_flight, WAL_IN_FLIGHT_MAX);
    assert_int_equal(stats(&t).batches, batches + 10);
    t_settle(&t);
    assert_int_equal(stats(&t).batches, batches + 11);
    for (int i = 0; i < 2500; i++) /* more than one batch may hold */
        t_entry_kind(&t, 1, ENTRY_TRIM, 7, false, ++t.last[1], 1);
    t_settle(&t);
    struct t_batch b[32];
    uint8_t *image = t_image(&t);
    assert_int_equal(t_batches(&t, image, 0, b, 32), 1 + 11 + 3);
    free(image);
    restart(&t, SIM_POWER);
    t_free(&t);
}

/* Neighbours in one buffer go out as one piece, and come back as what they were. */
static void neighbours_share_an_iovec(void **state)
{
    struct wal_test t;
    t_init(&t, 5, 4096 * KIB);
    t_start_ok(&t);
    struct buf *big = buf_alloc_must(t.r->arena, 4 * BLOCK_SIZE);
    memset(big->data, 0x5a, 4 * BLOCK_SIZE);
    for (uint32_t i = 0; i < 4; i++) {
        struct entry *e = entry_new(t.r->arena, ENTRY_WRITE, 10 + i, 1, buf_ref(big), (i ^ (i >> 1)) * BLOCK_SIZE);
        e->group = 1;
        e->slot = i + 1;
        e->e = (struct ballot){ 1, { { 1 } } };
        big->data[(i ^ (i >> 1)) * BLOCK_SIZE] = (uint8_t)i;
        entry_crcs(e)[0] = crc32c(entry_block_data(e, 0), BLOCK_SIZE);
        wal_append_entry(t.wal, i + 1, e, false);
        entry_unref(e);
    }
    assert_int_equal(t.wal->open->n_iov, 1 + 3); /* 0, 1 are neighbours; then 3; then 2 */
    buf_unref(big);
    t_free(&t);
}

static uint64_t closed_by(struct wal_test *t, uint64_t before)
{
    uint64_t n = stats(t).batches - before;
    t_settle(t);
    return n;
}

/* What a batch may hold, so that one summary per group names it. */
static void batches_hold_one_range_and_cut_first(void **state)
{
    struct wal_test t;
    t_init(&t, 6, 4096 * KIB);
    t_start_ok(&t);
    uint64_t b = stats(&t).batches;
    t_entry_kind(&t, 1, ENTRY_TRIM, 1, false, 1, 1);
    t_entry_kind(&t, 2, ENTRY_TRIM, 1, false, 1, 5);
    t_entry_kind(&t, 1, ENTRY_TRIM, 1, false, 2, 1);
    t_promise(&t, 1, 9, 1);
    t_slot(&t, WAL_COMMIT, 2, 1);
    t_refill(&t, 0);
    assert_int_equal(closed_by(&t, b), 0);

    b = stats(&t).batches;
    t_entry_kind(&t, 1, ENTRY_TRIM, 1, false, 3, 1);
    t_entry_kind(&t, 1, ENTRY_TRIM, 1, false, 4, 2); /* another e */
    assert_int_equal(closed_by(&t, b), 1);

    b = stats(&t).batches;
    t_slot(&t, WAL_CUT, 1, 4);
    t_slot(&t, WAL_CUT, 1, 3);
    t_entry_kind(&t, 1, ENTRY_TRIM, 1, false, 3, 3);
    t_entry_kind(&t, 2, ENTRY_TRIM, 1, false, 2, 5);
    assert_int_equal(closed_by(&t, b), 0);

    b = stats(&t).batches;
    t_entry_kind(&t, 1, ENTRY_TRIM, 1, false, 4, 3);
    t_slot(&t, WAL_CUT, 1, 4); /* after an append */
    assert_int_equal(closed_by(&t, b), 1);

    b = stats(&t).batches;
    t_refill(&t, 0);
    t_slot(&t, WAL_CUT, 2, 2); /* another group */
    assert_int_equal(stats(&t).batches - b, 0);
    t_slot(&t, WAL_CUT, 1, 2); /* after a refill */
    assert_int_equal(closed_by(&t, b), 1);
    restart(&t, SIM_POWER);
    t_free(&t);
}

/* A front never grows beyond two pages: a batch that would need more is closed. */
static void fronts_are_bounded(void **state)
{
    struct wal_test t;
    t_init(&t, 7, 4096 * KIB);
    *sim_disk_timing(t.disk) = (struct sim_disk_timing){ .write_ns = { NS_PER_MS, NS_PER_MS } };
    t_start_ok(&t);
    uint64_t b = stats(&t).batches;
    for (unsigned g = 1; g <= GROUPS_MAX; g++)
        t_promise(&t, g, 5, g);
    assert_int_equal(closed_by(&t, b), 0);
    b = stats(&t).batches;
    for (unsigned g = 1; g <= GROUPS_MAX; g++)
        t_group(&t, g, 100 + g);
    assert_true(closed_by(&t, b) >= 2);
    for (uint64_t s = 1; s <= 400; s++)
        t_entry_kind(&t, 1, ENTRY_TRIM, 1, false, s, 1);
    uint32_t first = t.n - 400;
    t_settle(&t);
    b = stats(&t).batches;
    for (uint32_t i = 0; i < 400; i += 2) /* no two in a row: a run each */
        t_refill(&t, first + i);
    assert_true(closed_by(&t, b) >= 2);
    restart(&t, SIM_POWER);
    t_free(&t);
}

static void room_counts_and_keeps_a_reserve(void **state)
{
    struct wal_test t;
    t_init(&t, 8, 2048 * KIB);
    t_start_ok(&t);
    uint64_t room = wal_room(t.wal);
    t_entry(&t, 1, 3);
    assert_true(wal_room(t.wal) <= room - 3 * BLOCK_SIZE);
    while (wal_room(t.wal) > 0) {
        uint64_t before = wal_room(t.wal);
        t_entry(&t, 1, 1 + (uint32_t)(sim_rand(t.world) % 10));
        uint64_t cost = entry_payload_bytes(&(struct entry){ .kind = ENTRY_WRITE, .nblocks = t.rec[t.n - 1].blocks });
        assert_true(before - wal_room(t.wal) <= cost + WAL_ENTRY_OVERHEAD);
        if (sim_rand(t.world) % 3 == 0)
            t_settle(&t);
    }
    /* The reserve (1/4 of so small a ring) takes everything else, among it the START batches of many restarts. */
    for (int i = 0; i < 10; i++) {
        t_promise(&t, 1, 10 + (uint64_t)i, 1);
        t_slot(&t, WAL_COMMIT, 1, 1);
        t_refill(&t, t.first);
        t_settle(&t);
        restart(&t, SIM_POWER);
        assert_int_equal(wal_room(t.wal), 0);
    }
    uint32_t cut = t_cut_position(&t);
    t_settle(&t);
    t_trim(&t, cut);
    assert_true(wal_room(t.wal) > t.wal_bytes / 2);
    restart(&t, SIM_POWER);
    assert_int_equal(t.n_got, 0);
    t_free(&t);
}

static unsigned count_pads(struct wal_test *t)
{
    uint8_t *image = t_image(t);
    struct t_batch b[200];
    unsigned pads = 0;
    for (uint32_t n = t_batches(t, image, t->root.tail_lsn, b, 200); n > 0; n--)
        pads += (b[n - 1].flags & WAL_PAD) != 0;
    free(image);
    return pads;
}

static void the_ring_goes_round(void **state)
{
    struct wal_test t;
    t_init(&t, 9, 512 * KIB);
    t_start_ok(&t);
    unsigned pads = 0;
    uint64_t tail_moves = 0;
    for (int i = 0; stats(&t).head_lsn < 40 * t.wal_bytes; i++) {
        if (wal_room(t.wal) > 20 * BLOCK_SIZE) {
            t_random(&t, 9);
            if (sim_rand(t.world) % 4 == 0)
                sim_run_for(t.world, sim_rand(t.world) % 300000);
        } else {
            uint32_t cut = t_cut_position(&t);
            t_settle(&t);
            pads += count_pads(&t);
            t_trim(&t, (uint32_t)(sim_rand(t.world) % (cut + 1)));
            tail_moves++;
        }
        assert_true(stats(&t).head_lsn % t.wal_bytes != t.wal_bytes - BLOCK_SIZE);
        if (sim_rand(t.world) % 50 == 0)
            t_cut_position(&t);
        if (sim_rand(t.world) % 200 == 0) {
            if (sim_rand(t.world) & 1)
                t_settle(&t);
            restart(&t, sim_rand(t.world) & 1 ? SIM_POWER : SIM_KILL);
        }
    }
    assert_true(pads > 5 && tail_moves > 40);
    t_free(&t);
}

static void positions_are_kept_for_every_batch(void **state)
{
    struct wal_test t;
    t_init(&t, 10, 1024 * KIB);
    t_start_ok(&t);
    for (int i = 0; i < 40; i++) {
        t_random(&t, 3);
        t_settle(&t);
    }
    struct wal_position head = wal_cut_position(t.wal), same = wal_cut_position(t.wal);
    assert_memory_equal(&head, &same, sizeof head);
    assert_int_equal(head.lsn, wal_head_lsn(t.wal));
    uint8_t *image = t_image(&t);
    struct t_batch b[200];
    uint32_t n = t_batches(&t, image, 0, b, 200);
    assert_int_equal(b[n - 1].seq + 1, head.seq);
    for (int again = 0; again < 2; again++) {
        for (uint32_t i = 0; i < n; i++) {
            struct wal_position p = wal_position_at(t.wal, b[i].lsn), after = wal_position_at(t.wal, b[i].lsn + 1);
            assert_int_equal(p.lsn, b[i].lsn);
            assert_int_equal(p.seq, b[i].seq);
            assert_int_equal(after.lsn, b[i].lsn + b[i].bytes);
            assert_int_equal(after.prev_lsn, b[i].lsn);
            assert_int_equal(after.prev_crc, ((const struct wal_batch *)(const void *)(image + b[i].lsn))->crc);
        }
        restart(&t, SIM_KILL); /* found again by the scan */
    }
    free(image);
    t_free(&t);
}

/* ---- reading again ---- */

static void entries_are_read_again(void **state)
{
    struct wal_test t;
    t_init(&t, 11, 1024 * KIB);
    t_start_ok(&t);
    for (int i = 0; i < 120; i++) {
        t_random(&t, 5);
        if (i % 5 == 0)
            sim_run_for(t.world, 100000);
    }
    t_settle(&t);
    for (int again = 0; again < 2; again++) {
        for (uint32_t i = 0; i < t.n; i++)
            if (t.rec[i].type == WAL_ENTRY)
                t_read(&t, i);
        restart(&t, SIM_POWER); /* and by the places that recovery tells */
    }
    t_free(&t);
}

struct answer {
    int err;
    unsigned n;
};

static void count_answer(void *user, struct entry *e, int err)
{
    struct answer *a = user;
    a->n++;
    a->err = err;
    entry_unref(e);
}

static int read_now(struct wal_test *t, struct wal_place place)
{
    struct answer a = { 0 };
    wal_read_entry(t->wal, place, count_answer, &a);
    sim_run_for(t->world, NS_PER_S);
    assert_int_equal(a.n, 1);
    return a.err;
}

static void reading_finds_what_is_wrong(void **state)
{
    struct wal_test t;
    t_init(&t, 12, 1024 * KIB);
    t_start_ok(&t);
    for (int i = 0; i < 6; i++) {
        t_entry(&t, 1, 2);
        t_settle(&t);
    }
    struct wal_place p = t.rec[0].place;
    assert_int_equal(read_now(&t, p), 0);
    assert_int_equal(read_now(&t, (struct wal_place){ p.desc_lsn + 8, p.payload_lsn }), -EBADMSG);
    assert_int_equal(read_now(&t, (struct wal_place){ p.desc_lsn, p.payload_lsn + BLOCK_SIZE }), -EBADMSG);
    assert_int_equal(read_now(&t, (struct wal_place){ p.desc_lsn, t.rec[1].place.payload_lsn }), -EBADMSG);
    sim_disk_flip(t.disk, p.payload_lsn + BLOCK_SIZE + 77, 3);
    assert_int_equal(read_now(&t, p), -EBADMSG);
    assert_int_equal(read_now(&t, t.rec[1].place), 0);
    sim_disk_flip(t.disk, t.rec[1].place.desc_lsn + 2000, 3); /* not the record itself: but its descriptors' CRC says so */
    assert_int_equal(read_now(&t, t.rec[1].place), -EBADMSG);
    sim_disk_spoil(t.disk, t.rec[2].place.payload_lsn, BLOCK_SIZE);
    assert_int_equal(read_now(&t, t.rec[2].place), -EIO);

    uint32_t cut = t_cut_position(&t);
    struct answer under_way = { 0 };
    wal_read_entry(t.wal, t.rec[4].place, count_answer, &under_way);
    t_trim(&t, cut); /* while it is being read */
    sim_run_for(t.world, NS_PER_S);
    assert_int_equal(under_way.n, 1);
    assert_int_equal(under_way.err, -ESTALE);
    assert_int_equal(read_now(&t, t.rec[4].place), -ESTALE);
    t_free(&t);
}

static void reading_fails_when_memory_is_short(void **state)
{
    struct wal_test t;
    t_init(&t, 13, 1024 * KIB);
    t_start_ok(&t);
    t_entry(&t, 1, 4);
    t_settle(&t);
    struct buf *hog[1024];
    unsigned n = 0;
    while (n < 1024 && (hog[n] = buf_alloc(t.r->arena, 2u << 20)))
        n++;
    while (n < 1024 && (hog[n] = buf_alloc(t.r->arena, 256)))
        n++;
    if (n < 1024)
        assert_int_equal(read_now(&t, t.rec[0].place), -ENOMEM);
    while (n > 0)
        buf_unref(hog[--n]);
    assert_int_equal(read_now(&t, t.rec[0].place), 0);
    t_free(&t);
}

/* The simulated disk asserts that no write overlaps a read: a slow reader makes the ring wait. */
static void writes_wait_for_slow_readers(void **state)
{
    struct wal_test t;
    t_init(&t, 14, 512 * KIB);
    t_start_ok(&t);
    sim_disk_timing(t.disk)->read_ns = (struct sim_range){ 500 * NS_PER_MS, 500 * NS_PER_MS };
    t_entry(&t, 1, 8);
    t_settle(&t);
    struct answer a = { 0 };
    wal_read_entry(t.wal, t.rec[0].place, count_answer, &a);
    t_turn(&t);
    for (int i = 0; i < 400 && stats(&t).head_lsn < 3 * t.wal_bytes / 2; i++) {
        t_entry(&t, 1, 4);
        if (wal_room(t.wal) < 20 * BLOCK_SIZE && a.n == 0) {
            uint32_t cut = t_cut_position(&t);
            sim_run_for(t.world, 20 * NS_PER_MS);
            if (t.durable == t.n)
                t_trim(&t, cut);
        } else if (wal_room(t.wal) < 20 * BLOCK_SIZE) {
            uint32_t cut = t_cut_position(&t);
            t_settle(&t);
            t_trim(&t, cut);
        }
    }
    t_settle(&t);
    assert_int_equal(a.n, 1);
    assert_int_equal(a.err, -ESTALE);
    assert_true(stats(&t).head_lsn > t.wal_bytes);
    t_free(&t);
}

/* ---- errors ---- */

static void a_write_error_is_told_once_and_ends_it(void **state)
{
    for (uint32_t nth = 0; nth < 4; nth++) {
        struct wal_test t;
        t_init(&t, 15, 1024 * KIB);
        sim_config(t.world)->turn_ns = (struct sim_range){ 1, 1 };
        t_start_ok(&t);
        t_entry(&t, 1, 1);
        t_settle(&t);
        uint64_t durable = t.durable;
        sim_disk_fail(t.disk, SIM_WRITE, nth, UINT32_MAX, EIO);
        for (int i = 0; i < 4; i++) {
            t_entry(&t, 1, 1);
            t_turn(&t);
        }
        sim_run_for(t.world, NS_PER_S);
        assert_int_equal(t.errors, 1);
        assert_true(t.durable <= durable + nth);
        t_promise(&t, 1, 100, 1); /* ignored */
        assert_int_equal(wal_room(t.wal), 0);
        sim_run_for(t.world, NS_PER_S);
        assert_int_equal(t.errors, 1);
        sim_disk_fail(t.disk, SIM_WRITE, 0, 0, EIO);
        restart(&t, SIM_KILL);
        t_free(&t);
    }
}

static void errors_in_recovery_are_told_with_a_sentence(void **state)
{
    static const struct {
        enum sim_io kind;
        const char *says;
    } fault[] = { { SIM_READ, "reading the WAL" }, { SIM_FLUSH, "flushing the WAL" }, { SIM_WRITE, "START batch" } };
    for (unsigned i = 0; i < 3; i++) {
        struct wal_test t;
        t_init(&t, 16, 1024 * KIB);
        t_start_ok(&t);
        t_entry(&t, 1, 1);
        t_settle(&t);
        t_crash(&t, SIM_KILL);
        sim_disk_fail(t.disk, fault[i].kind, 0, 1, EIO);
        assert_int_equal(t_start(&t), -EIO);
        assert_non_null(strstr(t.why, fault[i].says));
        assert_int_equal(t.errors, 0);
        t_crash(&t, SIM_KILL);
        t_start_ok(&t);
        t_free(&t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(begins_empty_and_comes_back),
        cmocka_unit_test(an_entry_is_written_in_its_turn),
        cmocka_unit_test(no_more_than_four_in_flight_and_the_rest_in_one_batch),
        cmocka_unit_test(small_batches_wait_for_each_other_and_large_ones_do_not),
        cmocka_unit_test(durable_means_on_media_in_order),
        cmocka_unit_test(a_full_batch_is_closed_at_once_and_queues),
        cmocka_unit_test(neighbours_share_an_iovec),
        cmocka_unit_test(batches_hold_one_range_and_cut_first),
        cmocka_unit_test(fronts_are_bounded),
        cmocka_unit_test(room_counts_and_keeps_a_reserve),
        cmocka_unit_test(the_ring_goes_round),
        cmocka_unit_test(positions_are_kept_for_every_batch),
        cmocka_unit_test(entries_are_read_again),
        cmocka_unit_test(reading_finds_what_is_wrong),
        cmocka_unit_test(reading_fails_when_memory_is_short),
        cmocka_unit_test(writes_wait_for_slow_readers),
        cmocka_unit_test(a_write_error_is_told_once_and_ends_it),
        cmocka_unit_test(errors_in_recovery_are_told_with_a_sentence),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
