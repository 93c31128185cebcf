/* Ways out: privileges, namespaces, file systems and interfaces of the kernel. */
#define _GNU_SOURCE
#include "attack.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/ioctl.h>
#include <sys/klog.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/timex.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#ifndef SYS_open_tree
#define SYS_open_tree 428
#define SYS_move_mount 429
#define SYS_fsopen 430
#define SYS_fsmount 432
#define SYS_fspick 433
#endif
#ifndef SYS_clone3
#define SYS_clone3 435
#endif
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#ifndef SYS_pidfd_getfd
#define SYS_pidfd_getfd 438
#endif
#ifndef SYS_mount_setattr
#define SYS_mount_setattr 442
#endif
#ifndef SYS_io_uring_setup
#define SYS_io_uring_setup 425
#endif

/* ---- privileges ---- */

/* The value of a line of /proc/self/status, up to the line's end; NULL where there is none. */
static const char *status(const char *name)
{
    static char text[8192], value[256];
    char line[64];
    read_file("/proc/self/status", text, sizeof text);
    snprintf(line, sizeof line, "\n%s:", name);
    const char *at = strstr(text, line);
    if (!at)
        return NULL;
    at += strlen(line);
    at += strspn(at, "\t ");
    size_t length = strcspn(at, "\n");
    snprintf(value, sizeof value, "%.*s", (int)length, at);
    return value;
}

static void is_zero(const char *name)
{
    const char *value = status(name);
    if (!value)
        untried("%s: the kernel doesn't say", name);
    else if (strspn(value, "0") == strlen(value))
        held("%s: 0", name);
    else
        escaped("%s: %s", name, value);
}

static void capabilities(void)
{
    struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2] = {{~0U, ~0U, ~0U}, {~0U, ~0U, ~0U}};
    is_zero("CapInh");
    is_zero("CapPrm");
    is_zero("CapEff");
    is_zero("CapBnd");
    if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, 21, 0, 0) >= 0)
        is_zero("CapAmb"); /* gVisor's kernel has none */
    refused("capset of all", syscall(SYS_capset, &head, data));
    REFUSED("an ambient capability", prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, 21, 0, 0), EINVAL);
    REFUSED("securebits", prctl(PR_SET_SECUREBITS, 0x2f, 0, 0, 0), EINVAL);
}

static void no_new_privileges(void)
{
    int set = prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0);
    if (set == 1)
        held("NoNewPrivs: 1");
    else
        escaped("NoNewPrivs: %d", set);
    refused("take NoNewPrivs back", prctl(PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0) == 0 ? 0
                                    : (errno = errno == EINVAL ? EPERM : errno, -1));
}

/* Without a profile the runner gives itself a small filter, so that there is one says little: calls
 * that no program of a sandbox needs, and that the kernel lets everybody make, must be refused. */
static void seccomp_filter(void)
{
    const char *mode = status("Seccomp");
    if (!mode)
        untried("Seccomp: the kernel doesn't say");
    else if (strcmp(mode, "2") == 0)
        held("Seccomp: a filter");
    else
        escaped("Seccomp: %s, which is no filter", mode);
    refused("keyctl", syscall(SYS_keyctl, 0 /* get id */, -4 /* the user's keyring */, 1));
    refused("mbind", syscall(SYS_mbind, NULL, 0, 0, NULL, 0, 0));
    /* Not by mmap(): musl's calls every refusal a lack of memory. */
    refused("huge pages, which no container's memory counts",
            syscall(SYS_mmap, NULL, 2 << 20, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB,
                    -1, 0));
}

static void become_root(void)
{
    gid_t root = 0;
    refused("setuid(0)", setuid(0));
    refused("setresuid(0)", setresuid(0, 0, 0));
    refused("setgid(0)", setgid(0));
    refused("setresgid(0)", setresgid(0, 0, 0));
    refused("setgroups(0)", setgroups(1, &root));
    setfsuid(0);
    if (setfsuid((uid_t)-1) == 0)
        escaped("setfsuid(0): it was allowed");
    else
        held("setfsuid(0): unchanged");
    if (getuid() == 0 || geteuid() == 0)
        escaped("programs run as root");
    else
        held("programs run as user %d", (int)getuid());
}

static int setuid_found;
static char setuid_path[PATH_MAX];

static int note_setuid(const char *path)
{
    struct stat about;
    if (lstat(path, &about) == 0 && S_ISREG(about.st_mode) &&
        (about.st_mode & (S_ISUID | S_ISGID)) && access(path, X_OK) == 0) {
        setuid_found++;
        snprintf(setuid_path, sizeof setuid_path, "%s", path);
    }
    return 0;
}

/* Debian's images have some (su, mount, passwd): what counts is that they give nothing. */
static void setuid_programs(void)
{
    static const char *const FOLDERS[] = {"/bin", "/usr/bin", "/sbin", "/usr/sbin",
                                          "/usr/lib", "/usr/local/bin"};
    for (size_t i = 0; i < sizeof FOLDERS / sizeof *FOLDERS; i++)
        walk(FOLDERS[i], 2, note_setuid);
    bool usable = prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1;
    if (setuid_found && usable)
        escaped("%d set-user-ID programs can be used, such as %s", setuid_found, setuid_path);
    else
        held("set-user-ID programs: %d, none of use", setuid_found);
    int fd = open("own", O_WRONLY | O_CREAT | O_CLOEXEC, 0700);
    refused("give a file to root", fchown(fd, 0, 0));
    if (fd >= 0)
        close(fd);
}

static void file_capabilities(void)
{
    static const unsigned char ALL[20] = {1, 0, 0, 2, 255, 255, 255, 255};
    int fd = open("capable", O_WRONLY | O_CREAT | O_CLOEXEC, 0700);
    if (fd < 0)
        untried("a file of one's own: %s", strerror(errno));
    else
        REFUSED("capabilities of a file",
                fsetxattr(fd, "security.capability", ALL, sizeof ALL, 0), ENOTSUP);
}

/* ---- file systems ---- */

static void mounts(void)
{
    mkdir("m", 0700);
    refused("mount a tmpfs", mount("x", "m", "tmpfs", 0, NULL));
    refused("mount /proc", mount("proc", "m", "proc", 0, NULL));
    refused("mount /sys", mount("sysfs", "m", "sysfs", 0, NULL));
    refused("mount a cgroup", mount("cgroup", "m", "cgroup", 0, "memory"));
    refused("mount cgroup2", mount("cgroup2", "m", "cgroup2", 0, NULL));
    refused("mount an overlay",
            mount("overlay", "m", "overlay", 0, "lowerdir=/etc:/usr"));
    refused("bind /", mount("/", "m", NULL, MS_BIND, NULL));
    refused("make / shared", mount(NULL, "/", NULL, MS_SHARED | MS_REC, NULL));
}

static void remounts(void)
{
    refused("remount / writable", mount(NULL, "/", NULL, MS_REMOUNT, NULL));
    refused("remount / as a bind", mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND, NULL));
    refused("remount /proc/sys writable",
            mount(NULL, "/proc/sys", NULL, MS_REMOUNT | MS_BIND, NULL));
    refused("remount /sys writable", mount(NULL, "/sys", NULL, MS_REMOUNT | MS_BIND, NULL));
    refused("remount /tmp with devices", mount(NULL, "/tmp", NULL, MS_REMOUNT, "size=100%"));
}

static void umounts(void)
{
    static const char *const OVER[] = {"/proc/keys", "/proc/sys", "/sys/firmware", "/proc/acpi",
                                       "/tmp", "/sys"};
    char what[64];
    for (size_t i = 0; i < sizeof OVER / sizeof *OVER; i++) {
        snprintf(what, sizeof what, "unmount %s", OVER[i]);
        refused(what, umount2(OVER[i], MNT_DETACH));
    }
}

static void new_mounts(void)
{
    uint64_t attributes[4] = {0};
    refused("fsopen", syscall(SYS_fsopen, "tmpfs", 0));
    refused("fspick", syscall(SYS_fspick, AT_FDCWD, "/", 0));
    refused("fsmount", syscall(SYS_fsmount, -1, 0, 0));
    refused("open_tree", syscall(SYS_open_tree, AT_FDCWD, "/", 1 /* OPEN_TREE_CLONE */));
    refused("move_mount", syscall(SYS_move_mount, AT_FDCWD, "/tmp", AT_FDCWD, "/tmp", 0));
    refused("mount_setattr",
            syscall(SYS_mount_setattr, AT_FDCWD, "/", 0, attributes, sizeof attributes));
}

static void change_root(void)
{
    refused("chroot", chroot("/tmp"));
    REFUSED("pivot_root", syscall(SYS_pivot_root, "/tmp", "/tmp"), EBUSY);
}

static void root_file_system(void)
{
    static const char *const PLACES[] = {"/x", "/etc/x", "/usr/bin/x", "/usr/lib/x", "/root/x",
                                         "/var/tmp/x", "/run/x", "/dev/x", "/home/x", "/boot/x",
                                         "/opt/x", "/srv/x", "/mnt/x"};
    char what[64];
    for (size_t i = 0; i < sizeof PLACES / sizeof *PLACES; i++) {
        int fd = open(PLACES[i], O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        int error = errno;
        if (fd >= 0) {
            unlink(PLACES[i]);
            close(fd);
        }
        snprintf(what, sizeof what, "make %s", PLACES[i]);
        errno = error;
        REFUSED(what, fd, ENOENT);
    }
    cannot_write("/etc/passwd");
    cannot_write("/etc/ld.so.cache");
    cannot_write("/bin/sh");
    char text[65536];
    read_file("/proc/self/mounts", text, sizeof text);
    const char *root = strstr(text, " / ");
    const char *options = root ? strchr(root + 3, ' ') : NULL;
    if (!options)
        untried("how / is mounted: /proc/self/mounts doesn't say");
    else if (strncmp(options + 1, "ro", 2) == 0)
        held("/ is mounted read-only");
    else
        escaped("/ is mounted writable");
}

static void bind_mounts(void)
{
    char place[PATH_MAX];
    cannot_write("/etc/resolv.conf");
    cannot_write("/etc/hosts");
    cannot_write("/etc/hostname");
    snprintf(place, sizeof place, "%s/x", fact("runner-folder"));
    refused("a file in the runner's folder",
            open(place, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0700));
}

/* ---- namespaces ---- */

static long try_clone(unsigned long flags)
{
    long child = syscall(SYS_clone, flags | SIGCHLD, NULL, NULL, NULL, NULL);
    if (child == 0)
        _exit(0);
    int error = errno;
    if (child > 0)
        waitpid((pid_t)child, NULL, 0);
    errno = error;
    return child;
}

static void user_namespaces(void)
{
    uint64_t arguments[11] = {CLONE_NEWUSER, 0, 0, 0, SIGCHLD};
    refused("unshare the user namespace", unshare(CLONE_NEWUSER));
    refused("clone into a user namespace", try_clone(CLONE_NEWUSER));
    long child = syscall(SYS_clone3, arguments, sizeof arguments);
    if (child == 0)
        _exit(0);
    refused("clone3 into a user namespace", child);
}

static void other_namespaces(void)
{
    static const struct {
        const char *name;
        int flag;
    } KINDS[] = {{"mount", CLONE_NEWNS}, {"network", CLONE_NEWNET}, {"pid", CLONE_NEWPID},
                 {"ipc", CLONE_NEWIPC},  {"uts", CLONE_NEWUTS},     {"cgroup", 0x02000000},
                 {"time", 0x00000080}};
    char what[64];
    for (size_t i = 0; i < sizeof KINDS / sizeof *KINDS; i++) {
        snprintf(what, sizeof what, "unshare the %s namespace", KINDS[i].name);
        REFUSED(what, unshare(KINDS[i].flag), EINVAL);
        if (KINDS[i].flag == 0x00000080)
            continue; /* of clone, this bit is part of the signal's number */
        snprintf(what, sizeof what, "clone into a %s namespace", KINDS[i].name);
        refused(what, try_clone((unsigned long)KINDS[i].flag));
    }
}

static void enter_namespaces(void)
{
    static const char *const KINDS[] = {"mnt", "net", "pid", "ipc", "uts", "user", "cgroup"};
    char path[64];
    for (size_t process = 0; process < 2; process++)
        for (size_t i = 0; i < sizeof KINDS / sizeof *KINDS; i++) {
            snprintf(path, sizeof path, "/proc/%s/ns/%s", process ? "self" : "1", KINDS[i]);
            int fd = open(path, O_RDONLY | O_CLOEXEC);
            if (fd < 0) {
                REFUSED(path, fd, ENOENT);
                continue;
            }
            long result = setns(fd, 0);
            int error = errno;
            close(fd);
            errno = error;
            REFUSED(path, result, EINVAL, EUSERS);
        }
}

/* ---- the runner's process ---- */

static void proc_of_runner(void)
{
    static const char *const FILES[] = {"environ", "maps", "auxv", "stack", "syscall", "io",
                                        "pagemap", "smaps", "task/1/environ", "task/1/maps",
                                        "timerslack_ns", "personality"};
    static const char *const LINKS[] = {"exe", "cwd", "root", "fd/0", "fd/1", "ns/mnt"};
    char path[64], target[256];
    for (size_t i = 0; i < sizeof FILES / sizeof *FILES; i++) {
        snprintf(path, sizeof path, "/proc/1/%s", FILES[i]);
        cannot_read(path);
    }
    for (size_t i = 0; i < sizeof LINKS / sizeof *LINKS; i++) {
        snprintf(path, sizeof path, "/proc/1/%s", LINKS[i]);
        REFUSED(path, readlink(path, target, sizeof target), ENOENT);
    }
}

static void write_proc_of_runner(void)
{
    static const char *const WRITES[] = {"mem", "oom_score_adj", "oom_adj", "clear_refs",
                                         "coredump_filter", "comm", "autogroup",
                                         "uid_map", "gid_map", "setgroups", "sched", "fd/0",
                                         "fd/1", "timens_offsets"};
    char path[64];
    for (size_t i = 0; i < sizeof WRITES / sizeof *WRITES; i++) {
        snprintf(path, sizeof path, "/proc/1/%s", WRITES[i]);
        cannot_write(path);
    }
}

static void trace_runner(void)
{
    refused("PTRACE_ATTACH", ptrace(PTRACE_ATTACH, 1, NULL, NULL));
    REFUSED("PTRACE_SEIZE", ptrace(PTRACE_SEIZE, 1, NULL, NULL), EIO);
    REFUSED("kcmp with the runner", syscall(SYS_kcmp, getpid(), 1, 0, 0, 0), ESRCH);
}

static void memory_of_runner(void)
{
    char data[8];
    struct iovec local = {data, sizeof data}, remote = {(void *)0x400000, sizeof data};
    refused("process_vm_readv", process_vm_readv(1, &local, 1, &remote, 1, 0));
    refused("process_vm_writev", process_vm_writev(1, &local, 1, &remote, 1, 0));
    cannot_read("/proc/1/mem");
    cannot_write("/proc/1/mem");
}

static void descriptors_of_runner(void)
{
    int pidfd = (int)syscall(SYS_pidfd_open, 1, 0);
    if (pidfd < 0) {
        refused("pidfd_open", pidfd);
        return;
    }
    refused("pidfd_getfd of its stdin", syscall(SYS_pidfd_getfd, pidfd, 0, 0));
    refused("pidfd_getfd of its stdout", syscall(SYS_pidfd_getfd, pidfd, 1, 0));
}

/* ---- what the kernel lets be set ---- */

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
    if (strcmp(path, "/dev/fuse") != 0) /* gVisor always shows it: whether it opens is what counts */
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

/* In a process of its own: a filter may kill whoever makes such a call. */
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

const struct attack escapes[] = {
    {"capabilities", capabilities},
    {"no-new-privileges", no_new_privileges},
    {"seccomp", seccomp_filter},
    {"become-root", become_root},
    {"setuid-programs", setuid_programs},
    {"file-capabilities", file_capabilities},
    {"mounts", mounts},
    {"new-mount-calls", new_mounts},
    {"remounts", remounts},
    {"unmounts", umounts},
    {"change-root", change_root},
    {"root-file-system", root_file_system},
    {"bind-mounts", bind_mounts},
    {"user-namespaces", user_namespaces},
    {"other-namespaces", other_namespaces},
    {"enter-namespaces", enter_namespaces},
    {"runner-proc", proc_of_runner},
    {"runner-proc-write", write_proc_of_runner},
    {"trace-runner", trace_runner},
    {"runner-memory", memory_of_runner},
    {"runner-descriptors", descriptors_of_runner},
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
    {"clocks", clocks},
    {"machine", machine},
    {NULL, NULL},
};
