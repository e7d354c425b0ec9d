/* Several services as one front end: see team.h. */
#include "nbdserver/team.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"

static struct service *first(const struct team *t)
{
    return t->service[0];
}

/* ---- calls ---- */

static void on_there(struct reactor_msg *m)
{
    struct team_call *c = container_of(m, struct team_call, msg);
    c->there(c);
}

static void on_back(struct reactor_msg *m)
{
    struct team_call *c = container_of(m, struct team_call, msg);
    c->team->n_calls--;
    c->back(c);
}

static void call(struct team *t, struct team_call *c, unsigned member, void (*there)(struct team_call *), void (*back)(struct team_call *))
{
    assert(member > 0 && member < t->n);
    *c = (struct team_call){ .msg.fn = on_there, .team = t, .to = t->service[member], .there = there, .back = back };
    t->n_calls++;
    reactor_post(first(t)->reactor, c->to->reactor, &c->msg);
}

void team_return(struct team_call *c)
{
    c->msg.fn = on_back;
    reactor_post(c->to->reactor, first(c->team)->reactor, &c->msg);
}

static void *must(void *p)
{
    if (!p) {
        log_error("out of memory for an operator's request; exiting");
        abort();
    }
    return p;
}

/* ---- status ---- */

/* What one member has to say. */
struct part {
    struct team_call call;
    struct gathering *gathering;
    bool here;
    struct service_sums sums;
    char *text;                        /* its volumes, one behind the other */
    size_t at[CONFIG_VOLUMES_MAX + 1]; /* where each begins, and the last ends */
    uint32_t n;
};

struct gathering {
    struct team *team;
    struct operator_caller who;
    struct timer timeout;
    unsigned left; /* parts that have not come */
    bool answered;
    struct part part[];
};

static void say(struct part *p, struct service *s)
{
    char *text = must(malloc(WIRE_BODY_MAX));
    service_add_sums(s, &p->sums);
    for (uint32_t i = 0; i < s->n_volumes && WIRE_BODY_MAX - p->at[i] > 64; i++) {
        p->at[i + 1] = p->at[i] + volume_status(s->volume[i].volume, text + p->at[i], WIRE_BODY_MAX - p->at[i]);
        p->n = i + 1;
    }
    p->text = text;
}

/* The volumes stand in the order of the configuration, which goes round the members. */
static size_t compose(const struct gathering *g, char *buf, size_t cap)
{
    const struct team *t = g->team;
    struct service_sums sums = { 0 };
    char missing[8 * REACTORS_MAX] = "";
    size_t used = 0;
    for (unsigned i = 0; i < t->n; i++) {
        const struct part *p = &g->part[i];
        if (!p->here) {
            used += (size_t)snprintf(missing + used, sizeof missing - used, "%s%u", used ? "," : "", i);
            continue;
        }
        sums.clients += p->sums.clients;
        sums.requests += p->sums.requests;
        sums.errors += p->sums.errors;
        sums.payload_bytes += p->sums.payload_bytes;
        sums.memory_bytes += p->sums.memory_bytes;
    }
    size_t n = service_status_head(first(t), &sums, t->n, missing, buf, cap), begin = n;
    for (uint32_t v = 0; n > 0 && v < t->directory.n; v++) {
        const struct part *p = &g->part[team_index(v, t->n)];
        uint32_t k = v / t->n;
        if (!p->here || k >= p->n || p->at[k + 1] - p->at[k] + 8 > cap - n)
            continue;
        if (n > begin)
            buf[n++] = ',';
        memcpy(buf + n, p->text + p->at[k], p->at[k + 1] - p->at[k]);
        n += p->at[k + 1] - p->at[k];
    }
    if (n == 0)
        return 0;
    memcpy(buf + n, "]}", 2);
    return n + 2;
}

static void answer(struct gathering *g)
{
    struct service *s = first(g->team);
    char *text = must(malloc(WIRE_BODY_MAX));
    g->answered = true;
    timer_cancel(s->reactor, &g->timeout);
    operator_server_status(&s->operators, g->who, text, compose(g, text, WIRE_BODY_MAX));
    free(text);
}

static void on_part(struct team_call *c)
{
    struct part *p = container_of(c, struct part, call);
    struct gathering *g = p->gathering;
    p->here = true;
    if (--g->left > 0)
        return;
    if (!g->answered)
        answer(g);
    for (unsigned i = 0; i < g->team->n; i++)
        free(g->part[i].text);
    free(g);
}

static void on_say(struct team_call *c)
{
    say(container_of(c, struct part, call), c->to);
    team_return(c);
}

static void on_status_timeout(struct timer *t)
{
    answer(container_of(t, struct gathering, timeout));
}

bool team_status(struct team *t, struct operator_caller who)
{
    struct service *s = first(t);
    struct gathering *g = must(calloc(1, sizeof *g + t->n * sizeof g->part[0]));
    g->team = t;
    g->who = who;
    g->left = t->n - 1;
    g->timeout.fn = on_status_timeout;
    timer_set(s->reactor, &g->timeout, io_now(s->reactor) + TEAM_STATUS_WAIT_NS);
    say(&g->part[0], s);
    g->part[0].here = true;
    for (unsigned i = 1; i < t->n; i++) {
        g->part[i].gathering = g;
        call(t, &g->part[i].call, i, on_say, on_part);
    }
    return true;
}

/* ---- where a replica lives ---- */

struct address_call {
    struct team_call call;
    struct address_order *order;
    int err;
};

struct address_order {
    struct operator_caller who;
    struct uuid identity;
    char name[NAME_MAX_BYTES], address[ADDRESS_MAX_BYTES];
    unsigned left;
    int err;
    struct address_call to[REACTORS_MAX];
};

static void on_learn(struct team_call *c)
{
    struct address_call *a = container_of(c, struct address_call, call);
    a->err = service_learn_address(c->to, &a->order->identity, a->order->name, a->order->address);
    team_return(c);
}

static void on_learned(struct team_call *c)
{
    struct address_call *a = container_of(c, struct address_call, call);
    struct address_order *o = a->order;
    if (a->err)
        o->err = a->err;
    if (--o->left > 0)
        return;
    operator_server_address(&first(c->team)->operators, o->who, o->err);
    free(o);
}

int team_learn_address(struct team *t, struct operator_caller who, const struct uuid *identity, const char *name, const char *address)
{
    struct address_order *o = must(calloc(1, sizeof *o));
    o->who = who;
    o->identity = *identity;
    snprintf(o->name, sizeof o->name, "%s", name);
    snprintf(o->address, sizeof o->address, "%s", address);
    o->left = t->n - 1;
    o->err = service_learn_address(first(t), identity, name, address);
    for (unsigned i = 1; i < t->n; i++) {
        o->to[i].order = o;
        call(t, &o->to[i].call, i, on_learn, on_learned);
    }
    return -EINPROGRESS;
}

/* ---- who its replicas are ---- */

struct members_call {
    struct team_call call;
    uint64_t request, group;
    enum members_verb verb;
    struct membership membership;
    int err;
    char text[256];
};

static void members_done(void *user, int err, const char *text)
{
    struct members_call *m = user;
    m->err = err;
    snprintf(m->text, sizeof m->text, "%s", text);
    team_return(&m->call);
}

static void on_members(struct team_call *c)
{
    struct members_call *m = container_of(c, struct members_call, call);
    const char *text = "";
    int rc = volume_members(service_find_group(c->to, m->group), m->verb, &m->membership, members_done, m, &text);
    if (rc != -EINPROGRESS)
        members_done(m, rc, text);
}

static void on_members_back(struct team_call *c)
{
    struct members_call *m = container_of(c, struct members_call, call);
    operator_server_done(&first(c->team)->operators, m->request, -m->err, m->text);
    free(m);
}

bool team_members(struct team *t, uint64_t request, uint64_t group, enum members_verb verb, const struct membership *membership)
{
    for (uint32_t v = 0; v < t->directory.n; v++) {
        const struct volume_config *vc = config_find_volume(first(t)->options.config, t->place[v].name);
        if (!vc || vc->group != group)
            continue;
        struct members_call *m = must(calloc(1, sizeof *m));
        m->request = request;
        m->group = group;
        m->verb = verb;
        m->membership = *membership;
        call(t, &m->call, team_index(v, t->n), on_members, on_members_back);
        return true;
    }
    return false;
}

/* ---- the end ---- */

static void one_stopped(struct team *t)
{
    struct service *s = first(t);
    if (++t->n_stopped == t->n && s->cb.on_stopped)
        s->cb.on_stopped(s->cb.user);
}

static void on_stop(struct team_call *c)
{
    c->to->stop_call = c;
    service_stop(c->to);
}

static void on_stop_back(struct team_call *c)
{
    one_stopped(c->team);
}

void team_service_stopped(struct service *s)
{
    if (s == first(s->team))
        one_stopped(s->team);
    else
        team_return(s->stop_call);
}

void team_stop(struct team *t)
{
    for (unsigned i = 1; i < t->n; i++)
        call(t, &t->stop[i], i, on_stop, on_stop_back);
    service_stop(first(t));
}

bool team_free(struct team *t)
{
    bool idle = t->n_calls == 0 && atomic_load(&t->directory.moving) == 0;
    for (unsigned i = 0; i < t->n; i++)
        idle = idle && service_is_idle(t->service[i]);
    for (unsigned i = 0; idle && i < t->n; i++)
        (void)service_free(t->service[i]);
    return idle;
}

/* ---- the beginning ---- */

void team_init(struct team *t, struct service *const *services, unsigned n)
{
    assert(n >= 1 && n <= REACTORS_MAX);
    memset(t, 0, sizeof *t);
    t->n = n;
    t->directory.place = t->place;
    for (unsigned i = 0; i < n; i++) {
        t->service[i] = services[i];
        assert(services[i]->n_volumes > 0);
        t->directory.n += services[i]->n_volumes;
    }
    if (n == 1)
        return;
    for (uint32_t v = 0; v < t->directory.n; v++) {
        struct service *s = services[team_index(v, n)];
        const struct export *x = s->export[v / n];
        t->place[v] = (struct nbd_place){ .name = x->name, .description = x->description, .server = &s->nbd };
    }
    for (unsigned i = 0; i < n; i++) {
        services[i]->team = t;
        services[i]->nbd.directory = &t->directory;
        services[i]->nbd.exports.default_export = NULL; /* there is more than one volume */
    }
}
