/* The scrub's part of the status. */
#ifndef QBD_REPLICA_SCRUB_STATUS_H
#define QBD_REPLICA_SCRUB_STATUS_H

#include <jansson.h>

#include "replica/replica_internal.h"

/* The caller's reference. */
json_t *scrub_json(const struct replica *r);

#endif
