/* qbd: the operator's command. Each sub-command parses its own arguments; this file only finds it. */
#include "tools/cli.h"

#include <signal.h>
#include <stdio.h>

struct subcommand {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *summary;
};

static const struct subcommand subcommands[] = {
    {"local", command_local,
     "a whole cluster on this machine: start, stop, status, pid, uri, kill, pause, resume, restart, wipe, add"},
    {"status", command_status, "how a cluster is: redundancy, who holds each volume, where each replica stands"},
    {"scrub", command_scrub, "have all replicas read back and compare what they hold, and repair it"},
    {"volume", command_volume, "create a volume that the configuration describes"},
    {"trace", command_trace, "where writes spend their time now: front end, each replica, its log; which member makes them slow"},
    {"metrics", command_metrics, "the cluster's metrics for Prometheus, over HTTP or printed once"},
    {"bench", command_bench, "a load on a volume: what it bears, how long requests take, and whether every acknowledged write is there"},
    {"recover", command_recover, "the last resort when a majority of a volume's disks is lost: what one survivor holds"},
    {"rebuild", command_rebuild, "replace a lost replica, add one, take one out, while the volumes serve"},
};

static void usage(FILE *f)
{
    fprintf(f, "Usage: qbd COMMAND [OPTION...]\n\n");
    for (size_t i = 0; i < ARRAY_LEN(subcommands); i++)
        fprintf(f, "  %-8s %s\n", subcommands[i].name, subcommands[i].summary);
    fprintf(f, "\nqbd COMMAND --help tells more about each.\n");
}

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    if (argc >= 2 && strcmp(argv[1], "--version") == 0) {
        printf("qbd %s\n", QBD_VERSION);
        return 0;
    }
    if (argc >= 2 && strcmp(argv[1], "--help") == 0) {
        usage(stdout);
        return 0;
    }
    for (size_t i = 0; argc >= 2 && i < ARRAY_LEN(subcommands); i++) {
        if (strcmp(argv[1], subcommands[i].name) != 0)
            continue;
        char name[64];
        snprintf(name, sizeof name, "qbd %s", subcommands[i].name);
        argv[1] = name; /* how it calls itself in its messages */
        return subcommands[i].run(argc - 1, argv + 1);
    }
    if (argc >= 2)
        fprintf(stderr, "qbd: there is no command \"%s\"; qbd --help lists them\n", argv[1]);
    else
        usage(stderr);
    return 1;
}
