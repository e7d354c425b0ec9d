/* What the codec's files share: wire_codec.c has the table of all messages, wire_copy.c the messages of copies and repairs between replicas. */
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

bool wire_range_valid(uint64_t block, uint64_t nblocks);
void wire_encode_membership(uint8_t *to, const struct membership *m);

/* wire_copy.c: encoders return the body's length, decoders NULL or what is wrong. */
size_t wire_encode_regions(const struct msg *m, uint8_t *to);
const char *wire_decode_regions(const struct body *b, struct msg *m);
size_t wire_encode_regions_reply(const struct msg *m, uint8_t *to);
const char *wire_decode_regions_reply(const struct body *b, struct msg *m);
size_t wire_encode_chunks(const struct msg *m, uint8_t *to);
const char *wire_decode_chunks(const struct body *b, struct msg *m);
size_t wire_encode_chunks_reply(const struct msg *m, uint8_t *to);
const char *wire_decode_chunks_reply(const struct body *b, struct msg *m);
size_t wire_encode_image(const struct msg *m, uint8_t *to);
const char *wire_decode_image(const struct body *b, struct msg *m);
size_t wire_encode_image_reply(const struct msg *m, uint8_t *to);
const char *wire_decode_image_reply(const struct body *b, struct msg *m);

/* wire_scrub.c: likewise. */
size_t wire_encode_digests(const struct msg *m, uint8_t *to);
const char *wire_decode_digests(const struct body *b, struct msg *m);
size_t wire_encode_digests_reply(const struct msg *m, uint8_t *to);
const char *wire_decode_digests_reply(const struct body *b, struct msg *m);
size_t wire_encode_crcs(const struct msg *m, uint8_t *to);
const char *wire_decode_crcs(const struct body *b, struct msg *m);
size_t wire_encode_crcs_reply(const struct msg *m, uint8_t *to);
const char *wire_decode_crcs_reply(const struct body *b, struct msg *m);
size_t wire_encode_scrub(const struct msg *m, uint8_t *to);
const char *wire_decode_scrub(const struct body *b, struct msg *m);

/* wire_operator.c: likewise. */
size_t wire_encode_address(const struct msg *m, uint8_t *to);
const char *wire_decode_address(const struct body *b, struct msg *m);
size_t wire_encode_members(const struct msg *m, uint8_t *to);
const char *wire_decode_members(const struct body *b, struct msg *m);
size_t wire_encode_done(const struct msg *m, uint8_t *to);
const char *wire_decode_done(const struct body *b, struct msg *m);

#endif
