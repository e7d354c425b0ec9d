/* Log lines for people: "2026-01-31T12:00:00.123Z name level: text" on stderr (systemd's journal takes it from there,
 * with <N> prefixes when JOURNAL_STREAM is set). Only daemons and tools log; library code returns what they can log. */
#ifndef QBD_BASE_LOG_H
#define QBD_BASE_LOG_H

#include "base/types.h"

enum log_level { LOG_ERROR = 3, LOG_WARNING = 4, LOG_INFO = 6, LOG_DEBUG = 7 };

void log_open(const char *name, enum log_level max);
void log_write(enum log_level level, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* Where lines go instead of stderr (tests, the simulator); NULL: back to stderr. */
void log_set_sink(void (*sink)(void *user, enum log_level level, const char *text), void *user);

#define log_error(...) log_write(LOG_ERROR, __VA_ARGS__)
#define log_warning(...) log_write(LOG_WARNING, __VA_ARGS__)
#define log_info(...) log_write(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_write(LOG_DEBUG, __VA_ARGS__)

/* A uuid as 8-4-4-4-12 lower-case hex; buf of 37 bytes, returned. */
char *uuid_format(const struct uuid *u, char buf[37]);
/* 0, or -EINVAL. */
MUST_USE int uuid_parse(const char *s, struct uuid *ret);

#endif
