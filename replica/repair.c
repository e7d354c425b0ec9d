/* Repair of damaged blocks from peers (store.md §2 "Errors"): read an image of the block elsewhere, hand it to the store, which installs it exactly (store_repair).
 *
 * Repairs are few; they are kept in a list and retried until a peer has an intact image or the block was overwritten. */
#include "replica/replica_internal.h"

#include <errno.h>
#include <stdlib.h>

#include "base/mark.h"

static void on_timer(struct timer *t)
{
    repair_run(container_of(t, struct replica, repair_timer));
}

void repair_init(struct replica *r)
{
    list_init(&r->repairs);
    r->repair_timer.fn = on_timer;
}

static void repair_free(struct repair *rp)
{
    rp->group->replica->n_repairs--;
    list_remove(&rp->link);
    free(rp);
}

static bool is_known(const struct replica *r, const struct replica_group *g, uint64_t block, uint32_t nblocks)
{
    list_for_each(l, &r->repairs)
    {
        const struct repair *rp = container_of(l, struct repair, link);
        if (rp->group == g && rp->block <= block && rp->block + rp->nblocks >= block + nblocks)
            return true;
    }
    return false;
}

void repair_wanted(struct replica_group *g, uint64_t block, uint32_t nblocks)
{
    struct replica *r = g->replica;
    bool any = false;
    while (nblocks > 0) {
        uint32_t n = nblocks < ENTRY_MAX_BLOCKS ? nblocks : ENTRY_MAX_BLOCKS;
        if (block + n > g->acceptor.size_blocks)
            n = block < g->acceptor.size_blocks ? (uint32_t)(g->acceptor.size_blocks - block) : 0;
        if (n == 0)
            break;
        if (r->n_repairs < REPAIRS_MAX && !is_known(r, g, block, n)) {
            struct repair *rp = calloc(1, sizeof *rp);
            if (!rp)
                return; /* the next read finds it again */
            rp->group = g;
            rp->block = block;
            rp->nblocks = n;
            list_push_back(&r->repairs, &rp->link);
            r->n_repairs++;
            any = true;
            log_error("group %llu: blocks %llu..%llu are damaged on this disk; repairing them from a peer", (unsigned long long)g->id,
                      (unsigned long long)block, (unsigned long long)(block + n - 1));
        }
        block += n;
        nblocks -= n;
    }
    if (any)
        timer_set(r->reactor, &r->repair_timer, io_now(r->reactor)); /* soon, not inside the store's call */
}

static void ask(struct repair *rp, struct peer *p)
{
    struct replica *r = rp->group->replica;
    rp->peer = p;
    rp->cookie = r->next_cookie++;
    rp->asked_ns = io_now(r->reactor);
    struct msg m = {.type = MSG_IMAGE,
                    .cookie = rp->cookie,
                    .group = rp->group->id,
                    .target = p->config.identity,
                    .u.image = {.block = rp->block, .nblocks = rp->nblocks}};
    if (!replica_applied_pos(rp->group, &m.u.image.at)) {
        rp->cookie = 0; /* the log says no more what stands there; the timer asks again */
        return;
    }
    wire_peer_send(&p->wire, &m);
}

void repair_run(struct replica *r)
{
    if (r->closing)
        return;
    list_for_each(l, &r->repairs)
    {
        struct repair *rp = container_of(l, struct repair, link);
        unsigned n = peers_of_group(rp->group);
        if (rp->cookie && io_now(r->reactor) - rp->asked_ns >= REPAIR_TIMEOUT_NS)
            rp->cookie = 0; /* it hangs; what it says later is dropped */
        if (rp->cookie || rp->open || n == 0)
            continue;
        struct peer *p = peer_of_group(rp->group, rp->tries++ % n);
        if (p->state == PEER_UP)
            ask(rp, p);
        else
            peer_want(p);
    }
    if (!list_empty(&r->repairs))
        timer_set(r->reactor, &r->repair_timer, io_now(r->reactor) + REPAIR_RETRY_NS);
}

void repair_peer_changed(struct peer *p)
{
    struct replica *r = p->replica;
    if (list_empty(&r->repairs))
        return;
    list_for_each(l, &r->repairs)
    {
        struct repair *rp = container_of(l, struct repair, link);
        if (p->state == PEER_DOWN && rp->peer == p)
            rp->cookie = 0;
    }
    if (p->state == PEER_UP)
        timer_set(r->reactor, &r->repair_timer, io_now(r->reactor));
}

struct install {
    struct repair *repair;
    uint64_t block;
};

static void install_over(struct repair *rp)
{
    if (--rp->open > 0)
        return;
    if (!rp->unfinished || rp->tries >= REPAIR_TRIES_MAX) {
        repair_free(rp); /* what is still bad is found again by the next read of it */
        return;
    }
    rp->unfinished = false; /* the timer asks another peer */
}

static void on_installed(void *user, int err)
{
    struct install *in = user;
    struct repair *rp = in->repair;
    struct replica *r = rp->group->replica;
    if (err == 0) {
        r->n_repaired++;
        MARK("repair: block repaired from a peer");
        log_info("group %llu: block %llu repaired from %s", (unsigned long long)rp->group->id, (unsigned long long)in->block,
                 rp->peer ? rp->peer->config.name : "a peer");
    }
    free(in);
    /* -ESTALE: an entry has overwritten it, which healed it. Other errors (the image was too old, or damaged): the range is asked for again. */
    MARK_IF(err == -ESTALE, "repair: overwritten meanwhile");
    MARK_IF(err != 0 && err != -ESTALE, "repair: image not usable");
    rp->unfinished |= err != 0 && err != -ESTALE;
    install_over(rp);
}

static void install(struct repair *rp, const struct msg *m, const struct buf *payload)
{
    struct replica *r = rp->group->replica;
    const uint8_t *next = payload ? payload->data : NULL;
    rp->cookie = 0;
    rp->open = 1; /* held until all are handed over */
    repair_denied(rp, rp->peer, m);
    for (uint32_t i = 0; i < rp->nblocks; i++) {
        bool zero = m->u.image_reply.zero[i / 64] >> (i % 64) & 1;
        if ((m->u.image_reply.bad[i / 64] | m->u.image_reply.lost[i / 64]) >> (i % 64) & 1) {
            MARK("repair: damaged at the peer as well");
            rp->unfinished |= !repair_is_lost(rp, i);
            continue;
        }
        const uint8_t *data = zero ? NULL : next;
        if (!zero)
            next += BLOCK_SIZE;
        if (data && crc32c(data, BLOCK_SIZE) != m->u.image_reply.crc[i]) {
            MARK("repair: image damaged");
            rp->unfinished = true; /* damaged on the way or there */
            continue;
        }
        struct install *in = malloc(sizeof *in);
        if (!in)
            break;
        *in = (struct install){.repair = rp, .block = rp->block + i};
        rp->open++;
        store_repair(r->store, rp->group->id, in->block, m->u.image_reply.at.slot, data, m->u.image_reply.crc[i], on_installed, in);
    }
    install_over(rp);
}

void repair_on_answer(struct peer *p, const struct msg *m, struct buf *payload)
{
    list_for_each(l, &p->replica->repairs)
    {
        struct repair *rp = container_of(l, struct repair, link);
        if (rp->cookie != m->cookie || rp->peer != p)
            continue;
        bool answers = m->type == MSG_IMAGE_REPLY && m->u.image_reply.block == rp->block && m->u.image_reply.nblocks == rp->nblocks;
        if (answers && m->u.image_reply.status == DONOR_OK)
            install(rp, m, payload);
        else
            rp->cookie = 0; /* asked elsewhere by the timer */
        MARK_IF(!answers || m->u.image_reply.status != DONOR_OK, "repair: the peer can't help");
        return;
    }
}
