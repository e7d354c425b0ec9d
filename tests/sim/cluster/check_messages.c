/* Rules on messages, each judged at the moment when its sender hands it over: what must be durable by then, what it may
 * not contradict, and what becomes chosen by it. A slot is chosen when a majority acknowledged, under one ballot, a
 * slot at or above that ballot's session start (P5). */
#include <stdio.h>

#include "nbdserver/volume_internal.h"
#include "replica/replica_internal.h"
#include "tests/sim/cluster/check_internal.h"

#define VIEW_FAIL(v, fmt, ...) CK_FAIL((v)->ck, "%s: " fmt, (v)->node->host, __VA_ARGS__)
#define MAJORITY (SIM_REPLICAS / 2 + 1)

static struct ballot ballot_of(const struct wire_header *h)
{
    struct ballot b = {.round = h->ballot_round};
    memcpy(b.proposer.b, h->ballot_proposer, 16);
    return b;
}

/* ---- what is chosen ---- */

/* A session begins: from now on nobody else may be able to read by a lease (P8, A8). */
static void session_begins(struct checks *ck, struct ck_ballot *b)
{
    struct cluster *c = ck->cluster;
    b->session_chosen = true;
    if (ballot_compare(&b->b, &ck->serving) > 0)
        ck->serving = b->b;
    ck->stats.read_sessions++;
    if (sim_now(c->world) < ck->forced_until_ns)
        return;
    for (unsigned i = 0; i < SIM_FRONTENDS; i++) {
        const struct frontend *f = &c->frontend[i];
        if (!f->reactor || !f->volume)
            continue;
        const struct proposer *p = f->volume->group[0].proposer;
        uint64_t watermark;
        if (p && p->state == PROPOSER_SERVING && !uuid_equal(&p->ballot.proposer, &b->b.proposer) &&
            ballot_compare(&p->ballot, &b->b) < 0 && /* what is chosen late under a lower ballot begins nothing */
            proposer_can_read(p, io_now(sim_reactor_io(f->reactor)), &watermark))
            CK_FAIL(ck, "leases: the session of ballot %llu begins while %s can still read under ballot %llu",
                    LLU(b->b.round), f->host, LLU(p->ballot.round));
    }
}

static bool any_damaged(const struct checks *ck)
{
    bool any = false;
    for (unsigned i = 0; i < SIM_REPLICAS; i++)
        any = any || ck->view[i].damaged;
    return any;
}

static void became_chosen(struct checks *ck, const struct ballot *ballot)
{
    uint32_t index = ck_ballot_index(ck, ballot);
    uint64_t through[SIM_REPLICAS], n = 0;
    memcpy(through, ck->ballot[index]->acked, sizeof through);
    for (unsigned i = 0; i < SIM_REPLICAS; i++) {
        unsigned at_least = 0;
        for (unsigned k = 0; k < SIM_REPLICAS; k++)
            at_least += through[k] >= through[i];
        if (at_least >= MAJORITY && through[i] > n)
            n = through[i];
    }
    struct ck_ballot *b = ck->ballot[index];
    if (!b->session_slot || n < b->session_slot)
        return;
    for (unsigned i = 0; i < SIM_REPLICAS; i++) {
        struct ck_view *v = &ck->view[i];
        uint64_t to = n < ck->chosen_through ? n : ck->chosen_through;
        if (through[i] >= n && ballot_equal(&v->ack, ballot) && v->agreed < to &&
            !ck_view_agree(v, to, "a majority acknowledged with it"))
            return;
    }
    while (ck->chosen_through < n) {
        uint64_t slot = ck->chosen_through + 1, hash = 0;
        for (unsigned i = 0; i < SIM_REPLICAS; i++) {
            /* One that answered a higher ballot since may hold something else by now. */
            const struct ck_view *v = &ck->view[i];
            uint64_t h = through[i] >= n && ballot_equal(&v->ack, ballot) ? ck_view_hash(v, slot) : 0;
            if (h && hash && h != hash) {
                CK_FAIL(ck, "agreement: a majority acknowledged slot %llu under ballot %llu with different values",
                        LLU(slot), LLU(ballot->round));
                return;
            }
            hash = h ? h : hash;
        }
        if (!hash)
            hash = ck_sent(b, slot); /* whoever held it is damaged */
        if (!hash && !any_damaged(ck)) {
            CK_FAIL(ck, "slot %llu is chosen and stands nowhere", LLU(slot));
            return;
        }
        ck_choose(ck, slot, hash ? hash : CK_UNSEEN, index);
        if (ck->cluster->broken)
            return;
    }
    if (!b->session_chosen)
        session_begins(ck, b);
}

/* ---- what a replica says ---- */

/* Everything that binds it under a ballot: the promise is durable, and it never promised a higher one. */
static bool bound(struct ck_view *v, const struct ballot *b, const char *what)
{
    if (ballot_compare(b, &v->answered) < 0) {
        VIEW_FAIL(v, "promises regress: it sends %s under ballot %llu after an answer under ballot %llu", what,
                  LLU(b->round), LLU(v->answered.round));
        return false;
    }
    v->answered = *b;
    if (ballot_compare(&v->promised, b) < 0 && !v->damaged) {
        VIEW_FAIL(v, "durability: it sends %s under ballot %llu, and the promise that is durable is %llu", what,
                  LLU(b->round), LLU(v->promised.round));
        return false;
    }
    return true;
}

static void lease_is_durable(struct ck_view *v, uint64_t lease_ns, const char *what)
{
    if (lease_ns > v->max_lease_ns && !v->damaged)
        VIEW_FAIL(v, "durability: its %s grants a lease of %llu ns, and the largest one that is durable is %llu", what,
                  LLU(lease_ns), LLU(v->max_lease_ns));
}

static void committed_is_chosen(struct ck_view *v, uint64_t slot, const char *what)
{
    if (slot > v->ck->chosen_through)
        VIEW_FAIL(v, "agreement: its %s says that slot %llu is committed, and %llu are chosen", what, LLU(slot),
                  LLU(v->ck->chosen_through));
}

/* Every run of the log that it lists was durable in its log at some time (A1). */
static void on_promise(struct ck_view *v, const struct wire_header *h, const uint8_t *body)
{
    struct checks *ck = v->ck;
    struct ballot b = ballot_of(h);
    const struct wire_promise *p = (const void *)body;
    if (h->body_len < sizeof *p || !bound(v, &b, "PROMISE"))
        return;
    lease_is_durable(v, p->lease_ns, "PROMISE");
    committed_is_chosen(v, p->commit.slot, "PROMISE");
    const struct run *run = (const void *)(p + 1);
    for (uint32_t i = 0; i < p->n_runs && (uint64_t)(i + 1) * sizeof *run <= h->body_len - sizeof *p; i++) {
        if (run[i].last <= ck->names_floor)
            continue;
        uint32_t e = ck_ballot_index(ck, &run[i].e);
        const struct ck_name *n = ck_slot(ck, run[i].last)->names;
        while (n && n->ballot != e)
            n = n->next;
        if (!v->damaged && (!n || !(n->durable >> v->index & 1))) {
            VIEW_FAIL(
                v,
                "durability: its PROMISE of ballot %llu lists slot %llu of ballot %llu, which was never durable there",
                LLU(b.round), LLU(run[i].last), LLU(run[i].e.round));
            return;
        }
    }
}

static const struct replica_group *acceptor_of(const struct ck_view *v)
{
    const struct replica *r = v->node->replica;
    return v->node->reactor && r ? replica_find_group(v->node->replica, SIM_GROUP) : NULL;
}

/* Wrong 17: an entry that has its slot is never refused for lack of space. What follows the match in an open stream is refused only when catch-up
 * has changed the log under the stream, or one of the acceptor's tables is full. */
static void on_nack(struct ck_view *v, uint32_t conn, const struct wire_header *h, const uint8_t *body)
{
    struct ballot b = ballot_of(h), promised;
    const struct wire_holder *n = (const void *)body;
    if (h->body_len < sizeof *n || n->unknown || conn != v->stream_conn || !ballot_equal(&b, &v->opened_ballot))
        return;
    v->stream_conn = 0;
    promised = n->promised;
    const struct replica_group *g = acceptor_of(v);
    if (!g || !ballot_equal(&promised, &b) || v->catchups != v->catchups_at_open || g->acceptor.needs_copy || ck_ballot(v->ck, &b)->released)
        return;
    if (g->acceptor.match_valid)
        return; /* not the stream's connection any more: a late OPEN of an older one had moved it there, and that is gone */
    if (g->acceptor.n_pending + 1 < ACCEPTOR_PENDING_MAX && g->acceptor.log.n < RUNS_MAX)
        VIEW_FAIL(v, "space: it refuses an entry of ballot %llu that follows slot %llu in an open stream", LLU(b.round),
                  LLU(paxos_log_last(&g->acceptor.log).slot));
}

/* A stream begins where both logs hold an entry of the same ballot (A3); what stands at or below it is settled when the
 * next acknowledgement says that it is durable. */
static void on_opened(struct ck_view *v, uint32_t conn, const struct wire_header *h, const uint8_t *body)
{
    struct ballot b = ballot_of(h);
    const struct ck_open *o = &v->ck->open[conn % CK_STREAMS];
    if (h->body_len < sizeof(struct wire_opened) || !bound(v, &b, "OPENED") || o->conn != conn ||
        !ballot_equal(&o->b, &b))
        return;
    v->opened = o->at;
    v->opened_ballot = b;
    const struct replica_group *g = acceptor_of(v);
    v->stream_conn = g && g->catchup.state == CATCHUP_IDLE ? conn : 0;
    v->catchups_at_open = v->catchups;
    if (o->at.slot < v->commit && !v->damaged)
        VIEW_FAIL(v, "its stream of ballot %llu is opened at slot %llu, and %llu are committed there", LLU(b.round),
                  LLU(o->at.slot), LLU(v->commit));
}

/* The log through the acknowledged slot is the one of the ballot's proposer: as far as that was sent to anybody, and
 * where the stream begins. */
static void matches_proposer(struct ck_view *v, const struct ballot *b, uint64_t through)
{
    struct checks *ck = v->ck;
    const struct ck_ballot *p = ck_ballot(ck, b);
    uint64_t s = v->ack_checked + 1 > p->first ? v->ack_checked + 1 : p->first;
    for (; s <= through && s - p->first < p->n_sent; s++) {
        uint64_t own = ck_view_hash(v, s), sent = p->sent[s - p->first];
        if (sent && own && own != sent) {
            VIEW_FAIL(v,
                      "matching: it acknowledges slot %llu under ballot %llu, and holds in slot %llu something else "
                      "than that ballot's proposer",
                      LLU(through), LLU(b->round), LLU(s));
            return;
        }
    }
    v->ack_checked = through;
    uint64_t m = v->opened.slot;
    if (!ballot_equal(&v->opened_ballot, b) || m == 0 || m > through || m <= ck->names_floor || m <= v->agreed)
        return;
    v->opened.slot = 0; /* looked at */
    uint32_t e = ck_ballot_index(ck, &v->opened.e);
    for (const struct ck_name *n = ck_slot(ck, m)->names; n; n = n->next)
        if (n->hash == ck_view_hash(v, m) && n->ballot != e)
            VIEW_FAIL(v,
                      "matching: its stream of ballot %llu was opened at slot %llu, where its log holds an entry of "
                      "another ballot than was asked for",
                      LLU(b->round), LLU(m));
}

static void on_accepted(struct ck_view *v, const struct wire_header *h, const uint8_t *body)
{
    struct checks *ck = v->ck;
    struct ballot b = ballot_of(h);
    const struct wire_accepted *a = (const void *)body;
    if (h->body_len < sizeof *a || !bound(v, &b, "ACCEPTED"))
        return;
    ck->stats.acknowledged++;
    if (a->through > v->last)
        ck_look_at_root(v); /* after a jump, which must be durable by now */
    if (a->through > v->last && !v->damaged) {
        VIEW_FAIL(v, "durability: it acknowledges slot %llu under ballot %llu, and its durable log ends at %llu",
                  LLU(a->through), LLU(b.round), LLU(v->last));
        return;
    }
    /* What was chosen under this ballot or a lower one is in every log that this ballot's proposer made. */
    uint64_t to = a->through < ck->chosen_through ? a->through : ck->chosen_through;
    while (v->agreed < to && ballot_compare(&ck->ballot[ck->slot[v->agreed + 1].chosen_ballot]->b, &b) <= 0)
        if (!ck_view_agree(v, v->agreed + 1, "it acknowledges"))
            return;
    if (!ballot_equal(&v->ack, &b))
        v->ack_through = v->ack_checked = 0;
    v->ack = b;
    matches_proposer(v, &b, a->through);
    /* Of a replica that is not complete nothing counts (docs/rebuild.md "Counting"). */
    if (a->needs_copy == 0 && a->through > v->ack_through) {
        v->ack_through = a->through;
        uint64_t *acked = &ck_ballot(ck, &b)->acked[v->index];
        if (a->through > *acked)
            *acked = a->through;
        became_chosen(ck, &b);
    }
}

static void on_beat_ack(struct ck_view *v, const struct wire_header *h, const uint8_t *body)
{
    struct ballot b = ballot_of(h);
    const struct wire_beat_ack *a = (const void *)body;
    if (h->body_len < sizeof *a || !bound(v, &b, "BEAT_ACK"))
        return;
    lease_is_durable(v, a->lease_ns, "BEAT_ACK");
    committed_is_chosen(v, a->commit, "BEAT_ACK");
}

/* Where the READ of this number is kept; or another one, if there are many. */
static struct ck_asked *asked_of(struct checks *ck, uint32_t conn, uint64_t cookie)
{
    return &ck->asked[(conn * UINT64_C(31) + (cookie >> 16) * 7 + cookie) % CK_ASKED];
}

/* The image is the one of the slot that it names, with the front ends' checksums. */
static void on_data(struct ck_view *v, uint32_t conn, const struct wire_header *h, const uint8_t *body)
{
    struct checks *ck = v->ck;
    const struct wire_data *d = (const void *)body;
    if (h->body_len >= sizeof *d && d->status == DATA_BAD && !v->damaged && !v->node->io_failed)
        VIEW_FAIL(v, "false damage: it says that blocks %llu+%u are damaged, and nothing ever happened to its disks",
                  LLU(d->block), d->nblocks);
    if (h->body_len < sizeof *d || d->status != DATA_OK || d->nblocks > ENTRY_MAX_BLOCKS ||
        h->body_len < sizeof *d + d->nblocks * 4)
        return;
    committed_is_chosen(v, d->applied, "DATA");
    const struct ck_asked *asked = asked_of(ck, conn, h->cookie);
    if (asked->conn == conn && asked->cookie == h->cookie && d->applied < asked->watermark)
        VIEW_FAIL(v, "reads: it answers with the image of slot %llu, and was asked for %llu", LLU(d->applied),
                  LLU(asked->watermark));
    const uint32_t *crc = (const void *)(d + 1);
    for (uint32_t i = 0; i < d->nblocks && !ck->cluster->broken; i++) {
        uint32_t want;
        ck->stats.data_blocks++;
        if (ck_block_at(ck, d->block + i, d->applied, &want) == CK_KNOWN && crc[i] != want)
            VIEW_FAIL(v, "applied state: block %llu has checksum %08x at slot %llu, and the chosen log makes it %08x",
                      LLU(d->block + i), crc[i], LLU(d->applied), want);
    }
}

static void on_handed_out(struct ck_view *v, const struct wire_header *h, const uint8_t *body, bool committed)
{
    struct checks *ck = v->ck;
    struct ck_entry e;
    size_t at = h->type == MSG_VALUE ? sizeof(struct wire_value) : 0;
    if (h->body_len <= at || !ck_entry_parse(body + at, h->body_len - at, &e))
        return;
    ck_seen(ck, &e, v->node->host, "hands out");
    if (!committed)
        return;
    committed_is_chosen(v, e.f.slot, "CATCHUP_ENTRY");
    if (e.f.slot <= ck->chosen_through && ck->slot[e.f.slot].chosen != e.hash && ck->slot[e.f.slot].chosen != CK_UNSEEN)
        VIEW_FAIL(v, "agreement: it hands out slot %llu as committed, and another value was chosen", LLU(e.f.slot));
}

static void from_replica(struct ck_view *v, uint32_t conn, const struct wire_header *h, const uint8_t *body)
{
    struct ballot b = ballot_of(h);
    ck_view_alive(v);
    ck_view_advance(v);
    if (v->ck->cluster->broken || v->gone)
        return;
    if (h->type != MSG_HELLO && h->type != MSG_REFUSED)
        ck_view_started(v, wire_type_name(h->type) ? wire_type_name(h->type) : "a message");
    switch (h->type) {
    case MSG_PROMISE:
        on_promise(v, h, body);
        break;
    case MSG_OPENED:
        on_opened(v, conn, h, body);
        break;
    case MSG_NACK:
        on_nack(v, conn, h, body);
        break;
    case MSG_CATCHUP:
        v->catchups++;
        break;
    case MSG_MISMATCH:
        v->stream_conn = 0;
        bound(v, &b, wire_type_name(h->type));
        break;
    case MSG_ACCEPTED:
        on_accepted(v, h, body);
        break;
    case MSG_BEAT_ACK:
        on_beat_ack(v, h, body);
        break;
    case MSG_DATA:
        on_data(v, conn, h, body);
        break;
    case MSG_VALUE:
        on_handed_out(v, h, body, false);
        break;
    case MSG_CATCHUP_ENTRY:
        on_handed_out(v, h, body, true);
        break;
    case MSG_CREATED:
        if (h->body_len >= sizeof(struct wire_created) && ((const struct wire_created *)body)->error == 0 &&
            !v->created)
            VIEW_FAIL(v, "durability: it says %s, and the group is not durable there", "CREATED");
        break;
    default:
        break;
    }
}

/* ---- what a front end says ---- */

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

/* P10: a slot is assigned only within the credits of a quorum. What a replica has not acknowledged may not be counted in its credits. Judged by the
 * credits and acknowledgements that the front end has received by now, at the moment when it first sends the entry. */
static void within_credits(struct checks *ck, const char *host, const struct ballot *ballot, const struct ck_entry *e)
{
    const struct proposer *p = NULL;
    for (unsigned i = 0; i < SIM_FRONTENDS; i++) {
        const struct frontend *f = &ck->cluster->frontend[i];
        if (strcmp(f->host, host) == 0 && f->reactor && f->volume)
            p = f->volume->group[0].proposer;
    }
    if (!p || p->state != PROPOSER_SERVING || !ballot_equal(&p->ballot, ballot) || p->next != e->f.slot + 1)
        return;
    const struct ck_ballot *b = ck_ballot(ck, ballot);
    unsigned have = 0;
    for (uint32_t i = 0; i < p->params.n_replicas; i++) {
        const struct proposer_replica *r = &p->replica[i];
        uint64_t need = slabs_of(&e->f);
        for (uint64_t s = (r->acked > p->floor ? r->acked : p->floor) + 1; need > 0 && s < e->f.slot; s++)
            need += slabs_sent(ck, b, s);
        have += r->stream == STREAM_OPEN && !r->needs_copy && r->credits.slabs >= need && r->credits.slot_limit >= e->f.slot;
    }
    if (have < MAJORITY)
        CK_FAIL(ck, "space: %s assigns slot %llu under ballot %llu, and only %u replicas have given credit for it", host,
                LLU(e->f.slot), LLU(ballot->round), have);
}

static void on_accept(struct checks *ck, const char *host, const struct wire_header *h, const uint8_t *body)
{
    struct ballot b = ballot_of(h);
    struct ck_entry e;
    if (h->body_len < sizeof(struct wire_accept) ||
        !ck_entry_parse(body + sizeof(struct wire_accept), h->body_len - sizeof(struct wire_accept), &e))
        return;
    ck->stats.accepts++;
    if (ballot_equal(&e.e, &b) && e.f.kind != ENTRY_SESSION && ck_sent(ck_ballot(ck, &b), e.f.slot) == 0)
        within_credits(ck, host, &b, &e);
    announced_is_chosen(ck, host, ((const struct wire_accept *)body)->commit, "ACCEPT");
    ck_proposed(ck, &e, &b);
}

/* P8: a read leaves under a quorum's leases, so that no other session has begun; it asks for all that its own session
 * may have acknowledged before. */
static void on_read(struct checks *ck, const char *host, uint32_t conn, const struct wire_header *h,
                    const uint8_t *body)
{
    const struct wire_read *r = (const void *)body;
    struct ballot b = ballot_of(h);
    if (h->body_len < sizeof *r)
        return;
    announced_is_chosen(ck, host, r->watermark, "READ");
    *asked_of(ck, conn ^ 1, h->cookie) =
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

static void from_frontend(struct checks *ck, const char *host, uint32_t conn, const struct wire_header *h,
                          const uint8_t *body)
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
        if (h->body_len >= sizeof(struct wire_open))
            ck->open[(conn ^ 1) % CK_STREAMS] =
                (struct ck_open){.conn = conn ^ 1, .b = ballot_of(h), .at = ((const struct wire_open *)body)->at};
        break;
    case MSG_RELEASE: {
        struct ballot b = ballot_of(h);
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

void ck_message(struct checks *ck, const char *host, uint32_t conn, const struct wire_header *h, const uint8_t *body)
{
    if (ck->cluster->broken)
        return;
    ck->stats.messages++;
    for (unsigned i = 0; i < SIM_REPLICAS; i++)
        if (strcmp(ck->cluster->node[i].host, host) == 0) {
            from_replica(&ck->view[i], conn, h, body);
            return;
        }
    if (h->group == SIM_GROUP)
        from_frontend(ck, host, conn, h, body);
}
