/* What the codec's files share. wire_codec.c has the table of all messages and their frames, wire_parts.c what several
 * messages have; the messages themselves are in the others, by groups. */
#ifndef QBD_BASE_WIRE_CODEC_H
#define QBD_BASE_WIRE_CODEC_H

#include "base/wire.h"

/* A frame's body that is being decoded. */
struct body {
    struct arena *arena;
    const uint8_t *p;
    uint32_t len;
    uint32_t payload_len;
    uint64_t group;
};

/* ---- wire_parts.c: checks and decoders return NULL or what is wrong ---- */

/* Of `size` bytes, zero from the name's end on. */
void wire_encode_name(char *to, const char *name, size_t size);
MUST_USE const char *wire_decode_name(char *to, const char *from, size_t size);
struct credits wire_encode_credits(const struct credits *c);
MUST_USE const char *wire_check_credits(const struct credits *c);
void wire_encode_membership(uint8_t *to, const struct membership *m);
bool wire_range_valid(uint64_t block, uint64_t nblocks);
/* Runs cover (base, end] without a gap; LOST slots lie in that range, ascending. Their bytes are the two lists. */
MUST_USE const char *wire_check_runs(uint64_t base, const struct run *runs, uint32_t n_runs, const uint64_t *lost,
                                     uint32_t n_lost);
size_t wire_encode_runs(uint8_t *to, uint64_t base, const struct run *runs, uint32_t n_runs, const uint64_t *lost,
                        uint32_t n_lost);
/* The entry that the body ends with, from off on: of the frame's group, and its payload is the frame's payload. When all
 * is well the caller gets a reference. */
MUST_USE const char *wire_decode_entry(const struct body *b, size_t off, struct entry **ret);
size_t wire_encode_entry(uint8_t *to, const struct msg *m, const struct entry *e);

/* ---- messages: encoders return the body's length, decoders NULL or what is wrong ---- */

#define WIRE_CODEC(what)                                                                                               \
    size_t wire_encode_##what(const struct msg *m, uint8_t *to);                                                       \
    MUST_USE const char *wire_decode_##what(const struct body *b, struct msg *m)

/* wire_consensus.c; holder: of QUERY_ACK and NACK */
WIRE_CODEC(holder);
WIRE_CODEC(prepare);
WIRE_CODEC(promise);
WIRE_CODEC(fetch);
WIRE_CODEC(value);
WIRE_CODEC(open);
WIRE_CODEC(opened);
WIRE_CODEC(mismatch);
WIRE_CODEC(accept);
WIRE_CODEC(accepted);
WIRE_CODEC(beat);
WIRE_CODEC(beat_ack);
WIRE_CODEC(force);

/* wire_read.c */
WIRE_CODEC(read);
WIRE_CODEC(data);
WIRE_CODEC(catchup);
WIRE_CODEC(catchup_entry);
WIRE_CODEC(catchup_end);

/* wire_copy.c */
WIRE_CODEC(regions);
WIRE_CODEC(regions_reply);
WIRE_CODEC(chunks);
WIRE_CODEC(chunks_reply);
WIRE_CODEC(image);
WIRE_CODEC(image_reply);

/* wire_scrub.c */
WIRE_CODEC(digests);
WIRE_CODEC(digests_reply);
WIRE_CODEC(crcs);
WIRE_CODEC(crcs_reply);
WIRE_CODEC(scrub);

/* wire_operator.c */
WIRE_CODEC(create);
WIRE_CODEC(created);
WIRE_CODEC(status_reply);
WIRE_CODEC(address);
WIRE_CODEC(members);
WIRE_CODEC(done);

#endif
