/* A group's log as the store knows it: which slots stand from the floor to the last, where their values are, and the
 * ballots of first proposal as runs.
 *
 * What always holds: base.slot = floor <= applied <= last; every slot in (floor, last] has an element; an element above
 * `applied` holds its entry in memory or is LOST. */
#include "replica/store_internal.h"

#include <stdlib.h>

void runs_append(struct paxos_log *l, uint64_t slot, const struct ballot *e)
{
    if (l->n > 0 && ballot_equal(&l->run[l->n - 1].e, e)) {
        assert(l->run[l->n - 1].last + 1 == slot);
        l->run[l->n - 1].last = slot;
        return;
    }
    assert(slot == (l->n ? l->run[l->n - 1].last : l->base.slot) + 1);
    assert(l->n < RUNS_MAX); /* the acceptor bounds them, a checkpoint is made long before */
    l->run[l->n++] = (struct run){.e = *e, .first = slot, .last = slot};
}

void runs_cut(struct paxos_log *l, uint64_t slot)
{
    while (l->n > 0 && l->run[l->n - 1].first >= slot)
        l->n--;
    if (l->n > 0 && l->run[l->n - 1].last >= slot)
        l->run[l->n - 1].last = slot - 1;
}

void runs_trim(struct paxos_log *l, uint64_t floor)
{
    if (floor <= l->base.slot)
        return;
    uint32_t i = 0;
    while (i < l->n && l->run[i].last < floor)
        i++;
    assert(i < l->n && l->run[i].first <= floor);
    l->base = (struct log_pos){floor, l->run[i].e};
    if (l->run[i].last == floor)
        i++;
    else
        l->run[i].first = floor + 1;
    memmove(l->run, l->run + i, (l->n - i) * sizeof l->run[0]);
    l->n -= i;
}

struct slot_info *log_slot(struct group *g, uint64_t slot)
{
    assert(slot > g->log.base.slot && slot <= g->last);
    return &g->slots[slot & (g->slots_cap - 1)];
}

void log_extend(struct group *g, uint64_t last)
{
    uint64_t need = last - g->log.base.slot;
    if (need > g->slots_cap) {
        uint64_t cap = g->slots_cap ? g->slots_cap : 256;
        while (cap < need)
            cap *= 2;
        struct slot_info *slots = store_calloc(cap, sizeof *slots);
        for (uint64_t s = g->log.base.slot + 1; s <= g->last; s++)
            slots[s & (cap - 1)] = g->slots[s & (g->slots_cap - 1)];
        free(g->slots);
        g->slots = slots;
        g->slots_cap = cap;
    }
    while (g->last < last) {
        g->last++;
        *log_slot(g, g->last) = (struct slot_info){.state = SLOT_NONE};
    }
}

static void clear_slot(struct group *g, uint64_t slot)
{
    struct slot_info *i = log_slot(g, slot);
    large_forget(g, slot, i);
    if (i->state == SLOT_LOST)
        g->n_lost--;
    entry_unref(i->entry);
    *i = (struct slot_info){.state = SLOT_NONE};
}

void log_cut(struct group *g, uint64_t slot)
{
    if (slot <= g->log.base.slot)
        slot = g->log.base.slot + 1; /* replay of a cut that is older than the floor */
    for (; g->last >= slot; g->last--)
        clear_slot(g, g->last);
    runs_cut(&g->log, slot);
    if (g->uncommitted.n_voters && g->uncommitted.slot >= slot)
        memset(&g->uncommitted, 0, sizeof g->uncommitted);
}

void log_raise_floor(struct group *g, uint64_t floor)
{
    assert(floor <= g->applied);
    for (uint64_t s = g->log.base.slot + 1; s <= floor; s++)
        clear_slot(g, s);
    runs_trim(&g->log, floor);
}

void log_free(struct group *g)
{
    for (uint64_t s = g->log.base.slot + 1; s <= g->last; s++) {
        entry_unref(log_slot(g, s)->entry);
        free(log_slot(g, s)->ref);
    }
    free(g->slots);
    free(g->ballots);
}
