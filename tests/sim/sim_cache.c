/* The host's page cache in front of a disk: what dev_read_cached() may answer from.
 *
 * A page comes in with a cached read, and a few behind it as the kernel reads ahead. From then on its contents are the
 * cache's: rot, latent errors and misdirected writes of the medium do not show there, and a read that finds all its pages
 * has no part in the disk's faults. A write drops the pages of its range when it begins and when it is over. By chance one
 * stays and is stale from then on: a kernel's cache is right, but nobody may have to believe it. A killed process leaves
 * the cache behind, a power cut does not.
 *
 * Which page stays is a function of the write, and no cached read takes longer or shorter than a direct one, so that the
 * cache costs no chance and no time: a history changes only where its contents matter. */
#include "tests/sim/sim_disk.h"

#include <stdlib.h>

#define CACHE_SLOTS 128u /* page n has slot n % CACHE_SLOTS to itself or to another one */
#define READ_AHEAD_PAGES 3u
#define STALE_ONE_IN 16u

struct sim_cached {
    bool valid;
    uint64_t no;
    uint8_t data[BLOCK_SIZE];
};

static struct sim_cached *slot_of(const struct sim_disk *d, uint64_t no)
{
    return d->cache ? d->cache[no % CACHE_SLOTS] : NULL;
}

static struct sim_cached *find(const struct sim_disk *d, uint64_t no)
{
    struct sim_cached *c = slot_of(d, no);
    return c && c->valid && c->no == no ? c : NULL;
}

bool sim_cache_get(const struct sim_disk *d, uint64_t off, uint8_t *to, uint64_t len)
{
    for (uint64_t i = 0; i < len; i += BLOCK_SIZE)
        if (!find(d, (off + i) / BLOCK_SIZE))
            return false;
    for (uint64_t i = 0; i < len; i += BLOCK_SIZE)
        memcpy(to + i, find(d, (off + i) / BLOCK_SIZE)->data, BLOCK_SIZE);
    return true;
}

static void put(struct sim_disk *d, uint64_t no)
{
    if (find(d, no) || sim_media_spoiled(d, no * BLOCK_SIZE, BLOCK_SIZE))
        return;
    if (!d->cache)
        d->cache = calloc(CACHE_SLOTS, sizeof d->cache[0]);
    assert(d->cache);
    struct sim_cached **c = &d->cache[no % CACHE_SLOTS];
    if (!*c)
        *c = malloc(sizeof **c);
    assert(*c);
    (*c)->valid = true;
    (*c)->no = no;
    sim_media_read(d, no * BLOCK_SIZE, (*c)->data, BLOCK_SIZE);
}

void sim_cache_fill(struct sim_disk *d, uint64_t off, uint64_t len)
{
    uint64_t end = off + len + READ_AHEAD_PAGES * BLOCK_SIZE;
    for (uint64_t at = off; at < end && at < d->size_bytes; at += BLOCK_SIZE)
        put(d, at / BLOCK_SIZE);
}

void sim_cache_drop(struct sim_disk *d, uint64_t nth, uint64_t off, uint64_t len)
{
    for (uint64_t i = 0; d->cache && i < len; i += BLOCK_SIZE) {
        uint64_t no = (off + i) / BLOCK_SIZE;
        struct sim_cached *c = find(d, no);
        if (c && sim_mix(sim_mix(nth ^ (uint64_t)d->id << 48) ^ no) % STALE_ONE_IN != 0)
            c->valid = false;
    }
}

void sim_cache_clear(struct sim_disk *d)
{
    for (unsigned i = 0; d->cache && i < CACHE_SLOTS; i++)
        free(d->cache[i]);
    free(d->cache);
    d->cache = NULL;
}
