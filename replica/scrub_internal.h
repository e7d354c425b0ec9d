/* What the scrub's files share (docs/rebuild.md section 9): scrub.c goes over everything, scrub_compare.c asks the peers, scrub_status.c tells. */
#ifndef QBD_REPLICA_SCRUB_INTERNAL_H
#define QBD_REPLICA_SCRUB_INTERNAL_H

#include "replica/replica_internal.h"

#define SCRUB_RATE_NOW (UINT64_C(1) << 30) /* bytes/s, when an operator asked for it */
#define SCRUB_RATE_LEAST (UINT64_C(1) << 20) /* however slow the log is: a pass ends */
#define SCRUB_WEEK_S UINT64_C(604800)
#define SCRUB_START_NS (60 * NS_PER_S) /* after the start of the daemon */
#define SCRUB_SAVE_BYTES (UINT64_C(1) << 30)
#define SCRUB_PACE_NS (100 * NS_PER_MS)
#define SCRUB_ANSWER_NS (2 * NS_PER_S)
#define SCRUB_AGAIN_NS (200 * NS_PER_MS)
#define SCRUB_CONNECT_NS (30 * NS_PER_S) /* a peer that is gone is tried this often */
#define SCRUB_SETTLE_NS (20 * NS_PER_S)  /* how long repairs may take before what is still bad counts as unrepaired */
#define SCRUB_ASKS 3u                    /* of chunks whose slots did not meet */
#define SCRUB_FINDINGS_MAX 1024u         /* ranges that are kept; the rest is counted, and not looked at again */
#define SCRUB_NAMED_MAX 64u              /* in status */

struct scrub_range {
    uint64_t group, block;
    uint32_t nblocks;
    bool lost;
};

struct scrub_list {
    struct scrub_range range[SCRUB_FINDINGS_MAX];
    uint32_t n;
    uint64_t blocks; /* of those that are not named, too */
};

struct scrub_report {
    uint64_t id;
    bool asked, full_rate;
    uint64_t only;  /* the group; 0: all */
    uint64_t total_bytes, done_bytes, verified_bytes;
    uint64_t bad_blocks, lost_blocks, rewritten_pages;
    uint64_t disowned_blocks, odd_peer_blocks;
    uint64_t compared_chunks, skipped_chunks;
    uint64_t finished_at; /* seconds since 1970 */
    struct scrub_list found;      /* bad, lost or disowned; when the pass is over: still so */
    struct scrub_list undecided;  /* replicas differ, and none has a majority */
};

struct scrub_answer {
    struct peer *peer;
    uint64_t cookie; /* 0: not asked, or it can't say */
    bool here;
    uint64_t applied, comparable;
    uint32_t next;
    struct chunk_digest chunk[REGION_CHUNKS];
    uint64_t changed_at; /* of one chunk, as the following */
    uint32_t nblocks;
    uint32_t crc[CHUNK_BLOCKS];
};

struct scrub {
    struct replica *replica;
    struct timer timer;
    enum scrub_state { SCRUB_IDLE, SCRUB_META, SCRUB_VERIFY, SCRUB_DIGESTS, SCRUB_CRCS, SCRUB_SETTLE, SCRUB_RECHECK } state;
    bool busy; /* the store works on a step */
    uint64_t last_id;
    struct scrub_report now, last; /* last.id 0: none since the start */
    struct {
        uint64_t id, group;
        bool full_rate;
    } asked; /* id 0: nothing is */
    uint64_t background_rate, interval_ns, next_pass_ns;
    /* pace */
    uint64_t rate, paced_ns, next_step_ns;
    uint64_t unsaved_bytes;
    bool stalled;
    uint64_t stalled_ns;
    /* the place */
    uint64_t group;
    uint32_t region, next_region;
    struct store_scrub step;
    struct store_scrub_meta meta;
    struct store_digest digest;
    struct store_crcs crcs;
    struct store_read read;
    struct scrub_range recheck; /* what is left of the range that is read again */
    uint32_t next_recheck;
    struct scrub_list still;
    /* comparison */
    struct scrub_answer answer[MEMBERS_MAX];
    unsigned n_answers, asks;
    bool waiting;
    uint64_t deadline_ns, connect_ns;
    uint64_t todo, differ; /* chunks */
    unsigned chunk;
};

/* scrub.c */
void scrub_schedule(struct scrub *sc, uint64_t at_ns);
/* At the top of each of the store's callbacks: the step is over. False: so is the replica. */
MUST_USE bool scrub_step_ended(struct scrub *sc);
void scrub_list_add(struct scrub_list *l, uint64_t group, uint64_t block, uint32_t nblocks, bool lost);
void scrub_region_over(struct scrub *sc);
struct replica_group *scrub_group(struct scrub *sc);

/* scrub_compare.c */
void scrub_compare_begin(struct scrub *sc);
void scrub_compare_run(struct scrub *sc);

#endif
