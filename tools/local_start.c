/* Bringing components of a local cluster up: formatting, starting, creating the volume, waiting until it serves.
 *
 * Nothing here starts a component that its caller did not ask for, and a component that dies while it is waited for
 * ends the wait with its last words. */
#include "tools/client.h"
#include "tools/local.h"

#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define PROBE_TIMEOUT_MS 2000
#define POLL_MS 20
#define DISCARD_TIMEOUT_MS 10000
#define COMPONENTS_MAX (CONFIG_REPLICAS_MAX + FRONTENDS_MAX)

/* A component that this command started. */
struct started {
    char name[NAME_MAX_BYTES];
    pid_t pid;
};

struct bring_up {
    struct cluster_dir *d;
    const struct local_args *a;
    uint64_t until_ms;
    uint32_t n;
    struct started started[COMPONENTS_MAX];
};

/* The last line that a component logged, for the message about its end. */
static void last_words(const char *log, char *buf, size_t cap)
{
    char tail[4097];
    snprintf(buf, cap, "it logged nothing");
    int fd = open(log, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    off_t size = lseek(fd, 0, SEEK_END);
    off_t from = size > (off_t)sizeof tail - 1 ? size - (off_t)(sizeof tail - 1) : 0;
    ssize_t n = pread(fd, tail, sizeof tail - 1, from);
    close(fd);
    while (n > 0 && tail[n - 1] == '\n')
        n--;
    if (n <= 0)
        return;
    tail[n] = '\0';
    char *line = strrchr(tail, '\n');
    line = line ? line + 1 : tail;
    size_t len = strlen(line) < cap ? strlen(line) : cap - 1;
    *(char *)mempcpy(buf, line, len) = '\0';
}

static int died(const struct bring_up *b, const char *name, int status, struct why *why)
{
    char end[64], words[256];
    struct cluster_path log = cluster_path(b->d, "logs", name, ".log");
    process_describe_exit(status, end, sizeof end);
    last_words(log.s, words, sizeof words);
    return because(why, "%s ended with %s; its log %s ends with: %s", name, end, log.s, words);
}

/* 0, or -1 when something that this command started has ended. */
static int check_alive(const struct bring_up *b, struct why *why)
{
    for (uint32_t i = 0; i < b->n; i++) {
        int status;
        if (process_reap(b->started[i].pid, 0, &status))
            return died(b, b->started[i].name, status, why);
    }
    return 0;
}

static int start_component(struct bring_up *b, const char *name, char *const argv[], struct why *why)
{
    struct cluster_path log = cluster_path(b->d, "logs", name, ".log"),
                        pid_file = cluster_path(b->d, "run", name, ".pid");
    struct process_start s = {.cwd = b->d->dir, .log = log.s, .pid_file = pid_file.s, .argv = argv};
    assert(b->n < COMPONENTS_MAX);
    struct started *st = &b->started[b->n];
    st->pid = process_start(&s, why);
    if (st->pid < 0)
        return -1;
    snprintf(st->name, sizeof st->name, "%s", name);
    b->n++;
    return 0;
}

static int start_replica(struct bring_up *b, const struct replica_config *r, struct why *why)
{
    char program[PATH_MAX];
    if (find_program(b->a->bin_dir, "qbd-replica", program, why) < 0)
        return -1;
    struct cluster_path conf = cluster_path(b->d, "", "cluster.conf", ""),
                        data = cluster_path(b->d, "data", r->name, "");
    const char *argv[] = {program,         "--config", conf.s,     "--dir",    data.s,
                          "--name",        r->name,    "--listen", r->address, b->a->log_level ? "--log-level" : NULL,
                          b->a->log_level, NULL};
    return start_component(b, r->name, (char *const *)argv, why);
}

static int start_frontend(struct bring_up *b, const struct local_frontend *f, struct why *why)
{
    char program[PATH_MAX], status[CONFIG_ADDRESS_MAX];
    if (find_program(b->a->bin_dir, "qbd-nbdserver", program, why) < 0)
        return -1;
    struct cluster_path conf = cluster_path(b->d, "", "cluster.conf", "");
    cluster_socket_address(b->d, f->name, "status", status);
    const char *argv[] = {program,         "--config", conf.s,  "--volume",
                          f->volume,       "--name",   f->name, "--listen",
                          f->listen,       "--status", status,  b->a->log_level ? "--log-level" : NULL,
                          b->a->log_level, NULL};
    return start_component(b, f->name, (char *const *)argv, why);
}

/* A format is made beside its place and renamed to it: a data directory that is there is a whole one. */
static pid_t begin_format(struct bring_up *b, const struct replica_config *r, struct why *why)
{
    char program[PATH_MAX], cluster[37], identity[37], wal[24], extent[24];
    struct cluster_path new = cluster_path(b->d, "data", r->name, ".new"),
                        log = cluster_path(b->d, "logs", r->name, ".log");
    if (find_program(b->a->bin_dir, "qbd-replica", program, why) < 0)
        return -1;
    int err = file_remove_tree(new.s);
    if (err)
        return because(why, "cannot remove %s: %s", new.s, strerror(-err));
    snprintf(wal, sizeof wal, "%" PRIu64, b->d->wal_size_bytes);
    snprintf(extent, sizeof extent, "%" PRIu64, b->d->extent_size_bytes);
    const char *argv[] = {program,
                          "format",
                          "--dir",
                          new.s,
                          "--cluster",
                          uuid_format(&b->d->conf.id, cluster),
                          "--identity",
                          uuid_format(&r->identity, identity),
                          "--name",
                          r->name,
                          "--wal-size",
                          wal,
                          "--extent-size",
                          extent,
                          NULL};
    struct process_start s = {.cwd = b->d->dir, .log = log.s, .discard_stdout = true, .argv = (char *const *)argv};
    return process_start(&s, why);
}

static int end_format(struct bring_up *b, const char *name, pid_t pid, struct why *why)
{
    int status;
    if (!process_reap(pid, b->a->timeout_ms, &status)) {
        kill(pid, SIGKILL);
        process_reap(pid, DISCARD_TIMEOUT_MS, &status);
        return because(why, "formatting %s takes longer than %" PRIu32 " s", name, b->a->timeout_ms / 1000);
    }
    if (status != 0)
        return died(b, name, status, why);
    struct cluster_path new = cluster_path(b->d, "data", name, ".new"), data = cluster_path(b->d, "data", name, "");
    if (rename(new.s, data.s) < 0)
        return because(why, "cannot rename %s: %s", new.s, strerror(errno));
    int err = file_sync_dir(cluster_path(b->d, "data", "", "").s);
    return err ? because(why, "cannot sync %s/data: %s", b->d->dir, strerror(-err)) : 0;
}

static bool has_founder(const struct cluster_dir *d, const struct uuid *identity)
{
    for (uint32_t i = 0; i < d->founding.n_voters; i++)
        if (uuid_equal(&d->founding.voter[i], identity))
            return true;
    return false;
}

/* Formats those of the replicas that have no data. One that had some before gets a NEW identity: what is gone was
 * promised under the old one, and nothing may ever answer for it (protocol.md "What looks right and is wrong", 18). */
static int format_missing(struct bring_up *b, struct replica_config *const replicas[], uint32_t n, struct why *why)
{
    struct cluster_dir *d = b->d;
    bool changed = false;
    pid_t pid[CONFIG_REPLICAS_MAX] = {0};
    for (uint32_t i = 0; i < n; i++) {
        if (cluster_replica_formatted(d, replicas[i]->name) || !d->created)
            continue;
        bool member = has_founder(d, &replicas[i]->identity);
        random_uuid(&replicas[i]->identity);
        changed = true;
        if (member)
            fprintf(stderr, "qbd: %s has a new, empty disk: it is not a member\n", replicas[i]->name);
    }
    if (changed && cluster_dir_save(d, why) < 0)
        return -1;
    int err = 0;
    for (uint32_t i = 0; i < n && !err; i++) {
        if (cluster_replica_formatted(d, replicas[i]->name))
            continue;
        pid[i] = begin_format(b, replicas[i], why);
        err = pid[i] < 0 ? -1 : 0;
    }
    for (uint32_t i = 0; i < n; i++) {
        struct why ignored;
        if (pid[i] > 0 && end_format(b, replicas[i]->name, pid[i], err ? &ignored : why) < 0)
            err = -1;
    }
    return err;
}

static int wait_replica(const struct bring_up *b, const struct replica_config *r, struct why *why)
{
    struct why last = {""};
    for (;;) {
        struct client c;
        if (client_open(&c, r->address, &b->d->conf.id, &r->identity, PROBE_TIMEOUT_MS, &last) == 0) {
            client_close(&c);
            return 0;
        }
        if (check_alive(b, why) < 0)
            return -1;
        if (now_ms() > b->until_ms)
            return because(why, "%s does not answer within %" PRIu32 " s: %s (log: %s)", r->name,
                           b->a->timeout_ms / 1000, last.text, cluster_path(b->d, "logs", r->name, ".log").s);
        sleep_ms(POLL_MS);
    }
}

static int wait_frontend(const struct bring_up *b, const struct local_frontend *f, struct why *why)
{
    static const struct uuid any;
    char status[CONFIG_ADDRESS_MAX];
    struct why last = {""};
    cluster_socket_address(b->d, f->name, "status", status);
    for (;;) {
        struct client c;
        if (client_open(&c, status, &b->d->conf.id, &any, PROBE_TIMEOUT_MS, &last) == 0) {
            client_close(&c);
            return 0;
        }
        if (check_alive(b, why) < 0)
            return -1;
        if (now_ms() > b->until_ms)
            return because(why, "%s does not answer within %" PRIu32 " s: %s (log: %s)", f->name,
                           b->a->timeout_ms / 1000, last.text, cluster_path(b->d, "logs", f->name, ".log").s);
        sleep_ms(POLL_MS);
    }
}

/* The volume's group at every founding member. The same content again is fine, so being interrupted is too. */
static int create_group(struct bring_up *b, struct why *why)
{
    struct cluster_dir *d = b->d;
    const struct volume_config *v = &d->conf.volumes[0];
    for (uint32_t i = 0; i < v->n_replicas; i++) {
        const struct replica_config *r = &d->conf.replicas[v->replica[i]];
        struct why reason;
        struct client c;
        if (client_open(&c, r->address, &d->conf.id, &r->identity, b->a->timeout_ms, &reason) < 0)
            return because(why, "cannot create %s on %s: %s", v->name, r->name, reason.text);
        struct msg m = {.type = MSG_CREATE, .cookie = 1, .group = v->group, .target = r->identity}, answer;
        m.u.create.size_blocks = v->size_bytes / BLOCK_SIZE;
        m.u.create.membership = d->founding;
        int err = client_call(&c, &m, MSG_CREATED, &answer, &reason);
        client_close(&c);
        if (err)
            return because(why, "cannot create %s on %s: %s", v->name, r->name, reason.text);
        if (answer.u.created.error)
            return because(why, "cannot create %s on %s: %s", v->name, r->name, strerror(abs(answer.u.created.error)));
    }
    d->created = true;
    return cluster_dir_save(d, why);
}

static int wait_serving(const struct bring_up *b, const char *volume, const struct local_frontend **ret, struct why *why)
{
    struct why last = {"no nbdserver is configured for it"};
    for (;;) {
        for (uint32_t i = 0; i < b->d->n_frontends; i++) {
            const struct local_frontend *f = &b->d->frontends[i];
            if (strcmp(f->volume, volume) != 0)
                continue;
            if (nbd_probe(f->listen, volume, PROBE_TIMEOUT_MS, &last) == 0) {
                *ret = f;
                return 0;
            }
        }
        if (check_alive(b, why) < 0)
            return -1;
        if (now_ms() > b->until_ms)
            return because(why, "%s does not serve within %" PRIu32 " s: %s", volume, b->a->timeout_ms / 1000,
                           last.text);
        sleep_ms(POLL_MS);
    }
}

/* What can be said against a new cluster before anything is made. */
static int check_new(const struct local_args *a, struct why *why)
{
    if (a->n_replicas < 1 || a->n_replicas > MEMBERS_MAX)
        return because(why, "a volume has 1 to %d replicas", MEMBERS_MAX);
    if (a->n_nbdservers < 1 || a->n_nbdservers > FRONTENDS_MAX)
        return because(why, "a local cluster has 1 to %d nbdservers", FRONTENDS_MAX);
    if (a->size_bytes == 0 || a->size_bytes % BLOCK_SIZE)
        return because(why, "a volume's size is a multiple of %u bytes", BLOCK_SIZE);
    return 0;
}

/* A new cluster, in memory. */
static int found_cluster(struct cluster_dir *d, const struct local_args *a, struct why *why)
{
    random_uuid(&d->conf.id);
    d->conf.lease_ms = a->lease_ms;
    d->wal_size_bytes = a->wal_size_bytes;
    d->extent_size_bytes = a->extent_size_bytes;
    struct volume_config *v = &d->conf.volumes[d->conf.n_volumes++];
    snprintf(v->name, sizeof v->name, "%s", a->volume);
    v->group = LOCAL_VOLUME_GROUP;
    v->size_bytes = a->size_bytes;
    for (uint32_t i = 0; i < a->n_replicas; i++) {
        struct replica_config *r;
        if (cluster_add_replica(d, &r, why) < 0)
            return -1;
        v->replica[v->n_replicas++] = i;
        d->founding.voter[d->founding.n_voters++] = r->identity;
    }
    for (uint32_t i = 0; i < a->n_nbdservers; i++) {
        struct local_frontend *f;
        if (cluster_add_frontend(d, a->volume, &f, why) < 0)
            return -1;
    }
    return 0;
}

/* Options that describe a cluster cannot change one. */
static int check_same(const struct cluster_dir *d, const struct local_args *a, struct why *why)
{
    const struct volume_config *v = &d->conf.volumes[0];
    if (a->given & GIVEN_VOLUME && strcmp(a->volume, v->name) != 0)
        return because(why, "%s already holds a cluster, with the volume %s", d->dir, v->name);
    if (a->given & GIVEN_SIZE && a->size_bytes != v->size_bytes)
        return because(why, "%s already holds a cluster; its volume %s has %" PRIu64 " bytes", d->dir, v->name,
                       v->size_bytes);
    if (a->given & GIVEN_REPLICAS && a->n_replicas != d->conf.n_replicas)
        return because(why, "%s already holds a cluster with %" PRIu32 " replicas; qbd local add replica adds one",
                       d->dir, d->conf.n_replicas);
    if (a->given & GIVEN_NBDSERVERS && a->n_nbdservers != d->n_frontends)
        return because(why, "%s already holds a cluster with %" PRIu32 " nbdservers; qbd local add nbdserver adds one",
                       d->dir, d->n_frontends);
    if (a->given & GIVEN_WAL_SIZE && a->wal_size_bytes != d->wal_size_bytes)
        return because(why, "%s already holds a cluster; its logs have %" PRIu64 " bytes", d->dir, d->wal_size_bytes);
    if (a->given & GIVEN_EXTENT_SIZE && a->extent_size_bytes != d->extent_size_bytes)
        return because(why, "%s already holds a cluster; its extents have %" PRIu64 " bytes", d->dir,
                       d->extent_size_bytes);
    return 0;
}

/* The address and the lease may change while what uses them is stopped. */
static int take_changes(struct cluster_dir *d, const struct local_args *a, bool exists, struct why *why)
{
    struct local_frontend *f = &d->frontends[0];
    bool running = cluster_process(d, f->name).state != PROCESS_GONE;
    if (a->given & GIVEN_LISTEN && strcmp(a->listen, f->listen) != 0) {
        if (running)
            return because(why, "%s runs, and listens on %s", f->name, f->listen);
        if (snprintf(f->listen, sizeof f->listen, "%s", a->listen) >= (int)sizeof f->listen)
            return because(why, "--listen %.64s… is too long", a->listen);
        if (nbd_choose_port(f->listen, sizeof f->listen, why) < 0)
            return -1;
        exists = false;
    }
    if (a->given & GIVEN_LEASE && a->lease_ms != d->conf.lease_ms) {
        if (running)
            return because(why, "%s runs, with leases of %" PRIu32 " ms", f->name, d->conf.lease_ms);
        d->conf.lease_ms = a->lease_ms;
        exists = false;
    }
    return exists ? 0 : cluster_dir_save(d, why);
}

static int start_replicas(struct bring_up *b, struct why *why)
{
    struct cluster_dir *d = b->d;
    struct replica_config *stopped[CONFIG_REPLICAS_MAX] = {NULL};
    uint32_t n = 0;
    for (uint32_t i = 0; i < d->conf.n_replicas; i++)
        if (cluster_process(d, d->conf.replicas[i].name).state == PROCESS_GONE)
            stopped[n++] = &d->conf.replicas[i];
    if (format_missing(b, stopped, n, why) < 0)
        return -1;
    for (uint32_t i = 0; i < n; i++)
        if (start_replica(b, stopped[i], why) < 0)
            return -1;
    for (uint32_t i = 0; i < n; i++)
        if (wait_replica(b, stopped[i], why) < 0)
            return -1;
    return d->created ? 0 : create_group(b, why);
}

static int start_frontends(struct bring_up *b, struct why *why)
{
    struct cluster_dir *d = b->d;
    for (uint32_t i = 0; i < d->n_frontends; i++)
        if (cluster_process(d, d->frontends[i].name).state == PROCESS_GONE &&
            start_frontend(b, &d->frontends[i], why) < 0)
            return -1;
    return 0;
}

/* A cluster whose volume was never created holds nothing of anybody's: the replicas' daemons are ended and all is
 * removed but the logs, which say why. local.json goes after the data, so that an interrupted removal is repeated. */
static int discard(struct cluster_dir *d, struct why *why)
{
    for (uint32_t i = 0; i < d->n_frontends; i++)
        if (cluster_process(d, d->frontends[i].name).state != PROCESS_GONE)
            return because(why, "%s runs, though %s was never created; stop it first", d->frontends[i].name,
                           d->conf.volumes[0].name);
    for (uint32_t i = 0; i < d->conf.n_replicas; i++) {
        struct process p = cluster_process(d, d->conf.replicas[i].name);
        int e = process_signal(&p, SIGKILL);
        if ((e && e != -ESRCH) || !process_wait_gone(&p, DISCARD_TIMEOUT_MS))
            return because(why, "%s (pid %d) of an interrupted start cannot be ended", d->conf.replicas[i].name,
                           (int)p.pid);
    }
    int err = file_remove_tree(cluster_path(d, "data", "", "").s);
    if (!err && unlink(cluster_path(d, "", "local.json", "").s) < 0 && errno != ENOENT)
        err = -errno;
    if (!err && unlink(cluster_path(d, "", "cluster.conf", "").s) < 0 && errno != ENOENT)
        err = -errno;
    if (err)
        return because(why, "cannot remove what an interrupted start left in %s: %s", d->dir, strerror(-err));
    cluster_dir_unlink_run(d);
    return 0;
}

/* What an interrupted first start was told, where this one is not told otherwise. */
static void take_over(struct local_args *a, const struct cluster_dir *d)
{
    const struct volume_config *v = &d->conf.volumes[0];
    if (!(a->given & GIVEN_VOLUME))
        a->volume = v->name;
    if (!(a->given & GIVEN_SIZE))
        a->size_bytes = v->size_bytes;
    if (!(a->given & GIVEN_REPLICAS))
        a->n_replicas = v->n_replicas;
    if (!(a->given & GIVEN_NBDSERVERS))
        a->n_nbdservers = d->n_frontends;
    if (!(a->given & GIVEN_WAL_SIZE))
        a->wal_size_bytes = d->wal_size_bytes;
    if (!(a->given & GIVEN_EXTENT_SIZE))
        a->extent_size_bytes = d->extent_size_bytes;
    if (!(a->given & GIVEN_LEASE))
        a->lease_ms = d->conf.lease_ms;
}

/* The cluster that is there, or a new one where there is none or none that was ever created. */
static int load_or_found(struct cluster_dir *d, bool exists, const struct local_args *a, struct why *why)
{
    static struct cluster_dir old;
    struct local_args args = *a;
    if (exists) {
        if (cluster_dir_load(d, why) < 0)
            return -1;
        if (d->created)
            return check_same(d, a, why) < 0 || cluster_dir_prepare(d, why) < 0 ? -1 : take_changes(d, a, true, why);
        old = *d;
        take_over(&args, &old);
        if (check_new(&args, why) < 0 || discard(d, why) < 0)
            return -1;
        memset(d, 0, sizeof *d);
        memcpy(d->dir, old.dir, sizeof d->dir);
        if (cluster_dir_prepare(d, why) < 0)
            return -1;
    }
    return found_cluster(d, &args, why) < 0 ? -1 : take_changes(d, &args, false, why);
}

int local_start(struct cluster_dir *d, bool exists, const struct local_args *a, struct why *why)
{
    struct bring_up b = {.d = d, .a = a, .until_ms = now_ms() + a->timeout_ms};
    char program[PATH_MAX];
    if (find_program(a->bin_dir, "qbd-replica", program, why) < 0 || find_program(a->bin_dir, "qbd-nbdserver", program, why) < 0)
        return -1;
    if ((!exists && (check_new(a, why) < 0 || cluster_dir_check_vacant(d, why) < 0)) || cluster_dir_prepare(d, why) < 0)
        return -1;
    int lock = cluster_dir_lock(d, why);
    if (lock < 0)
        return -1;
    /* Another start may have founded the cluster while this one waited for the lock. */
    exists = exists || access(cluster_path(d, "", "local.json", "").s, F_OK) == 0;
    int err = load_or_found(d, exists, a, why);
    if (!err) {
        err = start_replicas(&b, why);
        struct why ignored;
        if (err && !d->created && discard(d, &ignored) < 0)
            log_debug("%s", ignored.text); /* the next start tries again */
    }
    if (!err)
        err = start_frontends(&b, why);
    close(lock); /* what follows only waits; others may kill and restart meanwhile */
    const struct local_frontend *f = NULL;
    const char *volume = d->conf.volumes[0].name;
    if (err || wait_serving(&b, volume, &f, why) < 0)
        return -1;
    char uri[512];
    nbd_uri(f->listen, volume, uri, sizeof uri);
    printf("ready %s\n", uri);
    return 0;
}

int local_restart(struct cluster_dir *d, const struct local_args *a, struct why *why)
{
    struct bring_up b = {.d = d, .a = a, .until_ms = now_ms() + a->timeout_ms};
    struct replica_config *r = (struct replica_config *)config_find_replica(&d->conf, a->name);
    struct local_frontend *f = cluster_find_frontend(d, a->name);
    if (!r && !f)
        return because(why, "there is no %s in %s", a->name, d->dir);
    if (!d->created)
        return because(why, "the cluster in %s was never created; qbd local start does that", d->dir);
    struct process p = cluster_process(d, a->name);
    if (p.state != PROCESS_GONE)
        return because(why, "%s runs (pid %d)", a->name, (int)p.pid);
    if (cluster_dir_prepare(d, why) < 0)
        return -1;
    if (f)
        return start_frontend(&b, f, why) < 0 ? -1 : wait_frontend(&b, f, why);
    return format_missing(&b, &r, 1, why) < 0 || start_replica(&b, r, why) < 0 ? -1 : wait_replica(&b, r, why);
}

int local_add(struct cluster_dir *d, const struct local_args *a, struct why *why)
{
    struct bring_up b = {.d = d, .a = a, .until_ms = now_ms() + a->timeout_ms};
    struct replica_config *r = NULL;
    struct local_frontend *f = NULL;
    int err;
    if (!d->created)
        return because(why, "the cluster in %s was never created; qbd local start does that", d->dir);
    if (strcmp(a->name, "replica") == 0)
        err = cluster_add_replica(d, &r, why);
    else if (strcmp(a->name, "nbdserver") == 0)
        err = cluster_add_frontend(d, d->conf.volumes[0].name, &f, why);
    else
        return because(why, "replica or nbdserver can be added, not %s", a->name);
    if (err || cluster_dir_prepare(d, why) < 0 || cluster_dir_save(d, why) < 0)
        return -1;
    if (r && (format_missing(&b, &r, 1, why) < 0 || start_replica(&b, r, why) < 0 || wait_replica(&b, r, why) < 0))
        return -1;
    if (f && (start_frontend(&b, f, why) < 0 || wait_frontend(&b, f, why) < 0))
        return -1;
    printf("%s\n", r ? r->name : f->name);
    return 0;
}

bool local_uri(struct cluster_dir *d, const char *volume, char *buf, size_t cap)
{
    const struct local_frontend *found = NULL;
    for (uint32_t i = 0; i < d->n_frontends; i++) {
        const struct local_frontend *f = &d->frontends[i];
        struct why ignored;
        if (strcmp(f->volume, volume) != 0)
            continue;
        if (!found)
            found = f;
        if (d->n_frontends > 1 && cluster_process(d, f->name).state == PROCESS_RUNNING &&
            nbd_probe(f->listen, volume, PROBE_TIMEOUT_MS, &ignored) == 0) {
            found = f;
            break;
        }
    }
    if (found)
        nbd_uri(found->listen, volume, buf, cap);
    return found;
}
