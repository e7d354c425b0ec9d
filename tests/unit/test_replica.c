/* A replica seen from its connections: who is let in, what is refused and in which words, groups, reads, and what the status says of it all. */
#include "tests/unit/replica_harness.h"

#include <errno.h>
#include <jansson.h>

static struct rr *begin(uint64_t seed)
{
    struct rr *rr = rr_new(seed);
    rr_start_ok(rr);
    return rr;
}

static json_t *parsed(char *text)
{
    json_t *o = json_loads(text, 0, NULL);
    if (!o)
        fail_msg("no JSON: %s", text);
    free(text);
    return o;
}

static const char *string_of(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));
    if (!s)
        fail_msg("%s is missing", key);
    return s;
}

static int64_t number_of(const json_t *o, const char *key)
{
    const json_t *n = json_object_get(o, key);
    if (!json_is_integer(n))
        fail_msg("%s is missing", key);
    return json_integer_value(n);
}

/* The first group in the status. *ret_all is to be given back. */
static json_t *group_status(struct rr *rr, json_t **ret_all)
{
    *ret_all = parsed(rr_status(rr));
    json_t *g = json_array_get(json_object_get(*ret_all, "groups"), 0);
    assert_non_null(g);
    return g;
}

/* ---- who is let in ---- */

static void strangers_say_hello_first(void **state)
{
    struct rr *rr = begin(1);
    static const enum msg_type types[] = {MSG_STATUS, MSG_QUERY, MSG_RELEASE};
    for (unsigned i = 0; i < ARRAY_LEN(types); i++) {
        struct rr_probe *p = rr_connect(rr);
        rr_say(p, (struct msg){.type = types[i]});
        rr_refused(p, "replica-1: no HELLO");
    }
    struct rr_probe *p = rr_connect(rr);
    rr_say(p, (struct msg){.type = MSG_HELLO, .u.hello = {.version = WIRE_VERSION + 1, .role = ROLE_FRONTEND, .cluster = rr->config.id}});
    rr_refused(p, "another protocol version");
    for (enum node_role role = ROLE_FRONTEND; role <= ROLE_REPLICA; role++) {
        p = rr_connect(rr);
        rr_say(p, (struct msg){.type = MSG_HELLO, .u.hello = {.version = WIRE_VERSION, .role = role, .cluster = {{9}}}});
        rr_refused(p, "it belongs to another cluster");
    }
    assert_int_equal(rr->replica->n_refused, 6);
    rr_free(rr);
}

/* An operator with the wrong configuration sees what is there, and can change nothing. */
static void a_tool_of_another_cluster_gets_the_status_only(void **state)
{
    struct rr *rr = begin(2);
    struct rr_probe *p = rr_connect(rr);
    rr_say(p, (struct msg){.type = MSG_HELLO, .u.hello = {.version = WIRE_VERSION, .role = ROLE_TOOL, .cluster = {{9}}}});
    assert_true(uuid_equal(&rr_take(p, MSG_HELLO)->m.u.hello.cluster, &rr->config.id));
    rr_say(p, (struct msg){.type = MSG_STATUS, .cookie = 7});
    json_t *o = parsed(rr_take(p, MSG_STATUS_REPLY)->json);
    p->got[p->next - 1].json = NULL;
    assert_string_equal(string_of(o, "name"), "replica-1");
    json_decref(o);
    struct msg create = {.type = MSG_CREATE, .u.create = {.size_blocks = 8, .membership.n_voters = 1}};
    create.u.create.membership.voter[0] = rr->config.replicas[0].identity;
    rr_say(p, create);
    rr_refused(p, "it belongs to another cluster");
    assert_null(rr_group(rr));
    rr_free(rr);
}

static void messages_for_another_disk_or_role_end_the_connection(void **state)
{
    struct rr *rr = begin(3);
    struct rr_probe *p = rr_greet(rr, ROLE_FRONTEND);
    rr_say(p, (struct msg){.type = MSG_QUERY, .target = {{4}}});
    rr_refused(p, "meant for another identity");
    p = rr_greet(rr, ROLE_FRONTEND);
    rr_create(rr, p);
    rr_say(p, (struct msg){.type = MSG_CREATED});
    rr_refused(p, "a message that a replica does not take");

    /* A group that is not here is never answered as an empty log. */
    p = rr_greet(rr, ROLE_FRONTEND);
    static const enum msg_type types[] = {MSG_QUERY, MSG_PREPARE, MSG_OPEN, MSG_BEAT, MSG_FETCH, MSG_CATCHUP};
    for (unsigned i = 0; i < ARRAY_LEN(types); i++) {
        rr_say(p, (struct msg){.type = types[i], .group = 77, .cookie = 100 + i, .ballot = rr_ballot(3)});
        struct rr_got *g = rr_take(p, MSG_NACK);
        assert_int_equal(g->m.cookie, 100 + i);
        assert_int_equal(g->m.group, 77);
        assert_int_equal(g->m.u.holder.unknown, 1);
    }
    rr_free(rr);
}

static void an_entry_beyond_the_groups_end_is_refused(void **state)
{
    static const struct {
        uint64_t block;
        uint32_t n;
    } bad[] = {{RR_BLOCKS, 1}, {RR_BLOCKS - 1, 2}, {UINT64_MAX / BLOCK_SIZE - 8, 1}};
    struct rr *rr = begin(4);
    struct rr_probe *p = rr_greet(rr, ROLE_FRONTEND);
    rr_create(rr, p);
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
        p = rr_greet(rr, ROLE_FRONTEND);
        rr_prepare(p, 3 + i, 0);
        rr_open(p, 3 + i, (struct log_pos){0});
        rr_accept(p, 3 + i, rr_entry(rr, 1, 3 + i, bad[i].block, bad[i].n, 1), 0);
        rr_refused(p, "beyond the group's size");
        assert_int_equal(paxos_log_last(&rr_group(rr)->acceptor.log).slot, 0);
    }
    p = rr_greet(rr, ROLE_FRONTEND);
    rr_prepare(p, 9, 0);
    rr_open(p, 9, (struct log_pos){0});
    struct entry *e = rr_entry(rr, 1, 9, RR_BLOCKS - 1, 1, 1);
    rr_accept(p, 9, e, 0);
    assert_int_equal(rr_take(p, MSG_ACCEPTED)->m.u.accepted.through, 1);
    rr_free(rr);
}

/* ---- groups ---- */

static int create_error(struct rr_probe *p, uint64_t group, uint64_t blocks, const struct membership *m)
{
    rr_say(p, (struct msg){.type = MSG_CREATE, .group = group, .cookie = group, .u.create = {.size_blocks = blocks, .membership = *m}});
    struct rr_got *g = rr_take(p, MSG_CREATED);
    assert_int_equal(g->m.group, group);
    return g->m.u.created.error;
}

static void groups_are_created_once_and_stay(void **state)
{
    struct rr *rr = begin(5);
    struct rr_probe *p = rr_greet(rr, ROLE_TOOL);
    struct membership m = {.n_voters = RR_REPLICAS};
    for (unsigned i = 0; i < RR_REPLICAS; i++)
        m.voter[i] = rr->config.replicas[RR_REPLICAS - 1 - i].identity; /* in any order */
    assert_int_equal(create_error(p, RR_GROUP, RR_BLOCKS, &m), 0);
    assert_int_equal(create_error(p, RR_GROUP, RR_BLOCKS, &m), 0); /* the answer was lost, the tool asks again */
    assert_int_equal(create_error(p, RR_GROUP, RR_BLOCKS + 1, &m), EEXIST);
    struct membership two = m;
    two.n_voters = 2;
    memset(&two.voter[2], 0, sizeof two.voter[2]);
    assert_int_equal(create_error(p, RR_GROUP, RR_BLOCKS, &two), EEXIST);
    struct membership other = m;
    other.voter[0].b[3] ^= 1;
    assert_int_equal(create_error(p, RR_GROUP, RR_BLOCKS, &other), EEXIST);
    assert_int_equal(create_error(p, 6, GROUP_BLOCKS_MAX + 1, &m), EINVAL);
    struct membership without = {.n_voters = 1, .voter[0] = {{8}}};
    assert_int_equal(create_error(p, 6, RR_BLOCKS, &without), EPERM);

    /* Answered is durable: a power cut right behind the answer forgets nothing. */
    rr_crash(rr, SIM_POWER);
    rr_start_ok(rr);
    assert_non_null(rr_group(rr));
    assert_int_equal(rr_group(rr)->acceptor.size_blocks, RR_BLOCKS);
    p = rr_greet(rr, ROLE_TOOL);
    assert_int_equal(create_error(p, RR_GROUP, RR_BLOCKS, &m), 0);
    assert_int_equal(create_error(p, RR_GROUP, RR_BLOCKS + 1, &m), EEXIST);
    for (uint64_t group = 100; group < 100 + GROUPS_MAX - 1; group++)
        assert_int_equal(create_error(p, group, RR_BLOCKS, &m), 0);
    assert_int_equal(create_error(p, 999, RR_BLOCKS, &m), ENOSPC);
    json_t *o = parsed(rr_status(rr)); /* all of them fit a status */
    assert_int_equal(json_array_size(json_object_get(o, "groups")), GROUPS_MAX);
    json_decref(o);
    rr_free(rr);
}

/* ---- status ---- */

static void the_status_says_who_holds_the_volume_and_how_far_it_is(void **state)
{
    struct rr *rr = begin(6);
    struct rr_probe *p = rr_greet(rr, ROLE_FRONTEND);
    rr_create(rr, p);
    json_t *all, *g = group_status(rr, &all);
    assert_string_equal(string_of(all, "role"), "replica");
    assert_string_equal(string_of(all, "state"), "up");
    assert_string_equal(string_of(all, "identity"), "d1d1d1d1-d1d1-d1d1-d1d1-d1d1d1d1d1d1");
    assert_string_equal(string_of(all, "cluster"), "c1c1c1c1-c1c1-c1c1-c1c1-c1c1c1c1c1c1");
    assert_int_equal(number_of(all, "pid"), 4711);
    assert_int_equal(number_of(g, "group"), RR_GROUP);
    assert_int_equal(number_of(g, "size_bytes"), RR_BLOCKS * BLOCK_SIZE);
    assert_string_equal(string_of(g, "state"), "up to date");
    assert_true(json_is_null(json_object_get(g, "holder")));
    assert_false(json_is_true(json_object_get(g, "in_stream")));
    json_t *voters = json_object_get(g, "voters");
    assert_int_equal(json_array_size(voters), 3);
    assert_string_equal(json_string_value(json_array_get(voters, 1)), "d2d2d2d2-d2d2-d2d2-d2d2-d2d2d2d2d2d2");
    json_decref(all);

    rr_prepare(p, 3, 900 * NS_PER_MS);
    rr_open(p, 3, (struct log_pos){0});
    for (uint64_t slot = 1; slot <= 4; slot++)
        rr_accept(p, 3, rr_entry(rr, slot, 3, 10 * slot, 2, (uint8_t)slot), slot > 3 ? 2 : 0);
    while (rr_take(p, MSG_ACCEPTED)->m.u.accepted.through < 4)
        ;
    rr_applied(rr, 2);
    g = group_status(rr, &all);
    json_t *holder = json_object_get(g, "holder");
    assert_string_equal(string_of(holder, "name"), "frontend-1");
    assert_true(number_of(holder, "remaining_ms") > 0 && number_of(holder, "remaining_ms") <= 900);
    assert_int_equal(number_of(g, "promised_round"), 3);
    assert_int_equal(number_of(g, "commit"), 2);
    assert_int_equal(number_of(g, "applied"), 2);
    assert_int_equal(number_of(g, "last"), 4);
    assert_int_equal(number_of(g, "durable"), 4);
    assert_true(json_is_true(json_object_get(g, "in_stream")));
    assert_int_equal(number_of(json_object_get(all, "counters"), "accepts"), 4);
    assert_true(number_of(json_object_get(json_object_get(all, "store"), "wal"), "bytes") >= 8 * BLOCK_SIZE);
    json_decref(all);

    rr_run(rr, 2 * NS_PER_S); /* nobody renewed the lease */
    g = group_status(rr, &all);
    assert_true(json_is_null(json_object_get(g, "holder")));
    json_decref(all);

    /* Others have chosen more than this one has, and nobody can give it. */
    wire_peer_close(&p->peer);
    rr_run(rr, NS_PER_S);
    struct rr_probe *q = rr_greet(rr, ROLE_FRONTEND);
    rr_beat(q, 3, 9);
    rr_take(q, MSG_BEAT_ACK);
    g = group_status(rr, &all);
    assert_string_equal(string_of(g, "state"), "behind");
    assert_int_equal(number_of(g, "behind_slots"), 5);
    json_decref(all);
    rr_free(rr);
}

/* ---- reads ---- */

static void say_read(struct rr_probe *p, uint64_t round, uint64_t cookie, uint64_t block, uint32_t n, uint64_t watermark)
{
    rr_say(p, (struct msg){.type = MSG_READ,
                           .cookie = cookie,
                           .ballot = rr_ballot(round),
                           .u.read = {.block = block, .nblocks = n, .watermark = watermark}});
}

static struct rr_got *take_data(struct rr_probe *p, uint64_t cookie, enum data_status status)
{
    struct rr_got *g = rr_take(p, MSG_DATA);
    assert_int_equal(g->m.cookie, cookie);
    assert_int_equal(g->m.u.data.status, status);
    return g;
}

/* Three writes, all committed, under round 3: blocks 10..11 are 1, 12..13 zero, 14 is 2, 15 is 3. */
static struct rr_probe *written(struct rr *rr)
{
    struct rr_probe *p = rr_greet(rr, ROLE_FRONTEND);
    rr_create(rr, p);
    rr_prepare(p, 3, 30 * NS_PER_S);
    rr_open(p, 3, (struct log_pos){0});
    rr_accept(p, 3, rr_entry(rr, 1, 3, 10, 2, 1), 0);
    rr_accept(p, 3, rr_entry(rr, 2, 3, 14, 1, 2), 1);
    rr_accept(p, 3, rr_entry(rr, 3, 3, 15, 1, 3), 2);
    rr_beat(p, 3, 3);
    rr_applied(rr, 3);
    return p;
}

static void reads_give_the_image_with_its_checksums(void **state)
{
    struct rr *rr = begin(7);
    struct rr_probe *p = written(rr);
    say_read(p, 3, 50, 10, 6, 3);
    struct rr_got *g = take_data(p, 50, DATA_OK);
    assert_int_equal(g->m.u.data.applied, 3);
    assert_int_equal(g->zero[0], 0xc); /* two zero blocks are not sent */
    assert_int_equal(g->data_len, 4 * BLOCK_SIZE);
    static const uint8_t fill[] = {1, 1, 2, 3};
    static const unsigned at[] = {0, 1, 4, 5};
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(g->data[i * BLOCK_SIZE], fill[i]);
        assert_int_equal(g->data[(i + 1) * BLOCK_SIZE - 1], fill[i]);
        assert_int_equal(g->crc[at[i]], crc32c(g->data + (size_t)i * BLOCK_SIZE, BLOCK_SIZE));
    }
    say_read(p, 3, 53, RR_BLOCKS - 1, 2, 0);
    rr_refused(p, "a read beyond the end of group 5");
    rr_free(rr);
}

static void say_image(struct rr_probe *p, uint64_t cookie, uint64_t block, uint32_t n, struct log_pos at)
{
    rr_say(p, (struct msg){.type = MSG_IMAGE, .cookie = cookie, .u.image = {.block = block, .nblocks = n, .at = at}});
}

static struct rr_got *take_image(struct rr_probe *p, uint64_t cookie, enum donor_status status)
{
    struct rr_got *g = rr_take(p, MSG_IMAGE_REPLY);
    assert_int_equal(g->m.cookie, cookie);
    assert_int_equal(g->m.u.image_reply.status, status);
    return g;
}

/* What replicas ask of each other needs no ballot and no lease, as an image is only used at the slot that it names. */
static void images_are_given_to_other_replicas(void **state)
{
    struct rr *rr = begin(27);
    struct rr_probe *p = written(rr);
    struct rr_probe *peer = rr_greet(rr, ROLE_REPLICA);
    say_image(peer, 51, 10, 6, (struct log_pos){.slot = 2, .e = rr_ballot(3)});
    struct rr_got *g = take_image(peer, 51, DONOR_OK);
    assert_int_equal(g->m.u.image_reply.at.slot, 3);
    assert_true(ballot_equal(&g->m.u.image_reply.at.e, &(struct ballot){.round = 3, .proposer = rr_ballot(3).proposer}));
    assert_int_equal(g->zero[0], 0xc);
    assert_int_equal(g->bad[0] | g->lost[0], 0);
    assert_int_equal(g->data_len, 4 * BLOCK_SIZE);
    assert_int_equal(g->data[3 * BLOCK_SIZE], 3);
    say_image(peer, 52, 15, 1, (struct log_pos){.slot = 5, .e = rr_ballot(3)});
    take_image(peer, 52, DONOR_BEHIND); /* it has heard of no such slot */

    /* A slot that stands in its log and that nobody told it is chosen: who asks vouches for it, if it is the same entry. */
    rr_accept(p, 3, rr_entry(rr, 4, 3, 15, 1, 4), 3);
    rr_accept(p, 3, rr_entry(rr, 5, 3, 15, 1, 5), 3);
    rr_take(p, MSG_ACCEPTED);
    rr_run(rr, NS_PER_S);
    say_image(peer, 53, 15, 1, (struct log_pos){.slot = 4, .e = rr_ballot(2)});
    take_image(peer, 53, DONOR_BEHIND);
    assert_int_equal(rr_group(rr)->acceptor.commit, 3);
    say_image(peer, 54, 15, 1, (struct log_pos){.slot = 4, .e = rr_ballot(3)});
    assert_int_equal(take_image(peer, 54, DONOR_OK)->data[0], 4);
    assert_int_equal(rr_group(rr)->acceptor.commit, 4);

    acceptor_set_needs_copy(&rr_group(rr)->acceptor, true);
    say_image(peer, 55, 15, 1, (struct log_pos){0});
    take_image(peer, 55, DONOR_INCOMPLETE);
    say_image(peer, 56, RR_BLOCKS - 1, 2, (struct log_pos){0});
    rr_refused(peer, "an image beyond the end of group 5");
    rr_free(rr);
}

static void reads_wait_for_what_was_chosen_or_are_sent_elsewhere(void **state)
{
    struct rr *rr = begin(8);
    struct rr_probe *p = written(rr);
    say_read(p, 3, 60, 10, 1, 4); /* slot 4 is not here */
    take_data(p, 60, DATA_BEHIND);
    say_read(p, 2, 61, 10, 1, 3);
    assert_int_equal(rr_take(p, MSG_NACK)->m.cookie, 61); /* a deposed front end's */
    say_read(p, 4, 62, 10, 1, 3);                  /* a ballot that this one has not heard of yet */
    take_data(p, 62, DATA_OK);

    /* Matched and known to be chosen, but its record is not durable: the read waits and then sees it. */
    sim_disk_timing(rr->wal)->write_ns = (struct sim_range){50 * NS_PER_MS, 50 * NS_PER_MS};
    rr_accept(p, 3, rr_entry(rr, 4, 3, 10, 1, 9), 3);
    say_read(p, 3, 63, 10, 1, 4);
    rr_run(rr, 20 * NS_PER_MS);
    assert_int_equal(rr_group(rr)->n_waiting_reads, 1);
    assert_int_equal(take_data(p, 63, DATA_OK)->data[0], 9);

    /* A successor comes while it waits: the answer could mix its entries in. */
    rr_accept(p, 3, rr_entry(rr, 5, 3, 10, 1, 10), 4);
    say_read(p, 3, 64, 10, 1, 5);
    struct rr_probe *q = rr_greet(rr, ROLE_FRONTEND);
    rr_say(q, (struct msg){.type = MSG_OPEN, .ballot = rr_ballot(7), .u.open = {.at = {.slot = 5, .e = rr_ballot(3)}}});
    take_data(p, 64, DATA_BEHIND);
    rr_free(rr);
}

/* A log that is soon full, an open stream, and checkpoints that take so long. */
static struct rr *with_slow_checkpoints(uint64_t seed, uint64_t ns, struct rr_probe **ret_p)
{
    struct rr *rr = rr_new(seed);
    rr->wal_bytes = 4u << 20;
    rr_start_ok(rr);
    *ret_p = rr_greet(rr, ROLE_FRONTEND);
    rr_create(rr, *ret_p);
    rr_prepare(*ret_p, 3, NS_PER_S);
    rr_open(*ret_p, 3, (struct log_pos){0});
    sim_disk_timing(rr->meta)->write_ns = (struct sim_range){ns, ns};
    return rr;
}

/* No checkpoint ends, so the log fills: what is held back are entries, not what else comes on their connection, nor a take-over. */
static void a_full_log_holds_back_entries_alone(void **state)
{
    struct rr_probe *p;
    struct rr *rr = with_slow_checkpoints(16, 1000 * NS_PER_S, &p);
    uint64_t slot = 0;
    while (rr->replica->held_bytes < 256u << 10) {
        slot++;
        rr_accept(p, 3, rr_entry(rr, slot, 3, slot % 8 * 64, 4, (uint8_t)slot), slot - 1);
        rr_beat(p, 3, slot - 1);
        rr_run(rr, 10 * NS_PER_MS);
        assert_true(slot < 1000);
    }
    assert_true(rr->replica->no_room && rr->replica->sessions_paused == 0);
    uint64_t applied = store_applied(rr->replica->store, RR_GROUP), held = rr_group(rr)->acceptor.match + 1;
    assert_true(applied > 4 && held < slot);
    say_read(p, 3, 70, applied % 8 * 64, 1, applied);
    assert_int_equal(take_data(p, 70, DATA_OK)->data[0], (uint8_t)applied);

    /* Another one takes over: what the first one's connection brought is of no use any more. */
    rr_run(rr, 2 * NS_PER_S);
    struct rr_probe *q = rr_greet(rr, ROLE_FRONTEND);
    rr_prepare(q, 5, NS_PER_S);
    rr_open(q, 5, (struct log_pos){.slot = held - 1, .e = rr_ballot(3)});
    struct entry *e = entry_new(sim_reactor_io(rr->others)->arena, ENTRY_SESSION, 0, 0, NULL, 0);
    e->group = RR_GROUP;
    e->slot = held;
    e->e = rr_ballot(5);
    rr_accept(q, 5, e, held - 1);
    while (rr_take(q, MSG_ACCEPTED)->m.u.accepted.through < held)
        ;
    assert_true(rr->replica->no_room);
    for (slot = held + 1; slot < held + 6; slot++)
        rr_accept(q, 5, rr_entry(rr, slot, 5, slot % 8 * 64, 4, (uint8_t)(100 + slot)), slot - 1);
    rr_run(rr, NS_PER_S);
    assert_int_equal(rr_group(rr)->acceptor.match, held);
    rr_crash(rr, SIM_KILL); /* the disk would keep it for too long */
    rr_free(rr);
}

static void what_was_held_comes_in_order_when_there_is_room(void **state)
{
    struct rr_probe *p;
    struct rr *rr = with_slow_checkpoints(17, 3 * NS_PER_S, &p);
    uint64_t slot = 0;
    for (bool held = false; !held || slot % 20; held |= rr->replica->held_bytes > 0) {
        slot++;
        rr_accept(p, 3, rr_entry(rr, slot, 3, slot % 8 * 64, 64, (uint8_t)slot), slot - 1);
        rr_run(rr, 10 * NS_PER_MS);
        assert_true(slot < 100);
    }
    rr_beat(p, 3, slot);
    for (unsigned i = 0; i < 100 && rr->replica->held_bytes > 0; i++) {
        rr_run(rr, NS_PER_S);
        rr_beat(p, 3, slot);
    }
    assert_int_equal(rr->replica->held_bytes, 0);
    rr_applied(rr, slot);
    for (uint64_t k = slot - 7; k <= slot; k++) {
        say_read(p, 3, 100 + k, k % 8 * 64, 1, slot);
        assert_int_equal(take_data(p, 100 + k, DATA_OK)->data[0], (uint8_t)k);
    }
    rr_free(rr);
}

/* Reads whose connection or replica goes before they are answered leave nothing behind (rr_free looks). */
static void unanswered_reads_are_forgotten(void **state)
{
    struct rr *rr = begin(9);
    struct rr_probe *p = written(rr);
    sim_disk_timing(rr->wal)->write_ns = (struct sim_range){500 * NS_PER_MS, 500 * NS_PER_MS};
    rr_accept(p, 3, rr_entry(rr, 4, 3, 10, 1, 9), 3);
    for (uint64_t i = 0; i < 5; i++)
        say_read(p, 3, 70 + i, 10, 1, 4);
    rr_run(rr, 20 * NS_PER_MS);
    assert_int_equal(rr_group(rr)->n_waiting_reads, 5);
    wire_peer_close(&p->peer);
    rr_run(rr, 2 * NS_PER_S);
    assert_int_equal(rr_group(rr)->n_waiting_reads, 0);
    p = rr_greet(rr, ROLE_FRONTEND);
    rr_open(p, 3, (struct log_pos){.slot = 4, .e = rr_ballot(3)});
    rr_accept(p, 3, rr_entry(rr, 5, 3, 10, 1, 9), 4);
    say_read(p, 3, 80, 10, 1, 5);
    rr_run(rr, 20 * NS_PER_MS);
    assert_int_equal(rr_group(rr)->n_waiting_reads, 1);
    rr_crash(rr, SIM_KILL);
    rr_start_ok(rr);
    rr_free(rr);
}

static void fetch_gives_the_entry_that_was_named_only(void **state)
{
    struct rr *rr = begin(10);
    struct rr_probe *p = written(rr);
    static const struct {
        uint64_t slot, round;
        bool found;
    } asked[] = {{2, 3, true}, {2, 2, false}, {4, 3, false}, {0, 0, false}};
    for (unsigned i = 0; i < ARRAY_LEN(asked); i++) {
        struct log_pos at = {.slot = asked[i].slot, .e = rr_ballot(asked[i].round)};
        rr_say(p, (struct msg){.type = MSG_FETCH, .cookie = i, .ballot = rr_ballot(3), .u.fetch = {.at = at}});
        struct rr_got *g = rr_take(p, MSG_VALUE);
        assert_int_equal(g->m.cookie, i);
        assert_int_equal(g->m.u.value.found, asked[i].found);
        assert_int_equal(g->entry != NULL, asked[i].found);
        if (g->entry)
            assert_int_equal(entry_block_data(g->entry, 0)[0], 2);
    }
    rr_free(rr);
}

/* ---- life ---- */

static void one_that_cannot_serve_says_why(void **state)
{
    struct rr *rr = rr_new(11);
    rr->listen = "no address";
    assert_int_equal(rr_start(rr), -EINVAL);
    assert_non_null(strstr(rr->why, "can't listen on no address"));
    rr_crash(rr, SIM_KILL);
    rr_donor(rr, 1, NULL);
    rr->listen = "r2:7000";
    assert_int_equal(rr_start(rr), -EADDRINUSE);
    assert_non_null(strstr(rr->why, "in use by another process"));
    rr_free(rr);
}

static void a_failed_log_ends_the_process_before_anything_is_answered(void **state)
{
    struct rr *rr = begin(12);
    struct rr_probe *p = written(rr);
    sim_disk_fail(rr->wal, SIM_WRITE, 0, UINT32_MAX, EIO);
    unsigned answers = p->n_got;
    rr_accept(p, 3, rr_entry(rr, 4, 3, 10, 1, 9), 3);
    rr_run(rr, 5 * NS_PER_S);
    assert_int_equal(rr->fatal, -EIO);
    for (unsigned i = answers; i < p->n_got; i++)
        assert_false(p->got[i].m.type == MSG_ACCEPTED && p->got[i].m.u.accepted.through >= 4);
    rr_free(rr);
}

/* ---- the one that stays up only to say that it failed ---- */

static void a_failed_replica_answers_status_and_nothing_else(void **state)
{
    struct rr *rr = rr_new(13);
    struct superblock sb = {.cluster = rr->config.id, .identity = rr->config.replicas[0].identity, .name = "replica-1"};
    struct sim_reactor *sim = sim_reactor_new(rr->world, "r1", 16u << 20);
    assert_int_equal(replica_open_failed(sim_reactor_io(sim), &sb, "not an address", 4712, "the disk is gone"), -EINVAL);
    assert_int_equal(replica_open_failed(sim_reactor_io(sim), &sb, rr->config.replicas[0].address, 4712, "writing the log failed"), 0);

    json_t *o = parsed(rr_status(rr));
    assert_string_equal(string_of(o, "state"), "failed");
    assert_string_equal(string_of(o, "reason"), "writing the log failed");
    assert_string_equal(string_of(o, "name"), "replica-1");
    assert_string_equal(string_of(o, "role"), "replica");
    assert_string_equal(string_of(o, "identity"), "d1d1d1d1-d1d1-d1d1-d1d1-d1d1d1d1d1d1");
    assert_int_equal(number_of(o, "pid"), 4712);
    assert_int_equal(json_array_size(json_object_get(o, "groups")), 0);
    json_decref(o);

    /* A front end hears why, and is never answered as by an empty log. */
    for (enum node_role role = ROLE_FRONTEND; role <= ROLE_REPLICA; role++) {
        struct rr_probe *p = rr_connect(rr);
        rr_say(p, (struct msg){.type = MSG_HELLO, .u.hello = {.version = WIRE_VERSION, .role = role, .cluster = rr->config.id}});
        rr_refused(p, "replica-1 has failed: writing the log failed");
    }
    static const enum msg_type types[] = {MSG_QUERY, MSG_PREPARE, MSG_CREATE, MSG_READ, MSG_CATCHUP};
    for (unsigned i = 0; i < ARRAY_LEN(types); i++) {
        struct rr_probe *p = rr_greet(rr, ROLE_TOOL);
        struct msg m = {.type = types[i], .ballot = rr_ballot(1), .u.create.membership = {.n_voters = 1, .voter[0] = {{1}}}};
        if (types[i] == MSG_CREATE)
            m.u.create.size_blocks = 8;
        else
            memset(&m.u, 0, sizeof m.u);
        if (types[i] == MSG_READ)
            m.u.read.nblocks = 1;
        rr_say(p, m);
        rr_refused(p, "has failed");
    }
    rr_free(rr);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(strangers_say_hello_first),
        cmocka_unit_test(a_tool_of_another_cluster_gets_the_status_only),
        cmocka_unit_test(messages_for_another_disk_or_role_end_the_connection),
        cmocka_unit_test(an_entry_beyond_the_groups_end_is_refused),
        cmocka_unit_test(groups_are_created_once_and_stay),
        cmocka_unit_test(the_status_says_who_holds_the_volume_and_how_far_it_is),
        cmocka_unit_test(reads_give_the_image_with_its_checksums),
        cmocka_unit_test(images_are_given_to_other_replicas),
        cmocka_unit_test(reads_wait_for_what_was_chosen_or_are_sent_elsewhere),
        cmocka_unit_test(a_full_log_holds_back_entries_alone),
        cmocka_unit_test(what_was_held_comes_in_order_when_there_is_room),
        cmocka_unit_test(unanswered_reads_are_forgotten),
        cmocka_unit_test(fetch_gives_the_entry_that_was_named_only),
        cmocka_unit_test(one_that_cannot_serve_says_why),
        cmocka_unit_test(a_failed_log_ends_the_process_before_anything_is_answered),
        cmocka_unit_test(a_failed_replica_answers_status_and_nothing_else),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
