#include "tests/sim/cluster/rebuild_tool.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <ucontext.h>

#include "base/mark.h"
#include "base/wire.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

#define STACK_BYTES (256u << 10)
#define ARENA_BYTES (4 * SIM_MIB)

/* A connection to a daemon. */
struct call {
    struct wire_peer peer;
    struct rebuild_tool *tool;
    uint64_t timeout_ns;
    bool greeted, closed, answered;
    struct uuid identity; /* of who greeted */
    enum msg_type want;
    struct msg answer;
    json_t *status; /* an answer's, parsed where it came */
    char refused[160];
};

struct rebuild_tool {
    struct trial *run;
    struct sim_reactor *reactor;
    struct rebuild_arguments arguments;
    void (*ended)(void *user, int err, const char *why);
    void *user;
    struct rebuild b;
    ucontext_t own, world;
    uint8_t *stack;
    bool over;        /* ended or killed */
    bool finished;    /* the code has returned */
    bool done_before; /* it had nothing to do, and the status shows why */
    bool interrupted; /* SIGTERM */
    int err;
    struct why why;
    char said[256];
    /* for the address sanitizer */
    void *fake;
    const void *world_stack;
    size_t world_stack_bytes;
};

static struct rebuild_tool *running; /* whose code runs now */

/* ---- the coroutine ---- */

static void switch_to(struct rebuild_tool *t, bool into)
{
#ifdef __SANITIZE_ADDRESS__
    void *fake = NULL;
    if (into)
        __sanitizer_start_switch_fiber(&fake, t->stack, STACK_BYTES);
    else
        __sanitizer_start_switch_fiber(t->finished ? NULL : &t->fake, t->world_stack, t->world_stack_bytes);
#endif
    swapcontext(into ? &t->world : &t->own, into ? &t->own : &t->world);
#ifdef __SANITIZE_ADDRESS__
    if (into)
        __sanitizer_finish_switch_fiber(fake, NULL, NULL);
    else
        __sanitizer_finish_switch_fiber(t->fake, &t->world_stack, &t->world_stack_bytes);
#endif
}

/* The one who was to leave does not vote, everybody who does is in the configuration and holds everything: an earlier command
 * that was killed had got so far, maybe with another one who joined. The command cannot know what was wanted then; people can. */
static bool is_done_by_the_status(struct rebuild *b, const char *leaving)
{
    struct why ignored;
    rebuild_look(b);
    if (rebuild_read_membership(b, &ignored) < 0)
        return false;
    for (unsigned i = 0; i < b->members.n_voters; i++) {
        const struct replica_view *r = rebuild_view_of(b, &b->members.voter[i]);
        if (!r || strcmp(r->config->name, leaving) == 0)
            return false;
    }
    return rebuild_complete_voters(b, NULL) == b->members.n_voters;
}

/* Told that there is nothing to rebuild, the operator asks for the status, and writes down who votes. */
static void look_again(struct rebuild_tool *t)
{
    const char *leaving = t->arguments.lost ? t->arguments.lost : t->arguments.remove;
    struct why ignored;
    if (!leaving || !strstr(t->why.text, "there is nothing to rebuild"))
        return;
    memset(t->b.view, 0, sizeof t->b.view); /* what they held is gone */
    t->done_before = is_done_by_the_status(&t->b, leaving) && rebuild_record(&t->b, &ignored) == 0;
    for (uint32_t i = 0; i < t->b.conf.n_replicas; i++)
        replica_view_drop(&t->b.view[i]);
}

static void body(void)
{
    struct rebuild_tool *t = running;
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(NULL, &t->world_stack, &t->world_stack_bytes);
#endif
    t->err = rebuild_run(&t->b, &t->arguments, &t->why);
    if (t->err)
        look_again(t);
    t->finished = true;
    switch_to(t, false);
    abort(); /* nobody goes on with what has finished */
}

static void go_on(void *user)
{
    struct rebuild_tool *t = user;
    if (t->over || t->run->cluster->broken)
        return;
    assert(!running);
    running = t;
    switch_to(t, true);
    running = NULL;
    if (!t->finished || t->over) {
        sim_wake(t->reactor);
        return;
    }
    t->over = true;
    sim_reactor_crash(t->reactor, SIM_KILL);
    t->ended(t->user, t->err, t->why.text);
}

static uint64_t now(const struct rebuild_tool *t)
{
    return sim_now(t->run->world);
}

static void wake(struct rebuild_tool *t, uint64_t at_ns)
{
    sim_at(t->run->world, at_ns, go_on, t);
}

/* Until done(c), or so long. Returns done(c). */
static bool wait_for(struct rebuild_tool *t, bool (*done)(const struct call *c), const struct call *c, uint64_t ns)
{
    uint64_t until = now(t) + ns;
    wake(t, until);
    while (!(c && done(c)) && now(t) < until)
        switch_to(t, false);
    return c && done(c);
}

/* ---- the clock ---- */

uint64_t now_ms(void)
{
    return 1000 + now(running) / NS_PER_MS;
}

void sleep_ms(unsigned ms)
{
    wait_for(running, NULL, NULL, ms * NS_PER_MS);
}

/* ---- connections ---- */

static void on_open(struct wire_peer *p)
{
    struct call *c = p->user;
    struct msg m = {.type = MSG_HELLO, .u.hello = {.version = WIRE_VERSION, .role = ROLE_TOOL, .cluster = c->tool->b.conf.id}};
    strcpy(m.u.hello.name, "qbd");
    wire_peer_send(p, &m);
}

static void on_msg(struct wire_peer *p, const struct msg *m, struct buf *payload)
{
    struct call *c = p->user;
    (void)payload;
    if (m->type == MSG_HELLO) {
        c->greeted = true;
        c->identity = m->u.hello.identity;
    } else if (m->type == MSG_REFUSED) {
        snprintf(c->refused, sizeof c->refused, "refused: %.120s", m->u.refused.reason);
    } else if (m->type == c->want && !c->answered) {
        c->answer = *m;
        c->answered = true;
        if (m->type == MSG_STATUS_REPLY)
            c->status = json_loadb(m->u.status_reply.json, m->u.status_reply.len, 0, NULL);
    }
    wake(c->tool, now(c->tool));
}

static void on_closed(struct wire_peer *p, int err, const char *reason)
{
    struct call *c = p->user;
    c->closed = true;
    if (!c->refused[0])
        snprintf(c->refused, sizeof c->refused, "%s", reason ? reason : err ? strerror(err < 0 ? -err : err) : "the daemon closed the connection");
    wake(c->tool, now(c->tool));
}

static const struct wire_handler handler = {.on_open = on_open, .on_msg = on_msg, .on_closed = on_closed};

static bool is_greeted(const struct call *c)
{
    return c->greeted || c->closed || c->refused[0];
}

static bool is_answered(const struct call *c)
{
    return c->answered || c->closed || c->refused[0];
}

int client_open(struct client *c, const char *address, const struct uuid *cluster, const struct uuid *target, unsigned timeout_ms, struct why *why)
{
    struct rebuild_tool *t = running;
    struct call *call = calloc(1, sizeof *call);
    assert(call);
    sim_bury(call);
    (void)cluster;
    *call = (struct call){.tool = t, .timeout_ns = timeout_ms * NS_PER_MS};
    *c = (struct client){.fd = -1, .body = (uint8_t *)call, .target = *target};
    if (wire_peer_connect(&call->peer, sim_reactor_io(t->reactor), address, &handler, call) < 0)
        return because(why, "cannot connect to %s", address);
    bool came = wait_for(t, is_greeted, call, call->timeout_ns);
    if (came && call->greeted && (uuid_is_zero(target) || uuid_equal(&call->identity, target)))
        return 0;
    client_close(c);
    return because(why, "%s: %s", address, call->greeted ? "another replica answers there" : call->refused[0] ? call->refused : "no answer in time");
}

int client_call(struct client *c, const struct msg *m, enum msg_type answer, struct msg *ret, struct why *why)
{
    struct call *call = (struct call *)(void *)c->body;
    struct rebuild_tool *t = call->tool;
    struct node *n = m->type == MSG_CREATE ? cluster_node_of(t->run->cluster, &m->target) : NULL;
    if (n)
        n->replaced = false; /* from now on it may have the group */
    call->want = answer;
    call->answered = false;
    wire_peer_send(&call->peer, m);
    sim_wake(t->reactor);
    wait_for(t, is_answered, call, call->timeout_ns);
    if (!call->answered)
        return because(why, "%s", call->refused[0] ? call->refused : "no answer in time");
    *ret = call->answer;
    return 0;
}

void client_close(struct client *c)
{
    struct call *call = (struct call *)(void *)c->body;
    if (!call->closed)
        wire_peer_close(&call->peer);
}

json_t *client_status(const char *address, const struct uuid *cluster, const struct uuid *target, unsigned timeout_ms, struct why *why)
{
    struct client c;
    struct msg ask = {.type = MSG_STATUS, .target = *target}, answer;
    if (client_open(&c, address, cluster, target, timeout_ms, why) < 0)
        return NULL;
    json_t *s = client_call(&c, &ask, MSG_STATUS_REPLY, &answer, why) == 0 ? ((struct call *)(void *)c.body)->status : NULL;
    client_close(&c);
    return s;
}

/* ---- a session for a volume that nobody has ---- */

static struct frontend *session_of(const struct rebuild_tool *t)
{
    return &t->run->cluster->frontend[SIM_SESSIONS - 1];
}

int rebuild_session_start(struct rebuild *b, char ret_status[CONFIG_ADDRESS_MAX], struct why *why)
{
    struct frontend *f = session_of(running);
    (void)why;
    MARK("operator: a session of the tool's own");
    snprintf(ret_status, CONFIG_ADDRESS_MAX, "%s", f->status_address);
    b->session = 1;
    f->kept_down = false;
    if (!f->reactor)
        cluster_start_frontend(f);
    return 0;
}

bool rebuild_session_runs(struct rebuild *b, struct why *why)
{
    struct cluster *c = running->run->cluster;
    if (session_of(running)->reactor || c->forced) /* or it is about to: no front end starts while a take-over is forced */
        return true;
    b->session = -1;
    because(why, "the session ended");
    return false;
}

static void stop_session(struct frontend *f)
{
    f->kept_down = true;
    if (f->reactor && !f->paused && !f->draining)
        cluster_stop_frontend(f);
}

void rebuild_session_end(struct rebuild *b)
{
    struct rebuild_tool *t = running;
    struct frontend *f = session_of(t);
    if (b->session >= 0) {
        stop_session(f);
        for (unsigned i = 0; i < 100 && f->reactor; i++)
            sleep_ms(100);
        cluster_crash_frontend(f, SIM_KILL);
    }
    b->session = -1;
    b->n_frontends -= b->session_listed;
    b->session_listed = false;
}

/* ---- files and people ---- */

/* The operator writes it down as he is told, or forgets it. */
int rebuild_record(struct rebuild *b, struct why *why)
{
    struct cluster *c = running->run->cluster;
    struct volume_config *v = &c->config.volumes[0];
    uint32_t replica[MEMBERS_MAX];
    for (unsigned i = 0; i < b->members.n_voters; i++) {
        const struct replica_config *rc = config_find_identity(&b->conf, &b->members.voter[i]);
        if (!rc)
            return because(why, "the volume votes with a replica that the configuration does not have");
        replica[i] = (uint32_t)(rc - b->conf.replicas);
    }
    if (fault_forgets_record(running->run)) {
        MARK("operator: who votes is not written down");
        return 0;
    }
    v->n_replicas = b->members.n_voters;
    memcpy(v->replica, replica, sizeof replica);
    return 0;
}

void rebuild_show(struct rebuild *b, const struct copy_progress *p)
{
    (void)b;
    snprintf(running->said, sizeof running->said, "copying: %s, %lld bytes left", p->state, (long long)p->left_bytes);
}

void rebuild_note(const struct rebuild *b, const char *fmt, ...)
{
    struct rebuild_tool *t = running;
    va_list ap;
    (void)b;
    va_start(ap, fmt);
    vsnprintf(t->said, sizeof t->said, fmt, ap);
    va_end(ap);
    fault_tell(t->run, "qbd rebuild: %s", t->said);
}

bool rebuild_interrupted(void)
{
    return running->interrupted;
}

struct process cluster_process(const struct cluster_dir *d, const char *name)
{
    (void)d;
    (void)name;
    abort(); /* there is no local cluster here */
}

bool cluster_replica_formatted(const struct cluster_dir *d, const char *name)
{
    (void)d;
    (void)name;
    abort();
}

/* ---- its life ---- */

struct rebuild_tool *rebuild_tool_start(struct trial *r, const struct rebuild_arguments *a, void (*ended)(void *user, int err, const char *why), void *user)
{
    struct rebuild_tool *t = calloc(1, sizeof *t);
    char host[24];
    assert(t);
    t->stack = malloc(STACK_BYTES);
    assert(t->stack);
    sim_bury(t);
    sim_bury(t->stack);
    t->run = r;
    t->arguments = *a;
    t->ended = ended;
    t->user = user;
    t->b.session = -1;
    t->b.conf = r->cluster->config;
    for (unsigned i = 0; i < SIM_FRONTENDS; i++)
        snprintf(t->b.frontend[t->b.n_frontends++], CONFIG_ADDRESS_MAX, "%s", r->cluster->frontend[i].status_address);
    snprintf(host, sizeof host, "rebuild%u", ++r->n_tools);
    t->reactor = sim_reactor_new(r->world, host, ARENA_BYTES);
    getcontext(&t->own);
    t->own.uc_stack.ss_sp = t->stack;
    t->own.uc_stack.ss_size = STACK_BYTES;
    makecontext(&t->own, body, 0);
    wake(t, now(t));
    return t;
}

void rebuild_tool_interrupt(struct rebuild_tool *t)
{
    t->interrupted = true;
}

void rebuild_tool_kill(struct rebuild_tool *t)
{
    if (t->over)
        return;
    assert(running != t);
    t->over = true;
    sim_reactor_crash(t->reactor, SIM_KILL);
    if (t->b.session >= 0)
        stop_session(session_of(t));
}

bool rebuild_tool_was_done_before(const struct rebuild_tool *t)
{
    return t->done_before;
}

const char *rebuild_tool_said(const struct rebuild_tool *t)
{
    return t->said;
}
