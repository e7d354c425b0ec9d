/* Making devices, in helper threads: allocating and zero-filling takes seconds, and the reactor serves meanwhile.
 *
 * What always holds: a name appears in its directory only when the file behind it is allocated, zero-filled, durable and
 * locked; until then it is NAME.tmp, which a later attempt starts anew. A whole one that an earlier attempt left, before anybody
 * put something into it, is taken as it is; a file that holds anything is never touched. A thread touches its own job and, under
 * the lock, the list of finished ones; everything else is the reactor's. */
#include "base/uring_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define FILL_BYTES (1u << 20)
#define FILL_PATIENT_BYTES (128u << 10) /* a piece, when breaks are made */

struct job {
    struct list link; /* in uring.jobs, then in uring.jobs_done */
    struct uring *u;
    struct dev_create_op *op;
    pthread_t thread;
    int dir_fd; /* the data directory's; stays open as long as the struct dir, which outlives its jobs */
    char name[NAME_MAX_BYTES];
    uint64_t size_bytes;
    bool allocate_only;
    int result; /* a descriptor, or -errno */
    int cached_fd; /* uring_dev.cached_fd */
};

static uint64_t monotonic_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

static bool is_zero(const uint8_t *p, size_t n)
{
    return p[0] == 0 && memcmp(p, p + 1, n - 1) == 0;
}

/* Writes zeroes over the whole file, or (check) reads whether it holds nothing else: -EEXIST when it does.
 * The politeness: when the reactor used its devices since the last piece, a break, some times (op.patience) as long as the piece took. */
static int zero_fill(struct job *j, int fd, bool check)
{
    void *piece;
    if (posix_memalign(&piece, BLOCK_SIZE, FILL_BYTES))
        return -ENOMEM;
    memset(piece, 0, FILL_BYTES);
    int err = 0;
    unsigned long seen = atomic_load_explicit(&j->u->dev_ops, memory_order_relaxed);
    for (uint64_t off = 0; off < j->size_bytes;) {
        if (atomic_load_explicit(&j->u->jobs_cancel, memory_order_relaxed)) {
            err = -ECANCELED;
            break;
        }
        unsigned patience = atomic_load_explicit(&j->op->patience, memory_order_relaxed);
        uint64_t left = j->size_bytes - off, begin = monotonic_ns(), most = patience > 0 ? FILL_PATIENT_BYTES : FILL_BYTES;
        size_t len = left < most ? left : most;
        ssize_t n = check ? pread(fd, piece, len, (off_t)off) : pwrite(fd, piece, len, (off_t)off);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0 || n % BLOCK_SIZE) {
            err = n < 0 ? -errno : -EIO;
            break;
        }
        if (check && !is_zero(piece, (size_t)n)) {
            err = -EEXIST;
            break;
        }
        off += (uint64_t)n;
        atomic_store_explicit(&j->op->done_bytes, off, memory_order_relaxed);
        unsigned long now = atomic_load_explicit(&j->u->dev_ops, memory_order_relaxed);
        if (now != seen) {
            uint64_t took = (monotonic_ns() - begin) * patience;
            struct timespec ts = {.tv_sec = (time_t)(took / NS_PER_S), .tv_nsec = (long)(took % NS_PER_S)};
            nanosleep(&ts, NULL);
            seen = now;
        }
    }
    free(piece);
    return err;
}

/* Opens the directory that name is in, made if need be; *ret_leaf is the rest of the name. */
static int open_parent(int dir_fd, const char *name, const char **ret_leaf)
{
    const char *slash = strchr(name, '/');
    char parent[NAME_MAX_BYTES];
    if (!slash) {
        *ret_leaf = name;
        int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        return fd < 0 ? -errno : fd;
    }
    *ret_leaf = slash + 1;
    snprintf(parent, sizeof parent, "%.*s", (int)(slash - name), name);
    if (mkdirat(dir_fd, parent, 0700) < 0) {
        if (errno != EEXIST)
            return -errno;
    } else if (fsync(dir_fd) < 0) {
        return -errno;
    }
    int fd = openat(dir_fd, parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

/* Zero-filled and durable under its temporary name. The lock is taken first: it comes along with the descriptor. */
static int fill(struct job *j, int fd)
{
    if (flock(fd, LOCK_EX | LOCK_NB) < 0)
        return -errno;
    if (ftruncate(fd, 0) < 0)
        return -errno;
    if (fallocate(fd, 0, 0, (off_t)j->size_bytes) < 0 && errno != EOPNOTSUPP)
        return -errno;
    int err = j->allocate_only ? 0 : zero_fill(j, fd, false);
    if (err < 0)
        return err;
    return fsync(fd) < 0 ? -errno : 0;
}

/* A daemon that died between making an extent and counting it left it behind: without this the store could never grow again.
 * Returns its descriptor, locked; -ENOENT when there is none, -EEXIST when it is held, holds something or has another size. */
static int take(struct job *j, int parent, const char *leaf)
{
    struct stat st;
    int fd = openat(parent, leaf, O_RDWR | O_DIRECT | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return errno == ENOENT ? -ENOENT : -EEXIST;
    int err = 0;
    if (flock(fd, LOCK_EX | LOCK_NB) < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || (uint64_t)st.st_size != j->size_bytes)
        err = -EEXIST;
    if (!err)
        err = zero_fill(j, fd, true);
    if (!err && ((fallocate(fd, 0, 0, (off_t)j->size_bytes) < 0 && errno != EOPNOTSUPP) || fsync(fd) < 0 || fsync(parent) < 0))
        err = -errno;
    if (err) {
        close(fd);
        return err;
    }
    return fd;
}

static int make(struct job *j)
{
    const char *leaf;
    char tmp[NAME_MAX_BYTES + 4];
    int parent = open_parent(j->dir_fd, j->name, &leaf);
    if (parent < 0)
        return parent;
    int fd = take(j, parent, leaf);
    if (fd != -ENOENT) {
        close(parent);
        return fd;
    }
    snprintf(tmp, sizeof tmp, "%s.tmp", leaf);
    int err = 0;
    fd = openat(parent, tmp, O_RDWR | O_CREAT | O_DIRECT | O_CLOEXEC, 0600);
    if (fd < 0) {
        err = -errno;
        close(parent);
        return err;
    }
    err = fill(j, fd);
    if (err == 0 && renameat2(parent, tmp, parent, leaf, RENAME_NOREPLACE) < 0)
        err = -errno;
    else if (err == 0 && fsync(parent) < 0)
        err = -errno;
    if (err < 0) {
        if (err != -EWOULDBLOCK)
            unlinkat(parent, tmp, 0);
        close(fd);
        fd = err;
    }
    close(parent);
    return fd;
}

static void *job_run(void *arg)
{
    struct job *j = arg;
    uint64_t one = 1;
    pthread_setname_np(pthread_self(), "qbd-create");
    j->result = make(j);
    j->cached_fd = j->result < 0 ? -1 : uring_open_cached(j->dir_fd, j->name, j->result);
    pthread_mutex_lock(&j->u->jobs_lock);
    list_remove(&j->link);
    list_push_back(&j->u->jobs_done, &j->link);
    int event = j->u->jobs_event;
    pthread_mutex_unlock(&j->u->jobs_lock);
    while (write(event, &one, sizeof one) < 0 && errno == EINTR)
        ;
    return NULL;
}

static struct job *next_done(struct uring *u)
{
    pthread_mutex_lock(&u->jobs_lock);
    struct list *l = list_pop_front(&u->jobs_done);
    pthread_mutex_unlock(&u->jobs_lock);
    return l ? container_of(l, struct job, link) : NULL;
}

static void job_finish(struct job *j)
{
    struct dev_create_op *op = j->op;
    pthread_join(j->thread, NULL);
    op->dev = NULL;
    op->op.result = j->result < 0 ? j->result : 0;
    if (j->result >= 0) {
        struct uring_dev *d = uring_dev_new(&j->u->reactor, j->result, j->name, j->size_bytes, false);
        if (d) {
            d->cached_fd = j->cached_fd;
            op->dev = &d->dev;
        } else {
            op->op.result = -ENOMEM;
            close(j->result);
            if (j->cached_fd >= 0)
                close(j->cached_fd);
        }
    }
    free(j);
    op->op.fn(&op->op);
}

static void jobs_arm(struct uring *u)
{
    struct io_uring_sqe *sqe = uring_sqe(u, &u->jobs_req);
    io_uring_prep_read(sqe, u->jobs_event, &u->jobs_count, sizeof u->jobs_count, 0);
    uring_sqe_set(sqe, &u->jobs_req);
}

static void on_jobs(struct ureq *q, int res, unsigned flags)
{
    struct uring *u = container_of(q, struct uring, jobs_req);
    struct job *j;
    if (u->draining)
        return;
    jobs_arm(u);
    while ((j = next_done(u)))
        job_finish(j);
}

static int job_start(struct uring *u, struct job *j)
{
    if (u->jobs_event < 0) {
        u->jobs_event = eventfd(0, EFD_CLOEXEC);
        if (u->jobs_event < 0)
            return -errno;
        u->jobs_req.fn = on_jobs;
        jobs_arm(u);
    }
    pthread_mutex_lock(&u->jobs_lock);
    list_push_back(&u->jobs, &j->link);
    int err = -pthread_create(&j->thread, NULL, job_run, j);
    if (err < 0)
        list_remove(&j->link);
    pthread_mutex_unlock(&u->jobs_lock);
    return err;
}

/* What fails before there is a thread is told by a thread's way too: in a later turn. */
struct failed_create {
    struct ureq req;
    struct dev_create_op *op;
    struct uring *u;
    int err;
};

static void on_failed(struct ureq *q, int res, unsigned flags)
{
    struct failed_create *f = container_of(q, struct failed_create, req);
    struct dev_create_op *op = f->op;
    op->dev = NULL;
    op->op.result = f->err;
    bool draining = f->u->draining;
    free(f);
    if (!draining)
        op->op.fn(&op->op);
}

static void fail_later(struct uring *u, struct dev_create_op *op, int err)
{
    struct failed_create *f = malloc(sizeof *f);
    if (!f) {
        fprintf(stderr, "out of memory for making a device\n");
        abort();
    }
    *f = (struct failed_create){.req.fn = on_failed, .op = op, .u = u, .err = err};
    uring_sqe(u, &f->req);
}

void uring_dev_create(struct dir *d, const char *name, uint64_t size_bytes, struct dev_create_op *op)
{
    struct uring *u = uring_of(d->reactor);
    if (!uring_name_is_valid(name) || size_bytes == 0 || size_bytes % BLOCK_SIZE || size_bytes > INT64_MAX) {
        fail_later(u, op, -EINVAL);
        return;
    }
    struct job *j = calloc(1, sizeof *j);
    if (!j) {
        fail_later(u, op, -ENOMEM);
        return;
    }
    j->u = u;
    j->op = op;
    j->dir_fd = ((struct uring_dir *)d)->fd;
    j->size_bytes = size_bytes;
    j->allocate_only = op->allocate_only;
    strcpy(j->name, name);
    int err = job_start(u, j);
    if (err < 0) {
        free(j);
        fail_later(u, op, err);
    }
}

void uring_jobs_drain(struct uring *u)
{
    atomic_store_explicit(&u->jobs_cancel, true, memory_order_relaxed);
    for (;;) {
        pthread_mutex_lock(&u->jobs_lock);
        struct list *l = !list_empty(&u->jobs) ? u->jobs.next : u->jobs_done.next;
        struct job *j = l == &u->jobs_done ? NULL : container_of(l, struct job, link);
        pthread_mutex_unlock(&u->jobs_lock);
        if (!j)
            return;
        pthread_join(j->thread, NULL);
        pthread_mutex_lock(&u->jobs_lock);
        list_remove(&j->link);
        pthread_mutex_unlock(&u->jobs_lock);
        if (j->result >= 0)
            close(j->result);
        free(j);
    }
}
