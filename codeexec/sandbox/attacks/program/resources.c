/* Taking more than one's share. Each attack stops by itself a little above the sandbox's limit, so a
 * host without protection loses no more than that. */
#define _GNU_SOURCE
#include "attack.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MIB (1024LL * 1024)
#define PAGE 4096

/* ---- processes ---- */

enum { BEYOND = 64, MOST_PROCESSES = 600 };

/* Counts in memory that all processes of the attack share. */
static volatile long *shared_counter(void)
{
    void *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return page == MAP_FAILED ? NULL : page;
}

static long most_processes(void)
{
    long most = (long)fact_number("pids") + BEYOND;
    return most < MOST_PROCESSES ? most : MOST_PROCESSES;
}

static void judge_count(const char *what, long made)
{
    long limit = (long)fact_number("pids");
    if (made <= limit)
        held("%s: %ld, the limit is %ld", what, made, limit);
    else
        escaped("%s: %ld, the limit is %ld", what, made, limit);
}

static bool can_be_counted(void)
{
    long limit = (long)fact_number("pids");
    if (limit > 0 && limit < MOST_PROCESSES)
        return true;
    untried("processes: a limit of %ld is more than this attack starts (%d)", limit,
            MOST_PROCESSES);
    return false;
}

/* Every process starts others until the kernel refuses, and then keeps trying. */
static void fork_bomb(void)
{
    volatile long *made = shared_counter();
    long most = most_processes();
    if (!made || !can_be_counted())
        return;
    *made = 1;
    pid_t first = fork();
    if (first < 0)
        return;
    if (first > 0) {
        __sync_fetch_and_add(made, 1);
        sleep_ms(700);
        judge_count("processes of a fork bomb", *made);
        for (;;)
            pause();
    }
    for (;;) {
        if (*made >= most)
            pause();
        if (fork() > 0)
            __sync_fetch_and_add(made, 1);
    }
}

static void *sleep_forever(void *unused)
{
    for (;;)
        pause();
    return unused;
}

static void thread_bomb(void)
{
    long made = 1, most = most_processes();
    pthread_attr_t small;
    pthread_t thread;
    if (!can_be_counted())
        return;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 32768);
    while (made < most && pthread_create(&thread, &small, sleep_forever, NULL) == 0)
        made++;
    judge_count("threads", made);
}

static volatile long *vforked;
static long most_vforked;

/* A chain: each process waits in the kernel for the one that it started with its own memory. */
static int vfork_next(void *stacks)
{
    char *stack = (char *)stacks + 16384;
    long depth = __sync_add_and_fetch(vforked, 1);
    if (depth < most_vforked)
        clone(vfork_next, stack + 16384, CLONE_VM | CLONE_VFORK | SIGCHLD, stack);
    if (depth >= most_vforked)
        judge_count("processes by vfork", depth);
    _exit(0);
}

static void vfork_bomb(void)
{
    if (!can_be_counted() || !(vforked = shared_counter()))
        return;
    most_vforked = most_processes();
    size_t size = (size_t)(most_vforked + 3) * 16384;
    char *stacks = mmap(NULL, size, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stacks == MAP_FAILED)
        return;
    *vforked = 1;
    clone(vfork_next, stacks + 2 * 16384, CLONE_VM | CLONE_VFORK | SIGCHLD, stacks + 16384);
    if (*vforked < most_vforked)
        judge_count("processes by vfork", *vforked);
}

/* ---- memory ---- */

/* One and a half times the limit: a sandbox that gives this much has no limit. */
static long long too_much(void)
{
    return fact_number("memory") * 3 / 2;
}

static void memory_taken(const char *what, long long taken)
{
    if (taken < too_much())
        held("%s: refused after %lld MiB", what, taken / MIB);
    else
        escaped("%s: %lld MiB were available, the limit is %lld MiB", what, taken / MIB,
                fact_number("memory") / MIB);
}

static void touch_mapping(const char *what, int flags)
{
    long long size = too_much(), taken = 0;
    char *bytes = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE,
                       MAP_ANONYMOUS | MAP_NORESERVE | flags, -1, 0);
    while (bytes != MAP_FAILED && taken < size) {
        bytes[taken] = 1;
        taken += PAGE;
    }
    memory_taken(what, taken);
}

static void memory_at_once(void)
{
    touch_mapping("private memory", MAP_PRIVATE | MAP_POPULATE);
}

static void memory_shared(void)
{
    touch_mapping("shared memory", MAP_SHARED);
}

static void memory_bit_by_bit(void)
{
    long long taken = 0;
    char *piece;
    while (taken < too_much() && (piece = malloc(65536))) {
        memset(piece, 1, 65536);
        taken += 65536;
    }
    memory_taken("memory bit by bit", taken);
}

static void memory_of_children(void)
{
    long long each = too_much() / 8;
    volatile long *done = shared_counter();
    int killed = 0, status;
    for (int i = 0; i < 8; i++)
        if (fork() == 0) {
            char *bytes = malloc((size_t)each);
            for (long long at = 0; bytes && at < each; at += PAGE)
                bytes[at] = 1;
            __sync_fetch_and_add(done, 1);
            pause();
        }
    while (!killed && *done < 8) {
        if (waitpid(-1, &status, WNOHANG) > 0)
            killed += WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
        sleep_ms(5);
    }
    if (killed > 0)
        held("memory of eight processes: one was killed");
    else
        escaped("memory of eight processes: none was killed at 1.5 times the limit");
    _exit(1);
}

static void memory_memfd(void)
{
    static char bytes[65536];
    long long taken = 0;
    int fd = memfd_create("x", MFD_CLOEXEC);
    memset(bytes, 1, sizeof bytes);
    if (fd < 0) {
        refused("memfd_create", fd);
        return;
    }
    while (taken < too_much() && write(fd, bytes, sizeof bytes) == sizeof bytes)
        taken += sizeof bytes;
    memory_taken("memory in a memfd", taken);
}

static void allow_most_descriptors(void)
{
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

/* Buffers in the kernel, as many as the program has descriptors for. */
static void memory_in_pipes(void)
{
    static char bytes[65536];
    long long taken = 0;
    int ends[2];
    allow_most_descriptors();
    while (taken < too_much() && pipe2(ends, O_NONBLOCK) == 0) {
        ssize_t wrote;
        fcntl(ends[1], F_SETPIPE_SZ, 1024 * 1024);
        while ((wrote = write(ends[1], bytes, sizeof bytes)) > 0)
            taken += wrote;
    }
    memory_taken("memory in pipes", taken);
}

static void memory_in_sockets(void)
{
    static char bytes[65536];
    long long taken = 0;
    int ends[2], size = 64 * 1024 * 1024;
    allow_most_descriptors();
    while (taken < too_much() &&
           socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends) == 0) {
        ssize_t sent;
        setsockopt(ends[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
        while ((sent = send(ends[0], bytes, sizeof bytes, MSG_NOSIGNAL)) > 0)
            taken += sent;
    }
    memory_taken("memory in sockets", taken);
}

/* A page every 2 MiB: each needs a page of page table as well. */
static void memory_in_page_tables(void)
{
    long long stride = 2 * MIB, count = too_much() / (2 * PAGE), made = 0;
    char *bytes = mmap(NULL, (size_t)(stride * count), PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (bytes == MAP_FAILED) {
        held("page tables: no %lld GiB of addresses", stride * count / MIB / 1024);
        return;
    }
    madvise(bytes, (size_t)(stride * count), MADV_NOHUGEPAGE);
    while (made < count)
        bytes[stride * made++] = 1;
    memory_taken("memory in page tables", made * 2 * PAGE);
}

static void oom_score(void)
{
    static const char *const SCORES[] = {"-1000", "-500", "0"};
    int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    for (size_t i = 0; fd >= 0 && i < sizeof SCORES / sizeof *SCORES; i++) {
        ssize_t wrote = write(fd, SCORES[i], strlen(SCORES[i]));
        if (SCORES[i][0] == '-')
            refused("lower oom_score_adj below the sandbox's", wrote);
    }
    touch_mapping("memory of one that would not be killed", MAP_PRIVATE);
}

/* ---- disk ---- */

static void fill(const char *folder, long long limit)
{
    static char bytes[65536];
    char path[PATH_MAX];
    long long written = 0;
    snprintf(path, sizeof path, "%s/fill", folder);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0) {
        REFUSED(path, fd, ENOENT);
        return;
    }
    memset(bytes, 1, sizeof bytes);
    ssize_t wrote = 0;
    while (written < limit * 3 / 2 && (wrote = write(fd, bytes, sizeof bytes)) > 0)
        written += wrote;
    unlink(path);
    close(fd);
    if (written == 0)
        untried("%s: %s", folder, strerror(errno));
    else if (written <= limit)
        held("%s: full after %lld MiB", folder, written / MIB);
    else
        escaped("%s: %lld MiB were written, its size is %lld MiB", folder, written / MIB,
                limit / MIB);
}

static void fill_workspace(void)
{
    char folder[PATH_MAX];
    if (getcwd(folder, sizeof folder))
        fill(folder, fact_number("tmpfs"));
}

static void fill_tmp(void)
{
    fill("/tmp", fact_number("tmpfs"));
}

static void fill_shm(void)
{
    fill("/dev/shm", fact_number("shm"));
}

static void make_files(const char *folder, const char *limit)
{
    long most = (long)fact_number(limit) + 1000, made = 0;
    char name[32];
    if (mkdir(folder, 0700) < 0 || chdir(folder) < 0) {
        untried("inodes: %s", strerror(errno));
        return;
    }
    for (int fd = 0; made < most; made++) {
        snprintf(name, sizeof name, "%ld", made);
        if ((fd = open(name, O_WRONLY | O_CREAT | O_CLOEXEC, 0600)) < 0)
            break;
        close(fd);
    }
    if (made < most)
        held("files: %s after %ld", strerror(errno), made);
    else
        escaped("files: %ld were made, %ld are allowed", made, most - 1000);
    for (long i = 0; i < made; i++) {
        snprintf(name, sizeof name, "%ld", i);
        unlink(name);
    }
}

static void inodes(void)
{
    make_files("many", "inodes");
}

static void shm_inodes(void)
{
    make_files("/dev/shm/many", "shm-files");
}

static void fill_var_tmp(void)
{
    fill("/var/tmp", fact_number("tmpfs"));
}

static void sparse_files(void)
{
    int fd = open("sparse", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    struct stat about;
    off_t huge = (off_t)1 << 40;
    int sized = ftruncate(fd, huge);
    if (fstat(fd, &about) < 0) {
        untried("a sparse file: %s", strerror(errno));
        return;
    }
    if (about.st_blocks * 512 < fact_number("tmpfs"))
        held("a sparse file of 1 TiB: %s, it takes %lld KiB", sized ? "refused" : "made",
             (long long)about.st_blocks / 2);
    else
        escaped("a sparse file takes %lld MiB", (long long)about.st_blocks / 2048);
    REFUSED("reserve 1 TiB", fallocate(fd, 0, 0, huge), ENOSPC, EFBIG, EOPNOTSUPP, ENOMEM);
    unlink("sparse");
}

static void deep_folders(void)
{
    int depth = 0;
    while (depth < 20000 && mkdir("d", 0700) == 0 && chdir("d") == 0)
        depth++;
    held("folders inside each other: %d deep, left for the runner to live with", depth);
}

static void long_names(void)
{
    char name[5000];
    memset(name, 'n', sizeof name);
    name[255] = '\0';
    int fd = open(name, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        untried("a name of 255 bytes: %s", strerror(errno));
    name[255] = 'n';
    name[256] = '\0';
    REFUSED("a name of 256 bytes", open(name, O_WRONLY | O_CREAT | O_CLOEXEC, 0600), ENAMETOOLONG,
            EINVAL);
    name[256] = 'n';
    for (size_t i = 100; i < sizeof name; i += 100)
        name[i] = '/';
    name[sizeof name - 1] = '\0';
    REFUSED("a path of 5000 bytes", open(name, O_WRONLY | O_CREAT | O_CLOEXEC, 0600), ENAMETOOLONG);
    fd = open("\n\033[2J\xff\xfe\"'; rm -rf $HOME", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (fd >= 0)
        held("a name of control characters: left for the runner to live with");
}

/* ---- output ---- */

static void flood(int fd, size_t size)
{
    static char bytes[65536];
    memset(bytes, 'x', sizeof bytes);
    while (write(fd, bytes, size) > 0)
        ;
}

static void flood_stdout(void)
{
    flood(STDOUT_FILENO, 65536);
}

static void flood_stderr(void)
{
    flood(STDERR_FILENO, 65536);
}

static void flood_both(void)
{
    if (fork() == 0)
        flood(STDERR_FILENO, 65536);
    flood(STDOUT_FILENO, 65536);
}

static void flood_bytes(void)
{
    if (fork() == 0)
        flood(STDERR_FILENO, 1);
    flood(STDOUT_FILENO, 1);
}

/* ---- processor time and what else the kernel counts ---- */

static void burn_cpu(void)
{
    volatile unsigned long counter = 0;
    for (int i = 0; i < 7; i++)
        if (fork() == 0)
            break;
    for (;;)
        counter++;
}

static void many_descriptors(void)
{
    long made = 0, hard = (long)fact_number("descriptors");
    allow_most_descriptors();
    while (made < hard + 1000 && dup(0) >= 0)
        made++;
    if (made <= hard)
        held("descriptors: %s after %ld", strerror(errno), made);
    else
        escaped("descriptors: %ld, the limit is %ld", made, hard);
}

/* Other things that the kernel keeps for a program, as many as it allows. */
static void many_timers(void)
{
    long timers = 0, epolls = 0, watches = 0;
    struct sigevent silent = {.sigev_notify = SIGEV_NONE};
    struct epoll_event event = {.events = EPOLLIN};
    timer_t timer;
    int fd, all = epoll_create1(0), inotify = inotify_init1(IN_CLOEXEC);
    while (timers < 5000 && timer_create(CLOCK_MONOTONIC, &silent, &timer) == 0)
        timers++;
    while (epolls < 500 && (fd = timerfd_create(CLOCK_MONOTONIC, 0)) >= 0) {
        epoll_ctl(all, EPOLL_CTL_ADD, fd, &event);
        epoll_create1(0);
        epolls++;
    }
    while (inotify >= 0 && watches < 1 && inotify_add_watch(inotify, "/tmp", IN_ALL_EVENTS) >= 0)
        watches++;
    held("timers: %ld, descriptors of timers: %ld, left open at the end", timers, epolls);
}

static void file_locks(void)
{
    static const char *const SHARED[] = {"/bin/sh", "/etc/passwd", "/etc/hosts", "/proc/1/exe"};
    int locked = 0;
    for (size_t i = 0; i < sizeof SHARED / sizeof *SHARED; i++) {
        int fd = open(SHARED[i], O_RDONLY | O_CLOEXEC);
        locked += fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0;
        REFUSED("lease on a file of the image", fcntl(fd, F_SETLEASE, F_WRLCK), EBADF, EAGAIN,
                EINVAL);
    }
    held("locks on files of the image: %d, held while others run", locked);
    sleep_ms(300);
}

static void priority(void)
{
    struct sched_param realtime = {.sched_priority = 1};
    struct {
        uint32_t size, policy;
        uint64_t flags;
        int32_t nice;
        uint32_t priority;
        uint64_t runtime, deadline, period;
    } deadline = {sizeof deadline, 6, 0, 0, 0, 10000000, 20000000, 20000000};
    errno = 0;
    refused("setpriority -20", setpriority(PRIO_PROCESS, 0, -20));
    refused("setpriority -20 of the user's processes", setpriority(PRIO_USER, 0, -20));
    REFUSED("SCHED_FIFO", syscall(SYS_sched_setscheduler, 0, SCHED_FIFO, &realtime), EINVAL);
    REFUSED("SCHED_RR", syscall(SYS_sched_setscheduler, 0, SCHED_RR, &realtime), EINVAL);
    refused("SCHED_DEADLINE", syscall(SYS_sched_setattr, 0, &deadline, 0));
    refused("real-time I/O priority", syscall(SYS_ioprio_set, 1, 0, 1 << 13));
}

static void raise_limit(const char *what, int resource)
{
    struct rlimit limit, now;
    getrlimit(resource, &limit);
    if (limit.rlim_max == RLIM_INFINITY) {
        escaped("%s: it has no limit", what);
        return;
    }
    limit.rlim_max++;
    int set = setrlimit(resource, &limit);
    if (set == 0 && getrlimit(resource, &now) == 0 && now.rlim_max < limit.rlim_max)
        held("%s: nothing was done", what);
    else
        refused(what, set);
}

static void limits(void)
{
    raise_limit("raise RLIMIT_NOFILE", RLIMIT_NOFILE);
    raise_limit("raise RLIMIT_CORE", RLIMIT_CORE);
    raise_limit("raise RLIMIT_MEMLOCK", RLIMIT_MEMLOCK);
    raise_limit("raise RLIMIT_MSGQUEUE", RLIMIT_MSGQUEUE);
    raise_limit("raise RLIMIT_NICE", RLIMIT_NICE);
    raise_limit("raise RLIMIT_RTPRIO", RLIMIT_RTPRIO);
}

const struct attack resources[] = {
    {"fork-bomb", fork_bomb},
    {"thread-bomb", thread_bomb},
    {"vfork-bomb", vfork_bomb},
    {"memory-at-once", memory_at_once},
    {"memory-bit-by-bit", memory_bit_by_bit},
    {"memory-shared", memory_shared},
    {"memory-memfd", memory_memfd},
    {"memory-of-children", memory_of_children},
    {"memory-in-pipes", memory_in_pipes},
    {"memory-in-sockets", memory_in_sockets},
    {"memory-in-page-tables", memory_in_page_tables},
    {"oom-score", oom_score},
    {"full-workspace", fill_workspace},
    {"full-tmp", fill_tmp},
    {"full-var-tmp", fill_var_tmp},
    {"full-shm", fill_shm},
    {"inodes", inodes},
    {"shm-inodes", shm_inodes},
    {"sparse-files", sparse_files},
    {"deep-folders", deep_folders},
    {"long-names", long_names},
    {"flood-stdout", flood_stdout},
    {"flood-stderr", flood_stderr},
    {"flood-both", flood_both},
    {"flood-bytes", flood_bytes},
    {"burn-cpu", burn_cpu},
    {"many-descriptors", many_descriptors},
    {"many-timers", many_timers},
    {"file-locks", file_locks},
    {"priority", priority},
    {"raise-limits", limits},
    {NULL, NULL},
};
