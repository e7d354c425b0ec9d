/* The replica's STATUS: the truth for an operator, as JSON (docs/operations.md lists the fields). */
#include "replica/replica_internal.h"

#include <jansson.h>

static const char *group_state(const struct replica_group *g)
{
    if (g->acceptor.needs_copy || g->catchup.needs_copy)
        return "behind, needs copy";
    if (g->catchup.state != CATCHUP_IDLE && g->catchup.target.slot > g->acceptor.commit)
        return "behind";
    return "up to date";
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

static json_t *group_json(const struct replica_group *g, uint64_t now)
{
    const struct acceptor *a = &g->acceptor;
    struct log_pos last = paxos_log_last(&a->log);
    uint64_t behind = g->catchup.target.slot > a->commit ? g->catchup.target.slot - a->commit : 0;
    json_t *o = json_pack("{s:I, s:I, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:b}", "group", (json_int_t)g->id, "size_bytes",
                          (json_int_t)(a->size_blocks * BLOCK_SIZE), "state", group_state(g), "promised_round",
                          (json_int_t)a->promised.round, "commit", (json_int_t)a->commit, "applied",
                          (json_int_t)store_applied(g->replica->store, g->id), "last", (json_int_t)last.slot, "durable",
                          (json_int_t)a->durable, "floor", (json_int_t)a->log.base.slot, "behind_slots", (json_int_t)behind, "lost_slots",
                          (json_int_t)a->n_lost, "in_stream", a->match_valid && a->stream != ACCEPTOR_NO_LINK);
    json_object_set_new(o, "holder", lease_json(g, now));
    json_t *voters = json_array();
    for (unsigned i = 0; i < a->committed.n_voters; i++) {
        char id[37];
        json_array_append_new(voters, json_string(uuid_format(&a->committed.voter[i], id)));
    }
    json_object_set_new(o, "voters", voters);
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

char *replica_status_json(struct replica *r)
{
    char identity[37], cluster[37];
    uint64_t now = io_now(r->reactor);
    json_t *groups = json_array();
    list_for_each(p, &r->groups)
    {
        json_array_append_new(groups, group_json(container_of(p, struct replica_group, link), now));
    }
    json_t *counters = json_pack("{s:I, s:I, s:I, s:I, s:I, s:I}", "accepts", (json_int_t)r->n_accepts, "reads", (json_int_t)r->n_reads,
                                 "catchup_entries", (json_int_t)r->n_catchup_entries, "donated_entries", (json_int_t)r->n_donated_entries,
                                 "repairs_open", (json_int_t)r->n_repairs, "refused", (json_int_t)r->n_refused);
    json_t *o = json_pack("{s:s, s:s, s:s, s:s, s:s, s:i, s:s, s:I, s:o, s:o, s:o}", "name", r->superblock.name, "role", "replica",
                          "identity", uuid_format(&r->superblock.identity, identity), "cluster", uuid_format(&r->superblock.cluster, cluster),
                          "version", QBD_VERSION, "pid", r->pid, "state", "up", "uptime_ms",
                          (json_int_t)((now - r->started_ns) / NS_PER_MS), "groups", groups, "store", store_json(r), "counters", counters);
    char *text = json_dumps(o, JSON_COMPACT);
    json_decref(o);
    return text;
}
