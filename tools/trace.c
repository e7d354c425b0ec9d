/* The command qbd trace: where writes spend their time now, and which member makes them slow.
 *
 * Front ends and replicas note the times of one write in 64, the same ones, by slot; their status has sums over them and the newest few. Asked twice, the difference is the interval between. Of a replica that
 * is remote nothing is compared but durations: clocks of two machines are not.
 *
 * What always holds: what a daemon did not tell is shown as "-", never guessed. */
#include "tools/status.h"
#include "tools/which_cluster.h"

#include <argp.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define ASK_TIMEOUT_MS 1500u
#define INTERVAL_DEFAULT_MS 1000u
#define COLUMNS 10u
#define PARTS 4u

static const char *const part_key[PARTS] = {"receive_us", "wait_us", "disk_us", "answer_us"};

struct frontend_address {
    char name[NAME_MAX_BYTES];
    char address[CONFIG_ADDRESS_MAX];
};

struct trace_args {
    struct which_cluster which;
    const char *volume;
    uint32_t interval_ms, count;
    bool json;
    struct frontend_address frontends[FRONTENDS_MAX];
    uint32_t n_frontends;
};

/* What all daemons said at one time. */
struct round {
    json_t *frontends[FRONTENDS_MAX];
    struct why why[FRONTENDS_MAX];
    struct replica_view replicas[CONFIG_REPLICAS_MAX];
};

struct tracing {
    struct trace_args *args;
    struct cluster_dir dir;
    struct round round[2];
    bool tty;
};

/* ---- asking ---- */

static void round_take(struct tracing *t, struct round *r)
{
    static const struct uuid any;
    const struct cluster_config *conf = &t->dir.conf;
    for (uint32_t i = 0; i < t->args->n_frontends; i++)
        r->frontends[i] = client_status(t->args->frontends[i].address, &conf->id, &any, ASK_TIMEOUT_MS, &r->why[i]);
    for (uint32_t i = 0; i < conf->n_replicas; i++)
        replica_view_take(&r->replicas[i], conf, &conf->replicas[i], t->args->which.file ? NULL : &t->dir, 0);
}

static void round_drop(struct tracing *t, struct round *r)
{
    for (uint32_t i = 0; i < t->args->n_frontends; i++)
        json_decref(r->frontends[i]);
    for (uint32_t i = 0; i < t->dir.conf.n_replicas; i++)
        replica_view_drop(&r->replicas[i]);
    memset(r, 0, sizeof *r);
}

static json_t *named(json_t *array, const char *name)
{
    size_t i;
    json_t *o;
    json_array_foreach(array, i, o) if (strcmp(json_text_or(o, "name", ""), name) == 0) return o;
    return NULL;
}

/* ---- differences ---- */

/* now − before of a key; −1: not told, or the daemon began anew meanwhile. */
static int64_t more(json_t *before, json_t *now, const char *key)
{
    int64_t a = json_number_or(before, key, -1), b = json_number_or(now, key, -1);
    return a < 0 || b < a ? -1 : b - a;
}

static double mean(json_t *before, json_t *now, const char *sum, const char *n)
{
    int64_t of = more(before, now, n), s = more(before, now, sum);
    return of > 0 && s >= 0 ? (double)s / (double)of : -1;
}

struct part_report {
    const char *name;
    int64_t acks, decided;
    double ack_us, part_us[PARTS], ways_us;
};

struct volume_report {
    const char *volume, *frontend;
    int64_t writes;
    double prepare_us, quorum_us, reply_us;
    uint32_t n_parts;
    struct part_report part[MEMBERS_MAX * 2];
    json_t *samples; /* borrowed: the front end's */
};

static json_t *group_trace(struct tracing *t, struct round *r, const char *replica, uint64_t group)
{
    for (uint32_t i = 0; i < t->dir.conf.n_replicas; i++) {
        struct replica_view *v = &r->replicas[i];
        if (strcmp(v->config->name, replica) != 0)
            continue;
        replica_view_select(v, group);
        return json_object_get(v->group, "trace");
    }
    return NULL;
}

static void report_part(struct tracing *t, struct part_report *p, uint64_t group, json_t *before, json_t *now)
{
    p->name = json_text_or(now, "name", "?");
    p->acks = more(before, now, "traced_acks");
    p->decided = more(before, now, "traced_decided");
    p->ack_us = mean(before, now, "traced_ack_us", "traced_acks");
    json_t *was = group_trace(t, &t->round[0], p->name, group), *is = group_trace(t, &t->round[1], p->name, group);
    double own = 0;
    for (unsigned k = 0; k < PARTS; k++) {
        p->part_us[k] = mean(was, is, part_key[k], "writes");
        own = p->part_us[k] < 0 ? -1 : own + p->part_us[k];
    }
    p->ways_us = p->ack_us < 0 || p->part_us[PARTS - 1] < 0 ? -1 : p->ack_us > own ? p->ack_us - own : 0;
}

static void report_volume(struct tracing *t, struct volume_report *v, const char *frontend, json_t *before, json_t *now)
{
    json_t *was = json_object_get(before, "trace"), *is = json_object_get(now, "trace"), *replica;
    size_t i;
    *v = (struct volume_report){.frontend = frontend, .volume = json_text_or(now, "name", "?"), .samples = json_object_get(is, "samples")};
    v->writes = more(was, is, "writes");
    v->prepare_us = mean(was, is, "prepare_us", "writes");
    v->quorum_us = mean(was, is, "quorum_us", "writes");
    v->reply_us = mean(was, is, "reply_us", "writes");
    json_array_foreach(json_object_get(now, "replicas"), i, replica)
    {
        if (v->n_parts == ARRAY_LEN(v->part))
            break;
        report_part(t, &v->part[v->n_parts++], (uint64_t)json_number_or(now, "group", 0),
                    named(json_object_get(before, "replicas"), json_text_or(replica, "name", "")), replica);
    }
}

/* ---- for people ---- */

static char *cell(double us)
{
    char *s;
    if ((us < 0 ? asprintf(&s, "-") : asprintf(&s, us < 100 ? "%.1f" : "%.0f", us)) < 0)
        abort();
    return s;
}

static void print_parts(const struct volume_report *v)
{
    static const char *const headings[COLUMNS] = {"REPLICA", "ACKS", "DECIDED", "ACK AFTER", "= RECEIVE", "+ WAIT", "+ DISK", "+ ANSWER", "+ WAYS", ""};
    char *cells[ARRAY_LEN(v->part) * COLUMNS];
    double slowest = 0;
    for (uint32_t i = 0; i < v->n_parts; i++)
        slowest = v->part[i].ack_us > slowest ? v->part[i].ack_us : slowest;
    for (uint32_t i = 0; i < v->n_parts; i++) {
        const struct part_report *p = &v->part[i];
        char **c = &cells[i * COLUMNS];
        bool bad = asprintf(&c[0], "%s", p->name) < 0;
        bad |= (p->acks < 0 ? asprintf(&c[1], "-") : asprintf(&c[1], "%" PRId64, p->acks)) < 0;
        bad |= (p->decided < 0 || v->writes <= 0 ? asprintf(&c[2], "-") : asprintf(&c[2], "%" PRId64 " %%", p->decided * 100 / v->writes)) < 0;
        c[3] = cell(p->ack_us);
        for (unsigned k = 0; k < PARTS; k++)
            c[4 + k] = cell(p->part_us[k]);
        c[8] = cell(p->ways_us);
        bad |= asprintf(&c[9], "%.*s", slowest > 0 && p->ack_us > 0 ? (int)(p->ack_us * 20 / slowest) : 0, "####################") < 0;
        if (bad)
            abort();
    }
    print_table(headings, COLUMNS, cells, v->n_parts);
    for (uint32_t i = 0; i < v->n_parts * COLUMNS; i++)
        free(cells[i]);
}

/* Of the newest samples the one that took longest: who was late? */
static void print_slowest(const struct volume_report *v)
{
    size_t i;
    json_t *s, *slowest = NULL;
    const char *name;
    json_t *us;
    json_array_foreach(v->samples, i, s)
    {
        json_t *quorum = json_array_get(s, 3), *most = json_array_get(slowest, 3);
        if (json_is_integer(quorum) && (!slowest || json_integer_value(quorum) > json_integer_value(most)))
            slowest = s;
    }
    if (!slowest)
        return;
    printf("slowest of the newest %zu: slot %" JSON_INTEGER_FORMAT ", %" JSON_INTEGER_FORMAT " us to a majority;", json_array_size(v->samples),
           json_integer_value(json_array_get(slowest, 0)), json_integer_value(json_array_get(slowest, 3)));
    json_object_foreach(json_array_get(slowest, 5), name, us) printf(" %s %" JSON_INTEGER_FORMAT, name, json_integer_value(us));
    printf("\n");
}

static void print_volume(const struct volume_report *v)
{
    printf("volume %s at %s: ", v->volume, v->frontend);
    if (v->writes <= 0) {
        printf("%s\n", v->writes < 0 ? "it tells of no writes (it began just now)" : "no sampled write (one of 64 is)");
        return;
    }
    printf("%" PRId64 " sampled writes; means in us: prepare %.1f, quorum %.1f, reply %.1f\n", v->writes, v->prepare_us, v->quorum_us, v->reply_us);
    print_parts(v);
    print_slowest(v);
}

/* ---- for programs ---- */

static void set_real(json_t *o, const char *key, double us)
{
    json_object_set_new(o, key, us < 0 ? json_null() : json_real(us));
}

static json_t *volume_json(const struct volume_report *v)
{
    json_t *replicas = json_array();
    json_t *o = json_pack("{s:s, s:s, s:I, s:o}", "name", v->volume, "frontend", v->frontend, "writes", (json_int_t)(v->writes < 0 ? 0 : v->writes), "replicas", replicas);
    set_real(o, "prepare_us", v->prepare_us);
    set_real(o, "quorum_us", v->quorum_us);
    set_real(o, "reply_us", v->reply_us);
    for (uint32_t i = 0; i < v->n_parts; i++) {
        const struct part_report *p = &v->part[i];
        json_t *r = json_pack("{s:s, s:I, s:I}", "name", p->name, "acks", (json_int_t)(p->acks < 0 ? 0 : p->acks), "decided",
                              (json_int_t)(p->decided < 0 ? 0 : p->decided));
        set_real(r, "ack_us", p->ack_us);
        for (unsigned k = 0; k < PARTS; k++)
            set_real(r, part_key[k], p->part_us[k]);
        set_real(r, "ways_us", p->ways_us);
        json_array_append_new(replicas, r);
    }
    if (v->samples)
        json_object_set(o, "samples", v->samples);
    return o;
}

/* ---- the command ---- */

static uint32_t report(struct tracing *t)
{
    struct trace_args *a = t->args;
    json_t *volumes = json_array();
    uint32_t n = 0;
    if (t->tty && !a->json)
        printf("\033[H\033[J");
    for (uint32_t i = 0; i < a->n_frontends; i++) {
        size_t k;
        json_t *volume;
        if (!t->round[1].frontends[i]) {
            fprintf(stderr, "qbd trace: %s: %s\n", a->frontends[i].name, t->round[1].why[i].text);
            continue;
        }
        json_array_foreach(json_object_get(t->round[1].frontends[i], "volumes"), k, volume)
        {
            struct volume_report v;
            const char *name = json_text_or(volume, "name", "?");
            if (a->volume && strcmp(a->volume, name) != 0)
                continue;
            report_volume(t, &v, a->frontends[i].name, named(json_object_get(t->round[0].frontends[i], "volumes"), name), volume);
            n++;
            if (a->json)
                json_array_append_new(volumes, volume_json(&v));
            else
                print_volume(&v);
        }
    }
    if (a->json) {
        json_t *o = json_pack("{s:i, s:O}", "interval_ms", (int)a->interval_ms, "volumes", volumes);
        json_dumpf(o, stdout, JSON_COMPACT);
        putchar('\n');
        json_decref(o);
    }
    json_decref(volumes);
    fflush(stdout);
    return n;
}

static uint32_t parse_count(const struct argp_state *state, const char *what, const char *arg, uint32_t max)
{
    char *end;
    errno = 0;
    unsigned long n = strtoul(arg, &end, 10);
    if (errno || *end || end == arg || arg[0] == '-' || n < 1 || n > max)
        usage_error(state, "%s takes a number from 1 to %" PRIu32 ", not \"%s\"", what, max, arg);
    return (uint32_t)n;
}

enum { OPTION_JSON = 256, OPTION_INTERVAL, OPTION_COUNT, OPTION_FRONTEND };

static const struct argp_option options[] = {
    {"interval", OPTION_INTERVAL, "MS", 0, "Time between two looks (default: 1000)", 1},
    {"count", OPTION_COUNT, "N", 0, "End after so many (default: go on; with --json: 1)", 1},
    {"json", OPTION_JSON, NULL, 0, "For programs: an object per look", 1},
    {"frontend", OPTION_FRONTEND, "ADDR", 0, "The status address of a front end (a local cluster knows its own); again for more", 1},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct trace_args *a = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        arguments_quiet(state);
        state->child_inputs[0] = &a->which;
        return 0;
    case OPTION_JSON:
        a->json = true;
        return 0;
    case OPTION_INTERVAL:
        a->interval_ms = parse_count(state, "--interval", arg, 3600000);
        return 0;
    case OPTION_COUNT:
        a->count = parse_count(state, "--count", arg, 1000000);
        return 0;
    case OPTION_FRONTEND: {
        if (a->n_frontends == FRONTENDS_MAX)
            usage_error(state, "at most %d front ends", FRONTENDS_MAX);
        if (strlen(arg) >= CONFIG_ADDRESS_MAX)
            usage_error(state, "the address is too long: %s", arg);
        struct frontend_address *f = &a->frontends[a->n_frontends++];
        snprintf(f->address, sizeof f->address, "%s", arg);
        snprintf(f->name, sizeof f->name, "%.*s", (int)sizeof f->name - 1, arg);
        return 0;
    }
    case ARGP_KEY_ARG:
        if (a->volume)
            usage_error(state, "one volume, or all");
        a->volume = arg;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static void own_frontends(struct tracing *t)
{
    for (uint32_t i = 0; i < t->dir.n_frontends && t->args->n_frontends < FRONTENDS_MAX; i++) {
        struct frontend_address *f = &t->args->frontends[t->args->n_frontends++];
        snprintf(f->name, sizeof f->name, "%s", t->dir.frontends[i].name);
        cluster_socket_address(&t->dir, t->dir.frontends[i].name, "status", f->address);
    }
}

int command_trace(int argc, char **argv)
{
    static const struct argp argp = {
        .options = options,
        .parser = parse,
        .args_doc = "[VOLUME]",
        .doc = "Shows, again and again, where writes spent their time since the look before: in the front end (prepare: until a write has its slot; quorum: until a majority of the replicas has it; reply), and "
               "at each replica: its acknowledgement came after so long, of which it was receiving, waiting for its log, writing its log (disk) and answering; the rest are the ways there and back. "
               "DECIDED: how often it was this replica's acknowledgement that made the majority.",
        .children = which_cluster_children,
    };
    static struct tracing t;
    static struct trace_args a = {.interval_ms = INTERVAL_DEFAULT_MS};
    struct why why;
    parse_arguments(&argp, argc, argv, &a);
    t.args = &a;
    t.tty = isatty(STDOUT_FILENO);
    if (which_cluster_load(&a.which, &t.dir, &why) < 0) {
        fprintf(stderr, "qbd: %s\n", why.text);
        return 1;
    }
    own_frontends(&t);
    if (a.n_frontends == 0) {
        fprintf(stderr, "qbd trace: no front end is known: say --frontend ADDR\n");
        return 1;
    }
    if (a.json && a.count == 0)
        a.count = 1;
    round_take(&t, &t.round[0]);
    uint32_t shown = 0;
    for (uint32_t i = 0; a.count == 0 || i < a.count; i++) {
        sleep_ms(a.interval_ms);
        round_take(&t, &t.round[1]);
        shown += report(&t);
        round_drop(&t, &t.round[0]);
        t.round[0] = t.round[1];
        memset(&t.round[1], 0, sizeof t.round[1]);
    }
    round_drop(&t, &t.round[0]);
    return shown > 0 ? 0 : 1;
}
