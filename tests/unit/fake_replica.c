/* A replica for tests: see fake_replica.h. */
#include "tests/unit/fake_replica.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/crc32c.h"

struct fake_session {
    struct list link;
    struct wire_peer peer;
    struct fake_replica *fake;
    uint32_t id;
    bool greeted;
};

/* An answer that waits for its record. */
struct held_send {
    struct list link;
    uint64_t after;
    uint32_t to;
    struct msg msg;
    struct run *runs;
    uint64_t *lost;
    struct membership *memberships;
};

struct fake_read {
    struct list link;
    uint32_t session;
    uint64_t due_ns;
    struct msg msg;
};

static struct fake_session *find_session(struct fake_replica *f, uint32_t id)
{
    list_for_each(p, &f->sessions) {
        struct fake_session *s = container_of(p, struct fake_session, link);
        if (s->id == id)
            return s;
    }
    return NULL;
}

static void send_to(struct fake_replica *f, uint32_t id, const struct msg *m)
{
    struct fake_session *s = find_session(f, id);
    if (s)
        wire_peer_send(&s->peer, m);
}

/* ---- answers that wait ---- */

static void *copy_of(const void *p, size_t n)
{
    void *c = malloc(n ? n : 1);
    assert(c);
    if (n)
        memcpy(c, p, n);
    return c;
}

static void hold(struct fake_replica *f, const struct acceptor_effect *e)
{
    struct held_send *h = calloc(1, sizeof *h);
    assert(h);
    h->after = e->after;
    h->to = e->link;
    h->msg = e->msg;
    if (e->msg.type == MSG_PROMISE) {
        h->msg.u.promise.runs = h->runs = copy_of(e->msg.u.promise.runs, e->msg.u.promise.n_runs * sizeof(struct run));
        h->msg.u.promise.lost = h->lost = copy_of(e->msg.u.promise.lost, e->msg.u.promise.n_lost * sizeof(uint64_t));
        h->msg.u.promise.memberships = h->memberships =
            copy_of(e->msg.u.promise.memberships, e->msg.u.promise.n_memberships * sizeof(struct membership));
    } else if (e->msg.type == MSG_MISMATCH) {
        h->msg.u.mismatch.runs = h->runs = copy_of(e->msg.u.mismatch.runs, e->msg.u.mismatch.n_runs * sizeof(struct run));
        h->msg.u.mismatch.lost = h->lost = copy_of(e->msg.u.mismatch.lost, e->msg.u.mismatch.n_lost * sizeof(uint64_t));
    }
    list_push_back(&f->held, &h->link);
}

static void held_free(struct held_send *h)
{
    list_remove(&h->link);
    free(h->runs);
    free(h->lost);
    free(h->memberships);
    free(h);
}

static void release_held(struct fake_replica *f)
{
    list_for_each_safe(p, &f->held) {
        struct held_send *h = container_of(p, struct held_send, link);
        if (h->after > f->acceptor->durable_seq)
            continue;
        send_to(f, h->to, &h->msg);
        held_free(h);
    }
}

/* ---- the map ---- */

static void apply(struct fake_replica *f, uint64_t through)
{
    while (f->applied < through) {
        struct entry *e = f->entry[++f->applied];
        assert(e && e->slot == f->applied);
        assert(e->kind == ENTRY_SESSION || e->kind == ENTRY_MEMBER || e->block + e->nblocks <= FAKE_BLOCKS);
        for (uint32_t i = 0; i < e->nblocks; i++) {
            uint64_t b = e->block + i;
            f->zero[b] = e->kind != ENTRY_WRITE;
            f->crc[b] = f->zero[b] ? CRC32C_ZERO_BLOCK : entry_crcs(e)[i];
            if (f->zero[b])
                memset(f->block[b], 0, BLOCK_SIZE);
            else
                memcpy(f->block[b], entry_block_data(e, i), BLOCK_SIZE);
        }
    }
}

static void put_entry(struct fake_replica *f, uint64_t slot, struct entry *e)
{
    assert(slot < FAKE_SLOTS);
    entry_unref(f->entry[slot]);
    f->entry[slot] = e ? entry_ref(e) : NULL;
}

static void serve_reads(struct fake_replica *f);

static void run_effects(struct fake_replica *f)
{
    for (uint32_t i = 0; i < f->effects.n; i++) {
        const struct acceptor_effect *e = &f->effects.effect[i];
        switch (e->type) {
        case ACCEPTOR_PROMISE:
            f->seq = e->seq;
            break;
        case ACCEPTOR_CUT:
            f->seq = e->seq;
            assert(e->slot > f->applied);
            for (uint64_t s = e->slot; s < FAKE_SLOTS && f->entry[s]; s++)
                put_entry(f, s, NULL);
            break;
        case ACCEPTOR_APPEND:
        case ACCEPTOR_REFILL:
            f->seq = e->seq;
            put_entry(f, e->entry->slot, e->entry);
            break;
        case ACCEPTOR_SEND:
            if (e->after <= f->acceptor->durable_seq)
                send_to(f, e->link, &e->msg);
            else
                hold(f, e);
            break;
        case ACCEPTOR_COMMIT:
            apply(f, e->slot);
            break;
        case ACCEPTOR_BEHIND:
            f->catchup_target = e->target;
            if (!f->catchup_pending) {
                f->catchup_pending = true;
                timer_set(f->reactor, &f->catchup_timer, io_now(f->reactor) + NS_PER_MS);
            }
            break;
        case ACCEPTOR_MEMBERSHIP:
            break;
        }
    }
    f->effects.n = 0;
    if (f->seq > f->acceptor->durable_seq && !f->durable_pending) {
        f->durable_pending = true;
        f->durable_target = f->seq;
        timer_set(f->reactor, &f->durable_timer, io_now(f->reactor) + sim_draw(f->world, f->durable_ns));
    }
    serve_reads(f);
}

static void step(struct fake_replica *f, struct acceptor_event ev)
{
    ev.now_ns = io_now(f->reactor);
    acceptor_step(f->acceptor, &ev, &f->effects);
    acceptor_check(f->acceptor);
    run_effects(f);
}

static void on_durable(struct timer *t)
{
    struct fake_replica *f = container_of(t, struct fake_replica, durable_timer);
    f->durable_pending = false;
    step(f, (struct acceptor_event){.type = ACCEPTOR_DURABLE, .durable_seq = f->durable_target});
    release_held(f);
}

/* ---- catch-up: straight from another fake's memory ---- */

static struct entry *clone(struct fake_replica *f, const struct entry *e)
{
    struct buf *payload = NULL;
    if (e->kind == ENTRY_WRITE) {
        payload = buf_alloc_must(f->reactor->arena, entry_payload_bytes(e));
        memcpy(payload->data, entry_block_data(e, 0), entry_payload_bytes(e));
    }
    struct entry *c = entry_new(f->reactor->arena, e->kind, e->block, e->nblocks, payload, 0);
    assert(c);
    c->group = e->group;
    c->slot = e->slot;
    c->e = e->e;
    if (e->kind == ENTRY_WRITE)
        memcpy(entry_crcs(c), e->u[0].crc, e->nblocks * sizeof(uint32_t));
    return c;
}

static void on_catchup(struct timer *t)
{
    struct fake_replica *f = container_of(t, struct fake_replica, catchup_timer);
    static struct entry *entries[FAKE_EFFECTS - 16];
    f->catchup_pending = false;
    for (unsigned i = 0; i < f->n_peers; i++) {
        struct fake_replica *d = &f->peer[i];
        if (d == f || d->applied <= f->acceptor->commit)
            continue;
        struct log_pos from = acceptor_commit_pos(f->acceptor);
        uint32_t n = 0;
        for (uint64_t s = from.slot + 1; s <= d->applied && n < ARRAY_LEN(entries); s++)
            entries[n++] = clone(f, d->entry[s]);
        step(f, (struct acceptor_event){.type = ACCEPTOR_CAUGHT_UP,
                                        .from = from,
                                        .through = {.slot = entries[n - 1]->slot, .e = entries[n - 1]->e},
                                        .entries = entries,
                                        .n_entries = n});
        for (uint32_t k = 0; k < n; k++)
            entry_unref(entries[k]);
        break;
    }
    if (f->acceptor->commit < f->catchup_target.slot && !f->catchup_pending) {
        f->catchup_pending = true;
        timer_set(f->reactor, t, io_now(f->reactor) + 20 * NS_PER_MS);
    }
}

/* ---- reads ---- */

static void answer_status(struct fake_replica *f, struct fake_session *s, const struct msg *read, enum data_status status)
{
    struct msg m = {.type = MSG_DATA, .cookie = read->cookie, .group = read->group};
    m.u.data.status = status;
    m.u.data.block = read->u.read.block;
    m.u.data.nblocks = read->u.read.nblocks;
    wire_peer_send(&s->peer, &m);
}

static void answer_read(struct fake_replica *f, struct fake_session *s, const struct msg *read)
{
    uint64_t block = read->u.read.block;
    uint32_t n = read->u.read.nblocks, packed = 0;
    uint64_t zero[ENTRY_MAX_BLOCKS / 64] = {0};
    struct buf *b = buf_alloc_must(f->reactor->arena, n * BLOCK_SIZE);
    for (uint32_t i = 0; i < n; i++) {
        if (f->bad[block + i]) {
            buf_unref(b);
            answer_status(f, s, read, DATA_BAD);
            return;
        }
        if (f->zero[block + i]) {
            zero[i / 64] |= UINT64_C(1) << (i % 64);
            continue;
        }
        memcpy(b->data + (size_t)packed * BLOCK_SIZE, f->block[block + i], BLOCK_SIZE);
        if (f->corrupt[block + i])
            b->data[(size_t)packed * BLOCK_SIZE + 77] ^= 4;
        packed++;
    }
    struct msg m = {.type = MSG_DATA, .cookie = read->cookie, .group = read->group};
    m.u.data.status = DATA_OK;
    m.u.data.block = block;
    m.u.data.nblocks = n;
    m.u.data.applied = f->applied;
    m.u.data.crc = &f->crc[block];
    m.u.data.zero = zero;
    m.u.data.payload_len = packed * BLOCK_SIZE;
    struct segment seg = {.buf = b, .ptr = b->data, .len = packed * BLOCK_SIZE};
    if (s->peer.conn)
        wire_send(s->peer.conn, &m, &seg, packed ? 1 : 0);
    buf_unref(b);
    f->n_data++;
}

static void serve_reads(struct fake_replica *f)
{
    uint64_t now = io_now(f->reactor), next = UINT64_MAX;
    list_for_each_safe(p, &f->reads) {
        struct fake_read *r = container_of(p, struct fake_read, link);
        if (r->due_ns > now || r->msg.u.read.watermark > f->applied) {
            if (r->due_ns > now && r->due_ns < next)
                next = r->due_ns;
            continue;
        }
        struct fake_session *s = find_session(f, r->session);
        if (s && ballot_compare(&r->msg.ballot, &f->acceptor->promised) < 0)
            answer_status(f, s, &r->msg, DATA_BEHIND);
        else if (s)
            answer_read(f, s, &r->msg);
        list_remove(&r->link);
        free(r);
    }
    if (next != UINT64_MAX)
        timer_set(f->reactor, &f->read_timer, next);
}

static void on_read_timer(struct timer *t)
{
    serve_reads(container_of(t, struct fake_replica, read_timer));
}

static void on_read(struct fake_replica *f, struct fake_session *s, const struct msg *m)
{
    f->n_reads++;
    assert(m->u.read.block + m->u.read.nblocks <= FAKE_BLOCKS);
    if (f->mute_reads)
        return;
    uint32_t id = s->id;
    enum acceptor_read_verdict v = acceptor_read(f->acceptor, io_now(f->reactor), id, m, &f->effects);
    run_effects(f);
    if (v == ACCEPTOR_READ_NACK)
        return;
    if (v == ACCEPTOR_READ_BEHIND || f->behind > 0) {
        f->behind -= f->behind > 0;
        answer_status(f, s, m, DATA_BEHIND);
        return;
    }
    struct fake_read *r = calloc(1, sizeof *r);
    assert(r);
    r->session = id;
    r->msg = *m;
    r->due_ns = io_now(f->reactor) + sim_draw(f->world, f->read_ns);
    list_push_back(&f->reads, &r->link);
    serve_reads(f);
}

/* ---- sessions ---- */

static void on_fetch(struct fake_replica *f, struct fake_session *s, const struct msg *m)
{
    struct msg answer = {.type = MSG_VALUE, .cookie = m->cookie, .group = m->group, .ballot = m->ballot};
    struct entry *e = m->u.fetch.at.slot < FAKE_SLOTS ? f->entry[m->u.fetch.at.slot] : NULL;
    answer.u.value.at = m->u.fetch.at;
    answer.u.value.found = e && ballot_equal(&e->e, &m->u.fetch.at.e);
    answer.u.value.entry = answer.u.value.found ? e : NULL;
    wire_peer_send(&s->peer, &answer);
}

static void on_msg(struct wire_peer *p, const struct msg *m, struct buf *payload)
{
    struct fake_session *s = p->user;
    struct fake_replica *f = s->fake;
    if (!s->greeted) {
        assert(m->type == MSG_HELLO);
        s->greeted = true;
        struct msg hello = {.type = MSG_HELLO};
        hello.u.hello.version = WIRE_VERSION;
        hello.u.hello.role = ROLE_REPLICA;
        hello.u.hello.cluster = f->cluster;
        hello.u.hello.identity = f->identity;
        snprintf(hello.u.hello.name, sizeof hello.u.hello.name, "%s", f->name);
        wire_peer_send(p, &hello);
        return;
    }
    assert(uuid_equal(&m->target, &f->identity));
    if (m->group != f->acceptor->group || f->absent) {
        struct msg nack = {.type = MSG_NACK, .cookie = m->cookie, .group = m->group, .ballot = m->ballot, .u.holder.unknown = 1};
        wire_peer_send(p, &nack);
        return;
    }
    switch (m->type) {
    case MSG_READ:
        on_read(f, s, m);
        break;
    case MSG_FETCH:
        on_fetch(f, s, m);
        break;
    default:
        step(f, (struct acceptor_event){.type = ACCEPTOR_MSG, .link = s->id, .msg = m});
    }
}

static void on_closed(struct wire_peer *p, int err, const char *reason)
{
    struct fake_session *s = p->user;
    struct fake_replica *f = s->fake;
    assert(!reason); /* the front end keeps to the protocol */
    list_remove(&s->link);
    step(f, (struct acceptor_event){.type = ACCEPTOR_LINK_DOWN, .link = s->id});
    free(s);
}

static const struct wire_handler fake_wire = {.on_msg = on_msg, .on_closed = on_closed};

static void on_accept(struct listener *l, struct conn *c)
{
    struct fake_replica *f = l->user;
    struct fake_session *s = calloc(1, sizeof *s);
    assert(s);
    s->fake = f;
    s->id = f->next_link++;
    s->peer.verify_payload = true;
    list_push_back(&f->sessions, &s->link);
    wire_peer_accept(&s->peer, c, &fake_wire, s);
}

void fake_replica_open(struct fake_replica *f, struct sim_world *w, const char *host, const struct uuid *cluster, const struct uuid *identity,
                       const struct membership *members, uint64_t group, struct fake_replica *peers, unsigned n_peers)
{
    char address[CONFIG_ADDRESS_MAX];
    static const struct paxos_log empty;
    memset(f, 0, sizeof *f);
    f->world = w;
    f->sim = sim_reactor_new(w, host, 1u << 30);
    f->reactor = sim_reactor_io(f->sim);
    f->cluster = *cluster;
    f->identity = *identity;
    snprintf(f->name, sizeof f->name, "%s", host);
    f->acceptor = calloc(1, sizeof *f->acceptor);
    f->effects.effect = calloc(FAKE_EFFECTS, sizeof *f->effects.effect);
    f->effects.cap = FAKE_EFFECTS;
    f->block = calloc(FAKE_BLOCKS, BLOCK_SIZE);
    assert(f->acceptor && f->effects.effect && f->block);
    for (unsigned i = 0; i < FAKE_BLOCKS; i++) {
        f->zero[i] = true;
        f->crc[i] = CRC32C_ZERO_BLOCK;
    }
    list_init(&f->sessions);
    list_init(&f->held);
    list_init(&f->reads);
    f->durable_timer.fn = on_durable;
    f->read_timer.fn = on_read_timer;
    f->catchup_timer.fn = on_catchup;
    f->durable_ns = (struct sim_range){50000, 1500000};
    f->read_ns = (struct sim_range){20000, 800000};
    f->peer = peers;
    f->n_peers = n_peers;
    struct acceptor_state st = {.group = group, .identity = *identity, .size_blocks = FAKE_BLOCKS, .log = &empty, .committed = *members};
    acceptor_init(f->acceptor, &st, io_now(f->reactor));
    fake_replica_set_credits(f, 1u << 20, false);
    snprintf(address, sizeof address, "%s:7000", host);
    int rc = io_listen(f->reactor, address, on_accept, f, &f->listener);
    assert(rc == 0);
}

void fake_replica_set_credits(struct fake_replica *f, uint64_t slabs, bool growing)
{
    f->acceptor->credits = (struct credits){.slabs = slabs, .slot_limit = UINT64_MAX / 2, .growing = growing};
}

void fake_replica_drop_sessions(struct fake_replica *f)
{
    list_for_each(p, &f->sessions)
        wire_peer_close(&container_of(p, struct fake_session, link)->peer);
}

void fake_replica_close(struct fake_replica *f)
{
    for (unsigned s = 0; s < FAKE_SLOTS; s++)
        entry_unref(f->entry[s]);
    while (!list_empty(&f->held))
        held_free(container_of(f->held.next, struct held_send, link));
    for (struct list *l; (l = list_pop_front(&f->reads));)
        free(container_of(l, struct fake_read, link));
    struct list gone;
    list_init(&gone);
    for (struct list *l; (l = list_pop_front(&f->sessions));)
        list_push_back(&gone, l);
    sim_reactor_crash(f->sim, SIM_KILL);
    for (struct list *l; (l = list_pop_front(&gone));)
        free(container_of(l, struct fake_session, link));
    free(f->acceptor);
    free(f->effects.effect);
    free(f->block);
}
