/* A front end of two threads over fake replicas: clients come to the one and go to the other, the status is of both, and both end. */
#include "tests/unit/nbd_harness.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "nbdserver/team.h"
#include "tests/unit/volume_harness.h"

#define THREADS 2

/* Three volumes: 0 and 2 are the first thread's and never attach (no replica has their groups), vol0 is the second's. */
struct front {
    struct rig *rig;
    struct harness h; /* for clients: world and hosts only */
    struct sim_reactor *sim[THREADS];
    struct service service[THREADS];
    struct team team;
    unsigned stopped;
};

static void on_stopped(void *user)
{
    ((struct front *)user)->stopped++;
}

static bool is_attached(void *user)
{
    return volume_export(((struct front *)user)->service[1].volume[0].volume)->attached;
}

static void add_volume(struct cluster_config *c, uint32_t at, const char *name, uint64_t group)
{
    c->volumes[at] = (struct volume_config){.group = group, .size_bytes = VOLUME_BYTES, .n_replicas = REPLICAS, .replica = {0, 1, 2}};
    strcpy(c->volumes[at].name, name);
    c->n_volumes = at + 1;
}

static void begin(struct front *f, uint64_t seed)
{
    static const char *const names[] = {"first", "vol0", "third"};
    memset(f, 0, sizeof *f);
    f->rig = rig_new(seed);
    for (uint32_t i = 0; i < 3; i++)
        add_volume(&f->rig->config, i, names[i], i == 1 ? GROUP : 90 + i);
    f->h.w = f->rig->world;
    f->h.client_host = sim_reactor_new(f->rig->world, "client", UINT64_C(1) << 28);
    struct service_options o = {.config = &f->rig->config, .name = "frontend-1", .pid = 4711, .payload_limit_bytes = 64u << 20};
    struct service_callbacks cb = {.on_stopped = on_stopped, .user = f};
    struct service *services[THREADS];
    for (unsigned i = 0; i < THREADS; i++) {
        f->sim[i] = i ? sim_reactor_another(f->sim[0], UINT64_C(1) << 30) : sim_reactor_new(f->rig->world, "frontend-1", UINT64_C(1) << 30);
        services[i] = &f->service[i];
        service_init(services[i], sim_reactor_io(f->sim[i]), &o, &cb);
        services[i]->nbd.attach_wait_ns = 100 * NS_PER_MS;
    }
    for (uint32_t i = 0; i < 3; i++)
        assert_int_equal(service_add_volume(services[team_index(i, THREADS)], names[i]), 0);
    team_init(&f->team, services, THREADS);
    assert_int_equal(service_listen(services[0], "unix:/nbd"), 0);
    assert_int_equal(service_listen_status(services[0], "frontend-1:9"), 0);
    assert_true(sim_run_until(f->rig->world, is_attached, f, 20 * NS_PER_S));
}

static bool is_stopped(void *user)
{
    return ((struct front *)user)->stopped > 0;
}

static void end(struct front *f)
{
    if (!f->service[0].stopping)
        team_stop(&f->team);
    assert_true(sim_run_until(f->rig->world, is_stopped, f, 10 * NS_PER_S));
    assert_int_equal(f->stopped, 1);
    operator_server_close(&f->service[0].operators);
    sim_run_for(f->rig->world, 100 * NS_PER_MS);
    assert_true(team_free(&f->team));
    for (unsigned i = 0; i < THREADS; i++)
        sim_reactor_free(f->sim[i]);
    rig_free(f->rig);
}

/* ---- clients ---- */

static void a_client_goes_where_its_volume_is(void **state)
{
    struct front f;
    struct client c;
    begin(&f, 1);
    client_enter(&c, &f.h, "vol0", true);
    assert_int_equal(f.service[0].nbd.n_connections, 0);
    assert_int_equal(f.service[1].nbd.n_connections, 1);
    do_write(&c, true, 4096, pattern, 8192);
    expect_read(&c, true, 0, 4096, 8192, pattern);
    expect_alive(&c, true);
    client_close(&c);
    sim_run_for(f.rig->world, 100 * NS_PER_MS);
    assert_int_equal(f.service[1].nbd.n_connections, 0);
    end(&f);
}

/* Haggling: each option that names an export is answered by the thread that has it, whoever was asked before. */
static void a_client_may_ask_for_one_volume_after_the_other(void **state)
{
    static const char *const names[] = {"first", "vol0", "third"};
    for (uint64_t seed = 2; seed < 12; seed++) {
        struct front f;
        struct client c;
        begin(&f, seed);
        if (seed % 2)
            sim_config(f.rig->world)->chunk_max = 1; /* byte by byte */
        client_greet(&c, &f.h, NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES);
        for (unsigned round = 0; round < 2; round++) {
            send_option(&c, NBD_OPT_LIST, NULL, 0);
            for (unsigned i = 0; i < 3; i++) {
                struct option_answer a = take_option_reply(&c, NBD_OPT_LIST);
                assert_int_equal(a.type, NBD_REP_SERVER);
                assert_memory_equal(a.data + 4, names[i], strlen(names[i]));
            }
            assert_int_equal(take_option_reply(&c, NBD_OPT_LIST).type, NBD_REP_ACK);
            send_go(&c, NBD_OPT_INFO, "vol0");
            send_go(&c, NBD_OPT_INFO, "first"); /* at once: what the first thread gets goes along with the connection */
            send_go(&c, NBD_OPT_INFO, "nowhere");
            send_go(&c, NBD_OPT_INFO, "vol0");
            assert_int_equal(take_option_reply(&c, NBD_OPT_INFO).type, NBD_REP_INFO);
            assert_int_equal(take_option_reply(&c, NBD_OPT_INFO).type, NBD_REP_ACK);
            expect_option_error(&c, NBD_OPT_INFO, NBD_REP_ERR_UNKNOWN, NULL); /* it is not attached */
            expect_option_error(&c, NBD_OPT_INFO, NBD_REP_ERR_UNKNOWN, "no such export");
            assert_int_equal(take_option_reply(&c, NBD_OPT_INFO).type, NBD_REP_INFO);
            assert_int_equal(take_option_reply(&c, NBD_OPT_INFO).type, NBD_REP_ACK);
            send_go(&c, NBD_OPT_INFO, "");
            expect_option_error(&c, NBD_OPT_INFO, NBD_REP_ERR_UNKNOWN, "there is no default export");
        }
        send_go(&c, NBD_OPT_GO, "vol0");
        assert_int_equal(take_option_reply(&c, NBD_OPT_GO).type, NBD_REP_INFO);
        assert_int_equal(take_option_reply(&c, NBD_OPT_GO).type, NBD_REP_ACK);
        sim_config(f.rig->world)->chunk_max = 64u << 10;
        do_write(&c, false, 0, pattern, 4096);
        client_close(&c);
        sim_run_for(f.rig->world, NS_PER_S);
        end(&f);
    }
}

static bool is_moving(void *user)
{
    return atomic_load(&((struct front *)user)->team.directory.moving) > 0;
}

static void a_client_may_leave_on_its_way(void **state)
{
    for (uint64_t seed = 20; seed < 40; seed++) {
        struct front f;
        struct client c;
        begin(&f, seed);
        client_greet(&c, &f.h, NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES);
        send_go(&c, NBD_OPT_GO, "vol0");
        assert_true(sim_run_until(f.rig->world, is_moving, &f, NS_PER_S));
        assert_int_equal(f.service[0].nbd.n_connections, 0);
        client_close(&c);
        sim_run_for(f.rig->world, NS_PER_S);
        assert_int_equal(f.service[1].nbd.n_connections, 0);
        end(&f);
    }
}

static void who_moves_into_a_shutdown_is_refused(void **state)
{
    for (uint64_t seed = 40; seed < 60; seed++) {
        struct front f;
        struct client c;
        begin(&f, seed);
        client_greet(&c, &f.h, NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES);
        send_go(&c, NBD_OPT_GO, "vol0");
        assert_true(sim_run_until(f.rig->world, is_moving, &f, NS_PER_S));
        team_stop(&f.team);
        assert_true(sim_run_until(f.rig->world, is_stopped, &f, 10 * NS_PER_S));
        sim_run_for(f.rig->world, NS_PER_S);
        client_close(&c);
        end(&f);
    }
}

static void a_full_thread_refuses_who_comes(void **state)
{
    struct front f;
    struct client c[3];
    begin(&f, 60);
    f.service[1].nbd.connections_max = 2;
    client_enter(&c[0], &f.h, "vol0", true);
    client_enter(&c[1], &f.h, "vol0", true);
    client_greet(&c[2], &f.h, NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES);
    send_go(&c[2], NBD_OPT_GO, "vol0");
    expect_end(&c[2]);
    expect_alive(&c[0], true);
    for (unsigned i = 0; i < 3; i++)
        client_close(&c[i]);
    sim_run_for(f.rig->world, NS_PER_S);
    end(&f);
}

/* ---- operators ---- */

struct asker {
    struct wire_peer peer;
    struct msg last;
    char *json;
    unsigned answers;
};

static void asker_msg(struct wire_peer *p, const struct msg *m, struct buf *payload)
{
    struct asker *a = p->user;
    a->last = *m;
    a->answers++;
    if (m->type != MSG_STATUS_REPLY)
        return;
    free(a->json);
    a->json = strndup(m->u.status_reply.json, m->u.status_reply.len);
}

static void asker_closed(struct wire_peer *p, int err, const char *reason)
{
}

static const struct wire_handler asker_wire = {.on_msg = asker_msg, .on_closed = asker_closed};

static bool heard(void *user)
{
    return ((struct asker *)user)->last.type != 0;
}

static const struct msg *ask(struct front *f, struct asker *a, struct msg m)
{
    a->last.type = 0;
    wire_peer_send(&a->peer, &m);
    assert_true(sim_run_until(f->rig->world, heard, a, 10 * NS_PER_S));
    return &a->last;
}

static void greet(struct front *f, struct asker *a)
{
    memset(a, 0, sizeof *a);
    assert_int_equal(wire_peer_connect(&a->peer, sim_reactor_io(f->h.client_host), "frontend-1:9", &asker_wire, a), 0);
    ask(f, a, (struct msg){.type = MSG_HELLO, .u.hello = {.version = WIRE_VERSION, .role = ROLE_TOOL}});
}

static void let_go(struct front *f, struct asker *a)
{
    wire_peer_close(&a->peer);
    sim_run_for(f->rig->world, 50 * NS_PER_MS);
    free(a->json);
}

static int64_t number(const json_t *o, const char *key)
{
    return json_integer_value(json_object_get(o, key));
}

static void the_status_is_of_all_threads(void **state)
{
    static const char *const names[] = {"first", "vol0", "third"};
    struct front f;
    struct client c;
    struct asker a;
    begin(&f, 70);
    client_enter(&c, &f.h, "vol0", true);
    do_write(&c, true, 0, pattern, 8192);
    greet(&f, &a);
    assert_int_equal(ask(&f, &a, (struct msg){.type = MSG_STATUS, .cookie = 8})->type, MSG_STATUS_REPLY);
    assert_int_equal(a.last.cookie, 8);
    json_t *o = json_loads(a.json, 0, NULL);
    if (!o)
        fail_msg("no JSON: %s", a.json);
    assert_int_equal(number(o, "threads"), 2);
    assert_int_equal(json_array_size(json_object_get(o, "missing_threads")), 0);
    assert_int_equal(number(o, "clients"), 1);
    assert_true(number(o, "requests") >= 1);
    json_t *v = json_object_get(o, "volumes");
    assert_int_equal(json_array_size(v), 3);
    for (unsigned i = 0; i < 3; i++) {
        assert_string_equal(json_string_value(json_object_get(json_array_get(v, i), "name")), names[i]);
        assert_string_equal(json_string_value(json_object_get(json_array_get(v, i), "state")), i == 1 ? "attached" : "waiting");
    }
    json_decref(o);
    /* Who asks and goes is no trouble; nor is who asks much. */
    struct msg m = {.type = MSG_STATUS};
    for (unsigned i = 0; i < 20; i++)
        wire_peer_send(&a.peer, &m);
    sim_run_for(f.rig->world, 100 * NS_PER_MS);
    assert_int_equal(a.answers, 22);
    wire_peer_send(&a.peer, &m);
    wire_peer_close(&a.peer);
    client_close(&c);
    sim_run_for(f.rig->world, NS_PER_S);
    free(a.json);
    end(&f);
}

/* One of them does nothing for a while, as if it were stuck in a system call: it is named, and what it says later is nobody's. */
static void a_thread_that_does_not_answer_is_named(void **state)
{
    struct front f;
    struct asker a;
    begin(&f, 71);
    greet(&f, &a);
    sim_stall(f.sim[1], 3 * NS_PER_S);
    uint64_t at = sim_now(f.rig->world);
    assert_int_equal(ask(&f, &a, (struct msg){.type = MSG_STATUS})->type, MSG_STATUS_REPLY);
    assert_true(sim_now(f.rig->world) - at < TEAM_STATUS_WAIT_NS + 200 * NS_PER_MS);
    json_t *o = json_loads(a.json, 0, NULL);
    assert_non_null(o);
    assert_int_equal(json_integer_value(json_array_get(json_object_get(o, "missing_threads"), 0)), 1);
    assert_int_equal(json_array_size(json_object_get(o, "volumes")), 2);
    json_decref(o);
    sim_run_for(f.rig->world, 5 * NS_PER_S);
    assert_int_equal(a.answers, 2);
    assert_int_equal(f.team.n_calls, 0);
    let_go(&f, &a);
    end(&f);
}

static void orders_go_to_the_thread_that_has_the_volume(void **state)
{
    struct front f;
    struct asker a;
    begin(&f, 72);
    greet(&f, &a);
    struct msg where = {.type = MSG_ADDRESS, .cookie = 5};
    memset(&where.u.address.identity, 0x77, sizeof where.u.address.identity);
    strcpy(where.u.address.name, "replica-9");
    strcpy(where.u.address.address, "replica-9:7000");
    const struct msg *m = ask(&f, &a, where);
    assert_int_equal(m->type, MSG_DONE);
    assert_int_equal(m->cookie, 5);
    assert_int_equal(m->u.done.error, 0);
    struct msg learn = {.type = MSG_MEMBERS, .cookie = 6, .group = GROUP, .u.members.verb = MEMBERS_LEARN};
    learn.u.members.membership.n_voters = 1;
    learn.u.members.membership.voter[0] = where.u.address.identity;
    m = ask(&f, &a, learn);
    assert_int_equal(m->type, MSG_DONE);
    assert_int_equal(m->cookie, 6);
    assert_int_equal(m->u.done.error, 0);
    learn.group = 4444;
    m = ask(&f, &a, learn);
    assert_int_equal(m->u.done.error, ENOENT);
    let_go(&f, &a);
    end(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_client_goes_where_its_volume_is),
        cmocka_unit_test(a_client_may_ask_for_one_volume_after_the_other),
        cmocka_unit_test(a_client_may_leave_on_its_way),
        cmocka_unit_test(who_moves_into_a_shutdown_is_refused),
        cmocka_unit_test(a_full_thread_refuses_who_comes),
        cmocka_unit_test(the_status_is_of_all_threads),
        cmocka_unit_test(a_thread_that_does_not_answer_is_named),
        cmocka_unit_test(orders_go_to_the_thread_that_has_the_volume),
    };
    return cmocka_run_group_tests(tests, harness_buffers_make, harness_buffers_free);
}
