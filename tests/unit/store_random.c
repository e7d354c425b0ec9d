/* Something of everything: see t_random in store_harness.h. */
#include "tests/unit/store_harness.h"

static uint64_t rnd(struct store_test *t, uint64_t n)
{
    return sim_rand(t->world) % n;
}

void t_random(struct store_test *t, uint32_t max_blocks)
{
    if (t->crashed || t->fatal)
        return;
    unsigned gi = (unsigned)rnd(t, t->n_groups);
    struct t_group *g = &t->group[gi];
    uint64_t block = rnd(t, g->size_blocks);
    uint64_t max = rnd(t, 4) ? 8 : max_blocks;
    uint32_t n = (uint32_t)(1 + rnd(t, max));
    if (n > g->size_blocks - block)
        n = (uint32_t)(g->size_blocks - block);
    switch (rnd(t, 24)) {
    case 0:
        t_promise(t, gi, g->promised + 1 + rnd(t, 3));
        break;
    case 1:
        if (g->last > g->committed)
            t_cut(t, gi, g->committed + 1 + rnd(t, g->last - g->committed));
        break;
    case 2:
        t_append(t, gi, ENTRY_SESSION, 0, 0);
        break;
    case 3:
        t_append(t, gi, ENTRY_MEMBER, 0, 0);
        break;
    case 4:
    case 5:
        t_append(t, gi, ENTRY_TRIM, block, n);
        break;
    case 6:
        t_append(t, gi, ENTRY_ZERO, block, n);
        break;
    case 7:
        t_append(t, gi, ENTRY_TRIM, block / 512 * 512,
                 (uint32_t)(g->size_blocks - block / 512 * 512 < 1024 ? g->size_blocks - block / 512 * 512 : 1024));
        break;
    case 8:
    case 9:
    case 10:
        t_settle(t);
        t_commit(t, gi, g->committed + rnd(t, g->last - g->committed + 1));
        break;
    case 11:
    case 12:
        t_run(t, rnd(t, 2 * NS_PER_MS));
        break;
    case 13:
    case 14:
        t_read(t, gi, block, n);
        break;
    case 15:
        t_commit(t, gi, g->last);
        break;
    default:
        t_append(t, gi, ENTRY_WRITE, block, n);
    }
}
