/* The command qbd bench: the command line, and the consent without which nothing is overwritten (docs/bench.md). */
#include "tools/bench.h"
#include "tools/local.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

struct bench_arguments {
    struct bench_options o;
    const char *dir, *volume;
    bool have_block, have_depth, have_seconds, have_percent;
    bool have_load; /* an option that --check does not take */
    char uri[CONFIG_ADDRESS_MAX + NAME_MAX_BYTES + 64];
};

static const struct workload {
    const char *name;
    bool reads, writes, sequential;
    uint64_t block_bytes;
    unsigned depth;
} workloads[] = {
    {"read", true, false, false, 4096, 32},
    {"write", false, true, false, 4096, 32},
    {"mixed", true, true, false, 4096, 32},
    {"seq-read", true, false, true, UINT64_C(1) << 20, 8},
    {"seq-write", false, true, true, UINT64_C(1) << 20, 8},
};

enum {
    OPT_DIR = 256,
    OPT_VOLUME,
    OPT_WORKLOAD,
    OPT_PERCENT,
    OPT_BLOCK,
    OPT_DEPTH,
    OPT_CONNECTIONS,
    OPT_RUNTIME,
    OPT_OPS,
    OPT_RATE,
    OPT_OFFSET,
    OPT_SIZE,
    OPT_FLUSH,
    OPT_FUA,
    OPT_OVERWRITE,
    OPT_VERIFY,
    OPT_CHECK,
    OPT_JOURNAL,
    OPT_JOURNAL_SYNC,
    OPT_RECONNECT,
    OPT_SEED,
    OPT_JSON,
    OPT_QUIET,
};

static const struct argp_option options[] = {
    {"dir", OPT_DIR, "DIR", 0, "The local cluster in DIR, in place of a URI", 1},
    {"volume", OPT_VOLUME, "NAME", 0, "Its volume (default: the first)", 1},
    {"workload", OPT_WORKLOAD, "NAME", 0,
     "read, write, mixed (random; default: read), seq-read or seq-write (one block after the other)", 2},
    {"read-percent", OPT_PERCENT, "N", 0, "mixed: how many of a hundred requests read (70)", 2},
    {"block-size", OPT_BLOCK, "SIZE", 0, "Bytes of a request (4K; seq-: 1M)", 2},
    {"depth", OPT_DEPTH, "N", 0, "Requests under way on each connection (32; seq-: 8)", 2},
    {"connections", OPT_CONNECTIONS, "N", 0, "How many connections (1)", 2},
    {"runtime", OPT_RUNTIME, "SECONDS", 0, "How long (10, or until --ops are done)", 2},
    {"ops", OPT_OPS, "N", 0, "How many requests", 2},
    {"rate", OPT_RATE, "N", 0, "Requests a second altogether, by a timetable: what is late counts as latency", 2},
    {"offset", OPT_OFFSET, "SIZE", 0, "Where the part of the volume begins that is used (0)", 2},
    {"size", OPT_SIZE, "SIZE", 0, "How long it is (up to the volume's end)", 2},
    {"flush", OPT_FLUSH, NULL, 0, "A FLUSH follows each write, and counts as part of it", 3},
    {"fua", OPT_FUA, NULL, 0, "Writes ask to be durable when they are answered (FUA)", 3},
    {"overwrite", OPT_OVERWRITE, NULL, 0, "What is in the part of the volume that is used may be destroyed", 3},
    {"verify", OPT_VERIFY, NULL, 0, "Stamp each block, and note in the journal which writes were acknowledged", 4},
    {"check", OPT_CHECK, NULL, 0, "No load: prove that everything is there that the journal says was acknowledged", 4},
    {"journal", OPT_JOURNAL, "FILE", 0, "The journal of --verify and --check", 4},
    {"journal-sync", OPT_JOURNAL_SYNC, NULL, 0,
     "A write counts as acknowledged only when the journal on disk says so: for tests that also cut this machine's "
     "power",
     4},
    {"reconnect", OPT_RECONNECT, "SECONDS", 0,
     "Go on when a connection is lost, as long as it comes back in that time (0)", 4},
    {"seed", OPT_SEED, "N", 0, "Of what is random (default: another one each time)", 5},
    {"json", OPT_JSON, NULL, 0, "The report for programs", 5},
    {"quiet", OPT_QUIET, NULL, 0, "No line a second", 5},
    {0},
};

static uint64_t parse_number(struct argp_state *state, const char *option, const char *arg, uint64_t min, uint64_t max)
{
    char *end;
    errno = 0;
    unsigned long long v = strtoull(arg, &end, 10);
    if (errno || end == arg || *end || *arg == '-' || v < min || v > max)
        usage_error(state, "%s is a number from %" PRIu64 " to %" PRIu64 ", not \"%s\"", option, min, max, arg);
    return v;
}

static double parse_seconds(struct argp_state *state, const char *option, const char *arg, double max)
{
    char *end;
    errno = 0;
    double v = strtod(arg, &end);
    if (errno || end == arg || *end || !(v > 0) || v > max)
        usage_error(state, "%s is a number above 0 and up to %.0f, not \"%s\"", option, max, arg);
    return v;
}

static uint64_t parse_size(struct argp_state *state, const char *option, const char *arg)
{
    uint64_t v;
    if (config_parse_size(arg, &v) < 0)
        usage_error(state, "%s is a size as 4K, 1M or 2G, not \"%s\"", option, arg);
    return v;
}

static void take_workload(struct bench_arguments *a, struct argp_state *state, const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(workloads); i++) {
        const struct workload *w = &workloads[i];
        if (strcmp(w->name, name) != 0)
            continue;
        a->o.workload = w->name;
        a->o.reads = w->reads;
        a->o.writes = w->writes;
        a->o.sequential = w->sequential;
        if (!a->have_block)
            a->o.block_bytes = w->block_bytes;
        if (!a->have_depth)
            a->o.depth = w->depth;
        return;
    }
    usage_error(state, "--workload is read, write, mixed, seq-read or seq-write, not \"%s\"", name);
}

static bool parse_load(struct bench_arguments *a, int key, char *arg, struct argp_state *state)
{
    struct bench_options *o = &a->o;
    switch (key) {
    case OPT_WORKLOAD:
        take_workload(a, state, arg);
        break;
    case OPT_PERCENT:
        o->read_percent = (unsigned)parse_number(state, "--read-percent", arg, 1, 99);
        a->have_percent = true;
        break;
    case OPT_BLOCK:
        o->block_bytes = parse_size(state, "--block-size", arg);
        a->have_block = true;
        if (o->block_bytes < 1 || o->block_bytes > BENCH_BLOCK_MAX)
            usage_error(state, "--block-size is up to 32M");
        break;
    case OPT_DEPTH:
        o->depth = (unsigned)parse_number(state, "--depth", arg, 1, BENCH_DEPTH_MAX);
        a->have_depth = true;
        break;
    case OPT_CONNECTIONS:
        o->connections = (unsigned)parse_number(state, "--connections", arg, 1, BENCH_CONNECTIONS_MAX);
        break;
    case OPT_RUNTIME:
        o->seconds = parse_seconds(state, "--runtime", arg, 1e7);
        a->have_seconds = true;
        break;
    case OPT_OPS:
        o->ops = parse_number(state, "--ops", arg, 1, UINT64_MAX);
        break;
    case OPT_RATE:
        o->rate = parse_seconds(state, "--rate", arg, 1e8);
        break;
    case OPT_OFFSET:
        o->offset = parse_size(state, "--offset", arg);
        break;
    case OPT_SIZE:
        o->size = parse_size(state, "--size", arg);
        if (o->size == 0)
            usage_error(state, "--size 0 leaves nothing to do");
        break;
    case OPT_RECONNECT:
        o->reconnect_s = parse_seconds(state, "--reconnect", arg, 1e7);
        break;
    case OPT_SEED:
        o->seed = parse_number(state, "--seed", arg, 0, UINT64_MAX);
        break;
    default:
        return false;
    }
    a->have_load = true;
    return true;
}

static bool parse_flag(struct bench_arguments *a, int key)
{
    struct bench_options *o = &a->o;
    switch (key) {
    case OPT_FLUSH:
        a->have_load = o->flush = true;
        return true;
    case OPT_FUA:
        a->have_load = o->fua = true;
        return true;
    case OPT_OVERWRITE:
        a->have_load = o->overwrite = true;
        return true;
    case OPT_VERIFY:
        a->have_load = o->verify = true;
        return true;
    case OPT_JOURNAL_SYNC:
        a->have_load = o->journal_sync = true;
        return true;
    case OPT_CHECK:
        o->check = true;
        return true;
    case OPT_JSON:
        o->json = true;
        return true;
    case OPT_QUIET:
        o->quiet = true;
        return true;
    default:
        return false;
    }
}

static void check_arguments(const struct bench_arguments *a, struct argp_state *state)
{
    const struct bench_options *o = &a->o;
    if (a->dir && o->uri)
        usage_error(state, "say a URI or --dir, not both");
    if (a->volume && !a->dir)
        usage_error(state, "--volume is for --dir; a URI names its export itself");
    if (!a->dir && !o->uri && !o->check)
        usage_error(state,
                    "say what to load: a URI as nbd+unix:///vol0?socket=PATH or nbd://HOST:PORT/vol0, or --dir DIR");
    if ((o->verify || o->check) && !o->journal_path)
        usage_error(state, "--%s needs --journal FILE", o->verify ? "verify" : "check");
    if (!o->verify && !o->check && (o->journal_path || o->journal_sync))
        usage_error(state, "a journal is for --verify and --check");
    if (o->check && a->have_load)
        usage_error(state, "--check makes no load: it takes --journal, --json, and which volume");
    if (o->verify && !o->writes)
        usage_error(state, "--verify is about writes: --workload write, mixed or seq-write");
    if ((o->flush || o->fua || o->overwrite) && !o->writes)
        usage_error(state, "--workload %s writes nothing: what are --flush, --fua or --overwrite for?", o->workload);
    if (o->flush && o->fua)
        usage_error(state, "--flush and --fua at once: one of them is enough");
    if (a->have_percent && !(o->reads && o->writes))
        usage_error(state, "--read-percent is for --workload mixed");
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct bench_arguments *a = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        arguments_quiet(state);
        return 0;
    case OPT_DIR:
        a->dir = arg;
        return 0;
    case OPT_VOLUME:
        a->volume = arg;
        return 0;
    case OPT_JOURNAL:
        a->o.journal_path = arg;
        return 0;
    case ARGP_KEY_ARG:
        if (a->o.uri)
            usage_error(state, "unexpected argument '%s'", arg);
        a->o.uri = arg;
        return 0;
    case ARGP_KEY_END:
        check_arguments(a, state);
        return 0;
    default:
        return parse_load(a, key, arg, state) || parse_flag(a, key) ? 0 : ARGP_ERR_UNKNOWN;
    }
}

static const struct argp argp = {
    .options = options,
    .parser = parse,
    .args_doc = "[URI]",
    .doc = "Loads an NBD export, and says what it bore. A workload that writes needs --overwrite.\v"
           "With --verify, every write that was acknowledged can be proved to be there afterwards, whatever was killed "
           "meanwhile: qbd bench --check --journal FILE. docs/bench.md has examples.",
};

/* ---- what is loaded ---- */

static int find_uri(struct bench_arguments *a, struct why *why)
{
    static struct cluster_dir d;
    bool exists;
    if (!a->dir) {
        a->o.volume_name = a->o.uri;
        return 0;
    }
    if (cluster_dir_locate(&d, a->dir, &exists, why) < 0)
        return -1;
    if (!exists)
        return because(why, "%s holds no local cluster", a->dir);
    if (cluster_dir_load(&d, why) < 0)
        return -1;
    if (!a->volume)
        a->volume = d.conf.volumes[0].name;
    if (!local_uri(&d, a->volume, a->uri, sizeof a->uri))
        return because(why, "there is no volume %s in %s", a->volume, a->dir);
    a->o.uri = a->uri;
    a->o.volume_name = a->volume;
    return 0;
}

static int fit_to_export(struct bench_options *o, struct why *why)
{
    struct bench_export e;
    char block[32];
    if (bench_look(o->uri, &e, why) < 0)
        return -1;
    if (o->writes && e.read_only)
        return because(why, "%s is read-only", o->volume_name);
    if (o->flush && !e.can_flush)
        return because(why, "the server of %s knows no FLUSH", o->volume_name);
    if (o->fua && !e.can_fua)
        return because(why, "the server of %s knows no FUA", o->volume_name);
    if (o->block_bytes % e.block_min || o->offset % e.block_min)
        return because(why, "%s takes multiples of %" PRIu64 " bytes only", o->volume_name, e.block_min);
    if (o->verify && (o->block_bytes % BLOCK_SIZE || o->offset % BLOCK_SIZE))
        return because(why, "--verify stamps blocks of 4 KiB: --block-size and --offset are multiples of it");
    if (o->offset >= e.size || (o->size && o->size > e.size - o->offset))
        return because(why, "%s has %" PRIu64 " bytes: that part is not in it", o->volume_name, e.size);
    o->size = o->size ? o->size : e.size - o->offset;
    if (o->size < o->block_bytes)
        return because(why, "no block of %s fits there", bench_size(o->block_bytes, block));
    uint64_t n = o->size / o->block_bytes, wanted = 2 * (uint64_t)o->connections * o->depth;
    o->size = n * o->block_bytes;
    if (o->verify && n < wanted)
        return because(why,
                       "--verify never has two writes of one place under way: %" PRIu64 " blocks are too few for %u "
                       "requests at once",
                       n, o->connections * o->depth);
    return 0;
}

/* Nothing is overwritten that its owner did not give up, having been told what it is. */
static int ask_consent(const struct bench_options *o, struct why *why)
{
    char what[256];
    if (!o->writes || o->overwrite)
        return 0;
    if (bench_describe(o, what, sizeof what, why) < 0)
        return -1;
    return because(why,
                   "this would destroy %s. Nothing was written: say --overwrite if it may go, or choose a part of "
                   "the volume with --offset and --size",
                   what);
}

static int begin_journal(const struct bench_options *o, struct journal *j, struct why *why)
{
    struct bench_export e;
    struct journal_header h = {
        .offset = o->offset,
        .block_bytes = o->block_bytes,
        .n_positions = o->size / o->block_bytes,
        .created_s = (uint64_t)time(NULL),
    };
    if (bench_look(o->uri, &e, why) < 0)
        return -1;
    h.volume_bytes = e.size;
    if (snprintf(h.uri, sizeof h.uri, "%s", o->uri) >= (int)sizeof h.uri)
        return because(why, "the URI is too long");
    struct uuid run;
    random_uuid(&run);
    memcpy(&h.run, run.b, sizeof h.run);
    return journal_create(j, o->journal_path, &h, why);
}

static int load(const struct bench_options *o, struct why *why)
{
    static struct bench_result r;
    struct journal j = {.fd = -1};
    if (o->verify && begin_journal(o, &j, why) < 0)
        return -1;
    int err = bench_run(o, o->verify ? &j : NULL, &r, why);
    if (!err && o->verify)
        err = journal_sync(&j, why);
    if (o->verify)
        journal_close(&j);
    if (!err)
        err = bench_report(o, &r, why);
    return err ? err : r.error[0] ? because(why, "%s", r.error) : 0;
}

int command_bench(int argc, char **argv)
{
    static struct bench_arguments a = {
        .o = {
            .workload = "read", .reads = true, .read_percent = 70, .block_bytes = 4096, .depth = 32, .connections = 1}};
    struct why why;
    struct uuid chance;
    random_uuid(&chance);
    memcpy(&a.o.seed, chance.b, sizeof a.o.seed);
    parse_arguments(&argp, argc, argv, &a);
    struct bench_options *o = &a.o;
    if (!a.have_seconds && !o->ops)
        o->seconds = 10;
    int err = find_uri(&a, &why);
    if (!err && o->check) {
        err = bench_check(o, &why);
        if (err >= 0)
            return err;
    }
    if (!err)
        err = fit_to_export(o, &why);
    if (!err)
        err = ask_consent(o, &why);
    if (!err)
        err = load(o, &why);
    if (err)
        fprintf(stderr, "qbd bench: %s\n", why.text);
    return err ? 1 : 0;
}
