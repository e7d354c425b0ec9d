/* Rules on what replicas say, each judged at the moment when it is handed over: what must be durable by then, what it may
 * not contradict, and what becomes chosen by it. A slot is chosen when a quorum (check_members.c) acknowledged, under one
 * ballot, a slot at or above that ballot's session start (P5). */
#include <stdio.h>

#include "nbdserver/volume_internal.h"
#include "replica/replica_internal.h"
#include "tests/sim/cluster/check_internal.h"

#define VIEW_FAIL(v, fmt, ...) CK_FAIL((v)->ck, "%s: " fmt, (v)->node->host, __VA_ARGS__)

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
    for (unsigned i = 0; i < SIM_SESSIONS; i++) {
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
    for (unsigned i = 0; i < ck->n_views; i++)
        any = any || ck->view[i]->damaged;
    return any;
}

/* What stood in this slot at those who acknowledged it; 0: it can't be seen any more. */
static uint64_t acknowledged_value(struct checks *ck, const struct ck_ballot *b, uint64_t n, uint64_t slot)
{
    uint64_t hash = 0;
    for (unsigned i = 0; i < ck->n_views; i++) {
        /* One that answered a higher ballot since may hold something else by now. */
        const struct ck_view *v = ck->view[i];
        uint64_t h = b->acked[i] >= n && ballot_equal(&v->ack, &b->b) ? ck_view_hash(v, slot) : 0;
        if (h && hash && h != hash)
            CK_FAIL(ck, "agreement: a quorum acknowledged slot %llu under ballot %llu with different values", LLU(slot),
                    LLU(b->b.round));
        hash = h ? h : hash;
    }
    return hash ? hash : ck_sent(b, slot); /* whoever held it is damaged */
}

/* Through n. */
static void choose_through(struct checks *ck, uint32_t index, uint64_t n)
{
    const struct ck_ballot *b = ck->ballot[index];
    for (unsigned i = 0; i < ck->n_views; i++) {
        struct ck_view *v = ck->view[i];
        uint64_t to = n < ck->chosen_through ? n : ck->chosen_through;
        if (b->acked[i] >= n && ballot_equal(&v->ack, &b->b) && v->agreed < to &&
            !ck_view_agree(v, to, "a quorum acknowledged with it"))
            return;
    }
    while (ck->chosen_through < n && !ck->cluster->broken) {
        uint64_t slot = ck->chosen_through + 1, hash = acknowledged_value(ck, b, n, slot);
        if (!hash && !any_damaged(ck)) {
            CK_FAIL(ck, "slot %llu is chosen and stands nowhere", LLU(slot));
            return;
        }
        ck_choose(ck, slot, hash ? hash : CK_UNSEEN, index);
    }
}

/* A membership that is chosen is in force for what is above it: then it is looked at again. */
static void became_chosen(struct checks *ck, const struct ballot *ballot)
{
    uint32_t index = ck_ballot_index(ck, ballot);
    struct ck_ballot *b = ck->ballot[index];
    unsigned members;
    do {
        uint64_t n = ck_quorum_acked(ck, b);
        if (!b->session_slot || n < b->session_slot)
            return;
        members = ck->n_members;
        choose_through(ck, index, n);
        if (ck->cluster->broken)
            return;
        if (!b->session_chosen)
            session_begins(ck, b);
    } while (members != ck->n_members);
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

void ck_committed_is_chosen(struct ck_view *v, uint64_t slot, const char *what)
{
    if (slot > v->ck->chosen_through)
        VIEW_FAIL(v, "agreement: its %s says that slot %llu is committed, and %llu are chosen", what, LLU(slot),
                  LLU(v->ck->chosen_through));
}

/* Every run of the log that it lists was durable in its log at some time (A1). */
static void on_promise(struct ck_view *v, const struct wire_header *h, const uint8_t *body)
{
    struct checks *ck = v->ck;
    struct ballot b = ck_ballot_of(h);
    const struct wire_promise *p = (const void *)body;
    if (h->body_len < sizeof *p || !bound(v, &b, "PROMISE"))
        return;
    ck_says_complete(v, p->needs_copy, "PROMISE");
    if (!p->needs_copy)
        ck_ballot(ck, &b)->promised |= 1u << v->index;
    lease_is_durable(v, p->lease_ns, "PROMISE");
    ck_committed_is_chosen(v, p->commit.slot, "PROMISE");
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

/* A connection of which an OPEN of the ballot was never heard to be answered: it may have come late, taken the stream over, and died before the answer was durable. */
static bool may_have_moved(const struct checks *ck, uint32_t conn, const struct ballot *b)
{
    bool found = false;
    for (unsigned i = 0; i < CK_STREAMS && !found; i++)
        found = ck->open[i].conn && ck->open[i].conn != conn && !ck->open[i].answered && ballot_equal(&ck->open[i].b, b);
    return found;
}

/* Wrong 17: an entry that has its slot is never refused for lack of space. What follows the match in an open stream is refused only when catch-up
 * has changed the log under the stream, or one of the acceptor's tables is full. */
static void on_nack(struct ck_view *v, uint32_t conn, const struct wire_header *h, const uint8_t *body)
{
    struct ballot b = ck_ballot_of(h), promised;
    const struct wire_holder *n = (const void *)body;
    if (h->body_len < sizeof *n || n->unknown || conn != v->stream_conn || !ballot_equal(&b, &v->opened_ballot))
        return;
    v->stream_conn = 0;
    promised = n->promised;
    const struct replica_group *g = acceptor_of(v);
    if (!g || !ballot_equal(&promised, &b) || v->catchups != v->catchups_at_open || g->acceptor.needs_copy || ck_ballot(v->ck, &b)->released)
        return;
    struct log_pos last = paxos_log_last(&g->acceptor.log);
    if (ballot_compare(&last.e, &b) > 0)
        return; /* caught up before it promised: ballots never fall along a log, and b's proposer cannot win any more */
    if (g->acceptor.match_valid || (g->acceptor.stream == ACCEPTOR_NO_LINK && may_have_moved(v->ck, conn, &b)))
        return; /* not the stream's connection any more: a late OPEN of an older one had moved it there, and that is gone */
    if (g->acceptor.n_pending + 1 < ACCEPTOR_PENDING_MAX && g->acceptor.log.n < RUNS_MAX)
        VIEW_FAIL(v, "space: it refuses an entry of ballot %llu that follows slot %llu in an open stream", LLU(b.round),
                  LLU(paxos_log_last(&g->acceptor.log).slot));
}

/* A stream begins where both logs hold an entry of the same ballot (A3); what stands at or below it is settled when the
 * next acknowledgement says that it is durable. */
static void on_opened(struct ck_view *v, uint32_t conn, const struct wire_header *h, const uint8_t *body)
{
    struct ballot b = ck_ballot_of(h);
    struct ck_open *o = &v->ck->open[conn % CK_STREAMS];
    if (h->body_len < sizeof(struct wire_opened) || !bound(v, &b, "OPENED") || o->conn != conn ||
        !ballot_equal(&o->b, &b))
        return;
    o->answered = true;
    ck_says_complete(v, ((const struct wire_opened *)body)->needs_copy, "OPENED");
    v->opened = o->at;
    v->opened_ballot = b;
    const struct replica_group *g = acceptor_of(v);
    v->stream_conn = g && g->catchup.state == CATCHUP_IDLE ? conn : 0;
    v->catchups_at_open = v->catchups;
    /* It may have waited for its promise to become durable, and peers have told of more meanwhile: true when it was opened. */
    bool may_be_of_before = v->caught_up_at > o->sent_at;
    if (o->at.slot < v->commit && !v->damaged && !may_be_of_before)
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
    struct ballot b = ck_ballot_of(h);
    const struct wire_accepted *a = (const void *)body;
    if (h->body_len < sizeof *a || !bound(v, &b, "ACCEPTED"))
        return;
    ck->stats.acknowledged++;
    ck_says_complete(v, a->needs_copy, "ACCEPTED");
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
    struct ballot b = ck_ballot_of(h);
    const struct wire_beat_ack *a = (const void *)body;
    if (h->body_len < sizeof *a || !bound(v, &b, "BEAT_ACK"))
        return;
    ck_says_complete(v, a->needs_copy, "BEAT_ACK");
    lease_is_durable(v, a->lease_ns, "BEAT_ACK");
    ck_committed_is_chosen(v, a->commit, "BEAT_ACK");
}

/* The image is the one of the slot that it names, with the front ends' checksums. */
static void on_data(struct ck_view *v, uint32_t conn, const struct wire_header *h, const uint8_t *body)
{
    struct checks *ck = v->ck;
    const struct wire_data *d = (const void *)body;
    bool copied = v->jump > 0 && any_damaged(ck); /* what all donors had lost is bad here, too */
    if (h->body_len >= sizeof *d && d->status == DATA_BAD && !v->damaged && !v->node->io_failed && !copied)
        VIEW_FAIL(v, "false damage: it says that blocks %llu+%u are damaged, and nothing ever happened to its disks",
                  LLU(d->block), d->nblocks);
    if (h->body_len < sizeof *d || d->status != DATA_OK || d->nblocks > ENTRY_MAX_BLOCKS ||
        h->body_len < sizeof *d + d->nblocks * 4)
        return;
    ck_committed_is_chosen(v, d->applied, "DATA");
    const struct ck_asked *asked = ck_asked_of(ck, conn, h->cookie);
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
    ck_committed_is_chosen(v, e.f.slot, "CATCHUP_ENTRY");
    if (e.f.slot <= ck->chosen_through && ck->slot[e.f.slot].chosen != e.hash && ck->slot[e.f.slot].chosen != CK_UNSEEN)
        VIEW_FAIL(v, "agreement: it hands out slot %llu as committed, and another value was chosen", LLU(e.f.slot));
}

/* A disk speaks for itself alone (wrong 18), and of the group only once it was made a part of it. */
static void speaks_for_itself(struct ck_view *v, const struct wire_header *h, const uint8_t *body)
{
    if (h->type == MSG_HELLO && h->body_len >= sizeof(struct wire_hello)) {
        struct uuid said = ((const struct wire_hello *)body)->identity;
        if (!uuid_equal(&said, &v->identity))
            VIEW_FAIL(v, "identity: it answers under an identity that is not its disk's%s", "");
    }
    bool votes = h->type == MSG_PROMISE || h->type == MSG_OPENED || h->type == MSG_ACCEPTED || h->type == MSG_BEAT_ACK;
    if (votes && !v->created && !v->damaged)
        VIEW_FAIL(v, "identity: it sends %s, and the group is not durable there", wire_type_name(h->type));
}

static void from_replica(struct ck_view *v, uint32_t conn, const struct wire_header *h, const uint8_t *body)
{
    struct ballot b = ck_ballot_of(h);
    ck_view_alive(v);
    ck_view_advance(v);
    if (v->ck->cluster->broken || v->gone)
        return;
    if (h->type != MSG_HELLO && h->type != MSG_REFUSED)
        ck_view_started(v, wire_type_name(h->type) ? wire_type_name(h->type) : "a message");
    speaks_for_itself(v, h, body);
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
        v->caught_up_at = v->ck->stats.messages;
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
        ck_donates(v, h, body);
        break;
    }
}

void ck_message(struct checks *ck, const char *host, uint32_t conn, const struct wire_header *h, const uint8_t *body)
{
    if (ck->cluster->broken)
        return;
    ck->stats.messages++;
    for (unsigned i = 0; i < ck->cluster->n_nodes; i++)
        if (strcmp(ck->cluster->node[i].host, host) == 0) {
            from_replica(ck_view_of(ck, i), conn, h, body);
            return;
        }
    if (h->group == SIM_GROUP)
        ck_from_frontend(ck, host, conn, h, body);
}
