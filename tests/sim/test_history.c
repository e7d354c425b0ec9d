/* The linearizability checker against hand-written histories: what must pass, and what must not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/sim/cluster/history.h"

static void read_one(struct history *h, uint64_t began, uint64_t now, uint32_t session, uint64_t value)
{
    history_read(h, began, now, session, 0, 1, &value);
}

static uint32_t write_one(struct history *h, uint64_t began, uint64_t answered, uint32_t session, bool zero)
{
    uint32_t w = history_write(h, began, session, 0, 1, zero);
    if (answered)
        history_written(h, answered, w);
    return w;
}

static void passes(struct history *h)
{
    const char *wrong = history_check(h);
    if (wrong)
        print_error("%s\n", wrong);
    assert_null(wrong);
    history_free(h);
}

static void fails(struct history *h)
{
    assert_non_null(history_check(h));
    history_free(h);
}

static void test_read_your_write(void **state)
{
    struct history *h = history_new(1);
    read_one(h, 1, 2, 1, 0);
    uint32_t w = write_one(h, 3, 4, 1, false);
    read_one(h, 5, 6, 1, w);
    passes(h);
}

static void test_concurrent_read_may_see_either(void **state)
{
    struct history *h = history_new(1);
    uint32_t w = write_one(h, 10, 20, 1, false);
    read_one(h, 11, 12, 1, 0);
    read_one(h, 13, 14, 1, w);
    passes(h);
}

static void test_lost_write(void **state)
{
    struct history *h = history_new(1);
    uint32_t a = write_one(h, 1, 2, 1, false);
    write_one(h, 3, 4, 1, false);
    read_one(h, 5, 6, 1, a);
    fails(h);
}

static void test_lost_write_reads_zeroes(void **state)
{
    struct history *h = history_new(1);
    write_one(h, 3, 4, 1, false);
    read_one(h, 5, 6, 1, 0);
    fails(h);
}

static void test_zeroes_after_a_zeroing(void **state)
{
    struct history *h = history_new(1);
    write_one(h, 3, 4, 1, false);
    write_one(h, 5, 6, 1, true);
    read_one(h, 7, 8, 1, 0);
    passes(h);
}

static void test_new_then_old(void **state)
{
    /* Both reads are concurrent with the write, but the later one goes back. */
    struct history *h = history_new(1);
    uint32_t a = write_one(h, 1, 2, 1, false);
    uint32_t b = write_one(h, 10, 40, 1, false);
    read_one(h, 11, 12, 1, b);
    read_one(h, 13, 14, 1, a);
    fails(h);
}

static void test_never_written(void **state)
{
    struct history *h = history_new(1);
    read_one(h, 1, 2, 1, 7);
    fails(h);
}

static void test_unanswered_may_or_may_not_happen(void **state)
{
    struct history *h = history_new(1);
    uint32_t a = write_one(h, 1, 2, 1, false);
    uint32_t b = write_one(h, 3, 0, 1, false);
    read_one(h, 5, 6, 1, a);
    read_one(h, 7, 8, 1, b); /* it happened late, in its own session */
    passes(h);
}

static void test_ghost(void **state)
{
    /* Session 1 dies with b unanswered; session 2 overwrites; then b appears. Without the end of the session that would be a late write. */
    struct history *h = history_new(1);
    uint32_t b = write_one(h, 3, 0, 1, false);
    history_session_ended(h, 1);
    uint32_t c = write_one(h, 10, 11, 2, false);
    read_one(h, 12, 13, 2, c);
    read_one(h, 20, 21, 2, b);
    fails(h);
}

static void test_ghost_that_nobody_overwrote_by_a_read_first(void **state)
{
    struct history *h = history_new(1);
    uint32_t b = write_one(h, 3, 0, 1, false);
    history_session_ended(h, 1);
    write_one(h, 10, 11, 2, false);
    read_one(h, 20, 21, 2, b);
    fails(h);
}

static void test_dead_sessions_write_seen_by_successor(void **state)
{
    struct history *h = history_new(1);
    uint32_t b = write_one(h, 3, 0, 1, false);
    history_session_ended(h, 1);
    read_one(h, 10, 11, 2, b);
    passes(h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_read_your_write),
        cmocka_unit_test(test_concurrent_read_may_see_either),
        cmocka_unit_test(test_lost_write),
        cmocka_unit_test(test_lost_write_reads_zeroes),
        cmocka_unit_test(test_zeroes_after_a_zeroing),
        cmocka_unit_test(test_new_then_old),
        cmocka_unit_test(test_never_written),
        cmocka_unit_test(test_unanswered_may_or_may_not_happen),
        cmocka_unit_test(test_ghost),
        cmocka_unit_test(test_ghost_that_nobody_overwrote_by_a_read_first),
        cmocka_unit_test(test_dead_sessions_write_seen_by_successor),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
