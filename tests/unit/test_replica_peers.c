/* A replica and its peers, which this test plays: catching up from their logs, giving its own, repairing damaged blocks; and peers that are wrong, slow, gone or lying. */
#include "tests/unit/replica_harness.h"

#include <errno.h>

#define BEHIND 20u /* slots that the peers have */

/* What the donors give; set by each test. */
static struct {
    unsigned asked;
    enum { GIVE, GIVE_WRONG_SLOT, GIVE_OTHER_GROUP, GIVE_BEYOND_THE_END, END_ELSEWHERE, SAY_TOO_OLD, SAY_UNMATCHED, SAY_UNKNOWN, SAY_NOTHING } how;
    unsigned wrong_asks; /* so many requests are answered wrongly, then rightly */
    uint64_t per_piece;
    enum { IMAGE_GOOD, IMAGE_ROTTEN, IMAGE_OLD, IMAGE_BEHIND, IMAGE_BAD, IMAGE_OTHER_RANGE, IMAGE_NACK, IMAGE_NONE } image;
    unsigned wrong_images, images_asked;
    uint8_t fill;
    bool zero;
} donor;

static uint8_t fill_of(uint64_t slot)
{
    return (uint8_t)(slot * 7 + 1);
}

static struct entry *donated(struct rr *rr, uint64_t slot)
{
    return rr_entry(rr, slot, 3, slot * 4, 2, fill_of(slot));
}

static void end(struct rr_probe *p, const struct msg *m, enum catchup_status status, uint64_t through)
{
    struct msg e = {.type = MSG_CATCHUP_END, .cookie = m->cookie, .group = m->group, .u.catchup_end = {.status = status, .through = {.slot = through, .e = rr_ballot(through ? 3 : 0)}}};
    e.u.catchup_end.commit = (struct log_pos){.slot = BEHIND, .e = rr_ballot(3)};
    wire_peer_send(&p->peer, &e);
}

static void give(struct rr_probe *p, const struct msg *m, bool wrong)
{
    uint64_t slot = m->u.catchup.from.slot;
    for (uint64_t n = 0; n < donor.per_piece && slot < BEHIND; n++) {
        struct entry *e = donated(p->rr, ++slot);
        if (wrong && donor.how == GIVE_WRONG_SLOT && n == 1)
            e->slot++;
        if (wrong && donor.how == GIVE_OTHER_GROUP)
            e->group++;
        if (wrong && donor.how == GIVE_BEYOND_THE_END)
            e->block = RR_BLOCKS - 1;
        struct msg c = {.type = MSG_CATCHUP_ENTRY, .cookie = m->cookie, .group = e->group, .u.catchup_entry.entry = e};
        wire_peer_send(&p->peer, &c);
        entry_unref(e);
    }
    end(p, m, CATCHUP_OK, wrong && donor.how == END_ELSEWHERE ? slot - 1 : slot);
}

static void give_image(struct rr_probe *p, const struct msg *m)
{
    bool wrong = donor.images_asked++ < donor.wrong_images;
    int image = wrong ? (int)donor.image : IMAGE_GOOD;
    if (image == IMAGE_NONE)
        return;
    if (image == IMAGE_NACK) {
        struct msg nack = {.type = MSG_NACK, .cookie = m->cookie, .group = m->group, .u.holder.unknown = 1};
        wire_peer_send(&p->peer, &nack);
        return;
    }
    uint32_t crc[ENTRY_MAX_BLOCKS], n = m->u.image.nblocks;
    uint64_t zero[ENTRY_MAX_BLOCKS / 64] = {0}, bad[ENTRY_MAX_BLOCKS / 64] = {0}, lost[ENTRY_MAX_BLOCKS / 64] = {0};
    struct buf *b = buf_alloc_must(sim_reactor_io(p->rr->others)->arena, n * BLOCK_SIZE);
    memset(b->data, donor.fill, n * BLOCK_SIZE);
    for (uint32_t i = 0; i < n; i++) {
        crc[i] = donor.zero ? CRC32C_ZERO_BLOCK : crc32c(b->data, BLOCK_SIZE);
        if (donor.zero)
            zero[i / 64] |= UINT64_C(1) << (i % 64);
    }
    if (image == IMAGE_ROTTEN)
        crc[0] ^= 1;
    uint32_t bytes = n * BLOCK_SIZE;
    if (image == IMAGE_BAD) { /* damaged there as well, all of it */
        for (uint32_t i = 0; i < n; i++) {
            bad[i / 64] |= UINT64_C(1) << (i % 64);
            crc[i] = 0;
        }
        bytes = 0;
    }
    struct msg d = {.type = MSG_IMAGE_REPLY,
                    .cookie = m->cookie,
                    .group = m->group,
                    .u.image_reply = {.status = image == IMAGE_BEHIND ? DONOR_BEHIND : DONOR_OK,
                                      .nblocks = n,
                                      .block = m->u.image.block + (image == IMAGE_OTHER_RANGE),
                                      .at = image == IMAGE_OLD ? (struct log_pos){0} : m->u.image.at,
                                      .crc = crc,
                                      .zero = zero,
                                      .bad = bad,
                                      .lost = lost,
                                      .payload_len = donor.zero ? 0 : bytes}};
    struct segment seg = {.buf = b, .ptr = b->data, .len = bytes};
    if (d.u.image_reply.status != DONOR_OK)
        d.u.image_reply.payload_len = 0;
    wire_send(p->peer.conn, &d, &seg, d.u.image_reply.payload_len > 0 ? 1 : 0);
    buf_unref(b);
}

static void serve(struct rr_probe *p, const struct msg *m)
{
    if (m->type == MSG_IMAGE) {
        give_image(p, m);
        return;
    }
    if (m->type == MSG_REGIONS) { /* no donor for a copy */
        wire_peer_send(&p->peer, &(struct msg){.type = MSG_REGIONS_REPLY, .cookie = m->cookie, .group = m->group, .u.regions_reply.status = DONOR_INCOMPLETE});
        return;
    }
    assert_int_equal(m->type, MSG_CATCHUP);
    bool wrong = donor.asked++ < donor.wrong_asks;
    if (!wrong || donor.how < SAY_TOO_OLD)
        give(p, m, wrong);
    else if (donor.how == SAY_TOO_OLD)
        end(p, m, CATCHUP_TOO_OLD, 0);
    else if (donor.how == SAY_UNMATCHED)
        end(p, m, CATCHUP_UNMATCHED, 0);
    else if (donor.how == SAY_UNKNOWN)
        wire_peer_send(&p->peer, &(struct msg){.type = MSG_NACK, .cookie = m->cookie, .group = m->group, .u.holder.unknown = 1});
}

static struct rr *fresh(uint64_t seed)
{
    struct rr *rr = rr_new(seed);
    memset(&donor, 0, sizeof donor);
    donor.per_piece = 8;
    rr_start_ok(rr);
    return rr;
}

/* A replica that hears that slot BEHIND is chosen, and has nothing. */
static struct rr *behind(uint64_t seed)
{
    struct rr *rr = fresh(seed);
    struct rr_probe *p = rr_greet(rr, ROLE_FRONTEND);
    rr_create(rr, p);
    rr_prepare(p, 3, 0);
    return rr;
}

static void tell_target(struct rr *rr)
{
    rr_beat(rr_greet(rr, ROLE_FRONTEND), 3, BEHIND);
}

static void check_content(struct rr *rr)
{
    struct rr_probe *p = rr_greet(rr, ROLE_REPLICA);
    for (uint64_t slot = 1; slot <= BEHIND; slot++) {
        rr_say(p, (struct msg){.type = MSG_IMAGE, .cookie = slot, .u.image = {.block = slot * 4, .nblocks = 2, .at = {.slot = BEHIND, .e = rr_ballot(3)}}});
        struct rr_got *g = rr_take(p, MSG_IMAGE_REPLY);
        assert_int_equal(g->m.u.image_reply.status, DONOR_OK);
        assert_int_equal(g->m.u.image_reply.at.slot, BEHIND);
        assert_int_equal(g->data_len, 2 * BLOCK_SIZE);
        assert_int_equal(g->data[0], fill_of(slot));
        assert_int_equal(g->data[2 * BLOCK_SIZE - 1], fill_of(slot));
    }
    wire_peer_close(&p->peer);
}

static bool says_needs_copy(struct rr *rr)
{
    char *json = rr_status(rr);
    bool yes = strstr(json, "\"state\":\"needs copy\"") != NULL;
    free(json);
    return yes;
}

/* It may have taken itself for one that needs a copy: that the logs suffice is durable, too, before it counts again. */
static void check_complete(struct rr *rr)
{
    rr_run(rr, 3 * NS_PER_S);
    assert_false(says_needs_copy(rr));
    assert_false(rr_group(rr)->acceptor.needs_copy);
    assert_int_equal(rr_group(rr)->copy.phase, COPY_NONE);
}

/* ---- catching up ---- */

static void it_catches_up_piece_by_piece(void **state)
{
    struct rr *rr = behind(1);
    rr_donor(rr, 1, serve);
    rr_donor(rr, 2, serve);
    tell_target(rr);
    rr_applied(rr, BEHIND);
    check_content(rr);
    rr_run(rr, NS_PER_S);
    assert_int_equal(rr_group(rr)->catchup.state, CATCHUP_IDLE);
    assert_in_range(donor.asked, 4, 6); /* three pieces, and that there is no more */
    assert_int_equal(rr->replica->n_catchup_entries, BEHIND);

    /* It is all in the log. */
    rr_crash(rr, SIM_POWER);
    rr->serve[1] = rr->serve[2] = NULL;
    rr_start_ok(rr);
    assert_int_equal(paxos_log_last(&rr_group(rr)->acceptor.log).slot, BEHIND);
    rr_free(rr);
}

/* Each of these is noticed, costs nothing but time, and the next donor is asked. */
static void wrong_donors_harm_nothing(void **state)
{
    static const int how[] = {GIVE_WRONG_SLOT, GIVE_OTHER_GROUP, GIVE_BEYOND_THE_END, END_ELSEWHERE, SAY_TOO_OLD, SAY_UNMATCHED, SAY_UNKNOWN, SAY_NOTHING};
    for (unsigned i = 0; i < ARRAY_LEN(how); i++) {
        for (unsigned asks = 1; asks <= 5; asks += 2) {
            struct rr *rr = behind(100 + i);
            donor.how = how[i];
            donor.wrong_asks = asks;
            rr_donor(rr, 1, serve);
            rr_donor(rr, 2, serve);
            tell_target(rr);
            rr_applied(rr, BEHIND);
            check_complete(rr);
            check_content(rr);
            rr_free(rr);
        }
    }
}

static void when_nobodys_log_reaches_back_it_says_so(void **state)
{
    struct rr *rr = behind(2);
    donor.how = SAY_TOO_OLD;
    donor.wrong_asks = UINT32_MAX;
    rr_donor(rr, 1, serve);
    tell_target(rr);
    rr_run(rr, 9 * NS_PER_S);
    assert_false(says_needs_copy(rr)); /* the other one may come, and have it */
    rr_run(rr, 3 * NS_PER_S);
    /* One that answers is enough: with this one it is a majority of three, and the third may be gone for good. */
    assert_true(says_needs_copy(rr));
    unsigned asked = donor.asked;
    rr_run(rr, 20 * NS_PER_S);
    assert_in_range(donor.asked - asked, 2, 15); /* slowly */

    donor.wrong_asks = 0; /* the other one was found again, and has everything */
    rr_applied(rr, BEHIND);
    check_complete(rr);
    check_content(rr);
    rr_free(rr);
}

/* The proposer's stream starts at 0 after all: nothing is asked for any more. */
static void the_stream_may_be_faster(void **state)
{
    struct rr *rr = behind(3);
    tell_target(rr); /* nobody listens */
    rr_run(rr, NS_PER_S);
    assert_int_equal(rr_group(rr)->catchup.state, CATCHUP_PAUSING);
    struct rr_probe *p = rr_greet(rr, ROLE_FRONTEND);
    rr_open(p, 3, (struct log_pos){0});
    for (uint64_t slot = 1; slot <= BEHIND; slot++)
        rr_accept(p, 3, donated(rr, slot), slot - 1);
    rr_beat(p, 3, BEHIND);
    rr_applied(rr, BEHIND);
    rr_run(rr, 2 * NS_PER_S);
    assert_int_equal(rr_group(rr)->catchup.state, CATCHUP_IDLE);
    rr_donor(rr, 1, serve);
    rr_donor(rr, 2, serve);
    rr_run(rr, 10 * NS_PER_S);
    assert_int_equal(donor.asked, 0);
    rr_free(rr);
}

/* The name leads to another disk: it is not asked, whatever it would say. */
static void a_peer_with_another_identity_is_not_asked(void **state)
{
    struct rr *rr = behind(4);
    rr->donor_identity[1].b[5] ^= 1;
    rr_donor(rr, 1, serve);
    tell_target(rr);
    rr_run(rr, 5 * NS_PER_S);
    assert_true(rr->n_donor_connects > 3);
    assert_int_equal(donor.asked, 0);
    rr->donor_identity[1].b[5] ^= 1; /* the operator put it right */
    rr_applied(rr, BEHIND);
    rr_free(rr);
}

/* The third voter is a disk that is lost; what the configuration names in its place does not vote, as far as this replica knows. */
static struct rr *behind_with_an_old_membership(uint64_t seed)
{
    struct rr *rr = fresh(seed);
    struct rr_probe *p = rr_greet(rr, ROLE_FRONTEND);
    struct msg m = {.type = MSG_CREATE, .cookie = 1, .u.create = {.size_blocks = RR_BLOCKS, .membership.n_voters = RR_REPLICAS}};
    for (unsigned i = 0; i < RR_REPLICAS; i++)
        m.u.create.membership.voter[i] = rr->config.replicas[i].identity;
    m.u.create.membership.voter[2].b[7] ^= 1;
    rr_say(p, m);
    assert_int_equal(rr_take(p, MSG_CREATED)->m.u.created.error, 0);
    rr_prepare(p, 3, 0);
    return rr;
}

/* Its committed membership is an old one, and all of the other voters in it have been replaced since: the configuration names one of the new. */
static void voters_that_are_gone_are_not_all_that_it_asks(void **state)
{
    struct rr *rr = behind_with_an_old_membership(6);
    donor.how = SAY_UNMATCHED; /* the one voter that is left has nothing, */
    donor.wrong_asks = UINT32_MAX;
    rr_donor(rr, 1, serve);
    tell_target(rr);
    rr_run(rr, 2 * NS_PER_S);
    assert_true(donor.asked > 0);
    assert_int_equal(store_applied(rr->replica->store, RR_GROUP), 0);
    donor.wrong_asks = 0;
    wire_peer_close(&rr->last_donor->peer); /* ... and is gone now; */
    listener_close(rr->donor[1]);
    rr->donor[1] = NULL;
    donor.asked = 0;
    rr_donor(rr, 2, serve); /* this one does not vote, as far as it knows */
    rr_applied(rr, BEHIND);
    check_complete(rr);
    assert_false(rr_group(rr)->catchup.anybody);
    assert_int_equal(rr_group(rr)->catchup.state, CATCHUP_IDLE);
    assert_true(donor.asked > 0);
    rr_free(rr);
}

/* ... but they come first. */
static void a_replica_that_does_not_vote_is_not_asked_without_need(void **state)
{
    struct rr *rr = behind_with_an_old_membership(7);
    rr_donor(rr, 1, serve);
    rr_donor(rr, 2, serve);
    tell_target(rr);
    rr_applied(rr, BEHIND);
    assert_int_equal(rr->n_donor_connects, 1);
    assert_int_equal(rr->last_donor->index, 1);
    rr_free(rr);
}

static void a_peer_that_does_not_answer_is_left_for_the_other(void **state)
{
    struct rr *rr = behind(5);
    struct rr_probe *p = rr_greet(rr, ROLE_FRONTEND);
    rr_donor(rr, 1, serve);
    sim_cut_one_way(rr->world, "r1", "others"); /* connects time out, with both */
    rr_beat(p, 3, BEHIND);
    rr_run(rr, 6 * NS_PER_S);
    assert_int_equal(store_applied(rr->replica->store, RR_GROUP), 0);
    sim_heal(rr->world, "r1", "others");
    rr_applied(rr, BEHIND);
    check_content(rr);
    rr_free(rr);
}

static void one_that_ends_lets_go_of_everything(void **state)
{
    for (unsigned ms = 0; ms < 40; ms += 3) { /* in the middle of whatever it does */
        struct rr *rr = behind(200 + ms);
        donor.how = SAY_NOTHING;
        donor.wrong_asks = ms % 2 ? UINT32_MAX : 1;
        rr_donor(rr, 1, serve);
        rr_donor(rr, 2, serve);
        tell_target(rr);
        rr_run(rr, ms * NS_PER_MS);
        rr_free(rr); /* stops it in order, and asserts that nothing is left */
    }
}

/* ---- giving ---- */

static bool is_in_place(void *user)
{
    struct rr *rr = user;
    struct store_stats st;
    store_get_stats(rr->replica->store, &st);
    return st.overlay_bytes == 0 && !st.checkpointing;
}

/* Everything is written back: nothing is in memory only. */
static void write_back(struct rr *rr)
{
    store_checkpoint(rr->replica->store);
    sim_wake(rr->sim);
    assert_true(sim_run_until(rr->world, is_in_place, rr, 60 * NS_PER_S));
}

static struct rr *with_log(uint64_t seed, struct rr_probe **ret_proposer)
{
    struct rr *rr = behind(seed);
    struct rr_probe *p = rr_greet(rr, ROLE_FRONTEND);
    rr_open(p, 3, (struct log_pos){0});
    for (uint64_t slot = 1; slot <= BEHIND; slot++)
        rr_accept(p, 3, donated(rr, slot), slot - 1);
    rr_beat(p, 3, BEHIND - 5);
    rr_applied(rr, BEHIND - 5);
    *ret_proposer = p;
    return rr;
}

static void say_catchup(struct rr_probe *p, uint64_t cookie, struct log_pos from, uint64_t max_bytes)
{
    rr_say(p, (struct msg){.type = MSG_CATCHUP, .cookie = cookie, .u.catchup = {.from = from, .max_bytes = max_bytes}});
}

static void check_end(struct rr_probe *p, uint64_t cookie, enum catchup_status status, uint64_t through)
{
    struct rr_got *g = rr_take(p, MSG_CATCHUP_END);
    assert_int_equal(g->m.cookie, cookie);
    assert_int_equal(g->m.u.catchup_end.status, status);
    if (status != CATCHUP_UNMATCHED)
        assert_int_equal(g->m.u.catchup_end.through.slot, through);
}

static void it_gives_what_is_committed_and_no_more(void **state)
{
    struct rr_probe *unused;
    struct rr *rr = with_log(6, &unused);
    struct rr_probe *p = rr_greet(rr, ROLE_REPLICA);
    say_catchup(p, 1, (struct log_pos){0}, 1 << 20);
    for (uint64_t slot = 1; slot <= BEHIND - 6; slot++) { /* the watermark of the last Accept is one short of the Beat's */
        struct rr_got *g = rr_take(p, MSG_CATCHUP_ENTRY);
        assert_int_equal(g->entry->slot, slot);
        assert_int_equal(entry_block_data(g->entry, 1)[0], fill_of(slot));
    }
    uint64_t commit = rr_group(rr)->acceptor.commit;
    check_end(p, 1, CATCHUP_OK, commit);
    say_catchup(p, 2, (struct log_pos){.slot = commit, .e = rr_ballot(3)}, 1 << 20);
    check_end(p, 2, CATCHUP_OK, commit); /* nothing more */
    say_catchup(p, 3, (struct log_pos){.slot = 5, .e = rr_ballot(2)}, 1 << 20);
    check_end(p, 3, CATCHUP_UNMATCHED, 0); /* another entry stands there */
    say_catchup(p, 4, (struct log_pos){.slot = commit + 1, .e = rr_ballot(3)}, 1 << 20);
    check_end(p, 4, CATCHUP_UNMATCHED, 0); /* not known to be chosen */
    say_catchup(p, 5, (struct log_pos){.slot = 5, .e = rr_ballot(3)}, 1);
    check_end(p, 5, CATCHUP_OK, 6); /* one at least, however little is wanted */
    rr_free(rr);
}

static bool is_trimmed(void *user)
{
    return rr_group(user)->acceptor.log.base.slot > 3;
}

static void it_says_when_its_log_does_not_reach_back(void **state)
{
    struct rr_probe *p;
    struct rr *rr = with_log(7, &p);
    for (uint64_t slot = BEHIND + 1; !is_trimmed(rr); slot++) { /* until the WAL has wrapped */
        assert_true(slot < 4000);
        rr_accept(p, 3, rr_entry(rr, slot, 3, slot % 1000, 64, 1), slot - 1);
        if (slot % 8 == 0)
            rr_run(rr, 200 * NS_PER_MS);
    }
    struct rr_probe *q = rr_greet(rr, ROLE_REPLICA);
    say_catchup(q, 1, (struct log_pos){.slot = 3, .e = rr_ballot(3)}, 1 << 20);
    struct log_pos base = rr_group(rr)->acceptor.log.base;
    check_end(q, 1, CATCHUP_TOO_OLD, base.slot);
    say_catchup(q, 2, base, 1);
    check_end(q, 2, CATCHUP_OK, base.slot + 1);
    rr_free(rr);
}

/* A request that comes while one is being answered is dropped: its sender's timer asks again. And a requester that is gone costs nothing. */
static void one_request_at_a_time(void **state)
{
    struct rr_probe *unused;
    struct rr *rr = with_log(8, &unused);
    write_back(rr);
    rr_crash(rr, SIM_POWER); /* what was in memory is on disk only: giving takes reads */
    rr_start_ok(rr);
    assert_int_equal(rr_group(rr)->acceptor.log.base.slot, 0);
    struct rr_probe *p = rr_greet(rr, ROLE_REPLICA);
    say_catchup(p, 1, (struct log_pos){0}, 1 << 20);
    say_catchup(p, 2, (struct log_pos){0}, 1 << 20);
    check_end(p, 1, CATCHUP_OK, rr_group(rr)->acceptor.commit);
    rr_run(rr, NS_PER_S);
    for (unsigned i = p->next; i < p->n_got; i++)
        assert_int_not_equal(p->got[i].m.type, MSG_CATCHUP_END);
    say_catchup(p, 3, (struct log_pos){0}, 1 << 20);
    check_end(p, 3, CATCHUP_OK, rr_group(rr)->acceptor.commit);
    for (unsigned i = 0; i < 10; i++) {
        struct rr_probe *gone = rr_greet(rr, ROLE_REPLICA);
        say_catchup(gone, 1, (struct log_pos){0}, 1 << 20);
        rr_run(rr, i * NS_PER_MS / 5);
        wire_peer_close(&gone->peer);
    }
    rr_run(rr, NS_PER_S);
    rr_free(rr);
}

/* ---- repair ---- */

/* Block 40's data rots on disk, all of it. */
static struct rr *rotten(uint64_t seed, uint8_t *ret_fill)
{
    struct rr_probe *p;
    struct rr *rr = with_log(seed, &p);
    *ret_fill = fill_of(10);
    rr_beat(p, 3, BEHIND);
    rr_applied(rr, BEHIND);
    write_back(rr);
    rr_rot(rr, *ret_fill);
    return rr;
}

/* Blocks 40 and 41 as a peer gets them: both good, or both damaged. */
static bool is_damaged(struct rr *rr, uint8_t *ret_first)
{
    struct rr_probe *p = rr_greet(rr, ROLE_REPLICA);
    rr_say(p, (struct msg){.type = MSG_IMAGE, .u.image = {.block = 40, .nblocks = 2, .at = {.slot = BEHIND, .e = rr_ballot(3)}}});
    struct rr_got *g = rr_take(p, MSG_IMAGE_REPLY);
    assert_int_equal(g->m.u.image_reply.status, DONOR_OK);
    assert_true(g->bad[0] == 0 || g->bad[0] == 3);
    if (g->bad[0] == 0)
        *ret_first = g->data_len ? g->data[0] : 0;
    wire_peer_close(&p->peer);
    return g->bad[0] != 0;
}

static bool no_repairs(void *user)
{
    return ((struct rr *)user)->replica->n_repairs == 0;
}

static void check_repaired(struct rr *rr, uint8_t fill)
{
    uint8_t got = 0;
    rr_run(rr, NS_PER_MS);
    if (!sim_run_until(rr->world, no_repairs, rr, 30 * NS_PER_S))
        fail_msg("%u repairs are still open", rr->replica->n_repairs);
    assert_false(is_damaged(rr, &got));
    assert_int_equal(got, fill);
}

/* Damage is answered by BAD, never by bytes, and healed from a peer; a peer that can't help is not the last word. */
static void damaged_blocks_come_back_from_a_peer(void **state)
{
    static const int images[] = {IMAGE_GOOD, IMAGE_OLD, IMAGE_BEHIND, IMAGE_BAD, IMAGE_OTHER_RANGE, IMAGE_NACK};
    for (unsigned i = 0; i < ARRAY_LEN(images); i++) {
        uint8_t fill, got;
        struct rr *rr = rotten(300 + i, &fill);
        donor.image = images[i];
        donor.wrong_images = images[i] == IMAGE_GOOD ? 0 : 3;
        donor.fill = fill;
        rr_donor(rr, 1, serve);
        rr_donor(rr, 2, serve);
        assert_true(is_damaged(rr, &got));
        check_repaired(rr, fill);
        assert_int_equal(rr->replica->n_repaired, 2);
        assert_true(donor.images_asked > donor.wrong_images);
        write_back(rr);
        rr_crash(rr, SIM_POWER); /* and they stay */
        rr_start_ok(rr);
        assert_false(is_damaged(rr, &got));
        assert_int_equal(got, fill);
        rr_free(rr);
    }
}

/* Whether it died or hangs: what it was asked is asked elsewhere. */
static void a_peer_that_goes_silent_is_not_waited_for(void **state)
{
    for (unsigned dies = 0; dies < 2; dies++) {
        uint8_t fill, got;
        struct rr *rr = rotten(9, &fill);
        donor.image = IMAGE_NONE;
        donor.wrong_images = 1;
        donor.fill = fill;
        rr_donor(rr, 1, serve);
        assert_true(is_damaged(rr, &got));
        rr_run(rr, 2 * NS_PER_S);
        assert_int_equal(donor.images_asked, 1);
        if (dies)
            wire_peer_close(&rr->last_donor->peer);
        else
            rr_donor(rr, 2, serve);
        check_repaired(rr, fill);
        rr_free(rr);
    }
}

static void a_write_heals_as_well(void **state)
{
    uint8_t fill, got;
    struct rr *rr = rotten(10, &fill);
    assert_true(is_damaged(rr, &got));
    rr_run(rr, NS_PER_S);
    assert_int_equal(rr->replica->n_repairs, 1); /* nobody listens */
    struct rr_probe *p = rr_greet(rr, ROLE_FRONTEND);
    rr_open(p, 3, (struct log_pos){.slot = BEHIND, .e = rr_ballot(3)});
    rr_accept(p, 3, rr_entry(rr, BEHIND + 1, 3, 40, 2, 0x77), BEHIND);
    rr_beat(p, 3, BEHIND + 1);
    rr_applied(rr, BEHIND + 1);
    assert_false(is_damaged(rr, &got));
    assert_int_equal(got, 0x77);
    /* The peer's image is of the time before: it may not undo the write. */
    donor.fill = fill;
    rr_donor(rr, 1, serve);
    rr_donor(rr, 2, serve);
    check_repaired(rr, 0x77);
    assert_true(donor.images_asked > 0);
    rr_free(rr);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_catches_up_piece_by_piece),
        cmocka_unit_test(wrong_donors_harm_nothing),
        cmocka_unit_test(when_nobodys_log_reaches_back_it_says_so),
        cmocka_unit_test(the_stream_may_be_faster),
        cmocka_unit_test(a_peer_with_another_identity_is_not_asked),
        cmocka_unit_test(voters_that_are_gone_are_not_all_that_it_asks),
        cmocka_unit_test(a_replica_that_does_not_vote_is_not_asked_without_need),
        cmocka_unit_test(a_peer_that_does_not_answer_is_left_for_the_other),
        cmocka_unit_test(one_that_ends_lets_go_of_everything),
        cmocka_unit_test(it_gives_what_is_committed_and_no_more),
        cmocka_unit_test(it_says_when_its_log_does_not_reach_back),
        cmocka_unit_test(one_request_at_a_time),
        cmocka_unit_test(damaged_blocks_come_back_from_a_peer),
        cmocka_unit_test(a_peer_that_goes_silent_is_not_waited_for),
        cmocka_unit_test(a_write_heals_as_well),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
