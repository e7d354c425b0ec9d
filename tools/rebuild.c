/* qbd rebuild: who holds a volume's data is changed (docs/rebuild.md §6): a lost replica replaced, one added, one taken out.
 *
 * The steps, each found again from what the daemons say, so that an interrupted command is simply given again:
 *   plan     which groups vote with the old identity, whether a majority is complete, whether the new replica is fit
 *   create   the group at the new replica, as a learner of the committed membership
 *   learn    the front end that holds the volume streams to it; a volume that nobody holds gets a session of our own
 *   copy     the learner fills itself from its peers; this command only watches
 *   change   the front end proposes the new voters; done when that is committed
 *   record   where the configuration is ours (a local cluster) it is written down; elsewhere we say what to write
 * Until `change` is committed nothing is lost by stopping: the old voters stay in force.
 *
 * It asks the daemons and waits; processes, files and people are rebuild_session.c's, rebuild_config.c's and rebuild_progress.c's. The simulator runs this file as it is. */
#include "tools/rebuild.h"

#include "base/log.h"

#include <errno.h>
#include <stdio.h>

#define ASK_TIMEOUT_MS 3000u
#define CHANGE_TIMEOUT_MS 30000u
#define SESSION_TIMEOUT_MS 60000u
#define POLL_MS 200u

/* ---- the steps ---- */

int rebuild_call_done(const char *address, struct rebuild *b, const struct uuid *target, const struct msg *m, unsigned timeout_ms, struct why *why)
{
    struct client c;
    struct msg answer;
    if (client_open(&c, address, &b->conf.id, target, timeout_ms, why) < 0)
        return -1;
    int err = client_call(&c, m, MSG_DONE, &answer, why);
    if (err == 0 && answer.u.done.error)
        err = because(why, "%s", answer.u.done.text[0] ? answer.u.done.text : strerror(answer.u.done.error));
    client_close(&c);
    return err;
}

/* One that has the group already is invited to learn: it may have voted before. */
static int create_learner(struct rebuild *b, struct why *why)
{
    struct client c;
    struct msg m = {.type = MSG_CREATE, .group = b->volume->group, .target = b->joining->identity}, answer;
    m.u.create.size_blocks = b->size_blocks;
    m.u.create.membership = b->members;
    m.u.create.membership.n_learners = 1;
    m.u.create.membership.learner[0] = b->joining->identity;
    if (client_open(&c, b->joining->address, &b->conf.id, &b->joining->identity, ASK_TIMEOUT_MS, why) < 0)
        return -1;
    int err = client_call(&c, &m, MSG_CREATED, &answer, why);
    if (err == 0 && answer.u.created.error)
        err = because(why, "%s cannot take %s as a learner: %s", b->joining->name, b->volume->name, strerror(answer.u.created.error));
    client_close(&c);
    return err;
}

static void tell_address(struct rebuild *b, const char *address, const struct uuid *target, const char *whom, const struct replica_config *of)
{
    struct msg m = {.type = MSG_ADDRESS, .target = *target};
    struct why ignored;
    m.u.address.identity = of->identity;
    snprintf(m.u.address.name, sizeof m.u.address.name, "%s", of->name);
    snprintf(m.u.address.address, sizeof m.u.address.address, "%s", of->address);
    if (rebuild_call_done(address, b, target, &m, ASK_TIMEOUT_MS, &ignored) < 0)
        rebuild_note(b, "%s was not told where %s lives (%s): it has to be started again", whom, of->name, ignored.text);
}

/* Everybody who will want to reach this replica hears where it lives: the voters, and the front ends that we know, also those that hold nothing now, as
 * any may take the volume over. Who is down reads it in the configuration when it starts. */
static void spread_address(struct rebuild *b, const struct replica_config *of)
{
    static const struct uuid any;
    for (unsigned i = 0; i < b->members.n_voters; i++) {
        struct replica_view *r = rebuild_view_of(b, &b->members.voter[i]);
        if (r && r->status && r->config != of)
            tell_address(b, r->config->address, &r->config->identity, r->config->name, of);
    }
    for (unsigned i = 0; i < b->n_frontends; i++) {
        struct why ignored;
        json_t *s = client_status(b->frontend[i], &b->conf.id, &any, ASK_TIMEOUT_MS, &ignored);
        if (s)
            tell_address(b, b->frontend[i], &any, b->frontend[i], of);
        json_decref(s);
    }
}

/* The status address of the front end that has the volume; "" when nobody has. */
static int find_frontend(struct rebuild *b, char ret[CONFIG_ADDRESS_MAX], struct why *why)
{
    static const struct uuid any;
    char holder[NAME_MAX_BYTES] = "";
    ret[0] = '\0';
    for (unsigned i = 0; i < b->n_frontends; i++) {
        struct why ignored;
        json_t *s = client_status(b->frontend[i], &b->conf.id, &any, ASK_TIMEOUT_MS, &ignored), *v;
        size_t k;
        json_array_foreach(json_object_get(s, "volumes"), k, v)
        {
            if (strcmp(json_text_or(v, "name", ""), b->volume->name) != 0)
                continue;
            if (strcmp(json_text_or(v, "state", ""), "attached") == 0)
                snprintf(ret, CONFIG_ADDRESS_MAX, "%s", b->frontend[i]);
            snprintf(holder, sizeof holder, "%s", json_text_or(v, "holder", ""));
        }
        json_decref(s);
        if (ret[0])
            return 0;
    }
    struct volume_view v;
    volume_view_take(&v, b->volume, b->view);
    if (v.holder[0] && !holder[0])
        snprintf(holder, sizeof holder, "%s", v.holder);
    if (holder[0] && v.lease_ms > 0)
        return because(why, "%s is held by %s, and its status address is not known: say --frontend ADDR (what it was started with as --status)", b->volume->name, holder);
    return 0;
}

/* A session of our own for a volume that nobody has: a front end without clients, ended with this command. */
static int start_session(struct rebuild *b, struct why *why)
{
    bool runs = b->session >= 0 && rebuild_session_runs(b, why); /* then it is about to attach (again) */
    if (!runs && rebuild_session_start(b, b->frontend[b->session_listed ? b->n_frontends - 1 : b->n_frontends], why) < 0)
        return -1;
    if (!runs)
        rebuild_note(b, "%s: nobody has it attached; this command does until it is done", b->volume->name);
    b->n_frontends += !b->session_listed;
    b->session_listed = true; /* as the last one */
    uint64_t until = now_ms() + SESSION_TIMEOUT_MS;
    char found[CONFIG_ADDRESS_MAX];
    for (;;) {
        if (find_frontend(b, found, why) == 0 && found[0])
            return 0;
        if (!rebuild_session_runs(b, why))
            return -1;
        if (now_ms() > until)
            return because(why, "%s cannot be attached within %u s: see %s/log", b->volume->name, SESSION_TIMEOUT_MS / 1000, b->session_dir);
        sleep_ms(POLL_MS);
    }
}

/* The front end that has the volume; a session of our own when nobody has. */
static int want_frontend(struct rebuild *b, char ret[CONFIG_ADDRESS_MAX], struct why *why)
{
    if (find_frontend(b, ret, why) < 0)
        return -1;
    if (ret[0])
        return 0;
    return start_session(b, why) < 0 ? -1 : find_frontend(b, ret, why);
}

static int tell_members(struct rebuild *b, const char *frontend, enum members_verb verb, const struct membership *m, unsigned timeout_ms, struct why *why)
{
    static const struct uuid any;
    struct msg t = {.type = MSG_MEMBERS, .group = b->volume->group, .u.members = {.verb = verb, .membership = *m}};
    return rebuild_call_done(frontend, b, &any, &t, timeout_ms, why);
}

/* Again after the front end was replaced: it knows of learners only what it was told. */
static int learn(struct rebuild *b, char frontend[CONFIG_ADDRESS_MAX], struct why *why)
{
    static const struct uuid any;
    struct msg a = {.type = MSG_ADDRESS};
    struct membership one = {.slot = b->members.slot, .n_voters = 1, .voter = {b->joining->identity}};
    a.u.address.identity = b->joining->identity;
    snprintf(a.u.address.name, sizeof a.u.address.name, "%s", b->joining->name);
    snprintf(a.u.address.address, sizeof a.u.address.address, "%s", b->joining->address);
    if (want_frontend(b, frontend, why) < 0 || rebuild_call_done(frontend, b, &any, &a, ASK_TIMEOUT_MS, why) < 0)
        return -1;
    return tell_members(b, frontend, MEMBERS_LEARN, &one, ASK_TIMEOUT_MS, why);
}

/* One look at the learner. True when it is complete. */
static bool learner_is_complete(struct rebuild *b, struct copy_progress *ret)
{
    struct replica_view *r = rebuild_view_of(b, &b->joining->identity);
    rebuild_look(b);
    memset(ret, 0, sizeof *ret);
    if (!r->group) {
        snprintf(ret->state, sizeof ret->state, "%s does not answer", b->joining->name);
        return false;
    }
    json_t *c = json_object_get(r->group, "copy");
    snprintf(ret->state, sizeof ret->state, "%s", json_text_or(r->group, "state", ""));
    ret->done_bytes = json_number_or(c, "done_bytes", 0);
    ret->left_bytes = json_number_or(c, "left_bytes", -1);
    ret->rate = json_number_or(c, "rate_bytes_per_s", 0);
    ret->eta_s = json_number_or(c, "eta_s", -1);
    ret->latency_us = json_number_or(c, "donor_latency_us", -1);
    return json_is_true(json_object_get(r->group, "complete"));
}

static int watch_copy(struct rebuild *b, struct why *why)
{
    char frontend[CONFIG_ADDRESS_MAX];
    struct copy_progress p;
    uint64_t told_ms = 0;
    bool troubled = false;
    for (;;) {
        struct why now;
        if (rebuild_interrupted())
            return because(why, "interrupted; %s goes on copying by itself. Give the same command again to finish", b->joining->name);
        if (!told_ms || now_ms() - told_ms > 5000) {
            int err = create_learner(b, &now);
            if (!err)
                err = learn(b, frontend, &now);
            if (err && !troubled)
                rebuild_note(b, "%s: waiting: %s", b->volume->name, now.text);
            troubled = err;
            told_ms = now_ms();
        }
        if (learner_is_complete(b, &p))
            return 0;
        rebuild_show(b, &p);
        sleep_ms(POLL_MS);
    }
}

static int change_voters(struct rebuild *b, struct why *why)
{
    char frontend[CONFIG_ADDRESS_MAX];
    uint64_t until = now_ms() + CHANGE_TIMEOUT_MS;
    struct why last;
    for (;;) {
        rebuild_look(b);
        bool same = rebuild_read_membership(b, &last) == 0 && membership_same_voters(&b->members, &b->target);
        if (same && rebuild_voters_know(b))
            return 0;
        if (rebuild_interrupted())
            return because(why, "interrupted before the new voters were in force. Give the same command again to finish");
        int err = b->joining && !same ? learn(b, frontend, &last) : want_frontend(b, frontend, &last);
        b->target.slot = b->members.slot;
        if (err == 0)
            err = tell_members(b, frontend, MEMBERS_CHANGE, &b->target, CHANGE_TIMEOUT_MS, &last);
        if (err == 0 && !same)
            continue; /* the replicas say when they have heard of it */
        if (err == 0)
            because(&last, "no majority of them has said yet that it knows them as committed; are enough of them up? Give the same command again then");
        if (now_ms() > until)
            return because(why, "%s: the new voters could not be put in force: %s", b->volume->name, last.text);
        sleep_ms(POLL_MS);
    }
}

static int rebuild_volume(struct rebuild *b, const struct rebuild_arguments *a, struct why *why)
{
    if (rebuild_is_done(b, a)) {
        b->target = b->members;
        b->joining = NULL;
        if (change_voters(b, why) < 0)
            return -1;
        rebuild_note(b, "%s: done already", b->volume->name);
        return rebuild_record(b, why);
    }
    if (rebuild_plan(b, a, why) < 0)
        return -1;
    rebuild_say_plan(b);
    if (a->dry_run)
        return 0;
    if (b->joining) {
        if (create_learner(b, why) < 0)
            return -1;
        spread_address(b, b->joining);
        if (watch_copy(b, why) < 0)
            return -1;
        rebuild_note(b, "%s: %s holds everything", b->volume->name, b->joining->name);
    }
    if (change_voters(b, why) < 0)
        return -1;
    rebuild_note(b, "%s: the new voters are in force", b->volume->name);
    for (unsigned i = 0; b->joining && i < b->members.n_voters; i++) { /* again, also of those before it: somebody may not have heard */
        struct replica_view *r = rebuild_view_of(b, &b->members.voter[i]);
        if (r)
            spread_address(b, r->config);
    }
    return rebuild_record(b, why);
}

/* Only volumes that the change is about: those that vote with what leaves, or all when one is added. */
static bool concerns(struct rebuild *b, const struct rebuild_arguments *a)
{
    struct why ignored;
    const char *leaving = a->lost ? a->lost : a->remove;
    rebuild_look(b);
    if (!leaving)
        return true;
    return rebuild_is_done(b, a) || rebuild_read_membership(b, &ignored) < 0 || rebuild_find_leaving(b, leaving, &ignored) == 0;
}

int rebuild_run(struct rebuild *b, const struct rebuild_arguments *a, struct why *why)
{
    unsigned n = 0;
    int err = 0;
    for (uint32_t i = 0; i < b->conf.n_volumes && !err; i++) {
        b->volume = &b->conf.volumes[i];
        if (b->conf.n_volumes > 1 && !concerns(b, a))
            continue;
        n++;
        err = rebuild_volume(b, a, why);
        rebuild_session_end(b);
    }
    if (!err && n == 0)
        err = because(why, "%s is no voter of any volume: there is nothing to rebuild", a->lost ? a->lost : a->remove);
    for (uint32_t i = 0; i < b->conf.n_replicas; i++)
        replica_view_drop(&b->view[i]);
    return err;
}
