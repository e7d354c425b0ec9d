/* The checker of history.h. Operations are stored as ranges, in the order of their beginning (writes) or answer (reads); history_check() sorts them by cell, then looks at one cell at a time. */
#include "tests/sim/cluster/history.h"

#include <stdio.h>
#include <stdlib.h>

#define NEVER UINT64_MAX

struct write {
    uint64_t invoked, answered; /* NEVER: not answered */
    uint32_t session;
    uint32_t first, n;
    bool zero, refused;
};

struct read {
    uint64_t invoked, answered;
    uint32_t session;
    uint32_t first, n;
    uint64_t values; /* where they begin in history.value */
};

struct session {
    uint64_t began;
    uint64_t over; /* a session of a higher ballot served from then on; NEVER: none */
    struct ballot ballot;
    bool known;
};

struct history {
    uint32_t n_cells;
    struct write *write; /* [0] is the initial zeroing */
    uint32_t n_writes, cap_writes;
    struct read *read;
    uint32_t n_reads, cap_reads;
    uint32_t *value;
    uint64_t n_values, cap_values;
    struct session *session;
    uint32_t n_sessions, cap_sessions;
    char text[400];
};

static void *must(void *p)
{
    if (!p)
        abort();
    return p;
}

static void *grow(void *p, uint32_t n, uint32_t *cap, size_t size)
{
    if (n < *cap)
        return p;
    uint32_t want = *cap ? *cap * 2 : 64;
    while (want <= n)
        want *= 2;
    p = must(realloc(p, want * size));
    memset((uint8_t *)p + *cap * size, 0, (want - *cap) * size);
    *cap = want;
    return p;
}

struct history *history_new(uint32_t n_cells)
{
    struct history *h = must(calloc(1, sizeof *h));
    h->n_cells = n_cells;
    history_session(h, 0, 0, &(struct ballot){0}); /* the disk as it was made */
    uint32_t w = history_write(h, 0, 0, 0, n_cells, true);
    h->write[w].answered = 0;
    return h;
}

void history_free(struct history *h)
{
    free(h->write);
    free(h->read);
    free(h->value);
    free(h->session);
    free(h);
}

void history_session(struct history *h, uint64_t now, uint32_t session, const struct ballot *ballot)
{
    h->session = grow(h->session, session, &h->cap_sessions, sizeof *h->session);
    assert(!h->session[session].known);
    h->session[session] = (struct session){.began = now, .over = NEVER, .ballot = *ballot, .known = true};
    if (session >= h->n_sessions)
        h->n_sessions = session + 1;
}

uint32_t history_write(struct history *h, uint64_t now, uint32_t session, uint32_t first, uint32_t n, bool zero)
{
    assert(n > 0 && first + n <= h->n_cells && session < h->n_sessions);
    h->write = grow(h->write, h->n_writes, &h->cap_writes, sizeof *h->write);
    uint32_t id = h->n_writes++;
    h->write[id] = (struct write){.invoked = now, .answered = NEVER, .session = session, .first = first, .n = n, .zero = zero};
    return id;
}

void history_written(struct history *h, uint64_t now, uint32_t write)
{
    h->write[write].answered = now;
}

void history_refused(struct history *h, uint32_t write)
{
    h->write[write].refused = true;
}

void history_read(struct history *h, uint64_t began, uint64_t now, uint32_t session, uint32_t first, uint32_t n, const uint32_t *value)
{
    assert(n > 0 && first + n <= h->n_cells && session < h->n_sessions);
    h->read = grow(h->read, h->n_reads, &h->cap_reads, sizeof *h->read);
    if (h->n_values + n > h->cap_values) {
        h->cap_values = 2 * (h->n_values + n);
        h->value = must(realloc(h->value, h->cap_values * sizeof *h->value));
    }
    h->read[h->n_reads++] = (struct read){.invoked = began, .answered = now, .session = session, .first = first, .n = n, .values = h->n_values};
    memcpy(h->value + h->n_values, value, n * sizeof *value);
    h->n_values += n;
}

/* ---- sessions ---- */

static int by_ballot(const void *a, const void *b)
{
    const struct session *const *x = a, *const *y = b;
    return ballot_compare(&(*x)->ballot, &(*y)->ballot);
}

/* From the highest ballot down: the earliest beginning of those above. */
static void sessions_close(struct history *h)
{
    struct session **order = must(calloc(h->n_sessions, sizeof *order));
    for (uint32_t i = 0; i < h->n_sessions; i++)
        order[i] = &h->session[i];
    qsort(order, h->n_sessions, sizeof *order, by_ballot);
    uint64_t over = NEVER;
    for (uint32_t i = h->n_sessions; i-- > 0;) {
        order[i]->over = over;
        over = order[i]->known && order[i]->began < over ? order[i]->began : over;
    }
    free(order);
    h->session[0].over = NEVER; /* the initial zeroes are there before anybody */
}

static uint64_t bounded(const struct history *h, uint64_t answered, uint32_t session)
{
    uint64_t over = h->session[session].over;
    return answered < over ? answered : over;
}

/* When a write must have had its effect, if it ever had one. */
static uint64_t deadline(const struct history *h, const struct write *w)
{
    return bounded(h, w->answered, w->session);
}

/* ---- one cell ---- */

/* A cluster's zone: low = earliest response, high = latest invocation. Forward when low < high. */
struct zone {
    uint64_t low, high;
    uint32_t write;
    bool read; /* somebody saw it */
};

/* A cell's writes in the order of their answers, each with the latest beginning of those up to it. */
struct answer {
    uint64_t answered, began;
};

/* What concerns the cell being looked at. */
struct view {
    uint32_t cell;
    const uint32_t *write, *read; /* numbers, ascending */
    uint32_t n_writes, n_reads;
    struct zone *zone;
    struct answer *answer;
    uint32_t n_answers;
    uint32_t *zeroing;
    uint32_t n_zeroing;
};

static int by_low(const void *a, const void *b)
{
    const struct zone *x = a, *y = b;
    uint64_t lx = x->low < x->high ? x->low : x->high, ly = y->low < y->high ? y->low : y->high;
    if (lx != ly)
        return lx < ly ? -1 : 1;
    return x->write < y->write ? -1 : x->write > y->write;
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

static int by_answer(const void *a, const void *b)
{
    uint64_t x = ((const struct answer *)a)->answered, y = ((const struct answer *)b)->answered;
    return x < y ? -1 : x > y;
}

static void order_build(const struct history *h, struct view *v)
{
    v->n_answers = v->n_zeroing = 0;
    for (uint32_t i = 0; i < v->n_writes; i++) {
        const struct write *w = &h->write[v->write[i]];
        if (w->zero)
            v->zeroing[v->n_zeroing++] = v->write[i];
        if (w->answered != NEVER)
            v->answer[v->n_answers++] = (struct answer){deadline(h, w), w->invoked};
    }
    qsort(v->answer, v->n_answers, sizeof *v->answer, by_answer);
    for (uint32_t i = 1; i < v->n_answers; i++)
        if (v->answer[i].began < v->answer[i - 1].began)
            v->answer[i].began = v->answer[i - 1].began;
}

/* The latest beginning of a write that was answered before `now`: what was over before that is overwritten. */
static uint64_t latest_before(const struct view *v, uint64_t now)
{
    uint32_t lo = 0, hi = v->n_answers;
    while (lo < hi) {
        uint32_t mid = (lo + hi) / 2;
        if (v->answer[mid].answered < now)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo > 0 ? v->answer[lo - 1].began : 0;
}

/* The one zeroing write that a read of zeroes can have seen: -1 none, -2 several. */
static int64_t zeroing_of(const struct history *h, const struct view *v, const struct read *r)
{
    int64_t found = -1;
    uint64_t overwritten = latest_before(v, r->invoked);
    for (uint32_t i = v->n_zeroing; i-- > 0;) {
        const struct write *z = &h->write[v->zeroing[i]];
        if (z->invoked > r->answered || deadline(h, z) < overwritten || z->refused)
            continue;
        if (found >= 0)
            return -2;
        found = v->zeroing[i];
    }
    return found;
}

static struct zone *zone_of(const struct view *v, uint64_t write)
{
    uint32_t lo = 0, hi = v->n_writes; /* in the order of write numbers */
    while (lo < hi) {
        uint32_t mid = (lo + hi) / 2;
        if (v->zone[mid].write < write)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < v->n_writes && v->zone[lo].write == write ? &v->zone[lo] : NULL;
}

static const char *add_read(struct history *h, struct view *v, const struct read *r)
{
    uint32_t value = h->value[r->values + v->cell - r->first];
    uint64_t by = bounded(h, r->answered, r->session);
    if (by < r->invoked) {
        snprintf(h->text, sizeof h->text, "cell %u: a read [%llu, %llu] of session %u was answered although a later session had served since %llu", v->cell,
                 (unsigned long long)r->invoked, (unsigned long long)r->answered, r->session, (unsigned long long)by);
        return h->text;
    }
    int64_t from = value ? (int64_t)value : zeroing_of(h, v, r);
    if (from == -2)
        return NULL;
    struct zone *z = from >= 0 ? zone_of(v, (uint64_t)from) : NULL;
    if (!z || (value && h->write[z->write].zero)) {
        snprintf(h->text, sizeof h->text, "cell %u: a read [%llu, %llu] of session %u saw value %u, which nothing wrote there%s", v->cell,
                 (unsigned long long)r->invoked, (unsigned long long)r->answered, r->session, value, value ? "" : " (zeroes were overwritten)");
        return h->text;
    }
    if (by < h->write[z->write].invoked)
        return violation(h, v->cell, "read before it was written", z, NULL);
    z->read = true;
    z->low = by < z->low ? by : z->low;
    z->high = r->invoked > z->high ? r->invoked : z->high;
    return NULL;
}

static const char *build_zones(struct history *h, struct view *v)
{
    order_build(h, v);
    for (uint32_t i = 0; i < v->n_writes; i++) {
        const struct write *w = &h->write[v->write[i]];
        /* Neither answered nor seen: it need not have happened, and has no bound. */
        v->zone[i] = (struct zone){.low = w->answered == NEVER ? NEVER : deadline(h, w), .high = w->invoked, .write = v->write[i]};
    }
    for (uint32_t i = 0; i < v->n_reads; i++) {
        const char *wrong = add_read(h, v, &h->read[v->read[i]]);
        if (wrong)
            return wrong;
    }
    for (uint32_t i = 0; i < v->n_writes; i++) {
        struct zone *z = &v->zone[i];
        const struct write *w = &h->write[z->write];
        if (w->refused && z->read)
            return violation(h, v->cell, "refused, but it had an effect", z, NULL);
        if (z->read || w->answered != NEVER) { /* it had an effect: by its deadline at the latest */
            uint64_t by = deadline(h, w);
            if (by < w->invoked)
                return violation(h, v->cell, "it had an effect although a later session had served already", z, NULL);
            z->low = by < z->low ? by : z->low;
        }
    }
    return NULL;
}

static const char *check_cell(struct history *h, struct view *v)
{
    const char *wrong = build_zones(h, v);
    if (wrong)
        return wrong;
    uint32_t n = 0;
    for (uint32_t i = 0; i < v->n_writes; i++)
        if (v->zone[i].low != NEVER)
            v->zone[n++] = v->zone[i];
    qsort(v->zone, n, sizeof *v->zone, by_low);
    /* Sorted by the lower end: a forward zone must be over before the next forward one begins, and must contain no backward one. */
    const struct zone *open = NULL;
    for (uint32_t i = 0; i < n; i++) {
        const struct zone *z = &v->zone[i];
        bool forward = z->low < z->high;
        uint64_t begin = forward ? z->low : z->high, end = forward ? z->high : z->low;
        if (open && forward && begin < open->high)
            return violation(h, v->cell, "each was seen or answered before and after the other", open, z);
        if (open && !forward && begin > open->low && end < open->high)
            return violation(h, v->cell, "a write that happened in between was not seen", open, z);
        if (forward)
            open = z;
    }
    return NULL;
}

/* ---- all cells ---- */

/* For each cell the numbers of the operations that cover it: cell i's are number[start[i]..start[i + 1]). */
struct index {
    uint64_t *start;
    uint32_t *number;
    uint32_t most; /* of one cell */
};

static void index_build(struct index *x, const struct history *h, bool reads)
{
    uint32_t n = reads ? h->n_reads : h->n_writes;
    x->start = must(calloc((size_t)h->n_cells + 2, sizeof *x->start));
    for (uint32_t i = 0; i < n; i++) {
        uint32_t first = reads ? h->read[i].first : h->write[i].first, len = reads ? h->read[i].n : h->write[i].n;
        for (uint32_t k = first; k < first + len; k++)
            x->start[k + 2]++;
    }
    x->most = 0;
    for (uint32_t k = 0; k < h->n_cells; k++) {
        x->most = x->start[k + 2] > x->most ? (uint32_t)x->start[k + 2] : x->most;
        x->start[k + 2] += x->start[k + 1];
    }
    x->number = must(malloc((x->start[h->n_cells + 1] + 1) * sizeof *x->number));
    for (uint32_t i = 0; i < n; i++) {
        uint32_t first = reads ? h->read[i].first : h->write[i].first, len = reads ? h->read[i].n : h->write[i].n;
        for (uint32_t k = first; k < first + len; k++)
            x->number[x->start[k + 1]++] = i;
    }
}

const char *history_check(struct history *h)
{
    struct index writes, reads;
    sessions_close(h);
    index_build(&writes, h, false);
    index_build(&reads, h, true);
    struct view v = {
        .zone = must(calloc(writes.most, sizeof *v.zone)),
        .answer = must(calloc(writes.most, sizeof *v.answer)),
        .zeroing = must(calloc(writes.most, sizeof *v.zeroing)),
    };
    const char *wrong = NULL;
    for (uint32_t i = 0; i < h->n_cells && !wrong; i++) {
        v.cell = i;
        v.write = writes.number + writes.start[i];
        v.n_writes = (uint32_t)(writes.start[i + 1] - writes.start[i]);
        v.read = reads.number + reads.start[i];
        v.n_reads = (uint32_t)(reads.start[i + 1] - reads.start[i]);
        wrong = check_cell(h, &v);
    }
    free(v.zone);
    free(v.answer);
    free(v.zeroing);
    free(writes.start);
    free(writes.number);
    free(reads.start);
    free(reads.number);
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
