/* How a group of this replica becomes complete again when no peer's log reaches back to it (docs/rebuild.md): the state of that, and of the copier.
 *
 * - copy.c: from "needs copy" to the jump, and from the last block to "complete"
 * - copy_list.c: the donor's listing
 * - copy_fill.c: verdicts, and which chunk is asked for next
 * - copy_image.c: one request for an image: who is asked, what becomes of the answer
 * - pace.c: how fast */
#ifndef QBD_REPLICA_COPY_H
#define QBD_REPLICA_COPY_H

#include "base/config.h"
#include "replica/store.h"

#define COPY_REQUESTS_MAX 64u
#define COPY_PER_DONOR_BYTES (4u << 20) /* asked of one donor and not yet here */
/* While clients are there: */
#define COPY_GENTLE_REQUESTS 2u
#define COPY_GENTLE_BLOCKS 16u
#define COPY_TICK_NS (50 * NS_PER_MS)
#define COPY_ANSWER_NS (5 * NS_PER_S) /* who does not answer for so long is not waited for */
#define COPY_AHEAD_NS (10 * NS_PER_S) /* how long an image from further ahead than the own log reaches is kept */
#define COPY_BEHIND_NS (200 * NS_PER_MS) /* a donor that can't help now is left alone for so long */
#define COPY_INCOMPLETE_NS (2 * NS_PER_S)
#define COPY_REFUSED_NS (30 * NS_PER_S) /* before a jump that does not fit is tried again */

struct peer;
struct replica_group;

enum copy_phase {
    COPY_NONE,       /* complete, or not known to be anything else */
    COPY_MARKING,    /* that it needs a copy is being made durable */
    COPY_WAITING,    /* for catch-up's word: a jump, or the logs suffice after all */
    COPY_DRAINING,   /* before the listing */
    COPY_LISTING,
    COPY_REDRAINING, /* nothing may be in the overlay at the jump */
    COPY_JUMPING,    /* until the jump is durable, everything above it is held back */
    COPY_FILLING,    /* verdicts, then images */
    COPY_COMPLETING,
    COPY_UNMARKING,  /* the logs suffice: that is being made durable */
};

/* One range of a chunk that is unknown here. */
struct copy_request {
    struct list link; /* in copy.requests */
    struct replica_group *group;
    enum { COPY_TO_ASK, COPY_ASKED, COPY_INSTALLING } state;
    bool begun; /* the store has set room aside */
    struct store_copy c;
    uint64_t chunk;                    /* first block; the maps below count from it */
    uint64_t want[CHUNK_BLOCKS / 64];
    uint64_t said_bad[CONFIG_REPLICAS_MAX][CHUNK_BLOCKS / 64]; /* by the peer's index: damaged there at or after the jump */
    uint64_t said_at; /* the lowest slot of the images that said so; 0: none did */
    bool newer; /* an image was older than damage that was found here since: one of the own position is needed */
    struct peer *peer;
    uint64_t cookie, asked_ns;
    uint64_t exhausted_ns; /* since then nobody is left to be asked; 0: somebody is */
};

struct copy {
    enum copy_phase phase;
    bool wanted_again; /* catch-up found while something was being made durable that the logs do not reach */
    bool retired;      /* a donor's membership does not name this replica any more */
    bool invited;      /* CREATE named it as a learner: it is copied to although it was voted out */
    const char *refused; /* why no jump is possible; NULL: nothing is in its way */
    uint64_t since_ns;   /* when it was found to need a copy */
    struct timer timer;
    /* the listing */
    struct peer *donor;
    uint64_t cookie;
    unsigned donors_tried;
    struct store_region *listing;
    uint32_t n_listing, cap_listing;
    struct log_pos at;
    struct membership membership;
    /* Opens that came during the jump: answered when it is durable */
    struct list held; /* struct held_open */
    /* verdicts and the walk over unknown chunks */
    enum { COPY_VERDICTS, COPY_IMAGES } pass;
    uint64_t cursor, next_cursor;
    struct store_unknown unknown;
    bool walking, in_walk, walked; /* the store looks for the next; ... its call has not returned; ... but its answer came */
    bool stale;                    /* ... of a walk that was given up */
    bool round_over;               /* the walk came to the end */
    uint64_t checkpoints;          /* done when the last round ended */
    struct {
        enum { VERDICT_NONE, VERDICT_TO_ASK, VERDICT_ASKED, VERDICT_TAKEN } state;
        uint32_t region;
        struct peer *peer;
        uint64_t cookie, asked_ns;
    } verdict;
    /* images */
    struct list requests;
    unsigned n_requests;
    uint64_t asked_bytes[CONFIG_REPLICAS_MAX];    /* by the peer's index */
    uint64_t avoid_until_ns[CONFIG_REPLICAS_MAX];
    uint64_t incomplete_until_ns[CONFIG_REPLICAS_MAX]; /* it said that it needs a copy itself: nobody waits for what it may have later */
    uint64_t ahead_ns; /* since when an image waits for slots that are not here; 0: none does */
    struct log_pos ahead;
    /* for status */
    uint64_t counted_ns, counted_bytes, rate, donor_ns;
};

/* pace.c: of all copies of this replica together. */
struct pace {
    uint64_t floor, ceiling; /* bytes a second */
    uint64_t rate;
    int64_t allowance; /* bytes that may be asked for now; below zero: some were asked for in advance */
    uint64_t at_ns, adjusted_ns;
    uint64_t gentle_until_ns; /* clients were seen, here or at a donor */
    bool gentle;              /* as of the last adjustment */
    bool busy;                /* some WAL was found slow since then */
};

void pace_init(struct pace *p, uint64_t floor, uint64_t ceiling, uint64_t now_ns);
/* A WAL's latency beside its quiet one: a donor's or the own. ns 0: no client is there. */
void pace_observe(struct pace *p, uint64_t ns, uint64_t quiet_ns, uint64_t now_ns);
/* Clients are there: what is asked for is to be little at a time. */
bool pace_is_gentle(const struct pace *p, uint64_t now_ns);
bool pace_allows(struct pace *p, uint64_t now_ns);
void pace_take(struct pace *p, uint64_t bytes);
/* When pace_allows becomes true. */
uint64_t pace_next(const struct pace *p, uint64_t now_ns);

#endif
