/* Incoming connections: the greeting, and which part of the replica each message is for.
 *
 * What always holds: nothing but HELLO is taken from a stranger; a message meant for another identity ends the connection (protocol.md "Messages"); an unknown group is
 * NACKed with `unknown`, never answered as an empty log. */
#include "replica/replica_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/mark.h"

static void session_free(struct session *s)
{
    struct replica *r = s->replica;
    uint32_t id = s->id;
    if (s->paused)
        r->sessions_paused--;
    hold_drop(s, NULL);
    list_remove(&s->link);
    free(s);
    if (r->closing)
        return;
    list_for_each(p, &r->groups)
    {
        struct replica_group *g = container_of(p, struct replica_group, link);
        struct acceptor_event ev = {.type = ACCEPTOR_LINK_DOWN, .link = id};
        replica_step(g, &ev);
    }
}

void session_hello(const struct replica *r, struct msg *m)
{
    *m = (struct msg){.type = MSG_HELLO,
                      .u.hello = {.version = WIRE_VERSION,
                                  .role = ROLE_REPLICA,
                                  .cluster = r->superblock.cluster,
                                  .identity = r->superblock.identity}};
    memcpy(m->u.hello.name, r->superblock.name, sizeof m->u.hello.name);
}

static void refuse(struct session *s, const char *why)
{
    s->replica->n_refused++;
    log_warning("refused %s (%s): %s", s->name[0] ? s->name : "a peer", s->peer.conn ? s->peer.conn->peer : "gone", why);
    wire_peer_refuse(&s->peer, "%s: %s", s->replica->superblock.name, why);
}

static void on_hello(struct session *s, const struct msg *m)
{
    struct replica *r = s->replica;
    if (m->u.hello.version != WIRE_VERSION) {
        refuse(s, "another protocol version");
        return;
    }
    /* A tool may ask any replica for its status; everybody else must be of this cluster. */
    s->foreign = !uuid_equal(&m->u.hello.cluster, &r->superblock.cluster);
    if (m->u.hello.role != ROLE_TOOL && s->foreign) {
        refuse(s, "it belongs to another cluster");
        return;
    }
    s->greeted = true;
    s->role = (enum node_role)m->u.hello.role;
    s->identity = m->u.hello.identity;
    memcpy(s->name, m->u.hello.name, sizeof s->name);
    struct msg hello;
    session_hello(r, &hello);
    wire_peer_send(&s->peer, &hello);
}

static void nack_unknown(struct session *s, const struct msg *m)
{
    struct msg nack = {.type = MSG_NACK, .cookie = m->cookie, .group = m->group, .ballot = m->ballot, .u.holder = {.unknown = 1}};
    wire_peer_send(&s->peer, &nack);
}

static void on_status(struct session *s, const struct msg *m)
{
    char *json = replica_status_json(s->replica);
    if (!json)
        return;
    struct msg answer = {.type = MSG_STATUS_REPLY, .cookie = m->cookie, .u.status_reply = {.json = json, .len = (uint32_t)strlen(json)}};
    wire_peer_send(&s->peer, &answer);
    free(json);
}

struct fetch {
    struct replica *replica;
    uint32_t session;
    struct msg answer;
};

static void on_fetched(void *user, struct entry *e, int err)
{
    struct fetch *f = user;
    struct session *s = replica_find_session(f->replica, f->session);
    if (s) {
        /* Values are named by (slot, e): another entry at that slot is not what was asked for. */
        bool found = e && e->slot == f->answer.u.value.at.slot && ballot_equal(&e->e, &f->answer.u.value.at.e);
        f->answer.u.value.found = found;
        f->answer.u.value.entry = found ? e : NULL;
        wire_peer_send(&s->peer, &f->answer);
    }
    (void)err;
    entry_unref(e);
    free(f);
}

static void on_fetch(struct session *s, struct replica_group *g, const struct msg *m)
{
    struct fetch *f = calloc(1, sizeof *f);
    if (!f)
        return; /* the proposer asks again */
    f->replica = s->replica;
    f->session = s->id;
    f->answer = (struct msg){.type = MSG_VALUE, .cookie = m->cookie, .group = m->group, .ballot = m->ballot, .u.value.at = m->u.fetch.at};
    store_value(s->replica->store, g->id, m->u.fetch.at.slot, on_fetched, f);
}

/* A stream that is opened while no slab is left brings one entry each time before it is held back, and front ends give up a replica that is silent and
 * come again: so drop by drop the reserve would go. Refused, the front end asks again now and then, and everything else goes on. */
static bool refuse_open(struct session *s, struct replica_group *g, const struct msg *m)
{
    if (m->type != MSG_OPEN || !store_is_full(s->replica->store) || ballot_compare(&m->ballot, &g->acceptor.promised) < 0)
        return false;
    MARK("session: stream refused, no slab is left");
    s->replica->n_refused++;
    struct msg nack = {.type = MSG_NACK, .cookie = m->cookie, .group = m->group, .target = m->ballot.proposer, .ballot = m->ballot,
                       .u.holder = {.promised = g->acceptor.promised, .full = 1}};
    wire_peer_send(&s->peer, &nack);
    return true;
}

static void on_consensus(struct session *s, struct replica_group *g, const struct msg *m)
{
    if (m->type == MSG_ACCEPT) {
        const struct entry *e = m->u.accept.entry;
        if (e->group != g->id || e->block > g->acceptor.size_blocks || e->nblocks > g->acceptor.size_blocks - e->block) {
            refuse(s, "it proposed an entry beyond the group's size");
            return;
        }
        s->replica->n_accepts++;
        if (e->nblocks > 0)
            store_note_client(s->replica->store);
    }
    if (refuse_open(s, g, m))
        return;
    if (copy_holds(s, g, m))
        return;
    if (m->type == MSG_OPEN)
        hold_drop(s, g);
    if (m->type == MSG_ACCEPT && hold_accept(s, g, m)) {
        replica_update_pause(s->replica);
        return;
    }
    struct acceptor_event ev = {.type = ACCEPTOR_MSG, .link = s->id, .msg = m};
    replica_step(g, &ev);
    if (m->type != MSG_ACCEPT)
        return;
    if (m->u.accept.entry->slot % TRACE_EVERY == 0)
        trace_accept(g, m->u.accept.entry->slot);
    replica_update_pause(s->replica);
}

static void on_address(struct session *s, const struct msg *m)
{
    struct msg done = {.type = MSG_DONE, .cookie = m->cookie};
    if (s->role != ROLE_TOOL)
        done.u.done.error = EPERM;
    else
        done.u.done.error = peers_learn(s->replica, &m->u.address.identity, m->u.address.name, m->u.address.address);
    if (done.u.done.error)
        snprintf(done.u.done.text, sizeof done.u.done.text, "%s",
                 done.u.done.error == EPERM ? "only a tool says where replicas live" : "it knows too many replicas already; restart it with a shorter configuration");
    wire_peer_send(&s->peer, &done);
}

static bool is_for_us(struct session *s, const struct msg *m)
{
    return uuid_equal(&m->target, &s->replica->superblock.identity);
}

static void dispatch(struct session *s, const struct msg *m)
{
    struct replica *r = s->replica;
    if (m->type == MSG_STATUS) {
        on_status(s, m);
        return;
    }
    if (s->foreign) {
        refuse(s, "it belongs to another cluster");
        return;
    }
    if (!is_for_us(s, m)) {
        refuse(s, "a message was meant for another identity: the disk behind this name is not the one that the sender knows");
        return;
    }
    if (m->type == MSG_ADDRESS) {
        on_address(s, m);
        return;
    }
    if (m->type == MSG_SCRUB) {
        scrub_on_request(s, m);
        return;
    }
    if (m->type == MSG_CREATE) {
        replica_create_group(s, m);
        return;
    }
    struct replica_group *g = replica_find_group(r, m->group);
    if (!g) {
        nack_unknown(s, m);
        return;
    }
    switch (m->type) {
    case MSG_RECOVER:
        replica_recover_group(s, g, m);
        return;
    case MSG_QUERY:
    case MSG_PREPARE:
    case MSG_OPEN:
    case MSG_ACCEPT:
    case MSG_BEAT:
    case MSG_RELEASE:
    case MSG_FORCE:
        on_consensus(s, g, m);
        return;
    case MSG_FETCH:
        on_fetch(s, g, m);
        return;
    case MSG_READ:
        serve_read(s, g, m);
        return;
    case MSG_CATCHUP:
        catchup_donate(s, g, m);
        return;
    case MSG_REGIONS:
        donate_regions(s, g, m);
        return;
    case MSG_CHUNKS:
        donate_chunks(s, g, m);
        return;
    case MSG_IMAGE:
        donate_image(s, g, m);
        return;
    case MSG_DIGESTS:
        scrub_donate_digests(s, g, m);
        return;
    case MSG_CRCS:
        scrub_donate_crcs(s, g, m);
        return;
    default:
        refuse(s, "a message that a replica does not take");
    }
}

static void on_msg(struct wire_peer *p, const struct msg *m, struct buf *payload)
{
    struct session *s = p->user;
    (void)payload;
    if (!s->greeted) {
        if (m->type == MSG_HELLO)
            on_hello(s, m);
        else
            refuse(s, "no HELLO");
        return;
    }
    dispatch(s, m);
}

static void on_closed(struct wire_peer *p, int err, const char *reason)
{
    struct session *s = p->user;
    if (reason)
        log_warning("%s: connection ended: %s", s->name[0] ? s->name : "a peer", reason);
    else
        log_debug("%s: connection ended (%s)", s->name[0] ? s->name : "a peer", err ? strerror(-err) : "end of stream");
    session_free(s);
}

static const struct wire_handler handler = {.on_msg = on_msg, .on_closed = on_closed};

void session_accept(struct listener *l, struct conn *c)
{
    struct replica *r = l->user;
    struct session *s = calloc(1, sizeof *s);
    if (!s) {
        log_error("out of memory for a connection; exiting");
        abort();
    }
    s->replica = r;
    s->id = r->next_session++;
    s->peer.verify_payload = true;
    list_init(&s->held);
    list_push_back(&r->sessions, &s->link);
    wire_peer_accept(&s->peer, c, &handler, s);
}
