/* The replica's STATUS: the truth for an operator, as JSON (docs/operations.md lists the fields). */
#include "replica/replica_internal.h"

#include "replica/scrub_status.h"

static enum group_state state_of(const struct replica_group *g)
{
    bool voter = membership_has_voter(&g->acceptor.committed, &g->acceptor.identity);
    if (g->copy.retired || g->acceptor.retired)
        return GROUP_RETIRED;
    if (g->copy.phase == COPY_FILLING || g->copy.phase == COPY_COMPLETING)
        return GROUP_COPYING;
    if (g->acceptor.needs_copy || g->copy.phase != COPY_NONE)
        return GROUP_NEEDS_COPY;
    if (g->catchup.state != CATCHUP_IDLE && g->catchup.target.slot > g->acceptor.commit)
        return GROUP_BEHIND;
    return voter ? GROUP_UP_TO_DATE : GROUP_LEARNER_COMPLETE;
}

enum group_state status_note_state(struct replica_group *g)
{
    enum group_state state = state_of(g);
    if (g->state != state) {
        g->state = state;
        g->state_since_ns = io_now(g->replica->reactor);
    }
    return state;
}

static const char *state_text(enum group_state state)
{
    static const char *const text[] = {
        [GROUP_UP_TO_DATE] = "up to date", [GROUP_LEARNER_COMPLETE] = "learner, complete", [GROUP_BEHIND] = "behind",
        [GROUP_NEEDS_COPY] = "needs copy", [GROUP_COPYING] = "copying",                    [GROUP_RETIRED] = "not a member",
    };
    return text[state];
}

/* How far a copy is; NULL: none is under way. */
static json_t *copy_json(struct replica_group *g, uint64_t now)
{
    const struct copy *c = &g->copy;
    struct store_copy_state st;
    store_copy_state(g->replica->store, g->id, &st);
    if (c->phase == COPY_NONE)
        return NULL;
    uint64_t eta = c->rate > 0 ? st.unknown_bytes / c->rate : 0;
    json_t *o = json_pack("{s:I, s:I, s:I, s:I, s:o, s:I, s:I}", "done_bytes", (json_int_t)st.copied_bytes, "left_bytes",
                          (json_int_t)st.unknown_bytes, "unchanged_bytes", (json_int_t)st.unchanged_bytes, "rate_bytes_per_s",
                          (json_int_t)c->rate, "eta_s", c->rate > 0 && st.copying ? json_integer((json_int_t)eta) : json_null(),
                          "donor_latency_us", (json_int_t)(c->donor_ns / 1000), "since_ms",
                          (json_int_t)((now - c->since_ns) / NS_PER_MS));
    if (c->refused)
        json_object_set_new(o, "refused", json_string(c->refused));
    return o;
}

static json_t *ids_json(const struct uuid *id, unsigned n)
{
    json_t *a = json_array();
    for (unsigned i = 0; i < n; i++) {
        char text[37];
        json_array_append_new(a, json_string(uuid_format(&id[i], text)));
    }
    return a;
}

static json_t *lease_json(const struct replica_group *g, uint64_t now)
{
    const struct acceptor *a = &g->acceptor;
    if (uuid_is_zero(&a->holder) || a->lease_until_ns <= now)
        return json_null();
    char id[37];
    return json_pack("{s:s, s:s, s:I}", "name", a->holder_name, "id", uuid_format(&a->holder, id), "remaining_ms",
                     (json_int_t)((a->lease_until_ns - now) / NS_PER_MS));
}

/* Sums over all sampled entries, and the newest ones: [slot, receive, wait, disk, answer], us; null: not durable yet. */
static json_t *trace_json(const struct replica_group *g)
{
    const struct accept_trace *t = &g->trace;
    uint64_t told = t->n < TRACE_TOLD ? t->n : TRACE_TOLD;
    json_t *samples = json_array();
    for (uint64_t i = t->n - told; i < t->n; i++) {
        const struct accept_sample *s = &t->sample[i % TRACE_KEPT];
        json_int_t slot = (json_int_t)s->slot, receive = (json_int_t)((s->appended_ns - s->received_ns) / 1000);
        json_array_append_new(samples, !s->answered_ns ? json_pack("[I, I, n, n, n]", slot, receive)
                                                       : json_pack("[I, I, I, I, I]", slot, receive, (json_int_t)((s->submitted_ns - s->appended_ns) / 1000),
                                                                   (json_int_t)((s->durable_ns - s->submitted_ns) / 1000),
                                                                   (json_int_t)((s->answered_ns - s->durable_ns) / 1000)));
    }
    return json_pack("{s:i, s:I, s:I, s:I, s:I, s:I, s:o}", "every", (int)TRACE_EVERY, "writes", (json_int_t)t->finished, "receive_us",
                     (json_int_t)(t->receive_ns / 1000), "wait_us", (json_int_t)(t->wait_ns / 1000), "disk_us", (json_int_t)(t->disk_ns / 1000),
                     "answer_us", (json_int_t)(t->answer_ns / 1000), "samples", samples);
}

static json_t *group_json(struct replica_group *g, uint64_t now)
{
    const struct acceptor *a = &g->acceptor;
    struct log_pos last = paxos_log_last(&a->log);
    enum group_state state = status_note_state(g);
    uint64_t behind = g->catchup.target.slot > a->commit ? g->catchup.target.slot - a->commit : 0;
    json_t *o = json_pack("{s:I, s:I, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:b}", "group", (json_int_t)g->id, "size_bytes",
                          (json_int_t)(a->size_blocks * BLOCK_SIZE), "state", state_text(state), "promised_round",
                          (json_int_t)a->promised.round, "commit", (json_int_t)a->commit, "applied",
                          (json_int_t)store_applied(g->replica->store, g->id), "last", (json_int_t)last.slot, "durable",
                          (json_int_t)a->durable, "floor", (json_int_t)a->log.base.slot, "behind_slots", (json_int_t)behind, "lost_slots",
                          (json_int_t)a->n_lost, "in_stream", a->match_valid && a->stream != ACCEPTOR_NO_LINK);
    json_object_set_new(o, "holder", lease_json(g, now));
    json_object_set_new(o, "state_ms", json_integer((json_int_t)((now - g->state_since_ns) / NS_PER_MS)));
    json_object_set_new(o, "complete", json_boolean(!a->needs_copy));
    json_object_set_new(o, "membership_slot", json_integer((json_int_t)a->committed.slot));
    json_object_set_new(o, "voters", ids_json(a->committed.voter, a->committed.n_voters));
    if (a->has_uncommitted)
        json_object_set_new(o, "uncommitted_voters", ids_json(a->uncommitted.voter, a->uncommitted.n_voters));
    json_object_set_new(o, "trace", trace_json(g));
    json_t *copy = copy_json(g, now);
    if (copy)
        json_object_set_new(o, "copy", copy);
    return o;
}

static json_t *store_json(struct replica *r)
{
    struct store_stats st;
    store_get_stats(r->store, &st);
    json_t *wal = json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "head_lsn", (json_int_t)st.wal.head_lsn, "durable_lsn",
                            (json_int_t)st.wal.durable_lsn, "redo_lsn", (json_int_t)st.wal.redo_lsn, "tail_lsn", (json_int_t)st.wal.tail_lsn,
                            "batches", (json_int_t)st.wal.batches, "bytes", (json_int_t)st.wal.bytes, "write_us",
                            (json_int_t)(st.wal.write_ns_ewma / 1000), "torn_batches", (json_int_t)st.wal.torn_batches, "rotten_batches",
                            (json_int_t)st.wal.rotten_batches, "lost_slots", (json_int_t)st.wal.lost_slots);
    return json_pack("{s:o, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:b, s:b}", "wal", wal, "slabs_total",
                     (json_int_t)st.slabs_total, "slabs_free", (json_int_t)st.slabs_free, "slabs_reserved", (json_int_t)st.slabs_reserved,
                     "overlay_bytes", (json_int_t)st.overlay_bytes, "leaf_cache_bytes", (json_int_t)st.leaf_cache_bytes, "checkpoint",
                     (json_int_t)st.checkpoint, "checkpoints_done", (json_int_t)st.checkpoints_done, "write_back_bytes",
                     (json_int_t)st.write_back_bytes, "bad_blocks", (json_int_t)st.bad_blocks, "repaired_blocks",
                     (json_int_t)st.repaired_blocks, "checkpointing", st.checkpointing, "growing", st.growing);
}

/* A disk that came empty to the name of another one is nobody's replica until a rebuild makes it one. */
static const char *daemon_state(const struct replica *r)
{
    const struct replica_config *c = config_find_replica(r->config, r->superblock.name);
    bool another = c && !uuid_equal(&c->identity, &r->superblock.identity);
    return another && list_empty(&r->groups) ? "not a member: needs rebuild" : "up";
}

char *replica_status_json(struct replica *r)
{
    char identity[37], cluster[37];
    uint64_t now = io_now(r->reactor);
    uint64_t unchanged = 0;
    json_t *groups = json_array();
    list_for_each(p, &r->groups)
    {
        struct replica_group *g = container_of(p, struct replica_group, link);
        struct store_copy_state st;
        store_copy_state(r->store, g->id, &st);
        unchanged += st.unchanged_bytes;
        json_array_append_new(groups, group_json(g, now));
    }
    json_t *counters = json_pack("{s:I, s:I, s:I, s:I, s:I, s:I}", "accepts", (json_int_t)r->n_accepts, "reads", (json_int_t)r->n_reads,
                                 "catchup_entries", (json_int_t)r->n_catchup_entries, "donated_entries", (json_int_t)r->n_donated_entries,
                                 "repairs_open", (json_int_t)r->n_repairs, "refused", (json_int_t)r->n_refused);
    json_object_set_new(counters, "images_served", json_integer((json_int_t)r->n_images_served));
    json_object_set_new(counters, "bytes_copied", json_integer((json_int_t)r->n_bytes_copied));
    json_object_set_new(counters, "bytes_unchanged", json_integer((json_int_t)unchanged));
    json_t *o = json_pack("{s:s, s:s, s:s, s:s, s:s, s:i, s:s, s:I, s:o, s:o, s:o}", "name", r->superblock.name, "role", "replica",
                          "identity", uuid_format(&r->superblock.identity, identity), "cluster", uuid_format(&r->superblock.cluster, cluster),
                          "version", QBD_VERSION, "pid", r->pid, "state", daemon_state(r), "uptime_ms",
                          (json_int_t)((now - r->started_ns) / NS_PER_MS), "groups", groups, "store", store_json(r), "counters", counters);
    if (r->last_error_ns)
        json_object_set_new(o, "last_disk_error", json_pack("{s:s, s:I}", "text", r->last_error, "ago_ms",
                                                           (json_int_t)((now - r->last_error_ns) / NS_PER_MS)));
    json_object_set_new(o, "scrub", scrub_json(r));
    char *text = json_dumps(o, JSON_COMPACT);
    json_decref(o);
    return text;
}
