/* Asking the daemons how they are: views of replicas and volumes, and the command qbd status. */
#include "tools/status.h"

#include "tools/scrub.h"

#include "base/log.h"

#include <argp.h>
#include <errno.h>
#include <inttypes.h>
#include <libsmartcols.h>
#include <stdio.h>
#include <stdlib.h>

#define ASK_TIMEOUT_MS 1500
#define STATUS_COLUMNS 5
/* What a store keeps back (replica/slabs.c), in slabs of 64 KiB. */
#define RESERVE_WHOLE_SLABS ((INT64_C(2) << 30) >> 16)
#define RESERVE_MIN_SLABS ((INT64_C(256) << 20) >> 16)

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
    replica_view_select(r, group);
}

void replica_view_select(struct replica_view *r, uint64_t group)
{
    size_t i;
    json_t *g;
    r->group = NULL;
    json_array_foreach(json_object_get(r->status, "groups"), i, g) if (json_number_or(g, "group", 0) == (int64_t)group)
        r->group = g;
}

void replica_view_drop(struct replica_view *r)
{
    json_decref(r->status);
}

static bool lists_voter(json_t *voters, const struct uuid *identity)
{
    char id[37];
    size_t i;
    json_t *voter;
    uuid_format(identity, id);
    json_array_foreach(voters, i, voter) if (json_is_string(voter) && strcmp(json_string_value(voter), id) == 0)
        return true;
    return false;
}

/* The membership in force is the one in the group's own log; a replica that does not tell it is believed. */
static bool is_voter(const struct replica_view *r)
{
    json_t *voters = json_object_get(r->group, "voters");
    return json_is_array(voters) ? lists_voter(voters, &r->config->identity) : r->group != NULL;
}

/* A new disk under an old name. */
static bool is_no_member(const struct replica_view *r)
{
    return strncmp(json_text_or(r->status, "state", ""), "not a member", 12) == 0;
}

const char *replica_view_state(const struct replica_view *r, const struct cluster_dir *d)
{
    if (d && r->process.state == PROCESS_GONE)
        return cluster_replica_formatted(d, r->config->name) ? "stopped"
               : d->created                                  ? "lost its data"
                                                             : "not formatted";
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

bool replica_view_streams(const struct replica_view *r)
{
    return is_voter(r) && json_is_true(json_object_get(r->group, "in_stream"));
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

/* The group's own size and members are those of the replica that knows most of its log. */
static void see_group(struct volume_view *v, const struct replica_view *r)
{
    uint64_t commit = (uint64_t)json_number_or(r->group, "commit", 0);
    if (!r->group || (v->exists && commit < v->commit))
        return;
    json_t *voters = json_object_get(r->group, "voters");
    v->exists = true;
    v->commit = commit;
    v->size_bytes = (uint64_t)json_number_or(r->group, "size_bytes", (int64_t)v->config->size_bytes);
    if (json_array_size(voters) > 0) {
        v->voters = voters;
        v->n_voters = (uint32_t)json_array_size(voters);
    }
}

/* It may have a group of that number, created by mistake beside the real one. */
static bool is_stranger(const struct volume_view *v, const struct replica_view *r)
{
    return v->voters && !lists_voter(v->voters, &r->config->identity);
}

/* Whether what it holds of the group is gone for good. */
static bool is_lost(const struct volume_view *v, const struct replica_view *r)
{
    if (is_stranger(v, r))
        return true;
    if (r->status) /* one that needs a copy gets it by itself */
        return is_no_member(r) || (strcmp(json_text_or(r->status, "state", "up"), "up") == 0 && !is_voter(r));
    return r->local && r->local->created && r->process.state == PROCESS_GONE &&
           !cluster_replica_formatted(r->local, r->config->name);
}

/* Nothing to give away (store.md "Space"): all but what is promised and the store's own reserve is taken, and no
 * extent is being made. */
static bool has_no_space(const struct replica_view *r)
{
    json_t *store = json_object_get(r->status, "store");
    int64_t total = json_number_or(store, "slabs_total", 0), free_slabs = json_number_or(store, "slabs_free", total);
    int64_t kept = total < RESERVE_WHOLE_SLABS ? total / 8 : total / 64;
    if (total >= RESERVE_WHOLE_SLABS && kept < RESERVE_MIN_SLABS)
        kept = RESERVE_MIN_SLABS;
    return r->group && total > 0 && free_slabs <= json_number_or(store, "slabs_reserved", 0) + kept &&
           !json_is_true(json_object_get(store, "growing"));
}

/* While somebody streams, who takes no part in it does not count; while nobody does, holding all that any replica
 * knows to be chosen is enough. */
static bool counts(const struct volume_view *v, const struct replica_view *r)
{
    if (!replica_view_up_to_date(r) || is_stranger(v, r))
        return false;
    return v->streams ? replica_view_streams(r) : replica_view_behind(r, v->commit) <= 0;
}

void volume_view_take(struct volume_view *v, const struct volume_config *config, struct replica_view *replicas)
{
    *v = (struct volume_view){
        .config = config, .holder = "", .size_bytes = config->size_bytes, .n_voters = config->n_replicas};
    uint64_t round = 0;
    uint32_t n_kept = 0, n_asked = 0;
    bool created = false;
    for (uint32_t i = 0; i < config->n_replicas; i++) {
        struct replica_view *r = &replicas[config->replica[i]];
        replica_view_select(r, config->group);
        see_group(v, r);
        see_holder(v, r, &round);
        v->streams |= replica_view_streams(r);
        v->n_answering += r->status != NULL;
        n_asked += r->status && (is_no_member(r) || strcmp(json_text_or(r->status, "state", "up"), "up") == 0);
        created |= r->local && r->local->created;
    }
    for (uint32_t i = 0; i < config->n_replicas; i++) {
        const struct replica_view *r = &replicas[config->replica[i]];
        v->n_up_to_date += counts(v, r);
        n_kept += !is_lost(v, r);
        v->n_full += has_no_space(r);
    }
    v->n_lost = v->n_voters > n_kept ? v->n_voters - n_kept : 0;
    /* Only when all were asked: those that do not answer may have it. */
    v->not_created = !v->exists && !created && n_asked == config->n_replicas;
}

const char *volume_view_state(const struct volume_view *v, const struct replica_view *r)
{
    if (replica_view_up_to_date(r) && is_stranger(v, r))
        return "not a member";
    if (v->streams && replica_view_up_to_date(r) && !replica_view_streams(r))
        return "joining";
    if (!v->streams && replica_view_up_to_date(r) && !counts(v, r))
        return "behind";
    const char *state = replica_view_state(r, r->local);
    bool empty = !r->group && v->exists && strcmp(state, "not a member") == 0;
    return empty ? "not a member: needs rebuild" : state; /* the volume is there, and this disk has nothing of it */
}

void volume_view_redundancy(const struct volume_view *v, char *buf, size_t cap)
{
    uint32_t n = v->n_voters, majority = n / 2 + 1;
    if (v->not_created) {
        snprintf(buf, cap, "not created");
        return;
    }
    int used = snprintf(buf, cap, "%" PRIu32 " of %" PRIu32 " replicas up to date", v->n_up_to_date, n);
    if (v->n_up_to_date > majority)
        used += snprintf(buf + used, cap - (size_t)used, "; any %" PRIu32 " may fail", v->n_up_to_date - majority);
    else if (v->n_up_to_date == majority)
        used += snprintf(buf + used, cap - (size_t)used, "; none of them may fail");
    else if (v->n_lost > n - majority)
        used += snprintf(buf + used, cap - (size_t)used, "; a majority is lost: %" PRIu32 " replicas need a rebuild",
                         v->n_lost);
    else
        used += snprintf(buf + used, cap - (size_t)used, "; requests wait for %" PRIu32 " more",
                         majority - v->n_up_to_date);
    if (v->n_full >= majority)
        snprintf(buf + used, cap - (size_t)used, "; no space: writes get ENOSPC");
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
    const char *cluster; /* the file's name, when it is not local */
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

void replica_view_describe(const struct replica_view *r, const char *state, char *buf, size_t cap)
{
    json_t *copy = json_object_get(r->group, "copy");
    int64_t done = json_number_or(copy, "done_bytes", 0), left = json_number_or(copy, "left_bytes", 0),
            rate = json_number_or(copy, "rate_bytes_per_s", 0), eta = json_number_or(copy, "eta_s", -1);
    const char *refused = json_text_or(copy, "refused", "");
    char left_text[32], rate_text[32];
    int used = snprintf(buf, cap, "%s", state);
    if (!copy || used < 0 || (size_t)used >= cap)
        return;
    if (*refused) {
        snprintf(buf + used, cap - (size_t)used, ": %s", refused);
        return;
    }
    if (strcmp(state, "copying") != 0 || done + left == 0)
        return;
    say_size((uint64_t)left, left_text, sizeof left_text);
    say_size((uint64_t)rate, rate_text, sizeof rate_text);
    used += snprintf(buf + used, cap - (size_t)used, ", %" PRId64 " %%, at most %s left", done * 100 / (done + left), left_text);
    if (rate > 0 && eta >= 0 && (size_t)used < cap)
        snprintf(buf + used, cap - (size_t)used, " at %s/s: %" PRId64 " s", rate_text, eta);
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
        char state[256];
        replica_view_describe(r, volume_view_state(v, r), state, sizeof state);
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

static void print_holder(const struct volume_view *v)
{
    const char *idle = !v->streams && v->n_up_to_date > v->n_voters / 2 ? "no front end is connected" : NULL;
    if (v->n_answering == 0)
        printf("holder unknown: no replica answers\n");
    else if (*v->holder)
        printf("held by %s (lease %.1f s)%s%s\n", v->holder, (double)v->lease_ms / 1000, idle ? "; " : "",
               idle ? idle : "");
    else
        printf("%s\n", idle ? idle : "held by nobody");
}

static void print_warnings(const struct volume_view *v)
{
    char has[32], says[32];
    say_size(v->size_bytes, has, sizeof has);
    say_size(v->config->size_bytes, says, sizeof says);
    if (v->size_bytes != v->config->size_bytes)
        printf("warning: the volume has %s (%" PRIu64 " bytes), the configuration says %s (%" PRIu64 " bytes)\n", has,
               v->size_bytes, says, v->config->size_bytes);
    if (v->n_voters != v->config->n_replicas)
        printf("warning: the volume has %" PRIu32 " members, the configuration says %" PRIu32 "\n", v->n_voters,
               v->config->n_replicas);
}

static void print_report(struct status_report *s)
{
    for (uint32_t i = 0; i < s->dir.conf.n_volumes; i++) {
        const struct volume_config *config = &s->dir.conf.volumes[i];
        struct volume_view v;
        char size[32], redundancy[192];
        volume_view_take(&v, config, s->replicas);
        volume_view_redundancy(&v, redundancy, sizeof redundancy);
        printf("%s", i ? "\n" : "");
        if (v.not_created) {
            printf("%s: not created (qbd volume create --cluster %s %s)\n", config->name,
                   s->cluster ? s->cluster : cluster_path(&s->dir, "", "cluster.conf", "").s, config->name);
            continue;
        }
        say_size(v.size_bytes, size, sizeof size);
        printf("%s: %s, ", config->name, size);
        print_holder(&v);
        printf("%s\n", redundancy);
        print_warnings(&v);
        printf("\n");
        print_replicas(s, config, &v);
        scrub_print_last(config, s->replicas);
    }
}

static json_t *report_volume(struct status_report *s, const struct volume_config *config)
{
    struct volume_view v;
    char redundancy[192];
    volume_view_take(&v, config, s->replicas);
    volume_view_redundancy(&v, redundancy, sizeof redundancy);
    json_t *replicas = json_array();
    for (uint32_t i = 0; i < config->n_replicas; i++) {
        const struct replica_view *r = &s->replicas[config->replica[i]];
        int64_t position = replica_view_position(r), behind = replica_view_behind(r, v.commit);
        json_t *o = json_pack("{s:s, s:s, s:s}", "name", r->config->name, "state", volume_view_state(&v, r), "address",
                              r->config->address);
        if (*r->why.text)
            json_object_set_new(o, "error", json_string(r->why.text));
        if (position >= 0)
            json_object_set_new(o, "position", json_integer(position));
        if (behind >= 0)
            json_object_set_new(o, "behind", json_integer(behind));
        if (r->group)
            json_object_set(o, "group", r->group);
        if (json_object_get(r->status, "scrub"))
            json_object_set(o, "scrub", json_object_get(r->status, "scrub"));
        json_array_append_new(replicas, o);
    }
    return json_pack("{s:s, s:I, s:I, s:b, s:i, s:i, s:i, s:i, s:s, s:s, s:I, s:b, s:I, s:o}", "name", config->name,
                     "group", (json_int_t)config->group, "size_bytes", (json_int_t)v.size_bytes, "created",
                     !v.not_created, "up_to_date", (int)v.n_up_to_date, "of", (int)v.n_voters, "answering",
                     (int)v.n_answering, "lost", (int)v.n_lost, "redundancy", redundancy, "holder", v.holder,
                     "lease_ms", (json_int_t)v.lease_ms, "in_use", v.streams, "commit", (json_int_t)v.commit,
                     "replicas", replicas);
}

static void print_report_json(struct status_report *s)
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
    case ARGP_KEY_INIT:
        arguments_quiet(state);
        return 0;
    case ARGP_KEY_ARG:
        usage_error(state, "what is \"%s\" for?", arg);
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
        if (!a->dir == !a->cluster || !*(a->dir ? a->dir : a->cluster))
            usage_error(state, "say which cluster: --dir DIR or --cluster FILE");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static int load(struct status_report *s, const struct status_args *a, struct why *why)
{
    bool exists;
    char text[256];
    s->cluster = a->cluster;
    if (a->cluster && client_require_file(a->cluster, why) < 0)
        return -1;
    if (a->cluster)
        return config_load(a->cluster, &s->dir.conf, text) < 0 ? because(why, "%s", text) : 0;
    s->local = true;
    if (cluster_dir_locate(&s->dir, a->dir, &exists, why) < 0)
        return -1;
    return cluster_dir_load(&s->dir, why);
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
    parse_arguments(&argp, argc, argv, &a);
    if (load(&s, &a, &why) < 0) {
        fprintf(stderr, "qbd: %s\n", why.text);
        return 1;
    }
    for (uint32_t i = 0; i < s.dir.conf.n_replicas; i++)
        replica_view_take(&s.replicas[i], &s.dir.conf, &s.dir.conf.replicas[i], s.local ? &s.dir : NULL,
                          0);
    if (a.json)
        print_report_json(&s);
    else
        print_report(&s);
    for (uint32_t i = 0; i < s.dir.conf.n_replicas; i++)
        replica_view_drop(&s.replicas[i]);
    return 0;
}
