/* CRC32C against the RFC's vectors and a table version written from the definition. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/crc32c.h"

static uint32_t table[256];

static void table_init(void)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int k = 0; k < 8; k++)
            c = c & 1 ? c >> 1 ^ 0x82F63B78u : c >> 1;
        table[i] = c;
    }
}

static uint32_t oracle(const uint8_t *p, size_t n)
{
    uint32_t c = ~0u;
    while (n--)
        c = table[(c ^ *p++) & 255] ^ c >> 8;
    return ~c;
}

static void test_vectors(void **state)
{
    /* RFC 3720, B.4 (which prints the bytes in the order of transmission). */
    uint8_t b[32];
    assert_int_equal(crc32c("123456789", 9), 0xE3069283u);
    memset(b, 0, sizeof b);
    assert_int_equal(crc32c(b, sizeof b), 0x8A9136AAu);
    memset(b, 0xff, sizeof b);
    assert_int_equal(crc32c(b, sizeof b), 0x62A8AB43u);
    for (unsigned i = 0; i < sizeof b; i++)
        b[i] = (uint8_t)i;
    assert_int_equal(crc32c(b, sizeof b), 0x46DD794Eu);
    for (unsigned i = 0; i < sizeof b; i++)
        b[i] = (uint8_t)(31 - i);
    assert_int_equal(crc32c(b, sizeof b), 0x113FDB5Cu);
    assert_int_equal(crc32c(b, 0), 0);
}

static void test_zero_block(void **state)
{
    static const uint8_t zero[BLOCK_SIZE];
    assert_int_equal(crc32c(zero, sizeof zero), CRC32C_ZERO_BLOCK);
    assert_int_equal(oracle(zero, sizeof zero), CRC32C_ZERO_BLOCK);
}

static void test_against_table(void **state)
{
    static uint8_t bytes[70000];
    uint32_t x = 1;
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)((x = x * 1664525u + 1013904223u) >> 24);
    /* Every short length at every alignment, then long ones around the block sizes of the vectorised code. */
    for (size_t off = 0; off < 16; off++)
        for (size_t n = 0; n < 600; n++)
            assert_int_equal(crc32c(bytes + off, n), oracle(bytes + off, n));
    for (size_t n = 1000; n < sizeof bytes - 7; n = n * 9 / 8 + 1)
        assert_int_equal(crc32c(bytes + 7, n), oracle(bytes + 7, n));
}

static void test_extend(void **state)
{
    static uint8_t bytes[5000];
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)(i * 7 + (i >> 8));
    uint32_t whole = crc32c(bytes, sizeof bytes);
    for (size_t cut = 0; cut <= sizeof bytes; cut += 13) {
        uint32_t crc = crc32c_extend(0, bytes, cut);
        assert_int_equal(crc, crc32c(bytes, cut));
        assert_int_equal(crc32c_extend(crc, bytes + cut, sizeof bytes - cut), whole);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vectors),
        cmocka_unit_test(test_zero_block),
        cmocka_unit_test(test_against_table),
        cmocka_unit_test(test_extend),
    };
    table_init();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
