/* qbd-nbdserver: the front end's daemon. Only what is a matter of this process (arguments, signals, memory, threads) is here; what it does is
 * service.c, once for each thread, and team.c.
 *
 * SIGTERM ends it in order: no new requests, those under way complete, leases are released, exit 0. A second signal cuts that short. */
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
#include "nbdserver/team.h"

#define PAYLOAD_LIMIT_DEFAULT (UINT64_C(128) << 20)
#define PAYLOAD_LIMIT_MIN (UINT64_C(34) << 20) /* one request of 32 MiB at any offset must fit */
#define RETAIN_BYTES (UINT64_C(64) << 20)

struct arguments {
    const char *config, *name, *status;
    const char *listen[SERVICE_LISTENERS_MAX];
    unsigned n_listen;
    const char *volume[CONFIG_VOLUMES_MAX];
    unsigned n_volumes;
    enum log_level log_level;
    unsigned spin_us, threads;
    uint64_t payload_limit, fail_after_ms;
};

enum { OPT_STATUS = 256, OPT_LOG, OPT_SPIN, OPT_PAYLOAD, OPT_FAIL, OPT_THREADS };

static const struct argp_option options[] = {
    { "config", 'c', "FILE", 0, "The cluster's configuration", 0 },
    { "volume", 'v', "NAME", 0, "A volume to serve; again for more (default: all of the configuration)", 0 },
    { "name", 'n', "NAME", 0, "This front end's name, told to others as the holder (default: the host's name)", 0 },
    { "listen", 'l', "ADDR", 0, "unix:PATH or HOST:PORT for NBD clients; again for more", 0 },
    { "status", OPT_STATUS, "ADDR", 0, "unix:PATH on which qbd asks for the status", 0 },
    { "log-level", OPT_LOG, "LEVEL", 0, "error, warning, info or debug", 0 },
    { "spin-us", OPT_SPIN, "N", 0, "Poll that many microseconds before sleeping: less latency for more CPU (default 0)", 0 },
    { "threads", OPT_THREADS, "N", 0, "Spread the volumes over that many threads, at most one for each volume (default 1)", 0 },
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

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct arguments *a = state->input;
    switch (key) {
    case 'c':
        a->config = arg;
        return 0;
    case 'v':
        if (a->n_volumes == ARRAY_LEN(a->volume))
            argp_error(state, "--volume: at most %zu", ARRAY_LEN(a->volume));
        daemon_take_name(state, "--volume", arg, &a->volume[a->n_volumes++]);
        return 0;
    case 'n':
        daemon_take_name(state, "--name", arg, &a->name);
        return 0;
    case 'l':
        if (a->n_listen == SERVICE_LISTENERS_MAX)
            argp_error(state, "--listen: at most %d", SERVICE_LISTENERS_MAX);
        a->listen[a->n_listen++] = arg;
        return 0;
    case OPT_STATUS:
        a->status = arg;
        return 0;
    case OPT_LOG:
        daemon_take_log_level(state, arg, &a->log_level);
        return 0;
    case OPT_SPIN:
        a->spin_us = (unsigned)parse_number(state, "--spin-us", arg, 100000);
        return 0;
    case OPT_THREADS:
        a->threads = (unsigned)parse_number(state, "--threads", arg, REACTORS_MAX);
        if (a->threads == 0)
            argp_error(state, "--threads: at least 1");
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
        if (a->n_listen == 0 && !a->status)
            argp_error(state, "--listen is needed: where do clients connect? (With --status alone it serves nobody, and only holds the volume for an operator.)");
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

struct daemon {
    struct arguments *arguments;
    struct uring_team *threads;
    unsigned n; /* of threads */
    struct cluster_config config;
    struct service service[REACTORS_MAX]; /* one for each */
    struct team team;
};

static void stop_now(struct daemon *d)
{
    uring_team_reactor(d->threads, 0)->stopping = true; /* the others follow */
}

static void on_stopped(void *user)
{
    stop_now(user);
}

static void on_signal(int signo, void *user)
{
    struct daemon *d = user;
    if (d->service[0].stopping) {
        stop_now(d);
        return;
    }
    log_info("stopping (%s)", strsignal(signo));
    team_stop(&d->team);
}

/* Which volumes: those that were named, each once, or all. */
static int choose_volumes(struct daemon *d)
{
    struct arguments *a = d->arguments;
    unsigned n = 0;
    if (a->n_volumes == 0) {
        if (d->config.n_volumes == 0)
            log_error("%s has no volume", a->config);
        for (uint32_t i = 0; i < d->config.n_volumes; i++)
            a->volume[a->n_volumes++] = d->config.volumes[i].name;
    }
    for (unsigned i = 0; i < a->n_volumes; i++) {
        bool again = false;
        for (unsigned k = 0; k < n; k++)
            again |= strcmp(a->volume[k], a->volume[i]) == 0;
        if (!again)
            a->volume[n++] = a->volume[i];
    }
    a->n_volumes = n;
    return n > 0 ? 0 : -1;
}

/* Of the payload that the front end may hold, each thread has its share. */
static uint64_t payload_share(const struct daemon *d)
{
    uint64_t share = d->arguments->payload_limit / d->n;
    return share < PAYLOAD_LIMIT_MIN ? PAYLOAD_LIMIT_MIN : share;
}

/* In the thread's own context. */
static int open_service(void *user, unsigned thread)
{
    struct daemon *d = user;
    struct arguments *a = d->arguments;
    struct service_options o = {
        .config = &d->config,
        .name = a->name,
        .pid = (int)getpid(),
        .payload_limit_bytes = payload_share(d),
        .retain_bytes = RETAIN_BYTES,
        .fail_after_ns = a->fail_after_ms * NS_PER_MS,
    };
    struct service_callbacks cb = { .on_stopped = on_stopped, .user = d };
    service_init(&d->service[thread], uring_team_reactor(d->threads, thread), &o, &cb);
    for (unsigned i = 0; i < a->n_volumes; i++)
        if (team_index(i, d->n) == thread && service_add_volume(&d->service[thread], a->volume[i]) < 0)
            return -1;
    return 0;
}

static int open_listeners(struct daemon *d)
{
    struct arguments *a = d->arguments;
    for (unsigned i = 0; i < a->n_listen; i++)
        if (service_listen(&d->service[0], a->listen[i]) < 0)
            return -1;
    return a->status ? service_listen_status(&d->service[0], a->status) : 0;
}

static int start(struct daemon *d)
{
    static const int signals[] = { SIGTERM, SIGINT };
    int rc = uring_on_signals(uring_team_reactor(d->threads, 0), signals, ARRAY_LEN(signals), on_signal, d);
    if (rc < 0) {
        log_error("can't receive signals: %s", strerror(-rc));
        return rc;
    }
    rc = uring_team_each(d->threads, open_service, d);
    if (rc < 0)
        return rc;
    struct service *services[REACTORS_MAX];
    for (unsigned i = 0; i < d->n; i++)
        services[i] = &d->service[i];
    team_init(&d->team, services, d->n);
    return open_listeners(d);
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
    if (choose_volumes(&d) < 0)
        return 1;
    d.n = a->threads < a->n_volumes ? a->threads : a->n_volumes;
    struct uring_options o = { .arena_limit_bytes = 4 * payload_share(&d) + CONFIG_VOLUMES_MAX * RETAIN_BYTES, .spin_us = a->spin_us };
    const char *uring_why;
    if (uring_team_new(d.n, &o, &d.threads, &uring_why) < 0) {
        log_error("%s", uring_why);
        return 1;
    }
    if (start(&d) < 0)
        return 1;
    daemon_protect_from_reclaim();
#ifdef QBD_HAVE_SYSTEMD
    sd_notify(0, "READY=1"); /* listening: clients that come now wait until their volume is attached */
#endif
    int rc = uring_team_run(d.threads);
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
    struct arguments a = { .log_level = LOG_INFO, .payload_limit = PAYLOAD_LIMIT_DEFAULT, .threads = 1 };
    daemon_arguments(&argp, "qbd-nbdserver " QBD_VERSION, argc, argv, &a);
    if (!a.name) {
        if (gethostname(host, sizeof host - 1) < 0 || !config_name_is_valid(host))
            strcpy(host, "nbdserver");
        a.name = host;
    }
    log_open(a.name, a.log_level);
    return run(&a);
}
