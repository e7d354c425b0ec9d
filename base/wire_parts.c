/* Parts that several messages have: names, credits, memberships, the runs of a log, entries.
 *
 * What always holds: as in wire_codec.c, what a decoder or check lets through needs no other. */
#include <errno.h>

#include "base/wire_codec.h"
#include "base/wire_format.h"

void wire_encode_name(char *to, const char *name, size_t size)
{
    size_t n = strnlen(name, size);
    assert(n < size);
    memcpy(to, name, n);
    memset(to + n, 0, size - n);
}

const char *wire_decode_name(char *to, const char *from, size_t size)
{
    if (!memchr(from, 0, size))
        return "a name has no end";
    memcpy(to, from, size);
    return NULL;
}

struct credits wire_encode_credits(const struct credits *c)
{
    return (struct credits){.slabs = c->slabs, .slot_limit = c->slot_limit, .growing = c->growing ? 1 : 0};
}

const char *wire_check_credits(const struct credits *c)
{
    static const struct credits zero;
    if (c->growing > 1 || memcmp(c->reserved, zero.reserved, sizeof c->reserved) != 0)
        return "malformed credits";
    return NULL;
}

void wire_encode_membership(uint8_t *to, const struct membership *m)
{
    assert(membership_is_valid(m));
    memcpy(to, m, sizeof *m);
}

const char *wire_check_runs(uint64_t base, const struct run *runs, uint32_t n_runs, const uint64_t *lost,
                            uint32_t n_lost)
{
    uint64_t end = base;
    for (uint32_t i = 0; i < n_runs; i++) {
        if (end == UINT64_MAX || runs[i].first != end + 1 || runs[i].last < runs[i].first)
            return "runs that are not ascending without gaps";
        end = runs[i].last;
    }
    for (uint32_t i = 0; i < n_lost; i++)
        if (lost[i] <= (i ? lost[i - 1] : base) || lost[i] > end)
            return "lost slots that are not ascending inside the runs";
    return NULL;
}

size_t wire_encode_runs(uint8_t *to, uint64_t base, const struct run *runs, uint32_t n_runs, const uint64_t *lost,
                          uint32_t n_lost)
{
    assert(n_runs <= RUNS_MAX && n_lost <= LOST_MAX);
    assert(wire_check_runs(base, runs, n_runs, lost, n_lost) == NULL);
    if (n_runs)
        memcpy(to, runs, n_runs * sizeof *runs);
    if (n_lost)
        memcpy(to + n_runs * sizeof *runs, lost, n_lost * sizeof *lost);
    return n_runs * sizeof *runs + n_lost * sizeof *lost;
}

bool wire_range_valid(uint64_t block, uint64_t nblocks)
{
    return block <= (UINT64_MAX >> BLOCK_SHIFT) - nblocks;
}

/* A valid entry that the arena has no room for is made beyond the limit: its bytes are here already, and dropping the
 * connection would only bring them again. Whoever reads the connection holds it back (conn_recv_pause) long before. */
static int decode_beyond_limit(const struct body *b, size_t off, struct entry **ret, size_t *ret_used)
{
    struct arena *spare = arena_new(UINT64_MAX);
    if (!spare)
        return -ENOMEM;
    struct entry *e;
    int r = entry_decode(spare, b->p + off, b->len - off, &e, ret_used);
    if (r == 0) {
        size_t bytes = offsetof(struct entry, u) + *ret_used - sizeof(struct entry_format);
        struct buf *meta = buf_alloc_must(b->arena, bytes);
        memcpy(meta->data, e, bytes);
        *ret = (struct entry *)meta->data;
        (*ret)->meta = meta;
        entry_unref(e);
    }
    arena_free(spare);
    return r;
}

const char *wire_decode_entry(const struct body *b, size_t off, struct entry **ret)
{
    struct entry *e;
    size_t used;
    int r = entry_decode(b->arena, b->p + off, b->len - off, &e, &used);
    if (r == -ENOMEM)
        r = decode_beyond_limit(b, off, &e, &used);
    if (r < 0)
        return r == -ENOMEM ? "an entry that there is no memory for" : "a malformed entry";
    const char *why = NULL;
    if (used != b->len - off)
        why = "bytes after an entry's end";
    else if (e->group != b->group)
        why = "an entry of another group than its frame's";
    else if (entry_payload_bytes(e) != b->payload_len)
        why = "a payload whose length is not its entry's";
    if (why)
        entry_unref(e);
    else
        *ret = e;
    return why;
}

size_t wire_encode_entry(uint8_t *to, const struct msg *m, const struct entry *e)
{
    assert(e->group == m->group);
    entry_encode(e, to);
    return entry_encoded_bytes(e);
}
