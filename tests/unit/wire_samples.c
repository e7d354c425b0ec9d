#include "tests/unit/wire_samples.h"

#include <errno.h>
#include <stdlib.h>

#include "base/crc32c.h"

struct arena *arena;
struct sample samples[SAMPLES_MAX];
unsigned n_samples;
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

uint64_t next_random(void)
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

int samples_setup(void **state)
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

int samples_teardown(void **state)
{
    for (unsigned i = 0; i < n_samples; i++) {
        entry_unref(wire_msg_entry(&samples[i].m));
        buf_unref(samples[i].payload);
    }
    arena_free(arena); /* asserts that nothing leaked */
    return 0;
}

const char *decode_exact(const struct wire_header *h, const uint8_t *body, struct msg *ret, void **ret_memory)
{
    uint8_t *exact = malloc(h->body_len ? h->body_len : 1);
    memcpy(exact, body, h->body_len);
    memset(ret, 0, sizeof *ret);
    *ret_memory = exact;
    return wire_decode(arena, h, exact, ret);
}

void seal(struct wire_header *h, const uint8_t *body)
{
    h->body_crc = crc32c(body, h->body_len);
    h->header_crc = 0;
    h->header_crc = crc32c(h, sizeof *h);
}

const struct sample *nth_sample(uint16_t type, unsigned nth)
{
    for (unsigned i = 0; i < n_samples; i++)
        if (samples[i].m.type == type && nth-- == 0)
            return &samples[i];
    fail_msg("no such sample");
    return NULL;
}
