/* qbd volume: creating a volume's group on its replicas, as the cluster's configuration describes it.
 *
 * CREATE is idempotent for the same content, so an interrupted creation is repeated, not repaired. */
#include <argp.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/config.h"
#include "base/log.h"
#include "tools/client.h"
#include "tools/which_cluster.h"

#define TIMEOUT_MS 5000u

struct arguments {
    struct which_cluster which;
    const char *verb, *name;
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct arguments *a = state->input;
    switch (key) {
    case ARGP_KEY_ARG:
        if (state->arg_num == 0)
            a->verb = arg;
        else if (state->arg_num == 1)
            a->name = arg;
        else
            usage_error(state, "unexpected argument '%s'", arg);
        return 0;
    case ARGP_KEY_END:
        if (!a->verb || !a->name || strcmp(a->verb, "create") != 0)
            usage_error(state, "say: qbd volume create (--dir DIR | --cluster FILE) NAME");
        return 0;
    default:
        return which_cluster_parse(key, arg, state, &a->which);
    }
}

static const struct argp argp = {
    .parser = parse,
    .args_doc = "create NAME",
    .doc = "Creates a volume that the cluster's configuration describes: its group, on each of its replicas. All of "
           "them must be up.",
    .children = which_cluster_children,
};

static bool same_members(json_t *voters, const struct cluster_config *conf, const struct volume_config *v)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < v->n_replicas; i++) {
        char id[37];
        size_t k;
        json_t *voter;
        uuid_format(&conf->replicas[v->replica[i]].identity, id);
        json_array_foreach(voters, k, voter) n += json_is_string(voter) && strcmp(json_string_value(voter), id) == 0;
    }
    return n == v->n_replicas && n == json_array_size(voters);
}

/* A fresh disk under an old name would take the group as a new, empty one, beside the real one: so all replicas are
 * asked before any is told. */
static int check_on(const struct cluster_config *conf, const struct replica_config *r, const struct volume_config *v,
                    struct why *why)
{
    json_t *status = client_status(r->address, &conf->id, &r->identity, TIMEOUT_MS, why), *g;
    size_t i;
    int err = 0;
    if (!status)
        return -1;
    const char *state = json_string_value(json_object_get(status, "state"));
    if (state && strcmp(state, "up") != 0)
        err = because(why, "it is %s", state);
    json_array_foreach(json_object_get(status, "groups"), i, g)
    {
        if (err || (uint64_t)json_integer_value(json_object_get(g, "group")) != v->group)
            continue;
        uint64_t size = (uint64_t)json_integer_value(json_object_get(g, "size_bytes"));
        if (size != v->size_bytes)
            err = because(why, "group %llu exists there with %llu bytes, not %llu", (unsigned long long)v->group,
                          (unsigned long long)size, (unsigned long long)v->size_bytes);
        else if (!same_members(json_object_get(g, "voters"), conf, v))
            err = because(why, "group %llu exists there with other members", (unsigned long long)v->group);
    }
    json_decref(status);
    return err;
}

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

static int create(const struct arguments *a, struct why *why)
{
    static struct cluster_dir dir;
    struct why cause;
    if (which_cluster_load(&a->which, &dir, why) < 0)
        return -1;
    const struct volume_config *v = config_find_volume(&dir.conf, a->name);
    if (!v)
        return because(why, "%s has no volume %s", a->which.file ? a->which.file : a->which.dir, a->name);
    struct msg m = {.type = MSG_CREATE, .group = v->group, .u.create.size_blocks = v->size_bytes / BLOCK_SIZE};
    m.u.create.membership.n_voters = (uint8_t)v->n_replicas;
    for (uint32_t i = 0; i < v->n_replicas; i++)
        m.u.create.membership.voter[i] = dir.conf.replicas[v->replica[i]].identity;
    for (uint32_t i = 0; i < v->n_replicas; i++) {
        const struct replica_config *r = &dir.conf.replicas[v->replica[i]];
        if (check_on(&dir.conf, r, v, &cause) < 0)
            return because(why, "%s cannot be created: %s: %.300s; nothing was changed", v->name, r->name, cause.text);
    }
    for (uint32_t i = 0; i < v->n_replicas; i++) {
        const struct replica_config *r = &dir.conf.replicas[v->replica[i]];
        if (create_on(&dir.conf, r, &m, &cause) < 0)
            return because(why, "cannot create %s on %s: %.300s; nothing is lost, run it again when that is mended",
                           v->name, r->name, cause.text);
    }
    printf("volume %s (group %llu, %llu bytes) exists on %u replicas\n", v->name, (unsigned long long)v->group,
           (unsigned long long)v->size_bytes, v->n_replicas);
    return 0;
}

int command_volume(int argc, char **argv)
{
    struct arguments a = {0};
    struct why why;
    parse_arguments(&argp, argc, argv, &a);
    return command_end("qbd volume", create(&a, &why), &why);
}
