/* The native floor: a program that loads machine code, calls one function, and ends.
 *
 * native CODE ENTRY [ARGUMENT ...]
 *
 * CODE is a module that wasmtime's Python package has serialized. Prints the result, and how many
 * nanoseconds the call took; the rest of the process' time is loading and instantiating.
 *
 * The package has wasmtime's shared library, but no headers: what is needed of them stands here,
 * as wasmtime 50 has it.
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

static void must(error *failed, trap *trapped)
{
    bytes message = {0, NULL};
    if (failed)
        wasmtime_error_message(failed, &message);
    else if (trapped)
        wasm_trap_message(trapped, &message);
    else
        return;
    fprintf(stderr, "native: %.*s\n", (int)message.size, message.data);
    exit(1);
}

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

int main(int count, char **words)
{
    if (count < 3 || count > 3 + ARGUMENTS) {
        fprintf(stderr, "usage: native CODE ENTRY [ARGUMENT ...]\n");
        return 2;
    }
    engine *machine = wasm_engine_new();
    module *code = NULL;
    must(wasmtime_module_deserialize_file(machine, words[1], &code), NULL);
    context *inside = wasmtime_store_context(wasmtime_store_new(machine, NULL, NULL));
    must(wasmtime_context_set_wasi(inside, wasi_config_new()), NULL);
    linker *links = wasmtime_linker_new(machine);
    must(wasmtime_linker_define_wasi(links), NULL);
    instance made;
    trap *trapped = NULL;
    must(wasmtime_linker_instantiate(links, inside, code, &made, &trapped), trapped);

    item found;
    /* A WASI reactor, such as Go makes it, has to be set up before it is called. */
    if (wasmtime_instance_export_get(inside, &made, "_initialize", 11, &found)) {
        error *failed = wasmtime_func_call(inside, &found.of.func, NULL, 0, NULL, 0, &trapped);
        must(failed, trapped);
    }
    if (!wasmtime_instance_export_get(inside, &made, words[2], strlen(words[2]), &found)
        || found.kind != FUNCTION) {
        fprintf(stderr, "native: there is no function %s\n", words[2]);
        return 1;
    }
    functype *type = wasmtime_func_type(inside, &found.of.func);
    const valtypes *wanted = wasm_functype_params(type);
    if (wanted->size != (size_t)(count - 3) || wasm_functype_results(type)->size != 1) {
        fprintf(stderr, "native: %s takes %zu arguments\n", words[2], wanted->size);
        return 1;
    }
    val arguments[ARGUMENTS], result;
    for (size_t index = 0; index < wanted->size; index++) {
        arguments[index].kind = wasm_valtype_kind(wanted->data[index]);
        if (arguments[index].kind == I32)
            arguments[index].of.i32 = (int32_t)strtoll(words[3 + index], NULL, 10);
        else
            arguments[index].of.i64 = strtoll(words[3 + index], NULL, 10);
    }
    int64_t began_ns = now_ns();
    error *failed = wasmtime_func_call(
        inside, &found.of.func, arguments, wanted->size, &result, 1, &trapped);
    int64_t took_ns = now_ns() - began_ns;
    must(failed, trapped);
    printf("%lld %lld\n", (long long)(result.kind == I32 ? result.of.i32 : result.of.i64),
        (long long)took_ns);
    return 0;
}
