#define _GNU_SOURCE
#include "report.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

enum { SHOWN_FRAMES = 16, SHOWN_NAME_BYTES = 512, MESSAGE_BYTES = 32 * 1024, MAX_PARTS = 64 };

/* A frame under construction: it has no header, and its payload are the parts from the second on. */
struct frame {
    uint32_t sizes[2];
    int count;
    struct iovec parts[MAX_PARTS];
    uint32_t numbers[MAX_PARTS];
};

static void add(struct frame *frame, const void *data, size_t size)
{
    if (frame->count == MAX_PARTS)
        abort();
    frame->parts[frame->count++] = (struct iovec){(void *)data, size};
    frame->sizes[1] += (uint32_t)size;
}

static void add_number(struct frame *frame, uint32_t number)
{
    uint32_t *kept = &frame->numbers[frame->count];
    *kept = number;
    add(frame, kept, sizeof *kept);
}

static void write_frame(int link, struct frame *frame)
{
    struct iovec *part = frame->parts, *end = part + frame->count;
    while (part < end) {
        ssize_t written = writev(link, part, (int)(end - part));
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            _exit(0); /* the daemon has closed the link */
        for (; part < end && (size_t)written >= part->iov_len; part++)
            written -= (ssize_t)part->iov_len;
        if (part < end) {
            part->iov_base = (char *)part->iov_base + written;
            part->iov_len -= (size_t)written;
        }
    }
}

static void add_backtrace(struct frame *frame, const wasm_trap_t *trap)
{
    wasm_frame_vec_t frames = {0, NULL};
    if (trap)
        wt.wasm_trap_trace(trap, &frames);
    add_number(frame, (uint32_t)frames.size);
    for (size_t index = 0; index < frames.size && index < SHOWN_FRAMES; index++) {
        const wasm_byte_vec_t *name = wt.wasmtime_frame_func_name(frames.data[index]);
        size_t size = name ? name->size : 0;
        size = size < SHOWN_NAME_BYTES ? size : SHOWN_NAME_BYTES;
        add_number(frame, wt.wasm_frame_func_index(frames.data[index]));
        add_number(frame, (uint32_t)size);
        if (size)
            add(frame, name->data, size);
    }
}

static void send(int link, struct report *report, const uint64_t *bits, const char *message,
    size_t message_bytes, const wasm_trap_t *trap)
{
    struct frame frame = {.count = 0};
    add(&frame, frame.sizes, sizeof frame.sizes);
    frame.sizes[1] = 0;
    add(&frame, report, sizeof *report);
    if (report->value_count)
        add(&frame, bits, report->value_count * sizeof *bits);
    /* The cause of an error comes last. */
    size_t left_out = message_bytes > MESSAGE_BYTES ? message_bytes - MESSAGE_BYTES : 0;
    add_number(&frame, (uint32_t)(message_bytes - left_out));
    if (message_bytes)
        add(&frame, message + left_out, message_bytes - left_out);
    add_backtrace(&frame, trap);
    write_frame(link, &frame);
}

void send_report(int link, struct report *report, const wasmtime_val_t *values,
    const wasmtime_error_t *error, const wasm_trap_t *trap)
{
    uint64_t *bits = calloc(report->value_count + 1, sizeof *bits);
    if (!bits)
        abort();
    for (uint32_t index = 0; index < report->value_count; index++) {
        bool is_wide = values[index].kind == WASMTIME_I64 || values[index].kind == WASMTIME_F64;
        bits[index] = is_wide ? (uint64_t)values[index].of.i64 : (uint32_t)values[index].of.i32;
    }
    wasm_byte_vec_t message = {0, NULL};
    if (error)
        wt.wasmtime_error_message(error, &message);
    else if (trap)
        wt.wasm_trap_message(trap, &message);
    send(link, report, bits, message.data, message.size, trap);
}

void send_failure(int link, int result, const char *message)
{
    struct report report = {
        .result = result, .trap_code = -1, .memory_bytes = -1, .fuel_used = -1};
    send(link, &report, NULL, message, strlen(message), NULL);
}
