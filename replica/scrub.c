/* The scrub of a replica: passes over all that it holds, in the background and when an operator asks (docs/rebuild.md section 9).
 *
 * What always holds: one step of the store is in flight; the next one is begun by the timer, when the rate allows; a pass asked for begins at the beginning and takes the
 * place of one in the background. What is found is repaired by the ordinary ways: this only finds, waits and counts. */
#include "replica/scrub_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/mark.h"

void scrub_schedule(struct scrub *sc, uint64_t at_ns)
{
    if (!sc->replica->closing)
        timer_set(sc->replica->reactor, &sc->timer, at_ns);
}

static uint64_t now_ns(const struct scrub *sc)
{
    return io_now(sc->replica->reactor);
}

bool scrub_step_ended(struct scrub *sc)
{
    sc->busy = false;
    if (!sc->replica->closing)
        return true;
    replica_close_poll(sc->replica);
    return false;
}

void scrub_list_add(struct scrub_list *l, uint64_t group, uint64_t block, uint32_t nblocks, bool lost)
{
    struct scrub_range *last = l->n > 0 ? &l->range[l->n - 1] : NULL;
    l->blocks += nblocks;
    if (last && last->group == group && last->block + last->nblocks == block && last->lost == lost)
        last->nblocks += nblocks;
    else if (l->n < SCRUB_FINDINGS_MAX)
        l->range[l->n++] = (struct scrub_range){.group = group, .block = block, .nblocks = nblocks, .lost = lost};
}

struct replica_group *scrub_group(struct scrub *sc)
{
    return replica_find_group(sc->replica, sc->group);
}

/* ---- pace ---- */

static uint64_t full_rate(const struct scrub *sc)
{
    if (sc->now.full_rate)
        return SCRUB_RATE_NOW;
    struct store_stats st;
    store_get_stats(sc->replica->store, &st);
    uint64_t weekly = (st.slabs_total - st.slabs_free) * SLAB_BYTES / SCRUB_WEEK_S, rate = sc->background_rate;
    if (rate == 0)
        rate = SCRUB_RATE_NOW / 128; /* asked for, where none is made in the background */
    return rate > weekly ? rate : weekly;
}

/* The next step is due when this one's bytes are paid for, at a rate that the foreground's latency bears. */
static void pay(struct scrub *sc, uint64_t bytes)
{
    struct replica *r = sc->replica;
    uint64_t now = now_ns(sc), full = full_rate(sc);
    if (now - sc->paced_ns >= SCRUB_PACE_NS) {
        uint64_t ns = latency_now(r);
        sc->paced_ns = now;
        bool disturbs = ns * 2 > r->latency.quiet_ns * 3;
        MARK_IF(disturbs, "scrub: slower, the log is slow");
        sc->rate = disturbs ? sc->rate / 2 : sc->rate + full / 16;
    }
    if (sc->rate > full)
        sc->rate = full;
    uint64_t least = full / 256 > SCRUB_RATE_LEAST ? full / 256 : SCRUB_RATE_LEAST;
    if (sc->rate < least)
        sc->rate = least;
    if (sc->next_step_ns < now)
        sc->next_step_ns = now;
    sc->next_step_ns += bytes * NS_PER_S / sc->rate;
    sc->now.done_bytes += bytes;
    sc->unsaved_bytes += bytes;
    scrub_schedule(sc, sc->next_step_ns);
}

/* ---- the place ---- */

static void save_place(struct scrub *sc, uint32_t next, bool over)
{
    struct store_scrub_place p;
    store_scrub_place(sc->replica->store, sc->group, &p);
    p.next = next;
    if (over) {
        p.passes++;
        p.done_at = io_wall_clock(sc->replica->reactor) / NS_PER_S;
    }
    bool soon = over || sc->unsaved_bytes >= SCRUB_SAVE_BYTES;
    if (soon)
        sc->unsaved_bytes = 0;
    store_scrub_set_place(sc->replica->store, sc->group, &p, soon);
}

static void begin_region(struct scrub *sc, uint32_t region)
{
    sc->region = region;
    sc->step = (struct store_scrub){.group = sc->group, .block = (uint64_t)region * REGION_BLOCKS};
    sc->state = SCRUB_VERIFY;
}

/* The group after the present one (0: the first) that is to be scrubbed. */
static bool next_group(struct scrub *sc)
{
    bool past = sc->group == 0;
    list_for_each(l, &sc->replica->groups)
    {
        struct replica_group *g = container_of(l, struct replica_group, link);
        if (!past) {
            past = g->id == sc->group;
            continue;
        }
        if (sc->now.only && g->id != sc->now.only)
            continue;
        if (g->acceptor.needs_copy)
            continue; /* the copy verifies what it brings */
        struct store_scrub_place p;
        store_scrub_place(sc->replica->store, g->id, &p);
        sc->group = g->id;
        begin_region(sc, sc->now.asked ? 0 : p.next);
        return true;
    }
    return false;
}

static void begin_settling(struct scrub *sc)
{
    sc->state = SCRUB_SETTLE;
    sc->deadline_ns = now_ns(sc) + SCRUB_SETTLE_NS;
}

static void group_over(struct scrub *sc, bool whole)
{
    if (whole)
        save_place(sc, 0, true);
    if (!next_group(sc))
        begin_settling(sc);
    scrub_schedule(sc, now_ns(sc));
}

void scrub_region_over(struct scrub *sc)
{
    uint32_t own = sc->region == UINT32_MAX ? UINT32_MAX
                                            : store_next_region(sc->replica->store, sc->group, sc->region + 1);
    uint32_t next = own < sc->next_region ? own : sc->next_region;
    const struct replica_group *g = scrub_group(sc);
    if (!g || next == UINT32_MAX || (uint64_t)next * REGION_BLOCKS >= g->acceptor.size_blocks) {
        group_over(sc, g != NULL);
        return;
    }
    save_place(sc, next, false);
    begin_region(sc, next);
    scrub_schedule(sc, sc->next_step_ns);
}

/* ---- passes ---- */

static void begin_pass(struct scrub *sc)
{
    bool asked = sc->asked.id != 0;
    sc->now = (struct scrub_report){.id = asked ? sc->asked.id : ++sc->last_id,
                                    .asked = asked,
                                    .full_rate = asked && sc->asked.full_rate,
                                    .only = asked ? sc->asked.group : 0};
    sc->asked.id = 0;
    list_for_each(l, &sc->replica->groups)
    {
        const struct replica_group *g = container_of(l, struct replica_group, link);
        if (!sc->now.only || sc->now.only == g->id)
            sc->now.total_bytes += store_mapped_bytes(sc->replica->store, g->id);
    }
    sc->group = 0;
    sc->rate = full_rate(sc);
    sc->connect_ns = 0;
    sc->waiting = false;
    sc->stalled = false;
    sc->next_step_ns = now_ns(sc);
    sc->meta = (struct store_scrub_meta){0};
    sc->state = SCRUB_META;
    MARK("scrub: a pass begins");
}

static void say_findings(const struct scrub_report *rep)
{
    uint64_t found = rep->bad_blocks + rep->lost_blocks + rep->disowned_blocks;
    if (found + rep->rewritten_pages + rep->undecided.blocks == 0)
        return;
    log_warning("scrub: %llu blocks were damaged, lost or unlike the other replicas', %llu of them still are; %llu pages of metadata written anew; %llu blocks differ "
                "between replicas without a majority",
                (unsigned long long)found, (unsigned long long)rep->found.blocks, (unsigned long long)rep->rewritten_pages,
                (unsigned long long)rep->undecided.blocks);
}

static void end_pass(struct scrub *sc)
{
    sc->now.found = sc->still;
    sc->now.finished_at = io_wall_clock(sc->replica->reactor) / NS_PER_S;
    sc->last = sc->now;
    say_findings(&sc->last);
    MARK("scrub: a pass is over");
    MARK_IF(sc->last.bad_blocks > 0 && sc->last.found.blocks == 0, "scrub: all that was found is repaired");
    sc->state = SCRUB_IDLE;
    sc->next_pass_ns = now_ns(sc) + sc->interval_ns;
}

static bool is_due(struct scrub *sc)
{
    return sc->asked.id != 0 || (sc->background_rate > 0 && now_ns(sc) >= sc->next_pass_ns);
}

static void wait_for_pass(struct scrub *sc)
{
    if (is_due(sc)) {
        begin_pass(sc);
        scrub_schedule(sc, now_ns(sc));
    } else if (sc->background_rate > 0) {
        scrub_schedule(sc, sc->next_pass_ns);
    }
}

/* ---- steps ---- */

static void on_meta(struct store_scrub_meta *m)
{
    struct scrub *sc = m->user;
    if (!scrub_step_ended(sc))
        return;
    sc->now.rewritten_pages += m->n_bad;
    if (m->n_bad > 0)
        log_warning("scrub: %u copies of the superblock or pages of the checkpoint were damaged on this disk; they are written anew from memory", m->n_bad);
    if (m->err && !next_group(sc))
        begin_settling(sc);
    pay(sc, m->read_bytes);
}

static void note_found(struct scrub *sc, const struct store_scrub *c)
{
    for (unsigned i = 0; i < LEAF_BLOCKS; i++) {
        if (!(c->found[i / 64] >> (i % 64) & 1))
            continue;
        bool lost = c->lost[i / 64] >> (i % 64) & 1;
        *(lost ? &sc->now.lost_blocks : &sc->now.bad_blocks) += 1;
        scrub_list_add(&sc->now.found, c->group, c->leaf_block + i, 1, false);
        MARK_IF(lost, "scrub: a block that no replica has");
    }
    if (c->leaf_rewritten)
        log_warning("group %llu: the map of blocks %llu to %llu was damaged on this disk; it is written anew from memory", (unsigned long long)c->group,
                    (unsigned long long)c->leaf_block, (unsigned long long)(c->leaf_block + LEAF_BLOCKS - 1));
    sc->now.rewritten_pages += c->leaf_rewritten;
}

static void on_step(struct store_scrub *c)
{
    struct scrub *sc = c->user;
    if (!scrub_step_ended(sc))
        return;
    if (c->err == -EAGAIN || c->err == -EIO) {
        group_over(sc, false);
        return;
    }
    sc->now.verified_bytes += (uint64_t)c->verified_blocks * BLOCK_SIZE;
    note_found(sc, c);
    if (c->err == -ENOENT)
        scrub_compare_begin(sc);
    pay(sc, c->read_bytes);
}

/* ---- what became of the findings ---- */

static void on_reread(struct store_read *rd)
{
    struct scrub *sc = rd->user;
    if (!scrub_step_ended(sc)) {
        buf_unref(rd->buf);
        return;
    }
    for (uint32_t i = 0; i < rd->nblocks; i++) {
        bool lost = rd->lost[i / 64] >> (i % 64) & 1, bad = rd->bad[i / 64] >> (i % 64) & 1;
        if (lost || bad || !rd->buf)
            scrub_list_add(&sc->still, rd->group, rd->block + i, 1, lost);
    }
    buf_unref(rd->buf);
    pay(sc, (uint64_t)rd->nblocks * BLOCK_SIZE);
}

static void recheck(struct scrub *sc)
{
    struct scrub_range *next = &sc->recheck;
    if (next->nblocks == 0 && sc->next_recheck == sc->now.found.n) {
        end_pass(sc);
        wait_for_pass(sc);
        return;
    }
    if (next->nblocks == 0)
        *next = sc->now.found.range[sc->next_recheck++];
    uint32_t n = next->nblocks < ENTRY_MAX_BLOCKS ? next->nblocks : ENTRY_MAX_BLOCKS;
    sc->read = (struct store_read){.group = next->group, .block = next->block, .nblocks = n, .fn = on_reread, .user = sc};
    next->block += n;
    next->nblocks -= n;
    sc->busy = true;
    store_read(sc->replica->store, &sc->read);
}

static void settle(struct scrub *sc)
{
    if (sc->now.found.blocks > 0 && sc->replica->n_repairs > 0 && now_ns(sc) < sc->deadline_ns) {
        scrub_schedule(sc, now_ns(sc) + SCRUB_AGAIN_NS);
        return;
    }
    memset(&sc->still, 0, sizeof sc->still);
    sc->still.blocks = sc->now.found.blocks; /* what is not looked at again counts as unrepaired */
    for (uint32_t i = 0; i < sc->now.found.n; i++)
        sc->still.blocks -= sc->now.found.range[i].nblocks;
    sc->recheck.nblocks = 0;
    sc->next_recheck = 0;
    sc->state = SCRUB_RECHECK;
    recheck(sc);
}

/* Repairs are few at a time: what is found beyond them would have to wait for the next pass. A peer that does not come does not hold up this one for ever. */
static bool stalls(struct scrub *sc)
{
    if (sc->replica->n_repairs < REPAIRS_MAX / 2) {
        sc->stalled = false;
        return false;
    }
    if (!sc->stalled)
        sc->stalled_ns = now_ns(sc) + SCRUB_SETTLE_NS;
    sc->stalled = true;
    if (now_ns(sc) >= sc->stalled_ns)
        return false;
    MARK("scrub: waits for repairs");
    scrub_schedule(sc, now_ns(sc) + SCRUB_AGAIN_NS);
    return true;
}

/* ---- the timer ---- */

static void run(struct scrub *sc)
{
    if (sc->busy || sc->replica->closing)
        return;
    if (sc->asked.id != 0 && !sc->now.asked)
        sc->state = SCRUB_IDLE; /* one in the background gives way */
    switch (sc->state) {
    case SCRUB_IDLE:
        wait_for_pass(sc);
        return;
    case SCRUB_META:
        sc->meta.fn = on_meta;
        sc->meta.user = sc;
        sc->busy = true;
        store_scrub_meta_next(sc->replica->store, &sc->meta);
        return;
    case SCRUB_VERIFY:
        if (stalls(sc))
            return;
        sc->step.fn = on_step;
        sc->step.user = sc;
        sc->busy = true;
        store_scrub_next(sc->replica->store, &sc->step);
        return;
    case SCRUB_DIGESTS:
    case SCRUB_CRCS:
        scrub_compare_run(sc);
        return;
    case SCRUB_SETTLE:
        settle(sc);
        return;
    case SCRUB_RECHECK:
        recheck(sc);
        return;
    }
}

static void on_timer(struct timer *t)
{
    run(container_of(t, struct scrub, timer));
}

bool scrub_init(struct replica *r, uint64_t bytes_per_s, uint64_t interval_ns)
{
    struct scrub *sc = r->scrub = calloc(1, sizeof *sc);
    if (!sc)
        return false;
    sc->replica = r;
    sc->timer.fn = on_timer;
    sc->background_rate = bytes_per_s;
    sc->interval_ns = interval_ns;
    return true;
}

void scrub_start(struct replica *r)
{
    struct scrub *sc = r->scrub;
    sc->next_pass_ns = now_ns(sc) + (sc->interval_ns < SCRUB_START_NS ? sc->interval_ns : SCRUB_START_NS);
    wait_for_pass(sc);
}

void scrub_stop(struct replica *r)
{
    timer_cancel(r->reactor, &r->scrub->timer);
}

bool scrub_is_busy(const struct replica *r)
{
    return r->scrub->busy;
}

void scrub_on_request(struct session *s, const struct msg *m)
{
    struct scrub *sc = s->replica->scrub;
    struct msg done = {.type = MSG_DONE, .cookie = m->cookie, .group = m->group};
    bool fast = m->u.scrub.flags & SCRUB_AT_FULL_RATE;
    uint64_t id = sc->asked.id;
    if (m->group && !replica_find_group(s->replica, m->group)) {
        done.u.done.error = ENOENT;
        snprintf(done.u.done.text, sizeof done.u.done.text, "it has no such group");
        wire_peer_send(&s->peer, &done);
        return;
    }
    if (id == 0) {
        sc->asked.id = id = ++sc->last_id;
        sc->asked.group = m->group;
        sc->asked.full_rate = fast;
    } else { /* one more is waiting already: it will be for both */
        sc->asked.group = sc->asked.group == m->group ? m->group : 0;
        sc->asked.full_rate |= fast;
    }
    log_info("scrub: asked for by %s", s->name[0] ? s->name : "a tool");
    snprintf(done.u.done.text, sizeof done.u.done.text, "%llu", (unsigned long long)id);
    wire_peer_send(&s->peer, &done);
    if (!sc->busy && (sc->state == SCRUB_IDLE || !sc->now.asked))
        scrub_schedule(sc, now_ns(sc));
}
