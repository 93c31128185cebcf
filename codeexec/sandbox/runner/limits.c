#define _GNU_SOURCE
#include "runner.h"

#include "clock.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CGROUP "/sys/fs/cgroup/"

/* What the kernel counts for this container, in version 2 of its control groups or in version 1. None
 * of it can be changed from inside. */
enum { OOM_KILLS, CPU, MEMORY, PEAK, DETAILS, SOURCES };
static const char *const paths[SOURCES][2] = {
    [OOM_KILLS] = {CGROUP "memory.events", CGROUP "memory/memory.oom_control"},
    [CPU] = {CGROUP "cpu.stat", CGROUP "cpuacct/cpuacct.usage"},
    [MEMORY] = {CGROUP "memory.current", CGROUP "memory/memory.usage_in_bytes"},
    [PEAK] = {CGROUP "memory.peak", CGROUP "memory/memory.max_usage_in_bytes"},
    [DETAILS] = {CGROUP "memory.stat", CGROUP "memory/memory.stat"},
};
static int counters[SOURCES] = {-1, -1, -1, -1, -1};
static uint64_t counters_limit = UNKNOWN; /* of memory */
enum { LEAST_MEMORY = 3 * 1024 * 1024 };

/* The beginning of a counter's file, after a line's end. */
struct text {
    char bytes[1024];
};

static bool read_counter(int source, struct text *text)
{
    const int fd = counters[source];
    ssize_t got = fd < 0 ? -1 : pread(fd, text->bytes + 1, sizeof text->bytes - 2, 0);
    text->bytes[0] = '\n';
    text->bytes[got > 0 ? got + 1 : 1] = '\0';
    return got > 0;
}

/* Such a file holds lines of `name count`, or one number. `line` begins with the end of another. */
static uint64_t count_in(const struct text *text, const char *line)
{
    const char *at = strstr(text->bytes, line);
    if (!at || at[strlen(line)] < '0' || at[strlen(line)] > '9')
        return UNKNOWN; /* such as "max" */
    return strtoull(at + strlen(line), NULL, 10);
}

static uint64_t either(uint64_t one, uint64_t other)
{
    return one != UNKNOWN ? one : other;
}

static uint64_t number_of(int source)
{
    struct text text;
    return read_counter(source, &text) ? count_in(&text, "\n") : UNKNOWN;
}

/* A number at the beginning of a file that isn't kept open. */
static uint64_t number_in(const char *path)
{
    struct text text = {{'\n'}};
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = fd < 0 ? -1 : read(fd, text.bytes + 1, sizeof text.bytes - 2);
    if (fd >= 0)
        close(fd);
    return got <= 0 ? UNKNOWN : count_in(&text, "\n");
}

static uint64_t limit_of_memory(void)
{
    return either(number_in(CGROUP "memory.max"),
                  number_in(CGROUP "memory/memory.limit_in_bytes"));
}

void counters_open(void)
{
    for (int i = 0; i < SOURCES; i++) {
        counters[i] = open(paths[i][0], O_RDONLY | O_CLOEXEC);
        if (counters[i] < 0)
            counters[i] = open(paths[i][1], O_RDONLY | O_CLOEXEC);
    }
    counters_limit = limit_of_memory();
}

/* With the space: no longer name matches. */
int64_t oom_kills(void)
{
    struct text text;
    uint64_t kills = read_counter(OOM_KILLS, &text) ? count_in(&text, "\noom_kill ") : UNKNOWN;
    return kills > INT64_MAX ? 0 : (int64_t)kills; /* UNKNOWN too */
}

static uint64_t cpu_of_all(void)
{
    struct text text;
    if (!read_counter(CPU, &text))
        return UNKNOWN;
    uint64_t microseconds = count_in(&text, "\nusage_usec ");
    return microseconds != UNKNOWN ? microseconds * 1000 : count_in(&text, "\n");
}

/* Files of the image that were read: the kernel frees this memory when it is needed, and charges it
 * to the first process that reads a file. Files of the workspace are in memory as well; those stay. */
static uint64_t page_cache(void)
{
    struct text text;
    if (!read_counter(DETAILS, &text))
        return 0;
    uint64_t files = either(count_in(&text, "\nfile "), count_in(&text, "\ncache "));
    uint64_t kept = count_in(&text, "\nshmem ");
    return files == UNKNOWN || kept == UNKNOWN || files < kept ? 0 : files - kept;
}

/* Where files have filled the memory, the kernel kills a process that needs more; where no program
 * runs, that is the runner. */
bool memory_left(size_t bytes)
{
    uint64_t used = number_of(MEMORY), most = counters_limit;
    if (used == UNKNOWN || most == UNKNOWN || used + bytes + LEAST_MEMORY <= most)
        return true;
    return used + bytes + LEAST_MEMORY <= most + page_cache();
}

/* ---- what one run uses ---- */

/* The kernel keeps the highest use of memory since the container began, which only root could reset.
 * For a run that goes above it this is exact; any other run is sampled at certain moments. */
static struct {
    uint64_t cpu, own_cpu, peak_before, highest;
    int64_t begun, due;
} usage;

enum { LEAST_REST_NS = 4000000, MOST_REST_NS = 50000000, REST_SHARE = 8 };

void usage_sample(int64_t now)
{
    uint64_t memory = number_of(MEMORY);
    if (memory != UNKNOWN && memory > usage.highest)
        usage.highest = memory;
    int64_t rest = (now - usage.begun) / REST_SHARE;
    usage.due = now + (rest < LEAST_REST_NS   ? LEAST_REST_NS
                       : rest > MOST_REST_NS ? MOST_REST_NS
                                             : rest);
}

void usage_begin(int64_t now)
{
    usage.begun = now;
    usage.highest = 0;
    usage.peak_before = number_of(PEAK);
    usage.own_cpu = own_cpu_ns();
    usage.cpu = cpu_of_all();
    usage_sample(now);
}

int64_t usage_due_ns(void)
{
    return usage.due;
}

uint64_t usage_cpu_ns(void)
{
    struct figures figures;
    if (gvisor_figures(&figures)) /* of the processes that live: no others did before */
        return figures.cpu_ns == UNKNOWN ? 0 : figures.cpu_ns;
    uint64_t own = own_cpu_ns() - usage.own_cpu, cpu = cpu_of_all();
    return cpu == UNKNOWN || usage.cpu == UNKNOWN || cpu - usage.cpu < own ? 0
                                                                          : cpu - usage.cpu - own;
}

/* Both are raised to what all processes together are known to have used. */
void usage_end(uint64_t *cpu_ns, uint64_t *peak_bytes)
{
    uint64_t own = own_cpu_ns() - usage.own_cpu, cpu = cpu_of_all(), peak = number_of(PEAK);
    if (cpu != UNKNOWN && usage.cpu != UNKNOWN && cpu - usage.cpu > own + *cpu_ns)
        *cpu_ns = cpu - usage.cpu - own;
    if (peak == UNKNOWN || peak <= usage.peak_before)
        peak = usage.highest;
    uint64_t cache = peak > *peak_bytes ? page_cache() : peak;
    if (peak - cache > *peak_bytes && cache < peak)
        *peak_bytes = peak - cache;
}

/* ---- what is used now ---- */

/* The runner, which the kernel counts too, is none of the programs; nor is what waits for one. */
static uint64_t without(uint64_t others, uint64_t processes)
{
    return processes == UNKNOWN ? processes : processes < others ? 0 : processes - others;
}

struct figures figures_now(void)
{
    struct figures figures;
    if (gvisor_figures(&figures)) {
        figures.processes = without(standby_threads(), figures.processes);
        return figures;
    }
    return (struct figures){
        .memory_bytes = number_of(MEMORY),
        .memory_limit = limit_of_memory(),
        .cpu_ns = cpu_of_all(),
        .processes = without(1 + standby_threads(), either(number_in(CGROUP "pids.current"),
                                                           number_in(CGROUP "pids/pids.current"))),
        .process_limit = without(1 + standby_reserved(), either(number_in(CGROUP "pids.max"),
                                           number_in(CGROUP "pids/pids.max"))),
    };
}

uint64_t memory_now(void)
{
    struct figures figures = figures_now();
    uint64_t cache = page_cache();
    return figures.memory_bytes == UNKNOWN || figures.memory_bytes < cache
               ? 0
               : figures.memory_bytes - cache;
}
