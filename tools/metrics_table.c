/* Which metrics there are, and where each is in what the daemons say. */
#include "tools/metrics_table.h"

#define SLAB_BYTES 65536
#define KEY_MAX 32

#define GAUGE(name, path, unit, help)                                                                                  \
    {                                                                                                                  \
        {name, "gauge", help}, path, unit                                                                              \
    }
#define COUNTER(name, path, unit, help)                                                                                \
    {                                                                                                                  \
        {name, "counter", help}, path, unit                                                                            \
    }

/* ---- of a replica's daemon ---- */

static const struct told replica_rows[] = {
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

static const struct told part_rows[] = {
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
    COUNTER("qbd_replica_traced_entries_total", "trace.writes", PLAIN,
            "Log entries whose way through the replica was sampled (one slot in 64)."),
    COUNTER("qbd_replica_traced_receive_seconds_total", "trace.receive_us", MICRO,
            "Sampled entries: time to receive and check them."),
    COUNTER("qbd_replica_traced_wait_seconds_total", "trace.wait_us", MICRO,
            "Sampled entries: time until their batch of the write-ahead log was written."),
    COUNTER("qbd_replica_traced_disk_seconds_total", "trace.disk_us", MICRO,
            "Sampled entries: time to write their batch durably."),
    COUNTER("qbd_replica_traced_answer_seconds_total", "trace.answer_us", MICRO,
            "Sampled entries: time from durable to acknowledged."),
    GAUGE("qbd_replica_promised_round", "promised_round", PLAIN,
          "Round of the highest ballot that it promised: rises by one or more when the volume changes hands."),
};

static const struct told copy_rows[] = {
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

static const struct told part_scrub_rows[] = {
    GAUGE("qbd_replica_scrub_last_completed_timestamp_seconds", "last_done_at", PLAIN,
          "When this volume was last scrubbed from end to end on this replica, Unix time; 0: never."),
    COUNTER("qbd_replica_scrub_passes_total", "passes", PLAIN,
            "Scrubs of this volume from end to end on this replica, ever."),
};

/* ---- of a front end ---- */

static const struct told frontend_rows[] = {
    GAUGE("qbd_frontend_uptime_seconds", "uptime_ms", MILLI, "Time since the daemon started."),
    GAUGE("qbd_frontend_clients", "clients", PLAIN, "NBD connections."),
    COUNTER("qbd_frontend_requests_total", "requests", PLAIN, "NBD requests received."),
    COUNTER("qbd_frontend_errors_total", "errors", PLAIN, "NBD requests answered with an error."),
    GAUGE("qbd_frontend_payload_bytes", "payload_bytes", PLAIN, "Memory that requests under way hold for data."),
    GAUGE("qbd_frontend_memory_bytes", "memory_bytes", PLAIN,
          "Memory in use for requests, messages and retained entries."),
};

static const struct told session_rows[] = {
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
    COUNTER("qbd_frontend_volume_traced_writes_total", "trace.writes", PLAIN,
            "Writes whose way was sampled (one slot in 64)."),
    COUNTER("qbd_frontend_volume_traced_prepare_seconds_total", "trace.prepare_us", MICRO,
            "Sampled writes: time until they were sent to the replicas."),
    COUNTER("qbd_frontend_volume_traced_quorum_seconds_total", "trace.quorum_us", MICRO,
            "Sampled writes: time until a majority of the replicas had them durable."),
    COUNTER("qbd_frontend_volume_traced_reply_seconds_total", "trace.reply_us", MICRO,
            "Sampled writes: time from there to the reply."),
    GAUGE("qbd_frontend_volume_no_space", "no_space", PLAIN, "1 while writes get ENOSPC."),
    GAUGE("qbd_frontend_volume_chosen_slot", "chosen", PLAIN, "Last log slot that it knows to be chosen."),
    GAUGE("qbd_frontend_volume_entries_in_flight", "in_flight", PLAIN, "Log entries proposed and not chosen yet."),
    GAUGE("qbd_frontend_volume_retained_bytes", "retained_bytes", PLAIN,
          "Entries kept in memory for replicas that lag."),
};

static const struct told peer_rows[] = {
    GAUGE("qbd_frontend_peer_acked_slot", "acked", PLAIN, "Last log slot that the replica said is durable."),
    GAUGE("qbd_frontend_peer_applied_slot", "applied", PLAIN, "Last log slot that the replica said is applied."),
    GAUGE("qbd_frontend_peer_lag_slots", "lag", PLAIN,
          "Chosen slots that the replica has not acknowledged as received."),
    GAUGE("qbd_frontend_peer_free_bytes", "free_slabs", SLABS,
          "Space that the replica has promised to this front end."),
    GAUGE("qbd_frontend_peer_unsent_bytes", "unsent_bytes", PLAIN, "Waiting to be sent to the replica."),
    COUNTER("qbd_frontend_peer_connects_total", "connects", PLAIN, "Connections made to the replica."),
    COUNTER("qbd_frontend_peer_traced_acks_total", "traced_acks", PLAIN,
            "Sampled writes that the replica acknowledged."),
    COUNTER("qbd_frontend_peer_traced_ack_seconds_total", "traced_ack_us", MICRO,
            "Sampled writes: time until the replica acknowledged them."),
    COUNTER("qbd_frontend_peer_traced_decided_total", "traced_decided", PLAIN,
            "Sampled writes that were chosen by this replica's acknowledgement: it was the last of the majority."),
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

const struct metrics_table metrics_of_replica = {replica_rows, ARRAY_LEN(replica_rows)};
const struct metrics_table metrics_of_part = {part_rows, ARRAY_LEN(part_rows)};
const struct metrics_table metrics_of_copy = {copy_rows, ARRAY_LEN(copy_rows)};
const struct metrics_table metrics_of_part_scrub = {part_scrub_rows, ARRAY_LEN(part_scrub_rows)};
const struct metrics_table metrics_of_frontend = {frontend_rows, ARRAY_LEN(frontend_rows)};
const struct metrics_table metrics_of_session = {session_rows, ARRAY_LEN(session_rows)};
const struct metrics_table metrics_of_peer = {peer_rows, ARRAY_LEN(peer_rows)};

/* ---- what is worked out here ---- */

const struct metric_family
    metric_exporter_info = {"qbd_exporter_info", "gauge", "Always 1; the exporter's version."},
    metric_exporter_config_ok = {"qbd_exporter_config_ok", "gauge",
                          "0: the configuration could not be read, an older reading is used."},
    metric_exporter_errors = {"qbd_exporter_scrape_errors", "gauge",
                       "Daemons that were to be asked for this page and did not answer."},
    metric_exporter_seconds = {"qbd_exporter_scrape_duration_seconds", "gauge", "How long asking the daemons took."};

const struct metric_family metric_volume[V_FACTS] = {
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
const struct metric_family metric_volume_holder = {"qbd_volume_holder", "gauge",
                                                   "Always 1; which front end holds the volume."};

const struct metric_family
    metric_replica_up = {"qbd_replica_up", "gauge", "1: the daemon answered when this page was made."},
    metric_replica_info = {"qbd_replica_info", "gauge", "Always 1; who it is."},
    metric_replica_scrub_running = {"qbd_replica_scrub_running", "gauge", "1 while a scrub is under way."},
    metric_replica_wal_live = {"qbd_replica_wal_live_bytes", "gauge", "What the write-ahead log holds."},
    metric_replica_wal_redo = {"qbd_replica_wal_redo_bytes", "gauge",
                        "What a start would have to read of the write-ahead log."},
    metric_part_state =
        {"qbd_replica_state", "gauge",
         "1 for the state that the replica is in as to the volume (as qbd status names it), 0 for the others."},
    metric_part_behind = {"qbd_replica_behind_slots", "gauge", "Chosen slots that it has not made durable."},
    metric_part_lease = {"qbd_replica_lease_remaining_seconds", "gauge",
                  "How long the lease that it granted lasts; 0: it granted none."},
    metric_part_copying = {"qbd_replica_copy_active", "gauge", "1 while it needs a copy, or makes one."},
    metric_part_refused = {"qbd_replica_copy_refused", "gauge", "1 while its copy cannot go on; qbd status says why."},
    metric_frontend_up = {"qbd_frontend_up", "gauge", "1: the daemon answered when this page was made."},
    metric_frontend_info = {"qbd_frontend_info", "gauge", "Always 1; who it is."},
    metric_session_state = {"qbd_frontend_volume_state", "gauge",
                     "1 for what the front end does with the volume: attached (it serves), held (another one holds "
                     "it), waiting; 0 for the others."},
    metric_peer_link = {"qbd_frontend_peer_up", "gauge", "1 while the front end is connected to the replica."},
    metric_peer_stream = {"qbd_frontend_peer_in_stream", "gauge", "1 while the replica gets every entry as it is proposed."};

/* ---- reading a status ---- */

bool metrics_number(json_t *o, const struct told *m, double *ret)
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
