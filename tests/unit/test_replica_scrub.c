/* A replica's scrub with peers that this test plays: what rots comes back, what differs is judged by the majority at equal slots and by nothing else, what nobody has is lost alone. */
#include "replica/scrub_internal.h"
#include "tests/unit/replica_harness.h"

#include <errno.h>
#include <jansson.h>

#define SLOTS 20u

/* What the fake replicas say. */
static struct fake {
    unsigned digests_asked, crcs_asked, images_asked;
    uint64_t applied, comparable;
    struct chunk_digest chunk[REGION_CHUNKS];
    uint64_t changed_at; /* of chunk 0, in CRCS */
    uint32_t crc[ENTRY_MAX_BLOCKS];
    uint8_t fill; /* of images */
    bool bad;     /* images have nothing */
    bool refuses;
} fake[RR_REPLICAS];

static void reply_image(struct rr_probe *p, const struct msg *m, const struct fake *f)
{
    uint32_t crc[ENTRY_MAX_BLOCKS] = {0}, n = m->u.image.nblocks;
    uint64_t none[ENTRY_MAX_BLOCKS / 64] = {0}, bad[ENTRY_MAX_BLOCKS / 64] = {0};
    struct buf *b = buf_alloc_must(sim_reactor_io(p->rr->others)->arena, n * BLOCK_SIZE);
    memset(b->data, f->fill, n * BLOCK_SIZE);
    for (uint32_t i = 0; i < n; i++) {
        if (f->bad)
            bad[i / 64] |= UINT64_C(1) << (i % 64);
        else
            crc[i] = crc32c(b->data, BLOCK_SIZE);
    }
    struct msg d = {.type = MSG_IMAGE_REPLY,
                    .cookie = m->cookie,
                    .group = m->group,
                    .u.image_reply = {.status = DONOR_OK, .nblocks = n, .block = m->u.image.block, .at = m->u.image.at, .changed_at = m->u.image.at.slot,
                                      .crc = crc, .zero = none, .bad = bad, .lost = none, .payload_len = f->bad ? 0 : n * BLOCK_SIZE}};
    struct segment seg = {.buf = b, .ptr = b->data, .len = d.u.image_reply.payload_len};
    wire_send(p->peer.conn, &d, &seg, f->bad ? 0 : 1);
    buf_unref(b);
}

static void serve(struct rr_probe *p, const struct msg *m)
{
    struct fake *f = &fake[p->index];
    struct msg a = {.cookie = m->cookie, .group = m->group};
    if (m->type == MSG_IMAGE) {
        f->images_asked++;
        reply_image(p, m, f);
    } else if (m->type == MSG_DIGESTS) {
        f->digests_asked++;
        a.type = MSG_DIGESTS_REPLY;
        a.u.digests_reply.status = f->refuses ? DONOR_INCOMPLETE : DONOR_OK;
        a.u.digests_reply.region = m->u.digests.region;
        a.u.digests_reply.applied = f->applied;
        a.u.digests_reply.comparable = f->comparable;
        a.u.digests_reply.next = UINT32_MAX;
        a.u.digests_reply.chunk = f->chunk;
        wire_peer_send(&p->peer, &a);
    } else if (m->type == MSG_CRCS) {
        f->crcs_asked++;
        a.type = MSG_CRCS_REPLY;
        a.u.crcs_reply.nblocks = ENTRY_MAX_BLOCKS;
        a.u.crcs_reply.block = m->u.crcs.block;
        a.u.crcs_reply.applied = f->applied;
        a.u.crcs_reply.changed_at = f->changed_at;
        a.u.crcs_reply.crc = f->crc;
        wire_peer_send(&p->peer, &a);
    } else if (m->type == MSG_CATCHUP) {
        a.type = MSG_CATCHUP_END;
        a.u.catchup_end.through = a.u.catchup_end.commit = m->u.catchup.from;
        wire_peer_send(&p->peer, &a);
    }
}

static void learn(struct rr_probe *p, const struct msg *m)
{
    for (unsigned i = 1; i < RR_REPLICAS; i++) {
        if (m->type == MSG_DIGESTS_REPLY) {
            assert_int_equal(m->u.digests_reply.status, DONOR_OK);
            fake[i].applied = m->u.digests_reply.applied;
            fake[i].comparable = m->u.digests_reply.comparable;
            memcpy(fake[i].chunk, m->u.digests_reply.chunk, sizeof fake[i].chunk);
        } else if (m->type == MSG_CRCS_REPLY) {
            assert_int_equal(m->u.crcs_reply.status, DONOR_OK);
            fake[i].changed_at = m->u.crcs_reply.changed_at;
            memcpy(fake[i].crc, m->u.crcs_reply.crc, sizeof fake[i].crc);
        }
    }
}

static uint8_t fill_of(uint64_t slot)
{
    return (uint8_t)(slot * 7 + 1);
}

static struct rr_probe *proposer;

static void write_block(struct rr *rr, uint64_t slot, uint64_t block, uint8_t fill)
{
    rr_accept(proposer, 3, rr_entry(rr, slot, 3, block, 2, fill), slot - 1);
    rr_beat(proposer, 3, slot);
    rr_applied(rr, slot);
}

static bool is_in_place(void *user)
{
    struct store_stats st;
    store_get_stats(((struct rr *)user)->replica->store, &st);
    return st.overlay_bytes == 0 && !st.checkpointing;
}

static void write_back(struct rr *rr)
{
    store_checkpoint(rr->replica->store);
    sim_wake(rr->sim);
    assert_true(sim_run_until(rr->world, is_in_place, rr, 60 * NS_PER_S));
}

/* Slot n wrote blocks 4n and 4n + 1; all is on disk; the fakes hold the same as this replica. */
static struct rr *with_data(uint64_t seed)
{
    struct rr *rr = rr_new(seed);
    memset(fake, 0, sizeof fake);
    rr_start_ok(rr);
    proposer = rr_greet(rr, ROLE_FRONTEND);
    rr_create(rr, proposer);
    rr_prepare(proposer, 3, 0);
    rr_open(proposer, 3, (struct log_pos){0});
    for (uint64_t slot = 1; slot <= SLOTS; slot++)
        write_block(rr, slot, slot * 4, fill_of(slot));
    write_back(rr);
    struct rr_probe *p = rr_greet(rr, ROLE_REPLICA);
    p->serve = learn;
    rr_say(p, (struct msg){.type = MSG_DIGESTS, .u.digests = {.region = 0}});
    rr_take(p, MSG_DIGESTS_REPLY);
    rr_say(p, (struct msg){.type = MSG_CRCS, .u.crcs = {.block = 0}});
    rr_take(p, MSG_CRCS_REPLY);
    p->serve = NULL;
    wire_peer_close(&p->peer);
    assert_int_equal(fake[1].applied, SLOTS);
    assert_int_equal(fake[1].changed_at, SLOTS);
    return rr;
}

/* Another content in one block of chunk 0. */
static void alter(struct fake *f, unsigned block, uint8_t fill)
{
    uint8_t data[BLOCK_SIZE];
    memset(data, fill, sizeof data);
    f->crc[block] = crc32c(data, sizeof data);
    f->chunk[0].digest ^= 0x1234 + fill;
    f->fill = fill;
}

static json_t *scrub_status(struct rr *rr)
{
    char *text = rr_status(rr);
    json_error_t err;
    json_t *all = json_loads(text, 0, &err);
    assert_non_null(all);
    json_t *s = json_incref(json_object_get(all, "scrub"));
    assert_non_null(s);
    json_decref(all);
    free(text);
    return s;
}

struct ending {
    struct rr *rr;
    int64_t id;
};

static bool is_over(void *user)
{
    const struct ending *e = user;
    return (int64_t)e->rr->replica->scrub->last.id >= e->id;
}

/* One pass, asked for; the caller's reference to its report. */
static json_t *scrub(struct rr *rr, uint32_t flags)
{
    struct rr_probe *p = rr_greet(rr, ROLE_TOOL);
    rr_say(p, (struct msg){.type = MSG_SCRUB, .u.scrub.flags = flags});
    struct rr_got *g = rr_take(p, MSG_DONE);
    assert_int_equal(g->m.u.done.error, 0);
    struct ending e = {.rr = rr, .id = strtoll(g->m.u.done.text, NULL, 10)};
    assert_true(e.id > 0);
    wire_peer_close(&p->peer);
    if (!sim_run_until(rr->world, is_over, &e, 200 * NS_PER_S))
        fail_msg("the pass does not end");
    json_t *s = scrub_status(rr);
    json_t *last = json_incref(json_object_get(s, "last"));
    json_decref(s);
    return last;
}

#define assert_field(o, name, value) assert_int_equal(json_integer_value(json_object_get(o, name)), value)

/* Status of READ and of the bytes. */
static enum data_status read_block(struct rr *rr, uint64_t block, uint64_t watermark, uint8_t *ret)
{
    rr_say(proposer, (struct msg){.type = MSG_READ, .ballot = rr_ballot(3), .u.read = {.block = block, .nblocks = 1, .watermark = watermark}});
    struct rr_got *g = rr_take(proposer, MSG_DATA);
    *ret = g->data_len ? g->data[0] : 0;
    return (enum data_status)g->m.u.data.status;
}

static void a_pass_verifies_compares_and_says_so(void **state)
{
    for (unsigned fast = 0; fast < 2; fast++) {
        struct rr *rr = with_data(1);
        rr_donor(rr, 1, serve);
        rr_donor(rr, 2, serve);
        json_t *last = scrub(rr, fast ? SCRUB_AT_FULL_RATE : 0);
        assert_field(last, "verified_bytes", 2 * SLOTS * BLOCK_SIZE);
        assert_field(last, "bad_blocks", 0);
        assert_field(last, "unrepaired_blocks", 0);
        assert_field(last, "undecided_blocks", 0);
        assert_field(last, "rewritten_pages", 0);
        assert_field(last, "compared_chunks", RR_BLOCKS / ENTRY_MAX_BLOCKS);
        json_decref(last);
        assert_true(fake[1].digests_asked > 0 && fake[2].digests_asked > 0);
        assert_int_equal(fake[1].crcs_asked, 0);
        struct store_scrub_place place;
        store_scrub_place(rr->replica->store, RR_GROUP, &place);
        assert_int_equal(place.passes, 1);
        rr_stop(rr);
        rr_start_ok(rr); /* and it is remembered */
        store_scrub_place(rr->replica->store, RR_GROUP, &place);
        assert_int_equal(place.passes, 1);
        rr_free(rr);
    }
}

static void an_unknown_group_is_refused(void **state)
{
    struct rr *rr = with_data(2);
    struct rr_probe *p = rr_greet(rr, ROLE_TOOL);
    rr_say(p, (struct msg){.type = MSG_SCRUB, .group = 99});
    assert_int_equal(rr_take(p, MSG_DONE)->m.u.done.error, ENOENT);
    rr_free(rr);
}

static void what_rotted_comes_back(void **state)
{
    uint8_t got;
    struct rr *rr = with_data(3);
    rr_donor(rr, 1, serve);
    rr_donor(rr, 2, serve);
    fake[1].fill = fake[2].fill = fill_of(10);
    rr_rot(rr, fill_of(10));
    json_t *last = scrub(rr, 1);
    assert_field(last, "bad_blocks", 2);
    assert_field(last, "repaired_blocks", 2);
    assert_field(last, "unrepaired_blocks", 0);
    json_decref(last);
    assert_int_equal(read_block(rr, 40, SLOTS, &got), DATA_OK);
    assert_int_equal(got, fill_of(10));
    last = scrub(rr, 1);
    assert_field(last, "bad_blocks", 0);
    json_decref(last);
    rr_free(rr);
}

/* More than repairs there may be at a time: the pass waits for them, and leaves nothing. */
static void however_much_rotted(void **state)
{
    enum { LAST = SLOTS + 380 };
    struct rr *rr = with_data(11);
    for (uint64_t slot = SLOTS + 1; slot <= LAST; slot++)
        write_block(rr, slot, slot * 4, 0x77);
    rr_run(rr, 20 * NS_PER_S); /* idle: the last checkpoint has all of it */
    struct sim_disk *extent = sim_dir_find(rr->dir, "extents/00000");
    uint8_t page[BLOCK_SIZE], want[BLOCK_SIZE];
    memset(want, 0x77, sizeof want);
    unsigned rotten = 0;
    for (uint64_t off = 0; off < sim_disk_size(extent); off += BLOCK_SIZE) {
        sim_disk_peek(extent, off, page, sizeof page);
        if (memcmp(page, want, sizeof want) != 0)
            continue;
        sim_disk_flip(extent, off + 5, 1);
        rotten++;
    }
    assert_int_equal(rotten, 2 * (LAST - SLOTS));
    fake[1].refuses = fake[2].refuses = true; /* as to digests */
    fake[1].fill = fake[2].fill = 0x77;
    rr_donor(rr, 1, serve);
    rr_donor(rr, 2, serve);
    json_t *last = scrub(rr, 1);
    assert_field(last, "bad_blocks", rotten);
    assert_field(last, "repaired_blocks", rotten);
    assert_field(last, "unrepaired_blocks", 0);
    json_decref(last);
    last = scrub(rr, 1);
    assert_field(last, "bad_blocks", 0);
    json_decref(last);
    rr_free(rr);
}

/* Nobody there: it says what is still damaged, and the next pass repairs it. */
static void what_cannot_be_repaired_is_named(void **state)
{
    struct rr *rr = with_data(4);
    rr_rot(rr, fill_of(10));
    json_t *last = scrub(rr, 1);
    assert_field(last, "unrepaired_blocks", 2);
    json_t *range = json_array_get(json_object_get(last, "unrepaired"), 0);
    assert_field(range, "block", 40);
    assert_field(range, "blocks", 2);
    assert_true(json_is_false(json_object_get(range, "lost")));
    json_decref(last);
    fake[1].fill = fill_of(10);
    rr_donor(rr, 1, serve);
    last = scrub(rr, 1);
    assert_field(last, "bad_blocks", 2);
    assert_field(last, "unrepaired_blocks", 0);
    json_decref(last);
    rr_free(rr);
}

/* Lost only when all the others said so; EIO is for that block alone; a write heals it, as does somebody who has it after all. */
static void what_nobody_has_is_lost_alone(void **state)
{
    for (unsigned healed_by = 0; healed_by < 2; healed_by++) {
        uint8_t got;
        struct rr *rr = with_data(5);
        fake[1].bad = fake[2].bad = true;
        rr_donor(rr, 1, serve);
        rr_rot(rr, fill_of(10));
        json_t *last = scrub(rr, 1);
        assert_field(last, "unrepaired_blocks", 2);
        assert_true(fake[1].images_asked > 1);
        assert_true(json_is_false(json_object_get(json_array_get(json_object_get(last, "unrepaired"), 0), "lost"))); /* one is away */
        assert_int_equal(rr->replica->n_lost_blocks, 0);
        json_decref(last);
        rr_donor(rr, 2, serve);
        last = scrub(rr, 1);
        assert_field(last, "unrepaired_blocks", 2);
        assert_true(json_is_true(json_object_get(json_array_get(json_object_get(last, "unrepaired"), 0), "lost")));
        assert_int_equal(rr->replica->n_lost_blocks, 2);
        json_decref(last);
        write_back(rr);
        assert_int_equal(read_block(rr, 40, SLOTS, &got), DATA_BAD);
        assert_int_equal(read_block(rr, 39, SLOTS, &got), DATA_OK);
        assert_int_equal(read_block(rr, 44, SLOTS, &got), DATA_OK);
        assert_int_equal(got, fill_of(11));
        if (healed_by == 0) {
            write_block(rr, SLOTS + 1, 40, 0x55);
            last = scrub(rr, 1);
            assert_field(last, "lost_blocks", 0);
        } else {
            fake[2].bad = false;
            fake[2].fill = 0x55;
            last = scrub(rr, 1);
            assert_field(last, "lost_blocks", 2);
        }
        assert_field(last, "unrepaired_blocks", 0);
        json_decref(last);
        assert_int_equal(read_block(rr, 40, SLOTS, &got), DATA_OK);
        assert_int_equal(got, 0x55);
        rr_free(rr);
    }
}

static void the_majority_is_right(void **state)
{
    uint8_t got;
    struct rr *rr = with_data(6);
    rr_donor(rr, 1, serve);
    rr_donor(rr, 2, serve);
    alter(&fake[1], 41, 0x66);
    alter(&fake[2], 41, 0x66);
    json_t *last = scrub(rr, 1);
    assert_field(last, "odd_blocks", 1);
    assert_field(last, "bad_blocks", 1);
    assert_field(last, "repaired_blocks", 1);
    assert_field(last, "undecided_blocks", 0);
    json_decref(last);
    assert_int_equal(read_block(rr, 41, SLOTS, &got), DATA_OK);
    assert_int_equal(got, 0x66);
    assert_int_equal(read_block(rr, 40, SLOTS, &got), DATA_OK);
    assert_int_equal(got, fill_of(10));
    rr_free(rr);
}

/* One differs; one differs and the other is away, or has something else again: nothing is changed here. */
static void no_majority_against_it_changes_nothing(void **state)
{
    for (unsigned how = 0; how < 3; how++) {
        uint8_t got;
        struct rr *rr = with_data(7);
        rr_donor(rr, 1, serve);
        if (how != 1)
            rr_donor(rr, 2, serve);
        alter(&fake[1], 41, 0x66);
        if (how == 2)
            alter(&fake[2], 41, 0x67);
        json_t *last = scrub(rr, 1);
        assert_field(last, "odd_blocks", 0);
        assert_field(last, "bad_blocks", 0);
        assert_field(last, "undecided_blocks", how > 0);
        if (how > 0)
            assert_field(json_array_get(json_object_get(last, "undecided"), 0), "block", 41);
        json_decref(last);
        assert_true(fake[1].crcs_asked > 0);
        assert_int_equal(fake[1].images_asked + fake[2].images_asked, 0);
        assert_int_equal(read_block(rr, 41, SLOTS, &got), DATA_OK);
        assert_int_equal(got, fill_of(10));
        rr_free(rr);
    }
}

/* Other contents at other slots are no difference. */
static void unequal_slots_are_not_compared(void **state)
{
    for (unsigned how = 0; how < 3; how++) {
        struct rr *rr = with_data(8);
        rr_donor(rr, 1, serve);
        rr_donor(rr, 2, serve);
        for (unsigned i = 1; i < RR_REPLICAS; i++) {
            alter(&fake[i], 41, 0x66);
            fake[i].comparable = 1;
            if (how == 0) { /* they are behind, before the chunk's last change */
                fake[i].applied = SLOTS - 1;
                fake[i].chunk[0].changed_at = fake[i].changed_at = SLOTS - 3;
            } else if (how == 1) { /* ahead, after one that has not come here yet */
                fake[i].applied = SLOTS + 5;
                fake[i].chunk[0].changed_at = fake[i].changed_at = SLOTS + 1;
            } else {
                fake[i].refuses = true;
            }
        }
        json_t *last = scrub(rr, 1);
        assert_field(last, "odd_blocks", 0);
        assert_field(last, "undecided_blocks", 0);
        assert_field(last, "skipped_chunks", how < 2);
        json_decref(last);
        assert_true(fake[1].digests_asked >= (how < 2 ? SCRUB_ASKS : 1));
        assert_int_equal(fake[1].crcs_asked, 0);
        assert_int_equal(fake[1].images_asked, 0);
        rr_free(rr);
    }
}

static bool has_passed(void *user)
{
    struct rr *rr = user;
    struct store_scrub_place place;
    store_scrub_place(rr->replica->store, RR_GROUP, &place);
    return place.passes >= 3;
}

/* In the background, by itself, again and again; one that ends in the middle of it lets go of everything. */
static void it_goes_on_in_the_background(void **state)
{
    struct rr *rr;
    for (unsigned i = 0; i < 12; i++) {
        memset(fake, 0, sizeof fake);
        rr = with_data(9);
        rr_donor(rr, 1, serve);
        rr_stop(rr);
        rr->scrub_bytes_per_s = 1u << 20;
        rr->scrub_interval_ns = NS_PER_S;
        rr_start_ok(rr);
        if (i == 0)
            assert_true(sim_run_until(rr->world, has_passed, rr, 60 * NS_PER_S));
        else
            rr_run(rr, NS_PER_S + i * 37 * NS_PER_MS / 10);
        rr_stop(rr);
        rr_free(rr);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_pass_verifies_compares_and_says_so),
        cmocka_unit_test(an_unknown_group_is_refused),
        cmocka_unit_test(what_rotted_comes_back),
        cmocka_unit_test(however_much_rotted),
        cmocka_unit_test(what_cannot_be_repaired_is_named),
        cmocka_unit_test(what_nobody_has_is_lost_alone),
        cmocka_unit_test(the_majority_is_right),
        cmocka_unit_test(no_majority_against_it_changes_nothing),
        cmocka_unit_test(unequal_slots_are_not_compared),
        cmocka_unit_test(it_goes_on_in_the_background),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
