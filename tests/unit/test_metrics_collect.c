/* Asking daemons whose names the resolver sits on: it is the one call that has no limit of its own. Pages come all the
 * same, threads do not pile up, and all is as before when the resolver is back. */
#include "tools/metrics_collect.h"

#include <netdb.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#define REPLICAS 32
#define FRONTENDS 32
#define THREADS_MAX 256 /* metrics_collect.c's ASKERS_MAX */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static unsigned n_calls, n_inside;
static bool stuck;

/* In place of the C library's. */
int getaddrinfo(const char *restrict name, const char *restrict service, const struct addrinfo *restrict hints,
                struct addrinfo **restrict ret)
{
    pthread_mutex_lock(&lock);
    n_calls++;
    n_inside++;
    while (stuck)
        pthread_cond_wait(&changed, &lock);
    n_inside--;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    return EAI_FAIL;
}

static unsigned calls(void)
{
    pthread_mutex_lock(&lock);
    unsigned n = n_calls;
    pthread_mutex_unlock(&lock);
    return n;
}

static void set_stuck(bool on)
{
    pthread_mutex_lock(&lock);
    stuck = on;
    pthread_cond_broadcast(&changed);
    while (!on && n_inside > 0)
        pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
}

static void write_configuration(char *path)
{
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    FILE *f = fdopen(fd, "w");
    assert_non_null(f);
    fprintf(f, "[cluster]\nid = 6f1f6dc6-9c6f-4f5a-9d55-0c3c3a9b8a01\nlease_ms = 2000\n");
    for (unsigned i = 1; i <= REPLICAS; i++)
        fprintf(f, "[replica r%u]\nidentity = 6f1f6dc6-9c6f-4f5a-9d55-0c3c3a9b%04x\naddress = host%u:1\n", i, i, i);
    fprintf(f, "[volume v]\ngroup = 1\nsize = 1G\nreplicas = r1 r2 r3\n");
    assert_int_equal(fclose(f), 0);
}

/* Everybody is down on it, and it is whole. */
static void check_page(struct metrics_source *s)
{
    size_t len;
    unsigned n = 0;
    char *text = metrics_collect(s, &len);
    assert_non_null(text);
    assert_int_equal(len, strlen(text));
    for (const char *p = text; (p = strstr(p, "_up{")); p++)
        n += strncmp(strchr(p, '}'), "} 0\n", 4) == 0;
    assert_int_equal(n, REPLICAS + FRONTENDS);
    assert_non_null(strstr(text, "qbd_exporter_scrape_errors{cluster=\"6f1f6dc6-9c6f-4f5a-9d55-0c3c3a9b8a01\"} 64\n"));
    free(text);
}

static void a_resolver_that_hangs_holds_up_no_page(void **state)
{
    static struct metrics_source s;
    char path[] = "/tmp/test_metrics_collect.XXXXXX";
    struct why why;
    (void)state;
    write_configuration(path);
    s.which.file = path;
    for (unsigned i = 0; i < FRONTENDS; i++) {
        char arg[32];
        snprintf(arg, sizeof arg, "f%u=fe%u:1", i, i);
        assert_int_equal(metrics_add_frontend(&s, arg, &why), 0);
    }
    assert_int_equal(metrics_add_frontend(&s, "one-more=h:1", &why), -1);
    assert_int_equal(metrics_source_open(&s, &why), 0);
    set_stuck(true);
    for (unsigned i = 1; i <= THREADS_MAX / (REPLICAS + FRONTENDS); i++) {
        check_page(&s); /* returns: that is the test */
        assert_int_equal(calls(), i * (REPLICAS + FRONTENDS));
    }
    uint64_t began = now_ms();
    for (unsigned i = 0; i < 20; i++)
        check_page(&s);
    assert_int_equal(calls(), THREADS_MAX); /* nobody more was asked, and nobody waited for */
    assert_true(now_ms() - began < 20 * SCRAPE_LIMIT_MS);
    set_stuck(false);
    /* The threads end by themselves, soon. */
    for (unsigned before = calls(), i = 0; calls() < before + REPLICAS + FRONTENDS; i++) {
        assert_true(i < 1000);
        sleep_ms(5);
        check_page(&s);
    }
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_resolver_that_hangs_holds_up_no_page),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
