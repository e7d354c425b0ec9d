/* Logs as runs, memberships.
 *
 * What always holds of a struct paxos_log: runs follow each other without gap from base.slot + 1 on, and their ballots
 * rise strictly. (Entries keep the ballot of their first proposal and a proposer only appends at the end of a log, so e
 * never falls along a log.) */
#include "consensus/paxos.h"

struct log_pos paxos_log_last(const struct paxos_log *l)
{
    if (l->n == 0)
        return l->base;
    return (struct log_pos){.slot = l->run[l->n - 1].last, .e = l->run[l->n - 1].e};
}

/* The run that holds slot, or l->n. */
static uint32_t run_of(const struct paxos_log *l, uint64_t slot)
{
    if (l->n == 0 || slot <= l->base.slot || slot > l->run[l->n - 1].last)
        return l->n;
    if (slot >= l->run[l->n - 1].first)
        return l->n - 1; /* nearly always the newest */
    uint32_t lo = 0, hi = l->n - 1;
    while (lo < hi) {
        uint32_t mid = (lo + hi) / 2;
        if (l->run[mid].last < slot)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

bool paxos_log_at(const struct paxos_log *l, uint64_t slot, struct ballot *ret)
{
    if (slot == l->base.slot) {
        *ret = l->base.e;
        return true;
    }
    uint32_t i = run_of(l, slot);
    if (i == l->n)
        return false;
    *ret = l->run[i].e;
    return true;
}

bool paxos_log_holds(const struct paxos_log *l, const struct log_pos *pos)
{
    struct ballot e;
    return paxos_log_at(l, pos->slot, &e) && ballot_equal(&e, &pos->e);
}

int log_pos_compare(const struct log_pos *a, const struct log_pos *b)
{
    int c = ballot_compare(&a->e, &b->e);
    if (c != 0)
        return c;
    return a->slot < b->slot ? -1 : a->slot > b->slot;
}

bool paxos_log_match(const struct paxos_log *a, const struct paxos_log *b, struct log_pos *ret)
{
    uint64_t la = paxos_log_last(a).slot, lb = paxos_log_last(b).slot;
    uint64_t slot = la < lb ? la : lb;
    uint64_t lowest = a->base.slot > b->base.slot ? a->base.slot : b->base.slot;
    while (slot >= lowest) {
        struct ballot ea, eb;
        if (!paxos_log_at(a, slot, &ea) || !paxos_log_at(b, slot, &eb))
            return false;
        if (ballot_equal(&ea, &eb)) {
            *ret = (struct log_pos){.slot = slot, .e = ea};
            return true;
        }
        /* No slot of either run can agree with the other's run: go on below the later start of the two. */
        uint32_t ia = run_of(a, slot), ib = run_of(b, slot);
        uint64_t fa = ia == a->n ? slot : a->run[ia].first, fb = ib == b->n ? slot : b->run[ib].first;
        uint64_t first = fa > fb ? fa : fb;
        if (first == 0)
            return false;
        slot = first - 1;
    }
    return false;
}

bool paxos_runs_valid(const struct log_pos *base, uint32_t n, const struct run *runs)
{
    if (n > RUNS_MAX)
        return false;
    uint64_t next = base->slot + 1;
    const struct ballot *e = &base->e;
    for (uint32_t i = 0; i < n; i++) {
        if (runs[i].first != next || runs[i].last < runs[i].first || runs[i].last > UINT64_MAX - 2)
            return false;
        int c = ballot_compare(e, &runs[i].e);
        if (c > 0 || (c == 0 && i > 0) || runs[i].e.round > PAXOS_ROUND_MAX)
            return false;
        next = runs[i].last + 1;
        e = &runs[i].e;
    }
    return true;
}

bool paxos_lost_valid(uint32_t n, const uint64_t *lost, uint64_t base, uint64_t last)
{
    if (n > LOST_MAX)
        return false;
    for (uint32_t i = 0; i < n; i++) {
        if (lost[i] <= base || lost[i] > last)
            return false;
        base = lost[i];
    }
    return true;
}

bool paxos_log_append(struct paxos_log *l, uint64_t slot, const struct ballot *e)
{
    assert(slot == paxos_log_last(l).slot + 1);
    if (l->n > 0 && ballot_equal(&l->run[l->n - 1].e, e)) {
        l->run[l->n - 1].last = slot;
        return true;
    }
    if (l->n == RUNS_MAX)
        return false;
    l->run[l->n++] = (struct run){.e = *e, .first = slot, .last = slot};
    return true;
}

void paxos_log_cut(struct paxos_log *l, uint64_t slot)
{
    assert(slot > l->base.slot);
    while (l->n > 0 && l->run[l->n - 1].first >= slot)
        l->n--;
    if (l->n > 0 && l->run[l->n - 1].last >= slot)
        l->run[l->n - 1].last = slot - 1;
}

void paxos_log_trim(struct paxos_log *l, uint64_t slot)
{
    struct ballot e;
    if (!paxos_log_at(l, slot, &e)) {
        assert(!"a log is trimmed to one of its slots");
        return;
    }
    uint32_t drop = 0;
    while (drop < l->n && l->run[drop].last <= slot)
        drop++;
    if (drop > 0) {
        memmove(l->run, l->run + drop, (l->n - drop) * sizeof l->run[0]);
        l->n -= drop;
    }
    if (l->n > 0 && l->run[0].first <= slot)
        l->run[0].first = slot + 1;
    l->base = (struct log_pos){.slot = slot, .e = e};
}

bool paxos_log_valid(const struct paxos_log *l)
{
    return paxos_runs_valid(&l->base, l->n, l->run);
}

uint32_t paxos_lower_bound(const uint64_t *list, uint32_t n, uint64_t slot)
{
    uint32_t lo = 0, hi = n;
    while (lo < hi) {
        uint32_t mid = (lo + hi) / 2;
        if (list[mid] < slot)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

bool membership_has_voter(const struct membership *m, const struct uuid *identity)
{
    for (unsigned i = 0; i < m->n_voters && i < MEMBERS_MAX; i++)
        if (uuid_equal(&m->voter[i], identity))
            return true;
    return false;
}
