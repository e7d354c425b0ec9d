/* What the replicas' scrubs found, for people (docs/rebuild.md section 9). */
#ifndef QBD_TOOLS_SCRUB_H
#define QBD_TOOLS_SCRUB_H

#include "tools/status.h"

/* For qbd status: one line that says when the volume's replicas were last read back whole, and what is left of what was found. */
void scrub_print_last(const struct volume_config *v, const struct replica_view *replicas);

#endif
