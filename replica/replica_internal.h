/* What the files of the replica daemon's glue share. */
#ifndef QBD_REPLICA_REPLICA_INTERNAL_H
#define QBD_REPLICA_REPLICA_INTERNAL_H

#include "base/crc32c.h"
#include "base/log.h"
#include "base/wire.h"
#include "consensus/acceptor.h"
#include "replica/copy.h"
#include "replica/replica.h"

#define CATCHUP_PIECE_BYTES (4u << 20)
#define CATCHUP_PIECE_ENTRIES 1024u
#define EFFECTS_MAX (CATCHUP_PIECE_ENTRIES + 16u)
#define CATCHUP_RETRY_NS (200 * NS_PER_MS)
#define CATCHUP_TIMEOUT_NS (5 * NS_PER_S)
#define CATCHUP_DECIDE_NS (10 * NS_PER_S) /* so long a voter that can't be asked may have what the others' logs have no more */
#define PEER_CONNECT_TIMEOUT_NS (2 * NS_PER_S)
#define REPAIRS_MAX 256u
#define REPAIR_TRIES_MAX 64u
#define REPAIR_RETRY_NS (500 * NS_PER_MS)
#define REPAIR_DENIALS 3u /* a read error that passes makes nothing lost */
#define REPAIR_TIMEOUT_NS (5 * NS_PER_S)
#define GROUP_BLOCKS_MAX ((UINT64_C(1) << 32) * REGION_BLOCKS) /* what region numbers can name */
#define READS_WAITING_MAX 4096u
#define SPARE_READS_MAX 64u

/* ---- an incoming connection: a front end, a peer or a tool ---- */
struct session {
    struct list link; /* in replica.sessions */
    struct wire_peer peer;
    struct replica *replica;
    uint32_t id; /* the acceptor's `link`; never reused while the process lives */
    bool greeted;
    bool foreign; /* a tool of another cluster: it gets the status, nothing else */
    bool paused;
    struct list held; /* ACCEPTs that there was no room for (hold.c) */
    bool catchup_busy;
    enum node_role role;
    struct uuid identity;
    char name[NAME_MAX_BYTES];
};

/* An answer that waits for a record to become durable (acceptor_effect.after). */
struct deferred {
    struct list link;
    uint64_t after;
    uint32_t session;
    struct buf *frame;
    uint32_t frame_len;
};

/* A read whose watermark is not applied yet, or that the store works on. */
struct pending_read {
    struct list link;
    struct replica_group *group;
    uint32_t session;
    uint64_t cookie;
    uint64_t watermark;
    struct ballot ballot;
    struct store_read read;
};

/* ---- an outgoing connection to another replica, made when there is something to ask ---- */
struct peer {
    struct wire_peer wire;
    struct replica *replica;
    struct replica_config config; /* of the configuration, or as ADDRESS told */
    enum { PEER_DOWN, PEER_CONNECTING, PEER_UP } state;
    uint64_t retry_at_ns;
    struct timer timeout;
};

struct catchup {
    enum { CATCHUP_IDLE, CATCHUP_CONNECTING, CATCHUP_RECEIVING, CATCHUP_BLOCKED, CATCHUP_PAUSING, CATCHUP_HELD } state;
    struct peer *peer;
    unsigned next_peer;       /* index of the peer to be tried next */
    unsigned failed_peers;    /* tried in a row without progress */
    /* The voters of the own committed membership did not help. It may be an old one, all of whose other voters have been replaced since: every replica that the configuration knows is asked. */
    bool anybody;
    /* Since the last progress: who was asked, and of them, whose logs no longer reach back. Bits: indices of replica.peers. */
    uint32_t asked, too_old;
    uint64_t too_old_ns;      /* since when some log is known not to reach back */
    unsigned best_peer;       /* of those that said so, the one that has most: index among the group's */
    uint64_t best_commit;
    uint64_t cookie;          /* of the request under way */
    struct log_pos from;
    struct log_pos target;    /* where the group is known to be */
    uint64_t received_bytes, total_entries;
    uint32_t n_entries;
    struct entry *entries[CATCHUP_PIECE_ENTRIES];
    struct timer timer;
};

struct repair_denial {
    struct uuid who;
    uint64_t at; /* its image's slot */
    uint64_t said_ns;
    uint8_t times[ENTRY_MAX_BLOCKS]; /* that it said of the block in a row: bad or lost here */
};

struct repair {
    struct list link;
    struct replica_group *group;
    uint64_t block;
    uint32_t nblocks;
    uint64_t cookie; /* of the peer read under way; 0: none */
    uint64_t asked_ns;
    struct peer *peer;
    unsigned tries;
    uint32_t open;   /* blocks handed to the store and not yet installed */
    bool unfinished; /* some block's image could not be used */
    struct repair_denial denial[2 * MEMBERS_MAX];
    unsigned n_denials;
};

/* trace.c: an entry whose slot is sampled, from its arrival to its acknowledgement. */
struct accept_sample {
    uint64_t slot;
    uint64_t received_ns, appended_ns, submitted_ns, durable_ns, answered_ns; /* the last three 0 until it is durable */
};

struct accept_trace {
    struct accept_sample sample[TRACE_KEPT]; /* a ring */
    uint64_t n, durable;                     /* samples ever; those before this one are durable */
    uint64_t finished, receive_ns, wait_ns, disk_ns, answer_ns; /* those that went all the way, and their sums */
};

enum group_state { GROUP_UP_TO_DATE, GROUP_LEARNER_COMPLETE, GROUP_BEHIND, GROUP_NEEDS_COPY, GROUP_COPYING, GROUP_RETIRED };

struct replica_group {
    struct list link;
    struct replica *replica;
    uint64_t id;
    bool recovered; /* found on disk, not created in this life */
    struct acceptor acceptor;
    struct list deferred;      /* struct deferred, in order of `after` */
    struct list waiting_reads; /* struct pending_read */
    uint32_t n_waiting_reads;
    struct catchup catchup;
    struct copy copy;
    enum group_state state; /* as last looked at, for status */
    uint64_t state_since_ns;
    struct accept_trace trace;
};

/* latency.c: of the own WAL. */
struct latency {
    uint64_t ns, quiet_ns;
    uint64_t batches, risen_ns;
};

struct replica {
    struct reactor *reactor;
    const struct cluster_config *config;
    struct superblock superblock;
    char listen_address[CONFIG_ADDRESS_MAX];
    struct replica_callbacks cb;
    struct store *store;
    struct listener *listener;
    struct list sessions;
    struct list groups;
    struct list spare_reads; /* struct pending_read */
    unsigned n_spare_reads;
    uint32_t next_session;
    uint32_t sessions_paused;
    bool no_room;        /* for entries, when it was last looked */
    uint64_t held_bytes; /* by all sessions */
    uint64_t said_paused_ns, said_full_ns; /* in the log, the last time */
    uint64_t next_cookie;
    uint64_t started_ns;
    int pid;
    bool ready, closing;
    struct acceptor_effects effects;
    uint8_t *scratch; /* for encoding: a header and WIRE_BODY_MAX */
    struct peer peers[CONFIG_REPLICAS_MAX];
    uint32_t n_peers;
    struct list repairs;
    uint32_t n_repairs;
    struct timer repair_timer;
    struct latency latency;
    struct pace pace;
    struct scrub *scrub;
    bool store_closed;
    void (*closed)(void *user);
    void *closed_user;
    /* counters for status */
    uint64_t n_accepts, n_reads, n_behind, n_catchup_entries, n_donated_entries, n_repaired, n_refused, n_images_served, n_lost_blocks;
    uint64_t n_bytes_copied; /* data blocks that came in images of a copy */
    char last_error[128]; /* of a disk */
    uint64_t last_error_ns;
};

/* replica.c */
struct replica_group *replica_find_group(struct replica *r, uint64_t group);
struct session *replica_find_session(struct replica *r, uint32_t id);
/* Carries out replica->effects, in order. */
void replica_run_effects(struct replica_group *g);
/* Steps the group's acceptor and carries out what comes of it. */
void replica_step(struct replica_group *g, struct acceptor_event *ev);
struct replica_group *replica_add_group(struct replica *r, const struct acceptor_state *s);
/* The applied slot and its ballot; false: the log does not reach back to it. */
bool replica_applied_pos(const struct replica_group *g, struct log_pos *ret);
/* CREATE: idempotent for the same content. Answered when the group's record is durable. */
void replica_create_group(struct session *s, const struct msg *m);
/* RECOVER: answered when it is durable. */
void replica_recover_group(struct session *s, struct replica_group *g, const struct msg *m);
/* Holds back or lets in the streams, as the acceptor's and the store's room demand. */
void replica_update_pause(struct replica *r);

/* Is there room for entries of all groups? */
bool replica_has_room(const struct replica *r);

/* hold.c: ACCEPTs that wait for room */
bool hold_accept(struct session *s, const struct replica_group *g, const struct msg *m); /* true: it is kept */
void hold_drop(struct session *s, const struct replica_group *g);                        /* NULL: of all groups */
void hold_release(struct replica *r);                                                    /* as far as there is room */
bool hold_is_full(const struct replica *r);

/* session.c */
void session_accept(struct listener *l, struct conn *c);
void session_hello(const struct replica *r, struct msg *m);

/* serve_read.c */
void serve_read(struct session *s, struct replica_group *g, const struct msg *m);
void serve_waiting_reads(struct replica_group *g);
void serve_drop_reads(struct replica_group *g);
void serve_free_spares(struct replica *r);
/* The blocks that `skip` does not name, as slices of the read's buffer: neighbours go as one. segs has room for ENTRY_MAX_BLOCKS / 2 + 1. */
unsigned serve_payload(const struct store_read *r, const uint64_t *skip, struct segment *segs, uint32_t *ret_bytes);

/* donate.c: what peers ask of the own store */
void donate_regions(struct session *s, struct replica_group *g, const struct msg *m);
void donate_chunks(struct session *s, struct replica_group *g, const struct msg *m);
void donate_image(struct session *s, struct replica_group *g, const struct msg *m);

/* latency.c: how long a batch takes the WAL now; r->latency.quiet_ns is then current, too, and what this returns while no client is here. */
uint64_t latency_now(struct replica *r);
/* ... and 0 while no client is here. */
uint64_t latency_of_clients(struct replica *r);

/* trace.c. The entry of that slot was stepped: it is in the log, or was refused. */
void trace_accept(struct replica_group *g, uint64_t slot);
/* durable_ns: when that was heard; what it allows to be said is queued. */
void trace_durable(struct replica_group *g, uint64_t durable_ns);
static inline bool trace_waits(const struct replica_group *g)
{
    return g->trace.durable < g->trace.n;
}

/* peer.c */
void peers_init(struct replica *r);
void peers_close(struct replica *r);
/* This identity lives at that address: known until the daemon ends. 0, or an errno when there are too many. */
int peers_learn(struct replica *r, const struct uuid *identity, const char *name, const char *address);
/* The i-th replica that may have what this one lacks, or NULL: of those that the configuration knows, the other voters of the committed membership, or all (catchup.anybody). */
struct peer *peer_of_group(struct replica_group *g, unsigned i);
unsigned peers_of_group(const struct replica_group *g);
/* Begins to connect when down (unless it failed just now). */
void peer_want(struct peer *p);

/* catchup.c */
void catchup_init(struct replica_group *g);
/* The group has chosen `target`, which this replica lacks; target.slot 0: ask whether there is more. */
void catchup_wanted(struct replica_group *g, const struct log_pos *target);
void catchup_peer_changed(struct replica_group *g, struct peer *p);
void catchup_on_msg(struct replica_group *g, struct peer *p, const struct msg *m);
void catchup_continue(struct replica_group *g); /* there is room again */
void catchup_stop(struct replica_group *g);
void catchup_donate(struct session *s, struct replica_group *g, const struct msg *m);
/* A jump is being made: nothing is asked for until catchup_release. */
void catchup_hold(struct replica_group *g);
/* Begins anew, in a while: whether anything is missing, and whose log has it. */
void catchup_release(struct replica_group *g, uint64_t in_ns);

/* copy.c */
void copy_init(struct replica_group *g);
void copy_resume(struct replica_group *g); /* after recovery */
void copy_has_room(struct replica_group *g); /* the store wrote back what it had */
/* Catch-up found that nobody's log reaches back, ... */
void copy_wanted(struct replica_group *g);
/* ... or that this one's log meets those of peers. */
void copy_log_suffices(struct replica_group *g);
/* True: a jump is being made durable, and the message waits for that. */
bool copy_holds(struct session *s, struct replica_group *g, const struct msg *m);
void copy_peer_changed(struct replica_group *g, struct peer *p);
/* An answer of a peer: perhaps one to the copy. */
void copy_on_msg(struct replica_group *g, struct peer *p, const struct msg *m, struct buf *payload);
void copy_stop(struct replica_group *g);
/* ... for the other files of the copy */
void copy_set_timer(struct replica_group *g, uint64_t in_ns);
void copy_give_way(struct replica_group *g, uint64_t in_ns);
void copy_listed(struct replica_group *g);
void copy_filled(struct replica_group *g);

/* copy_list.c */
void copy_list_begin(struct replica_group *g);
void copy_list_drop(struct replica_group *g);
void copy_list_timeout(struct replica_group *g);
void copy_list_peer_changed(struct replica_group *g, struct peer *p);
void copy_list_on_msg(struct replica_group *g, struct peer *p, const struct msg *m);

/* copy_fill.c */
void copy_fill_begin(struct replica_group *g);
void copy_fill_stop(struct replica_group *g);
void copy_fill_tick(struct replica_group *g);
void copy_fill_soon(struct replica_group *g);
void copy_fill_peer_changed(struct replica_group *g, struct peer *p);
void copy_fill_on_msg(struct replica_group *g, struct peer *p, const struct msg *m, struct buf *payload);
void copy_avoid(struct replica_group *g, const struct peer *p, uint64_t ns);
void copy_vouch(const struct replica_group *g, struct log_pos *ret);
void copy_is_ahead(struct replica_group *g, const struct log_pos *at);

/* copy_image.c */
/* Asks for these blocks (bits, from the chunk's first) of some donor. False: not now. */
bool copy_image_want(struct replica_group *g, uint64_t chunk, const uint64_t *want);
void copy_image_ask(struct copy_request *rq);
void copy_image_failed(struct copy_request *rq, uint64_t avoid_ns);
void copy_image_on_msg(struct copy_request *rq, const struct msg *m, struct buf *payload);
void copy_image_abandon(struct copy_request *rq);

/* replica.c: the store is closed, or what kept the end waiting is over. */
void replica_close_poll(struct replica *r);

/* scrub.c. bytes_per_s 0: nothing in the background. False: no memory. */
bool scrub_init(struct replica *r, uint64_t bytes_per_s, uint64_t interval_ns);
void scrub_start(struct replica *r);
void scrub_stop(struct replica *r);
bool scrub_is_busy(const struct replica *r);
void scrub_on_request(struct session *s, const struct msg *m);
/* scrub_compare.c */
void scrub_peer_changed(struct peer *p);
void scrub_on_answer(struct peer *p, const struct msg *m);
void scrub_donate_digests(struct session *s, struct replica_group *g, const struct msg *m);
void scrub_donate_crcs(struct session *s, struct replica_group *g, const struct msg *m);

/* repair_lost.c */
void repair_denied(struct repair *rp, const struct peer *p, const struct msg *m);
/* Block i of the repair is lost for good as far as anybody knows, and now says so. */
bool repair_is_lost(struct repair *rp, uint32_t i);

/* repair.c */
void repair_wanted(struct replica_group *g, uint64_t block, uint32_t nblocks);
/* An IMAGE_REPLY or a NACK: perhaps a repair's. */
void repair_on_answer(struct peer *p, const struct msg *m, struct buf *payload);
void repair_peer_changed(struct peer *p);
void repair_run(struct replica *r);
void repair_init(struct replica *r);

/* Notes since when the group is in its state. */
enum group_state status_note_state(struct replica_group *g);
/* status.c: the daemon's state as JSON; malloc'ed, for the caller to free. */
char *replica_status_json(struct replica *r);

#endif
