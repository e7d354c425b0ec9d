/* Who the volume's replicas are: links to learners and to voters that the configuration does not name, and changes of the voters (docs/rebuild.md section 6).
 *
 * What always holds:
 *  - the first n_configured links are the configuration's, for the life of the volume; the others come and go. Link i of the volume is link i of every proposer.
 *  - a link that is being taken away is in `removing` until its connection is gone; no proposer knows it any more then.
 *  - at most one change is asked for at a time. While it waits for the entries under way to be chosen, no write gets a slot; that is bounded by CHANGE_HOLD_NS.
 *  - `done` of a request is called once, never from inside the call that asked. */
#include "nbdserver/volume_internal.h"

#include <stdio.h>

#include "base/mark.h"

#define CHANGE_HOLD_NS (1000 * NS_PER_MS) /* writes wait at most this long for a change */
#define CHANGE_TIMEOUT_NS (30 * NS_PER_S) /* after that the one who asked is told that it is not known how it ends */

/* ---- links ---- */

uint32_t volume_find_link(const struct volume *v, const struct uuid *identity)
{
    for (uint32_t i = 0; i < v->n_links; i++)
        if (v->link[i].replica && !(v->removing >> i & 1) && uuid_equal(&v->link[i].replica->identity, identity))
            return i;
    return VOLUME_LINKS_MAX;
}

static const struct replica_config *find_address(const struct volume *v, const struct uuid *identity)
{
    for (uint32_t i = 0; i < v->n_known; i++)
        if (uuid_equal(&v->known[i].identity, identity))
            return &v->known[i];
    return config_find_identity(v->options.config, identity);
}

void volume_link_init(struct volume *v, uint32_t i, const struct replica_config *replica)
{
    v->peer[i] = *replica;
    replica_link_init(&v->link[i], v->reactor, &v->peer[i], &v->options.config->id, &volume_link_handler, v, i);
    v->link[i].volume = v->name;
}

/* VOLUME_LINKS_MAX: it is not known where this replica is, or there are too many links. */
static uint32_t make_link(struct volume *v, const struct uuid *identity, bool learner)
{
    uint32_t i = volume_find_link(v, identity);
    bool fresh = i == VOLUME_LINKS_MAX;
    if (fresh) {
        const struct replica_config *c = find_address(v, identity);
        for (i = v->n_configured; i < v->n_links && v->link[i].replica;)
            i++;
        if (!c || i == VOLUME_LINKS_MAX)
            return VOLUME_LINKS_MAX;
        volume_link_init(v, i, c);
        if (i == v->n_links)
            v->n_links++;
    }
    if (learner)
        v->learners |= 1u << i;
    for (uint32_t k = 0; k < v->n_groups; k++)
        volume_group_step(&v->group[k], (struct proposer_event){ .type = PROPOSER_ADD_LINK, .link = i, .identity = *identity, .learner = v->learners >> i & 1 });
    if (fresh)
        replica_link_start(&v->link[i], &v->proposer_id, v->frontend_name);
    return i;
}

static bool is_voter(const struct volume *v, const struct uuid *identity)
{
    for (uint32_t i = 0; i < v->n_groups; i++) {
        const struct proposer *p = v->group[i].proposer;
        if ((p->has_membership && membership_has_voter(&p->committed, identity)) || (p->has_uncommitted && membership_has_voter(&p->uncommitted, identity)))
            return true;
    }
    return false;
}

static void remove_link(struct volume *v, uint32_t i)
{
    for (uint32_t k = 0; k < v->n_groups; k++) {
        volume_group_step(&v->group[k], (struct proposer_event){ .type = PROPOSER_REMOVE_LINK, .link = i });
        read_link_down(&v->group[k], i);
    }
    v->removing |= 1u << i;
    replica_link_stop(&v->link[i]);
}

void volume_link_removed(struct volume *v, uint32_t i)
{
    v->removing &= ~(1u << i);
    v->unknown_at &= ~(1u << i);
    memset(&v->link[i], 0, sizeof v->link[i]);
}

void members_wanted(struct volume *v, const struct uuid *identity)
{
    for (uint32_t i = 0; i < v->n_wanted; i++)
        if (uuid_equal(&v->wanted[i], identity))
            return;
    if (v->n_wanted < ARRAY_LEN(v->wanted))
        v->wanted[v->n_wanted++] = *identity;
}

void members_link_wanted(struct volume *v)
{
    uint32_t n = v->n_wanted;
    struct uuid wanted[ARRAY_LEN(v->wanted)];
    memcpy(wanted, v->wanted, n * sizeof wanted[0]);
    v->n_wanted = 0;
    for (uint32_t i = 0; i < n; i++) {
        char text[37];
        if (make_link(v, &wanted[i], false) < VOLUME_LINKS_MAX) {
            MARK("volume: link to a voter that the volume's configuration does not name");
            continue;
        }
        if (!uuid_equal(&v->said_missing, &wanted[i]))
            log_warning("volume %s: replica %s votes and nobody knows where it is: add a [replica] section with this identity to the configuration", v->name,
                        uuid_format(&wanted[i], text));
        v->said_missing = wanted[i];
    }
}

/* A new session: its proposer knows the configuration's links alone, and nothing of learners. */
void members_begin(struct volume *v, struct volume_group *g)
{
    for (uint32_t i = 0; i < v->n_links; i++)
        if (v->link[i].replica && !(v->removing >> i & 1))
            volume_group_step(g, (struct proposer_event){ .type = PROPOSER_ADD_LINK, .link = i, .identity = v->link[i].replica->identity,
                                                          .learner = v->learners >> i & 1 });
}

/* Where the address of this replica is kept, or is to be: when all places are taken, in that of one that neither votes nor has a link. */
static uint32_t place_for_address(const struct volume *v, const struct uuid *identity)
{
    for (uint32_t i = 0; i < v->n_known; i++)
        if (uuid_equal(&v->known[i].identity, identity))
            return i;
    if (v->n_known < ARRAY_LEN(v->known))
        return v->n_known;
    uint32_t i = 0;
    while (i < v->n_known && (is_voter(v, &v->known[i].identity) || volume_find_link(v, &v->known[i].identity) < VOLUME_LINKS_MAX))
        i++;
    return i;
}

int volume_learn_address(struct volume *v, const struct uuid *identity, const char *name, const char *address)
{
    uint32_t i = place_for_address(v, identity);
    if (i == ARRAY_LEN(v->known) || uuid_is_zero(identity) || strlen(address) >= CONFIG_ADDRESS_MAX)
        return -ENOSPC;
    struct replica_config *c = &v->known[i];
    v->n_known += i == v->n_known;
    c->identity = *identity;
    snprintf(c->name, sizeof c->name, "%s", name);
    snprintf(c->address, sizeof c->address, "%s", address);
    uint32_t k = volume_find_link(v, identity);
    if (k < VOLUME_LINKS_MAX && strcmp(v->peer[k].address, address) != 0) {
        memcpy(v->peer[k].address, c->address, sizeof c->address);
        replica_link_drop(&v->link[k], "it has another address now");
    }
    if (k == VOLUME_LINKS_MAX && is_voter(v, identity))
        members_wanted(v, identity);
    volume_pump(v);
    return 0;
}

/* ---- changes ---- */

/* Who votes is no learner any more: when it is voted out one day, it is sent nothing. */
static void learners_vote(struct volume *v)
{
    for (uint32_t i = 0; i < v->n_links; i++)
        if ((v->learners >> i & 1) && is_voter(v, &v->link[i].replica->identity)) {
            v->learners &= ~(1u << i);
            for (uint32_t k = 0; k < v->n_groups; k++)
                volume_group_step(&v->group[k], (struct proposer_event){ .type = PROPOSER_ADD_LINK, .link = i, .identity = v->link[i].replica->identity });
        }
}

/* Who was voted out and does not answer is not tried for ever: what has been replaced often would fill all places. One that answers stays, and hears of what became of it. */
static void forget_gone(struct volume *v)
{
    for (uint32_t i = v->n_configured; i < v->n_links; i++) {
        bool here = v->link[i].replica && !(v->removing >> i & 1);
        if (!here || (v->learners >> i & 1) || replica_link_is_up(&v->link[i]) || is_voter(v, &v->link[i].replica->identity))
            continue;
        MARK("volume: a replica that was voted out and is gone is forgotten");
        remove_link(v, i);
    }
}

static void change_end(struct volume *v, int err, const char *text)
{
    if (err == 0) {
        learners_vote(v);
        forget_gone(v);
    }
    struct member_change *c = &v->change;
    assert(c->state != CHANGE_NONE && c->state != CHANGE_TELLING);
    c->state = CHANGE_TELLING; /* with the next turn of the pump: the one who asked may ask on */
    c->err = err;
    snprintf(c->text, sizeof c->text, "%s", text);
    if (err == 0)
        log_info("volume %s: %s", v->name, c->text);
    else
        log_warning("volume %s: voters not changed: %s", v->name, c->text);
    v->pump_again = true;
}

static bool same_voters(const struct membership *a, const struct membership *b)
{
    bool same = a->n_voters == b->n_voters;
    for (unsigned i = 0; same && i < a->n_voters; i++)
        same = membership_has_voter(b, &a->voter[i]);
    return same;
}

/* Committed, and known so to a majority of the new voters, who write that down at once: until then the old ones may be needed to find it out. */
static bool is_done(const struct volume *v)
{
    const struct proposer *p = v->group[0].proposer;
    if (p->state != PROPOSER_SERVING || !p->has_membership || p->has_uncommitted || !same_voters(&p->committed, &v->change.membership))
        return false;
    unsigned n = 0;
    for (unsigned i = 0; i < p->committed.n_voters; i++) {
        uint32_t link = volume_find_link(v, &p->committed.voter[i]);
        n += link < VOLUME_LINKS_MAX && p->replica[link].commit >= p->committed.slot;
    }
    return n >= membership_majority(&p->committed);
}

static void propose(struct volume *v)
{
    struct member_change *c = &v->change;
    struct volume_group *g = &v->group[0];
    struct entry *e = entry_new(v->reactor->arena, ENTRY_MEMBER, 0, 0, NULL, 0);
    if (!e)
        return; /* no memory: with the next tick */
    e->u[0].membership = c->membership;
    int rc = group_propose(g, e);
    if (rc == 0) {
        c->state = CHANGE_PROPOSED;
        log_info("volume %s: a change of its voters is proposed (slot %llu)", v->name, (unsigned long long)e->slot);
    } else {
        entry_unref(e);
    }
}

/* Before any write gets a slot. */
void members_pump(struct volume *v)
{
    struct member_change *c = &v->change;
    const char *why = "";
    uint64_t now = io_now(v->reactor);
    if (c->state == CHANGE_TELLING) {
        void (*done)(void *, int, const char *) = c->done;
        c->state = CHANGE_NONE;
        if (done)
            done(c->user, c->err, c->text);
        return;
    }
    if (c->state == CHANGE_NONE)
        return;
    if (is_done(v)) {
        change_end(v, 0, c->state == CHANGE_WAITING ? "the voters are these already" : "the voters are changed");
        return;
    }
    if (now - c->since_ns > CHANGE_TIMEOUT_NS) {
        change_end(v, -ETIMEDOUT, c->state == CHANGE_PROPOSED ? "the change is proposed and not committed yet: no majority of the old or of the new voters answers; it goes on"
                                                              : "the volume is not being served");
        return;
    }
    if (c->state == CHANGE_PROPOSED)
        return;
    if (same_voters(&v->group[0].proposer->committed, &c->membership) && !v->group[0].proposer->has_uncommitted)
        return; /* is_done, as soon as enough of them have heard of it */
    int rc = proposer_may_change(v->group[0].proposer, &c->membership, &why);
    c->why = why;
    if (rc == 0) {
        propose(v);
    } else if (rc == -EAGAIN) {
        if (c->held_ns == 0)
            c->held_ns = now;
        MARK("volume: writes wait for a change of the voters");
        if (now - c->held_ns > CHANGE_HOLD_NS)
            change_end(v, -EAGAIN, why);
    } else if (rc != -ENOTCONN) { /* while it is not served, it waits */
        change_end(v, rc, why);
    }
}

bool members_hold(const struct volume *v)
{
    return v->change.state == CHANGE_WAITING && v->change.held_ns != 0;
}

/* P7: the change that this session proposed is not in the log of its new ballot. */
void members_unplaced(struct volume *v)
{
    if (v->change.state == CHANGE_PROPOSED)
        change_end(v, -ECANCELED, "the front end had to attach anew, and the change was lost; nothing has changed");
}

void members_fail(struct volume *v, const char *text)
{
    if (v->change.state == CHANGE_WAITING || v->change.state == CHANGE_PROPOSED)
        change_end(v, -ESHUTDOWN, text);
    if (v->change.state == CHANGE_TELLING)
        members_pump(v);
}

static const struct uuid *learner_of(const struct membership *m)
{
    return m->n_learners == 1 ? &m->learner[0] : m->n_learners == 0 && m->n_voters == 1 ? &m->voter[0] : NULL;
}

static int stream_to(struct volume *v, const struct uuid *identity, const char **text)
{
    *text = "exactly one learner is to be named";
    if (!identity)
        return -EINVAL;
    *text = "its address is not known here, or there are too many replicas";
    uint32_t before = v->learners;
    uint32_t i = make_link(v, identity, true);
    if (i == VOLUME_LINKS_MAX)
        return -EHOSTUNREACH;
    *text = "it is a learner";
    if (v->learners != before)
        log_info("volume %s: %s (%s) learns", v->name, v->peer[i].name, v->peer[i].address);
    return 0;
}

static int stop_streaming(struct volume *v, const struct uuid *identity, const char **text)
{
    *text = "exactly one learner is to be named";
    if (!identity)
        return -EINVAL;
    uint32_t i = volume_find_link(v, identity);
    *text = "it is no learner";
    if (i == VOLUME_LINKS_MAX)
        return 0;
    v->learners &= ~(1u << i);
    if (i >= v->n_configured && !is_voter(v, identity)) {
        *text = "it is no learner any more";
        remove_link(v, i);
        return 0;
    }
    for (uint32_t k = 0; k < v->n_groups; k++)
        volume_group_step(&v->group[k], (struct proposer_event){ .type = PROPOSER_ADD_LINK, .link = i, .identity = *identity });
    return 0;
}

int volume_members(struct volume *v, enum members_verb verb, const struct membership *m, void (*done)(void *user, int err, const char *text), void *user,
                   const char **text)
{
    int rc = -EINVAL;
    *text = "no such request";
    if (v->closing) {
        *text = "the volume is being released";
        return -ESHUTDOWN;
    }
    if (verb == MEMBERS_LEARN) {
        rc = stream_to(v, learner_of(m), text);
    } else if (verb == MEMBERS_FORGET) {
        rc = stop_streaming(v, learner_of(m), text);
    } else if (verb == MEMBERS_CHANGE) {
        struct membership voters = *m;
        voters.slot = 0;
        voters.n_learners = 0;
        memset(voters.learner, 0, sizeof voters.learner);
        *text = "no group can have these voters";
        if (!membership_is_valid(&voters))
            return -EINVAL;
        *text = "another change is under way";
        if (v->change.state != CHANGE_NONE)
            return -EBUSY;
        *text = "";
        v->change = (struct member_change){ .state = CHANGE_WAITING, .membership = voters, .since_ns = io_now(v->reactor), .why = "", .done = done, .user = user };
        timer_set(v->reactor, &v->tick, io_now(v->reactor)); /* in a turn of its own: nobody is told from in here */
        return -EINPROGRESS;
    }
    volume_pump(v);
    return rc;
}
