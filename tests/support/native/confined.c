/* The confinement of the native program as calls of a library, for processes in Python. */
#include "confinement.h"

static struct configuration configuration;

bool configure(const char *data, size_t size)
{
    return read_configuration(data, size, &configuration);
}

/* Confine the calling process like a zygote that has loaded its machine code. */
void become_zygote(void)
{
    confine_zygote(&configuration);
    load_filter(configuration.loaded_filter);
}

/* Confine the calling process, which a zygote forked, like a child that has its request. */
void become_child(uint64_t cpu_seconds, const int *descriptors, int count)
{
    limit_child(&configuration, cpu_seconds);
    if (count)
        restrict_to_directory(&configuration, descriptors, count);
    load_filter(configuration.child_filter);
}
