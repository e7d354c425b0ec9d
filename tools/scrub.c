/* qbd scrub: has all replicas read back what they hold and compare it, follows them, and says what came of it.
 *
 * The replicas do the work, each on its own; this command may be ended at any time and begun again. */
#include "tools/scrub.h"

#include "tools/which_cluster.h"

#include <argp.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define ASK_TIMEOUT_MS 5000u
#define POLL_MS 300u
#define GONE_MS 30000u /* a replica that does not answer for so long is given up */
#define SCRUB_COLUMNS 6

struct scrub_args {
    struct which_cluster which;
    const char *volume;
    bool now;
};

struct target {
    const struct replica_config *config;
    int64_t pass;
    int64_t uptime_ms; /* when it was asked last */
    uint64_t answered_ms;
    json_t *now, *last; /* of the status; borrowed from it, or NULL */
    json_t *status;
    bool over, failed;
    struct why why; /* failed: why */
};

static void human(uint64_t bytes, char *buf, size_t cap)
{
    static const char *const unit[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
    unsigned u = 0;
    double v = (double)bytes;
    for (; v >= 1024 && u + 1 < ARRAY_LEN(unit); u++)
        v /= 1024;
    snprintf(buf, cap, u ? "%.1f %s" : "%.0f %s", v, unit[u]);
}

static const char *volume_of(const struct cluster_config *conf, uint64_t group, char buf[32])
{
    for (uint32_t i = 0; i < conf->n_volumes; i++)
        if (conf->volumes[i].group == group)
            return conf->volumes[i].name;
    snprintf(buf, 32, "group %" PRIu64, group);
    return buf;
}

/* ---- for qbd status ---- */

static void ago(int64_t at, char *buf, size_t cap)
{
    int64_t s = (int64_t)time(NULL) - at;
    if (at == 0)
        snprintf(buf, cap, "never");
    else if (s < 120)
        snprintf(buf, cap, "%" PRId64 " s ago", s < 0 ? 0 : s);
    else if (s < 7200)
        snprintf(buf, cap, "%" PRId64 " min ago", s / 60);
    else if (s < 172800)
        snprintf(buf, cap, "%" PRId64 " h ago", s / 3600);
    else
        snprintf(buf, cap, "%" PRId64 " days ago", s / 86400);
}

static int64_t last_done(json_t *scrub, uint64_t group)
{
    size_t i;
    json_t *g;
    json_array_foreach(json_object_get(scrub, "groups"), i, g) if (json_number_or(g, "group", 0) == (int64_t)group)
        return json_number_or(g, "last_done_at", 0);
    return -1;
}

static int64_t blocks_of(json_t *ranges, uint64_t group)
{
    size_t i;
    json_t *range;
    int64_t n = 0;
    json_array_foreach(ranges, i, range) if (json_number_or(range, "group", 0) == (int64_t)group)
        n += json_number_or(range, "blocks", 0);
    return n;
}

void scrub_print_last(const struct volume_config *v, const struct replica_view *replicas)
{
    bool any = false;
    for (uint32_t i = 0; i < v->n_replicas; i++) {
        const struct replica_view *r = &replicas[v->replica[i]];
        json_t *scrub = json_object_get(r->status, "scrub"), *last = json_object_get(scrub, "last");
        int64_t at = last_done(scrub, v->group);
        char text[32];
        if (at < 0)
            continue;
        ago(at, text, sizeof text);
        printf("%s%s %s", any ? ", " : "scrubbed: ", r->config->name, text);
        any = true;
        int64_t bad = blocks_of(json_object_get(last, "unrepaired"), v->group),
                differ = blocks_of(json_object_get(last, "undecided"), v->group);
        if (bad > 0)
            printf(" (%" PRId64 " damaged blocks could not be repaired)", bad);
        if (differ > 0)
            printf(" (%" PRId64 " blocks differ between replicas)", differ);
    }
    if (any)
        printf("\n");
}

/* ---- asking ---- */

static void begin(const struct cluster_config *conf, struct target *t, uint64_t group, bool now)
{
    struct client c;
    struct msg m = {.type = MSG_SCRUB, .group = group, .target = t->config->identity}, answer;
    m.u.scrub.flags = now ? SCRUB_AT_FULL_RATE : 0;
    t->failed = true;
    if (client_open(&c, t->config->address, &conf->id, &t->config->identity, ASK_TIMEOUT_MS, &t->why) < 0)
        return;
    if (client_call(&c, &m, MSG_DONE, &answer, &t->why) == 0) {
        t->pass = strtoll(answer.u.done.text, NULL, 10);
        t->failed = answer.u.done.error != 0 || t->pass <= 0;
        if (t->failed)
            because(&t->why, "%s", answer.u.done.text);
    }
    t->answered_ms = now_ms();
    client_close(&c);
}

static void give_up(struct target *t)
{
    t->failed = true;
    t->now = NULL;
}

static void look(const struct cluster_config *conf, struct target *t)
{
    struct why why = {""};
    json_t *status = client_status(t->config->address, &conf->id, &t->config->identity, ASK_TIMEOUT_MS, &why);
    if (!status) {
        if (now_ms() - t->answered_ms >= GONE_MS) {
            because(&t->why, "it went away: %s", why.text);
            give_up(t);
        }
        return;
    }
    json_decref(t->status);
    t->status = status;
    t->answered_ms = now_ms();
    json_t *scrub = json_object_get(status, "scrub");
    int64_t uptime = json_number_or(status, "uptime_ms", 0);
    t->now = json_object_get(scrub, "now");
    t->last = json_object_get(scrub, "last");
    if (json_number_or(t->now, "pass", 0) < t->pass)
        t->now = NULL; /* another pass comes first */
    if (uptime < t->uptime_ms) {
        because(&t->why, "it was restarted meanwhile: run this again");
        give_up(t);
    }
    t->uptime_ms = uptime;
    t->over = json_number_or(t->last, "pass", 0) >= t->pass;
}

/* ---- progress ---- */

static void print_progress(const struct target *t, uint32_t n, uint64_t started_ms)
{
    uint64_t done = 0, total = 0, bad = 0;
    uint32_t over = 0;
    for (uint32_t i = 0; i < n; i++) {
        json_t *o = t[i].over ? t[i].last : t[i].now;
        uint64_t all = (uint64_t)json_number_or(o, "total_bytes", 0), read = (uint64_t)json_number_or(o, "done_bytes", 0);
        total += all;
        done += t[i].over || read > all ? all : read;
        bad += (uint64_t)(json_number_or(o, "bad_blocks", 0) + json_number_or(o, "lost_blocks", 0));
        over += t[i].over || t[i].failed;
    }
    char a[24], b[24], rate[24];
    uint64_t ms = now_ms() - started_ms;
    human(done, a, sizeof a);
    human(total, b, sizeof b);
    human(ms ? done * 1000 / ms : 0, rate, sizeof rate);
    unsigned percent = total ? (unsigned)(done * 100 / total) : 0;
    printf("\r%3u %%  %s of %s  %s/s  %" PRIu32 " of %" PRIu32 " replicas done  %" PRIu64 " bad blocks found\033[K", percent, a, b, rate, over, n, bad);
    fflush(stdout);
}

/* ---- the end ---- */

static void print_ranges(const struct cluster_config *conf, const struct target *t, const char *list, const char *what, const char *lost)
{
    size_t i;
    json_t *range;
    json_array_foreach(json_object_get(t->last, list), i, range)
    {
        char buf[32];
        int64_t block = json_number_or(range, "block", 0), blocks = json_number_or(range, "blocks", 0);
        bool is_lost = json_is_true(json_object_get(range, "lost"));
        printf("%s: %s: %" PRId64 " block%s at byte %" PRId64 " (block %" PRId64 "): %s\n", t->config->name,
               volume_of(conf, (uint64_t)json_number_or(range, "group", 0), buf), blocks, blocks == 1 ? "" : "s", block * BLOCK_SIZE, block,
               is_lost ? lost : what);
    }
}

static bool print_summary(const struct cluster_config *conf, const struct target *t, uint32_t n)
{
    static const char *const headings[SCRUB_COLUMNS] = {"REPLICA", "VERIFIED", "BAD", "REPAIRED", "UNREPAIRED", "DIFFERING"};
    char *cells[CONFIG_REPLICAS_MAX * SCRUB_COLUMNS];
    bool clean = true;
    for (uint32_t i = 0; i < n; i++) {
        json_t *o = t[i].failed ? NULL : t[i].last;
        int64_t bad = json_number_or(o, "bad_blocks", 0) + json_number_or(o, "lost_blocks", 0);
        int64_t left = json_number_or(o, "unrepaired_blocks", 0), differ = json_number_or(o, "undecided_blocks", 0);
        char verified[24];
        human((uint64_t)json_number_or(o, "verified_bytes", 0), verified, sizeof verified);
        char **c = &cells[i * SCRUB_COLUMNS];
        int err = asprintf(&c[0], "%s", t[i].config->name) < 0;
        err |= asprintf(&c[1], "%s", o ? verified : "-") < 0;
        err |= asprintf(&c[2], "%" PRId64, bad) < 0;
        err |= asprintf(&c[3], "%" PRId64, json_number_or(o, "repaired_blocks", 0)) < 0;
        err |= asprintf(&c[4], "%" PRId64, left) < 0;
        err |= asprintf(&c[5], "%" PRId64, differ) < 0;
        if (err)
            abort();
        clean = clean && o && left == 0 && differ == 0;
    }
    print_table(headings, SCRUB_COLUMNS, cells, n);
    for (uint32_t i = 0; i < n * SCRUB_COLUMNS; i++)
        free(cells[i]);
    for (uint32_t i = 0; i < n; i++) {
        if (t[i].failed) {
            printf("%s: not scrubbed: %s\n", t[i].config->name, t[i].why.text);
            continue;
        }
        int64_t pages = json_number_or(t[i].last, "rewritten_pages", 0), skipped = json_number_or(t[i].last, "skipped_chunks", 0);
        if (pages > 0)
            printf("%s: %" PRId64 " damaged pages of metadata were written anew\n", t[i].config->name, pages);
        if (skipped > 0)
            printf("%s: %" PRId64 " MiB were written to all the time, or not known alike: not compared\n", t[i].config->name, skipped);
        print_ranges(conf, &t[i], "unrepaired", "damaged, and not repaired: no replica that answers could give it", "no replica has it intact: reads of it fail until it is written again");
        print_ranges(conf, &t[i], "undecided", "differs between replicas, and no majority says which one is right: nothing was changed", "");
    }
    return clean;
}

/* ---- the command ---- */

enum { OPTION_VOLUME = 256, OPTION_NOW };

static const struct argp_option scrub_options[] = {
    {"volume", OPTION_VOLUME, "NAME", 0, "Only this volume", 0},
    {"now", OPTION_NOW, NULL, 0, "As fast as the foreground bears, not at the rate of the background", 0},
    {0},
};

static error_t parse_scrub(int key, char *arg, struct argp_state *state)
{
    struct scrub_args *a = state->input;
    switch (key) {
    case OPTION_VOLUME:
        a->volume = arg;
        return 0;
    case OPTION_NOW:
        a->now = true;
        return 0;
    default:
        return which_cluster_parse(key, arg, state, &a->which);
    }
}

/* The replicas of the volume, or all. */
static uint32_t choose(const struct cluster_config *conf, const struct volume_config *v, struct target *t)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < conf->n_replicas; i++) {
        bool in = !v;
        for (uint32_t k = 0; v && k < v->n_replicas; k++)
            in |= v->replica[k] == i;
        if (in)
            t[n++].config = &conf->replicas[i];
    }
    return n;
}

static void follow(const struct cluster_config *conf, struct target *t, uint32_t n)
{
    bool tty = isatty(STDOUT_FILENO);
    uint64_t started = now_ms();
    for (bool open = true; open;) {
        open = false;
        for (uint32_t i = 0; i < n; i++) {
            if (!t[i].over && !t[i].failed)
                look(conf, &t[i]);
            open |= !t[i].over && !t[i].failed;
        }
        if (tty)
            print_progress(t, n, started);
        if (open)
            sleep_ms(POLL_MS);
    }
    if (tty)
        printf("\n");
}

int command_scrub(int argc, char **argv)
{
    static const struct argp argp = {
        .options = scrub_options,
        .parser = parse_scrub,
        .doc = "Has every replica read back all that it holds, repair what is damaged from the others, and compare what it holds with them. Exit status 1 when something could not be "
               "repaired, or a replica could not be asked.",
        .children = which_cluster_children,
    };
    static struct cluster_dir d;
    static struct target t[CONFIG_REPLICAS_MAX];
    struct scrub_args a = {0};
    struct why why;
    parse_arguments(&argp, argc, argv, &a);
    int err = which_cluster_load(&a.which, &d, &why);
    const struct volume_config *v = a.volume && !err ? config_find_volume(&d.conf, a.volume) : NULL;
    if (!err && a.volume && !v)
        err = because(&why, "there is no volume %s", a.volume);
    if (err)
        return command_end("qbd scrub", err, &why);
    uint32_t n = choose(&d.conf, v, t);
    for (uint32_t i = 0; i < n; i++)
        begin(&d.conf, &t[i], v ? v->group : 0, a.now);
    follow(&d.conf, t, n);
    bool clean = print_summary(&d.conf, t, n);
    for (uint32_t i = 0; i < n; i++)
        json_decref(t[i].status);
    return clean ? 0 : 1;
}
