/* qbd rebuild: what the daemons say of a volume's voters, and what follows from it: who leaves, who joins, whether that is safe. */
#include "tools/rebuild.h"

#include "base/log.h"

#include <stdio.h>

/* ---- memberships ---- */

static bool membership_lists(const struct membership *m, const struct uuid *identity)
{
    for (unsigned i = 0; i < m->n_voters; i++)
        if (uuid_equal(&m->voter[i], identity))
            return true;
    return false;
}

bool membership_same_voters(const struct membership *a, const struct membership *b)
{
    for (unsigned i = 0; i < a->n_voters; i++)
        if (!membership_lists(b, &a->voter[i]))
            return false;
    return a->n_voters == b->n_voters;
}

/* ---- what the daemons say ---- */

void rebuild_look(struct rebuild *b)
{
    for (uint32_t i = 0; i < b->conf.n_replicas; i++) {
        replica_view_drop(&b->view[i]);
        replica_view_take(&b->view[i], &b->conf, &b->conf.replicas[i], b->local, b->volume->group);
    }
}

/* The newest membership that a replica knows, and how many hold its data completely. */
int rebuild_read_membership(struct rebuild *b, struct why *why)
{
    json_t *best = NULL;
    for (uint32_t i = 0; i < b->conf.n_replicas; i++) {
        json_t *g = b->view[i].group;
        if (g && json_is_array(json_object_get(g, "voters")) &&
            (!best || json_number_or(g, "membership_slot", 0) > json_number_or(best, "membership_slot", 0)))
            best = g;
    }
    if (!best)
        return because(why, "no replica that answers has volume %s", b->volume->name);
    memset(&b->members, 0, sizeof b->members);
    b->members.slot = (uint64_t)json_number_or(best, "membership_slot", 0);
    b->size_blocks = (uint64_t)json_number_or(best, "size_bytes", 0) / BLOCK_SIZE;
    size_t k;
    json_t *voter;
    json_array_foreach(json_object_get(best, "voters"), k, voter)
    {
        const char *id = json_string_value(voter);
        if (b->members.n_voters == MEMBERS_MAX || !id || uuid_parse(id, &b->members.voter[b->members.n_voters]) < 0)
            return because(why, "volume %s: a replica tells a membership that cannot be", b->volume->name);
        b->members.n_voters++;
    }
    return 0;
}

/* What one replica knows to be committed may go with it: only when a majority of the new voters know it is it found out again, whoever else is lost. */
bool rebuild_voters_know(struct rebuild *b)
{
    unsigned n = 0;
    for (unsigned i = 0; i < b->members.n_voters; i++) {
        struct replica_view *r = rebuild_view_of(b, &b->members.voter[i]);
        n += r && r->group && (uint64_t)json_number_or(r->group, "membership_slot", 0) >= b->members.slot;
    }
    return n >= b->members.n_voters / 2u + 1;
}

struct replica_view *rebuild_view_of(struct rebuild *b, const struct uuid *identity)
{
    for (uint32_t i = 0; i < b->conf.n_replicas; i++)
        if (uuid_equal(&b->conf.replicas[i].identity, identity))
            return &b->view[i];
    return NULL;
}

struct replica_view *rebuild_view_named(struct rebuild *b, const char *name)
{
    for (uint32_t i = 0; i < b->conf.n_replicas; i++)
        if (strcmp(b->conf.replicas[i].name, name) == 0)
            return &b->view[i];
    return NULL;
}

static bool is_member(const struct rebuild *b, const struct uuid *identity)
{
    return membership_lists(&b->members, identity);
}

unsigned rebuild_complete_voters(struct rebuild *b, const struct uuid *except)
{
    unsigned n = 0;
    for (unsigned i = 0; i < b->members.n_voters; i++) {
        struct replica_view *r = rebuild_view_of(b, &b->members.voter[i]);
        if (r && r->group && !(except && uuid_equal(except, &b->members.voter[i])) && json_is_true(json_object_get(r->group, "complete")))
            n++;
    }
    return n;
}

/* ---- the plan ---- */

/* The voter that leaves. A fresh disk under the old name has another identity: then the one voter that nobody in the configuration answers for is meant. */
int rebuild_find_leaving(struct rebuild *b, const char *name, struct why *why)
{
    struct replica_view *r = rebuild_view_named(b, name);
    unsigned unknown = 0;
    if (!r)
        return because(why, "the configuration has no replica %s", name);
    if (is_member(b, &r->config->identity)) {
        b->leaving = r->config->identity;
        return 0;
    }
    for (unsigned i = 0; i < b->members.n_voters; i++)
        if (!rebuild_view_of(b, &b->members.voter[i])) {
            b->leaving = b->members.voter[i];
            unknown++;
        }
    if (unknown == 1)
        return 0;
    if (unknown)
        return because(why, "%s has a new identity, and %u of %s's voters are unknown: which one was it?", name, unknown, b->volume->name);
    return because(why, "%s is no voter of %s: there is nothing to rebuild", name, b->volume->name);
}

/* The replica that joins: named, or the fresh disk under the lost one's name, or the only one that has nothing of the volume. */
static int find_joining(struct rebuild *b, const char *name, const char *lost, struct why *why)
{
    struct replica_view *r = name ? rebuild_view_named(b, name) : NULL;
    if (name && !r)
        return because(why, "the configuration has no replica %s", name);
    if (!r && lost) {
        r = rebuild_view_named(b, lost);
        if (r && (is_member(b, &r->config->identity) || !r->status))
            r = NULL;
    }
    for (uint32_t i = 0; i < b->conf.n_replicas && !name && !r; i++) {
        struct replica_view *c = &b->view[i];
        if (!c->status || is_member(b, &c->config->identity))
            continue;
        for (uint32_t k = i + 1; k < b->conf.n_replicas; k++)
            if (b->view[k].status && !is_member(b, &b->view[k].config->identity))
                return because(why, "%s and %s could both take the place of %s: say --onto", c->config->name, b->view[k].config->name, lost);
        r = c;
    }
    if (!r)
        return because(why, "no replica is there to take the place of %s: add one (qbd local add replica) or give it a new disk (qbd local restart %s)", lost, lost);
    if (is_member(b, &r->config->identity))
        return because(why, "%s votes for %s already", r->config->name, b->volume->name);
    if (!r->status)
        return because(why, "%s does not answer: %s", r->config->name, r->why.text[0] ? r->why.text : replica_view_state(r, b->local));
    b->joining = r->config;
    return 0;
}

static int check_majority(struct rebuild *b, struct why *why)
{
    unsigned n = b->members.n_voters, majority = n / 2 + 1, complete = rebuild_complete_voters(b, NULL);
    if (complete >= majority)
        return 0;
    return because(why, "%u of the %u voters of %s are there and hold all its data, fewer than a majority (%u): bring back another one first; nothing was changed", complete, n,
                   b->volume->name, majority);
}

/* What would lose data or quorum is refused before anything is changed. */
static int check_safe(struct rebuild *b, const struct rebuild_arguments *a, struct why *why)
{
    unsigned n = b->members.n_voters;
    bool leaves = !uuid_is_zero(&b->leaving);
    struct replica_view *old = leaves ? rebuild_view_of(b, &b->leaving) : NULL;
    if (b->joining && old && old->group && json_is_true(json_object_get(old->group, "complete")) && !a->live)
        return because(why, "%s is alive and holds all of %s: add --live if it is to be replaced nevertheless", old->config->name, b->volume->name);
    if (leaves && !b->joining) {
        if (n == 1)
            return because(why, "%s has no other voter", b->volume->name);
        unsigned left = rebuild_complete_voters(b, &b->leaving);
        if (left < (n - 1) / 2 + 1)
            return because(why, "without %s only %u of %u voters of %s would hold its data: no majority", old ? old->config->name : "it", left, n - 1, b->volume->name);
    }
    if (!leaves && n == MEMBERS_MAX)
        return because(why, "%s has %u voters, the most that there can be", b->volume->name, n);
    return 0;
}

static void make_target(struct rebuild *b)
{
    struct membership *t = &b->target;
    memset(t, 0, sizeof *t);
    t->slot = b->members.slot;
    for (unsigned i = 0; i < b->members.n_voters; i++)
        if (!uuid_equal(&b->members.voter[i], &b->leaving))
            t->voter[t->n_voters++] = b->members.voter[i];
    if (b->joining)
        t->voter[t->n_voters++] = b->joining->identity;
}

const char *rebuild_name_of(struct rebuild *b, const struct uuid *identity, char text[37])
{
    struct replica_view *r = rebuild_view_of(b, identity);
    return r ? r->config->name : uuid_format(identity, text);
}

void rebuild_say_plan(struct rebuild *b)
{
    char id[37], line[256];
    size_t len = 0;
    unsigned complete = rebuild_complete_voters(b, uuid_is_zero(&b->leaving) ? NULL : &b->leaving), n = b->members.n_voters, majority = n / 2 + 1;
    for (unsigned i = 0; i < b->target.n_voters && len < sizeof line; i++)
        len += (size_t)snprintf(line + len, sizeof line - len, "%s%s", i ? ", " : "", rebuild_name_of(b, &b->target.voter[i], id));
    if (!uuid_is_zero(&b->leaving)) {
        const struct replica_view *old = rebuild_view_of(b, &b->leaving);
        rebuild_note(b, "%s: %s (%s) %s", b->volume->name, old ? old->config->name : "a lost disk", uuid_format(&b->leaving, id), b->joining ? "is replaced" : "is taken out");
    }
    if (b->joining)
        rebuild_note(b, "%s: %s gets a complete copy, then a vote", b->volume->name, b->joining->name);
    rebuild_note(b, "%s: voters afterwards: %s", b->volume->name, line);
    rebuild_note(b, "%s: until then %u of %u voters hold everything; %u more may fail without a pause", b->volume->name, complete, n, complete > majority ? complete - majority : 0);
}

int rebuild_plan(struct rebuild *b, const struct rebuild_arguments *a, struct why *why)
{
    const char *leaving = a->lost ? a->lost : a->remove;
    rebuild_look(b);
    if (rebuild_read_membership(b, why) < 0 || check_majority(b, why) < 0)
        return -1;
    memset(&b->leaving, 0, sizeof b->leaving);
    b->joining = NULL;
    if (leaving && rebuild_find_leaving(b, leaving, why) < 0)
        return -1;
    if (!a->remove && find_joining(b, a->lost ? a->onto : a->add, a->lost, why) < 0)
        return -1;
    if (check_safe(b, a, why) < 0)
        return -1;
    make_target(b);
    return 0;
}

/* Done by an earlier run that was interrupted before it could say so? */
bool rebuild_is_done(struct rebuild *b, const struct rebuild_arguments *a)
{
    struct why ignored;
    rebuild_look(b);
    if (rebuild_read_membership(b, &ignored) < 0)
        return false;
    unsigned unknown = 0;
    for (unsigned i = 0; i < b->members.n_voters; i++)
        unknown += !rebuild_view_of(b, &b->members.voter[i]);
    struct replica_view *old = a->lost ? rebuild_view_named(b, a->lost) : NULL, *new = a->add ? rebuild_view_named(b, a->add) : a->onto ? rebuild_view_named(b, a->onto) : NULL,
                        *out = a->remove ? rebuild_view_named(b, a->remove) : NULL;
    if (a->add)
        return new && is_member(b, &new->config->identity);
    if (a->remove)
        return out && !is_member(b, &out->config->identity) && !unknown;
    if (new && new != old)
        return is_member(b, &new->config->identity) && old && !is_member(b, &old->config->identity) && !unknown;
    /* Its fresh disk under the old name has taken its place: it votes and holds everything, and nobody else is missing. */
    return old && !a->live && !unknown && is_member(b, &old->config->identity) && old->group && json_is_true(json_object_get(old->group, "complete"));
}
