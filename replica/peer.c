/* Outgoing connections to other replicas, made when there is something to ask (catch-up, repair). Replicas elect nobody: these carry requests for committed entries and blocks only. */
#include "replica/replica_internal.h"

#include <errno.h>
#include <stdio.h>

static void peer_changed(struct peer *p)
{
    list_for_each(l, &p->replica->groups)
    {
        catchup_peer_changed(container_of(l, struct replica_group, link), p);
        copy_peer_changed(container_of(l, struct replica_group, link), p);
    }
    repair_peer_changed(p);
    scrub_peer_changed(p);
}

static void on_open(struct wire_peer *w)
{
    struct peer *p = w->user;
    struct msg hello;
    session_hello(p->replica, &hello);
    wire_peer_send(w, &hello);
}

static void on_hello(struct peer *p, const struct msg *m)
{
    if (m->u.hello.version != WIRE_VERSION || !uuid_equal(&m->u.hello.cluster, &p->replica->superblock.cluster) ||
        !uuid_equal(&m->u.hello.identity, &p->config.identity)) {
        log_warning("%s at %s is not the replica that the configuration names (a wiped disk is a new identity); not asking it",
                    p->config.name, p->config.address);
        wire_peer_close(&p->wire);
        return;
    }
    p->state = PEER_UP;
    timer_cancel(p->replica->reactor, &p->timeout);
    peer_changed(p);
}

static void on_msg(struct wire_peer *w, const struct msg *m, struct buf *payload)
{
    struct peer *p = w->user;
    if (p->state != PEER_UP) {
        if (m->type == MSG_HELLO)
            on_hello(p, m);
        else if (m->type == MSG_REFUSED)
            log_warning("%s refused us: %s", p->config.name, m->u.refused.reason);
        return;
    }
    if (m->type == MSG_IMAGE_REPLY || m->type == MSG_NACK)
        repair_on_answer(p, m, payload);
    if (m->type == MSG_DIGESTS_REPLY || m->type == MSG_CRCS_REPLY || m->type == MSG_NACK)
        scrub_on_answer(p, m);
    if (m->type == MSG_REFUSED) {
        log_warning("%s refused us: %s", p->config.name, m->u.refused.reason);
        return;
    }
    struct replica_group *g = replica_find_group(p->replica, m->group);
    if (!g)
        return;
    catchup_on_msg(g, p, m);
    copy_on_msg(g, p, m, payload);
}

static void on_closed(struct wire_peer *w, int err, const char *reason)
{
    struct peer *p = w->user;
    if (reason)
        log_warning("%s: connection ended: %s", p->config.name, reason);
    (void)err;
    p->state = PEER_DOWN;
    p->retry_at_ns = io_now(p->replica->reactor) + CATCHUP_RETRY_NS;
    timer_cancel(p->replica->reactor, &p->timeout);
    if (!p->replica->closing)
        peer_changed(p);
}

static const struct wire_handler handler = {.on_open = on_open, .on_msg = on_msg, .on_closed = on_closed};

static void on_timeout(struct timer *t)
{
    struct peer *p = container_of(t, struct peer, timeout);
    wire_peer_close(&p->wire); /* on_closed follows */
}

void peer_want(struct peer *p)
{
    uint64_t now = io_now(p->replica->reactor);
    if (p->state != PEER_DOWN || now < p->retry_at_ns || p->replica->closing)
        return;
    p->wire.verify_payload = true;
    if (wire_peer_connect(&p->wire, p->replica->reactor, p->config.address, &handler, p) < 0) {
        p->retry_at_ns = now + PEER_CONNECT_TIMEOUT_NS;
        return;
    }
    p->state = PEER_CONNECTING;
    timer_set(p->replica->reactor, &p->timeout, now + PEER_CONNECT_TIMEOUT_NS);
}

void peers_init(struct replica *r)
{
    for (uint32_t i = 0; i < r->config->n_replicas; i++) {
        const struct replica_config *c = &r->config->replicas[i];
        if (uuid_equal(&c->identity, &r->superblock.identity))
            continue;
        r->peers[r->n_peers++] = (struct peer){.replica = r, .config = *c, .timeout.fn = on_timeout};
    }
}

int peers_learn(struct replica *r, const struct uuid *identity, const char *name, const char *address)
{
    if (uuid_equal(identity, &r->superblock.identity))
        return 0;
    struct peer *p = NULL;
    for (uint32_t i = 0; i < r->n_peers && !p; i++)
        if (uuid_equal(&r->peers[i].config.identity, identity))
            p = &r->peers[i];
    if (!p && r->n_peers == CONFIG_REPLICAS_MAX)
        return ENOSPC;
    if (!p) {
        p = &r->peers[r->n_peers++];
        *p = (struct peer){.replica = r, .config.identity = *identity, .timeout.fn = on_timeout};
    }
    if (strcmp(p->config.address, address) != 0)
        log_info("%s lives at %s", name, address); /* a connection that stands is left to its end */
    snprintf(p->config.name, sizeof p->config.name, "%s", name);
    snprintf(p->config.address, sizeof p->config.address, "%s", address);
    return 0;
}

void peers_close(struct replica *r)
{
    for (uint32_t i = 0; i < r->n_peers; i++) {
        timer_cancel(r->reactor, &r->peers[i].timeout);
        if (r->peers[i].state != PEER_DOWN)
            wire_peer_close(&r->peers[i].wire);
    }
}

static bool may_help(const struct replica_group *g, const struct peer *p)
{
    return g->catchup.anybody || membership_has_voter(&g->acceptor.committed, &p->config.identity);
}

struct peer *peer_of_group(struct replica_group *g, unsigned i)
{
    struct replica *r = g->replica;
    for (uint32_t k = 0; k < r->n_peers; k++)
        if (may_help(g, &r->peers[k]) && i-- == 0)
            return &r->peers[k];
    return NULL;
}

unsigned peers_of_group(const struct replica_group *g)
{
    unsigned n = 0;
    for (uint32_t k = 0; k < g->replica->n_peers; k++)
        n += may_help(g, &g->replica->peers[k]);
    return n;
}
