/* A run told to people: who sent what to whom, what became durable and what was chosen, what happened to processes, connections and disks, what clients asked and what they were answered. */
#ifndef QBD_TESTS_SIM_CLUSTER_TRACE_H
#define QBD_TESTS_SIM_CLUSTER_TRACE_H

#include "tests/sim/cluster/run.h"

struct trial;
struct request;
struct trace;

/* NULL when nothing is to be told; all others take that. raw: the simulator's own events as well. */
struct trace *trace_new(struct trial *r, const struct run_options *o);
void trace_free(struct trace *t);
/* Tells what has changed in replicas and front ends since the last look. */
void trace_look(struct trace *t);
/* A client's request: ASKED, ANSWERED (also with an error), or LOST with its connection. */
enum trace_request { TRACE_ASKED, TRACE_ANSWERED, TRACE_LOST };
void trace_request(struct trace *t, const struct request *q, enum trace_request what);

#endif
