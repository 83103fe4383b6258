#define _GNU_SOURCE
#include "report.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SHOWN_FRAMES = 16, SHOWN_NAME_BYTES = 512, MESSAGE_BYTES = 32 * 1024 };

/* A frame under construction: the size of its header, which is 0, that of its payload, and this. */
static struct { uint32_t sizes[2]; char payload[64 * 1024]; } frame;

static void put(const void *data, size_t size)
{
    if (size > sizeof frame.payload - frame.sizes[1])
        abort();
    if (size)
        memcpy(frame.payload + frame.sizes[1], data, size);
    frame.sizes[1] += (uint32_t)size;
}

static void put_number(size_t number)
{
    put(&(uint32_t){(uint32_t)number}, sizeof(uint32_t));
}

static void put_backtrace(const wasm_trap_t *trap)
{
    wasm_frame_vec_t frames = {0, NULL};
    if (trap)
        wt.wasm_trap_trace(trap, &frames);
    put_number(frames.size);
    for (size_t index = 0; index < frames.size && index < SHOWN_FRAMES; index++) {
        const wasm_byte_vec_t *name = wt.wasmtime_frame_func_name(frames.data[index]);
        size_t size = name ? name->size : 0;
        size = size < SHOWN_NAME_BYTES ? size : SHOWN_NAME_BYTES;
        put_number(wt.wasm_frame_func_index(frames.data[index]));
        put_number(size);
        put(name ? name->data : NULL, size);
    }
}

void send_report(int link, const struct report *report, const wasmtime_val_t *values,
    const wasmtime_error_t *error, const wasm_trap_t *trap, const char *message)
{
    put(report, sizeof *report);
    for (uint32_t index = 0; index < report->value_count; index++) {
        bool is_wide = values[index].kind == WASMTIME_I64 || values[index].kind == WASMTIME_F64;
        /* The integer members have the bits of floats, too. */
        uint64_t bits =
            is_wide ? (uint64_t)values[index].of.i64 : (uint32_t)values[index].of.i32;
        put(&bits, sizeof bits);
    }
    wasm_byte_vec_t text = {message ? strlen(message) : 0, (char *)message};
    if (error)
        wt.wasmtime_error_message(error, &text);
    else if (trap)
        wt.wasm_trap_message(trap, &text);
    /* The cause of an error comes last. */
    size_t left_out = text.size > MESSAGE_BYTES ? text.size - MESSAGE_BYTES : 0;
    put_number(text.size - left_out);
    put(text.data + left_out, text.size - left_out);
    put_backtrace(trap);
    const char *next = (const char *)&frame;
    for (size_t left = sizeof frame.sizes + frame.sizes[1]; left > 0;) {
        ssize_t written = write(link, next, left);
        if (written < 0 && errno != EINTR)
            _exit(0); /* the daemon has closed the link */
        if (written > 0) {
            next += written;
            left -= (size_t)written;
        }
    }
    frame.sizes[1] = 0;
}
