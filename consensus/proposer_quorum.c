/* Quorums (protocol.md "Quorum Q"): a majority of the committed membership; while the own log holds an uncommitted one,
 * of both. Learners never count. */
#include "consensus/proposer_internal.h"

void proposer_set_membership(struct proposer *p, bool uncommitted, const struct membership *m)
{
    if (uncommitted) {
        p->uncommitted = *m;
        p->has_uncommitted = true;
    } else {
        p->committed = *m;
        p->has_membership = true;
    }
    uint8_t *link = p->voter_link[uncommitted];
    for (uint32_t v = 0; v < MEMBERS_MAX; v++) {
        link[v] = PROPOSER_NOBODY;
        for (uint32_t i = 0; v < m->n_voters && i < p->params.n_replicas; i++)
            if (uuid_equal(&m->voter[v], &p->params.identity[i]))
                link[v] = (uint8_t)i;
    }
}

static const struct membership *membership_of(const struct proposer *p, unsigned which)
{
    return which ? &p->uncommitted : &p->committed;
}

static bool is_majority(const struct proposer *p, unsigned which, uint32_t mask)
{
    const struct membership *m = membership_of(p, which);
    unsigned n = 0;
    for (uint32_t v = 0; v < m->n_voters; v++) {
        uint8_t i = p->voter_link[which][v];
        n += i != PROPOSER_NOBODY && (mask >> i & 1);
    }
    return n >= membership_majority(m);
}

bool proposer_is_quorum(const struct proposer *p, uint32_t mask)
{
    if (!p->has_membership) {
        unsigned n = 0;
        for (uint32_t i = 0; i < p->params.n_replicas; i++)
            n += mask >> i & 1;
        return n >= p->params.n_replicas / 2 + 1;
    }
    return is_majority(p, 0, mask) && (!p->has_uncommitted || is_majority(p, 1, mask));
}

static uint64_t majority_value(const struct proposer *p, unsigned which, const uint64_t *value)
{
    const struct membership *m = membership_of(p, which);
    uint64_t sorted[MEMBERS_MAX] = {0}; /* descending */
    uint32_t n = 0;
    for (uint32_t v = 0; v < m->n_voters; v++) {
        uint8_t i = p->voter_link[which][v];
        uint64_t x = i == PROPOSER_NOBODY ? 0 : value[i];
        uint32_t k = n++;
        for (; k > 0 && sorted[k - 1] < x; k--)
            sorted[k] = sorted[k - 1];
        sorted[k] = x;
    }
    return n == 0 ? 0 : sorted[membership_majority(m) - 1];
}

uint64_t proposer_quorum_value(const struct proposer *p, const uint64_t *value)
{
    assert(p->has_membership);
    uint64_t v = majority_value(p, 0, value);
    if (p->has_uncommitted) {
        uint64_t u = majority_value(p, 1, value);
        v = u < v ? u : v;
    }
    return v;
}

bool proposer_may_be_chosen(const struct proposer *p, uint32_t holds, uint32_t heard)
{
    for (unsigned which = 0; which < 1u + p->has_uncommitted; which++) {
        const struct membership *m = membership_of(p, which);
        unsigned n = 0;
        for (uint32_t v = 0; v < m->n_voters; v++) {
            uint8_t i = p->voter_link[which][v];
            n += i == PROPOSER_NOBODY || (holds >> i & 1) || !(heard >> i & 1);
        }
        if (n >= membership_majority(m))
            return true;
    }
    return false;
}
