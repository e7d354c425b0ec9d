/* What the tests of the io_uring reactor share: a reactor per test, a temporary directory per program, and a watchdog. */
#ifndef QBD_TESTS_URING_FIXTURE_H
#define QBD_TESTS_URING_FIXTURE_H

#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/uring.h"

static struct reactor *reactor;
static char dir_path[] = "uring-test.XXXXXX";
static unsigned spin_us;

__attribute__((unused)) static const char *in_dir(const char *name)
{
    static char paths[4][256];
    static unsigned next;
    char *p = paths[next++ % 4];
    snprintf(p, 256, "%s/%s", dir_path, name);
    return p;
}

/* The bytes of a stream repeat after a prime number of them, so that nothing of a power of two's size can take another's place unseen. */
#define PERIOD 65521u

__attribute__((unused)) static const uint8_t *pattern_table(uint64_t stream)
{
    static uint8_t tables[8][PERIOD];
    uint8_t *t = tables[stream % 8];
    if (t[0] == 0) {
        uint64_t x = 0x9E3779B97F4A7C15u + stream % 8;
        for (unsigned i = 0; i < PERIOD; i++) {
            x = x * 6364136223846793005u + 1442695040888963407u;
            t[i] = (uint8_t)(x >> 56);
        }
        t[0] |= 1;
    }
    return t;
}

__attribute__((unused)) static void pattern_at(uint8_t *p, size_t n, uint64_t at, uint64_t stream)
{
    for (size_t len; n; p += len, at += len, n -= len) {
        len = PERIOD - at % PERIOD < n ? PERIOD - at % PERIOD : n;
        memcpy(p, pattern_table(stream) + at % PERIOD, len);
    }
}

__attribute__((unused)) static bool pattern_is_at(const uint8_t *p, size_t n, uint64_t at, uint64_t stream)
{
    for (size_t len; n; p += len, at += len, n -= len) {
        len = PERIOD - at % PERIOD < n ? PERIOD - at % PERIOD : n;
        if (memcmp(p, pattern_table(stream) + at % PERIOD, len) != 0)
            return false;
    }
    return true;
}

__attribute__((unused)) static void pattern(uint8_t *p, size_t n, uint64_t stream)
{
    pattern_at(p, n, 0, stream);
}

__attribute__((unused)) static void on_watchdog(struct timer *t)
{
    fail_msg("nothing happened for 60 s");
}

/* Runs until somebody sets stopping. */
__attribute__((unused)) static void run(void)
{
    struct timer watchdog = {.fn = on_watchdog};
    timer_set(reactor, &watchdog, io_now(reactor) + 60 * NS_PER_S);
    reactor->stopping = false;
    assert_int_equal(uring_reactor_run(reactor), 0);
    timer_cancel(reactor, &watchdog);
}

__attribute__((unused)) static int setup_reactor(void **state)
{
    struct uring_options opt = {.arena_limit_bytes = 256 << 20, .spin_us = spin_us};
    const char *why = "";
    int r = uring_reactor_new(&opt, &reactor, &why);
    if (r < 0)
        fprintf(stderr, "%s\n", why);
    return r;
}

__attribute__((unused)) static int teardown_reactor(void **state)
{
    uring_reactor_free(reactor);
    reactor = NULL;
    return 0;
}

static int make_dir(void **state)
{
    return mkdtemp(dir_path) ? 0 : -1;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    return remove(path);
}

static int remove_dir(void **state)
{
    return nftw(dir_path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

#endif
