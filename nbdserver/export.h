/* What the NBD side asks of a volume, and nothing more: nbd_conn.c knows only this, volume.c implements it.
 *
 * Offsets and lengths are bytes, any value within the size (the NBD side has checked). Requests may complete in any order; each exactly once, by request->done,
 * possibly before submit returns. */
#ifndef QBD_NBDSERVER_EXPORT_H
#define QBD_NBDSERVER_EXPORT_H

#include "base/buf.h"
#include "base/list.h"

enum export_op { EXPORT_READ, EXPORT_WRITE, EXPORT_TRIM, EXPORT_ZERO, EXPORT_FLUSH };

#define EXPORT_FUA 1u       /* no effect: every acknowledged write is durable */
#define EXPORT_NO_HOLE 2u   /* ZERO: keep the space */

struct export_request {
    /* set by the NBD side */
    enum export_op op;
    uint32_t flags;
    uint64_t offset;
    uint32_t length;
    /* WRITE: the payload, in whole pieces: piece i is at data[i]->data + data_off[i], data_len[i] bytes; their sum is length. The pieces are cut so that entries can share
     * them: the payload byte of a 4 KiB-aligned volume offset lies at a 4 KiB-aligned buffer address, and no piece crosses a 1 MiB boundary of the volume. Each buffer has room for the whole
     * blocks that its piece touches (data_off is the offset within the first block), so that a sub-block end can be completed in place. References are the request's owner's.
     * READ: the volume fills data[] with its own buffers (same rule), one reference each for the request's owner; a piece that is all zero has data[i] NULL (data_len[i] may be anything then).
     * n_pieces is 0 when a READ is submitted; with an error the references of data[0..n_pieces) are dropped unread. */
#define EXPORT_PIECES_MAX 34 /* 32 MiB at any offset */
    uint32_t n_pieces;
    struct buf *data[EXPORT_PIECES_MAX];
    uint32_t data_off[EXPORT_PIECES_MAX];
    uint32_t data_len[EXPORT_PIECES_MAX];
    /* result: 0 or an errno of NBD's eight (EPERM, EIO, ENOMEM, EINVAL, ENOSPC, EOVERFLOW, ENOTSUP, ESHUTDOWN), positive */
    int error;
    void (*done)(struct export_request *r);
    void *user;
    bool abandoned; /* the client is gone: drop the request if it has no slot yet (protocol.md P11) */
    /* the volume's own */
    struct list link;
    uint32_t pending;
    uint64_t scratch[8];
};

struct export {
    const char *name;
    const char *description;
    uint64_t size_bytes;
    bool read_only;
    bool attached; /* false: connections are refused or wait (attach under way); see state */
    bool refused;  /* while not attached: waiting is in vain for now (another live front end holds the volume): clients are told state at once */
    char state[160]; /* a sentence for people: "held by nbdserver-1 (lease ends in 1.2 s)" */
    void (*submit)(struct export *x, struct export_request *r);
};

struct export_list {
    struct export **export;
    uint32_t n;
    const char *default_export; /* name used for "" ; NULL: none */
};

/* Fills in piece boundaries for a WRITE's payload: how many pieces, and of each the length and the offset within its buffer that keeps the alignment rule. */
uint32_t export_cut(uint64_t offset, uint32_t length, uint32_t off[EXPORT_PIECES_MAX], uint32_t len[EXPORT_PIECES_MAX]);

#endif
