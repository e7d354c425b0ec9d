/* The bodies of frames, byte by byte (docs/formats.md "Wire"): wire_codec.c alone includes this.
 *
 * A body is one of these structs; where noted, arrays or an encoded entry follow it directly. Reserved bytes are zero. Bodies begin at a multiple
 * of 8 bytes in the receiver's memory, and every array's offset is a multiple of its element's alignment, so that a decoded
 * message can point into the body. QUERY, RELEASE and STATUS have no body; STATUS_REPLY's is JSON text. */
#ifndef QBD_BASE_WIRE_FORMAT_H
#define QBD_BASE_WIRE_FORMAT_H

#include "base/msg.h"
#include "base/wire.h"

#define WIRE_REASON_MAX 256
#define WIRE_ZERO_WORDS (ENTRY_MAX_BLOCKS / 64)
#define WIRE_MEMBERSHIPS_MAX 2u

static_assert(sizeof(struct uuid) == 16 && sizeof(struct ballot) == 24 && sizeof(struct log_pos) == 32,
              "identities, ballots and places have no padding");

struct wire_hello {
    uint32_t version;
    uint32_t role;
    uint64_t features;
    struct uuid cluster;
    struct uuid identity;
    char name[NAME_MAX_BYTES];
};
static_assert(sizeof(struct wire_hello) == 112, "wire_hello has no padding");

struct wire_refused {
    char reason[WIRE_REASON_MAX];
};
static_assert(sizeof(struct wire_refused) == 256, "wire_refused has no padding");

/* QUERY_ACK and NACK */
struct wire_holder {
    struct ballot promised;
    struct uuid holder;
    uint64_t remaining_ns;
    uint32_t unknown;
    uint32_t full;
    uint32_t retired;
    uint32_t reserved;
    char name[NAME_MAX_BYTES];
    struct membership membership;
};
static_assert(sizeof(struct wire_holder) == 368, "wire_holder has no padding");

struct wire_prepare {
    uint64_t lease_ns;
    uint64_t t_ns;
    char name[NAME_MAX_BYTES];
};
static_assert(sizeof(struct wire_prepare) == 80, "wire_prepare has no padding");

/* followed by n_runs struct run, n_lost uint64_t, n_memberships struct membership */
struct wire_promise {
    uint64_t t_ns;
    uint64_t lease_ns;
    struct log_pos base;
    struct log_pos commit;
    struct log_pos last;
    uint64_t size_blocks;
    struct credits credits;
    uint32_t n_runs;
    uint32_t n_lost;
    uint32_t n_memberships;
    uint32_t needs_copy;
    uint32_t retired;
    uint32_t reserved;
};
static_assert(sizeof(struct wire_promise) == 168, "wire_promise has no padding");
static_assert(sizeof(struct wire_promise) + RUNS_MAX * sizeof(struct run) + LOST_MAX * sizeof(uint64_t) +
                      WIRE_MEMBERSHIPS_MAX * sizeof(struct membership) <=
                  WIRE_BODY_MAX,
              "the largest promise fits into a body");
static_assert(sizeof(struct wire_header) + WIRE_BODY_MAX <= CONN_WINDOW, "header and body are seen whole in the window");

struct wire_fetch {
    struct log_pos at;
};
static_assert(sizeof(struct wire_fetch) == 32, "wire_fetch has no padding");

/* followed by the entry when found */
struct wire_value {
    struct log_pos at;
    uint32_t found;
    uint32_t reserved;
};
static_assert(sizeof(struct wire_value) == 40, "wire_value has no padding");

struct wire_open {
    struct log_pos at;
    char name[NAME_MAX_BYTES];
};
static_assert(sizeof(struct wire_open) == 96, "wire_open has no padding");

struct wire_opened {
    uint64_t m;
    struct credits credits;
    uint32_t needs_copy;
    uint32_t reserved;
};
static_assert(sizeof(struct wire_opened) == 40, "wire_opened has no padding");

/* followed by n_runs struct run, n_lost uint64_t */
struct wire_mismatch {
    struct log_pos base;
    struct log_pos commit;
    uint32_t n_runs;
    uint32_t n_lost;
};
static_assert(sizeof(struct wire_mismatch) == 72, "wire_mismatch has no padding");

/* followed by the entry */
struct wire_accept {
    uint64_t commit;
};
static_assert(sizeof(struct wire_accept) == 8, "wire_accept has no padding");

struct wire_accepted {
    uint64_t through;
    struct credits credits;
    uint32_t needs_copy;
    uint32_t reserved;
};
static_assert(sizeof(struct wire_accepted) == 40, "wire_accepted has no padding");

struct wire_beat {
    uint64_t t_ns;
    uint64_t lease_ns;
    struct log_pos commit;
};
static_assert(sizeof(struct wire_beat) == 48, "wire_beat has no padding");

struct wire_beat_ack {
    uint64_t t_ns;
    uint64_t lease_ns;
    uint64_t commit;
    uint64_t applied;
    uint64_t last;
    struct credits credits;
    uint32_t needs_copy;
    uint32_t retired;
};
static_assert(sizeof(struct wire_beat_ack) == 72, "wire_beat_ack has no padding");

struct wire_force {
    uint64_t expiry_ns;
};
static_assert(sizeof(struct wire_force) == 8, "wire_force has no padding");

struct wire_read {
    uint64_t block;
    uint32_t nblocks;
    uint32_t reserved;
    uint64_t watermark;
};
static_assert(sizeof(struct wire_read) == 24, "wire_read has no padding");

/* followed by nblocks uint32_t CRCs when the status is DATA_OK */
struct wire_data {
    uint32_t status;
    uint32_t nblocks;
    uint64_t block;
    uint64_t applied;
    uint64_t zero[WIRE_ZERO_WORDS];
};
static_assert(sizeof(struct wire_data) == 56, "wire_data has no padding");

struct wire_catchup {
    struct log_pos from;
    uint64_t max_bytes;
};
static_assert(sizeof(struct wire_catchup) == 40, "wire_catchup has no padding");

/* CATCHUP_ENTRY: an entry and nothing before it */

struct wire_catchup_end {
    uint32_t status;
    uint32_t reserved;
    struct log_pos through;
    struct log_pos commit;
};
static_assert(sizeof(struct wire_catchup_end) == 72, "wire_catchup_end has no padding");

struct wire_regions {
    struct log_pos at;
};
static_assert(sizeof(struct wire_regions) == 32, "wire_regions has no padding");

/* followed by n struct listed_region */
struct wire_regions_reply {
    uint32_t status;
    uint32_t n;
    uint32_t more;
    uint32_t reserved;
    struct log_pos at;
    struct membership membership;
};
static_assert(sizeof(struct wire_regions_reply) == 288, "wire_regions_reply has no padding");
static_assert(sizeof(struct wire_regions_reply) + REGIONS_PER_MESSAGE * sizeof(struct listed_region) <= WIRE_BODY_MAX,
              "a full page of regions fits into a body");

struct wire_chunks {
    struct log_pos at;
    uint64_t since;
    uint32_t region;
    uint32_t reserved;
};
static_assert(sizeof(struct wire_chunks) == 48, "wire_chunks has no padding");

/* followed by REGION_CHUNKS uint64_t when the status is DONOR_OK */
struct wire_chunks_reply {
    uint32_t status;
    uint32_t region;
    struct log_pos at;
    uint64_t changed;
};
static_assert(sizeof(struct wire_chunks_reply) == 48, "wire_chunks_reply has no padding");

struct wire_image {
    struct log_pos at;
    uint64_t block;
    uint32_t nblocks;
    uint32_t reserved;
};
static_assert(sizeof(struct wire_image) == 48, "wire_image has no padding");

/* followed by nblocks uint32_t CRCs when the status is DONOR_OK */
struct wire_image_reply {
    uint32_t status;
    uint32_t nblocks;
    uint64_t block;
    struct log_pos at;
    uint64_t changed_at;
    uint64_t wal_ns;
    uint64_t wal_quiet_ns;
    uint64_t zero[WIRE_ZERO_WORDS];
    uint64_t bad[WIRE_ZERO_WORDS];
    uint64_t lost[WIRE_ZERO_WORDS];
};
static_assert(sizeof(struct wire_image_reply) == 168, "wire_image_reply has no padding");

struct wire_digests {
    uint32_t region;
    uint32_t reserved;
};
static_assert(sizeof(struct wire_digests) == 8, "wire_digests has no padding");

/* followed by REGION_CHUNKS struct chunk_digest when the status is DONOR_OK */
struct wire_digests_reply {
    uint32_t status;
    uint32_t region;
    uint64_t applied;
    uint64_t comparable;
    uint32_t next;
    uint32_t reserved;
};
static_assert(sizeof(struct wire_digests_reply) == 32, "wire_digests_reply has no padding");

struct wire_crcs {
    uint64_t block;
};
static_assert(sizeof(struct wire_crcs) == 8, "wire_crcs has no padding");

/* followed by nblocks uint32_t CRCs */
struct wire_crcs_reply {
    uint32_t status;
    uint32_t nblocks;
    uint64_t block;
    uint64_t applied;
    uint64_t changed_at;
};
static_assert(sizeof(struct wire_crcs_reply) == 32, "wire_crcs_reply has no padding");

struct wire_scrub {
    uint32_t flags;
    uint32_t reserved;
};
static_assert(sizeof(struct wire_scrub) == 8, "wire_scrub has no padding");

struct wire_create {
    uint64_t size_blocks;
    struct membership membership;
};
static_assert(sizeof(struct wire_create) == 248, "wire_create has no padding");

struct wire_created {
    int32_t error;
    uint32_t reserved;
};
static_assert(sizeof(struct wire_created) == 8, "wire_created has no padding");

struct wire_address {
    struct uuid identity;
    char name[NAME_MAX_BYTES];
    char address[ADDRESS_MAX_BYTES];
};
static_assert(sizeof(struct wire_address) == 16 + NAME_MAX_BYTES + ADDRESS_MAX_BYTES, "wire_address has no padding");

struct wire_members {
    uint32_t verb;
    uint32_t reserved;
    struct membership membership;
};
static_assert(sizeof(struct wire_members) == 248, "wire_members has no padding");

struct wire_done {
    int32_t error;
    uint32_t reserved;
    char text[DONE_TEXT_BYTES];
};
static_assert(sizeof(struct wire_done) == 248, "wire_done has no padding");

#define WIRE_ENTRY_MIN sizeof(struct entry_format)
#define WIRE_ENTRY_MAX (sizeof(struct entry_format) + ENTRY_MAX_BLOCKS * sizeof(uint32_t))
static_assert(WIRE_ENTRY_MAX >= sizeof(struct entry_format) + sizeof(struct membership), "no entry is larger than a WRITE");

#endif
