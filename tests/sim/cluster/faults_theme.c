/* Themes: a quarter of the small runs are given to one kind of trouble that needs many things at once, more than
 * independent faults and the usual requests bring together. A theme replaces the weights of faults, and sets what of
 * timing, sizes and requests it needs.
 *
 * It is drawn from a stream of its own: runs without a theme are what they would be without this file. */
#include "tests/sim/cluster/faults_internal.h"

static const char *const names[THEMES] = {
    [THEME_NONE] = "none",   [THEME_ROT] = "rot",       [THEME_STALE] = "stale", [THEME_ANSWERS] = "answers",
    [THEME_CROWD] = "crowd", [THEME_REPAIR] = "repair", [THEME_TORN] = "torn",   [THEME_SLOW_READS] = "slow-reads",
    [THEME_TAILS] = "tails", [THEME_SCRUB] = "scrub", [THEME_COPY] = "copy", [THEME_MEMBERS] = "members",
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

static void draw_copy(struct faults *f, struct fault_rng *g)
{
    static const enum fault kinds[] = {FAULT_KILL,           FAULT_POWER,         FAULT_ALL_POWER,     FAULT_CRASH_AT_IO, FAULT_CRASH_IN_RECOVERY,
                                       FAULT_CRASH_IN_CHECKPOINT, FAULT_PAUSE_REPLICA, FAULT_FRONTEND_KILL, FAULT_ISOLATED_HOST, FAULT_ONE_WAY,
                                       FAULT_RESET,          FAULT_SLOW_LINK,     FAULT_SLOW_DISK,     FAULT_LATENT_LEAF, FAULT_FLIP_DATA,
                                       FAULT_FLIP_LEAF,      FAULT_FLIP_WAL};
    struct scale *s = &f->run->scale;
    memset(f->weight, 0, sizeof f->weight);
    f->total = 0;
    for (unsigned i = 0; i < ARRAY_LEN(kinds); i++) {
        uint32_t weight = fault_chance(g, 3) ? 0 : (uint32_t)fault_draw(g, 1, 10);
        f->weight[kinds[i]] = weight;
        f->total += weight;
    }
    if (f->total == 0)
        f->weight[FAULT_KILL] = f->total = 1;
    uint64_t mean = fault_draw_log(g, 20 * NS_PER_MS, 500 * NS_PER_MS);
    f->gap_ns = (struct sim_range){mean / 10, 2 * mean};
    s->scattered = true;
    s->sizes.volume_bytes = fault_draw(g, 3, 12) * SIM_MIB;
    s->sizes.wal_bytes = SIM_MIB << fault_draw(g, 0, 1);
    s->sizes.extent_bytes = 8 * SIM_MIB;
    s->sizes.inflight_bytes = s->sizes.wal_bytes >> fault_draw(g, 3, 4);
    s->sizes.retain_bytes = 16 * SIM_KIB << fault_draw(g, 0, 3);
    s->sizes.overlay_bytes = 256 * SIM_KIB << fault_draw(g, 0, 6);
    s->sizes.copy_ceiling_bytes_per_s = 2 * SIM_MIB << fault_draw(g, 0, 6); /* so that a copy takes longer than the next fault does */
    s->request_max_bytes = (uint32_t)(s->sizes.wal_bytes / 32);
    s->requests = (uint32_t)fault_draw(g, 800, 3000);
    s->fault_ns = fault_draw(g, 1500, 6000) * NS_PER_MS;
}

/* Processes and links fail all the time, disks are slow or lost; nothing rots, so that a disk may be given up again and again. */
static void draw_members(struct faults *f, struct fault_rng *g)
{
    static const enum fault kinds[] = {FAULT_KILL,          FAULT_POWER,          FAULT_ALL_POWER,     FAULT_CRASH_AT_IO,    FAULT_CRASH_IN_RECOVERY,
                                       FAULT_CRASH_IN_CHECKPOINT, FAULT_PAUSE_REPLICA, FAULT_FRONTEND_KILL, FAULT_FRONTEND_POWER, FAULT_FRONTEND_RACE,
                                       FAULT_PAUSE_FRONTEND, FAULT_CUT,           FAULT_ONE_WAY,       FAULT_ISOLATED_HOST,  FAULT_ISOLATED_PAIR,
                                       FAULT_RESET,         FAULT_OLD_CONNECTION, FAULT_SLOW_LINK,     FAULT_SLOW_DISK,      FAULT_DRIFT};
    struct scale *s = &f->run->scale;
    memset(f->weight, 0, sizeof f->weight);
    f->total = 0;
    for (unsigned i = 0; i < ARRAY_LEN(kinds); i++)
        f->total += f->weight[kinds[i]] = fault_chance(g, 3) ? 0 : (uint32_t)fault_draw(g, 1, 10);
    if (f->total == 0)
        f->weight[FAULT_KILL] = f->total = 1;
    uint64_t mean = fault_draw_log(g, 50 * NS_PER_MS, 2 * NS_PER_S);
    f->gap_ns = (struct sim_range){mean / 10, 2 * mean};
    if (fault_chance(g, 2)) { /* logs that reach back to the beginning make no copies */
        s->sizes.wal_bytes = SIM_MIB;
        s->sizes.inflight_bytes = s->sizes.wal_bytes >> fault_draw(g, 3, 4);
        s->sizes.retain_bytes = 16 * SIM_KIB << fault_draw(g, 0, 3);
        s->sizes.copy_ceiling_bytes_per_s = SIM_MIB << fault_draw(g, 0, 6);
        s->request_max_bytes = (uint32_t)(s->sizes.wal_bytes / 32);
    }
    s->requests = (uint32_t)fault_draw(g, 300, 1500);
    s->fault_ns = fault_draw(g, 3000, 12000) * NS_PER_MS;
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
        s->requests *= 3; /* several under way whenever a front end is cut off */
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
    case THEME_COPY:
        draw_copy(f, &g);
        break;
    case THEME_MEMBERS:
        draw_members(f, &g);
        break;
    default:
        assert(!"a theme of no known name");
    }
}
