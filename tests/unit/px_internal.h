/* What the parts of px_cluster share and its users don't see. */
#ifndef QBD_TESTS_PX_INTERNAL_H
#define QBD_TESTS_PX_INTERNAL_H

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/unit/px_cluster.h"

#define CHECK(c, cond, ...) \
    do { \
        if (!(cond)) { \
            fprintf(stderr, "seed %" PRIu64 " step %" PRIu64 ": %s: ", (c)->seed, (c)->step, #cond); \
            fprintf(stderr, __VA_ARGS__); \
            fputc('\n', stderr); \
            abort(); \
        } \
    } while (0)

#define TRACE(c, ...) \
    do { \
        if ((c)->trace) { \
            fprintf(stderr, "%6" PRIu64 " ", (c)->step); \
            fprintf(stderr, __VA_ARGS__); \
            fputc('\n', stderr); \
        } \
    } while (0)

/* ---- px_message.c ---- */

struct entry *px_entry_new(struct px_cluster *c, enum entry_kind kind, uint64_t id);
struct entry *px_hold(struct entry *e);
void px_drop(struct entry *e);
struct px_msg *px_msg_copy(const struct msg *m);
void px_msg_free(struct px_msg *x);
void px_queue_free(struct list *q);
struct px_conn *px_find_conn(struct px_cluster *c, uint32_t id);
uint64_t px_clock_of(const struct px_cluster *c, int64_t skew_ppm);

/* ---- px_node.c ---- */

void px_note_chosen(struct px_cluster *c, uint64_t slot, const struct ballot *e, const struct entry *entry);
struct px_record *px_record_new(struct px_node *d, int type, uint64_t seq);
void px_run_effects(struct px_cluster *c, unsigned n);
void px_forget_values(struct px_node *d);

/* ---- px_copy.c ---- */

void px_catchup_free(struct px_catchup *u);

/* ---- px_front.c ---- */

void px_on_effect(struct proposer_sink *sink, const struct proposer_effect *e);
void px_front_step(struct px_cluster *c, unsigned i, struct proposer_event ev);

#endif
