/* What native.c and fork_floor.c need of wasmtime's C interface, as wasmtime 50 has it: its Python
 * package has the shared library, but no headers.
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct engine engine;
typedef struct linker linker;
typedef struct module module;
typedef struct store store;
typedef struct context context;
typedef struct error error;
typedef struct trap trap;
typedef struct wasi wasi;
typedef struct functype functype;
typedef struct valtype valtype;

typedef struct { size_t size; char *data; } bytes;
typedef struct { size_t size; valtype **data; } valtypes;
typedef struct { uint64_t store_id; size_t index; } instance;
typedef struct { uint64_t store_id; void *own; } func;
/* Of the unions only the members that are used here, and room for the largest of the others. */
typedef struct { uint8_t kind; union { func func; uint64_t room[3]; } of; } item;
typedef struct { uint8_t kind; union { int32_t i32; int64_t i64; uint64_t room[3]; } of; } val;

enum { FUNCTION = 0, I32 = 0, I64 = 1, ARGUMENTS = 8 };

engine *wasm_engine_new(void);
wasi *wasi_config_new(void);
bool wasi_config_set_stdin_file(wasi *, const char *);
bool wasi_config_set_stdout_file(wasi *, const char *);
bool wasi_config_preopen_dir(wasi *, const char *, const char *, bool);
const valtypes *wasm_functype_params(const functype *);
const valtypes *wasm_functype_results(const functype *);
uint8_t wasm_valtype_kind(const valtype *);
void wasm_trap_message(const trap *, bytes *);
void wasmtime_error_message(const error *, bytes *);
error *wasmtime_module_deserialize_file(engine *, const char *, module **);
store *wasmtime_store_new(engine *, void *, void (*)(void *));
context *wasmtime_store_context(store *);
error *wasmtime_context_set_wasi(context *, wasi *);
linker *wasmtime_linker_new(engine *);
error *wasmtime_linker_define_wasi(linker *);
error *wasmtime_linker_instantiate(linker *, context *, module *, instance *, trap **);
bool wasmtime_instance_export_get(context *, instance *, const char *, size_t, item *);
functype *wasmtime_func_type(context *, const func *);
error *wasmtime_func_call(context *, const func *, const val *, size_t, val *, size_t, trap **);

/* One instance of a module. */
typedef struct { context *inside; instance made; } guest;

/* A function of it, with the arguments of its call. */
typedef struct { func func; size_t arguments, results; val values[ARGUMENTS]; } call;

static void must(error *failed, trap *trapped)
{
    bytes message = {0, NULL};
    if (failed)
        wasmtime_error_message(failed, &message);
    else if (trapped)
        wasm_trap_message(trapped, &message);
    else
        return;
    fprintf(stderr, "%.*s\n", (int)message.size, message.data);
    exit(1);
}

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static guest instantiate(const char *code)
{
    guest new;
    engine *machine = wasm_engine_new();
    module *loaded = NULL;
    must(wasmtime_module_deserialize_file(machine, code, &loaded), NULL);
    new.inside = wasmtime_store_context(wasmtime_store_new(machine, NULL, NULL));
    linker *links = wasmtime_linker_new(machine);
    must(wasmtime_linker_define_wasi(links), NULL);
    trap *trapped = NULL;
    must(wasmtime_linker_instantiate(links, new.inside, loaded, &new.made, &trapped), trapped);
    return new;
}

/* A WASI reactor, such as Go makes it, has to be set up before it is called. */
static void initialize(guest *of)
{
    item found;
    trap *trapped = NULL;
    if (wasmtime_instance_export_get(of->inside, &of->made, "_initialize", 11, &found)) {
        must(wasmtime_context_set_wasi(of->inside, wasi_config_new()), NULL);
        error *failed = wasmtime_func_call(of->inside, &found.of.func, NULL, 0, NULL, 0, &trapped);
        must(failed, trapped);
    }
}

static call prepare(guest *of, const char *entry, int count, char **words)
{
    call made;
    item found;
    if (!wasmtime_instance_export_get(of->inside, &of->made, entry, strlen(entry), &found)
        || found.kind != FUNCTION) {
        fprintf(stderr, "there is no function %s\n", entry);
        exit(1);
    }
    made.func = found.of.func;
    functype *type = wasmtime_func_type(of->inside, &made.func);
    const valtypes *wanted = wasm_functype_params(type);
    made.arguments = wanted->size;
    made.results = wasm_functype_results(type)->size;
    if (wanted->size != (size_t)count || wanted->size > ARGUMENTS || made.results > 1) {
        fprintf(stderr, "%s takes %zu arguments\n", entry, wanted->size);
        exit(1);
    }
    for (size_t index = 0; index < wanted->size; index++) {
        made.values[index].kind = wasm_valtype_kind(wanted->data[index]);
        if (made.values[index].kind == I32)
            made.values[index].of.i32 = (int32_t)strtoll(words[index], NULL, 10);
        else
            made.values[index].of.i64 = strtoll(words[index], NULL, 10);
    }
    return made;
}

/* Returns the result, or 0 of a function without one. */
static int64_t run(guest *of, const call *what)
{
    val result;
    trap *trapped = NULL;
    error *failed = wasmtime_func_call(of->inside, &what->func, what->values, what->arguments,
        &result, what->results, &trapped);
    must(failed, trapped);
    if (!what->results)
        return 0;
    return result.kind == I32 ? result.of.i32 : result.of.i64;
}
