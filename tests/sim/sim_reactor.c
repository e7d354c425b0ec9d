/* A simulated process: its loop, its clock and timers, its end.
 *
 * What always holds: callbacks of a process are called in its turn and nowhere else; a process that is gone has no
 * callbacks, and its calls change nothing. */
#include "tests/sim/sim_internal.h"

#include <errno.h>
#include <stdlib.h>

/* ---- the host's clock ---- */

#define SHORT_NS (UINT64_C(1) << 42) /* an hour, by which a million can be multiplied */

static uint64_t host_clock(const struct sim_host *h, uint64_t world_ns)
{
    if (world_ns >= h->clock_world_ns && world_ns - h->clock_world_ns < SHORT_NS) { /* nearly always, and the same */
        int64_t d = (int64_t)(world_ns - h->clock_world_ns);
        return h->clock_local_ns + (uint64_t)(d + d * h->drift_ppm / 1000000);
    }
    __int128 d = (__int128)world_ns - h->clock_world_ns;
    return h->clock_local_ns + (uint64_t)(d + d * h->drift_ppm / 1000000);
}

/* The first moment at which the host's clock shows at least local_ns. */
static uint64_t host_clock_reaches(const struct sim_host *h, uint64_t local_ns)
{
    if (local_ns <= h->clock_local_ns)
        return h->clock_world_ns;
    if (local_ns == UINT64_MAX)
        return UINT64_MAX; /* never */
    uint64_t d = local_ns - h->clock_local_ns, rate = (uint64_t)(1000000 + h->drift_ppm);
    unsigned __int128 at = h->clock_world_ns;
    at += d < SHORT_NS ? (d * 1000000 + rate - 1) / rate : ((unsigned __int128)d * 1000000 + rate - 1) / rate;
    /* host_clock() rounds towards zero, which for a slow clock is up: look one step back and forth. */
    uint64_t t = at > UINT64_MAX ? UINT64_MAX : (uint64_t)at;
    while (t > h->clock_world_ns && host_clock(h, t - 1) >= local_ns)
        t--;
    while (t < UINT64_MAX && host_clock(h, t) < local_ns)
        t++;
    return t;
}

static void host_clock_set(struct sim_world *w, struct sim_host *h, uint64_t local_ns, int32_t drift_ppm)
{
    h->clock_local_ns = local_ns;
    h->clock_world_ns = w->now_ns;
    h->drift_ppm = drift_ppm;
}

static uint64_t reactor_now(struct reactor *io)
{
    struct sim_reactor *r = sim_reactor_of(io);
    return host_clock(r->host, r->world->now_ns);
}

static uint64_t reactor_wall_clock(struct reactor *io)
{
    return UINT64_C(1767225600) * NS_PER_S + sim_reactor_of(io)->world->now_ns;
}

static void reactor_random(struct reactor *io, void *p, size_t n)
{
    struct sim_reactor *r = sim_reactor_of(io);
    for (uint8_t *to = p; n > 0;) {
        uint64_t x = sim_rng_next(r->rng);
        size_t part = n < sizeof x ? n : sizeof x;
        memcpy(to, &x, part);
        to += part;
        n -= part;
    }
}

/* ---- timers ---- */

static void reactor_timer_set(struct reactor *io, struct timer *t, uint64_t at_ns)
{
    struct sim_reactor *r = sim_reactor_of(io);
    if (r->gone)
        return;
    timer_heap_set(&r->timers, t, at_ns);
    sim_reactor_arm(r);
}

static void reactor_timer_cancel(struct reactor *io, struct timer *t)
{
    struct sim_reactor *r = sim_reactor_of(io);
    if (!r->gone)
        timer_heap_cancel(&r->timers, t);
}

static void fire_timers(struct sim_reactor *r)
{
    uint64_t now = reactor_now(&r->r), next = timer_heap_next(&r->timers);
    if (next > now)
        return;
    sim_note(r->world, r, 2, next, "timers");
    timer_heap_run(&r->timers, now);
}

/* ---- turns ---- */

void sim_reactor_arm(struct sim_reactor *r)
{
    if (r->gone || r->in_turn || r->paused || r->r.stopping)
        return;
    uint64_t at;
    if (r->wake || !list_empty(&r->ready))
        at = r->world->now_ns;
    else
        at = host_clock_reaches(r->host, timer_heap_next(&r->timers));
    if (at == UINT64_MAX)
        return;
    if (at < r->busy_until_ns)
        at = r->busy_until_ns;
    if (at < r->world->now_ns)
        at = r->world->now_ns;
    if (!r->turn.index || r->turn.at_ns > at)
        sim_event_set(r->world, &r->turn, at);
}

void sim_ready_add(struct sim_reactor *r, struct sim_ready *s)
{
    if (r->gone || !list_empty(&s->node))
        return;
    list_push_back(&r->ready, &s->node);
    sim_reactor_arm(r);
}

static void reap(struct sim_reactor *r);

static void turn(struct sim_event *e)
{
    struct sim_reactor *r = container_of(e, struct sim_reactor, turn);
    assert(!r->gone && !r->paused);
    sim_note(r->world, r, 3, 0, "turn");
    r->in_turn = true;
    r->wake = false;
    r->r.turn_ns = reactor_now(&r->r);
    /* What becomes ready from here on is the next turn's. */
    assert(list_empty(&r->batch));
    if (!list_empty(&r->ready)) {
        list_insert(r->ready.prev, &r->ready, &r->batch);
        list_remove(&r->ready);
    }
    for (struct list *l; !r->gone && (l = list_pop_front(&r->batch));) {
        struct sim_ready *s = container_of(l, struct sim_ready, node);
        s->fn(s);
    }
    if (!r->gone)
        fire_timers(r);
    for (struct turn_hook *h = r->r.hooks; !r->gone && h; h = h->next)
        h->fn(h);
    if (!r->gone)
        sim_net_kick(r);
    r->in_turn = false;
    if (r->gone) {
        reap(r);
        return;
    }
    r->busy_until_ns = r->world->now_ns + sim_draw(r->world, r->world->config.turn_ns);
    sim_reactor_arm(r);
}

void sim_wake(struct sim_reactor *r)
{
    r->wake = true;
    sim_reactor_arm(r);
}

/* The next reactor of r's process after x, which is one of them; NULL: there is no more. */
static struct sim_reactor *next_sibling(const struct sim_reactor *r, struct sim_reactor *x)
{
    if (!r->first->n_siblings)
        return NULL;
    for (struct list *l = x->node.next; l != &r->world->reactors; l = l->next) {
        struct sim_reactor *other = container_of(l, struct sim_reactor, node);
        if (other->first == r->first)
            return other;
    }
    return NULL;
}

void sim_pause(struct sim_reactor *r)
{
    for (struct sim_reactor *x = r->first; x; x = next_sibling(r, x)) {
        assert(!x->in_turn && "a process is paused from outside");
        x->paused = true;
        sim_event_cancel(x->world, &x->turn);
    }
}

void sim_resume(struct sim_reactor *r)
{
    for (struct sim_reactor *x = r->first; x; x = next_sibling(r, x)) {
        x->paused = false;
        sim_wake(x);
    }
}

void sim_stall(struct sim_reactor *r, uint64_t ns)
{
    assert(!r->in_turn);
    r->busy_until_ns = r->world->now_ns + ns;
    sim_event_cancel(r->world, &r->turn);
    sim_reactor_arm(r);
}

int32_t sim_drift(const struct sim_reactor *r)
{
    return r->host->drift_ppm;
}

void sim_set_drift(struct sim_reactor *r, int32_t ppm)
{
    assert(ppm > -1000000);
    struct sim_host *h = r->host;
    host_clock_set(r->world, h, host_clock(h, r->world->now_ns), ppm);
    list_for_each (l, &r->world->reactors) {
        struct sim_reactor *other = container_of(l, struct sim_reactor, node);
        if (other->host != h || other->gone)
            continue;
        sim_event_cancel(r->world, &other->turn);
        sim_reactor_arm(other);
    }
}

/* ---- the end ---- */

/* Nothing of the process's own is on the stack any more: what it held goes. */
static void reap(struct sim_reactor *r)
{
    assert(r->gone && !r->reaped && !r->in_turn);
    r->reaped = true;
    sim_event_cancel(r->world, &r->reap);
    if (r->on_crash)
        r->on_crash(r->crash_user);
    sim_net_reap(r);
    sim_dev_reap(r);
    sim_mail_reap(r);
    list_init(&r->ready);
    list_init(&r->batch);
    timer_heap_free(&r->timers);
    arena_drop(r->r.arena);
    r->r.arena = NULL;
}

static void reap_event(struct sim_event *e)
{
    reap(container_of(e, struct sim_reactor, reap));
}

static void crash_one(struct sim_reactor *r, enum sim_crash how)
{
    sim_note(r->world, r, 4, (uint64_t)how, "%s", how == SIM_POWER ? "power cut" : "killed");
    sim_dev_crash(r, how);
    sim_net_crash(r, how);
    r->gone = true;
    r->timers.n = 0; /* if they are firing just now, no more of them do */
    sim_event_cancel(r->world, &r->turn);
    if (r->in_call && !r->in_turn)
        sim_event_set(r->world, &r->reap, r->world->now_ns);
    else if (!r->in_turn)
        reap(r);
}

void sim_reactor_crash(struct sim_reactor *r, enum sim_crash how)
{
    if (r->gone) {
        if (!r->reaped && !r->in_turn && !r->in_call)
            reap(r);
        return;
    }
    struct sim_world *w = r->world;
    struct sim_host *host = r->host;
    crash_one(r, how);
    for (struct sim_reactor *x = r->first; x; x = next_sibling(r, x))
        if (!x->gone)
            crash_one(x, how);
    if (how != SIM_POWER)
        return;
    list_for_each (l, &w->reactors) {
        struct sim_reactor *other = container_of(l, struct sim_reactor, node);
        if (other->host == host && !other->gone)
            crash_one(other, how);
    }
    host->silent = true;
    host_clock_set(w, host, NS_PER_S + sim_rand(w) % (100 * NS_PER_S), host->drift_ppm); /* a new boot */
}

void sim_on_crash(struct sim_reactor *r, void (*on_crash)(void *user), void *user)
{
    r->on_crash = on_crash;
    r->crash_user = user;
}

void sim_reactor_free(struct sim_reactor *r)
{
    if (!r || r->gone)
        return;
    assert(!r->in_turn && list_empty(&r->ops) && list_empty(&r->creates));
    r->on_crash = NULL;
    /* Connections give their buffers back first, so that the arena can tell what logic has kept. */
    sim_net_crash(r, SIM_KILL);
    sim_net_reap(r);
    assert(arena_used_bytes(r->r.arena) == 0);
    crash_one(r, SIM_KILL);
}

static const struct io_vtable sim_vtable = {
    .now = reactor_now,
    .wall_clock = reactor_wall_clock,
    .random = reactor_random,
    .timer_set = reactor_timer_set,
    .timer_cancel = reactor_timer_cancel,
    .dev_read = sim_dev_read,
    .dev_read_cached = sim_dev_read_cached,
    .dev_write = sim_dev_write,
    .dev_flush = sim_dev_flush,
    .dev_discard = sim_dev_discard,
    .dev_create = sim_dev_create,
    .listen = sim_net_listen,
    .listener_close = sim_net_listener_close,
    .connect = sim_net_connect,
    .conn_send = sim_net_send,
    .conn_recv_into = sim_net_recv_into,
    .conn_recv_pause = sim_net_recv_pause,
    .conn_unsent = sim_net_unsent,
    .conn_set_low_water = sim_net_set_low_water,
    .conn_close = sim_net_close,
    .conn_finish = sim_net_finish,
    .conn_move = sim_net_move,
    .post = sim_mail_post,
};

struct sim_reactor *sim_reactor_new(struct sim_world *w, const char *host, uint64_t arena_limit_bytes)
{
    struct sim_reactor *r = calloc(1, sizeof *r);
    assert(r);
    r->r.io = &sim_vtable;
    r->r.arena = arena_new(arena_limit_bytes);
    assert(r->r.arena);
    r->world = w;
    r->host = sim_host_get(w, host);
    r->host->silent = false;
    r->id = ++w->n_reactors;
    sim_rng_seed(r->rng, sim_rand(w));
    timer_heap_init(&r->timers);
    r->turn.fn = turn;
    r->reap.fn = reap_event;
    list_init(&r->ready);
    list_init(&r->batch);
    list_init(&r->devs);
    list_init(&r->dir_handles);
    list_init(&r->ops);
    list_init(&r->creates);
    list_init(&r->conns);
    list_init(&r->listeners);
    list_init(&r->kick);
    list_init(&r->mail);
    r->first = r;
    list_push_back(&w->reactors, &r->node);
    sim_note(w, r, 5, 0, "started");
    sim_wake(r);
    return r;
}

struct sim_reactor *sim_reactor_another(struct sim_reactor *first, uint64_t arena_limit_bytes)
{
    assert(first->first == first && !first->gone && first->n_siblings + 1 < REACTORS_MAX);
    struct sim_reactor *r = sim_reactor_new(first->world, first->host->name, arena_limit_bytes);
    r->first = first;
    r->r.index = ++first->n_siblings;
    return r;
}

struct reactor *sim_reactor_io(struct sim_reactor *r)
{
    return &r->r;
}
