/* Delta debugging (ddmin, after Zeller and Hildebrandt) over the indices of a failing run's faults; before and after it a shorter run with fewer clients is tried.
 *
 * What always holds: the kept set fails in the same way as the whole (the same words in front of the first number). Each attempt runs in a process of its own. */
#include "tests/sim/cluster/shrink.h"

#include <stdio.h>
#include <stdlib.h>

#include "tests/sim/cluster/hunt.h"

struct shrinking {
    struct run_options o;
    uint8_t skip[SCHEDULE_MAX / 8];
    uint32_t *keep; /* indices, ascending */
    uint32_t n;
    char why[600]; /* of the whole run */
    unsigned attempts;
};

bool schedule_parse(const char *list, uint8_t set[SCHEDULE_MAX / 8])
{
    memset(set, 0, SCHEDULE_MAX / 8);
    while (*list) {
        char *end;
        unsigned long first = strtoul(list, &end, 10), last = first;
        if (end == list)
            return false;
        if (*end == '-') {
            const char *from = end + 1;
            last = strtoul(from, &end, 10);
            if (end == from)
                return false;
        }
        if (last < first || last >= SCHEDULE_MAX || (*end && *end != ','))
            return false;
        for (unsigned long i = first; i <= last; i++)
            set[i / 8] |= (uint8_t)(1u << (i % 8));
        list = *end ? end + 1 : end;
    }
    return true;
}

static bool alike(const char *a, const char *b)
{
    size_t n = strcspn(a, "0123456789");
    return strncmp(a, b, n) == 0;
}

static bool fails(struct shrinking *s, const struct run_options *o)
{
    struct run_result r;
    s->attempts++;
    fprintf(stderr, "\r%u attempts, %u faults left  ", s->attempts, s->n);
    hunt_isolated(o, &r);
    return r.failed && alike(s->why, r.why);
}

/* With these faults alone. */
static bool fails_with(struct shrinking *s, const uint32_t *keep, uint32_t n)
{
    memset(s->skip, 0xff, sizeof s->skip);
    for (uint32_t i = 0; i < n; i++)
        s->skip[keep[i] / 8] &= (uint8_t) ~(1u << (keep[i] % 8));
    s->o.skip = s->skip;
    s->o.n_skip = SCHEDULE_MAX;
    return fails(s, &s->o);
}

/* Keeps keep[from..from+len), or all but these. */
static bool try_part(struct shrinking *s, uint32_t from, uint32_t len, bool complement)
{
    uint32_t *part = malloc((s->n + 1) * sizeof *part), n = 0;
    if (!part)
        abort();
    for (uint32_t i = 0; i < s->n; i++)
        if ((i >= from && i < from + len) != complement)
            part[n++] = s->keep[i];
    bool bad = fails_with(s, part, n);
    if (bad) {
        memcpy(s->keep, part, n * sizeof *part);
        s->n = n;
    }
    free(part);
    return bad;
}

static bool try_parts(struct shrinking *s, uint32_t parts, bool complement)
{
    for (uint32_t k = 0; k < parts; k++) {
        uint32_t from = (uint32_t)((uint64_t)s->n * k / parts), to = (uint32_t)((uint64_t)s->n * (k + 1) / parts);
        if (to > from && try_part(s, from, to - from, complement))
            return true;
    }
    return false;
}

static void ddmin(struct shrinking *s)
{
    if (fails_with(s, s->keep, 0)) {
        s->n = 0;
        return;
    }
    uint32_t parts = 2;
    while (s->n >= 2) {
        if (try_parts(s, parts, false)) {
            parts = 2;
        } else if (parts > 2 && try_parts(s, parts, true)) {
            parts = parts - 1 > 2 ? parts - 1 : 2;
        } else {
            if (parts >= s->n)
                break;
            parts = 2 * parts < s->n ? 2 * parts : s->n;
        }
    }
}

static void shorten(struct shrinking *s, uint64_t drawn_ns)
{
    for (uint64_t ns = (s->o.fault_ns ? s->o.fault_ns : drawn_ns) / 2; ns >= 10 * NS_PER_MS; ns /= 2) {
        struct run_options o = s->o;
        o.fault_ns = ns;
        if (!fails(s, &o))
            break;
        s->o = o;
    }
    for (uint32_t c = 1; c <= 3; c++) {
        struct run_options o = s->o;
        o.clients = c;
        if (!fails(s, &o))
            continue;
        s->o = o;
        break;
    }
}

static void print_end(struct shrinking *s)
{
    fprintf(stderr, "\r%60s\r", "");
    printf("after %u attempts %u faults are left:\n\n", s->attempts, s->n);
    fflush(stdout);
    struct run_options o = s->o;
    struct run_result r;
    o.say_faults = true;
    hunt_isolated(&o, &r);
    printf("\n");
    hunt_print_result(o.seed, &r);
    printf("\nqbd-sim --seed %llu", (unsigned long long)s->o.seed);
    if (s->o.beyond)
        printf(" --beyond");
    if (s->o.storms)
        printf(" --storms");
    if (s->o.fault_ns)
        printf(" --fault-ms %llu", (unsigned long long)(s->o.fault_ns / NS_PER_MS));
    if (s->o.clients)
        printf(" --clients %u", s->o.clients);
    printf(" --only ");
    for (uint32_t i = 0; i < s->n; i++)
        printf("%s%u", i ? "," : "", s->keep[i]);
    printf("%s --trace\n", s->n ? "" : "''");
}

bool shrink(const struct run_options *o)
{
    static struct shrinking s;
    struct run_result r;
    s = (struct shrinking){.o = *o};
    hunt_isolated(o, &r);
    if (!r.failed) {
        printf("seed %llu passes: there is nothing to shrink\n", (unsigned long long)o->seed);
        return false;
    }
    memcpy(s.why, r.why, sizeof s.why);
    hunt_print_result(o->seed, &r);
    /* A run that ended its process did not say how many faults there were: all that there may be, then. */
    uint32_t planned = r.n_planned ? r.n_planned : 4096;
    assert(planned <= SCHEDULE_MAX);
    s.keep = malloc((planned + 1) * sizeof *s.keep);
    if (!s.keep)
        abort();
    for (uint32_t i = 0; i < planned; i++)
        if (!o->skip || i >= o->n_skip || !(o->skip[i / 8] >> (i % 8) & 1))
            s.keep[s.n++] = i;
    uint64_t drawn_ns = r.fault_ns ? r.fault_ns : 20 * NS_PER_S;
    shorten(&s, drawn_ns);
    ddmin(&s);
    shorten(&s, drawn_ns);
    s.o.fault_ns = s.o.fault_ns / NS_PER_MS * NS_PER_MS; /* as the command says it */
    if (!fails_with(&s, s.keep, s.n)) {
        s.o.fault_ns = o->fault_ns;
        ddmin(&s);
    }
    fails_with(&s, s.keep, s.n);
    print_end(&s);
    free(s.keep);
    return true;
}
