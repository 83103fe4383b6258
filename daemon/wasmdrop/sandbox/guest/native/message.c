#include "message.h"

#include <stdlib.h>
#include <string.h>

/* The part of a message that is not read yet. */
struct reader { const char *next; size_t left; bool failed; };

static const char *take(struct reader *reader, size_t size)
{
    if (reader->failed || size > reader->left) {
        reader->failed = true;
        return NULL;
    }
    const char *taken = reader->next;
    reader->next += size;
    reader->left -= size;
    return taken;
}

static uint32_t take_u32(struct reader *reader)
{
    uint32_t value = 0;
    const char *data = take(reader, sizeof value);
    if (data)
        memcpy(&value, data, sizeof value);
    return value;
}

static uint64_t take_u64(struct reader *reader)
{
    uint64_t value = 0;
    const char *data = take(reader, sizeof value);
    if (data)
        memcpy(&value, data, sizeof value);
    return value;
}

static struct text take_text(struct reader *reader)
{
    uint32_t size = take_u32(reader);
    const char *data = take(reader, (size_t)size + 1);
    if (!data || data[size] != '\0') {
        reader->failed = true;
        return (struct text){"", 0};
    }
    return (struct text){data, size};
}

/* A text without a NUL inside, for functions that take C strings. */
static const char *take_string(struct reader *reader)
{
    struct text text = take_text(reader);
    if (memchr(text.data, '\0', text.size))
        reader->failed = true;
    return text.data;
}

/* A number of items of at least `item_bytes` each, which the rest of the message can hold. */
static uint32_t take_count(struct reader *reader, size_t item_bytes)
{
    uint32_t count = take_u32(reader);
    if (count > reader->left / item_bytes)
        reader->failed = true;
    return reader->failed ? 0 : count;
}

static void *allocate(struct reader *reader, size_t count, size_t size)
{
    void *memory = calloc(count ? count : 1, size);
    if (!memory)
        reader->failed = true;
    return memory;
}

static struct texts take_texts(struct reader *reader)
{
    struct texts texts = {take_count(reader, 5), NULL};
    texts.data = allocate(reader, texts.count, sizeof *texts.data);
    for (uint32_t index = 0; index < texts.count && !reader->failed; index++)
        texts.data[index] = take_string(reader);
    return texts;
}

static struct pairs take_pairs(struct reader *reader)
{
    struct pairs pairs = {take_count(reader, 10), NULL, NULL};
    pairs.first = allocate(reader, pairs.count, sizeof *pairs.first);
    pairs.second = allocate(reader, pairs.count, sizeof *pairs.second);
    for (uint32_t index = 0; index < pairs.count && !reader->failed; index++) {
        pairs.first[index] = take_text(reader);
        pairs.second[index] = take_text(reader);
    }
    return pairs;
}

bool read_request(char *data, size_t size, struct request *request)
{
    struct reader reader = {data, size, false};
    request->initialize = take_u32(&reader) != 0;
    request->entry = take_text(&reader);
    request->kinds = take_text(&reader);
    request->values = take(&reader, (size_t)request->kinds.size * sizeof(uint64_t));
    request->result_count = take_u32(&reader);
    request->argv = take_texts(&reader);
    request->env_names = take_texts(&reader);
    request->env_values = take_texts(&reader);
    request->grants = take_texts(&reader);
    request->input = take_text(&reader);
    request->files = take_pairs(&reader);
    return !reader.failed && reader.left == 0 && request->kinds.size <= MAX_VALUES
        && request->result_count <= MAX_VALUES
        && request->env_names.count == request->env_values.count;
}

bool read_configuration(char *data, size_t size, struct configuration *it)
{
    struct reader reader = {data, size, false};
    it->counts_fuel = take_u32(&reader) != 0;
    it->has_wasi = take_u32(&reader) != 0;
    it->has_directory = take_u32(&reader) != 0;
    it->fuel = take_u64(&reader);
    it->first_memory_bytes = (int64_t)take_u64(&reader);
    it->first_table_elements = (int64_t)take_u64(&reader);
    it->memory_bytes = (int64_t)take_u64(&reader);
    it->table_elements = (int64_t)take_u64(&reader);
    it->output_bytes = take_u64(&reader);
    it->memory = take_text(&reader);
    it->refused_memory = take_text(&reader);
    it->refused_table = take_text(&reader);
    it->limit_count = take_u32(&reader);
    for (uint32_t index = 0; index < it->limit_count && index < MAX_LIMITS; index++) {
        it->limits[index].resource = take_u32(&reader);
        it->limits[index].soft = take_u64(&reader);
        it->limits[index].hard = take_u64(&reader);
    }
    it->child_processes = take_u64(&reader);
    it->highest_cpu_seconds = take_u64(&reader);
    it->has_landlock = take_u32(&reader) != 0;
    it->file_rights = take_u64(&reader);
    it->network_rights = take_u64(&reader);
    it->scopes = take_u64(&reader);
    it->directory_rights = take_u64(&reader);
    it->grant_rights = take_u64(&reader);
    it->rule_count = take_u32(&reader);
    for (uint32_t index = 0; index < it->rule_count && index < MAX_RULES; index++) {
        it->rules[index].rights = take_u64(&reader);
        it->rules[index].fd = take_u32(&reader);
    }
    for (uint32_t index = 0; index < MAX_FILTERS; index++)
        it->filters[index] = take_text(&reader);
    return !reader.failed && reader.left == 0 && it->limit_count <= MAX_LIMITS
        && it->rule_count <= MAX_RULES;
}
