/* The world: virtual clock, event queue, chance, the hash of the history. */
#include "tests/sim/sim_internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- chance: xoshiro256**, seeded by splitmix64 ---- */

uint64_t sim_mix(uint64_t x)
{
    x += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

void sim_rng_seed(uint64_t rng[4], uint64_t seed)
{
    for (unsigned i = 0; i < 4; i++)
        rng[i] = sim_mix(seed + i * UINT64_C(0x9e3779b97f4a7c15));
}

static uint64_t rotate_left(uint64_t x, unsigned k)
{
    return x << k | x >> (64 - k);
}

uint64_t sim_rng_next(uint64_t s[4])
{
    uint64_t result = rotate_left(s[1] * 5, 7) * 9;
    uint64_t t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotate_left(s[3], 45);
    return result;
}

uint64_t sim_rand(struct sim_world *w)
{
    return sim_rng_next(w->rng);
}

uint64_t sim_draw(struct sim_world *w, struct sim_range r)
{
    assert(r.min <= r.max);
    if (r.min == r.max)
        return r.min;
    uint64_t n = r.max - r.min + 1;
    return r.min + (n ? sim_rand(w) % n : sim_rand(w));
}

bool sim_chance(struct sim_world *w, uint32_t one_in)
{
    return one_in && sim_rand(w) % one_in == 0;
}

/* ---- the queue: a binary heap by (time, sequence number) ---- */

static bool earlier(const struct sim_event *a, const struct sim_event *b)
{
    return a->at_ns != b->at_ns ? a->at_ns < b->at_ns : a->seq < b->seq;
}

static void heap_put(struct sim_world *w, uint32_t i, struct sim_event *e)
{
    w->heap[i] = e;
    e->index = i;
}

static void heap_up(struct sim_world *w, uint32_t i)
{
    struct sim_event *e = w->heap[i];
    for (; i > 1 && earlier(e, w->heap[i / 2]); i /= 2)
        heap_put(w, i, w->heap[i / 2]);
    heap_put(w, i, e);
}

static void heap_down(struct sim_world *w, uint32_t i)
{
    struct sim_event *e = w->heap[i];
    for (uint32_t child; (child = 2 * i) <= w->n_heap; i = child) {
        if (child < w->n_heap && earlier(w->heap[child + 1], w->heap[child]))
            child++;
        if (!earlier(w->heap[child], e))
            break;
        heap_put(w, i, w->heap[child]);
    }
    heap_put(w, i, e);
}

void sim_event_cancel(struct sim_world *w, struct sim_event *e)
{
    uint32_t i = e->index;
    if (!i)
        return;
    e->index = 0;
    struct sim_event *last = w->heap[w->n_heap--];
    if (last == e)
        return;
    heap_put(w, i, last);
    heap_up(w, i);
    heap_down(w, last->index);
}

void sim_event_set(struct sim_world *w, struct sim_event *e, uint64_t at_ns)
{
    assert(e->fn);
    sim_event_cancel(w, e);
    e->at_ns = at_ns > w->now_ns ? at_ns : w->now_ns;
    e->seq = ++w->event_seq;
    if (w->n_heap + 1 >= w->cap_heap) {
        w->cap_heap = w->cap_heap ? 2 * w->cap_heap : 64;
        w->heap = realloc(w->heap, w->cap_heap * sizeof w->heap[0]);
        assert(w->heap);
    }
    heap_put(w, ++w->n_heap, e);
    heap_up(w, w->n_heap);
}

bool sim_step(struct sim_world *w)
{
    if (!w->n_heap)
        return false;
    struct sim_event *e = w->heap[1];
    assert(e->at_ns >= w->now_ns);
    w->now_ns = e->at_ns;
    sim_event_cancel(w, e);
    e->fn(e);
    return true;
}

static void wake_all(struct sim_world *w)
{
    list_for_each (l, &w->reactors)
        sim_wake(container_of(l, struct sim_reactor, node));
}

bool sim_run_until(struct sim_world *w, bool (*done)(void *user), void *user, uint64_t max_ns)
{
    uint64_t deadline = max_ns < UINT64_MAX - w->now_ns ? w->now_ns + max_ns : UINT64_MAX;
    wake_all(w);
    for (;;) {
        if (done && done(user))
            return true;
        if (!w->n_heap)
            return false;
        if (w->heap[1]->at_ns > deadline) {
            w->now_ns = deadline;
            return false;
        }
        sim_step(w);
    }
}

void sim_run_for(struct sim_world *w, uint64_t ns)
{
    uint64_t deadline = w->now_ns + ns;
    sim_run_until(w, NULL, NULL, ns);
    if (w->now_ns < deadline)
        w->now_ns = deadline;
}

struct user_event {
    struct sim_event event;
    void (*fn)(void *user);
    void *user;
    struct sim_world *world;
};

static void user_event(struct sim_event *e)
{
    struct user_event *u = container_of(e, struct user_event, event);
    void (*fn)(void *) = u->fn;
    void *user = u->user;
    sim_note(u->world, NULL, 1, 0, "test event");
    free(u);
    fn(user);
}

void sim_at(struct sim_world *w, uint64_t at_ns, void (*fn)(void *user), void *user)
{
    struct user_event *u = calloc(1, sizeof *u);
    assert(u);
    *u = (struct user_event){.event.fn = user_event, .fn = fn, .user = user, .world = w};
    sim_event_set(w, &u->event, at_ns);
}

/* ---- the history ---- */

void sim_fold(struct sim_world *w, uint64_t x)
{
    w->hash = sim_mix(w->hash ^ x);
}

void sim_note(struct sim_world *w, const struct sim_reactor *r, uint64_t a, uint64_t b, const char *fmt, ...)
{
    sim_fold(w, w->now_ns);
    sim_fold(w, r ? r->id : 0);
    sim_fold(w, a);
    sim_fold(w, b);
    if (!w->trace.event)
        return;
    char text[512];
    int n = r ? snprintf(text, sizeof text, "%s[%u] ", r->host->name, r->id) : 0;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text + n, sizeof text - (size_t)n, fmt, ap);
    va_end(ap);
    w->trace.event(w->trace.user, w->now_ns, (unsigned)a, text);
}

uint64_t sim_hash(const struct sim_world *w)
{
    return w->hash;
}

uint64_t sim_now(const struct sim_world *w)
{
    return w->now_ns;
}

void sim_set_trace(struct sim_world *w, const struct sim_trace *trace)
{
    w->trace = trace ? *trace : (struct sim_trace){0};
}

/* ---- beginning and end ---- */

struct sim_host *sim_host_get(struct sim_world *w, const char *name)
{
    list_for_each (l, &w->hosts) {
        struct sim_host *h = container_of(l, struct sim_host, node);
        if (strcmp(h->name, name) == 0)
            return h;
    }
    struct sim_host *h = calloc(1, sizeof *h);
    assert(h && strlen(name) < sizeof h->name);
    strcpy(h->name, name);
    h->id = ++w->n_hosts;
    h->clock_world_ns = w->now_ns;
    /* Machines were not booted at the same time: a clock means nothing to another host. */
    h->clock_local_ns = NS_PER_S + sim_rand(w) % (1000000 * NS_PER_S);
    list_push_back(&w->hosts, &h->node);
    return h;
}

struct sim_world *sim_world_new(uint64_t seed)
{
    struct sim_world *w = calloc(1, sizeof *w);
    assert(w);
    sim_rng_seed(w->rng, seed);
    w->hash = sim_mix(seed);
    list_init(&w->reactors);
    list_init(&w->hosts);
    list_init(&w->disks);
    list_init(&w->dirs);
    w->config = (struct sim_config){
        .turn_ns = {500, 5000},
        .read_ns = {60000, 200000},
        .write_ns = {15000, 150000},
        .durable_ns = {50000, 150000},
        .flush_ns = {50000, 500000},
        .discard_ns = {20000, 200000},
        .create_ns = {100 * NS_PER_MS, 2000 * NS_PER_MS},
        .latency_ns = {15000, 100000},
        .message_ns = {200, 200000},
        .pipe_bytes = 512u << 10,
        .chunk_max = 64u << 10,
        .connect_timeout_ns = 20 * NS_PER_S,
    };
    w->net = sim_net_new(w);
    return w;
}

struct sim_config *sim_config(struct sim_world *w)
{
    return &w->config;
}

void sim_world_free(struct sim_world *w)
{
    if (!w)
        return;
    list_for_each (l, &w->reactors)
        sim_reactor_crash(container_of(l, struct sim_reactor, node), SIM_KILL);
    sim_net_free(w);
    sim_disks_free(w);
    /* What is left in the queue are tests' own events; everything else was taken out by its owner. */
    while (w->n_heap) {
        struct sim_event *e = w->heap[1];
        assert(e->fn == user_event);
        sim_event_cancel(w, e);
        free(container_of(e, struct user_event, event));
    }
    for (struct list *l; (l = list_pop_front(&w->reactors));)
        free(container_of(l, struct sim_reactor, node));
    for (struct list *l; (l = list_pop_front(&w->hosts));)
        free(container_of(l, struct sim_host, node));
    free(w->heap);
    free(w);
}

void sim_set_tap(struct sim_world *w, const struct sim_tap *tap)
{
    w->tap = tap ? *tap : (struct sim_tap){0};
}

static void **the_buried;
static size_t n_buried;

void sim_bury(void *p)
{
    if ((n_buried & (n_buried - 1)) == 0) {
        the_buried = realloc(the_buried, (n_buried ? 2 * n_buried : 1) * sizeof the_buried[0]);
        assert(the_buried);
    }
    the_buried[n_buried++] = p;
}

void sim_forget_buried(void)
{
    the_buried = NULL;
    n_buried = 0;
}
