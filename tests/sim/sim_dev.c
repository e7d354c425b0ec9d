/* Devices of a process: operations under way on a disk, their completion, failure and loss.
 *
 * What always holds: an operation changes media at its completion and not before; its owner hears of it in a later
 * turn; the operations in flight on one disk do not overlap, as io.h demands of the owner. */
#include "tests/sim/sim_disk.h"

#include <errno.h>
#include <stdlib.h>

#include "base/crc32c.h"

struct sim_dev {
    struct dev dev;
    struct sim_disk *disk;
    struct sim_reactor *reactor;
    struct list node;
    uint32_t n_ops; /* submitted and not yet told to their owners */
};

struct sim_op {
    struct list disk_node; /* in sim_disk.in_flight until media has it */
    struct list node;      /* in sim_reactor.ops until its owner was told */
    struct sim_event event;
    struct sim_ready ready;
    struct sim_reactor *reactor;
    struct sim_dev *dev;
    struct sim_disk *disk;
    struct io_op *op;
    struct sim_io_info info;
    int err;       /* what will be reported */
    uint64_t done; /* FLUSH: what it covers */
    uint8_t *data; /* WRITE: the bytes as they were at submission; READ: what the host's cache had then */
    bool cached;   /* READ: through the host's cache */
    unsigned n_iov;
    struct iovec iov[];
};

static const char *const io_names[] = {"read", "write", "flush", "discard", "create"};

static struct sim_dev *sim_dev_of(struct dev *d)
{
    return container_of(d, struct sim_dev, dev);
}

/* ---- completion ---- */

static void op_free(struct sim_op *o)
{
    sim_event_cancel(o->reactor->world, &o->event);
    list_remove(&o->disk_node);
    list_remove(&o->node);
    list_remove(&o->ready.node);
    free(o->data);
    free(o);
}

static void op_tell(struct sim_ready *s)
{
    struct sim_op *o = container_of(s, struct sim_op, ready);
    struct io_op *op = o->op;
    bool bytes = o->info.kind == SIM_READ || o->info.kind == SIM_WRITE;
    op->result = o->err ? -o->err : bytes ? (int64_t)o->info.len : 0;
    op->link = NULL;
    sim_note(o->reactor->world, o->reactor, 30 + o->info.kind, (uint64_t)op->result, "%s: %s %llu is told: %lld",
             o->disk->name, io_names[o->info.kind], (unsigned long long)o->info.nth, (long long)op->result);
    o->dev->n_ops--;
    op_free(o);
    op->fn(op);
}

static void iov_copy(const struct sim_op *o, uint8_t *bytes)
{
    for (unsigned i = 0; i < o->n_iov; i++) {
        memcpy(bytes, o->iov[i].iov_base, o->iov[i].iov_len);
        bytes += o->iov[i].iov_len;
    }
}

static void check_unchanged(const struct sim_op *o)
{
    const uint8_t *at = o->data;
    for (unsigned i = 0; i < o->n_iov; i++) {
        assert(memcmp(at, o->iov[i].iov_base, o->iov[i].iov_len) == 0 &&
               "memory was changed while it was being written");
        at += o->iov[i].iov_len;
    }
}

static void complete_read(struct sim_op *o)
{
    const uint8_t *at = o->data;
    for (unsigned i = 0; at && i < o->n_iov; i++) {
        memcpy(o->iov[i].iov_base, at, o->iov[i].iov_len);
        at += o->iov[i].iov_len;
    }
    if (o->data)
        return;
    if (!o->err && sim_media_spoiled(o->disk, o->info.off, o->info.len))
        o->err = EIO;
    if (o->err)
        return;
    uint64_t off = o->info.off;
    for (unsigned i = 0; i < o->n_iov; i++) {
        sim_media_read(o->disk, off, o->iov[i].iov_base, o->iov[i].iov_len);
        off += o->iov[i].iov_len;
    }
    if (o->cached)
        sim_cache_fill(o->disk, o->info.off, o->info.len);
}

static void complete_write(struct sim_op *o)
{
    struct sim_disk *d = o->disk;
    check_unchanged(o);
    sim_cache_drop(d, o->info.nth, o->info.off, o->info.len);
    if (o->err) {
        d->salt = sim_rand(d->world);
        sim_media_write_torn(d, o->info.nth, o->info.off, o->data, o->info.len);
    } else {
        /* Not what a large write brings: gone astray, and followed by nothing that vouches for it, it would be taken
         * for torn, as the newest batch of the WAL would be; that is more than a replica can notice. */
        if (o->info.nth == d->misdirect_nth && o->info.flags & IO_DURABLE && strncmp(d->name, "extents/", 8) == 0)
            d->misdirect_nth = d->count[SIM_WRITE] + 1;
        o->info.misdirected = o->info.nth == d->misdirect_nth;
        uint64_t off = o->info.misdirected ? d->misdirect_off : o->info.off;
        assert(o->info.len <= d->size_bytes && off <= d->size_bytes - o->info.len);
        sim_media_write(d, o->info.nth, off, o->data, o->info.len, o->info.flags & IO_DURABLE);
    }
}

static void call_hook(struct sim_disk *d, const struct sim_io_info *info)
{
    if (d->hook)
        d->hook(d->hook_user, d, info);
}

/* Media is done with it. */
static void op_complete(struct sim_event *e)
{
    struct sim_op *o = container_of(e, struct sim_op, event);
    struct sim_reactor *r = o->reactor;
    list_remove(&o->disk_node);
    sim_note(r->world, r, 40 + o->info.kind, o->info.nth, "%s: %s %llu completes%s", o->disk->name,
             io_names[o->info.kind], (unsigned long long)o->info.nth, o->err ? " with an error" : "");
    switch (o->info.kind) {
    case SIM_READ:
        complete_read(o);
        break;
    case SIM_WRITE:
        complete_write(o);
        break;
    case SIM_FLUSH:
        if (!o->err)
            sim_media_flush(o->disk, o->done);
        break;
    case SIM_DISCARD:
        sim_cache_drop(o->disk, o->info.nth, o->info.off, o->info.len);
        if (!o->err)
            sim_media_discard(o->disk, o->info.nth, o->info.off, o->info.len);
        break;
    case SIM_CREATE:
    case SIM_IO_KINDS:
        assert(false);
    }
    o->info.complete = true;
    o->info.err = o->err;
    struct sim_io_info info = o->info;
    call_hook(o->disk, &info);
    if (r->gone)
        return;
    sim_ready_add(r, &o->ready);
}

/* ---- submission ---- */

/* io.h: overlapping writes in flight, or a read overlapping a write in flight, are the caller's mistake. A discard is a
 * write here. */
static void check_overlap(const struct sim_disk *d, const struct sim_io_info *info)
{
    if (info->kind == SIM_FLUSH)
        return;
    list_for_each (l, &d->in_flight) {
        const struct sim_io_info *other = &container_of(l, struct sim_op, disk_node)->info;
        if (other->kind == SIM_FLUSH || (other->kind == SIM_READ && info->kind == SIM_READ))
            continue;
        assert((info->off + info->len <= other->off || other->off + other->len <= info->off) &&
               "operations in flight overlap");
    }
}

static uint64_t draw_latency(struct sim_world *w, const struct sim_disk_timing *t, const struct sim_io_info *info)
{
    switch (info->kind) {
    case SIM_READ:
        return sim_draw(w, t->read_ns);
    case SIM_WRITE:
        return sim_draw(w, t->write_ns) + (info->flags & IO_DURABLE ? sim_draw(w, t->durable_ns) : 0);
    case SIM_FLUSH:
        return sim_draw(w, t->flush_ns);
    case SIM_DISCARD:
        return sim_draw(w, t->discard_ns);
    case SIM_CREATE:
    case SIM_IO_KINDS:
        break;
    }
    return 0;
}

static int take_fault(struct sim_fault *f)
{
    if (!f->times)
        return 0;
    if (f->after) {
        f->after--;
        return 0;
    }
    if (f->times != UINT32_MAX)
        f->times--;
    return f->err;
}

/* hit: the disk has no part in it. */
static struct sim_op *submit_op(struct sim_dev *dev, struct sim_io_info info, const struct iovec *iov, unsigned n,
                                struct io_op *op, bool hit)
{
    struct sim_reactor *r = dev->reactor;
    struct sim_disk *d = dev->disk;
    assert(op->fn && "an operation needs its callback");
    assert(info.off % BLOCK_SIZE == 0 && info.len % BLOCK_SIZE == 0 && info.off <= d->size_bytes &&
           info.len <= d->size_bytes - info.off);
    list_for_each (l, &r->ops)
        assert(container_of(l, struct sim_op, node)->op != op && "an operation was submitted again while in flight");
    check_overlap(d, &info);

    info.nth = ++d->count[info.kind];
    r->in_call = true;
    call_hook(d, &info);
    r->in_call = false;
    if (r->gone)
        return NULL;

    struct sim_op *o = calloc(1, sizeof *o + n * sizeof o->iov[0]);
    assert(o);
    o->event.fn = op_complete;
    o->ready.fn = op_tell;
    list_init(&o->ready.node);
    o->reactor = r;
    o->dev = dev;
    o->disk = d;
    o->op = op;
    o->info = info;
    o->n_iov = n;
    if (n)
        memcpy(o->iov, iov, n * sizeof iov[0]);
    o->err = hit ? 0 : take_fault(&d->fault[info.kind]);
    op->link = op; /* the implementation's now: nobody else may rely on it */
    dev->n_ops++;
    list_push_back(&d->in_flight, &o->disk_node);
    list_push_back(&r->ops, &o->node);
    sim_note(r->world, r, 50 + info.kind, sim_mix(info.off) ^ info.len ^ (uint64_t)info.flags << 56,
             "%s: %s %llu: %llu + %llu%s", d->name, io_names[info.kind], (unsigned long long)info.nth,
             (unsigned long long)info.off, (unsigned long long)info.len, info.flags & IO_DURABLE ? " durable" : "");
    sim_event_set(r->world, &o->event, r->world->now_ns + draw_latency(r->world, &d->timing, &info));
    return o;
}

static struct sim_op *submit(struct sim_dev *dev, struct sim_io_info info, const struct iovec *iov, unsigned n,
                             struct io_op *op)
{
    return submit_op(dev, info, iov, n, op, false);
}

static uint64_t check_iov(const struct iovec *iov, unsigned n)
{
    uint64_t len = 0;
    assert(n >= 1 && n <= IO_IOV_MAX);
    for (unsigned i = 0; i < n; i++) {
        assert((uintptr_t)iov[i].iov_base % BLOCK_SIZE == 0 && iov[i].iov_len % BLOCK_SIZE == 0 && iov[i].iov_len > 0);
        len += iov[i].iov_len;
    }
    return len;
}

static void begin_read(struct dev *dev, const struct iovec *iov, unsigned n, uint64_t off, struct io_op *op, bool cached)
{
    struct sim_dev *d = sim_dev_of(dev);
    if (d->reactor->gone)
        return;
    struct sim_io_info info = {.kind = SIM_READ, .off = off, .len = check_iov(iov, n)};
    uint8_t *data = cached ? malloc(info.len) : NULL;
    if (data && !sim_cache_get(d->disk, off, data, info.len)) {
        free(data);
        data = NULL;
    }
    struct sim_op *o = submit_op(d, info, iov, n, op, data != NULL);
    if (!o) {
        free(data);
        return;
    }
    o->data = data;
    o->cached = cached;
    /* Whoever looks before completion sees that it was too early: no header, no checksum fits. */
    for (unsigned i = 0; i < n; i++)
        for (size_t at = 0; at < iov[i].iov_len; at += BLOCK_SIZE)
            memset((uint8_t *)iov[i].iov_base + at, 0xE5, 64);
}

void sim_dev_read(struct dev *dev, const struct iovec *iov, unsigned n, uint64_t off, struct io_op *op)
{
    begin_read(dev, iov, n, off, op, false);
}

void sim_dev_read_cached(struct dev *dev, const struct iovec *iov, unsigned n, uint64_t off, struct io_op *op)
{
    begin_read(dev, iov, n, off, op, true);
}

void sim_dev_write(struct dev *dev, const struct iovec *iov, unsigned n, uint64_t off, unsigned flags, struct io_op *op)
{
    struct sim_dev *d = sim_dev_of(dev);
    if (d->reactor->gone)
        return;
    assert((flags & ~IO_DURABLE) == 0);
    struct sim_io_info info = {.kind = SIM_WRITE, .off = off, .len = check_iov(iov, n), .flags = flags};
    struct sim_op *o = submit(d, info, iov, n, op);
    if (!o)
        return;
    sim_cache_drop(d->disk, o->info.nth, off, info.len);
    o->data = malloc(info.len);
    assert(o->data);
    iov_copy(o, o->data);
    const struct sim_tap *tap = &d->reactor->world->tap;
    if (tap->written)
        tap->written(tap->user, d->disk, off, o->data, info.len, flags);
    sim_fold(d->reactor->world, crc32c(o->data, info.len));
}

void sim_dev_flush(struct dev *dev, struct io_op *op)
{
    struct sim_dev *d = sim_dev_of(dev);
    if (d->reactor->gone)
        return;
    struct sim_op *o = submit(d, (struct sim_io_info){.kind = SIM_FLUSH}, NULL, 0, op);
    if (o)
        o->done = d->disk->done;
}

void sim_dev_discard(struct dev *dev, uint64_t off, uint64_t len, struct io_op *op)
{
    struct sim_dev *d = sim_dev_of(dev);
    if (d->reactor->gone)
        return;
    submit(d, (struct sim_io_info){.kind = SIM_DISCARD, .off = off, .len = len}, NULL, 0, op);
}

/* ---- opening ---- */

static struct sim_dev *dev_new(struct sim_reactor *r, struct sim_disk *disk)
{
    struct sim_dev *d = calloc(1, sizeof *d);
    assert(d);
    d->dev.reactor = &r->r;
    d->dev.size_bytes = disk->size_bytes;
    strcpy(d->dev.name, disk->name);
    d->disk = disk;
    d->reactor = r;
    list_push_back(&r->devs, &d->node);
    return d;
}

int sim_dev_open(struct sim_reactor *r, struct sim_disk *disk, struct dev **ret)
{
    assert(!r->gone);
    if (disk->holder)
        return -EWOULDBLOCK;
    sim_media_land_late(disk);
    struct sim_dev *d = dev_new(r, disk);
    disk->holder = d;
    *ret = &d->dev;
    return 0;
}

int sim_dev_open_unlocked(struct sim_reactor *r, struct sim_disk *disk, struct dev **ret)
{
    assert(!r->gone);
    *ret = &dev_new(r, disk)->dev;
    return 0;
}

static void dev_release(struct sim_dev *d)
{
    if (d->disk->holder == d)
        d->disk->holder = NULL;
}

void sim_dev_close(struct dev *dev)
{
    struct sim_dev *d = sim_dev_of(dev);
    assert(d->n_ops == 0 && "a device is closed when nothing is in flight");
    dev_release(d);
    list_remove(&d->node);
    free(d);
}

struct sim_disk *sim_dev_disk(const struct dev *dev)
{
    return container_of(dev, struct sim_dev, dev)->disk;
}

/* ---- directories ---- */

struct sim_dir_handle {
    struct dir dir;
    struct sim_dir *sim_dir;
    struct list node;
};

struct sim_create {
    struct list node;
    struct sim_event event;
    struct sim_ready ready;
    struct sim_reactor *reactor;
    struct sim_dir *dir;
    struct dev_create_op *op;
    uint64_t size_bytes;
    char name[NAME_MAX_BYTES];
};

struct dir *sim_dir_open(struct sim_reactor *r, struct sim_dir *d)
{
    struct sim_dir_handle *h = calloc(1, sizeof *h);
    assert(h);
    h->dir.reactor = &r->r;
    strcpy(h->dir.path, d->path);
    h->sim_dir = d;
    list_push_back(&r->dir_handles, &h->node);
    return &h->dir;
}

static bool is_blank(const struct sim_disk *d)
{
    static const uint8_t zeroes[BLOCK_SIZE];
    uint8_t page[BLOCK_SIZE];
    for (uint64_t off = 0; off < d->size_bytes; off += BLOCK_SIZE) {
        sim_disk_peek(d, off, page, BLOCK_SIZE);
        if (memcmp(page, zeroes, BLOCK_SIZE) != 0)
            return false;
    }
    return true;
}

static int create_disk(struct sim_create *c, struct sim_disk **ret)
{
    struct sim_disk *left = sim_dir_find(c->dir, c->name);
    if (left && (left->holder || left->size_bytes != c->size_bytes || !is_blank(left)))
        return -EEXIST;
    if (left) {
        *ret = left;
        return 0;
    }
    uint64_t used = sim_dir_used(c->dir);
    if (used > c->dir->capacity_bytes || c->size_bytes > c->dir->capacity_bytes - used) {
        c->dir->refused++;
        return -ENOSPC;
    }
    *ret = sim_disk_new(c->reactor->world, c->dir, c->name, c->size_bytes);
    return 0;
}

static void create_free(struct sim_create *c)
{
    sim_event_cancel(c->reactor->world, &c->event);
    list_remove(&c->node);
    list_remove(&c->ready.node);
    free(c);
}

static void create_tell(struct sim_ready *s)
{
    struct sim_create *c = container_of(s, struct sim_create, ready);
    struct dev_create_op *op = c->op;
    create_free(c);
    op->op.fn(&op->op);
}

static void create_complete(struct sim_event *e)
{
    struct sim_create *c = container_of(e, struct sim_create, event);
    struct sim_disk *disk = NULL;
    int err = create_disk(c, &disk);
    struct dev *dev = NULL;
    if (!err)
        err = sim_dev_open(c->reactor, disk, &dev);
    struct sim_reactor *r = c->reactor;
    sim_note(r->world, r, 60, (uint64_t)(int64_t)err, "%s: made: %d", c->name, err);
    c->op->op.result = err;
    c->op->dev = dev;
    if (c->dir->hook) {
        struct sim_io_info info = {.kind = SIM_CREATE, .nth = c->dir->creates, .len = c->size_bytes, .complete = true, .err = -err};
        c->dir->hook(c->dir->hook_user, err ? NULL : disk, &info);
        if (r->gone)
            return;
    }
    sim_ready_add(r, &c->ready);
}

void sim_dev_create(struct dir *dir, const char *name, uint64_t size_bytes, struct dev_create_op *op)
{
    struct sim_reactor *r = sim_reactor_of(dir->reactor);
    if (r->gone)
        return;
    assert(op->op.fn && size_bytes > 0 && size_bytes % BLOCK_SIZE == 0 && strlen(name) < NAME_MAX_BYTES);
    struct sim_dir *d = container_of(dir, struct sim_dir_handle, dir)->sim_dir;
    d->creates++;
    if (d->hook) {
        struct sim_io_info info = {.kind = SIM_CREATE, .nth = d->creates, .len = size_bytes};
        r->in_call = true;
        d->hook(d->hook_user, NULL, &info);
        r->in_call = false;
        if (r->gone)
            return;
    }
    struct sim_create *c = calloc(1, sizeof *c);
    assert(c);
    c->event.fn = create_complete;
    c->ready.fn = create_tell;
    list_init(&c->ready.node);
    c->reactor = r;
    c->dir = d;
    c->op = op;
    c->size_bytes = size_bytes;
    strcpy(c->name, name);
    list_push_back(&r->creates, &c->node);
    sim_note(r->world, r, 61, size_bytes, "%s: is being made", name);
    sim_event_set(r->world, &c->event, r->world->now_ns + sim_draw(r->world, r->world->config.create_ns));
}

/* ---- the process ends ---- */

/* What was in flight has landed, or not, or will later. */
static void op_crash(struct sim_op *o, enum sim_crash how)
{
    struct sim_disk *d = o->disk;
    struct sim_world *w = d->world;
    const struct sim_io_info *info = &o->info;
    switch (info->kind) {
    case SIM_WRITE:
        if (how == SIM_KILL && !d->landed && sim_chance(w, d->late_one_in)) {
            uint64_t at = w->now_ns + sim_draw(w, (struct sim_range){0, d->late_ns});
            sim_media_add_late(d, info->nth, info->off, info->len, o->data, at);
            o->data = NULL;
        } else {
            sim_media_write_torn(d, info->nth, info->off, o->data, info->len);
            sim_cache_drop(d, info->nth, info->off, info->len);
        }
        break;
    case SIM_FLUSH:
        if (sim_chance(w, 2))
            sim_media_flush(d, o->done);
        break;
    case SIM_DISCARD:
        if (sim_chance(w, 2))
            sim_media_discard(d, info->nth, info->off, info->len);
        break;
    case SIM_READ:
    case SIM_CREATE:
    case SIM_IO_KINDS:
        break;
    }
    sim_event_cancel(w, &o->event);
    list_remove(&o->disk_node);
}

void sim_dev_crash(struct sim_reactor *r, enum sim_crash how)
{
    list_for_each (l, &r->devs)
        container_of(l, struct sim_dev, node)->disk->salt = sim_rand(r->world);
    list_for_each (l, &r->ops) {
        struct sim_op *o = container_of(l, struct sim_op, node);
        if (!list_empty(&o->disk_node))
            op_crash(o, how);
    }
    list_for_each (l, &r->devs) {
        struct sim_dev *d = container_of(l, struct sim_dev, node);
        dev_release(d);
        if (how == SIM_POWER) {
            sim_media_land_late(d->disk);
            sim_media_settle(d->disk);
        }
    }
    list_for_each (l, &r->creates) {
        struct sim_create *c = container_of(l, struct sim_create, node);
        struct sim_disk *disk;
        if (c->event.index && sim_chance(r->world, 2))
            (void)create_disk(c, &disk);
        sim_event_cancel(r->world, &c->event);
    }
}

void sim_dev_reap(struct sim_reactor *r)
{
    list_for_each_safe (l, &r->ops)
        op_free(container_of(l, struct sim_op, node));
    list_for_each_safe (l, &r->creates)
        create_free(container_of(l, struct sim_create, node));
    for (struct list *l; (l = list_pop_front(&r->devs));)
        free(container_of(l, struct sim_dev, node));
    for (struct list *l; (l = list_pop_front(&r->dir_handles));)
        free(container_of(l, struct sim_dir_handle, node));
}
