/* What the WAL's files share: wal.c (appending, closing, writing), wal_recover.c (the scan at start), wal_read.c (entries
 * read again), wal_format.c (batches built and validated). Nobody else includes this. */
#ifndef QBD_REPLICA_WAL_INTERNAL_H
#define QBD_REPLICA_WAL_INTERNAL_H

#include "base/crc32c.h"
#include "replica/wal.h"

#define WAL_DESC_MAX_BYTES (124u << 10) /* with the page that closing may add it stays in a buffer of 128 KiB */
#define WAL_DESC_PAGES_MAX 32u
#define WAL_BULK_BYTES (256u << 10) /* of payload: a batch from here on is no small one */
#define WAL_BATCH_ENTRIES_MAX 1000u
#define WAL_BATCH_IOV_MAX (1u + WAL_BATCH_ENTRIES_MAX) /* the descriptors, and a piece for each entry; a WRITE_REF may have two */
#define WAL_FRONT_SUMMARIES_MAX (WAL_FRONT_MAX_BYTES / (uint32_t)sizeof(struct wal_summary))
#define WAL_RECORD_MAX_BYTES ((uint32_t)(sizeof(struct wal_record) + sizeof(struct entry_format) + ENTRY_MAX_BLOCKS * 4 + REF_SLABS_MAX * 4))

static_assert(WAL_BATCH_IOV_MAX <= IO_IOV_MAX, "a batch is one write");
static_assert(WAL_FRONT_SUMMARIES_MAX >= GROUPS_MAX, "every group may be named by one batch");
static_assert(WAL_DESC_MAX_BYTES / BLOCK_SIZE + 1 <= WAL_DESC_PAGES_MAX, "descriptors fit with the page that closing may add");
static_assert(WAL_BATCH_MAX_BYTES <= BUF_MAX_BYTES, "recovery reads a batch into one buffer");
static_assert(sizeof(struct wal_batch) + WAL_FRONT_MAX_BYTES + WAL_RECORD_MAX_BYTES + BLOCK_SIZE <= WAL_ENTRY_OVERHEAD,
              "an entry alone in its batch costs no more than callers reckon with");

/* ---- wal_format.c: what stands in a batch ---- */

/* What one batch did, collected while it is built (or replayed), for the front of the next one. */
struct wal_front {
    uint32_t n_summaries, n_echoes, echo_bytes;
    struct wal_summary summary[WAL_FRONT_SUMMARIES_MAX];
    uint8_t echo[WAL_FRONT_MAX_BYTES];
};

/* What the summaries tell about a group, kept up to date over all records since the tail. */
struct wal_group_state {
    uint64_t group;
    struct ballot promised;
    uint64_t max_lease_ns;
    uint64_t commit;
};

struct wal_states {
    struct wal_group_state *state;
    uint32_t n, cap;
};

static inline uint32_t wal_align8(uint32_t n)
{
    return (n + 7) & ~7u;
}

static inline uint32_t wal_record_bytes(const struct wal_record *r)
{
    return wal_align8((uint32_t)sizeof *r + r->body_bytes);
}

static inline const uint8_t *wal_record_body(const struct wal_record *r)
{
    return (const uint8_t *)(r + 1);
}

/* Payload pages of a record: 0 for all but WRITE entries; those of a WRITE_REF are the blocks outside of its slabs. */
uint32_t wal_record_pages(const struct wal_record *r);
/* The slabs of a WRITE_REF and how many; NULL for all others. */
const uint32_t *wal_record_slabs(const struct wal_record *r, uint32_t *ret_n);
/* Which of the entry's blocks stands in payload page i. */
uint32_t wal_page_block(const struct wal_record *r, uint32_t i);

static inline bool wal_record_is_entry(const struct wal_record *r)
{
    return r->type == WAL_ENTRY || r->type == WAL_WRITE_REF;
}

static inline uint32_t wal_front_bytes(const struct wal_front *f)
{
    return f->n_summaries * (uint32_t)sizeof(struct wal_summary) + f->echo_bytes;
}

static inline void wal_front_clear(struct wal_front *f)
{
    f->n_summaries = f->n_echoes = f->echo_bytes = 0;
}

/* Notes a record in the front. False, and nothing noted: it may not stand in this batch (the rule at struct wal_summary, or
 * the front is full): the batch must be closed first. An empty front takes any record. */
MUST_USE bool wal_front_note(struct wal_front *f, const struct wal_record *r);
/* Sets promises and commits "as of the end of the batch". */
void wal_front_finish(struct wal_front *f, const struct wal_states *s);
void wal_front_write(const struct wal_front *f, uint8_t *to);
/* The front that a valid batch carries. */
void wal_front_read(struct wal_front *f, const struct wal_batch *b);

/* NULL when the group is unknown. */
struct wal_group_state *wal_states_find(const struct wal_states *s, uint64_t group);
struct wal_group_state *wal_states_get(struct wal_states *s, uint64_t group);
void wal_states_note(struct wal_states *s, const struct wal_record *r);

uint32_t wal_header_crc(const uint8_t salt[16], const struct wal_batch *b);

enum wal_check {
    WAL_CHECK_OK,
    WAL_CHECK_BAD,
    WAL_CHECK_MORE, /* its descriptor pages are longer than what is at hand */
};
/* Is there a batch of this WAL at p, read from lsn? Bytes from a disk: all that later code relies on is checked here (header,
 * descriptor pages, form of every record), except the payload and the chain. */
MUST_USE enum wal_check wal_check_batch(const uint8_t salt[16], uint64_t wal_bytes, uint64_t lsn, const uint8_t *p, size_t len);

static inline uint64_t wal_batch_bytes(const struct wal_batch *b)
{
    return ((uint64_t)b->desc_pages + b->payload_pages) * BLOCK_SIZE;
}

/* The records of a batch that wal_check_batch found good. */
struct wal_cursor {
    const struct wal_batch *batch;
    uint32_t at, left;
    uint32_t payload_page; /* of the record returned last, counted from the batch's beginning */
    uint32_t next_page;
};
void wal_cursor_init(struct wal_cursor *c, const struct wal_batch *b);
const struct wal_record *wal_cursor_next(struct wal_cursor *c);

/* ---- the index: where every batch from tail on begins ---- */

struct wal_index_entry {
    uint64_t lsn, seq, prev_lsn;
    uint32_t prev_crc;
    uint32_t desc_pages; /* 0: its descriptors are unreadable */
};

struct wal_index {
    struct wal_index_entry *entry; /* a ring; cap is a power of two */
    uint32_t cap, first, n;
};

static inline struct wal_index_entry *wal_index_at(const struct wal_index *x, uint32_t i)
{
    return &x->entry[(x->first + i) & (x->cap - 1)];
}

void wal_index_push(struct wal_index *x, const struct wal_position *p, uint32_t desc_pages);
/* How many batches begin below lsn. */
uint32_t wal_index_below(const struct wal_index *x, uint64_t lsn);

/* ---- wal.c ---- */

struct wal_placed {
    struct entry *e; /* a reference, until the batch is durable */
    uint32_t body_at;      /* from the batch's beginning */
    uint32_t payload_page; /* among the payload pages */
    uint32_t pages;
};

/* A batch from its first record until it is durable. */
struct wal_write {
    struct list link; /* of wal.queue, then wal.writing; or wal.spare */
    struct io_op op;
    struct wal *w;
    struct buf *desc;
    uint32_t desc_bytes, n_records, payload_pages;
    uint32_t flags;
    uint64_t lsn, bytes, seq;
    uint64_t token;
    bool has_token, done;
    uint32_t holds;
    uint64_t submitted_ns;
    uint32_t n_entries, n_iov;
    struct wal_placed placed[WAL_BATCH_ENTRIES_MAX];
    struct iovec iov[WAL_BATCH_IOV_MAX];
};

enum wal_state { WAL_NEW, WAL_RECOVERING, WAL_RUNNING, WAL_DEAD };

struct wal_recovery;

struct wal {
    unsigned small_in_flight; /* a small batch is closed only when fewer than so many are being written */
    struct reactor *reactor;
    struct dev *dev;
    struct wal_callbacks cb;
    struct turn_hook hook;
    enum wal_state state;
    uint8_t salt[16];
    uint64_t wal_bytes;
    uint32_t batch_max_bytes;

    struct wal_position head; /* where the next batch to be closed goes; its seq and chain */
    struct wal_position tail;
    uint64_t redo_lsn;
    uint64_t durable_lsn, durable_seq;
    uint64_t incarnation, start_lsn;
    uint64_t last_token;

    struct wal_write *open;        /* or NULL: no record waits */
    struct wal_front *open_front;  /* what the open batch did so far */
    struct wal_front *front;       /* what the last closed one did: goes into the next */
    bool after_pad;
    struct wal_states states;
    struct list queue;   /* closed, not yet submitted, in order */
    struct list writing; /* submitted, in order; removed in order too */
    struct list spare;
    unsigned in_flight;
    struct list reads; /* struct wal_read */
    struct wal_index index;

    struct wal_recovery *recovery;
    struct wal_stats stats; /* counters only */
};

/* Begins to run from w->head: closes and writes the START batch, whose durability calls wal_started(). */
void wal_start(struct wal *w);
/* wal_recover.c: the START batch is durable. */
void wal_started(struct wal *w);
void wal_recovery_free(struct wal_recovery *r);
/* wal_read.c: is a read under way where this batch goes? */
bool wal_read_conflicts(const struct wal *w, uint64_t lsn, uint64_t bytes);
void wal_reads_free(struct wal *w);

#endif
