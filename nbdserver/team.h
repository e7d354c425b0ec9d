/* The services of one front end of several threads, as one to the outside (docs/threads.md): who has which volume, the status of all, what
 * operators order, and the end.
 *
 * What always holds: a service is touched in its own loop alone; what another is to do goes there as a message and comes back as one. The first
 * accepts clients and answers operators. */
#ifndef QBD_NBDSERVER_TEAM_H
#define QBD_NBDSERVER_TEAM_H

#include "nbdserver/service.h"

#define TEAM_STATUS_WAIT_NS NS_PER_S /* a thread that does not say its part by then is named as missing */

/* There and back. */
struct team_call {
    struct reactor_msg msg;
    struct team *team;
    struct service *to;
    void (*there)(struct team_call *c); /* in to's loop: team_return(c) follows, now or later */
    void (*back)(struct team_call *c);  /* in the first's */
};

struct team {
    unsigned n;
    struct service *service[REACTORS_MAX];
    struct nbd_directory directory;
    struct nbd_place place[CONFIG_VOLUMES_MAX];
    struct team_call stop[REACTORS_MAX];
    unsigned n_stopped;
    uint32_t n_calls; /* that have not come back */
};

/* Which of n services has volume number i of those that the front end serves. */
static inline unsigned team_index(uint32_t volume, unsigned n)
{
    return volume % n;
}

/* The services have their volumes (each at least one) and none of their loops runs. With one service: does nothing, it is by itself. */
void team_init(struct team *t, struct service *const *services, unsigned n);
/* In the first's loop: as service_stop() of all; the first's on_stopped is called when all have stopped. */
void team_stop(struct team *t);
/* After that, and the reactors' last turns: service_free() of all. False, and nothing is freed, when something is left. */
bool team_free(struct team *t);

/* ---- for service.c ---- */
bool team_status(struct team *t, struct operator_caller who);
int team_learn_address(struct team *t, struct operator_caller who, const struct uuid *identity, const char *name, const char *address);
/* False: no member has that group. */
bool team_members(struct team *t, uint64_t request, uint64_t group, enum members_verb verb, const struct membership *m);
void team_service_stopped(struct service *s);
void team_return(struct team_call *c);

#endif
