/* A whole replica that needs a copy, and donors that this test plays: the jump, the copier, and donors that are damaged, lying, silent or dying; the replica itself ending at any point. */
#include "tests/unit/replica_harness.h"

#include <errno.h>

#define KNOWN 20u  /* slots that the replica has before it is left behind */
#define BASE 150u  /* where the donors' logs begin */
#define POS 200u   /* where they are */
#define CHUNKS (RR_BLOCKS / CHUNK_BLOCKS)

enum { GOOD, SILENT, DIES, CORRUPT, SAYS_BUSY, SAYS_INCOMPLETE, OTHER_RANGE, TOO_OLD_IMAGE };

/* What the donors have and do; 1 and 2 are those of the configuration. */
static struct {
    uint64_t base, pos;
    struct {
        int how;
        unsigned wrong;           /* so many images are given that way, then rightly */
        uint64_t bad_from, bad_to; /* blocks that are damaged there */
        unsigned images, listings, verdicts;
    } donor[RR_REPLICAS];
    bool clients;         /* they have clients */
    unsigned most_blocks, most_requests; /* that an image was of, that were under way then */
    bool grow;            /* a slot more with each image */
    bool trim_at_listing; /* the logs' floor rises above the position that was listed, once */
    bool drop_member;     /* the membership at the donors does not name the replica */
    bool list_in_two, list_two_positions;
    struct membership membership;
} model;

static uint8_t fill_of(uint64_t slot)
{
    return (uint8_t)(slot * 11 + 1);
}

/* The first ones everywhere; what the replica misses, in chunks 3 and 5 of 16 alone. */
static uint64_t block_of(uint64_t slot)
{
    if (slot <= KNOWN)
        return slot * 100;
    return (slot % 2 ? 3 : 5) * CHUNK_BLOCKS + slot * 7 % 250;
}

static uint8_t fill_at(uint64_t block, uint64_t slot)
{
    uint8_t fill = 0;
    for (uint64_t s = 1; s <= slot; s++)
        if (block >= block_of(s) && block < block_of(s) + 2)
            fill = fill_of(s);
    return fill;
}

static uint64_t changed_at(uint64_t first, uint64_t n, uint64_t slot)
{
    for (uint64_t s = slot; s > 0; s--)
        if (block_of(s) < first + n && block_of(s) + 2 > first)
            return s;
    return 0;
}

static struct log_pos pos_of(uint64_t slot)
{
    return (struct log_pos){.slot = slot, .e = rr_ballot(slot ? 3 : 0)};
}

static struct entry *entry_of(struct rr *rr, uint64_t slot)
{
    return rr_entry(rr, slot, 3, block_of(slot), 2, fill_of(slot));
}

/* ---- donors ---- */

static void give_log(struct rr_probe *p, const struct msg *m)
{
    uint64_t slot = m->u.catchup.from.slot;
    struct msg end = {.type = MSG_CATCHUP_END, .cookie = m->cookie, .group = m->group};
    end.u.catchup_end.commit = pos_of(model.pos);
    if (slot < model.base) {
        end.u.catchup_end.status = CATCHUP_TOO_OLD;
        end.u.catchup_end.through = pos_of(model.base);
        wire_peer_send(&p->peer, &end);
        return;
    }
    for (unsigned n = 0; n < 8 && slot < model.pos; n++) {
        struct entry *e = entry_of(p->rr, ++slot);
        wire_peer_send(&p->peer, &(struct msg){.type = MSG_CATCHUP_ENTRY, .cookie = m->cookie, .group = m->group, .u.catchup_entry.entry = e});
        entry_unref(e);
    }
    end.u.catchup_end.through = pos_of(slot);
    wire_peer_send(&p->peer, &end);
}

static uint32_t present(void)
{
    uint32_t map = 0;
    for (uint32_t l = 0; l < RR_BLOCKS / LEAF_BLOCKS; l++)
        if (changed_at((uint64_t)l * LEAF_BLOCKS, LEAF_BLOCKS, model.pos))
            map |= UINT32_C(1) << l;
    return map;
}

static void give_listing(struct rr_probe *p, const struct msg *m)
{
    struct listed_region region = {.region = 0, .present = present(), .changed_at = model.pos};
    model.donor[p->index].listings++;
    struct membership members = model.membership;
    if (model.drop_member)
        members.voter[0].b[3] ^= 1;
    struct msg r = {.type = MSG_REGIONS_REPLY,
                    .cookie = m->cookie,
                    .group = m->group,
                    .u.regions_reply = {.n = 1, .at = pos_of(model.pos), .membership = members, .region = &region}};
    if (model.list_in_two || model.list_two_positions) { /* the first of them is empty */
        struct msg first = r;
        first.u.regions_reply.n = 0;
        first.u.regions_reply.more = 1;
        if (model.list_two_positions)
            first.u.regions_reply.at = pos_of(model.pos - 1);
        model.list_two_positions = false;
        wire_peer_send(&p->peer, &first);
    }
    wire_peer_send(&p->peer, &r);
    if (!model.trim_at_listing)
        return;
    model.trim_at_listing = false;
    model.base = model.pos + 20;
    model.pos += 40;
}

static void give_verdict(struct rr_probe *p, const struct msg *m)
{
    uint64_t at[REGION_CHUNKS] = {0}, changed = UINT64_MAX;
    model.donor[p->index].verdicts++;
    for (unsigned i = 0; i < CHUNKS; i++) {
        at[i] = changed_at((uint64_t)i * CHUNK_BLOCKS, CHUNK_BLOCKS, model.pos);
        if (at[i] <= m->u.chunks.since && present() >> (i / 2) & 1)
            changed &= ~(UINT64_C(1) << i);
    }
    assert_int_equal(m->u.chunks.region, 0);
    wire_peer_send(&p->peer, &(struct msg){.type = MSG_CHUNKS_REPLY,
                                           .cookie = m->cookie,
                                           .group = m->group,
                                           .u.chunks_reply = {.at = pos_of(model.pos), .changed = changed, .changed_at = at}});
}

static void refuse(struct rr_probe *p, const struct msg *m, enum donor_status status)
{
    wire_peer_send(&p->peer, &(struct msg){.type = MSG_IMAGE_REPLY,
                                           .cookie = m->cookie,
                                           .group = m->group,
                                           .u.image_reply = {.status = status, .nblocks = m->u.image.nblocks, .block = m->u.image.block}});
}

static void give_image(struct rr_probe *p, const struct msg *m, int how)
{
    uint32_t crc[ENTRY_MAX_BLOCKS] = {0}, n = m->u.image.nblocks, bytes = 0;
    uint64_t zero[ENTRY_MAX_BLOCKS / 64] = {0}, bad[ENTRY_MAX_BLOCKS / 64] = {0}, none[ENTRY_MAX_BLOCKS / 64] = {0};
    struct buf *b = buf_alloc_must(sim_reactor_io(p->rr->others)->arena, n * BLOCK_SIZE);
    for (uint32_t i = 0; i < n; i++) {
        uint64_t block = m->u.image.block + i;
        uint8_t fill = fill_at(block, model.pos);
        if (block >= model.donor[p->index].bad_from && block < model.donor[p->index].bad_to) {
            bad[i / 64] |= UINT64_C(1) << (i % 64);
        } else if (fill == 0) {
            zero[i / 64] |= UINT64_C(1) << (i % 64);
            crc[i] = CRC32C_ZERO_BLOCK;
        } else {
            memset(b->data + bytes, fill, BLOCK_SIZE);
            crc[i] = crc32c(b->data + bytes, BLOCK_SIZE);
            if (how == CORRUPT)
                b->data[bytes + 100] ^= 1;
            bytes += BLOCK_SIZE;
        }
    }
    struct msg r = {.type = MSG_IMAGE_REPLY,
                    .cookie = m->cookie,
                    .group = m->group,
                    .u.image_reply = {.nblocks = n,
                                      .block = m->u.image.block + (how == OTHER_RANGE),
                                      .at = how == TOO_OLD_IMAGE ? pos_of(1) : pos_of(model.pos),
                                      .changed_at = model.pos,
                                      .wal_ns = model.clients ? 300000 : 0,
                                      .wal_quiet_ns = 100000,
                                      .crc = crc,
                                      .zero = zero,
                                      .bad = bad,
                                      .lost = none,
                                      .payload_len = bytes}};
    struct segment seg = {.buf = b, .ptr = b->data, .len = bytes};
    wire_send(p->peer.conn, &r, &seg, bytes ? 1 : 0);
    buf_unref(b);
}

static void on_image(struct rr_probe *p, const struct msg *m)
{
    typeof(model.donor[0]) *d = &model.donor[p->index];
    int how = d->images++ < d->wrong ? d->how : GOOD;
    struct replica_group *g = p->rr->replica ? rr_group(p->rr) : NULL; /* it may have ended since it asked */
    unsigned requests = g ? g->copy.n_requests : 0;
    model.most_blocks = m->u.image.nblocks > model.most_blocks ? m->u.image.nblocks : model.most_blocks;
    model.most_requests = requests > model.most_requests ? requests : model.most_requests;
    if (model.grow)
        model.pos++;
    if (how == DIES)
        wire_peer_close(&p->peer);
    else if (how == SAYS_BUSY || how == SAYS_INCOMPLETE)
        refuse(p, m, how == SAYS_BUSY ? DONOR_BUSY : DONOR_INCOMPLETE);
    else if (how != SILENT)
        give_image(p, m, how);
}

static void serve(struct rr_probe *p, const struct msg *m)
{
    switch (m->type) {
    case MSG_CATCHUP:
        give_log(p, m);
        break;
    case MSG_REGIONS:
        give_listing(p, m);
        break;
    case MSG_CHUNKS:
        give_verdict(p, m);
        break;
    case MSG_IMAGE:
        on_image(p, m);
        break;
    default:
        fail_msg("a donor is sent a %s", wire_type_name(m->type));
    }
}

/* ---- the replica ---- */

/* It has KNOWN slots, and its peers' logs begin far above. */
static struct rr *left_behind(uint64_t seed)
{
    struct rr *rr = rr_new(seed);
    memset(&model, 0, sizeof model);
    model.base = BASE;
    model.pos = POS;
    rr->capacity_bytes = 64u << 20;
    rr_start_ok(rr);
    struct rr_probe *p = rr_greet(rr, ROLE_FRONTEND);
    rr_create(rr, p);
    rr_prepare(p, 3, 0);
    rr_open(p, 3, (struct log_pos){0});
    for (uint64_t slot = 1; slot <= KNOWN; slot++)
        rr_accept(p, 3, entry_of(rr, slot), slot - 1);
    rr_beat(p, 3, KNOWN);
    rr_applied(rr, KNOWN);
    model.membership = rr_group(rr)->acceptor.committed;
    wire_peer_close(&p->peer);
    rr_run(rr, NS_PER_MS);
    return rr;
}

static void tell_target(struct rr *rr)
{
    rr_beat(rr_greet(rr, ROLE_FRONTEND), 3, model.pos);
}

static void with_donors(struct rr *rr)
{
    rr_donor(rr, 1, serve);
    rr_donor(rr, 2, serve);
}

static bool is_complete(void *user)
{
    struct rr *rr = user;
    struct replica_group *g = rr->replica ? rr_group(rr) : NULL;
    return g && g->copy.phase == COPY_NONE && !g->acceptor.needs_copy && store_applied(rr->replica->store, RR_GROUP) >= model.pos;
}

static void wait_complete(struct rr *rr)
{
    if (sim_run_until(rr->world, is_complete, rr, 120 * NS_PER_S))
        return;
    struct replica_group *g = rr_group(rr);
    fail_msg("phase %d, catch-up %d, applied %d of %d, %u requests", g->copy.phase, g->catchup.state, (int)store_applied(rr->replica->store, RR_GROUP),
             (int)model.pos, g->copy.n_requests);
}

/* What it would give to others: every block is the model's; those in [bad_from, bad_to) are damaged (lost: and nobody's). */
static void check_blocks(struct rr *rr, uint64_t bad_from, uint64_t bad_to, bool lost)
{
    struct rr_probe *p = rr_greet(rr, ROLE_REPLICA);
    for (uint64_t block = 0; block < RR_BLOCKS; block += ENTRY_MAX_BLOCKS) {
        rr_say(p, (struct msg){.type = MSG_IMAGE, .u.image = {.block = block, .nblocks = ENTRY_MAX_BLOCKS, .at = pos_of(model.pos)}});
        struct rr_got *g = rr_take(p, MSG_IMAGE_REPLY);
        assert_int_equal(g->m.u.image_reply.status, DONOR_OK);
        const uint8_t *next = g->data;
        for (uint32_t i = 0; i < ENTRY_MAX_BLOCKS; i++) {
            bool is_bad = g->bad[i / 64] >> (i % 64) & 1, is_lost = g->lost[i / 64] >> (i % 64) & 1;
            bool gone = block + i >= bad_from && block + i < bad_to;
            if (is_bad != (gone && !lost) || is_lost != (gone && lost))
                fail_msg("block %d is%s%s", (int)(block + i), is_bad ? " bad" : " not bad", is_lost ? " lost" : "");
            if (is_bad || is_lost)
                continue;
            bool zero = g->zero[i / 64] >> (i % 64) & 1;
            uint8_t got = zero ? 0 : next[77], want = fill_at(block + i, g->m.u.image_reply.at.slot);
            next += zero ? 0 : BLOCK_SIZE;
            if (got != want)
                fail_msg("block %d is %d and not %d", (int)(block + i), got, want);
        }
    }
    wire_peer_close(&p->peer);
}

static void check_content(struct rr *rr)
{
    check_blocks(rr, 0, 0, false);
}

static struct store_copy_state copied(struct rr *rr)
{
    struct store_copy_state st;
    store_copy_state(rr->replica->store, RR_GROUP, &st);
    return st;
}

/* ---- the course of a copy ---- */

static void what_changed_is_copied_and_nothing_else(void **state)
{
    struct rr *rr = left_behind(1);
    rr_run(rr, 2 * CLIENTS_NS);
    with_donors(rr);
    tell_target(rr);
    wait_complete(rr);
    check_content(rr);
    struct store_copy_state st = copied(rr);
    /* Two chunks changed; chunks 8 to 15 are nowhere, neither here nor there. */
    assert_int_equal(st.copied_bytes, 2 * CHUNK_BLOCKS * BLOCK_SIZE);
    assert_int_equal(st.unchanged_bytes, 6 * CHUNK_BLOCKS * BLOCK_SIZE);
    assert_int_equal(model.donor[1].listings + model.donor[2].listings, 1);
    assert_int_equal(model.donor[1].verdicts + model.donor[2].verdicts, 1);
    assert_int_equal(model.donor[1].images + model.donor[2].images, 2);
    assert_int_equal(rr_group(rr)->acceptor.log.base.slot, POS);

    rr_crash(rr, SIM_POWER); /* all of it is durable */
    rr_start_ok(rr);
    assert_false(rr_group(rr)->acceptor.needs_copy);
    check_content(rr);
    rr_free(rr);
}

/* Little at a time while clients are there, be it at the donors alone; the same in the end. */
static void clients_are_not_disturbed(void **state)
{
    struct rr *rr = left_behind(1);
    rr_run(rr, 2 * CLIENTS_NS);
    with_donors(rr);
    model.clients = true;
    tell_target(rr);
    store_note_client(rr->replica->store); /* as of the turn that was last: now */
    wait_complete(rr);
    check_content(rr);
    assert_int_equal(copied(rr).copied_bytes, 2 * CHUNK_BLOCKS * BLOCK_SIZE);
    assert_int_equal(model.most_blocks, COPY_GENTLE_BLOCKS);
    assert_in_range(model.most_requests, 1, COPY_GENTLE_REQUESTS);
    assert_int_equal(model.donor[1].images + model.donor[2].images, 2 * CHUNK_BLOCKS / COPY_GENTLE_BLOCKS);
    assert_int_equal(rr->replica->pace.rate, rr->replica->pace.floor); /* their logs are slow */
    assert_true(store_has_clients(rr->replica->store));
    rr_free(rr);
}

static void one_that_has_nothing_copies_all(void **state)
{
    struct rr *rr = rr_new(2);
    memset(&model, 0, sizeof model);
    model.base = BASE;
    model.pos = POS;
    rr->capacity_bytes = 64u << 20;
    rr_start_ok(rr);
    struct rr_probe *p = rr_greet(rr, ROLE_FRONTEND);
    rr_create(rr, p);
    rr_prepare(p, 3, 0);
    model.membership = rr_group(rr)->acceptor.committed;
    with_donors(rr);
    tell_target(rr);
    wait_complete(rr);
    check_content(rr);
    assert_int_equal(copied(rr).unchanged_bytes, 0);
    /* Several at a time, of both. */
    assert_true(model.donor[1].images > 0 && model.donor[2].images > 0);
    rr_free(rr);
}

static void the_others_go_on_meanwhile(void **state)
{
    struct rr *rr = left_behind(3);
    model.grow = true;
    with_donors(rr);
    tell_target(rr);
    wait_complete(rr);
    assert_true(model.pos > POS);
    check_content(rr);
    rr_free(rr);
}

static void a_listing_may_come_in_parts_but_of_one_position(void **state)
{
    for (unsigned i = 0; i < 2; i++) {
        struct rr *rr = left_behind(4 + i);
        model.list_in_two = i == 0;
        model.list_two_positions = i == 1; /* the first time: that donor is dropped */
        with_donors(rr);
        tell_target(rr);
        wait_complete(rr);
        check_content(rr);
        assert_int_equal(model.donor[1].listings + model.donor[2].listings, 1 + i);
        rr_free(rr);
    }
}

static void a_jump_that_came_too_late_is_repeated(void **state)
{
    struct rr *rr = left_behind(6);
    model.trim_at_listing = true;
    with_donors(rr);
    tell_target(rr);
    wait_complete(rr);
    check_content(rr);
    assert_int_equal(model.donor[1].listings + model.donor[2].listings, 2);
    assert_int_equal(rr_group(rr)->acceptor.log.base.slot, model.pos);
    rr_free(rr);
}

/* More was chosen than the donors know: they learn it only when this replica counts again. */
static void it_does_not_wait_for_what_nobody_can_give(void **state)
{
    struct rr *rr = left_behind(8);
    with_donors(rr);
    rr_beat(rr_greet(rr, ROLE_FRONTEND), 3, POS + 8);
    wait_complete(rr);
    assert_int_equal(store_applied(rr->replica->store, RR_GROUP), POS);
    check_content(rr);
    rr_free(rr);
}

static void opens_wait_until_the_jump_is_durable(void **state)
{
    struct rr *rr = left_behind(7);
    with_donors(rr);
    struct rr_probe *p = rr_greet(rr, ROLE_FRONTEND);
    rr_beat(p, 3, model.pos);
    sim_disk_timing(rr->meta)->write_ns = (struct sim_range){40 * NS_PER_MS, 40 * NS_PER_MS};
    while (rr_group(rr)->copy.phase != COPY_JUMPING)
        rr_run(rr, NS_PER_MS / 4);
    assert_int_equal(rr_group(rr)->acceptor.commit, POS);
    unsigned next = p->n_got;
    rr_say(p, (struct msg){.type = MSG_OPEN, .cookie = 5, .ballot = rr_ballot(3), .u.open = {.at = pos_of(POS - 1)}});
    rr_say(p, (struct msg){.type = MSG_OPEN, .cookie = 6, .ballot = rr_ballot(3), .u.open = {.at = pos_of(POS)}});
    rr_run(rr, 5 * NS_PER_MS);
    assert_int_equal(rr_group(rr)->copy.phase, COPY_JUMPING);
    for (unsigned i = next; i < p->n_got; i++)
        assert_true(p->got[i].m.type != MSG_OPENED && p->got[i].m.type != MSG_MISMATCH);
    struct rr_got *g = rr_take(p, MSG_OPENED); /* the last one's answer */
    assert_int_equal(g->m.cookie, 6);
    assert_true(g->m.u.opened.needs_copy);
    assert_int_not_equal(rr_group(rr)->copy.phase, COPY_JUMPING);

    /* In the stream, and copying. */
    for (uint64_t slot = POS + 1; slot <= POS + 10; slot++) {
        model.pos = slot;
        rr_accept(p, 3, entry_of(rr, slot), slot - 1);
        rr_run(rr, 3 * NS_PER_MS);
    }
    rr_beat(p, 3, model.pos);
    wait_complete(rr);
    check_content(rr);
    rr_free(rr);
}

/* ---- donors that are no good ---- */

static void wrong_images_are_asked_elsewhere(void **state)
{
    static const int how[] = {SILENT, DIES, CORRUPT, SAYS_BUSY, SAYS_INCOMPLETE, OTHER_RANGE, TOO_OLD_IMAGE};
    for (unsigned i = 0; i < ARRAY_LEN(how); i++) {
        for (unsigned both = 0; both < 2; both++) {
            struct rr *rr = left_behind(100 + i);
            for (unsigned d = 1; d <= 1 + both; d++) {
                model.donor[d].how = how[i];
                model.donor[d].wrong = both ? 2 : UINT32_MAX;
            }
            if (how[i] == DIES && !both)
                model.donor[1].wrong = 3;
            with_donors(rr);
            tell_target(rr);
            wait_complete(rr);
            check_content(rr);
            rr_free(rr);
        }
    }
}

static void damage_at_one_donor_is_asked_of_the_other(void **state)
{
    for (unsigned d = 1; d <= 2; d++) {
        struct rr *rr = left_behind(200 + d);
        model.donor[d].bad_from = 3 * CHUNK_BLOCKS + 10;
        model.donor[d].bad_to = 3 * CHUNK_BLOCKS + 90;
        with_donors(rr);
        tell_target(rr);
        wait_complete(rr);
        check_content(rr);
        rr_free(rr);
    }
}

/* Every other voter said that it has them not: they are lost, and stay so. */
static void what_no_voter_has_is_lost(void **state)
{
    struct rr *rr = left_behind(210);
    for (unsigned d = 1; d <= 2; d++) {
        model.donor[d].bad_from = 5 * CHUNK_BLOCKS + 10 + d;
        model.donor[d].bad_to = 5 * CHUNK_BLOCKS + 20 + d;
    }
    uint64_t from = 5 * CHUNK_BLOCKS + 12, to = 5 * CHUNK_BLOCKS + 21;
    with_donors(rr);
    tell_target(rr);
    wait_complete(rr);
    check_blocks(rr, from, to, true);
    rr_crash(rr, SIM_POWER);
    rr_start_ok(rr);
    assert_false(rr_group(rr)->acceptor.needs_copy);
    check_blocks(rr, from, to, true);
    rr_free(rr);
}

/* The third voter is away and may have them: damage that is known, which holds up nothing and is healed when it comes. */
static void nothing_is_lost_while_a_voter_is_away(void **state)
{
    struct rr *rr = left_behind(211);
    model.donor[1].bad_from = 5 * CHUNK_BLOCKS + 10;
    model.donor[1].bad_to = 5 * CHUNK_BLOCKS + 20;
    rr_donor(rr, 1, serve);
    tell_target(rr);
    wait_complete(rr);
    check_blocks(rr, model.donor[1].bad_from, model.donor[1].bad_to, false); /* and with this read the repair begins */
    rr_donor(rr, 2, serve);
    rr_run(rr, 20 * NS_PER_S);
    check_content(rr);
    rr_free(rr);
}

static void one_donor_is_enough_after_a_while(void **state)
{
    struct rr *rr = left_behind(212);
    rr_donor(rr, 2, serve);
    tell_target(rr);
    rr_run(rr, 9 * NS_PER_S);
    assert_false(rr_group(rr)->acceptor.needs_copy); /* the other may come yet, and its log may reach back */
    wait_complete(rr);
    check_content(rr);
    rr_free(rr);
}

static void donors_may_come_and_go(void **state)
{
    struct rr *rr = left_behind(213);
    for (unsigned d = 1; d <= 2; d++)
        model.donor[d] = (typeof(model.donor[d])){.how = DIES, .wrong = 6};
    with_donors(rr);
    tell_target(rr);
    for (unsigned i = 0; i < 10; i++) {
        rr_run(rr, 30 * NS_PER_MS);
        if (rr->last_donor && !rr->last_donor->closed)
            wire_peer_close(&rr->last_donor->peer);
    }
    wait_complete(rr);
    check_content(rr);
    rr_free(rr);
}

static void one_that_is_retired_is_not_copied_to(void **state)
{
    struct rr *rr = left_behind(214);
    model.drop_member = true;
    with_donors(rr);
    tell_target(rr);
    rr_run(rr, 10 * NS_PER_S);
    assert_int_equal(store_applied(rr->replica->store, RR_GROUP), KNOWN);
    assert_true(rr_group(rr)->copy.retired);
    char *json = rr_status(rr);
    assert_non_null(strstr(json, "\"state\":\"not a member\""));
    free(json);
    assert_int_equal(model.donor[1].images + model.donor[2].images, 0);
    rr_free(rr);
}

/* ---- ends at any point ---- */

static void it_goes_on_from_wherever_it_ended(void **state)
{
    for (unsigned how = 0; how < 2; how++) {
        for (unsigned at = 0; at < 60; at++) {
            struct rr *rr = left_behind(300 + at);
            model.grow = at % 2;
            sim_disk_timing(rr->meta)->write_ns = (struct sim_range){NS_PER_MS / 4, NS_PER_MS};
            with_donors(rr);
            tell_target(rr);
            for (unsigned lives = 0; lives < 3; lives++) {
                rr_run(rr, at * NS_PER_MS / 3);
                rr_crash(rr, how ? SIM_POWER : SIM_KILL);
                rr_start_ok(rr);
                if (rr_group(rr)->acceptor.commit >= KNOWN && !rr_group(rr)->acceptor.needs_copy)
                    tell_target(rr); /* its own log does not say that it is behind */
            }
            wait_complete(rr);
            check_content(rr);
            rr_free(rr);
        }
    }
}

static void it_ends_in_order_at_any_point(void **state)
{
    for (unsigned at = 0; at < 40; at++) {
        struct rr *rr = left_behind(400 + at);
        model.donor[1].how = SILENT;
        model.donor[1].wrong = at % 3;
        sim_disk_timing(rr->meta)->write_ns = (struct sim_range){NS_PER_MS / 4, NS_PER_MS};
        with_donors(rr);
        tell_target(rr);
        rr_run(rr, at * NS_PER_MS / 3);
        rr_stop(rr); /* asserts that nothing is left */
        rr_start_ok(rr);
        if (!rr_group(rr)->acceptor.needs_copy)
            tell_target(rr);
        wait_complete(rr);
        check_content(rr);
        rr_free(rr);
    }
}

/* ---- the pace ---- */

static uint64_t run_pace(struct pace *p, uint64_t *now, uint64_t ns, uint64_t wal_ns, uint32_t request)
{
    uint64_t taken = 0, end = *now + ns;
    while (*now < end) {
        pace_observe(p, wal_ns, 100000, *now);
        if (pace_allows(p, *now)) {
            pace_take(p, request);
            taken += request;
        } else {
            assert_true(pace_next(p, *now) > *now);
        }
        *now += NS_PER_MS;
    }
    return taken;
}

static void the_pace_gives_way_and_comes_back(void **state)
{
    struct pace p;
    uint64_t now = NS_PER_S, floor = 4 << 20, ceiling = 256 << 20;
    pace_init(&p, floor, ceiling, now);
    run_pace(&p, &now, 40 * NS_PER_S, 124000, 1 << 20); /* slower, and not by a quarter */
    assert_int_equal(p.rate, ceiling);
    uint64_t taken = run_pace(&p, &now, 10 * NS_PER_S, 124000, 1 << 20);
    assert_in_range(taken, 10 * ceiling - (16 << 20), 10 * ceiling + (32 << 20));
    run_pace(&p, &now, 3 * NS_PER_S, 126000, 1 << 20);
    assert_int_equal(p.rate, floor); /* and no lower */
    taken = run_pace(&p, &now, 10 * NS_PER_S, 5000000, 1 << 20);
    assert_in_range(taken, 10 * floor - (2 << 20), 10 * floor + (2 << 20));
    run_pace(&p, &now, NS_PER_S, 100000, 1 << 20);
    assert_in_range(p.rate, floor + 1, 2 * floor); /* by steps */
    run_pace(&p, &now, 40 * NS_PER_S, 100000, 1 << 20);
    assert_int_equal(p.rate, ceiling);
}

/* However slow the log is meanwhile: the copy's own writes make it so. And whoever comes finds the floor, not what was before. */
static void nobody_there_is_given_way_to(void **state)
{
    struct pace p;
    uint64_t now = NS_PER_S, floor = 4 << 20, ceiling = 256 << 20;
    pace_init(&p, floor, ceiling, now);
    assert_int_equal(p.rate, ceiling);
    uint64_t taken = run_pace(&p, &now, 10 * NS_PER_S, 0, 1 << 20);
    assert_in_range(taken, 10 * ceiling - (16 << 20), 10 * ceiling + (32 << 20));
    assert_false(pace_is_gentle(&p, now));
    taken = run_pace(&p, &now, NS_PER_S / 4, 5000000, 64 << 10);
    assert_true(pace_is_gentle(&p, now));
    assert_int_equal(p.rate, floor);
    assert_in_range(taken, 0, floor / 4 + (64 << 10));
    /* Gone for a moment: not yet; for a second: all again. */
    run_pace(&p, &now, NS_PER_S / 2, 0, 64 << 10);
    assert_true(pace_is_gentle(&p, now));
    run_pace(&p, &now, NS_PER_S, 0, 1 << 20);
    assert_false(pace_is_gentle(&p, now));
    assert_int_equal(p.rate, ceiling);
}

/* What was not used for a while is not made up for at once while clients are there. */
static void while_clients_are_there_nothing_comes_in_bursts(void **state)
{
    struct pace p;
    uint64_t now = NS_PER_S, floor = 16 << 20;
    pace_init(&p, floor, floor, now);
    run_pace(&p, &now, NS_PER_S, 200000, 64 << 10);
    now += NS_PER_S / 2;
    uint64_t taken = 0;
    pace_observe(&p, 200000, 100000, now);
    for (; pace_allows(&p, now); taken += 64 << 10)
        pace_take(&p, 64 << 10);
    assert_in_range(taken, 64 << 10, 192 << 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_changed_is_copied_and_nothing_else),
        cmocka_unit_test(clients_are_not_disturbed),
        cmocka_unit_test(one_that_has_nothing_copies_all),
        cmocka_unit_test(the_others_go_on_meanwhile),
        cmocka_unit_test(a_listing_may_come_in_parts_but_of_one_position),
        cmocka_unit_test(a_jump_that_came_too_late_is_repeated),
        cmocka_unit_test(it_does_not_wait_for_what_nobody_can_give),
        cmocka_unit_test(opens_wait_until_the_jump_is_durable),
        cmocka_unit_test(wrong_images_are_asked_elsewhere),
        cmocka_unit_test(damage_at_one_donor_is_asked_of_the_other),
        cmocka_unit_test(what_no_voter_has_is_lost),
        cmocka_unit_test(nothing_is_lost_while_a_voter_is_away),
        cmocka_unit_test(one_donor_is_enough_after_a_while),
        cmocka_unit_test(donors_may_come_and_go),
        cmocka_unit_test(one_that_is_retired_is_not_copied_to),
        cmocka_unit_test(it_goes_on_from_wherever_it_ended),
        cmocka_unit_test(it_ends_in_order_at_any_point),
        cmocka_unit_test(the_pace_gives_way_and_comes_back),
        cmocka_unit_test(nobody_there_is_given_way_to),
        cmocka_unit_test(while_clients_are_there_nothing_comes_in_bursts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
