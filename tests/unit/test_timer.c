/* The timer heap against a list that is searched. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/timer.h"

#define N 200

struct probe {
    struct timer timer;
    unsigned id;
    bool set;
    uint64_t at_ns, order;
};

static struct timer_heap heap;
static struct probe probes[N];
static unsigned fired[4 * N], n_fired;
static uint64_t order;

static uint64_t next_random(uint64_t *s)
{
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s;
}

static void on_fire(struct timer *t)
{
    struct probe *p = container_of(t, struct probe, timer);
    assert_int_equal(t->heap_index, 0);
    p->set = false;
    fired[n_fired++] = p->id;
}

static void set(struct probe *p, uint64_t at_ns)
{
    timer_heap_set(&heap, &p->timer, at_ns);
    p->set = true;
    p->at_ns = at_ns;
    p->order = order++;
}

static int setup(void **state)
{
    timer_heap_init(&heap);
    memset(probes, 0, sizeof probes);
    for (unsigned i = 0; i < N; i++) {
        probes[i].timer.fn = on_fire;
        probes[i].id = i;
    }
    n_fired = 0;
    return 0;
}

static int teardown(void **state)
{
    timer_heap_free(&heap);
    return 0;
}

static struct probe *model_next(void)
{
    struct probe *best = NULL;
    for (unsigned i = 0; i < N; i++) {
        struct probe *p = &probes[i];
        if (p->set && (!best || p->at_ns < best->at_ns || (p->at_ns == best->at_ns && p->order < best->order)))
            best = p;
    }
    return best;
}

static void fires_in_order_of_time_then_of_setting(void **state)
{
    set(&probes[0], 30);
    set(&probes[1], 10);
    set(&probes[2], 20);
    set(&probes[3], 10);
    set(&probes[1], 10); /* set again: now behind 3 */
    assert_int_equal(timer_heap_next(&heap), 10);
    timer_heap_run(&heap, 9);
    assert_int_equal(n_fired, 0);
    timer_heap_run(&heap, 20);
    assert_int_equal(n_fired, 3);
    assert_int_equal(fired[0], 3);
    assert_int_equal(fired[1], 1);
    assert_int_equal(fired[2], 2);
    assert_int_equal(timer_heap_next(&heap), 30);
    timer_heap_cancel(&heap, &probes[0].timer);
    timer_heap_cancel(&heap, &probes[0].timer);
    assert_true(timer_heap_next(&heap) == UINT64_MAX);
}

static void again(struct timer *t)
{
    on_fire(t);
    set(container_of(t, struct probe, timer), 0);
}

static void what_is_set_for_the_past_while_firing_waits_for_the_next_run(void **state)
{
    probes[0].timer.fn = again;
    set(&probes[0], 5);
    set(&probes[1], 7);
    timer_heap_run(&heap, 7);
    assert_int_equal(n_fired, 2);
    timer_heap_run(&heap, 8);
    assert_int_equal(n_fired, 3);
    assert_int_equal(fired[2], 0);
}

static void cancels_another(struct timer *t)
{
    on_fire(t);
    timer_heap_cancel(&heap, &probes[1].timer);
    probes[1].set = false;
}

static void a_timer_may_cancel_another_that_is_due(void **state)
{
    probes[0].timer.fn = cancels_another;
    set(&probes[0], 5);
    set(&probes[1], 5);
    timer_heap_run(&heap, 9);
    assert_int_equal(n_fired, 1);
}

static void agrees_with_a_list(void **state)
{
    uint64_t seed = 88172645463325252u, now = 1000;
    for (unsigned step = 0; step < 20000; step++) {
        struct probe *p = &probes[next_random(&seed) % N];
        switch (next_random(&seed) % 4) {
        case 0:
        case 1:
            set(p, now + next_random(&seed) % 50);
            break;
        case 2:
            timer_heap_cancel(&heap, &p->timer);
            p->set = false;
            break;
        default: {
            now += next_random(&seed) % 10;
            unsigned expected[N], n = 0;
            struct probe *m;
            bool was[N];
            for (unsigned i = 0; i < N; i++)
                was[i] = probes[i].set;
            while ((m = model_next()) && m->at_ns <= now) {
                expected[n++] = m->id;
                m->set = false;
            }
            for (unsigned i = 0; i < N; i++)
                probes[i].set = was[i];
            n_fired = 0;
            timer_heap_run(&heap, now);
            assert_int_equal(n_fired, n);
            assert_memory_equal(fired, expected, n * sizeof fired[0]);
        }
        }
        struct probe *next = model_next();
        assert_true(timer_heap_next(&heap) == (next ? next->at_ns : UINT64_MAX));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(fires_in_order_of_time_then_of_setting, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_set_for_the_past_while_firing_waits_for_the_next_run, setup, teardown),
        cmocka_unit_test_setup_teardown(a_timer_may_cancel_another_that_is_due, setup, teardown),
        cmocka_unit_test_setup_teardown(agrees_with_a_list, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
