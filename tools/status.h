/* Asking the daemons how they are, and saying it to people.
 *
 * What a daemon says of itself is shown as its own word; what follows from comparing them (how far behind, how much
 * redundancy is left) is worked out here. Keys that a daemon does not send are left out, never guessed. */
#ifndef QBD_TOOLS_STATUS_H
#define QBD_TOOLS_STATUS_H

#include "tools/client.h"
#include "tools/cluster_dir.h"

/* One replica's part in one volume. */
struct replica_view {
    const struct replica_config *config;
    const struct cluster_dir *local; /* or NULL */
    struct process process;          /* known for a local cluster only */
    json_t *status; /* what it says, or NULL */
    json_t *group;  /* of status: its entry of the selected volume's group, borrowed, or NULL */
    struct why why; /* no status: why */
};

struct volume_view {
    const struct volume_config *config;
    bool exists;         /* some replica has the group */
    bool not_created;    /* all answer, and none has it */
    bool streams;        /* some replica is in a front end's stream */
    uint64_t size_bytes; /* the group's own; the configuration's while nobody tells */
    uint32_t n_voters;   /* as is this */
    json_t *voters;      /* borrowed from a replica's status, or NULL */
    uint32_t n_answering, n_up_to_date;
    uint32_t n_lost;     /* voters that cannot come back by themselves */
    uint32_t n_full;     /* have no room to give away */
    uint64_t commit;     /* the highest that any replica knows */
    const char *holder;  /* "" : nobody */
    int64_t lease_ms;
    int64_t unnamed_lease_ms; /* of a holder whose name no replica knows: 0: none */
};

/* d: NULL for a cluster that is not local. Unpaused local processes and all remote ones are asked. */
void replica_view_take(struct replica_view *r, const struct cluster_config *conf, const struct replica_config *config,
                       const struct cluster_dir *d, uint64_t group);
/* Turns to another group. */
void replica_view_select(struct replica_view *r, uint64_t group);
void replica_view_drop(struct replica_view *r);
/* A word or few: "up to date", "behind", "needs copy", "copying", "stopped", "lost its data", "not formatted", "not a member", "not a member: needs rebuild",
 * "paused", "unreachable". */
const char *replica_view_state(const struct replica_view *r, const struct cluster_dir *d);
/* ... with how far a copy is. */
void replica_view_describe(const struct replica_view *r, const char *state, char *buf, size_t cap);
/* Says so itself, and is a voter of its group. (Being in the holder's stream is judged apart: a volume that nobody
 * holds has none.) */
bool replica_view_up_to_date(const struct replica_view *r);
bool replica_view_streams(const struct replica_view *r); /* a voter that is in the holder's stream */
/* Slots it lacks of `commit`; -1 when unknown. */
int64_t replica_view_behind(const struct replica_view *r, uint64_t commit);
int64_t replica_view_position(const struct replica_view *r); /* durable through; -1 when unknown */

/* Selects the volume's group in its replicas' views. */
void volume_view_take(struct volume_view *v, const struct volume_config *config, struct replica_view *replicas);
/* As replica_view_state, and "joining": it holds everything, but takes no part in the stream that others are in. */
const char *volume_view_state(const struct volume_view *v, const struct replica_view *r);
/* "3 of 3 replicas up to date; any 1 may fail" */
void volume_view_redundancy(const struct volume_view *v, char *buf, size_t cap);

int64_t json_number_or(json_t *o, const char *key, int64_t otherwise);
const char *json_text_or(json_t *o, const char *key, const char *otherwise);

/* A table of plain aligned columns; rows are n cells each. */
void print_table(const char *const *headings, unsigned n_columns, char *const *cells, unsigned n_rows);

#endif
