/* The checker of history.h. Operations are stored as ranges, in the order of their beginning (writes) or answer (reads); history_check() sorts them by cell, then looks at one cell at a time.
 *
 * A run has some hundred thousand pairs of a cell and an operation on it, so what need not be done for each is done once: writes are put in the order of their deadlines as a whole, a cell
 * that nothing distinguishes from the one before it gets that one's verdict, and zones, which come nearly in order, are sorted by insertion. */
#include "tests/sim/cluster/history.h"

#include <stdio.h>
#include <stdlib.h>

#define NEVER UINT64_MAX

struct write {
    uint64_t invoked, answered; /* NEVER: not answered */
    uint64_t deadline;          /* when it must have had its effect, if it ever had one; while checking */
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

static void deadlines_set(struct history *h)
{
    for (uint32_t i = 0; i < h->n_writes; i++)
        h->write[i].deadline = bounded(h, h->write[i].answered, h->write[i].session);
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
    const uint32_t *answered;     /* numbers of writes, in the order of their deadlines */
    uint32_t n_writes, n_reads, n_answers;
    struct zone *zone;
    struct answer *answer;
    uint32_t *zeroing;
    uint32_t n_zeroing;
    bool ordered; /* answer and zeroing are this cell's */
};

static uint64_t zone_begin(const struct zone *z)
{
    return z->low < z->high ? z->low : z->high;
}

static int by_begin(const void *a, const void *b)
{
    const struct zone *x = a, *y = b;
    uint64_t bx = zone_begin(x), by = zone_begin(y);
    if (bx != by)
        return bx < by ? -1 : 1;
    return x->write < y->write ? -1 : x->write > y->write;
}

/* They stand in the order in which the writes began, and zones begin soon after that: few must move far. */
static void zones_sort(struct zone *zone, uint32_t n)
{
    uint32_t moves = 0;
    for (uint32_t i = 1; i < n; i++) {
        if (by_begin(&zone[i - 1], &zone[i]) <= 0)
            continue;
        struct zone z = zone[i];
        uint32_t k = i;
        for (; k > 0 && by_begin(&zone[k - 1], &z) > 0; k--, moves++)
            zone[k] = zone[k - 1];
        zone[k] = z;
        if (moves > 16 * n) {
            qsort(zone, n, sizeof *zone, by_begin);
            return;
        }
    }
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

static void order_build(const struct history *h, struct view *v)
{
    v->ordered = true;
    v->n_zeroing = 0;
    for (uint32_t i = 0; i < v->n_writes; i++)
        if (h->write[v->write[i]].zero)
            v->zeroing[v->n_zeroing++] = v->write[i];
    uint64_t began = 0;
    for (uint32_t i = 0; i < v->n_answers; i++) {
        const struct write *w = &h->write[v->answered[i]];
        began = w->invoked > began ? w->invoked : began;
        v->answer[i] = (struct answer){w->deadline, began};
    }
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
static int64_t zeroing_of(const struct history *h, struct view *v, const struct read *r)
{
    int64_t found = -1;
    if (!v->ordered)
        order_build(h, v);
    uint64_t overwritten = latest_before(v, r->invoked);
    for (uint32_t i = v->n_zeroing; i-- > 0;) {
        const struct write *z = &h->write[v->zeroing[i]];
        if (z->invoked > r->answered || z->deadline < overwritten || z->refused)
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
    v->ordered = false;
    for (uint32_t i = 0; i < v->n_writes; i++) {
        const struct write *w = &h->write[v->write[i]];
        /* Neither answered nor seen: it need not have happened, and has no bound. */
        v->zone[i] = (struct zone){.low = w->answered == NEVER ? NEVER : w->deadline, .high = w->invoked, .write = v->write[i]};
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
            uint64_t by = w->deadline;
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
    zones_sort(v->zone, n);
    /* Sorted by the lower end: a forward zone must be over before the next forward one begins, and must contain no backward one. */
    const struct zone *open = NULL;
    for (uint32_t i = 0; i < n; i++) {
        const struct zone *z = &v->zone[i];
        bool forward = z->low < z->high;
        uint64_t begin = zone_begin(z), end = forward ? z->high : z->low;
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
    uint32_t *start;
    uint32_t *number;
    uint32_t most; /* of one cell */
};

enum indexed { WRITES, READS, ANSWERS };

/* The cells of the i-th. */
static void index_range(const struct history *h, enum indexed what, uint32_t i, uint32_t *ret_first, uint32_t *ret_n)
{
    *ret_first = what == READS ? h->read[i].first : h->write[i].first;
    *ret_n = what == READS ? h->read[i].n : h->write[i].n;
}

/* In the order of `order`, or of their numbers. */
static void index_build(struct index *x, const struct history *h, enum indexed what, const uint32_t *order, uint32_t n)
{
    uint32_t first, len;
    x->start = must(calloc((size_t)h->n_cells + 2, sizeof *x->start));
    for (uint32_t i = 0; i < n; i++) {
        index_range(h, what, order ? order[i] : i, &first, &len);
        for (uint32_t k = first; k < first + len; k++)
            x->start[k + 2]++;
    }
    x->most = 0;
    for (uint32_t k = 0; k < h->n_cells; k++) {
        x->most = x->start[k + 2] > x->most ? x->start[k + 2] : x->most;
        x->start[k + 2] += x->start[k + 1];
    }
    x->number = must(malloc(((size_t)x->start[h->n_cells + 1] + 1) * sizeof *x->number));
    for (uint32_t i = 0; i < n; i++) {
        uint32_t number = order ? order[i] : i;
        index_range(h, what, number, &first, &len);
        for (uint32_t k = first; k < first + len; k++)
            x->number[x->start[k + 1]++] = number;
    }
}

static void index_free(struct index *x)
{
    free(x->start);
    free(x->number);
}

static const uint32_t *index_of(const struct index *x, uint32_t cell, uint32_t *ret_n)
{
    *ret_n = x->start[cell + 1] - x->start[cell];
    return x->number + x->start[cell];
}

struct answered {
    uint64_t deadline;
    uint32_t write;
};

static int by_deadline(const void *a, const void *b)
{
    const struct answered *x = a, *y = b;
    if (x->deadline != y->deadline)
        return x->deadline < y->deadline ? -1 : 1;
    return x->write < y->write ? -1 : x->write > y->write;
}

/* The numbers of all answered writes, in the order of their deadlines. */
static uint32_t *answers_order(const struct history *h, uint32_t *ret_n)
{
    struct answered *a = must(malloc(h->n_writes * sizeof *a));
    uint32_t n = 0, *order = must(malloc(h->n_writes * sizeof *order));
    for (uint32_t i = 0; i < h->n_writes; i++)
        if (h->write[i].answered != NEVER)
            a[n++] = (struct answered){h->write[i].deadline, i};
    qsort(a, n, sizeof *a, by_deadline);
    for (uint32_t i = 0; i < n; i++)
        order[i] = a[i].write;
    free(a);
    *ret_n = n;
    return order;
}

/* All that check_cell() looks at is the same for v->cell as for the cell before it, whose view `was` is. */
static bool is_same(const struct history *h, const struct view *v, const struct view *was)
{
    if (v->n_writes != was->n_writes || v->n_reads != was->n_reads || memcmp(v->write, was->write, v->n_writes * sizeof *v->write) != 0 ||
        memcmp(v->read, was->read, v->n_reads * sizeof *v->read) != 0)
        return false;
    for (uint32_t i = 0; i < v->n_reads; i++) {
        const struct read *r = &h->read[v->read[i]];
        const uint32_t *value = &h->value[r->values + v->cell - r->first];
        if (value[0] != value[-1])
            return false;
    }
    return true;
}

const char *history_check(struct history *h)
{
    struct index writes, reads, answers;
    uint32_t n_answers;
    sessions_close(h);
    deadlines_set(h);
    uint32_t *order = answers_order(h, &n_answers);
    index_build(&writes, h, WRITES, NULL, h->n_writes);
    index_build(&reads, h, READS, NULL, h->n_reads);
    index_build(&answers, h, ANSWERS, order, n_answers);
    struct view v = {
        .zone = must(calloc(writes.most, sizeof *v.zone)),
        .answer = must(calloc(writes.most, sizeof *v.answer)),
        .zeroing = must(calloc(writes.most, sizeof *v.zeroing)),
    };
    const char *wrong = NULL;
    for (uint32_t i = 0; i < h->n_cells && !wrong; i++) {
        struct view was = v;
        v.cell = i;
        v.write = index_of(&writes, i, &v.n_writes);
        v.read = index_of(&reads, i, &v.n_reads);
        v.answered = index_of(&answers, i, &v.n_answers);
        if (i == 0 || !is_same(h, &v, &was))
            wrong = check_cell(h, &v);
    }
    free(v.zone);
    free(v.answer);
    free(v.zeroing);
    free(order);
    index_free(&writes);
    index_free(&reads);
    index_free(&answers);
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
