/* The network. */
#include "tests/sim/sim_internal.h"

#include <errno.h>
#include <stdlib.h>
struct sim_net {
    int none;
};
struct sim_net *sim_net_new(struct sim_world *w) { return calloc(1, sizeof(struct sim_net)); }
void sim_net_free(struct sim_world *w) { free(w->net); }
int sim_net_listen(struct reactor *r, const char *address, void (*on_accept)(struct listener *, struct conn *), void *user, struct listener **ret) { return -ENOSYS; }
void sim_net_listener_close(struct listener *l) { }
int sim_net_connect(struct reactor *r, const char *address, const struct conn_handler *h, void *user, struct conn **ret) { return -ENOSYS; }
void sim_net_send(struct conn *c, const struct segment *segs, unsigned n) { }
void sim_net_recv_into(struct conn *c, void *ptr, size_t len) { }
void sim_net_recv_pause(struct conn *c, bool on) { }
size_t sim_net_unsent(const struct conn *c) { return 0; }
void sim_net_set_low_water(struct conn *c, size_t bytes) { }
void sim_net_close(struct conn *c) { }
void sim_net_finish(struct conn *c) { }
void sim_net_kick(struct sim_reactor *r) { }
void sim_net_crash(struct sim_reactor *r, enum sim_crash how) { }
void sim_net_reap(struct sim_reactor *r) { }
