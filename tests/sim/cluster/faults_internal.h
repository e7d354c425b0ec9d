/* What the parts of fault injection share: faults.c (the schedule, processes), faults_net.c, faults_disk.c, atlas.c (where damage may go). */
#ifndef QBD_TESTS_SIM_CLUSTER_FAULTS_INTERNAL_H
#define QBD_TESTS_SIM_CLUSTER_FAULTS_INTERNAL_H

#include "base/list.h"
#include "tests/sim/cluster/trial.h"

#define FAULT_HOSTS (SIM_NODES + SIM_SESSIONS) /* at most: replicas, then front ends */

/* Each fault draws from a stream of its own, so that leaving one out does not change what the others are. */
struct fault_rng {
    uint64_t state;
};
uint64_t fault_draw(struct fault_rng *g, uint64_t min, uint64_t max); /* both ends included */
bool fault_chance(struct fault_rng *g, uint32_t one_in);
/* Between min and max, each order of magnitude as likely as any other. */
uint64_t fault_draw_log(struct fault_rng *g, uint64_t min, uint64_t max);
/* How long something is broken: milliseconds, or less than a second, or many seconds. */
uint64_t fault_outage(struct fault_rng *g);

/* The end of a fault, or its next stage. Void once the faults are over: faults_stop() ends everything by itself. */
struct fault_action {
    struct list link;
    struct faults *faults;
    void (*fn)(struct fault_action *a);
    unsigned a, b;
    uint64_t x;
    bool surely;
};

/* A sequence that is being played (faults_scene.c). */
struct scene {
    bool on;
    unsigned victim, other[2]; /* replicas */
    unsigned left;             /* steps */
    bool held;                 /* answers wait */
    uint64_t until_ns;         /* nobody waits longer for a state */
    unsigned frontend;
    uint64_t round; /* its ballot's, when the scene began */
    struct fault_rng g;
};

struct faults {
    struct trial *run;
    uint64_t seed;
    uint32_t weight[FAULT_KINDS], total;
    struct sim_range gap_ns; /* from one to the next */
    uint32_t next;           /* index of the next */
    uint64_t count[FAULT_KINDS];
    struct list actions;
    unsigned n_hosts;
    uint32_t cut[FAULT_HOSTS][FAULT_HOSTS];        /* how many faults hold the link from a to b down */
    uint64_t reset_at_byte[FAULT_HOSTS][FAULT_HOSTS]; /* armed */
    struct faults_disk *disk;
    bool storm;      /* one is under way */
    bool storm_rots; /* ... and WALs rot in it */
    uint64_t rival_until_ns;
    uint64_t storm_writes[SIM_NODES]; /* of the WAL when somebody began to wait for the next one */
    enum theme theme;
    struct scene scene;
};

struct faults *faults_of(struct trial *r);
/* Where what concerns number `index` is drawn from; numbers from UINT64_MAX down concern the whole run. */
struct fault_rng fault_stream(const struct faults *f, uint64_t index);
void fault_count(struct faults *f, enum fault kind);
/* For people: what fault number `index` does. */
void fault_say(struct faults *f, const char *fmt, ...) PRINTF_LIKE(2, 3);
void fault_later(struct faults *f, uint64_t ns, void (*fn)(struct fault_action *a), unsigned a, unsigned b, uint64_t x);
/* The same, also when the faults are over meanwhile. */
void fault_surely(struct faults *f, uint64_t ns, void (*fn)(struct fault_action *a), unsigned a, unsigned b, uint64_t x);
const char *fault_host(struct faults *f, unsigned i);
void fault_restart_node(struct fault_action *a);
bool faults_crash_frontend(struct faults *f, struct frontend *fe, enum sim_crash how, uint64_t outage_ns);
bool faults_crash_node(struct faults *f, struct node *n, enum sim_crash how, uint64_t outage_ns);

/* faults_net.c. False: not a fault of this part. */
bool faults_net_apply(struct faults *f, enum fault kind, struct fault_rng *g);
void faults_net_stop(struct faults *f);
/* What host a sends to host b waits until faults_release(). */
void faults_hold(struct faults *f, unsigned a, unsigned b);
void faults_release(struct faults *f, unsigned a, unsigned b);
/* What host a sends to host b takes late_ns and ns_per_kib more, for so long. */
void faults_late(struct faults *f, unsigned a, unsigned b, uint64_t late_ns, uint32_t ns_per_kib, uint64_t for_ns);

/* faults_storm.c */
/* False: there is one already. */
bool faults_storm(struct faults *f, struct fault_rng *g);
/* A front end that prepares or starts a session, or NULL. */
struct frontend *faults_find_rival(struct faults *f);

/* faults_theme.c: after the weights, which it may replace */
void faults_draw_theme(struct faults *f);

/* faults_scene.c. False: one is being played already. */
bool faults_scene(struct faults *f, enum fault kind, struct fault_rng *g);

/* faults_disk.c: may this disk be given up for good? It is another one now. */
bool faults_may_lose(struct faults *f, const struct node *n);
void faults_new_disk(struct faults *f, const struct node *n);
/* Its disks take `factor` times as long, for so long. */
void faults_slow_disk(struct faults *f, struct node *n, uint64_t factor, uint64_t ns);

/* faults_disk.c. The group was created; hooks and the atlas take effect now. */
void faults_disk_start(struct faults *f, struct fault_rng *g);
bool faults_disk_apply(struct faults *f, enum fault kind, struct fault_rng *g);
void faults_disk_stop(struct faults *f);
/* The replica that damage may hit, or NULL. */
struct node *faults_victim(struct faults *f, struct fault_rng *g);
/* Its newest batches rot, `batches` of those that are proven durable. Returns how many did. */
unsigned faults_rot_newest(struct faults *f, struct node *n, struct fault_rng *g, unsigned batches);
/* Up to so many of its data pages rot. */
void faults_rot_data(struct faults *f, struct node *n, struct fault_rng *g, unsigned pages);
/* It dies at the submission or completion of this many WAL writes from now, is back at once, and so on, `times` times. */
void faults_tear_log(struct faults *f, struct node *n, struct fault_rng *g, unsigned times);

#endif
