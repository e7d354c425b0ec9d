/* Asking the daemons how they are: views of replicas and volumes, and the command qbd status. */
#include "tools/status.h"

#include "base/log.h"

#include <argp.h>
#include <errno.h>
#include <inttypes.h>
#include <libsmartcols.h>
#include <stdio.h>
#include <stdlib.h>

#define ASK_TIMEOUT_MS 1500
#define STATUS_COLUMNS 5

int64_t json_number_or(json_t *o, const char *key, int64_t otherwise)
{
    json_t *v = json_object_get(o, key);
    return json_is_number(v) ? (int64_t)json_number_value(v) : otherwise;
}

const char *json_text_or(json_t *o, const char *key, const char *otherwise)
{
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : otherwise;
}

void replica_view_take(struct replica_view *r, const struct cluster_config *conf, const struct replica_config *config,
                       const struct cluster_dir *d, uint64_t group)
{
    memset(r, 0, sizeof *r);
    r->config = config;
    r->local = d;
    if (d) {
        r->process = cluster_process(d, config->name);
        if (r->process.state != PROCESS_RUNNING)
            return;
    }
    r->status = client_status(config->address, &conf->id, &config->identity, ASK_TIMEOUT_MS, &r->why);
    size_t i;
    json_t *g;
    json_array_foreach(json_object_get(r->status, "groups"), i, g) if (json_number_or(g, "group", 0) == (int64_t)group)
        r->group = g;
}

void replica_view_drop(struct replica_view *r)
{
    json_decref(r->status);
}

/* The membership in force is the one in the group's own log; a replica that does not tell it is believed. */
static bool is_voter(const struct replica_view *r)
{
    char id[37];
    size_t i;
    json_t *voter, *voters = json_object_get(r->group, "voters");
    if (!json_is_array(voters))
        return r->group;
    json_array_foreach(voters, i, voter) if (json_is_string(voter) &&
                                             strcmp(json_string_value(voter), uuid_format(&r->config->identity, id)) ==
                                                 0) return true;
    return false;
}

const char *replica_view_state(const struct replica_view *r, const struct cluster_dir *d)
{
    if (d && r->process.state == PROCESS_GONE)
        return cluster_replica_formatted(d, r->config->name) ? "stopped" : "lost its data";
    if (r->process.state == PROCESS_PAUSED)
        return "paused";
    if (!r->status)
        return "unreachable";
    const char *whole = json_text_or(r->status, "state", "up");
    if (strcmp(whole, "up") != 0)
        return whole;
    return is_voter(r) ? json_text_or(r->group, "state", "up") : "not a member";
}

bool replica_view_up_to_date(const struct replica_view *r)
{
    return is_voter(r) && strcmp(json_text_or(r->status, "state", "up"), "up") == 0 &&
           strcmp(json_text_or(r->group, "state", ""), "up to date") == 0;
}

bool replica_view_joining(const struct replica_view *r)
{
    return json_is_false(json_object_get(r->group, "in_stream"));
}

int64_t replica_view_position(const struct replica_view *r)
{
    return json_number_or(r->group, "durable", json_number_or(r->group, "last", -1));
}

int64_t replica_view_behind(const struct replica_view *r, uint64_t commit)
{
    int64_t position = replica_view_position(r);
    if (position < 0)
        return -1;
    return (uint64_t)position >= commit ? 0 : (int64_t)(commit - (uint64_t)position);
}

/* The holder is whom the newest ballot belongs to; its lease, the longest that any replica granted it. */
static void see_holder(struct volume_view *v, const struct replica_view *r, uint64_t *round)
{
    json_t *holder = json_object_get(r->group, "holder");
    const char *name = json_text_or(holder, "name", "");
    int64_t lease_ms = json_number_or(holder, "remaining_ms", 0);
    uint64_t promised = (uint64_t)json_number_or(r->group, "promised_round", 0);
    if (!*name || promised < *round)
        return;
    if (promised > *round || lease_ms > v->lease_ms)
        v->lease_ms = lease_ms;
    *round = promised;
    v->holder = name;
}

void volume_view_take(struct volume_view *v, const struct volume_config *config, const struct replica_view *replicas)
{
    *v = (struct volume_view){.config = config, .holder = ""};
    uint64_t round = 0;
    for (uint32_t i = 0; i < config->n_replicas; i++) {
        const struct replica_view *r = &replicas[config->replica[i]];
        uint64_t commit = (uint64_t)json_number_or(r->group, "commit", 0);
        if (commit > v->commit)
            v->commit = commit;
        see_holder(v, r, &round);
    }
    for (uint32_t i = 0; i < config->n_replicas; i++) {
        const struct replica_view *r = &replicas[config->replica[i]];
        v->n_up_to_date += replica_view_up_to_date(r) && !(*v->holder && replica_view_joining(r));
    }
}

void volume_view_redundancy(const struct volume_view *v, char *buf, size_t cap)
{
    uint32_t n = v->config->n_replicas, majority = n / 2 + 1;
    int used = snprintf(buf, cap, "%" PRIu32 " of %" PRIu32 " replicas up to date", v->n_up_to_date, n);
    if (v->n_up_to_date > majority)
        snprintf(buf + used, cap - (size_t)used, "; any %" PRIu32 " may fail", v->n_up_to_date - majority);
    else if (v->n_up_to_date == majority)
        snprintf(buf + used, cap - (size_t)used, "; none of them may fail");
    else
        snprintf(buf + used, cap - (size_t)used, "; requests wait for %" PRIu32 " more", majority - v->n_up_to_date);
}

void print_table(const char *const *headings, unsigned n_columns, char *const *cells, unsigned n_rows)
{
    struct libscols_table *t = scols_new_table();
    for (unsigned c = 0; t && c < n_columns; c++)
        if (!scols_table_new_column(t, headings[c], 0, 0))
            abort();
    for (unsigned r = 0; t && r < n_rows; r++) {
        struct libscols_line *line = scols_table_new_line(t, NULL);
        for (unsigned c = 0; c < n_columns; c++)
            if (!line || scols_line_set_data(line, c, cells[r * n_columns + c]) < 0)
                abort();
    }
    if (!t)
        abort(); /* out of memory, in a tool that has nothing to lose */
    scols_print_table(t);
    scols_unref_table(t);
}

struct status_args {
    const char *dir, *cluster;
    bool json;
};

struct status_report {
    struct cluster_dir dir; /* its conf is the configuration either way */
    bool local;
    struct replica_view replicas[CONFIG_REPLICAS_MAX];
};

static void say_size(uint64_t bytes, char *buf, size_t cap)
{
    static const char *const unit[] = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB"};
    unsigned u = 0;
    double v = (double)bytes;
    while (v >= 1024 && u + 1 < ARRAY_LEN(unit)) {
        v /= 1024;
        u++;
    }
    snprintf(buf, cap, v == (double)(uint64_t)v ? "%.0f %s" : "%.1f %s", v, unit[u]);
}

/* A replica that holds everything but takes no part in the holder's stream does not count yet. */
static const char *state_in(const struct status_report *s, const struct replica_view *r, const struct volume_view *v)
{
    if (*v->holder && replica_view_up_to_date(r) && replica_view_joining(r))
        return "joining";
    return replica_view_state(r, s->local ? &s->dir : NULL);
}

static void print_replicas(const struct status_report *s, const struct volume_config *config,
                           const struct volume_view *v)
{
    static const char *const headings[STATUS_COLUMNS] = {"REPLICA", "STATE", "POSITION", "BEHIND BY", "ADDRESS"};
    char *cells[MEMBERS_MAX * STATUS_COLUMNS];
    for (uint32_t i = 0; i < config->n_replicas; i++) {
        const struct replica_view *r = &s->replicas[config->replica[i]];
        int64_t position = replica_view_position(r), behind = replica_view_behind(r, v->commit);
        char **c = &cells[i * STATUS_COLUMNS];
        const char *state = state_in(s, r, v);
        int bad = asprintf(&c[0], "%s", r->config->name) < 0;
        bad |= (*r->why.text ? asprintf(&c[1], "%s: %s", state, r->why.text) : asprintf(&c[1], "%s", state)) < 0;
        bad |= (position < 0 ? asprintf(&c[2], "-") : asprintf(&c[2], "%" PRId64, position)) < 0;
        bad |= (behind < 0 ? asprintf(&c[3], "-") : asprintf(&c[3], "%" PRId64, behind)) < 0;
        bad |= asprintf(&c[4], "%s", r->config->address) < 0;
        if (bad)
            abort();
    }
    print_table(headings, STATUS_COLUMNS, cells, config->n_replicas);
    for (uint32_t i = 0; i < config->n_replicas * STATUS_COLUMNS; i++)
        free(cells[i]);
}

static void print_report(const struct status_report *s)
{
    for (uint32_t i = 0; i < s->dir.conf.n_volumes; i++) {
        const struct volume_config *config = &s->dir.conf.volumes[i];
        struct volume_view v;
        char size[32], redundancy[128];
        volume_view_take(&v, config, s->replicas);
        volume_view_redundancy(&v, redundancy, sizeof redundancy);
        say_size(config->size_bytes, size, sizeof size);
        printf("%s%s: %s, ", i ? "\n" : "", config->name, size);
        if (*v.holder)
            printf("held by %s (lease %.1f s)\n", v.holder, (double)v.lease_ms / 1000);
        else
            printf("held by nobody\n");
        printf("%s\n\n", redundancy);
        print_replicas(s, config, &v);
    }
}

static json_t *report_volume(const struct status_report *s, const struct volume_config *config)
{
    struct volume_view v;
    char redundancy[128];
    volume_view_take(&v, config, s->replicas);
    volume_view_redundancy(&v, redundancy, sizeof redundancy);
    json_t *replicas = json_array();
    for (uint32_t i = 0; i < config->n_replicas; i++) {
        const struct replica_view *r = &s->replicas[config->replica[i]];
        int64_t position = replica_view_position(r), behind = replica_view_behind(r, v.commit);
        json_t *o = json_pack("{s:s, s:s, s:s}", "name", r->config->name, "state", state_in(s, r, &v), "address",
                              r->config->address);
        if (*r->why.text)
            json_object_set_new(o, "error", json_string(r->why.text));
        if (position >= 0)
            json_object_set_new(o, "position", json_integer(position));
        if (behind >= 0)
            json_object_set_new(o, "behind", json_integer(behind));
        if (r->group)
            json_object_set(o, "group", r->group);
        json_array_append_new(replicas, o);
    }
    return json_pack("{s:s, s:I, s:I, s:i, s:i, s:s, s:s, s:I, s:I, s:o}", "name", config->name, "group",
                     (json_int_t)config->group, "size_bytes", (json_int_t)config->size_bytes, "up_to_date",
                     (int)v.n_up_to_date, "of", (int)config->n_replicas, "redundancy", redundancy, "holder", v.holder,
                     "lease_ms", (json_int_t)v.lease_ms, "commit", (json_int_t)v.commit, "replicas", replicas);
}

static void print_report_json(const struct status_report *s)
{
    json_t *volumes = json_array();
    for (uint32_t i = 0; i < s->dir.conf.n_volumes; i++)
        json_array_append_new(volumes, report_volume(s, &s->dir.conf.volumes[i]));
    json_t *o = json_pack("{s:o}", "volumes", volumes);
    json_dumpf(o, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(o);
}

enum { OPTION_DIR = 256, OPTION_CLUSTER, OPTION_JSON };

static const struct argp_option status_options[] = {
    {"dir", OPTION_DIR, "DIR", 0, "A local cluster", 0},
    {"cluster", OPTION_CLUSTER, "FILE", 0, "A cluster's configuration file", 0},
    {"json", OPTION_JSON, NULL, 0, "For programs", 0},
    {0},
};

static error_t parse_status(int key, char *arg, struct argp_state *state)
{
    struct status_args *a = state->input;
    switch (key) {
    case OPTION_DIR:
        a->dir = arg;
        return 0;
    case OPTION_CLUSTER:
        a->cluster = arg;
        return 0;
    case OPTION_JSON:
        a->json = true;
        return 0;
    case ARGP_KEY_END:
        if (!a->dir == !a->cluster)
            argp_error(state, "say which cluster: --dir DIR or --cluster FILE");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static int load(struct status_report *s, const struct status_args *a, struct why *why)
{
    bool exists;
    char text[256];
    if (a->cluster)
        return config_load(a->cluster, &s->dir.conf, text) < 0 ? because(why, "%s", text) : 0;
    s->local = true;
    if (cluster_dir_locate(&s->dir, a->dir, &exists, why) < 0)
        return -1;
    return cluster_dir_load(&s->dir, why);
}

/* The group whose view of a replica is shown: that of the first volume that is placed on it. */
static uint64_t group_of(const struct cluster_config *conf, uint32_t replica)
{
    for (uint32_t i = 0; i < conf->n_volumes; i++)
        for (uint32_t k = 0; k < conf->volumes[i].n_replicas; k++)
            if (conf->volumes[i].replica[k] == replica)
                return conf->volumes[i].group;
    return 0;
}

int command_status(int argc, char **argv)
{
    static const struct argp argp = {
        status_options,
        parse_status,
        NULL,
        "Tells how a cluster is: each volume's redundancy and holder, each replica's state and position.",
        NULL,
        NULL,
        NULL};
    static struct status_report s;
    struct status_args a = {0};
    struct why why;
    argp_parse(&argp, argc, argv, 0, NULL, &a);
    if (load(&s, &a, &why) < 0) {
        fprintf(stderr, "qbd: %s\n", why.text);
        return 1;
    }
    for (uint32_t i = 0; i < s.dir.conf.n_replicas; i++)
        replica_view_take(&s.replicas[i], &s.dir.conf, &s.dir.conf.replicas[i], s.local ? &s.dir : NULL,
                          group_of(&s.dir.conf, i));
    if (a.json)
        print_report_json(&s);
    else
        print_report(&s);
    for (uint32_t i = 0; i < s.dir.conf.n_replicas; i++)
        replica_view_drop(&s.replicas[i]);
    return 0;
}
