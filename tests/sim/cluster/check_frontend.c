/* Rules on what front ends say: what they announce is chosen, what they propose has room, and who reads may. */
#include <stdio.h>

#include "nbdserver/volume_internal.h"
#include "tests/sim/cluster/check_internal.h"

/* P5: only W or chosen slots are announced. */
static void announced_is_chosen(struct checks *ck, const char *host, uint64_t slot, const char *what)
{
    if (slot > ck->chosen_through)
        CK_FAIL(ck, "agreement: %s announces in %s that slot %llu is committed, and %llu are chosen", host, what,
                LLU(slot), LLU(ck->chosen_through));
}

/* The slabs that a write may need, each of its own. */
static uint64_t slabs_of(const struct entry_format *f)
{
    if (f->kind != ENTRY_WRITE || f->nblocks == 0)
        return 0;
    return (f->block + f->nblocks - 1) / SLAB_BLOCKS - f->block / SLAB_BLOCKS + 1;
}

/* Of what ballot b sent for the slot. */
static uint64_t slabs_sent(struct checks *ck, const struct ck_ballot *b, uint64_t slot)
{
    uint64_t hash = ck_sent(b, slot);
    const struct ck_name *n = hash ? ck_slot(ck, slot)->names : NULL;
    while (n && n->hash != hash)
        n = n->next;
    struct entry_format f;
    if (!n)
        return 0;
    memcpy(&f, n->data, sizeof f);
    return slabs_of(&f);
}

static const struct proposer *proposer_at(const struct checks *ck, const char *host)
{
    for (unsigned i = 0; i < SIM_SESSIONS; i++) {
        const struct frontend *f = &ck->cluster->frontend[i];
        if (strcmp(f->host, host) == 0 && f->reactor && f->volume)
            return f->volume->group[0].proposer;
    }
    return NULL;
}

/* P10: a slot is assigned only within the credits of a quorum. What a replica has not acknowledged may not be counted in its credits. Judged by the
 * credits and acknowledgements that the front end has received by now, at the moment when it first sends the entry. */
static void within_credits(struct checks *ck, const char *host, const struct ballot *ballot, const struct ck_entry *e)
{
    const struct proposer *p = proposer_at(ck, host);
    if (!p || p->state != PROPOSER_SERVING || !ballot_equal(&p->ballot, ballot) || p->next != e->f.slot + 1)
        return;
    const struct ck_ballot *b = ck_ballot(ck, ballot);
    if (e->f.slot < b->next_at_open)
        return; /* what was sent at its assignment went down with a connection */
    uint32_t have = 0; /* disks */
    for (uint32_t i = 0; i < p->params.n_replicas; i++) {
        const struct proposer_replica *r = &p->replica[i];
        uint64_t need = slabs_of(&e->f);
        for (uint64_t s = (r->acked > p->floor ? r->acked : p->floor) + 1; need > 0 && s < e->f.slot; s++)
            need += slabs_sent(ck, b, s);
        bool fits = r->stream == STREAM_OPEN && !r->needs_copy && r->credits.slabs >= need && r->credits.slot_limit >= e->f.slot;
        for (unsigned k = 0; k < ck->n_views && fits; k++)
            have |= (uint32_t)uuid_equal(&ck->view[k]->identity, &p->params.identity[i]) << k;
    }
    if (!ck_is_quorum(ck, b, have))
        CK_FAIL(ck, "space: %s assigns slot %llu under ballot %llu, and no quorum has given credit for it", host,
                LLU(e->f.slot), LLU(ballot->round));
}

static void on_open(struct checks *ck, const char *host, uint32_t conn, const struct wire_header *h, const uint8_t *body)
{
    struct ballot b = ck_ballot_of(h);
    const struct proposer *p = proposer_at(ck, host);
    if (h->body_len < sizeof(struct wire_open))
        return;
    struct log_pos at = ((const struct wire_open *)body)->at;
    ck->open[(conn ^ 1) % CK_STREAMS] = (struct ck_open){.conn = conn ^ 1, .b = b, .at = at, .sent_at = ck->stats.messages};
    if (p && ballot_equal(&p->ballot, &b))
        ck_ballot(ck, &b)->next_at_open = p->next;
}

static void on_accept(struct checks *ck, const char *host, const struct wire_header *h, const uint8_t *body)
{
    struct ballot b = ck_ballot_of(h);
    struct ck_entry e;
    if (h->body_len < sizeof(struct wire_accept) ||
        !ck_entry_parse(body + sizeof(struct wire_accept), h->body_len - sizeof(struct wire_accept), &e))
        return;
    ck->stats.accepts++;
    if (ballot_equal(&e.e, &b) && e.f.kind != ENTRY_SESSION && ck_sent(ck_ballot(ck, &b), e.f.slot) == 0)
        within_credits(ck, host, &b, &e);
    if (ballot_equal(&e.e, &b) && ck_sent(ck_ballot(ck, &b), e.f.slot) == 0) {
        if (e.f.kind == ENTRY_SESSION)
            ck_session_proposed(ck, host, ck_ballot(ck, &b));
        if (e.f.kind == ENTRY_MEMBER)
            ck_member_proposed(ck, host, &e);
    }
    announced_is_chosen(ck, host, ((const struct wire_accept *)body)->commit, "ACCEPT");
    ck_proposed(ck, &e, &b);
}

/* P8: a read leaves under a quorum's leases, so that no other session has begun; it asks for all that its own session
 * may have acknowledged before. */
static void on_read(struct checks *ck, const char *host, uint32_t conn, const struct wire_header *h,
                    const uint8_t *body)
{
    const struct wire_read *r = (const void *)body;
    struct ballot b = ck_ballot_of(h);
    if (h->body_len < sizeof *r)
        return;
    announced_is_chosen(ck, host, r->watermark, "READ");
    *ck_asked_of(ck, conn ^ 1, h->cookie) =
        (struct ck_asked){.cookie = h->cookie, .watermark = r->watermark, .conn = conn ^ 1};
    const struct ck_ballot *own = ck_ballot(ck, &b);
    if (!own->session_chosen || r->watermark < own->session_slot)
        CK_FAIL(ck,
                "reads: %s reads at watermark %llu under ballot %llu, whose session start %llu is not chosen below it",
                host, LLU(r->watermark), LLU(b.round), LLU(own->session_slot));
    if (ballot_compare(&ck->serving, &b) > 0 && !uuid_equal(&ck->serving.proposer, &b.proposer) &&
        sim_now(ck->cluster->world) >= ck->forced_until_ns)
        CK_FAIL(ck, "leases: %s reads under ballot %llu, and a session of ballot %llu has begun", host, LLU(b.round),
                LLU(ck->serving.round));
}

void ck_from_frontend(struct checks *ck, const char *host, uint32_t conn, const struct wire_header *h, const uint8_t *body)
{
    switch (h->type) {
    case MSG_ACCEPT:
        on_accept(ck, host, h, body);
        break;
    case MSG_BEAT:
        if (h->body_len >= sizeof(struct wire_beat))
            announced_is_chosen(ck, host, ((const struct wire_beat *)body)->commit.slot, "BEAT");
        break;
    case MSG_OPEN:
        on_open(ck, host, conn, h, body);
        break;
    case MSG_RELEASE: {
        struct ballot b = ck_ballot_of(h);
        ck_ballot(ck, &b)->released = true;
        break;
    }
    case MSG_READ:
        on_read(ck, host, conn, h, body);
        break;
    case MSG_FORCE: { /* whoever forces vouches that the holder is gone; it may think otherwise for as long as its
                         leases last */
        uint64_t ns = h->body_len >= sizeof(struct wire_force) ? ((const struct wire_force *)body)->expiry_ns : 0;
        uint64_t until = sim_now(ck->cluster->world) + ns + 3 * NS_PER_MS * ck->cluster->config.lease_ms;
        if (until > ck->forced_until_ns)
            ck->forced_until_ns = until;
        break;
    }
    default:
        break;
    }
}
