/* The zygote: a confined process that has prepared one module, and forks a child for each job.
 *
 * zygote LIBRARY LINK [CONTROL CODE CONFIGURATION]
 *
 * All are descriptors: wasmtime's shared library, the link and the control socket to the daemon,
 * the machine code, and a file with the configuration. With the first two the program only reports
 * whether it works on this host.
 * wasmdrop/sandbox/wire.py describes the sockets, wasmdrop/sandbox/native_wire.py the messages.
 *
 * A child is a fresh process with a fresh instance, whose pages are copied when they are written.
 * Nothing of the guest's runs in the zygote itself. There are no threads, so a fork copies all.
 */
#define _GNU_SOURCE
#include "confinement.h"
#include "message.h"
#include "module.h"
#include "report.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    MAX_STREAMS = 2,
    MAX_DESCRIPTORS = 20, /* MAX_DESCRIPTORS in wire.py */
    REQUEST_BYTES = 16 * 1024, /* requests up to this size take no further memory */
    MAX_REQUEST_BYTES = (1 << 30) + (1 << 24), /* the largest input, and the rest */
};

static struct configuration configuration;

/* The command line, which ps(1) shows. */
static char *title;
static size_t title_room;

/* Show `text`, of which the kernel takes the first 15 bytes as the name of the process. */
static void set_title(const char *text)
{
    prctl(PR_SET_NAME, text);
    if (strlen(text) < title_room)
        memcpy(title, text, strlen(text) + 1);
}

/* Receive a message and at most `limit` descriptors; return its size, or -1. */
static ssize_t receive(int from, void *data, size_t size, int *descriptors, int limit, int *count)
{
    union { struct cmsghdr header; char room[CMSG_SPACE(sizeof(int) * MAX_DESCRIPTORS)]; } control;
    struct iovec part = {data, size};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control,
        .msg_controllen = CMSG_SPACE(sizeof(int) * (size_t)limit)};
    ssize_t received;
    do
        received = recvmsg(from, &message, 0);
    while (received < 0 && errno == EINTR);
    *count = 0;
    struct cmsghdr *header = received < 0 ? NULL : CMSG_FIRSTHDR(&message);
    if (header && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS) {
        *count = (int)((header->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        memcpy(descriptors, CMSG_DATA(header), (size_t)*count * sizeof(int));
    }
    return received;
}

static ssize_t read_some(int from, char *data, size_t size)
{
    ssize_t got;
    do
        got = read(from, data, size);
    while (got < 0 && errno == EINTR);
    return got;
}

/* Read the rest of a request, of which `got` bytes are in `start`. Exit if none comes. */
static char *read_rest(int link, char *start, size_t got, size_t *size)
{
    uint32_t sizes[2];
    while (got < sizeof sizes) {
        ssize_t more = read_some(link, start + got, sizeof sizes - got);
        if (more <= 0)
            _exit(0); /* the daemon needs no child any more */
        got += (size_t)more;
    }
    memcpy(sizes, start, sizeof sizes);
    *size = sizes[1];
    if (sizes[0] != 0 || *size > MAX_REQUEST_BYTES)
        abort();
    char *data = start;
    if (*size + sizeof sizes > REQUEST_BYTES) {
        data = malloc(*size + sizeof sizes);
        if (!data)
            abort();
        memcpy(data, start, got);
    }
    while (got < *size + sizeof sizes) {
        ssize_t more = read_some(link, data + got, *size + sizeof sizes - got);
        if (more <= 0)
            _exit(0);
        got += (size_t)more;
    }
    return data + sizeof sizes;
}

static int report_failure(int link, const char *reason)
{
    struct report report = {.result = RESULT_INTERNAL, .memory_bytes = -1, .fuel_used = -1};
    send_report(link, &report, NULL, NULL, NULL, reason);
    return 1;
}

/* Serve one request. */
static _Noreturn void run_child(uint64_t cpu_seconds)
{
    static char start[REQUEST_BYTES];
    static struct request request;
    int descriptors[MAX_DESCRIPTORS], count = 0;
    size_t got = 0, size;
    limit_child(&configuration, cpu_seconds);
    if (configuration.number.has_directory) {
        /* The rules of its directory can be made only when the directory is known. */
        ssize_t received = receive(LINK_FD, start, sizeof start, descriptors, MAX_DESCRIPTORS, &count);
        if (received <= 0)
            _exit(0);
        got = (size_t)received;
        restrict_to_directory(&configuration, descriptors, count);
    }
    load_filter(configuration.child_filter);
    char *data = read_rest(LINK_FD, start, got, &size);
    if (!read_request(data, size, &request)) {
        report_failure(LINK_FD, "the request does not decode");
        _exit(0);
    }
    call_module(&request, LINK_FD, descriptors, count);
}

/* Send a message with two descriptors, or none; exit if the daemon is gone. */
static void tell(int control, const char *text, const int *descriptors)
{
    union { struct cmsghdr header; char room[CMSG_SPACE(2 * sizeof(int))]; } rights;
    struct iovec part = {(void *)text, strlen(text)};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (descriptors) {
        message.msg_control = &rights;
        message.msg_controllen = sizeof rights;
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        *header = (struct cmsghdr){CMSG_LEN(2 * sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
        memcpy(CMSG_DATA(header), descriptors, 2 * sizeof(int));
    }
    while (sendmsg(control, &message, MSG_NOSIGNAL) < 0) {
        /* A user's descriptors that are on their way are limited like those of one process. Many
         * children at once exceed that until the daemon has received those of the first. */
        if (errno == ETOOMANYREFS)
            poll(NULL, 0, 1);
        else if (errno != EINTR)
            _exit(0);
    }
}

static void fork_child(int control, uint64_t cpu_seconds, const int *streams, int stream_count)
{
    char text[64];
    int links[2] = {-1, -1}, given[2] = {-1, -1};
    pid_t parent = getpid(), child = -1;
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, links) == 0)
        child = fork();
    if (child == 0) {
        sigset_t none;
        sigemptyset(&none);
        signal(SIGCHLD, SIG_DFL);
        sigprocmask(SIG_SETMASK, &none, NULL);
        detach_child(parent, links[1], streams, stream_count);
        set_title("wasmdrop: job");
        run_child(cpu_seconds);
    }
    int failed = errno;
    if (child > 0) {
        given[0] = links[0];
        given[1] = (int)syscall(SYS_pidfd_open, child, 0);
        failed = errno;
    }
    if (given[1] >= 0) {
        snprintf(text, sizeof text, "child %d", (int)child);
        tell(control, text, given);
    } else {
        if (child > 0) {
            /* The daemon does not know it. Without its link it exits. */
            close(links[0]);
            links[0] = -1;
            waitpid(child, NULL, 0);
        }
        /* The processes of this user are used up; the present children may go on. */
        snprintf(text, sizeof text, "none %d", failed);
        tell(control, text, NULL);
    }
    for (int index = 0; index < 2; index++)
        if (links[index] >= 0)
            close(links[index]);
    if (given[1] >= 0)
        close(given[1]);
}

static void reap(int control)
{
    int status;
    struct rusage usage;
    pid_t child;
    while ((child = wait4(-1, &status, WNOHANG, &usage)) > 0) {
        char text[96];
        long long cpu_us = (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000LL
            + usage.ru_utime.tv_usec + usage.ru_stime.tv_usec;
        snprintf(text, sizeof text, "exit %d %d %lld", (int)child, status, cpu_us);
        tell(control, text, NULL);
    }
}

/* Handle one message of the daemon. Return false if it is the last one. */
static bool handle(int control)
{
    char text[64] = "";
    int streams[MAX_STREAMS], count;
    ssize_t size = receive(control, text, sizeof text - 1, streams, MAX_STREAMS, &count);
    char *number = strchr(text, ' ');
    bool is_fork = size > 0 && number && strncmp(text, "fork", 4) == 0;
    if (is_fork)
        fork_child(control, strtoull(number + 1, NULL, 10), streams, count);
    for (int index = 0; index < count; index++)
        close(streams[index]);
    return is_fork;
}

static void on_child(int number)
{
    (void)number; /* it only has to interrupt ppoll(2) */
}

static char *read_file(int file, size_t *size)
{
    struct stat status;
    if (fstat(file, &status) != 0)
        return NULL;
    *size = (size_t)status.st_size;
    char *data = malloc(*size + 1);
    return data && pread(file, data, *size, 0) == status.st_size ? data : NULL;
}

int main(int count, char **words)
{
    if (count != 3 && count != 6) {
        fprintf(stderr, "usage: zygote LIBRARY LINK [CONTROL CODE CONFIGURATION]\n");
        return 2;
    }
    int library = atoi(words[1]), link = atoi(words[2]);
    const char *failure = open_wasmtime(library);
    if (!failure && syscall(SYS_close_range, ~0U, ~0U, 0) != 0)
        failure = "this kernel has no close_range(2)";
    if (failure)
        return report_failure(link, failure);
    if (count == 3) {
        send_report(link, &(struct report){.result = RESULT_RETURNED}, NULL, NULL, NULL, NULL);
        return 0;
    }
    int control = atoi(words[3]), code = atoi(words[4]), file = atoi(words[5]);
    size_t size;
    char *data = read_file(file, &size);
    if (!data || !read_configuration(data, size, &configuration))
        return report_failure(link, "the configuration does not decode");
    close(library);
    close(file);
    /* The first word is the title. If the last byte of all is not NUL, the kernel shows no more. */
    title = words[0];
    title_room = strlen(title) + 1;
    *strchr(words[count - 1], 0) = '\n';
    prctl(PR_SET_NAME, "wasmdrop: zygote");
    sigset_t child_ends, none;
    sigemptyset(&none);
    sigemptyset(&child_ends);
    sigaddset(&child_ends, SIGCHLD);
    sigprocmask(SIG_BLOCK, &child_ends, NULL);
    signal(SIGCHLD, on_child);
    confine_zygote(&configuration);
    if (!load_module(&configuration, code, link))
        return 1;
    close(code);
    /* As in a job: before anything that the machine code takes part in. */
    load_filter(configuration.loaded_filter);
    if (!instantiate_module(link))
        return 1;
    struct pollfd ready = {.fd = control, .events = POLLIN};
    for (;;) {
        /* A child that ends interrupts it. */
        if (ppoll(&ready, 1, NULL, &none) < 0)
            reap(control);
        else if (!handle(control))
            _exit(0);
    }
}
