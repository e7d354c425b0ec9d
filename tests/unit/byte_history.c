/* Linearizability of bytes: see byte_history.h. */
#include "tests/unit/byte_history.h"

#include <stdio.h>
#include <stdlib.h>

struct byte_history *byte_history_new(uint64_t size, const uint8_t *initial)
{
    struct byte_history *h = calloc(1, sizeof *h);
    assert(h);
    h->size = size;
    h->initial = malloc(size);
    assert(h->initial);
    memcpy(h->initial, initial, size);
    return h;
}

void byte_history_free(struct byte_history *h)
{
    for (uint32_t i = 0; i < h->n; i++)
        free(h->op[i].data);
    free(h->initial);
    free(h);
}

struct history_op *byte_history_add(struct byte_history *h)
{
    assert(h->n < HISTORY_OPS_MAX);
    return &h->op[h->n++];
}

static bool covers(const struct history_op *o, uint64_t b)
{
    return o->start <= b && b < o->start + o->len;
}

static const char *wrong(uint64_t b, const char *what, const struct history_op *o)
{
    static char text[200];
    snprintf(text, sizeof text, "byte %llu: %s (%s of value %u, from %llu to %llu)", (unsigned long long)b, what, o->write ? "write" : "read",
             o->write ? o->value : o->data[b - o->start], (unsigned long long)o->begin, (unsigned long long)o->end);
    return text;
}

struct zone {
    bool written, seen;
    uint64_t begin;                /* of the write */
    uint64_t first_end, last_begin; /* over the write and its reads */
};

/* Could a read have seen this write's value: it began before the read ended, and no other write lies for certain between the two. */
static bool may_be_seen(const struct byte_history *h, uint64_t b, uint64_t w_begin, uint64_t w_end, const struct history_op *read)
{
    if (w_begin > read->end)
        return false;
    for (uint32_t i = 0; i < h->n; i++) {
        const struct history_op *o = &h->op[i];
        if (o->write && covers(o, b) && o->begin > w_end && o->end < read->begin)
            return false;
    }
    return true;
}

static bool zero_may_be_seen(const struct byte_history *h, uint64_t b, const struct history_op *read)
{
    if (h->initial[b] == 0 && may_be_seen(h, b, 0, 0, read))
        return true;
    for (uint32_t i = 0; i < h->n; i++) {
        const struct history_op *o = &h->op[i];
        if (o->write && o->value == 0 && covers(o, b) && may_be_seen(h, b, o->begin, o->end, read))
            return true;
    }
    return false;
}

static const char *check_byte(const struct byte_history *h, uint64_t b)
{
    struct zone zone[256] = {0};
    uint8_t value[HISTORY_OPS_MAX + 1];
    uint32_t n = 0;
    if (h->initial[b] != 0) {
        zone[h->initial[b]] = (struct zone){.written = true};
        value[n++] = h->initial[b];
    }
    for (uint32_t i = 0; i < h->n; i++) {
        const struct history_op *o = &h->op[i];
        if (!o->write || o->value == 0 || !covers(o, b))
            continue;
        assert(!zone[o->value].written); /* the test's duty: unique values */
        zone[o->value] = (struct zone){.written = true, .seen = o->end != HISTORY_NEVER, .begin = o->begin, .first_end = o->end, .last_begin = o->begin};
        value[n++] = o->value;
    }
    for (uint32_t i = 0; i < h->n; i++) {
        const struct history_op *o = &h->op[i];
        if (o->write || !covers(o, b))
            continue;
        uint8_t v = o->data[b - o->start];
        struct zone *z = &zone[v];
        if (v == 0) {
            if (!zero_may_be_seen(h, b, o))
                return wrong(b, "zero where it can't be", o);
            continue;
        }
        if (!z->written || z->begin > o->end)
            return wrong(b, "a value that nobody had written", o);
        z->seen = true;
        z->first_end = o->end < z->first_end ? o->end : z->first_end;
        z->last_begin = o->begin > z->last_begin ? o->begin : z->last_begin;
        if (!may_be_seen(h, b, z->begin, z->first_end, o))
            return wrong(b, "a value that was overwritten", o);
    }
    for (uint32_t i = 0; i < n; i++) {
        const struct zone *a = &zone[value[i]];
        if (!(a->seen || a->begin == 0) || a->first_end >= a->last_begin)
            continue; /* not a forward zone: a value that stood from first_end to last_begin for certain */
        for (uint32_t k = 0; k < n; k++) {
            const struct zone *c = &zone[value[k]];
            if (k == i || !(c->seen || c->begin == 0))
                continue;
            /* Two forward zones must not overlap; a backward one must not lie inside a forward one. Written out, both are: */
            bool bad = a->first_end < c->last_begin && c->first_end < a->last_begin;
            if (bad) {
                static char text[160];
                snprintf(text, sizeof text, "byte %llu: values %u and %u alternate", (unsigned long long)b, value[i], value[k]);
                return text;
            }
        }
    }
    return NULL;
}

/* Between the ends of operations neighbouring bytes have the same history; only one of them needs to be checked when also all reads saw the same in both. */
static bool like_the_one_before(const struct byte_history *h, uint64_t b)
{
    if (b == 0 || h->initial[b] != h->initial[b - 1])
        return false;
    for (uint32_t i = 0; i < h->n; i++) {
        const struct history_op *o = &h->op[i];
        if (o->start == b || o->start + o->len == b)
            return false;
        if (!o->write && covers(o, b) && o->data[b - o->start] != o->data[b - 1 - o->start])
            return false;
    }
    return true;
}

const char *byte_history_check(const struct byte_history *h)
{
    for (uint64_t b = 0; b < h->size; b++) {
        const char *why = like_the_one_before(h, b) ? NULL : check_byte(h, b);
        if (why)
            return why;
    }
    return NULL;
}
