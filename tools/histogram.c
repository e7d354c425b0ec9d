/* Durations by bucket: see histogram.h. */
#include "tools/histogram.h"

static_assert(HISTOGRAM_STEPS == 1u << 6, "the arithmetic below knows it as six bits");

/* Below 2 * STEPS each value has a bucket of its own. Above, `shift` bits are dropped so that STEPS to 2 * STEPS - 1
 * remain; each shift has STEPS buckets. */
static uint32_t shift_of(uint64_t value)
{
    return value < 2 * HISTOGRAM_STEPS ? 0 : 63 - (uint32_t)__builtin_clzll(value) - 6;
}

uint32_t histogram_bucket(uint64_t value)
{
    if (value >> HISTOGRAM_BITS_MAX)
        return HISTOGRAM_BUCKETS - 1;
    uint32_t shift = shift_of(value);
    return shift * HISTOGRAM_STEPS + (uint32_t)(value >> shift);
}

uint64_t histogram_bucket_first(uint32_t bucket)
{
    assert(bucket < HISTOGRAM_BUCKETS);
    uint32_t shift = bucket < 2 * HISTOGRAM_STEPS ? 0 : bucket / HISTOGRAM_STEPS - 1;
    return (uint64_t)(bucket - shift * HISTOGRAM_STEPS) << shift;
}

uint64_t histogram_bucket_last(uint32_t bucket)
{
    return bucket + 1 < HISTOGRAM_BUCKETS ? histogram_bucket_first(bucket + 1) - 1 : UINT64_MAX;
}

void histogram_add(struct histogram *h, uint64_t value)
{
    if (h->n == 0 || value < h->min)
        h->min = value;
    if (value > h->max)
        h->max = value;
    h->n++;
    h->sum += value;
    h->bucket[histogram_bucket(value)]++;
}

void histogram_merge(struct histogram *to, const struct histogram *from)
{
    if (from->n == 0)
        return;
    if (to->n == 0 || from->min < to->min)
        to->min = from->min;
    if (from->max > to->max)
        to->max = from->max;
    to->n += from->n;
    to->sum += from->sum;
    for (uint32_t i = 0; i < HISTOGRAM_BUCKETS; i++)
        to->bucket[i] += from->bucket[i];
}

uint64_t histogram_percentile(const struct histogram *h, double percent)
{
    assert(percent >= 0 && percent <= 100);
    if (h->n == 0)
        return 0;
    double wanted = percent / 100 * (double)h->n;
    uint64_t rank = (uint64_t)wanted, below = 0;
    if ((double)rank < wanted || rank == 0)
        rank++; /* the first one that has at least so many at or below it */
    if (rank > h->n)
        rank = h->n;
    for (uint32_t i = 0; i < HISTOGRAM_BUCKETS; i++) {
        below += h->bucket[i];
        if (below < rank)
            continue;
        uint64_t last = histogram_bucket_last(i);
        return last < h->max ? last : h->max;
    }
    return h->max;
}

double histogram_mean(const struct histogram *h)
{
    return h->n ? (double)h->sum / (double)h->n : 0;
}

uint64_t histogram_between(const struct histogram *h, uint64_t from, uint64_t to)
{
    uint64_t n = 0;
    for (uint32_t i = histogram_bucket(from); i < HISTOGRAM_BUCKETS && histogram_bucket_first(i) < to; i++)
        if (histogram_bucket_first(i) >= from)
            n += h->bucket[i];
    return n;
}
