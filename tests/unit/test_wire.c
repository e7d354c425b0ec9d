/* Frames: every message there and back, every mutilation refused, every split of the stream understood.
 *
 * The connection under a peer is a mock of io.h here: it keeps the window's and conn_recv_into()'s promises and nothing else. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/crc32c.h"
#include "base/wire.h"
#include "base/wire_format.h"

#define SAMPLES_MAX 128
#define FRAME_MAX (sizeof(struct wire_header) + WIRE_BODY_MAX)

struct sample {
    struct msg m;
    uint32_t payload_len;
    struct buf *payload; /* DATA's, IMAGE_REPLY's */
};

static struct arena *arena;
static struct sample samples[SAMPLES_MAX];
static unsigned n_samples;
static uint64_t seed = 88172645463325252u;
static struct run runs[RUNS_MAX];
static uint64_t lost[LOST_MAX];
static struct membership memberships[2];
static uint32_t crcs[ENTRY_MAX_BLOCKS];
static uint64_t zero_map[WIRE_ZERO_WORDS], no_zero_map[WIRE_ZERO_WORDS], bad_map[WIRE_ZERO_WORDS], lost_map[WIRE_ZERO_WORDS];
static uint32_t image_crcs[ENTRY_MAX_BLOCKS];
static struct listed_region regions[REGIONS_PER_MESSAGE];
static uint64_t changed_at[REGION_CHUNKS];
static char json[WIRE_BODY_MAX];
static _Alignas(8) uint8_t frame[FRAME_MAX];

static uint64_t next_random(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

static void fill(void *p, size_t n)
{
    for (uint8_t *b = p; n--; b++)
        *b = (uint8_t)next_random();
}

static struct uuid some_uuid(void)
{
    struct uuid u;
    fill(&u, sizeof u);
    u.b[0] |= 1;
    return u;
}

static struct ballot some_ballot(void)
{
    return (struct ballot){next_random() | 1, some_uuid()};
}

static struct log_pos some_pos(void)
{
    return (struct log_pos){next_random(), some_ballot()};
}

static struct credits some_credits(void)
{
    return (struct credits){.slabs = next_random(), .slot_limit = next_random(), .growing = next_random() & 1};
}

static struct membership some_membership(uint64_t slot, unsigned voters, unsigned learners)
{
    struct membership m = {.slot = slot, .n_voters = (uint8_t)voters, .n_learners = (uint8_t)learners};
    for (unsigned i = 0; i < voters; i++)
        m.voter[i] = some_uuid();
    for (unsigned i = 0; i < learners; i++)
        m.learner[i] = some_uuid();
    return m;
}

static struct msg *sample(uint16_t type)
{
    struct sample *s = &samples[n_samples++];
    assert_true(n_samples <= SAMPLES_MAX);
    memset(s, 0, sizeof *s);
    s->m.type = type;
    s->m.cookie = next_random();
    s->m.group = next_random();
    s->m.target = some_uuid();
    s->m.ballot = some_ballot();
    return &s->m;
}

static struct entry *some_entry(const struct msg *m, enum entry_kind kind, uint32_t nblocks)
{
    struct buf *payload = kind == ENTRY_WRITE ? buf_alloc(arena, nblocks * BLOCK_SIZE) : NULL;
    bool ranged = kind == ENTRY_WRITE || kind == ENTRY_TRIM || kind == ENTRY_ZERO;
    struct entry *e = entry_new(arena, kind, ranged ? next_random() >> 20 : 0, nblocks, payload, 0);
    assert_non_null(e);
    e->group = m->group;
    e->slot = (next_random() >> 1) + 1;
    e->e = some_ballot();
    if (kind == ENTRY_MEMBER)
        e->u[0].membership = some_membership(e->slot, 3, 1);
    if (payload) {
        fill(payload->data, nblocks * BLOCK_SIZE);
        for (uint32_t i = 0; i < nblocks; i++)
            entry_crcs(e)[i] = crc32c(entry_block_data(e, i), BLOCK_SIZE);
    }
    samples[n_samples - 1].payload_len = entry_payload_bytes(e);
    return e;
}

static void make_session_samples(void)
{
    struct msg *m = sample(MSG_HELLO);
    m->u.hello.version = WIRE_VERSION;
    m->u.hello.role = ROLE_REPLICA;
    m->u.hello.features = next_random();
    m->u.hello.cluster = some_uuid();
    m->u.hello.identity = some_uuid();
    strcpy(m->u.hello.name, "replica-1");
    m = sample(MSG_REFUSED);
    memset(m->u.refused.reason, 'r', sizeof m->u.refused.reason - 1);
    for (unsigned i = 0; i < 2; i++) {
        m = sample(i ? MSG_NACK : MSG_QUERY_ACK);
        m->u.holder.promised = some_ballot();
        m->u.holder.holder = some_uuid();
        m->u.holder.remaining_ns = next_random();
        m->u.holder.unknown = i;
        m->u.holder.retired = 1;
        if (i == 0)
            m->u.holder.membership = some_membership(77, 3, 0);
        memset(m->u.holder.holder_name, 'h', NAME_MAX_BYTES - 1);
    }
    sample(MSG_QUERY);
    sample(MSG_RELEASE);
    sample(MSG_STATUS);
    m = sample(MSG_STATUS_REPLY);
    m->u.status_reply.json = json;
    m->u.status_reply.len = 1234;
    m = sample(MSG_CREATE);
    m->u.create.size_blocks = 262144;
    m->u.create.membership = some_membership(0, MEMBERS_MAX, MEMBERS_MAX);
    m = sample(MSG_CREATED);
    m->u.created.error = ENOSPC;
    m = sample(MSG_ADDRESS);
    m->u.address.identity.b[15] = 1;
    strcpy(m->u.address.name, "replica-4");
    memset(m->u.address.address, 'x', ADDRESS_MAX_BYTES - 1);
    m = sample(MSG_MEMBERS);
    m->u.members.verb = MEMBERS_CHANGE;
    m->u.members.membership = some_membership(7, 5, 0);
    m = sample(MSG_MEMBERS);
    m->u.members.verb = MEMBERS_LEARN;
    m->u.members.membership = some_membership(7, 1, 0);
    m = sample(MSG_DONE);
    m->u.done.error = EBUSY;
    memset(m->u.done.text, 'y', DONE_TEXT_BYTES - 1);
}

static void promise(uint32_t n_runs, uint32_t n_lost, uint32_t n_memberships)
{
    struct msg *m = sample(MSG_PROMISE);
    m->u.promise.t_ns = next_random();
    m->u.promise.lease_ns = next_random();
    m->u.promise.base = some_pos();
    m->u.promise.base.slot = 1000;
    m->u.promise.commit = some_pos();
    m->u.promise.last = some_pos();
    m->u.promise.size_blocks = next_random();
    m->u.promise.credits = some_credits();
    m->u.promise.n_runs = n_runs;
    m->u.promise.n_lost = n_lost;
    m->u.promise.n_memberships = n_memberships;
    m->u.promise.needs_copy = 1;
    m->u.promise.retired = 1;
    m->u.promise.runs = runs;
    m->u.promise.lost = lost;
    m->u.promise.memberships = memberships;
}

static void make_consensus_samples(void)
{
    uint64_t end = 1000;
    for (unsigned i = 0; i < RUNS_MAX; i++) {
        runs[i] = (struct run){some_ballot(), end + 1, end + 1 + next_random() % 9};
        end = runs[i].last;
    }
    for (unsigned i = 0; i < LOST_MAX; i++)
        lost[i] = 1001 + i; /* the runs reach at least 1024 slots on; see promise() */
    memberships[0] = some_membership(77, 3, 0);
    memberships[1] = some_membership(78, 3, 2);
    runs[RUNS_MAX - 1].last = end + LOST_MAX;

    struct msg *m = sample(MSG_PREPARE);
    m->u.prepare.lease_ns = next_random();
    m->u.prepare.t_ns = next_random();
    strcpy(m->u.prepare.name, "front end");
    promise(0, 0, 0);
    promise(5, 2, 1);
    promise(RUNS_MAX, LOST_MAX, 2);
    m = sample(MSG_FETCH);
    m->u.fetch.at = some_pos();
    m = sample(MSG_OPEN);
    m->u.open.at = some_pos();
    m = sample(MSG_OPENED);
    m->u.opened.m = next_random();
    m->u.opened.credits = some_credits();
    m->u.opened.needs_copy = 1;
    m = sample(MSG_MISMATCH);
    m->u.mismatch.base = some_pos();
    m->u.mismatch.base.slot = 1000;
    m->u.mismatch.commit = some_pos();
    m->u.mismatch.n_runs = 7;
    m->u.mismatch.n_lost = 3;
    m->u.mismatch.runs = runs;
    m->u.mismatch.lost = lost;
    m = sample(MSG_ACCEPTED);
    m->u.accepted.through = next_random();
    m->u.accepted.credits = some_credits();
    m->u.accepted.needs_copy = 1;
    m = sample(MSG_BEAT);
    m->u.beat.t_ns = next_random();
    m->u.beat.lease_ns = next_random();
    m->u.beat.commit = some_pos();
    m = sample(MSG_BEAT_ACK);
    m->u.beat_ack.t_ns = next_random();
    m->u.beat_ack.lease_ns = next_random();
    m->u.beat_ack.commit = next_random();
    m->u.beat_ack.applied = next_random();
    m->u.beat_ack.last = next_random();
    m->u.beat_ack.credits = some_credits();
    m->u.beat_ack.needs_copy = 1;
    m->u.beat_ack.retired = 1;
    m = sample(MSG_FORCE);
    m->u.force.expiry_ns = next_random();
    m = sample(MSG_CATCHUP);
    m->u.catchup.from = some_pos();
    m->u.catchup.max_bytes = next_random();
    m = sample(MSG_CATCHUP_END);
    m->u.catchup_end.status = CATCHUP_UNMATCHED;
    m->u.catchup_end.through = some_pos();
    m->u.catchup_end.commit = some_pos();
}

static void make_entry_samples(void)
{
    static const struct {
        enum entry_kind kind;
        uint32_t nblocks;
    } kinds[] = {{ENTRY_WRITE, 1}, {ENTRY_WRITE, 3}, {ENTRY_TRIM, ENTRY_MAX_RANGE_BLOCKS}, {ENTRY_ZERO, 7}, {ENTRY_SESSION, 0}, {ENTRY_MEMBER, 0}};
    for (unsigned i = 0; i < ARRAY_LEN(kinds); i++) {
        struct msg *m = sample(MSG_ACCEPT);
        m->u.accept.commit = next_random();
        m->u.accept.entry = some_entry(m, kinds[i].kind, kinds[i].nblocks);
        m = sample(MSG_CATCHUP_ENTRY);
        m->u.catchup_entry.entry = some_entry(m, kinds[i].kind, kinds[i].nblocks);
        m = sample(MSG_VALUE);
        m->u.value.found = 1;
        m->u.value.entry = some_entry(m, kinds[i].kind, kinds[i].nblocks);
        m->u.value.at = (struct log_pos){m->u.value.entry->slot, m->u.value.entry->e};
    }
    struct msg *m = sample(MSG_ACCEPT);
    m->u.accept.entry = some_entry(m, ENTRY_WRITE, ENTRY_MAX_BLOCKS);
    m = sample(MSG_VALUE);
    m->u.value.at = some_pos();
}

static void data(uint32_t nblocks, const uint64_t *zero, uint32_t blocks_of_payload)
{
    struct msg *m = sample(MSG_DATA);
    struct sample *s = &samples[n_samples - 1];
    m->u.data.nblocks = nblocks;
    m->u.data.block = next_random() >> 20;
    m->u.data.applied = next_random();
    m->u.data.crc = crcs;
    m->u.data.zero = zero;
    m->u.data.payload_len = s->payload_len = blocks_of_payload * BLOCK_SIZE;
    if (blocks_of_payload) {
        s->payload = buf_alloc(arena, s->payload_len);
        fill(s->payload->data, s->payload_len);
    }
}

static void make_read_samples(void)
{
    struct msg *m = sample(MSG_READ);
    m->u.read.block = next_random() >> 20;
    m->u.read.nblocks = ENTRY_MAX_BLOCKS;
    m->u.read.watermark = next_random();
    fill(crcs, sizeof crcs);
    zero_map[0] = 5; /* blocks 0, 2 and 199 */
    zero_map[3] = UINT64_C(1) << 7;
    crcs[0] = crcs[2] = crcs[199] = CRC32C_ZERO_BLOCK;
    data(200, zero_map, 197);
    data(1, no_zero_map, 1);
    static uint64_t first_only[WIRE_ZERO_WORDS] = {1};
    data(1, first_only, 0);
    m = sample(MSG_DATA);
    m->u.data.status = DATA_BEHIND;
    m->u.data.nblocks = 12;
    m->u.data.applied = next_random();
    m = sample(MSG_STATUS_REPLY);
    m->u.status_reply.json = json;
    m->u.status_reply.len = WIRE_BODY_MAX;
}

static void image_reply(uint32_t nblocks, const uint64_t *zero, const uint64_t *bad, const uint64_t *lost_blocks, uint32_t blocks_of_payload)
{
    struct msg *m = sample(MSG_IMAGE_REPLY);
    struct sample *s = &samples[n_samples - 1];
    m->u.image_reply.nblocks = nblocks;
    m->u.image_reply.block = next_random() >> 20;
    m->u.image_reply.at = some_pos();
    m->u.image_reply.changed_at = next_random();
    m->u.image_reply.wal_ns = next_random();
    m->u.image_reply.wal_quiet_ns = next_random();
    m->u.image_reply.crc = image_crcs;
    m->u.image_reply.zero = zero;
    m->u.image_reply.bad = bad;
    m->u.image_reply.lost = lost_blocks;
    m->u.image_reply.payload_len = s->payload_len = blocks_of_payload * BLOCK_SIZE;
    if (blocks_of_payload) {
        s->payload = buf_alloc(arena, s->payload_len);
        fill(s->payload->data, s->payload_len);
    }
}

static void regions_reply(uint32_t n)
{
    struct msg *m = sample(MSG_REGIONS_REPLY);
    m->u.regions_reply.n = n;
    m->u.regions_reply.more = n > 2;
    m->u.regions_reply.at = some_pos();
    m->u.regions_reply.membership = some_membership(next_random(), 3, 1);
    m->u.regions_reply.region = regions;
}

static void make_copy_samples(void)
{
    struct msg *m = sample(MSG_REGIONS);
    m->u.regions.at = some_pos();
    for (unsigned i = 0; i < REGIONS_PER_MESSAGE; i++)
        regions[i] = (struct listed_region){(i ? regions[i - 1].region : 0) + 1 + (uint32_t)(next_random() % 999), (uint32_t)next_random(), next_random()};
    regions_reply(2);
    regions_reply(REGIONS_PER_MESSAGE);
    m = sample(MSG_REGIONS_REPLY);
    m->u.regions_reply.status = DONOR_INCOMPLETE;
    m = sample(MSG_CHUNKS);
    m->u.chunks.at = some_pos();
    m->u.chunks.since = next_random();
    m->u.chunks.region = (uint32_t)next_random();
    fill(changed_at, sizeof changed_at);
    m = sample(MSG_CHUNKS_REPLY);
    m->u.chunks_reply.region = (uint32_t)next_random();
    m->u.chunks_reply.at = some_pos();
    m->u.chunks_reply.changed = next_random();
    m->u.chunks_reply.changed_at = changed_at;
    m = sample(MSG_CHUNKS_REPLY);
    m->u.chunks_reply.status = DONOR_BEHIND;
    m->u.chunks_reply.region = 7;
    m = sample(MSG_IMAGE);
    m->u.image.at = some_pos();
    m->u.image.block = next_random() >> 20;
    m->u.image.nblocks = ENTRY_MAX_BLOCKS;
    fill(image_crcs, sizeof image_crcs);
    image_reply(1, no_zero_map, no_zero_map, no_zero_map, 1); /* before those with maps: the same checksums */
    bad_map[0] = 2;
    bad_map[2] = UINT64_C(1) << 63;
    lost_map[1] = 1;
    image_crcs[0] = image_crcs[2] = image_crcs[199] = CRC32C_ZERO_BLOCK;
    image_crcs[1] = image_crcs[64] = image_crcs[191] = 0;
    image_reply(200, zero_map, bad_map, lost_map, 194);
    static uint64_t first_only[WIRE_ZERO_WORDS] = {1};
    image_reply(1, first_only, no_zero_map, no_zero_map, 0);
    m = sample(MSG_IMAGE_REPLY);
    m->u.image_reply.status = DONOR_BUSY;
    m->u.image_reply.nblocks = 12;
    m->u.image_reply.block = 77;
}

static struct chunk_digest chunk_digests[REGION_CHUNKS];
static uint32_t chunk_crcs[ENTRY_MAX_BLOCKS];

static void make_scrub_samples(void)
{
    struct msg *m = sample(MSG_DIGESTS);
    m->u.digests.region = (uint32_t)next_random();
    m = sample(MSG_DIGESTS_REPLY);
    m->u.digests_reply.region = 7;
    m->u.digests_reply.applied = 1000;
    m->u.digests_reply.comparable = ~UINT64_C(2);
    m->u.digests_reply.next = 9;
    for (unsigned i = 0; i < REGION_CHUNKS; i++)
        if (i != 1)
            chunk_digests[i] = (struct chunk_digest){i * 10, next_random()};
    m->u.digests_reply.chunk = chunk_digests;
    m = sample(MSG_DIGESTS_REPLY);
    m->u.digests_reply.region = 7;
    m->u.digests_reply.status = DONOR_INCOMPLETE;
    m = sample(MSG_CRCS);
    m->u.crcs.block = 77 * ENTRY_MAX_BLOCKS;
    fill(chunk_crcs, sizeof chunk_crcs);
    for (unsigned i = 0; i < 2; i++) {
        m = sample(MSG_CRCS_REPLY);
        m->u.crcs_reply.nblocks = i ? 3 : ENTRY_MAX_BLOCKS;
        m->u.crcs_reply.block = 78 * ENTRY_MAX_BLOCKS;
        m->u.crcs_reply.applied = 30;
        m->u.crcs_reply.changed_at = 30 - i;
        m->u.crcs_reply.crc = chunk_crcs;
    }
    m = sample(MSG_CRCS_REPLY);
    m->u.crcs_reply.status = DONOR_BUSY;
    m->u.crcs_reply.block = 79 * ENTRY_MAX_BLOCKS;
    sample(MSG_RECOVER);
    m = sample(MSG_SCRUB);
    m->u.scrub.flags = SCRUB_AT_FULL_RATE;
    m = sample(MSG_SCRUB);
}

static int setup(void **state)
{
    arena = arena_new(64 << 20);
    memset(json, 'j', sizeof json);
    n_samples = 0;
    make_session_samples();
    make_consensus_samples();
    make_entry_samples();
    make_read_samples();
    make_copy_samples();
    make_scrub_samples();
    return 0;
}

static int teardown(void **state)
{
    for (unsigned i = 0; i < n_samples; i++) {
        entry_unref(wire_msg_entry(&samples[i].m));
        buf_unref(samples[i].payload);
    }
    arena_free(arena); /* asserts that nothing leaked */
    return 0;
}

/* ---- encoding ---- */

/* Decodes a body from memory of exactly its size, so that the sanitizer sees every read beyond it. */
static const char *decode_exact(const struct wire_header *h, const uint8_t *body, struct msg *ret, void **ret_memory)
{
    uint8_t *exact = malloc(h->body_len ? h->body_len : 1);
    memcpy(exact, body, h->body_len);
    memset(ret, 0, sizeof *ret);
    *ret_memory = exact;
    return wire_decode(arena, h, exact, ret);
}

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
            assert_memory_equal(a->u.data.zero, b->u.data.zero, sizeof zero_map);
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
            assert_memory_equal(a->u.chunks_reply.changed_at, b->u.chunks_reply.changed_at, sizeof changed_at);
        else
            assert_null(b->u.chunks_reply.changed_at);
        x.u.chunks_reply.changed_at = y.u.chunks_reply.changed_at = NULL;
        break;
    case MSG_IMAGE_REPLY:
        if (a->u.image_reply.status == DONOR_OK) {
            assert_memory_equal(a->u.image_reply.crc, b->u.image_reply.crc, a->u.image_reply.nblocks * sizeof(uint32_t));
            assert_memory_equal(a->u.image_reply.zero, b->u.image_reply.zero, sizeof zero_map);
            assert_memory_equal(a->u.image_reply.bad, b->u.image_reply.bad, sizeof zero_map);
            assert_memory_equal(a->u.image_reply.lost, b->u.image_reply.lost, sizeof zero_map);
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
            assert_memory_equal(a->u.digests_reply.chunk, b->u.digests_reply.chunk, sizeof chunk_digests);
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

static void seal(struct wire_header *h, const uint8_t *body)
{
    h->body_crc = crc32c(body, h->body_len);
    h->header_crc = 0;
    h->header_crc = crc32c(h, sizeof *h);
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

/* ---- fields that must be refused, one by one ---- */

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

static const struct sample *nth_sample(uint16_t type, unsigned nth)
{
    for (unsigned i = 0; i < n_samples; i++)
        if (samples[i].m.type == type && nth-- == 0)
            return &samples[i];
    fail_msg("no such sample");
    return NULL;
}

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

/* ---- peers on a mock connection ---- */

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

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

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
        TEST(each_bad_field_is_refused),
        TEST(entries_are_made_beyond_the_limit),
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
