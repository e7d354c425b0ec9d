/* What acceptor and proposer share: logs as runs, memberships and quorums, the shape of effects.
 *
 * The core is pure: a step takes one event and returns effects as data, in order. It reads no clock (time is a field of the event), does no I/O, allocates nothing: memory is
 * the caller's and fixed at start. Source: protocol.md, whose rule numbers the code quotes. */
#ifndef QBD_CONSENSUS_PAXOS_H
#define QBD_CONSENSUS_PAXOS_H

#include "base/msg.h"

/* A log known by its runs: slots base.slot+1 .. last, without gaps. */
struct paxos_log {
    struct log_pos base;
    uint32_t n;
    struct run run[RUNS_MAX];
};

struct log_pos paxos_log_last(const struct paxos_log *l);
/* The ballot at slot; false when slot is below base or above last. */
bool paxos_log_at(const struct paxos_log *l, uint64_t slot, struct ballot *ret);
/* The order of logs (protocol.md "Order of logs"). */
int log_pos_compare(const struct log_pos *a, const struct log_pos *b);
/* The highest slot at which both hold an entry (or base) of equal ballot; false when there is none at or above both bases. */
bool paxos_log_match(const struct paxos_log *a, const struct paxos_log *b, struct log_pos *ret);

bool membership_has_voter(const struct membership *m, const struct uuid *identity);
static inline unsigned membership_majority(const struct membership *m)
{
    return m->n_voters / 2u + 1;
}

#endif
