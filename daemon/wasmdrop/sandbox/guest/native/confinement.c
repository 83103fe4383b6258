#define _GNU_SOURCE
#include "confinement.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
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
    RULE_PATH_BENEATH = 1,
};

struct ruleset { uint64_t files, network, scopes; };
struct path_beneath { uint64_t allowed; int32_t fd; } __attribute__((packed));

static void require(bool is_done)
{
    if (!is_done)
        abort();
}

static void set_limit(struct limit limit)
{
    struct rlimit values = {limit.soft, limit.hard};
    require(setrlimit((__rlimit_resource_t)limit.resource, &values) == 0);
}

/* Create a ruleset; return its descriptor, or -1 if the kernel has none. */
static int create_ruleset(const struct configuration *it)
{
    struct ruleset handled = {it->number.file_rights, it->number.network_rights, it->number.scopes};
    if (!it->number.has_landlock)
        return -1;
    int ruleset = (int)syscall(LANDLOCK_CREATE_RULESET, &handled, sizeof handled, 0);
    require(ruleset >= 0);
    return ruleset;
}

static void add_rule(int ruleset, struct rule rule)
{
    struct path_beneath beneath = {rule.rights, (int32_t)rule.fd};
    require(ruleset < 0 || syscall(LANDLOCK_ADD_RULE, ruleset, RULE_PATH_BENEATH, &beneath, 0) == 0);
}

static void restrict_self(int ruleset)
{
    require(ruleset < 0 || syscall(LANDLOCK_RESTRICT_SELF, ruleset, 0) == 0);
    require(ruleset < 0 || close(ruleset) == 0);
}

void load_filter(struct text filter)
{
    struct sock_fprog program = {
        (unsigned short)(filter.size / sizeof(struct sock_filter)), (void *)filter.data};
    require(filter.size == 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
}

void confine_zygote(const struct configuration *configuration)
{
    /* Executing a program has made it readable to processes of the same user. */
    require(prctl(PR_SET_DUMPABLE, 0) == 0);
    struct limit limit;
    for (size_t offset = 0; offset < configuration->limits.size; offset += sizeof limit) {
        memcpy(&limit, configuration->limits.data + offset, sizeof limit);
        set_limit(limit);
    }
    /* The daemon, which may be another user, must be able to remove the files of a job. */
    if (configuration->number.has_directory)
        umask(0);
    int ruleset = create_ruleset(configuration);
    struct rule rule;
    for (size_t offset = 0; offset < configuration->rules.size; offset += sizeof rule) {
        memcpy(&rule, configuration->rules.data + offset, sizeof rule);
        add_rule(ruleset, rule);
        /* The first one is that of the machine code; the others are directories. */
        if (offset > 0)
            close((int)rule.fd);
    }
    restrict_self(ruleset);
    load_filter(configuration->zygote_filter);
}

void detach_child(pid_t parent, int link, const int *streams, int stream_count)
{
    require(dup2(link, LINK_FD) == LINK_FD);
    for (int index = 0; index < stream_count; index++)
        require(dup2(streams[index], STDOUT_FILENO + index) == STDOUT_FILENO + index);
    require(syscall(SYS_close_range, LINK_FD + 1, ~0U, 0) == 0);
    require(prctl(PR_SET_PDEATHSIG, SIGKILL) == 0);
    if (getppid() != parent)
        _exit(0); /* it ended first, and the kernel tells nobody */
}

void limit_child(const struct configuration *configuration, uint64_t cpu_seconds)
{
    uint64_t ceiling = configuration->number.highest_cpu_seconds;
    uint64_t processes = configuration->number.child_processes;
    uint64_t soft = cpu_seconds < ceiling ? cpu_seconds : ceiling;
    set_limit((struct limit){RLIMIT_CPU, soft, soft < ceiling ? soft + 1 : ceiling});
    set_limit((struct limit){RLIMIT_NPROC, processes, processes});
}

void restrict_to_directory(
    const struct configuration *configuration, const int *descriptors, int count)
{
    require(count > 0);
    int ruleset = create_ruleset(configuration);
    for (int index = 0; index < count; index++) {
        uint64_t rights = index == 0 ? configuration->number.directory_rights
                                     : configuration->number.grant_rights;
        add_rule(ruleset, (struct rule){rights, (uint64_t)descriptors[index]});
    }
    restrict_self(ruleset);
}
