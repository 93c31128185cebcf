/* Learning secrets: of the service, of its host, of other sessions. */
#define _GNU_SOURCE
#include "attack.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/klog.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/utsname.h>
#include <unistd.h>

extern char **environ;

static char big[1024 * 1024];

static bool is_number(const char *name)
{
    return *name && name[strspn(name, "0123456789")] == '\0';
}

/* ---- the service ---- */

static const char *const SECRET_WORDS[] = {"TOKEN", "SECRET", "PASSWORD", "PASSWD", "DATABASE",
                                           "POSTGRES", "DJANGO", "DOCKER", "API_KEY",
                                           "CREDENTIAL", "CODE_EXECUTOR", "NODE_NAME", "AWS_"};

static bool is_a_secret(const char *variable)
{
    char name[128];
    size_t length = strcspn(variable, "=");
    snprintf(name, sizeof name, "%.*s", (int)(length < 127 ? length : 127), variable);
    for (size_t i = 0; i < sizeof SECRET_WORDS / sizeof *SECRET_WORDS; i++)
        if (strcasestr(name, SECRET_WORDS[i])) {
            escaped("a variable of the service: %s", name);
            return true;
        }
    return false;
}

static void environment(void)
{
    int secrets = 0, count = 0;
    for (char **variable = environ; *variable; variable++, count++)
        secrets += is_a_secret(*variable);
    if (!secrets)
        held("environment: %d variables, none of the service's", count);
}

/* The token must be nowhere in what can be read of any process, the runner included. */
static void runner_token(void)
{
    static const char *const FILES[] = {"environ", "cmdline", "stat", "status", "maps", "auxv"};
    DIR *proc = opendir("/proc");
    struct dirent *entry;
    size_t bytes = 0;
    bool found = false;
    char path[PATH_MAX];
    while (proc && (entry = readdir(proc))) {
        if (!is_number(entry->d_name))
            continue;
        for (size_t i = 0; i < sizeof FILES / sizeof *FILES; i++) {
            snprintf(path, sizeof path, "/proc/%s/%s", entry->d_name, FILES[i]);
            ssize_t got = read_file(path, big, sizeof big);
            bytes += got > 0 ? (size_t)got : 0;
            found |= got > 0 && memmem(big, (size_t)got, "RUNNER_" "TOKEN=", 13);
        }
    }
    if (proc)
        closedir(proc);
    if (bytes < 500)
        untried("the runner's token: /proc has only %zu bytes", bytes);
    else if (found)
        escaped("the runner's token can be read");
    else
        held("the runner's token: in none of %zu bytes of /proc", bytes);
}

static int sockets_found;

static int note_socket(const char *path)
{
    struct stat about;
    if (lstat(path, &about) == 0 && S_ISSOCK(about.st_mode)) {
        escaped("a socket is there: %s", path);
        sockets_found++;
    }
    return 0;
}

static void engine_socket(void)
{
    static const char *const PLACES[] = {
        "/var/run/docker.sock", "/run/docker.sock", "/docker.sock", "/tmp/docker.sock",
        "/run/containerd/containerd.sock", "/run/podman/podman.sock", "/run/crio/crio.sock",
        "/run/systemd/private", "/run/dbus/system_bus_socket"};
    char what[128];
    for (size_t i = 0; i < sizeof PLACES / sizeof *PLACES; i++) {
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        strcpy(address.sun_path, PLACES[i]);
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        int connected = connect(fd, (struct sockaddr *)&address, sizeof address);
        close_keeping_errno(fd);
        snprintf(what, sizeof what, "connect to %s", PLACES[i]);
        if (connected < 0 && access(PLACES[i], F_OK) == 0)
            escaped("%s is there", PLACES[i]);
        else
            REFUSED(what, connected, ENOENT, ENOTDIR);
    }
    walk("/run", 3, note_socket);
    walk("/var", 3, note_socket);
    walk("/", 1, note_socket);
    walk("/opt", 3, note_socket);
}

/* ---- other sessions ---- */

/* What the runner keeps ready for the next run, which no program can look into. */
static bool is_kept_ready(long pid, long long *left)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%ld/mem", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0)
        close(fd);
    return fd < 0 && errno == EACCES && (*left)-- > 0;
}

static void other_processes(void)
{
    DIR *proc = opendir("/proc");
    struct dirent *entry;
    int count = 0, strange = 0;
    long long ready = fact_number("kept-ready");
    while (proc && (entry = readdir(proc)))
        if (is_number(entry->d_name)) {
            long pid = strtol(entry->d_name, NULL, 10);
            count++;
            if (pid != 1 && pid != getpid() && !is_kept_ready(pid, &ready)) {
                strange++;
                escaped("process %ld, which is neither the runner nor this program, is seen", pid);
            }
        }
    if (proc)
        closedir(proc);
    if (count == 0)
        untried("other processes: /proc can't be listed");
    else if (!strange)
        held("other processes: none of %d", count);
    char name[64];
    read_file("/proc/1/comm", name, sizeof name);
    if (strncmp(name, "runner", 6) == 0)
        held("process 1 is the runner");
    else
        escaped("process 1 is %s", name);
}

static const char *mark;
static int marks, places_looked_at;

static int note_mark(const char *path)
{
    char text[4096];
    struct stat about;
    places_looked_at++;
    if (strstr(path, mark)) {
        marks++;
        escaped("another session's file is seen: %s", path);
    }
    if (lstat(path, &about) == 0 && S_ISREG(about.st_mode) && about.st_size < 4096 &&
        read_file(path, text, sizeof text) > 0 && strstr(text, mark)) {
        marks++;
        escaped("another session's text is read: %s", path);
    }
    return places_looked_at > 50000;
}

/* The bystander has left a mark in each place to which it can write. */
static void other_files(void)
{
    static const char *const FOLDERS[] = {"/tmp", "/dev/shm", "/dev/mqueue", "/run", "/var/tmp",
                                          "/var/lib/docker", "/mnt", "/media", "/home"};
    char workspace[PATH_MAX];
    mark = strdup(fact("mark"));
    if (!*mark || !getcwd(workspace, sizeof workspace)) {
        untried("other sessions' files: there is no mark to look for");
        return;
    }
    walk(workspace, 4, note_mark);
    for (size_t i = 0; i < sizeof FOLDERS / sizeof *FOLDERS; i++)
        walk(FOLDERS[i], 4, note_mark);
    walk("/proc/sysvipc", 1, note_mark);
    if (!marks)
        held("other sessions' files: none in %d places", places_looked_at);
}

/* Runs in the bystander before the attacks: leaves the mark. */
static void leave_mark(void)
{
    char path[PATH_MAX], workspace[PATH_MAX];
    const char *const folders[] = {getcwd(workspace, sizeof workspace), "/tmp", "/dev/shm"};
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        snprintf(path, sizeof path, "%s/%s", folders[i], fact("mark"));
        int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
        if (fd >= 0 && write(fd, fact("mark"), strlen(fact("mark"))) > 0)
            close(fd);
    }
    held("a mark: left");
}

/* ---- the host ---- */

static void names_in(const char *path, const char *kind)
{
    size_t at = 0;
    const char *value;
    ssize_t got = read_file(path, big, sizeof big);
    bool found = false;
    while (got > 0 && (value = next_fact(kind, &at)))
        if (contains_word(big, value)) {
            escaped("%s shows the host's %s", path, kind);
            found = true;
        }
    if (!found)
        held("%s: no %s of the host", path, kind);
}

static void host_names(void)
{
    static const char *const FILES[] = {"/etc/hostname", "/etc/hosts", "/etc/resolv.conf",
                                        "/etc/machine-id", "/proc/sys/kernel/hostname",
                                        "/proc/self/environ", "/proc/sys/kernel/domainname",
                                        "/proc/net/unix"};
    struct utsname about;
    if (!*fact("name"))
        untried("the host's name: it isn't known");
    uname(&about);
    if (strcmp(about.nodename, fact("name")) == 0)
        escaped("the host's name is the sandbox's: %s", about.nodename);
    else
        held("host name: %s", about.nodename);
    for (size_t i = 0; i < sizeof FILES / sizeof *FILES; i++)
        names_in(FILES[i], "name");
}

/* The host's addresses in files, and its connections. */
static void host_addresses(void)
{
    static const char *const FILES[] = {"/etc/hosts", "/etc/resolv.conf", "/proc/net/fib_trie",
                                        "/proc/net/route", "/proc/net/arp", "/proc/net/tcp",
                                        "/proc/net/udp", "/proc/net/if_inet6", "/proc/net/dev",
                                        "/proc/net/dev_mcast", "/proc/cmdline",
                                        "/proc/self/mountinfo"};
    size_t at = 0;
    if (!next_fact("address", &at))
        untried("the host's addresses: they aren't known");
    for (size_t i = 0; i < sizeof FILES / sizeof *FILES; i++)
        names_in(FILES[i], "address");
    names_in("/etc/resolv.conf", "resolver");
    if (access("/proc/net/tcp", R_OK) == 0) {
        ssize_t got = read_file("/proc/net/tcp", big, sizeof big);
        int lines = 0;
        for (ssize_t i = 0; i < got; i++)
            lines += big[i] == '\n';
        if (lines <= 1)
            held("connections: none is visible");
        else
            escaped("connections: %d are visible", lines - 1);
    }
}

/* Anything that is mounted elsewhere than in these places belongs to the host. */
static void mount_points(void)
{
    static const char *const EXPECTED[] = {"/proc", "/dev", "/sys", "/etc/resolv.conf",
                                           "/etc/hostname", "/etc/hosts", "/etc/passwd", "/tmp",
                                           "/var/tmp"};
    char workspace[PATH_MAX], *line, *rest = big, *save;
    int count = 0, strange = 0;
    if (read_file("/proc/self/mounts", big, sizeof big) <= 0 ||
        !getcwd(workspace, sizeof workspace)) {
        untried("mounts: /proc/self/mounts can't be read");
        return;
    }
    for (; (line = strtok_r(rest, "\n", &save)); rest = NULL, count++) {
        char *place = strchr(line, ' ');
        if (!place)
            continue;
        *strchrnul(++place, ' ') = '\0';
        bool known = strcmp(place, "/") == 0 || strcmp(place, workspace) == 0 ||
                     strcmp(place, fact("runner-folder")) == 0;
        for (size_t i = 0; i < sizeof EXPECTED / sizeof *EXPECTED; i++) {
            size_t length = strlen(EXPECTED[i]);
            known |= strncmp(place, EXPECTED[i], length) == 0 &&
                     (place[length] == '\0' || place[length] == '/');
        }
        if (!known) {
            strange++;
            escaped("%s is mounted", place);
        }
    }
    if (!strange)
        held("mounts: %d, all the sandbox's own", count);
}

/* ---- the kernel ---- */

static void kernel_addresses(void)
{
    const char *at;
    if (read_file("/proc/kallsyms", big, 65536) <= 0) {
        REFUSED("/proc/kallsyms", -1, ENOENT);
    } else {
        at = big;
        while (*at == '0' || isspace((unsigned char)*at))
            at++;
        if (at - big >= 16)
            held("/proc/kallsyms: addresses are zeros");
        else
            escaped("/proc/kallsyms: shows addresses");
    }
    if (read_file("/proc/iomem", big, 65536) <= 0) {
        REFUSED("/proc/iomem", -1, ENOENT);
    } else if (strncmp(big, "00000000-00000000", 17) == 0) {
        held("/proc/iomem: addresses are zeros");
    } else {
        escaped("/proc/iomem: shows addresses");
    }
    cannot_read("/proc/kcore");
    cannot_read("/proc/kpagecount");
    cannot_read("/proc/vmallocinfo");
    cannot_read("/proc/slabinfo");
    cannot_read("/sys/module/kernel/sections/.text");
    cannot_read("/sys/kernel/debug/sched");
    cannot_read("/sys/kernel/tracing/trace");
}

static void kernel_log(void)
{
    char text[1024];
    refused("syslog: read all", klogctl(3, text, sizeof text));
    refused("syslog: read", klogctl(2, text, sizeof text));
    refused("syslog: size", klogctl(10, NULL, 0));
    cannot_read("/dev/kmsg");
    cannot_read("/proc/kmsg");
    cannot_read("/sys/fs/pstore");
}

static void hardware(void)
{
    static const char *const FILES[] = {
        "/sys/firmware/dmi/tables/DMI", "/sys/firmware/acpi/tables/DSDT",
        "/sys/firmware/efi/efivars", "/sys/class/dmi/id/product_uuid",
        "/sys/class/dmi/id/product_serial", "/sys/class/dmi/id/board_serial",
        "/sys/class/dmi/id/chassis_serial", "/sys/class/net/eth0/address",
        "/sys/class/powercap/intel-rapl:0/energy_uj"};
    for (size_t i = 0; i < sizeof FILES / sizeof *FILES; i++)
        cannot_read(FILES[i]);
}

static void masked_proc(void)
{
    static const char *const FILES[] = {"/proc/keys", "/proc/timer_list", "/proc/sched_debug",
                                        "/proc/latency_stats", "/proc/timer_stats",
                                        "/proc/scsi/scsi", "/proc/acpi/wakeup"};
    for (size_t i = 0; i < sizeof FILES / sizeof *FILES; i++)
        cannot_read(FILES[i]);
}

/* A new program must have its three streams, and no pipe of the runner. */
static void descriptors(void)
{
    int extra = 0;
    for (int fd = 3; fd < 4096; fd++)
        if (fcntl(fd, F_GETFD) >= 0) {
            extra++;
            escaped("descriptor %d is open", fd);
        }
    if (!extra)
        held("descriptors: no more than the three streams");
}

const struct attack leaks[] = {
    {"environment", environment},
    {"runner-token", runner_token},
    {"inherited-descriptors", descriptors},
    {"engine-socket", engine_socket},
    {"other-processes", other_processes},
    {"other-files", other_files},
    {"host-names", host_names},
    {"host-addresses", host_addresses},
    {"mount-points", mount_points},
    {"kernel-addresses", kernel_addresses},
    {"kernel-log", kernel_log},
    {"hardware", hardware},
    {"masked-proc", masked_proc},
    {"leave-mark", leave_mark},
    {NULL, NULL},
};
