/* Entries: ownership, checksums, and a decoder that takes nothing malformed. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/crc32c.h"
#include "base/entry.h"

#define MAX_ENCODED (sizeof(struct entry_format) + ENTRY_MAX_BLOCKS * sizeof(uint32_t))

static struct arena *arena;

static int setup(void **state)
{
    arena = arena_new(64u << 20);
    return arena ? 0 : -1;
}

/* arena_free() asserts that every test gave everything back. */
static int teardown(void **state)
{
    arena_free(arena);
    return 0;
}

static void stamp(struct entry *e)
{
    e->group = 0x1122334455667788;
    e->slot = 77;
    e->e.round = 3;
    for (unsigned i = 0; i < 16; i++)
        e->e.proposer.b[i] = (uint8_t)(i + 1);
}

static struct entry *make_write(uint64_t block, uint32_t nblocks)
{
    struct buf *payload = buf_alloc(arena, (nblocks + 1) * BLOCK_SIZE);
    for (uint32_t i = 0; i < payload->cap; i++)
        payload->data[i] = (uint8_t)(i * 13 + (i >> 12));
    struct entry *e = entry_new(arena, ENTRY_WRITE, block, nblocks, payload, BLOCK_SIZE);
    assert_non_null(e);
    for (uint32_t i = 0; i < nblocks; i++)
        entry_crcs(e)[i] = crc32c(entry_block_data(e, i), BLOCK_SIZE);
    stamp(e);
    return e;
}

static struct entry *make(enum entry_kind kind)
{
    struct entry *e;
    switch (kind) {
    case ENTRY_WRITE:
        return make_write(1000, 3);
    case ENTRY_TRIM:
    case ENTRY_ZERO:
        e = entry_new(arena, kind, 5, ENTRY_MAX_RANGE_BLOCKS, NULL, 0);
        break;
    default:
        e = entry_new(arena, kind, 0, 0, NULL, 0);
    }
    assert_non_null(e);
    stamp(e);
    if (kind == ENTRY_MEMBER) {
        struct membership *m = &e->u[0].membership;
        m->slot = e->slot;
        m->n_voters = 3;
        m->n_learners = 1;
        for (unsigned i = 0; i < 3; i++)
            m->voter[i].b[i] = 1;
        m->learner[0].b[9] = 1;
    }
    return e;
}

static void test_ownership(void **state)
{
    struct entry *e = make_write(0, 2);
    struct buf *payload = buf_ref(e->payload);
    assert_int_equal(entry_payload_bytes(e), 2 * BLOCK_SIZE);
    entry_ref(e);
    entry_unref(e);
    assert_int_equal(payload->refs, 2);
    entry_unref(e);
    assert_int_equal(payload->refs, 1);
    buf_unref(payload);
    entry_unref(NULL);
}

static void test_new_at_the_limit_leaves_the_payload(void **state)
{
    struct arena *small = arena_new(BLOCK_SIZE);
    struct buf *payload = buf_alloc(small, BLOCK_SIZE);
    assert_null(entry_new(small, ENTRY_WRITE, 0, 1, payload, 0));
    assert_int_equal(payload->refs, 1);
    buf_unref(payload);
    arena_free(small);
}

static void test_verify_names_the_bad_block(void **state)
{
    struct entry *e = make_write(0, 5);
    assert_int_equal(entry_verify(e), -1);
    e->payload->data[e->payload_off + 3 * BLOCK_SIZE + 100] ^= 1;
    assert_int_equal(entry_verify(e), 3);
    e->payload->data[e->payload_off] ^= 0x80;
    assert_int_equal(entry_verify(e), 0);
    entry_unref(e);
    e = make(ENTRY_TRIM);
    assert_int_equal(entry_verify(e), -1);
    entry_unref(e);
}

static void test_round_trip_and_every_truncation(void **state)
{
    for (unsigned kind = ENTRY_WRITE; kind <= ENTRY_MEMBER; kind++) {
        struct entry *e = make(kind);
        size_t n = entry_encoded_bytes(e);
        assert_int_equal(n % 4, 0);
        assert_true(n <= MAX_ENCODED);
        uint8_t *bytes = malloc(n);
        entry_encode(e, bytes);
        /* In a buffer of exactly its length, so that the sanitizer sees a read beyond. */
        for (size_t len = 0; len < n; len++) {
            uint8_t *cut = malloc(len);
            struct entry *none = NULL;
            size_t used = 99;
            if (len)
                memcpy(cut, bytes, len);
            assert_int_equal(entry_decode(arena, cut, len, &none, &used), -EBADMSG);
            assert_null(none);
            assert_int_equal(used, 99);
            free(cut);
        }
        struct entry *d;
        size_t used;
        assert_int_equal(entry_decode(arena, bytes, n, &d, &used), 0);
        assert_int_equal(used, n);
        assert_int_equal(d->kind, kind);
        assert_int_equal(d->block, e->block);
        assert_int_equal(d->nblocks, e->nblocks);
        assert_int_equal(d->group, e->group);
        assert_int_equal(d->slot, e->slot);
        assert_true(ballot_equal(&d->e, &e->e));
        assert_null(d->payload);
        uint8_t *again = malloc(n);
        entry_encode(d, again);
        assert_memory_equal(again, bytes, n);
        entry_unref(d);
        entry_unref(e);
        free(again);
        free(bytes);
    }
}

static void test_decode_takes_only_its_own_bytes(void **state)
{
    struct entry *e = make_write(7, ENTRY_MAX_BLOCKS);
    uint8_t bytes[MAX_ENCODED + 100] = {0};
    entry_encode(e, bytes);
    struct entry *d;
    size_t used;
    assert_int_equal(entry_decode(arena, bytes, sizeof bytes, &d, &used), 0);
    assert_int_equal(used, MAX_ENCODED);
    assert_memory_equal(entry_crcs(d), entry_crcs(e), ENTRY_MAX_BLOCKS * sizeof(uint32_t));
    /* With the payload set, it is the same entry. */
    d->payload = buf_ref(e->payload);
    d->payload_off = e->payload_off;
    assert_int_equal(entry_verify(d), -1);
    entry_unref(d);
    entry_unref(e);
}

static int decode_format(const struct entry_format *f)
{
    uint8_t bytes[MAX_ENCODED + 300] = {0};
    struct entry *e = NULL;
    size_t used;
    memcpy(bytes, f, sizeof *f);
    int err = entry_decode(arena, bytes, sizeof bytes, &e, &used);
    assert_true((err == 0) == (e != NULL));
    entry_unref(e);
    return err;
}

static void test_malformed(void **state)
{
    const struct entry_format good = {
        .group = 1, .slot = 1, .e_round = 1, .e_proposer = {1}, .block = 0, .nblocks = 1, .kind = ENTRY_WRITE};
    struct entry_format f;
    assert_int_equal(decode_format(&good), 0);
#define BAD(...)                                                                                                       \
    do {                                                                                                               \
        f = good;                                                                                                      \
        __VA_ARGS__;                                                                                                   \
        assert_int_equal(decode_format(&f), -EBADMSG);                                                                 \
    } while (0)
    BAD(f.kind = 0);
    BAD(f.kind = ENTRY_MEMBER + 1);
    BAD(f.kind = 255);
    BAD(f.flags = 1);
    BAD(f.reserved = 1);
    BAD(f.slot = 0);
    BAD(f.e_round = 0);
    BAD(f.e_proposer[0] = 0);
    BAD(f.nblocks = 0);
    BAD(f.nblocks = ENTRY_MAX_BLOCKS + 1);
    BAD(f.nblocks = UINT32_MAX);
    BAD(f.nblocks = 0x40000001); /* times four wraps to four */
    BAD(f.block = UINT64_MAX);
    BAD(f.block = UINT64_MAX >> BLOCK_SHIFT); /* its end is no offset in bytes */
    BAD(f.kind = ENTRY_TRIM, f.nblocks = 0);
    BAD(f.kind = ENTRY_TRIM, f.nblocks = ENTRY_MAX_RANGE_BLOCKS + 1);
    BAD(f.kind = ENTRY_ZERO, f.block = UINT64_MAX - 1);
    BAD(f.kind = ENTRY_SESSION); /* has no blocks */
    BAD(f.kind = ENTRY_SESSION, f.nblocks = 0, f.block = 1);
    BAD(f.kind = ENTRY_MEMBER, f.nblocks = 0); /* a membership of nobody */
#undef BAD
    f = good;
    f.block = (UINT64_MAX >> BLOCK_SHIFT) - 1;
    assert_int_equal(decode_format(&f), 0);
    f = good;
    f.kind = ENTRY_SESSION;
    f.nblocks = 0;
    assert_int_equal(decode_format(&f), 0);
}

static void test_memberships(void **state)
{
    struct entry *e = make(ENTRY_MEMBER);
    const struct membership good = e->u[0].membership;
    struct membership m = good;
    entry_unref(e);
    assert_true(membership_is_valid(&good));
#define BAD(...)                                                                                                       \
    do {                                                                                                               \
        m = good;                                                                                                      \
        __VA_ARGS__;                                                                                                   \
        assert_false(membership_is_valid(&m));                                                                         \
    } while (0)
    BAD(m.n_voters = 0);
    BAD(m.n_voters = 4);
    BAD(m.n_voters = 2);
    BAD(m.n_voters = MEMBERS_MAX + 1);
    BAD(m.n_voters = 255);
    BAD(m.n_learners = 255);
    BAD(m.n_learners = 0);
    BAD(m.reserved[5] = 1);
    BAD(m.voter[1] = m.voter[0]);
    BAD(m.learner[0] = m.voter[2]);
    BAD(m.learner[MEMBERS_MAX - 1].b[0] = 1);
#undef BAD
    /* An entry whose membership names another slot. */
    uint8_t bytes[MAX_ENCODED];
    struct entry *d;
    size_t used;
    e = make(ENTRY_MEMBER);
    e->u[0].membership.slot++;
    entry_encode(e, bytes);
    assert_int_equal(entry_decode(arena, bytes, sizeof bytes, &d, &used), -EBADMSG);
    entry_unref(e);
}

static void test_decode_at_the_limit(void **state)
{
    struct arena *full = arena_new(0);
    struct entry *e = make(ENTRY_SESSION), *d;
    uint8_t bytes[MAX_ENCODED];
    size_t used;
    entry_encode(e, bytes);
    assert_int_equal(entry_decode(full, bytes, sizeof bytes, &d, &used), -ENOMEM);
    entry_unref(e);
    arena_free(full);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
        TEST(test_ownership),
        TEST(test_new_at_the_limit_leaves_the_payload),
        TEST(test_verify_names_the_bad_block),
        TEST(test_round_trip_and_every_truncation),
        TEST(test_decode_takes_only_its_own_bytes),
        TEST(test_malformed),
        TEST(test_memberships),
        TEST(test_decode_at_the_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
