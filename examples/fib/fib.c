// build: clang --target=wasm32 -O2 -ffreestanding -nostdlib -Wl,--no-entry,--strip-all -o fib-c.wasm fib.c

#include <stdint.h>

// The n-th Fibonacci number, counted from fib(0) = 0. The sum is kept unsigned
// because it wraps past n = 92, which C leaves undefined for signed integers.
__attribute__((export_name("fib"))) int64_t fib(int64_t n) {
    uint64_t current = 0, next = 1;

    for (int64_t i = 0; i < n; i++) {
        uint64_t sum = current + next;
        current = next;
        next = sum;
    }
    return (int64_t)current;
}
