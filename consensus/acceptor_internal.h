/* What the acceptor's files share: acceptor.c answers messages (A1-A3, A5-A8), acceptor_log.c changes the log (A4, A6,
 * A7). */
#ifndef QBD_CONSENSUS_ACCEPTOR_INTERNAL_H
#define QBD_CONSENSUS_ACCEPTOR_INTERNAL_H

#include "consensus/acceptor.h"

/* The next effect, zeroed. */
struct acceptor_effect *acceptor_effect(struct acceptor_effects *fx, enum acceptor_effect_type type);
/* The next persist effect, with its seq. */
struct acceptor_effect *acceptor_persist(struct acceptor *a, struct acceptor_effects *fx,
                                         enum acceptor_effect_type type);

/* Forgets the stream and what was matched. */
void acceptor_drop_stream(struct acceptor *a);

/* A4 for the slot behind the match. False: refused, nothing has changed. */
bool acceptor_take(struct acceptor *a, struct acceptor_effects *fx, struct entry *e);
/* A6: the commit rises (never falls); memberships at or below it become the committed one. */
void acceptor_commit_to(struct acceptor *a, uint64_t slot);
/* The COMMIT effect, when min(commit, durable) has risen. */
void acceptor_tell_commit(struct acceptor *a, struct acceptor_effects *fx);
void acceptor_on_durable(struct acceptor *a, uint64_t seq);
/* A7. */
void acceptor_on_caught_up(struct acceptor *a, struct acceptor_effects *fx, const struct acceptor_event *ev);
void acceptor_on_trim(struct acceptor *a, uint64_t slot);
void acceptor_on_jump(struct acceptor *a, struct acceptor_effects *fx, const struct acceptor_event *ev);
void acceptor_on_recover(struct acceptor *a, struct acceptor_effects *fx, const struct acceptor_event *ev);
/* The committed membership is m; whether this replica is retired follows. */
void acceptor_set_committed(struct acceptor *a, const struct membership *m);

bool acceptor_is_lost(const struct acceptor *a, uint64_t slot);
/* durable from the log, the LOST list and what is pending. */
void acceptor_find_durable(struct acceptor *a);

#endif
