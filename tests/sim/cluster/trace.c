/* What is told comes from three places: the simulator's events, messages at the moment when they are handed over, and the states of replicas and front ends, which are
 * compared with what they were before each message and after each event.
 *
 * What always holds: telling changes nothing; the history is the same with and without. */
#include "tests/sim/cluster/trace.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/wire.h"
#include "nbdserver/volume_internal.h"
#include "replica/replica_internal.h"
#include "tests/sim/cluster/workload_internal.h"

#define LLU(x) ((unsigned long long)(x))
#define PROPOSERS_MAX 4096u

/* As last told. */
struct replica_seen {
    const struct replica *replica;
    bool ready;
    struct ballot promised;
    uint64_t durable, commit, applied, last, checkpoint;
    uint32_t n_lost;
    bool needs_copy;
    int catchup;
};

struct frontend_seen {
    const struct volume *volume;
    enum proposer_state state;
    struct ballot ballot;
    uint64_t chosen;
};

struct trace {
    struct trial *run;
    bool raw;
    struct arena *arena; /* for decoding */
    struct replica_seen replica[SIM_NODES];
    struct frontend_seen frontend[SIM_SESSIONS];
    struct {
        struct uuid id;
        char name[24];
    } proposer[PROPOSERS_MAX];
    uint32_t n_proposers;
    unsigned lives[SIM_SESSIONS]; /* proposers that each front end was */
};

PRINTF_LIKE(2, 3) static void say(const struct trace *t, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    printf("%12.6f ", (double)sim_now(t->run->world) / 1e9);
    vprintf(fmt, ap);
    putchar('\n');
    va_end(ap);
}

/* ---- names ---- */

/* A proposer is one life of one front end: fe1, then fe1'2, ... */
static const char *proposer_name(const struct trace *t, const struct uuid *id)
{
    static char hex[4][12];
    static unsigned turn;
    if (uuid_is_zero(id))
        return "nobody";
    for (uint32_t i = 0; i < t->n_proposers; i++)
        if (uuid_equal(&t->proposer[i].id, id))
            return t->proposer[i].name;
    char *to = hex[turn++ % 4];
    snprintf(to, sizeof hex[0], "?%02x%02x%02x", id->b[0], id->b[1], id->b[2]);
    return to;
}

static const char *ballot_text(const struct trace *t, const struct ballot *b)
{
    static char text[4][48];
    static unsigned turn;
    char *to = text[turn++ % 4];
    if (b->round == 0)
        return "none";
    snprintf(to, sizeof text[0], "%llu.%s", LLU(b->round), proposer_name(t, &b->proposer));
    return to;
}

static void meet_proposer(struct trace *t, unsigned frontend, const struct uuid *id)
{
    for (uint32_t i = 0; i < t->n_proposers; i++)
        if (uuid_equal(&t->proposer[i].id, id))
            return;
    if (t->n_proposers == PROPOSERS_MAX)
        return;
    unsigned life = ++t->lives[frontend];
    t->proposer[t->n_proposers].id = *id;
    char *name = t->proposer[t->n_proposers++].name;
    if (life == 1)
        snprintf(name, sizeof t->proposer[0].name, "fe%u", frontend + 1);
    else
        snprintf(name, sizeof t->proposer[0].name, "fe%u'%u", frontend + 1, life);
}

/* ---- messages ---- */

static const char *entry_text(const struct trace *t, const struct entry *e)
{
    static const char *const kinds[] = {"?", "WRITE", "TRIM", "ZERO", "SESSION", "MEMBER"};
    static char text[160];
    if (!e)
        return "no entry";
    int n = snprintf(text, sizeof text, "slot %llu of %s: %s", LLU(e->slot), ballot_text(t, &e->e), kinds[e->kind <= ENTRY_MEMBER ? e->kind : 0]);
    if (e->nblocks)
        snprintf(text + n, sizeof text - (size_t)n, " blocks %llu+%u", LLU(e->block), e->nblocks);
    return text;
}

static const char *pos_text(const struct trace *t, const struct log_pos *at)
{
    static char text[2][80];
    static unsigned turn;
    char *to = text[turn++ % 2];
    if (at->e.round == 0)
        snprintf(to, sizeof text[0], "slot %llu", LLU(at->slot));
    else
        snprintf(to, sizeof text[0], "slot %llu of %s", LLU(at->slot), ballot_text(t, &at->e));
    return to;
}

static const char *log_text(const struct trace *t, uint32_t n_runs, const struct run *runs, uint32_t n_lost, const uint64_t *lost)
{
    static char text[400];
    size_t n = 0;
    text[0] = 0;
    for (uint32_t i = n_runs > 4 ? n_runs - 4 : 0; i < n_runs && n < sizeof text; i++)
        n += (size_t)snprintf(text + n, sizeof text - n, " %llu-%llu:%s", LLU(runs[i].first), LLU(runs[i].last), ballot_text(t, &runs[i].e));
    if (n_lost && n < sizeof text)
        snprintf(text + n, sizeof text - n, " (%u LOST from %llu)", n_lost, LLU(lost[0]));
    return text;
}

static const char *holder_text(const struct trace *t, const struct msg *m)
{
    static char text[160];
    if (m->u.holder.unknown)
        return "no such group here";
    if (m->u.holder.full)
        return "no slab is left for a stream";
    if (uuid_is_zero(&m->u.holder.holder)) {
        snprintf(text, sizeof text, "promised %s, free", ballot_text(t, &m->u.holder.promised));
        return text;
    }
    snprintf(text, sizeof text, "promised %s, held by %s for %.3f s", ballot_text(t, &m->u.holder.promised), proposer_name(t, &m->u.holder.holder),
             (double)m->u.holder.remaining_ns / 1e9);
    return text;
}

static void describe_phase_1(const struct trace *t, const struct msg *m, char *to, size_t cap)
{
    switch (m->type) {
    case MSG_QUERY_ACK:
    case MSG_NACK:
        snprintf(to, cap, "%s", holder_text(t, m));
        break;
    case MSG_PREPARE:
        snprintf(to, cap, "wants a lease of %.3f s", (double)m->u.prepare.lease_ns / 1e9);
        break;
    case MSG_PROMISE:
        snprintf(to, cap, "lease %.3f s, base %llu, commit %llu, log%s%s", (double)m->u.promise.lease_ns / 1e9, LLU(m->u.promise.base.slot),
                 LLU(m->u.promise.commit.slot), log_text(t, m->u.promise.n_runs, m->u.promise.runs, m->u.promise.n_lost, m->u.promise.lost),
                 m->u.promise.needs_copy ? ", needs copy" : m->u.promise.retired ? ", retired" : "");
        break;
    case MSG_FETCH:
        snprintf(to, cap, "%s", pos_text(t, &m->u.fetch.at));
        break;
    case MSG_VALUE:
        snprintf(to, cap, "%s", m->u.value.found ? entry_text(t, m->u.value.entry) : "not here");
        break;
    default:
        break;
    }
}

static void describe_phase_2(const struct trace *t, const struct msg *m, char *to, size_t cap)
{
    switch (m->type) {
    case MSG_OPEN:
        snprintf(to, cap, "at %s", pos_text(t, &m->u.open.at));
        break;
    case MSG_OPENED:
        snprintf(to, cap, "at slot %llu%s", LLU(m->u.opened.m), m->u.opened.needs_copy ? ", needs copy" : "");
        break;
    case MSG_MISMATCH:
        snprintf(to, cap, "base %llu, commit %llu, log%s", LLU(m->u.mismatch.base.slot), LLU(m->u.mismatch.commit.slot),
                 log_text(t, m->u.mismatch.n_runs, m->u.mismatch.runs, m->u.mismatch.n_lost, m->u.mismatch.lost));
        break;
    case MSG_ACCEPT:
        snprintf(to, cap, "%s, commit %llu", entry_text(t, m->u.accept.entry), LLU(m->u.accept.commit));
        break;
    case MSG_ACCEPTED:
        snprintf(to, cap, "through slot %llu%s", LLU(m->u.accepted.through), m->u.accepted.needs_copy ? ", needs copy" : "");
        break;
    case MSG_BEAT:
        snprintf(to, cap, "commit %s", pos_text(t, &m->u.beat.commit));
        break;
    case MSG_BEAT_ACK:
        snprintf(to, cap, "lease %.3f s, commit %llu, applied %llu, last %llu%s%s", (double)m->u.beat_ack.lease_ns / 1e9, LLU(m->u.beat_ack.commit),
                 LLU(m->u.beat_ack.applied), LLU(m->u.beat_ack.last), m->u.beat_ack.needs_copy ? ", needs copy" : "",
                 m->u.beat_ack.retired ? ", retired" : "");
        break;
    case MSG_FORCE:
        snprintf(to, cap, "for %.3f s", (double)m->u.force.expiry_ns / 1e9);
        break;
    default:
        break;
    }
}

static void describe_copy(const struct trace *t, const struct msg *m, char *to, size_t cap)
{
    static const char *const status[] = {"", ": BEHIND", ": INCOMPLETE", ": BUSY"};
    switch (m->type) {
    case MSG_REGIONS:
        snprintf(to, cap, "at %s", pos_text(t, &m->u.regions.at));
        break;
    case MSG_REGIONS_REPLY:
        snprintf(to, cap, "%u at %s%s%s", m->u.regions_reply.n, pos_text(t, &m->u.regions_reply.at), m->u.regions_reply.more ? ", and more" : "",
                 m->u.regions_reply.status < ARRAY_LEN(status) ? status[m->u.regions_reply.status] : "?");
        break;
    case MSG_CHUNKS:
        snprintf(to, cap, "region %u at %s, since %llu", m->u.chunks.region, pos_text(t, &m->u.chunks.at), LLU(m->u.chunks.since));
        break;
    case MSG_CHUNKS_REPLY:
        snprintf(to, cap, "region %u at %s, changed %016llx%s", m->u.chunks_reply.region, pos_text(t, &m->u.chunks_reply.at), LLU(m->u.chunks_reply.changed),
                 m->u.chunks_reply.status < ARRAY_LEN(status) ? status[m->u.chunks_reply.status] : "?");
        break;
    case MSG_IMAGE:
        snprintf(to, cap, "blocks %llu+%u at %s", LLU(m->u.image.block), m->u.image.nblocks, pos_text(t, &m->u.image.at));
        break;
    case MSG_IMAGE_REPLY:
        snprintf(to, cap, "blocks %llu+%u at %s%s", LLU(m->u.image_reply.block), m->u.image_reply.nblocks, pos_text(t, &m->u.image_reply.at),
                 m->u.image_reply.status < ARRAY_LEN(status) ? status[m->u.image_reply.status] : "?");
        break;
    default:
        break;
    }
}

static void describe_rest(const struct trace *t, const struct msg *m, char *to, size_t cap)
{
    static const char *const status[] = {"", "BEHIND", "BAD", "FUZZY"}, *const catchup[] = {"", ", TOO OLD", ", UNMATCHED"};
    switch (m->type) {
    case MSG_HELLO:
        snprintf(to, cap, "from %.*s", (int)sizeof m->u.hello.name, m->u.hello.name);
        break;
    case MSG_REFUSED:
        snprintf(to, cap, "%.*s", (int)sizeof m->u.refused.reason, m->u.refused.reason);
        break;
    case MSG_READ:
        snprintf(to, cap, "blocks %llu+%u at slot %llu", LLU(m->u.read.block), m->u.read.nblocks, LLU(m->u.read.watermark));
        break;
    case MSG_DATA:
        snprintf(to, cap, "blocks %llu+%u as of slot %llu%s%s", LLU(m->u.data.block), m->u.data.nblocks, LLU(m->u.data.applied), m->u.data.status ? ": " : "",
                 m->u.data.status < ARRAY_LEN(status) ? status[m->u.data.status] : "?");
        break;
    case MSG_CATCHUP:
        snprintf(to, cap, "from %s", pos_text(t, &m->u.catchup.from));
        break;
    case MSG_CATCHUP_ENTRY:
        snprintf(to, cap, "%s", entry_text(t, m->u.catchup_entry.entry));
        break;
    case MSG_CATCHUP_END:
        snprintf(to, cap, "through slot %llu, commit %llu%s", LLU(m->u.catchup_end.through.slot), LLU(m->u.catchup_end.commit.slot),
                 m->u.catchup_end.status < ARRAY_LEN(catchup) ? catchup[m->u.catchup_end.status] : "?");
        break;
    case MSG_REGIONS:
    case MSG_REGIONS_REPLY:
    case MSG_CHUNKS:
    case MSG_CHUNKS_REPLY:
    case MSG_IMAGE:
    case MSG_IMAGE_REPLY:
        describe_copy(t, m, to, cap);
        break;
    case MSG_CREATED:
        snprintf(to, cap, "error %d", m->u.created.error);
        break;
    default:
        break;
    }
}

/* Header and body of the frame that these segments begin with. False: they are no frame. */
static bool gather(const struct segment *segs, unsigned n, uint8_t *to, size_t cap)
{
    size_t have = 0;
    for (unsigned i = 0; i < n && have < cap; i++) {
        size_t part = segs[i].len < cap - have ? segs[i].len : cap - have;
        memcpy(to + have, segs[i].ptr, part);
        have += part;
    }
    const struct wire_header *h = (const void *)to;
    return have >= sizeof *h && !wire_check_header(h) && have >= sizeof *h + h->body_len;
}

static void on_sent(void *user, const char *from, const char *to, const struct segment *segs, unsigned n)
{
    struct trace *t = user;
    static _Alignas(8) uint8_t frame[sizeof(struct wire_header) + WIRE_BODY_MAX];
    trace_look(t);
    if (!gather(segs, n, frame, sizeof frame)) {
        uint64_t bytes = 0;
        for (unsigned i = 0; i < n; i++)
            bytes += segs[i].len;
        if (t->raw)
            say(t, "%s -> %s  %llu bytes that are no message between qbd's daemons", from, to, LLU(bytes));
        return;
    }
    const struct wire_header *h = (const void *)frame;
    struct msg m;
    if (wire_decode(t->arena, h, frame + sizeof *h, &m)) {
        say(t, "%s -> %s  a message that can't be decoded", from, to);
        return;
    }
    char what[700] = "";
    if (m.type >= MSG_QUERY && m.type <= MSG_VALUE)
        describe_phase_1(t, &m, what, sizeof what);
    else if (m.type >= MSG_OPEN && m.type <= MSG_FORCE)
        describe_phase_2(t, &m, what, sizeof what);
    else
        describe_rest(t, &m, what, sizeof what);
    const char *name = wire_type_name(m.type);
    if (m.ballot.round)
        say(t, "%s -> %s  %s [%s]%s%s", from, to, name ? name : "?", ballot_text(t, &m.ballot), what[0] ? " " : "", what);
    else
        say(t, "%s -> %s  %s%s%s", from, to, name ? name : "?", what[0] ? " " : "", what);
    entry_unref(wire_msg_entry(&m));
}

/* ---- states ---- */

static void look_at_replica(struct trace *t, unsigned i)
{
    static const char *const catchup[] = {"is not behind", "connects to a peer to catch up", "catches up from a peer", "can't catch up, it has no room",
                                          "waits before it tries to catch up again"};
    const struct node *n = &t->run->cluster->node[i];
    struct replica_seen *seen = &t->replica[i];
    if (seen->replica != n->replica)
        *seen = (struct replica_seen){.replica = n->replica};
    struct replica_group *g = n->ready && n->replica ? replica_find_group(n->replica, SIM_GROUP) : NULL;
    if (!g)
        return;
    const struct acceptor *a = &g->acceptor;
    struct store_stats st;
    store_get_stats(n->replica->store, &st);
    struct replica_seen now = {.replica = n->replica,
                               .ready = true,
                               .promised = a->promised,
                               .durable = a->durable,
                               .commit = a->commit,
                               .applied = store_applied(n->replica->store, SIM_GROUP),
                               .last = paxos_log_last(&a->log).slot,
                               .checkpoint = st.checkpoint,
                               .n_lost = a->n_lost,
                               .needs_copy = a->needs_copy,
                               .catchup = (int)g->catchup.state};
    if (!seen->ready)
        say(t, "%s: serves; promised %s, log %llu..%llu, commit %llu, checkpoint %llu", n->host, ballot_text(t, &now.promised), LLU(a->log.base.slot + 1),
            LLU(now.last), LLU(now.commit), LLU(now.checkpoint));
    else if (!ballot_equal(&seen->promised, &now.promised))
        say(t, "%s: promises %s (it was %s)", n->host, ballot_text(t, &now.promised), ballot_text(t, &seen->promised));
    if (seen->ready && now.last < seen->last)
        say(t, "%s: cuts its log behind slot %llu (it ended at %llu)", n->host, LLU(now.last), LLU(seen->last));
    if (seen->ready && now.durable != seen->durable)
        say(t, "%s: slots through %llu are durable", n->host, LLU(now.durable));
    if (seen->ready && now.commit != seen->commit)
        say(t, "%s: knows slots through %llu as committed", n->host, LLU(now.commit));
    if (seen->ready && now.checkpoint != seen->checkpoint)
        say(t, "%s: checkpoint %llu is in force", n->host, LLU(now.checkpoint));
    if (now.n_lost != seen->n_lost)
        say(t, "%s: %u slots are LOST%s", n->host, now.n_lost, now.n_lost ? "" : " any more");
    if (now.needs_copy != seen->needs_copy)
        say(t, "%s: %s", n->host, now.needs_copy ? "needs copy" : "needs no copy any more");
    if (now.catchup != seen->catchup && (unsigned)now.catchup < ARRAY_LEN(catchup))
        say(t, "%s: %s", n->host, catchup[now.catchup]);
    *seen = now;
}

static void look_at_frontend(struct trace *t, unsigned i)
{
    static const char *const states[] = {"is idle", "asks who holds the volume", "prepares", "recovers the log", "starts its session", "serves", "waits before it tries again", "is FENCED"};
    const struct frontend *f = &t->run->cluster->frontend[i];
    struct frontend_seen *seen = &t->frontend[i];
    if (seen->volume != f->volume)
        *seen = (struct frontend_seen){.volume = f->volume};
    if (!f->reactor || !f->volume || !f->volume->group[0].proposer)
        return;
    const struct proposer *p = f->volume->group[0].proposer;
    meet_proposer(t, i, &p->params.id);
    if (p->state != seen->state || !ballot_equal(&p->ballot, &seen->ballot)) {
        if (p->state == PROPOSER_SERVING)
            say(t, "%s: serves under %s, its session began at slot %llu", f->host, ballot_text(t, &p->ballot), LLU(p->session_slot));
        else
            say(t, "%s: %s, ballot %s", f->host, states[p->state], ballot_text(t, &p->ballot));
    }
    if (p->chosen != seen->chosen && p->state == PROPOSER_SERVING)
        say(t, "%s: slots through %llu are chosen", f->host, LLU(p->chosen));
    *seen = (struct frontend_seen){.volume = f->volume, .state = p->state, .ballot = p->ballot, .chosen = p->chosen};
}

void trace_look(struct trace *t)
{
    if (!t || !t->run->cluster)
        return;
    for (unsigned i = 0; i < SIM_SESSIONS; i++)
        look_at_frontend(t, i);
    for (unsigned i = 0; i < t->run->cluster->n_nodes; i++)
        look_at_replica(t, i);
}

/* ---- clients ---- */

static const char *command_name(uint16_t type)
{
    switch (type) {
    case NBD_CMD_READ:
        return "READ";
    case NBD_CMD_WRITE:
        return "WRITE";
    case NBD_CMD_FLUSH:
        return "FLUSH";
    case NBD_CMD_TRIM:
        return "TRIM";
    case NBD_CMD_WRITE_ZEROES:
        return "WRITE_ZEROES";
    default:
        return "no known command";
    }
}

void trace_request(struct trace *t, const struct request *q, enum trace_request what)
{
    if (!t)
        return;
    trace_look(t);
    const struct lane *l = q->lane;
    char text[120];
    int n = snprintf(text, sizeof text, "%s", command_name(q->io.type));
    if (q->io.length)
        n += snprintf(text + n, sizeof text - (size_t)n, " %u bytes at %llu", q->io.length, LLU(q->io.offset));
    if (q->write)
        snprintf(text + n, sizeof text - (size_t)n, " (write number %u)", q->write);
    const char *client = l->host->name, *frontend = l->frontend ? l->frontend->host : "?";
    unsigned lane = (unsigned)(l - l->workload->lane);
    if (what == TRACE_ASKED)
        say(t, "%s/%u -> %s  %s", client, lane, frontend, text);
    else if (what == TRACE_ANSWERED)
        say(t, "%s -> %s/%u  %s: %s", frontend, client, lane, text, q->io.error ? strerror((int)q->io.error) : "done");
    else
        say(t, "%s/%u: %s is lost with its connection to %s", client, lane, text, frontend);
}

/* ---- beginning and end ---- */

/* The simulator's own: only what happens to processes, disks and connections, unless all is wanted. */
static void on_event(void *user, uint64_t now_ns, unsigned kind, const char *text)
{
    struct trace *t = user;
    bool important = kind == 4 || kind == 5 || (kind >= 20 && kind < 30) || (kind >= 60 && kind <= 72) || (kind >= 80 && kind < 90);
    (void)now_ns;
    if (t->raw || important)
        say(t, "%s", text);
}

struct trace *trace_new(struct trial *r, const struct run_options *o)
{
    if (!o->trace && !o->events)
        return NULL;
    struct trace *t = calloc(1, sizeof *t);
    assert(t);
    t->run = r;
    t->raw = o->events;
    t->arena = arena_new(64 * SIM_MIB);
    assert(t->arena);
    struct sim_trace s = {.event = on_event, .sent = on_sent, .user = t};
    sim_set_trace(r->world, &s);
    return t;
}

void trace_free(struct trace *t)
{
    if (!t)
        return;
    arena_drop(t->arena);
    free(t);
}
