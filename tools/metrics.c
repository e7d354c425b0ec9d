/* A cluster's metrics: which there are, and where each is in what the daemons say. See metrics.h. */
#include "tools/metrics.h"

#include "base/log.h"
#include "tools/metrics_text.h"

#include <stdlib.h>

#define SLAB_BYTES 65536
#define KEY_MAX 32

/* How a number of the status becomes one in base units. */
enum unit { PLAIN, MILLI, MICRO, SLABS };

/* One that is in a status under a path of keys ("store.wal.bytes"). Booleans count as 1 and 0. */
struct told {
    struct metric_family family;
    const char *path;
    enum unit unit;
};

#define GAUGE(name, path, unit, help)                                                                                  \
    {                                                                                                                  \
        {name, "gauge", help}, path, unit                                                                              \
    }
#define COUNTER(name, path, unit, help)                                                                                \
    {                                                                                                                  \
        {name, "counter", help}, path, unit                                                                            \
    }

/* ---- of a replica's daemon ---- */

static const struct told replica_told[] = {
    GAUGE("qbd_replica_uptime_seconds", "uptime_ms", MILLI, "Time since the daemon started."),
    COUNTER("qbd_replica_accepts_total", "counters.accepts", PLAIN, "Messages with log entries that front ends sent."),
    COUNTER("qbd_replica_reads_total", "counters.reads", PLAIN, "Reads answered for front ends."),
    COUNTER("qbd_replica_refused_total", "counters.refused", PLAIN, "Connections and requests that were refused."),
    COUNTER("qbd_replica_catchup_entries_total", "counters.catchup_entries", PLAIN,
            "Log entries fetched from other replicas."),
    COUNTER("qbd_replica_donated_entries_total", "counters.donated_entries", PLAIN,
            "Log entries sent to other replicas."),
    COUNTER("qbd_replica_images_served_total", "counters.images_served", PLAIN,
            "Pieces of volumes sent to other replicas for copies and repairs."),
    COUNTER("qbd_replica_copied_bytes_total", "counters.bytes_copied", PLAIN,
            "Bytes of data that copies fetched from other replicas."),
    COUNTER("qbd_replica_unchanged_bytes_total", "counters.bytes_unchanged", PLAIN,
            "Bytes that copies did not have to fetch, as they had not changed."),
    GAUGE("qbd_replica_repairs_open", "counters.repairs_open", PLAIN, "Repairs of damaged blocks under way."),
    COUNTER("qbd_replica_bad_blocks_total", "store.bad_blocks", PLAIN,
            "Blocks of 4 KiB found damaged on this disk since the daemon started."),
    COUNTER("qbd_replica_repaired_blocks_total", "store.repaired_blocks", PLAIN,
            "Blocks of 4 KiB repaired from other replicas since the daemon started."),
    GAUGE("qbd_replica_last_disk_error_age_seconds", "last_disk_error.ago_ms", MILLI,
          "Time since the disk last gave an error; absent: never since the daemon started."),
    COUNTER("qbd_replica_wal_written_bytes_total", "store.wal.bytes", PLAIN, "Bytes written to the write-ahead log."),
    COUNTER("qbd_replica_wal_batches_total", "store.wal.batches", PLAIN,
            "Batches written to the write-ahead log, each durable as a whole."),
    GAUGE("qbd_replica_wal_write_latency_seconds", "store.wal.write_us", MICRO,
          "Latency of making a batch of the write-ahead log durable, moving average."),
    GAUGE("qbd_replica_wal_torn_batches", "store.wal.torn_batches", PLAIN,
          "Batches torn by the last crash, found at the daemon's start: normal after a loss of power."),
    GAUGE("qbd_replica_wal_rotten_batches", "store.wal.rotten_batches", PLAIN,
          "Batches that were durable once and found damaged at the daemon's start."),
    GAUGE("qbd_replica_wal_lost_slots", "store.wal.lost_slots", PLAIN,
          "Log slots whose values were in damaged batches at the daemon's start."),
    GAUGE("qbd_replica_store_size_bytes", "store.slabs_total", SLABS, "Space in the extent files that exist."),
    GAUGE("qbd_replica_store_free_bytes", "store.slabs_free", SLABS, "Space in the extent files that is free."),
    GAUGE("qbd_replica_store_reserved_bytes", "store.slabs_reserved", SLABS,
          "Free space that is promised to writes under way."),
    GAUGE("qbd_replica_store_growing", "store.growing", PLAIN, "1 while another extent file is being made."),
    GAUGE("qbd_replica_overlay_bytes", "store.overlay_bytes", PLAIN,
          "Applied writes in memory that are not written back to the extent files yet."),
    GAUGE("qbd_replica_leaf_cache_bytes", "store.leaf_cache_bytes", PLAIN,
          "Memory taken by the cache of the block map."),
    COUNTER("qbd_replica_write_back_bytes_total", "store.write_back_bytes", PLAIN,
            "Bytes written back to the extent files."),
    COUNTER("qbd_replica_checkpoints_total", "store.checkpoints_done", PLAIN, "Checkpoints completed."),
    GAUGE("qbd_replica_checkpoint_running", "store.checkpointing", PLAIN, "1 while a checkpoint is under way."),
    GAUGE("qbd_replica_scrub_done_bytes", "scrub.now.done_bytes", PLAIN,
          "Read back by the scrub under way; absent: none is."),
    GAUGE("qbd_replica_scrub_size_bytes", "scrub.now.total_bytes", PLAIN,
          "What the scrub under way has to read back; absent: none is."),
    GAUGE("qbd_replica_scrub_rate_bytes_per_second", "scrub.now.rate_bytes_per_s", PLAIN,
          "How fast the scrub under way reads; absent: none is."),
    GAUGE("qbd_replica_scrub_last_verified_bytes", "scrub.last.verified_bytes", PLAIN,
          "Read back and verified by the last whole scrub since the daemon started."),
    GAUGE("qbd_replica_scrub_last_bad_blocks", "scrub.last.bad_blocks", PLAIN,
          "Damaged blocks that the last whole scrub found, those that a majority disowned among them."),
    GAUGE(
        "qbd_replica_scrub_last_disowned_blocks", "scrub.last.odd_blocks", PLAIN,
        "Blocks with a good checksum whose content a majority of the replicas did not share, in the last whole scrub."),
    GAUGE("qbd_replica_scrub_last_lost_blocks", "scrub.last.lost_blocks", PLAIN,
          "Blocks that no replica had intact, in the last whole scrub: reads of them fail."),
    GAUGE("qbd_replica_scrub_last_repaired_blocks", "scrub.last.repaired_blocks", PLAIN,
          "Damaged blocks that were repaired by the end of the last whole scrub."),
    GAUGE("qbd_replica_scrub_last_unrepaired_blocks", "scrub.last.unrepaired_blocks", PLAIN,
          "Damaged blocks that were not repaired by the end of the last whole scrub."),
    GAUGE("qbd_replica_scrub_last_undecided_blocks", "scrub.last.undecided_blocks", PLAIN,
          "Blocks that differed between replicas without a majority, in the last whole scrub."),
    GAUGE("qbd_replica_scrub_last_rewritten_pages", "scrub.last.rewritten_pages", PLAIN,
          "Damaged pages of metadata that the last whole scrub wrote anew."),
    GAUGE("qbd_replica_scrub_last_skipped_chunks", "scrub.last.skipped_chunks", PLAIN,
          "Pieces of 1 MiB that the last whole scrub could not compare with other replicas."),
    GAUGE("qbd_replica_scrub_last_finished_timestamp_seconds", "scrub.last.finished_at", PLAIN,
          "When the last whole scrub since the daemon started ended, Unix time."),
};

/* ---- of a replica's part in a volume ---- */

static const struct told part_told[] = {
    GAUGE("qbd_replica_state_seconds", "state_ms", MILLI, "How long it has been in what it says is its state."),
    GAUGE("qbd_replica_complete", "complete", PLAIN,
          "1 when it holds all data up to its applied slot; 0 while it needs a copy."),
    GAUGE("qbd_replica_in_stream", "in_stream", PLAIN, "1 while it takes part in the stream of a front end."),
    GAUGE("qbd_replica_commit_slot", "commit", PLAIN, "Last log slot that it knows to be chosen."),
    GAUGE("qbd_replica_applied_slot", "applied", PLAIN, "Last log slot applied to its data."),
    GAUGE("qbd_replica_durable_slot", "durable", PLAIN, "Last log slot that is durable in its log."),
    GAUGE("qbd_replica_last_slot", "last", PLAIN, "Last slot of its log."),
    GAUGE("qbd_replica_floor_slot", "floor", PLAIN, "Slot that its log begins behind."),
    GAUGE("qbd_replica_catchup_slots", "behind_slots", PLAIN,
          "Slots that its catch-up from other replicas still has to fetch."),
    GAUGE("qbd_replica_lost_slots", "lost_slots", PLAIN,
          "Slots of its log whose values are damaged and not fetched again yet."),
    GAUGE("qbd_replica_membership_slot", "membership_slot", PLAIN, "Log slot of the membership that it goes by."),
    GAUGE("qbd_replica_promised_round", "promised_round", PLAIN,
          "Round of the highest ballot that it promised: rises by one or more when the volume changes hands."),
};

static const struct told copy_told[] = {
    GAUGE("qbd_replica_copy_done_bytes", "done_bytes", PLAIN,
          "Fetched by the copies of this volume since the daemon started; absent: no copy is under way."),
    GAUGE("qbd_replica_copy_left_bytes", "left_bytes", PLAIN,
          "At most so much the copy has still to fetch; absent: no copy is under way."),
    GAUGE("qbd_replica_copy_unchanged_bytes", "unchanged_bytes", PLAIN,
          "Found unchanged by the copy, and not fetched; absent: no copy is under way."),
    GAUGE("qbd_replica_copy_rate_bytes_per_second", "rate_bytes_per_s", PLAIN,
          "How fast the copy goes; absent: no copy is under way."),
    GAUGE("qbd_replica_copy_donor_latency_seconds", "donor_latency_us", MICRO,
          "Latency of log writes at the replicas that the copy reads from."),
    GAUGE("qbd_replica_copy_age_seconds", "since_ms", MILLI,
          "Time since the copy began; absent: no copy is under way."),
};

static const struct told part_scrub_told[] = {
    GAUGE("qbd_replica_scrub_last_completed_timestamp_seconds", "last_done_at", PLAIN,
          "When this volume was last scrubbed from end to end on this replica, Unix time; 0: never."),
    COUNTER("qbd_replica_scrub_passes_total", "passes", PLAIN,
            "Scrubs of this volume from end to end on this replica, ever."),
};

/* ---- of a front end ---- */

static const struct told frontend_told[] = {
    GAUGE("qbd_frontend_uptime_seconds", "uptime_ms", MILLI, "Time since the daemon started."),
    GAUGE("qbd_frontend_clients", "clients", PLAIN, "NBD connections."),
    COUNTER("qbd_frontend_requests_total", "requests", PLAIN, "NBD requests received."),
    COUNTER("qbd_frontend_errors_total", "errors", PLAIN, "NBD requests answered with an error."),
    GAUGE("qbd_frontend_payload_bytes", "payload_bytes", PLAIN, "Memory that requests under way hold for data."),
    GAUGE("qbd_frontend_memory_bytes", "memory_bytes", PLAIN,
          "Memory in use for requests, messages and retained entries."),
};

static const struct told session_told[] = {
    GAUGE("qbd_frontend_volume_requests", "requests", PLAIN, "Requests under way."),
    COUNTER("qbd_frontend_volume_requests_failed_total", "requests_failed", PLAIN, "Requests that failed."),
    COUNTER("qbd_frontend_volume_sessions_total", "sessions", PLAIN,
            "Sessions that it began since it started: each an attempt to take the volume."),
    COUNTER("qbd_frontend_volume_entries_total", "entries", PLAIN, "Log entries that it ordered."),
    COUNTER("qbd_frontend_volume_reads_total", "reads", PLAIN, "Reads that it sent to replicas."),
    COUNTER("qbd_frontend_volume_read_hedges_total", "read_hedges", PLAIN,
            "Reads that it also asked of a second replica, as the first was slow."),
    COUNTER("qbd_frontend_volume_read_retries_total", "read_retries", PLAIN,
            "Reads that it asked of another replica, as the first could not answer."),
    GAUGE("qbd_frontend_volume_no_space", "no_space", PLAIN, "1 while writes get ENOSPC."),
    GAUGE("qbd_frontend_volume_chosen_slot", "chosen", PLAIN, "Last log slot that it knows to be chosen."),
    GAUGE("qbd_frontend_volume_entries_in_flight", "in_flight", PLAIN, "Log entries proposed and not chosen yet."),
    GAUGE("qbd_frontend_volume_retained_bytes", "retained_bytes", PLAIN,
          "Entries kept in memory for replicas that lag."),
};

static const struct told peer_told[] = {
    GAUGE("qbd_frontend_peer_acked_slot", "acked", PLAIN, "Last log slot that the replica said is durable."),
    GAUGE("qbd_frontend_peer_applied_slot", "applied", PLAIN, "Last log slot that the replica said is applied."),
    GAUGE("qbd_frontend_peer_lag_slots", "lag", PLAIN,
          "Chosen slots that the replica has not acknowledged as received."),
    GAUGE("qbd_frontend_peer_free_bytes", "free_slabs", SLABS,
          "Space that the replica has promised to this front end."),
    GAUGE("qbd_frontend_peer_unsent_bytes", "unsent_bytes", PLAIN, "Waiting to be sent to the replica."),
    COUNTER("qbd_frontend_peer_connects_total", "connects", PLAIN, "Connections made to the replica."),
    COUNTER("qbd_frontend_peer_reads_total", "reads", PLAIN, "Reads that the replica answered."),
    COUNTER("qbd_frontend_peer_reads_hedged_total", "reads_hedged", PLAIN,
            "Reads that were also asked of another replica, as this one was slow."),
    COUNTER("qbd_frontend_peer_reads_bad_total", "reads_bad", PLAIN,
            "Reads that the replica could not answer with good data."),
    GAUGE("qbd_frontend_peer_reads_outstanding", "reads_outstanding", PLAIN,
          "Reads that the replica has not answered yet."),
    GAUGE("qbd_frontend_peer_read_latency_seconds", "read_us", MICRO,
          "Latency of reads from the replica, moving average."),
};

/* ---- what is worked out here ---- */

static const struct metric_family
    exporter_info = {"qbd_exporter_info", "gauge", "Always 1; the exporter's version."},
    exporter_config_ok = {"qbd_exporter_config_ok", "gauge",
                          "0: the configuration could not be read, an older reading is used."},
    exporter_errors = {"qbd_exporter_scrape_errors", "gauge",
                       "Daemons that were to be asked for this page and did not answer."},
    exporter_seconds = {"qbd_exporter_scrape_duration_seconds", "gauge", "How long asking the daemons took."};

enum volume_fact {
    V_CREATED,
    V_SIZE,
    V_VOTERS,
    V_ANSWERING,
    V_UP_TO_DATE,
    V_LOST,
    V_FULL,
    V_REDUNDANCY,
    V_QUORUM,
    V_IN_USE,
    V_LEASE_HELD,
    V_LEASE,
    V_COMMIT,
    V_FACTS
};
static const struct metric_family volume_family[V_FACTS] = {
    [V_CREATED] = {"qbd_volume_created", "gauge", "1: it exists; 0: no replica has it; absent: not all can be asked."},
    [V_SIZE] = {"qbd_volume_size_bytes", "gauge", "The volume's size, as its replicas know it."},
    [V_VOTERS] = {"qbd_volume_voters", "gauge",
                  "Replicas that vote on its log; the configuration's number while none answers."},
    [V_ANSWERING] = {"qbd_volume_replicas_answering", "gauge", "Replicas of the volume that answer."},
    [V_UP_TO_DATE] = {"qbd_volume_replicas_up_to_date", "gauge", "Voters that hold everything and take part."},
    [V_LOST] = {"qbd_volume_replicas_lost", "gauge",
                "Voters that cannot come back by themselves: they need qbd rebuild."},
    [V_FULL] = {"qbd_volume_replicas_without_space", "gauge",
                "Replicas that have no room to give away; with a majority of them writes get ENOSPC."},
    [V_REDUNDANCY] =
        {"qbd_volume_redundancy", "gauge",
         "How many more of the up-to-date replicas may fail while the volume serves; -N: it waits for N replicas."},
    [V_QUORUM] = {"qbd_volume_quorum", "gauge", "1 when a majority of the voters is up to date."},
    [V_IN_USE] = {"qbd_volume_in_use", "gauge", "1 when a front end streams to its replicas."},
    [V_LEASE_HELD] = {"qbd_volume_lease_held", "gauge", "1 when a front end holds the volume's lease."},
    [V_LEASE] = {"qbd_volume_lease_remaining_seconds", "gauge",
                 "How long the lease would last without being renewed; absent: nobody holds it."},
    [V_COMMIT] = {"qbd_volume_commit_slot", "gauge", "Highest log slot that any replica knows to be chosen."},
};
static const struct metric_family volume_holder = {"qbd_volume_holder", "gauge",
                                                   "Always 1; which front end holds the volume."};

static const struct metric_family
    replica_up = {"qbd_replica_up", "gauge", "1: the daemon answered when this page was made."},
    replica_info = {"qbd_replica_info", "gauge", "Always 1; who it is."},
    replica_scrub_running = {"qbd_replica_scrub_running", "gauge", "1 while a scrub is under way."},
    replica_wal_live = {"qbd_replica_wal_live_bytes", "gauge", "What the write-ahead log holds."},
    replica_wal_redo = {"qbd_replica_wal_redo_bytes", "gauge",
                        "What a start would have to read of the write-ahead log."},
    part_state =
        {"qbd_replica_state", "gauge",
         "1 for the state that the replica is in as to the volume (as qbd status names it), 0 for the others."},
    part_behind = {"qbd_replica_behind_slots", "gauge", "Chosen slots that it has not made durable."},
    part_lease = {"qbd_replica_lease_remaining_seconds", "gauge",
                  "How long the lease that it granted lasts; 0: it granted none."},
    part_copying = {"qbd_replica_copy_active", "gauge", "1 while it needs a copy, or makes one."},
    part_refused = {"qbd_replica_copy_refused", "gauge", "1 while its copy cannot go on; qbd status says why."},
    frontend_up = {"qbd_frontend_up", "gauge", "1: the daemon answered when this page was made."},
    frontend_info = {"qbd_frontend_info", "gauge", "Always 1; who it is."},
    session_state = {"qbd_frontend_volume_state", "gauge",
                     "1 for what the front end does with the volume: attached (it serves), held (another one holds "
                     "it), waiting; 0 for the others."},
    peer_link = {"qbd_frontend_peer_up", "gauge", "1 while the front end is connected to the replica."},
    peer_stream = {"qbd_frontend_peer_in_stream", "gauge", "1 while the replica gets every entry as it is proposed."};

/* ---- reading a status ---- */

static bool number_at(json_t *o, const struct told *m, double *ret)
{
    static const double scale[] = {[PLAIN] = 1, [MILLI] = 1e-3, [MICRO] = 1e-6, [SLABS] = SLAB_BYTES};
    const char *p = m->path;
    while (o) {
        char key[KEY_MAX];
        size_t n = strcspn(p, ".");
        assert(n < sizeof key);
        memcpy(key, p, n);
        key[n] = '\0';
        o = json_object_get(o, key);
        if (!p[n])
            break;
        p += n + 1;
    }
    if (!json_is_number(o) && !json_is_boolean(o))
        return false;
    *ret = json_is_number(o) ? json_number_value(o) * scale[m->unit] : json_is_true(o);
    return true;
}

static json_t *of_group(json_t *array, uint64_t group)
{
    size_t i;
    json_t *g;
    json_array_foreach(array, i, g) if (json_number_or(g, "group", -1) == (int64_t)group) return g;
    return NULL;
}

/* ---- the page ---- */

/* One replica and one volume that it is to have, or has. */
struct part {
    const struct volume_view *volume;
    const struct replica_view *replica;
    json_t *group, *copy, *scrub; /* borrowed, or NULL */
    const char *state;
    double behind; /* -1: unknown */
};

/* One front end and one volume that it speaks of; one of its replicas. */
struct session {
    const struct frontend_view *frontend;
    json_t *volume;
    const char *name;
};

struct peer {
    const struct session *session;
    json_t *replica;
    const char *name;
};

struct page {
    struct metrics_text text;
    struct metrics_input *in;
    char cluster[37];
    struct volume_view volumes[CONFIG_VOLUMES_MAX];
    struct part *parts;
    struct session *sessions;
    struct peer *peers;
    size_t n_parts, n_sessions, n_peers;
};

static void put(struct page *p, const struct metric_family *m, double value, struct metric_label a,
                struct metric_label b, struct metric_label c)
{
    const struct metric_label labels[METRIC_LABELS_MAX] = {{"cluster", p->cluster}, a, b, c};
    metrics_sample(&p->text, m, labels, value);
}

static const struct metric_label none = {NULL, NULL};
#define LABEL(name, value) ((struct metric_label){name, value})

static void *grown(void *array, size_t n, size_t size)
{
    if (n & (n - 1)) /* full only at powers of two */
        return array;
    array = realloc(array, (n ? 2 * n : 1) * size);
    if (!array)
        abort(); /* out of memory, in a tool that has nothing to lose */
    return array;
}

/* ---- who is there ---- */

static void find_parts(struct page *p)
{
    const struct cluster_config *conf = p->in->conf;
    for (uint32_t i = 0; i < conf->n_volumes; i++) {
        const struct volume_config *v = &conf->volumes[i];
        volume_view_take(&p->volumes[i], v, p->in->replicas);
        for (uint32_t k = 0; k < conf->n_replicas; k++) {
            struct replica_view *r = &p->in->replicas[k];
            bool listed = false;
            for (uint32_t l = 0; l < v->n_replicas; l++)
                listed |= v->replica[l] == k;
            replica_view_select(r, v->group);
            if (!listed && !r->group)
                continue; /* the configuration names a new one only when a rebuild is through */
            p->parts = grown(p->parts, p->n_parts, sizeof *p->parts);
            p->parts[p->n_parts++] = (struct part){
                .volume = &p->volumes[i],
                .replica = r,
                .group = r->group,
                .copy = json_object_get(r->group, "copy"),
                .scrub = of_group(json_object_get(json_object_get(r->status, "scrub"), "groups"), v->group),
                .state = volume_view_state(&p->volumes[i], r),
                .behind = (double)replica_view_behind(r, p->volumes[i].commit)};
        }
    }
}

static bool named_before(json_t *array, size_t i, const char *name)
{
    for (size_t k = 0; k < i; k++)
        if (strcmp(json_text_or(json_array_get(array, k), "name", ""), name) == 0)
            return true;
    return false;
}

static bool is_linked(json_t *replica)
{
    return strcmp(json_text_or(replica, "link", ""), "up") == 0;
}

/* During a rebuild there are two of one name, the lost disk and the new one: whose link is up is the one that is meant.
 */
static bool is_the_one(json_t *replicas, size_t i, const char *name)
{
    bool up = is_linked(json_array_get(replicas, i));
    for (size_t k = 0; k < json_array_size(replicas); k++) {
        json_t *o = json_array_get(replicas, k);
        if (k != i && strcmp(json_text_or(o, "name", ""), name) == 0 &&
            (is_linked(o) > up || (is_linked(o) == up && k < i)))
            return false;
    }
    return true;
}

static void find_sessions(struct page *p)
{
    for (uint32_t i = 0; i < p->in->n_frontends; i++) {
        size_t k;
        json_t *v, *volumes = json_object_get(p->in->frontends[i].status, "volumes");
        json_array_foreach(volumes, k, v)
        {
            const char *name = json_text_or(v, "name", "");
            if (!*name || named_before(volumes, k, name))
                continue;
            p->sessions = grown(p->sessions, p->n_sessions, sizeof *p->sessions);
            p->sessions[p->n_sessions++] = (struct session){&p->in->frontends[i], v, name};
        }
    }
    for (size_t i = 0; i < p->n_sessions; i++) {
        size_t k;
        json_t *r, *replicas = json_object_get(p->sessions[i].volume, "replicas");
        json_array_foreach(replicas, k, r)
        {
            const char *name = json_text_or(r, "name", "");
            if (!*name || !is_the_one(replicas, k, name))
                continue;
            p->peers = grown(p->peers, p->n_peers, sizeof *p->peers);
            p->peers[p->n_peers++] = (struct peer){&p->sessions[i], r, name};
        }
    }
}

/* ---- volumes ---- */

static bool volume_fact(const struct volume_view *v, enum volume_fact fact, double *ret)
{
    double majority = v->n_voters / 2 + 1, redundancy = v->n_up_to_date - majority;
    bool held = *v->holder != '\0';
    switch (fact) {
    case V_CREATED:
        *ret = v->exists;
        return v->exists || v->not_created;
    case V_SIZE:
        *ret = (double)v->size_bytes;
        return v->exists;
    case V_VOTERS:
        *ret = v->n_voters;
        return true;
    case V_ANSWERING:
        *ret = v->n_answering;
        return true;
    case V_UP_TO_DATE:
        *ret = v->n_up_to_date;
        return true;
    case V_LOST:
        *ret = v->n_lost;
        return !v->not_created;
    case V_FULL:
        *ret = v->n_full;
        return true;
    case V_REDUNDANCY:
        *ret = redundancy;
        return !v->not_created;
    case V_QUORUM:
        *ret = redundancy >= 0;
        return !v->not_created;
    case V_IN_USE:
        *ret = v->streams;
        return v->n_answering > 0;
    case V_LEASE_HELD:
        *ret = held;
        return v->n_answering > 0;
    case V_LEASE:
        *ret = (double)v->lease_ms / 1000;
        return held;
    case V_COMMIT:
        *ret = (double)v->commit;
        return v->exists;
    case V_FACTS:
        break;
    }
    abort();
}

static void put_volumes(struct page *p)
{
    const struct cluster_config *conf = p->in->conf;
    double value;
    for (enum volume_fact fact = 0; fact < V_FACTS; fact++)
        for (uint32_t i = 0; i < conf->n_volumes; i++)
            if (volume_fact(&p->volumes[i], fact, &value))
                put(p, &volume_family[fact], value, LABEL("volume", conf->volumes[i].name), none, none);
    for (uint32_t i = 0; i < conf->n_volumes; i++)
        if (*p->volumes[i].holder)
            put(p, &volume_holder, 1, LABEL("volume", conf->volumes[i].name), LABEL("holder", p->volumes[i].holder),
                none);
}

/* ---- replicas ---- */

/* From a place in the log, which counts bytes, to its head. */
static void put_wal(struct page *p, const struct metric_family *m, const char *from)
{
    const struct cluster_config *conf = p->in->conf;
    for (uint32_t i = 0; i < conf->n_replicas; i++) {
        json_t *wal = json_object_get(json_object_get(p->in->replicas[i].status, "store"), "wal");
        int64_t head = json_number_or(wal, "head_lsn", -1), begin = json_number_or(wal, from, -1);
        if (begin >= 0 && head >= begin)
            put(p, m, (double)(head - begin), LABEL("replica", conf->replicas[i].name), none, none);
    }
}

static void put_replicas(struct page *p)
{
    const struct cluster_config *conf = p->in->conf;
    double value;
    for (uint32_t i = 0; i < conf->n_replicas; i++)
        put(p, &replica_up, p->in->replicas[i].status != NULL, LABEL("replica", conf->replicas[i].name), none, none);
    for (uint32_t i = 0; i < conf->n_replicas; i++) {
        const struct replica_view *r = &p->in->replicas[i];
        char identity[37];
        if (r->status)
            put(p, &replica_info, 1, LABEL("replica", r->config->name),
                LABEL("identity", uuid_format(&r->config->identity, identity)),
                LABEL("version", json_text_or(r->status, "version", "")));
    }
    for (uint32_t i = 0; i < conf->n_replicas; i++) {
        json_t *scrub = json_object_get(p->in->replicas[i].status, "scrub");
        if (scrub)
            put(p, &replica_scrub_running, json_object_get(scrub, "now") != NULL,
                LABEL("replica", conf->replicas[i].name), none, none);
    }
    put_wal(p, &replica_wal_live, "tail_lsn");
    put_wal(p, &replica_wal_redo, "redo_lsn");
    for (size_t m = 0; m < ARRAY_LEN(replica_told); m++)
        for (uint32_t i = 0; i < conf->n_replicas; i++)
            if (number_at(p->in->replicas[i].status, &replica_told[m], &value))
                put(p, &replica_told[m].family, value, LABEL("replica", conf->replicas[i].name), none, none);
}

/* The last one is for words that are not known here. */
static const struct {
    const char *word, *label;
} states[] = {
    {"up to date", "up_to_date"},
    {"joining", "joining"},
    {"behind", "behind"},
    {"needs copy", "needs_copy"},
    {"copying", "copying"},
    {"learner, complete", "learner_complete"},
    {"failed", "failed"},
    {"not a member", "not_a_member"},
    {"not a member: needs rebuild", "needs_rebuild"},
    {"unreachable", "unreachable"},
    {"stopped", "stopped"},
    {"paused", "paused"},
    {"not formatted", "not_formatted"},
    {"lost its data", "lost_its_data"},
    {NULL, "other"},
};

static void put_part(struct page *p, const struct metric_family *m, const struct part *part, double value)
{
    put(p, m, value, LABEL("volume", part->volume->config->name), LABEL("replica", part->replica->config->name), none);
}

static void put_state(struct page *p, const struct part *part)
{
    size_t at = 0;
    while (states[at].word && strcmp(states[at].word, part->state) != 0)
        at++;
    for (size_t i = 0; i < ARRAY_LEN(states); i++)
        put(p, &part_state, i == at, LABEL("volume", part->volume->config->name),
            LABEL("replica", part->replica->config->name), LABEL("state", states[i].label));
}

static void put_parts_told(struct page *p, const struct told *told, size_t n, size_t offset)
{
    double value;
    for (size_t m = 0; m < n; m++)
        for (size_t i = 0; i < p->n_parts; i++)
            if (number_at(*(json_t **)((char *)&p->parts[i] + offset), &told[m], &value))
                put_part(p, &told[m].family, &p->parts[i], value);
}

static void put_parts(struct page *p)
{
    for (size_t i = 0; i < p->n_parts; i++)
        put_state(p, &p->parts[i]);
    for (size_t i = 0; i < p->n_parts; i++)
        if (p->parts[i].behind >= 0)
            put_part(p, &part_behind, &p->parts[i], p->parts[i].behind);
    for (size_t i = 0; i < p->n_parts; i++)
        if (p->parts[i].group)
            put_part(p, &part_lease, &p->parts[i],
                     (double)json_number_or(json_object_get(p->parts[i].group, "holder"), "remaining_ms", 0) / 1000);
    put_parts_told(p, part_told, ARRAY_LEN(part_told), offsetof(struct part, group));
    for (size_t i = 0; i < p->n_parts; i++)
        if (p->parts[i].group)
            put_part(p, &part_copying, &p->parts[i], p->parts[i].copy != NULL);
    for (size_t i = 0; i < p->n_parts; i++)
        if (p->parts[i].copy)
            put_part(p, &part_refused, &p->parts[i], json_object_get(p->parts[i].copy, "refused") != NULL);
    put_parts_told(p, copy_told, ARRAY_LEN(copy_told), offsetof(struct part, copy));
    put_parts_told(p, part_scrub_told, ARRAY_LEN(part_scrub_told), offsetof(struct part, scrub));
}

/* ---- front ends ---- */

static void put_frontends(struct page *p)
{
    double value;
    for (uint32_t i = 0; i < p->in->n_frontends; i++)
        put(p, &frontend_up, p->in->frontends[i].status != NULL, LABEL("frontend", p->in->frontends[i].name), none,
            none);
    for (uint32_t i = 0; i < p->in->n_frontends; i++) {
        json_t *o = p->in->frontends[i].status;
        if (o)
            put(p, &frontend_info, 1, LABEL("frontend", p->in->frontends[i].name),
                LABEL("name", json_text_or(o, "name", "")), LABEL("version", json_text_or(o, "version", "")));
    }
    for (size_t m = 0; m < ARRAY_LEN(frontend_told); m++)
        for (uint32_t i = 0; i < p->in->n_frontends; i++)
            if (number_at(p->in->frontends[i].status, &frontend_told[m], &value))
                put(p, &frontend_told[m].family, value, LABEL("frontend", p->in->frontends[i].name), none, none);
}

static void put_sessions(struct page *p)
{
    static const char *const state[] = {"attached", "held", "waiting"};
    double value;
    for (size_t i = 0; i < p->n_sessions; i++)
        for (size_t k = 0; k < ARRAY_LEN(state); k++)
            put(p, &session_state, strcmp(json_text_or(p->sessions[i].volume, "state", ""), state[k]) == 0,
                LABEL("frontend", p->sessions[i].frontend->name), LABEL("volume", p->sessions[i].name),
                LABEL("state", state[k]));
    for (size_t m = 0; m < ARRAY_LEN(session_told); m++)
        for (size_t i = 0; i < p->n_sessions; i++)
            if (number_at(p->sessions[i].volume, &session_told[m], &value))
                put(p, &session_told[m].family, value, LABEL("frontend", p->sessions[i].frontend->name),
                    LABEL("volume", p->sessions[i].name), none);
}

static void put_peer(struct page *p, const struct metric_family *m, const struct peer *peer, double value)
{
    put(p, m, value, LABEL("frontend", peer->session->frontend->name), LABEL("volume", peer->session->name),
        LABEL("peer", peer->name));
}

static void put_peers(struct page *p)
{
    double value;
    for (size_t i = 0; i < p->n_peers; i++)
        put_peer(p, &peer_link, &p->peers[i], is_linked(p->peers[i].replica));
    for (size_t i = 0; i < p->n_peers; i++)
        put_peer(p, &peer_stream, &p->peers[i], strcmp(json_text_or(p->peers[i].replica, "stream", ""), "open") == 0);
    for (size_t m = 0; m < ARRAY_LEN(peer_told); m++)
        for (size_t i = 0; i < p->n_peers; i++)
            if (number_at(p->peers[i].replica, &peer_told[m], &value))
                put_peer(p, &peer_told[m].family, &p->peers[i], value);
}

static void put_exporter(struct page *p)
{
    double errors = 0;
    for (uint32_t i = 0; i < p->in->conf->n_replicas; i++)
        errors += !p->in->replicas[i].status;
    for (uint32_t i = 0; i < p->in->n_frontends; i++)
        errors += !p->in->frontends[i].status;
    put(p, &exporter_info, 1, LABEL("version", QBD_VERSION), none, none);
    put(p, &exporter_config_ok, p->in->config_ok, none, none, none);
    put(p, &exporter_errors, errors, none, none, none);
    put(p, &exporter_seconds, p->in->scrape_seconds, none, none, none);
}

void metrics_write(FILE *f, struct metrics_input *in)
{
    struct page *p = calloc(1, sizeof *p);
    if (!p)
        abort();
    p->text.f = f;
    p->in = in;
    uuid_format(&in->conf->id, p->cluster);
    find_parts(p);
    find_sessions(p);
    put_exporter(p);
    put_volumes(p);
    put_replicas(p);
    put_parts(p);
    put_frontends(p);
    put_sessions(p);
    put_peers(p);
    free(p->parts);
    free(p->sessions);
    free(p->peers);
    free(p);
}

void metrics_list(void (*fn)(void *user, const char *name, const char *type, const char *help), void *user)
{
#define SAY(m) fn(user, (m).name, (m).type, (m).help)
#define SAY_TOLD(table)                                                                                                \
    for (size_t i = 0; i < ARRAY_LEN(table); i++)                                                                      \
    SAY(table[i].family)
    SAY(exporter_info), SAY(exporter_config_ok), SAY(exporter_errors), SAY(exporter_seconds);
    for (size_t i = 0; i < V_FACTS; i++)
        SAY(volume_family[i]);
    SAY(volume_holder);
    SAY(replica_up), SAY(replica_info), SAY(replica_scrub_running), SAY(replica_wal_live), SAY(replica_wal_redo);
    SAY_TOLD(replica_told);
    SAY(part_state), SAY(part_behind), SAY(part_lease);
    SAY_TOLD(part_told);
    SAY(part_copying), SAY(part_refused);
    SAY_TOLD(copy_told);
    SAY_TOLD(part_scrub_told);
    SAY(frontend_up), SAY(frontend_info);
    SAY_TOLD(frontend_told);
    SAY(session_state);
    SAY_TOLD(session_told);
    SAY(peer_link), SAY(peer_stream);
    SAY_TOLD(peer_told);
}
