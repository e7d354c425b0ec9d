/* Shared by tests of the volume session: see volume_harness.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/log.h"
#include "tests/unit/volume_harness.h"

static void quiet(void *user, enum log_level level, const char *text)
{
    if (getenv("QBD_TEST_LOG"))
        fprintf(stderr, "  %s\n", text);
}

static struct uuid id_of(unsigned n)
{
    struct uuid u = {{0}};
    u.b[0] = 0xa0;
    u.b[15] = (uint8_t)n;
    return u;
}

struct rig *rig_new(uint64_t seed)
{
    struct rig *rig = calloc(1, sizeof *rig);
    assert_non_null(rig);
    log_set_sink(quiet, NULL);
    rig->world = sim_world_new(seed);
    rig->config.id = id_of(99);
    rig->config.lease_ms = 1000;
    rig->config.n_replicas = REPLICAS;
    rig->config.n_volumes = 1;
    struct volume_config *v = &rig->config.volumes[0];
    *v = (struct volume_config){.name = "vol0", .group = GROUP, .size_bytes = VOLUME_BYTES, .n_replicas = REPLICAS, .replica = {0, 1, 2}};
    rig->members.n_voters = REPLICAS;
    for (unsigned i = 0; i < REPLICAS; i++) {
        struct replica_config *rc = &rig->config.replicas[i];
        snprintf(rc->name, sizeof rc->name, "replica-%u", i + 1);
        snprintf(rc->address, sizeof rc->address, "replica-%u:7000", i + 1);
        rc->identity = id_of(i + 1);
        rig->members.voter[i] = rc->identity;
    }
    for (unsigned i = 0; i < REPLICAS; i++)
        fake_replica_open(&rig->replica[i], rig->world, rig->config.replicas[i].name, &rig->config.id, &rig->config.replicas[i].identity,
                          &rig->members, GROUP, rig->replica, REPLICAS);
    return rig;
}

static void on_state(void *user, struct volume *v)
{
    ((struct rig_frontend *)user)->states++;
}

static void on_fenced(void *user, struct volume *v)
{
    struct rig_frontend *f = user;
    f->fenced++;
    for (struct request *q = f->rig->requests; q; q = q->next)
        f->unanswered_at_fence += q->frontend == f && !q->done;
}

void rig_start_frontend(struct rig *rig, unsigned i, uint64_t fail_after_ns)
{
    struct rig_frontend *f = &rig->frontend[i];
    char host[32];
    snprintf(host, sizeof host, "frontend-%u", i + 1);
    *f = (struct rig_frontend){.rig = rig, .sim = sim_reactor_new(rig->world, host, 1u << 30)};
    f->reactor = sim_reactor_io(f->sim);
    struct volume_options o = {.config = &rig->config, .volume_name = "vol0", .frontend_name = host, .fail_after_ns = fail_after_ns};
    struct volume_callbacks cb = {.on_state = on_state, .on_fenced = on_fenced, .user = f};
    assert_int_equal(volume_open(f->reactor, &o, &cb, &f->volume), 0);
    f->export = volume_export(f->volume);
}

static void on_closed(void *user)
{
    ((struct rig_frontend *)user)->closed = true;
}

static bool is_closed(void *user)
{
    return ((struct rig_frontend *)user)->closed;
}

void rig_stop_frontend(struct rig *rig, unsigned i)
{
    struct rig_frontend *f = &rig->frontend[i];
    if (!f->volume)
        return;
    volume_close(f->volume, on_closed, f);
    assert_true(sim_run_until(rig->world, is_closed, f, 5 * NS_PER_S));
    sim_run_for(rig->world, NS_PER_MS);
    volume_free(f->volume);
    f->volume = NULL;
    sim_reactor_free(f->sim); /* asserts that no buffer is in use */
}

void rig_free(struct rig *rig)
{
    for (unsigned i = 0; i < FRONTENDS; i++)
        rig_stop_frontend(rig, i);
    for (unsigned i = 0; i < REPLICAS; i++)
        fake_replica_close(&rig->replica[i]);
    for (struct request *q; (q = rig->requests);) {
        assert_true(q->done);
        rig->requests = q->next;
        free(q->data);
        free(q);
    }
    sim_world_free(rig->world);
    log_set_sink(NULL, NULL);
    free(rig);
}

static bool is_attached(void *user)
{
    return ((struct rig_frontend *)user)->export->attached;
}

void rig_attach(struct rig *rig, unsigned i)
{
    if (!sim_run_until(rig->world, is_attached, &rig->frontend[i], 20 * NS_PER_S))
        fail_msg("not attached: %s", rig->frontend[i].export->state);
}

struct rig *rig_attached(uint64_t seed)
{
    struct rig *rig = rig_new(seed);
    rig_start_frontend(rig, 0, 0);
    rig_attach(rig, 0);
    return rig;
}

/* ---- clients ---- */

static void take_read(struct request *q)
{
    uint32_t at = 0;
    q->data = malloc(q->r.length ? q->r.length : 1);
    assert_non_null(q->data);
    q->all_zero_pieces = true;
    uint64_t offset = q->r.offset;
    for (uint32_t i = 0; i < q->r.n_pieces; i++) {
        uint32_t len = q->r.data_len[i];
        assert_true(at + len <= q->r.length);
        assert_true(offset / ENTRY_MAX_BYTES == (offset + len - 1) / ENTRY_MAX_BYTES); /* pieces keep to 1 MiB boundaries */
        if (q->r.data[i]) {
            assert_int_equal(q->r.data_off[i] % BLOCK_SIZE, offset % BLOCK_SIZE);
            assert_true(q->r.data_off[i] + len <= q->r.data[i]->cap);
            memcpy(q->data + at, q->r.data[i]->data + q->r.data_off[i], len);
            q->all_zero_pieces = false;
        } else {
            memset(q->data + at, 0, len);
        }
        at += len;
        offset += len;
    }
    assert_int_equal(at, q->r.length);
}

static void on_done(struct export_request *r)
{
    struct request *q = r->user;
    assert_false(q->done);
    q->done = true;
    q->error = r->error;
    q->end = ++q->frontend->rig->points;
    q->answered_ns = sim_now(q->frontend->rig->world);
    q->frontend->rig->open--;
    if (r->op == EXPORT_READ && !r->error)
        take_read(q);
    for (uint32_t i = 0; i < r->n_pieces; i++) {
        if (r->op == EXPORT_WRITE && r->data[i]->refs == 1)
            memset(r->data[i]->data, 0xee, r->data[i]->cap); /* nobody may look at it any more */
        buf_unref(r->data[i]);
    }
}

struct request *submit(struct rig_frontend *f, enum export_op op, uint64_t offset, uint32_t length, const uint8_t *data, uint8_t value, uint32_t flags)
{
    struct request *q = calloc(1, sizeof *q);
    assert_non_null(q);
    q->frontend = f;
    q->next = f->rig->requests;
    f->rig->requests = q;
    q->r.op = op;
    q->r.flags = flags;
    q->r.offset = offset;
    q->r.length = length;
    q->r.done = on_done;
    q->r.user = q;
    if (op == EXPORT_WRITE) {
        q->r.n_pieces = export_cut(offset, length, q->r.data_off, q->r.data_len);
        for (uint32_t i = 0, at = 0; i < q->r.n_pieces; at += q->r.data_len[i++]) {
            size_t cap = (q->r.data_off[i] + (size_t)q->r.data_len[i] + BLOCK_SIZE - 1) / BLOCK_SIZE * BLOCK_SIZE;
            q->r.data[i] = buf_alloc_must(f->reactor->arena, cap);
            uint8_t *to = q->r.data[i]->data + q->r.data_off[i];
            if (data)
                memcpy(to, data + at, q->r.data_len[i]);
            else
                memset(to, value, q->r.data_len[i]);
        }
    }
    q->begin = ++f->rig->points;
    q->submitted_ns = sim_now(f->rig->world);
    f->rig->open++;
    f->export->submit(f->export, &q->r);
    return q;
}

static bool is_done(void *user)
{
    return ((struct request *)user)->done;
}

int await(struct rig *rig, struct request *q)
{
    if (!sim_run_until(rig->world, is_done, q, 60 * NS_PER_S))
        fail_msg("no answer to request %u at %llu+%u (%s)", q->r.op, (unsigned long long)q->r.offset, q->r.length, q->frontend->export->state);
    return q->error;
}

static bool none_open(void *user)
{
    return ((struct rig *)user)->open == 0;
}

void await_all(struct rig *rig)
{
    if (!sim_run_until(rig->world, none_open, rig, 60 * NS_PER_S))
        fail_msg("%u requests are not answered (%s)", rig->open, rig->frontend[0].export->state);
}

void write_value(struct rig *rig, uint64_t offset, uint32_t length, uint8_t value)
{
    assert_int_equal(await(rig, submit(&rig->frontend[0], EXPORT_WRITE, offset, length, NULL, value, 0)), 0);
}

void check_value(struct rig *rig, uint64_t offset, uint32_t length, uint8_t value)
{
    struct request *q = submit(&rig->frontend[0], EXPORT_READ, offset, length, NULL, 0, 0);
    assert_int_equal(await(rig, q), 0);
    for (uint32_t i = 0; i < length; i++)
        if (q->data[i] != value)
            fail_msg("byte %llu is %u, not %u", (unsigned long long)(offset + i), q->data[i], value);
}

static void host(char to[32], const char *kind, unsigned i)
{
    snprintf(to, 32, "%s-%u", kind, i + 1);
}

void cut(struct rig *rig, unsigned frontend, unsigned replica)
{
    char a[32], b[32];
    host(a, "frontend", frontend);
    host(b, "replica", replica);
    sim_cut(rig->world, a, b);
}

void heal(struct rig *rig, unsigned frontend, unsigned replica)
{
    char a[32], b[32];
    host(a, "frontend", frontend);
    host(b, "replica", replica);
    sim_heal(rig->world, a, b);
}

void compare_replicas(struct rig *rig)
{
    for (unsigned i = 0; i < REPLICAS; i++)
        heal(rig, 0, i);
    sim_run_for(rig->world, 10 * NS_PER_S);
    for (unsigned i = 1; i < REPLICAS; i++) {
        assert_int_equal(rig->replica[i].applied, rig->replica[0].applied);
        assert_memory_equal(rig->replica[i].block, rig->replica[0].block, VOLUME_BYTES);
        assert_memory_equal(rig->replica[i].crc, rig->replica[0].crc, sizeof rig->replica[i].crc);
    }
}
