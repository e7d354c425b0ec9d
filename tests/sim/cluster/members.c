#include "tests/sim/cluster/members.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/mark.h"
#include "base/wire.h"
#include "nbdserver/volume_internal.h"
#include "replica/replica_internal.h"
#include "tests/sim/cluster/atlas.h"
#include "tests/sim/cluster/rebuild_tool.h"

#define WATCH_NS (20 * NS_PER_MS)
#define STRANGER_NS (2 * NS_PER_S)

enum job { JOB_NONE, JOB_REPLACE, JOB_ADD, JOB_REMOVE };

struct members {
    struct trial *run;
    struct fault_rng g;
    bool begun, over;
    unsigned jobs; /* left */
    bool forgets;  /* what voters there are is not written into the configuration */
    enum job job;
    struct rebuild_arguments a;
    char leaving[NAME_MAX_BYTES], joining[NAME_MAX_BYTES];
    struct node *loses;  /* REPLACE: whose disk will be lost, as soon as it may be */
    bool comes_back;     /* with a new disk under the old name */
    bool live;           /* it is alive, and is replaced all the same */
    struct node *target; /* who joins, or NULL */
    bool detached;
    uint64_t wait_until_ns; /* for a disk that may be lost */
    struct rebuild_tool *tool;
    unsigned attempts;
    char proposer[16]; /* the front end that proposes new voters */
    struct frontend *frontend_dies;
    char why[200];
};

static void job_step(struct fault_action *a);
static void lose(struct members *m);
static void name_of(const struct node *n, char *to);
static void try_again(struct members *m, uint64_t ns);

static struct members *members_of(const struct fault_action *a)
{
    return a->faults->run->members;
}

static uint64_t now(const struct members *m)
{
    return sim_now(m->run->world);
}

static void tell(struct members *m, const char *what, const struct node *n)
{
    fault_tell(m->run, "voters: %s %s", what, n ? n->host : "");
}

/* ---- machines and the configuration ---- */

static bool votes(const struct members *m, const struct node *n)
{
    return cluster_votes(&m->run->cluster->members, n);
}

/* Its section in the file; processes that run know it only when somebody tells them. */
static void write_section(struct members *m, const struct node *n)
{
    struct cluster_config *cfg = &m->run->cluster->config;
    struct replica_config *r = &cfg->replicas[n->index];
    snprintf(r->name, sizeof r->name, "replica-%u", n->index + 1);
    snprintf(r->address, sizeof r->address, "unix:%.8s", n->host);
    r->identity = n->identity;
    if (cfg->n_replicas <= n->index)
        cfg->n_replicas = n->index + 1;
}

/* A machine that does not vote: without a disk, or with that of a former voter. The file lists them without gaps. */
static struct node *find_spare(struct members *m)
{
    struct cluster *c = m->run->cluster;
    struct node *found[SIM_NODES];
    unsigned n = 0;
    for (unsigned i = 0; i < c->n_nodes; i++) {
        struct node *x = &c->node[i];
        bool listed = i < c->config.n_replicas || (i == c->config.n_replicas && x->absent);
        if (listed && !votes(m, x) && !x->formatting && !x->refused)
            found[n++] = x;
    }
    return n ? found[fault_draw(&m->g, 0, n - 1)] : NULL;
}

static struct node *find_voter(struct members *m)
{
    struct cluster *c = m->run->cluster;
    struct node *found[SIM_NODES];
    unsigned n = 0;
    for (unsigned i = 0; i < c->n_nodes; i++)
        if (votes(m, &c->node[i]))
            found[n++] = &c->node[i];
    return n ? found[fault_draw(&m->g, 0, n - 1)] : NULL;
}

static void new_disk(struct members *m, struct node *n)
{
    if (!n->absent) {
        checks_damage(m->run->checks, n->index);
        cluster_lose_disk(n);
    }
    faults_new_disk(m->run->faults, n);
    cluster_new_disk(n);
    write_section(m, n);
}

/* ---- a creation that somebody repeats ---- */

/* As the group was founded: to the identity that the disk of this machine had then. Whoever is another disk must refuse it. */
struct founder {
    struct members *members;
    struct sim_reactor *reactor;
    struct wire_peer peer;
    struct node *node;
};

static struct uuid founding_identity(const struct cluster *c, unsigned i)
{
    return c->founders.voter[i];
}

static void founder_open(struct wire_peer *p)
{
    struct founder *x = p->user;
    struct msg m = {.type = MSG_HELLO, .u.hello = {.version = WIRE_VERSION, .role = ROLE_TOOL, .cluster = x->members->run->cluster->config.id}};
    strcpy(m.u.hello.name, "founder");
    wire_peer_send(p, &m);
}

static void founder_msg(struct wire_peer *p, const struct msg *m, struct buf *payload)
{
    struct founder *x = p->user;
    struct cluster *c = x->members->run->cluster;
    (void)payload;
    if (m->type == MSG_HELLO) {
        struct msg create = {.type = MSG_CREATE, .group = SIM_GROUP, .target = founding_identity(c, x->node->index)};
        create.u.create.size_blocks = c->sizes.volume_bytes / BLOCK_SIZE;
        create.u.create.membership = c->founders;
        wire_peer_send(p, &create);
    } else if (m->type == MSG_CREATED && m->u.created.error == 0) {
        cluster_fail(c, "%s founds the group under the identity of a disk that is lost", x->node->host);
    } else {
        MARK("operator: a creation is repeated on a new disk");
    }
}

static void founder_closed(struct wire_peer *p, int err, const char *reason)
{
    (void)p;
    (void)err;
    (void)reason;
}

static const struct wire_handler founder_handler = {.on_open = founder_open, .on_msg = founder_msg, .on_closed = founder_closed};

static void founder_leaves(void *user)
{
    struct founder *x = user;
    sim_reactor_crash(x->reactor, SIM_KILL);
}

static void found_again(struct fault_action *a)
{
    struct members *m = members_of(a);
    struct node *n = &m->run->cluster->node[a->a];
    struct founder *x = calloc(1, sizeof *x);
    char name[24], address[32];
    assert(x);
    sim_bury(x);
    x->members = m;
    x->node = n;
    if (!n->ready || n->index >= SIM_REPLICAS || uuid_equal(&n->identity, &m->run->cluster->founders.voter[n->index]))
        return;
    snprintf(name, sizeof name, "founder%u", ++m->run->n_tools);
    snprintf(address, sizeof address, "unix:%.8s", n->host);
    x->reactor = sim_reactor_new(m->run->world, name, 4 * SIM_MIB);
    int err = wire_peer_connect(&x->peer, sim_reactor_io(x->reactor), address, &founder_handler, x);
    assert(err == 0);
    sim_at(m->run->world, now(m) + STRANGER_NS, founder_leaves, x);
}

/* ---- the front ends of a volume that is detached meanwhile ---- */

static void start_frontends(struct members *m)
{
    struct cluster *c = m->run->cluster;
    for (unsigned i = 0; i < SIM_FRONTENDS; i++) {
        c->frontend[i].kept_down = false;
        if (m->detached && !c->frontend[i].reactor)
            cluster_start_frontend(&c->frontend[i]);
    }
    m->detached = false;
}

static void detach(struct members *m)
{
    struct cluster *c = m->run->cluster;
    tell(m, "detached for it", NULL);
    MARK("operator: voters change while the volume is detached");
    m->detached = true;
    for (unsigned i = 0; i < SIM_FRONTENDS; i++) {
        struct frontend *f = &c->frontend[i];
        f->kept_down = true;
        if (f->reactor && !f->paused && !f->draining && fault_chance(&m->g, 2))
            cluster_stop_frontend(f);
        else if (!f->draining)
            cluster_crash_frontend(f, SIM_KILL);
    }
}

/* ---- what is aimed at the moment of the change ---- */

/* Links between the front end and some replicas, or these themselves, fail while the new voters are proposed; or the front end does. */
static void at_the_change(void *user)
{
    struct members *m = user;
    struct cluster *c = m->run->cluster;
    struct faults *f = m->run->faults;
    struct frontend *fe = NULL;
    if (m->over || c->broken)
        return;
    for (unsigned i = 0; i < SIM_SESSIONS; i++)
        if (strcmp(c->frontend[i].host, m->proposer) == 0)
            fe = &c->frontend[i];
    if (!fe || !fe->reactor)
        return;
    MARK("operator: trouble at the moment of a change");
    uint64_t ns = fault_draw_log(&m->g, NS_PER_MS, NS_PER_S), how = fault_draw(&m->g, 0, 7);
    unsigned mask = (unsigned)fault_draw(&m->g, 1, (1u << c->n_nodes) - 2);
    for (unsigned i = 0; i < c->n_nodes && how < 6; i++) {
        if (!(mask >> i & 1) || c->node[i].absent)
            continue;
        if (how < 4)
            faults_late(f, c->n_nodes + fe->index, i, ns, 0, ns);
        else
            faults_crash_node(f, &c->node[i], how == 4 ? SIM_KILL : SIM_POWER, ns);
    }
    tell(m, how < 4 ? "the change comes late to some" : how < 6 ? "some die at the change" : "the front end dies at the change", NULL);
    if (how == 3 || how > 5)
        m->frontend_dies = fe;
}

static void frontend_dies(void *user)
{
    struct members *m = user;
    struct frontend *fe = m->frontend_dies;
    m->frontend_dies = NULL;
    if (fe && !m->over && !m->run->cluster->broken)
        faults_crash_frontend(m->run->faults, fe, fault_chance(&m->g, 2) ? SIM_KILL : SIM_POWER, fault_draw_log(&m->g, NS_PER_MS, NS_PER_S));
}

static void on_voters_proposed(void *user, const char *host)
{
    struct trial *r = user;
    struct members *m = r->members;
    if (!m || m->over || !fault_chance(&m->g, 2))
        return;
    snprintf(m->proposer, sizeof m->proposer, "%.15s", host);
    sim_at(r->world, now(m), at_the_change, m);
    sim_at(r->world, now(m) + fault_draw_log(&m->g, 20000, 4 * NS_PER_MS), frontend_dies, m);
}

/* ---- one change ---- */

static void job_done(struct members *m)
{
    start_frontends(m);
    m->job = JOB_NONE;
    m->tool = NULL;
    if (m->jobs > 0)
        m->jobs--;
    if (m->jobs > 0 && !m->over)
        fault_surely(m->run->faults, fault_draw_log(&m->g, 10 * NS_PER_MS, 2 * NS_PER_S), job_step, 0, 0, 0);
}

/* A voter without which no disk says who votes now, and who voted before as well: those that are left may be no majority of the
 * old ones. When a change is called done there must be none. */
static struct node *find_indispensable(struct members *m)
{
    struct cluster *c = m->run->cluster;
    struct node *found = NULL, *knows = NULL;
    for (unsigned i = 0; i < c->n_nodes; i++) {
        struct node *n = &c->node[i];
        if (!votes(m, n) || n->absent)
            continue;
        if (checks_durable_commit(m->run->checks, i) >= c->members.slot) {
            if (knows)
                return NULL;
            knows = n;
        }
        if (n != m->target)
            found = n;
    }
    return !knows ? found : knows != m->target ? knows : NULL;
}

/* The command says that it is done: from now on a disk may be lost. All replicas lose power in this very moment, and one of them does not come back. */
static bool lose_at_once(struct members *m)
{
    struct cluster *c = m->run->cluster;
    struct node *n = find_voter(m), *worst = find_indispensable(m);
    if (worst)
        n = worst;
    if (!n || !faults_may_lose(m->run->faults, n))
        return false;
    MARK_IF(worst, "operator: the disk is lost without which none says who votes");
    MARK("operator: power fails and a disk is lost as soon as voters are changed");
    for (unsigned i = 0; i < c->n_nodes; i++)
        if (&c->node[i] != n)
            faults_crash_node(m->run->faults, &c->node[i], SIM_POWER, fault_draw_log(&m->g, NS_PER_MS, 200 * NS_PER_MS));
    for (unsigned i = 0; worst && i < SIM_SESSIONS; i++) /* they know it, too */
        if (c->frontend[i].reactor)
            faults_crash_frontend(m->run->faults, &c->frontend[i], SIM_POWER, fault_draw_log(&m->g, NS_PER_MS, 200 * NS_PER_MS));
    start_frontends(m);
    name_of(n, m->leaving);
    m->joining[0] = 0;
    m->job = JOB_REPLACE;
    m->attempts = 0;
    m->live = false;
    m->comes_back = true;
    m->target = n;
    m->loses = n;
    lose(m);
    try_again(m, fault_draw_log(&m->g, 10 * NS_PER_MS, NS_PER_S));
    return true;
}

static void on_ended(void *user, int err, const char *why)
{
    struct members *m = user;
    bool done_before = rebuild_tool_was_done_before(m->tool);
    m->tool = NULL;
    snprintf(m->why, sizeof m->why, "%.180s", why);
    fault_tell(m->run, "qbd rebuild: %s%s", err ? "failed: " : "done", err ? why : "");
    if (done_before) {
        MARK("operator: sees by the status that a command that was killed had changed the voters");
        tell(m, "changed by an earlier command", NULL);
        job_done(m);
        return;
    }
    if (err) {
        try_again(m, m->over ? NS_PER_S : fault_draw_log(&m->g, 20 * NS_PER_MS, 2 * NS_PER_S));
        return;
    }
    MARK("operator: voters changed");
    m->run->cluster->said_done = m->run->cluster->members.slot;
    bool now_of_all_times = !m->over && (fault_chance(&m->g, 4) || find_indispensable(m));
    if (!now_of_all_times || !lose_at_once(m))
        job_done(m);
}

/* New voters are proposed, and it is not known what becomes of that. */
static bool change_is_open(const struct members *m)
{
    const struct cluster *c = m->run->cluster;
    for (unsigned i = 0; i < c->n_nodes; i++) {
        const struct replica_group *g = c->node[i].ready ? replica_find_group(c->node[i].replica, SIM_GROUP) : NULL;
        if (g && g->acceptor.has_uncommitted)
            return true;
    }
    for (unsigned i = 0; i < SIM_SESSIONS; i++)
        if (c->frontend[i].volume && c->frontend[i].volume->group[0].proposer && c->frontend[i].volume->group[0].proposer->has_uncommitted)
            return true;
    return false;
}

/* The command dies, or the disk of whoever joins does; then it is begun again. */
static void disturb(struct fault_action *a)
{
    struct members *m = members_of(a);
    if (m->over || !m->tool || a->x != m->attempts)
        return;
    bool disk = m->target && !m->target->formatting && !m->target->absent && !votes(m, m->target) && !change_is_open(m) && fault_chance(&m->g, 4);
    if (!disk && fault_chance(&m->g, 4)) {
        rebuild_tool_interrupt(m->tool);
        return;
    }
    MARK("operator: the command that changes voters is killed");
    tell(m, "the command is killed", NULL);
    rebuild_tool_kill(m->tool);
    m->tool = NULL;
    struct cluster *c = m->run->cluster;
    if (disk && !membership_has_voter(&c->members, &m->target->identity) && faults_may_lose(m->run->faults, m->target)) {
        MARK("operator: a learner's disk is lost");
        tell(m, "the disk is lost that copies, of", m->target);
        new_disk(m, m->target);
    }
    try_again(m, fault_draw_log(&m->g, NS_PER_MS, 3 * NS_PER_S));
}

/* The disk of whoever joins has rotted so far that it is refused: nothing but another one helps, and nobody but the operator can give it. What it held is gone either way. */
static bool renew_target(struct members *m)
{
    struct node *n = m->target;
    bool again = m->job == JOB_REPLACE && m->joining[0] == 0; /* it votes by now, and is to be replaced once more under the same name */
    if (!n || !n->refused || n->formatting || (votes(m, n) && !again))
        return false;
    MARK("operator: a refused disk of who joins is replaced");
    tell(m, "a disk is refused, and replaced, of", n);
    new_disk(m, n);
    return true;
}

static void watch(struct fault_action *a)
{
    struct members *m = members_of(a);
    if (!m->tool || a->x != m->attempts || m->run->cluster->broken)
        return;
    if (renew_target(m)) {
        rebuild_tool_kill(m->tool);
        m->tool = NULL;
        try_again(m, NS_PER_S);
        return;
    }
    fault_surely(m->run->faults, NS_PER_S, watch, 0, 0, m->attempts);
}

static void run_tool(struct fault_action *a)
{
    struct members *m = members_of(a);
    if (m->tool || m->job == JOB_NONE || m->run->cluster->broken)
        return;
    if (renew_target(m)) {
        try_again(m, NS_PER_S);
        return;
    }
    if (m->over || ++m->attempts > 6)
        start_frontends(m);
    m->a = (struct rebuild_arguments){.lost = m->job == JOB_REPLACE ? m->leaving : NULL,
                                      .onto = m->job == JOB_REPLACE && m->joining[0] ? m->joining : NULL,
                                      .add = m->job == JOB_ADD ? m->joining : NULL,
                                      .remove = m->job == JOB_REMOVE ? m->leaving : NULL,
                                      .live = m->live};
    struct node *slow = m->target && !m->over && fault_chance(&m->g, 2) ? find_voter(m) : NULL;
    if (slow && !slow->formatting) { /* a donor that hears of more commits than it has applied */
        MARK("operator: a donor's disk is slow");
        faults_slow_disk(m->run->faults, slow, fault_draw(&m->g, 20, 100), 2 * NS_PER_S);
    }
    m->tool = rebuild_tool_start(m->run, &m->a, on_ended, m);
    fault_surely(m->run->faults, NS_PER_S, watch, 0, 0, m->attempts);
    if (!m->over && fault_chance(&m->g, 2))
        fault_later(m->run->faults, fault_draw_log(&m->g, 5 * NS_PER_MS, 8 * NS_PER_S), disturb, 0, 0, m->attempts);
}

static void try_again(struct members *m, uint64_t ns)
{
    fault_surely(m->run->faults, ns, run_tool, 0, 0, 0);
}

static void name_of(const struct node *n, char *to)
{
    snprintf(to, NAME_MAX_BYTES, "replica-%u", n->index + 1);
}

/* The machine where the data goes: a spare with a new disk, or a former voter as it is. */
static bool prepare_target(struct members *m, struct node *n)
{
    if (!n)
        return false;
    m->target = n;
    name_of(n, m->joining);
    bool knows = !n->absent && n->disks > 0 && n->ready && replica_find_group(n->replica, SIM_GROUP);
    if (n->absent || !knows || !fault_chance(&m->g, 3)) {
        if (!n->absent && !faults_may_lose(m->run->faults, n))
            return false;
        new_disk(m, n);
    } else {
        MARK("operator: a former voter is to vote again");
    }
    return true;
}

static bool begin_replace(struct members *m)
{
    struct node *n = find_voter(m);
    uint64_t how = fault_draw(&m->g, 0, 9);
    if (!n)
        return false;
    name_of(n, m->leaving);
    m->joining[0] = 0;
    m->target = NULL;
    m->loses = how < 8 ? n : NULL; /* else it is alive, and is to be replaced all the same */
    m->comes_back = how < 6;
    m->live = how >= 8;
    bool onto = how >= 4; /* another machine */
    if (onto && !prepare_target(m, find_spare(m)))
        return false;
    if (!onto)
        m->target = n;
    m->job = JOB_REPLACE;
    m->wait_until_ns = now(m) + 10 * NS_PER_S;
    tell(m, onto ? "another machine replaces" : "a new disk replaces that of", n);
    return true;
}

static bool begin_add(struct members *m)
{
    if (!prepare_target(m, find_spare(m)))
        return false;
    m->job = JOB_ADD;
    m->loses = NULL;
    tell(m, "they get company of", m->target);
    return true;
}

static bool begin_remove(struct members *m)
{
    struct node *n = find_voter(m);
    if (!n || m->run->cluster->members.n_voters <= SIM_REPLICAS)
        return false;
    name_of(n, m->leaving);
    m->joining[0] = 0;
    m->target = NULL;
    m->loses = NULL;
    m->job = JOB_REMOVE;
    tell(m, "they lose", n);
    return true;
}

static bool begin(struct members *m)
{
    uint64_t x = fault_draw(&m->g, 0, 9);
    m->attempts = 0;
    m->live = false;
    switch (m->run->cluster->members.n_voters) {
    case 3:
        return x < 6 ? begin_replace(m) : begin_add(m);
    case 4:
        return x < 5 ? begin_add(m) : x < 8 ? begin_remove(m) : begin_replace(m);
    default:
        return x < 6 ? begin_remove(m) : begin_replace(m);
    }
}

static void lose(struct members *m)
{
    struct node *n = m->loses;
    m->loses = NULL;
    MARK("operator: a voter's disk is lost for good");
    tell(m, "the disk is lost of", n);
    fault_count(m->run->faults, FAULT_DISK_LOST);
    checks_damage(m->run->checks, n->index);
    cluster_lose_disk(n);
    faults_new_disk(m->run->faults, n);
    if (!m->comes_back && m->joining[0])
        return;
    /* Before anybody asks for a rebuild it starts under its old name, with the file as it was, or with its new identity written down. */
    cluster_new_disk(n);
    if (m->joining[0] == 0 || fault_chance(&m->g, 2))
        write_section(m, n);
    if (fault_chance(&m->g, 2))
        fault_later(m->run->faults, fault_draw_log(&m->g, 10 * NS_PER_MS, NS_PER_S), found_again, n->index, 0, 0);
}

static void job_step(struct fault_action *a)
{
    struct members *m = members_of(a);
    if (m->job == JOB_NONE) {
        if (m->over)
            return;
        if (!begin(m)) {
            m->job = JOB_NONE;
            fault_surely(m->run->faults, 5 * WATCH_NS, job_step, 0, 0, 0);
            return;
        }
    }
    if (m->loses && !faults_may_lose(m->run->faults, m->loses)) {
        if (!m->over && now(m) < m->wait_until_ns) {
            fault_surely(m->run->faults, WATCH_NS, job_step, 0, 0, 0);
            return;
        }
        m->loses = NULL; /* it lives on, and is replaced by another machine, or not at all */
        m->live = true;
        if (!m->joining[0]) {
            job_done(m);
            return;
        }
    }
    if (m->loses)
        lose(m);
    if (!m->over && fault_chance(&m->g, 4))
        detach(m);
    try_again(m, m->over ? 0 : fault_draw_log(&m->g, 10 * NS_PER_MS, 2 * NS_PER_S));
}

bool fault_forgets_record(const struct trial *r)
{
    return r->members->forgets;
}

/* ---- the run ---- */

void members_draw(struct faults *f)
{
    struct trial *r = f->run;
    struct fault_rng g = fault_stream(f, UINT64_MAX - 4);
    const struct run_options *o = r->options;
    bool themed = f->theme == THEME_MEMBERS;
    bool plain = o->storms || o->beyond || r->scale.large || r->scale.scattered || f->theme != THEME_NONE || o->theme != THEME_DRAWN;
    if (!themed && (plain || !fault_chance(&g, 16)))
        return;
    struct members *m = calloc(1, sizeof *m);
    assert(m);
    r->members = m;
    m->run = r;
    m->g = g;
    m->jobs = (unsigned)(themed ? fault_draw(&m->g, 1, 5) : fault_draw(&m->g, 1, 2));
    m->forgets = fault_chance(&m->g, 4);
    r->scale.sizes.spares = true;
    f->total -= f->weight[FAULT_DISK_LOST];
    f->weight[FAULT_DISK_LOST] = 0;
    if (f->total == 0)
        f->total = f->weight[FAULT_KILL] = 1;
}

void members_start(struct trial *r)
{
    struct members *m = r->members;
    if (!m || r->cluster->broken)
        return;
    m->begun = true;
    r->cluster->on_voters_proposed = on_voters_proposed;
    fault_surely(r->faults, fault_draw_log(&m->g, 10 * NS_PER_MS, r->scale.fault_ns / 2), job_step, 0, 0, 0);
}

/* Whoever could not be told where replicas live says so, and is started again by the operator, whom the command tells as much. */
static bool has_old_file(const struct cluster_config *file, const struct cluster_config *has)
{
    bool old = file->n_replicas != has->n_replicas;
    for (uint32_t i = 0; i < file->n_replicas && !old; i++)
        old = !uuid_equal(&file->replicas[i].identity, &has->replicas[i].identity);
    return old;
}

void members_stop(struct trial *r)
{
    struct members *m = r->members;
    struct cluster *c = r->cluster;
    if (!m)
        return;
    m->over = true;
    m->jobs = 0;
    start_frontends(m);
    for (unsigned i = 0; i < c->n_nodes; i++)
        if (c->node[i].reactor && has_old_file(&c->config, &c->node[i].config) && !c->node[i].formatting)
            cluster_crash_node(&c->node[i], SIM_KILL);
    for (unsigned i = 0; i < SIM_FRONTENDS; i++)
        if (c->frontend[i].reactor && has_old_file(&c->config, &c->frontend[i].config) && !c->frontend[i].draining)
            cluster_crash_frontend(&c->frontend[i], SIM_KILL);
}

bool members_are_idle(const struct trial *r)
{
    const struct members *m = r->members;
    return !m || (m->job == JOB_NONE && !r->cluster->frontend[SIM_SESSIONS - 1].reactor);
}

const char *members_describe(const struct trial *r)
{
    static char text[500];
    const struct members *m = r->members;
    snprintf(text, sizeof text, "%s (last failure: %s)", m->tool ? rebuild_tool_said(m->tool) : "waits", m->why);
    return text;
}

void members_free(struct trial *r)
{
    free(r->members);
    r->members = NULL;
}
