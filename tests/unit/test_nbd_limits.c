/* The NBD side's limits and ends, over simulated connections: who is held back and in which order, who is dropped, what
 * a fence and a shutdown leave behind. */
#include "tests/unit/nbd_harness.h"

static struct harness h;
static struct client c;

static int set_up(void **state)
{
    harness_open(&h, 4, 64u << 10, 0);
    return 0;
}

static int set_up_small_arena(void **state)
{
    harness_open(&h, 5, 64u << 10, 3 * MIB);
    return 0;
}

static int tear_down(void **state)
{
    harness_close(&h);
    return 0;
}

/* ---- limits ---- */

static void test_in_flight_limit(void **state)
{
    h.server.in_flight_max = 8;
    h.disk.mode = MEMORY_HOLD;
    client_enter(&c, &h, "disk", false);
    for (uint32_t i = 0; i < 100; i++)
        send_request(&c, NBD_CMD_FLUSH, 0, i, 0, 0);
    for (uint32_t i = 0; i < 100; i++) {
        run_ms(&h, 5);
        assert_in_range(h.disk.n_held, 1, 8);
        memory_export_complete(&h.disk, 0);
        expect_reply(&c, false, NBD_CMD_FLUSH, i, 0);
    }
    assert_int_equal(h.disk.n_held_max, 8);
    expect_nothing(&c);
    client_close(&c);
}

/* Four clients, and memory for one and a half requests: each waits for its turn, in order, and nothing is lost. */
static void test_payload_limit(void **state)
{
    struct client k[4];
    h.server.payload_limit_bytes = 3 * MIB / 2;
    h.disk.mode = MEMORY_HOLD;
    for (uint32_t i = 0; i < 4; i++) {
        client_enter(&k[i], &h, "disk", false);
        for (uint32_t j = 0; j < 2; j++)
            send_write(&k[i], 0, j, (2 * i + j) * MIB, pattern + i + 4 * j, MIB);
        run_ms(&h, 100);
    }
    for (uint32_t n = 0; n < 8; n++) {
        run_ms(&h, 200);
        assert_int_equal(h.disk.n_held, 1);
        assert_true(h.server.payload_bytes <= h.server.payload_limit_bytes);
        memory_export_complete(&h.disk, 0);
    }
    for (uint32_t i = 0; i < 4; i++)
        for (uint32_t j = 0; j < 2; j++) {
            expect_reply(&k[i], false, NBD_CMD_WRITE, j, 0);
            assert_memory_equal(h.disk.bytes + (2 * i + j) * MIB, pattern + i + 4 * j, MIB);
        }
    /* One that is larger than the limit goes through all the same. */
    send_write(&k[0], 0, 1, 0, pattern, 4 * MIB);
    run_ms(&h, 300);
    assert_int_equal(h.disk.n_held, 1);
    memory_export_complete(&h.disk, 0);
    expect_reply(&k[0], false, NBD_CMD_WRITE, 1, 0);
    /* Small ones don't overtake those who wait, though there is room for them. */
    send_write(&k[0], 0, 1, 0, pattern, MIB);
    run_ms(&h, 300);
    assert_int_equal(h.disk.n_held, 1);
    send_write(&k[1], 0, 1, 0, pattern, MIB);
    run_ms(&h, 50);
    send_write(&k[2], 0, 1, 0, pattern, 4096);
    run_ms(&h, 50);
    assert_int_equal(h.disk.n_held, 1);
    memory_export_complete(&h.disk, 0);
    run_ms(&h, 300);
    assert_int_equal(h.disk.n_held, 2);
    memory_export_complete_all(&h.disk);
    for (uint32_t i = 0; i < 3; i++)
        expect_reply(&k[i], false, NBD_CMD_WRITE, 1, 0);
    for (uint32_t i = 0; i < 4; i++)
        client_close(&k[i]);
    assert_int_equal(log_warning_count(), 0);
}

/* The arena is smaller than what the clients want at once. */
static void test_arena_used_up(void **state)
{
    struct client k[4];
    struct buf *taken = buf_alloc(sim_reactor_io(h.server_host)->arena, 2 * MIB); /* somebody else's */
    assert_non_null(taken);
    h.disk.mode = MEMORY_HOLD;
    for (uint32_t i = 0; i < 4; i++) {
        client_enter(&k[i], &h, "disk", false);
        send_write(&k[i], 0, i, i * 2 * MIB + 1, pattern + i, MIB + 5);
    }
    run_ms(&h, 2000);
    assert_int_equal(h.disk.n_held, 0); /* each needs two buffers of 1 MiB or so: none is half admitted */
    assert_int_equal(arena_used_bytes(sim_reactor_io(h.server_host)->arena), 2 * MIB);
    buf_unref(taken);
    for (uint32_t n = 0; n < 4; n++) {
        run_ms(&h, 2000);
        assert_in_range(h.disk.n_held, 1, 2);
        memory_export_complete(&h.disk, 0);
    }
    for (uint32_t i = 0; i < 4; i++) {
        expect_reply(&k[i], false, NBD_CMD_WRITE, i, 0);
        assert_memory_equal(h.disk.bytes + i * 2 * MIB + 1, pattern + i, MIB + 5);
        client_close(&k[i]);
    }
}

/* A client that does not take its replies is not read, and gets them all later. Replies are the export's buffers, not
 * copies. */
static void test_unsent_limit(void **state)
{
    h.server.unsent_max_bytes = 4 * MIB;
    memcpy(h.disk.bytes, pattern, DISK_BYTES);
    client_enter(&c, &h, "disk", true);
    client_stop_reading(&c, true);
    for (uint32_t i = 0; i < 40; i++)
        send_request(&c, NBD_CMD_READ, 0, i, 0, MIB);
    run_ms(&h, 2000);
    assert_in_range(h.disk.submitted, 4, 8);
    uint64_t used = arena_used_bytes(sim_reactor_io(h.server_host)->arena);
    assert_in_range(used, 3 * MIB, h.disk.submitted * MIB);
    assert_in_range(h.server.payload_bytes, 4 * MIB, 6 * MIB);
    client_stop_reading(&c, false);
    for (uint32_t i = 0; i < 40; i++) {
        struct reply_seen s = take_reply(&c, true, NBD_CMD_READ, 0, 0, MIB, buffer);
        assert_true(s.cookie == i && s.error == 0);
        assert_memory_equal(buffer, pattern, MIB);
    }
    expect_alive(&c, true);
    client_close(&c);
    assert_int_equal(log_warning_count(), 0);
}

/* Who holds memory, makes no progress and lets others wait is dropped after a while; alone it may take its time. */
static void test_stalled_client(void **state)
{
    struct client payload, replies;
    h.server.payload_limit_bytes = 8 * MIB;
    memcpy(h.disk.bytes, pattern, DISK_BYTES);
    client_enter(&payload, &h, "disk", false);
    send_request(&payload, NBD_CMD_WRITE, 0, 1, 0, MIB + 4096);
    client_send(&payload, pattern, 1000);
    client_enter(&replies, &h, "disk", false);
    client_stop_reading(&replies, true);
    send_request(&replies, NBD_CMD_READ, 0, 1, 0, 6 * MIB);
    run_ms(&h, 500000);
    assert_int_equal(log_warning_count(), 0);
    client_enter(&c, &h, "disk", false);
    send_write(&c, 0, 5, 0, pattern, 3 * MIB);
    run_ms(&h, 50000);
    assert_int_equal(unread(&c), 0);
    assert_false(payload.gone || replies.gone);
    run_ms(&h, 20000);
    assert_true(logged("(a write's payload is outstanding) while others wait for the memory it holds"));
    assert_true(logged("(it does not take its replies) while others wait for the memory it holds"));
    expect_reply(&c, false, NBD_CMD_WRITE, 5, 0);
    client_close(&payload);
    client_close(&replies);
    client_close(&c);
}

static void test_stalled_but_alone(void **state)
{
    client_enter(&c, &h, "disk", false);
    send_request(&c, NBD_CMD_WRITE, 0, 1, 0, MIB);
    client_send(&c, pattern, 1000);
    run_ms(&h, 1000000);
    assert_false(c.gone);
    client_send(&c, pattern + 1000, MIB - 1000);
    expect_reply(&c, false, NBD_CMD_WRITE, 1, 0);
    client_close(&c);
}

/* ---- drop and shutdown ---- */

static void test_drop(void **state)
{
    struct client a, b, haggling;
    h.disk.mode = h.big.mode = MEMORY_HOLD;
    client_enter(&a, &h, "disk", false);
    client_enter(&b, &h, "big", false);
    client_greet(&haggling, &h, 3);
    send_write(&a, 0, 1, 0, pattern, 4096);
    send_request(&a, NBD_CMD_WRITE, 0, 2, 0, MIB);
    send_write(&b, 0, 1, 0, pattern, 4096);
    run_ms(&h, 100);
    nbd_server_drop(&h.server, &h.disk.x, "disk was taken over by nbdserver-2");
    expect_end(&a);
    assert_true(logged("disk was taken over by nbdserver-2; connection closed"));
    assert_int_equal(log_warning_count(), 1);
    memory_export_complete_all(&h.disk);
    assert_int_equal(h.disk.abandoned, 1);
    memory_export_complete_all(&h.big);
    expect_reply(&b, false, NBD_CMD_WRITE, 1, 0);
    expect_nothing(&haggling);
    nbd_server_drop(&h.server, NULL, "all");
    expect_end(&b);
    expect_nothing(&haggling);
    client_close(&a);
    client_close(&b);
    client_close(&haggling);
}

/* An export that drops its clients from within submit(). */
static struct export *fenced;
static void (*real_submit)(struct export *x, struct export_request *r);

static void submit_and_fence(struct export *x, struct export_request *r)
{
    if (r->length == 13)
        nbd_server_drop(&h.server, fenced, "fenced");
    r->error = NBD_ESHUTDOWN;
    r->done(r);
}

static void test_drop_inside_submit(void **state)
{
    fenced = &h.disk.x;
    h.disk.x.submit = submit_and_fence;
    client_enter(&c, &h, "disk", false);
    send_write(&c, 0, 1, 0, pattern, 12);
    send_write(&c, 0, 2, 0, pattern, 13);
    send_write(&c, 0, 3, 0, pattern, 14);
    run_ms(&h, 50);
    assert_true(c.gone);
    client_close(&c);
    real_submit = NULL;
}

static void on_drained(struct nbd_server *s)
{
    assert_int_equal(s->n_connections, 0);
    h.drained++;
}

static void test_33_shutdown(void **state)
{
    struct client idle, busy;
    h.disk.mode = MEMORY_HOLD;
    client_enter(&c, &h, "disk", true);
    client_enter(&idle, &h, "disk", true);
    client_enter(&busy, &h, "disk", true);
    send_write(&c, 0, 1, 0, pattern, 100000);
    run_ms(&h, 100);
    send_write(&busy, 0, 5, MIB, pattern, 4096);
    run_ms(&h, 100);
    assert_int_equal(h.disk.n_held, 2);
    nbd_server_shutdown(&h.server, on_drained);
    send_write(&c, 0, 2, 0, pattern, 5000); /* its payload is taken, the answer is ESHUTDOWN */
    expect_reply(&c, true, NBD_CMD_WRITE, 2, NBD_ESHUTDOWN);
    send_request(&c, NBD_CMD_READ, 0, 3, 0, 5000);
    expect_reply(&c, true, NBD_CMD_READ, 3, NBD_ESHUTDOWN);
    expect_end(&idle);
    assert_int_equal(h.drained, 0);
    memory_export_complete(&h.disk, 0);
    expect_reply(&c, true, NBD_CMD_WRITE, 1, 0);
    expect_end(&c);
    assert_int_equal(h.drained, 0);
    memory_export_complete(&h.disk, 0);
    expect_reply(&busy, true, NBD_CMD_WRITE, 5, 0);
    expect_end(&busy);
    run_ms(&h, 100);
    assert_int_equal(h.drained, 1);
    client_close(&c);
    client_close(&idle);
    client_close(&busy);
}

/* A client that does not take its last replies cannot hold up a shutdown for ever. */
static void test_33_shutdown_of_a_stopped_client(void **state)
{
    memcpy(h.disk.bytes, pattern, DISK_BYTES);
    client_enter(&c, &h, "disk", true);
    client_stop_reading(&c, true);
    send_request(&c, NBD_CMD_READ, 0, 1, 0, 6 * MIB);
    run_ms(&h, 1000);
    nbd_server_shutdown(&h.server, on_drained);
    run_ms(&h, 9000);
    assert_int_equal(h.drained, 0);
    run_ms(&h, 3000);
    assert_int_equal(h.drained, 1);
    client_close(&c);
}

/* clang-format off */
#define WITH(how, f) {#f " (" #how ")", f, how, tear_down, NULL}
/* clang-format on */

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH(set_up, test_in_flight_limit),
        WITH(set_up, test_payload_limit),
        WITH(set_up_small_arena, test_arena_used_up),
        WITH(set_up, test_unsent_limit),
        WITH(set_up, test_stalled_client),
        WITH(set_up, test_stalled_but_alone),
        WITH(set_up, test_drop),
        WITH(set_up, test_drop_inside_submit),
        WITH(set_up, test_33_shutdown),
        WITH(set_up, test_33_shutdown_of_a_stopped_client),
    };
    return cmocka_run_group_tests_name("nbd limits", tests, harness_buffers_make, harness_buffers_free);
}
