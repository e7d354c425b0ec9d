/* A volume session: its life, its proposers' steps, its links; see volume_internal.h for how the parts go together.
 *
 * What the volume promises here: requests wait while no majority can be reached (or fail after the operator's bound), go on by themselves when the same session gets its ballot back, and all fail when
 * another front end had the volume meanwhile (P7): then this object begins a new session under a new proposer id, to which nothing of the old one belongs. */
#include "nbdserver/volume_internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/mark.h"

#define RETAIN_DEFAULT_BYTES (UINT64_C(64) << 20)
#define LEASE_DEFAULT_MS 2000u
#define HELD_GRACE_NS (200 * NS_PER_MS) /* a holder is asked about anew about when its lease ends: the answer may take this long */
#define LINK_SILENT_LEASES 5u
#define ATTACH_TIMEOUT_NS (2000 * NS_PER_MS)

static void session_begin(struct volume *v);

/* splitmix64: jitter needs no better, and no system call per message. */
uint64_t volume_random(struct volume *v)
{
    uint64_t z = v->random_state += UINT64_C(0x9E3779B97F4A7C15);
    z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ z >> 27) * UINT64_C(0x94D049BB133111EB);
    return z ^ z >> 31;
}

/* ---- the proposer ---- */

static void on_effect(struct proposer_sink *sink, const struct proposer_effect *e)
{
    struct volume_group *g = container_of(sink, struct volume_group, sink);
    struct volume *v = g->volume;
    switch (e->type) {
    case PROPOSER_SEND:
        replica_link_send(&v->link[e->link], &e->msg);
        break;
    case PROPOSER_DISCONNECT:
        g->disconnect |= 1u << e->link;
        break;
    case PROPOSER_CHOSEN:
        if (e->slot > g->chosen)
            g->chosen = e->slot;
        break;
    case PROPOSER_STATE:
        g->state_changed = true;
        break;
    case PROPOSER_HOLD:
        entry_ref(e->entry);
        break;
    case PROPOSER_FORGET:
        entry_unref(e->entry);
        break;
    case PROPOSER_UNPLACED:
        if (e->entry->kind == ENTRY_MEMBER) {
            entry_unref(e->entry);
            members_unplaced(v);
        } else {
            write_unplaced(g, e->entry);
        }
        break;
    case PROPOSER_WANT_SESSION_ENTRY:
        g->want_session = true;
        break;
    case PROPOSER_WANT_LINK:
        members_wanted(v, &e->identity);
        break;
    }
}

void volume_group_step(struct volume_group *g, struct proposer_event ev)
{
    struct volume *v = g->volume;
    ev.now_ns = io_now(v->reactor);
    ev.random = volume_random(v);
    proposer_step(g->proposer, &ev, &g->sink);
}

int group_propose(struct volume_group *g, struct entry *e)
{
    return proposer_submit(g->proposer, io_turn_now(g->volume->reactor), e, &g->sink);
}

static void group_give_session_entry(struct volume_group *g)
{
    struct entry *e = entry_new(g->volume->reactor->arena, ENTRY_SESSION, 0, 0, NULL, 0);
    if (!e)
        return; /* no memory: with the next tick */
    e->group = g->id;
    g->want_session = false;
    volume_group_step(g, (struct proposer_event){ .type = PROPOSER_SESSION_ENTRY, .entry = e });
}

/* ---- requests ---- */

void request_done(struct export_request *r, struct volume *v)
{
    assert(r->pending == 0 && list_empty(&request_state(r)->ops));
    list_remove(&r->link);
    v->n_requests--;
    r->done(r);
}

static void volume_submit(struct export *x, struct export_request *r)
{
    struct volume *v = container_of(x, struct volume, export);
    struct request_state *s = request_state(r);
    r->error = 0;
    r->pending = 1; /* not done before all of it is cut */
    list_init(&s->ops);
    s->submitted_ns = io_turn_now(v->reactor);
    list_push_back(&v->requests, &r->link);
    v->n_requests++;
    if (v->fencing || v->closing)
        r->error = ESHUTDOWN;
    else if (r->op == EXPORT_READ)
        read_submit(v, r);
    else if (r->op != EXPORT_FLUSH)
        write_submit(v, r);
    /* A FLUSH covers the writes that were answered before it. These were chosen before they were answered, hence are on stable storage at a majority: nothing is left to do, and it
     * waits for nobody. FUA, for the same reason, asks for nothing. */
    if (--r->pending == 0)
        request_done(r, v);
    volume_pump(v);
}

static void fail_all(struct volume *v, int error)
{
    while (!list_empty(&v->requests))
        request_fail(v, container_of(v->requests.next, struct export_request, link), error);
    for (uint32_t i = 0; i < v->n_groups; i++) {
        struct volume_group *g = &v->group[i];
        struct list *const rest[] = { &g->inflight, &g->unplaced, &g->queue };
        for (unsigned k = 0; k < ARRAY_LEN(rest); k++)
            while (!list_empty(rest[k]))
                op_finish(v, container_of(rest[k]->next, struct volume_op, link), error);
        assert(list_empty(&g->queue) && list_empty(&g->granted) && block_locks_empty(&g->locks));
        assert(list_empty(&g->reads_active) && list_empty(&g->reads_retry) && list_empty(&g->reads_waiting));
    }
}

/* Can anybody be answered now? A lease held by a quorum says that one answered within the last seconds. */
static bool volume_has_majority(const struct volume *v)
{
    uint64_t watermark, now = io_now(v->reactor);
    for (uint32_t i = 0; i < v->n_groups; i++) {
        const struct proposer *p = v->group[i].proposer;
        if (p->state != PROPOSER_SERVING || !proposer_can_read(p, now, &watermark))
            return false;
    }
    return true;
}

static void fail_overdue(struct volume *v)
{
    if (v->options.fail_after_ns == 0 || list_empty(&v->requests) || volume_has_majority(v))
        return;
    uint64_t now = io_now(v->reactor);
    while (!list_empty(&v->requests)) {
        struct export_request *r = container_of(v->requests.next, struct export_request, link);
        if (now - request_state(r)->submitted_ns < v->options.fail_after_ns)
            break;
        MARK("volume: request overdue");
        request_fail(v, r, EIO);
    }
}

/* ---- what people are told ---- */

static unsigned links_up(const struct volume *v)
{
    unsigned n = 0;
    for (uint32_t i = 0; i < v->n_configured; i++)
        n += replica_link_is_up(&v->link[i]);
    return n;
}

static const char *first_problem(const struct volume *v, const char **ret_name)
{
    for (uint32_t i = 0; i < v->n_configured; i++) {
        if (!replica_link_is_up(&v->link[i]) && v->link[i].problem[0]) {
            *ret_name = v->link[i].replica->name;
            return v->link[i].problem;
        }
    }
    return NULL;
}

/* All groups must serve before anybody is served (P6): the first that does not decides. */
static const struct proposer *volume_laggard(const struct volume *v)
{
    for (uint32_t i = 0; i < v->n_groups; i++)
        if (v->group[i].proposer->state != PROPOSER_SERVING)
            return v->group[i].proposer;
    return NULL;
}

PRINTF_LIKE(2, 3) static void say(struct volume *v, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(v->export.state, sizeof v->export.state, fmt, ap);
    va_end(ap);
}

/* Keeps in mind who else has the volume: the proposer forgets between its attempts. */
static void volume_note_holder(struct volume *v, const struct proposer *p, uint64_t now)
{
    bool asking = p && (p->state == PROPOSER_WAITING || p->state == PROPOSER_QUERYING);
    if (!asking || now > v->held_until_ns + HELD_GRACE_NS)
        v->held_since_ns = 0;
    if (!asking || uuid_is_zero(&p->holder) || p->holder_until_ns <= now)
        return;
    if (v->held_since_ns == 0)
        v->held_since_ns = now;
    v->held_until_ns = p->holder_until_ns;
    snprintf(v->held_by, sizeof v->held_by, "%.*s", (int)sizeof p->holder_name - 1, p->holder_name[0] ? p->holder_name : "another front end");
}

/* Returns whether clients wait in vain: another live front end has the volume. One of the own name is a former life of this one (names are unique), which will not renew its lease. */
static bool volume_say(struct volume *v, const struct proposer *p)
{
    uint64_t now = io_now(v->reactor);
    const char *name = "", *problem;
    volume_note_holder(v, p, now);
    v->absent = false;
    if (v->closing) {
        say(v, "volume %s is being released", v->name);
    } else if (!p && v->majority_lost_ns != 0) {
        say(v, "volume %s: no majority of replicas answers; requests wait", v->name);
    } else if (!p) {
        say(v, "volume %s serves", v->name);
    } else if (v->held_since_ns != 0) {
        uint64_t tenths = v->held_until_ns > now ? (v->held_until_ns - now) / (NS_PER_S / 10) : 0;
        say(v, "volume %s is held by %s; its lease ends in %llu.%llu s", v->name, v->held_by, (unsigned long long)tenths / 10,
            (unsigned long long)tenths % 10);
        return strcmp(v->held_by, v->frontend_name) != 0;
    } else if ((unsigned)__builtin_popcount(v->unknown_at & ((1u << v->n_configured) - 1)) >= v->n_configured / 2 + 1) {
        v->absent = true;
        say(v, "volume %s does not exist on its replicas: qbd volume create --cluster FILE %s", v->name, v->name);
    } else if (links_up(v) < v->n_configured / 2 + 1) {
        problem = first_problem(v, &name);
        say(v, "volume %s waits for a majority of its replicas: %u of %u are connected%s%s%s%s", v->name, links_up(v), v->n_configured,
            problem ? "; " : "", name, problem ? ": " : "", problem ? problem : "");
    } else {
        say(v, "volume %s is being attached", v->name);
    }
    return false;
}

static void volume_serves(struct volume *v)
{
    uint64_t size = v->group[0].proposer->size_blocks * BLOCK_SIZE;
    if (size != 0 && size != v->config->size_bytes)
        log_warning("volume %s: its size is %llu bytes, not %llu as the configuration says", v->name, (unsigned long long)size,
                    (unsigned long long)v->config->size_bytes);
    v->export.size_bytes = size != 0 ? size : v->config->size_bytes;
    log_info("volume %s: %s (session start at slot %llu)", v->name, v->served ? "serves again" : "attached",
             (unsigned long long)v->group[0].proposer->session_slot);
    v->served = true;
    v->warned_of[0] = 0;
}

/* One line when the majority goes, one when it is back. Before it was there, export.state says what is awaited. */
static void volume_note_majority(struct volume *v, const struct proposer *laggard)
{
    bool has = volume_has_majority(v), lost = v->has_majority && !has;
    uint64_t now = io_now(v->reactor);
    v->has_majority = has;
    if (lost) {
        v->majority_lost_ns = now;
        MARK("volume: majority lost");
        if (laggard)
            log_warning("%s; requests wait", v->export.state);
        else
            log_warning("volume %s: no majority of replicas answers; requests wait", v->name);
    } else if (has && v->majority_lost_ns != 0) {
        uint64_t tenths = (now - v->majority_lost_ns) / (NS_PER_S / 10);
        v->majority_lost_ns = 0;
        log_info("volume %s serves again after %llu.%llu s", v->name, (unsigned long long)tenths / 10, (unsigned long long)tenths % 10);
    }
}

/* Attached only while serving: a client that comes in between waits in its handshake. Those that are there wait with their requests. */
static void volume_update_state(struct volume *v)
{
    const struct proposer *laggard = volume_laggard(v);
    bool was_attached = v->export.attached, was_refused = v->export.refused, was_absent = v->absent;
    bool refused = volume_say(v, laggard);
    v->export.attached = !laggard && !v->closing;
    v->export.refused = refused;
    if (v->export.attached && !was_attached)
        volume_serves(v);
    if (!v->closing)
        volume_note_majority(v, laggard);
    bool news = refused && strcmp(v->warned_of, v->held_by) != 0;
    if (news)
        memcpy(v->warned_of, v->held_by, sizeof v->warned_of);
    if (news || (v->absent && !was_absent))
        log_warning("%s", v->export.state);
    if ((v->export.attached != was_attached || refused != was_refused) && v->cb.on_state)
        v->cb.on_state(v->cb.user, v);
}

/* ---- fenced (P7) ---- */

static void volume_fence(struct volume *v)
{
    MARK("volume: fenced");
    log_error("volume %s: another front end%s%s has taken it over; requests under way fail, connections are closed, and this one waits to attach anew", v->name,
              v->held_since_ns ? ", " : "", v->held_since_ns ? v->held_by : "");
    v->fencing = true;
    v->export.attached = false;
    members_fail(v, "another front end has taken the volume over: ask that one");
    say(v, "volume %s was taken over by another front end", v->name);
    fail_all(v, ESHUTDOWN);
    if (v->cb.on_fenced)
        v->cb.on_fenced(v->cb.user, v);
    fail_all(v, ESHUTDOWN); /* nothing that came in meanwhile gets into the next session */
    for (uint32_t i = 0; i < v->n_groups; i++)
        volume_group_step(&v->group[i], (struct proposer_event){ .type = PROPOSER_DETACH }); /* it gives its entries back */
    session_begin(v);
    v->fencing = false;
}

/* The proposer knows that it is fenced when it has seen its successor's session start, which takes a Prepare, which the successor's lease forbids for as long as it lives. But who renews a
 * lease for longer than one lease serves; waiting for its end would only keep the clients of a lost session hanging. */
static bool volume_is_taken_over(const struct volume *v)
{
    return v->served && v->held_since_ns != 0 && io_now(v->reactor) - v->held_since_ns > v->lease_ns + v->beat_ns;
}

static bool volume_is_fenced(const struct volume *v)
{
    if (volume_is_taken_over(v)) {
        MARK("volume: taken over, another renews its lease");
        return true;
    }
    for (uint32_t i = 0; i < v->n_groups; i++)
        if (v->group[i].proposer->state == PROPOSER_FENCED)
            return true; /* P6: fenced in one is fenced in all */
    return false;
}

/* ---- the pump ---- */

static void group_pump(struct volume_group *g)
{
    struct volume *v = g->volume;
    for (uint32_t i = 0; g->disconnect != 0; i++, g->disconnect &= ~(1u << (i - 1)))
        if (g->disconnect >> i & 1)
            replica_link_drop(&v->link[i], "cut: it is too far behind, or answered against the protocol");
    if (g->want_session)
        group_give_session_entry(g);
    if (g->proposer->state == PROPOSER_FENCED)
        return; /* before any op is taken for chosen: what was chosen after the fence may be another's */
    write_chosen(g);
    members_pump(v);
    if (!members_hold(v))
        write_pump(g);
    read_pump(g);
}

void volume_pump(struct volume *v)
{
    v->pump_again = true;
    if (v->pumping)
        return;
    v->pumping = true;
    while (v->pump_again && !v->closing) {
        v->pump_again = false;
        bool changed = false;
        if (v->n_wanted > 0)
            members_link_wanted(v);
        for (uint32_t i = 0; i < v->n_groups; i++) {
            group_pump(&v->group[i]);
            changed |= v->group[i].state_changed;
            v->group[i].state_changed = false;
        }
        if (volume_is_fenced(v)) {
            volume_fence(v);
            changed = v->pump_again = true;
        }
        if (changed)
            volume_update_state(v);
    }
    v->pumping = false;
}

/* ---- links ---- */

static void link_up(struct replica_link *l)
{
    struct volume *v = l->user;
    for (uint32_t i = 0; i < v->n_groups; i++)
        volume_group_step(&v->group[i], (struct proposer_event){ .type = PROPOSER_LINK_UP, .link = l->index });
    volume_pump(v);
}

static void link_down(struct replica_link *l)
{
    struct volume *v = l->user;
    v->unknown_at &= ~(1u << l->index);
    for (uint32_t i = 0; i < v->n_groups; i++) {
        if (!v->fencing)
            volume_group_step(&v->group[i], (struct proposer_event){ .type = PROPOSER_LINK_DOWN, .link = l->index });
        read_link_down(&v->group[i], l->index);
    }
    volume_pump(v);
}

static struct volume_group *group_find(struct volume *v, uint64_t id)
{
    for (uint32_t i = 0; i < v->n_groups; i++)
        if (v->group[i].id == id)
            return &v->group[i];
    return NULL;
}

static void link_msg(struct replica_link *l, const struct msg *m, struct buf *payload)
{
    struct volume *v = l->user;
    struct volume_group *g = group_find(v, m->group);
    const char *wrong = NULL;
    if (!g) {
        replica_link_drop(l, "it sent a message of a group that this volume does not have");
        return;
    }
    if (m->type == MSG_NACK && m->u.holder.unknown)
        v->unknown_at |= 1u << l->index;
    else
        v->unknown_at &= ~(1u << l->index);
    switch (m->type) {
    case MSG_DATA:
        wrong = read_answer(g, l->index, m, payload);
        break;
    case MSG_NACK: /* of a READ, perhaps: the read goes elsewhere; the proposer learns of the higher ballot either way */
        volume_group_step(g, (struct proposer_event){ .type = PROPOSER_MSG, .link = l->index, .msg = m });
        wrong = read_answer(g, l->index, m, NULL);
        break;
    case MSG_ACCEPTED:
        trace_acked(g, l->index, m->u.accepted.through);
        volume_group_step(g, (struct proposer_event){ .type = PROPOSER_MSG, .link = l->index, .msg = m });
        break;
    case MSG_QUERY_ACK:
    case MSG_PROMISE:
    case MSG_VALUE:
    case MSG_OPENED:
    case MSG_MISMATCH:
    case MSG_BEAT_ACK:
        volume_group_step(g, (struct proposer_event){ .type = PROPOSER_MSG, .link = l->index, .msg = m });
        break;
    default:
        wrong = "it sent a message that no replica sends to a front end";
    }
    if (wrong)
        replica_link_drop(l, wrong);
    volume_pump(v);
}

static struct buf *link_payload_buf(struct replica_link *l, const struct msg *m, uint32_t len)
{
    struct volume_group *g = group_find(l->user, m->group);
    return g ? read_payload_buf(g, l->index, m, len) : NULL;
}

static void link_stopped(struct replica_link *l)
{
    struct volume *v = l->user;
    if (!v->closing) {
        volume_link_removed(v, l->index);
        return;
    }
    assert(v->links_open > 0);
    if (--v->links_open == 0 && v->close_done)
        v->close_done(v->close_user);
}

const struct replica_link_handler volume_link_handler = {
    .up = link_up,
    .down = link_down,
    .msg = link_msg,
    .payload_buf = link_payload_buf,
    .stopped = link_stopped,
};

/* ---- time ---- */

/* While serving, every replica is sent beats and answers them. One that says nothing for several leases may be gone without a word (a power cut leaves a half-open connection): a new connection
 * finds out, and the old one's unsent bytes and unanswered reads are let go. */
static void drop_silent_links(struct volume *v)
{
    uint64_t now = io_now(v->reactor);
    for (uint32_t i = 0; i < v->n_links; i++)
        if (v->link[i].replica && replica_link_is_up(&v->link[i]) && now - v->link[i].heard_ns > LINK_SILENT_LEASES * v->lease_ns) {
            MARK("volume: silent link dropped");
            replica_link_drop(&v->link[i], "no sign of life");
        }
}

static void on_tick(struct timer *t)
{
    struct volume *v = container_of(t, struct volume, tick);
    bool serving = true;
    for (uint32_t i = 0; i < v->n_groups; i++) {
        volume_group_step(&v->group[i], (struct proposer_event){ .type = PROPOSER_TICK });
        serving &= v->group[i].proposer->state == PROPOSER_SERVING;
    }
    if (serving)
        drop_silent_links(v);
    fail_overdue(v);
    volume_update_state(v); /* the holder's remaining time */
    volume_pump(v);
    uint64_t interval = v->beat_ns / 2;
    if (!serving && interval > VOLUME_TICK_BUSY_NS)
        interval = VOLUME_TICK_BUSY_NS;
    timer_set(v->reactor, t, io_now(v->reactor) + interval);
}

/* ---- sessions ---- */

static void group_begin(struct volume_group *g)
{
    struct volume *v = g->volume;
    struct proposer_params p = {
        .group = g->id,
        .id = v->proposer_id,
        .lease_ns = v->lease_ns,
        .beat_ns = v->beat_ns,
        .timeout_ns = ATTACH_TIMEOUT_NS,
        .retain_bytes = v->options.retain_bytes,
        .inflight_bytes = v->options.inflight_bytes,
        .n_replicas = v->n_configured,
        .ring = g->ring,
        .ring_slots = g->ring_slots,
    };
    snprintf(p.name, sizeof p.name, "%s", v->frontend_name);
    for (uint32_t i = 0; i < v->n_configured; i++)
        p.identity[i] = v->link[i].replica->identity;
    g->chosen = 0;
    g->disconnect = 0;
    g->want_session = g->no_space = false;
    g->state_changed = true;
    trace_forget(&g->trace);
    proposer_init(g->proposer, &p);
    members_begin(v, g);
    volume_group_step(g, (struct proposer_event){ .type = PROPOSER_ATTACH });
}

/* A new proposer id: nothing of an earlier session is ever taken for this one's (protocol.md "Ballot"). The links say it in their HELLO, so they are made anew. */
static void session_begin(struct volume *v)
{
    bool first = v->sessions++ == 0;
    do
        io_random(v->reactor, v->proposer_id.b, sizeof v->proposer_id.b);
    while (uuid_is_zero(&v->proposer_id));
    v->served = v->has_majority = false;
    v->majority_lost_ns = 0;
    v->held_since_ns = v->held_until_ns = 0;
    for (uint32_t i = 0; i < v->n_links && !first; i++)
        if (v->link[i].replica && !(v->removing >> i & 1))
            replica_link_rename(&v->link[i], &v->proposer_id);
    /* P6: with several groups the first is acquired before the others are asked for. */
    for (uint32_t i = 0; i < v->n_groups; i++)
        group_begin(&v->group[i]);
    if (first)
        for (uint32_t i = 0; i < v->n_links; i++)
            replica_link_start(&v->link[i], &v->proposer_id, v->frontend_name);
    timer_set(v->reactor, &v->tick, io_now(v->reactor) + VOLUME_TICK_BUSY_NS);
}

static uint32_t ring_slots_for(uint64_t retain_bytes)
{
    uint32_t n = VOLUME_RING_SLOTS_MIN;
    while (n < VOLUME_RING_SLOTS_MAX && (uint64_t)n * BLOCK_SIZE < retain_bytes)
        n *= 2;
    return n;
}

static int group_init(struct volume_group *g, struct volume *v, uint64_t id)
{
    g->volume = v;
    g->id = id;
    g->sink.fn = on_effect;
    g->ring_slots = ring_slots_for(v->options.retain_bytes);
    g->ring = malloc(g->ring_slots * sizeof *g->ring); /* proposer_init() sets both to nothing, at each session's begin */
    g->proposer = malloc(sizeof *g->proposer);
    g->attempts = calloc(READ_ATTEMPTS_MAX, sizeof *g->attempts);
    if (!g->ring || !g->proposer || !g->attempts)
        return -ENOMEM;
    block_locks_init(&g->locks);
    struct list *const lists[] = { &g->granted, &g->queue, &g->unplaced, &g->inflight, &g->reads_waiting, &g->reads_retry, &g->reads_active };
    for (unsigned i = 0; i < ARRAY_LEN(lists); i++)
        list_init(lists[i]);
    g->read_timer.fn = read_timer_fn;
    read_init(g);
    return 0;
}

static void volume_init(struct volume *v, struct reactor *r, const struct volume_options *o, const struct volume_callbacks *cb,
                        const struct volume_config *vc)
{
    v->reactor = r;
    v->options = *o;
    if (v->options.retain_bytes == 0)
        v->options.retain_bytes = RETAIN_DEFAULT_BYTES;
    if (cb)
        v->cb = *cb;
    v->config = vc;
    snprintf(v->name, sizeof v->name, "%s", vc->name);
    snprintf(v->frontend_name, sizeof v->frontend_name, "%s", o->frontend_name);
    v->lease_ns = (o->config->lease_ms ? o->config->lease_ms : LEASE_DEFAULT_MS) * NS_PER_MS;
    v->beat_ns = v->lease_ns / 5;
    io_random(r, &v->random_state, sizeof v->random_state);
    v->tick.fn = on_tick;
    list_init(&v->requests);
    list_init(&v->ops_free);
    v->export.name = v->name;
    v->export.description = "replicated volume";
    v->export.size_bytes = vc->size_bytes;
    v->export.submit = volume_submit;
    snprintf(v->export.state, sizeof v->export.state, "volume %s is being attached", v->name);
    v->n_links = v->n_configured = vc->n_replicas;
    for (uint32_t i = 0; i < v->n_links; i++)
        volume_link_init(v, i, &o->config->replicas[vc->replica[i]]);
}

int volume_open(struct reactor *r, const struct volume_options *o, const struct volume_callbacks *cb, struct volume **ret)
{
    const struct volume_config *vc = config_find_volume(o->config, o->volume_name);
    if (!vc)
        return -ENOENT;
    if (vc->n_replicas == 0 || vc->n_replicas > MEMBERS_MAX || vc->size_bytes == 0 || vc->size_bytes % BLOCK_SIZE != 0)
        return -EINVAL;
    struct volume *v = calloc(1, sizeof *v);
    if (!v)
        return -ENOMEM;
    volume_init(v, r, o, cb, vc);
    v->n_groups = 1;
    int rc = group_init(&v->group[0], v, vc->group);
    if (rc < 0) {
        v->n_groups = 0;
        free(v->group[0].ring);
        free(v->group[0].proposer);
        free(v->group[0].attempts);
        free(v);
        return rc;
    }
    session_begin(v);
    *ret = v;
    return 0;
}

struct export *volume_export(struct volume *v)
{
    return &v->export;
}

void volume_close(struct volume *v, void (*done)(void *user), void *user)
{
    assert(!v->closing);
    v->closing = true;
    v->close_done = done;
    v->close_user = user;
    members_fail(v, "the front end ends; ask the one that serves the volume");
    fail_all(v, ESHUTDOWN);
    timer_cancel(v->reactor, &v->tick);
    for (uint32_t i = 0; i < v->n_groups; i++) {
        timer_cancel(v->reactor, &v->group[i].read_timer);
        volume_group_step(&v->group[i], (struct proposer_event){ .type = PROPOSER_DETACH });
    }
    volume_update_state(v);
    for (uint32_t i = 0; i < v->n_links; i++)
        v->links_open += v->link[i].replica != NULL;
    for (uint32_t i = 0; i < v->n_links; i++)
        if (v->link[i].replica && !(v->removing >> i & 1))
            replica_link_stop(&v->link[i]);
}

/* After volume_close() is done; or when the reactor is dead and no callback will ever come again (a simulated crash): then requests under way are forgotten, and what buffers they hold goes with
 * the reactor's arena. */
void volume_free(struct volume *v)
{
    if (!v)
        return;
    timer_cancel(v->reactor, &v->tick);
    for (uint32_t i = 0; i < v->n_links; i++)
        if (v->link[i].replica)
            timer_cancel(v->reactor, &v->link[i].timer);
    for (uint32_t i = 0; i < v->n_groups; i++) {
        struct volume_group *g = &v->group[i];
        timer_cancel(v->reactor, &g->read_timer);
        free(g->ring);
        free(g->proposer);
        free(g->attempts);
    }
    while (v->op_chunks) {
        struct op_chunk *chunk = v->op_chunks;
        v->op_chunks = chunk->next;
        free(chunk);
    }
    free(v);
}
