// build: clang --target=wasm32 -O2 -ffreestanding -nostdlib -Wl,--no-entry,--strip-all -o affine-c.wasm affine.c

#include <stdint.h>

// a * b + c, wrapping at 64 bits. It is computed unsigned because C leaves the
// overflow of signed integers undefined.
__attribute__((export_name("affine"))) int64_t affine(int64_t a, int64_t b, int64_t c) {
    return (int64_t)((uint64_t)a * (uint64_t)b + (uint64_t)c);
}
