/* qbd rebuild: what a person sees while data is copied, and being interrupted. */
#include "tools/rebuild.h"

#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#define BAR 24

static volatile sig_atomic_t interrupted;

static void on_signal(int signal)
{
    interrupted = signal;
}

void rebuild_catch_signals(void)
{
    struct sigaction a = {.sa_handler = on_signal};
    sigaction(SIGINT, &a, NULL);
    sigaction(SIGTERM, &a, NULL);
}

bool rebuild_interrupted(void)
{
    return interrupted;
}

static void put_bytes(char *to, size_t cap, int64_t n)
{
    static const char *const unit[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double v = (double)n;
    unsigned u = 0;
    for (; v >= 1024 && u < ARRAY_LEN(unit) - 1; u++)
        v /= 1024;
    snprintf(to, cap, u ? "%.1f %s" : "%.0f %s", v, unit[u]);
}

static void put_time(char *to, size_t cap, int64_t s)
{
    if (s < 0)
        snprintf(to, cap, "?");
    else if (s < 60)
        snprintf(to, cap, "%" PRId64 " s", s);
    else if (s < 3600)
        snprintf(to, cap, "%" PRId64 ":%02" PRId64 " min", s / 60, s % 60);
    else
        snprintf(to, cap, "%" PRId64 ":%02" PRId64 " h", s / 3600, s / 60 % 60);
}

void rebuild_show(struct rebuild *b, const struct copy_progress *p)
{
    char line[256], done[24], all[24], rate[24], eta[24], latency[32] = "";
    if (b->quiet || !isatty(STDERR_FILENO))
        return;
    if (p->left_bytes < 0) {
        snprintf(line, sizeof line, "%s: %s: %s", b->volume->name, b->joining->name, p->state);
    } else {
        char bar[BAR + 1];
        int64_t total = p->done_bytes + p->left_bytes;
        int full = total > 0 ? (int)(p->done_bytes * BAR / total) : 0;
        for (int i = 0; i < BAR; i++)
            bar[i] = i < full ? '#' : '.';
        bar[BAR] = '\0';
        put_bytes(done, sizeof done, p->done_bytes);
        put_bytes(all, sizeof all, total);
        put_bytes(rate, sizeof rate, p->rate);
        put_time(eta, sizeof eta, p->eta_s);
        if (p->latency_us >= 0)
            snprintf(latency, sizeof latency, ", log %" PRId64 " us", p->latency_us);
        snprintf(line, sizeof line, "%s [%s] %s of %s, %s/s, %s left%s", b->joining->name, bar, done, all, rate, eta, latency);
    }
    fprintf(stderr, "\r%-*.*s", PROGRESS_WIDTH, PROGRESS_WIDTH, line); /* what is longer than a terminal is cut */
    fflush(stderr);
    b->bar_shown = true;
}

void rebuild_note(const struct rebuild *b, const char *fmt, ...)
{
    va_list ap;
    if (b->bar_shown)
        fprintf(stderr, "\r%*s\r", PROGRESS_WIDTH, "");
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    printf("\n");
    fflush(stdout);
}
