/* Who a volume's replicas are, from the front end's side: learners, changes of the voters under load, voters that the configuration does not name, and what the one who asked is told. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "nbdserver/volume_internal.h"
#include "tests/unit/volume_harness.h"

struct test {
    struct rig *rig;
    struct fake_replica spare; /* replica-4, a learner that needs a copy */
    struct uuid spare_id;
    bool spare_open;
    unsigned answers;
    int err;
    char text[200];
};

static int setup(void **state)
{
    struct test *t = calloc(1, sizeof *t);
    t->rig = rig_new(7);
    t->spare_id = (struct uuid){{4, 4, 4}};
    fake_replica_open(&t->spare, t->rig->world, "replica-4", &t->rig->config.id, &t->spare_id, &t->rig->members, GROUP, t->rig->replica, REPLICAS);
    acceptor_set_needs_copy(t->spare.acceptor, true);
    t->spare_open = true;
    *state = t;
    return 0;
}

static int teardown(void **state)
{
    struct test *t = *state;
    for (unsigned i = 0; i < FRONTENDS; i++)
        rig_stop_frontend(t->rig, i);
    if (t->spare_open)
        fake_replica_close(&t->spare);
    rig_free(t->rig);
    free(t);
    return 0;
}

static struct volume *volume(struct test *t)
{
    return t->rig->frontend[0].volume;
}

static void on_done(void *user, int err, const char *text)
{
    struct test *t = user;
    t->answers++;
    t->err = err;
    snprintf(t->text, sizeof t->text, "%s", text);
}

static bool answered(void *user)
{
    return ((struct test *)user)->answers > 0;
}

static int ask(struct test *t, enum members_verb verb, const struct membership *m)
{
    const char *text = NULL;
    t->answers = 0;
    int rc = volume_members(volume(t), verb, m, on_done, t, &text);
    assert_non_null(text);
    assert_int_equal(t->answers, 0); /* never from inside */
    if (rc != -EINPROGRESS) {
        snprintf(t->text, sizeof t->text, "%s", text);
        return rc;
    }
    assert_true(sim_run_until(t->rig->world, answered, t, 60 * NS_PER_S));
    sim_run_for(t->rig->world, 100 * NS_PER_MS);
    assert_int_equal(t->answers, 1);
    return t->err;
}

static struct membership learner(struct test *t)
{
    struct membership m = t->rig->members;
    m.n_learners = 1;
    m.learner[0] = t->spare_id;
    return m;
}

/* Replicas 2 and 3, and the spare. */
static struct membership replacement(struct test *t)
{
    struct membership m = t->rig->members;
    m.voter[0] = t->spare_id;
    return m;
}

static bool status_has(struct test *t, const char *what)
{
    static char json[64 << 10];
    size_t n = volume_status(volume(t), json, sizeof json - 1);
    json[n] = 0;
    return strstr(json, what) != NULL;
}

static void start(struct test *t)
{
    rig_start_frontend(t->rig, 0, 0);
    rig_attach(t->rig, 0);
    write_value(t->rig, 0, 64 << 10, 1);
}

static void take_learner(struct test *t)
{
    struct membership m = learner(t);
    assert_int_equal(ask(t, MEMBERS_LEARN, &m), -EHOSTUNREACH); /* nobody has said where it is */
    assert_int_equal(volume_learn_address(volume(t), &t->spare_id, "replica-4", "replica-4:7000"), 0);
    assert_int_equal(ask(t, MEMBERS_LEARN, &m), 0);
    assert_int_equal(ask(t, MEMBERS_LEARN, &m), 0); /* and again */
    sim_run_for(t->rig->world, 3 * NS_PER_S);
    assert_true(status_has(t, "\"learner_state\":\"copying\""));
}

static void complete(struct test *t)
{
    acceptor_set_needs_copy(t->spare.acceptor, false);
    sim_run_for(t->rig->world, 2 * NS_PER_S);
    assert_true(status_has(t, "\"learner_state\":\"complete\""));
}

static void a_disk_is_replaced_while_the_volume_serves(void **state)
{
    struct test *t = *state;
    start(t);
    struct membership m = replacement(t);
    assert_int_equal(ask(t, MEMBERS_CHANGE, &m), -ENOLINK);
    take_learner(t);
    assert_int_equal(ask(t, MEMBERS_CHANGE, &m), -ENODATA); /* wrong rule 7 */
    assert_non_null(strstr(t->text, "not complete"));
    write_value(t->rig, 64 << 10, 64 << 10, 2);
    complete(t);
    /* Writes are under way all the time; those that come in while the pipeline drains wait a little. */
    struct request *w[40];
    for (unsigned i = 0; i < 40; i++)
        w[i] = submit(&t->rig->frontend[0], EXPORT_WRITE, i * 4096, 4096, NULL, (uint8_t)(10 + i), 0);
    assert_int_equal(ask(t, MEMBERS_CHANGE, &m), 0);
    for (unsigned i = 0; i < 40; i++)
        assert_int_equal(await(t->rig, w[i]), 0);
    assert_int_equal(ask(t, MEMBERS_CHANGE, &m), 0); /* repeated: they are these already */
    assert_non_null(strstr(t->text, "already"));
    assert_true(status_has(t, "\"retired\":true"));
    assert_false(status_has(t, "uncommitted_voters"));
    /* Two of the new ones are enough: 1 is out, and 2 is away. */
    cut(t->rig, 0, 0);
    cut(t->rig, 0, 1);
    write_value(t->rig, 0, 4096, 99);
    check_value(t->rig, 0, 4096, 99);
    check_value(t->rig, 4096, 4096, 11);
    heal(t->rig, 0, 0);
    /* 1 and 2 would have been a majority of the old ones. */
    cut(t->rig, 0, 2);
    heal(t->rig, 0, 1);
    write_value(t->rig, 0, 4096, 98);
    assert_false(status_has(t, "\"learner\":true"));
    struct membership l = learner(t);
    assert_int_equal(ask(t, MEMBERS_FORGET, &l), 0); /* it votes: it stays */
    assert_true(status_has(t, "replica-4"));
}

/* The learner votes. */
static void replace(struct test *t)
{
    start(t);
    take_learner(t);
    complete(t);
    struct membership m = replacement(t);
    assert_int_equal(ask(t, MEMBERS_CHANGE, &m), 0);
}

/* A front end with the old configuration finds the new voter by its identity, where any [replica] section has it. */
static void a_new_front_end_finds_a_voter_that_its_volume_does_not_name(void **state)
{
    struct test *t = *state;
    replace(t);
    write_value(t->rig, 0, 4096, 50);
    rig_stop_frontend(t->rig, 0);
    struct replica_config *rc = &t->rig->config.replicas[3];
    snprintf(rc->name, sizeof rc->name, "replica-4");
    snprintf(rc->address, sizeof rc->address, "replica-4:7000");
    rc->identity = t->spare_id;
    t->rig->config.n_replicas = 4;
    rig_start_frontend(t->rig, 0, 0);
    cut(t->rig, 0, 2);
    rig_attach(t->rig, 0); /* by 2 and 4 */
    check_value(t->rig, 0, 4096, 50);
    write_value(t->rig, 4096, 4096, 51);
    assert_true(status_has(t, "replica-4"));
}

/* ... or is told. */
static void a_missing_voter_may_be_pointed_out(void **state)
{
    struct test *t = *state;
    replace(t);
    rig_stop_frontend(t->rig, 0);
    rig_start_frontend(t->rig, 0, 0);
    cut(t->rig, 0, 2);
    sim_run_for(t->rig->world, 10 * NS_PER_S);
    assert_false(t->rig->frontend[0].export->attached); /* 1 and 2: a majority of nothing */
    assert_int_equal(volume_learn_address(volume(t), &t->spare_id, "replica-4", "nowhere:7000"), 0);
    sim_run_for(t->rig->world, NS_PER_S);
    assert_int_equal(volume_learn_address(volume(t), &t->spare_id, "replica-4", "replica-4:7000"), 0);
    rig_attach(t->rig, 0);
    write_value(t->rig, 0, 4096, 52);
}

/* The new voter is in the stream and acknowledges nothing: writes wait for the change no longer than a second. */
static void a_change_that_does_not_come_off_holds_writes_back_for_a_moment(void **state)
{
    struct test *t = *state;
    start(t);
    take_learner(t);
    complete(t);
    t->spare.durable_ns = (struct sim_range){3600 * NS_PER_S, 3600 * NS_PER_S};
    write_value(t->rig, 0, 4096, 60);
    struct membership m = replacement(t);
    const char *text;
    t->answers = 0;
    uint64_t began = sim_now(t->rig->world);
    assert_int_equal(volume_members(volume(t), MEMBERS_CHANGE, &m, on_done, t, &text), -EINPROGRESS);
    assert_int_equal(volume_members(volume(t), MEMBERS_CHANGE, &m, on_done, t, &text), -EBUSY);
    struct request *w = submit(&t->rig->frontend[0], EXPORT_WRITE, 0, 4096, NULL, 61, 0);
    assert_int_equal(await(t->rig, w), 0);
    assert_true(sim_now(t->rig->world) - began < 2 * NS_PER_S);
    assert_int_equal(t->answers, 1);
    assert_int_equal(t->err, -EAGAIN);
    assert_true(sim_now(t->rig->world) - began > 500 * NS_PER_MS); /* it did wait */
}

/* A learner that is given up is let go, and may come again. */
static void learners_come_and_go(void **state)
{
    struct test *t = *state;
    start(t);
    take_learner(t);
    struct membership m = learner(t);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(ask(t, MEMBERS_FORGET, &m), 0);
        sim_run_for(t->rig->world, NS_PER_S);
        assert_false(status_has(t, "replica-4"));
        write_value(t->rig, 0, 4096, (uint8_t)(70 + i));
        assert_int_equal(ask(t, MEMBERS_LEARN, &m), 0);
        sim_run_for(t->rig->world, NS_PER_S);
        assert_true(status_has(t, "\"learner\":true"));
    }
    assert_int_equal(ask(t, MEMBERS_FORGET, &m), 0); /* and the front end ends while the link does */
}

/* One disk after the other fails in the same place while the front end lives: what is gone takes no room for ever. */
static void a_disk_may_be_replaced_any_number_of_times(void **state)
{
    struct test *t = *state;
    start(t);
    for (unsigned k = 0; k < 2 * VOLUME_LINKS_MAX; k++) {
        struct membership m = replacement(t);
        take_learner(t);
        complete(t);
        assert_int_equal(ask(t, MEMBERS_CHANGE, &m), 0);
        write_value(t->rig, 0, 4096, (uint8_t)(100 + k));
        check_value(t->rig, 0, 4096, (uint8_t)(100 + k));
        fake_replica_close(&t->spare);
        t->spare_id = (struct uuid){{4, 4, 5, (uint8_t)k}};
        fake_replica_open(&t->spare, t->rig->world, "replica-4", &t->rig->config.id, &t->spare_id, &m, GROUP, t->rig->replica, REPLICAS);
        acceptor_set_needs_copy(t->spare.acceptor, true);
    }
    unsigned n = 0;
    for (uint32_t i = 0; i < volume(t)->n_links; i++)
        n += volume(t)->link[i].replica != NULL;
    assert_int_equal(n, REPLICAS + 1); /* the one that voted last, and whose disk is gone */
}

static void impossible_requests_are_refused(void **state)
{
    struct test *t = *state;
    start(t);
    struct membership m = {.n_voters = 0};
    assert_int_equal(ask(t, MEMBERS_CHANGE, &m), -EINVAL);
    m = t->rig->members;
    m.voter[1] = m.voter[0];
    assert_int_equal(ask(t, MEMBERS_CHANGE, &m), -EINVAL);
    assert_int_equal(ask(t, MEMBERS_LEARN, &t->rig->members), -EINVAL); /* which of the three? */
    assert_int_equal(ask(t, (enum members_verb)9, &t->rig->members), -EINVAL);
    assert_int_equal(ask(t, MEMBERS_CHANGE, &t->rig->members), 0); /* they are these */
    struct uuid nobody = {{0}};
    assert_int_equal(volume_learn_address(volume(t), &nobody, "x", "y:1"), -ENOSPC);
    /* Who asks when another front end takes over hears of it. */
    struct membership two = t->rig->members;
    two.n_voters = 2;
    memset(&two.voter[2], 0, sizeof two.voter[2]);
    for (unsigned i = 0; i < REPLICAS; i++)
        cut(t->rig, 0, i);
    sim_run_for(t->rig->world, 100 * NS_PER_MS);
    t->answers = 0;
    const char *text;
    (void)submit(&t->rig->frontend[0], EXPORT_WRITE, 0, 4096, NULL, 61, 0);
    assert_int_equal(volume_members(volume(t), MEMBERS_CHANGE, &two, on_done, t, &text), -EINPROGRESS);
    rig_stop_frontend(t->rig, 0);
    assert_int_equal(t->answers, 1);
    assert_true(t->err < 0);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(a_disk_is_replaced_while_the_volume_serves),
        T(a_new_front_end_finds_a_voter_that_its_volume_does_not_name),
        T(a_missing_voter_may_be_pointed_out),
        T(a_change_that_does_not_come_off_holds_writes_back_for_a_moment),
        T(learners_come_and_go),
        T(a_disk_may_be_replaced_any_number_of_times),
        T(impossible_requests_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
