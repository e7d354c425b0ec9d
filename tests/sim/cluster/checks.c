/* Watching: frames cut out of what connections carry, writes by their disk, and what is checked when a request is
 * answered. The rules are in the other check_*.c. */
#include "tests/sim/cluster/checks.h"

#include <stdlib.h>

#include "base/crc32c.h"
#include "tests/sim/cluster/check_internal.h"

#define SAMPLE_NS (20 * NS_PER_MS)

/* ---- frames ---- */

static uint32_t frame_need(const struct wire_header *h)
{
    return (uint32_t)sizeof *h + (h->body_len <= WIRE_BODY_MAX ? h->body_len : 0);
}

static void take_frame(struct checks *ck, struct ck_stream *s, const char *host, const uint8_t *frame)
{
    const struct wire_header *h = (const void *)frame;
    s->skip = h->payload_len;
    s->have = 0;
    ck_message(ck, host, s->conn, h, frame + sizeof *h);
}

static void stream_reserve(struct ck_stream *s, uint32_t need)
{
    if (need <= s->cap)
        return;
    s->cap = need < 4096 ? 4096 : need;
    s->buf = realloc(s->buf, s->cap);
    assert(s->buf);
}

/* Bytes of a connection in order, however they are cut. What does not begin as a frame of ours belongs to another
 * protocol. */
static void stream_feed(struct checks *ck, struct ck_stream *s, const char *host, const uint8_t *p, uint32_t len)
{
    while (len > 0 && !s->foreign) {
        if (s->skip) {
            uint32_t n = s->skip < len ? s->skip : len;
            s->skip -= n;
            p += n;
            len -= n;
            continue;
        }
        uint32_t want = s->have < sizeof(struct wire_header) ? (uint32_t)sizeof(struct wire_header)
                                                             : frame_need((const void *)s->buf);
        uint32_t n = want - s->have < len ? want - s->have : len;
        stream_reserve(s, want);
        memcpy(s->buf + s->have, p, n);
        s->have += n;
        p += n;
        len -= n;
        if (s->have < sizeof(struct wire_header))
            continue;
        const struct wire_header *h = (const void *)s->buf;
        if (h->magic != WIRE_MAGIC)
            s->foreign = true;
        else if (s->have == frame_need(h))
            take_frame(ck, s, host, s->buf);
    }
}

static bool is_replica_address(const struct checks *ck, const char *address)
{
    for (unsigned i = 0; i < ck->cluster->n_nodes; i++)
        if (strncmp(address, "unix:", 5) == 0 && strcmp(ck->cluster->node[i].host, address + 5) == 0)
            return true;
    return false;
}

static void on_sent(void *user, const char *host, uint32_t conn, const char *address, const struct segment *segs,
                    unsigned n)
{
    struct checks *ck = user;
    struct ck_stream *s = &ck->stream[conn % CK_STREAMS];
    if (s->conn != conn) { /* numbers are not used again; so many connections do not live at a time */
        s->conn = conn;
        s->have = s->skip = 0;
        s->foreign = !is_replica_address(ck, address);
    }
    for (unsigned i = 0; i < n && !s->foreign; i++)
        stream_feed(ck, s, host, segs[i].ptr, segs[i].len);
}

/* ---- writes ---- */

static void on_written(void *user, struct sim_disk *d, uint64_t off, const uint8_t *data, uint64_t len, unsigned flags)
{
    struct checks *ck = user;
    (void)flags;
    if (ck->cluster->broken)
        return;
    for (unsigned i = 0; i < ck->cluster->n_nodes; i++) {
        const struct node *n = &ck->cluster->node[i];
        if (n->dir != sim_disk_dir(d))
            continue;
        if (n->formatting)
            return;
        struct ck_view *v = ck_view_of(ck, i);
        ck_view_alive(v);
        if (v->gone)
            return;
        ck_sample_tail(v);
        if (d == v->wal)
            ck_wal_written(v, data, len);
        else if (d == v->meta && off < 2 * BLOCK_SIZE)
            ck_look_at_root(v); /* each root is looked at before its successor is there: jumps must not be missed */
        else if (strncmp(sim_disk_name(d), "extents/", 8) == 0)
            ck_extent_written(v, d, off, data, len);
        return;
    }
}

/* ---- what a client was told ---- */

static const uint8_t *whole_block(const struct export_request *q, uint64_t at)
{
    for (uint32_t p = 0; p < q->n_pieces; p++) {
        if (at < q->data_len[p])
            return q->data[p] && q->data_len[p] - at >= BLOCK_SIZE ? q->data[p]->data + q->data_off[p] + at : NULL;
        at -= q->data_len[p];
    }
    return NULL;
}

void checks_answered(struct checks *ck, const struct export_request *q, uint64_t began_ns)
{
    bool write = q->op == EXPORT_WRITE;
    if (!ck || ck->cluster->broken || ck->blocks_unknown || q->error || q->length == 0 ||
        !(write || q->op == EXPORT_TRIM || q->op == EXPORT_ZERO))
        return;
    uint64_t end = q->offset + q->length;
    for (uint64_t block = q->offset / BLOCK_SIZE; block * BLOCK_SIZE < end && block < ck->n_blocks; block++) {
        bool whole = block * BLOCK_SIZE >= q->offset && (block + 1) * BLOCK_SIZE <= end;
        if (!whole && q->op == EXPORT_TRIM)
            continue;
        const uint8_t *data = whole && write ? whole_block(q, block * BLOCK_SIZE - q->offset) : NULL;
        bool known = data || (whole && !write);
        uint32_t crc = data ? crc32c(data, BLOCK_SIZE) : CRC32C_ZERO_BLOCK;
        const struct ck_block *b = &ck->block[block];
        bool found = false;
        for (uint32_t i = b->n; i-- > 0 && b->version[i].chosen_ns >= began_ns && !found;)
            found = !known || b->version[i].crc == crc;
        ck->stats.answered_blocks++;
        if (!found && !(b->trimmed && b->n > 0 && b->version[0].chosen_ns >= began_ns)) {
            CK_FAIL(ck, "durability: a client is told that its write of block %llu is done, and no majority holds it",
                    LLU(block));
            return;
        }
    }
}

/* ---- life ---- */

static void sample(void *user)
{
    struct checks *ck = user;
    if (ck->cluster->broken || ck->over)
        return;
    ck_sample_memory(ck);
    ck_sample_leases(ck);
    sim_at(ck->cluster->world, sim_now(ck->cluster->world) + SAMPLE_NS, sample, ck);
}

struct checks *checks_new(struct cluster *c)
{
    struct checks *ck = calloc(1, sizeof *ck);
    assert(ck);
    ck->cluster = c;
    ck->n_blocks = c->sizes.volume_bytes / BLOCK_SIZE;
    ck->block = calloc(ck->n_blocks, sizeof *ck->block);
    assert(ck->block);
    ck->members[0].m = c->members;
    ck->n_members = 1;
    for (unsigned i = 0; i < SIM_REPLICAS; i++)
        ck_view_of(ck, i);
    struct sim_tap tap = {.sent = on_sent, .written = on_written, .user = ck};
    sim_set_tap(c->world, &tap);
    sample(ck);
    return ck;
}

void checks_damage(struct checks *ck, unsigned node)
{
    if (!ck)
        return;
    struct ck_view *v = ck_view_of(ck, node);
    ck_view_advance(v);
    v->damaged = true;
}

bool checks_is_damaged(struct checks *ck, unsigned node)
{
    const struct ck_view *v = ck->of_node[node];
    return v && v->disk == ck->cluster->node[node].disks && v->damaged;
}

uint64_t checks_durable_commit(struct checks *ck, unsigned node)
{
    struct ck_view *v = ck_view_of(ck, node);
    ck_view_advance(v);
    return v->commit;
}

void checks_audit(struct checks *ck)
{
    if (!ck || ck->over)
        return;
    for (unsigned i = 0; i < ck->n_views && !ck->cluster->broken; i++) {
        ck_view_advance(ck->view[i]);
        if (!ck->cluster->broken && !ck->view[i]->gone && ck->view[i]->created)
            ck_audit_view(ck->view[i]);
    }
}

const struct checks_stats *checks_stats(const struct checks *ck)
{
    return &ck->stats;
}

void checks_end(struct checks *ck)
{
    ck->over = true;
    sim_set_tap(ck->cluster->world, NULL);
}

void checks_free(struct checks *ck)
{
    if (!ck)
        return;
    sim_set_tap(ck->cluster->world, NULL);
    for (unsigned i = 0; i < CK_STREAMS; i++)
        free(ck->stream[i].buf);
    for (unsigned i = 0; i < ck->n_views; i++) {
        free(ck->view[i]->slot);
        free(ck->view[i]->owner);
        free(ck->view[i]->reference);
        free(ck->view[i]);
    }
    ck_slots_free(ck);
    free(ck);
}
