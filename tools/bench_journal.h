/* What a verifying run wrote, and what was acknowledged: a file that outlives the run, and stamps in every block that
 * tell which write put it there.
 *
 * The file is mapped shared: what the process stored is in the kernel when the process is killed. Only the failure of
 * the machine that runs the load can take the newest entries away; journal_sync() is against that.
 *
 * What always holds:
 *   - A position (block_bytes of the volume) has at most one write under way.
 *   - A position's `issued` is set before its request is sent, and `acked` follows when the answer is there. A write
 *     whose answer never came leaves them apart for ever: the position is not written again in this run, and both
 *     contents are right.
 *   - Hence a block of an acknowledged position holds the stamp of `acked` or of `issued`, and nothing else. */
#ifndef QBD_TOOLS_BENCH_JOURNAL_H
#define QBD_TOOLS_BENCH_JOURNAL_H

#include "tools/cli.h"

struct journal_header {
    char magic[8];
    uint32_t version, reserved;
    uint64_t run; /* random: stamps of other runs are told apart by it */
    uint64_t volume_bytes, offset, block_bytes, n_positions;
    uint64_t created_s; /* since 1970 */
    uint64_t last_seq;  /* the newest that was issued */
    uint64_t acked;     /* writes acknowledged: scripts read it, at byte 72 */
    char boot_id[40];   /* of the machine that ran the load */
    char uri[3928];
};

struct journal_entry {
    uint64_t issued, acked; /* sequence numbers; 0: never */
};

struct journal {
    int fd;
    size_t map_bytes;
    struct journal_header *h;
    struct journal_entry *entry;
    bool same_boot; /* the machine has not been restarted since it was made: it lacks nothing */
};

/* A new file; one that is there already is an error. 0 or -1. */
MUST_USE int journal_create(struct journal *j, const char *path, const struct journal_header *h, struct why *why);
MUST_USE int journal_open(struct journal *j, const char *path, struct why *why);
void journal_close(struct journal *j);

/* Whether its last write was answered. */
bool journal_is_settled(const struct journal *j, uint64_t position);
/* A write of this position is about to be sent. Returns its sequence number. */
uint64_t journal_issue(struct journal *j, uint64_t position);
void journal_ack(struct journal *j, uint64_t position);
MUST_USE int journal_sync(struct journal *j, struct why *why);

/* ---- stamps: one in each 4 KiB block ---- */

enum stamp {
    STAMP_OF_RUN,    /* this run's, of this block's address */
    STAMP_MISPLACED, /* this run's, of another address */
    STAMP_OTHER_RUN,
    STAMP_ZEROES,
    STAMP_NONE, /* something else, or a damaged or torn one */
};

struct stamp_read {
    enum stamp kind;
    uint64_t seq, address; /* of kinds that have one */
};

/* Fills the block of BLOCK_SIZE bytes that belongs at `address`. */
void stamp_fill(uint8_t *block, uint64_t run, uint64_t address, uint64_t seq);
struct stamp_read stamp_look(const uint8_t *block, uint64_t run, uint64_t address);

/* Whether a block of that position may look like that. If not, says what is wrong. */
bool journal_allows(const struct journal *j, uint64_t position, const struct stamp_read *s, char *buf, size_t cap);

#endif
