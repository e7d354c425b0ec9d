/* Which cluster a command is about: --dir DIR (a local cluster) or --cluster FILE, for every command that works on one.
 *
 * A command names which_cluster_children as its argp's children, and its parser ends with which_cluster_parse. When that
 * is through, exactly one of dir and file is set. */
#ifndef QBD_TOOLS_WHICH_CLUSTER_H
#define QBD_TOOLS_WHICH_CLUSTER_H

#include "tools/cluster_dir.h"

struct which_cluster {
    const char *dir, *file; /* as they were given */
};

extern const struct argp_child which_cluster_children[];

/* For the `default` of a command's parser: what all of them do alike at the beginning, and with a word that nobody asked
 * for. */
error_t which_cluster_parse(int key, const char *arg, struct argp_state *state, struct which_cluster *which);

/* Its configuration into ret->conf; for a local cluster everything else of *ret as well, and a configuration file
 * leaves ret->dir empty. Changes nothing on disk. 0 or -1. */
MUST_USE int which_cluster_load(const struct which_cluster *w, struct cluster_dir *ret, struct why *why);

#endif
