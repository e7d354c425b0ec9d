/* A replica's log as its disk shows it: an own reader of the WAL (docs/formats.md "The write-ahead log"), which follows
 * what is durable batch by batch.
 *
 * What always holds: every batch below v->lsn was durable as a whole when it was read (header, descriptors, every
 * payload block against its checksum), chained to the one before it, of an incarnation that never falls. v->slot and
 * the rest are what replaying them gives, whatever was checkpointed since: checkpoints must not forget anything of it,
 * which root_check() holds against each new root. */
#include "base/crc32c.h"
#include "replica/superblock.h"
#include "tests/sim/cluster/check_internal.h"

#include <stdlib.h>

#define VIEW_FAIL(v, fmt, ...) CK_FAIL((v)->ck, "%s: " fmt, (v)->node->host, __VA_ARGS__)

void ck_view_init(struct ck_view *v, struct checks *ck, unsigned index, const struct node *n)
{
    *v = (struct ck_view){.ck = ck, .index = index, .node = n, .disk = n->disks, .identity = n->identity, .seq = 1};
    v->wal = sim_dir_find(v->node->dir, "wal");
    v->meta = sim_dir_find(v->node->dir, "meta");
    v->wal_bytes = sim_disk_size(v->wal);
    ck_view_alive(v);
}

/* ---- the process ---- */

void ck_view_alive(struct ck_view *v)
{
    if (v->starts == v->node->starts)
        return;
    static uint8_t image[SUPERBLOCK_BYTES];
    struct superblock sb;
    v->starts = v->node->starts;
    v->want_start = true;
    sim_disk_peek(sim_dir_find(v->node->dir, "superblock"), 0, image, sizeof image);
    if (superblock_pick(image, &sb))
        return;
    memcpy(v->salt, sb.salt, sizeof v->salt);
    v->gone = v->gone || !uuid_equal(&sb.identity, &v->identity);
    v->told = true; /* whoever starts has read it */
}

static uint32_t batch_crc(const struct ck_view *v, const struct wal_batch *b)
{
    static const uint8_t zero[4];
    const uint8_t *p = (const uint8_t *)b;
    size_t at = offsetof(struct wal_batch, crc);
    uint32_t crc = crc32c_extend(crc32c(v->salt, sizeof v->salt), p, at);
    crc = crc32c_extend(crc, zero, 4);
    return crc32c_extend(crc, p + at + 4, (size_t)b->desc_pages * BLOCK_SIZE - at - 4);
}

/* The batch with all its descriptor pages, if they are durable and what its header says. */
static const struct wal_batch *whole_batch(const struct ck_view *v, uint64_t off)
{
    const struct wal_batch *b = (const void *)sim_disk_page(v->wal, off, true);
    if (b->desc_pages == 0 || (uint64_t)b->desc_pages * BLOCK_SIZE > sizeof v->ck->desc ||
        off + ((uint64_t)b->desc_pages + b->payload_pages) * BLOCK_SIZE > v->wal_bytes ||
        b->desc_bytes > b->desc_pages * BLOCK_SIZE)
        return NULL;
    if (b->desc_pages > 1) {
        uint32_t n = b->desc_pages;
        for (uint32_t i = 0; i < n; i++)
            memcpy(v->ck->desc + i * BLOCK_SIZE, sim_disk_page(v->wal, off + i * BLOCK_SIZE, true), BLOCK_SIZE);
        b = (const void *)v->ck->desc;
    }
    return batch_crc(v, b) == b->crc ? b : NULL;
}

/* store.md §2 "Recovery" (3): a batch that a later one vouches for was durable; rot of it is no torn tail. Said of a
 * START that stands where such a batch was. */
static void vouched_for(struct ck_view *v, const struct wal_batch *start)
{
    uint64_t lsn = start->lsn, seq = start->seq;
    if (lsn >= v->lsn || start->incarnation != v->incarnation + 1)
        return;
    for (uint64_t off = 0; off < v->wal_bytes; off += BLOCK_SIZE) {
        const struct wal_batch *b = (const void *)sim_disk_page(v->wal, off, true);
        if (b->magic != WAL_MAGIC || b->lsn <= lsn || b->incarnation != v->incarnation || b->durable_seq < seq ||
            b->lsn % v->wal_bytes != off)
            continue;
        if ((b = whole_batch(v, off))) {
            VIEW_FAIL(v,
                      "rot is taken for a torn tail: its log is cut at batch %llu, and batch %llu says that %llu were "
                      "durable",
                      LLU(seq), LLU(b->seq), LLU(b->durable_seq));
            return;
        }
    }
}

/* Damage in what was not read yet stops the reader: it goes on at the running incarnation's START. What it jumps over
 * is taken for lost. */
static bool resync(struct ck_view *v)
{
    uint64_t best = 0, best_lsn = 0;
    const struct wal_batch *found = NULL;
    for (uint64_t off = 0; off < v->wal_bytes; off += BLOCK_SIZE) {
        const struct wal_batch *b = (const void *)sim_disk_page(v->wal, off, true);
        if (b->magic == WAL_MAGIC && b->flags == WAL_START && b->lsn % v->wal_bytes == off && b->incarnation > best) {
            best = b->incarnation;
            best_lsn = b->lsn;
            found = b;
        }
    }
    if (!found || (best <= v->incarnation && !v->want_start) || best < v->incarnation)
        return false;
    vouched_for(v, found);
    v->ck->stats.resyncs++;
    while (v->last > 0 && v->slot[v->last].lsn >= best_lsn)
        v->last--;
    for (uint64_t s = v->last; s > 0 && s + 4096 > v->last; s--)
        if (v->slot[s].lsn >= best_lsn)
            v->slot[s].hash = 0;
    if (best_lsn < v->lsn) { /* the newest batches were lost, and with them what they promised */
        v->promised = (struct ballot){0};
        v->answered = v->ack = (struct ballot){0};
        v->ack_through = 0;
        v->commit = 0;
    }
    if (v->agreed > v->last)
        v->agreed = v->last;
    v->lsn = best_lsn;
    v->seq = found->seq;
    v->prev_lsn = found->prev_lsn;
    v->prev_crc = found->prev_crc;
    v->incarnation = best - 1;
    return true;
}

void ck_view_started(struct ck_view *v, const char *what)
{
    if (v->want_start && v->damaged && resync(v))
        ck_view_advance(v);
    if (v->want_start)
        VIEW_FAIL(v, "sends %s before the START batch of its recovered WAL is durable", what);
}

/* ---- records ---- */

static void slot_reserve(struct ck_view *v, uint64_t slot)
{
    if (slot < v->cap_slots)
        return;
    uint64_t cap = v->cap_slots ? v->cap_slots : 1024;
    while (cap <= slot)
        cap *= 2;
    v->slot = realloc(v->slot, cap * sizeof *v->slot);
    assert(v->slot);
    memset(v->slot + v->cap_slots, 0, (cap - v->cap_slots) * sizeof *v->slot);
    v->cap_slots = cap;
}

static void look_at_root(struct ck_view *v);

static uint32_t slabs_of(const struct ck_entry *e)
{
    return e->f.kind == ENTRY_WRITE ? ref_slabs(e->f.block, e->f.nblocks) : 0;
}

static uint32_t number_at(const uint8_t *p, uint32_t i)
{
    uint32_t n;
    memcpy(&n, p + 4 * (size_t)i, 4);
    return n;
}

/* The slabs that a WRITE_REF names have their value. */
static bool slabs_are_durable(const struct ck_view *v, const struct ck_entry *e)
{
    const uint8_t *crcs = e->data + sizeof e->f, *slabs = e->data + e->bytes;
    uint32_t head = ref_head(e->f.block);
    for (uint32_t i = 0; i < slabs_of(e) * SLAB_BLOCKS; i++) {
        const uint8_t *page = ck_extent_page(v, number_at(slabs, i / SLAB_BLOCKS), i % SLAB_BLOCKS, true);
        if (!page || crc32c(page, BLOCK_SIZE) != number_at(crcs, head + i))
            return false;
    }
    return true;
}

static void take_entry(struct ck_view *v, const struct wal_batch *b, const struct wal_record *r)
{
    struct checks *ck = v->ck;
    struct ck_entry e;
    if (!ck_entry_parse((const uint8_t *)(r + 1), r->body_bytes, &e)) {
        VIEW_FAIL(v, "an entry in the WAL at LSN %llu is malformed", LLU(b->lsn));
        return;
    }
    if (e.f.group != SIM_GROUP)
        return;
    uint64_t slot = e.f.slot;
    struct ck_name *n = ck_seen(ck, &e, v->node->host, "logs");
    if (n)
        n->durable |= 1u << v->index;
    bool refill = r->flags & WAL_REFILL;
    if (!refill && slot > v->last + 1)
        look_at_root(v); /* after a jump, which must be durable by now */
    if (!v->damaged && (refill ? slot > v->last || (v->slot[slot].hash != e.hash && v->slot[slot].hash) : slot != v->last + 1)) {
        VIEW_FAIL(v, "slot %llu is %s in the WAL where the log's last slot is %llu", LLU(slot),
                  refill ? "refilled" : "appended", LLU(v->last));
        return;
    }
    if (r->type == WAL_WRITE_REF && v->node->io_failed && !slabs_are_durable(v, &e))
        e.hash = 0; /* a slab could not be written: its batch counts, and the value is to come again */
    slot_reserve(v, slot);
    for (uint32_t i = 0; r->type == WAL_WRITE_REF && e.hash && i < slabs_of(&e); i++)
        ck_refer(v, number_at(e.data + e.bytes, i), slot, e.hash, e.f.block + ref_head(e.f.block) + (uint64_t)i * SLAB_BLOCKS);
    if (v->slot[slot].hash != e.hash && v->agreed >= slot)
        v->agreed = slot - 1;
    for (uint64_t s = v->last + 1; s < slot; s++)
        v->slot[s] = (struct ck_view_slot){0};
    v->slot[slot] = (struct ck_view_slot){.hash = e.hash, .lsn = b->lsn};
    if (slot > v->last)
        v->last = slot;
}

static void take_promise(struct ck_view *v, const struct wal_batch *b, const struct wal_promise *p)
{
    struct ballot was = v->promised, is = {.round = p->round};
    memcpy(is.proposer.b, p->proposer, 16);
    if (ballot_compare(&is, &was) < 0 && !v->damaged)
        VIEW_FAIL(v, "its promise regresses from round %llu to %llu in the WAL", LLU(was.round), LLU(is.round));
    if (p->max_lease_ns < v->max_lease_ns && !v->damaged)
        VIEW_FAIL(v, "the largest lease shrinks to %llu ns in the WAL", LLU(p->max_lease_ns));
    v->promised = is;
    v->promised_lsn = b->lsn;
    v->max_lease_ns = p->max_lease_ns;
}

bool ck_view_agree(struct ck_view *v, uint64_t through, const char *what)
{
    struct checks *ck = v->ck;
    if (through > ck->chosen_through) {
        VIEW_FAIL(v, "agreement: %s through slot %llu, but only %llu are chosen", what, LLU(through),
                  LLU(ck->chosen_through));
        return false;
    }
    for (uint64_t s = v->agreed + 1; s <= through; s++) {
        uint64_t own = ck_view_hash(v, s), chosen = ck->slot[s].chosen;
        if (own != chosen && !(v->damaged && !own) && chosen != CK_UNSEEN) {
            VIEW_FAIL(v,
                      "agreement: %s through slot %llu, but its log holds another value in slot %llu than was chosen",
                      what, LLU(through), LLU(s));
            return false;
        }
        v->agreed = s;
    }
    return true;
}

/* A learner needs a copy from the beginning. */
static void take_creation(struct ck_view *v, const struct wal_batch *b, const struct wal_group *g)
{
    if (!v->created)
        v->created_lsn = b->lsn;
    v->created = true;
    for (unsigned i = 0; i < g->membership.n_learners && v->root_applied == 0; i++)
        v->root_incomplete |= uuid_equal(&g->membership.learner[i], &v->identity);
}

static void take_needs_copy(struct ck_view *v, const struct wal_needs_copy *n)
{
    v->record_slot = n->slot;
    v->record_incomplete = n->on;
    v->told = false;
}

static void take_record(struct ck_view *v, const struct wal_batch *b, const struct wal_record *r)
{
    const void *body = r + 1;
    const struct wal_slot *s = body;
    switch (r->type) {
    case WAL_ENTRY:
    case WAL_WRITE_REF:
        take_entry(v, b, r);
        break;
    case WAL_PROMISE:
        if (((const struct wal_promise *)body)->group == SIM_GROUP)
            take_promise(v, b, body);
        break;
    case WAL_CUT:
        if (s->group != SIM_GROUP || s->slot > v->last)
            break;
        if (s->slot <= v->commit && !v->damaged)
            VIEW_FAIL(v, "slot %llu is cut, and %llu are committed there", LLU(s->slot), LLU(v->commit));
        v->last = s->slot - 1;
        if (v->ack_checked > v->last)
            v->ack_checked = v->last;
        if (v->agreed > v->last)
            v->agreed = v->last;
        break;
    case WAL_COMMIT:
        if (s->group != SIM_GROUP)
            break;
        if (s->slot > v->last)
            look_at_root(v); /* after a jump, which must be durable by now */
        ck_view_agree(v, s->slot, "it commits");
        if (s->slot > v->commit)
            v->commit = s->slot;
        break;
    case WAL_GROUP:
        if (((const struct wal_group *)body)->group == SIM_GROUP)
            take_creation(v, b, body);
        break;
    case WAL_NEEDS_COPY:
        if (((const struct wal_needs_copy *)body)->group == SIM_GROUP && !(r->flags & WAL_ECHO))
            take_needs_copy(v, body);
        break;
    default:
        break;
    }
}

/* ---- batches ---- */

/* The durable batch at v->lsn with all its descriptor pages, or NULL. */
static const struct wal_batch *next_batch(struct ck_view *v)
{
    uint64_t off = v->lsn % v->wal_bytes;
    const struct wal_batch *b = (const void *)sim_disk_page(v->wal, off, true);
    if (b->magic != WAL_MAGIC || b->lsn != v->lsn || b->seq != v->seq || b->prev_lsn != v->prev_lsn ||
        b->prev_crc != v->prev_crc || b->version != DISK_VERSION)
        return NULL;
    if (b->flags & WAL_START ? b->incarnation <= v->incarnation
                             : b->incarnation != v->incarnation || b->start_lsn != v->start_lsn)
        return NULL;
    return whole_batch(v, off);
}

static const struct wal_record *first_record(const struct wal_batch *b)
{
    return (const void *)((const uint8_t *)(b + 1) + b->front_bytes);
}

/* r itself, if the batch goes on there. */
static const struct wal_record *next_record(const struct wal_batch *b, const struct wal_record *r)
{
    const uint8_t *end = (const uint8_t *)b + b->desc_bytes;
    return (const uint8_t *)(r + 1) <= end && r->body_bytes <= (size_t)(end - (const uint8_t *)(r + 1)) ? r : NULL;
}

static const struct wal_record *after(const struct wal_record *r)
{
    return (const void *)((const uint8_t *)r + ((sizeof *r + r->body_bytes + 7) & ~(size_t)7));
}

/* A later batch says that this one was durable. */
static bool is_vouched_for(const struct ck_view *v, const struct wal_batch *b)
{
    uint64_t seq = b->seq, lsn = b->lsn, incarnation = b->incarnation;
    for (uint64_t off = 0; off < v->wal_bytes; off += BLOCK_SIZE) {
        const struct wal_batch *later = (const void *)sim_disk_page(v->wal, off, true);
        if (later->magic == WAL_MAGIC && later->lsn > lsn && later->incarnation == incarnation && later->durable_seq >= seq && later->lsn % v->wal_bytes == off)
            return true;
    }
    return false;
}

/* Every payload block is on media and is what its record says. */
static bool payload_is_durable(const struct ck_view *v, const struct wal_batch *b)
{
    uint64_t at = v->lsn % v->wal_bytes + (uint64_t)b->desc_pages * BLOCK_SIZE,
             end = at + (uint64_t)b->payload_pages * BLOCK_SIZE;
    if (b->flags & WAL_PAD)
        return true;
    for (const struct wal_record *r = first_record(b); (r = next_record(b, r)); r = after(r)) {
        struct ck_entry e;
        bool refers = r->type == WAL_WRITE_REF;
        if ((r->type != WAL_ENTRY && !refers) || !ck_entry_parse((const uint8_t *)(r + 1), r->body_bytes, &e) ||
            e.f.kind != ENTRY_WRITE)
            continue;
        if (refers && !slabs_are_durable(v, &e) && !(v->node->io_failed && is_vouched_for(v, b)))
            return false;
        uint32_t head = ref_head(e.f.block), slabs = refers ? slabs_of(&e) : 0;
        for (uint32_t i = 0; i < e.f.nblocks; i++) {
            if (i >= head && i < head + slabs * SLAB_BLOCKS)
                continue;
            uint32_t crc;
            memcpy(&crc, e.data + sizeof e.f + 4 * (size_t)i, 4);
            if (at >= end || crc32c(sim_disk_page(v->wal, at, true), BLOCK_SIZE) != crc)
                return false;
            at += BLOCK_SIZE;
        }
    }
    return at == end;
}

/* ---- roots ---- */

/* The root holds a jump (docs/rebuild.md): its position is one that was chosen, and what the log was below it counts no more. */
static void take_jump(struct ck_view *v, const struct group_page *g)
{
    struct checks *ck = v->ck;
    if (g->jump == v->jump)
        return;
    if (g->jump < v->jump || g->jump > ck->chosen_through || g->applied.slot < g->jump) {
        VIEW_FAIL(v, "jumps to slot %llu, after a jump to %llu, and %llu are chosen", LLU(g->jump), LLU(v->jump), LLU(ck->chosen_through));
        return;
    }
    if (g->applied.slot == g->jump && !ballot_equal(&g->applied.e, &ck->ballot[ck->slot[g->jump].chosen_ballot]->b)) {
        VIEW_FAIL(v, "jumps to slot %llu of ballot %llu, which is not the one that was chosen", LLU(g->jump), LLU(g->applied.e.round));
        return;
    }
    ck->stats.jumps++;
    v->jump = g->jump;
    slot_reserve(v, g->jump);
    for (uint64_t s = v->agreed + 1; s <= g->jump; s++)
        v->slot[s] = (struct ck_view_slot){.hash = ck->slot[s].chosen};
    if (v->last < g->jump)
        v->last = g->jump;
    if (v->commit < g->jump)
        v->commit = g->jump;
    if (v->agreed < g->jump)
        v->agreed = g->jump;
}

/* What the root lets go is kept elsewhere: a restart would find all that this replica has ever said. */
static void root_check(struct ck_view *v, const struct root *r)
{
    const struct group_page *g = ck_group_page(v->meta, r, true);
    v->root_checkpoint = r->checkpoint;
    v->root_tail_lsn = r->tail_lsn;
    v->ck->stats.roots++;
    ck_owners_load(v, r, g);
    if (v->damaged && !ck_is_whole(v->meta, r, true))
        return; /* a write of it went elsewhere, and an older page stands there: no restart would take this checkpoint either */
    if (g) {
        take_jump(v, g);
        v->root_incomplete = g->needs_copy;
        v->root_applied = g->applied.slot;
    }
    if (!v->created || v->damaged || v->ck->cluster->broken)
        return;
    if (!g) {
        if (v->promised.round && r->tail_lsn > v->promised_lsn)
            VIEW_FAIL(v, "checkpoint %llu has no page for the group", LLU(r->checkpoint));
        return;
    }
    ck_members_kept(v, g);
    if (v->promised_lsn < r->tail_lsn && ballot_compare(&g->promised, &v->promised) < 0)
        VIEW_FAIL(v, "checkpoint %llu forgets the promise of round %llu", LLU(r->checkpoint), LLU(v->promised.round));
    if (v->promised_lsn < r->tail_lsn && g->max_lease_ns < v->max_lease_ns)
        VIEW_FAIL(v, "checkpoint %llu forgets the largest lease", LLU(r->checkpoint));
    if (g->applied.slot > v->commit)
        VIEW_FAIL(v, "checkpoint %llu holds slots through %llu, and the durable commit is %llu", LLU(r->checkpoint),
                  LLU(g->applied.slot), LLU(v->commit));
    for (uint64_t s = g->applied.slot + 1; s <= v->last; s++)
        if (v->slot[s].lsn < r->tail_lsn && v->slot[s].hash) {
            VIEW_FAIL(v, "checkpoint %llu holds slots through %llu and lets go of slot %llu in the WAL",
                      LLU(r->checkpoint), LLU(g->applied.slot), LLU(s));
            return;
        }
}

static void look_at_root(struct ck_view *v)
{
    const struct root *r = ck_root(v->meta, true);
    if (r && r->checkpoint > v->root_checkpoint)
        root_check(v, r);
}

void ck_view_advance(struct ck_view *v)
{
    const struct wal_batch *b;
    bool any = false;
    v->gone = v->gone || v->node->absent || v->node->disks != v->disk || sim_dir_find(v->node->dir, "wal") != v->wal || sim_dir_find(v->node->dir, "meta") != v->meta;
    if (v->gone)
        return;
    while ((b = next_batch(v)) && payload_is_durable(v, b)) {
        for (const struct wal_record *r = first_record(b); !(b->flags & WAL_PAD) && (r = next_record(b, r));
             r = after(r))
            take_record(v, b, r);
        v->ck->stats.durable_batches++;
        v->prev_lsn = b->lsn;
        v->prev_crc = b->crc;
        v->seq = b->seq + 1;
        v->lsn = b->lsn + ((uint64_t)b->desc_pages + b->payload_pages) * BLOCK_SIZE;
        v->incarnation = b->incarnation;
        v->start_lsn = b->start_lsn;
        if (b->flags & WAL_START)
            v->want_start = false;
        any = true;
        if (v->ck->cluster->broken)
            return;
    }
    if (any)
        look_at_root(v);
}

/* What the root says is held against the whole of the log that is durable. */
void ck_look_at_root(struct ck_view *v)
{
    ck_view_advance(v);
    if (!v->gone && !v->ck->cluster->broken)
        look_at_root(v);
}

void ck_wal_written(struct ck_view *v, const uint8_t *data, uint64_t len)
{
    const struct wal_batch *b = (const void *)data;
    if (len < BLOCK_SIZE || b->magic != WAL_MAGIC)
        return;
    uint64_t end = b->lsn + ((uint64_t)b->desc_pages + b->payload_pages) * BLOCK_SIZE;
    if (end <= v->root_tail_lsn + v->wal_bytes)
        return;
    ck_look_at_root(v);
    if (end > v->root_tail_lsn + v->wal_bytes)
        VIEW_FAIL(v, "the WAL batch at LSN %llu overwrites what the durable root (tail %llu) still needs", LLU(b->lsn),
                  LLU(v->root_tail_lsn));
}
