/* qbd bench: a load generator for NBD exports, and the proof that what was acknowledged is there (docs/bench.md).
 *
 * bench_command.c   the command line, and the consent to destroy
 * bench_run.c       the load: connections, requests in flight, what they took
 * bench_report.c    the live view, the report
 * bench_journal.c   what was written and acknowledged (bench_journal.h)
 * bench_check.c     reading back what the journal says */
#ifndef QBD_TOOLS_BENCH_H
#define QBD_TOOLS_BENCH_H

#include "tools/bench_journal.h"
#include "tools/histogram.h"

#define BENCH_CONNECTIONS_MAX 64u
#define BENCH_DEPTH_MAX 1024u
#define BENCH_BLOCK_MAX (UINT64_C(32) << 20)

struct bench_options {
    const char *workload; /* as it was named */
    const char *uri, *volume_name;
    bool reads, writes, sequential;
    unsigned read_percent; /* of a workload that does both */
    uint64_t block_bytes, offset, size;
    unsigned depth, connections;
    double seconds;
    uint64_t ops; /* 0: no limit but the time */
    double rate;  /* requests a second altogether; 0: as fast as it goes */
    double reconnect_s;
    bool flush, fua, overwrite, json, quiet;
    bool verify, journal_sync, check;
    const char *journal_path;
    uint64_t seed;
};

enum bench_kind { BENCH_READ, BENCH_WRITE, BENCH_FLUSH, BENCH_KINDS };

struct bench_side {
    uint64_t bytes;
    struct histogram latency; /* a write's includes its flush */
};

struct bench_result {
    struct bench_side side[BENCH_KINDS];
    double seconds;      /* from the first request until the last answer */
    uint64_t lost;       /* requests whose connection went before an answer came */
    uint64_t unanswered; /* requests that the end of the run no longer waited for */
    uint64_t reconnects;
    uint64_t verified_reads; /* blocks read and compared while the load ran (--verify) */
    bool interrupted;
    char error[WHY_MAX]; /* what ended it early; empty: nothing did */
};

/* What one second was like. */
struct bench_second {
    double at_s;
    uint64_t ops, bytes, in_flight;
    uint64_t p50_ns, p99_ns;
};

/* Nothing but what a server says of an export. */
struct bench_export {
    uint64_t size, block_min;
    bool read_only, can_flush, can_fua;
};

/* bench_run.c. The journal (NULL without --verify) is the caller's. 0, or -1 when it could not begin; a run that ended
 * badly is 0 with ret->error set. */
MUST_USE int bench_run(const struct bench_options *o, struct journal *j, struct bench_result *ret, struct why *why);

/* bench_check.c */
MUST_USE int bench_look(const char *uri, struct bench_export *ret, struct why *why);
/* What is on it, in words, for someone who is about to lose it. */
MUST_USE int bench_describe(const struct bench_options *o, char *buf, size_t cap, struct why *why);
/* Reads back what the journal names. 0 when all is there; 1 when it is not (and says what on stderr); -1. */
MUST_USE int bench_check(const struct bench_options *o, struct why *why);

/* bench_report.c */
void bench_show_second(const struct bench_options *o, const struct bench_second *s);
void bench_hide_second(const struct bench_options *o);
MUST_USE int bench_report(const struct bench_options *o, const struct bench_result *r, struct why *why);
/* "4 KiB", "1.5 GiB" */
const char *bench_size(uint64_t bytes, char buf[32]);

#endif
