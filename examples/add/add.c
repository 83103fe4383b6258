// build: clang --target=wasm32 -O2 -ffreestanding -nostdlib -Wl,--no-entry,--strip-all -o add-c.wasm add.c

#include <stdint.h>

// a + b, wrapping at 64 bits. It is computed unsigned because C leaves the
// overflow of signed integers undefined.
__attribute__((export_name("add"))) int64_t add(int64_t a, int64_t b) {
    return (int64_t)((uint64_t)a + (uint64_t)b);
}
