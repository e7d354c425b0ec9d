#include "base/daemon.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

int daemon_parse_log_level(const char *s, enum log_level *ret)
{
    static const struct {
        const char *name;
        enum log_level level;
    } levels[] = {{"error", LOG_ERROR}, {"warning", LOG_WARNING}, {"info", LOG_INFO}, {"debug", LOG_DEBUG}};
    for (unsigned i = 0; i < ARRAY_LEN(levels); i++) {
        if (strcmp(s, levels[i].name) == 0) {
            *ret = levels[i].level;
            return 0;
        }
    }
    return -EINVAL;
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
