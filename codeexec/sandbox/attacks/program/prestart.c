/* Harming what waits for the next run: an interpreter of this program's own user, from which later
 * programs of this session are forked. A program may end it, or make it useless; it may neither look
 * into it nor change what later programs get. */
#define _GNU_SOURCE
#include "attack.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define HOOK "/var/tmp/.prestart"
enum { SOON_MS = 2000, STEP_MS = 10 };

static pid_t next_process(DIR *proc)
{
    struct dirent *entry;
    while ((entry = readdir(proc))) {
        pid_t process = (pid_t)strtol(entry->d_name, NULL, 10);
        if (process > 1 && process != getpid())
            return process;
    }
    return 0;
}

/* Its number; 0, which is reported, where nothing waits. */
static pid_t waiting(void)
{
    pid_t found = 0;
    for (int ms = 0; ms < SOON_MS && !found; ms += STEP_MS) {
        DIR *proc = opendir("/proc");
        found = proc ? next_process(proc) : 0;
        if (proc)
            closedir(proc);
        if (!found)
            sleep_ms(STEP_MS);
    }
    if (!found)
        untried("what waits for the next run: there is no such process");
    return found;
}

/* What may be done to it; whether it matters is seen in the runs that follow. */
static void may(const char *what, long result)
{
    if (result < 0)
        held("%s: %s", what, strerror(errno));
    else
        held("%s: it is done, to no later run", what);
}

/* ---- ending and stopping it ---- */

static void kill_it(void)
{
    pid_t it = waiting();
    if (it)
        may("kill it", kill(it, SIGKILL));
}

static void stop_it(void)
{
    pid_t it = waiting();
    if (!it)
        return;
    may("stop it", kill(it, SIGSTOP));
    for (int i = 0; i < 3; i++)
        if (fork() == 0)
            for (setsid();; sched_yield())
                kill(it, SIGSTOP);
    sleep_ms(50);
}

static void signal_it(void)
{
    pid_t it = waiting();
    int sent = 0;
    if (!it)
        return;
    for (int number = SIGRTMAX; number >= 1; number--)
        if (number != SIGKILL && number != SIGSTOP)
            sent += kill(it, number) == 0;
    held("signals to it: %d kinds sent", sent);
}

/* Kills what is forked or started at the end of this run, as far as it lives so long. */
static void hunt(void)
{
    pid_t mine = getpid();
    if (!waiting())
        return;
    held("new processes: hunted from now on");
    for (int i = 0; i < 4; i++)
        if (fork() == 0)
            for (setsid();;) {
                for (pid_t each = mine + 1; each < mine + 200; each++)
                    if (each != getpid() && each != getppid() && getpgid(each) != mine)
                        kill(each, i % 2 ? SIGKILL : SIGSTOP);
            }
    sleep_ms(100);
}

/* ---- looking into it ---- */

static void memory_of_it(void)
{
    char data[8] = {0}, path[64];
    struct iovec local = {data, sizeof data}, remote = {(void *)0x400000, sizeof data};
    pid_t it = waiting();
    if (!it)
        return;
    refused("process_vm_readv", process_vm_readv(it, &local, 1, &remote, 1, 0));
    refused("process_vm_writev", process_vm_writev(it, &local, 1, &remote, 1, 0));
    snprintf(path, sizeof path, "/proc/%d/mem", it);
    cannot_read(path);
    cannot_write(path);
    snprintf(path, sizeof path, "/proc/%d/task/%d/mem", it, it);
    cannot_write(path);
    refused("PTRACE_ATTACH", ptrace(PTRACE_ATTACH, it, NULL, NULL));
    REFUSED("PTRACE_SEIZE", ptrace(PTRACE_SEIZE, it, NULL, NULL), EIO);
    REFUSED("kcmp with it", syscall(SYS_kcmp, getpid(), it, 0, 0, 0), ESRCH);
}

static void proc_of_it(void)
{
    static const char *const FILES[] = {"environ", "maps", "auxv", "stack", "syscall", "io",
                                        "pagemap", "smaps", "map_files"};
    static const char *const LINKS[] = {"exe", "cwd", "root", "fd/0", "fd/3", "ns/mnt"};
    char path[64], target[256];
    pid_t it = waiting();
    for (size_t i = 0; it && i < sizeof FILES / sizeof *FILES; i++) {
        snprintf(path, sizeof path, "/proc/%d/%s", it, FILES[i]);
        cannot_read(path);
    }
    for (size_t i = 0; it && i < sizeof LINKS / sizeof *LINKS; i++) {
        snprintf(path, sizeof path, "/proc/%d/%s", it, LINKS[i]);
        REFUSED(path, readlink(path, target, sizeof target), ENOENT);
    }
}

static void write_proc_of_it(void)
{
    static const char *const WRITES[] = {"oom_score_adj", "oom_adj", "clear_refs",
                                         "coredump_filter", "comm", "autogroup", "uid_map",
                                         "gid_map", "setgroups", "sched", "timens_offsets"};
    char path[64];
    pid_t it = waiting();
    for (size_t i = 0; it && i < sizeof WRITES / sizeof *WRITES; i++) {
        snprintf(path, sizeof path, "/proc/%d/%s", it, WRITES[i]);
        cannot_write(path);
    }
    if (!it)
        return;
    snprintf(path, sizeof path, "/proc/%d/timerslack_ns", it); /* opened by all, written by few */
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    ssize_t wrote = fd < 0 ? -1 : write(fd, "1000000", 7);
    close_keeping_errno(fd);
    REFUSED(path, wrote, ENOENT);
}

static void descriptors_of_it(void)
{
    char what[64];
    pid_t it = waiting();
    int pidfd = it ? (int)syscall(SYS_pidfd_open, it, 0) : -1;
    if (it && pidfd < 0)
        refused("pidfd_open", pidfd);
    for (int fd = 0; it && fd < 8; fd++) {
        snprintf(what, sizeof what, "pidfd_getfd of its descriptor %d", fd);
        if (pidfd >= 0)
            REFUSED(what, syscall(SYS_pidfd_getfd, pidfd, fd, 0), EBADF);
        snprintf(what, sizeof what, "/proc/%d/fd/%d", it, fd);
        cannot_write(what);
    }
}

/* The sockets on which it and the runner speak have no name, and are closed in programs. */
static void connect_to_it(void)
{
    static char text[65536];
    if (!waiting())
        return;
    if (read_file("/proc/net/unix", text, sizeof text) < 0)
        held("sockets with a name: /proc/net/unix: %s", strerror(errno));
    else if (strchr(text, '@') || strstr(text, " /"))
        escaped("sockets with a name: there is one");
    else
        held("sockets with a name: there is none");
    for (int fd = 3; fd < 64; fd++)
        if (send(fd, "G", 1, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0)
            escaped("a socket: descriptor %d is one", fd);
    held("sockets: none is inherited");
}

/* ---- changing what later programs inherit from it ---- */

static void limit_it(void)
{
    struct rlimit least = {8, 8};
    char what[64];
    pid_t it = waiting();
    for (int kind = 0; it && kind < 16; kind++) {
        snprintf(what, sizeof what, "its limit %d", kind);
        if (kind != RLIMIT_CORE)
            may(what, syscall(SYS_prlimit64, it, kind, &least, NULL));
    }
}

static void slow_it(void)
{
    struct sched_param none = {0};
    cpu_set_t first;
    pid_t it = waiting();
    CPU_ZERO(&first);
    CPU_SET(0, &first);
    if (!it)
        return;
    may("its priority", setpriority(PRIO_PROCESS, (id_t)it, 19));
    may("that of its group", setpriority(PRIO_PGRP, (id_t)it, 19));
    may("its scheduling", syscall(SYS_sched_setscheduler, it, SCHED_IDLE, &none));
    may("its processors", sched_setaffinity(it, sizeof first, &first));
    may("its I/O priority", syscall(SYS_ioprio_set, 1, it, 3 << 13));
}

/* ---- leaving no room for it ---- */

static void take_processes(void)
{
    pid_t it = waiting();
    int count = 0;
    if (!it)
        return;
    kill(it, SIGKILL);
    for (pid_t child; count < 4096 && (child = fork()) >= 0; count++)
        if (child == 0)
            for (;;)
                pause();
    held("processes: %d taken, and it is killed", count);
}

static void take_memory(void)
{
    pid_t it = waiting();
    long long most = fact_number("memory");
    if (!it)
        return;
    held("memory: about to take it, and it is killed");
    kill(it, SIGKILL);
    for (long long taken = 0; taken < most * 3 / 2; taken += 1 << 20) {
        char *piece = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (piece == MAP_FAILED)
            break;
        memset(piece, 1, 1 << 20);
    }
}

static void fill_up(const char *path)
{
    static char bytes[65536];
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    while (fd >= 0 && write(fd, bytes, sizeof bytes) > 0)
        ;
    while (fd >= 0 && write(fd, bytes, 1) > 0)
        ;
    held("%s: %s", path, strerror(errno));
    if (fd >= 0)
        close(fd);
}

static void fill_folders(void)
{
    pid_t it = waiting();
    if (!it)
        return;
    fill_up("/tmp/full");
    fill_up("/var/tmp/full");
    kill(it, SIGKILL);
}

static void close_folders(void)
{
    pid_t it = waiting();
    if (!it)
        return;
    may("close /tmp", chmod("/tmp", 0));
    may("close /var/tmp", chmod("/var/tmp", 0));
    kill(it, SIGKILL);
}

/* ---- planting what it would load ---- */

static void plant(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0755);
    if (fd >= 0 && write(fd, text, strlen(text)) < 0)
        held("%s: %s", path, strerror(errno));
    if (fd >= 0)
        close(fd);
}

static const char FORGED[] = "import os\nos.write(1, b'planted\\n')\nos._exit(66)\n";

static void plant_modules(void)
{
    static const char *const FOLDERS[] = {".", "/var/tmp", "/dev/shm"};
    static const char *const FILES[] = {
        "sitecustomize.py", "usercustomize.py", "random.py", "ctypes.py", "_socket.py", "numpy.py",
        "importlib.py",     "__main__.py",      "x.pth",     "pyvenv.cfg", "python313._pth",
        "libc.so.6",        "_ctypes.so"};
    char path[PATH_MAX];
    pid_t it = waiting();
    if (!it)
        return;
    for (size_t i = 0; i < sizeof FOLDERS / sizeof *FOLDERS; i++)
        for (size_t k = 0; k < sizeof FILES / sizeof *FILES; k++) {
            snprintf(path, sizeof path, "%s/%s", FOLDERS[i], FILES[k]);
            plant(path, FORGED);
        }
    held("modules: planted in each folder that can be written, and it is killed");
    cannot_write("/etc/ld.so.preload");
    kill(it, SIGKILL);
}

static void plant_hook(void)
{
    pid_t it = waiting();
    if (!it)
        return;
    may("its folder", mkdir(HOOK, 0700));
    plant(HOOK "/sitecustomize.py", FORGED);
    plant(HOOK "/random.py", FORGED);
    mkdir(HOOK "/deep", 0700);
    mkdir(HOOK "/deep/er", 0);
    chmod(HOOK, 0);
    kill(it, SIGKILL);
}

static void link_hook(void)
{
    char here[PATH_MAX];
    pid_t it = waiting();
    if (!it || !getcwd(here, sizeof here))
        return;
    plant("sitecustomize.py", FORGED);
    may("a link in its place", symlink(here, HOOK));
    kill(it, SIGKILL);
}

/* Until this run has ended, and the runner has begun to write it anew. */
static void race_hook(void)
{
    pid_t it = waiting();
    if (!it)
        return;
    kill(it, SIGKILL);
    held("its folder: made and removed all the time");
    for (int i = 0; i < 4; i++)
        if (fork() == 0)
            for (setsid();;) {
                mkdir(HOOK, 0700);
                plant(HOOK "/sitecustomize.py", FORGED);
                if (rename(HOOK, "/var/tmp/away") == 0) {
                    unlink("/var/tmp/away/sitecustomize.py");
                    rmdir("/var/tmp/away");
                }
            }
    sleep_ms(50);
}

const struct attack prestart[] = {
    {"prestart-kill", kill_it},
    {"prestart-stop", stop_it},
    {"prestart-signals", signal_it},
    {"prestart-hunt", hunt},
    {"prestart-memory", memory_of_it},
    {"prestart-proc", proc_of_it},
    {"prestart-proc-write", write_proc_of_it},
    {"prestart-descriptors", descriptors_of_it},
    {"prestart-sockets", connect_to_it},
    {"prestart-limits", limit_it},
    {"prestart-priority", slow_it},
    {"prestart-no-processes", take_processes},
    {"prestart-no-memory", take_memory},
    {"prestart-full-folders", fill_folders},
    {"prestart-closed-folders", close_folders},
    {"prestart-modules", plant_modules},
    {"prestart-hook", plant_hook},
    {"prestart-hook-link", link_hook},
    {"prestart-hook-race", race_hook},
    {NULL, NULL},
};
