/* How fast copies may be: at the operator's ceiling while no client is there to notice, else a rate between floor and ceiling that gives way to them.
 *
 * What always holds: floor <= rate <= ceiling; over any time the bytes taken are at most rate x time, and what one request more was. */
#include "replica/copy.h"

#define PACE_ADJUST_NS (250 * NS_PER_MS)
#define PACE_BURST_NS (100 * NS_PER_MS) /* what was not used for longer is gone */
#define PACE_GENTLE_BURST_NS (4 * NS_PER_MS) /* ... while clients are there: evenly, not in bursts */
#define PACE_FLOOR_DEFAULT (UINT64_C(16) << 20)
#define PACE_CEILING_DEFAULT (UINT64_C(1) << 30)

static uint64_t bytes_in(uint64_t rate, uint64_t ns)
{
    return (uint64_t)((unsigned __int128)rate * ns / NS_PER_S);
}

void pace_init(struct pace *p, uint64_t floor, uint64_t ceiling, uint64_t now_ns)
{
    *p = (struct pace){.floor = floor ? floor : PACE_FLOOR_DEFAULT, .ceiling = ceiling ? ceiling : PACE_CEILING_DEFAULT, .at_ns = now_ns, .adjusted_ns = now_ns};
    if (p->ceiling < p->floor)
        p->ceiling = p->floor;
    p->rate = p->ceiling;
}

void pace_observe(struct pace *p, uint64_t ns, uint64_t quiet_ns, uint64_t now_ns)
{
    if (ns == 0)
        return;
    p->gentle_until_ns = now_ns + CLIENTS_NS;
    p->busy |= ns > quiet_ns + quiet_ns / 4;
}

bool pace_is_gentle(const struct pace *p, uint64_t now_ns)
{
    return now_ns < p->gentle_until_ns;
}

static void adjust(struct pace *p, uint64_t now_ns)
{
    bool gentle = pace_is_gentle(p, now_ns);
    if (gentle != p->gentle) {
        p->gentle = gentle;
        p->rate = gentle ? p->floor : p->ceiling;
        p->adjusted_ns = now_ns;
        p->busy = false;
        return;
    }
    if (!gentle || now_ns - p->adjusted_ns < PACE_ADJUST_NS)
        return;
    p->adjusted_ns = now_ns;
    if (p->busy)
        p->rate /= 2;
    else
        p->rate += p->rate / 16 + 1;
    if (p->rate < p->floor)
        p->rate = p->floor;
    if (p->rate > p->ceiling)
        p->rate = p->ceiling;
    p->busy = false;
}

bool pace_allows(struct pace *p, uint64_t now_ns)
{
    adjust(p, now_ns);
    uint64_t ns = now_ns - p->at_ns;
    int64_t most = (int64_t)bytes_in(p->rate, p->gentle ? PACE_GENTLE_BURST_NS : PACE_BURST_NS) + 1;
    p->allowance += (int64_t)bytes_in(p->rate, ns < NS_PER_S ? ns : NS_PER_S);
    p->at_ns = now_ns;
    if (p->allowance > most)
        p->allowance = most;
    return p->allowance > 0;
}

void pace_take(struct pace *p, uint64_t bytes)
{
    p->allowance -= (int64_t)bytes;
}

uint64_t pace_next(const struct pace *p, uint64_t now_ns)
{
    if (p->allowance > 0)
        return now_ns;
    return now_ns + (uint64_t)((unsigned __int128)(1 - p->allowance) * NS_PER_S / p->rate) + 1;
}
