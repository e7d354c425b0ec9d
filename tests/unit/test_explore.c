/* A seeded random explorer over real acceptors and proposers (px_cluster.h says what is checked): racing and dying
 * front ends, connections that break and deliver late, records that become durable late and singly, crashes, rot,
 * trimming, catch-up in pieces that come late and twice. When the faults stop, everything must come to rest: the front
 * end serves, every replica has what is chosen.
 *
 *   test_explore [FIRST_SEED N_SEEDS [trace]]     default: some hundred seeds, for the unit test run */
#include "tests/unit/px_cluster.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

struct plan {
    unsigned steps;
    unsigned crash, kill, cut, rot; /* in 1000 */
    unsigned rotten_node;
    bool change;        /* memberships of three out of five */
    bool copy;          /* checkpoints run ahead of the others: logs fall behind, and are copied */
    unsigned slow_disk; /* in 100: a disk step makes all durable otherwise */
};

static struct px_conn *any_conn(struct px_cluster *c)
{
    unsigned n = 0;
    list_for_each(p, &c->conns) n++;
    if (n == 0)
        return NULL;
    unsigned k = (unsigned)px_random(c, n);
    struct list *l = c->conns.next;
    while (k--)
        l = l->next;
    return container_of(l, struct px_conn, link);
}

static void step_message(struct px_cluster *c)
{
    struct px_conn *k = any_conn(c);
    if (!k)
        return;
    if (!k->front_up && px_random(c, 12) == 0) {
        px_conn_gone(c, k);
        return;
    }
    unsigned n = 1 + (unsigned)px_random(c, 4);
    bool to_node = px_random(c, 2);
    while (n-- && (to_node ? px_conn_to_node(c, k) : px_conn_to_front(c, k)))
        if (!to_node) { /* its answer may have closed the connection */
            bool alive = false;
            list_for_each(p, &c->conns) alive |= p == &k->link;
            if (!alive)
                return;
        }
}

static void step_catchup(struct px_cluster *c)
{
    unsigned n = (unsigned)px_random(c, c->n_nodes), peer = (unsigned)px_random(c, c->n_nodes);
    if (c->node[n].up && (c->node[n].wants_catchup || px_random(c, 6) == 0))
        px_catchup_ask(c, n, peer);
    unsigned i = 0;
    list_for_each_safe(p, &c->catchups)
    {
        struct px_catchup *u = container_of(p, struct px_catchup, link);
        if (++i > 30) {
            px_catchup_deliver(c, u, false);
            continue;
        }
        if (px_random(c, 3))
            continue;
        if (!u->answered)
            px_catchup_answer(c, u, 1 + (uint32_t)px_random(c, 8));
        else
            px_catchup_deliver(c, u, px_random(c, 4) == 0);
    }
}

/* How far back a node may fall: with copying, to its own checkpoint; else no log reaches further back than this anywhere. */
static uint64_t trimmed(const struct px_cluster *c, const struct plan *p, unsigned own)
{
    uint64_t slot = 0;
    if (p->copy)
        return c->node[own].floor.slot > c->node[own].known_from ? c->node[own].floor.slot : c->node[own].known_from;
    for (unsigned n = 0; n < c->n_nodes; n++)
        slot = c->node[n].floor.slot > slot ? c->node[n].floor.slot : slot;
    return slot;
}

static void step_fault(struct px_cluster *c, const struct plan *p)
{
    uint64_t dice = px_random(c, 1000);
    unsigned n = (unsigned)px_random(c, c->n_nodes), f = (unsigned)px_random(c, c->n_fronts);
    struct px_node *d = &c->node[n];
    if (dice < p->crash) {
        if (!d->up)
            return;
        if (p->change && p->rot == 0 && px_random(c, 3) == 0 && px_may_wipe(c, n)) {
            px_wipe(c, n);
            return;
        }
        uint64_t low = trimmed(c, p, n), last = paxos_log_last(&d->a.log).slot;
        if (n == p->rotten_node && last > low && px_random(c, 1000) < p->rot)
            px_rot(c, n, low + 1 + px_random(c, last - low));
        px_crash(c, n, (uint32_t)px_random(c, 4));
    } else if (dice < p->crash + p->kill) {
        if (c->front[f].alive)
            px_front_kill(c, f);
    } else if (dice < p->crash + p->kill + p->cut) {
        px_disconnect(c, f, n);
    }
}

/* Those that fell behind, and how they come back: in steps that anything may come between. */
static void step_copy(struct px_cluster *c)
{
    unsigned n = (unsigned)px_random(c, c->n_nodes), peer = (unsigned)px_random(c, c->n_nodes);
    for (unsigned k = 0; k < c->n_nodes && !c->node[n].needs_copy && px_random(c, 4); k++)
        n = (n + 1) % c->n_nodes; /* mostly one that has something to do */
    struct px_node *d = &c->node[n];
    if (!d->up)
        return;
    unsigned complete = 0;
    for (unsigned k = 0; k < c->n_nodes; k++)
        complete += !c->node[k].needs_copy;
    /* Now and then one that need not: nothing may rest on its judgement. */
    if (!d->needs_copy && (px_is_too_old(c, n) || (complete == c->n_nodes && px_random(c, 12) == 0)))
        px_need_copy(c, n);
    else if (d->needs_copy && (d->jumped == 0 || px_is_too_old(c, n) || px_random(c, 8) == 0))
        px_jump(c, n, peer);
    else if (d->needs_copy)
        px_complete(c, n);
}

static void step_repair(struct px_cluster *c, const struct plan *p)
{
    unsigned n = (unsigned)px_random(c, c->n_nodes), f = (unsigned)px_random(c, c->n_fronts);
    struct px_node *d = &c->node[n];
    if (!d->up && px_random(c, 3) == 0)
        px_restart(c, n, d->a.told - px_random(c, 1 + d->a.told - trimmed(c, p, n)));
    if ((!c->front[f].alive || c->front[f].fenced) && px_random(c, 4) == 0) {
        px_front_kill(c, f);
        /* Its configuration may be an old one. */
        if (p->change && px_random(c, 2))
            px_front_start_knowing(c, f, 1 + (uint32_t)px_random(c, (1u << c->n_nodes) - 1));
        else
            px_front_start(c, f);
    }
    if (c->front[f].conn[n] && (!d->up || c->front[f].conn[n]->node_epoch != d->epoch))
        px_disconnect(c, f, n);
    px_connect(c, f, n);
}

static void step_trim(struct px_cluster *c, const struct plan *p)
{
    unsigned n = (unsigned)px_random(c, c->n_nodes);
    /* Without copying, checkpoints go no further than the slowest replica's, whose commit survives a restart so far. */
    uint64_t low = c->node[n].a.told;
    for (unsigned k = 0; k < c->n_nodes && !p->copy; k++) {
        uint64_t told = c->node[k].up ? c->node[k].a.told : trimmed(c, p, k);
        low = told < low ? told : low;
    }
    if (c->node[n].up && low > 0)
        px_trim(c, n, 1 + px_random(c, low));
}

/* A learner is taken in, or voters come or go: one at a time mostly, several at once as the rules allow it too. */
static void step_change(struct px_cluster *c, unsigned f)
{
    const struct proposer *p = c->front[f].p;
    uint32_t voters = px_voter_mask(c, &p->committed), mask = voters;
    unsigned n = (unsigned)px_random(c, c->n_nodes), out = (unsigned)px_random(c, c->n_nodes);
    bool learns = c->front[f].link_of[n] != PROPOSER_NOBODY && p->replica[c->front[f].link_of[n]].learner;
    if (!(voters >> n & 1) && !learns) {
        px_learn(c, f, n);
        return;
    }
    if (px_random(c, 4) && (!c->node[n].needs_copy || px_random(c, 8) == 0))
        mask |= 1u << n;
    if (px_random(c, 3))
        mask &= ~(1u << out);
    if (px_random(c, 16) == 0)
        mask = (uint32_t)px_random(c, 1u << c->n_nodes);
    struct membership m = px_voters(c, mask);
    if (m.n_voters < 3 || (mask == voters && m.n_voters == p->committed.n_voters))
        return;
    if (px_random(c, 3) == 0)
        px_settle(c, f, (uint32_t)px_random(c, 1u << c->n_nodes)); /* the pipeline drains, if it can */
    if (c->front[f].p->state == PROPOSER_SERVING)
        c->n_changes += px_change_to(c, f, &m) == 0;
}

static void step(struct px_cluster *c, const struct plan *p)
{
    c->step++;
    uint64_t dice = px_random(c, 100);
    unsigned n = (unsigned)px_random(c, c->n_nodes), f = (unsigned)px_random(c, c->n_fronts);
    if (dice < 50)
        step_message(c);
    else if (dice < 65) {
        if (c->node[n].up)
            px_durable(c, n, px_random(c, 100) < p->slow_disk ? 1 : UINT32_MAX);
    } else if (dice < 73) {
        if (!c->front[f].alive || c->front[f].p->state != PROPOSER_SERVING)
            return;
        if (p->change && px_random(c, 4))
            step_change(c, f);
        else if (c->n_ops < 600)
            px_write(c, f);
    } else if (dice < 80) {
        if (p->copy && dice < (p->change ? 78 : 76)) {
            if (px_random(c, 2))
                step_copy(c);
            else
                step_trim(c, p);
            return;
        }
        c->now_ns += px_random(c, PX_BEAT_NS);
        px_tick(c, f);
    } else if (dice < 81)
        c->now_ns += px_random(c, 2 * PX_LEASE_NS);
    else if (dice < 86)
        step_catchup(c);
    else if (dice < 89)
        px_read(c, f, n);
    else if (dice < 94)
        step_fault(c, p);
    else if (dice < 99)
        step_repair(c, p);
    else
        step_trim(c, p);
}

static void fail(const struct px_cluster *c, const char *what)
{
    char buf[1024];
    fprintf(stderr, "seed %" PRIu64 " step %" PRIu64 ": %s\n", c->seed, c->step, what);
    for (unsigned n = 0; n < c->n_nodes; n++) {
        const struct acceptor *a = &c->node[n].a;
        fprintf(stderr,
                "  node %u: promised %" PRIu64 " commit %" PRIu64 " told %" PRIu64 " durable %" PRIu64
                " lost %u stream %d match %d/%" PRIu64 "%s: %s\n",
                n, a->promised.round, a->commit, a->told, a->durable, a->n_lost, (int)a->stream, a->match_valid,
                a->match, c->node[n].needs_copy ? " needs copy" : "", px_log_text(c, n, buf, sizeof buf));
    }
    for (unsigned f = 0; f < c->n_fronts; f++) {
        const struct proposer *p = c->front[f].p;
        if (!p)
            continue;
        fprintf(stderr,
                "  front %u: alive %d state %d ballot %" PRIu64 " floor %" PRIu64 " chosen %" PRIu64 " next %" PRIu64
                " missing %" PRIu64 "\n",
                f, c->front[f].alive, p->state, p->ballot.round, p->floor, p->chosen, p->next, p->n_missing);
        for (unsigned n = 0; n < c->n_nodes; n++)
            fprintf(stderr, "    replica %u: stream %d promised %d acked %" PRIu64 " commit %" PRIu64 "\n", n,
                    p->replica[n].stream, p->replica[n].has_promised, p->replica[n].acked, p->replica[n].commit);
    }
    abort();
}

/* Faults stop: all nodes are back, one front end stays. */
static void rest(struct px_cluster *c, const struct plan *p)
{
    for (unsigned n = 0; n < c->n_nodes; n++)
        if (!c->node[n].up)
            px_restart(c, n, c->node[n].a.told);
    for (unsigned f = 1; f < c->n_fronts; f++)
        px_front_kill(c, f);
    list_for_each_safe(l, &c->conns)
    {
        struct px_conn *k = container_of(l, struct px_conn, link);
        if (!k->front_up) { /* what is still under way arrives, then it is gone */
            while (px_conn_to_node(c, k))
                px_durable(c, k->node, UINT32_MAX);
            px_conn_gone(c, k);
        }
    }
    for (unsigned n = 0; n < c->n_nodes; n++)
        if (c->front[0].conn[n] && c->front[0].conn[n]->node_epoch != c->node[n].epoch)
            px_disconnect(c, 0, n);
    if (c->front[0].fenced || p->change) /* its configuration may name too few to begin with */
        px_front_kill(c, 0);
    if (!c->front[0].alive)
        px_front_start(c, 0);
    if (!px_converge(c, 0, 200)) {
        if (!c->front[0].fenced)
            fail(c, "no rest");
        px_front_kill(c, 0);
        px_front_start(c, 0);
        if (!px_converge(c, 0, 200))
            fail(c, "no rest after a fence");
    }
    uint32_t w = px_write(c, 0);
    if (!px_converge(c, 0, 20) || c->op[w].state != PX_OP_ACKED)
        fail(c, "a write is not acknowledged");
    for (uint32_t i = 0; i < c->n_ops; i++)
        if (c->op[i].state < PX_OP_ACKED)
            fail(c, "a write was forgotten");
    uint32_t voters = px_voter_mask(c, &c->front[0].p->committed);
    for (unsigned n = 0; n < c->n_nodes; n++)
        if ((voters >> n & 1) && c->node[n].a.told != c->chosen_max)
            fail(c, "a replica lags at rest");
}

struct totals {
    uint64_t steps, chosen, acked, reads, fenced, unplaced, refills, cuts, mismatch, changes, jumps, kept, completed, wiped, wanted;
};

static void run(uint64_t seed, bool trace, struct totals *t)
{
    uint64_t kind = px_random(&(struct px_cluster){.random = seed}, 8);
    bool change = kind == 1 || kind == 2;
    struct px_cluster *c = px_new_group(seed, kind < 3 ? 5 : 3, kind < 1 ? 5 : 3, 2);
    c->trace = trace;
    /* Some runs with hardly a fault, some with little else. */
    static const unsigned rate[] = {0, 3, 10, 30, 100, 300};
    struct plan p = {.steps = 200 + (unsigned)px_random(c, 2500),
                     .crash = rate[px_random(c, ARRAY_LEN(rate))],
                     .kill = rate[px_random(c, ARRAY_LEN(rate) - 1)],
                     .cut = rate[px_random(c, ARRAY_LEN(rate))],
                     .rot = px_random(c, 3) == 0 ? 300 : 0,
                     .rotten_node = (unsigned)px_random(c, c->n_nodes),
                     .change = change,
                     .copy = kind < 5,
                     .slow_disk = (unsigned)px_random(c, 101)};
    if (change) { /* takes its time */
        p.steps += 2000;
        p.crash = p.crash < 30 ? p.crash : 30;
        p.kill = p.kill < 10 ? p.kill : 10;
        p.cut = p.cut < 30 ? p.cut : 30;
    }
    c->fifo_release = px_random(c, 2);
    if (px_random(c, 4) == 0)
        c->retain_bytes = 4096 * (2 + px_random(c, 30));
    if (px_random(c, 3) == 0)
        c->lease_ns = px_random(c, 2) ? 0 : PX_LEASE_NS / 50; /* off, or so short that holders keep losing it */
    for (unsigned i = 0; i < c->n_nodes; i++)
        c->node[i].skew_ppm = (int64_t)px_random(c, 10000) - 5000;
    for (unsigned f = 0; f < c->n_fronts; f++) {
        c->front[f].skew_ppm = (int64_t)px_random(c, 10000) - 5000;
        px_front_start(c, f);
    }
    for (unsigned n = 3; n < c->n_nodes && p.change; n++) {
        px_need_copy(c, n); /* learners to be */
        px_durable(c, n, UINT32_MAX);
    }
    for (unsigned i = 0; i < p.steps; i++)
        step(c, &p);
    if (c->trace)
        fprintf(stderr, "---- rest\n");
    rest(c, &p);
    t->steps += c->step;
    t->chosen += c->chosen_max;
    for (uint32_t i = 0; i < c->n_ops; i++)
        t->acked += c->op[i].state == PX_OP_ACKED;
    t->reads += c->n_reads_ok;
    t->fenced += c->n_fenced;
    t->unplaced += c->n_unplaced;
    t->refills += c->n_refills;
    t->cuts += c->n_cuts;
    t->mismatch += c->n_mismatch;
    t->changes += c->n_changes;
    t->wiped += c->n_wiped;
    t->wanted += c->n_wanted;
    t->jumps += c->n_jumps;
    t->kept += c->n_jumps_kept;
    t->completed += c->n_completed;
    px_free(c);
}

int main(int argc, char **argv)
{
    uint64_t first = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;
    uint64_t n = argc > 2 ? strtoull(argv[2], NULL, 10) : 400;
    struct totals t = {0};
    for (uint64_t seed = first; seed < first + n; seed++)
        run(seed, argc > 3, &t);
    printf("%" PRIu64 " seeds, %" PRIu64 " steps: %" PRIu64 " slots chosen, %" PRIu64 " writes acknowledged, %" PRIu64
           " reads, %" PRIu64 " fenced, %" PRIu64 " unplaced, %" PRIu64 " cuts, %" PRIu64 " refills, %" PRIu64
           " mismatches, %" PRIu64 " membership changes, %" PRIu64 " jumps (%" PRIu64 " kept a tail), %" PRIu64 " copied, %" PRIu64
           " disks lost, %" PRIu64 " links asked for\n",
           n, t.steps, t.chosen, t.acked, t.reads, t.fenced, t.unplaced, t.cuts, t.refills, t.mismatch, t.changes,
           t.jumps, t.kept, t.completed, t.wiped, t.wanted);
    /* An explorer that reaches nothing proves nothing. */
    bool reached =
        n < 100 || (t.acked > n && t.reads && t.fenced && t.unplaced && t.cuts && t.refills && t.mismatch && t.changes && t.jumps &&
                    t.kept && t.completed && t.wiped && t.wanted);
    if (!reached)
        fprintf(stderr, "the explorer did not reach what it is for\n");
    return reached ? 0 : 1;
}
