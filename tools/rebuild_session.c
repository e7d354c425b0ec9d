/* qbd rebuild: the process that holds a volume which nobody has attached, while it is rebuilt. */
#include "tools/rebuild.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int rebuild_session_start(struct rebuild *b, char ret_status[CONFIG_ADDRESS_MAX], struct why *why)
{
    char program[PATH_MAX], log[PATH_MAX];
    if (find_program(NULL, "qbd-nbdserver", program, why) < 0)
        return -1;
    if (!b->session_dir[0]) {
        snprintf(b->session_dir, sizeof b->session_dir, "/tmp/qbd-rebuild-XXXXXX");
        if (!mkdtemp(b->session_dir)) {
            b->session_dir[0] = '\0';
            return because(why, "cannot make a directory in /tmp: %s", strerror(errno));
        }
    }
    snprintf(ret_status, CONFIG_ADDRESS_MAX, "unix:%s/status", b->session_dir);
    snprintf(log, sizeof log, "%s/log", b->session_dir);
    const char *argv[] = {program, "--config", b->conf_path.s, "--volume", b->volume->name, "--name", "qbd-rebuild", "--status", ret_status, NULL};
    struct process_start s = {.cwd = "/", .log = log, .argv = (char *const *)argv, .dies_with_us = true}; /* else it would hold the volume for ever */
    b->session = process_start(&s, why);
    return b->session < 0 ? -1 : 0;
}

bool rebuild_session_runs(struct rebuild *b, struct why *why)
{
    int status;
    if (!process_reap(b->session, 0, &status))
        return true;
    b->session = -1;
    because(why, "the session for %s ended: see %s/log", b->volume->name, b->session_dir);
    return false;
}

void rebuild_session_end(struct rebuild *b)
{
    int status;
    char path[PATH_MAX];
    if (b->session > 0) {
        kill(b->session, SIGTERM);
        if (!process_reap(b->session, 10000, &status)) {
            kill(b->session, SIGKILL);
            process_reap(b->session, 10000, &status);
        }
        b->session = -1;
    }
    b->n_frontends -= b->session_listed;
    b->session_listed = false;
    if (!b->session_dir[0])
        return;
    for (unsigned i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/%s", b->session_dir, i ? "log" : "status");
        unlink(path);
    }
    rmdir(b->session_dir);
    b->session_dir[0] = '\0';
}
