/* What a run shows: a line a second while it lasts, and the report. */
#include "tools/bench.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define BAR_MAX 50u

const char *bench_size(uint64_t bytes, char buf[32])
{
    static const char *const unit[] = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double v = (double)bytes;
    unsigned i = 0;
    while (v >= 1024 && i + 1 < ARRAY_LEN(unit)) {
        v /= 1024;
        i++;
    }
    snprintf(buf, 32, v == (double)(uint64_t)v ? "%.0f %s" : "%.1f %s", v, unit[i]);
    return buf;
}

static double us(uint64_t ns)
{
    return (double)ns / 1000;
}

static double mib(uint64_t bytes)
{
    return (double)bytes / (1 << 20);
}

/* ---- while it lasts ---- */

static bool on_terminal(void)
{
    return isatty(STDERR_FILENO);
}

void bench_show_second(const struct bench_options *o, const struct bench_second *s)
{
    if (o->quiet)
        return;
    const char *begin = on_terminal() ? "\r\033[K" : "", *end = on_terminal() ? "" : "\n";
    if (s->ops)
        fprintf(stderr, "%s%5.0f s  %8" PRIu64 " /s  %8.1f MiB/s  p50 %8.0f us  p99 %8.0f us  %4" PRIu64 " under way%s",
                begin, s->at_s, s->ops, mib(s->bytes), us(s->p50_ns), us(s->p99_ns), s->in_flight, end);
    else
        fprintf(stderr, "%s%5.0f s  no answer in this second, %" PRIu64 " under way%s", begin, s->at_s, s->in_flight,
                end);
    fflush(stderr);
}

void bench_hide_second(const struct bench_options *o)
{
    if (!o->quiet && on_terminal())
        fprintf(stderr, "\r\033[K");
}

/* ---- the report ---- */

static const char *const side_name[] = {"read", "write", "flush"};

static json_t *histogram_json(const struct histogram *h)
{
    json_t *a = json_array();
    for (uint32_t i = 0; i < HISTOGRAM_BUCKETS; i++) {
        if (!h->bucket[i])
            continue;
        uint64_t last = histogram_bucket_last(i);
        json_array_append_new(a, json_pack("[f, I]", us(last < h->max ? last : h->max), (json_int_t)h->bucket[i]));
    }
    return a;
}

static json_t *side_json(const struct bench_side *s, double seconds)
{
    const struct histogram *h = &s->latency;
    double n = seconds > 0 ? (double)h->n / seconds : 0, bytes = seconds > 0 ? mib(s->bytes) / seconds : 0;
    json_t *latency =
        json_pack("{s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "min", us(h->min), "mean", histogram_mean(h) / 1000, "p50",
                  us(histogram_percentile(h, 50)), "p90", us(histogram_percentile(h, 90)), "p99",
                  us(histogram_percentile(h, 99)), "p99.9", us(histogram_percentile(h, 99.9)), "max", us(h->max));
    return json_pack("{s:I, s:I, s:f, s:f, s:o, s:o}", "ops", (json_int_t)h->n, "bytes", (json_int_t)s->bytes, "iops",
                     n, "mib_s", bytes, "latency_us", latency, "histogram_us", histogram_json(h));
}

static int report_json(const struct bench_options *o, const struct bench_result *r, struct why *why)
{
    json_t *out = json_pack("{s:s, s:s, s:I, s:I, s:I, s:i, s:i, s:f, s:b, s:b, s:f, s:I, s:I, s:I, s:b}", "workload",
                            o->workload, "uri", o->uri, "block_bytes", (json_int_t)o->block_bytes, "offset",
                            (json_int_t)o->offset, "size", (json_int_t)o->size, "connections", (int)o->connections,
                            "depth", (int)o->depth, "rate", o->rate, "flush_each_write", o->flush, "fua", o->fua,
                            "seconds", r->seconds, "lost", (json_int_t)r->lost, "unanswered", (json_int_t)r->unanswered,
                            "reconnects", (json_int_t)r->reconnects, "interrupted", r->interrupted);
    if (!out)
        return because(why, "out of memory");
    for (unsigned k = 0; k < BENCH_KINDS; k++)
        if (r->side[k].latency.n)
            json_object_set_new(out, side_name[k], side_json(&r->side[k], r->seconds));
    if (o->verify)
        json_object_set_new(out, "verified_read_blocks", json_integer((json_int_t)r->verified_reads));
    if (o->journal_path)
        json_object_set_new(out, "journal", json_string(o->journal_path));
    if (r->error[0])
        json_object_set_new(out, "error", json_string(r->error));
    int err = json_dumpf(out, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(9)) < 0 || putchar('\n') < 0 ? -1 : 0;
    json_decref(out);
    return err ? because(why, "cannot write the report") : 0;
}

/* Rows from 1, 2, 5, 10, 20, ... us, each of the buckets that begin in it. */
static void print_histogram(const struct histogram *h)
{
    static const unsigned step[] = {1, 2, 5};
    uint64_t most = 0, decade = 1000, n_of[64], from_of[64];
    unsigned n = 0;
    for (uint64_t from = 0; from <= h->max && n < ARRAY_LEN(n_of); n++) {
        uint64_t to = n == 0 ? 1000 : decade * step[n % 3];
        if (n % 3 == 2)
            decade *= 10;
        uint64_t begin = histogram_bucket_first(histogram_bucket(from)),
                 end = histogram_bucket_first(histogram_bucket(to));
        from_of[n] = from;
        n_of[n] = histogram_between(h, begin, end);
        most = n_of[n] > most ? n_of[n] : most;
        from = to;
    }
    unsigned first = 0;
    while (first < n && n_of[first] == 0)
        first++;
    for (unsigned i = first; i < n; i++) {
        char bar[BAR_MAX + 1];
        unsigned len = (unsigned)((n_of[i] * BAR_MAX + most - 1) / most);
        memset(bar, '#', len);
        bar[len] = '\0';
        printf("  from %9.0f us %12" PRIu64 "  %6.2f %%  %s\n", us(from_of[i]), n_of[i],
               100.0 * (double)n_of[i] / (double)h->n, bar);
    }
}

static void print_side(const char *name, const struct bench_side *s, double seconds)
{
    const struct histogram *h = &s->latency;
    printf("%-6s %12" PRIu64 " %10.0f %10.1f %9.0f %9.0f %9.0f %9.0f %9.0f %9.0f %9.0f\n", name, h->n,
           (double)h->n / seconds, mib(s->bytes) / seconds, us(h->min), histogram_mean(h) / 1000,
           us(histogram_percentile(h, 50)), us(histogram_percentile(h, 90)), us(histogram_percentile(h, 99)),
           us(histogram_percentile(h, 99.9)), us(h->max));
}

static void print_what(const struct bench_options *o, const struct bench_result *r)
{
    char block[32], size[32];
    printf("%s: %s of %s, %s %s blocks over %s, %u connection%s with %u request%s each", o->workload,
           o->reads && o->writes ? "reads and writes"
           : o->reads            ? "reads"
                                 : "writes",
           o->volume_name, o->sequential ? "successive" : "random", bench_size(o->block_bytes, block),
           bench_size(o->size, size), o->connections, o->connections == 1 ? "" : "s", o->depth,
           o->depth == 1 ? "" : "s");
    if (o->rate > 0)
        printf(", %.0f /s wanted", o->rate);
    printf(", %.1f s\n", r->seconds);
    if (o->writes)
        printf("A write counts when %s.\n", o->flush ? "the flush after it was answered"
                                            : o->fua ? "it was answered; FUA makes it durable by then"
                                                     : "it was answered: by qbd it is durable then; of other servers "
                                                       "--flush or --fua would demand it");
}

int bench_report(const struct bench_options *o, const struct bench_result *r, struct why *why)
{
    if (o->json)
        return report_json(o, r, why);
    bool any = false;
    print_what(o, r);
    printf("\n%-6s %12s %10s %10s %9s %9s %9s %9s %9s %9s %9s\n", "", "requests", "/s", "MiB/s", "min us", "mean",
           "p50", "p90", "p99", "p99.9", "max");
    for (unsigned k = 0; k < BENCH_KINDS; k++)
        if (r->side[k].latency.n && r->seconds > 0) {
            print_side(side_name[k], &r->side[k], r->seconds);
            any = true;
        }
    if (!any)
        printf("nothing was answered\n");
    for (unsigned k = 0; k < BENCH_FLUSH; k++)
        if (r->side[k].latency.n) {
            printf("\n%s latency\n", side_name[k]);
            print_histogram(&r->side[k].latency);
        }
    if (r->reconnects)
        printf("\n%" PRIu64 " connections were made anew.\n", r->reconnects);
    if (r->lost || r->unanswered)
        printf("%" PRIu64 " requests were never answered.\n", r->lost + r->unanswered);
    if (o->verify)
        printf("\nTo prove at any time that every acknowledged write is there: qbd bench --check --journal %s\n",
               o->journal_path);
    return fflush(stdout) == 0 ? 0 : because(why, "cannot write the report");
}
