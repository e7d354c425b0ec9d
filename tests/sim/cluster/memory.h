/* The memory of one run: everything that malloc() gives between begin and end is dropped at the end, also what crashed processes left behind. */
#ifndef QBD_TESTS_SIM_CLUSTER_MEMORY_H
#define QBD_TESTS_SIM_CLUSTER_MEMORY_H

#include <stdbool.h>

/* False in sanitizer builds, which need their own allocator: each run then needs a process of its own. */
bool memory_is_ours(void);
void memory_begin(void);
void memory_end(void);

#endif
