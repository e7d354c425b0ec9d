/* How fast write-back goes: evenly while clients are there, as fast as the disk takes it otherwise.
 *
 * A checkpoint that writes at full speed is a burst in which every append to the log waits behind it, on the same disk, in the same daemon. Nobody needs its end that soon: room for the
 * next writes is there while it runs. So while clients are there, what is written follows what is used up: when the appends since its beginning have taken some part of the room in the log (or in
 * the overlay) after which its end is needed, as large a part of the cycle must have been written; and time alone brings it to an end as well. Operations are small and few at a time, more only when that is not enough.
 *
 * What always holds: no cycle waits for ever (each tick of the clock allows more), none is late for having been paced: where room is short, where nobody is there, for a jump and at the end
 * everything is allowed. */
#include "replica/store_internal.h"

#define SPREAD_NS (10 * NS_PER_S)              /* a cycle that nothing drives takes so long at most, ... */
#define LEAST_BYTES_PER_S (UINT64_C(8) << 20)  /* ... and a small one as long as this takes */
#define TICK_NS (2 * NS_PER_MS)
#define LAG_BYTES (UINT64_C(2) << 20) /* behind by this much: twice as many operations at a time, and so on */

static uint64_t part(uint64_t total, uint64_t used, uint64_t of)
{
    return used >= of ? total : (uint64_t)((unsigned __int128)total * used / of);
}

static void on_tick(struct timer *t)
{
    struct cycle *c = container_of(t, struct cycle, pace.timer);
    struct store *s = container_of(c, struct store, cycle);
    cycle_advance(s);
}

void write_pace_begin(struct store *s, uint64_t wal_budget)
{
    struct write_pace *p = &s->cycle.pace;
    unsigned frozen = s->gen ^ 1u;
    uint64_t room = wal_room(s->wal) / 2;
    p->timer.fn = on_tick;
    p->done = 0;
    p->total = s->overlay_bytes[frozen];
    list_for_each(l, &s->overlay_regions[frozen])
        p->total += (uint64_t)container_of(l, struct region, overlay_link[frozen])->n_overlay[frozen] * BLOCK_SIZE;
    p->began_ns = io_now(s->reactor);
    p->wal_lsn = s->cycle.started_head;
    p->wal_budget = wal_budget < room ? wal_budget : room;
    p->fresh_taken = s->fresh_taken;
    p->fresh_budget = slabs_to_spare(s) / 8;
}

void write_pace_end(struct store *s)
{
    timer_cancel(s->reactor, &s->cycle.pace.timer);
}

static bool is_short_of_room(const struct store *s)
{
    const struct arena *a = s->reactor->arena;
    uint64_t overlay = s->overlay_bytes[0] + s->overlay_bytes[1];
    if (s->told_full || wal_room(s->wal) < s->wal_dev->size_bytes / 8 || overlay > s->options.overlay_bytes / 4 * 3 ||
        arena_used_bytes(a) > arena_limit_bytes(a) / 4 * 3 || slabs_are_short(s))
        return true;
    for (unsigned i = 0; i < s->groups_end; i++) {
        const struct group *g = s->groups[i];
        if (g && g->last - g->log.base.slot > STORE_SLOTS_MAX / 4 * 3)
            return true;
    }
    return false;
}

/* Peers keep their logs for a jump only so long. */
static bool is_jumping(const struct store *s)
{
    for (unsigned i = 0; i < s->groups_end; i++)
        if (s->groups[i] && (s->groups[i]->drain_fn || s->groups[i]->jumping != JUMP_NONE))
            return true;
    return false;
}

/* Large writes come fast, and what they replace is free only when the cycle is over: else they go to the log. It is their
 * cycle, which has little to write but leaves. */
static bool is_short_of_fresh(const struct store *s)
{
    const struct write_pace *p = &s->cycle.pace;
    return s->fresh_taken - p->fresh_taken > p->fresh_budget;
}

bool write_pace_is_gentle(const struct store *s)
{
    return store_has_clients(s) && !s->closing && !is_jumping(s) && !is_short_of_room(s) && !is_short_of_fresh(s);
}

/* So much is to have been written by now. */
static uint64_t due(const struct store *s)
{
    const struct write_pace *p = &s->cycle.pace;
    uint64_t now = io_turn_now(s->reactor), overlay = s->options.overlay_bytes;
    uint64_t ns = now > p->began_ns ? now - p->began_ns : 0;
    uint64_t by[] = {
        part(p->total, ns, SPREAD_NS),
        ns / NS_PER_MS * (LEAST_BYTES_PER_S / 1000),
        part(p->total, wal_head_lsn(s->wal) - p->wal_lsn, p->wal_budget),
        part(p->total, s->overlay_bytes[s->gen], overlay / 4),
        part(p->total, s->clean_bytes[s->gen], overlay / COPY_CLEAN_CYCLE),
    };
    uint64_t most = 0;
    for (unsigned i = 0; i < sizeof by / sizeof by[0]; i++)
        most = by[i] > most ? by[i] : most;
    return most;
}

bool write_pace_allows(struct store *s)
{
    struct write_pace *p = &s->cycle.pace;
    if (!write_pace_is_gentle(s) || p->done < due(s))
        return true;
    if (!p->timer.heap_index)
        timer_set(s->reactor, &p->timer, io_now(s->reactor) + TICK_NS);
    return false;
}

void write_pace_took(struct store *s, uint64_t bytes)
{
    s->cycle.pace.done += bytes;
}

unsigned write_pace_depth(const struct store *s)
{
    unsigned most = s->options.write_back_depth, n = 1;
    if (!write_pace_is_gentle(s))
        return most;
    uint64_t want = due(s), done = s->cycle.pace.done;
    for (uint64_t lag = want > done ? want - done : 0; lag >= LAG_BYTES && n < most; lag /= 2)
        n *= 2;
    return n < most ? n : most;
}
