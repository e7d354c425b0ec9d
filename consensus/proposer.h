/* The distinguished proposer of one group: rules P1-P11 of protocol.md.
 *
 * Life: IDLE -> QUERYING -> PREPARING -> RECOVERING (collect values of the uncommitted tail) -> STARTING (own session
 * start proposed) -> SERVING; WAITING between attempts (held by another, or lost a duel); FENCED is final (P7).
 *
 * What always holds (proposer_check):
 *  - one log choice per ballot: nothing that follows from it is sent before STARTING, and it does not change from then
 *    on. A round is never used twice.
 *  - chosen < next; once STARTING, every slot in (floor, next) has its entry here, with its e; once SERVING, floor <=
 *    chosen.
 *  - a replica that needs a copy counts for nothing: no quorum, lease, credit or majority has it in.
 *  - chosen >= session start once SERVING; only W or chosen slots are announced as commit.
 *  - at most ring_slots / 2 slots are not yet chosen. Chosen ones are kept for replicas that have not acknowledged
 *    them, up to retain_bytes in all.
 *
 * The order of effects in one step is part of the contract: UNPLACED entries come before the CHOSEN that makes their
 * old slots' numbers chosen, and CHOSEN before STATE. An entry that was UNPLACED may be submitted again once the state
 * is SERVING, which it is when UNPLACED is reported: from then on its old place can never be chosen. FENCED is preceded
 * by a FORGET for every entry that is still here. */
#ifndef QBD_CONSENSUS_PROPOSER_H
#define QBD_CONSENSUS_PROPOSER_H

#include "consensus/paxos.h"

#define PROPOSER_INFLIGHT_BYTES (16u << 20) /* of entries that have a slot and are not chosen */
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
    bool answered_query, said_free;
    bool refused;            /* its Nack: a lease holds there for another */
    uint64_t next;           /* slot to be sent next */
    uint64_t acked;          /* Accepted(through) under the own ballot, since it last said that it needs a copy */
    uint64_t received;       /* how far it is known to have come: through here it needs nothing from here any more */
    uint64_t lease_until_ns; /* counted from the send time of the echoed request, less the drift bound */
    uint64_t beat_sent_ns;
    bool has_credits;
    struct credits credits;
    struct log_pos opened;  /* m of the last OPEN */
    uint64_t commit;        /* as last heard */
    uint64_t behind_commit; /* ... when it was found to be BEHIND */
    uint64_t reopen_at_ns;  /* not before */
    uint64_t applied;
    uint64_t size_blocks;
    bool configured; /* one of params.identity: asked for a majority while no membership is known */
    bool learner;    /* linked to be sent everything, voter or not (PROPOSER_ADD_LINK) */
    bool retired;    /* it says that it was voted out */
    bool needs_copy; /* not complete: it is sent everything, and nothing of it counts (docs/rebuild.md "Counting") */
    /* the log as its promise or Mismatch showed it */
    bool has_log;
    struct log_pos promise_commit;
    uint32_t n_memberships;
    struct membership memberships[2];
    uint32_t n_lost;
    struct paxos_log log; /* last, with lost: 50 KiB of which log.n and n_lost say what counts */
    uint64_t lost[LOST_MAX];
};

struct proposer_slot {
    struct entry *entry; /* the value in the log of the current ballot; NULL: not here yet (RECOVERING) */
    struct ballot e;
    /* P7: the own write that stood at this slot when the ballot was lost. While a new log is being chosen it is here;
     * found in that log, `entry` is the same. */
    struct entry *own;
    bool own_found;
    uint64_t bytes_end, slabs_end; /* running totals through this slot */
    uint32_t tried;                /* replicas that could not give the value */
    uint8_t asked;                 /* the one that is asked for it; PROPOSER_NOBODY */
};
#define PROPOSER_NOBODY 0xffu

struct proposer_params {
    uint64_t group;
    struct uuid id; /* 128 random bits of this process start */
    char name[NAME_MAX_BYTES];
    uint64_t lease_ns;   /* 0: leases off */
    uint64_t beat_ns;    /* < lease_ns / 3 */
    uint64_t timeout_ns; /* for an attach attempt */
    uint64_t retain_bytes;
    uint64_t inflight_bytes; /* 0: PROPOSER_INFLIGHT_BYTES; less for replicas with smaller WALs than a daemon would have */
    uint32_t n_replicas; /* links that the driver has at first; link i leads to identity[i] */
    struct uuid identity[PROPOSER_REPLICAS_MAX]; /* zero: no link has this number (any more) */
    struct proposer_slot *ring; /* memory of the caller: ring_slots (a power of two, at least 16) */
    uint32_t ring_slots;
};

struct proposer {
    struct proposer_params params;
    enum proposer_state state;
    struct ballot ballot;
    uint64_t max_round; /* highest seen anywhere */
    struct membership committed, uncommitted;
    bool has_membership, has_uncommitted;
    uint8_t voter_link[2]
                      [MEMBERS_MAX]; /* replica index of each voter of `committed` and `uncommitted`; PROPOSER_NOBODY */
    struct paxos_log
        log; /* the chosen log's runs above floor, the own entries included; base = the position of floor */
    struct log_pos recovered_commit; /* W */
    uint64_t session_slot;           /* the own session start's slot under the current ballot; 0: none yet */
    uint64_t last_session_slot;      /* that of the last session of this process that served (P7); 0: none */
    uint64_t floor, chosen, next;    /* slots (floor, next) are in the ring */
    uint64_t retained_bytes;
    uint64_t bytes_total, slabs_total; /* running totals through next - 1 ... */
    uint64_t floor_bytes, floor_slabs; /* ... and through floor */
    uint64_t own_first, own_end;       /* slots [own_first, own_end) may have an `own`; equal: none */
    uint64_t n_missing, fetch_scan; /* values that are not here yet; nothing below fetch_scan is left to be asked for */
    uint32_t n_fetching;
    uint64_t size_blocks;
    uint64_t attempt_deadline_ns, retry_at_ns, next_beat_ns;
    uint32_t attempts;
    bool want_attach, want_session_entry;
    bool want_links; /* a membership has come that names somebody without a link */
    struct entry *session_entry; /* given and not yet used */
    /* when WAITING because another holds the group */
    struct uuid holder;
    char holder_name[NAME_MAX_BYTES];
    uint64_t holder_until_ns;
    struct proposer_replica replica[PROPOSER_REPLICAS_MAX]; /* last: a megabyte, hardly any of it in use */
};

void proposer_init(struct proposer *p, const struct proposer_params *params);

enum proposer_event_type {
    PROPOSER_ATTACH, /* begin (and keep trying) */
    PROPOSER_DETACH, /* release the leases and stop; nothing may be in flight that is still wanted */
    PROPOSER_TICK,   /* at least every beat_ns / 2 */
    PROPOSER_LINK_UP,
    PROPOSER_LINK_DOWN,
    PROPOSER_MSG,
    PROPOSER_SESSION_ENTRY, /* answers WANT_SESSION_ENTRY: an ENTRY_SESSION entry, reference adopted */
    /* `link`, a number that is not in use (below PROPOSER_REPLICAS_MAX), leads to `identity` from now on, and is down; or, with
     * an identity that has this link already, only `learner` changes. */
    PROPOSER_ADD_LINK,
    PROPOSER_REMOVE_LINK, /* the number is free again; a voter may be removed, it is then one that is away */
};

struct proposer_event {
    enum proposer_event_type type;
    uint64_t now_ns;
    uint64_t random; /* for jitter */
    uint32_t link;
    const struct msg *msg;
    struct entry *entry;
    struct uuid identity; /* ADD_LINK */
    bool learner;
};

enum proposer_effect_type {
    PROPOSER_SEND,       /* msg to link; encode it now */
    PROPOSER_DISCONNECT, /* drop the link (its queue of unsent entries is too long, or it broke the protocol); LINK_DOWN
                            follows from the driver */
    PROPOSER_CHOSEN,     /* all slots <= slot are chosen */
    PROPOSER_STATE,      /* state changed (see proposer.state) */
    PROPOSER_HOLD,       /* entry (of a VALUE) is kept: take a reference */
    PROPOSER_FORGET,     /* entry is no longer needed: drop its reference */
    PROPOSER_UNPLACED,   /* P7: an own entry is not in the log of the new ballot; may be submitted again, in this order,
                            after this step. Its reference returns to the driver. */
    PROPOSER_WANT_SESSION_ENTRY,
    PROPOSER_WANT_LINK, /* `identity` votes and has no link: ADD_LINK one, if you know where it is. Said again with each attempt. */
};

struct proposer_effect {
    enum proposer_effect_type type;
    uint32_t link;
    uint64_t slot;
    struct entry *entry;
    struct uuid identity;
    struct msg msg;
};

/* Effects are delivered to a function rather than stored: a stream that opens may send thousands of entries. */
struct proposer_sink {
    void (*fn)(struct proposer_sink *sink, const struct proposer_effect *e); /* must not step the proposer */
};

void proposer_step(struct proposer *p, const struct proposer_event *ev, struct proposer_sink *sink);

/* Room for worst cases: 64 KiB slabs, as credits count them. */
#define PROPOSER_SLAB_BLOCKS 16u

/* Assigns the next slot and sends ACCEPTs. 0: the entry's reference is adopted, entry->slot and e are set. -EAGAIN:
 * ring or credits in flight exhausted, try again after CHOSEN or a tick. -ENOSPC: fewer than a majority have room,
 * nothing is in flight and none is growing (P10). -ENOTCONN: not SERVING. -ESTALE: fenced. -EINVAL: never to be
 * proposed (a session start, an impossible membership). A membership: what proposer_may_change() says. On failure the entry and its reference
 * stay the caller's, unchanged. */
MUST_USE int proposer_submit(struct proposer *p, uint64_t now_ns, struct entry *entry, struct proposer_sink *sink);

/* P9: whether a membership with these voters can be proposed now. 0: yes. -EAGAIN: soon, as far as can be told: the pipeline
 * has to drain, for which nothing may be submitted meanwhile, or a voter is about to hold everything. Else only when something
 * has changed: -ENOTCONN: not serving; -EBUSY: another membership is not committed yet; -ENOLINK: a new voter's stream is not
 * open; -ENODATA: a new voter is not complete; -EINVAL. why: a sentence for people. */
MUST_USE int proposer_may_change(const struct proposer *p, const struct membership *m, const char **why);

/* P8. With leases off (lease_ns == 0) it is never true: reads then need another way. True: a read issued now is
 * linearizable with *ret_watermark; false: the lease is not held by a quorum (wait for beats). */
bool proposer_can_read(const struct proposer *p, uint64_t now_ns, uint64_t *ret_watermark);

void proposer_check(const struct proposer *p);

#endif
