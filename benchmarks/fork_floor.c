/* The floor: a process that has instantiated a module forks for each call; the fork calls and exits.
 *
 * fork_floor CODE ENTRY EXPECTED STDIN DIRECTORY SECONDS WORKERS [ARGUMENT ...]
 *
 * CODE is a module that wasmtime's Python package has serialized. EXPECTED is the result of the
 * function; for _start, a file with its output. A fork that calls _start makes a WASI world first:
 * output into a memfd, input from the file STDIN, and DIRECTORY, unless they are "-". Prints JSON:
 * the median of the calls of one worker and their processor time, then jobs per second of WORKERS
 * processes side by side and their processor time.
 */
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "wasmtime_c.h"

enum { ALONE = 400 };

typedef struct {
    guest guest;
    call call;
    const char *stdin_path, *directory;
    bool is_command;
    int64_t result;
    char *output;
    size_t output_size;
} job;

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static int make_world(const job *of)
{
    char path[32];
    int output = memfd_create("output", 0);
    snprintf(path, sizeof path, "/proc/self/fd/%d", output);
    wasi *world = wasi_config_new();
    if (output < 0 || !wasi_config_set_stdout_file(world, path)
        || (*of->stdin_path != '-' && !wasi_config_set_stdin_file(world, of->stdin_path))
        || (*of->directory != '-' && !wasi_config_preopen_dir(world, of->directory, "/", true)))
        fail("world");
    must(wasmtime_context_set_wasi(of->guest.inside, world), NULL);
    return output;
}

static bool is_right(job *of)
{
    if (!of->is_command) {
        initialize(&of->guest);
        return run(&of->guest, &of->call) == of->result;
    }
    int output = make_world(of);
    run(&of->guest, &of->call);
    char *found = malloc(of->output_size + 1);
    return pread(output, found, of->output_size + 1, 0) == (ssize_t)of->output_size
        && memcmp(found, of->output, of->output_size) == 0;
}

static void once(job *of)
{
    pid_t child = fork();
    if (child < 0)
        fail("fork");
    if (child == 0)
        _exit(!is_right(of));
    int status;
    if (waitpid(child, &status, 0) != child || status != 0) {
        fprintf(stderr, "fork_floor: the result was wrong\n");
        exit(1);
    }
}

static double processor_seconds(void)
{
    double seconds = 0;
    for (int who = RUSAGE_CHILDREN; who <= RUSAGE_SELF; who++) {
        struct rusage usage;
        getrusage(who, &usage);
        seconds += (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec)
            + (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
    }
    return seconds;
}

static int compare(const void *left, const void *right)
{
    int64_t one = *(const int64_t *)left, other = *(const int64_t *)right;
    return (one > other) - (one < other);
}

static void alone(job *of)
{
    int64_t took_ns[ALONE];
    double before = processor_seconds();
    for (int index = 0; index < ALONE; index++) {
        int64_t began_ns = now_ns();
        once(of);
        took_ns[index] = now_ns() - began_ns;
    }
    double cpu = (processor_seconds() - before) / ALONE;
    qsort(took_ns, ALONE, sizeof *took_ns, compare);
    printf("{\"seconds\": %.9f, \"cpu_seconds\": %.9f", (double)took_ns[ALONE / 2] / 1e9, cpu);
}

static void together(job *of, double seconds, int workers)
{
    typedef struct { double jobs, cpu; } share;
    int shares[2];
    if (pipe(shares))
        fail("pipe");
    fflush(stdout);
    for (int index = 0; index < workers; index++)
        if (fork() == 0) {
            share own = {0, 0};
            double before = processor_seconds();
            for (int64_t end_ns = now_ns() + (int64_t)(seconds * 1e9); now_ns() < end_ns; own.jobs++)
                once(of);
            own.cpu = processor_seconds() - before;
            _exit(write(shares[1], &own, sizeof own) != sizeof own);
        }
    close(shares[1]);
    share all = {0, 0};
    for (int index = 0; index < workers; index++) {
        share own;
        if (read(shares[0], &own, sizeof own) != sizeof own)
            fail("read");
        all.jobs += own.jobs;
        all.cpu += own.cpu;
    }
    while (wait(NULL) > 0)
        ;
    printf(", \"rate\": %.3f, \"rate_cpu_seconds\": %.9f}\n", all.jobs / seconds, all.cpu / all.jobs);
}

int main(int count, char **words)
{
    if (count < 8) {
        fprintf(stderr, "usage: fork_floor CODE ENTRY EXPECTED STDIN DIRECTORY SECONDS WORKERS ...\n");
        return 2;
    }
    job one = {.guest = instantiate(words[1]), .stdin_path = words[4], .directory = words[5]};
    one.call = prepare(&one.guest, words[2], count - 8, words + 8);
    one.is_command = strcmp(words[2], "_start") == 0;
    if (one.is_command) {
        FILE *file = fopen(words[3], "rb");
        if (!file || fseek(file, 0, SEEK_END))
            fail(words[3]);
        one.output_size = (size_t)ftell(file);
        one.output = malloc(one.output_size + 1);
        rewind(file);
        if (fread(one.output, 1, one.output_size, file) != one.output_size)
            fail(words[3]);
    } else
        one.result = strtoll(words[3], NULL, 10);
    alone(&one);
    together(&one, strtod(words[6], NULL), atoi(words[7]));
    return 0;
}
