/* Where damage may go, so that what is damaged stays within what replication must survive.
 *
 * What replication must survive: each committed thing keeps a good copy at a majority. The simplest rule that holds that is used: all lasting damage of a run hits one
 * replica, the victim, and counts for the rest of the run; a disk is lost only there, and only when the other two hold everything.
 * Within the victim one kind of damage is out of bounds all the same: the newest WAL batches, as long as no durable batch behind them proves that they were durable. Losing one
 * cannot be told from a write that was torn by a crash (store.md §2 "Recovery"), so the replica would forget what it acknowledged.
 *
 * Beyond (run_options.beyond): any replica may be hit. Then answers may be missing or EIO, but none may be wrong. */
#ifndef QBD_TESTS_SIM_CLUSTER_ATLAS_H
#define QBD_TESTS_SIM_CLUSTER_ATLAS_H

#include "tests/sim/cluster/faults_internal.h"

enum damage {
    DAMAGE_WAL = 1,
    DAMAGE_META = 2,
    DAMAGE_SUPERBLOCK = 4, /* all copies */
    DAMAGE_DATA = 8,
    DAMAGE_LEAF = 16,
};

struct atlas {
    struct cluster *cluster;
    bool beyond;
    unsigned victim;
    unsigned damage[SIM_NODES];            /* enum damage, for the rest of the run */
    unsigned superblock_copies[SIM_NODES]; /* bit: damaged */
    bool disk_lost;
};

/* A range of bytes on a disk. */
struct spot {
    struct sim_disk *disk;
    uint64_t off, len;
};

void atlas_init(struct atlas *a, struct cluster *c, bool beyond, struct fault_rng *g);
/* The replica that the next damage hits. NULL: it has no disk to damage just now. */
struct node *atlas_choose(struct atlas *a, struct fault_rng *g);
/* May this replica lose its disk now? */
bool atlas_may_lose(const struct atlas *a, const struct node *n);
/* Voters change: may this disk be given up for good? Every membership that may be in force must have a majority without it that holds everything, and the one
 * that is must be known as such to a majority of its voters, durably (protocol.md "Forgetting a retired replica"). */
bool atlas_may_give_up(const struct atlas *a, struct checks *ck, const struct node *n);
/* Its disk was lost, and with it all damage. */
void atlas_new_disk(struct atlas *a, const struct node *n);
/* Finds a place of a kind. False: there is none now. */
bool atlas_wal_batch(struct node *n, struct fault_rng *g, struct spot *ret); /* a whole batch that was proven durable */
unsigned atlas_wal_newest(struct node *n, unsigned want, struct spot *ret); /* the youngest ones of these; returns how many */
bool atlas_leaf(struct node *n, struct fault_rng *g, struct spot *ret);      /* one of a leaf's two places */
bool atlas_data(struct node *n, struct fault_rng *g, struct spot *ret);      /* a block of an extent that is no leaf */
/* All such blocks, the first `cap` of them; returns how many. */
unsigned atlas_all_data(struct node *n, struct spot *ret, unsigned cap);
bool atlas_superblock(struct atlas *a, struct node *n, struct fault_rng *g, struct spot *ret);
bool atlas_meta(struct node *n, struct fault_rng *g, struct spot *ret);
/* Notes what was done. */
void atlas_damaged(struct atlas *a, const struct node *n, enum damage what);
/* May a replica refuse to start with what was done to it? */
bool atlas_excuses_refusal(const struct atlas *a, const struct node *n);

#endif
