/* Sums over all runs, printed for people. */
#include "tests/sim/cluster/stats.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "base/mark.h"
#include "tests/sim/cluster/faults.h"

struct sum {
    uint64_t times, runs; /* altogether, and in how many runs */
};

struct stats {
    uint64_t seeds, failed, simulated_ns;
    uint64_t writes, reads, lost_requests, restarts, attached, fenced;
    struct sum fault[FAULT_KINDS];
    uint32_t n_marks;
    struct sum mark[];
};

struct stats *stats_new(void)
{
    size_t n = mark_count(), bytes = sizeof(struct stats) + n * sizeof(struct sum);
    struct stats *s = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (s == MAP_FAILED)
        abort();
    s->n_marks = (uint32_t)n;
    return s;
}

void stats_begin(void)
{
    struct mark *m = mark_first();
    for (size_t i = 0; i < mark_count(); i++)
        m[i].count = 0;
}

static void add(uint64_t *to, uint64_t n)
{
    __atomic_fetch_add(to, n, __ATOMIC_RELAXED);
}

static void sum_add(struct sum *s, uint64_t n)
{
    if (!n)
        return;
    add(&s->times, n);
    add(&s->runs, 1);
}

void stats_add(struct stats *s, const struct run_result *r)
{
    add(&s->simulated_ns, r->simulated_ns);
    add(&s->writes, r->writes);
    add(&s->reads, r->reads);
    add(&s->lost_requests, r->lost_requests);
    add(&s->restarts, r->restarts);
    add(&s->attached, r->attached);
    add(&s->fenced, r->fenced);
    add(&s->failed, r->failed);
    for (unsigned i = 0; i < FAULT_KINDS; i++)
        sum_add(&s->fault[i], r->faults[i]);
    const struct mark *m = mark_first();
    for (size_t i = 0; i < s->n_marks; i++)
        sum_add(&s->mark[i], m[i].count);
    add(&s->seeds, 1);
}

uint64_t stats_seeds(const struct stats *s)
{
    return __atomic_load_n(&s->seeds, __ATOMIC_RELAXED);
}

uint64_t stats_simulated_ns(const struct stats *s)
{
    return __atomic_load_n(&s->simulated_ns, __ATOMIC_RELAXED);
}

void stats_print_totals(const struct stats *s, double seconds)
{
    uint64_t faults = 0;
    for (unsigned i = 0; i < FAULT_KINDS; i++)
        faults += s->fault[i].times;
    printf("%llu seeds in %.0f s (%.1f a second), %.2f simulated hours, %llu faults, %llu writes, %llu reads, %llu requests lost, %llu sessions, %llu fenced\n",
           (unsigned long long)s->seeds, seconds, seconds > 0 ? (double)s->seeds / seconds : 0.0, (double)s->simulated_ns / 3.6e12,
           (unsigned long long)faults, (unsigned long long)s->writes, (unsigned long long)s->reads, (unsigned long long)s->lost_requests,
           (unsigned long long)s->attached, (unsigned long long)s->fenced);
}

struct line {
    const char *name;
    struct sum sum;
};

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct line *)a)->name, ((const struct line *)b)->name);
}

static void print_line(const struct line *l)
{
    printf("%14llu %10llu  %s\n", (unsigned long long)l->sum.times, (unsigned long long)l->sum.runs, l->name);
}

/* Marks in the order of their names; those of one name are one (of their runs the most counts). */
static size_t collect_marks(const struct stats *s, struct line *line)
{
    const struct mark *m = mark_first();
    size_t n = s->n_marks, kept = 0;
    for (size_t i = 0; i < n; i++)
        line[i] = (struct line){m[i].name, s->mark[i]};
    qsort(line, n, sizeof *line, by_name);
    for (size_t i = 0; i < n; i++) {
        if (kept == 0 || strcmp(line[kept - 1].name, line[i].name) != 0) {
            line[kept++] = line[i];
            continue;
        }
        struct sum *to = &line[kept - 1].sum;
        to->times += line[i].sum.times;
        to->runs = to->runs > line[i].sum.runs ? to->runs : line[i].sum.runs;
    }
    return kept;
}

unsigned stats_print(const struct stats *s)
{
    printf("\n         times       runs  fault\n");
    for (unsigned i = 0; i < FAULT_KINDS; i++)
        print_line(&(struct line){fault_name(i), s->fault[i]});
    printf("\n         times       runs  mark\n");
    struct line *line = calloc(s->n_marks + 1, sizeof *line);
    if (!line)
        abort();
    size_t n = collect_marks(s, line);
    unsigned never = 0;
    for (size_t i = 0; i < n; i++) {
        print_line(&line[i]);
        never += line[i].sum.times == 0;
    }
    printf("\n%u of %zu marks were never reached%s\n", never, n, never ? ":" : "");
    for (size_t i = 0; i < n; i++)
        if (line[i].sum.times == 0)
            printf("    %s\n", line[i].name);
    free(line);
    return never;
}
