/* ACCEPTs that come while there is no room for their entries: kept in memory, in order, so that beats, reads and promises on the same connection go on.
 *
 * What always holds:
 *  - what a session brought is stepped in the order in which it came: once one of its ACCEPTs is held, so are all that follow;
 *  - a new OPEN of a group drops what the session held of it: the proposer sends everything above the match again;
 *  - beyond HOLD_BYTES_MAX front ends are not read from at all, as the last resort. */
#include "replica/replica_internal.h"

#include <stdlib.h>

#include "base/mark.h"

#define HOLD_BYTES_MAX (UINT64_C(24) << 20) /* what the front end of one volume may have in flight, and a half more */

struct held_accept {
    struct list link;
    struct msg msg; /* with a reference to its entry */
};

static uint64_t bytes_of(const struct msg *m)
{
    return sizeof(struct held_accept) + entry_payload_bytes(m->u.accept.entry);
}

static void forget(struct session *s, struct held_accept *h)
{
    uint64_t bytes = bytes_of(&h->msg);
    list_remove(&h->link);
    s->replica->held_bytes -= bytes;
    entry_unref(h->msg.u.accept.entry);
    free(h);
}

bool hold_is_full(const struct replica *r)
{
    uint64_t most = arena_limit_bytes(r->reactor->arena) / 8;
    return r->held_bytes >= (most < HOLD_BYTES_MAX ? most : HOLD_BYTES_MAX);
}

/* A session start or new voters take a page of the log: take-overs need not wait until a checkpoint has made room for data. */
static bool takes_nothing(const struct session *s, const struct replica_group *g, const struct entry *e)
{
    return e->nblocks == 0 && acceptor_has_room(&g->acceptor) && store_has_reserve(s->replica->store);
}

bool hold_accept(struct session *s, const struct replica_group *g, const struct msg *m)
{
    struct entry *e = m->u.accept.entry;
    if (list_empty(&s->held) && (!s->replica->no_room || takes_nothing(s, g, e)))
        return false;
    struct held_accept *h = malloc(sizeof *h);
    if (!h)
        abort(); /* there is memory for entries only */
    MARK("replica: an entry is held until there is room");
    h->msg = *m;
    entry_ref(e);
    s->replica->held_bytes += bytes_of(m);
    list_push_back(&s->held, &h->link);
    return true;
}

void hold_drop(struct session *s, const struct replica_group *g)
{
    list_for_each_safe(l, &s->held)
    {
        struct held_accept *h = container_of(l, struct held_accept, link);
        if (!g || h->msg.group == g->id)
            forget(s, h);
    }
}

/* False: there is no room any more. */
static bool release_of(struct session *s)
{
    struct replica *r = s->replica;
    while (!list_empty(&s->held)) {
        if (!replica_has_room(r))
            return false;
        struct held_accept *h = container_of(s->held.next, struct held_accept, link);
        struct replica_group *g = replica_find_group(r, h->msg.group);
        struct acceptor_event ev = {.type = ACCEPTOR_MSG, .link = s->id, .msg = &h->msg};
        if (g)
            replica_step(g, &ev);
        forget(s, h);
    }
    return true;
}

void hold_release(struct replica *r)
{
    list_for_each_safe(l, &r->sessions)
    {
        if (r->held_bytes == 0 || !release_of(container_of(l, struct session, link)))
            return;
    }
}
