/* qbd volume: creating a volume's group on its replicas, as the cluster's configuration describes it.
 *
 * CREATE is idempotent for the same content, so an interrupted creation is repeated, not repaired. */
#include <argp.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/config.h"
#include "tools/client.h"

#define TIMEOUT_MS 5000u

struct arguments {
    const char *cluster, *verb, *name;
};

static const struct argp_option options[] = {
    {"cluster", 'c', "FILE", 0, "The cluster's configuration", 0},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct arguments *a = state->input;
    switch (key) {
    case 'c':
        a->cluster = arg;
        return 0;
    case ARGP_KEY_ARG:
        if (state->arg_num == 0)
            a->verb = arg;
        else if (state->arg_num == 1)
            a->name = arg;
        else
            argp_error(state, "unexpected argument '%s'", arg);
        return 0;
    case ARGP_KEY_END:
        if (!a->cluster || !a->verb || !a->name || strcmp(a->verb, "create") != 0)
            argp_error(state, "say: qbd volume create --cluster FILE NAME");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp argp = {
    .options = options,
    .parser = parse,
    .args_doc = "create NAME",
    .doc = "Creates a volume that the cluster's configuration describes: its group, on each of its replicas. All of "
           "them must be up.",
};

static int create_on(const struct cluster_config *conf, const struct replica_config *r, const struct msg *create,
                     struct why *why)
{
    struct client c;
    if (client_open(&c, r->address, &conf->id, &r->identity, TIMEOUT_MS, why) < 0)
        return -1;
    struct msg m = *create, answer;
    m.target = r->identity;
    int err = client_call(&c, &m, MSG_CREATED, &answer, why);
    if (err == 0 && answer.u.created.error)
        err = because(why, "%s",
                      answer.u.created.error == EEXIST ? "the group exists there with another size or other members"
                                                       : strerror(abs(answer.u.created.error)));
    client_close(&c);
    return err;
}

int command_volume(int argc, char **argv)
{
    struct arguments a = {0};
    argp_parse(&argp, argc, argv, 0, NULL, &a);
    static struct cluster_config conf;
    char text[256];
    if (config_load(a.cluster, &conf, text) < 0) {
        fprintf(stderr, "qbd volume: %s\n", text);
        return 1;
    }
    const struct volume_config *v = config_find_volume(&conf, a.name);
    if (!v) {
        fprintf(stderr, "qbd volume: %s has no volume %s\n", a.cluster, a.name);
        return 1;
    }
    struct msg create = {.type = MSG_CREATE, .group = v->group, .u.create.size_blocks = v->size_bytes / BLOCK_SIZE};
    create.u.create.membership.n_voters = (uint8_t)v->n_replicas;
    for (uint32_t i = 0; i < v->n_replicas; i++)
        create.u.create.membership.voter[i] = conf.replicas[v->replica[i]].identity;
    for (uint32_t i = 0; i < v->n_replicas; i++) {
        const struct replica_config *r = &conf.replicas[v->replica[i]];
        struct why why;
        if (create_on(&conf, r, &create, &why) < 0) {
            fprintf(stderr,
                    "qbd volume: cannot create %s on %s: %s; nothing is lost, run it again when that is mended\n",
                    v->name, r->name, why.text);
            return 1;
        }
    }
    printf("volume %s (group %llu, %llu bytes) exists on %u replicas\n", v->name, (unsigned long long)v->group,
           (unsigned long long)v->size_bytes, v->n_replicas);
    return 0;
}
