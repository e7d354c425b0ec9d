/* qbd rebuild: which cluster, and writing down who votes in it now. */
#include "tools/rebuild.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int rebuild_load(struct rebuild *b, const struct which_cluster *which, struct why *why)
{
    static struct cluster_dir d;
    if (which_cluster_load(which, &d, why) < 0)
        return -1;
    b->conf = d.conf;
    if (which->file)
        return realpath(which->file, b->conf_path.s) ? 0 : because(why, "cannot tell where %s is", which->file);
    if (cluster_dir_prepare(&d, why) < 0)
        return -1;
    b->local = &d;
    b->conf_path = cluster_path(&d, "", "cluster.conf", "");
    for (uint32_t i = 0; i < d.n_frontends; i++)
        cluster_socket_address(&d, d.frontends[i].name, "status", b->frontend[b->n_frontends++]);
    return 0;
}

/* Indices of the voters in the configuration; false when one is not in it. */
static bool voters_in_config(const struct rebuild *b, uint32_t replica[MEMBERS_MAX])
{
    for (unsigned i = 0; i < b->members.n_voters; i++) {
        uint32_t k = 0;
        while (k < b->conf.n_replicas && !uuid_equal(&b->conf.replicas[k].identity, &b->members.voter[i]))
            k++;
        if (k == b->conf.n_replicas)
            return false;
        replica[i] = k;
    }
    return true;
}

/* Under the directory's lock, into what is there now: another command may have added a component meanwhile. */
static int record_local(struct rebuild *b, const uint32_t replica[MEMBERS_MAX], struct why *why)
{
    struct cluster_dir *d = b->local;
    int lock = cluster_dir_lock(d, why), err = -1;
    if (lock < 0)
        return -1;
    static struct cluster_dir fresh;
    memset(&fresh, 0, sizeof fresh);
    memcpy(fresh.dir, d->dir, sizeof fresh.dir);
    if (cluster_dir_load(&fresh, why) == 0) {
        for (uint32_t i = 0; i < fresh.conf.n_volumes; i++) {
            struct volume_config *v = &fresh.conf.volumes[i];
            if (v->group != b->volume->group)
                continue;
            v->n_replicas = b->members.n_voters;
            memcpy(v->replica, replica, b->members.n_voters * sizeof replica[0]);
        }
        fresh.founding = b->members;
        fresh.founding.slot = 0;
        err = cluster_dir_save(&fresh, why);
    }
    close(lock);
    return err;
}

int rebuild_record(struct rebuild *b, struct why *why)
{
    uint32_t replica[MEMBERS_MAX];
    bool same = voters_in_config(b, replica) && b->volume->n_replicas == b->members.n_voters;
    if (!voters_in_config(b, replica))
        return because(why, "%s votes with a replica that the configuration does not have: add it there", b->volume->name);
    for (unsigned i = 0; i < b->members.n_voters && same; i++) {
        bool listed = false;
        for (unsigned k = 0; k < b->volume->n_replicas; k++)
            listed |= b->volume->replica[k] == replica[i];
        same = listed;
    }
    if (same)
        return 0;
    if (b->local)
        return record_local(b, replica, why);
    printf("%s: write into %s, and wherever else the configuration is: replicas =", b->volume->name, b->conf_path.s);
    for (unsigned i = 0; i < b->members.n_voters; i++)
        printf(" %s", b->conf.replicas[replica[i]].name);
    printf("\n");
    return 0;
}
