/* What goes wrong between hosts. Links may be down, late or slow for several reasons at once; each reason ends by itself. */
#include "tests/sim/cluster/faults_internal.h"

static struct sim_world *world_of(struct faults *f)
{
    return f->run->world;
}

static struct sim_link *link_of(struct faults *f, unsigned a, unsigned b)
{
    return sim_link(world_of(f), fault_host(f, a), fault_host(f, b));
}

/* Two different hosts. */
static void draw_pair(const struct faults *f, struct fault_rng *g, unsigned *a, unsigned *b)
{
    *a = (unsigned)fault_draw(g, 0, f->n_hosts - 1);
    *b = (unsigned)fault_draw(g, 0, f->n_hosts - 2);
    *b += *b >= *a;
}

/* ---- links that are down ---- */

static void link_up(struct faults *f, unsigned a, unsigned b)
{
    if (--f->cut[a][b] > 0)
        return;
    sim_heal(world_of(f), fault_host(f, a), fault_host(f, b));
    if (f->cut[b][a])
        sim_cut_one_way(world_of(f), fault_host(f, b), fault_host(f, a));
}

static void end_cut(struct fault_action *x)
{
    link_up(x->faults, x->a, x->b);
}

void faults_hold(struct faults *f, unsigned a, unsigned b)
{
    if (f->cut[a][b]++ == 0)
        sim_cut_one_way(world_of(f), fault_host(f, a), fault_host(f, b));
}

void faults_release(struct faults *f, unsigned a, unsigned b)
{
    link_up(f, a, b);
}

static void cut_link(struct faults *f, unsigned a, unsigned b, uint64_t ns)
{
    faults_hold(f, a, b);
    fault_later(f, ns, end_cut, a, b, 0);
}

static void cut_pair(struct faults *f, struct fault_rng *g, bool one_way)
{
    unsigned a, b;
    draw_pair(f, g, &a, &b);
    uint64_t ns = fault_outage(g);
    fault_say(f, "%s %s %s for %.3f s", fault_host(f, a), one_way ? "does not reach" : "is cut from", fault_host(f, b), (double)ns / 1e9);
    cut_link(f, a, b, ns);
    if (!one_way)
        cut_link(f, b, a, ns);
}

static void isolate_host(struct faults *f, struct fault_rng *g)
{
    unsigned a = (unsigned)fault_draw(g, 0, f->n_hosts - 1);
    uint64_t how = fault_draw(g, 0, 3), ns = fault_outage(g); /* 0: it hears but is not heard; 1: the other way round */
    fault_say(f, "%s is isolated%s for %.3f s", fault_host(f, a), how == 0 ? " (hears)" : how == 1 ? " (is heard)" : "", (double)ns / 1e9);
    for (unsigned b = 0; b < f->n_hosts; b++) {
        if (b == a)
            continue;
        if (how != 1)
            cut_link(f, a, b, ns);
        if (how != 0)
            cut_link(f, b, a, ns);
    }
}

static void isolate_pair(struct faults *f, struct fault_rng *g)
{
    unsigned a, b;
    draw_pair(f, g, &a, &b);
    uint64_t ns = fault_outage(g);
    fault_say(f, "%s and %s hear only each other for %.3f s", fault_host(f, a), fault_host(f, b), (double)ns / 1e9);
    for (unsigned x = 0; x < f->n_hosts; x++) {
        if (x == a || x == b)
            continue;
        cut_link(f, a, x, ns);
        cut_link(f, x, a, ns);
        cut_link(f, b, x, ns);
        cut_link(f, x, b, ns);
    }
}

/* ---- connections that end ---- */

static void reset(struct faults *f, struct fault_rng *g)
{
    unsigned a, b;
    draw_pair(f, g, &a, &b);
    fault_say(f, "connections between %s and %s are reset", fault_host(f, a), fault_host(f, b));
    sim_reset(world_of(f), fault_host(f, a), fault_host(f, b));
}

static void note_reset_at_byte(struct faults *f, unsigned a, unsigned b)
{
    struct sim_link *l = link_of(f, a, b);
    if (f->reset_at_byte[a][b] && l->reset_after_bytes == 0)
        fault_count(f, FAULT_RESET_AT_BYTE);
    f->reset_at_byte[a][b] = l->reset_after_bytes = 0;
}

static void reset_at_byte(struct faults *f, struct fault_rng *g)
{
    unsigned a, b;
    draw_pair(f, g, &a, &b);
    uint64_t n = fault_draw_log(g, 1, 200000);
    note_reset_at_byte(f, a, b);
    fault_say(f, "the connection that carries byte %llu from now from %s to %s is reset there", (unsigned long long)n, fault_host(f, a),
              fault_host(f, b));
    f->reset_at_byte[a][b] = link_of(f, a, b)->reset_after_bytes = n;
}

static void break_old(struct fault_action *x)
{
    struct faults *f = x->faults;
    if (sim_break(world_of(f), fault_host(f, x->a), fault_host(f, x->b)) > 0)
        fault_count(f, FAULT_OLD_CONNECTION);
}

/* What one end has sent waits on its way; that end loses the connection and makes a new one; then the old bytes arrive. */
static void old_connection(struct faults *f, struct fault_rng *g)
{
    unsigned a, b;
    draw_pair(f, g, &a, &b);
    uint64_t part = fault_draw_log(g, 100000, 500 * NS_PER_MS), rest = fault_draw_log(g, 100000, 5 * NS_PER_S);
    fault_say(f, "bytes from %s to %s wait; in %.6f s it loses these connections, in %.6f s more the bytes arrive", fault_host(f, a), fault_host(f, b),
              (double)part / 1e9, (double)rest / 1e9);
    sim_hold(world_of(f), fault_host(f, a), fault_host(f, b), part + rest);
    fault_later(f, part, break_old, a, b, 0);
}

/* ---- links that are late ---- */

static void end_tail(struct fault_action *x)
{
    link_of(x->faults, x->a, x->b)->tail_one_in = 0;
}

static void delay_tail(struct faults *f, struct fault_rng *g)
{
    unsigned a, b;
    draw_pair(f, g, &a, &b);
    uint64_t ns = fault_outage(g);
    struct sim_link *l = link_of(f, a, b);
    l->tail_one_in = (uint32_t)fault_draw_log(g, 2, 200);
    l->tail_ns = (struct sim_range){100000, fault_draw_log(g, NS_PER_MS, 5 * NS_PER_S)};
    fault_say(f, "one in %u pieces from %s to %s is late by up to %.3f s, for %.3f s", l->tail_one_in, fault_host(f, a), fault_host(f, b),
              (double)l->tail_ns.max / 1e9, (double)ns / 1e9);
    fault_later(f, ns, end_tail, a, b, 0);
}

static void make_fast(struct faults *f, unsigned a, unsigned b)
{
    struct sim_link *l = link_of(f, a, b);
    l->ns_per_kib = 0;
    l->latency_ns = sim_config(world_of(f))->latency_ns;
}

static void end_slow(struct fault_action *x)
{
    make_fast(x->faults, x->a, x->b);
}

void faults_late(struct faults *f, unsigned a, unsigned b, uint64_t late_ns, uint32_t ns_per_kib, uint64_t for_ns)
{
    struct sim_link *l = link_of(f, a, b);
    l->latency_ns = (struct sim_range){late_ns, late_ns};
    l->ns_per_kib = ns_per_kib;
    fault_later(f, for_ns, end_slow, a, b, 0);
}

static void slow_link(struct faults *f, struct fault_rng *g)
{
    unsigned a, b;
    draw_pair(f, g, &a, &b);
    uint64_t ns = fault_outage(g), latency = fault_draw_log(g, 100000, 300 * NS_PER_MS);
    struct sim_link *l = link_of(f, a, b);
    l->ns_per_kib = (uint32_t)fault_draw_log(g, 1000, 10 * NS_PER_MS);
    l->latency_ns = (struct sim_range){latency / 2, latency};
    fault_say(f, "%s to %s: %.3f ms per KiB, %.3f ms latency, for %.3f s", fault_host(f, a), fault_host(f, b), (double)l->ns_per_kib / 1e6,
              (double)latency / 1e6, (double)ns / 1e9);
    fault_later(f, ns, end_slow, a, b, 0);
}

/* ---- the part's entry points ---- */

bool faults_net_apply(struct faults *f, enum fault kind, struct fault_rng *g)
{
    switch (kind) {
    case FAULT_CUT:
    case FAULT_ONE_WAY:
        cut_pair(f, g, kind == FAULT_ONE_WAY);
        break;
    case FAULT_ISOLATED_HOST:
        isolate_host(f, g);
        break;
    case FAULT_ISOLATED_PAIR:
        isolate_pair(f, g);
        break;
    case FAULT_RESET:
        reset(f, g);
        break;
    case FAULT_RESET_AT_BYTE:
        reset_at_byte(f, g); /* counted when it happens */
        return true;
    case FAULT_OLD_CONNECTION:
        old_connection(f, g);
        return true;
    case FAULT_DELAY_TAIL:
        delay_tail(f, g);
        break;
    case FAULT_SLOW_LINK:
        slow_link(f, g);
        break;
    default:
        return false;
    }
    fault_count(f, kind);
    return true;
}

void faults_net_stop(struct faults *f)
{
    for (unsigned a = 0; a < f->n_hosts; a++)
        for (unsigned b = 0; b < f->n_hosts; b++) {
            if (a == b)
                continue;
            note_reset_at_byte(f, a, b);
            make_fast(f, a, b);
            link_of(f, a, b)->tail_one_in = 0;
            f->cut[a][b] = 0;
        }
    for (unsigned a = 0; a < f->n_hosts; a++)
        for (unsigned b = a + 1; b < f->n_hosts; b++)
            sim_heal(world_of(f), fault_host(f, a), fault_host(f, b));
}
