/* A volume session: the export of one volume, its proposer(s), its links to replicas (design.md §7).
 *
 * Writes become entries of whole blocks (sub-block ends are read, modified and written under a lock of their block), reads go to an up-to-date replica with a watermark and are verified here. */
#ifndef QBD_NBDSERVER_VOLUME_H
#define QBD_NBDSERVER_VOLUME_H

#include "base/config.h"
#include "base/io.h"
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
/* JSON text of the session's state (proposer, links, latencies) into buf; returns its length. */
size_t volume_status(const struct volume *v, char *buf, size_t cap);

#endif
