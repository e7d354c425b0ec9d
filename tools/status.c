/* The command qbd status: what the daemons say (view.c), as tables for people or as JSON. */
#include "tools/status.h"

#include "tools/scrub.h"
#include "tools/which_cluster.h"

#include "base/log.h"

#include <argp.h>
#include <errno.h>
#include <inttypes.h>
#include <libsmartcols.h>
#include <stdio.h>
#include <stdlib.h>

#define STATUS_COLUMNS 5

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
    struct which_cluster which;
    bool json;
};

struct status_report {
    struct cluster_dir dir; /* its conf is the configuration either way */
    const char *cluster; /* the file's name, or NULL: it is local */
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
    else if (v->unnamed_lease_ms > 0) /* a replica that was away when the lease was promised has not heard the name */
        printf("held by a front end (lease %.1f s)\n", (double)v->unnamed_lease_ms / 1000);
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

enum { OPTION_JSON = 256 };

static const struct argp_option status_options[] = {
    {"json", OPTION_JSON, NULL, 0, "For programs", 0},
    {0},
};

static error_t parse_status(int key, char *arg, struct argp_state *state)
{
    struct status_args *a = state->input;
    switch (key) {
    case OPTION_JSON:
        a->json = true;
        return 0;
    default:
        return which_cluster_parse(key, arg, state, &a->which);
    }
}

int command_status(int argc, char **argv)
{
    static const struct argp argp = {
        .options = status_options,
        .parser = parse_status,
        .doc = "Tells how a cluster is: each volume's redundancy and holder, each replica's state and position.",
        .children = which_cluster_children,
    };
    static struct status_report s;
    struct status_args a = {0};
    struct why why;
    parse_arguments(&argp, argc, argv, &a);
    s.cluster = a.which.file;
    int err = which_cluster_load(&a.which, &s.dir, &why);
    if (err)
        return command_end("qbd", err, &why);
    for (uint32_t i = 0; i < s.dir.conf.n_replicas; i++)
        replica_view_take(&s.replicas[i], &s.dir.conf, &s.dir.conf.replicas[i], s.cluster ? NULL : &s.dir, 0);
    if (a.json)
        print_report_json(&s);
    else
        print_report(&s);
    for (uint32_t i = 0; i < s.dir.conf.n_replicas; i++)
        replica_view_drop(&s.replicas[i]);
    return 0;
}
