#include "wasmtime_api.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

struct wasmtime_api wt;

const char *open_wasmtime(int file)
{
    char path[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL), *found;
    if (!library)
        return dlerror();
    /* ISO C has no conversion from an object pointer to a function pointer. */
#define LOOK_UP(type, name, parameters) \
    found = dlsym(library, #name); \
    if (!found) \
        return "wasmtime's library has no function " #name; \
    memcpy(&wt.name, &found, sizeof found);
    WASMTIME_FUNCTIONS(LOOK_UP)
#undef LOOK_UP
    return NULL;
}
