/* Asking all daemons of a cluster at once. Each is asked by a thread of its own, for the clients of tools are blocking
 * ones.
 *
 * What always holds: nobody waits for such a thread beyond the limit. One that is late (only the resolver of names can
 * make it so: all else has its own limit) finds the round closed, drops what it brings, and the last who leaves a round
 * frees it. There are never more than ASKERS_MAX threads, however long they take. */
#include "tools/metrics_collect.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#define ASK_TIMEOUT_MS 1500u
#define ASKERS_MAX 256
#define DAEMONS_MAX (CONFIG_REPLICAS_MAX + METRICS_FRONTENDS_MAX)
#define STACK_BYTES (1u << 20)

static_assert(sizeof((struct local_frontend *)0)->name <= sizeof((struct frontend_view *)0)->name,
              "a label holds every name");
static_assert(ASK_TIMEOUT_MS < SCRAPE_LIMIT_MS, "an asker tells why it got no answer before it is given up");

static atomic_int n_askers;

/* One question to every daemon. */
struct round {
    pthread_mutex_t lock;
    pthread_cond_t answered;
    unsigned refs, waiting;
    bool closed;
    struct cluster_dir dir; /* what the views point into */
    bool local;
    struct replica_view replicas[CONFIG_REPLICAS_MAX];
    struct metrics_input in;
    struct asker {
        struct round *round;
        uint32_t number; /* replicas first, then front ends */
    } askers[DAEMONS_MAX];
};

/* ---- the threads ---- */

static void round_unref(struct round *r)
{
    pthread_mutex_lock(&r->lock);
    bool last = --r->refs == 0;
    pthread_mutex_unlock(&r->lock);
    if (!last)
        return;
    for (uint32_t i = 0; i < r->dir.conf.n_replicas; i++)
        replica_view_drop(&r->replicas[i]);
    for (uint32_t i = 0; i < r->in.n_frontends; i++)
        json_decref(r->in.frontends[i].status);
    pthread_cond_destroy(&r->answered);
    pthread_mutex_destroy(&r->lock);
    free(r);
}

static json_t *ask_frontend(const struct round *r, const struct frontend_view *f, struct why *why)
{
    static const struct uuid any;
    bool ours = false;
    for (uint32_t i = 0; i < r->dir.n_frontends; i++)
        ours |= strcmp(r->dir.frontends[i].name, f->name) == 0;
    if (ours && cluster_process(&r->dir, f->name).state != PROCESS_RUNNING) {
        because(why, "it does not run");
        return NULL;
    }
    return client_status(f->address, &r->dir.conf.id, &any, ASK_TIMEOUT_MS, why);
}

/* Reads what does not change after the round began, and writes under its lock. */
static void *asker_main(void *arg)
{
    struct asker *a = arg;
    struct round *r = a->round;
    uint32_t n = r->dir.conf.n_replicas;
    struct replica_view v = {0};
    struct why why = {""};
    json_t *status = NULL;
    if (a->number < n)
        replica_view_take(&v, &r->dir.conf, &r->dir.conf.replicas[a->number], r->local ? &r->dir : NULL, 0);
    else
        status = ask_frontend(r, &r->in.frontends[a->number - n], &why);
    pthread_mutex_lock(&r->lock);
    if (r->closed) {
        replica_view_drop(&v);
        json_decref(status);
    } else if (a->number < n) {
        r->replicas[a->number] = v;
    } else {
        r->in.frontends[a->number - n].status = status;
        r->in.frontends[a->number - n].why = why;
    }
    r->waiting--;
    pthread_cond_signal(&r->answered);
    pthread_mutex_unlock(&r->lock);
    round_unref(r);
    atomic_fetch_sub(&n_askers, 1);
    return NULL;
}

/* What is said of a daemon until it has answered. */
static void expect_nothing(struct round *r, uint32_t number, const char *why)
{
    uint32_t n = r->dir.conf.n_replicas;
    if (number >= n) {
        because(&r->in.frontends[number - n].why, "%s", why);
        return;
    }
    struct replica_view *v = &r->replicas[number];
    /* Whether its process runs is not known: then it is not said to be stopped, or lost. */
    *v = (struct replica_view){
        .config = &r->dir.conf.replicas[number], .local = r->local ? &r->dir : NULL, .process.state = PROCESS_RUNNING};
    because(&v->why, "%s", why);
}

/* Under the lock: an asker waits for it before it writes. */
static void start_asker(struct round *r, uint32_t number)
{
    pthread_t thread;
    pthread_attr_t attr;
    r->askers[number] = (struct asker){.round = r, .number = number};
    expect_nothing(r, number, "no answer in time");
    if (atomic_fetch_add(&n_askers, 1) >= ASKERS_MAX) {
        atomic_fetch_sub(&n_askers, 1);
        expect_nothing(r, number, "too many questions are not answered yet");
        return;
    }
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attr, STACK_BYTES);
    r->refs++;
    r->waiting++;
    if (pthread_create(&thread, &attr, asker_main, &r->askers[number])) {
        r->refs--;
        r->waiting--;
        atomic_fetch_sub(&n_askers, 1);
        expect_nothing(r, number, "cannot start a thread");
    }
    pthread_attr_destroy(&attr);
}

/* ---- a round ---- */

static struct round *round_new(const struct metrics_source *s)
{
    struct round *r = calloc(1, sizeof *r);
    pthread_condattr_t attr;
    if (!r)
        return NULL;
    pthread_mutex_init(&r->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&r->answered, &attr);
    pthread_condattr_destroy(&attr);
    r->refs = 1;
    r->dir = s->conf;
    r->local = s->which.dir != NULL;
    r->in.conf = &r->dir.conf;
    r->in.replicas = r->replicas;
    for (uint32_t i = 0; i < r->dir.n_frontends && r->in.n_frontends < METRICS_FRONTENDS_MAX; i++) {
        struct frontend_view *f = &r->in.frontends[r->in.n_frontends++];
        memcpy(f->name, r->dir.frontends[i].name, sizeof r->dir.frontends[i].name);
        cluster_socket_address(&r->dir, f->name, "status", f->address);
    }
    for (uint32_t i = 0; i < s->n_frontends && r->in.n_frontends < METRICS_FRONTENDS_MAX; i++)
        if (!cluster_find_frontend(&r->dir,
                                   s->frontends[i].name)) /* a local one may have come by that name meanwhile */
            r->in.frontends[r->in.n_frontends++] = s->frontends[i];
    return r;
}

static void round_ask(struct round *r, uint64_t began_ms)
{
    uint64_t until = began_ms + SCRAPE_LIMIT_MS;
    struct timespec t = {.tv_sec = (time_t)(until / 1000), .tv_nsec = (long)(until % 1000) * 1000000};
    pthread_mutex_lock(&r->lock);
    for (uint32_t i = 0; i < r->dir.conf.n_replicas + r->in.n_frontends; i++)
        start_asker(r, i);
    while (r->waiting > 0 && pthread_cond_timedwait(&r->answered, &r->lock, &t) != ETIMEDOUT)
        ;
    r->closed = true;
    pthread_mutex_unlock(&r->lock);
}

char *metrics_collect(struct metrics_source *s, size_t *ret_len)
{
    uint64_t began_ms = now_ms();
    struct cluster_dir *fresh = malloc(sizeof *fresh);
    struct why why;
    char *text = NULL;
    bool read = fresh && which_cluster_load(&s->which, fresh, &why) == 0;
    if (read)
        s->conf = *fresh;
    free(fresh);
    struct round *r = round_new(s);
    if (!r)
        return NULL;
    round_ask(r, began_ms);
    r->in.config_ok = read;
    r->in.scrape_seconds = (double)(now_ms() - began_ms) / 1000;
    FILE *f = open_memstream(&text, ret_len);
    if (f) {
        metrics_write(f, &r->in);
        if (fclose(f) != 0) {
            free(text);
            text = NULL;
        }
    }
    round_unref(r);
    return text;
}

/* ---- the source ---- */

int metrics_add_frontend(struct metrics_source *s, const char *arg, struct why *why)
{
    struct frontend_view *f = &s->frontends[s->n_frontends];
    const char *equals = strchr(arg, '='), *address = arg;
    if (s->n_frontends == METRICS_FRONTENDS_MAX)
        return because(why, "--frontend: at most %d", METRICS_FRONTENDS_MAX);
    *f = (struct frontend_view){0};
    if (equals && equals - arg < NAME_MAX_BYTES) { /* a path may have that sign, too */
        snprintf(f->name, sizeof f->name, "%.*s", (int)(equals - arg), arg);
        if (config_name_is_valid(f->name))
            address = equals + 1;
    }
    if (snprintf(f->address, sizeof f->address, "%s", address) >= (int)sizeof f->address || !strchr(address, ':'))
        return because(why, "--frontend: %.150s is no address ([NAME=]unix:PATH or [NAME=]HOST:PORT)", arg);
    if (address == arg)
        snprintf(f->name, sizeof f->name, "%s", address);
    for (uint32_t i = 0; i < s->n_frontends; i++)
        if (strcmp(s->frontends[i].name, f->name) == 0)
            return because(why, "--frontend: %s is there twice", f->name);
    s->n_frontends++;
    return 0;
}

int metrics_source_open(struct metrics_source *s, struct why *why)
{
    json_object_seed(0); /* before threads need it */
    return which_cluster_load(&s->which, &s->conf, why);
}
