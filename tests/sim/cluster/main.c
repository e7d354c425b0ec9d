/* qbd-sim: a whole cluster in one deterministic process. One seed, one history.
 *
 *   qbd-sim --seed N [--trace] [--log]      replays one run
 *   qbd-sim --seeds A..B [--jobs J]         hunts; prints each failing seed; exit status 1 when there is one */
#include <argp.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/sim/cluster/run.h"

struct arguments {
    struct run_options run;
    uint64_t first, last;
    bool one, verbose;
    unsigned jobs;
};

static const struct argp_option options[] = {
    {"seed", 's', "N", 0, "Run this seed, and say what happened", 0},
    {"seeds", 'S', "A..B", 0, "Run all of these", 0},
    {"jobs", 'j', "J", 0, "Processes side by side (default 1)", 0},
    {"trace", 't', NULL, 0, "Print every event (with --seed)", 0},
    {"log", 'l', NULL, 0, "Print the daemons' log lines (with --seed)", 0},
    {"stats", 'v', NULL, 0, "Print a line for each seed", 0},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct arguments *a = state->input;
    char *end;
    switch (key) {
    case 's':
        a->one = true;
        a->first = a->last = strtoull(arg, &end, 0);
        if (*end)
            argp_error(state, "--seed takes a number");
        return 0;
    case 'S':
        a->first = strtoull(arg, &end, 0);
        if (strncmp(end, "..", 2) != 0)
            argp_error(state, "--seeds takes A..B");
        a->last = strtoull(end + 2, &end, 0);
        if (*end || a->last < a->first)
            argp_error(state, "--seeds takes A..B");
        return 0;
    case 'j':
        a->jobs = (unsigned)atoi(arg);
        if (a->jobs < 1 || a->jobs > 64)
            argp_error(state, "--jobs takes 1 to 64");
        return 0;
    case 't':
        a->run.trace = true;
        return 0;
    case 'l':
        a->run.log = true;
        return 0;
    case 'v':
        a->verbose = true;
        return 0;
    case ARGP_KEY_END:
        if (a->last == 0 && !a->one)
            argp_usage(state);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp argp = {.options = options, .parser = parse, .doc = "Simulates a qbd cluster with faults, deterministically."};

static void print(uint64_t seed, const struct run_result *r)
{
    printf("seed %llu: %s%s hash %016llx, %.3f s simulated, %llu writes, %llu reads, %llu lost, %llu kills, %llu power cuts, %llu front-end kills, "
           "%llu attached, %llu fenced, %llu pauses, %llu cuts, %llu resets, longest wait %.3f s\n",
           (unsigned long long)seed, r->failed ? "FAILED: " : "ok", r->failed ? r->why : ",", (unsigned long long)r->hash, (double)r->simulated_ns / 1e9,
           (unsigned long long)r->writes, (unsigned long long)r->reads, (unsigned long long)r->lost_requests, (unsigned long long)r->kills,
           (unsigned long long)r->power_cuts, (unsigned long long)r->frontend_kills, (unsigned long long)r->attached, (unsigned long long)r->fenced,
           (unsigned long long)r->pauses, (unsigned long long)r->cuts, (unsigned long long)r->resets, (double)r->longest_wait_ns / 1e9);
    fflush(stdout);
}

/* Each seed in a process of its own: a failed assertion is a finding, and what crashed processes left in memory goes with it. */
static bool run_forked(const struct arguments *a, uint64_t seed)
{
    fflush(stdout);
    pid_t pid = fork();
    if (pid < 0) {
        perror("fork");
        exit(2);
    }
    if (pid == 0) {
        alarm(600);
        struct run_options o = a->run;
        struct run_result r;
        o.seed = seed;
        run_seed(&o, &r);
        if (r.failed || a->verbose)
            print(seed, &r);
        _exit(r.failed ? 1 : 0);
    }
    int status;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (WIFSIGNALED(status)) {
        printf("seed %llu: FAILED: ended by signal %d (%s)\n", (unsigned long long)seed, WTERMSIG(status), strsignal(WTERMSIG(status)));
        fflush(stdout);
    }
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static uint64_t hunt(const struct arguments *a, unsigned job)
{
    uint64_t failed = 0;
    for (uint64_t seed = a->first + job; seed <= a->last; seed += a->jobs)
        failed += !run_forked(a, seed);
    return failed;
}

int main(int argc, char **argv)
{
    struct arguments a = {.jobs = 1};
    argp_parse(&argp, argc, argv, 0, NULL, &a);
    if (a.one) {
        struct run_result r;
        a.run.seed = a.first;
        run_seed(&a.run, &r);
        print(a.first, &r);
        return r.failed;
    }
    pid_t jobs[64];
    for (unsigned j = 0; j < a.jobs; j++) {
        jobs[j] = fork();
        if (jobs[j] == 0)
            _exit(hunt(&a, j) > 0);
    }
    bool failed = false;
    for (unsigned j = 0; j < a.jobs; j++) {
        int status;
        waitpid(jobs[j], &status, 0);
        failed |= status != 0;
    }
    printf("seeds %llu..%llu: %s\n", (unsigned long long)a.first, (unsigned long long)a.last, failed ? "FAILED" : "all passed");
    return failed;
}
