/* A replica's data directory on a real file system: an interrupted format can be made anew, whatever holds data is never formatted over, and what is refused is refused
 * with a sentence that says what to do. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>

#include "base/crc32c.h"
#include "replica/datadir.h"
#include "replica/superblock.h"
#include "tests/unit/uring_fixture.h"

#define MIB (UINT64_C(1) << 20)

extern void __gcov_dump(void) __attribute__((weak));

static const struct uuid cluster = {{0xc1, 1}}, identity = {{0xd1, 2}};
static const struct datadir_geometry geometry = {.wal_bytes = 64 * MIB, .extent_bytes = 64 * MIB};
static char why[256];
static char data[200]; /* the directory */

static void says(const char *text)
{
    if (!strstr(why, text))
        fail_msg("\"%s\" instead of \"%s\"", why, text);
}

static void fresh(const char *name)
{
    snprintf(data, sizeof data, "%s", in_dir(name));
    why[0] = 0;
}

static int format(const struct datadir_geometry *g)
{
    why[0] = 0;
    return datadir_format(reactor, data, &cluster, &identity, "replica-1", g, why);
}

static void format_ok(void)
{
    if (format(&geometry) < 0)
        fail_msg("%s", why);
}

static int open_it(struct datadir *d)
{
    why[0] = 0;
    return datadir_open(reactor, data, &cluster, "replica-1", d, why);
}

static void opens(void)
{
    struct datadir d;
    if (open_it(&d) < 0)
        fail_msg("%s", why);
    datadir_close(&d);
}

static void refused(int err, const char *text)
{
    struct datadir d, untouched;
    memset(&d, 0xaa, sizeof d);
    untouched = d;
    assert_int_equal(open_it(&d), err);
    assert_memory_equal(&d, &untouched, sizeof d);
    says(text);
}

static const char *file(const char *name)
{
    static char paths[4][300];
    static unsigned next;
    char *p = paths[next++ % 4];
    snprintf(p, 300, "%s/%s", data, name);
    return p;
}

static void put(const char *name, off_t off, const void *bytes, size_t n)
{
    int fd = open(file(name), O_RDWR);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, bytes, n, off), n);
    close(fd);
}

static void get(const char *name, off_t off, void *bytes, size_t n)
{
    int fd = open(file(name), O_RDONLY);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, bytes, n, off), n);
    close(fd);
}

static uint8_t saved[SUPERBLOCK_BYTES]; /* the formatted directory's superblock */

static void save(void)
{
    get("superblock", 0, saved, sizeof saved);
}

static void restore(void)
{
    put("superblock", 0, saved, sizeof saved);
}

/* As a replica's first batch would. */
static void write_to_wal(char c)
{
    put("wal", 100, &c, 1);
}

/* ---- what format makes ---- */

static void format_makes_what_open_takes(void **state)
{
    struct stat st;
    static uint8_t wal[4 * MIB], zeroes[4 * MIB];
    fresh("plain");
    struct datadir_geometry g = {.wal_bytes = 65 * MIB, .extent_bytes = 66 * MIB, .capacity_bytes = 200 * MIB};
    assert_int_equal(format(&g), 0);
    assert_int_equal(stat(data, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700); /* volumes' contents are nobody else's business */
    get("wal", 0, wal, sizeof wal);
    assert_memory_equal(wal, zeroes, sizeof wal);

    struct datadir d;
    assert_int_equal(open_it(&d), 0);
    const struct superblock *sb = &d.superblock;
    assert_true(uuid_equal(&sb->cluster, &cluster) && uuid_equal(&sb->identity, &identity));
    assert_string_equal(sb->name, "replica-1");
    assert_int_equal(sb->complete, 1);
    assert_int_equal(sb->n_extents, 1);
    assert_int_equal(sb->capacity_bytes, 200 * MIB);
    assert_memory_not_equal(sb->salt, zeroes, sizeof sb->salt);
    assert_int_equal(d.devices.wal->size_bytes, 65 * MIB);
    assert_int_equal(d.devices.n_extents, 1);
    assert_int_equal(d.devices.extents[0]->size_bytes, 66 * MIB);
    assert_true(stat(file("extents/00000"), &st) == 0 && (uint64_t)st.st_blocks * 512 >= 66 * MIB); /* allocated, not a hole */
    assert_ptr_equal(d.devices.dir, d.dir);

    /* All of it is locked, so that no other daemon comes near. */
    static const char *const names[] = {"superblock", "wal", "meta", "extents/00000"};
    for (unsigned i = 0; i < ARRAY_LEN(names); i++) {
        int fd = open(file(names[i]), O_RDWR);
        assert_int_equal(flock(fd, LOCK_EX | LOCK_NB), -1);
        close(fd);
    }
    assert_int_equal(format(&geometry), -EWOULDBLOCK);
    says("a running daemon holds it");
    datadir_close(&d);
    datadir_close(&d); /* a second time is nothing */

    save();
    assert_int_equal(format(&geometry), -EEXIST);
    says("holds the data of replica-1 (identity d1020000-");
    says("remove the directory to destroy them");
    uint8_t now[SUPERBLOCK_BYTES];
    get("superblock", 0, now, sizeof now);
    assert_memory_equal(now, saved, sizeof now);
    opens();
}

static void impossible_geometries_are_refused(void **state)
{
    static const struct {
        struct datadir_geometry g;
        const char *text;
    } bad[] = {
        {{63 * MIB, 64 * MIB, 0}, "the WAL's size must be"},
        {{65537 * MIB, 64 * MIB, 0}, "the WAL's size must be"},
        {{64 * MIB + 4096, 64 * MIB, 0}, "the WAL's size must be a multiple of 1 MiB"},
        {{64 * MIB, 0, 0}, "the extents' size must be"},
        {{64 * MIB, 65537 * MIB, 0}, "the extents' size must be"},
        {{64 * MIB, 64 * MIB + 512, 0}, "the extents' size must be a multiple of 1 MiB"},
        {{64 * MIB, 64 * MIB, 63 * MIB}, "the capacity must be at least one extent"},
    };
    fresh("geometry");
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
        assert_int_equal(format(&bad[i].g), -EINVAL);
        says(bad[i].text);
        assert_int_equal(access(data, F_OK), -1); /* nothing was begun */
    }
}

/* ---- a format that ends early ---- */

/* The n-th of: 4 devices made, so many writes of meta, a flush, the root, 4 copies of the superblock. */
enum { CREATES = 4, META_WRITES = 128, FLUSH = CREATES + META_WRITES + 1, ROOT, FIRST_COPY, STEPS = FIRST_COPY + 3 };

static struct {
    struct io_vtable io;
    const struct io_vtable *real;
    unsigned step, last;
    bool begun; /* the last step has begun when the process ends */
} cut;

static void leave(void)
{
    if (__gcov_dump)
        __gcov_dump();
    _exit(42);
}

static void cut_create(struct dir *d, const char *name, uint64_t bytes, struct dev_create_op *op)
{
    bool last = ++cut.step == cut.last;
    if (last && !cut.begun)
        leave();
    cut.real->dev_create(d, name, bytes, op);
    if (last)
        leave();
}

static void cut_write(struct dev *d, const struct iovec *iov, unsigned n, uint64_t off, unsigned flags, struct io_op *op)
{
    if (++cut.step == cut.last) {
        if (cut.begun)
            put(d->name, (off_t)off, iov[0].iov_base, 512); /* torn */
        leave();
    }
    cut.real->dev_write(d, iov, n, off, flags, op);
}

static void cut_flush(struct dev *d, struct io_op *op)
{
    if (++cut.step == cut.last)
        leave();
    cut.real->dev_flush(d, op);
}

/* A process of its own formats, and dies at that step. */
static void format_cut(unsigned step, bool begun)
{
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (setup_reactor(NULL) < 0)
            _exit(1);
        cut.real = reactor->io;
        cut.io = *reactor->io;
        cut.io.dev_create = cut_create;
        cut.io.dev_write = cut_write;
        cut.io.dev_flush = cut_flush;
        cut.last = step;
        cut.begun = begun;
        reactor->io = &cut.io;
        _exit(format(&geometry) == 0 ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) != 42)
        fail_msg("step %u was not reached: %d", step, WEXITSTATUS(status));
}

static void a_format_cut_short_is_made_anew(void **state)
{
    static const struct {
        unsigned step;
        bool begun;
    } cuts[] = {{1, true}, {2, false}, {4, false}, {4, true}, {CREATES + 1, true}, {CREATES + META_WRITES, false}, {FLUSH, false},
                {ROOT, true}, {FIRST_COPY, false}, {FIRST_COPY, true}, {STEPS, false}};
    for (unsigned i = 0; i < ARRAY_LEN(cuts); i++) {
        char name[32], command[300];
        snprintf(name, sizeof name, "cut-%u", i);
        fresh(name);
        format_cut(cuts[i].step, cuts[i].begun);
        if (cuts[i].step + cuts[i].begun > FIRST_COPY) { /* one copy says "complete": all of it is in its first sector */
            opens();
            assert_int_equal(format(&geometry), -EEXIST);
        } else {
            struct datadir d;
            assert_true(open_it(&d) < 0);
            says("run qbd-replica format");
            format_ok();
            opens();
        }
        snprintf(command, sizeof command, "rm -r '%s'", data);
        assert_int_equal(system(command), 0);
    }
}

static void another_geometry_may_follow_a_format_cut_short(void **state)
{
    fresh("other-geometry");
    format_cut(FIRST_COPY, false);
    struct datadir_geometry g = {.wal_bytes = 66 * MIB, .extent_bytes = 65 * MIB};
    assert_int_equal(format(&g), 0);
    struct datadir d;
    assert_int_equal(open_it(&d), 0);
    assert_int_equal(d.devices.wal->size_bytes, 66 * MIB);
    assert_int_equal(d.devices.extents[0]->size_bytes, 65 * MIB);
    datadir_close(&d);
}

/* A process holds what a daemon would. */
static pid_t holder(const char *path)
{
    int fds[2];
    char c;
    assert_int_equal(pipe(fds), 0);
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        int fd = open(path, O_RDONLY);
        if (fd < 0 || flock(fd, LOCK_EX) < 0 || write(fds[1], "x", 1) != 1)
            _exit(1);
        pause();
    }
    close(fds[1]);
    assert_int_equal(read(fds[0], &c, 1), 1);
    close(fds[0]);
    return pid;
}

static void release(pid_t pid)
{
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

static void two_formats_do_not_meet(void **state)
{
    fresh("two");
    format_cut(3, false);
    pid_t pid = holder(data);
    assert_int_equal(format(&geometry), -EWOULDBLOCK);
    says("being formatted already");
    release(pid);
    pid = holder(file("wal")); /* a daemon's last I/O may still be landing there */
    assert_int_equal(format(&geometry), -EWOULDBLOCK);
    says("a running daemon holds it");
    assert_int_equal(access(file("meta"), F_OK), 0);
    release(pid);
    format_ok();
    opens();
}

static void fail_write(struct dev *d, const struct iovec *iov, unsigned n, uint64_t off, unsigned flags, struct io_op *op)
{
    cut.real->dev_write(d, iov, n, (uint64_t)INT64_MAX / BLOCK_SIZE * BLOCK_SIZE, flags, op);
}

static void a_format_that_fails_says_where(void **state)
{
    snprintf(data, sizeof data, "%s", in_dir("no/such"));
    assert_int_equal(format(&geometry), -ENOENT);
    says("can't make ");
    says("No such file or directory");

    fresh("a-file");
    close(open(data, O_CREAT | O_WRONLY, 0600));
    assert_int_equal(format(&geometry), -ENOTDIR);
    says("can't open ");

    fresh("blocked");
    assert_int_equal(mkdir(data, 0700), 0);
    close(open(file("extents"), O_CREAT | O_WRONLY, 0600));
    assert_int_equal(format(&geometry), -ENOTDIR);
    says("can't remove ");
    says("/extents/00000");
    unlink(file("extents"));
    assert_int_equal(mkdir(file("meta"), 0700), 0);
    assert_int_equal(format(&geometry), -EISDIR);
    says("/meta, which an interrupted format left: Is a directory");
    assert_int_equal(rmdir(file("meta")), 0);
    assert_int_equal(mkdir(file("wal.tmp"), 0700), 0);
    assert_int_equal(format(&geometry), -EISDIR);
    says("failed at wal: Is a directory");
    assert_int_equal(rmdir(file("wal.tmp")), 0);

    cut.real = reactor->io;
    cut.io = *reactor->io;
    cut.io.dev_write = fail_write;
    reactor->io = &cut.io;
    assert_int_not_equal(format(&geometry), 0);
    says("failed at its first checkpoint: ");
    reactor->io = cut.real;
    refused(-EBADMSG, "run qbd-replica format");
    format_ok(); /* nothing of it is held any more */
    opens();
}

/* ---- what holds data is not formatted over ---- */

static void unreadable(struct dev *d, const struct iovec *iov, unsigned n, uint64_t off, struct io_op *op)
{
    cut.real->dev_read(d, iov, n, off + (UINT64_C(1) << 40), op);
}

static void data_without_a_superblock_are_kept(void **state)
{
    fresh("keep");
    format_ok();
    save();
    write_to_wal('x');

    /* Lost, all copies rotten, all zero, cut off: never formatted over, nor is anybody told to. */
    static const char *const now[] = {"is missing", "all copies of the superblock are damaged", "not a qbd data directory", "it is too short"};
    for (unsigned i = 0; i < ARRAY_LEN(now); i++) {
        uint8_t image[SUPERBLOCK_BYTES];
        memcpy(image, saved, sizeof image);
        if (i == 0)
            assert_int_equal(rename(file("superblock"), file("lost")), 0);
        for (unsigned copy = 0; copy < SUPERBLOCK_COPIES; copy++)
            image[copy * SUPERBLOCK_STRIDE + 100] ^= 1;
        if (i == 1)
            put("superblock", 0, image, sizeof image);
        memset(image, 0, sizeof image);
        if (i == 2)
            put("superblock", 0, image, sizeof image);
        if (i == 3)
            assert_int_equal(truncate(file("superblock"), SUPERBLOCK_BYTES - BLOCK_SIZE), 0);
        refused(i == 0 ? -ENOENT : -EBADMSG, now[i]);
        assert_null(strstr(why, "run qbd-replica format"));
        assert_int_equal(format(&geometry), -EEXIST);
        says(now[i]);
        says("remove the directory to destroy them");
        char c;
        get("wal", 100, &c, 1);
        assert_int_equal(c, 'x');
        if (i == 0)
            assert_int_equal(rename(file("lost"), file("superblock")), 0);
        restore();
        opens();
    }

    /* A disk that reads nothing at all. */
    cut.real = reactor->io;
    cut.io = *reactor->io;
    cut.io.dev_read = unreadable;
    reactor->io = &cut.io;
    refused(-EBADMSG, "superblock: it can't be read");
    assert_null(strstr(why, "run qbd-replica format"));
    assert_int_equal(format(&geometry), -EIO);
    reactor->io = cut.real;
    opens();
}

static void one_good_copy_is_enough(void **state)
{
    fresh("keep");
    for (unsigned good = 0; good < SUPERBLOCK_COPIES; good++) {
        uint8_t image[SUPERBLOCK_BYTES];
        memset(image, 0x5a, sizeof image);
        memcpy(image + good * SUPERBLOCK_STRIDE, saved + good * SUPERBLOCK_STRIDE, SUPERBLOCK_STRIDE);
        put("superblock", 0, image, sizeof image);
        opens();
    }
    restore();
}

/* ---- what is somebody else's ---- */

static void put_superblock(const struct superblock *s)
{
    struct superblock sealed = *s;
    uint32_t version = s->version;
    superblock_seal(&sealed);
    if (version != DISK_VERSION) { /* sealed as that version would */
        sealed.version = version;
        sealed.crc = 0;
        sealed.crc = crc32c(&sealed, sizeof sealed);
    }
    for (unsigned i = 0; i < SUPERBLOCK_COPIES; i++)
        put("superblock", (off_t)i * SUPERBLOCK_STRIDE, &sealed, sizeof sealed);
}

static void another_versions_data_are_refused_and_kept(void **state)
{
    struct superblock s;
    char zero = 0;
    fresh("keep");
    for (unsigned blank = 0; blank < 2; blank++) { /* even where nothing was written yet */
        write_to_wal(blank ? zero : 'x');
        for (unsigned i = 0; i < 3; i++) {
            static const char *const text[] = {"format version 99 is not known", "unknown incompatible features 0x10", "unknown features 0x20 forbid writing"};
            memcpy(&s, saved, sizeof s);
            if (i == 0)
                s.version = 99;
            else if (i == 1)
                s.features_incompat = 0x10;
            else
                s.features_ro_compat = 0x20;
            put_superblock(&s);
            refused(-EBADMSG, text[i]);
            assert_null(strstr(why, "run qbd-replica format"));
            assert_int_equal(format(&geometry), -EEXIST);
            says(text[i]);
        }
    }
    restore();
}

static void other_owners_are_named(void **state)
{
    struct datadir d;
    struct uuid other = {{0xee}};
    fresh("keep");
    assert_int_equal(datadir_open(reactor, data, &other, "replica-1", &d, why), -EPERM);
    says("belongs to another cluster (c1010000-");
    assert_int_equal(datadir_open(reactor, data, &cluster, "replica-2", &d, why), -EPERM);
    says("it is replica-1's, not replica-2's");
    snprintf(data, sizeof data, "%s", in_dir("nothing"));
    refused(-ENOENT, "can't open ");
    fresh("empty");
    assert_int_equal(mkdir(data, 0700), 0);
    refused(-ENOENT, "is not formatted");
    says("run qbd-replica format");
}

/* ---- what is not whole ---- */

static void missing_and_short_files_are_named(void **state)
{
    static const char *const names[] = {"wal", "meta", "extents/00000"};
    fresh("keep");
    write_to_wal('x');
    for (unsigned i = 0; i < ARRAY_LEN(names); i++) {
        struct stat st;
        assert_int_equal(rename(file(names[i]), file("away")), 0);
        refused(-ENOENT, names[i]);
        says("is missing");
        assert_int_equal(format(&geometry), -EEXIST);
        assert_int_equal(mkdir(file(names[i]), 0700), 0);
        refused(-EISDIR, "can't open ");
        assert_int_equal(rmdir(file(names[i])), 0);
        assert_int_equal(rename(file("away"), file(names[i])), 0);

        assert_int_equal(stat(file(names[i]), &st), 0);
        assert_int_equal(truncate(file(names[i]), st.st_size - 1), 0);
        refused(-EBADMSG, "shorter than the superblock says");
        assert_int_equal(truncate(file(names[i]), st.st_size), 0);
        opens();
    }
    struct superblock s;
    static const uint32_t counts[] = {0, 65537};
    for (unsigned i = 0; i < ARRAY_LEN(counts); i++) {
        memcpy(&s, saved, sizeof s);
        s.n_extents = counts[i];
        put_superblock(&s);
        refused(-EBADMSG, i ? "counts 65537 extents" : "counts 0 extents");
    }
    s.n_extents = 2; /* the second one is gone: the first is let go of in order */
    put_superblock(&s);
    refused(-ENOENT, "extents/00001 is missing");
    restore();
    opens();
}

static void a_held_directory_is_waited_for(void **state)
{
    fresh("keep");
    pid_t pid = holder(file("meta"));
    pid_t killer = fork();
    if (killer == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        struct timespec ts = {.tv_nsec = 200000000};
        nanosleep(&ts, NULL);
        kill(pid, SIGKILL);
        _exit(0);
    }
    opens(); /* a daemon that was killed a moment ago is no reason to refuse */
    waitpid(killer, NULL, 0);
    waitpid(pid, NULL, 0);
    pid = holder(file("wal"));
    refused(-EWOULDBLOCK, "a running daemon holds it (wal is locked)");
    release(pid);
    opens();
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup_reactor, teardown_reactor)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(format_makes_what_open_takes),
        TEST(impossible_geometries_are_refused),
        TEST(a_format_cut_short_is_made_anew),
        TEST(another_geometry_may_follow_a_format_cut_short),
        TEST(two_formats_do_not_meet),
        TEST(a_format_that_fails_says_where),
        TEST(data_without_a_superblock_are_kept),
        TEST(one_good_copy_is_enough),
        TEST(another_versions_data_are_refused_and_kept),
        TEST(other_owners_are_named),
        TEST(missing_and_short_files_are_named),
        TEST(a_held_directory_is_waited_for),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
