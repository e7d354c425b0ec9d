/* Messages of operators' tools: groups are made, the status is asked for, where a replica lives, who is streamed to, who
 * votes (docs/rebuild.md section 6).
 *
 * What always holds: as in wire_codec.c, what a decoder lets through has been checked in every field. */
#include "base/wire_codec.h"
#include "base/wire_format.h"

/* ---- groups and the status ---- */

size_t wire_encode_create(const struct msg *m, uint8_t *to)
{
    struct wire_create w = {.size_blocks = m->u.create.size_blocks};
    assert(w.size_blocks >= 1);
    memcpy(to, &w, sizeof w);
    wire_encode_membership(to + offsetof(struct wire_create, membership), &m->u.create.membership);
    return sizeof w;
}

const char *wire_decode_create(const struct body *b, struct msg *m)
{
    const struct wire_create *w = (const void *)b->p;
    if (w->size_blocks < 1 || w->size_blocks > UINT64_MAX >> BLOCK_SHIFT ||
        !membership_is_valid(&w->membership))
        return "a CREATE of an impossible size or membership";
    m->u.create.size_blocks = w->size_blocks;
    m->u.create.membership = w->membership;
    return NULL;
}

size_t wire_encode_created(const struct msg *m, uint8_t *to)
{
    struct wire_created w = {.error = m->u.created.error};
    memcpy(to, &w, sizeof w);
    return sizeof w;
}

const char *wire_decode_created(const struct body *b, struct msg *m)
{
    const struct wire_created *w = (const void *)b->p;
    if (w->error < 0 || w->error > 4095 || w->reserved != 0)
        return "a malformed CREATED";
    m->u.created.error = w->error;
    m->u.created.reserved = 0;
    return NULL;
}

size_t wire_encode_status_reply(const struct msg *m, uint8_t *to)
{
    assert(m->u.status_reply.len <= WIRE_BODY_MAX);
    if (m->u.status_reply.len)
        memcpy(to, m->u.status_reply.json, m->u.status_reply.len);
    return m->u.status_reply.len;
}

const char *wire_decode_status_reply(const struct body *b, struct msg *m)
{
    m->u.status_reply.json = (const char *)b->p;
    m->u.status_reply.len = b->len;
    return NULL;
}

/* ---- who lives where, who votes ---- */

/* Ends within its field, with nothing behind the end. */
static bool text_is_valid(const char *text, size_t size)
{
    size_t n = strnlen(text, size);
    if (n == size)
        return false;
    while (n < size)
        if (text[n++] != 0)
            return false;
    return true;
}

size_t wire_encode_address(const struct msg *m, uint8_t *to)
{
    struct wire_address w = {.identity = m->u.address.identity};
    assert(!uuid_is_zero(&w.identity));
    wire_encode_name(w.name, m->u.address.name, sizeof w.name);
    wire_encode_name(w.address, m->u.address.address, sizeof w.address);
    memcpy(to, &w, sizeof w);
    return sizeof w;
}

const char *wire_decode_address(const struct body *b, struct msg *m)
{
    const struct wire_address *w = (const void *)b->p;
    if (uuid_is_zero(&w->identity) || !w->name[0] || !text_is_valid(w->name, sizeof w->name) || !w->address[0] ||
        !text_is_valid(w->address, sizeof w->address))
        return "an ADDRESS of nobody or nowhere";
    m->u.address.identity = w->identity;
    memcpy(m->u.address.name, w->name, sizeof w->name);
    memcpy(m->u.address.address, w->address, sizeof w->address);
    return NULL;
}

size_t wire_encode_members(const struct msg *m, uint8_t *to)
{
    struct wire_members w = {.verb = m->u.members.verb};
    assert(w.verb >= MEMBERS_LEARN && w.verb <= MEMBERS_CHANGE);
    memcpy(to, &w, sizeof w);
    wire_encode_membership(to + offsetof(struct wire_members, membership), &m->u.members.membership);
    return sizeof w;
}

const char *wire_decode_members(const struct body *b, struct msg *m)
{
    const struct wire_members *w = (const void *)b->p;
    if (w->verb < MEMBERS_LEARN || w->verb > MEMBERS_CHANGE || w->reserved != 0 ||
        !membership_is_valid(&w->membership) || (w->verb != MEMBERS_CHANGE && w->membership.n_voters != 1))
        return "a MEMBERS of an unknown verb, or of impossible members";
    m->u.members.verb = w->verb;
    m->u.members.reserved = 0;
    m->u.members.membership = w->membership;
    return NULL;
}

size_t wire_encode_done(const struct msg *m, uint8_t *to)
{
    struct wire_done w = {.error = m->u.done.error};
    assert(w.error >= 0 && w.error <= 4095);
    wire_encode_name(w.text, m->u.done.text, sizeof w.text);
    memcpy(to, &w, sizeof w);
    return sizeof w;
}

const char *wire_decode_done(const struct body *b, struct msg *m)
{
    const struct wire_done *w = (const void *)b->p;
    if (w->error < 0 || w->error > 4095 || w->reserved != 0 || !text_is_valid(w->text, sizeof w->text))
        return "a malformed DONE";
    m->u.done.error = w->error;
    m->u.done.reserved = 0;
    memcpy(m->u.done.text, w->text, sizeof w->text);
    return NULL;
}
