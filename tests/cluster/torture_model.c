/* What a volume may hold after writes of which some were never answered. */
#include "tests/cluster/torture_model.h"

#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MODEL_MAGIC "QBDMODL1"
#define CHUNK 65536
#define COMPLAINTS_MAX 8

_Static_assert(offsetof(struct model_header, acked_writes) == 64, "scripts read it there");
_Static_assert(offsetof(struct model_header, reconnects) == 72, "scripts read it there");

static uint64_t mix(uint64_t x)
{
    x ^= x >> 30;
    x *= UINT64_C(0xbf58476d1ce4e5b9);
    x ^= x >> 27;
    x *= UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

static uint64_t content_word(const struct model *m, uint64_t seq, uint64_t word)
{
    return mix(m->h->seed ^ mix(seq) ^ word * UINT64_C(0x9e3779b97f4a7c15));
}

void model_content(const struct model *m, uint64_t seq, uint64_t offset, uint8_t *to, size_t len)
{
    if (seq == MODEL_ZEROES) {
        memset(to, 0, len);
        return;
    }
    while (len) {
        uint64_t w = content_word(m, seq, offset / 8);
        size_t skip = offset % 8, n = 8 - skip < len ? 8 - skip : len;
        memcpy(to, (uint8_t *)&w + skip, n);
        to += n;
        offset += n;
        len -= n;
    }
}

static void lay_out(struct model_header *h, uint64_t first, uint64_t span, unsigned n_slots, uint64_t max_len,
                    uint64_t seed)
{
    memset(h, 0, sizeof *h);
    h->first = first;
    h->span = span;
    h->n_slots = n_slots;
    h->seed = seed;
    h->max_len = max_len;
    for (unsigned i = 0; i < n_slots; i++) {
        struct model_slot *s = &h->slots[i];
        /* An odd share, so that neighbours meet inside a block: their read-modify-writes must not lose each other's
         * bytes. */
        s->first = i ? h->slots[i - 1].end : first;
        s->end = i + 1 == n_slots ? first + span : first + (span / n_slots * (i + 1) | 1) + 1000;
    }
    memcpy(h->magic, MODEL_MAGIC, sizeof h->magic);
}

void model_open(struct model *m, const char *path, uint64_t first, uint64_t span, unsigned n_slots, uint64_t max_len,
                uint64_t seed)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    struct stat st;
    struct model_header head;
    if (fd < 0 || fstat(fd, &st) < 0)
        err(2, "%s", path);
    bool fresh = st.st_size == 0;
    if (!fresh) {
        if (pread(fd, &head, sizeof head, 0) != sizeof head || memcmp(head.magic, MODEL_MAGIC, sizeof head.magic) != 0)
            errx(2, "%s is no model", path);
        span = head.span;
    }
    m->map_bytes = sizeof *m->h + span;
    if (fresh && ftruncate(fd, (off_t)m->map_bytes) < 0)
        err(2, "%s", path);
    void *p = mmap(NULL, m->map_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED)
        err(2, "%s", path);
    close(fd);
    m->h = p;
    m->acked = (uint8_t *)p + sizeof *m->h;
    if (fresh)
        lay_out(m->h, first, span, n_slots, max_len, seed);
}

uint64_t model_next_seq(struct model *m, unsigned slot)
{
    /* Slots' numbers never meet: the content tells whose it is. */
    struct model_slot *s = &m->h->slots[slot];
    s->last_seq++;
    return s->last_seq * MODEL_SLOTS_MAX + slot;
}

bool model_has_room(const struct model *m, unsigned slot)
{
    return m->h->slots[slot].n_unknown < MODEL_UNKNOWN_MAX / 2;
}

bool model_begin(struct model *m, unsigned slot, uint64_t seq, uint64_t offset, uint64_t len)
{
    struct model_slot *s = &m->h->slots[slot];
    if (s->n_unknown == MODEL_UNKNOWN_MAX)
        return false;
    s->unknown[s->n_unknown] = (struct model_unknown){.offset = offset, .seq = seq, .len = len};
    s->n_unknown++;
    return true;
}

/* Takes [offset, offset + len) out of everything that is unknown. What is left of one write may be two pieces. */
static void decide(struct model_slot *s, uint64_t offset, uint64_t len)
{
    struct model_unknown left[2 * MODEL_UNKNOWN_MAX];
    uint64_t n = 0, end = offset + len;
    for (uint64_t i = 0; i < s->n_unknown; i++) {
        const struct model_unknown *u = &s->unknown[i];
        uint64_t u_end = u->offset + u->len;
        if (u_end <= offset || u->offset >= end) {
            left[n++] = *u;
            continue;
        }
        if (u->offset < offset)
            left[n++] = (struct model_unknown){.offset = u->offset, .seq = u->seq, .len = offset - u->offset};
        if (u_end > end)
            left[n++] = (struct model_unknown){.offset = end, .seq = u->seq, .len = u_end - end};
    }
    if (n > MODEL_UNKNOWN_MAX)
        errx(2, "the model has no room for %" PRIu64 " unanswered pieces", n);
    memcpy(s->unknown, left, n * sizeof left[0]);
    s->n_unknown = n;
}

void model_acked(struct model *m, unsigned slot, uint64_t seq, uint64_t offset, uint64_t len)
{
    /* Content first: a generator that is killed between the two leaves more allowed than needed, never less. */
    model_content(m, seq, offset, m->acked + (offset - m->h->first), len);
    decide(&m->h->slots[slot], offset, len);
    m->h->acked_writes++;
}

/* Whose content are the bytes around this one? For the complaint only. */
static void explain(const struct model *m, unsigned slot, uint64_t offset, const uint8_t *bytes, size_t len, char *buf,
                    size_t cap)
{
    const struct model_slot *s = &m->h->slots[slot];
    uint8_t want[16];
    size_t n = len < sizeof want ? len : sizeof want;
    static const uint8_t zero[16];
    if (memcmp(bytes, zero, n) == 0) {
        snprintf(buf, cap, "zeroes");
        return;
    }
    for (uint64_t i = s->last_seq; i > 0; i--) {
        uint64_t seq = i * MODEL_SLOTS_MAX + slot;
        model_content(m, seq, offset, want, n);
        if (memcmp(bytes, want, n) == 0) {
            snprintf(buf, cap, "write %" PRIu64 " of %" PRIu64, i, s->last_seq);
            return;
        }
    }
    snprintf(buf, cap, "nothing that was ever written there");
}

static void complain(const struct model *m, unsigned slot, uint64_t offset, const uint8_t *got, size_t len)
{
    char holds[96], should[96];
    explain(m, slot, offset, got, len, holds, sizeof holds);
    explain(m, slot, offset, m->acked + (offset - m->h->first), len, should, sizeof should);
    fprintf(stderr,
            "MISMATCH at byte %" PRIu64 " (block %" PRIu64 " + %" PRIu64
            "), slot %u: holds %s; acknowledged last: %s; later unanswered writes there:",
            offset, offset / 4096, offset % 4096, slot, holds, should);
    const struct model_slot *s = &m->h->slots[slot];
    bool any = false;
    for (uint64_t i = 0; i < s->n_unknown; i++) {
        if (offset < s->unknown[i].offset || offset >= s->unknown[i].offset + s->unknown[i].len)
            continue;
        fprintf(stderr, " %" PRIu64, s->unknown[i].seq / MODEL_SLOTS_MAX);
        any = true;
    }
    fprintf(stderr, "%s\n", any ? "" : " none");
}

/* Marks in ok[] the bytes of [offset, offset + len) that an unknown write explains. */
static void allow_unknown(const struct model *m, const struct model_slot *s, uint64_t offset, const uint8_t *got,
                          size_t len, uint8_t *ok)
{
    uint8_t want[CHUNK];
    for (uint64_t i = 0; i < s->n_unknown; i++) {
        const struct model_unknown *u = &s->unknown[i];
        uint64_t from = u->offset > offset ? u->offset : offset;
        uint64_t to = u->offset + u->len < offset + len ? u->offset + u->len : offset + len;
        if (from >= to)
            continue;
        model_content(m, u->seq, from, want, to - from);
        for (uint64_t k = 0; k < to - from; k++)
            ok[from - offset + k] |= got[from - offset + k] == want[k];
    }
}

static bool check_chunk(struct model *m, unsigned slot, uint64_t offset, const uint8_t *got, size_t len)
{
    struct model_slot *s = &m->h->slots[slot];
    uint8_t *acked = m->acked + (offset - m->h->first), ok[CHUNK];
    if (memcmp(acked, got, len) != 0) {
        for (size_t i = 0; i < len; i++)
            ok[i] = acked[i] == got[i];
        allow_unknown(m, s, offset, got, len, ok);
        unsigned complaints = 0;
        uint64_t bad = 0, last_bad = 0;
        for (size_t i = 0; i < len; i++) {
            if (ok[i])
                continue;
            /* One complaint a run of bad bytes; a byte in a run may be right by chance. */
            if (complaints < COMPLAINTS_MAX && (bad == 0 || offset + i > last_bad + 8)) {
                complain(m, slot, offset + i, got + i, len - i);
                complaints++;
            }
            bad++;
            last_bad = offset + i;
        }
        if (bad) {
            fprintf(stderr,
                    "%" PRIu64 " bytes are wrong in this part, the last at byte %" PRIu64 " (block %" PRIu64
                    " + %" PRIu64 ")\n",
                    bad, last_bad, last_bad / 4096, last_bad % 4096);
            return false;
        }
        memcpy(acked, got, len);
    }
    decide(s, offset, len);
    return true;
}

bool model_check(struct model *m, unsigned slot, uint64_t offset, const uint8_t *got, size_t len)
{
    bool good = true;
    while (len) {
        size_t n = len < CHUNK ? len : CHUNK;
        good &= check_chunk(m, slot, offset, got, n);
        offset += n;
        got += n;
        len -= n;
    }
    return good;
}
