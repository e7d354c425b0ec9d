/* qbd-replica: the daemon of one replica (one disk), and `qbd-replica format`, which makes its data directory. */
#include <argp.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "base/daemon.h"
#include "base/log.h"
#include "replica/datadir.h"
#include "replica/replica.h"

#define MEMORY_MIN (UINT64_C(256) << 20)
#define SCRUB_INTERVAL_NS (86400 * NS_PER_S)
#define FAILURES_MAX 3
#define FAILURES_WINDOW_S 600

struct arguments {
    bool format;
    const char *dir, *name, *config, *listen;
    struct uuid cluster, identity;
    bool have_cluster, have_identity, direct_reads;
    struct datadir_geometry geometry;
    uint64_t memory_bytes, overlay_bytes, leaf_cache_bytes, scrub_bytes_per_s;
    struct dev_slowness wal_slowness; /* for tests */
    enum log_level log_level;
};

enum { OPT_CLUSTER = 256, OPT_IDENTITY, OPT_WAL, OPT_EXTENT, OPT_CAPACITY, OPT_LOG, OPT_MEMORY, OPT_OVERLAY, OPT_LEAVES, OPT_SCRUB, OPT_DIRECT, OPT_INJECT };

static const struct argp_option options[] = {
    {"dir", 'd', "DIR", 0, "The data directory", 0},
    {"name", 'n', "NAME", 0, "The replica's name in the cluster's configuration", 0},
    {"config", 'c', "FILE", 0, "The cluster's configuration (daemon)", 0},
    {"listen", 'l', "ADDR", 0, "unix:PATH or HOST:PORT (daemon; default: the configuration's address)", 0},
    {"log-level", OPT_LOG, "LEVEL", 0, "error, warning, info or debug", 0},
    {"overlay", OPT_OVERLAY, "SIZE", 0, "Applied blocks kept in memory before they are written back (default 256M)", 0},
    {"leaf-cache", OPT_LEAVES, "SIZE", 0, "Cache of the map's leaves (default 512M)", 0},
    {"scrub-rate", OPT_SCRUB, "SIZE", 0, "Bytes a second that are read back in the background (default 8M, more where a week would not do; 0: none)", 0},
    {"direct-reads", OPT_DIRECT, NULL, 0, "Clients' small reads bypass the host's page cache (default: they use it)", 0},
    {"inject", OPT_INJECT, "FAULT", 0,
     "For tests: wal-delay=TIME (50ms, 200us): each write of the log is answered no earlier than that; wal-slow=N: it takes N times as long. SIGUSR1 switches it off and on", 0},
    {"memory", OPT_MEMORY, "SIZE", 0, "Bound of all buffers (default 2G, at least 256M)", 0},
    {"cluster", OPT_CLUSTER, "UUID", 0, "The cluster's id (format)", 1},
    {"identity", OPT_IDENTITY, "UUID", 0, "The new disk's identity (format; default: random)", 1},
    {"wal-size", OPT_WAL, "SIZE", 0, "Size of the write-ahead log (format; default 1G)", 1},
    {"extent-size", OPT_EXTENT, "SIZE", 0, "Size of an extent file (format; default 1G)", 1},
    {"capacity", OPT_CAPACITY, "SIZE", 0, "How far the store may grow (format; 0: until the file system is full)", 1},
    {0},
};

static void parse_size(struct argp_state *state, const char *name, const char *arg, uint64_t *ret)
{
    if (config_parse_size(arg, ret) < 0)
        argp_error(state, "%s: '%s' is not a size (use 64M, 1G, ...)", name, arg);
}

static void parse_fault(struct argp_state *state, const char *arg, struct dev_slowness *ret)
{
    static const struct {
        const char *unit;
        uint64_t ns;
    } units[] = {{"us", 1000}, {"ms", NS_PER_MS}, {"s", NS_PER_S}};
    const char *value = strchr(arg, '=');
    char *unit = NULL;
    errno = 0;
    unsigned long n = value && value[1] >= '0' && value[1] <= '9' ? strtoul(value + 1, &unit, 10) : 0;
    if (n > 0 && n <= 1000000 && !errno && strncmp(arg, "wal-slow=", 9) == 0 && !*unit) {
        *ret = (struct dev_slowness){.on = true, .factor = (unsigned)n};
        return;
    }
    for (size_t i = 0; n > 0 && n <= 1000000 && !errno && i < ARRAY_LEN(units); i++)
        if (strncmp(arg, "wal-delay=", 10) == 0 && strcmp(unit, units[i].unit) == 0) {
            *ret = (struct dev_slowness){.on = true, .delay_ns = n * units[i].ns};
            return;
        }
    argp_error(state, "--inject: '%s' is none of wal-delay=TIME (50ms, 200us), wal-slow=N", arg);
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct arguments *a = state->input;
    switch (key) {
    case 'd':
        a->dir = arg;
        return 0;
    case 'n':
        daemon_take_name(state, "--name", arg, &a->name);
        return 0;
    case 'c':
        a->config = arg;
        return 0;
    case 'l':
        a->listen = arg;
        return 0;
    case OPT_LOG:
        daemon_take_log_level(state, arg, &a->log_level);
        return 0;
    case OPT_CLUSTER:
    case OPT_IDENTITY: {
        struct uuid *u = key == OPT_CLUSTER ? &a->cluster : &a->identity;
        if (uuid_parse(arg, u) < 0 || uuid_is_zero(u))
            argp_error(state, "'%s' is not a UUID", arg);
        *(key == OPT_CLUSTER ? &a->have_cluster : &a->have_identity) = true;
        return 0;
    }
    case OPT_WAL:
        parse_size(state, "--wal-size", arg, &a->geometry.wal_bytes);
        return 0;
    case OPT_EXTENT:
        parse_size(state, "--extent-size", arg, &a->geometry.extent_bytes);
        return 0;
    case OPT_CAPACITY:
        parse_size(state, "--capacity", arg, &a->geometry.capacity_bytes);
        return 0;
    case OPT_MEMORY:
        parse_size(state, "--memory", arg, &a->memory_bytes);
        if (a->memory_bytes < MEMORY_MIN)
            argp_error(state, "--memory: '%s' is too little, the daemon needs at least %lluM", arg, (unsigned long long)MEMORY_MIN >> 20);
        return 0;
    case OPT_OVERLAY:
        parse_size(state, "--overlay", arg, &a->overlay_bytes);
        return 0;
    case OPT_LEAVES:
        parse_size(state, "--leaf-cache", arg, &a->leaf_cache_bytes);
        return 0;
    case OPT_SCRUB:
        parse_size(state, "--scrub-rate", arg, &a->scrub_bytes_per_s);
        return 0;
    case OPT_DIRECT:
        a->direct_reads = true;
        return 0;
    case OPT_INJECT:
        parse_fault(state, arg, &a->wal_slowness);
        return 0;
    case ARGP_KEY_ARG:
        if (state->arg_num > 0 || strcmp(arg, "format") != 0)
            argp_error(state, "unexpected argument '%s'", arg);
        a->format = true;
        return 0;
    case ARGP_KEY_END:
        if (!a->dir || !a->name)
            argp_error(state, "--dir and --name are needed");
        if (a->format && !a->have_cluster)
            argp_error(state, "format needs --cluster");
        if (!a->format && !a->config)
            argp_error(state, "the daemon needs --config");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp argp = {
    .options = options,
    .parser = parse,
    .args_doc = "[format]",
    .doc = "The daemon of one qbd replica: acceptor and learner on one disk. With `format`: makes the data directory, and prints its identity.",
};

/* ---- failures that must not loop ---- */

static void failures_path(const struct arguments *a, char path[512])
{
    snprintf(path, 512, "%s/failures", a->dir);
}

/* One line a failure: seconds since 1970 and what it was. Best effort: the disk is failing. */
static void record_failure(const struct arguments *a, const char *what)
{
    char path[512];
    failures_path(a, path);
    FILE *f = fopen(path, "ae");
    if (!f)
        return;
    fprintf(f, "%lld %s\n", (long long)time(NULL), what);
    fclose(f);
}

/* The last failure's text when there were FAILURES_MAX within the window; NULL otherwise. */
static char *failed_too_often(const struct arguments *a)
{
    char path[512], line[256], *last = NULL;
    failures_path(a, path);
    FILE *f = fopen(path, "re");
    if (!f)
        return NULL;
    unsigned n = 0;
    while (fgets(line, sizeof line, f)) {
        char *text;
        long long at = strtoll(line, &text, 10);
        if (at + FAILURES_WINDOW_S < time(NULL))
            continue;
        n++;
        free(last);
        text[strcspn(text, "\n")] = 0;
        last = strdup(text + (*text == ' '));
    }
    fclose(f);
    if (n >= FAILURES_MAX)
        return last;
    free(last);
    return NULL;
}

/* ---- the daemon ---- */

struct daemon {
    struct arguments *arguments;
    struct reactor *reactor;
    struct replica *replica;
    bool stopping;
    int exit_status;
};

static void on_ready(void *user, int err, const char *why)
{
    struct daemon *d = user;
    if (!err) {
        log_info("ready, listening on %s", d->arguments->listen);
        return;
    }
    log_error("can't serve: %s", why ? why : strerror(-err));
    d->exit_status = 1;
    d->reactor->stopping = true;
}

static void on_fatal(void *user, int err, const char *what)
{
    struct daemon *d = user;
    log_error("%s failed: %s; exiting (a restart recovers from the log)", what, strerror(-err));
    record_failure(d->arguments, what);
    _exit(1); /* nothing more may be written or answered */
}

static void on_closed(void *user)
{
    struct daemon *d = user;
    d->reactor->stopping = true;
}

static void on_signal(int signo, void *user)
{
    struct daemon *d = user;
    if (d->stopping || !d->replica) {
        d->reactor->stopping = true;
        return;
    }
    log_info("stopping (%s)", strsignal(signo));
    d->stopping = true;
    replica_close(d->replica, on_closed, d);
}

static void on_switch(int signo, void *user)
{
    struct dev_slowness *s = user;
    s->on = !s->on;
    log_warning("--inject: the log's writes are %s", s->on ? "slow from now on" : "no longer slow");
}

/* Fault injection (docs/testing.md). */
static int make_slow(struct daemon *d, struct dev *wal)
{
    static const int signals[] = {SIGUSR1};
    struct dev_slowness *s = &d->arguments->wal_slowness;
    if (!s->on)
        return 0;
    log_warning("--inject: the log's writes are slow on purpose");
    uring_dev_slow(wal, s);
    return uring_on_signals(d->reactor, signals, ARRAY_LEN(signals), on_switch, s);
}

static int run_daemon(struct daemon *d)
{
    struct arguments *a = d->arguments;
    static struct cluster_config config;
    static struct datadir data;
    char why[256];
    if (config_load(a->config, &config, why) < 0) {
        log_error("%s", why);
        return 1;
    }
    const struct replica_config *self = config_find_replica(&config, a->name);
    if (!a->listen && self)
        a->listen = self->address;
    if (!a->listen) {
        log_error("%s is not in %s, and no --listen was given", a->name, a->config);
        return 1;
    }
    /* The configured identity may be that of a lost disk whose successor starts under the same name: it comes up, is no member of anything, and says so. */
    if (datadir_open(d->reactor, a->dir, &config.id, a->name, &data, why) < 0) {
        log_error("%s", why);
        return 1;
    }
    if (self && !uuid_equal(&self->identity, &data.superblock.identity))
        log_warning("this disk's identity is not the one that the configuration gives %s: it is a new disk and holds no group until a rebuild", a->name);
    char *failed = failed_too_often(a);
    int err = make_slow(d, data.devices.wal);
    if (err) {
        log_error("can't take signals: %s", strerror(-err));
        return 1;
    }
    if (failed) {
        log_error("failed %d times within %d minutes (%s): staying up only to say so; look at the disk, then remove %s/failures", FAILURES_MAX,
                  FAILURES_WINDOW_S / 60, failed, a->dir);
        err = replica_open_failed(d->reactor, &data.superblock, a->listen, getpid(), failed);
    } else {
        struct replica_options o = {
            .config = &config,
            .superblock = &data.superblock,
            .listen_address = a->listen,
            .pid = getpid(),
            .devices = data.devices,
            .scrub_bytes_per_s = a->scrub_bytes_per_s,
            .scrub_interval_ns = SCRUB_INTERVAL_NS,
            .store = {.overlay_bytes = a->overlay_bytes, .leaf_cache_bytes = a->leaf_cache_bytes, .checkpoint_idle_ns = 5 * NS_PER_S, .write_back_depth = 16, .wal_small_in_flight = 2, .direct_reads = a->direct_reads},
        };
        struct replica_callbacks cb = {.on_ready = on_ready, .on_fatal = on_fatal, .user = d};
        err = replica_open(d->reactor, &o, &cb, &d->replica);
    }
    if (err) {
        log_error("can't start: %s", strerror(-err));
        return 1;
    }
    daemon_protect_from_reclaim();
    uring_reactor_run(d->reactor);
    log_info("stopped");
    return d->exit_status;
}

static int run_format(struct reactor *r, struct arguments *a)
{
    char why[256], id[37];
    if (!a->have_identity) {
        io_random(r, a->identity.b, sizeof a->identity.b);
        a->identity.b[6] = (uint8_t)((a->identity.b[6] & 0x0f) | 0x40); /* RFC 4122, version 4 */
        a->identity.b[8] = (uint8_t)((a->identity.b[8] & 0x3f) | 0x80);
    }
    if (datadir_format(r, a->dir, &a->cluster, &a->identity, a->name, &a->geometry, why) < 0) {
        fprintf(stderr, "qbd-replica: %s\n", why);
        return 1;
    }
    printf("%s\n", uuid_format(&a->identity, id));
    return 0;
}

int main(int argc, char **argv)
{
    struct arguments a = {
        .log_level = LOG_INFO,
        .geometry = {.wal_bytes = 1ull << 30, .extent_bytes = 1ull << 30},
        .memory_bytes = 2ull << 30,
        .overlay_bytes = 256ull << 20,
        .leaf_cache_bytes = 512ull << 20,
        .scrub_bytes_per_s = 8ull << 20,
    };
    daemon_arguments(&argp, "qbd-replica " QBD_VERSION, argc, argv, &a);
    log_open(a.name, a.log_level);
    struct daemon d = {.arguments = &a};
    const char *why;
    struct uring_options uo = {.arena_limit_bytes = a.memory_bytes};
    if (uring_reactor_new(&uo, &d.reactor, &why) < 0) {
        log_error("%s", why);
        return 1;
    }
    if (a.format)
        return run_format(d.reactor, &a);
    static const int signals[] = {SIGTERM, SIGINT};
    if (uring_on_signals(d.reactor, signals, ARRAY_LEN(signals), on_signal, &d) < 0) {
        log_error("can't take signals");
        return 1;
    }
    signal(SIGPIPE, SIG_IGN);
    return run_daemon(&d);
}
