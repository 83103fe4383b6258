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

enum { MAX_VALUES = 1000, MAX_FILTERS = 3, MAX_LIMITS = 16, MAX_RULES = 32 };

struct text { const char *data; uint32_t size; };

/* Pairs are a name and a value, or a path and a content. */
struct texts { uint32_t count; const char **data; };
struct pairs { uint32_t count; struct text *first, *second; };

struct limit { uint32_t resource; uint64_t soft, hard; };
struct rule { uint64_t rights; uint32_t fd; };

/* How to prepare a module, and how to confine its processes. */
struct configuration {
    bool counts_fuel, has_wasi, has_directory;
    uint64_t fuel;
    int64_t first_memory_bytes, first_table_elements, memory_bytes, table_elements;
    uint64_t output_bytes;
    struct text memory, refused_memory, refused_table; /* exports; empty if there is none */
    uint32_t limit_count;
    struct limit limits[MAX_LIMITS];
    uint64_t child_processes, highest_cpu_seconds;
    bool has_landlock;
    uint64_t file_rights, network_rights, scopes, directory_rights, grant_rights;
    uint32_t rule_count;
    struct rule rules[MAX_RULES];
    struct text filters[MAX_FILTERS];
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
    struct pairs files;
};

/* Read a message. Return false if it is not one. */
bool read_configuration(char *data, size_t size, struct configuration *configuration);
bool read_request(char *data, size_t size, struct request *request);

#endif
