/* A module: prepared once by the zygote, and called once by each child. */
#ifndef MODULE_H
#define MODULE_H

#include "message.h"

/* Load the machine code that is open at `code`, link and instantiate it. Return the error to
 * report, and its kind in `result`; NULL if the module is prepared. */
const char *load_module(const struct configuration *configuration, int code, int *result);
const char *instantiate_module(const struct configuration *configuration, int *result);

/* Call the module as the request says, report to `link`, and exit when the link is closed.
 *
 * `descriptors`: the job's own directory and its grants, if it has them. */
_Noreturn void call_module(const struct configuration *configuration,
    const struct request *request, int link, const int *descriptors, int count);

#endif
