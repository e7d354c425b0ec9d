/* What every sub-command of qbd shares: how it fails, how it reads the clock, small file helpers. */
#ifndef QBD_TOOLS_CLI_H
#define QBD_TOOLS_CLI_H

#include "base/types.h"

#include <argp.h>

#define WHY_MAX 512

/* What went wrong, for the one line that a failing command prints. */
struct why {
    char text[WHY_MAX];
};

/* Sets the text; returns -1, so that "return because(why, ...)" reads well. */
int because(struct why *why, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* argp_parse, but a wrong command line costs one line and exit status 1 like every other failure. The parser calls
 * arguments_quiet at ARGP_KEY_INIT, and usage_error for what it finds itself. */
void parse_arguments(const struct argp *argp, int argc, char **argv, void *input);
void arguments_quiet(struct argp_state *state);
void usage_error(const struct argp_state *state, const char *fmt, ...) __attribute__((format(printf, 2, 3), noreturn));

/* The end of a command: its exit status, and when it failed (err is not 0) its one line. */
int command_end(const char *name, int err, const struct why *why);

uint64_t now_ms(void); /* CLOCK_MONOTONIC */
void sleep_ms(unsigned ms);
void random_uuid(struct uuid *ret);

/* Replaces path with the text, durably (written beside it, synced, renamed). 0 or -errno. */
MUST_USE int file_replace(const char *path, const char *text);
/* Removes path and all below it; nothing there is fine. 0 or -errno. */
MUST_USE int file_remove_tree(const char *path);
/* fsync of a directory, so that what was created or renamed in it stays. 0 or -errno. */
MUST_USE int file_sync_dir(const char *path);

int command_bench(int argc, char **argv);
int command_local(int argc, char **argv);
int command_metrics(int argc, char **argv);
int command_scrub(int argc, char **argv);
int command_status(int argc, char **argv);
int command_trace(int argc, char **argv);
int command_volume(int argc, char **argv);
int command_rebuild(int argc, char **argv);
int command_recover(int argc, char **argv);

#endif
