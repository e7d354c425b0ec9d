/* What clients did and saw, and whether any single copy of the disk could have given it: linearizability per cell.
 *
 * A cell is 512 bytes. Every write puts its own number into each cell that it covers, so a read names the write that it saw. For unique values the check is exact and fast
 * (Gibbons and Korach, "Testing shared memories", 1997): a write and the reads that saw it form a cluster with the zone [earliest response, latest invocation]. The history is linearizable iff no two
 * forward zones overlap, no backward zone lies inside a forward one, and no read ended before its write began.
 *
 * Zeroes (value 0) are not unique: a read of zeroes is assigned to a zeroing write only when just one can have been meant.
 *
 * No ghosts: a write of a dead session that was never answered counts as answered before its successor was first asked anything (it was asked when it served) (protocol.md, design.md "No ghosts"). */
#ifndef QBD_TESTS_SIM_CLUSTER_HISTORY_H
#define QBD_TESTS_SIM_CLUSTER_HISTORY_H

#include "base/types.h"

#define CELL_BYTES 512u

struct history;

struct history *history_new(uint32_t n_cells);
void history_free(struct history *h);

/* A write (value = its number > 0) or zeroing (value 0) of cells first..first+n-1 begins. Returns its number. */
uint32_t history_write(struct history *h, uint64_t now, uint32_t session, uint32_t first, uint32_t n, bool zero);
/* It was answered with success. A write never answered (or with an error) is simply never passed here. */
void history_written(struct history *h, uint64_t now, uint32_t write);
/* A read that began at `began` and was answered now saw value[i] in cell first + i. */
void history_read(struct history *h, uint64_t began, uint64_t now, uint32_t session, uint32_t first, uint32_t n, const uint64_t *value);
/* Session ended (died or was fenced): its unanswered writes get their deadline from the next session's first request. */
void history_session_ended(struct history *h, uint32_t session);

/* NULL, or what is wrong (static text, naming the cell and the operations). */
const char *history_check(struct history *h);

uint64_t history_writes(const struct history *h);
uint64_t history_reads(const struct history *h);

#endif
