/* The directory of a local cluster. */
#include "tools/cluster_dir.h"

#include "base/crc32c.h"
#include "base/log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define LOCAL_FORMAT 1
#define SOCKET_NAME_ROOM 24   /* "/nbdserver-16.status" and its NUL */
#define SOCKET_PATH_BYTES 108 /* sun_path of a unix socket */
#define LOCK_WAIT_MS 60000

struct cluster_path cluster_path(const struct cluster_dir *d, const char *folder, const char *name, const char *suffix)
{
    struct cluster_path p;
    snprintf(p.s, sizeof p.s, "%s%s%s%s%s%s", d->dir, *folder ? "/" : "", folder, *name ? "/" : "", name, suffix);
    return p;
}

int cluster_dir_locate(struct cluster_dir *d, const char *dir, bool *ret_exists, struct why *why)
{
    char cwd[PATH_MAX];
    memset(d, 0, sizeof *d);
    if (realpath(dir, d->dir)) {
        *ret_exists = access(cluster_path(d, "", "local.json", "").s, F_OK) == 0;
        return 0;
    }
    if (errno != ENOENT)
        return because(why, "%s: %s", dir, strerror(errno));
    *ret_exists = false;
    if (!getcwd(cwd, sizeof cwd))
        return because(why, "cannot tell the current directory: %s", strerror(errno));
    int n =
        *dir == '/' ? snprintf(d->dir, sizeof d->dir, "%s", dir) : snprintf(d->dir, sizeof d->dir, "%s/%s", cwd, dir);
    if (n >= (int)sizeof d->dir - 64)
        return because(why, "the path %.100s… is too long", dir);
    return 0;
}

/* A socket's address must fit sun_path, and a configuration file's value ends at a blank or a comment sign. */
static bool run_path_is_plain(const char *run)
{
    if (strlen(run) + SOCKET_NAME_ROOM > SOCKET_PATH_BYTES)
        return false;
    for (const char *c = run; *c; c++)
        if (*c <= ' ' || strchr(";#\"'=", *c))
            return false;
    return true;
}

/* The link's name follows from the directory's, so that every command finds the same one. */
static void run_link_name(const struct cluster_dir *d, char *buf, size_t cap)
{
    const char *base = getenv("XDG_RUNTIME_DIR");
    if (!base || *base != '/' || strlen(base) > 40 || access(base, W_OK) < 0)
        base = "/tmp";
    uint32_t a = crc32c(d->dir, strlen(d->dir));
    uint32_t b = crc32c_extend(a ^ 0x9e3779b9u, d->dir, strlen(d->dir));
    snprintf(buf, cap, "%s/qbd-%u-%08x%08x", base, (unsigned)getuid(), a, b);
}

static int make_run_link(const struct cluster_dir *d, const char *to, struct why *why)
{
    struct stat st;
    char now[PATH_MAX];
    if (symlink(to, d->run) == 0)
        return 0;
    if (errno != EEXIST)
        return because(why, "cannot make the link %s: %s", d->run, strerror(errno));
    ssize_t n = readlink(d->run, now, sizeof now - 1);
    if (lstat(d->run, &st) < 0 || n < 0)
        return because(why, "%s is in the way: a link to %s is needed there because that path is too long for sockets",
                       d->run, to);
    now[n] = '\0';
    if (st.st_uid != geteuid() || strcmp(now, to) != 0)
        return because(why, "%s is in the way: it belongs to something else", d->run);
    return 0;
}

int cluster_dir_prepare(struct cluster_dir *d, struct why *why)
{
    static const char *const folders[] = {"", "run", "logs", "data"};
    for (size_t i = 0; i < ARRAY_LEN(folders); i++) {
        struct cluster_path p = cluster_path(d, folders[i], "", "");
        if (mkdir(p.s, 0755) < 0 && errno != EEXIST)
            return because(why, "cannot make %s: %s", p.s, strerror(errno));
    }
    char real[PATH_MAX];
    if (!realpath(d->dir, real))
        return because(why, "%s: %s", d->dir, strerror(errno));
    memcpy(d->dir, real, strlen(real) + 1);
    struct cluster_path run = cluster_path(d, "run", "", "");
    if (!*d->run) {
        if (run_path_is_plain(run.s))
            memcpy(d->run, run.s, strlen(run.s) + 1); /* a plain one is short enough for a socket's address */
        else
            run_link_name(d, d->run, sizeof d->run);
    }
    /* The addresses in cluster.conf lead there. */
    size_t n = strlen(d->run);
    if (strcmp(d->run, run.s) != 0 && n > 4 && strcmp(d->run + n - 4, "/run") == 0)
        return because(why, "%s was made as %.*s and works only there; move it back", d->dir, (int)(n - 4), d->run);
    return strcmp(d->run, run.s) == 0 ? 0 : make_run_link(d, run.s, why);
}

static bool is_empty_folder(const char *path)
{
    DIR *dir = opendir(path);
    if (!dir)
        return false;
    unsigned n = 0;
    while (readdir(dir))
        n++;
    closedir(dir);
    return n <= 2;
}

/* With a lock of ours, logs and a half-written configuration are ours, too; data never are without their local.json. */
static bool is_ours(const struct cluster_dir *d, const char *name)
{
    static const char *const locked[] = {"lock", "logs", "run", "cluster.conf", "cluster.conf.new", "local.json.new"};
    static const char *const folders[] = {"run", "logs", "data"};
    for (size_t i = 0; i < ARRAY_LEN(folders); i++)
        if (strcmp(name, folders[i]) == 0 && is_empty_folder(cluster_path(d, folders[i], "", "").s))
            return true;
    for (size_t i = 0; i < ARRAY_LEN(locked); i++)
        if (strcmp(name, locked[i]) == 0)
            return access(cluster_path(d, "", "lock", "").s, F_OK) == 0;
    return false;
}

int cluster_dir_check_vacant(const struct cluster_dir *d, struct why *why)
{
    DIR *dir = opendir(d->dir);
    if (!dir)
        return errno == ENOENT ? 0 : because(why, "%s: %s", d->dir, strerror(errno));
    bool vacant = true;
    for (const struct dirent *e = readdir(dir); e && vacant; e = readdir(dir))
        vacant = strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0 || is_ours(d, e->d_name);
    closedir(dir);
    /* Another start may be founding it at this moment. */
    if (vacant || access(cluster_path(d, "", "local.json", "").s, F_OK) == 0)
        return 0;
    return because(why, "%s is not empty and holds no local cluster", d->dir);
}

void cluster_dir_unlink_run(const struct cluster_dir *d)
{
    struct stat st;
    if (strcmp(d->run, cluster_path(d, "run", "", "").s) != 0 && lstat(d->run, &st) == 0 && S_ISLNK(st.st_mode))
        unlink(d->run);
}

int cluster_dir_lock(const struct cluster_dir *d, struct why *why)
{
    struct cluster_path p = cluster_path(d, "", "lock", "");
    int fd = open(p.s, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0)
        return because(why, "cannot open %s: %s", p.s, strerror(errno));
    uint64_t until = now_ms() + LOCK_WAIT_MS;
    while (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        if ((errno != EWOULDBLOCK && errno != EINTR) || now_ms() > until) {
            close(fd);
            return because(why, "another qbd local is at work on %s", d->dir);
        }
        sleep_ms(20);
    }
    return fd;
}

static const char *json_text(json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

/* Copies a string that must fit and not be empty. */
static bool take_text(json_t *o, const char *key, char *to, size_t cap)
{
    return *json_text(o, key) && snprintf(to, cap, "%s", json_text(o, key)) < (int)cap;
}

static bool local_from_json(struct cluster_dir *d, json_t *o)
{
    if (json_integer_value(json_object_get(o, "format")) != LOCAL_FORMAT || !take_text(o, "run", d->run, sizeof d->run))
        return false;
    d->wal_size_bytes = (uint64_t)json_integer_value(json_object_get(o, "wal_size"));
    d->extent_size_bytes = (uint64_t)json_integer_value(json_object_get(o, "extent_size"));
    d->created = json_is_true(json_object_get(o, "created"));
    json_t *members = json_object_get(o, "founding_members"), *frontends = json_object_get(o, "nbdservers");
    if (json_array_size(members) > MEMBERS_MAX || json_array_size(frontends) > FRONTENDS_MAX)
        return false;
    d->founding.n_voters = (uint8_t)json_array_size(members);
    for (size_t i = 0; i < json_array_size(members); i++) {
        const char *id = json_string_value(json_array_get(members, i));
        if (!id || uuid_parse(id, &d->founding.voter[i]) < 0)
            return false;
    }
    for (size_t i = 0; i < json_array_size(frontends); i++) {
        struct local_frontend *f = &d->frontends[d->n_frontends++];
        json_t *of = json_array_get(frontends, i);
        if (!take_text(of, "name", f->name, sizeof f->name) || !take_text(of, "volume", f->volume, sizeof f->volume) ||
            !take_text(of, "listen", f->listen, sizeof f->listen))
            return false;
    }
    return true;
}

int cluster_dir_load(struct cluster_dir *d, struct why *why)
{
    struct cluster_path local = cluster_path(d, "", "local.json", ""), conf = cluster_path(d, "", "cluster.conf", "");
    json_error_t e;
    json_t *o = json_load_file(local.s, 0, &e);
    if (!o)
        return access(local.s, F_OK) < 0 ? because(why, "%s holds no local cluster", d->dir)
                                         : because(why, "%s: %s", local.s, e.text);
    bool good = local_from_json(d, o);
    json_decref(o);
    if (!good)
        return because(why, "%s is damaged, or of another version of qbd", local.s);
    char text[256];
    if (config_load(conf.s, &d->conf, text) < 0)
        return because(why, "%s", text);
    return 0;
}

static int save_local(const struct cluster_dir *d)
{
    char id[37];
    json_t *members = json_array(), *frontends = json_array();
    for (uint32_t i = 0; i < d->founding.n_voters; i++)
        json_array_append_new(members, json_string(uuid_format(&d->founding.voter[i], id)));
    for (uint32_t i = 0; i < d->n_frontends; i++) {
        const struct local_frontend *f = &d->frontends[i];
        json_array_append_new(frontends,
                              json_pack("{s:s, s:s, s:s}", "name", f->name, "volume", f->volume, "listen", f->listen));
    }
    json_t *o = json_pack("{s:i, s:s, s:I, s:I, s:b, s:o, s:o}", "format", LOCAL_FORMAT, "run", d->run, "wal_size",
                          (json_int_t)d->wal_size_bytes, "extent_size", (json_int_t)d->extent_size_bytes, "created",
                          d->created, "founding_members", members, "nbdservers", frontends);
    char *text = o ? json_dumps(o, JSON_INDENT(2)) : NULL;
    int err = text ? file_replace(cluster_path(d, "", "local.json", "").s, text) : -ENOMEM;
    free(text);
    json_decref(o);
    return err;
}

static int save_conf(const struct cluster_dir *d)
{
    char *text = NULL, id[37];
    size_t len = 0;
    FILE *f = open_memstream(&text, &len);
    if (!f)
        return -ENOMEM;
    fprintf(f, "# Written by qbd local.\n[cluster]\nid = %s\nlease_ms = %" PRIu32 "\n", uuid_format(&d->conf.id, id),
            d->conf.lease_ms);
    if (d->conf.copy_floor_bytes_per_s)
        fprintf(f, "copy_floor = %" PRIu64 "\n", d->conf.copy_floor_bytes_per_s);
    if (d->conf.copy_ceiling_bytes_per_s)
        fprintf(f, "copy_ceiling = %" PRIu64 "\n", d->conf.copy_ceiling_bytes_per_s);
    for (uint32_t i = 0; i < d->conf.n_replicas; i++) {
        const struct replica_config *r = &d->conf.replicas[i];
        fprintf(f, "\n[replica %s]\nidentity = %s\naddress = %s\n", r->name, uuid_format(&r->identity, id), r->address);
    }
    for (uint32_t i = 0; i < d->conf.n_volumes; i++) {
        const struct volume_config *v = &d->conf.volumes[i];
        fprintf(f, "\n[volume %s]\ngroup = %" PRIu64 "\nsize = %" PRIu64 "\nreplicas =", v->name, v->group,
                v->size_bytes);
        for (uint32_t k = 0; k < v->n_replicas; k++)
            fprintf(f, " %s", d->conf.replicas[v->replica[k]].name);
        fprintf(f, "\n");
    }
    int err = fclose(f) == 0 ? file_replace(cluster_path(d, "", "cluster.conf", "").s, text) : -ENOMEM;
    free(text);
    return err;
}

/* cluster.conf first: local.json is what says that there is a cluster. */
int cluster_dir_save(const struct cluster_dir *d, struct why *why)
{
    int err = save_conf(d);
    if (!err)
        err = save_local(d);
    return err ? because(why, "cannot write the configuration in %s: %s", d->dir, strerror(-err)) : 0;
}

bool cluster_replica_formatted(const struct cluster_dir *d, const char *replica)
{
    return access(cluster_path(d, "data", replica, "").s, F_OK) == 0;
}

struct local_frontend *cluster_find_frontend(struct cluster_dir *d, const char *name)
{
    for (uint32_t i = 0; i < d->n_frontends; i++)
        if (strcmp(d->frontends[i].name, name) == 0)
            return &d->frontends[i];
    return NULL;
}

struct process cluster_process(const struct cluster_dir *d, const char *component)
{
    return process_find(cluster_path(d, "run", component, ".pid").s);
}

void cluster_socket_address(const struct cluster_dir *d, const char *name, const char *suffix,
                            char ret[CONFIG_ADDRESS_MAX])
{
    char text[PATH_MAX];
    int n = snprintf(text, sizeof text, "unix:%s/%s.%s", d->run, name, suffix);
    assert(n < CONFIG_ADDRESS_MAX); /* run_path_is_plain left room */
    memcpy(ret, text, (size_t)n + 1);
}

int cluster_add_replica(struct cluster_dir *d, struct replica_config **ret, struct why *why)
{
    if (d->conf.n_replicas == CONFIG_REPLICAS_MAX)
        return because(why, "a cluster has at most %d replicas", CONFIG_REPLICAS_MAX);
    struct replica_config *r = &d->conf.replicas[d->conf.n_replicas++];
    snprintf(r->name, sizeof r->name, "replica-%" PRIu32, d->conf.n_replicas);
    random_uuid(&r->identity);
    cluster_socket_address(d, r->name, "sock", r->address);
    *ret = r;
    return 0;
}

int cluster_add_frontend(struct cluster_dir *d, const char *volume, struct local_frontend **ret, struct why *why)
{
    if (d->n_frontends == FRONTENDS_MAX)
        return because(why, "a local cluster has at most %d nbdservers", FRONTENDS_MAX);
    struct local_frontend *f = &d->frontends[d->n_frontends++];
    snprintf(f->name, sizeof f->name, "nbdserver-%" PRIu32, d->n_frontends);
    snprintf(f->volume, sizeof f->volume, "%s", volume);
    cluster_socket_address(d, f->name, "nbd", f->listen);
    *ret = f;
    return 0;
}
