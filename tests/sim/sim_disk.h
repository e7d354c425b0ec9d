/* A disk's media: two images, what is durable and what a read gives, and what becomes of them in a crash (store.md §1).
 * For sim_disk.c and sim_dev.c.
 *
 * All writes are of whole 4 KiB pages. A page has its durable contents and a chain of versions, one per completed write
 * that is not durable, oldest first. A read gives the last version. Contents that are all zero take no memory. */
#ifndef QBD_TESTS_SIM_SIM_DISK_H
#define QBD_TESTS_SIM_SIM_DISK_H

#include "tests/sim/sim_internal.h"

#define SECTOR_SIZE 512u
#define LEAF_PAGES 512u

struct sim_version {
    struct sim_version *next;
    uint64_t nth;  /* the write's number */
    uint64_t done; /* place in the order of completions */
    uint8_t *data; /* a page; NULL: zeroes */
};

struct sim_page {
    uint64_t no;
    uint8_t *data; /* durable; NULL: zeroes */
    struct sim_version *first, *last;
    struct list volatile_node; /* in sim_disk.volatile_pages while there are versions */
    bool spoiled;              /* reads fail until it is written */
};

struct sim_fault {
    uint32_t after, times;
    int err;
};

/* A write that was in flight when its process was killed and is still on its way. */
struct sim_late {
    struct list node;
    struct sim_event event;
    struct sim_disk *disk;
    uint64_t nth, off, len;
    uint8_t *data;
};

struct sim_cached;

struct sim_disk {
    struct sim_world *world;
    struct sim_dir *dir;
    struct list node;     /* in the world's */
    struct list dir_node; /* in the directory's */
    uint32_t id;
    char name[NAME_MAX_BYTES];
    uint64_t size_bytes;
    struct sim_page ***leaves; /* page n is leaves[n / LEAF_PAGES][n % LEAF_PAGES]; either may be NULL */
    uint64_t n_leaves;
    struct list volatile_pages;
    uint64_t done;         /* completions so far */
    struct sim_cached **cache; /* the host's, sim_cache.c; NULL: empty */
    struct list in_flight; /* sim_op, in order of submission */
    struct list late;
    struct sim_dev *holder;
    struct sim_disk_timing timing;
    uint64_t count[SIM_IO_KINDS];
    struct sim_fault fault[SIM_IO_KINDS];
    uint64_t salt; /* of the last crash: decides by chance what landed */
    uint64_t misdirect_nth, misdirect_off;
    uint32_t late_one_in;
    uint64_t late_ns;
    void (*hook)(void *user, struct sim_disk *d, const struct sim_io_info *io);
    void *hook_user;
    bool (*landed)(void *user, struct sim_disk *d, uint64_t nth, uint64_t off);
    void *landed_user;
};

struct sim_dir {
    struct sim_world *world;
    struct list node;
    struct list disks;
    char path[256];
    uint64_t capacity_bytes, refused, creates;
    void (*hook)(void *user, struct sim_disk *d, const struct sim_io_info *io);
    void *hook_user;
};

/* off and len are whole pages. */
void sim_media_read(const struct sim_disk *d, uint64_t off, uint8_t *to, uint64_t len);
bool sim_media_spoiled(const struct sim_disk *d, uint64_t off, uint64_t len);
void sim_media_write(struct sim_disk *d, uint64_t nth, uint64_t off, const uint8_t *from, uint64_t len, bool durable);
/* Some sectors only, those that landed; never durable. */
void sim_media_write_torn(struct sim_disk *d, uint64_t nth, uint64_t off, const uint8_t *from, uint64_t len);
/* Each page that was ever written keeps its contents, or is zero, or garbage. */
void sim_media_discard(struct sim_disk *d, uint64_t nth, uint64_t off, uint64_t len);
/* Everything completed up to `done` is durable. */
void sim_media_flush(struct sim_disk *d, uint64_t done);
/* What is not durable lands or does not. */
void sim_media_settle(struct sim_disk *d);
/* Late writes land now. */
void sim_media_land_late(struct sim_disk *d);
void sim_media_add_late(struct sim_disk *d, uint64_t nth, uint64_t off, uint64_t len, uint8_t *data, uint64_t at_ns);
void sim_disk_free(struct sim_disk *d);

/* The host's page cache (sim_cache.c). True when all of it is there: then it is copied. */
bool sim_cache_get(const struct sim_disk *d, uint64_t off, uint8_t *to, uint64_t len);
/* A cached read of these pages is over. */
void sim_cache_fill(struct sim_disk *d, uint64_t off, uint64_t len);
/* Write number nth begins or is over. */
void sim_cache_drop(struct sim_disk *d, uint64_t nth, uint64_t off, uint64_t len);
void sim_cache_clear(struct sim_disk *d);

#endif
