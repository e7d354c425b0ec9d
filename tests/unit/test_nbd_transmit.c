/* The transmission phase over simulated connections: every command, flag and error; payloads at every alignment;
 * out-of-order completion; clients that vanish; random sessions against a model. */
#include "tests/unit/nbd_harness.h"

#include <stdio.h>
#include <stdlib.h>

#include "nbdserver/nbd_internal.h"

static struct harness h;
static struct client c;

static int set_up_bytes(void **state)
{
    harness_open(&h, 3, 1, 0);
    return 0;
}

static int set_up(void **state)
{
    harness_open(&h, 4, 64u << 10, 0);
    return 0;
}

static int tear_down(void **state)
{
    harness_close(&h);
    return 0;
}

/* ---- export_cut ---- */

static void test_cut(void **state)
{
    static const uint64_t offsets[] = {
        0, 1, 511, 4095, 4096, 4097, MIB - 1, MIB, MIB + 1, 5 * MIB + 4097, UINT64_C(1) << 40, (UINT64_C(1) << 40) - 1};
    static const uint32_t lengths[] = {1, 2, 511, 4096, 4097, MIB - 1, MIB, MIB + 1, 2 * MIB, 32 * MIB - 1, 32 * MIB};
    uint32_t off[EXPORT_PIECES_MAX], len[EXPORT_PIECES_MAX];
    assert_int_equal(export_cut(5, 0, off, len), 0);
    for (size_t i = 0; i < ARRAY_LEN(offsets); i++)
        for (size_t j = 0; j < ARRAY_LEN(lengths); j++) {
            uint64_t at = offsets[i];
            uint32_t n = export_cut(at, lengths[j], off, len);
            assert_in_range(n, 1, EXPORT_PIECES_MAX);
            for (uint32_t k = 0; k < n; k++) {
                assert_int_equal(off[k] % BLOCK_SIZE, at % BLOCK_SIZE);
                assert_true(off[k] < BLOCK_SIZE && len[k] > 0 && off[k] + len[k] <= MIB);
                assert_true(at / MIB == (at + len[k] - 1) / MIB);
                at += len[k];
                assert_true(k == n - 1 || at % MIB == 0); /* no piece more than needed */
            }
            assert_true(at == offsets[i] + lengths[j]);
        }
}

/* ---- data ---- */

static void test_round_trips(bool structured, uint32_t step)
{
    static const uint32_t offsets[] = {0, 1, 4095, 4096, 4097, MIB - 1, MIB, MIB + 511, 3 * MIB - 4096};
    static const uint32_t lengths[] = {1,     2,     511,     512, 4095,    4096,       4097,
                                       32768, 32769, MIB - 1, MIB, MIB + 1, 3 * MIB + 5};
    client_enter(&c, &h, "disk", structured);
    uint32_t n = 0;
    for (size_t i = 0; i < ARRAY_LEN(offsets); i++)
        for (size_t j = 0; j < ARRAY_LEN(lengths); j += step, n++) {
            do_write(&c, structured, offsets[i], pattern + n, lengths[j]);
            assert_memory_equal(h.disk.bytes + offsets[i], pattern + n, lengths[j]);
            expect_read(&c, structured, structured && n % 2 ? NBD_CMD_FLAG_DF : 0, offsets[i], lengths[j], pattern + n);
        }
    expect_alive(&c, structured);
    client_close(&c);
}

static void test_round_trip_simple(void **state)
{
    test_round_trips(false, 1);
}

static void test_round_trip_structured(void **state)
{
    test_round_trips(true, 1);
}

static void test_round_trip_byte_by_byte(void **state)
{
    client_enter(&c, &h, "disk", true);
    for (uint32_t i = 0; i < 4; i++) {
        do_write(&c, true, 4090 + i * MIB, pattern + i, 50 + i);
        expect_read(&c, true, 0, 4090 + i * MIB, 50 + i, pattern + i);
    }
    /* larger than what is copied out of the window */
    do_write(&c, true, 1, pattern, NBD_COPY_MAX + 5000);
    assert_memory_equal(h.disk.bytes + 1, pattern, NBD_COPY_MAX + 5000);
    expect_alive(&c, true);
    client_close(&c);
}

static void test_largest(void **state)
{
    client_enter(&c, &h, "big", true);
    do_write(&c, true, 12345, pattern, 32 * MIB);
    assert_int_equal(h.big.last.length, 32 * MIB);
    expect_read(&c, true, 0, 12345, 32 * MIB, pattern);
    expect_read(&c, true, NBD_CMD_FLAG_DF, 12345, 32 * MIB, pattern);
    assert_int_equal(h.server.requests_out, 0);
    assert_int_equal(arena_used_bytes(sim_reactor_io(h.server_host)->arena), 0);
    client_close(&c);
}

/* ---- structured reads: data and holes ---- */

static void test_21_holes(void **state)
{
    client_enter(&c, &h, "disk", true);
    /* data in MiB 1, 2 and 5; holes elsewhere */
    memcpy(h.disk.bytes + MIB, pattern, 2 * MIB);
    memcpy(h.disk.bytes + 5 * MIB, pattern, MIB);
    uint8_t *all = malloc(DISK_BYTES);
    memcpy(all, h.disk.bytes, DISK_BYTES);
    static const struct {
        uint32_t offset, length;
        unsigned n_data, n_holes;
    } cases[] = {{0, DISK_BYTES, 2, 3}, {0, MIB, 0, 1},     {MIB, 2 * MIB, 1, 0},      {MIB - 1, 2, 1, 1},
                 {3, 4, 0, 1},          {MIB + 3, 4, 1, 0}, {DISK_BYTES - 1, 1, 0, 1}, {100, 6 * MIB, 2, 3}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        for (uint16_t flags = 0; flags <= NBD_CMD_FLAG_DF; flags += NBD_CMD_FLAG_DF) {
            send_request(&c, NBD_CMD_READ, flags, 8, cases[i].offset, cases[i].length);
            struct reply_seen s = take_reply(&c, true, NBD_CMD_READ, flags, cases[i].offset, cases[i].length, buffer);
            assert_int_equal(s.error, 0);
            assert_memory_equal(buffer, all + cases[i].offset, cases[i].length);
            assert_int_equal(s.n_data, flags ? 1 : cases[i].n_data);
            assert_int_equal(s.n_holes, flags ? 0 : cases[i].n_holes);
        }
    client_close(&c);
    client_enter(&c, &h, "disk", false);
    expect_read(&c, false, 0, 0, DISK_BYTES, all);
    client_close(&c);
    /* 32 MiB of zeroes in one chunk */
    client_enter(&c, &h, "big", true);
    memset(all, 0, DISK_BYTES);
    send_request(&c, NBD_CMD_READ, NBD_CMD_FLAG_DF, 8, 7, 32 * MIB);
    struct reply_seen s = take_reply(&c, true, NBD_CMD_READ, NBD_CMD_FLAG_DF, 7, 32 * MIB, buffer);
    assert_int_equal(s.n_data, 1);
    for (uint32_t i = 0; i < 4; i++)
        assert_memory_equal(buffer + i * DISK_BYTES / 4, all, DISK_BYTES);
    client_close(&c);
    free(all);
}

/* ---- 24, 26 to 31: what a header must satisfy ---- */

struct expectation {
    uint32_t error;
    bool submitted;
};

static struct expectation expected(uint16_t type, uint16_t flags, bool structured, bool read_only)
{
    uint16_t allowed = NBD_CMD_FLAG_FUA;
    bool known = type <= NBD_CMD_WRITE_ZEROES && type != NBD_CMD_CACHE && type != NBD_CMD_DISC;
    if (type == NBD_CMD_READ && structured)
        allowed |= NBD_CMD_FLAG_DF;
    if (type == NBD_CMD_WRITE_ZEROES)
        allowed |= NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO;
    if (!known || (flags & ~allowed))
        return (struct expectation){NBD_EINVAL, false};
    if (read_only && type != NBD_CMD_READ && type != NBD_CMD_FLUSH)
        return (struct expectation){NBD_EPERM, false};
    return (struct expectation){0, true};
}

static void test_every_command_with_every_flag(bool structured, bool read_only)
{
    struct memory_export *m = read_only ? &h.ro : &h.disk;
    static const uint16_t types[] = {0, 1, 3, 4, 5, 6, 7, 8, 9, 255, 0x8000, 0xffff};
    uint8_t before[8192];
    client_enter(&c, &h, m->x.name, structured);
    for (size_t t = 0; t < ARRAY_LEN(types); t++)
        for (uint32_t f = 0; f < 38; f++) {
            uint16_t flags = f < 32 ? (uint16_t)f : (uint16_t)(1u << (f - 32 + 5) << (f > 35 ? 5 : 0));
            struct expectation e = expected(types[t], flags, structured, read_only);
            uint64_t submitted = m->submitted, cookie = ((uint64_t)t << 32) + flags;
            uint32_t length = types[t] == NBD_CMD_FLUSH ? 0 : 100;
            memset(m->bytes, 0x55, sizeof before);
            memcpy(before, m->bytes, sizeof before);
            if (types[t] == NBD_CMD_WRITE)
                send_write(&c, flags, cookie, 0, pattern,
                           length); /* 25: a failed one's payload is taken all the same */
            else
                send_request(&c, types[t], flags, cookie, 0, length);
            struct reply_seen s = take_reply(&c, structured, types[t], flags, 0, length, buffer);
            assert_int_equal(s.error, e.error);
            assert_true(s.cookie == cookie);
            assert_int_equal(s.was_structured, structured && (e.error || types[t] == NBD_CMD_READ));
            assert_int_equal(m->submitted - submitted, e.submitted);
            if (!e.submitted) {
                assert_memory_equal(before, m->bytes, sizeof before);
                continue;
            }
            /* 27, 31: the flags reach the export */
            assert_int_equal(m->last.flags, (flags & NBD_CMD_FLAG_FUA ? EXPORT_FUA : 0) |
                                                (flags & NBD_CMD_FLAG_NO_HOLE ? EXPORT_NO_HOLE : 0));
            assert_int_equal(m->last.length, length);
        }
    expect_alive(&c, structured);
    client_close(&c);
    assert_int_equal(log_warning_count(), 0);
}

static void test_26_flags_simple(void **state)
{
    test_every_command_with_every_flag(false, false);
}

static void test_26_flags_structured(void **state)
{
    test_every_command_with_every_flag(true, false);
}

static void test_29_read_only_simple(void **state)
{
    test_every_command_with_every_flag(false, true);
}

static void test_29_read_only_structured(void **state)
{
    test_every_command_with_every_flag(true, true);
}

static void test_24_bounds(void **state)
{
    static const uint64_t size = DISK_BYTES;
    static const struct {
        uint64_t offset;
        uint32_t length;
        bool fits;
    } cases[] = {
        {size - 1, 1, true},
        {size - 4096, 4096, true},
        {0, DISK_BYTES, true},
        {size, 1, false},
        {size - 1, 2, false},
        {size - 4096, 4097, false},
        {0, DISK_BYTES + 1, false},
        {size + 1, 1, false},
        {UINT64_MAX, 1, false},
        {UINT64_MAX - 99, 100, false},
        {UINT64_MAX, 0xffffffffu, false},
        {UINT64_MAX - 0xfffffffeu, 0xffffffffu, false},
        {UINT64_C(1) << 63, 512, false},
        {1, 0xffffffffu, false},
    };
    static const struct {
        uint16_t type;
        uint32_t beyond;
    } commands[] = {{NBD_CMD_READ, NBD_EINVAL},
                    {NBD_CMD_WRITE, NBD_ENOSPC},
                    {NBD_CMD_TRIM, NBD_EINVAL},
                    {NBD_CMD_WRITE_ZEROES, NBD_ENOSPC}};
    for (int structured = 0; structured < 2; structured++) {
        client_enter(&c, &h, "disk", structured);
        for (size_t i = 0; i < ARRAY_LEN(cases); i++)
            for (size_t k = 0; k < ARRAY_LEN(commands); k++) {
                if (commands[k].type == NBD_CMD_WRITE && cases[i].length > BUFFER_BYTES)
                    continue; /* 4 GiB of payload; see test_25 */
                uint64_t submitted = h.disk.submitted;
                send_request(&c, commands[k].type, 0, i, cases[i].offset, cases[i].length);
                if (commands[k].type == NBD_CMD_WRITE)
                    client_send(&c, pattern, cases[i].length);
                struct reply_seen s =
                    take_reply(&c, structured, commands[k].type, 0, cases[i].offset, cases[i].length, buffer);
                assert_int_equal(s.error, cases[i].fits ? 0 : commands[k].beyond);
                assert_int_equal(h.disk.submitted - submitted, cases[i].fits);
            }
        expect_alive(&c, structured);
        client_close(&c);
    }
}

static void test_29_zero_length(void **state)
{
    static const uint16_t types[] = {NBD_CMD_READ, NBD_CMD_WRITE, NBD_CMD_TRIM, NBD_CMD_WRITE_ZEROES};
    static const uint64_t offsets[] = {0, 1, DISK_BYTES - 1, DISK_BYTES};
    for (int structured = 0; structured < 2; structured++) {
        client_enter(&c, &h, "disk", structured);
        for (size_t t = 0; t < ARRAY_LEN(types); t++) {
            for (size_t i = 0; i < ARRAY_LEN(offsets); i++) {
                send_request(&c, types[t], NBD_CMD_FLAG_FUA, 6, offsets[i], 0);
                expect_reply(&c, structured, types[t], 6, 0);
            }
            send_request(&c, types[t], 0, 6, DISK_BYTES + 1, 0);
            expect_reply(&c, structured, types[t], 6, t % 2 ? NBD_ENOSPC : NBD_EINVAL);
        }
        client_close(&c);
        client_enter(&c, &h, h.ro.x.name, structured);
        send_request(&c, NBD_CMD_WRITE, 0, 6, 0, 0);
        expect_reply(&c, structured, NBD_CMD_WRITE, 6, NBD_EPERM);
        expect_alive(&c, structured);
        client_close(&c);
    }
    assert_int_equal(h.disk.submitted, 0);
}

static void test_flush_with_range(void **state)
{
    client_enter(&c, &h, "disk", true);
    send_request(&c, NBD_CMD_FLUSH, 0, 1, 0, 1);
    expect_reply(&c, true, NBD_CMD_FLUSH, 1, NBD_EINVAL);
    send_request(&c, NBD_CMD_FLUSH, 0, 2, 4096, 0);
    expect_reply(&c, true, NBD_CMD_FLUSH, 2, NBD_EINVAL);
    assert_int_equal(h.disk.submitted, 0);
    expect_alive(&c, true);
    client_close(&c);
}

static void test_25_oversized_write(void **state)
{
    client_enter(&c, &h, "big", false);
    send_write(&c, 0, 1, 0, pattern, 32 * MIB + 1);
    expect_reply(&c, false, NBD_CMD_WRITE, 1, NBD_EINVAL);
    send_write(&c, 0x8000, 2, 0, pattern, 32 * MIB);
    expect_reply(&c, false, NBD_CMD_WRITE, 2, NBD_EINVAL);
    send_write(&c, 0, 3, BIG_BYTES - 5, pattern, 6);
    expect_reply(&c, false, NBD_CMD_WRITE, 3, NBD_ENOSPC);
    assert_int_equal(h.big.submitted, 0);
    assert_in_range(h.server.payload_bytes, 0, 100); /* thrown away, not kept (an unsent reply may be counted) */
    do_write(&c, false, 0, pattern, 100);
    client_close(&c);
}

static void test_28_oversized_read(void **state)
{
    for (int structured = 0; structured < 2; structured++) {
        client_enter(&c, &h, "big", structured);
        send_request(&c, NBD_CMD_READ, 0, 1, 0, 32 * MIB + 1);
        expect_reply(&c, structured, NBD_CMD_READ, 1, structured ? NBD_EOVERFLOW : NBD_EINVAL);
        send_request(&c, NBD_CMD_READ, structured ? NBD_CMD_FLAG_DF : 0, 2, 0, 0xffffffffu);
        expect_reply(&c, structured, NBD_CMD_READ, 2, structured ? NBD_EOVERFLOW : NBD_EINVAL);
        expect_alive(&c, structured);
        client_close(&c);
    }
}

static void test_30_whole_32_bit_length(void **state)
{
    client_enter(&c, &h, "big", false);
    static const uint16_t types[] = {NBD_CMD_TRIM, NBD_CMD_WRITE_ZEROES};
    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        uint64_t off = 4099;
        memset(h.big.bytes + off - 1, 0x77, 3);
        memset(h.big.bytes + off + 0xffffffffu - 2, 0x77, 3);
        memset(h.big.bytes + (UINT64_C(2) << 30), 0x77, 4096);
        uint64_t submitted = h.big.submitted;
        send_request(&c, types[i], 0, 1, off, 0xffffffffu);
        expect_reply(&c, false, types[i], 1, 0);
        assert_int_equal(h.big.submitted - submitted, 1); /* one request, all of it */
        assert_true(h.big.last.length == 0xffffffffu && h.big.last.offset == off);
        assert_true(h.big.bytes[off - 1] == 0x77 && h.big.bytes[off] == 0 && h.big.bytes[UINT64_C(2) << 30] == 0);
        assert_true(h.big.bytes[off + 0xffffffffu - 1] == 0 && h.big.bytes[off + 0xffffffffu] == 0x77);
    }
    client_close(&c);
}

/* ---- errors of the export ---- */

static void test_28_errors_of_the_export(void **state)
{
    static const struct {
        int error;
        uint32_t wire, wire_fast_zero;
    } cases[] = {{NBD_EPERM, 1, 1},
                 {NBD_EIO, 5, 5},
                 {NBD_ENOMEM, 12, 12},
                 {NBD_EINVAL, 22, 22},
                 {NBD_ENOSPC, 28, 28},
                 {NBD_ESHUTDOWN, 108, 108},
                 {NBD_ENOTSUP, 5, 95},
                 {NBD_EOVERFLOW, 5, 5},
                 {7, 5, 5},
                 {110, 5, 5},
                 {-5, 5, 5}};
    for (int structured = 0; structured < 2; structured++) {
        client_enter(&c, &h, "disk", structured);
        for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
            h.disk.fail = cases[i].error;
            send_request(&c, NBD_CMD_READ, 0, 1, 0, 5000);
            expect_reply(&c, structured, NBD_CMD_READ, 1, cases[i].wire);
            send_write(&c, 0, 2, 0, pattern, 5000);
            expect_reply(&c, structured, NBD_CMD_WRITE, 2, cases[i].wire);
            send_request(&c, NBD_CMD_FLUSH, 0, 3, 0, 0);
            expect_reply(&c, structured, NBD_CMD_FLUSH, 3, cases[i].wire);
            send_request(&c, NBD_CMD_TRIM, 0, 4, 0, 1);
            expect_reply(&c, structured, NBD_CMD_TRIM, 4, cases[i].wire);
            send_request(&c, NBD_CMD_WRITE_ZEROES, 0, 5, 0, 1);
            expect_reply(&c, structured, NBD_CMD_WRITE_ZEROES, 5, cases[i].wire);
            send_request(&c, NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_FAST_ZERO, 6, 0, 1);
            expect_reply(&c, structured, NBD_CMD_WRITE_ZEROES, 6, cases[i].wire_fast_zero);
        }
        /* a failed READ that had read something already: no payload, no leak */
        h.disk.fail_with_pieces = 1;
        memset(h.disk.bytes, 1, 3 * MIB);
        send_request(&c, NBD_CMD_READ, 0, 7, 5, 2 * MIB);
        expect_reply(&c, structured, NBD_CMD_READ, 7, NBD_EIO);
        h.disk.fail = h.disk.fail_with_pieces = 0;
        expect_alive(&c, structured);
        client_close(&c);
    }
    assert_int_equal(h.server.errors, 2 * (6 * ARRAY_LEN(cases) + 1));
}

/* ---- order ---- */

static void test_23_out_of_order(void **state)
{
    h.disk.mode = MEMORY_HOLD;
    memset(h.disk.bytes, 0xab, 8192);
    client_enter(&c, &h, "disk", true);
    /* Cookies are opaque and may recur. */
    static const uint64_t cookies[] = {0, UINT64_MAX, 7, 7, 0x0102030405060708};
    for (uint32_t i = 0; i < 5; i++)
        send_request(&c, NBD_CMD_READ, 0, cookies[i], i, 10 + i);
    run_ms(&h, 20);
    assert_int_equal(h.disk.n_held, 5);
    assert_int_equal(unread(&c), 0);
    static const uint32_t order[] = {3, 0, 4, 2, 1}, held_index[] = {3, 0, 2, 1, 0};
    for (uint32_t i = 0; i < 5; i++) {
        memory_export_complete(&h.disk, held_index[i]);
        struct reply_seen s = take_reply(&c, true, NBD_CMD_READ, 0, order[i], 10 + order[i], buffer);
        assert_true(s.cookie == cookies[order[i]]);
        assert_int_equal(s.error, 0);
    }
    expect_nothing(&c);
    client_close(&c);
}

/* 33: "The server MUST handle all outstanding requests", then close, without a reply to DISC itself. */
static void test_33_disconnect(void **state)
{
    client_enter(&c, &h, "disk", false);
    send_request(&c, NBD_CMD_DISC, 0, 1, 0, 0);
    expect_end(&c);
    client_close(&c);

    h.disk.mode = MEMORY_HOLD;
    client_enter(&c, &h, "disk", false);
    send_write(&c, 0, 1, 0, "first", 5);
    send_write(&c, 0, 2, 8, "other", 5);
    send_request(&c, NBD_CMD_DISC, 0, 3, 0, 0);
    send_write(&c, 0, 4, 16, "never", 5); /* "MUST NOT send anything after": not looked at */
    run_ms(&h, 50);
    assert_int_equal(h.disk.n_held, 2);
    assert_false(c.gone);
    memory_export_complete(&h.disk, 1);
    expect_reply(&c, false, NBD_CMD_WRITE, 2, 0);
    run_ms(&h, 20);
    assert_false(c.gone);
    memory_export_complete(&h.disk, 0);
    expect_reply(&c, false, NBD_CMD_WRITE, 1, 0);
    expect_end(&c);
    client_close(&c);
    assert_memory_equal(h.disk.bytes, "first\0\0\0other", 13);
    assert_int_equal(h.disk.bytes[16], 0);
    assert_int_equal(h.disk.abandoned, 0);

    /* the client does not wait */
    client_enter(&c, &h, "disk", false);
    send_write(&c, 0, 1, 32, "third", 5);
    send_request(&c, NBD_CMD_DISC, 0, 3, 0, 0);
    conn_finish(c.conn);
    run_ms(&h, 100);
    client_close(&c);
    assert_int_equal(h.disk.n_held, 1);
    memory_export_complete_all(&h.disk);
    assert_memory_equal(h.disk.bytes + 32, "third", 5);
    assert_int_equal(h.disk.abandoned, 0);

    /* the connection breaks behind the DISC: its requests are handled all the same */
    client_enter(&c, &h, "disk", false);
    send_write(&c, 0, 1, 64, "fourth", 6);
    send_request(&c, NBD_CMD_DISC, 0, 3, 0, 0);
    run_ms(&h, 100);
    assert_int_equal(h.disk.n_held, 1);
    sim_reset(h.w, "client", "server");
    run_ms(&h, 100);
    assert_int_equal(h.server.n_connections, 0);
    memory_export_complete_all(&h.disk);
    assert_int_equal(h.disk.abandoned, 0);
    client_close(&c);
    assert_int_equal(log_warning_count(), 0);
}

static void test_vanishing_client(void **state)
{
    h.disk.mode = MEMORY_HOLD;
    memset(h.disk.bytes, 9, 2 * MIB);
    client_enter(&c, &h, "disk", true);
    send_write(&c, 0, 1, 0, pattern, 3 * MIB);
    send_request(&c, NBD_CMD_READ, 0, 2, 0, MIB);
    send_request(&c, NBD_CMD_FLUSH, 0, 3, 0, 0);
    run_ms(&h, 500);
    assert_int_equal(h.disk.n_held, 3);
    send_request(&c, NBD_CMD_WRITE, 0, 4, 0, MIB); /* half of its payload */
    client_send(&c, pattern, MIB / 2);
    run_ms(&h, 500);
    client_close(&c);
    assert_int_equal(h.server.n_connections, 0);
    assert_int_equal(h.disk.n_held, 3);
    memory_export_complete(&h.disk, 1);
    memory_export_complete_all(&h.disk);
    assert_int_equal(h.disk.abandoned, 3);
    assert_int_equal(h.server.payload_bytes, 0);
    assert_true(logged("went away with 3 requests under way"));
}

static void test_truncation_everywhere(void **state)
{
    uint8_t script[28 + 300];
    struct nbd_request_header r = {htobe32(NBD_REQUEST_MAGIC), 0, htobe16(NBD_CMD_WRITE), 1, 0, htobe32(300)};
    memcpy(script, &r, sizeof r);
    memcpy(script + 28, pattern, 300);
    h.disk.mode = MEMORY_HOLD;
    for (size_t n = 0; n <= sizeof script; n += n < 40 || n >= 320 ? 1 : 7) {
        client_enter(&c, &h, "disk", false);
        client_send(&c, script, n);
        run_ms(&h, 5);
        client_close(&c);
        assert_int_equal(h.server.n_connections, 0);
        memory_export_complete_all(&h.disk); /* the last one is whole */
        assert_int_equal(h.disk.submitted, n == sizeof script);
        assert_int_equal(h.server.payload_bytes, 0);
    }
    assert_int_equal(log_warning_count(), 0);
}

static void test_wrong_magic(void **state)
{
    struct client witness;
    client_enter(&witness, &h, "disk", false);
    for (int i = 0; i < 4; i++) {
        struct nbd_request_header r = {htobe32(NBD_REQUEST_MAGIC), 0, htobe16(NBD_CMD_FLUSH), 1, 0, 0};
        ((uint8_t *)&r)[i] ^= 0x20;
        client_enter(&c, &h, "disk", i & 1);
        client_send(&c, &r, sizeof r);
        expect_end(&c);
        client_close(&c);
        assert_int_equal(log_warning_count(), i + 1);
    }
    assert_true(logged("wrong magic 0x05609513 where a request begins; connection closed"));
    expect_alive(&witness, false);
    client_close(&witness);
}

/* ---- random sessions against a model ---- */

#define SESSIONS 3
#define SLOTS 16u
#define AREA (64u << 10) /* each slot of each client has its own bytes, so that any order gives one result */

struct operation {
    bool busy, structured;
    uint16_t type, flags;
    uint32_t offset, length;
    uint8_t model[AREA];
};

static struct operation operations[SESSIONS][SLOTS];

static void start_operation(struct client *k, uint32_t s, uint32_t slot)
{
    static const uint16_t types[] = {NBD_CMD_READ,         NBD_CMD_READ, NBD_CMD_WRITE, NBD_CMD_WRITE,
                                     NBD_CMD_WRITE_ZEROES, NBD_CMD_TRIM, NBD_CMD_FLUSH};
    struct operation *o = &operations[s][slot];
    o->busy = true;
    o->type = types[sim_rand(h.w) % ARRAY_LEN(types)];
    o->flags = sim_rand(h.w) % 2 ? NBD_CMD_FLAG_FUA : 0;
    o->length = 1 + (uint32_t)(sim_rand(h.w) % (sim_rand(h.w) % 2 ? 600 : AREA));
    o->offset = (uint32_t)(sim_rand(h.w) % (AREA - o->length + 1));
    uint64_t at = (uint64_t)(s * SLOTS + slot) * AREA + o->offset;
    if (o->type == NBD_CMD_FLUSH)
        o->length = 0;
    if (o->type == NBD_CMD_READ && o->structured && sim_rand(h.w) % 3 == 0)
        o->flags |= NBD_CMD_FLAG_DF;
    send_request(k, o->type, o->flags, slot, o->length ? at : 0, o->length);
    if (o->type == NBD_CMD_WRITE) {
        const uint8_t *p = pattern + sim_rand(h.w) % MIB;
        client_send(k, p, o->length);
        memcpy(o->model + o->offset, p, o->length);
    } else if (o->type == NBD_CMD_WRITE_ZEROES || o->type == NBD_CMD_TRIM) {
        memset(o->model + o->offset, 0, o->length);
    }
}

/* The cookie stands at the same place in both kinds of headers' first 16 bytes: simple at 8, structured at 8. */
static uint32_t peek_slot(struct client *k)
{
    uint64_t cookie;
    memcpy(&cookie, take(k, 16) + 8, 8);
    k->pos -= 16;
    assert_in_range(cookie, 0, SLOTS - 1);
    return (uint32_t)cookie;
}

static void test_random_sessions(void **state)
{
    struct client k[SESSIONS];
    for (uint64_t seed = 10; seed < 16; seed++) {
        harness_open(&h, seed, seed % 2 ? 1u << 16 : 700, 0);
        memset(operations, 0, sizeof operations);
        h.disk.mode = MEMORY_RANDOM;
        h.server.payload_limit_bytes = seed % 3 ? 256 * MIB : 256u << 10;
        h.server.in_flight_max = seed % 2 ? 5 : 1024;
        for (uint32_t s = 0; s < SESSIONS; s++) {
            client_enter(&k[s], &h, "disk", s & 1);
            for (uint32_t i = 0; i < SLOTS; i++)
                operations[s][i].structured = s & 1;
        }
        for (uint32_t n = 0; n < 900; n++) {
            uint32_t s = (uint32_t)(sim_rand(h.w) % SESSIONS), slot = (uint32_t)(sim_rand(h.w) % SLOTS);
            struct operation *o = &operations[s][slot];
            if (!o->busy) {
                start_operation(&k[s], s, slot);
                continue;
            }
            slot = peek_slot(&k[s]);
            o = &operations[s][slot];
            assert_true(o->busy);
            uint64_t at = (uint64_t)(s * SLOTS + slot) * AREA + o->offset;
            struct reply_seen seen = take_reply(&k[s], o->structured, o->type, o->flags, at, o->length, buffer);
            assert_int_equal(seen.error, 0);
            if (o->type == NBD_CMD_READ)
                assert_memory_equal(buffer, o->model + o->offset, o->length);
            o->busy = false;
        }
        run_ms(&h, 500);
        for (uint32_t s = 0; s < SESSIONS; s++)
            client_close(&k[s]);
        run_ms(&h, 100);
        for (uint32_t i = 0; i < SESSIONS * SLOTS; i++)
            assert_memory_equal(h.disk.bytes + (size_t)i * AREA, operations[i / SLOTS][i % SLOTS].model, AREA);
        assert_int_equal(log_warning_count(), 0);
        harness_close(&h);
    }
}

/* Random headers: each is answered or ends that connection alone; nothing leaks. */
static void test_garbage(void **state)
{
    struct client witness;
    client_enter(&witness, &h, "disk", true);
    h.big.mode = MEMORY_RANDOM;
    for (int round = 0; round < 150; round++) {
        client_enter(&c, &h, round % 2 ? "big" : h.ro.x.name, round % 3);
        for (int i = 0; i < 20; i++) {
            struct nbd_request_header r = {
                htobe32(NBD_REQUEST_MAGIC),
                htobe16(sim_rand(h.w) % 4 ? 0 : (uint16_t)sim_rand(h.w)),
                htobe16((uint16_t)(sim_rand(h.w) % 9)),
                sim_rand(h.w),
                htobe64(sim_rand(h.w) % 2 ? sim_rand(h.w) % BIG_BYTES : sim_rand(h.w)),
                htobe32((uint32_t)sim_rand(h.w) >> sim_rand(h.w) % 32),
            };
            if (sim_rand(h.w) % 32 == 0)
                ((uint8_t *)&r)[sim_rand(h.w) % 4] ^= (uint8_t)sim_rand(h.w);
            client_send(&c, &r, sizeof r);
            if (be16toh(r.type) == NBD_CMD_WRITE)
                client_send(&c, pattern, sim_rand(h.w) % 3000);
        }
        run_ms(&h, 3);
        client_close(&c);
    }
    expect_alive(&witness, true);
    client_close(&witness);
}

/* clang-format off */
/* A test may run more than once, with different set-ups. */
#define WITH(how, f) {#f " (" #how ")", f, how, tear_down, NULL}
/* clang-format on */

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cut),
        WITH(set_up, test_round_trip_simple),
        WITH(set_up, test_round_trip_structured),
        WITH(set_up_bytes, test_round_trip_byte_by_byte),
        WITH(set_up, test_largest),
        WITH(set_up, test_21_holes),
        WITH(set_up, test_26_flags_simple),
        WITH(set_up_bytes, test_26_flags_simple),
        WITH(set_up, test_26_flags_structured),
        WITH(set_up_bytes, test_26_flags_structured),
        WITH(set_up, test_29_read_only_simple),
        WITH(set_up_bytes, test_29_read_only_structured),
        WITH(set_up, test_24_bounds),
        WITH(set_up, test_29_zero_length),
        WITH(set_up_bytes, test_29_zero_length),
        WITH(set_up, test_flush_with_range),
        WITH(set_up, test_25_oversized_write),
        WITH(set_up, test_28_oversized_read),
        WITH(set_up, test_30_whole_32_bit_length),
        WITH(set_up, test_28_errors_of_the_export),
        WITH(set_up, test_23_out_of_order),
        WITH(set_up_bytes, test_23_out_of_order),
        WITH(set_up, test_33_disconnect),
        WITH(set_up_bytes, test_33_disconnect),
        WITH(set_up, test_vanishing_client),
        WITH(set_up, test_truncation_everywhere),
        WITH(set_up, test_wrong_magic),
        WITH(set_up_bytes, test_wrong_magic),
        cmocka_unit_test(test_random_sessions),
        WITH(set_up, test_garbage),
    };
    return cmocka_run_group_tests_name("nbd transmission", tests, harness_buffers_make, harness_buffers_free);
}
