/* What daemons say of themselves, looked at as replicas and volumes: who is how far, who holds what, what redundancy is left. For qbd status, qbd rebuild and qbd recover; the simulator runs it as well.
 *
 * What always holds: a key that a daemon does not send is left out, never guessed. */
#include "tools/status.h"

#include "base/log.h"

#include <inttypes.h>
#include <stdio.h>

#define ASK_TIMEOUT_MS 1500
/* What a store keeps back (replica/slabs.c), in slabs of 64 KiB. */
#define RESERVE_WHOLE_SLABS ((INT64_C(2) << 30) >> 16)
#define RESERVE_MIN_SLABS ((INT64_C(256) << 20) >> 16)

int64_t json_number_or(json_t *o, const char *key, int64_t otherwise)
{
    json_t *v = json_object_get(o, key);
    return json_is_number(v) ? (int64_t)json_number_value(v) : otherwise;
}

const char *json_text_or(json_t *o, const char *key, const char *otherwise)
{
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : otherwise;
}

void replica_view_take(struct replica_view *r, const struct cluster_config *conf, const struct replica_config *config,
                       const struct cluster_dir *d, uint64_t group)
{
    memset(r, 0, sizeof *r);
    r->config = config;
    r->local = d;
    if (d) {
        r->process = cluster_process(d, config->name);
        if (r->process.state != PROCESS_RUNNING)
            return;
    }
    r->status = client_status(config->address, &conf->id, &config->identity, ASK_TIMEOUT_MS, &r->why);
    replica_view_select(r, group);
}

void replica_view_select(struct replica_view *r, uint64_t group)
{
    size_t i;
    json_t *g;
    r->group = NULL;
    json_array_foreach(json_object_get(r->status, "groups"), i, g) if (json_number_or(g, "group", 0) == (int64_t)group)
        r->group = g;
}

void replica_view_drop(struct replica_view *r)
{
    json_decref(r->status);
}

static bool lists_voter(json_t *voters, const struct uuid *identity)
{
    char id[37];
    size_t i;
    json_t *voter;
    uuid_format(identity, id);
    json_array_foreach(voters, i, voter) if (json_is_string(voter) && strcmp(json_string_value(voter), id) == 0)
        return true;
    return false;
}

/* The membership in force is the one in the group's own log; a replica that does not tell it is believed. */
static bool is_voter(const struct replica_view *r)
{
    json_t *voters = json_object_get(r->group, "voters");
    return json_is_array(voters) ? lists_voter(voters, &r->config->identity) : r->group != NULL;
}

/* A new disk under an old name. */
static bool is_no_member(const struct replica_view *r)
{
    return strncmp(json_text_or(r->status, "state", ""), "not a member", 12) == 0;
}

const char *replica_view_state(const struct replica_view *r, const struct cluster_dir *d)
{
    if (d && r->process.state == PROCESS_GONE)
        return cluster_replica_formatted(d, r->config->name) ? "stopped"
               : d->created                                  ? "lost its data"
                                                             : "not formatted";
    if (r->process.state == PROCESS_PAUSED)
        return "paused";
    if (!r->status)
        return "unreachable";
    const char *whole = json_text_or(r->status, "state", "up");
    if (strcmp(whole, "up") != 0)
        return whole;
    return is_voter(r) ? json_text_or(r->group, "state", "up") : "not a member";
}

bool replica_view_up_to_date(const struct replica_view *r)
{
    return is_voter(r) && strcmp(json_text_or(r->status, "state", "up"), "up") == 0 &&
           strcmp(json_text_or(r->group, "state", ""), "up to date") == 0;
}

bool replica_view_streams(const struct replica_view *r)
{
    return is_voter(r) && json_is_true(json_object_get(r->group, "in_stream"));
}

int64_t replica_view_position(const struct replica_view *r)
{
    return json_number_or(r->group, "durable", json_number_or(r->group, "last", -1));
}

int64_t replica_view_behind(const struct replica_view *r, uint64_t commit)
{
    int64_t position = replica_view_position(r);
    if (position < 0)
        return -1;
    return (uint64_t)position >= commit ? 0 : (int64_t)(commit - (uint64_t)position);
}

/* The holder is whom the newest ballot belongs to; its lease, the longest that any replica granted it. */
static void see_holder(struct volume_view *v, const struct replica_view *r, uint64_t *round)
{
    json_t *holder = json_object_get(r->group, "holder");
    const char *name = json_text_or(holder, "name", "");
    int64_t lease_ms = json_number_or(holder, "remaining_ms", 0);
    uint64_t promised = (uint64_t)json_number_or(r->group, "promised_round", 0);
    if (!*name && lease_ms > v->unnamed_lease_ms)
        v->unnamed_lease_ms = lease_ms;
    if (!*name || promised < *round)
        return;
    if (promised > *round || lease_ms > v->lease_ms)
        v->lease_ms = lease_ms;
    *round = promised;
    v->holder = name;
}

/* The group's own size and members are those of the replica that knows most of its log. */
static void see_group(struct volume_view *v, const struct replica_view *r)
{
    uint64_t commit = (uint64_t)json_number_or(r->group, "commit", 0);
    if (!r->group || (v->exists && commit < v->commit))
        return;
    json_t *voters = json_object_get(r->group, "voters");
    v->exists = true;
    v->commit = commit;
    v->size_bytes = (uint64_t)json_number_or(r->group, "size_bytes", (int64_t)v->config->size_bytes);
    if (json_array_size(voters) > 0) {
        v->voters = voters;
        v->n_voters = (uint32_t)json_array_size(voters);
    }
}

/* It may have a group of that number, created by mistake beside the real one. */
static bool is_stranger(const struct volume_view *v, const struct replica_view *r)
{
    return v->voters && !lists_voter(v->voters, &r->config->identity);
}

/* Whether what it holds of the group is gone for good. */
static bool is_lost(const struct volume_view *v, const struct replica_view *r)
{
    if (is_stranger(v, r))
        return true;
    if (r->status) /* one that needs a copy gets it by itself */
        return is_no_member(r) || (strcmp(json_text_or(r->status, "state", "up"), "up") == 0 && !is_voter(r));
    return r->local && r->local->created && r->process.state == PROCESS_GONE &&
           !cluster_replica_formatted(r->local, r->config->name);
}

/* Nothing to give away (store.md "Space"): all but what is promised and the store's own reserve is taken, and no
 * extent is being made. */
static bool has_no_space(const struct replica_view *r)
{
    json_t *store = json_object_get(r->status, "store");
    int64_t total = json_number_or(store, "slabs_total", 0), free_slabs = json_number_or(store, "slabs_free", total);
    int64_t kept = total < RESERVE_WHOLE_SLABS ? total / 8 : total / 64;
    if (total >= RESERVE_WHOLE_SLABS && kept < RESERVE_MIN_SLABS)
        kept = RESERVE_MIN_SLABS;
    return r->group && total > 0 && free_slabs <= json_number_or(store, "slabs_reserved", 0) + kept &&
           !json_is_true(json_object_get(store, "growing"));
}

/* While somebody streams, who takes no part in it does not count; while nobody does, holding all that any replica
 * knows to be chosen is enough. */
static bool counts(const struct volume_view *v, const struct replica_view *r)
{
    if (!replica_view_up_to_date(r) || is_stranger(v, r))
        return false;
    return v->streams ? replica_view_streams(r) : replica_view_behind(r, v->commit) <= 0;
}

void volume_view_take(struct volume_view *v, const struct volume_config *config, struct replica_view *replicas)
{
    *v = (struct volume_view){
        .config = config, .holder = "", .size_bytes = config->size_bytes, .n_voters = config->n_replicas};
    uint64_t round = 0;
    uint32_t n_kept = 0, n_asked = 0;
    bool created = false;
    for (uint32_t i = 0; i < config->n_replicas; i++) {
        struct replica_view *r = &replicas[config->replica[i]];
        replica_view_select(r, config->group);
        see_group(v, r);
        see_holder(v, r, &round);
        v->streams |= replica_view_streams(r);
        v->n_answering += r->status != NULL;
        n_asked += r->status && (is_no_member(r) || strcmp(json_text_or(r->status, "state", "up"), "up") == 0);
        created |= r->local && r->local->created;
    }
    for (uint32_t i = 0; i < config->n_replicas; i++) {
        const struct replica_view *r = &replicas[config->replica[i]];
        v->n_up_to_date += counts(v, r);
        n_kept += !is_lost(v, r);
        v->n_full += has_no_space(r);
    }
    v->n_lost = v->n_voters > n_kept ? v->n_voters - n_kept : 0;
    /* Only when all were asked: those that do not answer may have it. */
    v->not_created = !v->exists && !created && n_asked == config->n_replicas;
}

const char *volume_view_state(const struct volume_view *v, const struct replica_view *r)
{
    if (replica_view_up_to_date(r) && is_stranger(v, r))
        return "not a member";
    if (v->streams && replica_view_up_to_date(r) && !replica_view_streams(r))
        return "joining";
    if (!v->streams && replica_view_up_to_date(r) && !counts(v, r))
        return "behind";
    const char *state = replica_view_state(r, r->local);
    bool empty = !r->group && v->exists && strcmp(state, "not a member") == 0;
    return empty ? "not a member: needs rebuild" : state; /* the volume is there, and this disk has nothing of it */
}

void volume_view_redundancy(const struct volume_view *v, char *buf, size_t cap)
{
    uint32_t n = v->n_voters, majority = n / 2 + 1;
    if (v->not_created) {
        snprintf(buf, cap, "not created");
        return;
    }
    int used = snprintf(buf, cap, "%" PRIu32 " of %" PRIu32 " replicas up to date", v->n_up_to_date, n);
    if (v->n_up_to_date > majority)
        used += snprintf(buf + used, cap - (size_t)used, "; any %" PRIu32 " may fail", v->n_up_to_date - majority);
    else if (v->n_up_to_date == majority)
        used += snprintf(buf + used, cap - (size_t)used, "; none of them may fail");
    else if (v->n_lost > n - majority)
        used += snprintf(buf + used, cap - (size_t)used, "; a majority is lost: %" PRIu32 " replicas need a rebuild",
                         v->n_lost);
    else
        used += snprintf(buf + used, cap - (size_t)used, "; requests wait for %" PRIu32 " more",
                         majority - v->n_up_to_date);
    if (v->n_full >= majority)
        snprintf(buf + used, cap - (size_t)used, "; no space: writes get ENOSPC");
}
