/* The acceptor of one group: rules A1-A8 of protocol.md.
 *
 * What always holds (acceptor_check):
 *  - promised never goes down; an answer that depends on a record is released only when that record is durable
 *    (effect.after).
 *  - commit <= last slot of the log + base; no CUT at or below commit.
 *  - match is meaningful only under promised, and only for the stream (link) that opened it.
 *  - durable <= last; no LOST slot <= durable or <= commit; Accepted(through): through = min(match, durable).
 *  - while needs_copy holds, every answer says so; the log may be empty, and `log.base` what the last jump took over.
 *  - at most one uncommitted membership is known, and it stands above commit. The one before it is committed (P9),
 *    whether that was heard here or not.
 *
 * The driver (replica/) owns values: the acceptor sees entries only while it is handed them. Each PERSIST effect
 * (PROMISE, CUT, APPEND, REFILL) becomes WAL records in the order of the effects; when the batch that holds it is
 * durable, batches in order, the driver reports the largest seq with ACCEPTOR_DURABLE. */
#ifndef QBD_CONSENSUS_ACCEPTOR_H
#define QBD_CONSENSUS_ACCEPTOR_H

#include "consensus/paxos.h"

#define ACCEPTOR_PENDING_MAX 128u /* runs of consecutive appends not yet durable */
#define ACCEPTOR_NO_LINK UINT32_MAX

/* How the group's space and log room look to the store; copied into answers. The driver keeps it current. */
struct acceptor {
    /* durable */
    uint64_t group;
    struct uuid identity;
    uint64_t size_blocks;
    struct ballot promised;
    uint64_t max_lease_ns; /* the largest ever granted */
    struct paxos_log log;  /* from the log's floor (at or below the checkpoint) to its last entry, LOST ones included */
    uint32_t n_lost;
    uint64_t lost[LOST_MAX]; /* ascending slots whose value was lost (rot) */
    union {
        struct {
            struct membership committed, uncommitted;
        };
        struct membership memberships[2]; /* the same, as a Promise lists them */
    };
    bool has_uncommitted;
    bool membership_changed; /* by the step under way */
    bool needs_copy; /* not complete: what it says counts for nothing (docs/rebuild.md "Counting"), though it says it and
                        is in the stream. Changed by acceptor_set_needs_copy and ACCEPTOR_COMPLETE alone. */
    bool retired;    /* it was a voter, and the committed membership has it no more */
    /* volatile */
    uint64_t commit;
    uint64_t durable; /* all slots <= durable are durable here and not LOST */
    uint64_t told;    /* slot of the last COMMIT effect: min(commit, durable) */
    uint64_t seq, durable_seq;
    uint64_t promise_seq; /* the newest PROMISE record: what rests on promised or max_lease_ns waits for it */
    bool match_valid;
    uint64_t match;        /* match[promised] */
    uint64_t acked;        /* last `through` sent */
    uint32_t stream;       /* link of the opened stream; ACCEPTOR_NO_LINK: none */
    uint32_t refused_link; /* was told that its Accepts are refused: one NACK is enough for a queue full of them */
    bool tell_complete;    /* it has become complete and has not said so yet */
    struct uuid holder;    /* of the lease; zero: none */
    uint64_t lease_until_ns;
    bool released; /* the promised ballot was released: no more leases for it */
    char holder_name[NAME_MAX_BYTES];
    uint64_t restart_until_ns; /* A8: until then only promised's proposer is promised anything */
    struct uuid force_proposer;
    uint64_t force_until_ns;
    struct credits credits;
    struct {
        uint64_t first_slot, first_seq, n;
    } pending[ACCEPTOR_PENDING_MAX]; /* appends and refills not yet durable: n slots from first_slot on, with seqs from
                                        first_seq on */
    uint32_t n_pending;
};

/* What was found on disk (or made by CREATE). log, lost and memberships are copied. */
struct acceptor_state {
    uint64_t group;
    struct uuid identity;
    uint64_t size_blocks;
    struct ballot promised;
    uint64_t max_lease_ns;
    const struct paxos_log *log;
    uint32_t n_lost;
    const uint64_t *lost;
    struct membership committed;
    const struct membership *uncommitted; /* or NULL */
    uint64_t commit;
    bool restarted; /* false for a group just created: no restart wait */
    bool needs_copy;
    bool retired; /* known from before; what the memberships show is found without it */
};

void acceptor_init(struct acceptor *a, const struct acceptor_state *s, uint64_t now_ns);

enum acceptor_event_type {
    ACCEPTOR_MSG,       /* a consensus message from link (QUERY, PREPARE, OPEN, ACCEPT, BEAT, RELEASE, FORCE) */
    ACCEPTOR_DURABLE,   /* all persist effects with seq <= durable_seq are durable */
    ACCEPTOR_LINK_DOWN, /* the link is gone: its stream too */
    /* A7: entries (from.slot+1 .. through.slot), all committed at a peer. Without entries: `through` alone is known to be
     * committed, and is so here as well if the own log holds it. */
    ACCEPTOR_CAUGHT_UP,
    ACCEPTOR_TRIM,      /* the log's floor rises to `trim` (<= the last COMMIT effect's slot) */
    /* A7 by copy: `to` is committed (a donor's applied position), with the membership that was committed then, and the store
     * takes it for its own position in the same turn. Only while needs_copy, and only above the last COMMIT effect's slot;
     * else nothing happens. If the log holds `to`, what stands above it stays, for it may have been acknowledged with this
     * replica's vote; otherwise the log is emptied (a CUT(to.slot + 1) says so). Any stream is dropped. The COMMIT effect
     * that comes next is for a slot above `to`. Nothing that later effects bring may become durable before the jump. */
    ACCEPTOR_JUMP,
    /* An operator's last resort (docs/rebuild.md "Recovery"): the log as it stands, without LOST entries and what follows them, is the group's from now on, and this replica its only voter.
     * entries[0] is an ENTRY_MEMBER with this voter alone; its slot and e are set here; `ballot` is above promised. Only after acceptor_may_recover(). */
    ACCEPTOR_RECOVER,
    ACCEPTOR_COMPLETE, /* the copy is complete, durably: it counts from now on, and says so */
};

struct acceptor_event {
    enum acceptor_event_type type;
    uint64_t now_ns;
    uint32_t link;
    const struct msg *msg;
    uint64_t durable_seq;
    struct log_pos from, through; /* CAUGHT_UP: from is the own commit's position as it was asked for */
    struct log_pos to;            /* JUMP */
    struct ballot ballot;         /* RECOVER */
    const struct membership *membership;
    struct entry *const *entries;
    uint32_t n_entries;
    uint64_t trim;
};

enum acceptor_effect_type {
    /* persist, in this order */
    ACCEPTOR_PROMISE, /* record promised and max_lease_ns */
    ACCEPTOR_CUT,     /* slots >= slot are gone */
    ACCEPTOR_APPEND,  /* entry stands at entry->slot (new last) */
    ACCEPTOR_REFILL,  /* entry's value for a LOST slot */
    /* then */
    ACCEPTOR_SEND,   /* msg to link, once everything with seq <= after is durable (at once when after <= durable_seq).
                        Pointers inside point into the acceptor: encode it now. */
    ACCEPTOR_COMMIT, /* slots <= slot are committed AND locally durable: apply them in order */
    ACCEPTOR_BEHIND, /* the group has chosen `target`, which is not matched here: catch up from peers */
    ACCEPTOR_MEMBERSHIP, /* the committed or uncommitted membership changed */
};

struct acceptor_effect {
    enum acceptor_effect_type type;
    uint64_t seq;   /* of a persist effect */
    uint64_t after; /* SEND */
    uint32_t link;
    uint64_t slot;
    struct log_pos target;
    struct entry *entry;
    struct msg msg;
};

struct acceptor_effects {
    uint32_t n, cap; /* cap >= 16, and >= n_entries + 16 for CAUGHT_UP */
    struct acceptor_effect *effect;
};

/* One step. Refused messages yield a NACK or nothing, never an error: the sender's view is its own matter. effects->n
 * is reset first. */
void acceptor_step(struct acceptor *a, const struct acceptor_event *ev, struct acceptor_effects *effects);
/* The group lost what peers still hold, or regained it by a copy that is durable. `on` drops the stream: another one may be
 * opened, and is of use to the copy. Off is the same as ACCEPTOR_COMPLETE, but is told with the next step. */
void acceptor_set_needs_copy(struct acceptor *a, bool on);
/* True: the committed membership has this replica as a voter. Neither a voter nor retired: a learner. */
bool acceptor_is_voter(const struct acceptor *a);
/* NULL, or why this replica's log can't be made the group's (yet). */
const char *acceptor_may_recover(const struct acceptor *a, uint64_t now_ns);
/* The place of the own commit: where catch-up starts (`from` of CAUGHT_UP). */
struct log_pos acceptor_commit_pos(const struct acceptor *a);
/* False while the pending table is nearly full: hold back ACCEPTs until the next DURABLE. */
bool acceptor_has_room(const struct acceptor *a);

enum acceptor_read_verdict {
    ACCEPTOR_READ_OK,     /* serve when applied >= watermark (it will be without further messages) */
    ACCEPTOR_READ_BEHIND, /* the watermark is neither committed nor matched under this ballot */
    ACCEPTOR_READ_NACK,   /* ballot < promised (effects hold the NACK), or needs_copy */
};
/* P8 at the acceptor: the watermark is an announced commit as well (A6), so a COMMIT effect may follow. */
enum acceptor_read_verdict acceptor_read(struct acceptor *a, uint64_t now_ns, uint32_t link, const struct msg *read,
                                         struct acceptor_effects *effects);

/* The whole state's invariants; aborts with a message on violation. Called after every step in debug builds. */
void acceptor_check(const struct acceptor *a);

#endif
