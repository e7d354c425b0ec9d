/* qbd recover: when a majority of a volume's disks is lost for ever, what one survivor holds becomes the volume (docs/rebuild.md "Recovery"). Never automatic.
 *
 * What was acknowledged with votes of the lost disks alone is gone; what the survivor has and was never acknowledged stays. The survivor is then the only voter;
 * qbd rebuild --add gives it company again. The old voters' disks must never serve again: they could form a majority of the old kind. */
#include "tools/rebuild.h"

#include "base/log.h"

#include <argp.h>
#include <stdio.h>

#define RECOVER_TIMEOUT_MS 30000u
#define POLL_MS 200u

struct recover_arguments {
    struct which_cluster which;
    const char *from, *volume;
    bool accepted;
};

enum { OPT_FROM = 256, OPT_VOLUME, OPT_ACCEPT };

static const struct argp_option options[] = {
    {"from", OPT_FROM, "REPLICA", 0, "The survivor whose data becomes the volume", 1},
    {"volume", OPT_VOLUME, "NAME", 0, "The volume (may be left out when there is one)", 1},
    {"i-accept-data-loss", OPT_ACCEPT, NULL, 0, "Do it; without this it only says what would be done", 2},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct recover_arguments *a = state->input;
    switch (key) {
    case OPT_FROM:
        a->from = arg;
        return 0;
    case OPT_VOLUME:
        a->volume = arg;
        return 0;
    case OPT_ACCEPT:
        a->accepted = true;
        return 0;
    case ARGP_KEY_END:
        if (!a->from)
            usage_error(state, "say --from REPLICA: the survivor");
        return 0;
    default:
        return which_cluster_parse(key, arg, state, &a->which);
    }
}

static const struct argp argp = {
    .options = options,
    .parser = parse,
    .doc = "The last resort: a majority of a volume's disks is lost for ever. What one survivor holds becomes the volume. Writes that were acknowledged "
           "may be missing from it. The lost disks must never be started again.",
    .children = which_cluster_children,
};

/* The survivor, fit for it; the voters that are given up are named. */
static int check(struct rebuild *b, const char *from, struct why *why)
{
    unsigned n = b->members.n_voters, complete = rebuild_complete_voters(b, NULL);
    struct replica_view *r = rebuild_view_named(b, from);
    if (!r)
        return because(why, "the configuration has no replica %s", from);
    if (!r->status)
        return because(why, "%s does not answer: start it, its data is what is to be recovered", from);
    if (!r->group)
        return because(why, "%s has nothing of %s", from, b->volume->name);
    if (n == 1 && uuid_equal(&b->members.voter[0], &r->config->identity))
        return because(why, "%s is the only voter of %s: there is nothing to recover", from, b->volume->name);
    if (complete >= n / 2 + 1)
        return because(why, "%u of the %u voters of %s are there and complete: nothing is lost, the volume serves with them", complete, n, b->volume->name);
    if (!json_is_true(json_object_get(r->group, "complete")))
        return because(why, "%s does not hold a complete copy of %s itself", from, b->volume->name);
    for (unsigned i = 0; i < n; i++) {
        struct replica_view *o = rebuild_view_of(b, &b->members.voter[i]);
        if (o && o != r && o->group && json_is_true(json_object_get(o->group, "complete")) &&
            json_number_or(o->group, "last", 0) > json_number_or(r->group, "last", 0))
            return because(why, "%s survives as well and has more (slot %lld, %s has %lld): recover from it", o->config->name,
                           (long long)json_number_or(o->group, "last", 0), from, (long long)json_number_or(r->group, "last", 0));
    }
    return 0;
}

static void say(struct rebuild *b, const char *from)
{
    char id[37];
    struct replica_view *r = rebuild_view_named(b, from);
    printf("%s: what %s holds becomes the volume: everything through slot %lld, of which %lld is known to have been agreed on\n", b->volume->name, from,
           (long long)json_number_or(r->group, "last", 0), (long long)json_number_or(r->group, "commit", 0));
    for (unsigned i = 0; i < b->members.n_voters; i++)
        if (!uuid_equal(&b->members.voter[i], &r->config->identity))
            printf("%s: %s (%s) is given up; its disk must never be started again\n", b->volume->name, rebuild_name_of(b, &b->members.voter[i], id),
                   uuid_format(&b->members.voter[i], id));
}

static int recover(struct rebuild *b, const struct recover_arguments *a, struct why *why)
{
    rebuild_look(b);
    if (rebuild_read_membership(b, why) < 0 || check(b, a->from, why) < 0)
        return -1;
    say(b, a->from);
    if (!a->accepted) {
        printf("%s: nothing was done; add --i-accept-data-loss to do it\n", b->volume->name);
        return 0;
    }
    const struct replica_config *r = rebuild_view_named(b, a->from)->config;
    struct msg m = {.type = MSG_RECOVER, .group = b->volume->group, .target = r->identity};
    random_uuid(&m.ballot.proposer);
    if (rebuild_call_done(r->address, b, &r->identity, &m, RECOVER_TIMEOUT_MS, why) < 0)
        return -1;
    uint64_t until = now_ms() + RECOVER_TIMEOUT_MS;
    for (;;) {
        rebuild_look(b);
        if (rebuild_read_membership(b, why) < 0)
            return -1;
        if (b->members.n_voters == 1 && uuid_equal(&b->members.voter[0], &r->identity))
            break;
        if (now_ms() > until)
            return because(why, "%s does not say that it is the only voter of %s now: look at its log", a->from, b->volume->name);
        sleep_ms(POLL_MS);
    }
    printf("%s: %s is its only voter now; qbd rebuild --add REPLICA makes more copies\n", b->volume->name, a->from);
    return rebuild_record(b, why);
}

int command_recover(int argc, char **argv)
{
    struct recover_arguments a = {0};
    static struct rebuild b;
    struct why why = {""};
    parse_arguments(&argp, argc, argv, &a);
    int err = rebuild_load(&b, &a.which, &why);
    if (!err && !a.volume && b.conf.n_volumes != 1)
        err = because(&why, "there are %u volumes: say which with --volume", b.conf.n_volumes);
    for (uint32_t i = 0; i < b.conf.n_volumes && !err; i++)
        if (!a.volume || strcmp(b.conf.volumes[i].name, a.volume) == 0)
            b.volume = &b.conf.volumes[i];
    if (!err && !b.volume)
        err = because(&why, "the configuration has no volume %s", a.volume);
    if (!err)
        err = recover(&b, &a, &why);
    for (uint32_t i = 0; i < b.conf.n_replicas; i++)
        replica_view_drop(&b.view[i]);
    return command_end("qbd recover", err, &why);
}
