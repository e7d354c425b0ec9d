/* What the checkers' files share: checks.c (watching), check_messages.c (what replicas say), check_frontend.c (what front ends
 * say), check_members.c (who votes), check_copy.c (what copies rest on), check_slots.c (what is proposed and chosen),
 * check_wal.c (what is durable in the logs), check_disk.c (maps and extents), check_memory.c.
 *
 * A replica is its disk: each disk has an identity and a view of its own, and what was counted of a disk that is gone is not
 * counted of the one that took its place. */
#ifndef QBD_TESTS_SIM_CLUSTER_CHECK_INTERNAL_H
#define QBD_TESTS_SIM_CLUSTER_CHECK_INTERNAL_H

#include "base/wire_format.h"
#include "replica/disk_format.h"
#include "tests/sim/cluster/checks.h"

#define CK_STREAMS 1024u
#define CK_ASKED 1024u
#define CK_DISKS 24u /* of all machines, over a run */
#define CK_MEMBERSHIPS 64u
#define CK_UNSEEN UINT64_MAX /* a chosen value that stood in no log that can be read any more */

/* An encoded entry as it stands somewhere. */
struct ck_entry {
    struct entry_format f;
    struct ballot e;
    const uint8_t *data; /* encoded, unaligned */
    uint32_t bytes;
    uint64_t hash; /* of all of it */
};

/* What was proposed once under (slot, e). */
struct ck_name {
    struct ck_name *next; /* of the same slot */
    uint64_t hash;
    uint32_t ballot;  /* index */
    uint32_t durable; /* replicas, as bits, in whose logs it was ever seen durable */
    uint32_t bytes;
    uint8_t data[];
};

struct ck_slot {
    struct ck_name *names;
    uint64_t chosen;        /* hash; 0: not yet; CK_UNSEEN */
    uint32_t chosen_ballot; /* under which it was first */
    uint64_t write;         /* what the chosen WRITE of several blocks writes, and where: a hash; 0: none */
};

struct ck_ballot {
    struct ballot b;
    uint64_t session_slot; /* of its session start; 0: none proposed yet */
    bool session_chosen, released;
    uint64_t acked[CK_DISKS]; /* through here, by each disk that was complete; that it answered a higher ballot since takes
                                 nothing back */
    uint32_t promised;        /* disks, as bits, that were complete when they promised it */
    uint64_t member_slot;     /* the highest membership entry in its proposer's log, as far as that was sent; 0: none */
    struct membership member;
    /* the proposer's log as far as it was sent under this ballot: hashes of the slots from first on; 0: not sent */
    uint64_t first, n_sent, cap_sent;
    uint64_t *sent;
    uint64_t next_at_open; /* the proposer's next slot when it last opened a stream: what stands below was assigned for other streams */
};

/* A block's contents from a slot on. */
struct ck_version {
    uint64_t slot;
    uint64_t chosen_ns;
    uint32_t crc;
};

struct ck_block {
    uint32_t n, cap;
    bool trimmed; /* older ones than the first were forgotten */
    struct ck_version *version;
};

enum ck_known { CK_UNKNOWN, CK_KNOWN };

struct ck_view_slot {
    uint64_t hash; /* 0: never seen, or gone with damage */
    uint64_t lsn;  /* of the batch that holds its newest record */
};

/* What a root uses a slab for. */
struct ck_owner {
    enum { CK_FREE, CK_DATA, CK_LEAVES } use;
    uint64_t block;    /* DATA: its first block */
    uint32_t in_force; /* LEAVES: pages that are, as bits */
};

/* Whose value a slab holds that a record in the WAL refers to (docs/large-writes.md). */
struct ck_reference {
    uint64_t slot, hash; /* of the entry; 0: none */
    uint64_t block;      /* the slab's first */
};

/* One replica as its disk shows it. */
struct ck_view {
    struct checks *ck;
    unsigned index; /* of the disk */
    const struct node *node;
    unsigned disk;  /* the node's how manieth */
    struct uuid identity;
    struct sim_disk *wal, *meta;
    uint64_t wal_bytes;
    uint8_t salt[16];
    /* the reader: all batches below lsn are durable and were read */
    uint64_t lsn, seq, prev_lsn;
    uint32_t prev_crc;
    uint64_t incarnation, start_lsn;
    /* what they say */
    bool created;
    uint64_t created_lsn;
    struct ballot promised;
    uint64_t promised_lsn, max_lease_ns;
    uint64_t last, commit; /* commit: the highest COMMIT record's */
    struct ck_view_slot *slot;
    uint64_t cap_slots;
    uint64_t agreed; /* slots <= agreed were found equal to what is chosen */
    uint64_t jump;   /* of the newest durable root: its log begins there, what is below was copied */
    /* whether it is complete: as of the newest durable root, or of a later record */
    bool root_incomplete, record_incomplete, told; /* told: the record counts for what it says by now */
    uint64_t root_applied, record_slot;
    /* what it said */
    struct ballot answered; /* highest ballot of its promises and acknowledgements */
    struct ballot ack;
    uint64_t ack_through;
    uint64_t ack_checked;  /* slots <= it were held against the log of ack's proposer */
    struct log_pos opened; /* where its last stream begins, as asked for, under this ballot */
    struct ballot opened_ballot;
    uint32_t stream_conn; /* where its stream was opened, under that ballot; 0: none, or what becomes of it can't be told */
    uint64_t catchups, catchups_at_open;
    uint64_t caught_up_at; /* as messages were counted when it last asked to catch up */
    /* the newest durable root, as last looked at */
    uint64_t root_checkpoint, root_tail_lsn;
    struct ck_owner *owner; /* by slab: what that root uses it for */
    uint32_t n_owners;
    struct ck_reference *reference; /* by slab: the newest durable record that refers to it */
    uint32_t n_references;
    unsigned starts;
    bool want_start; /* a process runs whose START batch was not seen yet */
    bool damaged;    /* what was durable may be lost: what is missing proves nothing */
    bool gone;       /* its machine has another disk now, or none */
};

struct ck_stream {
    uint32_t conn;
    uint32_t have, need; /* bytes of header and body at hand, and in all */
    uint32_t skip;       /* of a payload that passes by */
    bool foreign;        /* not our protocol */
    uint8_t *buf;
    uint32_t cap;
};

/* A READ under way. */
struct ck_asked {
    uint64_t cookie, watermark;
    uint32_t conn; /* of who answers */
};

/* The last OPEN of a connection. */
struct ck_open {
    uint32_t conn; /* of who answers */
    struct ballot b;
    struct log_pos at;
    uint64_t sent_at; /* as messages are counted */
    bool answered;
};

struct checks {
    struct cluster *cluster;
    bool over;
    struct checks_stats stats;
    struct ck_stream stream[CK_STREAMS];
    struct ck_view *view[CK_DISKS];
    unsigned n_views;
    struct ck_view *of_node[SIM_NODES]; /* of the disk that it has; NULL: none yet */
    struct ck_members {
        struct membership m;
        uint32_t ballot; /* under which it was chosen: index */
    } members[CK_MEMBERSHIPS]; /* chosen ones, in order; the first founded the group */
    unsigned n_members;
    struct ck_ballot **ballot; /* each stays where it is */
    uint32_t n_ballots, cap_ballots, last_ballot;
    struct ck_slot *slot;
    uint64_t cap_slots;
    uint64_t chosen_through, names_floor;
    struct ballot serving; /* highest ballot whose session start is chosen */
    uint64_t forced_until_ns;
    struct ck_block *block;
    uint64_t n_blocks;
    bool blocks_unknown; /* a chosen value could not be seen: what the blocks are is not known any more */
    struct {
        uint32_t crc, slot;
    } * by_crc; /* the lowest slot at which a block with this checksum was proposed */
    uint32_t n_by_crc, cap_by_crc;
    struct ck_asked asked[CK_ASKED];
    struct ck_open open[CK_STREAMS];
    _Alignas(8) uint8_t desc[128u << 10];
};

#define CK_FAIL(ck, ...) cluster_fail((ck)->cluster, "check: " __VA_ARGS__)
#define LLU(x) ((unsigned long long)(x))

/* ---- check_slots.c ---- */
bool ck_entry_parse(const uint8_t *p, size_t len, struct ck_entry *ret);
struct ck_slot *ck_slot(struct checks *ck, uint64_t slot);
uint32_t ck_ballot_index(struct checks *ck, const struct ballot *b);
struct ck_ballot *ck_ballot(struct checks *ck, const struct ballot *b);
/* What this ballot's proposer sent for the slot; 0: nothing yet. */
uint64_t ck_sent(const struct ck_ballot *b, uint64_t slot);
/* NULL: nobody proposed it, or it was forgotten (slot <= names_floor). */
struct ck_name *ck_name_find(struct checks *ck, const struct ck_entry *e);
/* It is on its way under ballot b: notes it when it is new and b its own; complains when it can't be. */
void ck_proposed(struct checks *ck, const struct ck_entry *e, const struct ballot *b);
/* Somebody hands it out or keeps it: it was proposed before, and as this. */
struct ck_name *ck_seen(struct checks *ck, const struct ck_entry *e, const char *who, const char *what);
/* Slot chosen_through + 1 is chosen. */
void ck_choose(struct checks *ck, uint64_t slot, uint64_t hash, uint32_t ballot);
/* The block's checksum at an applied slot. */
enum ck_known ck_block_at(const struct checks *ck, uint64_t block, uint64_t slot, uint32_t *ret_crc);
/* The lowest slot at which a block with this checksum was proposed; 0: never. */
uint32_t ck_slot_of_crc(const struct checks *ck, uint32_t crc);
void ck_slots_free(struct checks *ck);

/* ---- check_members.c ---- */
/* Of the disk that this node has now. */
struct ck_view *ck_view_of(struct checks *ck, unsigned node);
/* The newest membership that is chosen, and the one that ballot b's proposer holds above everything that is (or NULL). */
const struct membership *ck_members(const struct checks *ck);
const struct membership *ck_members_open(const struct checks *ck, const struct ck_ballot *b);
/* Are the disks in `mask` a quorum for this ballot's proposer? */
bool ck_is_quorum(const struct checks *ck, const struct ck_ballot *b, uint32_t mask);
/* The highest slot through which a quorum acknowledged. */
uint64_t ck_quorum_acked(const struct checks *ck, const struct ck_ballot *b);
/* A membership entry is in the log of b's proposer; it is proposed now (P9); it is chosen. */
void ck_member_sent(struct checks *ck, struct ck_ballot *b, const struct ck_entry *e);
void ck_member_proposed(struct checks *ck, const char *host, const struct ck_entry *e);
void ck_member_chosen(struct checks *ck, uint64_t slot, const uint8_t *data, uint32_t bytes, uint32_t ballot);
/* The root of a checkpoint knows who votes as of what it has applied (ST1), a jump included. */
void ck_members_kept(struct ck_view *v, const struct group_page *g);
/* Ballot b's session start is proposed: its proposer had the promises that it needs (P2). */
void ck_session_proposed(struct checks *ck, const char *host, const struct ck_ballot *b);

/* ---- check_copy.c ---- */
/* What is durable says that it is not complete (docs/rebuild.md "State"). */
bool ck_is_incomplete(struct ck_view *v);
/* It says of itself whether it is. */
void ck_says_complete(struct ck_view *v, uint32_t needs_copy, const char *what);
/* What it gives to others that copy or repair. */
void ck_donates(struct ck_view *v, const struct wire_header *h, const uint8_t *body);

/* ---- check_wal.c ---- */
void ck_view_init(struct ck_view *v, struct checks *ck, unsigned index, const struct node *n);
/* Reads on in what is durable. */
void ck_view_advance(struct ck_view *v);
/* A process of this replica does something: its START batch must have been seen before it answers. */
void ck_view_alive(struct ck_view *v);
void ck_view_started(struct ck_view *v, const char *what);
/* A batch is about to be written. */
void ck_wal_written(struct ck_view *v, const uint8_t *data, uint64_t len);
/* Looks whether there is a newer durable root. */
void ck_look_at_root(struct ck_view *v);
/* The own log through `slot` against what is chosen. False: it differs (told). */
bool ck_view_agree(struct ck_view *v, uint64_t through, const char *what);
static inline uint64_t ck_view_hash(const struct ck_view *v, uint64_t slot)
{
    return slot > 0 && slot <= v->last ? v->slot[slot].hash : 0;
}

/* ---- check_messages.c ---- */
/* One frame from a host; body is aligned. */
void ck_message(struct checks *ck, const char *host, uint32_t conn, const struct wire_header *h, const uint8_t *body);
/* Its slot is chosen. */
void ck_committed_is_chosen(struct ck_view *v, uint64_t slot, const char *what);
static inline struct ballot ck_ballot_of(const struct wire_header *h)
{
    struct ballot b = {.round = h->ballot_round};
    memcpy(b.proposer.b, h->ballot_proposer, 16);
    return b;
}
/* Where the READ of this number is kept; or another one, if there are many. */
static inline struct ck_asked *ck_asked_of(struct checks *ck, uint32_t conn, uint64_t cookie)
{
    return &ck->asked[(conn * UINT64_C(31) + (cookie >> 16) * 7 + cookie) % CK_ASKED];
}

/* ---- check_frontend.c ---- */
void ck_from_frontend(struct checks *ck, const char *host, uint32_t conn, const struct wire_header *h, const uint8_t *body);

/* ---- check_disk.c ---- */
uint32_t ck_page_crc(const uint8_t *page); /* with its crc field, which is at byte 12, taken as zero */
const struct root *ck_root(struct sim_disk *meta, bool durable);
const struct group_page *ck_group_page(struct sim_disk *meta, const struct root *r, bool durable);
/* Is each page that the root refers to the one that was written for it? */
bool ck_is_whole(struct sim_disk *meta, const struct root *r, bool durable);
/* Notes what the new durable root uses every slab for: leaves, and data (a sample of it), are durable too. */
void ck_owners_load(struct ck_view *v, const struct root *r, const struct group_page *g); /* g: NULL: none of the group yet */
/* The page of a slab, or NULL. */
const uint8_t *ck_extent_page(const struct ck_view *v, uint32_t slab, uint32_t page, bool durable);
/* A durable record refers to the slab. */
void ck_refer(struct ck_view *v, uint32_t slab, uint64_t slot, uint64_t hash, uint64_t block);
void ck_extent_written(struct ck_view *v, const struct sim_disk *d, uint64_t off, const uint8_t *data, uint64_t len);
void ck_audit_view(struct ck_view *v);

/* ---- check_memory.c ---- */
void ck_sample_memory(struct checks *ck);
/* WAL space is free to be used again only as far as the durable root says. */
void ck_sample_tail(struct ck_view *v);
/* What front ends believe of their leases is what replicas granted. */
void ck_sample_leases(struct checks *ck);

#endif
