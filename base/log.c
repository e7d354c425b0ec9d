/* The process's log for people. One line is one write(2), so that lines of several daemons on one terminal or file
 * don't mix. This is the one place of base/ with state of the whole process: there is one stderr. */
#include "base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define LINE_MAX_BYTES 2048

static struct {
    char name[NAME_MAX_BYTES];
    enum log_level max;
    bool journal;
    void (*sink)(void *user, enum log_level level, const char *text);
    void *user;
} the_log = {.name = "qbd", .max = LOG_INFO};

void log_open(const char *name, enum log_level max)
{
    snprintf(the_log.name, sizeof the_log.name, "%s", name);
    the_log.max = max;
    the_log.journal = getenv("JOURNAL_STREAM") != NULL;
}

void log_set_sink(void (*sink)(void *user, enum log_level level, const char *text), void *user)
{
    the_log.sink = sink;
    the_log.user = user;
}

static const char *level_name(enum log_level level)
{
    switch (level) {
    case LOG_ERROR:
        return "error";
    case LOG_WARNING:
        return "warning";
    case LOG_INFO:
        return "info";
    case LOG_DEBUG:
        return "debug";
    }
    return "?";
}

/* The journal has its own clock and names; a terminal or a file gets them from us. Returns the length. */
static size_t format_prefix(char *to, size_t cap, enum log_level level)
{
    if (the_log.journal)
        return (size_t)snprintf(to, cap, "<%d>%s: ", (int)level, the_log.name);
    struct timespec ts;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &ts);
    gmtime_r(&ts.tv_sec, &tm);
    size_t n = strftime(to, cap, "%Y-%m-%dT%H:%M:%S", &tm);
    return n +
           (size_t)snprintf(to + n, cap - n, ".%03ldZ %s %s: ", ts.tv_nsec / 1000000, the_log.name, level_name(level));
}

/* A line is one line: text from outside (names, addresses) must not be able to forge another. */
static void flatten(char *s)
{
    for (; *s; s++)
        if ((unsigned char)*s < 0x20 || *s == 0x7f)
            *s = ' ';
}

static void write_all(const char *p, size_t n)
{
    while (n > 0) {
        ssize_t done = write(STDERR_FILENO, p, n);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return; /* there is nowhere left to say so */
        p += done;
        n -= (size_t)done;
    }
}

void log_write(enum log_level level, const char *fmt, ...)
{
    if (level > the_log.max)
        return;
    int saved_errno = errno;
    char line[LINE_MAX_BYTES];
    size_t prefix = the_log.sink ? 0 : format_prefix(line, sizeof line, level);
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(line + prefix, sizeof line - prefix - 1, fmt, ap);
    va_end(ap);
    if (n < 0)
        line[prefix] = '\0';
    flatten(line + prefix);
    if (the_log.sink) {
        the_log.sink(the_log.user, level, line);
    } else {
        size_t len = strlen(line);
        line[len++] = '\n';
        write_all(line, len);
    }
    errno = saved_errno;
}

char *uuid_format(const struct uuid *u, char buf[37])
{
    static const char hex[] = "0123456789abcdef";
    char *to = buf;
    for (unsigned i = 0; i < sizeof u->b; i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10)
            *to++ = '-';
        *to++ = hex[u->b[i] >> 4];
        *to++ = hex[u->b[i] & 15];
    }
    *to = '\0';
    return buf;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

int uuid_parse(const char *s, struct uuid *ret)
{
    struct uuid u;
    for (unsigned i = 0; i < sizeof u.b; i++) {
        if ((i == 4 || i == 6 || i == 8 || i == 10) && *s++ != '-')
            return -EINVAL;
        int high = hex_digit(s[0]);
        int low = high < 0 ? -1 : hex_digit(s[1]);
        if (low < 0)
            return -EINVAL;
        u.b[i] = (uint8_t)(high << 4 | low);
        s += 2;
    }
    if (*s)
        return -EINVAL;
    *ret = u;
    return 0;
}
