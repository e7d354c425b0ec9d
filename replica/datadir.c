/* The data directory of a replica on the host: making it, opening it, refusing one that is somebody else's. */
#include "replica/datadir.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "replica/superblock.h"

#define LOCK_WAIT_MS 10000u /* a killed daemon's I/O may still be landing; the lock is free when it has */
#define META_PAGES 8192u    /* 64 MiB of meta: 4 TiB of slabs, in 4.8 TiB of regions that were ever written to */
#define EXTENTS_MAX 65536u
#define WAL_BLANK_BYTES (4u << 20)

/* ---- reading ---- */

struct reading {
    struct reactor *reactor;
    struct io_op op;
};

static void on_read(struct io_op *op)
{
    container_of(op, struct reading, op)->reactor->stopping = true;
}

/* Runs the reactor for this one operation: nothing else lives in it yet. */
static bool read_at(struct dev *dev, uint64_t off, struct buf *to, uint32_t len)
{
    struct iovec iov = {.iov_base = to->data, .iov_len = len};
    struct reading rd = {.reactor = dev->reactor, .op.fn = on_read};
    dev_read(dev, &iov, 1, off, &rd.op);
    dev->reactor->stopping = false;
    uring_reactor_run(dev->reactor);
    dev->reactor->stopping = false;
    return rd.op.result == len;
}

/* What another version made, in any copy: however little of the rest makes sense, it is not ours to overwrite. */
static bool is_foreign(const void *image)
{
    struct superblock s;
    for (uint32_t i = 0; i < SUPERBLOCK_COPIES; i++) {
        memcpy(&s, (const uint8_t *)image + (size_t)i * SUPERBLOCK_STRIDE, sizeof s);
        if (s.magic == SUPERBLOCK_MAGIC && (s.version != DISK_VERSION || (s.features_incompat & ~FEATURES_INCOMPAT) || s.features_ro_compat))
            return true;
    }
    return false;
}

/* NULL, or why there is none that can be used. */
static const char *read_superblock(struct dev *dev, struct superblock *ret, bool *ret_foreign)
{
    struct buf *b = buf_alloc_must(dev->reactor->arena, SUPERBLOCK_BYTES);
    const char *why = "it is too short";
    if (dev->size_bytes >= SUPERBLOCK_BYTES) {
        why = "it can't be read";
        if (read_at(dev, 0, b, SUPERBLOCK_BYTES)) {
            why = superblock_pick(b->data, ret);
            *ret_foreign = is_foreign(b->data);
        }
    }
    buf_unref(b);
    return why;
}

/* Whether nothing was ever written to the WAL: format leaves it zero, a replica's first act is to write its beginning (and each lap writes that again; a batch is
 * shorter than what is looked at). Without it there is no data, whatever else is there. -errno: it can't be told. */
static int wal_is_blank(struct dir *dir)
{
    struct dev *dev;
    int err = uring_dev_open(dir, "wal", 0, &dev);
    if (err)
        return err == -ENOENT ? 1 : err;
    struct buf *b = buf_alloc_must(dir->reactor->arena, BLOCK_SIZE);
    int blank = 1;
    for (uint64_t off = 0; blank == 1 && off < WAL_BLANK_BYTES && off < dev->size_bytes; off += BLOCK_SIZE) {
        if (!read_at(dev, off, b, BLOCK_SIZE))
            blank = -EIO;
        for (uint32_t i = 0; blank == 1 && i < BLOCK_SIZE; i++)
            if (b->data[i])
                blank = 0;
    }
    buf_unref(b);
    uring_dev_close(dev);
    return blank;
}

/* ---- format ---- */

struct format {
    struct reactor *reactor;
    struct dir *dir;
    struct superblock sb;
    struct store_devices devices;
    struct dev *extent;
    struct dev_create_op create;
    unsigned step;
    int err;
    const char *what;
};

static void format_next(struct format *f);

static void on_formatted(void *user, int err)
{
    struct format *f = user;
    f->err = err;
    f->what = "its first checkpoint";
    f->reactor->stopping = true;
}

static void on_created(struct io_op *op)
{
    struct format *f = container_of(op, struct format, create.op);
    if (op->result < 0) {
        f->err = (int)op->result;
        f->reactor->stopping = true;
        return;
    }
    switch (f->step++) {
    case 0:
        f->devices.wal = f->create.dev;
        break;
    case 1:
        f->devices.meta = f->create.dev;
        break;
    case 2:
        f->extent = f->create.dev;
        f->devices.n_extents = 1;
        break;
    default:
        f->devices.superblock = f->create.dev;
        break;
    }
    format_next(f);
}

static void create(struct format *f, const char *name, uint64_t bytes)
{
    f->what = name;
    f->create.op.fn = on_created;
    dev_create(f->dir, name, bytes, &f->create);
}

/* The superblock is made last: until it says `complete`, the directory counts as half formatted. */
static void format_next(struct format *f)
{
    switch (f->step) {
    case 0:
        create(f, "wal", f->sb.wal_bytes);
        return;
    case 1:
        create(f, "meta", (2 + 2 * (uint64_t)f->sb.meta_pages) * BLOCK_SIZE);
        return;
    case 2:
        create(f, "extents/00000", f->sb.extent_bytes);
        return;
    case 3:
        create(f, "superblock", SUPERBLOCK_BYTES);
        return;
    default:
        f->devices.dir = f->dir;
        store_format(f->reactor, &f->devices, &f->sb, on_formatted, f);
    }
}

static int check_geometry(const struct datadir_geometry *g, char why[256])
{
    const uint64_t mib = 1 << 20, min = 64 * mib, max = 65536 * mib;
    if (g->wal_bytes < min || g->wal_bytes > max || g->wal_bytes % mib) {
        snprintf(why, 256, "the WAL's size must be a multiple of 1 MiB from 64 MiB to 64 GiB");
        return -EINVAL;
    }
    if (g->extent_bytes < min || g->extent_bytes > max || g->extent_bytes % mib) {
        snprintf(why, 256, "the extents' size must be a multiple of 1 MiB from 64 MiB to 64 GiB");
        return -EINVAL;
    }
    if (g->capacity_bytes && g->capacity_bytes < g->extent_bytes) {
        snprintf(why, 256, "the capacity must be at least one extent");
        return -EINVAL;
    }
    return 0;
}

static int held(const char *path, int err, char why[256])
{
    snprintf(why, 256, "%s: %s", path, err == -EWOULDBLOCK ? "a running daemon holds it" : strerror(-err));
    return err;
}

/* 0 when there is nothing, or only what an interrupted format left: no superblock that can be used, and a WAL that nothing was ever written to. */
static int check_vacant(struct dir *dir, const char *path, char why[256])
{
    struct dev *dev;
    struct superblock sb;
    const char *text = "it is missing";
    bool foreign = false;
    int err = uring_dev_open(dir, "superblock", 0, &dev);
    if (err && err != -ENOENT)
        return held(path, err, why);
    if (!err) {
        text = read_superblock(dev, &sb, &foreign);
        uring_dev_close(dev);
    }
    if (!text) {
        char id[37];
        snprintf(why, 256, "%s holds the data of %s (identity %s) already; remove the directory to destroy them", path, sb.name,
                 uuid_format(&sb.identity, id));
        return -EEXIST;
    }
    int blank = wal_is_blank(dir);
    if (blank < 0)
        return held(path, blank, why);
    if (!blank || foreign) {
        snprintf(why, 256, "%s holds data, though not by its superblock (%s); remove the directory to destroy them", path, text);
        return -EEXIST;
    }
    return 0;
}

/* What an interrupted format left, as check_vacant() has found; of any geometry. */
static int remove_leftovers(const char *path, char why[256])
{
    static const char *const names[] = {"superblock", "extents/00000", "meta", "wal"};
    for (unsigned i = 0; i < ARRAY_LEN(names); i++) {
        char file[512];
        snprintf(file, sizeof file, "%s/%s", path, names[i]);
        if (unlink(file) < 0 && errno != ENOENT) {
            int err = -errno;
            snprintf(why, 256, "can't remove %s/%s, which an interrupted format left: %s", path, names[i], strerror(-err));
            return err;
        }
    }
    return 0;
}

static void close_all(struct dir *dir, struct store_devices *d)
{
    for (uint32_t i = 0; i < d->n_extents; i++)
        uring_dev_close(d->extents[i]);
    struct dev *devs[] = {d->meta, d->wal, d->superblock};
    for (unsigned i = 0; i < ARRAY_LEN(devs); i++)
        if (devs[i])
            uring_dev_close(devs[i]);
    if (dir)
        uring_dir_close(dir);
}

static int format_locked(struct format *f, const char *path, const struct datadir_geometry *g, char why[256])
{
    int err = check_vacant(f->dir, path, why);
    if (!err)
        err = remove_leftovers(path, why);
    if (err)
        return err;
    f->sb.shard_count = 1;
    f->sb.n_extents = 1;
    f->sb.wal_bytes = g->wal_bytes;
    f->sb.extent_bytes = g->extent_bytes;
    f->sb.capacity_bytes = g->capacity_bytes;
    f->sb.meta_pages = META_PAGES;
    f->sb.formatted_at = io_wall_clock(f->reactor) / NS_PER_S;
    f->sb.generation = 1;
    io_random(f->reactor, f->sb.salt, sizeof f->sb.salt);
    f->devices.extents = &f->extent;
    format_next(f);
    f->reactor->stopping = false;
    uring_reactor_run(f->reactor);
    f->reactor->stopping = false;
    if (f->err)
        snprintf(why, 256, "formatting %s failed at %s: %s", path, f->what, strerror(-f->err));
    return f->err;
}

int datadir_format(struct reactor *r, const char *path, const struct uuid *cluster, const struct uuid *identity, const char *name,
                   const struct datadir_geometry *g, char why[256])
{
    int err = check_geometry(g, why);
    if (err)
        return err;
    if (mkdir(path, 0700) < 0 && errno != EEXIST) {
        err = -errno;
        snprintf(why, 256, "can't make %s: %s", path, strerror(-err));
        return err;
    }
    struct format f = {.reactor = r, .sb = {.cluster = *cluster, .identity = *identity}};
    strncpy(f.sb.name, name, sizeof f.sb.name - 1);
    err = uring_dir_open(r, path, &f.dir);
    if (err) {
        snprintf(why, 256, "can't open %s: %s", path, strerror(-err));
        return err;
    }
    /* Two at once would remove each other's files. */
    int lock = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (lock < 0 || flock(lock, LOCK_EX | LOCK_NB) < 0) {
        err = -errno;
        snprintf(why, 256, "%s: %s", path, err == -EWOULDBLOCK ? "it is being formatted already" : strerror(-err));
    } else {
        err = format_locked(&f, path, g, why);
    }
    close_all(f.dir, &f.devices);
    if (lock >= 0)
        close(lock);
    return err;
}

/* ---- open ---- */

static int open_dev(struct dir *d, const char *path, const char *name, struct dev **ret, char why[256])
{
    int err = uring_dev_open(d, name, 0, ret);
    if (err == -EWOULDBLOCK) {
        log_info("waiting up to %u s for the lock of %s: another daemon, or its last I/O, holds it", LOCK_WAIT_MS / 1000, path);
        err = uring_dev_open(d, name, LOCK_WAIT_MS, ret);
    }
    if (err == -EWOULDBLOCK)
        snprintf(why, 256, "%s: a running daemon holds it (%s is locked)", path, name);
    else if (err == -ENOENT)
        snprintf(why, 256, "%s/%s is missing", path, name);
    else if (err)
        snprintf(why, 256, "can't open %s/%s: %s", path, name, strerror(-err));
    return err;
}

static int check_owner(const struct superblock *sb, const char *path, const struct uuid *cluster, const char *name, char why[256])
{
    char id[37];
    if (!uuid_equal(&sb->cluster, cluster)) {
        snprintf(why, 256, "%s belongs to another cluster (%s)", path, uuid_format(&sb->cluster, id));
        return -EPERM;
    }
    if (strcmp(sb->name, name) != 0) {
        snprintf(why, 256, "%s belongs to another replica: it is %s's, not %s's", path, sb->name, name);
        return -EPERM;
    }
    return 0;
}

static int open_data(struct datadir *d, const char *path, char why[256])
{
    const struct superblock *sb = &d->superblock;
    int err = open_dev(d->dir, path, "wal", &d->devices.wal, why);
    if (!err)
        err = open_dev(d->dir, path, "meta", &d->devices.meta, why);
    if (err)
        return err;
    if (d->devices.wal->size_bytes < sb->wal_bytes || d->devices.meta->size_bytes < (2 + 2 * (uint64_t)sb->meta_pages) * BLOCK_SIZE) {
        snprintf(why, 256, "%s: wal or meta is shorter than the superblock says", path);
        return -EBADMSG;
    }
    if (sb->n_extents == 0 || sb->n_extents > EXTENTS_MAX) {
        snprintf(why, 256, "%s: the superblock counts %u extents", path, sb->n_extents);
        return -EBADMSG;
    }
    d->devices.extents = calloc(sb->n_extents, sizeof *d->devices.extents);
    if (!d->devices.extents) {
        snprintf(why, 256, "%s: out of memory", path);
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < sb->n_extents; i++) {
        char name[32];
        snprintf(name, sizeof name, "extents/%05u", i);
        err = open_dev(d->dir, path, name, &d->devices.extents[i], why);
        if (err)
            return err;
        d->devices.n_extents = i + 1;
        if (d->devices.extents[i]->size_bytes < sb->extent_bytes) {
            snprintf(why, 256, "%s/%s is shorter than the superblock says", path, name);
            return -EBADMSG;
        }
    }
    /* After all of them: those cannot be done without. */
    for (uint32_t i = 0; i < sb->n_extents; i++)
        if (!uring_dev_open_cached(d->dir, d->devices.extents[i])) {
            log_warning("%s: too few file descriptors: reads bypass the page cache from extent %u of %u on (raise LimitNOFILE=)", path, i, sb->n_extents);
            break;
        }
    return 0;
}

static int open_superblock(struct datadir *d, const char *path, char why[256])
{
    int err = open_dev(d->dir, path, "superblock", &d->devices.superblock, why);
    if (err && err != -ENOENT)
        return err;
    bool foreign = false;
    const char *text = err ? NULL : read_superblock(d->devices.superblock, &d->superblock, &foreign);
    if (!err && !text)
        return 0;
    if (text)
        snprintf(why, 256, "%s: superblock: %s", path, text);
    /* An interrupted format leaves no superblock; but neither does one that was lost, over whose data nobody should be told to format. */
    if (!foreign && wal_is_blank(d->dir) == 1)
        snprintf(why, 256, "%s is not formatted (%s): run qbd-replica format", path, text ? text : "or that was interrupted");
    return err ? err : -EBADMSG;
}

int datadir_open(struct reactor *r, const char *path, const struct uuid *cluster, const char *name, struct datadir *ret, char why[256])
{
    struct datadir d = {0};
    int err = uring_dir_open(r, path, &d.dir);
    if (err) {
        snprintf(why, 256, "can't open %s: %s", path, strerror(-err));
        return err;
    }
    d.devices.dir = d.dir;
    err = open_superblock(&d, path, why);
    if (!err)
        err = check_owner(&d.superblock, path, cluster, name, why);
    if (!err)
        err = open_data(&d, path, why);
    if (err) {
        datadir_close(&d);
        return err;
    }
    *ret = d;
    return 0;
}

void datadir_close(struct datadir *d)
{
    close_all(d->dir, &d->devices);
    free(d->devices.extents);
    memset(d, 0, sizeof *d);
}
