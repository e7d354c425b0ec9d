/* The protocol's core as a model for spin: rules A1-A7 and P2-P5, P7 of the protocol (docs/consistency.md), N = 3
 * acceptors, one group, ballots 1..3, slots 1..S. tests/model/run checks it; docs/testing.md, "The model", says what is
 * in it, what is not, and how far it was searched.
 *
 * Nothing is queued. A message that was sent may arrive late, twice or never, on whatever connection; here that is:
 * what a ballot's proposer has once sent may be taken by an acceptor at any later time, any number of times. So
 *  - a proposer that dies is one that takes no further step (its messages stay), a lost message one that nobody takes;
 *  - a step that takes a message and answers it is one step, and the answer counts at once: whoever would hear it
 *    later could have waited (every other step of a proposer is a choice, too);
 *  - every ballot asks for promises from the start, and no lease keeps it from getting them;
 *  - catch-up brings what is chosen, as if some peer had always heard that it is.
 * A disk write and the answer that waits for it are one step as well: what a crash in between would leave is what the
 * acceptor was before the message. What is volatile (commit, match) is lost in a crash, what is durable stays.
 *
 * What always holds is asserted where it could first fail (chosen, choose, commit_next, and sane after every step).
 * With MUTATION_x, one of the protocol's wrong rules is planted and only what a client could notice is asserted. */

#ifndef S
#define S 4
#endif
#ifndef B
#define B 3
#endif
#define N 3
#define MAJORITY 2
#define NONE 7 /* no match: no stream was opened under the promised ballot */

/* An entry: the ballot of first proposal (e), its value, and whether the value is lost to rot here. A value is named by
 * the ballot and the slot that it was first given: without a mutation or a second try (P7) it follows from e. */
#if B <= 3
#define LOST 128
#define entry(e, vb, vs) ((e) + 4 * (vb) + 16 * (vs))
#define E(x) ((x) & 3)
#define VALUE(x) (((x) & 127) >> 2)
#define VB(x) (((x) >> 2) & 3)
#define VS(x) (((x) >> 4) & 7)
#else /* up to 7 ballots, without LOST entries, and values by their ballot and slot & 3 */
#define LOST 256
#define entry(e, vb, vs) ((e) + 8 * (vb) + 64 * ((vs) & 3))
#define E(x) ((x) & 7)
#define VALUE(x) ((x) >> 3)
#define VB(x) (((x) >> 3) & 7)
#define VS(x) ((x) >> 6)
#endif

/* 10: the third proposer is the second one's process, restarted, and its ballot is the same. */
#ifdef MUTATION_10
#define BALLOT(b) ((b) == 3 -> 2 : (b))
#else
#define BALLOT(b) (b)
#endif
/* P7: the third ballot is the first one's process, that tries again. */
#ifdef RETRY
#define PROCESS(b) ((b) == 3 -> 1 : (b))
#else
#define PROCESS(b) (b)
#endif

typedef acceptor {
    byte promised;   /* durable */
    byte last;       /* durable: the log is slots 1..last */
    byte log[S + 1];
    byte commit;
    byte match;      /* match[promised], or NONE */
    byte ack[B + 1]; /* the most that was ever acknowledged to ballot b's proposer, where it may still count (P5); in
                        [0]: bit b: it holds our promise and has not yet chosen a log */
#ifdef MUTATION_1A
    byte contact;    /* the ballot of the last Open or Accept */
#endif
#ifdef MUTATION_5
    bool fresh;      /* opened, and no Accept came yet */
#endif
}
typedef proposer {
    byte start;      /* the session start's slot; 0: it collects promises, and log is the best one so far */
    byte last;
    byte log[S + 1];
    byte w;          /* the highest commit among the promises */
    byte chosen;     /* the highest slot acknowledged by a majority, >= start; 0: none */
#ifdef MUTATION_1A
    byte contact;    /* of the best log */
#endif
}
/* Which states settle() may merge rests on the rules, so most mutations do without it. */
#ifndef MUTATION
#define SETTLE
#endif
#ifdef RETRY
#define SETTLE_KEEPS 1 /* what the process may try again */
#else
#define SETTLE_KEEPS 0
#endif
#ifdef ROT
typedef row { byte log[S + 1]; }
typedef snapshots { row from[N]; }
snapshots snap[B]; /* what the promises showed, while a ballot collects them */
byte rotten;       /* how many entries may still rot */
#endif

acceptor acc[N];
proposer pro[B];
#define A(a) acc[a]
#define P(b) pro[(b) - 1]

/* What is known to the model only: the chosen entries. */
byte chosen_log[S + 1];

byte names; /* only where a counter-example is printed: which acceptor is which, see canonical */
byte i, j, x, y, top, second; /* 0 between steps */

#ifdef MUTATION
#define STRUCTURE(c) skip /* only what a client could notice */
#else
#define STRUCTURE(c) assert(c)
#endif

/* ---- fewer states: of those that can't differ in what follows, only one is searched ---- */

#ifdef PLAIN
#define CANONICAL skip
#else
#define CANONICAL c_code { canonical(); }
c_code {
extern int readtrail; /* of pan: it replays a counter-example */
/* What can make no difference any more is cleared: a ballot above which every acceptor has promised, promises to a ballot
 * that can't get a majority of them, the one acknowledgement that no other can join. */
static void settle(int b)
{
    struct proposer *p = &now.pro[b - 1];
    int open = 0, votes = 0;
    for (int a = 0; a < N; a++) {
        int may = now.acc[a].promised <= b;
        open += may;
        votes += may || (now.acc[a].ack[0] >> b & 1);
    }
    for (int a = 0; a < N; a++)
        if (open - (now.acc[a].promised <= b) == 0)
            now.acc[a].ack[b] = 0;
    if (p->start == 0 ? votes >= MAJORITY : open > 0 || (SETTLE_KEEPS == b))
        return;
    for (int a = 0; a < N; a++)
        now.acc[a].ack[0] &= ~(1 << b);
    memset(p, 0, sizeof *p);
#ifdef ROT
    memset(&now.snap[b - 1], 0, sizeof now.snap[b - 1]);
#endif
}

/* Acceptors are alike: they are kept in one order. Where a counter-example is replayed, `names` follows them: two bits
 * for each place, 0 in all is "nobody has moved". */
static void in_order(int a, int b)
{
    struct acceptor t;
    if (memcmp(&now.acc[a], &now.acc[b], sizeof t) <= 0)
        return;
    t = now.acc[a]; now.acc[a] = now.acc[b]; now.acc[b] = t;
    if (readtrail) {
        int other = (now.names >> 2 * a & 3) ^ a ^ (now.names >> 2 * b & 3) ^ b;
        now.names ^= other << 2 * a ^ other << 2 * b;
    }
#ifdef ROT
    for (int k = 0; k < B; k++) {
        struct row r = now.snap[k].from[a];
        now.snap[k].from[a] = now.snap[k].from[b]; now.snap[k].from[b] = r;
    }
#endif
}

static void canonical(void)
{
#ifdef SETTLE
    for (int b = 1; b <= B; b++)
        settle(b);
#endif
    in_order(0, 1); in_order(1, 2); in_order(0, 1);
}
}
#endif
#define NAME(a) ((((names >> (2 * (a))) & 3) ^ (a)) + 1)

/* ---- what always holds ---- */

/* Matching: equal e at a slot means equal logs up to it. */
inline matching(f, g)
{
    x = 0; /* above the highest slot of equal e nothing is said */
    for (i : 1 .. S) {
        j = S + 1 - i;
        if
        :: E(f.log[j]) != 0 && E(f.log[j]) == E(g.log[j]) -> x = 1
        :: else
        fi;
        assert(x == 0 || VALUE(f.log[j]) == VALUE(g.log[j]) && E(f.log[j]) == E(g.log[j]));
    }
}

/* After every step without a mutation: the state as a whole. */
inline sane()
{
    matching(A(0), A(1));
    matching(A(1), A(2));
    matching(A(0), A(2));
    for (j : 0 .. N - 1) {
        /* Commit never goes beyond what is chosen, nor is what stands there another entry, or cut. */
        assert(A(j).commit <= A(j).last);
        assert(A(j).match == NONE || A(j).match <= A(j).last);
        for (i : 1 .. A(j).commit) {
            assert(chosen_log[i] != 0 && (A(j).log[i] & (LOST - 1)) == chosen_log[i]);
        }
        for (i : 1 .. S) {
            assert((A(j).log[i] != 0) == (i <= A(j).last));
        }
    }
    i = 0; j = 0; x = 0; y = 0;
    CANONICAL
}

/* The end of every step. */
#ifdef MUTATION
#define DONE i = 0; j = 0; x = 0; y = 0; CANONICAL
#else
#define DONE skip
#endif

/* An entry of session b's log at slot i is chosen. */
inline chosen_at(b, at)
{
    if
    :: chosen_log[at] == 0 -> chosen_log[at] = P(b).log[at]
    :: else ->
        if
        :: VALUE(chosen_log[at]) != VALUE(P(b).log[at]) ->
            printf("LOST WRITE: in slot %d the entry first proposed by proposer %d in slot %d was chosen, now proposer %d's of slot %d is\n",
                at, VB(chosen_log[at]), VS(chosen_log[at]), VB(P(b).log[at]), VS(P(b).log[at]));
            assert(false)
        :: else
        fi;
        STRUCTURE(chosen_log[at] == P(b).log[at])
    fi;
    /* No ghost: nothing comes after the entries of a later session of another process. */
    for (j : 1 .. at - 1) {
        if
        :: VB(chosen_log[j]) > VB(chosen_log[at]) && PROCESS(VB(chosen_log[j])) != PROCESS(VB(chosen_log[at])) ->
            printf("GHOST: the write of proposer %d is chosen in slot %d, after proposer %d's session in slot %d\n",
                VB(chosen_log[at]), at, VB(chosen_log[j]), j);
            assert(false)
        :: else
        fi;
        if
        :: VALUE(chosen_log[j]) == VALUE(chosen_log[at]) ->
            printf("TWICE: the write of proposer %d in slot %d is chosen in slot %d as well\n",
                VB(chosen_log[at]), j, at);
            assert(false)
        :: else
        fi;
    }
}

/* P5: n is chosen iff n >= the own session start and a majority acknowledged >= n under the own ballot; then everything
 * <= n is. The proposer knows it as soon as it is so: that it could learn it later adds nothing that it could do. */
inline count_acks(b)
{
    top = 0; second = 0;
    for (i : 0 .. N - 1) {
        if
        :: A(i).ack[b] >= top -> second = top; top = A(i).ack[b]
        :: A(i).ack[b] < top && A(i).ack[b] > second -> second = A(i).ack[b]
        :: else
        fi;
    }
    if
#ifdef MUTATION_P5
    :: second > P(b).chosen && second > P(b).w ->
#else
    :: second > P(b).chosen && second >= P(b).start ->
#endif
        P(b).chosen = second;
        for (i : 0 .. N - 1) {
            if
            :: A(i).ack[b] <= second -> A(i).ack[b] = 0 /* says nothing any more */
            :: else
            fi;
        }
        printf("    a majority has acknowledged it: slots <= %d are chosen under ballot %d\n", second, BALLOT(b));
        for (i : 1 .. second) {
            chosen_at(b, i);
        }
#ifndef MUTATION
        /* Chosen is never lost: every later session's log has it. */
        for (j : b + 1 .. B) {
            if
            :: P(j).start != 0 ->
                for (i : 1 .. second) {
                    assert(P(j).log[i] == P(b).log[i]);
                }
            :: else
            fi;
        }
#endif
    :: else
    fi;
    top = 0; second = 0;
}

/* ---- acceptors ---- */

/* A promise or a higher ballot ends the stream of a lower one. */
inline raise(a, b)
{
    if
    :: A(a).promised < BALLOT(b) -> A(a).promised = BALLOT(b); A(a).match = NONE
    :: else
    fi;
}

/* A1 and P2: a promises b and lists its log; the best log by (e of the last entry, length) is kept, and the highest
 * commit. Only the first promise of each acceptor counts. */
inline promise(a, b)
{
    printf("acceptor %d promises ballot %d to proposer %d: its log has %d entries, the last of ballot %d; commit %d\n",
        NAME(a), BALLOT(b), b, A(a).last, E(A(a).log[A(a).last]), A(a).commit);
#ifndef MUTATION_9
    raise(a, b);
#endif
    A(a).ack[0] = A(a).ack[0] | (1 << b);
    if
#ifdef MUTATION_1A
    :: A(a).contact > P(b).contact || (A(a).contact == P(b).contact && A(a).last > P(b).last) ->
        P(b).contact = A(a).contact;
#else
    :: E(A(a).log[A(a).last]) > E(P(b).log[P(b).last]) ||
       (E(A(a).log[A(a).last]) == E(P(b).log[P(b).last]) && A(a).last > P(b).last) ->
#endif
        P(b).last = A(a).last;
        for (i : 1 .. S) {
            P(b).log[i] = A(a).log[i];
        }
    :: else
    fi;
    if
    :: A(a).commit > P(b).w -> P(b).w = A(a).commit
    :: else
    fi;
#ifdef ROT
    for (i : 1 .. S) {
        snap[b - 1].from[a].log[i] = A(a).log[i];
    }
#endif
}

/* Nothing is LOST up to slot m. */
#ifdef ROT
#define no_lost(a, m) (!((m) >= 1 && A(a).log[1] >= LOST) && !((m) >= 2 && A(a).log[2] >= LOST) && \
    !((m) >= 3 && A(a).log[(S >= 3 -> 3 : 0)] >= LOST) && !((m) >= 4 && A(a).log[(S >= 4 -> 4 : 0)] >= LOST) && \
    !((m) >= 5 && A(a).log[(S >= 5 -> 5 : 0)] >= LOST))
#else
#define no_lost(a, m) true
#endif

/* A3: Open at m is fine iff the own entry there has the same ballot, nothing is LOST up to it, and m >= commit; P4: m
 * >= W, and the proposer asks at the highest such m. With OLD_OPENS it may be any, at any time: an old connection's Open
 * comes late. */
#define eq(a, b, n) ((n) <= A(a).last && (n) <= P(b).last && E(A(a).log[n]) == E(P(b).log[n]) && no_lost(a, n))
#define eq1(a, b) (eq(a, b, 1) -> 1 : 0)
#define eq2(a, b) (eq(a, b, 2) -> 2 : eq1(a, b))
#if S == 2
#define highest_eq(a, b) eq2(a, b)
#elif S == 3
#define highest_eq(a, b) (eq(a, b, 3) -> 3 : eq2(a, b))
#elif S == 4
#define highest_eq(a, b) (eq(a, b, 4) -> 4 : (eq(a, b, 3) -> 3 : eq2(a, b)))
#else
#define highest_eq(a, b) (eq(a, b, 5) -> 5 : (eq(a, b, 4) -> 4 : (eq(a, b, 3) -> 3 : eq2(a, b))))
#endif
#ifdef MUTATION_2
/* 0 +: spin does not parse a name after the arrow, in an argument */
#define place(a, b) (A(a).last < P(b).last -> 0 + A(a).last : 0 + P(b).last)
#define fine(a, b, m) ((m) <= A(a).last)
#else
#define place(a, b) highest_eq(a, b)
#define fine(a, b, m) eq(a, b, m)
#endif
#ifdef MUTATION_4
#define may_stand(a, m) true
#else
#define may_stand(a, m) ((m) >= A(a).commit)
#endif
#ifdef MUTATION_5
#define FRESHEN(a) || !A(a).fresh
#else
#define FRESHEN(a)
#endif
#define may_open(a, b) (P(b).start != 0 && A(a).promised <= BALLOT(b))
#define can_open(a, b) (may_open(a, b) && (A(a).promised < BALLOT(b) || A(a).match == NONE) && \
    place(a, b) >= P(b).w && may_stand(a, place(a, b)))
#define can_open_at(a, b, m) (may_open(a, b) && (A(a).promised < BALLOT(b) || A(a).match != (m) FRESHEN(a)) && \
    (m) >= P(b).w && (m) <= P(b).last && fine(a, b, m) && may_stand(a, m))

inline acknowledge(a, b)
{
    if
#ifdef MUTATION_P5
    :: A(a).match > A(a).ack[b] && A(a).match > P(b).chosen ->
#else
    :: A(a).match > A(a).ack[b] && A(a).match > P(b).chosen && A(a).match >= P(b).start ->
#endif
        A(a).ack[b] = A(a).match
    :: else
    fi;
    count_acks(b);
}

inline open(a, b, m)
{
    y = m;
    printf("proposer %d opens acceptor %d at slot %d (entry of ballot %d), which acknowledges through %d\n", b, NAME(a), y,
        E(P(b).log[y]), y);
    raise(a, b);
    A(a).match = y;
#ifdef MUTATION_1A
    A(a).contact = b;
#endif
#ifdef MUTATION_5
    A(a).fresh = true;
#endif
    acknowledge(a, b);
}

inline cut_above(a, n)
{
    for (i : n + 1 .. S) {
        A(a).log[i] = 0;
    }
    A(a).last = n;
}

/* A4: the slot behind the match; the same e is kept (a LOST one is filled), another is replaced, with everything above,
 * unless it is committed. Duplicates and gaps change nothing: they are not steps. A5: the answer. */
#ifdef MUTATION_4
#define may_replace(a, n) true
#else
#define may_replace(a, n) ((n) > A(a).commit)
#endif
/* Serving: the session start is chosen (P6). Of the retry's process, the first ballot is not used any more. */
#define serving(b) (P(b).start != 0 && P(b).chosen >= P(b).start)
#ifdef RETRY
#define stopped(b) ((b) == 1 && (P(3).start != 0 || has_promise(3)))
#define has_promise(b) (bit(0, b) + bit(1, b) + bit(2, b) > 0)
#else
#define stopped(b) false
#endif
/* A write that nobody has taken changes nothing: it is proposed when the first acceptor takes it. */
#define has_next(a, b) (A(a).match < P(b).last || A(a).match == P(b).last && P(b).last < S && serving(b) && !stopped(b))
#define can_accept(a, b) (P(b).start != 0 && A(a).promised == BALLOT(b) && A(a).match < S && has_next(a, b) && \
    (E(A(a).log[A(a).match + 1]) == E(P(b).log[A(a).match + 1]) || may_replace(a, A(a).match + 1)))

inline accept(a, b)
{
    y = A(a).match + 1;
    if
    :: y > P(b).last ->
        printf("proposer %d proposes a write in slot %d\n", b, y);
        P(b).last = y;
        P(b).log[y] = entry(BALLOT(b), b, y)
    :: else
    fi;
    if
    :: E(A(a).log[y]) == E(P(b).log[y]) ->
        printf("acceptor %d takes slot %d from proposer %d: it has the entry of ballot %d already\n", NAME(a), y, b,
            E(P(b).log[y]));
#ifdef MUTATION_5
        if
        :: A(a).fresh && A(a).last > y ->
            printf("    and cuts what follows (slots %d to %d), for this is the first Accept of the stream\n", y + 1,
                A(a).last);
            cut_above(a, y)
        :: else
        fi;
#endif
        A(a).log[y] = A(a).log[y] & (LOST - 1)
    :: else ->
        if
        :: A(a).last >= y ->
            printf("acceptor %d takes slot %d from proposer %d: an entry of ballot %d, for which it cuts slots %d to %d\n",
                NAME(a), y, b, E(P(b).log[y]), y, A(a).last)
        :: else ->
            printf("acceptor %d takes slot %d from proposer %d: an entry of ballot %d\n", NAME(a), y, b, E(P(b).log[y]))
        fi;
        cut_above(a, y);
        A(a).log[y] = P(b).log[y]
    fi;
    A(a).match = y;
#ifdef MUTATION_1A
    A(a).contact = b;
#endif
#ifdef MUTATION_5
    A(a).fresh = false;
#endif
    acknowledge(a, b);
}

/* What is about to be committed by a has to be chosen. */
inline committed(a)
{
    if
    :: chosen_log[A(a).commit] == 0 || VALUE(chosen_log[A(a).commit]) != VALUE(A(a).log[A(a).commit]) ->
        printf("WRONG COMMIT: acceptor %d applies proposer %d's entry in slot %d; ", NAME(a),
            VB(A(a).log[A(a).commit]), A(a).commit);
        if
        :: chosen_log[A(a).commit] == 0 -> printf("nothing is chosen there\n")
        :: else -> printf("proposer %d's was chosen there\n", VB(chosen_log[A(a).commit]))
        fi;
        assert(false)
    :: else
    fi;
}

/* A6: an announced commit counts up to the match under its ballot. Only W and chosen slots are announced (P5). One slot
 * at a time: the announcement may have been an older one. */
#define announced(b) (P(b).chosen > P(b).w -> P(b).chosen : P(b).w)
#ifdef MUTATION_3
#define vouched(a) A(a).last
#else
#define vouched(a) (A(a).match == NONE -> 0 : A(a).match)
#endif
#define can_commit(a, b) (P(b).start != 0 && A(a).promised == BALLOT(b) && A(a).commit < announced(b) && \
    A(a).commit < vouched(a))

inline commit_next(a, b)
{
    A(a).commit++;
    printf("acceptor %d hears from proposer %d that slot %d is committed\n", NAME(a), b, A(a).commit);
    committed(a);
}

/* A7, a slot at a time (its pieces may come late and stop anywhere): what some peer knows, or knew, as committed; here
 * whatever is chosen. The same e: the
 * own tail stays, a LOST value is filled; else the log becomes the peer's, the rest is dropped. */
inline catch_up(a)
{
    y = A(a).commit + 1;
    if
    :: E(A(a).log[y]) == E(chosen_log[y]) ->
        printf("acceptor %d learns from a peer that slot %d is committed\n", NAME(a), y);
        A(a).log[y] = A(a).log[y] & (LOST - 1)
    :: else ->
        printf("acceptor %d learns from a peer the committed entry of ballot %d in slot %d, and drops what it had from there on\n",
            NAME(a), E(chosen_log[y]), y);
        cut_above(a, y);
        A(a).log[y] = chosen_log[y];
        if
        :: A(a).match != NONE && A(a).match >= y -> A(a).match = NONE
        :: else
        fi
    fi;
    A(a).commit = y;
    committed(a);
}

/* A crash: commit is gone. So is match; but the same Open may come again, and does so in the same step. */
inline crash(a)
{
    printf("acceptor %d crashes and comes back\n", NAME(a));
    A(a).commit = 0;
#ifdef MUTATION_8
    A(a).match = NONE;
    printf("    and has forgotten its promise of ballot %d\n", A(a).promised);
    A(a).promised = 0;
#endif
#ifdef MUTATION_18
    A(a).match = NONE;
    printf("    with an empty disk, under its old identity\n");
    A(a).promised = 0;
    cut_above(a, 0);
#endif
#ifdef MUTATION_A5
    if
    :: A(a).last > 0 ->
        printf("    and has lost the entry in slot %d, which it had acknowledged before it was durable\n", A(a).last);
        cut_above(a, A(a).last - 1);
        A(a).match = NONE
    :: else
    fi;
#endif
}

#ifdef ROT
inline rot(a, n)
{
    printf("acceptor %d crashes and comes back; the value in slot %d is lost\n", NAME(a), n);
    rotten--;
    A(a).commit = 0;
    A(a).match = NONE;
#ifdef MUTATION_11
    printf("    it takes that for the torn end of its log, and has forgotten it and what followed\n");
    cut_above(a, n - 1)
#else
    A(a).log[n] = A(a).log[n] | LOST
#endif
}
#endif

/* ---- proposers ---- */

#define bit(a, b) ((A(a).ack[0] >> (b)) & 1)
#define has_majority(b) (bit(0, b) + bit(1, b) + bit(2, b) >= MAJORITY)

/* P3, with what the promises showed: somebody gave, or still gives, the value of the best log's slot n. */
#ifdef ROT
#define same(a, b, n) (bit(a, b) && E(snap[(b) - 1].from[a].log[n]) == E(P(b).log[n]))
#define gives(a, b, n) (same(a, b, n) && snap[(b) - 1].from[a].log[n] < LOST)
#define keeps(a, b, n) (gives(a, b, n) && E(A(a).log[n]) == E(P(b).log[n]) && A(a).log[n] < LOST)
#define value_given(b, n) ((n) > P(b).last || (n) <= P(b).w || gives(0, b, n) || gives(1, b, n) || gives(2, b, n))
#define value_gone(b, n) (!keeps(0, b, n) && !keeps(1, b, n) && !keeps(2, b, n))
#define maybe_held(a, b, n) (!bit(a, b) || same(a, b, n))
#ifdef MUTATION_12
#define may_be_chosen(b, n) false
#else
#define may_be_chosen(b, n) (maybe_held(0, b, n) + maybe_held(1, b, n) + maybe_held(2, b, n) >= MAJORITY)
#endif
#define can_cut(b, n) (P(b).start == 0 && has_majority(b) && (n) > P(b).w && (n) <= P(b).last && value_gone(b, n) && \
    !may_be_chosen(b, n) && ((n) <= 1 || value_given(b, 1)) && ((n) <= 2 || value_given(b, 2)) && \
    ((n) <= 3 || value_given(b, (S >= 3 -> 3 : 0))))
#define all_given(b) (value_given(b, 1) && value_given(b, 2) && value_given(b, (S >= 3 -> 3 : 2)) && \
    value_given(b, (S >= 4 -> 4 : 2)) && value_given(b, (S >= 5 -> 5 : 2)))
#else
#define all_given(b) true
#endif

#ifdef MUTATION_9
#define in_force(a, b) (!bit(a, b) || A(a).promised >= (b))
#define promises_durable(b) (in_force(0, b) && in_force(1, b) && in_force(2, b))
#else
#define promises_durable(b) true
#endif

#define can_choose(b) (P(b).start == 0 && has_majority(b) && P(b).last < S && all_given(b) && promises_durable(b))

/* P2, P4: the choice of a log, once per ballot, and the own session start behind it. */
inline choose(b)
{
    P(b).start = P(b).last + 1;
    P(b).last = P(b).start;
    printf("proposer %d chooses a log of %d entries (W = %d) and puts its session start in slot %d\n", b,
        P(b).start - 1, P(b).w, P(b).start);
    for (i : 1 .. P(b).start - 1) {
        P(b).log[i] = P(b).log[i] & (LOST - 1);
#ifdef MUTATION_1B
        if
        :: i > P(b).w -> P(b).log[i] = entry(b, VB(P(b).log[i]), VS(P(b).log[i]))
        :: else
        fi;
#endif
    }
    P(b).log[P(b).start] = entry(BALLOT(b), b, P(b).start);
    for (i : 0 .. N - 1) {
        A(i).ack[0] = A(i).ack[0] & ~(1 << b);
#ifdef ROT
        for (j : 1 .. S) {
            snap[b - 1].from[i].log[j] = 0;
        }
#endif
    }
#ifdef MUTATION_1A
    P(b).contact = 0;
#endif
#ifndef MUTATION
    /* Chosen is never lost: whatever was chosen is in it, unless a higher ballot has left this one no majority. */
    if
    :: (A(0).promised > b) + (A(1).promised > b) + (A(2).promised > b) < MAJORITY ->
        for (i : 1 .. S) {
            assert(chosen_log[i] == 0 || P(b).log[i] == chosen_log[i]);
        }
    :: else
    fi;
    assert(P(b).w < P(b).start);
    for (i : 1 .. P(b).w) {
        assert(P(b).log[i] == chosen_log[i]);
    }
    matching(P(b), A(0));
    matching(P(b), A(1));
    matching(P(b), A(2));
#endif
}

#ifdef ROT
inline cut_and_choose(b, n)
{
    printf("proposer %d finds nobody who can give the value of slot %d: never chosen, cut there\n", b, n);
    i = n;
    do
    :: i <= S -> P(b).log[i] = 0; i++
    :: else -> break
    od;
    P(b).last = n - 1;
    choose(b);
}
#endif

/* P7: a write of the process's first ballot (slot n there) that the new log does not have; only if no foreign session
 * start is in that log after the own one. */
#ifdef RETRY
#define holds_own(n, at) (VALUE(P(3).log[at]) == VALUE(entry(0, 1, n)))
#define not_found(n) (!holds_own(n, 1) && !holds_own(n, 2) && !holds_own(n, (S >= 3 -> 3 : 0)) && \
    !holds_own(n, (S >= 4 -> 4 : 0)) && !holds_own(n, (S >= 5 -> 5 : 0)))
#define foreign(at) (E(P(3).log[at]) == 2)
#ifdef MUTATION_14
#define no_foreign_session true
#else
#define no_foreign_session (!foreign(1) && !foreign(2) && !foreign((S >= 3 -> 3 : 0)) && \
    !foreign((S >= 4 -> 4 : 0)) && !foreign((S >= 5 -> 5 : 0)))
#endif
#define can_retry(n) (serving(3) && P(3).last < S && P(1).start != 0 && P(1).start < (n) && (n) <= P(1).last && \
    not_found(n) && no_foreign_session)
inline retry(n)
{
    P(3).last++;
    P(3).log[P(3).last] = entry(3, 1, n);
    printf("proposer 3, the same process as proposer 1, proposes its write of slot %d again in slot %d\n", n, P(3).last);
}
#endif

/* ---- all steps ---- */

#ifdef OLD_OPENS
#define OPEN_AT(a, b, m) :: d_step { can_open_at(a, b, m) -> open(a, b, m); DONE }
#if S == 2
#define OPENS(a, b) OPEN_AT(a, b, 0) OPEN_AT(a, b, 1) OPEN_AT(a, b, 2)
#else
#define OPENS(a, b) OPEN_AT(a, b, 0) OPEN_AT(a, b, 1) OPEN_AT(a, b, 2) OPEN_AT(a, b, 3)
#endif
#else
#define OPENS(a, b) :: d_step { can_open(a, b) -> open(a, b, place(a, b)); DONE }
#endif

/* A2: a message of a higher ballot that leads to nothing else (a Promise that is lost, an Open refused) raises promised,
 * too. That only forbids other steps, so a run in which it is taken later, or never, does the same: it is no step here. */
#ifdef MUTATION_9
#define LATE_PROMISE(a, b) \
    :: d_step { bit(a, b) && A(a).promised < (b) -> \
        printf("acceptor %d's promise of ballot %d becomes durable\n", NAME(a), b); raise(a, b); DONE }
#else
#define LATE_PROMISE(a, b)
#endif
#define STEPS_AB(a, b) \
    LATE_PROMISE(a, b) \
    :: d_step { P(b).start == 0 && !bit(a, b) && A(a).promised <= BALLOT(b) -> promise(a, b); DONE } \
    OPENS(a, b) \
    :: d_step { can_accept(a, b) -> accept(a, b); DONE } \
    :: d_step { can_commit(a, b) -> commit_next(a, b); DONE }
#if B == 2
#define STEPS_AB34(a)
#elif B == 3
#define STEPS_AB34(a) STEPS_AB(a, 3)
#else
#define STEPS_AB34(a) STEPS_AB(a, 3) STEPS_AB(a, 4)
#endif
#ifdef ROT
#define CAN_ROT(a, n) (rotten > 0 && A(a).log[n] != 0 && A(a).log[n] < LOST)
#define STEPS_ROT(a, n) :: d_step { CAN_ROT(a, n) -> rot(a, n); DONE }
#define ROTS(a) STEPS_ROT(a, 1) STEPS_ROT(a, 2) STEPS_ROT(a, (S >= 3 -> 3 : 0))
#define CUT(b, n) :: d_step { can_cut(b, n) -> cut_and_choose(b, n); DONE }
#if S == 2
#define CUTS(b) CUT(b, 1) CUT(b, 2)
#else
#define CUTS(b) CUT(b, 1) CUT(b, 2) CUT(b, 3)
#endif
#else
#define ROTS(a)
#define CUTS(b)
#endif
#define STEPS_A(a) \
    STEPS_AB(a, 1) STEPS_AB(a, 2) STEPS_AB34(a) \
    :: d_step { A(a).commit < S && chosen_log[(A(a).commit < S -> A(a).commit + 1 : 0)] != 0 -> catch_up(a); DONE } \
    :: d_step { A(a).commit > 0 CRASH_MORE(a) -> crash(a); DONE } \
    ROTS(a)
#if defined(MUTATION_8) || defined(MUTATION_18) || defined(MUTATION_A5)
#define CRASH_MORE(a) || A(a).promised > 0
#else
#define CRASH_MORE(a)
#endif
#define STEPS_B(b) \
    :: d_step { can_choose(b) -> choose(b); DONE } \
    CUTS(b)

active proctype world()
{
    d_step {
        A(0).match = NONE; A(1).match = NONE; A(2).match = NONE;
#ifdef ROT
        rotten = ROT;
#endif
    }
end:
    do
#ifndef MUTATION
    :: atomic {
    if
#endif
    STEPS_A(0)
    STEPS_A(1)
    STEPS_A(2)
    STEPS_B(1)
    STEPS_B(2)
#if B >= 3
    STEPS_B(3)
#endif
#if B >= 4
    STEPS_B(4)
#endif
#ifdef RETRY
    :: d_step { can_retry(2) -> retry(2); DONE }
#if S >= 3
    :: d_step { can_retry(3) -> retry(3); DONE }
#endif
#endif
#ifndef MUTATION
    fi;
    d_step { sane() }
    }
#endif
    od
}
