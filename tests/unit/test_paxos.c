/* Logs as runs of one ballot each: finding the last place that two have in common, their order, and what may come from
 * outside. */
#include "tests/unit/acceptor_rig.h"

/* ---- logs as runs ---- */

static void test_log_match(void **state)
{
    struct paxos_log *a = calloc(1, sizeof *a), *b = calloc(1, sizeof *b);
    struct log_pos m;
    assert_true(paxos_log_match(a, b, &m));
    assert_int_equal(m.slot, 0);
    for (uint64_t s = 1; s <= 10; s++) {
        struct ballot e = s <= 3 ? A(1) : s <= 7 ? A(2) : A(4), f = s <= 3 ? A(1) : s <= 5 ? A(2) : B(3);
        assert_true(paxos_log_append(a, s, &e));
        assert_true(paxos_log_append(b, s, &f));
    }
    assert_true(paxos_log_match(a, b, &m));
    assert_int_equal(m.slot, 5);
    paxos_log_trim(b, 4);
    assert_true(paxos_log_match(a, b, &m));
    assert_int_equal(m.slot, 5);
    paxos_log_trim(b, 5);
    assert_true(paxos_log_match(a, b, &m));
    assert_int_equal(m.slot, 5);
    paxos_log_trim(b, 6);
    assert_false(paxos_log_match(a, b, &m));
    assert_false(paxos_log_match(b, a, &m));
    paxos_log_cut(a, 6);
    assert_false(paxos_log_match(a, b, &m));
    assert_true(paxos_log_match(a, a, &m));
    assert_int_equal(m.slot, 5);
    free(a);
    free(b);
}

/* Wrong rule 1: the ballot of the last entry decides, then the length; not the length, not the last contact. */
static void test_order_of_logs(void **state)
{
    struct log_pos longer = pos(9, A(1)), newer = pos(5, A(2)), newest = pos(6, A(2));
    assert_true(log_pos_compare(&newer, &longer) > 0);
    assert_true(log_pos_compare(&newest, &newer) > 0);
    assert_int_equal(log_pos_compare(&newer, &newer), 0);
}

static void test_runs_from_outside_are_checked(void **state)
{
    struct log_pos base = pos(2, A(1));
    struct run ok[] = {{A(1), 3, 4}, {A(2), 5, 5}};
    assert_true(paxos_runs_valid(&base, 2, ok));
    struct run gap[] = {{A(1), 4, 4}}, reversed[] = {{A(1), 3, 2}}, falls[] = {{A(2), 3, 3}, {A(1), 4, 4}},
               twice[] = {{A(2), 3, 3}, {A(2), 4, 4}}, below[] = {{A(0), 3, 3}};
    assert_false(paxos_runs_valid(&base, 1, gap));
    assert_false(paxos_runs_valid(&base, 1, reversed));
    assert_false(paxos_runs_valid(&base, 2, falls));
    assert_false(paxos_runs_valid(&base, 2, twice));
    assert_false(paxos_runs_valid(&base, 1, below));
    assert_false(paxos_runs_valid(&base, RUNS_MAX + 1, ok));
    uint64_t lost[] = {3, 5};
    assert_true(paxos_lost_valid(2, lost, 2, 5));
    assert_false(paxos_lost_valid(2, lost, 3, 5));
    assert_false(paxos_lost_valid(2, lost, 2, 4));
    uint64_t same[] = {3, 3};
    assert_false(paxos_lost_valid(2, same, 2, 5));
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_log_match),
        T(test_order_of_logs),
        T(test_runs_from_outside_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
