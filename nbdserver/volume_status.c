/* The session's state as JSON, for operators (qbd status). */
#include "nbdserver/volume_internal.h"

#include <stdarg.h>
#include <stdio.h>

#define TRACE_STATUS_ROOM (16u << 10) /* with less room samples are left out */

/* Text grows in a buffer of fixed size; what does not fit makes `full`, and the whole is then replaced by an error, never cut. */
struct json {
    char *buf;
    size_t len, cap;
    bool full;
};

PRINTF_LIKE(2, 3) static void put(struct json *j, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(j->buf + j->len, j->cap - j->len, fmt, ap);
    va_end(ap);
    if (n < 0 || (size_t)n >= j->cap - j->len)
        j->full = true;
    else
        j->len += (size_t)n;
}

static void put_string(struct json *j, const char *s)
{
    put(j, "\"");
    for (; *s && !j->full; s++) {
        unsigned char c = (unsigned char)*s;
        if (c == '"' || c == '\\')
            put(j, "\\%c", c);
        else if (c < 0x20)
            put(j, "\\u%04x", c);
        else
            put(j, "%c", c);
    }
    put(j, "\"");
}

static void put_key_string(struct json *j, const char *key, const char *s)
{
    put(j, "\"%s\":", key);
    put_string(j, s);
    put(j, ",");
}

static void put_u64(struct json *j, const char *key, uint64_t n)
{
    put(j, "\"%s\":%llu,", key, (unsigned long long)n);
}

static void end_object(struct json *j)
{
    if (j->len > 0 && j->buf[j->len - 1] == ',')
        j->len--;
    put(j, "}");
}

static const char *proposer_state_name(enum proposer_state s)
{
    static const char *const name[] = { "idle", "querying", "preparing", "recovering", "starting", "serving", "waiting", "fenced" };
    return name[s];
}

static const char *stream_name(enum proposer_stream s)
{
    static const char *const name[] = { "down", "idle", "opening", "open", "behind" };
    return name[s];
}

static const char *link_name(enum replica_link_state s)
{
    static const char *const name[] = { "stopped", "waiting", "connecting", "hello", "up", "closing" };
    return name[s];
}

static const char *json_bool(bool b)
{
    return b ? "true" : "false";
}

static void put_voters(struct json *j, const char *key, const struct membership *m)
{
    char text[37];
    put(j, "\"%s\":[", key);
    for (unsigned i = 0; i < m->n_voters; i++)
        put(j, "%s\"%s\"", i ? "," : "", uuid_format(&m->voter[i], text));
    put(j, "],");
}

static void put_membership(struct json *j, const struct volume *v, const struct proposer *p)
{
    static const char *const change[] = { "none", "waiting", "proposed", "done" };
    if (p->has_membership) {
        put_u64(j, "membership_slot", p->committed.slot);
        put_voters(j, "voters", &p->committed);
    }
    if (p->has_uncommitted)
        put_voters(j, "uncommitted_voters", &p->uncommitted);
    put_key_string(j, "change", change[v->change.state]);
    if (v->change.state == CHANGE_WAITING)
        put_key_string(j, "change_waits_for", v->change.why);
}

static uint64_t us_between(uint64_t from_ns, uint64_t to_ns)
{
    return to_ns > from_ns ? (to_ns - from_ns) / 1000 : 0;
}

static void put_acks(struct json *j, const struct write_trace *t, uint32_t link)
{
    put_u64(j, "traced_acks", t->ack[link].n);
    put_u64(j, "traced_ack_us", t->ack[link].ns / 1000);
    put_u64(j, "traced_decided", t->decided[link]);
}

/* Sums over all sampled writes, and the newest ones: [slot, blocks, prepare, quorum, reply, {replica: acknowledged after}], us; null: not yet. */
static void put_trace(struct json *j, const struct volume *v)
{
    const struct write_trace *t = &v->group[0].trace;
    put(j, "\"trace\":{\"every\":%u,", TRACE_EVERY);
    put_u64(j, "writes", t->quorum.n);
    put_u64(j, "prepare_us", t->prepare.ns / 1000);
    put_u64(j, "quorum_us", t->quorum.ns / 1000);
    put_u64(j, "reply_us", t->reply.ns / 1000);
    put(j, "\"samples\":[");
    uint64_t told = j->cap - j->len < TRACE_STATUS_ROOM ? 0 : t->n < TRACE_TOLD ? t->n : TRACE_TOLD;
    for (uint64_t i = t->n - told; i < t->n; i++) {
        const struct write_sample *s = &t->sample[i % TRACE_KEPT];
        put(j, "%s[%llu,%u,%llu,", i > t->n - told ? "," : "", (unsigned long long)s->slot, s->nblocks,
            (unsigned long long)us_between(s->arrived_ns, s->placed_ns));
        if (s->replied_ns)
            put(j, "%llu,%llu,{", (unsigned long long)us_between(s->placed_ns, s->chosen_ns), (unsigned long long)us_between(s->chosen_ns, s->replied_ns));
        else
            put(j, "null,null,{");
        bool first = true;
        for (uint32_t k = 0; k < v->n_links; k++) {
            if (!v->link[k].replica || !s->acked_ns[k])
                continue;
            put(j, "%s\"%s\":%llu", first ? "" : ",", v->link[k].replica->name, (unsigned long long)us_between(s->placed_ns, s->acked_ns[k]));
            first = false;
        }
        put(j, "}]");
    }
    put(j, "]},");
}

static void put_replica(struct json *j, const struct volume *v, uint32_t i)
{
    const struct replica_link *l = &v->link[i];
    const struct volume_group *g = &v->group[0];
    const struct proposer_replica *pr = &g->proposer->replica[i];
    const struct read_replica *rr = &g->replica[i];
    const struct uuid *id = &l->replica->identity;
    bool voter = g->proposer->has_membership && membership_has_voter(&g->proposer->committed, id);
    char identity[37];
    bool current = pr->stream == STREAM_OPEN;
    put(j, "{");
    put_key_string(j, "name", l->replica->name);
    put_key_string(j, "address", l->replica->address);
    put_key_string(j, "identity", uuid_format(&l->replica->identity, identity));
    put_key_string(j, "link", link_name(l->state));
    put_key_string(j, "problem", l->problem);
    put_key_string(j, "stream", stream_name(pr->stream));
    put(j, "\"needs_copy\":%s,\"voter\":%s,\"learner\":%s,\"retired\":%s,", json_bool(pr->needs_copy), json_bool(voter), json_bool(pr->learner && !voter),
        json_bool(pr->retired));
    if (pr->learner && !voter)
        put_key_string(j, "learner_state", pr->stream == STREAM_DOWN ? "away" : pr->needs_copy ? "copying" : pr->stream != STREAM_OPEN ? "catching up" : "complete");
    put_u64(j, "acked", pr->acked);
    put_u64(j, "applied", pr->applied);
    put_u64(j, "lag", current && g->proposer->chosen > pr->received ? g->proposer->chosen - pr->received : 0);
    put_u64(j, "free_slabs", pr->credits.slabs);
    put_u64(j, "unsent_bytes", replica_link_is_up(l) ? conn_unsent(l->peer.conn) : 0);
    put_u64(j, "connects", l->connects);
    put_u64(j, "reads", rr->answers);
    put_u64(j, "reads_outstanding", rr->n_outstanding);
    put_u64(j, "reads_bad", rr->bad);
    put_u64(j, "reads_hedged", rr->hedged);
    put_u64(j, "read_us", rr->latency[0].mean_ns / 1000);
    put_acks(j, &g->trace, i);
    end_object(j);
}

size_t volume_status(const struct volume *v, char *buf, size_t cap)
{
    struct json j = { .buf = buf, .cap = cap };
    const struct volume_group *g = &v->group[0];
    const struct proposer *p = g->proposer;
    uint64_t now = io_now(v->reactor);
    bool held = v->held_since_ns != 0;
    char id[37];
    put(&j, "{");
    put_key_string(&j, "name", v->name);
    put_u64(&j, "size_bytes", v->export.size_bytes);
    put_u64(&j, "group", g->id);
    put_key_string(&j, "state", v->export.attached ? "attached" : v->export.refused ? "held" : "waiting");
    put_key_string(&j, "sentence", v->export.state);
    put_key_string(&j, "proposer_state", proposer_state_name(p->state));
    put_key_string(&j, "proposer", uuid_format(&v->proposer_id, id));
    put_u64(&j, "round", p->ballot.round);
    put_key_string(&j, "holder", v->export.attached ? v->frontend_name : held ? v->held_by : "");
    put_u64(&j, "holder_ms", held && v->held_until_ns > now ? (v->held_until_ns - now) / NS_PER_MS : 0);
    put_u64(&j, "session_slot", p->session_slot);
    put_u64(&j, "chosen", p->chosen);
    put_u64(&j, "in_flight", p->next > p->chosen ? p->next - 1 - p->chosen : 0);
    put_u64(&j, "retained_bytes", p->retained_bytes);
    put_u64(&j, "requests", v->n_requests);
    put_u64(&j, "requests_failed", v->requests_failed);
    put_u64(&j, "sessions", v->sessions);
    put_u64(&j, "entries", g->writes);
    put_u64(&j, "reads", g->reads);
    put_u64(&j, "read_hedges", g->hedges);
    put_u64(&j, "read_retries", g->read_retries);
    put(&j, "\"no_space\":%s,", g->no_space ? "true" : "false");
    put_membership(&j, v, p);
    put_trace(&j, v);
    put(&j, "\"replicas\":[");
    for (uint32_t i = 0, n = 0; i < v->n_links; i++) {
        if (!v->link[i].replica || (v->removing >> i & 1))
            continue;
        if (n++ > 0)
            put(&j, ",");
        put_replica(&j, v, i);
    }
    put(&j, "]");
    end_object(&j);
    if (j.full) {
        j.full = false;
        j.len = 0;
        put(&j, "{\"error\":\"status does not fit\"}");
    }
    return j.full ? 0 : j.len;
}
