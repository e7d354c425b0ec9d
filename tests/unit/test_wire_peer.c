/* Frames on a connection: every split of the stream understood, every violation told.
 *
 * The connection under a peer is a mock of io.h here: it keeps the window's and conn_recv_into()'s promises and
 * nothing else. */
#include "tests/unit/wire_samples.h"

#include <errno.h>
#include <stdlib.h>

static _Alignas(8) uint8_t frame[FRAME_MAX];

struct mock {
    struct reactor reactor;
    struct conn conn;
    struct wire_peer peer;
    uint8_t *out; /* what the peer sent */
    size_t out_len, out_cap;
    uint8_t *window;
    size_t window_len;
    uint8_t *into;
    size_t into_left;
    bool closed, finished, paused;
    /* what the handler does and saw */
    unsigned n_msgs, next_sample, close_at, pause_at;
    const struct sample *expect;
    bool all; /* expect all samples in turn */
    bool done;
    int err;
    const char *reason;
};

static struct mock *mock_of(struct conn *c)
{
    return container_of(c, struct mock, conn);
}

static void mock_send(struct conn *c, const struct segment *segs, unsigned n)
{
    struct mock *k = mock_of(c);
    assert_false(k->closed || k->finished);
    for (unsigned i = 0; i < n; i++) {
        if (k->out_len + segs[i].len > k->out_cap) {
            k->out_cap = 2 * (k->out_len + segs[i].len);
            k->out = realloc(k->out, k->out_cap);
        }
        memcpy(k->out + k->out_len, segs[i].ptr, segs[i].len);
        k->out_len += segs[i].len;
        if (segs[i].buf)
            assert_true((const uint8_t *)segs[i].ptr >= segs[i].buf->data);
    }
}

static void mock_recv_into(struct conn *c, void *ptr, size_t len)
{
    struct mock *k = mock_of(c);
    assert_true(k->into_left == 0 && len > 0);
    k->into = ptr;
    k->into_left = len;
}

static void mock_recv_pause(struct conn *c, bool on)
{
    mock_of(c)->paused = on;
}

static void mock_close(struct conn *c)
{
    assert_false(mock_of(c)->closed);
    mock_of(c)->closed = true;
}

static void mock_finish(struct conn *c)
{
    mock_of(c)->finished = true;
}

static const struct io_vtable mock_io = {
    .conn_send = mock_send,
    .conn_recv_into = mock_recv_into,
    .conn_recv_pause = mock_recv_pause,
    .conn_close = mock_close,
    .conn_finish = mock_finish,
};

/* A peer's struct msg is used for one message after another: only what its type has is compared, as it is encoded. */
static void assert_same_bytes(const struct sample *s, const struct msg *m)
{
    static _Alignas(8) uint8_t a[FRAME_MAX], b[FRAME_MAX];
    size_t len = wire_encode(&s->m, s->payload_len, a);
    assert_int_equal(wire_encode(m, s->payload_len, b), len);
    assert_memory_equal(a, b, len);
}

static void on_msg(struct wire_peer *p, const struct msg *m, struct buf *payload)
{
    struct mock *k = p->user;
    assert_false(k->closed || k->finished || k->paused);
    const struct sample *s = k->all ? &samples[k->n_msgs % n_samples] : k->expect;
    k->n_msgs++;
    assert_same_bytes(s, m);
    struct entry *e = wire_msg_entry(m);
    if (e && e->kind == ENTRY_WRITE) {
        assert_int_equal(entry_verify(e), -1);
        assert_int_equal((uintptr_t)entry_block_data(e, 0) % BLOCK_SIZE, 0);
    }
    if ((m->type == MSG_DATA || m->type == MSG_IMAGE_REPLY) && s->payload_len)
        assert_memory_equal(payload->data, s->payload->data, s->payload_len);
    else
        assert_null(payload);
    if (k->n_msgs == k->close_at)
        wire_peer_close(p);
    if (k->n_msgs == k->pause_at)
        wire_peer_pause(p, true);
}

static void on_closed(struct wire_peer *p, int err, const char *reason)
{
    struct mock *k = p->user;
    assert_null(p->conn);
    k->done = true;
    k->err = err;
    k->reason = reason;
}

static const struct wire_handler handler = {.on_msg = on_msg, .on_closed = on_closed};

static void mock_start(struct mock *k)
{
    memset(k, 0, sizeof *k);
    k->reactor.io = &mock_io;
    k->reactor.arena = arena;
    k->conn.reactor = &k->reactor;
    static uint8_t window[CONN_WINDOW];
    k->window = window;
    k->peer.verify_payload = true;
    wire_peer_accept(&k->peer, &k->conn, &handler, k);
}

/* Presents the window until nothing is taken: at an address that changes, as a window's does. */
static void mock_present(struct mock *k)
{
    while (!k->closed && !k->finished && !k->paused && !k->into_left && k->window_len) {
        uint8_t *at = malloc(k->window_len);
        memcpy(at, k->window, k->window_len);
        size_t used = k->conn.handler->on_data(&k->conn, at, k->window_len);
        free(at);
        assert_true(used <= k->window_len);
        memmove(k->window, k->window + used, k->window_len - used);
        k->window_len -= used;
        if (used == 0 && !k->into_left)
            break;
        if (k->into_left) {
            size_t n = k->window_len < k->into_left ? k->window_len : k->into_left;
            memcpy(k->into, k->window, n);
            k->into += n;
            k->into_left -= n;
            memmove(k->window, k->window + n, k->window_len - n);
            k->window_len -= n;
            if (n && !k->into_left)
                k->conn.handler->on_filled(&k->conn);
        }
    }
}

static void mock_feed(struct mock *k, const uint8_t *p, size_t n)
{
    while (n && !k->closed && !k->finished) {
        size_t take;
        if (k->into_left) {
            take = n < k->into_left ? n : k->into_left;
            memcpy(k->into, p, take);
            k->into += take;
            k->into_left -= take;
            if (!k->into_left)
                k->conn.handler->on_filled(&k->conn);
        } else {
            take = CONN_WINDOW - k->window_len;
            assert_true(take > 0);
            take = n < take ? n : take;
            memcpy(k->window + k->window_len, p, take);
            k->window_len += take;
        }
        p += take;
        n -= take;
        mock_present(k);
    }
}

static void mock_end(struct mock *k, int err)
{
    if (!k->done)
        k->conn.handler->on_closed(&k->conn, k->closed || k->finished ? -ECANCELED : err);
    assert_true(k->done);
    /* Closed peers take anything and do nothing. */
    struct msg m = {.type = MSG_QUERY};
    wire_peer_send(&k->peer, &m);
    wire_peer_close(&k->peer);
    wire_peer_pause(&k->peer, true);
    wire_peer_refuse(&k->peer, "x");
    free(k->out);
}

/* The bytes of one sample, or of all, as a peer sends them. */
static uint8_t *bytes_of(const struct sample *only, size_t *ret_len)
{
    struct mock k;
    mock_start(&k);
    for (unsigned i = 0; i < n_samples; i++) {
        const struct sample *s = &samples[i];
        if (only && only != s)
            continue;
        if (s->payload) {
            /* In two pieces: DATA's payload is gathered from where it is. */
            struct segment two[2] = {{s->payload, s->payload->data, 2048},
                                     {s->payload, s->payload->data + 2048, s->payload_len - 2048}};
            wire_send(&k.conn, &s->m, two, 2);
        } else {
            wire_peer_send(&k.peer, &s->m);
        }
    }
    uint8_t *bytes = k.out;
    *ret_len = k.out_len;
    k.out = NULL;
    mock_end(&k, 0);
    return bytes;
}

static void a_frame_may_be_split_at_every_byte(void **state)
{
    for (unsigned i = 0; i < n_samples; i++) {
        const struct sample *s = &samples[i];
        size_t len;
        uint8_t *bytes = bytes_of(s, &len);
        /* Small frames: at every byte of the header and the body's beginning; then, and in large ones, in steps. */
        for (size_t at = 0; at <= len; at += len > 16384 ? 1021 : at < 600 ? 1 : 61) {
            struct mock k;
            mock_start(&k);
            k.expect = s;
            mock_feed(&k, bytes, at);
            assert_int_equal(k.n_msgs, at == len);
            mock_feed(&k, bytes + at, len - at);
            assert_int_equal(k.n_msgs, 1);
            mock_end(&k, -ECONNRESET);
            assert_int_equal(k.err, -ECONNRESET);
            assert_null(k.reason);
        }
        free(bytes);
    }
}

static void a_stream_may_come_in_any_pieces(void **state)
{
    size_t len;
    uint8_t *bytes = bytes_of(NULL, &len);
    for (unsigned round = 0; round < 12; round++) {
        struct mock k;
        mock_start(&k);
        k.all = true;
        size_t max = round == 0 ? 1 : round == 1 ? len : 1 + next_random() % (round % 2 ? 5000 : 300000);
        size_t limit = round == 0 && len > 20000 ? 20000 : len; /* byte by byte, the beginning is enough */
        for (size_t at = 0; at < limit;) {
            size_t n = 1 + next_random() % max;
            if (n > limit - at)
                n = limit - at;
            mock_feed(&k, bytes + at, n);
            at += n;
        }
        if (limit == len)
            assert_int_equal(k.n_msgs, n_samples);
        else
            assert_true(k.n_msgs > 10);
        mock_end(&k, 0);
        assert_int_equal(k.err, 0);
    }
    free(bytes);
}

/* A stream that ends anywhere leaks nothing: teardown's arena_free() sees it. */
static void a_stream_may_end_anywhere(void **state)
{
    size_t len;
    uint8_t *bytes = bytes_of(NULL, &len);
    for (unsigned round = 0; round < 60; round++) {
        struct mock k;
        mock_start(&k);
        k.all = true;
        size_t end = next_random() % len;
        mock_feed(&k, bytes, end / 2);
        mock_feed(&k, bytes + end / 2, end - end / 2);
        mock_end(&k, 0);
    }
    free(bytes);
}

static void a_handler_may_close_or_pause_in_on_msg(void **state)
{
    size_t len;
    uint8_t *bytes = bytes_of(NULL, &len);
    for (unsigned at = 1; at <= n_samples; at++) {
        struct mock k;
        mock_start(&k);
        k.all = true;
        k.close_at = at;
        mock_feed(&k, bytes, len);
        assert_int_equal(k.n_msgs, at);
        assert_true(k.closed);
        mock_end(&k, 0);
        assert_int_equal(k.err, -ECANCELED);
        assert_null(k.reason);
    }
    const struct sample *s = nth_sample(MSG_BEAT, 0);
    uint8_t *two = malloc(4096);
    size_t one_len;
    uint8_t *one = bytes_of(s, &one_len);
    memcpy(two, one, one_len);
    memcpy(two + one_len, one, one_len);
    struct mock k;
    mock_start(&k);
    k.expect = s;
    k.pause_at = 1;
    mock_feed(&k, two, 2 * one_len);
    assert_int_equal(k.n_msgs, 1);
    wire_peer_pause(&k.peer, false);
    mock_present(&k);
    assert_int_equal(k.n_msgs, 2);
    mock_end(&k, 0);
    free(one);
    free(two);
    free(bytes);
}

static void violation_at(size_t offset, const struct sample *s, const char *says)
{
    size_t len;
    uint8_t *bytes = bytes_of(s, &len);
    struct mock k;
    mock_start(&k);
    k.expect = s;
    bytes[offset] ^= 4;
    mock_feed(&k, bytes, len);
    assert_int_equal(k.n_msgs, 0);
    assert_true(k.closed);
    mock_feed(&k, bytes, len); /* nothing more is looked at */
    mock_end(&k, 0);
    assert_int_equal(k.err, -EPROTO);
    assert_non_null(k.reason);
    if (!strstr(k.reason, says))
        fail_msg("\"%s\" does not say \"%s\"", k.reason, says);
    free(bytes);
}

static void a_violation_ends_the_connection_with_its_reason(void **state)
{
    const struct sample *s = nth_sample(MSG_ACCEPT, 1); /* three blocks */
    size_t body = sizeof(struct wire_accept) + WIRE_ENTRY_MIN + 12;
    violation_at(0, s, "not a frame");
    violation_at(40, s, "header");
    violation_at(sizeof(struct wire_header), s, "body");
    violation_at(sizeof(struct wire_header) + body, s, "payload");
    violation_at(sizeof(struct wire_header) + body + 3 * BLOCK_SIZE - 1, s, "payload");
    s = nth_sample(MSG_ACCEPT, 6); /* 1 MiB: straight to its buffer */
    violation_at(sizeof(struct wire_header) + sizeof(struct wire_accept) + WIRE_ENTRY_MAX + ENTRY_MAX_BYTES - 1, s, "payload");
}

static void payloads_are_not_looked_at_unless_asked_for(void **state)
{
    const struct sample *s = nth_sample(MSG_DATA, 1);
    size_t len;
    uint8_t *bytes = bytes_of(s, &len);
    struct mock k;
    mock_start(&k);
    k.peer.verify_payload = false;
    k.expect = s;
    mock_feed(&k, bytes, len);
    assert_int_equal(k.n_msgs, 1);
    mock_end(&k, 0);
    free(bytes);
}

static struct buf *owners_buf;

static struct buf *give_buf(struct wire_peer *p, const struct msg *m, uint32_t len)
{
    assert_int_equal(m->type, MSG_DATA);
    assert_int_equal(m->u.data.payload_len, len);
    return buf_ref(owners_buf);
}

static void on_data_msg(struct wire_peer *p, const struct msg *m, struct buf *payload)
{
    struct mock *k = p->user;
    k->n_msgs++;
    assert_same_bytes(k->expect, m);
    assert_ptr_equal(payload, owners_buf);
    assert_memory_equal(payload->data, k->expect->payload->data, k->expect->payload_len);
}

static void data_goes_where_the_owner_wants_it(void **state)
{
    static const struct wire_handler h = {.on_msg = on_data_msg, .payload_buf = give_buf, .on_closed = on_closed};
    const struct sample *s = nth_sample(MSG_DATA, 0);
    size_t len;
    uint8_t *bytes = bytes_of(s, &len);
    owners_buf = buf_alloc(arena, s->payload_len);
    struct mock k;
    mock_start(&k);
    k.peer.handler = &h;
    k.expect = s;
    mock_feed(&k, bytes, len / 2);
    mock_feed(&k, bytes + len / 2, len - len / 2);
    assert_int_equal(k.n_msgs, 1);
    mock_end(&k, 0);
    assert_int_equal(owners_buf->refs, 1);
    buf_unref(owners_buf);
    free(bytes);
}

static void a_refusal_says_why(void **state)
{
    struct mock k;
    struct wire_header h;
    struct msg m;
    mock_start(&k);
    wire_peer_refuse(&k.peer, "cluster %s, not %0500d", "a", 7);
    assert_true(k.finished);
    memcpy(&h, k.out, sizeof h);
    assert_null(wire_check_header(&h));
    memcpy(frame, k.out + sizeof h, h.body_len);
    assert_null(wire_decode(arena, &h, frame, &m));
    assert_int_equal(m.type, MSG_REFUSED);
    assert_int_equal(strncmp(m.u.refused.reason, "cluster a, not 000", 18), 0);
    wire_peer_close(&k.peer); /* a peer that does not read is not waited for */
    assert_true(k.closed);
    mock_end(&k, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_frame_may_be_split_at_every_byte),
        TEST(a_stream_may_come_in_any_pieces),
        TEST(a_stream_may_end_anywhere),
        TEST(a_handler_may_close_or_pause_in_on_msg),
        TEST(a_violation_ends_the_connection_with_its_reason),
        TEST(payloads_are_not_looked_at_unless_asked_for),
        TEST(data_goes_where_the_owner_wants_it),
        TEST(a_refusal_says_why),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
