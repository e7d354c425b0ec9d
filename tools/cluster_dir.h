/* The directory of a local cluster: what is in it, and its two files.
 *
 *   DIR/cluster.conf    what the daemons read (base/config.h)
 *   DIR/local.json      what only qbd local needs: front ends, sizes, the group's founding members
 *   DIR/run/            sockets and pid files         DIR/logs/NAME.log
 *   DIR/data/NAME/      a replica's data; that it is missing means: lost, or not formatted yet
 *
 * A change to several of them is ordered so that being killed between any two leaves a directory that the next command
 * understands. */
#ifndef QBD_TOOLS_CLUSTER_DIR_H
#define QBD_TOOLS_CLUSTER_DIR_H

#include "base/config.h"
#include "tools/process.h"

#include <limits.h>

#define FRONTENDS_MAX 16
#define LOCAL_VOLUME_GROUP 1u

struct local_frontend {
    char name[NAME_MAX_BYTES];
    char volume[NAME_MAX_BYTES];
    char listen[CONFIG_ADDRESS_MAX]; /* its NBD address */
};

struct cluster_dir {
    char dir[PATH_MAX];           /* absolute */
    char run[CONFIG_ADDRESS_MAX]; /* a path of DIR/run that is short enough for a socket's address: itself, or a
                                     symbolic link to it */
    uint64_t wal_size_bytes, extent_size_bytes;
    struct cluster_config conf;
    uint32_t n_frontends;
    struct local_frontend frontends[FRONTENDS_MAX];
    bool created; /* the volume's group exists at all founding members */
    struct membership founding;
};

/* Absolute path of dir, and whether it holds a cluster. 0 or -1. */
MUST_USE int cluster_dir_locate(struct cluster_dir *d, const char *dir, bool *ret_exists, struct why *why);
MUST_USE int cluster_dir_load(struct cluster_dir *d, struct why *why);
/* Writes both files. */
MUST_USE int cluster_dir_save(const struct cluster_dir *d, struct why *why);
/* Makes DIR and its folders, and sees to it that d->run leads to DIR/run. */
MUST_USE int cluster_dir_prepare(struct cluster_dir *d, struct why *why);
/* Refuses a directory that holds something else; missing, empty, or left by a failed first start is fine. */
MUST_USE int cluster_dir_check_vacant(const struct cluster_dir *d, struct why *why);
/* Takes the link away when it was needed. */
void cluster_dir_unlink_run(const struct cluster_dir *d);
/* One command at a time changes a cluster. Returns a descriptor (close it to let go), or -1. */
int cluster_dir_lock(const struct cluster_dir *d, struct why *why);

struct cluster_path {
    char s[PATH_MAX + 128];
};
struct cluster_path cluster_path(const struct cluster_dir *d, const char *folder, const char *name, const char *suffix);
bool cluster_replica_formatted(const struct cluster_dir *d, const char *replica);
struct local_frontend *cluster_find_frontend(struct cluster_dir *d, const char *name);
struct process cluster_process(const struct cluster_dir *d, const char *component);
/* "unix:RUN/NAME.SUFFIX" */
void cluster_socket_address(const struct cluster_dir *d, const char *name, const char *suffix,
                            char ret[CONFIG_ADDRESS_MAX]);

/* Adds a member to the in-memory description; 0 or -1 (too many). Names are the next free ones. */
MUST_USE int cluster_add_replica(struct cluster_dir *d, struct replica_config **ret, struct why *why);
MUST_USE int cluster_add_frontend(struct cluster_dir *d, const char *volume, struct local_frontend **ret, struct why *why);

#endif
