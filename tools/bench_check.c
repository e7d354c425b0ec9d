/* Looking at an export before a load destroys it, and reading back afterwards what the journal says must be there. */
#include "tools/bench.h"

#include <errno.h>
#include <inttypes.h>
#include <libnbd.h>
#include <stdio.h>
#include <stdlib.h>

#define PIECE_BYTES (UINT64_C(1) << 20)
#define SAMPLES 64u
#define HEAD_BYTES (UINT64_C(128) << 10)
#define FAILURES_SHOWN 20u

/* A connected handle, or NULL. */
static struct nbd_handle *open_export(const char *uri, struct bench_export *e, struct why *why)
{
    struct nbd_handle *nbd = nbd_create();
    if (!nbd || nbd_connect_uri(nbd, uri) < 0) {
        because(why, "cannot connect to %s: %s", uri, nbd_get_error());
        nbd_close(nbd);
        return NULL;
    }
    int64_t size = nbd_get_size(nbd), block_min = nbd_get_block_size(nbd, LIBNBD_SIZE_MINIMUM);
    if (size < 0) {
        because(why, "%s: %s", uri, nbd_get_error());
        nbd_close(nbd);
        return NULL;
    }
    *e = (struct bench_export){
        .size = (uint64_t)size,
        .block_min = block_min > 0 ? (uint64_t)block_min : 1,
        .read_only = nbd_is_read_only(nbd) > 0,
        .can_flush = nbd_can_flush(nbd) > 0,
        .can_fua = nbd_can_fua(nbd) > 0,
    };
    return nbd;
}

static void close_export(struct nbd_handle *nbd)
{
    (void)!nbd_shutdown(nbd, 0);
    nbd_close(nbd);
}

int bench_look(const char *uri, struct bench_export *ret, struct why *why)
{
    struct nbd_handle *nbd = open_export(uri, ret, why);
    if (!nbd)
        return -1;
    close_export(nbd);
    return 0;
}

/* ---- what is on it ---- */

static const struct {
    uint32_t at;
    const char *bytes;
    uint32_t len;
    const char *what;
} signatures[] = {
    {1080, "\x53\xef", 2, "an ext2/3/4 file system"},
    {0, "XFSB", 4, "an XFS file system"},
    {65600, "_BHRfS_M", 8, "a btrfs file system"},
    {0, "LUKS\xba\xbe", 6, "an encrypted volume (LUKS)"},
    {512, "LABELONE", 8, "an LVM physical volume"},
    {512, "EFI PART", 8, "a partition table (GPT)"},
    {4096, "EFI PART", 8, "a partition table (GPT)"},
    {4086, "SWAPSPACE2", 10, "swap space"},
    {3, "NTFS    ", 8, "an NTFS file system"},
    {0, "QFI\xfb", 4, "a qcow2 image"},
    {0, "qbdstamp", 8, "what an earlier qbd bench --verify wrote"},
    {510, "\x55\xaa", 2, "a partition table or a boot sector"},
};

static const char *recognize(const uint8_t *head, uint64_t len)
{
    for (size_t i = 0; i < ARRAY_LEN(signatures); i++)
        if (signatures[i].at + signatures[i].len <= len &&
            memcmp(head + signatures[i].at, signatures[i].bytes, signatures[i].len) == 0)
            return signatures[i].what;
    return NULL;
}

static bool all_zero(const uint8_t *p, uint64_t n)
{
    return n == 0 || (p[0] == 0 && memcmp(p, p + 1, n - 1) == 0);
}

int bench_describe(const struct bench_options *o, char *buf, size_t cap, struct why *why)
{
    struct bench_export e;
    struct nbd_handle *nbd = open_export(o->uri, &e, why);
    uint8_t *head = malloc(HEAD_BYTES);
    unsigned used = 0, asked = 0;
    int err = nbd && head ? 0 : -1;
    uint64_t len = e.size < HEAD_BYTES ? e.size : HEAD_BYTES;
    const char *found = NULL;
    char size[32];
    if (!err && nbd_pread(nbd, head, len, 0, 0) < 0)
        err = because(why, "cannot read %s: %s", o->uri, nbd_get_error());
    if (!err)
        found = recognize(head, len);
    for (uint64_t i = 0; !err && i < SAMPLES && o->size >= SAMPLES * BLOCK_SIZE; i++, asked++) {
        uint64_t at = (o->offset + o->size / SAMPLES * i) / BLOCK_SIZE * BLOCK_SIZE;
        if (nbd_pread(nbd, head, BLOCK_SIZE, at, 0) < 0)
            err = because(why, "cannot read %s: %s", o->uri, nbd_get_error());
        used += !all_zero(head, BLOCK_SIZE);
    }
    if (!err) {
        int n = snprintf(buf, cap, "%s of %s, bytes %" PRIu64 " to %" PRIu64, bench_size(o->size, size), o->volume_name,
                         o->offset, o->offset + o->size - 1);
        if (asked)
            n += snprintf(buf + n, cap - (size_t)n, "; of %u blocks looked at there %u hold data", asked, used);
        if (found)
            snprintf(buf + n, cap - (size_t)n, "; the volume begins with %s", found);
    }
    free(head);
    if (nbd)
        close_export(nbd);
    return err;
}

/* ---- what must be on it ---- */

struct check {
    const struct journal *j;
    uint64_t acked, uncertain, appeared, blocks, wrong;
};

static void check_block(struct check *c, uint64_t position, uint64_t address, const uint8_t *block)
{
    char text[256];
    struct stamp_read got = stamp_look(block, c->j->h->run, address);
    c->blocks++;
    if (journal_allows(c->j, position, &got, text, sizeof text))
        return;
    if (c->wrong++ < FAILURES_SHOWN)
        fprintf(stderr, "qbd bench: byte %" PRIu64 ": %s\n", address, text);
}

static void check_position(struct check *c, uint64_t position, const uint8_t *data)
{
    const struct journal_header *h = c->j->h;
    const struct journal_entry *e = &c->j->entry[position];
    uint64_t address = h->offset + position * h->block_bytes;
    c->acked += e->acked != 0;
    if (e->issued != e->acked) {
        struct stamp_read first = stamp_look(data, h->run, address);
        c->uncertain++;
        c->appeared += first.kind == STAMP_OF_RUN && first.seq == e->issued;
    }
    for (uint64_t at = 0; at < h->block_bytes; at += BLOCK_SIZE)
        check_block(c, position, address + at, data + at);
}

/* All of the range, also what was never written: a write that went to the wrong place may be there. */
static int check_range(struct check *c, struct nbd_handle *nbd, struct why *why)
{
    const struct journal_header *h = c->j->h;
    uint64_t at_once = h->block_bytes < PIECE_BYTES ? PIECE_BYTES / h->block_bytes : 1;
    uint8_t *buf = malloc(at_once * h->block_bytes);
    if (!buf)
        return because(why, "out of memory");
    int err = 0;
    for (uint64_t p = 0; !err && p < h->n_positions; p += at_once) {
        uint64_t n = h->n_positions - p < at_once ? h->n_positions - p : at_once;
        uint64_t address = h->offset + p * h->block_bytes;
        if (nbd_pread(nbd, buf, n * h->block_bytes, address, 0) < 0)
            err = because(why, "cannot read %" PRIu64 " bytes at byte %" PRIu64 ": %s", n * h->block_bytes, address,
                          nbd_get_error());
        for (uint64_t i = 0; !err && i < n; i++)
            check_position(c, p + i, buf + i * h->block_bytes);
    }
    free(buf);
    return err;
}

static void report_check(const struct bench_options *o, const struct check *c)
{
    if (o->json) {
        printf("{\"good\": %s, \"acknowledged_writes\": %" PRIu64 ", \"positions_acknowledged\": %" PRIu64
               ", \"positions_unanswered\": %" PRIu64 ", \"unanswered_found\": %" PRIu64 ", \"blocks_read\": %" PRIu64
               ", \"blocks_wrong\": %" PRIu64 "}\n",
               c->wrong ? "false" : "true", c->j->h->acked, c->acked, c->uncertain, c->appeared, c->blocks, c->wrong);
        return;
    }
    char read[32], block[32];
    printf("%s: %" PRIu64 " writes were acknowledged; %" PRIu64 " places of %s hold the last of them; %s read back.\n",
           c->wrong ? "WRONG" : "good", c->j->h->acked, c->acked, bench_size(c->j->h->block_bytes, block),
           bench_size(c->blocks * BLOCK_SIZE, read));
    if (c->uncertain)
        printf("%" PRIu64 " writes were never answered: %" PRIu64 " of them are there, which is as right as that the "
               "others are not.\n",
               c->uncertain, c->appeared);
    if (!c->j->same_boot)
        printf("This machine was restarted since: what the journal had not on disk by then is not judged.\n");
    if (c->wrong)
        printf("%" PRIu64 " blocks are not what they must be%s.\n", c->wrong,
               c->wrong > FAILURES_SHOWN ? "; the first ones are named above" : "");
}

int bench_check(const struct bench_options *o, struct why *why)
{
    struct journal j;
    struct bench_export e;
    if (journal_open(&j, o->journal_path, why) < 0)
        return -1;
    struct check c = {.j = &j};
    struct nbd_handle *nbd = open_export(o->uri ? o->uri : j.h->uri, &e, why);
    int err = nbd ? 0 : -1;
    if (!err && e.size != j.h->volume_bytes)
        err = because(why, "the volume has %" PRIu64 " bytes; the one that %s is about had %" PRIu64, e.size,
                      o->journal_path, j.h->volume_bytes);
    if (!err)
        err = check_range(&c, nbd, why);
    if (!err) {
        report_check(o, &c);
        err = c.wrong ? 1 : 0;
    }
    if (nbd)
        close_export(nbd);
    journal_close(&j);
    return err;
}
