/* The network's parts, for sim_net.c (what is between processes) and sim_conn.c (a process's end).
 *
 * A wire is a connection seen from outside: two pipes, one per direction, and up to two ends. An end leaves when its
 * process closes it or dies; what is in the pipe by then still arrives. */
#ifndef QBD_TESTS_SIM_SIM_NET_H
#define QBD_TESTS_SIM_SIM_NET_H

#include "tests/sim/sim_internal.h"

enum piece_kind { PIECE_DATA, PIECE_OPEN, PIECE_FIN, PIECE_RST };

/* What travels as one. Pieces of a pipe arrive in order. */
struct sim_piece {
    struct list node;
    enum piece_kind kind;
    uint64_t at_ns;
    uint32_t len;
    uint8_t data[];
};

struct sim_pipe {
    struct sim_wire *wire;
    struct sim_link *link;
    struct list pieces;
    struct sim_event arrival; /* of the first piece */
    struct sim_event space;   /* the sender hears that there is room again */
    uint64_t last_at_ns;
    uint64_t retry_ns; /* how long the next attempt waits while the link is down */
    size_t held;       /* bytes in flight or unread */
    uint8_t *rx;       /* arrived and unread: up to config.pipe_bytes */
    size_t rx_cap;
    size_t rx_head, rx_n;
    bool fin; /* the sender's orderly end has arrived */
    bool rst_queued;
};

struct sim_wire {
    struct list node; /* in sim_net.wires */
    struct sim_world *world;
    uint32_t id;
    struct sim_host *host[2];
    struct sim_sock *end[2]; /* 0: who connected. NULL: gone */
    bool silent[2];          /* gone by a power cut: nobody there to say so */
    struct sim_pipe pipe[2]; /* pipe[i]: from end i to the other */
    struct sim_event syn;
    uint64_t syn_deadline_ns;
    uint64_t syn_retry_ns;
    char address[112];
};

/* An unsent segment of a process. */
struct sim_out {
    struct list node;
    struct buf *buf;
    const uint8_t *ptr;
    uint32_t len;
    uint8_t copy[];
};

struct sim_sock {
    struct conn c;
    struct sim_reactor *reactor;
    struct list node; /* in sim_reactor.conns */
    struct list kick_node;
    struct list backlog_node;
    struct sim_ready ready;
    struct sim_wire *wire; /* NULL once it left */
    unsigned side;
    uint32_t id;
    bool outgoing;
    bool established; /* bytes may flow */
    bool told;        /* on_open or on_accept was called */
    bool paused;
    bool fresh; /* something in the window was not presented yet */
    bool finishing;
    bool closed;  /* conn_close(), or all of conn_finish()'s is out: on_closed() is due */
    bool blocked; /* the pipe was full */
    bool drained_due;
    int failed; /* errno: on_closed() is due */
    bool moving; /* between two reactors of its process: nobody's, and told nothing */
    struct reactor_msg move;
    struct sim_reactor *move_to;
    void (*moved)(struct conn *c);
    struct list out;
    size_t unsent, low_water;
    uint8_t *into;
    size_t into_left;
};

struct sim_listener {
    struct listener l;
    struct sim_reactor *reactor;
    struct list node;     /* in sim_reactor.listeners */
    struct list net_node; /* in sim_net.listeners */
    struct list backlog;  /* sim_sock, established, not yet accepted */
    struct sim_ready ready;
    bool closed;
};

struct sim_link_node {
    struct list node;
    struct sim_host *from, *to;
    struct sim_link link;
};

/* Where an address was last listened on: a refusal comes from there. */
struct sim_place {
    struct list node;
    struct sim_host *host;
    char address[112];
};

struct sim_net {
    struct list wires, listeners, links, places;
    uint32_t n_wires, n_socks, next_port;
};

/* sim_net.c */
void sim_wire_drop_end(struct sim_wire *w, unsigned side, bool silent); /* the process's end leaves; tells nobody */
void sim_pipe_put(struct sim_pipe *p, enum piece_kind kind, struct sim_piece *piece); /* piece NULL: one without data */
size_t sim_pipe_room(const struct sim_pipe *p);
void sim_pipe_consume(struct sim_pipe *p, size_t n); /* the receiver took n of rx */
int sim_address_check(const char *address);          /* 0, -EINVAL */
struct sim_wire *sim_wire_new(struct sim_sock *from, const char *address);

/* sim_conn.c */
struct sim_sock *sim_sock_new(struct sim_reactor *r, struct sim_wire *w, unsigned side);
void sim_sock_wake(struct sim_sock *s);
void sim_sock_fail(struct sim_sock *s, int err);

#endif
