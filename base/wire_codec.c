/* Messages to bytes and back: frames, and the table of all messages. Encode and decode of each stand side by side, in files
 * by groups of messages (wire_codec.h).
 *
 * What always holds: a body that wire_decode lets through has been checked in every field, so that nothing behind it
 * checks lengths, counts, ranges or reserved bytes again. Encoding is canonical: reserved bytes and what follows a name's
 * end are zero. What a caller hands to wire_encode is trusted, and a bad length there is an assertion. */
#include "base/crc32c.h"
#include "base/wire.h"
#include "base/wire_codec.h"
#include "base/wire_format.h"

struct codec {
    const char *name;
    uint32_t body_min, body_max;
    uint32_t payload_max;
    size_t (*encode)(const struct msg *m, uint8_t *to);
    const char *(*decode)(const struct body *b, struct msg *m);
};

static size_t encode_empty(const struct msg *m, uint8_t *to)
{
    return 0;
}

static const char *decode_empty(const struct body *b, struct msg *m)
{
    return NULL;
}

/* ---- session ---- */

static size_t wire_encode_hello(const struct msg *m, uint8_t *to)
{
    struct wire_hello w = {
        .version = m->u.hello.version,
        .role = m->u.hello.role,
        .features = m->u.hello.features,
        .cluster = m->u.hello.cluster,
        .identity = m->u.hello.identity,
    };
    wire_encode_name(w.name, m->u.hello.name, sizeof w.name);
    memcpy(to, &w, sizeof w);
    return sizeof w;
}

static const char *wire_decode_hello(const struct body *b, struct msg *m)
{
    const struct wire_hello *w = (const void *)b->p;
    if (w->role < ROLE_FRONTEND || w->role > ROLE_TOOL)
        return "a HELLO of an unknown role";
    m->u.hello.version = w->version;
    m->u.hello.role = w->role;
    m->u.hello.features = w->features;
    m->u.hello.cluster = w->cluster;
    m->u.hello.identity = w->identity;
    return wire_decode_name(m->u.hello.name, w->name, sizeof w->name);
}

static size_t wire_encode_refused(const struct msg *m, uint8_t *to)
{
    wire_encode_name((char *)to, m->u.refused.reason, WIRE_REASON_MAX);
    return WIRE_REASON_MAX;
}

static const char *wire_decode_refused(const struct body *b, struct msg *m)
{
    return wire_decode_name(m->u.refused.reason, (const char *)b->p, WIRE_REASON_MAX);
}

/* ---- frames ---- */

#define FIXED(what) sizeof(struct wire_##what), sizeof(struct wire_##what), 0, wire_encode_##what, wire_decode_##what
#define EMPTY 0, 0, 0, encode_empty, decode_empty

static const struct codec codecs[] = {
    [MSG_HELLO] = {"HELLO", FIXED(hello)},
    [MSG_REFUSED] = {"REFUSED", FIXED(refused)},
    [MSG_QUERY] = {"QUERY", EMPTY},
    [MSG_QUERY_ACK] = {"QUERY_ACK", FIXED(holder)},
    [MSG_PREPARE] = {"PREPARE", FIXED(prepare)},
    [MSG_PROMISE] = {"PROMISE", sizeof(struct wire_promise), WIRE_BODY_MAX, 0, wire_encode_promise,
                     wire_decode_promise},
    [MSG_NACK] = {"NACK", FIXED(holder)},
    [MSG_FETCH] = {"FETCH", FIXED(fetch)},
    [MSG_VALUE] = {"VALUE", sizeof(struct wire_value), sizeof(struct wire_value) + WIRE_ENTRY_MAX, WIRE_PAYLOAD_MAX,
                   wire_encode_value, wire_decode_value},
    [MSG_OPEN] = {"OPEN", FIXED(open)},
    [MSG_OPENED] = {"OPENED", FIXED(opened)},
    [MSG_MISMATCH] = {"MISMATCH", sizeof(struct wire_mismatch), WIRE_BODY_MAX, 0, wire_encode_mismatch,
                      wire_decode_mismatch},
    [MSG_ACCEPT] = {"ACCEPT", sizeof(struct wire_accept) + WIRE_ENTRY_MIN, sizeof(struct wire_accept) + WIRE_ENTRY_MAX,
                    WIRE_PAYLOAD_MAX, wire_encode_accept, wire_decode_accept},
    [MSG_ACCEPTED] = {"ACCEPTED", FIXED(accepted)},
    [MSG_BEAT] = {"BEAT", FIXED(beat)},
    [MSG_BEAT_ACK] = {"BEAT_ACK", FIXED(beat_ack)},
    [MSG_RELEASE] = {"RELEASE", EMPTY},
    [MSG_FORCE] = {"FORCE", FIXED(force)},
    [MSG_READ] = {"READ", FIXED(read)},
    [MSG_DATA] = {"DATA", sizeof(struct wire_data), sizeof(struct wire_data) + ENTRY_MAX_BLOCKS * sizeof(uint32_t),
                  WIRE_PAYLOAD_MAX, wire_encode_data, wire_decode_data},
    [MSG_CATCHUP] = {"CATCHUP", FIXED(catchup)},
    [MSG_CATCHUP_ENTRY] = {"CATCHUP_ENTRY", WIRE_ENTRY_MIN, WIRE_ENTRY_MAX, WIRE_PAYLOAD_MAX, wire_encode_catchup_entry,
                           wire_decode_catchup_entry},
    [MSG_CATCHUP_END] = {"CATCHUP_END", FIXED(catchup_end)},
    [MSG_REGIONS] = {"REGIONS", FIXED(regions)},
    [MSG_REGIONS_REPLY] = {"REGIONS_REPLY", sizeof(struct wire_regions_reply),
                           sizeof(struct wire_regions_reply) + REGIONS_PER_MESSAGE * sizeof(struct listed_region), 0,
                           wire_encode_regions_reply, wire_decode_regions_reply},
    [MSG_CHUNKS] = {"CHUNKS", FIXED(chunks)},
    [MSG_CHUNKS_REPLY] = {"CHUNKS_REPLY", sizeof(struct wire_chunks_reply),
                          sizeof(struct wire_chunks_reply) + REGION_CHUNKS * sizeof(uint64_t), 0,
                          wire_encode_chunks_reply, wire_decode_chunks_reply},
    [MSG_IMAGE] = {"IMAGE", FIXED(image)},
    [MSG_IMAGE_REPLY] = {"IMAGE_REPLY", sizeof(struct wire_image_reply),
                         sizeof(struct wire_image_reply) + ENTRY_MAX_BLOCKS * sizeof(uint32_t), WIRE_PAYLOAD_MAX,
                         wire_encode_image_reply, wire_decode_image_reply},
    [MSG_DIGESTS] = {"DIGESTS", FIXED(digests)},
    [MSG_DIGESTS_REPLY] = {"DIGESTS_REPLY", sizeof(struct wire_digests_reply),
                           sizeof(struct wire_digests_reply) + REGION_CHUNKS * sizeof(struct chunk_digest), 0,
                           wire_encode_digests_reply, wire_decode_digests_reply},
    [MSG_CRCS] = {"CRCS", FIXED(crcs)},
    [MSG_CRCS_REPLY] = {"CRCS_REPLY", sizeof(struct wire_crcs_reply),
                        sizeof(struct wire_crcs_reply) + ENTRY_MAX_BLOCKS * sizeof(uint32_t), 0, wire_encode_crcs_reply,
                        wire_decode_crcs_reply},
    [MSG_CREATE] = {"CREATE", FIXED(create)},
    [MSG_CREATED] = {"CREATED", FIXED(created)},
    [MSG_STATUS] = {"STATUS", EMPTY},
    [MSG_STATUS_REPLY] = {"STATUS_REPLY", 0, WIRE_BODY_MAX, 0, wire_encode_status_reply, wire_decode_status_reply},
    [MSG_ADDRESS] = {"ADDRESS", FIXED(address)},
    [MSG_MEMBERS] = {"MEMBERS", FIXED(members)},
    [MSG_DONE] = {"DONE", FIXED(done)},
    [MSG_SCRUB] = {"SCRUB", FIXED(scrub)},
    [MSG_RECOVER] = {"RECOVER", EMPTY},
};

const char *wire_type_name(uint16_t type)
{
    return type < ARRAY_LEN(codecs) && codecs[type].name ? codecs[type].name : NULL;
}

struct entry *wire_msg_entry(const struct msg *m)
{
    switch (m->type) {
    case MSG_VALUE:
        return m->u.value.entry;
    case MSG_ACCEPT:
        return m->u.accept.entry;
    case MSG_CATCHUP_ENTRY:
        return m->u.catchup_entry.entry;
    default:
        return NULL;
    }
}

static uint32_t header_crc(const struct wire_header *h)
{
    struct wire_header w = *h;
    w.header_crc = 0;
    return crc32c(&w, sizeof w);
}

size_t wire_encode(const struct msg *m, uint32_t payload_len, uint8_t *to)
{
    assert(wire_type_name(m->type));
    const struct codec *c = &codecs[m->type];
    const struct entry *e = m->type == MSG_VALUE && !m->u.value.found ? NULL : wire_msg_entry(m);
    assert(payload_len == (m->type == MSG_DATA          ? m->u.data.payload_len
                           : m->type == MSG_IMAGE_REPLY ? m->u.image_reply.payload_len
                           : e                          ? entry_payload_bytes(e)
                                                        : 0));

    size_t body_len = c->encode(m, to + sizeof(struct wire_header));
    assert(body_len >= c->body_min && body_len <= c->body_max);
    struct wire_header h = {
        .magic = WIRE_MAGIC,
        .type = m->type,
        .body_len = (uint32_t)body_len,
        .payload_len = payload_len,
        .body_crc = crc32c(to + sizeof h, body_len),
        .cookie = m->cookie,
        .group = m->group,
        .ballot_round = m->ballot.round,
    };
    memcpy(h.target, m->target.b, sizeof h.target);
    memcpy(h.ballot_proposer, m->ballot.proposer.b, sizeof h.ballot_proposer);
    h.header_crc = header_crc(&h);
    memcpy(to, &h, sizeof h);
    return sizeof h + body_len;
}

const char *wire_check_header(const struct wire_header *h)
{
    if (h->magic != WIRE_MAGIC)
        return "not a frame of this protocol";
    if (h->header_crc != header_crc(h))
        return "a frame whose header has a wrong checksum";
    if (!wire_type_name(h->type) || h->flags != 0)
        return "a frame of an unknown type";
    const struct codec *c = &codecs[h->type];
    if (h->body_len < c->body_min || h->body_len > c->body_max)
        return "a frame whose body has a length that its type can't have";
    if (h->payload_len > c->payload_max || h->payload_len % BLOCK_SIZE != 0)
        return "a frame whose payload has a length that its type can't have";
    return NULL;
}

const char *wire_decode(struct arena *a, const struct wire_header *h, const uint8_t *body, struct msg *ret)
{
    assert((uintptr_t)body % sizeof(uint64_t) == 0);
    if (crc32c(body, h->body_len) != h->body_crc)
        return "a frame whose body has a wrong checksum";
    struct body b = {.arena = a, .p = body, .len = h->body_len, .payload_len = h->payload_len, .group = h->group};
    ret->type = h->type;
    ret->cookie = h->cookie;
    ret->group = h->group;
    ret->ballot.round = h->ballot_round;
    memcpy(ret->target.b, h->target, sizeof h->target);
    memcpy(ret->ballot.proposer.b, h->ballot_proposer, sizeof h->ballot_proposer);
    return codecs[h->type].decode(&b, ret);
}
