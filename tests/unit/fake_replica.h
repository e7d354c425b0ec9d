/* A replica for tests of the front end: the real acceptor behind the real wire, with a map of blocks in memory instead of a store, and faults at will.
 *
 * It lives in a process of the simulator. "Durable" is a delay; nothing of it survives the process. Catch-up copies from the other fakes' memory. */
#ifndef QBD_TESTS_FAKE_REPLICA_H
#define QBD_TESTS_FAKE_REPLICA_H

#include "base/config.h"
#include "base/wire.h"
#include "consensus/acceptor.h"
#include "tests/sim/simio.h"

#define FAKE_BLOCKS 1024u
#define FAKE_SLOTS 65536u
#define FAKE_EFFECTS 8192u

struct fake_replica {
    struct sim_world *world;
    struct sim_reactor *sim;
    struct reactor *reactor;
    struct listener *listener;
    struct uuid cluster, identity; /* as HELLO says them */
    char name[NAME_MAX_BYTES];
    struct acceptor *acceptor;
    struct acceptor_effects effects;
    struct entry *entry[FAKE_SLOTS]; /* by slot */
    uint64_t applied;
    uint8_t (*block)[BLOCK_SIZE];
    bool zero[FAKE_BLOCKS];
    uint32_t crc[FAKE_BLOCKS];
    struct list sessions, held, reads;
    uint32_t next_link;
    uint64_t seq, durable_target;
    struct timer durable_timer, read_timer, catchup_timer;
    bool durable_pending, catchup_pending;
    struct log_pos catchup_target;
    struct fake_replica *peer;
    unsigned n_peers;
    /* faults and knobs */
    struct sim_range durable_ns, read_ns;
    bool bad[FAKE_BLOCKS];     /* answers BAD */
    bool corrupt[FAKE_BLOCKS]; /* answers with a flipped bit */
    bool absent;               /* says that it has no such group */
    bool mute_reads;           /* takes READs and never answers */
    uint32_t behind;           /* so many READs are answered BEHIND */
    uint64_t n_reads, n_data;
};

/* host is "replica-N"; it listens on "replica-N:7000". peers: all fakes, itself included. */
void fake_replica_open(struct fake_replica *f, struct sim_world *w, const char *host, const struct uuid *cluster, const struct uuid *identity,
                       const struct membership *members, uint64_t group, struct fake_replica *peers, unsigned n_peers);
/* Frees what it has; the world's process ends with it. */
void fake_replica_close(struct fake_replica *f);
void fake_replica_set_credits(struct fake_replica *f, uint64_t slabs, bool growing);
/* Cuts every connection to it. */
void fake_replica_drop_sessions(struct fake_replica *f);

#endif
