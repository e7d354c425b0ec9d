/* A whole cluster in one world: replicas with their disks, front ends, faults. The object code is the daemons'; only main() and the kernel are missing.
 *
 * What always holds: the first SIM_REPLICAS nodes found the group. The others are spares: machines without a disk until somebody puts one in. A disk that is formatted has an identity that no other disk
 * ever had. `config` is the configuration file: processes read it when they start. */
#ifndef QBD_TESTS_SIM_CLUSTER_CLUSTER_H
#define QBD_TESTS_SIM_CLUSTER_CLUSTER_H

#include "base/config.h"
#include "nbdserver/team.h"
#include "replica/replica.h"
#include "tests/sim/simio.h"

#define SIM_REPLICAS 3 /* found the group */
#define SIM_NODES 5    /* with spares */
#define SIM_FRONTENDS 2
#define SIM_SESSIONS 3 /* with the one that an operator's tool starts for a volume that nobody has */
#define SIM_GROUP 1
#define SIM_KIB (UINT64_C(1) << 10)
#define SIM_MIB (UINT64_C(1) << 20)

struct cluster;

/* How large a cluster is: small ones reach in little work what large ones need much for (a lap of the WAL, a checkpoint, a log that no longer reaches back). */
struct cluster_sizes {
    uint64_t volume_bytes, wal_bytes, extent_bytes;
    uint64_t overlay_bytes, leaf_cache_bytes, checkpoint_idle_ns; /* store_options */
    uint64_t retain_bytes, inflight_bytes;                        /* of front ends */
    uint64_t scrub_bytes_per_s, scrub_interval_ns;                /* 0: replicas do not scrub */
    uint64_t copy_ceiling_bytes_per_s;                            /* 0: the daemon's own */
    uint32_t lease_ms;                                            /* 0: drawn */
    bool threads;                                                 /* front ends have two reactors, and the volume is the second's */
    bool spares;                                                  /* there are SIM_NODES machines, and voters may change */
};

/* One replica's host: its directory and disks live on, processes come and go. */
struct node {
    struct cluster *cluster;
    unsigned index;
    char host[16];
    struct sim_dir *dir;
    struct sim_reactor *reactor; /* NULL: down */
    struct replica *replica;
    bool ready, paused;
    bool formatting; /* its reactor makes a data directory anew */
    bool replaced;   /* its disk is a new one since the group was founded, and nobody has asked it to take part */
    bool absent;     /* it has no disk */
    unsigned disks;  /* it has had so many */
    struct uuid identity;         /* of the one that it has */
    struct cluster_config config; /* as its process read it */
    bool refused;    /* it does not serve with this disk any more */
    bool io_failed;  /* some operation on its disks failed: it may have set slabs aside for good */
    bool restart_planned;
    unsigned starts;
};

struct frontend {
    struct cluster *cluster;
    unsigned index;
    char host[16];
    char nbd_address[32], status_address[32];
    struct sim_reactor *reactor; /* NULL: down */
    struct sim_reactor *first_reactor; /* of the process */
    struct service *service;       /* that has the volume, on `reactor` */
    struct service *first_service; /* that accepts clients and operators: the same, or on another reactor of the process */
    struct team team;              /* of both */
    struct volume *volume; /* the service's */
    struct cluster_config config; /* as its process read it */
    bool kept_down;               /* an operator does not want it to run */
    unsigned starts;
    unsigned fenced; /* times, of all its processes */
    uint32_t session; /* 0: not attached since its start or fencing */
    bool paused;
    bool draining; /* it was told to stop */
    bool restart_planned;
};

struct cluster {
    struct sim_world *world;
    uint64_t seed;
    struct cluster_config config; /* the file */
    struct node node[SIM_NODES];
    unsigned n_nodes;
    struct frontend frontend[SIM_SESSIONS];
    struct membership members; /* as the chosen log has it: the checkers keep it */
    struct membership founders;
    uint64_t said_done; /* the slot of the voters of whom `qbd rebuild` said last that they are in force */
    uint32_t n_sessions;
    struct cluster_sizes sizes;
    bool beyond;        /* damage may hit more than a minority: replicas may forget what they acknowledged, and then differ */
    const char *broken; /* what must not happen, happened */
    char broken_text[512];
    /* of front ends */
    struct {
        uint64_t arena_bytes, payload_bytes, unsent_bytes, attach_wait_ns;
        uint32_t in_flight;
    } limits;
    uint64_t fail_after_ns; /* without a majority requests fail after this; 0: they wait */
    struct frontend *forced; /* an operator swears that no other front end runs, until then */
    uint64_t forced_until_ns;
    /* called when a session of this number begins to serve, ended (fenced, stopped or dead), when a front end that was told to stop has */
    void (*on_session)(void *user, uint32_t session, const struct ballot *ballot);
    void (*on_session_ended)(void *user, uint32_t session);
    /* a front end hands over the first message with new voters; from inside its turn */
    void (*on_voters_proposed)(void *user, const char *host);
    void (*on_frontend_stopped)(void *user, struct frontend *f);
    /* A replica ended by itself, at its start (refused) or later. True: that was to be expected, and is taken care of. */
    bool (*on_node_failed)(void *user, struct node *n, bool refused, int err, const char *what);
    void *user;
    /* how often what was done */
    struct {
        uint64_t kills, power_cuts, restarts, frontend_kills, frontend_stops, fenced, attached, pauses, cuts, resets, rot, fatal;
    } count;
};

/* Formats the disks, starts the replicas, creates the group, starts the front ends. */
struct cluster *cluster_new(struct sim_world *w, uint64_t seed, const struct cluster_sizes *sizes);
void cluster_free(struct cluster *c);

void cluster_start_node(struct node *n);
void cluster_crash_node(struct node *n, enum sim_crash how);
/* The disk is lost: the replica's process ends. */
void cluster_lose_disk(struct node *n);
/* A machine without a disk gets one: formatted under a new identity, then its replica starts. */
void cluster_new_disk(struct node *n);
/* In these voters a replica with this disk has a vote. */
bool cluster_votes(const struct membership *m, const struct node *n);
struct node *cluster_node_of(struct cluster *c, const struct uuid *identity); /* NULL: that disk is gone */
/* A majority has usable disks, and one of them is complete. */
bool cluster_can_recover(struct cluster *c);
void cluster_start_frontend(struct frontend *f);
void cluster_crash_frontend(struct frontend *f, enum sim_crash how);
/* As SIGTERM: it drains, releases the volume and ends by itself. */
void cluster_stop_frontend(struct frontend *f);
void cluster_fail(struct cluster *c, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* A front end that serves now, or NULL. Starts looking at a random one. */
struct frontend *cluster_serving(struct cluster *c, uint64_t random);
/* All replicas up, complete, and applied to the same slot; but for those whose disks are lost. */
bool cluster_is_level(struct cluster *c);
/* Where each replica stands, for a message. */
void cluster_describe(struct cluster *c, char *to, size_t cap);
/* NULL, or how two replicas at equal slots differ (reads every block of each). */
const char *cluster_compare_replicas(struct cluster *c);

#endif
