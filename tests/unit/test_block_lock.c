/* Block locks: who waits for whom, in which order they are granted, and a random run against a naive model. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "nbdserver/block_lock.h"

struct owner {
    struct block_lock lock;
    bool held;
    unsigned granted; /* calls of the callback */
};

static void on_granted(struct block_lock *l)
{
    struct owner *o = container_of(l, struct owner, lock);
    assert_false(o->held);
    o->held = true;
    o->granted++;
}

static void take(struct block_locks *t, struct owner *o, uint64_t block, uint64_t n, bool exclusive)
{
    *o = (struct owner){0};
    o->held = block_lock_acquire(t, &o->lock, block, n, exclusive, on_granted);
}

static void test_shared_go_together(void **state)
{
    struct block_locks t;
    struct owner a, b;
    block_locks_init(&t);
    take(&t, &a, 0, 10, false);
    take(&t, &b, 5, 10, false);
    assert_true(a.held && b.held);
    block_lock_release(&t, &a.lock);
    block_lock_release(&t, &b.lock);
    assert_true(block_locks_empty(&t));
}

static void test_exclusive_waits_for_all_earlier(void **state)
{
    struct block_locks t;
    struct owner a, b, x;
    block_locks_init(&t);
    take(&t, &a, 0, 10, false);
    take(&t, &b, 5, 10, false);
    take(&t, &x, 7, 1, true);
    assert_false(x.held);
    block_lock_release(&t, &a.lock);
    assert_false(x.held);
    block_lock_release(&t, &b.lock);
    assert_true(x.held);
    assert_int_equal(x.granted, 1);
    block_lock_release(&t, &x.lock);
    assert_true(block_locks_empty(&t));
}

static void test_neighbours_do_not_wait(void **state)
{
    struct block_locks t;
    struct owner a, b, c;
    block_locks_init(&t);
    take(&t, &a, 10, 1, true);
    take(&t, &b, 9, 1, true);
    take(&t, &c, 11, 100, false);
    assert_true(a.held && b.held && c.held);
}

/* A stream of whole-block writes must not starve a sub-block write: those that come after it wait behind it. */
static void test_fifo_fair(void **state)
{
    struct block_locks t;
    struct owner a, x, b, y;
    block_locks_init(&t);
    take(&t, &a, 3, 1, false);
    take(&t, &x, 3, 1, true);
    take(&t, &b, 3, 1, false); /* would be compatible with a, but x came first */
    take(&t, &y, 3, 1, true);
    assert_true(a.held);
    assert_false(x.held || b.held || y.held);
    block_lock_release(&t, &a.lock);
    assert_true(x.held);
    assert_false(b.held || y.held);
    block_lock_release(&t, &x.lock);
    assert_true(b.held);
    assert_false(y.held);
    block_lock_release(&t, &b.lock);
    assert_true(y.held);
}

static void test_downgrade_lets_shared_follow_but_not_exclusive(void **state)
{
    struct block_locks t;
    struct owner x, b, y, c;
    block_locks_init(&t);
    take(&t, &x, 3, 1, true);
    take(&t, &b, 0, 8, false);
    take(&t, &y, 3, 1, true);
    take(&t, &c, 3, 1, false);
    block_lock_downgrade(&t, &x.lock);
    assert_true(b.held);
    assert_false(y.held || c.held);
    block_lock_release(&t, &b.lock);
    assert_false(y.held); /* x is not over */
    block_lock_release(&t, &x.lock);
    assert_true(y.held);
    assert_false(c.held);
    block_lock_downgrade(&t, &y.lock);
    assert_true(c.held);
}

static void test_giving_up_while_waiting(void **state)
{
    struct block_locks t;
    struct owner a, x, b;
    block_locks_init(&t);
    take(&t, &a, 3, 1, false);
    take(&t, &x, 3, 1, true);
    take(&t, &b, 3, 1, false);
    block_lock_release(&t, &x.lock);
    assert_false(x.held);
    assert_true(b.held);
    block_lock_release(&t, &a.lock);
    block_lock_release(&t, &b.lock);
    assert_true(block_locks_empty(&t));
}

/* ---- a random run: the model is the definition itself, computed anew each time ---- */

#define OWNERS 40
#define BLOCKS 24

static unsigned seed;

static unsigned draw(unsigned n)
{
    seed = seed * 1103515245u + 12345u;
    return (seed >> 16) % n;
}

struct model {
    bool in, exclusive;
    uint64_t block, n, order;
};

static bool model_held(const struct model *m, unsigned i)
{
    for (unsigned k = 0; k < OWNERS; k++) {
        bool earlier = m[k].in && m[k].order < m[i].order;
        bool overlaps = m[k].block < m[i].block + m[i].n && m[i].block < m[k].block + m[k].n;
        if (earlier && overlaps && (m[k].exclusive || m[i].exclusive))
            return false;
    }
    return true;
}

static void test_random_against_model(void **state)
{
    static struct owner o[OWNERS];
    static struct model m[OWNERS];
    unsigned granted_later = 0, downgraded = 0;
    for (seed = 1; seed < 40; seed++) {
        unsigned keep = seed;
        struct block_locks t;
        uint64_t order = 0;
        block_locks_init(&t);
        memset(m, 0, sizeof m);
        for (unsigned step = 0; step < 2000; step++) {
            unsigned i = draw(OWNERS);
            if (!m[i].in) {
                m[i] = (struct model){.in = true, .exclusive = draw(2), .block = draw(BLOCKS), .n = 1 + draw(draw(4) ? 3 : BLOCKS), .order = order++};
                take(&t, &o[i], m[i].block, m[i].n, m[i].exclusive);
            } else if (m[i].exclusive && o[i].held && draw(2)) {
                m[i].exclusive = false;
                downgraded++;
                block_lock_downgrade(&t, &o[i].lock);
            } else if (o[i].held || draw(8) == 0) {
                m[i].in = false;
                block_lock_release(&t, &o[i].lock);
                granted_later += o[i].granted;
            }
            for (unsigned k = 0; k < OWNERS; k++)
                if (m[k].in && o[k].held != model_held(m, k))
                    fail_msg("seed %u step %u: lock %u is %s, the model says otherwise", keep, step, k, o[k].held ? "held" : "waiting");
        }
        seed = keep;
    }
    assert_true(granted_later > 1000 && downgraded > 1000); /* the run has met what it is for */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shared_go_together),
        cmocka_unit_test(test_exclusive_waits_for_all_earlier),
        cmocka_unit_test(test_neighbours_do_not_wait),
        cmocka_unit_test(test_fifo_fair),
        cmocka_unit_test(test_downgrade_lets_shared_follow_but_not_exclusive),
        cmocka_unit_test(test_giving_up_while_waiting),
        cmocka_unit_test(test_random_against_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
