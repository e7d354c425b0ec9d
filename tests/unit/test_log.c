/* Log lines and uuids as text. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/log.h"

static void test_uuid(void **state)
{
    struct uuid u, v;
    char text[37];
    for (unsigned i = 0; i < 16; i++)
        u.b[i] = (uint8_t)(i * 17);
    assert_string_equal(uuid_format(&u, text), "00112233-4455-6677-8899-aabbccddeeff");
    assert_int_equal(uuid_parse(text, &v), 0);
    assert_true(uuid_equal(&u, &v));
    assert_int_equal(uuid_parse("00112233-4455-6677-8899-AABBCCDDEEFF", &v), 0);
    assert_true(uuid_equal(&u, &v));
}

static void test_uuid_malformed(void **state)
{
    static const char good[] = "00112233-4455-6677-8899-aabbccddeeff";
    struct uuid u, before;
    memset(&u, 0x5a, sizeof u);
    before = u;
    /* Every truncation, in memory of exactly that length; every character replaced. */
    for (size_t n = 0; n < 36; n++) {
        char *cut = malloc(n + 1);
        memcpy(cut, good, n);
        cut[n] = '\0';
        assert_int_equal(uuid_parse(cut, &u), -EINVAL);
        free(cut);
        char bad[sizeof good];
        memcpy(bad, good, sizeof good);
        bad[n] = 'g';
        assert_int_equal(uuid_parse(bad, &u), -EINVAL);
        bad[n] = good[n] == '-' ? '0' : '-';
        assert_int_equal(uuid_parse(bad, &u), -EINVAL);
    }
    assert_int_equal(uuid_parse("00112233-4455-6677-8899-aabbccddeeff ", &u), -EINVAL);
    assert_int_equal(uuid_parse("00112233445566778899aabbccddeeff", &u), -EINVAL);
    assert_true(uuid_equal(&u, &before));
}

struct lines {
    unsigned n;
    enum log_level level;
    char text[4096];
};

static void take_line(void *user, enum log_level level, const char *text)
{
    struct lines *l = user;
    l->n++;
    l->level = level;
    snprintf(l->text, sizeof l->text, "%s", text);
}

static void test_levels_and_lines(void **state)
{
    struct lines l = {0};
    log_open("test", LOG_INFO);
    log_set_sink(take_line, &l);
    log_debug("not wanted");
    assert_int_equal(l.n, 0);
    errno = 77;
    log_warning("%s refuses %d", "replica-1", 5);
    assert_int_equal(errno, 77);
    assert_int_equal(l.n, 1);
    assert_int_equal(l.level, LOG_WARNING);
    assert_string_equal(l.text, "replica-1 refuses 5");
    /* A peer's name can't forge a line, and a long one is cut. */
    log_error("%s", "a\nb\r\x1b[2J");
    assert_string_equal(l.text, "a b  [2J");
    static char big[10000];
    memset(big, 'x', sizeof big - 1);
    log_error("%s", big);
    assert_true(strlen(l.text) > 1000 && strlen(l.text) < 3000);
    log_set_sink(NULL, NULL);
}

static void write_to(const char *path, bool journal)
{
    if (journal)
        setenv("JOURNAL_STREAM", "1:2", 1);
    else
        unsetenv("JOURNAL_STREAM");
    assert_non_null(freopen(path, "w", stderr));
    log_open("qbd-replica", LOG_DEBUG);
    log_debug("hello %d", 1);
    static char big[10000];
    memset(big, 'x', sizeof big - 1);
    log_info("%s", big);
}

static void test_on_stderr(void **state)
{
    char path[] = "/tmp/test_log.XXXXXX", line[4096];
    int saved = dup(2);
    assert_true(mkstemp(path) >= 0);
    for (int journal = 0; journal <= 1; journal++) {
        write_to(path, journal);
        FILE *f = fopen(path, "r");
        assert_non_null(fgets(line, sizeof line, f));
        int year, month, day, hour, minute, second, ms, at = 0;
        if (journal) {
            assert_string_equal(line, "<7>qbd-replica: hello 1\n");
        } else {
            assert_int_equal(
                sscanf(line, "%4d-%2d-%2dT%2d:%2d:%2d.%3dZ%n", &year, &month, &day, &hour, &minute, &second, &ms, &at),
                7);
            assert_int_equal(at, 24);
            assert_string_equal(line + at, " qbd-replica debug: hello 1\n");
        }
        assert_non_null(fgets(line, sizeof line, f));
        assert_int_equal(line[strlen(line) - 1], '\n');
        assert_null(fgets(line, sizeof line, f));
        fclose(f);
    }
    dup2(saved, 2);
    close(saved);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_uuid),
        cmocka_unit_test(test_uuid_malformed),
        cmocka_unit_test(test_levels_and_lines),
        cmocka_unit_test(test_on_stderr),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
