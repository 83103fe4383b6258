/* Confinement, applied as the configuration says: limits, Landlock rules and filters.
 *
 * wasmdrop/sandbox/confinement makes the data. Each function ends the process if the kernel
 * refuses: nothing runs with less confinement than it should have.
 */
#ifndef CONFINEMENT_H
#define CONFINEMENT_H

#include "message.h"

#include <sys/types.h>

enum { LINK_FD = 3 };

/* Confine the zygote: limits and Landlock, then the filter that forbids changing them. */
void confine_zygote(const struct configuration *configuration);

/* Load a filter on top of the present ones, if it is not empty. */
void load_filter(struct text filter);

/* Detach a child from the zygote `parent`: it dies with it, and has only the null device as
 * standard input, `streams` (or the null device) as its output, and the link. */
void detach_child(pid_t parent, int link, const int *streams, int stream_count);

/* Set the limits that the child does not inherit. */
void limit_child(const struct configuration *configuration, uint64_t cpu_seconds);

/* Restrict a child to its own directory and its grants; all descriptors follow one another. */
void restrict_to_directory(
    const struct configuration *configuration, const int *descriptors, int count);

#endif
