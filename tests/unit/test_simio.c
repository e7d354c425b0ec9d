/* The simulator's devices, timers and connections: that they promise what base/io.h does, and fail as they say. */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/sim/simio.h"

#define MIB (1u << 20)

struct fixture {
    struct sim_world *w;
    struct sim_reactor *r;
    struct sim_disk *disk;
    struct dev *dev;
};

static struct fixture fixture_new(uint64_t seed)
{
    struct fixture f;
    f.w = sim_world_new(seed);
    f.r = sim_reactor_new(f.w, "a", 64 * MIB);
    f.disk = sim_disk_new(f.w, NULL, "wal", 16 * MIB);
    assert_int_equal(sim_dev_open(f.r, f.disk, &f.dev), 0);
    return f;
}

struct waiting_op {
    struct io_op op;
    bool done;
};

static void waiting_done(struct io_op *op)
{
    container_of(op, struct waiting_op, op)->done = true;
}

static bool is_done(void *user)
{
    return ((struct waiting_op *)user)->done;
}

static void start_write(struct fixture *f, struct waiting_op *o, struct buf *b, uint64_t off, uint8_t fill,
                        unsigned flags)
{
    memset(b->data, fill, BLOCK_SIZE);
    *o = (struct waiting_op){.op.fn = waiting_done};
    dev_write(f->dev, &(struct iovec){b->data, BLOCK_SIZE}, 1, off, flags, &o->op);
}

static void write_and_wait(struct fixture *f, uint64_t off, uint8_t fill, unsigned flags)
{
    struct waiting_op o;
    struct buf *b = buf_alloc(sim_reactor_io(f->r)->arena, BLOCK_SIZE);
    start_write(f, &o, b, off, fill, flags);
    assert_true(sim_run_until(f->w, is_done, &o, NS_PER_S));
    assert_int_equal(o.op.result, BLOCK_SIZE);
    buf_unref(b);
}

static int read_and_wait(struct fixture *f, uint64_t off, uint8_t *first)
{
    struct waiting_op o = {.op.fn = waiting_done};
    struct buf *b = buf_alloc(sim_reactor_io(f->r)->arena, BLOCK_SIZE);
    dev_read(f->dev, &(struct iovec){b->data, BLOCK_SIZE}, 1, off, &o.op);
    assert_int_equal(b->data[0], 0xE5);
    assert_true(sim_run_until(f->w, is_done, &o, NS_PER_S));
    *first = b->data[0];
    buf_unref(b);
    return (int)o.op.result;
}

static int flush_and_wait(struct fixture *f)
{
    struct waiting_op o = {.op.fn = waiting_done};
    dev_flush(f->dev, &o.op);
    assert_true(sim_run_until(f->w, is_done, &o, NS_PER_S));
    return (int)o.op.result;
}

static void restart(struct fixture *f)
{
    f->r = sim_reactor_new(f->w, "a", 64 * MIB);
    assert_int_equal(sim_dev_open(f->r, f->disk, &f->dev), 0);
}

static uint8_t byte_at(struct sim_disk *d, uint64_t off)
{
    uint8_t b;
    sim_disk_peek(d, off, &b, 1);
    return b;
}

static void test_read_gives_what_was_written(void **state)
{
    struct fixture f = fixture_new(1);
    uint8_t b;
    assert_int_equal(read_and_wait(&f, 0, &b), BLOCK_SIZE);
    assert_int_equal(b, 0);
    write_and_wait(&f, 8192, 7, 0);
    assert_int_equal(read_and_wait(&f, 8192, &b), BLOCK_SIZE);
    assert_int_equal(b, 7);
    sim_world_free(f.w);
}

static bool nothing_landed(void *user, struct sim_disk *d, uint64_t nth, uint64_t off)
{
    return false;
}

static void test_power_cut_keeps_what_is_durable(void **state)
{
    struct fixture f = fixture_new(2);
    sim_disk_set_landing(f.disk, nothing_landed, NULL);
    write_and_wait(&f, 0, 1, 0);
    assert_int_equal(flush_and_wait(&f), 0);
    write_and_wait(&f, 4096, 2, IO_DURABLE);
    write_and_wait(&f, 8192, 3, 0);           /* no flush: lost */
    write_and_wait(&f, 12288, 4, IO_DURABLE); /* covers itself alone */
    sim_reactor_crash(f.r, SIM_POWER);
    assert_int_equal(byte_at(f.disk, 0), 1);
    assert_int_equal(byte_at(f.disk, 4096), 2);
    assert_int_equal(byte_at(f.disk, 8192), 0);
    assert_int_equal(byte_at(f.disk, 12288), 4);
    sim_world_free(f.w);
}

static void test_kill_keeps_what_completed_but_not_durably(void **state)
{
    struct fixture f = fixture_new(3);
    sim_disk_set_landing(f.disk, nothing_landed, NULL);
    write_and_wait(&f, 0, 1, 0);
    sim_reactor_crash(f.r, SIM_KILL);
    restart(&f);
    assert_int_equal(byte_at(f.disk, 0), 1);
    sim_reactor_crash(f.r, SIM_POWER);
    assert_int_equal(byte_at(f.disk, 0), 0);
    sim_world_free(f.w);
}

/* A flush covers what had completed when it was submitted, not what completed while it ran. */
static void test_flush_covers_only_earlier_completions(void **state)
{
    struct fixture f = fixture_new(4);
    sim_disk_set_landing(f.disk, nothing_landed, NULL);
    sim_disk_timing(f.disk)->flush_ns = (struct sim_range){NS_PER_S / 2, NS_PER_S / 2};
    write_and_wait(&f, 0, 1, 0);
    struct waiting_op flush = {.op.fn = waiting_done};
    dev_flush(f.dev, &flush.op);
    write_and_wait(&f, 4096, 2, 0);
    assert_false(flush.done);
    assert_true(sim_run_until(f.w, is_done, &flush, NS_PER_S));
    sim_reactor_crash(f.r, SIM_POWER);
    assert_int_equal(byte_at(f.disk, 0), 1);
    assert_int_equal(byte_at(f.disk, 4096), 0);
    sim_world_free(f.w);
}

static bool sector_3_of_write_2(void *user, struct sim_disk *d, uint64_t nth, uint64_t off)
{
    return nth == 2 && off == 3 * 512;
}

static void test_sectors_land_as_told(void **state)
{
    struct fixture f = fixture_new(5);
    write_and_wait(&f, 0, 1, IO_DURABLE);
    sim_disk_set_landing(f.disk, sector_3_of_write_2, NULL);
    struct waiting_op o;
    struct buf *b = buf_alloc(sim_reactor_io(f.r)->arena, BLOCK_SIZE);
    start_write(&f, &o, b, 0, 2, IO_DURABLE);
    sim_reactor_crash(f.r, SIM_POWER);
    assert_false(o.done);
    for (unsigned s = 0; s < 8; s++)
        assert_int_equal(byte_at(f.disk, s * 512), s == 3 ? 2 : 1);
    sim_world_free(f.w);
}

/* Over many seeds every outcome of a write that is not durable occurs: old, new, torn. */
static void test_chance_reaches_every_outcome(void **state)
{
    unsigned old = 0, new = 0, torn = 0, late = 0;
    for (uint64_t seed = 0; seed < 200; seed++) {
        struct fixture f = fixture_new(seed);
        struct waiting_op o;
        struct buf *b = buf_alloc(sim_reactor_io(f.r)->arena, BLOCK_SIZE);
        start_write(&f, &o, b, 0, 1, 0);
        sim_reactor_crash(f.r, seed & 1 ? SIM_POWER : SIM_KILL);
        unsigned at_once = 0, sum = 0;
        for (unsigned s = 0; s < 8; s++)
            at_once += byte_at(f.disk, s * 512);
        restart(&f);
        for (unsigned s = 0; s < 8; s++)
            sum += byte_at(f.disk, s * 512);
        late += at_once != sum;
        assert_true(at_once == sum || !(seed & 1));
        old += sum == 0;
        new += sum == 8;
        torn += sum > 0 && sum < 8;
        sim_world_free(f.w);
    }
    assert_true(old > 10 && new > 10 && torn > 10 && late > 5);
}

struct crash_at {
    struct fixture *f;
    uint64_t nth;
    bool complete;
    unsigned crashes;
};

static void crash_hook(void *user, struct sim_disk *d, const struct sim_io_info *io)
{
    struct crash_at *c = user;
    if (io->kind == SIM_WRITE && io->nth == c->nth && io->complete == c->complete) {
        c->crashes++;
        sim_reactor_crash(c->f->r, SIM_KILL);
    }
}

/* Logic that writes page after page, each when the one before is complete. */
struct writer {
    struct io_op op;
    struct dev *dev;
    struct buf *b;
    unsigned n;
    bool freed;
};

static void writer_go(struct io_op *op)
{
    struct writer *w = container_of(op, struct writer, op);
    w->n++;
    memset(w->b->data, (int)w->n, BLOCK_SIZE);
    dev_write(w->dev, &(struct iovec){w->b->data, BLOCK_SIZE}, 1, (uint64_t)w->n * BLOCK_SIZE, IO_DURABLE, op);
    w->b->data[BLOCK_SIZE - 1] = (uint8_t)w->n; /* the process's memory is still there when the hook has crashed it */
}

static void writer_freed(void *user)
{
    ((struct writer *)user)->freed = true;
}

static void test_crash_at_every_boundary(void **state)
{
    for (uint64_t nth = 1; nth <= 4; nth++) {
        for (int complete = 0; complete <= 1; complete++) {
            struct fixture f = fixture_new(6);
            struct crash_at c = {.f = &f, .nth = nth, .complete = complete};
            struct writer wr = {.op.fn = writer_go, .dev = f.dev};
            wr.b = buf_alloc(sim_reactor_io(f.r)->arena, BLOCK_SIZE);
            sim_on_crash(f.r, writer_freed, &wr);
            sim_disk_set_hook(f.disk, crash_hook, &c);
            sim_disk_set_landing(f.disk, nothing_landed, NULL);
            writer_go(&wr.op);
            sim_run_for(f.w, NS_PER_S);
            assert_int_equal(c.crashes, 1);
            assert_true(wr.freed);
            assert_int_equal(wr.n, nth);
            for (uint64_t i = 1; i <= 5; i++)
                assert_int_equal(byte_at(f.disk, i * BLOCK_SIZE), i < nth + (complete != 0) ? i : 0);
            sim_world_free(f.w);
        }
    }
}

static void test_faults(void **state)
{
    struct fixture f = fixture_new(7);
    uint8_t b;
    write_and_wait(&f, 0, 9, 0);
    sim_disk_fail(f.disk, SIM_READ, 1, 1, EIO);
    assert_int_equal(read_and_wait(&f, 0, &b), BLOCK_SIZE);
    assert_int_equal(read_and_wait(&f, 0, &b), -EIO);
    assert_int_equal(read_and_wait(&f, 0, &b), BLOCK_SIZE);
    sim_disk_fail(f.disk, SIM_FLUSH, 0, 1, EIO);
    assert_int_equal(flush_and_wait(&f), -EIO);
    assert_int_equal(flush_and_wait(&f), 0);
    sim_disk_spoil(f.disk, 0, BLOCK_SIZE);
    assert_int_equal(read_and_wait(&f, 0, &b), -EIO);
    write_and_wait(&f, 0, 10, 0);
    assert_int_equal(read_and_wait(&f, 0, &b), BLOCK_SIZE);
    sim_disk_flip(f.disk, 0, 0);
    assert_int_equal(read_and_wait(&f, 0, &b), BLOCK_SIZE);
    assert_int_equal(b, 11);
    sim_disk_misdirect(f.disk, sim_disk_count(f.disk, SIM_WRITE) + 1, 2 * BLOCK_SIZE);
    write_and_wait(&f, 0, 12, 0);
    assert_int_equal(byte_at(f.disk, 0), 11);
    assert_int_equal(byte_at(f.disk, 2 * BLOCK_SIZE), 12);
    sim_world_free(f.w);
}

static void test_lock(void **state)
{
    struct fixture f = fixture_new(8);
    struct sim_reactor *other = sim_reactor_new(f.w, "a", MIB);
    struct dev *dev;
    assert_int_equal(sim_dev_open(other, f.disk, &dev), -EWOULDBLOCK);
    sim_reactor_crash(f.r, SIM_KILL);
    assert_int_equal(sim_dev_open(other, f.disk, &dev), 0);
    sim_dev_close(dev);
    sim_reactor_free(other);
    sim_world_free(f.w);
}

/* ---- the caller's mistakes are assertions ---- */

static void overlapping_writes(struct fixture *f, struct buf *b, struct waiting_op *o)
{
    start_write(f, &o[0], b, 0, 1, 0);
    start_write(f, &o[1], b, 0, 1, 0);
}

static void read_overlapping_a_write(struct fixture *f, struct buf *b, struct waiting_op *o)
{
    start_write(f, &o[0], b, 4096, 1, 0);
    dev_read(f->dev, &(struct iovec){b->data + 4096, 8192}, 1, 0, &o[1].op);
}

static void write_overlapping_a_read(struct fixture *f, struct buf *b, struct waiting_op *o)
{
    dev_read(f->dev, &(struct iovec){b->data + 4096, 8192}, 1, 0, &o[1].op);
    start_write(f, &o[0], b, 4096, 1, 0);
}

static void unaligned_offset(struct fixture *f, struct buf *b, struct waiting_op *o)
{
    start_write(f, o, b, 512, 1, 0);
}

static void unaligned_memory(struct fixture *f, struct buf *b, struct waiting_op *o)
{
    dev_read(f->dev, &(struct iovec){b->data + 512, 4096}, 1, 0, &o->op);
}

static void beyond_the_end(struct fixture *f, struct buf *b, struct waiting_op *o)
{
    start_write(f, o, b, f->dev->size_bytes, 1, 0);
}

static void memory_changed_in_flight(struct fixture *f, struct buf *b, struct waiting_op *o)
{
    start_write(f, o, b, 0, 1, 0);
    b->data[100] = 2;
    sim_run_for(f->w, NS_PER_S);
}

static void op_in_flight_twice(struct fixture *f, struct buf *b, struct waiting_op *o)
{
    start_write(f, o, b, 0, 1, 0);
    dev_flush(f->dev, &o->op);
}

static void reads_may_overlap(struct fixture *f, struct buf *b, struct waiting_op *o)
{
    dev_read(f->dev, &(struct iovec){b->data, 8192}, 1, 0, &o[0].op);
    dev_read(f->dev, &(struct iovec){b->data + 8192, 8192}, 1, 4096, &o[1].op);
    sim_run_for(f->w, NS_PER_S);
}

static int in_a_child(void (*act)(struct fixture *f, struct buf *b, struct waiting_op *o))
{
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        if (!freopen("/dev/null", "w", stderr))
            _exit(2);
        struct fixture f = fixture_new(1);
        struct waiting_op o[2] = {{.op.fn = waiting_done}, {.op.fn = waiting_done}};
        signal(SIGABRT, SIG_DFL);
        act(&f, buf_alloc(sim_reactor_io(f.r)->arena, 4 * BLOCK_SIZE), o);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

static void test_mistakes_are_assertions(void **state)
{
    static void (*const mistakes[])(struct fixture *, struct buf *, struct waiting_op *) = {
        overlapping_writes, read_overlapping_a_write, write_overlapping_a_read, unaligned_offset,
        unaligned_memory,   beyond_the_end,           memory_changed_in_flight, op_in_flight_twice,
    };
    for (unsigned i = 0; i < ARRAY_LEN(mistakes); i++) {
        int status = in_a_child(mistakes[i]);
        if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGABRT)
            fail_msg("mistake %u went unseen", i);
    }
    assert_int_equal(in_a_child(reads_may_overlap), 0);
}

struct creating {
    struct dev_create_op op;
    bool done;
};

static void created(struct io_op *op)
{
    container_of(op, struct creating, op.op)->done = true;
}

static bool creation_done(void *user)
{
    return ((struct creating *)user)->done;
}

static void test_dev_create(void **state)
{
    struct fixture f = fixture_new(9);
    struct sim_dir *sd = sim_dir_new(f.w, "/data", 3 * MIB);
    struct dir *dir = sim_dir_open(f.r, sd);
    static const struct {
        const char *name;
        int result;
    } steps[] = {{"extents/0", 0}, {"extents/0", -EEXIST}, {"extents/1", -ENOSPC}};
    for (unsigned i = 0; i < ARRAY_LEN(steps); i++) {
        struct creating c = {.op.op.fn = created};
        dev_create(dir, steps[i].name, 2 * MIB, &c.op);
        assert_true(sim_run_until(f.w, creation_done, &c, 10 * NS_PER_S));
        assert_int_equal(c.op.op.result, steps[i].result);
        if (!c.op.op.result)
            assert_int_equal(c.op.dev->size_bytes, 2 * MIB);
    }
    assert_non_null(sim_dir_find(sd, "extents/0"));
    assert_null(sim_dir_find(sd, "extents/1"));

    /* What a crash left is taken, if it is blank and of that size. */
    sim_dir_set_capacity(sd, 32 * MIB);
    sim_disk_new(f.w, sd, "extents/2", 2 * MIB);
    sim_disk_poke(sim_disk_new(f.w, sd, "extents/3", 2 * MIB), 2 * MIB - 1, "x", 1);
    sim_disk_new(f.w, sd, "extents/4", MIB);
    static const int results[] = {0, -EEXIST, -EEXIST};
    for (unsigned i = 0; i < ARRAY_LEN(results); i++) {
        struct creating c = {.op.op.fn = created};
        char name[32];
        snprintf(name, sizeof name, "extents/%u", 2 + i);
        dev_create(dir, name, 2 * MIB, &c.op);
        assert_true(sim_run_until(f.w, creation_done, &c, 10 * NS_PER_S));
        assert_int_equal(c.op.op.result, results[i]);
    }
    sim_world_free(f.w);
}

struct seen {
    unsigned submitted, completed, errors, misdirected, creates, made;
    struct sim_reactor *kill_at_made;
};

static void see(void *user, struct sim_disk *d, const struct sim_io_info *io)
{
    struct seen *s = user;
    assert_int_equal(d != NULL, io->kind != SIM_CREATE || (io->complete && !io->err));
    *(io->complete ? &s->completed : &s->submitted) += 1;
    s->errors += io->err != 0;
    s->misdirected += io->misdirected;
    s->creates += io->kind == SIM_CREATE && !io->complete;
    s->made += io->kind == SIM_CREATE && io->complete && !io->err;
    if (s->made && s->kill_at_made)
        sim_reactor_crash(s->kill_at_made, SIM_KILL);
}

/* A directory's hook hears of all its disks, also of those that are made later, and of their making. */
static void test_hook_of_a_directory(void **state)
{
    struct fixture f = fixture_new(12);
    struct sim_dir *sd = sim_dir_new(f.w, "data", 4 * MIB);
    struct sim_disk *first = sim_disk_new(f.w, sd, "wal", MIB);
    struct seen s = {0};
    sim_dir_set_hook(sd, see, &s);
    assert_int_equal(sim_dir_used(sd), MIB);
    sim_dev_close(f.dev);
    f.disk = first;
    assert_int_equal(sim_dev_open(f.r, first, &f.dev), 0);
    sim_disk_misdirect(first, 1, 4 * BLOCK_SIZE);
    write_and_wait(&f, 0, 7, 0);
    assert_int_equal(byte_at(first, 0), 0);
    assert_int_equal(byte_at(first, 4 * BLOCK_SIZE), 7);
    sim_disk_fail(first, SIM_FLUSH, 0, 1, EIO);
    assert_int_equal(flush_and_wait(&f), -EIO);
    assert_true(s.submitted == 2 && s.completed == 2 && s.errors == 1 && s.misdirected == 1);

    struct dir *dir = sim_dir_open(f.r, sd);
    static const uint64_t sizes[] = {MIB, 4 * MIB, MIB};
    static const int results[] = {0, -ENOSPC, 0};
    for (unsigned i = 0; i < 2; i++) {
        struct creating c = {.op.op.fn = created};
        char name[32];
        snprintf(name, sizeof name, "extents/%u", i);
        dev_create(dir, name, sizes[i], &c.op);
        assert_true(sim_run_until(f.w, creation_done, &c, 10 * NS_PER_S));
        assert_int_equal(c.op.op.result, results[i]);
    }
    assert_true(s.creates == 2 && s.made == 1 && sim_dir_refused(sd) == 1);
    assert_ptr_equal(sim_dir_next(sd, NULL), first);
    struct sim_disk *made = sim_dir_next(sd, first);
    assert_string_equal(sim_disk_name(made), "extents/0");
    assert_null(sim_dir_next(sd, made));

    /* A crash at the moment when it is there and nobody heard of it. */
    s.kill_at_made = f.r;
    s.made = 0;
    struct creating c = {.op.op.fn = created};
    dev_create(dir, "extents/2", sizes[2], &c.op);
    sim_run_for(f.w, 10 * NS_PER_S);
    assert_true(!creation_done(&c) && sim_dir_find(sd, "extents/2"));
    sim_disk_remove(made);
    assert_null(sim_dir_find(sd, "extents/0"));
    assert_int_equal(sim_dir_used(sd), 2 * MIB);
    sim_world_free(f.w);
}

/* ---- timers and hooks ---- */

struct ticking {
    struct timer t;
    struct reactor *r;
    char *log;
    char name;
    struct timer *cancels, *sets;
};

static void tick(struct timer *t)
{
    struct ticking *k = container_of(t, struct ticking, t);
    size_t n = strlen(k->log);
    k->log[n] = k->name;
    k->log[n + 1] = '\0';
    assert_true(io_now(k->r) >= t->at_ns);
    if (k->cancels)
        timer_cancel(k->r, k->cancels);
    if (k->sets)
        timer_set(k->r, k->sets, 0);
}

struct logging_hook {
    struct turn_hook h;
    char *log;
};

static void log_turn(struct turn_hook *h)
{
    strcat(container_of(h, struct logging_hook, h)->log, "|");
}

static void test_timers(void **state)
{
    struct fixture f = fixture_new(10);
    struct reactor *r = sim_reactor_io(f.r);
    char log[64] = "";
    struct logging_hook hook = {.h.fn = log_turn, .log = log};
    reactor_add_hook(r, &hook.h);
    sim_run_for(f.w, NS_PER_MS);
    struct ticking a = {.t.fn = tick, .r = r, .log = log, .name = 'a'}, b = a, c = a, d = a;
    b.name = 'b';
    c.name = 'c';
    d.name = 'd';
    uint64_t now = io_now(r);
    /* All due in one turn: in the order of time, then of setting; b cancels c; a time in the past fires in the next
     * turn. */
    sim_pause(f.r);
    timer_set(r, &a.t, now + 2000);
    timer_set(r, &b.t, now + 1000);
    timer_set(r, &c.t, now + 2000);
    b.cancels = &c.t;
    b.sets = &d.t;
    log[0] = '\0';
    sim_run_for(f.w, NS_PER_MS);
    assert_string_equal(log, "");
    sim_resume(f.r);
    sim_run_for(f.w, NS_PER_MS);
    assert_string_equal(log, "ba|d|");
    /* Setting anew moves it. */
    timer_set(r, &a.t, now + NS_PER_S);
    timer_set(r, &a.t, now + 3 * NS_PER_S);
    sim_run_for(f.w, 2 * NS_PER_S);
    assert_null(strchr(log + 5, 'a'));
    sim_run_for(f.w, 2 * NS_PER_S);
    assert_non_null(strchr(log + 5, 'a'));
    sim_world_free(f.w);
}

static void test_drift(void **state)
{
    struct fixture f = fixture_new(11);
    struct reactor *r = sim_reactor_io(f.r);
    for (int32_t ppm = -500; ppm <= 500; ppm += 250) {
        sim_set_drift(f.r, ppm);
        uint64_t world = sim_now(f.w), local = io_now(r);
        sim_run_for(f.w, NS_PER_S);
        int64_t passed = (int64_t)(io_now(r) - local), real = (int64_t)(sim_now(f.w) - world);
        assert_int_equal(passed - real, (int64_t)ppm * 1000);
        char log[4] = "";
        struct ticking a = {.t.fn = tick, .r = r, .log = log, .name = 'a'};
        timer_set(r, &a.t, io_now(r) + 12345);
        sim_run_for(f.w, NS_PER_MS);
        assert_string_equal(log, "a");
    }
    sim_world_free(f.w);
}

static uint64_t hash_of_run(uint64_t seed)
{
    struct fixture f = fixture_new(seed);
    for (unsigned i = 0; i < 50; i++) {
        uint64_t off = sim_rand(f.w) % 4096 * BLOCK_SIZE;
        write_and_wait(&f, off, (uint8_t)i, i % 3 ? 0 : IO_DURABLE);
        if (i % 10 == 9) {
            sim_reactor_crash(f.r, i % 20 == 9 ? SIM_POWER : SIM_KILL);
            restart(&f);
        }
        uint8_t b;
        read_and_wait(&f, off, &b);
        sim_fold(f.w, b);
    }
    uint64_t h = sim_hash(f.w);
    sim_world_free(f.w);
    return h;
}

static int cached_and_wait(struct fixture *f, uint64_t off, uint8_t *first)
{
    struct waiting_op o = {.op.fn = waiting_done};
    struct buf *b = buf_alloc(sim_reactor_io(f->r)->arena, BLOCK_SIZE);
    dev_read_cached(f->dev, &(struct iovec){b->data, BLOCK_SIZE}, 1, off, &o.op);
    assert_int_equal(b->data[0], 0xE5);
    assert_true(sim_run_until(f->w, is_done, &o, NS_PER_S));
    *first = b->data[0];
    buf_unref(b);
    return (int)o.op.result;
}

static void test_cached_reads(void **state)
{
    struct fixture f = fixture_new(1);
    uint8_t b;
    write_and_wait(&f, 0, 8, 0);
    write_and_wait(&f, 4096, 16, 0);
    assert_int_equal(cached_and_wait(&f, 0, &b), BLOCK_SIZE);
    assert_int_equal(b, 8);
    /* What the medium does is not seen, also in the page that was read ahead; a direct read does see it. */
    sim_disk_flip(f.disk, 0, 0);
    sim_disk_flip(f.disk, 4096, 0);
    sim_disk_spoil(f.disk, 4096, BLOCK_SIZE);
    sim_disk_fail(f.disk, SIM_READ, 0, 1, EIO);
    assert_int_equal(cached_and_wait(&f, 0, &b), BLOCK_SIZE);
    assert_int_equal(b, 8);
    assert_int_equal(cached_and_wait(&f, 4096, &b), BLOCK_SIZE);
    assert_int_equal(b, 16);
    assert_int_equal(read_and_wait(&f, 0, &b), -EIO); /* the fault was the disk's, which had no part in those two */
    assert_int_equal(read_and_wait(&f, 0, &b), BLOCK_SIZE);
    assert_int_equal(b, 9);
    assert_int_equal(read_and_wait(&f, 4096, &b), -EIO);
    /* A killed process leaves the cache behind, a power cut does not. */
    sim_reactor_crash(f.r, SIM_KILL);
    restart(&f);
    assert_int_equal(cached_and_wait(&f, 0, &b), BLOCK_SIZE);
    assert_int_equal(b, 8);
    sim_reactor_crash(f.r, SIM_POWER);
    restart(&f);
    assert_int_equal(cached_and_wait(&f, 4096, &b), -EIO);
    /* Of many writes almost all are seen; a few pages stay as they were. */
    unsigned stale = 0;
    for (uint64_t i = 0; i < 400; i++) {
        uint64_t off = 65536 + i % 50 * BLOCK_SIZE;
        (void)cached_and_wait(&f, off, &b);
        write_and_wait(&f, off, (uint8_t)(1 + i % 200), 0);
        assert_int_equal(cached_and_wait(&f, off, &b), BLOCK_SIZE);
        stale += b != 1 + i % 200;
    }
    assert_in_range(stale, 1, 40);
    sim_world_free(f.w);
}

static void test_one_seed_one_history(void **state)
{
    assert_int_equal(hash_of_run(1), hash_of_run(1));
    assert_int_not_equal(hash_of_run(1), hash_of_run(2));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_read_gives_what_was_written),
        cmocka_unit_test(test_power_cut_keeps_what_is_durable),
        cmocka_unit_test(test_kill_keeps_what_completed_but_not_durably),
        cmocka_unit_test(test_flush_covers_only_earlier_completions),
        cmocka_unit_test(test_sectors_land_as_told),
        cmocka_unit_test(test_chance_reaches_every_outcome),
        cmocka_unit_test(test_crash_at_every_boundary),
        cmocka_unit_test(test_faults),
        cmocka_unit_test(test_cached_reads),
        cmocka_unit_test(test_lock),
        cmocka_unit_test(test_mistakes_are_assertions),
        cmocka_unit_test(test_dev_create),
        cmocka_unit_test(test_timers),
        cmocka_unit_test(test_hook_of_a_directory),
        cmocka_unit_test(test_drift),
        cmocka_unit_test(test_one_seed_one_history),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
