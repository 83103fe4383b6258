/* Reports: the result of a call, or of the preparation of a module, to the daemon.
 *
 * wasmdrop/sandbox/native_wire.py defines and decodes them, and puts them into words.
 */
#ifndef REPORT_H
#define REPORT_H

#include "wasmtime_api.h"

enum result {
    RESULT_RETURNED, /* with results */
    RESULT_EXITED, /* with an exit code */
    RESULT_TRAPPED, /* with a code, a message and a backtrace */
    RESULT_FAILED, /* with a message */
    RESULT_OUTPUT_LIMIT,
    RESULT_NO_ENTRY,
    RESULT_STALE_CODE, /* with a message */
    RESULT_INTERNAL, /* with a message */
};

/* The part of a report that each one has; -1 stands for an unknown number. */
struct report {
    uint32_t result;
    int32_t trap_code;
    uint32_t exit_code;
    uint32_t value_count;
    double run_seconds, cpu_seconds;
    int64_t memory_bytes, fuel_used, refused_memory, refused_table;
};

/* Send a report with the values of `values`, and with the message of `error` or the message and
 * backtrace of `trap`, or else with `message`, if they are set. */
void send_report(int link, const struct report *report, const wasmtime_val_t *values,
    const wasmtime_error_t *error, const wasm_trap_t *trap, const char *message);

#endif
