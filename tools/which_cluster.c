/* Which cluster a command is about: the options, what is wrong with them, and loading its configuration. */
#include "tools/which_cluster.h"

#include "tools/client.h"

static const struct argp_option options[] = {
    {"dir", 'd', "DIR", 0, "The local cluster in DIR", 0},
    {"cluster", 'c', "FILE", 0, "A cluster's configuration file", 0},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct which_cluster *w = state->input;
    switch (key) {
    case 'd':
        w->dir = arg;
        return 0;
    case 'c':
        w->file = arg;
        return 0;
    case ARGP_KEY_END: /* argp asks the children first: nothing else of the command line counts before this does */
        if (!w->dir == !w->file || !*(w->dir ? w->dir : w->file))
            usage_error(state, "say which cluster: --dir DIR or --cluster FILE");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp argp = {.options = options, .parser = parse};
const struct argp_child which_cluster_children[] = {{&argp, 0, NULL, 0}, {0}};

error_t which_cluster_parse(int key, const char *arg, struct argp_state *state, struct which_cluster *which)
{
    switch (key) {
    case ARGP_KEY_INIT:
        arguments_quiet(state);
        state->child_inputs[0] = which;
        return 0;
    case ARGP_KEY_ARG:
        usage_error(state, "unexpected argument '%s'", arg);
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

int which_cluster_load(const struct which_cluster *w, struct cluster_dir *ret, struct why *why)
{
    bool exists;
    char text[256];
    if (w->dir) /* loading says it when there is none */
        return cluster_dir_locate(ret, w->dir, &exists, why) < 0 ? -1 : cluster_dir_load(ret, why);
    memset(ret, 0, sizeof *ret);
    if (client_require_file(w->file, why) < 0)
        return -1;
    return config_load(w->file, &ret->conf, text) < 0 ? because(why, "%s", text) : 0;
}
