/* Frames: fields that must be refused, one by one. */
#include "tests/unit/wire_samples.h"

#include <stdlib.h>

static _Alignas(8) uint8_t frame[FRAME_MAX];

struct bad_field {
    uint16_t type;
    unsigned nth; /* sample of that type */
    size_t offset, size;
    uint64_t value;
};

#define BAD(type, nth, of, member, value) {type, nth, offsetof(struct of, member), sizeof(((struct of *)0)->member), value}
#define BAD_BYTE(type, nth, offset, value) {type, nth, offset, 1, value}

static const struct bad_field bad_fields[] = {
    BAD(MSG_HELLO, 0, wire_hello, role, 0),
    BAD(MSG_HELLO, 0, wire_hello, role, 4),
    BAD(MSG_NACK, 0, wire_holder, unknown, 2),
    BAD(MSG_NACK, 0, wire_holder, full, 2),
    BAD(MSG_NACK, 0, wire_holder, retired, 2),
    BAD(MSG_NACK, 0, wire_holder, membership.slot, 1),
    BAD(MSG_QUERY_ACK, 0, wire_holder, membership.n_voters, MEMBERS_MAX + 1),
    BAD(MSG_QUERY_ACK, 0, wire_holder, membership.n_voters, 4),
    BAD(MSG_NACK, 0, wire_holder, reserved, 1),
    BAD_BYTE(MSG_NACK, 0, offsetof(struct wire_holder, name) + NAME_MAX_BYTES - 1, 'x'),
    BAD_BYTE(MSG_REFUSED, 0, sizeof(struct wire_refused) - 1, 'x'),
    BAD(MSG_PROMISE, 1, wire_promise, n_runs, RUNS_MAX + 1),
    BAD(MSG_PROMISE, 1, wire_promise, n_runs, 4),
    BAD(MSG_PROMISE, 1, wire_promise, n_runs, UINT32_MAX),
    BAD(MSG_PROMISE, 1, wire_promise, n_lost, LOST_MAX + 1),
    BAD(MSG_PROMISE, 1, wire_promise, n_memberships, 3),
    BAD(MSG_PROMISE, 1, wire_promise, n_memberships, 0),
    BAD(MSG_PROMISE, 1, wire_promise, needs_copy, 2),
    BAD(MSG_PROMISE, 1, wire_promise, retired, 2),
    BAD(MSG_PROMISE, 1, wire_promise, reserved, 1),
    BAD(MSG_PROMISE, 1, wire_promise, base.slot, 999),
    BAD(MSG_PROMISE, 1, wire_promise, base.slot, 1001),
    BAD(MSG_PROMISE, 1, wire_promise, credits.growing, 2),
    BAD(MSG_OPENED, 0, wire_opened, credits.growing, 2),
    BAD(MSG_OPENED, 0, wire_opened, needs_copy, 2),
    BAD(MSG_OPENED, 0, wire_opened, reserved, 1),
    BAD(MSG_ACCEPTED, 0, wire_accepted, needs_copy, 2),
    BAD(MSG_ACCEPTED, 0, wire_accepted, reserved, 1),
    BAD(MSG_BEAT_ACK, 0, wire_beat_ack, needs_copy, 2),
    BAD(MSG_BEAT_ACK, 0, wire_beat_ack, retired, 2),
    BAD(MSG_MISMATCH, 0, wire_mismatch, base.slot, UINT64_MAX),
    BAD(MSG_MISMATCH, 0, wire_mismatch, n_lost, 4),
    BAD(MSG_VALUE, 0, wire_value, at.slot, 1),
    BAD(MSG_VALUE, 0, wire_value, found, 0),
    BAD(MSG_VALUE, 0, wire_value, found, 2),
    BAD(MSG_VALUE, 0, wire_value, reserved, 1),
    BAD(MSG_READ, 0, wire_read, nblocks, 0),
    BAD(MSG_READ, 0, wire_read, nblocks, ENTRY_MAX_BLOCKS + 1),
    BAD(MSG_READ, 0, wire_read, block, UINT64_MAX),
    BAD(MSG_READ, 0, wire_read, block, (UINT64_MAX >> BLOCK_SHIFT) - ENTRY_MAX_BLOCKS + 1),
    BAD(MSG_READ, 0, wire_read, reserved, 1),
    BAD(MSG_DATA, 0, wire_data, status, 4),
    BAD(MSG_DATA, 0, wire_data, nblocks, 199),
    BAD(MSG_DATA, 0, wire_data, nblocks, UINT32_MAX),
    BAD(MSG_DATA, 0, wire_data, zero[0], 1),   /* another payload length */
    BAD(MSG_DATA, 0, wire_data, zero[0], 6),   /* block 1 is not one of zeroes */
    BAD(MSG_DATA, 1, wire_data, zero[0], 2),   /* outside of the range */
    BAD(MSG_DATA, 1, wire_data, status, DATA_BAD),
    BAD(MSG_DATA, 3, wire_data, zero[1], 1),
    BAD(MSG_DATA, 3, wire_data, status, DATA_OK),
    BAD(MSG_CATCHUP_END, 0, wire_catchup_end, status, 3),
    BAD(MSG_CATCHUP_END, 0, wire_catchup_end, reserved, 1),
    BAD(MSG_REGIONS_REPLY, 0, wire_regions_reply, status, DONOR_BUSY + 1),
    BAD(MSG_REGIONS_REPLY, 0, wire_regions_reply, status, DONOR_BEHIND),
    BAD(MSG_REGIONS_REPLY, 0, wire_regions_reply, n, 1),
    BAD(MSG_REGIONS_REPLY, 0, wire_regions_reply, n, UINT32_MAX),
    BAD(MSG_REGIONS_REPLY, 0, wire_regions_reply, more, 2),
    BAD(MSG_REGIONS_REPLY, 0, wire_regions_reply, reserved, 1),
    BAD(MSG_REGIONS_REPLY, 0, wire_regions_reply, membership.n_voters, 0),
    {MSG_REGIONS_REPLY, 0, sizeof(struct wire_regions_reply), sizeof(uint32_t), UINT32_MAX}, /* not ascending */
    {MSG_REGIONS_REPLY, 1, sizeof(struct wire_regions_reply) + 777 * sizeof(struct listed_region), sizeof(uint32_t), 5},
    BAD(MSG_REGIONS_REPLY, 2, wire_regions_reply, at.slot, 1),
    BAD(MSG_REGIONS_REPLY, 2, wire_regions_reply, more, 1),
    BAD(MSG_REGIONS_REPLY, 2, wire_regions_reply, status, DONOR_OK),
    BAD(MSG_CHUNKS, 0, wire_chunks, reserved, 1),
    BAD(MSG_CHUNKS_REPLY, 0, wire_chunks_reply, status, DONOR_BUSY + 1),
    BAD(MSG_CHUNKS_REPLY, 0, wire_chunks_reply, status, DONOR_BUSY),
    BAD(MSG_CHUNKS_REPLY, 1, wire_chunks_reply, status, DONOR_OK),
    BAD(MSG_CHUNKS_REPLY, 1, wire_chunks_reply, changed, 1),
    BAD(MSG_CHUNKS_REPLY, 1, wire_chunks_reply, at.e.round, 1),
    BAD(MSG_IMAGE, 0, wire_image, nblocks, 0),
    BAD(MSG_IMAGE, 0, wire_image, nblocks, ENTRY_MAX_BLOCKS + 1),
    BAD(MSG_IMAGE, 0, wire_image, block, UINT64_MAX),
    BAD(MSG_IMAGE, 0, wire_image, reserved, 1),
    BAD(MSG_IMAGE_REPLY, 0, wire_image_reply, status, DONOR_BUSY + 1),
    BAD(MSG_IMAGE_REPLY, 0, wire_image_reply, status, DONOR_BEHIND),
    BAD(MSG_IMAGE_REPLY, 0, wire_image_reply, bad[0], 1),  /* another payload length */
    BAD(MSG_IMAGE_REPLY, 0, wire_image_reply, lost[0], 2), /* outside of the range */
    BAD(MSG_IMAGE_REPLY, 1, wire_image_reply, nblocks, 199),
    BAD(MSG_IMAGE_REPLY, 1, wire_image_reply, nblocks, UINT32_MAX),
    BAD(MSG_IMAGE_REPLY, 1, wire_image_reply, block, UINT64_MAX),
    BAD(MSG_IMAGE_REPLY, 1, wire_image_reply, zero[0], 7), /* block 1 is bad as well */
    BAD(MSG_IMAGE_REPLY, 1, wire_image_reply, zero[0], 9), /* block 3 is not one of zeroes */
    BAD(MSG_IMAGE_REPLY, 1, wire_image_reply, bad[1], 1),  /* block 64 is lost as well */
    BAD(MSG_IMAGE_REPLY, 1, wire_image_reply, bad[0], 8),  /* block 3 has a checksum */
    BAD(MSG_IMAGE_REPLY, 3, wire_image_reply, status, DONOR_OK),
    BAD(MSG_IMAGE_REPLY, 3, wire_image_reply, nblocks, 0),
    BAD(MSG_IMAGE_REPLY, 3, wire_image_reply, wal_ns, 1),
    BAD(MSG_IMAGE_REPLY, 3, wire_image_reply, changed_at, 1),
    BAD(MSG_IMAGE_REPLY, 3, wire_image_reply, lost[3], 1),
    BAD(MSG_DIGESTS, 0, wire_digests, reserved, 1),
    BAD(MSG_DIGESTS_REPLY, 0, wire_digests_reply, status, DONOR_BUSY + 1),
    BAD(MSG_DIGESTS_REPLY, 0, wire_digests_reply, status, DONOR_BUSY),
    BAD(MSG_DIGESTS_REPLY, 0, wire_digests_reply, next, 7),
    BAD(MSG_DIGESTS_REPLY, 0, wire_digests_reply, next, 0),
    BAD(MSG_DIGESTS_REPLY, 0, wire_digests_reply, reserved, 1),
    BAD(MSG_DIGESTS_REPLY, 0, wire_digests_reply, applied, 629),   /* the last chunk changed at 630 */
    BAD(MSG_DIGESTS_REPLY, 0, wire_digests_reply, comparable, 1), /* the others have content */
    {MSG_DIGESTS_REPLY, 0, sizeof(struct wire_digests_reply) + sizeof(struct chunk_digest) + 8, 8, 1},
    BAD(MSG_DIGESTS_REPLY, 1, wire_digests_reply, status, DONOR_OK),
    BAD(MSG_DIGESTS_REPLY, 1, wire_digests_reply, applied, 1),
    BAD(MSG_DIGESTS_REPLY, 1, wire_digests_reply, comparable, 1),
    BAD(MSG_DIGESTS_REPLY, 1, wire_digests_reply, next, 1),
    BAD(MSG_CRCS, 0, wire_crcs, block, 1),
    BAD(MSG_CRCS, 0, wire_crcs, block, UINT64_C(0) - ENTRY_MAX_BLOCKS),
    BAD(MSG_CRCS_REPLY, 0, wire_crcs_reply, status, DONOR_BUSY + 1),
    BAD(MSG_CRCS_REPLY, 0, wire_crcs_reply, status, DONOR_BEHIND),
    BAD(MSG_CRCS_REPLY, 0, wire_crcs_reply, nblocks, 0),
    BAD(MSG_CRCS_REPLY, 0, wire_crcs_reply, nblocks, 1),
    BAD(MSG_CRCS_REPLY, 0, wire_crcs_reply, nblocks, ENTRY_MAX_BLOCKS + 1),
    BAD(MSG_CRCS_REPLY, 0, wire_crcs_reply, block, 5),
    BAD(MSG_CRCS_REPLY, 0, wire_crcs_reply, changed_at, 31),
    BAD(MSG_CRCS_REPLY, 2, wire_crcs_reply, status, DONOR_OK),
    BAD(MSG_CRCS_REPLY, 2, wire_crcs_reply, applied, 1),
    BAD(MSG_SCRUB, 0, wire_scrub, flags, 2),
    BAD(MSG_SCRUB, 0, wire_scrub, reserved, 1),
    BAD(MSG_CREATE, 0, wire_create, size_blocks, 0),
    BAD(MSG_CREATE, 0, wire_create, size_blocks, UINT64_MAX),
    BAD(MSG_CREATE, 0, wire_create, membership.n_voters, 0),
    BAD(MSG_CREATE, 0, wire_create, membership.n_voters, MEMBERS_MAX + 1),
    BAD(MSG_CREATE, 0, wire_create, membership.n_learners, MEMBERS_MAX + 1),
    BAD(MSG_CREATE, 0, wire_create, membership.n_learners, 255),
    BAD(MSG_CREATED, 0, wire_created, error, UINT32_MAX),
    BAD(MSG_CREATED, 0, wire_created, reserved, 1),
    BAD_BYTE(MSG_ADDRESS, 0, offsetof(struct wire_address, identity) + 15, 0),
    BAD_BYTE(MSG_ADDRESS, 0, offsetof(struct wire_address, name), 0),
    BAD_BYTE(MSG_ADDRESS, 0, offsetof(struct wire_address, name) + NAME_MAX_BYTES - 1, 'x'),
    BAD_BYTE(MSG_ADDRESS, 0, offsetof(struct wire_address, address), 0),
    BAD_BYTE(MSG_ADDRESS, 0, offsetof(struct wire_address, address) + ADDRESS_MAX_BYTES - 1, 'x'),
    BAD(MSG_MEMBERS, 0, wire_members, verb, 0),
    BAD(MSG_MEMBERS, 0, wire_members, verb, 4),
    BAD(MSG_MEMBERS, 0, wire_members, verb, MEMBERS_LEARN),
    BAD(MSG_MEMBERS, 0, wire_members, reserved, 1),
    BAD(MSG_MEMBERS, 0, wire_members, membership.n_voters, 0),
    BAD(MSG_DONE, 0, wire_done, error, UINT32_MAX),
    BAD(MSG_DONE, 0, wire_done, error, 4096),
    BAD(MSG_DONE, 0, wire_done, reserved, 1),
    BAD_BYTE(MSG_DONE, 0, sizeof(struct wire_done) - 1, 'x'),
    BAD_BYTE(MSG_ACCEPT, 0, sizeof(struct wire_accept) + offsetof(struct entry_format, group), 1),
    BAD_BYTE(MSG_ACCEPT, 0, sizeof(struct wire_accept) + offsetof(struct entry_format, kind), 99),
    BAD_BYTE(MSG_ACCEPT, 0, sizeof(struct wire_accept) + offsetof(struct entry_format, kind), ENTRY_TRIM),
    BAD_BYTE(MSG_ACCEPT, 1, sizeof(struct wire_accept) + offsetof(struct entry_format, nblocks), 2),
};

static void each_bad_field_is_refused(void **state)
{
    for (unsigned i = 0; i < ARRAY_LEN(bad_fields); i++) {
        const struct bad_field *f = &bad_fields[i];
        const struct sample *s = nth_sample(f->type, f->nth);
        struct wire_header h;
        struct msg m;
        void *memory;
        wire_encode(&s->m, s->payload_len, frame);
        memcpy(&h, frame, sizeof h);
        assert_true(f->offset + f->size <= h.body_len);
        memcpy(frame + sizeof h + f->offset, &f->value, f->size);
        seal(&h, frame + sizeof h);
        const char *why = decode_exact(&h, frame + sizeof h, &m, &memory);
        free(memory);
        if (!why)
            fail_msg("bad field %u of %s was accepted", i, wire_type_name(f->type));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(each_bad_field_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
