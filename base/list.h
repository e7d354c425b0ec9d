/* An intrusive doubly linked circular list. The head is a node of its own. */
#ifndef QBD_BASE_LIST_H
#define QBD_BASE_LIST_H

#include <stdbool.h>

struct list {
    struct list *prev, *next;
};

#define LIST_INIT(l) { &(l), &(l) }

static inline void list_init(struct list *l)
{
    l->prev = l->next = l;
}

static inline bool list_empty(const struct list *l)
{
    return l->next == l;
}

static inline void list_insert(struct list *prev, struct list *next, struct list *n)
{
    n->prev = prev;
    n->next = next;
    prev->next = n;
    next->prev = n;
}

static inline void list_push_back(struct list *head, struct list *n)
{
    list_insert(head->prev, head, n);
}

static inline void list_push_front(struct list *head, struct list *n)
{
    list_insert(head, head->next, n);
}

/* Takes n out and makes it an empty list of its own, so that removing twice is harmless. */
static inline void list_remove(struct list *n)
{
    n->prev->next = n->next;
    n->next->prev = n->prev;
    list_init(n);
}

static inline struct list *list_pop_front(struct list *head)
{
    struct list *n = head->next;
    if (n == head)
        return (struct list *)0;
    list_remove(n);
    return n;
}

#define list_for_each(pos, head) for (struct list *pos = (head)->next; pos != (head); pos = pos->next)
#define list_for_each_safe(pos, head) \
    for (struct list *pos = (head)->next, *pos##_next = pos->next; pos != (head); pos = pos##_next, pos##_next = pos->next)

#endif
