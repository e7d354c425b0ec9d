/* Messages between front ends, replicas and tools, in memory (protocol.md "Messages"; encoding: base/wire.h).
 *
 * Every message names its group, its sender's ballot and the identity that it is meant for. Pointers in a received message point into the receiver's
 * buffers and are valid during the call that hands it over; pointers in one to be sent, until it was encoded. */
#ifndef QBD_BASE_MSG_H
#define QBD_BASE_MSG_H

#include "base/entry.h"

enum msg_type {
    /* session */
    MSG_HELLO = 1, /* both sides' first */
    MSG_REFUSED,   /* why the connection ends */
    /* consensus: proposer -> acceptor, and the answers */
    MSG_QUERY = 16,
    MSG_QUERY_ACK,
    MSG_PREPARE,
    MSG_PROMISE,
    MSG_NACK,
    MSG_FETCH,
    MSG_VALUE,
    MSG_OPEN,
    MSG_OPENED,
    MSG_MISMATCH,
    MSG_ACCEPT,
    MSG_ACCEPTED,
    MSG_BEAT,
    MSG_BEAT_ACK,
    MSG_RELEASE,
    MSG_FORCE,
    /* reads */
    MSG_READ = 48,
    MSG_DATA,
    /* replica <-> replica */
    MSG_CATCHUP = 64,
    MSG_CATCHUP_ENTRY,
    MSG_CATCHUP_END,
    MSG_REGIONS,
    MSG_REGIONS_REPLY,
    MSG_CHUNKS,
    MSG_CHUNKS_REPLY,
    MSG_IMAGE,
    MSG_IMAGE_REPLY,
    MSG_DIGESTS,
    MSG_DIGESTS_REPLY,
    MSG_CRCS,
    MSG_CRCS_REPLY,
    /* operator */
    MSG_CREATE = 80,
    MSG_CREATED,
    MSG_STATUS,
    MSG_STATUS_REPLY,
    MSG_ADDRESS, /* where an identity lives: for daemons whose configuration does not say */
    MSG_MEMBERS, /* to the front end that holds the group */
    MSG_DONE,    /* answers ADDRESS, MEMBERS and SCRUB */
    MSG_SCRUB,   /* begin a pass of this group, or of all (group 0) */
    MSG_RECOVER, /* the last resort: this replica's log becomes the group's, and it the only voter; ballot.proposer: any fresh id. Answered by DONE */
};

enum members_verb {
    MEMBERS_LEARN = 1,  /* stream to voter[0], which is no voter yet: a learner */
    MEMBERS_FORGET = 2, /* no longer */
    MEMBERS_CHANGE = 3, /* propose these voters; DONE when that is committed */
};

#define DONE_TEXT_BYTES 240u
#define SCRUB_AT_FULL_RATE 1u

enum node_role { ROLE_FRONTEND = 1, ROLE_REPLICA = 2, ROLE_TOOL = 3 };

/* Consecutive slots whose entries were first proposed under the same ballot. */
struct run {
    struct ballot e;
    uint64_t first, last;
};
static_assert(sizeof(struct run) == 40, "run has no padding");

/* Front ends and replicas note when a write came and went if its slot is a multiple of this: the same ones at both ends. */
#define TRACE_EVERY 64u
#define TRACE_KEPT 64u /* such samples that a daemon keeps */
#define TRACE_TOLD 8u  /* ... and tells of in its status, the newest ones */

#define RUNS_MAX 1024u
#define LOST_MAX 4096u /* LOST slots that an acceptor may hold; with more it does not vote */

struct credits {
    uint64_t slabs;      /* free − reserved − pending-free − reserve: what new writes may use */
    uint64_t slot_limit; /* the highest slot that there is log room for */
    uint8_t growing;     /* 1: more slabs are being made, or can be: wait instead of answering ENOSPC */
    uint8_t reserved[7];
};
static_assert(sizeof(struct credits) == 24, "credits has no padding");

enum data_status {
    DATA_OK = 0,
    DATA_BEHIND = 1, /* the replica has not matched the watermark under this ballot */
    DATA_BAD = 2,    /* a block is damaged here; ask another replica (a repair has begun) */
    DATA_FUZZY = 3,  /* not complete: a copy is under way */
};

enum catchup_status {
    CATCHUP_OK = 0,
    CATCHUP_TOO_OLD = 1,    /* the donor's log no longer reaches back to `from`: needs copy, unless `through` is held */
    CATCHUP_UNMATCHED = 2,  /* `from` is above the donor's commit, or not its entry */
};

/* Answers of a replica that is asked for what stands in its store (docs/rebuild.md). */
enum donor_status {
    DONOR_OK = 0,
    DONOR_BEHIND = 1,     /* it has not applied what the request names; it catches up */
    DONOR_INCOMPLETE = 2, /* it needs a copy itself */
    DONOR_BUSY = 3,       /* not now: ask again, or somebody else */
};

/* A region (64 MiB of a group's addresses) as a donor lists it. */
struct listed_region {
    uint32_t region;
    uint32_t present;    /* bit per leaf (2 MiB): there is something */
    uint64_t changed_at; /* no slot above this, up to the donor's position, touched the region */
};
static_assert(sizeof(struct listed_region) == 16, "listed_region has no padding");

/* What a replica tells of a chunk (1 MiB) for comparison: it was the same at every slot from changed_at to the slot applied then. */
struct chunk_digest {
    uint64_t changed_at;
    uint64_t digest; /* of the checksums of its blocks */
};
static_assert(sizeof(struct chunk_digest) == 16, "chunk_digest has no padding");

#define REGIONS_PER_MESSAGE 4096u
#define REGION_CHUNKS 64u /* 1 MiB each */

struct msg {
    uint16_t type;
    uint64_t cookie; /* answers echo the request's */
    uint64_t group;
    struct uuid target; /* the identity this message is for; a receiver of another identity refuses it */
    struct ballot ballot;
    union {
        struct {
            uint32_t version;
            uint32_t role; /* enum node_role */
            uint64_t features;
            struct uuid cluster;
            struct uuid identity;
            char name[NAME_MAX_BYTES];
        } hello;
        struct {
            char reason[256];
        } refused;
        /* QUERY_ACK and NACK. In a NACK, unknown != 0 says that the group is not here; full != 0, of an OPEN: no slab is left for a stream. retired: as in promise. */
        struct {
            struct ballot promised;
            struct uuid holder; /* zero: free */
            uint64_t remaining_ns;
            uint32_t unknown;
            uint32_t full;
            uint32_t retired;
            uint32_t reserved;
            char holder_name[NAME_MAX_BYTES];
            struct membership membership; /* the committed one; n_voters 0: none is told */
        } holder;
        struct {
            uint64_t lease_ns; /* 0: no lease wanted */
            uint64_t t_ns;     /* the sender's clock, echoed */
            char name[NAME_MAX_BYTES];
        } prepare;
        struct {
            uint64_t t_ns;
            uint64_t lease_ns; /* granted from receipt on; 0: none */
            struct log_pos base;
            struct log_pos commit;
            struct log_pos last;
            uint64_t size_blocks;
            struct credits credits;
            uint32_t n_runs, n_lost, n_memberships; /* memberships: the committed one, then any uncommitted */
            uint32_t needs_copy;                    /* 1: not complete; it promises but its log must not be selected or counted as voter */
            uint32_t retired;                       /* 1: it was a voter, and the committed membership has it no more */
            uint32_t reserved;
            const struct run *runs;                 /* slots > base.slot, ascending, without gaps */
            const uint64_t *lost;
            const struct membership *memberships;
        } promise;
        struct {
            struct log_pos at;
        } fetch;
        struct {
            struct log_pos at;
            uint32_t found;
            uint32_t reserved;
            struct entry *entry; /* when found */
        } value;
        struct {
            struct log_pos at; /* m and its ballot */
            char name[NAME_MAX_BYTES];
        } open;
        struct {
            uint64_t m;
            struct credits credits;
            uint32_t needs_copy; /* here and below: 1: not complete, so that nothing of it counts (docs/rebuild.md "Counting") */
            uint32_t reserved;
        } opened;
        struct {
            struct log_pos base;
            struct log_pos commit;
            uint32_t n_runs;
            uint32_t n_lost;
            const struct run *runs;
            const uint64_t *lost;
        } mismatch;
        struct {
            uint64_t commit;
            struct entry *entry;
        } accept;
        struct {
            uint64_t through;
            struct credits credits;
            uint32_t needs_copy; /* 0 also says that what it acknowledges counts from now on */
            uint32_t reserved;
        } accepted;
        struct {
            uint64_t t_ns;
            uint64_t lease_ns;
            struct log_pos commit; /* highest chosen, with its ballot: where a replica that is behind has to get to */
        } beat;
        struct {
            uint64_t t_ns;
            uint64_t lease_ns; /* granted; 0: none */
            uint64_t commit;
            uint64_t applied;
            uint64_t last;
            struct credits credits;
            uint32_t needs_copy;
            uint32_t retired; /* as in promise */
        } beat_ack;
        struct {
            uint64_t expiry_ns; /* how long from receipt Prepares of other proposers are refused while `ballot.proposer` may break the lease */
        } force;
        struct {
            uint64_t block;
            uint32_t nblocks; /* 1..ENTRY_MAX_BLOCKS */
            uint32_t reserved;
            uint64_t watermark;
        } read;
        struct {
            uint32_t status; /* enum data_status */
            uint32_t nblocks;
            uint64_t block;
            uint64_t applied;   /* slot at which the image was taken */
            const uint32_t *crc; /* nblocks; CRC32C_ZERO_BLOCK for blocks in the zero map */
            const uint64_t *zero; /* bitmap of ENTRY_MAX_BLOCKS bits: blocks that are zero and not in the payload */
            uint32_t payload_len; /* bytes of the blocks that are not zero, in order */
        } data;
        struct {
            struct log_pos from; /* the requester's commit: it wants what follows */
            uint64_t max_bytes;
        } catchup;
        struct {
            struct entry *entry;
        } catchup_entry;
        struct {
            uint32_t status; /* enum catchup_status */
            uint32_t reserved;
            struct log_pos through; /* last entry sent: committed; TOO_OLD: the donor's log begins right above it */
            struct log_pos commit;  /* the donor's */
        } catchup_end;
        /* REGIONS, CHUNKS and IMAGE ask a donor at `at` or later. Where its log holds that position its own commit rises to it: the requester vouches. */
        struct {
            struct log_pos at;
        } regions;
        /* All of the donor's regions, in one turn: as many answers as it takes, of one position. */
        struct {
            uint32_t status; /* enum donor_status; with anything but DONOR_OK the rest is zero */
            uint32_t n;
            uint32_t more; /* 1: another answer follows, with regions above these */
            uint32_t reserved;
            struct log_pos at;            /* the donor's applied position: what this tells is as of then */
            struct membership membership; /* the committed one, then */
            const struct listed_region *region; /* n, ascending */
        } regions_reply;
        struct {
            struct log_pos at;
            uint64_t since;
            uint32_t region;
            uint32_t reserved;
        } chunks;
        struct {
            uint32_t status; /* enum donor_status */
            uint32_t region;
            struct log_pos at;
            uint64_t changed; /* a bit per chunk: some slot above `since` may have touched it, or its leaf is not there */
            const uint64_t *changed_at; /* REGION_CHUNKS; NULL when not DONOR_OK */
        } chunks_reply;
        struct {
            struct log_pos at;
            uint64_t block;
            uint32_t nblocks; /* 1..ENTRY_MAX_BLOCKS */
            uint32_t reserved;
        } image;
        struct {
            uint32_t status; /* enum donor_status */
            uint32_t nblocks;
            uint64_t block;
            struct log_pos at; /* the image's: every entry up to it and none above */
            uint64_t changed_at; /* no slot above this, up to there, touched the chunks that the image is of */
            uint64_t wal_ns, wal_quiet_ns; /* how long a batch takes the donor's WAL now (0: it has no clients), and when it has little to do */
            const uint32_t *crc;  /* nblocks; NULL when not DONOR_OK, as are the maps. CRC32C_ZERO_BLOCK for blocks in the zero map, 0 for bad and lost ones */
            const uint64_t *zero; /* ENTRY_MAX_BLOCKS bits: not in the payload, as are bad and lost ones. No block is in two maps */
            const uint64_t *bad;  /* damaged there: ask another one */
            const uint64_t *lost; /* no replica has it */
            uint32_t payload_len;
        } image_reply;
        struct {
            uint32_t region;
            uint32_t reserved;
        } digests;
        struct {
            uint32_t status; /* enum donor_status; with anything but DONOR_OK the rest is zero */
            uint32_t region;
            uint64_t applied;
            uint64_t comparable; /* a bit per chunk: nothing of it is bad, lost or unknown */
            uint32_t next;       /* the next region above this one that is there; UINT32_MAX: none */
            uint32_t reserved;
            const struct chunk_digest *chunk; /* REGION_CHUNKS; zeroes where not comparable */
        } digests_reply;
        struct {
            uint64_t block; /* the first of a chunk */
        } crcs;
        struct {
            uint32_t status; /* enum donor_status; DONOR_BUSY also: not comparable */
            uint32_t nblocks; /* of the chunk, within the volume */
            uint64_t block;
            uint64_t applied, changed_at; /* as of a chunk_digest */
            const uint32_t *crc; /* nblocks; CRC32C_ZERO_BLOCK for what reads as zero */
        } crcs_reply;
        struct {
            uint64_t size_blocks;
            struct membership membership; /* slot 0 */
        } create;
        struct {
            int32_t error; /* 0 or an errno */
            uint32_t reserved;
        } created;
        struct {
            struct uuid identity;
            char name[NAME_MAX_BYTES];
            char address[ADDRESS_MAX_BYTES];
        } address;
        struct {
            uint32_t verb; /* enum members_verb */
            uint32_t reserved;
            struct membership membership; /* slot: that of the committed one which this goes out from */
        } members;
        struct {
            int32_t error; /* 0 or an errno */
            uint32_t reserved;
            char text[DONE_TEXT_BYTES]; /* for people: what is wrong, and what to do */
        } done;
        struct {
            uint32_t flags; /* SCRUB_AT_FULL_RATE */
            uint32_t reserved;
        } scrub;
        struct {
            const char *json; /* not NUL-terminated */
            uint32_t len;
        } status_reply;
    } u;
};

#endif
