/* Reads: which replica, when another one too, and whether the answer is what was written.
 *
 * A read is issued when the proposer's leases allow it (P8) with the highest chosen slot as its watermark; it goes to one replica and, when that one is late, to a second as well. The first good
 * answer wins; a late one finds its attempt without a read and is dropped. An answer that is not good (behind, damaged, refused, link lost) sends the read to a replica not tried yet; when all were
 * tried it starts again a little later, for ever: only when every replica says that the very same block is damaged there, or the operator's bound passes, it ends with EIO.
 *
 * Every block is checked against the CRC that the front end computed when it was written, here, after its last hop: whatever rotted on the way is caught. */
#include "base/mark.h"
#include "nbdserver/volume_internal.h"

#define COOKIE_MARK (UINT64_C(1) << 63) /* tells a READ's cookie from others */
#define LARGE_BLOCKS 16u

static uint64_t max_u64(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* ---- attempts ---- */

void read_init(struct volume_group *g)
{
    list_init(&g->attempts_free);
    for (uint32_t i = 0; i < READ_ATTEMPTS_MAX; i++)
        list_push_back(&g->attempts_free, &g->attempts[i].link);
    for (uint32_t i = 0; i < VOLUME_LINKS_MAX; i++)
        list_init(&g->replica[i].outstanding);
}

static uint64_t attempt_cookie(const struct volume_group *g, const struct read_attempt *a)
{
    return COOKIE_MARK | (uint64_t)a->generation << 16 | (uint64_t)(a - g->attempts);
}

static struct read_attempt *attempt_find(struct volume_group *g, uint32_t replica, uint64_t cookie)
{
    static_assert(READ_ATTEMPTS_MAX <= 1u << 16, "an attempt's index has 16 bits of the cookie");
    uint32_t index = cookie & 0xffff;
    if (!(cookie & COOKIE_MARK) || index >= READ_ATTEMPTS_MAX)
        return NULL;
    struct read_attempt *a = &g->attempts[index];
    return a->in_use && a->replica == replica && attempt_cookie(g, a) == cookie ? a : NULL;
}

static void attempt_free(struct volume_group *g, struct read_attempt *a)
{
    assert(a->in_use && !a->read);
    list_remove(&a->link);
    g->replica[a->replica].n_outstanding--;
    a->in_use = false;
    a->generation = (a->generation + 1) & 0x7fffffff;
    list_push_front(&g->attempts_free, &a->link);
}

/* Its read no longer waits for it. */
static void attempt_detach(struct read_attempt *a)
{
    struct volume_read *r = a->read;
    for (uint32_t i = 0; i < r->n_attempts; i++) {
        if (r->attempt[i] == a) {
            r->attempt[i] = r->attempt[--r->n_attempts];
            a->read = NULL;
            return;
        }
    }
    assert(!"an attempt is one of its read's");
}

static void latency_sample(struct read_latency *l, uint64_t now, uint64_t sample)
{
    sample = max_u64(sample, 1);
    if (l->mean_ns == 0) {
        l->mean_ns = sample;
        l->deviation_ns = sample / 2;
    } else {
        uint64_t off = sample > l->mean_ns ? sample - l->mean_ns : l->mean_ns - sample;
        l->mean_ns = (l->mean_ns * 7 + sample) / 8;
        l->deviation_ns = (l->deviation_ns * 3 + off) / 4;
    }
    l->sampled_ns = now;
}

/* What a further read there is expected to take: the mean, halved for each second since it was measured (or a replica that was slow once would never be asked again), but never
 * less than the age of the oldest one that it has not answered; times the queue. */
static uint64_t replica_cost(const struct volume_group *g, uint32_t i, bool large, uint64_t now)
{
    const struct read_replica *rr = &g->replica[i];
    const struct read_latency *l = &rr->latency[large];
    uint64_t idle_s = (now - l->sampled_ns) / NS_PER_S;
    uint64_t cost = l->mean_ns >> (idle_s < 16 ? idle_s : 16);
    if (!list_empty(&rr->outstanding)) {
        const struct read_attempt *oldest = container_of(rr->outstanding.next, struct read_attempt, link);
        cost = max_u64(cost, (now - oldest->sent_ns) / 2);
    }
    return max_u64(cost, 1000) * (rr->n_outstanding + 1);
}

/* The cheapest replica not tried yet. Those that durably hold the watermark come first: the others may say BEHIND. VOLUME_LINKS_MAX: none. */
static uint32_t choose_replica(const struct volume_group *g, const struct volume_read *r, uint64_t watermark, uint64_t now)
{
    uint32_t best = VOLUME_LINKS_MAX;
    bool best_holds = false;
    uint64_t best_cost = 0;
    for (uint32_t i = 0; i < g->volume->n_links; i++) {
        const struct proposer_replica *pr = &g->proposer->replica[i];
        if (r->tried >> i & 1 || pr->stream != STREAM_OPEN || pr->needs_copy || !replica_link_is_up(&g->volume->link[i]) ||
            g->replica[i].n_outstanding >= READ_PER_LINK_MAX)
            continue;
        bool holds = pr->acked >= watermark;
        uint64_t cost = replica_cost(g, i, r->nblocks >= LARGE_BLOCKS, now);
        if (best == VOLUME_LINKS_MAX || (holds && !best_holds) || (holds == best_holds && cost < best_cost)) {
            best = i;
            best_holds = holds;
            best_cost = cost;
        }
    }
    return best;
}

/* ---- sending ---- */

static uint64_t range_block(const struct volume_read *r)
{
    return r->block + (r->by_block ? r->at : 0);
}

static uint32_t range_nblocks(const struct volume_read *r)
{
    return r->by_block ? 1 : r->nblocks;
}

static void read_timer_at(struct volume_group *g, uint64_t at)
{
    uint64_t soonest = io_turn_now(g->volume->reactor) + READ_TIMER_GRAIN_NS;
    at = max_u64(at, soonest);
    if (g->read_timer_ns != 0 && g->read_timer_ns <= at)
        return;
    g->read_timer_ns = at;
    timer_set(g->volume->reactor, &g->read_timer, at);
}

static void read_move(struct volume_read *r, struct list *to)
{
    list_remove(&r->link);
    list_push_back(to, &r->link);
}

/* All were tried (or none is there): again in a while. */
static void read_retry_later(struct volume_group *g, struct volume_read *r, uint64_t now)
{
    assert(r->n_attempts == 0);
    uint64_t delay = r->retry_delay_ns ? r->retry_delay_ns : READ_RETRY_MIN_NS;
    r->retry_delay_ns = delay * 2 < READ_RETRY_MAX_NS ? delay * 2 : READ_RETRY_MAX_NS;
    r->tried = r->bad = 0; /* repairs may have been made: only one round in which all say BAD means that nobody has it */
    MARK("volume: read retried later, all were tried");
    r->retry_at_ns = now + delay / 2 + volume_random(g->volume) % delay;
    g->read_retries++;
    read_move(r, &g->reads_retry);
    read_timer_at(g, r->retry_at_ns);
}

static void read_send(struct volume_group *g, struct volume_read *r, uint32_t replica, uint64_t watermark, uint64_t now)
{
    bool large = r->nblocks >= LARGE_BLOCKS;
    const struct read_latency *l = &g->replica[replica].latency[large];
    uint64_t patience = l->mean_ns ? 3 * (l->mean_ns + 3 * l->deviation_ns) : READ_HEDGE_UNKNOWN_NS;

    struct read_attempt *a = container_of(list_pop_front(&g->attempts_free), struct read_attempt, link);
    a->in_use = true;
    a->large = large;
    a->read = r;
    a->replica = replica;
    a->sent_ns = now;
    list_push_back(&g->replica[replica].outstanding, &a->link);
    g->replica[replica].n_outstanding++;
    r->attempt[r->n_attempts++] = a;
    r->tried |= 1u << replica;
    r->asked_ns = now;
    r->hedge_at_ns = now + max_u64(patience, READ_HEDGE_MIN_NS);
    read_timer_at(g, r->hedge_at_ns);

    struct msg m = { .type = MSG_READ, .cookie = attempt_cookie(g, a), .group = g->id, .ballot = g->proposer->ballot };
    m.target = g->volume->link[replica].replica->identity;
    m.u.read.block = range_block(r);
    m.u.read.nblocks = range_nblocks(r);
    m.u.read.watermark = watermark;
    replica_link_send(&g->volume->link[replica], &m);
}

static bool group_can_read(struct volume_group *g, uint64_t now, uint64_t *watermark)
{
    return g->proposer->state == PROPOSER_SERVING && proposer_can_read(g->proposer, now, watermark);
}

/* Answers are under way but there is nobody else to ask now. One of them may never come (a replica that hangs), so those that have answered are asked again after a while. */
static void read_ask_later(struct volume_group *g, struct volume_read *r, uint64_t now)
{
    r->tried = 0;
    for (uint32_t i = 0; i < r->n_attempts; i++)
        r->tried |= 1u << r->attempt[i]->replica;
    r->hedge_at_ns = now + READ_RETRY_MAX_NS;
    read_timer_at(g, r->hedge_at_ns);
}

/* Sends the read to one more replica. Without one: waits, unless an attempt is still under way. */
static void read_try(struct volume_group *g, struct volume_read *r, uint64_t now)
{
    uint64_t watermark;
    if (!group_can_read(g, now, &watermark)) {
        if (r->n_attempts == 0) {
            r->tried = r->bad = 0;
            MARK("volume: read waits for a lease");
            read_move(r, &g->reads_waiting);
        } else {
            read_ask_later(g, r, now);
        }
        return;
    }
    uint32_t replica = list_empty(&g->attempts_free) ? VOLUME_LINKS_MAX : choose_replica(g, r, watermark, now);
    if (replica < VOLUME_LINKS_MAX) {
        if (r->n_attempts == 0)
            read_move(r, &g->reads_active);
        read_send(g, r, replica, watermark, now);
    } else if (r->n_attempts == 0) {
        read_retry_later(g, r, now);
    } else {
        read_ask_later(g, r, now);
    }
}

void volume_read_start(struct volume_group *g, struct volume_read *r, uint64_t block, uint32_t nblocks, void (*done)(struct volume_read *, int))
{
    assert(nblocks > 0 && nblocks <= ENTRY_MAX_BLOCKS);
    memset(r, 0, sizeof *r);
    r->group = g;
    r->block = block;
    r->nblocks = nblocks;
    r->done = done;
    r->active = true;
    list_init(&r->link);
    g->reads++;
    if (g->hedge_credit < READ_HEDGE_BURST * READ_HEDGE_EVERY)
        g->hedge_credit++;
    read_try(g, r, io_now(g->volume->reactor));
}

static void read_detach_all(struct volume_read *r)
{
    while (r->n_attempts > 0)
        attempt_detach(r->attempt[0]);
}

void volume_read_cancel(struct volume_read *r)
{
    if (!r->active)
        return;
    read_detach_all(r);
    list_remove(&r->link);
    r->active = false;
    buf_unref(r->buf);
    r->buf = NULL;
}

static void read_end(struct volume_read *r, int error)
{
    read_detach_all(r);
    list_remove(&r->link);
    r->active = false;
    if (error) {
        buf_unref(r->buf);
        r->buf = NULL;
    }
    r->done(r, error);
}

/* ---- answers ---- */

static bool block_is_zero(const struct msg *m, uint32_t i)
{
    return m->u.data.zero[i / 64] >> (i % 64) & 1;
}

/* The wire has checked lengths and zero map. The index of the first block that is not what its CRC says, or -1. */
static int data_verify(const struct msg *m, const struct buf *payload)
{
    const uint8_t *p = payload ? payload->data : NULL;
    for (uint32_t i = 0; i < m->u.data.nblocks; i++) {
        if (block_is_zero(m, i)) {
            if (m->u.data.crc[i] != CRC32C_ZERO_BLOCK)
                return (int)i;
            continue;
        }
        if (crc32c(p, BLOCK_SIZE) != m->u.data.crc[i])
            return (int)i;
        p += BLOCK_SIZE;
    }
    return -1;
}

/* The payload holds the blocks that are not zero, in order: each moves up to its place, the last one first, and zeroes fill the gaps. */
static struct buf *data_expand(struct volume_group *g, const struct msg *m, struct buf *payload)
{
    uint32_t n = m->u.data.nblocks, packed = m->u.data.payload_len / BLOCK_SIZE;
    if (packed == 0)
        return NULL;
    struct buf *to = payload;
    if (payload->cap < n * BLOCK_SIZE || payload->refs > 1)
        to = buf_alloc_must(g->volume->reactor->arena, n * BLOCK_SIZE);
    else
        buf_ref(to);
    if (packed == n && to == payload)
        return to;
    for (uint32_t i = n; i-- > 0;) {
        uint8_t *at = to->data + (size_t)i * BLOCK_SIZE;
        if (block_is_zero(m, i))
            memset(at, 0, BLOCK_SIZE);
        else
            memmove(at, payload->data + (size_t)--packed * BLOCK_SIZE, BLOCK_SIZE);
    }
    assert(packed == 0);
    return to;
}

/* One block of a read that goes block by block is here (NULL: zeroes). */
static void read_block_done(struct volume_group *g, struct volume_read *r, struct buf *one)
{
    if (!r->buf)
        r->buf = buf_alloc_must(g->volume->reactor->arena, r->nblocks * BLOCK_SIZE);
    uint8_t *at = r->buf->data + (size_t)r->at * BLOCK_SIZE;
    if (one)
        memcpy(at, one->data, BLOCK_SIZE);
    else
        memset(at, 0, BLOCK_SIZE);
    buf_unref(one);
    read_detach_all(r);
    if (++r->at == r->nblocks) {
        read_end(r, 0);
        return;
    }
    r->tried = r->bad = 0;
    r->retry_delay_ns = 0;
    read_try(g, r, io_now(g->volume->reactor));
}

/* Every voter said so: who is away, or has no link, or is not complete, may have it. */
static bool all_bad(const struct volume_group *g, uint32_t bad)
{
    const struct proposer *p = g->proposer;
    bool all = p->has_membership;
    for (unsigned which = 0; all && which < 1u + p->has_uncommitted; which++) {
        const struct membership *m = which ? &p->uncommitted : &p->committed;
        for (unsigned i = 0; all && i < m->n_voters; i++) {
            uint32_t link = volume_find_link(g->volume, &m->voter[i]);
            all = link < VOLUME_LINKS_MAX && (bad >> link & 1);
        }
    }
    return all;
}

/* A replica's copy of the range is damaged. Returns true when that ended the read. */
static bool read_bad(struct volume_group *g, struct volume_read *r, uint32_t replica)
{
    r->bad |= 1u << replica;
    g->replica[replica].bad++;
    if (!all_bad(g, r->bad))
        return false;
    if (r->by_block || r->nblocks == 1) {
        MARK("volume: block damaged on every replica");
        log_error("volume %s: block %llu is damaged on every replica: read error", g->volume->name, (unsigned long long)range_block(r));
        read_end(r, EIO);
        return true;
    }
    r->by_block = true;
    MARK("volume: read goes block by block");
    r->at = 0;
    r->bad = r->tried = 0;
    read_detach_all(r);
    return false;
}

struct buf *read_payload_buf(struct volume_group *g, uint32_t replica, const struct msg *m, uint32_t len)
{
    struct read_attempt *a = attempt_find(g, replica, m->cookie);
    if (!a || !a->read)
        return NULL;
    uint32_t want = range_nblocks(a->read) * BLOCK_SIZE;
    return len <= want ? buf_alloc_must(g->volume->reactor->arena, want) : NULL;
}

static void data_ok(struct volume_group *g, struct volume_read *r, uint32_t replica, const struct msg *m, struct buf *payload)
{
    int bad = data_verify(m, payload);
    if (bad >= 0) {
        MARK("volume: block does not match its checksum");
        log_warning("volume %s: block %llu from %s does not match its checksum; asking another replica", g->volume->name,
                    (unsigned long long)(m->u.data.block + (unsigned)bad), g->volume->link[replica].replica->name);
        if (!read_bad(g, r, replica))
            read_try(g, r, io_now(g->volume->reactor));
        return;
    }
    struct buf *blocks = data_expand(g, m, payload);
    if (r->by_block) {
        read_block_done(g, r, blocks);
    } else {
        r->buf = blocks;
        read_end(r, 0);
    }
}

const char *read_answer(struct volume_group *g, uint32_t replica, const struct msg *m, struct buf *payload)
{
    struct read_attempt *a = attempt_find(g, replica, m->cookie);
    if (!a)
        return NULL; /* of an earlier connection's */
    uint64_t now = io_now(g->volume->reactor);
    struct volume_read *r = a->read;
    bool data = m->type == MSG_DATA;
    if (data && m->u.data.status == DATA_OK) {
        if (r && (m->u.data.block != range_block(r) || m->u.data.nblocks != range_nblocks(r)))
            return "DATA for another range than was asked for"; /* the link is cut: the attempt fails with it */
        latency_sample(&g->replica[replica].latency[a->large], now, now - a->sent_ns);
        g->replica[replica].answers++;
    }
    if (r)
        attempt_detach(a);
    attempt_free(g, a);
    if (!r) {
        MARK("volume: late answer to a read that is done");
        return NULL;
    }
    if (data && m->u.data.status == DATA_OK) {
        data_ok(g, r, replica, m, payload);
    } else {
        MARK_IF(!data, "volume: read refused");
        MARK_IF(data && m->u.data.status == DATA_BEHIND, "volume: replica behind the read");
        if (data && m->u.data.status == DATA_BAD) {
            MARK("volume: replica says that a block is damaged");
            if (r->retry_delay_ns == 0) /* later rounds say nothing new */
                log_warning("volume %s: %s has a damaged block in %llu..%llu; asking another replica", g->volume->name,
                            g->volume->link[replica].replica->name, (unsigned long long)range_block(r),
                            (unsigned long long)(range_block(r) + range_nblocks(r) - 1));
            if (read_bad(g, r, replica))
                return NULL;
        }
        read_try(g, r, now);
    }
    return NULL;
}

void read_link_down(struct volume_group *g, uint32_t replica)
{
    struct list *out = &g->replica[replica].outstanding;
    while (!list_empty(out)) {
        struct read_attempt *a = container_of(out->next, struct read_attempt, link);
        struct volume_read *r = a->read;
        MARK("volume: read under way when its link went");
        if (r)
            attempt_detach(a);
        attempt_free(g, a);
        if (r)
            read_try(g, r, io_now(g->volume->reactor));
    }
}

/* ---- time ---- */

void read_pump(struct volume_group *g)
{
    uint64_t now, watermark;
    if (list_empty(&g->reads_waiting) || !group_can_read(g, now = io_now(g->volume->reactor), &watermark))
        return;
    struct list again;
    list_init(&again);
    while (!list_empty(&g->reads_waiting))
        read_move(container_of(g->reads_waiting.next, struct volume_read, link), &again);
    while (!list_empty(&again))
        read_try(g, container_of(again.next, struct volume_read, link), now);
}

/* The read is late. */
static void read_hedge(struct volume_group *g, struct volume_read *r, uint64_t now)
{
    if (r->n_attempts == g->volume->n_links) {
        r->hedge_at_ns = UINT64_MAX; /* all are asked */
        return;
    }
    bool always = now - r->asked_ns >= READ_HEDGE_ALWAYS_NS;
    if (!always && g->hedge_credit < READ_HEDGE_EVERY) {
        r->hedge_at_ns = r->asked_ns + READ_HEDGE_ALWAYS_NS;
        return;
    }
    uint32_t before = r->n_attempts;
    read_try(g, r, now);
    if (r->n_attempts > before) {
        g->hedge_credit -= g->hedge_credit < READ_HEDGE_EVERY ? g->hedge_credit : READ_HEDGE_EVERY;
        g->hedges++;
        MARK("volume: late read sent to another replica too");
        g->replica[r->attempt[0]->replica].hedged++;
    }
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static void read_timer_fired(struct volume_group *g)
{
    uint64_t now = io_now(g->volume->reactor), next = UINT64_MAX;
    g->read_timer_ns = 0;
    list_for_each_safe(p, &g->reads_retry) {
        struct volume_read *r = container_of(p, struct volume_read, link);
        if (r->retry_at_ns <= now)
            read_try(g, r, now);
    }
    list_for_each(p, &g->reads_active) {
        struct volume_read *r = container_of(p, struct volume_read, link);
        if (r->hedge_at_ns <= now)
            read_hedge(g, r, now);
        next = earlier(next, r->hedge_at_ns);
    }
    list_for_each(p, &g->reads_retry)
        next = earlier(next, container_of(p, struct volume_read, link)->retry_at_ns);
    if (next != UINT64_MAX)
        read_timer_at(g, next);
}

void read_timer_fn(struct timer *t)
{
    read_timer_fired(container_of(t, struct volume_group, read_timer));
}

/* ---- READ requests ---- */

static void read_op_done(struct volume_read *read, int error)
{
    struct volume_op *op = container_of(read, struct volume_op, read);
    struct export_request *r = op->request;
    r->data[op->piece] = read->buf; /* the reference goes with it */
    read->buf = NULL;
    op_finish(op->group->volume, op, error);
}

/* Pieces that never cross a 1 MiB boundary of the volume, one op each. */
void read_submit(struct volume *v, struct export_request *r)
{
    uint64_t at = r->offset, end = r->offset + r->length;
    r->n_pieces = 0;
    while (at < end) {
        uint64_t stop = (at / ENTRY_MAX_BYTES + 1) * ENTRY_MAX_BYTES;
        stop = stop < end ? stop : end;
        assert(r->n_pieces < EXPORT_PIECES_MAX);
        uint32_t piece = r->n_pieces++;
        r->data[piece] = NULL;
        r->data_off[piece] = at % BLOCK_SIZE;
        r->data_len[piece] = (uint32_t)(stop - at);
        struct volume_op *op = op_new(v, &v->group[0], r);
        op->state = OP_READ;
        op->piece = piece;
        op->block = at / BLOCK_SIZE;
        op->nblocks = (uint32_t)((stop + BLOCK_SIZE - 1) / BLOCK_SIZE - op->block);
        volume_read_start(op->group, &op->read, op->block, op->nblocks, read_op_done);
        at = stop;
    }
}
