// C++ exceptions without a C++ library: clang makes legacy instructions of them, and wasm-opt the
// standard ones. The two functions are what a library has for `catch (...)`.
extern "C" {
void *__cxa_begin_catch(void *exception) { return exception; }
void __cxa_end_catch() {}

__attribute__((noinline)) static long long root(long long n) {
    if (n < 0) __builtin_wasm_throw(0, nullptr);
    long long r = 0;
    while ((r + 1) * (r + 1) <= n) r++;
    return r;
}

// The integer square root of n; -1 if n has none.
__attribute__((export_name("run"))) long long run(long long n) {
    try {
        return root(n);
    } catch (...) {
        return -1;
    }
}
}
