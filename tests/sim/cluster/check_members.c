/* Who votes, by the log that is chosen: quorums are counted here from what the wire and the disks showed, apart from what any
 * proposer believes.
 *
 * What always holds: ck->members are the memberships that are chosen, in order of their slots, each with the ballot under which
 * it was. A ballot whose proposer holds a membership above all that is chosen needs majorities of both (protocol.md "Quorum Q"). */
#include <stdlib.h>

#include "consensus/paxos.h"
#include "tests/sim/cluster/check_internal.h"

struct ck_view *ck_view_of(struct checks *ck, unsigned node)
{
    const struct node *n = &ck->cluster->node[node];
    struct ck_view *v = ck->of_node[node];
    if (v && v->disk == n->disks)
        return v;
    if (v)
        v->gone = true;
    assert(ck->n_views < CK_DISKS);
    v = calloc(1, sizeof *v);
    assert(v);
    ck_view_init(v, ck, ck->n_views, n);
    ck->view[ck->n_views++] = v;
    return ck->of_node[node] = v;
}

const struct membership *ck_members(const struct checks *ck)
{
    return &ck->members[ck->n_members - 1].m;
}

const struct membership *ck_members_open(const struct checks *ck, const struct ck_ballot *b)
{
    return b->member_slot > ck->chosen_through ? &b->member : NULL;
}

static bool is_majority(const struct checks *ck, const struct membership *m, uint32_t mask)
{
    unsigned n = 0;
    for (unsigned i = 0; i < ck->n_views; i++)
        n += (mask >> i & 1) && membership_has_voter(m, &ck->view[i]->identity);
    return n >= membership_majority(m);
}

/* The newest that was chosen under this ballot or a lower one: of what was chosen under a higher one its proposer need not know. */
static const struct ck_members *members_as_of(const struct checks *ck, const struct ballot *b, bool below)
{
    unsigned k = ck->n_members - 1;
    while (k > 0 && ballot_compare(&ck->ballot[ck->members[k].ballot]->b, b) > (below ? -1 : 0))
        k--;
    return &ck->members[k];
}

bool ck_is_quorum(const struct checks *ck, const struct ck_ballot *b, uint32_t mask)
{
    const struct membership *open = ck_members_open(ck, b);
    return is_majority(ck, &members_as_of(ck, &b->b, false)->m, mask) && (!open || is_majority(ck, open, mask));
}

/* The highest that a majority of m's voters acknowledged. */
static uint64_t majority_acked(const struct checks *ck, const struct membership *m, const struct ck_ballot *b)
{
    uint64_t sorted[MEMBERS_MAX + 1] = {0}; /* falling */
    unsigned n = 0;
    for (unsigned i = 0; i < ck->n_views; i++) {
        if (!membership_has_voter(m, &ck->view[i]->identity))
            continue;
        unsigned k = n++;
        assert(n <= MEMBERS_MAX);
        for (; k > 0 && sorted[k - 1] < b->acked[i]; k--)
            sorted[k] = sorted[k - 1];
        sorted[k] = b->acked[i];
    }
    return sorted[membership_majority(m) - 1];
}

uint64_t ck_quorum_acked(const struct checks *ck, const struct ck_ballot *b)
{
    const struct membership *open = ck_members_open(ck, b);
    uint64_t n = majority_acked(ck, ck_members(ck), b), both = open ? majority_acked(ck, open, b) : n;
    return both < n ? both : n;
}

static void take_membership(const struct ck_entry *e, struct membership *ret)
{
    memcpy(ret, e->data + sizeof e->f, sizeof *ret);
    ret->slot = e->f.slot;
}

void ck_member_sent(struct checks *ck, struct ck_ballot *b, const struct ck_entry *e)
{
    (void)ck;
    if (e->f.slot <= b->member_slot)
        return;
    b->member_slot = e->f.slot;
    take_membership(e, &b->member);
}

/* P9: the pipeline is drained, no other change is open, and a majority of the new voters durably holds everything below. Whoever
 * joins is complete (docs/rebuild.md section 6; wrong 7). */
void ck_member_proposed(struct checks *ck, const char *host, const struct ck_entry *e)
{
    struct membership m;
    unsigned hold = 0;
    take_membership(e, &m);
    if (ck->cluster->on_voters_proposed)
        ck->cluster->on_voters_proposed(ck->cluster->user, host);
    if (e->f.slot <= ck->chosen_through && ballot_compare(&ck->serving, &e->e) > 0)
        return; /* deposed, and has not heard of it */
    if (e->f.slot != ck->chosen_through + 1) {
        CK_FAIL(ck, "membership: %s proposes new voters in slot %llu, and %llu are chosen", host, LLU(e->f.slot), LLU(ck->chosen_through));
        return;
    }
    for (unsigned i = 0; i < ck->n_views; i++) {
        struct ck_view *v = ck->view[i];
        if (!membership_has_voter(&m, &v->identity) || v->gone)
            continue;
        ck_view_advance(v);
        bool incomplete = ck_is_incomplete(v);
        hold += v->damaged || (!incomplete && v->last + 1 >= e->f.slot);
        if (incomplete && !v->damaged && !membership_has_voter(ck_members(ck), &v->identity))
            CK_FAIL(ck, "membership: %s proposes in slot %llu that %s votes, and what is durable there says that it is not complete", host,
                    LLU(e->f.slot), v->node->host);
    }
    if (hold < membership_majority(&m))
        CK_FAIL(ck, "membership: %s proposes new voters in slot %llu, and only %u of %u durably hold everything below", host, LLU(e->f.slot), hold,
                m.n_voters);
}

void ck_member_chosen(struct checks *ck, uint64_t slot, const uint8_t *data, uint32_t bytes, uint32_t ballot)
{
    struct ck_entry e;
    if (!ck_entry_parse(data, bytes, &e) || ck->n_members == CK_MEMBERSHIPS) {
        CK_FAIL(ck, "the membership in slot %llu can't be taken in", LLU(slot));
        return;
    }
    struct ck_members *m = &ck->members[ck->n_members++];
    take_membership(&e, &m->m);
    m->ballot = ballot;
    if (m->m.n_voters == 0 || m->m.n_voters > MEMBERS_MAX)
        CK_FAIL(ck, "the membership in slot %llu has %u voters", LLU(slot), m->m.n_voters);
    ck->cluster->members = m->m;
    ck->stats.memberships++;
}

/* P2: a majority of the voters promised, by the newest membership that was chosen under a lower ballot, and by the one that its own
 * log holds above that. What was chosen under a higher ballot it need not know. */
void ck_session_proposed(struct checks *ck, const char *host, const struct ck_ballot *b)
{
    const struct membership *m = &members_as_of(ck, &b->b, true)->m;
    if (!is_majority(ck, m, b->promised))
        CK_FAIL(ck, "membership: %s begins a session of ballot %llu without promises of a majority of the voters of slot %llu", host, LLU(b->b.round),
                LLU(m->slot));
    const struct membership *open = ck_members_open(ck, b);
    if (open && !is_majority(ck, open, b->promised))
        CK_FAIL(ck, "membership: %s begins a session of ballot %llu without promises of a majority of the voters that its log proposes in slot %llu", host,
                LLU(b->b.round), LLU(open->slot));
}

void ck_members_kept(struct ck_view *v, const struct group_page *g)
{
    const struct checks *ck = v->ck;
    unsigned k = ck->n_members - 1;
    while (k > 0 && ck->members[k].m.slot > g->applied.slot)
        k--;
    const struct membership *want = &ck->members[k].m, *is = &g->committed;
    bool same = is->slot != want->slot || is->n_voters == want->n_voters;
    for (unsigned i = 0; i < want->n_voters && same && is->slot == want->slot; i++)
        same = membership_has_voter(is, &want->voter[i]);
    if (is->slot < want->slot || !same)
        CK_FAIL(v->ck, "%s: a checkpoint holds slots through %llu, and the voters of slot %llu, where those of slot %llu were chosen", v->node->host,
                LLU(g->applied.slot), LLU(is->slot), LLU(want->slot));
}
