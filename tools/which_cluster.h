/* Which cluster a command is about: --dir DIR (a local cluster) or --cluster FILE, for every command that works on one.
 *
 * A command names which_cluster_children as its argp's children and hands over its struct which_cluster at
 * ARGP_KEY_INIT: state->child_inputs[0] = &a->which; When the parser is through, exactly one of dir and file is set. */
#ifndef QBD_TOOLS_WHICH_CLUSTER_H
#define QBD_TOOLS_WHICH_CLUSTER_H

#include "tools/cluster_dir.h"

struct which_cluster {
    const char *dir, *file; /* as they were given */
};

extern const struct argp_child which_cluster_children[];

/* Its configuration into ret->conf; for a local cluster everything else of *ret as well, and a configuration file
 * leaves ret->dir empty. Changes nothing on disk. 0 or -1. */
MUST_USE int which_cluster_load(const struct which_cluster *w, struct cluster_dir *ret, struct why *why);

#endif
