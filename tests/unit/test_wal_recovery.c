/* What the WAL's recovery takes for the log: torn tails, subsets of batches in flight, rot, stale and forged batches, crashes at
 * random. Most tests make two images of a disk, before and after some batches were written, and recover from every mixture. */
#include "tests/unit/wal_harness.h"

#include <errno.h>

#define KIB 1024u
#define SECTOR 512u
#define RING (512u * KIB)
#ifdef __SANITIZE_ADDRESS__
#define THOROUGH 1u /* every process of the simulation costs ten times as much */
#else
#define THOROUGH 16u
#endif

static void *must(void *p)
{
    assert_non_null(p);
    return p;
}

static uint8_t *image_copy(const uint8_t *image)
{
    return memcpy(must(malloc(RING)), image, RING);
}

static struct model *model_of(const struct rec *r, uint32_t n)
{
    struct model *m = model_new();
    for (uint32_t i = 0; i < n; i++)
        model_apply(m, &r[i]);
    return m;
}

/* Two lives on an image: what the first found, plus what it appends, is what the second finds. */
static void goes_on_living(struct wal_test *f)
{
    for (int life = 0; life < 2; life++) {
        for (int i = 0; i < 4; i++) {
            t_random(f, 3);
            if (i & 1)
                t_settle(f);
        }
        if (life)
            t_settle(f);
        t_crash(f, SIM_POWER);
        t_start_ok(f);
    }
}

/* ---- torn tails ---- */

enum shape { ONE_BLOCK, SMALL_RECORDS, LARGE, CUT_AND_APPEND, THREE_DESC_PAGES, BEFORE_THE_END, WITH_PAD, START_ONLY, SHAPES };

/* Appends one batch (or a PAD and one) of a shape, not yet durable. */
static void append_shape(struct wal_test *t, enum shape shape)
{
    switch (shape) {
    case ONE_BLOCK:
        t_entry(t, 1, 1);
        break;
    case SMALL_RECORDS:
        t_promise(t, 1, t->e[1] += 1, 5);
        t_slot(t, WAL_COMMIT, 1, t->last[1]);
        t_slot(t, WAL_FUZZY, 1, 9);
        t_group(t, 3, 77);
        t_entry_kind(t, 3, ENTRY_MEMBER, 0, false, ++t->last[3], 4);
        break;
    case LARGE:
        t_entry(t, 1, 11);
        t_entry(t, 2, 2);
        break;
    case CUT_AND_APPEND:
        t_cut(t, 1, 2);
        t_entry(t, 1, 3);
        t_refill(t, t->n - 1);
        break;
    case THREE_DESC_PAGES:
        for (int i = 0; i < 140; i++)
            t_entry_kind(t, 1, ENTRY_TRIM, 3, false, ++t->last[1], t->e[1]);
        t_entry(t, 2, 1);
        break;
    case BEFORE_THE_END: /* as it stands at the ring's end: nothing, or a PAD */
    case WITH_PAD:
        t_entry(t, 1, 9);
        break;
    default:
        break;
    }
}

static void begin(struct wal_test *t, uint64_t seed, enum shape shape)
{
    t_init(t, seed, RING);
    t_start_ok(t);
    t_group(t, 1, 1000);
    for (int i = 0; i < 5; i++) {
        t_entry(t, 1, 1 + (uint32_t)i % 3);
        t_entry(t, 2, 1);
        t_settle(t);
    }
    uint64_t leave = shape == BEFORE_THE_END ? 10 * BLOCK_SIZE : shape == WITH_PAD ? 5 * BLOCK_SIZE : 0;
    while (leave && wal_head_lsn(t->wal) < RING - leave) {
        uint64_t rest = (RING - leave - wal_head_lsn(t->wal)) / BLOCK_SIZE;
        if (rest == 1)
            t_promise(t, 1, ++t->e[1], 1);
        else
            t_entry(t, 1, rest > 8 ? 5 : (uint32_t)rest - 1);
        t_settle(t);
        uint32_t cut = t_cut_position(t);
        if (wal_room(t->wal) < 20 * BLOCK_SIZE)
            t_trim(t, cut);
    }
}

/* Sectors that the write of [from, to) would change. */
static uint32_t changed_sectors(const uint8_t *before, const uint8_t *after, uint32_t *ret)
{
    uint32_t n = 0;
    for (uint32_t s = 0; s < RING / SECTOR; s++)
        if (memcmp(before + s * SECTOR, after + s * SECTOR, SECTOR) != 0)
            ret[n++] = s;
    return n;
}

static void torn_at_every_sector(void **state)
{
    uint32_t *changed = must(malloc(RING / SECTOR * sizeof *changed));
    for (enum shape shape = 0; shape < SHAPES; shape++) {
        struct wal_test t, f;
        begin(&t, 20 + shape, shape);
        uint8_t *before = t_image(&t);
        uint32_t n_before = t.n;
        if (shape == START_ONLY) {
            t_crash(&t, SIM_POWER);
            t_start_ok(&t);
        }
        append_shape(&t, shape);
        t_settle(&t);
        uint8_t *after = t_image(&t);
        uint32_t n = changed_sectors(before, after, changed);
        assert_true(n > 0);
        t.durable = n_before; /* as if nobody had heard */
        for (uint32_t cut = 0; cut <= n; cut++) {
            for (unsigned way = 0; way < 3; way++) { /* all before it landed; all from it on; all but it */
                if (THOROUGH == 1 && cut % 3 != way && cut < n)
                    continue;
                uint8_t *mix = image_copy(way == 0 ? before : after);
                for (uint32_t i = 0; i < n; i++)
                    if (way == 0 ? i < cut : way == 1 ? i < cut : i == cut)
                        memcpy(mix + changed[i] * SECTOR, (way == 0 ? after : before) + changed[i] * SECTOR, SECTOR);
                bool whole = memcmp(mix, after, RING) == 0;
                t_fork(&f, &t, mix);
                t_start_ok(&f);
                /* Of a PAD and its batch one may have landed: then too nothing of the records did. */
                assert_int_equal(f.n, whole ? t.n : n_before);
                struct wal_stats s;
                wal_get_stats(f.wal, &s);
                assert_int_equal(s.rotten_batches, 0);
                assert_int_equal(s.lost_slots, 0);
                if (cut % 8 == 3)
                    goes_on_living(&f);
                t_free(&f);
                free(mix);
            }
        }
        free(before);
        free(after);
        t_free(&t);
    }
    free(changed);
}

/* ---- several in flight ---- */

struct flight {
    struct wal_test t;
    uint8_t *before, *after;
    uint32_t n_before;
    uint32_t n_at[WAL_IN_FLIGHT_MAX]; /* records through each batch */
    struct t_batch b[WAL_IN_FLIGHT_MAX];
};

/* Four batches, all in flight at once: none vouches for another. */
static void fly(struct flight *x, uint64_t seed)
{
    struct wal_test *t = &x->t;
    begin(t, seed, ONE_BLOCK);
    x->before = t_image(t);
    x->n_before = t->n;
    sim_disk_timing(t->disk)->durable_ns = (struct sim_range){ NS_PER_S, NS_PER_S };
    uint64_t head = wal_head_lsn(t->wal);
    for (unsigned i = 0; i < WAL_IN_FLIGHT_MAX; i++) {
        if (i == 1)
            t_cut(t, 1, t->last[1]);
        t_entry(t, 1, 1 + (uint32_t)sim_rand(t->world) % 4);
        t_promise(t, 2, ++t->e[2], 1);
        sim_run_for(t->world, NS_PER_MS);
        x->n_at[i] = t->n;
        struct wal_stats s;
        wal_get_stats(t->wal, &s);
        assert_int_equal(s.in_flight, i + 1);
    }
    assert_int_equal(t->durable, x->n_before);
    t_settle(t);
    x->after = t_image(t);
    assert_int_equal(t_batches(t, x->after, head, x->b, WAL_IN_FLIGHT_MAX), WAL_IN_FLIGHT_MAX);
    t->durable = x->n_before;
}

static void fly_free(struct flight *x)
{
    free(x->before);
    free(x->after);
    t_free(&x->t);
}

static void copy_range(uint8_t *to, const uint8_t *from, uint64_t lsn, uint64_t bytes)
{
    memcpy(to + lsn % RING, from + lsn % RING, bytes);
}

static void any_subset_of_those_in_flight(void **state)
{
    for (uint64_t seed = 1; seed <= 4; seed++) {
        struct flight x;
        fly(&x, seed);
        for (unsigned mask = 0; mask < 1u << WAL_IN_FLIGHT_MAX; mask++) {
            uint8_t *mix = image_copy(x.before);
            uint32_t want = x.n_before, behind = 0;
            bool torn = false;
            for (unsigned i = 0; i < WAL_IN_FLIGHT_MAX; i++) {
                if (!(mask >> i & 1)) {
                    torn = true;
                    continue;
                }
                copy_range(mix, x.after, x.b[i].lsn, x.b[i].bytes);
                if (torn)
                    behind++;
                else
                    want = x.n_at[i];
            }
            struct wal_test f;
            t_fork(&f, &x.t, mix);
            t_start_ok(&f);
            assert_int_equal(f.n, want);
            struct wal_stats s;
            wal_get_stats(f.wal, &s);
            assert_int_equal(s.rotten_batches, 0);
            assert_int_equal(s.torn_batches, behind);
            goes_on_living(&f); /* over what is left behind the cut */
            t_free(&f);
            free(mix);
        }
        fly_free(&x);
    }
}

static void any_sectors_of_those_in_flight(void **state)
{
    struct flight x;
    fly(&x, 9);
    uint32_t *changed = must(malloc(RING / SECTOR * sizeof *changed));
    uint32_t n = changed_sectors(x.before, x.after, changed);
    for (int round = 0; round < 100 + 20 * (int)THOROUGH; round++) {
        uint8_t *mix = image_copy(x.before);
        uint32_t want = x.n_before;
        /* mostly landed, so that whole batches happen */
        uint64_t one_in = 2 + sim_rand(x.t.world) % 60;
        for (uint32_t i = 0; i < n; i++)
            if (sim_rand(x.t.world) % one_in)
                memcpy(mix + changed[i] * SECTOR, x.after + changed[i] * SECTOR, SECTOR);
        for (unsigned i = 0; i < WAL_IN_FLIGHT_MAX; i++) {
            if (memcmp(mix + x.b[i].lsn % RING, x.after + x.b[i].lsn % RING, x.b[i].bytes) != 0)
                break;
            want = x.n_at[i];
        }
        struct wal_test f;
        t_fork(&f, &x.t, mix);
        t_start_ok(&f);
        assert_int_equal(f.n, want);
        if (round % 8 == 0)
            goes_on_living(&f);
        t_free(&f);
        free(mix);
    }
    free(changed);
    fly_free(&x);
}

/* ---- rot ---- */

struct rotten {
    struct wal_test t;
    uint8_t *image;
    struct model *model; /* what all records from the tail on amount to */
    struct model *full;  /* and with those before it; or NULL: there are none */
    struct t_batch b[64];
    uint32_t n; /* the last is a START, which vouches for all before it */
};

/* Batches of all kinds, all durable, then a restart. */
static void make_rotten(struct rotten *x, uint64_t seed)
{
    struct wal_test *t = &x->t;
    x->full = NULL;
    t_init(t, seed, RING);
    t_start_ok(t);
    for (unsigned g = 1; g <= 3; g++)
        t_group(t, g, 1000 + g);
    t_settle(t);
    for (int i = 0; i < 16; i++) {
        for (uint64_t k = sim_rand(t->world) % 5; k < 5; k++)
            t_random(t, 4);
        t_settle(t);
    }
    t_crash(t, SIM_POWER);
    t_start_ok(t);
    x->image = t_image(t);
    x->n = t_batches(t, x->image, 0, x->b, 64);
    assert_true(x->n > 10 && x->n < 64 && (x->b[x->n - 1].flags & WAL_START));
    x->model = model_of(t->rec, t->n);
}

static void rotten_free(struct rotten *x)
{
    free(x->image);
    free(x->model);
    t_free(&x->t);
}

static void flip(struct wal_test *f, const struct t_batch *b, uint64_t at)
{
    sim_disk_flip(f->disk, (b->lsn + at) % RING, (unsigned)(at % 8));
}

/* Recovers with rot in it: nothing but values is lost, and the same is found again. Returns how many values. */
static uint32_t rot_is_told(struct rotten *x, struct wal_test *f, uint32_t rotten_batches)
{
    uint32_t lost = 0;
    for (int life = 0; life < 2; life++) {
        if (t_start(f))
            fail_msg("refused: %s", f->why);
        struct model *m = model_of(f->got, f->n_got);
        /* Summaries tell promises and commits of before the tail too. */
        for (unsigned g = 0; x->full && g < MODEL_GROUPS; g++) {
            struct model_group *y = &m->g[g];
            const struct model_group *want = &x->model->g[g], *old = &x->full->g[g];
            if (want->commit == 0 && y->commit == old->commit)
                y->commit = 0;
            if (want->promised == 0 && y->promised == old->promised && y->lease == old->lease)
                y->promised = y->lease = 0;
        }
        uint32_t now = model_check(x->model, m);
        free(m);
        assert_true(life == 0 || now == lost);
        lost = now;
        struct wal_stats s;
        wal_get_stats(f->wal, &s);
        assert_int_equal(s.rotten_batches, rotten_batches);
        t_crash(f, SIM_POWER);
    }
    return lost;
}

/* Entries that a batch appended or refilled, whose values it alone holds: the upper bound of what its rot may cost. */
static uint32_t entries_in(const struct rotten *x, const struct t_batch *b)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < x->t.n; i++)
        n += x->t.rec[i].type == WAL_ENTRY && x->t.rec[i].place.desc_lsn >= b->lsn && x->t.rec[i].place.desc_lsn < b->lsn + b->bytes;
    return n;
}

static void one_flipped_bit_in_every_sector(void **state)
{
    uint32_t lost = 0, told = 0;
    for (uint64_t seed = 1; seed <= 1 + THOROUGH / 8; seed++) {
        struct rotten x;
        make_rotten(&x, seed);
        for (uint32_t i = 0; i + 1 < x.n; i++) {
            for (uint64_t s = 0; s < x.b[i].bytes / SECTOR; s++) {
                if (s * SECTOR >= (uint64_t)x.b[i].desc_pages * BLOCK_SIZE && s % 3)
                    continue; /* payload: some */
                struct wal_test f;
                t_fork(&f, &x.t, x.image);
                flip(&f, &x.b[i], s * SECTOR + sim_rand(x.t.world) % SECTOR);
                uint32_t n = rot_is_told(&x, &f, 1);
                assert_true(n <= entries_in(&x, &x.b[i]));
                lost += n;
                told++;
                t_free(&f);
            }
        }
        rotten_free(&x);
    }
    assert_true(told > 100 && lost > 50); /* it did bite */
}

/* Only the payload's entries are lost, the batch's other records are not; and a refill heals. */
static void rot_in_payload_costs_that_entry_alone(void **state)
{
    struct wal_test t, f;
    t_init(&t, 3, RING);
    t_start_ok(&t);
    t_promise(&t, 1, 7, 70);
    for (int i = 0; i < 6; i++)
        t_entry(&t, 1, 2);
    t_slot(&t, WAL_COMMIT, 1, 3);
    t_settle(&t);
    t_crash(&t, SIM_POWER);
    t_start_ok(&t);
    uint8_t *image = t_image(&t);
    t_fork(&f, &t, image);
    sim_disk_flip(f.disk, f.rec[3].place.payload_lsn + 5000, 1); /* slots 3 and 4 */
    sim_disk_flip(f.disk, f.rec[4].place.payload_lsn, 1);
    assert_int_equal(t_start(&f), 0);
    assert_int_equal(f.n_got, t.n);
    unsigned lost = 0;
    for (uint32_t i = 0; i < f.n_got; i++)
        if (f.got[i].type == REC_LOST) {
            assert_true(f.got[i].slot == 3 || f.got[i].slot == 4);
            assert_int_equal(f.got[i].e, 1);
            assert_int_equal(f.got[i].id, 0);
            lost++;
        }
    assert_int_equal(lost, 2);
    struct wal_stats s;
    wal_get_stats(f.wal, &s);
    assert_int_equal(s.lost_slots, 2);
    t_refill(&f, 3);
    t_settle(&f);
    t_crash(&f, SIM_POWER);
    assert_int_equal(t_start(&f), 0);
    struct model *m = model_of(f.got, f.n_got);
    assert_false(m->g[1].slot[3].lost);
    assert_true(m->g[1].slot[4].lost);
    free(m);
    t_free(&f);
    free(image);
    t_free(&t);
}

/* What only echoes save: groups, memberships, fuzzy ends; and what only summaries of refills save: a copy carried forward. */
static void rot_in_descriptors_is_named_by_the_next(void **state)
{
    struct wal_test t, f;
    t_init(&t, 4, RING);
    t_start_ok(&t);
    t_entry(&t, 1, 1);
    t_entry(&t, 1, 1);
    uint32_t second = t.n - 1;
    t_settle(&t);
    uint64_t rotten = wal_head_lsn(t.wal);
    uint32_t first = t.n;
    t_group(&t, 2, 555);
    t_cut(&t, 1, 2);
    t_entry(&t, 1, 1);
    t_promise(&t, 2, 8, 80);
    t_entry_kind(&t, 2, ENTRY_SESSION, 0, false, 1, 8);
    t_entry_kind(&t, 2, ENTRY_MEMBER, 0, false, 2, 8);
    t_slot(&t, WAL_FUZZY, 2, 44);
    t_slot(&t, WAL_NEEDS_COPY, 1, 1);
    t_slot(&t, WAL_COMMIT, 2, 1);
    t_settle(&t);
    assert_true(second < first);
    t_entry(&t, 1, 1);
    t_settle(&t);
    t_promise(&t, 1, 9, 90);
    t_settle(&t);
    t_crash(&t, SIM_POWER);
    for (uint64_t at = 0; at < BLOCK_SIZE; at += 300) {
        uint8_t *image = t_image(&t);
        t_fork(&f, &t, image);
        sim_disk_flip(f.disk, rotten + at, 5);
        assert_int_equal(t_start(&f), 0);
        struct model *m = model_of(f.got, f.n_got);
        assert_true(m->g[2].created);
        assert_int_equal(m->g[2].size, 555);
        assert_int_equal(m->g[2].promised, 8);
        assert_int_equal(m->g[2].lease, 80);
        assert_int_equal(m->g[2].fuzzy, 44);
        assert_int_equal(m->g[2].commit, 1);
        assert_int_equal(m->g[1].needs_copy, 1);
        assert_int_equal(m->g[1].promised, 9);
        assert_int_equal(m->g[2].last, 2);
        assert_true(m->g[2].slot[1].lost);
        assert_false(m->g[2].slot[2].lost); /* the membership */
        assert_true(m->g[1].slot[2].lost);
        assert_int_equal(m->g[1].slot[2].e, 2); /* the one after the cut */
        assert_int_equal(m->g[1].last, 3);
        free(m);
        /* An echo's place is one to read from. */
        for (uint32_t i = 0; i < f.n_got; i++)
            if (f.got[i].type == WAL_ENTRY) {
                f.rec[0] = f.got[i];
                t_read(&f, 0);
            }
        t_free(&f);
        free(image);
    }
    t_free(&t);
}

/* A rotten copy carried forward, its original trimmed, must leave a LOST slot, not a shorter log. */
static void a_rotten_copy_does_not_shorten_the_log(void **state)
{
    struct wal_test t, f;
    t_init(&t, 5, RING);
    t_start_ok(&t);
    for (int i = 0; i < 4; i++)
        t_entry(&t, 1, 1);
    t_settle(&t);
    uint32_t tail = t_cut_position(&t);
    uint64_t rotten = wal_head_lsn(t.wal);
    t_refill(&t, 2);
    t_refill(&t, 3);
    t_settle(&t);
    t_promise(&t, 1, 9, 90);
    t_settle(&t);
    t_trim(&t, tail);
    t_crash(&t, SIM_POWER);
    uint8_t *image = t_image(&t);
    t_fork(&f, &t, image);
    sim_disk_flip(f.disk, rotten, 0);
    assert_int_equal(t_start(&f), 0);
    struct model *m = model_of(f.got, f.n_got);
    assert_int_equal(m->g[1].last, 4);
    assert_true(m->g[1].slot[3].lost && m->g[1].slot[4].lost);
    free(m);
    t_free(&f);
    free(image);
    t_free(&t);
}

static void two_in_a_row(void **state)
{
    struct rotten x;
    make_rotten(&x, 6);
    unsigned refused = 0, told = 0;
    for (uint32_t i = 0; i + 2 < x.n; i++) {
        for (unsigned how = 0; how < 4; how++) {
            bool desc1 = how & 1, desc2 = how & 2;
            uint64_t at1 = desc1 ? 70 : (uint64_t)x.b[i].desc_pages * BLOCK_SIZE + 9;
            uint64_t at2 = desc2 ? 90 : (uint64_t)x.b[i + 1].desc_pages * BLOCK_SIZE + 9;
            if (at1 >= x.b[i].bytes || at2 >= x.b[i + 1].bytes)
                continue; /* no payload */
            struct wal_test f;
            t_fork(&f, &x.t, x.image);
            flip(&f, &x.b[i], at1);
            flip(&f, &x.b[i + 1], at2);
            if (desc1 && desc2) {
                /* Nothing names what the first one held. */
                assert_int_equal(t_start(&f), -EIO);
                assert_non_null(strstr(f.why, "replace this replica"));
                refused++;
            } else {
                rot_is_told(&x, &f, 2);
                told++;
            }
            t_free(&f);
        }
    }
    assert_true(refused > 5 && told > 5);
    /* Not neighbours: both are named. */
    for (uint32_t i = 0; i + 3 < x.n; i++) {
        struct wal_test f;
        t_fork(&f, &x.t, x.image);
        flip(&f, &x.b[i], 50);
        flip(&f, &x.b[i + 2], 50);
        rot_is_told(&x, &f, 2);
        t_free(&f);
    }
    rotten_free(&x);
}

/* Many batches gone at once are no torn tail either. */
static void a_rotten_stretch_is_refused(void **state)
{
    struct rotten x;
    make_rotten(&x, 7);
    for (uint32_t n = 3; n + 1 < x.n; n += 4) {
        struct wal_test f;
        t_fork(&f, &x.t, x.image);
        uint8_t zero[BLOCK_SIZE] = { 0 };
        uint64_t from = x.b[1].lsn;
        for (uint64_t at = from; at < x.b[1 + n].lsn; at += BLOCK_SIZE)
            sim_disk_poke(f.disk, at, zero, BLOCK_SIZE);
        if (1 + n < x.n) {
            assert_int_equal(t_start(&f), -EIO);
            assert_true(f.why[0] != 0);
        }
        t_free(&f);
    }
    rotten_free(&x);
}

/* The newest batch is vouched for by none: its rot cannot be told from a torn write, and is cut. As soon as one later batch says
 * that it was durable, it is rot. */
static void the_newest_is_torn_until_vouched_for(void **state)
{
    for (unsigned vouched = 0; vouched < 2; vouched++) {
        for (unsigned where = 0; where < 3; where++) {
            struct wal_test t;
            t_init(&t, 8, RING);
            t_start_ok(&t);
            t_entry(&t, 1, 1);
            t_settle(&t);
            uint64_t lsn = wal_head_lsn(t.wal);
            t_entry(&t, 1, 2);
            t_settle(&t);
            uint32_t n = t.n;
            if (vouched) {
                t_promise(&t, 1, 5, 1);
                t_settle(&t);
            }
            t_crash(&t, SIM_POWER);
            sim_disk_flip(t.disk, lsn + (where == 0 ? 20 : where == 1 ? 130 : BLOCK_SIZE + 10), 2);
            assert_int_equal(t_start(&t), 0);
            struct wal_stats s;
            wal_get_stats(t.wal, &s);
            assert_int_equal(s.rotten_batches, vouched);
            if (!vouched)
                assert_int_equal(t.n_got, n - 1);
            struct model *m = model_of(t.got, t.n_got);
            assert_int_equal(m->g[1].last, vouched ? 2 : 1);
            assert_int_equal(m->g[1].promised, vouched ? 5 : 0);
            if (vouched)
                assert_true(m->g[1].slot[2].lost);
            free(m);
            t_free(&t);
        }
    }
}

/* Rot in the last durable batch, and batches in flight behind it of which any may have landed. */
static void rot_and_a_torn_tail_at_once(void **state)
{
    struct wal_test t;
    t_init(&t, 9, RING);
    t_start_ok(&t);
    t_entry(&t, 1, 1);
    t_settle(&t);
    uint64_t rot = wal_head_lsn(t.wal);
    t_entry(&t, 1, 2);
    t_promise(&t, 1, 5, 1);
    t_settle(&t);
    uint32_t n_durable = t.n;
    uint8_t *before = t_image(&t);
    uint64_t head = wal_head_lsn(t.wal);
    sim_disk_timing(t.disk)->durable_ns = (struct sim_range){ NS_PER_S, NS_PER_S };
    for (int i = 0; i < 3; i++) {
        t_entry(&t, 1, 1);
        sim_run_for(t.world, NS_PER_MS);
    }
    t_settle(&t);
    uint8_t *after = t_image(&t);
    struct t_batch b[3];
    assert_int_equal(t_batches(&t, after, head, b, 3), 3);
    for (unsigned mask = 0; mask < 8; mask++) {
        for (unsigned desc = 0; desc < 2; desc++) {
            uint8_t *mix = image_copy(before);
            for (unsigned i = 0; i < 3; i++)
                if (mask >> i & 1)
                    copy_range(mix, after, b[i].lsn, b[i].bytes);
            mix[rot + (desc ? 64 : BLOCK_SIZE + 64)] ^= 4;
            struct wal_test f;
            t_fork(&f, &t, mix);
            f.durable = 0;
            int err = t_start(&f);
            if (desc && mask && !(mask & 1)) {
                assert_int_equal(err, -EIO); /* its only witness is torn */
            } else {
                assert_int_equal(err, 0);
                struct model *m = model_of(f.got, f.n_got);
                unsigned whole = mask == 7 ? 3 : (mask & 3) == 3 ? 2 : mask & 1;
                assert_int_equal(m->g[1].last, mask ? 2 + whole : 1);
                assert_int_equal(m->g[1].promised, mask ? 5 : 0);
                if (mask)
                    assert_true(m->g[1].slot[2].lost);
                free(m);
            }
            t_free(&f);
            free(mix);
        }
    }
    assert_true(n_durable < t.n);
    free(before);
    free(after);
    t_free(&t);
}

/* The witness of a rotten batch is cut itself, its payload being torn: what it said must stand in the START batch at its place,
 * which the recovery after this one needs. */
static void a_torn_witness_is_heard_and_replaced(void **state)
{
    struct wal_test t;
    t_init(&t, 10, RING);
    t_start_ok(&t);
    t_group(&t, 1, 100);
    t_settle(&t);
    uint64_t rot = wal_head_lsn(t.wal);
    t_entry_kind(&t, 1, ENTRY_SESSION, 0, false, 1, 3);
    t_entry_kind(&t, 1, ENTRY_MEMBER, 0, false, 2, 3);
    t_promise(&t, 1, 6, 60);
    t.last[1] = 2;
    t.e[1] = 3;
    t_settle(&t);
    uint64_t witness = wal_head_lsn(t.wal);
    t_entry(&t, 1, 3);
    t_settle(&t);
    t_crash(&t, SIM_POWER);
    sim_disk_flip(t.disk, rot + 40, 1);
    sim_disk_flip(t.disk, witness + 2 * BLOCK_SIZE, 1);
    for (int life = 0; life < 3; life++) {
        assert_int_equal(t_start(&t), 0);
        struct model *m = model_of(t.got, t.n_got);
        assert_int_equal(m->g[1].last, 2);
        assert_true(m->g[1].slot[1].lost);
        assert_false(m->g[1].slot[2].lost);
        assert_int_equal(m->g[1].promised, 6);
        free(m);
        for (uint32_t i = 0; i < t.n_got; i++)
            if (t.got[i].type == WAL_ENTRY) {
                t.rec[0] = t.got[i];
                t_read(&t, 0);
            }
        t_crash(&t, SIM_POWER);
    }
    t_free(&t);
}

/* Rot of a PAD loses nothing; rot of the batch before it is named by the PAD. */
static void rot_around_a_pad(void **state)
{
    struct rotten x;
    memset(&x, 0, sizeof x);
    begin(&x.t, 11, WITH_PAD);
    t_cut(&x.t, 1, x.t.last[1]); /* would undo its own append if it were told twice */
    t_entry_kind(&x.t, 1, ENTRY_TRIM, 1, false, ++x.t.last[1], x.t.e[1]);
    t_settle(&x.t);
    t_entry(&x.t, 1, 9);
    t_settle(&x.t);
    t_entry(&x.t, 1, 1);
    t_settle(&x.t);
    t_crash(&x.t, SIM_POWER);
    x.image = t_image(&x.t);
    x.n = t_batches(&x.t, x.image, x.t.root.tail_lsn, x.b, 64);
    x.model = model_of(x.t.rec + x.t.first, x.t.n - x.t.first);
    uint32_t pad = 0;
    while (pad < x.n && !(x.b[pad].flags & WAL_PAD))
        pad++;
    assert_true(pad > 0 && pad + 2 < x.n);
    assert_true(x.b[pad + 1].flags & WAL_AFTER_PAD);
    for (uint32_t i = pad - 1; i <= pad + 1; i++) {
        struct wal_test f;
        t_fork(&f, &x.t, x.image);
        flip(&f, &x.b[i], 60);
        uint32_t lost = rot_is_told(&x, &f, 1);
        assert_int_equal(lost, i == pad ? 0 : 1);
        t_free(&f);
    }
    struct wal_test f;
    t_fork(&f, &x.t, x.image);
    flip(&f, &x.b[pad - 1], 60);
    flip(&f, &x.b[pad], 60);
    assert_int_equal(t_start(&f), -EIO);
    t_free(&f);
    rotten_free(&x);
}

/* ---- stale batches ---- */

/* Cut after cut in the same stretch of the ring, with good batches of earlier incarnations left behind each. */
static void what_was_cut_stays_cut(void **state)
{
    for (uint64_t seed = 1; seed <= 10 * THOROUGH; seed++) {
        struct wal_test t;
        t_init(&t, seed, RING);
        sim_disk_set_late(t.disk, 0, 0);
        t_start_ok(&t);
        sim_disk_timing(t.disk)->write_ns = (struct sim_range){ 10000, 4 * NS_PER_MS };
        for (int life = 0; life < 12; life++) {
            for (uint64_t i = sim_rand(t.world) % 8; i > 0; i--) {
                t_entry(&t, 1, 1 + (uint32_t)(sim_rand(t.world) % 3));
                sim_run_for(t.world, 60000 + sim_rand(t.world) % 500000);
            }
            t_crash(&t, SIM_POWER);
            t_start_ok(&t);
        }
        t_free(&t);
    }
}

/* A START that rotted, whose stale former successor says it follows the same place: it must not speak for it. */
static void a_stale_batch_is_no_witness(void **state)
{
    struct flight x;
    fly(&x, 12);
    struct wal_test *t = &x.t, f;
    /* Of four in flight only the second, third and fourth landed; the recovery cuts at the first. */
    uint8_t *mix = image_copy(x.after);
    copy_range(mix, x.before, x.b[0].lsn, x.b[0].bytes);
    t_fork(&f, t, mix);
    t_start_ok(&f);
    assert_int_equal(f.n, x.n_before);
    uint64_t start = x.b[0].lsn;
    /* One more batch of one page: the START now has a successor, and, beyond, there is the stale one of the same seq. */
    t_promise(&f, 5, 50, 1);
    t_settle(&f);
    t_promise(&f, 5, 51, 1);
    t_settle(&f);
    t_crash(&f, SIM_POWER);
    uint8_t *image = t_image(&f);
    struct wal_test g;
    t_fork(&g, &f, image);
    sim_disk_flip(g.disk, start + 30, 1);
    assert_int_equal(t_start(&g), 0);
    assert_int_equal(g.n_got, f.n);
    for (uint32_t i = 0; i < g.n_got; i++)
        assert_int_not_equal(g.got[i].type, REC_LOST);
    t_free(&g);
    /* With its true successor gone as well nothing tells what the START's place held; the stale one may not. */
    t_fork(&g, &f, image);
    sim_disk_flip(g.disk, start + 30, 1);
    sim_disk_flip(g.disk, start + BLOCK_SIZE + 30, 1);
    assert_int_equal(t_start(&g), -EIO);
    t_free(&g);
    free(image);
    free(mix);
    t_free(&f);
    fly_free(&x);
}

/* The ring is full of good batches of the last lap: none of them is the next one, none vouches. */
static void the_last_lap_is_over(void **state)
{
    struct wal_test t;
    t_init(&t, 13, RING);
    t_start_ok(&t);
    while (wal_head_lsn(t.wal) < 5 * RING / 2) {
        t_entry(&t, 1, 1);
        t_settle(&t);
        uint32_t cut = t_cut_position(&t);
        if (wal_room(t.wal) < 40 * BLOCK_SIZE)
            t_trim(&t, cut);
    }
    for (int i = 0; i < 30; i++) {
        t_entry(&t, 1, 1);
        if (i % 3)
            t_settle(&t);
        t_crash(&t, SIM_POWER);
        t_start_ok(&t);
        struct wal_stats s;
        wal_get_stats(t.wal, &s);
        assert_int_equal(s.rotten_batches, 0);
        uint32_t cut = t_cut_position(&t);
        if (wal_room(t.wal) < 40 * BLOCK_SIZE)
            t_trim(&t, cut);
    }
    t_free(&t);
}

/* ---- forged batches ---- */

/* A client writes blocks that look like batches of exactly the places where they come to stand, vouching for everything, and
 * the batch that carries them is torn: its descriptors never landed. */
static void forge(uint8_t *to, const uint8_t *salt, uint64_t lsn, uint64_t prev_lsn, uint64_t seq)
{
    memset(to, 0, BLOCK_SIZE);
    struct wal_batch *b = (void *)to;
    *b = (struct wal_batch){
        .magic = WAL_MAGIC, .version = DISK_VERSION, .lsn = lsn, .seq = seq, .prev_lsn = prev_lsn, .desc_pages = 1,
        .durable_seq = seq - 1, .incarnation = 9, .desc_bytes = sizeof *b,
    };
    static const uint8_t none[16];
    b->crc = salt ? wal_header_crc(salt, b) : wal_header_crc(none, b);
}

static void forged_batches_are_only_data(void **state)
{
    for (unsigned way = 0; way < 3; way++) { /* no salt; the true salt (what the check must bite on); copies from elsewhere */
        struct wal_test t;
        t_init(&t, 14, RING);
        t_start_ok(&t);
        for (int i = 0; i < 6; i++) {
            t_entry(&t, 1, 1);
            t_settle(&t);
        }
        uint64_t head = wal_head_lsn(t.wal), next_seq = wal_cut_position(t.wal).seq;
        uint8_t *image = t_image(&t);
        uint8_t *payload = must(aligned_alloc(BLOCK_SIZE, 8 * BLOCK_SIZE));
        for (unsigned i = 0; i < 8; i++) {
            uint64_t lsn = head + (1 + i) * BLOCK_SIZE;
            if (way < 2)
                forge(payload + i * BLOCK_SIZE, way ? t.salt : NULL, lsn, head, next_seq + 1 + i);
            else
                memcpy(payload + i * BLOCK_SIZE, image + i * BLOCK_SIZE, BLOCK_SIZE); /* real batches of this WAL */
        }
        t.payload = payload;
        uint32_t n = t.n;
        t_entry(&t, 1, 8);
        t_settle(&t);
        t.payload = NULL;
        uint8_t *after = t_image(&t);
        t_crash(&t, SIM_POWER);
        t.durable = n;
        for (unsigned landed = 0; landed < 2; landed++) {
            memcpy(image, after, RING);
            if (!landed)
                memset(image + head, 0, BLOCK_SIZE);
            struct wal_test f;
            t_fork(&f, &t, image);
            int err = t_start(&f);
            if (way == 1 && !landed) {
                assert_true(err != 0 || f.n_got != n); /* so this test can fail */
            } else {
                assert_int_equal(err, 0);
                f.payload = payload;
                t_check(&f);
                f.payload = NULL;
                assert_int_equal(f.n, landed ? t.n : n);
                goes_on_living(&f);
            }
            t_free(&f);
        }
        free(payload);
        free(image);
        free(after);
        t_free(&t);
    }
}

/* Real batches put elsewhere byte by byte: at the head, and a lap's multiple away. */
static void a_batch_counts_in_its_place_only(void **state)
{
    struct rotten x;
    make_rotten(&x, 15);
    uint64_t head = x.b[x.n - 1].lsn + x.b[x.n - 1].bytes;
    for (uint32_t i = 0; i < x.n; i++) {
        struct wal_test f;
        uint8_t *image = image_copy(x.image);
        for (uint64_t at = head; at + x.b[i].bytes <= RING; at += 32 * BLOCK_SIZE)
            memcpy(image + at, x.image + x.b[i].lsn, x.b[i].bytes);
        t_fork(&f, &x.t, image);
        t_start_ok(&f);
        assert_int_equal(f.n, x.t.n);
        t_free(&f);
        free(image);
    }
    rotten_free(&x);
}

/* Bytes of any kind never break the scan. */
static void garbage_is_survived(void **state)
{
    for (uint64_t seed = 1; seed <= 10 * THOROUGH; seed++) {
        struct rotten x;
        make_rotten(&x, 100 + seed % 3);
        struct wal_test f;
        t_fork(&f, &x.t, x.image);
        struct sim_world *w = f.world;
        for (uint64_t s = 0; s < seed; s++)
            sim_rand(w);
        for (uint64_t i = 1 + sim_rand(w) % 20; i > 0; i--) {
            uint8_t noise[64];
            for (unsigned k = 0; k < sizeof noise; k++)
                noise[k] = (uint8_t)sim_rand(w);
            /* headers more than the rest */
            const struct t_batch *b = &x.b[sim_rand(w) % x.n];
            sim_disk_poke(f.disk, b->lsn + sim_rand(w) % (sim_rand(w) & 1 ? 512 : b->bytes - 64), noise, 1 + sim_rand(w) % 64);
        }
        int err = t_start(&f);
        if (err)
            assert_int_equal(err, -EIO);
        t_free(&f);
        rotten_free(&x);
    }
}

/* ---- crashes at random ---- */

static void live(struct wal_test *t)
{
    for (uint64_t i = sim_rand(t->world) % 25; i > 0; i--) {
        if (wal_room(t->wal) < 20 * BLOCK_SIZE) {
            uint32_t cut = t_cut_position(t);
            t_settle(t);
            t_trim(t, (uint32_t)(sim_rand(t->world) % (cut + 1)));
            continue;
        }
        t_random(t, 6);
        switch (sim_rand(t->world) % 8) {
        case 0:
            t_settle(t);
            break;
        case 1:
            t_cut_position(t);
            break;
        case 2:
            for (uint32_t k = t->first; k < t->durable; k++)
                if (t->rec[k].type == WAL_ENTRY && sim_rand(t->world) % 8 == 0) {
                    t_read(t, k);
                    break;
                }
            break;
        case 3:
        case 4:
        case 5:
            sim_run_for(t->world, sim_rand(t->world) % 300000);
            break;
        default:
            break;
        }
    }
}

/* Everything reported durable is replayed, nothing that was cut comes back, promises never go down (the list is exact). Crashes
 * happen in recoveries too. */
static void crashes_at_random(void **state)
{
    for (uint64_t seed = 1; seed <= 100 * THOROUGH; seed++) {
        struct wal_test t;
        t_init(&t, seed, seed % 3 ? RING / 2 : RING);
        if (seed % 4 == 0)
            sim_disk_timing(t.disk)->write_ns = (struct sim_range){ 10000, 3 * NS_PER_MS };
        for (int life = 0; life < 5; life++) {
            uint64_t nth = sim_rand(t.world) % 4 == 0 ? 1 + sim_rand(t.world) % 12 : 0;
            int err = t_start_crashing(&t, nth, sim_rand(t.world) & 1 ? SIM_POWER : SIM_KILL);
            if (err == -ECANCELED)
                continue;
            if (err)
                fail_msg("seed %lu life %d: refused: %s", seed, life, t.why);
            t_check(&t);
            live(&t);
            t_crash(&t, sim_rand(t.world) & 1 ? SIM_POWER : SIM_KILL);
        }
        t_free(&t);
    }
}

/* The same with a bit of rot in each recovery, in a batch that a later one vouches for: values may be lost, nothing else. */
static void crashes_and_rot_at_random(void **state)
{
    uint32_t lost = 0, whole = 0;
    for (uint64_t seed = 1; seed <= 16 * THOROUGH; seed++) {
        struct wal_test t;
        t_init(&t, 5000 + seed, RING);
        t_start_ok(&t);
        for (int life = 0; life < 4; life++) {
            live(&t);
            t_crash(&t, sim_rand(t.world) & 1 ? SIM_POWER : SIM_KILL);
            t_start_ok(&t); /* its START vouches for all */
            uint8_t *image = t_image(&t);
            struct t_batch b[256];
            uint32_t n = t_batches(&t, image, t.root.tail_lsn, b, 256);
            if (n > 1 && n < 256) {
                struct rotten x = { .t = t, .model = model_of(t.rec + t.first, t.n - t.first), .full = model_of(t.rec, t.n) };
                struct wal_test f;
                t_fork(&f, &t, image);
                uint32_t i = (uint32_t)(sim_rand(t.world) % (n - 1));
                flip(&f, &b[i], sim_rand(t.world) % (b[i].flags & WAL_PAD ? BLOCK_SIZE : b[i].bytes));
                uint32_t now = rot_is_told(&x, &f, 1);
                lost += now;
                whole += now == 0;
                t_free(&f);
                free(x.model);
                free(x.full);
            }
            free(image);
        }
        t_free(&t);
    }
    assert_true(lost > 10 && whole > 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(torn_at_every_sector),
        cmocka_unit_test(any_subset_of_those_in_flight),
        cmocka_unit_test(any_sectors_of_those_in_flight),
        cmocka_unit_test(one_flipped_bit_in_every_sector),
        cmocka_unit_test(rot_in_payload_costs_that_entry_alone),
        cmocka_unit_test(rot_in_descriptors_is_named_by_the_next),
        cmocka_unit_test(a_rotten_copy_does_not_shorten_the_log),
        cmocka_unit_test(two_in_a_row),
        cmocka_unit_test(a_rotten_stretch_is_refused),
        cmocka_unit_test(the_newest_is_torn_until_vouched_for),
        cmocka_unit_test(rot_and_a_torn_tail_at_once),
        cmocka_unit_test(a_torn_witness_is_heard_and_replaced),
        cmocka_unit_test(rot_around_a_pad),
        cmocka_unit_test(what_was_cut_stays_cut),
        cmocka_unit_test(a_stale_batch_is_no_witness),
        cmocka_unit_test(the_last_lap_is_over),
        cmocka_unit_test(forged_batches_are_only_data),
        cmocka_unit_test(a_batch_counts_in_its_place_only),
        cmocka_unit_test(garbage_is_survived),
        cmocka_unit_test(crashes_at_random),
        cmocka_unit_test(crashes_and_rot_at_random),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
