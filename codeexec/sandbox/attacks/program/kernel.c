/* Ways out through the kernel: its settings, devices and system calls. */
#define _GNU_SOURCE
#include "attack.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/personality.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/timex.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef SYS_io_uring_setup
#define SYS_io_uring_setup 425
#endif
/* ---- the kernel's settings ---- */

static int looked_at;

static int writable_file(const char *path)
{
    struct stat about;
    if (++looked_at > 20000)
        return 1;
    if (lstat(path, &about) == 0 && S_ISREG(about.st_mode) && access(path, W_OK) == 0)
        cannot_write(path);
    return 0;
}

static void cgroups(void)
{
    static const char *const FILES[] = {"release_agent", "cgroup.procs", "tasks",
                                        "cgroup.subtree_control", "memory.max",
                                        "memory.limit_in_bytes", "pids.max", "cpu.max",
                                        "devices.allow", "notify_on_release", "cgroup.kill"};
    static const char *const FOLDERS[] = {"/sys/fs/cgroup", "/sys/fs/cgroup/memory",
                                          "/sys/fs/cgroup/pids", "/sys/fs/cgroup/devices",
                                          "/sys/fs/cgroup/cpu", "/sys/fs/cgroup/unified"};
    char path[128];
    for (size_t i = 0; i < sizeof FOLDERS / sizeof *FOLDERS; i++) {
        for (size_t k = 0; k < sizeof FILES / sizeof *FILES; k++) {
            snprintf(path, sizeof path, "%s/%s", FOLDERS[i], FILES[k]);
            if (access(path, F_OK) == 0)
                cannot_write(path);
        }
        snprintf(path, sizeof path, "%s/of-an-attack", FOLDERS[i]);
        int made = mkdir(path, 0700), error = errno;
        if (made == 0)
            rmdir(path);
        errno = error;
        REFUSED(path, made, ENOENT);
    }
    walk("/sys/fs/cgroup", 3, writable_file);
}

static void sysfs(void)
{
    cannot_write("/sys/kernel/uevent_helper");
    cannot_write("/sys/kernel/mm/transparent_hugepage/enabled");
    cannot_write("/sys/kernel/security/apparmor/.load");
    cannot_write("/sys/power/state");
    cannot_write("/sys/module/kernel/parameters/panic");
    cannot_write("/sys/class/net/lo/mtu");
    looked_at = 0;
    walk("/sys", 4, writable_file);
}

static void kernel_settings(void)
{
    static const char *const FILES[] = {
        "kernel/core_pattern", "kernel/modprobe", "kernel/hotplug", "kernel/panic", "kernel/sysrq",
        "kernel/hostname", "kernel/randomize_va_space", "kernel/pid_max", "kernel/kptr_restrict",
        "kernel/unprivileged_bpf_disabled", "fs/binfmt_misc/register", "fs/suid_dumpable",
        "vm/overcommit_memory", "vm/drop_caches", "vm/panic_on_oom", "net/ipv4/ip_forward",
        "net/ipv4/ping_group_range"};
    char path[128];
    for (size_t i = 0; i < sizeof FILES / sizeof *FILES; i++) {
        snprintf(path, sizeof path, "/proc/sys/%s", FILES[i]);
        cannot_write(path);
    }
    cannot_write("/proc/sysrq-trigger");
    cannot_write("/proc/irq/default_smp_affinity");
    cannot_write("/proc/mtrr");
    looked_at = 0;
    walk("/proc/sys", 4, writable_file);
}

/* ---- devices ---- */

static const char *const DEVICES[] = {"null", "zero", "full", "random", "urandom", "tty",
                                      "console", "ptmx", "pts", "shm", "mqueue", "fd", "stdin",
                                      "stdout", "stderr", "core", "net"};

static int known_device(const char *path)
{
    for (size_t i = 0; i < sizeof DEVICES / sizeof *DEVICES; i++)
        if (strcmp(path + 5, DEVICES[i]) == 0)
            return 0;
    if (strcmp(path, "/dev/fuse") != 0) /* gVisor always shows it: it must not open */
        escaped("%s is there", path);
    return 0;
}

static void devices(void)
{
    static const char *const SECRET[] = {"/dev/mem", "/dev/kmem", "/dev/port", "/dev/kmsg",
                                         "/dev/sda", "/dev/vda", "/dev/nvme0n1", "/dev/fuse",
                                         "/dev/kvm", "/dev/vsock",
                                         "/dev/mapper/control", "/dev/loop-control"};
    walk("/dev", 1, known_device);
    for (size_t i = 0; i < sizeof SECRET / sizeof *SECRET; i++)
        cannot_read(SECRET[i]);
    char byte;
    int tunnel = open("/dev/net/tun", O_RDWR | O_CLOEXEC); /* gVisor has one, of its own network */
    REFUSED("use /dev/net/tun", tunnel < 0 ? tunnel : read(tunnel, &byte, 1), ENOENT, EBADFD);
    refused("make a block device", mknod("block", S_IFBLK | 0600, makedev(8, 0)));
    refused("make a device of all memory", mknod("/tmp/mem", S_IFCHR | 0600, makedev(1, 1)));
}

static void terminals(void)
{
    char line = 'x';
    int own, terminal = open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY);
    REFUSED("the terminal of the sandbox", terminal, ENXIO, ENOENT, EIO);
    for (int fd = 0; fd < 3; fd++)
        REFUSED("type into a standard stream", ioctl(fd, TIOCSTI, &line), ENOTTY, EINVAL, EIO);
    own = open("/dev/ptmx", O_RDWR | O_CLOEXEC | O_NOCTTY);
    if (own >= 0)
        REFUSED("take a console over", ioctl(own, TIOCCONS, NULL), EINVAL, ENOTTY);
    REFUSED("/dev/console", open("/dev/console", O_RDWR | O_CLOEXEC | O_NOCTTY), ENOENT, ENXIO, EIO);
}

/* ---- interfaces of the kernel ---- */

static void bpf(void)
{
    uint32_t map[18] = {2, 4, 4, 1}; /* an array of one number */
    uint32_t object[18] = {0};
    refused("bpf: make a map", syscall(SYS_bpf, 0, map, sizeof map));
    REFUSED("bpf: next program's id", syscall(SYS_bpf, 11, object, sizeof object), ENOENT);
}

static void perf_events(void)
{
    struct {
        uint32_t type, size;
        uint64_t config, rest[14];
    } clock = {1, 128, 0, {0}};
    REFUSED("perf_event_open of oneself", syscall(SYS_perf_event_open, &clock, 0, -1, -1, 0),
            ENOENT, ENODEV);
    REFUSED("perf_event_open of the machine", syscall(SYS_perf_event_open, &clock, -1, 0, -1, 0),
            ENOENT, ENODEV);
}

static void io_uring(void)
{
    uint32_t parameters[30] = {0};
    refused("io_uring_setup", syscall(SYS_io_uring_setup, 4, parameters));
}

static void keys(void)
{
    refused("add_key", syscall(SYS_add_key, "user", "attack", "x", 1, -3));
    REFUSED("request_key", syscall(SYS_request_key, "user", "attack", NULL, 0), ENOKEY);
    refused("keyctl", syscall(SYS_keyctl, 0 /* get id */, -3 /* session keyring */, 1));
}

static void userfault(void)
{
    refused("userfaultfd", syscall(SYS_userfaultfd, O_CLOEXEC));
    refused("userfaultfd in user mode only", syscall(SYS_userfaultfd, O_CLOEXEC | 1));
}

static void modules_and_kexec(void)
{
    refused("init_module", syscall(SYS_init_module, NULL, 0, ""));
    refused("finit_module", syscall(SYS_finit_module, -1, "", 0));
    refused("delete_module", syscall(SYS_delete_module, "no_such_module", 0));
    refused("kexec_load", syscall(SYS_kexec_load, 0, 0, NULL, ~0UL));
#ifdef SYS_kexec_file_load
    refused("kexec_file_load", syscall(SYS_kexec_file_load, -1, -1, 0, NULL, 0));
#endif
}

static void file_handles(void)
{
    struct {
        unsigned bytes;
        int type;
        unsigned char handle[8];
    } root = {8, 1, {2}};
    int fd = open("/etc/hosts", O_RDONLY | O_CLOEXEC);
    REFUSED("open_by_handle_at", syscall(SYS_open_by_handle_at, fd, &root, O_RDONLY), EOPNOTSUPP);
    refused("fanotify_init", syscall(SYS_fanotify_init, 0, O_RDONLY));
}

static void personalities(void)
{
    static const struct {
        const char *name;
        unsigned long value;
    } KINDS[] = {{"without address randomization", ADDR_NO_RANDOMIZE},
                 {"with readable code executable", READ_IMPLIES_EXEC},
                 {"with page zero mapped", MMAP_PAGE_ZERO}};
    char what[64];
    for (size_t i = 0; i < sizeof KINDS / sizeof *KINDS; i++) {
        snprintf(what, sizeof what, "personality %s", KINDS[i].name);
        REFUSED(what, personality(KINDS[i].value), EINVAL);
    }
}

static void processor(void)
{
#ifdef __x86_64__
    struct {
        unsigned entry, base, limit, flags;
    } segment = {0, 0, 1, 0x51};
    refused("modify_ldt", syscall(SYS_modify_ldt, 1, &segment, sizeof segment));
    refused("iopl", syscall(SYS_iopl, 3));
    refused("ioperm", syscall(SYS_ioperm, 0x70, 2, 1));
#else
    held("modify_ldt, iopl, ioperm: this processor has none");
#endif
}

#ifdef __x86_64__
static long call_32_bit(long number, long argument)
{
    long result;
    __asm__ volatile("int $0x80"
                     : "=a"(result)
                     : "a"(number), "b"(argument), "c"(0), "d"(0), "S"(0), "D"(0)
                     : "memory", "r8", "r9", "r10", "r11");
    errno = result < 0 ? (int)-result : 0;
    return result < 0 ? -1 : result;
}

/* In a process of its own, because a filter may kill the process that makes such a call. */
static void try_other_call(const char *name, bool x32, long number, long argument)
{
    int status = 0;
    pid_t child = fork();
    if (child == 0) {
        refused(name, x32 ? syscall(0x40000000 | number, argument, 0, 0, 0, 0)
                          : call_32_bit(number, argument));
        _exit(0);
    }
    if (child < 0 || waitpid(child, &status, 0) < 0)
        untried("%s: %s", name, strerror(errno));
    else if (WIFSIGNALED(status) && (WTERMSIG(status) == SIGSYS || WTERMSIG(status) == SIGSEGV))
        held("%s: killed by signal %d", name, WTERMSIG(status));
}
#endif

static void other_calls(void)
{
#ifdef __x86_64__
    try_other_call("unshare by int 0x80", false, 310, CLONE_NEWUSER);
    try_other_call("mount by int 0x80", false, 21, 0);
    try_other_call("bpf by int 0x80", false, 357, 0);
    try_other_call("init_module by int 0x80", false, 128, 0);
    try_other_call("unshare by its x32 number", true, SYS_unshare, CLONE_NEWUSER);
    try_other_call("mount by its x32 number", true, SYS_mount, 0);
#else
    held("32-bit and x32 system calls: this processor has none");
#endif
}

static void sockets(void)
{
    static const struct {
        const char *name;
        int family, type, protocol;
    } KINDS[] = {{"AF_ALG", 38, SOCK_SEQPACKET, 0},   {"AF_VSOCK", 40, SOCK_STREAM, 0},
                 {"AF_TIPC", 30, SOCK_SEQPACKET, 0},  {"AF_RDS", 21, SOCK_SEQPACKET, 0},
                 {"AF_CAN", 29, SOCK_RAW, 1},         {"AF_BLUETOOTH", 31, SOCK_RAW, 1},
                 {"AF_XDP", 44, SOCK_RAW, 0},         {"AF_KCM", 41, SOCK_DGRAM, 0},
                 {"AF_KEY", 15, SOCK_RAW, 2},         {"AF_NFC", 39, SOCK_SEQPACKET, 1},
                 {"AF_SMC", 43, SOCK_STREAM, 0},      {"AF_QIPCRTR", 42, SOCK_DGRAM, 0},
                 {"AF_PACKET", AF_PACKET, SOCK_RAW, 0}};
    for (size_t i = 0; i < sizeof KINDS / sizeof *KINDS; i++)
        REFUSED(KINDS[i].name,
                socket(KINDS[i].family, KINDS[i].type | SOCK_CLOEXEC, KINDS[i].protocol),
                EAFNOSUPPORT, EPROTONOSUPPORT, ESOCKTNOSUPPORT, EINVAL);
    REFUSED("raw IP", socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, 1), EPROTONOSUPPORT,
            ESOCKTNOSUPPORT);
    REFUSED("raw IPv6", socket(AF_INET6, SOCK_RAW | SOCK_CLOEXEC, 58), EAFNOSUPPORT,
            EPROTONOSUPPORT, ESOCKTNOSUPPORT);
}

/* For a type of socket that it doesn't know, the kernel looks for a module. */
static void socket_types(void)
{
    static const struct {
        const char *name;
        int family, type;
    } KINDS[] = {{"SOCK_DCCP", AF_INET, 6},          {"SOCK_DCCP of IPv6", AF_INET6, 6},
                 {"SOCK_SEQPACKET", AF_INET, 5},     {"SOCK_SEQPACKET of IPv6", AF_INET6, 5},
                 {"SOCK_RDM", AF_INET, 4},           {"SOCK_PACKET", AF_INET, 10},
                 {"a type that there isn't", AF_INET, 9}};
    for (size_t i = 0; i < sizeof KINDS / sizeof *KINDS; i++) {
        int fd = socket(KINDS[i].family, KINDS[i].type | SOCK_CLOEXEC, 0);
        if (fd < 0 && (errno == EPERM || errno == EACCES || errno == ENOSYS))
            held("%s: %s", KINDS[i].name, strerror(errno));
        else
            escaped("%s: the kernel was asked: %s", KINDS[i].name, fd < 0 ? strerror(errno) : "yes");
    }
}

/* A pattern that begins with | names a program that the host starts as root for each crash. Only a
 * limit of 1 byte for core files prevents it. */
static void crash_handler(void)
{
    struct rlimit limit, none = {0, 0};
    char pattern[128];
    if (read_file("/proc/sys/kernel/core_pattern", pattern, sizeof pattern) <= 0) {
        held("core_pattern: it can't be read here");
        return;
    }
    pattern[strcspn(pattern, "\n")] = '\0';
    setrlimit(RLIMIT_CORE, &none);
    if (getrlimit(RLIMIT_CORE, &limit) == 0 && limit.rlim_cur == 1)
        held("a crash starts nothing, core_pattern is %s", pattern);
    else if (pattern[0] == '|')
        escaped("each crash starts a process of root's on the host, core_pattern is %s", pattern);
    else
        escaped("the limit of core files is not 1 byte, which keeps a crash from starting a handler");
}

static void clocks(void)
{
    struct timespec now;
    struct timeval old;
    struct timex change = {.modes = ADJ_TICK, .tick = 10000};
    clock_gettime(CLOCK_REALTIME, &now);
    gettimeofday(&old, NULL);
    refused("clock_settime", clock_settime(CLOCK_REALTIME, &now));
    refused("settimeofday", settimeofday(&old, NULL));
    refused("adjtimex", adjtimex(&change));
}

static void machine(void)
{
    refused("sethostname", sethostname("attacked", 8));
    refused("setdomainname", setdomainname("attacked", 8));
    refused("swapon", syscall(SYS_swapon, "/no-such-file", 0));
    refused("swapoff", syscall(SYS_swapoff, "/no-such-file"));
    refused("reboot", syscall(SYS_reboot, 0xfee1dead, 672274793, 0x12345, NULL));
    refused("acct", syscall(SYS_acct, "/no-such-file"));
    REFUSED("quotactl", syscall(SYS_quotactl, 0x80000200, "/dev/vda", 0, NULL), ENOENT, ENOTBLK);
    refused("vhangup", syscall(SYS_vhangup));
#ifdef SYS_lookup_dcookie
    refused("lookup_dcookie", syscall(SYS_lookup_dcookie, 0, NULL, 0));
#endif
}

const struct attack kernel[] = {
    {"cgroups", cgroups},
    {"sysfs", sysfs},
    {"kernel-settings", kernel_settings},
    {"devices", devices},
    {"terminals", terminals},
    {"bpf", bpf},
    {"perf-events", perf_events},
    {"io-uring", io_uring},
    {"keyrings", keys},
    {"userfaultfd", userfault},
    {"modules", modules_and_kexec},
    {"file-handles", file_handles},
    {"personality", personalities},
    {"processor", processor},
    {"other-call-numbers", other_calls},
    {"socket-families", sockets},
    {"socket-types", socket_types},
    {"crash-handler", crash_handler},
    {"clocks", clocks},
    {"machine", machine},
    {NULL, NULL},
};
