/* Processes that run seeds one after the other. A run that ends its process (a failed assertion, a signal) is a failed seed; the others go on in a new one.
 *
 * What always holds: which seeds are run does not depend on the number of processes, nor does what each finds. The clock is asked for what people are told only, and by an interval timer, for a
 * run that does not end. */
#include "tests/sim/cluster/hunt.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/sim/cluster/memory.h"
#include "tests/sim/simio.h"

#define JOBS_MAX 64u
#define RUNS_PER_PROCESS 1000u /* the memory of a process's first runs is what the kernel has to make */
#define RUN_TAKES_AT_MOST_S 600u
#define SAID_MAX 4000u

/* What the processes share. */
struct board {
    uint64_t next; /* the next run that nobody has taken */
    uint64_t running[JOBS_MAX]; /* 1 + the run that this one is at; 0: none */
    uint64_t n_failed;
    uint64_t failed[HUNT_FAILED_MAX];
    uint64_t hash[];
};

extern void __gcov_dump(void) __attribute__((weak));

/* A forked process ends: nothing that its parent registered runs, but what it covered is counted (the coverage build). */
static _Noreturn void leave(void)
{
    fflush(stdout);
    if (__gcov_dump)
        __gcov_dump();
    _exit(0);
}

static void *shared(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        perror("mmap");
        exit(2);
    }
    return p;
}

static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 31)) * UINT64_C(0x7fb5d329728ea185);
    x = (x ^ (x >> 27)) * UINT64_C(0x81dadef4bc2dd44d);
    return x ^ (x >> 33);
}

uint64_t hunt_seed(const struct hunt *h, uint64_t i)
{
    return h->fresh ? mix(h->commit + mix(i + 1)) : h->first + i;
}

void hunt_print_result(uint64_t seed, const struct run_result *r)
{
    printf("seed %llu: %s%s hash %016llx, %.3f s simulated, %llu writes, %llu reads, %llu lost, %llu sessions, %llu fenced, %llu restarts, longest wait %.3f s",
           (unsigned long long)seed, r->failed ? "FAILED: " : "ok", r->failed ? r->why : ",", (unsigned long long)r->hash, (double)r->simulated_ns / 1e9,
           (unsigned long long)r->writes, (unsigned long long)r->reads, (unsigned long long)r->lost_requests, (unsigned long long)r->attached,
           (unsigned long long)r->fenced, (unsigned long long)r->restarts, (double)r->longest_wait_ns / 1e9);
    for (unsigned i = 0; i < FAULT_KINDS; i++)
        if (r->faults[i])
            printf(", %llu x %s", (unsigned long long)r->faults[i], fault_name(i));
    printf("%s\n", r->unavailable ? ", ended without a majority" : "");
    fflush(stdout);
}

/* The process's own time: it may be stopped for as long as anybody likes. 0: no limit. */
static void limit_cpu(unsigned seconds)
{
    struct itimerval t = {.it_value.tv_sec = (time_t)seconds};
    setitimer(ITIMER_PROF, &t, NULL);
}

static void run_one(const struct run_options *o, struct run_result *ret)
{
    limit_cpu(RUN_TAKES_AT_MOST_S);
    memory_begin();
    run_seed(o, ret);
    if (memory_is_ours())
        sim_forget_buried();
    memory_end();
    limit_cpu(0);
}

/* ---- a process that ends by itself ---- */

static void put_back(FILE *said, char *text, size_t cap)
{
    long n = 0;
    if (fseek(said, 0, SEEK_END) == 0)
        n = ftell(said);
    rewind(said);
    size_t got = n > 0 ? fread(text, 1, (size_t)n < cap - 1 ? (size_t)n : cap - 1, said) : 0;
    text[got] = 0;
    fwrite(text, 1, got, stderr);
    text[strcspn(text, "\n")] = 0; /* an assertion's one line, or a sanitizer's first */
}

static void describe_end(int status, FILE *said, char *why, size_t cap)
{
    static char text[SAID_MAX];
    put_back(said, text, sizeof text);
    if (WIFSIGNALED(status))
        snprintf(why, cap, "ended by signal %d (%s): %.400s", WTERMSIG(status),
                 WTERMSIG(status) == SIGPROF ? "it did not end by itself" : strsignal(WTERMSIG(status)), text);
    else
        snprintf(why, cap, "ended with status %d: %.400s", WEXITSTATUS(status), text);
}

static pid_t fork_quietly(FILE **ret_said)
{
    fflush(stdout);
    fflush(stderr);
    FILE *said = tmpfile();
    if (!said) {
        perror("tmpfile");
        exit(2);
    }
    pid_t pid = fork();
    if (pid < 0) {
        perror("fork");
        exit(2);
    }
    if (pid == 0)
        dup2(fileno(said), STDERR_FILENO);
    *ret_said = said;
    return pid;
}

void hunt_isolated(const struct run_options *o, struct run_result *ret)
{
    struct run_result *r = shared(sizeof *r);
    FILE *said;
    pid_t pid = fork_quietly(&said);
    if (pid == 0) {
        run_one(o, r);
        leave();
    }
    int status;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    *ret = *r;
    if (status != 0) {
        ret->failed = true;
        describe_end(status, said, ret->why, sizeof ret->why);
    }
    fclose(said);
    munmap(r, sizeof *r);
}

/* ---- many ---- */

static void note_failed(struct board *b, uint64_t seed)
{
    uint64_t n = __atomic_fetch_add(&b->n_failed, 1, __ATOMIC_RELAXED);
    if (n < HUNT_FAILED_MAX)
        b->failed[n] = seed;
}

static bool is_over(const struct hunt *h, const struct board *b)
{
    if (__atomic_load_n(&b->next, __ATOMIC_RELAXED) >= h->n)
        return true;
    return !h->keep_going && __atomic_load_n(&b->n_failed, __ATOMIC_RELAXED) >= HUNT_FAILED_MAX;
}

static void work(const struct hunt *h, struct board *b, struct stats *stats, unsigned job)
{
    unsigned runs = memory_is_ours() ? RUNS_PER_PROCESS : 1;
    for (unsigned k = 0; k < runs && !is_over(h, b); k++) {
        uint64_t i = __atomic_fetch_add(&b->next, 1, __ATOMIC_RELAXED);
        if (i >= h->n)
            break;
        b->running[job] = i + 1;
        struct run_options o = h->run;
        struct run_result r;
        o.seed = hunt_seed(h, i);
        stats_begin();
        run_one(&o, &r);
        stats_add(stats, &r);
        if (h->hashes)
            b->hash[i] = r.hash;
        else if (r.failed || h->verbose)
            hunt_print_result(o.seed, &r);
        if (r.failed)
            note_failed(b, o.seed);
        b->running[job] = 0;
    }
    leave();
}

static void after_end(const struct hunt *h, struct board *b, unsigned job, int status, FILE *said)
{
    uint64_t i = b->running[job];
    b->running[job] = 0;
    if (status != 0) {
        struct run_result r = {.failed = true};
        describe_end(status, said, r.why, sizeof r.why);
        if (i == 0) {
            printf("FAILED between runs: %s\n", r.why);
            note_failed(b, 0);
        } else {
            hunt_print_result(hunt_seed(h, i - 1), &r);
            note_failed(b, hunt_seed(h, i - 1));
        }
    }
    fclose(said);
}

static double seconds_since(const struct timespec *from)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)(now.tv_sec - from->tv_sec) + (double)(now.tv_nsec - from->tv_nsec) / 1e9;
}

static void progress(const struct hunt *h, const struct board *b, const struct stats *stats, const struct timespec *began)
{
    double s = seconds_since(began);
    uint64_t done = stats_seeds(stats);
    fprintf(stderr, "\r%llu of %llu seeds, %llu failed, %.1f simulated hours, %.1f a second  ", (unsigned long long)done, (unsigned long long)h->n,
            (unsigned long long)b->n_failed, (double)stats_simulated_ns(stats) / 3.6e12, s > 0 ? (double)done / s : 0.0);
}

static void wait_a_second(const sigset_t *child)
{
    struct timespec second = {.tv_sec = 1};
    sigtimedwait(child, NULL, &second);
}

/* Keeps `jobs` processes at work until there is none left. */
static void supervise(const struct hunt *h, struct board *b, struct stats *stats, const struct timespec *began)
{
    pid_t pid[JOBS_MAX] = {0};
    FILE *said[JOBS_MAX];
    bool tty = isatty(STDERR_FILENO) && !h->hashes && !h->verbose;
    sigset_t child;
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    sigprocmask(SIG_BLOCK, &child, NULL);
    for (;;) {
        unsigned busy = 0;
        for (unsigned j = 0; j < h->jobs; j++) {
            int status;
            if (pid[j] && waitpid(pid[j], &status, WNOHANG) == pid[j]) {
                after_end(h, b, j, status, said[j]);
                pid[j] = 0;
            }
            if (!pid[j] && !is_over(h, b)) {
                pid[j] = fork_quietly(&said[j]);
                if (pid[j] == 0)
                    work(h, b, stats, j);
            }
            busy += pid[j] != 0;
        }
        if (!busy)
            break;
        wait_a_second(&child);
        if (tty)
            progress(h, b, stats, began);
    }
    if (tty)
        fprintf(stderr, "\r%80s\r", "");
    sigprocmask(SIG_UNBLOCK, &child, NULL);
}

static void print_end(const struct hunt *h, const struct board *b, const struct stats *stats, double seconds)
{
    stats_print_totals(stats, seconds);
    if (b->n_failed == 0) {
        printf("all passed\n");
        return;
    }
    printf("%llu FAILED:", (unsigned long long)b->n_failed);
    for (uint64_t i = 0; i < b->n_failed && i < HUNT_FAILED_MAX; i++)
        printf(" %llu", (unsigned long long)b->failed[i]);
    printf("%s\n", is_over(h, b) && b->next < h->n ? " (and gave up)" : b->n_failed > HUNT_FAILED_MAX ? " ..." : "");
}

uint64_t hunt_run(const struct hunt *h, struct stats *stats)
{
    assert(h->jobs >= 1 && h->jobs <= JOBS_MAX);
    size_t bytes = sizeof(struct board) + (h->hashes ? h->n * sizeof(uint64_t) : 0);
    struct board *b = shared(bytes);
    struct timespec began;
    clock_gettime(CLOCK_MONOTONIC, &began);
    supervise(h, b, stats, &began);
    for (uint64_t i = 0; h->hashes && i < h->n; i++)
        printf("%llu %016llx\n", (unsigned long long)hunt_seed(h, i), (unsigned long long)b->hash[i]);
    if (!h->hashes)
        print_end(h, b, stats, seconds_since(&began));
    uint64_t failed = b->n_failed;
    munmap(b, bytes);
    return failed;
}
