/* What every sub-command of qbd shares. Tools are ordinary blocking programs: they read the clock and the disk
 * themselves. */
#include "tools/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <unistd.h>

int because(struct why *why, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(why->text, sizeof why->text, fmt, ap);
    va_end(ap);
    for (char *c = why->text; *c; c++)
        if (*c == '\n')
            *c = ' '; /* the contract is one line */
    return -1;
}

/* getopt says its one line itself; the stream is where argp would add another. Without it argp does not exit, either. */
void arguments_quiet(struct argp_state *state)
{
    state->err_stream = NULL;
}

void parse_arguments(const struct argp *argp, int argc, char **argv, void *input)
{
    if (argp_parse(argp, argc, argv, 0, NULL, input))
        exit(1);
}

void usage_error(const struct argp_state *state, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fprintf(stderr, "%s: ", state->name);
    vfprintf(stderr, fmt, ap);
    fprintf(stderr, "\n");
    va_end(ap);
    exit(1);
}

int command_end(const char *name, int err, const struct why *why)
{
    if (err)
        fprintf(stderr, "%s: %s\n", name, why->text);
    return err ? 1 : 0;
}

void random_uuid(struct uuid *ret)
{
    size_t got = 0;
    while (got < sizeof ret->b) {
        ssize_t n = getrandom(ret->b + got, sizeof ret->b - got, 0);
        if (n > 0)
            got += (size_t)n;
        else if (errno != EINTR)
            abort();
    }
}

int file_sync_dir(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int err = fsync(fd) < 0 ? -errno : 0;
    close(fd);
    return err;
}

static int write_all(int fd, const char *p, size_t n)
{
    while (n) {
        ssize_t w = write(fd, p, n);
        if (w < 0 && errno == EINTR)
            continue;
        if (w < 0)
            return -errno;
        p += w;
        n -= (size_t)w;
    }
    return 0;
}

int file_replace(const char *path, const char *text)
{
    char new[PATH_MAX], parent[PATH_MAX];
    if (snprintf(new, sizeof new, "%s.new", path) >= (int)sizeof new)
        return -ENAMETOOLONG;
    int fd = open(new, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0)
        return -errno;
    int err = write_all(fd, text, strlen(text));
    if (!err && fsync(fd) < 0)
        err = -errno;
    close(fd);
    if (!err && rename(new, path) < 0)
        err = -errno;
    if (err) {
        unlink(new);
        return err;
    }
    snprintf(parent, sizeof parent, "%s", path);
    char *slash = strrchr(parent, '/');
    if (slash)
        *slash = '\0';
    return file_sync_dir(slash && slash != parent ? parent : slash ? "/" : ".");
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    return remove(path);
}

int file_remove_tree(const char *path)
{
    if (access(path, F_OK) < 0 && errno == ENOENT)
        return 0;
    return nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT) < 0 ? -errno : 0;
}
