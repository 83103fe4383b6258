#include "wasmtime_api.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct wasmtime_api wt;

static void *look_up(void *library, const char *name)
{
    void *found = dlsym(library, name);
    if (!found) {
        fprintf(stderr, "zygote: wasmtime has no function %s\n", name);
        exit(1);
    }
    return found;
}

void open_wasmtime(const char *path)
{
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        fprintf(stderr, "zygote: %s\n", dlerror());
        exit(1);
    }
    void *found;
    /* ISO C has no conversion from an object pointer to a function pointer. */
#define LOOK_UP(type, name, parameters) \
    found = look_up(library, #name); \
    memcpy(&wt.name, &found, sizeof found);
    WASMTIME_FUNCTIONS(LOOK_UP)
#undef LOOK_UP
}
