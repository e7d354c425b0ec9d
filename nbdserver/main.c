/* qbd-nbdserver: the front end's daemon. Everything that is not a matter of this process (arguments, signals, memory) is in the modules that it puts together.
 *
 * Life: the listeners stand from the beginning (a client that comes before the volume is attached waits in its handshake), volumes attach, SIGTERM ends: no new requests, those under way complete,
 * leases are released, exit 0. A second signal, or a majority that does not come back within a few seconds, cuts that short. */
#include <argp.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#ifdef QBD_HAVE_SYSTEMD
#include <systemd/sd-daemon.h>
#endif

#include "base/daemon.h"
#include "base/log.h"
#include "base/uring.h"
#include "nbdserver/nbd_conn.h"
#include "nbdserver/status_server.h"
#include "nbdserver/volume.h"

#define LISTENERS_MAX 16
#define PAYLOAD_LIMIT_DEFAULT (UINT64_C(128) << 20)
#define PAYLOAD_LIMIT_MIN (UINT64_C(34) << 20) /* one request of 32 MiB at any offset must fit */
#define RETAIN_BYTES (UINT64_C(64) << 20)
#define DRAIN_TIMEOUT_NS (5 * NS_PER_S)

struct arguments {
    const char *config, *name, *status;
    const char *listen[LISTENERS_MAX];
    unsigned n_listen;
    const char *volume[CONFIG_VOLUMES_MAX];
    unsigned n_volumes;
    enum log_level log_level;
    unsigned spin_us;
    uint64_t payload_limit, fail_after_ms;
};

enum { OPT_STATUS = 256, OPT_LOG, OPT_SPIN, OPT_PAYLOAD, OPT_FAIL };

static const struct argp_option options[] = {
    { "config", 'c', "FILE", 0, "The cluster's configuration", 0 },
    { "volume", 'v', "NAME", 0, "A volume to serve; again for more (default: all of the configuration)", 0 },
    { "name", 'n', "NAME", 0, "This front end's name, told to others as the holder (default: the host's name)", 0 },
    { "listen", 'l', "ADDR", 0, "unix:PATH or HOST:PORT for NBD clients; again for more", 0 },
    { "status", OPT_STATUS, "ADDR", 0, "unix:PATH on which qbd asks for the status", 0 },
    { "log-level", OPT_LOG, "LEVEL", 0, "error, warning, info or debug", 0 },
    { "spin-us", OPT_SPIN, "N", 0, "Poll that many microseconds before sleeping: less latency for more CPU (default 0)", 0 },
    { "payload-limit", OPT_PAYLOAD, "SIZE", 0, "Bound of the clients' data held in memory (default 128M)", 0 },
    { "fail-after", OPT_FAIL, "MS", 0, "Without a majority of replicas, requests fail with EIO after that many milliseconds (default: they wait)", 0 },
    { 0 },
};

static uint64_t parse_number(struct argp_state *state, const char *option, const char *arg, uint64_t max)
{
    char *end;
    errno = 0;
    unsigned long long n = strtoull(arg, &end, 10);
    if (errno || end == arg || *end || n > max || arg[0] == '-')
        argp_error(state, "%s: '%s' is not a number from 0 to %llu", option, arg, (unsigned long long)max);
    return n;
}

static void parse_name(struct argp_state *state, const char *option, const char *arg)
{
    if (!config_name_is_valid(arg))
        argp_error(state, "%s: '%s' is no name: 1 to %d letters, digits, '-', '_' and '.', not beginning with '-' or '.'", option, arg,
                   NAME_MAX_BYTES - 1);
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct arguments *a = state->input;
    switch (key) {
    case 'c':
        a->config = arg;
        return 0;
    case 'v':
        parse_name(state, "--volume", arg);
        if (a->n_volumes == ARRAY_LEN(a->volume))
            argp_error(state, "--volume: at most %zu", ARRAY_LEN(a->volume));
        a->volume[a->n_volumes++] = arg;
        return 0;
    case 'n':
        parse_name(state, "--name", arg);
        a->name = arg;
        return 0;
    case 'l':
        if (a->n_listen == LISTENERS_MAX)
            argp_error(state, "--listen: at most %d", LISTENERS_MAX);
        a->listen[a->n_listen++] = arg;
        return 0;
    case OPT_STATUS:
        a->status = arg;
        return 0;
    case OPT_LOG:
        if (daemon_parse_log_level(arg, &a->log_level) < 0)
            argp_error(state, "--log-level: '%s' is none of error, warning, info, debug", arg);
        return 0;
    case OPT_SPIN:
        a->spin_us = (unsigned)parse_number(state, "--spin-us", arg, 100000);
        return 0;
    case OPT_PAYLOAD:
        if (config_parse_size(arg, &a->payload_limit) < 0 || a->payload_limit < PAYLOAD_LIMIT_MIN)
            argp_error(state, "--payload-limit: '%s' is not a size of at least %lluM", arg, (unsigned long long)PAYLOAD_LIMIT_MIN >> 20);
        return 0;
    case OPT_FAIL:
        a->fail_after_ms = parse_number(state, "--fail-after", arg, UINT32_MAX);
        return 0;
    case ARGP_KEY_END:
        if (!a->config)
            argp_error(state, "--config is needed");
        if (a->n_listen == 0)
            argp_error(state, "--listen is needed: where do clients connect?");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp argp = {
    .options = options,
    .parser = parse,
    .doc = "The front end of qbd volumes: serves them to NBD clients and orders their writes on the replicas.",
};

/* ---- the daemon ---- */

struct daemon;

struct served_volume {
    struct daemon *daemon;
    struct volume *volume;
    bool closed;
};

struct daemon {
    struct arguments *arguments;
    struct reactor *reactor;
    struct cluster_config config;
    struct nbd_server nbd;
    struct status_server status;
    struct served_volume volume[CONFIG_VOLUMES_MAX];
    struct export *export[CONFIG_VOLUMES_MAX];
    uint32_t n_volumes, n_closed;
    struct listener *listener[LISTENERS_MAX];
    unsigned n_listeners;
    struct timer drain_timer;
    uint64_t started_ns;
    bool stopping, closing_volumes;
};

static void on_state(void *user, struct volume *v)
{
    struct daemon *d = ((struct served_volume *)user)->daemon;
    nbd_server_export_changed(&d->nbd, volume_export(v));
}

static void on_fenced(void *user, struct volume *v)
{
    struct daemon *d = ((struct served_volume *)user)->daemon;
    nbd_server_drop(&d->nbd, volume_export(v), "another front end has taken the volume over");
}

static void on_accept(struct listener *l, struct conn *c)
{
    struct daemon *d = l->user;
    nbd_server_accept(&d->nbd, c);
}

/* ---- status ---- */

static size_t render_status(void *user, char *buf, size_t cap)
{
    struct daemon *d = user;
    size_t n = 0;
    int rc = snprintf(buf, cap,
                      "{\"name\":\"%s\",\"role\":\"nbdserver\",\"version\":\"%s\",\"pid\":%d,\"state\":\"%s\",\"uptime_ms\":%llu,"
                      "\"clients\":%u,\"requests\":%llu,\"errors\":%llu,\"payload_bytes\":%llu,\"memory_bytes\":%llu,\"volumes\":[",
                      d->arguments->name, QBD_VERSION, (int)getpid(), d->stopping ? "stopping" : "up",
                      (unsigned long long)((io_now(d->reactor) - d->started_ns) / NS_PER_MS), d->nbd.n_connections,
                      (unsigned long long)d->nbd.requests, (unsigned long long)d->nbd.errors, (unsigned long long)d->nbd.payload_bytes,
                      (unsigned long long)arena_used_bytes(d->reactor->arena));
    if (rc < 0 || (size_t)rc >= cap)
        return 0;
    n = (size_t)rc;
    for (uint32_t i = 0; i < d->n_volumes && cap - n > 64; i++) {
        if (i > 0)
            buf[n++] = ',';
        n += volume_status(d->volume[i].volume, buf + n, cap - n - 8);
    }
    memcpy(buf + n, "]}", 2);
    return n + 2;
}

/* ---- the end ---- */

static void on_volume_closed(void *user)
{
    struct served_volume *sv = user;
    struct daemon *d = sv->daemon;
    sv->closed = true;
    if (++d->n_closed == d->n_volumes)
        d->reactor->stopping = true;
}

static void close_volumes(struct daemon *d)
{
    if (d->closing_volumes)
        return;
    d->closing_volumes = true;
    timer_cancel(d->reactor, &d->drain_timer);
    for (uint32_t i = 0; i < d->n_volumes; i++)
        volume_close(d->volume[i].volume, on_volume_closed, &d->volume[i]);
}

static void on_drained(struct nbd_server *s)
{
    close_volumes(container_of(s, struct daemon, nbd));
}

static void on_drain_timeout(struct timer *t)
{
    struct daemon *d = container_of(t, struct daemon, drain_timer);
    log_warning("requests are still under way after %u s (no majority of replicas?); they fail now", (unsigned)(DRAIN_TIMEOUT_NS / NS_PER_S));
    close_volumes(d);
}

static void on_signal(int signo, void *user)
{
    struct daemon *d = user;
    if (d->stopping) {
        d->reactor->stopping = true;
        return;
    }
    d->stopping = true;
    log_info("stopping (%s)", strsignal(signo));
    for (unsigned i = 0; i < d->n_listeners; i++)
        listener_close(d->listener[i]);
    d->drain_timer.fn = on_drain_timeout;
    timer_set(d->reactor, &d->drain_timer, io_now(d->reactor) + DRAIN_TIMEOUT_NS);
    nbd_server_shutdown(&d->nbd, on_drained);
}

/* ---- the beginning ---- */

static int open_volume(struct daemon *d, const char *name)
{
    struct served_volume *sv = &d->volume[d->n_volumes];
    for (uint32_t i = 0; i < d->n_volumes; i++)
        if (strcmp(volume_export(d->volume[i].volume)->name, name) == 0)
            return 0; /* named twice */
    struct volume_options o = {
        .config = &d->config,
        .volume_name = name,
        .frontend_name = d->arguments->name,
        .retain_bytes = RETAIN_BYTES,
        .fail_after_ns = d->arguments->fail_after_ms * NS_PER_MS,
    };
    struct volume_callbacks cb = { .on_state = on_state, .on_fenced = on_fenced, .user = sv };
    sv->daemon = d;
    int rc = volume_open(d->reactor, &o, &cb, &sv->volume);
    if (rc < 0) {
        log_error("volume %s: %s", name, rc == -ENOENT ? "the configuration does not have it" : strerror(-rc));
        return rc;
    }
    d->export[d->n_volumes++] = volume_export(sv->volume);
    return 0;
}

static int open_volumes(struct daemon *d)
{
    struct arguments *a = d->arguments;
    if (a->n_volumes == 0) {
        if (d->config.n_volumes == 0)
            log_error("%s has no volume", a->config);
        for (uint32_t i = 0; i < d->config.n_volumes; i++)
            a->volume[a->n_volumes++] = d->config.volumes[i].name;
    }
    for (unsigned i = 0; i < a->n_volumes; i++)
        if (open_volume(d, a->volume[i]) < 0)
            return -1;
    d->nbd.exports = (struct export_list){ .export = d->export, .n = d->n_volumes, .default_export = d->n_volumes == 1 ? d->export[0]->name : NULL };
    return d->n_volumes > 0 ? 0 : -1;
}

static int open_listeners(struct daemon *d)
{
    struct arguments *a = d->arguments;
    for (unsigned i = 0; i < a->n_listen; i++) {
        int rc = io_listen(d->reactor, a->listen[i], on_accept, d, &d->listener[i]);
        if (rc < 0) {
            log_error("can't listen on %s: %s", a->listen[i], strerror(-rc));
            return rc;
        }
        d->n_listeners++;
        log_info("listening on %s", d->listener[i]->address);
    }
    if (a->status) {
        d->status.cluster = d->config.id;
        snprintf(d->status.name, sizeof d->status.name, "%s", a->name);
        d->status.render = render_status;
        d->status.user = d;
        int rc = status_server_open(&d->status, d->reactor, a->status);
        if (rc < 0) {
            log_error("can't listen on %s: %s", a->status, strerror(-rc));
            return rc;
        }
    }
    return 0;
}

static int start(struct daemon *d)
{
    static const int signals[] = { SIGTERM, SIGINT };
    struct arguments *a = d->arguments;
    int rc = uring_on_signals(d->reactor, signals, ARRAY_LEN(signals), on_signal, d);
    if (rc < 0) {
        log_error("can't receive signals: %s", strerror(-rc));
        return rc;
    }
    d->started_ns = io_now(d->reactor);
    nbd_server_init(&d->nbd, d->reactor);
    d->nbd.payload_limit_bytes = a->payload_limit;
    rc = open_volumes(d);
    if (rc == 0)
        rc = open_listeners(d);
    return rc;
}

static int run(struct arguments *a)
{
    static struct daemon d; /* large: the configuration is in it */
    char why[256];
    d.arguments = a;
    if (config_load(a->config, &d.config, why) < 0) {
        log_error("%s", why);
        return 1;
    }
    struct uring_options o = { .arena_limit_bytes = 4 * a->payload_limit + CONFIG_VOLUMES_MAX * RETAIN_BYTES, .spin_us = a->spin_us };
    const char *uring_why;
    if (uring_reactor_new(&o, &d.reactor, &uring_why) < 0) {
        log_error("%s", uring_why);
        return 1;
    }
    if (start(&d) < 0)
        return 1;
    daemon_protect_from_reclaim();
#ifdef QBD_HAVE_SYSTEMD
    sd_notify(0, "READY=1"); /* listening: clients that come now wait until their volume is attached */
#endif
    int rc = uring_reactor_run(d.reactor);
    if (rc < 0) {
        log_error("the event loop failed: %s", strerror(-rc));
        return 1;
    }
    log_info("stopped");
    return 0;
}

int main(int argc, char **argv)
{
    static char host[NAME_MAX_BYTES];
    struct arguments a = { .log_level = LOG_INFO, .payload_limit = PAYLOAD_LIMIT_DEFAULT };
    argp_err_exit_status = 1;
    argp_program_version = "qbd-nbdserver " QBD_VERSION;
    argp_parse(&argp, argc, argv, 0, NULL, &a);
    if (!a.name) {
        if (gethostname(host, sizeof host - 1) < 0 || !config_name_is_valid(host))
            strcpy(host, "nbdserver");
        a.name = host;
    }
    log_open(a.name, a.log_level);
    return run(&a);
}
