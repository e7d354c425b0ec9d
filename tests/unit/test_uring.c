/* The io_uring reactor with real files and sockets: io.h's promises, one by one. tests/unit/test_uring_conn.c has the connections. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/uring.h"
#include "tests/unit/uring_fixture.h"

/* ---- time ---- */

static unsigned fired[16], n_fired;

struct probe {
    struct timer timer;
    unsigned id;
    uint64_t due;
};

static void on_probe(struct timer *t)
{
    struct probe *p = container_of(t, struct probe, timer);
    assert_true(io_now(reactor) >= p->due);
    fired[n_fired++] = p->id;
    if (p->id == 9)
        reactor->stopping = true;
}

static void timers_fire_in_order_and_never_early(void **state)
{
    struct probe p[10] = {0};
    uint64_t now = io_now(reactor);
    n_fired = 0;
    for (unsigned i = 0; i < 10; i++) {
        p[i].timer.fn = on_probe;
        p[i].id = i;
        p[i].due = now + (i == 1 ? 0 : i * 2 * NS_PER_MS);
        timer_set(reactor, &p[i].timer, i == 1 ? 0 : p[i].due);
    }
    timer_cancel(reactor, &p[5].timer);
    p[2].due = now + 9 * NS_PER_MS;
    timer_set(reactor, &p[2].timer, p[2].due); /* now between 4 and 6 */
    run();
    static const unsigned expected[] = {1, 0, 3, 4, 2, 6, 7, 8, 9};
    assert_int_equal(n_fired, ARRAY_LEN(expected));
    assert_memory_equal(fired, expected, sizeof expected);
}

static char hook_order[8];

static void hook_a(struct turn_hook *h)
{
    strncat(hook_order, "a", sizeof hook_order - strlen(hook_order) - 1);
}

static void hook_b(struct turn_hook *h)
{
    strncat(hook_order, "b", sizeof hook_order - strlen(hook_order) - 1);
    reactor->stopping = true;
}

static void hooks_run_in_each_turn_in_their_order(void **state)
{
    static struct turn_hook a, b;
    a = (struct turn_hook){.fn = hook_a};
    b = (struct turn_hook){.fn = hook_b};
    reactor_add_hook(reactor, &a);
    reactor_add_hook(reactor, &b);
    hook_order[0] = 0;
    run();
    run();
    assert_string_equal(hook_order, "abab");
    reactor->hooks = NULL;
}

static void chance_and_clocks(void **state)
{
    uint8_t a[300] = {0}, b[300] = {0};
    io_random(reactor, a, sizeof a);
    io_random(reactor, b, sizeof b);
    assert_memory_not_equal(a, b, sizeof a);
    uint64_t t = io_now(reactor);
    assert_true(io_now(reactor) >= t);
    assert_true(io_wall_clock(reactor) > 1700000000ull * NS_PER_S);
}

static unsigned n_signals;

static void on_signal(int signo, void *user)
{
    assert_ptr_equal(user, &n_signals);
    assert_true(signo == SIGUSR1 || signo == SIGUSR2);
    if (++n_signals == 2)
        reactor->stopping = true;
    else
        raise(SIGUSR2);
}

static void signals_come_through_the_loop(void **state)
{
    static const int signals[] = {SIGUSR1, SIGUSR2};
    n_signals = 0;
    assert_int_equal(uring_on_signals(reactor, signals, 2, on_signal, &n_signals), 0);
    raise(SIGUSR1);
    assert_int_equal(n_signals, 0); /* blocked: it waits for the loop */
    run();
    assert_int_equal(n_signals, 2);
}

/* ---- devices ---- */

static struct dir *dir;

static void on_op(struct io_op *op)
{
    reactor->stopping = true;
}

static int64_t finish(struct io_op *op)
{
    assert_non_null(op->fn);
    run();
    return op->result;
}

static struct dev *create(const char *name, uint64_t size)
{
    struct dev_create_op op = {.op.fn = on_op};
    dev_create(dir, name, size, &op);
    assert_int_equal(finish(&op.op), 0);
    assert_non_null(op.dev);
    return op.dev;
}

static int64_t create_fails(const char *name, uint64_t size)
{
    struct dev_create_op op = {.op.fn = on_op, .dev = (void *)1};
    dev_create(dir, name, size, &op);
    int64_t r = finish(&op.op);
    assert_null(op.dev);
    return r;
}

static int64_t rw(struct dev *d, bool write, void *p, size_t n, uint64_t off, unsigned flags)
{
    struct io_op op = {.fn = on_op};
    struct iovec iov = {p, n};
    if (write)
        dev_write(d, &iov, 1, off, flags, &op);
    else
        dev_read(d, &iov, 1, off, &op);
    return finish(&op);
}

static void devices_are_made_and_hold_what_is_written(void **state)
{
    struct dev *d = create("extents/00000", 3 << 20);
    assert_int_equal(d->size_bytes, 3 << 20);
    assert_string_equal(d->name, "extents/00000");
    struct stat st;
    assert_int_equal(stat(in_dir("extents/00000"), &st), 0);
    assert_int_equal(st.st_size, 3 << 20);
    assert_int_equal(stat(in_dir("extents/00000.tmp"), &st), -1);

    uint8_t *a = aligned_alloc(4096, 3 << 20), *b = aligned_alloc(4096, 3 << 20);
    memset(a, 0xff, 3 << 20);
    assert_int_equal(rw(d, false, a, 3 << 20, 0, 0), 3 << 20);
    for (size_t i = 0; i < 3 << 20; i++)
        assert_int_equal(a[i], 0);

    /* One durable write, one gathered from 300 pieces that go backwards in memory, a flush, and read scattered. */
    pattern(a, 3 << 20, 1);
    assert_int_equal(rw(d, true, a, 64 << 10, 0, IO_DURABLE), 64 << 10);
    struct iovec iov[300];
    for (unsigned i = 0; i < 300; i++)
        iov[i] = (struct iovec){a + (64 << 10) + (299 - i) * 4096, 4096};
    struct io_op op = {.fn = on_op};
    dev_write(d, iov, 300, 64 << 10, 0, &op);
    assert_int_equal(finish(&op), 300 * 4096);
    dev_flush(d, &op);
    assert_int_equal(finish(&op), 0);
    memset(b, 0, 3 << 20);
    for (unsigned i = 0; i < 300; i++)
        iov[i].iov_base = b + (64 << 10) + (299 - i) * 4096;
    dev_read(d, iov, 300, 64 << 10, &op);
    assert_int_equal(finish(&op), 300 * 4096);
    assert_int_equal(rw(d, false, b, 64 << 10, 0, 0), 64 << 10);
    assert_memory_equal(a, b, (64 << 10) + 300 * 4096);

    dev_discard(d, 4096, 8192, &op);
    assert_int_equal(finish(&op), 0);
    uring_dev_close(d);

    /* It is there after the next start. */
    assert_int_equal(uring_dev_open(dir, "extents/00000", 0, &d), 0);
    assert_int_equal(d->size_bytes, 3 << 20);
    assert_int_equal(rw(d, false, b, 4096, 0, 0), 4096);
    assert_memory_equal(a, b, 4096);
    /* Beyond the end, wholly and in part: an error, never a short read. */
    assert_int_equal(rw(d, false, b, 4096, 3 << 20, 0), -EIO);
    assert_int_equal(rw(d, false, b, 8192, (3 << 20) - 4096, 0), -EIO);
    uring_dev_close(d);
    free(a);
    free(b);
}

static int64_t read_cached(struct dev *d, void *p, size_t n, uint64_t off)
{
    struct io_op op = {.fn = on_op};
    dev_read_cached(d, &(struct iovec){p, n}, 1, off, &op);
    return finish(&op);
}

static unsigned n_counted;

static void on_counted(struct io_op *op)
{
    assert_int_equal(op->result, 4096);
    n_counted++;
    reactor->stopping = true;
}

static void a_cached_read_sees_every_completed_write(void **state)
{
    struct dev *d = create("extents/cached", 1 << 20);
    uint8_t *a = aligned_alloc(4096, 64 << 10), *b = aligned_alloc(4096, 64 << 10);
    for (unsigned round = 0; round < 100; round++) {
        /* All of it is in the cache; then one block is written while its neighbours are read through the cache, and those behind them ahead. */
        uint64_t at = round * 7 % 16 * 4096;
        assert_int_equal(read_cached(d, b, 64 << 10, 0), 64 << 10);
        pattern(a, 4096, round);
        struct io_op write = {.fn = on_counted}, before = {.fn = on_counted}, behind = {.fn = on_counted};
        n_counted = 0;
        dev_write(d, &(struct iovec){a, 4096}, 1, at, round % 2 ? IO_DURABLE : 0, &write);
        dev_read_cached(d, &(struct iovec){b, 4096}, 1, (at + 60 * 4096) % (64 << 10), &before);
        dev_read_cached(d, &(struct iovec){b + 4096, 4096}, 1, at + 4096, &behind);
        while (n_counted < 3)
            run();
        assert_int_equal(read_cached(d, b, 4096, at), 4096);
        assert_memory_equal(a, b, 4096);
        assert_int_equal(rw(d, false, b, 4096, at, 0), 4096);
        assert_memory_equal(a, b, 4096);
    }
    assert_int_equal(read_cached(d, b, 8192, (1 << 20) - 4096), -EIO); /* beyond the end */
    uring_dev_close(d);
    free(a);
    free(b);
}

static bool has_two_descriptors(const char *name)
{
    unsigned n = 0;
    struct stat want, st;
    assert_int_equal(stat(in_dir(name), &want), 0);
    for (int fd = 0; fd < 256; fd++)
        n += fstat(fd, &st) == 0 && st.st_dev == want.st_dev && st.st_ino == want.st_ino;
    return n == 2;
}

static void cached_reads_are_direct_where_there_is_no_descriptor(void **state)
{
    struct dev *d = create("extents/few", 1 << 20);
    uint8_t *a = aligned_alloc(4096, 4096), *b = aligned_alloc(4096, 4096);
    assert_true(has_two_descriptors("extents/few"));
    pattern(a, 4096, 5);
    assert_int_equal(rw(d, true, a, 4096, 8192, 0), 4096);
    uring_dev_close(d);
    assert_int_equal(uring_dev_open(dir, "extents/few", 0, &d), 0);
    struct rlimit was, few = {10, 10};
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &was), 0);
    few.rlim_max = was.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
    assert_false(uring_dev_open_cached(dir, d));
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &was), 0);
    assert_false(has_two_descriptors("extents/few"));
    assert_int_equal(read_cached(d, b, 4096, 8192), 4096);
    assert_memory_equal(a, b, 4096);
    assert_true(uring_dev_open_cached(dir, d));
    assert_true(uring_dev_open_cached(dir, d));
    assert_true(has_two_descriptors("extents/few"));
    memset(b, 0, 4096);
    assert_int_equal(read_cached(d, b, 4096, 8192), 4096);
    assert_memory_equal(a, b, 4096);
    uring_dev_close(d);
    free(a);
    free(b);
}

static void short_reads_go_on_where_they_stopped(void **state)
{
    /* The end of the file comes in the middle of the third of five pieces: two blocks and a half are read, two of them count, and the rest is an error. */
    int fd = open(in_dir("odd"), O_CREAT | O_RDWR, 0600);
    assert_int_equal(ftruncate(fd, 5 * 4096), 0);
    struct dev *d;
    assert_int_equal(uring_dev_open(dir, "odd", 0, &d), 0);
    assert_int_equal(ftruncate(fd, 2 * 4096 + 2048), 0);
    uint8_t *p = aligned_alloc(4096, 5 * 4096);
    struct iovec iov[5];
    for (unsigned i = 0; i < 5; i++)
        iov[i] = (struct iovec){p + i * 4096, 4096};
    struct io_op op = {.fn = on_op};
    dev_read(d, iov, 5, 0, &op);
    assert_int_equal(finish(&op), -EIO);
    uring_dev_close(d);
    close(fd);
    free(p);
}

static void bad_devices_are_refused(void **state)
{
    static const char *const names[] = {"", ".", "..", "../x", "/x", "x/", "a/b/c", "a/../b", ".hidden", "a/.b",
                                        "0123456789012345678901234567890123456789012345678901234567890123"};
    struct dev *d = NULL;
    for (unsigned i = 0; i < ARRAY_LEN(names); i++) {
        assert_int_equal(create_fails(names[i], 4096), -EINVAL);
        assert_int_equal(uring_dev_open(dir, names[i], 0, &d), -EINVAL);
    }
    assert_int_equal(create_fails("x", 0), -EINVAL);
    assert_int_equal(create_fails("x", 4097), -EINVAL);
    assert_int_equal(uring_dev_open(dir, "none", 0, &d), -ENOENT);
    int64_t r = create_fails("huge", UINT64_C(1) << 50);
    assert_true(r == -ENOSPC || r == -EFBIG);
    struct stat st;
    assert_int_equal(stat(in_dir("huge"), &st), -1);
    assert_int_equal(stat(in_dir("huge.tmp"), &st), -1);
    d = create("twice", 8192);
    assert_int_equal(create_fails("twice", 8192), -EEXIST); /* held */
    uring_dev_close(d);
    d = NULL;
    assert_int_equal(create_fails("twice", 4096), -EEXIST); /* of another size */
    assert_int_equal(stat(in_dir("twice"), &st), 0);
    assert_int_equal(st.st_size, 8192);
    assert_int_equal(mkdir(in_dir("folder"), 0700), 0);
    assert_int_equal(create_fails("folder", 4096), -EEXIST);
    assert_int_equal(symlink("twice", in_dir("link")), 0);
    assert_int_equal(create_fails("link", 8192), -EEXIST);
    struct dir *none;
    assert_int_equal(uring_dir_open(reactor, in_dir("nothing"), &none), -ENOENT);
    assert_int_equal(uring_dir_open(reactor, in_dir("twice"), &none), -ENOTDIR);
    assert_null(d);
}

/* Made and not yet counted by anybody when the process died. */
static void a_blank_device_that_was_left_is_taken(void **state)
{
    struct stat before, after;
    uring_dev_close(create("left", 3 << 20));
    assert_int_equal(stat(in_dir("left"), &before), 0);
    struct dev *d = create("left", 3 << 20);
    assert_int_equal(stat(in_dir("left"), &after), 0);
    assert_int_equal(before.st_ino, after.st_ino);
    int fd = open(in_dir("left"), O_RDWR);
    assert_int_equal(flock(fd, LOCK_EX | LOCK_NB), -1); /* and held */
    uring_dev_close(d);

    /* One byte in it, wherever, is somebody's data. */
    static const off_t at[] = {0, (2 << 20) - 1, (3 << 20) - 1};
    for (unsigned i = 0; i < ARRAY_LEN(at); i++) {
        char c = 'x';
        assert_int_equal(pwrite(fd, &c, 1, at[i]), 1);
        assert_int_equal(create_fails("left", 3 << 20), -EEXIST);
        assert_int_equal(pread(fd, &c, 1, at[i]), 1);
        assert_int_equal(c, 'x');
        c = 0;
        assert_int_equal(pwrite(fd, &c, 1, at[i]), 1);
    }
    close(fd);
    uring_dev_close(create("left", 3 << 20));
}

/* A process that holds the lock of path; it says so through *ret_fd. */
static pid_t holder(const char *path, int *ret_fd)
{
    int fds[2];
    char c;
    assert_int_equal(pipe(fds), 0);
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* a test that fails leaves nobody behind */
        int fd = open(path, O_RDWR);
        if (fd < 0 || flock(fd, LOCK_EX) < 0 || write(fds[1], "x", 1) != 1)
            _exit(1);
        pause();
        _exit(0);
    }
    close(fds[1]);
    assert_int_equal(read(fds[0], &c, 1), 1);
    *ret_fd = fds[0];
    return pid;
}

static void a_locked_device_is_refused_then_waited_for(void **state)
{
    struct dev *d;
    int fd, status;
    uring_dev_close(create("locked", 4096));
    pid_t pid = holder(in_dir("locked"), &fd);
    uint64_t before = io_now(reactor);
    assert_int_equal(uring_dev_open(dir, "locked", 0, &d), -EWOULDBLOCK);
    assert_int_equal(uring_dev_open(dir, "locked", 30, &d), -EWOULDBLOCK);
    assert_true(io_now(reactor) - before >= 30 * NS_PER_MS);
    kill(pid, SIGKILL);
    assert_int_equal(uring_dev_open(dir, "locked", 10000, &d), 0);
    waitpid(pid, &status, 0);
    close(fd);

    /* And ours is held against others, from the creation on. */
    int other = open(in_dir("locked"), O_RDWR);
    assert_int_equal(flock(other, LOCK_EX | LOCK_NB), -1);
    assert_int_equal(errno, EWOULDBLOCK);
    uring_dev_close(d);
    assert_int_equal(flock(other, LOCK_EX | LOCK_NB), 0);
    close(other);
    d = create("locked2", 4096);
    other = open(in_dir("locked2"), O_RDWR);
    assert_int_equal(flock(other, LOCK_EX | LOCK_NB), -1);
    close(other);
    uring_dev_close(d);
}

/* The answer is late, the result and the contents are what they were; reads are as fast as ever, and it can be switched off. */
static void slow_writes_are_answered_late(void **state)
{
    struct dev_slowness s = {.on = true, .delay_ns = 30 * NS_PER_MS};
    struct dev *d = create("slow", 8 * 4096);
    uint8_t *a = aligned_alloc(4096, 8 * 4096), *b = aligned_alloc(4096, 8 * 4096);
    pattern(a, 8 * 4096, 1);
    uring_dev_slow(d, &s);
    uint64_t begun = io_now(reactor);
    assert_int_equal(rw(d, true, a, 4 * 4096, 0, IO_DURABLE), 4 * 4096);
    assert_true(io_now(reactor) - begun >= 30 * NS_PER_MS);
    s.delay_ns = 0;
    s.factor = 300;
    begun = io_now(reactor);
    assert_int_equal(rw(d, true, a + 4 * 4096, 2 * 4096, 4 * 4096, IO_DURABLE), 2 * 4096);
    assert_true(io_now(reactor) - begun >= NS_PER_MS); /* no device is durable within 3 us */
    /* One that began while it was on keeps its lateness. */
    s.factor = 0;
    s.delay_ns = 30 * NS_PER_MS;
    struct io_op op = {.fn = on_op};
    struct iovec iov = {a + 6 * 4096, 4096};
    begun = io_now(reactor);
    dev_write(d, &iov, 1, 6 * 4096, IO_DURABLE, &op);
    s.on = false;
    assert_int_equal(finish(&op), 4096);
    assert_true(io_now(reactor) - begun >= 30 * NS_PER_MS);
    s.delay_ns = 3600 * NS_PER_S; /* the watchdog would see it */
    assert_int_equal(rw(d, true, a + 7 * 4096, 4096, 7 * 4096, IO_DURABLE), 4096);
    s.on = true;
    assert_int_equal(rw(d, false, b, 8 * 4096, 0, 0), 8 * 4096);
    assert_memory_equal(a, b, 8 * 4096);
    uring_dev_slow(d, NULL);
    assert_int_equal(rw(d, true, a, 4096, 0, IO_DURABLE), 4096);
    uring_dev_close(d);
    free(a);
    free(b);
}

static unsigned n_done;

static void on_one_of_many(struct io_op *op)
{
    assert_int_equal(op->result, 4096);
    if (--n_done == 0)
        reactor->stopping = true;
}

/* More than the submission and the completion queue hold. */
static void any_number_of_operations_may_be_in_flight(void **state)
{
    enum { N = 20000 };
    struct dev *d = create("many", 64 * 4096);
    struct io_op *ops = calloc(N, sizeof *ops);
    struct iovec *iov = calloc(N, sizeof *iov);
    uint8_t *p = aligned_alloc(4096, 64 * 4096);
    n_done = N;
    for (unsigned i = 0; i < N; i++) {
        ops[i].fn = on_one_of_many;
        iov[i] = (struct iovec){p + i % 64 * 4096, 4096};
        dev_read(d, &iov[i], 1, i % 64 * 4096, &ops[i]);
    }
    assert_int_equal(n_done, N); /* never from inside the call */
    run();
    assert_int_equal(n_done, 0);
    uring_dev_close(d);
    free(p);
    free(iov);
    free(ops);
}

static unsigned creates_left;

static void on_created(struct io_op *op)
{
    assert_int_equal(op->result, 0);
    if (--creates_left == 0)
        reactor->stopping = true;
}

static void several_devices_are_made_at_once(void **state)
{
    struct dev_create_op ops[4] = {0};
    char name[16];
    creates_left = 4;
    for (unsigned i = 0; i < 4; i++) {
        ops[i].op.fn = on_created;
        snprintf(name, sizeof name, "set/%u", i);
        ops[i].patience = i;
        ops[i].allocate_only = i == 3;
        dev_create(dir, name, 2 << 20, &ops[i]);
    }
    run();
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(ops[i].done_bytes, i == 3 ? 0 : 2 << 20); /* how much was filled */
        assert_int_equal(ops[i].dev->size_bytes, 2 << 20);
        uring_dev_close(ops[i].dev);
    }
}

struct reader {
    struct io_op op;
    struct dev *d;
    struct iovec iov;
    unsigned n;
    bool enough;
};

static void read_again(struct io_op *op)
{
    struct reader *r = container_of(op, struct reader, op);
    assert_int_equal(op->result, 4096);
    r->n++;
    if (r->enough)
        reactor->stopping = true;
    else
        dev_read(r->d, &r->iov, 1, 0, op);
}

/* The helper makes room for the reactor's own operations, and still comes to an end. */
static void devices_are_made_beside_other_work(void **state)
{
    struct reader r = {.op.fn = read_again, .d = create("busy", 4096), .iov = {aligned_alloc(4096, 4096), 4096}};
    dev_read(r.d, &r.iov, 1, 0, &r.op);
    struct dev *d = create("beside", 24 << 20);
    assert_true(r.n > 0);
    uring_dev_close(d);
    r.enough = true;
    run(); /* until the last read is in */
    uring_dev_close(r.d);
    free(r.iov.iov_base);
}

/* ---- the end of a reactor ---- */

static void never(struct io_op *op)
{
    fail_msg("called after the reactor's end");
}

static void freeing_waits_for_what_the_kernel_has(void **state)
{
    struct dev *d = create("inflight", 1 << 20);
    static struct io_op ops[256];
    static struct dev_create_op making;
    struct iovec iov[256];
    uint8_t *p = aligned_alloc(4096, 1 << 20);
    memset(p, 0x77, 1 << 20);
    for (unsigned i = 0; i < 256; i++) {
        ops[i] = (struct io_op){.fn = never};
        iov[i] = (struct iovec){p + i * 4096, 4096};
        dev_write(d, &iov[i], 1, i * 4096, IO_DURABLE, &ops[i]);
    }
    making = (struct dev_create_op){.op.fn = never};
    dev_create(dir, "never", UINT64_C(1) << 30, &making);
    dev_create(dir, "/", 4096, &making);
    reactor->stopping = true;
    assert_int_equal(uring_reactor_run(reactor), 0);
    uring_reactor_free(reactor);
    /* The sanitizer sees it if something still wrote from here. */
    free(p);
    struct stat st;
    assert_int_equal(stat(in_dir("never"), &st), -1);
    assert_int_equal(stat(in_dir("never.tmp"), &st), -1);
    reactor = NULL;
    uring_dev_close(d);
}

/* ---- a kernel without io_uring ---- */

/* In a child: io_uring_setup fails with error; returns what uring_reactor_new said. */
static void forbidden(int error, const char *says)
{
    pid_t pid = fork();
    if (pid == 0) {
        struct sock_filter filter[] = {
            BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
            BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
            BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)error),
            BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        };
        struct sock_fprog prog = {.len = ARRAY_LEN(filter), .filter = filter};
        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog) < 0)
            _exit(77);
        struct uring_options opt = {.arena_limit_bytes = 1 << 20};
        struct reactor *r = NULL;
        const char *why = NULL;
        int err = uring_reactor_new(&opt, &r, &why);
        if (err != -error || r || !why || !strstr(why, says) || strchr(why, '\n'))
            _exit(1);
        _exit(0);
    }
    int status;
    waitpid(pid, &status, 0);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == 77)
        skip(); /* no seccomp here */
    assert_int_equal(WEXITSTATUS(status), 0);
}

static void a_kernel_without_io_uring_gives_one_clear_line(void **state)
{
    forbidden(ENOSYS, "CONFIG_IO_URING");
    forbidden(EPERM, "kernel.io_uring_disabled=0");
    forbidden(ENOMEM, "memlock");
    forbidden(EINVAL, "too old");
    forbidden(EMFILE, "ulimit -n");
}

static int setup_dir(void **state)
{
    if (setup_reactor(state))
        return -1;
    return uring_dir_open(reactor, dir_path, &dir);
}

static int teardown_dir(void **state)
{
    uring_dir_close(dir);
    return teardown_reactor(state);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup_dir, teardown_dir)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(timers_fire_in_order_and_never_early),
        TEST(hooks_run_in_each_turn_in_their_order),
        TEST(chance_and_clocks),
        TEST(signals_come_through_the_loop),
        TEST(devices_are_made_and_hold_what_is_written),
        TEST(a_cached_read_sees_every_completed_write),
        TEST(cached_reads_are_direct_where_there_is_no_descriptor),
        TEST(short_reads_go_on_where_they_stopped),
        TEST(bad_devices_are_refused),
        TEST(a_blank_device_that_was_left_is_taken),
        TEST(a_locked_device_is_refused_then_waited_for),
        TEST(slow_writes_are_answered_late),
        TEST(any_number_of_operations_may_be_in_flight),
        TEST(several_devices_are_made_at_once),
        TEST(devices_are_made_beside_other_work),
        TEST(freeing_waits_for_what_the_kernel_has),
        TEST(a_kernel_without_io_uring_gives_one_clear_line),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
