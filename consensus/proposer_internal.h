/* What the proposer's files share: proposer.c (events, beats, leases), proposer_attach.c and proposer_choose.c (phase
 * 1), proposer_stream.c (phase 2), proposer_quorum.c. */
#ifndef QBD_CONSENSUS_PROPOSER_INTERNAL_H
#define QBD_CONSENSUS_PROPOSER_INTERNAL_H

#include "consensus/proposer.h"

/* One step's surroundings. */
struct step {
    struct proposer *p;
    struct proposer_sink *sink;
    uint64_t now_ns, random;
};

#define PROPOSER_FETCH_MAX 32u /* values asked for at a time */
#define PROPOSER_REOPEN_NS                                                                                             \
    (1000 * NS_PER_MS) /* a replica that is behind without visible progress is asked again this often */
#define PROPOSER_REFUSED_NS                                                                                            \
    (50 * NS_PER_MS)              /* one that refuses what comes first on its stream is left alone for so long */
#define PROPOSER_ENTRY_BYTES 512u /* what an entry costs beyond its payload */

static inline struct proposer_slot *proposer_slot_of(const struct proposer *p, uint64_t slot)
{
    return &p->params.ring[slot & (p->params.ring_slots - 1)];
}

static inline bool proposer_linked(const struct proposer *p, uint32_t i)
{
    return p->replica[i].stream != STREAM_DOWN;
}

/* ---- proposer.c ---- */
/* What every answer of a replica says of itself. Once it says that it needs a copy, nothing that it acknowledged before
 * counts any more; that it says the contrary makes it count only in an Accepted, by what that acknowledges. */
void proposer_note_incomplete(struct proposer_replica *r, uint32_t needs_copy);
void proposer_set_state(struct step *x, enum proposer_state state);
void proposer_emit_entry(struct step *x, enum proposer_effect_type type, uint64_t slot, struct entry *entry);
/* A message to replica i, to be filled in and given to proposer_send. */
struct proposer_effect proposer_message(const struct proposer *p, uint32_t i, enum msg_type type);
static inline void proposer_send(struct step *x, const struct proposer_effect *e)
{
    x->sink->fn(x->sink, e);
}
/* Drops the link: nothing from it counts until LINK_UP. */
void proposer_disconnect(struct step *x, uint32_t i);
void proposer_beat(struct step *x);
/* A lease granted in answer to what was sent at t_ns (P8). */
void proposer_count_lease(struct step *x, struct proposer_replica *r, uint64_t t_ns, uint64_t lease_ns);

/* ---- proposer_quorum.c ---- */
void proposer_set_membership(struct proposer *p, bool uncommitted, const struct membership *m);
/* The link has another identity than before, or none: who votes through which link is found anew. */
void proposer_links_changed(struct proposer *p);
bool proposer_is_voter(const struct proposer *p, uint32_t i);
/* Somebody whom it is of use to send entries: not one that was voted out and is not wanted as a learner. */
bool proposer_wants_stream(const struct proposer *p, uint32_t i);
/* A majority of the configured replicas. */
bool proposer_is_configured_majority(const struct proposer *p, uint32_t mask);
/* A majority of the membership, of both while one is uncommitted; of the configured replicas while none is known. */
bool proposer_is_quorum(const struct proposer *p, uint32_t mask);
/* The highest v such that a quorum has value[i] >= v. */
uint64_t proposer_quorum_value(const struct proposer *p, const uint64_t *value);
/* P3: whether a majority of some known membership may hold what the replicas of `mask`, and those that were not heard,
 * hold. */
bool proposer_may_be_chosen(const struct proposer *p, uint32_t holds, uint32_t heard);

/* ---- proposer_attach.c ---- */
void proposer_query(struct step *x);
void proposer_query_replica(struct step *x, uint32_t i);
void proposer_on_query_ack(struct step *x, uint32_t i, const struct msg *m);
void proposer_judge_query(struct step *x, bool late);
void proposer_note_holder(struct step *x, const struct msg *m);
void proposer_prepare_replica(struct step *x, uint32_t i);
void proposer_on_refused(struct step *x, uint32_t i, const struct msg *m);
/* Gives the ballot up (leases released) and tries again at retry_at_ns. Own pending writes are kept (P7). */
void proposer_abandon(struct step *x, uint64_t retry_at_ns);
uint64_t proposer_backoff(struct step *x);
/* P7, when the own session start is chosen: what becomes of the writes from before. */
void proposer_settle_own(struct step *x);
void proposer_release(struct step *x);
void proposer_drop_all(struct step *x);
/* Lets go of the slot's value, unless it is an own write as well. */
void proposer_forget_entry(struct step *x, uint64_t slot);

/* ---- proposer_choose.c ---- */
void proposer_on_promise(struct step *x, uint32_t i, const struct msg *m);
void proposer_on_value(struct step *x, uint32_t i, const struct msg *m);
/* Asks for values, cuts by P3, starts when nothing is missing. */
void proposer_recover(struct step *x);
/* What i was asked for is to be asked for elsewhere; when its link is back, of i again. */
void proposer_forget_asked(struct step *x, uint32_t i, bool link_up);

/* ---- proposer_stream.c ---- */
void proposer_start_streams(struct step *x);
void proposer_open(struct step *x, uint32_t i);
/* After a refusal: at once, unless the last Open at the same place has led to nothing. */
void proposer_reopen(struct step *x, uint32_t i);
void proposer_retry_streams(struct step *x);
void proposer_on_opened(struct step *x, uint32_t i, const struct msg *m);
void proposer_on_mismatch(struct step *x, uint32_t i, const struct msg *m);
void proposer_on_accepted(struct step *x, uint32_t i, const struct msg *m);
void proposer_on_progress(struct step *x, uint32_t i);
/* Adds the slot's entry to the running totals. */
void proposer_account(struct proposer *p, uint64_t slot);
/* Takes a copy of what a Promise or Mismatch says the log is; false when it cannot be one. */
bool proposer_copy_log(struct proposer_replica *r, const struct log_pos *base, uint32_t n_runs, const struct run *runs,
                       uint32_t n_lost, const uint64_t *lost, const struct log_pos *commit);

#endif
