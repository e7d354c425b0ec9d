"""The bugs that the simulator must find: one change of one source file each.

A mutation: name; the rule that it breaks (protocol.md: A1.., P1.., ST1.., "wrong n" is number n of the list at its end; store.md by
section); the file; edits, each a text that stands in the file exactly once and what is planted for it; the seeds among which one must
fail; options of qbd-sim that those seeds need.

What is not here, and why:
 - several groups of a volume (wrong 15, P6): volumes have one group yet.
 - "Reads with a ballot < promised are refused" (A8): equivalent. Such a read was sent while its front end held a quorum's leases, hence
   before any successor's first write; whatever it sees, it may be ordered before those.
 - wrong 3 "the same in reads", at the acceptor: equivalent as the front end is. It reads only on open streams, behind the Accepts of every
   slot that its watermark covers, and the replica waits until it has applied them.
 - each of wrong 4's two guards alone (A3's "m >= commit", A4's "refuse if n <= commit"): each covers for the other; committed-overwritten
   takes both away.
 - "Accepts of any link" (A4): equivalent. Under one ballot a slot has one value, whatever connection it comes on.
 - "what is pending does not survive a cut" (A5): only delays. What was cut counts as not durable until its record is.
 - "from" of a catch-up piece has the own ballot (A7): equivalent. It is the own commit, which nothing changes.
 - requests answered at a fence: nothing leaves. The connections are closed in the same turn.
 - a proposer id that survives a restart (wrong 10): nearly equivalent. A front end asks a majority before it prepares, so it uses a round
   again only if its former life got no quorum for it, hence sent no entry under it. round-used-twice plants what is not.
 - "later Beats of a released b are refused" (A8): only delays. Nobody counts a lease of a ballot that he released.
 - the generation in a read's cookie: equivalent. Each attempt is answered once, or its link ends, and with that everything that could
   still come on it.
 - waiting for START alone (store.md §2 (5)), with the flush before it kept: equivalent as long as batches are acknowledged in order and
   the lock is the data's: nothing that was read can be lost after the flush, and nothing later is acknowledged before START is durable.
   recovery-answers-early leaves out both.
 - the front end's check of block checksums (data_verify): the replica checks the same ones after its disk, and the simulated network does
   not change bytes (TCP does not either, as far as this is meant to know)."""
import collections

Mutation = collections.namedtuple("Mutation", "name rule file edits seeds options hole")
MUTATIONS = []
STORMS = ["--storms"] # for what only diverging logs show


def theme(name): # for what needs many things at once
    return ["--theme", name]


def mutation(name, rule, file, *edits, seeds=(1, 300), options=()):
    MUTATIONS.append(Mutation(name, rule, file, edits, seeds, list(options), None))


def hole(name, why, rule, file, *edits, seeds=(1, 300), options=()):
    MUTATIONS.append(Mutation(name, rule, file, edits, seeds, list(options), why))

# ---- consensus: the acceptor ----

mutation("log-by-length", "wrong 1", "consensus/paxos.c",
    ("    int c = ballot_compare(&a->e, &b->e);\n    if (c != 0)\n        return c;\n    return a->slot < b->slot ? -1 : a->slot > b->slot;",
     "    if (a->slot != b->slot)\n        return a->slot < b->slot ? -1 : 1;\n    return ballot_compare(&a->e, &b->e);"),
    options=STORMS)
mutation("open-by-length", "wrong 2", "consensus/acceptor.c",
    ("paxos_log_holds(&a->log, at) && at->slot", "at->slot <= paxos_log_last(&a->log).slot && at->slot"),
    options=theme("tails"))
mutation("watermark-by-number", "wrong 3, A6", "consensus/acceptor.c",
    ("    if (a->match_valid)\n        acceptor_commit_to(a, slot < a->match ? slot : a->match);",
     "    uint64_t last = paxos_log_last(&a->log).slot;\n    acceptor_commit_to(a, slot < last ? slot : last);"),
    options=STORMS)
mutation("open-cuts-tail", "wrong 5", "consensus/acceptor.c",
    ("    a->match_valid = true;\n    a->match = at->slot;",
     "    if (at->slot < paxos_log_last(&a->log).slot) {\n"
     "        acceptor_persist(a, fx, ACCEPTOR_CUT)->slot = at->slot + 1;\n"
     "        paxos_log_cut(&a->log, at->slot + 1);\n"
     "        uint32_t n = 0;\n"
     "        for (uint32_t i = 0; i < a->n_pending; i++)\n"
     "            if (a->pending[i].first_slot <= at->slot) {\n"
     "                a->pending[n] = a->pending[i];\n"
     "                if (a->pending[n].first_slot + a->pending[n].n > at->slot + 1)\n"
     "                    a->pending[n].n = at->slot + 1 - a->pending[n].first_slot;\n"
     "                n++;\n"
     "            }\n"
     "        a->n_pending = n;\n"
     "        acceptor_find_durable(a);\n"
     "    }\n"
     "    a->match_valid = true;\n    a->match = at->slot;"), options=theme("tails"))
mutation("promise-before-durable", "wrong 9, A1", "consensus/acceptor.c",
    ("answer(a, fx, ev, MSG_PROMISE, a->seq)", "answer(a, fx, ev, MSG_PROMISE, 0)"))
mutation("promise-not-recorded", "A1", "consensus/acceptor.c",
    ("        lease_ns = grant(a, fx, ev->now_ns, m->u.prepare.lease_ns, m->u.prepare.name, true);\n        persist_promise(a, fx);",
     "        lease_ns = grant(a, fx, ev->now_ns, m->u.prepare.lease_ns, m->u.prepare.name, true);"))
mutation("accept-below-promised", "A1, A2", "consensus/acceptor.c",
    ("    if (c != 0 || a->stream != ev->link || !e || e->slot > a->match + 1) {",
     "    if (c < 0 && a->durable_seq < a->promise_seq && e && e->slot == paxos_log_last(&a->log).slot + 1) {\n"
     "        a->match_valid = true;\n        a->match = e->slot - 1;\n        if (acceptor_take(a, fx, e)) {\n"
     "            struct msg *r = answer(a, fx, ev, MSG_ACCEPTED, a->seq);\n            r->u.accepted.through = e->slot;\n"
     "            r->u.accepted.credits = a->credits;\n        }\n        acceptor_find_durable(a);\n        a->match_valid = false;\n        return;\n    }\n"
     "    if (c != 0 || a->stream != ev->link || !e || e->slot > a->match + 1) {"),
    options=STORMS)
mutation("acknowledged-before-durable", "A5", "consensus/acceptor.c",
    ("uint64_t through = a->match < a->durable ? a->match : a->durable;", "uint64_t through = a->match;"))
mutation("no-wait-after-restart", "wrong 13, A8", "consensus/acceptor.c",
    ("        a->restart_until_ns = now_ns + a->max_lease_ns;", "        a->restart_until_ns = 0;"))
mutation("lease-not-recorded", "A8", "consensus/acceptor.c",
    ("        a->max_lease_ns = lease_ns; /*", "        a->max_lease_ns = lease_ns / 1000; /*"))
mutation("lease-ignored", "A1, A8", "consensus/acceptor.c",
    ("c < 0 || held_against(a, ev->now_ns, &m->ballot.proposer)", "c < 0"),
    ("    m->u.holder.retired = a->retired;\n    if (!h.holder)", "    m->u.holder.retired = a->retired;\n    if (true)"))

# ---- consensus: the acceptor's log ----

mutation("committed-overwritten", "wrong 4, A3, A4", "consensus/acceptor_log.c",
    ("    if (place == PLACE_OTHER && e->slot <= a->commit)", "    if (place == PLACE_OTHER && e->slot <= a->commit)\n        a->commit = a->told = e->slot - 1;\n    if (false)"),
    ("consensus/acceptor.c", "&& at->slot >= a->commit ", ""),
    options=STORMS)

mutation("apply-above-durable", "A6", "consensus/acceptor_log.c",
    ("    uint64_t slot = a->commit < a->durable ? a->commit : a->durable;\n    if (slot <= a->told)", "    uint64_t slot = a->commit;\n    if (slot <= a->told)"))
mutation("tail-kept-beside-peers-commit", "A7", "consensus/acceptor_log.c",
    ("    if (a->match_valid && a->match >= slot)\n        acceptor_drop_stream(a);", "    if (false)\n        acceptor_drop_stream(a);"), options=theme("stale"))
mutation("slot-refused-for-space", "wrong 17", "consensus/acceptor_log.c",
    ("    if (e->slot < a->log.base.slot || !put(a, fx, e))", "    if (e->slot < a->log.base.slot || (e->kind == ENTRY_WRITE && a->credits.slabs == 0) || !put(a, fx, e))"))

# ---- consensus: the proposer ----

mutation("entries-restamped", "wrong 1", "consensus/proposer_choose.c",
    ("            s->e = p->log.run[i].e;\n            s->asked",
     "            s->e = p->log.run[i].e;\n            if (s->entry && slot == last)\n                s->entry->e = s->e = p->ballot;\n            s->asked"),
    options=STORMS)
mutation("commit-of-promises-ignored", "P2", "consensus/proposer_choose.c",
    ("if (r->has_promised && r->promise_commit.slot > w.slot)", "if (r->has_promised && i == 0 && r->promise_commit.slot > w.slot)"),
    options=STORMS)
mutation("cut-where-it-may-be-chosen", "wrong 12, P3", "consensus/proposer_quorum.c",
    ("        if (n >= membership_majority(m))\n            return true;\n    }\n    return false;\n}",
     "        (void)n;\n    }\n    return false;\n}"), options=theme("rot"))
mutation("place-above-lost", "P4, A3", "consensus/proposer_stream.c", ("        m.slot = r->lost[0] - 1;", "        m.slot = r->lost[0];"),
    ("consensus/acceptor.c", " &&\n                !(a->n_lost > 0 && a->lost[0] <= at->slot);", ";"), options=theme("rot"))
mutation("resumes-after-foreign-session", "wrong 14, P7", "consensus/proposer_choose.c",
    ("    if (has_foreign_session(p, best)) {", "    if (false && has_foreign_session(p, best)) {"),
    options=STORMS)
mutation("found-writes-proposed-again", "P7", "consensus/proposer_choose.c",
    ("        s->own_found = paxos_log_holds(best, &at);", "        s->own_found = false;"),
    options=STORMS)
mutation("quorum-too-small", "P2, P5", "consensus/proposer_quorum.c",
    ("    return n >= membership_majority(m);\n}", "    return n + 1 >= membership_majority(m);\n}"))
mutation("chosen-by-one", "P5", "consensus/proposer_quorum.c",
    ("    return n == 0 ? 0 : sorted[membership_majority(m) - 1];", "    return n == 0 ? 0 : sorted[0];"))
mutation("chosen-below-session-start", "P5", "consensus/proposer_stream.c",
    ("if (n < p->session_slot || n <= p->chosen)", "if (n <= p->chosen)"))
mutation("commit-announced-early", "P5", "consensus/proposer_stream.c",
    ("e.msg.u.accept.commit = x->p->chosen;", "e.msg.u.accept.commit = x->p->next - 1;"))
mutation("acknowledgements-kept", "P5", "consensus/proposer_attach.c", ("        r->acked = r->received = r->lease_until_ns", "        r->received = r->lease_until_ns"),
    options=STORMS)
mutation("acknowledgements-of-another-ballot", "P5", "consensus/proposer.c",
    ("if (p->state < PROPOSER_PREPARING || p->state > PROPOSER_SERVING || !ballot_equal(&m->ballot, &p->ballot))",
     "if (p->state < PROPOSER_PREPARING || p->state > PROPOSER_SERVING || (m->type != MSG_ACCEPTED && !ballot_equal(&m->ballot, &p->ballot)))"), options=theme("answers"))
mutation("unplaced-taken-for-found", "P7", "consensus/proposer_attach.c",
    ("        if (!s->own_found)\n            proposer_emit_entry", "        if (false)\n            proposer_emit_entry"),
    options=STORMS)
mutation("round-used-twice", "wrong 10", "consensus/proposer_attach.c",
    ("    p->max_round++; /*", "    p->max_round += p->max_round == 0 || p->attempts == 0; /*"),
    options=STORMS)
mutation("credits-ignored", "P10", "consensus/proposer_stream.c",
    ("bool fits = need == 0 || r->credits.slabs >= unacked + need;", "bool fits = true || unacked;"))
mutation("lease-from-receipt", "wrong 13, P8", "consensus/proposer.c",
    ("uint64_t until = t_ns + lease_ns - lease_ns / 64;", "uint64_t until = x->now_ns + lease_ns;"))
mutation("lease-without-drift-bound", "P8", "consensus/proposer.c", ("t_ns + lease_ns - lease_ns / 64;", "t_ns + lease_ns;"))
mutation("reads-without-lease", "P8", "consensus/proposer.c",
    ("    if (!proposer_is_quorum(p, mask))\n        return false;\n    *ret", "    *ret"))

# ---- the replica: WAL ----

mutation("wal-write-not-durable", "store.md §1", "replica/wal.c",
    ("b->lsn % w->wal_bytes, IO_DURABLE, &b->op);", "b->lsn % w->wal_bytes, 0, &b->op);"))
mutation("batches-acknowledged-out-of-order", "A5", "replica/wal.c",
    ("    note_latency(w, b);\n", "    note_latency(w, b);\n    if (b->has_token)\n        w->cb.on_durable(w->cb.user, b->token);\n"))
mutation("answers-before-records", "durable before it is sent", "replica/replica.c",
    ("    if (e->after <= g->acceptor.durable_seq && list_empty(&g->deferred)) {", "    if (true) {"))
mutation("recovery-answers-early", "store.md §2 Recovery (4) to (6)", "replica/wal_recover.c",
    ("    r->op.fn = flushed;\n    dev_flush(w->dev, &r->op);", "    (void)flushed;\n    wal_start(w);\n    wal_started(w);"),
    ("    struct wal_recovery *r = w->recovery;\n    if (w->state == WAL_DEAD)",
     "    struct wal_recovery *r = w->recovery;\n    if (!r)\n        return;\n    if (w->state == WAL_DEAD)"))
mutation("recovery-without-flush", "store.md §2 Recovery (4)", "replica/wal_recover.c",
    ("    r->op.fn = flushed;\n    dev_flush(w->dev, &r->op);", "    (void)flushed;\n    wal_start(w);"))
mutation("lock-file", "store.md §1: the lock is the data's", "tests/sim/cluster/cluster.c", ("= sim_dev_open(", "= sim_dev_open_unlocked("),
    options=STORMS)
mutation("torn-taken-for-rot", "wrong 11", "replica/wal_recover.c",
    ("        if (!s[i].stale && s[i].durable_seq > r->proven_seq)\n            r->proven_seq = s[i].durable_seq;",
     "        if (!s[i].stale && s[i].seq > r->proven_seq)\n            r->proven_seq = s[i].seq;"))
mutation("rot-taken-for-torn", "wrong 11", "replica/wal_recover.c",
    ("        if (!good && r->next.seq > r->proven_seq) {", "        if (!good) {"))
mutation("chain-not-checked", "store.md §2 Recovery (2)", "replica/wal_recover.c",
    ("    if (b->seq != r->next.seq || b->prev_lsn != r->next.prev_lsn || b->prev_crc != r->next.prev_crc)\n        return false;\n", ""),
    ("    return b->flags & WAL_START ? b->incarnation > r->incarnation\n                                : b->incarnation == r->incarnation && b->start_lsn == r->start_lsn;",
     "    return true;"), options=theme("torn"))
mutation("payload-not-checked-at-recovery", "store.md §2 Recovery (2)", "replica/wal_recover.c",
    ("        bool good = ok && (b->flags & WAL_PAD || batch_payload_is_good(b));", "        (void)batch_payload_is_good;\n        bool good = ok;"))
mutation("promise-forgotten-at-restart", "wrong 8", "replica/store_replay.c",
    ("    if (ballot_compare(&b, &g->promised) > 0)\n        g->promised = b;", "    (void)b;"))

# ---- the replica: checkpoints, apply, write-back ----

mutation("checkpoint-forgets-promise", "wrong 8, ST1", "replica/checkpoint.c", ("    p->promised = g->promised;\n", ""))
mutation("wal-freed-before-root", "store.md §2 Checkpoint", "replica/checkpoint.c",
    ("        c->state = CYCLE_ROOT;\n        write_root(s);", "        c->state = CYCLE_ROOT;\n        wal_trim(s->wal, &c->tail, c->redo.lsn);\n        write_root(s);"))
mutation("root-not-durable", "store.md §2 Checkpoint", "replica/checkpoint.c",
    ("(r->checkpoint & 1) * BLOCK_SIZE, IO_DURABLE, &w->op);", "(r->checkpoint & 1) * BLOCK_SIZE, 0, &w->op);"))
mutation("slab-used-again-before-root", "store.md §2 Checkpoint", "replica/write_back.c",
    ("    slab_release(s, p->slab[i]);\n", "    slab_release(s, p->slab[i]);\n    slabs_promote(s);\n"))
mutation("extents-not-flushed", "store.md §2 Checkpoint", "replica/checkpoint.c",
    ("        if (!x->dirty)\n            continue;", "        if (true)\n            continue;"))
mutation("meta-not-flushed", "store.md §2 Checkpoint", "replica/checkpoint.c",
    ("        c->state = CYCLE_META_FLUSH;\n        flush_meta(s);\n        return false;", "        c->state = CYCLE_META_FLUSH;\n        (void)flush_meta;\n        return true;"))
mutation("redo-forgets-uncommitted", "ST1", "replica/checkpoint.c", ("                low = i->place.desc_lsn < low ? i->place.desc_lsn : low;\n", "                (void)i;\n"))
mutation("write-back-above-durable-commit", "store.md §2 Write-back", "replica/checkpoint.c",
    ("        if (s->durable_token < c->token || s->reads_in_flight[c->read_epoch & 1] > 0)", "        if (s->reads_in_flight[c->read_epoch & 1] > 0)"))
mutation("write-back-under-reads", "store.md §3: one instant", "replica/checkpoint.c",
    ("        if (s->durable_token < c->token || s->reads_in_flight[c->read_epoch & 1] > 0)", "        if (s->durable_token < c->token)"), options=theme("slow-reads"))
mutation("leaf-written-in-place", "store.md §2 Map", "replica/write_back.c",
    ("        unsigned bit = !(b->region->entry->place >> b->number & 1);", "        unsigned bit = b->region->entry->place >> b->number & 1;"),
    ("    b->region->entry->place ^= UINT32_C(1) << b->number;\n", ""))
mutation("frozen-before-active", "store.md §2 Apply", "replica/overlay.c", ("overlay_leaf(r, s->gen ^ k, l);", "overlay_leaf(r, s->gen ^ 1u ^ k, l);"))
mutation("zero-bit-survives-write", "store.md §2 Map", "replica/write_back.c",
    ("    uint16_t zero = (uint16_t)((slab_bits(p->zero, i) & ~(pages | refs)) | zeros);", "    uint16_t zero = (uint16_t)(slab_bits(p->zero, i) | zeros);"))
mutation("trim-forgets-overlay-page", "store.md §2 Apply", "replica/overlay.c",
    ("    if (n < LEAF_BLOCKS || o->n_pages > 0 || o->n_refs > 0) {", "    if (n < LEAF_BLOCKS) {"))
mutation("slab-freed-while-half-full", "store.md §2 Space", "replica/write_back.c",
    ("zero == 0xffff && trims && !bad && !lost)", "(zero & 0xff) == 0xff && trims && !bad && !lost)"))
mutation("repair-with-older-block", "wrong 16, ST3", "replica/store_repair.c",
    ("    if (w->image_slot < b->since)\n        return -ERANGE;", "    if (false)\n        return -ERANGE;"), options=theme("repair"))
mutation("repair-too-early", "ST3", "replica/store_repair.c", ("    if (g->applied < w->image_slot)\n        return -EAGAIN;", ""), options=theme("repair"))
mutation("checksum-made-by-replica", "store.md §2: front end's CRCs", "replica/store_read.c",
    ("        if (!bit_get(r->zero, i) && (failed || crc32c(r->buf->data + (size_t)i * BLOCK_SIZE, BLOCK_SIZE) != r->crc[i]))\n            bit_set(r->bad, i);",
     "        if (failed)\n            bit_set(r->bad, i);\n        else\n            r->crc[i] = crc32c(r->buf->data + (size_t)i * BLOCK_SIZE, BLOCK_SIZE);"))
mutation("cached-page-taken-for-damage", "store.md §3: the disk is asked before it is damage", "replica/store_read.c",
    ("    if (f->op.result >= 0 && is_intact(f))\n        return true;",
     "    verify(f->reading->r, f->first, f->n, f->op.result < 0);\n    if (f->first < 256)\n        return true;"))
mutation("scrub-through-the-cache", "store.md §3: scrubs ask what is on the disk", "replica/store_scrub.c",
    ("    dev_read(d, &k->iov, 1, off, &k->op);", "    dev_read_cached(d, &k->iov, 1, off, &k->op);"), options=theme("scrub"))

# ---- the scrub ----

mutation("scrub-unequal-slots", "docs/rebuild.md section 9", "replica/scrub_compare.c",
    ("    return changed_a <= applied_b && changed_b <= applied_a;", "    return true;"), ("    return from <= to;", "    return from <= to || true;"),
    options=theme("scrub"))
mutation("scrub-overlay-unseen", "docs/rebuild.md section 9", "replica/store_digest.c",
    ("        uint64_t at = r ? chunk_changed_at(r, l, c, p) : 0;", "        uint64_t at = p ? p->changed_at[c] : 0;"),
    ("    c->changed_at = r ? chunk_changed_at(r, l, k, p) : 0;", "    c->changed_at = p ? p->changed_at[k] : 0;"), options=theme("scrub"))

# ---- the replica: peers ----

mutation("read-before-applied", "P8", "replica/serve_read.c", ("    if (store_applied(r->store, g->id) >= p->watermark) {", "    if (true) {"), options=STORMS, seeds=(1, 900))
mutation("catch-up-asks-known-voters-alone", "A7", "replica/peer.c",
    ("    return g->catchup.anybody || membership_has_voter(", "    return membership_has_voter("), seeds=(1, 1500), options=theme("members")) # down while all the others were replaced
mutation("donates-uncommitted", "A7", "replica/catchup.c", ("        .through = g->acceptor.commit,", "        .through = paxos_log_last(&g->acceptor.log).slot,"))

# ---- memberships: who votes, and who is complete ----

mutation("wiped-disk-answers-as-before", "wrong 18", "replica/replica.c",
    ("    r->superblock = *o->superblock;\n",
     "    r->superblock = *o->superblock;\n    for (uint32_t i = 0; i < o->config->n_replicas; i++)\n        if (strcmp(o->config->replicas[i].name, r->superblock.name) == 0)\n"
     "            r->superblock.identity = o->config->replicas[i].identity;\n"), options=theme("members"))
mutation("message-for-another-disk-taken", "wrong 18", "replica/session.c",
    ("    return uuid_equal(&m->target, &s->replica->superblock.identity);", "    (void)m;\n    return s != NULL;"),
    ("replica/replica.c", "? want->slot != 0 : !has_learner(want, &r->superblock.identity))", "? want->slot != 0 : false)"), options=theme("members"))
mutation("learner-votes-before-it-is-complete", "wrong 7, P9", "consensus/proposer_stream.c",
    ("    if (r->needs_copy) {\n        *why = \"a new voter is not complete: its copy is under way\";\n        return -ENODATA;\n    }\n", ""),
    ("    return r->acked == p->next - 1 ? 0 : -EAGAIN;\n}", "    return 0;\n}"),
    ("tools/rebuild.c", '    return json_is_true(json_object_get(r->group, "complete"));', "    return true;"), options=theme("members"))
mutation("stale-membership-at-attach", "P2", "consensus/proposer_choose.c",
    ("if (tells_membership(p, i) && (!p->has_membership || r->memberships[0].slot > p->committed.slot))", "if (tells_membership(p, i) && !p->has_membership)"),
    ("    if (m->slot <= p->committed.slot || (p->has_uncommitted && m->slot == p->uncommitted.slot))\n        return;", "    return;"),
    ("consensus/proposer_attach.c", "(!x->p->has_membership || who->slot > x->p->committed.slot)) {", "!x->p->has_membership) {"), options=theme("members"))
mutation("new-voters-alone-before-they-are-chosen", "wrong 6", "consensus/proposer_quorum.c",
    ("    return is_majority(p, 0, mask) && (!p->has_uncommitted || is_majority(p, 1, mask));", "    return is_majority(p, p->has_uncommitted, mask);"),
    ("    uint64_t v = majority_value(p, 0, value);\n    if (p->has_uncommitted) {", "    uint64_t v = majority_value(p, p->has_uncommitted, value);\n    if (false) {"), options=theme("members"))
mutation("old-voters-alone-until-they-are-replaced", "P9", "consensus/proposer_quorum.c",
    ("    return is_majority(p, 0, mask) && (!p->has_uncommitted || is_majority(p, 1, mask));", "    return is_majority(p, 0, mask);"),
    ("    if (p->has_uncommitted) {\n        uint64_t u", "    if (false) {\n        uint64_t u"), options=theme("members"))
mutation("uncommitted-voters-of-the-log-ignored", "P2", "consensus/proposer_choose.c",
    ("    } else if (!p->has_uncommitted) {\n        proposer_set_membership(p, true, m);", "    } else if (!p->has_uncommitted) {\n        (void)m;"), options=theme("members"))
mutation("lease-of-the-old-voters-alone", "wrong 13, P9", "consensus/proposer.c",
    ("    if (!proposer_is_quorum(p, mask))\n        return false;\n    *ret",
     "    static struct proposer old;\n    old = *p;\n    old.has_uncommitted = false;\n    if (!proposer_is_quorum(&old, mask))\n        return false;\n    *ret"), seeds=(1, 600), options=theme("members"))
mutation("voters-changed-before-all-is-chosen", "P9", "consensus/proposer_stream.c",
    ('    *why = "the entries under way are not chosen yet";\n    if (p->chosen != p->next - 1)\n        return -EAGAIN;\n', ""),
    ("p->replica[i].acked == p->next - 1;", "p->replica[i].acked + 8 >= p->next;"),
    ("    return r->acked == p->next - 1 ? 0 : -EAGAIN;\n}", "    return r->acked + 8 >= p->next ? 0 : -EAGAIN;\n}"), options=theme("members"))
mutation("learner-counts", "Quorum Q", "consensus/proposer_quorum.c",
    ("    for (uint32_t v = 0; v < m->n_voters; v++) {\n        uint8_t i = p->voter_link[which][v];\n        uint64_t x = i == PROPOSER_NOBODY ? 0 : value[i];",
     "    for (uint32_t v = 0; v < p->params.n_replicas && v < MEMBERS_MAX; v++) {\n        uint64_t x = value[v];"), options=theme("members"))
mutation("promise-of-an-incomplete-one-counts", "docs/rebuild.md section 5", "consensus/proposer_choose.c",
    ("(p->replica[i].has_promised && !p->replica[i].needs_copy) << i;", "p->replica[i].has_promised << i;"), options=theme("copy"))
mutation("acknowledgement-of-an-incomplete-one-counts", "docs/rebuild.md section 5", "consensus/proposer_stream.c",
    ("    if (!r->needs_copy && through > r->acked) {", "    if (through > r->acked) {"),
    ("consensus/proposer.c", "(!r->needs_copy || r->acked == 0)", "true"), options=theme("copy"))
mutation("lease-of-an-incomplete-one-counts", "docs/rebuild.md section 5", "consensus/proposer.c",
    ("(now_ns < p->replica[i].lease_until_ns && !p->replica[i].needs_copy) << i;", "(now_ns < p->replica[i].lease_until_ns) << i;"), options=theme("copy"))
mutation("counts-before-the-root", "ST4", "replica/copy.c",
    ("    store_copy_complete(g->replica->store, g->id, on_complete, g);",
     "    store_copy_complete(g->replica->store, g->id, on_complete, g);\n    struct acceptor_event ev = {.type = ACCEPTOR_COMPLETE};\n    replica_step(g, &ev);"), options=theme("copy"))
mutation("lists-at-the-commit", "docs/rebuild.md section 3", "replica/donate.c",
    ("    if (status != DONOR_OK)\n        refuse_listing(s, g, m, status);\n    else",
     "    if (status == DONOR_OK)\n        at = acceptor_commit_pos(&g->acceptor);\n    if (status != DONOR_OK)\n        refuse_listing(s, g, m, status);\n    else"), seeds=(1, 1200), options=theme("members"))
mutation("donates-while-incomplete", "ST4, docs/rebuild.md invariant V", "replica/donate.c",
    ("    if (g->acceptor.needs_copy) {\n        MARK(\"donate: asked", "    if (false) {\n        MARK(\"donate: asked"), options=theme("copy"))
mutation("checkpoint-forgets-who-votes", "ST1", "replica/checkpoint.c", ("    p->committed = g->committed;\n", "    if (g->committed.slot == 0)\n        p->committed = g->committed;\n"), options=theme("members"))
mutation("jump-keeps-the-old-voters", "docs/rebuild.md section 3", "consensus/acceptor_log.c", ("    if (m->slot > a->committed.slot)\n        acceptor_set_committed(a, m);\n    if (a->has_unc", "    if (a->has_unc"), seeds=(1, 900), options=theme("members"))
mutation("done-when-one-voter-knows", "docs/rebuild.md section 6", "tools/rebuild_plan.c", ("    return n >= b->members.n_voters / 2u + 1;", "    return n > 0;"),
    ("nbdserver/volume_members.c", "    return n >= membership_majority(&p->committed);", "    return n > 0;"), options=theme("members"))

# ---- large writes (docs/large-writes.md) ----

mutation("acknowledged-before-the-slabs", "docs/large-writes.md, invariant 1", "replica/wal.c",
    ("        if (b->holds > 0) {\n            MARK(\"wal: batch done before the slabs that it refers to\");\n            break;\n        }\n", ""))
mutation("replaced-slab-free-at-once", "docs/large-writes.md, invariant 3", "replica/write_back.c",
    ("        slab_release(s, old);", "        bit_clear(s->used, old);\n        s->slabs_free++;\n        s->slab_cursor = old;"))
mutation("dropped-slab-free-at-once", "docs/large-writes.md, invariant 3", "replica/large.c",
    ("    if (s->n_dropped[gen] == s->cap_dropped[gen]) {",
     "    if (s->ready) {\n        kept_forget(s, slab);\n        slab_settle(s, slab);\n        bit_clear(s->used, slab);\n        s->slabs_free++;\n        s->slab_cursor = slab;\n"
     "        return;\n    }\n    if (s->n_dropped[gen] == s->cap_dropped[gen]) {"))
mutation("recovery-trusts-references", "docs/large-writes.md section 5", "replica/wal_recover.c",
    ("b->seq > vouched && batch_refers(b);", "b->seq > vouched && batch_refers(b) && r->refs.done;"), seeds=(1, 900), options=theme("torn"))
mutation("reference-taken-for-torn", "docs/large-writes.md section 5", "replica/wal_recover.c",
    ("b->seq > vouched && batch_refers(b);", "b->seq > r->vouched_seq && batch_refers(b);"),
    ("        if (!good && r->next.seq > r->proven_seq) { /* a torn tail */", "        if (!good && (r->next.seq > r->proven_seq || refers)) { /* a torn tail */"))
hole("slab-of-a-cut-entry-free-while-written", "entries are hardly ever cut within the millisecond in which their slabs are written; unit/test_store_large sees it",
    "docs/large-writes.md, invariant 4", "replica/large.c",
    ("        w->cut = true;\n", "        for (uint32_t k = 0; k < ref->n; k++)\n            large_drop_slab(s, ref->slab[k]);\n        large_release_dropped(s, s->gen);\n        slabs_promote(s);\n        w->cut = true;\n        w->ref.n = 0;\n        s->slab_cursor = ref->slab[0];\n"), options=theme("tails"))
mutation("slab-of-a-cut-entry-kept", "docs/large-writes.md, invariant 4", "replica/large.c",
    ("    } else if (ref->owned) {", "    } else if (ref->owned && !s->ready) {"))
mutation("gap-written-over-a-reference", "docs/large-writes.md section 4", "replica/write_back.c",
    ("    if (ref)\n        map_ref(s, b->region, b->number, p, i, ref);\n    bool fresh = p->slab[i] == SLAB_NONE; /* not one that a large write filled */\n",
     "    bool fresh = p->slab[i] == SLAB_NONE;\n    if (ref) {\n        fresh = true;\n        map_ref(s, b->region, b->number, p, i, ref);\n    }\n"),
    ("    if (pages && fresh && !map_slab", "    if (pages && fresh && !ref && !map_slab"))
mutation("value-of-a-slab-in-use", "docs/large-writes.md, invariant 6", "replica/large_value.c",
    ("    list_for_each(n, &s->value_reads)\n    {\n        const struct slot_ref *ref", "    if (s->ready)\n        return false;\n    list_for_each(n, &s->value_reads)\n    {\n        const struct slot_ref *ref"))
mutation("loose-slab-in-the-bitmap", "docs/large-writes.md, invariant 2", "replica/slabs.c",
    ("(uint8_t)~(s->pending[off + i] | s->loose[off + i]);", "(uint8_t)~s->pending[off + i];"))

# ---- the front end ----

mutation("answered-when-sent", "P5", "nbdserver/volume_write.c",
    ("        if (op->slot > g->chosen)\n            break;", "        if (op->slot >= g->proposer->next)\n            break;"))
mutation("unplaced-in-wrong-order", "P7", "nbdserver/volume_write.c",
    ("        list_push_front(&g->queue, last);", "        list_push_back(&g->queue, last);"), options=theme("answers"))
mutation("sub-block-without-lock", "store.md §2: read-modify-write", "nbdserver/volume_write.c",
    ("op->block, op->nblocks, op->sub_block, op_granted))", "op->block, op->nblocks, false, op_granted))"),
    ("    block_lock_downgrade(&g->locks, &op->lock);\n", ""))
mutation("lock-released-before-queue", "store.md §2: read-modify-write", "nbdserver/block_lock.c",
    ("    l->blockers = count_overlapping(&t->exclusive, l);\n    if (exclusive)\n        l->blockers += count_overlapping(&t->shared, l);",
     "    l->blockers = count_overlapping(&t->exclusive, l);"),
    ("    list_remove(&l->link);\n    unblock(&t->exclusive, l);\n    if (l->exclusive)\n        unblock(&t->shared, l);",
     "    bool was_exclusive = l->exclusive;\n    list_remove(&l->link);\n    if (was_exclusive) {\n        unblock(&t->exclusive, l);\n        unblock(&t->shared, l);\n    }"))
mutation("trim-rounds-outward", "docs/nbd.md", "nbdserver/volume_write.c",
    ("        if (first < last)\n            cut_range(v, r, ENTRY_TRIM, first, last - first);",
     "        if (first <= last)\n            cut_range(v, r, ENTRY_TRIM, at / BLOCK_SIZE, (end + BLOCK_SIZE - 1) / BLOCK_SIZE - at / BLOCK_SIZE);"))
mutation("read-without-watermark", "P8", "nbdserver/volume_read.c", ("    m.u.read.watermark = watermark;", "    m.u.read.watermark = 0;"))
mutation("zero-gaps-not-filled", "store.md §3", "nbdserver/volume_read.c", ("            memset(at, 0, BLOCK_SIZE);\n        else\n            memmove", "            (void)at;\n        else\n            memmove"))
