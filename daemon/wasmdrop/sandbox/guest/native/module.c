#define _GNU_SOURCE
#include "module.h"
#include "report.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* The only instance of the process; host functions and signal handlers report on it. */
static struct {
    const struct configuration *configuration;
    wasm_engine_t *engine;
    wasmtime_linker_t *linker;
    wasmtime_module_t *module;
    wasmtime_store_t *store;
    wasmtime_context_t *context;
    wasmtime_instance_t instance;
    bool has_memory;
    wasmtime_memory_t memory;
    int link;
    double started, cpu_started;
} the;

static double seconds(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static bool find_export(struct text name, uint8_t kind, wasmtime_extern_t *found)
{
    return wt.wasmtime_instance_export_get(
               the.context, &the.instance, name.data, name.size, found)
        && found->kind == kind;
}

/* The record of refused growth, which the machine code keeps in a global; 0 if it keeps none. */
static int64_t refused(struct text name)
{
    wasmtime_extern_t found;
    wasmtime_val_t value;
    if (name.size == 0 || !find_export(name, WASMTIME_EXTERN_GLOBAL, &found))
        return 0;
    wt.wasmtime_global_get(the.context, &found.of.global, &value);
    return value.of.i64;
}

/* Report the end of the call, and exit when the daemon closes the link: an exit takes a core for a
 * while, which the delivery of the results needs more. */
static _Noreturn void end(struct report report, const wasmtime_val_t *values,
    const wasmtime_error_t *error, const wasm_trap_t *trap)
{
    report.run_seconds = seconds(CLOCK_MONOTONIC) - the.started;
    report.cpu_seconds = seconds(CLOCK_PROCESS_CPUTIME_ID) - the.cpu_started;
    report.memory_bytes = the.has_memory
        ? (int64_t)wt.wasmtime_memory_data_size(the.context, &the.memory)
        : the.configuration->number.has_memory ? -1 : 0;
    report.fuel_used = -1;
    uint64_t left;
    if (the.configuration->number.counts_fuel && !wt.wasmtime_context_get_fuel(the.context, &left))
        report.fuel_used = (int64_t)(the.configuration->number.fuel - left);
    report.refused_memory = refused(the.configuration->refused_memory);
    report.refused_table = refused(the.configuration->refused_table);
    send_report(the.link, &report, values, error, trap, NULL);
    char nothing;
    while (read(the.link, &nothing, 1) < 0 && errno == EINTR)
        continue;
    _exit(0);
}

static wasm_trap_t *on_exit_call(void *data, wasmtime_caller_t *caller,
    const wasmtime_val_t *arguments, size_t argument_count, wasmtime_val_t *results,
    size_t result_count)
{
    (void)data, (void)caller, (void)argument_count, (void)results, (void)result_count;
    struct report report = {
        .result = RESULT_EXITED, .exit_code = (uint32_t)arguments[0].of.i32};
    end(report, NULL, NULL, NULL);
}

/* Handle SIGXFSZ: a file has reached the limit of its size. If it is the output of the guest, the
 * call ends with that; if it is another, the process dies of the signal. The kernel sends it only
 * during write(2), so no lock is held. */
static void on_large_file(int number)
{
    (void)number;
    struct rlimit largest;
    /* The filter allows no fstat(2) of the C library. */
    if (getrlimit(RLIMIT_FSIZE, &largest) == 0
        && ((rlim_t)lseek(STDOUT_FILENO, 0, SEEK_END) >= largest.rlim_cur
            || (rlim_t)lseek(STDERR_FILENO, 0, SEEK_END) >= largest.rlim_cur))
        end((struct report){.result = RESULT_OUTPUT_LIMIT}, NULL, NULL, NULL);
    signal(SIGXFSZ, SIG_DFL);
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGXFSZ);
    sigprocmask(SIG_UNBLOCK, &signals, NULL);
    /* The filter forbids kill(2), but not a write past the limit. */
    if (pwrite(STDOUT_FILENO, "", 1, INT64_MAX - 1) < 0)
        abort();
}

static bool fail(int link, uint32_t result, const wasmtime_error_t *error, const wasm_trap_t *trap)
{
    struct report report = {.result = result, .memory_bytes = -1, .fuel_used = -1};
    if (error || trap)
        send_report(link, &report, NULL, error, trap, NULL);
    return error || trap;
}

static void set_limits(int64_t memory_bytes, int64_t table_elements)
{
    wt.wasmtime_store_limiter(the.store, memory_bytes, table_elements, -1, -1, -1);
}

static wasmtime_error_t *define_wasi(void)
{
    wasmtime_error_t *error = wt.wasmtime_linker_define_wasi(the.linker);
    if (error)
        return error;
    /* wasmtime's own proc_exit supports exit codes up to 125 only. */
    wt.wasmtime_linker_allow_shadowing(the.linker, true);
    wasm_valtype_t *number = wt.wasm_valtype_new(WASM_I32);
    wasm_valtype_vec_t parameters, results = {0, NULL};
    wt.wasm_valtype_vec_new(&parameters, 1, &number);
    wasm_functype_t *type = wt.wasm_functype_new(&parameters, &results);
    return wt.wasmtime_linker_define_func(the.linker, "wasi_snapshot_preview1", 22, "proc_exit", 9,
        type, on_exit_call, NULL, NULL);
}

bool load_module(const struct configuration *configuration, int code, int link)
{
    the.configuration = configuration;
    wasm_config_t *config = wt.wasm_config_new();
    /* The same as in wasmdrop/sandbox/guest/engine.py, which compiled the module. */
    wt.wasmtime_config_parallel_compilation_set(config, false);
    wt.wasmtime_config_wasm_custom_page_sizes_set(config, true);
    wt.wasmtime_config_wasm_compact_imports_set(config, true);
    wt.wasmtime_config_max_wasm_stack_set(config, configuration->number.max_stack_bytes);
    wt.wasmtime_config_consume_fuel_set(config, configuration->number.counts_fuel);
    the.engine = wt.wasm_engine_new_with_config(config);
    the.linker = wt.wasmtime_linker_new(the.engine);
    if (configuration->number.has_wasi && fail(link, RESULT_INTERNAL, define_wasi(), NULL))
        return false;
    the.store = wt.wasmtime_store_new(the.engine, NULL, NULL);
    the.context = wt.wasmtime_store_context(the.store);
    char path[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", code);
    wasmtime_error_t *error = wt.wasmtime_module_deserialize_file(the.engine, path, &the.module);
    return !fail(link, RESULT_STALE_CODE, error, NULL);
}

bool instantiate_module(int link)
{
    const struct configuration *configuration = the.configuration;
    set_limits(
        configuration->number.first_memory_bytes, configuration->number.first_table_elements);
    if (configuration->number.counts_fuel)
        wt.wasmtime_context_set_fuel(the.context, configuration->number.fuel);
    wasmtime_instance_pre_t *linked;
    wasm_trap_t *trap = NULL;
    wasmtime_error_t *error = wt.wasmtime_linker_instantiate_pre(the.linker, the.module, &linked);
    if (!error)
        error = wt.wasmtime_instance_pre_instantiate(linked, the.context, &the.instance, &trap);
    if (fail(link, RESULT_FAILED, error, trap))
        return false;
    set_limits(configuration->number.memory_bytes, configuration->number.table_elements);
    wasmtime_extern_t found;
    the.has_memory = configuration->number.has_memory
        && find_export(configuration->memory, WASMTIME_EXTERN_MEMORY, &found);
    if (the.has_memory)
        the.memory = found.of.memory;
    send_report(link, &(struct report){.result = RESULT_RETURNED}, NULL, NULL, NULL, NULL);
    return true;
}

static bool write_file(int directory, struct text path, struct text content)
{
    char name[4097];
    if (path.size >= sizeof name || memchr(path.data, '\0', path.size))
        return false;
    memcpy(name, path.data, path.size + 1);
    for (char *slash = strchr(name, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        if (mkdirat(directory, name, 0777) != 0 && errno != EEXIST)
            return false;
        *slash = '/';
    }
    int file = openat(directory, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    for (uint32_t done = 0; file >= 0 && done < content.size;) {
        ssize_t written = write(file, content.data + done, content.size - done);
        if (written <= 0)
            return false;
        done += (uint32_t)written;
    }
    return file >= 0 && close(file) == 0;
}

static bool set_up_directories(wasi_config_t *wasi, const struct request *request,
    const int *descriptors, int count)
{
    if (count == 0)
        return request->files.count == 0 && request->grants.count == 0;
    if (request->grants.count != (uint32_t)count - 1)
        return false;
    for (uint32_t index = 0; index < request->files.count; index++)
        if (!write_file(descriptors[0], request->files.paths[index], request->files.contents[index]))
            return false;
    for (int index = 0; index < count; index++) {
        char path[32], name[256];
        snprintf(path, sizeof path, "/proc/self/fd/%d", descriptors[index]);
        snprintf(name, sizeof name, "/%s", index ? request->grants.data[index - 1] : "");
        if (!wt.wasi_config_preopen_dir(wasi, path, name, index == 0))
            return false;
        /* Old Rust programs look for a directory named ".". */
        if (index == 0 && !wt.wasi_config_preopen_dir(wasi, path, ".", true))
            return false;
    }
    return true;
}

static void set_up_wasi(const struct request *request, const int *descriptors, int count)
{
    wasi_config_t *wasi = wt.wasi_config_new();
    wasm_byte_vec_t input;
    wt.wasm_byte_vec_new(&input, request->input.size, request->input.data);
    wt.wasi_config_set_stdin_bytes(wasi, &input);
    wt.wasi_config_inherit_stdout(wasi);
    wt.wasi_config_inherit_stderr(wasi);
    if (!wt.wasi_config_set_argv(wasi, request->argv.count, request->argv.data)
        || !wt.wasi_config_set_env(wasi, request->env_names.count, request->env_names.data,
            request->env_values.data)
        || !set_up_directories(wasi, request, descriptors, count)) {
        struct report report = {.result = RESULT_INTERNAL};
        send_report(
            the.link, &report, NULL, NULL, NULL, "arguments or files could not be set up");
        _exit(0);
    }
    wasmtime_error_t *error = wt.wasmtime_context_set_wasi(the.context, wasi);
    if (error)
        end((struct report){.result = RESULT_INTERNAL}, NULL, error, NULL);
}

static void call(struct text name, const wasmtime_val_t *arguments, size_t argument_count,
    wasmtime_val_t *results, size_t result_count)
{
    wasmtime_extern_t found;
    if (!find_export(name, WASMTIME_EXTERN_FUNC, &found))
        end((struct report){.result = RESULT_NO_ENTRY}, NULL, NULL, NULL);
    wasm_trap_t *trap = NULL;
    wasmtime_error_t *error = wt.wasmtime_func_call(the.context, &found.of.func, arguments,
        argument_count, results, result_count, &trap);
    uint8_t code = 0;
    if (trap) {
        bool has_code = wt.wasmtime_trap_code(trap, &code);
        end((struct report){.result = RESULT_TRAPPED, .trap_code = has_code ? code : -1}, NULL,
            NULL, trap);
    }
    if (error)
        end((struct report){.result = RESULT_FAILED}, NULL, error, NULL);
}

void call_module(const struct request *request, int link, const int *descriptors, int count)
{
    static wasmtime_val_t arguments[MAX_VALUES], results[MAX_VALUES];
    the.link = link;
    the.started = seconds(CLOCK_MONOTONIC);
    the.cpu_started = seconds(CLOCK_PROCESS_CPUTIME_ID);
    if (the.configuration->number.has_wasi) {
        signal(SIGXFSZ, on_large_file);
        set_up_wasi(request, descriptors, count);
    }
    if (request->initialize)
        call((struct text){"_initialize", 11}, NULL, 0, NULL, 0);
    for (uint32_t index = 0; index < request->kinds.size; index++) {
        arguments[index].kind = (uint8_t)request->kinds.data[index];
        /* The integer members carry the bits of floats unchanged. */
        memcpy(&arguments[index].of, request->values + 8 * index, 8);
    }
    call(request->entry, arguments, request->kinds.size, results, request->result_count);
    end((struct report){.result = RESULT_RETURNED, .value_count = request->result_count}, results,
        NULL, NULL);
}
