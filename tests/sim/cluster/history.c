#include "tests/sim/cluster/history.h"

#include <stdio.h>
#include <stdlib.h>

#define NEVER UINT64_MAX
#define SESSIONS_MAX 4096u

struct write {
    uint64_t invoked, answered; /* NEVER: not answered */
    uint32_t session;
    uint32_t first, n;
    bool zero;
};

/* What one read saw in one cell. */
struct seen {
    uint64_t invoked, answered;
    uint64_t value;
};

struct cell {
    struct seen *seen;
    uint32_t n_seen, cap_seen;
    uint32_t *write;
    uint32_t n_writes, cap_writes;
};

struct history {
    struct cell *cell;
    uint32_t n_cells;
    struct write *write; /* [0] is the initial zeroing */
    uint32_t n_writes, cap_writes;
    uint64_t n_reads;
    bool ended[SESSIONS_MAX];
    uint64_t first_request[SESSIONS_MAX]; /* NEVER: none yet */
    uint32_t n_sessions;
    char text[400];
};

static void *grow(void *p, uint32_t n, uint32_t *cap, size_t size)
{
    if (n < *cap)
        return p;
    *cap = *cap ? *cap * 2 : 16;
    p = realloc(p, *cap * size);
    if (!p)
        abort();
    return p;
}

struct history *history_new(uint32_t n_cells)
{
    struct history *h = calloc(1, sizeof *h);
    h->cell = calloc(n_cells, sizeof *h->cell);
    h->n_cells = n_cells;
    for (uint32_t i = 0; i < SESSIONS_MAX; i++)
        h->first_request[i] = NEVER;
    uint32_t w = history_write(h, 0, 0, 0, n_cells, true);
    h->write[w].answered = 0;
    return h;
}

void history_free(struct history *h)
{
    for (uint32_t i = 0; i < h->n_cells; i++) {
        free(h->cell[i].seen);
        free(h->cell[i].write);
    }
    free(h->cell);
    free(h->write);
    free(h);
}

static void note_request(struct history *h, uint64_t now, uint32_t session)
{
    if (now < h->first_request[session])
        h->first_request[session] = now;
    if (session >= h->n_sessions)
        h->n_sessions = session + 1;
}

uint32_t history_write(struct history *h, uint64_t now, uint32_t session, uint32_t first, uint32_t n, bool zero)
{
    assert(first + n <= h->n_cells && session < SESSIONS_MAX);
    h->write = grow(h->write, h->n_writes, &h->cap_writes, sizeof *h->write);
    uint32_t id = h->n_writes++;
    note_request(h, now, session);
    h->write[id] = (struct write){.invoked = now, .answered = NEVER, .session = session, .first = first, .n = n, .zero = zero};
    for (uint32_t i = first; i < first + n; i++) {
        struct cell *c = &h->cell[i];
        c->write = grow(c->write, c->n_writes, &c->cap_writes, sizeof *c->write);
        c->write[c->n_writes++] = id;
    }
    return id;
}

void history_written(struct history *h, uint64_t now, uint32_t write)
{
    h->write[write].answered = now;
}

void history_read(struct history *h, uint64_t began, uint64_t now, uint32_t session, uint32_t first, uint32_t n, const uint64_t *value)
{
    assert(first + n <= h->n_cells);
    note_request(h, began, session);
    h->n_reads++;
    for (uint32_t i = 0; i < n; i++) {
        struct cell *c = &h->cell[first + i];
        c->seen = grow(c->seen, c->n_seen, &c->cap_seen, sizeof *c->seen);
        c->seen[c->n_seen++] = (struct seen){.invoked = began, .answered = now, .value = value[i]};
    }
}

void history_session_ended(struct history *h, uint32_t session)
{
    h->ended[session] = true;
}

/* When a write must have had its effect, if it ever had one: before its successor's first request, which was made when the successor served. */
static uint64_t deadline(const struct history *h, const struct write *w)
{
    if (w->answered != NEVER || !h->ended[w->session])
        return w->answered;
    for (uint32_t s = w->session + 1; s < h->n_sessions; s++)
        if (h->first_request[s] != NEVER)
            return h->first_request[s] - 1;
    return NEVER;
}

/* A cluster's zone: low = earliest response, high = latest invocation. Forward when low < high. */
struct zone {
    uint64_t low, high;
    uint32_t write;
    bool read; /* somebody saw it */
};

static int by_low(const void *a, const void *b)
{
    const struct zone *x = a, *y = b;
    uint64_t lx = x->low < x->high ? x->low : x->high, ly = y->low < y->high ? y->low : y->high;
    return lx < ly ? -1 : lx > ly;
}

static const char *violation(struct history *h, uint32_t cell, const char *what, const struct zone *a, const struct zone *b)
{
    const struct write *wa = &h->write[a->write], *wb = b ? &h->write[b->write] : NULL;
    snprintf(h->text, sizeof h->text, "cell %u: %s: %s %u (cells %u+%u) [%llu, %lld] session %u", cell, what, wa->zero ? "zeroing" : "write", a->write, wa->first, wa->n,
             (unsigned long long)wa->invoked, (long long)wa->answered, wa->session);
    size_t at = strlen(h->text);
    if (wb)
        snprintf(h->text + at, sizeof h->text - at, " and %s %u (cells %u+%u) [%llu, %lld] session %u", wb->zero ? "zeroing" : "write", b->write,
                 wb->first, wb->n, (unsigned long long)wb->invoked, (long long)wb->answered, wb->session);
    return h->text;
}

/* A cell's writes in the order of their answers, each with the latest beginning of those up to it; and its zeroing writes. */
struct order {
    struct {
        uint64_t answered, began;
    } *answer;
    uint32_t n_answers;
    uint32_t *zeroing;
    uint32_t n_zeroing;
};

static int by_answer(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static void order_build(const struct history *h, const struct cell *c, struct order *o)
{
    o->n_answers = o->n_zeroing = 0;
    for (uint32_t i = 0; i < c->n_writes; i++) {
        const struct write *w = &h->write[c->write[i]];
        if (w->zero)
            o->zeroing[o->n_zeroing++] = c->write[i];
        if (w->answered == NEVER)
            continue;
        o->answer[o->n_answers].answered = w->answered;
        o->answer[o->n_answers++].began = w->invoked;
    }
    qsort(o->answer, o->n_answers, sizeof *o->answer, by_answer);
    for (uint32_t i = 1; i < o->n_answers; i++)
        if (o->answer[i].began < o->answer[i - 1].began)
            o->answer[i].began = o->answer[i - 1].began;
}

/* The latest beginning of a write that was answered before `now`: what was over before that is overwritten. */
static uint64_t latest_before(const struct order *o, uint64_t now)
{
    uint32_t lo = 0, hi = o->n_answers;
    while (lo < hi) {
        uint32_t mid = (lo + hi) / 2;
        if (o->answer[mid].answered < now)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo > 0 ? o->answer[lo - 1].began : 0;
}

/* The one zeroing write that a read of zeroes can have seen: -1 none, -2 several. */
static int64_t zeroing_of(const struct history *h, const struct order *o, const struct seen *s)
{
    int64_t found = -1;
    uint64_t overwritten = latest_before(o, s->invoked);
    for (uint32_t i = o->n_zeroing; i-- > 0;) {
        const struct write *z = &h->write[o->zeroing[i]];
        if (z->invoked > s->answered || deadline(h, z) < overwritten)
            continue;
        if (found >= 0)
            return -2;
        found = o->zeroing[i];
    }
    return found;
}

static struct zone *zone_of(struct zone *zones, uint32_t n, uint64_t write)
{
    uint32_t lo = 0, hi = n; /* in the order of write numbers */
    while (lo < hi) {
        uint32_t mid = (lo + hi) / 2;
        if (zones[mid].write < write)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < n && zones[lo].write == write ? &zones[lo] : NULL;
}

static const char *build_zones(struct history *h, uint32_t cell, struct zone *zones, struct order *order)
{
    struct cell *c = &h->cell[cell];
    order_build(h, c, order);
    for (uint32_t i = 0; i < c->n_writes; i++) {
        const struct write *w = &h->write[c->write[i]];
        zones[i] = (struct zone){.low = w->answered, .high = w->invoked, .write = c->write[i]};
    }
    for (uint32_t i = 0; i < c->n_seen; i++) {
        const struct seen *s = &c->seen[i];
        int64_t from = s->value ? (int64_t)s->value : zeroing_of(h, order, s);
        if (from == -2)
            continue;
        struct zone *z = from >= 0 ? zone_of(zones, c->n_writes, (uint64_t)from) : NULL;
        if (!z || (s->value && h->write[z->write].zero)) {
            snprintf(h->text, sizeof h->text, "cell %u: a read [%llu, %llu] saw value %llu, which nothing wrote there%s", cell,
                     (unsigned long long)s->invoked, (unsigned long long)s->answered, (unsigned long long)s->value,
                     s->value ? "" : " (zeroes were overwritten)");
            return h->text;
        }
        if (s->answered < h->write[z->write].invoked)
            return violation(h, cell, "read before it was written", z, NULL);
        z->read = true;
        z->low = s->answered < z->low ? s->answered : z->low;
        z->high = s->invoked > z->high ? s->invoked : z->high;
        uint64_t by = deadline(h, &h->write[z->write]); /* it had an effect: by its deadline at the latest */
        z->low = by < z->low ? by : z->low;
    }
    return NULL;
}

static const char *check_cell(struct history *h, uint32_t cell, struct zone *zones, struct order *order)
{
    const char *wrong = build_zones(h, cell, zones, order);
    if (wrong)
        return wrong;
    uint32_t n = 0, total = h->cell[cell].n_writes;
    for (uint32_t i = 0; i < total; i++)
        if (zones[i].low != NEVER) /* neither answered nor seen: it need not have happened */
            zones[n++] = zones[i];
    qsort(zones, n, sizeof *zones, by_low);
    /* Sorted by the lower end: a forward zone must be over before the next forward one begins, and must contain no backward one. */
    const struct zone *open = NULL;
    for (uint32_t i = 0; i < n; i++) {
        const struct zone *z = &zones[i];
        bool forward = z->low < z->high;
        uint64_t begin = forward ? z->low : z->high, end = forward ? z->high : z->low;
        if (open && forward && begin < open->high)
            return violation(h, cell, "each was seen or answered before and after the other", open, z);
        if (open && !forward && begin > open->low && end < open->high)
            return violation(h, cell, "a write that happened in between was not seen", open, z);
        if (forward)
            open = z;
    }
    return NULL;
}

const char *history_check(struct history *h)
{
    uint32_t most = 0;
    for (uint32_t i = 0; i < h->n_cells; i++)
        most = h->cell[i].n_writes > most ? h->cell[i].n_writes : most;
    struct zone *zones = calloc(most, sizeof *zones);
    struct order order = {.answer = calloc(most, sizeof *order.answer), .zeroing = calloc(most, sizeof *order.zeroing)};
    const char *wrong = NULL;
    for (uint32_t i = 0; i < h->n_cells && !wrong; i++)
        wrong = check_cell(h, i, zones, &order);
    free(zones);
    free(order.answer);
    free(order.zeroing);
    return wrong;
}

uint64_t history_writes(const struct history *h)
{
    return h->n_writes - 1;
}

uint64_t history_reads(const struct history *h)
{
    return h->n_reads;
}
