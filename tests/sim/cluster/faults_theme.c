/* Themes: a quarter of the small runs are given to one kind of trouble that needs many things at once, more than
 * independent faults and the usual requests bring together. A theme replaces the weights of faults, and sets what of
 * timing, sizes and requests it needs.
 *
 * It is drawn from a stream of its own: runs without a theme are what they would be without this file. */
#include "tests/sim/cluster/faults_internal.h"

static const char *const names[THEMES] = {
    [THEME_NONE] = "none",   [THEME_ROT] = "rot",       [THEME_STALE] = "stale", [THEME_ANSWERS] = "answers",
    [THEME_CROWD] = "crowd", [THEME_REPAIR] = "repair", [THEME_TORN] = "torn",   [THEME_SLOW_READS] = "slow-reads",
    [THEME_TAILS] = "tails", [THEME_SCRUB] = "scrub",
};

const char *theme_name(unsigned theme)
{
    return theme < THEMES && names[theme] ? names[theme] : "?";
}

static enum theme choose(const struct trial *r, struct fault_rng *g)
{
    bool any = fault_chance(g, 4);
    enum theme drawn = (enum theme)fault_draw(g, THEME_NONE + 1, THEME_SCRUB - 1);
    if (r->options->theme != THEME_DRAWN)
        return r->options->theme;
    bool plain = r->options->storms || r->options->beyond || r->scale.large || r->scale.scattered;
    return any && !plain ? drawn : THEME_NONE;
}

static void only(struct faults *f, enum fault kind, uint64_t gap_ns)
{
    memset(f->weight, 0, sizeof f->weight);
    f->weight[kind] = f->total = 1;
    f->gap_ns = (struct sim_range){gap_ns / 4, gap_ns};
}

/* What is written soon stands on the data disks, and is read from there. */
static void small_overlay(struct faults *f, struct fault_rng *g)
{
    struct cluster_sizes *z = &f->run->scale.sizes;
    z->overlay_bytes = 128 * SIM_KIB;
    z->checkpoint_idle_ns = fault_draw(g, 5, 50) * NS_PER_MS;
}

static void crowd(struct faults *f, struct fault_rng *g)
{
    f->run->scale.crowded = (uint32_t)fault_draw(g, 1, 4);
}

static void draw_slow_reads(struct faults *f, struct fault_rng *g)
{
    struct sim_config *cfg = sim_config(f->run->world);
    uint64_t most = fault_draw_log(g, 2 * NS_PER_MS, 40 * NS_PER_MS);
    cfg->read_ns = (struct sim_range){most / 8, most};
    memset(f->weight, 0, sizeof f->weight);
    f->total = 0;
}

/* Replicas scrub in an eighth of the small runs, and then all the time: from a stream of its own, so that the other runs stay as they are. */
static void draw_scrub(struct faults *f)
{
    struct fault_rng g = fault_stream(f, UINT64_MAX - 3);
    struct cluster_sizes *z = &f->run->scale.sizes;
    bool scrubs = fault_chance(&g, 8);
    if (f->run->scale.large || !(scrubs || f->run->options->theme == THEME_SCRUB))
        return;
    z->scrub_bytes_per_s = SIM_MIB << fault_draw(&g, 0, 6);
    z->scrub_interval_ns = fault_draw(&g, 1, 500) * NS_PER_MS;
}

/* Things rot in every place where a scrub looks. */
static void rot_everywhere(struct faults *f)
{
    static const enum fault kinds[] = {FAULT_FLIP_DATA, FAULT_LATENT_DATA, FAULT_FLIP_LEAF, FAULT_FLIP_META, FAULT_FLIP_SUPERBLOCK};
    only(f, FAULT_FLIP_DATA, 100 * NS_PER_MS);
    f->total = 0;
    for (unsigned i = 0; i < ARRAY_LEN(kinds); i++)
        f->total += f->weight[kinds[i]] = i < 2 ? 3 : 1;
}

void faults_draw_theme(struct faults *f)
{
    draw_scrub(f);
    struct fault_rng g = fault_stream(f, UINT64_MAX - 2);
    struct scale *s = &f->run->scale;
    f->theme = choose(f->run, &g);
    if (f->theme == THEME_NONE)
        return;
    s->scattered = false;
    s->sizes.volume_bytes = s->sizes.volume_bytes < 2 * SIM_MIB ? s->sizes.volume_bytes : 2 * SIM_MIB;
    s->sizes.lease_ms = (uint32_t)fault_draw(&g, 20, 80);
    s->requests = (uint32_t)fault_draw(&g, 300, 1000);
    s->fault_ns = fault_draw(&g, 700, 2500) * NS_PER_MS;
    switch (f->theme) {
    case THEME_ROT:
        only(f, FAULT_ROT_STORM, 200 * NS_PER_MS);
        break;
    case THEME_STALE:
        only(f, FAULT_STALE_STREAM, 100 * NS_PER_MS);
        s->sizes.retain_bytes = 16 * SIM_KIB << fault_draw(&g, 0, 2);
        break;
    case THEME_ANSWERS:
        only(f, FAULT_LATE_ANSWERS, 100 * NS_PER_MS);
        crowd(f, &g);
        break;
    case THEME_CROWD:
        only(f, FAULT_STORM, 100 * NS_PER_MS);
        crowd(f, &g);
        break;
    case THEME_REPAIR:
        only(f, FAULT_REPAIR_STORM, 100 * NS_PER_MS);
        small_overlay(f, &g);
        s->crowded = (uint32_t)fault_draw(&g, 3, 24); /* a block is written now and then, and rots in between */
        break;
    case THEME_TORN:
        only(f, FAULT_TORN_LOG, 50 * NS_PER_MS);
        break;
    case THEME_TAILS:
        only(f, FAULT_TAILS, 100 * NS_PER_MS);
        break;
    case THEME_SLOW_READS:
        small_overlay(f, &g);
        crowd(f, &g);
        draw_slow_reads(f, &g);
        break;
    case THEME_SCRUB:
        rot_everywhere(f);
        small_overlay(f, &g);
        break;
    default:
        assert(!"a theme of no known name");
    }
}
