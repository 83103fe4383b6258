/* The functions and types of wasmtime's C API that the zygote uses, as wasmtime 50 defines them.
 *
 * The wasmtime package has the shared library, but no headers. The library is opened at run time,
 * so that only a C compiler is needed to build the zygote.
 */
#ifndef WASMTIME_API_H
#define WASMTIME_API_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct wasm_config wasm_config_t;
typedef struct wasm_engine wasm_engine_t;
typedef struct wasm_frame wasm_frame_t;
typedef struct wasm_functype wasm_functype_t;
typedef struct wasm_trap wasm_trap_t;
typedef struct wasm_valtype wasm_valtype_t;
typedef struct wasi_config wasi_config_t;
typedef struct wasmtime_caller wasmtime_caller_t;
typedef struct wasmtime_context wasmtime_context_t;
typedef struct wasmtime_error wasmtime_error_t;
typedef struct wasmtime_instance_pre wasmtime_instance_pre_t;
typedef struct wasmtime_linker wasmtime_linker_t;
typedef struct wasmtime_module wasmtime_module_t;
typedef struct wasmtime_store wasmtime_store_t;

typedef struct { size_t size; char *data; } wasm_byte_vec_t;
typedef struct { size_t size; wasm_frame_t **data; } wasm_frame_vec_t;
typedef struct { size_t size; wasm_valtype_t **data; } wasm_valtype_vec_t;

typedef struct { uint64_t store_id; size_t index; } wasmtime_instance_t;
typedef struct { uint64_t store_id; void *function; } wasmtime_func_t;
typedef struct { struct { uint64_t store_id; uint32_t one; } of; uint32_t two; } wasmtime_memory_t;
typedef struct { uint64_t store_id; uint32_t one, two, three; } wasmtime_global_t;

/* The unions have only the members that are used here, and the size of the largest other one. */
typedef struct {
    uint8_t kind;
    union {
        wasmtime_func_t func;
        wasmtime_memory_t memory;
        wasmtime_global_t global;
        uint64_t size[3];
    } of;
} wasmtime_extern_t;

typedef struct {
    uint8_t kind;
    union {
        int32_t i32;
        int64_t i64;
        uint64_t size[3];
    } of;
} wasmtime_val_t;

enum { WASMTIME_EXTERN_FUNC = 0, WASMTIME_EXTERN_GLOBAL = 1, WASMTIME_EXTERN_MEMORY = 3 };
enum { WASMTIME_I32 = 0, WASMTIME_I64 = 1, WASMTIME_F32 = 2, WASMTIME_F64 = 3 };
enum { WASM_I32 = 0 };

typedef wasm_trap_t *(*wasmtime_func_callback_t)(
    void *, wasmtime_caller_t *, const wasmtime_val_t *, size_t, wasmtime_val_t *, size_t);

#define WASMTIME_FUNCTIONS(F) \
    F(wasm_config_t *, wasm_config_new, (void)) \
    F(void, wasmtime_config_parallel_compilation_set, (wasm_config_t *, bool)) \
    F(void, wasmtime_config_wasm_custom_page_sizes_set, (wasm_config_t *, bool)) \
    F(void, wasmtime_config_wasm_compact_imports_set, (wasm_config_t *, bool)) \
    F(void, wasmtime_config_max_wasm_stack_set, (wasm_config_t *, size_t)) \
    F(void, wasmtime_config_consume_fuel_set, (wasm_config_t *, bool)) \
    F(wasm_engine_t *, wasm_engine_new_with_config, (wasm_config_t *)) \
    F(wasmtime_error_t *, wasmtime_module_deserialize_file, \
        (wasm_engine_t *, const char *, wasmtime_module_t **)) \
    F(wasmtime_store_t *, wasmtime_store_new, (wasm_engine_t *, void *, void (*)(void *))) \
    F(wasmtime_context_t *, wasmtime_store_context, (wasmtime_store_t *)) \
    F(void, wasmtime_store_limiter, \
        (wasmtime_store_t *, int64_t, int64_t, int64_t, int64_t, int64_t)) \
    F(wasmtime_error_t *, wasmtime_context_set_fuel, (wasmtime_context_t *, uint64_t)) \
    F(wasmtime_error_t *, wasmtime_context_get_fuel, (const wasmtime_context_t *, uint64_t *)) \
    F(wasmtime_error_t *, wasmtime_context_set_wasi, (wasmtime_context_t *, wasi_config_t *)) \
    F(wasm_valtype_t *, wasm_valtype_new, (uint8_t)) \
    F(void, wasm_valtype_vec_new, (wasm_valtype_vec_t *, size_t, wasm_valtype_t *const *)) \
    F(wasm_functype_t *, wasm_functype_new, (wasm_valtype_vec_t *, wasm_valtype_vec_t *)) \
    F(wasmtime_linker_t *, wasmtime_linker_new, (wasm_engine_t *)) \
    F(void, wasmtime_linker_allow_shadowing, (wasmtime_linker_t *, bool)) \
    F(wasmtime_error_t *, wasmtime_linker_define_wasi, (wasmtime_linker_t *)) \
    F(wasmtime_error_t *, wasmtime_linker_define_func, \
        (wasmtime_linker_t *, const char *, size_t, const char *, size_t, \
            const wasm_functype_t *, wasmtime_func_callback_t, void *, void (*)(void *))) \
    F(wasmtime_error_t *, wasmtime_linker_instantiate_pre, \
        (const wasmtime_linker_t *, const wasmtime_module_t *, wasmtime_instance_pre_t **)) \
    F(wasmtime_error_t *, wasmtime_instance_pre_instantiate, \
        (const wasmtime_instance_pre_t *, wasmtime_context_t *, wasmtime_instance_t *, \
            wasm_trap_t **)) \
    F(bool, wasmtime_instance_export_get, \
        (wasmtime_context_t *, const wasmtime_instance_t *, const char *, size_t, \
            wasmtime_extern_t *)) \
    F(wasmtime_error_t *, wasmtime_func_call, \
        (wasmtime_context_t *, const wasmtime_func_t *, const wasmtime_val_t *, size_t, \
            wasmtime_val_t *, size_t, wasm_trap_t **)) \
    F(size_t, wasmtime_memory_data_size, (const wasmtime_context_t *, const wasmtime_memory_t *)) \
    F(void, wasmtime_global_get, \
        (wasmtime_context_t *, const wasmtime_global_t *, wasmtime_val_t *)) \
    F(void, wasmtime_error_message, (const wasmtime_error_t *, wasm_byte_vec_t *)) \
    F(void, wasm_trap_message, (const wasm_trap_t *, wasm_byte_vec_t *)) \
    F(bool, wasmtime_trap_code, (const wasm_trap_t *, uint8_t *)) \
    F(void, wasm_trap_trace, (const wasm_trap_t *, wasm_frame_vec_t *)) \
    F(uint32_t, wasm_frame_func_index, (const wasm_frame_t *)) \
    F(const wasm_byte_vec_t *, wasmtime_frame_func_name, (const wasm_frame_t *)) \
    F(void, wasm_byte_vec_new, (wasm_byte_vec_t *, size_t, const char *)) \
    F(wasi_config_t *, wasi_config_new, (void)) \
    F(bool, wasi_config_set_argv, (wasi_config_t *, size_t, const char **)) \
    F(bool, wasi_config_set_env, (wasi_config_t *, size_t, const char **, const char **)) \
    F(void, wasi_config_set_stdin_bytes, (wasi_config_t *, wasm_byte_vec_t *)) \
    F(void, wasi_config_inherit_stdout, (wasi_config_t *)) \
    F(void, wasi_config_inherit_stderr, (wasi_config_t *)) \
    F(bool, wasi_config_preopen_dir, (wasi_config_t *, const char *, const char *, bool))

struct wasmtime_api {
#define DECLARE(type, name, parameters) type (*name) parameters;
    WASMTIME_FUNCTIONS(DECLARE)
#undef DECLARE
};

/* The functions of the opened library. */
extern struct wasmtime_api wt;

/* Open the library that is open as `file` and look all functions up. Return why that fails, or
 * NULL. */
const char *open_wasmtime(int file);

#endif
