/* A new data directory's meta: every logical page once (so that later each page that is read was written, and a page of
 * zeroes is rot), then the root, then the superblock says "complete". */
#include "replica/store_internal.h"

#include <errno.h>
#include <stdlib.h>

#define CHUNK_PAGES 64u

struct formatting {
    struct store_devices devices;
    struct superblock sb;
    struct root root;
    struct io_op op;
    struct iovec iov;
    uint8_t *buffer; /* 4 KiB-aligned, 2 * CHUNK_PAGES pages */
    uint32_t page, n_pages;
    uint32_t meta_crc[META_PAGES_MAX];
    void (*done)(void *user, int err);
    void *user;
};

static void finish(struct formatting *f, int err)
{
    void (*done)(void *, int) = f->done;
    void *user = f->user;
    free(f->buffer);
    free(f);
    done(user, err);
}

static void on_superblock(void *user, int err)
{
    finish(user, err);
}

static void on_root(struct io_op *op)
{
    struct formatting *f = container_of(op, struct formatting, op);
    if (op->result < 0) {
        finish(f, (int)op->result);
        return;
    }
    f->sb.complete = 1;
    f->sb.features_incompat |= FEATURE_INCOMPAT_WRITE_REF;
    f->sb.generation++;
    superblock_seal(&f->sb);
    superblock_write(f->devices.superblock, &f->sb, on_superblock, f);
}

static void on_flushed(struct io_op *op)
{
    struct formatting *f = container_of(op, struct formatting, op);
    if (op->result < 0) {
        finish(f, (int)op->result);
        return;
    }
    f->root.meta_crc = crc32c(f->meta_crc, f->n_pages * sizeof f->meta_crc[0]);
    root_seal(&f->root);
    memcpy(f->buffer, &f->root, sizeof f->root);
    f->iov = (struct iovec){f->buffer, BLOCK_SIZE};
    f->op.fn = on_root;
    dev_write(f->devices.meta, &f->iov, 1, (f->root.checkpoint & 1) * BLOCK_SIZE, IO_DURABLE, &f->op);
}

static void write_pages(struct formatting *f);

static void on_pages(struct io_op *op)
{
    struct formatting *f = container_of(op, struct formatting, op);
    if (op->result < 0)
        finish(f, (int)op->result);
    else
        write_pages(f);
}

static void write_pages(struct formatting *f)
{
    if (f->page >= f->n_pages) {
        f->op.fn = on_flushed;
        dev_flush(f->devices.meta, &f->op);
        return;
    }
    uint32_t n = f->n_pages - f->page;
    if (n > CHUNK_PAGES)
        n = CHUNK_PAGES;
    memset(f->buffer, 0, 2 * (size_t)n * BLOCK_SIZE);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t page = f->page + i;
        enum meta_kind kind = page < GROUPS_MAX              ? META_GROUP
                              : page < f->root.regions_page0 ? META_BITMAP
                                                             : META_REGIONS;
        struct meta_header *h = (void *)(f->buffer + 2 * (size_t)i * BLOCK_SIZE);
        page_seal(h, kind, f->root.checkpoint, 0, page);
        f->meta_crc[page] = h->crc;
    }
    f->iov = (struct iovec){f->buffer, 2 * (size_t)n * BLOCK_SIZE};
    f->op.fn = on_pages;
    uint64_t off = meta_place(f->page, 0);
    f->page += n;
    dev_write(f->devices.meta, &f->iov, 1, off, 0, &f->op);
}

/* The bitmap must cover all slabs that there may ever be, the region table all regions that are ever written to. */
static bool layout(const struct superblock *sb, struct root *r)
{
    if (sb->meta_pages < GROUPS_MAX + 2 || sb->meta_pages > META_PAGES_MAX || !sb->extent_bytes ||
        sb->extent_bytes % SLAB_BYTES)
        return false;
    uint32_t rest = sb->meta_pages - GROUPS_MAX;
    uint64_t slabs_per_extent = sb->extent_bytes / SLAB_BYTES;
    uint64_t extents = sb->capacity_bytes / sb->extent_bytes;
    if (extents < sb->n_extents)
        extents = sb->n_extents;
    uint64_t bitmap = sb->capacity_bytes ? (extents * slabs_per_extent + BITMAP_BITS - 1) / BITMAP_BITS : rest / 4;
    if (bitmap == 0)
        bitmap = 1;
    if (bitmap >= rest || bitmap * BITMAP_BITS < sb->n_extents * slabs_per_extent)
        return false;
    r->bitmap_page0 = GROUPS_MAX;
    r->n_bitmap_pages = (uint32_t)bitmap;
    r->regions_page0 = r->bitmap_page0 + r->n_bitmap_pages;
    r->n_region_pages = rest - r->n_bitmap_pages;
    return true;
}

void store_format(struct reactor *r, const struct store_devices *d, const struct superblock *sb,
                  void (*done)(void *user, int err), void *user)
{
    struct formatting *f = store_calloc(1, sizeof *f);
    f->devices = *d;
    f->sb = *sb;
    f->done = done;
    f->user = user;
    f->buffer = aligned_alloc(BLOCK_SIZE, 2 * CHUNK_PAGES * BLOCK_SIZE);
    if (!f->buffer)
        abort();
    f->root = (struct root){.checkpoint = 1, .tail_seq = 1, .redo_seq = 1};
    if (!layout(sb, &f->root) || d->meta->size_bytes < meta_place(sb->meta_pages, 0)) {
        finish(f, -EINVAL);
        return;
    }
    f->n_pages = f->root.regions_page0 + f->root.n_region_pages;
    write_pages(f);
}
