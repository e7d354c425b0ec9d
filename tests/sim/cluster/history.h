/* What clients did and saw, and whether any single copy of the disk could have given it: linearizability per cell.
 *
 * A cell is a few bytes inside one block. Every write puts something of its own into each cell that it covers, so a read names the write that it saw. For unique values the check is exact and fast
 * (Gibbons and Korach, "Testing shared memories", 1997): a write and the reads that saw it form a cluster with the zone [earliest response, latest invocation]. The history is linearizable iff no two
 * forward zones overlap, no backward zone lies inside a forward one, and no read ended before its write began.
 *
 * Zeroes (value 0) are not unique: a read of zeroes is assigned to a zeroing write only when just one can have been meant.
 *
 * Sessions. A session is one attachment of one front end, from its first "serves" to its fencing or end. What it does has its effect before the next session (by ballot) serves, or never: that is
 * protocol.md's one writer, its leases, and "no ghosts". So every operation of a session gets a second bound beside its answer: the moment when a session of a higher ballot began to serve.
 * An unanswered write that appears later is a ghost; an operation that began after that moment and succeeded anyway is one of a front end that did not know that it was over.
 *
 * Whose session a request is, is exact although NBD does not say it. A client's connection enters transmission only while its front end serves, and all of a front end's connections are closed in
 * the very step in which it is fenced (P7), before it may attach again. So a connection lives in one session, and the client takes that from the cluster when the server's last handshake
 * bytes arrive. If the front end was fenced (and even attached again) while they were under way, the server's end of the connection is gone already and nothing that is sent on it is ever read: then the
 * label is too late, but of requests that never run. If a front end did answer such a connection, the client tells (a reply to what was sent after the session's end is a violation). */
#ifndef QBD_TESTS_SIM_CLUSTER_HISTORY_H
#define QBD_TESTS_SIM_CLUSTER_HISTORY_H

#include "base/types.h"

struct history;

struct history *history_new(uint32_t n_cells);
void history_free(struct history *h);

/* Session (from 1, each once) serves from now on, under this ballot. Its operations come later. */
void history_session(struct history *h, uint64_t now, uint32_t session, const struct ballot *ballot);
/* A write or zeroing of cells first..first+n-1 begins. Returns its number > 0: what reads see of it (of a zeroing they see 0). */
uint32_t history_write(struct history *h, uint64_t now, uint32_t session, uint32_t first, uint32_t n, bool zero);
/* It was answered with success. A write never answered (or with an error) is simply never passed here. */
void history_written(struct history *h, uint64_t now, uint32_t write);
/* It was answered in a way that says that it had and will have no effect. */
void history_refused(struct history *h, uint32_t write);
/* A read that began at `began` and was answered now saw value[i] in cell first + i. */
void history_read(struct history *h, uint64_t began, uint64_t now, uint32_t session, uint32_t first, uint32_t n, const uint32_t *value);

/* NULL, or what is wrong (text of h's, naming the cell and the operations). */
const char *history_check(struct history *h);

uint64_t history_writes(const struct history *h);
uint64_t history_reads(const struct history *h);

#endif
