/* See copy_harness.h. */
#include "tests/unit/copy_harness.h"

#include <errno.h>

static void begin(struct store_test *t, uint64_t seed, uint64_t size_blocks)
{
    t_init(t, seed);
    t->n_extents = 8;
    t->capacity_bytes = t->n_extents * t->extent_bytes;
    t->options.overlay_bytes = 32u << 20;
    t_format(t);
    t_start_ok(t);
    t_create(t, size_blocks);
    t_settle(t);
}

void x_begin(struct copy_test *x, uint64_t seed, uint64_t size_blocks)
{
    memset(x, 0, sizeof *x);
    x->size_blocks = size_blocks;
    begin(&x->d, seed, size_blocks);
    begin(&x->t, seed + 1, size_blocks);
    x->t.may_be_bad = true;
    for (unsigned i = 0; i <= COPY_FLIGHTS; i++)
        x->flight[i].x = x;
}

void x_free(struct copy_test *x)
{
    t_free(&x->d);
    t_free(&x->t);
}

static bool gone(const struct copy_test *x)
{
    return x->t.crashed || x->t.fatal;
}

static void run_target(struct copy_test *x, bool (*until)(void *user), void *user)
{
    if (gone(x) || until(user))
        return;
    sim_wake(x->t.sim);
    assert_true(sim_run_until(x->t.world, until, user, 600 * NS_PER_S));
}

/* ---- entries ---- */

void x_donor(struct copy_test *x, enum entry_kind kind, uint64_t block, uint32_t nblocks)
{
    t_append(&x->d, 0, kind, block, nblocks);
    t_commit_all(&x->d);
}

void x_feed(struct copy_test *x)
{
    const struct t_group *from = &x->d.group[0];
    struct t_group *to = &x->t.group[0];
    while (!gone(x) && to->last < from->last) {
        struct t_spec s = from->spec[from->log[to->last + 1]];
        t_append_spec(&x->t, 0, &s);
    }
    if (to->e < from->e)
        to->e = from->e;
}

void x_both(struct copy_test *x, enum entry_kind kind, uint64_t block, uint32_t nblocks)
{
    x_donor(x, kind, block, nblocks);
    x_feed(x);
    t_commit_all(&x->t);
}

/* ---- the jump ---- */

static void on_marked(void *user, int err)
{
    assert_int_equal(err, 0);
    ((struct copy_test *)user)->marked = true;
}

static bool is_marked(void *user)
{
    struct copy_test *x = user;
    return x->marked || gone(x);
}

void x_needs_copy(struct copy_test *x)
{
    if (gone(x))
        return;
    x->marked = false;
    store_needs_copy(x->t.store, 1, true, on_marked, x);
    run_target(x, is_marked, x);
}

static void on_drained(void *user)
{
    struct copy_test *x = user;
    assert_false(overlay_has_group(x->t.store, store_group(x->t.store, 1)));
    x->drained = true;
}

static bool is_drained(void *user)
{
    struct copy_test *x = user;
    return x->drained || gone(x);
}

void x_drain(struct copy_test *x)
{
    if (gone(x))
        return;
    x->drained = false;
    store_drain(x->t.store, 1, on_drained, x);
    run_target(x, is_drained, x);
}

void x_list(struct copy_test *x)
{
    uint32_t from = 0, n;
    x->n_listed = 0;
    do { /* a page of two at a time: one instant of the donor all the same */
        n = store_list_regions(x->d.store, 1, from, x->listing + x->n_listed, 2);
        x->n_listed += n;
        if (n > 0)
            from = x->listing[x->n_listed - 1].region + 1;
    } while (n == 2);
}

static void on_jumped(void *user)
{
    struct copy_test *x = user;
    x->jumped = true;
    t_jump_is_durable(&x->t, 0);
}

static void jump_now(void *user)
{
    struct copy_test *x = user;
    struct t_group *t = &x->t.group[0];
    const struct t_group *d = &x->d.group[0];
    uint64_t to = store_applied(x->d.store, 1), from = store_applied(x->t.store, 1);
    struct store_jump j = {.keep_log = x->keep, .listing = x->listing, .n = x->n_listed};
    bool known = paxos_log_at(&store_group(x->d.store, 1)->log, to, &j.to.e);
    assert_true(known);
    j.to.slot = to;
    j.membership = store_group(x->d.store, 1)->committed;
    x->jump_check = store_jump_check(x->t.store, 1, &j);
    if (x->jump_check)
        return;
    struct t_spec missed[256];
    uint32_t n = x->keep ? 0 : (uint32_t)(to - from);
    assert_true(n <= ARRAY_LEN(missed));
    for (uint32_t i = 0; i < n; i++)
        missed[i] = d->spec[d->log[from + 1 + i]];
    t_note_jump(&x->t, 0, to, missed, n);
    t->e = d->e;
    x->asked = 0;
    store_jump(x->t.store, 1, &j, on_jumped, x);
    assert_int_equal(store_applied(x->t.store, 1), to);
}

void x_jump_begin(struct copy_test *x, bool keep)
{
    x->keep = keep;
    x->jumped = false;
    x->jump_check = -EINVAL;
    if (!gone(x))
        store_drain(x->t.store, 1, jump_now, x);
}

static bool has_jumped(void *user)
{
    struct copy_test *x = user;
    return x->jumped || gone(x);
}

void x_jump_wait(struct copy_test *x)
{
    run_target(x, has_jumped, x);
}

void x_jump(struct copy_test *x, bool keep)
{
    x_drain(x);
    x_list(x);
    x_jump_begin(x, keep);
    x_jump_wait(x);
}

/* ---- images ---- */

static void on_copied(struct store_copy *c)
{
    struct copy_flight *f = container_of(c, struct copy_flight, c);
    f->done = true;
    f->begun = f->handed_over = false;
    if (c->err == -ECANCELED)
        f->x->cancelled++;
    else if (c->err == -ERANGE)
        f->x->too_old++;
    else
        assert_int_equal(c->err, 0);
    f->x->installed += c->installed;
    for (uint32_t i = 0; i < c->nblocks; i++)
        f->x->left += bit_get(c->left, i);
}

bool x_request(struct copy_test *x, unsigned flight, uint64_t block, uint32_t n)
{
    struct copy_flight *f = &x->flight[flight];
    assert_false(f->begun);
    if (gone(x))
        return false;
    buf_unref(f->c.buf);
    f->c = (struct store_copy){.group = 1, .block = block, .nblocks = n, .fn = on_copied};
    f->done = false;
    f->begun = store_copy_begin(x->t.store, &f->c);
    return f->begun;
}

void x_image(struct copy_test *x, unsigned flight)
{
    struct copy_flight *f = &x->flight[flight];
    struct store_copy *c = &f->c;
    struct store_read r;
    if (!f->begun)
        return;
    t_read_now(&x->d, 0, c->block, c->nblocks, &r);
    assert_true(r.err == 0 || r.err == -EBADMSG);
    c->image_slot = r.applied;
    c->changed_at = r.changed_at;
    memcpy(c->crc, r.crc, sizeof c->crc);
    memcpy(c->zero, r.zero, sizeof c->zero);
    memcpy(c->bad, r.bad, sizeof c->bad);
    buf_unref(c->buf);
    /* In some arena of the network's; now and then where payload of a message may begin. */
    c->buf_off = c->block / 16 % 3 ? 0 : 24;
    c->buf = buf_alloc_must(x->d.r->arena, c->nblocks * BLOCK_SIZE + BLOCK_SIZE);
    uint8_t *to = c->buf->data + c->buf_off;
    for (uint32_t i = 0; i < c->nblocks; i++) {
        if (bit_get(c->zero, i) || bit_get(c->bad, i))
            continue;
        memcpy(to, r.buf->data + (size_t)i * BLOCK_SIZE, BLOCK_SIZE);
        to += BLOCK_SIZE;
    }
    buf_unref(r.buf);
}

void x_install(struct copy_test *x, unsigned flight)
{
    struct copy_flight *f = &x->flight[flight];
    if (gone(x) || !f->begun)
        return;
    f->handed_over = true;
    store_copy_install(x->t.store, &f->c);
}

static bool is_done(void *user)
{
    struct copy_flight *f = user;
    return f->done || gone(f->x);
}

void x_wait(struct copy_test *x, unsigned flight)
{
    if (x->flight[flight].begun)
        run_target(x, is_done, &x->flight[flight]);
}

/* ---- what is unknown, verdicts ---- */

struct unknown_wait {
    struct copy_test *x;
    struct store_unknown u;
    bool done;
};

static void on_unknown(struct store_unknown *u)
{
    container_of(u, struct unknown_wait, u)->done = true;
}

static bool unknown_done(void *user)
{
    struct unknown_wait *w = user;
    return w->done || gone(w->x);
}

int x_unknown(struct copy_test *x, uint64_t block, struct store_unknown *ret)
{
    /* Not on the stack: after a crash nobody takes it back. */
    static struct unknown_wait w;
    w = (struct unknown_wait){.x = x, .u = {.group = 1, .from = block, .fn = on_unknown}};
    if (gone(x))
        return -EIO;
    store_unknown_next(x->t.store, &w.u);
    run_target(x, unknown_done, &w);
    *ret = w.u;
    return gone(x) ? -EIO : w.u.err;
}

struct chunks_wait {
    struct store_chunks c;
    bool done;
};

static void on_chunks(struct store_chunks *c)
{
    container_of(c, struct chunks_wait, c)->done = true;
}

static bool chunks_done(void *user)
{
    return ((struct chunks_wait *)user)->done;
}

void x_chunks_of(struct store_test *t, uint32_t region, uint64_t since, struct store_chunks *ret)
{
    struct chunks_wait w = {.c = {.group = 1, .region = region, .since = since, .fn = on_chunks}};
    store_chunks_changed(t->store, &w.c);
    if (!w.done)
        assert_true(sim_run_until(t->world, chunks_done, &w, 60 * NS_PER_S));
    *ret = w.c;
}

void x_chunks(struct copy_test *x, uint32_t region, uint64_t since, struct store_chunks *ret)
{
    x_chunks_of(&x->d, region, since, ret);
}

struct verdict_wait {
    struct copy_test *x;
    uint64_t accepted;
    bool done;
};

static void on_verdict(void *user, uint64_t accepted)
{
    struct verdict_wait *w = user;
    w->accepted = accepted;
    w->done = true;
}

static bool verdict_done(void *user)
{
    struct verdict_wait *w = user;
    return w->done || gone(w->x);
}

uint64_t x_verdict(struct copy_test *x, uint32_t region)
{
    static struct verdict_wait w;
    struct store_chunks c;
    if (gone(x))
        return 0;
    w = (struct verdict_wait){.x = x};
    uint64_t since = x_state(x).since;
    x_chunks(x, region, since, &c);
    assert_int_equal(c.err, 0);
    store_chunks_unchanged(x->t.store, 1, region, c.unchanged, since, c.applied, on_verdict, &w);
    run_target(x, verdict_done, &w);
    x->accepted += (uint64_t)__builtin_popcountll(w.accepted);
    return w.accepted;
}

/* ---- the copier ---- */

void x_copy(struct copy_test *x, unsigned n)
{
    for (unsigned tries = 0; n > 0 && !gone(x) && x_state(x).unknown_leaves > 0; tries++) {
        struct store_unknown u;
        assert_true(tries < 2000);
        int err = x_unknown(x, x->at, &u);
        if (err == -ENOENT) {
            if (x->at == 0)
                t_checkpoint(&x->t); /* all of it is in the overlay */
            x->at = 0;
            continue;
        }
        if (err)
            return;
        uint32_t region = (uint32_t)(u.block / REGION_BLOCKS);
        if (u.whole && !(x->asked >> region & 1)) {
            x->asked |= UINT32_C(1) << region;
            x_verdict(x, region);
            continue;
        }
        unsigned first = 0, last = u.nblocks;
        while (!bit_get(u.want, first))
            first++;
        while (!bit_get(u.want, last - 1))
            last--;
        if (!x_request(x, COPY_FLIGHTS, u.block + first, last - first)) {
            t_checkpoint(&x->t);
            if (!x_request(x, COPY_FLIGHTS, u.block + first, last - first))
                return; /* others are under way */
        }
        x_image(x, COPY_FLIGHTS);
        x_install(x, COPY_FLIGHTS);
        x_feed(x); /* an image may be ahead */
        t_commit_all(&x->t);
        x_wait(x, COPY_FLIGHTS);
        x->at = u.block + u.nblocks;
        n--;
    }
}

static void on_complete(void *user, int err)
{
    struct copy_test *x = user;
    x->complete = true;
    x->complete_err = err;
}

static bool is_complete(void *user)
{
    struct copy_test *x = user;
    return x->complete || gone(x);
}

void x_complete(struct copy_test *x)
{
    if (gone(x))
        return;
    x->complete = false;
    store_copy_complete(x->t.store, 1, on_complete, x);
    assert_true(x_state(x).needs_copy); /* not before the root */
    run_target(x, is_complete, x);
}

struct store_copy_state x_state(struct copy_test *x)
{
    struct store_copy_state st = {0};
    if (!gone(x))
        store_copy_state(x->t.store, 1, &st);
    return st;
}

/* ---- checks ---- */

void x_check(struct copy_test *x)
{
    if (gone(x))
        return;
    t_check_image(&x->t, 0);
    if (!x->damaged)
        assert_int_equal(x->t.bad_reported, 0);
}

void x_check_complete(struct copy_test *x)
{
    if (gone(x))
        return;
    assert_int_equal(x_state(x).unknown_leaves, 0);
    x->t.may_be_bad = false;
    t_check_image(&x->t, 0);
    x->t.may_be_bad = true;
}

uint32_t x_bad(struct copy_test *x, uint64_t block, uint32_t n)
{
    struct store_read r;
    uint32_t bad = 0;
    t_read_now(&x->t, 0, block, n, &r);
    for (uint32_t i = 0; i < n; i++)
        bad += bit_get(r.bad, i);
    assert_int_equal(r.err, bad ? -EBADMSG : 0);
    buf_unref(r.buf);
    return bad;
}

/* ---- lives ---- */

static void reset_flights(struct copy_test *x)
{
    for (unsigned i = 0; i <= COPY_FLIGHTS; i++)
        x->flight[i].begun = x->flight[i].handed_over = x->flight[i].done = false;
}

void x_crash(struct copy_test *x, enum sim_crash how)
{
    t_crash(&x->t, how);
    reset_flights(x);
}

void x_restart(struct copy_test *x)
{
    x->asked = 0;
    x->at = 0;
    t_start_ok(&x->t);
    x_check(x);
}

/* Both know it, on disk. */
void x_common_past(struct copy_test *x)
{
    x_both(x, ENTRY_WRITE, 0, 60);
    x_both(x, ENTRY_WRITE, 490, 64);  /* over the edge of a leaf */
    x_both(x, ENTRY_WRITE, 1100, 30); /* leaf 2, chunk 0 */
    x_both(x, ENTRY_WRITE, 1400, 30); /* leaf 2, chunk 1 */
    x_both(x, ENTRY_WRITE, R + 10, 20);
    x_both(x, ENTRY_WRITE, 2 * R + 600, 40);
    t_checkpoint(&x->d);
    t_checkpoint(&x->t);
}

/* What the target misses. */
void x_missed(struct copy_test *x)
{
    x_donor(x, ENTRY_WRITE, 20, 30);
    x_donor(x, ENTRY_TRIM, 500, 20);
    x_donor(x, ENTRY_WRITE, 1110, 5);
    x_donor(x, ENTRY_WRITE, 3000, 40); /* a leaf that the target has not */
    t_checkpoint(&x->d);
    x_donor(x, ENTRY_WRITE, 2 * R + 610, 3);
    x_donor(x, ENTRY_WRITE, 2 * R + 2990, 10); /* the end of the volume */
}

/* Where a copy ends, from wherever a crash left it. */
void x_finish(struct copy_test *x)
{
    struct store_copy_state st = x_state(x);
    bool behind = x->t.group[0].committed < x->d.group[0].committed;
    if (!st.needs_copy && !behind && st.jump > 0 && !x->t.crashed) { /* it was complete */
        x_check_complete(x);
        return;
    }
    if (!st.needs_copy)
        x_needs_copy(x);
    if (!st.copying || behind)
        x_jump(x, false);
    x_check(x);
    x_copy(x, 1000);
    x_check(x);
    x_complete(x);
    assert_int_equal(x->complete_err, 0);
    x_check_complete(x);
}

void x_audit_clean(struct store_test *t)
{
    struct t_audit a;
    t_audit(t, &a);
    assert_int_equal(a.used, a.reachable);
    assert_int_equal(a.bad_blocks, 0);
}

/* After completion: all is there after restarts, the old NEEDS_COPY record in the WAL notwithstanding. */
void x_afterwards(struct copy_test *x)
{
    x_both(x, ENTRY_WRITE, 5, 3);
    x_crash(x, SIM_POWER);
    x_restart(x);
    assert_false(x->t.group[0].found_needs_copy);
    x_check_complete(x);
    x_both(x, ENTRY_TRIM, 0, 64);
    t_stop(&x->t);
    x_audit_clean(&x->t);
    x_restart(x);
    assert_false(x->t.group[0].found_needs_copy);
    x_check_complete(x);
    t_stop(&x->t);
}

void x_rot_data(struct copy_test *x, uint64_t block)
{
    uint64_t off;
    struct sim_disk *d = t_find_data(&x->t, 0, block, &off);
    assert_non_null(d);
    sim_disk_flip(d, off + 77, 3);
}

void x_begin_jumped(struct copy_test *x, uint64_t seed, uint64_t size_blocks)
{
    x_begin(x, seed, size_blocks);
    x_common_past(x);
    x_missed(x);
    x_needs_copy(x);
    x_jump(x, false);
}
