/* What clients ask, and what becomes of the answers: contents and times go into the history, errors must have a reason. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/mark.h"
#include "replica/disk_format.h"
#include "tests/sim/cluster/workload_internal.h"

#define KIB 1024u
#define FINAL_BYTES (256u * KIB)
#define SLACK 0x5a /* what writes put between cells */

/* ---- the cells of a run ---- */

static void draw_bytes_area(struct trial *r, struct cell_area *a)
{
    a->bytes = 1;
    if (draw(r, 0, 1) == 0)
        return;
    a->n_blocks = (uint32_t)draw(r, 1, 3);
    a->per_block = (uint32_t)draw(r, 2, 24);
    a->stride = BLOCK_SIZE / a->per_block - (uint32_t)draw(r, 0, 60);
    a->phase = (uint32_t)draw(r, 0, BLOCK_SIZE - 1 - (a->per_block - 1) * a->stride);
}

void requests_draw(struct workload *w)
{
    struct trial *r = w->run;
    struct cell_area *large = &w->cells.area[0], *bytes = &w->cells.area[1];
    uint32_t blocks = (uint32_t)(r->scale.sizes.volume_bytes / BLOCK_SIZE);
    draw_bytes_area(r, bytes);
    blocks -= bytes->n_blocks;
    bool tiny = draw(r, 0, 5) == 0;
    large->bytes = large->stride = tiny ? 8 : 512;
    if (tiny)
        large->n_blocks = (uint32_t)draw(r, 1, 8);
    else
        large->n_blocks = draw(r, 0, 1) ? blocks : (uint32_t)draw(r, 4, blocks);
    large->phase = draw(r, 0, 1) ? (uint32_t)draw(r, 0, large->bytes - 1) : 0;
    large->per_block = (BLOCK_SIZE - large->phase) / large->bytes;
    large->block = (uint32_t)draw(r, 0, 1) ? (uint32_t)draw(r, 0, blocks - large->n_blocks) : 0;
    bytes->block = large->block + large->n_blocks;
    cells_init(&w->cells);
    w->slabs_one_in = draw(r, 0, 3) ? (uint32_t)draw(r, 2, 20) : 0;
    w->hot = (uint32_t)draw(r, 1, large->n < 4096 ? large->n : 4096);
    if (r->scale.crowded && r->scale.crowded < large->n_blocks)
        w->hot = r->scale.crowded * large->per_block;
}

/* ---- choosing ---- */

/* Cells [first, first + n) of an area as bytes [offset, end): as they are, or with the bytes around them that are nobody's, or as whole blocks. */
static void choose_range(struct request *q, const struct cell_area *a, uint32_t area_n, uint32_t max_bytes, bool whole)
{
    struct trial *r = q->lane->workload->run;
    const struct cells *c = &r->workload->cells;
    uint64_t shape = draw(r, 0, 99);
    uint32_t most = shape < 35 ? 0 : shape < 65 ? 4 * KIB : shape < 93 ? 16 * KIB : shape < 98 ? 64 * KIB : (uint32_t)SIM_MIB;
    if (most > max_bytes)
        most = max_bytes;
    q->n = 1 + (uint32_t)draw(r, 0, most) / a->stride;
    if (q->n > area_n)
        q->n = area_n;
    uint32_t i = (uint32_t)draw(r, 0, area_n - q->n), end = i + q->n;
    if (whole) {
        i -= i % a->per_block;
        end += a->per_block - 1;
        end -= end % a->per_block;
    }
    q->first = a->first + i;
    q->n = end - i;
    uint64_t from = cells_offset(c, q->first), to = cells_offset(c, q->first + q->n - 1) + a->bytes;
    if (i % a->per_block == 0)
        from = whole ? from - a->phase : draw(r, 0, 3) == 0 ? draw(r, from - a->phase, from) : from;
    if (end % a->per_block == 0) {
        uint64_t edge = (to + BLOCK_SIZE - 1) / BLOCK_SIZE * BLOCK_SIZE;
        to = whole ? edge : draw(r, 0, 3) == 0 ? draw(r, to, edge) : to;
    }
    q->io.offset = from;
    q->io.length = (uint32_t)(to - from);
}

/* Whole slabs, and often a few blocks beside them: what replicas write once. */
static bool choose_slabs(struct request *q, const struct cell_area *a, uint32_t max_bytes)
{
    struct trial *r = q->lane->workload->run;
    uint32_t first = (a->block + SLAB_BLOCKS - 1) / SLAB_BLOCKS, end = (a->block + a->n_blocks) / SLAB_BLOCKS, most = max_bytes / SLAB_BYTES;
    if (most == 0 || first >= end)
        return false;
    uint32_t slab = (uint32_t)draw(r, first, end - 1), n = (uint32_t)draw(r, 1, most < end - slab ? most : end - slab);
    uint32_t from = slab * SLAB_BLOCKS, to = from + n * SLAB_BLOCKS, area_end = a->block + a->n_blocks, more = (uint32_t)draw(r, 0, 3);
    if (more & 1 && (to - from) * BLOCK_SIZE < max_bytes)
        from -= from - a->block < 3 ? from - a->block : (uint32_t)draw(r, 1, 3);
    if (more & 2 && (to - from) * BLOCK_SIZE < max_bytes)
        to += area_end - to < 5 ? area_end - to : (uint32_t)draw(r, 1, 5);
    if ((to - from) * BLOCK_SIZE > max_bytes)
        return false;
    MARK("client: writes whole slabs");
    q->first = a->first + (from - a->block) * a->per_block;
    q->n = (to - from) * a->per_block;
    q->io.offset = (uint64_t)from * BLOCK_SIZE;
    q->io.length = (to - from) * BLOCK_SIZE;
    return true;
}

static void choose_place(struct request *q)
{
    struct workload *w = q->lane->workload;
    struct trial *r = w->run;
    const struct cell_area *large = &w->cells.area[0], *bytes = &w->cells.area[1];
    if (bytes->n > 0 && draw(r, 0, 2) == 0) {
        choose_range(q, bytes, bytes->n, draw(r, 0, 7) ? 0 : 4 * KIB, false);
        return;
    }
    uint32_t max = q->io.type == NBD_CMD_WRITE ? r->scale.request_max_bytes : (uint32_t)SIM_MIB;
    if (q->io.type == NBD_CMD_WRITE && w->slabs_one_in && draw(r, 1, w->slabs_one_in) == 1 && choose_slabs(q, large, max))
        return;
    choose_range(q, large, draw(r, 0, 99) < (r->scale.scattered ? 20 : r->scale.crowded ? 97 : 85) ? w->hot : large->n, max, draw(r, 0, 2) == 0);
}

static void choose_command(struct request *q)
{
    struct trial *r = q->lane->workload->run;
    uint64_t x = draw(r, 0, 99);
    q->io.type = x < 45 ? NBD_CMD_WRITE : x < 82 ? NBD_CMD_READ : x < 90 ? NBD_CMD_WRITE_ZEROES : x < 96 ? NBD_CMD_TRIM : NBD_CMD_FLUSH;
    if (draw(r, 0, 7) == 0)
        q->io.flags |= NBD_CMD_FLAG_FUA;
    if (q->io.type == NBD_CMD_WRITE_ZEROES && draw(r, 0, 1))
        q->io.flags |= NBD_CMD_FLAG_NO_HOLE;
    if (q->io.type == NBD_CMD_WRITE_ZEROES && draw(r, 0, 3) == 0)
        q->io.flags |= NBD_CMD_FLAG_FAST_ZERO;
    if (q->io.type == NBD_CMD_READ && q->lane->nbd.structured && draw(r, 0, 3) == 0)
        q->io.flags |= NBD_CMD_FLAG_DF;
}

/* Requests that must be refused, and disturb nothing. */
static void choose_nonsense(struct request *q)
{
    struct trial *r = q->lane->workload->run;
    uint64_t size = r->scale.sizes.volume_bytes;
    struct nbd_io *io = &q->io;
    q->expect = EINVAL;
    io->offset = size - draw(r, 0, 100);
    io->length = (uint32_t)draw(r, 101, 5000);
    switch (draw(r, 0, 7)) {
    case 0:
        io->type = NBD_CMD_READ;
        break;
    case 1: /* "SHOULD return NBD_ENOSPC" for what grows a disk */
        io->type = draw(r, 0, 1) ? NBD_CMD_WRITE : NBD_CMD_WRITE_ZEROES;
        q->expect = ENOSPC;
        break;
    case 2:
        io->type = NBD_CMD_TRIM;
        io->offset = UINT64_MAX - draw(r, 0, 5000);
        break;
    case 3:
        io->type = draw(r, 0, 1) ? NBD_CMD_CACHE : NBD_CMD_BLOCK_STATUS;
        io->offset = 0;
        break;
    case 4:
        io->type = NBD_CMD_WRITE;
        io->flags = draw(r, 0, 1) ? NBD_CMD_FLAG_NO_HOLE : 1u << 9;
        io->offset = 0;
        break;
    case 5:
        io->type = NBD_CMD_FLUSH;
        break;
    case 6:
        io->type = (uint16_t)draw(r, 8, UINT16_MAX);
        io->offset = 0;
        break;
    default: /* nothing at all: "SHOULD NOT" be asked for, and succeeds */
        io->type = draw(r, 0, 1) ? NBD_CMD_READ : NBD_CMD_WRITE;
        io->offset = 0;
        io->length = 0;
        q->expect = 0;
    }
    MARK("client: nonsense");
}

/* ---- making ---- */

static struct request *request_new(struct lane *l)
{
    struct request *q = calloc(1, sizeof *q);
    assert(q);
    q->lane = l;
    q->session = l->session;
    q->began = sim_now(l->workload->run->world);
    return q;
}

static void submit(struct request *q)
{
    struct nbd_io *io = &q->io;
    if (!io->data && io->length > 0 && (io->type == NBD_CMD_READ || io->type == NBD_CMD_WRITE)) {
        io->data = malloc(io->length);
        assert(io->data);
        memset(io->data, io->type == NBD_CMD_WRITE ? SLACK : 0xee, io->length);
    }
    trace_request(q->lane->workload->run->trace, q, TRACE_ASKED);
    nbd_client_submit(&q->lane->nbd, io);
}

/* Which cells it changes, and what it is in the history. */
static void record(struct request *q)
{
    struct workload *w = q->lane->workload;
    struct history *h = w->run->history;
    struct nbd_io *io = &q->io;
    uint64_t end = io->offset + io->length;
    q->one_block = io->offset / BLOCK_SIZE == (end - 1) / BLOCK_SIZE;
    if (io->type == NBD_CMD_WRITE) {
        if (!cells_may_fill(&w->cells, q->first, q->n)) {
            io->type = NBD_CMD_READ;
            return;
        }
        q->write = history_write(h, q->began, q->session, q->first, q->n, false);
        io->data = malloc(io->length);
        assert(io->data);
        memset(io->data, SLACK, io->length);
        cells_fill(&w->cells, io->data, io->offset, q->first, q->n, q->write);
    } else if (io->type == NBD_CMD_WRITE_ZEROES) {
        q->write = history_write(h, q->began, q->session, q->first, q->n, true);
    } else if (io->type == NBD_CMD_TRIM) { /* whole blocks only: the ends stay as they are */
        uint32_t first, n = cells_in_whole_blocks(&w->cells, io->offset, end, &first);
        if (n > 0)
            q->write = history_write(h, q->began, q->session, first, n, true);
    }
}

/* Once in a while all of it at once: a range entry as long as the volume. */
static bool take_all(struct request *q)
{
    struct workload *w = q->lane->workload;
    struct trial *r = w->run;
    if ((q->io.type != NBD_CMD_TRIM && q->io.type != NBD_CMD_WRITE_ZEROES) || draw(r, 0, 19))
        return false;
    MARK("client: zeroes the whole volume");
    q->first = 0;
    q->n = w->cells.n;
    q->io.offset = 0;
    q->io.length = (uint32_t)r->scale.sizes.volume_bytes;
    return true;
}

bool request_make(struct lane *l)
{
    struct request *q = request_new(l);
    if (draw(l->workload->run, 0, 49) == 0) {
        choose_nonsense(q);
    } else {
        choose_command(q);
        if (q->io.type != NBD_CMD_FLUSH) {
            if (!take_all(q))
                choose_place(q);
            record(q);
        }
    }
    submit(q);
    return true;
}

void request_make_probe(struct lane *l)
{
    struct request *q = request_new(l);
    q->io.type = NBD_CMD_FLUSH;
    q->probe = true;
    MARK("client: asks whether the server is still there");
    submit(q);
}

bool request_make_final(struct lane *l)
{
    struct workload *w = l->workload;
    const struct cells *c = &w->cells;
    if (w->final_next >= c->n)
        return false;
    struct request *q = request_new(l);
    const struct cell_area *a = cells_area(c, w->final_next);
    uint32_t left = a->first + a->n - w->final_next, most = FINAL_BYTES / a->stride;
    q->io.type = NBD_CMD_READ;
    q->final = true;
    q->first = w->final_next;
    q->n = left < most ? left : most;
    q->io.offset = cells_offset(c, q->first);
    q->io.length = (uint32_t)(cells_offset(c, q->first + q->n - 1) + a->bytes - q->io.offset);
    w->final_next += q->n;
    submit(q);
    return true;
}

/* ---- answers ---- */

static void request_free(struct request *q)
{
    free(q->io.data);
    free(q);
}

static void take_read(struct request *q)
{
    struct trial *r = q->lane->workload->run;
    const struct cells *c = &r->workload->cells;
    uint32_t *value = malloc(q->n * sizeof *value);
    assert(value);
    for (uint32_t i = 0; i < q->n; i++) {
        value[i] = cells_parse(c, q->io.data, q->io.offset, q->first + i);
        if (value[i] == CELL_TORN)
            lane_wrong(q->lane, "cell %u is torn: it holds parts of several writes, or of none", q->first + i);
    }
    if (!r->cluster->broken)
        history_read(r->history, q->began, sim_now(r->world), q->session, q->first, q->n, value);
    free(value);
}

/* The checkers want to see what was said to be done as the front end sees it. */
static void tell_checks(struct request *q)
{
    static const enum export_op op[] = {[NBD_CMD_WRITE] = EXPORT_WRITE, [NBD_CMD_TRIM] = EXPORT_TRIM, [NBD_CMD_WRITE_ZEROES] = EXPORT_ZERO};
    const struct nbd_io *io = &q->io;
    if (q->write == 0)
        return;
    struct buf payload = {.data = io->data, .cap = io->length, .refs = 1};
    struct export_request x = {.op = op[io->type], .offset = io->offset, .length = io->length, .n_pieces = io->data ? 1 : 0};
    x.data[0] = io->data ? &payload : NULL;
    x.data_len[0] = io->length;
    checks_answered(q->lane->workload->run->checks, &x, q->began);
}

static void take_success(struct request *q)
{
    struct trial *r = q->lane->workload->run;
    if (q->expect) {
        lane_wrong(q->lane, "command %u at %llu+%u, flags 0x%x, must be refused and was not", q->io.type, (unsigned long long)q->io.offset, q->io.length, q->io.flags);
    } else if (q->write) {
        tell_checks(q);
        history_written(r->history, sim_now(r->world), q->write);
    } else if (q->io.type == NBD_CMD_READ && q->n > 0) {
        take_read(q);
    }
}

/* NULL, or why this error may not be answered. */
static const char *check_error(const struct request *q)
{
    const struct trial *r = q->lane->workload->run;
    uint32_t error = q->io.error;
    if (error == NBD_ESHUTDOWN) {
        MARK("client: ESHUTDOWN");
        return lane_may_be_shut(q->lane) ? NULL : "ESHUTDOWN from a front end that serves";
    }
    if (q->expect)
        return error == q->expect ? NULL : "another error than the one that belongs here";
    if (error == NBD_ENOSPC && q->write) {
        MARK("client: ENOSPC");
        return r->may_be_full ? NULL : "ENOSPC, but no disk is full";
    }
    if (error == NBD_EIO && r->cluster->fail_after_ns) {
        MARK("client: EIO, no majority in time");
        return NULL;
    }
    if (error == NBD_EIO) {
        MARK("client: EIO");
        return r->may_be_unreadable ? NULL : "EIO, but a majority has everything";
    }
    return "an error without a reason";
}

/* Something will read these cells again; not when they may be gone for good. */
static void final_again(struct request *q)
{
    struct workload *w = q->lane->workload;
    if (q->io.error == NBD_EIO && w->run->may_be_unreadable)
        return;
    if (q->final && q->first < w->final_next)
        w->final_next = q->first;
}

static void take_error(struct request *q)
{
    struct trial *r = q->lane->workload->run;
    const char *why = check_error(q);
    if (why)
        lane_wrong(q->lane, "command %u at %llu+%u got error %u (%s): %s", q->io.type, (unsigned long long)q->io.offset, q->io.length, q->io.error, strerror((int)q->io.error), why);
    if (q->io.error == NBD_ENOSPC && q->write && q->one_block)
        history_refused(r->history, q->write); /* "ENOSPC is answered before a write has any effect" */
    if (!q->expect)
        r->lost++;
    final_again(q);
}

void request_replied(struct request *q)
{
    struct lane *l = q->lane;
    struct trial *r = l->workload->run;
    uint64_t now = sim_now(r->world);
    trace_request(r->trace, q, TRACE_ANSWERED);
    if (now - q->began > r->longest_wait_ns)
        r->longest_wait_ns = now - q->began;
    /* P7: a fenced attachment never resumes, and a connection dies with it. */
    if (q->session < l->workload->cap_sessions && l->workload->session_over[q->session] < q->began)
        lane_wrong(l, "a request that was sent after the end of session %u was answered on a connection of it", q->session);
    if (q->io.error)
        take_error(q);
    else
        take_success(q);
    request_free(q);
}

void request_lost(struct request *q)
{
    trace_request(q->lane->workload->run->trace, q, TRACE_LOST);
    if (!q->probe)
        q->lane->workload->run->lost++;
    final_again(q);
    request_free(q);
}
