/* What was proposed and what is chosen: names, slots, and the volume's blocks as the chosen log makes them.
 *
 * What always holds: slots 1..chosen_through have their chosen value, each exactly one; the blocks are the image at
 * chosen_through, with the versions before it as far back as BLOCK_VERSIONS. Names far below what every replica has
 * agreed to are forgotten; the chosen values' hashes stay. */
#include <stdlib.h>

#include "base/crc32c.h"
#include "tests/sim/cluster/check_internal.h"

#define BLOCK_VERSIONS 256u
#define NAMES_KEPT 4096u
#define WRITES_COMPARED 512u /* more than are ever under way */

static void *grown(void *p, uint64_t *cap, uint64_t want, size_t size)
{
    uint64_t n = *cap ? *cap : 1024;
    while (n <= want)
        n *= 2;
    p = realloc(p, n * size);
    assert(p);
    memset((char *)p + *cap * size, 0, (n - *cap) * size);
    *cap = n;
    return p;
}

struct ck_slot *ck_slot(struct checks *ck, uint64_t slot)
{
    if (slot >= ck->cap_slots)
        ck->slot = grown(ck->slot, &ck->cap_slots, slot, sizeof *ck->slot);
    return &ck->slot[slot];
}

uint32_t ck_ballot_index(struct checks *ck, const struct ballot *b)
{
    if (ck->last_ballot < ck->n_ballots && ballot_equal(&ck->ballot[ck->last_ballot]->b, b))
        return ck->last_ballot;
    for (uint32_t i = ck->n_ballots; i-- > 0;)
        if (ballot_equal(&ck->ballot[i]->b, b))
            return ck->last_ballot = i;
    if (ck->n_ballots == ck->cap_ballots) {
        ck->cap_ballots = ck->cap_ballots ? 2 * ck->cap_ballots : 64;
        ck->ballot = realloc(ck->ballot, ck->cap_ballots * sizeof *ck->ballot);
        assert(ck->ballot);
    }
    ck->ballot[ck->n_ballots] = calloc(1, sizeof **ck->ballot);
    assert(ck->ballot[ck->n_ballots]);
    ck->ballot[ck->n_ballots]->b = *b;
    return ck->last_ballot = ck->n_ballots++;
}

struct ck_ballot *ck_ballot(struct checks *ck, const struct ballot *b)
{
    uint32_t i = ck_ballot_index(ck, b);
    return ck->ballot[i];
}

uint64_t ck_sent(const struct ck_ballot *b, uint64_t slot)
{
    return slot >= b->first && slot - b->first < b->n_sent ? b->sent[slot - b->first] : 0;
}

/* One ballot, one log (protocol.md "Ballot"): what was sent once for a slot is sent to everybody. Streams begin at
 * different slots. */
static void note_sent(struct checks *ck, struct ck_ballot *b, uint64_t slot, uint64_t hash)
{
    uint64_t was = ck_sent(b, slot);
    if (was && was != hash)
        CK_FAIL(ck, "ballot %llu sends two different values for slot %llu", LLU(b->b.round), LLU(slot));
    if (was)
        return;
    uint64_t first = b->n_sent == 0 || slot < b->first ? slot : b->first,
             end = b->n_sent == 0 ? slot + 1 : b->first + b->n_sent;
    uint64_t n = (slot + 1 > end ? slot + 1 : end) - first, shift = b->n_sent ? b->first - first : 0;
    if (n > b->cap_sent) {
        b->cap_sent = 2 * n + 64;
        b->sent = realloc(b->sent, b->cap_sent * sizeof *b->sent);
        assert(b->sent);
    }
    memmove(b->sent + shift, b->sent, b->n_sent * sizeof *b->sent);
    memset(b->sent, 0, shift * sizeof *b->sent);
    memset(b->sent + shift + b->n_sent, 0, (n - shift - b->n_sent) * sizeof *b->sent);
    b->first = first;
    b->n_sent = n;
    b->sent[slot - first] = hash;
}

/* ---- entries and their names ---- */

static uint64_t hash_bytes(const uint8_t *p, uint32_t bytes)
{
    uint64_t h = UINT64_C(0x9e3779b97f4a7c15);
    for (uint32_t i = 0; i < bytes; i += 4) {
        uint32_t w;
        memcpy(&w, p + i, 4);
        h = (h ^ w) * UINT64_C(0xff51afd7ed558ccd);
        h ^= h >> 32;
    }
    return h ? h : 1;
}

bool ck_entry_parse(const uint8_t *p, size_t len, struct ck_entry *ret)
{
    if (len < sizeof ret->f)
        return false;
    memcpy(&ret->f, p, sizeof ret->f);
    uint32_t bytes = sizeof ret->f;
    if (ret->f.kind == ENTRY_WRITE && ret->f.nblocks <= ENTRY_MAX_BLOCKS)
        bytes += ret->f.nblocks * 4;
    else if (ret->f.kind == ENTRY_MEMBER)
        bytes += sizeof(struct membership);
    if (len < bytes || ret->f.slot == 0 || ret->f.slot > UINT32_MAX)
        return false;
    ret->e.round = ret->f.e_round;
    memcpy(ret->e.proposer.b, ret->f.e_proposer, 16);
    ret->data = p;
    ret->bytes = bytes;
    ret->hash = hash_bytes(p, bytes);
    return true;
}

struct ck_name *ck_name_find(struct checks *ck, const struct ck_entry *e)
{
    uint32_t b = ck_ballot_index(ck, &e->e);
    for (struct ck_name *n = ck_slot(ck, e->f.slot)->names; n; n = n->next)
        if (n->ballot == b)
            return n;
    return NULL;
}

static void note_crc(struct checks *ck, uint32_t crc, uint32_t slot)
{
    if (2 * (ck->n_by_crc + 1) > ck->cap_by_crc) {
        typeof(ck->by_crc) old = ck->by_crc;
        uint32_t n = ck->cap_by_crc;
        ck->cap_by_crc = n ? 2 * n : 1u << 14;
        ck->by_crc = calloc(ck->cap_by_crc, sizeof *old);
        assert(ck->by_crc);
        ck->n_by_crc = 0;
        for (uint32_t i = 0; i < n; i++)
            if (old[i].slot)
                note_crc(ck, old[i].crc, old[i].slot);
        free(old);
    }
    uint32_t i = (crc * 0x9e3779b1u) & (ck->cap_by_crc - 1);
    while (ck->by_crc[i].slot && ck->by_crc[i].crc != crc)
        i = (i + 1) & (ck->cap_by_crc - 1);
    if (!ck->by_crc[i].slot)
        ck->n_by_crc++;
    if (!ck->by_crc[i].slot || slot < ck->by_crc[i].slot) {
        ck->by_crc[i].crc = crc;
        ck->by_crc[i].slot = slot;
    }
}

uint32_t ck_slot_of_crc(const struct checks *ck, uint32_t crc)
{
    if (!ck->cap_by_crc)
        return 0;
    uint32_t i = (crc * 0x9e3779b1u) & (ck->cap_by_crc - 1);
    while (ck->by_crc[i].slot && ck->by_crc[i].crc != crc)
        i = (i + 1) & (ck->cap_by_crc - 1);
    return ck->by_crc[i].slot;
}

static uint32_t entry_crc(const uint8_t *data, uint32_t i)
{
    uint32_t crc;
    memcpy(&crc, data + sizeof(struct entry_format) + 4 * (size_t)i, 4);
    return crc;
}

static void name_new(struct checks *ck, const struct ck_entry *e)
{
    struct ck_name *n = malloc(sizeof *n + e->bytes);
    assert(n);
    struct ck_slot *s = ck_slot(ck, e->f.slot);
    uint32_t b = ck_ballot_index(ck, &e->e);
    *n = (struct ck_name){.next = s->names, .hash = e->hash, .ballot = b, .bytes = e->bytes};
    memcpy(n->data, e->data, e->bytes);
    s->names = n;
    if (e->f.kind == ENTRY_SESSION && !ck->ballot[b]->session_slot)
        ck->ballot[b]->session_slot = e->f.slot;
    for (uint32_t i = 0; e->f.kind == ENTRY_WRITE && i < e->f.nblocks; i++)
        note_crc(ck, entry_crc(e->data, i), (uint32_t)e->f.slot);
}

void ck_proposed(struct checks *ck, const struct ck_entry *e, const struct ballot *b)
{
    struct ck_name *n = ck_name_find(ck, e);
    note_sent(ck, ck_ballot(ck, b), e->f.slot, e->hash);
    if (e->f.kind == ENTRY_MEMBER)
        ck_member_sent(ck, ck_ballot(ck, b), e);
    if (n && n->hash != e->hash) {
        CK_FAIL(ck, "slot %llu was proposed twice under ballot %llu, with different contents", LLU(e->f.slot),
                LLU(e->e.round));
        return;
    }
    if (n || e->f.slot <= ck->names_floor)
        return;
    if (!ballot_equal(&e->e, b))
        CK_FAIL(ck, "slot %llu is proposed again under ballot %llu as of ballot %llu, whose proposer never proposed it",
                LLU(e->f.slot), LLU(b->round), LLU(e->e.round));
    else if (e->f.slot <= ck->chosen_through && ck_slot(ck, e->f.slot)->chosen_ballot != ck_ballot_index(ck, b) &&
             ballot_compare(&ck->ballot[ck_slot(ck, e->f.slot)->chosen_ballot]->b, b) < 0)
        CK_FAIL(ck, "agreement: slot %llu is chosen, and ballot %llu proposes something new for it", LLU(e->f.slot),
                LLU(b->round));
    else
        name_new(ck, e);
}

struct ck_name *ck_seen(struct checks *ck, const struct ck_entry *e, const char *who, const char *what)
{
    struct ck_name *n = ck_name_find(ck, e);
    if (!n && e->f.slot > ck->names_floor)
        CK_FAIL(ck, "%s %s slot %llu of ballot %llu, which nobody proposed", who, what, LLU(e->f.slot),
                LLU(e->e.round));
    else if (n && n->hash != e->hash)
        CK_FAIL(ck, "%s %s slot %llu of ballot %llu with other contents than it was proposed with", who, what,
                LLU(e->f.slot), LLU(e->e.round));
    return n;
}

/* ---- what is chosen ---- */

static void block_set(struct checks *ck, uint64_t block, uint64_t slot, uint32_t crc)
{
    if (block >= ck->n_blocks)
        return;
    struct ck_block *b = &ck->block[block];
    if (b->n == BLOCK_VERSIONS) {
        b->n /= 2;
        memmove(b->version, b->version + b->n, b->n * sizeof *b->version);
        b->trimmed = true;
    }
    if (b->n == b->cap) {
        b->cap = b->cap ? 2 * b->cap : 4;
        b->version = realloc(b->version, b->cap * sizeof *b->version);
        assert(b->version);
    }
    b->version[b->n++] = (struct ck_version){.slot = slot, .chosen_ns = sim_now(ck->cluster->world), .crc = crc};
}

static void apply(struct checks *ck, const struct ck_name *n)
{
    struct entry_format f;
    memcpy(&f, n->data, sizeof f);
    bool write = f.kind == ENTRY_WRITE;
    if (!write && f.kind != ENTRY_TRIM && f.kind != ENTRY_ZERO)
        return;
    for (uint32_t i = 0; i < f.nblocks; i++)
        block_set(ck, f.block + i, f.slot, write ? entry_crc(n->data, i) : CRC32C_ZERO_BLOCK);
}

/* P7: a write that is in the log is not proposed again. The workload never writes the same twice, but a merged block may
 * look as it did before: those stand alone in their entries. */
static void stands_once(struct checks *ck, const struct ck_name *n, uint64_t slot)
{
    struct entry_format f;
    memcpy(&f, n->data, sizeof f);
    if (f.kind != ENTRY_WRITE || f.nblocks < 2)
        return;
    uint64_t write = hash_bytes(n->data + sizeof f, f.nblocks * 4) ^ (f.block + 1) * UINT64_C(0x9e3779b97f4a7c15);
    ck_slot(ck, slot)->write = write;
    for (uint64_t s = slot - 1; s > 0 && slot - s <= WRITES_COMPARED; s--)
        if (ck_slot(ck, s)->write == write) {
            CK_FAIL(ck, "slots %llu and %llu hold the same write of blocks %llu+%u", LLU(s), LLU(slot), LLU(f.block),
                    f.nblocks);
            return;
        }
}

static void forget_names(struct checks *ck)
{
    uint64_t to = ck->chosen_through;
    for (unsigned i = 0; i < ck->n_views; i++)
        if (!ck->view[i]->gone && ck->view[i]->agreed < to)
            to = ck->view[i]->agreed;
    for (; ck->names_floor + NAMES_KEPT < to; ck->names_floor++) {
        struct ck_slot *s = ck_slot(ck, ck->names_floor + 1);
        for (struct ck_name *n; (n = s->names);) {
            s->names = n->next;
            free(n);
        }
    }
}

void ck_choose(struct checks *ck, uint64_t slot, uint64_t hash, uint32_t ballot)
{
    assert(slot == ck->chosen_through + 1);
    struct ck_slot *s = ck_slot(ck, slot);
    s->chosen = hash;
    s->chosen_ballot = ballot;
    ck->chosen_through = slot;
    ck->stats.chosen++;
    const struct ck_name *n = s->names;
    if (hash == CK_UNSEEN && n && !n->next)
        s->chosen = hash = n->hash; /* it can only be that */
    while (n && n->hash != hash)
        n = n->next;
    if (!n && hash == CK_UNSEEN) {
        ck->blocks_unknown = true;
        return;
    }
    if (!n) {
        CK_FAIL(ck, "slot %llu was chosen, and nobody proposed its value", LLU(slot));
        return;
    }
    struct entry_format f;
    memcpy(&f, n->data, sizeof f);
    if (f.kind == ENTRY_MEMBER)
        ck_member_chosen(ck, slot, n->data, n->bytes, ballot);
    apply(ck, n);
    stands_once(ck, n, slot);
    if (slot % 1024 == 0)
        forget_names(ck);
}

enum ck_known ck_block_at(const struct checks *ck, uint64_t block, uint64_t slot, uint32_t *ret_crc)
{
    if (block >= ck->n_blocks || ck->blocks_unknown)
        return CK_UNKNOWN;
    const struct ck_block *b = &ck->block[block];
    *ret_crc = CRC32C_ZERO_BLOCK;
    for (uint32_t i = b->n; i-- > 0;)
        if (b->version[i].slot <= slot) {
            *ret_crc = b->version[i].crc;
            return CK_KNOWN;
        }
    return b->trimmed ? CK_UNKNOWN : CK_KNOWN;
}

void ck_slots_free(struct checks *ck)
{
    for (uint64_t s = 0; s < ck->cap_slots; s++)
        for (struct ck_name *n; (n = ck->slot[s].names);) {
            ck->slot[s].names = n->next;
            free(n);
        }
    free(ck->slot);
    for (uint64_t b = 0; b < ck->n_blocks; b++)
        free(ck->block[b].version);
    free(ck->block);
    for (uint32_t i = 0; i < ck->n_ballots; i++) {
        free(ck->ballot[i]->sent);
        free(ck->ballot[i]);
    }
    free(ck->ballot);
    free(ck->by_crc);
}
