/* Scenes: sequences of events that independent faults hardly ever bring about. A fault of a theme begins one, which
 * goes through its steps, some of them as soon as the cluster is in a state that is waited for.
 *
 *  - rot: one replica gets its entries late, then everybody dies. The newest of another's WAL rot, and these two come
 *    back without the third, which has the values: what is lost may be chosen, and nobody there can say that it is not
 *    (P3, P4, wrong 12).
 *  - stale: a replica that was away catches up from peers and gets its stream again. Its next question to them waits,
 *    while its front end loses the others and is replaced behind its back: the answer contradicts what the stream
 *    brought meanwhile (A7).
 *  - answers: a front end reaches one replica alone, whose answers wait. A rival that dies makes it prepare again, so
 *    they arrive under another ballot (P5), while one of the others is slow.
 *  - repair: data of one replica rots faster than it is repaired, while answers of its peers are slow or its own stream
 *    is (ST3, wrong 16).
 *  - tails: front ends begin a stream at a replica whose promise came too late to be heard. Either it alone holds what
 *    a front end could send nobody else, and that one's successors have got less far (wrong 2); or it is one of the two
 *    that hold something chosen, and the front end and the other one die when the stream has just begun (wrong 5).
 *  - torn log: see faults_disk.c.
 *
 * What follows is drawn from the fault that began the scene. One scene at a time. */
#include <stdlib.h>

#include "nbdserver/volume_internal.h"
#include "replica/replica_internal.h"
#include "tests/sim/cluster/faults_internal.h"
#include "tests/sim/cluster/workload_internal.h"

#define WATCH_NS (NS_PER_MS / 2)

static uint64_t now(const struct faults *f)
{
    return sim_now(f->run->world);
}

static uint64_t lease_of(const struct faults *f)
{
    return f->run->cluster->config.lease_ms * NS_PER_MS;
}

static unsigned frontend_host(unsigned frontend)
{
    return SIM_REPLICAS + frontend; /* a run with a scene has no spares */
}

static void end_scene(struct fault_action *a)
{
    a->faults->scene.on = false;
}

static void end_in(struct faults *f, uint64_t ns)
{
    fault_later(f, ns, end_scene, 0, 0, 0);
}

static void cast(struct scene *s, unsigned victim)
{
    s->victim = victim;
    s->other[0] = (victim + 1) % SIM_REPLICAS;
    s->other[1] = (victim + 2) % SIM_REPLICAS;
    if (fault_chance(&s->g, 2)) {
        unsigned x = s->other[0];
        s->other[0] = s->other[1];
        s->other[1] = x;
    }
}

static struct replica_group *group_of(const struct faults *f, unsigned replica)
{
    struct node *n = &f->run->cluster->node[replica];
    return n->reactor && n->ready ? replica_find_group(n->replica, SIM_GROUP) : NULL;
}

/* ---- rot ---- */

static void rot_crash(struct fault_action *a)
{
    struct faults *f = a->faults;
    struct scene *s = &f->scene;
    struct cluster *c = f->run->cluster;
    enum sim_crash how = fault_chance(&s->g, 2) ? SIM_POWER : SIM_KILL;
    uint64_t away_ns =
        fault_chance(&s->g, 6) ? NS_PER_MS : 3 * lease_of(f) + fault_draw_log(&s->g, 20 * NS_PER_MS, NS_PER_S);
    for (unsigned i = 0; i < SIM_FRONTENDS; i++) /* they would have the values, too */
        if (!fault_chance(&s->g, 8))
            faults_crash_frontend(f, &c->frontend[i], SIM_KILL, fault_draw_log(&s->g, NS_PER_MS / 10, 20 * NS_PER_MS));
    if (!fault_chance(&s->g, 6))
        faults_crash_node(f, &c->node[s->other[0]], how, fault_draw_log(&s->g, NS_PER_MS / 10, 10 * NS_PER_MS));
    faults_crash_node(f, &c->node[s->other[1]], how, away_ns);
    faults_crash_node(f, &c->node[s->victim], how, fault_draw_log(&s->g, NS_PER_MS / 10, 10 * NS_PER_MS));
    faults_rot_newest(f, &c->node[s->victim], &s->g, (unsigned)fault_draw_log(&s->g, 1, 12));
    end_in(f, away_ns + fault_draw_log(&s->g, 10 * NS_PER_MS, 200 * NS_PER_MS));
}

static bool play_rot(struct faults *f)
{
    struct scene *s = &f->scene;
    struct node *victim = faults_victim(f, &s->g);
    if (!victim)
        return false;
    cast(s, victim->index);
    uint64_t build_ns = fault_draw_log(&s->g, 5 * NS_PER_MS, 100 * NS_PER_MS);
    for (unsigned i = 0; i < SIM_FRONTENDS; i++)
        faults_late(f, frontend_host(i), s->other[0], build_ns + 50 * NS_PER_MS, 0, build_ns);
    fault_later(f, build_ns, rot_crash, 0, 0, 0);
    return true;
}

/* ---- stale ---- */

static void stale_replaced(struct faults *f)
{
    struct scene *s = &f->scene;
    struct frontend *old = cluster_serving(f->run->cluster, 0);
    uint64_t ns = 3 * lease_of(f) + fault_draw_log(&s->g, 20 * NS_PER_MS, 400 * NS_PER_MS);
    for (unsigned k = 0; k < 2; k++) {
        sim_hold(f->run->world, fault_host(f, s->victim), fault_host(f, s->other[k]), ns);
        if (old)
            faults_late(f, frontend_host(old->index), s->other[k], 2 * ns, 0, ns + lease_of(f));
    }
    for (unsigned i = 0; i < SIM_FRONTENDS; i++) {
        bool is_old =
            old && old->index == i; /* what it sends comes bit by bit: some of it before that answer, some after */
        faults_late(f, frontend_host(i), s->victim, is_old ? NS_PER_MS / 10 : 2 * ns,
                    is_old ? (uint32_t)fault_draw_log(&s->g, 200000, 10 * NS_PER_MS) : 0,
                    is_old ? 2 * ns : ns + lease_of(f));
    }
    fault_count(f, FAULT_STALE_STREAM);
    end_in(f, 2 * ns + fault_draw_log(&s->g, 10 * NS_PER_MS, 200 * NS_PER_MS));
}

static void stale_watch(struct fault_action *a)
{
    struct faults *f = a->faults;
    const struct replica_group *g = group_of(f, f->scene.victim);
    if (g && g->acceptor.stream != ACCEPTOR_NO_LINK && g->catchup.state == CATCHUP_RECEIVING)
        stale_replaced(f);
    else if (now(f) < f->scene.until_ns)
        fault_later(f, WATCH_NS, stale_watch, 0, 0, 0);
    else
        end_scene(a);
}

static bool play_stale(struct faults *f)
{
    struct scene *s = &f->scene;
    cast(s, (unsigned)fault_draw(&s->g, 0, SIM_REPLICAS - 1));
    uint64_t away_ns = fault_draw_log(&s->g, 20 * NS_PER_MS, 300 * NS_PER_MS),
             slow_ns = fault_draw_log(&s->g, NS_PER_MS, 16 * NS_PER_MS);
    if (!faults_crash_node(f, &f->run->cluster->node[s->victim], SIM_KILL, away_ns))
        return false;
    for (unsigned k = 0; k < 2; k++)
        faults_late(f, s->victim, s->other[k], slow_ns, 0, away_ns + NS_PER_S);
    s->until_ns = now(f) + away_ns + NS_PER_S;
    fault_later(f, away_ns, stale_watch, 0, 0, 0);
    return true;
}

/* ---- answers ---- */

static const struct proposer *proposer_of(const struct faults *f, unsigned frontend)
{
    const struct frontend *fe = &f->run->cluster->frontend[frontend];
    return fe->reactor && fe->volume ? fe->volume->group[0].proposer : NULL;
}

static void answers_arrive(struct fault_action *a)
{
    struct faults *f = a->faults;
    const struct proposer *p = proposer_of(f, f->scene.frontend);
    if (p && p->ballot.round != f->scene.round)
        fault_count(f, FAULT_LATE_ANSWERS);
    faults_release(f, f->scene.victim, frontend_host(f->scene.frontend));
    end_in(f, 3 * lease_of(f) + fault_draw_log(&f->scene.g, 10 * NS_PER_MS, 200 * NS_PER_MS));
}

/* Soon after the front end has begun anew: it needs the slow one's answers still. */
static void answers_watch_again(struct fault_action *a)
{
    struct faults *f = a->faults;
    const struct proposer *p = proposer_of(f, f->scene.frontend);
    if (p && p->ballot.round != f->scene.round && p->state == (f->scene.left ? PROPOSER_SERVING : PROPOSER_STARTING))
        fault_later(f, fault_draw(&f->scene.g, 0, 2 * NS_PER_MS), answers_arrive, 0, 0, 0);
    else if (p && now(f) < f->scene.until_ns)
        fault_later(f, WATCH_NS, answers_watch_again, 0, 0, 0);
    else
        answers_arrive(a);
}

static void answers_watch(struct fault_action *a)
{
    struct faults *f = a->faults;
    struct frontend *rival = faults_find_rival(f);
    if (!f->scene.held)
        faults_hold(f, f->scene.victim, frontend_host(f->scene.frontend));
    f->scene.held = true;
    if (rival && rival->index != f->scene.frontend) {
        faults_crash_frontend(f, rival, SIM_KILL, 8 * lease_of(f));
        f->scene.until_ns = now(f) + 6 * lease_of(f) + 200 * NS_PER_MS;
        answers_watch_again(a);
    } else if (now(f) < f->scene.until_ns) {
        fault_later(f, WATCH_NS / 4, answers_watch, 0, 0, 0);
    } else {
        answers_arrive(a);
    }
}

static bool play_answers(struct faults *f)
{
    struct scene *s = &f->scene;
    struct frontend *fe = cluster_serving(f->run->cluster, 0);
    cast(s, (unsigned)fault_draw(&s->g, 0, SIM_REPLICAS - 1));
    const struct proposer *p = fe ? proposer_of(f, fe->index) : NULL;
    if (!p)
        return false;
    s->frontend = fe->index;
    s->round = p->ballot.round;
    s->left = fault_draw(&s->g, 0, 3) > 0;
    unsigned host = frontend_host(fe->index);
    uint64_t lease_ns = lease_of(f), ns = 2 * lease_ns + fault_draw(&s->g, 0, 50 * NS_PER_MS),
             slow_ns = fault_draw_log(&s->g, NS_PER_MS, 60 * NS_PER_MS);
    for (unsigned k = 0; k < 2; k++)
        faults_late(f, host, s->other[k], ns, 0, ns);
    /* Until then it can be read from: parts of blocks are written, too. */
    s->held = fault_chance(&s->g, 2);
    if (s->held)
        faults_hold(f, s->victim, host);
    faults_late(f, s->other[1], host, slow_ns, 0, 8 * lease_ns);
    s->until_ns = now(f) + ns;
    fault_later(f, lease_ns / 2, answers_watch, 0, 0, 0);
    return true;
}

/* ---- tails ---- */

static struct frontend *find_next(struct faults *f, enum proposer_state state)
{
    for (unsigned i = 0; i < SIM_FRONTENDS; i++) {
        const struct proposer *p = proposer_of(f, i);
        if (p && p->ballot.round > f->scene.round && p->state >= state && p->state <= PROPOSER_SERVING)
            return &f->run->cluster->frontend[i];
    }
    return NULL;
}

static void kill_frontends(struct faults *f)
{
    for (unsigned i = 0; i < SIM_FRONTENDS; i++)
        faults_crash_frontend(f, &f->run->cluster->frontend[i], SIM_KILL,
                              fault_draw_log(&f->scene.g, NS_PER_MS / 10, 8 * NS_PER_MS));
}

/* Its successor finds a commit that is above where the victim's log parted from the others'. */
static void lone_tail_met(struct fault_action *a)
{
    struct faults *f = a->faults;
    struct scene *s = &f->scene;
    fault_count(f, FAULT_TAILS);
    kill_frontends(f);
    for (unsigned i = 0; i < SIM_FRONTENDS; i++)
        faults_late(f, frontend_host(i), s->victim, fault_draw_log(&s->g, NS_PER_MS / 4, 8 * NS_PER_MS), 0,
                    5 * lease_of(f));
    end_in(f, 5 * lease_of(f) + fault_draw_log(&s->g, 10 * NS_PER_MS, 100 * NS_PER_MS));
}

static void second_copy_met(struct fault_action *a)
{
    struct faults *f = a->faults;
    struct scene *s = &f->scene;
    uint64_t away_ns = 3 * lease_of(f) + fault_draw_log(&s->g, 20 * NS_PER_MS, 500 * NS_PER_MS);
    fault_count(f, FAULT_TAILS);
    kill_frontends(f);
    faults_crash_node(f, &f->run->cluster->node[s->other[1]], SIM_KILL, away_ns);
    end_in(f, away_ns + fault_draw_log(&s->g, 10 * NS_PER_MS, 100 * NS_PER_MS));
}

static void tails_watch(struct fault_action *a)
{
    struct faults *f = a->faults;
    struct scene *s = &f->scene;
    bool lone = s->left > 0;
    if (find_next(f, lone ? PROPOSER_SERVING : PROPOSER_STARTING))
        fault_later(f, fault_draw_log(&s->g, NS_PER_MS / 4, 8 * NS_PER_MS), lone ? lone_tail_met : second_copy_met, 0,
                    0, 0);
    else if (now(f) < s->until_ns)
        fault_later(f, WATCH_NS / 4, tails_watch, 0, 0, 0);
    else
        end_scene(a);
}

static void play_lone_tail(struct faults *f, unsigned frontend)
{
    struct scene *s = &f->scene;
    uint64_t ns = 3 * lease_of(f) + 50 * NS_PER_MS;
    for (unsigned k = 0; k < 2; k++)
        faults_late(f, frontend_host(frontend), s->other[k], ns, 0, ns);
    for (unsigned i = 0; i < SIM_FRONTENDS; i++)
        if (i != frontend)
            faults_late(f, frontend_host(i), s->victim, ns, 0, ns);
    s->until_ns = now(f) + ns;
    fault_later(f, lease_of(f) / 2, tails_watch, 0, 0, 0);
}

/* What is large comes slowly to both that the successor must bring level: it is begun with, no more. */
static void first_dies(struct fault_action *a)
{
    struct faults *f = a->faults;
    struct scene *s = &f->scene;
    uint64_t ns = 3 * lease_of(f) + 50 * NS_PER_MS;
    kill_frontends(f);
    for (unsigned i = 0; i < SIM_FRONTENDS; i++) {
        uint32_t slow = (uint32_t)fault_draw_log(&s->g, NS_PER_MS / 2, 8 * NS_PER_MS);
        faults_late(f, frontend_host(i), s->other[0], NS_PER_MS / 20, slow, ns);
        faults_late(f, frontend_host(i), s->victim, fault_draw_log(&s->g, NS_PER_MS / 4, 4 * NS_PER_MS), slow, ns);
    }
    s->until_ns = now(f) + ns;
    tails_watch(a);
}

static bool play_tails(struct faults *f)
{
    struct scene *s = &f->scene;
    struct frontend *fe = cluster_serving(f->run->cluster, 0);
    const struct proposer *p = fe ? proposer_of(f, fe->index) : NULL;
    cast(s, (unsigned)fault_draw(&s->g, 0, SIM_REPLICAS - 1));
    if (!p)
        return false;
    s->round = p->ballot.round;
    s->left = fault_chance(&s->g, 2);
    if (s->left) {
        play_lone_tail(f, fe->index);
        return true;
    }
    uint64_t build_ns = fault_draw_log(&s->g, 2 * NS_PER_MS, 60 * NS_PER_MS);
    for (unsigned i = 0; i < SIM_FRONTENDS; i++)
        faults_late(f, frontend_host(i), s->other[0], build_ns + 50 * NS_PER_MS, 0, build_ns);
    fault_later(f, build_ns, first_dies, 0, 0, 0);
    return true;
}

/* ---- repair ---- */

static void on_read(struct store_read *r)
{
    buf_unref(r->buf);
    free(r);
}

/* As a scrub would: front ends read mostly elsewhere. Nobody dies in this theme, so each read is answered. */
static void read_crowded(struct faults *f, struct node *n)
{
    const struct cell_area *area = &f->run->workload->cells.area[0];
    struct store_read *r = calloc(1, sizeof *r);
    assert(r);
    r->fn = on_read;
    r->group = SIM_GROUP;
    r->block = area->block;
    r->nblocks = f->run->scale.crowded < area->n_blocks ? f->run->scale.crowded : area->n_blocks;
    store_read(n->replica->store, r);
}

static void repair_step(struct fault_action *a)
{
    struct faults *f = a->faults;
    struct scene *s = &f->scene;
    struct node *n = &f->run->cluster->node[s->victim];
    if (faults_victim(f, &s->g) == n && n->reactor && n->ready && !n->paused) {
        if (fault_chance(&s->g, 2))
            faults_rot_data(f, n, &s->g, (unsigned)fault_draw_log(&s->g, 1, 64));
        if (fault_chance(&s->g, 2))
            store_checkpoint(n->replica->store);
        read_crowded(f, n);
        sim_wake(n->reactor);
    }
    if (s->left-- > 0)
        fault_later(f, fault_draw(&s->g, NS_PER_MS, 9 * NS_PER_MS), repair_step, 0, 0, 0);
    else
        end_scene(a);
}

static bool play_repair(struct faults *f)
{
    struct scene *s = &f->scene;
    struct node *victim = faults_victim(f, &s->g);
    if (!victim)
        return false;
    cast(s, victim->index);
    s->left = (unsigned)fault_draw_log(&s->g, 20, 160);
    uint64_t late_ns = fault_draw_log(&s->g, 8 * NS_PER_MS, 256 * NS_PER_MS), for_ns = s->left * 5 * NS_PER_MS;
    bool behind = fault_chance(
        &s->g, 3); /* it gets its entries late; or its peers' answers, and then it is the one to be read from */
    for (unsigned k = 0; k < 2; k++) {
        if (!behind)
            faults_late(f, s->other[k], s->victim, late_ns, 0, for_ns);
        for (unsigned i = 0; i < SIM_FRONTENDS && !behind; i++)
            faults_late(f, frontend_host(i), s->other[k], fault_draw_log(&s->g, NS_PER_MS / 4, 4 * NS_PER_MS), 0,
                        for_ns);
    }
    for (unsigned i = 0; i < SIM_FRONTENDS && behind; i++)
        faults_late(f, frontend_host(i), s->victim, fault_draw_log(&s->g, NS_PER_MS, 30 * NS_PER_MS), 0, for_ns);
    fault_later(f, 0, repair_step, 0, 0, 0);
    return true;
}

/* ---- torn log ---- */

static bool play_torn(struct faults *f)
{
    struct scene *s = &f->scene;
    cast(s, (unsigned)fault_draw(&s->g, 0, SIM_REPLICAS - 1));
    faults_tear_log(f, &f->run->cluster->node[s->victim], &s->g, (unsigned)fault_draw(&s->g, 3, 10));
    end_in(f, fault_draw_log(&s->g, 20 * NS_PER_MS, 300 * NS_PER_MS));
    return true;
}

bool faults_scene(struct faults *f, enum fault kind, struct fault_rng *g)
{
    struct scene *s = &f->scene;
    if (s->on)
        return false;
    *s = (struct scene){.on = true, .g = *g};
    bool plays = kind == FAULT_ROT_STORM      ? play_rot(f)
                 : kind == FAULT_STALE_STREAM ? play_stale(f)
                 : kind == FAULT_LATE_ANSWERS ? play_answers(f)
                 : kind == FAULT_TORN_LOG     ? play_torn(f)
                 : kind == FAULT_TAILS        ? play_tails(f)
                                              : play_repair(f);
    s->on = plays;
    if (plays)
        fault_say(f, "%s, with r%u", fault_name(kind), s->victim + 1);
    return plays && kind == FAULT_REPAIR_STORM; /* the others are counted when they come to their point */
}
