/* The volume session's insides, shared by volume*.c alone.
 *
 * A volume is a row of groups (one for now: S = 1); each group has its proposer, the writes on their way into its log and the reads on their way to its replicas. All groups share the links,
 * one per replica; messages find their group by its id.
 *
 * Life of a write: a request is cut into ops, one entry each. An op takes the lock of its blocks (LOCK), a sub-block op then reads its block (READ) and merges, the op waits in order for a
 * slot (QUEUED), and for its slot to be chosen (INFLIGHT). The request is answered when its last op is done.
 *
 * What always holds:
 *  - `inflight` is in ascending order of slots; every op in it has its entry in the proposer's ring.
 *  - queue and inflight together hold the entries of any one block in the order in which they will take effect (an op is queued only with its lock held, and slots are assigned in the queue's order).
 *  - an op whose request was answered early (request == NULL) is INFLIGHT: what has a slot is never withdrawn (P10), and it keeps its lock until it is chosen.
 *  - events only note what happened; volume_pump() acts. So no step of the proposer happens inside another, and no callback of a request inside a loop over requests. */
#ifndef QBD_NBDSERVER_VOLUME_INTERNAL_H
#define QBD_NBDSERVER_VOLUME_INTERNAL_H

#include <errno.h>

#include "base/crc32c.h"
#include "base/log.h"
#include "consensus/proposer.h"
#include "nbdserver/block_lock.h"
#include "nbdserver/replica_link.h"
#include "nbdserver/volume.h"

#define VOLUME_GROUPS_MAX 1u       /* stripes; more come with striping (P6: serve when ALL groups' session starts are chosen) */
#define VOLUME_LINKS_MAX PROPOSER_REPLICAS_MAX
#define VOLUME_RING_SLOTS_MIN 1024u
#define VOLUME_RING_SLOTS_MAX 65536u
#define VOLUME_TICK_BUSY_NS (20 * NS_PER_MS) /* while not serving */

#define READ_ATTEMPTS_MAX 4096u     /* READs under way, to all replicas together, those that nobody waits for included */
#define READ_PER_LINK_MAX 1024u     /* ... to one replica */
#define READ_HEDGE_MIN_NS (2 * NS_PER_MS)
#define READ_HEDGE_EVERY 16u               /* at most one read in so many is hedged in the long run: when everything is slow, asking twice makes it slower */
#define READ_HEDGE_BURST 64u               /* ... but so many in a row, for a replica that just stopped answering */
#define READ_HEDGE_ALWAYS_NS (25 * NS_PER_MS) /* a read as old as that is hedged in any case */
#define READ_HEDGE_UNKNOWN_NS (10 * NS_PER_MS) /* for a replica not measured yet */
#define READ_RETRY_MIN_NS (2 * NS_PER_MS)
#define READ_RETRY_MAX_NS (100 * NS_PER_MS)
#define READ_TIMER_GRAIN_NS (500u * 1000u)

static_assert(READ_PER_LINK_MAX < READ_ATTEMPTS_MAX, "one replica that hangs does not use up all attempts");
static_assert(VOLUME_LINKS_MAX <= 32, "replicas of a volume fit a bit mask");

struct volume_read;

/* One READ sent to one replica. It outlives its read when another replica was faster. */
struct read_attempt {
    struct list link; /* in the replica's outstanding ones (oldest first), or in the free list */
    struct volume_read *read; /* NULL: nobody waits for it any more */
    uint64_t sent_ns;
    uint32_t replica;
    uint32_t generation; /* with the index, the cookie: a stale answer finds nothing */
    bool in_use, large;
};

/* What is known of a replica's answers, by size: 1 MiB takes longer than 4 KiB, which says nothing about its health. */
struct read_latency {
    uint64_t mean_ns, deviation_ns, sampled_ns; /* mean 0: none yet */
};

struct read_replica {
    struct list outstanding; /* struct read_attempt */
    uint32_t n_outstanding;
    struct read_latency latency[2]; /* small, large */
    uint64_t answers, bad, hedged;
};

/* Blocks wanted from any replica. Embedded in its owner. */
struct volume_read {
    struct list link; /* in the group's reads_waiting, reads_retry or reads_active */
    struct volume_group *group;
    uint64_t block;
    uint32_t nblocks;
    void (*done)(struct volume_read *read, int error); /* error 0: buf holds the blocks (reference the owner's), or is NULL: all zero. Else EIO. */
    struct buf *buf;
    /* volume_read.c's own */
    uint32_t tried, bad; /* replicas, as bits; bad: they said BAD (or their answer was) for the range being asked for in this round */
    uint32_t n_attempts;
    struct read_attempt *attempt[VOLUME_LINKS_MAX];
    uint64_t asked_ns; /* the last time */
    uint64_t hedge_at_ns, retry_at_ns, retry_delay_ns;
    bool active;
    bool by_block; /* every replica has some bad block in the range: block by block each may be had from another */
    uint32_t at;   /* by_block: the one being read */
};

enum op_state { OP_LOCK, OP_READ, OP_QUEUED, OP_INFLIGHT };

/* One entry's way into the log, or one piece of a READ. */
struct volume_op {
    struct list link;       /* granted, queue, unplaced or inflight */
    struct list of_request; /* in its request's ops */
    struct export_request *request; /* NULL: answered already */
    struct volume_group *group;
    enum op_state state;
    enum entry_kind kind; /* 0: a READ's piece */
    uint32_t piece;
    uint64_t block;
    uint32_t nblocks;
    struct buf *payload; /* WRITE: own reference until the entry has it */
    uint32_t payload_off;
    bool sub_block;
    uint32_t sub_off, sub_len; /* sub-block: the bytes of the block that change ... */
    const uint8_t *sub_data;   /* ... to these, in the request's payload; NULL: to zeroes */
    struct entry *entry;       /* QUEUED: a reference, NULL until it is tried first; INFLIGHT: the proposer's, for comparison only */
    uint64_t slot;
    struct block_lock lock;
    struct volume_read read;
};

struct op_chunk {
    struct op_chunk *next;
    struct volume_op op[];
};

/* In export_request.scratch. */
struct request_state {
    struct list ops;
    uint64_t submitted_ns;
};
static_assert(sizeof(struct request_state) <= sizeof(((struct export_request *)0)->scratch), "request_state fits the request's scratch");

static inline struct request_state *request_state(struct export_request *r)
{
    return (struct request_state *)r->scratch;
}

/* volume_trace.c: a sampled write. Times are 0 until they come. */
struct write_sample {
    uint64_t slot;
    uint32_t nblocks;
    uint64_t arrived_ns; /* at the volume, to within a loop turn */
    uint64_t placed_ns;  /* it has its slot, and is queued to the replicas */
    uint64_t chosen_ns, replied_ns;
    uint64_t acked_ns[VOLUME_LINKS_MAX];
};

struct trace_part {
    uint64_t n, ns; /* of all samples since the start */
};

struct write_trace {
    struct write_sample sample[TRACE_KEPT]; /* a ring */
    uint64_t n;                             /* samples ever */
    uint64_t chosen, acked[VOLUME_LINKS_MAX]; /* those before these are chosen, acknowledged by that link */
    uint32_t by; /* the link whose acknowledgement is being dealt with */
    struct trace_part prepare, quorum, reply, ack[VOLUME_LINKS_MAX];
    uint64_t decided[VOLUME_LINKS_MAX]; /* how often it was that link's acknowledgement that made the majority */
};

struct volume_group {
    struct volume *volume;
    uint64_t id;
    struct proposer *proposer;
    struct proposer_slot *ring;
    uint32_t ring_slots;
    struct proposer_sink sink;
    /* noted by the sink, acted upon by the pump */
    uint64_t chosen;       /* highest that the sink told */
    uint32_t disconnect;   /* links, as bits */
    bool want_session, state_changed;
    /* writes */
    struct block_locks locks;
    struct list granted;  /* got their lock */
    struct list queue;    /* want a slot, in order */
    struct list unplaced; /* P7: had one that the new log does not hold; they go before the queue */
    struct list inflight;
    bool no_space; /* said in the log */
    /* reads */
    struct list reads_waiting; /* for the lease */
    struct list reads_retry;   /* for a replica: until retry_at_ns */
    struct list reads_active;
    struct read_replica replica[VOLUME_LINKS_MAX];
    struct read_attempt *attempts;
    struct list attempts_free;
    struct timer read_timer;
    uint64_t read_timer_ns; /* 0: not set */
    uint32_t hedge_credit;  /* in READ_HEDGE_EVERYths of a hedge */
    uint64_t reads, hedges, read_retries, writes;
    struct write_trace trace;
};

/* A change of the voters that somebody asked for. */
struct member_change {
    enum { CHANGE_NONE, CHANGE_WAITING, CHANGE_PROPOSED, CHANGE_TELLING } state;
    struct membership membership;
    uint64_t since_ns, held_ns; /* held_ns: since when writes wait for it; 0: they don't */
    const char *why;            /* WAITING: what for */
    int err;
    char text[160];
    void (*done)(void *user, int err, const char *text);
    void *user;
};

struct volume {
    struct reactor *reactor;
    struct volume_options options;
    struct volume_callbacks cb;
    const struct volume_config *config;
    char name[NAME_MAX_BYTES];
    char frontend_name[NAME_MAX_BYTES];
    struct export export;
    struct uuid proposer_id;
    uint64_t lease_ns, beat_ns;
    uint64_t random_state;
    uint32_t n_configured, n_links; /* the first n_configured are the configuration's; of the others some may not be in use (replica == NULL) */
    struct replica_link link[VOLUME_LINKS_MAX];
    struct replica_config peer[VOLUME_LINKS_MAX]; /* where each leads to */
    uint32_t learners, removing;                  /* links, as bits */
    struct replica_config known[2 * MEMBERS_MAX]; /* addresses that were told */
    uint32_t n_known;
    struct uuid wanted[2 * MEMBERS_MAX]; /* voters without a link, noted by the sink */
    uint32_t n_wanted;
    struct uuid said_missing;
    struct member_change change;
    uint32_t n_groups;
    struct volume_group group[VOLUME_GROUPS_MAX];
    struct list requests; /* not answered, in the order of arrival */
    uint64_t n_requests;
    struct list ops_free;
    struct op_chunk *op_chunks; /* all the ops' memory */
    struct timer tick;
    bool pumping, pump_again;
    bool fencing; /* failing everything: requests that come in between belong to the old attachment */
    bool closing;
    uint32_t links_open; /* closing: links not stopped yet */
    void (*close_done)(void *user);
    void *close_user;
    char held_by[NAME_MAX_BYTES]; /* another front end, while held_since_ns != 0 */
    uint64_t held_since_ns, held_until_ns;
    char warned_of[NAME_MAX_BYTES]; /* the holder that the log names already */
    uint32_t unknown_at;            /* links, as bits: the replica says that it has no such volume */
    bool absent;                    /* so says a majority */
    bool has_majority;
    uint64_t majority_lost_ns; /* when it was lost, while it is; 0 otherwise */
    bool served; /* since the session began */
    uint64_t sessions, requests_failed;
};

/* ---- volume.c ---- */
uint64_t volume_random(struct volume *v);
/* Acts upon everything that was noted, until nothing is left. Inside itself it only notes that there is more. */
void volume_pump(struct volume *v);
/* Steps the group's proposer; its effects are noted, and dealt with by the pump. */
void volume_group_step(struct volume_group *g, struct proposer_event ev);
extern const struct replica_link_handler volume_link_handler;
/* Submits for a slot; deals with the proposer's effects. */
MUST_USE int group_propose(struct volume_group *g, struct entry *e);
/* Answers a request: takes it off the list and calls done. No op refers to it any more. */
void request_done(struct export_request *r, struct volume *v);

/* ---- volume_members.c ---- */
void volume_link_init(struct volume *v, uint32_t i, const struct replica_config *replica);
/* The link that leads there, or VOLUME_LINKS_MAX. */
uint32_t volume_find_link(const struct volume *v, const struct uuid *identity);
/* A link that was to be taken away is gone. */
void volume_link_removed(struct volume *v, uint32_t i);
void members_wanted(struct volume *v, const struct uuid *identity);
void members_link_wanted(struct volume *v);
/* The group's proposer is new: it is told of the links that are not the configuration's. */
void members_begin(struct volume *v, struct volume_group *g);
/* Goes on with the change that was asked for. */
void members_pump(struct volume *v);
/* No write may get a slot now. */
bool members_hold(const struct volume *v);
void members_unplaced(struct volume *v);
/* Nothing will come of it here; tells so at once. */
void members_fail(struct volume *v, const char *text);

/* ---- volume_write.c ---- */
struct volume_op *op_new(struct volume *v, struct volume_group *g, struct export_request *r);
/* The op is over: out of its lists, lock and references given up. Its request is answered with the last one. */
void op_finish(struct volume *v, struct volume_op *op, int error);
void write_submit(struct volume *v, struct export_request *r);
/* Ops whose lock was granted go on; ops in the queue get slots. */
void write_pump(struct volume_group *g);
/* Slots <= g->chosen are chosen: their ops are done. */
void write_chosen(struct volume_group *g);
/* P7: the entry of an op in flight is not in the new log. Its reference is the op's again. */
void write_unplaced(struct volume_group *g, struct entry *e);
/* Drops the request's ops that have no slot yet; it is answered with this error when the others are done, at once if there are none. */
void request_refuse(struct volume *v, struct export_request *r, int error);
/* Answers the request now; what has a slot goes on without it. */
void request_fail(struct volume *v, struct export_request *r, int error);

/* ---- volume_trace.c ---- */
/* The op has its slot. */
void trace_placed(struct volume_group *g, const struct volume_op *op);
/* The link's replica has everything through that slot; what this makes chosen was decided by it. */
void trace_acked(struct volume_group *g, uint32_t link, uint64_t through);
/* Of a slot that is chosen: its sample if there is one, for trace_replied() when its request was answered. */
struct write_sample *trace_chosen(struct volume_group *g, uint64_t slot);
void trace_replied(struct volume_group *g, struct write_sample *s);
void trace_forget(struct write_trace *t);

/* ---- volume_read.c ---- */
void read_init(struct volume_group *g);
void read_submit(struct volume *v, struct export_request *r);
/* Begins; read->done is called later, from a message or timer, never from inside. */
void volume_read_start(struct volume_group *g, struct volume_read *read, uint64_t block, uint32_t nblocks, void (*done)(struct volume_read *, int));
/* Forgets it; done is not called, late answers are dropped. */
void volume_read_cancel(struct volume_read *read);
void read_pump(struct volume_group *g);
void read_timer_fn(struct timer *t);
void read_link_down(struct volume_group *g, uint32_t replica);
/* A DATA, or a NACK that answers a READ. Returns what is wrong with it, if it violates the protocol, else NULL. */
const char *read_answer(struct volume_group *g, uint32_t replica, const struct msg *m, struct buf *payload);
struct buf *read_payload_buf(struct volume_group *g, uint32_t replica, const struct msg *m, uint32_t len);

#endif
