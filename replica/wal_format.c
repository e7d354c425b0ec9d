/* Batches as bytes: building fronts, checking what was read, walking records, the index of batches.
 *
 * What always holds: the same code (wal_front_note, wal_states_note) sees a record when it is appended and when it is
 * replayed, so that the front of a START batch, written after recovery, says what the batch before it would have been
 * followed by had the daemon gone on. */
#include <stdlib.h>

#include "replica/wal_internal.h"

/* ---- records ---- */

static const struct entry_format *record_entry(const struct wal_record *r)
{
    return (const struct entry_format *)(const void *)wal_record_body(r);
}

uint32_t wal_record_pages(const struct wal_record *r)
{
    if (!wal_record_is_entry(r))
        return 0;
    const struct entry_format *e = record_entry(r);
    if (r->type == WAL_WRITE_REF)
        return e->nblocks - ref_slabs(e->block, e->nblocks) * SLAB_BLOCKS;
    return e->kind == ENTRY_WRITE ? e->nblocks : 0;
}

const uint32_t *wal_record_slabs(const struct wal_record *r, uint32_t *ret_n)
{
    const struct entry_format *e = record_entry(r);
    *ret_n = 0;
    if (r->type != WAL_WRITE_REF)
        return NULL;
    *ret_n = ref_slabs(e->block, e->nblocks);
    return (const uint32_t *)(const void *)(wal_record_body(r) + sizeof *e) + e->nblocks;
}

uint32_t wal_page_block(const struct wal_record *r, uint32_t i)
{
    const struct entry_format *e = record_entry(r);
    return r->type == WAL_WRITE_REF && i >= ref_head(e->block) ? i + ref_slabs(e->block, e->nblocks) * SLAB_BLOCKS : i;
}

/* The form of a record whose header and body lie within the descriptors. */
static bool record_is_sane(const struct wal_record *r)
{
    uint32_t n = r->body_bytes;
    if (r->flags & ~(uint32_t)(WAL_REFILL | WAL_ECHO))
        return false;
    if ((r->flags & WAL_REFILL) && !wal_record_is_entry(r))
        return false;
    switch (r->type) {
    case WAL_ENTRY: {
        if (n < sizeof(struct entry_format))
            return false;
        const struct entry_format *e = record_entry(r);
        uint32_t more = n - (uint32_t)sizeof *e;
        if (e->slot == 0)
            return false;
        if (e->kind == ENTRY_WRITE)
            return e->nblocks >= 1 && e->nblocks <= ENTRY_MAX_BLOCKS && more == e->nblocks * 4 && !(r->flags & WAL_ECHO);
        return more == (e->kind == ENTRY_MEMBER ? sizeof(struct membership) : 0);
    }
    case WAL_WRITE_REF: {
        if (n < sizeof(struct entry_format) || (r->flags & WAL_ECHO))
            return false;
        const struct entry_format *e = record_entry(r);
        if (e->slot == 0 || e->kind != ENTRY_WRITE || e->nblocks < 1 || e->nblocks > ENTRY_MAX_BLOCKS)
            return false;
        uint32_t slabs = ref_slabs(e->block, e->nblocks);
        return slabs > 0 && n - (uint32_t)sizeof *e == (e->nblocks + slabs) * 4;
    }
    case WAL_PROMISE:
        return n == sizeof(struct wal_promise);
    case WAL_CUT:
    case WAL_COMMIT:
    case WAL_FUZZY:
        return n == sizeof(struct wal_slot);
    case WAL_NEEDS_COPY:
        return n == sizeof(struct wal_needs_copy);
    case WAL_GROUP:
        return n == sizeof(struct wal_group);
    default:
        return false;
    }
}

void wal_cursor_init(struct wal_cursor *c, const struct wal_batch *b)
{
    *c = (struct wal_cursor){
        .batch = b,
        .at = (uint32_t)(sizeof *b + b->n_summaries * sizeof(struct wal_summary)),
        .left = b->n_records,
        .next_page = b->desc_pages,
    };
}

const struct wal_record *wal_cursor_next(struct wal_cursor *c)
{
    if (c->left == 0)
        return NULL;
    const struct wal_record *r = (const void *)((const uint8_t *)c->batch + c->at);
    c->left--;
    c->at += wal_record_bytes(r);
    c->payload_page = c->next_page;
    c->next_page += wal_record_pages(r);
    assert(c->at <= c->batch->desc_bytes);
    return r;
}

/* ---- fronts ---- */

static struct wal_summary *front_add(struct wal_front *f, uint64_t group, uint64_t flags)
{
    struct wal_summary *s = &f->summary[f->n_summaries++];
    *s = (struct wal_summary){ .group = group, .flags = flags };
    return s;
}

static struct wal_summary *front_find(struct wal_front *f, uint64_t group, uint64_t flags)
{
    for (uint32_t i = f->n_summaries; i-- > 0;)
        if (f->summary[i].group == group && f->summary[i].flags == flags)
            return &f->summary[i];
    return NULL;
}

static bool extends(const struct wal_summary *s, const struct entry_format *e)
{
    return s->last + 1 == e->slot && s->e_round == e->e_round && memcmp(s->e_proposer, e->e_proposer, 16) == 0;
}

static void front_echo(struct wal_front *f, const struct wal_record *r)
{
    uint32_t n = wal_record_bytes(r);
    memset(f->echo + f->echo_bytes + n - 8, 0, 8); /* padding */
    memcpy(f->echo + f->echo_bytes, r, sizeof *r + r->body_bytes);
    ((struct wal_record *)(void *)(f->echo + f->echo_bytes))->flags |= WAL_ECHO;
    f->echo_bytes += n;
    f->n_echoes++;
}

static bool front_note_entry(struct wal_front *f, const struct wal_record *r, uint32_t space)
{
    const struct entry_format *e = record_entry(r);
    uint64_t flags = r->flags & WAL_REFILL ? WAL_SUMMARY_REFILL : 0;
    /* For refills only the latest run may grow; further ones get a summary each. */
    struct wal_summary *s = front_find(f, e->group, flags);
    bool grows = s && s->first != 0 && extends(s, e);
    if (s && s->first != 0 && !grows && !flags)
        return false; /* one contiguous range of one ballot */
    bool adds = !s || (flags && !grows);
    bool echoes = e->kind == ENTRY_MEMBER;
    if ((adds ? sizeof *s : 0) + (echoes ? wal_record_bytes(r) : 0) > space)
        return false;
    if (adds)
        s = front_add(f, e->group, flags);
    if (s->first == 0) {
        s->first = e->slot;
        s->e_round = e->e_round;
        memcpy(s->e_proposer, e->e_proposer, 16);
    }
    s->last = e->slot;
    if (echoes)
        front_echo(f, r);
    return true;
}

bool wal_front_note(struct wal_front *f, const struct wal_record *r)
{
    if (r->flags & WAL_ECHO)
        return true;
    uint32_t space = WAL_FRONT_MAX_BYTES - wal_front_bytes(f);
    if (wal_record_is_entry(r))
        return front_note_entry(f, r, space);
    if (r->type == WAL_GROUP || r->type == WAL_FUZZY || r->type == WAL_NEEDS_COPY) {
        if (wal_record_bytes(r) > space)
            return false;
        front_echo(f, r);
        return true;
    }
    /* PROMISE, COMMIT, CUT: all begin with the group */
    const struct wal_slot *at = (const void *)wal_record_body(r);
    struct wal_summary *s = front_find(f, at->group, 0);
    /* A cut comes before all that its batch appends or refills, because recovery tells it first when the batch is rotten. */
    if (r->type == WAL_CUT && ((s && s->first != 0) || front_find(f, at->group, WAL_SUMMARY_REFILL)))
        return false;
    if (!s && sizeof *s > space)
        return false;
    if (!s)
        s = front_add(f, at->group, 0);
    if (r->type == WAL_CUT && (s->cut == 0 || at->slot < s->cut))
        s->cut = at->slot;
    return true;
}

void wal_front_finish(struct wal_front *f, const struct wal_states *states)
{
    for (uint32_t i = 0; i < f->n_summaries; i++) {
        struct wal_summary *s = &f->summary[i];
        const struct wal_group_state *g = wal_states_find(states, s->group);
        if (!g || (s->flags & WAL_SUMMARY_REFILL))
            continue;
        s->promised_round = g->promised.round;
        memcpy(s->promised_proposer, g->promised.proposer.b, 16);
        s->max_lease_ns = g->max_lease_ns;
        s->commit = g->commit;
    }
}

void wal_front_write(const struct wal_front *f, uint8_t *to)
{
    size_t n = f->n_summaries * sizeof f->summary[0];
    memcpy(to, f->summary, n);
    memcpy(to + n, f->echo, f->echo_bytes);
}

void wal_front_read(struct wal_front *f, const struct wal_batch *b)
{
    const uint8_t *from = (const uint8_t *)(b + 1);
    size_t n = b->n_summaries * sizeof f->summary[0];
    wal_front_clear(f);
    f->n_summaries = b->n_summaries;
    memcpy(f->summary, from, n);
    f->echo_bytes = b->front_bytes - (uint32_t)n;
    memcpy(f->echo, from + n, f->echo_bytes);
    for (uint32_t at = 0; at < f->echo_bytes; f->n_echoes++)
        at += wal_record_bytes((const void *)(f->echo + at));
}

/* ---- group states ---- */

struct wal_group_state *wal_states_find(const struct wal_states *s, uint64_t group)
{
    for (uint32_t i = 0; i < s->n; i++)
        if (s->state[i].group == group)
            return &s->state[i];
    return NULL;
}

struct wal_group_state *wal_states_get(struct wal_states *s, uint64_t group)
{
    struct wal_group_state *g = wal_states_find(s, group);
    if (g)
        return g;
    if (s->n == s->cap) {
        s->cap = s->cap ? s->cap * 2 : 16;
        s->state = realloc(s->state, s->cap * sizeof s->state[0]);
        if (!s->state)
            abort();
    }
    g = &s->state[s->n++];
    *g = (struct wal_group_state){ .group = group };
    return g;
}

void wal_states_note(struct wal_states *s, const struct wal_record *r)
{
    if (r->flags & WAL_ECHO)
        return;
    if (r->type == WAL_PROMISE) {
        const struct wal_promise *p = (const void *)wal_record_body(r);
        struct wal_group_state *g = wal_states_get(s, p->group);
        g->promised.round = p->round;
        memcpy(g->promised.proposer.b, p->proposer, 16);
        g->max_lease_ns = p->max_lease_ns;
    } else if (r->type == WAL_COMMIT) {
        const struct wal_slot *c = (const void *)wal_record_body(r);
        struct wal_group_state *g = wal_states_get(s, c->group);
        if (c->slot > g->commit)
            g->commit = c->slot;
    }
}

/* ---- batches ---- */

uint32_t wal_header_crc(const uint8_t salt[16], const struct wal_batch *b)
{
    static const uint8_t zero[4];
    const uint8_t *p = (const uint8_t *)b;
    size_t at = offsetof(struct wal_batch, crc), after = at + sizeof b->crc;
    uint32_t crc = crc32c(salt, 16);
    crc = crc32c_extend(crc, p, at);
    crc = crc32c_extend(crc, zero, sizeof zero);
    return crc32c_extend(crc, p + after, (size_t)b->desc_pages * BLOCK_SIZE - after);
}

/* Sizes and places, before anything is reckoned with them. */
static bool header_is_sane(uint64_t wal_bytes, uint64_t lsn, const struct wal_batch *b)
{
    if (b->magic != WAL_MAGIC || b->version != DISK_VERSION || b->lsn != lsn)
        return false;
    if (b->flags & ~(uint32_t)(WAL_START | WAL_PAD | WAL_AFTER_PAD))
        return false;
    if ((b->flags & WAL_START) && b->flags != WAL_START)
        return false;
    if (b->desc_pages == 0 || b->desc_pages > WAL_DESC_PAGES_MAX)
        return false;
    uint64_t bytes = wal_batch_bytes(b), rest = wal_bytes - lsn % wal_bytes;
    if (b->flags & WAL_PAD ? bytes != rest : (bytes > rest || bytes > WAL_BATCH_MAX_BYTES))
        return false;
    if (b->desc_bytes > b->desc_pages * BLOCK_SIZE || b->front_bytes > WAL_FRONT_MAX_BYTES ||
        sizeof *b + b->front_bytes > b->desc_bytes)
        return false;
    if (b->n_summaries > WAL_FRONT_SUMMARIES_MAX || b->n_summaries * sizeof(struct wal_summary) > b->front_bytes)
        return false;
    if ((b->flags & WAL_START) ? b->start_lsn != lsn : b->start_lsn >= lsn)
        return false;
    return b->seq > 0 && b->durable_seq < b->seq && (b->prev_lsn < lsn || lsn == 0);
}

static bool records_are_sane(const struct wal_batch *b)
{
    uint32_t at = (uint32_t)(sizeof *b + b->n_summaries * sizeof(struct wal_summary));
    uint32_t front_end = (uint32_t)sizeof *b + b->front_bytes;
    uint32_t pages = 0;
    for (uint32_t i = 0; i < b->n_records; i++) {
        if (b->desc_bytes - at < sizeof(struct wal_record))
            return false;
        const struct wal_record *r = (const void *)((const uint8_t *)b + at);
        if (r->body_bytes > WAL_RECORD_MAX_BYTES || wal_record_bytes(r) > b->desc_bytes - at || !record_is_sane(r))
            return false;
        if (!(r->flags & WAL_ECHO) != (at >= front_end))
            return false;
        at += wal_record_bytes(r);
        pages += wal_record_pages(r);
    }
    if (at != b->desc_bytes || at < front_end)
        return false;
    return b->flags & WAL_PAD ? at == front_end : pages == b->payload_pages;
}

enum wal_check wal_check_batch(const uint8_t salt[16], uint64_t wal_bytes, uint64_t lsn, const uint8_t *p, size_t len)
{
    const struct wal_batch *b = (const void *)p;
    if (len < BLOCK_SIZE)
        return WAL_CHECK_MORE;
    if (!header_is_sane(wal_bytes, lsn, b))
        return WAL_CHECK_BAD;
    if ((size_t)b->desc_pages * BLOCK_SIZE > len)
        return WAL_CHECK_MORE;
    if (wal_header_crc(salt, b) != b->crc)
        return WAL_CHECK_BAD;
    return records_are_sane(b) ? WAL_CHECK_OK : WAL_CHECK_BAD;
}

/* ---- the index ---- */

void wal_index_push(struct wal_index *x, const struct wal_position *p, uint32_t desc_pages)
{
    assert(x->n == 0 || wal_index_at(x, x->n - 1)->lsn < p->lsn);
    if (x->n == x->cap) {
        uint32_t cap = x->cap ? x->cap * 2 : 1024;
        struct wal_index_entry *more = malloc(cap * sizeof *more);
        if (!more)
            abort();
        for (uint32_t i = 0; i < x->n; i++)
            more[i] = *wal_index_at(x, i);
        free(x->entry);
        *x = (struct wal_index){ .entry = more, .cap = cap, .n = x->n };
    }
    x->n++;
    *wal_index_at(x, x->n - 1) = (struct wal_index_entry){
        .lsn = p->lsn, .seq = p->seq, .prev_lsn = p->prev_lsn, .prev_crc = p->prev_crc, .desc_pages = desc_pages
    };
}

uint32_t wal_index_below(const struct wal_index *x, uint64_t lsn)
{
    uint32_t low = 0, high = x->n;
    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        if (wal_index_at(x, mid)->lsn < lsn)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}
