/* See wal_harness.h. What always holds: t.rec[0, durable) was reported durable; the list is never shorter than that. */
#include "tests/unit/wal_harness.h"

#include <errno.h>

/* ---- what was appended ---- */

static struct rec *list_add(struct rec **list, uint32_t *n, uint32_t *cap)
{
    if (*n == *cap) {
        *cap = *cap ? *cap * 2 : 256;
        *list = realloc(*list, *cap * sizeof **list);
        assert_non_null(*list);
    }
    struct rec *r = &(*list)[(*n)++];
    memset(r, 0, sizeof *r);
    return r;
}

static struct uuid proposer(uint64_t round)
{
    struct uuid u;
    memset(u.b, 1 + (int)(round % 200), sizeof u.b);
    return u;
}

static struct ballot ballot(uint64_t round)
{
    return (struct ballot){ round, proposer(round) };
}

static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 31)) * UINT64_C(0x9E3779B97F4A7C15);
    return x ^ (x >> 29);
}

static void pattern(uint64_t id, uint32_t block, uint8_t *to)
{
    uint64_t x = mix(id * 1000 + block);
    for (uint32_t i = 0; i < BLOCK_SIZE; i += 8, x += UINT64_C(0x9E3779B97F4A7C15))
        memcpy(to + i, &x, 8);
}

struct entry *t_make_entry(struct wal_test *t, const struct rec *r)
{
    struct buf *payload = NULL;
    if (r->kind == ENTRY_WRITE) {
        payload = buf_alloc_must(t->r->arena, r->blocks * BLOCK_SIZE);
        for (uint32_t i = 0; i < r->blocks; i++)
            pattern(r->id, i, payload->data + i * BLOCK_SIZE);
        if (t->payload)
            memcpy(payload->data, t->payload, r->blocks * BLOCK_SIZE);
    }
    bool range = r->kind == ENTRY_WRITE || r->kind == ENTRY_TRIM || r->kind == ENTRY_ZERO;
    struct entry *e = entry_new(t->r->arena, r->kind, range ? r->id : 0, range ? r->blocks : 0, payload, 0);
    assert_non_null(e);
    e->group = r->group;
    e->slot = r->slot;
    e->e = ballot(r->e);
    for (uint32_t i = 0; r->kind == ENTRY_WRITE && i < r->blocks; i++)
        entry_crcs(e)[i] = crc32c(payload->data + i * BLOCK_SIZE, BLOCK_SIZE);
    if (r->kind == ENTRY_MEMBER) {
        e->u[0].membership = (struct membership){ .slot = r->slot, .n_voters = 1 };
        e->u[0].membership.voter[0] = proposer(r->id);
    }
    return e;
}

/* Entries without a range of blocks have no room for an id: their slot and ballot must do. */
static uint64_t entry_id(const struct entry *e)
{
    return e->nblocks ? e->block : 0;
}

static void check_content(const struct entry *e)
{
    if (e->kind == ENTRY_WRITE) {
        assert_non_null(e->payload);
        assert_int_equal(entry_verify(e), -1);
    } else if (e->kind == ENTRY_MEMBER) {
        assert_int_equal(e->u[0].membership.slot, e->slot);
    }
}

void t_entry_kind(struct wal_test *t, uint64_t group, enum entry_kind kind, uint32_t blocks, bool refill, uint64_t slot, uint64_t e)
{
    bool range = kind == ENTRY_WRITE || kind == ENTRY_TRIM || kind == ENTRY_ZERO;
    struct rec *r = list_add(&t->rec, &t->n, &t->cap);
    *r = (struct rec){
        .type = WAL_ENTRY, .group = group, .slot = slot, .e = e, .kind = kind, .refill = refill,
        .id = range ? ++t->next_id : 0, .blocks = range ? blocks : 0,
    };
    struct entry *entry = t_make_entry(t, r);
    wal_append_entry(t->wal, t->n, entry, refill);
    entry_unref(entry);
}

void t_entry(struct wal_test *t, uint64_t group, uint32_t blocks)
{
    if (!t->e[group])
        t->e[group] = 1;
    t_entry_kind(t, group, ENTRY_WRITE, blocks, false, ++t->last[group], t->e[group]);
}

void t_refill(struct wal_test *t, uint32_t i)
{
    struct rec *r = list_add(&t->rec, &t->n, &t->cap);
    *r = t->rec[i];
    r->refill = true;
    struct entry *e = t_make_entry(t, r);
    wal_append_entry(t->wal, t->n, e, true);
    entry_unref(e);
}

void t_promise(struct wal_test *t, uint64_t group, uint64_t round, uint64_t lease)
{
    *list_add(&t->rec, &t->n, &t->cap) = (struct rec){ .type = WAL_PROMISE, .group = group, .e = round, .id = lease };
    struct ballot b = ballot(round);
    wal_append_promise(t->wal, t->n, group, &b, lease);
}

void t_slot(struct wal_test *t, enum wal_record_type type, uint64_t group, uint64_t slot)
{
    *list_add(&t->rec, &t->n, &t->cap) = (struct rec){ .type = type, .group = group, .slot = slot };
    if (type == WAL_CUT)
        wal_append_cut(t->wal, t->n, group, slot);
    else if (type == WAL_COMMIT)
        wal_append_commit(t->wal, t->n, group, slot);
    else if (type == WAL_FUZZY)
        wal_append_fuzzy(t->wal, t->n, group, slot);
    else
        wal_append_needs_copy(t->wal, t->n, group, slot / 2, slot & 1);
}

void t_cut(struct wal_test *t, uint64_t group, uint64_t slot)
{
    t_slot(t, WAL_CUT, group, slot);
    t->last[group] = slot - 1;
    t->e[group]++;
}

void t_group(struct wal_test *t, uint64_t group, uint64_t size)
{
    *list_add(&t->rec, &t->n, &t->cap) = (struct rec){ .type = WAL_GROUP, .group = group, .id = size };
    struct wal_group g = { .group = group, .size_blocks = size, .membership = { .n_voters = 1 } };
    g.membership.voter[0] = proposer(size);
    wal_append_group(t->wal, t->n, &g);
}

void t_random(struct wal_test *t, uint32_t max_blocks)
{
    uint64_t g = 1 + sim_rand(t->world) % 3;
    if (!t->e[g])
        t->e[g] = 1;
    switch (sim_rand(t->world) % 24) {
    case 0:
        t_promise(t, g, ++t->e[g], 1 + sim_rand(t->world) % 1000);
        break;
    case 1:
        if (t->last[g] > t->committed[g])
            t_cut(t, g, t->committed[g] + 1 + sim_rand(t->world) % (t->last[g] - t->committed[g]));
        break;
    case 2:
    case 3:
        if (t->last[g] > t->committed[g])
            t->committed[g] += 1 + sim_rand(t->world) % (t->last[g] - t->committed[g]);
        t_slot(t, WAL_COMMIT, g, t->committed[g]);
        break;
    case 4:
        t_slot(t, WAL_FUZZY, g, t->last[g] + 1);
        break;
    case 5:
        t_slot(t, WAL_NEEDS_COPY, g, sim_rand(t->world) % 1000);
        break;
    case 6:
        t_entry_kind(t, g, ENTRY_TRIM, 1 + (uint32_t)(sim_rand(t->world) % 100), false, ++t->last[g], t->e[g]);
        break;
    case 7:
        t_entry_kind(t, g, ENTRY_SESSION, 0, false, ++t->last[g], t->e[g]);
        break;
    case 8:
        t_entry_kind(t, g, ENTRY_MEMBER, 0, false, ++t->last[g], t->e[g]);
        break;
    case 9:
        for (uint32_t i = t->n; i-- > t->first;) /* a copy of the group's last entry, if it is still in force */
            if (t->rec[i].type == WAL_ENTRY && t->rec[i].group == g) {
                if (t->rec[i].slot <= t->last[g])
                    t_refill(t, i);
                break;
            }
        break;
    case 10:
        t_group(t, g, 1 + sim_rand(t->world) % 1000);
        break;
    default:
        t_entry(t, g, 1 + (uint32_t)(sim_rand(t->world) % max_blocks));
    }
}

/* ---- what is heard ---- */

static void on_durable(void *user, uint64_t token)
{
    struct wal_test *t = user;
    assert_true(token > t->durable);
    assert_true(token <= t->n);
    t->durable = token;
}

static void on_placed(void *user, const struct entry *e, struct wal_place place)
{
    struct wal_test *t = user;
    while (t->placed < t->n && t->rec[t->placed].type != WAL_ENTRY)
        t->placed++;
    if (t->placed < t->n) {
        struct rec *r = &t->rec[t->placed++];
        assert_true(r->group == e->group && r->slot == e->slot && r->e == e->e.round && r->id == entry_id(e));
        r->place = place;
        return;
    }
    fail_msg("an entry was placed that was never appended");
}

static void on_error(void *user, int err)
{
    struct wal_test *t = user;
    assert_true(err < 0);
    t->errors++;
}

static struct rec *got(struct wal_test *t, unsigned type, uint64_t group, uint64_t slot)
{
    struct rec *r = list_add(&t->got, &t->n_got, &t->cap_got);
    r->type = type;
    r->group = group;
    r->slot = slot;
    return r;
}

static void got_group(void *user, const struct wal_group *g)
{
    got(user, WAL_GROUP, g->group, 0)->id = g->size_blocks;
    struct uuid voter = proposer(g->size_blocks);
    assert_true(uuid_equal(&g->membership.voter[0], &voter));
}

static void got_promise(void *user, const struct wal_promise *p)
{
    struct rec *r = got(user, WAL_PROMISE, p->group, 0);
    r->e = p->round;
    r->id = p->max_lease_ns;
    struct uuid u = proposer(p->round);
    assert_memory_equal(p->proposer, u.b, 16);
}

static void got_cut(void *user, uint64_t group, uint64_t slot)
{
    got(user, WAL_CUT, group, slot);
}

static void got_entry(void *user, struct entry *e, struct wal_place place, const uint32_t *slab, bool refill)
{
    struct rec *r = got(user, WAL_ENTRY, e->group, e->slot);
    struct ballot b = ballot(e->e.round);
    assert_true(ballot_equal(&b, &e->e));
    check_content(e);
    r->e = e->e.round;
    r->id = entry_id(e);
    r->blocks = e->nblocks;
    r->kind = e->kind;
    r->refill = refill;
    r->place = place;
}

static void got_lost(void *user, uint64_t group, uint64_t cut, uint64_t first, uint64_t last, const struct ballot *e)
{
    assert_true(first > 0 && first <= last);
    for (uint64_t s = first; s <= last; s++) {
        struct rec *r = got(user, REC_LOST, group, s);
        r->e = e->round;
        r->id = s == first ? cut : 0;
    }
}

static void got_commit(void *user, uint64_t group, uint64_t slot)
{
    got(user, WAL_COMMIT, group, slot);
}

static void got_fuzzy(void *user, uint64_t group, uint64_t slot)
{
    got(user, WAL_FUZZY, group, slot);
}

static void got_needs_copy(void *user, const struct wal_needs_copy *n)
{
    got(user, WAL_NEEDS_COPY, n->group, 2 * n->slot + n->on);
}

static void got_done(void *user, int err, const char *why)
{
    struct wal_test *t = user;
    assert_false(t->done);
    assert_true((err != 0) == (why != NULL));
    t->done = true;
    t->err = err;
    snprintf(t->why, sizeof t->why, "%s", why ? why : "");
}

/* ---- processes ---- */

void t_init(struct wal_test *t, uint64_t seed, uint64_t wal_bytes)
{
    memset(t, 0, sizeof *t);
    t->wal_bytes = wal_bytes;
    memcpy(t->salt, "salt of a test..", 16);
    t->world = sim_world_new(seed);
    t->disk = sim_disk_new(t->world, NULL, "wal", wal_bytes);
    t->root.tail_seq = 1;
}

static void crashed(void *user)
{
    struct wal_test *t = user;
    wal_free(t->wal);
    t->wal = NULL;
    t->sim = NULL;
    t->r = NULL;
}

void t_free(struct wal_test *t)
{
    if (t->sim)
        t_crash(t, SIM_KILL);
    sim_world_free(t->world);
    free(t->rec);
    free(t->got);
}

struct crash_at {
    struct wal_test *t;
    uint64_t left;
    enum sim_crash how;
};

static void crash_hook(void *user, struct sim_disk *d, const struct sim_io_info *io)
{
    struct crash_at *c = user;
    if (c->left && --c->left == 0 && c->t->sim)
        sim_reactor_crash(c->t->sim, c->how);
}

static bool is_over(void *user)
{
    struct wal_test *t = user;
    return t->done || !t->sim;
}

int t_start_crashing(struct wal_test *t, uint64_t nth, enum sim_crash how)
{
    static const struct wal_replay replay = {
        .on_group = got_group, .on_promise = got_promise, .on_cut = got_cut, .on_entry = got_entry, .on_lost = got_lost,
        .on_commit = got_commit, .on_fuzzy = got_fuzzy, .on_needs_copy = got_needs_copy, .on_done = got_done,
    };
    assert_null(t->sim);
    t->sim = sim_reactor_new(t->world, "host", UINT64_C(1) << 30);
    sim_on_crash(t->sim, crashed, t);
    t->r = sim_reactor_io(t->sim);
    struct dev *dev;
    assert_int_equal(sim_dev_open(t->sim, t->disk, &dev), 0);
    struct wal_callbacks cb = { .on_durable = on_durable, .on_placed = on_placed, .on_error = on_error, .user = t };
    t->wal = wal_new(t->r, dev, t->salt, &cb);
    assert_non_null(t->wal);
    t->n_got = 0;
    t->done = false;
    t->errors = 0;
    struct wal_replay rp = replay;
    rp.user = t;
    struct crash_at at = { t, nth, how };
    sim_disk_set_hook(t->disk, crash_hook, &at);
    wal_recover(t->wal, &t->root, &rp);
    sim_run_until(t->world, is_over, t, UINT64_C(100) * NS_PER_S);
    sim_disk_set_hook(t->disk, NULL, NULL);
    if (!t->sim)
        return -ECANCELED;
    assert_true(t->done);
    return t->err;
}

int t_start(struct wal_test *t)
{
    return t_start_crashing(t, 0, SIM_KILL);
}

static bool rec_equal(const struct rec *a, const struct rec *b)
{
    return a->type == b->type && a->group == b->group && a->slot == b->slot && a->e == b->e && a->id == b->id &&
           a->blocks == b->blocks && a->kind == b->kind && a->refill == b->refill;
}

static void set_ends(struct wal_test *t)
{
    memset(t->last, 0, sizeof t->last);
    for (uint32_t i = 0; i < t->n; i++) {
        const struct rec *r = &t->rec[i];
        if (r->type == WAL_ENTRY && !r->refill)
            t->last[r->group] = r->slot;
        else if (r->type == WAL_CUT)
            t->last[r->group] = r->slot - 1;
        else if (r->type == WAL_COMMIT && r->slot > t->committed[r->group])
            t->committed[r->group] = r->slot;
    }
    for (unsigned g = 0; g < T_GROUPS; g++) {
        t->e[g]++; /* whoever appends next is another */
        if (t->committed[g] > t->last[g])
            t->committed[g] = t->last[g];
    }
}

void t_check(struct wal_test *t)
{
    if (t->n_got > t->n - t->first)
        fail_msg("%u records replayed, only %u were ever appended", t->n_got, t->n - t->first);
    for (uint32_t i = 0; i < t->n_got; i++) {
        struct rec *want = &t->rec[t->first + i];
        if (!rec_equal(want, &t->got[i]))
            fail_msg("record %u: type %u group %lu slot %lu e %lu instead of type %u group %lu slot %lu e %lu", i, t->got[i].type,
                     t->got[i].group, t->got[i].slot, t->got[i].e, want->type, want->group, want->slot, want->e);
        if (want->type == WAL_ENTRY && want->place.desc_lsn) {
            assert_int_equal(want->place.desc_lsn, t->got[i].place.desc_lsn);
            assert_int_equal(want->place.payload_lsn, t->got[i].place.payload_lsn);
        }
        want->place = t->got[i].place;
    }
    uint32_t end = t->first + t->n_got;
    if (end < t->durable)
        fail_msg("%lu records were durable, %u are left", t->durable, end);
    t->n = t->placed = end;
    t->durable = end;
    while (t->n_cuts && t->cut[t->n_cuts - 1].n > end)
        t->n_cuts--;
    set_ends(t);
}

void t_start_ok(struct wal_test *t)
{
    int err = t_start(t);
    if (err)
        fail_msg("recovery refused: %s", t->why);
    t_check(t);
}

void t_crash(struct wal_test *t, enum sim_crash how)
{
    sim_reactor_crash(t->sim, how);
}

static bool is_settled(void *user)
{
    struct wal_test *t = user;
    return t->durable == t->n;
}

void t_settle(struct wal_test *t)
{
    assert_true(sim_run_until(t->world, is_settled, t, UINT64_C(100) * NS_PER_S));
}

void t_turn(struct wal_test *t)
{
    sim_run_for(t->world, 2);
}

/* ---- positions ---- */

uint32_t t_cut_position(struct wal_test *t)
{
    if (t->n_cuts == T_CUTS) {
        memmove(&t->cut[0], &t->cut[T_CUTS / 2], sizeof t->cut / 2);
        t->n_cuts = T_CUTS / 2;
    }
    t->cut[t->n_cuts].at = wal_cut_position(t->wal);
    t->cut[t->n_cuts].n = t->n;
    return t->n_cuts++;
}

void t_trim(struct wal_test *t, uint32_t cut)
{
    struct wal_position at = t->cut[cut].at, found = wal_position_at(t->wal, at.lsn);
    assert_int_equal(at.lsn, found.lsn);
    assert_int_equal(at.seq, found.seq);
    assert_int_equal(at.prev_lsn, found.prev_lsn);
    assert_int_equal(at.prev_crc, found.prev_crc);
    wal_trim(t->wal, &at, at.lsn);
    t->root = (struct root){
        .tail_lsn = at.lsn, .tail_seq = at.seq, .tail_prev_lsn = at.prev_lsn, .tail_prev_crc = at.prev_crc,
        .redo_lsn = at.lsn, .redo_seq = at.seq,
    };
    t->first = t->cut[cut].n;
    memmove(&t->cut[0], &t->cut[cut], (t->n_cuts - cut) * sizeof t->cut[0]);
    t->n_cuts -= cut;
}

struct reading {
    struct wal_test *t;
    struct entry *e;
    int err;
    bool done;
};

static void entry_read(void *user, struct entry *e, int err)
{
    struct reading *rd = user;
    rd->e = e;
    rd->err = err;
    rd->done = true;
}

static bool reading_is_over(void *user)
{
    return ((struct reading *)user)->done;
}

void t_read(struct wal_test *t, uint32_t i)
{
    struct rec r = t->rec[i];
    struct reading rd = { .t = t };
    assert_int_equal(r.type, WAL_ENTRY);
    assert_true(i < t->durable);
    wal_read_entry(t->wal, r.place, entry_read, &rd);
    assert_true(sim_run_until(t->world, reading_is_over, &rd, NS_PER_S));
    assert_int_equal(rd.err, 0);
    struct rec back = { .type = WAL_ENTRY, .group = rd.e->group, .slot = rd.e->slot, .e = rd.e->e.round, .id = entry_id(rd.e),
                        .blocks = rd.e->nblocks, .kind = rd.e->kind, .refill = r.refill };
    check_content(rd.e);
    assert_true(rec_equal(&r, &back));
    entry_unref(rd.e);
}

/* ---- images ---- */

uint8_t *t_image(struct wal_test *t)
{
    uint8_t *image = malloc(t->wal_bytes);
    assert_non_null(image);
    sim_disk_peek(t->disk, 0, image, t->wal_bytes);
    return image;
}

void t_put_image(struct wal_test *t, const uint8_t *image)
{
    sim_disk_poke(t->disk, 0, image, t->wal_bytes);
}

void t_fork(struct wal_test *to, const struct wal_test *t, const uint8_t *image)
{
    *to = *t;
    to->world = sim_world_new(7);
    to->disk = sim_disk_new(to->world, NULL, "wal", to->wal_bytes);
    to->sim = NULL;
    to->r = NULL;
    to->wal = NULL;
    to->rec = malloc((t->n + 1) * sizeof *t->rec);
    assert_non_null(to->rec);
    if (t->n)
        memcpy(to->rec, t->rec, t->n * sizeof *t->rec);
    to->cap = t->n + 1;
    to->got = NULL;
    to->n_got = to->cap_got = 0;
    t_put_image(to, image);
}

uint32_t t_batches(const struct wal_test *t, const uint8_t *image, uint64_t lsn, struct t_batch *ret, uint32_t max)
{
    uint32_t n = 0;
    uint64_t end = lsn + t->wal_bytes, seq = 0;
    uint32_t crc = 0;
    uint8_t *page = NULL;
    assert_int_equal(posix_memalign((void **)&page, BLOCK_SIZE, WAL_BATCH_MAX_BYTES), 0);
    while (lsn < end && n < max) {
        uint64_t at = lsn % t->wal_bytes, len = t->wal_bytes - at;
        if (len > WAL_BATCH_MAX_BYTES)
            len = WAL_BATCH_MAX_BYTES;
        memcpy(page, image + at, len);
        const struct wal_batch *b = (const void *)page;
        if (wal_check_batch(t->salt, t->wal_bytes, lsn, page, len) != WAL_CHECK_OK ||
            (seq && (b->seq != seq || b->prev_crc != crc)))
            break;
        ret[n++] = (struct t_batch){ b->lsn, b->seq, wal_batch_bytes(b), b->desc_pages, b->flags, b->n_records, b->incarnation };
        seq = b->seq + 1;
        crc = b->crc;
        lsn += wal_batch_bytes(b);
    }
    free(page);
    return n;
}

/* ---- the model ---- */

struct model *model_new(void)
{
    struct model *m = calloc(1, sizeof *m);
    assert_non_null(m);
    return m;
}

static void model_lost(struct model_group *g, const struct rec *r)
{
    if (r->id && r->id - 1 < g->last)
        g->last = r->id - 1;
    struct model_slot *s = &g->slot[r->slot];
    if (r->slot <= g->last && s->e == r->e)
        return; /* a copy was lost, or it was lost before */
    assert_true(r->slot == g->last + 1 || g->last == 0);
    *s = (struct model_slot){ .e = r->e, .lost = true };
    g->last = r->slot;
}

void model_apply(struct model *m, const struct rec *r)
{
    assert_true(r->group < MODEL_GROUPS && r->slot < T_SLOTS);
    struct model_group *g = &m->g[r->group];
    switch (r->type) {
    case WAL_ENTRY:
        if (r->refill && r->slot <= g->last)
            assert_int_equal(g->slot[r->slot].e, r->e);
        else
            assert_true(g->last == 0 || r->slot == g->last + 1);
        g->slot[r->slot] = (struct model_slot){ .e = r->e, .id = r->id };
        if (r->slot > g->last)
            g->last = r->slot;
        break;
    case REC_LOST:
        model_lost(g, r);
        break;
    case WAL_CUT:
        if (r->slot - 1 < g->last)
            g->last = r->slot - 1;
        break;
    case WAL_PROMISE:
        assert_true(r->e >= g->promised);
        g->promised = r->e;
        g->lease = r->id;
        break;
    case WAL_COMMIT:
        g->commit = r->slot > g->commit ? r->slot : g->commit;
        break;
    case WAL_FUZZY:
        g->fuzzy = r->slot;
        break;
    case WAL_NEEDS_COPY:
        g->needs_copy = r->slot;
        break;
    case WAL_GROUP:
        g->created = true;
        g->size = r->id;
        break;
    default:
        fail_msg("type %u", r->type);
    }
}

uint32_t model_check(const struct model *a, const struct model *b)
{
    uint32_t lost = 0;
    for (unsigned i = 0; i < MODEL_GROUPS; i++) {
        const struct model_group *x = &a->g[i], *y = &b->g[i];
        assert_int_equal(x->last, y->last);
        assert_int_equal(x->promised, y->promised);
        assert_int_equal(x->lease, y->lease);
        assert_int_equal(x->commit, y->commit);
        assert_int_equal(x->fuzzy, y->fuzzy);
        assert_int_equal(x->needs_copy, y->needs_copy);
        assert_int_equal(x->created, y->created);
        assert_int_equal(x->size, y->size);
        for (uint64_t s = 1; s <= x->last; s++) {
            assert_int_equal(x->slot[s].e, y->slot[s].e);
            if (y->slot[s].lost)
                lost++;
            else
                assert_int_equal(x->slot[s].id, y->slot[s].id);
        }
    }
    return lost;
}
