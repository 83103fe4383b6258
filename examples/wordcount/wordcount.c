// build: clang --target=wasm32-wasi -O2 -Wl,--strip-all -o wordcount-c.wasm wordcount.c

// Counts the lines, words and bytes of standard input. The arguments -l, -w and
// -c choose which of them to print; without any, all three are.

#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

enum { LINES, WORDS, BYTES, COUNTERS };

static const char *const flags[COUNTERS] = {"-l", "-w", "-c"};

// The counter that an argument chooses, or COUNTERS if there is none.
static int counter_of(const char *argument) {
    int counter = 0;

    while (counter < COUNTERS && strcmp(argument, flags[counter]) != 0) {
        counter++;
    }
    return counter;
}

int main(int argc, char **argv) {
    bool wanted[COUNTERS] = {false};
    unsigned long long counts[COUNTERS] = {0};
    bool in_word = false;
    const char *separator = "";
    int byte;

    for (int i = 1; i < argc; i++) {
        int counter = counter_of(argv[i]);
        if (counter == COUNTERS) {
            fprintf(stderr, "wordcount: unknown argument: %s\n", argv[i]);
            return 2;
        }
        wanted[counter] = true;
    }

    while ((byte = getchar()) != EOF) {
        bool in_space = isspace(byte);
        counts[LINES] += byte == '\n';
        counts[WORDS] += !in_space && !in_word;
        counts[BYTES]++;
        in_word = !in_space;
    }
    if (ferror(stdin)) {
        perror("wordcount: standard input");
        return 1;
    }

    for (int i = 0; i < COUNTERS; i++) {
        if (wanted[i] || argc <= 1) {
            printf("%s%llu", separator, counts[i]);
            separator = " ";
        }
    }
    putchar('\n');
    return 0;
}
