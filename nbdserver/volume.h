/* A volume session: the export of one volume, its proposer(s), its links to replicas.
 *
 * Writes become entries of whole blocks (sub-block ends are read, modified and written under a lock of their block), reads go to an up-to-date replica with a watermark and are verified here. */
#ifndef QBD_NBDSERVER_VOLUME_H
#define QBD_NBDSERVER_VOLUME_H

#include "base/config.h"
#include "base/io.h"
#include "base/msg.h"
#include "nbdserver/export.h"

struct volume;

struct volume_options {
    const struct cluster_config *config;
    const char *volume_name;
    const char *frontend_name; /* told to others as the holder */
    uint64_t retain_bytes;     /* entries kept for slow replicas; default 64 MiB */
    uint64_t inflight_bytes;   /* 0: as proposer_params has it */
    uint64_t fail_after_ns;    /* without a majority: 0 = wait for ever, else requests fail with EIO after this */
};

struct volume_callbacks {
    void (*on_state)(void *user, struct volume *v);  /* attached, waiting (export->state says for whom) */
    void (*on_fenced)(void *user, struct volume *v); /* P7: all requests failed; close the clients' connections. The volume goes on to attach anew as a NEW session. */
    void *user;
};

MUST_USE int volume_open(struct reactor *r, const struct volume_options *o, const struct volume_callbacks *cb, struct volume **ret);
struct export *volume_export(struct volume *v);
/* Releases the leases; done when that was sent. */
void volume_close(struct volume *v, void (*done)(void *user), void *user);
void volume_free(struct volume *v);
/* ---- who its replicas are (docs/rebuild.md section 6); the control socket's ---- */

/* This identity lives there: for learners, and for voters that the configuration does not name. 0, or -ENOSPC. */
MUST_USE int volume_learn_address(struct volume *v, const struct uuid *identity, const char *name, const char *address);

/* LEARN and FORGET: of m->learner[0], or the only voter that m names. Each may be asked for again. Returns 0 or -errno at once, with *text a sentence why; but for VOTERS that could be begun -EINPROGRESS: then done(user, err, text) follows once, never from inside, when the
 * voters are these by a committed membership (err 0), or when they can't be (text says why: a new voter is not complete (-ENODATA), not in the stream (-ENOLINK), does not catch up within a second in which
 * writes wait (-EAGAIN), another change is not committed (-EBUSY)); -ETIMEDOUT: proposed, and not known how it ends: the status shows it, and asking again goes on. text lives during the call. */
MUST_USE int volume_members(struct volume *v, enum members_verb verb, const struct membership *m, void (*done)(void *user, int err, const char *text), void *user,
                            const char **text);

/* JSON text of the session's state (proposer, links, latencies) into buf; returns its length. */
size_t volume_status(const struct volume *v, char *buf, size_t cap);

#endif
