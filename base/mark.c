/* All marks stand one behind the other in a section of their own; the linker names its ends. */
#include "base/mark.h"

#include <assert.h>

extern struct mark __start_qbd_marks[] __attribute__((weak));
extern struct mark __stop_qbd_marks[] __attribute__((weak));

static_assert(sizeof(struct mark) == 16, "an array of them has no gaps, as the section has none");

struct mark *mark_first(void)
{
    return __start_qbd_marks;
}

size_t mark_count(void)
{
    return (size_t)(__stop_qbd_marks - __start_qbd_marks);
}
