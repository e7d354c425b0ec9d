/* The histogram of durations: its buckets leave out nothing and overlap nowhere, a percentile is what sorting says to
 * within one bucket, and no value is too large. */
#include "tools/histogram.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#define SAMPLES 20000u

static uint64_t rng = 1;

static uint64_t rnd(void)
{
    rng ^= rng << 13;
    rng ^= rng >> 7;
    rng ^= rng << 17;
    return rng;
}

static void test_buckets_tile_all_values(void **state)
{
    assert_int_equal(histogram_bucket_first(0), 0);
    for (uint32_t i = 0; i < HISTOGRAM_BUCKETS; i++) {
        uint64_t first = histogram_bucket_first(i), last = histogram_bucket_last(i);
        assert_true(first <= last);
        assert_int_equal(histogram_bucket(first), i);
        assert_int_equal(histogram_bucket(last), i);
        if (i + 1 < HISTOGRAM_BUCKETS) {
            assert_int_equal(histogram_bucket_first(i + 1), last + 1);
            /* No bucket is wider than its share of its values. */
            assert_true((last - first) * HISTOGRAM_STEPS <= first);
        }
    }
    assert_int_equal(histogram_bucket(UINT64_MAX), HISTOGRAM_BUCKETS - 1);
    assert_int_equal(histogram_bucket_last(HISTOGRAM_BUCKETS - 1), UINT64_MAX);
    assert_int_equal(histogram_bucket((UINT64_C(1) << HISTOGRAM_BITS_MAX) - 1), HISTOGRAM_BUCKETS - 1);
}

static void test_small_values_are_exact(void **state)
{
    struct histogram *h = calloc(1, sizeof *h);
    assert_non_null(h);
    for (uint64_t v = 1; v <= 100; v++)
        histogram_add(h, v);
    assert_int_equal(h->n, 100);
    assert_int_equal(h->min, 1);
    assert_int_equal(h->max, 100);
    assert_true(histogram_mean(h) == 50.5);
    assert_int_equal(histogram_percentile(h, 0), 1);
    assert_int_equal(histogram_percentile(h, 1), 1);
    assert_int_equal(histogram_percentile(h, 50), 50);
    assert_int_equal(histogram_percentile(h, 50.5), 51);
    assert_int_equal(histogram_percentile(h, 99), 99);
    assert_int_equal(histogram_percentile(h, 99.9), 100);
    assert_int_equal(histogram_percentile(h, 100), 100);
    free(h);
}

static void test_empty(void **state)
{
    struct histogram *h = calloc(1, sizeof *h), *other = calloc(1, sizeof *other);
    assert_non_null(h);
    assert_non_null(other);
    assert_int_equal(histogram_percentile(h, 50), 0);
    assert_true(histogram_mean(h) == 0);
    assert_int_equal(histogram_between(h, 0, UINT64_MAX), 0);
    histogram_add(other, 7);
    histogram_merge(other, h); /* the empty one's min of 0 is no value */
    assert_int_equal(other->min, 7);
    histogram_merge(h, other);
    assert_int_equal(h->min, 7);
    assert_int_equal(h->max, 7);
    assert_int_equal(h->n, 1);
    assert_int_equal(histogram_percentile(h, 0), 7);
    free(h);
    free(other);
}

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static void test_percentiles_are_those_of_sorting(void **state)
{
    static const double percents[] = {0, 0.01, 1, 10, 25, 50, 75, 90, 99, 99.9, 99.99, 100};
    struct histogram *h = calloc(1, sizeof *h);
    uint64_t *all = calloc(SAMPLES, sizeof *all);
    assert_non_null(h);
    assert_non_null(all);
    for (unsigned round = 0; round < 20; round++) {
        memset(h, 0, sizeof *h);
        uint64_t n = 1 + rnd() % SAMPLES;
        for (uint64_t i = 0; i < n; i++) {
            all[i] = rnd() >> (rnd() % 60); /* every order of magnitude */
            histogram_add(h, all[i]);
        }
        qsort(all, n, sizeof *all, compare);
        assert_int_equal(h->min, all[0]);
        assert_int_equal(h->max, all[n - 1]);
        for (unsigned p = 0; p < ARRAY_LEN(percents); p++) {
            uint64_t rank = (uint64_t)(percents[p] / 100 * (double)n);
            rank += (double)rank < percents[p] / 100 * (double)n || rank == 0;
            uint64_t exact = all[rank - 1], got = histogram_percentile(h, percents[p]);
            assert_true(got >= exact);
            assert_true(got <= histogram_bucket_last(histogram_bucket(exact)));
        }
    }
    free(h);
    free(all);
}

static void test_merging_is_adding(void **state)
{
    struct histogram *one = calloc(1, sizeof *one), *both = calloc(1, sizeof *both), *part = calloc(1, sizeof *part);
    assert_true(one && both && part);
    for (unsigned i = 0; i < 5000; i++) {
        uint64_t v = rnd() >> (rnd() % 64);
        histogram_add(one, v);
        histogram_add(i % 3 ? both : part, v);
    }
    histogram_merge(both, part);
    assert_memory_equal(one, both, sizeof *one);
    free(one);
    free(both);
    free(part);
}

static void test_ranges_add_up(void **state)
{
    struct histogram *h = calloc(1, sizeof *h);
    assert_non_null(h);
    for (unsigned i = 0; i < 5000; i++)
        histogram_add(h, rnd() >> 30);
    uint64_t sum = 0, from = 0;
    for (uint32_t b = 100; b < HISTOGRAM_BUCKETS; b += 37) {
        sum += histogram_between(h, from, histogram_bucket_first(b));
        from = histogram_bucket_first(b);
    }
    assert_int_equal(sum + histogram_between(h, from, UINT64_MAX), h->n);
    free(h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_buckets_tile_all_values),
        cmocka_unit_test(test_small_values_are_exact),
        cmocka_unit_test(test_empty),
        cmocka_unit_test(test_percentiles_are_those_of_sorting),
        cmocka_unit_test(test_merging_is_adding),
        cmocka_unit_test(test_ranges_add_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
