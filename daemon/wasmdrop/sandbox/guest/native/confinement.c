#define _GNU_SOURCE
#include "confinement.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Older headers lack these; the numbers are the same on every architecture. */
enum {
    LANDLOCK_CREATE_RULESET = 444,
    LANDLOCK_ADD_RULE = 445,
    LANDLOCK_RESTRICT_SELF = 446,
    CLOSE_RANGE = 436,
    RULE_PATH_BENEATH = 1,
};

struct ruleset { uint64_t files, network, scopes; };
struct path_beneath { uint64_t allowed; int32_t fd; } __attribute__((packed));

static void require(bool is_done)
{
    if (!is_done)
        abort();
}

static void set_limit(uint32_t resource, uint64_t soft, uint64_t hard)
{
    struct rlimit limit = {soft, hard};
    require(setrlimit((__rlimit_resource_t)resource, &limit) == 0);
}

static void restrict_files(
    const struct configuration *configuration, const struct rule *rules, uint32_t count)
{
    if (!configuration->has_landlock)
        return;
    struct ruleset handled = {
        configuration->file_rights, configuration->network_rights, configuration->scopes};
    int ruleset = (int)syscall(LANDLOCK_CREATE_RULESET, &handled, sizeof handled, 0);
    require(ruleset >= 0);
    for (uint32_t index = 0; index < count; index++) {
        struct path_beneath rule = {rules[index].rights, (int32_t)rules[index].fd};
        require(syscall(LANDLOCK_ADD_RULE, ruleset, RULE_PATH_BENEATH, &rule, 0) == 0);
    }
    require(syscall(LANDLOCK_RESTRICT_SELF, ruleset, 0) == 0);
    close(ruleset);
}

void load_filter(const struct configuration *configuration, int filter)
{
    struct text code = configuration->filters[filter];
    if (code.size == 0)
        return;
    struct sock_fprog program = {
        (unsigned short)(code.size / sizeof(struct sock_filter)), (struct sock_filter *)code.data};
    require(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
}

void confine_zygote(const struct configuration *configuration)
{
    /* Executing a program has made it readable to processes of the same user. */
    require(prctl(PR_SET_DUMPABLE, 0) == 0);
    /* Each child needs this call, which older kernels lack. */
    require(syscall(CLOSE_RANGE, ~0U, ~0U, 0) == 0);
    for (uint32_t index = 0; index < configuration->limit_count; index++) {
        const struct limit *limit = &configuration->limits[index];
        set_limit(limit->resource, limit->soft, limit->hard);
    }
    /* The daemon, which may be another user, must be able to remove the files of a job. */
    if (configuration->has_directory)
        umask(0);
    restrict_files(configuration, configuration->rules, configuration->rule_count);
    load_filter(configuration, FILTER_ZYGOTE);
}

void detach_child(pid_t parent, int link, const int *streams, int stream_count)
{
    require(dup2(link, LINK_FD) == LINK_FD);
    for (int index = 0; index < stream_count; index++)
        require(dup2(streams[index], STDOUT_FILENO + index) == STDOUT_FILENO + index);
    require(syscall(CLOSE_RANGE, LINK_FD + 1, ~0U, 0) == 0);
    require(prctl(PR_SET_PDEATHSIG, SIGKILL) == 0);
    if (getppid() != parent)
        _exit(0); /* it ended first, and the kernel tells nobody */
}

void limit_child(const struct configuration *configuration, uint64_t cpu_seconds)
{
    uint64_t ceiling = configuration->highest_cpu_seconds;
    uint64_t hard = cpu_seconds + 1;
    set_limit(RLIMIT_CPU, cpu_seconds < ceiling ? cpu_seconds : ceiling,
        hard < ceiling ? hard : ceiling);
    set_limit(RLIMIT_NPROC, configuration->child_processes, configuration->child_processes);
}

void restrict_to_directory(
    const struct configuration *configuration, const int *descriptors, int count)
{
    struct rule rules[MAX_RULES];
    require(count > 0 && count <= MAX_RULES);
    for (int index = 0; index < count; index++)
        rules[index] = (struct rule){
            index == 0 ? configuration->directory_rights : configuration->grant_rights,
            (uint32_t)descriptors[index]};
    restrict_files(configuration, rules, (uint32_t)count);
}
