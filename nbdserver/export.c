/* How a WRITE's payload is cut into buffers, so that log entries can share them without a copy. */
#include "nbdserver/export.h"

#define PIECE_BYTES ENTRY_MAX_BYTES /* pieces end where this divides the volume offset */

static_assert(EXPORT_PIECES_MAX >= (32u << 20) / PIECE_BYTES + 1,
              "32 MiB at any offset touch one piece more than at an aligned one");

uint32_t export_cut(uint64_t offset, uint32_t length, uint32_t off[EXPORT_PIECES_MAX], uint32_t len[EXPORT_PIECES_MAX])
{
    uint32_t n = 0;
    while (length > 0) {
        assert(n < EXPORT_PIECES_MAX);
        uint32_t to_boundary = PIECE_BYTES - (uint32_t)(offset % PIECE_BYTES);
        /* Buffers are 4 KiB-aligned, so the offset within the first block is the offset within the buffer. Pieces but
         * the first begin on a boundary. */
        off[n] = (uint32_t)(offset % BLOCK_SIZE);
        len[n] = length < to_boundary ? length : to_boundary;
        offset += len[n];
        length -= len[n];
        n++;
    }
    return n;
}
