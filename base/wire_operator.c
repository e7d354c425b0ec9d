/* Messages of operators' tools: where a replica lives, who is streamed to, who votes (docs/rebuild.md §6).
 *
 * What always holds: as in wire_codec.c, what a decoder lets through has been checked in every field. */
#include "base/wire_codec.h"
#include "base/wire_format.h"

static void put_text(char *to, const char *text, size_t size)
{
    size_t n = strnlen(text, size);
    assert(n < size);
    memcpy(to, text, n);
    memset(to + n, 0, size - n);
}

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
    put_text(w.name, m->u.address.name, sizeof w.name);
    put_text(w.address, m->u.address.address, sizeof w.address);
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
    put_text(w.text, m->u.done.text, sizeof w.text);
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
