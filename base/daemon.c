/* What both daemons' main() do alike. */
#include "base/daemon.h"

#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include "base/config.h"

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

void daemon_arguments(const struct argp *argp, const char *version, int argc, char **argv, void *input)
{
    argp_err_exit_status = 1;
    argp_program_version = version;
    argp_parse(argp, argc, argv, 0, NULL, input);
}

void daemon_take_log_level(struct argp_state *state, const char *arg, enum log_level *ret)
{
    static const struct {
        const char *name;
        enum log_level level;
    } levels[] = {{"error", LOG_ERROR}, {"warning", LOG_WARNING}, {"info", LOG_INFO}, {"debug", LOG_DEBUG}};
    for (unsigned i = 0; i < ARRAY_LEN(levels); i++) {
        if (strcmp(arg, levels[i].name) == 0) {
            *ret = levels[i].level;
            return;
        }
    }
    argp_error(state, "--log-level: '%s' is none of error, warning, info, debug", arg);
}

void daemon_take_name(struct argp_state *state, const char *option, const char *arg, const char **ret)
{
    if (!config_name_is_valid(arg))
        argp_error(state, "%s: '%s' is no name: 1 to %d letters, digits, '-', '_' and '.', not beginning with '-' or '.'",
                   option, arg, NAME_MAX_BYTES - 1);
    *ret = arg;
}

void daemon_protect_from_reclaim(void)
{
    struct rlimit lock = {RLIM_INFINITY, RLIM_INFINITY};
    if (prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) < 0)
        log_debug("PR_SET_IO_FLUSHER is not permitted here");
    /* Under a limit, MCL_FUTURE would make later allocations fail: without the right to lift it nothing is locked. */
    if (setrlimit(RLIMIT_MEMLOCK, &lock) < 0 || mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) < 0)
        log_debug("mlockall is not permitted here");
}
