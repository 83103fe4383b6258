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

static struct files take_files(struct reader *reader)
{
    struct files files = {take_count(reader, 10), NULL, NULL};
    files.paths = allocate(reader, files.count, sizeof *files.paths);
    files.contents = allocate(reader, files.count, sizeof *files.contents);
    for (uint32_t index = 0; index < files.count && !reader->failed; index++) {
        files.paths[index] = take_text(reader);
        files.contents[index] = take_text(reader);
    }
    return files;
}

bool read_request(const char *data, size_t size, struct request *request)
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
    request->files = take_files(&reader);
    return !reader.failed && reader.left == 0 && request->kinds.size <= MAX_VALUES
        && request->result_count <= MAX_VALUES
        && request->env_names.count == request->env_values.count;
}

bool read_configuration(const char *data, size_t size, struct configuration *it)
{
    struct reader reader = {data, size, false};
    const char *numbers = take(&reader, sizeof it->number);
    if (numbers)
        memcpy(&it->number, numbers, sizeof it->number);
    it->memory = take_text(&reader);
    it->refused_memory = take_text(&reader);
    it->refused_table = take_text(&reader);
    it->limits = take_text(&reader);
    it->rules = take_text(&reader);
    it->zygote_filter = take_text(&reader);
    it->loaded_filter = take_text(&reader);
    it->child_filter = take_text(&reader);
    return !reader.failed && reader.left == 0;
}
