/* Where the cells lie that the history is about, and what is in them.
 *
 * A cell never crosses a block's end, because a block is the unit of linearizability: a request over several blocks is several operations. Two areas:
 *   - large cells (512 or 8 bytes) that begin anywhere in a block, odd offsets included, so that nearly every request begins and ends inside a block;
 *   - byte cells, single bytes far apart in a few blocks that all clients write to at the same time: a byte that the others' read-modify-write loses is seen at once.
 * The bytes between cells hold nothing that anybody looks at.
 *
 * A large cell holds its write's number, mixed with its place, in every 8 bytes of it; a byte cell holds its own count of writes (1 to 255, then it is full). Zero bytes: 0. */
#ifndef QBD_TESTS_SIM_CLUSTER_CELLS_H
#define QBD_TESTS_SIM_CLUSTER_CELLS_H

#include "base/types.h"

#define CELL_TORN UINT32_MAX

struct cell_area {
    uint32_t first, n; /* cells */
    uint32_t block, n_blocks;
    uint32_t per_block;
    uint32_t bytes; /* of a cell */
    uint32_t phase, stride; /* within a block: the first begins at phase, the next stride bytes behind it */
};

struct cells {
    struct cell_area area[2]; /* large cells, byte cells (n may be 0) */
    uint32_t n;
    uint8_t *byte_count;  /* of each byte cell: how many values are used */
    uint32_t *byte_write; /* and the write of each value, 256 a cell */
};

/* sizes and places are set in area[]; the rest follows. */
void cells_init(struct cells *c);
void cells_free(struct cells *c);
const struct cell_area *cells_area(const struct cells *c, uint32_t cell);
uint64_t cells_offset(const struct cells *c, uint32_t cell);

/* Cells first..first+n-1 into data, which is the volume's bytes from offset on. False, with nothing done: a byte cell is full. */
bool cells_fill(struct cells *c, uint8_t *data, uint64_t offset, uint32_t first, uint32_t n, uint32_t write);
bool cells_may_fill(const struct cells *c, uint32_t first, uint32_t n);
/* The number of the write that the cell's bytes are of, or CELL_TORN: they are of none, or of several. */
uint32_t cells_parse(const struct cells *c, const uint8_t *data, uint64_t offset, uint32_t cell);
/* Those cells that lie in blocks which the bytes cover whole: what a TRIM zeroes. Returns their number. */
uint32_t cells_in_whole_blocks(const struct cells *c, uint64_t offset, uint64_t end, uint32_t *first);

#endif
