/* How long a batch takes the own WAL, now and when it has little to do: what copies and scrubs go easy on, here and at their donors.
 *
 * The quiet value is the lowest that was seen, and forgets: it rises by a sixty-fourth a second, so that a disk that became slower for good is not taken for a busy one. While no client
 * asks for anything there is nobody to be disturbed: the few batches that a copy's own checkpoints make are slow beside its data, and that is no reason to hold it back. */
#include "replica/replica_internal.h"

uint64_t latency_now(struct replica *r)
{
    struct latency *l = &r->latency;
    uint64_t now = io_now(r->reactor);
    struct store_stats st;
    store_get_stats(r->store, &st);
    if (st.wal.batches != l->batches) {
        l->batches = st.wal.batches;
        l->ns = st.wal.write_ns_ewma;
    }
    uint64_t seconds = (now - l->risen_ns) / NS_PER_S;
    if (seconds > 0) {
        l->quiet_ns += l->quiet_ns / 64 * (seconds < 64 ? seconds : 64);
        l->risen_ns = now;
    }
    if (l->quiet_ns == 0 || l->ns < l->quiet_ns)
        l->quiet_ns = l->ns;
    return store_has_clients(r->store) ? l->ns : l->quiet_ns;
}

uint64_t latency_of_clients(struct replica *r)
{
    uint64_t ns = latency_now(r);
    if (!store_has_clients(r->store))
        return 0;
    return ns > 0 ? ns : 1;
}
