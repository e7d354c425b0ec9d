/* The listing of a donor's regions, as of one position: what a jump goes by (docs/rebuild.md section 3).
 *
 * A donor answers in one turn, in as many messages as it takes; one that can't, or whose answer is not usable, is followed by the next voter. When all were asked in vain, catch-up is asked
 * again whether a jump is needed at all. */
#include "replica/replica_internal.h"

#include <errno.h>
#include <stdlib.h>

#include "base/mark.h"

static_assert(sizeof(struct store_region) == sizeof(struct listed_region), "a region is listed alike by the store and on the wire");
static_assert(offsetof(struct store_region, present) == offsetof(struct listed_region, present) &&
                  offsetof(struct store_region, changed_at) == offsetof(struct listed_region, changed_at),
              "a region is listed alike by the store and on the wire");

void copy_list_drop(struct replica_group *g)
{
    struct copy *c = &g->copy;
    free(c->listing);
    c->listing = NULL;
    c->n_listing = c->cap_listing = 0;
    c->cookie = 0;
    c->donor = NULL;
}

static void ask(struct replica_group *g)
{
    struct copy *c = &g->copy;
    c->n_listing = 0;
    c->at = (struct log_pos){0};
    c->cookie = g->replica->next_cookie++;
    struct msg m = {.type = MSG_REGIONS,
                    .cookie = c->cookie,
                    .group = g->id,
                    .target = c->donor->config.identity,
                    .u.regions.at = acceptor_commit_pos(&g->acceptor)};
    wire_peer_send(&c->donor->wire, &m);
    copy_set_timer(g, COPY_ANSWER_NS);
}

static void try_next(struct replica_group *g)
{
    struct copy *c = &g->copy;
    unsigned n = peers_of_group(g);
    c->cookie = 0;
    while (c->donors_tried < n) {
        /* The one that is known to have most comes first. */
        c->donor = peer_of_group(g, (g->catchup.best_peer + c->donors_tried++) % n);
        if (c->donor->state == PEER_UP) {
            ask(g);
            return;
        }
        peer_want(c->donor);
        if (c->donor->state == PEER_CONNECTING) {
            copy_set_timer(g, PEER_CONNECT_TIMEOUT_NS);
            return;
        }
    }
    MARK("copy: nobody can give a listing");
    copy_give_way(g, 10 * CATCHUP_RETRY_NS);
}

void copy_list_begin(struct replica_group *g)
{
    g->copy.phase = COPY_LISTING;
    g->copy.donors_tried = 0;
    try_next(g);
}

void copy_list_timeout(struct replica_group *g)
{
    MARK("copy: a donor did not list in time");
    try_next(g);
}

void copy_list_peer_changed(struct replica_group *g, struct peer *p)
{
    struct copy *c = &g->copy;
    if (c->donor != p)
        return;
    if (p->state == PEER_UP && c->cookie == 0)
        ask(g);
    else if (p->state == PEER_DOWN)
        try_next(g);
}

static bool take_page(struct copy *c, const struct msg *m)
{
    uint32_t n = m->u.regions_reply.n;
    const struct listed_region *page = m->u.regions_reply.region;
    if (c->n_listing > 0 && n > 0 && page[0].region <= c->listing[c->n_listing - 1].region)
        return false;
    if (c->n_listing + n > c->cap_listing) {
        uint32_t cap = 2 * (c->n_listing + n);
        struct store_region *more = realloc(c->listing, cap * sizeof *more);
        if (!more)
            return false;
        c->listing = more;
        c->cap_listing = cap;
    }
    if (n > 0)
        memcpy(c->listing + c->n_listing, page, n * sizeof *page);
    c->n_listing += n;
    return true;
}

static void listed(struct replica_group *g, const struct msg *m)
{
    struct copy *c = &g->copy;
    c->at = m->u.regions_reply.at;
    c->membership = m->u.regions_reply.membership;
    if (c->at.slot <= g->acceptor.commit || c->membership.slot > c->at.slot) {
        MARK("copy: a donor that is not ahead");
        try_next(g);
        return;
    }
    /* A learner is named by no membership: it takes what it is given until it votes. So does a former voter that is to vote again, whether it has heard of its retirement or not. */
    if (!c->invited && acceptor_is_voter(&g->acceptor) && !membership_has_voter(&c->membership, &g->acceptor.identity)) {
        MARK_IF(!c->retired, "copy: retired, the membership names it no more");
        if (!c->retired)
            log_error("group %llu: this replica is no member any more: it is not copied to", (unsigned long long)g->id);
        c->retired = true;
        copy_give_way(g, COPY_REFUSED_NS);
        return;
    }
    c->retired = false;
    c->cookie = 0;
    timer_cancel(g->replica->reactor, &c->timer);
    copy_listed(g);
}

void copy_list_on_msg(struct replica_group *g, struct peer *p, const struct msg *m)
{
    struct copy *c = &g->copy;
    if (c->donor != p || c->cookie == 0 || m->cookie != c->cookie)
        return;
    if (m->type != MSG_REGIONS_REPLY || m->u.regions_reply.status != DONOR_OK) {
        MARK("copy: a donor that can't list");
        try_next(g);
        return;
    }
    if (c->at.slot == 0)
        c->at = m->u.regions_reply.at;
    bool same = log_pos_compare(&c->at, &m->u.regions_reply.at) == 0;
    if (!same || !take_page(c, m)) {
        wire_peer_close(&p->wire); /* copy_list_peer_changed follows */
        return;
    }
    if (m->u.regions_reply.more)
        copy_set_timer(g, COPY_ANSWER_NS);
    else
        listed(g, m);
}
