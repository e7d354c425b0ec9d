/* The configuration file: libinih cuts lines, this file decides what they may say.
 *
 * What always holds: config_load gives a configuration in which every name, identity, address and group is there once and
 * within its bounds, or an error that names the line. */
#include "base/config.h"

#include <errno.h>
#include <ini.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"

#define LINE_MAX_BYTES 199 /* inih reads no longer ones: it would cut them without a word */
#define LEASE_MS_DEFAULT 2000
#define LEASE_MS_MIN 100
#define LEASE_MS_MAX 600000
#define COPY_RATE_MIN (UINT64_C(64) << 10)
#define COPY_RATE_MAX (UINT64_C(1) << 40)

enum section { SECTION_NONE, SECTION_CLUSTER, SECTION_REPLICA, SECTION_VOLUME };

/* Which keys a section had. */
enum key { KEY_ID = 1, KEY_LEASE = 2, KEY_IDENTITY = 4, KEY_ADDRESS = 8, KEY_GROUP = 16, KEY_SIZE = 32, KEY_REPLICAS = 64, KEY_FLOOR = 128, KEY_CEILING = 256 };

struct parser {
    FILE *file;
    const char *path;
    unsigned line;
    struct cluster_config *c;
    char *why;
    int err;
    enum section section;
    unsigned keys;         /* of the section that is being read */
    unsigned section_line; /* where it began */
    bool have_cluster;
    /* Replicas may be defined after the volumes that name them. */
    char members[CONFIG_VOLUMES_MAX][256];
    unsigned members_line[CONFIG_VOLUMES_MAX];
};

PRINTF_LIKE(3, 4)
static int fail(struct parser *p, unsigned line, const char *fmt, ...)
{
    char text[200];
    va_list ap;
    if (p->err)
        return p->err;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    const char *path = p->path;
    size_t room = 256 - strlen(text) - 16;
    if (strlen(path) > room)
        path += strlen(path) - room; /* the end of a path says more than its beginning */
    snprintf(p->why, 256, "%s:%u: %s", path, line, text);
    return p->err = -EINVAL;
}

int config_parse_size(const char *s, uint64_t *ret)
{
    uint64_t v = 0;
    const char *c = s;
    for (; *c >= '0' && *c <= '9'; c++) {
        if (__builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, (uint64_t)(*c - '0'), &v))
            return -ERANGE;
    }
    if (c == s)
        return -EINVAL;
    static const char units[] = "KMGTPE";
    if (*c) {
        const char *unit = strchr(units, *c);
        if (!unit || c[1])
            return -EINVAL;
        unsigned shift = 10 * (unsigned)(unit - units + 1);
        if (v > UINT64_MAX >> shift)
            return -ERANGE;
        v <<= shift;
    }
    *ret = v;
    return 0;
}

static int parse_number(const char *s, uint64_t min, uint64_t max, uint64_t *ret)
{
    uint64_t v;
    size_t n = strlen(s);
    if (n == 0 || strspn(s, "0123456789") != n || config_parse_size(s, &v) < 0 || v < min || v > max)
        return -EINVAL;
    *ret = v;
    return 0;
}

/* Names go into messages, paths and URIs. */
static bool is_name(const char *name, size_t len)
{
    if (len == 0 || len >= NAME_MAX_BYTES || name[0] == '.' || name[0] == '-')
        return false;
    for (size_t i = 0; i < len; i++) {
        char c = name[i];
        bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        if (!letter && !strchr("-_.", c))
            return false;
    }
    return true;
}

bool config_name_is_valid(const char *name)
{
    return is_name(name, strlen(name));
}

static bool address_is_valid(const char *a)
{
    size_t n = strlen(a);
    if (n >= CONFIG_ADDRESS_MAX)
        return false;
    if (strncmp(a, "unix:", 5) == 0)
        return n > 5 && n - 5 < 108; /* sun_path */
    const char *colon = strrchr(a, ':');
    uint64_t port;
    return colon && colon > a && parse_number(colon + 1, 1, 65535, &port) == 0;
}

/* ---- sections ---- */

static int section_end(struct parser *p)
{
    static const struct {
        unsigned required;
        const char *what;
    } rules[] = {
        [SECTION_CLUSTER] = {KEY_ID, "[cluster] needs id"},
        [SECTION_REPLICA] = {KEY_IDENTITY | KEY_ADDRESS, "a replica needs identity and address"},
        [SECTION_VOLUME] = {KEY_GROUP | KEY_SIZE | KEY_REPLICAS, "a volume needs group, size and replicas"},
    };
    if (p->section != SECTION_NONE && (p->keys & rules[p->section].required) != rules[p->section].required)
        return fail(p, p->section_line, "%s", rules[p->section].what);
    p->section = SECTION_NONE;
    return 0;
}

static int begin_replica(struct parser *p, const char *name, size_t len)
{
    struct cluster_config *c = p->c;
    if (!is_name(name, len))
        return fail(p, p->line, "a replica's name has 1 to %d letters, digits, '-', '_' and '.'", NAME_MAX_BYTES - 1);
    if (c->n_replicas == CONFIG_REPLICAS_MAX)
        return fail(p, p->line, "more than %d replicas", CONFIG_REPLICAS_MAX);
    struct replica_config *r = &c->replicas[c->n_replicas];
    memcpy(r->name, name, len);
    if (config_find_replica(c, r->name))
        return fail(p, p->line, "a second replica of the name %s", r->name);
    c->n_replicas++;
    p->section = SECTION_REPLICA;
    return 0;
}

static int begin_volume(struct parser *p, const char *name, size_t len)
{
    struct cluster_config *c = p->c;
    if (!is_name(name, len))
        return fail(p, p->line, "a volume's name has 1 to %d letters, digits, '-', '_' and '.'", NAME_MAX_BYTES - 1);
    if (c->n_volumes == CONFIG_VOLUMES_MAX)
        return fail(p, p->line, "more than %d volumes", CONFIG_VOLUMES_MAX);
    struct volume_config *v = &c->volumes[c->n_volumes];
    memcpy(v->name, name, len);
    if (config_find_volume(c, v->name))
        return fail(p, p->line, "a second volume of the name %s", v->name);
    c->n_volumes++;
    p->section = SECTION_VOLUME;
    return 0;
}

/* text: what stands in the brackets. */
static int section_begin(struct parser *p, const char *text, size_t len)
{
    if (section_end(p) < 0)
        return p->err;
    p->keys = 0;
    p->section_line = p->line;
    if (len == 7 && memcmp(text, "cluster", 7) == 0) {
        if (p->have_cluster)
            return fail(p, p->line, "a second [cluster]");
        p->have_cluster = true;
        p->section = SECTION_CLUSTER;
        return 0;
    }
    if (len > 8 && memcmp(text, "replica ", 8) == 0)
        return begin_replica(p, text + 8, len - 8);
    if (len > 7 && memcmp(text, "volume ", 7) == 0)
        return begin_volume(p, text + 7, len - 7);
    return fail(p, p->line, "unknown section [%.*s]: [cluster], [replica NAME] and [volume NAME] exist", (int)(len < 64 ? len : 64),
                text);
}

/* ---- keys ---- */

static int key_once(struct parser *p, enum key key, const char *name)
{
    if (p->keys & key)
        return fail(p, p->line, "%s a second time", name);
    p->keys |= key;
    return 0;
}

static int set_cluster(struct parser *p, const char *name, const char *value)
{
    uint64_t v;
    if (strcmp(name, "id") == 0) {
        if (key_once(p, KEY_ID, name) < 0)
            return p->err;
        if (uuid_parse(value, &p->c->id) < 0 || uuid_is_zero(&p->c->id))
            return fail(p, p->line, "id is not a UUID");
        return 0;
    }
    if (strcmp(name, "lease_ms") == 0) {
        if (key_once(p, KEY_LEASE, name) < 0)
            return p->err;
        if (parse_number(value, LEASE_MS_MIN, LEASE_MS_MAX, &v) < 0)
            return fail(p, p->line, "lease_ms is a number from %d to %d", LEASE_MS_MIN, LEASE_MS_MAX);
        p->c->lease_ms = (uint32_t)v;
        return 0;
    }
    bool floor = strcmp(name, "copy_floor") == 0;
    if (floor || strcmp(name, "copy_ceiling") == 0) {
        if (key_once(p, floor ? KEY_FLOOR : KEY_CEILING, name) < 0)
            return p->err;
        if (config_parse_size(value, &v) < 0 || v < COPY_RATE_MIN || v > COPY_RATE_MAX)
            return fail(p, p->line, "%s is a number of bytes a second from 64K to 1T", name);
        *(floor ? &p->c->copy_floor_bytes_per_s : &p->c->copy_ceiling_bytes_per_s) = v;
        if (p->c->copy_ceiling_bytes_per_s > 0 && p->c->copy_floor_bytes_per_s > p->c->copy_ceiling_bytes_per_s)
            return fail(p, p->line, "copy_floor is above copy_ceiling");
        return 0;
    }
    return fail(p, p->line, "unknown key %.64s in [cluster]: id, lease_ms, copy_floor and copy_ceiling exist", name);
}

static int set_replica(struct parser *p, const char *name, const char *value)
{
    struct replica_config *r = &p->c->replicas[p->c->n_replicas - 1];
    if (strcmp(name, "identity") == 0) {
        struct uuid id;
        if (key_once(p, KEY_IDENTITY, name) < 0)
            return p->err;
        if (uuid_parse(value, &id) < 0 || uuid_is_zero(&id))
            return fail(p, p->line, "identity is not a UUID");
        if (config_find_identity(p->c, &id))
            return fail(p, p->line, "two replicas have the same identity");
        r->identity = id;
        return 0;
    }
    if (strcmp(name, "address") == 0) {
        if (key_once(p, KEY_ADDRESS, name) < 0)
            return p->err;
        if (!address_is_valid(value))
            return fail(p, p->line, "address is unix:PATH, HOST:PORT or [V6]:PORT");
        for (uint32_t i = 0; i < p->c->n_replicas; i++)
            if (strcmp(p->c->replicas[i].address, value) == 0)
                return fail(p, p->line, "two replicas have the same address");
        snprintf(r->address, sizeof r->address, "%s", value);
        return 0;
    }
    return fail(p, p->line, "unknown key %.64s of a replica: identity and address exist", name);
}

static int set_group(struct parser *p, struct volume_config *v, const char *value)
{
    uint64_t group;
    if (parse_number(value, 1, UINT64_MAX, &group) < 0)
        return fail(p, p->line, "group is a number from 1 on"); /* 0 is the directory's */
    for (uint32_t i = 0; i < p->c->n_volumes; i++)
        if (p->c->volumes[i].group == group)
            return fail(p, p->line, "two volumes have the same group");
    v->group = group;
    return 0;
}

static int set_volume(struct parser *p, const char *name, const char *value)
{
    uint32_t i = p->c->n_volumes - 1;
    struct volume_config *v = &p->c->volumes[i];
    if (strcmp(name, "group") == 0)
        return key_once(p, KEY_GROUP, name) < 0 ? p->err : set_group(p, v, value);
    if (strcmp(name, "size") == 0) {
        if (key_once(p, KEY_SIZE, name) < 0)
            return p->err;
        if (config_parse_size(value, &v->size_bytes) < 0 || v->size_bytes == 0 || v->size_bytes > INT64_MAX)
            return fail(p, p->line, "size is a number of bytes, or one with K, M, G, T, P");
        if (v->size_bytes % BLOCK_SIZE)
            return fail(p, p->line, "size is not a multiple of %u", BLOCK_SIZE);
        return 0;
    }
    if (strcmp(name, "replicas") == 0) {
        if (key_once(p, KEY_REPLICAS, name) < 0)
            return p->err;
        snprintf(p->members[i], sizeof p->members[i], "%s", value);
        p->members_line[i] = p->line;
        return 0;
    }
    return fail(p, p->line, "unknown key %.64s of a volume: group, size and replicas exist", name);
}

/* ---- the file ---- */

/* inih's reader: counts lines, and sees section headers, which inih tells nobody about. */
static char *read_line(char *to, int size, void *stream)
{
    struct parser *p = stream;
    if (p->err || !fgets(to, size, p->file))
        return NULL;
    p->line++;
    size_t n = strlen(to);
    if (n == 0 || (to[n - 1] != '\n' && !feof(p->file))) {
        fail(p, p->line, n + 1 < (size_t)size ? "a zero byte" : "a line of more than %d bytes", LINE_MAX_BYTES - 1);
        return NULL;
    }
    const char *s = to + strspn(to, " \t");
    if (p->line == 1 && strncmp(s, "\xEF\xBB\xBF", 3) == 0)
        s += 3;
    if (s != to && *s && *s != '\n' && *s != '\r' && !strchr(";#[", *s) && s[-1] != '\xBF') {
        /* inih would take it for a value's continuation. */
        memmove(to, s, strlen(s) + 1);
        s = to;
    }
    if (*s == '[') {
        const char *end = strchr(s, ']');
        const char *after = end ? end + 1 + strspn(end + 1, " \t\r\n") : NULL;
        if (!end)
            fail(p, p->line, "a section without ']'");
        else if (*after && !strchr(";#", *after))
            fail(p, p->line, "text after ']'");
        else
            section_begin(p, s + 1, (size_t)(end - s) - 1);
    }
    return p->err ? NULL : to;
}

static int on_key(void *user, const char *section, const char *name, const char *value)
{
    struct parser *p = user;
    if (p->err)
        return 0;
    if (strlen(value) == 0)
        return fail(p, p->line, "%.64s has no value", name) == 0;
    switch (p->section) {
    case SECTION_NONE:
        return fail(p, p->line, "%.64s outside of a section", name) == 0;
    case SECTION_CLUSTER:
        return set_cluster(p, name, value) == 0;
    case SECTION_REPLICA:
        return set_replica(p, name, value) == 0;
    case SECTION_VOLUME:
        return set_volume(p, name, value) == 0;
    }
    return 0;
}

/* The names in a volume's replicas line become indices. */
static int resolve_members(struct parser *p, uint32_t i)
{
    struct volume_config *v = &p->c->volumes[i];
    unsigned line = p->members_line[i];
    char *save, *name = strtok_r(p->members[i], " \t,", &save);
    for (; name; name = strtok_r(NULL, " \t,", &save)) {
        const struct replica_config *r = config_find_replica(p->c, name);
        if (!r)
            return fail(p, line, "volume %s names a replica %.64s that does not exist", v->name, name);
        uint32_t index = (uint32_t)(r - p->c->replicas);
        for (uint32_t k = 0; k < v->n_replicas; k++)
            if (v->replica[k] == index)
                return fail(p, line, "volume %s names replica %s twice", v->name, r->name);
        if (v->n_replicas == MEMBERS_MAX)
            return fail(p, line, "volume %s has more than %d replicas", v->name, MEMBERS_MAX);
        v->replica[v->n_replicas++] = index;
    }
    return v->n_replicas ? 0 : fail(p, line, "volume %s has no replica", v->name);
}

static int parse(struct parser *p)
{
    int r = ini_parse_stream(read_line, p, on_key, p);
    if (p->err)
        return p->err;
    if (ferror(p->file))
        return fail(p, p->line, "cannot be read");
    if (r != 0)
        return fail(p, r > 0 ? (unsigned)r : p->line, "neither a section, nor KEY = VALUE, nor a comment");
    if (section_end(p) < 0)
        return p->err;
    if (!p->have_cluster)
        return fail(p, p->line, "[cluster] is missing");
    for (uint32_t i = 0; i < p->c->n_volumes; i++)
        if (resolve_members(p, i) < 0)
            return p->err;
    return 0;
}

int config_load(const char *path, struct cluster_config *ret, char why[256])
{
    FILE *f = fopen(path, "re");
    if (!f) {
        int err = -errno;
        snprintf(why, 256, "%.180s: %s", path, strerror(-err));
        return err;
    }
    struct parser *p = calloc(1, sizeof *p);
    struct cluster_config *c = calloc(1, sizeof *c);
    int err = -ENOMEM;
    if (p && c) {
        c->lease_ms = LEASE_MS_DEFAULT;
        p->file = f;
        p->path = path;
        p->c = c;
        p->why = why;
        err = parse(p);
        if (err == 0)
            *ret = *c;
    } else {
        snprintf(why, 256, "out of memory");
    }
    free(c);
    free(p);
    fclose(f);
    return err;
}

const struct replica_config *config_find_replica(const struct cluster_config *c, const char *name)
{
    for (uint32_t i = 0; i < c->n_replicas; i++)
        if (strcmp(c->replicas[i].name, name) == 0)
            return &c->replicas[i];
    return NULL;
}

const struct replica_config *config_find_identity(const struct cluster_config *c, const struct uuid *identity)
{
    for (uint32_t i = 0; i < c->n_replicas; i++)
        if (uuid_equal(&c->replicas[i].identity, identity))
            return &c->replicas[i];
    return NULL;
}

const struct volume_config *config_find_volume(const struct cluster_config *c, const char *name)
{
    for (uint32_t i = 0; i < c->n_volumes; i++)
        if (strcmp(c->volumes[i].name, name) == 0)
            return &c->volumes[i];
    return NULL;
}
