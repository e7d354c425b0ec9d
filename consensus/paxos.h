/* What acceptor and proposer share: logs as runs, memberships and quorums, the shape of effects.
 *
 * The core is pure: a step takes one event and returns effects as data, in order. It reads no clock (time is a field of
 * the event), does no I/O, allocates nothing: memory is the caller's and fixed at start. Source: protocol.md, whose
 * rule numbers the code quotes. */
#ifndef QBD_CONSENSUS_PAXOS_H
#define QBD_CONSENSUS_PAXOS_H

#include "base/msg.h"

/* Bounds on what somebody else may ask of an acceptor: a slip in a configuration must not lock a group for a year. */
#define PAXOS_LEASE_MAX_NS (600 * NS_PER_S)
#define PAXOS_FORCE_MAX_NS (3600 * NS_PER_S)
/* Rounds beyond this are refused as damage: nothing could ever outbid them. */
#define PAXOS_ROUND_MAX (UINT64_C(1) << 62)

/* A log known by its runs: slots base.slot+1 .. last, without gaps. */
struct paxos_log {
    struct log_pos base;
    uint32_t n;
    struct run run[RUNS_MAX];
};

struct log_pos paxos_log_last(const struct paxos_log *l);
/* The ballot at slot (an entry's, or the base's); false when slot is below base or above last. */
bool paxos_log_at(const struct paxos_log *l, uint64_t slot, struct ballot *ret);
/* True when the entry (or base) at pos->slot has the ballot pos->e. */
bool paxos_log_holds(const struct paxos_log *l, const struct log_pos *pos);
/* The order of logs (protocol.md "Order of logs"). */
int log_pos_compare(const struct log_pos *a, const struct log_pos *b);
/* The highest slot at which both hold an entry (or base) of equal ballot; false when there is none at or above both
 * bases. */
bool paxos_log_match(const struct paxos_log *a, const struct paxos_log *b, struct log_pos *ret);

/* What a peer says its log is: fits, has no gap, starts behind its base, ballots never fall. */
bool paxos_runs_valid(const struct log_pos *base, uint32_t n, const struct run *runs);
/* Slots ascending, above base and not above last. */
bool paxos_lost_valid(uint32_t n, const uint64_t *lost, uint64_t base, uint64_t last);

/* False: one run more does not fit. slot must be last + 1. */
bool paxos_log_append(struct paxos_log *l, uint64_t slot, const struct ballot *e);
/* Slots >= slot are gone; slot > base. */
void paxos_log_cut(struct paxos_log *l, uint64_t slot);
/* The base rises to slot (base <= slot <= last). */
void paxos_log_trim(struct paxos_log *l, uint64_t slot);
/* Gaps, order, bounds: for the whole-state checks. */
bool paxos_log_valid(const struct paxos_log *l);

/* The index of the first element >= slot in an ascending list. */
uint32_t paxos_lower_bound(const uint64_t *list, uint32_t n, uint64_t slot);

bool membership_has_voter(const struct membership *m, const struct uuid *identity);
static inline unsigned membership_majority(const struct membership *m)
{
    return m->n_voters / 2u + 1;
}

#endif
