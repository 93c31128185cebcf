/* Harming the runner: process 1, which starts programs, watches them and reports how they ended. */
#define _GNU_SOURCE
#include "attack.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void signal_runner(void)
{
    int sent = 0;
    for (int number = 1; number <= SIGRTMAX; number++)
        sent += kill(1, number) == 0;
    for (int i = 0; i < 3; i++)
        kill(1, SIGKILL);
    held("signals to the runner: %d kinds sent", sent);
}

/* Signals that wait for all processes of this user together, other sandboxes' too; -1: unknown. */
static long waiting_signals(void)
{
    char text[8192];
    const char *line = read_file("/proc/self/status", text, sizeof text) > 0
                           ? strstr(text, "\nSigQ:\t")
                           : NULL;
    return line ? strtol(line + 7, NULL, 10) : -1;
}

/* Signals of this kind are queued for a process that blocks them, up to a limit for all processes of a
 * user. */
static void signal_flood(void)
{
    union sigval value = {.sival_int = 1};
    long sent = 0, before = waiting_signals(), after;
    while (sent < 100000 && sigqueue(1, SIGRTMAX, value) == 0)
        sent++;
    for (int i = 0; i < 1000; i++) {
        kill(1, SIGCHLD);
        kill(1, SIGTERM);
    }
    after = waiting_signals();
    if (after - before > 1000)
        escaped("signals to the runner: %ld of %ld wait, and count against other sandboxes",
                after - before, sent);
    else
        held("signals to the runner: %ld sent, %ld wait", sent, after - before);
}

static void kill_everything(void)
{
    held("kill everything: about to");
    for (int i = 0; i < 5; i++)
        if (fork() == 0)
            for (;;)
                pause();
    kill(-1, SIGSTOP);
    kill(-1, SIGCONT);
    kill(-1, SIGKILL);
}

static void limit_runner(void)
{
    static const struct {
        const char *name;
        int resource;
    } KINDS[] = {{"its descriptors", RLIMIT_NOFILE}, {"its processor time", RLIMIT_CPU},
                 {"its processes", RLIMIT_NPROC},    {"its memory", RLIMIT_AS},
                 {"its files' size", RLIMIT_FSIZE},  {"its stack", RLIMIT_STACK}};
    uint64_t zero[2] = {0, 0};
    char what[64];
    for (size_t i = 0; i < sizeof KINDS / sizeof *KINDS; i++) {
        snprintf(what, sizeof what, "limit the runner: %s", KINDS[i].name);
        refused(what, syscall(SYS_prlimit64, 1, KINDS[i].resource, zero, NULL));
    }
}

static void slow_runner(void)
{
    struct sched_param none = {0};
    cpu_set_t first;
    CPU_ZERO(&first);
    CPU_SET(0, &first);
    errno = 0;
    refused("the runner's priority", setpriority(PRIO_PROCESS, 1, 19));
    refused("the runner's scheduling", syscall(SYS_sched_setscheduler, 1, SCHED_IDLE, &none));
    refused("the runner's processors", sched_setaffinity(1, sizeof first, &first));
    refused("the priority of all the user's processes", setpriority(PRIO_USER, 0, 19));
    refused("the runner's I/O priority", syscall(SYS_ioprio_set, 1, 1, 3 << 13));
}

static void put_u32(unsigned char *at, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        at[i] = (unsigned char)(value >> (24 - 8 * i));
}

/* A result and an acknowledgement as the runner would send them, for any run there may be. */
static size_t frames(unsigned char *into)
{
    size_t length = 0;
    for (uint32_t id = 0; id < 64; id++) {
        into[length] = id % 2 ? 'R' : 'A';
        put_u32(into + length + 1, id / 2);
        put_u32(into + length + 5, id % 2 ? 28 : 17);
        memset(into + length + 9, 0, 29);
        length += 9 + (id % 2 ? 28 : 17) + 1;
    }
    return length;
}

static void forge_frames(void)
{
    unsigned char bytes[4096];
    size_t length = frames(bytes);
    for (int fd = 1; fd <= 2; fd++)
        if (write(fd, bytes, length) != (ssize_t)length)
            return;
    if (write(STDOUT_FILENO, "\n", 1) == 1)
        held("forged frames: written to stdout and stderr");
    _exit(7);
}

static void runner_streams(void)
{
    cannot_write("/proc/1/fd/1");
    cannot_write("/proc/1/fd/2");
    cannot_read("/proc/1/fd/0");
    cannot_write("/proc/1/task/1/fd/1");
    REFUSED("/dev/console", open("/dev/console", O_WRONLY | O_CLOEXEC | O_NOCTTY), ENOENT, ENXIO,
            EIO);
}

static void replace_runner(void)
{
    char folder[PATH_MAX / 2], path[PATH_MAX], other[PATH_MAX];
    snprintf(folder, sizeof folder, "%s", fact("runner-folder"));
    snprintf(path, sizeof path, "%s/%s", folder, fact("runner-file"));
    if (access(path, F_OK) < 0)
        untried("the runner's file: it is not at %s", path);
    cannot_write(path);
    snprintf(other, sizeof other, "%s/other", folder);
    refused("rename the runner's file", rename(path, other));
    REFUSED("remove the runner's file", unlink(path), EBUSY);
    refused("a new file beside the runner's",
            open(other, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0700));
    refused("a link beside the runner's", symlink("/tmp/runner", other));
    refused("make the runner's file writable", chmod(path, 0777));
    REFUSED("put something over the runner's folder", rename("/tmp", folder), EXDEV, EBUSY,
            EINVAL);
    cannot_write("/proc/1/exe");
}

static void hold_pipes(void)
{
    for (int i = 0; i < 4; i++)
        if (fork() == 0) {
            setsid();
            if (fork() > 0)
                _exit(0);
            for (;;)
                pause();
        }
    held("pipes: held open by four daemons");
}

static void close_streams(void)
{
    held("standard streams: about to be closed");
    for (int fd = 0; fd < 3; fd++)
        close(fd);
    sleep_ms(150);
    _exit(0);
}

/* Output that is not read: the pipes are full when the program ends. */
static void full_pipes(void)
{
    static char bytes[65536];
    long long written = 0;
    held("pipes: filled at the end");
    for (int fd = 1; fd <= 2; fd++) {
        ssize_t wrote;
        fcntl(fd, F_SETFL, O_NONBLOCK);
        fcntl(fd, F_SETPIPE_SZ, 1024 * 1024);
        memset(bytes, '\n', sizeof bytes);
        for (int i = 0; i < 4 && (wrote = write(fd, bytes, sizeof bytes)) > 0; i++)
            written += wrote;
    }
    _exit(0);
}

static void no_descriptors(void)
{
    struct rlimit none = {0, 0};
    while (dup(0) >= 0)
        ;
    setrlimit(RLIMIT_NOFILE, &none);
    setrlimit(RLIMIT_FSIZE, &none);
    held("descriptors: all used, then forbidden");
}

static void stop_oneself(void)
{
    held("stop: about to");
    raise(SIGSTOP);
}

static void ignore_signals(void)
{
    sigset_t all;
    held("signals: all ignored and blocked");
    for (int number = 1; number <= SIGRTMAX; number++)
        signal(number, SIG_IGN);
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    prctl(PR_SET_PDEATHSIG, 0);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    for (;;)
        pause();
}

/* Processes that replace each other all the time, so that killing them always comes too late. */
static void hydra(void)
{
    held("processes that replace each other: begun");
    for (int i = 0; i < 4; i++)
        if (fork() == 0) {
            setsid();
            for (;;)
                if (fork() != 0)
                    _exit(0);
        }
    sleep_ms(300);
    _exit(0);
}

const struct attack tampering[] = {
    {"signal-runner", signal_runner},
    {"signal-flood", signal_flood},
    {"kill-everything", kill_everything},
    {"limit-runner", limit_runner},
    {"slow-runner", slow_runner},
    {"forge-frames", forge_frames},
    {"runner-streams", runner_streams},
    {"replace-runner", replace_runner},
    {"hold-pipes", hold_pipes},
    {"close-streams", close_streams},
    {"full-pipes", full_pipes},
    {"no-descriptors", no_descriptors},
    {"stop-oneself", stop_oneself},
    {"ignore-signals", ignore_signals},
    {"hydra", hydra},
    {NULL, NULL},
};
