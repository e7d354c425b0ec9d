/* The journal of a verifying run and the stamps in its blocks: see bench_journal.h. */
#include "tools/bench_journal.h"

#include "base/crc32c.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAGIC "qbdbench"
#define VERSION 1u
#define STAMP_MAGIC UINT64_C(0x706d617473646271) /* "qbdstamp" */

static_assert(sizeof(struct journal_header) == 4048 && offsetof(struct journal_header, acked) == 72, "a file's format");
#define HEADER_BYTES 4096u

static void read_boot_id(char buf[40])
{
    memset(buf, 0, 40);
    FILE *f = fopen("/proc/sys/kernel/random/boot_id", "re");
    if (f && fgets(buf, 40, f))
        buf[strcspn(buf, "\n")] = '\0';
    if (f)
        fclose(f);
}

static int map(struct journal *j, size_t bytes, const char *path, struct why *why)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, j->fd, 0);
    if (p == MAP_FAILED)
        return because(why, "cannot map %s: %s", path, strerror(errno));
    j->h = p;
    j->entry = (struct journal_entry *)((uint8_t *)p + HEADER_BYTES);
    j->map_bytes = bytes;
    return 0;
}

static size_t bytes_of(uint64_t n_positions)
{
    return HEADER_BYTES + n_positions * sizeof(struct journal_entry);
}

int journal_create(struct journal *j, const char *path, const struct journal_header *h, struct why *why)
{
    *j = (struct journal){.fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644), .same_boot = true};
    if (j->fd < 0 && errno == EEXIST)
        return because(why, "%s exists: it is what an earlier run left for --check; name another file or remove it",
                       path);
    if (j->fd < 0)
        return because(why, "cannot make %s: %s", path, strerror(errno));
    /* Room is taken at once: a store into a mapped hole of a full file system kills the process. */
    int err = posix_fallocate(j->fd, 0, (off_t)bytes_of(h->n_positions));
    if (err)
        because(why, "cannot make %s: %s", path, strerror(err));
    if (err || map(j, bytes_of(h->n_positions), path, why) < 0) {
        journal_close(j);
        unlink(path);
        return -1;
    }
    *j->h = *h;
    j->h->version = VERSION;
    read_boot_id(j->h->boot_id);
    memcpy(j->h->magic, MAGIC, sizeof j->h->magic);
    if (journal_sync(j, why) < 0) {
        journal_close(j);
        unlink(path);
        return -1;
    }
    return 0;
}

static bool header_is_sane(const struct journal_header *h, uint64_t file_bytes)
{
    return memcmp(h->magic, MAGIC, sizeof h->magic) == 0 && h->version == VERSION && h->block_bytes >= BLOCK_SIZE &&
           h->block_bytes % BLOCK_SIZE == 0 && h->offset % BLOCK_SIZE == 0 && h->n_positions > 0 &&
           h->n_positions <= h->volume_bytes / h->block_bytes &&
           h->offset <= h->volume_bytes - h->n_positions * h->block_bytes && file_bytes == bytes_of(h->n_positions) &&
           memchr(h->uri, 0, sizeof h->uri) && memchr(h->boot_id, 0, sizeof h->boot_id);
}

int journal_open(struct journal *j, const char *path, struct why *why)
{
    struct stat st;
    char boot_id[40];
    *j = (struct journal){.fd = open(path, O_RDWR | O_CLOEXEC)};
    if (j->fd < 0 || fstat(j->fd, &st) < 0) {
        because(why, "cannot open %s: %s", path, strerror(errno));
        journal_close(j);
        return -1;
    }
    if (st.st_size < (off_t)HEADER_BYTES || map(j, (size_t)st.st_size, path, why) < 0 ||
        !header_is_sane(j->h, (uint64_t)st.st_size)) {
        because(why, "%s is no journal of qbd bench --verify", path);
        journal_close(j);
        return -1;
    }
    read_boot_id(boot_id);
    j->same_boot = strcmp(boot_id, j->h->boot_id) == 0;
    return 0;
}

void journal_close(struct journal *j)
{
    if (j->map_bytes)
        munmap(j->h, j->map_bytes);
    if (j->fd >= 0)
        close(j->fd);
    *j = (struct journal){.fd = -1};
}

bool journal_is_settled(const struct journal *j, uint64_t position)
{
    return j->entry[position].issued == j->entry[position].acked;
}

/* Stores stay in this order for whoever reads the file after this process was killed between any two of them. */
uint64_t journal_issue(struct journal *j, uint64_t position)
{
    assert(position < j->h->n_positions && journal_is_settled(j, position));
    uint64_t seq = ++j->h->last_seq;
    __atomic_store_n(&j->entry[position].issued, seq, __ATOMIC_SEQ_CST);
    return seq;
}

void journal_ack(struct journal *j, uint64_t position)
{
    struct journal_entry *e = &j->entry[position];
    assert(position < j->h->n_positions && e->issued > e->acked);
    __atomic_store_n(&e->acked, e->issued, __ATOMIC_SEQ_CST);
    __atomic_store_n(&j->h->acked, j->h->acked + 1, __ATOMIC_SEQ_CST);
}

int journal_sync(struct journal *j, struct why *why)
{
    return fdatasync(j->fd) < 0 ? because(why, "cannot sync the journal: %s", strerror(errno)) : 0;
}

/* ---- stamps ---- */

struct stamp_format {
    uint64_t magic, run, address, seq;
    uint32_t crc; /* of the whole block, with this field zero */
    uint32_t reserved;
};

void stamp_fill(uint8_t *block, uint64_t run, uint64_t address, uint64_t seq)
{
    struct stamp_format s = {.magic = STAMP_MAGIC, .run = run, .address = address, .seq = seq};
    uint64_t x = run ^ address * UINT64_C(0x9e3779b97f4a7c15) ^ seq * UINT64_C(0xbf58476d1ce4e5b9);
    memcpy(block, &s, sizeof s);
    for (size_t i = sizeof s; i < BLOCK_SIZE; i += sizeof x) { /* what no layer can compress or take for another's */
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        memcpy(block + i, &x, sizeof x);
    }
    s.crc = crc32c(block, BLOCK_SIZE);
    memcpy(block, &s, sizeof s);
}

static bool is_zero(const uint8_t *block)
{
    return block[0] == 0 && memcmp(block, block + 1, BLOCK_SIZE - 1) == 0;
}

struct stamp_read stamp_look(const uint8_t *block, uint64_t run, uint64_t address)
{
    struct stamp_format s;
    memcpy(&s, block, sizeof s);
    if (s.magic != STAMP_MAGIC)
        return (struct stamp_read){.kind = is_zero(block) ? STAMP_ZEROES : STAMP_NONE};
    uint32_t crc = s.crc;
    s.crc = 0;
    if (crc32c_extend(crc32c(&s, sizeof s), block + sizeof s, BLOCK_SIZE - sizeof s) != crc)
        return (struct stamp_read){.kind = STAMP_NONE};
    enum stamp kind = s.run != run ? STAMP_OTHER_RUN : s.address != address ? STAMP_MISPLACED : STAMP_OF_RUN;
    return (struct stamp_read){.kind = kind, .seq = s.seq, .address = s.address};
}

static void describe(const struct stamp_read *s, char *buf, size_t cap)
{
    switch (s->kind) {
    case STAMP_OF_RUN:
        snprintf(buf, cap, "write %" PRIu64, s->seq);
        return;
    case STAMP_MISPLACED:
        snprintf(buf, cap, "write %" PRIu64 " of address %" PRIu64, s->seq, s->address);
        return;
    case STAMP_OTHER_RUN:
        snprintf(buf, cap, "another run's data");
        return;
    case STAMP_ZEROES:
        snprintf(buf, cap, "zeroes");
        return;
    default:
        snprintf(buf, cap, "data that no write of this run put there, or a damaged block");
    }
}

bool journal_allows(const struct journal *j, uint64_t position, const struct stamp_read *s, char *buf, size_t cap)
{
    const struct journal_entry *e = &j->entry[position];
    char got[128];
    bool newer = !j->same_boot && s->kind == STAMP_OF_RUN && s->seq > e->issued; /* the journal lost its end */
    bool right = s->kind == STAMP_OF_RUN && (s->seq == e->acked || s->seq == e->issued);
    /* What was never acknowledged may be what it was before the run; only this run's own data must not be strange. */
    bool old = e->acked == 0 && s->kind != STAMP_OF_RUN && s->kind != STAMP_MISPLACED;
    if (newer || old || (right && s->seq))
        return true;
    describe(s, got, sizeof got);
    if (e->acked == 0)
        snprintf(buf, cap, "it holds %s, and nothing that was acknowledged is there", got);
    else if (e->acked == e->issued)
        snprintf(buf, cap, "write %" PRIu64 " was acknowledged, and it holds %s", e->acked, got);
    else
        snprintf(buf, cap, "write %" PRIu64 " was acknowledged (and %" PRIu64 " sent), and it holds %s", e->acked,
                 e->issued, got);
    return false;
}
