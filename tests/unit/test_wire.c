/* Frames: every message there and back, every mutilation refused. */
#include "tests/unit/wire_samples.h"

#include <stdlib.h>

#include "base/crc32c.h"

static _Alignas(8) uint8_t frame[FRAME_MAX];

static void assert_same_entry(const struct entry *a, const struct entry *b)
{
    uint8_t x[WIRE_ENTRY_MAX], y[WIRE_ENTRY_MAX];
    assert_int_equal(entry_encoded_bytes(a), entry_encoded_bytes(b));
    entry_encode(a, x);
    entry_encode(b, y);
    assert_memory_equal(x, y, entry_encoded_bytes(a));
}

/* Compares field by field, pointers by what they point at. */
static void assert_same(const struct msg *a, const struct msg *b)
{
    struct msg x = *a, y = *b;
    switch (a->type) {
    case MSG_PROMISE:
        assert_memory_equal(a->u.promise.runs, b->u.promise.runs, a->u.promise.n_runs * sizeof(struct run));
        assert_memory_equal(a->u.promise.lost, b->u.promise.lost, a->u.promise.n_lost * sizeof(uint64_t));
        assert_memory_equal(a->u.promise.memberships, b->u.promise.memberships, a->u.promise.n_memberships * sizeof(struct membership));
        x.u.promise.runs = y.u.promise.runs = NULL;
        x.u.promise.lost = y.u.promise.lost = NULL;
        x.u.promise.memberships = y.u.promise.memberships = NULL;
        break;
    case MSG_MISMATCH:
        assert_memory_equal(a->u.mismatch.runs, b->u.mismatch.runs, a->u.mismatch.n_runs * sizeof(struct run));
        assert_memory_equal(a->u.mismatch.lost, b->u.mismatch.lost, a->u.mismatch.n_lost * sizeof(uint64_t));
        x.u.mismatch.runs = y.u.mismatch.runs = NULL;
        x.u.mismatch.lost = y.u.mismatch.lost = NULL;
        break;
    case MSG_DATA:
        if (a->u.data.status == DATA_OK) {
            assert_memory_equal(a->u.data.crc, b->u.data.crc, a->u.data.nblocks * sizeof(uint32_t));
            assert_memory_equal(a->u.data.zero, b->u.data.zero, WIRE_ZERO_WORDS * sizeof(uint64_t));
        } else {
            assert_null(b->u.data.crc);
            assert_null(b->u.data.zero);
        }
        x.u.data.crc = y.u.data.crc = NULL;
        x.u.data.zero = y.u.data.zero = NULL;
        break;
    case MSG_REGIONS_REPLY:
        if (a->u.regions_reply.n > 0)
            assert_memory_equal(a->u.regions_reply.region, b->u.regions_reply.region, a->u.regions_reply.n * sizeof(struct listed_region));
        x.u.regions_reply.region = y.u.regions_reply.region = NULL;
        break;
    case MSG_CHUNKS_REPLY:
        if (a->u.chunks_reply.status == DONOR_OK)
            assert_memory_equal(a->u.chunks_reply.changed_at, b->u.chunks_reply.changed_at, REGION_CHUNKS * sizeof(uint64_t));
        else
            assert_null(b->u.chunks_reply.changed_at);
        x.u.chunks_reply.changed_at = y.u.chunks_reply.changed_at = NULL;
        break;
    case MSG_IMAGE_REPLY:
        if (a->u.image_reply.status == DONOR_OK) {
            assert_memory_equal(a->u.image_reply.crc, b->u.image_reply.crc, a->u.image_reply.nblocks * sizeof(uint32_t));
            assert_memory_equal(a->u.image_reply.zero, b->u.image_reply.zero, WIRE_ZERO_WORDS * sizeof(uint64_t));
            assert_memory_equal(a->u.image_reply.bad, b->u.image_reply.bad, WIRE_ZERO_WORDS * sizeof(uint64_t));
            assert_memory_equal(a->u.image_reply.lost, b->u.image_reply.lost, WIRE_ZERO_WORDS * sizeof(uint64_t));
        } else {
            assert_null(b->u.image_reply.crc);
            assert_null(b->u.image_reply.zero);
        }
        x.u.image_reply.crc = y.u.image_reply.crc = NULL;
        x.u.image_reply.zero = y.u.image_reply.zero = NULL;
        x.u.image_reply.bad = y.u.image_reply.bad = NULL;
        x.u.image_reply.lost = y.u.image_reply.lost = NULL;
        break;
    case MSG_DIGESTS_REPLY:
        if (a->u.digests_reply.status == DONOR_OK)
            assert_memory_equal(a->u.digests_reply.chunk, b->u.digests_reply.chunk, REGION_CHUNKS * sizeof(struct chunk_digest));
        else
            assert_null(b->u.digests_reply.chunk);
        x.u.digests_reply.chunk = y.u.digests_reply.chunk = NULL;
        break;
    case MSG_CRCS_REPLY:
        if (a->u.crcs_reply.status == DONOR_OK)
            assert_memory_equal(a->u.crcs_reply.crc, b->u.crcs_reply.crc, a->u.crcs_reply.nblocks * sizeof(uint32_t));
        else
            assert_null(b->u.crcs_reply.crc);
        x.u.crcs_reply.crc = y.u.crcs_reply.crc = NULL;
        break;
    case MSG_STATUS_REPLY:
        assert_memory_equal(a->u.status_reply.json, b->u.status_reply.json, a->u.status_reply.len);
        x.u.status_reply.json = y.u.status_reply.json = NULL;
        break;
    case MSG_ACCEPT:
        assert_same_entry(a->u.accept.entry, b->u.accept.entry);
        x.u.accept.entry = y.u.accept.entry = NULL;
        break;
    case MSG_CATCHUP_ENTRY:
        assert_same_entry(a->u.catchup_entry.entry, b->u.catchup_entry.entry);
        x.u.catchup_entry.entry = y.u.catchup_entry.entry = NULL;
        break;
    case MSG_VALUE:
        assert_int_equal(!a->u.value.entry, !b->u.value.entry);
        if (a->u.value.entry)
            assert_same_entry(a->u.value.entry, b->u.value.entry);
        x.u.value.entry = y.u.value.entry = NULL;
        break;
    }
    assert_memory_equal(&x, &y, sizeof x);
}

static void every_type_has_a_sample(void **state)
{
    unsigned types = 0;
    for (unsigned t = 0; t <= UINT16_MAX; t++) {
        if (!wire_type_name((uint16_t)t))
            continue;
        types++;
        bool found = false;
        for (unsigned i = 0; i < n_samples; i++)
            found |= samples[i].m.type == t;
        if (!found)
            fail_msg("no sample of %s", wire_type_name((uint16_t)t));
    }
    assert_int_equal(types, 42);
}

static void every_message_comes_back_as_it_was(void **state)
{
    static _Alignas(8) uint8_t again[FRAME_MAX];
    for (unsigned i = 0; i < n_samples; i++) {
        const struct sample *s = &samples[i];
        struct wire_header h;
        struct msg m;
        void *memory = NULL;
        size_t len = wire_encode(&s->m, s->payload_len, frame);
        memcpy(&h, frame, sizeof h);
        const char *why = wire_check_header(&h);
        if (!why)
            why = decode_exact(&h, frame + sizeof h, &m, &memory);
        if (why)
            fail_msg("sample %u (%s): %s", i, wire_type_name(s->m.type), why);
        assert_int_equal(len, sizeof h + h.body_len);
        assert_int_equal(h.payload_len, s->payload_len);
        assert_same(&s->m, &m);
        assert_int_equal(wire_encode(&m, s->payload_len, again), len);
        assert_memory_equal(frame, again, len);
        entry_unref(wire_msg_entry(&m));
        free(memory);
    }
}

static void no_bit_of_a_header_may_change(void **state)
{
    for (unsigned i = 0; i < n_samples; i++) {
        struct wire_header h;
        wire_encode(&samples[i].m, samples[i].payload_len, frame);
        for (unsigned bit = 0; bit < 8 * sizeof h; bit++) {
            memcpy(&h, frame, sizeof h);
            ((uint8_t *)&h)[bit / 8] ^= (uint8_t)(1 << bit % 8);
            assert_non_null(wire_check_header(&h));
        }
    }
}

static void headers_out_of_bounds_are_refused(void **state)
{
    for (unsigned i = 0; i < n_samples; i++) {
        struct wire_header h;
        wire_encode(&samples[i].m, samples[i].payload_len, frame);
        memcpy(&h, frame, sizeof h);
        struct wire_header good = h;
        uint32_t lengths[] = {WIRE_BODY_MAX + 1, UINT32_MAX, 1u << 31};
        for (unsigned k = 0; k < ARRAY_LEN(lengths); k++) {
            h = good;
            h.body_len = lengths[k];
            h.header_crc = 0;
            h.header_crc = crc32c(&h, sizeof h);
            assert_non_null(wire_check_header(&h));
        }
        uint32_t payloads[] = {1, 4095, 4097, WIRE_PAYLOAD_MAX + BLOCK_SIZE, UINT32_MAX, UINT32_MAX - 4095};
        for (unsigned k = 0; k < ARRAY_LEN(payloads); k++) {
            h = good;
            h.payload_len = payloads[k];
            seal(&h, frame + sizeof h);
            assert_non_null(wire_check_header(&h));
        }
        h = good;
        h.flags = 1;
        seal(&h, frame + sizeof h);
        assert_non_null(wire_check_header(&h));
    }
    struct wire_header h;
    wire_encode(&samples[0].m, 0, frame);
    memcpy(&h, frame, sizeof h);
    uint16_t types[] = {0, 3, 15, 32, 79, 84, 255, 256, UINT16_MAX};
    for (unsigned k = 0; k < ARRAY_LEN(types); k++) {
        h.type = types[k];
        seal(&h, frame + sizeof h);
        assert_non_null(wire_check_header(&h));
    }
}

/* Every length from 0 on: the checksum refuses it; with the right checksum the lengths inside do. */
static void every_truncation_is_refused(void **state)
{
    for (unsigned i = 0; i < n_samples; i++) {
        const struct sample *s = &samples[i];
        struct wire_header h, cut;
        wire_encode(&s->m, s->payload_len, frame);
        memcpy(&h, frame, sizeof h);
        uint32_t step = h.body_len > 8192 ? 509 : 1;
        for (uint32_t len = 0; len < h.body_len; len += step) {
            struct msg m;
            void *memory;
            cut = h;
            cut.body_len = len;
            assert_non_null(wire_check_header(&cut));
            seal(&cut, frame + sizeof h);
            if (wire_check_header(&cut))
                continue;
            const char *why = decode_exact(&cut, frame + sizeof h, &m, &memory);
            free(memory);
            if (!why && h.type != MSG_STATUS_REPLY) /* any text is one */
                fail_msg("sample %u (%s): cut to %u of %u bytes and accepted", i, wire_type_name(h.type), len, h.body_len);
        }
    }
}

static void a_body_that_is_too_long_is_refused(void **state)
{
    for (unsigned i = 0; i < n_samples; i++) {
        const struct sample *s = &samples[i];
        struct wire_header h;
        struct msg m;
        void *memory;
        wire_encode(&s->m, s->payload_len, frame);
        memcpy(&h, frame, sizeof h);
        if (h.type == MSG_STATUS_REPLY)
            continue;
        for (unsigned more = 1; more <= 40; more++) {
            memset(frame + sizeof h + h.body_len, more & 1 ? 0 : 0xff, more);
            struct wire_header longer = h;
            longer.body_len += more;
            seal(&longer, frame + sizeof h);
            if (wire_check_header(&longer))
                continue;
            const char *why = decode_exact(&longer, frame + sizeof h, &m, &memory);
            free(memory);
            if (!why)
                fail_msg("sample %u (%s): %u bytes too long and accepted", i, wire_type_name(h.type), more);
        }
    }
}

/* What wire_decode lets through, wire_encode's assertions hold for: that is what "validated at the border" means. */
static void flipped_bits_are_refused_or_harmless(void **state)
{
    static _Alignas(8) uint8_t again[FRAME_MAX];
    unsigned accepted = 0, refused = 0;
    for (unsigned i = 0; i < n_samples; i++) {
        const struct sample *s = &samples[i];
        struct wire_header h;
        struct msg m;
        void *memory;
        wire_encode(&s->m, s->payload_len, frame);
        memcpy(&h, frame, sizeof h);
        if (h.body_len == 0)
            continue;
        unsigned tries = h.body_len < 512 ? 8 * h.body_len : 500;
        for (unsigned k = 0; k < tries; k++) {
            uint32_t bit = h.body_len < 512 ? k : (uint32_t)(next_random() % (8 * (uint64_t)h.body_len));
            uint8_t *b = frame + sizeof h + bit / 8;
            *b ^= (uint8_t)(1 << bit % 8);
            assert_non_null(decode_exact(&h, frame + sizeof h, &m, &memory)); /* the checksum covers it */
            free(memory);
            struct wire_header sealed = h;
            seal(&sealed, frame + sizeof h);
            if (decode_exact(&sealed, frame + sizeof h, &m, &memory) == NULL) {
                accepted++;
                assert_int_equal(wire_encode(&m, s->payload_len, again), sizeof h + h.body_len);
                entry_unref(wire_msg_entry(&m));
            } else {
                refused++;
            }
            free(memory);
            *b ^= (uint8_t)(1 << bit % 8);
        }
    }
    assert_true(accepted > 1000 && refused > 1000);
}

static void random_bodies_are_survived(void **state)
{
    static _Alignas(8) uint8_t body[4096];
    for (unsigned k = 0; k < 8000; k++) {
        const struct sample *s = &samples[next_random() % n_samples];
        struct wire_header h;
        struct msg m;
        void *memory = NULL;
        wire_encode(&s->m, s->payload_len, frame);
        memcpy(&h, frame, sizeof h);
        if (h.body_len > sizeof body)
            continue;
        memcpy(body, frame + sizeof h, h.body_len);
        for (unsigned n = 1 + next_random() % 16; n && h.body_len; n--)
            body[next_random() % h.body_len] = next_random() & 1 ? (uint8_t)next_random() : next_random() & 1 ? 0 : 0xff;
        seal(&h, body);
        if (wire_check_header(&h) == NULL && decode_exact(&h, body, &m, &memory) == NULL)
            entry_unref(wire_msg_entry(&m));
        free(memory);
    }
}

static void entries_are_made_beyond_the_limit(void **state)
{
    struct arena *small = arena_new(4096);
    struct buf *all = buf_alloc(small, 4096);
    const struct sample *s = nth_sample(MSG_ACCEPT, 1);
    struct wire_header h;
    struct msg m;
    assert_non_null(all);
    wire_encode(&s->m, s->payload_len, frame);
    memcpy(&h, frame, sizeof h);
    assert_null(wire_decode(small, &h, frame + sizeof h, &m));
    assert_same_entry(m.u.accept.entry, s->m.u.accept.entry);
    assert_ptr_equal(m.u.accept.entry->meta->arena, small);
    entry_unref(m.u.accept.entry);
    buf_unref(all);
    arena_free(small);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(every_type_has_a_sample),
        TEST(every_message_comes_back_as_it_was),
        TEST(no_bit_of_a_header_may_change),
        TEST(headers_out_of_bounds_are_refused),
        TEST(every_truncation_is_refused),
        TEST(a_body_that_is_too_long_is_refused),
        TEST(flipped_bits_are_refused_or_harmless),
        TEST(random_bodies_are_survived),
        TEST(entries_are_made_beyond_the_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
