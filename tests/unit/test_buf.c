/* The arena: size classes, the limit, reuse, memory given back. */
#include <malloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/buf.h"

#define MIB (UINT64_C(1) << 20)

static void test_classes(void **state)
{
    static const struct {
        size_t len;
        uint32_t cap;
    } cases[] = {
        {0, 256},           {1, 256},
        {256, 256},         {257, 1024},
        {1024, 1024},       {1025, 4096},
        {4096, 4096},       {4097, 8192},
        {8192, 8192},       {8193, 16384},
        {65536, 65536},     {65537, 131072},
        {1 << 20, 1 << 20}, {(1 << 20) + 1, 2 << 20},
        {2 << 20, 2 << 20},
    };
    struct arena *a = arena_new(64 * MIB);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct buf *b = buf_alloc(a, cases[i].len);
        assert_non_null(b);
        assert_int_equal(b->cap, cases[i].cap);
        assert_int_equal(b->refs, 1);
        assert_int_equal(arena_used_bytes(a), b->cap);
        if (b->cap >= BLOCK_SIZE)
            assert_int_equal((uintptr_t)b->data % BLOCK_SIZE, 0);
        memset(b->data, 0xaa, b->cap);
        buf_unref(b);
        assert_int_equal(arena_used_bytes(a), 0);
    }
    arena_free(a);
}

static void test_references(void **state)
{
    struct arena *a = arena_new(MIB);
    struct buf *b = buf_alloc(a, 4096);
    buf_ref(b);
    buf_unref(b);
    assert_int_equal(arena_used_bytes(a), 4096);
    memset(b->data, 1, b->cap);
    buf_unref(b);
    buf_unref(NULL);
    assert_int_equal(arena_used_bytes(a), 0);
    arena_free(a);
}

static void test_limit_counts_capacity(void **state)
{
    struct arena *a = arena_new(3 * 4096);
    struct buf *b[3];
    assert_int_equal(arena_limit_bytes(a), 3 * 4096);
    for (int i = 0; i < 3; i++)
        assert_non_null(b[i] = buf_alloc(a, 1025)); /* a slice of 1025 costs the whole 4096 */
    assert_null(buf_alloc(a, 1));
    assert_null(buf_alloc(a, BUF_MAX_BYTES));
    struct buf *must = buf_alloc_must(a, 2 * 4096);
    assert_int_equal(arena_used_bytes(a), 5 * 4096);
    buf_unref(b[0]);
    assert_null(buf_alloc(a, 1)); /* still above it */
    buf_unref(must);
    assert_non_null(b[0] = buf_alloc(a, 4096));
    assert_null(buf_alloc(a, 1));
    for (int i = 0; i < 3; i++)
        buf_unref(b[i]);
    arena_free(a);
}

/* Random traffic over all classes against a model: no two buffers in use share a byte, and the sum is right. */
static void traffic(bool huge_pages)
{
    struct arena *a = arena_new(32 * MIB);
    if (huge_pages)
        arena_use_huge_pages(a);
    struct buf *live[512] = {0};
    uint32_t stamp[512] = {0};
    uint64_t used = 0;
    uint32_t x = 12345;
    for (uint32_t step = 1; step < 40000; step++) {
        x = x * 1664525u + 1013904223u;
        uint32_t i = x >> 23;
        if (live[i]) {
            struct buf *b = live[i];
            uint32_t first, last;
            memcpy(&first, b->data, sizeof first);
            memcpy(&last, b->data + b->cap - sizeof last, sizeof last);
            assert_int_equal(first, stamp[i]);
            assert_int_equal(last, stamp[i]);
            used -= b->cap;
            buf_unref(b);
            live[i] = NULL;
        } else {
            x = x * 1664525u + 1013904223u;
            struct buf *b = buf_alloc(a, (x >> 8) % (1u << (8 + (x >> 24) % 14)));
            if (b) {
                used += b->cap;
                memcpy(b->data, &step, sizeof step);
                memcpy(b->data + b->cap - sizeof step, &step, sizeof step);
            }
            live[i] = b;
            stamp[i] = step;
        }
        assert_int_equal(arena_used_bytes(a), used);
        assert_true(used <= 32 * MIB);
    }
    for (size_t i = 0; i < ARRAY_LEN(live); i++)
        buf_unref(live[i]);
    arena_free(a);
}

static void test_traffic(void **state)
{
    traffic(false);
}

static void test_traffic_in_huge_pages(void **state)
{
    traffic(true);
}

/* Four times 512 KiB for buffers of one size, with one of them still in use; then of others: what is free of a chunk is used again, whatever it was cut into. */
static void test_chunks_are_cut_anew(void **state)
{
    struct arena *a = arena_new(64 * MIB);
    arena_use_huge_pages(a);
    static struct buf *b[512];
    for (size_t i = 0; i < ARRAY_LEN(b); i++)
        b[i] = buf_alloc(a, 4096);
    uint8_t *first = b[0]->data, *end = first + 2 * MIB;
    assert_int_equal((uintptr_t)first % (2 * MIB), 0);
    for (size_t i = 0; i < ARRAY_LEN(b); i++) {
        assert_true(b[i]->data >= first && b[i]->data < end);
        if (i != 7)
            buf_unref(b[i]);
    }
    struct buf *large = buf_alloc(a, MIB), *half = buf_alloc(a, MIB / 2), *whole = buf_alloc(a, 2 * MIB);
    assert_true(large->data > first && large->data < end && half->data > first && half->data < end);
    assert_true(whole->data + 2 * MIB <= first || whole->data >= end);
    assert_int_equal((uintptr_t)whole->data % (2 * MIB), 0);
    memset(large->data, 1, MIB);
    memset(half->data, 2, MIB / 2);
    memset(b[7]->data, 3, 4096);
    for (size_t i = 0; i < MIB; i++)
        assert_int_equal(large->data[i], 1);
    for (size_t i = 0; i < MIB / 2; i++)
        assert_int_equal(half->data[i], 2);
    buf_unref(b[7]);
    buf_unref(large);
    buf_unref(half);
    buf_unref(whole);
    arena_free(a);
}

/* The limit's worth of small buffers, then of larger ones, class after class: what is held must not become the sum over
 * the classes. */
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
static uint64_t allocated(void)
{
    struct mallinfo2 m = mallinfo2();
    return (uint64_t)m.uordblks + (uint64_t)m.hblkhd;
}

static void test_memory_comes_back(void **state)
{
    uint64_t before = allocated();
    struct arena *a = arena_new(16 * MIB);
    static struct buf *b[16 * MIB / 4096];
    for (uint32_t size = 4096; size <= BUF_MAX_BYTES; size *= 2) {
        size_t n = 16 * MIB / size;
        for (size_t i = 0; i < n; i++)
            assert_non_null(b[i] = buf_alloc(a, size));
        assert_null(buf_alloc(a, 1));
        assert_true(allocated() - before < 18 * MIB);
        for (size_t i = 0; i < n; i++)
            buf_unref(b[i]);
    }
    arena_free(a);
    assert_true(allocated() - before < MIB / 4);
}
#else
static void test_memory_comes_back(void **state)
{
    print_message("SKIP: a sanitizer's allocator does not say what is allocated\n");
    skip();
}
#endif

/* A crashed process's arena goes with what is in use. The leak sanitizer sees whether it does. */
static void test_drop(void **state)
{
    struct arena *a = arena_new(16 * MIB);
    for (int i = 0; i < 100; i++)
        assert_non_null(buf_alloc(a, 100u * (unsigned)i));
    assert_non_null(buf_alloc(a, BUF_MAX_BYTES));
    arena_drop(a);
    arena_drop(NULL);
    arena_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_classes),
        cmocka_unit_test(test_references),
        cmocka_unit_test(test_limit_counts_capacity),
        cmocka_unit_test(test_traffic),
        cmocka_unit_test(test_traffic_in_huge_pages),
        cmocka_unit_test(test_chunks_are_cut_anew),
        cmocka_unit_test(test_memory_comes_back),
        cmocka_unit_test(test_drop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
