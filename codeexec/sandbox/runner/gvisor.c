/*
 * Protections that Linux gives and gVisor's kernel doesn't: it protects PID 1 from no signal, shows
 * the files that process 1 has open to all processes of its user, and has no limits of memory and
 * files but those of the container, at which the whole container ends. So under gVisor, and only
 * there, the runner's real user is another than programs' (root inside gVisor's own kernel), programs
 * get one more filter of system calls, and their memory and files are counted while they run.
 */
#define _GNU_SOURCE
#include "runner.h"

#include "bpf.h"
#include "clock.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#define MEMORY_EVERY_NS (5 * (int64_t)1000000)
#define TICK_NS 10000000
#define FILES_EVERY_NS (50 * (int64_t)1000000)
#define FILES_REST 4 /* times as long as counting took */
#define MAX_DEPTH 64
#define MAX_DEEP 512 /* folders at that depth: more of them are over every limit of files */
#define MAX_SEEN 256
#define FOLDERS 4

static struct {
    bool on;
    uid_t uid; /* of programs; the runner's real one is root's, without a capability while it acts */
    uint64_t memory_limit, memory;
    uint64_t file_limit, files, files_before;
    int64_t memory_due, files_due;
    int folders[FOLDERS];
    int deep[MAX_DEEP], deep_count; /* still to be counted */
} watch;

/* Of this run: the highest use of memory that was seen, and the processor time of each process when
 * it was last seen, in hundredths of a second. */
static struct {
    uint64_t memory, ticks_before; /* before: of processes whose place another one has taken */
    uint64_t ticks_at_start;       /* of processes that are there when it begins */
    struct {
        long process;
        uint64_t ticks;
    } processes[MAX_SEEN];
} seen;

/* From now on the runner acts as programs' user; it becomes root again only to start a program. */
static bool step_down(uid_t uid, gid_t gid)
{
    watch.uid = uid;
    for (int capability = 0; prctl(PR_CAPBSET_READ, capability) >= 0; capability++)
        prctl(PR_CAPBSET_DROP, capability);
    return setgroups(1, &gid) == 0 && setresgid(gid, gid, gid) == 0 && seteuid(uid) == 0;
}

bool gvisor_watch(const char *workspace, char *const limits[4])
{
    watch.on = true;
    watch.memory_limit = strtoull(limits[0], NULL, 10);
    watch.file_limit = strtoull(limits[1], NULL, 10);
    watch.folders[0] = open(workspace, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    watch.folders[1] = open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    watch.folders[2] = open("/var/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    watch.folders[3] = open("/dev/shm", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return step_down((uid_t)atol(limits[2]), (gid_t)atol(limits[3]));
}

/* ---- memory and files ---- */

/* Memory of an earlier run may still be on its way back, so shrinking use is not too much. */
static bool too_much_memory(int64_t now)
{
    struct sysinfo info;
    uint64_t before = watch.memory;
    if (now < watch.memory_due || sysinfo(&info) < 0)
        return false;
    watch.memory_due = now + MEMORY_EVERY_NS;
    watch.memory = ((uint64_t)info.totalram - info.freeram) * info.mem_unit;
    if (watch.memory > seen.memory)
        seen.memory = watch.memory;
    return watch.memory > watch.memory_limit && watch.memory >= before;
}

/* Its processes' time is known while they live, in hundredths of a second. */
static void each_process(void (*take)(long process, uint64_t ticks))
{
    DIR *processes = opendir("/proc");
    struct dirent *entry;
    while (processes && (entry = readdir(processes))) {
        char path[64], text[512] = "";
        unsigned long user, system;
        if (entry->d_name[0] < '1' || entry->d_name[0] > '9' || strcmp(entry->d_name, "1") == 0)
            continue;
        snprintf(path, sizeof path, "/proc/%.20s/stat", entry->d_name);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t got = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
        char *name_end = got > 0 ? strrchr(text, ')') : NULL; /* a name may hold anything */
        if (name_end && sscanf(name_end + 1, " %*c %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %lu %lu",
                               &user, &system) == 2)
            take(atol(entry->d_name), user + system);
        if (fd >= 0)
            close(fd);
    }
    if (processes)
        closedir(processes);
}

static uint64_t ticks_now;

static void add_ticks(long process, uint64_t ticks)
{
    (void)process;
    ticks_now += ticks;
}

static uint64_t cpu_of_processes(void)
{
    ticks_now = 0;
    each_process(add_ticks);
    return ticks_now * TICK_NS;
}

static void see_process(long process, uint64_t ticks)
{
    typeof(*seen.processes) *place = &seen.processes[process % MAX_SEEN];
    if (place->process != process)
        seen.ticks_before += place->ticks;
    place->process = process;
    place->ticks = ticks;
}

/* The processor time of a process that has ended is known to its parent alone. */
void gvisor_usage(uint64_t *cpu_ns, uint64_t *peak_bytes)
{
    uint64_t ticks = seen.ticks_before;
    for (int i = 0; i < MAX_SEEN; i++)
        ticks += seen.processes[i].ticks;
    ticks -= seen.ticks_at_start < ticks ? seen.ticks_at_start : ticks;
    if (ticks * TICK_NS > *cpu_ns)
        *cpu_ns = ticks * TICK_NS;
    if (seen.memory > *peak_bytes)
        *peak_bytes = seen.memory;
}

bool gvisor_figures(struct figures *figures)
{
    struct sysinfo info;
    struct rlimit processes;
    if (!watch.on || sysinfo(&info) < 0 || getrlimit(RLIMIT_NPROC, &processes) < 0)
        return false;
    *figures = (struct figures){
        .memory_bytes = ((uint64_t)info.totalram - info.freeram) * info.mem_unit,
        .memory_limit = watch.memory_limit,
        .cpu_ns = cpu_of_processes(),
        .processes = info.procs > 0 ? info.procs - 1u : 0,
        .process_limit = processes.rlim_cur + 1, /* a run's first is another user's */
    };
    return true;
}

/* A folder that its owner has closed is opened for a moment, because hidden files count as well. The
 * runner acts as that owner, so nothing is opened that programs could not open. */
static int open_folder(int parent, const char *name)
{
    int flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
    int folder = openat(parent, name, flags);
    struct stat about;
    if (folder >= 0 || errno != EACCES || fstatat(parent, name, &about, AT_SYMLINK_NOFOLLOW) < 0 ||
        fchmodat(parent, name, 0700, 0) < 0)
        return folder;
    folder = openat(parent, name, flags);
    if (folder >= 0)
        fchmod(folder, about.st_mode & 07777);
    return folder;
}

static uint64_t enough(void)
{
    return 8 * watch.file_limit; /* counting stops here; the memory is full before that */
}

static uint64_t count_later(int folder)
{
    int copy = watch.deep_count < MAX_DEEP ? fcntl(folder, F_DUPFD_CLOEXEC, 3) : -1;
    if (copy < 0)
        return enough();
    watch.deep[watch.deep_count++] = copy;
    return 0;
}

/* In gVisor's tmpfs a folder's size gives the number of its entries, and its link count shows whether
 * there are folders among them. */
static uint64_t count_files(int folder, int depth)
{
    struct stat about;
    if (depth == MAX_DEPTH)
        return count_later(folder);
    if (fstat(folder, &about) < 0)
        return 0;
    uint64_t count = (uint64_t)about.st_size / 20;
    if (about.st_nlink <= 2 || count >= enough())
        return count;
    bool shut = (about.st_mode & 0500) != 0500;
    if (shut)
        fchmod(folder, 0700);
    DIR *listing = fdopendir(openat(folder, ".", O_RDONLY | O_CLOEXEC));
    struct dirent *entry;
    while (listing && count < enough() && (entry = readdir(listing))) {
        if (entry->d_type != DT_DIR || !strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
            continue;
        int inner = open_folder(folder, entry->d_name);
        if (inner >= 0) {
            count += count_files(inner, depth + 1);
            close(inner);
        }
    }
    if (shut)
        fchmod(folder, about.st_mode & 07777);
    if (!listing)
        return enough();
    closedir(listing);
    return count;
}

static void add_files(int folder)
{
    uint64_t more = watch.files < enough() ? count_files(folder, 0) : 0;
    watch.files = more < enough() - watch.files ? watch.files + more : enough();
}

static void count_all_files(void)
{
    watch.files = 0;
    for (int i = 0; i < FOLDERS; i++)
        add_files(watch.folders[i]);
    while (watch.deep_count > 0) {
        int folder = watch.deep[--watch.deep_count];
        add_files(folder);
        close(folder);
    }
}

/* Files that an earlier run has left don't count against this one, unless it adds to them. */
void gvisor_begin(void)
{
    if (watch.on)
        count_all_files();
    watch.files_before = watch.files;
    memset(&seen, 0, sizeof seen);
    if (watch.on)
        seen.ticks_at_start = cpu_of_processes() / TICK_NS;
}

static bool too_many_files(int64_t now)
{
    if (now < watch.files_due)
        return false;
    count_all_files();
    each_process(see_process);
    int64_t rest = (now_ns() - now) * FILES_REST;
    watch.files_due = now_ns() + (rest > FILES_EVERY_NS ? rest : FILES_EVERY_NS);
    return watch.files > watch.file_limit &&
           (watch.files > watch.files_before || watch.files >= enough());
}

bool gvisor_exceeded(int64_t now)
{
    return watch.on && (too_much_memory(now) || too_many_files(now));
}

int64_t gvisor_due_ns(void)
{
    return watch.on ? watch.memory_due : -1;
}

/* ---- system calls ---- */

#define DEVICE 0020000 /* set in the modes of devices, not in those of files, FIFOs and sockets */

static const struct bpf_rule rules[] = {
    /* the runner, PID 1, is spared; guard.c has more */
    {SYS_kill, EPERM, BPF_EQUAL, 0, 1},
    {SYS_tkill, EPERM, BPF_EQUAL, 0, 1},
    {SYS_tgkill, EPERM, BPF_EQUAL, 1, 1},
    {SYS_rt_sigqueueinfo, EPERM, BPF_EQUAL, 0, 1},
    {SYS_rt_tgsigqueueinfo, EPERM, BPF_EQUAL, 1, 1},
    {SYS_pidfd_send_signal, ENOSYS, BPF_ALWAYS, 0, 0},
    {SYS_fcntl, EPERM, BPF_EQUAL, 1, F_SETSIG},
    {SYS_ptrace, EPERM, BPF_ALWAYS, 0, 0},
    {SYS_process_vm_readv, EPERM, BPF_ALWAYS, 0, 0},
    {SYS_process_vm_writev, EPERM, BPF_ALWAYS, 0, 0},
    /* nothing outlives a run */
    {SYS_shmget, ENOSYS, BPF_ALWAYS, 0, 0},
    {SYS_semget, ENOSYS, BPF_ALWAYS, 0, 0},
    {SYS_msgget, ENOSYS, BPF_ALWAYS, 0, 0},
    {SYS_mq_open, ENOSYS, BPF_ALWAYS, 0, 0},
    /* no namespaces */
    {SYS_unshare, EPERM, BPF_ALWAYS, 0, 0},
    {SYS_setns, EPERM, BPF_ALWAYS, 0, 0},
    {SYS_clone, EPERM, BPF_ANY_BIT, 0, 0x7e020000},
    {SYS_clone3, ENOSYS, BPF_ALWAYS, 0, 0},
    /* nothing that the profile of other runtimes refuses, and gVisor lets appear to work */
    {SYS_io_uring_setup, ENOSYS, BPF_ALWAYS, 0, 0},
    {SYS_syslog, EPERM, BPF_ALWAYS, 0, 0},
    {SYS_mknodat, EPERM, BPF_ANY_BIT, 2, DEVICE},
#ifdef SYS_mknod
    {SYS_mknod, EPERM, BPF_ANY_BIT, 1, DEVICE},
#endif
    {SYS_setpriority, EPERM, BPF_ANY_BIT, 2, 0x80000000},
    /* success, and nothing done: of a file of the image it would be done to the host's disk */
    {SYS_fsync, 0, BPF_ALWAYS, 0, 0},
    {SYS_fdatasync, 0, BPF_ALWAYS, 0, 0},
    {SYS_sync, 0, BPF_ALWAYS, 0, 0},
    {SYS_syncfs, 0, BPF_ALWAYS, 0, 0},
    {SYS_sync_file_range, 0, BPF_ALWAYS, 0, 0},
    {SYS_msync, 0, BPF_ANY_BIT, 2, MS_SYNC},
    {SYS_fadvise64, 0, BPF_EQUAL, 3, POSIX_FADV_DONTNEED},
};

enum { RULES = sizeof rules / sizeof *rules };

/* In a program's process, before it is executed. False where the filter can't be had. */
bool gvisor_confine(void)
{
    struct bpf_instruction filter[BPF_LOAD_NUMBER_LENGTH + BPF_RULE_LENGTH * RULES + 1];
    struct bpf_instruction *end = bpf_load_number(filter);
    if (!watch.on)
        return true;
    if (seteuid(0) < 0 || setresuid(watch.uid, watch.uid, watch.uid) < 0)
        return false;
    for (int i = 0; i < RULES; i++)
        end = bpf_add_rule(end, rules[i]);
    *end++ = (struct bpf_instruction){BPF_RETURN, 0, 0, BPF_ALLOW};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && bpf_apply(filter, end);
}
