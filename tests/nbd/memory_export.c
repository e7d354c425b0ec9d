#include "tests/nbd/memory_export.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#define MUST(cond)                                                                                                     \
    do {                                                                                                               \
        if (!(cond)) {                                                                                                 \
            fprintf(stderr, "memory export: %s:%d: rule broken: %s\n", __FILE__, __LINE__, #cond);                     \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

static void zero_range(struct memory_export *m, uint64_t off, uint64_t len)
{
    uint64_t from = (off + BLOCK_SIZE - 1) & ~(uint64_t)(BLOCK_SIZE - 1),
             to = (off + len) & ~(uint64_t)(BLOCK_SIZE - 1);
    if (from >= to) {
        memset(m->bytes + off, 0, len);
        return;
    }
    memset(m->bytes + off, 0, from - off);
    MUST(madvise(m->bytes + from, to - from, MADV_DONTNEED) == 0);
    memset(m->bytes + to, 0, off + len - to);
}

static bool all_zero(const uint8_t *p, size_t n)
{
    return n == 0 || (p[0] == 0 && memcmp(p, p + 1, n - 1) == 0);
}

static void execute_read(struct memory_export *m, struct export_request *r)
{
    uint64_t at = r->offset;
    r->n_pieces = export_cut(r->offset, r->length, r->data_off, r->data_len);
    for (uint32_t i = 0; i < r->n_pieces; i++) {
        r->data[i] = NULL;
        if (!all_zero(m->bytes + at, r->data_len[i])) {
            r->data[i] = buf_alloc_must(m->reactor->arena,
                                        (r->data_off[i] + r->data_len[i] + BLOCK_SIZE - 1) & ~(BLOCK_SIZE - 1));
            memcpy(r->data[i]->data + r->data_off[i], m->bytes + at, r->data_len[i]);
        }
        at += r->data_len[i];
    }
}

static void execute_write(struct memory_export *m, const struct export_request *r)
{
    uint64_t at = r->offset;
    for (uint32_t i = 0; i < r->n_pieces; i++) {
        memcpy(m->bytes + at, r->data[i]->data + r->data_off[i], r->data_len[i]);
        at += r->data_len[i];
    }
}

static void complete(struct memory_export *m, struct export_request *r)
{
    r->error = m->fail;
    m->completed++;
    m->abandoned += r->abandoned;
    if (!r->error || (r->op == EXPORT_READ && m->fail_with_pieces)) {
        if (r->op == EXPORT_READ)
            execute_read(m, r);
        else if (r->op == EXPORT_WRITE)
            execute_write(m, r);
        else if (r->op == EXPORT_TRIM || r->op == EXPORT_ZERO)
            zero_range(m, r->offset, r->length);
    }
    r->done(r);
}

void memory_export_complete(struct memory_export *m, uint32_t index)
{
    struct list *n = m->held.next;
    MUST(index < m->n_held);
    while (index-- > 0)
        n = n->next;
    list_remove(n);
    m->n_held--;
    complete(m, container_of(n, struct export_request, link));
}

void memory_export_complete_all(struct memory_export *m)
{
    while (m->n_held > 0)
        memory_export_complete(m, 0);
}

static uint64_t draw(struct memory_export *m, uint64_t below)
{
    uint64_t v;
    io_random(m->reactor, &v, sizeof v);
    return v % below;
}

static void on_timer(struct timer *t)
{
    struct memory_export *m = container_of(t, struct memory_export, timer);
    uint64_t n = 1 + draw(m, m->n_held);
    while (n-- > 0 && m->n_held > 0)
        memory_export_complete(m, (uint32_t)draw(m, m->n_held));
    if (m->n_held > 0)
        timer_set(m->reactor, &m->timer, io_now(m->reactor) + draw(m, m->max_delay_ns));
}

/* export.h: offsets and lengths are checked by the NBD side; a WRITE's pieces are cut as export_cut says, a 4
 * KiB-aligned volume offset at a 4 KiB-aligned address. */
static void check(const struct memory_export *m, const struct export_request *r)
{
    MUST(r->done && !r->abandoned && r->error == 0);
    MUST(r->op == EXPORT_FLUSH || r->length > 0);
    MUST(r->length <= m->x.size_bytes && r->offset <= m->x.size_bytes - r->length);
    MUST(!m->x.read_only || r->op == EXPORT_READ || r->op == EXPORT_FLUSH);
    MUST((r->flags & ~(EXPORT_FUA | EXPORT_NO_HOLE)) == 0);
    MUST(r->op == EXPORT_ZERO || !(r->flags & EXPORT_NO_HOLE));
    if (r->op == EXPORT_READ || r->op == EXPORT_WRITE)
        MUST(r->length <= 32u << 20);
    if (r->op != EXPORT_WRITE) {
        MUST(r->n_pieces == 0);
        return;
    }
    uint64_t at = r->offset, sum = 0;
    for (uint32_t i = 0; i < r->n_pieces; i++, at += r->data_len[i - 1]) {
        uintptr_t p = (uintptr_t)r->data[i]->data + r->data_off[i];
        MUST(p % BLOCK_SIZE == at % BLOCK_SIZE);
        MUST(r->data_len[i] > 0 && at / ENTRY_MAX_BYTES == (at + r->data_len[i] - 1) / ENTRY_MAX_BYTES);
        MUST(((r->data_off[i] + r->data_len[i] + BLOCK_SIZE - 1) & ~(BLOCK_SIZE - 1)) <= r->data[i]->cap);
        sum += r->data_len[i];
    }
    MUST(sum == r->length);
}

static void submit(struct export *x, struct export_request *r)
{
    struct memory_export *m = container_of(x, struct memory_export, x);
    check(m, r);
    m->submitted++;
    m->last.op = r->op;
    m->last.flags = r->flags;
    m->last.offset = r->offset;
    m->last.length = r->length;
    if (m->mode == MEMORY_AT_ONCE) {
        complete(m, r);
        return;
    }
    list_push_back(&m->held, &r->link);
    if (++m->n_held > m->n_held_max)
        m->n_held_max = m->n_held;
    if (m->mode == MEMORY_RANDOM && m->n_held == 1)
        timer_set(m->reactor, &m->timer, io_now(m->reactor) + draw(m, m->max_delay_ns));
}

void memory_export_init(struct memory_export *m, struct reactor *r, const char *name, uint64_t size_bytes)
{
    memset(m, 0, sizeof *m);
    m->x.name = name;
    m->x.size_bytes = size_bytes;
    m->x.attached = true;
    m->x.submit = submit;
    m->reactor = r;
    m->max_delay_ns = NS_PER_MS;
    m->timer.fn = on_timer;
    list_init(&m->held);
    m->bytes = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    MUST(m->bytes != MAP_FAILED);
}

void memory_export_free(struct memory_export *m)
{
    MUST(m->n_held == 0);
    munmap(m->bytes, m->x.size_bytes);
}
