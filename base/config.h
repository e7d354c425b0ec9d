/* The cluster's configuration file: who the replicas are, which volumes exist (docs/operations.md).
 *
 *   [cluster]            id = UUID, lease_ms = 2000, copy_floor = 16M, copy_ceiling = 1G
 *   [replica replica-1]  identity = UUID, address = unix:PATH | HOST:PORT
 *   [volume vol0]        group = 1, size = BYTES, replicas = replica-1 replica-2 replica-3
 */
#ifndef QBD_BASE_CONFIG_H
#define QBD_BASE_CONFIG_H

#include "base/types.h"

#define CONFIG_REPLICAS_MAX 32
#define CONFIG_VOLUMES_MAX 64
#define CONFIG_ADDRESS_MAX ADDRESS_MAX_BYTES

struct replica_config {
    char name[NAME_MAX_BYTES];
    struct uuid identity;
    char address[CONFIG_ADDRESS_MAX];
};

struct volume_config {
    char name[NAME_MAX_BYTES];
    uint64_t group;
    uint64_t size_bytes; /* a multiple of BLOCK_SIZE */
    uint32_t n_replicas;
    uint32_t replica[MEMBERS_MAX]; /* indices into cluster_config.replicas */
};

struct cluster_config {
    struct uuid id;
    uint32_t lease_ms;
    uint64_t copy_floor_bytes_per_s, copy_ceiling_bytes_per_s; /* of what a replica copies from others; 0: not said */
    uint32_t n_replicas, n_volumes;
    struct replica_config replicas[CONFIG_REPLICAS_MAX];
    struct volume_config volumes[CONFIG_VOLUMES_MAX];
};

/* 0, or -errno with "FILE:LINE: what is wrong" in why. Unknown sections and keys are errors. */
MUST_USE int config_load(const char *path, struct cluster_config *ret, char why[256]);
const struct replica_config *config_find_replica(const struct cluster_config *c, const char *name);
const struct replica_config *config_find_identity(const struct cluster_config *c, const struct uuid *identity);
const struct volume_config *config_find_volume(const struct cluster_config *c, const char *name);
/* 1 to NAME_MAX_BYTES - 1 letters, digits, '-', '_' and '.', the first a letter, a digit or '_'. */
bool config_name_is_valid(const char *name);
/* "512", "64K", "1G", "2T" (powers of 1024). */
MUST_USE int config_parse_size(const char *s, uint64_t *ret);

#endif
