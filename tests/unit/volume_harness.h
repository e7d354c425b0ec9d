/* What tests of the volume session share: a world of three fake replicas and up to two front ends, and clients that
 * submit requests and keep what came of them. */
#ifndef QBD_TESTS_VOLUME_HARNESS_H
#define QBD_TESTS_VOLUME_HARNESS_H

#include "nbdserver/volume.h"
#include "tests/unit/fake_replica.h"

#define REPLICAS 3
#define FRONTENDS 2
#define VOLUME_BYTES ((uint64_t)FAKE_BLOCKS * BLOCK_SIZE)
#define GROUP 7
#define MIB (UINT64_C(1) << 20)
#define EDGE MIB /* a boundary of entries */

struct rig;

struct rig_frontend {
    struct rig *rig;
    struct sim_reactor *sim;
    struct reactor *reactor;
    struct volume *volume;
    struct export *export;
    unsigned fenced, states;
    unsigned unanswered_at_fence;
    bool closed;
};

struct request {
    struct export_request r;
    struct rig_frontend *frontend;
    bool done;
    int error;
    uint64_t begin, end; /* points in time: the rig counts submissions and answers */
    uint64_t submitted_ns, answered_ns;
    uint8_t *data; /* READ: the bytes */
    bool all_zero_pieces;
    struct request *next;
};

struct rig {
    struct sim_world *world;
    struct cluster_config config;
    struct membership members;
    struct fake_replica replica[REPLICAS];
    struct rig_frontend frontend[FRONTENDS];
    struct request *requests; /* all, for the end */
    uint64_t points;
    unsigned open; /* requests not answered */
};

struct rig *rig_new(uint64_t seed);
/* Closes the front ends in order, checks that every buffer came back, drops the rest. */
void rig_free(struct rig *rig);
void rig_start_frontend(struct rig *rig, unsigned i, uint64_t fail_after_ns);
void rig_stop_frontend(struct rig *rig, unsigned i);
/* Runs until it is attached; fails the test after 20 s. */
void rig_attach(struct rig *rig, unsigned i);
/* A rig whose first front end is attached. */
struct rig *rig_attached(uint64_t seed);

/* data: the bytes of a WRITE (copied), NULL: length times value. */
struct request *submit(struct rig_frontend *f, enum export_op op, uint64_t offset, uint32_t length, const uint8_t *data, uint8_t value, uint32_t flags);
/* Runs until it is answered; fails the test after 60 s. Returns its error. */
int await(struct rig *rig, struct request *q);
void await_all(struct rig *rig);

void write_value(struct rig *rig, uint64_t offset, uint32_t length, uint8_t value);
void check_value(struct rig *rig, uint64_t offset, uint32_t length, uint8_t value);

/* Once all is quiet and every replica is there, they hold the same bytes. */
void compare_replicas(struct rig *rig);

/* The network between a front end and a replica; both directions. */
void cut(struct rig *rig, unsigned frontend, unsigned replica);
void heal(struct rig *rig, unsigned frontend, unsigned replica);

#endif
