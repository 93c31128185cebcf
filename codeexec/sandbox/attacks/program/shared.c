/* What all sandboxes of a host share: its disk, its page cache, and what the kernel counts by user. Two
 * of these are watched from another sandbox meanwhile. */
#define _GNU_SOURCE
#include "attack.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { MEANWHILE_MS = 1500 };

/* ---- the disk, and files in memory ---- */

/* Whether a call would do its work: made with arguments for which the kernel would report an error, it
 * must succeed without doing anything, or be refused. */
static void not_done(const char *what, long result)
{
    if (result == 0)
        held("%s: nothing is done", what);
    else if (errno == EPERM || errno == EACCES || errno == ENOSYS)
        held("%s: %s", what, strerror(errno));
    else
        escaped("%s: it would be done: %s", what, strerror(errno));
}

static void flush_disk(void)
{
    not_done("fsync", syscall(SYS_fsync, -1));
    not_done("fdatasync", syscall(SYS_fdatasync, -1));
    not_done("syncfs", syscall(SYS_syncfs, -1));
    not_done("sync_file_range", syscall(SYS_sync_file_range, -1, 0, 0, 7));
    not_done("msync", syscall(SYS_msync, 4096, 4096, MS_SYNC)); /* where nothing is mapped */
}

static void evict_files(void)
{
    not_done("posix_fadvise: not needed", syscall(SYS_fadvise64, -1, 0, 0, POSIX_FADV_DONTNEED));
}

/* ---- files that others can open ---- */

enum { MOST_FILES = 64 };
static char paths[MOST_FILES][PATH_MAX];

/* Mounted files, the runner, and files of the image. */
static int common_files(void)
{
    static char text[65536];
    char *line, *rest = text, *save;
    int count = 0;
    snprintf(paths[count++], PATH_MAX, "%s", fact("runner-folder"));
    snprintf(paths[count], PATH_MAX, "%s/", fact("runner-folder"));
    strncat(paths[count++], fact("runner-file"), 256);
    snprintf(paths[count++], PATH_MAX, "/bin/sh");
    snprintf(paths[count++], PATH_MAX, "/etc/group");
    read_file("/proc/self/mounts", text, sizeof text);
    for (; count < MOST_FILES && (line = strtok_r(rest, "\n", &save)); rest = NULL) {
        char *place = strchr(line, ' ');
        struct stat about;
        if (!place)
            continue;
        *strchrnul(++place, ' ') = '\0';
        if (stat(place, &about) == 0 && S_ISREG(about.st_mode))
            snprintf(paths[count++], PATH_MAX, "%s", place);
    }
    return count;
}

static long long now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

static void lock_and_watch(void)
{
    int watch = inotify_init1(IN_CLOEXEC | IN_NONBLOCK), locked = 0, watched = 0, count = common_files();
    for (int i = 0; i < count; i++) {
        int fd = open(paths[i], O_RDONLY | O_CLOEXEC);
        locked += fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0;
        watched += inotify_add_watch(watch, paths[i], IN_OPEN | IN_ACCESS | IN_CLOSE) >= 0;
    }
    struct pollfd ready = {.fd = watch, .events = POLLIN};
    long long until = now_ms() + MEANWHILE_MS;
    if (poll(&ready, 1, MEANWHILE_MS) > 0 && now_ms() < until)
        escaped("another session is seen as it opens a file that both have");
    else
        held("files that others might have: %d locked, %d watched, no other was seen", locked, watched);
    while (now_ms() < until)
        sleep_ms(20);
}

/* Runs in the bystander: only its own locks may exist. */
static void meet_locks(void)
{
    int count = common_files(), opened = 0, met = 0;
    for (int i = 0; i < count; i++) {
        int fd = open(paths[i], O_RDONLY | O_CLOEXEC);
        opened += fd >= 0;
        if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK) {
            escaped("a lock of another session is met on %s", paths[i]);
            met++;
        }
        close(fd);
    }
    if (!met)
        held("locks on %d files: no other session has one", opened);
}

/* ---- what is counted by user ---- */

static void take_quotas(void)
{
    int pipes = 0, watches = 0, signals = 0, ends[2];
    sigset_t blocked;
    while (pipes < 100 && pipe2(ends, O_CLOEXEC) == 0 &&
           fcntl(ends[1], F_SETPIPE_SZ, 1024 * 1024) > 0)
        pipes++;
    while (watches < 300 && inotify_init1(IN_CLOEXEC) >= 0)
        watches++;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGRTMIN);
    sigprocmask(SIG_BLOCK, &blocked, NULL);
    while (signals < 200000 && sigqueue(getpid(), SIGRTMIN, (union sigval){0}) == 0)
        signals++;
    held("taken: %d pipes of 1 MiB, %d sets of watches, %d waiting signals", pipes, watches, signals);
    sleep_ms(MEANWHILE_MS);
}

/* Runs in the bystander: an ordinary program must get what it asks for. */
static void own_share(void)
{
    int ends[2];
    timer_t timer;
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN};
    if (pipe2(ends, O_CLOEXEC) < 0 || fcntl(ends[1], F_GETPIPE_SZ) < 65536)
        escaped("a pipe is smaller than usual, because of what another session has taken");
    else if (fcntl(ends[1], F_SETPIPE_SZ, 1024 * 1024) < 0)
        escaped("a pipe of 1 MiB is refused, because of what another session has taken: %s", strerror(errno));
    if (inotify_init1(IN_CLOEXEC) < 0)
        escaped("watches are refused, because of what another session has taken: %s", strerror(errno));
    if (timer_create(CLOCK_MONOTONIC, &event, &timer) < 0)
        escaped("a timer is refused, because of what another session has taken: %s", strerror(errno));
    else
        held("pipes, watches and timers are available");
}

const struct attack shared[] = {
    {"flush-disk", flush_disk},
    {"evict-files", evict_files},
    {"lock-and-watch", lock_and_watch},
    {"user-quotas", take_quotas},
    {"meet-locks", meet_locks},
    {"own-share", own_share},
    {NULL, NULL},
};
