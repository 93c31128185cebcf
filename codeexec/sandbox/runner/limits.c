#define _GNU_SOURCE
#include "runner.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static int counter = -1;

int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

void oom_counter_open(void)
{
    counter = open("/sys/fs/cgroup/memory.events", O_RDONLY | O_CLOEXEC);
    if (counter < 0)
        counter = open("/sys/fs/cgroup/memory/memory.oom_control", O_RDONLY | O_CLOEXEC);
}

/* Both files hold lines of `name count`; "oom_kill " also begins no longer name's line. */
int64_t oom_kills(void)
{
    char text[1024] = "\n";
    ssize_t got = counter < 0 ? -1 : pread(counter, text + 1, sizeof text - 2, 0);
    if (got <= 0)
        return 0;
    text[got + 1] = '\0';
    const char *line = strstr(text, "\noom_kill ");
    return line ? strtoll(line + 10, NULL, 10) : 0;
}

/* A number after `word` at the beginning of a file. */
static uint64_t number_in(const char *path, const char *word)
{
    char text[256] = "", *end;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (fd >= 0)
        close(fd);
    if (got <= 0 || strncmp(text, word, strlen(word)) != 0)
        return UNKNOWN;
    uint64_t number = strtoull(text + strlen(word), &end, 10);
    return end == text + strlen(word) ? UNKNOWN : number; /* such as "max" */
}

static uint64_t either(uint64_t one, uint64_t other)
{
    return one != UNKNOWN ? one : other;
}

#define CGROUP "/sys/fs/cgroup/"

/* The runner, which the kernel counts too, is none of the programs. */
static uint64_t without_runner(uint64_t processes)
{
    return processes == UNKNOWN || processes == 0 ? processes : processes - 1;
}

struct figures figures_now(void)
{
    struct figures figures;
    if (gvisor_figures(&figures))
        return figures;
    uint64_t cpu_us = number_in(CGROUP "cpu.stat", "usage_usec ");
    return (struct figures){
        .memory_bytes = either(number_in(CGROUP "memory.current", ""),
                               number_in(CGROUP "memory/memory.usage_in_bytes", "")),
        .memory_limit = either(number_in(CGROUP "memory.max", ""),
                               number_in(CGROUP "memory/memory.limit_in_bytes", "")),
        .cpu_ns = cpu_us != UNKNOWN ? cpu_us * 1000 : number_in(CGROUP "cpuacct/cpuacct.usage", ""),
        .processes = without_runner(either(number_in(CGROUP "pids.current", ""),
                                           number_in(CGROUP "pids/pids.current", ""))),
        .process_limit = without_runner(either(number_in(CGROUP "pids.max", ""),
                                               number_in(CGROUP "pids/pids.max", ""))),
    };
}
