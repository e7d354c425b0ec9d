/* Clients' small reads go through the host's page cache; the disk's word counts, and whoever looks for damage asks only the disk. */
#include "tests/unit/store_harness.h"

#include <errno.h>

/* Five blocks and sixty, on disk; the process is stopped. */
static void with_data(struct store_test *t, bool direct)
{
    t_init(t, 1);
    t_format(t);
    t->options.direct_reads = direct;
    t_start_ok(t);
    t_create(t, 2048);
    t_append(t, 0, ENTRY_WRITE, 100, 5);
    t_append(t, 0, ENTRY_WRITE, 1000, 60);
    t_commit_all(t);
    t_stop(t);
    assert_int_equal(t_start(t), 0);
}

static int read_as(struct store_test *t, bool client, uint64_t block, uint32_t n)
{
    struct store_read r;
    t->reads_for_client = client;
    t_read_now(t, 0, block, n, &r);
    buf_unref(r.buf);
    return r.err;
}

static void rot(struct store_test *t, uint64_t block)
{
    uint64_t off;
    struct sim_disk *d = t_find_data(t, 0, block, &off);
    sim_disk_flip(d, off + 77, 3);
}

static void a_client_need_not_wait_for_the_disk_and_a_scrub_does(void **state)
{
    struct store_test t;
    with_data(&t, false);
    assert_int_equal(read_as(&t, true, 100, 5), 0);
    rot(&t, 102);
    assert_int_equal(read_as(&t, true, 100, 5), 0);
    assert_int_equal(t.bad_reported, 0);
    assert_int_equal(read_as(&t, false, 100, 5), -EBADMSG);
    assert_int_equal(t.bad_reported, 1);
    t_stop(&t);
    t_free(&t);
}

/* The page behind one that is read comes along, unseen. */
static void what_does_not_fit_in_the_cache_is_read_from_the_disk(void **state)
{
    struct store_test t;
    with_data(&t, false);
    rot(&t, 102);
    assert_int_equal(read_as(&t, true, 101, 1), 0);
    rot(&t, 102); /* the same bit: the disk is as it was */
    assert_int_equal(read_as(&t, true, 102, 1), 0);
    assert_int_equal(read_as(&t, true, 100, 5), 0);
    assert_int_equal(t.bad_reported, 0);
    rot(&t, 102);
    assert_int_equal(read_as(&t, true, 102, 1), -EBADMSG);
    assert_int_equal(t.bad_reported, 1);
    t_stop(&t);
    t_free(&t);
}

static void one_unreadable_block_is_found_among_its_neighbours(void **state)
{
    struct store_test t;
    with_data(&t, false);
    uint64_t off;
    struct sim_disk *d = t_find_data(&t, 0, 1003, &off);
    sim_disk_spoil(d, off, BLOCK_SIZE);
    struct store_read r;
    t.reads_for_client = true;
    t_read_now(&t, 0, 1000, 16, &r);
    assert_int_equal(r.err, -EBADMSG);
    assert_int_equal(r.bad[0], 1u << 3);
    buf_unref(r.buf);
    t_stop(&t);
    t_free(&t);
}

static void long_reads_and_those_of_a_direct_store_bypass_the_cache(void **state)
{
    for (unsigned direct = 0; direct < 2; direct++) {
        struct store_test t;
        with_data(&t, direct);
        uint32_t n = direct ? 4 : 60;
        assert_int_equal(read_as(&t, true, 1000, n), 0);
        rot(&t, 1002);
        assert_int_equal(read_as(&t, true, 1000, n), -EBADMSG);
        t_stop(&t);
        t_free(&t);
    }
}

/* Overwritten, written back, and read again, block by block: never the old contents, whatever the cache kept. */
static void a_written_block_is_read_as_it_was_written(void **state)
{
    struct store_test t;
    with_data(&t, false);
    for (unsigned round = 0; round < 40; round++) {
        for (uint64_t block = 1000; block < 1060; block++)
            assert_int_equal(read_as(&t, true, block, 1), 0);
        t_append(&t, 0, ENTRY_WRITE, 1000 + round % 50, 1 + round % 10);
        t_commit_all(&t);
        t_stop(&t);
        assert_int_equal(t_start(&t), 0);
    }
    assert_int_equal(t.bad_reported, 0);
    t_stop(&t);
    t_free(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_client_need_not_wait_for_the_disk_and_a_scrub_does),
        cmocka_unit_test(what_does_not_fit_in_the_cache_is_read_from_the_disk),
        cmocka_unit_test(one_unreadable_block_is_found_among_its_neighbours),
        cmocka_unit_test(long_reads_and_those_of_a_direct_store_bypass_the_cache),
        cmocka_unit_test(a_written_block_is_read_as_it_was_written),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
