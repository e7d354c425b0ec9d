/* The linearizability checker against hand-written histories: what must pass, and what must not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/sim/cluster/history.h"

static struct history *one_cell(void)
{
    struct history *h = history_new(1);
    history_session(h, 0, 1, &(struct ballot){.round = 1});
    return h;
}

static void serves(struct history *h, uint64_t now, uint32_t session, uint64_t round)
{
    history_session(h, now, session, &(struct ballot){.round = round});
}

static void read_one(struct history *h, uint64_t began, uint64_t now, uint32_t session, uint32_t value)
{
    history_read(h, began, now, session, 0, 1, &value);
}

/* answered 0: never */
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
    struct history *h = one_cell();
    read_one(h, 1, 2, 1, 0);
    uint32_t w = write_one(h, 3, 4, 1, false);
    read_one(h, 5, 6, 1, w);
    passes(h);
}

static void test_concurrent_read_may_see_either(void **state)
{
    struct history *h = one_cell();
    uint32_t w = write_one(h, 10, 20, 1, false);
    read_one(h, 11, 12, 1, 0);
    read_one(h, 13, 14, 1, w);
    passes(h);
}

static void test_lost_write(void **state)
{
    struct history *h = one_cell();
    uint32_t a = write_one(h, 1, 2, 1, false);
    write_one(h, 3, 4, 1, false);
    read_one(h, 5, 6, 1, a);
    fails(h);
}

static void test_lost_write_reads_zeroes(void **state)
{
    struct history *h = one_cell();
    write_one(h, 3, 4, 1, false);
    read_one(h, 5, 6, 1, 0);
    fails(h);
}

static void test_zeroes_after_a_zeroing(void **state)
{
    struct history *h = one_cell();
    write_one(h, 3, 4, 1, false);
    write_one(h, 5, 6, 1, true);
    read_one(h, 7, 8, 1, 0);
    passes(h);
}

static void test_zeroing_lost(void **state)
{
    struct history *h = one_cell();
    uint32_t a = write_one(h, 3, 4, 1, false);
    write_one(h, 5, 6, 1, true);
    read_one(h, 7, 8, 1, a);
    fails(h);
}

static void test_new_then_old(void **state)
{
    /* Both reads are concurrent with the write, but the later one goes back. */
    struct history *h = one_cell();
    uint32_t a = write_one(h, 1, 2, 1, false);
    uint32_t b = write_one(h, 10, 40, 1, false);
    read_one(h, 11, 12, 1, b);
    read_one(h, 13, 14, 1, a);
    fails(h);
}

static void test_never_written(void **state)
{
    struct history *h = one_cell();
    read_one(h, 1, 2, 1, 7);
    fails(h);
}

static void test_seen_before_it_was_written(void **state)
{
    struct history *h = one_cell();
    read_one(h, 1, 2, 1, 1);
    assert_int_equal(write_one(h, 5, 6, 1, false), 1);
    fails(h);
}

static void test_unanswered_may_or_may_not_happen(void **state)
{
    struct history *h = one_cell();
    uint32_t a = write_one(h, 1, 2, 1, false);
    uint32_t b = write_one(h, 3, 0, 1, false);
    read_one(h, 5, 6, 1, a);
    read_one(h, 7, 8, 1, b); /* it happened late, in its own session */
    passes(h);
}

static void test_refused_has_no_effect(void **state)
{
    struct history *h = one_cell();
    uint32_t a = write_one(h, 1, 2, 1, false), b = write_one(h, 3, 0, 1, false);
    history_refused(h, b);
    read_one(h, 5, 6, 1, a);
    passes(h);

    h = one_cell();
    b = write_one(h, 3, 0, 1, false);
    history_refused(h, b);
    read_one(h, 5, 6, 1, b);
    fails(h);
}

static void test_ghost(void **state)
{
    /* Session 1 dies with b unanswered; session 2 overwrites; then b appears. */
    struct history *h = one_cell();
    uint32_t b = write_one(h, 3, 0, 1, false);
    serves(h, 9, 2, 2);
    uint32_t c = write_one(h, 10, 11, 2, false);
    read_one(h, 12, 13, 2, c);
    read_one(h, 20, 21, 2, b);
    fails(h);
}

static void test_ghost_that_no_read_came_before(void **state)
{
    struct history *h = one_cell();
    uint32_t b = write_one(h, 3, 0, 1, false);
    serves(h, 9, 2, 2);
    write_one(h, 10, 11, 2, false);
    read_one(h, 20, 21, 2, b);
    fails(h);
}

static void test_ghost_after_a_read_of_nothing(void **state)
{
    /* Nobody overwrote it: the successor's first read has decided that it never was. */
    struct history *h = one_cell();
    uint32_t b = write_one(h, 3, 0, 1, false);
    serves(h, 9, 2, 2);
    read_one(h, 10, 11, 2, 0);
    read_one(h, 20, 21, 2, b);
    fails(h);
}

static void test_dead_sessions_write_seen_by_successor(void **state)
{
    struct history *h = one_cell();
    uint32_t b = write_one(h, 3, 0, 1, false);
    serves(h, 9, 2, 2);
    read_one(h, 10, 11, 2, b);
    read_one(h, 20, 21, 2, b);
    passes(h);
}

static void test_write_after_the_end_of_its_session(void **state)
{
    struct history *h = one_cell();
    serves(h, 9, 2, 2);
    write_one(h, 10, 11, 1, false);
    fails(h);
}

static void test_read_after_the_end_of_its_session(void **state)
{
    struct history *h = one_cell();
    serves(h, 9, 2, 2);
    read_one(h, 10, 11, 1, 0);
    fails(h);
}

static void test_answers_may_arrive_after_the_end(void **state)
{
    struct history *h = one_cell();
    uint32_t a = write_one(h, 1, 20, 1, false);
    read_one(h, 2, 30, 1, 0);
    serves(h, 9, 2, 2);
    read_one(h, 10, 11, 2, a);
    passes(h);
}

static void test_stale_read_of_a_front_end_that_is_over(void **state)
{
    /* The read began while session 1 was alive, so it may have any value of that time, but not one from before a write answered before. */
    struct history *h = one_cell();
    uint32_t a = write_one(h, 1, 2, 1, false);
    serves(h, 9, 2, 2);
    uint32_t b = write_one(h, 10, 11, 2, false);
    read_one(h, 5, 30, 1, a);
    read_one(h, 12, 13, 2, b);
    passes(h);

    h = one_cell();
    a = write_one(h, 1, 2, 1, false);
    serves(h, 9, 2, 2);
    b = write_one(h, 10, 11, 2, false);
    read_one(h, 5, 30, 1, b); /* it saw what was written after its session was over */
    fails(h);
}

static void test_sessions_are_ordered_by_ballot(void **state)
{
    /* Session 2, of a lower ballot, heard late that it had its quorum: it is over before it begins, and bounds nobody. */
    struct history *h = one_cell();
    serves(h, 9, 2, 5);
    uint32_t b = write_one(h, 10, 0, 2, false);
    serves(h, 12, 3, 4);
    write_one(h, 13, 0, 3, false); /* never answered, never seen */
    write_one(h, 20, 0, 2, false);
    read_one(h, 30, 31, 2, b);
    passes(h);

    h = one_cell();
    serves(h, 9, 2, 5);
    serves(h, 12, 3, 4);
    uint32_t c = write_one(h, 13, 0, 3, false);
    read_one(h, 30, 31, 2, c);
    fails(h);
}

static void test_cells_are_checked_one_by_one(void **state)
{
    struct history *h = history_new(4);
    serves(h, 0, 1, 1);
    uint32_t a = history_write(h, 1, 1, 0, 4, false), b = history_write(h, 2, 1, 1, 2, false);
    history_written(h, 10, a);
    history_written(h, 11, b);
    history_read(h, 12, 13, 1, 0, 4, (uint32_t[]){a, b, a, a}); /* concurrent writes, in either order for each cell */
    history_read(h, 14, 15, 1, 2, 2, (uint32_t[]){a, a});
    passes(h);

    h = history_new(4);
    serves(h, 0, 1, 1);
    a = history_write(h, 1, 1, 0, 4, false), b = history_write(h, 2, 1, 1, 2, false);
    history_written(h, 10, a);
    history_written(h, 11, b);
    history_read(h, 12, 13, 1, 0, 4, (uint32_t[]){a, b, a, a});
    history_read(h, 14, 15, 1, 1, 1, (uint32_t[]){a}); /* b was seen already */
    fails(h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_read_your_write),
        cmocka_unit_test(test_concurrent_read_may_see_either),
        cmocka_unit_test(test_lost_write),
        cmocka_unit_test(test_lost_write_reads_zeroes),
        cmocka_unit_test(test_zeroes_after_a_zeroing),
        cmocka_unit_test(test_zeroing_lost),
        cmocka_unit_test(test_new_then_old),
        cmocka_unit_test(test_never_written),
        cmocka_unit_test(test_seen_before_it_was_written),
        cmocka_unit_test(test_unanswered_may_or_may_not_happen),
        cmocka_unit_test(test_refused_has_no_effect),
        cmocka_unit_test(test_ghost),
        cmocka_unit_test(test_ghost_that_no_read_came_before),
        cmocka_unit_test(test_ghost_after_a_read_of_nothing),
        cmocka_unit_test(test_dead_sessions_write_seen_by_successor),
        cmocka_unit_test(test_write_after_the_end_of_its_session),
        cmocka_unit_test(test_read_after_the_end_of_its_session),
        cmocka_unit_test(test_answers_may_arrive_after_the_end),
        cmocka_unit_test(test_stale_read_of_a_front_end_that_is_over),
        cmocka_unit_test(test_sessions_are_ordered_by_ballot),
        cmocka_unit_test(test_cells_are_checked_one_by_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
