/* Data directories and devices: files (or partitions) opened O_DIRECT, locked on the descriptor that does the I/O.
 *
 * Beside it there may be a second descriptor for reads through the page cache (dev_read_cached). The kernel keeps the two coherent: a
 * direct write drops the cached pages of its range before it begins and again before it is told as complete.
 *
 * What always holds: an operation completes with all bytes that were asked for, or with an error. While it is in flight, its io_op
 * remembers what it takes to go on after a short count:
 *   result: the offset   link: the iovec   scratch[0]: the device   scratch[1]: count | what << 16 */
#include "base/uring_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define LOCK_POLL_MS 5
#define RETRIES_MAX 16

enum op_what { OP_READ, OP_READ_CACHED, OP_WRITE, OP_WRITE_DURABLE, OP_FLUSH, OP_DISCARD };

static struct uring_dev *udev_of(struct dev *d)
{
    return (struct uring_dev *)d;
}

/* ---- operations ---- */

/* What remains of a read or write that the kernel cut short. */
struct rest {
    struct ureq req;
    struct io_op *op;
    struct uring_dev *d;
    enum op_what what;
    int64_t done, total;
    uint64_t off;
    unsigned n, retries;
    struct iovec iov[];
};

static void complete(struct io_op *op, int64_t result)
{
    op->result = result;
    op->link = NULL;
    op->fn(op);
}

static void prep_rw(struct io_uring_sqe *sqe, struct uring_dev *d, enum op_what what, const struct iovec *iov, unsigned n,
                    uint64_t off)
{
    uint64_t user_data = sqe->user_data;
    bool read = what == OP_READ || what == OP_READ_CACHED;
    int fd = what == OP_READ_CACHED && d->cached_fd >= 0 ? d->cached_fd : d->fd;
    if (n == 1 && read)
        io_uring_prep_read(sqe, fd, iov->iov_base, (unsigned)iov->iov_len, off);
    else if (n == 1)
        io_uring_prep_write(sqe, d->fd, iov->iov_base, (unsigned)iov->iov_len, off);
    else if (read)
        io_uring_prep_readv(sqe, fd, iov, n, off);
    else
        io_uring_prep_writev(sqe, d->fd, iov, n, off);
    if (what == OP_WRITE_DURABLE)
        sqe->rw_flags = RWF_DSYNC;
    sqe->user_data = user_data;
}

static void begin_rw(struct dev *dev, enum op_what what, const struct iovec *iov, unsigned n, uint64_t off, struct io_op *op)
{
    struct uring_dev *d = udev_of(dev);
    struct uring *u = uring_of(dev->reactor);
    assert(n >= 1 && n <= IO_IOV_MAX && off % BLOCK_SIZE == 0 && off <= INT64_MAX);
    op->result = (int64_t)off;
    op->link = (struct io_op *)(uintptr_t)iov;
    op->scratch[0] = (uintptr_t)d;
    op->scratch[1] = n | (uint64_t)what << 16;
    prep_rw(uring_sqe_op(u, op), d, what, iov, n, off);
    atomic_fetch_add_explicit(&u->dev_ops, 1, memory_order_relaxed);
}

void uring_dev_read(struct dev *d, const struct iovec *iov, unsigned n, uint64_t off, struct io_op *op)
{
    begin_rw(d, OP_READ, iov, n, off, op);
}

void uring_dev_read_cached(struct dev *d, const struct iovec *iov, unsigned n, uint64_t off, struct io_op *op)
{
    begin_rw(d, OP_READ_CACHED, iov, n, off, op);
}

void uring_dev_write(struct dev *d, const struct iovec *iov, unsigned n, uint64_t off, unsigned flags, struct io_op *op)
{
    if (udev_of(d)->slowness && udev_of(d)->slowness->on)
        op = uring_slow_write(d, op);
    begin_rw(d, flags & IO_DURABLE ? OP_WRITE_DURABLE : OP_WRITE, iov, n, off, op);
}

void uring_dev_flush(struct dev *d, struct io_op *op)
{
    struct io_uring_sqe *sqe = uring_sqe_op(uring_of(d->reactor), op);
    uint64_t user_data = sqe->user_data;
    op->scratch[1] = (uint64_t)OP_FLUSH << 16;
    io_uring_prep_fsync(sqe, udev_of(d)->fd, IORING_FSYNC_DATASYNC);
    sqe->user_data = user_data;
}

/* A file keeps its blocks: what was zero-filled once takes writes at half the cost of a hole (store.md §0). */
void uring_dev_discard(struct dev *d, uint64_t off, uint64_t len, struct io_op *op)
{
    struct io_uring_sqe *sqe = uring_sqe_op(uring_of(d->reactor), op);
    op->scratch[1] = (uint64_t)OP_DISCARD << 16;
    if (!udev_of(d)->is_block_device)
        return; /* the entry does nothing as it is, and completes */
    uint64_t user_data = sqe->user_data;
    io_uring_prep_fallocate(sqe, udev_of(d)->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)off, (off_t)len);
    sqe->user_data = user_data;
}

static int64_t total_bytes(const struct iovec *iov, unsigned n)
{
    int64_t total = 0;
    for (unsigned i = 0; i < n; i++)
        total += (int64_t)iov[i].iov_len;
    return total;
}

/* Takes res bytes (whole blocks of them: direct I/O goes on only there) off the front, or counts a retry. */
static int rest_advance(struct rest *r, int res)
{
    if (res <= 0 && res != -EINTR && res != -EAGAIN)
        return res < 0 ? res : -EIO; /* 0: beyond the end of the device */
    size_t took = res > 0 ? (size_t)res / BLOCK_SIZE * BLOCK_SIZE : 0;
    if (took == 0 && ++r->retries > RETRIES_MAX)
        return -EIO;
    r->done += (int64_t)took;
    r->off += took;
    unsigned i = 0;
    for (; i < r->n && took >= r->iov[i].iov_len; i++)
        took -= r->iov[i].iov_len;
    memmove(r->iov, r->iov + i, (r->n - i) * sizeof r->iov[0]);
    r->n -= i;
    if (took) {
        r->iov[0].iov_base = (uint8_t *)r->iov[0].iov_base + took;
        r->iov[0].iov_len -= took;
    }
    return 0;
}

static void rest_step(struct rest *r, int res)
{
    int err = rest_advance(r, res);
    if (err < 0 || r->done == r->total) {
        struct io_op *op = r->op;
        int64_t result = err < 0 ? err : r->total;
        free(r);
        complete(op, result);
        return;
    }
    struct io_uring_sqe *sqe = uring_sqe(uring_of(r->d->dev.reactor), &r->req);
    prep_rw(sqe, r->d, r->what, r->iov, r->n, r->off);
}

static void rest_done(struct ureq *q, int res, unsigned flags)
{
    struct rest *r = container_of(q, struct rest, req);
    if (uring_of(r->d->dev.reactor)->draining) {
        free(r);
        return;
    }
    rest_step(r, res);
}

/* The completion of an operation. */
void uring_dev_done(struct io_op *op, int res)
{
    enum op_what what = (enum op_what)(op->scratch[1] >> 16);
    if (what == OP_FLUSH) {
        complete(op, res < 0 ? res : 0);
        return;
    }
    if (what == OP_DISCARD) {
        complete(op, 0); /* a hint: that it was not taken is no error */
        return;
    }
    const struct iovec *iov = (const void *)op->link;
    unsigned n = op->scratch[1] & 0xffff;
    int64_t total = total_bytes(iov, n);
    if (res == total || (res < 0 && res != -EINTR && res != -EAGAIN)) {
        complete(op, res);
        return;
    }
    struct rest *r = malloc(sizeof *r + n * sizeof r->iov[0]);
    if (!r) {
        complete(op, -ENOMEM);
        return;
    }
    *r = (struct rest){
        .req.fn = rest_done,
        .op = op,
        .d = (struct uring_dev *)(uintptr_t)op->scratch[0],
        .what = what,
        .total = total,
        .off = (uint64_t)op->result,
        .n = n,
    };
    memcpy(r->iov, iov, n * sizeof *iov);
    rest_step(r, res);
}

/* ---- directories and devices ---- */

int uring_dir_open(struct reactor *r, const char *path, struct dir **ret)
{
    struct uring_dir *d = calloc(1, sizeof *d);
    if (!d)
        return -ENOMEM;
    if (strlen(path) >= sizeof d->dir.path) {
        free(d);
        return -ENAMETOOLONG;
    }
    d->fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (d->fd < 0) {
        int err = -errno;
        free(d);
        return err;
    }
    d->dir.reactor = r;
    strcpy(d->dir.path, path);
    *ret = &d->dir;
    return 0;
}

void uring_dir_close(struct dir *d)
{
    if (!d)
        return;
    close(((struct uring_dir *)d)->fd);
    free(d);
}

bool uring_name_is_valid(const char *name)
{
    const char *slash = strchr(name, '/');
    if (name[0] == 0 || name[0] == '.' || strlen(name) >= NAME_MAX_BYTES)
        return false;
    if (!slash)
        return true;
    return slash != name && slash[1] != 0 && slash[1] != '.' && !strchr(slash + 1, '/');
}

struct uring_dev *uring_dev_new(struct reactor *r, int fd, const char *name, uint64_t size_bytes, bool is_block_device)
{
    struct uring_dev *d = calloc(1, sizeof *d);
    if (!d)
        return NULL;
    d->dev.reactor = r;
    d->dev.size_bytes = size_bytes;
    snprintf(d->dev.name, sizeof d->dev.name, "%s", name);
    d->fd = fd;
    d->cached_fd = -1;
    d->is_block_device = is_block_device;
    return d;
}

/* The lock that a killed daemon held goes only when its last I/O has landed: waiting for it is what keeps us from reading too early (store.md §0). */
static int lock(int fd, unsigned wait_ms)
{
    for (unsigned waited_ms = 0;;) {
        if (flock(fd, LOCK_EX | LOCK_NB) == 0)
            return 0;
        if (errno != EWOULDBLOCK && errno != EINTR)
            return -errno;
        if (waited_ms >= wait_ms)
            return -EWOULDBLOCK;
        struct timespec ts = {.tv_nsec = LOCK_POLL_MS * 1000000};
        nanosleep(&ts, NULL);
        waited_ms += LOCK_POLL_MS;
    }
}

static int device_size(int fd, uint64_t *ret, bool *ret_block_device)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return -errno;
    *ret_block_device = S_ISBLK(st.st_mode);
    if (S_ISBLK(st.st_mode))
        return ioctl(fd, BLKGETSIZE64, ret) < 0 ? -errno : 0;
    if (!S_ISREG(st.st_mode))
        return -EINVAL;
    *ret = (uint64_t)st.st_size;
    return 0;
}

int uring_dev_open(struct dir *dir, const char *name, unsigned lock_wait_ms, struct dev **ret)
{
    struct uring_dir *d = (struct uring_dir *)dir;
    if (!uring_name_is_valid(name))
        return -EINVAL;
    int fd = openat(d->fd, name, O_RDWR | O_DIRECT | O_CLOEXEC);
    if (fd < 0)
        return -errno; /* EINVAL: the file system has no direct I/O */
    uint64_t size = 0;
    bool is_block_device = false;
    int err = lock(fd, lock_wait_ms);
    if (err == 0)
        err = device_size(fd, &size, &is_block_device);
    if (err < 0) {
        close(fd);
        return err;
    }
    size = size / BLOCK_SIZE * BLOCK_SIZE;
    struct uring_dev *dev = uring_dev_new(dir->reactor, fd, name, size, is_block_device);
    if (!dev) {
        close(fd);
        return -ENOMEM;
    }
    *ret = &dev->dev;
    return 0;
}

/* Half of the descriptors that the process may have stay for what it cannot do without. */
int uring_open_cached(int dir_fd, const char *name, int fd)
{
    struct rlimit limit;
    struct stat direct, cached;
    int got = openat(dir_fd, name, O_RDONLY | O_CLOEXEC);
    if (got < 0)
        return -1;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || (rlim_t)got >= limit.rlim_cur / 2 || fstat(fd, &direct) < 0 || fstat(got, &cached) < 0 ||
        direct.st_dev != cached.st_dev || direct.st_ino != cached.st_ino) {
        close(got);
        return -1;
    }
    return got;
}

bool uring_dev_open_cached(struct dir *dir, struct dev *dev)
{
    struct uring_dev *d = udev_of(dev);
    if (d->cached_fd < 0)
        d->cached_fd = uring_open_cached(((struct uring_dir *)dir)->fd, dev->name, d->fd);
    return d->cached_fd >= 0;
}

void uring_dev_close(struct dev *dev)
{
    if (!dev)
        return;
    if (udev_of(dev)->cached_fd >= 0)
        close(udev_of(dev)->cached_fd);
    close(udev_of(dev)->fd);
    free(dev);
}
