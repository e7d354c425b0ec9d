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

/* Byte i of a stream depends on the stream and on all of i. */
__attribute__((unused)) static uint8_t pattern_byte(uint64_t i, uint64_t stream)
{
    uint64_t x = (i + 1) * 0x9E3779B97F4A7C15u ^ stream * 0xD1B54A32D192ED03u;
    return (uint8_t)(x >> 56 ^ x >> 29);
}

__attribute__((unused)) static void pattern_at(uint8_t *p, size_t n, uint64_t at, uint64_t stream)
{
    for (size_t i = 0; i < n; i++)
        p[i] = pattern_byte(at + i, stream);
}

__attribute__((unused)) static void pattern(uint8_t *p, size_t n, uint64_t stream)
{
    pattern_at(p, n, 0, stream);
}

static void on_watchdog(struct timer *t)
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

static int setup_reactor(void **state)
{
    struct uring_options opt = {.arena_limit_bytes = 256 << 20, .spin_us = spin_us};
    const char *why = "";
    int r = uring_reactor_new(&opt, &reactor, &why);
    if (r < 0)
        fprintf(stderr, "%s\n", why);
    return r;
}

static int teardown_reactor(void **state)
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
