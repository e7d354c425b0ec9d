/* What copies rest on (docs/rebuild.md): who is complete, by what is durable on its disk, and what donors give.
 *
 * What always holds: a replica that is not complete says so with everything that could count (invariant V), and gives nothing to
 * others; what is given is as of a position that was applied, with the front ends' checksums. */
#include "replica/replica_internal.h"
#include "tests/sim/cluster/check_internal.h"

#define VIEW_FAIL(v, fmt, ...) CK_FAIL((v)->ck, "%s: " fmt, (v)->node->host, __VA_ARGS__)

bool ck_is_incomplete(struct ck_view *v)
{
    /* A record counts only when it is above what the root has applied, and from when the process knows that it is durable. */
    bool record = v->record_slot > v->root_applied;
    return record ? v->record_incomplete && v->told : v->root_incomplete;
}

void ck_says_complete(struct ck_view *v, uint32_t needs_copy, const char *what)
{
    if (needs_copy) {
        v->told = true;
        return;
    }
    if (v->damaged || !ck_is_incomplete(v))
        return;
    ck_look_at_root(v);
    if (ck_is_incomplete(v) && !v->ck->cluster->broken)
        VIEW_FAIL(v, "completeness: its %s counts, and what is durable says that it needs a copy", what);
}

/* White box, as only the store knows what it has applied: the listing is of that position, not of a later commit. */
static void lists(struct ck_view *v, const struct wire_regions_reply *r)
{
    uint64_t applied = store_applied(v->node->replica->store, SIM_GROUP);
    ck_committed_is_chosen(v, r->at.slot, "REGIONS_REPLY");
    if (r->at.slot > applied)
        VIEW_FAIL(v, "copy: it lists its regions as of slot %llu, and has applied %llu", LLU(r->at.slot), LLU(applied));
    if (r->membership.slot > r->at.slot)
        VIEW_FAIL(v, "copy: it lists as of slot %llu with the voters of slot %llu", LLU(r->at.slot), LLU(r->membership.slot));
}

static void gives_image(struct ck_view *v, const struct wire_header *h, const struct wire_image_reply *r)
{
    struct checks *ck = v->ck;
    const uint32_t *crc = (const void *)(r + 1);
    if (r->nblocks > ENTRY_MAX_BLOCKS || h->body_len < sizeof *r + r->nblocks * 4)
        return;
    ck_committed_is_chosen(v, r->at.slot, "IMAGE_REPLY");
    for (uint32_t i = 0; i < r->nblocks && !ck->cluster->broken; i++) {
        uint32_t want;
        if ((r->bad[i / 64] | r->lost[i / 64]) >> (i % 64) & 1)
            continue;
        uint32_t is = r->zero[i / 64] >> (i % 64) & 1 ? CRC32C_ZERO_BLOCK : crc[i];
        ck->stats.image_blocks++;
        if (ck_block_at(ck, r->block + i, r->at.slot, &want) == CK_KNOWN && is != want)
            VIEW_FAIL(v, "copy: its image of block %llu has checksum %08x at slot %llu, and the chosen log makes it %08x", LLU(r->block + i), is,
                      LLU(r->at.slot), want);
    }
}

void ck_donates(struct ck_view *v, const struct wire_header *h, const uint8_t *body)
{
    static const uint32_t least[] = {sizeof(struct wire_regions_reply), sizeof(struct wire_chunks_reply), sizeof(struct wire_image_reply)};
    unsigned kind = h->type == MSG_REGIONS_REPLY ? 0 : h->type == MSG_CHUNKS_REPLY ? 1 : h->type == MSG_IMAGE_REPLY ? 2 : 3;
    uint32_t status;
    if (kind == 3 || h->body_len < least[kind] || v->ck->cluster->broken)
        return;
    memcpy(&status, body, sizeof status);
    if (status != DONOR_OK)
        return;
    ck_says_complete(v, 0, "donation");
    if (kind == 0)
        lists(v, (const void *)body);
    else if (kind == 2)
        gives_image(v, h, (const void *)body);
}
