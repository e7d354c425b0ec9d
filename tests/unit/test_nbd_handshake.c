/* Fixed newstyle negotiation, driven over simulated connections: every option, every malformed form of it, waiting for
 * an export, limits, shutdown.
 *
 * The numbers in names are those of docs/nbd.md. */
#include "tests/unit/nbd_harness.h"

#include <stdio.h>
#include <stdlib.h>

#include "nbdserver/nbd_internal.h"

static struct harness h;
static struct client c;

/* Each test runs byte by byte, and with the stream in pieces of any size. */
static uint32_t chunk;

static int set_up_bytes(void **state)
{
    chunk = 1;
    harness_open(&h, 1, chunk, 0);
    return 0;
}

static int set_up_pieces(void **state)
{
    chunk = 4096;
    harness_open(&h, 2, chunk, 0);
    return 0;
}

static int tear_down(void **state)
{
    harness_close(&h);
    return 0;
}

/* The connection is in haggling and in step: LIST is answered as always. */
static void expect_in_step(struct client *k)
{
    send_option(k, NBD_OPT_LIST, NULL, 0);
    for (uint32_t i = 0; i < h.server.exports.n; i++)
        assert_int_equal(take_option_reply(k, NBD_OPT_LIST).type, NBD_REP_SERVER);
    assert_int_equal(take_option_reply(k, NBD_OPT_LIST).type, NBD_REP_ACK);
    expect_nothing(k);
}

static void expect_transmission(struct client *k)
{
    uint8_t data[16];
    send_request(k, NBD_CMD_READ, 0, 77, 0, 16);
    struct reply_seen s = take_reply(k, false, NBD_CMD_READ, 0, 0, 16, data);
    assert_int_equal(s.error, 0);
    assert_true(s.cookie == 77);
    expect_nothing(k);
}

/* ---- 1, 2: greeting, client flags, EXPORT_NAME ---- */

static void test_1_greeting(void **state)
{
    client_open(&c, &h);
    static const uint8_t greeting[18] = "NBDMAGICIHAVEOPT\0\3";
    assert_memory_equal(take(&c, 18), greeting, 18);
    expect_nothing(&c);
    client_close(&c);
}

static void test_1_client_flags(void **state)
{
    static const uint32_t bad[] = {4, 8, 0x100, 0x80000000u, 0xffffffffu, 7};
    for (uint32_t flags = 0; flags < 4; flags++) {
        client_greet(&c, &h, flags);
        expect_in_step(&c);
        client_close(&c);
    }
    assert_int_equal(log_warning_count(), 0);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        client_greet(&c, &h, bad[i]);
        expect_end(&c);
        client_close(&c);
        assert_int_equal(log_warning_count(), i + 1); /* one line each */
    }
    assert_true(logged("unknown client flags 0x4; connection closed"));
}

static void test_2_export_name(void **state)
{
    for (uint32_t flags = 0; flags < 4; flags++) {
        client_greet(&c, &h, flags);
        send_option(&c, NBD_OPT_EXPORT_NAME, flags & 1 ? "disk" : "", flags & 1 ? 4 : 0);
        uint64_t size;
        uint16_t f;
        const uint8_t *p = take(&c, 10);
        memcpy(&size, p, 8);
        memcpy(&f, p + 8, 2);
        assert_true(be64toh(size) == DISK_BYTES);
        assert_int_equal(be16toh(f), 0x96d); /* no DF: structured replies were not negotiated */
        if (!(flags & NBD_FLAG_C_NO_ZEROES)) {
            static const uint8_t zeroes[124];
            assert_memory_equal(take(&c, 124), zeroes, 124);
        }
        expect_transmission(&c);
        client_close(&c);
    }
}

static void test_6_export_name_refused(void **state)
{
    static uint8_t longest[NBD_STRING_MAX + 1];
    memset(longest, 'a', sizeof longest);
    static const struct {
        const char *name;
        uint32_t len;
    } bad[] = {{"nosuch", 6}, {"disk\0", 5}, {"dis\0k", 5}, {"\xff\xfe", 2}, {"DISK", 4}, {"disk ", 5}};
    for (size_t i = 0; i < ARRAY_LEN(bad) + 2; i++) {
        bool table = i < ARRAY_LEN(bad);
        client_greet(&c, &h, 3);
        send_option(&c, NBD_OPT_EXPORT_NAME, table ? (const void *)bad[i].name : longest,
                    table ? bad[i].len : NBD_STRING_MAX + (uint32_t)(i - ARRAY_LEN(bad)));
        expect_end(&c); /* without a byte */
        client_close(&c);
        assert_int_equal(log_warning_count(), i + 1);
    }
    h.server.exports.default_export = NULL;
    client_greet(&c, &h, 3);
    send_option(&c, NBD_OPT_EXPORT_NAME, "", 0);
    expect_end(&c);
    client_close(&c);
}

static void test_7_longest_name(void **state)
{
    static char name[NBD_STRING_MAX + 1];
    static uint8_t data[NBD_STRING_MAX + 64];
    memset(name, 'n', NBD_STRING_MAX);
    h.disk.x.name = name;
    client_greet(&c, &h, 3);
    send_option(&c, NBD_OPT_EXPORT_NAME, name, NBD_STRING_MAX);
    take(&c, 10);
    expect_transmission(&c);
    client_close(&c);
    client_greet(&c, &h, 3);
    expect_in_step(&c);
    const uint16_t want = NBD_INFO_NAME;
    send_option(&c, NBD_OPT_INFO, data, go_data(data, name, NBD_STRING_MAX, &want, 1));
    assert_int_equal(take_option_reply(&c, NBD_OPT_INFO).len, 12);
    assert_int_equal(take_option_reply(&c, NBD_OPT_INFO).len, 2 + NBD_STRING_MAX);
    assert_int_equal(take_option_reply(&c, NBD_OPT_INFO).type, NBD_REP_ACK);
    send_option(&c, NBD_OPT_GO, data, go_data(data, name, NBD_STRING_MAX - 1, NULL, 0));
    expect_option_error(&c, NBD_OPT_GO, NBD_REP_ERR_UNKNOWN, "no such export");
    client_close(&c);
}

/* ---- 3, 4, 5: options ---- */

static void test_3_unknown_options(void **state)
{
    static const uint32_t numbers[] = {0,
                                       NBD_OPT_PEEK_EXPORT,
                                       NBD_OPT_STARTTLS,
                                       NBD_OPT_LIST_META_CONTEXT,
                                       NBD_OPT_SET_META_CONTEXT,
                                       NBD_OPT_EXTENDED_HEADERS,
                                       12,
                                       0x7fffffff,
                                       0x80000000u,
                                       0xffffffffu};
    static const uint32_t lengths[] = {0, 1, 16, 5000};
    /* Data that looks like an option must be skipped all the same. */
    static uint8_t data[5000];
    struct nbd_option_header abort_option = {htobe64(NBD_OPTION_MAGIC), htobe32(NBD_OPT_ABORT), 0};
    for (size_t i = 0; i + sizeof abort_option <= sizeof data; i += sizeof abort_option)
        memcpy(data + i, &abort_option, sizeof abort_option);
    client_greet(&c, &h, 3);
    for (size_t i = 0; i < ARRAY_LEN(numbers); i++)
        for (size_t j = 0; j < ARRAY_LEN(lengths); j++) {
            send_option(&c, numbers[i], data, lengths[j]);
            expect_option_error(&c, numbers[i], NBD_REP_ERR_UNSUP, "option");
        }
    expect_in_step(&c);
    client_close(&c);
    assert_int_equal(log_warning_count(), 0);
}

static void test_3_long_option(void **state)
{
    if (chunk == 1)
        return; /* too many events, and nothing that shorter ones don't show */
    const uint32_t n = CONN_WINDOW * 3;
    uint8_t *data = calloc(1, n);
    client_greet(&c, &h, 3);
    send_option(&c, 99, data, n);
    expect_option_error(&c, 99, NBD_REP_ERR_UNSUP, "unknown");
    send_option(&c, NBD_OPT_GO, data, NBD_OPTION_MAX + 1);
    expect_option_error(&c, NBD_OPT_GO, NBD_REP_ERR_TOO_BIG, "too long");
    send_option(&c, NBD_OPT_INFO, data, n);
    expect_option_error(&c, NBD_OPT_INFO, NBD_REP_ERR_TOO_BIG, "too long");
    /* The longest that is well formed: every information request there is. */
    uint16_t *infos = malloc(65535 * sizeof *infos);
    for (unsigned i = 0; i < 65535; i++)
        infos[i] = (uint16_t)(4 + i % 65000);
    memset(data + 4, 'x', NBD_STRING_MAX);
    uint8_t *name = malloc(NBD_STRING_MAX);
    memset(name, 'x', NBD_STRING_MAX);
    uint32_t len = go_data(data, name, NBD_STRING_MAX, infos, 65535);
    assert_int_equal(len, NBD_OPTION_MAX);
    send_option(&c, NBD_OPT_INFO, data, len);
    expect_option_error(&c, NBD_OPT_INFO, NBD_REP_ERR_UNKNOWN, NULL);
    len = go_data(data, "disk", 4, infos, 65535);
    send_option(&c, NBD_OPT_INFO, data, len);
    assert_int_equal(take_option_reply(&c, NBD_OPT_INFO).type, NBD_REP_INFO);
    assert_int_equal(take_option_reply(&c, NBD_OPT_INFO).type, NBD_REP_ACK);
    expect_in_step(&c);
    client_close(&c);
    free(infos);
    free(name);
    free(data);
}

static void test_4_abort(void **state)
{
    for (uint32_t n = 0; n < 3; n++) {
        client_greet(&c, &h, 3);
        send_option(&c, NBD_OPT_ABORT, "some data that is ignored", n * 12);
        struct option_answer a = take_option_reply(&c, NBD_OPT_ABORT);
        assert_int_equal(a.type, NBD_REP_ACK);
        assert_int_equal(a.len, 0);
        expect_end(&c);
        client_close(&c);
    }
    /* "The server SHOULD gracefully handle the client sending an ABORT and closing without waiting for a reply." */
    client_greet(&c, &h, 3);
    send_option(&c, NBD_OPT_ABORT, NULL, 0);
    conn_finish(c.conn);
    run_ms(&h, 50);
    client_close(&c);
    assert_int_equal(h.server.n_connections, 0);
    assert_int_equal(log_warning_count(), 0);
}

static void test_list(void **state)
{
    client_greet(&c, &h, 3);
    send_option(&c, NBD_OPT_LIST, NULL, 0);
    struct option_answer a = take_option_reply(&c, NBD_OPT_LIST);
    assert_int_equal(a.type, NBD_REP_SERVER);
    assert_int_equal(a.len, 8);
    assert_memory_equal(a.data, "\0\0\0\4disk", 8);
    a = take_option_reply(&c, NBD_OPT_LIST);
    assert_int_equal(a.len, 4 + 5 + 16);
    assert_memory_equal(a.data,
                        "\0\0\0\5ro-\xc3\xa9"
                        "a read-only disk",
                        25);
    a = take_option_reply(&c, NBD_OPT_LIST);
    assert_memory_equal(a.data, "\0\0\0\3big", 7);
    a = take_option_reply(&c, NBD_OPT_LIST);
    assert_int_equal(a.type, NBD_REP_ACK);
    assert_int_equal(a.len, 0);
    h.server.exports.n = 0;
    send_option(&c, NBD_OPT_LIST, NULL, 0);
    assert_int_equal(take_option_reply(&c, NBD_OPT_LIST).type, NBD_REP_ACK);
    expect_nothing(&c);
    client_close(&c);
}

static void test_5_data_where_none_belongs(void **state)
{
    static const uint32_t numbers[] = {NBD_OPT_LIST, NBD_OPT_STRUCTURED_REPLY};
    client_greet(&c, &h, 3);
    for (size_t i = 0; i < ARRAY_LEN(numbers); i++)
        for (uint32_t n = 1; n < 40; n += 19) {
            send_option(&c, numbers[i], "0123456789012345678901234567890123456789", n);
            expect_option_error(&c, numbers[i], NBD_REP_ERR_INVALID, "no data");
        }
    expect_in_step(&c);
    /* The refused STRUCTURED_REPLY negotiated nothing: DF stays clear. */
    send_go(&c, NBD_OPT_INFO, "disk");
    struct option_answer a = take_option_reply(&c, NBD_OPT_INFO);
    assert_int_equal(a.data[11] & NBD_FLAG_SEND_DF, 0);
    client_close(&c);
}

static void test_wrong_option_magic(void **state)
{
    client_greet(&c, &h, 3);
    send_option(&c, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
    take_option_reply(&c, NBD_OPT_STRUCTURED_REPLY);
    client_send(&c, "IHAVEOPS\0\0\0\3\0\0\0\0", 16);
    expect_end(&c);
    client_close(&c);
    assert_int_equal(log_warning_count(), 1);
    assert_true(logged("wrong magic 0x49484156454f5053 where an option begins; connection closed"));
}

/* ---- 7, 9, 10, 11, 12, 13: INFO and GO ---- */

static void test_9_info_then_go(void **state)
{
    static const uint16_t infos[] = {NBD_INFO_BLOCK_SIZE, NBD_INFO_NAME, NBD_INFO_DESCRIPTION, 17, 0xffff,
                                     NBD_INFO_EXPORT,     NBD_INFO_NAME};
    static const uint8_t block_size[14] = {0, 3, 0, 0, 0, 1, 0, 0, 0x10, 0, 2, 0, 0, 0};
    static const uint8_t export_info[12] = {0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0x01, 0x8f};
    uint8_t data[128], seen[2][512];
    size_t len[2] = {0, 0};
    client_greet(&c, &h, 3);
    send_option(&c, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
    take_option_reply(&c, NBD_OPT_STRUCTURED_REPLY);
    for (uint32_t k = 0; k < 2; k++) {
        uint32_t option = k ? NBD_OPT_GO : NBD_OPT_INFO;
        unsigned n_infos = 0, n_exports = 0;
        send_option(&c, option, data, go_data(data, "ro-\xc3\xa9", 5, infos, ARRAY_LEN(infos)));
        for (;; n_infos++) {
            struct option_answer a = take_option_reply(&c, option);
            if (a.type == NBD_REP_ACK)
                break;
            assert_int_equal(a.type, NBD_REP_INFO);
            if (a.data[1] == NBD_INFO_EXPORT) {
                n_exports++;
                assert_int_equal(a.len, 12);
                assert_memory_equal(a.data, export_info, 12);
            } else if (a.data[1] == NBD_INFO_BLOCK_SIZE) {
                assert_int_equal(a.len, 14);
                assert_memory_equal(a.data, block_size, 14);
            } else if (a.data[1] == NBD_INFO_NAME) {
                assert_int_equal(a.len, 7);
                assert_memory_equal(a.data, "\0\1ro-\xc3\xa9", 7);
            } else {
                assert_memory_equal(a.data, "\0\2a read-only disk", a.len);
            }
            memcpy(seen[k] + len[k], a.data, a.len);
            len[k] += a.len;
        }
        assert_int_equal(n_infos, 4); /* the repeated request was answered once, unknown ones not at all */
        assert_int_equal(n_exports, 1);
    }
    assert_int_equal(len[0], len[1]); /* "the server MUST reply with the same set of information" */
    assert_memory_equal(seen[0], seen[1], len[0]);
    expect_nothing(&c); /* "MUST NOT send any zero padding bytes" after GO */
    send_request(&c, NBD_CMD_FLUSH, 0, 5, 0, 0);
    expect_reply(&c, true, NBD_CMD_FLUSH, 5, 0);
    client_close(&c);
}

static void test_9_go_is_never_padded(void **state)
{
    client_greet(&c, &h, 1); /* NO_ZEROES not negotiated */
    send_go(&c, NBD_OPT_GO, "");
    assert_int_equal(take_option_reply(&c, NBD_OPT_GO).len, 12);
    assert_int_equal(take_option_reply(&c, NBD_OPT_GO).type, NBD_REP_ACK);
    expect_nothing(&c);
    expect_transmission(&c);
    client_close(&c);
}

static void test_13_transmission_flags(void **state)
{
    assert_int_equal(client_enter(&c, &h, "disk", false), 0x96d);
    client_close(&c);
    assert_int_equal(client_enter(&c, &h, "disk", true), 0x9ed);
    client_close(&c);
    assert_int_equal(client_enter(&c, &h, "ro-\xc3\xa9", false), 0x10f);
    client_close(&c);
    assert_int_equal(client_enter(&c, &h, "ro-\xc3\xa9", true), 0x18f);
    client_close(&c);
}

static void test_10_unknown_export(void **state)
{
    client_greet(&c, &h, 3);
    for (uint32_t option = NBD_OPT_INFO; option <= NBD_OPT_GO; option++) {
        send_go(&c, option, "nosuch");
        expect_option_error(&c, option, NBD_REP_ERR_UNKNOWN, "no such export"); /* the first reply: no INFO before it */
    }
    h.server.exports.default_export = NULL;
    send_go(&c, NBD_OPT_GO, "");
    expect_option_error(&c, NBD_OPT_GO, NBD_REP_ERR_UNKNOWN, "default");
    expect_in_step(&c);
    send_go(&c, NBD_OPT_GO, "disk");
    assert_int_equal(take_option_reply(&c, NBD_OPT_GO).type, NBD_REP_INFO);
    assert_int_equal(take_option_reply(&c, NBD_OPT_GO).type, NBD_REP_ACK);
    expect_transmission(&c);
    client_close(&c);
}

static void test_7_inner_lengths(void **state)
{
    uint8_t data[64];
    static const uint16_t infos[] = {NBD_INFO_NAME, NBD_INFO_BLOCK_SIZE};
    uint32_t good = go_data(data, "disk", 4, infos, 2);
    client_greet(&c, &h, 3);
    /* every truncation, and one and two bytes too many */
    for (uint32_t n = 0; n <= good + 2; n++) {
        if (n == good)
            continue;
        send_option(&c, NBD_OPT_INFO, data, n);
        expect_option_error(&c, NBD_OPT_INFO, NBD_REP_ERR_INVALID, "the option's data");
    }
    static const uint32_t name_lengths[] = {0,   3,          5,          6,          7,          8,         9,
                                            100, 0x7fffffff, 0xfffffffa, 0xfffffffb, 0xfffffffe, 0xffffffff};
    for (size_t i = 0; i < ARRAY_LEN(name_lengths); i++) {
        uint32_t be = htobe32(name_lengths[i]);
        memcpy(data, &be, 4);
        send_option(&c, NBD_OPT_GO, data, good);
        expect_option_error(&c, NBD_OPT_GO, NBD_REP_ERR_INVALID, NULL);
    }
    good = go_data(data, "disk", 4, infos, 2);
    static const uint16_t counts[] = {0, 1, 3, 0x8002, 0xffff};
    for (size_t i = 0; i < ARRAY_LEN(counts); i++) {
        uint16_t be = htobe16(counts[i]);
        memcpy(data + 8, &be, 2);
        send_option(&c, NBD_OPT_GO, data, good);
        expect_option_error(&c, NBD_OPT_GO, NBD_REP_ERR_INVALID, "information requests");
    }
    expect_in_step(&c);
    client_close(&c);
}

static void test_7_strings(void **state)
{
    static uint8_t data[NBD_STRING_MAX + 64], longest[NBD_STRING_MAX + 1];
    static const char *const bad[] = {"\x80",
                                      "\xc0\x80",
                                      "\xc1\xbf",
                                      "\xc3",
                                      "\xc3(",
                                      "\xe0\x80\x80",
                                      "\xe0\x9f\xbf",
                                      "\xed\xa0\x80",
                                      "\xe2\x82",
                                      "\xf0\x80\x80\x80",
                                      "\xf0\x8f\xbf\xbf",
                                      "\xf4\x90\x80\x80",
                                      "\xf5\x80\x80\x80",
                                      "\xff",
                                      "ab\xfe",
                                      "\xf0\x9f\x98"};
    static const char *const fine[] = {"\xc2\x80",         "\xdf\xbf",         "\xe0\xa0\x80",
                                       "\xed\x9f\xbf",     "\xee\x80\x80",     "\xef\xbf\xbf",
                                       "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf", "\x7f"};
    client_greet(&c, &h, 3);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        send_go(&c, NBD_OPT_GO, bad[i]);
        expect_option_error(&c, NBD_OPT_GO, NBD_REP_ERR_INVALID, "UTF-8");
    }
    for (size_t i = 0; i < ARRAY_LEN(fine); i++) {
        send_go(&c, NBD_OPT_GO, fine[i]);
        expect_option_error(&c, NBD_OPT_GO, NBD_REP_ERR_UNKNOWN, NULL);
    }
    send_option(&c, NBD_OPT_GO, data, go_data(data, "disk\0", 5, NULL, 0));
    expect_option_error(&c, NBD_OPT_GO, NBD_REP_ERR_INVALID, "NUL");
    send_option(&c, NBD_OPT_GO, data, go_data(data, "\0", 1, NULL, 0));
    expect_option_error(&c, NBD_OPT_GO, NBD_REP_ERR_INVALID, "NUL");
    memset(longest, 'a', sizeof longest);
    send_option(&c, NBD_OPT_GO, data, go_data(data, longest, sizeof longest, NULL, 0));
    expect_option_error(&c, NBD_OPT_GO, NBD_REP_ERR_INVALID, "4096");
    expect_in_step(&c);
    client_close(&c);
}

/* ---- waiting for an export ---- */

static void detach_disk(const char *why, bool refused)
{
    h.disk.x.attached = false;
    h.disk.x.refused = refused;
    snprintf(h.disk.x.state, sizeof h.disk.x.state, "%s", why);
}

static void test_attach_wait(void **state)
{
    detach_disk("no majority of replicas", false);
    client_greet(&c, &h, 3);
    send_go(&c, NBD_OPT_GO, "disk");
    for (int i = 0; i < 29; i++) {
        run_ms(&h, 1000);
        assert_int_equal(unread(&c), 0);
    }
    h.disk.x.attached = true; /* nobody tells: the poll finds out */
    assert_int_equal(take_option_reply(&c, NBD_OPT_GO).type, NBD_REP_INFO);
    assert_int_equal(take_option_reply(&c, NBD_OPT_GO).type, NBD_REP_ACK);
    expect_transmission(&c);
    run_ms(&h, 60000); /* no timer of the handshake is left */
    expect_transmission(&c);
    client_close(&c);
}

static void test_attach_told(void **state)
{
    detach_disk("", false);
    client_greet(&c, &h, 3);
    send_option(&c, NBD_OPT_EXPORT_NAME, "disk", 4);
    expect_nothing(&c);
    h.disk.x.attached = true;
    nbd_server_export_changed(&h.server, &h.disk.x);
    uint64_t before = sim_now(h.w);
    take(&c, 10);
    assert_true(sim_now(h.w) - before < 20 * NS_PER_MS);
    expect_transmission(&c);
    client_close(&c);
}

static void test_attach_time_out(void **state)
{
    detach_disk("no majority of replicas", false);
    client_greet(&c, &h, 3);
    send_go(&c, NBD_OPT_INFO, "");
    run_ms(&h, 29900);
    assert_int_equal(unread(&c), 0);
    expect_option_error(&c, NBD_OPT_INFO, NBD_REP_ERR_UNKNOWN, "disk is not available: no majority of replicas");
    /* The wait does not count against the handshake. */
    run_ms(&h, 5000);
    expect_in_step(&c);
    send_option(&c, NBD_OPT_EXPORT_NAME, "disk", 4);
    run_ms(&h, 29000);
    assert_false(c.gone);
    run_ms(&h, 2000);
    expect_end(&c);
    client_close(&c);
    assert_true(logged("EXPORT_NAME cannot be served: disk is not available: no majority of replicas"));
}

static void test_attach_refused(void **state)
{
    detach_disk("held by nbdserver-1 (lease ends in 1.2 s)", true);
    client_greet(&c, &h, 3);
    send_go(&c, NBD_OPT_GO, "disk");
    uint64_t before = sim_now(h.w);
    expect_option_error(&c, NBD_OPT_GO, NBD_REP_ERR_POLICY, "held by nbdserver-1 (lease ends in 1.2 s)");
    assert_true(sim_now(h.w) - before < 100 * NS_PER_MS);
    expect_in_step(&c);
    /* while waiting */
    detach_disk("taking over", false);
    send_go(&c, NBD_OPT_GO, "disk");
    expect_nothing(&c);
    detach_disk("held by nbdserver-2", true);
    nbd_server_export_changed(&h.server, &h.disk.x);
    expect_option_error(&c, NBD_OPT_GO, NBD_REP_ERR_POLICY, "held by nbdserver-2");
    send_option(&c, NBD_OPT_EXPORT_NAME, "disk", 4);
    expect_end(&c);
    client_close(&c);
    assert_true(logged("held by nbdserver-2; connection closed"));
}

static void test_attach_impatient_client(void **state)
{
    detach_disk("", false);
    client_greet(&c, &h, 3);
    send_go(&c, NBD_OPT_INFO, "disk");
    send_option(&c, 99, NULL, 0); /* must not, before the final reply; it is answered in order all the same */
    send_option(&c, NBD_OPT_LIST, NULL, 0);
    expect_nothing(&c);
    h.disk.x.attached = true;
    assert_int_equal(take_option_reply(&c, NBD_OPT_INFO).type, NBD_REP_INFO);
    assert_int_equal(take_option_reply(&c, NBD_OPT_INFO).type, NBD_REP_ACK);
    expect_option_error(&c, 99, NBD_REP_ERR_UNSUP, NULL);
    for (int i = 0; i < 3; i++)
        assert_int_equal(take_option_reply(&c, NBD_OPT_LIST).type, NBD_REP_SERVER);
    assert_int_equal(take_option_reply(&c, NBD_OPT_LIST).type, NBD_REP_ACK);
    client_close(&c);
    /* one that leaves while it waits */
    detach_disk("", false);
    client_greet(&c, &h, 3);
    send_go(&c, NBD_OPT_GO, "disk");
    run_ms(&h, 1000);
    client_close(&c);
    assert_int_equal(h.server.n_connections, 0);
}

/* ---- limits ---- */

static void test_handshake_timeout(void **state)
{
    static const uint8_t partial[20] = {0, 0, 0, 3, 'I', 'H', 'A', 'V', 'E', 'O', 'P', 'T', 0, 0, 0, 3};
    for (size_t n = 0; n <= 20; n += 5) {
        client_open(&c, &h);
        take(&c, 18);
        client_send(&c, partial, n > 19 ? 19 : n);
        run_ms(&h, 29000);
        assert_false(c.gone);
        run_ms(&h, 1500);
        expect_end(&c);
        client_close(&c);
    }
    assert_true(logged("the handshake took longer than 30 s; connection closed"));
    /* talking does not prolong it */
    client_greet(&c, &h, 3);
    for (int i = 0; i < 40 && !c.gone; i++) {
        send_option(&c, 99, NULL, 0);
        run_ms(&h, 1000);
    }
    assert_true(c.gone);
    assert_int_equal(h.server.n_connections, 0);
    client_close(&c);
}

static void test_connection_limit(void **state)
{
    struct client k[4];
    h.server.connections_max = 3;
    for (int i = 0; i < 3; i++)
        client_greet(&k[i], &h, 3);
    client_open(&k[3], &h);
    expect_end(&k[3]); /* no greeting */
    client_close(&k[3]);
    assert_true(logged("refused: too many connections"));
    client_close(&k[1]);
    client_greet(&k[1], &h, 3);
    for (int i = 0; i < 3; i++) {
        expect_in_step(&k[i]);
        client_close(&k[i]);
    }
}

static void test_client_that_never_reads(void **state)
{
    if (chunk == 1)
        return;
    client_greet(&c, &h, 3);
    client_stop_reading(&c, true);
    for (int i = 0; i < 60000 && h.server.n_connections > 0; i++) {
        send_option(&c, NBD_OPT_LIST, NULL, 0);
        if (i % 100 == 0)
            run_ms(&h, 1);
    }
    assert_int_equal(h.server.n_connections, 0);
    assert_true(logged("sends options without reading the replies"));
    client_close(&c);
}

/* ---- shutdown ---- */

static void on_drained(struct nbd_server *s)
{
    assert_int_equal(s->n_connections, 0);
    h.drained++;
}

static void test_shutdown_of_haggling(void **state)
{
    struct client busy, named, aborting, waiting, late;
    h.disk.mode = MEMORY_HOLD;
    client_enter(&busy, &h, "disk", false);
    send_request(&busy, NBD_CMD_READ, 0, 9, 0, 4096);
    client_greet(&c, &h, 3);
    client_greet(&named, &h, 3);
    client_greet(&aborting, &h, 3);
    client_greet(&waiting, &h, 3);
    h.big.x.attached = false;
    send_go(&waiting, NBD_OPT_GO, "big");
    run_ms(&h, 100);
    nbd_server_shutdown(&h.server, on_drained);
    expect_option_error(&waiting, NBD_OPT_GO, NBD_REP_ERR_SHUTDOWN, "shutting down");
    send_go(&c, NBD_OPT_GO, "disk");
    expect_option_error(&c, NBD_OPT_GO, NBD_REP_ERR_SHUTDOWN, "shutting down");
    send_option(&c, NBD_OPT_LIST, "x", 1);
    expect_option_error(&c, NBD_OPT_LIST, NBD_REP_ERR_SHUTDOWN, "shutting down");
    send_option(&named, NBD_OPT_EXPORT_NAME, "disk", 4);
    expect_end(&named);
    send_option(&aborting, NBD_OPT_ABORT, NULL, 0);
    assert_int_equal(take_option_reply(&aborting, NBD_OPT_ABORT).type, NBD_REP_ACK);
    expect_end(&aborting);
    client_open(&late, &h);
    expect_end(&late);
    assert_int_equal(h.drained, 0);
    memory_export_complete_all(&h.disk);
    struct reply_seen s = take_reply(&busy, false, NBD_CMD_READ, 0, 0, 4096, (uint8_t[4096]){0});
    assert_int_equal(s.error, 0);
    expect_end(&busy);
    expect_end(&c);
    expect_end(&waiting);
    run_ms(&h, 100);
    assert_int_equal(h.drained, 1);
    struct client *all[] = {&busy, &named, &aborting, &waiting, &late, &c};
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        client_close(all[i]);
}

static void test_shutdown_without_clients(void **state)
{
    nbd_server_shutdown(&h.server, on_drained);
    run_ms(&h, 10);
    assert_int_equal(h.drained, 1);
    run_ms(&h, 1000);
    assert_int_equal(h.drained, 1);
}

/* ---- hostile input ---- */

/* Every prefix of a session, then the end. */
static void test_truncation_everywhere(void **state)
{
    uint8_t script[256];
    size_t n = 0;
    struct nbd_option_header o = {htobe64(NBD_OPTION_MAGIC), htobe32(NBD_OPT_STRUCTURED_REPLY), 0};
    uint32_t flags = htobe32(3);
    memcpy(script, &flags, 4);
    n += 4;
    memcpy(script + n, &o, sizeof o);
    n += sizeof o;
    static const uint16_t infos[] = {NBD_INFO_BLOCK_SIZE};
    uint32_t len = go_data(script + n + sizeof o, "disk", 4, infos, 1);
    o.option = htobe32(NBD_OPT_GO);
    o.length = htobe32(len);
    memcpy(script + n, &o, sizeof o);
    n += sizeof o + len;
    for (size_t k = 0; k <= n; k++) {
        client_open(&c, &h);
        client_send(&c, script, k);
        run_ms(&h, 5);
        client_close(&c);
        assert_int_equal(h.server.n_connections, 0);
    }
    assert_int_equal(log_warning_count(), 0); /* leaving is no offence */
}

/* Random options, lengths and data: the server answers or closes, and others never notice. */
static void test_garbage(void **state)
{
    struct client witness;
    client_greet(&witness, &h, 3);
    for (int round = 0; round < 300; round++) {
        uint8_t junk[600];
        client_open(&c, &h);
        send_client_flags(&c, sim_rand(h.w) % 8 == 0 ? (uint32_t)sim_rand(h.w) : 3);
        for (int i = 0; i < 4; i++) {
            uint32_t len = (uint32_t)(sim_rand(h.w) % 64),
                     declared = sim_rand(h.w) % 8 == 0 ? (uint32_t)sim_rand(h.w) : len;
            for (size_t j = 0; j < len; j++)
                junk[j] = sim_rand(h.w) % 2 ? 0 : (uint8_t)sim_rand(h.w);
            struct nbd_option_header o = {htobe64(NBD_OPTION_MAGIC), htobe32((uint32_t)(sim_rand(h.w) % 13)),
                                          htobe32(declared)};
            if (sim_rand(h.w) % 16 == 0)
                ((uint8_t *)&o)[sim_rand(h.w) % sizeof o] ^= (uint8_t)sim_rand(h.w);
            client_send(&c, &o, sizeof o);
            client_send(&c, junk, len);
        }
        run_ms(&h, 2);
        client_close(&c);
        if (round % 20 == 0)
            run_ms(&h, 1);
    }
    h.server.handshake_timeout_ns = 30 * NS_PER_S;
    assert_int_equal(h.server.n_connections, witness.gone ? 0 : 1);
    if (!witness.gone)
        expect_in_step(&witness);
    client_close(&witness);
}

/* clang-format off */
#define BOTH(f) {#f " (byte by byte)", f, set_up_bytes, tear_down, NULL}, {#f " (in pieces)", f, set_up_pieces, tear_down, NULL}
/* clang-format on */

int main(void)
{
    const struct CMUnitTest tests[] = {
        BOTH(test_1_greeting),
        BOTH(test_1_client_flags),
        BOTH(test_2_export_name),
        BOTH(test_6_export_name_refused),
        BOTH(test_7_longest_name),
        BOTH(test_3_unknown_options),
        BOTH(test_3_long_option),
        BOTH(test_4_abort),
        BOTH(test_list),
        BOTH(test_5_data_where_none_belongs),
        BOTH(test_wrong_option_magic),
        BOTH(test_9_info_then_go),
        BOTH(test_9_go_is_never_padded),
        BOTH(test_13_transmission_flags),
        BOTH(test_10_unknown_export),
        BOTH(test_7_inner_lengths),
        BOTH(test_7_strings),
        BOTH(test_attach_wait),
        BOTH(test_attach_told),
        BOTH(test_attach_time_out),
        BOTH(test_attach_refused),
        BOTH(test_attach_impatient_client),
        BOTH(test_handshake_timeout),
        BOTH(test_connection_limit),
        BOTH(test_client_that_never_reads),
        BOTH(test_shutdown_of_haggling),
        BOTH(test_shutdown_without_clients),
        BOTH(test_truncation_everywhere),
        BOTH(test_garbage),
    };
    return cmocka_run_group_tests_name("nbd handshake", tests, NULL, NULL);
}
