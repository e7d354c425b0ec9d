/* The store's face: groups, persistence in the order of the acceptor's effects, durability, apply, values, room and
 * credits. See store.h for what it promises, store_internal.h for who does what. */
#include "replica/store_internal.h"

#include <errno.h>
#include <stdlib.h>

void *store_calloc(size_t n, size_t size)
{
    void *p = calloc(n ? n : 1, size);
    if (!p)
        abort(); /* half an index is worse than a restart */
    return p;
}

void *store_realloc(void *p, size_t size)
{
    p = realloc(p, size);
    if (!p)
        abort();
    return p;
}

void store_fatal(struct store *s, int err, const char *what)
{
    if (s->dead)
        return;
    s->dead = true;
    if (s->cb.on_fatal)
        s->cb.on_fatal(s->cb.user, err, what);
}

/* ---- groups ---- */

struct group *store_group(const struct store *s, uint64_t id)
{
    for (unsigned i = 0; i < GROUPS_MAX; i++)
        if (s->group_ids[i] == id)
            return id ? s->groups[i] : NULL;
    return NULL;
}

struct group *store_group_new(struct store *s, const struct wal_group *wg, unsigned page)
{
    struct group *g = store_calloc(1, sizeof *g);
    g->store = s;
    g->id = wg->group;
    g->page = page;
    g->size_blocks = wg->size_blocks;
    g->committed = wg->membership;
    for (unsigned i = 0; i < wg->membership.n_learners; i++)
        g->needs_copy |= uuid_equal(&wg->membership.learner[i], &s->sb.identity);
    g->since = GROUP_SINCE_NONE;
    g->image = aligned_alloc(BLOCK_SIZE, sizeof *g->image);
    if (!g->image)
        abort();
    memset(g->image, 0, sizeof *g->image);
    s->groups[page] = g;
    if (s->groups_end <= page)
        s->groups_end = page + 1;
    s->group_ids[page] = g->id;
    return g;
}

bool store_can_create(const struct store *s, uint64_t group)
{
    if (group == 0 || store_group(s, group))
        return false;
    for (unsigned i = 0; i < GROUPS_MAX; i++)
        if (!s->groups[i])
            return true;
    return false;
}

/* ---- tokens: the WAL numbers all groups' records in one order ---- */

uint64_t store_next_token(struct store *s)
{
    return ++s->token;
}

static uint64_t token_for(struct store *s, struct group *g, uint64_t seq)
{
    uint64_t n = s->fifo_tail - s->fifo_head;
    if (n == s->fifo_cap) {
        uint64_t cap = s->fifo_cap ? 2 * s->fifo_cap : 256;
        struct token_record *f = store_calloc(cap, sizeof *f);
        for (uint64_t i = 0; i < n; i++)
            f[(s->fifo_head + i) & (cap - 1)] = s->fifo[(s->fifo_head + i) & (s->fifo_cap - 1)];
        free(s->fifo);
        s->fifo = f;
        s->fifo_cap = cap;
    }
    uint64_t token = store_next_token(s);
    s->fifo[s->fifo_tail++ & (s->fifo_cap - 1)] = (struct token_record){.token = token, .seq = seq, .group = g};
    return token;
}

static void needs_copy_durable(struct group *g, uint64_t token)
{
    if (!g->needs_copy_fn || g->needs_copy_token > token)
        return;
    void (*fn)(void *, int) = g->needs_copy_fn;
    g->needs_copy_fn = NULL;
    fn(g->needs_copy_user, 0);
}

void store_wal_durable(void *user, uint64_t token)
{
    struct store *s = user;
    struct group *changed[GROUPS_MAX];
    unsigned n = 0;
    /* What a slab could not take is durable only when its record in the WAL is (large.c). */
    token = large_on_durable(s, token);
    if (token <= s->durable_token)
        return;
    s->durable_token = token;
    while (s->fifo_head < s->fifo_tail && s->fifo[s->fifo_head & (s->fifo_cap - 1)].token <= token) {
        const struct token_record *t = &s->fifo[s->fifo_head++ & (s->fifo_cap - 1)];
        t->group->durable_seq = t->seq;
        if (!t->group->durable_reported) {
            t->group->durable_reported = true;
            changed[n++] = t->group;
        }
    }
    for (unsigned i = 0; i < n; i++)
        changed[i]->durable_reported = false;
    for (unsigned i = 0; i < n && !s->dead; i++)
        s->cb.on_durable(s->cb.user, changed[i]->id, changed[i]->durable_seq);
    for (unsigned i = 0; i < s->groups_end && !s->dead; i++)
        if (s->groups[i])
            needs_copy_durable(s->groups[i], token);
    if (s->cycle.state == CYCLE_COMMIT)
        cycle_advance(s);
}

void store_wal_placed(void *user, const struct entry *e, struct wal_place place)
{
    struct store *s = user;
    struct group *g = store_group(s, e->group);
    if (!g || e->slot <= g->log.base.slot || e->slot > g->last)
        return; /* cut meanwhile */
    struct slot_info *i = log_slot(g, e->slot);
    if (i->entry == e)
        i->place = place;
}

void store_wal_error(void *user, int err)
{
    store_fatal(user, err, "the WAL can't be written");
}

/* ---- persistence ---- */

static void touch_group(struct store *s, const struct group *g)
{
    store_touch(s);
    if (g->last - g->log.base.slot > STORE_SLOTS_MAX / 2 || g->log.n > RUNS_MAX / 4 * 3)
        store_schedule_kick(s);
}

void store_create_group(struct store *s, const struct wal_group *wg, uint64_t seq)
{
    if (s->dead)
        return;
    assert(s->ready && store_can_create(s, wg->group));
    unsigned page = 0;
    while (s->groups[page])
        page++;
    struct group *g = store_group_new(s, wg, page);
    wal_append_group(s->wal, token_for(s, g, seq), wg);
    store_touch(s);
    store_publish(s);
}

void store_promise(struct store *s, uint64_t group, const struct ballot *b, uint64_t max_lease_ns, uint64_t seq)
{
    struct group *g = store_group(s, group);
    if (s->dead)
        return;
    assert(g && ballot_compare(b, &g->promised) >= 0);
    g->promised = *b;
    if (max_lease_ns > g->max_lease_ns)
        g->max_lease_ns = max_lease_ns;
    wal_append_promise(s->wal, token_for(s, g, seq), group, b, g->max_lease_ns);
    store_touch(s);
}

void store_cut(struct store *s, uint64_t group, uint64_t slot, uint64_t seq)
{
    struct group *g = store_group(s, group);
    if (s->dead)
        return;
    assert(g && slot > g->applied); /* A4: nothing committed is cut */
    assert(g->jumping == JUMP_NONE);
    log_cut(g, slot);
    wal_append_cut(s->wal, token_for(s, g, seq), group, slot);
    store_touch(s);
}

static void note_membership(struct group *g, const struct entry *e)
{
    if (e->kind != ENTRY_MEMBER)
        return;
    g->uncommitted = e->u[0].membership;
    g->uncommitted.slot = e->slot;
}

static void log_commit_now(struct store *s, struct group *g)
{
    g->commit_logged = g->applied;
    wal_append_commit(s->wal, store_next_token(s), g->id, g->applied);
}

/* How far the group is known to be committed goes to the log with the entries now and then, not only at checkpoints: after
 * a restart of everybody, a front end has to hold all that lies above the highest commit that somebody still knows. */
static void log_commit(struct store *s, struct group *g)
{
    if (g->applied >= g->commit_logged + COMMIT_EVERY_SLOTS)
        log_commit_now(s, g);
}

void store_append(struct store *s, struct entry *e, uint64_t seq)
{
    struct group *g = store_group(s, e->group);
    if (s->dead)
        return;
    assert(g && e->slot == g->last + 1);
    assert(g->jumping == JUMP_NONE); /* docs/rebuild.md section 3: held back until the jump is durable */
    log_commit(s, g);
    log_extend(g, e->slot);
    *log_slot(g, e->slot) = (struct slot_info){.state = SLOT_VALUE, .entry = entry_ref(e)};
    runs_append(&g->log, e->slot, &e->e);
    note_membership(g, e);
    uint64_t token = token_for(s, g, seq);
    if (!large_append(s, g, e, token))
        wal_append_entry(s->wal, token, e, false);
    slabs_reserve_entry(s, g, e, log_slot(g, e->slot)->ref);
    touch_group(s, g);
}

void store_refill(struct store *s, struct entry *e, uint64_t seq)
{
    struct group *g = store_group(s, e->group);
    struct ballot named;
    if (s->dead)
        return;
    assert(g && e->slot > g->applied && paxos_log_at(&g->log, e->slot, &named) && ballot_equal(&named, &e->e));
    struct slot_info *i = log_slot(g, e->slot);
    assert(i->state == SLOT_LOST && g->jumping == JUMP_NONE);
    g->n_lost--;
    *i = (struct slot_info){.state = SLOT_VALUE, .entry = entry_ref(e)};
    note_membership(g, e);
    wal_append_entry(s->wal, token_for(s, g, seq), e, true);
    slabs_reserve_entry(s, g, e, NULL);
    touch_group(s, g);
}

void store_needs_copy(struct store *s, uint64_t group, bool on, void (*fn)(void *user, int err), void *user)
{
    struct group *g = store_group(s, group);
    if (s->dead)
        return;
    assert(g);
    if (!on && g->since != GROUP_SINCE_NONE)
        on = true; /* what a jump made unknown no log brings back */
    g->needs_copy = on;
    g->needs_copy_token = store_next_token(s);
    g->needs_copy_fn = fn;
    g->needs_copy_user = user;
    wal_append_needs_copy(s->wal, g->needs_copy_token, group, g->applied + 1, on);
    store_touch(s);
    if (on)
        copy_cancel_completion(g);
}

/* ---- apply ---- */

/* As the acceptor finds it from the same memberships: here so that it outlives them. */
void store_set_committed(struct store *s, struct group *g, const struct membership *m)
{
    bool was = membership_has_voter(&g->committed, &s->sb.identity);
    g->committed = *m;
    if (membership_has_voter(m, &s->sb.identity))
        g->retired = false;
    else if (was)
        g->retired = true;
}

static void apply_membership(struct store *s, struct group *g, const struct entry *e)
{
    struct membership m = e->u[0].membership;
    m.slot = e->slot;
    store_set_committed(s, g, &m);
    if (g->uncommitted.n_voters && g->uncommitted.slot <= e->slot)
        memset(&g->uncommitted, 0, sizeof g->uncommitted);
}

/* A6: in slot order, only what is committed and locally durable (the caller's word), all of it in memory. */
void store_apply(struct store *s, struct group *g, uint64_t through)
{
    while (g->applied < through && !s->dead) {
        struct slot_info *i = log_slot(g, g->applied + 1);
        struct entry *e = i->entry;
        assert(i->state == SLOT_VALUE && e);
        if (e->kind == ENTRY_WRITE || e->kind == ENTRY_TRIM || e->kind == ENTRY_ZERO)
            overlay_apply(s, g, e, i->ref);
        else if (e->kind == ENTRY_MEMBER)
            apply_membership(s, g, e);
        g->applied++;
        if (i->ref) {
            i->ref->owned = false; /* the map's, from now on */
            s->refs_applied++;
        }
        if (!i->pinned) {
            i->entry = NULL;
            entry_unref(e);
        }
    }
    repairs_on_applied(s, g);
    copies_on_applied(s, g);
}

void store_commit(struct store *s, uint64_t group, uint64_t slot)
{
    struct group *g = store_group(s, group);
    assert(g);
    if (s->dead || slot <= g->applied)
        return;
    assert(slot <= g->last && g->jumping == JUMP_NONE);
    uint64_t membership = g->committed.slot;
    store_apply(s, g, slot);
    if (g->committed.slot != membership && !s->dead)
        log_commit_now(s, g); /* at once: a voter that is replaced may be gone, and only a commit replaces it (docs/rebuild.md section 6) */
    store_touch(s);
    if (s->cb.on_applied && !s->dead)
        s->cb.on_applied(s->cb.user, group, g->applied);
}

uint64_t store_applied(const struct store *s, uint64_t group)
{
    const struct group *g = store_group(s, group);
    return g ? g->applied : 0;
}

/* ---- values ---- */

struct value_read {
    uint64_t group, slot;
    struct ballot e;
    void (*fn)(void *user, struct entry *e, int err);
    void *user;
};

static void on_value(void *user, struct entry *e, int err)
{
    struct value_read *v = user;
    /* Values are named by (slot, e). */
    if (e && (e->group != v->group || e->slot != v->slot || !ballot_equal(&e->e, &v->e))) {
        entry_unref(e);
        e = NULL;
        err = -EIO;
    }
    v->fn(v->user, e, e ? 0 : err == -ESTALE ? -ENOENT : err == -ENOMEM ? -ENOMEM : -EIO);
    free(v);
}

void store_value(struct store *s, uint64_t group, uint64_t slot, void (*fn)(void *user, struct entry *e, int err),
                 void *user)
{
    struct group *g = store_group(s, group);
    struct ballot e;
    if (!g || !paxos_log_at(&g->log, slot, &e) || slot <= g->log.base.slot) {
        fn(user, NULL, -ENOENT);
        return;
    }
    struct slot_info *i = log_slot(g, slot);
    if (i->state == SLOT_LOST) {
        fn(user, NULL, -ENODATA);
        return;
    }
    if (i->entry) {
        fn(user, entry_ref(i->entry), 0);
        return;
    }
    if (i->ref) {
        large_value(s, g, slot, &e, fn, user);
        return;
    }
    struct value_read *v = store_calloc(1, sizeof *v);
    *v = (struct value_read){.group = group, .slot = slot, .e = e, .fn = fn, .user = user};
    wal_read_entry(s->wal, i->place, on_value, v);
}

/* ---- room, credits, the end of a turn ---- */

/* Of the log, kept for what must go on without data: promises, commits, session starts. */
static uint64_t wal_margin(const struct store *s)
{
    uint64_t margin = s->wal_dev->size_bytes / 32;
    return margin < (32u << 20) ? margin : 32u << 20;
}

static bool has_slots(const struct store *s)
{
    for (unsigned i = 0; i < s->groups_end; i++)
        if (s->groups[i] && s->groups[i]->last - s->groups[i]->log.base.slot >= STORE_SLOTS_MAX)
            return false;
    return true;
}

bool store_has_reserve(const struct store *s)
{
    return s->ready && !s->dead && wal_room(s->wal) >= wal_margin(s) / 2 && has_slots(s);
}

static bool has_room(const struct store *s)
{
    if (s->dead || !s->ready || wal_room(s->wal) < wal_margin(s) || slabs_are_out(s))
        return false;
    uint64_t overlay = s->overlay_bytes[0] + s->overlay_bytes[1];
    if (overlay > s->options.overlay_bytes)
        return false;
    const struct arena *a = s->reactor->arena;
    if (overlay > 0 && arena_used_bytes(a) > arena_limit_bytes(a) / 8 * 7)
        return false;
    return has_slots(s);
}

bool store_has_room(const struct store *s)
{
    bool room = has_room(s);
    if (!room)
        ((struct store *)(uintptr_t)s)->told_full = true; /* a note for store_publish, no change of state */
    return room;
}

bool store_is_full(const struct store *s)
{
    return s->ready && slabs_are_out(s);
}

void store_publish(struct store *s)
{
    if (!s->ready || s->dead)
        return;
    uint64_t slabs = slabs_credit(s), old = s->credits.slabs;
    uint64_t step = old / 64; /* what is plentiful needn't be exact */
    /* While more can be made, or are given back with the next root, nobody is told that it is full. */
    uint8_t growing = s->growing || slabs_can_grow(s) || (slabs_are_low(s) && slabs_returning(s) > 0);
    bool all = !s->credits_published || growing != s->credits.growing || (slabs == 0) != (old == 0) ||
               slabs > old + step || slabs + step < old;
    if (s->told_full && has_room(s)) {
        s->told_full = false;
        all = true;
    }
    if (all) {
        s->credits.slabs = slabs;
        s->credits.growing = growing;
        s->credits_published = true;
    }
    for (unsigned i = 0; i < s->groups_end && s->cb.on_credits; i++) {
        struct group *g = s->groups[i];
        if (!g)
            continue;
        uint64_t limit = g->log.base.slot + STORE_SLOTS_MAX - STORE_SLOTS_MARGIN;
        if (!all && limit == g->slot_limit)
            continue;
        g->slot_limit = limit;
        struct credits c = s->credits;
        c.slot_limit = limit;
        s->cb.on_credits(s->cb.user, g->id, &c);
    }
}

static void idle(struct timer *t)
{
    struct store *s = container_of(t, struct store, idle_timer);
    s->idle_set = false;
    if (s->dead || !store_dirty(s))
        return;
    if (s->idle_mutations == s->mutations) {
        store_checkpoint(s);
        return;
    }
    s->idle_mutations = s->mutations;
    s->idle_set = true;
    timer_set(s->reactor, &s->idle_timer, io_now(s->reactor) + s->options.checkpoint_idle_ns);
}

void store_touch(struct store *s)
{
    s->mutations++;
    if (!s->idle_set) {
        s->idle_set = true;
        s->idle_mutations = s->mutations;
        timer_set(s->reactor, &s->idle_timer, io_now(s->reactor) + s->options.checkpoint_idle_ns);
    }
    if (s->cycle.state == CYCLE_IDLE && !s->kick_set && cycle_wanted(s, false))
        s->kick_set = true;
}

void store_schedule_kick(struct store *s)
{
    s->kick_set = true;
}

static void try_close(struct store *s)
{
    if (!s->closing || s->cycle.state != CYCLE_IDLE || s->growing || !list_empty(&s->readings) || !list_empty(&s->large_writes) ||
        !list_empty(&s->value_reads))
        return;
    if (s->ready && !s->dead && store_dirty(s)) {
        cycle_start(s);
        return;
    }
    if (s->close_done) {
        void (*done)(void *) = s->close_done;
        s->close_done = NULL;
        timer_cancel(s->reactor, &s->idle_timer);
        timer_cancel(s->reactor, &s->grow_timer);
        done(s->close_user);
    }
}

static void turn(struct turn_hook *h)
{
    struct store *s = container_of(h, struct store, hook);
    if (s->growing)
        slabs_pace_growth(s);
    if (!s->kick_set)
        return;
    s->kick_set = false;
    if (s->ready && !s->dead) {
        slabs_maybe_grow(s);
        jump_poll(s);
        if (s->cycle.state == CYCLE_IDLE && (s->cycle.again || cycle_wanted(s, true)) && !slabs_must_grow(s))
            cycle_start(s);
        store_publish(s);
        wal_kick(s->wal); /* its own hook ran before this one */
    }
    try_close(s);
}

void store_checkpoint(struct store *s)
{
    s->cycle.again = true;
    store_schedule_kick(s);
}

/* ---- clients ---- */

void store_note_client(struct store *s)
{
    s->clients_until_ns = io_turn_now(s->reactor) + CLIENTS_NS;
}

bool store_has_clients(const struct store *s)
{
    return io_turn_now(s->reactor) < s->clients_until_ns;
}

/* ---- life ---- */

int store_open(struct reactor *r, const struct store_devices *d, const struct superblock *sb,
               const struct store_options *o, const struct store_callbacks *cb, struct store **ret)
{
    if (d->n_extents < sb->n_extents || sb->meta_pages <= GROUPS_MAX || sb->meta_pages > META_PAGES_MAX ||
        d->meta->size_bytes < meta_place(sb->meta_pages, 0) || sb->extent_bytes == 0 || sb->extent_bytes % SLAB_BYTES)
        return -EINVAL;
    struct store *s = store_calloc(1, sizeof *s);
    s->reactor = r;
    s->dir = d->dir;
    s->superblock_dev = d->superblock;
    s->wal_dev = d->wal;
    s->meta = d->meta;
    s->sb = *sb;
    s->cb = *cb;
    s->options = *o;
    if (!s->options.overlay_bytes)
        s->options.overlay_bytes = UINT64_C(256) << 20;
    if (!s->options.leaf_cache_bytes)
        s->options.leaf_cache_bytes = UINT64_C(512) << 20;
    if (!s->options.checkpoint_idle_ns)
        s->options.checkpoint_idle_ns = 5 * NS_PER_S;
    if (!s->options.write_back_depth)
        s->options.write_back_depth = 16;
    if (s->options.write_back_depth > WRITE_BACK_DEPTH_MAX)
        s->options.write_back_depth = WRITE_BACK_DEPTH_MAX;
    s->leaf_pages = arena_new(UINT64_MAX);
    if (!s->leaf_pages)
        abort();
    s->leaves_max = s->options.leaf_cache_bytes / CACHED_LEAF_BYTES;
    s->extents = store_calloc(sb->n_extents, sizeof *s->extents);
    for (uint32_t i = 0; i < sb->n_extents; i++)
        s->extents[i].dev = d->extents[i];
    s->oleaf_pool.size = sizeof(struct oleaf);
    s->oslab_pool.size = sizeof(struct oslab);
    s->reading_pool.size = reading_bytes();
    s->oleaf_array_pool.size = REGION_LEAVES * sizeof(struct oleaf *);
    s->slab_array_pool.size = LEAF_SLABS * sizeof(void *); /* of struct oslab * or struct oref * */
    s->oref_pool.size = sizeof(struct oref);
    list_init(&s->large_writes);
    list_init(&s->value_reads);
    list_init(&s->readings);
    list_init(&s->leaf_lru);
    list_init(&s->repairs);
    list_init(&s->copies);
    list_init(&s->reserved_regions);
    list_init(&s->overlay_regions[0]);
    list_init(&s->overlay_regions[1]);
    s->idle_timer.fn = idle;
    struct wal_callbacks wcb = {
        .on_durable = store_wal_durable, .on_placed = store_wal_placed, .on_error = store_wal_error, .user = s};
    s->wal = wal_new(r, d->wal, sb->salt, &wcb);
    if (!s->wal)
        abort();
    if (s->options.wal_small_in_flight)
        wal_set_small_in_flight(s->wal, s->options.wal_small_in_flight);
    s->hook.fn = turn;
    reactor_add_hook(r, &s->hook);
    *ret = s;
    opening_begin(s);
    return 0;
}

void store_close(struct store *s, void (*done)(void *user), void *user)
{
    s->closing = true;
    s->close_done = done;
    s->close_user = user;
    store_schedule_kick(s);
}

void store_free(struct store *s)
{
    if (!s)
        return;
    struct turn_hook **h = &s->reactor->hooks;
    while (*h && *h != &s->hook)
        h = &(*h)->next;
    if (*h)
        *h = s->hook.next;
    timer_cancel(s->reactor, &s->idle_timer);
    timer_cancel(s->reactor, &s->grow_timer);
    write_pace_end(s);
    wal_free(s->wal);
    repairs_free(s);
    copies_free(s);
    write_back_free(s);
    map_free(s);
    free(s->meta_check);
    for (unsigned i = 0; i < GROUPS_MAX; i++) {
        if (!s->groups[i])
            continue;
        log_free(s->groups[i]);
        free(s->groups[i]->image);
        free(s->groups[i]);
    }
    opening_free(s);
    pool_drain(&s->oleaf_pool);
    pool_drain(&s->oslab_pool);
    pool_drain(&s->slab_array_pool);
    pool_drain(&s->reading_pool);
    pool_drain(&s->oleaf_array_pool);
    pool_drain(&s->oref_pool);
    large_free(s);
    slabs_free_memory(s);
    free(s->fifo);
    free(s->root);
    free(s->cycle.root);
    free(s->extents);
    free(s);
}

void store_get_stats(const struct store *s, struct store_stats *ret)
{
    *ret = (struct store_stats){
        .slabs_total = s->slabs_total,
        .slabs_free = s->slabs_free,
        .slabs_reserved = s->slabs_reserved,
        .slabs_pending_free = s->n_pending,
        .overlay_bytes = s->overlay_bytes[0] + s->overlay_bytes[1],
        .leaf_cache_bytes = s->n_leaves * CACHED_LEAF_BYTES,
        .dirty_leaves = s->cycle.n_leaves,
        .checkpoint = s->root ? s->root->checkpoint : 0,
        .checkpoints_done = s->checkpoints_done,
        .write_back_bytes = s->write_back_bytes,
        .large_bytes = s->large_bytes,
        .bad_blocks = s->bad_blocks,
        .repaired_blocks = s->repaired_blocks,
        .checkpointing = s->cycle.state != CYCLE_IDLE,
        .growing = s->growing,
    };
    wal_get_stats(s->wal, &ret->wal);
}
