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
    /* operator */
    MSG_CREATE = 80,
    MSG_CREATED,
    MSG_STATUS,
    MSG_STATUS_REPLY,
};

enum node_role { ROLE_FRONTEND = 1, ROLE_REPLICA = 2, ROLE_TOOL = 3 };

/* Consecutive slots whose entries were first proposed under the same ballot. */
struct run {
    struct ballot e;
    uint64_t first, last;
};
static_assert(sizeof(struct run) == 40, "run has no padding");

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
        /* QUERY_ACK and NACK. In a NACK, unknown != 0 says that the group is not here. */
        struct {
            struct ballot promised;
            struct uuid holder; /* zero: free */
            uint64_t remaining_ns;
            uint32_t unknown;
            uint32_t reserved;
            char holder_name[NAME_MAX_BYTES];
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
        } beat_ack;
        struct {
            uint64_t expiry_ns; /* how long from receipt Prepares of other proposers are refused while `ballot.proposer` may break the lease */
        } force;
        struct {
            uint64_t block;
            uint32_t nblocks; /* 1..ENTRY_MAX_BLOCKS */
            uint32_t peer;    /* 1: a replica's repair read: no lease, no ballot; watermark is a plain applied slot */
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
        struct {
            uint64_t size_blocks;
            struct membership membership; /* slot 0 */
        } create;
        struct {
            int32_t error; /* 0 or an errno */
            uint32_t reserved;
        } created;
        struct {
            const char *json; /* not NUL-terminated */
            uint32_t len;
        } status_reply;
    } u;
};

#endif
