#include "tests/sim/cluster/cells.h"

#include <stdlib.h>

/* Odd, so that it has an inverse: from any 8 bytes of a cell its write follows, and a mixture of two writes' bytes gives a number that no write has. */
#define MIX UINT64_C(0x9e3779b97f4a7c15)
#define UNMIX UINT64_C(0xf1de83e19937733d)
#define PLACE UINT64_C(0xc2b2ae3d27d4eb4f)
static_assert(MIX * UNMIX == 1, "inverses modulo 2^64");

static void area_init(struct cell_area *a, uint32_t first)
{
    a->first = first;
    a->n = a->n_blocks * a->per_block;
    assert(a->n == 0 || a->phase + (a->per_block - 1) * a->stride + a->bytes <= BLOCK_SIZE);
    assert(a->bytes <= a->stride || a->per_block <= 1);
}

void cells_init(struct cells *c)
{
    area_init(&c->area[0], 0);
    area_init(&c->area[1], c->area[0].n);
    assert(c->area[1].n == 0 || (c->area[1].bytes == 1 && c->area[1].block >= c->area[0].block + c->area[0].n_blocks));
    c->n = c->area[0].n + c->area[1].n;
    c->byte_count = calloc(c->area[1].n + 1, sizeof *c->byte_count);
    c->byte_write = calloc((c->area[1].n + 1) * 256u, sizeof *c->byte_write);
    assert(c->byte_count && c->byte_write);
}

void cells_free(struct cells *c)
{
    free(c->byte_count);
    free(c->byte_write);
}

const struct cell_area *cells_area(const struct cells *c, uint32_t cell)
{
    return &c->area[cell >= c->area[1].first && c->area[1].n > 0];
}

uint64_t cells_offset(const struct cells *c, uint32_t cell)
{
    const struct cell_area *a = cells_area(c, cell);
    uint32_t i = cell - a->first;
    return (uint64_t)(a->block + i / a->per_block) * BLOCK_SIZE + a->phase + i % a->per_block * a->stride;
}

static uint64_t word(uint32_t write, uint32_t cell, uint32_t k)
{
    return write * MIX ^ ((uint64_t)cell * 64 + k + 1) * PLACE;
}

bool cells_may_fill(const struct cells *c, uint32_t first, uint32_t n)
{
    for (uint32_t i = first; i < first + n; i++)
        if (cells_area(c, i)->bytes == 1 && c->byte_count[i - c->area[1].first] == UINT8_MAX)
            return false;
    return true;
}

bool cells_fill(struct cells *c, uint8_t *data, uint64_t offset, uint32_t first, uint32_t n, uint32_t write)
{
    if (!cells_may_fill(c, first, n))
        return false;
    for (uint32_t i = first; i < first + n; i++) {
        const struct cell_area *a = cells_area(c, i);
        uint8_t *p = data + (cells_offset(c, i) - offset);
        if (a->bytes == 1) {
            uint32_t b = i - a->first;
            *p = ++c->byte_count[b];
            c->byte_write[b * 256 + *p] = write;
            continue;
        }
        for (uint32_t k = 0; k < a->bytes / 8; k++) {
            uint64_t w = word(write, i, k);
            memcpy(p + 8 * k, &w, 8);
        }
    }
    return true;
}

uint32_t cells_parse(const struct cells *c, const uint8_t *data, uint64_t offset, uint32_t cell)
{
    const struct cell_area *a = cells_area(c, cell);
    const uint8_t *p = data + (cells_offset(c, cell) - offset);
    if (a->bytes == 1) {
        uint32_t write = c->byte_write[(cell - a->first) * 256 + *p];
        return *p && !write ? CELL_TORN : write;
    }
    uint64_t w;
    memcpy(&w, p, 8);
    uint64_t write = w ? (w ^ ((uint64_t)cell * 64 + 1) * PLACE) * UNMIX : 0;
    if (write >= CELL_TORN)
        return CELL_TORN;
    for (uint32_t k = 1; k < a->bytes / 8; k++) {
        memcpy(&w, p + 8 * k, 8);
        if (w != (write ? word((uint32_t)write, cell, k) : 0))
            return CELL_TORN;
    }
    return (uint32_t)write;
}

/* An area's cells in blocks [from, to). */
static uint32_t area_cells(const struct cell_area *a, uint64_t from, uint64_t to, uint32_t *first)
{
    uint64_t lo = from > a->block ? from : a->block, end = (uint64_t)a->block + a->n_blocks, hi = to < end ? to : end;
    if (a->n == 0 || lo >= hi)
        return 0;
    *first = a->first + (uint32_t)(lo - a->block) * a->per_block;
    return (uint32_t)(hi - lo) * a->per_block;
}

uint32_t cells_in_whole_blocks(const struct cells *c, uint64_t offset, uint64_t end, uint32_t *first)
{
    uint64_t from = (offset + BLOCK_SIZE - 1) / BLOCK_SIZE, to = end / BLOCK_SIZE;
    uint32_t start[2] = {0}, n[2];
    for (unsigned i = 0; i < 2; i++)
        n[i] = area_cells(&c->area[i], from, to, &start[i]);
    *first = n[0] ? start[0] : start[1];
    return n[0] + n[1]; /* both: then the first one's last cell is covered, and they are neighbours */
}
