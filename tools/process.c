/* Daemons of a local cluster as processes. */
#include "tools/process.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/close_range.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static bool read_text(const char *path, char *buf, size_t cap)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t n = read(fd, buf, cap - 1);
    close(fd);
    if (n <= 0)
        return false;
    buf[n] = '\0';
    return true;
}

static bool read_boot_id(char id[64])
{
    if (!read_text("/proc/sys/kernel/random/boot_id", id, 64))
        return false;
    id[strcspn(id, "\n")] = '\0';
    return true;
}

/* State letter and start time from /proc/PID/stat. The command's name in it may hold anything, so fields count from the
 * LAST parenthesis. */
static bool read_stat(pid_t pid, char *ret_state, uint64_t *ret_start_ticks)
{
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    if (!read_text(path, text, sizeof text))
        return false;
    char *p = strrchr(text, ')');
    if (!p || p[1] != ' ')
        return false;
    p += 2;
    *ret_state = *p;
    for (int field = 3; field < 22; field++) {
        p = strchr(p, ' ');
        if (!p)
            return false;
        p++;
    }
    *ret_start_ticks = strtoull(p, NULL, 10);
    return true;
}

struct process process_find(const char *pid_file)
{
    struct process p = {.state = PROCESS_GONE};
    char text[256], boot[64], now[64];
    int pid;
    unsigned long long start;
    if (!read_text(pid_file, text, sizeof text) || sscanf(text, "%d %llu %63s", &pid, &start, boot) != 3 || pid <= 0)
        return p;
    char state;
    uint64_t start_now;
    if (!read_boot_id(now) || strcmp(boot, now) != 0 || !read_stat(pid, &state, &start_now) || start_now != start ||
        state == 'Z' || state == 'X')
        return p;
    p.state = state == 'T' || state == 't' ? PROCESS_PAUSED : PROCESS_RUNNING;
    p.pid = pid;
    p.start_ticks = start;
    return p;
}

/* In the child, before exec: whoever starts a daemon may die at any moment, so the daemon itself says who it is. */
static int write_pid_file(const char *path)
{
    char state, boot[64], text[256], new[PATH_MAX];
    uint64_t start;
    if (!read_stat(getpid(), &state, &start) || !read_boot_id(boot))
        return -EIO;
    int len = snprintf(text, sizeof text, "%d %llu %s\n", (int)getpid(), (unsigned long long)start, boot);
    snprintf(new, sizeof new, "%s.new", path);
    int fd = open(new, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0)
        return -errno;
    bool ok = write(fd, text, (size_t)len) == len;
    close(fd);
    return ok && rename(new, path) == 0 ? 0 : -EIO;
}

static int become(const struct process_start *s, pid_t parent)
{
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    if (setsid() < 0 || chdir(s->cwd) < 0)
        return -errno;
    int in = open("/dev/null", O_RDONLY), out = open(s->log, O_WRONLY | O_CREAT | O_APPEND, 0644);
    if (in < 0 || out < 0 || dup2(in, 0) < 0 || dup2(out, 2) < 0)
        return -errno;
    if (s->discard_stdout && (out = open("/dev/null", O_WRONLY)) < 0)
        return -errno;
    if (dup2(out, 1) < 0)
        return -errno;
    int err = s->pid_file ? write_pid_file(s->pid_file) : 0;
    if (err)
        return err;
    if (s->dies_with_us && (prctl(PR_SET_PDEATHSIG, SIGTERM) < 0 || getppid() != parent))
        return -ECHILD;
    /* Nothing of the caller's (a pipe that a script reads, a lock) may stay open in a daemon. */
    if (close_range(3, ~0u, CLOSE_RANGE_CLOEXEC) < 0)
        return -errno;
    execv(s->argv[0], s->argv);
    return -errno;
}

pid_t process_start(const struct process_start *s, struct why *why)
{
    int report[2];
    if (pipe2(report, O_CLOEXEC) < 0)
        return because(why, "cannot make a pipe: %s", strerror(errno));
    fflush(NULL);
    pid_t parent = getpid(), pid = fork();
    if (pid == 0) {
        int err = become(s, parent);
        /* Only reached when the program could not be started: says why through the pipe, which exec would have closed.
         */
        if (write(report[1], &err, sizeof err) < 0)
            _exit(126);
        _exit(127);
    }
    close(report[1]);
    if (pid < 0) {
        close(report[0]);
        return because(why, "cannot fork: %s", strerror(errno));
    }
    int err = 0;
    ssize_t n = read(report[0], &err, sizeof err);
    close(report[0]);
    if (n == (ssize_t)sizeof err) {
        waitpid(pid, NULL, 0);
        return because(why, "cannot start %s: %s", s->argv[0], strerror(-err));
    }
    return pid;
}

bool process_reap(pid_t child, unsigned timeout_ms, int *ret_status)
{
    uint64_t until = now_ms() + timeout_ms;
    for (;;) {
        pid_t got = waitpid(child, ret_status, WNOHANG);
        if (got == child)
            return true;
        if (got < 0 && errno != EINTR) {
            *ret_status = 0;
            return true;
        }
        if (now_ms() >= until)
            return false;
        sleep_ms(5);
    }
}

void process_describe_exit(int status, char *buf, size_t cap)
{
    if (WIFSIGNALED(status))
        snprintf(buf, cap, "signal %d, %s", WTERMSIG(status), strsignal(WTERMSIG(status)));
    else
        snprintf(buf, cap, "exit status %d", WEXITSTATUS(status));
}

/* A pidfd that is certain to mean p: opened first, then checked. -ESRCH when p is gone. */
static int open_checked(const struct process *p)
{
    if (p->state == PROCESS_GONE)
        return -ESRCH;
    int fd = pidfd_open(p->pid, 0);
    if (fd < 0)
        return -errno;
    char state;
    uint64_t start;
    if (!read_stat(p->pid, &state, &start) || start != p->start_ticks || state == 'Z') {
        close(fd);
        return -ESRCH;
    }
    return fd;
}

int process_signal(const struct process *p, int signal)
{
    int fd = open_checked(p);
    if (fd < 0)
        return fd;
    int err = pidfd_send_signal(fd, signal, NULL, 0) < 0 ? -errno : 0;
    close(fd);
    return err;
}

bool process_wait_gone(const struct process *p, unsigned timeout_ms)
{
    int fd = open_checked(p);
    if (fd == -ESRCH)
        return true;
    if (fd < 0)
        return false;
    struct pollfd pfd = {.fd = fd, .events = POLLIN};
    int n;
    while ((n = poll(&pfd, 1, (int)timeout_ms)) < 0 && errno == EINTR)
        ;
    close(fd);
    return n == 1;
}

int find_program(const char *dir, const char *name, char path[PATH_MAX], struct why *why)
{
    char self[PATH_MAX];
    if (dir) {
        snprintf(self, sizeof self, "%s", dir);
    } else {
        ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
        if (n < 0)
            return because(why, "cannot tell where qbd is: %s", strerror(errno));
        self[n] = '\0';
        *strrchr(self, '/') = '\0';
    }
    if (snprintf(path, PATH_MAX, "%s/%s", self, name) >= PATH_MAX || access(path, X_OK) < 0)
        return because(why, "cannot find the program %s in %s", name, self);
    return 0;
}
