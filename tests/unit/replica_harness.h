/* A whole replica (its sessions, acceptors and store) on simulated disks, and probes: connections on which a test says what it likes, as a tool, a front end or another replica. */
#ifndef QBD_TESTS_REPLICA_HARNESS_H
#define QBD_TESTS_REPLICA_HARNESS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "replica/replica_internal.h"
#include "tests/sim/simio.h"

#define RR_REPLICAS 3
#define RR_GROUP 5
#define RR_BLOCKS 4096u
#define RR_GOT_MAX 2048u

struct rr;

/* A message as it came, with its own copies of what it points to. */
struct rr_got {
    struct msg m;
    struct entry *entry; /* VALUE, CATCHUP_ENTRY */
    char *json;          /* STATUS_REPLY, with a NUL */
    uint8_t *data;       /* DATA, IMAGE_REPLY: the payload */
    uint32_t data_len, crc[ENTRY_MAX_BLOCKS];
    uint64_t zero[ENTRY_MAX_BLOCKS / 64], bad[ENTRY_MAX_BLOCKS / 64], lost[ENTRY_MAX_BLOCKS / 64];
};

struct rr_probe {
    struct rr *rr;
    struct wire_peer peer;
    bool open, closed;
    int err;
    char reason[256]; /* of the end, when the replica broke the protocol */
    struct rr_got *got;
    unsigned n_got, next; /* next: not yet taken by rr_take */
    /* as a donor: called for each message after the greeting */
    void (*serve)(struct rr_probe *p, const struct msg *m);
    unsigned index;
    struct rr_probe *next_probe;
};

struct rr {
    struct sim_world *world;
    struct cluster_config config;
    struct sim_dir *dir;
    struct sim_disk *superblock, *wal, *meta;
    struct superblock sb;
    struct sim_reactor *sim, *others; /* the replica's process, and everybody else's */
    struct reactor *r;
    struct replica *replica;
    struct store_options options;
    uint64_t wal_bytes, capacity_bytes;
    uint64_t scrub_bytes_per_s, scrub_interval_ns; /* 0: no scrub in the background */
    const char *listen; /* the replica's, when not the configuration's */
    bool formatted, ready, closed;
    int ready_err, fatal;
    char why[256], fatal_what[128];
    struct rr_probe *probes;
    struct listener *donor[RR_REPLICAS];
    void (*serve[RR_REPLICAS])(struct rr_probe *p, const struct msg *m); /* of fake replicas; NULL: the greeting only */
    struct uuid donor_identity[RR_REPLICAS];
    struct rr_probe *last_donor;
    unsigned n_donor_connects;
};

struct rr *rr_new(uint64_t seed);
void rr_free(struct rr *rr);
/* Starts the process; returns on_ready's error. */
int rr_start(struct rr *rr);
void rr_start_ok(struct rr *rr);
void rr_stop(struct rr *rr); /* in order */
void rr_crash(struct rr *rr, enum sim_crash how);
void rr_run(struct rr *rr, uint64_t ns);
struct replica_group *rr_group(struct rr *rr);
/* The replica's status, parsed by nobody yet; the caller's to free. */
char *rr_status(struct rr *rr);

/* Connects; rr_greet says HELLO as this role and waits for the answer. */
struct rr_probe *rr_connect(struct rr *rr);
struct rr_probe *rr_greet(struct rr *rr, enum node_role role);
/* target and group are filled in. */
void rr_say(struct rr_probe *p, struct msg m);
/* Runs until a message of this type comes (others are skipped), at most 30 s of simulated time. */
struct rr_got *rr_take(struct rr_probe *p, enum msg_type type);
/* Runs until the connection is gone; a REFUSED with this text came before. */
void rr_refused(struct rr_probe *p, const char *text);

/* As a proposer does it: the group of the three replicas, a promise, a stream from slot `at`, entries. */
void rr_create(struct rr *rr, struct rr_probe *p);
void rr_prepare(struct rr_probe *p, uint64_t round, uint64_t lease_ns);
void rr_open(struct rr_probe *p, uint64_t round, struct log_pos at);
struct ballot rr_ballot(uint64_t round);
/* Of one block: its bytes are `fill`. */
struct entry *rr_entry(struct rr *rr, uint64_t slot, uint64_t round, uint64_t block, uint32_t nblocks, uint8_t fill);
void rr_accept(struct rr_probe *p, uint64_t round, struct entry *e, uint64_t commit); /* takes the reference */
void rr_beat(struct rr_probe *p, uint64_t round, uint64_t commit);
/* Runs until the replica has applied it. */
void rr_applied(struct rr *rr, uint64_t slot);
/* A fake replica listens under that index of the configuration (1, 2). */
void rr_donor(struct rr *rr, unsigned i, void (*serve)(struct rr_probe *p, const struct msg *m));

/* On disk, the two blocks that are all `fill` rot. */
void rr_rot(struct rr *rr, uint8_t fill);

#endif
