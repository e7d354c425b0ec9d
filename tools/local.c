/* qbd local: the command line and the commands that only find, signal or remove. */
#include "tools/local.h"

#include <argp.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define STOP_TIMEOUT_MS 30000
#define KILL_TIMEOUT_MS 10000
#define LEASE_MS_MIN 100u
#define LEASE_MS_MAX 600000u
#define FILE_SIZE_MIN (UINT64_C(64) << 20)
#define FILE_SIZE_MAX (UINT64_C(64) << 30)
#define FILE_SIZE_UNIT (UINT64_C(1) << 20)
#define SOCKET_PATH_MAX 107 /* sun_path and its NUL */

struct command {
    const char *name;
    unsigned options; /* those that it takes */
    bool takes_name;
    bool changes; /* runs under the directory's lock */
    int (*run)(struct cluster_dir *d, const struct local_args *a, struct why *why);
};

/* Every component's name, front ends first: that is the order in which to stop. */
static uint32_t component_names(const struct cluster_dir *d, const char *names[CONFIG_REPLICAS_MAX + FRONTENDS_MAX])
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < d->n_frontends; i++)
        names[n++] = d->frontends[i].name;
    for (uint32_t i = 0; i < d->conf.n_replicas; i++)
        names[n++] = d->conf.replicas[i].name;
    return n;
}

static int require_component(struct cluster_dir *d, const char *name, struct why *why)
{
    if (config_find_replica(&d->conf, name) || cluster_find_frontend(d, name))
        return 0;
    return because(why, "there is no %s in %s", name, d->dir);
}

/* Asks some components to end and waits for all of them; what does not end is killed, and that is an error. */
static int stop_some(const struct cluster_dir *d, const char *const names[], uint32_t n, struct why *why)
{
    struct process p[CONFIG_REPLICAS_MAX + FRONTENDS_MAX];
    int err = 0;
    for (uint32_t i = 0; i < n; i++) {
        p[i] = cluster_process(d, names[i]);
        int e = process_signal(&p[i], SIGTERM);
        if (!e && p[i].state == PROCESS_PAUSED)
            e = process_signal(&p[i], SIGCONT);
        if (e && e != -ESRCH)
            err = because(why, "cannot signal %s (pid %d): %s", names[i], (int)p[i].pid, strerror(-e));
    }
    uint64_t until = now_ms() + STOP_TIMEOUT_MS;
    for (uint32_t i = 0; i < n; i++) {
        uint64_t now = now_ms();
        if (process_wait_gone(&p[i], now < until ? (unsigned)(until - now) : 0))
            continue;
        if (process_signal(&p[i], SIGKILL) == 0 && process_wait_gone(&p[i], KILL_TIMEOUT_MS))
            err = because(why, "%s (pid %d) did not stop within %d s and was killed", names[i], (int)p[i].pid,
                          STOP_TIMEOUT_MS / 1000);
        else
            err = because(why, "%s (pid %d) cannot be stopped", names[i], (int)p[i].pid);
    }
    return err;
}

static int local_stop(struct cluster_dir *d, const struct local_args *a, struct why *why)
{
    const char *names[CONFIG_REPLICAS_MAX + FRONTENDS_MAX];
    uint32_t n = component_names(d, names);
    int err = stop_some(d, names, d->n_frontends, why);
    if (stop_some(d, names + d->n_frontends, n - d->n_frontends, why) < 0)
        err = -1;
    if (!err)
        cluster_dir_unlink_run(d);
    return err;
}

static int local_pid(struct cluster_dir *d, const struct local_args *a, struct why *why)
{
    if (require_component(d, a->name, why) < 0)
        return -1;
    struct process p = cluster_process(d, a->name);
    if (p.state == PROCESS_GONE)
        return because(why, "%s does not run", a->name);
    printf("%d\n", (int)p.pid);
    return 0;
}

static int print_uri(struct cluster_dir *d, const struct local_args *a, struct why *why)
{
    char uri[512];
    const char *volume = a->given & GIVEN_VOLUME ? a->volume : d->conf.volumes[0].name;
    if (!local_uri(d, volume, uri, sizeof uri))
        return because(why, "there is no volume %s in %s", volume, d->dir);
    printf("%s\n", uri);
    return 0;
}

/* All at once means: every signal is sent before the first death is waited for. */
static int local_kill(struct cluster_dir *d, const struct local_args *a, struct why *why)
{
    const char *names[CONFIG_REPLICAS_MAX + FRONTENDS_MAX];
    struct process p[ARRAY_LEN(names)];
    uint32_t n = 0, running = 0;
    if (strcmp(a->name, "all") == 0)
        n = component_names(d, names);
    else if (require_component(d, a->name, why) == 0)
        names[n++] = a->name;
    else
        return -1;
    for (uint32_t i = 0; i < n; i++) {
        p[i] = cluster_process(d, names[i]);
        running += p[i].state != PROCESS_GONE;
    }
    if (!running)
        return because(why, n == 1 ? "%s does not run" : "nothing of %s runs", n == 1 ? names[0] : d->dir);
    int err = 0;
    for (uint32_t i = 0; i < n; i++) {
        int e = process_signal(&p[i], SIGKILL);
        if (e && e != -ESRCH)
            err = because(why, "cannot kill %s (pid %d): %s", names[i], (int)p[i].pid, strerror(-e));
    }
    for (uint32_t i = 0; i < n && !err; i++)
        if (!process_wait_gone(&p[i], KILL_TIMEOUT_MS))
            err = because(why, "%s (pid %d) was sent SIGKILL but does not end", names[i], (int)p[i].pid);
    return err;
}

static int signal_one(struct cluster_dir *d, const char *name, int signal, enum process_state want, struct why *why)
{
    if (require_component(d, name, why) < 0)
        return -1;
    struct process p = cluster_process(d, name);
    int e = process_signal(&p, signal);
    if (e)
        return because(why, e == -ESRCH ? "%s does not run" : "cannot signal %s", name);
    /* The signal is delivered to each thread in its own time. */
    for (uint64_t until = now_ms() + KILL_TIMEOUT_MS; cluster_process(d, name).state != want; sleep_ms(1))
        if (now_ms() > until)
            return because(why, "%s (pid %d) does not follow the signal", name, (int)p.pid);
    return 0;
}

static int local_pause(struct cluster_dir *d, const struct local_args *a, struct why *why)
{
    return signal_one(d, a->name, SIGSTOP, PROCESS_PAUSED, why);
}

static int local_resume(struct cluster_dir *d, const struct local_args *a, struct why *why)
{
    return signal_one(d, a->name, SIGCONT, PROCESS_RUNNING, why);
}

/* Says so when too few of the volume's founding members keep their data; it is the user's to destroy. */
static void warn_of_majority(const struct cluster_dir *d, const char *wiped)
{
    uint32_t kept = 0, n = d->founding.n_voters;
    for (uint32_t i = 0; i < n; i++) {
        const struct replica_config *r = config_find_identity(&d->conf, &d->founding.voter[i]);
        kept += r && strcmp(r->name, wiped) != 0 && cluster_replica_formatted(d, r->name);
    }
    if (d->created && kept < n / 2 + 1)
        fprintf(stderr, "qbd: warning: %u of %u replicas keep their data, fewer than a majority: %s is lost\n", kept, n,
                d->conf.volumes[0].name);
}

static int local_wipe(struct cluster_dir *d, const struct local_args *a, struct why *why)
{
    if (!config_find_replica(&d->conf, a->name))
        return because(why, cluster_find_frontend(d, a->name) ? "%s is no replica: it has no data" : "there is no %s",
                       a->name);
    struct process p = cluster_process(d, a->name);
    if (p.state != PROCESS_GONE)
        return because(why, "%s runs (pid %d); stop it first", a->name, (int)p.pid);
    warn_of_majority(d, a->name);
    /* Out of its place first: half a data directory must never be started. */
    struct cluster_path data = cluster_path(d, "data", a->name, ""), wiped = cluster_path(d, "data", a->name, ".wiped");
    int err = file_remove_tree(wiped.s);
    if (!err && rename(data.s, wiped.s) < 0 && errno != ENOENT)
        err = -errno;
    if (!err)
        err = file_remove_tree(wiped.s);
    return err ? because(why, "cannot remove %s: %s", data.s, strerror(-err)) : 0;
}

enum {
    START_OPTIONS = GIVEN_REPLICAS | GIVEN_NBDSERVERS | GIVEN_VOLUME | GIVEN_SIZE | GIVEN_LISTEN | GIVEN_WAL_SIZE |
                    GIVEN_EXTENT_SIZE | GIVEN_LEASE | GIVEN_TIMEOUT | GIVEN_LOG_LEVEL | GIVEN_BIN_DIR,
    RUN_OPTIONS = GIVEN_TIMEOUT | GIVEN_LOG_LEVEL | GIVEN_BIN_DIR,
};

static const struct command commands[] = {
    {"start", START_OPTIONS, false, false, NULL},
    {"stop", 0, false, true, local_stop},
    {"status", GIVEN_JSON, false, false, local_status},
    {"pid", 0, true, false, local_pid},
    {"uri", GIVEN_VOLUME, false, false, print_uri},
    {"kill", 0, true, false, local_kill},
    {"pause", 0, true, false, local_pause},
    {"resume", 0, true, false, local_resume},
    {"restart", RUN_OPTIONS, true, true, local_restart},
    {"wipe", 0, true, true, local_wipe},
    {"add", RUN_OPTIONS, true, true, local_add},
};

struct local_parse {
    struct local_args a;
    const struct command *command;
};

/* An option's key is its bit (argp leaves keys above the letters to us); DIR has none. */
enum { OPTION_DIR = 1 << 16 };
#define OPTION_KEY(bit) (OPTION_DIR | (bit))

static const struct argp_option options[] = {
    {"dir", OPTION_DIR, "DIR", 0, "The cluster's directory: configuration, logs, pids and data", 0},
    {"replicas", OPTION_KEY(GIVEN_REPLICAS), "N", 0, "start: how many replicas (3)", 0},
    {"nbdservers", OPTION_KEY(GIVEN_NBDSERVERS), "N", 0, "start: how many front ends (1)", 0},
    {"volume", OPTION_KEY(GIVEN_VOLUME), "NAME", 0, "start, uri: the volume (vol0)", 0},
    {"size", OPTION_KEY(GIVEN_SIZE), "SIZE", 0, "start: the volume's size, a multiple of 4096 bytes (1G)", 0},
    {"listen", OPTION_KEY(GIVEN_LISTEN), "ADDRESS", 0,
     "start: where the first front end listens: unix:PATH (absolute), HOST:PORT or [V6]:PORT; port 0 takes a free one "
     "(a socket under DIR)", 0},
    {"wal-size", OPTION_KEY(GIVEN_WAL_SIZE), "SIZE", 0, "start: each replica's log, 64M to 64G, a multiple of 1M (512M)", 0},
    {"extent-size", OPTION_KEY(GIVEN_EXTENT_SIZE), "SIZE", 0, "start: each extent file, 64M to 64G, a multiple of 1M (256M)", 0},
    {"lease-ms", OPTION_KEY(GIVEN_LEASE), "MS", 0, "start: how long a front end's lease lasts, 100 to 600000 (2000)", 0},
    {"timeout", OPTION_KEY(GIVEN_TIMEOUT), "SECONDS", 0, "start, restart, add: how long to wait (60)", 0},
    {"log-level", OPTION_KEY(GIVEN_LOG_LEVEL), "LEVEL", 0, "start, restart, add: error, warning, info or debug", 0},
    {"json", OPTION_KEY(GIVEN_JSON), NULL, 0, "status: for programs", 0},
    {"bin-dir", OPTION_KEY(GIVEN_BIN_DIR), "DIR", OPTION_HIDDEN, "Where the daemons' programs are", 0},
    {0},
};

static const char args_doc[] = "start\nstop\nstatus\npid NAME\nuri\nkill NAME|all\npause NAME\nresume NAME\nrestart "
                               "NAME\nwipe NAME\nadd replica|nbdserver";
static const char doc[] =
    "A whole cluster on this machine: real daemons, real files, real sockets, all under one directory.";

static uint32_t parse_number(struct argp_state *state, const char *what, const char *arg, uint32_t max)
{
    char *end;
    errno = 0;
    unsigned long v = strtoul(arg, &end, 10);
    if (errno || end == arg || *end || *arg == '-' || v > max)
        usage_error(state, "%s is a number up to %u, not \"%s\"", what, (unsigned)max, arg);
    return (uint32_t)v;
}

static uint64_t parse_size(struct argp_state *state, const char *what, const char *arg)
{
    uint64_t v = 0;
    if (config_parse_size(arg, &v) < 0 || v == 0)
        usage_error(state, "%s is a size as 512M or 1G, not \"%s\"", what, arg);
    return v;
}

/* What qbd-replica format takes. */
static uint64_t parse_file_size(struct argp_state *state, const char *what, const char *arg)
{
    uint64_t v = parse_size(state, what, arg);
    if (v < FILE_SIZE_MIN || v > FILE_SIZE_MAX || v % FILE_SIZE_UNIT)
        usage_error(state, "%s is a multiple of 1M from 64M to 64G, not \"%s\"", what, arg);
    return v;
}

static void check_listen(struct argp_state *state, const char *arg)
{
    if (strlen(arg) >= CONFIG_ADDRESS_MAX)
        usage_error(state, "--listen %.40s... is too long (up to %d bytes)", arg, CONFIG_ADDRESS_MAX - 1);
    if (strncmp(arg, "unix:", 5) == 0) {
        if (arg[5] != '/')
            usage_error(state, "the path in --listen %s must be absolute", arg);
        if (strlen(arg + 5) > SOCKET_PATH_MAX)
            usage_error(state, "the path in --listen %s is too long (up to %d bytes)", arg, SOCKET_PATH_MAX);
        return;
    }
    const char *colon = strrchr(arg, ':'), *port = colon ? colon + 1 : "", *host_end = colon;
    bool good = colon && colon > arg && *port && strlen(port) <= 5 && !port[strspn(port, "0123456789")];
    if (good && *arg == '[')
        good = host_end - arg > 2 && host_end[-1] == ']';
    else if (good)
        good = !memchr(arg, ':', (size_t)(host_end - arg));
    if (!good || strtoul(port, NULL, 10) > 65535)
        usage_error(state, "--listen is unix:PATH, HOST:PORT or [V6]:PORT with a port up to 65535, not \"%s\"", arg);
}

static void parse_option(struct local_args *a, int key, char *arg, struct argp_state *state)
{
    a->given |= (unsigned)key & ~(unsigned)OPTION_DIR;
    switch (key & ~OPTION_DIR) {
    case 0:
        a->dir = arg;
        break;
    case GIVEN_REPLICAS:
        a->n_replicas = parse_number(state, "--replicas", arg, MEMBERS_MAX);
        break;
    case GIVEN_NBDSERVERS:
        a->n_nbdservers = parse_number(state, "--nbdservers", arg, FRONTENDS_MAX);
        break;
    case GIVEN_VOLUME:
        a->volume = arg;
        break;
    case GIVEN_SIZE:
        a->size_bytes = parse_size(state, "--size", arg);
        break;
    case GIVEN_LISTEN:
        check_listen(state, arg);
        a->listen = arg;
        break;
    case GIVEN_WAL_SIZE:
        a->wal_size_bytes = parse_file_size(state, "--wal-size", arg);
        break;
    case GIVEN_EXTENT_SIZE:
        a->extent_size_bytes = parse_file_size(state, "--extent-size", arg);
        break;
    case GIVEN_LEASE:
        a->lease_ms = parse_number(state, "--lease-ms", arg, LEASE_MS_MAX);
        if (a->lease_ms < LEASE_MS_MIN)
            usage_error(state, "--lease-ms is a number from %u to %u, not \"%s\"", LEASE_MS_MIN, LEASE_MS_MAX, arg);
        break;
    case GIVEN_TIMEOUT:
        a->timeout_ms = 1000 * parse_number(state, "--timeout", arg, 86400);
        break;
    case GIVEN_LOG_LEVEL:
        a->log_level = arg;
        break;
    case GIVEN_BIN_DIR:
        a->bin_dir = arg;
        break;
    }
}

static void parse_argument(struct local_parse *p, char *arg, struct argp_state *state)
{
    if (p->command && p->command->takes_name && !p->a.name) {
        p->a.name = arg;
        return;
    }
    if (p->command)
        usage_error(state, "%s: what is \"%s\" for?", p->command->name, arg);
    for (size_t i = 0; i < ARRAY_LEN(commands); i++)
        if (strcmp(commands[i].name, arg) == 0)
            p->command = &commands[i];
    if (!p->command)
        usage_error(state, "there is no command \"%s\"", arg);
}

static void check_arguments(struct local_parse *p, struct argp_state *state)
{
    if (!p->command)
        usage_error(state, "say what to do: start, stop, status, pid, uri, kill, pause, resume, restart, wipe or add");
    if (!p->a.dir || !*p->a.dir)
        usage_error(state, "say where: --dir DIR");
    if (p->command->takes_name && !p->a.name)
        usage_error(state, "%s needs a name", p->command->name);
    unsigned wrong = p->a.given & ~p->command->options;
    for (const struct argp_option *o = options; o->name; o++)
        if (wrong & (unsigned)o->key)
            usage_error(state, "%s takes no --%s", p->command->name, o->name);
    /* The name goes into a configuration file and a URI. */
    if (!*p->a.volume || strlen(p->a.volume) >= NAME_MAX_BYTES ||
        p->a.volume[strspn(p->a.volume, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")])
        usage_error(state, "a volume's name is up to %u letters, digits and \"-_.\"", NAME_MAX_BYTES - 1);
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct local_parse *p = state->input;
    if (key == ARGP_KEY_INIT)
        arguments_quiet(state);
    else if (key == ARGP_KEY_ARG)
        parse_argument(p, arg, state);
    else if (key == ARGP_KEY_END)
        check_arguments(p, state);
    else if (key & OPTION_DIR && key < OPTION_DIR << 1 && key > 0)
        parse_option(&p->a, key, arg, state);
    else
        return ARGP_ERR_UNKNOWN;
    return 0;
}

static int run(struct cluster_dir *d, const struct local_parse *p, struct why *why)
{
    bool exists;
    if (cluster_dir_locate(d, p->a.dir, &exists, why) < 0)
        return -1;
    if (!p->command->run)
        return local_start(d, exists, &p->a, why);
    if (!exists)
        return because(why, "%s holds no local cluster", p->a.dir);
    int lock = -1;
    if (p->command->changes && (lock = cluster_dir_lock(d, why)) < 0)
        return -1;
    int err = cluster_dir_load(d, why);
    if (!err)
        err = p->command->run(d, &p->a, why);
    if (lock >= 0)
        close(lock);
    return err;
}

int command_local(int argc, char **argv)
{
    static const struct argp argp = {options, parse, args_doc, doc, NULL, NULL, NULL};
    static struct cluster_dir d;
    struct local_parse p = {.a = {
                                .volume = "vol0",
                                .n_replicas = 3,
                                .n_nbdservers = 1,
                                .lease_ms = 2000,
                                .timeout_ms = 60000,
                                .size_bytes = UINT64_C(1) << 30,
                                .wal_size_bytes = UINT64_C(512) << 20,
                                .extent_size_bytes = UINT64_C(256) << 20,
                            }};
    struct why why = {""};
    parse_arguments(&argp, argc, argv, &p);
    if (run(&d, &p, &why) == 0)
        return fflush(stdout) == 0 ? 0 : 1;
    fprintf(stderr, "qbd: %s\n", why.text);
    return 1;
}
