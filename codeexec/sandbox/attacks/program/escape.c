/* Ways out: privileges, file systems, namespaces and the runner's process. */
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
#include <string.h>
#include <sys/fsuid.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <sys/xattr.h>
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
        untried("%s: the kernel doesn't show it", name);
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

/* Without a profile the runner gives itself a small filter, so the existence of a filter proves little.
 * Calls that no program of a sandbox needs and that the kernel allows to all must be refused. */
static void seccomp_filter(void)
{
    const char *mode = status("Seccomp");
    if (!mode)
        untried("Seccomp: the kernel doesn't show it");
    else if (strcmp(mode, "2") == 0)
        held("Seccomp: a filter");
    else
        escaped("Seccomp: %s, which is no filter", mode);
    refused("keyctl", syscall(SYS_keyctl, 0 /* get id */, -4 /* the user's keyring */, 1));
    refused("mbind", syscall(SYS_mbind, NULL, 0, 0, NULL, 0, 0));
    /* Not with mmap(): musl's reports every refusal as a lack of memory. */
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

/* Debian's images have some (su, mount, passwd): they must give no privileges. */
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
        held("set-user-ID programs: %d, and none gives privileges", setuid_found);
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
                                         "/var/lib/x", "/run/x", "/dev/x", "/home/x", "/boot/x",
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
        untried("how / is mounted: /proc/self/mounts doesn't show it");
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
            continue; /* for clone, this bit is part of the signal's number */
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
            close_keeping_errno(fd);
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
    {NULL, NULL},
};
