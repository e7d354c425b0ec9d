/* A replica whose WAL or disk failed again and again: it stays up only to say so (store.md §2 "Errors"), instead of restarting for ever. */
#include "replica/replica_internal.h"

#include <jansson.h>
#include <stdlib.h>

struct failed {
    struct superblock superblock;
    const char *why;
    int pid;
    struct listener *listener;
};

struct failed_session {
    struct wire_peer peer;
    struct failed *failed;
};

static void send_status(struct failed_session *s, const struct msg *m)
{
    char identity[37], cluster[37];
    json_t *o = json_pack("{s:s, s:s, s:s, s:s, s:s, s:i, s:s, s:s, s:[]}", "name", s->failed->superblock.name, "role", "replica", "identity",
                          uuid_format(&s->failed->superblock.identity, identity), "cluster",
                          uuid_format(&s->failed->superblock.cluster, cluster), "version", QBD_VERSION, "pid", s->failed->pid, "state",
                          "failed", "reason", s->failed->why, "groups");
    char *text = json_dumps(o, JSON_COMPACT);
    json_decref(o);
    if (!text)
        return;
    struct msg answer = {.type = MSG_STATUS_REPLY, .cookie = m->cookie, .u.status_reply = {.json = text, .len = (uint32_t)strlen(text)}};
    wire_peer_send(&s->peer, &answer);
    free(text);
}

static void on_msg(struct wire_peer *p, const struct msg *m, struct buf *payload)
{
    struct failed_session *s = p->user;
    (void)payload;
    if (m->type == MSG_STATUS) {
        send_status(s, m);
        return;
    }
    if (m->type != MSG_HELLO || m->u.hello.role != ROLE_TOOL) {
        wire_peer_refuse(p, "%s has failed: %s", s->failed->superblock.name, s->failed->why);
        return;
    }
    struct msg hello = {.type = MSG_HELLO,
                        .u.hello = {.version = WIRE_VERSION,
                                    .role = ROLE_REPLICA,
                                    .cluster = s->failed->superblock.cluster,
                                    .identity = s->failed->superblock.identity}};
    memcpy(hello.u.hello.name, s->failed->superblock.name, sizeof hello.u.hello.name);
    wire_peer_send(p, &hello);
}

static void on_closed(struct wire_peer *p, int err, const char *reason)
{
    (void)err;
    (void)reason;
    free(p->user);
}

static const struct wire_handler handler = {.on_msg = on_msg, .on_closed = on_closed};

static void on_accept(struct listener *l, struct conn *c)
{
    struct failed_session *s = calloc(1, sizeof *s);
    if (!s)
        abort();
    s->failed = l->user;
    wire_peer_accept(&s->peer, c, &handler, s);
}

int replica_open_failed(struct reactor *r, const struct superblock *sb, const char *listen_address, int pid, const char *why)
{
    struct buf *b = buf_alloc_must(r->arena, sizeof(struct failed)); /* lives as long as the reactor */
    struct failed *f = (void *)b->data;
    *f = (struct failed){.superblock = *sb, .why = why, .pid = pid};
    int err = io_listen(r, listen_address, on_accept, f, &f->listener);
    if (err)
        buf_unref(b);
    return err;
}
