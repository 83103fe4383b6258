/* Fuzzes the readers of messages: libFuzzer calls LLVMFuzzerTestOneInput with any bytes.
 *
 * The first byte selects the reader. The address sanitizer finds a reader that leaves the message,
 * and the uses below find texts that do.
 */
#include "message.h"

#include <stdlib.h>
#include <string.h>

static volatile unsigned sum;

static void use(const char *data, size_t size)
{
    for (size_t index = 0; index < size; index++)
        sum += (unsigned char)data[index];
}

static void use_text(struct text text)
{
    use(text.data, (size_t)text.size + 1);
    if (text.data[text.size] != '\0')
        abort();
}

static void use_texts(struct texts texts)
{
    for (uint32_t index = 0; index < texts.count; index++)
        use(texts.data[index], strlen(texts.data[index]) + 1);
}

static void use_request(const struct request *request)
{
    use_text(request->entry);
    use_text(request->kinds);
    use(request->values, (size_t)request->kinds.size * 8);
    use_texts(request->argv);
    use_texts(request->env_names);
    use_texts(request->env_values);
    use_texts(request->grants);
    use_text(request->input);
    for (uint32_t index = 0; index < request->files.count; index++) {
        use_text(request->files.paths[index]);
        use_text(request->files.contents[index]);
    }
    if (request->kinds.size > MAX_VALUES || request->result_count > MAX_VALUES
        || request->env_names.count != request->env_values.count)
        abort();
}

static void use_configuration(const struct configuration *configuration)
{
    use_text(configuration->memory);
    use_text(configuration->refused_memory);
    use_text(configuration->refused_table);
    use_text(configuration->limits);
    use_text(configuration->rules);
    use_text(configuration->zygote_filter);
    use_text(configuration->loaded_filter);
    use_text(configuration->child_filter);
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size)
{
    if (size == 0)
        return 0;
    /* A block of the very size: the sanitizer sees each byte that is read beyond it. */
    char *message = malloc(size - 1 ? size - 1 : 1);
    if (!message)
        return 0;
    memcpy(message, data + 1, size - 1);
    if (data[0] % 2) {
        struct configuration configuration = {0};
        if (read_configuration(message, size - 1, &configuration))
            use_configuration(&configuration);
    } else {
        struct request request = {0};
        if (read_request(message, size - 1, &request))
            use_request(&request);
        free(request.argv.data);
        free(request.env_names.data);
        free(request.env_values.data);
        free(request.grants.data);
        free(request.files.paths);
        free(request.files.contents);
    }
    free(message);
    return 0;
}
