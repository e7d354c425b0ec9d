/* The journal and the stamps of qbd bench --verify: what a block may look like after which history, and that every kind
 * of wrong content is told. */
#include "tools/bench_journal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define RUN UINT64_C(0x1234)
#define OFFSET (UINT64_C(1) << 20)
#define PLACE UINT64_C(8192) /* block_bytes: two blocks */

static char dir[64], path[96];
static struct journal j;
static uint8_t block[BLOCK_SIZE];

static int set_up(void **state)
{
    strcpy(dir, "/tmp/qbd-journal-XXXXXX");
    if (!mkdtemp(dir))
        return -1;
    snprintf(path, sizeof path, "%s/j", dir);
    struct why why;
    struct journal_header h = {.run = RUN,
                               .volume_bytes = UINT64_C(1) << 30,
                               .offset = OFFSET,
                               .block_bytes = PLACE,
                               .n_positions = 100,
                               .uri = "nbd://x"};
    return journal_create(&j, path, &h, &why);
}

static int tear_down(void **state)
{
    journal_close(&j);
    unlink(path);
    return rmdir(dir);
}

static uint64_t address(uint64_t position)
{
    return OFFSET + position * PLACE;
}

static bool allows(uint64_t position)
{
    char text[256] = "";
    struct stamp_read s = stamp_look(block, RUN, address(position));
    bool good = journal_allows(&j, position, &s, text, sizeof text);
    assert_true(good == (text[0] == '\0'));
    return good;
}

static bool allows_write(uint64_t position, uint64_t seq)
{
    stamp_fill(block, RUN, address(position), seq);
    return allows(position);
}

static void test_stamps(void **state)
{
    stamp_fill(block, RUN, 40960, 7);
    struct stamp_read s = stamp_look(block, RUN, 40960);
    assert_int_equal(s.kind, STAMP_OF_RUN);
    assert_int_equal(s.seq, 7);
    assert_int_equal(stamp_look(block, RUN, 45056).kind, STAMP_MISPLACED);
    assert_int_equal(stamp_look(block, RUN + 1, 40960).kind, STAMP_OTHER_RUN);
    for (unsigned bit = 0; bit < BLOCK_SIZE * 8; bit += 61) { /* no bit can turn over unnoticed */
        block[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_int_equal(stamp_look(block, RUN, 40960).kind, STAMP_NONE);
        block[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    memset(block, 0, sizeof block);
    assert_int_equal(stamp_look(block, RUN, 0).kind, STAMP_ZEROES);
    block[4095] = 1;
    assert_int_equal(stamp_look(block, RUN, 0).kind, STAMP_NONE);
}

static void test_torn_block(void **state)
{
    uint8_t old[BLOCK_SIZE];
    stamp_fill(old, RUN, address(3), 1);
    stamp_fill(block, RUN, address(3), 2);
    memcpy(block + 512, old + 512, BLOCK_SIZE - 512);
    assert_int_equal(stamp_look(block, RUN, address(3)).kind, STAMP_NONE);
}

static void test_never_written(void **state)
{
    memset(block, 0, sizeof block);
    assert_true(allows(5));
    memset(block, 0x5a, sizeof block);
    assert_true(allows(5)); /* what was there before the run */
    stamp_fill(block, RUN + 1, address(5), 9);
    assert_true(allows(5));
    assert_false(allows_write(5, 1)); /* a write of this run that nobody sent there */
    stamp_fill(block, RUN, address(6), 1);
    assert_false(allows(5)); /* ... or that went astray */
}

static void test_unanswered_first_write(void **state)
{
    uint64_t seq = journal_issue(&j, 5);
    assert_false(journal_is_settled(&j, 5));
    memset(block, 0, sizeof block);
    assert_true(allows(5));
    assert_true(allows_write(5, seq));
    assert_false(allows_write(5, seq + 1));
}

static void test_acknowledged(void **state)
{
    uint64_t first = journal_issue(&j, 5);
    journal_ack(&j, 5);
    assert_true(journal_is_settled(&j, 5));
    assert_int_equal(j.h->acked, 1);
    assert_true(allows_write(5, first));
    memset(block, 0, sizeof block);
    assert_false(allows(5)); /* lost */
    memset(block, 0x5a, sizeof block);
    assert_false(allows(5));
    stamp_fill(block, RUN + 1, address(5), first);
    assert_false(allows(5));
    stamp_fill(block, RUN, address(6), first);
    assert_false(allows(5));
    uint64_t second = journal_issue(&j, 5);
    assert_true(second > first);
    assert_true(allows_write(5, first)); /* the second one is under way: either */
    assert_true(allows_write(5, second));
    journal_ack(&j, 5);
    assert_false(allows_write(5, first)); /* an acknowledged write was undone */
    assert_true(allows_write(5, second));
}

static void test_only_the_last_two(void **state)
{
    uint64_t seq[3];
    for (unsigned i = 0; i < 3; i++) {
        seq[i] = journal_issue(&j, 9);
        if (i < 2)
            journal_ack(&j, 9);
    }
    assert_false(allows_write(9, seq[0]));
    assert_true(allows_write(9, seq[1]));
    assert_true(allows_write(9, seq[2]));
}

static void test_a_machine_that_went_down(void **state)
{
    uint64_t seq = journal_issue(&j, 5);
    journal_ack(&j, 5);
    assert_false(allows_write(5, seq + 3));
    j.same_boot = false; /* the journal may lack its newest entries; it never has too many */
    assert_true(allows_write(5, seq + 3));
    assert_true(allows_write(5, seq));
    assert_false(allows_write(5, seq - 1));
    memset(block, 0, sizeof block);
    assert_false(allows(5));
}

static void test_opening_again(void **state)
{
    struct why why;
    struct journal again;
    uint64_t seq = journal_issue(&j, 7);
    journal_ack(&j, 7);
    assert_int_equal(journal_open(&again, path, &why), 0);
    assert_true(again.same_boot);
    assert_int_equal(again.entry[7].acked, seq);
    assert_int_equal(again.h->acked, 1);
    journal_close(&again);
    struct journal_header h = *j.h;
    assert_int_equal(journal_create(&again, path, &h, &why), -1); /* an earlier run's proof is never overwritten */
    assert_non_null(strstr(why.text, "exists"));
}

static void test_what_is_no_journal(void **state)
{
    struct why why;
    struct journal bad;
    char other[96];
    struct {
        size_t at, len;
        uint64_t value;
    } damage[] = {{0, 1, 'x'}, {8, 4, 2},    {40, 8, 0},          {40, 8, 4095},
                  {48, 8, 0},  {48, 8, 101}, {48, 8, UINT64_MAX}, {32, 8, UINT64_MAX - 4095}};
    snprintf(other, sizeof other, "%s/other", dir);
    for (unsigned i = 0; i <= ARRAY_LEN(damage); i++) {
        FILE *f = fopen(other, "w");
        assert_non_null(f);
        assert_int_equal(fwrite(j.h, 1, j.map_bytes, f), j.map_bytes);
        if (i < ARRAY_LEN(damage)) {
            assert_int_equal(fseek(f, (long)damage[i].at, SEEK_SET), 0);
            assert_int_equal(fwrite(&damage[i].value, 1, damage[i].len, f), damage[i].len);
        }
        assert_int_equal(fclose(f), 0);
        if (i == ARRAY_LEN(damage)) /* cut short */
            assert_int_equal(truncate(other, (off_t)j.map_bytes - 1), 0);
        assert_int_equal(journal_open(&bad, other, &why), -1);
        assert_non_null(strstr(why.text, "no journal"));
        unlink(other);
    }
    assert_int_equal(journal_open(&bad, other, &why), -1);
    assert_non_null(strstr(why.text, "cannot open"));
}

#define WITH_JOURNAL(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stamps),
        cmocka_unit_test(test_torn_block),
        WITH_JOURNAL(test_never_written),
        WITH_JOURNAL(test_unanswered_first_write),
        WITH_JOURNAL(test_acknowledged),
        WITH_JOURNAL(test_only_the_last_two),
        WITH_JOURNAL(test_a_machine_that_went_down),
        WITH_JOURNAL(test_opening_again),
        WITH_JOURNAL(test_what_is_no_journal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
