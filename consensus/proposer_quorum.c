/* Quorums (protocol.md "Quorum Q"): a majority of the committed membership; while the own log holds an uncommitted one,
 * of both. Learners never count. */
#include "consensus/proposer_internal.h"

static void find_voters(struct proposer *p, unsigned which)
{
    const struct membership *m = which ? &p->uncommitted : &p->committed;
    uint8_t *link = p->voter_link[which];
    for (uint32_t v = 0; v < MEMBERS_MAX; v++) {
        link[v] = PROPOSER_NOBODY;
        if (v >= m->n_voters)
            continue;
        for (uint32_t i = 0; i < p->params.n_replicas; i++)
            if (uuid_equal(&m->voter[v], &p->params.identity[i]))
                link[v] = (uint8_t)i;
        p->want_links |= link[v] == PROPOSER_NOBODY && (which ? p->has_uncommitted : p->has_membership);
    }
}

void proposer_set_membership(struct proposer *p, bool uncommitted, const struct membership *m)
{
    if (uncommitted) {
        p->uncommitted = *m;
        p->has_uncommitted = true;
    } else {
        p->committed = *m;
        p->has_membership = true;
    }
    find_voters(p, uncommitted);
}

void proposer_links_changed(struct proposer *p)
{
    for (unsigned which = 0; which < 2; which++)
        find_voters(p, which);
}

bool proposer_is_voter(const struct proposer *p, uint32_t i)
{
    return (p->has_membership && membership_has_voter(&p->committed, &p->params.identity[i])) ||
           (p->has_uncommitted && membership_has_voter(&p->uncommitted, &p->params.identity[i]));
}

bool proposer_wants_stream(const struct proposer *p, uint32_t i)
{
    const struct proposer_replica *r = &p->replica[i];
    return !uuid_is_zero(&p->params.identity[i]) && (!r->retired || r->learner || proposer_is_voter(p, i));
}

bool proposer_is_configured_majority(const struct proposer *p, uint32_t mask)
{
    unsigned n = 0, of = 0;
    for (uint32_t i = 0; i < p->params.n_replicas; i++) {
        of += p->replica[i].configured;
        n += p->replica[i].configured && (mask >> i & 1);
    }
    return n >= of / 2 + 1;
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
    if (!p->has_membership)
        return proposer_is_configured_majority(p, mask);
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
