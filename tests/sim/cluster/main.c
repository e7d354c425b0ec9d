/* qbd-sim: a whole cluster in one deterministic process. One seed, one history. See docs/testing.md.
 *
 *   qbd-sim --seed N [--trace] [--log] [--faults]            replays one run
 *   qbd-sim --seed N --shrink                                makes its schedule of faults small
 *   qbd-sim --seeds A..B [--jobs J] [--stats]                hunts; prints each failing seed; exit status 1 when there is one
 *   qbd-sim --commit HASH --fresh N [--jobs J] [--stats]     the same with N seeds that follow from a commit */
#include <argp.h>
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/sim/cluster/hunt.h"
#include "tests/sim/cluster/shrink.h"

struct arguments {
    struct hunt hunt;
    bool one, many, shrink, stats, has_commit;
    uint8_t skip[SCHEDULE_MAX / 8];
};

enum { KEY_SHRINK = 256, KEY_SKIP, KEY_ONLY, KEY_FAULT_MS, KEY_CLIENTS, KEY_BEYOND, KEY_STORMS, KEY_THEME, KEY_THREADS, KEY_COMMIT, KEY_FRESH, KEY_HASH, KEY_KEEP_GOING, KEY_STATS, KEY_EVENTS };

static const struct argp_option options[] = {
    {NULL, 0, NULL, 0, "One run:", 1},
    {"seed", 's', "N", 0, "Run this seed, and say what happened", 1},
    {"trace", 't', NULL, 0, "Print who sent what to whom, what became durable, what was chosen, faults and requests", 1},
    {"events", KEY_EVENTS, NULL, 0, "The same with every event of the simulator: turns, disk operations, arriving bytes", 1},
    {"log", 'l', NULL, 0, "Print the daemons' log lines", 1},
    {"faults", 'f', NULL, 0, "Print each fault: when, its number, what", 1},
    {"shrink", KEY_SHRINK, NULL, 0, "Find a small schedule of faults with which it still fails", 1},
    {"skip", KEY_SKIP, "LIST", 0, "Leave out these faults, by number: 3,7-12", 1},
    {"only", KEY_ONLY, "LIST", 0, "Leave out all faults but these", 1},
    {"fault-ms", KEY_FAULT_MS, "MS", 0, "Faults and requests last so long, instead of as drawn", 1},
    {"clients", KEY_CLIENTS, "N", 0, "At most so many clients", 1},
    {NULL, 0, NULL, 0, "Many runs:", 2},
    {"seeds", 'S', "A..B", 0, "Run all of these", 2},
    {"commit", KEY_COMMIT, "HASH", 0, "Run seeds that follow from a commit's hash", 2},
    {"fresh", KEY_FRESH, "N", 0, "So many (default 2000)", 2},
    {"jobs", 'j', "J", 0, "Processes side by side (default 1)", 2},
    {"stats", KEY_STATS, NULL, 0, "Print how often each kind of fault and each coverage mark was reached, and which never", 2},
    {"verbose", 'v', NULL, 0, "Print a line for each seed", 2},
    {"hash", KEY_HASH, NULL, 0, "Print each seed with the hash of its history, in order, and nothing else", 2},
    {"keep-going", KEY_KEEP_GOING, NULL, 0, "Do not give up after a hundred failing seeds", 2},
    {NULL, 0, NULL, 0, "Both:", 3},
    {"beyond", KEY_BEYOND, NULL, 0, "Damage more than replication can survive: refusals are demanded, silence is not", 3},
    {"storms", KEY_STORMS, NULL, 0, "No faults but storms of take-overs, as a quarter of all seeds has it", 3},
    {"threads", KEY_THREADS, NULL, 0, "Front ends have two threads, and clients' connections go from one to the other", 3},
    {"theme", KEY_THEME, "NAME", 0, "Every run has this theme: none, rot, stale, answers, crowd, repair, torn, slow-reads, tails, scrub, copy or members", 3},
    {0},
};

static void parse_range(struct arguments *a, const char *arg, struct argp_state *state)
{
    char *end;
    uint64_t last = 0;
    a->hunt.first = strtoull(arg, &end, 0);
    bool good = end != arg && strncmp(end, "..", 2) == 0;
    if (good) {
        const char *from = end + 2;
        last = strtoull(from, &end, 0);
        good = end != from && !*end && last >= a->hunt.first;
    }
    if (!good)
        argp_error(state, "--seeds takes A..B");
    a->hunt.n = last - a->hunt.first + 1;
    a->many = true;
}

static uint64_t parse_number(const char *arg, uint64_t min, uint64_t max, const char *what, struct argp_state *state)
{
    char *end;
    uint64_t x = strtoull(arg, &end, 0);
    if (end == arg || *end || x < min || x > max)
        argp_error(state, "%s takes a number from %llu to %llu", what, (unsigned long long)min, (unsigned long long)max);
    return x;
}

/* A hash in hexadecimal digits; its first sixteen count. */
static void parse_commit(struct arguments *a, const char *arg, struct argp_state *state)
{
    size_t n = strspn(arg, "0123456789abcdefABCDEF");
    if (n < 8 || arg[n])
        argp_error(state, "--commit takes a commit's hash");
    char digits[17] = "";
    strncpy(digits, arg, 16);
    a->hunt.commit = strtoull(digits, NULL, 16);
    a->hunt.fresh = a->many = a->has_commit = true;
}

static void parse_schedule(struct arguments *a, const char *arg, bool only, struct argp_state *state)
{
    if (!schedule_parse(arg, a->skip))
        argp_error(state, "a list of faults is like 3,7-12, up to %u", SCHEDULE_MAX - 1);
    for (uint32_t i = 0; only && i < sizeof a->skip; i++)
        a->skip[i] = (uint8_t)~a->skip[i];
    a->hunt.run.skip = a->skip;
    a->hunt.run.n_skip = SCHEDULE_MAX;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct arguments *a = state->input;
    struct run_options *run = &a->hunt.run;
    switch (key) {
    case 's':
        a->one = true;
        run->seed = parse_number(arg, 0, UINT64_MAX, "--seed", state);
        return 0;
    case 'S':
        parse_range(a, arg, state);
        return 0;
    case KEY_COMMIT:
        parse_commit(a, arg, state);
        return 0;
    case KEY_FRESH:
        a->hunt.n = parse_number(arg, 1, UINT32_MAX, "--fresh", state);
        return 0;
    case 'j':
        a->hunt.jobs = (unsigned)parse_number(arg, 1, 64, "--jobs", state);
        return 0;
    case KEY_EVENTS:
        run->events = true;
        /* fallthrough */
    case 't':
        run->trace = run->say_faults = true;
        return 0;
    case 'l':
        run->log = true;
        return 0;
    case 'f':
        run->say_faults = true;
        return 0;
    case 'v':
        a->hunt.verbose = true;
        return 0;
    case KEY_STATS:
        a->stats = true;
        return 0;
    case KEY_HASH:
        a->hunt.hashes = true;
        return 0;
    case KEY_KEEP_GOING:
        a->hunt.keep_going = true;
        return 0;
    case KEY_SHRINK:
        a->shrink = true;
        return 0;
    case KEY_SKIP:
    case KEY_ONLY:
        parse_schedule(a, arg, key == KEY_ONLY, state);
        return 0;
    case KEY_FAULT_MS:
        run->fault_ns = parse_number(arg, 1, 1000000, "--fault-ms", state) * NS_PER_MS;
        return 0;
    case KEY_CLIENTS:
        run->clients = (uint32_t)parse_number(arg, 1, 1000, "--clients", state);
        return 0;
    case KEY_BEYOND:
        run->beyond = true;
        return 0;
    case KEY_STORMS:
        run->storms = true;
        return 0;
    case KEY_THREADS:
        run->threads = true;
        return 0;
    case KEY_THEME:
        for (unsigned t = THEME_NONE; t < THEMES; t++)
            if (strcmp(arg, theme_name(t)) == 0)
                run->theme = t;
        if (!run->theme)
            argp_error(state, "there is no theme %s", arg);
        return 0;
    case ARGP_KEY_END:
        if (a->one == a->many)
            argp_error(state, "one of --seed, --seeds and --commit is needed");
        if (a->shrink && !a->one)
            argp_error(state, "--shrink needs --seed");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp argp = {.options = options, .parser = parse, .doc = "Simulates a qbd cluster with faults, deterministically."};

static int run_one(const struct arguments *a)
{
    struct run_result r;
    stats_begin();
    run_seed(&a->hunt.run, &r);
    hunt_print_result(a->hunt.run.seed, &r);
    if (a->stats) {
        struct stats *s = stats_new();
        stats_add(s, &r);
        stats_print(s);
    }
    return r.failed;
}

int main(int argc, char **argv)
{
    static struct arguments a = {.hunt = {.jobs = 1, .n = 2000}};
    static char buffer[1 << 16]; /* stdio's own would be a run's memory */
    setvbuf(stdout, buffer, _IOFBF, sizeof buffer);
    argp_parse(&argp, argc, argv, 0, NULL, &a);
    if (a.shrink)
        return !shrink(&a.hunt.run);
    if (a.one)
        return run_one(&a);
    struct stats *stats = stats_new();
    uint64_t failed = hunt_run(&a.hunt, stats);
    if (a.stats)
        stats_print(stats);
    return failed > 0;
}
