/* The distinguished proposer of one group: rules P1-P11 of protocol.md.
 *
 * Life: IDLE -> QUERYING -> PREPARING -> RECOVERING (collect values of the uncommitted tail) -> STARTING (own session start proposed) -> SERVING; WAITING between attempts (held by another, or lost a duel); FENCED is final (P7).
 *
 * What always holds (proposer_check):
 *  - one log choice per ballot; a round is never used twice.
 *  - floor <= chosen < next; every slot in (floor, next) has its entry here, with its e.
 *  - chosen >= session start once SERVING; only W or chosen slots are announced as commit.
 *  - at most `ring_slots` entries and, beyond those that the slowest OPEN replica of a quorum needs, retain_bytes bytes are held. */
#ifndef QBD_CONSENSUS_PROPOSER_H
#define QBD_CONSENSUS_PROPOSER_H

#include "consensus/paxos.h"

#define PROPOSER_REPLICAS_MAX (2 * MEMBERS_MAX)

enum proposer_state {
    PROPOSER_IDLE,
    PROPOSER_QUERYING,
    PROPOSER_PREPARING,
    PROPOSER_RECOVERING,
    PROPOSER_STARTING,
    PROPOSER_SERVING,
    PROPOSER_WAITING,
    PROPOSER_FENCED,
};

enum proposer_stream {
    STREAM_DOWN,    /* no link */
    STREAM_IDLE,    /* linked, not opened (before the log is chosen, or told to catch up) */
    STREAM_OPENING, /* OPEN sent */
    STREAM_OPEN,    /* OPENED: entries flow */
    STREAM_BEHIND,  /* its log does not reach what is held here: it catches up from its peers; re-opened on progress */
};

struct proposer_replica {
    struct uuid identity;
    enum proposer_stream stream;
    bool has_promised; /* under the current ballot */
    bool answered_query;
    uint64_t next;         /* slot to be sent next */
    uint64_t acked;        /* Accepted(through) under the own ballot */
    uint64_t lease_until_ns; /* counted from the send time of the echoed request, less the drift bound */
    uint64_t beat_sent_ns;
    struct credits credits;
    struct log_pos opened;  /* m of the last OPEN */
    struct log_pos commit;  /* as last heard */
    uint64_t applied;
    bool needs_copy;
    /* the promise's log; kept until the stream is opened */
    bool has_log;
    struct paxos_log log;
    uint32_t n_lost;
    uint64_t lost[LOST_MAX];
    struct log_pos promise_commit;
    uint32_t n_memberships;
    struct membership memberships[2];
};

struct proposer_slot {
    struct entry *entry; /* NULL: value not here yet (RECOVERING) */
    struct ballot e;
    uint64_t bytes;
};

struct proposer_params {
    uint64_t group;
    struct uuid id; /* 128 random bits of this process start */
    char name[NAME_MAX_BYTES];
    uint64_t lease_ns;  /* 0: leases off */
    uint64_t beat_ns;   /* < lease_ns / 3 */
    uint64_t timeout_ns; /* for an attach attempt */
    uint64_t retain_bytes;
    uint32_t n_replicas; /* links that the driver has; link i leads to identity[i] */
    struct uuid identity[PROPOSER_REPLICAS_MAX];
    struct proposer_slot *ring; /* memory of the caller: ring_slots (a power of two) */
    uint32_t ring_slots;
};

struct proposer {
    struct proposer_params params;
    enum proposer_state state;
    struct ballot ballot;
    uint64_t max_round; /* highest seen anywhere */
    struct proposer_replica replica[PROPOSER_REPLICAS_MAX];
    struct membership committed, uncommitted;
    bool has_membership, has_uncommitted;
    struct paxos_log log;  /* the chosen log's runs, the own entries included */
    uint64_t recovered_commit; /* W */
    uint64_t session_slot; /* the own session start's slot under the current ballot; 0: none yet */
    struct ballot session_e; /* ... and its e */
    uint64_t last_session_slot; /* the previous one of this process (P7); 0: none */
    uint64_t floor, chosen, next; /* slots (floor, next) are in the ring */
    uint64_t retained_bytes;
    uint64_t size_blocks;
    uint64_t attempt_deadline_ns, retry_at_ns, next_beat_ns;
    uint32_t attempts;
    bool want_attach, want_session_entry;
    struct entry *session_entry;
    /* when WAITING because another holds the group */
    struct uuid holder;
    char holder_name[NAME_MAX_BYTES];
    uint64_t holder_until_ns;
};

void proposer_init(struct proposer *p, const struct proposer_params *params);

enum proposer_event_type {
    PROPOSER_ATTACH,  /* begin (and keep trying) */
    PROPOSER_DETACH,  /* release the leases and stop; nothing may be in flight that is still wanted */
    PROPOSER_TICK,    /* at least every beat_ns / 2 */
    PROPOSER_LINK_UP,
    PROPOSER_LINK_DOWN,
    PROPOSER_MSG,
    PROPOSER_SESSION_ENTRY, /* answers WANT_SESSION_ENTRY: an ENTRY_SESSION entry, reference adopted */
};

struct proposer_event {
    enum proposer_event_type type;
    uint64_t now_ns;
    uint64_t random; /* for jitter */
    uint32_t link;
    const struct msg *msg;
    struct entry *entry;
};

enum proposer_effect_type {
    PROPOSER_SEND,       /* msg to link; encode it now */
    PROPOSER_DISCONNECT, /* drop the link (its queue of unsent entries is too long, or it broke the protocol); LINK_DOWN follows from the driver */
    PROPOSER_CHOSEN,     /* all slots <= slot are chosen */
    PROPOSER_STATE,      /* state changed (see proposer.state) */
    PROPOSER_HOLD,       /* entry (of a VALUE) is kept: take a reference */
    PROPOSER_FORGET,     /* entry is no longer needed: drop its reference */
    PROPOSER_UNPLACED,   /* P7: an own entry is not in the log of the new ballot; may be submitted again, in this order. Its reference returns to the driver. */
    PROPOSER_WANT_SESSION_ENTRY,
};

struct proposer_effect {
    enum proposer_effect_type type;
    uint32_t link;
    uint64_t slot;
    struct entry *entry;
    struct msg msg;
};

/* Effects are delivered to a function rather than stored: a stream that opens may send thousands of entries. */
struct proposer_sink {
    void (*fn)(struct proposer_sink *sink, const struct proposer_effect *e); /* must not step the proposer */
};

void proposer_step(struct proposer *p, const struct proposer_event *ev, struct proposer_sink *sink);

/* Assigns the next slot and sends ACCEPTs. 0: the entry's reference is adopted, entry->slot and e are set. -EAGAIN: ring or credits in flight exhausted, try again after CHOSEN
 * or a tick. -ENOSPC: fewer than a majority have room, nothing is in flight and none is growing (P10). -ENOTCONN: not SERVING. -ESTALE: fenced. */
MUST_USE int proposer_submit(struct proposer *p, uint64_t now_ns, struct entry *entry, struct proposer_sink *sink);

/* P8. True: a read issued now is linearizable with *ret_watermark; false: the lease is not held by a quorum (wait for beats). */
bool proposer_can_read(const struct proposer *p, uint64_t now_ns, uint64_t *ret_watermark);

void proposer_check(const struct proposer *p);

#endif
