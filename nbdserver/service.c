/* The front end's parts put together: see service.h. What always holds: a volume's clients hear of its state before anybody else does, and volumes are closed once, when no request is under way
 * or the drain's time is up. */
#include "nbdserver/service.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "nbdserver/team.h"

static void on_state(void *user, struct volume *v)
{
    struct service *s = ((struct served_volume *)user)->service;
    nbd_server_export_changed(&s->nbd, volume_export(v));
    if (s->cb.on_state)
        s->cb.on_state(s->cb.user, v);
}

static void on_fenced(void *user, struct volume *v)
{
    struct service *s = ((struct served_volume *)user)->service;
    nbd_server_drop(&s->nbd, volume_export(v), "another front end has taken the volume over");
    if (s->cb.on_fenced)
        s->cb.on_fenced(s->cb.user, v);
}

static void on_accept(struct listener *l, struct conn *c)
{
    struct service *s = l->user;
    nbd_server_accept(&s->nbd, c);
}

/* ---- status ---- */

void service_add_sums(const struct service *s, struct service_sums *to)
{
    to->clients += s->nbd.n_connections;
    to->requests += s->nbd.requests;
    to->errors += s->nbd.errors;
    to->payload_bytes += s->nbd.payload_bytes;
    to->memory_bytes += arena_used_bytes(s->reactor->arena);
}

size_t service_status_head(const struct service *s, const struct service_sums *sums, unsigned threads, const char *missing, char *buf, size_t cap)
{
    char members[64 + 8 * REACTORS_MAX] = "";
    if (threads > 1)
        snprintf(members, sizeof members, "\"threads\":%u,\"missing_threads\":[%s],", threads, missing);
    int rc = snprintf(buf, cap,
                      "{\"name\":\"%s\",\"role\":\"nbdserver\",\"version\":\"%s\",\"pid\":%d,\"state\":\"%s\",\"uptime_ms\":%llu,"
                      "%s\"clients\":%llu,\"requests\":%llu,\"errors\":%llu,\"payload_bytes\":%llu,\"memory_bytes\":%llu,\"volumes\":[",
                      s->options.name, QBD_VERSION, s->options.pid, s->stopping ? "stopping" : "up",
                      (unsigned long long)((io_now(s->reactor) - s->started_ns) / NS_PER_MS), members, (unsigned long long)sums->clients, (unsigned long long)sums->requests,
                      (unsigned long long)sums->errors, (unsigned long long)sums->payload_bytes, (unsigned long long)sums->memory_bytes);
    return rc < 0 || (size_t)rc + 2 > cap ? 0 : (size_t)rc;
}

static size_t render_status(void *user, char *buf, size_t cap)
{
    struct service *s = user;
    struct service_sums sums = { 0 };
    service_add_sums(s, &sums);
    size_t n = service_status_head(s, &sums, 1, "", buf, cap);
    if (n == 0)
        return 0;
    for (uint32_t i = 0; i < s->n_volumes && cap - n > 64; i++) {
        if (i > 0)
            buf[n++] = ',';
        n += volume_status(s->volume[i].volume, buf + n, cap - n - 8);
    }
    memcpy(buf + n, "]}", 2);
    return n + 2;
}

static bool on_status(void *user, struct operator_caller who)
{
    struct service *s = user;
    return s->team && team_status(s->team, who);
}

/* ---- what operators order ---- */

struct members_request {
    struct service *service;
    uint64_t id;
};

int service_learn_address(struct service *s, const struct uuid *identity, const char *name, const char *address)
{
    int err = 0;
    for (uint32_t i = 0; i < s->n_volumes; i++) {
        int rc = volume_learn_address(s->volume[i].volume, identity, name, address);
        if (rc < 0)
            err = -rc;
    }
    return err;
}

static int on_address(void *user, struct operator_caller who, const struct uuid *identity, const char *name, const char *address)
{
    struct service *s = user;
    return s->team ? team_learn_address(s->team, who, identity, name, address) : service_learn_address(s, identity, name, address);
}

static void on_members_done(void *user, int err, const char *text)
{
    struct members_request *q = user;
    operator_server_done(&q->service->operators, q->id, -err, text);
    free(q);
}

struct volume *service_find_group(const struct service *s, uint64_t group)
{
    for (uint32_t i = 0; i < s->n_volumes; i++) {
        const struct volume_config *c = config_find_volume(s->options.config, volume_export(s->volume[i].volume)->name);
        if (c && c->group == group)
            return s->volume[i].volume;
    }
    return NULL;
}

static void on_members(void *user, uint64_t request, uint64_t group, enum members_verb verb, const struct membership *m)
{
    struct service *s = user;
    struct volume *v = service_find_group(s, group);
    if (!v && s->team && team_members(s->team, request, group, verb, m))
        return;
    struct members_request *q = v ? malloc(sizeof *q) : NULL;
    const char *text = "";
    if (!q) {
        operator_server_done(&s->operators, request, v ? ENOMEM : ENOENT, v ? "out of memory" : "this front end does not serve that volume");
        return;
    }
    *q = (struct members_request){ .service = s, .id = request };
    int rc = volume_members(v, verb, m, on_members_done, q, &text);
    if (rc != -EINPROGRESS)
        on_members_done(q, rc, text);
}

/* ---- the end ---- */

static void on_volume_closed(void *user)
{
    struct service *s = ((struct served_volume *)user)->service;
    if (++s->n_closed < s->n_volumes)
        return;
    s->stopped = true;
    if (s->team)
        team_service_stopped(s);
    else if (s->cb.on_stopped)
        s->cb.on_stopped(s->cb.user);
}

static void close_volumes(struct service *s)
{
    if (s->closing_volumes)
        return;
    s->closing_volumes = true;
    timer_cancel(s->reactor, &s->drain_timer);
    for (uint32_t i = 0; i < s->n_volumes; i++)
        volume_close(s->volume[i].volume, on_volume_closed, &s->volume[i]);
}

static void on_drained(struct nbd_server *nbd)
{
    close_volumes(container_of(nbd, struct service, nbd));
}

static void on_drain_timeout(struct timer *t)
{
    struct service *s = container_of(t, struct service, drain_timer);
    log_warning("requests are still under way after %u s (no majority of replicas?); they fail now", (unsigned)(SERVICE_DRAIN_TIMEOUT_NS / NS_PER_S));
    close_volumes(s);
}

void service_stop(struct service *s)
{
    assert(!s->stopping);
    s->stopping = true;
    for (unsigned i = 0; i < s->n_listeners; i++)
        listener_close(s->listener[i]);
    s->n_listeners = 0;
    s->drain_timer.fn = on_drain_timeout;
    timer_set(s->reactor, &s->drain_timer, io_now(s->reactor) + SERVICE_DRAIN_TIMEOUT_NS);
    nbd_server_shutdown(&s->nbd, on_drained);
}

bool service_is_idle(const struct service *s)
{
    return s->stopped && s->nbd.n_connections == 0 && s->nbd.requests_out == 0 && !(s->has_status && s->operators.n_connections > 0);
}

bool service_free(struct service *s)
{
    assert(s->stopped);
    if (!service_is_idle(s))
        return false;
    for (uint32_t i = 0; i < s->n_volumes; i++)
        volume_free(s->volume[i].volume);
    nbd_server_free(&s->nbd);
    return true;
}

/* ---- the beginning ---- */

void service_init(struct service *s, struct reactor *r, const struct service_options *o, const struct service_callbacks *cb)
{
    memset(s, 0, sizeof *s);
    s->reactor = r;
    s->options = *o;
    if (cb)
        s->cb = *cb;
    s->started_ns = io_now(r);
    nbd_server_init(&s->nbd, r);
    if (o->payload_limit_bytes)
        s->nbd.payload_limit_bytes = o->payload_limit_bytes;
}

int service_add_volume(struct service *s, const char *name)
{
    struct served_volume *sv = &s->volume[s->n_volumes];
    for (uint32_t i = 0; i < s->n_volumes; i++)
        if (strcmp(volume_export(s->volume[i].volume)->name, name) == 0)
            return 0; /* named twice */
    assert(s->n_volumes < CONFIG_VOLUMES_MAX);
    struct volume_options o = {
        .config = s->options.config,
        .volume_name = name,
        .frontend_name = s->options.name,
        .retain_bytes = s->options.retain_bytes,
        .inflight_bytes = s->options.inflight_bytes,
        .fail_after_ns = s->options.fail_after_ns,
    };
    struct volume_callbacks cb = { .on_state = on_state, .on_fenced = on_fenced, .user = sv };
    sv->service = s;
    int rc = volume_open(s->reactor, &o, &cb, &sv->volume);
    if (rc < 0) {
        log_error("volume %s: %s", name, rc == -ENOENT ? "the configuration does not have it" : strerror(-rc));
        return rc;
    }
    s->export[s->n_volumes++] = volume_export(sv->volume);
    s->nbd.exports = (struct export_list){ .export = s->export, .n = s->n_volumes, .default_export = s->n_volumes == 1 ? s->export[0]->name : NULL };
    return 0;
}

int service_listen(struct service *s, const char *address)
{
    assert(s->n_listeners < SERVICE_LISTENERS_MAX);
    int rc = io_listen(s->reactor, address, on_accept, s, &s->listener[s->n_listeners]);
    if (rc < 0) {
        log_error("can't listen on %s: %s", address, strerror(-rc));
        return rc;
    }
    log_info("listening on %s", s->listener[s->n_listeners++]->address);
    return 0;
}

int service_listen_status(struct service *s, const char *address)
{
    s->operators.cluster = s->options.config->id;
    snprintf(s->operators.name, sizeof s->operators.name, "%s", s->options.name);
    s->operators.render = render_status;
    s->operators.status = on_status;
    s->operators.address = on_address;
    s->operators.members = on_members;
    s->operators.user = s;
    int rc = operator_server_open(&s->operators, s->reactor, address);
    if (rc < 0)
        log_error("can't listen on %s: %s", address, strerror(-rc));
    s->has_status = rc == 0;
    return rc;
}
