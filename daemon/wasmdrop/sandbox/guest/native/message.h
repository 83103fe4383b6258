/* The messages that the zygote reads: its configuration, and the requests of its children.
 *
 * wasmdrop/sandbox/native_wire.py defines and encodes them. The readers copy nothing: all strings
 * point into the message, which must outlive them. A NUL follows each string.
 */
#ifndef MESSAGE_H
#define MESSAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { MAX_VALUES = 1000 };

struct text { const char *data; uint32_t size; };

struct texts { uint32_t count; const char **data; };
/* Of paths and contents. */
struct files { uint32_t count; struct text *paths, *contents; };

struct limit { uint64_t resource, soft, hard; };
struct rule { uint64_t rights, fd; };

/* How to prepare a module, and how to confine its processes. */
struct configuration {
    struct {
        uint64_t max_stack_bytes;
        uint64_t counts_fuel, has_wasi, has_directory, has_memory;
        uint64_t fuel;
        int64_t first_memory_bytes, first_table_elements, memory_bytes, table_elements;
        uint64_t child_processes, highest_cpu_seconds;
        uint64_t has_landlock, file_rights, network_rights, scopes, directory_rights, grant_rights;
    } number;
    struct text memory; /* an export, if the module has_memory */
    struct text refused_memory, refused_table; /* exports; empty if there is none */
    struct text limits, rules; /* arrays of `struct limit` and `struct rule` */
    struct text zygote_filter, loaded_filter, child_filter;
};

/* One call. */
struct request {
    bool initialize;
    struct text entry;
    struct text kinds; /* a kind of value per parameter */
    const char *values; /* 8 bytes per parameter */
    uint32_t result_count;
    struct texts argv, env_names, env_values, grants;
    struct text input;
    struct files files;
};

/* Read a message. Return false if it is not one. */
bool read_configuration(const char *data, size_t size, struct configuration *configuration);
bool read_request(const char *data, size_t size, struct request *request);

#endif
