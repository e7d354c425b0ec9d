/* A histogram of durations, log-linear: each power of two is cut into HISTOGRAM_STEPS equal buckets, so that every
 * value is known to within 1/HISTOGRAM_STEPS of itself, from nanoseconds to hours, in a few KiB and a few instructions.
 *
 * What always holds: the buckets' counts add up to n; min, max and sum are exact. */
#ifndef QBD_TOOLS_HISTOGRAM_H
#define QBD_TOOLS_HISTOGRAM_H

#include "base/types.h"

#define HISTOGRAM_STEPS 64u    /* 1.6 % */
#define HISTOGRAM_BITS_MAX 44u /* 2^44 ns: almost five hours; what is longer counts in the last bucket */
#define HISTOGRAM_BUCKETS (2 * HISTOGRAM_STEPS + (HISTOGRAM_BITS_MAX - 7) * HISTOGRAM_STEPS)

struct histogram {
    uint64_t n, sum, min, max; /* min and max are 0 when n is */
    uint64_t bucket[HISTOGRAM_BUCKETS];
};

/* Which bucket a value belongs to, and the smallest and largest value of a bucket. */
uint32_t histogram_bucket(uint64_t value);
uint64_t histogram_bucket_first(uint32_t bucket);
uint64_t histogram_bucket_last(uint32_t bucket);

void histogram_add(struct histogram *h, uint64_t value);
void histogram_merge(struct histogram *to, const struct histogram *from);
/* The value that `percent` of all are not above: the end of the bucket in which that one is, never beyond max. 0 when
 * there are none. */
uint64_t histogram_percentile(const struct histogram *h, double percent);
double histogram_mean(const struct histogram *h);
/* How many are at least `from` and less than `to`. Both should be a bucket's first value; a bucket counts as a whole by
 * its first value. */
uint64_t histogram_between(const struct histogram *h, uint64_t from, uint64_t to);

#endif
