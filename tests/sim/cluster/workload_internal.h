/* The clients' side of a run, shared by workload.c (lanes and what they expect), requests.c (what they ask) and operators.c (what people and strangers do).
 *
 *   host       a machine with clients: one process
 *   lane       one NBD connection of it to one front end after another, with a pipeline of requests
 *   request    one of them, from its submission until it was answered or lost */
#ifndef QBD_TESTS_SIM_CLUSTER_WORKLOAD_INTERNAL_H
#define QBD_TESTS_SIM_CLUSTER_WORKLOAD_INTERNAL_H

#include "nbdserver/nbd_proto.h"
#include "tests/sim/cluster/cells.h"
#include "tests/sim/cluster/nbd_client.h"
#include "tests/sim/cluster/trial.h"

#define HOSTS_MAX 4u
#define LANES_MAX 12u
#define DEPTH_MAX 32u

struct workload;

struct host {
    struct workload *workload;
    unsigned index;
    char name[16];
    struct sim_reactor *reactor;
};

struct lane {
    struct workload *workload;
    struct host *host;
    struct nbd_client nbd;
    bool up; /* its host runs, and nbd is its process's */
    /* manners, drawn once */
    uint32_t depth;
    uint32_t drop_one_in, disc_one_in, pause_one_in; /* after an answer; 0: never */
    bool structured, no_zeroes, export_name;
    uint64_t patience_ns; /* with a handshake */
    /* the connection */
    struct frontend *frontend;
    unsigned starts;  /* the front end's process */
    unsigned fenced;  /* ... and how often it had been fenced */
    uint32_t session; /* see history.h */
    uint32_t serial;  /* counts connections, so that what was planned for an earlier one does not meet a later one */
    uint64_t since_ns, heard_ns, seen_bytes;
    uint64_t probed_ns; /* when a FLUSH was sent only to learn whether the other end is still there */
    uint32_t burst;
    bool planned; /* lane_event() will come */
    uint64_t planned_ns;
    uint32_t paused_serial;
};

struct request {
    struct nbd_io io;
    struct lane *lane;
    uint64_t began;
    uint32_t session;
    uint32_t first, n; /* cells */
    uint32_t write;    /* its number in the history; 0: none */
    uint32_t expect;   /* the error that it must get; 0: none */
    bool one_block;    /* one operation: an error says that nothing of it happened */
    bool probe, final;
};

struct operators {
    uint32_t weight[8];
    uint32_t total;
    uint64_t gap_ns;
    unsigned serial;
    bool may_reset; /* the network resets clients' connections in this run */
};

struct workload {
    struct trial *run;
    struct cells cells;
    uint32_t slabs_one_in; /* writes are of whole slabs; 0: none on purpose */
    uint32_t hot; /* of the large cells, those that most requests go to */
    uint32_t n_hosts, n_lanes;
    struct host host[HOSTS_MAX];
    struct lane lane[LANES_MAX];
    uint32_t left;     /* requests that may still be made */
    uint64_t pause_ns; /* mean time of a lane from burst to burst, for each request of it */
    uint32_t final_next; /* next cell of the final read */
    uint64_t *session_over; /* when it ended */
    uint32_t cap_sessions;
    struct operators operators;
};

/* ---- requests.c ---- */
void requests_draw(struct workload *w); /* the cells */
/* One more request of a lane that is READY. False: nothing is left to ask. */
bool request_make(struct lane *l);
bool request_make_final(struct lane *l);
void request_make_probe(struct lane *l);
void request_replied(struct request *q);
void request_lost(struct request *q);

/* ---- workload.c ---- */
PRINTF_LIKE(2, 3) void lane_wrong(struct lane *l, const char *fmt, ...);
bool lane_session_is_over(const struct lane *l);
/* A front end may answer ESHUTDOWN, or close: it drains, is fenced or gone. */
bool lane_may_be_shut(const struct lane *l);
void host_start(struct host *h);
void host_crash(struct host *h, enum sim_crash how);

/* ---- operators.c ---- */
void operators_draw(struct workload *w);
void operators_start(struct workload *w);

#endif
