/* Superblock and format of a data directory. */
#ifndef QBD_REPLICA_SUPERBLOCK_H
#define QBD_REPLICA_SUPERBLOCK_H

#include "base/io.h"
#include "replica/disk_format.h"

void superblock_seal(struct superblock *s); /* magic, version, crc */
/* The newest valid of the copies in the 64 KiB at image. NULL, or why there is none: no qbd data, damaged, unknown version, unknown incompat feature, half formatted. */
const char *superblock_pick(const void *image, struct superblock *ret);
/* Is this copy whole, and of an older generation than s? A writer that died leaves such copies behind. */
bool superblock_copy_is_older(const void *copy, const struct superblock *s);
/* Writes all copies of a sealed superblock, one after the other, durably. dev is the superblock device. done(err). Each content that differs
 * needs the generation after the one in force: its parity decides which copy goes first. */
void superblock_write(struct dev *dev, const struct superblock *s, void (*done)(void *user, int err), void *user);

#endif
