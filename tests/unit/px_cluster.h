/* A cluster of real acceptors and proposers in one process, without wire, disk or clock of its own.
 *
 * Everything that could happen by itself is a call here: a message leaves a queue when the test says so, a record
 * becomes durable when the test says so. Connections are FIFO queues; one that the front end has given up keeps what is
 * under way towards the acceptor, which may still take it long after a newer connection is in use. A node that crashes
 * comes back from the records that were durable, or by luck landed.
 *
 * What is checked all the time (a violation prints seed and step, and aborts): the invariants of both cores; one chosen
 * entry per slot, the same for all; ballots of the chosen log never fall; what is reported as chosen is durable at a
 * majority, and was acknowledged to the front end by a majority (of both memberships while two are in force) of replicas
 * that said with it that they were complete (Invariant V); a replica that needs a copy says so in every answer; promises and leases that were told survive a crash; no write is chosen twice, none is chosen after a write
 * that was submitted only when it was already acknowledged; a lease that allows a read knows of every acknowledged
 * write. */
#ifndef QBD_TESTS_PX_CLUSTER_H
#define QBD_TESTS_PX_CLUSTER_H

#include "base/list.h"
#include "consensus/acceptor.h"
#include "consensus/proposer.h"

#define PX_NODES_MAX 5
#define PX_FRONTS_MAX 3
#define PX_SLOTS_MAX 4096
#define PX_OPS_MAX 4096
#define PX_RING 256
#define PX_GROUP 7
#define PX_LEASE_NS (1000 * NS_PER_MS)
#define PX_BEAT_NS (200 * NS_PER_MS)
#define PX_TIMEOUT_NS (2000 * NS_PER_MS)

struct px_msg {
    struct list link;
    uint64_t after; /* while held by the node */
    uint32_t conn;
    struct msg m;
    struct run *runs;
    uint64_t *lost;
    struct membership *memberships;
};

struct px_conn {
    struct list link;
    uint32_t id; /* the acceptor's link */
    unsigned front, node;
    uint32_t node_epoch;
    bool front_up; /* the front end still uses it */
    struct list to_node, to_front;
};

/* What a node's disk remembers besides the acceptor's own records, in order with them. */
enum { PX_NEEDS_COPY = 100, PX_JUMP, PX_COMPLETE };

struct px_record {
    int type; /* enum acceptor_effect_type, or one of these */
    uint64_t seq, slot;
    struct entry *entry;
    struct ballot promised;
    uint64_t max_lease_ns;
    bool rotten; /* its value is lost, seen at the next restart */
    bool keep;   /* JUMP: the log held the place, its tail stayed */
    struct log_pos to;
    struct membership membership;
};

struct px_node {
    struct acceptor a;
    struct uuid identity;
    bool up;
    uint32_t epoch;
    int64_t skew_ppm;
    struct px_record *record;
    uint32_t n_records, cap_records, n_durable; /* records [0, n_durable) are durable */
    struct log_pos floor;                       /* trimmed, durable */
    uint64_t size_blocks;
    struct membership first;
    struct list held;
    struct entry *value[PX_SLOTS_MAX]; /* what stands at a slot, durable or not; NULL: nothing or LOST */
    struct ballot vouched;
    uint64_t lease_told_ns;
    bool wants_catchup;
    struct log_pos target;
    bool needs_copy;     /* the last word of its disk, durable or not; a complete one is so only durably */
    bool first_needs_copy;
    uint8_t lives; /* disks that it has had */
    uint64_t jumped;     /* slot of the last jump since it needs a copy; 0: none */
    struct log_pos jumped_to;
    uint64_t known_from; /* values of slots at or below it may be gone for good: a jump passed over them */
};

struct px_catchup {
    struct list link;
    unsigned node, peer;
    uint32_t epoch;
    bool answered, vouches; /* vouches: `through` is committed at the peer, no values come */
    struct log_pos from, through;
    uint32_t n;
    struct entry *entry[8];
};

enum px_op_state { PX_OP_QUEUED, PX_OP_FLYING, PX_OP_ACKED, PX_OP_FAILED };

struct px_op {
    enum px_op_state state;
    unsigned front;
    uint32_t incarnation;
    uint64_t id, slot;
    uint64_t acked_before; /* the highest slot acknowledged to anybody when it was first submitted */
    struct entry *entry;
};

struct px_front {
    struct proposer *p;
    struct proposer_slot ring[PX_RING];
    struct proposer_sink sink;
    struct px_cluster *c;
    unsigned index;
    bool alive;
    uint32_t incarnation;
    struct px_conn *conn[PX_NODES_MAX];
    uint8_t link_of[PX_NODES_MAX], node_of[PROPOSER_REPLICAS_MAX]; /* PROPOSER_NOBODY: no link leads there */
    bool want_session;
    uint32_t disconnect; /* nodes whose connections are to be dropped after the step */
    uint32_t want;       /* nodes that are to get a link after the step */
    uint64_t sound[PX_NODES_MAX]; /* acknowledged under the ballot by a replica that was complete and has not denied it since */
    struct ballot sound_ballot;
    struct membership before[2]; /* in force before the step under way */
    bool before_known, before_joint;
    bool fenced;
    int64_t skew_ppm;
    unsigned n_unplaced, n_forgotten, n_held;
};

struct px_chosen {
    bool known;
    struct ballot e;
    uint8_t kind;
    uint64_t id; /* WRITE's */
};

struct px_cluster {
    uint64_t seed, step, random;
    uint64_t now_ns;
    unsigned n_nodes, n_fronts;
    struct px_node node[PX_NODES_MAX];
    struct px_front front[PX_FRONTS_MAX];
    struct list conns, catchups;
    uint32_t next_conn;
    struct px_op op[PX_OPS_MAX];
    uint32_t n_ops;
    struct px_chosen chosen[PX_SLOTS_MAX];
    uint64_t chosen_max, acked_max;
    uint64_t entries_alive;
    uint64_t lease_ns;
    uint64_t retain_bytes;
    bool fifo_release; /* held answers leave in order even when a later one could go */
    struct acceptor_effect effect[64];
    struct acceptor_effects fx;
    uint64_t n_jumps, n_jumps_kept, n_completed, n_wiped, n_wanted;
    uint64_t n_chosen_events, n_reads_ok, n_fenced, n_unplaced, n_refills, n_cuts, n_mismatch, n_changes;
    bool trace;
};

struct px_cluster *px_new(uint64_t seed, unsigned n_nodes, unsigned n_fronts);
struct px_cluster *px_new_group(uint64_t seed, unsigned n_nodes, unsigned n_voters, unsigned n_fronts);
void px_free(struct px_cluster *c);
uint64_t px_random(struct px_cluster *c, uint64_t below);

/* ---- front ends ---- */
void px_front_start(struct px_cluster *c, unsigned f); /* a new process: new proposer id, attaching */
/* ... whose configuration names the nodes of `mask` only. */
void px_front_start_knowing(struct px_cluster *c, unsigned f, uint32_t mask);
/* The front end links node n, to be sent everything. */
void px_learn(struct px_cluster *c, unsigned f, unsigned n);
void px_front_kill(struct px_cluster *c, unsigned f);
void px_front_detach(struct px_cluster *c, unsigned f);
void px_connect(struct px_cluster *c, unsigned f, unsigned n);
void px_disconnect(struct px_cluster *c, unsigned f, unsigned n); /* what is under way to the node stays under way */
void px_tick(struct px_cluster *c, unsigned f);
/* A new write; queued until it can be proposed. Its index. */
uint32_t px_write(struct px_cluster *c, unsigned f);
void px_pump(struct px_cluster *c, unsigned f); /* proposes what is queued */
void px_read(struct px_cluster *c, unsigned f, unsigned n);
/* Proposes the nodes first .. first + n - 1 as the new voters; what proposer_submit says. */
int px_change(struct px_cluster *c, unsigned f, unsigned first, unsigned n);
int px_change_to(struct px_cluster *c, unsigned f, const struct membership *m);
/* These nodes as voters, in order. */
struct membership px_voters(const struct px_cluster *c, uint32_t mask);
uint32_t px_voter_mask(const struct px_cluster *c, const struct membership *m);

/* ---- messages: one from the queue; false when there is none ---- */
bool px_to_node(struct px_cluster *c, unsigned f, unsigned n);
bool px_to_front(struct px_cluster *c, unsigned f, unsigned n);
bool px_conn_to_node(struct px_cluster *c, struct px_conn *k);
bool px_conn_to_front(struct px_cluster *c, struct px_conn *k);
void px_conn_gone(struct px_cluster *c, struct px_conn *k); /* the node learns that it is down; it is freed */

/* ---- nodes ---- */
void px_node_step(struct px_cluster *c, unsigned n, struct acceptor_event *ev);
void px_durable(struct px_cluster *c, unsigned n, uint32_t records); /* so many more; all: UINT32_MAX */
void px_crash(struct px_cluster *c, unsigned n,
              uint32_t landed); /* so many of the records that were not durable landed all the same */
void px_restart(struct px_cluster *c, unsigned n,
                uint64_t commit);                             /* commit: what its disk says, at most what it knew */
void px_rot(struct px_cluster *c, unsigned n, uint64_t slot); /* the value is lost at the next restart */
void px_trim(struct px_cluster *c, unsigned n, uint64_t slot);
/* Whether its disk may be lost now, and nothing with it: the others of the newest membership are complete, have that
 * membership in their checkpoints, and lost none themselves. */
bool px_may_wipe(const struct px_cluster *c, unsigned n);
/* Another disk: a new identity, a group made anew as a learner's, with the newest membership. */
void px_wipe(struct px_cluster *c, unsigned n);
bool px_node_holds(const struct px_cluster *c, unsigned n, uint64_t slot,
                   const struct ballot *e); /* durably, LOST or not */

/* ---- catch-up ---- */
bool px_catchup_ask(struct px_cluster *c, unsigned n, unsigned peer);
void px_catchup_answer(struct px_cluster *c, struct px_catchup *u, uint32_t max);
void px_catchup_deliver(struct px_cluster *c, struct px_catchup *u, bool keep);
/* Ask and answer until the node has what the peer knows as committed. */
void px_catch_up(struct px_cluster *c, unsigned n, unsigned peer);

/* ---- copying (docs/rebuild.md): the blocks themselves are left out, what may be said about them is not ---- */
void px_need_copy(struct px_cluster *c, unsigned n); /* the peers' logs do not reach; noted on disk */
/* No log that can be asked reaches back, and there is somebody to copy from. */
bool px_is_too_old(const struct px_cluster *c, unsigned n);
/* It takes the peer's applied position over. False: it can't. */
bool px_jump(struct px_cluster *c, unsigned n, unsigned peer);
/* The last block is here; says so when that is durable. False: it can't be. */
bool px_complete(struct px_cluster *c, unsigned n);
/* As far towards complete as it can come now, everything durable at once. */
void px_mend(struct px_cluster *c, unsigned n);

/* Messages both ways between f and the nodes of `mask`, everything durable at once, until nothing moves. */
void px_settle(struct px_cluster *c, unsigned f, uint32_t mask);
/* Time passes in beats: ticks, messages, durability, catch-up among all nodes that are up, until the front end serves
 * and every node that is up has what is chosen. False: not within the bound. */
bool px_converge(struct px_cluster *c, unsigned f, unsigned beats);

const char *px_log_text(const struct px_cluster *c, unsigned n, char *buf, size_t cap);

#endif
