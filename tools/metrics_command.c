/* The command qbd metrics: a cluster's metrics for Prometheus, over HTTP or once (docs/metrics.md). */
#include "tools/metrics_http.h"

#include <stdlib.h>

#define LISTEN_DEFAULT "127.0.0.1:10909"

struct metrics_arguments {
    struct which_cluster which;
    const char *listen;
    bool once;
    struct metrics_source *source;
};

enum { OPTION_LISTEN = 256, OPTION_ONCE, OPTION_FRONTEND };

static const struct argp_option options[] = {
    {"listen", OPTION_LISTEN, "ADDR:PORT", 0,
     "Where to serve /metrics (default: " LISTEN_DEFAULT
     "); there is no access control, so think before you say anything but a loopback address",
     1},
    {"once", OPTION_ONCE, NULL, 0, "Print the metrics once, and serve nothing", 1},
    {"frontend", OPTION_FRONTEND, "[NAME=]ADDR", 0,
     "The status address of a front end (a local cluster knows its own), and what to call it; again for more", 1},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct metrics_arguments *a = state->input;
    struct why why;
    switch (key) {
    case OPTION_LISTEN:
        a->listen = arg;
        return 0;
    case OPTION_ONCE:
        a->once = true;
        return 0;
    case OPTION_FRONTEND:
        if (metrics_add_frontend(a->source, arg, &why) < 0)
            usage_error(state, "%s", why.text);
        return 0;
    case ARGP_KEY_END:
        if (a->once && a->listen)
            usage_error(state, "--once serves nothing: leave out --listen");
        return 0;
    default:
        return which_cluster_parse(key, arg, state, &a->which);
    }
}

static const struct argp argp = {
    .options = options,
    .parser = parse,
    .doc = "Serves a cluster's metrics for Prometheus, at /metrics. Every daemon is asked anew for each page; one that "
           "does not answer within two seconds is down.",
    .children = which_cluster_children,
};

static int print_once(struct metrics_source *s, struct why *why)
{
    size_t len;
    char *text = metrics_collect(s, &len);
    if (!text)
        return because(why, "out of memory");
    bool good = fwrite(text, 1, len, stdout) == len;
    good &= fflush(stdout) == 0;
    free(text);
    return good ? 0 : because(why, "cannot write the metrics");
}

int command_metrics(int argc, char **argv)
{
    static struct metrics_source source;
    struct metrics_arguments a = {.source = &source};
    struct why why;
    parse_arguments(&argp, argc, argv, &a);
    source.which = a.which;
    int err = metrics_source_open(&source, &why);
    if (!err)
        err = a.once ? print_once(&source, &why) : metrics_serve(&source, a.listen ? a.listen : LISTEN_DEFAULT, &why);
    return command_end("qbd metrics", err, &why);
}
