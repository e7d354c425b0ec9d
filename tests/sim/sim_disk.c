/* Media: images, crash model, faults of contents. */
#include "tests/sim/sim_disk.h"

#include <errno.h>
#include <stdlib.h>

static const uint8_t zero_page[BLOCK_SIZE];

/* ---- pages ---- */

static bool is_zero(const uint8_t *p)
{
    uint64_t first;
    memcpy(&first, p, sizeof first);
    return first == 0 && memcmp(p, zero_page, BLOCK_SIZE) == 0;
}

static uint8_t *contents_new(const uint8_t *from)
{
    if (is_zero(from))
        return NULL;
    uint8_t *p = malloc(BLOCK_SIZE);
    assert(p);
    return memcpy(p, from, BLOCK_SIZE);
}

static const uint8_t *contents(const uint8_t *data)
{
    return data ? data : zero_page;
}

static struct sim_page *page_find(const struct sim_disk *d, uint64_t no)
{
    struct sim_page **leaf = d->leaves[no / LEAF_PAGES];
    return leaf ? leaf[no % LEAF_PAGES] : NULL;
}

static struct sim_page *page_get(struct sim_disk *d, uint64_t no)
{
    struct sim_page ***leaf = &d->leaves[no / LEAF_PAGES];
    if (!*leaf)
        *leaf = calloc(LEAF_PAGES, sizeof **leaf);
    assert(*leaf);
    struct sim_page **p = &(*leaf)[no % LEAF_PAGES];
    if (!*p) {
        *p = calloc(1, sizeof **p);
        assert(*p);
        (*p)->no = no;
        list_init(&(*p)->volatile_node);
    }
    return *p;
}

static const uint8_t *page_current(const struct sim_page *p)
{
    if (!p)
        return zero_page;
    return contents(p->last ? p->last->data : p->data);
}

static struct sim_version *page_pop_version(struct sim_page *p)
{
    struct sim_version *v = p->first;
    p->first = v->next;
    if (!p->first) {
        p->last = NULL;
        list_remove(&p->volatile_node);
    }
    return v;
}

static void page_drop_versions(struct sim_page *p)
{
    while (p->first) {
        struct sim_version *v = page_pop_version(p);
        free(v->data);
        free(v);
    }
}

static void page_add_version(struct sim_disk *d, struct sim_page *p, uint64_t nth, const uint8_t *from)
{
    struct sim_version *v = calloc(1, sizeof *v);
    assert(v);
    *v = (struct sim_version){.nth = nth, .done = d->done, .data = contents_new(from)};
    if (p->last)
        p->last->next = v;
    else
        list_push_back(&d->volatile_pages, &p->volatile_node);
    if (!p->first)
        p->first = v;
    p->last = v;
    p->spoiled = false;
}

/* ---- reads and writes of whole pages ---- */

void sim_media_read(const struct sim_disk *d, uint64_t off, uint8_t *to, uint64_t len)
{
    uint64_t zeroes = 0; /* bytes in front of i that are still to be zeroed: most of a disk was never written */
    for (uint64_t i = 0; i < len; i += BLOCK_SIZE) {
        const uint8_t *from = page_current(page_find(d, (off + i) / BLOCK_SIZE));
        if (from == zero_page) {
            zeroes += BLOCK_SIZE;
            continue;
        }
        memset(to + i - zeroes, 0, zeroes);
        zeroes = 0;
        memcpy(to + i, from, BLOCK_SIZE);
    }
    memset(to + len - zeroes, 0, zeroes);
}

bool sim_media_spoiled(const struct sim_disk *d, uint64_t off, uint64_t len)
{
    for (uint64_t i = 0; i < len; i += BLOCK_SIZE) {
        const struct sim_page *p = page_find(d, (off + i) / BLOCK_SIZE);
        if (p && p->spoiled)
            return true;
    }
    return false;
}

void sim_media_write(struct sim_disk *d, uint64_t nth, uint64_t off, const uint8_t *from, uint64_t len, bool durable)
{
    d->done++;
    for (uint64_t i = 0; i < len; i += BLOCK_SIZE) {
        uint64_t no = (off + i) / BLOCK_SIZE;
        struct sim_page *p = page_find(d, no);
        if (!durable) {
            /* Zeroes over zeroes leave nothing to choose from. */
            if (p || !is_zero(from + i))
                page_add_version(d, page_get(d, no), nth, from + i);
            continue;
        }
        uint8_t *data = contents_new(from + i);
        if (!p && !data)
            continue;
        if (!p)
            p = page_get(d, no);
        page_drop_versions(p);
        free(p->data);
        p->data = data;
        p->spoiled = false;
    }
}

/* By chance: of each write everything, nothing, or any sectors. A function of the crash and the write alone, so that it
 * needs no memory. */
static bool has_landed(struct sim_disk *d, uint64_t nth, uint64_t off)
{
    if (d->landed)
        return d->landed(d->landed_user, d, nth, off);
    uint64_t mode = sim_mix(d->salt ^ sim_mix(nth));
    if (mode % 4 == 0)
        return false;
    if (mode % 4 == 1)
        return true;
    return sim_mix(mode ^ off) % (mode % 4 == 2 ? 2 : 8) != 0;
}

/* Puts those sectors of `from` that landed over `to`. */
static void overlay_sectors(struct sim_disk *d, uint64_t nth, uint64_t off, uint8_t *to, const uint8_t *from)
{
    for (uint32_t s = 0; s < BLOCK_SIZE; s += SECTOR_SIZE)
        if (has_landed(d, nth, off + s))
            memcpy(to + s, from + s, SECTOR_SIZE);
}

void sim_media_write_torn(struct sim_disk *d, uint64_t nth, uint64_t off, const uint8_t *from, uint64_t len)
{
    d->done++;
    for (uint64_t i = 0; i < len; i += BLOCK_SIZE) {
        uint8_t mix[BLOCK_SIZE];
        struct sim_page *p = page_get(d, (off + i) / BLOCK_SIZE);
        bool spoiled = p->spoiled;
        memcpy(mix, page_current(p), BLOCK_SIZE);
        overlay_sectors(d, nth, off + i, mix, from + i);
        page_add_version(d, p, nth, mix);
        p->spoiled = spoiled;
    }
}

void sim_media_discard(struct sim_disk *d, uint64_t nth, uint64_t off, uint64_t len)
{
    uint64_t salt = sim_rand(d->world);
    d->done++;
    for (uint64_t i = 0; i < len; i += BLOCK_SIZE) {
        struct sim_page *p = page_find(d, (off + i) / BLOCK_SIZE);
        uint64_t x = sim_mix(salt ^ i);
        if (!p || x % 3 == 0)
            continue;
        uint8_t garbage[BLOCK_SIZE];
        memset(garbage, x % 3 == 1 ? 0 : (uint8_t)(x >> 32), sizeof garbage);
        page_add_version(d, p, nth, garbage);
    }
}

void sim_media_flush(struct sim_disk *d, uint64_t done)
{
    list_for_each_safe (l, &d->volatile_pages) {
        struct sim_page *p = container_of(l, struct sim_page, volatile_node);
        while (p->first && p->first->done <= done) {
            struct sim_version *v = page_pop_version(p);
            free(p->data);
            p->data = v->data;
            free(v);
        }
    }
}

void sim_media_settle(struct sim_disk *d)
{
    sim_cache_clear(d);
    for (struct list *l; (l = d->volatile_pages.next) != &d->volatile_pages;) {
        struct sim_page *p = container_of(l, struct sim_page, volatile_node);
        uint8_t mix[BLOCK_SIZE];
        memcpy(mix, contents(p->data), BLOCK_SIZE);
        for (struct sim_version *v = p->first; v; v = v->next)
            overlay_sectors(d, v->nth, p->no * BLOCK_SIZE, mix, contents(v->data));
        page_drop_versions(p);
        free(p->data);
        p->data = contents_new(mix);
    }
}

/* ---- late writes ---- */

static void late_land(struct sim_late *late)
{
    struct sim_disk *d = late->disk;
    sim_note(d->world, NULL, 20, late->nth, "%s: write %llu of a killed process lands late", d->name,
             (unsigned long long)late->nth);
    sim_media_write_torn(d, late->nth, late->off, late->data, late->len);
    sim_cache_drop(d, late->nth, late->off, late->len);
    sim_event_cancel(d->world, &late->event);
    list_remove(&late->node);
    free(late->data);
    free(late);
}

static void late_event(struct sim_event *e)
{
    late_land(container_of(e, struct sim_late, event));
}

void sim_media_land_late(struct sim_disk *d)
{
    list_for_each_safe (l, &d->late)
        late_land(container_of(l, struct sim_late, node));
}

void sim_media_add_late(struct sim_disk *d, uint64_t nth, uint64_t off, uint64_t len, uint8_t *data, uint64_t at_ns)
{
    struct sim_late *late = calloc(1, sizeof *late);
    assert(late);
    *late = (struct sim_late){.event.fn = late_event, .disk = d, .nth = nth, .off = off, .len = len, .data = data};
    list_push_back(&d->late, &late->node);
    sim_event_set(d->world, &late->event, at_ns);
}

void sim_disk_power_cut(struct sim_disk *d)
{
    assert(!d->holder && list_empty(&d->in_flight));
    sim_media_land_late(d);
    d->salt = sim_rand(d->world);
    sim_media_settle(d);
}

/* ---- what tests do to contents ---- */

void sim_disk_peek(const struct sim_disk *d, uint64_t off, void *to, size_t len)
{
    assert(off <= d->size_bytes && len <= d->size_bytes - off);
    for (uint8_t *at = to; len > 0;) {
        uint32_t in = (uint32_t)(off % BLOCK_SIZE);
        size_t part = len < BLOCK_SIZE - in ? len : BLOCK_SIZE - in;
        memcpy(at, page_current(page_find(d, off / BLOCK_SIZE)) + in, part);
        at += part;
        off += part;
        len -= part;
    }
}

void sim_disk_peek_durable(const struct sim_disk *d, uint64_t off, void *to, size_t len)
{
    assert(off <= d->size_bytes && len <= d->size_bytes - off);
    for (uint8_t *at = to; len > 0;) {
        uint32_t in = (uint32_t)(off % BLOCK_SIZE);
        size_t part = len < BLOCK_SIZE - in ? len : BLOCK_SIZE - in;
        const struct sim_page *p = page_find(d, off / BLOCK_SIZE);
        memcpy(at, (p ? contents(p->data) : zero_page) + in, part);
        at += part;
        off += part;
        len -= part;
    }
}

const uint8_t *sim_disk_page(const struct sim_disk *d, uint64_t off, bool durable)
{
    assert(off % BLOCK_SIZE == 0 && off < d->size_bytes);
    const struct sim_page *p = page_find(d, off / BLOCK_SIZE);
    return durable ? (p ? contents(p->data) : zero_page) : page_current(p);
}

bool sim_disk_is_blank(const struct sim_disk *d, uint64_t off)
{
    const uint8_t *page = sim_disk_page(d, off, false);
    return page == zero_page || is_zero(page);
}

/* Changes bytes of one page's contents, which may so far have been all zero. */
static void contents_change(uint8_t **data, uint32_t in, const uint8_t *from, size_t len)
{
    if (!*data) {
        *data = calloc(1, BLOCK_SIZE);
        assert(*data);
    }
    memcpy(*data + in, from, len);
}

void sim_disk_poke(struct sim_disk *d, uint64_t off, const void *from, size_t len)
{
    assert(off <= d->size_bytes && len <= d->size_bytes - off);
    for (const uint8_t *at = from; len > 0;) {
        uint32_t in = (uint32_t)(off % BLOCK_SIZE);
        size_t part = len < BLOCK_SIZE - in ? len : BLOCK_SIZE - in;
        struct sim_page *p = page_get(d, off / BLOCK_SIZE);
        contents_change(&p->data, in, at, part);
        for (struct sim_version *v = p->first; v; v = v->next)
            contents_change(&v->data, in, at, part);
        at += part;
        off += part;
        len -= part;
    }
}

void sim_disk_flip(struct sim_disk *d, uint64_t byte_off, unsigned bit)
{
    uint8_t byte;
    sim_disk_peek(d, byte_off, &byte, 1);
    byte ^= (uint8_t)(1u << (bit & 7));
    sim_note(d->world, NULL, 21, byte_off, "%s: bit %u of byte %llu rots", d->name, bit, (unsigned long long)byte_off);
    sim_disk_poke(d, byte_off, &byte, 1);
}

void sim_disk_spoil(struct sim_disk *d, uint64_t off, uint64_t len)
{
    assert(off % BLOCK_SIZE == 0 && len % BLOCK_SIZE == 0 && off <= d->size_bytes && len <= d->size_bytes - off);
    sim_note(d->world, NULL, 22, off, "%s: %llu bytes at %llu can't be read any more", d->name, (unsigned long long)len,
             (unsigned long long)off);
    for (uint64_t i = 0; i < len; i += BLOCK_SIZE)
        page_get(d, (off + i) / BLOCK_SIZE)->spoiled = true;
}

/* ---- disks and directories ---- */

static void pages_free(struct sim_disk *d)
{
    for (uint64_t i = 0; i < d->n_leaves; i++) {
        struct sim_page **leaf = d->leaves[i];
        if (!leaf)
            continue;
        for (uint32_t k = 0; k < LEAF_PAGES; k++) {
            if (!leaf[k])
                continue;
            page_drop_versions(leaf[k]);
            free(leaf[k]->data);
            free(leaf[k]);
        }
        free(leaf);
        d->leaves[i] = NULL;
    }
}

static void late_drop(struct sim_disk *d)
{
    list_for_each_safe (l, &d->late) {
        struct sim_late *late = container_of(l, struct sim_late, node);
        sim_event_cancel(d->world, &late->event);
        list_remove(&late->node);
        free(late->data);
        free(late);
    }
}

void sim_disk_wipe(struct sim_disk *d)
{
    assert(!d->holder && list_empty(&d->in_flight));
    sim_note(d->world, NULL, 23, d->id, "%s: wiped", d->name);
    late_drop(d);
    pages_free(d);
    sim_cache_clear(d);
}

void sim_disk_copy(struct sim_disk *to, const struct sim_disk *from)
{
    assert(to->size_bytes == from->size_bytes && list_empty(&to->in_flight));
    late_drop(to);
    pages_free(to);
    sim_cache_clear(to);
    for (uint64_t i = 0; i < from->n_leaves; i++) {
        for (uint32_t k = 0; from->leaves[i] && k < LEAF_PAGES; k++) {
            const struct sim_page *p = from->leaves[i][k];
            if (!p)
                continue;
            struct sim_page *q = page_get(to, p->no);
            q->data = contents_new(page_current(p));
            q->spoiled = p->spoiled;
        }
    }
}

struct sim_disk *sim_disk_new(struct sim_world *w, struct sim_dir *dir, const char *name, uint64_t size_bytes)
{
    assert(size_bytes > 0 && size_bytes % BLOCK_SIZE == 0 && strlen(name) < NAME_MAX_BYTES);
    assert(!dir || !sim_dir_find(dir, name));
    struct sim_disk *d = calloc(1, sizeof *d);
    assert(d);
    d->world = w;
    d->dir = dir;
    d->id = ++w->n_disks;
    strcpy(d->name, name);
    d->size_bytes = size_bytes;
    d->n_leaves = (size_bytes / BLOCK_SIZE + LEAF_PAGES - 1) / LEAF_PAGES;
    d->leaves = calloc(d->n_leaves, sizeof d->leaves[0]);
    assert(d->leaves);
    list_init(&d->volatile_pages);
    list_init(&d->in_flight);
    list_init(&d->late);
    list_init(&d->dir_node);
    d->late_one_in = 4;
    d->late_ns = 5 * NS_PER_MS;
    d->timing = (struct sim_disk_timing){w->config.read_ns, w->config.write_ns, w->config.durable_ns,
                                         w->config.flush_ns, w->config.discard_ns};
    list_push_back(&w->disks, &d->node);
    if (dir) {
        list_push_back(&dir->disks, &d->dir_node);
        sim_disk_set_hook(d, dir->hook, dir->hook_user);
    }
    return d;
}

void sim_disk_free(struct sim_disk *d)
{
    assert(list_empty(&d->in_flight));
    late_drop(d);
    pages_free(d);
    sim_cache_clear(d);
    free(d->leaves);
    list_remove(&d->node);
    list_remove(&d->dir_node);
    free(d);
}

void sim_disk_remove(struct sim_disk *d)
{
    assert(!d->holder);
    sim_note(d->world, NULL, 24, d->id, "%s: removed", d->name);
    sim_disk_free(d);
}

struct sim_dir *sim_dir_new(struct sim_world *w, const char *path, uint64_t capacity_bytes)
{
    struct sim_dir *d = calloc(1, sizeof *d);
    assert(d && strlen(path) < sizeof d->path);
    d->world = w;
    strcpy(d->path, path);
    d->capacity_bytes = capacity_bytes;
    list_init(&d->disks);
    list_push_back(&w->dirs, &d->node);
    return d;
}

void sim_dir_set_capacity(struct sim_dir *d, uint64_t capacity_bytes)
{
    d->capacity_bytes = capacity_bytes;
}

void sim_dir_set_hook(struct sim_dir *d, void (*hook)(void *, struct sim_disk *, const struct sim_io_info *), void *user)
{
    d->hook = hook;
    d->hook_user = user;
    list_for_each (l, &d->disks)
        sim_disk_set_hook(container_of(l, struct sim_disk, dir_node), hook, user);
}

struct sim_disk *sim_dir_next(struct sim_dir *d, struct sim_disk *after)
{
    struct list *l = after ? after->dir_node.next : d->disks.next;
    return l == &d->disks ? NULL : container_of(l, struct sim_disk, dir_node);
}

uint64_t sim_dir_refused(const struct sim_dir *d)
{
    return d->refused;
}

uint64_t sim_dir_used(const struct sim_dir *d)
{
    uint64_t sum = 0;
    list_for_each (l, &d->disks)
        sum += container_of(l, struct sim_disk, dir_node)->size_bytes;
    return sum;
}

struct sim_disk *sim_dir_find(struct sim_dir *d, const char *name)
{
    list_for_each (l, &d->disks) {
        struct sim_disk *disk = container_of(l, struct sim_disk, dir_node);
        if (strcmp(disk->name, name) == 0)
            return disk;
    }
    return NULL;
}

void sim_disks_free(struct sim_world *w)
{
    while (!list_empty(&w->disks))
        sim_disk_free(container_of(w->disks.next, struct sim_disk, node));
    for (struct list *l; (l = list_pop_front(&w->dirs));)
        free(container_of(l, struct sim_dir, node));
}

const char *sim_disk_name(const struct sim_disk *d)
{
    return d->name;
}

struct sim_dir *sim_disk_dir(const struct sim_disk *d)
{
    return d->dir;
}

uint64_t sim_disk_size(const struct sim_disk *d)
{
    return d->size_bytes;
}

uint64_t sim_disk_count(const struct sim_disk *d, enum sim_io kind)
{
    return d->count[kind];
}

struct sim_disk_timing *sim_disk_timing(struct sim_disk *d)
{
    return &d->timing;
}

void sim_disk_set_hook(struct sim_disk *d, void (*hook)(void *, struct sim_disk *, const struct sim_io_info *),
                       void *user)
{
    d->hook = hook;
    d->hook_user = user;
}

void sim_disk_set_landing(struct sim_disk *d, bool (*landed)(void *, struct sim_disk *, uint64_t, uint64_t), void *user)
{
    d->landed = landed;
    d->landed_user = user;
}

void sim_disk_set_late(struct sim_disk *d, uint32_t one_in, uint64_t late_ns)
{
    d->late_one_in = one_in;
    d->late_ns = late_ns;
}

void sim_disk_fail(struct sim_disk *d, enum sim_io kind, uint32_t after, uint32_t times, int err)
{
    assert(err > 0);
    d->fault[kind] = (struct sim_fault){after, times, err};
}

void sim_disk_misdirect(struct sim_disk *d, uint64_t nth, uint64_t to_off)
{
    assert(to_off % BLOCK_SIZE == 0);
    d->misdirect_nth = nth;
    d->misdirect_off = to_off;
}
