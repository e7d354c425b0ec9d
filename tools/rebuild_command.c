/* The command qbd rebuild: its arguments, and what it says at the end. The work is rebuild.c's. */
#include "tools/rebuild.h"

#include <stdio.h>

enum { OPT_LOST = 256, OPT_ONTO, OPT_ADD, OPT_REMOVE, OPT_DRY_RUN, OPT_LIVE, OPT_FRONTEND };

static const struct argp_option options[] = {
    {"lost", OPT_LOST, "REPLICA", 0, "Replace this one, whose disk is lost", 1},
    {"onto", OPT_ONTO, "REPLICA", 0, "... by this one (default: the fresh disk under the lost one's name, or the only replica that has none of the volume)", 1},
    {"add", OPT_ADD, "REPLICA", 0, "Let this one hold the data as well", 1},
    {"remove", OPT_REMOVE, "REPLICA", 0, "Let this one hold it no longer", 1},
    {"frontend", OPT_FRONTEND, "ADDR", 0, "The status address of the front end that holds the volume (a local cluster knows its own); again for more", 2},
    {"live", OPT_LIVE, NULL, 0, "Replace a replica that is alive and complete", 2},
    {"dry-run", OPT_DRY_RUN, NULL, 0, "Say what would be done and what redundancy remains, and do nothing", 2},
    {"quiet", 'q', NULL, 0, "No progress", 2},
    {0},
};

static void check_arguments(const struct rebuild_arguments *a, const struct argp_state *state)
{
    unsigned verbs = !!a->lost + !!a->add + !!a->remove;
    if (verbs != 1)
        usage_error(state, "say one of --lost REPLICA [--onto REPLICA], --add REPLICA, --remove REPLICA");
    if (a->onto && !a->lost)
        usage_error(state, "--onto goes with --lost");
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct rebuild_arguments *a = state->input;
    switch (key) {
    case 'q':
        a->quiet = true;
        return 0;
    case OPT_LOST:
        a->lost = arg;
        return 0;
    case OPT_ONTO:
        a->onto = arg;
        return 0;
    case OPT_ADD:
        a->add = arg;
        return 0;
    case OPT_REMOVE:
        a->remove = arg;
        return 0;
    case OPT_LIVE:
        a->live = true;
        return 0;
    case OPT_DRY_RUN:
        a->dry_run = true;
        return 0;
    case OPT_FRONTEND:
        if (a->n_frontends == FRONTENDS_MAX)
            usage_error(state, "--frontend: at most %d", FRONTENDS_MAX);
        a->frontend[a->n_frontends++] = arg;
        return 0;
    case ARGP_KEY_END:
        check_arguments(a, state);
        return 0;
    default:
        return which_cluster_parse(key, arg, state, &a->which);
    }
}

static const struct argp argp = {
    .options = options,
    .parser = parse,
    .doc = "Changes which replicas hold the volumes' data, while the volumes serve: replaces one whose disk is lost, adds one, "
           "or takes one out. It can be interrupted and given again at any time.",
    .children = which_cluster_children,
};

int command_rebuild(int argc, char **argv)
{
    struct rebuild_arguments a = {0};
    static struct rebuild b;
    struct why why = {""};
    parse_arguments(&argp, argc, argv, &a);
    b.session = -1;
    b.quiet = a.quiet;
    int err = rebuild_load(&b, &a.which, &why);
    for (unsigned i = 0; i < a.n_frontends && b.n_frontends < REBUILD_FRONTENDS_MAX - 1; i++)
        snprintf(b.frontend[b.n_frontends++], CONFIG_ADDRESS_MAX, "%s", a.frontend[i]);
    rebuild_catch_signals();
    if (!err)
        err = rebuild_run(&b, &a, &why);
    if (err && b.bar_shown)
        fputc('\n', stderr);
    return command_end("qbd rebuild", err, &why);
}
