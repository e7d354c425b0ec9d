/* A cluster's metrics as a page: whom there is something to say of, and what. See metrics.h. */
#include "tools/metrics.h"

#include "base/log.h"
#include "tools/metrics_table.h"

#include <stdlib.h>

static json_t *of_group(json_t *array, uint64_t group)
{
    size_t i;
    json_t *g;
    json_array_foreach(array, i, g) if (json_number_or(g, "group", -1) == (int64_t)group) return g;
    return NULL;
}

/* ---- the page ---- */

/* One replica and one volume that it is to have, or has. */
struct part {
    const struct volume_view *volume;
    const struct replica_view *replica;
    json_t *group, *copy, *scrub; /* borrowed, or NULL */
    const char *state;
    double behind; /* -1: unknown */
};

/* One front end and one volume that it speaks of; one of its replicas. */
struct session {
    const struct frontend_view *frontend;
    json_t *volume;
    const char *name;
};

struct peer {
    const struct session *session;
    json_t *replica;
    const char *name;
};

struct page {
    struct metrics_text text;
    struct metrics_input *in;
    char cluster[37];
    struct volume_view volumes[CONFIG_VOLUMES_MAX];
    struct part *parts;
    struct session *sessions;
    struct peer *peers;
    size_t n_parts, n_sessions, n_peers;
};

static void put(struct page *p, const struct metric_family *m, double value, struct metric_label a,
                struct metric_label b, struct metric_label c)
{
    const struct metric_label labels[METRIC_LABELS_MAX] = {{"cluster", p->cluster}, a, b, c};
    metrics_sample(&p->text, m, labels, value);
}

static const struct metric_label none = {NULL, NULL};
#define LABEL(name, value) ((struct metric_label){name, value})

static void *grown(void *array, size_t n, size_t size)
{
    if (n & (n - 1)) /* full only at powers of two */
        return array;
    array = realloc(array, (n ? 2 * n : 1) * size);
    if (!array)
        abort(); /* out of memory, in a tool that has nothing to lose */
    return array;
}

/* ---- who is there ---- */

static void find_parts(struct page *p)
{
    const struct cluster_config *conf = p->in->conf;
    for (uint32_t i = 0; i < conf->n_volumes; i++) {
        const struct volume_config *v = &conf->volumes[i];
        volume_view_take(&p->volumes[i], v, p->in->replicas);
        for (uint32_t k = 0; k < conf->n_replicas; k++) {
            struct replica_view *r = &p->in->replicas[k];
            bool listed = false;
            for (uint32_t l = 0; l < v->n_replicas; l++)
                listed |= v->replica[l] == k;
            replica_view_select(r, v->group);
            if (!listed && !r->group)
                continue; /* the configuration names a new one only when a rebuild is through */
            p->parts = grown(p->parts, p->n_parts, sizeof *p->parts);
            p->parts[p->n_parts++] = (struct part){
                .volume = &p->volumes[i],
                .replica = r,
                .group = r->group,
                .copy = json_object_get(r->group, "copy"),
                .scrub = of_group(json_object_get(json_object_get(r->status, "scrub"), "groups"), v->group),
                .state = volume_view_state(&p->volumes[i], r),
                .behind = (double)replica_view_behind(r, p->volumes[i].commit)};
        }
    }
}

static bool named_before(json_t *array, size_t i, const char *name)
{
    for (size_t k = 0; k < i; k++)
        if (strcmp(json_text_or(json_array_get(array, k), "name", ""), name) == 0)
            return true;
    return false;
}

static bool is_linked(json_t *replica)
{
    return strcmp(json_text_or(replica, "link", ""), "up") == 0;
}

/* During a rebuild there are two of one name, the lost disk and the new one: whose link is up is the one that is meant.
 */
static bool is_the_one(json_t *replicas, size_t i, const char *name)
{
    bool up = is_linked(json_array_get(replicas, i));
    for (size_t k = 0; k < json_array_size(replicas); k++) {
        json_t *o = json_array_get(replicas, k);
        if (k != i && strcmp(json_text_or(o, "name", ""), name) == 0 &&
            (is_linked(o) > up || (is_linked(o) == up && k < i)))
            return false;
    }
    return true;
}

static void find_sessions(struct page *p)
{
    for (uint32_t i = 0; i < p->in->n_frontends; i++) {
        size_t k;
        json_t *v, *volumes = json_object_get(p->in->frontends[i].status, "volumes");
        json_array_foreach(volumes, k, v)
        {
            const char *name = json_text_or(v, "name", "");
            if (!*name || named_before(volumes, k, name))
                continue;
            p->sessions = grown(p->sessions, p->n_sessions, sizeof *p->sessions);
            p->sessions[p->n_sessions++] = (struct session){&p->in->frontends[i], v, name};
        }
    }
    for (size_t i = 0; i < p->n_sessions; i++) {
        size_t k;
        json_t *r, *replicas = json_object_get(p->sessions[i].volume, "replicas");
        json_array_foreach(replicas, k, r)
        {
            const char *name = json_text_or(r, "name", "");
            if (!*name || !is_the_one(replicas, k, name))
                continue;
            p->peers = grown(p->peers, p->n_peers, sizeof *p->peers);
            p->peers[p->n_peers++] = (struct peer){&p->sessions[i], r, name};
        }
    }
}

/* ---- volumes ---- */

static bool volume_fact(const struct volume_view *v, enum volume_fact fact, double *ret)
{
    double majority = v->n_voters / 2 + 1, redundancy = v->n_up_to_date - majority;
    bool held = *v->holder != '\0';
    switch (fact) {
    case V_CREATED:
        *ret = v->exists;
        return v->exists || v->not_created;
    case V_SIZE:
        *ret = (double)v->size_bytes;
        return v->exists;
    case V_VOTERS:
        *ret = v->n_voters;
        return true;
    case V_ANSWERING:
        *ret = v->n_answering;
        return true;
    case V_UP_TO_DATE:
        *ret = v->n_up_to_date;
        return true;
    case V_LOST:
        *ret = v->n_lost;
        return !v->not_created;
    case V_FULL:
        *ret = v->n_full;
        return true;
    case V_REDUNDANCY:
        *ret = redundancy;
        return !v->not_created;
    case V_QUORUM:
        *ret = redundancy >= 0;
        return !v->not_created;
    case V_IN_USE:
        *ret = v->streams;
        return v->n_answering > 0;
    case V_LEASE_HELD:
        *ret = held;
        return v->n_answering > 0;
    case V_LEASE:
        *ret = (double)v->lease_ms / 1000;
        return held;
    case V_COMMIT:
        *ret = (double)v->commit;
        return v->exists;
    case V_FACTS:
        break;
    }
    abort();
}

static void put_volumes(struct page *p)
{
    const struct cluster_config *conf = p->in->conf;
    double value;
    for (enum volume_fact fact = 0; fact < V_FACTS; fact++)
        for (uint32_t i = 0; i < conf->n_volumes; i++)
            if (volume_fact(&p->volumes[i], fact, &value))
                put(p, &metric_volume[fact], value, LABEL("volume", conf->volumes[i].name), none, none);
    for (uint32_t i = 0; i < conf->n_volumes; i++)
        if (*p->volumes[i].holder)
            put(p, &metric_volume_holder, 1, LABEL("volume", conf->volumes[i].name), LABEL("holder", p->volumes[i].holder),
                none);
}

/* ---- replicas ---- */

/* From a place in the log, which counts bytes, to its head. */
static void put_wal(struct page *p, const struct metric_family *m, const char *from)
{
    const struct cluster_config *conf = p->in->conf;
    for (uint32_t i = 0; i < conf->n_replicas; i++) {
        json_t *wal = json_object_get(json_object_get(p->in->replicas[i].status, "store"), "wal");
        int64_t head = json_number_or(wal, "head_lsn", -1), begin = json_number_or(wal, from, -1);
        if (begin >= 0 && head >= begin)
            put(p, m, (double)(head - begin), LABEL("replica", conf->replicas[i].name), none, none);
    }
}

static void put_replicas(struct page *p)
{
    const struct cluster_config *conf = p->in->conf;
    double value;
    for (uint32_t i = 0; i < conf->n_replicas; i++)
        put(p, &metric_replica_up, p->in->replicas[i].status != NULL, LABEL("replica", conf->replicas[i].name), none, none);
    for (uint32_t i = 0; i < conf->n_replicas; i++) {
        const struct replica_view *r = &p->in->replicas[i];
        char identity[37];
        if (r->status)
            put(p, &metric_replica_info, 1, LABEL("replica", r->config->name),
                LABEL("identity", uuid_format(&r->config->identity, identity)),
                LABEL("version", json_text_or(r->status, "version", "")));
    }
    for (uint32_t i = 0; i < conf->n_replicas; i++) {
        json_t *scrub = json_object_get(p->in->replicas[i].status, "scrub");
        if (scrub)
            put(p, &metric_replica_scrub_running, json_object_get(scrub, "now") != NULL,
                LABEL("replica", conf->replicas[i].name), none, none);
    }
    put_wal(p, &metric_replica_wal_live, "tail_lsn");
    put_wal(p, &metric_replica_wal_redo, "redo_lsn");
    for (size_t m = 0; m < metrics_of_replica.n; m++)
        for (uint32_t i = 0; i < conf->n_replicas; i++)
            if (metrics_number(p->in->replicas[i].status, &metrics_of_replica.row[m], &value))
                put(p, &metrics_of_replica.row[m].family, value, LABEL("replica", conf->replicas[i].name), none, none);
}

/* The last one is for words that are not known here. */
static const struct {
    const char *word, *label;
} states[] = {
    {"up to date", "up_to_date"},
    {"joining", "joining"},
    {"behind", "behind"},
    {"needs copy", "needs_copy"},
    {"copying", "copying"},
    {"learner, complete", "learner_complete"},
    {"failed", "failed"},
    {"not a member", "not_a_member"},
    {"not a member: needs rebuild", "needs_rebuild"},
    {"unreachable", "unreachable"},
    {"stopped", "stopped"},
    {"paused", "paused"},
    {"not formatted", "not_formatted"},
    {"lost its data", "lost_its_data"},
    {NULL, "other"},
};

static void put_part(struct page *p, const struct metric_family *m, const struct part *part, double value)
{
    put(p, m, value, LABEL("volume", part->volume->config->name), LABEL("replica", part->replica->config->name), none);
}

static void put_state(struct page *p, const struct part *part)
{
    size_t at = 0;
    while (states[at].word && strcmp(states[at].word, part->state) != 0)
        at++;
    for (size_t i = 0; i < ARRAY_LEN(states); i++)
        put(p, &metric_part_state, i == at, LABEL("volume", part->volume->config->name),
            LABEL("replica", part->replica->config->name), LABEL("state", states[i].label));
}

static void put_parts_told(struct page *p, const struct metrics_table *t, size_t offset)
{
    double value;
    for (size_t m = 0; m < t->n; m++)
        for (size_t i = 0; i < p->n_parts; i++)
            if (metrics_number(*(json_t **)((char *)&p->parts[i] + offset), &t->row[m], &value))
                put_part(p, &t->row[m].family, &p->parts[i], value);
}

static void put_parts(struct page *p)
{
    for (size_t i = 0; i < p->n_parts; i++)
        put_state(p, &p->parts[i]);
    for (size_t i = 0; i < p->n_parts; i++)
        if (p->parts[i].behind >= 0)
            put_part(p, &metric_part_behind, &p->parts[i], p->parts[i].behind);
    for (size_t i = 0; i < p->n_parts; i++)
        if (p->parts[i].group)
            put_part(p, &metric_part_lease, &p->parts[i],
                     (double)json_number_or(json_object_get(p->parts[i].group, "holder"), "remaining_ms", 0) / 1000);
    put_parts_told(p, &metrics_of_part, offsetof(struct part, group));
    for (size_t i = 0; i < p->n_parts; i++)
        if (p->parts[i].group)
            put_part(p, &metric_part_copying, &p->parts[i], p->parts[i].copy != NULL);
    for (size_t i = 0; i < p->n_parts; i++)
        if (p->parts[i].copy)
            put_part(p, &metric_part_refused, &p->parts[i], json_object_get(p->parts[i].copy, "refused") != NULL);
    put_parts_told(p, &metrics_of_copy, offsetof(struct part, copy));
    put_parts_told(p, &metrics_of_part_scrub, offsetof(struct part, scrub));
}

/* ---- front ends ---- */

static void put_frontends(struct page *p)
{
    double value;
    for (uint32_t i = 0; i < p->in->n_frontends; i++)
        put(p, &metric_frontend_up, p->in->frontends[i].status != NULL, LABEL("frontend", p->in->frontends[i].name), none,
            none);
    for (uint32_t i = 0; i < p->in->n_frontends; i++) {
        json_t *o = p->in->frontends[i].status;
        if (o)
            put(p, &metric_frontend_info, 1, LABEL("frontend", p->in->frontends[i].name),
                LABEL("name", json_text_or(o, "name", "")), LABEL("version", json_text_or(o, "version", "")));
    }
    for (size_t m = 0; m < metrics_of_frontend.n; m++)
        for (uint32_t i = 0; i < p->in->n_frontends; i++)
            if (metrics_number(p->in->frontends[i].status, &metrics_of_frontend.row[m], &value))
                put(p, &metrics_of_frontend.row[m].family, value, LABEL("frontend", p->in->frontends[i].name), none, none);
}

static void put_sessions(struct page *p)
{
    static const char *const state[] = {"attached", "held", "waiting"};
    double value;
    for (size_t i = 0; i < p->n_sessions; i++)
        for (size_t k = 0; k < ARRAY_LEN(state); k++)
            put(p, &metric_session_state, strcmp(json_text_or(p->sessions[i].volume, "state", ""), state[k]) == 0,
                LABEL("frontend", p->sessions[i].frontend->name), LABEL("volume", p->sessions[i].name),
                LABEL("state", state[k]));
    for (size_t m = 0; m < metrics_of_session.n; m++)
        for (size_t i = 0; i < p->n_sessions; i++)
            if (metrics_number(p->sessions[i].volume, &metrics_of_session.row[m], &value))
                put(p, &metrics_of_session.row[m].family, value, LABEL("frontend", p->sessions[i].frontend->name),
                    LABEL("volume", p->sessions[i].name), none);
}

static void put_peer(struct page *p, const struct metric_family *m, const struct peer *peer, double value)
{
    put(p, m, value, LABEL("frontend", peer->session->frontend->name), LABEL("volume", peer->session->name),
        LABEL("peer", peer->name));
}

static void put_peers(struct page *p)
{
    double value;
    for (size_t i = 0; i < p->n_peers; i++)
        put_peer(p, &metric_peer_link, &p->peers[i], is_linked(p->peers[i].replica));
    for (size_t i = 0; i < p->n_peers; i++)
        put_peer(p, &metric_peer_stream, &p->peers[i], strcmp(json_text_or(p->peers[i].replica, "stream", ""), "open") == 0);
    for (size_t m = 0; m < metrics_of_peer.n; m++)
        for (size_t i = 0; i < p->n_peers; i++)
            if (metrics_number(p->peers[i].replica, &metrics_of_peer.row[m], &value))
                put_peer(p, &metrics_of_peer.row[m].family, &p->peers[i], value);
}

static void put_exporter(struct page *p)
{
    double errors = 0;
    for (uint32_t i = 0; i < p->in->conf->n_replicas; i++)
        errors += !p->in->replicas[i].status;
    for (uint32_t i = 0; i < p->in->n_frontends; i++)
        errors += !p->in->frontends[i].status;
    put(p, &metric_exporter_info, 1, LABEL("version", QBD_VERSION), none, none);
    put(p, &metric_exporter_config_ok, p->in->config_ok, none, none, none);
    put(p, &metric_exporter_errors, errors, none, none, none);
    put(p, &metric_exporter_seconds, p->in->scrape_seconds, none, none, none);
}

void metrics_write(FILE *f, struct metrics_input *in)
{
    struct page *p = calloc(1, sizeof *p);
    if (!p)
        abort();
    p->text.f = f;
    p->in = in;
    uuid_format(&in->conf->id, p->cluster);
    find_parts(p);
    find_sessions(p);
    put_exporter(p);
    put_volumes(p);
    put_replicas(p);
    put_parts(p);
    put_frontends(p);
    put_sessions(p);
    put_peers(p);
    free(p->parts);
    free(p->sessions);
    free(p->peers);
    free(p);
}

void metrics_list(void (*fn)(void *user, const char *name, const char *type, const char *help), void *user)
{
#define SAY(m) fn(user, (m).name, (m).type, (m).help)
#define SAY_TOLD(table)                                                                                                \
    for (size_t i = 0; i < (table).n; i++)                                                                             \
    SAY((table).row[i].family)
    SAY(metric_exporter_info), SAY(metric_exporter_config_ok), SAY(metric_exporter_errors), SAY(metric_exporter_seconds);
    for (size_t i = 0; i < V_FACTS; i++)
        SAY(metric_volume[i]);
    SAY(metric_volume_holder);
    SAY(metric_replica_up), SAY(metric_replica_info), SAY(metric_replica_scrub_running);
    SAY(metric_replica_wal_live), SAY(metric_replica_wal_redo);
    SAY_TOLD(metrics_of_replica);
    SAY(metric_part_state), SAY(metric_part_behind), SAY(metric_part_lease);
    SAY_TOLD(metrics_of_part);
    SAY(metric_part_copying), SAY(metric_part_refused);
    SAY_TOLD(metrics_of_copy);
    SAY_TOLD(metrics_of_part_scrub);
    SAY(metric_frontend_up), SAY(metric_frontend_info);
    SAY_TOLD(metrics_of_frontend);
    SAY(metric_session_state);
    SAY_TOLD(metrics_of_session);
    SAY(metric_peer_link), SAY(metric_peer_stream);
    SAY_TOLD(metrics_of_peer);
}
