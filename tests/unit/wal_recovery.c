#include "tests/unit/wal_recovery.h"

uint8_t *image_copy(const uint8_t *image)
{
    return memcpy(must(malloc(RING)), image, RING);
}

struct model *model_of(const struct rec *r, uint32_t n)
{
    struct model *m = model_new();
    for (uint32_t i = 0; i < n; i++)
        model_apply(m, &r[i]);
    return m;
}

void goes_on_living(struct wal_test *f)
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

void begin(struct wal_test *t, uint64_t seed, enum shape shape)
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

void fly(struct flight *x, uint64_t seed)
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

void fly_free(struct flight *x)
{
    free(x->before);
    free(x->after);
    t_free(&x->t);
}

void copy_range(uint8_t *to, const uint8_t *from, uint64_t lsn, uint64_t bytes)
{
    memcpy(to + lsn % RING, from + lsn % RING, bytes);
}

void make_rotten(struct rotten *x, uint64_t seed)
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

void rotten_free(struct rotten *x)
{
    free(x->image);
    free(x->model);
    t_free(&x->t);
}

void flip(struct wal_test *f, const struct t_batch *b, uint64_t at)
{
    sim_disk_flip(f->disk, (b->lsn + at) % RING, (unsigned)(at % 8));
}

uint32_t rot_is_told(struct rotten *x, struct wal_test *f, uint32_t rotten_batches)
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
