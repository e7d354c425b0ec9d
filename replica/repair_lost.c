/* When a damaged block is lost (docs/rebuild.md sections 4 and 9): every other voter of every known membership said several times that it has not got it intact, of images no
 * older than the damage's discovery here. Nothing less will do: one that is away may have it. */
#include "replica/replica_internal.h"

#include "base/mark.h"

/* What the peer said last of the blocks of this repair. */
void repair_denied(struct repair *rp, const struct peer *p, const struct msg *m)
{
    struct repair_denial *d = NULL;
    for (unsigned i = 0; i < rp->n_denials && !d; i++)
        if (uuid_equal(&rp->denial[i].who, &p->config.identity))
            d = &rp->denial[i];
    uint64_t now = io_now(rp->group->replica->reactor);
    if (!d && rp->n_denials == ARRAY_LEN(rp->denial))
        return;
    if (d && now - d->said_ns < REPAIR_RETRY_NS / 2)
        return; /* the same once more */
    if (!d)
        d = &rp->denial[rp->n_denials++];
    d->said_ns = now;
    d->who = p->config.identity;
    d->at = m->u.image_reply.at.slot;
    for (uint32_t i = 0; i < rp->nblocks; i++) {
        bool bad = (m->u.image_reply.bad[i / 64] | m->u.image_reply.lost[i / 64]) >> (i % 64) & 1;
        if (!bad)
            d->times[i] = 0;
        else if (d->times[i] < REPAIR_DENIALS)
            d->times[i]++;
    }
}

static bool all_deny(const struct repair *rp, const struct membership *members, uint32_t i, uint64_t *at)
{
    const struct uuid *self = &rp->group->replica->superblock.identity;
    unsigned others = 0;
    for (unsigned v = 0; v < members->n_voters; v++) {
        const struct repair_denial *d = NULL;
        if (uuid_equal(&members->voter[v], self))
            continue;
        others++;
        for (unsigned k = 0; k < rp->n_denials && !d; k++)
            if (uuid_equal(&rp->denial[k].who, &members->voter[v]))
                d = &rp->denial[k];
        if (!d || d->times[i] < REPAIR_DENIALS)
            return false;
        *at = d->at < *at ? d->at : *at;
    }
    return others > 0;
}

bool repair_is_lost(struct repair *rp, uint32_t i)
{
    struct replica_group *g = rp->group;
    uint64_t at = UINT64_MAX;
    if (!all_deny(rp, &g->acceptor.committed, i, &at) ||
        (g->acceptor.has_uncommitted && !all_deny(rp, &g->acceptor.uncommitted, i, &at)))
        return false;
    if (!store_lose(g->replica->store, g->id, rp->block + i, at))
        return false;
    g->replica->n_lost_blocks++;
    log_error("group %llu: block %llu is damaged on every replica: it is lost, reads of it fail until it is written again", (unsigned long long)g->id,
              (unsigned long long)(rp->block + i));
    return true;
}
