/* A native process that loads machine code, calls one function, and ends.
 *
 * native CODE ENTRY [ARGUMENT ...]
 *
 * CODE is a module that wasmtime's Python package has serialized. Prints the result, and how many
 * nanoseconds the call took.
 */
#include "wasmtime_c.h"

int main(int count, char **words)
{
    if (count < 3) {
        fprintf(stderr, "usage: native CODE ENTRY [ARGUMENT ...]\n");
        return 2;
    }
    guest one = instantiate(words[1]);
    initialize(&one);
    call what = prepare(&one, words[2], count - 3, words + 3);
    int64_t began_ns = now_ns();
    int64_t result = run(&one, &what);
    int64_t took_ns = now_ns() - began_ns;
    printf("%lld %lld\n", (long long)result, (long long)took_ns);
    return 0;
}
