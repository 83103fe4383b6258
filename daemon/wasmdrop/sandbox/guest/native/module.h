/* A module: prepared once by the zygote, and called once by each child. */
#ifndef MODULE_H
#define MODULE_H

#include "message.h"

/* Load the machine code that is open at `code`; link and instantiate it. Each reports a failure to
 * `link`, and then returns false. */
bool load_module(const struct configuration *configuration, int code, int link);
bool instantiate_module(int link);

/* Call the module as the request says, report to `link`, and exit when the link is closed.
 *
 * `descriptors`: the job's own directory and its grants, if it has them. */
_Noreturn void call_module(
    const struct request *request, int link, const int *descriptors, int count);

#endif
