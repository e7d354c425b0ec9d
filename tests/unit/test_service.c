/* The front end as a whole over fake replicas: NBD clients on one side, a volume on the other, the status socket beside them, and the ends that it may come to. */
#include "tests/unit/nbd_harness.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "nbdserver/service.h"
#include "tests/unit/volume_harness.h"

struct front {
    struct rig *rig;
    struct harness h; /* for clients: world and hosts only */
    struct sim_reactor *sim;
    struct service service;
    unsigned states, fenced, stopped;
};

static void on_state(void *user, struct volume *v)
{
    ((struct front *)user)->states++;
}

static void on_fenced(void *user, struct volume *v)
{
    ((struct front *)user)->fenced++;
}

static void on_stopped(void *user)
{
    ((struct front *)user)->stopped++;
}

static void make(struct front *f, uint64_t seed)
{
    memset(f, 0, sizeof *f);
    f->rig = rig_new(seed);
    f->h.w = f->rig->world;
    f->h.client_host = sim_reactor_new(f->rig->world, "client", UINT64_C(1) << 28);
    f->sim = sim_reactor_new(f->rig->world, "frontend-1", UINT64_C(1) << 30);
    struct service_options o = {.config = &f->rig->config, .name = "frontend-1", .pid = 4711, .payload_limit_bytes = 64u << 20};
    struct service_callbacks cb = {.on_state = on_state, .on_fenced = on_fenced, .on_stopped = on_stopped, .user = f};
    service_init(&f->service, sim_reactor_io(f->sim), &o, &cb);
}

static bool is_attached(void *user)
{
    return volume_export(((struct front *)user)->service.volume[0].volume)->attached;
}

static void begin(struct front *f, uint64_t seed)
{
    make(f, seed);
    assert_int_equal(service_add_volume(&f->service, "vol0"), 0);
    assert_int_equal(service_listen(&f->service, "unix:/nbd"), 0);
    assert_int_equal(service_listen_status(&f->service, "frontend-1:9"), 0);
    assert_true(sim_run_until(f->rig->world, is_attached, f, 20 * NS_PER_S));
}

static bool is_stopped(void *user)
{
    return ((struct front *)user)->service.stopped;
}

/* Everything in order; the service must stop within max_ns. */
static void end_within(struct front *f, uint64_t max_ns)
{
    if (!f->service.stopping)
        service_stop(&f->service);
    assert_true(sim_run_until(f->rig->world, is_stopped, f, max_ns));
    assert_int_equal(f->stopped, 1);
    if (f->service.has_status)
        operator_server_close(&f->service.operators);
    sim_run_for(f->rig->world, 100 * NS_PER_MS);
    assert_true(service_free(&f->service));
    sim_reactor_free(f->sim);
    rig_free(f->rig);
}

/* ---- one that asks for the status ---- */

struct asker {
    struct wire_peer peer;
    bool open, closed;
    struct msg last;
    char *json;
};

static void asker_open(struct wire_peer *p)
{
    ((struct asker *)p->user)->open = true;
}

static void asker_msg(struct wire_peer *p, const struct msg *m, struct buf *payload)
{
    struct asker *a = p->user;
    a->last = *m;
    if (m->type == MSG_STATUS_REPLY)
        a->json = strndup(m->u.status_reply.json, m->u.status_reply.len);
}

static void asker_closed(struct wire_peer *p, int err, const char *reason)
{
    ((struct asker *)p->user)->closed = true;
    assert_null(reason);
}

static const struct wire_handler asker_wire = {.on_open = asker_open, .on_msg = asker_msg, .on_closed = asker_closed};

static bool heard(void *user)
{
    struct asker *a = user;
    return a->last.type != 0 || a->closed;
}

static void asker_connect(struct front *f, struct asker *a)
{
    memset(a, 0, sizeof *a);
    assert_int_equal(wire_peer_connect(&a->peer, sim_reactor_io(f->h.client_host), "frontend-1:9", &asker_wire, a), 0);
}

static const struct msg *ask(struct front *f, struct asker *a, struct msg m)
{
    a->last.type = 0;
    wire_peer_send(&a->peer, &m);
    assert_true(sim_run_until(f->rig->world, heard, a, 10 * NS_PER_S));
    return &a->last;
}

static const struct msg *greet(struct front *f, struct asker *a)
{
    asker_connect(f, a);
    return ask(f, a, (struct msg){.type = MSG_HELLO, .cookie = 3, .u.hello = {.version = WIRE_VERSION, .role = ROLE_TOOL}});
}

static void let_go(struct front *f, struct asker *a)
{
    wire_peer_close(&a->peer);
    sim_run_for(f->rig->world, 50 * NS_PER_MS);
    free(a->json);
}

static json_t *status(struct front *f)
{
    struct asker a;
    assert_int_equal(greet(f, &a)->type, MSG_HELLO);
    assert_int_equal(ask(f, &a, (struct msg){.type = MSG_STATUS, .cookie = 8})->type, MSG_STATUS_REPLY);
    assert_int_equal(a.last.cookie, 8);
    json_t *o = json_loads(a.json, 0, NULL);
    if (!o)
        fail_msg("no JSON: %s", a.json);
    let_go(f, &a);
    return o;
}

static void check_string(const json_t *o, const char *key, const char *want)
{
    const char *s = json_string_value(json_object_get(o, key));
    if (!s || strcmp(s, want) != 0)
        fail_msg("%s: %s instead of %s", key, s ? s : "nothing", want);
}

static void the_status_tells_clients_volumes_and_replicas(void **state)
{
    struct front f;
    struct client c;
    begin(&f, 1);
    client_enter(&c, &f.h, "vol0", true);
    do_write(&c, true, 4096, pattern, 8192);
    sim_reset(f.rig->world, "frontend-1", "replica-3");
    sim_run_for(f.rig->world, 5 * NS_PER_MS);
    sim_cut(f.rig->world, "frontend-1", "replica-3");
    sim_run_for(f.rig->world, 5 * NS_PER_S);
    json_t *o = status(&f);
    check_string(o, "name", "frontend-1");
    check_string(o, "role", "nbdserver");
    check_string(o, "state", "up");
    assert_int_equal(json_integer_value(json_object_get(o, "pid")), 4711);
    assert_int_equal(json_integer_value(json_object_get(o, "clients")), 1);
    assert_true(json_integer_value(json_object_get(o, "requests")) >= 1);
    assert_true(json_integer_value(json_object_get(o, "uptime_ms")) >= 5000);
    json_t *v = json_array_get(json_object_get(o, "volumes"), 0);
    check_string(v, "name", "vol0");
    check_string(v, "state", "attached");
    check_string(v, "holder", "frontend-1");
    json_t *r = json_object_get(v, "replicas");
    assert_int_equal(json_array_size(r), REPLICAS);
    check_string(json_array_get(r, 0), "link", "up");
    check_string(json_array_get(r, 0), "stream", "open");
    check_string(json_array_get(r, 2), "stream", "down");
    assert_true(json_string_length(json_object_get(json_array_get(r, 2), "problem")) > 0); /* why */
    json_decref(o);
    sim_heal(f.rig->world, "frontend-1", "replica-3");
    client_close(&c);
    end_within(&f, 10 * NS_PER_S);
}

static void the_operators_socket_takes_nothing_else(void **state)
{
    struct front f;
    struct asker a;
    begin(&f, 2);
    const struct msg *m = greet(&f, &a);
    assert_int_equal(m->type, MSG_HELLO);
    assert_int_equal(m->cookie, 3);
    assert_int_equal(m->u.hello.role, ROLE_FRONTEND);
    assert_true(uuid_equal(&m->u.hello.cluster, &f.rig->config.id));
    assert_string_equal(m->u.hello.name, "frontend-1");
    assert_false(uuid_is_zero(&m->u.hello.identity));
    m = ask(&f, &a, (struct msg){.type = MSG_QUERY, .group = GROUP});
    assert_int_equal(m->type, MSG_REFUSED);
    assert_string_equal(m->u.refused.reason, "frontend-1: STATUS, ADDRESS and MEMBERS are answered here, nothing else");
    let_go(&f, &a);

    asker_connect(&f, &a);
    m = ask(&f, &a, (struct msg){.type = MSG_STATUS});
    assert_int_equal(m->type, MSG_REFUSED);
    assert_string_equal(m->u.refused.reason, "frontend-1: HELLO comes first");
    let_go(&f, &a);

    asker_connect(&f, &a);
    m = ask(&f, &a, (struct msg){.type = MSG_HELLO, .u.hello = {.version = WIRE_VERSION + 7, .role = ROLE_TOOL}});
    assert_int_equal(m->type, MSG_REFUSED);
    assert_non_null(strstr(m->u.refused.reason, "protocol version 2, not 9"));
    let_go(&f, &a);
    assert_int_equal(f.service.operators.n_connections, 0);
    end_within(&f, 10 * NS_PER_S);
}

/* Whoever opens connections and says nothing can't use the front end up. */
static void one_operator_connection_too_many_is_dropped(void **state)
{
    struct front f;
    struct asker a[OPERATOR_CONNECTIONS_MAX], more;
    begin(&f, 3);
    for (unsigned i = 0; i < OPERATOR_CONNECTIONS_MAX; i++)
        asker_connect(&f, &a[i]);
    sim_run_for(f.rig->world, 100 * NS_PER_MS);
    asker_connect(&f, &more);
    struct msg early = {.type = MSG_HELLO, .u.hello = {.version = WIRE_VERSION, .role = ROLE_TOOL}};
    wire_peer_send(&more.peer, &early);
    assert_true(sim_run_until(f.rig->world, heard, &more, 10 * NS_PER_S));
    assert_true(more.closed && more.last.type == 0);
    assert_int_equal(f.service.operators.n_connections, OPERATOR_CONNECTIONS_MAX);
    let_go(&f, &a[4]);
    json_decref(status(&f)); /* there is a place again */
    for (unsigned i = 0; i < OPERATOR_CONNECTIONS_MAX; i++)
        assert_int_equal(a[i].closed, i == 4);
    end_within(&f, 10 * NS_PER_S); /* with all of them open */
    for (unsigned i = 0; i < OPERATOR_CONNECTIONS_MAX; i++)
        assert_true(a[i].closed || i == 4);
}

/* However little room there is: whole JSON, or nothing; never a byte beyond. */
static void a_status_that_does_not_fit_is_never_cut(void **state)
{
    struct front f;
    begin(&f, 4);
    unsigned whole = 0, without = 0, nothing = 0;
    for (size_t cap = 1; cap < 6000; cap += cap < 400 ? 1 : 53) {
        char *buf = malloc(cap); /* the sanitizer looks at its end */
        size_t n = f.service.operators.render(f.service.operators.user, buf, cap);
        assert_true(n <= cap);
        if (n == 0) {
            nothing++;
        } else {
            json_t *o = json_loadb(buf, n, 0, NULL);
            if (!o)
                fail_msg("%zu bytes: no JSON: %.*s", cap, (int)n, buf);
            json_t *v = json_array_get(json_object_get(o, "volumes"), 0);
            whole += v && json_object_get(v, "replicas");
            without += !v || json_object_get(v, "error");
            json_decref(o);
        }
        free(buf);
    }
    assert_true(whole > 0 && without > 0 && nothing > 0);
    end_within(&f, 10 * NS_PER_S);
}

/* ---- beginnings ---- */

static void what_cannot_be_served_is_an_error(void **state)
{
    struct front f;
    make(&f, 5);
    assert_int_equal(service_add_volume(&f.service, "nothing"), -ENOENT);
    assert_int_equal(service_add_volume(&f.service, "vol0"), 0);
    assert_int_equal(service_add_volume(&f.service, "vol0"), 0); /* named twice */
    assert_int_equal(f.service.n_volumes, 1);
    assert_string_equal(f.service.nbd.exports.default_export, "vol0");
    assert_int_equal(service_listen(&f.service, "nowhere"), -EINVAL);
    assert_int_equal(service_listen(&f.service, "unix:/nbd"), 0);
    assert_int_equal(service_listen(&f.service, "unix:/nbd"), -EADDRINUSE);
    assert_int_equal(service_listen(&f.service, "unix:/second"), 0);
    assert_int_equal(f.service.n_listeners, 2);
    assert_int_equal(service_listen_status(&f.service, "unix:/nbd"), -EADDRINUSE);
    assert_false(f.service.has_status);
    end_within(&f, 10 * NS_PER_S);
}

/* ---- ends ---- */

static bool rival_is_attached(void *user)
{
    return ((struct front *)user)->rig->frontend[1].export->attached;
}

static void stopping_completes_what_is_under_way_and_lets_the_volume_go(void **state)
{
    struct front f;
    struct client c, late;
    begin(&f, 6);
    assert_true(f.states > 0);
    client_enter(&c, &f.h, "vol0", true);
    client_open(&late, &f.h); /* still in its handshake */
    take(&late, 18);
    for (unsigned i = 0; i < REPLICAS; i++)
        f.rig->replica[i].durable_ns = (struct sim_range){300 * NS_PER_MS, 300 * NS_PER_MS};
    send_write(&c, 0, 77, 0, pattern, 8192);
    sim_run_for(f.rig->world, 100 * NS_PER_MS);
    service_stop(&f.service);
    assert_false(f.service.stopped);
    expect_reply(&c, true, NBD_CMD_WRITE, 77, 0);
    assert_true(sim_run_until(f.rig->world, is_stopped, &f, 2 * NS_PER_S)); /* not the drain's timeout */
    uint64_t at = sim_now(f.rig->world);
    rig_start_frontend(f.rig, 1, 0);
    assert_true(sim_run_until(f.rig->world, rival_is_attached, &f, 20 * NS_PER_S));
    assert_true(sim_now(f.rig->world) - at < f.rig->config.lease_ms * NS_PER_MS * 9 / 10 + NS_PER_S); /* released, not waited for */
    client_close(&c);
    client_close(&late);
    end_within(&f, 1);
}

static void without_a_majority_stopping_does_not_wait_for_ever(void **state)
{
    struct front f;
    struct client c;
    begin(&f, 7);
    client_enter(&c, &f.h, "vol0", true);
    for (unsigned i = 1; i < REPLICAS; i++)
        cut(f.rig, 0, i);
    send_write(&c, 0, 78, 0, pattern, 4096);
    sim_run_for(f.rig->world, NS_PER_S);
    service_stop(&f.service);
    sim_run_for(f.rig->world, SERVICE_DRAIN_TIMEOUT_NS - NS_PER_S);
    assert_false(f.service.stopped);
    assert_true(sim_run_until(f.rig->world, is_stopped, &f, 3 * NS_PER_S));
    /* Whether the write counts is unknown, and the client hears no success. */
    sim_run_for(f.rig->world, 100 * NS_PER_MS);
    if (unread(&c) > 0)
        expect_reply(&c, true, NBD_CMD_WRITE, 78, NBD_ESHUTDOWN);
    client_close(&c);
    end_within(&f, 1);
}

static bool is_fenced(void *user)
{
    return ((struct front *)user)->fenced > 0;
}

static void clients_of_a_volume_that_another_took_are_dropped(void **state)
{
    struct front f;
    struct client c;
    begin(&f, 8);
    client_enter(&c, &f.h, "vol0", true);
    do_write(&c, true, 0, pattern, 4096);
    for (unsigned i = 0; i < REPLICAS; i++)
        cut(f.rig, 0, i);
    rig_start_frontend(f.rig, 1, 0);
    assert_true(sim_run_until(f.rig->world, rival_is_attached, &f, 20 * NS_PER_S));
    for (unsigned i = 0; i < REPLICAS; i++)
        heal(f.rig, 0, i);
    assert_true(sim_run_until(f.rig->world, is_fenced, &f, 20 * NS_PER_S));
    expect_end(&c);
    sim_run_for(f.rig->world, 2 * NS_PER_S); /* until it has asked who has it now */
    json_t *o = status(&f);
    json_t *v = json_array_get(json_object_get(o, "volumes"), 0);
    check_string(v, "holder", "frontend-2");
    assert_int_equal(json_integer_value(json_object_get(o, "clients")), 0);
    json_decref(o);
    client_close(&c);
    end_within(&f, 10 * NS_PER_S);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_status_tells_clients_volumes_and_replicas),
        cmocka_unit_test(the_operators_socket_takes_nothing_else),
        cmocka_unit_test(one_operator_connection_too_many_is_dropped),
        cmocka_unit_test(a_status_that_does_not_fit_is_never_cut),
        cmocka_unit_test(what_cannot_be_served_is_an_error),
        cmocka_unit_test(stopping_completes_what_is_under_way_and_lets_the_volume_go),
        cmocka_unit_test(without_a_majority_stopping_does_not_wait_for_ever),
        cmocka_unit_test(clients_of_a_volume_that_another_took_are_dropped),
    };
    return cmocka_run_group_tests(tests, harness_buffers_make, harness_buffers_free);
}
