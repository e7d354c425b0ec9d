/* The page of metrics: what it says of recorded statuses, and that it is valid text format whatever daemons and
 * configuration say. */
#include "tools/metrics.h"

#include "base/log.h"

#include <regex.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#define LINES_MAX 4000

/* A replica in a copy and a scrub at once, with everything that a status can have. */
static const char full_replica[] = "{\"name\":\"replica-2\",\"role\":\"replica\",\"version\":\"0.1.0\",\"state\":"
                                   "\"up\",\"uptime_ms\":90500,\"groups\":[{\"group\":7,\"size_bytes\":1073741824,"
                                   "\"state\":\"copying\",\"promised_round\":5,\"commit\":900,\"applied\":800,\"last\":"
                                   "905,\"durable\":890,\"floor\":100,\"behind_slots\":12,\"lost_slots\":2,"
                                   "\"in_stream\":true,\"holder\":{\"name\":\"fe-1\",\"id\":\"x\",\"remaining_ms\":"
                                   "1500},\"state_ms\":2500,\"complete\":false,\"membership_slot\":3,"
                                   "\"voters\":[\"00000000-0000-0000-0000-000000000001\",\"00000000-0000-0000-0000-"
                                   "000000000002\",\"00000000-0000-0000-0000-000000000003\"],"
                                   "\"trace\":{\"every\":64,\"writes\":10,\"receive_us\":100,\"wait_us\":20,\"disk_us\":1500,"
                                   "\"answer_us\":8,\"samples\":[[64,10,2,150,1]]},"
                                   "\"copy\":{\"done_bytes\":4096,\"left_bytes\":8192,\"unchanged_bytes\":1048576,"
                                   "\"rate_bytes_per_s\":2048,\"eta_s\":4,\"donor_latency_us\":250,\"since_ms\":7000,"
                                   "\"refused\":\"nobody has "
                                   "it\"}}],\"store\":{\"wal\":{\"head_lsn\":9000,\"durable_lsn\":8000,\"redo_lsn\":"
                                   "7000,\"tail_lsn\":1000,\"batches\":11,\"bytes\":12288,"
                                   "\"write_us\":1250,\"torn_batches\":1,\"rotten_batches\":2,\"lost_slots\":3},"
                                   "\"slabs_total\":1024,\"slabs_free\":512,\"slabs_reserved\":8,\"overlay_bytes\":77,"
                                   "\"leaf_cache_bytes\":88,\"checkpoint\":4,\"checkpoints_done\":6,\"write_back_"
                                   "bytes\":99,\"bad_blocks\":5,\"repaired_blocks\":4,\"checkpointing\":true,"
                                   "\"growing\":false},\"counters\":{\"accepts\":1,\"reads\":2,\"catchup_entries\":3,"
                                   "\"donated_entries\":4,\"repairs_open\":5,\"refused\":6,\"images_served\":7,"
                                   "\"bytes_copied\":8,\"bytes_unchanged\":9},\"last_disk_error\":{\"text\":\"EIO\","
                                   "\"ago_ms\":60000},\"scrub\":{\"state\":\"running\",\"now\":{\"pass\":2,"
                                   "\"total_bytes\":1000,\"done_bytes\":250,\"rate_bytes_per_s\":8388608},\"last\":{"
                                   "\"pass\":1,\"verified_bytes\":5000,\"bad_blocks\":3,\"lost_blocks\":1,"
                                   "\"odd_blocks\":1,\"rewritten_pages\":2,\"undecided_blocks\":6,\"skipped_chunks\":7,"
                                   "\"repaired_blocks\":2,\"unrepaired_blocks\":1,\"finished_at\":1700000000},"
                                   "\"groups\":[{\"group\":7,\"passes\":9,\"last_done_at\":1700000001}]}}";

static const char good_replica[] = "{\"version\":\"0.1.0\",\"state\":\"up\",\"uptime_ms\":1,\"groups\":[{\"group\":7,"
                                   "\"size_bytes\":1073741824,\"state\":\"up to date\",\"promised_round\":5,"
                                   "\"commit\":1000,\"applied\":990,\"last\":1000,\"durable\":1000,\"in_stream\":true,"
                                   "\"complete\":true,\"holder\":{\"name\":\"fe-1\",\"remaining_ms\":1900},"
                                   "\"voters\":[\"00000000-0000-0000-0000-000000000001\",\"00000000-0000-0000-0000-"
                                   "000000000002\",\"00000000-0000-0000-0000-000000000003\"]}]}";

static const char full_frontend[] =
    "{\"name\":\"fe-1\",\"version\":\"0.1.0\",\"uptime_ms\":4000,\"clients\":2,\"requests\":300,\"errors\":1,\"payload_"
    "bytes\":4096,\"memory_bytes\":8192,\"volumes\":["
    "{\"name\":\"vol "
    "\\\"0\\\"\",\"state\":\"attached\",\"requests\":3,\"requests_failed\":1,\"sessions\":2,\"entries\":50,\"reads\":"
    "60,\"read_hedges\":7,\"read_retries\":8,"
    "\"trace\":{\"every\":64,\"writes\":9,\"prepare_us\":30,\"quorum_us\":1800,\"reply_us\":5,\"samples\":[]},"
    "\"no_space\":false,\"chosen\":1000,\"in_flight\":4,\"retained_bytes\":123,\"replicas\":["
    "{\"name\":\"replica-2\",\"link\":\"waiting\",\"stream\":\"down\",\"acked\":1,\"connects\":9},"
    "{\"name\":\"replica-2\",\"link\":\"up\",\"stream\":\"open\",\"acked\":999,\"applied\":998,\"lag\":1,\"free_"
    "slabs\":2,\"unsent_bytes\":3,\"connects\":4,\"reads\":5,"
    "\"reads_outstanding\":6,\"reads_bad\":7,\"reads_hedged\":8,\"read_us\":900,"
    "\"traced_acks\":9,\"traced_ack_us\":1700,\"traced_decided\":3}]},{\"name\":\"vol "
    "\\\"0\\\"\",\"state\":\"held\"}]}";

/* ---- a page ---- */

struct sheet {
    struct cluster_config conf;
    struct replica_view replicas[4];
    struct metrics_input in;
    char *text;
    const char *line[LINES_MAX];
    unsigned n;
};

static json_t *parsed(const char *json)
{
    json_error_t e;
    json_t *o = json ? json_loads(json, 0, &e) : NULL;
    assert_true(!json || o);
    return o;
}

/* Three voters and one more, one volume, one front end; NULL: it does not answer. */
static void sheet_make(struct sheet *s, const char *const replica[4], const char *frontend)
{
    memset(s, 0, sizeof *s);
    s->conf.n_replicas = 4;
    s->conf.n_volumes = 1;
    for (uint32_t i = 0; i < 4; i++) {
        struct replica_config *c = &s->conf.replicas[i];
        snprintf(c->name, sizeof c->name, "replica-%u", i + 1);
        c->identity.b[15] = (uint8_t)(i + 1);
        s->replicas[i] =
            (struct replica_view){.config = c, .process.state = PROCESS_RUNNING, .status = parsed(replica[i])};
    }
    snprintf(s->conf.volumes[0].name, sizeof s->conf.volumes[0].name, "vol0");
    s->conf.volumes[0].group = 7;
    s->conf.volumes[0].size_bytes = 1 << 30;
    s->conf.volumes[0].n_replicas = 3;
    for (uint32_t i = 0; i < 3; i++)
        s->conf.volumes[0].replica[i] = i;
    s->in = (struct metrics_input){
        .conf = &s->conf, .replicas = s->replicas, .n_frontends = 1, .config_ok = true, .scrape_seconds = 0.125};
    snprintf(s->in.frontends[0].name, sizeof s->in.frontends[0].name, "unix:/run/a\\b\"c\nd\x01\xff");
    s->in.frontends[0].status = parsed(frontend);
}

static bool matches(const char *pattern, const char *s)
{
    regex_t re;
    assert_int_equal(regcomp(&re, pattern, REG_EXTENDED | REG_NOSUB), 0);
    bool good = regexec(&re, s, 0, NULL, 0) == 0;
    regfree(&re);
    return good;
}

static void series_of(const char *line, char *buf, size_t cap)
{
    const char *end = strrchr(line, ' ');
    assert_non_null(end);
    snprintf(buf, cap, "%.*s", (int)(end - line), line);
}

/* Every line is one of three kinds; a name's HELP and TYPE come once, together, before its samples, which follow each
 * other; no series comes twice. */
static void check_format(const struct sheet *s)
{
    char name[128] = "", head[160], series[1024], other[1024];
    for (unsigned i = 0; i < s->n; i++) {
        const char *l = s->line[i];
        if (strncmp(l, "# HELP ", 7) == 0) {
            assert_true(matches("^# HELP qbd_[a-z0-9_]+ [A-Z0-9-][^\\]*[.]$", l));
            snprintf(name, sizeof name, "%.*s", (int)strcspn(l + 7, " "), l + 7);
            snprintf(head, sizeof head, "# TYPE %s ", name);
            assert_true(i + 2 < s->n && strncmp(s->line[i + 1], head, strlen(head)) == 0);
            const char *type = s->line[i + 1] + strlen(head);
            assert_true(strcmp(type, "gauge") == 0 || strcmp(type, "counter") == 0);
            assert_int_equal(strcmp(type, "counter") == 0,
                             strlen(name) > 6 && strcmp(name + strlen(name) - 6, "_total") == 0);
            snprintf(head, sizeof head, "# HELP %s ", name);
            for (unsigned k = 0; k < i; k++)
                assert_true(strncmp(s->line[k], head, strlen(head)) != 0);
            i++;
            assert_true(s->line[i + 1][0] != '#');
            continue;
        }
        if (!matches("^qbd_[a-z_]+[{]cluster=\"[0-9a-f-]{36}\"(,[a-z]+=\"([^\"\\]|\\\\[\\\"n])*\")*[}] "
                     "(-?[0-9]+([.][0-9]+)?(e[+-][0-9]+)?)$",
                     l))
            fail_msg("no sample: %s", l);
        assert_true(strncmp(l, name, strlen(name)) == 0 && l[strlen(name)] == '{');
        series_of(l, series, sizeof series);
        for (unsigned k = 0; k < i; k++)
            if (s->line[k][0] != '#') {
                series_of(s->line[k], other, sizeof other);
                if (strcmp(series, other) == 0)
                    fail_msg("twice: %s", series);
            }
    }
}

static void sheet_write(struct sheet *s)
{
    size_t len;
    FILE *f = open_memstream(&s->text, &len);
    assert_non_null(f);
    metrics_write(f, &s->in);
    assert_int_equal(fclose(f), 0);
    assert_true(len == strlen(s->text) && len > 0 && s->text[len - 1] == '\n');
    for (char *p = s->text, *end; (end = strchr(p, '\n')); p = end + 1) {
        *end = '\0';
        assert_true(s->n < LINES_MAX);
        s->line[s->n++] = p;
    }
    check_format(s);
}

static void sheet_free(struct sheet *s)
{
    for (uint32_t i = 0; i < 4; i++)
        replica_view_drop(&s->replicas[i]);
    json_decref(s->in.frontends[0].status);
    free(s->text);
}

/* The value of the one series of that name which has all these labels, as text; "": there is none. */
static const char *value(const struct sheet *s, const char *name, const char *labels)
{
    const char *found = "";
    for (unsigned i = 0; i < s->n; i++) {
        const char *l = s->line[i];
        if (strncmp(l, name, strlen(name)) != 0 || l[strlen(name)] != '{' || !strstr(l, labels))
            continue;
        assert_string_equal(found, "");
        found = strrchr(l, ' ') + 1;
    }
    return found;
}

static unsigned count(const struct sheet *s, const char *text)
{
    unsigned n = 0;
    for (unsigned i = 0; i < s->n; i++)
        n += s->line[i][0] != '#' && strstr(s->line[i], text) != NULL;
    return n;
}

/* ---- tests ---- */

static const char *const usual[4] = {good_replica, full_replica, good_replica, NULL};

static void says_what_the_statuses_say(void **state)
{
    struct sheet s;
    (void)state;
    sheet_make(&s, usual, full_frontend);
    sheet_write(&s);
    static const struct {
        const char *name, *labels, *want;
    } facts[] = {
        {"qbd_exporter_scrape_errors", "", "1"},
        {"qbd_exporter_scrape_duration_seconds", "", "0.125"},
        {"qbd_volume_size_bytes", "volume=\"vol0\"", "1073741824"},
        {"qbd_volume_voters", "", "3"},
        {"qbd_volume_replicas_answering", "", "3"},
        {"qbd_volume_replicas_up_to_date", "", "2"},
        {"qbd_volume_redundancy", "", "0"},
        {"qbd_volume_quorum", "", "1"},
        {"qbd_volume_lease_held", "", "1"},
        {"qbd_volume_lease_remaining_seconds", "", "1.9"},
        {"qbd_volume_commit_slot", "", "1000"},
        {"qbd_volume_holder", "holder=\"fe-1\"", "1"},
        {"qbd_replica_up", "replica=\"replica-2\"", "1"},
        {"qbd_replica_up", "replica=\"replica-4\"", "0"},
        {"qbd_replica_uptime_seconds", "replica=\"replica-2\"", "90.5"},
        {"qbd_replica_wal_written_bytes_total", "replica=\"replica-2\"", "12288"},
        {"qbd_replica_wal_live_bytes", "replica=\"replica-2\"", "8000"},
        {"qbd_replica_wal_redo_bytes", "replica=\"replica-2\"", "2000"},
        {"qbd_replica_wal_write_latency_seconds", "replica=\"replica-2\"", "0.00125"},
        {"qbd_replica_store_size_bytes", "replica=\"replica-2\"", "67108864"},
        {"qbd_replica_checkpoint_running", "replica=\"replica-2\"", "1"},
        {"qbd_replica_store_growing", "replica=\"replica-2\"", "0"},
        {"qbd_replica_last_disk_error_age_seconds", "", "60"},
        {"qbd_replica_scrub_running", "replica=\"replica-2\"", "1"},
        {"qbd_replica_scrub_done_bytes", "", "250"},
        {"qbd_replica_scrub_last_disowned_blocks", "", "1"},
        {"qbd_replica_scrub_last_unrepaired_blocks", "", "1"},
        {"qbd_replica_scrub_last_completed_timestamp_seconds", "volume=\"vol0\",replica=\"replica-2\"", "1700000001"},
        {"qbd_replica_state", "replica=\"replica-2\",state=\"copying\"", "1"},
        {"qbd_replica_state", "replica=\"replica-1\",state=\"up_to_date\"", "1"},
        {"qbd_replica_behind_slots", "replica=\"replica-2\"", "110"},
        {"qbd_replica_catchup_slots", "replica=\"replica-2\"", "12"},
        {"qbd_replica_lease_remaining_seconds", "replica=\"replica-2\"", "1.5"},
        {"qbd_replica_complete", "replica=\"replica-2\"", "0"},
        {"qbd_replica_copy_active", "replica=\"replica-2\"", "1"},
        {"qbd_replica_copy_active", "replica=\"replica-1\"", "0"},
        {"qbd_replica_copy_left_bytes", "", "8192"},
        {"qbd_replica_copy_refused", "", "1"},
        {"qbd_replica_copy_donor_latency_seconds", "", "0.00025"},
        {"qbd_frontend_up", "", "1"},
        {"qbd_frontend_requests_total", "", "300"},
        {"qbd_frontend_volume_state", "state=\"attached\"", "1"},
        {"qbd_frontend_volume_state", "state=\"held\"", "0"},
        {"qbd_frontend_volume_no_space", "volume=\"vol \\\"0\\\"\"", "0"},
        {"qbd_frontend_peer_up", "peer=\"replica-2\"", "1"}, /* of two of that name, the one that is connected */
        {"qbd_frontend_peer_connects_total", "", "4"},
        {"qbd_frontend_peer_free_bytes", "", "131072"},
        {"qbd_frontend_peer_read_latency_seconds", "", "0.0009"},
        {"qbd_replica_traced_disk_seconds_total", "replica=\"replica-2\"", "0.0015"},
        {"qbd_frontend_volume_traced_quorum_seconds_total", "", "0.0018"},
        {"qbd_frontend_peer_traced_decided_total", "peer=\"replica-2\"", "3"},
    };
    for (size_t i = 0; i < ARRAY_LEN(facts); i++)
        if (strcmp(value(&s, facts[i].name, facts[i].labels), facts[i].want) != 0)
            fail_msg("%s{%s} is %s, not %s", facts[i].name, facts[i].labels, value(&s, facts[i].name, facts[i].labels),
                     facts[i].want);
    /* Backslash, quote and newline as the format wants them; a control character and a byte that is no UTF-8 are gone.
     */
    assert_int_equal(count(&s, "frontend=\"unix:/run/a\\\\b\\\"c\\nd??\""), count(&s, "frontend="));
    sheet_free(&s);
}

static void states_are_one_hot(void **state)
{
    (void)state;
    static const struct {
        const char *daemon, *group, *want;
    } cases[] = {
        {"up", "behind", "behind"},
        {"up", "needs copy", "needs_copy"},
        {"up", "copying", "copying"},
        {"up", "learner, complete", "learner_complete"},
        {"up", "something new", "other"},
        {"failed", NULL, "failed"},
        {"not a member: needs rebuild", NULL, "needs_rebuild"},
        {"up", NULL, "needs_rebuild"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char status[512], label[128];
        struct sheet s;
        snprintf(status, sizeof status,
                 cases[i].group ? "{\"state\":\"%s\",\"groups\":[{\"group\":7,\"state\":\"%s\",\"commit\":5}]}"
                                : "{\"state\":\"%s\",\"groups\":[]}",
                 cases[i].daemon, cases[i].group);
        sheet_make(&s, (const char *const[4]){good_replica, status, good_replica, NULL}, NULL);
        sheet_write(&s);
        snprintf(label, sizeof label, "replica=\"replica-2\",state=\"%s\"", cases[i].want);
        assert_string_equal(value(&s, "qbd_replica_state", label), "1");
        unsigned hot = 0, all = 0;
        for (unsigned k = 0; k < s.n; k++)
            if (strncmp(s.line[k], "qbd_replica_state{", 18) == 0 && strstr(s.line[k], "replica-2")) {
                hot += strcmp(strrchr(s.line[k], ' '), " 1") == 0;
                all++;
            }
        assert_int_equal(hot, 1);
        assert_int_equal(all, 15);
        sheet_free(&s);
    }
}

static void who_does_not_answer_has_up_0_and_nothing_else(void **state)
{
    struct sheet s;
    (void)state;
    sheet_make(&s, (const char *const[4]){good_replica, NULL, NULL, NULL}, NULL);
    sheet_write(&s);
    assert_string_equal(value(&s, "qbd_replica_up", "replica-2"), "0");
    assert_string_equal(value(&s, "qbd_replica_state", "replica-2\",state=\"unreachable\""), "1");
    assert_int_equal(count(&s, "replica=\"replica-2\""), 1 + 15);
    assert_int_equal(count(&s, "replica=\"replica-4\""), 1); /* not of the volume */
    assert_string_equal(value(&s, "qbd_frontend_up", ""), "0");
    assert_int_equal(count(&s, "frontend="), 1);
    assert_string_equal(value(&s, "qbd_volume_redundancy", ""), "-1");
    assert_string_equal(value(&s, "qbd_volume_quorum", ""), "0");
    assert_string_equal(value(&s, "qbd_exporter_scrape_errors", ""), "4");
    sheet_free(&s);
    sheet_make(&s, (const char *const[4]){0}, NULL);
    sheet_write(&s);
    assert_string_equal(value(&s, "qbd_volume_size_bytes", ""), "");
    assert_string_equal(value(&s, "qbd_volume_commit_slot", ""), "");
    assert_string_equal(value(&s, "qbd_volume_lease_held", ""), "");
    assert_string_equal(value(&s, "qbd_volume_redundancy", ""), "-2");
    sheet_free(&s);
}

/* A learner is not in the configuration before it votes, and its copy is what an operator wants to see. */
static void who_copies_for_a_rebuild_is_there(void **state)
{
    struct sheet s;
    (void)state;
    sheet_make(&s, (const char *const[4]){good_replica, NULL, good_replica, full_replica}, NULL);
    sheet_write(&s);
    assert_string_equal(value(&s, "qbd_replica_copy_left_bytes", "replica=\"replica-4\""), "8192");
    assert_string_equal(value(&s, "qbd_replica_copy_left_bytes", ""), "8192");
    sheet_free(&s);
}

static void a_volume_that_was_never_created_is_no_lost_one(void **state)
{
    static const char empty[] = "{\"state\":\"up\",\"groups\":[]}";
    struct sheet s;
    (void)state;
    sheet_make(&s, (const char *const[4]){empty, empty, empty, empty}, NULL);
    sheet_write(&s);
    assert_string_equal(value(&s, "qbd_volume_created", ""), "0");
    assert_string_equal(value(&s, "qbd_volume_redundancy", ""), "");
    assert_string_equal(value(&s, "qbd_volume_quorum", ""), "");
    sheet_free(&s);
}

/* A status is another process's: it may be of another version, or nonsense. */
static void nonsense_makes_a_valid_page(void **state)
{
    static const char *const nonsense[] = {
        "{}",
        "{\"groups\":7,\"store\":[],\"counters\":\"x\",\"scrub\":1}",
        "{\"groups\":[7,null,{\"group\":\"7\"},{\"group\":7,\"voters\":[1,2],\"copy\":[],\"holder\":3,\"commit\":\"9\"}"
        "]}",
        "{\"groups\":[{\"group\":7},{\"group\":7}],\"store\":{\"wal\":null,\"slabs_total\":-1,\"bad_blocks\":1e300}}",
        "{\"groups\":[{\"group\":7,\"state\":\"a\\nb\",\"commit\":-5,\"holder\":{\"name\":\"x\\\"y\\\\\\nz\\u0001\"}}],"
        "\"scrub\":{\"now\":null,\"last\":[],\"groups\":{}}}",
        "{\"volumes\":7}",
        "{\"volumes\":[1,{\"name\":7},{\"name\":\"\"},{\"name\":\"a\"},{\"name\":\"a\",\"replicas\":[]},{\"name\":"
        "\"b\",\"replicas\":[3,{\"name\":\"r\"},{\"name\":\"r\",\"link\":\"up\"},{\"name\":\"r\",\"link\":\"up\"}]}]}",
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(nonsense); i++) {
        struct sheet s;
        sheet_make(&s, (const char *const[4]){nonsense[i], good_replica, full_replica, nonsense[i]}, nonsense[i]);
        sheet_write(&s);
        assert_string_equal(value(&s, "qbd_replica_up", "replica-1"), "1");
        sheet_free(&s);
    }
}

/* ---- the list ---- */

struct listing {
    const struct sheet *sheet;
    char *docs;
    unsigned n;
};

static void check_listed(void *user, const char *name, const char *type, const char *help)
{
    struct listing *l = user;
    char head[256], row[160];
    snprintf(head, sizeof head, "# TYPE %s %s", name, type);
    bool there = false;
    for (unsigned i = 0; i < l->sheet->n; i++)
        there |= strcmp(l->sheet->line[i], head) == 0;
    if (!there)
        fail_msg("%s is in the list and not on a page that has everything", name);
    snprintf(row, sizeof row, "| `%s` | %s | ", name, type);
    if (!strstr(l->docs, row))
        fail_msg("docs/metrics.md has no row that begins with %s", row);
    assert_true(*help);
    l->n++;
}

/* The page, the list and docs/metrics.md name the same metrics. */
static void all_are_on_the_page_and_in_the_docs(void **state)
{
    struct sheet s;
    (void)state;
    FILE *f = fopen(QBD_DOCS "/metrics.md", "r");
    assert_non_null(f);
    char *docs = calloc(1, 1 << 18);
    assert_non_null(docs);
    assert_true(fread(docs, 1, (1 << 18) - 1, f) > 0 && feof(f));
    fclose(f);
    sheet_make(&s, usual, full_frontend);
    sheet_write(&s);
    struct listing l = {.sheet = &s, .docs = docs};
    metrics_list(check_listed, &l);
    unsigned families = 0, rows = 0;
    for (unsigned i = 0; i < s.n; i++)
        families += strncmp(s.line[i], "# TYPE ", 7) == 0;
    for (const char *p = docs; (p = strstr(p, "\n| `qbd_")); p++)
        rows++;
    assert_int_equal(families, l.n);
    assert_int_equal(rows, l.n);
    free(docs);
    sheet_free(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(says_what_the_statuses_say),
        cmocka_unit_test(states_are_one_hot),
        cmocka_unit_test(who_does_not_answer_has_up_0_and_nothing_else),
        cmocka_unit_test(who_copies_for_a_rebuild_is_there),
        cmocka_unit_test(a_volume_that_was_never_created_is_no_lost_one),
        cmocka_unit_test(nonsense_makes_a_valid_page),
        cmocka_unit_test(all_are_on_the_page_and_in_the_docs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
